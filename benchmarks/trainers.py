"""PPO and GRPO from the same start with the same reward, by the denoiser evaluations that they played.

    python benchmarks/trainers.py --out runs/trainers

Trains what is not there yet, so that a stopped comparison goes on; writes ``trainers.png`` and ``trainers.csv``.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table

from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.eval.results import summarise
from dllm_env.files import write_figure
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.ppo import PPO, train_ppo
from dllm_env.train.run import CHECKPOINT


@dataclass(frozen=True)
class Settings:
    """Settings of the comparison."""

    out: Path = Path("runs/trainers")
    """Folder of the runs and of the picture."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Training seeds of each."""
    problems: int = 1000
    """Test problems of each trained policy."""
    threads: int = 0
    """Processor threads; 0 takes torch's default."""


Trainer = Callable[[Path, int, bool], Path]
TRAINERS: dict[str, Trainer] = {
    "PPO": lambda folder, seed, resume: train_ppo(PPO(seed=seed), folder, resume),
    "GRPO": lambda folder, seed, resume: train_grpo(
        replace(GRPO(seed=seed), imitation=PPO().imitation).changed(alpha=PPO().rewards.alpha, evaluate_every=10),
        folder,
        resume,
    ),
}
STYLES = {"GRPO": ("#D55E00", "o"), "PPO": ("#0072B2", "s")}
FIGURES = {"accuracy": "validation accuracy", "nfe": "validation NFE", "reward": "validation reward"}


def curve(folder: Path) -> list[dict[str, float]]:
    """Evaluations, minutes (validation not counted) and figures at every validation, over all pieces of a run."""
    minutes, points = 0.0, []
    for path in sorted((folder / "logs").glob("progress*.csv"), key=lambda path: path.stat().st_mtime):
        for row in csv.DictReader(path.read_text(encoding="utf-8").splitlines()):
            minutes += float(row["time/update_seconds"]) / 60
            if row.get("validation/accuracy"):
                figures = {name: float(row[f"validation/{name}"]) for name in FIGURES}
                spent = float(row["rollout/denoiser_evaluations"]) / 1000
                points.append({"evaluations": spent, "minutes": minutes, **figures})
    return points


def draw(curves: dict[tuple[str, int], list[dict[str, float]]], path: Path) -> None:
    """A panel for each figure, a line for each run."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.8), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    for panel, (name, label) in zip(figure.subplots(1, len(FIGURES)), FIGURES.items(), strict=True):
        named: set[str] = set()
        for (trainer, _), points in curves.items():
            colour, marker = STYLES[trainer]
            x, y = [point["evaluations"] for point in points], [point[name] for point in points]
            called = None if trainer in named else trainer
            panel.plot(x, y, color=colour, marker=marker, markersize=5, alpha=0.8, label=called)
            named.add(trainer)
        panel.set_xlabel("thousand denoiser evaluations played")
        panel.set_title(label, fontsize=11)
        panel.grid(alpha=0.3)
        panel.set_xlim(left=0)
    figure.axes[0].yaxis.set_major_formatter("{x:.0%}")
    figure.axes[0].legend(frameon=False)
    write_figure(path, figure)


def main(settings: Settings) -> None:
    """Trains, evaluates, prints, and writes table and picture."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    curves, rows = {}, []
    for name, train in TRAINERS.items():
        for seed in settings.seeds:
            folder = settings.out / f"{name.lower()}-{seed}"
            train(folder, seed, (folder / CHECKPOINT).exists())
            curves[name, seed] = curve(folder)
            (result,) = evaluate(EvaluationConfig(problems=settings.problems), [str(folder)])
            found, last = summarise(result.outcomes), curves[name, seed][-1]
            figures = (found.accuracy, found.accuracy_low, found.accuracy_high, found.nfe)
            rows.append((name, seed, *figures, last["evaluations"], last["minutes"]))
            draw(curves, settings.out / "trainers.png")
    columns = ("trainer", "seed", "accuracy", "low", "high", "nfe", "thousand evaluations", "minutes")
    table = Table(*columns, title=f"best checkpoints on {settings.problems:,} test problems, full diffusion")
    for name, seed, *shares, nfe, spent, minutes in rows:
        table.add_row(name, str(seed), *(f"{x:.1%}" for x in shares), *(f"{x:.1f}" for x in (nfe, spent, minutes)))
    Console().print(table)
    with (settings.out / "trainers.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])


if __name__ == "__main__":
    main(tyro.cli(Settings))
