"""The interface of unmasking policies: an observation goes in, a set of positions comes out."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, Literal, Protocol

from torch import Tensor

from dllm_env.denoisers.base import Denoiser, Extras
from dllm_env.dynamics import Observation
from dllm_env.random import RowRandom
from dllm_env.rules import Context, Rules
from dllm_env.tasks.base import Problem, Task


@dataclass
class Decision:
    """The decision of a policy for B rows.

    Attributes:
        unmask: (B, W) bool, the action.
        draw: (B, W), the draw whose log-probability ``log_prob`` is, where an order belongs to it (see ``heads``);
            above 0 where ``unmask`` is.
        remask: (B, W) bool, committed positions to put back to mask, or None for none.
        edit: (B, W) bool, committed positions whose token to replace, or None for none.
        memory: tensors with B rows that come back as ``Observation.memory`` in these rows' next step.
        score: computes ``log_prob`` and ``entropy``, which only training asks for; None for a rule that has no
            useful ones.
    """

    unmask: Tensor
    draw: Tensor | None = None
    remask: Tensor | None = None
    edit: Tensor | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    score: Callable[[], tuple[Tensor, Tensor]] | None = None

    @cached_property
    def _scored(self) -> tuple[Tensor, Tensor] | tuple[None, None]:
        return (None, None) if self.score is None else self.score()

    @property
    def log_prob(self) -> Tensor | None:
        """(B,) float32, the log-probability of the action."""
        return self._scored[0]

    @property
    def entropy(self) -> Tensor | None:
        """(B,) float32 in nats of the distribution it was drawn from."""
        return self._scored[1]


class Policy(Protocol):
    """A rule or a network that chooses positions. A row's decision depends on that row alone."""

    @property
    def name(self) -> str:
        """Its name in results, which is the text that ``load_policy`` takes."""

    @property
    def context(self) -> Context:
        """The part of the response that it sees."""

    @property
    def top(self) -> int:
        """p, how many of the largest probabilities it reads."""

    @property
    def extras(self) -> Extras:
        """Optional features that it reads."""

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """Decides for B rows.

        Args:
            observation: B rows, W positions wide.
            random: (B,) streams, one per row, the only source of random numbers.
        """


@dataclass(frozen=True)
class Assignment:
    """What is to be written, and how: by this denoiser, under these rules.

    Attributes:
        denoiser, rules: of the process; the rules are resolved.
        task: judges.
        problems: N of them.
        seeds: N seeds; a row's random numbers follow from its own.
        batch_size: rows generated at a time.
    """

    denoiser: Denoiser
    rules: Rules
    task: Task
    problems: Sequence[Problem]
    seeds: Sequence[int]
    batch_size: int = 128


@dataclass(frozen=True)
class Plan:
    """What plays problems, for ``rollout.attempt``.

    Attributes:
        policy: decides.
        memory: tensors with N rows, what it remembers of each problem before its first step.
        evaluations: (N,) int64, denoiser evaluations that went into that; None for none.
    """

    policy: Policy
    memory: Mapping[str, Tensor] = field(default_factory=dict)
    evaluations: Tensor | None = None


class Reference(abc.ABC):
    """What plays with knowledge that no policy has: what to write, or whether it was right."""

    kind: ClassVar[Literal["oracle", "search"]]

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Its name in results, which is the text that ``load_reference`` takes."""

    @abc.abstractmethod
    def prepare(self, given: Assignment) -> Plan:
        """What plays these problems."""


def undoes(policy: object) -> str:
    """What it does to written tokens, in words; empty for a policy that leaves them."""
    if getattr(policy, "remasks", False):
        return "puts tokens back to mask"
    return "replaces written tokens" if getattr(policy, "edits", False) else ""


def not_allowed(policy: object, rules: Rules) -> str:
    """The rule to be set for what a policy does to written tokens; empty where it is, or nothing has to be."""
    for what, rule in (("remasks", "allow_remask"), ("edits", "allow_edit")):
        if getattr(policy, what, False) and not getattr(rules, rule):
            return rule
    return ""


Player = Policy | Reference
"""What plays: a policy, or a reference, which has to see how a problem is scored."""
