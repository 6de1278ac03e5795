"""Several trainings at a time, each in a process of one thread: the fastest way through many on few cores."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from rich.console import Console

from dllm_env import consent
from dllm_env.errors import UsageError
from dllm_env.processes import spread
from dllm_env.progress import Bar
from dllm_env.reading import exists
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.run import CHECKPOINT

PRINTED = "printed.txt"
"""In a run's folder: what its training printed."""


def train_several(trainings: Sequence[tuple[GRPO, Path]], workers: int) -> None:
    """Trains what is not trained yet, and goes on where a training was stopped.

    Args:
        trainings: settings, and the folder of the run.
        workers: processes.

    Raises:
        UsageError: no training, no worker, a folder twice, or what a training raises.
    """
    folders = [folder for _, folder in trainings]
    if workers < 1 or not folders or len(set(folders)) < len(folders):
        raise UsageError("several trainings need at least one worker, and a folder for each")
    done = spread(_train, trainings, min(workers, len(trainings)), _prepare, (consent.current(),))
    with Bar(Console(stderr=True, markup=False)) as bar:
        shown = bar.add_task("trainings", total=len(trainings))
        for _ in done:
            bar.update(shown, advance=1)


def _prepare(said: consent.Consent) -> None:
    """In a worker."""
    consent.install(said)
    torch.set_num_threads(1)


def _train(training: tuple[GRPO, Path]) -> None:
    settings, folder = training
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / PRINTED).open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        train_grpo(settings, folder, resume=exists(folder / CHECKPOINT))
