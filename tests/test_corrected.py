"""Rules that correct the confidence, on rows worked out by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from test_heuristics import act, counts, seen

from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.corrected import ASS, EOSER, Credit, PCSampler
from dllm_env.policies.heuristics import Heuristic
from dllm_env.policies.registry import load_heuristic
from dllm_env.random import RowRandom

CONFIDENCE = [0.5, 0.9, 0.8, 0.6]


def ending(
    selectable: list[int], ends: list[int], step: int = 0, confidence: list[float] = CONFIDENCE
) -> Observation:
    """One row; ``ends`` says where an end of text is predicted."""
    row = seen(selectable, step=step, confidence=confidence)
    row.ends, row.token = torch.tensor([ends]).bool(), torch.tensor([ends])
    return row


def play(rule: Heuristic, ends: list[int], confidence: list[float]) -> list[list[int]]:
    """The positions of each step."""
    left, memory, found = [1] * len(ends), {}, []
    while sum(left):
        row = ending(left, ends, len(found), [c * m for c, m in zip(confidence, left, strict=True)])
        row.memory = memory
        decision = rule.act(row, RowRandom(torch.tensor([1])))
        memory = dict(decision.memory)
        found.append(decision.unmask[0].nonzero()[:, 0].tolist())
        left = [m * (i not in found[-1]) for i, m in enumerate(left)]
    return found


# ------------------------------------------------------------------------------------------------- end of text


def test_ends_come_later_by_hand() -> None:
    """γ of the four steps: 0.4, 0.6, 0.8, 1. The end, c = 0.9, counts 0.36, 0.54, 0.72: after 0.8 and 0.6."""
    assert play(EOSER(), [0, 1, 0, 0], CONFIDENCE) == [[2], [3], [1], [0]]
    assert play(EOSER(least=1.0), [0, 1, 0, 0], CONFIDENCE) == [[1], [2], [3], [0]]
    assert play(EOSER(least=0.0), [0, 1, 0, 0], [0.1, 1.0, 0.1, 0.1]) == [[0], [1], [2], [3]]  # 0, then 1/3
    # Two a step: γ is 0.4, then 1.
    assert play(EOSER(2), [0, 1, 0, 0], CONFIDENCE) == [[2, 3], [0, 1]]
    assert play(EOSER(steps=2), [0, 1, 0, 0], CONFIDENCE) == [[2, 3], [0, 1]]


def test_ends_in_blocks_count_the_steps_of_the_block() -> None:
    """Eight masks in blocks of 4, one a step: in the block's second step γ is 0.4 + 0.6·1/7."""
    rule, row = EOSER(), ending([1, 1, 0, 1], [0, 1, 0, 0], confidence=[0.43, 1.0, 0, 0.2])
    row.masked_total = torch.tensor([7])
    row.memory = {
        **{name: torch.tensor([0]) for name in ("block", "began")},
        **{"masked": torch.tensor([4]), "length": torch.tensor([8]), "outside": torch.tensor([5])},
        "left": torch.tensor([3]),
    }
    row.step = torch.tensor([1])
    assert 0.4 + 0.6 / 7 > 0.43
    assert act(rule, row) == [0, 1, 0, 0]
    row.step = torch.tensor([0])
    assert act(rule, row) == [1, 0, 0, 0]


@pytest.mark.parametrize(
    ("length", "block", "expected"),
    [
        (40, 40, [1, 2, 4, 8, 25]),
        (8, 8, [1, 2, 5]),
        (16, 8, [1, 2, 5, 1, 2, 5]),
        (4, 4, [1, 3]),
        (3, 3, [3]),
        (2, 2, [2]),
        (1, 1, [1]),
    ],
)
def test_steps_that_grow(length: int, block: int, expected: list[int]) -> None:
    assert counts(ASS(), length, block) == expected


def test_ends_while_steps_grow_by_hand() -> None:
    """Eight positions, S = 3, γ = 1/8, 3/8, 7/8 with least 0: an end of 0.9 counts 0.11, 0.34."""
    confidence = [0.1, 0.9, 0.3, 0.12, 0.05, 0.05, 0.05, 0.05]
    assert play(ASS(least=0.0), [0, 1] + [0] * 6, confidence)[:2] == [[2], [1, 3]]
    assert play(ASS(least=1.0), [0, 1] + [0] * 6, confidence)[:2] == [[1], [2, 3]]


# ------------------------------------------------------------------------------------------------------ credit


def likely(rows: list[list[float]], selectable: list[int]) -> Observation:
    row = seen(selectable, confidence=[max(each) for each in rows])
    row.log_probability = torch.tensor([rows]).log()
    return row


def test_credit_by_hand() -> None:
    """Two tokens. Credit 0.6^0.2 after one step, that · 0.8 + 0.7^0.2 after two; c′ = p·(1 + M)^w / Σ."""

    def fused(p: float, credit: float, weight: float) -> float:
        raised = p * (1 + credit) ** weight
        return raised / (raised + 1 - p)

    first = 0.6**0.2
    once = fused(0.6, first, 2.0)
    second = 0.8 * first + 0.7**0.2
    twice = fused(0.7, second, 2.0)
    rows = [[0.6, 0.4], [0.9, 0.1]]
    for threshold, expected in ((once - 1e-4, [1, 1]), (once + 1e-4, [0, 1])):
        assert act(Credit(threshold, weight=2.0), likely(rows, [1, 1])) == expected
    decided = Credit(0.99, weight=2.0).act(likely(rows, [1, 1]), RowRandom(torch.tensor([1])))
    assert decided.memory["credit"][0, 0].tolist() == pytest.approx([first, 0.0])
    later = likely([[0.7, 0.3], [0.9, 0.1]], [1, 0])
    later.masked_total = torch.tensor([1])
    for threshold, expected in ((twice - 1e-4, [1, 0]), (twice + 1e-4, [1, 0])):  # the only one that is left
        later.memory = decided.memory
        again = Credit(threshold, weight=2.0).act(later, RowRandom(torch.tensor([1])))
        assert again.unmask[0].int().tolist() == expected
        assert again.memory["credit"][0, 0].tolist() == pytest.approx([second, 0.0])


def test_credit_without_anything_sure_takes_the_fallback() -> None:
    rows = [[0.6, 0.4], [0.9, 0.1]]
    assert act(Credit(1.0), likely(rows, [1, 1])) == [0, 1]
    assert act(Credit(1.0, fallback="leftmost"), likely(rows, [1, 1])) == [1, 0]


def test_credit_is_of_what_will_be_written() -> None:
    """After [0.9, 0.1] the other token is likelier now; the credit of the first counts against it."""
    before = Credit(1.0).act(likely([[0.9, 0.1]], [1]), RowRandom(torch.tensor([1]))).memory
    now = likely([[0.4, 0.6]], [1])
    now.memory = before
    credit = Credit().act(now, RowRandom(torch.tensor([1]))).memory["credit"][0, 0].tolist()
    assert credit == pytest.approx([0.8 * 0.9**0.2, 0.6**0.2])


def test_credit_begins_again_in_a_new_block() -> None:
    first = likely([[0.9, 0.1], [0.9, 0.1]], [1, 1])
    first.masked_total = torch.tensor([4])
    memory = Credit().act(first, RowRandom(torch.tensor([1]))).memory
    second = likely([[0.6, 0.4], [0.5, 0.5]], [1, 1])
    second.memory = memory
    credit = Credit().act(second, RowRandom(torch.tensor([1]))).memory["credit"]
    assert credit[0, 0].tolist() == pytest.approx([0.6**0.2, 0.0])


# -------------------------------------------------------------------------------------------------- PC-Sampler


def test_place_and_rarity_by_hand(tmp_path: Path) -> None:
    """Of 100 tokens, 0 occurs 50 times and 1 once; −log f is 0.69 and 4.61, 2 counts as once, too."""
    file = tmp_path / "f.json"
    file.write_text(json.dumps({"num_token": 100, "p_baseline_dict": {"0": 50, "1": 1}}))
    row = seen([1, 1, 1, 1], confidence=[0.9, 0.5, 0.4, 0.4])
    row.token = torch.tensor([[0, 1, 2, 0]])
    # λ = 0: 0.62, 2.30, 1.84, 0.28.
    assert act(PCSampler(2, decay=0.0, frequencies=str(file)), row) == [0, 1, 1, 0]
    # λ = 1: 0.62, 0.85, 0.25, 0.01.
    assert act(PCSampler(2, decay=1.0, frequencies=str(file)), row) == [1, 1, 0, 0]
    # At most 0.5: 0.5, 0.5, 0.5, 0.28, and further left comes first.
    assert act(PCSampler(2, decay=0.0, most=0.5, frequencies=str(file)), row) == [1, 1, 0, 0]
    # Without a file: the confidence by place.
    assert act(PCSampler(1), row) == [1, 0, 0, 0]
    assert act(PCSampler(2, decay=0.0), row) == [1, 1, 0, 0]
    close = seen([1, 1], confidence=[0.5, 0.5 * math.exp(0.25) + 0.01])
    close.token = torch.tensor([[0, 0]])
    assert act(PCSampler(1), close) == [0, 1]


@pytest.mark.parametrize(
    "text",
    ["[]", "{}", '{"num_token": 0, "p_baseline_dict": {"1": 1}}', '{"num_token": 5, "p_baseline_dict": {"a": 1}}'],
)
def test_other_files_of_frequencies_are_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "f.json"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"f\.json"):
        load_heuristic(f"pc_sampler:frequencies={file}")
    with pytest.raises(UsageError, match=r"none\.json"):
        load_heuristic(f"pc_sampler:frequencies={tmp_path / 'none.json'}")


def test_bad_parameters() -> None:
    for text in ("eoser:least=2", "ass:least=-1", "credit:1.5", "credit:power=-1", "pc_sampler:decay=-1"):
        with pytest.raises(UsageError, match="must be"):
            load_heuristic(text)
