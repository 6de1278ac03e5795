"""What campaigns share: commands to start, to end and to look after, and the one line that each says at its end.

A campaign does the same thing many times, at moments and with values drawn from a seed, and counts what went wrong.
Each is a script: ``python tests/campaigns/NAME.py --rounds N --seed S``; ``make campaigns`` runs all of them.

Commands run in forks of this process, which has everything loaded, so that hundreds of them take minutes.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive", HF_HUB_OFFLINE="1", MPLBACKEND="Agg")

import torch

from dllm_env.cli import main
from dllm_env.denoisers.tiny import WORDS, TinyConfig, TinyDenoiser, TinyTransformer
from dllm_env.random import torch_generator

POLICY = (
    *("--width", "8", "--validation-problems", "2", "--block-length", "8"),
    *("--response-length", "16"),
    *("--imitation-steps", "1", "--imitation-problems", "2", "--imitation-batch-size", "8"),
    *("--validation-rules", "top_k:8"),
)
GRPO = ("train", "grpo", "--updates", "5", "--prompts", "2", "--num-generations", "2", "--save-every", "1", *POLICY)
PPO = ("train", "ppo", "--updates", "4", "--num-envs", "2", "--n-steps", "8", "--save-every", "2", *POLICY)
DENOISER = (
    *("train", "denoiser", "--width", "16", "--heads", "2", "--layers", "1", "--examples", "40"),
    *(
        "--first-updates",
        "4",
        "--second-updates",
        "2",
        "--third-updates",
        "2",
        "--warmup",
        "1",
        "--save-every",
        "2",
    ),
)
EVAL = (
    *("eval", "--policies", "random:8", "leftmost:8", "threshold:0.2", "--problems", "12", "--batch-size", "1"),
    *("--block-length", "40", "8"),
)


# ------------------------------------------------------------------------------------------- commands


@dataclass
class Command:
    """A command that was started, in a session of its own.

    Attributes:
        pid: of its process.
        folder: its working folder, which also has what it says, in ``said``.
    """

    pid: int
    folder: Path
    status: int | None = None

    def poll(self) -> int | None:
        """Its exit status, −N where signal N ended it, None while it runs."""
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def wait(self, seconds: float = 120.0) -> int:
        """Its exit status; kills it, and raises an error, where it takes longer."""
        over = time.monotonic() + seconds
        while (status := self.poll()) is None:
            if time.monotonic() > over:
                self.send(signal.SIGKILL)
                raise TimeoutError(f"still running after {seconds:.0f} s: {self.said[-300:]}")
            time.sleep(0.005)
        return status

    def send(self, number: int) -> None:
        """Sends it a signal, if it is still there."""
        if self.poll() is None:
            os.kill(self.pid, number)

    @property
    def said(self) -> str:
        """Both of its streams."""
        return (self.folder / "said").read_text(encoding="utf-8", errors="replace")

    @property
    def error(self) -> str:
        """The last line that is about an error, without the name of the command."""
        found = [line for line in self.said.splitlines() if line.startswith("dllm-env: ")]
        return found[-1].removeprefix("dllm-env: ") if found else ""


def start(arguments: list[str], folder: Path, before: Callable[[], object] = int) -> Command:
    """Starts ``dllm-env`` with these arguments in a fork, with ``folder`` as its working folder.

    Args:
        arguments: of the command line.
        folder: where; made where it is missing.
        before: called in the fork before the command, for limits.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return Command(pid, folder)
    status = 1
    try:
        weakref.finalize._registry.clear()  # type: ignore[attr-defined]  # the campaign's own folder is not ours
        os.setsid()
        os.chdir(folder)
        said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(said, stream)
        sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
        os.environ["CAMPAIGN"] = str(folder)
        tempfile.tempdir = None
        sys.argv = ["dllm-env", *arguments]
        before()
        status = main()
        sys.stdout.flush()
        atexit._run_exitfuncs()
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(status)


def run(arguments: list[str], folder: Path, seconds: float = 120.0) -> Command:
    """Runs a command to its end."""
    command = start(arguments, folder)
    command.wait(seconds)
    return command


def left(folder: Path, seconds: float = 30.0) -> list[int]:
    """Processes that a command in this folder has left, once they had so much time to end."""
    over = time.monotonic() + seconds
    while (found := _of(folder)) and time.monotonic() < over:
        time.sleep(0.02)
    return found


def _of(folder: Path) -> list[int]:
    """Processes that have the folder in their environment or as their working folder."""
    found, mark = [], f"CAMPAIGN={folder}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            ended = (process / "stat").read_bytes().rpartition(b") ")[2][:1] in b"ZX"
            here = Path(os.readlink(process / "cwd")).is_relative_to(folder)
            known = mark in (process / "environ").read_bytes().split(b"\0")
            if not ended and int(process.name) != os.getpid() and (here or known):
                found.append(int(process.name))
    return found


# -------------------------------------------------------------------------------------------- results


def toy(folder: Path) -> Path:
    """A denoiser of random weights, as a folder."""
    config = TinyConfig(width=16, layers=1, heads=2, feed_forward=32, max_length=76)
    network = TinyTransformer(config, len(WORDS))
    network.initialize(torch_generator(0))
    with torch.no_grad():
        network.head.weight.normal_(generator=torch_generator(1))
    TinyDenoiser(network).save(folder)
    return folder


def outcomes(folder: Path) -> dict[tuple[str, int, int], dict[str, Any]]:
    """What an evaluation has played, without times; raises an error where a line is torn or there twice."""
    found: dict[tuple[str, int, int], dict[str, Any]] = {}
    keys = {json.loads(line)["key"] for line in (folder / "settings.jsonl").read_text().splitlines()}
    text = (folder / "problems.jsonl").read_text()
    if not text.endswith("\n"):
        raise ValueError("the last line is torn")
    for line in text.splitlines():
        outcome = json.loads(line)
        place = outcome["setting"], outcome["index"], outcome["sample"]
        if place in found or outcome["setting"] not in keys:
            raise ValueError(f"{place} is there twice, or without its setting")
        found[place] = {name: value for name, value in outcome.items() if name != "seconds"}
    return found


def trained(folder: Path) -> dict[str, bytes]:
    """The files of a training that are promised bit for bit, and which updates were logged."""
    files = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in (".safetensors", ".json") and path.is_file()
    }
    updates = []
    for path in sorted((folder / "logs").glob("progress*.csv")):
        lines = path.read_text().splitlines()
        at = lines[0].split(",").index("time/update") if lines else 0
        updates += [float(line.split(",")[at]) for line in lines[1:]]
    return files | {"updates": repr(sorted(updates)).encode()}


# --------------------------------------------------------------------------------------------- scripts


@dataclass
class Tally:
    """What a campaign has counted.

    Attributes:
        name: of the campaign.
        counts: figures by what they count.
        failures: what went wrong, a line each.
    """

    name: str
    counts: dict[str, int]
    failures: list[str]

    def add(self, what: str, number: int = 1) -> None:
        """Counts."""
        self.counts[what] = self.counts.get(what, 0) + number

    def check(self, good: bool, what: str) -> bool:
        """Notes a failure where something is not good."""
        if not good:
            self.failures.append(what)
            print(f"{self.name}: FAILED: {what}", file=sys.stderr, flush=True)
        return good

    def line(self) -> str:
        """All figures in one line."""
        said = ", ".join(f"{number} {what}" for what, number in self.counts.items())
        return f"{self.name}: {said}, {len(self.failures)} failures"


@contextlib.contextmanager
def guarded(tally: Tally, what: str) -> Iterator[None]:
    """An error within is a failure, and the campaign goes on."""
    try:
        yield
    except Exception as error:
        tally.check(False, f"{what}: {type(error).__name__}: {error}")


def campaign(name: str, play: Callable[[Tally, int, random.Random, Path], None], rounds: int) -> None:
    """The main function of a script.

    Args:
        name: of the campaign.
        play: does so many rounds in a temporary folder.
        rounds: by default.
    """
    parser = argparse.ArgumentParser(name)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    tally = play_in_folder(name, play, given.rounds, given.seed)
    print(tally.line())
    sys.exit(1 if tally.failures else 0)


def play_in_folder(
    name: str, play: Callable[[Tally, int, random.Random, Path], None], rounds: int, seed: int
) -> Tally:
    """Plays a campaign in a temporary folder, and returns what it counted."""
    torch.set_num_threads(1)
    tally = Tally(name, {}, [])
    with tempfile.TemporaryDirectory(prefix="campaign-") as folder:
        try:
            play(tally, rounds, random.Random(f"{name}/{seed}"), Path(folder).resolve())
        except KeyboardInterrupt:  # what was counted until then is shown all the same
            tally.name += " (interrupted)"
    return tally
