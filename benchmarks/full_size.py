"""A training with a denoiser of published size, without its weights: seconds and memory.

    python benchmarks/full_size.py --folder runs/random-llada-8b --updates 10 --prompts 2 --device cuda

A checkpoint of random weights is made where there is none (``examples/make_checkpoint.py``; 16 GB for LLaDA-8B).
What it writes is noise, so that the reward is speed alone; the rest is the preset.
"""

from __future__ import annotations

import csv
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

from make_checkpoint import MAKERS

from dllm_env.train.grpo import train_grpo
from dllm_env.train.presets import PRESETS
from dllm_env.train.run import machine


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    folder: Path
    """Of the checkpoint, which is made if it is not there."""
    kind: str = "llada-8b"
    """What to make, as examples/make_checkpoint.py calls it."""
    preset: str = "paper"
    """Of ``train grpo``."""
    updates: int = 10
    """Updates."""
    prompts: int = 16
    """Prompts in an update, of eight rows each."""
    response_length: int = 256
    """L."""
    out: Path | None = None
    """Folder of the run, which is kept; without one it is not."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where."""


def speed(*, nfe: Tensor, length: int) -> Tensor:
    """The share of evaluations that a row saved."""
    return 1 - nfe / length


COLUMNS = {
    "time/update_seconds": "seconds",
    "time/denoiser_calls": "calls",
    "time/denoiser_share_of_rollout": "denoiser's share of playing",
    "rollout/nfe": "NFE",
    "rollout/reward": "reward",
    "rollout/groups_without_signal": "without signal",
    "train/gradient_norm": "gradient norm",
    "train/approximate_kl": "KL",
}
"""What is shown of the log."""


def run(settings: Settings, folder: Path) -> None:
    """Trains and prints."""
    denoiser = f"{settings.folder}:dtype=bfloat16" if settings.device != "cpu" else str(settings.folder)
    chosen = PRESETS[settings.preset].changed(
        **{"denoiser": denoiser, "device": settings.device, "response_length": settings.response_length},
        **{"task": "trace", "reward": (f"{__file__}:speed",), "updates": settings.updates, "warmup": 1},
        **{"prompts": settings.prompts, "validation_problems": 2, "validation_rules": (), "evaluate_every": 0},
    )
    train_grpo(chosen, folder)
    table = Table("update", *COLUMNS.values(), title=f"{settings.kind}, preset {settings.preset}")
    with (folder / "logs" / "progress.csv").open(encoding="utf-8") as file:
        for number, line in enumerate(csv.DictReader(file), 1):
            table.add_row(str(number), *(f"{float(line.get(name) or 'nan'):.4g}" for name in COLUMNS))
    Console(width=120).print(table)
    about = machine()
    if settings.device != "cpu":
        peak = f"{torch.cuda.max_memory_allocated() / 2**30:.1f}"
        about |= {"gpu": torch.cuda.get_device_name(), "peak GiB": peak}
    print(", ".join(f"{key}: {value}" for key, value in about.items()))


def main(settings: Settings) -> None:
    """Makes what is missing, trains and prints."""
    if not settings.folder.exists():
        MAKERS[settings.kind](settings.folder)
    if settings.out is not None:
        run(settings, settings.out)
        return
    with TemporaryDirectory() as place:
        run(settings, Path(place) / "run")


if __name__ == "__main__":
    main(tyro.cli(Settings))
