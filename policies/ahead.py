"""Trying steps before one is taken, with a learned value as the judge.

Reward-guided ancestral sampling (DiDi-Instruct, arXiv 2509.25035) on sets of positions: of M sets that a policy
draws, each is written and the denoiser looks at what then stands there; one is taken with a probability in
proportion to exp(h · value). The value is that of PPO's critic, so that nothing has to be known of the answer:
unlike a search this is a policy. Every evaluation counts, those of steps that were not taken as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dllm_env.dynamics import Dynamics, Observation, State
from dllm_env.errors import UsageError
from dllm_env.policies.base import Decision
from dllm_env.random import RowRandom

MOST = 64
"""Candidates of a step at most."""


@dataclass(frozen=True)
class Ahead:
    """How far a policy looks.

    Attributes:
        candidates: M, steps that it tries.
        h: how much a value counts; 0 takes any of them.

    Raises:
        UsageError: values out of range.
    """

    candidates: int = 4
    h: float = 20.0

    def __post_init__(self) -> None:
        if not 1 <= self.candidates <= MOST:
            raise UsageError(f"candidates must be from 1 to {MOST}, got {self.candidates}")
        if not 0 <= self.h < float("inf"):
            raise UsageError(f"h must be a finite number of at least 0, got {self.h}")


class Valued(Protocol):
    """A policy that can tell what a state is worth."""

    def propose(self, observation: Observation, random: RowRandom) -> Decision:
        """A step of B rows."""

    def values(self, observation: Observation) -> Tensor:
        """(B,) float32, the reward that is to be expected."""


def step_ahead(
    policy: Valued,
    ahead: Ahead,
    dynamics: Dynamics,
    state: State,
    observation: Observation,
    random: RowRandom,
    predict: Callable[[State, Tensor], None],
) -> None:
    """Takes one step of each row in place, predicted where the row goes on.

    A step that writes all that was left has no state to be looked at; it is worth what the state before it is.

    Args:
        policy: draws the candidates and values states.
        ahead: how many, and how much values count.
        dynamics: of the process.
        state: B rows, predicted.
        observation: what is seen of them.
        random: (B,) streams.
        predict: renews the prediction of some rows, of which the second argument says where they are among the B.
    """
    drawn = torch.stack([policy.propose(observation, random).unmask for _ in range(ahead.candidates)], 1)
    first = (drawn[:, :, None] == drawn[:, None]).all(-1).to(torch.uint8).argmax(-1)  # of equal candidates
    value = policy.values(observation)[:, None].repeat(1, ahead.candidates)
    nfe, tried = state.nfe.clone(), list[tuple[Tensor, State]]()
    for number in range(ahead.candidates):
        rows = (first[:, number] == number).nonzero()[:, 0]
        tried.append((rows, after := state[rows]))
        if len(rows):
            dynamics.apply(after, drawn[rows, number])
            after.stale &= ~dynamics.ended(after)
            predict(after, rows)
            seen = policy.values(dynamics.observe(after))
            value[rows, number] = torch.where(dynamics.ended(after), value[rows, number], seen)
            nfe[rows] += after.nfe - state.nfe[rows]
    weight = (ahead.h * value.gather(1, first).double()).softmax(-1)
    taken = (random.rand(1) >= weight.cumsum(-1)).sum(-1, keepdim=True).clamp(max=ahead.candidates - 1)
    taken = first.gather(1, taken)[:, 0]
    for number, (rows, after) in enumerate(tried):
        mine = (taken[rows] == number).nonzero()[:, 0]
        state.write(rows[mine], after[mine])
    state.nfe.copy_(nfe)
