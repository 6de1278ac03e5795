"""How processes end: the command by a signal, in order; its helpers with it, however it ends."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, parent_process, resource_tracker
from multiprocessing.context import SpawnContext
from multiprocessing.process import BaseProcess
from types import FrameType, TracebackType
from typing import Any, TypeVar

from dllm_env.errors import UsageError

INTERRUPTED = 128 + signal.SIGINT
"""Exit status after Ctrl-C."""
ENDING = ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK")
"""Signals that ask a process to end: of Ctrl-C, schedulers and containers, closing terminals, Windows."""
TOGETHER = 1.0
"""Seconds in which several signals are one: an impatient Ctrl-C, a scheduler that tells the whole group, too."""
LOST = 5.0
"""Seconds after which a signal is repeated whose exception was swallowed on its way, as in a destructor."""
PR_SET_PDEATHSIG = 1


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end; what goes for Ctrl-C goes for all of them.

    Attributes:
        status: the exit status that says so, 128 and the signal's number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number, self.status = number, 128 + number


def exit_status(stop: KeyboardInterrupt) -> int:
    """The exit status that says which signal it was."""
    return stop.status if isinstance(stop, Stopped) else INTERRUPTED


def stop_before(error: BaseException | None) -> KeyboardInterrupt | None:
    """The interruption that an error came after, as where the terminal is gone that a progress bar is drawn on."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return error
        error = error.__context__
    return None


def _numbers() -> list[int]:
    """The signals of ``ENDING`` that this system has."""
    return [getattr(signal, name) for name in ENDING if hasattr(signal, name)]


def _mask(how: str) -> set[Any]:
    """Blocks or unblocks them in this thread, and returns what was blocked before."""
    return signal.pthread_sigmask(getattr(signal, how), _numbers()) if hasattr(signal, "pthread_sigmask") else set()


class Signals:
    """While it is entered, signals that ask to end raise ``Stopped``, in the main thread.

    Signals that somebody ignores (``nohup``), or has a handler for, are left alone.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._raised, self._number = -math.inf, 0
        self._told, self._over = threading.Event(), False

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in _numbers():
                if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                    self._before[number] = signal.signal(number, self._stop)
            threading.Thread(target=self._repeat, name="signals", daemon=True).start()
        return self

    def _stop(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._over or now - self._raised < TOGETHER:
            return
        self._raised, self._number = now, number
        self._told.set()
        raise Stopped(number)

    def _repeat(self) -> None:
        """In a thread: a program must not go on because what a signal has raised was lost."""
        _mask("SIG_BLOCK")  # so that they are held back where the main thread holds them back
        self._told.wait()
        while not self._over:
            time.sleep(LOST)
            if not self._over and hasattr(signal, "pthread_kill"):
                signal.pthread_kill(threading.main_thread().ident or 0, self._number)

    def ignore(self) -> None:
        """From now on signals change nothing: the command is at its end, and says so."""
        self._over = True

    def ignore_for_good(self) -> None:
        """The same until the process is gone; nothing that Python does at the end is to be cut short."""
        self.ignore()
        for number in self._before:
            signal.signal(number, signal.SIG_IGN)
        self._before.clear()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over = True
        self._told.set()
        for number, handler in self._before.items():
            signal.signal(number, handler)


# ------------------------------------------------------------------------------------------- children


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Processes that are started meanwhile get no signals that ask to end, until ``let_signals_change_nothing``.

    A signal to a whole group, as Ctrl-C is one, is then for the parent alone, which ends its children.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # which lets signals through when it is started
    before = _mask("SIG_BLOCK")
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def let_signals_change_nothing() -> None:
    """In a child: signals that ask to end do nothing to it, but what it starts itself has them as usual."""
    for number in _numbers():
        signal.signal(number, lambda *_: None)  # a handler is not handed on to other programs; to ignore would be
    if hasattr(signal, "pthread_sigmask"):
        _mask("SIG_UNBLOCK")


class Workers(SpawnContext):
    """Spawns processes as multiprocessing does, and can end all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.started: list[BaseProcess] = []

    def Process(self, *arguments: Any, **named: Any) -> BaseProcess:  # type: ignore[override]
        """A process, not yet started."""
        self.started.append(SpawnContext.Process(*arguments, **named))
        return self.started[-1]

    def kill(self) -> None:
        """Ends them at once, also those that are still beginning and listen to nothing."""
        for process in self.started:
            if process.pid is not None:
                process.kill()


class Lifeline:
    """What processes hang on: they end when the one who holds it is gone.

    Attributes:
        end: what they are handed, for ``end_with``.
    """

    def __init__(self) -> None:
        self.end, self._mine = SpawnContext().Pipe(duplex=False)

    def close(self) -> None:
        """Lets go of everything; what hangs on it ends."""
        self._mine.close()
        self.end.close()


def end_with(parent: int, end: connection.Connection) -> None:
    """Ends this process, at once, when its parent is gone.

    Args:
        parent: its process id.
        end: of its lifeline.
    """

    def wait() -> None:
        with contextlib.suppress(OSError):
            connection.wait([end])
        os._exit(1)

    threading.Thread(target=wait, name="lifeline", daemon=True).start()
    die_with(parent)


def die_with(parent: int) -> None:
    """Linux: the kernel kills this process when the thread of the parent that started it ends.

    Unlike a thread of its own it needs nothing of this process, which may be deep in a computation. It does nothing
    on other systems.

    Args:
        parent: its process id; where it is gone already, this process ends now.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


Item = TypeVar("Item")
Made = TypeVar("Made")


def spread(
    function: Callable[[Item], Made],
    items: Sequence[Item],
    workers: int,
    prepare: Callable[..., None],
    arguments: tuple[Any, ...] = (),
) -> Iterator[tuple[Item, Made]]:
    """What a function makes of each item in processes of their own, as soon as it is there.

    The processes end with this one, and at once when it is interrupted or fails.

    Args:
        function: of a module, as everything here that is sent.
        items: what it is called with.
        workers: processes.
        prepare: called first in each of them.
        arguments: of ``prepare``.

    Raises:
        UsageError: one of the processes was ended from outside.
    """
    started = Workers()
    with contextlib.closing(Lifeline()) as line:
        pool = ProcessPoolExecutor(workers, started, _begin, (line.end, prepare, arguments))
        try:
            with signals_held_back():
                running = {pool.submit(function, item): item for item in items}
            while running:
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        except BrokenProcessPool:
            started.kill()
            raise UsageError(
                "a worker has ended before its time, perhaps because memory ran out; go on with --resume, and "
                "perhaps fewer --workers"
            ) from None
        except BaseException:  # nobody waits for what is half done
            started.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(line: connection.Connection, prepare: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    """In a worker: it ends with the process that began it."""
    parent = parent_process()
    assert parent is not None
    assert parent.pid is not None
    end_with(parent.pid, line)
    let_signals_change_nothing()
    prepare(*arguments)
