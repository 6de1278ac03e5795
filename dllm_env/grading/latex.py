r"""LaTeX as language models write it, brought to one spelling: ``\dfrac12`` and ``½`` are ``\frac{1}{2}``.

Everything here is a pure function on text and takes time linear in its length.
"""

from __future__ import annotations

import re
import unicodedata
from itertools import pairwise

LONGEST = 20_000
"""Characters at a response's end that are looked at."""


def closing_braces(text: str) -> dict[int, int]:
    r"""For each opening brace that is closed, where; ``\{`` is no brace."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    for found in re.finditer(r"\\.|[{}]", text):
        if found[0] == "{":
            opened.append(found.start())
        elif found[0] == "}" and opened:
            ends[opened.pop()] = found.start()
    return ends


def ascii_digits(text: str) -> str:
    """Digits of other scripts as 0 to 9."""
    return text if text.isascii() else "".join(str(int(c)) if c.isdecimal() else c for c in text)


# --------------------------------------------------------------------------------- symbols of Unicode

_FRACTIONS = {
    chr(code): unicodedata.normalize("NFKC", chr(code)).split("\u2044")
    for code in (0xBC, 0xBD, 0xBE, *range(0x2150, 0x215F), 0x2189)
}
_SUPERSCRIPTS = {c: unicodedata.normalize("NFKC", c) for c in "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻"}
_SUBSCRIPTS = {c: unicodedata.normalize("NFKC", c) for c in "₀₁₂₃₄₅₆₇₈₉"}
_ROOTS = {"∛": "3", "∜": "4"}
_SYMBOLS = {
    **{"−": "-", "–": "-", "‑": "-", "－": "-", "＋": "+", "π": "\\pi ", "∞": "\\infty ", "°": "^{\\circ}"},
    **{"º": "^{\\circ}", "∅": "\\emptyset ", "≠": "\\neq ", "≤": "\\le ", "≥": "\\ge ", "≈": "\\approx "},
    **{"×": "\\times ", "·": "\\cdot ", "⋅": "\\cdot ", "∗": "*", "÷": "\\div ", "∕": "/", "⁄": "/"},
    **{"∪": "\\cup ", "∩": "\\cap ", "∈": "\\in ", "±": "\\pm ", "⟨": "\\langle ", "⟩": "\\rangle "},
    **{"√": "\\sqrt ", **{sign: f"\\sqrt[{degree}]" for sign, degree in _ROOTS.items()}},
    **{sign: f"\\frac{{{top}}}{{{bottom}}}" for sign, (top, bottom) in _FRACTIONS.items() if bottom},
    **{"\u2009": "\\,", "\u202f": "\\,", "\u00a0": " "},
}
_TRANSLATED = str.maketrans(_SYMBOLS)
_RAISED = re.compile(f"[{''.join(_SUPERSCRIPTS)}]+")
_LOWERED = re.compile(f"[{''.join(_SUBSCRIPTS)}]+")


def without_unicode(text: str) -> str:
    r"""``½``, ``x²``, ``√2``, ``52₈``, ``π`` and ``≤`` as LaTeX writes them; other letters stay."""
    if text.isascii():
        return text
    text = _RAISED.sub(lambda found: f"^{{{''.join(_SUPERSCRIPTS[c] for c in found[0])}}}", text)
    text = _LOWERED.sub(lambda found: f"_{{{''.join(_SUBSCRIPTS[c] for c in found[0])}}}", text)
    return ascii_digits(text).translate(_TRANSLATED)


# ------------------------------------------------------------------------------------------ commands

_SPELLINGS = (
    (re.compile(r"\\[dtc]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\[dt]binom(?![A-Za-z])"), r"\\binom"),
    (re.compile(r"\\(?:left|right|middle|[bB]igg?[lrm]?)(?![A-Za-z])\s?\.?"), ""),
    (re.compile(r"\\(?:displaystyle|textstyle|limits|nolimits|!)(?![A-Za-z])"), ""),
    (re.compile(r"\\lbrace(?![A-Za-z])"), r"\\{"),
    (re.compile(r"\\rbrace(?![A-Za-z])"), r"\\}"),
    (re.compile(r"\\lbrack(?![A-Za-z])"), "["),
    (re.compile(r"\\rbrack(?![A-Za-z])"), "]"),
    (re.compile(r"\{([,:.])\}"), r"\1"),
)
_TAKES = re.compile(r"\\(?:(frac|binom)|sqrt(?:\s?\[[^\[\]{}]{0,20}\])?)(?![A-Za-z])")
_TOKEN = re.compile(r"\s*(\\[A-Za-z]+|[A-Za-z\d])")
_SPACE = re.compile(r"\s*")


def one_spelling(text: str) -> str:
    r"""``\tfrac1{\sqrt2}`` as ``\frac{1}{\sqrt{2}}``: one name for a command, its arguments in braces."""
    for spelling, usual in _SPELLINGS:
        text = spelling.sub(usual, text)
    return _with_braces(text)


def _with_braces(text: str) -> str:
    """Each argument of a fraction, a root or a binomial in braces; the last command first: others may hold it."""
    ends = closing_braces(text)
    over: dict[int, int] = {}
    before: dict[int, str] = {}
    behind: dict[int, str] = {}
    for command in reversed(list(_TAKES.finditer(text))):
        at, arguments = command.end(), []
        for _ in range(2 if command[1] else 1):
            token = _TOKEN.match(text, at)
            if token:
                start = token.start(1)
                arguments.append((start, over.get(start, token.end())))
                at = arguments[-1][1]
                continue
            at = _skip(text, at)
            if at not in ends:
                break
            at = ends[at] + 1
        else:
            over[command.start()] = at
            for start, end in arguments:
                before[start] = before.get(start, "") + "{"
                behind[end] = behind.get(end, "") + "}"
    if not before:
        return text
    places = sorted({0, *before, *behind, len(text)})
    pieces = [text[start:end].rstrip(" ") if end in before else text[start:end] for start, end in pairwise(places)]
    marks = [behind.get(place, "") + before.get(place, "") for place in places]
    return "".join(mark + piece for mark, piece in zip(marks, [*pieces, ""], strict=True))


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def divided(text: str) -> str:
    r"""``\frac{A}{B}`` as ``((A)/(B))``, in one spelling."""
    ends, characters = closing_braces(text), list(text)
    for found in re.finditer(r"\\frac\s?(?=\{)", text):
        top = found.end()
        bottom = _skip(text, ends[top] + 1) if top in ends else -1
        if bottom in ends:
            characters[found.start() : top] = [""] * (top - found.start())
            characters[top], characters[ends[top]] = "((", ")/"
            characters[bottom], characters[ends[bottom]] = "(", "))"
    return "".join(characters)


# ---------------------------------------------------------------------------------------- plain text

_FONT = re.compile(r"\\(?:text|math)(?:normal|bf|it|rm|tt|sf)?\s?(?=\{)|\\(?:mbox|operatorname)\s?(?=\{)")
_AS_TEXT = (
    (
        re.compile(
            r"\\(?:begin|end)\s?\{(?:array|tabular|[bpvBV]?matrix|smallmatrix)\}(?:\{[clr|]{0,40}\})?|\\hline"
        ),
        "",
    ),
    (re.compile(r"(?<!\s)\s*\\\\(?:\[[^\[\]]{0,9}\])?\s*"), "\n"),
    (re.compile(r"(?<!\s)\s*(?<!\\)&\s*"), " "),
    (re.compile(r"\^\s?\{?\s?\\(?:circ|degree)\s?\}?|\\degree(?![A-Za-z])|°"), ""),
    (re.compile(r"(?<!\s)\s*\\(?:times|cdot)(?![A-Za-z])\s*"), " × "),
    (re.compile(r"(?<!\s)\s*\\(?:to|rightarrow|implies|Rightarrow|longrightarrow)(?![A-Za-z])\s*"), " → "),
    (re.compile(r"(?<!\s)\s*\\(?:leftrightarrow|iff|Leftrightarrow)(?![A-Za-z])\s*"), " ↔ "),
    (re.compile(r"(?<!\s)\s*\\(?:land|wedge)(?![A-Za-z])\s*"), " ∧ "),
    (re.compile(r"(?<!\s)\s*\\(?:lor|vee)(?![A-Za-z])\s*"), " ∨ "),
    (re.compile(r"(?<!\s)\s*\\oplus(?![A-Za-z])\s*"), " ⊕ "),
    (re.compile(r"\\(?:neg|lnot)(?![A-Za-z])\s*"), "¬"),
    (re.compile(r"(?<=\d)\s*(?:\\cdot|\\[,;: ])\s*i(?![A-Za-z])"), "i"),
    (re.compile(r"(?<=\d)\\,(?=\d{3})"), ""),
    (re.compile(r"\\[,;: ]|\\(?:quad|qquad)(?![A-Za-z])"), " "),
    (re.compile(r"\\([$%&#_{}])"), r"\1"),
    (re.compile(r"\^\s?\{([^{}]{1,9})\}"), r"^\1"),
)


def without_fonts(text: str, around: str = " ") -> str:
    r"""``\text{ eggs}`` as ``eggs``, between spaces or what else is to stand ``around``."""
    ends, characters = closing_braces(text), list(text)
    for found in _FONT.finditer(text):
        if found.end() in ends:
            characters[found.start() : found.end()] = [""] * (found.end() - found.start())
            characters[found.end()] = characters[ends[found.end()]] = around
    text = "".join(characters)
    return re.sub(r" {2,}", " ", text) if around else text


def as_text(text: str) -> str:
    r"""LaTeX as plain text: ``\frac{1}{2}`` as 1/2, ``1{,}035`` as 1,035, ``\text{a} \to \text{b}`` as a → b."""
    if not re.search(r"[\\{^°]", text):
        return text
    text = re.sub(r"\\(?:mathrm|text)\s?\{i\}", "i", text)
    text = without_fonts(one_spelling(text), "")
    for written, usual in _AS_TEXT:
        text = written.sub(usual, text)
    text = divided(text)
    return re.sub(r"\(\((-?[\w.]+)\)/\((-?[\w.]+)\)\)", r"\1/\2", text).strip()
