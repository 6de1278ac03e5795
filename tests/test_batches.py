"""The steps that GRPO learns from, on numbers written down by hand."""

from __future__ import annotations

import math
from dataclasses import fields
from types import SimpleNamespace

import pytest
import torch

from dllm_env.dynamics import Observation
from dllm_env.policies.heads import DynamicPlackettLuce
from dllm_env.train.batches import Batch, Mixture, as_expert_steps, join, useful_steps


def observation(rows: int) -> Observation:
    """Rows that their step tells apart."""
    nothing = torch.zeros(rows, 2, dtype=torch.bool)
    numbers = torch.arange(rows)
    return Observation(torch.zeros(rows, 2, 1), nothing, nothing, torch.zeros(rows), numbers, numbers)


def played(row: list[int], steps: list[int]) -> SimpleNamespace:
    """What a rollout leaves of these trajectories: flat steps, each with its own draw and log-probability."""
    count = len(row)
    recorded = SimpleNamespace(
        row=torch.tensor(row),
        observation=observation(count),
        draw=torch.arange(count)[:, None].expand(count, 2),
        log_prob=-torch.arange(count).float(),
    )
    return SimpleNamespace(rollout=SimpleNamespace(trajectories=recorded, steps=torch.tensor(steps)))


def test_useful_steps_by_hand() -> None:
    """Four trajectories of 1, 3, 2 and 2 steps, N = 5 with an expert's; the third has no advantage."""
    tried = played([0, 1, 2, 3, 1, 2, 3, 1], [1, 3, 2, 2])
    batch = useful_steps(tried, torch.tensor([[0.5, -0.5], [0.0, 0.25]]), total=5)  # type: ignore[arg-type]
    kept = [0, 1, 3, 4, 6, 7]
    assert batch.old_log_prob.tolist() == [-i for i in kept]
    assert batch.draw[:, 0].tolist() == batch.observation.step.tolist() == kept
    assert batch.advantage.tolist() == [0.5, -0.5, 0.25, -0.5, 0.25, -0.5]
    assert batch.weight.tolist() == pytest.approx([1 / 5, 1 / 15, 1 / 10, 1 / 15, 1 / 10, 1 / 15])
    assert batch.expert.tolist() == [False] * 6


def test_batches_are_cut_and_joined() -> None:
    whole = useful_steps(played([0, 0, 0, 1, 1], [3, 2]), torch.tensor([[1.0, -1.0]]), total=2)  # type: ignore[arg-type]
    parts = list(whole.pieces(2))
    assert [len(part) for part in parts] == [2, 2, 1]
    again = join(join(parts[0], parts[1]), parts[2])
    for field in fields(Batch):
        mine, other = getattr(again, field.name), getattr(whole, field.name)
        assert torch.equal(mine.step, other.step) if field.name == "observation" else torch.equal(mine, other)


def test_mixture_by_hand() -> None:
    """G = 3, E = 1: 3/4 · π + 1/4, also where π is 0."""
    log_prob = torch.tensor([0.0, math.log(0.2), -math.inf])
    assert Mixture(3, 1)(log_prob).exp().tolist() == pytest.approx([1.0, 0.4, 0.25])


def test_an_expert_s_sets_become_draws_under_the_mixture() -> None:
    """Three steps of two positions; the policy has π = 0.2 for the first, and 1 for the others."""
    seen = observation(3)
    seen.masked = torch.tensor([[True, True], [True, True], [False, True]])
    seen.selectable = torch.tensor([[True, True], [True, False], [False, True]])
    seen.confidence = torch.tensor([[0.3, 0.9], [0.5, 0.6], [0.0, 0.4]])[..., None]
    sets = torch.tensor([[1, 1], [1, 1], [0, 1]])
    numbers = torch.arange(3.0)
    steps = Batch(torch.arange(3), seen, sets, numbers, numbers, numbers, torch.zeros(3, dtype=torch.bool))
    sizes = []

    def evaluate(observation: Observation, draw: torch.Tensor) -> tuple[torch.Tensor, None]:
        sizes.append(len(draw))
        assert torch.equal(observation.selectable, observation.masked)
        return torch.where(observation.step == 0, math.log(0.2), 0.0), None

    policy = SimpleNamespace(head=DynamicPlackettLuce(), evaluate=evaluate)
    found = as_expert_steps(steps, policy, Mixture(3, 1), microbatch=2)  # type: ignore[arg-type]
    assert sizes == [2, 1]
    assert found.draw.tolist() == [[2, 1], [1, 0], [0, 1]]  # in descending confidence, of what could be selected
    assert found.old_log_prob.exp().tolist() == pytest.approx([0.4, 1.0, 1.0])
    assert found.expert.tolist() == [True] * 3
    assert found.advantage.tolist() == found.weight.tolist() == [0, 1, 2]
