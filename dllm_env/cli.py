"""The command line, ``dllm-env``.

Every command parses its arguments with tyro into the settings of the code that does the work. What a command needs
is imported when it is chosen, so that ``dllm-env --help`` answers at once.

Exit status: 0; 1 for a bug; 2 for bad input or a full disk, with one line that says what to do; 130 when
interrupted (Ctrl-C), 143 and 129 when ended by SIGTERM and SIGHUP, with how to go on.
"""

# No "from __future__ import annotations": tyro has to resolve the types of classes that are local to a function.

import codecs
import contextlib
import gc
import importlib
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import dllm_env
from dllm_env import consent
from dllm_env.commands import helping
from dllm_env.commands.arguments import SUMMARIES, Interrupted
from dllm_env.errors import UsageError
from dllm_env.files import write_failure
from dllm_env.processes import Signals, exit_status, stop_before
from dllm_env.reading import meant
from dllm_env.world import rank_of_process, size_of_world

COMMANDS = {
    "demo": "training.demo",
    "train grpo": "training.train_grpo",
    "train ppo": "training.train_ppo",
    "train dcolt": "training.train_dcolt",
    "train denoiser": "training.train_denoiser",
    "ablate heads": "training.ablate_heads",
    "eval": "evaluation.evaluate",
    "report": "evaluation.report",
    "plot": "evaluation.plot",
    "lm-eval": "evaluation.lm_eval",
    "tasks": "evaluation.list_tasks",
    "policies": "evaluation.list_policies",
    "generate": "evaluation.generate",
    "push": "evaluation.push",
    "doctor": "doctor.doctor",
}
"""Where each command is, within ``dllm_env.commands``; imported when it is chosen."""

TOGETHER = ("train grpo", "train ppo", "train dcolt", "train denoiser", "eval", "lm-eval")
"""Commands that ``torchrun`` may start several times, to share the work."""


BUSY = 0.25
"""Share of the processors that others use, above which a machine is busy."""
LOOK = 0.1
"""Seconds for which that is watched."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["--"]:  # torchrun -m dllm_env -- train grpo …: what follows is not torchrun's
        arguments = arguments[1:]
    tolerate_any_character(sys.stdout, sys.stderr)
    with Signals() as signals, quiet_threads(), one_voice():
        try:
            check(arguments)
            name, rest = choose(arguments)
            run(name, rest)
            sys.stdout.flush()
            return 0
        except SystemExit as stop:  # tyro's way to end after --help (0) or wrong arguments (2)
            return stop.code if isinstance(stop.code, int) else 0 if stop.code is None else 2
        except (Exception, KeyboardInterrupt) as error:
            signals.ignore()
            stopped = isinstance(error, Interrupted) or stop_before(error) is not None
            if stopped and argv is None:
                signals.ignore_for_good()
            return ended_by(error)


def program() -> int:
    """``main`` as a program of its own, which then ends at once: torch's objects would be searched for circles."""
    try:
        return main()
    finally:
        gc.freeze()


WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "OMP_NUM_THREADS")
"""With any of these in the environment, a user has said how threads wait."""


def share_processors() -> None:
    """Lets waiting threads sleep rather than spin where the machine is busy, unless the user has said something.

    Threads that spin are a little faster alone, and several times slower beside another program that does so. The
    library reads this once, when torch is loaded.
    """
    if any(name in os.environ for name in WAITING) or "torch" in sys.modules:
        return
    if in_use() > BUSY:
        os.environ["OMP_WAIT_POLICY"] = "passive"


def in_use(times: Path = Path("/proc/stat")) -> float:
    """Share of the processors that is in use just now; 0 where the system does not say.

    The load average would still count what ended a moment ago, such as an installation.
    """

    def ticks() -> tuple[int, int]:
        """Idle ones, and all."""
        fields = [int(text) for text in times.read_text(encoding="utf-8").splitlines()[0].split()[1:9]]
        return fields[3] + fields[4], sum(fields)

    try:
        idle, total = ticks()
        time.sleep(LOOK)
        idle_now, total_now = ticks()
        return 1 - (idle_now - idle) / (total_now - total)
    except (OSError, ValueError, IndexError, ZeroDivisionError):
        return 0.0


def ended_by(error: BaseException) -> int:
    """Says what ended a command, and returns the exit status.

    Raises:
        BaseException: the error, where it is a bug.
    """
    if isinstance(error, Interrupted):
        return said(f"\ndllm-env: {error}", error.status)
    if (stop := stop_before(error)) is not None:
        return said("\ndllm-env: interrupted", exit_status(stop))
    if isinstance(error, BrokenPipeError):  # whoever read the output has enough of it
        discard_output()
        return 0
    if isinstance(error, UsageError):
        return said(f"dllm-env: {' '.join(str(error).split())}", 2)
    if failure := write_failure(error):
        try:
            sys.stdout.flush()
        except OSError:  # it is the output itself that has no room
            discard_output()
        return said(f"dllm-env: {failure} and run the command again", 2)
    raise error


@contextlib.contextmanager
def quiet_threads() -> Iterator[None]:
    """No tracebacks of threads that cannot write, such as TensorBoard's: who waits for them gets the error, too."""
    before = threading.excepthook

    def hook(given: threading.ExceptHookArgs) -> None:
        if given.exc_value is None or not write_failure(given.exc_value):
            before(given)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


@contextlib.contextmanager
def one_voice() -> Iterator[None]:
    """Of several processes that were started together the first one prints; others only say what went wrong."""
    with contextlib.ExitStack() as stack:
        if rank_of_process():
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(contextlib.redirect_stdout(nowhere))
        yield


def said(text: str, status: int) -> int:
    """Says it as the last thing, where there is still a terminal to say it on, and returns the status."""
    if rank := rank_of_process():
        text = f"[process {rank}] {text.strip()}"
    with contextlib.suppress(OSError):
        sys.stdout.flush()  # which waits where it is no terminal
    with contextlib.suppress(OSError):
        print(text, file=sys.stderr, flush=True)
    return status


def discard_output() -> None:
    """What still waits to be written to the standard output goes nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def check(arguments: Sequence[str]) -> None:
    """Refuses arguments that no command line can have.

    Raises:
        UsageError: one with a NUL byte, at which names of files would end.
    """
    for argument in arguments:
        if "\0" in argument:
            raise UsageError(f"an argument holds a NUL byte: {argument[:80]!r}")


def run(name: str, arguments: list[str]) -> None:
    """Runs a command on the arguments after its name.

    Raises:
        UsageError: several processes, of a command that runs in one.
    """
    if size_of_world() > 1 and name not in TOGETHER:
        raise UsageError(f"{name} runs in one process, but {size_of_world()} were started; leave torchrun away")
    share_processors()
    module, _, function = COMMANDS[name].partition(".")
    with consent.given(consent.said_by(arguments)):
        getattr(importlib.import_module(f"dllm_env.commands.{module}"), function)(arguments)


PLAIN = {
    **{"–": "-", "—": "-", "−": "-", "─": "-", "━": "-", "│": "|", "·": ".", "…": "...", "×": "x", "±": "+-"},
    **{"≥": ">=", "≤": "<=", "←": "<-", "→": "->", "↑": "^", "↓": "v", "█": "#"},
    **{"’": "'", "‘": "'", "“": '"', "”": '"'},
}
"""How characters that a terminal may lack are written there."""


_STRICT = ("strict", "backslashreplace", "surrogateescape")  # what streams have unless the user chose otherwise


def tolerate_any_character(*streams: Any) -> None:
    """Lets streams write what their encoding lacks in other signs, or as its number, not raise an error."""

    def replace_characters(error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        shown = "".join(PLAIN.get(sign, ascii(sign)[1:-1]) for sign in error.object[error.start : error.end])
        return shown, error.end

    codecs.register_error("dllm_env.plain", replace_characters)
    for stream in streams:
        if getattr(stream, "errors", None) in _STRICT and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="dllm_env.plain")


def choose(arguments: list[str]) -> tuple[str, list[str]]:
    """The command that the arguments begin with, and what is left of them; else shows help and exits."""
    for words in (2, 1):
        name = " ".join(arguments[:words])
        if name in COMMANDS:
            return name, arguments[words:]
    if arguments[:1] == ["--version"]:
        print(f"dllm-env {dllm_env.__version__}")
        raise SystemExit(0)
    group = arguments[0] if arguments and any(name.startswith(arguments[0] + " ") for name in COMMANDS) else ""
    known = [(name, name.removeprefix(group).strip()) for name in COMMANDS if name.startswith(group)]
    word = " ".join(arguments[bool(group) :][:1])
    if word and not word.startswith("-"):
        near = meant(word, sorted({short.split()[0] for _, short in known}))
        raise UsageError(f"unknown command {word!r}{near}; see {f'dllm-env {group}'.strip()} --help")
    if word and word not in (*helping.HELP, helping.HELP_ALL):
        near = meant(word, ("--help", "--version"))
        raise UsageError(f"there is no {word}{near}; see {f'dllm-env {group}'.strip()} --help")
    print(helping.overview(group, [(short, SUMMARIES[name]) for name, short in known], SUMMARIES[group]), end="")
    raise SystemExit(0)
