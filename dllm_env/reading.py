"""How files that may hold anything are read: JSON, lines of JSON and YAML, and what their fields have to be.

A file is somebody else's, or half of one. Whatever stands in it, reading ends soon, takes memory in proportion to
the file, and either gives plain values or says in one short line which file and which place of it is wrong. So
there are bounds on size, depth and the length of numbers; bytes have to be UTF-8 (a byte order mark may begin
them); a name that is given twice is an error, not whichever comes last; and NaN is no JSON.
"""

from __future__ import annotations

import difflib
import errno
import functools
import json
import math
import stat
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, Union

import yaml

from dllm_env.errors import UsageError

MOST_BYTES = 2**26
"""Of a JSON file, or of a line of one."""
MOST_YAML = 2**20
"""Bytes of a YAML file, which is written by hand, and read a hundred times slower."""
MOST_VALUES = 100_000
"""Values of a YAML file, with what its aliases stand for counted wherever they stand."""
DEPTH = 64
"""Lists and objects within each other."""
DIGITS = 400
"""Of a number in YAML."""
SHOWN = 80
"""Letters of a value that a message shows."""


def shown(value: Any, most: int = SHOWN) -> str:
    """A value for a message: the beginning of what ``repr`` says, however long or deep the value is."""
    if isinstance(value, (str, bytes)):
        text = repr(value[: most + 1])
    elif isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return f"a number of {value.bit_length()} bits"
    elif isinstance(value, (list, tuple, dict, set)):
        text = _shown_parts(value, most)
    else:
        text = repr(value)
    return text if len(text) <= most + 2 else text[:most] + "…"


def _shown_parts(value: Any, most: int) -> str:
    """The first parts of a list or table, in its brackets; what these hold themselves is left away."""

    def part(one: Any) -> str:
        return "…" if isinstance(one, (list, tuple, dict, set)) and one else shown(one, most)

    open_, close = ("[", "]") if isinstance(value, list) else ("(", ")") if isinstance(value, tuple) else ("{", "}")
    found: list[str] = []
    for one in value:
        if sum(map(len, found)) > most:
            break
        found.append(f"{part(one)}: {part(value[one])}" if isinstance(value, dict) else part(one))
    return open_ + ", ".join(found) + close


# ----------------------------------------------------------------------------------------------------- files


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """What a file holds.

    Raises:
        UsageError: there is none, it is no regular file (a pipe may never end), too large, or cannot be read.
    """
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):
            what = "a folder" if stat.S_ISDIR(about.st_mode) else "no regular file"
            raise UsageError(f"cannot read {name_of(path)}: it is {what}")
        if about.st_size > most:
            raise UsageError(f"cannot read {name_of(path)}: {about.st_size:,} bytes are more than {most:,}")
        with path.open("rb") as file:
            return file.read(most + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"cannot read {name_of(path)}: {reason(error)}") from None


def meant(name: str, known: Iterable[str]) -> str:
    """`` (did you mean X?)`` with the known name that is most like this one, or nothing where none is like it."""
    close = difflib.get_close_matches(name[:100], list(known), 1)
    return f" (did you mean {close[0]}?)" if close else ""


def exists(path: Path) -> bool:
    """Whether there is something; a name that cannot be one (too long, with a NUL byte) names nothing."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def is_file(path: Path) -> bool:
    """Whether there is a file; where nobody can look, there is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Whether there is a folder; where nobody can look, there is none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def as_path(text: str) -> Path:
    """A path, of something that is there or not.

    Raises:
        UsageError: nothing can be called so: it is too long, or holds a NUL byte.
    """
    try:
        Path(text).lstat()
    except ValueError as error:
        raise UsageError(f"{shown(text)} is no path: {reason(error)}") from None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise UsageError(f"{shown(text)} is no path: {reason(error)}") from None
    return Path(text)


def name_of(path: Path) -> str:
    """A path for a message; a name of thousands of letters is cut."""
    text = str(path)
    return text if len(text) <= 400 else f"{text[:400]}…"


def reason(error: BaseException) -> str:
    """Why something failed, in one short line."""
    said = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = " ".join(str(said).split())
    return line if len(line) <= 300 else line[:300] + "…"


def decode(data: bytes, where: str) -> str:
    """Bytes as text.

    Raises:
        UsageError: they are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is not UTF-8 text (byte {error.start:,})") from None


# ------------------------------------------------------------------------------------------------------ JSON


def read_json(path: Path, most: int = MOST_BYTES) -> Any:
    """The value in a JSON file.

    Raises:
        UsageError: no such file, or not JSON as the module describes it.
    """
    return _parsed(parse_json, path, most)


def _parsed(parse: Callable[[bytes, str], Any], path: Path, most: int) -> Any:
    """The value of a file, whose name stands before what is wrong with it."""
    data = read_bytes(path, most)
    try:
        return parse(data, "it")
    except UsageError as error:
        raise UsageError(f"cannot read {name_of(path)}: {error}") from None


def read_table(path: Path, most: int = MOST_BYTES) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UsageError: no such file, no JSON, or another value.
    """
    return as_table(read_json(path, most), name_of(path))


def as_table(value: Any, where: str) -> dict[str, Any]:
    """The value, if it is a JSON object.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, dict):
        raise UsageError(f"{where} has to be a table of names and values, got {shown(value)}")
    return value


def parse_json(data: bytes | str, where: str, infinities: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        data: the text.
        where: which text, for messages.
        infinities: take NaN, Infinity and -Infinity, which Python writes and JSON does not have.

    Raises:
        UsageError: it is no JSON, nested too deeply, or gives a name twice.
    """
    text = decode(data, where) if isinstance(data, bytes) else data
    settings: dict[str, Any] = {} if infinities else {"parse_constant": _no_constant}
    try:
        value = json.loads(text, object_pairs_hook=_unique, **settings)
    except UsageError as error:
        raise UsageError(f"{where} {error}") from None
    except RecursionError:
        raise UsageError(f"{where} is nested more than {DEPTH} deep") from None
    except ValueError as error:
        raise UsageError(f"{where} is no JSON: {'it is empty' if not text.strip() else reason(error)}") from None
    if text.count("[") + text.count("{") > DEPTH and _deeper(value, DEPTH):
        raise UsageError(f"{where} is nested more than {DEPTH} deep")
    return value


def _no_constant(name: str) -> Any:
    raise UsageError(f"holds {name}, which is no number")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    table = dict(pairs)
    if len(table) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UsageError(f"has {shown(twice)} twice")
    return table


def _deeper(value: Any, depth: int) -> bool:
    """Whether lists and objects stand more than so deep within each other; without recursion."""
    level = [value]
    for _ in range(depth + 1):
        nested = [one for one in level if isinstance(one, (list, dict))]
        level = [part for one in nested for part in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return False
    return any(isinstance(one, (list, dict)) for one in level)


def json_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The whole lines of a file with their numbers from 1; what a kill left behind the last line end is none.

    Raises:
        UsageError: no such file, a line that is too long, or a file that cannot be read.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise UsageError(f"cannot read {name_of(path)}: it is no regular file")
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MOST_BYTES + 1):
                number += 1
                if not line.endswith(b"\n"):
                    if len(line) > MOST_BYTES:
                        raise UsageError(f"{name_of(path)}, line {number} has more than {MOST_BYTES:,} bytes")
                    return
                yield number, line[:-1]
    except OSError as error:
        raise UsageError(f"cannot read {name_of(path)}: {reason(error)}") from None


# ------------------------------------------------------------------------------------------------------ YAML


def read_yaml(path: Path) -> Any:
    """The value in a YAML file.

    Raises:
        UsageError: no such file, or not YAML as the module describes it.
    """
    return _parsed(parse_yaml, path, MOST_YAML)


def parse_yaml(data: bytes, where: str) -> Any:
    """The value of a YAML text.

    Args:
        data: the text in UTF-8.
        where: which text, for messages.

    Raises:
        UsageError: it is no YAML, nested too deeply, gives a name twice, or its aliases stand for too much.
    """
    text = decode(data, where)
    try:
        return yaml.load(text, Loader=_Loader)
    except UsageError as error:
        raise UsageError(f"{where} {error}") from None
    except RecursionError:
        raise UsageError(f"{where} is nested more than {DEPTH} deep") from None
    # Besides its own errors, it lets those of Python's types through: of an empty !!int, of 30 February.
    except (yaml.YAMLError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:
        raise UsageError(f"{where} is no YAML: {reason(error)}") from None


class _Loader(yaml.SafeLoader):
    """Plain values only, with the bounds of the module."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[int, int] = {}
        self._total = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        # A node's size is everything below it; an alias has that of the node it stands for.
        if self.check_event(yaml.AliasEvent):
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise UsageError("has an alias within what it stands for")
            self._count(self._sizes[id(node)])
            return node
        self._depth += 1
        if self._depth > DEPTH:
            raise UsageError(f"is nested more than {DEPTH} deep")
        before = self._total
        node = super().compose_node(parent, index)
        self._count(1)
        self._sizes[id(node)] = self._total - before
        self._depth -= 1
        return node

    def _count(self, more: int) -> None:
        self._total += more
        if self._total > MOST_VALUES:
            raise UsageError(f"has more than {MOST_VALUES:,} values, with those that aliases stand for")

    def compose_scalar_node(self, anchor: Any) -> Any:
        node = super().compose_scalar_node(anchor)
        if node.tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float") and len(node.value) > DIGITS:
            raise UsageError(f"has a number of {len(node.value):,} digits, which is too long")
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[tuple[str, str]] = set()
        for key, _ in getattr(node, "value", ()):
            name = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if name in seen:
                raise UsageError(f"has {shown(key.value)} twice, in line {key.start_mark.line + 1} again")
            if name is not None and key.tag != "tag:yaml.org,2002:merge":
                seen.add(name)
        return super().construct_mapping(node, deep)


# ---------------------------------------------------------------------------------------------------- fields


WORDS: dict[Any, str] = {
    **{bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"},
    **{list: "a list", dict: "a table of names and values"},
}
"""What messages call a type."""
LARGEST_INT, LARGEST_FLOAT = 2**63 - 1, 1e12
"""Of any number that a setting or a field is: beyond, arithmetic fails, and no quantity here has a meaning."""


def check_fields(kind: type, table: Mapping[str, Any], where: str = "") -> None:
    """Compares names and values with the fields of a dataclass.

    Args:
        kind: the dataclass.
        table: what a file says.
        where: which file, for messages.

    Raises:
        UsageError: a field that is missing or that there is not, or a value of another type.
    """
    about = f"{where}: " if where else ""
    known = {field.name: field for field in fields(kind) if field.init}
    for name in table:
        if name not in known:
            raise UsageError(f"{about}there is no field {shown(name)}")
    hints = type_hints(kind)
    for name, field in known.items():
        if name in table:
            check_value(table[name], hints[name], f"{about}{name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise UsageError(f"{about}the field {name!r} is missing")


@functools.cache
def type_hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields."""
    return typing.get_type_hints(kind)


def check_value(value: Any, hint: Any, about: str) -> None:
    """Compares a value with a type; lists and tuples with their parts, numbers with what numbers may be.

    Raises:
        UsageError: it is of another type, or a number that is NaN, infinite or beyond all use.
    """
    if not _fits(value, hint):
        wanted = _wanted(hint)
        if isinstance(value, (int, float)) and hint in (int, float) and not isinstance(value, bool):
            if value != value or value in (math.inf, -math.inf):
                wanted = f"{'a whole' if hint is int else 'a finite'} number"
            elif hint is float or isinstance(value, int):
                wanted = f"{wanted} within ±{LARGEST_INT if hint is int else LARGEST_FLOAT:g}"
        raise UsageError(f"{about} must be {wanted}, got {shown(value)}")


def _fits(value: Any, hint: Any) -> bool:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if origin in (Union, types.UnionType):
        return any(_fits(value, part) for part in parts)
    if origin is list:
        return isinstance(value, list) and all(_fits(one, parts[0]) for one in value)
    if origin is tuple:
        inside = [parts[0]] * len(value) if parts[-1] is Ellipsis and isinstance(value, Sequence) else list(parts)
        is_list = isinstance(value, (list, tuple))
        return is_list and len(value) == len(inside) and all(map(_fits, value, inside))
    if origin is dict:
        return isinstance(value, dict) and all(_fits(k, parts[0]) and _fits(v, parts[1]) for k, v in value.items())
    return _is_plain(value, hint)


def _is_plain(value: Any, hint: Any) -> bool:
    if hint is type(None):
        return value is None
    if hint in (bool, str, list, dict):
        return isinstance(value, hint)
    if hint in (int, float) and (isinstance(value, (bool, str)) or value is None):
        return False
    if hint is int:
        return hasattr(value, "__index__") and abs(value.__index__()) <= LARGEST_INT
    if hint is float:
        if not (hasattr(value, "__float__") or hasattr(value, "__index__")):
            return False
        return -LARGEST_FLOAT <= value <= LARGEST_FLOAT
    return True  # an object of the package's or the user's, which is for whoever uses it


def _wanted(hint: Any) -> str:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (Union, types.UnionType):
        return " or ".join(_wanted(part) for part in parts)
    if origin is tuple and parts[-1] is not Ellipsis:
        return f"{len(parts)} values, each {_wanted(parts[0])}"
    if origin in (list, tuple):
        return f"a list, each of it {_wanted(parts[0])}"
    if origin is dict:
        return f"a table of {_wanted(parts[1])}"
    return "nothing" if hint is type(None) else WORDS.get(hint, "something else")
