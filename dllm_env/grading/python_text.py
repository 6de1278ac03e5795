"""Python as text, without its grammar: statements, strings, comments, and sentences instead. The time is linear."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Sequence

# What hides fences, ends of lines and words from whoever reads Python, and brackets. So that the time is linear, a
# string that is not closed ends where its line or the text does, and three quotes end one whatever is before them.
TOKEN = re.compile(
    r'''(?P<triple>"""(?:[^"]|"(?!""))*(?:"""|\Z)|\'\'\'(?:[^']|'(?!''))*(?:\'\'\'|\Z))'''
    r"""|(?P<string>"(?:[^"\\\n]|\\.)*"?|'(?:[^'\\\n]|\\.)*'?)"""
    r"|(?P<comment>\#[^\n]*)"
    r"|(?P<mark>`{3,}|^[ \t]*~{3,}(?=[ \t]*$))"
    r"|(?P<bracket>[][(){}])",
    re.DOTALL | re.MULTILINE,
)

_KEYWORD = "|".join([*keyword.kwlist, "match", "case", "type"])
_WORDS = re.compile(rf"\b(?!(?:{_KEYWORD})\b)\w+[ \t]+(?!(?:{_KEYWORD})\b)\w")
"""Two words beside one another, which Python nowhere has outside of strings and comments."""
_STATEMENT = re.compile(
    r"[)\]}]|@\w|(?:async[ \t]+)?(?:def|class)[ \t]+\w+[ \t]*[(\[:]|import[ \t]+\w|from[ \t]+[\w.]+[ \t]+import\b"
    r"|(?:async[ \t]+)?for\b.*\bin\b|(?:if|elif|while|with|async|match|case|except)\b.*[:(\[{\\]"
    r"|(?:else|try|except|finally)[ \t]*:|(?:assert|return|raise|del|global|nonlocal|yield|await)\b"
    r"|(?:pass|break|continue|\.\.\.)[ \t]*;?[ \t]*$|[\w.]+\("
    r"|[*(\[]?\w[\w.\[\]\"' ,*():|+-]{0,300}?(?:[-+*/|&^%@]|//|\*\*|>>|<<|:)?=(?!=)"
)
_MAIN = re.compile(r"if\b.*\b__name__\b")


def continued_lines(lines: Sequence[str]) -> list[bool]:
    """Of each line, whether it begins within a string or brackets, or goes on with the line before."""
    code = "\n".join(lines)
    inside = [False, *(line.endswith("\\") for line in lines[:-1])]
    depth = line = at = 0
    for token in TOKEN.finditer(code):
        here = line + code.count("\n", at, token.start())
        through = here + token[0].count("\n")
        for number in range(line + 1, through + 1):
            inside[number] |= depth > 0 or number > here
        line, at = through, token.end()
        if token.lastgroup == "bracket":
            depth = max(0, depth + (1 if token[0] in "([{" else -1))
    return [begun or (depth > 0 and number > line) for number, begun in enumerate(inside)]


def statements(lines: Sequence[str]) -> Iterator[list[str]]:
    """Statements at the left edge, each with the lines that belong to it; comments there are some of their own."""
    statement: list[str] = []
    for line, continued in zip(lines, continued_lines(lines), strict=True):
        if statement and not continued and line and not line[0].isspace():
            yield statement
            statement = []
        statement.append(line)
    yield statement


def bare(line: str) -> str:
    """A line without its comment, and without what is in its strings."""
    return TOKEN.sub(
        lambda token: {"comment": "", "triple": '""', "string": '""'}.get(str(token.lastgroup), token[0]), line
    )


def is_code(line: str) -> bool:
    """Whether a line at the left edge may be Python, and is no sentence."""
    said = bare(line).rstrip()
    if said in ("", '""'):  # a comment, or a string that ends
        return not said or all(map(is_closed, TOKEN.finditer(line.rstrip())))
    return _STATEMENT.match(said) is not None and not _WORDS.search(said)


def is_closed(token: re.Match[str]) -> bool:
    """Whether a token is no string that ends only where its line or the text does."""
    quote = token[0][: {"triple": 3, "string": 1}.get(str(token.lastgroup), 0)]
    return not quote or (token[0].endswith(quote) and len(token[0]) >= 2 * len(quote))


def until_prose(code: str) -> str:
    """The code up to the first line at the left edge that cannot go on with it."""
    kept: list[str] = []
    for statement in statements(code.split("\n")):
        if statement[0].strip() and not statement[0][0].isspace() and not is_code(statement[0]):
            break
        kept += statement
    return "\n".join(kept)


def without_main(code: str) -> str:
    """The code without its ``if __name__ == "__main__":``."""
    kept: list[str] = []
    within = False
    for statement in statements(code.split("\n")):
        within = _MAIN.match(statement[0]) is not None or (within and statement[0].startswith(("else", "elif")))
        kept += [] if within else statement
    return "\n".join(kept)
