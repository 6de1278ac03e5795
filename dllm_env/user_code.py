"""Classes and functions in Python files of the user's: ``file.py:Name`` and ``file.py:Name(setting=value)``."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from dllm_env import consent
from dllm_env.errors import UsageError
from dllm_env.reading import is_file

PREFIX = "dllm_env_user_"
"""Begins the names of modules that are made of users' files."""

_FILE = re.compile(r"(?P<file>.+?\.py):(?P<name>[^\W\d]\w*)\s*(?P<call>\(.*\))?", re.DOTALL)
LONGEST = 10_000
"""Letters of a text that names a file."""
SETTING = re.compile(r":\s*[^\W\d]\w*\s*=")
"""Where the settings behind a place begin."""


def parameters(make: Callable[..., Any]) -> dict[str, Any]:
    """What a class or function takes by name: names to declared kinds, ``Any`` where nothing is declared."""
    declares: Any = make
    if is_dataclass(make) and isinstance(make, type):
        shown = sorted((field for field in fields(make) if field.init), key=lambda field: bool(field.kw_only))
        names = [field.name for field in shown]  # as its arguments are ordered
    else:
        known = inspect.signature(make).parameters.values()
        names = [p.name for p in known if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        declares = make.__init__ if isinstance(make, type) else make  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(declares)
    except (NameError, TypeError, AttributeError):  # annotations that name what is not there
        hints = {}
    return {name: hints.get(name, Any) for name in names}


@dataclass(frozen=True)
class FilePart:
    """A text that names something in a Python file.

    Attributes:
        text: all of it.
        file: the file.
        name: of the class or function.
        call: its arguments in parentheses, or nothing.
    """

    text: str
    file: Path
    name: str
    call: str


@dataclass(frozen=True)
class Loaded:
    """Something from a user's file.

    Attributes:
        value: the object, or the function.
        origin: the text that names it, for whoever has to find it again.
        digest: of the file.
    """

    value: Any
    origin: str
    digest: str


def file_part(text: str) -> FilePart | None:
    """What ``file.py:Name(…)`` names; None for another kind of text."""
    found = _FILE.fullmatch(text.strip()) if len(text) <= LONGEST else None
    if found is None:
        return None
    part = FilePart(text, Path(found["file"]), found["name"], found["call"] or "")
    is_value = SETTING.search(found["file"]) is not None  # runs/x:head=my.py:MyHead is a folder with a setting
    return None if is_value and not is_file(part.file) else part


def load_class(place: FilePart, what: str) -> Callable[..., Any]:
    """Runs the file, and gives the class or function that is named.

    Raises:
        UsageError: no such file or name, one that nobody has consented to, or a file that fails.
    """
    if not is_file(place.file):
        raise UsageError(f"no file {str(place.file)!r}, which the {what} {place.text!r} is in")
    by_name = consent.may_use(place.file, place.name)
    module = _run(place.file)
    kind = getattr(module, place.name, None)
    if not callable(kind):
        has = ", ".join(_own_names(module)) or "none"
        raise UsageError(f"{place.file} has no class or function {place.name!r}; it has {has}")
    if not by_name and place.name not in _own_names(module):
        raise UsageError(
            f"{place.file} does not define {place.name!r} itself, and only a file names it; name it on the command "
            f"line: {place.file}:{place.name}"
        )
    return kind


def load_from_file(place: FilePart, what: str, needs: Sequence[str] = (), first: Sequence[Any] = ()) -> Loaded:
    """Runs the file and makes what it names.

    Args:
        place: what ``file_part`` found.
        what: what is looked for, in a word, for messages.
        needs: attributes and methods that it has to have.
        first: arguments that a class gets before those in the text.

    Raises:
        UsageError: no such file or name, a file that fails, arguments or methods that do not fit.
    """
    kind = load_class(place, what)
    arguments, keywords = _arguments(place, kind)
    makes = isinstance(kind, type) or bool(needs)  # a function may make the object, or be what is looked for
    try:
        make = kind if makes else functools.partial(functools.partial, kind)
        value = make(*first, *arguments, **keywords)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"cannot make {place.text!r}: {type(error).__name__}: {error}") from None
    if not makes and not keywords:
        value = kind
    if lacks := [name for name in needs if not hasattr(value, name)]:
        of = f"{place.name} of {place.file}"
        raise UsageError(f"{of} is no {what}: it has no {' and no '.join(lacks)} (see docs/extending.md)")
    return Loaded(value, place.text, digest_of(place.file))


def digest_of(file: Path) -> str:
    """Eight letters that stand for what a file holds."""
    return hashlib.blake2b(file.read_bytes(), digest_size=4).hexdigest()


def digest_of_class(kind: type) -> str:
    """``digest_of`` the file that a class stands in; empty where it stands in none."""
    try:
        return digest_of(Path(inspect.getfile(kind)))
    except (TypeError, OSError):
        return ""


def origin_of(value: Any) -> str:
    """``file.py:Class`` of an object of a user's; empty where it is one of this package's."""
    kind = value if inspect.isclass(value) or inspect.isfunction(value) else type(value)
    if kind.__module__.partition(".")[0] == "dllm_env":
        return ""
    try:
        file = Path(inspect.getfile(kind))
        place = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
        return f"{place}:{kind.__qualname__}"
    except (TypeError, OSError):  # typed into an interpreter or notebook
        return f"{kind.__module__}:{kind.__qualname__}"


def _own_names(module: types.ModuleType) -> list[str]:
    values = vars(module).items()
    return [name for name, value in values if getattr(value, "__module__", None) == module.__name__]


def _run(file: Path) -> types.ModuleType:
    """The file as a module, run once as long as it does not change."""
    path = file.resolve()
    for module in list(sys.modules.values()):
        origin = getattr(module, "__file__", None)
        if origin and Path(origin) == path and not module.__name__.startswith(PREFIX):
            return module  # the user has imported it, and may compare classes
    name = f"{PREFIX}{path.stem}_{hashlib.blake2b(os.fsencode(path) + path.read_bytes()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    consent.announce(file)
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, (UsageError, KeyboardInterrupt)):
            raise
        raise UsageError(f"{file} fails when it is loaded: {type(error).__name__}: {error}") from None
    return module


def _arguments(place: FilePart, kind: Callable[..., Any]) -> tuple[list[Any], dict[str, Any]]:
    """The literals within the parentheses: those without and those with names."""
    readable = f"cannot read {place.text!r}; write file.py:Name or 'file.py:Name(setting=value, …)'"
    try:
        node = ast.parse(f"_{place.call or '()'}", mode="eval").body
        if not isinstance(node, ast.Call) or any(word.arg is None for word in node.keywords):
            raise UsageError(readable)
        given = [ast.literal_eval(argument) for argument in node.args]
        keywords = {str(word.arg): ast.literal_eval(word.value) for word in node.keywords}
    except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
        raise UsageError(readable) from None
    takes_more = any(p.kind is p.VAR_KEYWORD for p in inspect.signature(kind).parameters.values())
    known = parameters(kind)
    for name in keywords:
        if name not in known and not takes_more:
            of = f"{place.name} of {place.file}"
            raise UsageError(f"{of} has no parameter {name!r}; it has {', '.join(known) or 'none'}")
    return given, keywords
