"""Is the time of any use? A score model with and without it; T steps of the reverse process and first hitting.

    python benchmarks/time_input.py --seeds 1 2 3 --out runs/time

First: a small SEDD is trained on ``trace`` with its time, and the same without, from the same weights on the same
batches; the table has their losses over training. Second: the bundled denoiser, which knows no time, is sampled by
``ancestral`` in T steps and by ``first_hitting``, which has the limit of ever more steps at one evaluation for each
token (arXiv 2409.02908). A sampler that looks at every step makes T evaluations; those of steps that reveal nothing
can be saved where the denoiser knows no time, which is what NFE counts.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.eval.metrics import mean
from dllm_env.eval.results import summarise
from dllm_env.train.denoiser import DenoiserTraining, train_denoiser
from dllm_env.train.run import CHECKPOINT


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    training: DenoiserTraining = field(
        default_factory=lambda: DenoiserTraining(
            **{"family": "sedd", "recipe": "trace", "examples": 60_000},
            **{"first_updates": 800, "second_updates": 0, "third_updates": 0},
        )
    )
    """Of the score model, but for seed and time."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Training seeds."""
    steps: tuple[int, ...] = (10, 20, 40, 80, 160, 320)
    """T of the reverse process."""
    block_length: int = 8
    """Of the sampling; in full diffusion a random order is nearly always wrong."""
    problems: int = 500
    """Test problems."""
    out: Path = Path("runs/time")
    """Folder of the runs and the results."""


def losses(settings: Settings, timed: bool, seed: int) -> dict[int, float]:
    """By update, the mean loss of the updates since the one before."""
    training = replace(settings.training, seed=seed, timed=timed)
    folder = settings.out / f"{'timed' if timed else 'timeless'}-{seed}"
    train_denoiser(training, folder, (folder / CHECKPOINT).exists())
    rows: dict[int, float] = {}
    for path in sorted((folder / "logs").glob("progress*.csv"), key=lambda path: path.stat().st_mtime):
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            rows[int(row["time/update"])] = float(row[f"loss/{training.recipe}"])
    return rows


def main(settings: Settings) -> None:
    """Trains what is missing, plays, prints, and writes ``losses.csv`` and ``sampling.csv``."""
    found = {(timed, seed): losses(settings, timed, seed) for timed in (True, False) for seed in settings.seeds}
    names = ("update", "with time", "without", "without − with, by seed")
    table = Table(*names, title=f"mean loss of a score model, {len(settings.seeds)} seeds")
    lines: list[tuple[object, ...]] = []
    for update in next(iter(found.values())):
        with_time, without = ([found[timed, seed][update] for seed in settings.seeds] for timed in (True, False))
        apart = [b - a for a, b in zip(with_time, without, strict=True)]
        lines.append((update, mean(with_time), mean(without), " ".join(f"{one:+.4f}" for one in apart)))
        table.add_row(str(update), f"{mean(with_time):.4f}", f"{mean(without):.4f}", str(lines[-1][-1]))
    console = Console(width=120)
    console.print(table)
    write(settings.out / "losses.csv", names, lines)

    config = EvaluationConfig(
        problems=settings.problems, block_length=(settings.block_length,), max_steps=max(40, *settings.steps)
    )
    policies = ["first_hitting", *(f"ancestral:{steps}" for steps in settings.steps)]
    heads = ("sampler", "accuracy", "95% interval", "NFE", "evaluations of a sampler that looks at every step")
    table, lines = (
        Table(*heads, title=f"{settings.problems} test problems, block length {settings.block_length}"),
        [],
    )
    for result in evaluate(config, policies):
        figures = summarise(result.outcomes)
        name, _, steps = result.setting.policy.partition(":")
        every = steps if name == "ancestral" else f"{figures.nfe:.0f}"
        interval = f"{figures.accuracy_low:.1%} – {figures.accuracy_high:.1%}"
        lines.append((result.setting.policy, figures.accuracy, interval, figures.nfe, every))
        table.add_row(result.setting.policy, f"{figures.accuracy:.1%}", interval, f"{figures.nfe:.1f}", every)
    console.print(table)
    write(settings.out / "sampling.csv", heads, lines)


def write(path: Path, heads: tuple[str, ...], lines: list[tuple[object, ...]]) -> None:
    """A CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([heads, *lines])


if __name__ == "__main__":
    main(tyro.cli(Settings))
