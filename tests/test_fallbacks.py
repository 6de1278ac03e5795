"""The position that rules with "+top-1" unmask in any case, on rows worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_heuristics import observe

from dllm_env.denoisers.base import Extras
from dllm_env.errors import UsageError
from dllm_env.policies.registry import load_heuristic
from dllm_env.random import RowRandom

CONFIDENCE = [[0.5, 0.2, 0.7, 0.6], [0.1, 0.95, 0.3, 0.2]]
ENTROPY = [[0.9, 0.4, 0.8, 0.3], [1.0, 0.1, 0.2, 0.9]]
SELECTABLE = [[0, 1, 1, 1], [1, 1, 1, 0]]


def unmasked(text: str) -> list[list[int]]:
    seen = replace(observe(CONFIDENCE, SELECTABLE), entropy=torch.tensor(ENTROPY))
    decision = load_heuristic(text).act(seen, RowRandom(torch.arange(2)))
    return [row.nonzero()[:, 0].tolist() for row in decision.unmask]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("threshold:0.9", [[2], [1]]),
        ("threshold:0.9,fallback=leftmost", [[1], [0, 1]]),
        ("threshold:0.9,fallback=lowest_entropy", [[3], [1]]),
        ("threshold:0.65,fallback=leftmost", [[1, 2], [0, 1]]),
        ("factor:fallback=leftmost", [[1, 2], [0, 1]]),  # of one position 1 − 1/2 is enough, of two 2/3 is not
        ("factor:0.5,fallback=leftmost", [[1], [0, 1]]),
        ("factor:0.5,variant=paper,fallback=lowest_entropy", [[3], [1]]),
        ("hierarchy:low=0.8,fallback=leftmost", [[1], [0, 1]]),
        ("local_leap:radius=1,relaxed=0.3,fallback=leftmost", [[1], [0, 1, 2]]),
    ],
)
def test_fallbacks(text: str, expected: list[list[int]]) -> None:
    assert unmasked(text) == expected


@pytest.mark.parametrize("rule", ["threshold", "factor", "local_leap", "hierarchy", "credit", "wino"])
def test_names_and_what_is_read(rule: str) -> None:
    usual, lowest = load_heuristic(rule), load_heuristic(f"{rule}:fallback=lowest_entropy")
    assert load_heuristic(usual.name) == usual
    assert load_heuristic(lowest.name) == lowest
    assert "fallback" not in usual.name
    assert lowest.extras == replace(usual.extras, entropy=True)
    assert load_heuristic(f"{rule}:fallback=leftmost").extras == usual.extras
    with pytest.raises(UsageError, match="fallback must be best or leftmost or lowest_entropy"):
        load_heuristic(f"{rule}:fallback=rightmost")


def test_the_first_parameter_needs_no_name_still() -> None:
    assert load_heuristic("threshold:0.8").name == "threshold:0.8"
    assert load_heuristic("threshold:0.8,fallback=leftmost").name == "threshold:threshold=0.8,fallback=leftmost"
    assert load_heuristic("wino").extras == Extras(support=True)
