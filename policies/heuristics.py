"""Published unmasking rules. Each scores the selectable positions of a row and unmasks a set of them.

c is the top-1 probability of a position. Ties go to the position further left. "+top-1" means that the best
selectable position of that very row is always unmasked, so that every row makes progress whatever its neighbours
do.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from dllm_env.denoisers import Extras
from dllm_env.dynamics import Context, Observation
from dllm_env.errors import UsageError
from dllm_env.policies.base import Decision
from dllm_env.random import RowRandom


@dataclass(frozen=True)
class Heuristic:
    """Base of the rules: they see the active block and read the top-1 probability only."""

    @property
    def name(self) -> str:
        """``rule:parameter``, several parameters with their names."""
        values = [(field.name, getattr(self, field.name)) for field in fields(self)]
        if len(values) == 1:
            return f"{self._rule()}:{_number(values[0][1])}"
        settings = ",".join(f"{name}={_number(value)}" for name, value in values)
        return f"{self._rule()}:{settings}" if settings else self._rule()

    @classmethod
    def _rule(cls) -> str:
        return next(name for name, rule in HEURISTICS.items() if rule is cls)

    @property
    def context(self) -> Context:
        return "block"

    @property
    def top(self) -> int:
        return 1

    @property
    def extras(self) -> Extras:
        return Extras()

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """Decides for B rows; see the class."""
        raise AssertionError("a rule defines act")


def _number(value: float) -> str:
    """The shortest text that reads back as the same number, so that no two settings share a name."""
    short = f"{value:g}"
    return short if float(short) == value else repr(value)


def best_k(scores: Tensor, selectable: Tensor, k: int) -> Tensor:
    """(B, W) bool: the k selectable positions of highest score, all where fewer than k are selectable."""
    ranked = scores.masked_fill(~selectable, -torch.inf)
    order = ranked.argsort(dim=-1, descending=True, stable=True)[:, :k]
    return torch.zeros_like(selectable).scatter_(1, order, True) & selectable


def _check_k(k: int) -> None:
    if not isinstance(k, int) or k < 1:
        raise UsageError(f"k must be a whole number of at least 1, got {k}")


@dataclass(frozen=True)
class Random(Heuristic):
    """k selectable positions, uniformly."""

    k: int = 1

    def __post_init__(self) -> None:
        _check_k(self.k)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        noise = random.rand(observation.selectable.shape[1])
        return Decision(best_k(noise, observation.selectable, self.k))


@dataclass(frozen=True)
class TopK(Heuristic):
    """The k positions of highest c (LLaDA's "low confidence" remasking, arXiv 2502.09992)."""

    k: int = 1

    def __post_init__(self) -> None:
        _check_k(self.k)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        return Decision(best_k(observation.confidence[..., 0], observation.selectable, self.k))


@dataclass(frozen=True)
class Threshold(Heuristic):
    """Every position with c ≥ threshold, +top-1 (Fast-dLLM, arXiv 2505.22618; published default 0.9)."""

    threshold: float = 0.9

    def __post_init__(self) -> None:
        if not 0 <= self.threshold <= 1:
            raise UsageError(f"the threshold must be between 0 and 1, got {self.threshold}")

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        confidence, selectable = observation.confidence[..., 0], observation.selectable
        sure = (confidence >= self.threshold) & selectable
        return Decision(sure | best_k(confidence, selectable, 1))


@dataclass(frozen=True)
class Leftmost(Heuristic):
    """The k leftmost selectable positions; k = 1 is left-to-right decoding."""

    k: int = 1

    def __post_init__(self) -> None:
        _check_k(self.k)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        selectable = observation.selectable
        return Decision(selectable & (selectable.cumsum(-1) <= self.k))


@dataclass(frozen=True)
class Recorded:
    """A rule shown what a learned policy would see, for trainers that learn from its decisions."""

    rule: Heuristic
    context: Context
    top: int
    extras: Extras

    @property
    def name(self) -> str:
        """The rule's."""
        return self.rule.name

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """The rule's own decision."""
        return self.rule.act(observation, random)


HEURISTICS: dict[str, type[Heuristic]] = {
    "random": Random,
    "top_k": TopK,
    "threshold": Threshold,
    "leftmost": Leftmost,
}
"""The rules by name."""


def load_heuristic(text: str) -> Heuristic:
    """A rule by name with its parameters: ``threshold:0.9``, ``top_k:k=2``, ``random``.

    Raises:
        UsageError: no such rule or parameter, or a value out of range.
    """
    from dllm_env.tasks import parse_number, parse_settings

    name, _, settings = text.partition(":")
    if name not in HEURISTICS:
        raise UsageError(f"unknown heuristic {name!r}; choose one of {', '.join(HEURISTICS)}")
    rule = HEURISTICS[name]
    known = [field.name for field in fields(rule)]
    values = parse_settings(settings) if "=" in settings else {known[0]: parse_number(settings)} if settings else {}
    unknown = [key for key in values if key not in known]
    if unknown:
        raise UsageError(f"{name} has no parameter {unknown[0]!r}; it has {', '.join(known)}")
    for key, value in values.items():
        if isinstance(value, str):
            raise UsageError(f"{name}: {key} must be a number, got {value!r}")
    return rule(**values)
