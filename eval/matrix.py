"""One table over several conditions: the score of each front in each of them, and on average; and its picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from dllm_env.eval.compare import short_name
from dllm_env.eval.fronts import SIDES, Front, Value
from dllm_env.eval.metrics import mean
from dllm_env.pareto import plain


@dataclass(frozen=True)
class Matrix:
    """Scores: 0 is random, 1 the oracle.

    Attributes:
        columns: the conditions.
        rows: the fronts.
        values: of each row, one for each column; None where something is missing for it.
        means: of each row, over all columns; None where a value is.
        learned: of each row, whether it is of learned policies.
    """

    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[Value | None, ...], ...]
    means: tuple[Value | None, ...]
    learned: tuple[bool, ...]


def score_matrix(found: Sequence[Front]) -> Matrix | None:
    """The scores of fronts in several conditions, best on average first; None where there are not several.

    The front of all policies together is left out; that of all rules is what one would have who chose the best rule
    for each condition and speed.
    """
    titles = list(dict.fromkeys(front.title for front in found if front.score is not None))
    if len(titles) < 2:
        return None
    cells = {(front.who, front.title): front for front in found if front.who != "all"}
    names = list(dict.fromkeys(who for who, _ in cells))
    lines = []
    for who in names:
        here = [cells.get((who, title)) for title in titles]
        values = tuple(None if front is None else front.score for front in here)
        learned = who == "learned" or all(front.learned for front in here if front is not None)
        lines.append((who, values, average(values), learned))
    lines.sort(key=lambda line: -math.inf if line[2] is None else line[2].value, reverse=True)
    return Matrix(_short(found, titles), *(tuple(column) for column in zip(*lines, strict=True)))


def average(values: Sequence[Value | None]) -> Value | None:
    """The mean of figures that do not depend on each other, with its interval; None where one is missing."""
    there = [value for value in values if value is not None]
    if not there or len(there) < len(values):
        return None
    center = mean([value.value for value in there])
    below = math.hypot(*(value.value - value.low for value in there)) / len(there)
    above = math.hypot(*(value.high - value.value for value in there)) / len(there)
    return Value(center, center - below, center + above)


def _short(found: Sequence[Front], titles: Sequence[str]) -> tuple[str, ...]:
    """The tasks' names, where these tell the conditions apart."""
    tasks = {front.title: short_name(front.members[0].setting.task) for front in found}
    short = tuple(tasks[title] for title in titles)
    return short if len(set(short)) == len(short) else tuple(titles)


def matrix_table(matrix: Matrix, interval: str = "95% interval") -> Table:
    """The matrix for the terminal; ``interval`` is what that of a mean is."""
    shown = Table(title="scores: 0 is random, 1 the oracle")
    shown.add_column("front of", overflow="fold")
    for name in (*matrix.columns, "mean", interval):
        shown.add_column(name, justify="right", overflow="fold")
    for who, values, middle, learned in zip(matrix.rows, matrix.values, matrix.means, matrix.learned, strict=True):
        cells = ["" if value is None else f"{value.value:.3f}" for value in (*values, middle)]
        around = "" if middle is None else f"{middle.low:.3f} – {middle.high:.3f}"
        shown.add_row(who, *cells, around, style="bold" if learned and who not in SIDES else None)
    return shown


def matrix_csv(matrix: Matrix) -> str:
    """A line for each front and condition: the score and its interval; ``mean`` is a condition, too."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("front", "condition", "score", "low", "high"))
    for who, values, middle in zip(matrix.rows, matrix.values, matrix.means, strict=True):
        for column, value in zip((*matrix.columns, "mean"), (*values, middle), strict=True):
            if value is not None:
                writer.writerow((who, column, value.value, value.low, value.high))
    return text.getvalue()


def plot_matrix(matrix: Matrix, title: str = "", dpi: int = 150) -> Any:
    """The matrix as a heat map with its numbers, as a figure of matplotlib: dark is near the oracle."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = (*matrix.columns, "mean")
    lines = [(*values, middle) for values, middle in zip(matrix.values, matrix.means, strict=True)]
    numbers = [[math.nan if value is None else value.value for value in line] for line in lines]
    longest = max(map(len, matrix.rows))
    size = (1.4 + 0.085 * longest + 0.95 * len(columns), 1.5 + 0.36 * len(matrix.rows))
    figure = Figure(figsize=size, layout="constrained", dpi=dpi)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.imshow(numbers, cmap="cividis_r", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(columns)), [plain(name) for name in columns], rotation=30, ha="right")
    axes.set_yticks(range(len(matrix.rows)), [plain(name) for name in matrix.rows])
    for tick, learned in zip(axes.get_yticklabels(), matrix.learned, strict=True):
        tick.set_fontweight("bold" if learned else "normal")
    for i, line in enumerate(numbers):
        for j, number in enumerate(line):
            if not math.isnan(number):
                axes.text(
                    j, i, f"{number:.2f}", ha="center", va="center", color="white" if number > 0.55 else "black"
                )
    axes.axvline(len(matrix.columns) - 0.5, color="white", linewidth=3)
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(plain(title or "score: 0 is random, 1 the oracle"), fontsize=11)
    return figure
