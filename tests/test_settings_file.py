"""Settings by flat name: changed, in files, and under the names of older versions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from dllm_env.errors import UsageError
from dllm_env.train.denoiser import DenoiserTraining
from dllm_env.train.grpo import GRPO
from dllm_env.train.ppo import PPO
from dllm_env.train.presets import PRESETS
from dllm_env.train.settings_file import (
    RENAMED,
    changed,
    flat,
    leaves,
    read_settings,
    renamed_flags,
    write_settings,
)

KINDS: tuple[Any, ...] = (GRPO, PPO, DenoiserTraining)


@pytest.mark.parametrize("kind", KINDS)
def test_no_name_occurs_twice(kind: Any) -> None:
    def names(one: Any) -> list[str]:
        found = []
        for field in dataclasses.fields(one):
            value = getattr(one, field.name)
            found += names(value) if dataclasses.is_dataclass(value) else [field.name]
        return found

    every = names(kind())
    assert len(every) == len(set(every))
    assert set(every) == set(leaves(kind)) == set(flat(kind()))


def test_changed_reaches_every_group() -> None:
    settings = GRPO().changed(learning_rate=3e-4, width=128, experts=2, validation_problems=7, betas=(0.5, 0.6))
    assert settings.optimizer.learning_rate == 3e-4
    assert settings.optimizer.betas == (0.5, 0.6)
    assert (settings.policy.width, settings.experts, settings.validation.validation_problems) == (128, 2, 7)
    assert settings.optimizer.weight_decay == GRPO().optimizer.weight_decay
    with pytest.raises(UsageError, match=r"no setting 'lerning_rate' \(did you mean learning_rate"):
        GRPO().changed(lerning_rate=1)
    with pytest.raises(UsageError, match="no setting 'group'; it is called num_generations now"):
        GRPO().changed(group=4)
    with pytest.raises(UsageError, match="learning_rate must be above 0"):
        GRPO().changed(learning_rate=0.0)


@pytest.mark.parametrize("name", ["run.yaml", "run.yml", "settings.json"])
@pytest.mark.parametrize("settings", [*PRESETS.values(), PPO(), DenoiserTraining(width=96)])
def test_what_is_written_reads_back(settings: Any, name: str, tmp_path: Path) -> None:
    write_settings(tmp_path / name, settings)
    assert read_settings(tmp_path / name, type(settings)()) == settings


def test_a_file_goes_over_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(
        "learning-rate: 1e-3\nalpha: 2\nhead: bernoulli\nreward: additive\ntest_temperatures: [1, 0.5]\n"
        "imitation: {imitation_steps: 3, expert: 'threshold:0.8'}\nvalidation_rules: []\nscale_rewards: no\n"
    )
    settings = read_settings(path, PRESETS["demo"])
    assert settings.optimizer.learning_rate == 1e-3
    assert isinstance(settings.rewards.alpha, float)
    assert (settings.rewards.alpha, settings.rewards.reward) == (2.0, ("additive",))
    assert settings.validation.test_temperatures == (1.0, 0.5)
    assert (settings.imitation.imitation_steps, settings.imitation.expert) == (3, "threshold:0.8")
    assert settings.validation.validation_rules == ()
    assert not settings.scale_rewards
    assert settings.validation.nfe_budget == PRESETS["demo"].validation.nfe_budget
    path.write_text("")
    assert read_settings(path, PPO()) == PPO()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning_rate: 1", "no setting 'lerning_rate' (did you mean learning_rate?)"),
        ("n_steps: 3", "no setting 'n_steps'"),
        ("learning_rate: fast", "learning_rate must be a number, got 'fast'"),
        ("learning_rate: true", "learning_rate must be a number, got True"),
        ("learning_rate: -1.0", "learning_rate must be above 0"),
        ("learning_rate: .nan", "learning_rate must be above 0"),
        ("updates: 3.5", "updates must be a whole number, got 3.5"),
        ("updates: '3'", "updates must be a whole number, got '3'"),
        ("updates: null", "updates must be a whole number, got None"),
        ("updates: [3]", "updates must be a whole number"),
        ("scale_rewards: 1", "scale_rewards must be true or false, got 1"),
        ("task: 5", "task must be a text, got 5"),
        ("context: half", "context must be one of full, block, got 'half'"),
        ("cost: [nfe]", "cost must be one of nfe, steps"),
        ("betas: [0.9]", "betas must be 2 values"),
        ("betas: [0.9, x]", "betas must be a number, got 'x'"),
        ("test_temperatures: {a: 1}", "test_temperatures must be a number"),
        ("optimizer: {width: 3}", "no setting 'width' in optimizer"),
        ("optimizer: 3", "no setting 'optimizer'"),
        ("width: 8\npolicy: {width: 8}", "width is given twice"),
        ("- 1\n- 2", "has to be a table of settings (name: value), got a list"),
        ("just words", "has to be a table of settings (name: value), got 'just words'"),
        ("a: [1", "cannot read"),
    ],
)
def test_a_bad_file_is_refused_with_one_line(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(UsageError) as refused:
        read_settings(path, GRPO())
    assert message in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_no_file_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no file .*nothing\.yaml with settings"):
        read_settings(tmp_path / "nothing.yaml", GRPO())
    (tmp_path / "bad.json").write_text("{")
    with pytest.raises(UsageError, match="cannot read"):
        read_settings(tmp_path / "bad.json", GRPO())
    write_settings(tmp_path / "settings.json", GRPO(prompts=3))
    assert read_settings(tmp_path, GRPO()).prompts == 3  # a run's folder


def _kind_with(new: str) -> Any:
    return next(kind for kind in KINDS if new in leaves(kind))


@pytest.mark.parametrize("old", RENAMED)
def test_each_old_flag_and_key_still_works(old: str, tmp_path: Path) -> None:
    new = RENAMED[old]
    kind = _kind_with(new)
    flag, notes = old.replace("_", "-"), list[str]()
    now = renamed_flags([f"--{flag}", "1", f"--{old}=2", "--seed", "3"], kind, notes.append)
    assert now == [f"--{new.replace('_', '-')}", "1", f"--{new.replace('_', '-')}=2", "--seed", "3"]
    assert notes[0] == f"--{flag} is called --{new.replace('_', '-')} now"
    assert len(notes) == 2
    value = flat(kind())[new]
    other = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value / 2 + 0.1
    (tmp_path / "settings.json").write_text(json.dumps({old: other}))
    assert read_settings(tmp_path, kind()) == changed(kind(), **{new: other})


def test_old_switches_and_other_commands() -> None:
    notes: list[str] = []
    assert renamed_flags(["--no-divide-by-deviation"], GRPO, notes.append) == ["--no-scale-rewards"]
    assert notes == ["--no-divide-by-deviation is called --no-scale-rewards now"]
    kept = ["--steps", "--trace=1", "rate", "-rate", "--out", "--rate-x"]
    assert renamed_flags(kept, GRPO, notes.append) == kept  # they are PPO's, or no flags of ours
