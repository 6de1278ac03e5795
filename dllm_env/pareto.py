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
LEARNED_STYLES = ((LEARNED, "*"), ("#9A031E", "d"), ("#5F0F40", "h"), ("#B8860B", "8"))
"""Of the learned policies that have names of their own; the others look like the first."""
UNNAMED = "learned policy"
ORACLE = ("#000000", "P")
SEARCH = ("#000000", "X")
FRONTS: Mapping[Kind, tuple[str, str, str]] = {
    "heuristic": ("#444444", "--", "Pareto front, heuristics"),
    "learned": (LEARNED, "-", "Pareto front, learned"),
    "oracle": (ORACLE[0], ":", "Pareto front, oracle"),
    "search": (SEARCH[0], "-.", "Pareto front, search"),
}
"""Colour, matplotlib's line and name of the front of each kind."""
LINE_SIZE = 9.0
"""Of a learned policy's signs where it has several."""
# Right and below first: the lines of a family rise to the right.
_SIZES: Mapping[Kind, float] = {"heuristic": 6.5, "learned": 15, "oracle": 9, "search": 8}
_OFFSETS = ((7, -11), (-7, 5), (7, 5), (-7, -11), (0, 10), (0, -17), (12, 0), (-12, 0))


FADED = 0.35
"""Opacity of a rule that another one beats."""
LONGEST_NAME = 60
"""Letters of a line in the legend."""


def called(point: Point, names: Mapping[str, str]) -> str:
    """What the family of a point is called in a legend.

    Args:
        point: in the picture.
        names: of learned policies, by their folders.
    """
    if not point.learned:
        return point.family
    words = [setting for setting in _settings(point) if not _is_number(setting)]
    return ":".join(filter(None, [names.get(split(point.label)[0], UNNAMED), ",".join(words)]))


def family_styles(points: Sequence[Point], names: Mapping[str, str] | None = None) -> dict[str, tuple[str, str]]:
    """Colour and matplotlib's marker of each family, in order of appearance; learned ones that are called the same
    look the same.
    """
    styles: dict[str, tuple[str, str]] = {}
    learned: list[str] = []
    others = 0
    for point in points:
        if point.family in styles:
            continue
        if point.learned:
            name = called(point, names or {})
            learned += [name] * (name not in learned)
            styles[point.family] = _style(LEARNED_STYLES, learned.index(name))
        elif point.kind in REFERENCES:
            styles[point.family] = ORACLE if point.kind == "oracle" else SEARCH
        elif point.family in FAMILIES:
            styles[point.family] = FAMILIES[point.family]
        else:
            styles[point.family] = _style(OTHERS, others)
            others += 1
    return styles


def _style(styles: Sequence[tuple[str, str]], number: int) -> tuple[str, str]:
    """Colour and marker of one of many: after the last style colours begin anew, with other markers."""
    turn, place = divmod(number, len(styles))
    return styles[place][0], styles[(place + turn) % len(styles)][1]


@dataclass(frozen=True)
class _Panel:
    """One of the pictures in a figure.

    Attributes:
        title: above it.
        points: in it.
        row, column: where.
        scale: panels of the same one have the same axes.
        about: what its row is about, to the left of it.
    """

    title: str
    points: Sequence[Point]
    row: int
    column: int
    scale: int = 0
    about: str = ""


ACROSS = 3
"""Panels side by side where their order means nothing."""


def plot_pareto(
    panels: Mapping[str, Sequence[Point]], title: str = "", dpi: int = 150, names: Mapping[str, str] | None = None
) -> Any:
    """Accuracy against NFE with the Pareto front of each kind of policy, as a figure of matplotlib.

    Args:
        panels: points of each panel, by its title; all have the same axes.
        title: above everything.
        dpi: dots per inch.
        names: of learned policies, by their folders.
    """
    placed = [_Panel(name, points, *divmod(i, ACROSS)) for i, (name, points) in enumerate(panels.items())]
    return _plot(placed, title, dpi, names or {})


def plot_grid(
    rows: Mapping[str, Mapping[str, tuple[str, Sequence[Point]]]],
    columns: Sequence[str],
    title: str = "",
    names: Mapping[str, str] | None = None,
    dpi: int = 150,
) -> Any:
    """The same with a row for each task, say, and a column for each block length; panels of a row share their axes.

    Where there is only one row, or only one column, panels are placed to fill the page; where every row lacks some
    column, its panels move to the left.

    Args:
        rows: title and points of each panel, by the name of its row and then of its column; some may be missing.
        columns: the names of all columns, in their order.
        title, names, dpi: as for ``plot_pareto``.
    """
    if len(rows) == 1:
        return plot_pareto(dict(next(iter(rows.values())).values()), title, dpi, names)
    alone = len(columns) == 1
    holes = all(len(panels) < len(columns) for panels in rows.values())  # in every row, so they move together
    placed = []
    for i, (about, panels) in enumerate(rows.items()):
        for place, (name, (head, points)) in enumerate(panels.items()):
            if alone:
                placed.append(_Panel(f"{about}: {head}", points, *divmod(i, ACROSS), scale=i))
            else:
                column = place if holes else columns.index(name)
                placed.append(_Panel(head, points, i, column, i, "" if place else about))
    return _plot(placed, title, dpi, names or {})


def _plot(panels: Sequence[_Panel], title: str, dpi: int, names: Mapping[str, str]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across, down = 1 + max(panel.column for panel in panels), 1 + max(panel.row for panel in panels)
    figure = Figure(figsize=(1.2 + 5.6 * across, 0.6 + 4.8 * down), layout="constrained", dpi=dpi)
    FigureCanvasAgg(figure)
    styles = family_styles([point for panel in panels for point in panel.points], names)
    places, grid = figure.add_gridspec(down, across), []
    for panel in panels:
        axes = figure.add_subplot(places[panel.row, panel.column])
        grid.append(axes)
        _draw_panel(axes, panel.points, styles)
        axes.set_title(plain(panel.title), fontsize=11)
        if panel.row == max(other.row for other in panels if other.column == panel.column):
            axes.set_xlabel("denoiser evaluations per response (NFE)")
        if panel.column == min(other.column for other in panels if other.row == panel.row):
            axes.set_ylabel("accuracy")
        if panel.about:
            axes.annotate(
                *(plain(textwrap.fill(panel.about, 40)), (0, 0.5)),
                xycoords=axes.yaxis.label,
                xytext=(-10, 0),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="center",
                fontsize=11,
                fontweight="bold",
            )
        _scale(axes, [point for other in panels if other.scale == panel.scale for point in other.points])
    if title:
        letters = int(10.5 * figure.get_figwidth())  # that fit into a line of this size
        figure.suptitle(textwrap.fill(plain(title), letters), fontsize=12)
    _legend(figure, panels, styles, names)
    figure.draw_without_rendering()  # settles the layout that the labels are fitted into
    for axes, panel in zip(grid, panels, strict=True):
        _label(axes, panel.points, styles, names)
    return figure


def _legend(
    figure: Any, panels: Sequence[_Panel], styles: Mapping[str, tuple[str, str]], names: Mapping[str, str]
) -> None:
    """Fronts, then families, each once and in full colour, also where its points are faded."""
    from matplotlib.lines import Line2D

    points = [point for panel in panels for point in panel.points]
    named: dict[str, Any] = {}
    line: Any
    for kind, (colour, line, name) in FRONTS.items():
        if any(point.kind == kind for point in points):
            named[name] = Line2D([], [], color=colour, linestyle=line, linewidth=1.6)
    families = {point.family: point for point in points}
    for family, (colour, marker) in styles.items():
        point = families[family]
        size = LINE_SIZE if point.learned else _SIZES[point.kind]
        handle = Line2D([], [], color=colour, marker=marker, markersize=size, markeredgecolor="white", linewidth=1)
        named.setdefault(plain(called(point, names)), handle)
    add_legend(figure, named, {1: 3, 2: 4}.get(1 + max(panel.column for panel in panels), 6))


def add_legend(figure: Any, named: Mapping[str, Any], columns: int) -> None:
    """A legend below, in so many columns, or in fewer where names are long; the longest take several lines."""
    names = [textwrap.fill(name, LONGEST_NAME) for name in named]
    for number in range(columns, 0, -1):
        legend = figure.legend(
            named.values(), names, loc="outside lower center", ncols=number, frameon=False, fontsize=9
        )
        if number == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


HALF = 0.5
"""An axis of accuracies that are all above it does not begin at 0."""


def _scale(axes: Any, points: Sequence[Point]) -> None:
    """Log axis of NFE, where halving the work is one length everywhere, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, MultipleLocator, NullLocator, PercentFormatter

    low, high = min(point.nfe for point in points), max(point.nfe for point in points)
    axes.set_xscale("log")
    axes.set_xlim(low / 1.35, high * 1.35)
    ticks = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 512, 1024)
    axes.set_xticks([n for n in ticks if low / 1.35 <= n <= high * 1.35])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    worst = min(point.low for point in points)
    axes.set_ylim(-0.04 if worst < HALF else int(worst * 10) / 10 - 0.06, 1.06)
    axes.yaxis.set_major_locator(MultipleLocator(0.2 if worst < HALF else 0.1))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _draw_panel(axes: Any, points: Sequence[Point], styles: Mapping[str, tuple[str, str]]) -> None:
    axes.grid(color="#e6e6e6", linewidth=0.8)
    axes.set_axisbelow(True)
    for kind, (colour, style, _) in FRONTS.items():
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
                alpha=0.9 if kind in REFERENCES else 0.6,
                zorder=2,
            )
    best = set(front_points(points))
    for family, (colour, marker) in styles.items():
        members = sorted(
            (i for i, point in enumerate(points) if point.family == family), key=lambda i: points[i].nfe
        )
        if members:
            faded = [points[i] for i in members if points[i].kind == "heuristic" and i not in best]
            _draw_family(axes, [points[i] for i in members], faded, colour, marker)


def front_points(points: Sequence[Point]) -> list[int]:
    """Which points are on the front of their kind."""
    found: list[int] = []
    for kind in FRONTS:
        side = [i for i, point in enumerate(points) if point.kind == kind]
        found += [side[place] for place in pareto_front([points[i].coordinates for i in side])]
    return sorted(found)


def _draw_family(axes: Any, members: Sequence[Point], faded: Sequence[Point], colour: str, marker: str) -> None:
    """A thin line through all of them, and a sign with its interval for each; what is beaten is pale."""
    learned = members[0].learned
    size = _SIZES[members[0].kind] if len(members) == 1 or not learned else LINE_SIZE
    opacity = FADED if len(faded) == len(members) else 0.7
    axes.plot(*zip(*(p.coordinates for p in members), strict=True), color=colour, linewidth=1.0, alpha=opacity)
    bright = [point for point in members if point not in faded]
    for some, alpha in ((bright, 0.95), (faded, FADED)):
        if not some:
            continue
        axes.errorbar(
            [point.nfe for point in some],
            [point.accuracy for point in some],
            yerr=[[p.accuracy - p.low for p in some], [p.high - p.accuracy for p in some]],
            color=colour,
            marker=marker,
            markersize=size,
            markeredgecolor="white",
            linestyle="none",
            elinewidth=1.4,
            capsize=2.5,
            alpha=alpha,
            zorder=4 if learned else 3,
        )


def _label(
    axes: Any, points: Sequence[Point], styles: Mapping[str, tuple[str, str]], names: Mapping[str, str]
) -> None:
    """Writes the knob of each point on a front, or a learned policy's name, where there is room; best first."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    renderer = axes.figure.canvas.get_renderer()
    pixels = axes.figure.dpi / 72
    inside = axes.get_window_extent(renderer)
    places = [axes.transData.transform(point.coordinates) for point in points]
    taken = [Bbox.from_bounds(x - 4 * pixels, y - 4 * pixels, 8 * pixels, 8 * pixels) for x, y in places]
    best = [points[i] for i in front_points(points)]
    for point in sorted(best, key=lambda point: (not point.learned, -point.accuracy)):
        for dx, dy in _OFFSETS:
            label = axes.annotate(
                plain(short(point, names)),
                point.coordinates,
                xytext=(dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                fontsize=8.5 if point.learned else 7.5,
                fontweight="bold" if point.learned and not _knob(point) else "normal",
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


def short(point: Point, names: Mapping[str, str]) -> str:
    """What tells it from the others of its family: the knob; its name where it has none."""
    name = called(point, names) if point.learned and split(point.label)[0] in names else _parts(point)[0]
    knob = [setting.rpartition("=") for setting in _knob(point)]
    if len(knob) == 1 and not point.learned:
        return _rounded(knob[0][2])
    texts = [f"{SIGNS.get(of, of)}{equals}{_rounded(value)}" for of, equals, value in knob]
    return ",".join(texts) or name


SIGNS = {"alpha": "α"}
"""Settings that have a sign of their own."""


def _knob(point: Point) -> list[str]:
    return [setting for setting in _settings(point) if _is_number(setting)]


def _rounded(number: str) -> str:
    """To three digits; whole numbers as they are."""
    return number if number.lstrip("+-").isdigit() else f"{float(number):.3g}"


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
