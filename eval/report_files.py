"""The files of a report: the page, and beside it tables for papers, the paired tests, and the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from dllm_env.eval.compare import comparisons, pool
from dllm_env.eval.exports import PAIRS_CSV, as_latex, as_markdown, main_sheet, pairs_csv, pairs_sheet
from dllm_env.eval.latency import machine_said, read_latency
from dllm_env.eval.names import learned_names
from dllm_env.eval.report import REPORT, write_report
from dllm_env.eval.results import PROBLEMS, Result
from dllm_env.eval.runner import PARETO_PICTURE, pareto_figure, title
from dllm_env.files import drawn, write_atomically
from dllm_env.locks import locked

__all__ = ["REPORT", "ReportFiles", "write_all"]

LOCK = ".report-files.lock"


@dataclass(frozen=True)
class ReportFiles:
    """What to write beside the page."""

    latex: bool = False
    """Also write report.tex: the figures with their intervals and the paired tests as tables, for booktabs."""
    markdown: bool = False
    """Also write report.md: the same tables in Markdown."""
    pdf: bool = False
    """Also write front.pdf and front.svg: the picture of accuracy against NFE."""


def write_all(
    results: Sequence[Result],
    folders: Sequence[Path],
    page: Path,
    files: ReportFiles,
    baseline: str = "",
    labels: Sequence[str] = (),
) -> list[Path]:
    """Writes the page and what is wanted besides, with the paired tests as ``pairs.csv`` if anything is.

    Args:
        results: what to show.
        folders: from where; the page says when they were written last.
        page: where to; the other files come into the same folder.
        files: which.
        baseline: see ``comparisons``.
        labels: see ``learned_names``.

    Returns:
        What was written.

    Raises:
        UsageError: no such baseline or policy, or somebody else is writing these files.
    """
    entries = pool(results)
    names = learned_names(entries, labels)
    pairs, about = comparisons(entries, baseline), title(entries)
    figure = pareto_figure(entries, about, names)
    sheets = [main_sheet(entries, names, about), *([pairs_sheet(pairs, entries, names)] if pairs else [])]
    more: dict[Path, bytes] = {}
    if files.latex:
        more[page.with_suffix(".tex")] = as_latex(sheets).encode()
    if files.markdown:
        more[page.with_suffix(".md")] = as_markdown(sheets).encode(errors="backslashreplace")
    if files.pdf:
        pictures = [(page.parent / PARETO_PICTURE).with_suffix(f".{kind}") for kind in ("pdf", "svg")]
        more |= {picture: drawn(figure, picture.suffix[1:]) for picture in pictures}
    if more and pairs:
        more[page.parent / PAIRS_CSV] = pairs_csv(pairs)
    measured = [found for folder in folders if (found := read_latency(folder)) is not None]
    machines = list(dict.fromkeys(machine_said(about) for about, _ in measured))
    times = "; ".join(machines), [one for _, timings in measured for one in timings]
    last = max((folder / PROBLEMS).stat().st_mtime for folder in folders)
    played = datetime.fromtimestamp(last, timezone.utc)
    # The page's own lock: results may be read, and shown, while more of them are being made.
    with locked(page.parent, name=f".{page.name}.lock"):
        picture = drawn(figure, "svg")
        write_report(entries, pairs, page, about, names=names, played=played, picture=picture, times=times)
    if more:
        with locked(page.parent, name=LOCK):
            for path, data in more.items():
                write_atomically(path, data)
    return [page, *more]
