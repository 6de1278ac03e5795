"""The report: results as one HTML page, which needs a browser and nothing else.

What is shown is put together here as plain data, words and numbers, by ``page_data``. The page holds it as JSON,
and ``report.js`` draws it within the frame of ``report.html``. Names, prompts and responses can be anything: they
reach the page as text only, never as HTML.
"""

from __future__ import annotations

import base64
import contextlib
import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

import dllm_env
from dllm_env.errors import UsageError
from dllm_env.eval.answers import answers
from dllm_env.eval.compare import (
    Comparison,
    Entry,
    best_heuristic,
    by_condition,
    condition_titles,
)
from dllm_env.eval.fronts import fronts
from dllm_env.eval.latency import Timing
from dllm_env.eval.matrix import score_matrix
from dllm_env.eval.names import Names, shown_name
from dllm_env.eval.report_tables import (
    figures_table,
    fronts_table,
    latency_columns,
    pairs_table,
    percentages,
    scores_table,
)
from dllm_env.eval.results import Outcome
from dllm_env.files import write_atomically
from dllm_env.pareto import FRONTS, called, family_styles, pareto_front, short
from dllm_env.policies.registry import load_heuristic
from dllm_env.specs import split
from dllm_env.user_code import file_part

REPORT = "report.html"

LONGEST, LONGEST_WORD, MOST_WORDS = 20_000, 500, 8_192
"""Characters of a prompt or response on the page, and of a token; tokens of a response. The files of results have
all of them."""

Json = dict[str, Any]
# What plotly calls the markers of matplotlib that the picture has.
_SYMBOLS = {
    **{"o": "circle", "s": "square", "X": "x", "D": "diamond", "d": "diamond-tall", "P": "cross", "*": "star"},
    **{"^": "triangle-up", "v": "triangle-down", "<": "triangle-left", ">": "triangle-right"},
    **{"p": "pentagon", "h": "hexagon2", "H": "hexagon", "8": "octagon"},
}
_DASHES = {"-": "solid", "--": "dash", ":": "dot", "-.": "dashdot"}
"""And their lines."""
_LEARNED_FAMILY = "learned policies"


def write_report(
    entries: Sequence[Entry],
    pairs: Sequence[Comparison],
    page: Path,
    title: str,
    viewer_problems: int = 60,
    names: Names | None = None,
    played: datetime | None = None,
    picture: bytes = b"",
    times: tuple[str, Sequence[Timing]] = ("", ()),
) -> None:
    """Writes the page. The same input gives the same one.

    Args:
        entries: from ``pool``.
        pairs: from ``comparisons``; may be empty.
        page: the file to write.
        title: what the entries are about, in a line.
        viewer_problems: how many problems of each condition the viewer of responses has at most.
        names: of learned policies; see ``learned_names``.
        played: when the last of the results was written, in UTC.
        picture: the fronts of all conditions as SVG, shown where the page is printed or has no JavaScript.
        times: the machine, and what was measured on it.

    Raises:
        UsageError: plotly, which draws the plots, is not installed.
    """
    drawing, version = _plotly()
    data = page_data(entries, pairs, viewer_problems, names or {})
    data["tables"]["latency"] = latency_columns(times[1], names or {})
    data["machine"] = times[0]
    data["facts"].append(["Report", f"dllm-env {dllm_env.__version__}, plotly.js {version}"])
    if played is not None:
        data["facts"].append(["Results of", f"{played:%Y-%m-%d %H:%M} UTC"])
    source = "data:image/svg+xml;base64," + base64.b64encode(picture).decode()
    parts = {
        "title": html.escape(title),
        "css": _file("report.css"),
        "plotly": drawing,
        "data": to_json(data),
        "js": _file("report.js"),
        "picture": f'<img id="picture" src="{source}" alt="{html.escape(title)}">' if picture else "",
    }
    # In one go: what is put in may hold the marks of other places.
    text = re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place[1]], _file("report.html"))
    page.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(page, text.encode(errors="replace"))


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


def page_data(
    entries: Sequence[Entry], pairs: Sequence[Comparison], viewer_problems: int = 60, names: Names | None = None
) -> Json:
    """Everything that the page shows, ready for JSON.

    Returns:
        ``answers``: [condition, sentence] pairs.
        ``facts``: [name, value] pairs about the evaluation.
        ``families``: colour and symbol of each family of policies, by name.
        ``fronts``: colour, dash and name of each kind's front.
        ``nfe``: the least and the greatest mean of all entries.
        ``conditions``: of each what ``_condition`` returns.
        ``tables``: figures, pairs, areas and scores, from ``report_tables``.
        ``texts``: prompts, responses and tokens, to which the problems of the conditions point.
    """
    names = names or {}
    groups, texts, areas = by_condition(entries), Texts(), fronts(entries)
    titles = condition_titles(groups)
    found = [_condition(*of, viewer_problems, texts, names) for of in zip(groups, titles, strict=True)]
    known, styles = family_styles([entry.point for entry in entries], names), {}
    for entry in entries:
        colour, marker = known[entry.point.family]
        styles[_group(entry, names)] = {"colour": colour, "symbol": _SYMBOLS[marker]}
    return {
        "answers": answers(entries, names),
        "facts": _facts(entries),
        "families": styles,
        "fronts": {
            kind: {"colour": colour, "dash": _DASHES[line], "name": name}
            for kind, (colour, line, name) in FRONTS.items()
        },
        "nfe": [min(entry.nfe for entry in entries), max(entry.nfe for entry in entries)],
        "conditions": found,
        "tables": {
            "figures": figures_table(groups, titles, names),
            "pairs": pairs_table(pairs, titles, {entry.label: shown_name(entry, names) for entry in entries}),
            "areas": fronts_table(areas, titles, names),
            "scores": scores_table(score_matrix(areas), names),
        },
        "texts": texts.all,
    }


def _group(entry: Entry, names: Names) -> str:
    """The family in the legend; learned policies without names are one."""
    return called(entry.point, names) if not entry.learned or names else _LEARNED_FAMILY


def _facts(entries: Sequence[Entry]) -> list[list[str]]:
    settings = [entry.setting for entry in entries]

    def said(*values: object) -> str:
        return " or ".join(dict.fromkeys(map(str, values)))

    kinds = {kind: len({entry.label for entry in entries if entry.kind == kind}) for kind in FRONTS}
    samples = [entry.figures.samples // entry.figures.problems for entry in entries]
    played = [(split(s.policy)[0], s.policy_version) for s in settings if s.policy_version]
    named = [
        ("Task", said(*(s.task for s in settings))),
        ("Denoiser", said(*(f"{s.denoiser} ({s.denoiser_version or 'no version'})" for s in settings))),
        ("Problems", f"{said(*(f'{entry.figures.problems:,}' for entry in entries))} for each policy"),
        ("Split", said(*(s.split for s in settings))),
        ("Samples", f"{said(*samples)} for each problem"),
        ("Seeds", ", ".join(map(str, sorted({o.seed for entry in entries for o in entry.outcomes})))),
        ("Response", f"{said(*(s.response_length for s in settings))} tokens"),
        ("Block length", said(*(s.block_length for s in settings))),
        ("Temperature", said(*(f"{s.temperature:g}" for s in settings))),
        ("Policies", ", ".join(f"{count} {kind}" for kind, count in kinds.items() if count)),
        ("Policy versions", ", ".join(f"{name} ({version})" for name, version in dict.fromkeys(played))),
        ("Played by", said(*(f"dllm-env {s.code_version or 'of unknown version'}" for s in settings))),
    ]
    return [[name, value] for name, value in named if value]


# --------------------------------------------------------------------------------------------- conditions


def _condition(group: Sequence[Entry], title: str, limit: int, texts: Texts, names: Names) -> Json:
    """A condition: its points, fronts (indices of entries), problems for the viewer, and order of unmasking."""
    sides = {kind: [entry.kind == kind for entry in group] for kind in FRONTS}
    return {
        "title": title,
        "length": group[0].setting.response_length,
        "remask": group[0].setting.allow_remask,
        "entries": [_point(entry, names) for entry in group],
        "fronts": {kind: _front(group, side) for kind, side in sides.items()},
        "opening": _opening(group),
        "order": [mean_order(entry.outcomes)[:MOST_WORDS] for entry in group],
        **_problems(group, limit, texts),
    }


def _point(entry: Entry, names: Names) -> Json:
    figures = entry.figures
    interval = percentages(figures.accuracy_low, figures.accuracy_high)
    return {
        "label": entry.label,
        "name": shown_name(entry, names) if names else entry.label,
        "short": _short(entry, names),
        "knob": short(entry.point, names),
        "family": _group(entry, names),
        "learned": entry.learned,
        "nfe": entry.nfe,
        "accuracy": entry.accuracy,
        "low": figures.accuracy_low,
        "high": figures.accuracy_high,
        "about": [
            entry.label,
            *_parameters(entry.policy),
            f"accuracy {figures.accuracy:.1%} (95% interval {interval})",
            f"NFE {figures.nfe:.1f} on average, {figures.nfe_90:.0f} at the 90th percentile",
            f"{figures.tokens_per_nfe:.2f} tokens per NFE",
            f"{figures.problems:,} problems",
        ],
    }


def _short(entry: Entry, names: Names) -> str:
    """The label; of a learned policy its name and settings, or the last two names of its folder."""
    if not entry.learned:
        return entry.label
    name, settings = split(entry.label)
    if split(entry.policy)[0] in names:
        return shown_name(entry, names)
    return ":".join(filter(None, ["/".join(Path(name).parts[-2:]), settings]))


def _parameters(policy: str) -> list[str]:
    """A rule's parameters, those left at their defaults too; what stands after the name where it is no rule's."""
    rule = None
    if file_part(policy) is None:  # a report is no reason to run a user's file
        with contextlib.suppress(ValueError):
            rule = load_heuristic(policy)
    if rule is None:
        return list(filter(None, [split(policy)[1]]))
    return [f"{field.name} = {getattr(rule, field.name)}" for field in fields(rule)]


def _front(group: Sequence[Entry], side: Sequence[bool]) -> list[int]:
    members = [i for i, inside in enumerate(side) if inside]
    return [members[i] for i in pareto_front([group[i].coordinates for i in members])]


def _opening(group: Sequence[Entry]) -> list[int]:
    """The two entries that the viewer shows first: a learned one if any, and its rival."""
    order = sorted(range(len(group)), key=lambda i: -group[i].accuracy)
    first = next((i for i in order if group[i].learned), order[0])
    rival = best_heuristic(group, group[first]) if group[first].learned else None
    others = [i for i in order if i != first] or [first]
    return [first, next((i for i in others if group[i] is rival), others[0])]


def mean_order(outcomes: Sequence[Outcome]) -> list[float | None]:
    """When each position is written, on average: 0 in a entry's first step, 1 in its last.

    Returns:
        L values, mean of revealed_at / (steps − 1) over the entries that wrote the position; None where none did.
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
        return self._numbers.setdefault(shortened(text), len(self._numbers))

    @property
    def all(self) -> list[str]:
        """The texts in the order of their numbers."""
        return list(self._numbers)


def shortened(text: str, longest: int = LONGEST) -> str:
    """The beginning of a text that is too long for a page, with a note of how much of it is left out."""
    left = len(text) - longest
    return text if left <= 0 else f"{text[:longest]} … [cut here: {left:,} more characters are not in this report]"


def shown_words(words: Sequence[str]) -> list[str]:
    """The tokens of a response that the page shows: the first ones, and what it has room for of their texts."""
    room, kept = LONGEST, list[str]()
    for word in words[:MOST_WORDS]:
        size = min(room, LONGEST_WORD)
        kept.append(word if len(word) <= size else word[:size] + "…")
        room -= min(len(word), size)
    return kept


def pack(values: Iterable[int]) -> str:
    """Whole numbers as text, runs of equal ones once: [4, 4, 4, −1] is ``4x3 -1``."""
    runs = [(value, len(list(run))) for value, run in groupby(values)]
    return " ".join(f"{value}x{count}" if count > 1 else str(value) for value, count in runs)


def _problems(group: Sequence[Entry], limit: int, texts: Texts) -> Json:
    """Problems for the viewer, with how each entry answered them.

    Returns:
        ``problems``: objects with ``name``, ``prompt`` and ``answers``, for each entry what ``_answer`` returns, or
        None where the entry was not given the problem.
        ``common``: how many problems all entries were given. Only where there is none come those of single entries.
        ``samples``: whether there are several of a problem; the first is shown.
    """
    played = [_first_samples(entry.outcomes) for entry in group]
    common = sorted(set.intersection(*map(set, played)))
    chosen = (common or sorted(set.union(*map(set, played))))[:limit]
    seeds = len({seed for entry in played for seed, _, _ in entry}) > 1
    problems = []
    for seed, index, prompt in chosen:
        found = [entry.get((seed, index, prompt)) for entry in played]
        problems.append(
            {
                "name": f"seed {seed}, problem {index}" if seeds else f"problem {index}",
                "prompt": texts.number(prompt),
                "answers": [outcome and _answer(outcome, texts) for outcome in found],
            }
        )
    several = any(outcome.sample for entry in group for outcome in entry.outcomes)
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

    The last three are packed; confidence in hundredths. Of what is very long, the page has the beginning.
    """
    return [
        outcome.correct,
        outcome.nfe,
        outcome.steps,
        outcome.finished,
        end_of_text(outcome),
        texts.number(outcome.response),
        pack(map(texts.number, shown_words(outcome.words))),
        pack(outcome.revealed_at[:MOST_WORDS]),
        pack(round(100 * value) for value in outcome.confidence[:MOST_WORDS]),
    ]


def end_of_text(outcome: Outcome) -> int:
    """Position of the first end-of-text, L where there is none: what follows the tokens that count."""
    written = [position for position, step in enumerate(outcome.revealed_at) if step >= 0]
    return written[outcome.tokens] if outcome.tokens < len(written) else len(outcome.revealed_at)
