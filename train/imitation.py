"""What a policy can learn from: the decisions of rules and of the oracle, as they would be the policy's own.

Semi-autoregressive rules are good where full diffusion is hard to begin with. A policy for full diffusion is shown
their decisions as if every masked position might have been chosen, so that it learns the rule without the blocks
(arXiv 2512.09106). GRPO mixes such an expert into its groups; ``start`` imitates before the training itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation, Wishes
from dllm_env.errors import UsageError
from dllm_env.policies.base import Decision, Policy, undoes
from dllm_env.policies.heads import Head, PlackettLuce
from dllm_env.policies.heuristics import Heuristic
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Attempt, Recording, row_seeds
from dllm_env.random import RowRandom
from dllm_env.rules import Context, Rules
from dllm_env.tasks.base import Problem
from dllm_env.train.config import PolicyTraining
from dllm_env.train.setup import Setup

PIECE = 128
"""Steps per backward pass of imitation; small ones stay in the processor's cache."""


@dataclass(frozen=True)
class Recorded:
    """A rule that decides by its block while what is recorded is what a learned policy would see.

    Attributes:
        rule: decides.
        context: what is recorded.
        policy_top, policy_extras: what the learned policy reads.
        block_length: of the rule's blocks, where the whole response is recorded.
    """

    rule: Policy
    context: Context
    policy_top: int
    policy_extras: Extras
    block_length: int

    @property
    def name(self) -> str:
        """The rule's."""
        return self.rule.name

    @property
    def top(self) -> int:
        """What either of the two reads."""
        return max(self.policy_top, self.rule.top)

    @property
    def extras(self) -> Extras:
        """What either of the two reads."""
        return self.policy_extras | self.rule.extras

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """The rule's own decision."""
        if self.context == "block":
            return self.rule.act(observation, random)
        block = self.block_length
        start = observation.selectable.to(torch.uint8).argmax(-1, keepdim=True) // block * block
        places = start + torch.arange(block, device=start.device)
        rows = torch.arange(len(start), device=start.device)[:, None]

        def inside(values: Tensor) -> Tensor:
            return values[rows, places] if values.ndim > 1 else values

        # Its memory is the block's already: it is what the rule itself has left there.
        seen = replace(replace(observation, memory={}).map(inside), memory=observation.memory)
        if seen.attention is not None:  # of both positions of a pair
            seen.attention = inside(seen.attention.mT)
        decision = self.rule.act(seen, random)
        unmask = torch.zeros_like(observation.selectable).scatter_(1, places, decision.unmask)
        return Decision(unmask, memory=decision.memory)


def expert_rule(head: Head, settings: PolicyTraining) -> Heuristic:
    """The rule that the expert follows."""
    usual = f"top_k:{head.k}" if isinstance(head, PlackettLuce) else "threshold:0.7"
    return load_heuristic(settings.imitation.expert or usual)


def expert_rules(rules: Rules, settings: PolicyTraining) -> Rules:
    """The expert works semi-autoregressively; where the policy sees a block only, in the policy's own blocks."""
    if settings.context == "block":
        return rules
    try:
        return replace(rules, block_length=settings.imitation.expert_block_length)
    except UsageError as error:
        without = "give --expert-block-length, or train without an expert (--imitation-steps 0 --experts 0)"
        raise UsageError(f"the expert's {error}; {without}") from None


def check_expert(setup: Setup, settings: PolicyTraining) -> None:
    """Before any work.

    Raises:
        UsageError: an expert that cannot work.
    """
    expert_rules(setup.rules, settings)
    rule = expert_rule(setup.policy.head, settings)
    if what := undoes(rule):
        raise UsageError(f"the expert {rule.name} {what}, which a policy cannot imitate")


def play_recorded(
    setup: Setup,
    settings: PolicyTraining,
    rule: Policy,
    rules: Rules,
    problems: Sequence[Problem],
    seeds: Sequence[int],
    wishes: Wishes | None = None,
    memory: Mapping[str, Tensor] | None = None,
) -> Attempt:
    """A rule on these problems, recorded with what the policy would see.

    ``memory`` is what it remembers of each of them beforehand.
    """
    policy = setup.policy
    return setup.attempt(
        Recorded(rule, policy.context, policy.top, policy.extras, rules.block_length),
        problems,
        seeds,
        rules=rules,
        wishes=wishes,
        memory=memory,
        record=Recording(policy.top, policy.extras),
    )


def play_expert(
    setup: Setup,
    settings: PolicyTraining,
    problems: Sequence[Problem],
    *key: object,
    wishes: Wishes | None = None,
) -> Attempt:
    """The expert on these problems, recorded with what the policy would see; ``key`` tells its random streams."""
    rules, expert = expert_rules(setup.rules, settings), expert_rule(setup.policy.head, settings)
    seeds = row_seeds(len(problems), "expert", settings.seed, *key)
    return play_recorded(setup, settings, expert, rules, problems, seeds, wishes)


def expert_draws(seen: Observation, draw: Tensor, head: Head) -> Tensor:
    """The expert's sets as draws of the head, and every masked position selectable from now on.

    A head that draws one position after the other takes the expert's in descending confidence.
    """
    chosen = (draw > 0) & seen.selectable  # a rule's set may hold more, which is ignored when it acts
    seen.selectable = seen.masked
    return head.as_draw(chosen, seen.confidence[..., 0])
