"""Plays evaluations into a folder, with a progress bar, and shows what the folder then holds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from dllm_env.drawing import Draws, draw
from dllm_env.errors import UsageError
from dllm_env.eval.compare import (
    Entry,
    by_condition,
    comparisons,
    condition_titles,
    pool,
    short_name,
)
from dllm_env.eval.evaluate import Evaluation
from dllm_env.eval.exports import PAIRS_CSV, POOLED_CSV, POOLED_JSON, pairs_csv, write_pooled
from dllm_env.eval.fronts import front_columns, fronts
from dllm_env.eval.latency import LATENCY, latency_table, measure, write_latency
from dllm_env.eval.matrix import matrix_csv, matrix_table, plot_matrix, score_matrix
from dllm_env.eval.names import Names, learned_names, shown_front
from dllm_env.eval.parallel import pieces, play_pieces
from dllm_env.eval.results import (
    PROBLEMS,
    RESULTS_CSV,
    RESULTS_JSON,
    VERSIONS,
    append,
    check_versions,
    has_outcomes,
    read,
    write_tables,
)
from dllm_env.eval.tables import ROOM, comparison_table, front_table, table
from dllm_env.files import write_atomically, write_figure
from dllm_env.locks import locked, locked_for_all
from dllm_env.pareto import Point, plot_grid
from dllm_env.progress import Bar, terminal
from dllm_env.world import Counter, World, this_world

PART = "process-{}"
"""Folder of what a process that is not the first one has played."""
PARETO_PICTURE = "front.png"
PictureFormat = Literal["png", "pdf", "svg"]
SCORES, SCORES_PICTURE = "scores.csv", "scores.png"
"""Of several conditions together."""


def play(evaluations: Sequence[Evaluation], folder: Path, workers: int = 1) -> None:
    """Plays what the folder does not have yet, with a progress bar; every piece is written as soon as it is there.

    Of several processes that were started together each takes the next piece when it is done with one, and writes
    into a folder of its own within this one, which the first puts together at the end.

    Raises:
        UsageError: the folder's results are from other versions, or other data, of what is to be played, or
            somebody else is writing into it.
    """
    world = this_world()
    with locked_for_all(folder, world):
        if world.first:
            put_together(folder)
        world.wait()
        _play(evaluations, folder, workers, world)
        world.wait()
        if world.first:
            put_together(folder)
        world.wait()


def put_together(folder: Path) -> None:
    """Takes over what other processes have written into folders of their own, also before a kill."""
    parts = sorted(folder.glob(PART.format("*")))
    done = {
        (result.setting.key, (o.index, o.sample))
        for result in (read([folder]) if parts and has_outcomes(folder) else [])
        for o in result.outcomes
    }
    for part in parts:
        for result in read([part]) if has_outcomes(part) else []:
            new = [o for o in result.outcomes if (result.setting.key, (o.index, o.sample)) not in done]
            if new:
                append(folder, result.setting, new)
        shutil.rmtree(part)


def _play(evaluations: Sequence[Evaluation], folder: Path, workers: int, world: World) -> None:
    there = read([folder]) if has_outcomes(folder) else []
    check_versions([r.setting for r in there] + [job.setting for e in evaluations for job in e.jobs])
    for result in there:
        for evaluation in evaluations:
            evaluation.check_same_problems(result)
    done = {(result.setting.key, (o.index, o.sample)) for result in there for o in result.outcomes}
    todo = pieces(evaluations, done)
    world.wait()  # until all have read what is there
    mine = folder if world.first else folder / PART.format(world.rank)
    mine.mkdir(parents=True, exist_ok=True)
    counted = Counter(world)
    with Bar(Console(stderr=True, markup=False, quiet=not world.first), transient=True) as bar:
        shown = bar.add_task("evaluation", total=sum(len(piece.places) for piece in todo))

        def report(label: str, more: int) -> None:
            bar.update(shown, figures=label, completed=counted.add(more))

        with closing(play_pieces(evaluations, todo, workers, report, world)) as played:
            for setting, outcomes in played:
                append(mine, setting, outcomes)


def check_baseline(evaluations: Sequence[Evaluation], folder: Path, baseline: str) -> None:
    """Before anything is played.

    Raises:
        UsageError: neither the evaluations nor the folder's results have such a policy.
    """
    names = [job.setting.policy for evaluation in evaluations for job in evaluation.jobs]
    if has_outcomes(folder):
        names += [result.setting.policy for result in read([folder])]
    if baseline not in names:
        known = ", ".join(dict.fromkeys(names))
        raise UsageError(f"no results of the baseline {baseline!r}, now or in {folder}; there are {known}")


def finish(
    folder: Path,
    baseline: str = "",
    labels: Sequence[str] = (),
    formats: Sequence[PictureFormat] = ("png",),
    draws: Draws = draw,
) -> list[Entry]:
    """Writes all files that follow from a folder's results, prints the tables, and returns the entries.

    Args:
        folder: of the results.
        baseline: see ``comparisons``.
        labels: names of learned policies; see ``learned_names``.
        formats: of the pictures; PNG is there in any case.
        draws: what draws the picture of all policies.

    Raises:
        UsageError: no results, a label of no policy, or somebody else is writing into the folder.
    """
    with locked(folder):
        results = read([folder])
        entries = pool(results)
        names = learned_names(entries, labels)
        pairs = comparisons(entries, baseline)
        areas = fronts(entries)
        columns = front_columns(areas)
        write_tables(folder, results, columns)
        write_pooled(folder, entries, names, columns)
        files = [RESULTS_JSON, RESULTS_CSV, POOLED_JSON, POOLED_CSV, PROBLEMS]
        if pairs:
            write_atomically(folder / PAIRS_CSV, pairs_csv(pairs))
            files.append(PAIRS_CSV)
        kinds = list(dict.fromkeys(("png", *formats)))
        grid, blocks = panels(entries)
        pictures = draws(plot_grid, (grid, blocks, title(entries), names), kinds)
        for kind, picture in zip(kinds, pictures, strict=True):
            path = Path(PARETO_PICTURE).with_suffix(f".{kind}")
            write_atomically(folder / path, picture)
            files.append(str(path))
        matrix = score_matrix(areas)
        if matrix is not None:
            write_atomically(folder / SCORES, matrix_csv(matrix).encode())
            shown = replace(matrix, rows=tuple(shown_front(who, names) for who in matrix.rows))
            write_figure(folder / SCORES_PICTURE, plot_matrix(shown))
            files += [SCORES, SCORES_PICTURE]
    console = terminal(ROOM)
    console.print(table(entries, width=console.width))
    if pairs:
        console.print(comparison_table(pairs, console.width))
    if len(entries) > 1:
        console.print(front_table(areas, console.width))
    if matrix is not None:
        console.print(matrix_table(matrix))
    print(f"results: {folder} ({', '.join(files)})")
    return entries


def time_policies(evaluations: Sequence[Evaluation], problems: int, folder: Path) -> None:
    """Measures how long responses take, writes ``latency.json`` and prints the table."""
    timings = measure(evaluations, problems)
    write_latency(folder, evaluations, timings)
    terminal(ROOM).print(latency_table(timings))
    print(f"times: {folder / LATENCY}")


def save_pareto_plot(entries: Sequence[Entry], path: Path, title: str = "", names: Names | None = None) -> None:
    """Draws ``pareto_figure`` into a file: SVG or PDF where its name says so, else PNG."""
    write_figure(path, pareto_figure(entries, title, names))


def pareto_figure(entries: Sequence[Entry], title: str = "", names: Names | None = None) -> Any:
    """Accuracy against NFE with the Pareto front of each kind of policy, as a figure of matplotlib.

    Args:
        entries: from ``pool``; a row for each task, denoiser, …, and a column for each block length among them.
        title: above everything.
        names: of learned policies; see ``learned_names``.
    """
    grid, columns = panels(entries)
    return plot_grid(grid, columns, title, names)


def panels(entries: Sequence[Entry]) -> tuple[dict[str, dict[str, tuple[str, list[Point]]]], list[str]]:
    """The rows of that picture, and the names of its columns, as ``plot_grid`` takes them."""
    groups = by_condition(entries)
    rows: dict[tuple[Any, ...], list[list[Entry]]] = {}
    for group in groups:
        rows.setdefault(group[0].setting.part("policy", "learned", "seed", "block_length", *VERSIONS), []).append(
            group
        )
    abouts = condition_titles([of_row[0] for of_row in rows.values()], blocks=False)
    order = sorted(groups, key=lambda group: (not _is_full(group), -group[0].block_length))
    columns = list(dict.fromkeys(map(_column, order)))
    grid = {
        about: {
            _column(group): (f"{_column(group)}, {_problems(group)}", [e.point for e in group]) for group in of_row
        }
        for about, of_row in zip(abouts, rows.values(), strict=True)
    }
    return grid, columns


def _is_full(group: Sequence[Entry]) -> bool:
    return group[0].block_length == group[0].setting.response_length


def _column(group: Sequence[Entry]) -> str:
    return "full diffusion" if _is_full(group) else f"block length {group[0].block_length}"


def _problems(group: Sequence[Entry]) -> str:
    counts = sorted({entry.figures.problems for entry in group})
    return " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1]))) + " problems"


def title(entries: Sequence[Entry]) -> str:
    """What the entries are about, for the picture."""
    settings = [entry.setting for entry in entries]

    def said(name: str) -> str:
        return " or ".join(dict.fromkeys(short_name(str(getattr(setting, name))) for setting in settings))

    counts = sorted({entry.figures.problems // entry.seeds for entry in entries})
    seeds = max(entry.seeds for entry in entries)
    problems = " or ".join(f"{count:,}" for count in counts)
    return (
        f"task {said('task')}, denoiser {said('denoiser')}, {said('response_length')} tokens, "
        f"{problems} {said('split')} problems{f' for each of {seeds} seeds' if seeds > 1 else ''}"
    )
