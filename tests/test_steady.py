"""Rules of what is steady, of prefixes, and of several blocks at once, on rows worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from test_heuristics import act, distribution, seen

from dllm_env.denoisers.base import Extras
from dllm_env.denoisers.load import load_denoiser
from dllm_env.errors import UsageError
from dllm_env.policies.heuristics import Heuristic
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import attempt, row_seeds
from dllm_env.policies.steady import Less, LongestStablePrefix, MultiBlock, _divergence
from dllm_env.random import RowRandom
from dllm_env.rules import Rules
from dllm_env.tasks.trace import Trace


def play(rule: Heuristic, steps: list[list[list[float]]], outside: list[int] | None = None) -> list[list[int]]:
    """What is revealed at each step of a row whose positions have these distributions; nothing is written."""
    memory, found = {}, []
    for number, rows in enumerate(steps):
        row = seen([1] * len(rows), step=number, confidence=[max(p) for p in rows])
        row.masked_total = row.masked_total + (outside or [0] * len(steps))[number]
        row.log_probability, row.memory = distribution(*rows), memory
        decision = rule.act(row, RowRandom(torch.tensor([1])))
        memory = dict(decision.memory)
        found.append(decision.unmask[0].nonzero()[:, 0].tolist())
    return found


# ------------------------------------------------------------------------------------------------------- LESS

SURE, OTHER, UNSURE = [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.4, 0.3, 0.3]


def test_less_wants_sure_persistent_and_steady_positions() -> None:
    """0 stays as it is, 1 changes its token in the third step, 2 is not sure; 3 is +top-1."""
    best = [0.98, 0.01, 0.01]
    steps = [[SURE, SURE, UNSURE, best], [SURE, SURE, UNSURE, best], [SURE, OTHER, UNSURE, best]]
    steps.append([SURE, OTHER, UNSURE, best])
    rule = Less(threshold=0.7, persistence=2, divergence=0.05)
    assert play(rule, steps) == [[3], [0, 1, 3], [0, 3], [0, 1, 3]]
    assert play(Less(persistence=3), steps) == [[3], [3], [0, 3], [0, 3]]
    # A change of the token alone does not matter to one step of persistence; that it moved does.
    assert play(Less(persistence=1), steps) == [[3], [0, 1, 3], [0, 3], [0, 1, 3]]
    assert play(Less(persistence=1, divergence=1.0), steps) == [[3], [0, 1, 3], [0, 1, 3], [0, 1, 3]]


def test_less_begins_again_in_a_new_block() -> None:
    steps = [[SURE, [0.9, 0.05, 0.05]]] * 4
    assert play(Less(), steps, outside=[2, 2, 0, 0]) == [[1], [0, 1], [1], [0, 1]]


def test_the_divergence_by_hand() -> None:
    """JS((3/4, 1/4), (1/2, 1/2)) with m = (5/8, 3/8); over one token, the others count as one."""

    def of(*pairs: tuple[float, float]) -> float:
        return sum(
            p / 2 * math.log(p / ((p + q) / 2)) + q / 2 * math.log(q / ((p + q) / 2)) for p, q in pairs if p and q
        )

    now, before = distribution([0.75, 0.25, 0.0]), distribution([0.5, 0.5, 0.0])
    assert _divergence(now, before, 2).item() == pytest.approx(of((0.75, 0.5), (0.25, 0.5)), abs=1e-6)
    now, before = distribution([0.6, 0.3, 0.1]), distribution([0.5, 0.1, 0.4])
    assert _divergence(now, before, 1).item() == pytest.approx(of((0.6, 0.5), (0.4, 0.5)), abs=1e-6)
    whole = of((0.6, 0.5), (0.3, 0.1), (0.1, 0.4))
    for tokens in (2, 3, 50):
        assert _divergence(now, before, tokens).item() == pytest.approx(whole, abs=1e-6)
    one = distribution([1.0, 0.0, 0.0])
    assert _divergence(one, distribution([0.0, 1.0, 0.0]), 3).item() == pytest.approx(math.log(2), abs=1e-6)


# -------------------------------------------------------------------------------------------------------- LSP


@pytest.mark.parametrize(
    ("confidence", "selectable", "expected"),
    [
        ([0.9, 0.85, 0.5, 0.99], [1, 1, 1, 1], [0, 1]),
        ([0.9, 0.8, 0.8, 0.99], [1, 1, 1, 1], [0, 1, 2, 3]),
        ([0.1, 0.9, 0.9, 0.9], [1, 1, 1, 1], [0]),
        ([0.0, 0.9, 0.0, 0.9], [0, 1, 0, 1], [1, 3]),  # what is written does not end a prefix
        ([0.0, 0.9, 0.1, 0.9], [0, 1, 1, 1], [1]),
        ([0.0, 0.0], [0, 0], []),
    ],
)
def test_the_longest_stable_prefix(confidence: list[float], selectable: list[int], expected: list[int]) -> None:
    found = act(LongestStablePrefix(0.8), seen(selectable, confidence=confidence))
    assert [i for i, chosen in enumerate(found) if chosen] == expected


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([7, 13, 7, 7], [0, 1]),  # 13 ends it
        ([7, 13, 198, 7], [0, 1, 2]),  # the last one does
        ([7, 7, 7, 13], [0, 1, 2]),  # one outside of the prefix does not
        ([13, 7, 7, 7], [0]),
    ],
)
def test_a_prefix_ends_with_a_delimiter(tokens: list[int], expected: list[int]) -> None:
    rule = load_heuristic("lsp:0.8,delimiters=13+198")
    assert rule.extras == Extras(token=True)
    assert LongestStablePrefix().extras == Extras()
    row = seen([1, 1, 1, 1], confidence=[0.9, 0.9, 0.9, 0.1])
    row.token = torch.tensor([tokens])
    assert [i for i, chosen in enumerate(act(rule, row)) if chosen] == expected


@pytest.mark.parametrize("given", ["a", "1+", "-3", "1,2", "9999999999"])
def test_delimiters_are_ids(given: str) -> None:
    with pytest.raises(UsageError, match="ids of tokens"):
        LongestStablePrefix(0.8, given)


# ------------------------------------------------------------------------------------------------ multi_block

LOW, HIGH = 0.1, 2.0


@pytest.mark.parametrize(
    ("entropy", "selectable", "expected"),
    [
        # Blocks of 4. Nothing is written: the second is closed; of the first what is low.
        ([LOW, HIGH, HIGH, LOW, LOW, LOW, LOW, LOW], [1] * 8, [0, 3]),
        # Nothing is low: the lowest of the first block.
        ([HIGH, 1.5, HIGH, HIGH, LOW, LOW, LOW, LOW], [1] * 8, [1]),
        # One of four is written, which is 10% and more: the second is open, too, and the first has to go on.
        ([0, 1.5, HIGH, HIGH, LOW, HIGH, LOW, HIGH], [0] + [1] * 7, [1, 4, 6]),
        # The first is finished: the second has to go on.
        ([0, 0, 0, 0, HIGH, 1.5, HIGH, HIGH], [0] * 4 + [1] * 4, [5]),
        # The bound is not included.
        ([0.4, 0.39, HIGH, HIGH, 0, 0, 0, 0], [1] * 8, [1]),
        # The last block is shorter.
        ([0, 0, 0, 0, 0, 0, 0, 0, LOW, HIGH], [0] * 8 + [1, 1], [8]),
        ([0, 0, 0, 0], [0] * 4, []),
    ],
)
def test_several_blocks_are_open(entropy: list[float], selectable: list[int], expected: list[int]) -> None:
    found = act(MultiBlock(block=4), seen(selectable, entropy=[float(h) for h in entropy]))
    assert [i for i, chosen in enumerate(found) if chosen] == expected


def test_a_block_opens_after_the_one_before_it_only() -> None:
    """The third block stays closed while the second is untouched, whatever is written in the second's own place."""
    row = seen([0, 1, 1, 1, 1, 1], entropy=[0, HIGH, LOW, LOW, LOW, LOW])
    assert act(MultiBlock(block=2, opens=0.5), row) == [0, 1, 1, 1, 0, 0]
    assert act(MultiBlock(block=2, opens=0.6), row) == [0, 1, 0, 0, 0, 0]
    assert act(MultiBlock(block=2, opens=0.0), row) == [0, 1, 1, 1, 1, 1]


# ------------------------------------------------------------------------------------------------- all of them


@pytest.mark.parametrize(
    ("name", "within", "right"),
    [("less:0.7", 30, 0.0), ("lsp:0.8", 32, 0.9), ("multi_block:0.4,block=8", 25, 0.3)],
)
def test_they_write_whole_responses(name: str, within: int, right: float) -> None:
    task = Trace()
    problems = [task.problem(i) for i in range(16)]
    rules = Rules(response_length=40, block_length=40)
    known = (rules, task, problems, row_seeds(16, 0))
    played = attempt(load_denoiser("tiny"), load_heuristic(name), *known)
    assert played.rollout.finished.all()
    assert played.rollout.nfe.float().mean() < within
    assert played.correct.mean() >= right
    alone = attempt(load_denoiser("tiny"), load_heuristic(name), *known, batch_size=1)
    assert torch.equal(played.rollout.responses, alone.rollout.responses)
    assert torch.equal(played.rollout.nfe, alone.rollout.nfe)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("less:1.5", "threshold must be between 0 and 1"),
        ("less:persistence=0", "persistence must be at least 1"),
        ("less:divergence=-1", "divergence must be at least 0"),
        ("lsp:-0.1", "threshold must be between 0 and 1"),
        ("multi_block:block=0", "block must be at least 1"),
        ("multi_block:opens=2", "opens must be between 0 and 1"),
        ("joint_threshold:edit=1.1", "edit must be between 0 and 1"),
    ],
)
def test_bad_parameters(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_heuristic(text)
