"""Deadlines: how many denoiser evaluations a row may take, and that everything is written with the last of them."""

from __future__ import annotations

import pytest
import torch
from conftest import MASK, Scripted
from test_dynamics_row_by_row import LENGTH, PROMPTS, TOKENS, confidence, table

from dllm_env.dynamics import Dynamics, State, Wishes
from dllm_env.errors import UsageError
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import rollout
from dllm_env.rules import Rules, View

SEEDS = [0, 1, 2]


def begin(rules: Rules, wishes: Wishes | None = None, context: str = "full") -> tuple[Dynamics, State]:
    dynamics = Dynamics(Scripted(table(), 2), rules, 2, View(context))  # type: ignore[arg-type]
    return dynamics, dynamics.reset(PROMPTS, SEEDS, wishes)


def step(dynamics: Dynamics, state: State, *positions: int) -> None:
    dynamics.predict(state)
    unmask = torch.zeros(len(state), dynamics.width, dtype=torch.bool)
    unmask[:, list(positions)] = True
    dynamics.apply(state, unmask)


def test_the_last_evaluation_writes_everything_that_is_left() -> None:
    dynamics, state = begin(Rules(response_length=LENGTH, deadline=2))
    dynamics.predict(state)
    assert dynamics.observe(state).remaining.tolist() == [1, 1, 1]  # type: ignore[union-attr]
    step(dynamics, state, 4)
    assert dynamics.terminated(state).tolist() == [False] * 3
    step(dynamics, state, 0)
    assert dynamics.terminated(state).tolist() == [True] * 3
    assert dynamics.responses(state).tolist() == [TOKENS] * 3
    assert state.nfe.tolist() == [2, 2, 2]
    assert state.revealed_at[0].tolist() == [1, 1, 1, 1, 0, 1]
    assert state.sureness[0].tolist() == pytest.approx([confidence(i) for i in range(LENGTH)])


@pytest.mark.parametrize("context", ["full", "block"])
def test_in_blocks_the_last_evaluation_writes_later_blocks_too(context: str) -> None:
    dynamics, state = begin(Rules(response_length=LENGTH, block_length=2, deadline=2), context=context)
    step(dynamics, state, 0, 1)
    assert dynamics.responses(state)[0].tolist() == [*TOKENS[:2], *[MASK] * 4]
    step(dynamics, state, 0)
    assert dynamics.responses(state).tolist() == [TOKENS] * 3
    assert state.sureness[1].tolist() == pytest.approx([confidence(i) for i in range(LENGTH)])


def test_steps_that_change_nothing_cost_no_evaluation_and_end_with_the_deadline() -> None:
    dynamics, state = begin(Rules(response_length=LENGTH, deadline=2))
    step(dynamics, state)
    step(dynamics, state)
    assert state.nfe.tolist() == [1, 1, 1]
    assert state.masked.all()
    step(dynamics, state, 3)
    step(dynamics, state)
    assert not state.masked.any()
    assert state.nfe.tolist() == [2, 2, 2]


def test_rows_have_deadlines_of_their_own() -> None:
    wishes = Wishes(deadline=torch.tensor([1, 0, 3]))
    dynamics, state = begin(Rules(response_length=LENGTH, deadline=2), wishes)
    for position in range(LENGTH):
        running = torch.tensor([not done for done in dynamics.terminated(state).tolist()])
        if position == 0:
            dynamics.predict(state)
            assert dynamics.observe(state).remaining.tolist() == [0, -1, 2]  # type: ignore[union-attr]
        step(dynamics, state, position)
        assert running[1]
    assert state.revealed_at.tolist() == [[0] * 6, [0, 1, 2, 3, 4, 5], [0, 1, 2, 2, 2, 2]]


def test_nothing_is_put_back_to_mask_with_the_last_evaluation() -> None:
    rules = Rules(response_length=LENGTH, deadline=2, allow_remask=True)
    dynamics, state = begin(rules)
    step(dynamics, state, 0, 1)
    dynamics.predict(state)
    everywhere = torch.ones(3, LENGTH, dtype=torch.bool)
    dynamics.apply(state, ~everywhere, everywhere)
    assert dynamics.responses(state).tolist() == [TOKENS] * 3
    assert state.remasks.tolist() == [0, 0, 0]


def test_a_rollout_keeps_to_it_whatever_the_batch() -> None:
    def play(batch: int, deadlines: list[int] | None) -> list[int]:
        wishes = None if deadlines is None else Wishes(deadline=torch.tensor(deadlines))
        rules = Rules(response_length=LENGTH, block_length=3, deadline=0 if deadlines else 4)
        rule = load_heuristic("top_k:1")
        played = rollout(Scripted(table(), 2), rule, rules, PROMPTS, SEEDS, batch_size=batch, wishes=wishes)
        assert played.finished.all()
        assert played.responses.tolist() == [TOKENS] * 3
        return played.nfe.tolist()

    for batch in (1, 2, 3):
        assert play(batch, [2, 0, 5]) == [2, 6, 5]
        assert play(batch, None) == [4, 4, 4]


def test_without_a_deadline_nothing_is_said_of_one() -> None:
    dynamics, state = begin(Rules(response_length=LENGTH))
    dynamics.predict(state)
    assert dynamics.observe(state).remaining is None
    with pytest.raises(UsageError, match="deadline must be at least 1"):
        Rules(deadline=-1)
