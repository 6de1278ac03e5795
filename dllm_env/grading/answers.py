"""Where the answer stands in a response: pure functions on text.

Their time is linear in a response's length, whatever it holds: no regular expression here can backtrack over it,
and only its end is looked at, where an answer stands. Nothing of a response is ever executed.
"""

from __future__ import annotations

import re

from dllm_env.grading.latex import LONGEST, ascii_digits, closing_braces


def boxed(text: str) -> str | None:
    """What stands in the last \\boxed{…} or \\fbox{…} that is closed and not empty; None without one."""
    text = text[-LONGEST:]
    found = boxes(text)
    return text[slice(*found[-1][1:])].strip() if found else None


_BOX = re.compile(r"\\(?:boxed|fbox)(?: ?(?=\{)| ([^{$\n][^$\n]{0,50})\$)")


def boxes(text: str) -> list[tuple[int, int, int]]:
    """Of each box that is closed and not empty: where it begins, and where its content begins and ends.

    ``$\\boxed 2$`` is one too: solutions of MATH have it.
    """
    ends = closing_braces(text)
    found = []
    for box in _BOX.finditer(text):
        start, end = box.span(1) if box[1] else (box.end() + 1, ends.get(box.end(), 0))
        if text[start:end].strip():
            found.append((box.start(), start, end))
    return found


def tagged(text: str, tag: str = "answer") -> str | None:
    """What stands in the last complete <tag>…</tag>; None without one."""
    text = text[-LONGEST:]
    end = text.rfind(f"</{tag}>")
    start = text.rfind(f"<{tag}>", 0, end) if end >= 0 else -1
    return text[start + len(tag) + 2 : end].strip() if start >= 0 else None


def final(text: str) -> str | None:
    """What a response gives as its answer: in its last box, or without one in its last <answer>.

    A font, dollars or backticks around all of it are left out; digits of other scripts are 0 to 9.
    """
    said = boxed(text)
    said = tagged(text) if said is None else said
    return None if said is None else ascii_digits(_undressed(said)).replace("−", "-")


_FONT = re.compile(r"\\(?:text|math)(?:normal|bf|it|rm|tt|sf)?(?=\{)|\\mbox(?=\{)")
_AROUND = (("$", "$"), ("\\(", "\\)"), ("`", "`"))


def _undressed(said: str) -> str:
    """``\\text{$5$}`` is 5."""
    for _ in range(3):
        font = _FONT.match(said)
        if font and closing_braces(said).get(font.end()) == len(said) - 1:
            said = said[font.end() + 1 : -1].strip()
        for before, after in _AROUND:
            within = said[len(before) : -len(after)]
            if within and said == before + within + after and before not in within:
                said = within.strip()
    return said
