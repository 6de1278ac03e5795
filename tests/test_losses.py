"""The losses on hand-worked numbers."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from dllm_env.train.losses import approximate_kl, clipped_loss, finite_step, group_advantages, step_weights


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.5, 0.5, 0.5, 0.5], [1.0, 0.0, 0.0, 0.0]])
    plain = group_advantages(rewards, divide=False)
    assert torch.equal(plain, torch.tensor([[0.5, -0.5, -0.5, 0.5], [0.0] * 4, [0.75, -0.25, -0.25, -0.25]]))
    divided = group_advantages(rewards, divide=True)
    deviation = math.sqrt((0.75**2 + 3 * 0.25**2) / 4)
    assert divided[2, 0].item() == pytest.approx(0.75 / (deviation + 1e-4))
    assert divided[0, 0].item() == pytest.approx(0.5 / (0.5 + 1e-4))
    floored = group_advantages(rewards, divide=True, floor=0.5)
    assert floored[0, 0].item() == pytest.approx(0.5)


def test_the_floor_of_the_deviation_is_a_share_of_a_groups_largest_reward() -> None:
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.8, 0.9, 0.9, 1.0], [-2.0, 1.0, 1.0, 0.0]])
    floored = group_advantages(rewards, divide=True, floor=0.5)
    assert floored[0, 0].item() == pytest.approx(0.75 / (math.sqrt(0.1875) + 0.5))
    assert floored[1, 3].item() == pytest.approx(0.1 / (math.sqrt(0.005) + 0.5))
    assert floored[2, 0].item() == pytest.approx(-2 / (math.sqrt(1.5) + 1.0))
    tiny = group_advantages(rewards * 1e-6, divide=True, floor=0.5)
    torch.testing.assert_close(tiny, floored)  # what a reward is measured in does not matter


def test_a_pair_is_the_smallest_group() -> None:
    assert group_advantages(torch.tensor([[1.0, 0.0]]), divide=False).tolist() == [[0.5, -0.5]]


@pytest.mark.parametrize("divide", [False, True])
def test_equal_rewards_give_exactly_no_signal_whatever_the_other_groups(divide: bool) -> None:
    inexact = 0
    for size, reward in itertools.product(range(2, 14), (0.1, 0.3, 0.7, 1.1)):
        rewards = torch.full((2, size), reward)
        rewards[1, 0] += 1.0
        advantages = group_advantages(rewards, divide)
        assert advantages[0].tolist() == [0.0] * size
        assert advantages[1].all()
        inexact += rewards[0].mean().item() != rewards[0, 0].item()
    assert inexact, "means that are all exact would prove nothing"


def test_steps_weigh_so_that_trajectories_count_alike() -> None:
    """N = 8; trajectories of 1, 2 and 4 steps, their steps in any order."""
    steps, row = torch.tensor([1, 2, 4]), torch.tensor([2, 0, 1, 2, 2, 1, 2])
    weight = step_weights(steps, row, 8)
    assert weight.tolist() == [1 / 32, 1 / 8, 1 / 16, 1 / 32, 1 / 32, 1 / 16, 1 / 32]
    assert weight.dtype == torch.float32
    assert torch.zeros(3).index_add(0, row, weight).tolist() == [1 / 8] * 3


def test_advantages_refuse_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(N, G\)"):
        group_advantages(torch.zeros(4), divide=False)
    with pytest.raises(ValueError, match="G ≥ 2"):
        group_advantages(torch.zeros(4, 1), divide=False)


def test_clipped_loss_by_hand() -> None:
    # Ratios 2, 2, 1/2, 1/2 with advantages of both signs, ε = 0.2.
    log_prob = torch.tensor([2.0, 2.0, 0.5, 0.5]).log().requires_grad_()
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0])
    weight = torch.tensor([0.1, 0.2, 0.3, 0.4])
    result = clipped_loss(log_prob, torch.zeros(4), advantage, weight, clip=0.2)
    expected = -(0.1 * 1.2 + 0.2 * -2.0 + 0.3 * 0.5 + 0.4 * -0.8)
    assert result.loss.item() == pytest.approx(expected)
    assert result.clipped.tolist() == [True, False, False, True]
    result.loss.backward()
    assert log_prob.grad is not None
    # Where the clip binds there is no gradient; elsewhere it is −weight · A · ρ.
    assert log_prob.grad.tolist() == pytest.approx([0.0, 0.4, -0.15, 0.0])


def test_first_step_is_the_policy_gradient() -> None:
    log_prob = torch.randn(5, generator=torch.Generator().manual_seed(0)).requires_grad_()
    advantage, weight = torch.linspace(-1, 1, 5), torch.full((5,), 0.2)
    result = clipped_loss(log_prob, log_prob.detach(), advantage, weight, clip=0.2)
    result.loss.backward()
    assert torch.allclose(log_prob.grad, -advantage * weight)
    assert torch.equal(result.ratio, torch.ones(5))
    assert not result.clipped.any()


def test_clipped_loss_refuses_other_shapes() -> None:
    with pytest.raises(ValueError, match=r"\(M,\)"):
        clipped_loss(torch.zeros(3), torch.zeros(3), torch.zeros(2), torch.zeros(3), 0.2)


def test_approximate_kl_is_the_divergence_on_average() -> None:
    old, new = torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.4, 0.4, 0.2])
    counts = (old * 10).round().long()  # a sample that has every outcome as often as the old policy draws it
    ratio = (new / old).repeat_interleave(counts)
    assert approximate_kl(ratio) == pytest.approx((old * (old / new).log()).sum().item(), abs=1e-6)
    assert approximate_kl(torch.ones(5)) == 0.0


@pytest.mark.parametrize(("gradient", "step"), [([3.0, 4.0], [0.3, 0.4]), ([0.1, 0.2], [0.1, 0.2])])
def test_a_step_is_as_long_as_the_largest_norm_allows(gradient: list[float], step: list[float]) -> None:
    network = torch.nn.Linear(2, 1, bias=False)
    start, network.weight.grad = network.weight.detach().clone(), torch.tensor([gradient])
    norm = finite_step(network, torch.optim.SGD(network.parameters(), lr=1.0), 0.5)
    assert norm == pytest.approx(math.hypot(*gradient))
    assert (start - network.weight).tolist()[0] == pytest.approx(step, abs=1e-5)


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_no_step_along_a_gradient_that_is_no_number(broken: float) -> None:
    network = torch.nn.Linear(2, 1, bias=False)
    start, network.weight.grad = network.weight.detach().clone(), torch.tensor([[1.0, broken]])
    assert not math.isfinite(finite_step(network, torch.optim.SGD(network.parameters(), lr=1.0), 0.5))
    assert torch.equal(network.weight, start)
