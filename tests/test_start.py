"""The start: what is tried, who is imitated on which problem, and that a policy learns from it."""

from __future__ import annotations

import pytest
import torch
from pairs import Never, enter

from dllm_env.errors import UsageError
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Rollout
from dllm_env.rewards import load_rewards
from dllm_env.tasks.base import Problem
from dllm_env.tasks.load import TASKS
from dllm_env.train import start
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.ppo import PPO, train_ppo
from dllm_env.train.setup import make_setup
from dllm_env.train.start import Candidate, best_rules, check_start, choose, demonstrate, imitate, looked_at
from dllm_env.train.validation import validate

RANGE = (0.01, 10.0)


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> GRPO:
    enter(monkeypatch)
    monkeypatch.setattr(start, "TRIED", 4)
    return GRPO().changed(
        task="all-a",
        denoiser="pairs",
        width=16,
        bias=-1.0,
        validation_problems=32,
        imitation_learning_rate=1e-2,
        imitation_steps=40,
        imitation_target=2.0,
        imitation_problems=12,
        imitation_batch_size=32,
    )


def played(correct: list[float], nfe: list[int]) -> start.Attempt:
    """An attempt of L = 10 with these outcomes."""
    none = torch.zeros(len(nfe))
    steps = torch.tensor(nfe)
    rollout = Rollout(torch.zeros(len(nfe), 10), none > 0, steps, steps, none, none, none, none)
    return start.Attempt(rollout, [""] * len(nfe), torch.tensor(correct))


PROBLEMS = [Problem("t", "train", 0, index, "", ()) for index in range(4)]
TRIED = [
    Candidate("slow", played([1, 1, 1, 1], [9, 9, 9, 9])),
    Candidate("middle", played([1, 1, 1, 0], [5, 5, 5, 5])),
    Candidate("fast", played([1, 0, 0, 0], [2, 2, 2, 2])),
    Candidate("oracle", played([1, 1, 0, 1], [1, 1, 1, 1])),
]


class Earning:
    """What of a setup the choice reads."""

    rewards = load_rewards("multiplicative", alpha=1.0)


def test_the_best_rule_of_each_alpha_by_hand() -> None:
    """Mean rewards (L = 10): slow 0.2^α, middle 0.75·0.6^α, fast 0.25·0.9^α; the oracle is no rule."""
    grid = [0.01, 1.0, 6.0]
    assert best_rules(Earning(), TRIED, PROBLEMS, grid) == [0, 1, 2]  # type: ignore[arg-type]


def test_whose_trajectory_is_imitated_by_hand() -> None:
    """Bold problems take the right one of highest reward, careful ones the best rule's, right or wrong."""
    grid, careful = [0.01, 0.09, 1.0], [0, 1, 2]
    everywhere = torch.full((4,), 1.0)
    found = choose(Earning(), TRIED, PROBLEMS, everywhere, grid, careful)  # type: ignore[arg-type]
    assert found.tolist() == [3, 3, 1, 3]
    mixed = torch.tensor([0.011, 0.08, 1.0, 0.0999])
    found = choose(Earning(), TRIED, PROBLEMS, mixed, grid, careful)  # type: ignore[arg-type]
    assert found.tolist() == [0, 1, 1, 1]
    # Without a range, the rewards have one α for all, which is the grid's only one.
    assert choose(Earning(), TRIED, PROBLEMS, None, [1.0], [0]).tolist() == [3, 3, 1, 3]  # type: ignore[arg-type]
    assert choose(Earning(), TRIED, PROBLEMS, None, [0.0], [0]).tolist() == [0] * 4  # type: ignore[arg-type]


def test_alphas_that_are_looked_at() -> None:
    assert looked_at(GRPO().changed(alpha=0.3)) == [0.3]
    found = looked_at(GRPO().changed(preferences=(0.01, 1.0)))
    assert len(found) == start.ALPHAS
    assert (found[0], found[4], found[-1]) == (pytest.approx(0.01), pytest.approx(0.1), pytest.approx(1.0))


@pytest.mark.parametrize("name", ["portfolio", "oracle", "expert", "threshold:0.8", "leftmost:2"])
def test_every_start_teaches(toy: GRPO, name: str) -> None:
    """In this world all of them are right, and every step on the way to a right answer is shown."""
    settings = toy.changed(start=name, expert="threshold:0.8", expert_block_length=2)
    setup = make_setup(settings)
    shown = demonstrate(setup, settings)
    assert shown is not None
    assert shown.accuracy == 1.0
    assert shown.seen.masked.shape == shown.draw.shape
    assert ((shown.draw > 0) <= shown.seen.masked).all()
    assert (shown.draw > 0).any(-1).all()
    first = (shown.seen.step == 0).float()  # every problem has one first step, and counts once
    assert shown.weight.sum().item() == pytest.approx(first.sum().item()) == 12
    before = validate(setup, setup.policy, settings)[0].accuracy
    imitate(setup, settings)
    assert validate(setup, setup.policy, settings)[0].accuracy > max(0.6, before)


def test_the_portfolio_says_what_it_does(toy: GRPO, capsys: pytest.CaptureFixture[str]) -> None:
    settings = toy.changed(start="portfolio", preferences=RANGE)
    shown = demonstrate(make_setup(settings), settings)
    said = " ".join(capsys.readouterr().out.split())
    assert "leftmost:1, oracle on 4 training problems, at most 176 denoiser evaluations" in said
    assert "then the best of them on 8 more" in said
    assert "100.0%" in said
    assert shown is not None
    assert shown.seen.preference is not None
    assert ((shown.seen.preference >= RANGE[0]) & (shown.seen.preference <= RANGE[1])).all()
    assert shown.accuracy == 1.0
    # A pair at a time, or one position after the other: what is best at some α.
    assert set(((shown.draw > 0).sum(-1)).tolist()) <= {1, 2}


def test_what_is_tried_and_kept(toy: GRPO, monkeypatch: pytest.MonkeyPatch) -> None:
    """A head of two positions a step follows rules that do so; where nobody is bold, the oracle plays no more."""
    played: list[tuple[str, int]] = []
    real = start._play
    monkeypatch.setattr(start, "_play", lambda *a: played.append((a[2], len(a[3]))) or real(*a))
    for changes, names, later in (
        ({"head": "plackett_luce:k=2"}, ["leftmost:2", "top_k:2"], {"leftmost:2", "top_k:2"}),
        ({"alpha": 0.1}, [*start.PORTFOLIO, "oracle"], set(start.PORTFOLIO)),
        ({"alpha": 1.0}, [*start.PORTFOLIO, "oracle"], {*start.PORTFOLIO, "oracle"}),
    ):
        played.clear()
        settings = toy.changed(**changes)
        shown = demonstrate(make_setup(settings), settings)
        assert shown is not None
        assert [name for name, count in played if count == 4] == names
        rest = {name for name, count in played if count == 8}
        assert rest
        assert rest <= later
        assert ("oracle" in rest) == ("oracle" in later)
    assert ((shown.draw > 0).sum(-1) >= 1).all()


def test_few_problems_are_all_tried(toy: GRPO, capsys: pytest.CaptureFixture[str]) -> None:
    settings = toy.changed(start="portfolio", imitation_problems=3)
    assert demonstrate(make_setup(settings), settings) is not None
    assert "on 3 training problems" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("name", ["portfolio", "oracle", "threshold:0.8"])
def test_where_nothing_is_right_nothing_is_learnt(
    toy: GRPO, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TASKS, "never", lambda: Never())
    settings = toy.changed(task="never", start=name)
    setup = make_setup(settings)
    before = setup.policy.network.score.weight.clone()
    imitate(setup, settings)
    assert torch.equal(setup.policy.network.score.weight, before)
    assert f"nothing to imitate: {name} solves none of 12" in " ".join(capsys.readouterr().out.split())


def test_the_same_seed_shows_the_same(toy: GRPO) -> None:
    settings = toy.changed(preferences=RANGE)
    first, second = (demonstrate(make_setup(settings), settings) for _ in range(2))
    assert first is not None
    assert second is not None
    assert torch.equal(first.draw, second.draw)
    assert torch.equal(first.seen.confidence, second.seen.confidence)


@pytest.mark.parametrize("context", ["full", "block"])
@pytest.mark.parametrize("block", [0, 2])
def test_the_oracle_may_be_seen_by_the_block(toy: GRPO, context: str, block: int) -> None:
    settings = toy.changed(start="oracle", context=context, block_length=block)
    shown = demonstrate(make_setup(settings), settings)
    assert shown is not None
    assert shown.draw.shape[1] == (block if context == "block" and block else 4)
    assert ((shown.draw > 0).sum(-1) == 2).all()  # the pair that is ready, which only the oracle is sure of


def test_bad_starts_are_refused(toy: GRPO) -> None:
    for name, message in (
        ("clever", "unknown heuristic 'clever'"),
        ("wino", "the start wino puts tokens back to mask"),
    ):
        settings = toy.changed(start=name)
        with pytest.raises(UsageError, match=message):
            check_start(make_setup(settings), settings)
        check_start(make_setup(settings), settings.changed(imitation_steps=0))
    expert = toy.changed(start="expert", expert_block_length=3)
    with pytest.raises(UsageError, match="the expert's block length 3"):
        check_start(make_setup(expert), expert)
    assert load_heuristic(start.PORTFOLIO[0]).name


@pytest.mark.parametrize("name", ["portfolio", "none"])
def test_trainers_begin_with_it(toy: GRPO, name: str, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:  # type: ignore[no-untyped-def]
    seen = []
    real = start.demonstrate
    monkeypatch.setattr(start, "demonstrate", lambda *a: seen.append(a[1].imitation.start) or real(*a))
    common = {"start": name, "imitation_steps": 2, "updates": 1, "evaluate_every": 0, "validation_rules": ()}
    train_grpo(toy.changed(**common, prompts=2, num_generations=2), tmp_path / "grpo")
    ppo = PPO().changed(task="all-a", denoiser="pairs", width=16, num_envs=2, n_steps=2, validation_problems=2)
    train_ppo(ppo.changed(**common, imitation_problems=8), tmp_path / "ppo")
    assert seen == ([name] * 2 if name != "none" else [])
