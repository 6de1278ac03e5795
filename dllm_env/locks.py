"""One writer for each folder.

Whoever writes into a folder holds a lock on it, from before the first change to after the last one. The lock is the
operating system's, on the file ``.dllm-env.lock`` in the folder: it is gone when its process is, however that
ended, so that none is ever stale. The file says who holds it; it is removed at the end, and after a kill, when a
mere file without a lock is left, by the next that writes.

Readers need no lock: files are replaced in one step, or grow by whole lines.

Processes that share a folder by design let one of them, the first of the group, hold the lock for all.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import socket
import stat
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dllm_env.errors import UsageError
from dllm_env.world import World

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".dllm-env.lock"
NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL, errno.EBADF)
"""What file systems answer that have no locks."""
FAR = 1 << 30
"""On Windows the byte that is locked: one that nobody reads, since others cannot read what is locked."""
TRIES = 100
"""How often a lock is asked for whose file, or folder, was removed by the one before just then."""


class InUse(UsageError):
    """Another process, or thread, is writing there."""


@dataclass
class _Held:
    """A lock of this process.

    Attributes:
        path: its file.
        descriptor: open as long as the lock is held.
        thread: which holds it, and may take it again.
        depth: how often it has.
    """

    path: Path
    descriptor: int
    thread: int
    depth: int = 1


_held: dict[tuple[int, int, str], _Held] = {}
"""The locks of this process, by device and number of the folder, and name of the lock's file."""
_changing = threading.Lock()
_warned: set[int] = set()


@contextlib.contextmanager
def locked(folder: Path, fresh: bool = False, name: str = LOCK) -> Iterator[Path]:
    """Holds the lock on a folder, which is made where it is missing; one that is then left empty is removed.

    Within itself, in the same thread, it may be taken again.

    Args:
        folder: what will be written into.
        fresh: take a folder that is not there yet, with a number behind its name where it is.
        name: of the lock's file.

    Yields:
        The folder.

    Raises:
        InUse: somebody else is writing there.
        UsageError: the folder cannot be made, or the lock's file.
    """
    made: list[Path] = []
    try:
        folder, key = _take(folder, fresh, name, made)
        try:
            yield folder
        finally:
            _release(key)
    finally:
        for path in reversed(made):
            with contextlib.suppress(OSError):  # it is not empty, as a rule
                path.rmdir()


def locked_for_all(folder: Path, world: World) -> contextlib.AbstractContextManager[object]:
    """``locked`` by the first of several processes that write into a folder together."""
    return locked(folder) if world.first else contextlib.nullcontext()


def _take(folder: Path, fresh: bool, name: str, made: list[Path]) -> tuple[Path, tuple[int, int, str]]:
    """Makes the folder and takes its lock; notes in ``made`` which folders are new."""
    for attempt in range(TRIES):
        try:
            folder = _new(folder, made) if fresh else _made(folder, made)
            fresh = False
            with _changing:
                about = folder.stat()
                key = (about.st_dev, about.st_ino, name)
                if key in _held:
                    if _held[key].thread != threading.get_ident():
                        raise InUse(f"{folder} is in use by another thread of this process")
                    _held[key].depth += 1
                    return folder, key
                descriptor = _locked_file(folder, name)
                if descriptor is not None:
                    _held[key] = _Held(folder / name, descriptor, threading.get_ident())
                    return folder, key
        except OSError as error:
            if error.errno == errno.ENOENT and attempt < TRIES - 1:
                continue  # whoever held it has just removed the folder, which was empty
            raise UsageError(f"cannot write to {error.filename or folder}: {error.strerror}") from None
    raise InUse(f"{folder} is in use by other processes, one after the other; give another folder with --out")


def _made(folder: Path, made: list[Path]) -> Path:
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was as quick
            path.mkdir()
            made.append(path)
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder; give another one with --out")
    return folder


def _new(folder: Path, made: list[Path]) -> Path:
    _made(folder.parent, made)
    number, path = 1, folder
    while True:
        try:
            path.mkdir()
        except FileExistsError:
            number += 1
            path = folder.with_name(f"{folder.name}-{number}")
        else:
            made.append(path)
            return path


def _locked_file(folder: Path, name: str) -> int | None:
    """The lock's file, open and locked; None where it was removed meanwhile by the one who held it.

    Raises:
        InUse: it is locked already.
        OSError: it cannot be opened.
    """
    path = folder / name
    careful = os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, os.O_RDWR | careful, 0o666)
    except PermissionError:  # another user's, left by a kill
        descriptor = os.open(path, os.O_RDONLY | careful, 0o666)
    try:
        if not _lock(descriptor):
            raise InUse(f"{folder} is in use by {_holder(descriptor)}; wait for its end, or give another --out")
        if not _is_there(path, descriptor):
            os.close(descriptor)
            return None
    except BaseException:
        os.close(descriptor)
        raise
    _sign(descriptor)
    return descriptor


def _lock(descriptor: int) -> bool:
    """Whether the lock is ours now; where there are no locks, it is, with a warning."""
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            import msvcrt

            os.lseek(descriptor, FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            return False
        device = os.fstat(descriptor).st_dev
        if device not in _warned:
            _warned.add(device)
            said = "the file system has no locks: take care yourself that two commands do not write into one folder"
            warnings.warn(said, stacklevel=2)
    return True


def _is_there(path: Path, descriptor: int) -> bool:
    """Whether the path still leads to the file that was opened."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _sign(descriptor: int) -> None:
    """Writes down who holds the lock, for those who want it."""
    now = f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S}"
    about = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": now}) + "\n"
    with contextlib.suppress(OSError):  # the lock holds without it, also on a full disk
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, about.encode())


def _holder(descriptor: int) -> str:
    """Who holds the lock, as far as its file says."""
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        about = json.loads(os.read(descriptor, 4096))
        said = f"pid {int(about['pid'])} on {str(about['host'])[:100]}, since {str(about['since'])[:30]}"
    except (OSError, ValueError, KeyError, TypeError):  # it is about to write it
        return "another process"
    return f"another process ({said})"


def _release(key: tuple[int, int, str]) -> None:
    with _changing:
        held = _held.get(key)
        if held is None:  # in a fork, which holds nothing
            return
        held.depth -= 1
        if held.depth:
            return
        del _held[key]
        if fcntl is None:  # Windows removes no file that is open
            os.close(held.descriptor)
        with contextlib.suppress(OSError):
            if fcntl is None or _is_there(held.path, held.descriptor):
                held.path.unlink()
        if fcntl is not None:
            os.close(held.descriptor)


def _forget() -> None:
    """In a fork: the locks are the parent's, and must be free when the parent ends though the fork goes on."""
    global _changing
    for held in _held.values():
        with contextlib.suppress(OSError):
            os.close(held.descriptor)
    _held.clear()
    _changing = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
