"""GRPO for unmasking policies (arXiv 2512.09106).

An update draws G trajectories for each of some prompts, compares each with its group, and takes a few clipped
gradient steps. The denoiser is frozen: only rollouts call it, the gradient steps read what the rollouts recorded.
All random numbers of an update follow from (seed, update), so that a resumed run continues bit for bit.

Reads from top to bottom: settings, one update (``collect`` and ``learn``), validation, the loop.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.rollout import Attempt, attempt, row_seeds
from dllm_env.rewards import Reward, load_reward
from dllm_env.tasks.base import Problem
from dllm_env.train.expert import check_expert, expert_draws, imitate, play_expert
from dllm_env.train.keeper import Keeper
from dllm_env.train.losses import ClippedLoss, approximate_kl, clipped_loss, group_advantages
from dllm_env.train.run import Run, is_due, progress_bar
from dllm_env.train.setting import PolicyTraining, Setting, learning_rate


@dataclass(frozen=True)
class GRPO(PolicyTraining):
    """Settings of ``dllm-env train grpo``; the defaults suit the bundled denoiser."""

    alpha_warmup: int = 40
    """Updates during which α rises from 0 to its value: first right, then fast."""
    prompts: int = 16
    """Prompts per update."""
    group: int = 8
    """G, trajectories per prompt."""
    gradient_steps: int = 2
    """Gradient steps per update, each over all of its trajectories."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's."""
    weight_decay: float = 0.1
    """AdamW's."""
    gradient_norm: float = 0.5
    """Gradients are clipped to this norm."""
    clip: float = 0.2
    """ε of the probability ratio."""
    trust_region: float = 0.02
    """Largest KL divergence, in nats a step, of the policy after an update from that before it; 0 for no limit."""
    divide_by_deviation: bool = True
    """Divide advantages by the group's standard deviation + deviation_floor."""
    deviation_floor: float = 0.03
    """Keeps small differences in speed among right answers from weighing as much as right against wrong."""
    averaging: float = 0.9
    """Decay of the running average of the weights that is evaluated and saved; 0 takes the weights themselves."""
    experts: int = 0
    """E, trajectories of the expert per prompt (expert steering), which works semi-autoregressively."""
    expert_updates: int = 40
    """Steer during the first so many updates only, so that the expert's pace does not hold on; 0 steers in all."""
    microbatch: int = 128
    """Steps per backward pass; small ones stay in the processor's cache."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("prompts", "gradient_steps", "microbatch"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.group < 2:
            raise UsageError(f"group must be at least 2 (advantages compare its trajectories), got {self.group}")
        if not (self.clip > 0 and self.gradient_norm > 0):
            raise UsageError("clip and gradient_norm must be above 0")
        if not self.trust_region >= 0:
            raise UsageError(f"trust_region must be at least 0, got {self.trust_region}")
        if self.experts < 0:
            raise UsageError(f"experts must be at least 0, got {self.experts}")
        if not 0 <= self.averaging < 1:
            raise UsageError(f"averaging must be at least 0 and below 1, got {self.averaging}")


PRESETS: dict[str, GRPO] = {
    "bundled": GRPO(),
    "demo": GRPO(alpha=0.3, nfe_budget=0.245),
    "paper": GRPO(
        updates=938,
        prompts=128,
        gradient_steps=2,
        rate=3e-5,
        warmup=100,
        gradient_norm=0.2,
        clip=0.5,
        trust_region=0.0,
        divide_by_deviation=False,
        averaging=0.0,
        head="bernoulli",
        test_temperatures=(1.0,),
        width=128,
        bias=-2.0,
        imitation=0,
        alpha_warmup=0,
        expert_block_length=32,
        evaluate_every=50,
    ),
}
"""Settings by name: for the bundled denoiser, for the demo, and those of arXiv 2512.09106 (8 devices as one)."""


# ------------------------------------------------------------------------------------------ one update


@dataclass
class Batch:
    """The steps of one update that carry signal, flat.

    Attributes:
        observation: M rows.
        draw: (M, W), as in ``Trajectories``.
        old_log_prob, advantage, weight: (M,).
        expert: (M,) bool, steps of an expert, which are scored under the mixture (see ``mixture``).
    """

    observation: Observation
    draw: Tensor
    old_log_prob: Tensor
    advantage: Tensor
    weight: Tensor
    expert: Tensor


def collect(setting: Setting, settings: GRPO, update: int, log: Logger) -> Batch:
    """Draws the update's trajectories, G of the policy and E of the expert a prompt, and compares each group."""
    first = update * settings.prompts
    problems = [setting.task.problem(first + i, "train", settings.seed) for i in range(settings.prompts)]
    setting.policy.network.eval()
    own = _play(setting, settings, update, _repeated(problems, settings.group))
    reward = load_reward(settings.reward, alpha_at(settings, update))
    rewards = _rewards(reward, own, settings.group)
    _log_rollout(own, rewards, log)
    expert = None
    if settings.experts and (settings.expert_updates == 0 or update < settings.expert_updates):
        expert = play_expert(setting, settings, _repeated(problems, settings.experts), update)
        rewards = torch.cat((rewards, _rewards(reward, expert, settings.experts)), 1)
        log.record("rollout/expert_accuracy", expert.correct.mean().item())
    advantages = group_advantages(rewards, settings.divide_by_deviation, settings.deviation_floor)
    log.record("rollout/groups_without_signal", (advantages == 0).all(-1).float().mean().item())
    batch = _useful_steps(own, advantages[:, : settings.group], rewards.numel())
    if expert is None:
        return batch
    guided = _useful_steps(expert, advantages[:, settings.group :], rewards.numel())
    if not len(guided.weight):
        return batch
    return _join(batch, as_expert_steps(guided, setting.policy, settings))


def _log_rollout(tried: Attempt, rewards: Tensor, log: Logger) -> None:
    played = tried.rollout
    assert played.trajectories is not None
    log.record("rollout/reward", rewards.mean().item())
    log.record("rollout/accuracy", tried.correct.mean().item())
    log.record("rollout/nfe", played.nfe.float().mean().item())
    log.record("rollout/steps", played.steps.float().mean().item())
    log.record("rollout/finished", played.finished.float().mean().item())
    log.record("rollout/entropy", played.trajectories.entropy.mean().item())
    log.record("time/rollouts_per_second", len(played.nfe) / played.seconds)
    log.record("time/denoiser_share_of_rollout", played.denoiser_seconds / played.seconds)
    log.record("time/denoiser_seconds", played.denoiser_seconds)


def _play(setting: Setting, settings: GRPO, update: int, problems: list[Problem]) -> Attempt:
    """The policy's own trajectories."""
    seeds = row_seeds(len(problems), "grpo", setting.policy.name, settings.seed, update)
    rules, size = setting.rules, settings.batch_size
    return attempt(
        setting.denoiser, setting.policy, rules, setting.task, problems, seeds, batch_size=size, record=True
    )


def _repeated(problems: list[Problem], times: int) -> list[Problem]:
    """Each problem so many times in a row."""
    return [problem for problem in problems for _ in range(times)]


def alpha_at(settings: GRPO, update: int) -> float:
    """α of an update."""
    return settings.alpha * min(1.0, update / settings.alpha_warmup) if settings.alpha_warmup else settings.alpha


def _rewards(reward: Reward, tried: Attempt, group: int) -> Tensor:
    length = tried.rollout.responses.shape[1]
    return reward(tried.correct, tried.rollout.nfe, length).view(-1, group)


def _useful_steps(tried: Attempt, advantages: Tensor, total: int) -> Batch:
    """The steps whose trajectory differs from its group, each weighing 1/(N·T)."""
    steps = tried.rollout.trajectories
    assert steps is not None
    advantage = advantages.flatten()[steps.row]
    weight = 1.0 / (total * tried.rollout.steps[steps.row].float())
    useful = advantage != 0
    return Batch(
        observation=steps.observation[useful],
        draw=steps.draw[useful],
        old_log_prob=steps.log_prob[useful],
        advantage=advantage[useful],
        weight=weight[useful],
        expert=torch.zeros(int(useful.sum()), dtype=torch.bool, device=weight.device),
    )


def _join(first: Batch, second: Batch) -> Batch:
    columns = {
        field.name: torch.cat((getattr(first, field.name), getattr(second, field.name)))
        for field in fields(Batch)
        if field.name != "observation"
    }
    return Batch(Observation.concatenate((first.observation, second.observation)), **columns)


def as_expert_steps(batch: Batch, policy: LearnedPolicy, settings: GRPO) -> Batch:
    """Steps of the expert, which the mixture scores."""
    batch.draw = expert_draws(batch.observation, batch.draw, policy.head)
    batch.expert = torch.ones_like(batch.expert)
    with torch.no_grad():
        batch.old_log_prob = mixture(policy.evaluate(batch.observation, batch.draw)[0], settings)
    return batch


def mixture(log_prob: Tensor, settings: GRPO) -> Tensor:
    """log( G/(G+E) · π(u) + E/(G+E) ) of the expert's own actions, from (M,) log π(u)."""
    total = settings.group + settings.experts
    return torch.logaddexp(
        log_prob + math.log(settings.group / total), torch.full_like(log_prob, math.log(settings.experts / total))
    )


def learn(
    policy: LearnedPolicy, optimizer: torch.optim.Optimizer, batch: Batch, settings: GRPO, log: Logger
) -> None:
    """Takes the update's gradient steps, each over the whole batch, then shortens the update to the trust region.

    ``train/approximate_kl`` is the divergence of the whole update, ``train/step`` the share of it that is taken.
    """
    if not len(batch.weight):
        return
    network = policy.network.train()
    before = [parameter.detach().clone() for parameter in network.parameters()]
    for _ in range(settings.gradient_steps):
        optimizer.zero_grad(set_to_none=True)
        parts = []
        for piece in pieces(batch, settings):
            part = loss_of(policy, piece, settings)
            part.loss.backward()
            parts.append(part)
        norm = nn.utils.clip_grad_norm_(network.parameters(), settings.gradient_norm)
        optimizer.step()
    ratio = torch.cat([part.ratio for part in parts])
    log.record("train/gradient_norm", norm.item())
    log.record("train/ratio_mean", ratio.mean().item())
    log.record("train/ratio_max", ratio.max().item())
    log.record("train/clip_share", torch.cat([part.clipped for part in parts]).float().mean().item())
    with torch.no_grad():
        ratio = torch.cat([loss_of(policy, piece, settings).ratio for piece in pieces(batch, settings)])
        divergence = approximate_kl(ratio)
        step = step_within(settings.trust_region, divergence)
        for parameter, start in zip(network.parameters(), before, strict=True):
            parameter.copy_(start.lerp(parameter, step))
    log.record("train/approximate_kl", divergence)
    log.record("train/step", step)


def step_within(trust_region: float, divergence: float) -> float:
    """Share of an update that its divergence leaves to it: divergence grows with the square of the step."""
    return math.sqrt(trust_region / max(divergence, trust_region)) if trust_region else 1.0


def pieces(batch: Batch, settings: GRPO) -> Iterator[Batch]:
    """The batch in pieces of ``microbatch`` steps."""
    for rows in torch.arange(len(batch.weight), device=batch.weight.device).split(settings.microbatch):
        yield Batch(**{field.name: getattr(batch, field.name)[rows] for field in fields(Batch)})


def loss_of(policy: LearnedPolicy, batch: Batch, settings: GRPO) -> ClippedLoss:
    """The clipped loss of these steps under the policy as it is now."""
    log_prob, _ = policy.evaluate(batch.observation, batch.draw)
    if settings.experts:
        log_prob = torch.where(batch.expert, mixture(log_prob, settings), log_prob)
    return clipped_loss(log_prob, batch.old_log_prob, batch.advantage, batch.weight, settings.clip)


# -------------------------------------------------------------------------------------------- the loop


class Learner:
    """All that changes in training: weights, their running average, optimizer."""

    def __init__(self, setting: Setting, settings: GRPO) -> None:
        self.network = setting.policy.network
        self.average = copy.deepcopy(self.network)
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.rate, betas=settings.betas, weight_decay=settings.weight_decay
        )
        self.update = 0

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Moves the running average; its decay grows from 0, so that the start does not linger."""
        decay = min(decay, (1 + self.update) / (10 + self.update))
        for mine, theirs in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay if decay else 1.0)

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """What a checkpoint holds."""
        return {"network": self.network, "average": self.average, "optimizer": self.optimizer}


def train_grpo(settings: GRPO, folder: Path, resume: bool = False, stop_after: int | None = None) -> Path:
    """Trains a policy; writes ``best`` (by ``Setting.rank``), ``last``, logs and a checkpoint into the folder.

    Args:
        settings: what to train.
        folder: the run's folder.
        resume: continue the run that is there; the result is the same as if it had never stopped.
        stop_after: stop after this update as a kill would (for tests).

    Returns:
        The folder, which ``load_policy`` takes.

    Raises:
        UsageError: settings that do not work, or nothing to resume.
    """
    setting = Setting(settings)
    if settings.experts or settings.imitation:
        check_expert(setting, settings)
    run = Run(folder, settings, resume)
    learner, keeper = Learner(setting, settings), Keeper(setting, settings, folder)
    if resume:
        info = run.load(learner.parts())
        learner.update = info["update"]
        keeper.restore(info)
    else:
        imitate(setting, settings)
        learner.average.load_state_dict(learner.network.state_dict())
        save(run, learner, keeper)
    log = run.logger(learner.update)
    try:
        with progress_bar() as bar:
            shown = bar.add_task("grpo", total=settings.updates, completed=learner.update, figures="")
            while learner.update < settings.updates and learner.update != stop_after:
                figures = train_once(setting, learner, settings, log)
                if is_due(learner.update, settings.evaluate_every, settings.updates):
                    figures = f"{figures} | validation {keeper(learner.average, learner.update, log)}"
                log.dump(learner.update)
                if is_due(learner.update, settings.save_every, settings.updates):
                    save(run, learner, keeper)
                bar.update(shown, completed=learner.update, figures=figures)
    finally:
        log.close()
    return folder


def save(run: Run, learner: Learner, keeper: Keeper) -> None:
    """Writes a checkpoint."""
    run.save(learner.parts(), {"update": learner.update, **keeper.state()})


def train_once(setting: Setting, learner: Learner, settings: GRPO, log: Logger) -> str:
    """One update: rollouts, then gradient steps. Returns the figures for the progress bar."""
    began = time.perf_counter()
    rate = learning_rate(settings, learner.update)
    for group in learner.optimizer.param_groups:
        group["lr"] = rate
    batch = collect(setting, settings, learner.update, log)
    learn(setting.policy, learner.optimizer, batch, settings, log)
    learner.update += 1
    learner.follow(settings.averaging)
    log.record("train/rate", rate)
    log.record("time/update", learner.update)
    log.record("time/update_seconds", time.perf_counter() - began)
    seen = log.name_to_value
    return f"accuracy {seen['rollout/accuracy']:.0%} NFE {seen['rollout/nfe']:.1f}"
