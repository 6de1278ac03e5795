"""The oracle: what a denoiser could do if one knew where it is right. A reference, neither a rule nor learned.

For each problem a slow policy writes a response. The oracle then reveals, at each step, every selectable position
whose predicted token is that response's, or the leftmost one where there is none. How many evaluations that takes
is about the fewest that this response can be written with.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.base import Assignment, Decision, Plan, Policy, Reference, undoes
from dllm_env.policies.heuristics import best_k
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Attempt, attempt
from dllm_env.random import RowRandom
from dllm_env.rules import Context

ORACLE = "oracle"
"""Its name where a policy is named."""
REFERENCES = ("leftmost:1",)
"""The slow rules that write its responses, unless others are named."""


class Following:
    """Reveals what agrees with the response in its memory, ``reference`` (B, L), or else the leftmost position."""

    name = ORACLE
    context: Context = "full"
    top = 1
    extras = Extras(token=True)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """Decides for B rows; see the class."""
        reference, selectable = _shown(observation.memory["reference"], observation), observation.selectable
        assert observation.token is not None
        agreeing = selectable & (observation.token == reference)
        leftmost = selectable & (selectable.cumsum(-1) == 1)
        unmask = torch.where(agreeing.any(-1, keepdim=True), agreeing, leftmost)
        return Decision(unmask, memory=observation.memory)


@dataclass(frozen=True)
class Corrected:
    """Reveals what a policy would, except for what does not agree with the response in its memory, ``reference``.

    Where nothing of it agrees, one position is revealed: the leftmost if it agrees, else the most confident that
    does, else the leftmost. ``Decision.draw`` says of every selectable position whether it agrees.

    Attributes:
        policy: proposes.
        context: what is seen.
        own_top, own_extras: what is recorded besides what the policy reads.
    """

    policy: Policy
    context: Context
    own_top: int
    own_extras: Extras

    @property
    def name(self) -> str:
        """The policy's."""
        return self.policy.name

    @property
    def top(self) -> int:
        """What either of the two reads, and the largest confidence."""
        return max(1, self.own_top, self.policy.top)

    @property
    def extras(self) -> Extras:
        """What either of the two reads, and predicted tokens."""
        return replace(self.own_extras | self.policy.extras, token=True)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """Decides for B rows; see the class."""
        reference, selectable = observation.memory["reference"], observation.selectable
        rest = {name: value for name, value in observation.memory.items() if name != "reference"}
        proposed = self.policy.act(replace(observation, memory=rest), random)
        agreeing = selectable & (observation.token == _shown(reference, observation))
        leftmost = selectable & (selectable.cumsum(-1) == 1)
        first = leftmost & (agreeing | ~agreeing.any(-1, keepdim=True))
        one = torch.where(first.any(-1, keepdim=True), first, best_k(observation.confidence[..., 0], agreeing, 1))
        unmask = proposed.unmask & agreeing
        unmask = torch.where(unmask.any(-1, keepdim=True), unmask, one)
        return Decision(unmask, draw=agreeing.long(), memory={**proposed.memory, "reference": reference})


def _shown(reference: Tensor, observation: Observation) -> Tensor:
    """(B, W), what is seen of (B, L) responses: all, or the active block, before which nothing is masked."""
    length, width = reference.shape[1], observation.masked.shape[1]
    if width == length:
        return reference
    start = (length - observation.masked_total) // width * width
    places = start[:, None] + torch.arange(width, device=reference.device)
    return reference.gather(1, places.clamp(max=length - 1))


@dataclass(frozen=True)
class Oracle(Reference):
    """Reveals what agrees with a response that a slow rule writes: ``oracle``, ``oracle:leftmost:1+top_k:1``.

    Of several rules it follows, problem by problem, the slowest that is right. Where none is, it follows the first
    and is wrong, too.
    """

    kind = "oracle"
    references: tuple[str, ...] = REFERENCES

    def prepare(self, given: Assignment) -> Plan:
        responses, evaluations = self.written(given)
        return Plan(Following(), {"reference": responses}, evaluations)

    @property
    def name(self) -> str:
        """``oracle``, with the rules where they are not the usual ones."""
        return ORACLE if self.references == REFERENCES else f"{ORACLE}:{'+'.join(self.references)}"

    def written(self, given: Assignment) -> tuple[Tensor, Tensor]:
        """(N, L) int64, the responses that it follows, and (N,) int64, the evaluations that the slow rules took."""
        given = replace(given, rules=replace(given.rules, deadline=0))  # to be right takes its time
        chosen = evaluations = slowest = torch.zeros(0)
        for text in self.references:
            if not len(chosen):
                played = _written(given, text)
                chosen, evaluations, slowest = played.rollout.responses, played.rollout.nfe, _cost(played)
                continue
            left = (slowest < given.rules.response_length).nonzero()[:, 0]  # the others were as slow as can be
            if not len(left):
                break
            some = replace(given, problems=[given.problems[i] for i in left], seeds=[given.seeds[i] for i in left])
            played = _written(some, text)
            evaluations[left] += played.rollout.nfe
            slower = _cost(played) > slowest[left]
            chosen[left[slower]] = played.rollout.responses[slower]
            slowest[left] = slowest[left].maximum(_cost(played))
        return chosen, evaluations


def _written(given: Assignment, rule: str) -> Attempt:
    known = (given.denoiser, load_heuristic(rule), given.rules, given.task, given.problems, given.seeds)
    return attempt(*known, batch_size=given.batch_size)


def _cost(played: Attempt) -> Tensor:
    """(N,) evaluations of each row, −1 where it is wrong."""
    return torch.where(played.correct == 1, played.rollout.nfe, -1)


def load_oracle(text: str) -> Oracle:
    """``oracle``, or ``oracle:RULE+RULE`` with the rules that write the responses that it follows.

    Raises:
        UsageError: a rule that there is not, that is there twice, or that puts tokens back to mask.
    """
    name, colon, given = text.partition(":")
    if name != ORACLE:
        raise UsageError(f"{text!r} is not the oracle; write {ORACLE}, or {ORACLE}:leftmost:1+top_k:1")
    references = tuple(given.split("+")) if colon else REFERENCES
    for reference in references:
        if what := undoes(load_heuristic(reference)):
            raise UsageError(f"{text}: {reference} {what}, which the oracle cannot follow")
        if references.count(reference) > 1:
            raise UsageError(f"{text}: {reference} is given twice")
    return Oracle(references)
