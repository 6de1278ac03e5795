"""The steps that GRPO learns from: flat, weighted, in pieces; those of an expert under a mixture."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TypeVar

import torch
from torch import Tensor

from dllm_env.dynamics import Observation
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.rollout import Attempt
from dllm_env.train.imitation import expert_draws
from dllm_env.train.losses import step_weights

AnyBatch = TypeVar("AnyBatch", bound="Batch")


@dataclass
class Batch:
    """The steps of one update that carry signal, flat.

    Attributes:
        row: (M,) int64, the trajectory that a step belongs to.
        observation: M rows.
        draw: (M, W), as in ``Trajectories``.
        old_log_prob, advantage, weight: (M,).
        expert: (M,) bool, steps of an expert, which are scored under the mixture (see ``Mixture``).
    """

    row: Tensor
    observation: Observation
    draw: Tensor
    old_log_prob: Tensor
    advantage: Tensor
    weight: Tensor
    expert: Tensor

    def __len__(self) -> int:
        return len(self.weight)

    def pieces(self: AnyBatch, size: int) -> Iterator[AnyBatch]:
        """The batch in pieces of so many steps; none of an empty one."""
        for rows in torch.arange(len(self), device=self.weight.device).split(size):
            if not len(rows):
                return
            yield type(self)(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def useful_steps(tried: Attempt, advantages: Tensor, total: int) -> Batch:
    """The steps whose trajectory differs from its group, each weighing 1/(N·T).

    Args:
        tried: trajectories with their steps.
        advantages: (groups, trajectories of a group).
        total: N.
    """
    steps = tried.rollout.trajectories
    assert steps is not None
    advantage = advantages.flatten()[steps.row]
    weight = step_weights(tried.rollout.steps, steps.row, total)
    useful = advantage != 0
    return Batch(
        row=steps.row[useful],
        observation=steps.observation[useful],
        draw=steps.draw[useful],
        old_log_prob=steps.log_prob[useful],
        advantage=advantage[useful],
        weight=weight[useful],
        expert=torch.zeros(int(useful.sum()), dtype=torch.bool, device=weight.device),
    )


def join(first: Batch, second: Batch) -> Batch:
    """The steps of both."""
    columns = {
        field.name: torch.cat((getattr(first, field.name), getattr(second, field.name)))
        for field in fields(Batch)
        if field.name != "observation"
    }
    return Batch(observation=Observation.concatenate((first.observation, second.observation)), **columns)


@dataclass(frozen=True)
class Mixture:
    """What an expert's actions are scored under: G/(G+E) · π + E/(G+E) · δ(the expert's own), arXiv 2512.09106.

    Attributes:
        own: G, trajectories of the policy in a group.
        experts: E, those of the expert.
    """

    own: int
    experts: int

    def __call__(self, log_prob: Tensor) -> Tensor:
        """log( G/(G+E) · π(u) + E/(G+E) ) of the expert's actions u, from (M,) log π(u)."""
        total = self.own + self.experts
        policy = log_prob + math.log(self.own / total)
        return torch.logaddexp(policy, torch.full_like(log_prob, math.log(self.experts / total)))


def as_expert_steps(batch: Batch, policy: LearnedPolicy, mixture: Mixture, microbatch: int) -> Batch:
    """Steps of the expert as draws of the policy's head, with their density under the mixture, piece by piece."""
    batch.draw = expert_draws(batch.observation, batch.draw, policy.head)
    batch.expert = torch.ones_like(batch.expert)
    with torch.no_grad():
        pieces = [policy.evaluate(piece.observation, piece.draw)[0] for piece in batch.pieces(microbatch)]
    batch.old_log_prob = mixture(torch.cat(pieces))
    return batch
