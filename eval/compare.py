"""Sets results side by side: a table, and the picture of accuracy against speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from dllm_env.eval.evaluate import Outcome, Result, accuracy_interval, tokens_per_nfe
from dllm_env.eval.metrics import Point, best_at_most, mean, pareto_front

FRONT = "front.png"


@dataclass(frozen=True)
class Row:
    """A policy at a block length, all evaluation seeds pooled.

    Attributes:
        policy, learned, block_length: what was evaluated.
        seeds, problems: how many; problems of all seeds together.
        accuracy, low, high: with the 95% bootstrap interval over all problems.
        nfe, tokens_per_nfe, seconds: as in ``Result``, over all problems.
    """

    policy: str
    learned: bool
    block_length: int
    seeds: int
    problems: int
    accuracy: float
    low: float
    high: float
    nfe: float
    tokens_per_nfe: float
    seconds: float

    @property
    def point(self) -> Point:
        """(NFE, accuracy)."""
        return self.nfe, self.accuracy


def pool(results: Sequence[Result]) -> list[Row]:
    """One row for each policy and block length, in order of appearance."""
    groups: dict[tuple[int, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.block_length, result.policy), []).append(result)
    return [_row(group) for group in groups.values()]


def _row(group: Sequence[Result]) -> Row:
    outcomes: list[Outcome] = [outcome for result in group for outcome in result.outcomes]
    low, high = accuracy_interval(outcomes)
    return Row(
        policy=group[0].policy,
        learned=group[0].learned,
        block_length=group[0].block_length,
        seeds=len(group),
        problems=len(outcomes),
        accuracy=mean([outcome.correct for outcome in outcomes]),
        low=low,
        high=high,
        nfe=mean([outcome.nfe for outcome in outcomes]),
        tokens_per_nfe=tokens_per_nfe(outcomes),
        seconds=sum(result.seconds for result in group),
    )


def best_heuristic(rows: Sequence[Row], learned: Row) -> Row | None:
    """The most accurate heuristic that needs at most as many NFE as this policy, at the same block length."""
    rivals = [row for row in rows if not row.learned and row.block_length == learned.block_length]
    best = best_at_most([row.point for row in rivals], learned.nfe)
    return None if best is None else rivals[best]


def table(rows: Sequence[Row], title: str = "") -> Table:
    """The rows as a table for the terminal; learned policies in bold."""
    shown = Table(title=title or None)
    for name in ("policy", "BL", "problems", "accuracy", "95% interval", "NFE", "tokens/NFE", "seconds"):
        shown.add_column(name, justify="left" if name == "policy" else "right", no_wrap=name != "policy")
    for row in rows:
        shown.add_row(
            row.policy,
            str(row.block_length),
            f"{row.problems:,}",
            f"{row.accuracy:.1%}",
            f"{row.low:.1%} – {row.high:.1%}",
            f"{row.nfe:.1f}",
            f"{row.tokens_per_nfe:.2f}",
            f"{row.seconds:.1f}",
            style="bold" if row.learned else None,
        )
    return shown


# ------------------------------------------------------------------------------------------- picture

# Colour-blind safe (M. Okabe and K. Ito, 2008); the learned policies have vermilion for themselves.
_FAMILIES = {
    "threshold": ("#0072B2", "o"),
    "top_k": ("#009E73", "s"),
    "random": ("#999999", "X"),
    "leftmost": ("#CC79A7", "D"),
}
_OTHERS = (("#E69F00", "^"), ("#56B4E9", "v"), ("#8C6D31", "P"), ("#5E4FA2", "<"), ("#332288", ">"))
_LEARNED = "#D55E00"
# Right and below first: the lines of a family rise to the right.
_OFFSETS = ((7, -11), (-7, 5), (7, 5), (-7, -11), (0, 10), (0, -17), (12, 0), (-12, 0))


def draw_front(rows: Sequence[Row], path: Path, title: str = "") -> None:
    """Draws accuracy against NFE with the Pareto fronts of heuristics and of learned policies.

    Args:
        rows: from ``pool``; one panel for each block length among them.
        path: the PNG file to write.
        title: above everything.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    blocks = sorted({row.block_length for row in rows}, reverse=True)
    figure = Figure(figsize=(1.2 + 5.6 * len(blocks), 5.4), layout="constrained", dpi=150)
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(blocks), sharex=True, sharey=True, squeeze=False)[0]
    styles = _styles(rows)
    for panel, block in zip(panels, blocks, strict=True):
        inside = [row for row in rows if row.block_length == block]
        _draw_panel(panel, inside, styles)
        panel.set_title(f"block length {block}", fontsize=11)
        panel.set_xlabel("denoiser evaluations per response (NFE)")
    _scale(panels[0], rows)
    panels[0].set_ylabel("accuracy")
    if title:
        figure.suptitle(title, fontsize=12)
    named: dict[str, Any] = {}
    for panel in panels:
        handles, labels = panel.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    figure.draw_without_rendering()  # settles the layout that the labels are fitted into
    for panel, block in zip(panels, blocks, strict=True):
        _label(panel, [row for row in rows if row.block_length == block], styles)
    figure.savefig(path)


def _scale(panel: Any, rows: Sequence[Row]) -> None:
    """Log axis of NFE, where halving the work is one length everywhere, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, NullLocator, PercentFormatter

    low, high = min(row.nfe for row in rows), max(row.nfe for row in rows)
    panel.set_xscale("log")
    panel.set_xlim(low / 1.35, high * 1.35)
    ticks = (1, 2, 3, 5, 7, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 512, 1024)
    panel.set_xticks([n for n in ticks if low / 1.35 <= n <= high * 1.35])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.set_ylim(-0.04, 1.06)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))


def _family(row: Row) -> str:
    return row.policy if row.learned else row.policy.partition(":")[0]


def _styles(rows: Sequence[Row]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each family."""
    styles: dict[str, tuple[str, str]] = {}
    others = 0
    for row in rows:
        family = _family(row)
        if family in styles:
            continue
        if row.learned:
            styles[family] = (_LEARNED, "*")
        elif family in _FAMILIES:
            styles[family] = _FAMILIES[family]
        else:
            styles[family] = _OTHERS[others % len(_OTHERS)]
            others += 1
    return styles


def _draw_panel(panel: Any, rows: Sequence[Row], styles: dict[str, tuple[str, str]]) -> None:
    panel.grid(color="#e6e6e6", linewidth=0.8)
    panel.set_axisbelow(True)
    for learned, colour, style in ((False, "#444444", "--"), (True, _LEARNED, "-")):
        side = [row for row in rows if row.learned == learned]
        front = [side[i].point for i in pareto_front([row.point for row in side])]
        if front:
            label = "Pareto front, learned" if learned else "Pareto front, heuristics"
            end = (max(max(row.nfe for row in rows) * 1.35, front[-1][0]), front[-1][1])
            steps = [*front, end]
            panel.step(
                [x for x, _ in steps],
                [y for _, y in steps],
                where="post",
                color=colour,
                linestyle=style,
                linewidth=1.6,
                alpha=0.6,
                label=label,
                zorder=2,
            )
    for family, (colour, marker) in styles.items():
        members = sorted((row for row in rows if _family(row) == family), key=lambda row: row.nfe)
        if not members:
            continue
        learned = members[0].learned
        xs, ys = [row.nfe for row in members], [row.accuracy for row in members]
        errors = [[row.accuracy - row.low for row in members], [row.high - row.accuracy for row in members]]
        panel.errorbar(
            xs,
            ys,
            yerr=errors,
            color=colour,
            marker=marker,
            markersize=15 if learned else 6.5,
            markeredgecolor="white",
            linewidth=0 if learned else 1.0,
            elinewidth=1.4,
            capsize=2.5,
            alpha=0.95,
            label="learned policy" if learned else family,
            zorder=4 if learned else 3,
        )


def _label(panel: Any, rows: Sequence[Row], styles: dict[str, tuple[str, str]]) -> None:
    """Writes each point's parameter, or a learned policy's name, where there is room; best points first."""
    from matplotlib.patheffects import withStroke
    from matplotlib.transforms import Bbox

    renderer = panel.figure.canvas.get_renderer()
    pixels = panel.figure.dpi / 72
    inside = panel.get_window_extent(renderer)
    spots = [panel.transData.transform(row.point) for row in rows]
    taken = [Bbox.from_bounds(x - 4 * pixels, y - 4 * pixels, 8 * pixels, 8 * pixels) for x, y in spots]
    for row in sorted(rows, key=lambda row: (not row.learned, -row.accuracy)):
        text = _short(row)
        for dx, dy in _OFFSETS:
            label = panel.annotate(
                text,
                row.point,
                xytext=(dx, dy),
                textcoords="offset points",
                ha="left" if dx > 0 else "right" if dx < 0 else "center",
                fontsize=8.5 if row.learned else 7.5,
                fontweight="bold" if row.learned else "normal",
                color=styles[_family(row)][0],
                path_effects=[withStroke(linewidth=2.5, foreground="white")],
                zorder=5,
            )
            box = label.get_window_extent(renderer)
            free = not any(box.overlaps(other) for other in taken)
            if free and inside.x0 <= box.x0 and box.x1 <= inside.x1 and inside.y0 <= box.y0 <= box.y1 <= inside.y1:
                taken.append(box)
                break
            label.remove()


def _short(row: Row) -> str:
    if not row.learned:
        return row.policy.partition(":")[2] or row.policy
    name, _, settings = row.policy.partition(":")
    shown = Path(name).name
    return f"{shown} ({settings})" if settings else shown
