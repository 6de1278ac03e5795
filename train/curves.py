"""How trainings went: figures of their logs over updates, as a picture and as a table, with a band over seeds.

Runs whose settings differ in the seed alone are one curve: the mean over those that have got so far, in a band from
the least to the largest of them.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dllm_env.errors import UsageError
from dllm_env.pareto import add_legend, plain
from dllm_env.reading import is_file, read_json
from dllm_env.train.settings_file import SETTINGS

UPDATE = "time/update"
SEED = "seed"
PANELS = {
    "rollout/reward": "reward",
    "rollout/reward_deviation": "standard deviation of the reward",
    "rollout/accuracy": "accuracy of rollouts",
    "rollout/nfe": "NFE of rollouts",
    "validation/accuracy": "accuracy on validation problems",
    "validation/nfe": "NFE on validation problems",
    "validation/area": "area on validation problems",
    "rollout/entropy": "entropy, nats a step",
    "train/loss": "loss",
    "train/approximate_kl": "KL divergence, nats a step",
    "train/clip_share": "share of clipped ratios",
    "train/ratio_max": "largest ratio",
    "train/gradient_norm": "norm of the gradient",
    "rollout/groups_without_signal": "groups without signal",
    "train/learning_rate": "learning rate",
    "time/update_seconds": "seconds an update",
}
"""What is drawn where it was logged, in this order, with what it is called."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
LINES = ("-", "--", "-.", ":")
FORMATS = ("png", "pdf", "svg")

Series = dict[int, float]
"""A value at each update that has one."""


@dataclass(frozen=True)
class Trained:
    """The log of one run.

    Attributes:
        folder: of the run.
        settings: as they stand in its file.
        series: by the names of ``PANELS`` and others, what was logged.
    """

    folder: Path
    settings: Mapping[str, Any]
    series: Mapping[str, Series]


@dataclass(frozen=True)
class Curve:
    """One figure over updates, of runs that differ in the seed alone.

    Attributes:
        update: n updates, rising.
        mean, low, high: over the runs that have a value there.
        runs: how many these are.
    """

    update: list[int]
    mean: list[float]
    low: list[float]
    high: list[float]
    runs: list[int]


def read_run(folder: Path) -> Trained:
    """The log of a run; where it went on after a stop, what it did again counts.

    Raises:
        UsageError: no run is there, or it has logged nothing.
    """
    if not is_file(folder / SETTINGS):
        raise UsageError(f"{folder} holds no training: {SETTINGS} is missing")
    files = sorted((folder / "logs").glob("progress*.csv"), key=_begin)
    series: dict[str, Series] = {}
    for file in files:
        with file.open(newline="", encoding="utf-8") as opened:
            for row in csv.DictReader(opened):
                _add(series, row)
    if not series:
        raise UsageError(f"{folder} has logged nothing yet: no line in {folder / 'logs' / 'progress.csv'}")
    return Trained(folder, read_json(folder / SETTINGS), series)


def _begin(file: Path) -> int:
    """The update at which a log goes on, which its name says."""
    number = file.stem.partition("-")[2]
    return int(number) if number.isdecimal() else 0


def _add(series: dict[str, Series], row: Mapping[str, Any]) -> None:
    values = {}
    for name, text in row.items():
        try:
            values[name] = float(text)
        except (TypeError, ValueError):  # an empty cell, or half a line
            continue
    at = values.get(UPDATE, math.nan)
    if math.isfinite(at):
        for name, value in values.items():
            if math.isfinite(value):
                series.setdefault(name, {})[int(at)] = value


def grouped(runs: Sequence[Trained]) -> dict[str, list[Trained]]:
    """Runs that differ in the seed alone, by what tells them from the others."""
    groups: dict[str, list[Trained]] = {}
    for run in runs:
        same = {name: value for name, value in run.settings.items() if name != SEED}
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(run)
    every = [members[0].settings for members in groups.values()]
    names = sorted({name for settings in every for name in settings if name != SEED})
    told = [name for name in names if len({json.dumps(settings.get(name)) for settings in every}) > 1]
    labelled: dict[str, list[Trained]] = {}
    for members in groups.values():
        known = ", ".join(f"{name}={_short(members[0].settings.get(name))}" for name in told)
        labelled[known or members[0].folder.name] = members
    return labelled


def _short(value: Any) -> str:
    return " ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


def curve(runs: Sequence[Trained], name: str, smooth: int = 1) -> Curve | None:
    """A figure of these runs; None where none of them has it.

    Args:
        runs: that differ in the seed alone.
        name: of the figure.
        smooth: each value is the mean of the last so many of its run.
    """
    smoothed = [_running(run.series[name], smooth) for run in runs if name in run.series]
    updates = sorted({at for series in smoothed for at in series})
    if not updates:
        return None
    values = [[series[at] for series in smoothed if at in series] for at in updates]
    means = [sum(some) / len(some) for some in values]
    return Curve(updates, means, [min(s) for s in values], [max(s) for s in values], [len(s) for s in values])


def _running(series: Series, smooth: int) -> Series:
    points = sorted(series.items())
    last = [[value for _, value in points[max(0, i + 1 - smooth) : i + 1]] for i in range(len(points))]
    return {at: sum(some) / len(some) for (at, _), some in zip(points, last, strict=True)}


def shown_names(runs: Sequence[Trained], wanted: Sequence[str] = ()) -> list[str]:
    """Which figures to draw: those asked for, or all of ``PANELS`` that these runs have, and losses.

    Raises:
        UsageError: a figure that none of them has.
    """
    there = {name for run in runs for name in run.series}
    for name in wanted:
        if name not in there:
            raise UsageError(f"no run has logged {name!r}; there are {', '.join(sorted(there))}")
    if wanted:
        return list(wanted)
    others = sorted(name for name in there if name.startswith(("loss/", "value_accuracy/")))
    return [*(name for name in PANELS if name in there), *others]


def plot_curves(groups: Mapping[str, Sequence[Trained]], names: Sequence[str], smooth: int = 1) -> Any:
    """A figure of matplotlib with a panel for each name; smoothed but for validation, which is rare."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(len(names), 3)
    down = -(-len(names) // across)
    figure = Figure(figsize=(1.0 + 4.2 * across, 0.9 + 2.7 * down), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, squeeze=False).flatten().tolist()
    for axes in grid[len(names) :]:
        axes.remove()
    handles: dict[str, Any] = {}
    for axes, name in zip(grid, names, strict=False):
        axes.grid(color="#e6e6e6", linewidth=0.8)
        axes.set_title(plain(PANELS.get(name, name)), fontsize=10)
        axes.set_xlabel("update", fontsize=9)
        axes.tick_params(labelsize=8)
        for i, (label, runs) in enumerate(groups.items()):
            rare = name.startswith("validation/")
            found = curve(runs, name, 1 if rare else smooth)
            if found is None:
                continue
            colour, style = COLOURS[i % len(COLOURS)], LINES[i // len(COLOURS) % len(LINES)]
            count = f" ({len(runs)} seeds)" if len(runs) > 1 else ""
            axes.fill_between(found.update, found.low, found.high, color=colour, alpha=0.15, linewidth=0)
            marker = "o" if rare or len(found.update) == 1 else ""
            (line,) = axes.plot(
                found.update, found.mean, color=colour, linestyle=style, marker=marker, markersize=3, linewidth=1.4
            )
            handles.setdefault(plain(f"{label}{count}"), line)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        if name.endswith("accuracy"):
            axes.set_ylim(-0.03, 1.03)
    add_legend(figure, handles, 2)
    return figure


def as_table(groups: Mapping[str, Sequence[Trained]], names: Sequence[str]) -> str:
    """The curves as CSV, not smoothed: a line for each group, figure and update."""
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["group", "figure", "update", "mean", "low", "high", "runs"])
    for label, runs in groups.items():
        for name in names:
            found = curve(runs, name)
            if found is not None:
                lines = zip(found.update, found.mean, found.low, found.high, found.runs, strict=True)
                out.writerows([label, name, *line] for line in lines)
    return text.getvalue()
