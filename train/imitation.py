"""An expert: a published rule that works semi-autoregressively, and how a policy learns from its decisions.

Semi-autoregressive rules are good where full diffusion is hard to begin with. A policy for full diffusion is shown
their decisions as if every masked position might have been chosen, so that it learns the rule without the blocks
(arXiv 2512.09106). GRPO mixes experts into its groups; ``imitate`` is maximum likelihood on what they get right, a
start for any trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation, Wishes
from dllm_env.errors import UsageError
from dllm_env.policies.base import Decision
from dllm_env.policies.heads import Head, PlackettLuce
from dllm_env.policies.heuristics import Heuristic
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Attempt, Recording, attempt, row_seeds
from dllm_env.random import RowRandom, torch_generator
from dllm_env.rules import Context, Rules
from dllm_env.tasks.base import Problem
from dllm_env.train.config import PolicyTraining
from dllm_env.train.losses import finite_step
from dllm_env.train.run import progress_bar
from dllm_env.train.setup import Setup
from dllm_env.train.wishes import draw_wishes

CHECK_EVERY = 20
"""Gradient steps between two looks at the policy's own accuracy."""
OWN_PROBLEMS = 64
"""Problems of such a look."""
PIECE = 128
"""Steps per backward pass; small ones stay in the processor's cache."""


@dataclass(frozen=True)
class Recorded:
    """A rule that decides by its block while what is recorded is what a learned policy would see.

    Attributes:
        rule: decides.
        context: what is recorded.
        policy_top, policy_extras: what the learned policy reads.
        block_length: of the rule's blocks, where the whole response is recorded.
    """

    rule: Heuristic
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
        both = (self.policy_extras, self.rule.extras)
        return Extras(**{field.name: any(getattr(one, field.name) for one in both) for field in fields(Extras)})

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
    if rule.remasks:
        raise UsageError(f"the expert {rule.name} puts tokens back to mask, which a policy cannot imitate")


def play_expert(
    setup: Setup,
    settings: PolicyTraining,
    problems: Sequence[Problem],
    *key: object,
    wishes: Wishes | None = None,
) -> Attempt:
    """The expert on these problems, recorded with what the policy would see; ``key`` tells its random streams."""
    policy, rules = setup.policy, expert_rules(setup.rules, settings)
    expert = expert_rule(policy.head, settings)
    return attempt(
        setup.denoiser,
        Recorded(expert, policy.context, policy.top, policy.extras, rules.block_length),
        rules,
        setup.task,
        problems,
        row_seeds(len(problems), "expert", settings.seed, *key),
        batch_size=settings.batch_size,
        wishes=wishes,
        record=Recording(policy.top, policy.extras),
    )


def expert_draws(seen: Observation, draw: Tensor, head: Head) -> Tensor:
    """The expert's sets as draws of the head, and every masked position selectable from now on.

    A head that draws one position after the other takes the expert's in descending confidence.
    """
    chosen = (draw > 0) & seen.selectable  # a rule's set may hold more, which is ignored when it acts
    seen.selectable = seen.masked
    return head.as_draw(chosen, seen.confidence[..., 0])


def imitate(setup: Setup, settings: PolicyTraining) -> None:
    """At most ``imitation_steps`` steps of maximum likelihood on what the expert got right on some problems.

    What remains is the running average of the weights: as right as the weights after a slow end, and earlier.
    """
    config = settings.imitation
    if not config.imitation_steps:
        return
    problems = setup.problems(0, config.imitation_problems)
    asked = draw_wishes(settings.rewards, len(problems), torch_generator("wishes", settings.seed), deadlines=False)
    played = play_expert(setup, settings, problems, "imitation", wishes=asked)
    seen, draw = right_decisions(setup.policy, played)
    network = setup.policy.network
    optimizer = torch.optim.Adam(network.parameters(), lr=config.imitation_learning_rate)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    network.train()
    generator, accuracy = torch_generator("imitation", settings.seed), 0.0
    with progress_bar() as bar:
        shown = bar.add_task("imitation", total=config.imitation_steps, figures="")
        if not len(draw):
            none = f"nothing to imitate: the expert solves none of {config.imitation_problems} problems"
            bar.update(shown, figures=none)
            return
        for update in range(config.imitation_steps):
            rows = torch.randint(len(draw), (config.imitation_batch_size,), generator=generator).to(draw.device)
            likelihood = _imitate_once(setup.policy, optimizer, seen, draw, rows)
            average.update_parameters(network)
            if update % CHECK_EVERY == CHECK_EVERY - 1:
                accuracy = own_accuracy(setup, average.module, settings, update)
            figures = f"accuracy {accuracy:.0%} expert {played.correct.mean():.0%} log-likelihood {likelihood:.2f}"
            bar.update(shown, advance=1, figures=figures)
            if accuracy >= config.imitation_target * played.correct.mean():
                break
    network.load_state_dict(average.module.state_dict())


def right_decisions(policy: LearnedPolicy, played: Attempt) -> tuple[Observation, Tensor]:
    """What the expert saw and drew on the way to right answers, as draws of the policy's head."""
    steps = played.rollout.trajectories
    assert steps is not None
    right = (played.correct[steps.row] == 1).nonzero()[:, 0]
    seen = steps.observation[right]
    return seen, expert_draws(seen, steps.draw[right], policy.head)


def own_accuracy(setup: Setup, network: nn.Module, settings: PolicyTraining, update: int) -> float:
    """How often the policy itself, as it trains, is right on new problems."""
    problems = setup.problems(settings.imitation.imitation_problems + update * OWN_PROBLEMS, OWN_PROBLEMS)
    policy = LearnedPolicy(network.eval(), setup.policy.head, setup.policy.context)  # type: ignore[arg-type]
    seeds = row_seeds(OWN_PROBLEMS, "imitation", settings.seed, update)
    size = settings.batch_size
    generator = torch_generator("wishes", settings.seed, update)
    asked = draw_wishes(settings.rewards, OWN_PROBLEMS, generator, deadlines=False)
    rules, task = setup.rules, setup.task
    tried = attempt(setup.denoiser, policy, rules, task, problems, seeds, batch_size=size, wishes=asked)
    return tried.correct.mean().item()


def _imitate_once(
    policy: LearnedPolicy, optimizer: torch.optim.Optimizer, seen: Observation, draw: Tensor, rows: Tensor
) -> float:
    """One gradient step on these rows; returns their mean log-likelihood before it."""
    optimizer.zero_grad(set_to_none=True)
    total = 0.0
    for piece in rows.split(PIECE):
        log_prob, _ = policy.evaluate(seen[piece], draw[piece])
        possible = log_prob.isfinite()  # a head of K positions cannot draw the last block's rest, for example
        likelihood = log_prob[possible].sum() / len(rows)
        (-likelihood).backward()
        total += likelihood.item()
    finite_step(policy.network, optimizer, 1.0)
    return total
