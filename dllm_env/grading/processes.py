"""Processes of generated programs: how they are started, listened to and ended, and what they leave is removed."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import tempfile
import threading
import time
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Processor time is what ends a slow program, so that a busy machine changes no verdict; the limit of wall time
    is there for those that sleep.
    """

    seconds: int = 10
    """Of processor time, of each process."""
    wall_seconds: float = 30.0
    """Of wall time in all."""
    memory: int = 1024 * MIB
    """Bytes of address space, of each process."""
    processes: int = 8
    """Processes and threads."""
    disk: int = 64 * MIB
    """Bytes of each file; under bubblewrap of all files together."""
    output: int = 64 * 1024
    """Bytes of output; a program that says more is stopped."""


DEFAULT = Limits()


def start(
    command: list[str], given: bytes, folder: str, mark: str, pipes: tuple[int, ...]
) -> subprocess.Popen[bytes]:
    """A process that reads ``given``, which nobody else has open once it runs."""
    with tempfile.TemporaryFile() as source:
        source.write(given)
        source.seek(0)
        return subprocess.Popen(
            command,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PROGRAM": mark},
            pass_fds=pipes,
            start_new_session=True,
        )


class Beside:
    """What a process says whose end nobody waits for."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self.pipe, self.output = os.dup(process.stdout.fileno()), b""
        os.set_blocking(self.pipe, False)

    def more(self) -> bool:
        """Reads some; whether there may be more to come."""
        try:
            more = os.read(self.pipe, 65_536)
        except BlockingIOError:
            return False
        self.output += more
        return bool(more)

    def rest(self, limits: Limits) -> bytes:
        """All that it has said, up to the limit, once it has ended."""
        while len(self.output) < limits.output and self.more():
            pass
        return self.output[: limits.output]

    def close(self) -> None:
        os.close(self.pipe)


def read(process: subprocess.Popen[bytes], limits: Limits, beside: Beside | None = None) -> tuple[bytes, str]:
    """Reads until the end, or the limit of output, of what is beside it, too, or of wall time."""
    assert process.stdout is not None
    pipe, output, over = process.stdout.fileno(), b"", time.monotonic() + limits.wall_seconds
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        if beside is not None:
            selector.register(beside.pipe, selectors.EVENT_READ)
        while time.monotonic() < over:
            ended = (
                process.poll() is not None
            )  # asked first, since its last words may come while one waits for them
            ready = {key.fd for key, _ in selector.select(min(0.1, limits.wall_seconds))}
            if beside and beside.pipe in ready:
                if not beside.more():
                    selector.unregister(beside.pipe)
                if len(beside.output) > limits.output:
                    return output, "too much output"
            if pipe in ready:
                more = os.read(pipe, 65_536)
                if not more:
                    return output, ""
                output += more
                if len(output) > limits.output:
                    return output[: limits.output], "too much output"
            elif ended and not ready:  # though something that it started keeps the pipe open
                return output, ""
    return output, "timed out"


def end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and what it started: under bubblewrap with its namespace, else with its session."""
    assert process.stdout is not None
    if process.stdout.closed:
        return
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
    process.stdout.close()


# ------------------------------------------------------------------------------------------ what is left


class SandboxWarning(UserWarning):
    """Generated programs are kept from less than they should be, or leave more behind."""


ENDING_SECONDS = 5.0
"""For ending what a program has left running."""
REMOVING_SECONDS = 10.0
"""After which the rest of a program's folder is removed while other things go on."""

_told = threading.Event()


def end_all(mark: str, users: Collection[int]) -> None:
    """Ends what is left of a program: what was started with its mark in the environment, or is its users'."""
    over = time.monotonic() + ENDING_SECONDS
    while left := _left(
        mark, users
    ):  # a round ends all that it has found; what they started meanwhile is for the next
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if time.monotonic() > over:
            _tell(f"a program goes on starting processes faster than they can be ended; the last were {left[:8]}")
            return
        time.sleep(0.001)


def _left(mark: str, users: Collection[int]) -> list[int]:
    """Processes of a program that still run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            own = os.getuid() == 0 and process.stat().st_uid in users
            ended = (process / "stat").read_bytes().rpartition(b") ")[2][:1] in b"ZX"
            if not ended and (own or mark.encode() in (process / "environ").read_bytes()):
                found.append(int(process.name))
    return found


def remove(folder: str) -> None:
    """Removes a program's folder; what takes long goes on beside whatever comes next."""
    # Python's own way is lost in folders that are thousands deep. What its owner may not enter is opened first.
    script = 'rm -rf -- "$0" || { chmod -R u+rwx -- "$0"; rm -rf -- "$0"; }'
    with contextlib.suppress(OSError):  # nothing in it, as always under bubblewrap
        os.rmdir(folder)
        return
    removing = subprocess.Popen(
        ["sh", "-c", script, folder],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        removing.wait(REMOVING_SECONDS)
    except subprocess.TimeoutExpired:
        threading.Thread(target=removing.wait, daemon=True).start()
        _tell(
            f"a program has left so much in its folder that removing it takes more than {REMOVING_SECONDS:g} s; "
            f"that goes on in the background ({folder}). Install bubblewrap, where nothing is left"
        )


def _tell(what: str) -> None:
    """Once: the next program may do the same."""
    if not _told.is_set():
        _told.set()
        warnings.warn(f"{what}; said once", SandboxWarning, stacklevel=4)
