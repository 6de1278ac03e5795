"""Several trainings at a time, each in a process of one thread: the fastest way through many on few cores."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track

from dllm_env.errors import UsageError
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
        UsageError: no worker, a folder twice, or what a training raises.
    """
    folders = [folder for _, folder in trainings]
    if workers < 1 or len(set(folders)) < len(folders):
        raise UsageError("several trainings need at least one worker, and a folder for each")
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=1) as processes:
        running = [processes.apply_async(_train, training) for training in trainings]
        for job in track(running, description="trainings", console=Console(stderr=True)):
            job.get()


def _train(settings: GRPO, folder: Path) -> None:
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / PRINTED).open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        train_grpo(settings, folder, resume=exists(folder / CHECKPOINT))
