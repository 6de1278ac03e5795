"""A rule of your own, without a fork. From the folder of the repository:

dllm-env eval --policies 'examples/my_rules.py:Pause(threshold=0.8)' threshold:0.8 --block-length 8
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dllm_env.dynamics import Observation
from dllm_env.policies.base import Decision
from dllm_env.policies.heuristics import Heuristic, best_k
from dllm_env.random import RowRandom


@dataclass(frozen=True)
class Pause(Heuristic):
    """Every position with c ≥ threshold, +top-1; but after a step of several positions, one of the best alone."""

    threshold: float = 0.9

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """A row's memory, tensors with one entry a row, comes back in its next step; a new row's is zero."""
        confidence, selectable = observation.confidence[..., 0], observation.selectable
        best = best_k(confidence, selectable, 1)
        sure = (confidence >= self.threshold) & selectable | best
        several = observation.memory.get("several", torch.zeros_like(sure[:, 0]))
        unmask = torch.where(several[:, None], best, sure)
        return Decision(unmask, memory={"several": unmask.sum(-1) > 1})
