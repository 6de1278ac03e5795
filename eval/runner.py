"""Plays evaluations into a folder, with a progress bar, and shows what the folder then holds."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from rich.console import Console

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
from dllm_env.eval.fronts import front_columns, fronts
from dllm_env.eval.matrix import matrix_csv, matrix_table, plot_matrix, score_matrix
from dllm_env.eval.parallel import pieces, play_pieces
from dllm_env.eval.results import (
    PROBLEMS,
    RESULTS_CSV,
    RESULTS_JSON,
    append,
    check_versions,
    has_outcomes,
    read,
    write_tables,
)
from dllm_env.eval.tables import ROOM, comparison_table, front_table, table
from dllm_env.files import write_atomically, write_figure
from dllm_env.locks import locked, locked_for_all
from dllm_env.pareto import plot_pareto
from dllm_env.progress import Bar, terminal
from dllm_env.world import Counter, World, this_world

PART = "process-{}"
"""Folder of what a process that is not the first one has played."""
PARETO_PICTURE = "front.png"
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
    with Bar(Console(stderr=True, quiet=not world.first), transient=True) as bar:
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


def finish(folder: Path, baseline: str = "") -> list[Entry]:
    """Writes all files that follow from a folder's results, prints the tables, and returns the entries.

    Raises:
        UsageError: no results, or somebody else is writing into the folder.
    """
    with locked(folder):
        results = read([folder])
        entries = pool(results)
        pairs = comparisons(entries, baseline)
        areas = fronts(entries)
        write_tables(folder, results, front_columns(areas))
        save_pareto_plot(entries, folder / PARETO_PICTURE, title(entries))
        matrix = score_matrix(areas)
        files = [RESULTS_JSON, RESULTS_CSV, PROBLEMS, PARETO_PICTURE]
        if matrix is not None:
            write_atomically(folder / SCORES, matrix_csv(matrix).encode())
            write_figure(folder / SCORES_PICTURE, plot_matrix(matrix))
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


def save_pareto_plot(entries: Sequence[Entry], path: Path, title: str = "") -> None:
    """Draws accuracy against NFE with the Pareto front of each kind of policy into a PNG file.

    Args:
        entries: from ``pool``; one panel for each condition among them.
        path: the file to write.
        title: above everything.
    """
    groups = by_condition(entries)
    panels = {
        name: [entry.point for entry in group] for name, group in zip(condition_titles(groups), groups, strict=True)
    }
    write_figure(path, plot_pareto(panels, title))


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
