"""Published rules that also put committed positions back to mask or replace their tokens, where that is allowed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.base import Decision
from dllm_env.policies.heuristics import Heuristic, Progressing, Threshold, at_least, best_k, probabilities
from dllm_env.policies.schedules import new_block
from dllm_env.random import RowRandom


@dataclass(frozen=True)
class Remasking(Heuristic):
    """Base of the rules that put tokens back to mask."""

    remasks: ClassVar[bool] = True

    def remaskable(self, observation: Observation) -> Tensor:
        """(B, W) bool.

        Raises:
            UsageError: the dynamics do not allow it.
        """
        if observation.remaskable is None:
            raise UsageError(f"{self.name} puts tokens back to mask; allow it (--allow-remask)")
        return observation.remaskable


@dataclass(frozen=True)
class Wino(Remasking, Progressing):
    """Draft c ≥ draft, +top-1; remask what the rest supports below verify (WINO, arXiv 2507.18578; 0.6, 0.9).

    Support is the probability of a committed token where its position sees a mask instead of it. A step puts back
    fewer positions than it drafts, those of least support, so that every step makes progress.
    """

    rule = "wino"
    reads = Extras(support=True)
    draft: float = 0.6
    verify: float = 0.9

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities(self.rule, draft=self.draft, verify=self.verify)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        unmask = Threshold(self.draft, fallback=self.fallback).act(observation, random).unmask
        assert observation.support is not None
        weak = self.remaskable(observation) & (observation.support < self.verify)
        return Decision(unmask, remask=best_k(-observation.support, weak, unmask.sum(-1) - 1))


@dataclass(frozen=True)
class JointThreshold(Progressing):
    """Reveal c ≥ threshold, +top-1; replace what has another token of more than edit (LLaDA2.1, arXiv 2602.08676).

    The quality mode has 0.7 and 0.5, the speed mode 0.5 and 0, which replaces a token whenever another one is more
    probable; 1 replaces nothing. ``Rules.edit_steps`` says how long a block stays open after its last mask.
    """

    rule = "joint_threshold"
    edits = True
    reads = Extras(rewrite=True)
    threshold: float = 0.7
    edit: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities(self.rule, threshold=self.threshold, edit=self.edit)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        if observation.editable is None or observation.rewrite is None:
            raise UsageError(f"{self.name} replaces written tokens; allow it (--allow-edit)")
        unmask = Threshold(self.threshold, fallback=self.fallback).act(observation, random).unmask
        return Decision(unmask, edit=observation.editable & (observation.rewrite > self.edit))


@dataclass(frozen=True)
class ReMDM(Remasking):
    """Random unmasking and remasking on a schedule, capped (ReMDM-cap, arXiv 2503.00307).

    A block takes at most ``steps`` steps. In step j = 0, 1, … of it, with α = j/steps and α' = (j+1)/steps, a
    committed position goes back to mask with probability σ = min(cap, (1 − α')/α), and a masked one is unmasked
    with probability (α' − (1 − σ)·α)/(1 − α): the share of committed positions is α as it is without remasking.
    """

    rule = "remdm"
    steps: int = 20
    cap: float = 0.02

    def __post_init__(self) -> None:
        at_least(self.rule, 1, steps=self.steps)
        probabilities(self.rule, cap=self.cap)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        new, outside = new_block(observation)
        step = observation.memory.get("step", torch.zeros_like(outside)).masked_fill(new, 0)
        now, later = (step / self.steps).clamp(max=1).double(), ((step + 1) / self.steps).clamp(max=1).double()
        back = ((1 - later) / now).clamp(max=self.cap)  # x / 0 is infinity
        unmask = ((later - (1 - back) * now) / (1 - now)).nan_to_num(1.0)
        width = observation.selectable.shape[1]
        drawn = random.rand(2 * width)
        return Decision(
            observation.selectable & (drawn[:, :width] < unmask[:, None]),
            remask=self.remaskable(observation) & (drawn[:, width:] < back[:, None]),
            memory={"outside": outside, "step": step + 1},
        )


@dataclass(frozen=True)
class Anchored(Remasking):
    """In each step only the surest positions stand, written before or not, more of them from step to step.

    In step j = 0, 1, … of a block those are (j + 1) / steps of its positions, rounded up; masks count by c, written
    tokens by their support. What else was written goes back to mask, so that all stand after ``steps`` steps. After
    the idea of APS' anchored remasking (arXiv 2510.02291), to commit early what the posterior is sure of and to put
    the rest back. Of that paper the abstract alone was at hand, so that count and order are this package's, and the
    posterior is the denoiser's, as there is no measurement here.
    """

    rule = "anchored"
    extras = Extras(support=True)
    steps: int = 20

    def __post_init__(self) -> None:
        at_least(self.rule, 1, steps=self.steps)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        assert observation.support is not None
        selectable, written = observation.selectable, self.remaskable(observation)
        new, outside = new_block(observation)
        step = observation.memory.get("step", torch.zeros_like(outside)).masked_fill(new, 0)
        there = selectable | written
        count = -(-there.sum(-1) * (step + 1).clamp(max=self.steps) // self.steps)
        anchors = best_k(torch.where(written, observation.support, observation.confidence[..., 0]), there, count)
        memory = {"outside": outside, "step": step + 1}
        return Decision(selectable & anchors, remask=written & ~anchors, memory=memory)
