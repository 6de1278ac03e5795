"""The start by correction: what is written, what the labels are, and that scores become log-odds less log(L/α)."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pairs import LENGTH, Never, enter
from test_oracle import RIGHT, Needing

from dllm_env.denoisers.base import NO_EXTRAS, Extras
from dllm_env.dynamics import Observation
from dllm_env.policies.base import Decision
from dllm_env.policies.heads import PlackettLuce
from dllm_env.policies.oracle import Corrected
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import rollout
from dllm_env.random import torch_generator
from dllm_env.rules import Rules
from dllm_env.tasks.load import TASKS
from dllm_env.train import dagger
from dllm_env.train.grpo import GRPO
from dllm_env.train.ppo import PPO
from dllm_env.train.setup import make_setup
from dllm_env.train.start import check_start, imitate
from dllm_env.train.validation import validate


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> GRPO:
    enter(monkeypatch)
    return GRPO().changed(
        task="all-a",
        denoiser="pairs",
        width=16,
        start="dagger",
        validation_problems=32,
        imitation_learning_rate=1e-2,
        imitation_steps=60,
        imitation_problems=8,
        imitation_batch_size=32,
    )


def test_what_disagrees_is_not_written_and_every_position_has_its_label() -> None:
    """Positions 0 and 2 are right at once, then 1, then 3, then 4; the rule would write everything."""
    denoiser, reference = Needing([(), (0,), (), (1, 2), (3,)]), torch.full((1, 5), RIGHT)
    policy = Corrected(load_heuristic("leftmost:5"), "full", 1, NO_EXTRAS)
    played = rollout(
        denoiser,
        policy,
        Rules(response_length=5).resolve(),
        [[2]],
        [0],
        memory={"reference": reference},
        record=True,
    )
    assert played.responses.tolist() == reference.tolist()
    assert played.revealed_at[0].tolist() == [0, 1, 0, 2, 3]
    assert played.trajectories is not None
    order = played.trajectories.observation.step.argsort()
    labels = (played.trajectories.draw > 0)[order].int().tolist()
    assert labels == [[1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_where_nothing_proposed_agrees_the_leftmost_position_is_written() -> None:
    """top_k:1 is as sure of every position, and takes the leftmost; a rule that wants position 3 has to wait."""

    class Last:
        name, context, top, extras, remasks = "last", "full", 1, NO_EXTRAS, False

        def act(self, observation, random):
            last = observation.selectable & (observation.selectable.flip(-1).cumsum(-1).flip(-1) == 1)
            return Decision(last, memory={"asked": observation.step + 1})

    denoiser, reference = Needing([(), (), (1,), (2,)]), torch.full((1, 4), RIGHT)
    policy = Corrected(Last(), "full", 1, Extras(entropy=True))  # type: ignore[arg-type]
    assert policy.extras == Extras(entropy=True, token=True)
    rules = Rules(response_length=4).resolve()
    played = rollout(denoiser, policy, rules, [[2]], [0], memory={"reference": reference}, record=True)
    # Position 3 disagrees until 2 is written, which waits for 1: from the left, then 3 agrees at last.
    assert played.revealed_at[0].tolist() == [0, 1, 2, 3]


def test_where_the_leftmost_position_disagrees_the_surest_that_agrees_is_written() -> None:
    """From the right: 3 first, then 2, 1, 0, whatever the leftmost rule wants."""
    denoiser, reference = Needing([(1,), (2,), (3,), ()]), torch.full((1, 4), RIGHT)
    policy = Corrected(load_heuristic("leftmost:1"), "full", 1, NO_EXTRAS)
    rules = Rules(response_length=4).resolve()
    played = rollout(denoiser, policy, rules, [[2]], [0], memory={"reference": reference})
    assert played.responses.tolist() == reference.tolist()
    assert played.revealed_at[0].tolist() == [3, 2, 1, 0]


def test_scores_become_log_odds_less_the_logarithm_of_what_a_mistake_costs(toy: GRPO) -> None:
    """Of positions that look alike four of five agree: log 4, less log(L/α), at most that of ``CAREFUL``."""
    settings = toy.changed(preferences=(1e-4, 10.0), sight=(), imitation_batch_size=256)
    setup, rows = make_setup(settings), 100
    setup.policy.network.train()
    masked, none = torch.ones(rows, LENGTH, dtype=torch.bool), torch.zeros(rows)
    seen = Observation(masked[..., None] * 0.7, masked, masked, none, masked.sum(-1), none.long())
    agreeing = (torch.arange(rows * LENGTH) % 5 > 0).view(rows, LENGTH)
    optimizer = torch.optim.Adam(setup.policy.network.parameters(), lr=5e-3)
    generator = torch_generator("test")
    for _ in range(300):
        dagger._learn_once(setup, settings, optimizer, seen, agreeing, generator)
    for alpha in (1e-4, 0.01, 0.1, 1.0, 10.0):
        with torch.no_grad():
            asked = replace(seen[torch.arange(1)], preference=torch.tensor([alpha]))
            score = setup.policy.network(asked)[0]
        expected = math.log(4) - math.log(min(LENGTH / alpha, dagger.CAREFUL))
        assert score.tolist() == pytest.approx([expected] * LENGTH, abs=0.5), alpha


@pytest.mark.parametrize("changes", [{}, {"head": "bernoulli"}, {"preferences": (0.01, 10.0)}, {"block_length": 2}])
def test_a_policy_that_was_corrected_is_right_and_fast(toy: GRPO, changes: dict[str, object]) -> None:
    settings = toy.changed(**changes, alpha=1.0)
    setup = make_setup(settings)
    check_start(setup, settings)
    before = validate(setup, setup.policy.at(1.0), settings)[0]
    imitate(setup, settings)
    after = validate(setup, setup.policy.at(1.0), settings)[0]
    assert after.accuracy > 0.6
    assert after.reward > before.reward + 0.1


def test_heads_of_k_positions_learn_from_it_too(toy: GRPO) -> None:
    settings = toy.changed(head="plackett_luce:k=2")
    setup = make_setup(settings)
    assert setup.policy.head == PlackettLuce(2)
    imitate(setup, settings)
    assert validate(setup, setup.policy, settings)[0].accuracy > 0.6


def test_it_is_a_start_of_ppo(toy: GRPO) -> None:
    shared = {name: getattr(toy.imitation, name) for name in ("start", "imitation_steps", "imitation_problems")}
    settings = PPO().changed(task="all-a", denoiser="pairs", width=16, imitation_learning_rate=1e-2, **shared)
    setup = make_setup(settings)
    imitate(setup, settings)
    assert validate(setup, setup.policy, settings)[0].accuracy > 0.6


def test_it_says_beforehand_how_much_it_plays(toy: GRPO, capsys: pytest.CaptureFixture[str]) -> None:
    imitate(make_setup(toy), toy)
    said = " ".join(capsys.readouterr().out.split())
    most = 8 * LENGTH * (dagger.ROUNDS + 3)
    assert "8 training problems, written by leftmost:1, or if wrong by rightmost:1, or if wrong by top_k:1" in said
    assert "and 5 times under correction" in said
    assert f"at most {most} denoiser evaluations" in said


@pytest.mark.parametrize("problems", [1, 3, 5])
def test_there_may_be_fewer_problems_than_teachers(toy: GRPO, problems: int) -> None:
    settings = toy.changed(imitation_problems=problems)
    setup = make_setup(settings)
    imitate(setup, settings)
    assert validate(setup, setup.policy, settings)[0].accuracy > 0.6


def test_where_nothing_is_right_nothing_is_learnt(
    toy: GRPO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TASKS, "never", lambda: Never())
    settings = toy.changed(task="never")
    setup = make_setup(settings)
    before = setup.policy.network.score.weight.clone()
    imitate(setup, settings)
    assert torch.equal(setup.policy.network.score.weight, before)
    assert "nothing to imitate: dagger solves none of 8" in " ".join(capsys.readouterr().out.split())


def test_the_same_seed_learns_the_same(toy: GRPO) -> None:
    first, second = make_setup(toy), make_setup(toy)
    for setup in (first, second):
        imitate(setup, toy)
    assert torch.equal(first.policy.network.input.weight, second.policy.network.input.weight)
