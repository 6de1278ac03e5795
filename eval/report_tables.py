"""The tables of the report as plain data: what each cell shows, and what it sorts by."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from dllm_env.eval.compare import Comparison, Entry, pass_at, samples_of
from dllm_env.eval.fronts import Front, Value
from dllm_env.eval.latency import Timing, latency_cells
from dllm_env.eval.matrix import Matrix
from dllm_env.eval.names import shown_front, shown_name

Table = dict[str, Any]
FIRST = (
    "policy",
    "against",
    "front of",
    "condition",
    "accuracy",
    "NFE",
    "seconds a response",
    "area",
    "score",
    "mean",
)
"""Columns that even a narrow page has room for."""
Cell = tuple[str, float | str | None]
"""What is shown, and what it sorts by; None comes last."""


def _table(about: Mapping[str, str], lines: Iterable[tuple[bool, Sequence[Cell]]]) -> Table:
    """A table from columns with what they mean, and lines of (shown in bold, cells).

    Returns:
        ``columns``: objects with ``name``, ``about``, whether they hold a ``number``, to set at the right, and
            whether they are among the ``first``, which a narrow page shows.
        ``lines``: objects with ``bold`` and ``cells``.
    """
    made: list[Table] = [{"bold": bold, "cells": list(cells)} for bold, cells in lines]
    columns = [
        {
            "name": name,
            "about": text,
            "number": name != "condition" and any(_is_number(line["cells"][i]) for line in made),
            "first": name in FIRST and not (name == "condition" and len({line["cells"][i] for line in made}) < 2),
        }
        for i, (name, text) in enumerate(about.items())
    ]
    return {"columns": columns, "lines": made}


def _is_number(cell: Cell) -> bool:
    return isinstance(cell[1], (int, float))


def _percent(value: float) -> Cell:
    return f"{value:.1%}", value


def percentages(low: float, high: float) -> str:
    """A range of shares in words."""
    return f"{low:.1%} – {high:.1%}"


def figures_table(
    groups: Sequence[Sequence[Entry]], titles: Sequence[str], names: Mapping[str, str] | None = None
) -> Table:
    """All figures of all entries; learned policies are bold.

    Args:
        groups, titles: from ``conditions`` and ``condition_titles``.
        names: of learned policies; see ``learned_names``.
    """
    entries = [entry for group in groups for entry in group]
    ks = [k for k in (2, 4, 8, 16, 32, 64) if k <= max(map(samples_of, entries))]
    planned = any(entry.figures.planning_nfe for entry in entries)
    remasked = any(entry.figures.remasks for entry in entries)
    about = {
        "policy": "rule with its parameters, or folder of the learned policy",
        "kind": "a heuristic is a fixed rule, a learned policy was trained, the oracle knows what to write, a "
        "search may ask whether it is right",
        "condition": "what the policies share; only policies of the same condition can be compared",
        "problems": "problems, those of all seeds together",
        "accuracy": "share of the problems that were solved",
        "95% interval": "where the accuracy on all problems of this kind is likely to be (Wilson's; of several "
        "samples for a problem the bootstrap)",
        **{f"pass@{k}": f"chance that at least one of {k} samples of a problem is right" for k in ks},
        "NFE": "denoiser evaluations for a response, on average; fewer is faster",
        "NFE 90%": "nine of ten responses need at most so many",
        **(
            {"planning": "evaluations that a reference made for it beforehand, on average; not part of NFE"}
            if planned
            else {}
        ),
        "tokens/NFE": "tokens before end-of-text that one evaluation gives",
        "finished": "share of the responses without a mask left when the steps were used up",
        **({"remasked": "tokens put back to mask, on average"} if remasked else {}),
        "seconds": "time for all problems on the machine that played them",
    }
    lines = [
        (entry.learned, _figure_cells(entry, condition, title, ks, planned, remasked, names or {}))
        for condition, (group, title) in enumerate(zip(groups, titles, strict=True))
        for entry in group
    ]
    return _table(about, lines)


def _figure_cells(
    entry: Entry,
    condition: int,
    title: str,
    ks: Sequence[int],
    planned: bool,
    remasked: bool,
    names: Mapping[str, str],
) -> list[Cell]:
    figures = entry.figures
    name = shown_name(entry, names) if names else entry.label
    return [
        (name, name),
        (entry.kind, entry.kind),
        (title, condition),
        (f"{figures.problems:,}", figures.problems),
        _percent(figures.accuracy),
        (percentages(figures.accuracy_low, figures.accuracy_high), figures.accuracy_low),
        *(_percent(pass_at(entry, k)) if k <= samples_of(entry) else ("–", None) for k in ks),
        (f"{figures.nfe:.1f}", figures.nfe),
        (f"{figures.nfe_90:.0f}", figures.nfe_90),
        *([(f"{figures.planning_nfe:.0f}", figures.planning_nfe)] if planned else []),
        (f"{figures.tokens_per_nfe:.2f}", figures.tokens_per_nfe),
        _percent(figures.finished),
        *([(f"{figures.remasks:.1f}", figures.remasks)] if remasked else []),
        (f"{figures.seconds:.1f}", figures.seconds),
    ]


def pairs_table(
    pairs: Sequence[Comparison], titles: Sequence[str], names: Mapping[str, str] | None = None
) -> Table:
    """The paired tests, conditions in the order of their titles; ``names`` say what labels are shown as."""
    about = {
        "policy": "the first of the two",
        "against": "the second of the two",
        "chosen as": "why it is compared with this one",
        "condition": "where both were played",
        "problems": "problems that both were given",
        "accuracy": "accuracy of the first minus that of the second, in percentage points",
        "95% interval": "of this difference (Tango's; of several samples for a problem the paired bootstrap)",
        "only first right": "problems that the first solved and the second did not",
        "only second right": "problems that the second solved and the first did not",
        "p": "chance of counts at least so uneven if both were equally good (McNemar's exact test)",
        "NFE ratio": "NFE of the second over that of the first; above 1 the first is faster",
        "95% interval of the ratio": "paired bootstrap",
    }
    return _table(about, [(False, _pair_cells(pair, titles, names or {})) for pair in pairs])


def _pair_cells(pair: Comparison, titles: Sequence[str], names: Mapping[str, str]) -> list[Cell]:
    def points(value: float) -> str:
        return f"{100 * value:+.1f}".replace("-", "−")

    def count(value: float | None, form: str = "d") -> Cell:
        return ("–", None) if value is None else (f"{value:{form}}", value)

    first, second = (names.get(label, label) for label in (pair.first, pair.second))
    return [
        (first, first),
        (second, second),
        (pair.why, pair.why),
        _condition_cell(pair.title, titles),
        (f"{pair.problems:,}", pair.problems),
        (f"{points(pair.difference)} points", pair.difference),
        (f"{points(pair.low)} – {points(pair.high)}", pair.low),
        count(pair.first_only),
        count(pair.second_only),
        count(pair.p, ".2g"),
        (f"{pair.nfe_ratio:.2f}×", pair.nfe_ratio),
        (f"{pair.nfe_low:.2f} – {pair.nfe_high:.2f}", pair.nfe_low),
    ]


def fronts_table(found: Sequence[Front], titles: Sequence[str], names: Mapping[str, str] | None = None) -> Table:
    """The fronts, conditions in the order of their titles; ``names`` are those of learned policies."""
    scored = any(front.score is not None for front in found)
    score = {
        "score": "area above that of random, as a share of what the oracle has above it",
        "95% interval of the score": "bootstrap over problems",
    }
    about = {
        "condition": "where the policies were played",
        "front of": "whose front: all policies of a kind, or a rule or learned policy with all values of its knob",
        "policies": "how many policies",
        "problems": "problems that all policies of the condition were given",
        "area": "best accuracy within n evaluations, averaged over log n, n from 1 to the length of the response",
        "95% interval": "of the area (bootstrap over problems)",
        **(score if scored else {}),
        "AUP": "accuracy under parallelism: area under the accuracy over tokens per NFE, where losses of accuracy "
        "are weighed down (arXiv 2601.07568)",
    }
    lines: list[tuple[bool, list[Cell]]] = [
        (
            front.learned,
            [
                _condition_cell(front.title, titles),
                (shown_front(front.who, names or {}), front.who),
                (str(front.policies), front.policies),
                (f"{front.problems:,}", front.problems),
                *_with_interval(front.area),
                *(_with_interval(front.score) if scored else []),
                (f"{front.aup:.0f}", front.aup),
            ],
        )
        for front in found
    ]
    return _table(about, lines)


def scores_table(matrix: Matrix | None, names: Mapping[str, str] | None = None) -> Table:
    """The scores in several conditions, best on average first; no line without a matrix."""
    if matrix is None:
        return _table({"front of": "", "mean": ""}, [])
    about = {
        "front of": "whose front: all policies of a kind, or a rule or learned policy with all values of its knob",
        **dict.fromkeys(matrix.columns, "score in this condition: 0 is random, 1 the oracle"),
        "mean": "over the conditions",
        "95% interval": "of the mean (bootstrap over problems)",
    }
    lines: list[tuple[bool, list[Cell]]] = [
        (
            learned,
            [
                (shown_front(who, names or {}), who),
                *(_with_interval(value)[0] for value in values),
                *_with_interval(middle),
            ],
        )
        for who, values, middle, learned in zip(
            matrix.rows, matrix.values, matrix.means, matrix.learned, strict=True
        )
    ]
    return _table(about, lines)


def latency_columns(timings: Sequence[Timing], names: Mapping[str, str]) -> Table:
    """Times on one machine, the default decoding in bold."""
    about = {
        "policy": "rule with its parameters, or learned policy",
        "task": "what was played",
        "BL": "block length",
        "seconds a response": "wall time of a response at batch size 1, on average",
        "tokens a second": "tokens before end-of-text over the seconds of all responses",
        "NFE": "denoiser evaluations for a response, on average",
        "speed-up": "seconds of the default decoding (the most confident position, one token a step) over these",
    }
    lines: list[tuple[bool, list[Cell]]] = []
    for one in timings:
        name, task, *numbers = latency_cells(replace(one, policy=shown_front(one.policy, names)))
        values = (one.block_length, one.seconds, one.tokens_per_second, one.nfe, one.speedup)
        lines.append((one.default, [(name, name), (task, task), *zip(numbers, values, strict=True)]))
    return _table(about, lines)


def _with_interval(value: Value | None) -> list[Cell]:
    if value is None:
        return [("–", None), ("–", None)]
    return [(f"{value.value:.3f}", value.value), (f"{value.low:.3f} – {value.high:.3f}", value.low)]


def _condition_cell(title: str, titles: Sequence[str]) -> Cell:
    return title, titles.index(title) if title in titles else None
