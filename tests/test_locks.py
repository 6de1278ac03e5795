"""One writer for each folder: who is refused, when a lock is free again, what goes on meanwhile."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dllm_env import locks
from dllm_env.cli import main
from dllm_env.errors import UsageError
from dllm_env.locks import LOCK, InUse, locked

HOLDER = """
import contextlib, os, sys, time
from pathlib import Path
from dllm_env.locks import locked
with contextlib.ExitStack() as held:
    for folder, _, name in (line.rstrip("\\n").partition("|") for line in sys.stdin):
        held.enter_context(locked(Path(folder), name=name or ".dllm-env.lock"))
        if {fork} and not os.fork():
            time.sleep(60)
        print("held", flush=True)
"""


class Holder:
    """Another process, which takes locks."""

    def __init__(self, fork: bool = False) -> None:
        command = [sys.executable, "-c", HOLDER.format(fork=fork)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )

    def take(self, folder: Path, name: str = "") -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{folder}|{name}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "held\n"

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)  # with what it has forked
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture(scope="module")
def holder() -> Iterator[Holder]:
    made = Holder()
    yield made
    made.close()


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_second_writer_is_refused_by_any_name_of_the_folder(
    holder: Holder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "x"
    holder.take(folder)
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    before = content(folder)
    said = rf"is in use by another process \(pid {holder.process.pid} on .+, since 20\d\d-.+\); wait for its end"
    for name in (folder, tmp_path / "link", tmp_path / "y" / ".." / "x", Path("."), Path("../x")):
        (tmp_path / "y").mkdir(exist_ok=True)
        with pytest.raises(InUse, match=said), locked(name):
            pass
    assert content(folder) == before
    with locked(folder / "inner"), locked(tmp_path):  # those within and around it are others
        pass


@pytest.mark.parametrize("fork", [False, True])
def test_a_kill_frees_the_lock_though_a_child_lives_on(tmp_path: Path, fork: bool) -> None:
    killed = Holder(fork)
    killed.take(tmp_path)
    os.kill(killed.process.pid, signal.SIGKILL)
    killed.process.wait()
    assert (tmp_path / LOCK).exists()
    for _ in range(3000):  # a fork that has hardly begun still has all that its parent had
        with contextlib.suppress(InUse), locked(tmp_path):
            break
        time.sleep(0.01)
    with locked(tmp_path):
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists()
    killed.close()


def test_the_same_process_may_take_it_again_within_and_afterwards(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path), locked(tmp_path / "inner"), locked(tmp_path):
            assert (tmp_path / LOCK).exists()
        assert not (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_another_thread_is_refused(tmp_path: Path) -> None:
    said: list[str] = []

    def write() -> None:
        try:
            with locked(tmp_path):
                said.append("went on")
        except InUse as error:
            said.append(str(error))

    for held in (True, False):
        thread = threading.Thread(target=write)
        if held:
            with locked(tmp_path):
                thread.start()
                thread.join()
        else:
            thread.start()
            thread.join()
    assert said == [f"{tmp_path} is in use by another thread of this process", "went on"]


def test_folders_are_made_and_removed_where_nothing_came_into_them(tmp_path: Path) -> None:
    with locked(tmp_path / "a" / "b") as folder:
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []
    with locked(tmp_path / "a" / "b") as folder:
        (folder / "file").write_text("")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["file"]


def test_a_fresh_folder_has_a_name_of_its_own(tmp_path: Path) -> None:
    with locked(tmp_path / "x", fresh=True) as first, locked(tmp_path / "x", fresh=True) as second:
        assert (first, second) == (tmp_path / "x", tmp_path / "x-2")


def test_where_the_file_system_has_no_locks_one_warning_is_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "no")

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    monkeypatch.setattr(locks, "_warned", set())
    with pytest.warns(UserWarning, match="the file system has no locks"), locked(tmp_path):
        pass
    with locked(tmp_path):  # a second warning would be an error
        pass


def test_a_lock_that_is_no_file_of_ours_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / LOCK).symlink_to(tmp_path / "precious")
    with pytest.raises(UsageError, match="cannot write to"), locked(tmp_path):
        pass
    assert (tmp_path / "precious").read_text() == "mine"
    (tmp_path / LOCK).unlink()
    (tmp_path / LOCK).mkdir()
    with pytest.raises(UsageError, match="cannot write to"), locked(tmp_path):
        pass
    with pytest.raises(UsageError, match="cannot write to"), locked(tmp_path / "precious" / "x"):
        pass
    if Path("/proc/self").exists():
        with pytest.raises(UsageError, match="cannot write to"), locked(Path("/proc/x")):
            pass


def test_of_many_that_come_and_go_one_at_a_time_holds_it(tmp_path: Path) -> None:
    code = """
import os, sys, time
from pathlib import Path
from dllm_env.locks import InUse, locked
folder, got, over = Path(sys.argv[1]), 0, time.monotonic() + 60
while got < 20 and time.monotonic() < over:
    try:
        with locked(folder):
            (folder / "one").mkdir()  # fails where two are in here
            (folder / "one").rmdir()
            got += 1
    except InUse:
        time.sleep(0.0005)
print(got)
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "x")], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [writer.communicate()[0] for writer in writers] == ["20\n", "20\n"]


WRITING = {
    "train grpo": ["--denoiser", "{toy}", "--updates", "1"],
    "train ppo": ["--denoiser", "{toy}", "--updates", "1"],
    "train denoiser": ["--examples", "40"],
    "eval": ["--denoiser", "{toy}", "--policies", "random:8", "--problems", "1", "--resume"],
    "demo": [],
    "ablate heads": [],
}


@pytest.mark.parametrize("command", WRITING)
def test_every_command_that_writes_is_refused_before_it_begins(
    holder: Holder, command: str, toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    holder.take(folder)
    before = content(folder)
    words = [*command.split(), *(word.format(toy=toy_folder) for word in WRITING[command])]
    assert main([*words, "--out", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "is in use by another process (pid" in said
    assert said.count("\n") == 1
    assert content(folder) == before


def test_python_callers_are_refused_too(holder: Holder, tmp_path: Path) -> None:
    from dllm_env.commands.ablate import Ablation, run_ablation
    from dllm_env.commands.demo import DemoConfig, run_demo
    from dllm_env.eval.runner import finish, play
    from dllm_env.train.denoiser import DenoiserTraining, train_denoiser
    from dllm_env.train.grpo import GRPO, train_grpo
    from dllm_env.train.ppo import PPO, train_ppo

    holder.take(tmp_path / "x")
    for write in (
        lambda: train_grpo(GRPO(), tmp_path / "x"),
        lambda: train_ppo(PPO(), tmp_path / "x"),
        lambda: train_denoiser(DenoiserTraining(), tmp_path / "x"),
        lambda: run_ablation(Ablation(), tmp_path / "x"),
        lambda: run_demo(DemoConfig(), tmp_path / "x"),
        lambda: play([], tmp_path / "x"),
        lambda: finish(tmp_path / "x"),
    ):
        with pytest.raises(InUse):
            write()  # type: ignore[no-untyped-call]


def test_readers_read_meanwhile_and_pages_have_one_writer(
    holder: Holder, toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words = ["eval", "--policies", "random:8", "--problems", "2", "--denoiser", str(toy_folder), "--out", str(out)]
    assert main(words) == 0
    assert not (out / LOCK).exists()
    holder.take(out)
    assert main(["report", str(out)]) == 0
    assert not list(out.glob("*.html.lock"))
    capsys.readouterr()
    holder.take(out, ".report.html.lock")
    assert main(["report", str(out)]) == 2
    assert "is in use by another process" in capsys.readouterr().err
    assert main(["report", str(out), "--out", str(out / "other.html")]) == 0


def test_results_that_come_between_two_reads_do_no_harm(
    toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer adds a setting and its outcomes after the reader has read the one file and before the other."""
    from dllm_env.eval import results
    from dllm_env.eval.results import PROBLEMS, SETTINGS, read

    words = ["eval", "--policies", "random:8", "leftmost:8", "--problems", "2", "--denoiser", str(toy_folder)]
    assert main([*words, "--out", str(tmp_path)]) == 0
    whole = {name: (tmp_path / name).read_bytes().splitlines(True) for name in (SETTINGS, PROBLEMS)}
    for name, lines in whole.items():
        (tmp_path / name).write_bytes(b"".join(lines[: len(lines) // 2]))
    real, reads = results.json_lines, []

    def read_and_write(path: Path) -> list[tuple[int, bytes]]:
        found = list(real(path))
        if not reads:
            for name, lines in whole.items():
                (tmp_path / name).write_bytes(b"".join(lines))
        reads.append(path.name)
        return found

    monkeypatch.setattr(results, "json_lines", read_and_write)
    assert [result.setting.policy for result in read([tmp_path])] == ["random:8"]
    assert len(reads) == 2


def test_lm_eval_locks_what_the_harness_writes(tmp_path: Path) -> None:
    from dllm_env.eval.harness_arguments import written_places

    config = tmp_path / "run.yaml"
    config.write_text(f"use_cache: {tmp_path}/c\n")
    assert written_places(["--tasks", "x"]) == []
    assert written_places(["--output_path", "a/b"]) == [(Path("a/b"), LOCK)]
    assert written_places(["run", "-o", "a/b.json"]) == [(Path("a"), LOCK)]
    assert written_places(["--config", str(config)]) == [(tmp_path, ".c.lock")]
