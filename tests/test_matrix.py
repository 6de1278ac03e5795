"""Scores over several conditions: which, in which order, their means, and the files and picture that show them."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from test_compare import entries, result, scored

from dllm_env.eval.fronts import Value, fronts
from dllm_env.eval.matrix import Matrix, average, matrix_csv, matrix_table, plot_matrix, score_matrix
from dllm_env.eval.results import Result


def of_task(task: str, results: list[Result]) -> list[Result]:
    return [replace(r, setting=replace(r.setting, task=task)) for r in results]


def played(rule: int, learned: int) -> list[Result]:
    """A rule and a policy that are right so often, at 10 and 5 evaluations of 40; random and oracle besides."""
    return [
        result("random:1", scored(50), 20),
        result("threshold:0.5", scored(rule), 10),
        result("runs/x:alpha=1", scored(learned), 5),
        result("oracle", scored(100), 2),
    ]


def made(*tasks: str) -> Matrix:
    results = [r for i, task in enumerate(tasks) for r in of_task(task, played(80 - 40 * i, 100 - 30 * i))]
    matrix = score_matrix(fronts(entries(*results)))
    assert matrix is not None
    return matrix


def test_scores_by_hand() -> None:
    """Areas over log n: 0.5 · log 2 for random, a · log 4 and a · log 8 for the two, log 20 for the oracle."""
    matrix = made("trace", "sudoku")
    assert matrix.columns == ("trace", "sudoku")
    assert matrix.rows == ("oracle", "learned", "runs/x", "heuristics", "threshold", "random")
    low, high = 0.5 * math.log(2), math.log(20)
    expected = {
        "oracle": (1.0, 1.0),
        "runs/x": ((math.log(8) - low) / (high - low), (0.7 * math.log(8) - low) / (high - low)),
        "threshold": ((0.8 * math.log(4) - low) / (high - low), (0.4 * math.log(4) - low) / (high - low)),
        "random": (0.0, 0.0),
    }
    for who, values in expected.items():
        row = matrix.rows.index(who)
        assert [value.value for value in matrix.values[row] if value is not None] == pytest.approx(values)
        middle = matrix.means[row]
        assert middle is not None
        assert middle.value == pytest.approx(sum(values) / 2)
        assert middle.low <= middle.value <= middle.high
    assert matrix.learned == (False, True, True, False, False, False)


def test_one_condition_makes_no_matrix() -> None:
    assert score_matrix(fronts(entries(*played(80, 100)))) is None
    assert score_matrix([]) is None


def test_what_is_missing_has_no_mean_and_comes_last() -> None:
    first, second = of_task("trace", played(80, 100)), of_task("sudoku", played(80, 100))
    matrix = score_matrix(fronts(entries(*first, *[r for r in second if not r.setting.learned])))
    assert matrix is not None
    row = matrix.rows.index("runs/x")
    assert row >= len(matrix.rows) - 2
    assert matrix.values[row][0] is not None
    assert matrix.values[row][1] is None
    assert matrix.means[row] is None
    drawn = Console(file=io.StringIO(), width=140)
    drawn.print(matrix_table(matrix))
    lines = [line for line in matrix_csv(matrix).splitlines() if line.startswith("runs/x")]
    assert len(lines) == 1
    plot_matrix(matrix)


def test_the_mean_of_independent_figures() -> None:
    """Half widths 0.3 and 0.4 below, 0.05 and 0.12 above: 0.5 and 0.13, over two."""
    value = average([Value(0.5, 0.2, 0.55), Value(0.9, 0.5, 1.02)])
    assert value is not None
    assert (value.value, value.low, value.high) == pytest.approx((0.7, 0.7 - 0.25, 0.7 + 0.065))
    assert average([Value(0.5, 0.2, 0.55), None]) is None
    assert average([]) is None


def test_conditions_of_one_task_keep_their_titles() -> None:
    results = played(80, 100)
    blocks = [replace(r, setting=replace(r.setting, block_length=8)) for r in results]
    matrix = score_matrix(fronts(entries(*results, *blocks)))
    assert matrix is not None
    assert matrix.columns == ("block length 40", "block length 8")


def test_no_row_is_cut_short() -> None:
    matrix = made("trace", "sudoku", "copy")
    matrix = replace(matrix, rows=tuple(f"{'x' * 60}{i}" for i in range(len(matrix.rows))))
    console = Console(file=io.StringIO(), width=80)
    console.print(matrix_table(matrix))
    assert "…" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_files_and_picture(tmp_path: Path) -> None:
    matrix = made("trace", "sudoku", "copy")
    rows = list(csv.DictReader(io.StringIO(matrix_csv(matrix))))
    assert len(rows) == 6 * 4
    said = {(row["front"], row["condition"]): float(row["score"]) for row in rows}
    assert said["oracle", "mean"] == 1.0
    for row in rows:
        assert float(row["low"]) <= float(row["score"]) <= float(row["high"])
    console = Console(file=io.StringIO(), width=100)
    console.print(matrix_table(matrix))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for who in matrix.rows:
        assert who in text
    figure = plot_matrix(replace(matrix, rows=tuple(f"{who} $x$" for who in matrix.rows)), "a title")
    numbers = [text.get_text() for text in figure.axes[0].texts]
    assert len(numbers) == 6 * 4
    assert numbers[:4] == ["1.00"] * 4
    figure.savefig(tmp_path / "scores.png")
    assert (tmp_path / "scores.png").stat().st_size > 10_000
