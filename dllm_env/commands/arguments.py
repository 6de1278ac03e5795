"""What commands have in common: reading arguments, folders to write to, and how an interrupted one goes on."""

# No "from __future__ import annotations": tyro has to resolve the types of classes that are local to a function.

import contextlib
import gc
import io
import itertools
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from dllm_env import consent
from dllm_env.commands import helping
from dllm_env.errors import UsageError
from dllm_env.files import write_failure
from dllm_env.locks import locked
from dllm_env.processes import INTERRUPTED, exit_status
from dllm_env.reading import as_path, exists, is_file, is_folder, meant, reason
from dllm_env.world import rank_of_process, this_world

Settings = TypeVar("Settings")

SUMMARIES = {
    "": "Train and compare unmasking policies for diffusion language models.",
    "demo": "Train a policy and compare it with the heuristics, in about eight minutes.",
    "train grpo": "Train an unmasking policy with GRPO.",
    "train ppo": "Train an unmasking policy with PPO, by Stable-Baselines3.",
    "train dcolt": "Train an unmasking policy and the denoiser together, as DCoLT does.",
    "train denoiser": "Train the bundled denoiser.",
    "ablate heads": "Train every head on every network, and compare them.",
    "eval": "Compare policies: tables, files, and accuracy against speed as a picture.",
    "report": "Make one HTML page of results: fronts, tables, and a viewer of how responses came about.",
    "plot": "Draw how trainings went: reward, accuracy, NFE, … over updates, with a band over seeds.",
    "lm-eval": "Run the lm-evaluation-harness on any of its tasks, with any policy.",
    "tasks": "List the tasks and benchmarks with their settings, or explain one.",
    "policies": "List the unmasking rules with their parameters, or explain one.",
    "generate": "Show in the terminal how a response is unmasked, step by step.",
    "push": "Upload a learned policy to the Hugging Face Hub, with a model card.",
    "doctor": "Look at this machine: versions, devices, extras, what cannot work and how to get it.",
    "train": "Train policies and denoisers.",
    "ablate": "Compare what policies are made of.",
}
"""One line about each command, and about those that have several beneath them."""


CONSENTING = (
    *("train grpo", "train ppo", "train dcolt", "train denoiser", "ablate heads", "demo", "eval", "generate"),
    "push",
)
"""Commands that may load what only a file names."""
PLACES = ("--out", "--suite", "--config", "--dry-run")
"""Flags that name a file or folder; tyro takes nothing for the working folder."""


class Interrupted(Exception):
    """A command was stopped by a signal; the message says how to go on.

    Attributes:
        status: exit status that says by which.
    """

    def __init__(self, message: str, status: int = INTERRUPTED) -> None:
        super().__init__(message)
        self.status = status


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Imports while this lasts are not searched for circles again and again, which is a tenth of their time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def parse(kind: Any, arguments: list[str], name: str, **more: Any) -> Any:
    """The settings of a command, of the class ``kind``; ``more`` are tyro's own arguments."""
    if helping.wanted(arguments):
        consenting = consent.HELP if name in CONSENTING else ""
        flags, everything = list(helping.flags_of(kind, more.get("default"))), helping.wanted(arguments) == "all"
        print(helping.page(name, SUMMARIES[name], flags, consenting, everything), end="")
        raise SystemExit(0)
    import tyro

    for argument, value in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        if argument == "--dry-run" and name != "push":
            continue
        if argument in (f"{flag}=" for flag in PLACES) or (argument in PLACES and not value):
            raise UsageError(f"{argument.rstrip('=')} needs the name of a place, got nothing")
    shown = io.StringIO()
    words = [word for word in consent.without_flags(arguments) if word != "--trust_remote_code"]
    words = _with_full_blocks(words)
    try:
        with contextlib.redirect_stderr(shown), _unbroken():
            return tyro.cli(kind, args=words, prog=f"dllm-env {name}".strip(), **more)
    except SystemExit as stop:
        # Settings check themselves when tyro makes them; it frames their one line as its own error.
        cause: BaseException | None = stop
        while cause is not None:
            if isinstance(cause, UsageError):
                raise cause from None
            cause = cause.__cause__ or cause.__context__
        if stop.code:
            near = (f"there is no {flag}{near}" for flag, near in _near_flags(kind, words, **more))
            said = "; ".join((_in_one_line(shown.getvalue()), *near, f"see dllm-env {name} --help"))
            print(f"dllm-env: {said}", file=sys.stderr)
        raise


@contextlib.contextmanager
def _unbroken() -> Iterator[None]:
    """While this lasts, tyro breaks no line."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "100000"
    try:
        yield
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before


NUMBERS = {
    "invalid literal for int() with base 10:": "needs a whole number, got",
    "could not convert string to float:": "needs a number, got",
}
"""What Python says of a text that is no number, and what it means."""


def _in_one_line(framed: str) -> str:
    """What tyro says in a frame, of signs or of ASCII: what stands between its first two rules, without help."""
    lines = [line.replace("│", " ").rstrip() for line in framed.splitlines()]
    after = list(itertools.dropwhile(lambda line: not RULE.match(line), lines))[1:]
    body = list(itertools.takewhile(lambda line: not RULE.match(line), after))
    margins = [len(line) - len(line.lstrip()) for line in body]
    said = " ".join(
        line.strip() for line, margin in zip(body, margins, strict=True) if margin < margins[0] + HELP_INDENT
    )
    for python, meant_by_it in NUMBERS.items():
        said = re.sub(rf"Error parsing (\S+): {re.escape(python)}", rf"\1 {meant_by_it}", said)
    return (said[:1].lower() + said[1:]).removesuffix(".")


RULE = re.compile(r"\s*[╭╰]?(─|-+\s*$)")
"""Of a frame."""
HELP_INDENT = 8
"""Columns by which tyro's help stands to the right of what it is about."""


FULL, BLOCKS = "full", "--block-length"
"""The block length that is the response's, and the flag that takes it."""


def _with_full_blocks(words: Sequence[str]) -> list[str]:
    """The arguments with 0, which stands for full diffusion, where they say ``--block-length full``."""
    made, of_blocks = [], False
    for word in words:
        flag, _, value = word.replace("_", "-", 2).partition("=")
        if flag == BLOCKS and value == FULL:
            word = f"{BLOCKS}=0"
        of_blocks = flag == BLOCKS or (of_blocks and not word.startswith("--"))
        made.append("0" if of_blocks and word == FULL else word)
    return made


def _near_flags(kind: Any, words: Sequence[str], **more: Any) -> Iterator[tuple[str, str]]:
    """Flags that there are not, each with which one was probably meant, where one is like it."""
    import tyro

    given = {word.partition("=")[0].replace("_", "-") for word in words if word.startswith("--")}
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        tyro.cli(kind, args=["--help"], **more)
    known = {name.replace("_", "-") for name in re.findall(r"--[a-z][\w-]*", shown.getvalue())}
    for flag in sorted(given - known):
        if near := meant(flag, known):
            yield flag, near


def without_arguments(name: str, arguments: list[str]) -> None:
    parse(make_dataclass("_Nothing", []), arguments, name)


def renamed(arguments: Sequence[str], kind: type) -> list[str]:
    """The arguments with flags of older versions under their new names, with a note on the standard error."""
    from dllm_env.train.settings_file import renamed_flags

    return renamed_flags(arguments, kind, lambda note: print(f"dllm-env: {note}", file=sys.stderr))


def started_with(base: Settings, arguments: Sequence[str]) -> Settings:
    """What flags override: the defaults, over them the settings of a run to resume, over these ``--config``'s."""
    from dllm_env.train.run import settings_of_run
    from dllm_env.train.settings_file import read_settings

    settings, out, file = base, peek(arguments, "--out", ""), peek(arguments, "--config", "")
    if "--resume" in arguments and out:
        settings = settings_of_run(Path(out), settings)
    if file:
        settings = read_settings(Path(file), settings)
    # Consent to run programs is the user's, never that of a folder or file.
    return replace(settings, allow_code_execution=False) if hasattr(settings, "allow_code_execution") else settings  # type: ignore[type-var]


def peek(arguments: Sequence[str], flag: str, default: str) -> str:
    """A flag's value before parsing: presets have to be known when the defaults are set."""
    value = default
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        if argument == flag:
            value = following
        elif argument.startswith(flag + "="):
            value = argument.partition("=")[2]
    return value


def run_folder(out: Path | None, resume: bool, default: Path) -> Path:
    if resume and out is None:
        raise UsageError("--resume needs --out, the folder of the run to continue")
    return check_folder(out or default)


@contextlib.contextmanager
def written_into(folder: Path, fresh: bool) -> Iterator[Path]:
    """Locks the folder that a command writes into; of several processes the first one does, and tells the others.

    Args:
        folder: where to.
        fresh: take another name where there is such a folder.
    """
    world = this_world()
    if not world.first:
        yield world.told(folder)
        return
    with locked(folder, fresh=fresh) as folder:
        yield world.told(folder)


def check_folder(folder: Path, flag: str = "--out") -> Path:
    """The folder, if it can be written to.

    Args:
        folder: where to.
        flag: what named it, for messages.

    Raises:
        UsageError: it is a file, or what it would be made in cannot be written to.
    """
    as_path(str(folder))
    if rank_of_process():
        return folder  # the first one looks
    existing = next(path for path in (folder, *folder.absolute().parents) if exists(path))
    if not is_folder(existing):
        raise UsageError(f"{existing} is a file; give another folder with {flag}")
    if not os.access(existing, os.W_OK):
        raise UsageError(f"cannot write to {existing}; give another folder with {flag}")
    missing = [path for path in (folder, *folder.parents) if not exists(path)]
    try:  # rights say too little: nobody can write to /proc
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {reason(error)}; give another folder with {flag}") from None
    finally:
        for path in missing:  # what is refused later leaves nothing behind
            with contextlib.suppress(OSError):
                path.rmdir()
    return folder


def resumable(name: str, arguments: list[str], folder: Path, work: Callable[[Path], Path]) -> Path:
    """Runs a training command as the only one that writes into its folder; an interrupted one says how to go on.

    Args:
        name: of the command.
        arguments: as they were given; without ``--out`` the folder is to be a new one.
        folder: where to.
        work: the training, told the folder.
    """
    given = bool(peek(arguments, "--out", ""))
    begun = _has_checkpoint if name.startswith("train") else Path.is_dir
    with written_into(folder, fresh=not given) as folder, going_on(name, arguments, folder, begun):
        return work(folder)


def _has_checkpoint(folder: Path) -> bool:
    from dllm_env.train.run import CHECKPOINT

    return is_file(folder / CHECKPOINT)


@contextlib.contextmanager
def going_on(
    name: str, arguments: list[str], folder: Path, begun: Callable[[Path], bool] = Path.is_dir
) -> Iterator[None]:
    """Says how to go on with a command that a signal, or a full disk, stops.

    Args:
        name: of the command.
        arguments: as they were given.
        folder: what it writes into.
        begun: whether there is something to resume in it; if not, the command is to be started again.

    Raises:
        Interrupted: by a signal.
        UsageError: something could not be written.
    """

    def how() -> str:
        words = ["dllm-env", *name.split(), *with_out(arguments, folder)]
        if begun(folder):
            return f"continue with: {shlex.join([*words, '--resume'])}"
        return f"start again with: {shlex.join(words)}"

    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(f"interrupted; {how()}", exit_status(stop)) from None
    except OSError as error:
        failure = write_failure(error, folder)
        if not failure:
            raise
        raise UsageError(f"{failure}, then {how()}") from None


def with_out(arguments: list[str], folder: Path) -> list[str]:
    """The arguments to continue with, but for ``--resume``."""
    rest = [argument for argument in arguments if argument != "--resume"]
    given = any(argument.split("=")[0] == "--out" for argument in rest)
    return rest if given else [*rest, "--out", str(folder)]


def results_folder(out: Path | None, resume: bool = False) -> Path:
    """Where results go: ``out``, or a folder named by date.

    Raises:
        UsageError: it cannot be written to, has results already, or has none to go on with.
    """
    import datetime

    if resume and out is None:
        raise UsageError("--resume needs --out, the folder of the results to go on with")
    folder = check_folder(out or Path("runs") / f"{datetime.datetime.now():%Y-%m-%d-%H%M%S}-eval")
    refuse_results(folder, resume)
    return folder


def refuse_results(folder: Path, resume: bool) -> None:
    """Refuses a folder that has results, unless they are to be added to.

    Raises:
        UsageError: it has some.
    """
    from dllm_env.eval.results import PROBLEMS

    if exists(folder / PROBLEMS) and not resume:
        raise UsageError(f"{folder} holds results already; give --resume to add what is missing, or another --out")
