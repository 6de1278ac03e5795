"""The report: results as one HTML page, which needs a browser and nothing else.

What is shown is put together here as plain data, words and numbers, by ``page_data``. The page holds it as JSON,
and ``report.js`` draws it within the frame of ``report.html``. Names, prompts and responses can be anything: they
reach the page as text only, never as HTML.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime, timezone
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

import dllm_env
from dllm_env.errors import UsageError
from dllm_env.eval.compare import (
    Comparison,
    Row,
    best_heuristic,
    fronts,
    scene_titles,
    scenes,
)
from dllm_env.eval.report_tables import areas_table, pairs_table, percentages, rows_table
from dllm_env.eval.results import Outcome
from dllm_env.front import LEARNED, family_styles, pareto_front
from dllm_env.policies.registry import load_heuristic

REPORT = "report.html"

Json = dict[str, Any]
# What plotly calls the markers of matplotlib that the picture has.
_SYMBOLS = {
    **{"o": "circle", "s": "square", "X": "x", "D": "diamond", "d": "diamond-tall", "P": "cross", "*": "star"},
    **{"^": "triangle-up", "v": "triangle-down", "<": "triangle-left", ">": "triangle-right"},
    **{"p": "pentagon", "h": "hexagon2", "H": "hexagon", "8": "octagon"},
}
_LEARNED_FAMILY = "learned policies"


def write_report(
    rows: Sequence[Row], pairs: Sequence[Comparison], page: Path, title: str, viewer_problems: int = 60
) -> None:
    """Writes the page. The same input gives the same one, but for the date.

    Args:
        rows: from ``pool``.
        pairs: from ``comparisons``; may be empty.
        page: the file to write, in a folder that exists.
        title: what the rows are about, in a line.
        viewer_problems: how many problems of each scene the viewer of responses has at most.

    Raises:
        UsageError: plotly, which draws the plots, is not installed.
    """
    drawing, version = _plotly()
    data = page_data(rows, pairs, viewer_problems)
    data["facts"].append(["Report", f"dllm-env {dllm_env.__version__}, plotly.js {version}"])
    parts = {
        "title": html.escape(title),
        "date": f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC",
        "css": _file("report.css"),
        "plotly": drawing,
        "data": to_json(data),
        "js": _file("report.js"),
    }
    # In one go: what is put in may hold the marks of other places.
    text = re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _file("report.html"))
    page.write_text(text, encoding="utf-8", errors="replace", newline="\n")


def _plotly() -> tuple[str, str]:
    """The source of plotly.js, and its version."""
    try:
        from plotly.offline import get_plotlyjs, get_plotlyjs_version  # type: ignore[import-untyped]
    except ImportError:
        raise UsageError("the report needs plotly: pip install 'dllm-env[report]'") from None
    return get_plotlyjs(), get_plotlyjs_version()


def _file(name: str) -> str:
    return (resources.files("dllm_env.eval") / name).read_text(encoding="utf-8")


def to_json(data: Json) -> str:
    """JSON in ASCII that cannot end the script element which it stands in, whatever its texts are."""
    return json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def page_data(rows: Sequence[Row], pairs: Sequence[Comparison], viewer_problems: int = 60) -> Json:
    """Everything that the page shows, ready for JSON.

    Returns:
        ``facts``: [name, value] pairs about the evaluation.
        ``families``: colour and symbol of each family of policies, by name.
        ``learned``: colour of the learned policies.
        ``nfe``: the least and the greatest mean of all rows.
        ``scenes``: of each what ``_scene`` returns.
        ``tables``: rows, pairs and areas, from ``report_tables``.
        ``texts``: prompts, responses and tokens, to which the problems of the scenes point.
    """
    groups, texts = scenes(rows), Texts()
    titles = scene_titles(groups)
    found = [_scene(*scene, viewer_problems, texts) for scene in zip(groups, titles, strict=True)]
    known, styles = family_styles([row.spot for row in rows]), {}
    for row in rows:
        colour, marker = known[row.spot.family]
        styles[_group(row)] = {"colour": colour, "symbol": _SYMBOLS[marker]}
    return {
        "facts": _facts(rows),
        "families": styles,
        "learned": LEARNED,
        "nfe": [min(row.nfe for row in rows), max(row.nfe for row in rows)],
        "scenes": found,
        "tables": {
            "rows": rows_table(groups, titles),
            "pairs": pairs_table(pairs, titles),
            "areas": areas_table(fronts(rows), titles),
        },
        "texts": texts.all,
    }


def _group(row: Row) -> str:
    """The family in the legend: all learned policies are one."""
    return _LEARNED_FAMILY if row.learned else row.spot.family


def _facts(rows: Sequence[Row]) -> list[list[str]]:
    settings = [row.setting for row in rows]

    def said(*values: object) -> str:
        return " or ".join(dict.fromkeys(map(str, values)))

    kinds = {
        kind: len({row.label for row in rows if row.learned == learned})
        for kind, learned in (("heuristic", False), ("learned", True))
    }
    samples = [row.figures.samples // row.figures.problems for row in rows]
    weights = {row.label: row.setting.policy_version for row in rows if row.setting.policy_version}
    named = [
        ("Task", said(*(s.task for s in settings))),
        ("Denoiser", said(*(f"{s.denoiser} ({s.denoiser_version or 'no version'})" for s in settings))),
        ("Problems", f"{said(*(f'{row.figures.problems:,}' for row in rows))} for each policy"),
        ("Split", said(*(s.split for s in settings))),
        ("Samples", f"{said(*samples)} for each problem"),
        ("Seeds", ", ".join(map(str, sorted({o.seed for row in rows for o in row.outcomes})))),
        ("Response", f"{said(*(s.response_length for s in settings))} tokens"),
        ("Block length", said(*(s.block_length for s in settings))),
        ("Temperature", said(*(f"{s.temperature:g}" for s in settings))),
        ("Policies", ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)),
        ("Policy versions", ", ".join(f"{label} ({version})" for label, version in weights.items())),
        ("Played by", said(*(f"dllm-env {s.code_version or 'of unknown version'}" for s in settings))),
    ]
    return [[name, value] for name, value in named if value]


# --------------------------------------------------------------------------------------------- scenes


def _scene(group: Sequence[Row], title: str, limit: int, texts: Texts) -> Json:
    """A scene: its points, fronts (indices of rows), problems for the viewer, and order of unmasking."""
    sides = {"heuristics": [not row.learned for row in group], "learned": [row.learned for row in group]}
    return {
        "title": title,
        "length": group[0].setting.response_length,
        "remask": group[0].setting.allow_remask,
        "rows": [_point(row) for row in group],
        "fronts": {who: _front(group, side) for who, side in sides.items()},
        "opening": _opening(group),
        "order": [mean_order(row.outcomes) for row in group],
        **_problems(group, limit, texts),
    }


def _point(row: Row) -> Json:
    figures = row.figures
    interval = percentages(figures.accuracy_low, figures.accuracy_high)
    return {
        "label": row.label,
        "short": _short(row),
        "family": _group(row),
        "learned": row.learned,
        "nfe": row.nfe,
        "accuracy": row.accuracy,
        "low": figures.accuracy_low,
        "high": figures.accuracy_high,
        "about": [
            row.label,
            *_parameters(row.policy),
            f"accuracy {figures.accuracy:.1%} (95% interval {interval})",
            f"NFE {figures.nfe:.1f} on average, {figures.nfe_90:.0f} at the 90th percentile",
            f"{figures.tokens_per_nfe:.2f} tokens per NFE",
            f"{figures.problems:,} problems",
        ],
    }


def _short(row: Row) -> str:
    """The label; of a folder its last two names."""
    name, colon, settings = row.label.partition(":")
    return "/".join(Path(name).parts[-2:]) + colon + settings if row.learned else row.label


def _parameters(policy: str) -> list[str]:
    """A rule's parameters, those left at their defaults too; what stands after the name where it is no rule's."""
    try:
        rule = load_heuristic(policy)
    except ValueError:
        settings = policy.partition(":")[2]
        return [settings] if settings else []
    return [f"{field.name} = {getattr(rule, field.name)}" for field in fields(rule)]


def _front(group: Sequence[Row], side: Sequence[bool]) -> list[int]:
    members = [i for i, inside in enumerate(side) if inside]
    return [members[i] for i in pareto_front([group[i].point for i in members])]


def _opening(group: Sequence[Row]) -> list[int]:
    """The two rows that the viewer shows first: a learned one if any, and its rival."""
    order = sorted(range(len(group)), key=lambda i: -group[i].accuracy)
    first = next((i for i in order if group[i].learned), order[0])
    rival = best_heuristic(group, group[first]) if group[first].learned else None
    others = [i for i in order if i != first] or [first]
    return [first, next((i for i in others if group[i] is rival), others[0])]


def mean_order(outcomes: Sequence[Outcome]) -> list[float | None]:
    """When each position is written, on average: 0 in a row's first step, 1 in its last.

    Returns:
        L values, mean of revealed_at / (steps − 1) over the rows that wrote the position; None where none did.
    """
    revealed = np.array([outcome.revealed_at for outcome in outcomes], dtype=np.float64)
    last = np.array([max(outcome.steps - 1, 1) for outcome in outcomes])[:, None]
    written = revealed >= 0
    total, count = (np.where(written, revealed, 0) / last).sum(0).tolist(), written.sum(0).tolist()
    return [round(t / n, 3) if n else None for t, n in zip(total, count, strict=True)]


# --------------------------------------------------------------------------------------------- viewer

Problem = tuple[int, int, str]
"""(seed, index, prompt); of different versions of a task, the prompts may differ."""


class Texts:
    """Texts, each of them once; elsewhere its number stands for it."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text."""
        return self._numbers.setdefault(text, len(self._numbers))

    @property
    def all(self) -> list[str]:
        """The texts in the order of their numbers."""
        return list(self._numbers)


def pack(values: Iterable[int]) -> str:
    """Whole numbers as text, runs of equal ones once: [4, 4, 4, −1] is ``4x3 -1``."""
    runs = [(value, len(list(run))) for value, run in groupby(values)]
    return " ".join(f"{value}x{count}" if count > 1 else str(value) for value, count in runs)


def _problems(group: Sequence[Row], limit: int, texts: Texts) -> Json:
    """Problems for the viewer, with how each row answered them.

    Returns:
        ``problems``: objects with ``name``, ``prompt`` and ``answers``, for each row what ``_answer`` returns, or
        None where the row was not given the problem.
        ``common``: how many problems all rows were given. Only where there is none come those of single rows.
        ``samples``: whether there are several of a problem; the first is shown.
    """
    played = [_first_samples(row.outcomes) for row in group]
    common = sorted(set.intersection(*map(set, played)))
    chosen = (common or sorted(set.union(*map(set, played))))[:limit]
    seeds = len({seed for row in played for seed, _, _ in row}) > 1
    problems = []
    for seed, index, prompt in chosen:
        found = [row.get((seed, index, prompt)) for row in played]
        problems.append(
            {
                "name": f"seed {seed}, problem {index}" if seeds else f"problem {index}",
                "prompt": texts.number(prompt),
                "answers": [outcome and _answer(outcome, texts) for outcome in found],
            }
        )
    several = any(outcome.sample for row in group for outcome in row.outcomes)
    return {"problems": problems, "common": len(common), "samples": several}


def _first_samples(outcomes: Sequence[Outcome]) -> dict[Problem, Outcome]:
    first: dict[Problem, Outcome] = {}
    for outcome in outcomes:
        known = first.setdefault((outcome.seed, outcome.index, outcome.prompt), outcome)
        if outcome.sample < known.sample:
            first[outcome.seed, outcome.index, outcome.prompt] = outcome
    return first


def _answer(outcome: Outcome, texts: Texts) -> list[Any]:
    """[correct, nfe, steps, finished, position of the first end-of-text, response, words, revealed_at, confidence].

    The last three are packed; confidence in hundredths.
    """
    return [
        outcome.correct,
        outcome.nfe,
        outcome.steps,
        outcome.finished,
        end_of_text(outcome),
        texts.number(outcome.response),
        pack(map(texts.number, outcome.words)),
        pack(outcome.revealed_at),
        pack(round(100 * value) for value in outcome.confidence),
    ]


def end_of_text(outcome: Outcome) -> int:
    """Position of the first end-of-text, L where there is none: what follows the tokens that count."""
    written = [position for position, step in enumerate(outcome.revealed_at) if step >= 0]
    return written[outcome.tokens] if outcome.tokens < len(written) else len(outcome.revealed_at)
