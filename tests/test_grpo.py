"""GRPO on a toy problem whose best policy is known, and runs that are stopped and continued."""

from __future__ import annotations

import csv
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from logs import assert_logged_once
from pairs import LENGTH, Never, assert_same_run, enter, weights

from dllm_env.dynamics import Context
from dllm_env.errors import UsageError
from dllm_env.policies.learned import load_policy
from dllm_env.tasks.load import TASKS
from dllm_env.train import grpo
from dllm_env.train.grpo import GRPO, PRESETS, Learner, alpha_at, mixture, step_within, train_grpo
from dllm_env.train.setting import Score, Setting, learning_rate, validate


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> GRPO:
    enter(monkeypatch)
    return GRPO(
        task="all-a",
        denoiser="pairs",
        updates=60,
        prompts=8,
        warmup=3,
        rate=3e-3,
        width=16,
        bias=-1.0,
        imitation=0,
        alpha_warmup=0,
        validation_problems=64,
        evaluate_every=20,
        save_every=2,
    )


def test_learns_the_best_policy(toy: GRPO, tmp_path: Path) -> None:
    before = validate(Setting(toy), Setting(toy).policy, toy)[0]
    assert before.accuracy < 0.3
    train_grpo(toy, tmp_path / "run")
    setting = Setting(toy)
    policy = load_policy(str(tmp_path / "run"))
    after = validate(setting, policy, toy)[0]
    assert after.accuracy > 0.9
    # Two positions at a time are two evaluations; steps that reveal one of a pair cost more.
    assert after.nfe < 3.0
    assert policy.training["validation"]["accuracy"] == pytest.approx(after.accuracy)  # type: ignore[attr-defined]


@pytest.mark.parametrize("context", ["full", "block"])
def test_expert_steering_learns_too(toy: GRPO, tmp_path: Path, context: Context) -> None:
    settings = replace(toy, experts=1, expert="threshold:0.8", expert_block_length=2, context=context)
    train_grpo(settings, tmp_path / "run")
    setting = Setting(settings)
    after = validate(setting, load_policy(str(tmp_path / "run")), settings)[0]
    assert after.accuracy > 0.9
    expert = [row["rollout/expert_accuracy"] for row in logged(tmp_path / "run")]
    assert [float(value) for value in expert[:40]] == [1.0] * 40
    assert not any(expert[40:])  # steering ends with expert_updates


def test_an_update_in_which_nobody_is_right_changes_nothing(toy: GRPO, tmp_path: Path) -> None:
    never = replace(toy, task="never", experts=1, expert_block_length=2, updates=1, weight_decay=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "never", lambda: Never())
        train_grpo(never, tmp_path / "run")
        start = Setting(never).policy.network.score.weight
    assert torch.equal(weights(tmp_path / "run")["network.score.weight"], start)
    (row,) = logged(tmp_path / "run")
    assert float(row["rollout/groups_without_signal"]) == 1.0


def test_alpha_rises() -> None:
    settings = GRPO(alpha=0.4, alpha_warmup=4)
    assert [alpha_at(settings, update) for update in (0, 1, 2, 4, 9)] == pytest.approx([0, 0.1, 0.2, 0.4, 0.4])
    assert alpha_at(replace(settings, alpha_warmup=0), 0) == 0.4


def test_mixture_by_hand(toy: GRPO) -> None:
    settings = replace(toy, group=3, experts=1)
    log_prob = torch.tensor([0.5, 0.0]).log()
    assert mixture(log_prob, settings).exp().tolist() == pytest.approx([0.75 * 0.5 + 0.25, 0.25])


def logged(folder: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "logs/progress.csv").read_text().splitlines()))


@pytest.mark.parametrize("stop", [3, 4])
def test_kill_and_resume_give_the_same_weights(toy: GRPO, tmp_path: Path, stop: int) -> None:
    settings = replace(toy, updates=6, evaluate_every=2, averaging=0.5)
    train_grpo(settings, tmp_path / "whole")
    train_grpo(settings, tmp_path / "halves", stop_after=stop)
    train_grpo(settings, tmp_path / "halves", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    assert_logged_once(tmp_path / "whole", tmp_path / "halves")


def test_logs_of_a_run_that_was_killed_often_or_while_it_wrote(toy: GRPO, tmp_path: Path) -> None:
    settings, folder = replace(toy, updates=6, evaluate_every=2, save_every=4), tmp_path / "halves"
    train_grpo(settings, tmp_path / "whole")
    train_grpo(settings, folder, stop_after=3)  # before the first checkpoint but that of the start
    train_grpo(settings, folder, resume=True, stop_after=5)
    for path in folder.glob("logs/*"):  # the last record is there in part
        path.write_bytes(path.read_bytes()[:-7])
    train_grpo(settings, folder, resume=True, stop_after=5)
    train_grpo(settings, folder, resume=True)
    assert_logged_once(tmp_path / "whole", folder)


def test_same_seed_same_run(toy: GRPO, tmp_path: Path) -> None:
    settings = replace(toy, updates=3)
    for name in ("a", "b"):
        train_grpo(settings, tmp_path / name)
    train_grpo(replace(settings, seed=2), tmp_path / "c")
    a, b, c = (weights(tmp_path / name)["network.score.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_logs_what_a_researcher_looks_at(toy: GRPO, tmp_path: Path) -> None:
    train_grpo(replace(toy, updates=4, evaluate_every=2), tmp_path / "run")
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
    train_grpo(replace(toy, updates=1, gradient_steps=1), tmp_path / "run")
    (row,) = logged(tmp_path / "run")
    assert float(row["train/ratio_mean"]) == pytest.approx(1.0, abs=1e-6)
    assert float(row["train/ratio_max"]) == pytest.approx(1.0, abs=1e-5)


def test_an_update_stays_within_the_trust_region(toy: GRPO, tmp_path: Path) -> None:
    wide, bound = replace(toy, updates=1, rate=0.1, warmup=0, trust_region=0.0), 0.002
    train_grpo(wide, tmp_path / "wide")
    train_grpo(replace(wide, trust_region=bound), tmp_path / "bound")
    (free,), (held,) = logged(tmp_path / "wide"), logged(tmp_path / "bound")
    divergence = float(free["train/approximate_kl"])
    assert free["train/step"] == "1.0"
    assert divergence > 10 * bound
    assert float(held["train/step"]) == pytest.approx(math.sqrt(bound / divergence), rel=1e-3)
    start = Setting(toy).policy.network.state_dict()
    moves = [weights(tmp_path / name) for name in ("wide", "bound")]
    for name, value in start.items():
        whole, part = (move[f"network.{name}"] - value for move in moves)
        assert torch.allclose(part, whole * float(held["train/step"]), atol=1e-6)


def test_step_within() -> None:
    assert [step_within(0.02, d) for d in (0.0, 0.01, 0.02, 0.08, math.inf)] == [1.0, 1.0, 1.0, 0.5, 0.0]
    assert step_within(0.0, 5.0) == 1.0


def test_learning_rate() -> None:
    settings = GRPO(updates=100, warmup=10, rate=1.0)
    assert learning_rate(settings, 0) == pytest.approx(0.1)
    assert learning_rate(settings, 50) == pytest.approx(0.5)
    assert learning_rate(settings, 99) < 0.001


def test_refuses_a_folder_that_holds_a_run(toy: GRPO, tmp_path: Path) -> None:
    train_grpo(replace(toy, updates=1), tmp_path / "run")
    with pytest.raises(UsageError, match="--resume"):
        train_grpo(replace(toy, updates=1), tmp_path / "run")
    with pytest.raises(UsageError, match="another alpha"):
        train_grpo(replace(toy, updates=1, alpha=3.0), tmp_path / "run", resume=True)
    with pytest.raises(UsageError, match="nothing to resume"):
        train_grpo(toy, tmp_path / "other", resume=True)


def test_a_run_stopped_before_its_first_update_can_be_resumed(toy: GRPO, tmp_path: Path) -> None:
    settings = replace(toy, updates=2)

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
    train_grpo(replace(toy, updates=1), tmp_path / "run")
    (tmp_path / "run/checkpoint.safetensors").write_bytes(b"no tensors")
    with pytest.raises(UsageError, match="cannot resume"):
        train_grpo(replace(toy, updates=1), tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_length": 3}, "does not divide"),
        ({"alpha": -1.0}, "alpha"),
        ({"group": 1}, "group"),
        ({"updates": 0}, "updates"),
        ({"task": "nothing"}, "unknown task"),
        ({"reward": "other"}, "unknown reward"),
        ({"width": 15}, "even multiple"),
        ({"averaging": 1.0}, "averaging"),
        ({"trust_region": -1.0}, "trust_region"),
        ({"nfe_budget": 0.0}, "nfe_budget"),
        ({"experts": 1, "expert_block_length": 3}, "the expert's block length 3 does not divide"),
        ({"response_length": 36}, "exceed the context"),
    ],
)
def test_bad_settings_leave_nothing_behind(toy: GRPO, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train_grpo(replace(toy, **changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_average_of_weights_follows(toy: GRPO) -> None:
    setting = Setting(toy)
    learner = Learner(setting, toy)
    with torch.no_grad():
        learner.network.score.bias.fill_(1.0)
        learner.average.score.bias.fill_(0.0)
    learner.update = 1000
    learner.follow(0.75)
    assert learner.average.score.bias.item() == pytest.approx(0.25)
    learner.follow(0.0)
    assert torch.equal(learner.average.score.bias, learner.network.score.bias)


def test_best_is_within_the_budget_first(toy: GRPO) -> None:
    settings = replace(toy, nfe_budget=0.5)
    setting = Setting(settings)
    slow, fast, faster = Score(0.9, 0.9, LENGTH / 2 + 0.1), Score(0.5, 0.5, LENGTH / 2), Score(0.4, 0.5, 1.0)
    assert sorted((fast, slow, faster), key=lambda score: setting.rank(score, settings)) == [slow, faster, fast]
    assert sorted((fast, slow), key=lambda score: setting.rank(score, toy)) == [fast, slow]


def test_paper_preset_has_the_papers_values() -> None:
    paper = PRESETS["paper"]
    assert (paper.rate, paper.clip, paper.gradient_norm, paper.weight_decay) == (3e-5, 0.5, 0.2, 0.1)
    assert (paper.group, paper.gradient_steps, paper.warmup, paper.updates) == (8, 2, 100, 938)
    assert paper.betas == (0.9, 0.99)
    assert paper.head == "bernoulli"
    assert not paper.divide_by_deviation
    assert (paper.trust_region, paper.averaging, paper.imitation, paper.alpha_warmup) == (0, 0, 0, 0)
