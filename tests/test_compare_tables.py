"""The tables for the terminal, letter by letter, of numbers written down by hand."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from rich.table import Table
from test_results import SETTING, outcome

from dllm_env.eval.compare import Comparison, Entry
from dllm_env.eval.fronts import Front, Value
from dllm_env.eval.results import Figures, Outcome
from dllm_env.eval.tables import comparison_table, front_table, table


def lines(shown: Table, width: int = 150) -> list[str]:
    """What the terminal shows, without the frame."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    console.print(shown)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    inside = [line[2:-2] if line[:1] in "│┃" else line.strip() for line in text.splitlines()]
    return [line.rstrip(" │") for line in inside if line.strip("┏┳━┓┡╇┩└┴─┘├┼┤")]


FIGURES = Figures(
    problems=1234,
    samples=1234,
    accuracy=0.905,
    accuracy_low=0.88,
    accuracy_high=0.9249,
    nfe=7.25,
    nfe_90=12.0,
    tokens_per_nfe=2.345,
    finished=1.0,
    remasks=0.0,
    seconds=61.04,
)


def entry(label: str, block_length: int = 4, samples: int = 1, right: int = 1, **figures: float) -> Entry:
    setting = replace(SETTING, policy=label, learned=label.startswith("runs/"), block_length=block_length)
    outcomes: list[Outcome] = [outcome(setting, 0, float(i < right), sample=i) for i in range(samples)]
    return Entry(setting, label, 1, replace(FIGURES, **figures), outcomes)  # type: ignore[arg-type]


def test_policies_as_a_table() -> None:
    shown = table([entry("leftmost:1"), entry("runs/x", accuracy=0.999, accuracy_high=1.0)], "all that was played")
    assert lines(shown) == [
        "all that was played",
        "policy     ┃ BL ┃ problems ┃      accuracy [95%] ┃ NFE ┃ 90% ┃ tokens/NFE ┃ seconds",
        "leftmost:1 │  4 │    1,234 │  90.5% [88.0, 92.5] │ 7.2 │  12 │       2.35 │    61.0",
        "runs/x     │  4 │    1,234 │ 99.9% [88.0, 100.0] │ 7.2 │  12 │       2.35 │    61.0",
    ]
    assert [row.style for row in shown.rows] == [None, "bold"]
    assert [column.justify for column in shown.columns] == ["left"] + ["right"] * 7


def test_conditions_are_sections_and_what_went_back_to_mask_is_told() -> None:
    shown = table([entry("leftmost:1"), entry("runs/x", 2, remasks=1.25), entry("top_k:1", 2)])
    assert lines(shown) == [
        "policy         ┃ BL ┃ problems ┃     accuracy [95%] ┃ NFE ┃ 90% ┃ tokens/NFE ┃ remasked ┃ seconds",
        "block length 4",
        "leftmost:1     │  4 │    1,234 │ 90.5% [88.0, 92.5] │ 7.2 │  12 │       2.35 │      0.0 │    61.0",
        "block length 2",
        "runs/x         │  2 │    1,234 │ 90.5% [88.0, 92.5] │ 7.2 │  12 │       2.35 │      1.2 │    61.0",
        "top_k:1        │  2 │    1,234 │ 90.5% [88.0, 92.5] │ 7.2 │  12 │       2.35 │      0.0 │    61.0",
    ]
    assert [row.style for row in shown.rows] == ["italic", None, "italic", "bold", None]
    assert [row.end_section for row in shown.rows] == [False, True, False, False, False]


def test_samples_that_all_have_are_told_as_pass_at_k() -> None:
    """Of 64 samples 16 were right, of 70 one was: C(48, 2)/C(64, 2) = 1128/2016, and 2/70."""
    many = lines(table([entry("a", samples=64, right=16), entry("b", samples=70)]))
    assert [name.strip() for name in many[0].split("┃") if "@" in name] == [
        f"pass@{k}" for k in (2, 4, 8, 16, 32, 64)
    ]
    assert [[cell.strip() for cell in line.split("│")[4:10]] for line in many[1:]] == [
        ["44.0%", "69.4%", "91.5%", "99.5%", "100.0%", "100.0%"],
        ["2.9%", "5.7%", "11.4%", "22.9%", "45.7%", "91.4%"],
    ]
    assert "pass@4" not in lines(table([entry("a", samples=64), entry("b", samples=3)]))[0]


def test_only_names_of_policies_wrap() -> None:
    shown = lines(table([entry("a policy of many words, all of which wrap")]), 90)
    assert shown[0].startswith("policy")
    assert len(shown) > 2
    assert "[88.0, 92.5]" in shown[1]
    assert not any("%" in line for line in shown[2:])


def test_comparisons_as_a_table() -> None:
    shown = comparison_table(
        [
            comparison("leftmost:8", "best heuristic as fast", 0.7, (0.6149, 0.791), (70, 0, 1.7e-21), 0.714),
            comparison("runs/y", "", -0.05, (-0.1, 0.0), (None, None, None), 1.0),
            comparison("b", "baseline", 0.0, (-0.1, 0.1), (3, 4, 1.0), 5.714),
        ]
    )
    assert [line.split(" ┃ " if "┃" in line else " │ ") for line in lines(shown)[1:]] == [
        ["policy", "against".ljust(35), "condition     ", "points [95%]".rjust(20)]
        + ["only it / only the other", "      p", "        NFE"],
        ["runs/x", "leftmost:8 (best heuristic as fast)", "block length 4", "+70.0 [+61.5, +79.1]"]
        + ["70 / 0".rjust(24), "1.7e-21", " 1.40× more"],
        ["runs/x", "runs/y".ljust(35), "block length 4", "-5.0 [-10.0, +0.0]".rjust(20)]
        + [" " * 24, " " * 7, "1.00× fewer"],
        ["runs/x", "b (baseline)".ljust(35), "block length 4", "+0.0 [-10.0, +10.0]".rjust(20)]
        + ["3 / 4".rjust(24), "      1", "5.71× fewer"],
    ]
    assert lines(shown)[0] == "paired, on the same problems: percentage points of accuracy"
    assert [column.justify for column in shown.columns] == ["left"] * 3 + ["right"] * 4


def comparison(
    second: str,
    why: str,
    difference: float,
    interval: tuple[float, float],
    test: tuple[int | None, int | None, float | None],
    ratio: float,
) -> Comparison:
    return Comparison(
        "runs/x", second, "block length 4", why, 100, difference, *interval, *test, ratio, 0.9 * ratio, 1.1 * ratio
    )


def test_fronts_as_a_table() -> None:
    rule, policy = entry("threshold:0.5"), entry("runs/x")
    found = [
        Front("block length 4", "heuristics", 3, 1234, Value(0.1794, 0.1, 0.26), None, 87.6, (rule,)),
        Front("block length 4", "learned", 12, 50, Value(1.0, 0.9996, 1.0), None, 100.2, (policy,)),
    ]
    shown = front_table(found)
    assert lines(shown) == [
        "fronts: area over log NFE, from 1 to L evaluations",
        "condition      ┃ front of   ┃ policies ┃ problems ┃           area [95%] ┃ AUP",
        "block length 4 │ heuristics │        3 │    1,234 │ 0.179 [0.100, 0.260] │  88",
        "block length 4 │ learned    │       12 │       50 │ 1.000 [1.000, 1.000] │ 100",
    ]
    assert [column.justify for column in shown.columns] == ["left"] * 2 + ["right"] * 4
    assert [row.style for row in shown.rows] == [None, "bold"]


def test_scores_are_shown_where_there_are_some() -> None:
    rule = entry("threshold:0.5")
    area, score = Value(0.5, 0.4, 0.6), Value(-0.25, -0.5, 0.0)
    found = [
        Front("block length 4", "heuristics", 1, 9, area, score, 8, (rule,)),
        Front("block length 2", "heuristics", 1, 9, area, None, 8, (rule,)),
    ]
    said = lines(front_table(found))
    assert said[0] == "fronts: area over log NFE, from 1 to L evaluations; score: 0 is random, 1 the oracle"
    assert [cell.strip() for cell in said[1].split("┃")[5:]] == ["score [95%]", "AUP"]
    assert [cell.strip() for cell in said[2].split("│")[5:]] == ["-0.250 [-0.500, 0.000]", "8"]
    assert [cell.strip() for cell in said[-1].split("│")[5:]] == ["", "8"]


LONG = "threshold:threshold=0.7,fallback=leftmost"


@pytest.mark.parametrize("width", [80, 100, 160])
def test_in_every_terminal_tables_are_whole(width: int) -> None:
    """Names wrap, and what matters least is left out first; nothing is cut off."""
    entries = [
        entry(LONG, remasks=1.0, planning_nfe=40.0, accuracy=1.0, accuracy_low=1.0, accuracy_high=1.0),
        entry("runs/a-folder-with-a-long-name:alpha=0.3", accuracy=1.0, accuracy_low=1.0, accuracy_high=1.0),
    ]
    pair = comparison(LONG, "best heuristic as fast", 1.0, (0.96, 1.0), (1000, 1000, 1.7e-21), 0.714)
    value = Value(0.1794, 0.1, 0.26)
    front = Front("block length 40", "threshold:fallback=leftmost", 12, 1000, value, value, 87.6, tuple(entries))
    named = "threshold:fallback=leftmost"
    for made, heads, column, name, figure in [
        (table(entries, width=width), {"BL", "accuracy [95%]", "NFE"}, 0, LONG, "100.0%"),
        (comparison_table([pair], width), {"points [95%]", "NFE"}, 1, LONG, "+100.0 [+96.0, +100.0]"),
        (front_table([front], width), {"area [95%]", "score [95%]"}, 1, named, "0.179 [0.100, 0.260]"),
    ]:
        assert heads <= {str(head.header) for head in made.columns}
        console = Console(width=width, file=io.StringIO(), color_system=None)
        console.print(made)
        text: str = console.file.getvalue()  # type: ignore[attr-defined]
        assert "…" not in text
        assert figure in text
        cells = [line.split("│")[column + 1].strip() for line in text.splitlines() if line.startswith("│")]
        assert name in "".join(cells)


def test_what_matters_least_is_left_out_first() -> None:
    entries = [entry(LONG, remasks=1.0)]
    heads = [[str(column.header) for column in table(entries, width=width).columns] for width in (160, 100, 80)]
    assert heads[0][-3:] == ["tokens/NFE", "remasked", "seconds"]
    assert set(heads[2]) <= set(heads[1]) <= set(heads[0])
    assert "seconds" not in heads[2]
    least = [str(column.header) for column in table(entries, width=10).columns]
    assert least == ["policy", "BL", "accuracy [95%]", "NFE"]
