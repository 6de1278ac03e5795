"""PPO on a toy problem whose best policy is known, with every head, and runs that are stopped and continued."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from logs import assert_logged_once
from pairs import AllA, PairDenoiser, assert_same_run, enter, weights

from dllm_env.errors import UsageError
from dllm_env.policies.heads import load_head
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.tasks.base import Problem, Split
from dllm_env.tasks.load import TASKS
from dllm_env.train.ppo import PPO, Supervisor, train_ppo
from dllm_env.train.run import Run
from dllm_env.train.setup import make_setup
from dllm_env.train.validation import validate


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> PPO:
    enter(monkeypatch)
    return PPO().changed(
        task="all-a",
        denoiser="pairs",
        updates=40,
        num_envs=32,
        n_steps=8,
        minibatch_size=64,
        warmup=2,
        learning_rate=3e-3,
        width=16,
        bias=-1.0,
        imitation_steps=0,
        validation_problems=64,
        evaluate_every=20,
        save_every=2,
    )


@pytest.mark.parametrize(
    ("head", "network"),
    [("bernoulli", "hidden"), ("dynamic_plackett_luce", "confidence"), ("plackett_luce:k=2", "confidence")],
)
def test_learns_the_best_policy(toy: PPO, tmp_path: Path, head: str, network: str) -> None:
    settings = toy.changed(head=head, network=network)
    train_ppo(settings, tmp_path / "run")
    policy = load_policy(str(tmp_path / "run"))
    assert isinstance(policy, LearnedPolicy)
    assert policy.head in [replace(load_head(head), temperature=t) for t in (1.0, 0.6)]  # type: ignore[type-var]
    after = validate(make_setup(settings), policy, settings)[0]
    assert after.accuracy > 0.9
    # Two positions at a time are two evaluations; steps that reveal one of a pair cost more.
    assert after.nfe < 3.0
    assert policy.training["validation"]["accuracy"] == pytest.approx(after.accuracy)


@pytest.mark.parametrize("stop", [3, 4])
def test_kill_and_resume_give_the_same_weights(toy: PPO, tmp_path: Path, stop: int) -> None:
    settings = toy.changed(updates=6, evaluate_every=2)
    train_ppo(settings, tmp_path / "whole")
    train_ppo(settings, tmp_path / "halves", stop_after=stop)
    train_ppo(settings, tmp_path / "halves", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    assert_logged_once(tmp_path / "whole", tmp_path / "halves")
    assert counted(tmp_path / "whole") == counted(tmp_path / "halves")


def counted(folder: Path) -> list[float]:
    """The gradient epochs at the end of each update, of all of a run's logs."""
    rows = [row for file in folder.glob("logs/*.csv") for row in csv.DictReader(file.read_text().splitlines())]
    return [float(row["train/n_updates"]) for row in sorted(rows, key=lambda row: int(row["time/update"]))]


def test_an_older_checkpoint_counts_on_from_about_where_it_was(toy: PPO, tmp_path: Path, monkeypatch) -> None:
    settings, save = toy.changed(updates=4), Run.save

    def older(self: Run, parts: dict[str, Any], info: dict[str, Any]) -> None:
        save(self, parts, {name: value for name, value in info.items() if name != "epochs"})

    monkeypatch.setattr(Run, "save", older)
    train_ppo(settings, tmp_path, stop_after=3)
    train_ppo(settings, tmp_path, resume=True)
    assert counted(tmp_path)[-1] > 2 * settings.n_epochs


def test_another_seed_is_another_run(toy: PPO, tmp_path: Path) -> None:
    settings = toy.changed(updates=2)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_ppo(settings.changed(seed=seed), tmp_path / name)
    a, b, c = (weights(tmp_path / name)["policy.network.score.weight"] for name in "abc")
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


def test_logs_what_a_researcher_looks_at(toy: PPO, tmp_path: Path) -> None:
    train_ppo(toy.changed(updates=4, evaluate_every=2), tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run/logs/progress.csv").read_text().splitlines()))
    assert [int(row["time/update"]) for row in rows] == [1, 2, 3, 4]
    for name in ("rollout/reward", "rollout/accuracy", "rollout/nfe", "train/clip_fraction", "train/learning_rate"):
        assert all(row[name] for row in rows), name
    assert [bool(row["validation/accuracy"]) for row in rows] == [False, True, False, True]


@pytest.mark.parametrize("preferences", [(), (0.1, 10.0)])
def test_logs_calls_and_what_was_asked(
    toy: PPO, tmp_path: Path, preferences: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls are those of an update: every step has one, and a new start one more, as in a run that goes on."""
    asked: list[list[float]] = [[]]
    logged = Supervisor._log_rollouts
    step = Supervisor._on_step

    def on_step(self: Supervisor) -> bool:
        over = self.locals["dones"].nonzero()[0]
        asked[-1] += [self.locals["infos"][row].get("alpha", settings.rewards.alpha) for row in over]
        return step(self)

    def on_update(self: Supervisor) -> str:
        asked.append([])
        return logged(self)

    # The policy writes something in every row and step, so that all of them need the denoiser.
    settings = toy.changed(updates=4, save_every=2, preferences=preferences, head="plackett_luce:k=1", n_steps=8)
    with monkeypatch.context() as patch:
        patch.setattr(Supervisor, "_on_step", on_step)
        patch.setattr(Supervisor, "_log_rollouts", on_update)
        train_ppo(settings, tmp_path / "whole")
    rows = list(csv.DictReader((tmp_path / "whole/logs/progress.csv").read_text().splitlines()))
    means = [sum(values) / len(values) for values in asked[:4]]
    assert [float(row["rollout/alpha"]) for row in rows] == pytest.approx(means)
    assert [float(row["time/denoiser_calls"]) for row in rows] == [9, 8, 9, 8]
    assert (len(set(means)) == 4) == bool(preferences)
    names = list(rows[0])
    order = ["rollout/alpha", "rollout/denoiser_evaluations", "time/denoiser_calls", "train/loss"]
    assert sorted(order, key=names.index) == order
    assert "rollout/long_prompts_left_out" not in names
    train_ppo(settings, tmp_path / "halves", stop_after=3)
    train_ppo(settings, tmp_path / "halves", resume=True)
    (file,) = (tmp_path / "halves/logs").glob("progress-*.csv")
    later = list(csv.DictReader(file.read_text().splitlines()))
    for name in order[:3]:
        assert [row[name] for row in later] == [row[name] for row in rows[2:]], name


def test_long_prompts_are_left_out(toy: PPO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third problem's prompt is long; a run that goes on counts on."""
    monkeypatch.setattr(PairDenoiser, "encode", lambda self, text: [3] * len(text))
    played: list[int] = []

    class Some(AllA):
        def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
            return replace(super().problem(index, split, seed), prompt="A" * (1 + (index % 3 == 2)))

        def score(self, problem: Problem, response: str) -> float:
            if problem.split == "train":
                played.append(problem.index)
            return super().score(problem, response)

    monkeypatch.setitem(TASKS, "all-a", Some)
    settings = toy.changed(updates=4, evaluate_every=4, max_prompt_length=1)
    train_ppo(settings, tmp_path / "whole")
    assert {index % 3 for index in played} == {0, 1}
    train_ppo(settings, tmp_path / "halves", stop_after=3)
    train_ppo(settings, tmp_path / "halves", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    assert_logged_once(tmp_path / "whole", tmp_path / "halves")
    rows = list(csv.DictReader((tmp_path / "whole/logs/progress.csv").read_text().splitlines()))
    left_out = [int(row["rollout/long_prompts_left_out"]) for row in rows]
    assert 0 < left_out[0] < left_out[1] < left_out[2] < left_out[3]
    monkeypatch.setattr(PairDenoiser, "encode", lambda self, text: [3] * (len(text) + 1))
    with pytest.raises(UsageError, match="none has a prompt of at most 1 tokens; raise max_prompt_length"):
        train_ppo(settings, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "plackett_luce:k=0"}, "k must be a whole number of at least 1"),
        ({"head": "bernoulli:temperature=0"}, "temperature must be above 0"),
        ({"head": "softmax"}, "unknown head 'softmax'; choose one of bernoulli, plackett_luce"),
        ({"head": "bernoulli:k=2"}, "bernoulli has no setting 'k'"),
        ({"network": "mamba"}, "unknown network 'mamba'"),
        ({"num_envs": 0}, "num_envs"),
        ({"gamma": 0.0}, "gamma"),
        ({"updates": 0}, "updates"),
        ({"target_kl": -0.1}, "target_kl"),
    ],
)
def test_bad_settings_leave_nothing_behind(toy: PPO, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train_ppo(toy.changed(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_another_head_is_refused(toy: PPO, tmp_path: Path) -> None:
    train_ppo(toy.changed(updates=1), tmp_path / "run")
    with pytest.raises(UsageError, match="another head: the run has 'dynamic_plackett_luce'"):
        train_ppo(toy.changed(updates=1, head="bernoulli"), tmp_path / "run", resume=True)


def test_weights_that_become_infinite_are_taken_back(
    toy: PPO, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = toy.changed(updates=2)
    with monkeypatch.context() as patch:
        patch.setattr("dllm_env.train.ppo.learning_rate", lambda *_: 1e30)  # no setting allows it
        train_ppo(settings, tmp_path / "run")
    start = make_setup(settings).policy.network.state_dict()
    saved = weights(tmp_path / "run")
    assert all(torch.equal(saved[f"policy.network.{name}"], value) for name, value in start.items())
    rows = list(csv.DictReader((tmp_path / "run/logs/progress.csv").read_text().splitlines()))
    assert rows[0]["train/skipped"] == "1"
    train_ppo(toy.changed(updates=1), tmp_path / "usual")
    (row,) = csv.DictReader((tmp_path / "usual/logs/progress.csv").read_text().splitlines())
    assert row["train/skipped"] == "0"
