"""What Stable-Baselines3 needs to train unmasking policies with its own algorithms: an environment and a policy.

``UnmaskVecEnv`` is the vector environment, with its one denoiser call per step, as a ``VecEnv``. ``UnmaskPolicy``
is an ``ActorCriticPolicy`` made of our networks and heads; importing this module makes it known to ``PPO`` and
``A2C`` as "UnmaskPolicy".
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from dllm_env.dynamics import Observation
from dllm_env.env import Ranks, entries
from dllm_env.errors import UsageError
from dllm_env.policies.heads import Bernoulli, Head, load_head, log_prob_and_entropy
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import READ_TOKENS, USUAL_SIGHT, NetworkConfig, NetworkLike, make_network
from dllm_env.random import RowRandom, torch_generator
from dllm_env.rules import Context
from dllm_env.vector_env import UnmaskVectorEnv

Arrays = dict[str, np.ndarray]


class UnmaskVecEnv(VecEnv):
    """The vector environment as Stable-Baselines3's ``VecEnv``.

    A row that ends starts anew in the same step, with its last observation in ``terminal_observation``. An action
    is a row of ranks: 0 leaves a position as it is, 1, 2, … unmask it, or replace its token where it is editable
    (heads that draw in order score that order).

    A row that is cut off with masks left has failed, and the step it is in is part of the observation. So
    ``TimeLimit.truncated`` is false for it: no value of what might have come later is added to its reward.

    Args:
        envs: the vector environment.
    """

    def __init__(self, envs: UnmaskVectorEnv) -> None:
        self.envs = envs
        width = envs.game.dynamics.width
        super().__init__(
            envs.num_envs, envs.single_observation_space, spaces.MultiDiscrete(np.full(width, width + 1))
        )
        self.metadata = envs.metadata
        self._actions = np.zeros((envs.num_envs, width), dtype=bool)

    def reset(self) -> Arrays:
        """New episodes in all rows, from the seeds given to ``seed``, once."""
        observation, infos = self.envs.reset(seed=self._seeds)
        self.reset_infos = self._rows(infos)
        self._reset_seeds()
        self._reset_options()
        return observation

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = entries(actions, self.num_envs, self._actions.shape[1], self._actions.shape[1]) > 0

    def step_wait(self) -> tuple[Arrays, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observation, rewards, terminated, truncated, infos = self.envs.step(self._actions)
        ended = terminated | truncated
        rows = self._rows(infos)
        for row in ended.nonzero()[0]:
            final = {name: values[row] for name, values in _columns(infos["final_info"])}
            rows[row] = {**final, "terminal_observation": infos["final_obs"][row], "TimeLimit.truncated": False}
        return observation, rewards.astype(np.float32), ended, rows

    def _rows(self, infos: dict[str, Any]) -> list[dict[str, Any]]:
        """Gymnasium's arrays over rows as a dictionary per row."""
        columns = {name: values.tolist() for name, values in _columns(infos) if not name.startswith("final")}
        return [{name: values[row] for name, values in columns.items()} for row in range(self.num_envs)]

    def close(self) -> None:
        self.envs.close()

    def render(self, mode: str | None = None) -> Any:
        """With ``render_mode="rgb_array"`` one picture of all rows, as everywhere in Stable-Baselines3; with "ansi"
        the rows' texts; with "human" the texts are printed."""
        if self.render_mode in ("ansi", "human") and mode in (None, self.render_mode):
            return self.envs.render()
        return super().render(mode)

    def get_images(self) -> list[np.ndarray]:
        """The rows' pictures, with ``render_mode="rgb_array"``."""
        return list(self.envs.render() or ())  # type: ignore[arg-type]

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.envs, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        if len(list(self._get_indices(indices))) != self.num_envs:
            raise UsageError("the rows share one environment; set an attribute for all of them")
        setattr(self.envs, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise UsageError(f"the rows share one environment; call envs.{method_name} itself")

    def env_is_wrapped(self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None) -> list[bool]:
        return [False] * len(list(self._get_indices(indices)))


class _Draw(Tensor):
    """Draws of a policy, which as NumPy's arrays are ``Ranks``: single environments take no others above 1."""

    def numpy(self, *, force: bool = False) -> Ranks:
        return self.as_subclass(Tensor).numpy(force=force).view(Ranks)


def _columns(infos: dict[str, Any]) -> list[tuple[str, Any]]:
    """Gymnasium's info without its ``_name`` columns, which say which rows have a value."""
    return [(name, values) for name, values in infos.items() if not name.startswith("_")]


class UnmaskPolicy(ActorCriticPolicy):
    """Our network and head with a value head on the mean of the network's features over positions.

    Args:
        observation_space, action_space, lr_schedule: from the algorithm.
        network: name of the network, confidence or hidden, a class in a file, or a network.
        head: a head, or its name with settings (``plackett_luce:k=2``).
        width, attention_heads, bias, sight: shape of the network, see ``NetworkConfig``; by default it sees all
            that the observation has.
        seed: of the initial weights.
        more: of ``ActorCriticPolicy`` (optimizer_class, optimizer_kwargs).

    Raises:
        UsageError: spaces that are not this environment's, a network that needs hidden states where the observation
            has none, one that is not told what it would replace where an action does, a head that cannot act.
    """

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        network: NetworkLike = "confidence",
        head: str | Head = "dynamic_plackett_luce",
        width: int = 64,
        attention_heads: int = 2,
        bias: float = -1.5,
        sight: tuple[str, ...] | None = None,
        seed: int = 0,
        **more: Any,
    ) -> None:
        self.settings: dict[str, Any] = {
            "network": network,
            "head": head,
            "width": width,
            "attention_heads": attention_heads,
            "bias": bias,
            "sight": sight,
            "seed": seed,
        }
        self.sizes = _sizes(observation_space)
        shown = observation_space.spaces.keys() if isinstance(observation_space, spaces.Dict) else set()
        conditions = ("preference",) if "preference" in shown else ()
        sight = _sight(shown, sight)
        self.shape = NetworkConfig(width, attention_heads, self.sizes["top"], bias, sight, conditions)
        self.unmask_head: Head = load_head(head) if isinstance(head, str) else head
        ranked = not isinstance(self.unmask_head, Bernoulli)
        if ranked and isinstance(action_space, spaces.MultiBinary) and self.sizes["positions"] > 127:
            raise UsageError("MultiBinary actions hold ranks up to 127; use UnmaskVecEnv for longer responses")
        super().__init__(observation_space, action_space, lr_schedule, **more)

    def _build(self, lr_schedule: Schedule) -> None:
        shape, generator = self.shape, torch_generator("policy network", self.settings["seed"])
        self.network = make_network(self.settings["network"], shape, generator, self.sizes["hidden"])
        self.value = nn.Linear(self.network.config.width, 1)
        nn.init.zeros_(self.value.weight)
        nn.init.zeros_(self.value.bias)
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),
            **self.optimizer_kwargs,  # type: ignore[call-arg]
        )

    def forward(self, obs: Any, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """(B, W) draws, (B, 1) values, (B,) log-probabilities."""
        seen = self.observation(obs)
        features = self.network.features(seen)
        scores = self.network.scores(features)
        draw = self._draw(scores, seen, deterministic)
        log_prob = self.unmask_head.log_prob(scores, seen.actionable, draw)
        return draw.long().as_subclass(_Draw), self._value(features), log_prob

    def evaluate_actions(self, obs: Any, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, 1) values, (B,) log-probabilities and (B,) entropies of draws (B, W)."""
        seen = self.observation(obs)
        features = self.network.features(seen)
        scores = self.network.scores(features)
        log_prob, entropy = log_prob_and_entropy(self.unmask_head, scores, seen.actionable, actions)
        return self._value(features), log_prob, entropy

    def predict_values(self, obs: Any) -> Tensor:
        """(B, 1) values."""
        return self._value(self.network.features(self.observation(obs)))

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        seen = self.observation(observation)
        return self._draw(self.network(seen), seen, deterministic).long().as_subclass(_Draw)

    def get_distribution(self, obs: Any) -> Distribution:
        """Not there: a head is not one of Stable-Baselines3's distributions; see ``unmask_head``."""
        raise NotImplementedError("use unmask_head with the scores of network(observation(obs))")

    def _draw(self, scores: Tensor, seen: Observation, deterministic: bool) -> Tensor:
        if deterministic:
            return self.unmask_head.mode(scores, seen.actionable)
        # Stable-Baselines3 seeds torch's own generator; each row's stream starts from it.
        keys = torch.empty(len(scores), dtype=torch.int64, device=scores.device).random_()
        return self.unmask_head.sample(scores, seen.actionable, RowRandom(keys))

    def _value(self, features: Tensor) -> Tensor:
        return self.value(features.mean(1))

    def observation(self, obs: dict[str, Tensor]) -> Observation:
        """The environment's dictionary of flat arrays as the networks read it."""
        masked = obs["masked"] > 0.5
        batch, positions = masked.shape
        hidden, progress = obs.get("hidden"), obs["progress"].float()[:, 0]
        return Observation(
            confidence=obs["confidence"].float().view(batch, positions, -1),
            masked=masked,
            selectable=obs["selectable"] > 0.5,
            progress=progress,
            masked_total=masked.sum(-1),
            step=(progress * positions).round().long(),
            hidden=None if hidden is None else hidden.float().view(batch, positions, -1),
            token=obs["token"].long() if "token" in obs else None,
            ends=obs["ends"] > 0.5 if "ends" in obs else None,
            entropy=obs["entropy"].float() if "entropy" in obs else None,
            margin=obs["margin"].float() if "margin" in obs else None,
            preference=obs["preference"].float()[:, 0] if "preference" in obs else None,
            rewrite=obs["rewrite"].float() if "rewrite" in obs else None,
            editable=obs["editable"] > 0.5 if "editable" in obs else None,
        )

    def learned(self, head: Head | None = None, context: Context = "full") -> LearnedPolicy:
        """The policy without Stable-Baselines3, which ``save_pretrained`` saves and everything else takes."""
        return LearnedPolicy(self.network, head or self.unmask_head, context)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), **self.settings}


def _sizes(space: spaces.Space) -> dict[str, int]:
    """Positions W, probabilities p a position, and width of hidden states (0 for none) of an observation space."""
    parts = space.spaces if isinstance(space, spaces.Dict) else {}
    missing = {"confidence", "masked", "selectable", "progress"} - set(parts)
    if missing:
        raise UsageError(f"UnmaskPolicy needs dllm_env/Unmask-v0's observations; {sorted(missing)[0]!r} is missing")
    positions = int(np.prod(parts["masked"].shape or (0,)))
    flat = {name: int(np.prod(part.shape or (0,))) // positions for name, part in parts.items()}
    return {"positions": positions, "top": flat["confidence"], "hidden": flat.get("hidden", 0)}


def _sight(shown: Collection[str], asked: tuple[str, ...] | None) -> tuple[str, ...]:
    """What a network is told by an observation of these parts: what is asked for, or by default all that it can be.

    Raises:
        UsageError: the observation does not show it, or it is not told of what its actions may replace.
    """
    if asked is None:
        blind = set() if {"token", "ends"} <= set(shown) else READ_TOKENS
        usual = tuple(name for name in USUAL_SIGHT if name not in blind)
        return (*usual, "rewrite") if "rewrite" in shown else usual
    if "editable" in shown and "rewrite" not in asked:
        raise UsageError("actions may replace written tokens here (allow_edit): add rewrite to sight")
    if "rewrite" in asked and "rewrite" not in shown:
        raise UsageError(
            "this observation does not show rewrite; make the environment with allow_edit=True or "
            "extras=['rewrite'], or the policy without it (sight)"
        )
    return asked


for _algorithm in (PPO, A2C):
    _algorithm.policy_aliases = {**_algorithm.policy_aliases, "UnmaskPolicy": UnmaskPolicy}
