"""Results, comparisons and fronts as tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

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


def table(entries: Sequence[Entry], title: str = "") -> Table:
    """The entries as a table for the terminal, best accuracy last within a condition; learned policies in bold."""
    shown = Table(title=title or None)
    ks = [k for k in (2, 4, 8, 16, 32, 64) if k <= min(map(samples_of, entries))]
    remasked = any(entry.figures.remasks for entry in entries)
    planned = any(entry.figures.planning_nfe for entry in entries)
    rewarded = any(entry.figures.reward is not None for entry in entries)
    columns = ["policy", "BL", "problems", "accuracy", "95% interval", *(f"pass@{k}" for k in ks)]
    columns += ["NFE", "90%", "tokens/NFE", *(["planning"] if planned else []), *(["remasked"] if remasked else [])]
    columns += [*(["reward"] if rewarded else []), "seconds"]
    for name in columns:
        shown.add_column(name, justify="left" if name == "policy" else "right", no_wrap=name != "policy")
    groups = by_condition(entries)
    for group, about in zip(groups, condition_titles(groups), strict=True):
        if len(groups) > 1:
            shown.add_section()
            shown.add_row(about, style="italic")
        for entry in group:
            figures = entry.figures
            cells = [entry.label, str(entry.block_length), f"{figures.problems:,}", f"{figures.accuracy:.1%}"]
            cells += [f"{figures.accuracy_low:.1%} – {figures.accuracy_high:.1%}"]
            cells += [f"{pass_at(entry, k):.1%}" for k in ks]
            cells += [f"{figures.nfe:.1f}", f"{figures.nfe_90:.0f}", f"{figures.tokens_per_nfe:.2f}"]
            cells += [f"{figures.planning_nfe:.0f}" if figures.planning_nfe else ""] if planned else []
            cells += [f"{figures.remasks:.1f}"] if remasked else []
            cells += ["" if figures.reward is None else f"{figures.reward:.3f}"] if rewarded else []
            shown.add_row(*cells, f"{figures.seconds:.1f}", style="bold" if entry.learned else None)
    return shown


def comparison_table(found: Sequence[Comparison]) -> Table:
    """Paired comparisons for the terminal."""
    shown = Table(title="paired, on the same problems")
    for name in (
        "policy",
        "against",
        "condition",
        "accuracy",
        "95% interval",
        "only it / only the other",
        "p",
        "NFE",
    ):
        shown.add_column(name, justify="left" if name in ("policy", "against", "condition") else "right")
    for pair in found:
        only = "" if pair.p is None else f"{pair.first_only} / {pair.second_only}"
        shown.add_row(
            pair.first,
            f"{pair.second} ({pair.why})" if pair.why else pair.second,
            pair.title,
            f"{100 * pair.difference:+.1f} points",
            f"{100 * pair.low:+.1f} – {100 * pair.high:+.1f}",
            only,
            "" if pair.p is None else f"{pair.p:.2g}",
            f"{pair.nfe_ratio:.2f}× fewer" if pair.nfe_ratio >= 1 else f"{1 / pair.nfe_ratio:.2f}× more",
        )
    return shown


def front_table(found: Sequence[Front]) -> Table:
    """Areas, scores and AUP of the fronts for the terminal."""
    scored = any(front.score is not None for front in found)
    shown = Table(title="fronts: area over log NFE, from 1 to L evaluations" + SCORE_SAID * scored)
    columns = ["condition", "front of", "policies", "problems", "area", "95% interval"]
    for name in [*columns, *(["score", "95% interval"] if scored else []), "AUP"]:
        shown.add_column(name, justify="left" if name in ("condition", "front of") else "right")
    for front, before in zip(found, [None, *found], strict=False):
        if before is not None and before.title != front.title:
            shown.add_section()
        cells = [front.title, front.who, str(front.policies), f"{front.problems:,}", *_with_interval(front.area)]
        cells += (["", ""] if front.score is None else _with_interval(front.score)) if scored else []
        shown.add_row(*cells, f"{front.aup:.0f}", style="bold" if front.learned else None)
    return shown


def _with_interval(value: Value) -> list[str]:
    return [f"{value.value:.3f}", f"{value.low:.3f} – {value.high:.3f}"]
