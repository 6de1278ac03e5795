"""What came out, in one sentence for each condition: with which the report begins."""

from __future__ import annotations

from collections.abc import Sequence

from dllm_env.eval.compare import (
    Comparison,
    Entry,
    best_heuristic,
    by_condition,
    compare,
    condition_titles,
    fastest_heuristic,
)
from dllm_env.eval.names import Names, shown_name
from dllm_env.pareto import REFERENCES

CLOSE = 0.03
"""How far below the most accurate policy the one that a sentence is about may be."""


def answers(entries: Sequence[Entry], names: Names) -> list[tuple[str, str]]:
    """Title and sentence of each condition.

    Args:
        entries: from ``pool``.
        names: of learned policies.
    """
    groups = by_condition(entries)
    return [(title, answer(group, names)) for group, title in zip(groups, condition_titles(groups), strict=True)]


def spoken_for(group: Sequence[Entry]) -> Entry:
    """The policy that the sentence is about.

    Of the learned ones, the fastest that is within 3 points of the most accurate policy or rule, or the most
    accurate one where none is; without learned ones, so of the rules, and of the references where that is all.
    """
    policies = [entry for entry in group if entry.kind not in REFERENCES] or list(group)
    mine = [entry for entry in policies if entry.learned] or policies
    bar = max(entry.accuracy for entry in policies) - CLOSE
    close = [entry for entry in mine if entry.accuracy >= bar - 1e-9]
    if close:
        return min(close, key=lambda entry: (entry.nfe, -entry.accuracy))
    return min(mine, key=lambda entry: (-entry.accuracy, entry.nfe))


def answer(group: Sequence[Entry], names: Names) -> str:
    """The sentence about a condition."""
    entry = spoken_for(group)
    said = f"{_subject(entry, names)} gets {entry.accuracy:.1%} with {entry.nfe:.1f} evaluations"
    if entry.learned:
        said += f", {_against_rules(group, entry)}"
    top = [other for other in group if other.kind == "oracle" and other is not entry]
    if top:
        best = max(top, key=lambda other: other.accuracy)
        said += f"; the oracle, which knows what to write, {best.accuracy:.1%} with {best.nfe:.1f}"
    return said + "."


def _subject(entry: Entry, names: Names) -> str:
    kinds = {
        "learned": "The learned policy",
        "heuristic": "The rule",
        "oracle": "The reference",
        "search": "The search",
    }
    return f"{kinds[entry.kind]} {shown_name(entry, names)}"


def _against_rules(group: Sequence[Entry], entry: Entry) -> str:
    """How a learned policy compares with the best rule that is as fast."""
    if not any(other.kind == "heuristic" for other in group):
        return "and no rule was played here"
    rival, equal = best_heuristic(group, entry), fastest_heuristic(group, entry)
    if rival is None and equal is None:
        return "and no rule here is as fast, or as accurate"
    if rival is None:
        assert equal is not None
        return f"and no rule here is as fast: the fastest that is as accurate, {equal.label}, needs {equal.nfe:.1f}"
    pair = compare(entry, rival)
    return f"{_difference(pair)} the best rule that is as fast, {rival.label}{_told(pair)}"


def _difference(pair: Comparison) -> str:
    points = round(100 * pair.difference, 1)
    if points == 0:
        return "as often right as"
    return f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"


def _told(pair: Comparison) -> str:
    """The interval of a difference; where it holds 0, that chance can explain it."""
    interval = f"95% interval {100 * pair.low:+.1f} to {100 * pair.high:+.1f}".replace("-", "−")
    chance = ": too few problems to tell" if pair.low <= 0 <= pair.high else ""
    return f" ({interval}{chance})"
