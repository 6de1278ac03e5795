"""The environment for Gymnasium, N rows at a time, with one denoiser call per step for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from dllm_env.dynamics import State
from dllm_env.env import (
    CHANCE,
    RENDER_MODES,
    Arrays,
    Chosen,
    EnvConfig,
    Episode,
    Game,
    StepResult,
    problem_index,
    reset_options,
)
from dllm_env.errors import LogitsError, UsageError


class UnmaskVectorEnv(VectorEnv[Arrays, np.ndarray, np.ndarray]):
    """N rows of ``UnmaskEnv``. Row i, reset with a seed, is the single environment reset with that seed.

    A row that ends starts anew in the same step (``AutoresetMode.SAME_STEP``): its observation and info are the
    new episode's, those of the end are in ``infos["final_obs"]`` and ``infos["final_info"]``.

    ``denoiser_calls`` is how often the denoiser was called so far, each time for all rows that needed it.

    Args:
        num_envs: N.
        config, render_mode, settings: as for ``UnmaskEnv``.

    Raises:
        UsageError: settings that cannot work.

    Examples:
        >>> envs = UnmaskVectorEnv(4, denoiser="tiny", task="trace")
        >>> observations, infos = envs.reset(seed=0)
        >>> observations["masked"].shape
        (4, 40)
        >>> observations, rewards, terminated, truncated, infos = envs.step(observations["selectable"])
        >>> terminated.all().item()
        True
    """

    metadata = {  # noqa: RUF012
        "render_modes": list(RENDER_MODES),
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }

    def __init__(
        self, num_envs: int = 1, config: EnvConfig | None = None, *, render_mode: str | None = None, **settings: Any
    ) -> None:
        if isinstance(num_envs, bool) or not isinstance(num_envs, (int, np.integer)) or num_envs < 1:
            raise UsageError(f"num_envs must be a whole number of at least 1, got {num_envs!r}")
        self.game = Game(EnvConfig.build(config, settings), render_mode)
        self.num_envs = int(num_envs)
        self.render_mode = render_mode
        self.denoiser_calls = 0
        self.single_observation_space = self.game.observation_space
        self.single_action_space = self.game.action_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._generators: list[np.random.Generator | None] = [None] * self.num_envs
        self._seeds: list[int] = [-1] * self.num_envs
        self._episodes: list[Episode] = []
        self._state: State | None = None

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[Arrays, dict[str, Any]]:
        """New episodes in all rows.

        Args:
            seed: one per row; or an int, row i then gets ``seed + i``; or None, each row's generator goes on.
            options: ``{"problem": …, "alpha": …}``, one for all or one for each row, chooses problems and α.

        Raises:
            UsageError: as many seeds or problems as rows are needed.
        """
        problem, alpha = reset_options(options)
        each = zip(self._per_row(problem, "problem"), self._per_row(alpha, "alpha"), strict=True)
        chosen = [Chosen(problem_index(one), asked) for one, asked in each]
        if isinstance(seed, (int, np.integer)):
            seed = [int(seed) + row for row in range(self.num_envs)]
        for row, row_seed in enumerate(self._per_row(seed, "seed")):
            if row_seed is not None or self._generators[row] is None:
                self._generators[row], self._seeds[row] = seeding.np_random(row_seed)
        self._episodes = [self._draw(row, one) for row, one in enumerate(chosen)]
        self._state = self.game.begin(self._episodes)
        self._predict(self._state)
        if self.render_mode == "human":
            self.render()
        return self.game.observe(self._state), self._infos(self.game.infos(self._state, self._episodes))

    def _per_row(self, value: Any, name: str) -> list[Any]:
        if isinstance(value, (list, tuple, np.ndarray)):
            if len(value) != self.num_envs:
                raise UsageError(
                    f"{name} must be one value or one for each of {self.num_envs} rows, got {len(value)}"
                )
            return list(value)
        return [value] * self.num_envs

    def _draw(self, row: int, chosen: Chosen = CHANCE) -> Episode:
        generator = self._generators[row]
        assert generator is not None, "reset gives every row a generator"
        return self.game.draw(generator, chosen)

    def _predict(self, state: State) -> None:
        self.denoiser_calls += self.game.dynamics.predict(state)

    def step(self, actions: np.ndarray) -> tuple[Arrays, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Takes actions (N, W); rows that end start anew."""
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset before step")
        game = self.game
        game.dynamics.take(self._state, game.actions(actions, self.num_envs))
        result = game.judge(self._state, self._episodes)
        final = self._renew(result)
        if self.render_mode == "human":
            self.render()
        infos = self._infos(game.infos(self._state, self._episodes), final, result)
        return game.observe(self._state), result.rewards, result.terminated, result.truncated, infos

    def _renew(self, result: StepResult) -> Arrays:
        """Replaces ended rows and predicts, in one call, for all rows and for the ended rows' final observations.

        Returns the final observations, in the order of ``result.infos``.
        """
        assert self._state is not None
        game, count, ended = self.game, self.num_envs, list(result.infos)
        if not ended:
            self._predict(self._state)
            return {}
        device = self._state.step.device
        # The ended rows once more behind all rows: they are only looked at, so what this costs is not in any nfe.
        rows = self._state[torch.tensor([*range(count), *ended], device=device)]
        for row in ended:
            self._episodes[row] = self._draw(row)
        rows.write(torch.tensor(ended, device=device), game.begin([self._episodes[row] for row in ended]))
        rows.stale &= ~game.dynamics.terminated(rows)
        try:
            self._predict(rows)
        except LogitsError as error:
            raise error.at([[*range(count), *ended][row] for row in error.rows]) from None
        everything = torch.arange(len(rows), device=device)
        self._state = rows[everything[:count]]
        return game.observe(rows[everything[count:]])

    def _infos(
        self, current: list[dict[str, Any]], final: Arrays | None = None, result: StepResult | None = None
    ) -> dict[str, Any]:
        """Gymnasium's form: per key an array over rows, and under ``_key`` which rows have it."""
        infos: dict[str, Any] = {}
        if final and result is not None:
            for place, (row, info) in enumerate(result.infos.items()):
                observation = {name: values[place].copy() for name, values in final.items()}
                infos = self._add_info(infos, {"final_obs": observation, "final_info": info}, row)
        for row, info in enumerate(current):
            infos = self._add_info(infos, info, row)
        return infos

    def render(self) -> tuple[str, ...] | tuple[np.ndarray, ...] | None:
        """A text or a picture per row, as ``render_mode`` says; rows that ended show their new episode."""
        if self.render_mode is None:
            gymnasium.logger.warn('nothing to render; make the environments with render_mode="ansi" or "rgb_array"')
            return None
        if self._state is None:
            raise gymnasium.error.ResetNeeded("call reset before render")
        drawn = self.game.render(self._state, self._episodes)
        return None if drawn is None else tuple(drawn)  # type: ignore[return-value]

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator | None, ...]:  # type: ignore[override]
        """The rows' generators, None before the first reset."""
        return tuple(self._generators)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The rows' seeds, −1 before the first reset."""
        return tuple(self._seeds)
