"""GRPO for unmasking policies (arXiv 2512.09106).

An update draws G trajectories for each of some prompts, compares each with its group, and takes a few clipped
gradient steps. The denoiser is frozen: only rollouts call it, the gradient steps read what the rollouts recorded.
All random numbers of an update follow from (seed, update), so that a resumed run continues bit for bit.

Reads from top to bottom: settings, one update (``collect`` and ``learn``), the loop.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from dllm_env.dynamics import Wishes
from dllm_env.errors import UsageError
from dllm_env.locks import locked_for_all
from dllm_env.policies.rollout import Attempt, Recording, Rollout, row_seeds
from dllm_env.progress import Bar
from dllm_env.random import torch_generator
from dllm_env.rewards import Earned, Rewards
from dllm_env.tasks.base import Problem
from dllm_env.train.batches import Batch, Mixture, as_expert_steps, join, useful_steps
from dllm_env.train.callbacks import Callbacks, Learner
from dllm_env.train.config import (
    RATE,
    ROWS,
    OptimizerConfig,
    PolicyTraining,
    above_zero,
    at_least,
    learning_rate,
)
from dllm_env.train.imitation import check_expert, play_expert
from dllm_env.train.losses import ClippedLoss, approximate_kl, clipped_loss, finite_step, group_advantages
from dllm_env.train.run import Run, is_due
from dllm_env.train.setup import Setup, make_setup
from dllm_env.train.shared import gathered
from dllm_env.train.start import check_start, imitate
from dllm_env.train.validation import Validator
from dllm_env.train.wishes import draw_wishes
from dllm_env.world import ALONE, World, this_world


@dataclass(frozen=True)
class AdamWConfig(OptimizerConfig):
    """How gradients become steps of AdamW."""

    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's."""
    weight_decay: float = 0.1
    """AdamW's."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(0, self, "weight_decay", most=RATE)
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas must be at least 0 and below 1, got {self.betas}")


@dataclass(frozen=True)
class GRPO(PolicyTraining):
    """Settings of ``dllm-env train grpo``; the defaults suit the bundled denoiser.

    Examples:
        >>> settings = GRPO().changed(alpha=1.0, learning_rate=3e-4)
        >>> settings.rewards.alpha, settings.optimizer.learning_rate, settings.num_generations
        (1.0, 0.0003, 8)
    """

    alpha_warmup: int = 0
    """Updates during which α rises from 0 to its value; without any, speed counts from the first one."""
    prompts: int = 16
    """Prompts per update."""
    num_generations: int = 8
    """G, trajectories per prompt."""
    gradient_steps: int = 2
    """Gradient steps per update, each over all of its trajectories."""
    clip_range: float = 0.2
    """ε of the probability ratio."""
    target_kl: float = 0.02
    """Largest KL divergence, in nats a step, of the policy after an update from that before it; 0 for no limit."""
    scale_rewards: bool = True
    """Divide advantages by the group's standard deviation + deviation_floor times its largest reward."""
    deviation_floor: float = 0.1
    """Keeps small differences in speed among right answers from weighing as much as right against wrong."""
    unbiased_deviation: bool = False
    """The standard deviation is that of a sample of G, divided by G − 1 instead of G."""
    ema_decay: float = 0.9
    """Decay of the running average of the weights that is evaluated and saved; 0 takes the weights themselves."""
    experts: int = 0
    """E, trajectories of the expert per prompt (expert steering), which works semi-autoregressively."""
    expert_updates: int = 40
    """Steer during the first so many updates only, so that the expert's pace does not hold on; 0 steers in all."""
    microbatch_size: int = 128
    """Steps per backward pass; small ones stay in the processor's cache."""
    optimizer: AdamWConfig = AdamWConfig()

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "prompts", "gradient_steps", "microbatch_size", most=ROWS)
        at_least(0, self, "alpha_warmup", "target_kl", "deviation_floor", "expert_updates")
        at_least(0, self, "experts", most=ROWS)
        above_zero(self, "clip_range", most=RATE)
        if self.num_generations < 2:
            given = self.num_generations
            raise UsageError(f"num_generations must be at least 2 (advantages compare them), got {given}")
        at_least(2, self, "num_generations", most=ROWS)
        if not 0 <= self.ema_decay < 1:
            raise UsageError(f"ema_decay must be at least 0 and below 1, got {self.ema_decay}")


# ------------------------------------------------------------------------------------------ one update


@dataclass
class Collected:
    """What an update has drawn.

    Attributes:
        problems: one for each trajectory of the policy.
        attempt: the policy's trajectories.
        rewards: (prompts, G), and E more columns where an expert steers.
        advantages: of the same shape.
        expert: the expert's trajectories.
    """

    problems: list[Problem]
    attempt: Attempt
    rewards: Tensor
    advantages: Tensor
    expert: Attempt | None = None


def collect(setup: Setup, settings: GRPO, update: int, log: Logger, record: bool | Recording = True) -> Collected:
    """Draws the update's trajectories, G of the policy and E of the expert a prompt, and compares each group.

    ``record`` is what is kept of each step of the policy's, as for ``rollout``.
    """
    problems = setup.problems(update * settings.prompts, settings.prompts)
    repeated = _repeated(problems, settings.num_generations)
    setup.policy.network.eval()
    wishes = wishes_of(settings, update)
    own, expert = _play(setup, settings, update, repeated, wishes, record), None
    if setup.max_prompt_length:
        log.record("rollout/long_prompts_left_out", setup.left_out((update + 1) * settings.prompts))
    rewards = setup.rewards.at(alpha_at(settings, update))
    earned = rewards(own.outcomes(repeated, wishes.preference))
    _log_rollout(setup, own, earned, log)
    groups = earned.total.view(-1, settings.num_generations)
    deviation = groups.std(-1, unbiased=settings.unbiased_deviation).mean().item()
    log.record("rollout/reward_deviation", deviation)
    asked = wishes.preference
    log.record("rollout/alpha", alpha_at(settings, update) if asked is None else asked.mean().item())
    if settings.experts and (settings.expert_updates == 0 or update < settings.expert_updates):
        expert, theirs = _play_expert(setup, settings, update, problems, rewards, wishes)
        groups = torch.cat((groups, theirs), 1)
        log.record("rollout/expert_accuracy", expert.correct.mean().item())
    floor, unbiased = settings.deviation_floor, settings.unbiased_deviation
    advantages = group_advantages(groups, settings.scale_rewards, floor, unbiased)
    log.record("rollout/groups_without_signal", (advantages == 0).all(-1).float().mean().item())
    return Collected(repeated, own, groups, advantages, expert)


def _play(
    setup: Setup,
    settings: GRPO,
    update: int,
    problems: Sequence[Problem],
    wishes: Wishes,
    record: bool | Recording,
) -> Attempt:
    """The policy's own trajectories."""
    seeds = row_seeds(len(problems), "grpo", setup.policy.name, settings.seed, update)
    together = settings.num_generations
    return setup.attempt(
        setup.policy, problems, seeds, wishes=wishes, record=record, together=together, own_steps=True
    )


def wishes_of(settings: GRPO, update: int) -> Wishes:
    """What is asked of each trajectory, the same within a group."""
    drawn = draw_wishes(settings.rewards, settings.prompts, torch_generator("wishes", settings.seed, update))
    return drawn[torch.arange(settings.prompts).repeat_interleave(settings.num_generations)]


def _play_expert(
    setup: Setup, settings: GRPO, update: int, problems: list[Problem], rewards: Rewards, wishes: Wishes
) -> tuple[Attempt, Tensor]:
    """The expert's trajectories, under the same wishes, and their (prompts, E) rewards."""
    repeated = _repeated(problems, settings.experts)
    first = torch.arange(len(problems)).repeat_interleave(settings.experts) * settings.num_generations
    asked = wishes[first]
    expert = play_expert(setup, settings, repeated, update, wishes=asked)
    return expert, rewards(expert.outcomes(repeated, asked.preference)).total.view(-1, settings.experts)


def _repeated(problems: list[Problem], times: int) -> list[Problem]:
    """Each problem so many times in a row."""
    return [problem for problem in problems for _ in range(times)]


def _log_rollout(setup: Setup, tried: Attempt, earned: Earned, log: Logger) -> None:
    played = tried.rollout
    assert played.trajectories is not None
    entropies = setup.world.joined([played.trajectories.entropy])
    log.record("rollout/reward", earned.total.mean().item())
    for name, values in earned.parts.items():
        log.record(f"rewards/{name}", values.mean().item())
    log.record("rollout/accuracy", tried.correct.mean().item())
    log.record("rollout/nfe", played.nfe.float().mean().item())
    log.record("rollout/steps", played.steps.float().mean().item())
    if setup.rules.allow_edit:
        log.record("rollout/edits", played.edits.float().mean().item())
    log.record("rollout/finished", played.finished.float().mean().item())
    log.record("rollout/entropy", entropies.mean().item())
    log.record("time/rollouts_per_second", len(played.nfe) / played.seconds)
    log.record("time/denoiser_share_of_rollout", played.denoiser_seconds / played.seconds)
    log.record("time/denoiser_seconds", played.denoiser_seconds)


def alpha_at(settings: GRPO, update: int) -> float:
    """α of an update."""
    alpha, warmup = settings.rewards.alpha, settings.alpha_warmup
    return alpha * min(1.0, update / warmup) if warmup else alpha


def make_batch(setup: Setup, settings: GRPO, drawn: Collected, own: bool = False) -> Batch:
    """The steps to learn from, of all processes, or with ``own`` only those that this one played."""
    count, total = settings.num_generations, drawn.rewards.numel()
    batch = useful_steps(drawn.attempt, drawn.advantages[:, :count], total)
    if not own:
        batch = gathered(setup.world, batch, setup.denoiser.device)
    if drawn.expert is None:
        return batch
    guided = useful_steps(drawn.expert, drawn.advantages[:, count:], total)
    if not len(guided) or (own and not setup.world.first):
        return batch
    mixture = Mixture(count, settings.experts)
    return join(batch, as_expert_steps(guided, setup.policy, mixture, settings.microbatch_size))


def too_large_to_tell(setup: Setup) -> bool:
    """Whether steps stay with the process that played them, and gradients are added up instead."""
    return setup.world.size > 1 and (setup.policy.extras.hidden or setup.policy.extras.log_probability)


def learn(learner: Learner, batch: Batch, settings: GRPO, log: Logger, among: World = ALONE) -> None:
    """Takes the update's gradient steps, each over the whole batch, then shortens the update to its target KL.

    With processes ``among`` whom the batch is divided, it is this one's share, and gradients are those of all.

    ``train/approximate_kl`` is the divergence of the whole update, ``train/step`` the share of it that is taken.
    Gradients, or a policy after them, with infinite or undefined probability ratios change nothing;
    ``train/skipped`` counts such gradient steps, and a whole update as all of its steps.
    """
    if not sum(among.gather(len(batch))):
        return
    network = learner.network.train()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    skipped = 0
    for _ in range(settings.gradient_steps):
        norm, parts = _gradient_step(learner, batch, settings, among)
        skipped += not math.isfinite(norm)
    ratio = among.joined([part.ratio for part in parts])
    log.record("train/loss", sum(among.gather(sum(part.loss.item() for part in parts))))
    log.record("train/gradient_norm", norm)
    log.record("train/ratio_mean", ratio.mean().item())
    log.record("train/ratio_max", ratio.max().item())
    log.record("train/clip_share", among.joined([part.clipped for part in parts]).float().mean().item())
    with torch.no_grad():
        pieces = batch.pieces(settings.microbatch_size)
        ratio = among.joined([loss_of(learner, piece, settings).ratio for piece in pieces])
        divergence, possible = approximate_kl(ratio), bool(ratio.isfinite().all())
        step = step_within(settings.target_kl, divergence) if possible else 0.0
        for parameter, start in zip(network.parameters(), before, strict=True):
            parameter.copy_(start.lerp(parameter, step) if possible else start)
    log.record("train/approximate_kl", divergence)
    log.record("train/step", step)
    log.record("train/skipped", skipped if possible else settings.gradient_steps)


def _gradient_step(learner: Learner, batch: Batch, settings: GRPO, among: World) -> tuple[float, list[ClippedLoss]]:
    """One step over the whole batch; the gradient's norm, and the losses of the pieces before it."""
    learner.optimizer.zero_grad(set_to_none=True)
    parts = []
    for piece in batch.pieces(settings.microbatch_size):
        part = loss_of(learner, piece, settings)
        part.loss.backward()
        parts.append(part)
    among.sum_gradients(learner.network.parameters())
    return finite_step(learner.network, learner.optimizer, settings.optimizer.max_grad_norm), parts


def step_within(trust_region: float, divergence: float) -> float:
    """Share of an update that its divergence leaves to it: divergence grows with the square of the step."""
    return math.sqrt(trust_region / max(divergence, trust_region)) if trust_region else 1.0


def loss_of(learner: Learner, batch: Batch, settings: GRPO) -> ClippedLoss:
    """The clipped loss of these steps under the policy as it is now."""
    log_prob, _ = learner.policy.evaluate(batch.observation, batch.draw)
    if settings.experts:
        mixed = Mixture(settings.num_generations, settings.experts)(log_prob)
        log_prob = torch.where(batch.expert, mixed, log_prob)
    return clipped_loss(log_prob, batch.old_log_prob, batch.advantage, batch.weight, settings.clip_range)


# -------------------------------------------------------------------------------------------- the loop


def make_learner(setup: Setup, settings: GRPO) -> Learner:
    """Fresh weights, their average, and AdamW."""
    network, config = setup.policy.network, settings.optimizer
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=config.learning_rate, betas=config.betas, weight_decay=config.weight_decay
    )
    return Learner(setup.policy, copy.deepcopy(network), optimizer)


@dataclass(frozen=True)
class Algorithm:
    """What tells a training that goes on as GRPO's does from it.

    Attributes:
        name: in the progress bar.
        learner: made of setup and settings.
        once: one update; returns the figures for the progress bar.
        validator: made of setup, settings and folder.
    """

    name: str
    learner: Callable[[Setup, Any], Learner]
    once: Callable[[Setup, Learner, Any, Callbacks], str]
    validator: Callable[[Setup, Any, Path], Validator] = Validator


def train_grpo(
    settings: GRPO,
    folder: Path,
    resume: bool = False,
    stop_after: int | None = None,
    callback: MaybeCallback = None,
) -> Path:
    """Trains a policy; writes ``best`` (by ``validation.rank``), ``last``, logs and a checkpoint into the folder.

    Args:
        settings: what to train.
        folder: the run's folder.
        resume: continue the run that is there; the result is the same as if it had never stopped.
        stop_after: stop after this update as a kill would (for tests).
        callback: of Stable-Baselines3, one, several, or a function; see ``callbacks``.

    Returns:
        The folder, which ``load_policy`` takes.

    Raises:
        UsageError: settings that do not work, nothing to resume, or somebody else is writing into the folder.
    """
    return train(Algorithm("grpo", make_learner, train_once), settings, folder, resume, stop_after, callback)


def train(
    algorithm: Algorithm,
    settings: GRPO,
    folder: Path,
    resume: bool = False,
    stop_after: int | None = None,
    callback: MaybeCallback = None,
) -> Path:
    """The training that an algorithm is; see ``train_grpo``."""
    world = this_world()
    if settings.prompts < world.size:
        raise UsageError(
            f"{settings.prompts} prompts an update are too few for {world.size} processes; raise prompts"
        )
    with locked_for_all(folder, world):
        setup = make_setup(settings)
        check_start(setup, settings)
        if settings.experts:
            check_expert(setup, settings)
        learner, validator = algorithm.learner(setup, settings), algorithm.validator(setup, settings, folder)
        run = Run(folder, settings, resume, writes=world.first)
        world.wait()
        if resume:
            info = run.load(learner.parts(), settings.gradient_steps, settings.updates)
            learner.restored()
            learner.restore(info)
            validator.restore(info)
        else:
            imitate(setup, settings)
            learner.average.load_state_dict(learner.network.state_dict())
            save(run, learner, validator)
        learner.logger = run.logger(learner.update)
        try:
            callbacks = Callbacks(callback if world.first else None, learner)
            _loop(algorithm, setup, settings, learner, validator, run, callbacks, stop_after)
        finally:
            learner.logger.close()
    return folder


def _loop(
    algorithm: Algorithm,
    setup: Setup,
    settings: GRPO,
    learner: Learner,
    validator: Validator,
    run: Run,
    callbacks: Callbacks,
    stop_after: int | None,
) -> None:
    """Updates until the last one, ``stop_after``, or a callback that says so."""
    log, last = learner.logger, settings.updates
    with Bar() as bar:
        shown = bar.add_task(algorithm.name, total=last, completed=learner.update)
        callbacks.start({"setup": setup, "settings": settings, "folder": run.folder})
        while learner.update < last and learner.update != stop_after:
            figures = algorithm.once(setup, learner, settings, callbacks)
            if setup.world.told(callbacks.stopped):
                last = learner.update
            if is_due(learner.update, settings.validation.evaluate_every, last):
                figures = f"{figures} | validation {validator(learner.average, learner.update, log)}"
            log.dump(learner.update)
            if is_due(learner.update, settings.save_every, last):
                save(run, learner, validator)
            bar.update(shown, completed=learner.update, figures=figures)
        if learner.update == last:
            validator.end()
        callbacks.end()


def save(run: Run, learner: Learner, validator: Validator) -> None:
    """Writes a checkpoint."""
    run.save(learner.parts(), {**learner.state(), **validator.state()})


def train_once(setup: Setup, learner: Learner, settings: GRPO, callbacks: Callbacks) -> str:
    """One update: rollouts, then gradient steps. Returns the figures for the progress bar."""
    return update_once(setup, learner, settings, callbacks, collect, improve)


def _count(learner: Learner, played: Sequence[Rollout]) -> None:
    """Adds up what the denoiser has done so far, for the policy and for an expert."""
    learner.evaluations += sum(int(rollout.nfe.sum()) for rollout in played)
    learner.logger.record("rollout/denoiser_evaluations", learner.evaluations)
    learner.logger.record("time/denoiser_calls", sum(rollout.denoiser_calls for rollout in played))


def improve(setup: Setup, learner: Learner, settings: GRPO, drawn: Collected) -> None:
    """The gradient steps of an update."""
    own = too_large_to_tell(setup)
    batch = make_batch(setup, settings, drawn, own)
    learn(learner, batch, settings, learner.logger, setup.world if own else ALONE)


def update_once(
    setup: Setup,
    learner: Learner,
    settings: GRPO,
    callbacks: Callbacks,
    collect: Callable[[Setup, Any, int, Logger], Collected],
    improve: Callable[[Setup, Any, Any, Collected], None],
) -> str:
    """An update that draws by the one function and learns by the other."""
    began, log = time.perf_counter(), learner.logger
    rate = learning_rate(settings, learner.update)
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    callbacks.rollout_start()
    drawn = collect(setup, settings, learner.update, log)
    learner.num_timesteps += int(drawn.attempt.rollout.steps.sum())
    _count(learner, [played.rollout for played in (drawn.attempt, drawn.expert) if played is not None])
    callbacks.rollout_end(vars(drawn))
    improve(setup, learner, settings, drawn)
    learner.update += 1
    learner.follow(settings.ema_decay)
    callbacks.step()
    log.record("train/learning_rate", rate)
    log.record("time/update", learner.update)
    log.record("time/update_seconds", time.perf_counter() - began)
    seen = log.name_to_value
    return f"accuracy {seen['rollout/accuracy']:.0%} NFE {seen['rollout/nfe']:.1f}"
