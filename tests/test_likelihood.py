"""Likelihoods of texts against brute force over all orders in which they can be written."""

from __future__ import annotations

import math
import random

import pytest
import torch
from conftest import CountingDenoiser, Scripted, toy_denoiser
from orders import by_orders

from dllm_env.denoisers import base
from dllm_env.denoisers.load import load_denoiser
from dllm_env.eval import likelihood
from dllm_env.eval.likelihood import _deal, log_likelihoods, masks_for
from dllm_env.tasks.load import load_task

TASK = load_task("trace")
PROMPTS = [TASK.problem(i, "test", 0).prompt for i in range(6)]


def estimate(denoiser, pairs, samples=128, seeds=None, batch_size=128):
    found = dict(log_likelihoods(denoiser, pairs, seeds or [0] * len(pairs), samples, batch_size))
    return [found[i] for i in range(len(pairs))]


def pairs_of(denoiser, *lengths):
    """Contexts of several lengths with random continuations of these."""
    generator = torch.Generator().manual_seed(0)
    words = [list(torch.randint(3, denoiser.vocabulary, (n,), generator=generator)) for n in lengths]
    return [(denoiser.encode(PROMPTS[i])[i:], [int(w) for w in some]) for i, some in enumerate(words)]


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_short_continuation_is_scored_exactly(toy, length):
    ((context, continuation),) = pairs_of(toy, length)
    expected = by_orders(toy, context, continuation)
    assert estimate(toy, [(context, continuation)]) == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize(("length", "samples"), [(4, 7), (6, 20), (9, 40)])
def test_samples_have_the_right_mean(toy, length, samples):
    pairs = pairs_of(toy, length)
    (exact,) = estimate(toy, pairs, 2**length - 1)
    found = torch.tensor(estimate(toy, pairs * 300, samples, list(range(300))))
    assert found.std() > 0
    assert abs(float(found.mean()) - exact) < 4 * float(found.std()) / math.sqrt(300)


def test_samples_vary_less_than_independent_ones(monkeypatch):
    def independent(length, samples, seed):
        generator = torch.Generator().manual_seed(seed)
        size = torch.randint(1, length + 1, (samples, 1), generator=generator)
        masks = torch.rand(samples, length, generator=generator).argsort(-1).argsort(-1) < size
        return masks, length / (samples * masks.sum(-1).double())

    denoiser, problem = load_denoiser("tiny"), TASK.problem(3, "test", 0)
    continuation = denoiser.encode(TASK.reference(problem, random.Random(3)))
    assert len(continuation) == 16
    pairs = [(denoiser.encode(problem.prompt), continuation)] * 60
    ours = torch.tensor(estimate(denoiser, pairs, 32, list(range(60))))
    monkeypatch.setattr(likelihood, "masks_for", independent)
    theirs = torch.tensor(estimate(denoiser, pairs, 32, list(range(60))))
    assert ours.std() < 0.6 * theirs.std()
    assert abs(ours.mean() - theirs.mean()) < 4 * (ours.std() + theirs.std()) / math.sqrt(60)


def test_sets_are_stratified_and_dealt():
    masks, size = _deal(20, 100, seed=1)
    assert masks.sum(-1).tolist() == size.tolist()
    assert size.bincount(minlength=21).tolist() == [0] + [5] * 20
    for some in (1, 2, 3, 4):  # five sets of these fit into one deck
        assert int(masks[size == some].sum(0).max()) == 1
    assert not torch.equal(masks[size == 15][0], masks[size == 15][1])  # of these only one does
    drawn = [masks_for(6, 10, seed) for seed in range(4000)]
    share = torch.stack([(weights[:, None] * masks).sum(0) for masks, weights in drawn])
    assert share.mean(0) == pytest.approx(torch.ones(6, dtype=torch.float64), abs=4 * float(share.std()) / 63)
    every, weights = masks_for(5, 31, seed=0)
    assert len(every.unique(dim=0)) == 31
    assert (weights[:, None] * every).sum(0) == pytest.approx(torch.ones(5, dtype=torch.float64))


def test_what_masks_do_not_change_is_a_sum():
    table = torch.randn(6, 9, generator=torch.Generator().manual_seed(3))
    denoiser = Scripted(table, prompt_length=2)
    continuation = [3, 4, 5, 8, 7, 6]
    without_mask = table.clone()
    without_mask[:, denoiser.mask_id] = -torch.inf
    expected = sum(float(without_mask.log_softmax(-1)[i, token]) for i, token in enumerate(continuation))
    assert estimate(denoiser, [([3, 3], continuation)]) == pytest.approx([expected], rel=1e-6)


def test_the_mask_token_is_never_written_and_nothing_is_certain(toy):
    values = estimate(toy, [([5], [7, toy.mask_id]), ([5], []), ([], [7])])
    assert values[:2] == [-math.inf, 0.0]
    assert math.isfinite(values[2])


def test_an_estimate_depends_on_its_pair_and_seed_alone(toy):
    pairs = pairs_of(toy, 1, 9, 3, 1, 12, 9)
    seeds = list(range(6))
    together = estimate(toy, pairs, 24, seeds)
    assert together == [estimate(toy, [pair], 24, [seed])[0] for pair, seed in zip(pairs, seeds, strict=True)]
    assert together == estimate(toy, pairs, 24, seeds, batch_size=5)
    assert together[::-1] == estimate(toy, pairs[::-1], 24, seeds[::-1])
    assert together[1] != estimate(toy, [pairs[1]], 24, [7])[0]


def test_few_logits_exist_at_a_time(toy, monkeypatch):
    rows, head = [], toy.head

    def spy(hidden):
        rows.append(len(hidden))
        return head(hidden)

    pairs = pairs_of(toy, 9, 3)
    expected = estimate(toy, pairs)
    monkeypatch.setattr(toy, "head", spy)
    monkeypatch.setattr(base, "LOGITS_AT_ONCE", 16 * toy.vocabulary)
    assert estimate(toy, pairs) == pytest.approx(expected, rel=1e-6)  # tiles of another size
    assert set(rows) == {16}


def test_choices_of_one_token_are_one_evaluation():
    denoiser = toy_denoiser(CountingDenoiser)
    estimate(denoiser, [([5, 6], [token]) for token in (7, 8, 9, 10)])
    assert denoiser.rows_per_call == [1]


def test_what_cannot_be_estimated(toy):
    for arguments in (
        ([([5], [7])], [0], 0),
        ([([5], [7])], [0], 1, 0),
        ([([5], [7])], []),
        ([([5] * 128, [7])], [0]),
    ):
        with pytest.raises(ValueError, match=r"samples|exceed"):
            list(log_likelihoods(toy, *arguments))
