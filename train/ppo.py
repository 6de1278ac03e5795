"""PPO for unmasking policies: Stable-Baselines3's own ``PPO``, on our environment and policy.

The algorithm is not ours and not written here. What is here are its settings, validation and checkpoints.
Everything random follows from (seed, update), and rows start anew at a checkpoint, so that a resumed run continues
bit for bit.
"""

from __future__ import annotations

import copy
import time
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, TaskID
from stable_baselines3 import PPO as StablePPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback

from dllm_env.denoisers.base import Extras
from dllm_env.env import EXTRAS, EnvConfig
from dllm_env.errors import UsageError
from dllm_env.locks import locked_for_all
from dllm_env.progress import Bar
from dllm_env.random import derive_key
from dllm_env.reading import check_value
from dllm_env.train.callbacks import as_callback
from dllm_env.train.config import (
    RATE,
    ROWS,
    ImitationConfig,
    PolicyTraining,
    RewardConfig,
    ValidationConfig,
    above_zero,
    at_least,
    learning_rate,
)
from dllm_env.train.run import Run, is_due
from dllm_env.train.sb3 import UnmaskPolicy, UnmaskVecEnv
from dllm_env.train.setup import Setup, make_setup
from dllm_env.train.start import check_start, imitate
from dllm_env.train.validation import Validator
from dllm_env.vector_env import UnmaskVectorEnv
from dllm_env.world import this_world


@dataclass(frozen=True)
class PPO(PolicyTraining):
    """Settings of ``dllm-env train ppo``; the defaults suit the bundled denoiser."""

    updates: int = 50
    """Number of policy updates."""
    num_envs: int = 128
    """Environments that play at the same time."""
    n_steps: int = 32
    """Steps of each environment per update."""
    minibatch_size: int = 512
    """Steps per gradient step."""
    n_epochs: int = 2
    """Passes over the steps of an update."""
    clip_range: float = 0.2
    """ε of the probability ratio."""
    target_kl: float = 0.1
    """Target KL divergence of an update, in nats a step: its epochs end beyond 1.5 times this; 0 for no limit."""
    gamma: float = 1.0
    """Discount; 1 because the reward itself counts evaluations."""
    gae_lambda: float = 0.95
    """λ of generalised advantage estimation."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    # More weight of speed than in GRPO, whose groups compare right answers with each other.
    rewards: RewardConfig = field(default_factory=lambda: RewardConfig(alpha=1.5))
    # At that α a portfolio imitates mostly the oracle, and the policy is seldom right when PPO begins.
    imitation: ImitationConfig = field(
        default_factory=lambda: ImitationConfig("dagger", imitation_problems=256, imitation_batch_size=512)
    )
    validation: ValidationConfig = field(
        default_factory=lambda: ValidationConfig(evaluate_every=10, nfe_budget=0.245)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(1, self, "num_envs", "n_steps", "minibatch_size", "n_epochs", most=ROWS)
        at_least(0, self, "target_kl")
        at_least(0, self, "ent_coef", "vf_coef", most=RATE)
        above_zero(self, "clip_range", most=RATE)
        if self.num_envs * self.n_steps < 2:
            raise UsageError("num_envs times n_steps must be at least 2")
        if not (0 < self.gamma <= 1 and 0 <= self.gae_lambda <= 1):
            raise UsageError("gamma must be in (0, 1] and gae_lambda in [0, 1]")
        if self.rewards.deadlines:
            raise UsageError(
                "PPO's environments have no deadlines of their own; leave them away, or use train grpo"
            )


def make_algorithm(setup: Setup, settings: PPO) -> StablePPO:
    """Stable-Baselines3's PPO with our environment and policy; several processes predict its rows together."""

    def rate(remaining: float) -> float:
        """At the update whose rollout has just ended."""
        return learning_rate(settings, max(0, round((1 - remaining) * settings.updates) - 1))

    rows = UnmaskVectorEnv(settings.num_envs, environment(setup, settings))
    rows.game.dynamics.share_predictions(setup.world)
    return StablePPO(
        UnmaskPolicy,
        UnmaskVecEnv(rows),
        learning_rate=rate,
        n_steps=settings.n_steps,
        batch_size=min(settings.minibatch_size, settings.num_envs * settings.n_steps),
        n_epochs=settings.n_epochs,
        gamma=settings.gamma,
        gae_lambda=settings.gae_lambda,
        clip_range=settings.clip_range,
        target_kl=settings.target_kl or None,
        ent_coef=settings.ent_coef,
        vf_coef=settings.vf_coef,
        max_grad_norm=settings.optimizer.max_grad_norm,
        policy_kwargs={
            "network": settings.policy.network,
            "head": setup.policy.head,
            "width": settings.policy.width,
            "attention_heads": settings.policy.attention_heads,
            "bias": settings.policy.bias,
            "sight": settings.policy.sight,
            "seed": settings.seed,
        },
        device=setup.denoiser.device,
    )


def environment(setup: Setup, settings: PPO) -> EnvConfig:
    """The environment that the settings describe."""
    rewards = settings.rewards
    return EnvConfig(
        **asdict(setup.rules),
        denoiser=setup.denoiser,
        task=setup.task,
        seed=settings.seed,
        alpha=rewards.alpha,
        reward=rewards.reward,
        reward_weights=rewards.reward_weights,
        cost=rewards.cost,
        preferences=rewards.preferences,
        max_prompt_length=settings.max_prompt_length,
        context=settings.context,
        top=settings.top,
        extras=_shown(setup.policy.extras),
    )


def _shown(extras: Extras) -> list[str]:
    """The optional features that a network reads, as the environment shows them.

    Raises:
        UsageError: one that it cannot show.
    """
    wanted = [feature.name for feature in fields(extras) if getattr(extras, feature.name)]
    for name in wanted:
        if name not in EXTRAS:
            raise UsageError(f"an environment, and so PPO, cannot show {name}, which the network reads; use GRPO")
    return [*wanted, "ends"] if "token" in wanted else wanted


class Supervisor(BaseCallback):
    """Validates, logs and saves between the updates, and makes everything random follow from (seed, update).

    Args:
        run, validator, settings: of the training.
        shown: its progress bar.
        callback: the user's, which is told all that happens.
        stop_after: stop after this update as a kill would.
    """

    def __init__(
        self,
        run: Run,
        validator: Validator,
        settings: PPO,
        shown: tuple[Progress, TaskID],
        callback: BaseCallback,
        stop_after: int | None = None,
    ) -> None:
        super().__init__()
        self.run, self.validator, self.settings, self.callback = run, validator, settings, callback
        self.bar, self.task = shown
        self.stop_after = stop_after
        self.began = time.perf_counter()
        self.update, self.first, self.skipped = 0, 0, 0
        self.evaluations, self.left_out, self.calls_before = 0, 0, 0
        self.drawn, self.stopped = False, False
        self.before: dict[str, Any] = {}
        self.ended: list[dict[str, float]] = []

    def _init_callback(self) -> None:
        self.callback.init_callback(self.model)

    def update_child_locals(self, locals_: dict[str, Any]) -> None:
        """The user's callback sees what this one does."""
        self.callback.update_locals(locals_)

    def _policy(self) -> UnmaskPolicy:
        assert isinstance(self.model.policy, UnmaskPolicy)
        return self.model.policy

    def _calls(self) -> int:
        """How often the denoiser was called so far."""
        assert isinstance(self.training_env, UnmaskVecEnv)
        return self.training_env.envs.denoiser_calls

    def _on_training_start(self) -> None:
        self.update = self.first = self.model.num_timesteps // (self.settings.num_envs * self.settings.n_steps)
        if self.update == 0:
            self.save()
        self.callback.on_training_start(self.locals, self.globals)

    def _on_rollout_start(self) -> None:
        self.look_back()
        settings, self.calls_before = self.settings, self._calls()
        seed = derive_key("ppo", settings.seed, self.update) % (1 << 31)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  Stable-Baselines3 shuffles minibatches with numpy's global generator
        if self.update % settings.save_every == 0:
            assert isinstance(self.training_env, UnmaskVecEnv)
            self.training_env.seed(seed)
            self.model._last_obs = self.training_env.reset()
            self.model._last_episode_starts = np.ones(settings.num_envs, dtype=bool)
        self.callback.on_rollout_start()

    def _on_step(self) -> bool:
        for row in self.locals["dones"].nonzero()[0]:
            info = self.locals["infos"][row]
            figures = {
                "rollout/reward": float(self.locals["rewards"][row]),
                "rollout/accuracy": info["correct"],
                "rollout/nfe": info["nfe"],
                "rollout/steps": info["step"],
            }
            earned = {name: value for name, value in info.items() if name.startswith("rewards/")}
            some = {f"rollout/{name}": info[name] for name in ("alpha", "edits") if name in info}
            self.ended.append(figures | some | earned)
            self.left_out += int(info.get("left_out", 0))
        if self.validator.setup.world.told(not self.callback.on_step()):
            self.stopped = True
        per_update = self.settings.num_envs * self.settings.n_steps
        killed = self.stop_after is not None and self.num_timesteps > self.stop_after * per_update
        return not (self.stopped or killed)

    def _on_rollout_end(self) -> None:
        self.callback.on_rollout_end()
        self.drawn = True
        self.before = {name: copy.deepcopy(part.state_dict()) for name, part in parts(self._policy()).items()}

    def look_back(self) -> None:
        """After an update: validation and checkpoint where they are due."""
        if not self.drawn:
            return
        self.drawn, self.update = False, self.update + 1
        self.keep_finite()
        settings, log, figures = self.settings, self.logger, self._log_rollouts()
        log.record("time/update", self.update)
        log.record("time/update_seconds", time.perf_counter() - self.began)
        if is_due(self.update, settings.validation.evaluate_every, settings.updates):
            figures += f" | validation {self.validate()}"
        log.dump(self.update)
        if is_due(self.update, settings.save_every, settings.updates):
            self.save()
        self.bar.update(self.task, completed=self.update, figures=figures)
        self.began = time.perf_counter()

    def _log_rollouts(self) -> str:
        """Logs the episodes that ended in the update, and what was asked for them; the figures for the bar."""
        log, figures = self.logger, ""
        if self.ended:
            mean = {name: sum(row[name] for row in self.ended) / len(self.ended) for name in self.ended[0]}
            for name, value in mean.items():
                log.record(name, value)
            figures = f"accuracy {mean['rollout/accuracy']:.0%} NFE {mean['rollout/nfe']:.1f}"
            log.record("rollout/reward_deviation", float(np.std([row["rollout/reward"] for row in self.ended])))
            self.evaluations += int(sum(row["rollout/nfe"] for row in self.ended))
            self.ended = []
        log.record("rollout/denoiser_evaluations", self.evaluations)
        log.record("time/denoiser_calls", self._calls() - self.calls_before)
        if self.settings.max_prompt_length:
            log.record("rollout/long_prompts_left_out", self.left_out)
        if not self.settings.rewards.preferences:
            log.record("rollout/alpha", self.settings.rewards.alpha)
        return figures

    def validate(self) -> str:
        """Evaluates the policy, and keeps it with its critic."""
        policy = self._policy()
        return self.validator(policy.network, self.update, self.logger, policy.value)

    def keep_finite(self) -> None:
        """Takes an update back that has made weights infinite or undefined, as a ratio that overflows does."""
        skipped = not all(parameter.isfinite().all() for parameter in self._policy().parameters())
        if skipped:
            for name, part in parts(self._policy()).items():
                part.load_state_dict(self.before[name])
        self.logger.record("train/skipped", int(skipped))

    def save(self) -> None:
        """Writes a checkpoint."""
        info = {"update": self.update, "epochs": self.model._n_updates, **self.validator.state()}
        info |= {"evaluations": self.evaluations, "left_out": self.left_out}
        self.run.save(parts(self._policy()), info)

    def _on_training_end(self) -> None:
        if self.stop_after is None:
            self.look_back()
        if self.stopped and self.validator.update != self.update:
            self.validate()
            self.logger.dump(self.update)
        self.callback.on_training_end()


def parts(policy: UnmaskPolicy) -> dict[str, Any]:
    """What a checkpoint holds."""
    return {"policy": policy, "optimizer": policy.optimizer}


def train_ppo(
    settings: PPO,
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
        callback: of Stable-Baselines3, one, several, or a function. When one of them ends the training, the policy
            is evaluated and saved, and ``resume`` goes on from the last checkpoint.

    Returns:
        The folder, which ``load_policy`` takes.

    Raises:
        UsageError: settings that do not work, nothing to resume, or somebody else is writing into the folder.
    """
    world = this_world()
    with locked_for_all(folder, world):
        return _train(settings, folder, resume, stop_after, callback if world.first else None)


def _train(settings: PPO, folder: Path, resume: bool, stop_after: int | None, callback: MaybeCallback) -> Path:
    setup = make_setup(settings)
    check_start(setup, settings)
    algorithm, validator = make_algorithm(setup, settings), Validator(setup, settings, folder)
    assert isinstance(algorithm.policy, UnmaskPolicy)
    run, update = Run(folder, settings, resume, writes=setup.world.first), 0
    counted = {"evaluations": 0, "left_out": 0}
    setup.world.wait()
    if resume:
        batches = -(-settings.num_envs * settings.n_steps // algorithm.batch_size)
        info = run.load(parts(algorithm.policy), settings.n_epochs * batches, settings.updates)
        update = info["update"]
        check_value(info.get("epochs", 0), int, "the checkpoint's epochs")
        # What Stable-Baselines3 logs as train/n_updates; older checkpoints do not have it, but about so many.
        algorithm._n_updates = info.get("epochs", update * settings.n_epochs)
        counted = {name: info.get(name, 0) for name in counted}  # older checkpoints did not count
        for name, value in counted.items():
            check_value(value, int, f"the checkpoint's {name}")
        validator.restore(info)
    else:
        imitate(setup, settings)
        algorithm.policy.network.load_state_dict(setup.policy.network.state_dict())
    per_update = settings.num_envs * settings.n_steps
    algorithm.num_timesteps = update * per_update
    log = run.logger(update)
    algorithm.set_logger(log)
    try:
        with Bar() as bar:
            shown = bar.add_task("ppo", total=settings.updates, completed=update)
            supervisor = Supervisor(run, validator, settings, (bar, shown), as_callback(callback), stop_after)
            supervisor.evaluations, supervisor.left_out = counted["evaluations"], counted["left_out"]
            left = (settings.updates - update) * per_update
            algorithm.learn(left, supervisor, log_interval=settings.updates + 1, reset_num_timesteps=False)
            if supervisor.update == settings.updates or supervisor.stopped:
                validator.end()
    finally:
        log.close()
    return folder
