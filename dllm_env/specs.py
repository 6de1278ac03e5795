"""The one grammar of what is named in a text: tasks, denoisers, rules, policies, heads, networks, rewards.

    name                              trace
    name:value                        threshold:0.9          a value without a name is the first setting
    name:setting=value,setting=value  klass:tau=0.6,kappa=0.01
    path:setting=value                runs/x:temperature=0.5
    file.py:Name                      my_rules.py:MyRule
    file.py:Name(setting=value)       'my_rules.py:MyRule(k=2)'

* A known name is that name; ``./trace`` is the folder. Otherwise the longest beginning that exists on the disk is
  the place, colons, commas and plus signs in it included (``runs/10:30:00``); where nothing exists, the place ends
  before the first ``:setting=``.
* Settings are separated by commas. A value may hold colons and equals signs (``device=cuda:1``); commas and plus
  signs stand in quotes or brackets (``data='a,b.json'``), or within a path that exists.
* A value is read as what the setting is declared to be: ``true``, ``yes``, ``on``, ``1`` and their opposites are a
  switch, ``2`` is a whole number, ``1e-3`` a number. What declares nothing gets numbers and switches where the text
  is one.
* What stands in a file of the user's is a class, which is made with the settings, or a function, which gets them as
  keyword arguments. Values there are Python's literals.
* Where several may be named, ``+`` stands between them (``gsm8k+math``).
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Union

from dllm_env.errors import UsageError
from dllm_env.reading import check_value, exists, is_file, meant, type_hints
from dllm_env.user_code import LONGEST, SETTING, file_part, load_from_file, parameters

Settings = dict[str, str]
"""Settings as they were written, by name; the one without a name, if any, is under ``""``."""

SWITCH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}

_BRACKETS = {"(": ")", "[": "]", "{": "}"}


# ------------------------------------------------------------------------------------------------ splitting


def split(text: str, known: Collection[str] = ()) -> tuple[str, str]:
    """``"name:settings"`` as the two parts, by the rules above.

    Args:
        text: what the user wrote.
        known: names that are no paths.
    """
    name, _, settings = text.partition(":")
    if name in known:
        return name, settings
    _check_length(text)
    colons = [i for i, letter in enumerate(text) if letter == ":"]
    for end in (len(text), *reversed(colons)):
        if text[:end] and exists(Path(text[:end])):
            return text[:end], text[end + 1 :]
    found = SETTING.search(text)
    return (text, "") if found is None else (text[: found.start()], text[found.start() + 1 :])


def shown(text: str, known: Collection[str] = ()) -> tuple[str, str]:
    """Name and settings for tables and pictures: of a path its last part, of a class in a file its name."""
    if (place := file_part(text)) is not None:
        return place.name, place.call[1:-1]
    name, settings = split(text, known)
    return Path(name).name or name, settings


def _check_length(text: str) -> None:
    """Refuses what is no name: every beginning of one is looked for on the disk."""
    if len(text) > LONGEST:
        raise UsageError(f"a name with {len(text):,} letters is too long: {text[:60]!r}…")


def pieces(text: str, separator: str = ",") -> list[str]:
    """The parts between separators that stand in no quotes and no brackets.

    Raises:
        UsageError: a quote or bracket that is not closed, or a text that is too long.
    """
    _check_length(text)
    found, closers, quote = [""], [], ""
    for letter in text:
        if quote:
            quote = "" if letter == quote else quote
        elif letter in "\"'":
            quote = letter
        elif letter in _BRACKETS:
            closers.append(_BRACKETS[letter])
        elif closers and letter == closers[-1]:
            closers.pop()
        elif letter == separator and not closers:
            found.append("")
            continue
        found[-1] += letter
    if quote or closers:
        raise UsageError(f"cannot read {text!r}: {quote or closers[-1]} is missing")
    return found


def read_settings(text: str) -> Settings:
    """``"2"`` or ``"a=1,b='2,3'"`` by name.

    Raises:
        UsageError: a name that is missing or given twice.
    """
    settings: Settings = {}
    for place, item in enumerate(_items(text)):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals and place == 0 and name:
            name, value = "", name
        elif not equals or not re.fullmatch(r"[^\W\d][\w-]*", name):
            raise UsageError(f"cannot read the setting {item!r}; write name=value, separated by commas")
        if name in settings:
            raise UsageError(f"the setting {name!r} is given twice")
        quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
        settings[name] = value[1:-1] if quoted else value
    return settings


def _items(text: str) -> list[str]:
    """The settings; what exists as a path when it is put together is one value."""
    parts = pieces(text) if text.strip() else []
    items: list[str] = []
    while parts:
        ends = range(len(parts), 1, -1)
        values = (",".join(parts[:end]).partition("=")[2].strip() for end in ends)
        size = next((end for end, value in zip(ends, values, strict=True) if value and exists(Path(value))), 1)
        items.append(",".join(parts[:size]))
        del parts[:size]
    return items


def several(text: str, known: Collection[str]) -> list[str]:
    """The specs between the plus signs of ``"gsm8k+math"``; one within a path or value separates nothing."""
    found: list[str] = []
    for piece in pieces(text, "+"):
        if found and not (_begins(piece, known) and _begins(found[-1], known)):
            found[-1] += "+" + piece
        else:
            found.append(piece)
    return found


def _begins(piece: str, known: Collection[str]) -> bool:
    found = file_part(piece)
    return piece.partition(":")[0] in known or (found is not None and is_file(found.file))


# --------------------------------------------------------------------------------------------------- values


def read_value(text: str, kind: Any, about: str) -> Any:
    """A value as what it is declared to be.

    Args:
        text: as it was written.
        kind: a type, as an annotation says it; ``Any`` takes numbers and switches where the text is one.
        about: what it is of, for the message.

    Raises:
        UsageError: it is something else.
    """
    for reader, _ in _readers(kind):
        try:
            return reader(text)
        except ValueError:
            continue
    wanted = " or ".join(dict.fromkeys(name for _, name in _readers(kind)))
    raise UsageError(f"{about} must be {wanted}, got {text!r}")


def _readers(kind: Any) -> Iterator[tuple[Callable[[str], Any], str]]:
    """Functions from a text to a value, which raise ``ValueError``, each with the name of what it reads."""
    origin = typing.get_origin(kind)
    if origin in (Union, types.UnionType):
        for part in sorted(typing.get_args(kind), key=lambda part: part is str):  # a text is the last resort
            yield from _readers(part)
    elif origin is Literal:
        choices = {str(choice): choice for choice in typing.get_args(kind)}
        yield functools.partial(_choose, choices), " or ".join(choices)
    elif kind is bool:
        yield lambda text: _choose(SWITCH, text.lower()), "true or false"
    elif kind is int:
        yield int, "a whole number"
    elif kind is float:
        yield float, "a number"
    elif kind is type(None):
        yield lambda text: _choose({"none": None}, text.lower()), "none"
    elif kind in (str, Path):
        yield kind, "a text"
    else:
        yield literal, "a value"


def _choose(choices: Mapping[str, Any], text: str) -> Any:
    if text not in choices:
        raise ValueError(text)
    return choices[text]


def literal(text: str) -> Any:
    """A number, switch, list, … where the text is one, else the text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float, ast.literal_eval):
        try:
            return kind(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
    return text


def write_value(value: Any) -> str:
    """The shortest text that reads back as the same value."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    text = str(value)
    return f"'{text}'" if set(text) & set(",+") else text


def check_types(values: Any, *without: str) -> None:
    """Refuses a dataclass whose fields are not of the declared kinds, or are numbers without a meaning (NaN, 1e30).

    Args:
        values: the dataclass.
        without: fields that are checked by whoever reads them.

    Raises:
        UsageError: the first that is not.
    """
    kind: type = type(values)
    hints = type_hints(kind)
    for name in (field.name for field in dataclasses.fields(values) if field.name not in without):
        if typing.get_origin(hints[name]) is not Literal:  # a choice is told by whoever knows what it means
            check_value(getattr(values, name), hints[name], name)


# -------------------------------------------------------------------------------------------------- making


def typed(settings: Settings, known: Mapping[str, Any], about: str) -> dict[str, Any]:
    """Settings as the values that they are declared to be.

    Args:
        settings: as they were written.
        known: declared kinds by name; a setting without a name is the first of them.
        about: what they are of, for messages.

    Raises:
        UsageError: a setting that there is not, or a value of another kind.
    """
    values: dict[str, Any] = {}
    for name, text in settings.items():
        if name == "" and not known:
            raise UsageError(f"{about} has no settings, got {text!r}")
        key = name or next(iter(known))
        if key not in known:
            near = meant(key, known)
            raise UsageError(f"{about} has no setting {key!r}{near}; it has {', '.join(known) or 'none'}")
        if key in values:
            raise UsageError(f"{about}: the setting {key!r} is given twice")
        values[key] = read_value(text, known[key], f"{about}: {key}")
    return values


def load(text: str, registry: Mapping[str, Callable[..., Any]], what: str) -> Any:
    """Makes what a text names: an entry of the registry, or something from a file of the user's.

    Args:
        text: by the grammar above.
        registry: classes or functions by name.
        what: what is looked for, in a word, for messages.

    Raises:
        UsageError: no such name, file or setting, or a value that does not fit.
    """
    if (place := file_part(text)) is not None:
        return load_from_file(place, what).value
    name, settings = split(text, registry)
    if name not in registry:
        near, known = meant(name, registry), ", ".join(registry)
        raise UsageError(
            f"unknown {what} {name!r}{near}; choose one of {known}, or a class in a file: my.py:MyClass"
        )
    return registry[name](**typed(read_settings(settings), parameters(registry[name]), name))
