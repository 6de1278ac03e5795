"""Lets the disk run full at many different points of every command that writes.

A command has to end with status 2 and one line that says so and how to go on; with room again, what it says has
to work, and to give what a command gives that never ran out of it. The disk is a small file system in memory where
root may mount one, else a limit on the size of files, which ends in the same way.
"""

from __future__ import annotations

import contextlib
import random
import resource
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from common import DENOISER, EVAL, GRPO, PPO, Command, Tally, campaign, guarded, outcomes, run, start, toy, trained

KINDS = {
    "train grpo": GRPO,
    "train ppo": PPO,
    "train denoiser": DENOISER,
    "eval": (*EVAL, "--workers", "1"),
    "report": ("report",),
    "push": ("push",),
}


def play(tally: Tally, rounds: int, rng: random.Random, folder: Path) -> None:
    """So many full disks."""
    made = str(toy(folder / "toy"))
    whole: dict[str, tuple[int, object]] = {}
    for kind in KINDS:
        place = folder / f"whole-{kind.replace(' ', '-')}"
        command = run(words_of(kind, made, folder, "x"), place)
        if not tally.check(command.status == 0, f"{kind}: {command.said[-500:]}"):
            return
        whole[kind] = size(place / "x"), result(kind, place / "x")
    mounts = can_mount(folder)
    if not mounts:
        print("disk_full: no file system can be mounted here, so files are limited in size")
    for i in range(rounds):
        kind = list(KINDS)[i % len(KINDS)]
        with guarded(tally, f"{kind}, round {i}"):
            full(tally, kind, made, folder, whole[kind], rng, mounts, folder / f"round-{i}")


def words_of(kind: str, made: str, folder: Path, out: str) -> list[str]:
    """The command line."""
    if kind == "report":
        return ["report", str(folder / "whole-eval" / "x"), "--out", f"{out}/report.html"]
    if kind == "push":
        return ["push", str(folder / "whole-train-grpo" / "x"), "me/policy", "--dry-run", out]
    return [*KINDS[kind], *([] if kind == "train denoiser" else ["--denoiser", made]), "--out", out]


def full(
    tally: Tally,
    kind: str,
    made: str,
    folder: Path,
    whole: tuple[int, object],
    rng: random.Random,
    mounts: bool,
    place: Path,
) -> None:
    """One command that runs out of room, and is gone on with."""
    room = rng.randrange(4096, max(whole[0] * 5 // 4, 8192))
    with small_disk(place / "disk", room) if mounts else contextlib.nullcontext():
        words = words_of(kind, made, folder, str(place / "disk" / "x"))
        command = start(words, place, int if mounts else lambda: limit_files(room // 2))
        status = command.wait()
        if status == 0:
            tally.add("had room enough")
        else:
            tally.add(f"{kind} stopped")
            what = f"{kind} with room for {room:,} bytes"
            lines = [line for line in command.said.splitlines() if line.startswith("dllm-env: ")]
            good = status == 2 and len(lines) == 1 and "Traceback" not in command.said and "make room" in lines[0]
            if not tally.check(good, f"{what}: ended with {status}: {command.said[-600:]}"):
                return
            tally.check(not list((place / "disk").rglob("*.tmp")), f"{what}: leaves half a file")
            if mounts:
                subprocess.run(["mount", "-o", "remount,size=64m", str(place / "disk")], check=True)
            again = run(hint(command) or words, place)
            if not tally.check(again.status == 0, f"{what}: goes on with {again.status}: {again.said[-600:]}"):
                return
        there = result(kind, place / "disk" / "x")
        tally.check(there == whole[1], f"{kind} with room for {room:,} bytes gives something else")


def hint(command: Command) -> list[str]:
    """What the command says to go on with; nothing where it is the command itself."""
    return shlex.split(command.error.partition(" with: dllm-env ")[2])


def size(folder: Path) -> int:
    """Bytes of all files, each in whole pages."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def result(kind: str, folder: Path) -> object:
    """What has to be the same with and without an interruption."""
    if kind == "eval":
        return outcomes(folder)
    if kind in ("report", "push"):
        return sorted(path.name for path in folder.iterdir())
    return trained(folder)


def can_mount(folder: Path) -> bool:
    """Whether this user may mount a file system in memory."""
    try:
        with small_disk(folder / "try", 4096):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def small_disk(place: Path, room: int) -> Iterator[None]:
    """A file system in memory of so many bytes."""
    place.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}", "tmpfs", str(place)]
    subprocess.run(mount, check=True, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def limit_files(room: int) -> None:
    """In a fork: no file may become larger."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(room, 4096),) * 2)


if __name__ == "__main__":
    campaign("disk_full", play, rounds=90)
