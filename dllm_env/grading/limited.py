"""Questions about responses that may take for ever, each answered in a process of its own.

Whoever compares mathematics computes with what a response says, and a response may say 9^(9^(9^9)). A helper
process has the libraries loaded and forks for every question. The fork may use so much processor time and memory;
when that is used up it is gone, the answer is no, and the helper is as it was.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from typing import Any

from dllm_env.errors import UsageError
from dllm_env.processes import die_with

SECONDS = 0.7
"""Of processor time, for each question: ordinary ones take milliseconds."""
MEMORY = 2**30
"""Bytes, for each question, besides what the helper has."""
WALL_SECONDS = 60.0
"""After which a helper that says nothing is given up."""

Judge = Callable[..., bool]
"""Tells of a response whether it is right; runs in the fork."""
Maker = Callable[..., Judge]
"""Makes a judge; runs in the helper, once for the same arguments. Has to be a function of a module."""


def ask(make: Maker, known: tuple[Any, ...], *arguments: Any) -> bool:
    """What ``make(*known)(*arguments)`` says; no where it fails, or takes too long or too much.

    Args:
        make: makes the judge.
        known: its arguments, hashable: what is the same for many questions.
        arguments: of the judge.

    Raises:
        UsageError: whatever ``make`` raises as one, for example because a library is missing.
    """
    with _lock:
        for _ in range(2):
            helper = _running()
            try:
                helper.connection.send((make.__module__, make.__qualname__, known, arguments))
                if not helper.connection.poll(WALL_SECONDS):
                    break
                verdict = helper.connection.recv()
            except (EOFError, OSError):  # it has ended since the last question
                _stop()
                continue
            except BaseException:  # interrupted with an answer still to come, which the next question must not get
                _stop()
                raise
            if isinstance(verdict, Exception):
                raise verdict
            return bool(verdict)
        _stop()
        return False


# A module of the working folder must not stand in for one of Python's.
_START = "import sys; sys.path[:1] = []; from dllm_env.grading.limited import serve; serve(int(sys.argv[1]))"


class _Helper:
    """The helper process, and the connection to it."""

    def __init__(self) -> None:
        mine, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _START, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                start_new_session=True,  # Ctrl-C is for the parent, which ends the helper
            )
        self.connection = Connection(mine.detach())
        try:
            self.connection.recv()
        except (EOFError, OSError):
            self.connection.close()
            raise UsageError(
                f"the process that compares answers does not start; it ended with {self.process.wait()}. See what "
                "python -c 'import dllm_env.grading.limited' says"
            ) from None


_helper: _Helper | None = None
_lock = threading.Lock()


def _running() -> _Helper:
    """The helper; a new one where there is none."""
    global _helper
    if _helper is None:
        _helper = _Helper()
    return _helper


def _forget() -> None:
    """In a fork of this process: the helper is the parent's, and the lock may be held by a thread of its."""
    global _helper, _lock
    if _helper is not None:
        _helper.connection.close()
    _helper, _lock = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


@atexit.register
def _stop() -> None:
    global _helper
    if _helper is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(_helper.process.pid, signal.SIGKILL)  # with a fork that may be at work
        _helper.process.wait()
        _helper.connection.close()
    _helper = None


# -------------------------------------------------------------------------------------- in the helper


def serve(descriptor: int) -> None:
    """Answers questions until the connection ends."""
    connection = Connection(descriptor)
    connection.send("ready")
    judges: dict[tuple[Any, ...], Judge] = {}
    with contextlib.suppress(EOFError, OSError):
        while True:
            module, name, known, arguments = connection.recv()
            try:
                if (module, name, known) not in judges:
                    judges[module, name, known] = getattr(importlib.import_module(module), name)(*known)
                verdict: Any = _forked(judges[module, name, known], arguments, connection)
            except Exception as error:
                verdict = error
            connection.send(verdict)


def _forked(judge: Judge, arguments: tuple[Any, ...], connection: Connection) -> bool:
    """The judge's verdict, from a fork; it says yes by its exit status."""
    parent = os.getpid()
    child = os.fork()
    if not child:
        said = 1
        try:
            die_with(parent)
            _limit()
            said = 0 if judge(*arguments) else 1
        finally:
            os._exit(said)
    _stop_when_alone(child, connection)
    return os.waitpid(child, 0)[1] == 0


def _stop_when_alone(child: int, connection: Connection) -> None:
    """Waits for the end of the fork, and ends it where the one who asked is gone (Linux)."""
    if not hasattr(os, "pidfd_open"):
        return
    with contextlib.suppress(OSError):  # a kernel without it: then only the fork's limits end it
        ended = os.pidfd_open(child)
        try:
            if ended not in wait([connection, ended]):
                os.kill(child, signal.SIGKILL)
        finally:
            os.close(ended)


def _limit() -> None:
    """At the end of its time the kernel ends the process, whatever code it is in."""
    pages = 0
    with contextlib.suppress(OSError), open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, WALL_SECONDS)  # when nobody waits for it any more
