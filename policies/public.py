"""What a policy's files may tell the world: names of files and folders, not where they are, and no markup.

Settings of a training, and results, name places on the machine that they were made on. What is uploaded has the
last part of such a path; names on the Hub (``owner/name``) stay as they are, known from folders by not being here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dllm_env.errors import UsageError
from dllm_env.specs import pieces, several, split, write_value
from dllm_env.tasks.load import NAMES
from dllm_env.user_code import file_part

_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_WAY = re.compile(r"""[^,='"()\[\]{}+:]*[/\\]""")
"""The way to a file, within a text."""


def base_names(value: Any, setting: str = "") -> Any:
    """Settings with the last parts of their paths.

    Args:
        value: text, list or table of such; anything else is returned as it is.
        setting: which, where that says that it is a path.
    """
    if isinstance(value, Mapping):
        return {name: base_names(part, str(name)) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [base_names(part, setting) for part in value]
    if isinstance(value, Path):
        return _last(str(value))
    if not isinstance(value, str):
        return value
    return _last(value) if setting == "data" else _text(value)


def _text(text: str) -> str:
    if not set(text) & {"/", "\\", "~"}:
        return text
    try:
        if (code := file_part(text)) is not None:
            return f"{_last(str(code.file))}:{code.name}{_WAY.sub('', code.call)}"
        if len(parts := several(text, NAMES)) > 1:
            return "+".join(map(_text, parts))
        place, written = split(text, NAMES)
        settings = [_setting(one) for one in pieces(written)] if written else []
    except UsageError:  # no text of the grammar
        return _WAY.sub("", text)
    name = place if _HUB.fullmatch(place) and not _is_here(place) else _last(place)
    return ":".join(filter(None, (name, ",".join(settings))))


def _setting(text: str) -> str:
    """``name=value``, or a value without a name."""
    name, equals, value = text.partition("=") if "=" in text else ("", "", text)
    bare = value.strip()
    quoted = len(bare) > 1 and bare[0] == bare[-1] and bare[0] in "\"'"
    found = base_names(bare[1:-1] if quoted else bare, name.strip())
    return f"{name}{equals}{write_value(found)}"


def _last(place: str) -> str:
    """The last part of a path of any system."""
    return re.split(r"[/\\]", place.rstrip("/\\"))[-1] or "/"


def _is_here(place: str) -> bool:
    try:
        return Path(place).exists()
    except (OSError, ValueError):  # too long for a path, or a NUL in it
        return True


# ------------------------------------------------------------------------------------------ markup


def plain_markdown(value: Any) -> str:
    """A value as one line of Markdown that shows it, whatever it holds: no table, link, tag, code or heading."""
    text = " ".join(_printable(str(value)).split()).replace("\\", "\\\\")
    for sign, shown in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|"), ("`", "\\`")):
        text = text.replace(sign, shown)
    return text.replace("](", "]\\(").replace("][", "]\\[").replace("]:", "]\\:")


def plain_code(value: Any) -> str:
    """A value as one line within a block of code, which it cannot end."""
    return " ".join(_printable(str(value)).split()).replace("`", "'")


def _printable(text: str) -> str:
    return "".join(sign if sign.isprintable() else " " for sign in text)
