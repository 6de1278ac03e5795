"""Outcome rewards: correctness and what it cost, as pure functions and as objects that carry α."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dllm_env.errors import UsageError


def multiplicative_reward(correct: Tensor, nfe: Tensor, length: int, alpha: float) -> Tensor:
    """r = correct · ((L − min(nfe, L) + 1) / L)^α, arXiv 2512.09106.

    Args:
        correct: (B,) 0 or 1.
        nfe: (B,) denoiser evaluations.
        length: response length L in tokens.
        alpha: weight of speed; 0 rewards correctness alone.

    Returns:
        (B,) float32.
    """
    if correct.shape != nfe.shape:
        raise ValueError(f"correct {tuple(correct.shape)} and nfe {tuple(nfe.shape)} differ in shape")
    saved = (length - nfe.clamp(max=length) + 1).float() / length
    return correct.float() * saved**alpha


def additive_reward(correct: Tensor, nfe: Tensor, length: int, alpha: float) -> Tensor:
    """r = correct − α · nfe / L, the ablation of arXiv 2512.09106 (reported to collapse to one-step unmasking).

    Args, shapes and result as in ``multiplicative_reward``.
    """
    if correct.shape != nfe.shape:
        raise ValueError(f"correct {tuple(correct.shape)} and nfe {tuple(nfe.shape)} differ in shape")
    return correct.float() - alpha * nfe.float() / length


class Reward(Protocol):
    """Scores finished rows."""

    def __call__(self, correct: Tensor, nfe: Tensor, length: int) -> Tensor:
        """(B,) correct, (B,) nfe, L to (B,) rewards."""


@dataclass(frozen=True)
class Multiplicative:
    """``multiplicative_reward`` with its α ≥ 0."""

    alpha: float = 0.1

    def __post_init__(self) -> None:
        _check_alpha(self.alpha)

    def __call__(self, correct: Tensor, nfe: Tensor, length: int) -> Tensor:
        return multiplicative_reward(correct, nfe, length, self.alpha)


@dataclass(frozen=True)
class Additive:
    """``additive_reward`` with its α ≥ 0."""

    alpha: float = 0.1

    def __post_init__(self) -> None:
        _check_alpha(self.alpha)

    def __call__(self, correct: Tensor, nfe: Tensor, length: int) -> Tensor:
        return additive_reward(correct, nfe, length, self.alpha)


def _check_alpha(alpha: float) -> None:
    if not 0 <= alpha < torch.inf:
        raise UsageError(f"alpha must be a finite number of at least 0, got {alpha}")


REWARDS: dict[str, type[Multiplicative] | type[Additive]] = {
    "multiplicative": Multiplicative,
    "additive": Additive,
}


def load_reward(kind: str, alpha: float) -> Reward:
    """A reward by name.

    Raises:
        UsageError: no such reward, or α below 0.
    """
    if kind not in REWARDS:
        raise UsageError(f"unknown reward {kind!r}; choose one of {', '.join(REWARDS)}")
    return REWARDS[kind](alpha)
