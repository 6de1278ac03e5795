"""Published rules that do not reveal together what depends on each other, by the denoiser's attention."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation
from dllm_env.policies.base import Decision
from dllm_env.policies.heuristics import Progressing, at_least, probabilities
from dllm_env.random import RowRandom


@dataclass(frozen=True)
class DAPD(Progressing):
    """All c ≥ sure, of those with c ≥ threshold an independent set, +top-1 (DAPD, arXiv 2603.12996; values ours).

    Two positions depend on each other where their attention, the mean of both directions, is at least ``edge``.
    A position whose mean over all masked positions is above ``sink`` takes attention from everywhere and depends on
    none: the default suits some hundred tokens, a short text needs more, about 3 / (P + L). The set is made
    greedily, the most confident first.
    """

    rule = "dapd"
    reads = Extras(attention=True)
    threshold: float = 0.75
    sure: float = 0.9
    edge: float = 0.07
    sink: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities(self.rule, threshold=self.threshold, sure=self.sure)
        at_least(self.rule, 0.0, edge=self.edge, sink=self.sink)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        confidence, selectable = observation.confidence[..., 0], observation.selectable
        sure = selectable & (confidence >= self.sure)
        candidates = selectable & ~sure & (confidence >= self.threshold)
        chosen = independent(candidates, confidence, self.dependent(observation))
        return Decision(sure | chosen | self.always(observation))

    def dependent(self, observation: Observation) -> Tensor:
        """(B, W, W) bool: which positions depend on each other."""
        assert observation.attention is not None
        attention, masked = observation.attention, observation.masked
        total = (attention * masked[..., None]).sum(1)
        drawing = total / masked.sum(-1, keepdim=True).clamp(min=1) > self.sink
        apart = ~torch.eye(attention.shape[1], dtype=torch.bool, device=attention.device)
        return (attention >= self.edge) & apart & ~drawing[:, None] & ~drawing[..., None]


@dataclass(frozen=True)
class DAWN(DAPD):
    """``dapd``, with c ≥ induced for what depends on a sure token (DAWN, arXiv 2602.06953; 0.75, 0.9, 0.7).

    A token is sure if it was written with c ≥ ``sure``.
    """

    rule = "dawn"
    induced: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities(self.rule, induced=self.induced)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        confidence, selectable = observation.confidence[..., 0], observation.selectable
        written = observation.memory.get("written", torch.zeros_like(confidence)).masked_fill(observation.masked, 0)
        dependent = self.dependent(observation)
        anchored = (dependent & (written >= self.sure)[:, None]).any(-1)
        sure = selectable & (confidence >= self.sure)
        enough = (confidence >= self.threshold) | anchored & (confidence >= self.induced)
        chosen = independent(selectable & ~sure & enough, confidence, dependent)
        unmask = sure | chosen | self.always(observation)
        return Decision(unmask, memory={"written": torch.where(unmask, confidence, written)})


def independent(candidates: Tensor, scores: Tensor, dependent: Tensor) -> Tensor:
    """(B, W) bool: of the candidates, from the highest score down, each that depends on none taken before.

    Args:
        candidates: (B, W) bool.
        scores: (B, W); of equals the leftmost comes first.
        dependent: (B, W, W) bool, symmetric.
    """
    order = scores.masked_fill(~candidates, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    rows = torch.arange(len(scores), device=scores.device)
    free, chosen = candidates.clone(), torch.zeros_like(candidates)
    for place in order[:, : int(candidates.sum(-1).max()) if len(scores) else 0].unbind(-1):
        taken = free[rows, place]
        chosen[rows, place] = taken
        free &= ~(dependent[rows, place] & taken[:, None])
    return chosen
