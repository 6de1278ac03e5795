"""Runs generated Python programs where they can do no harm.

A program runs in a process of its own, in an empty folder, without the environment's variables, with limits on
time, memory, processes, files and output; where root starts it, as a user that nobody else is. What else it is kept
from depends on what the machine has:

* bubblewrap (``bwrap``): no network, no other process in sight, a read-only file system without anybody's files,
  and nothing to write in but a small folder in memory that is gone afterwards;
* nothing: the limits alone. ``Bare.warning`` says what is then not covered.

Nothing here is ever used unless the user says ``--allow-code-execution``.
"""

from __future__ import annotations

import contextlib
import functools
import os
import platform
import pwd
import random
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from dllm_env.errors import UsageError
from dllm_env.grading import sandbox_child as sandboxed

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


@dataclass(frozen=True)
class Verdict:
    """How a program ended.

    Attributes:
        passed: it came to its end, and nothing failed.
        reason: ``passed``, ``failed``, ``timed out`` or ``too much output``.
        output: what it said, both streams together.
    """

    passed: bool
    reason: str
    output: str


class Sandbox(Protocol):
    """A way to run a command apart from everything else.

    Attributes:
        name: what it is called.
        warning: what it does not keep a program from, if anything.
        python: the interpreter that runs programs; other users have to be able to read its library.
    """

    @property
    def name(self) -> str: ...
    @property
    def warning(self) -> str: ...
    @property
    def python(self) -> str: ...

    def command(self, python: Sequence[str], limits: Limits) -> list[str]:
        """The command that runs Python with these arguments."""

    def processes(self, limits: Limits) -> int:
        """The number to which the kernel has to limit the processes of the program's user."""


_PYTHON = os.path.realpath(sys.executable)


@dataclass(frozen=True)
class Bubblewrap:
    """Namespaces for everything, and only what Python needs to be read."""

    python: str = _PYTHON

    name: ClassVar[str] = "bubblewrap"
    warning: ClassVar[str] = ""

    def command(self, python: Sequence[str], limits: Limits) -> list[str]:
        return [
            *(str(shutil.which("bwrap")), "--die-with-parent", "--new-session", "--clearenv"),
            *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
            # Root becomes somebody else inside, which leaves no capabilities; a user namespace would not let it.
            *(("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID") if _is_root() else ()),
            *(() if _is_root() else ("--unshare-user",)),
            *("--hostname", "sandbox", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "LANG", "C.UTF-8"),
            *_visible(),
            *("--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev"),
            *("--perms", "0777", "--size", str(limits.disk), "--tmpfs", "/tmp", "--chdir", "/tmp"),
            *("--remount-ro", "/", "--", *python),
        ]

    def processes(self, limits: Limits) -> int:
        return limits.processes if _is_root() or _counts_by_namespace() else _own_tasks() + limits.processes


@dataclass(frozen=True)
class Bare:
    """Limits alone."""

    python: str = _PYTHON

    name: ClassVar[str] = "none"
    warning: ClassVar[str] = (
        "bubblewrap is not installed or does not work here: generated programs run with limits on time, memory, "
        "processes and output only. They can open network connections, read what this user can read, write where "
        "this user can write, fill the disk, stop this user's other processes, and leave some behind. Install "
        "bubblewrap (apt install bubblewrap), or do this on a machine that has nothing to lose"
    )

    def command(self, python: Sequence[str], limits: Limits) -> list[str]:
        return list(python)

    def processes(self, limits: Limits) -> int:
        return limits.processes if _is_root() else _own_tasks() + limits.processes


def _is_root() -> bool:
    return os.getuid() == 0


def _counts_by_namespace() -> bool:
    """Whether the limit of processes counts those of the user namespace alone: Linux 5.14 and later."""
    numbers = platform.release().split("-")[0].split(".")[:2]
    return all(n.isdigit() for n in numbers) and tuple(map(int, numbers)) >= (5, 14)


def _own_tasks() -> int:
    """Threads that this user has already."""
    count = 0
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid == os.getuid():
                count += len(os.listdir(process / "task"))
        except OSError:  # it has ended
            continue
    return count


def _clean_up(mark: str, user: int) -> None:
    """Ends what is left of a program: what was started with its mark in the environment, or is its user's."""
    for _ in range(1000):  # a round ends all that it has found; what they started meanwhile is for the next
        left = _left(mark, user)
        if not left:
            return
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.001)


def _left(mark: str, user: int) -> list[int]:
    """Processes of a program that still run."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            own = _is_root() and process.stat().st_uid == user
            ended = (process / "stat").read_bytes().rpartition(b") ")[2][:1] in b"ZX"
            if not ended and (own or mark.encode() in (process / "environ").read_bytes()):
                found.append(int(process.name))
    return found


@functools.cache
def _visible() -> tuple[str, ...]:
    """What Python needs to be read: the system's programs and libraries, and its own folders where elsewhere."""
    roots = ("/usr", os.path.realpath(sys.base_prefix), "/lib", "/lib64", "/bin")
    places: list[Path] = []
    for place in (Path(root) for root in roots):
        inside = any(place.resolve().is_relative_to(other) for other in places)
        if place.exists() and not place.is_symlink() and not inside:
            places.append(place.resolve())
    if Path("/etc/ld.so.cache").exists():
        places.append(Path("/etc/ld.so.cache"))
    links = [link for link in ("/bin", "/lib", "/lib64", "/sbin") if Path(link).is_symlink()]
    above = dict.fromkeys(str(parent) for place in places for parent in reversed(place.parents[:-1]))
    return (
        # Python may live in a folder that only root can enter.
        *(word for folder in above for word in ("--perms", "0755", "--dir", folder)),
        *(word for place in places for word in ("--ro-bind", str(place), str(place))),
        *(word for link in links for word in ("--symlink", os.readlink(link), link)),
    )


PROBE = "import heapq, json, math, socket, threading; assert math.comb(5, 2) == 10"
"""A program that runs where programs can run at all."""


class SandboxWarning(UserWarning):
    """Generated programs are kept from less than they should be."""


FILTERED = platform.machine() in sandboxed.CALLS
NOT_FILTERED = (
    f"On this processor ({platform.machine()}) system calls are not filtered: programs can take memory that no "
    "limit counts, and reach more of the kernel."
)


@functools.cache
def find_sandbox() -> Sandbox:
    """The best that works here, tried out; warns of what it does not keep programs from.

    Raises:
        UsageError: programs cannot be run at all.
    """
    sandboxes: list[Sandbox] = [Bubblewrap()] * 2 if shutil.which("bwrap") else []  # once may be bad luck
    said = ""
    for found in (*sandboxes, Bare(), Bare()):
        tried = run(PROBE, sandbox=found)
        if tried.passed:
            reasons = [f"{found.warning}. {said}" if found.warning else "", *(() if FILTERED else (NOT_FILTERED,))]
            if any(reasons):
                warnings.warn(" ".join(filter(None, reasons)).strip(), SandboxWarning, stacklevel=2)
            return found
        said = f"{found.name}: {' '.join(tried.output.split()) or tried.reason}"
    raise UsageError(
        "generated programs cannot be run on this machine; install bubblewrap (apt install bubblewrap), and where "
        f"root starts them, use a Python that other users can read, not one in root's home ({said})"
    )


def run(program: str, limits: Limits = Limits(), sandbox: Sandbox | None = None) -> Verdict:
    """Runs a program to its end, or until it has used up what it may.

    It has passed when it came to its end without an exception: leaving early with any exit status is no pass. What
    runs in one process with the code that judges it could still look for what counts as the end and fake it; only
    a program that was written against this very function would.

    Args:
        program: Python source.
        limits: what it may use.
        sandbox: how to run it; by default the best that works here.
    """
    sandbox = find_sandbox() if sandbox is None else sandbox
    secret = secrets.token_hex(16)
    # A user of its own for each program: the kernel counts processes by user, and nobody may stop another's.
    user = next(number for number in iter(_random_user, None) if not _is_somebody(number))
    runner = Path(sandboxed.__file__).read_text(encoding="utf-8")
    python = [sandbox.python, "-I", "-S", "-B", "-c", runner, str(user)]
    kernel = " ".join(f"{name}={value}" for name, value in _kernel_limits(limits, sandbox.processes(limits)))
    mark = secrets.token_hex(16)
    folder = tempfile.mkdtemp(prefix="dllm-env-")
    os.chmod(folder, 0o777)
    command, given = sandbox.command(python, limits), f"{kernel}\n{secret}\n{program}"
    try:
        output, ended = _communicate(command, given, folder, limits, mark)
    finally:
        _clean_up(mark, user)
        # Python's own way is lost in folders that are thousands deep.
        subprocess.run(["rm", "-rf", "--", folder], check=False, stderr=subprocess.DEVNULL)
    said = output.decode("utf-8", errors="replace")
    if ended:
        return Verdict(False, ended, said)
    passed = said.endswith("\n" + secret)
    return Verdict(passed, "passed" if passed else "failed", said.removesuffix(secret).rstrip("\n"))


def _random_user() -> int:
    return random.SystemRandom().randrange(40_000, 60_000)


def _is_somebody(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True


def _kernel_limits(limits: Limits, processes: int) -> list[tuple[str, int]]:
    return [
        ("AS", limits.memory),
        ("CPU", limits.seconds),
        ("FSIZE", limits.disk),
        ("CORE", 0),
        ("NOFILE", 256),
        ("STACK", 64 * MIB),
        ("NPROC", processes),
    ]


def _communicate(command: list[str], given: str, folder: str, limits: Limits, mark: str) -> tuple[bytes, str]:
    """What a command says, and why it was stopped, if it was."""
    with tempfile.TemporaryFile() as source:
        source.write(given.encode("utf-8", errors="replace"))
        source.seek(0)
        process = subprocess.Popen(
            command,
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "PROGRAM": mark},
            start_new_session=True,
        )
        try:
            return _read(process, limits)
        finally:
            _stop(process)


def _read(process: subprocess.Popen[bytes], limits: Limits) -> tuple[bytes, str]:
    """Reads until the end, or the limit of output or of wall time."""
    assert process.stdout is not None
    pipe, output, over = process.stdout.fileno(), b"", time.monotonic() + limits.wall_seconds
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while time.monotonic() < over:
            ended = (
                process.poll() is not None
            )  # asked first, since its last words may come while one waits for them
            if selector.select(min(0.1, limits.wall_seconds)):
                more = os.read(pipe, 65_536)
                if not more:
                    return output, ""
                output += more
                if len(output) > limits.output:
                    return output[: limits.output], "too much output"
            elif ended:  # though something that it started keeps the pipe open
                return output, ""
    return output, "timed out"


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and what it started: under bubblewrap with its namespace, else with its session."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()
