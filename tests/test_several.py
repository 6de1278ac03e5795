"""Several trainings at a time: each is what it is alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from pairs import assert_same_run

from dllm_env.errors import UsageError
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.several import PRINTED, train_several


@pytest.fixture(name="short")
def _short(toy_folder: Path) -> GRPO:
    return GRPO().changed(
        task="trace:chains=1",
        denoiser=str(toy_folder),
        updates=2,
        prompts=2,
        num_generations=2,
        width=8,
        start="none",
        imitation_steps=0,
        validation_problems=4,
        validation_rules=(),
    )


def test_each_is_what_it_is_alone(short: GRPO, tmp_path: Path) -> None:
    """One of them was stopped after its first update, and goes on; what is done is not done again."""
    trainings = [(short.changed(seed=seed), tmp_path / f"seed-{seed}") for seed in (1, 2)]
    train_grpo(short.changed(seed=2), tmp_path / "seed-2", stop_after=1)
    train_several(trainings, 2)
    for seed in (1, 2):
        train_grpo(short.changed(seed=seed), tmp_path / f"alone-{seed}")
        assert_same_run(tmp_path / f"seed-{seed}", tmp_path / f"alone-{seed}")
    assert (tmp_path / "seed-1" / PRINTED).read_text()
    before = [(folder / "checkpoint.safetensors").stat().st_mtime_ns for _, folder in trainings]
    train_several(trainings, 1)
    assert [(folder / "checkpoint.safetensors").stat().st_mtime_ns for _, folder in trainings] == before


def test_what_a_training_raises_arrives(short: GRPO, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nosuch"):
        train_several([(short.changed(task="nosuch"), tmp_path / "x")], 1)


def test_bad_calls(short: GRPO, tmp_path: Path) -> None:
    for trainings, workers in (([(short, tmp_path)], 0), ([(short, tmp_path), (short, tmp_path)], 1)):
        with pytest.raises(UsageError, match="at least one worker, and a folder for each"):
            train_several(trainings, workers)
