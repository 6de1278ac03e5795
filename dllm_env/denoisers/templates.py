"""Chat templates with a limit: they are programs, come with a checkpoint, and may take for ever or all memory.

A template is rendered in a process of its own, which is forked from this one when it is first needed and has the
tokenizer as it was then. Where a rendering takes too long or too much, that process is ended, and nothing else is.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import socket
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from typing import Any

from dllm_env.errors import UsageError
from dllm_env.reading import reason

SECONDS = 10.0
"""Of the processor, for one conversation; ordinary ones take a thousandth of one."""
WALL_SECONDS = 120.0
"""For one that waits instead; a busy machine may keep an ordinary one waiting, too."""
MEMORY = 2**30
"""Bytes, besides what this process has."""
LONGEST = 2**24
"""Letters of a rendered conversation."""

Render = Callable[..., Any]


class Renderer:
    """Calls a function in a process of its own, with limits.

    Args:
        render: called with keywords; gives a text.
    """

    def __init__(self, render: Render) -> None:
        self.render = render
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def __call__(self, settings: Mapping[str, Any]) -> str:
        """The text for these keywords, which have to be plain data.

        Raises:
            UsageError: the function raises something, or takes too much of anything.
        """
        with self._lock:
            if self._child is None or self._child.parent != os.getpid():
                self._child = _Child(self.render)
            try:
                self._child.connection.send(dict(settings))
                answered = self._child.connection.poll(WALL_SECONDS)
                good, text = self._child.connection.recv() if answered else (False, "")
            except (EOFError, OSError):
                answered = False
            finally:
                if not answered:  # also where it was interrupted: the next question must not get this answer
                    self._child.end()
                    self._child = None
        if not answered:
            raise UsageError(f"it takes more than {SECONDS:g} seconds, or more than {MEMORY >> 30} GB of memory")
        if not good:
            raise UsageError(text)
        return text


def _answer(render: Render, settings: Mapping[str, Any]) -> tuple[bool, str]:
    try:
        text = str(render(**settings))
    except MemoryError:
        return False, f"it takes more than {MEMORY >> 30} GB of memory"
    except Exception as error:  # templates raise what they like
        return False, reason(error)
    return (True, text) if len(text) <= LONGEST else (False, f"it writes more than {LONGEST:,} letters")


class _Child:
    """The process that renders.

    Attributes:
        parent: the process that it belongs to.
        connection: to it.
    """

    def __init__(self, render: Render) -> None:
        self.parent = os.getpid()
        mine, theirs = socket.socketpair()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads: the fork computes nothing with torch
            pid = os.fork()
        if not pid:
            _serve(theirs.detach(), render)
        theirs.close()
        self.connection = Connection(mine.detach())
        self.end = weakref.finalize(self, _end, pid, self.parent, self.connection)


def _end(pid: int, parent: int, connection: Connection) -> None:
    connection.close()
    if os.getpid() == parent:  # not in a fork that ends
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _serve(descriptor: int, render: Render) -> None:
    """In the fork: answers until the connection ends, which it does with the parent."""
    try:
        gc.disable()  # objects of the parent's are not to be taken down here
        os.closerange(3, descriptor)  # locks and files of the parent's, which would live on
        os.closerange(descriptor + 1, 1 << 20)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
        for number in (signal.SIGTERM, signal.SIGPROF):
            signal.signal(number, signal.SIG_DFL)
        _limit_memory()
        connection = Connection(descriptor)
        while True:
            settings = connection.recv()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            answer = _answer(render, settings)
            signal.setitimer(signal.ITIMER_PROF, 0)
            connection.send(answer)
    except (EOFError, OSError):
        os._exit(0)
    finally:
        os._exit(1)


def _limit_memory() -> None:
    with contextlib.suppress(OSError, ValueError), open("/proc/self/statm", encoding="ascii") as file:
        pages = int(file.read().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
