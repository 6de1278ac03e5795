"""Writing: whole files or the old ones, and one line where there is no room."""

from __future__ import annotations

import json
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dllm_env.cli import main
from dllm_env.eval.results import PROBLEMS
from dllm_env.files import write_atomically, write_failure, write_together


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """As a disk is that runs full: what is longer cannot be written."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")
    with files_of_at_most(10), pytest.raises(OSError, match="File too large") as error:
        write_atomically(path, b"new" * 10)
    assert write_failure(error.value) == f"cannot write to {path}: File too large; make room"
    assert path.read_bytes() == b"old"
    with files_of_at_most(10), pytest.raises(OSError, match="File too large"):
        write_together(tmp_path, {"file": b"new", "other": b"new" * 10})
    assert [found.name for found in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_links_and_devices_are_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_atomically(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "file").read_bytes() == b"new"
    write_atomically(Path("/dev/null"), b"new")
    assert Path("/dev/null").is_char_device()


def test_other_errors_are_none_of_writing() -> None:
    assert write_failure(FileNotFoundError(2, "no")) == ""
    assert write_failure(ValueError("no")) == ""


TRAINING = [
    *("--updates", "2", "--save-every", "1", "--width", "8", "--block-length", "8", "--response-length", "16"),
    *("--validation-problems", "2", "--imitation-steps", "0", "--validation-rules", "top_k:8"),
]
GRPO = ["train", "grpo", *TRAINING, "--prompts", "2", "--num-generations", "2"]
PPO = ["train", "ppo", *TRAINING, "--num-envs", "2", "--n-steps", "4"]


def stopped(words: list[str], size: int, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What to go on with, of a command for whose files there is no room."""
    capfd.readouterr()
    with files_of_at_most(size):
        assert main(words) == 2
    said = capfd.readouterr().err
    lines = [line for line in said.splitlines() if line and "━" not in line]
    assert len(lines) == 1, said
    assert "File too large; make room" in lines[0]
    return shlex.split(lines[0].partition("with: dllm-env ")[2])


@pytest.mark.parametrize(("command", "size"), [(GRPO, 1000), (PPO, 12_000)])
def test_training_without_room_goes_on_where_it_was(
    command: list[str], size: int, toy_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    again = stopped([*command, "--denoiser", str(toy_folder), "--out", str(tmp_path / "x")], size, capfd)
    assert main(again) == 0
    assert (tmp_path / "x" / "best" / "policy.json").is_file()
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.parametrize("size", [500, 6000])
def test_an_evaluation_without_room_goes_on_where_it_was(
    size: int, toy_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", "--policies", "random:8", "leftmost:8", "--problems", "2", "--denoiser", str(toy_folder)]
    again = stopped([*words, "--out", str(tmp_path / "x")], size, capfd)
    assert again[-1] == "--resume"
    assert main(again) == 0
    lines = [json.loads(line) for line in (tmp_path / "x" / PROBLEMS).read_text().splitlines()]
    assert [(line["policy"], line["index"]) for line in lines] == [
        (policy, index) for policy in ("random:8", "leftmost:8") for index in range(2)
    ]
    capfd.readouterr()
    with files_of_at_most(1000):
        assert main(["report", str(tmp_path / "x")]) == 2
    assert "File too large; make room and run the command again" in capfd.readouterr().err


def test_a_denoiser_without_room(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["train", "denoiser", "--width", "16", "--heads", "2", "--layers", "1", "--examples", "40"]
    words += ["--first-updates", "1", "--second-updates", "1", "--third-updates", "1", "--warmup", "1"]
    again = stopped([*words, "--out", str(tmp_path / "x")], 10_000, capfd)
    assert again[-1] == str(tmp_path / "x")  # there is nothing to resume
    assert main(again) == 0


def test_an_output_without_room() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "dllm_env", "policies"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "No space left on device; make room and run the command again" in done.stderr
