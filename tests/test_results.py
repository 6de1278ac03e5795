"""The files of an evaluation: written bit by bit, read back, merged, and told apart."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import dllm_env
import dllm_env.eval as evaluation
from dllm_env import policies, train
from dllm_env.errors import UsageError
from dllm_env.eval.results import (
    PROBLEMS,
    SETTINGS,
    Outcome,
    Result,
    Setting,
    append,
    check_versions,
    code_version,
    played_code,
    read,
    summarise,
    write_tables,
)
from dllm_env.intervals import wilson_interval

SETTING = Setting(
    policy="threshold:0.9",
    learned=False,
    task="trace",
    denoiser="tiny",
    split="test",
    response_length=4,
    block_length=4,
    temperature=0.0,
    noise="float64",
    max_steps=0,
    stop_at_eot=False,
    allow_remask=False,
    remask_budget=0,
    seed=0,
    denoiser_version="aa",
    code_version="1",
)


def outcome(
    setting: Setting = SETTING, index: int = 0, correct: float = 1.0, nfe: int = 2, sample: int = 0
) -> Outcome:
    return Outcome(
        setting=setting.key,
        policy=setting.policy,
        block_length=setting.block_length,
        seed=setting.seed,
        index=index,
        sample=sample,
        prompt="p",
        response="a b",
        correct=correct,
        finished=True,
        nfe=nfe,
        steps=nfe,
        remasks=0,
        tokens=2,
        seconds=0.5,
        words=["a", "b", "<eot>", "<eot>"],
        revealed_at=[0, 1, 0, 0],
        confidence=[0.5, 0.75, 1.0, 1.0],
    )


def test_figures_by_hand() -> None:
    """Problem 0: right, wrong; 1: right, right; 2: wrong, wrong. NFE 1 to 6."""
    scores = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    found = summarise([outcome(index=i // 2, sample=i % 2, correct=c, nfe=i + 1) for i, c in enumerate(scores)])
    assert (found.problems, found.samples) == (3, 6)
    assert found.accuracy == 0.5
    assert (found.accuracy_low, found.accuracy_high) == (0.0, 1.0)
    alike = summarise([outcome(index=i) for i in range(200)])
    assert (alike.accuracy_low, alike.accuracy_high) == wilson_interval(200, 200)
    assert (found.nfe, found.nfe_90) == (3.5, 5.5)
    assert found.tokens_per_nfe == 12 / 21
    assert found.seconds == 3.0


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    other = replace(SETTING, policy="top_k:1", seed=1)
    append(tmp_path, SETTING, [outcome(index=1), outcome(index=0)])
    append(tmp_path, other, [outcome(other)])
    append(tmp_path, SETTING, [outcome(index=2)])
    assert (tmp_path / SETTINGS).read_text().count("\n") == 2
    assert read([tmp_path]) == [
        Result(SETTING, [outcome(index=i) for i in range(3)]),
        Result(other, [outcome(other)]),
    ]


def test_a_line_that_a_kill_cut_off_does_not_count_and_is_written_over(tmp_path: Path) -> None:
    append(tmp_path, SETTING, [outcome(index=0), outcome(index=1)])
    file = tmp_path / PROBLEMS
    whole = file.read_bytes()
    for kept in (len(whole) - 1, len(whole) - 30, len(whole) // 2 + 1):
        file.write_bytes(whole[:kept])
        assert read([tmp_path])[0].outcomes == [outcome(index=0)]
        append(tmp_path, SETTING, [outcome(index=1)])
        assert file.read_bytes() == whole
    file.write_bytes(whole[:20])
    append(tmp_path, SETTING, [outcome(index=0), outcome(index=1)])
    assert file.read_bytes() == whole


def test_a_broken_line_is_named_and_can_be_skipped(tmp_path: Path) -> None:
    append(tmp_path, SETTING, [outcome(index=i) for i in range(3)])
    file = tmp_path / PROBLEMS
    lines = file.read_text().splitlines()
    for broken in (lines[1][:40], "", "[]", "7", '{"setting": "x"}', lines[1].replace(SETTING.key, "0" * 12)):
        file.write_text("\n".join([lines[0], broken, lines[2], ""]))
        with pytest.raises(UsageError, match=r"problems.jsonl, line 2 cannot be read .*--skip-broken"):
            read([tmp_path])
        assert [o.index for o in read([tmp_path], skip_broken=True)[0].outcomes] == [0, 2]
    settings = tmp_path / SETTINGS
    settings.write_text(settings.read_text().replace("trace", "sudoku"))
    with pytest.raises(
        UsageError, match=r"settings.jsonl, line 1 cannot be read .*its key is not that of its values"
    ):
        read([tmp_path])


def test_folders_are_merged(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    for folder, indices in ((first, (0, 1)), (second, (1, 2))):
        folder.mkdir()
        append(folder, SETTING, [outcome(index=i) for i in indices])
    assert read([first, second]) == [Result(SETTING, [outcome(index=i) for i in range(3)])]
    with pytest.raises(UsageError, match="no results in"):
        read([tmp_path])


@pytest.mark.parametrize("version", ["policy_version", "denoiser_version", "code_version"])
def test_versions_are_never_mixed_silently(version: str, tmp_path: Path) -> None:
    other = replace(SETTING, **{version: "bb"})
    append(tmp_path, SETTING, [outcome()])
    append(tmp_path, other, [outcome(other)])
    what = version.removesuffix("_version")
    with pytest.raises(UsageError, match=f"two versions of the {what} .*--mix-versions"):
        read([tmp_path])
    assert [r.setting for r in read([tmp_path], mix_versions=True)] == [SETTING, other]
    check_versions([SETTING, replace(SETTING, seed=1), replace(other, policy="top_k:1")])
    with pytest.raises(UsageError, match="two versions"):
        check_versions([SETTING, replace(other, seed=1)])


def test_every_value_has_a_say_in_the_key() -> None:
    changes = {
        "learned": True,
        "seed": 3,
        "temperature": 0.5,
        "noise": "float32",
        "code_version": "2",
        "task": "sudoku",
    }
    assert len({SETTING.key, *(replace(SETTING, **{name: value}).key for name, value in changes.items())}) == 7
    assert (
        replace(SETTING, seed=3).condition
        == replace(SETTING, policy="x", code_version="2").condition
        == SETTING.condition
    )


def test_the_code_has_a_version() -> None:
    assert code_version() == code_version()
    assert code_version().startswith("0.")


@pytest.fixture
def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package as an installed one lies on the disk, without weights; ``code_version`` looks there."""
    root = tmp_path / "dllm_env"
    no_weights = shutil.ignore_patterns("assets", "__pycache__")
    for module in (dllm_env, policies, train, evaluation):
        folder = root.joinpath(*module.__name__.split(".")[1:])
        shutil.copytree(module.__path__[0], folder, ignore=no_weights, dirs_exist_ok=True)
    monkeypatch.setattr(dllm_env, "__path__", [str(root)])
    monkeypatch.setattr(policies, "__path__", [str(root / "policies")])
    return root


def version() -> str:
    return code_version.__wrapped__()


def test_every_module_that_plays_changes_the_version(copied: Path) -> None:
    before, seen = version(), set()
    files = played_code(copied, copied / "policies")
    assert {"dynamics.py", "policies/rollout.py", "policies/heuristics.py", "random.py"} <= set(files)
    for file in files.values():
        text = file.read_bytes()
        file.write_bytes(text + b"\n")
        seen.add(version())
        file.unlink()
        seen.add(version())
        file.write_bytes(text)
    assert len(seen | {before}) == 2 * len(files) + 1
    assert version() == before


@pytest.mark.parametrize("place", ["new.py", "denoisers/new.py", "room/deeper/new.py", "policies/room/new.py"])
def test_a_new_module_counts_without_being_listed(copied: Path, place: str) -> None:
    before = version()
    (copied / place).parent.mkdir(parents=True, exist_ok=True)
    (copied / place).write_text("", encoding="utf-8")
    assert version() != before


def test_what_cannot_change_an_outcome_does_not_change_the_version(copied: Path) -> None:
    before = version()
    (copied / "commands").mkdir(exist_ok=True)
    for place in ("cli.py", "commands/demo.py", "pareto.py", "train/grpo.py", "train/new.py", "eval/report.py"):
        (copied / place).write_text("changed = True", encoding="utf-8")
    assert version() == before


def test_all_code_that_is_run_to_play_counts(tmp_path: Path) -> None:
    """Whatever an evaluation imports is counted, but for what only sums up, writes files, and ends processes."""
    program = (
        "import sys, dllm_env.eval.evaluate as e\n"
        "e.evaluate(e.EvaluationConfig(problems=1), ['leftmost:40'])\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] == 'dllm_env' and m.__file__))"
    )
    command = [sys.executable, "-c", program]
    # Elsewhere, since Python started in the checkout finds the checkout and not what is installed.
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    core, rules = Path(dllm_env.__path__[0]), Path(policies.__path__[0])
    counted = {file.resolve() for file in played_code(core, rules).values()}
    summed_up = {"pareto.py", "intervals.py", "files.py", "hub.py", "processes.py"}
    used = {Path(file).resolve() for file in done.stdout.split()}
    left = {file for file in used - counted if file.name not in summed_up}
    assert {file.parent.name for file in left} <= {"eval"}, left


def test_tables_hold_the_figures(tmp_path: Path) -> None:
    results = [Result(SETTING, [outcome(index=i, correct=i % 2) for i in range(4)])]
    write_tables(tmp_path, results)
    (entry,) = json.loads((tmp_path / "results.json").read_text())
    assert entry == results[0].record()
    assert (entry["policy"], entry["accuracy"], entry["problems"]) == ("threshold:0.9", 0.5, 4)
    assert b"\r" not in (tmp_path / "results.csv").read_bytes()  # lines end as those of the other tables do
    with (tmp_path / "results.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert {name: "" if value is None else str(value) for name, value in entry.items()} == row
