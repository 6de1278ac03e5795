"""Results, comparisons and fronts as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.table import Table

from dllm_env.eval.compare import (
    Comparison,
    Entry,
    by_condition,
    condition_titles,
    pass_at,
    samples_of,
)
from dllm_env.eval.fronts import Front, Value

SCORE_SAID = "; score: 0 is random, 1 the oracle"
INTERVAL = "[95%]"
"""In heads: what stands in brackets behind a figure is its 95% interval."""
NAME = 14
"""Letters of a line that a column which wraps is left at least."""
ROOM = 140
"""Columns of a table that goes to no terminal."""


@dataclass(frozen=True)
class _Column:
    """A column of a table for the terminal.

    Attributes:
        name: its head.
        rank: 0 for what is always there; of the others those of largest rank go first where there is no room.
        left: text, not numbers.
        wraps: goes on in a second line where there is no room.
        least: letters of a line that it is then left at least.
    """

    name: str
    rank: int = 0
    left: bool = False
    wraps: bool = False
    least: int = NAME


def _fit(shown: Table, columns: Sequence[_Column], rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Gives a table the columns for which there is room; which ones these are."""

    def needed(i: int) -> int:
        longest = max(map(cell_len, (columns[i].name, *(row[i] for row in rows))))
        return 3 + (min(longest, columns[i].least) if columns[i].wraps else longest)

    kept = list(range(len(columns)))
    while 1 + sum(map(needed, kept)) > width and any(columns[i].rank for i in kept):
        kept.remove(max(kept, key=lambda i: columns[i].rank))
    for i in kept:
        column = columns[i]
        shown.add_column(
            column.name, justify="left" if column.left else "right", no_wrap=not column.wraps, overflow="fold"
        )
    return kept


def table(entries: Sequence[Entry], title: str = "", width: int = ROOM) -> Table:
    """The entries as a table for the terminal, best accuracy last within a condition; learned policies in bold."""
    ks = [k for k in (2, 4, 8, 16, 32, 64) if k <= min(map(samples_of, entries))]
    remasked = any(entry.figures.remasks for entry in entries)
    planned = any(entry.figures.planning_nfe for entry in entries)
    rewarded = any(entry.figures.reward is not None for entry in entries)
    columns = [
        _Column("policy", left=True, wraps=True, least=30),
        _Column("BL"),
        _Column("problems", 7),
        _Column(f"accuracy {INTERVAL}"),
    ]
    columns += [*(_Column(f"pass@{k}", 4) for k in ks), _Column("NFE"), _Column("90%", 6)]
    columns += [_Column("tokens/NFE", 8), *([_Column("planning", 2)] if planned else [])]
    columns += [*([_Column("remasked", 3)] if remasked else []), *([_Column("reward", 5)] if rewarded else [])]
    columns += [_Column("seconds", 9)]

    def cells(entry: Entry) -> list[str]:
        figures = entry.figures
        likely = f"[{100 * figures.accuracy_low:.1f}, {100 * figures.accuracy_high:.1f}]"
        made = [entry.label, str(entry.block_length), f"{figures.problems:,}", f"{figures.accuracy:.1%} {likely}"]
        made += [f"{pass_at(entry, k):.1%}" for k in ks]
        made += [f"{figures.nfe:.1f}", f"{figures.nfe_90:.0f}", f"{figures.tokens_per_nfe:.2f}"]
        made += [f"{figures.planning_nfe:.0f}" if figures.planning_nfe else ""] if planned else []
        made += [f"{figures.remasks:.1f}"] if remasked else []
        made += ["" if figures.reward is None else f"{figures.reward:.3f}"] if rewarded else []
        return [*made, f"{figures.seconds:.1f}"]

    shown = Table(title=title or None)
    kept = _fit(shown, columns, [cells(entry) for entry in entries], width)
    groups = by_condition(entries)
    for group, about in zip(groups, condition_titles(groups), strict=True):
        if len(groups) > 1:
            shown.add_section()
            shown.add_row(about, style="italic")
        for entry in group:
            row = cells(entry)
            shown.add_row(*(row[i] for i in kept), style="bold" if entry.learned else None)
    return shown


def comparison_table(found: Sequence[Comparison], width: int = ROOM) -> Table:
    """Paired comparisons for the terminal."""
    columns = [
        _Column("policy", left=True, wraps=True),
        _Column("against", left=True, wraps=True),
        _Column("condition", 2, left=True, wraps=True),
        _Column(f"points {INTERVAL}"),
        _Column("only it / only the other", 3),
        _Column("p", 1),
        _Column("NFE"),
    ]
    rows = [
        [
            pair.first,
            f"{pair.second} ({pair.why})" if pair.why else pair.second,
            pair.title,
            f"{100 * pair.difference:+.1f} [{100 * pair.low:+.1f}, {100 * pair.high:+.1f}]",
            "" if pair.p is None else f"{pair.first_only} / {pair.second_only}",
            "" if pair.p is None else f"{pair.p:.2g}",
            f"{pair.nfe_ratio:.2f}× fewer" if pair.nfe_ratio >= 1 else f"{1 / pair.nfe_ratio:.2f}× more",
        ]
        for pair in found
    ]
    shown = Table(title="paired, on the same problems: percentage points of accuracy")
    kept = _fit(shown, columns, rows, width)
    for row in rows:
        shown.add_row(*(row[i] for i in kept))
    return shown


def front_table(found: Sequence[Front], width: int = ROOM) -> Table:
    """Areas, scores and AUP of the fronts for the terminal."""
    scored = any(front.score is not None for front in found)
    columns = [_Column("condition", left=True, wraps=True), _Column("front of", left=True, wraps=True)]
    columns += [_Column("policies", 4), _Column("problems", 5), _Column(f"area {INTERVAL}")]
    columns += [_Column(f"score {INTERVAL}")] if scored else []
    columns += [_Column("AUP", 3)]

    def cells(front: Front) -> list[str]:
        made = [front.title, front.who, str(front.policies), f"{front.problems:,}", _with_interval(front.area)]
        made += ["" if front.score is None else _with_interval(front.score)] if scored else []
        return [*made, f"{front.aup:.0f}"]

    shown = Table(title="fronts: area over log NFE, from 1 to L evaluations" + SCORE_SAID * scored)
    kept = _fit(shown, columns, [cells(front) for front in found], width)
    for front, before in zip(found, [None, *found], strict=False):
        if before is not None and before.title != front.title:
            shown.add_section()
        row = cells(front)
        shown.add_row(*(row[i] for i in kept), style="bold" if front.learned else None)
    return shown


def _with_interval(value: Value) -> str:
    return f"{value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
