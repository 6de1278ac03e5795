"""The number that a response to a word problem states, exactly.

A number is read as it stands: fractions, mixed numbers, powers of ten, "million" and "dozen", decimals that repeat.
What is no plain number (a root, a power, a factorial, a sum that is not carried out, two hours and thirty minutes,
a range, an inequality) is none: it is never read as one of the numbers that it is written with. The time is linear
in the length of the text.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from dllm_env.grading.answers import boxed, tagged
from dllm_env.grading.latex import LONGEST, closing_braces, without_unicode
from dllm_env.grading.plain import HYPHEN, NUMBER, UNLIKE, number, plain

_PHRASE = re.compile(r"\banswer\b[^\n]{0,40}?(?:\bis\b|=|:)", re.IGNORECASE)
_PURPOSE = re.compile(r"\bto(?:\s\w+){0,4}\s$", re.IGNORECASE)


def final_number(text: str, counted: Collection[str] = ()) -> Fraction | None:
    r"""The number that a response to a word problem ends with; None where it states none, or several.

    Looked for in this order: in the last \boxed{}, in the last <answer>, behind the last ``####``, behind the last
    "answer is" or "answer:", and otherwise it is the last number of all. Thousands separators, units, currency and
    percent signs do not count; of an equation it is the side that is a number. Two answers are none, nor is a
    calculation that is not carried out.

    Args:
        text: the response.
        counted: the words among "dozen", "hundred", "million", … that are units here: "3 dozen" is 3.
    """
    text = text[-LONGEST:]
    for said in (boxed(text), tagged(text), _behind_hashes(text)):
        found = _stated(said, counted) if said else []
        if found:
            return found[0] if len(found) == 1 else None
    phrase = _behind_phrase(text)
    return _said(phrase, counted) if re.search(r"\d|[½⅓⅔¼¾]", phrase) else _last(text, counted)


def stated(text: str) -> Fraction | None:
    """The number that a text is, beside units and currency; None where it is none, or several."""
    found = _stated(text, ())
    return found[0] if len(found) == 1 else None


def _behind_hashes(text: str) -> str:
    """The line behind the last ``####``, where it begins with a number and is no heading."""
    line = text.rpartition("####")[2].strip().partition("\n")[0] if "####" in text else ""
    is_number = re.match(r"(?:[^\w\n]|frac|sqrt){0,9}\d", line)
    return "" if not is_number or re.match(r"\W{0,9}\d{1,2}[.:)] {0,9}[^\W\d]", line) else line


def _behind_phrase(text: str) -> str:
    """What follows the last "the answer is", up to the end of the sentence; "to find the answer" says none."""
    for found in reversed(list(_PHRASE.finditer(text))):
        if not _PURPOSE.search(text[max(0, found.start() - 40) : found.start()]):
            return text[found.end() :].lstrip(": \t\r\n")[:1_000].partition("\n")[0].partition(". ")[0]
    return ""


# ----------------------------------------------------------------------------------- three ways to state


def _stated(text: str, counted: Collection[str]) -> list[Fraction | None]:
    """What a box states: of an equation the last side that is a number; several values, where it states several."""
    if len(text) > _LONG or len(set(_NAMED.findall(text))) > 1:  # x = 2, y = 3
        return [None]
    sides = [_side(side) for side in plain(text, counted).split("=")]
    sides = [side for side in sides if side]
    return next(
        (side for side in reversed(sides) if len(side) == 1 and side[0] is not None), [None] if sides else []
    )


_LONG = 1_000
"""Characters; no longer text states a number."""
_NAMED = re.compile(r"(?:^|[,;]|\band\b|\\quad)[\s$]{0,3}([A-Za-z])[\s$]{0,3}=")


def _side(text: str) -> list[Fraction | None]:
    """The first number of one side; more, where others are joined to it as in ``2 or 3`` and ``2 + 3``."""
    text = re.sub(r"^\W{0,3}- (?=\d)", "-", text.strip())
    found = _numbers(text, alone=True)
    if len(found) > 1 and (joined := _joined(text, found[0], found[1])):
        same = joined in ("listed", "either") and found[0].value == found[1].value
        return [spot.value for spot in (found[:1] if same else found)]
    return [spot.value for spot in found[:1]]


def _said(text: str, counted: Collection[str]) -> Fraction | None:
    """What a sentence states behind "the answer is": its first number that is no part of a calculation."""
    sides = [spots for side in plain(text, counted).split("=") if (spots := _in_prose(side, listed=True))]
    for side in reversed(sides):
        for spot in side:
            if not spot.calculation:
                return spot.value
    return None


def _last(text: str, counted: Collection[str]) -> Fraction | None:
    """The last number of a text; only what is near to its last digit is read."""
    text = without_unicode(text)
    ends = max(text.rfind(digit) for digit in "0123456789") + 1
    start = max(0, ends - _LONG // 2)
    near = text[start : ends + _LONG // 4]
    spots = _in_prose(plain(near.partition(" ")[2] if start else near, counted), listed=False)
    return spots[-1].value if spots and ends else None


def _in_prose(text: str, listed: bool) -> list[_Spot]:
    """The numbers of a text; those of calculations, of ranges and, if so said, of lists have no value."""
    text = re.sub(r"^\W{0,3}- (?=\d)", "-", text.strip()) if listed else text
    spots = _numbers(text, alone=False)
    for left, right in pairwise(spots):
        joined = _joined(text, left, right)
        apart = "," in text[left.end : right.start]  # 50, or 40 as a sentence goes on
        several = joined and (listed or (joined == "either" and not apart))
        if joined in ("calculated", "ranged") or (several and left.value != right.value):
            left.value = right.value = None
            left.calculation = right.calculation = joined == "calculated"
    return spots


# ------------------------------------------------------------------------------- numbers and what is joined


@dataclass
class _Spot:
    """A number: where it begins and ends, and its value; None where it is part of something else."""

    start: int
    end: int
    value: Fraction | None
    calculation: bool = False


_COMMAND = re.compile(
    r"\\(?:sqrt|frac|binom|log|ln|exp|sin|cos|tan|cot|sum|int|prod|pi|gcd|lcm|max|min|[lr](?:vert|floor|ceil)|over"
    r"|overline|bar|dot|choose|infty|bmod|pmod|mod|ldots|dots|cdots)(?![A-Za-z])(?:\s?[\[_^][^\s\[\]{}]{0,20}\]?)?"
)


def _numbers(text: str, alone: bool) -> list[_Spot]:
    """The numbers of a plain text; of a text that is an answer ``alone``, strictly."""
    commands = _commands(text)
    found: list[_Spot] = []
    for match in NUMBER.finditer(text):
        before, after = text[max(0, match.start() - 40) : match.start()], text[match.end() : match.end() + 40]
        if _NO_NUMBER.search(before):
            continue
        plainly = not (_NOT_BEHIND.search(before) or _NOT_BEFORE.match(after))
        plainly = plainly and not (alone and (_NOT_ALONE_BEHIND.search(before) or _NOT_ALONE_BEFORE.match(after)))
        while commands and commands[0][1] < match.start():
            commands.pop(0)
        plainly = plainly and not (commands and commands[0][0] <= match.end())
        value = number(match[0])
        if alone and re.search(r",\d{1,2}$", match[0]) and re.search(r"[(\[{]\s?$", before):
            value = None  # (3,4) is a pair
        parts = match[0].split(",") if value is None and len(match[0]) <= 100 else []  # of a list
        values = [value] if value is not None or not parts else [*map(number, parts)]
        found += [_Spot(*match.span(), value if plainly else None) for value in values]
    return found


def _commands(text: str) -> list[tuple[int, int]]:
    r"""Where roots, logarithms and the like stand, with their arguments and the space around them."""
    ends = closing_braces(text) if "\\" in text else {}
    found: list[tuple[int, int]] = []
    for command in _COMMAND.finditer(text):
        start, end = command.span()
        for _ in range(2):
            if text[end : end + 1] == "{" and end in ends:
                end = ends[end] + 1
        start -= text[start - 1 : start] == " "
        end += text[end : end + 1] == " "
        if found and start <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        else:
            found.append((start, end))
    return found


_NO_NUMBER = re.compile(r"[\^_]\s?\{?\s?[-+]?$|\bnot\s$", re.IGNORECASE)
"""Before what is an exponent of a unit, or what an answer is said not to be."""
_NOT_BEHIND = re.compile(
    r"\d\s?:\s?$|\d/$|(?:half|third|quarter|root|square|cube|factorial) of\s$|\b(?:twice|double|triple|half)\s$|√$",
    re.IGNORECASE,
)
_NOT_BEFORE = re.compile(
    r"\s?\)?\s?\}?\s?\^(?!\s?\{?\s?(?:\\circ|\\text|o\b|th\b|st\b|nd\b|rd\b))|_|\s?:\s?\d|/\d|\.{2,}|…"
    r"|[a-zA-Z](?<![mgshlLFCWtdp])(?![A-Za-z])|[xX][\dA-Fa-f]|\s(?:squared|cubed|factorial|choose)\b"
)
_NOT_ALONE_BEHIND = re.compile(
    rf"[{UNLIKE}<>|+*/×÷]\s?$|[-{HYPHEN}]\s?[(\[{{|\\]+\s?$|\\(?:times|cdot|div|pm|mp)\s?$|{HYPHEN}$|[\w)}}] - ?$"
)
_NOT_ALONE_BEFORE = re.compile(
    rf"\s?!(?!=)|\s?(?:[+*×÷{UNLIKE}<>]|\\(?:times|cdot|div|pm|mp)(?![A-Za-z]))|\s?[-{HYPHEN}]\s?(?:\\|\d|\(|[A-Za-z](?![A-Za-z]))"
    r"|\s[xyz](?![A-Za-z])|\)?\(\s?-?\d|\)\s?\(\s?-?\d|\s?\|"
)

_LISTED = {"", *",;&", "and", ",and", "\\\\", "or", ",or"}
_RANGED = {HYPHEN, "--", "-", "to", "→", "through", ":", "^", "\\sim", "outof"}
_OPERATOR: tuple[str, ...] = ("+", "*", "×", "·", "÷", "/", "\\times", "\\cdot", "\\div", "\\pm", "\\mp")
_OPERATOR += ("plus", "minus", "times", "multipliedby", "dividedby", "forevery", "%of", "percentof", "per")


def _joined(text: str, left: _Spot, right: _Spot) -> str:
    """How two neighbours are joined: listed, either, ranged or calculated; empty where they are not."""
    between = re.sub(r"[{}]", "", text[left.end : right.start][:100])
    if _is_compound(between, text[right.end : right.end + 20]):
        return "ranged"
    packed = between.replace(" ", "").lower()
    if packed.endswith(_OPERATOR) or packed == "x" or (packed in ("-", HYPHEN) and " " in between):
        return "calculated"
    if packed in _RANGED:
        return "ranged"
    if re.search(r"\bor\b", between):
        return "either"
    return "listed" if packed in _LISTED else ""


_FAMILIES = (
    "seconds second secs sec s minutes minute mins min m hours hour hrs hr h "
    "days day d weeks week months month years year",
    "inches inch in \" feet foot ft ' yards yard yd miles mile mi millimeters mm centimeters cm meters meter m km",
    "ounces ounce oz pounds pound lbs lb tons ton stone grams gram g kilograms kilogram kg milligrams mg",
    "cents cent pennies penny nickels dimes quarters dollars dollar bucks pence pounds pound euros euro",
    "cups cup pints pint quarts quart gallons gallon milliliters ml liters liter l litres litre",
    "dozen dozens hundred hundreds",
)
_UNITS: dict[str, set[int]] = {}
for _index, _family in enumerate(_FAMILIES):
    for _word in _family.split():
        _UNITS.setdefault(_word, set()).add(_index)
_UNIT = re.compile(r"\s?-?([A-Za-z]+|['\"])(?![A-Za-z])")


def _is_compound(between: str, after: str) -> bool:
    """Whether two numbers are one quantity, as 2 hours and 30 minutes are."""
    first, second = _UNIT.match(between), _UNIT.match(after)
    if not first or not re.fullmatch(r"\.?\s?(?:,|and|,\s?and|&)?\s?", between[first.end() :]):
        return False
    units = _UNITS.get(first[1].lower(), set())
    if not second:
        return first[1] in ("'", "h") and not after.strip()
    return first[1] != second[1] and bool(units & _UNITS.get(second[1].lower(), set()))
