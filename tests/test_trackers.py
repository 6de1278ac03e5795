"""Training logs: columns in a fixed order, what they say, and trackers with fakes of their libraries."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dllm_env.cli import main
from dllm_env.errors import UsageError
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.run import COLUMNS, CSVFile, in_order
from dllm_env.train.trackers import trackers

SMALL = GRPO().changed(
    task="copy",
    denoiser="many",
    updates=2,
    prompts=2,
    num_generations=2,
    imitation_steps=0,
    start="none",
    validation_problems=2,
    validation_rules=(),
    test_temperatures=(1.0,),
    evaluate_every=0,
    save_every=1,
    width=8,
)


def head(file: Path) -> list[str]:
    return file.read_text().splitlines()[0].split(",")


def test_columns_have_a_fixed_order_whatever_comes_later(tmp_path: Path) -> None:
    assert in_order(["z", "train/loss", "a", "time/update"]) == ["time/update", "train/loss", "a", "z"]
    assert len(set(COLUMNS)) == len(COLUMNS)
    log = CSVFile(tmp_path / "progress.csv")
    log.write({"z": 1.5, "train/loss": 2.0, "time/update": 1}, {"z": (), "train/loss": (), "time/update": ()})
    log.write(
        {"a,b": 3.0, "rollout/reward": 0.5, "time/update": 2}, {"a,b": (), "rollout/reward": (), "time/update": ()}
    )
    log.close()
    with (tmp_path / "progress.csv").open() as opened:
        lines = list(csv.reader(opened))
    assert lines == [
        ["time/update", "rollout/reward", "train/loss", "a,b", "z"],
        ["1", "", "2.0", "", "1.5"],
        ["2", "0.5", "", "3.0", ""],
    ]


# -------------------------------------------------------------------------------------------------- trackers


class FakeWandB:
    """What the tests need of wandb."""

    def __init__(self) -> None:
        self.runs: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **given: Any) -> Any:
        self.runs.append(given)

        def log(values: dict[str, float], step: int) -> None:
            self.logged.append((step, values))

        def finish() -> None:
            self.finished += 1

        return SimpleNamespace(id=given["id"] or "made-up", log=log, finish=finish)


class FakeMLflow:
    """What the tests need of mlflow."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def set_experiment(self, name: str) -> None:
        self.calls.append(("experiment", name))

    def start_run(self, run_id: str | None = None, run_name: str | None = None) -> Any:
        self.calls.append(("start", run_id or run_name))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "made-up"))

    def log_params(self, params: dict[str, str]) -> None:
        self.calls.append(("params", params))

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.calls.append(("metrics", (step, values)))

    def end_run(self) -> None:
        self.calls.append(("end", None))


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeWandB, FakeMLflow]:
    made = FakeWandB(), FakeMLflow()
    monkeypatch.setitem(sys.modules, "wandb", made[0])
    monkeypatch.setitem(sys.modules, "mlflow", made[1])
    return made


def test_a_training_is_logged_in_all_places_and_goes_on_there(
    fakes: tuple[FakeWandB, FakeMLflow], tmp_path: Path
) -> None:
    wandb, mlflow = fakes
    folder = tmp_path / "run"
    both = ("tensorboard", "wandb", "mlflow")
    train_grpo(SMALL, folder, stop_after=1, callback=trackers(both, SMALL, folder))
    train_grpo(SMALL, folder, resume=True, callback=trackers(both, SMALL, folder))
    assert [step for step, _ in wandb.logged] == [1, 2]
    assert [run["id"] for run in wandb.runs] == [None, "made-up"]
    assert wandb.runs[0]["name"] == "run"
    assert wandb.runs[0]["config"]["num_generations"] == 2
    assert wandb.finished == 2
    assert [name for name, _ in mlflow.calls] == [
        *("experiment", "start", "params", "metrics", "end"),
        *("start", "metrics", "end"),
    ]
    assert mlflow.calls[5] == ("start", "made-up")
    assert mlflow.calls[2][1]["denoiser"] == "many"
    first, second = (values for _, values in wandb.logged)
    assert all(isinstance(value, float) for value in second.values())
    assert second["rollout/denoiser_evaluations"] > first["rollout/denoiser_evaluations"] > 0
    assert min(first["time/denoiser_calls"], second["time/denoiser_calls"]) > 0
    assert first["rollout/alpha"] == pytest.approx(0.1)
    assert {"rollout/reward_deviation", "rollout/reward"} <= set(first)
    assert list((folder / "logs").glob("events.out.tfevents.*"))
    for file in (folder / "logs").glob("progress*.csv"):
        assert head(file) == in_order(head(file))
        assert head(file)[0] == "time/update"


def test_without_any_place_there_is_no_callback(tmp_path: Path) -> None:
    assert trackers((), SMALL, tmp_path) is None
    assert trackers(("tensorboard",), SMALL, tmp_path) is None


@pytest.mark.parametrize("place", ["wandb", "mlflow"])
def test_what_is_not_installed_is_said_before_anything_begins(
    place: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, place, None)
    out = tmp_path / "run"
    assert main(["train", "grpo", "--log", place, "--out", str(out)]) == 2
    assert f"--log {place} needs {place}: pip install 'dllm-env[{place}]'" in capsys.readouterr().err
    assert not out.exists()
    with pytest.raises(UsageError):
        trackers((place,), SMALL, tmp_path)  # type: ignore[arg-type]


def test_what_json_cannot_hold_is_no_matter(fakes: tuple[FakeWandB, FakeMLflow], tmp_path: Path) -> None:
    """Infinite figures, pictures and texts are left to TensorBoard."""
    from dllm_env.train.trackers import WandB

    output = WandB(fakes[0], {"a": 1}, tmp_path)
    output.write({"x": float("inf"), "y": "text", "z": 2}, {}, 7)
    assert fakes[0].logged == [(7, {"z": 2.0})]
    assert json.loads(json.dumps(fakes[0].runs[0]["config"])) == {"a": 1}
