"""Consent: what the user allows to run besides this package. It is said at the command line, or in Python by the
caller; never by a file, never by an environment variable.

Three kinds of code are not this package's, and each needs a word of the user's:

* **Python files of the user's** (policies, tasks, rewards, heads, networks, denoisers: ``my.py:Mine``). Naming one
  on the command line is consent to it, as is passing its name, or an object, in Python. Where a file names one (a
  suite, ``--config``, the settings of a run, ``policy.json``), ``--allow-code-from FILE`` is.
* **Code that comes with a checkpoint.** ``--denoiser x:trust_remote_code=1`` is consent for x, and
  ``--trust-remote-code`` for every checkpoint of the command.
* **Programs that a model writes**: ``--allow-code-execution``, a setting that no file can switch on.

In Python ``allow`` says the same for what is read from files::

    with consent.allow(files=["my.py"]):
        policy = load_policy("runs/x")          # whose policy.json names my.py:MyHead

What is read from a file is checked where it is read (``check_read``), and once more where code is about to run
(``may_use``, ``may_trust``), in which a command line has nothing but its own words to go by.
"""

from __future__ import annotations

import contextlib
import inspect
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dllm_env.errors import UsageError
from dllm_env.reading import exists, is_file

ALLOW_FILE, TRUST_REMOTE = "--allow-code-from", "--trust-remote-code"

HELP = (
    f"Consent, for what files name and the command line does not: {ALLOW_FILE} FILE lets a Python file of your own "
    f"be run, {TRUST_REMOTE} the code of checkpoints (docs/reliability.md)."
)
"""What the help of every command says."""

OFF = ("0", "false", "no", "off")

_NAMED = re.compile(r"\.py:(?P<name>[^\W\d]\w*)")
_STARTS = re.compile(r"""[:=,+\s'"(\[{]""")
"""What a path within a text may begin behind."""
_TRUST = re.compile(
    r"""trust_remote_code['"]?\s*[=:]\s*['"]?(?P<value>[^\s,'")\]}+]*)"""
    r"""|attention['"]?\s*[=:]\s*['"]?(?P<kernel>[^\s,'")\]}+/:]+/[^\s,'")\]}+]*)"""
)
"""A checkpoint's settings that run code: its own, or compiled code that is named as one on the Hub is."""

Named = tuple[Path, str]
"""A Python file, all links followed, and a name in it."""


@dataclass(frozen=True)
class Consent:
    """What was consented to.

    Attributes:
        remote_code: the code of any checkpoint.
        files: Python files, all links followed, of which all that they define may be used.
        words: what the command line says besides; None in Python, where the caller's own names are consent.
        names: what a caller in Python has named.
        told: files that the user has been told of.
    """

    remote_code: bool = False
    files: frozenset[Path] = frozenset()
    words: tuple[str, ...] | None = None
    names: frozenset[Named] = frozenset()
    told: set[Path] = field(default_factory=set, compare=False)


_current: ContextVar[Consent] = ContextVar("consent", default=Consent())  # noqa: B039  never changed but for ``told``
_passed: set[Named] = set()
"""What callers in Python have named since the process began."""


def current() -> Consent:
    """What holds now; it can be sent to another process and be ``given`` there."""
    held = _current.get()
    return held if held.words is not None else replace(held, names=held.names | _passed, told=held.told)


@contextlib.contextmanager
def given(consent: Consent) -> Iterator[None]:
    """Lets this consent, and no other, hold within a ``with``."""
    before = _current.set(consent)
    try:
        yield
    finally:
        _current.reset(before)


def install(consent: Consent) -> None:
    """Lets a consent hold from now on: in a process that works for one in which it was said."""
    _current.set(consent)


@contextlib.contextmanager
def allow(files: Iterable[str | Path] = (), remote_code: bool = False) -> Iterator[None]:
    """In Python, consents to what files name: as the two flags do on the command line.

    Args:
        files: Python files that may be run.
        remote_code: let checkpoints run the code that comes with them.

    Raises:
        UsageError: no such file.
    """
    held = current()
    more = frozenset(_existing(str(file)) for file in files)
    with given(replace(held, remote_code=held.remote_code or remote_code, files=held.files | more)):
        yield


# ------------------------------------------------------------------------------------------ the command line


def said_by(arguments: Sequence[str]) -> Consent:
    """What a command line consents to: its two flags, and whatever its own words name.

    Raises:
        UsageError: a flag without its file, or a file that is not there.
    """
    rest, files, trusted = _parted(arguments)
    words = tuple(rest)
    named = frozenset(found for word in words for found in _files_in(word))
    return Consent(trusted or _trusts_all(words), frozenset(map(_existing, files)), words, named)


def without_flags(arguments: Sequence[str]) -> list[str]:
    """The arguments without the two flags, for whoever reads the others."""
    return _parted(arguments)[0]


def _parted(arguments: Sequence[str]) -> tuple[list[str], list[str], bool]:
    """The other arguments, the files that are allowed, and whether checkpoints are trusted."""
    rest: list[str] = []
    files: list[str] = []
    trusted, left = False, list(arguments)
    while left:
        word = left.pop(0)
        flag, equals, value = word.partition("=")
        flag = flag.replace("_", "-") if flag.startswith("--") else flag
        if flag == ALLOW_FILE:
            if not equals and (not left or left[0].startswith("--")):
                raise UsageError(f"{ALLOW_FILE} needs the Python file that may be run")
            files.append(value if equals else left.pop(0))
        elif word == TRUST_REMOTE:
            trusted = True
        else:
            rest.append(word)
    return rest, files, trusted


def _existing(file: str) -> Path:
    path = Path(file)
    if not is_file(path):
        raise UsageError(f"no file {file!r}, whose code is to be allowed")
    return path.resolve()


def _trusts_all(words: Sequence[str]) -> bool:
    """Whether trust is said by itself, outside a checkpoint's settings: lm-eval's own flag and model argument."""
    return any(
        word == "--trust_remote_code" or (word.startswith("trust_remote") and _trusts(word)) for word in words
    )


# ------------------------------------------------------------------------------------------ what texts name


def _files_in(text: str) -> Iterator[Named]:
    """The Python files that exist and that a text may mean, each with the name in it."""
    for found in _NAMED.finditer(text):
        upto = text[: found.start() + len(".py")]
        for start in (0, *(mark.end() for mark in _STARTS.finditer(upto))):
            with contextlib.suppress(OSError, ValueError):  # too long for a path, or a NUL in it
                if upto[start:] and is_file(Path(upto[start:])):
                    yield Path(upto[start:]).resolve(), found["name"]


def _trusts(text: str) -> bool:
    """Whether a text says that a checkpoint's code is to be trusted."""
    return any(found["kernel"] or found["value"].lower() not in OFF for found in _TRUST.finditer(text))


def _is_said(place: str, words: Sequence[str]) -> bool:
    """Whether one of the words names a checkpoint and trusts it."""
    whole = re.compile(rf"(?<![\w./-]){re.escape(place)}(?![\w./-])")
    return any(_trusts(word) and whole.search(word) for word in words)


# ------------------------------------------------------------------------------------------ checks


def check_read(value: Any, where: object) -> None:
    """Checks what has been read from a file, before any of it is used.

    Args:
        value: texts, or lists and tables of them.
        where: the file, for the message.

    Raises:
        UsageError: it names code that nobody has consented to.
    """
    held, left, seen = current(), [value], set[int]()
    files: dict[Path, None] = {}  # in their order
    while left:
        one = left.pop()
        if isinstance(one, str):
            files |= dict.fromkeys(file for file, name in _files_in(one) if not _holds(held, file, name))
            _check_trust(one, where, held)
        elif isinstance(one, (Mapping, list, tuple)) and id(one) not in seen:  # a YAML may name one table often
            seen.add(id(one))
            left += [*one, *one.values()] if isinstance(one, Mapping) else one
            trust = one.get("trust_remote_code", False) if isinstance(one, Mapping) else False
            if str(trust).lower() not in OFF and not held.remote_code:
                raise UsageError(_no_trust("a checkpoint", where))
    if files:
        raise UsageError(_refusal([*files], f"{where} names code in {', '.join(map(_short, files))}"))


def _check_trust(text: str, where: object, held: Consent) -> None:
    if _trusts(text) and not held.remote_code:
        place = text[: found.start()] if (found := _TRUST.search(text)) else text
        place = place.rpartition(":")[0] or text
        place = place if exists(Path(place)) else place.partition(":")[0]
        if not _is_said(place, held.words or ()):
            raise UsageError(_no_trust(place, where))


def may_use(file: Path, name: str) -> bool:
    """Consent to something in a Python file, as it is about to be run.

    On a command line it has to be named there. In Python it is the caller who names it: what is read from files has
    been checked by then.

    Returns:
        Whether that is for this very name; else it is for what the file itself defines, not for what it imports.

    Raises:
        UsageError: there is no consent.
    """
    path, held = file.resolve(), current()
    if held.words is None and path not in held.files:
        _passed.add((path, name))
        return True
    if not _holds(held, path, name):
        raise UsageError(_refusal([path], f"{_short(path)} is named by a file, not by the command line"))
    return (path, name) in held.names


def passed(value: object) -> None:
    """A caller in Python has an object at hand: that is consent to its class, where a file names it later."""
    kind = value if inspect.isclass(value) or inspect.isfunction(value) else type(value)
    with contextlib.suppress(TypeError, OSError):  # made in an interpreter
        _passed.add((Path(inspect.getfile(kind)).resolve(), kind.__qualname__))


def may_trust(place: str, asked: bool) -> bool:
    """Whether the code that comes with a checkpoint may run.

    Args:
        place: its folder, or name on the Hub.
        asked: whether its settings say so; on a command line they may have come from a file.
    """
    held = _current.get()
    return held.remote_code or (asked and (held.words is None or _is_said(place, held.words)))


def announce(file: Path) -> None:
    """Tells the user, in one line on the standard error and once, that a file's code is about to run."""
    told, path = _current.get().told, file.resolve()
    if path not in told:
        told.add(path)
        print(f"dllm-env: running the code of {_short(path)}", file=sys.stderr, flush=True)


def _holds(held: Consent, file: Path, name: str) -> bool:
    return file in held.files or (file, name) in held.names


def _short(file: Path) -> str:
    """The path as the user may write it, in one line."""
    shown = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    return " ".join(str(shown).split())


def _refusal(files: Sequence[Path], reason: str) -> str:
    names = list(map(_short, files))
    flags = " ".join(f"{ALLOW_FILE} {shlex.quote(name)}" for name in names)
    return f"{reason}; if you trust that, add {flags} (in Python: with dllm_env.consent.allow(files={names!r}))"


def _no_trust(place: str, where: object) -> str:
    return (
        f"{where} asks to run the Python code of {place}; no file can allow that: if you trust whoever wrote it, "
        f"add {TRUST_REMOTE} (in Python: with dllm_env.consent.allow(remote_code=True))"
    )
