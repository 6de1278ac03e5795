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
import marshal
import os
import platform
import pwd
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from dllm_env.errors import UsageError
from dllm_env.grading import sandbox_child as sandboxed
from dllm_env.grading.checks import Checks
from dllm_env.grading.processes import DEFAULT, MIB, Beside, Limits, SandboxWarning, end, end_all, remove, start
from dllm_env.grading.processes import read as _read


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


@functools.cache
def _visible() -> tuple[str, ...]:
    """What Python needs to be read: the system's programs and libraries, and its own folders where elsewhere.

    Installed packages are not among it.
    """
    roots = ("/usr", os.path.realpath(sys.base_prefix), "/lib", "/lib64", "/bin")
    places: list[Path] = []
    for place in (Path(root) for root in roots):
        inside = any(place.resolve().is_relative_to(other) for other in places)
        if place.exists() and not place.is_symlink() and not inside:
            places.append(place.resolve())
    if Path("/etc/ld.so.cache").exists():
        places.append(Path("/etc/ld.so.cache"))
    links = [link for link in ("/bin", "/lib", "/lib64", "/sbin") if Path(link).is_symlink()]
    # Installed packages may be data sets with the answers.
    patterns = [f"{under}lib*/python3*/{kind}-packages" for under in ("", "local/") for kind in ("site", "dist")]
    patterns += ["envs", "pkgs"]  # conda's
    hidden = [path for place in places if place.is_dir() for pattern in patterns for path in place.glob(pattern)]
    above = dict.fromkeys(str(parent) for place in places for parent in reversed(place.parents[:-1]))
    return (
        # Python may live in a folder that only root can enter.
        *(word for folder in above for word in ("--perms", "0755", "--dir", folder)),
        *(word for place in places for word in ("--ro-bind", str(place), str(place))),
        *(word for path in hidden for word in ("--perms", "0755", "--tmpfs", str(path), "--remount-ro", str(path))),
        *(word for link in links for word in ("--symlink", os.readlink(link), link)),
    )


PROBE = "import heapq, json, math, socket, threading; assert math.comb(5, 2) == 10"
"""A program that runs where programs can run at all."""


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


def run(
    program: str, limits: Limits = DEFAULT, sandbox: Sandbox | None = None, checks: Checks | None = None
) -> Verdict:
    """Runs a program to its end, or until it has used up what it may.

    It has passed when it came to its end without an exception: leaving early with any exit status is no pass. A
    program that was written against this very function could look in its own process for what counts as the end,
    and fake it. Where there are checks, they decide, from a process of their own, apart from everything else and
    from the program: that gets the arguments of calls and gives back plain values, and what is expected of these
    never comes where it could look.

    Args:
        program: Python source.
        limits: what it may use, and what its checks may; the time that passes is that of both.
        sandbox: how to run it; by default the best that works here.
        checks: of what it defines.

    Returns:
        The verdict, with the output of the program, and then of the checks.
    """
    sandbox = find_sandbox() if sandbox is None else sandbox
    with _Room(sandbox, limits) as room:
        if checks is None:
            ran = room.start(program)
            return ran.verdict(*_read(ran.process, limits))
        return _checked(program, checks, room)


def _checked(program: str, checks: Checks, room: _Room) -> Verdict:
    requests, answers = os.pipe(), os.pipe()
    try:
        asked = room.start(checks.text(), "asked", (requests[1], answers[0]))
        served = room.start(program, "served", (requests[0], answers[1]))
    finally:
        for pipe in (*requests, *answers):
            os.close(pipe)
    with contextlib.closing(Beside(served.process)) as beside:
        verdict = asked.verdict(*_read(asked.process, room.limits, beside))
        end(served.process)
        said = beside.rest(room.limits).decode("utf-8", errors="replace").rstrip("\n")
    return Verdict(verdict.passed, verdict.reason, "\n".join(filter(None, (said, verdict.output))))


@dataclass(frozen=True)
class _Started:
    """A process, and what it says at its end."""

    process: subprocess.Popen[bytes]
    secret: str

    def verdict(self, output: bytes, ended: str) -> Verdict:
        """What it comes to, by what it said and why it was stopped, if it was."""
        said = output.decode("utf-8", errors="replace")
        if ended:
            return Verdict(False, ended, said)
        passed = said.endswith("\n" + self.secret)
        return Verdict(passed, "passed" if passed else "failed", said.removesuffix(self.secret).rstrip("\n"))


class _Room:
    """A folder, and the processes that use it, of which nothing is left when the block is."""

    def __init__(self, sandbox: Sandbox, limits: Limits) -> None:
        self.sandbox, self.limits = sandbox, limits
        self._mark = secrets.token_hex(16)
        self._users: list[int] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> _Room:
        self._folder = tempfile.mkdtemp(prefix="dllm-env-")
        os.chmod(self._folder, 0o777)
        return self

    def start(self, source: str, role: str = "", pipes: tuple[int, ...] = ()) -> _Started:
        """Starts a process.

        Args:
            source: what it gets: a program, or what the role says.
            role: see ``sandbox_child``.
            pipes: what it may use besides, open here until it has started.
        """
        # A user of its own for each: the kernel counts processes by user, and nobody may stop another's.
        self._users.append(next(number for number in iter(_random_user, None) if not _is_somebody(number)))
        runner = Path(sandboxed.__file__).read_text(encoding="utf-8")
        about = str(self._users[-1]), role, *map(str, pipes)
        command = self.sandbox.command([self.sandbox.python, "-I", "-S", "-B", "-c", runner, *about], self.limits)
        allowed = _kernel_limits(self.limits, self.sandbox.processes(self.limits))
        kernel = " ".join(f"{name}={value}" for name, value in allowed)
        secret, modules = secrets.token_hex(16), _modules(role, self.sandbox.python == _PYTHON)
        head = f"{kernel}\n{secret}\n{len(modules)}\n".encode()
        given = head + modules + source.encode("utf-8", errors="replace")
        self._processes.append(start(command, given, self._folder, self._mark, pipes))
        return _Started(self._processes[-1], secret)

    def __exit__(self, *_: object) -> None:
        try:
            for process in self._processes:
                end(process)
        finally:
            end_all(self._mark, self._users)
            remove(self._folder)


@functools.cache
def _modules(role: str, compiled: bool) -> bytes:
    """What a role needs, for ``load``: as code for a Python that is this one, else as text."""
    paths = [Path(__file__).with_name(f"{name}.py") for name in ("messages", "values", role) if role]
    texts = [(path.stem, path.read_text(encoding="utf-8")) for path in paths]
    if not compiled:
        return marshal.dumps(texts)
    return marshal.dumps([(name, compile(text, f"<{name}>", "exec", dont_inherit=True)) for name, text in texts])


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
