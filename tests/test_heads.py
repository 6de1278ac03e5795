"""The Bernoulli head against the enumeration of all sets of up to five positions."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from dllm_env.errors import UsageError
from dllm_env.policies.heads import Bernoulli
from dllm_env.random import RowRandom

HEADS = [Bernoulli(), Bernoulli(0.5), Bernoulli(force_progress=True), Bernoulli(0.5, force_progress=True)]
CASES = {
    "one": ([0.3], [True]),
    "one unlikely": ([-4.0], [True]),
    "none": ([0.3, -1.0], [False, False]),
    "two": ([0.3, -0.2], [True, True]),
    "all unlikely": ([-2.0, -1.0, -1.5, -3.0], [True] * 4),
    "near even": ([0.1, -0.1, 0.2], [True] * 3),
    "some hidden": ([2.0, -0.5, 0.7, -1.2, 3.0], [False, True, True, True, False]),
    "five": ([-0.4, 0.9, -1.7, 0.05, -0.6], [True] * 5),
    "tie for the best": ([0.5, 0.5, -1.0], [True] * 3),
}


def subsets(length: int) -> Tensor:
    """(2^L, L) bool, every set."""
    return torch.tensor(list(itertools.product([False, True], repeat=length)))


def enumerate_head(head: Bernoulli, scores: list[float], selectable: list[bool]) -> dict[tuple[bool, ...], float]:
    """Probability of each result, by walking through every draw and what the head makes of it."""
    free = [i for i, allowed in enumerate(selectable) if allowed]
    result: dict[tuple[bool, ...], float] = {}
    for draw in itertools.product([False, True], repeat=len(free)):
        probability = 1.0
        for i, chosen in zip(free, draw, strict=True):
            p = 1 / (1 + math.exp(-scores[i] / head.temperature))
            probability *= p if chosen else 1 - p
        taken = {i for i, chosen in zip(free, draw, strict=True) if chosen}
        if head.force_progress and not taken and free:
            taken = {max(free, key=lambda i: (scores[i], -i))}
        key = tuple(i in taken for i in range(len(scores)))
        result[key] = result.get(key, 0.0) + probability
    return result


@pytest.fixture(params=CASES, name="case")
def _case(request: pytest.FixtureRequest) -> tuple[list[float], list[bool]]:
    return CASES[request.param]


@pytest.mark.parametrize("head", HEADS)
def test_log_prob_is_that_of_the_enumeration(head: Bernoulli, case: tuple[list[float], list[bool]]) -> None:
    scores, selectable = torch.tensor(case[0], dtype=torch.float64), torch.tensor(case[1])
    expected = enumerate_head(head, *case)
    sets = subsets(len(scores))
    log_prob = head.log_prob(scores.expand(sets.shape), selectable.expand(sets.shape), sets)
    assert sum(expected.values()) == pytest.approx(1.0)
    assert log_prob.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    for chosen, value in zip(sets.tolist(), log_prob.tolist(), strict=True):
        p = expected.get(tuple(chosen))
        assert value == (-math.inf if p is None else pytest.approx(math.log(p), abs=1e-12))


@pytest.mark.parametrize("head", HEADS)
def test_entropy_and_mode_are_those_of_the_enumeration(
    head: Bernoulli, case: tuple[list[float], list[bool]]
) -> None:
    scores, selectable = torch.tensor(case[0], dtype=torch.float64), torch.tensor(case[1])
    expected = enumerate_head(head, *case)
    entropy = head.entropy(scores[None], selectable[None]).item()
    assert entropy == pytest.approx(-sum(p * math.log(p) for p in expected.values()), abs=1e-12)
    mode = tuple(head.mode(scores[None], selectable[None])[0].tolist())
    assert expected[mode] == pytest.approx(max(expected.values()), abs=1e-12)


@pytest.mark.parametrize("head", HEADS)
def test_samples_have_the_enumerated_frequencies(head: Bernoulli) -> None:
    """Pearson's chi-square; 0.999 quantiles: 15 degrees of freedom 37.70, 14 degrees 36.12."""
    scores, selectable = [-0.4, 0.9, -1.7, 5.0, 0.05], [True, True, True, False, True]
    count = 200_000
    expected = enumerate_head(head, scores, selectable)
    rows = torch.arange(count) + 1
    drawn = head.sample(
        torch.tensor(scores).expand(count, 5), torch.tensor(selectable).expand(count, 5), RowRandom(rows)
    )
    keys, counts = drawn.unique(dim=0, return_counts=True)
    seen = {tuple(key): n for key, n in zip(keys.tolist(), counts.tolist(), strict=True)}
    assert set(seen) <= set(expected)
    statistic = sum((seen.get(key, 0) - count * p) ** 2 / (count * p) for key, p in expected.items())
    assert len(expected) == (15 if head.force_progress else 16)
    assert statistic < (36.12 if head.force_progress else 37.70)


@pytest.mark.parametrize("head", HEADS)
def test_gradients(head: Bernoulli) -> None:
    selectable = torch.tensor([True, False, True, True, True])
    scores = torch.tensor([-0.4, 0.9, -1.7, 0.05, -0.6], dtype=torch.float64, requires_grad=True)
    possible = [list(chosen) for chosen in enumerate_head(head, scores.tolist(), selectable.tolist())]
    sets = torch.tensor(possible)

    def log_prob(x: Tensor) -> Tensor:
        return head.log_prob(x.expand(sets.shape), selectable.expand(sets.shape), sets)

    assert torch.autograd.gradcheck(log_prob, (scores,))
    assert torch.autograd.gradcheck(lambda x: head.entropy(x[None], selectable[None]), (scores,))


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("selectable", [[True] * 4, [False, True, False, False], [False] * 4])
def test_extreme_scores_stay_finite(head: Bernoulli, dtype: torch.dtype, selectable: list[bool]) -> None:
    scores = torch.tensor(list(itertools.product([-50.0, 50.0], repeat=4)), dtype=dtype, requires_grad=True)
    allowed = torch.tensor(selectable).expand(16, 4)
    for sets in (allowed, head.mode(scores, allowed), head.sample(scores, allowed, RowRandom(torch.arange(16)))):
        log_prob, entropy = head.log_prob(scores, allowed, sets), head.entropy(scores, allowed)
        assert log_prob.isfinite().all()
        assert (log_prob <= 0).all()
        assert entropy.isfinite().all()
        assert (entropy >= 0).all()
        (gradient,) = torch.autograd.grad(log_prob.sum() + entropy.sum(), scores)
        assert gradient.isfinite().all()


def test_hand_worked_numbers() -> None:
    """Scores 0 and ln 3, p = 1/2 and 3/4."""
    scores, all_of_them = torch.tensor([[0.0, math.log(3.0)]]).expand(4, 2), torch.ones(4, 2, dtype=torch.bool)
    sets = subsets(2)  # {}, {1}, {0}, {0, 1}
    plain = Bernoulli().log_prob(scores, all_of_them, sets).exp()
    assert plain.tolist() == pytest.approx([1 / 8, 3 / 8, 1 / 8, 3 / 8])
    forced = Bernoulli(force_progress=True).log_prob(scores, all_of_them, sets).exp()
    assert forced.tolist() == pytest.approx([0.0, 1 / 2, 1 / 8, 3 / 8])
    sharper = Bernoulli(temperature=0.5).log_prob(scores, all_of_them, sets).exp()  # p = 1/2 and 9/10
    assert sharper.tolist() == pytest.approx([1 / 20, 9 / 20, 1 / 20, 9 / 20])


@pytest.mark.parametrize("head", HEADS)
def test_rows_without_anything_selectable(head: Bernoulli) -> None:
    scores, none = torch.tensor([[3.0, -1.0]], requires_grad=True), torch.zeros(1, 2, dtype=torch.bool)
    assert not head.sample(scores, none, RowRandom(torch.tensor([7]))).any()
    assert not head.mode(scores, none).any()
    log_prob, entropy = head.log_prob(scores, none, none), head.entropy(scores, none)
    assert log_prob.tolist() == [0.0]
    assert entropy.tolist() == [0.0]
    (gradient,) = torch.autograd.grad(log_prob.sum() + entropy.sum(), scores)
    assert gradient.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize("head", HEADS)
def test_extra_batch_dimensions(head: Bernoulli) -> None:
    """(B, T, L) gives what each (L,) row alone gives."""
    generator = torch.Generator().manual_seed(3)
    scores = torch.randn(3, 4, 5, generator=generator)
    selectable = torch.rand(3, 4, 5, generator=generator) < 0.7
    sets = torch.rand(3, 4, 5, generator=generator) < 0.4
    log_prob, entropy, mode = (
        head.log_prob(scores, selectable, sets),
        head.entropy(scores, selectable),
        head.mode(scores, selectable),
    )
    assert log_prob.shape == entropy.shape == (3, 4)
    assert mode.shape == (3, 4, 5)
    for b, t in itertools.product(range(3), range(4)):
        row = scores[b, t], selectable[b, t]
        assert log_prob[b, t].item() == pytest.approx(head.log_prob(*row, sets[b, t]).item(), abs=1e-6)
        assert entropy[b, t].item() == pytest.approx(head.entropy(*row).item(), abs=1e-6)
        assert mode[b, t].tolist() == head.mode(*row).tolist()


@pytest.mark.parametrize("head", HEADS)
def test_entropy_is_minus_the_mean_log_prob(head: Bernoulli) -> None:
    """Over 20,000 draws of 8 positions; four standard errors."""
    scores = torch.randn(8, generator=torch.Generator().manual_seed(5)).expand(20_000, 8)
    selectable = torch.ones(20_000, 8, dtype=torch.bool)
    drawn = head.sample(scores, selectable, RowRandom(torch.arange(20_000)))
    surprise = -head.log_prob(scores, selectable, drawn)
    error = (surprise.mean() - head.entropy(scores[:1], selectable[:1])).abs()
    assert error < 4 * surprise.std() / 20_000**0.5


def test_a_row_draws_the_same_in_any_batch() -> None:
    scores = torch.randn(6, 5, generator=torch.Generator().manual_seed(1))
    selectable = torch.ones(6, 5, dtype=torch.bool)
    keys = torch.arange(6) + 100
    head = Bernoulli(force_progress=True)
    together = head.sample(scores, selectable, RowRandom(keys))
    for i in range(6):
        alone = head.sample(scores[i : i + 1], selectable[i : i + 1], RowRandom(keys[i : i + 1]))
        assert alone[0].tolist() == together[i].tolist()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_bad_temperature_is_refused(temperature: float) -> None:
    with pytest.raises(UsageError, match="temperature must be above 0"):
        Bernoulli(temperature)
