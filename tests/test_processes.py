"""How commands end: by signals in order, with what they started, however they end."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import dllm_env.commands.evaluation
from dllm_env import processes
from dllm_env.cli import main
from dllm_env.eval.results import PROBLEMS
from dllm_env.grading import limited
from dllm_env.grading.sandbox import PROBE, Bare, run
from dllm_env.processes import ENDING, Signals, Stopped

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


def send(number: int) -> None:
    """A signal to this process; what it raises is raised here."""
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.fixture(autouse=True)
def no_signals_are_ignored() -> Iterator[None]:
    before = {
        getattr(signal, name): signal.getsignal(getattr(signal, name)) for name in ENDING if hasattr(signal, name)
    }
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_ends_an_evaluation_with_how_to_go_on(
    number: signal.Signals,
    times: int,
    toy_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dllm_env.policies.heuristics import Random

    def act(*_: object) -> None:
        try:
            send(number)
        finally:
            if times == 2:
                send(number)  # while the first one is being seen to

    out = tmp_path / "out"
    words = ["eval", "--policies", "leftmost:8", "random:8", "--problems", "2", "--denoiser", str(toy_folder)]
    with monkeypatch.context() as patched:
        patched.setattr(Random, "act", act)
        assert main([*words, "--out", str(out)]) == 128 + number
    said = capsys.readouterr().err.strip()
    assert said.startswith("dllm-env: interrupted; continue with: dllm-env eval")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert [path.name for path in sorted(out.iterdir())] == ["problems.jsonl", "settings.jsonl"]
    assert main(shlex.split(said.partition("with: dllm-env ")[2])) == 0
    assert len((out / PROBLEMS).read_text().splitlines()) == 4


@pytest.mark.parametrize("kind", ["grpo", "ppo"])
@pytest.mark.parametrize("late", [False, True])
def test_a_signal_while_a_checkpoint_is_written_tears_nothing(
    kind: str,
    late: bool,
    toy_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from dllm_env.train import run as module

    real, saved = module.write_atomically, []

    def stop(path: Path, data: bytes) -> None:
        saved.append(path)
        if len(saved) == 2:
            if late:
                real(path, data)
            else:
                path.with_name(path.name + ".tmp").write_bytes(data[:100])
            send(signal.SIGTERM)
        real(path, data)

    words = ["train", kind, "--denoiser", str(toy_folder), "--updates", "2", "--save-every", "1", "--width", "8"]
    words += ["--block-length", "8", "--response-length", "16", "--validation-problems", "2"]
    words += ["--validation-rules", "top_k:8", "--imitation-steps", "0"]
    sizes = {"grpo": ["--prompts", "2", "--num-generations", "2"], "ppo": ["--num-envs", "2", "--n-steps", "4"]}
    words += sizes[kind]
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(module, "write_atomically", stop)
        assert main(words) == 143
    (folder,) = (tmp_path / "runs").iterdir()
    command = capsys.readouterr().err.partition("interrupted; continue with: dllm-env ")[2]
    assert shlex.split(command)[-3:] == ["--out", f"runs/{folder.name}", "--resume"]
    assert main(shlex.split(command)) == 0
    assert main([*words, "--out", "whole"]) == 0
    for name in ("checkpoint.safetensors", "best/policy.safetensors"):
        assert (folder / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list(folder.rglob("*.tmp"))


def test_commands_without_anything_to_resume_say_that_they_were_interrupted(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dllm_env.commands.evaluation, "list_tasks", lambda _: send(signal.SIGHUP))
    assert main(["tasks"]) == 129
    assert capsys.readouterr().err == "\ndllm-env: interrupted\n"


def test_a_terminal_that_is_gone_changes_no_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang_up(_: object) -> None:
        try:
            send(signal.SIGHUP)
        finally:
            raise OSError(5, "Input/output error")  # of a progress bar

    monkeypatch.setattr(dllm_env.commands.evaluation, "list_tasks", hang_up)
    with open("/dev/full", "w") as gone:
        monkeypatch.setattr(sys, "stderr", gone)
        assert main(["tasks"]) == 129
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            gone.close()


def test_ignored_signals_and_handlers_of_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def theirs(number: int, frame: object) -> None:
        seen.append(number)

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    signal.signal(signal.SIGTERM, theirs)
    with Signals():
        send(signal.SIGHUP)
        send(signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGINT"):
            send(signal.SIGINT)
    assert seen == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is theirs
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_signal_that_got_lost_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "LOST", 0.05)
    monkeypatch.setattr(processes, "TOGETHER", 0.01)
    with Signals() as signals:
        with contextlib.suppress(KeyboardInterrupt):
            send(signal.SIGTERM)
        with pytest.raises(Stopped, match="SIGTERM"):
            time.sleep(30)
        signals.ignore()
        time.sleep(0.2)


# ------------------------------------------------------------------------------------- what is left over


def processes_of(mark: str) -> list[int]:
    """Processes with this text in their environment or command line that have not ended."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ended = (process / "stat").read_bytes().rpartition(b") ")[2][:1] in b"ZX"
            text = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            if not ended and mark.encode() in text and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


def wait_until(true: Callable[[], object]) -> bool:
    """Whether it comes true in a time that is more than enough."""
    over = time.monotonic() + 300
    while not true() and time.monotonic() < over:
        time.sleep(0.02)
    return bool(true())


needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="there is no /proc to look into")


@needs_proc
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_with_the_command(number: signal.Signals, toy_folder: Path, tmp_path: Path) -> None:
    mark = f"MARK={tmp_path}"
    words = ["eval", "--policies", "random:8", "leftmost:8", "--problems", "800", "--batch-size", "1"]
    words += ["--workers", "2", "--denoiser", str(toy_folder), "--out", "x"]
    command = [sys.executable, "-m", "dllm_env", *words]
    environment = {**os.environ, "MARK": str(tmp_path), "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert wait_until((tmp_path / "x" / PROBLEMS).exists)
            assert len(processes_of(mark)) >= 3  # with the one or two workers that are there, and a tracker
            process.send_signal(number)
            said = process.communicate()[1]
        finally:
            process.kill()
    assert wait_until(lambda: not processes_of(mark))
    if number == signal.SIGTERM:
        assert process.returncode == 143
        assert said.strip() == (
            f"dllm-env: interrupted; continue with: {shlex.join(['dllm-env', *command[3:]])} --resume"
        )


ASKING = {
    "a question": ("test_processes.ask_sleeper()", "asked"),
    "a program": ("test_processes.run_sleeping()", "dllm-env-*/program.py"),
}


def ask_sleeper() -> None:
    """A question without an answer."""
    limited.ask(sleeper, ())


def sleeper() -> Callable[..., bool]:
    """A judge that never answers and uses no time of the processor, nor can be told to end."""

    def judge() -> bool:
        for name in ENDING:
            signal.signal(getattr(signal, name, signal.SIGINT), signal.SIG_IGN)
        Path(os.environ["ASKED"]).touch()
        time.sleep(300)
        return True

    return judge


def run_sleeping() -> None:
    """A program that does the same, without bubblewrap."""
    usable = (bare for bare in (Bare(), Bare("/usr/bin/python3")) if run(PROBE, sandbox=bare).passed)
    found = next(usable)
    Path(os.environ["ASKED"]).touch()
    run("import time\ntime.sleep(300)", sandbox=found)


@needs_proc
@pytest.mark.parametrize("what", ASKING)
def test_what_is_asked_of_responses_ends_with_who_asked(what: str, tmp_path: Path) -> None:
    call, sign = ASKING[what]
    code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import test_processes; {call}"
    environment = {**os.environ, "ASKED": str(tmp_path / "asked"), "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True) as process:
        there = wait_until(lambda: (tmp_path / "asked").exists() and list(tmp_path.glob(sign)))
        before = set(descendants(process.pid))
        process.kill()
    assert there
    assert before
    assert wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in before))


def descendants(pid: int) -> Iterator[int]:
    """Children of a process, and theirs."""
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, listed.read_text().split()):
            yield child
            yield from descendants(child)
