"""GRPO on a toy problem whose best policy is known, and runs that are stopped and continued."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from logs import assert_logged_once
from pairs import LENGTH, AllA, Never, PairDenoiser, assert_same_run, enter, weights
from stable_baselines3.common.logger import Logger

from dllm_env.errors import UsageError
from dllm_env.policies.heads import Bernoulli
from dllm_env.policies.learned import load_policy
from dllm_env.tasks.base import Problem, Split
from dllm_env.tasks.load import TASKS
from dllm_env.train import grpo
from dllm_env.train.batches import Batch, Mixture
from dllm_env.train.callbacks import Learner
from dllm_env.train.config import learning_rate
from dllm_env.train.grpo import (
    GRPO,
    alpha_at,
    collect,
    learn,
    make_batch,
    make_learner,
    step_within,
    train_grpo,
)
from dllm_env.train.settings_file import RENAMED
from dllm_env.train.setup import make_setup
from dllm_env.train.validation import Score, heads_at_test, rank, validate


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> GRPO:
    enter(monkeypatch)
    return GRPO().changed(
        task="all-a",
        denoiser="pairs",
        updates=60,
        prompts=8,
        warmup=3,
        learning_rate=3e-3,
        width=16,
        bias=-1.0,
        imitation_steps=0,
        alpha_warmup=0,
        validation_problems=64,
        evaluate_every=20,
        save_every=2,
    )


def test_learns_the_best_policy(toy: GRPO, tmp_path: Path) -> None:
    before = validate(make_setup(toy), make_setup(toy).policy, toy)[0]
    assert before.accuracy < 0.3
    train_grpo(toy, tmp_path / "run")
    setup = make_setup(toy)
    policy = load_policy(str(tmp_path / "run"))
    after = validate(setup, policy, toy)[0]
    assert after.accuracy > 0.9
    # Two positions at a time are two evaluations; steps that reveal one of a pair cost more.
    assert after.nfe < 3.0
    assert policy.training["validation"]["accuracy"] == pytest.approx(after.accuracy)  # type: ignore[attr-defined]


def test_expert_steering_learns_too(toy: GRPO, tmp_path: Path) -> None:
    settings = toy.changed(experts=1, expert="threshold:0.8", expert_block_length=2)
    train_grpo(settings, tmp_path / "run")
    setup = make_setup(settings)
    after = validate(setup, load_policy(str(tmp_path / "run")), settings)[0]
    assert after.accuracy > 0.9
    expert = [row["rollout/expert_accuracy"] for row in logged(tmp_path / "run")]
    assert [float(value) for value in expert[:40]] == [1.0] * 40
    assert not any(expert[40:])  # steering ends with expert_updates


def test_an_update_in_which_nobody_is_right_changes_nothing(toy: GRPO, tmp_path: Path) -> None:
    never = toy.changed(task="never", experts=1, expert_block_length=2, updates=1, weight_decay=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "never", lambda: Never())
        train_grpo(never, tmp_path / "run")
        start = make_setup(never).policy.network.score.weight
    assert torch.equal(weights(tmp_path / "run")["network.score.weight"], start)
    (row,) = logged(tmp_path / "run")
    assert float(row["rollout/groups_without_signal"]) == 1.0


def test_alpha_rises() -> None:
    settings = GRPO().changed(alpha=0.4, alpha_warmup=4)
    assert [alpha_at(settings, update) for update in (0, 1, 2, 4, 9)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])
    assert alpha_at(settings.changed(alpha_warmup=0), 0) == 0.4


def test_mixture_by_hand() -> None:
    log_prob = torch.tensor([0.5, 0.0]).log()
    assert Mixture(3, 1)(log_prob).exp().tolist() == pytest.approx([0.75 * 0.5 + 0.25, 0.25])


def logged(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "logs/progress.csv").read_text().splitlines()))


@pytest.mark.parametrize("stop", [3, 4])
def test_kill_and_resume_give_the_same_weights(toy: GRPO, tmp_path: Path, stop: int) -> None:
    settings = toy.changed(updates=6, evaluate_every=2, ema_decay=0.5)
    train_grpo(settings, tmp_path / "whole")
    train_grpo(settings, tmp_path / "halves", stop_after=stop)
    train_grpo(settings, tmp_path / "halves", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    assert_logged_once(tmp_path / "whole", tmp_path / "halves")


def test_logs_of_a_run_that_was_killed_often_or_while_it_wrote(toy: GRPO, tmp_path: Path) -> None:
    settings, folder = toy.changed(updates=6, evaluate_every=2, save_every=4), tmp_path / "halves"
    train_grpo(settings, tmp_path / "whole")
    train_grpo(settings, folder, stop_after=3)  # before the first checkpoint but that of the start
    train_grpo(settings, folder, resume=True, stop_after=5)
    for path in folder.glob("logs/*"):  # the last record is there in part
        path.write_bytes(path.read_bytes()[:-7])
    train_grpo(settings, folder, resume=True, stop_after=5)
    train_grpo(settings, folder, resume=True)
    assert_logged_once(tmp_path / "whole", folder)


def test_same_seed_same_run(toy: GRPO, tmp_path: Path) -> None:
    settings = toy.changed(updates=3)
    for name in ("a", "b"):
        train_grpo(settings, tmp_path / name)
    train_grpo(settings.changed(seed=2), tmp_path / "c")
    a, b, c = (weights(tmp_path / name)["network.score.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_logs_what_a_researcher_looks_at(toy: GRPO, tmp_path: Path) -> None:
    train_grpo(toy.changed(updates=4, evaluate_every=2), tmp_path / "run")
    rows = logged(tmp_path / "run")
    assert [int(float(row["time/update"])) for row in rows] == [1, 2, 3, 4]
    for key in (
        "rollout/reward",
        "rollout/accuracy",
        "rollout/nfe",
        "rollout/entropy",
        "rollout/groups_without_signal",
        "train/ratio_mean",
        "train/clip_share",
        "train/gradient_norm",
        "time/rollouts_per_second",
        "time/denoiser_seconds",
    ):
        assert all(row[key] for row in rows), key
    assert [bool(row["validation/accuracy"]) for row in rows] == [False, True, False, True]
    assert list((tmp_path / "run/logs").glob("events.out.tfevents*"))


def test_old_log_prob_is_that_of_the_policy_that_acted(toy: GRPO, tmp_path: Path) -> None:
    train_grpo(toy.changed(updates=1, gradient_steps=1), tmp_path / "run")
    (row,) = logged(tmp_path / "run")
    assert float(row["train/ratio_mean"]) == pytest.approx(1.0, abs=1e-6)
    assert float(row["train/ratio_max"]) == pytest.approx(1.0, abs=1e-5)


def test_an_update_stays_within_the_trust_region(toy: GRPO, tmp_path: Path) -> None:
    wide, bound = toy.changed(updates=1, learning_rate=0.1, warmup=0, target_kl=0.0), 0.002
    train_grpo(wide, tmp_path / "wide")
    train_grpo(wide.changed(target_kl=bound), tmp_path / "bound")
    (free,), (held,) = logged(tmp_path / "wide"), logged(tmp_path / "bound")
    divergence = float(free["train/approximate_kl"])
    assert free["train/step"] == "1.0"
    assert divergence > 10 * bound
    assert float(held["train/step"]) == pytest.approx(math.sqrt(bound / divergence), rel=1e-3)
    start = make_setup(toy).policy.network.state_dict()
    moves = [weights(tmp_path / name) for name in ("wide", "bound")]
    for name, value in start.items():
        whole, part = (move[f"network.{name}"] - value for move in moves)
        assert torch.allclose(part, whole * float(held["train/step"]), atol=1e-6)


def test_step_within() -> None:
    assert [step_within(0.02, d) for d in (0.0, 0.01, 0.02, 0.08, math.inf)] == [1.0, 1.0, 1.0, 0.5, 0.0]
    assert step_within(0.0, 5.0) == 1.0


def test_learning_rate() -> None:
    settings = GRPO().changed(updates=100, warmup=10, learning_rate=1.0)
    assert learning_rate(settings, 0) == pytest.approx(0.1)
    assert learning_rate(settings, 50) == pytest.approx(0.5)
    assert learning_rate(settings, 99) < 0.001


def test_refuses_a_folder_that_holds_a_run(toy: GRPO, tmp_path: Path) -> None:
    train_grpo(toy.changed(updates=1), tmp_path / "run")
    with pytest.raises(UsageError, match="--resume"):
        train_grpo(toy.changed(updates=1), tmp_path / "run")
    with pytest.raises(UsageError, match="another alpha"):
        train_grpo(toy.changed(updates=1, alpha=3.0), tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="nothing to resume"):
        train_grpo(toy, tmp_path / "other", resume=True)


def test_a_run_stopped_before_its_first_update_can_be_resumed(toy: GRPO, tmp_path: Path) -> None:
    settings = toy.changed(updates=2)

    def stop(*_: object) -> str:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grpo, "train_once", stop)
        with pytest.raises(KeyboardInterrupt):
            train_grpo(settings, tmp_path / "halves")
    train_grpo(settings, tmp_path / "halves", resume=True)
    train_grpo(settings, tmp_path / "whole")
    whole, halves = weights(tmp_path / "whole"), weights(tmp_path / "halves")
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_damaged_checkpoint_is_refused(toy: GRPO, tmp_path: Path) -> None:
    train_grpo(toy.changed(updates=1), tmp_path / "run")
    (tmp_path / "run/checkpoint.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UsageError, match="cannot resume"):
        train_grpo(toy.changed(updates=1), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_length": 3}, "does not divide"),
        ({"alpha": -1.0}, "alpha"),
        ({"num_generations": 1}, "num_generations"),
        ({"updates": 0}, "updates"),
        ({"task": "nothing"}, "unknown task"),
        ({"reward": "other"}, "unknown reward"),
        ({"width": 15}, "even multiple"),
        ({"ema_decay": 1.0}, "ema_decay"),
        ({"target_kl": -1.0}, "target_kl"),
        ({"nfe_budget": 0.0}, "nfe_budget"),
        ({"experts": 1, "expert_block_length": 3}, "the expert's block length 3 does not divide"),
        ({"response_length": 36}, "exceed the context"),
    ],
)
def test_bad_settings_leave_nothing_behind(toy: GRPO, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train_grpo(toy.changed(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_average_of_weights_follows(toy: GRPO) -> None:
    setup = make_setup(toy)
    learner = make_learner(setup, toy)
    with torch.no_grad():
        learner.network.score.bias.fill_(1.0)
        learner.average.score.bias.fill_(0.0)
    learner.update = 1000
    learner.follow(0.75)
    assert learner.average.score.bias.item() == pytest.approx(0.25)
    learner.follow(0.0)
    assert torch.equal(learner.average.score.bias, learner.network.score.bias)


def test_best_is_within_the_budget_first(toy: GRPO) -> None:
    settings = toy.changed(nfe_budget=0.5)
    setup = make_setup(settings)
    slow, fast, faster = Score(0.9, 0.9, LENGTH / 2 + 0.1), Score(0.5, 0.5, LENGTH / 2), Score(0.4, 0.5, 1.0)
    assert sorted((fast, slow, faster), key=lambda score: rank(score, setup, settings)) == [slow, faster, fast]
    assert sorted((fast, slow), key=lambda score: rank(score, setup, toy)) == [fast, slow]


# ------------------------------------------------------------------------------------------- what must not happen


def one_update(settings: GRPO) -> tuple[Learner, Batch, Logger]:
    """A learner, the steps of its first update, and a log."""
    setup, log = make_setup(settings), Logger(None, [])
    learner = make_learner(setup, settings)
    return learner, make_batch(setup, settings, collect(setup, settings, 0, log)), log


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("target_kl", [0.0, 0.02])
def test_an_infinite_ratio_changes_nothing(toy: GRPO, sign: float, target_kl: float) -> None:
    """exp(log π − (−1000)) overflows; where the clip hides it from the loss, its gradient is 0 · ∞."""
    settings = toy.changed(target_kl=target_kl)
    learner, batch, log = one_update(settings)
    batch.old_log_prob[0], batch.advantage[0] = -1000.0, sign
    before = [parameter.clone() for parameter in learner.network.parameters()]
    learn(learner, batch, settings, log)
    assert all(torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))
    assert log.name_to_value["train/skipped"] == settings.gradient_steps
    learn(learner, batch, settings, log)  # and the optimizer is not spoiled either
    assert not learner.optimizer.state


@pytest.mark.parametrize("target_kl", [0.0, 0.02])
def test_a_step_to_nowhere_is_taken_back(
    toy: GRPO, tmp_path: Path, target_kl: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = toy.changed(updates=2, target_kl=target_kl, ema_decay=0.0)
    monkeypatch.setattr("dllm_env.train.grpo.learning_rate", lambda *_: 1e30)  # no setting allows it
    train_grpo(settings, tmp_path / "run")
    saved = weights(tmp_path / "run")
    start = make_setup(settings).policy.network.state_dict()
    assert all(torch.equal(saved[f"network.{name}"], value) for name, value in start.items())
    assert float(logged(tmp_path / "run")[0]["train/skipped"]) == settings.gradient_steps


def test_usual_updates_are_not_skipped(toy: GRPO, tmp_path: Path) -> None:
    train_grpo(toy.changed(updates=2), tmp_path / "run")
    assert [float(row["train/skipped"]) for row in logged(tmp_path / "run")] == [0.0, 0.0]


def test_steps_weigh_their_trajectory_alike(toy: GRPO) -> None:
    """A trajectory of T steps has weight 1/(N·T) at each: in all 1/N, whatever its length."""
    setup, log = make_setup(toy), Logger(None, [])
    drawn = collect(setup, toy, 0, log)
    batch, steps = make_batch(setup, toy, drawn), drawn.attempt.rollout.trajectories
    assert steps is not None
    rows = steps.row[drawn.advantages.flatten()[steps.row] != 0]
    total = torch.zeros(drawn.rewards.numel()).index_add_(0, rows, batch.weight)
    assert len(set(drawn.attempt.rollout.steps.tolist())) > 1
    assert total[rows.unique()].tolist() == pytest.approx([1 / drawn.rewards.numel()] * len(rows.unique()))


@pytest.mark.parametrize("own", [1.0, 0.5])
def test_validation_keeps_the_heads_own_temperature(toy: GRPO, tmp_path: Path, own: float) -> None:
    settings = toy.changed(updates=1, head=f"bernoulli:temperature={own}", test_temperatures=(1.0,))
    train_grpo(settings, tmp_path / "run")
    policy = load_policy(str(tmp_path / "run"))
    assert policy.head == Bernoulli(temperature=own)  # type: ignore[attr-defined]
    assert logged(tmp_path / "run")[0]["validation/temperature"] == str(own)
    heads = heads_at_test(Bernoulli(temperature=own), toy.changed(test_temperatures=(1.0, 0.6)).validation)
    assert [head.temperature for head in heads] == [own, 0.6 * own]


def test_forced_progress_at_test_only(toy: GRPO, tmp_path: Path) -> None:
    settings = toy.changed(updates=1, head="bernoulli", test_force_progress=True, test_temperatures=(0.5,))
    train_grpo(settings, tmp_path / "run")
    assert load_policy(str(tmp_path / "run")).head == Bernoulli(0.5, force_progress=True)  # type: ignore[attr-defined]
    assert make_setup(settings).policy.head == Bernoulli()
    with pytest.raises(UsageError, match="test_force_progress is for head bernoulli"):
        train_grpo(toy.changed(test_force_progress=True), tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_blocks_that_end_leave_text_to_judge(toy: GRPO, tmp_path: Path) -> None:
    settings = toy.changed(updates=2, limit_block_steps=True, block_length=2, head="bernoulli", bias=-3.0)
    train_grpo(settings, tmp_path / "run")
    assert all(float(row["rollout/finished"]) == 1.0 for row in logged(tmp_path / "run"))
    train_grpo(settings.changed(limit_block_steps=False), tmp_path / "other")
    assert all(float(row["rollout/finished"]) < 1.0 for row in logged(tmp_path / "other"))


def test_long_prompts_are_left_out(toy: GRPO) -> None:
    class Long(AllA):
        """Every third prompt is long: 4, 4, 12, 4, 4, 12 … in tokens of one letter."""

        def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
            return Problem("long", split, seed, index, "A" * (12 if index % 3 == 2 else 4), ())

    setup = make_setup(toy)
    setup.task, setup.max_prompt_length = Long(), 4
    setup.denoiser.encode = lambda text: [3] * len(text)  # type: ignore[method-assign]
    assert [setup.left_out(count) for count in (0, 2, 3, 4)] == [0, 0, 1, 1]
    assert [problem.index for problem in setup.problems(0, 4)] == [0, 1, 3, 4]
    assert [problem.index for problem in setup.problems(4, 3)] == [6, 7, 9]
    later = replace(setup, _short=[])
    assert [problem.index for problem in later.problems(4, 3)] == [6, 7, 9]
    with pytest.raises(UsageError, match="none has a prompt of at most 3 tokens"):
        replace(setup, _short=[], max_prompt_length=3).problems(0, 1)
    assert replace(setup, _short=[], max_prompt_length=0).left_out(9) == 0


def test_prompts_that_are_left_out_are_logged(toy: GRPO, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two prompts an update of every second problem; a run that goes on counts from the first problem."""
    monkeypatch.setattr(PairDenoiser, "encode", lambda self, text: [3] * len(text))

    class Alternating(AllA):
        def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
            return replace(super().problem(index, split, seed), prompt="A" * (2 - index % 2))

    monkeypatch.setitem(TASKS, "all-a", Alternating)
    settings = toy.changed(updates=2, prompts=2, max_prompt_length=1, validation_problems=2, evaluate_every=2)
    train_grpo(settings, tmp_path / "run", stop_after=1)
    train_grpo(settings, tmp_path / "run", resume=True)
    assert [float(row["rollout/long_prompts_left_out"]) for row in logged(tmp_path / "run")] == [2.0, 4.0]
    train_grpo(settings.changed(updates=1, max_prompt_length=0), tmp_path / "all")
    assert "rollout/long_prompts_left_out" not in logged(tmp_path / "all")[0]


def test_a_run_of_an_older_version_goes_on(toy: GRPO, tmp_path: Path) -> None:
    """Its settings.json has the old names, and not those that are new."""
    settings = toy.changed(updates=4, save_every=2)
    train_grpo(settings, tmp_path / "whole")
    train_grpo(settings, tmp_path / "halves", stop_after=2)
    path = tmp_path / "halves" / "settings.json"
    table, old = json.loads(path.read_text()), {new: name for name, new in RENAMED.items()}
    new = ("reward_weights", "cost", "max_prompt_length", "limit_block_steps", "test_force_progress")
    path.write_text(json.dumps({old.get(name, name): v for name, v in table.items() if name not in new}))
    train_grpo(settings, tmp_path / "halves", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
