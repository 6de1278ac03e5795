"""The Plackett–Luce heads against the enumeration of all ordered draws of up to five positions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from dllm_env.errors import UsageError
from dllm_env.policies.heads import DynamicPlackettLuce, PlackettLuce
from dllm_env.random import RowRandom

Ranked = PlackettLuce | DynamicPlackettLuce

HEADS = [
    *(PlackettLuce(1), PlackettLuce(2), PlackettLuce(4), PlackettLuce(3, 0.5)),
    *(DynamicPlackettLuce(), DynamicPlackettLuce(0.5)),
]
CASES = {
    "one": ([0.3], [True]),
    "none": ([0.3, -1.0], [False, False]),
    "two": ([0.3, -0.2], [True, True]),
    "all unlikely": ([-2.0, -1.0, -1.5, -3.0], [True] * 4),
    "all likely": ([2.0, 1.0, 1.5, 3.0], [True] * 4),
    "some hidden": ([2.0, -0.5, 0.7, -1.2, 3.0], [False, True, True, True, False]),
    "five": ([-0.4, 0.9, -1.7, 0.05, -0.6], [True] * 5),
    "ties": ([0.5, 0.5, -1.0, 0.5], [True] * 4),
    "far apart": ([50.0, -50.0, 0.0], [True] * 3),
    "all far up": ([50.0, 49.0], [True] * 2),
    "all far down": ([-50.0, -49.0, -49.5], [True] * 3),
}


def enumerate_head(head: Ranked, scores: list[float], selectable: list[bool]) -> dict[tuple[int, ...], float]:
    """Probability of each draw, as a tuple of positions in order, choice by choice."""
    weight = [math.exp(score / head.temperature) for score in scores]
    free = [i for i, allowed in enumerate(selectable) if allowed]
    result: dict[tuple[int, ...], float] = {}

    def follow(draw: tuple[int, ...], probability: float) -> None:
        left = [i for i in free if i not in draw]
        if isinstance(head, PlackettLuce):
            stop, ended = 0.0, not left or len(draw) == head.k
        else:
            stop, ended = (1.0 if draw else 0.0), not left
        total = stop + sum(weight[i] for i in left)
        if ended or stop:
            result[draw] = probability * (1.0 if ended else stop / total)
        if not ended:
            for i in left:
                follow((*draw, i), probability * weight[i] / total)

    follow((), 1.0)
    return result


def as_draw(positions: tuple[int, ...], width: int) -> Tensor:
    draw = torch.zeros(width, dtype=torch.int64)
    for place, position in enumerate(positions, 1):
        draw[position] = place
    return draw


def as_positions(draw: Tensor) -> tuple[int, ...]:
    places = {int(place): position for position, place in enumerate(draw.tolist()) if place > 0}
    assert sorted(places) == list(range(1, len(places) + 1))
    return tuple(places[place] for place in sorted(places))


@pytest.fixture(params=CASES, name="case")
def _case(request: pytest.FixtureRequest) -> tuple[list[float], list[bool]]:
    return CASES[request.param]


@pytest.mark.parametrize("head", HEADS)
def test_log_prob_is_that_of_the_enumeration(head: Ranked, case: tuple[list[float], list[bool]]) -> None:
    scores, selectable = torch.tensor(case[0], dtype=torch.float64), torch.tensor(case[1])
    expected = enumerate_head(head, *case)
    assert sum(expected.values()) == pytest.approx(1.0)
    width = len(scores)
    every = [p for size in range(width + 1) for p in itertools.permutations(range(width), size)]
    draws = torch.stack([as_draw(positions, width) for positions in every])
    log_prob = head.log_prob(scores.expand(len(every), -1), selectable.expand(len(every), -1), draws)
    assert log_prob.exp().sum().item() == pytest.approx(1.0)
    for positions, value in zip(every, log_prob.tolist(), strict=True):
        if positions in expected:
            assert value == pytest.approx(math.log(expected[positions]), abs=1e-9)
        else:
            assert value == -math.inf


@pytest.mark.parametrize("head", HEADS)
def test_entropy_of_the_choices_has_the_entropy_as_its_mean(
    head: Ranked, case: tuple[list[float], list[bool]]
) -> None:
    scores, selectable = torch.tensor(case[0], dtype=torch.float64), torch.tensor(case[1])
    expected = {draw: p for draw, p in enumerate_head(head, *case).items() if p > 0}
    draws = torch.stack([as_draw(positions, len(scores)) for positions in expected])
    choices = head.entropy(scores.expand(len(draws), -1), selectable.expand(len(draws), -1), draws)
    probability = torch.tensor(list(expected.values()), dtype=torch.float64)
    exact = -(probability * probability.log()).sum().item()
    assert (probability * choices).sum().item() == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize("head", HEADS)
def test_mode_is_the_most_probable_draw(head: Ranked, case: tuple[list[float], list[bool]]) -> None:
    scores, selectable = torch.tensor(case[0], dtype=torch.float64), torch.tensor(case[1])
    expected = enumerate_head(head, *case)
    mode = as_positions(head.mode(scores, selectable))
    assert expected[mode] == pytest.approx(max(expected.values()))


def many(case: tuple[list[float], list[bool]], count: int) -> tuple[Tensor, Tensor, RowRandom]:
    scores, selectable = torch.tensor(case[0]), torch.tensor(case[1])
    random = RowRandom(torch.arange(count) * 7919 + 5)
    return scores.expand(count, -1), selectable.expand(count, -1), random


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ["five", "some hidden", "ties", "all unlikely"])
def test_200000_samples_follow_the_enumeration(head: Ranked, name: str) -> None:
    count = 200_000
    scores, selectable, random = many(CASES[name], count)
    draws = head.sample(scores, selectable, random)
    expected = enumerate_head(head, *CASES[name])
    found, times = draws.unique(dim=0, return_counts=True)
    observed = {as_positions(draw): int(n) for draw, n in zip(found, times, strict=True)}
    assert set(observed) <= set(expected)
    common = [draw for draw, p in expected.items() if p * count >= 5]
    rare = 1 - sum(expected[draw] for draw in common)
    counts = [observed.get(draw, 0) for draw in common]
    wanted = [expected[draw] * count for draw in common]
    if rare * count >= 5:
        counts.append(count - sum(counts))
        wanted.append(rare * count)
    statistic = sum((n - m) ** 2 / m for n, m in zip(counts, wanted, strict=True))
    freedom = torch.tensor((len(counts) - 1) / 2, dtype=torch.float64)
    p_value = torch.special.gammaincc(freedom, torch.tensor(statistic / 2, dtype=torch.float64))
    assert p_value > 1e-4


@pytest.mark.parametrize("head", HEADS)
def test_entropy_is_minus_mean_log_prob(head: Ranked) -> None:
    scores, selectable, random = many(CASES["five"], 200_000)
    draws = head.sample(scores, selectable, random)
    log_prob, entropy = head.log_prob(scores, selectable, draws), head.entropy(scores, selectable, draws)
    assert log_prob.dtype == entropy.dtype == torch.float32
    assert entropy.mean().item() == pytest.approx(-log_prob.mean().item(), abs=0.01)


@pytest.mark.parametrize("head", HEADS)
def test_gradients(head: Ranked) -> None:
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(4, 2, 5, dtype=torch.float64, generator=generator, requires_grad=True)
    selectable = torch.rand(4, 2, 5, generator=generator) < 0.7
    draws = head.sample(scores.detach(), selectable, RowRandom(torch.arange(4)))
    assert torch.autograd.gradcheck(lambda s: head.log_prob(s, selectable, draws), scores)
    assert torch.autograd.gradcheck(lambda s: head.entropy(s, selectable, draws), scores)


@pytest.mark.parametrize("head", HEADS)
def test_rows_and_steps_are_independent(head: Ranked) -> None:
    """(B, T, W) is the same as its (W,) parts, and a row alone draws what it draws in a batch."""
    generator = torch.Generator().manual_seed(4)
    scores = 3 * torch.randn(5, 3, 6, generator=generator)
    selectable = torch.rand(5, 3, 6, generator=generator) < 0.6
    draws = head.sample(scores, selectable, RowRandom(torch.arange(5)))
    for row in range(5):
        alone = head.sample(scores[row : row + 1], selectable[row : row + 1], RowRandom(torch.tensor([row])))
        assert torch.equal(alone[0], draws[row])
    for function in (head.log_prob, head.entropy):
        together = function(scores, selectable, draws)
        assert together.shape == (5, 3)
        for row, step in itertools.product(range(5), range(3)):
            part = function(scores[row, step], selectable[row, step], draws[row, step])
            assert part.item() == pytest.approx(together[row, step].item(), abs=1e-6)
            assert torch.equal(
                head.mode(scores, selectable)[row, step], head.mode(scores[row, step], selectable[row, step])
            )


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("value", [50.0, -50.0, 0.0, 1e6, -1e6])
def test_far_scores_give_finite_numbers_and_gradients(head: Ranked, value: float) -> None:
    scores = torch.tensor([[value, -value, value / 2, 0.0]] * 3, requires_grad=True)
    selectable = torch.tensor([[True] * 4, [True] + [False] * 3, [False] * 4])
    draws = head.sample(scores.detach(), selectable, RowRandom(torch.arange(3)))
    log_prob, entropy = head.log_prob(scores, selectable, draws), head.entropy(scores, selectable, draws)
    (log_prob + entropy).sum().backward()
    assert torch.isfinite(log_prob).all()
    assert (log_prob <= 1e-6).all()
    assert (entropy >= -1e-6).all()
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()
    assert draws[1].tolist() == [1, 0, 0, 0]
    assert draws[2].tolist() == [0] * 4
    assert log_prob[1:].tolist() == [0.0, 0.0]
    assert entropy[2].item() == 0.0


def test_by_hand() -> None:
    scores, selectable = torch.tensor([2.0, 1.0, 1.0]).log(), torch.tensor([True] * 3)
    draw = torch.tensor([1, 2, 0])  # the first, 2 of 4, then the second, 1 of 2
    assert PlackettLuce(2).log_prob(scores, selectable, draw).exp().item() == pytest.approx(1 / 4)
    # With STOP, of weight 1: 2 of 4, then 1 of 3, then STOP, 1 of 2.
    assert DynamicPlackettLuce().log_prob(scores, selectable, draw).exp().item() == pytest.approx(1 / 12)


def test_gaps_and_doubles_are_no_draws() -> None:
    scores, selectable = torch.zeros(3), torch.tensor([True] * 3)
    for draw in ([1, 1, 0], [1, 3, 0], [2, 0, 0], [2, 2, 0]):
        for head in (PlackettLuce(2), DynamicPlackettLuce()):
            assert head.log_prob(scores, selectable, torch.tensor(draw)).item() == -math.inf


@pytest.mark.parametrize("k", [0, -1, 1.5, True])
def test_a_k_that_cannot_act_is_refused(k: int) -> None:
    with pytest.raises(UsageError, match="k must be a whole number of at least 1"):
        PlackettLuce(k)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_cannot_act_is_refused(temperature: float) -> None:
    for head in (PlackettLuce, DynamicPlackettLuce):
        with pytest.raises(UsageError, match="temperature must be above 0"):
            head(temperature=temperature)
