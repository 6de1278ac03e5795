"""How much faster several processes train than one, and whether they get the same weights.

    python benchmarks/processes.py --processes 1 2 --updates 10

Each run is ``dllm-env train grpo`` under ``torchrun``, every process with one thread, from no start and without
validation. Seconds are those of the updates, as the log has them, without loading; the last column says whether the
checkpoint is that of the first run, byte for byte.
"""

from __future__ import annotations

import csv
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import tyro
from rich.console import Console
from rich.table import Table

from dllm_env.train.run import CHECKPOINT


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    processes: tuple[int, ...] = (1, 2)
    """How many, one run after the other."""
    updates: int = 10
    """Updates of a run."""
    arguments: str = "--preset demo --start none --validation-problems 2"
    """Of ``train grpo``, as for a shell: --arguments="--prompts 4"; the same for all runs."""


def run(settings: Settings, processes: int, folder: Path) -> float:
    """Seconds of the updates."""
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "dllm_env", "--"]
    train = [
        "train",
        "grpo",
        *shlex.split(settings.arguments),
        "--updates",
        str(settings.updates),
        "--out",
        str(folder),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *launch, *train, "--validation-rules", "--evaluate-every", "0"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    with (folder / "logs" / "progress.csv").open(encoding="utf-8") as file:
        return sum(float(line["time/update_seconds"]) for line in csv.DictReader(file))


def main(settings: Settings) -> None:
    """Runs, compares and prints."""
    table = Table("processes", "seconds", "of the first", "same weights")
    first, weights = 0.0, b""
    with TemporaryDirectory() as place:
        for processes in settings.processes:
            folder = Path(place) / str(processes)
            seconds = run(settings, processes, folder)
            bits = (folder / CHECKPOINT).read_bytes()
            first, weights = first or seconds, weights or bits
            table.add_row(str(processes), f"{seconds:.1f}", f"{seconds / first:.2f}", str(bits == weights))
    Console(width=100).print(table)


if __name__ == "__main__":
    main(tyro.cli(Settings))
