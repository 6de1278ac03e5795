"""Programs out of responses: pure functions on text, linear in its length. Nothing here runs them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile, takewhile, zip_longest

LONGEST = 20_000
"""Characters at a response's beginning that are looked at."""

_FENCE = re.compile(r"```([^\n`]*)(?:\n|\Z)")
_LANGUAGES = ("", "python", "py", "python3")
_BEGINS = re.compile(
    r"^(?:(?:async )?def \w|class \w+ ?[(:]|import \w|from [\w.]+ import\b|@\w"
    r"|[A-Z_][A-Z0-9_]* ?=|\w+ ?= ?lambda\b)",
    re.MULTILINE,
)
_BEGINS_INDENTED = re.compile(
    r"^([ \t]+)(?:def \w|class \w+ ?[(:]|import \w|from [\w.]+ import\b|@\w)", re.MULTILINE
)
_DEFINES = re.compile(r"(?:def|class) +(\w+)|(\w+) ?= ?lambda\b")
_GOES_ON = re.compile(
    r"[\s#)\]}@]|(?:async|def|class|import|from|if|elif|else|for|while|with|try|except|finally|assert|global|return)\b"
    r"|[\w.]+\(|[\w.]{1,100}(?:\[[^\]\n]{0,100}\])?[ \t]*[-+*/|&]?=[^=]"
)
_MAIN = re.compile(r"^if __name__\b", re.MULTILINE)


def find_program(response: str, name: str = "") -> str:
    """The program of a response: of its fenced blocks, or what looks like one.

    Only blocks that are Python or do not say count: of those that define ``name``, the last; without a name, the
    longest that defines something, or the last that defines the same again. Blocks that are cut off count where no
    other does. A fence that is not closed reaches to the end; one that was opened before the response, to the
    beginning.

    Without any, the program begins at the first statement at the left edge, and ends where a line there cannot go
    on with it. What runs only as the main program is left out, since it may ask for input.
    """
    code, fenced = _fenced(response[:LONGEST], name)
    return _MAIN.split(code if fenced else _unfenced(code), maxsplit=1)[0]


@dataclass(frozen=True)
class _Block:
    code: str
    closed: bool

    def defines(self) -> set[str]:
        """Functions and classes at the left edge that have a body."""
        lines = [line for line in self.code.split("\n") if line.strip()]
        found = [
            _DEFINES.match(line)
            for line, after in zip_longest(lines, lines[1:], fillvalue="")
            if after[:1].isspace() or not line.rstrip().endswith(":")
        ]
        return {definition[1] or definition[2] for definition in found if definition}


def _fenced(text: str, name: str) -> tuple[str, bool]:
    """The best fenced block, or the whole text, and which of these it is."""
    blocks = _blocks(text)
    if blocks is None:
        return text.partition("```")[0], False
    return _best(blocks, name), True


def _blocks(text: str) -> list[_Block] | None:
    """The fenced blocks that are Python or do not say; None without any fence."""
    opening = _FENCE.search(text)
    if not opening:
        return None
    blocks = []
    before = text[: opening.start()].strip("\n")
    begins = _BEGINS.search(before)
    if not opening[1].strip() and text.count("```") % 2 and (begins or _GOES_ON.match(before)):
        blocks.append(_Block(before[begins.start() :] if begins else before, closed=True))
        opening = _FENCE.search(text, opening.end())
    while opening:
        closing = text.find("```", opening.end())
        code = text[opening.end() : closing if closing >= 0 else len(text)]
        margin = text[text.rfind("\n", 0, opening.start()) + 1 : opening.start()]
        if re.match(r"\s*(\w*)", opening[1])[1].lower() in _LANGUAGES:  # type: ignore[index]
            blocks.append(_Block(code if margin.strip() else _moved(code, len(margin)), closing >= 0))
        opening = _FENCE.search(text, closing + 3) if closing >= 0 else None
    return blocks


def _moved(code: str, margin: int) -> str:
    """The code of a fence that is indented, as in a list."""
    lines = code.split("\n")
    return "\n".join(line[min(margin, len(line) - len(line.lstrip(" \t"))) :] for line in lines)


def _best(blocks: Sequence[_Block], name: str) -> str:
    defined = {block: block.defines() for block in blocks}
    named = [block for block in blocks if (name in defined[block] if name else defined[block])]
    among = [block for block in named if block.closed] or named or blocks
    if name and named:
        return among[-1].code
    longest = max(among, key=lambda block: len(block.code), default=_Block("", True))
    again = [block for block in among if defined[block] & defined.get(longest, set())]
    return again[-1].code if again else longest.code


def _unfenced(text: str) -> str:
    begins = _BEGINS.search(text)
    if begins:
        return _until_prose(text[begins.start() :])
    begins = _BEGINS_INDENTED.search(text)
    if not begins:
        return text
    lines = text[begins.start() :].split("\n")
    return _moved("\n".join(takewhile(lambda x: not x.strip() or x.startswith(begins[1]), lines)), len(begins[1]))


def _until_prose(code: str) -> str:
    lines = code.split("\n")
    ends = next((i for i, line in enumerate(lines) if line.strip() and not _GOES_ON.match(line)), len(lines))
    return "\n".join(lines[:ends])


def complete(given: str, response: str, name: str) -> str:
    """A response as a whole program, with what it was given where it does not repeat it.

    Args:
        given: imports, helpers, and the signature with its docstring.
        response: the function, or only its body, with or without a fence or words around.
        name: of the function.
    """
    code = find_program(response, name)
    if re.search(rf"^(?:(?:async )?def {re.escape(name)}\s?\(|{re.escape(name)} ?[=:])", code, re.MULTILINE):
        return given[: given.find(f"def {name}(")] + "\n" + code
    lines = _as_body(_fenced(response[:LONGEST], name)[0])
    ends = next(
        (i for i, line in enumerate(lines) if line and not line[0].isspace() and line[0] not in "#)]}"), None
    )
    return given + "\n".join(lines[:ends])


def _as_body(code: str) -> list[str]:
    """The lines of a function's body, indented, where a tokenizer or a model left out the first spaces."""
    lines = list(dropwhile(_is_prose, code.strip("\n").split("\n"))) or [""]
    if not lines[0] or lines[0][0].isspace():
        return lines
    rest = [len(line) - len(line.lstrip()) for line in lines[1:] if line.strip()]
    opens = lines[0].rstrip().endswith(":") and bool(rest) and rest[0] == 4
    if rest and min(rest) >= 4 and not opens:
        return ["    " + lines[0], *lines[1:]]
    return ["    " + line for line in lines]


def _is_prose(line: str) -> bool:
    """Whether a line before a function's body introduces it, or is empty."""
    return not line.strip() or (line.rstrip().endswith((":", ".", "!")) and not _GOES_ON.match(line))
