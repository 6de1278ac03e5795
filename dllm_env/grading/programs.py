"""Programs out of responses: pure functions on text, linear in its length. Nothing here runs them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import dropwhile, zip_longest

from dllm_env.grading.python_text import (
    TOKEN,
    bare,
    continued_lines,
    is_closed,
    is_code,
    statements,
    until_prose,
    without_main,
)

LONGEST = 20_000
"""Characters at a response's beginning that are looked at."""

_OPENING = re.compile(
    r"^(?P<margin>[ \t]*(?:(?:[-*+]|\d{1,3}[.)])[ \t]+)?)(?P<fence>`{3,}|~{3,})(?P<info>[^\n`]*)$"
    r"|(?P<late>(?<!`)`{3,}(?!`))(?P<word>[ \t]*(?:[\w.+-]+[ \t]*)?)$",
    re.MULTILINE,
)
_LANGUAGES = ("", "python", "py", "python3", "py3", "ipython")
_WRAPPERS = ("markdown", "md")

_BEGINS = re.compile(
    r"^(?:(?:async )?def \w|class \w+ ?[(:]|import \w|from [\w.]+ import\b|@\w"
    r"|[A-Z_][A-Z0-9_]* ?=|\w+ ?(?::[^=\n]*)?= ?lambda\b)",
    re.MULTILINE,
)
_BEGINS_INDENTED = re.compile(
    r"^([ \t]+)(?:(?:async )?def \w|class \w+ ?[(:]|import \w|from [\w.]+ import\b|@\w)", re.MULTILINE
)
_DEFINES = re.compile(r"(?:(?:async +)?def|class) +(\w+)|(\w+) ?(?::[^=]*)?= ?lambda\b")
_FUTURE = re.compile(r"from[ \t]+__future__[ \t]+import\b")


def find_program(response: str, name: str = "") -> str:
    """The program of a response: of its fenced blocks, or what looks like one.

    Blocks in another language than Python count only where they alone define ``name``. Of the blocks that define it
    it is the last; without a name, the longest that defines something, or the last that defines the same again.
    Blocks that are cut off count where no other does. A fence that is not closed reaches to the end; one that was
    opened before the response, to the beginning. Fences within strings are none.

    Without any, the program begins at the first statement at the left edge, and ends where a line there cannot go
    on with it. What runs only as the main program is left out, since it may ask for input.
    """
    code, fenced = _fenced(_text(response), name)
    return without_main(code if fenced else _unfenced(code))


def assemble(before: str, code: str, *after: str) -> str:
    """One program of several parts; what ``code`` imports from ``__future__`` goes first, where Python wants it."""
    lines = code.split("\n")
    moved: list[str] = []
    left: list[str] = []
    allowed = True
    for statement in statements(lines):
        head = statement[0]
        future = _FUTURE.match(head) is not None
        # Comments and the module's docstring may come before.
        allowed = allowed and (future or not head.strip() or bare(head).strip(" \t()rRuU") in ("", '""'))
        (moved if future and allowed else left).extend(statement)
    return "\n".join([*moved, before, *left, *(f"\n{part}" for part in after)])


def complete(given: str, response: str, name: str) -> str:
    """A response as a whole program, with what it was given where it does not repeat it.

    Args:
        given: imports, helpers, and the signature with its docstring.
        response: the function, or only its body, with or without a fence or words around.
        name: of the function.
    """
    code = find_program(response, name)
    if _gives(code, name):
        return assemble(before(given, name), code)
    last = given.rstrip().rpartition("\n")[2]
    margin = last[: len(last) - len(last.lstrip())] or "    "
    body = _as_body(_fenced(_text(response), name)[0], margin)
    return given + ("" if given.endswith("\n") else "\n") + body


def _text(response: str) -> str:
    """What is looked at: line ends of one kind, no marks of a quotation, no space that a tokenizer put first."""
    text = response[:LONGEST].removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    if re.search(r"^> ?(?:```|~~~)", text, re.MULTILINE):
        text = re.sub(r"^> ?", "", text, flags=re.MULTILINE)
    return text[1:] if text.startswith(" ") and _BEGINS.match(text, 1) else text


def _gives(code: str, name: str) -> bool:
    """Whether code defines a name at the left edge."""
    assigned = rf"^{re.escape(name)}[ \t]*(?::[^=\n]*)?=(?!=)"
    return name in _Block(code, True).defines() or re.search(assigned, code, re.MULTILINE) is not None


def before(given: str, name: str) -> str:
    """What was given before a function, without its decorators."""
    function = re.search(rf"^(?:async +)?def +{re.escape(name)}\b", given, re.MULTILINE)
    lines = given[: function.start() if function else len(given)].split("\n")
    while lines and (not lines[-1].strip() or lines[-1].startswith("@")):
        lines.pop()
    return "\n".join([*lines, ""])


# ----------------------------------------------------------------------------------------------- fences


@dataclass(frozen=True)
class _Block:
    code: str
    closed: bool
    is_python: bool = True

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
    """The best fenced block, or the text outside of fences, and which of these it is."""
    blocks, outside = _blocks(text)
    if not blocks:
        return outside, False
    if name and not any(_gives(block.code, name) for block in blocks):
        # Only an example or its output may be in a fence.
        first = next(filter(str.strip, outside.split("\n")), "").strip()
        if _gives(_unfenced(outside), name) or (first and not first.startswith("#") and is_code(first)):
            return outside, False
    return _best(blocks, name), True


def _blocks(text: str) -> tuple[list[_Block], str]:
    """The fenced blocks, and the text outside of them."""
    begins = _first_code(text)
    end = _closing(text, begins, "```") if begins >= 0 else -1
    opening = _OPENING.search(text)
    if not opening or (0 <= begins < opening.start() and end < 0):
        return [], text[: end if end >= 0 else len(text)]
    blocks, outside, at = [], [], 0
    if 0 <= begins < opening.start():  # fences before the end are in strings
        alone = not text[end:].partition("\n")[0].strip("` \t")
        if alone and text.count("```", end) % 2:
            blocks, outside, at = [_Block(text[begins:end], closed=True)], [text[:begins]], end + 3
        opening = _OPENING.search(text, at or text.rfind("\n", 0, end) + 1)
    while opening:
        block, after = _block(text, opening)
        if block:
            blocks.append(block)
            outside.append(text[at : opening.start()])
            at = after
        opening = _OPENING.search(text, after)
    return blocks, "".join([*outside, text[at:]])


def _block(text: str, opening: re.Match[str]) -> tuple[_Block | None, int]:
    """The block that a fence opens, if it opens one, and where the text goes on."""
    fence, info = opening["fence"] or opening["late"], opening["info"] or opening["word"] or ""
    line = text.rfind("\n", 0, opening.start()) + 1
    language = re.sub(r"\W*(\w*[+#]*).*", r"\1", info).lower()
    if (opening["late"] and text.count("```", line, opening.start()) % 2) or language in _WRAPPERS:
        return None, opening.end()
    is_python = language in _LANGUAGES
    closing = _closing(text, opening.end(), fence) if is_python else text.find(fence, opening.end())
    code = text[opening.end() + 1 : closing if closing >= 0 else len(text)]
    block = _Block(_moved(code, len(opening["margin"] or "")), closing >= 0, is_python)
    return block, len(text) if closing < 0 else closing + len(fence)


def _closing(text: str, start: int, fence: str) -> int:
    """Where a fence around Python is closed: not within a string, nor within a comment; −1 where it is not."""
    for token in TOKEN.finditer(text, start):
        said = token[0].rstrip()
        ends_comment = token.lastgroup == "comment" and re.search(r"[^\s#`]`{3,}$", said) and said.endswith(fence)
        opens = token.lastgroup == "mark" or not is_closed(token)
        if fence in said and (ends_comment or opens):
            return token.start() + said.index(fence)
    return -1


def _moved(code: str, margin: int) -> str:
    """The code of a fence that is indented, as in a list."""
    lines = code.split("\n")
    return "\n".join(line[min(margin, len(line) - len(line.lstrip(" \t"))) :] for line in lines)


def _best(blocks: Sequence[_Block], name: str) -> str:
    if not name or any(block.is_python and _gives(block.code, name) for block in blocks):
        blocks = [block for block in blocks if block.is_python]
    else:
        blocks = [block for block in blocks if block.is_python or _gives(block.code, name)]
    defined = {block: block.defines() for block in blocks}
    named = [block for block in blocks if (_gives(block.code, name) if name else defined[block])]
    among = [block for block in named if block.closed] or named or blocks
    if name and named:
        return among[-1].code
    longest = max(among, key=lambda block: len(block.code), default=_Block("", True))
    again = [block for block in among if defined[block] & defined.get(longest, set())]
    return again[-1].code if again else longest.code


# --------------------------------------------------------------------------------------- without a fence


def _first_code(text: str) -> int:
    """Where a response begins with code, or code at the left edge begins; −1 without any."""
    first = re.search(r"\S[^\n]*", text)
    if first and (is_code(first[0]) or first[0].startswith(('"""', "'''"))):
        return text.rfind("\n", 0, first.start()) + 1
    return _begins(text)


def _begins(text: str) -> int:
    """Where a program begins: what it defines first, and the statements right above; −1 where nothing does."""
    for found in _BEGINS.finditer(text):
        if is_code(text[found.start() :].partition("\n")[0]):
            break
    else:
        return -1
    begin = at = found.start()
    for line in reversed(text[:at].split("\n")[:-1]):
        at -= len(line) + 1
        if line.strip() and not line[0].isspace() and line[0] not in ")]}":
            if not is_code(line):
                break
            begin = at
    return begin


def _unfenced(text: str) -> str:
    begins = _begins(text)
    indented = _BEGINS_INDENTED.search(text) if begins < 0 else None
    if indented:
        text = _moved(text, len(indented[1]))
        begins = _begins(text)
    return until_prose(text[begins:]) if begins >= 0 else text


# --------------------------------------------------------------------------------------- a function's body


def _as_body(text: str, margin: str) -> str:
    """The body of a function with the margin before it, where a tokenizer or a model has changed the first spaces.

    Definitions at the left edge after it stay where it uses them; all else there ends it.
    """
    lines = [*dropwhile(_is_introduction, text.split("\n"))] or [""]
    continued = continued_lines(lines)
    heads = [
        number
        for number, (line, goes_on) in enumerate(zip(lines, continued, strict=True))
        if line.strip() and not goes_on and not line.lstrip().startswith("#")
    ]
    if not heads:
        return ""
    indents = [_indent(line) for line in lines]
    after = next((number for number in range(heads[0] + 1, len(lines)) if not continued[number]), len(lines))
    opens = bare(lines[after - 1]).rstrip().endswith(":")
    base = _base([indents[number] for number in heads], opens)
    if base:
        end = next((number for number in heads[1:] if not indents[number]), len(lines))
    else:
        end = until_prose("\n".join(lines)).count("\n") + 1
    if indents[heads[0]] <= 1 or abs(indents[heads[0]] - base) == 1:
        indents[heads[0]] = base
    body = "\n".join(
        line if goes_on or not line.strip() else margin + " " * (indent - base) + line.lstrip()
        for line, goes_on, indent in list(zip(lines, continued, indents, strict=True))[:end]
    )
    rest = without_main(until_prose("\n".join(lines[end:]))) if base else ""
    return f"{body}\n{rest}" if _Block(rest, True).defines() & set(re.findall(r"\w+", body)) else body


def _indent(line: str) -> int:
    return len(line[: len(line) - len(line.lstrip())].expandtabs(4))


def _base(indents: Sequence[int], opens: bool) -> int:
    """How far a body is indented, by its lines; of the first one some spaces may be missing, or one too much.

    Args:
        indents: of the lines with which statements begin.
        opens: whether the first one opens a block.
    """
    first, *rest = indents
    if not rest:
        return first
    if not opens:
        return rest[0] or (first if first > 1 else 0)
    less = next((indent for indent in rest if indent < rest[0]), 0)
    return less or (first if first > 1 else max(0, rest[0] - 4))


def _is_introduction(line: str) -> bool:
    """Whether a line before a function's body introduces it, or is empty."""
    return not line.strip() or not (line.startswith(("  ", "\t", '"', "'")) or is_code(line.strip()))
