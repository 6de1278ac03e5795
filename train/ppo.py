"""PPO for unmasking policies: Stable-Baselines3's own ``PPO``, on our environment and policy.

The algorithm is not ours and not written here. What is here are its settings, validation and checkpoints.
Everything random follows from (seed, update), and rows start anew at a checkpoint, so that a resumed run continues
bit for bit.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress, TaskID
from stable_baselines3 import PPO as StablePPO
from stable_baselines3.common.callbacks import BaseCallback

from dllm_env.env import EnvConfig
from dllm_env.errors import UsageError
from dllm_env.random import derive_key
from dllm_env.train.expert import check_expert, imitate
from dllm_env.train.keeper import Keeper
from dllm_env.train.run import Run, is_due, progress_bar
from dllm_env.train.sb3 import UnmaskPolicy, UnmaskVecEnv
from dllm_env.train.setting import PolicyTraining, Setting, learning_rate
from dllm_env.vector_env import UnmaskVectorEnv


@dataclass(frozen=True)
class PPO(PolicyTraining):
    """Settings of ``dllm-env train ppo``; the defaults suit the bundled denoiser."""

    alpha: float = 1.5
    """Weight of speed in the reward; more than in GRPO, whose groups compare right answers with each other."""
    updates: int = 50
    """Number of policy updates."""
    rate: float = 1e-3
    """Peak learning rate of Adam; linear warm-up, then cosine to 0."""
    evaluate_every: int = 10
    """Updates between evaluations; 0 evaluates at the end only."""
    imitation_target: float = 1.1
    """Imitate no longer once the policy itself is right so often, as a share of the expert's accuracy."""
    nfe_budget: float = 0.245
    """Share of L: evaluations whose mean NFE is over it become ``best`` only while none is within it."""
    rows: int = 128
    """Environments that play at the same time."""
    steps: int = 32
    """Steps of each environment per update."""
    minibatch: int = 512
    """Steps per gradient step."""
    epochs: int = 2
    """Passes over the steps of an update."""
    clip: float = 0.2
    """ε of the probability ratio."""
    trust_region: float = 0.1
    """Target KL divergence of an update, in nats a step: its epochs end beyond 1.5 times this; 0 for no limit."""
    discount: float = 1.0
    """γ; 1 because the reward itself counts evaluations."""
    trace: float = 0.95
    """λ of generalised advantage estimation."""
    entropy_weight: float = 0.0
    """Weight of the entropy bonus."""
    value_weight: float = 0.5
    """Weight of the value loss."""
    gradient_norm: float = 0.5
    """Gradients are clipped to this norm."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("rows", "steps", "minibatch", "epochs"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.rows * self.steps < 2:
            raise UsageError("rows times steps must be at least 2")
        if not (self.clip > 0 and self.gradient_norm > 0):
            raise UsageError("clip and gradient_norm must be above 0")
        if not self.trust_region >= 0:
            raise UsageError(f"trust_region must be at least 0, got {self.trust_region}")
        if not (0 < self.discount <= 1 and 0 <= self.trace <= 1):
            raise UsageError("discount must be in (0, 1] and trace in [0, 1]")


def make_algorithm(setting: Setting, settings: PPO) -> StablePPO:
    """Stable-Baselines3's PPO with our environment and policy."""

    def rate(remaining: float) -> float:
        """At the update whose rollout has just ended."""
        return learning_rate(settings, max(0, round((1 - remaining) * settings.updates) - 1))

    return StablePPO(
        UnmaskPolicy,
        UnmaskVecEnv(UnmaskVectorEnv(settings.rows, environment(setting, settings))),
        learning_rate=rate,
        n_steps=settings.steps,
        batch_size=min(settings.minibatch, settings.rows * settings.steps),
        n_epochs=settings.epochs,
        gamma=settings.discount,
        gae_lambda=settings.trace,
        clip_range=settings.clip,
        target_kl=settings.trust_region or None,
        ent_coef=settings.entropy_weight,
        vf_coef=settings.value_weight,
        max_grad_norm=settings.gradient_norm,
        policy_kwargs={
            "network": settings.network,
            "head": setting.policy.head,
            "width": settings.width,
            "attention_heads": settings.attention_heads,
            "bias": settings.bias,
            "seed": settings.seed,
        },
        device=setting.denoiser.device,
    )


def environment(setting: Setting, settings: PPO) -> EnvConfig:
    """The environment that the settings describe."""
    return EnvConfig(
        **asdict(setting.rules),
        denoiser=setting.denoiser,
        task=setting.task,
        seed=settings.seed,
        alpha=settings.alpha,
        reward=settings.reward,
        context=settings.context,
        top=settings.top,
        extras=("hidden",) if setting.policy.extras.hidden else (),
    )


class Supervisor(BaseCallback):
    """Validates, logs and saves between the updates, and makes everything random follow from (seed, update)."""

    def __init__(
        self, run: Run, keeper: Keeper, settings: PPO, shown: tuple[Progress, TaskID], stop_after: int | None
    ) -> None:
        super().__init__()
        self.run, self.keeper, self.settings = run, keeper, settings
        self.bar, self.task = shown
        self.stop_after = stop_after
        self.began = time.perf_counter()
        self.first = 0
        self.ended: list[dict[str, float]] = []

    @property
    def update(self) -> int:
        """Updates made."""
        return self.num_timesteps // (self.settings.rows * self.settings.steps)

    def _policy(self) -> UnmaskPolicy:
        assert isinstance(self.model.policy, UnmaskPolicy)
        return self.model.policy

    def _on_training_start(self) -> None:
        self.num_timesteps = self.model.num_timesteps
        self.first = self.update
        if self.update == 0:
            self.save()

    def _on_rollout_start(self) -> None:
        if self.update > self.first:
            self.look_back()
        settings = self.settings
        seed = derive_key("ppo", settings.seed, self.update) % (1 << 31)
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002  Stable-Baselines3 shuffles minibatches with numpy's global generator
        if self.update % settings.save_every == 0:
            assert isinstance(self.training_env, UnmaskVecEnv)
            self.training_env.seed(seed)
            self.model._last_obs = self.training_env.reset()
            self.model._last_episode_starts = np.ones(settings.rows, dtype=bool)

    def look_back(self) -> None:
        """After an update: validation and checkpoint where they are due."""
        settings, log, figures = self.settings, self.logger, ""
        if self.ended:
            mean = {name: sum(row[name] for row in self.ended) / len(self.ended) for name in self.ended[0]}
            for name, value in mean.items():
                log.record(f"rollout/{name}", value)
            figures = f"accuracy {mean['accuracy']:.0%} NFE {mean['nfe']:.1f}"
            self.ended = []
        log.record("time/update", self.update)
        log.record("time/update_seconds", time.perf_counter() - self.began)
        if is_due(self.update, settings.evaluate_every, settings.updates):
            figures += f" | validation {self.keeper(self._policy().network, self.update, log)}"
        log.dump(self.update)
        if is_due(self.update, settings.save_every, settings.updates):
            self.save()
        self.bar.update(self.task, completed=self.update, figures=figures)
        self.began = time.perf_counter()

    def save(self) -> None:
        """Writes a checkpoint."""
        info = {"update": self.update, "epochs": self.model._n_updates, **self.keeper.state()}
        self.run.save(parts(self._policy()), info)

    def _on_step(self) -> bool:
        for row in self.locals["dones"].nonzero()[0]:
            info = self.locals["infos"][row]
            reward = float(self.locals["rewards"][row])
            figures = {"reward": reward, "accuracy": info["correct"], "nfe": info["nfe"], "steps": info["step"]}
            self.ended.append(figures)
        per_update = self.settings.rows * self.settings.steps
        return self.stop_after is None or self.num_timesteps <= self.stop_after * per_update

    def _on_training_end(self) -> None:
        if self.stop_after is None and self.update > self.first:
            self.look_back()


def parts(policy: UnmaskPolicy) -> dict[str, Any]:
    """What a checkpoint holds."""
    return {"policy": policy, "optimizer": policy.optimizer}


def train_ppo(settings: PPO, folder: Path, resume: bool = False, stop_after: int | None = None) -> Path:
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
    if settings.imitation:
        check_expert(setting, settings)
    algorithm = make_algorithm(setting, settings)
    assert isinstance(algorithm.policy, UnmaskPolicy)
    run = Run(folder, settings, resume)
    keeper, update = Keeper(setting, settings, folder), 0
    if resume:
        info = run.load(parts(algorithm.policy))
        update = info["update"]
        algorithm._n_updates = info.get("epochs", 0)  # what Stable-Baselines3 logs as train/n_updates
        keeper.restore(info)
    else:
        imitate(setting, settings)
        algorithm.policy.network.load_state_dict(setting.policy.network.state_dict())
    per_update = settings.rows * settings.steps
    algorithm.num_timesteps = update * per_update
    log = run.logger(update)
    algorithm.set_logger(log)
    try:
        with progress_bar() as bar:
            shown = bar.add_task("ppo", total=settings.updates, completed=update, figures="")
            supervisor = Supervisor(run, keeper, settings, (bar, shown), stop_after)
            left = (settings.updates - update) * per_update
            algorithm.learn(left, supervisor, log_interval=settings.updates + 1, reset_num_timesteps=False)
    finally:
        log.close()
    return folder
