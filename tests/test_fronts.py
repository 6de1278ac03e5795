"""Fronts by hand: areas over log NFE, scores between random and the oracle, families, and what the files say."""

from __future__ import annotations

import math

import pytest
from test_compare import ENTRIES, entries, result, scored
from test_compare_edges import with_nfe

from dllm_env.eval.compare import pool
from dllm_env.eval.fronts import Front, front_columns, fronts
from dllm_env.eval.results import Result
from dllm_env.pareto import Kind, Point


def share(*steps: tuple[float, float], length: int = 40) -> float:
    """Area under steps (NFE, accuracy) that rise, over log n from 1 to L."""
    ends = [nfe for nfe, _ in steps[1:]] + [length]
    return sum(a * math.log(end / nfe) for (nfe, a), end in zip(steps, ends, strict=True)) / math.log(length)


def by_name(found: list[Front]) -> dict[tuple[str, str], Front]:
    return {(front.title, front.who): front for front in found}


def test_areas_by_hand() -> None:
    found = by_name(fronts(ENTRIES))
    full = "block length 40"
    assert found[full, "heuristics"].area.value == pytest.approx(share((5, 0.2)))
    assert found[full, "learned"].area.value == pytest.approx(share((7, 0.9)))
    assert found[full, "all"].area.value == pytest.approx(share((5, 0.2), (7, 0.9)))
    assert found[full, "threshold"].area.value == pytest.approx(share((6, 0.1)))
    assert found[full, "leftmost"].policies == 2
    assert found["block length 8", "heuristics"].area.value == pytest.approx(share((6, 0.8)))
    assert ("block length 8", "all") not in found
    for front in found.values():
        assert front.area.low <= front.area.value <= front.area.high
        assert front.problems == 100
        assert front.score is None


def test_scores_by_hand() -> None:
    played = entries(
        result("random:1", scored(50), 20),
        result("threshold:0.5", scored(80), 10),
        result("threshold:threshold=0.7,fallback=leftmost", scored(100), 10),
        result("runs/x:alpha=1", scored(100), 5),
        result("runs/x:alpha=0.1", scored(90), 4),
        result("oracle", scored(100), 2),
    )
    found = {front.who: front for front in fronts(played)}
    order = [
        "heuristics",
        "learned",
        "all",
        "oracle",
        "runs/x",
        "threshold:fallback=leftmost",
        "threshold",
        "random",
    ]
    assert list(found) == order
    assert [who for who, front in found.items() if front.learned] == ["learned", "runs/x"]
    bottom, top = share((20, 0.5)), share((2, 1.0))

    def score(*steps: tuple[float, float]) -> float:
        return (share(*steps) - bottom) / (top - bottom)

    expected = {
        "random": 0,
        "oracle": 1,
        "threshold": score((10, 0.8)),
        "threshold:fallback=leftmost": score((10, 1.0)),
        "heuristics": score((10, 1.0)),
        "runs/x": score((4, 0.9), (5, 1.0)),
        "all": score((4, 0.9), (5, 1.0)),
    }
    for who, value in expected.items():
        given = found[who].score
        assert given is not None
        assert given.value == pytest.approx(value), who
        assert given.low <= given.value <= given.high
        assert (given.high - given.low < 1e-9) == (who in ("random", "oracle"))


def test_without_random_or_the_oracle_there_is_no_score() -> None:
    some = [result("random:1", scored(5), 20), result("oracle", scored(100), 2), result("top_k:1", scored(9), 40)]
    assert all(front.score is None for front in fronts(pool(some[:2] + [some[2]])[1:]))
    assert all(front.score is None for front in fronts(pool([some[0], some[2]])))
    assert all(front.score is not None for front in fronts(pool(some)))
    # An oracle that is no better than random leaves nothing to measure by.
    worse = [result("random:1", scored(50), 2), result("oracle", scored(50), 2)]
    assert all(front.score is None for front in fronts(pool(worse)))


def test_the_oracle_is_no_rival() -> None:
    from dllm_env.eval.compare import best_heuristic, comparisons, fastest_heuristic

    played = entries(
        result("runs/x", scored(90), 7), result("oracle", scored(100), 2), result("top_k:1", scored(9), 6)
    )
    policy, _, rule = played
    assert best_heuristic(played, policy) is rule
    assert fastest_heuristic(played, policy) is None
    assert [pair.second for pair in comparisons(played)] == ["top_k:1"]
    assert {front.who for front in fronts(played)} == {"heuristics", "learned", "all", "oracle", "runs/x", "top_k"}


def test_fronts_are_of_the_problems_that_all_have() -> None:
    """The learned policy was not given the heuristic's third problem, which therefore counts for neither."""
    found = fronts(
        pool(
            [
                with_nfe(result("a", [1, 0, 0], 0, response_length=5, block_length=5), [1, 3, 50]),
                result("runs/x", [1, 1], 3, response_length=5, block_length=5),
            ]
        )
    )
    assert [(front.who, front.policies, front.problems) for front in found] == [
        ("heuristics", 1, 2),
        ("learned", 1, 2),
        ("all", 2, 2),
        ("runs/x", 1, 2),
        ("a", 1, 2),
    ]
    half, whole = share((2, 0.5), length=5), share((3, 1.0), length=5)
    both = share((2, 0.5), (3, 1.0), length=5)
    assert [front.area.value for front in found] == pytest.approx([half, whole, both, whole, half])


def test_conditions_without_common_problems_or_length_have_no_fronts() -> None:
    def one(policy: str, length: int, seed: int = 0) -> Result:
        return result(policy, [1.0], 1, seed, response_length=length, block_length=length)

    found = fronts(pool([one("a", 4), one("b", 4, seed=7), one("a", 3), one("a", 2), one("a", 1)]))
    assert [(front.title, front.who, front.area.value) for front in found] == [
        ("response length 3, block length 3", "heuristics", 1.0),
        ("response length 3, block length 3", "a", 1.0),
        ("response length 2, block length 2", "heuristics", 1.0),
        ("response length 2, block length 2", "a", 1.0),
    ]


@pytest.mark.parametrize(
    ("label", "kind", "family"),
    [
        ("threshold:0.7", "heuristic", "threshold"),
        ("threshold:threshold=0.7,fallback=leftmost", "heuristic", "threshold:fallback=leftmost"),
        ("klass:tau=0.6,kappa=1e-3", "heuristic", "klass"),
        ("random", "heuristic", "random"),
        ("threshold:0.7 [0.1.0+ab]", "heuristic", "threshold:0.7 [0.1.0+ab]"),
        ("my.py:Mine(k=2)", "heuristic", "Mine"),
        ("nosuch/x:alpha=0.3", "learned", "nosuch/x"),
        ("nosuch/x:nfe=5,greedy=true", "learned", "nosuch/x:greedy=true"),
        ("nosuch/x", "learned", "nosuch/x"),
        ("oracle", "oracle", "oracle"),
        ("oracle:leftmost:1+top_k:1", "oracle", "oracle:leftmost:1+top_k:1"),
    ],
)
def test_families(label: str, kind: Kind, family: str) -> None:
    assert Point(label, kind, 5, 0.5, 0.4, 0.6).family == family


def test_columns_for_the_files() -> None:
    played = entries(
        result("random:1", scored(50), 20), result("runs/x", scored(90), 7), result("oracle", scored(100), 2)
    )
    found = fronts(played)
    columns = front_columns(found)
    assert [columns[entry.setting.part("seed")]["front"] for entry in played] == ["random", "runs/x", "oracle"]
    assert [columns[entry.setting.part("seed")]["score"] for entry in played] == [
        0,
        pytest.approx((share((7, 0.9)) - share((20, 0.5))) / (share((2, 1.0)) - share((20, 0.5)))),
        1,
    ]


def test_aup_by_hand() -> None:
    """Outcomes have 4 tokens each. The policies' best accuracy is 80%; the oracle's 100% is none of theirs."""
    played = entries(
        result("top_k:1", scored(80), 10),
        result("top_k:2", scored(78), 5),
        result("top_k:3", scored(70), 9),  # another one is as fast and better
        result("oracle", scored(100), 2),
    )
    found = {front.who: front for front in fronts(played)}
    slow, fast = (entry.figures.tokens_per_nfe for entry in played[:2])
    weight = math.exp(-3 * (1 - 78 / 80))
    expected = 100 * slow * 0.8 + (fast - slow) * 100 * (0.8 + 0.78 * weight) / 2
    assert found["heuristics"].aup == found["top_k"].aup == pytest.approx(expected)
    assert found["oracle"].aup == pytest.approx(100 * played[3].figures.tokens_per_nfe)
    assert set(found) == {"heuristics", "oracle", "top_k"}  # the oracle is no family besides


def test_the_oracle_alone() -> None:
    (found,) = fronts(entries(result("oracle", scored(50), 2)))
    assert (found.who, found.score) == ("oracle", None)
    assert found.aup > 0
    (columns,) = front_columns([found]).values()
    assert columns == {"front": "oracle", "area": found.area.value, "score": None, "aup": found.aup}


def test_the_same_problems_are_drawn_again_every_time() -> None:
    first, second = (fronts(ENTRIES)[0].area for _ in range(2))
    assert first == second
