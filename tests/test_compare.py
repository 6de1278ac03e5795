"""Rows side by side: pooling, paired comparisons, fronts, tables, and the picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from rich.console import Console
from test_results import SETTING, outcome

from dllm_env.errors import UsageError
from dllm_env.eval.compare import (
    Entry,
    best_heuristic,
    by_condition,
    compare,
    comparisons,
    condition_titles,
    fastest_heuristic,
    pass_at,
    pool,
)
from dllm_env.eval.fronts import fronts
from dllm_env.eval.metrics import paired_score_interval
from dllm_env.eval.results import Result
from dllm_env.eval.runner import pareto_figure, save_pareto_plot
from dllm_env.eval.tables import comparison_table, front_table, table
from dllm_env.pareto import FADED, LEARNED_STYLES, OTHERS, Kind, Point, family_styles, plot_pareto

LONG = replace(SETTING, response_length=40, block_length=40)


def result(
    policy: str, scores: Sequence[float], nfe: int, seed: int = 0, samples: int = 1, **changes: object
) -> Result:
    setting = replace(LONG, policy=policy, learned=policy.startswith("runs/"), seed=seed, **changes)  # type: ignore[arg-type]
    outcomes = [outcome(setting, i // samples, c, nfe, i % samples) for i, c in enumerate(scores)]
    return Result(setting, outcomes)


def scored(right: int, of: int = 100) -> list[float]:
    return [1.0] * right + [0.0] * (of - right)


def entries(*results: Result) -> list[Entry]:
    return pool(results)


ENTRIES = entries(
    result("runs/x", scored(90), 7),
    result("threshold:0.5", scored(10), 6),
    result("leftmost:8", scored(20), 5),
    result("leftmost:1", scored(100), 40),
    result("threshold:0.5", scored(80), 6, block_length=8),
)


def test_seeds_are_pooled_and_versions_are_not() -> None:
    found = entries(
        result("top_k:1", scored(1, 2), 4),
        result("top_k:1", scored(2, 2), 6, seed=1),
        result("top_k:1", scored(0, 2), 6, code_version="9"),
        result("top_k:1", scored(0, 2), 6, block_length=8),
    )
    assert [(entry.block_length, entry.seeds, entry.accuracy, entry.nfe) for entry in found] == [
        (40, 2, 0.75, 5.0),
        (40, 1, 0.0, 6.0),
        (8, 1, 0.0, 6.0),
    ]
    assert [entry.label for entry in found] == ["top_k:1 [aa 1]", "top_k:1 [aa 9]", "top_k:1"]


def test_conditions_are_what_can_be_compared() -> None:
    found = entries(
        result("a", [1.0], 4, block_length=8),
        result("a", [1.0], 4),
        result("a", [1.0], 4, task="sudoku", denoiser="some/where/b"),
        result("b", [1.0], 4, temperature=0.5),
    )
    groups = by_condition(found)
    assert [[entry.policy for entry in group] for group in groups] == [["a"], ["a"], ["b"], ["a"]]
    assert condition_titles(groups) == [
        "tiny, trace, block length 40, temperature 0.0",
        "b, sudoku, block length 40, temperature 0.0",
        "tiny, trace, block length 40, temperature 0.5",
        "tiny, trace, block length 8, temperature 0.0",
    ]
    assert condition_titles(groups[:1]) == ["block length 40"]


def test_rivals() -> None:
    best = best_heuristic(ENTRIES, ENTRIES[0])
    assert best is not None
    assert (best.policy, best.accuracy) == ("leftmost:8", 0.2)
    fastest = fastest_heuristic(ENTRIES, ENTRIES[0])
    assert fastest is not None
    assert fastest.policy == "leftmost:1"
    (fast,) = entries(result("runs/y", scored(100), 2))
    assert best_heuristic(ENTRIES, fast) is None
    assert fastest_heuristic(ENTRIES[:3], fast) is None


def test_a_paired_comparison_by_hand() -> None:
    """Of 10 common problems only the first solved 5, only the second 1: p = 2·(C(6,0) + C(6,1))/2⁶ = 14/64."""
    first, second = entries(
        result("a", [1, 1, 1, 1, 1, 0, 1, 1, 0, 0, 1, 1], 4), result("b", [0, 0, 0, 0, 0, 1, 1, 1, 0, 0], 6)
    )
    found = compare(first, second)
    assert (found.problems, found.first_only, found.second_only) == (10, 5, 1)
    assert found.p == 14 / 64
    assert found.difference == pytest.approx(0.4)
    assert (found.low, found.high) == paired_score_interval(5, 1, 10)
    assert found.low < 0.4 < found.high
    assert (found.nfe_ratio, found.nfe_low, found.nfe_high) == (1.5, 1.5, 1.5)
    alike = compare(first, first)
    assert (alike.difference, alike.low, alike.high) == (0.0, *paired_score_interval(0, 0, 12))
    back = compare(second, first)
    assert (back.difference, back.p) == (-found.difference, found.p)
    (far,) = entries(result("c", [1.0], 4, seed=5))
    with pytest.raises(UsageError, match="no problem in common"):
        compare(first, far)


def test_several_samples_have_no_exact_test() -> None:
    first, second = entries(result("a", [1, 0, 1, 1], 4, samples=2), result("b", [0, 0, 1, 1], 4, samples=2))
    found = compare(first, second)
    assert (found.difference, found.p, found.first_only) == (0.25, None, None)
    assert [pass_at(first, k) for k in (1, 2)] == [0.75, 1.0]
    assert [pass_at(second, k) for k in (1, 2)] == [0.5, 0.5]


def test_learned_policies_meet_their_rivals_or_all_meet_a_baseline() -> None:
    assert [(c.first, c.second, c.why) for c in comparisons(ENTRIES)] == [
        ("runs/x", "leftmost:8", "best heuristic as fast"),
        ("runs/x", "leftmost:1", "fastest heuristic as accurate"),
    ]
    assert [(c.second, c.why) for c in comparisons(ENTRIES[:2])] == [("threshold:0.5", "best heuristic as fast")]
    slower = entries(result("runs/x", scored(90), 7), result("leftmost:1", scored(80), 40))
    assert [(c.second, c.why) for c in comparisons(slower)] == [("leftmost:1", "most accurate heuristic")]
    assert comparisons(ENTRIES[1:]) == []
    against = comparisons(ENTRIES, "leftmost:8")
    assert [(c.first, c.second) for c in against] == [
        (policy, "leftmost:8") for policy in ("runs/x", "threshold:0.5", "leftmost:1")
    ]
    labels = "runs/x, threshold:0.5, leftmost:8, leftmost:1"
    with pytest.raises(UsageError, match=f"^no results of the baseline 'top_k:9'; there are {labels}$"):
        comparisons(ENTRIES, "top_k:9")


def test_tables_show_every_row() -> None:
    console = Console(width=200, file=io.StringIO())
    sampled = entries(result("runs/x", scored(3, 4), 7, samples=2), result("b", scored(2, 4), 9, samples=2))
    for shown in (
        table(ENTRIES),
        comparison_table(comparisons(ENTRIES)),
        front_table(fronts(ENTRIES)),
        table(sampled),
    ):
        console.print(shown)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for said in ("runs/x", "90.0%", "+70.0 [", "5.71× fewer", "0.113", "pass@2", "100.0%"):
        assert said in text, said
    assert table(ENTRIES).row_count == 5 + 2
    assert table(ENTRIES[:2]).row_count == 2


def test_picture_has_a_panel_for_each_condition(tmp_path: Path) -> None:
    from PIL import Image

    sizes = {}
    many = [
        entry for block in (40, 20, 10, 8, 5) for entry in entries(result("a", scored(9), 3, block_length=block))
    ]
    drawn = {"two": ENTRIES, "one": ENTRIES[:-1], "heuristics": ENTRIES[1:3], "single": ENTRIES[:1], "five": many}
    for name, shown in drawn.items():
        save_pareto_plot(shown, tmp_path / f"{name}.png", "title")
        with Image.open(tmp_path / f"{name}.png") as image:
            sizes[name] = image.size
            assert len(image.convert("RGB").getcolors(1 << 20)) > 20  # something is drawn
    assert sizes["two"][0] > 1.5 * sizes["one"][0]
    assert sizes["one"] == sizes["heuristics"] == sizes["single"]
    assert sizes["five"][1] > 1.5 * sizes["two"][1]


def test_the_prefix_cache_is_compared_with_doing_without() -> None:
    found = entries(
        result("top_k:1", scored(90), 10, block_length=8),
        result("top_k:1", scored(85), 10, block_length=8, prefix_cache=True),
        result("top_k:1", scored(50), 10, prefix_cache=True),  # has no counterpart
        result("top_k:2", scored(70), 5, block_length=8),
    )
    (pair,) = comparisons(found)
    assert (pair.first, pair.second, pair.why) == ("top_k:1", "top_k:1", "without the prefix cache")
    assert pair.difference == pytest.approx(-0.05)
    assert "prefix cache True" in pair.title
    assert (pair.first_only, pair.second_only) == (0, 5)


@pytest.mark.parametrize("name", ["runs/$x_$", "$\\frac$:1", "r\udce9gle.py", "a$b"])
def test_any_name_can_be_drawn(name: str, tmp_path: Path) -> None:
    kinds: tuple[Kind, ...] = ("heuristic", "learned", "oracle")
    points = [Point(name, kind, 5, 0.5, 0.4, 0.6) for kind in kinds]
    plot_pareto({name: points}, name).savefig(tmp_path / "front.png")


def test_a_long_title_fits_the_picture():
    title = "task reasoning-gym:leg_counting, denoiser tiny-llada, 16 tokens, 20 test problems for each of 3 seeds"
    figure = plot_pareto({"block length 16": [Point("threshold:0.9", "heuristic", 5, 0.5, 0.4, 0.6)]}, title)
    FigureCanvasAgg(figure).draw()
    extent = figure._suptitle.get_window_extent()
    assert 0 < extent.x0 < extent.x1 < figure.bbox.width
    assert figure._suptitle.get_text().replace("\n", " ") == title


def grid_of(figure: Any) -> dict[str, Any]:
    return {axes.get_title(): axes for axes in figure.axes}


def test_rows_are_tasks_and_columns_block_lengths() -> None:
    played = entries(
        result("a", scored(9), 3),
        result("a", scored(9), 30, block_length=8),
        result("a", scored(9), 100, task="sudoku", response_length=160, block_length=160),
        result("a", scored(9), 90, task="sudoku", response_length=160, block_length=8),
    )
    figure = pareto_figure(played)
    places = [(axes.get_subplotspec().rowspan.start, axes.get_subplotspec().colspan.start) for axes in figure.axes]
    assert [axes.get_title() for axes in figure.axes] == [
        *("full diffusion, 100 problems", "block length 8, 100 problems") * 2,
    ]
    assert sorted(places) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    by_place = dict(zip(places, figure.axes, strict=True))
    for row in (0, 1):
        assert by_place[row, 0].get_xlim() == by_place[row, 1].get_xlim()
    assert by_place[0, 0].get_xlim() != by_place[1, 0].get_xlim()
    abouts = {text.get_text().split("\n")[0] for axes in figure.axes for text in axes.texts}
    assert any("sudoku" in about for about in abouts)


def test_only_fronts_are_labelled_and_beaten_rules_are_pale() -> None:
    played = entries(
        result("leftmost:1", scored(90), 5), result("leftmost:2", scored(40), 8), result("top_k:3", scored(20), 9)
    )
    (axes,) = pareto_figure(played).axes
    assert [text.get_text() for text in axes.texts] == ["1"]
    opacity = {container.lines[0].get_xdata()[0]: container.lines[0].get_alpha() for container in axes.containers}
    assert opacity == {5: 0.95, 8: FADED, 9: FADED}


def test_labels_are_short_and_accuracies_that_are_high_have_an_axis_of_their_own() -> None:
    played = entries(
        result("runs/x:alpha=0.13241", scored(90), 5),
        result("runs/x:alpha=100", scored(70), 4),
        result("threshold:0.5125", scored(99), 9),
    )
    (axes,) = pareto_figure(played).axes
    said = {text.get_text(): text.get_weight() for text in axes.texts}
    assert said == dict.fromkeys(("α=0.132", "α=100", "0.512"), "normal")
    assert axes.get_ylim() == (pytest.approx(0.54), 1.06)  # 70 of 100 are at least 60%
    low = entries(result("runs/x", scored(90), 5), result("threshold:0.5", scored(9), 9))
    (axes,) = pareto_figure(low, names={"runs/x": "Ours"}).axes
    assert axes.get_ylim() == (-0.04, 1.06)
    assert next((text.get_text(), text.get_weight()) for text in axes.texts) == ("Ours", "bold")


def test_learned_policies_have_names_and_looks_of_their_own() -> None:
    played = entries(
        result("runs/x:alpha=1", scored(90), 5), result("runs/y", scored(80), 4), result("oracle", [1], 3)
    )
    names = {"runs/x": "GRPO", "runs/y": "PPO"}
    styles = family_styles([entry.point for entry in played], names)
    assert len(set(styles.values())) == len(styles) == 3
    assert len({marker for _, marker in styles.values()}) == 3
    (legend,) = pareto_figure(played, names=names).legends
    said = [text.get_text() for text in legend.get_texts()]
    assert {"GRPO", "PPO", "oracle", "Pareto front, oracle"} <= set(said)
    # Without names they look alike, as the policy at each validation does.
    assert len(set(family_styles([entry.point for entry in played]).values())) == 2


@pytest.mark.parametrize("panels", [1, 2])
def test_long_names_fit_into_the_picture(panels: int) -> None:
    played = [
        result(f"runs/{i}", scored(90 - i), 5, block_length=4 * (b + 1)) for i in range(3) for b in range(panels)
    ]
    names = {
        f"runs/{i}": f"policy {i}, of a recipe that is told in full, with its seed and its date, {'x' * 90}"
        for i in range(3)
    }
    figure = pareto_figure(entries(*played), names=names)
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.width
    short, said = pareto_figure(entries(*played)), [text.get_text() for text in legend.get_texts()]
    assert [text.replace("\n", " ").replace(" ", "") for text in said[1:]] == [
        n.replace(" ", "") for n in names.values()
    ]
    assert short.legends[0]._ncols > legend._ncols


@pytest.mark.parametrize("kind", ["heuristic", "learned"])
def test_many_families_look_different(kind: Kind) -> None:
    """Thirty rules are no suite's limit, nor are twelve policies that of a comparison."""
    points = [Point(f"family{i}", kind, 5, 0.9, 0.8, 1) for i in range(30 if kind == "heuristic" else 12)]
    styles = family_styles(points, {point.label: point.label for point in points})
    assert len(set(styles.values())) == len(points)
    assert styles["family0"] == (OTHERS if kind == "heuristic" else LEARNED_STYLES)[0]


@pytest.mark.parametrize("kind", ["png", "pdf", "svg"])
def test_the_same_picture_is_the_same_file(kind: str, tmp_path: Path) -> None:
    for name in "ab":
        save_pareto_plot(ENTRIES[:2], tmp_path / f"{name}.{kind}", "title")
    assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
