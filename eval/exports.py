"""Results for papers and other programs: figures pooled over seeds, paired tests, and both as LaTeX and Markdown.

The same results give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from dllm_env.eval.compare import Comparison, Entry, by_condition, condition_titles
from dllm_env.eval.metrics import mean
from dllm_env.eval.names import Names, shown_name
from dllm_env.eval.results import Outcome, by_problem
from dllm_env.files import write_atomically

SMALLEST = 0.001
"""Of p in documents; ``pairs.csv`` has all digits."""
POOLED_JSON, POOLED_CSV, PAIRS_CSV = "pooled.json", "pooled.csv", "pairs.csv"


# ------------------------------------------------------------------------------------------- pooled figures


def write_pooled(
    folder: Path, entries: Sequence[Entry], names: Names, more: Mapping[tuple[Any, ...], Mapping[str, Any]]
) -> None:
    """Writes ``pooled.json`` and ``pooled.csv``: what ``results.json`` says of each seed, of all seeds together.

    Args:
        folder: where to.
        entries: from ``pool``.
        names: of learned policies.
        more: what else to say, by ``setting.part("seed")``, as for ``write_tables``.
    """
    empty = dict.fromkeys(next(iter(more.values()), {}))
    records = [{**pooled_record(entry, names), **more.get(entry.setting.part("seed"), empty)} for entry in entries]
    write_atomically(folder / POOLED_JSON, (json.dumps(records, indent=1) + "\n").encode())
    flat = [{k: " ".join(map(str, v)) if isinstance(v, list) else v for k, v in one.items()} for one in records]
    write_atomically(folder / POOLED_CSV, _csv(list(flat[0]), (one.values() for one in flat)))


def pooled_record(entry: Entry, names: Names) -> dict[str, Any]:
    """The setting without its seed, the seeds, figures of all of them, and accuracy and NFE of each."""
    setting = asdict(entry.setting)
    del setting["seed"]
    by_seed: dict[int, list[Outcome]] = {}
    for outcome in entry.outcomes:
        by_seed.setdefault(outcome.seed, []).append(outcome)
    seeds = sorted(by_seed)
    return {
        "name": shown_name(entry, names),
        **setting,
        "seeds": seeds,
        **asdict(entry.figures),
        "accuracy_of_seeds": [mean([mean(s) for s in by_problem(by_seed[seed]).values()]) for seed in seeds],
        "nfe_of_seeds": [mean([outcome.nfe for outcome in by_seed[seed]]) for seed in seeds],
    }


def pairs_csv(pairs: Sequence[Comparison]) -> bytes:
    """The paired tests as CSV, columns as ``Comparison`` has them; shares, not percent."""
    names = [column.name for column in fields(Comparison)]
    return _csv(names, ([getattr(pair, name) for name in names] for pair in pairs))


def _csv(head: Sequence[str], lines: Iterable[Iterable[Any]]) -> bytes:
    written = io.StringIO(newline="")
    out = csv.writer(written, lineterminator="\n")
    out.writerow(head)
    out.writerows(lines)
    return written.getvalue().encode(errors="backslashreplace")


# ------------------------------------------------------------------------------------------------- tables


@dataclass(frozen=True)
class Sheet:
    """A table for a document.

    Attributes:
        caption: what it shows.
        name: for references to it.
        heads: of the columns; those after the first ``texts`` hold numbers.
        texts: columns of text.
        parts: of each condition its title and lines, each (name in bold, cells).
    """

    caption: str
    name: str
    heads: Sequence[str]
    texts: int
    parts: Sequence[tuple[str, Sequence[tuple[bool, Sequence[str]]]]]


def main_sheet(entries: Sequence[Entry], names: Names, title: str) -> Sheet:
    """Accuracy with its interval and NFE of all entries, a part for each condition; learned policies are bold."""
    groups = by_condition(entries)
    planned = any(entry.figures.planning_nfe for entry in entries)
    heads = ["policy", "problems", "accuracy [95%]", "NFE", "NFE 90%", "tokens/NFE"]
    heads += ["planning"] * planned

    def cells(entry: Entry) -> list[str]:
        f = entry.figures
        made = [shown_name(entry, names), f"{f.problems:,}"]
        made += [f"{f.accuracy:.1%} [{100 * f.accuracy_low:.1f}, {100 * f.accuracy_high:.1f}]"]
        made += [f"{f.nfe:.1f}", f"{f.nfe_90:.0f}", f"{f.tokens_per_nfe:.2f}"]
        return [*made, f"{f.planning_nfe:.0f}" if f.planning_nfe else "–"] if planned else made

    parts = [
        (about, [(entry.learned, cells(entry)) for entry in group])
        for group, about in zip(groups, condition_titles(groups), strict=True)
    ]
    return Sheet(
        f"Accuracy with its 95% interval, and denoiser evaluations (NFE): {title}.", "results", heads, 1, parts
    )


def pairs_sheet(pairs: Sequence[Comparison], entries: Sequence[Entry], names: Names) -> Sheet:
    """The paired tests, a part for each condition."""
    shown = {entry.label: shown_name(entry, names) for entry in entries}
    heads = ["policy", "against", "chosen as", "difference [95%]", "only it / other", "p", "NFE ratio"]

    def cells(pair: Comparison) -> list[str]:
        made = [shown.get(pair.first, pair.first), shown.get(pair.second, pair.second), pair.why]
        made += [f"{_points(pair.difference)} [{_points(pair.low)}, {_points(pair.high)}]"]
        made += ["–", "–"] if pair.p is None else [f"{pair.first_only} / {pair.second_only}", _chance(pair.p)]
        return [*made, f"{pair.nfe_ratio:.2f}"]

    titles = list(dict.fromkeys(pair.title for pair in pairs))
    parts = [(title, [(False, cells(pair)) for pair in pairs if pair.title == title]) for title in titles]
    caption = (
        "Paired tests on the same problems: difference of accuracies in percentage points with its 95% interval, "
        "problems that only one solved, p of McNemar's exact test, and NFE of the second over that of the first."
    )
    return Sheet(caption, "pairs", heads, 3, parts)


def _points(value: float) -> str:
    return f"{100 * value:+.1f}".replace("-", "−")


def _chance(p: float) -> str:
    return f"{p:.2g}" if p >= SMALLEST else f"< {SMALLEST:g}"


def as_markdown(sheets: Sequence[Sheet]) -> str:
    """The tables in Markdown, a table for each condition."""
    made = []
    for sheet in sheets:
        made.append(f"{sheet.caption}\n")
        for title, lines in sheet.parts:
            rule = ["---"] * sheet.texts + ["---:"] * (len(sheet.heads) - sheet.texts)
            table = [list(sheet.heads), rule]
            table += [[_strong(_marked(cells[0]), bold), *map(_marked, cells[1:])] for bold, cells in lines]
            drawn = "\n".join(f"| {' | '.join(cells)} |" for cells in table)
            made.append(f"{_marked(title)}\n\n{drawn}\n")
    return "\n".join(made)


def _strong(text: str, bold: bool) -> str:
    return f"**{text}**" if bold else text


def _marked(text: str) -> str:
    """A text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#~$])", r"\\\1", " ".join(text.split()))


def as_latex(sheets: Sequence[Sheet]) -> str:
    """The tables in LaTeX, no wider than a line; they need the packages booktabs and graphicx."""
    made = ["% Needs \\usepackage{booktabs,graphicx} and, before LaTeX of 2020, \\usepackage[utf8]{inputenc}."]
    for sheet in sheets:
        columns = "l" * sheet.texts + "r" * (len(sheet.heads) - sheet.texts)
        made += ["\\begin{table}[t]", "  \\centering", f"  \\caption{{{_tex(sheet.caption)}}}"]
        made += [f"  \\label{{tab:{sheet.name}}}", f"  {NO_WIDER}{{%", f"  \\begin{{tabular}}{{{columns}}}"]
        made.append("    \\toprule")
        made.append(_line([_tex(head) for head in sheet.heads]))
        for title, lines in sheet.parts:
            made.append("    \\midrule")
            if len(sheet.parts) > 1:
                made.append(f"    \\multicolumn{{{len(columns)}}}{{l}}{{\\emph{{{_tex(title)}}}}} \\\\")
            for bold, (name, *others) in lines:
                first = f"\\textbf{{{_tex(name)}}}" if bold else _tex(name)
                made.append(_line([first, *map(_tex, others)]))
        made += ["    \\bottomrule", "  \\end{tabular}}", "\\end{table}"]
    return "\n".join(made) + "\n"


NO_WIDER = "\\resizebox{\\ifdim\\width>\\linewidth \\linewidth\\else\\width\\fi}{!}"
"""Makes what is wider than a line as wide as one."""


def _line(cells: Sequence[str]) -> str:
    """A line of a table; what begins with a bracket or a star would be an option of the command before it."""
    made = " & ".join(cells)
    return f"    {'{}' * made.startswith(('[', '*'))}{made} \\\\"


_TEX = {
    **{sign: "\\" + sign for sign in "&%$#_{}"},
    **{"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"},
    **{"<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "–": "--", "−": "$-$"},
    **{"≥": "$\\geq$", "≤": "$\\leq$", "×": "$\\times$", "→": "$\\to$", "∞": "$\\infty$", "≈": "$\\approx$"},
    **{letter: f"$\\{unicodedata.name(letter).rpartition(' ')[2].lower()}$" for letter in "αβγδεζηθικμνξπρστυφχψω"},
    **{"λ": "$\\lambda$", "Δ": "$\\Delta$", "Σ": "$\\Sigma$", "Ω": "$\\Omega$"},
}


def _tex(text: str) -> str:
    """A text that LaTeX sets as it is."""
    plain = " ".join(text.encode("utf-8", "backslashreplace").decode("utf-8").split())
    return "".join(_TEX.get(letter, letter) for letter in plain)
