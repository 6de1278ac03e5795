"""The objects that training settings name, loaded and checked before any work."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from dllm_env.denoisers.base import Denoiser
from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import Dynamics, Wishes
from dllm_env.env import next_short, prompt_width
from dllm_env.errors import UsageError
from dllm_env.policies.base import Assignment, Policy, undoes
from dllm_env.policies.heads import load_head
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import NetworkConfig, make_network
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Attempt, Recording, attempt
from dllm_env.random import torch_generator
from dllm_env.rewards import Rewards, load_rewards
from dllm_env.rules import Rules
from dllm_env.tasks.base import Problem, Task, count_problems
from dllm_env.tasks.load import load_task
from dllm_env.train.config import PolicyTraining
from dllm_env.train.settings_file import flat
from dllm_env.train.shared import gathered, shared_attempt
from dllm_env.world import ALONE, World, this_world


@dataclass
class Setup:
    """What a training works with.

    Attributes:
        task, denoiser, rewards, rules: of the settings.
        policy: to be trained, with fresh weights.
        validation: problems to validate on.
        seed: of the training problems.
        max_prompt_length: of training problems; 0 takes all.
        batch_size: rows played at a time.
        world: the processes that train together.
    """

    task: Task
    denoiser: Denoiser
    rewards: Rewards
    rules: Rules
    policy: LearnedPolicy
    validation: list[Problem]
    seed: int = 0
    max_prompt_length: int = 0
    batch_size: int = 128
    world: World = ALONE
    _short: list[int] = field(default_factory=list)

    def problems(self, first: int, count: int) -> list[Problem]:
        """Training problems ``first``, ``first + 1``, … of those whose prompts are not too long."""
        if not self.max_prompt_length:
            return [self.task.problem(index, "train", self.seed) for index in range(first, first + count)]
        while len(self._short) < first + count:
            self._short.append(self._next_short())
        return [self.task.problem(index, "train", self.seed) for index in self._short[first : first + count]]

    def left_out(self, count: int) -> int:
        """How many prompts among those of the first so many training problems were too long, and passed over."""
        if not self.max_prompt_length or not count:
            return 0
        self.problems(0, count)
        return self._short[count - 1] + 1 - count

    def attempt(
        self,
        policy: Policy,
        problems: Sequence[Problem],
        seeds: Sequence[int],
        *,
        rules: Rules | None = None,
        wishes: Wishes | None = None,
        memory: Mapping[str, Tensor] | None = None,
        record: bool | Recording = False,
        together: int = 1,
        own_steps: bool = False,
    ) -> Attempt:
        """A policy on these problems, by all processes; see ``shared_attempt``.

        ``own_steps`` leaves recorded steps with the process that played them.
        """

        def play(rows: Sequence[int]) -> Attempt:
            some = torch.tensor(rows, dtype=torch.int64)
            return attempt(
                self.denoiser,
                policy,
                rules or self.rules,
                self.task,
                [problems[i] for i in rows],
                [seeds[i] for i in rows],
                batch_size=self.batch_size,
                wishes=None if wishes is None else wishes[some],
                memory={name: value[some.to(value.device)] for name, value in (memory or {}).items()},
                record=record,
            )

        device = self.denoiser.device
        found = shared_attempt(self.world, play, len(problems), device, together)
        if own_steps or not record:
            return found
        steps = gathered(self.world, found.rollout.trajectories, device)
        return replace(found, rollout=replace(found.rollout, trajectories=steps))

    def assigned(self, problems: Sequence[Problem], seeds: Sequence[int], batch_size: int) -> Assignment:
        """What references are given of these problems."""
        return Assignment(self.denoiser, self.rules, self.task, problems, seeds, batch_size)

    def _next_short(self) -> int:
        start = self._short[-1] + 1 if self._short else 0
        return next_short(self.task, self.denoiser, self.max_prompt_length, "train", self.seed, start)


def make_setup(settings: PolicyTraining) -> Setup:
    """Loads and checks what the settings name.

    Raises:
        UsageError: an unknown name, or values that do not fit together.
    """
    task = load_task(settings.task, settings.data, settings.allow_code_execution)
    count = min(settings.validation.validation_problems, count_problems(task, "validation") or sys.maxsize)
    validation = [task.problem(i, "validation") for i in range(count)]
    count_problems(task, "train")  # there have to be some
    chosen = settings.rewards
    rewards = load_rewards(chosen.reward, chosen.reward_weights, chosen.alpha, chosen.cost)
    Rules.of(settings).resolve(task.response_length)  # what does not fit is refused before anything large is read
    head, shape = load_head(settings.policy.head), network_shape(settings)
    denoiser = load_denoiser(settings.denoiser, settings.device or None)
    rules = Rules.of(settings).resolve(task.response_length, denoiser.attention_block)
    Dynamics(denoiser, rules, prompt_width(denoiser, task))
    generator = torch_generator("policy network", settings.seed)
    network = make_network(settings.policy.network, shape, generator, denoiser.hidden_size)
    policy = LearnedPolicy(network.to(denoiser.device), head, settings.context, training=flat(settings))
    for rule in settings.validation.validation_rules:
        if what := undoes(load_heuristic(rule)):
            raise UsageError(f"the validation rule {rule} {what}, which training does not allow")
    return Setup(
        task,
        denoiser,
        rewards,
        rules,
        policy,
        validation,
        settings.seed,
        settings.max_prompt_length,
        settings.batch_size,
        this_world(),
    )


def network_shape(settings: PolicyTraining) -> NetworkConfig:
    """Shape of the policy network."""
    policy, rewards = settings.policy, settings.rewards
    asked = {"preference": rewards.preferences, "remaining": rewards.deadlines}
    conditions = tuple(name for name, given in asked.items() if given)
    return NetworkConfig(policy.width, policy.attention_heads, settings.top, policy.bias, policy.sight, conditions)
