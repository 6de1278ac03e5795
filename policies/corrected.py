"""Published rules that correct the confidence before they choose: by the token, its place, or what was before."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.base import Decision
from dllm_env.policies.heuristics import Heuristic, Progressing, Ranked, at_least, best_k, probabilities
from dllm_env.policies.schedules import block_steps, new_block, scheduled
from dllm_env.random import RowRandom
from dllm_env.reading import as_table, read_json

LARGEST_ID = 10**8


@dataclass(frozen=True)
class EOSER(Ranked):
    """The k highest c, of end-of-text times γ (EOS early rejection, arXiv 2509.23924; published 0.4).

    γ rises from ``least`` to 1 in equal steps, so that no end is written before what it ends: by the step within
    the block, over the steps of the whole response, as in the published code.
    """

    rule = "eoser"
    extras = Extras(token=True)
    least: float = 0.4
    """γ in the first step."""

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities(self.rule, least=self.least)

    def scores(self, observation: Observation, random: RowRandom) -> Tensor:
        assert observation.ends is not None
        at = block_steps(observation, self.steps or 1)
        last = (torch.full_like(at.step, self.steps) if self.steps else -(-at.length // self.k)) - 1
        share = (at.step / last.clamp(min=1)).clamp(max=1)
        weight = self.least + (1 - self.least) * share
        return observation.confidence[..., 0] * torch.where(observation.ends, weight[:, None], 1.0)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        count: int | Tensor = self.k
        at = block_steps(observation, 1)
        if self.steps:
            count, at = scheduled(self.rule, observation, self.steps, self.schedule, self.shift)
        unmask = best_k(self.scores(observation, random), observation.selectable, count)
        return Decision(unmask, memory=at.memory(unmask))


@dataclass(frozen=True)
class ASS(Heuristic):
    """2^i positions of highest c in step i of a block (ascending step size, arXiv 2509.23924; published 0.01).

    There are S = ⌊log₂ BL⌋ steps, the last of which reveals what is left. c of end-of-text counts γ times,
    γ = least + (1 − least) · (2^(i+1) − 1) / 2^S.
    """

    rule = "ass"
    extras = Extras(token=True)
    least: float = 0.01
    """γ before the first step."""

    def __post_init__(self) -> None:
        probabilities(self.rule, least=self.least)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        assert observation.ends is not None
        at, steps = block_steps(observation, 1), max(1, int(math.log2(observation.selectable.shape[1])))
        grown = 2 ** at.step.clamp(max=steps - 1)
        weight = self.least + (1 - self.least) * (2 * grown - 1) / 2**steps
        scores = observation.confidence[..., 0] * torch.where(observation.ends, weight[:, None], 1.0)
        count = torch.where(at.step >= steps - 1, at.left, grown)
        unmask = best_k(scores, observation.selectable, count)
        return Decision(unmask, memory=at.memory(unmask))


@dataclass(frozen=True)
class Credit(Progressing):
    """c′ ≥ threshold, +top-1, c′ with credit for what was likely before (CreditDecoding, arXiv 2510.06133; 0.9).

    Each step of a block multiplies all credits M (B, W, V) with ``decay`` and adds p^``power`` to that of each
    position's most likely token; c′ is its probability under logits + ``weight`` · log(M + 1). The token that is
    written is the most likely one without credit.
    """

    rule = "credit"
    reads = Extras(log_probability=True)
    threshold: float = 0.9
    decay: float = 0.8
    power: float = 0.2
    weight: float = 0.7

    def __post_init__(self) -> None:
        super().__post_init__()
        probabilities(self.rule, threshold=self.threshold, decay=self.decay)
        at_least(self.rule, 0.0, power=self.power, weight=self.weight)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        assert observation.log_probability is not None
        now, selectable = observation.log_probability, observation.selectable
        new, outside = new_block(observation)
        before = observation.memory.get("credit", torch.zeros_like(now))
        likely, token = now.max(-1, keepdim=True)
        credit = (self.decay * before).masked_fill(new[:, None, None], 0.0)
        credit = credit.scatter_add(-1, token, likely.exp() ** self.power)
        fused = (now + self.weight * torch.log1p(credit)).log_softmax(-1)
        confidence = fused.gather(-1, token)[..., 0].exp()
        always = best_k(confidence, selectable, 1) if self.fallback == "best" else self.always(observation)
        unmask = (confidence >= self.threshold) & selectable | always
        return Decision(unmask, memory={"credit": credit, "outside": outside})


@dataclass(frozen=True)
class PCSampler(Ranked):
    """The k highest e^(−λi) · min(−p · log f, most), i the place in the block (PC-Sampler, arXiv 2508.13021).

    f is how often the token occurs in general. The published values are λ = 0.25 and most = 10.
    """

    rule = "pc_sampler"
    extras = Extras(token=True)
    decay: float = 0.25
    """λ, how much what stands further left comes first."""
    most: float = 10.0
    """The most that a rare token counts, the paper's α."""
    frequencies: str = ""
    """JSON file with ``num_token`` and, by token id, counts in ``p_baseline_dict``, as published; without one all
    tokens count as rare ones, −log f = most."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self.rule, 0.0, decay=self.decay, most=self.most)
        if self.frequencies:
            _surprise(self.frequencies)

    def scores(self, observation: Observation, random: RowRandom) -> Tensor:
        assert observation.token is not None
        confidence, token = observation.confidence[..., 0], observation.token
        surprise = torch.full_like(confidence, self.most)
        if self.frequencies:
            table = _surprise(self.frequencies).to(token.device)
            surprise = table[token.clamp(max=len(table) - 1)]
        place = torch.arange(confidence.shape[1], device=confidence.device)
        return torch.exp(-self.decay * place) * (confidence * surprise).clamp(max=self.most)


@functools.cache
def _surprise(file: str) -> Tensor:
    """(n,) −log f by token id. What the file does not have it counts once; so do all ids from the last one on.

    Raises:
        UsageError: no such file, or other contents.
    """
    about = as_table(read_json(Path(file)), file)
    total: Any = about.get("num_token")
    counts: Any = about.get("p_baseline_dict")
    try:
        known = {int(token): -math.log(count / total + 1e-9) for token, count in counts.items()}
        if not known or not 0 <= min(known) <= max(known) < LARGEST_ID:
            raise ValueError
        table = torch.full((max(known) + 2,), -math.log(1 / total + 1e-9))
    except (AttributeError, TypeError, ValueError, ZeroDivisionError, OverflowError):
        raise UsageError(f"{file} has to hold num_token and, by token id, counts in p_baseline_dict") from None
    table[list(known)] = torch.tensor(list(known.values()))
    return table
