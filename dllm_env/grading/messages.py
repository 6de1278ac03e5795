"""Messages between two processes that do not trust each other: few kinds of parts, read without running anything.

The file runs in a Python of its own in the sandbox, where nothing but the standard library is, and where every
import is time that each program takes: hence a format of its own, which is smaller than what JSON imports.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

LONGEST = 4 * 2**20
"""Characters of a message."""


class NotPlain(Exception):
    """A value cannot be sent."""


class Malformed(Exception):
    """A message is none that ``encode`` makes."""


def text(*parts: Any) -> str:
    """A message; see ``packed``.

    Raises:
        NotPlain: it is too long.
    """
    made = packed(*parts)
    if len(made) >= LONGEST:
        raise NotPlain(f"a value of more than {LONGEST:,} characters")
    return made


def packed(*parts: Any) -> str:
    """Parts as text: None, truth values, whole numbers of 64 bits, floats, strings, and lists of these.

    ``n``, ``t``, ``f``, ``i1;``, ``d0.5;``, ``s2:ab`` (with the number of characters), ``l3;`` and three parts.
    """
    made: list[str] = []
    _pack(parts, made)
    return "".join(made)


def framed(message: str) -> bytes:
    """A message as it is written."""
    data = message.encode("utf-8")
    return b"%d\n%b" % (len(data), data)


def _pack(part: Any, made: list[str]) -> None:
    kind = type(part)
    if part is None or kind is bool:
        made.append({None: "n", True: "t", False: "f"}[part])
    elif kind is str:
        made.append(f"s{len(part)}:{part}")
    elif kind is int or kind is float:
        made.append(f"i{part};" if kind is int else f"d{part!r};")
    else:
        made.append(f"l{len(part)};")
        for inner in part:
            _pack(inner, made)


# ------------------------------------------------------------------------------------------------ reading


def parsed(message: bytes) -> list[Any]:
    """The parts of a message.

    Raises:
        Malformed: it is none.
    """
    try:
        written = message.decode("utf-8")
        parts, end = _unpacked(written, 0, 5)
    except (ValueError, IndexError) as error:
        raise Malformed(f"{type(error).__name__}: {error}"[:200]) from None
    if end != len(written):
        raise Malformed("more than a message")
    if type(parts) is not list:
        raise Malformed("no list of parts")
    return parts


def _unpacked(written: str, at: int, levels: int) -> tuple[Any, int]:
    """The part that begins somewhere, and where it ends."""
    kind = written[at]
    if kind in "ntf":
        return {"n": None, "t": True, "f": False}[kind], at + 1
    end = written.index(":" if kind == "s" else ";", at, at + 32)
    number = written[at + 1 : end]
    if kind == "d":
        return float(number), end + 1
    count = int(number)
    if kind == "i":
        return count, end + 1
    if kind == "s" and 0 <= count < len(written) - end:
        return written[end + 1 : end + 1 + count], end + 1 + count
    if kind != "l" or not levels or count < 0:
        raise Malformed("a part of no kind, or too many levels")
    parts, at = [], end + 1
    for _ in range(count):
        part, at = _unpacked(written, at, levels - 1)
        parts.append(part)
    return parts, at
