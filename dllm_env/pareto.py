"""The picture that everything is about: accuracy against denoiser evaluations, and the fronts of policies."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dllm_env.specs import shown, split

Kind = Literal["heuristic", "learned", "oracle", "search"]
"""What a policy is: a fixed rule, one that was trained, the reference that knows what to write, or one that asks
whether a response is right and tries again."""
REFERENCES: tuple[Kind, ...] = ("oracle", "search")
"""The kinds that are no policies."""

Coordinates = tuple[float, float]
"""(NFE, accuracy)."""


def pareto_front(points: Sequence[Coordinates]) -> list[int]:
    """Which points no other one beats, by rising NFE.

    A point is beaten by one that needs no more NFE and is at least as accurate, and better in one of the two.

    Args:
        points: (NFE, accuracy) pairs.

    Returns:
        Their indices; of equal points all or none.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def log_area(points: Sequence[Coordinates], length: int) -> float:
    """Mean over log n, n from 1 to L, of the best accuracy that at most n evaluations give.

    It is 0 where nothing is that fast. Over n itself the slow end, where everything is right, would drown the rest.

    Args:
        points: (NFE, accuracy) pairs.
        length: L.

    Raises:
        ValueError: L below 2, over which there is no range.
    """
    if length < 2:
        raise ValueError(f"needs a length of at least 2, got {length}")
    area, reached, best = 0.0, 1.0, 0.0
    for nfe, accuracy in sorted(points):
        if nfe >= length:
            break
        if accuracy > best:
            at = max(nfe, 1.0)
            area += best * math.log(at / reached)
            reached, best = at, accuracy
    return (area + best * math.log(length / reached)) / math.log(length)


@dataclass(frozen=True)
class Point:
    """A policy in the picture.

    Attributes:
        label: its name: ``rule:parameters``, or what a learned one is called.
        kind: rule, learned, oracle, or search.
        nfe, accuracy: means.
        low, high: interval of the accuracy.
    """

    label: str
    kind: Kind
    nfe: float
    accuracy: float
    low: float
    high: float

    @property
    def coordinates(self) -> Coordinates:
        """(NFE, accuracy)."""
        return self.nfe, self.accuracy

    @property
    def learned(self) -> bool:
        """Whether it was trained."""
        return self.kind == "learned"

    @property
    def family(self) -> str:
        """The rule, or the learned policy, with its settings that are no numbers: those are the knob."""
        words = [setting for setting in _settings(self) if not _is_number(setting)]
        name = split(self.label)[0] if self.learned else _parts(self)[0]
        return ":".join(filter(None, [name, ",".join(words)]))


# Colour-blind safe (M. Okabe and K. Ito, 2008; P. Tol, 2021); the learned policies have vermilion for themselves.
FAMILIES = {
    "threshold": ("#0072B2", "o"),
    "top_k": ("#009E73", "s"),
    "random": ("#999999", "X"),
    "leftmost": ("#CC79A7", "D"),
    "threshold:fallback=leftmost": ("#E69F00", "^"),
}
OTHERS = (
    *(("#56B4E9", "v"), ("#8C6D31", "X"), ("#5E4FA2", "<"), ("#332288", ">")),
    *(("#117733", "p"), ("#882255", "h"), ("#44AA99", "d"), ("#AA4499", "H"), ("#DDAA33", "8"), ("#666666", "*")),
)
LEARNED = "#D55E00"
ORACLE = ("#000000", "P")
SEARCH = ("#000000", "X")
FRONTS: Mapping[Kind, tuple[str, str, str]] = {
    "heuristic": ("#444444", "--", "Pareto front, heuristics"),
    "learned": (LEARNED, "-", "Pareto front, learned"),
    "oracle": (ORACLE[0], ":", "Pareto front, oracle"),
    "search": (SEARCH[0], "-.", "Pareto front, search"),
}
"""Colour, matplotlib's line and name of the front of each kind."""
# Right and below first: the lines of a family rise to the right.
_SIZES: Mapping[Kind, float] = {"heuristic": 6.5, "learned": 15, "oracle": 9, "search": 8}
_OFFSETS = ((7, -11), (-7, 5), (7, 5), (-7, -11), (0, 10), (0, -17), (12, 0), (-12, 0))


def family_styles(points: Sequence[Point]) -> dict[str, tuple[str, str]]:
    """Colour and matplotlib's marker of each family, in order of appearance."""
    styles: dict[str, tuple[str, str]] = {}
    others = 0
    for point in points:
        if point.family in styles:
            continue
        if point.learned:
            styles[point.family] = (LEARNED, "*")
        elif point.kind in REFERENCES:
            styles[point.family] = ORACLE if point.kind == "oracle" else SEARCH
        elif point.family in FAMILIES:
            styles[point.family] = FAMILIES[point.family]
        else:
            styles[point.family] = OTHERS[others % len(OTHERS)]
            others += 1
    return styles


def plot_pareto(panels: Mapping[str, Sequence[Point]], title: str = "", dpi: int = 150) -> Any:
    """Accuracy against NFE with the Pareto front of each kind of policy, as a figure of matplotlib.

    Args:
        panels: points of each panel, by its title.
        title: above everything.
        dpi: dots per inch.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure = Figure(figsize=(1.2 + 5.6 * across, 0.6 + 4.8 * down), layout="constrained", dpi=dpi)
    FigureCanvasAgg(figure)
    grid = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False).flatten().tolist()
    for axes in grid[len(panels) :]:
        axes.remove()
    shown = [point for points in panels.values() for point in points]
    styles = family_styles(shown)
    for axes, (name, points) in zip(grid, panels.items(), strict=False):
        _draw_panel(axes, points, styles)
        axes.set_title(plain(name), fontsize=11)
    for axes in grid[max(0, len(panels) - across) : len(panels)]:
        axes.set_xlabel("denoiser evaluations per response (NFE)")
        axes.tick_params(labelbottom=True)
    for axes in grid[: len(panels) : across]:
        axes.set_ylabel("accuracy")
    _scale(grid[0], shown)
    if title:
        letters = int(10.5 * figure.get_figwidth())  # that fit into a line of this size
        figure.suptitle(textwrap.fill(plain(title), letters), fontsize=12)
    _legend(figure, grid[: len(panels)])
    figure.draw_without_rendering()  # settles the layout that the labels are fitted into
    for axes, points in zip(grid, panels.values(), strict=False):
        _label(axes, points, styles)
    return figure


def _legend(figure: Any, grid: Sequence[Any]) -> None:
    named: dict[str, Any] = {}
    for axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    columns = {1: 3, 2: 4}.get(len(grid), 6)
    figure.legend(
        named.values(), named.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )


def _scale(axes: Any, points: Sequence[Point]) -> None:
    """Log axis of NFE, where halving the work is one length everywhere, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

    low, high = min(point.nfe for point in points), max(point.nfe for point in points)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.35, high * 1.35)
    ticks = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 512, 1024)
    axes.set_xticks([n for n in ticks if low / 1.35 <= n <= high * 1.35])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylim(-0.04, 1.06)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_panel(axes: Any, points: Sequence[Point], styles: Mapping[str, tuple[str, str]]) -> None:
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for kind, (colour, style, name) in FRONTS.items():
        side = [point for point in points if point.kind == kind]
        front = [side[i].coordinates for i in pareto_front([point.coordinates for point in side])]
        if front:
            end = (max(max(point.nfe for point in points) * 1.35, front[-1][0]), front[-1][1])
            steps = [*front, end]
            axes.step(
                [x for x, _ in steps],
                [y for _, y in steps],
                where="post",
                color=colour,
                linestyle=style,
                linewidth=1.6,
                alpha=0.6,
                label=name,
                zorder=2,
            )
    for family, (colour, marker) in styles.items():
        members = sorted((point for point in points if point.family == family), key=lambda point: point.nfe)
        if members:
            _draw_family(axes, family, members, colour, marker)


def _draw_family(axes: Any, family: str, members: Sequence[Point], colour: str, marker: str) -> None:
    learned = members[0].learned
    below = [point.accuracy - point.low for point in members]
    above = [point.high - point.accuracy for point in members]
    axes.errorbar(
        [point.nfe for point in members],
        [point.accuracy for point in members],
        yerr=[below, above],
        color=colour,
        marker=marker,
        markersize=_SIZES[members[0].kind] if len(members) == 1 or not learned else 11,
        markeredgecolor="white",
        linewidth=1.0,
        elinewidth=1.4,
        capsize=2.5,
        alpha=0.95,
        label="learned policy" if learned else plain(family),
        zorder=4 if learned else 3,
    )


def _label(axes: Any, points: Sequence[Point], styles: Mapping[str, tuple[str, str]]) -> None:
    """Writes each point's parameter, or a learned policy's name, where there is room; best points first."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    renderer = axes.figure.canvas.get_renderer()
    pixels = axes.figure.dpi / 72
    inside = axes.get_window_extent(renderer)
    places = [axes.transData.transform(point.coordinates) for point in points]
    taken = [Bbox.from_bounds(x - 4 * pixels, y - 4 * pixels, 8 * pixels, 8 * pixels) for x, y in places]
    for point in sorted(points, key=lambda point: (not point.learned, -point.accuracy)):
        for dx, dy in _OFFSETS:
            label = axes.annotate(
                plain(_short(point)),
                point.coordinates,
                xytext=(dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                fontsize=8.5 if point.learned else 7.5,
                fontweight="bold" if point.learned else "normal",
                color=styles[point.family][0],
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
                zorder=5,
            )
            box = label.get_window_extent(renderer)
            free = not any(box.overlaps(other) for other in taken)
            if free and inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 <= box.y1 <= inside.y1:
                taken.append(box)
                break
            label.remove()


def plain(text: str) -> str:
    """A text that matplotlib shows as it is: no formula between dollar signs, and nothing that no font can have."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("$", r"\$")


def _short(point: Point) -> str:
    """What tells it from the others of its family: the knob; its name where it has none."""
    name, _ = _parts(point)
    knob = [setting for setting in _settings(point) if _is_number(setting)]
    if len(knob) == 1 and not point.learned:
        knob = [knob[0].rpartition("=")[2]]
    return ",".join(knob) or name


def _parts(point: Point) -> tuple[str, str]:
    """Name and settings; a rule's name is no path."""
    return shown(point.label, () if point.learned else (point.label.partition(":")[0],))


def _settings(point: Point) -> list[str]:
    """Its settings as they were written; a label may be any text, so nothing here is refused."""
    return [setting for setting in _parts(point)[1].split(",") if setting]


def _is_number(setting: str) -> bool:
    try:
        float(setting.rpartition("=")[2])
    except ValueError:
        return False
    return True
