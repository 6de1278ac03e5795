"""Losses of the trainers as pure functions, and the step that follows from one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dllm_env.train.sharded import whole


def group_advantages(rewards: Tensor, divide: bool, floor: float = 1e-4, unbiased: bool = False) -> Tensor:
    """A_i = r_i − mean(r), per group; optionally over the group's standard deviation + floor · max |r|.

    Args:
        rewards: (N, G), a row for each group of trajectories that share a prompt.
        divide: divide by the standard deviation, as in DCoLT, arXiv 2505.10446; without it as in arXiv 2512.09106.
        floor: added to the deviation, as a share of the group's largest reward. With a tiny one a group of right
            answers, whose rewards differ a little by speed, pulls as hard as a group of right and wrong ones.
        unbiased: the deviation is that of a sample, divided by G − 1.

    Returns:
        (N, G) advantages; 0 in groups whose rewards are all equal.

    Raises:
        ValueError: not a matrix, or groups of one, which have no advantage.
    """
    if rewards.ndim != 2 or rewards.shape[1] < 2:
        raise ValueError(f"rewards must be (N, G) with G ≥ 2, got {tuple(rewards.shape)}")
    advantages = rewards - rewards.mean(-1, keepdim=True)
    if divide:
        largest = rewards.abs().amax(-1, keepdim=True)
        advantages = advantages / (rewards.std(-1, correction=int(unbiased), keepdim=True) + floor * largest)
    equal = (rewards == rewards[:, :1]).all(-1, keepdim=True)
    return advantages.masked_fill(equal, 0.0)


def step_weights(steps: Tensor, row: Tensor, trajectories: int) -> Tensor:
    """1/(N·T_i) of each step of trajectory i: trajectories count alike, whatever their length (arXiv 2512.09106).

    Args:
        steps: (R,) T_i, the steps of each trajectory of a rollout.
        row: (M,) int64, the trajectory that a step belongs to.
        trajectories: N of the whole update, which may be more than R.

    Returns:
        (M,) float32. The weights of a trajectory's steps add up to 1/N.
    """
    return 1.0 / (trajectories * steps[row].float())


@dataclass
class ClippedLoss:
    """Result of ``clipped_loss``.

    Attributes:
        loss: () to minimise.
        ratio: (M,) probability ratios, without gradient.
        clipped: (M,) bool, the steps whose gradient the clip removes.
    """

    loss: Tensor
    ratio: Tensor
    clipped: Tensor


def clipped_loss(
    log_prob: Tensor, old_log_prob: Tensor, advantage: Tensor, weight: Tensor, clip: float
) -> ClippedLoss:
    """−Σ weight · min(ρA, clip(ρ, 1−ε, 1+ε)A) with ρ = exp(log_prob − old_log_prob) (arXiv 1707.06347).

    Args:
        log_prob: (M,) of the actions under the policy that learns.
        old_log_prob: (M,) under the policy that acted.
        advantage: (M,) of each step's trajectory.
        weight: (M,), GRPO's are ``step_weights``.
        clip: ε > 0.
    """
    shapes = {tuple(x.shape) for x in (log_prob, old_log_prob, advantage, weight)}
    if len(shapes) > 1 or log_prob.ndim != 1:
        raise ValueError(f"all four must be (M,), got {sorted(shapes)}")
    ratio = (log_prob - old_log_prob).exp()
    free, bound = ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage
    loss = -(weight * torch.minimum(free, bound)).sum()
    return ClippedLoss(loss, ratio.detach(), bound.detach() < free.detach())


def approximate_kl(ratio: Tensor) -> float:
    """Mean of ρ − 1 − log ρ: an unbiased estimate of the divergence KL(old ‖ new) from steps of the old policy.

    Unlike −log ρ, whose mean is the same, it is never negative and varies less.

    Args:
        ratio: (M,) probability ratios, new to old.
    """
    return (ratio - 1 - ratio.log()).mean().item()


def finite_step(network: nn.Module, optimizer: torch.optim.Optimizer, max_grad_norm: float) -> float:
    """Clips the gradients to a norm and takes the optimizer's step, unless the norm is infinite or no number.

    Such gradients come from probability ratios that overflow; one step with them makes all weights NaN.

    Returns:
        The norm before clipping; where it is not finite, nothing was changed.
    """
    norm = whole(nn.utils.clip_grad_norm_(network.parameters(), max_grad_norm)).item()
    if math.isfinite(norm):
        optimizer.step()
    return norm
