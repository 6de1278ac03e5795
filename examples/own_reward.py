"""A reward of your own: right within a budget of evaluations earns everything, right but slower earns half.

dllm-env train grpo --reward examples/own_reward.py:within_budget --out runs/budget
dllm-env train grpo --reward multiplicative 'examples/own_reward.py:within_budget(budget=5)' --reward-weights 1 0.5
dllm-env eval --policies threshold:0.7 runs/budget --reward examples/own_reward.py:within_budget
"""

from __future__ import annotations

from torch import Tensor


def within_budget(*, correct: Tensor, nfe: Tensor, budget: int = 8) -> Tensor:
    """Gets N rows at once, and returns a number for each.

    Besides ``correct`` and ``nfe`` it may ask for ``problem``, ``text``, ``steps`` and ``length``.
    """
    return correct * (0.5 + 0.5 * (nfe <= budget).float())
