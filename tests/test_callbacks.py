"""Stable-Baselines3's callbacks in GRPO and in PPO."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from pairs import assert_same_run, enter
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, CheckpointCallback, EveryNTimesteps

from dllm_env.policies.learned import load_policy
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.ppo import PPO, train_ppo

TRAINERS = {"grpo": train_grpo, "ppo": train_ppo}


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    enter(monkeypatch)
    shared: dict[str, Any] = {"task": "all-a", "denoiser": "pairs", "updates": 4, "width": 8, "imitation_steps": 0}
    shared |= {"validation_problems": 4, "evaluate_every": 0, "save_every": 1, "validation_rules": ()}
    return {
        "grpo": GRPO().changed(**shared, prompts=2, num_generations=2, alpha_warmup=0),
        "ppo": PPO().changed(**shared, num_envs=4, n_steps=4, minibatch_size=8),
    }


class Diary(BaseCallback):
    """Writes down what it is told, and a number into the logs."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []
        self.timesteps: list[int] = []

    def _on_training_start(self) -> None:
        self.told.append("training start")

    def _on_rollout_start(self) -> None:
        self.told.append("rollout start")

    def _on_step(self) -> bool:
        self.timesteps.append(self.num_timesteps)
        return True

    def _on_rollout_end(self) -> None:
        self.told.append("rollout end")
        self.logger.record("mine/calls", self.n_calls)

    def _on_training_end(self) -> None:
        self.told.append("training end")


class StopAt(BaseCallback):
    """Ends the training in its ``calls``th step."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.calls = calls

    def _on_step(self) -> bool:
        return self.n_calls < self.calls


def logged(folder: Path, name: str = "progress.csv") -> list[dict[str, str]]:
    return list(csv.DictReader((folder / "logs" / name).read_text().splitlines()))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_callback_is_told_everything_and_logs(toys: dict[str, Any], tmp_path: Path, trainer: str) -> None:
    diary = Diary()
    TRAINERS[trainer](toys[trainer], tmp_path / "run", callback=diary)
    assert diary.told == ["training start", *["rollout start", "rollout end"] * 4, "training end"]
    assert diary.timesteps == sorted(set(diary.timesteps))
    rows = logged(tmp_path / "run")
    calls = [0, 1, 2, 3] if trainer == "grpo" else [4, 8, 12, 16]  # GRPO's step is an update
    assert [float(row["mine/calls"]) for row in rows] == calls


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_callback_changes_nothing(toys: dict[str, Any], tmp_path: Path, trainer: str) -> None:
    train = TRAINERS[trainer]
    train(toys[trainer], tmp_path / "without")
    train(toys[trainer], tmp_path / "with", callback=CallbackList([Diary(), StopAt(1000)]))
    assert_same_run(tmp_path / "without", tmp_path / "with")


def test_grpo_sees_what_was_drawn(toys: dict[str, Any], tmp_path: Path) -> None:
    seen: dict[str, Any] = {}

    class Look(BaseCallback):
        def _on_rollout_end(self) -> None:
            seen.update(self.locals, model=self.model)

        def _on_step(self) -> bool:
            return True

    train_grpo(toys["grpo"], tmp_path / "run", callback=[Look()])
    assert seen["rewards"].shape == seen["advantages"].shape == (2, 2)
    assert len(seen["attempt"].texts) == len(seen["problems"]) == 4
    assert (seen["update"], seen["model"].update, seen["settings"]) == (3, 4, toys["grpo"])
    assert seen["self"] is seen["model"]


def test_grpo_stops_early_and_goes_on(toys: dict[str, Any], tmp_path: Path) -> None:
    train_grpo(toys["grpo"], tmp_path / "whole")
    train_grpo(toys["grpo"], tmp_path / "run", callback=[Diary(), StopAt(2)])
    rows = logged(tmp_path / "run")
    assert [int(row["time/update"]) for row in rows] == [1, 2]
    assert [bool(row["validation/accuracy"]) for row in rows] == [False, True]
    assert load_policy(str(tmp_path / "run")).training["update"] == 2  # type: ignore[attr-defined]
    train_grpo(toys["grpo"], tmp_path / "run", resume=True)
    assert [int(row["time/update"]) for row in logged(tmp_path / "run", "progress-2.csv")] == [3, 4]
    whole, halves = (tmp_path / name / "last/policy.safetensors" for name in ("whole", "run"))
    assert whole.read_bytes() == halves.read_bytes()


@pytest.mark.parametrize("calls", [1, 6])
def test_ppo_stops_early_and_goes_on(toys: dict[str, Any], tmp_path: Path, calls: int) -> None:
    """A rollout is 4 calls here; what was drawn of one that is not finished teaches nothing."""
    train_ppo(toys["ppo"], tmp_path / "whole")
    train_ppo(toys["ppo"], tmp_path / "run", callback=StopAt(calls))
    made = (calls - 1) // 4
    assert load_policy(str(tmp_path / "run")).training["update"] == made  # type: ignore[attr-defined]
    train_ppo(toys["ppo"], tmp_path / "run", resume=True)
    whole, halves = (tmp_path / name / "last/policy.safetensors" for name in ("whole", "run"))
    assert whole.read_bytes() == halves.read_bytes()


def test_functions_and_published_callbacks_work(toys: dict[str, Any], tmp_path: Path) -> None:
    seen: list[int] = []
    several = [CheckpointCallback(2, str(tmp_path / "kept")), EveryNTimesteps(1, StopAt(4))]
    train_grpo(toys["grpo"], tmp_path / "run", callback=several)
    assert len(logged(tmp_path / "run")) == 4
    kept = sorted((tmp_path / "kept").iterdir())
    assert len(kept) == 2
    assert load_policy(str(kept[-1])).training["task"] == "all-a"  # type: ignore[attr-defined]

    def function(known: dict[str, Any], _: dict[str, Any]) -> bool:
        seen.append(known["update"])
        return len(seen) < 3

    train_grpo(toys["grpo"], tmp_path / "other", callback=function)
    assert seen == [0, 1, 2]
