r"""Numbers written plainly: ``\dfrac{1}{2}``, ``1 \frac12``, ``3 \times 10^4``, ``2.5 million`` as digits.

Everything here is a pure function on text and takes time linear in its length.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from fractions import Fraction

from dllm_env.grading.latex import one_spelling, without_fonts, without_unicode

NUMBER = re.compile(r"[-+]?(?:\d(?:[\d,]*\d)?(?:\.\d+)?|\.\d+)(?:[eE][-+]?\d{1,2}(?!\d))?(?:/\d+)?")
_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{2,3})*,\d{3}(?:\.\d+)?")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d{1,2}")

SCALES = {"dozen": 12, "hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
"""Words that multiply the number before them."""
HYPHEN = "\u2010"
"""What stands for a hyphen between two numbers, or a letter and a number, which is no sign of the latter."""
UNLIKE = "≠"
"""What stands for all relations but equality."""


def number(text: str) -> Fraction | None:
    """``1,234.50``, ``12,5`` or ``3/4`` exactly; None where it is none, or longer than 100 characters."""
    text = text.strip().rstrip(".,")
    if len(text) > 100 or not NUMBER.fullmatch(text):
        return None
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    elif _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


def exact(value: Fraction) -> str:
    """A fraction as ``number`` reads it; decimals where they end, as digits of a power of ten get long."""
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"


# ------------------------------------------------------------------------------- decimals that repeat

_BAR = r"\\(?:overline|bar|overbar)\s?\{?(\d{1,20})\}?"
_DOTS = r"(?:\\dot\s?\{?(\d)\}?(?:(\d{0,20})\\dot\s?\{?(\d)\}?)?)"
_REPEATING = re.compile(rf"(?<![\d.])(\d{{0,20}})\.(\d{{0,20}})(?:{_BAR}|{_DOTS}|\((\d{{1,20}})\))")
_COMBINED = re.compile("((?:\\d[\u0304\u0305])+)")


def repeating_decimals(text: str) -> str:
    r"""``0.1\overline{6}``, ``0.1\dot6`` and ``0.1(6)`` as ``\frac{1}{6}``."""
    if "\u0304" in text or "\u0305" in text:
        text = _COMBINED.sub(lambda found: f"\\overline{{{re.sub('[^0-9]', '', found[0])}}}", text)
    return _REPEATING.sub(_repeated, text) if "." in text else text


def _repeated(found: re.Match[str]) -> str:
    whole, start, bar, dot, between, last, bracket = found.groups()
    period = bar or bracket or f"{dot}{between or ''}{last or ''}"
    nines = (10 ** len(period) - 1) * 10 ** len(start)
    value = Fraction(int(f"{whole}{start}{period}") - int(f"0{whole}{start}"), nines)
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


# --------------------------------------------------------------------------------------- plain numbers

_CURRENCY = r"(?:\\?\$|[€£¥])\s?\d[\d,]{0,30}(?:\.\d{1,30})?"
_ABBREVIATED = re.compile(rf"({_CURRENCY})\s?(k|K|m|M|mn|MM|b|B|bn)(?![A-Za-z]|\s?\$)")
_LETTERS = {"k": "thousand", "m": "million", "b": "billion"}
_WRITTEN_SO: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (_ABBREVIATED, lambda found: f"{found[1]} {_LETTERS[found[2][0].lower()]}"),
    (re.compile(r"</?[a-z]{1,20}>"), " "),
    (re.compile(r"-{1,2}>|\\(?:long)?(?:to|rightarrow|mapsto)(?![A-Za-z])"), "→"),
    (re.compile(r"=>|\\(?:implies|Rightarrow|therefore|Longrightarrow)(?![A-Za-z])"), "="),
    (
        re.compile(r"\\not\s?=|\\(?:neq?|leq?|geq?|leqslant|geqslant|lt|gt|ll|gg)(?![A-Za-z])|(?<!\d)!=|[<>]=|≠"),
        UNLIKE,
    ),
    (re.compile(r"\\(?:approx|equiv|simeq|cong)(?![A-Za-z])"), "="),
    (re.compile(r"\\[$!]|\$|[€£¥]|(?<!\d)\*\*|\*\*(?!\d)"), ""),
    (re.compile(r"\\[,;: ]|~|\\(?:quad|qquad)(?![A-Za-z])"), " "),
    (re.compile(r"(?<=\d)['’](?=\d{3}(?!\d))"), ","),
)
_FRACTION = re.compile(r"\\frac\s?\{([^{}]{1,60})\}\s?\{([^{}]{1,60})\}")
_LATER: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"(\d) ?(?:\\times|\\cdot|[*x×]) ?10 ?\^ ?\{?(-?\d{1,2})(?!\d)\}?"), r"\1e\2"),
    (re.compile(r"(?<![\d.^_])10 ?\^ ?(?:\{(-?\d{1,2})\}|(\d)(?!\d))"), lambda found: f"1e{found[1] or found[2]}"),
    (re.compile(r"(?<=\d) (?=\d{3}(?!\d))"), "\u2009"),
    (re.compile(r"(?<=[\d)}!])-(?=[\d.(])|(?<![A-Za-z\\][A-Za-z])(?<!\d[eE])(?<=[A-Za-z])-(?=\d)"), HYPHEN),
    (re.compile(r"(?<=\w)(?<!\d[eE])-(?=\d)"), " "),
    (re.compile(r"(?<=[\w)}])(?<!\d[eE])\+(?=[\d.])"), " + "),
    (re.compile(r"= ?- (?=\d)"), "=-"),
    (re.compile(r"(?<=\d) ?/ ?(?=\d)"), "/"),
    (re.compile(r"(?<![\w.] )(?<![\w.])(?:minus|negative) (?=\d)", re.IGNORECASE), "-"),
)
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?:\u2009\d{3})+(?!\d)")
_MIXED = re.compile(r"(?<![\d./,])(\d{1,20})(?: {1,2}| ?and )(\d{1,20})/(\d{1,20})(?![\d/])")
_PARTS = {"half": 2, "third": 3, "fourth": 4, "quarter": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_HALVES = re.compile(rf"(?<![\d./,])(\d{{1,20}}) and (?:an?|one|1) ({'|'.join(_PARTS)})\b")
_NTHS = {**_PARTS, "halve": 2, "seventh": 7, "ninth": 9, "hundredth": 100, "thousandth": 1000, "millionth": 10**6}
_SHARE = re.compile(rf"(?<![\d./,])(\d{{1,20}}) ({'|'.join(sorted(set(_NTHS) - {'quarter'}, key=len)[::-1])})s?\b")
_SCALABLE = r"(?<![\d,./])[-+]?\d[\d,]{0,30}(?:\.\d{1,30})?(?:/\d{1,20})?"
_SCALED = re.compile(rf"({_SCALABLE})[ -]?({'|'.join(SCALES)})s?\b", re.IGNORECASE)


def plain(text: str, counted: Collection[str] = ()) -> str:
    r"""A text with its numbers written plainly.

    Args:
        text: any.
        counted: words of ``SCALES`` that are units here, as in "How many dozen eggs?".
    """
    text = repeating_decimals(without_fonts(one_spelling(without_unicode(text))))
    for mark, written in _WRITTEN_SO:
        text = mark.sub(written, text)
    for _ in range(2):  # a fraction may hold another
        text = _FRACTION.sub(_quotient, text)
    for mark, written in _LATER:
        text = mark.sub(written, text)
    text = _SPACED.sub(lambda found: found[0].replace("\u2009", ""), text).replace("\u2009", " ")
    text = _HALVES.sub(lambda found: f"{found[1]} 1/{_PARTS[found[2]]}", text)
    text = _MIXED.sub(_improper, text)
    text = _SHARE.sub(lambda found: exact(Fraction(int(found[1]), _NTHS[found[2]])), text)
    for _ in range(3):  # two hundred thousand million
        text = _SCALED.sub(lambda found: _scaled(found, counted), text)
    return text


def _quotient(found: re.Match[str]) -> str:
    top, bottom = number(found[1].replace(" ", "")), number(found[2].replace(" ", ""))
    return found[0] if top is None or not bottom else f" {exact(top / bottom)}"


def _improper(found: re.Match[str]) -> str:
    """``1 2/3`` as ``5/3``; ``1 3/2`` may be a product, and stays."""
    whole, top, bottom = map(int, found.groups())
    return f"{whole * bottom + top}/{bottom}" if top < bottom else found[0]


def _scaled(found: re.Match[str], counted: Collection[str]) -> str:
    value, word = number(found[1]), found[2].lower()
    return found[0] if value is None or word in counted else exact(value * SCALES[word])
