"""What is asked of a training's rows: how much speed counts for them, and how many evaluations they may take."""

from __future__ import annotations

import math

import torch

from dllm_env.dynamics import Wishes
from dllm_env.train.config import RewardConfig


def draw_wishes(rewards: RewardConfig, count: int, generator: torch.Generator, deadlines: bool = True) -> Wishes:
    """α and deadline of so many rows.

    α is log-uniform, one from each of as many equal parts of its range as there are rows, so that every draw asks
    for all of it. Every other row has a deadline, uniform in its range.

    Args:
        rewards: their ranges; without one nothing is asked.
        count: rows.
        generator: draws.
        deadlines: whether rows may have some.
    """
    preference = deadline = None
    if rewards.preferences:
        share = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
        low, high = map(math.log, rewards.preferences)
        preference = (low + share * (high - low)).exp()
    if rewards.deadlines and deadlines:
        first, last = rewards.deadlines
        drawn = torch.randint(first, last + 1, (count,), generator=generator)
        deadline = torch.where(torch.randperm(count, generator=generator) % 2 == 0, drawn, 0)
    return Wishes(preference, deadline)
