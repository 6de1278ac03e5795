"""Ablation of heads and networks: every combination is trained from several seeds, and all are compared."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from dllm_env.errors import UsageError
from dllm_env.eval.compare import Entry
from dllm_env.eval.evaluate import Evaluation, EvaluationConfig
from dllm_env.eval.metrics import mean
from dllm_env.eval.runner import finish, play
from dllm_env.files import write_atomically, write_figure
from dllm_env.locks import locked
from dllm_env.pareto import FAMILIES, LEARNED, OTHERS, log_area
from dllm_env.policies.heads import load_head
from dllm_env.progress import terminal
from dllm_env.reading import exists
from dllm_env.specs import split
from dllm_env.tasks.base import count_problems
from dllm_env.tasks.load import load_task
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.presets import PRESETS
from dllm_env.train.run import CHECKPOINT

TABLE, PICTURE = "ablation.csv", "ablation.png"

Network = Literal["confidence", "hidden"]
Training = tuple[str, Network, int, Path]
"""Head, network, seed and folder."""


SHORT = PRESETS["demo"].changed(updates=60, imitation_problems=128, validation_rules=())
"""A short training of one policy for all speeds, because there are 30 of them; its start suits every head."""


@dataclass(frozen=True)
class Ablation:
    """What ``dllm-env ablate heads`` trains and compares."""

    training: GRPO = SHORT
    """Settings of every training but for head, network and seed."""
    heads: tuple[str, ...] = (
        *("bernoulli", "plackett_luce:k=1", "plackett_luce:k=2", "plackett_luce:k=4"),
        "dynamic_plackett_luce",
    )
    """Heads with their settings."""
    networks: tuple[Network, ...] = ("confidence", "hidden")
    """Networks."""
    seeds: int = 3
    """Training seeds 1, 2, … of each combination."""
    problems: int = 1000
    """Test problems, or as many as there are."""

    def __post_init__(self) -> None:
        if not (self.heads and self.networks and self.seeds > 0 and self.problems > 0):
            raise UsageError("an ablation needs heads, networks, and at least one seed and one problem")
        for head in self.heads:
            load_head(head)


@dataclass(frozen=True)
class Line:
    """A combination: figures of its seeds.

    Attributes:
        points: of each seed, (NFE, accuracy) at each α, slowest first; only one where the training has one α.
        areas: of each seed, under its front over log n; see ``pareto.log_area``.
    """

    head: str
    network: str
    points: tuple[tuple[tuple[float, float], ...], ...]
    areas: tuple[float, ...]

    @property
    def means(self) -> list[tuple[float, float]]:
        """Mean NFE and accuracy over the seeds at each α."""
        return [
            (mean([nfe for nfe, _ in some]), mean([accuracy for _, accuracy in some]))
            for some in zip(*self.points, strict=True)
        ]


def combinations(config: Ablation, folder: Path) -> list[Training]:
    """Head, network, seed and folder of every training."""
    return [
        (head, network, seed, folder / f"{network}-{head.replace(':', '-').replace('=', '')}-{seed}")
        for network in config.networks
        for head in config.heads
        for seed in range(1, config.seeds + 1)
    ]


def run_ablation(config: Ablation, folder: Path, resume: bool = False) -> Path:
    """Trains all combinations, evaluates them on the same problems, writes a table and a picture.

    Args:
        config: what to train.
        folder: gets a run for each training, the results, ``ablation.csv`` and ``ablation.png``.
        resume: keep trainings that are done, and continue the one that was stopped.

    Returns:
        The folder.

    Raises:
        UsageError: the folder holds an ablation already, or somebody else is writing into it.
    """
    with locked(folder):
        return _run(config, folder, resume)


def _run(config: Ablation, folder: Path, resume: bool) -> Path:
    trainings = combinations(config, folder)
    if not resume and any(exists(path) for *_, path in trainings):
        raise UsageError(f"{folder} holds an ablation already; give --resume to continue it, or another --out")
    training = config.training
    task = load_task(training.task, training.data, training.allow_code_execution)
    problems = min(config.problems, count_problems(task, "test") or config.problems)
    for i, (head, network, seed, path) in enumerate(trainings, 1):
        print(f"{i}/{len(trainings)}  {network}, {head}, seed {seed}")
        settings = config.training.changed(head=head, network=network, seed=seed)
        train_grpo(settings, path, resume and exists(path / CHECKPOINT))
    length = training.response_length or task.response_length
    evaluation = EvaluationConfig(
        task=config.training.task,
        data=config.training.data,
        allow_code_execution=config.training.allow_code_execution,
        denoiser=config.training.denoiser,
        device=config.training.device,
        block_length=(config.training.block_length or length,),
        problems=problems,
        response_length=config.training.response_length,
        batch_size=config.training.batch_size,
    )
    play([Evaluation(evaluation, [str(path) for *_, path in trainings])], folder)
    lines = summarise(trainings, finish(folder))
    write_table(lines, folder / TABLE)
    draw(lines, folder / PICTURE)
    terminal(120).print(table(lines))
    print(f"ablation: {folder / TABLE}, {folder / PICTURE}")
    return folder


def summarise(trainings: Sequence[Training], rows: Sequence[Entry]) -> list[Line]:
    """One line for each combination."""
    found: dict[str, list[Entry]] = {}
    for row in rows:
        found.setdefault(split(row.policy)[0], []).append(row)
    groups: dict[tuple[str, Network], list[list[Entry]]] = {}
    for head, network, _, path in trainings:
        groups.setdefault((head, network), []).append(found[str(path)])
    made = []
    for (head, network), group in groups.items():
        points = tuple(tuple(row.coordinates for row in line) for line in group)
        length = group[0][0].setting.response_length
        made.append(Line(head, network, points, tuple(log_area(line, length) for line in points)))
    return made


def table(lines: Sequence[Line]) -> Table:
    """The lines for the terminal: means over seeds at the slowest, the middle and the fastest α, and the areas."""
    shown = Table(title="accuracy @ NFE, and area under the front over log NFE")
    for name in ("network", "head", "slowest α", "middle", "fastest", "area", "of each seed"):
        shown.add_column(name, justify="left" if name in ("network", "head") else "right", overflow="fold")
    for line in lines:
        means = line.means
        shown.add_row(
            line.network,
            line.head,
            *(f"{means[i][1]:.1%} @ {means[i][0]:.1f}" for i in (0, len(means) // 2, -1)),
            f"{mean(line.areas):.3f}",
            " ".join(f"{value:.3f}" for value in line.areas),
        )
    return shown


def write_table(lines: Sequence[Line], path: Path) -> None:
    """A row for each training and α."""
    written = io.StringIO(newline="")
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(["network", "head", "seed", "setting", "accuracy", "nfe", "area"])
    for line in lines:
        for seed, (points, area) in enumerate(zip(line.points, line.areas, strict=True), 1):
            for setting, (nfe, accuracy) in enumerate(points, 1):
                writer.writerow([line.network, line.head, seed, setting, accuracy, nfe, area])
    write_atomically(path, written.getvalue().encode())


def draw(lines: Sequence[Line], path: Path) -> None:
    """Accuracy against NFE: a point for each training and α, a line for the means, a panel for each network."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    networks = list(dict.fromkeys(line.network for line in lines))
    heads = list(dict.fromkeys(line.head for line in lines))
    styles = [(LEARNED, "*"), *FAMILIES.values(), *OTHERS]
    figure = Figure(figsize=(1.2 + 4.6 * len(networks), 4.8), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(networks), sharex=True, sharey=True, squeeze=False)[0]
    for panel, network in zip(panels, networks, strict=True):
        for line in (line for line in lines if line.network == network):
            colour, marker = styles[heads.index(line.head) % len(styles)]
            every = [point for points in line.points for point in points]
            panel.scatter(*zip(*every, strict=True), color=colour, marker=marker, s=14, alpha=0.4)
            panel.plot(*zip(*line.means, strict=True), color=colour, marker=marker, markersize=8, label=line.head)
        panel.set_title(f"network: {network}", fontsize=11)
        panel.set_xlabel("denoiser evaluations per response (NFE)")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy")
    panels[0].set_ylim(-0.03, 1.05)
    panels[0].yaxis.set_major_formatter("{x:.0%}")
    named: dict[str, Any] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    write_figure(path, figure)
