"""Outcome rewards: what a finished row earns.

A reward is a function that is called with keywords, each about N rows at once, and returns a number for each row:

    def short(*, correct, steps, length, **_):
        return correct * (1 - steps / length)

It may ask for any of

    problem   N ``Problem``s, with ``prompt`` and ``answer``
    text      N response texts, up to end-of-text
    correct   (N,) float32, the task's score; 0 for a row that was cut off
    nfe       (N,) int64, denoiser evaluations
    steps     (N,) int64, steps taken, those that unmasked nothing included
    length    L, tokens of a response
    alpha     (N,) float32, how much speed counts, where each row has its own; otherwise None

and gets what it names, or all of it with ``**_``. Several rewards are added with weights. The two of arXiv
2512.09106 are such functions.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NewType, get_args

import torch
from torch import Tensor

from dllm_env.errors import UsageError
from dllm_env.reading import check_value, shown
from dllm_env.specs import read_settings, split, typed
from dllm_env.tasks.base import Problem
from dllm_env.user_code import file_part, load_from_file, parameters

Cost = Literal["nfe", "steps"]
"""What counts as a row's cost: denoiser evaluations, or steps (arXiv 2512.09106), of which empty ones are free in
the first."""

Reward = Callable[..., Any]
"""See the module."""


LARGEST = 1e12
"""The largest weight of a reward."""


def multiplicative_reward(correct: Tensor, cost: Tensor, length: int, alpha: float | Tensor) -> Tensor:
    """r = correct · ((L − min(cost, L) + 1) / L)^α, arXiv 2512.09106.

    Args:
        correct: (B,) 0 or 1.
        cost: (B,) denoiser evaluations, or steps.
        length: response length L in tokens.
        alpha: weight of speed, of all or (B,) of each; 0 rewards correctness alone.

    Returns:
        (B,) float32.
    """
    if correct.shape != cost.shape:
        raise ValueError(f"correct {tuple(correct.shape)} and cost {tuple(cost.shape)} differ in shape")
    saved = (length - cost.clamp(max=length) + 1).float() / length
    return correct.float() * saved**alpha


def additive_reward(correct: Tensor, cost: Tensor, length: int, alpha: float | Tensor) -> Tensor:
    """r = correct − α · cost / L, the ablation of arXiv 2512.09106 (reported to collapse to one-step unmasking).

    Args, shapes and result as in ``multiplicative_reward``.
    """
    if correct.shape != cost.shape:
        raise ValueError(f"correct {tuple(correct.shape)} and cost {tuple(cost.shape)} differ in shape")
    return correct.float() - alpha * cost.float() / length


@dataclass(frozen=True)
class Multiplicative:
    """``multiplicative_reward`` with its α ≥ 0, of denoiser evaluations or of steps."""

    alpha: float = 0.1
    cost: Cost = "nfe"

    def __post_init__(self) -> None:
        _check(self.alpha, self.cost)

    def __call__(
        self, correct: Tensor, nfe: Tensor, length: int, steps: Tensor | None = None, alpha: Tensor | None = None
    ) -> Tensor:
        asked = self.alpha if alpha is None else alpha
        return multiplicative_reward(correct, _cost(self.cost, nfe, steps), length, asked)


@dataclass(frozen=True)
class Additive:
    """``additive_reward`` with its α ≥ 0, of denoiser evaluations or of steps."""

    alpha: float = 0.1
    cost: Cost = "nfe"

    def __post_init__(self) -> None:
        _check(self.alpha, self.cost)

    def __call__(
        self, correct: Tensor, nfe: Tensor, length: int, steps: Tensor | None = None, alpha: Tensor | None = None
    ) -> Tensor:
        asked = self.alpha if alpha is None else alpha
        return additive_reward(correct, _cost(self.cost, nfe, steps), length, asked)


def _check(alpha: float, cost: str) -> None:
    if isinstance(alpha, (int, float)) and not 0 <= alpha < torch.inf:
        raise UsageError(f"alpha must be a finite number of at least 0, got {alpha}")
    check_value(alpha, float, "alpha")
    if cost not in get_args(Cost):
        raise UsageError(f"unknown cost {cost!r}; choose {' or '.join(get_args(Cost))}")


def check_range(preferences: Any) -> None:
    """Refuses what is no range of α.

    Raises:
        UsageError: not nothing, and not two finite numbers above 0 in order.
    """
    listed = isinstance(preferences, Sequence) and not isinstance(preferences, str)
    numbers = listed and all(isinstance(one, (int, float)) and 0 < one < math.inf for one in preferences)
    if not numbers or not (len(preferences) == 0 or (len(preferences) == 2 and preferences[0] <= preferences[1])):
        raise UsageError(f"preferences takes a smallest and a largest α above 0, or nothing, got {preferences!r}")


def _cost(cost: Cost, nfe: Tensor, steps: Tensor | None) -> Tensor:
    if cost == "nfe":
        return nfe
    if steps is None:
        raise ValueError("a reward of steps has to be given the steps")
    return steps


REWARDS: dict[str, type[Multiplicative] | type[Additive]] = {
    "multiplicative": Multiplicative,
    "additive": Additive,
}


if TYPE_CHECKING:
    RewardLike = str | Reward
else:
    RewardLike = NewType("RewardLike", str)  # what a command line can say; an object is for Python
"""A reward, or the text that names one."""


def load_reward(reward: str | Reward, alpha: float = 0.1, cost: Cost = "nfe") -> Reward:
    """A reward by name (``additive``, ``multiplicative:alpha=2,cost=steps``) or from a file (``my.py:my_reward``).

    Args:
        reward: text by the grammar of ``specs``, or a function, which is returned as it is.
        alpha, cost: of those by name that do not say it themselves.

    Raises:
        UsageError: no such reward or setting, something that cannot be called, or α below 0.

    Examples:
        >>> reward = load_reward("multiplicative", alpha=1.0)
        >>> nfe = torch.tensor([1, 21, 5])
        >>> reward(correct=torch.tensor([1.0, 1.0, 0.0]), nfe=nfe, steps=nfe, length=40, alpha=None).tolist()
        [1.0, 0.5, 0.0]
    """
    _check(alpha, cost)
    if not isinstance(reward, str):
        if isinstance(reward, type) or not callable(reward):
            raise UsageError(f"a reward is a name or a function, got {reward!r}")
        return reward
    if (place := file_part(reward)) is not None:
        made = load_from_file(place, "reward").value
        if not callable(made):
            raise UsageError(f"{place.name} of {place.file} is no reward: what it makes cannot be called")
        return made
    kind, values = _by_name(reward)
    return kind(**{"alpha": alpha, "cost": cost, **values})


def _by_name(text: str) -> tuple[type[Multiplicative] | type[Additive], dict[str, Any]]:
    """Which reward, and the settings that its text has."""
    name, written = split(text, REWARDS)
    if name not in REWARDS:
        known = ", ".join(REWARDS)
        raise UsageError(
            f"unknown reward {name!r}; choose one of {known}, or a function in a file: my.py:my_reward"
        )
    return REWARDS[name], typed(read_settings(written), parameters(REWARDS[name]), name)


# ------------------------------------------------------------------------------------- rewards of finished rows


@dataclass(frozen=True)
class Outcomes:
    """What rewards may ask for, of N rows; the attributes are described in the module."""

    problem: Sequence[Problem]
    text: Sequence[str]
    correct: Tensor
    nfe: Tensor
    steps: Tensor
    length: int
    alpha: Tensor | None = None


KNOWN = tuple(field.name for field in fields(Outcomes))


@dataclass(frozen=True)
class Earned:
    """What N rows have earned.

    Attributes:
        total: (N,) float32, the weighted sum.
        parts: by name of the reward, (N,) float32 without its weight.
    """

    total: Tensor
    parts: dict[str, Tensor]


@dataclass(frozen=True)
class Part:
    """One of several rewards.

    Attributes:
        name: how logs and errors call it.
        function: see the module.
        weight: it counts so much.
        follows_alpha: whether its α is the settings', because it was chosen by name.
    """

    name: str
    function: Reward
    weight: float = 1.0
    follows_alpha: bool = False

    def __call__(self, outcomes: Outcomes) -> Tensor:
        """(N,) float32 without the weight.

        Raises:
            UsageError: the function fails, or does not give one finite number for each row.
        """
        known = {name: getattr(outcomes, name) for name in _asked(self.name, self.function)}
        if isinstance(self.function, (Multiplicative, Additive)) and not self.follows_alpha:
            known["alpha"] = None  # it has said its own
        try:
            given = self.function(**known)
        except UsageError:
            raise
        except Exception as error:
            raise UsageError(f"the reward {self.name} fails: {type(error).__name__}: {error}") from error
        try:
            values = torch.as_tensor(given, dtype=torch.float32, device=outcomes.correct.device).detach()
        except (TypeError, ValueError, RuntimeError):
            raise UsageError(f"the reward {self.name} must return numbers, got {shown(given)}") from None
        count = len(outcomes.text)
        if values.shape != (count,):
            raise UsageError(
                f"the reward {self.name} must return one number for each of {count} rows, got {_shape(values)}"
            )
        bad = (~values.isfinite()).nonzero()[:, 0].tolist()
        if bad:
            value, index = values[bad[0]].item(), outcomes.problem[bad[0]].index
            raise UsageError(f"the reward {self.name} must return finite numbers, got {value} for problem {index}")
        return values


@dataclass(frozen=True)
class Rewards:
    """Several rewards, added with their weights."""

    parts: tuple[Part, ...]

    def __call__(self, outcomes: Outcomes) -> Earned:
        """What the rows have earned, in all and by each reward."""
        values = {part.name: part(outcomes) for part in self.parts}
        total = torch.zeros_like(outcomes.correct, dtype=torch.float32)
        for part in self.parts:
            total = total + part.weight * values[part.name]
        return Earned(total, values)

    def at(self, alpha: float) -> Rewards:
        """With another α in those that were chosen by name."""
        return Rewards(
            tuple(
                replace(part, function=replace(part.function, alpha=alpha)) if part.follows_alpha else part  # type: ignore[type-var]
                for part in self.parts
            )
        )


def load_rewards(
    rewards: str | Reward | Sequence[str | Reward],
    weights: Sequence[float] = (),
    alpha: float = 0.1,
    cost: Cost = "nfe",
) -> Rewards:
    """One reward or several, by name or as functions.

    Args:
        rewards: which.
        weights: one for each; without any, all count 1.
        alpha, cost: of those that are given by name.

    Raises:
        UsageError: no such reward, none at all, one twice, or weights that do not fit.
    """
    given: list[str | Reward] = list(rewards) if isinstance(rewards, (list, tuple)) else [rewards]  # type: ignore[list-item]
    if not given:
        raise UsageError(f"give at least one reward: {', '.join(REWARDS)}, or a function")
    counts = list(weights) or [1.0] * len(given)
    if len(counts) != len(given):
        raise UsageError(f"{len(given)} rewards need as many weights, got {len(counts)}")
    for weight in counts:
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not abs(weight) <= LARGEST:
            raise UsageError(f"a reward's weight must be a finite number, up to {LARGEST:g}, got {weight!r}")
    parts = []
    for reward, weight in zip(given, counts, strict=True):
        function = load_reward(reward, alpha, cost)
        by_name = isinstance(reward, str) and file_part(reward) is None
        follows = by_name and "alpha" not in _by_name(str(reward))[1]
        part = Part(reward_name(reward), function, float(weight), follows)
        _asked(part.name, function)
        parts.append(part)
    names = [part.name for part in parts]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"the reward {name} is given twice; name each once")
    return Rewards(tuple(parts))


def reward_name(reward: str | Reward) -> str:
    """How logs and errors call a reward: the name of the function, or that of an object's class."""
    if isinstance(reward, str):
        place = file_part(reward)
        return split(reward, REWARDS)[0] if place is None else place.name
    function = reward.func if isinstance(reward, functools.partial) else reward
    return str(getattr(function, "__name__", type(function).__name__))


def _asked(name: str, function: Reward) -> list[str]:
    """Which keywords a reward takes.

    Raises:
        UsageError: it needs something that is not known.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return list(KNOWN)
    if any(one.kind is one.VAR_KEYWORD for one in parameters):
        return list(KNOWN)
    by_name = [one for one in parameters if one.kind in (one.KEYWORD_ONLY, one.POSITIONAL_OR_KEYWORD)]
    for one in parameters:
        named = one in by_name and one.name in KNOWN
        if one.default is one.empty and one.kind is not one.VAR_POSITIONAL and not named:
            raise UsageError(f"the reward {name} asks for {one.name!r}; it can have {', '.join(KNOWN)}")
    return [one.name for one in by_name if one.name in KNOWN]


def _shape(values: Tensor) -> str:
    if values.ndim == 0:
        return "a single number"
    return f"{len(values)}" if values.ndim == 1 else f"shape {tuple(values.shape)}"
