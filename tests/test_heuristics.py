"""The published rules on rows small enough to work out by hand."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dllm_env.denoisers.base import NO_EXTRAS, Extras
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.heuristics import (
    Dilated,
    Entropy,
    EntropyBound,
    Factor,
    FirstHitting,
    Heuristic,
    Hierarchy,
    Klass,
    Leftmost,
    LocalLeap,
    Margin,
    Random,
    Rightmost,
    Threshold,
    TopK,
    best_k,
)
from dllm_env.policies.learned import load_policy
from dllm_env.policies.registry import HEURISTICS, load_heuristic
from dllm_env.random import RowRandom, torch_generator
from dllm_env.train.imitation import Recorded


def observe(confidence: list[list[float]], selectable: list[list[int]]) -> Observation:
    allowed = torch.tensor(selectable).bool()
    return Observation(
        confidence=torch.tensor(confidence)[..., None],
        masked=allowed,
        selectable=allowed,
        progress=torch.zeros(len(allowed)),
        masked_total=allowed.sum(-1),
        step=torch.zeros(len(allowed), dtype=torch.int64),
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
    mirrored = decide(Rightmost(k), [[0.1, 0.9, 0.2, 0.9, 0.3, 0.99]], [selectable[::-1]])
    assert mirrored == [unmask[::-1]]


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


def seen(selectable: list[int], step: int = 0, outside: int = 0, **columns: list[float]) -> Observation:
    """One row; ``outside`` masks lie outside the block."""
    row = observe([columns.pop("confidence", [0.0] * len(selectable))], [selectable])
    shown = {name: torch.tensor([values]) for name, values in columns.items()}
    return replace(row, step=torch.tensor([step]), masked_total=row.masked_total + outside, **shown)


def act(rule: Heuristic, row: Observation, key: int = 1) -> list[int]:
    return rule.act(row, RowRandom(torch.tensor([key]))).unmask[0].int().tolist()


def counts(rule: Heuristic, length: int, block: int = 0) -> list[int]:
    """Positions revealed in each step of a response, played block by block with the rule's memory."""
    left, memory, found = [1] * length, {}, []
    block = block or length
    while sum(left):
        start = left.index(1) // block * block
        inside = left[start : start + block]
        row = seen(inside, step=len(found), outside=sum(left) - sum(inside))
        row.memory = memory
        row.margin = row.entropy = torch.zeros(1, block)
        row.log_probability = torch.zeros(1, block, 2)
        row.token, row.ends = torch.zeros(1, block, dtype=torch.int64), torch.zeros(1, block, dtype=torch.bool)
        decision = rule.act(row, RowRandom(torch.tensor([1])))
        memory = dict(decision.memory)
        for place in decision.unmask[0].nonzero()[:, 0].tolist():
            left[start + place] = 0
        found.append(int(decision.unmask.sum()))
        assert len(found) <= 10 * length
    return found


@pytest.mark.parametrize(
    ("length", "block", "steps", "expected"),
    [
        (40, 40, 16, [3] * 8 + [2] * 8),  # 40 = 8·3 + 8·2
        (10, 10, 4, [3, 3, 2, 2]),
        (4, 4, 9, [1, 1, 1, 1]),
        (16, 8, 6, [3, 3, 2, 3, 3, 2]),  # the remainder is early in each block, not in the response
        (24, 8, 9, [3, 3, 2] * 3),
        (16, 8, 16, [1] * 16),
        (16, 8, 2, [8, 8]),
        (16, 8, 5, [3, 3, 2, 4, 4]),  # 5 steps over 2 blocks: the first has one more
        (16, 8, 1, [8, 8]),  # a block takes one step at least
    ],
)
def test_lladas_schedule(length: int, block: int, steps: int, expected: list[int]) -> None:
    for rule in (TopK(steps=steps), Random(steps=steps), Margin(steps=steps, schedule="llada")):
        assert counts(rule, length, block) == expected


def test_lladas_schedule_in_full_diffusion_needs_no_memory() -> None:
    left, found = [1] * 10, []
    while sum(left):
        unmask = act(TopK(steps=4), seen(left, step=len(found)))
        found.append(sum(unmask))
        left = [a - b for a, b in zip(left, unmask, strict=True)]
    assert found == [3, 3, 2, 2]
    assert act(TopK(steps=5), seen([1, 1, 1, 1], step=9, outside=6)) == [1, 1, 1, 1]  # late: all that there are


@pytest.mark.parametrize(
    ("length", "block", "steps", "expected"),
    [
        # Times 1, 0.75025, 0.5005, 0.25075, 0.001: floor(10·0.24975), floor(8·0.33289), floor(6·0.49900), the rest.
        (10, 10, 4, [2, 2, 2, 4]),
        # Times 1, 0.667, 0.334, 0.001: floor(9·0.333), floor(7·0.49925), the rest.
        (9, 9, 3, [2, 3, 4]),
        (8, 8, 1, [8]),
        (8, 8, 8, [0, 1, 1, 1, 1, 1, 1, 2]),  # floor(8·0.999/8) = 0
        (18, 9, 6, [2, 3, 4, 2, 3, 4]),  # in each block
        (18, 9, 7, [2, 2, 2, 3, 2, 3, 4]),
    ],
)
def test_dreams_schedule(length: int, block: int, steps: int, expected: list[int]) -> None:
    for rule in (Entropy(steps=steps), Margin(steps=steps), TopK(steps=steps, schedule="dream")):
        assert counts(rule, length, block) == expected


@pytest.mark.parametrize("steps", [1, 3, 7, 16, 39, 40])
def test_dreams_schedule_against_its_formula(steps: int) -> None:
    left, expected = 40, []
    for i in range(steps):
        now, later = (1 - 0.999 * k / steps for k in (i, i + 1))
        expected.append(int(left * (1 - later / now)) if i < steps - 1 else left)
        left -= expected[-1]
    assert counts(Entropy(steps=steps), 40) == expected


@pytest.mark.parametrize(
    ("length", "block", "steps", "expected"),
    [
        # At t = 1/4, 1/2, 3/4, 1 are t/(3 − 2t) = 0.1, 0.25, 0.5, 1 of 8 left: 0, 2, 4, 8. Every step reveals one
        # at least, 1, 2, 2, 4 from the end, and the first of them that reveals several gives one back.
        (8, 8, 4, [4, 2, 1, 1]),
        (10, 10, 2, [8, 2]),  # t = 1/2: 2 of 10
        (6, 6, 9, [1] * 6),
        (16, 8, 8, [4, 2, 1, 1] * 2),
        (5, 5, 1, [5]),
    ],
)
def test_lavidas_schedule(length: int, block: int, steps: int, expected: list[int]) -> None:
    for rule in (Entropy(steps=steps, schedule="lavida"), TopK(steps=steps, schedule="lavida")):
        assert counts(rule, length, block) == expected


def test_lavidas_schedule_shifted_the_other_way() -> None:
    """t' = 3t/(1 + 2t): 0.5, 0.75, 0.9, 1 of 8 are 4, 6, 7, 8."""
    assert counts(TopK(steps=4, schedule="lavida", shift=3.0), 8, 8) == [1, 1, 2, 4]
    assert counts(TopK(steps=4, schedule="lavida", shift=1.0), 8, 8) == [2, 2, 2, 2]


def test_dreams_schedule_ends_within_the_response() -> None:
    with pytest.raises(UsageError, match="entropy: 41 steps do not fit into a response of 40 tokens"):
        counts(Entropy(steps=41), 40)


def test_a_new_row_in_a_slot_begins_its_own_schedule() -> None:
    """Row 0 goes on in its block; row 1, whose memory is zero, is a prompt that took a finished one's place."""
    rule = TopK(steps=4)
    first = rule.act(observe([[0.5] * 10] * 2, [[1] * 10] * 2), RowRandom(torch.arange(2)))
    memory = {name: value.index_fill(0, torch.tensor([1]), 0) for name, value in first.memory.items()}
    row = observe([[0.5] * 10] * 2, [[0, 0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 10])
    row = replace(row, memory=memory, step=torch.tensor([1, 0]))
    second = rule.act(row, RowRandom(torch.arange(2)))
    assert second.unmask.sum(-1).tolist() == [3, 3]
    third = replace(row, memory=second.memory, step=torch.tensor([2, 1]))
    third.selectable = third.masked = row.selectable & ~second.unmask
    third.masked_total = third.masked.sum(-1)
    assert rule.act(third, RowRandom(torch.arange(2))).unmask.sum(-1).tolist() == [2, 3]


def test_blocks_beyond_the_response_length_are_told_apart() -> None:
    """A serving loop may go on beyond the length it was given; there no mask is outside of any block."""
    rule, memory, found = TopK(steps=2), {}, []
    for step, inside in enumerate(([1] * 4, [1] * 4, [0, 0, 1, 1], [1] * 4)):
        row = seen(inside, step=step)
        row.memory = memory
        decision = rule.act(row, RowRandom(torch.tensor([1])))
        memory = dict(decision.memory)
        found.append(int(decision.unmask.sum()))
        if step == 0:
            memory["left"] = torch.zeros(1, dtype=torch.int64)  # as if all had been written
    assert found == [2, 2, 2, 2]


def test_klass_keeps_to_the_plan_where_it_falls_back() -> None:
    """8 masks in 3 steps are 3, 3, 2. In step 1 one position is sure and steady; step 2 takes what was planned."""
    rule, memory, found = Klass(history=1, steps=3), {}, []
    left = [1] * 8
    for step, (sure, moving) in enumerate(((0.5, 0.5), (0.9, 0.5), (0.5, 0.9), (0.5, 0.5))):
        row = seen(left, step=step, confidence=[0.5] * 7 + [sure])
        change = [0.9, 0.1] if moving == 0.9 or step % 2 else [0.1, 0.9]
        row.log_probability = distribution(*[change] * 7, [0.5, 0.5])
        row.memory = memory
        decision = rule.act(row, RowRandom(torch.tensor([1])))
        memory = dict(decision.memory)
        found.append(int(decision.unmask.sum()))
        left = [a - b for a, b in zip(left, decision.unmask[0].int().tolist(), strict=True)]
    assert found == [3, 1, 2, 2]  # after the plan's end, the rest


@pytest.mark.parametrize(
    ("k", "margin", "unmask"),
    [(1, [0.3, 0.1, 0.3, 0.2], [1, 0, 0, 0]), (2, [0.2, 0.1, 0.3, 0.2], [1, 0, 1, 0])],
)
def test_margin(k: int, margin: list[float], unmask: list[int]) -> None:
    row = seen([1, 1, 1, 1], margin=margin, confidence=[0.1, 0.9, 0.1, 0.8])
    assert act(Margin(k), row) == unmask


@pytest.mark.parametrize(
    ("k", "entropy", "selectable", "unmask"),
    [
        (1, [0.3, 0.1, 0.1, 0.2], [1, 1, 1, 1], [0, 1, 0, 0]),
        (2, [0.3, 0.1, 0.3, 0.0], [1, 1, 1, 0], [1, 1, 0, 0]),
    ],
)
def test_entropy(k: int, entropy: list[float], selectable: list[int], unmask: list[int]) -> None:
    assert act(Entropy(k), seen(selectable, entropy=entropy)) == unmask


@pytest.mark.parametrize(
    ("f", "confidence", "selectable", "unmask"),
    [
        # Sorted down 0.875, 0.75, 0.5, against 1 - 1/(n+1) = 1/2, 2/3, 3/4: n = 2.
        (1, [0.75, 0.5, 0.875], [1, 1, 1], [1, 0, 1]),
        # Only the third bound holds, 0.75 >= 1 - 1/4, beside the first: the largest n counts.
        (1, [0.75, 0.75, 0.75], [1, 1, 1], [1, 1, 1]),
        (1, [0.4, 0.3, 0.45], [1, 1, 1], [0, 0, 1]),  # none holds: the best
        (1, [0.5, 0.3, 0.2], [1, 1, 1], [1, 0, 0]),  # equal is enough
        (2, [0.4, 0.375, 0.2], [1, 1, 1], [1, 1, 0]),  # bounds 0, 1/3, 1/2
        (0, [1.0, 0.9, 1.0], [1, 1, 1], [1, 0, 1]),  # only certainty
        (1, [0.1, 0.1], [1, 1], [1, 0]),
        (1, [0.9, 0.9, 0.9], [0, 1, 0], [0, 1, 0]),
        (1, [0.9, 0.9, 0.9], [0, 0, 0], [0, 0, 0]),
    ],
)
def test_factor_of_the_paper(f: float, confidence: list[float], selectable: list[int], unmask: list[int]) -> None:
    assert act(Factor(f, "paper"), seen(selectable, confidence=confidence)) == unmask


@pytest.mark.parametrize(
    ("f", "confidence", "selectable", "unmask"),
    [
        # Bounds 2/3, 3/4, 4/5 for the second, third, fourth; the first has none.
        (1, [0.1, 0.7, 0.2, 0.3], [1, 1, 1, 1], [0, 1, 0, 0]),
        (1, [0.7, 0.7, 0.7, 0.8], [1, 1, 1, 1], [1, 0, 0, 1]),  # 0.8, 0.7 pass, 0.7 < 3/4; equals from the left
        (1, [0.8, 0.8, 0.8, 0.1], [1, 1, 1, 1], [1, 1, 1, 1]),  # only the last fails: it goes along
        (1, [0.8, 0.8, 0.8, 0.8], [1, 1, 1, 1], [1, 1, 1, 1]),
        (1, [0.1, 0.1], [1, 1], [1, 1]),  # the last two go together, however unsure
        (1, [0.1, 0.2, 0.1], [1, 0, 1], [1, 0, 1]),
        (1, [0.5, 0.6, 0.9], [1, 1, 1], [0, 0, 1]),  # 0.6 < 2/3
        # The paper's formula would take all: 0.75 ≥ 1 − 1/4 for n = 3. The walk stops at n = 2, 0.6 < 2/3, before.
        (1, [0.6, 0.6, 0.6, 0.6, 0.99], [1, 1, 1, 1, 1], [0, 0, 0, 0, 1]),
        (0, [1.0, 0.9, 1.0, 0.9], [1, 1, 1, 1], [1, 0, 1, 0]),
        (1, [0.9, 0.9, 0.9], [0, 1, 0], [0, 1, 0]),
        (1, [0.9, 0.9, 0.9], [0, 0, 0], [0, 0, 0]),
    ],
)
def test_factor_as_shipped(f: float, confidence: list[float], selectable: list[int], unmask: list[int]) -> None:
    assert act(Factor(f), seen(selectable, confidence=confidence)) == unmask


@pytest.mark.parametrize(
    ("gamma", "entropy", "selectable", "unmask"),
    [
        # Ascending 0, 0.25, 0.5, 1: sums without the largest are 0, 0, 0.25, 0.75.
        (0.25, [1.0, 0.25, 0.0, 0.5], [1, 1, 1, 1], [0, 1, 1, 1]),
        (0.2, [1.0, 0.25, 0.0, 0.5], [1, 1, 1, 1], [0, 1, 1, 0]),
        (0.75, [1.0, 0.25, 0.0, 0.5], [1, 1, 1, 1], [1, 1, 1, 1]),
        (0.0, [1.0, 0.5, 2.0, 0.5], [1, 1, 1, 1], [0, 1, 0, 0]),  # always one; the leftmost of equals
        (0.5, [0.0, 0.5, 2.0, 0.5], [0, 1, 1, 1], [0, 1, 0, 1]),
        (0.1, [0.0, 0.5], [0, 0], [0, 0]),
    ],
)
def test_entropy_bound(gamma: float, entropy: list[float], selectable: list[int], unmask: list[int]) -> None:
    assert act(EntropyBound(gamma), seen(selectable, entropy=entropy)) == unmask


def test_entropy_bound_against_enumeration() -> None:
    entropy = torch.rand(50, 6, generator=torch_generator("bound"))
    allowed = torch.rand(50, 6, generator=torch_generator("allowed")) < 0.7
    row = replace(observe([[0.0] * 6] * 50, allowed.int().tolist()), entropy=entropy)
    unmask = EntropyBound(0.6).act(row, RowRandom(torch.arange(50))).unmask
    for h, some, got in zip(entropy.tolist(), allowed.tolist(), unmask.tolist(), strict=True):
        order = sorted((i for i in range(6) if some[i]), key=lambda i: h[i])
        fit = [k for k in range(1, len(order) + 1) if sum(h[i] for i in order[:k]) - h[order[k - 1]] <= 0.6]
        assert {i for i in range(6) if got[i]} == set(order[: max(fit, default=0)])


def test_dilated_halves_its_stride() -> None:
    left, rounds = [1] * 8, []
    while sum(left):
        unmask = act(Dilated(), seen(left))
        rounds.append([i for i, chosen in enumerate(unmask) if chosen])
        left = [a - b for a, b in zip(left, unmask, strict=True)]
    assert rounds == [[0, 4], [2, 6], [1, 3, 5, 7]]


@pytest.mark.parametrize(
    ("base", "selectable", "unmask"),
    [
        (2, [1] * 5, [1, 0, 1, 0, 1]),  # 5 // 2 = 2
        (2, [0, 1, 0, 1, 0], [0, 1, 0, 1, 0]),
        (3, [1] * 6, [1, 0, 1, 0, 1, 0]),
        (9, [1] * 6, [1] * 6),  # the first stride is 1 already
        (2, [1], [1]),
        (2, [0, 0, 0], [0, 0, 0]),
    ],
)
def test_dilated(base: int, selectable: list[int], unmask: list[int]) -> None:
    assert act(Dilated(base), seen(selectable)) == unmask


@pytest.mark.parametrize(
    ("confidence", "selectable", "unmask"),
    [
        ([0.95, 0.8, 0.7, 0.8, 0.1, 0.8], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]),  # radius 2 around position 0
        ([0.8, 0.7, 0.8, 0.9, 0.75, 0.8], [1, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1]),  # equal is enough, both times
        ([0.95, 0.8, 0.8, 0.1, 0.1, 0.1], [0, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0]),  # an anchor has to be selectable
        ([0.1, 0.3, 0.2, 0.3, 0.1, 0.1], [1, 1, 1, 1, 1, 1], [0, 1, 0, 0, 0, 0]),
    ],
)
def test_local_leap(confidence: list[float], selectable: list[int], unmask: list[int]) -> None:
    assert act(LocalLeap(radius=2), seen(selectable, confidence=confidence)) == unmask


@pytest.mark.parametrize(
    ("confidence", "selectable", "unmask"),
    [
        # Runs 0-1 and 3-5: their best, of equals the leftmost.
        ([0.5, 0.6, 0.0, 0.5, 0.5, 0.3], [1, 1, 0, 1, 1, 1], [0, 1, 0, 1, 0, 0]),
        ([0.3, 0.2, 0.0, 0.4, 0.3, 0.3], [1, 1, 0, 1, 1, 1], [0, 0, 0, 1, 0, 0]),  # the first run's is below 0.4
        ([0.3, 0.2, 0.0, 0.35, 0.3, 0.3], [1, 1, 0, 1, 1, 1], [0, 0, 0, 1, 0, 0]),  # none is above: the best of all
        ([0.9, 0.95, 0.0, 0.5, 0.9, 0.3], [1, 1, 0, 1, 1, 1], [1, 1, 0, 0, 1, 0]),
        ([0.9, 0.95, 0.9], [0, 0, 0], [0, 0, 0]),
    ],
)
def test_hierarchy(confidence: list[float], selectable: list[int], unmask: list[int]) -> None:
    assert act(Hierarchy(), seen(selectable, confidence=confidence)) == unmask


def distribution(*rows: list[float]) -> torch.Tensor:
    return torch.tensor([rows]).log()


def test_klass_wants_two_steady_steps() -> None:
    """Position 0 is sure and steady, 1 sure and restless, 2 steady and unsure; a mask token never counts."""
    rule = Klass(tau=0.6, kappa=0.015)
    steady, unsure = [0.8, 0.2, 0.0], [0.5, 0.5, 0.0]
    memory: dict[str, torch.Tensor] = {}
    restless = [[0.7, 0.3, 0.0], [0.3, 0.7, 0.0], [0.7, 0.3, 0.0], [0.72, 0.28, 0.0], [0.71, 0.29, 0.0]]
    chosen = []
    for step, moving in enumerate(restless):
        row = seen([1, 1, 1], step=step, confidence=[0.8, max(moving), 0.5])
        row.log_probability, row.memory = distribution(steady, moving, unsure), memory
        decision = rule.act(row, RowRandom(torch.tensor([1])))
        memory = dict(decision.memory)
        chosen.append(decision.unmask[0].int().tolist())
    # Two comparisons are needed, so that the first two steps fall back on the best one.
    assert chosen == [[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0]]


def test_klass_divergence_by_hand() -> None:
    """KL((3/4, 1/4) ‖ (1/2, 1/2)) = 3/4 ln 3/2 + 1/4 ln 1/2; just above it is steady, just below it is not."""
    divergence = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
    for kappa, expected in ((divergence * 1.001, [0, 1]), (divergence * 0.999, [1, 0])):
        rule, memory = Klass(tau=0.7, kappa=kappa, history=1), {}
        for probabilities in ([0.5, 0.5], [0.75, 0.25]):
            row = seen([1, 1], confidence=[0.9, max(probabilities)])
            row.log_probability = distribution([1.0 if len(memory) else 0.1, 0.0], probabilities)
            row.memory = memory
            decision = rule.act(row, RowRandom(torch.tensor([1])))
            memory = dict(decision.memory)
        assert decision.unmask[0].int().tolist() == expected


def test_klass_begins_again_in_a_new_block() -> None:
    """Also where a block was finished in one step, so that the masks of the block look the same."""
    rule, memory, chosen = Klass(history=1), {}, []
    for outside in (4, 4, 2, 2):
        row = seen([1, 1], outside=outside, confidence=[0.7, 0.9])
        row.log_probability, row.memory = distribution([0.7, 0.3], [0.9, 0.1]), memory
        decision = rule.act(row, RowRandom(torch.tensor([1])))
        memory = dict(decision.memory)
        chosen.append(decision.unmask[0].int().tolist())
    assert chosen == [[0, 1], [1, 1], [0, 1], [1, 1]]


def test_first_hitting_times_are_those_of_the_largest_uniform() -> None:
    """With n positions left, τ'/τ = U^(1/n) is the largest of n uniforms: mean n/(n+1). Positions are uniform."""
    count = 4000
    row = observe([[0.5] * 4] * count, [[1, 1, 0, 1]] * count)
    decision = FirstHitting().act(row, RowRandom(torch.arange(count)))
    assert decision.unmask.sum(-1).eq(1).all()
    share = decision.unmask.double().mean(0)
    assert share[2] == 0
    assert share[[0, 1, 3]].sub(1 / 3).abs().max() < 4 * math.sqrt(2 / 9 / count)
    time = (-decision.memory["elapsed"]).exp()
    assert abs(time.mean() - 3 / 4) < 4 * math.sqrt(3 / 80 / count)
    later = FirstHitting().act(replace(row, memory=decision.memory), RowRandom(torch.arange(count)))
    assert (later.memory["elapsed"] > decision.memory["elapsed"]).all()


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
        ("top_k:steps=20", TopK(steps=20), "top_k:steps=20"),
        ("factor:1", Factor(1.0), "factor:1"),
        ("factor:f=1,variant=paper", Factor(1.0, "paper"), "factor:variant=paper"),
        ("factor:f=0.5,variant=paper", Factor(0.5, "paper"), "factor:f=0.5,variant=paper"),
        ("factor:variant=shipped", Factor(), "factor:1"),
        ("top_k:steps=20,schedule=dream", TopK(steps=20, schedule="dream"), "top_k:steps=20,schedule=dream"),
        ("entropy:steps=20,schedule=dream", Entropy(steps=20), "entropy:steps=20"),
        (
            "top_k:steps=20,schedule=lavida,shift=0.5",
            TopK(steps=20, schedule="lavida", shift=0.5),
            "top_k:steps=20,schedule=lavida,shift=0.5",
        ),
        ("random:steps=4", Random(steps=4), "random:steps=4"),
        ("klass:kappa=0.01", Klass(kappa=0.01), "klass:kappa=0.01"),
        ("klass:tau=0.5,history=3", Klass(0.5, history=3), "klass:tau=0.5,history=3"),
        ("local_leap", LocalLeap(), "local_leap:0.9"),
        ("first_hitting", FirstHitting(), "first_hitting"),
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
def test_rules_see_their_block_and_say_what_it_is_about(name: str) -> None:
    rule = load_heuristic(name)
    assert (rule.context, rule.top) == ("block", 1)
    assert rule.name.partition(":")[0] == name
    assert not rule.extras.hidden
    assert (type(rule).__doc__ or "").partition("\n")[0].endswith(".")


def test_full_context_decides_as_its_rule_does_in_the_block() -> None:
    """Blocks of 3, the second one active: the rule sees that block, whose first column is dilated's origin."""
    row = observe([[0.0, 0.0, 0.0, 0.95, 0.1, 0.99, 0.99]], [[0, 0, 0, 1, 1, 1, 0]])
    row = replace(row, margin=torch.zeros(1, 7))
    streams = RowRandom(torch.tensor([1]))
    for rule, expected in ((Threshold(0.9), [3, 5]), (Dilated(3), [3, 4, 5]), (TopK(1), [5]), (Margin(2), [3, 4])):
        shown = Recorded(rule, "full", 1, Extras(hidden=True), block_length=3)
        assert (shown.context, shown.name, shown.top) == ("full", rule.name, 1)
        assert shown.extras == Extras(hidden=True, margin=isinstance(rule, Margin))
        assert shown.act(row, streams).unmask[0].nonzero()[:, 0].tolist() == expected
        same = Recorded(rule, "block", 1, NO_EXTRAS, block_length=7)
        assert torch.equal(same.act(row, streams).unmask, rule.act(row, streams).unmask)


RULES_FILE = """
from dataclasses import dataclass

from dllm_env.policies.base import Decision
from dllm_env.policies.heuristics import Heuristic


@dataclass(frozen=True)
class Rightmost(Heuristic):
    k: int = 1

    def act(self, observation, random):
        left = observation.selectable.flip(-1).cumsum(-1).flip(-1)
        return Decision(observation.selectable & (left <= self.k))


class Plain:
    def act(self, observation, random):
        return Decision(observation.selectable)


class Fails:
    def __init__(self, k=1):
        raise RuntimeError("no")
    def act(self, observation, random): ...


class NoAct: ...
"""


def test_a_rule_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "my_rules.py"
    file.write_text(RULES_FILE)
    rule = load_policy(f"{file}:Rightmost(k=2)")
    assert (rule.name, rule.context, rule.top) == (f"{file}:Rightmost(k=2)", "block", 1)
    row = observe([[0.5] * 4], [[1, 1, 1, 0]])
    assert rule.act(row, RowRandom(torch.tensor([1]))).unmask.tolist() == [[False, True, True, False]]
    assert load_policy(f"{file}:Rightmost(2)").act(row, RowRandom(torch.tensor([1]))).unmask.sum() == 2
    plain = load_policy(f"{file}:Plain")
    assert plain.extras == NO_EXTRAS
    assert plain.act(row, RowRandom(torch.tensor([1]))).unmask.tolist() == [[True, True, True, False]]
    for text, message in (
        (f"{file}:Rightmost(j=2)", "has no parameter 'j'; it has k"),
        (f"{file}:Rightmost(2, 3)", "cannot make"),
        (f"{file}:Rightmost(k=open('x'))", "write file.py:Name or"),
        (f"{file}:Rightmost(k=", "cannot read"),
        (f"{file}:Absent", "has no class or function 'Absent'; it has Rightmost"),
        (f"{file}:NoAct", f"NoAct of {file} is no policy: it has no act"),
        (f"{file}:Fails", "RuntimeError: no"),
        (f"{tmp_path / 'other.py'}:Rightmost", "no file"),
    ):
        with pytest.raises(UsageError, match=re.escape(message)):
            load_policy(text)
    file.write_text("1 / 0")
    with pytest.raises(UsageError, match="fails when it is loaded: ZeroDivisionError"):
        load_policy(f"{file}:Rightmost")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("best", "unknown heuristic 'best'; choose one of random, top_k, margin, entropy, leftmost"),
        ("top_k:0", "top_k: k must be at least 1, got 0"),
        ("top_k:-1", "top_k: k must be at least 1, got -1"),
        ("leftmost:1.5", "leftmost: k must be a whole number, got '1.5'"),
        ("random:2.0", "random: k must be a whole number, got '2.0'"),
        ("random:inf", "random: k must be a whole number, got 'inf'"),
        ("random:nan", "random: k must be a whole number, got 'nan'"),
        ("threshold:1.5", "threshold: threshold must be between 0 and 1, got 1.5"),
        ("threshold:-0.1", "threshold: threshold must be between 0 and 1, got -0.1"),
        ("threshold:nan", "threshold: threshold must be between 0 and 1, got nan"),
        ("top_k:k=2,steps=5", "top_k: give k or steps, not both"),
        ("margin:steps=-1", "margin: steps must be at least 0, got -1"),
        ("factor:-1", "factor: f must be at least 0.0, got -1.0"),
        ("factor:nan", "factor: f must be at least 0.0, got nan"),
        ("entropy_bound:gamma=-0.1", "entropy_bound: gamma must be at least 0.0, got -0.1"),
        ("klass:history=0", "klass: history must be at least 1, got 0"),
        ("klass:tau=2", "klass: tau must be between 0 and 1, got 2.0"),
        ("dilated:1", "dilated: base must be at least 2, got 1"),
        ("local_leap:radius=-1", "local_leap: radius must be at least 0, got -1"),
        ("hierarchy:low=7", "hierarchy: low must be between 0 and 1, got 7.0"),
        ("first_hitting:2", "first_hitting has no settings, got '2'"),
        ("klass:0.6,tau=0.5", "klass: the setting 'tau' is given twice"),
        ("factor:g=1,h=2", "factor has no setting 'g'; it has f, variant"),
        ("factor:variant=code", "factor: variant must be shipped or paper, got 'code'"),
        ("factor:variant=1", "factor: variant must be shipped or paper, got "),
        ("margin:steps=4,schedule=lavida,shift=0", "margin: shift must be at least 0.001, got 0.0"),
        ("margin:steps=4,schedule=linear", "margin: schedule must be llada or dream or lavida, got 'linear'"),
        ("random:k=2,steps=5", "random: give k or steps, not both"),
        ("threshold:high", "threshold: threshold must be a number, got 'high'"),
        ("threshold:k=2", "threshold has no setting 'k'; it has threshold"),
        ("top_k:k=", "top_k: k must be a whole number, got ''"),
    ],
)
def test_bad_texts_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_heuristic(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_best_are_those_of_a_stable_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    for width in (1, 2, 7, 40):
        scores = torch.randint(0, 4, (50, width), generator=generator).float()  # with many equals
        selectable = torch.rand(50, width, generator=generator) < 0.6
        selectable[0] = False
        numbers = torch.randint(0, width + 2, (50,), generator=generator)
        for k in (1, 2, width, width + 3, numbers):
            found = best_k(scores, selectable, k)
            for row in range(50):
                there = [i for i in range(width) if selectable[row, i]]
                wanted = sorted(there, key=lambda i, row=row: -scores[row, i].item())
                count = int(k[row]) if isinstance(k, torch.Tensor) else k
                assert found[row].nonzero()[:, 0].tolist() == sorted(wanted[:count])
