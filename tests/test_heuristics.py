"""The published rules on rows small enough to work out by hand."""

from __future__ import annotations

import pytest
import torch

from dllm_env.denoisers import NO_EXTRAS
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.heuristics import (
    HEURISTICS,
    Heuristic,
    Leftmost,
    Random,
    Recorded,
    Threshold,
    TopK,
    load_heuristic,
)
from dllm_env.policies.learned import load_policy
from dllm_env.random import RowRandom


def observe(confidence: list[list[float]], selectable: list[list[int]]) -> Observation:
    allowed = torch.tensor(selectable).bool()
    return Observation(
        confidence=torch.tensor(confidence)[..., None],
        masked=allowed,
        selectable=allowed,
        progress=torch.zeros(len(allowed)),
        masked_total=allowed.sum(-1),
    )


def decide(rule: Heuristic, confidence: list[list[float]], selectable: list[list[int]], key: int = 1) -> list:
    observation = observe(confidence, selectable)
    streams = RowRandom(torch.arange(len(confidence)) + key)
    return rule.act(observation, streams).unmask.int().tolist()


@pytest.mark.parametrize(
    ("k", "confidence", "selectable", "unmask"),
    [
        (1, [0.2, 0.9, 0.5, 0.7], [1, 1, 1, 1], [0, 1, 0, 0]),
        (2, [0.2, 0.9, 0.5, 0.7], [1, 1, 1, 1], [0, 1, 0, 1]),
        (2, [0.2, 0.9, 0.5, 0.7], [1, 0, 1, 0], [1, 0, 1, 0]),
        (2, [0.2, 0.9, 0.5, 0.7], [0, 0, 1, 0], [0, 0, 1, 0]),
        (9, [0.2, 0.9, 0.5, 0.7], [1, 1, 0, 1], [1, 1, 0, 1]),
        (1, [0.5, 0.8, 0.8, 0.8], [1, 1, 1, 1], [0, 1, 0, 0]),  # ties go to the left
        (2, [0.5, 0.8, 0.8, 0.8], [1, 1, 1, 1], [0, 1, 1, 0]),
        (2, [0.5, 0.8, 0.8, 0.8], [1, 0, 1, 1], [0, 0, 1, 1]),
        (1, [0.0, 0.0, 0.0, 0.0], [0, 1, 1, 1], [0, 1, 0, 0]),
        (1, [0.2, 0.9, 0.5, 0.7], [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_top_k(k: int, confidence: list[float], selectable: list[int], unmask: list[int]) -> None:
    assert decide(TopK(k), [confidence], [selectable]) == [unmask]


@pytest.mark.parametrize(
    ("threshold", "confidence", "selectable", "unmask"),
    [
        (0.75, [0.25, 1.0, 0.5, 0.75], [1, 1, 1, 1], [0, 1, 0, 1]),  # equal is enough
        (0.75, [0.25, 1.0, 0.5, 0.75], [1, 0, 1, 1], [0, 0, 0, 1]),
        (0.75, [0.25, 1.0, 0.5, 0.75], [1, 0, 1, 0], [0, 0, 1, 0]),  # none is sure: the best of the row
        (1.0, [0.5, 0.5, 0.25, 0.5], [1, 1, 1, 1], [1, 0, 0, 0]),  # and the leftmost of equals
        (0.0, [0.5, 0.5, 0.25, 0.0], [1, 1, 0, 1], [1, 1, 0, 1]),
        (0.75, [0.25, 1.0, 0.5, 0.75], [0, 0, 0, 0], [0, 0, 0, 0]),
    ],
)
def test_threshold(threshold: float, confidence: list[float], selectable: list[int], unmask: list[int]) -> None:
    assert decide(Threshold(threshold), [confidence], [selectable]) == [unmask]


def test_fallback_is_for_each_row() -> None:
    """A sure row does not keep its neighbour from making progress, and what a row does is what it does alone."""
    confidence = [[0.95, 0.1, 0.99], [0.3, 0.4, 0.2], [0.1, 0.1, 0.91]]
    selectable = [[1, 1, 1], [1, 1, 1], [1, 1, 0]]
    together = decide(Threshold(0.9), confidence, selectable)
    assert together == [[1, 0, 1], [0, 1, 0], [1, 0, 0]]
    alone = [decide(Threshold(0.9), [c], [s])[0] for c, s in zip(confidence, selectable, strict=True)]
    assert together == alone


@pytest.mark.parametrize(
    ("k", "selectable", "unmask"),
    [
        (1, [0, 0, 1, 0, 1, 1], [0, 0, 1, 0, 0, 0]),
        (2, [0, 0, 1, 0, 1, 1], [0, 0, 1, 0, 1, 0]),
        (9, [0, 0, 1, 0, 1, 1], [0, 0, 1, 0, 1, 1]),
        (1, [0, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]),
    ],
)
def test_leftmost(k: int, selectable: list[int], unmask: list[int]) -> None:
    assert decide(Leftmost(k), [[0.1, 0.9, 0.2, 0.9, 0.3, 0.99]], [selectable]) == [unmask]


def test_random_is_uniform_over_the_pairs() -> None:
    """12,000 draws of 2 of 4 positions: chi-square with 5 degrees of freedom, 0.999 quantile 20.52."""
    count = 12_000
    drawn = decide(Random(2), [[0.1, 0.9, 0.3, 0.2, 0.4]] * count, [[1, 1, 0, 1, 1]] * count)
    counts: dict[tuple[int, ...], int] = {}
    for row in drawn:
        assert sum(row) == 2
        assert row[2] == 0
        counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    assert len(counts) == 6
    assert sum((n - count / 6) ** 2 / (count / 6) for n in counts.values()) < 20.52


def test_random_follows_from_the_row_alone() -> None:
    confidence, selectable = [[0.5] * 6] * 4, [[1] * 6] * 4
    together = decide(Random(2), confidence, selectable, key=10)
    assert together == [decide(Random(2), confidence[:1], selectable[:1], key=10 + i)[0] for i in range(4)]
    assert decide(Random(9), confidence[:1], [[1, 0, 1, 0, 0, 1]]) == [[1, 0, 1, 0, 0, 1]]


@pytest.mark.parametrize(
    ("text", "rule", "name"),
    [
        ("random", Random(1), "random:1"),
        ("random:3", Random(3), "random:3"),
        ("top_k", TopK(1), "top_k:1"),
        ("top_k:k=2", TopK(2), "top_k:2"),
        ("threshold", Threshold(0.9), "threshold:0.9"),
        ("threshold:0.75", Threshold(0.75), "threshold:0.75"),
        ("threshold:threshold=1", Threshold(1), "threshold:1"),
        ("leftmost:2", Leftmost(2), "leftmost:2"),
    ],
)
def test_names_round_trip(text: str, rule: Heuristic, name: str) -> None:
    for load in (load_heuristic, load_policy):
        loaded = load(text)
        assert loaded == rule
        assert loaded.name == name
        assert load(loaded.name) == rule


def test_long_parameters_keep_their_digits() -> None:
    """Two settings that differ may not share a name."""
    rule = Threshold(0.99999951)
    assert load_heuristic(rule.name) == rule


def test_an_object_passes_through() -> None:
    rule = Threshold(0.5)
    assert load_policy(rule) is rule


@pytest.mark.parametrize("name", sorted(HEURISTICS))
def test_rules_see_their_block_and_one_number_per_position(name: str) -> None:
    rule = load_heuristic(name)
    assert (rule.context, rule.top) == ("block", 1)
    assert not any((rule.extras.entropy, rule.extras.margin, rule.extras.hidden))


def test_full_context_decides_as_its_rule() -> None:
    rule, row = Threshold(0.9), observe([[0.95, 0.1, 0.99]], [[1, 1, 0]])
    shown = Recorded(rule, "full", 1, NO_EXTRAS)
    assert (shown.context, shown.name) == ("full", rule.name)
    streams = RowRandom(torch.tensor([1]))
    assert (
        shown.act(row, streams).unmask.tolist() == rule.act(row, streams).unmask.tolist() == [[True, False, False]]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best", "unknown heuristic 'best'; choose one of random, top_k, threshold, leftmost"),
        ("top_k:0", "k must be a whole number of at least 1, got 0"),
        ("top_k:-1", "k must be a whole number of at least 1, got -1"),
        ("leftmost:1.5", "k must be a whole number of at least 1, got 1.5"),
        ("random:2.0", "k must be a whole number of at least 1, got 2.0"),
        ("random:inf", "k must be a whole number of at least 1, got inf"),
        ("random:nan", "k must be a whole number of at least 1, got nan"),
        ("threshold:1.5", "the threshold must be between 0 and 1, got 1.5"),
        ("threshold:-0.1", "the threshold must be between 0 and 1, got -0.1"),
        ("threshold:nan", "the threshold must be between 0 and 1, got nan"),
        ("threshold:high", "threshold: threshold must be a number, got 'high'"),
        ("threshold:k=2", "threshold has no parameter 'k'; it has threshold"),
        ("top_k:k=", "top_k: k must be a number, got ''"),
    ],
)
def test_bad_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_heuristic(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
