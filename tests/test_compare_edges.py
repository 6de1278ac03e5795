"""Comparisons where it matters which entries meet, on what, and what is said of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from test_compare import entries, result, scored
from test_results import outcome

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
    samples_of,
    short_name,
)
from dllm_env.eval.results import Result


def with_nfe(found: Result, nfe: Sequence[int]) -> Result:
    """The same with each outcome's own NFE."""
    outcomes = [replace(each, nfe=n) for each, n in zip(found.outcomes, nfe, strict=True)]
    return Result(found.setting, outcomes)


# ------------------------------------------------------------------------------------------- entries


def test_an_entry_tells_its_figures() -> None:
    (found,) = entries(with_nfe(result("runs/x", [1, 0, 0, 1], 1, block_length=8), [4, 6, 8, 10]))
    assert (found.policy, found.label, found.learned, found.block_length) == ("runs/x", "runs/x", True, 8)
    assert found.coordinates == (found.nfe, found.accuracy) == (7.0, 0.5)
    point, figures = found.point, found.figures
    assert (point.label, point.kind, point.nfe, point.accuracy) == ("runs/x", "learned", 7.0, 0.5)
    assert (point.low, point.high) == (figures.accuracy_low, figures.accuracy_high)
    assert found.figures.problems == len(found.outcomes) == 4


def test_versions_are_told_where_one_policy_has_several() -> None:
    kept = {"code_version": "1", "denoiser_version": "aa"}
    found = entries(
        result("runs/x", [1.0], 4, policy_version="p1", **kept),
        result("runs/x", [1.0], 4, policy_version="", **kept),
        result("runs/y", [1.0], 4, policy_version="p1", **kept),
        result("runs/x", [1.0], 4, seed=3, policy_version="p1", **kept),
    )
    assert [entry.label for entry in found] == ["runs/x [p1 aa 1]", "runs/x [aa 1]", "runs/y"]
    assert [(entry.seeds, len(entry.outcomes)) for entry in found] == [(2, 2), (1, 1), (1, 1)]


@pytest.mark.parametrize(
    ("name", "short"),
    [
        ("trace", "trace"),
        ("some/where/b", "b"),
        ("some/where/b/", "b"),
        ("gsm8k:data=/a/b", "gsm8k"),
        ("gsm8k:data=/a/b,shots=2,level=3", "gsm8k:shots=2,level=3"),
        ("folder/model:dtype=bfloat16", "model:dtype=bfloat16"),
        ("/", "/"),
    ],
)
def test_short_names(name: str, short: str) -> None:
    assert short_name(name) == short


def test_titles_tell_every_rule_that_differs() -> None:
    found = entries(
        result("a", [1.0], 4, max_steps=9, prefix_cache=True, split="train"),
        result("a", [1.0], 4, max_steps=7, remask_budget=2, allow_remask=True),
    )
    said = [title.split(", ") for title in condition_titles(by_condition(found))]
    rules = [
        {"split train", "max steps 9", "allow remask False", "remask budget 0", "prefix cache True"},
        {"split test", "max steps 7", "allow remask True", "remask budget 2", "prefix cache False"},
    ]
    assert [set(words[:-1]) for words in said] == rules
    assert [words[-1] for words in said] == ["block length 40"] * 2


def test_titles_that_would_be_alike_tell_the_whole_task() -> None:
    found = entries(
        result("a", [1.0], 4, task="one/set"),
        result("a", [1.0], 4, task="other/set"),
        result("a", [1.0], 4, task="set2"),
    )
    assert condition_titles(by_condition(found)) == [
        "set, block length 40 (one/set)",
        "set, block length 40 (other/set)",
        "set2, block length 40",
    ]


# ---------------------------------------------------------------------------------------- comparisons


def test_rivals_as_fast_or_as_accurate_count() -> None:
    learned, same, slower, other = entries(
        result("runs/x", scored(50), 7),
        result("a", scored(50), 7),
        result("b", scored(60), 8),
        result("c", scored(99), 2, block_length=8),
    )
    found = [learned, same, slower, other]
    assert best_heuristic(found, learned) is same
    assert fastest_heuristic(found, learned) is same
    assert fastest_heuristic([learned, slower, other], learned) is slower
    assert best_heuristic([learned, slower, other], learned) is None


def test_a_comparison_says_who_and_why() -> None:
    first, second = entries(result("a", scored(3, 5), 4), result("b", scored(2, 5), 6))
    found = compare(first, second, "a title", "a reason")
    assert (found.first, found.second, found.title, found.why) == ("a", "b", "a title", "a reason")
    plain = compare(first, second)
    assert (plain.title, plain.why) == ("", "")
    (far,) = entries(result("c", [1.0], 4, seed=5))
    with pytest.raises(UsageError, match=r"^a and c have no problem in common$"):
        compare(first, far)


def test_only_problems_that_both_tried_once_have_an_exact_test() -> None:
    once, twice = entries(result("a", [1, 0], 4), result("b", [1, 1, 0, 0], 4, samples=2))
    for pair in (compare(once, twice), compare(twice, once), compare(twice, twice)):
        assert (pair.first_only, pair.second_only, pair.p) == (None, None, None)
    assert compare(once, once).p == 1.0


def test_the_ratio_of_nfe_is_that_of_the_means() -> None:
    """Mean NFE 4 against 6 over two samples of each of two problems; a third problem only the second had."""
    first, second = entries(
        with_nfe(result("a", [1, 1, 1, 1], 0, samples=2), [1, 3, 5, 7]),
        with_nfe(result("b", [1, 1, 1, 1, 1, 1], 0, samples=2), [2, 4, 8, 10, 99, 99]),
    )
    found = compare(first, second)
    assert (found.problems, found.nfe_ratio) == (2, 6 / 4)
    # Two problems drawn again: both the first, 3/2; both the second, 9/6; or one of each.
    assert (found.nfe_low, found.nfe_high) == (1.5, 1.5)


def test_the_interval_of_a_ratio_is_that_of_means_over_problems() -> None:
    """Half of 400 problems need 1 and half 3, against 1: 2 ± 1.96 · 1/√400."""
    first, second = entries(result("a", [1] * 400, 1), with_nfe(result("b", [1] * 400, 0), [1, 3] * 200))
    found = compare(first, second)
    assert found.nfe_ratio == 2.0
    assert (found.nfe_low, found.nfe_high) == pytest.approx((2 - 0.098, 2 + 0.098), abs=0.02)
    assert compare(first, second) == found, "the same results give the same interval"


LONG_AND_SHORT = [
    *(result("runs/x", scored(90), 7), result("a", scored(95), 9), result("b", scored(40), 5)),
    *(result("c", scored(92), 20), result("d", scored(70), 7)),
    *(result("runs/x", scored(50), 7, block_length=8), result("a", scored(45), 9, block_length=8)),
    *(result("b", scored(20), 3, block_length=8), result("c", scored(20), 8, block_length=8)),
    *(result("runs/y", scored(1), 7, block_length=5), result("runs/z", scored(2), 7, block_length=5)),
]


def told(found: Sequence[object]) -> list[tuple[str, str, str, str]]:
    return [(c.first, c.second, c.title, c.why) for c in found]  # type: ignore[attr-defined]


def test_every_learned_policy_meets_its_rivals_in_its_own_condition() -> None:
    assert told(comparisons(pool(LONG_AND_SHORT))) == [
        ("runs/x", "d", "block length 40", "best heuristic as fast"),
        ("runs/x", "a", "block length 40", "fastest heuristic as accurate"),
        ("runs/x", "b", "block length 8", "best heuristic as fast"),
        ("runs/x", "a", "block length 8", "most accurate heuristic"),
    ]


def test_a_baseline_meets_all_others_wherever_it_played() -> None:
    assert told(comparisons(pool(LONG_AND_SHORT), "b")) == [
        *((name, "b", "block length 40", "baseline") for name in ("runs/x", "a", "c", "d")),
        *((name, "b", "block length 8", "baseline") for name in ("runs/x", "a", "c")),
    ]
    with pytest.raises(UsageError, match=r"^no results of the baseline 'e'; there are runs/x, a, b$"):
        comparisons(pool(LONG_AND_SHORT[:3]), "e")
    learned = pool([result("runs/x", scored(5), 7), result("runs/y", scored(5), 7)])
    assert told(comparisons(learned, "runs/y")) == [("runs/x", "runs/y", "block length 40", "baseline")]


def test_cached_policies_meet_themselves_without_the_cache_whatever_their_version() -> None:
    cached = {"prefix_cache": True}
    found = comparisons(
        pool(
            [
                result("runs/x", scored(5), 7, code_version="1"),
                result("runs/x", scored(4), 6, code_version="2", **cached),
                result("a", scored(4), 6, **cached),
                result("a", scored(4), 6, block_length=8),
                result("b", scored(4), 6, max_steps=9, **cached),
                result("b", scored(4), 6),
            ]
        )
    )
    pairs = [pair for pair in told(found) if pair[3] == "without the prefix cache"]
    assert [(first, second) for first, second, _, _ in pairs] == [("runs/x", "runs/x")]
    assert pairs[0][2] == "block length 40, max steps 0, prefix cache True"


def test_cached_policies_meet_themselves_on_the_seeds_that_both_have() -> None:
    plain = [result("a", scored(right, 4), 6, seed) for seed, right in ((0, 4), (1, 3))]
    (pair,) = comparisons(pool([*plain, result("a", scored(1, 4), 6, seed=1, prefix_cache=True)]))
    assert (pair.problems, pair.difference) == (4, -0.5)


def test_samples_of_all_problems_count() -> None:
    outcomes = [
        outcome(index=i, correct=c, sample=s) for i, s, c in [(0, 0, 1), (0, 1, 0), (0, 2, 0), (1, 0, 1), (1, 1, 1)]
    ]
    (first,) = entries(Result(result("a", [1.0], 1).setting, outcomes))
    assert isinstance(first, Entry)
    assert samples_of(first) == 2
    assert pass_at(first, 1) == pytest.approx((1 / 3 + 1) / 2)
    assert pass_at(first, 2) == pytest.approx((2 / 3 + 1) / 2)
