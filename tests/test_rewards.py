"""Outcome rewards on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from dllm_env.errors import UsageError
from dllm_env.rewards import Additive, Multiplicative, additive_reward, load_reward, multiplicative_reward

CORRECT = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
NFE = torch.tensor([1, 6, 10, 25, 1])


def test_multiplicative() -> None:
    """L = 10, α = 2: 1², (5/10)², (1/10)², nfe counted as 10, wrong."""
    reward = multiplicative_reward(CORRECT, NFE, 10, 2.0)
    assert reward.tolist() == pytest.approx([1.0, 0.25, 0.01, 0.01, 0.0])
    assert reward.dtype == torch.float32


def test_multiplicative_with_a_root() -> None:
    """L = 40, nfe 31, α = 0.5: √(10/40)."""
    assert multiplicative_reward(torch.ones(1), torch.tensor([31]), 40, 0.5).item() == pytest.approx(0.5)


def test_additive() -> None:
    """L = 10, α = 2: 1 − 0.2, 1 − 1.2, 1 − 2, 1 − 5, 0 − 0.2."""
    reward = additive_reward(CORRECT, NFE, 10, 2.0)
    assert reward.tolist() == pytest.approx([0.8, -0.2, -1.0, -4.0, -0.2])
    assert reward.dtype == torch.float32


@pytest.mark.parametrize("reward", [multiplicative_reward, additive_reward])
def test_alpha_of_zero_rewards_correctness_alone(reward) -> None:  # type: ignore[no-untyped-def]
    assert reward(CORRECT, NFE, 10, 0.0).tolist() == CORRECT.tolist()


@pytest.mark.parametrize("reward", [multiplicative_reward, additive_reward])
def test_shapes_have_to_agree(reward) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"\(5,\).*\(4,\).*differ in shape"):
        reward(CORRECT, NFE[:4], 10, 1.0)
    with pytest.raises(ValueError, match="differ in shape"):
        reward(CORRECT, NFE[:, None], 10, 1.0)


def test_lookup_gives_the_functions_with_their_alpha() -> None:
    assert load_reward("multiplicative", 2.0) == Multiplicative(2.0)
    assert load_reward("additive", 2.0) == Additive(2.0)
    assert load_reward("multiplicative", 2)(CORRECT, NFE, 10).tolist() == pytest.approx(
        [1.0, 0.25, 0.01, 0.01, 0.0]
    )
    assert load_reward("additive", 2)(CORRECT, NFE, 10).tolist() == pytest.approx([0.8, -0.2, -1.0, -4.0, -0.2])


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
@pytest.mark.parametrize("alpha", [-0.1, -math.inf, math.inf, math.nan])
def test_bad_alpha_is_refused(kind: str, alpha: float) -> None:
    with pytest.raises(UsageError, match="alpha must be a finite number of at least 0"):
        load_reward(kind, alpha)


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
def test_alpha_may_be_anything_from_zero_on(kind: str) -> None:
    for alpha in (0, 0.0, 1e-9, 0.5, 1e9):
        assert load_reward(kind, alpha).alpha == alpha  # type: ignore[attr-defined]


def test_unknown_reward_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown reward 'mean'; choose one of multiplicative, additive"):
        load_reward("mean", 1.0)
