"""Callbacks of Stable-Baselines3 in GRPO: any ``BaseCallback``, ``CallbackList`` or function works as it is.

GRPO draws whole trajectories, so its "step" is an update. Per update, in this order: ``_on_rollout_start``; the
rollout; ``_on_rollout_end``; the gradient steps; ``_on_step``, which ends the training by returning False. The
policy is then evaluated and saved as at the end, and ``--resume`` goes on from there.

``self.model`` is the ``Learner``; ``self.logger`` writes into the same files as the training, one row an update;
``self.num_timesteps`` counts steps of trajectories, ``self.n_calls`` updates; ``self.locals`` has ``setup``,
``settings``, ``folder`` and, from the first rollout on, ``update``, ``problems``, ``attempt``, ``rewards``,
``advantages`` and ``expert``.

What needs Stable-Baselines3's own model or environment, ``EvalCallback`` for one, does not work; validation is
built in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import nn

from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import Scorer
from dllm_env.reading import check_value

COUNTS = ("num_timesteps", "evaluations")
"""Of a ``Learner``, what its checkpoint has besides the update."""


class Learner:
    """All that changes in GRPO: weights, their running average, optimizer; what callbacks see as ``self.model``.

    Attributes:
        policy: as it is trained.
        average: the running average of its weights, which is evaluated and saved.
        optimizer: of the weights.
        update: updates made.
        num_timesteps: steps of all trajectories so far.
        evaluations: of the denoiser, of all trajectories so far.
        logger: of the run.
    """

    logger: Logger

    def __init__(self, policy: LearnedPolicy, average: Scorer, optimizer: torch.optim.Optimizer) -> None:
        self.policy, self.average, self.optimizer = policy, average, optimizer
        self.update = 0
        self.num_timesteps = self.evaluations = 0

    @property
    def network(self) -> Scorer:
        """The policy's."""
        return self.policy.network

    @torch.no_grad()
    def follow(self, decay: float) -> None:
        """Moves the running average; its decay grows from 0, so that the start does not linger."""
        decay = min(decay, (1 + self.update) / (10 + self.update))
        for mine, theirs in zip(self.average.parameters(), self.network.parameters(), strict=True):
            mine.lerp_(theirs, 1 - decay if decay else 1.0)

    def parts(self) -> dict[str, nn.Module | torch.optim.Optimizer]:
        """What a checkpoint holds."""
        return {"network": self.network, "average": self.average, "optimizer": self.optimizer}

    def restored(self) -> None:
        """The parts have been loaded."""

    def state(self) -> dict[str, int]:
        """What a checkpoint says besides."""
        counts = {name: getattr(self, name) for name in COUNTS}
        return {"update": self.update, **counts}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes over what ``state`` gave."""
        self.update = state["update"]
        for name in COUNTS:
            value = state.get(name, 0)  # runs of version 0.1 did not count
            check_value(value, int, f"the checkpoint's {name}")
            setattr(self, name, value)

    def save(self, path: str | Path) -> None:
        """Saves the averaged policy into a folder that ``load_policy`` takes; ``CheckpointCallback`` calls this."""
        policy = self.policy
        kept = LearnedPolicy(self.average, policy.head, policy.context, training=policy.training)
        kept.save_pretrained(Path(path).with_suffix(""))

    def get_env(self) -> None:
        """There is no environment of Stable-Baselines3."""
        return None


class Callbacks:
    """Tells callbacks what happens.

    Args:
        callback: one, a list, or a function of ``locals`` and ``globals``; None for none.
        learner: their ``self.model``.

    Attributes:
        stopped: one of them has ended the training.
    """

    def __init__(self, callback: MaybeCallback, learner: Learner) -> None:
        self.callback = as_callback(callback)
        self.callback.init_callback(learner)  # type: ignore[arg-type]
        self.learner = learner
        self.stopped = False

    def start(self, known: dict[str, Any]) -> None:
        """The training begins."""
        self.callback.on_training_start({"self": self.learner, **known}, {})

    def rollout_start(self) -> None:
        """An update begins."""
        self.callback.on_rollout_start()

    def rollout_end(self, drawn: Mapping[str, Any]) -> None:
        """An update's trajectories are drawn; these are ``locals`` about them."""
        self.callback.update_locals({"update": self.learner.update, **drawn})
        self.callback.on_rollout_end()

    def step(self) -> None:
        """An update is made."""
        self.stopped = not self.callback.on_step()

    def end(self) -> None:
        """The training is over."""
        self.callback.on_training_end()


def as_callback(callback: MaybeCallback) -> BaseCallback:
    """One callback, whatever was given for it."""
    if callback is None:
        return CallbackList([])
    if isinstance(callback, list):
        return CallbackList(callback)
    return callback if isinstance(callback, BaseCallback) else ConvertCallback(callback)
