"""Answers out of responses: pure functions on text.

Their time is linear in a response's length, whatever it holds: no regular expression here can backtrack over it,
and only its end is looked at, where an answer stands. Nothing of a response is ever executed.
"""

from __future__ import annotations

import ast
import contextlib
import operator
import re
from collections.abc import Sequence
from fractions import Fraction

from dllm_env.errors import UsageError
from dllm_env.grading.limited import Judge, ask

LONGEST = 20_000
"""Characters at a response's end that are looked at."""


# ------------------------------------------------------------------------------------ where it stands


def boxed(text: str) -> str | None:
    """What stands in the last \\boxed{…} or \\fbox{…} that is closed and not empty; None without one."""
    text = text[-LONGEST:]
    found = _boxes(text)
    return text[slice(*found[-1][1:])].strip() if found else None


_BOX = re.compile(r"\\(?:boxed|fbox)(?: ?(?=\{)| ([^{$\n][^$\n]{0,50})\$)")


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """Of each box that is closed and not empty: where it begins, and where its content begins and ends.

    ``$\\boxed 2$`` is one too: solutions of MATH have it.
    """
    ends = _closing_braces(text)
    found = []
    for box in _BOX.finditer(text):
        start, end = box.span(1) if box[1] else (box.end() + 1, ends.get(box.end(), 0))
        if text[start:end].strip():
            found.append((box.start(), start, end))
    return found


def _closing_braces(text: str) -> dict[int, int]:
    """For each opening brace that is closed, where; ``\\{`` is no brace."""
    ends: dict[int, int] = {}
    opened: list[int] = []
    for found in re.finditer(r"\\.|[{}]", text):
        if found[0] == "{":
            opened.append(found.start())
        elif found[0] == "}" and opened:
            ends[opened.pop()] = found.start()
    return ends


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
    return None if said is None else _ascii_digits(_undressed(said)).replace("−", "-")


_FONT = re.compile(r"\\(?:text|math)(?:normal|bf|it|rm|tt|sf)?(?=\{)|\\mbox(?=\{)")
_AROUND = (("$", "$"), ("\\(", "\\)"), ("`", "`"))


def _undressed(said: str) -> str:
    """``\\text{$5$}`` is 5."""
    for _ in range(3):
        font = _FONT.match(said)
        if font and _closing_braces(said).get(font.end()) == len(said) - 1:
            said = said[font.end() + 1 : -1].strip()
        for before, after in _AROUND:
            within = said[len(before) : -len(after)]
            if within and said == before + within + after and before not in within:
                said = within.strip()
    return said


# -------------------------------------------------------------------------------------------- numbers

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e\d{1,2}(?!\d))?(?:/\d+)?")
_PHRASE = re.compile(r"\banswer\b[^\n]{0,40}?(?:\bis\b|=|:)", re.IGNORECASE)
_PURPOSE = re.compile(r"\bto(?:\s\w+){0,4}\s$", re.IGNORECASE)


def final_number(text: str) -> Fraction | None:
    """The number that a response to a word problem ends with.

    Looked for in this order: in the last \\boxed{}, in the last <answer>, behind the last ``####``, behind the last
    "answer is" or "answer:", and otherwise it is the last number of all. Thousands separators, units, currency and
    percent signs do not count; of an equation it is the side that is a number. In a box, a tag or behind ``####``
    two answers are none, nor is a calculation that is not carried out.
    """
    text = text[-LONGEST:]
    for said in (boxed(text), tagged(text), _behind_hashes(text)):
        found = _stated(said) if said else []
        if found:
            return found[0] if len(found) == 1 else None
    found = _stated(_behind_phrase(text)) or [value for _, _, value in _numbers(_plain(text))]
    return found[-1] if found else None


def _behind_hashes(text: str) -> str:
    """The line behind the last ``####``, where it begins with a number and is no heading."""
    line = text.rpartition("####")[2].strip().partition("\n")[0] if "####" in text else ""
    is_number = re.match(r"[^\w\n]{0,9}\d", line)
    return "" if not is_number or re.match(r"\W{0,9}\d{1,2}[.:)] {0,9}[^\W\d]", line) else line


def _behind_phrase(text: str) -> str:
    """What follows the last "the answer is", up to the end of the sentence; "to find the answer" says none."""
    for found in reversed(list(_PHRASE.finditer(text))):
        if not _PURPOSE.search(text[max(0, found.start() - 40) : found.start()]):
            return text[found.end() :].lstrip()[:1_000].partition("\n")[0].partition(". ")[0]
    return ""


_BETWEEN = {"", *",;:^&-/", "--", "and", "to", "\\pm", "\\quad"}
_OPERATOR = ("+", "*", "×", "·", "÷", "\\times", "\\cdot", "\\div")


def _stated(text: str) -> list[Fraction]:
    """The number that a text states, of an equation on the last side that does; more, where it states several."""
    sides = [found for side in re.split("=|≈|\\\\approx", text) if (found := _stated_first(side))]
    return next((found for found in reversed(sides) if len(found) == 1), sides[-1] if sides else [])


def _stated_first(text: str) -> list[Fraction]:
    """The first number; more, where others are joined to it as in ``2 or 3`` and ``2 + 3``."""
    text = re.sub(r"^\W{0,3}- (?=\d)", "-", _plain(text).strip())
    found = _numbers(text)
    if len(found) > 1:
        said = re.sub(r"\\text|\\mbox|[{}]", "", text[found[0][1] : found[1][0]][:100])
        between = said.replace(" ", "")
        joined = between in _BETWEEN or between.endswith(_OPERATOR) or re.search(r"\bor\b", said)
        if joined and found[0][2] != found[1][2]:
            return [value for _, _, value in found]
    return [value for _, _, value in found[:1]]


def _numbers(text: str) -> list[tuple[int, int, Fraction]]:
    """All numbers of a plain text: where they begin and end, and their values."""
    found: list[tuple[int, int, Fraction]] = []
    for match in _NUMBER.finditer(text):
        value = number(match[0])
        parts = match[0].split(",") if len(match[0]) <= 100 else []  # of a list
        values = [value] if value is not None else map(number, parts)
        found += [(*match.span(), value) for value in values if value is not None]
    return found


_DASHES = str.maketrans({"−": "-", "–": "-", "‑": "-", "\u202f": " ", "\u2009": " ", "\u00a0": " ", "~": " "})
_WRITTEN_SO = (
    (re.compile(r"\\[$!]|\$|(?<!\d)\*\*|\*\*(?!\d)"), ""),
    (re.compile(r"\\[,;: ]"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[dt]?frac\{(\d{1,20})\}\{(\d{1,20})\}"), r" \1/\2"),
    (re.compile(r"(\d) ?(?:\\times|\\cdot|[×*]) ?10 ?\^ ?\{?(\d{1,2})(?!\d)\}?"), r"\1e\2"),
    (re.compile(r"(?<=\d) (?=\d{3}(?!\d))"), "\u2009"),
    (re.compile(r"(?<=[\w)])-(?=\d)"), " "),  # 3-4 and part-2 have no negative number
    (re.compile(r"= ?- (?=\d)"), "=-"),
)
_SPACED = re.compile(r"(?<![\d.,])\d{1,3}(?:\u2009\d{3})+(?!\d)")
_MIXED = re.compile(r"(?<![\d./])(\d{1,20}) {1,2}(\d{1,20})/(\d{1,20})(?![\d/])")


def _plain(text: str) -> str:
    """A text with its numbers written plainly: no LaTeX, no spaces in thousands, no mixed fractions."""
    text = _ascii_digits(text).translate(_DASHES)
    for mark, plain in _WRITTEN_SO:
        text = mark.sub(plain, text)
    text = _SPACED.sub(lambda found: found[0].replace("\u2009", ""), text).replace("\u2009", " ")
    return _MIXED.sub(lambda found: f"{int(found[1]) * int(found[3]) + int(found[2])}/{found[3]}", text)


def _ascii_digits(text: str) -> str:
    """Digits of other scripts as 0 to 9."""
    return text if text.isascii() else "".join(str(int(c)) if c.isdecimal() else c for c in text)


_GROUPED = re.compile(r"[-+]?\d{1,3}(?:,\d{2,3})*,\d{3}(?:\.\d+)?")
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d{1,2}")


def number(text: str) -> Fraction | None:
    """``1,234.50``, ``12,5`` or ``3/4`` exactly; None where it is none, or longer than 100 characters."""
    text = text.strip().rstrip(".,")
    if len(text) > 100 or not _NUMBER.fullmatch(text):
        return None
    if _GROUPED.fullmatch(text):
        text = text.replace(",", "")
    elif _DECIMAL_COMMA.fullmatch(text):
        text = text.replace(",", ".")
    try:
        return Fraction(text)
    except (ValueError, ZeroDivisionError):
        return None


# ---------------------------------------------------------------------------------------- mathematics


def same_mathematics(expected: str, response: str) -> bool:
    """Whether a response's final answer equals the expected one as mathematics, by math-verify.

    It is what stands in the last box or <answer>, or in several boxes with "and" or a comma between them; without
    any, whatever math-verify finds in the last 1,000 characters. What takes longer than ``judge.SECONDS`` to
    compare is wrong.

    Raises:
        UsageError: math-verify is not installed.
    """
    text = _latex(response[-LONGEST:])
    said = _boxed_together(text) or tagged(text)
    if said is None:
        return ask(mathematics, (), expected, text[-1_000:].replace("\\boxed{}", ""))
    said = said.rstrip(".")
    if len(said) > 1_000:
        return False
    return said == expected or ask(mathematics, (), expected, f"\\boxed{{{said}}}")


def _latex(text: str) -> str:
    """A text without what math-verify does not read: other scripts, sizes of brackets, spaces in thousands."""
    text = _ascii_digits(text).replace("−", "-").replace("°", "^\\circ")
    text = re.sub(r"\\[bB]igg?[lrm]?(?![A-Za-z])", "", text)
    return re.sub(r"(?<=\d)(?:\\[,: ]|[\u2009\u202f])(?=\d{3}(?!\d))", "", text)


_AND = re.compile(r"[\s$]*(?:,|,?\s?(?:and|or)\b|\\text\{ ?(?:and|or) ?\})[\s$]*")


def _boxed_together(text: str) -> str | None:
    """What stands in the last box, and in those before it that belong to it; None without one."""
    boxes = _boxes(text)
    said = [text[start:end].strip() for _, start, end in boxes[-1:]]
    for (_, start, end), (begins, _, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        if begins - end > 30 or not _AND.fullmatch(text[end + 1 : begins]):
            break
        said.insert(0, text[start:end].strip())
    return ", ".join(dict.fromkeys(said)) or None


def mathematics() -> Judge:
    """The judge that ``same_mathematics`` asks."""
    try:
        from math_verify import parse, verify
    except ImportError:
        raise UsageError("MATH needs math-verify: pip install 'dllm-env[eval]'") from None

    def judge(expected: str, response: str) -> bool:
        # Its own limits of time work in the main thread of a program only; the judge has others.
        gold = parse(f"\\boxed{{{expected}}}", parsing_timeout=None)
        return bool(verify(gold, parse(response, parsing_timeout=None), timeout_seconds=None))

    for expected, response in _USUAL:
        with contextlib.suppress(Exception):
            judge(expected, response)
    return judge


_USUAL = (
    ("\\frac{3}{4}", "The answer is $\\frac{1}{4}$, so 3/8."),
    ("(3, \\frac{\\pi}{2})", "\\boxed{(\\pi, 2\\sqrt{3})}"),
    ("y = 2x + 3", "\\boxed{y = x^2 - 3}"),
    ("[-2, 7)", "\\boxed{x \\in (-\\infty, 7]}"),
    ("6 - 5i", "\\boxed{\\frac{6 + 5i}{2}}"),
)
"""Compared beforehand: parsers and SymPy remember much, which every later question's process inherits."""


# ---------------------------------------------------------------------------------------- expressions

_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_SIGNS = str.maketrans("×·÷−–（）＋－[]{}", "**/--()+-()()")
_COMMAND = re.compile(r"\\(?:(times|cdot)|(div)|left|right|([,;! ])|(?=[()]))")


def expression_reaches(text: str, numbers: Sequence[int], target: int) -> bool:
    """Whether an arithmetic expression uses each of the numbers once and has the target as its exact value.

    ``= target`` behind it and ``target =`` before it do not count; ``2(3 + 4)`` is a product.
    """
    sides = text[:1_000].split("=")
    if len(sides) > 1 and sides[0].strip("$ \n") == str(target):
        del sides[0]
    text = _arithmetic(sides[0])
    if len(text) > 200 or not re.fullmatch(r"[\d\s+\-*/()]+", text, re.ASCII):
        return False
    used: list[int] = []
    try:
        value = _evaluate(ast.parse(text, mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return False
    return sorted(used) == sorted(numbers) and value == target


def _arithmetic(text: str) -> str:
    """LaTeX's arithmetic as Python writes it."""
    text = _divided(_ascii_digits(text))
    text = _COMMAND.sub(lambda found: "*" if found[1] else "/" if found[2] else " " if found[3] else "", text)
    text = " ".join(text.translate(_SIGNS).strip("$` \n.").split())
    return re.sub(r"(?<=[\d)])\s?(?=\()|(?<=\))\s?(?=\d)", "*", text)


def _divided(text: str) -> str:
    """``\\frac{A}{B}`` as ``((A)/(B))``."""
    ends, characters = _closing_braces(text), list(text)
    for found in re.finditer(r"\\[dt]?frac(?=\{)", text):
        top = found.end()
        bottom = ends[top] + 1 if top in ends else -1
        if bottom in ends:
            characters[found.start() : top] = [""] * (top - found.start())
            characters[top], characters[ends[top]] = "((", ")/"
            characters[bottom], characters[ends[bottom]] = "(", "))"
    return "".join(characters)


def _evaluate(node: ast.expr, used: list[int]) -> Fraction:
    if isinstance(node, ast.Constant) and type(node.value) is int:
        used.append(node.value)
        return Fraction(node.value)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATIONS:
        left, right = _evaluate(node.left, used), _evaluate(node.right, used)
        return Fraction(_OPERATIONS[type(node.op)](left, right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_evaluate(node.operand, used)
    raise ValueError("only numbers, + - * / and parentheses")


_DRAWN = re.compile(
    r"\\(?:begin|end) ?\{(?:array|tabular|[bpvB]?matrix)\}(?:\{[clr|]{0,9}\})?|\\hline|\\[\\,;: ]"
    r"|[\s,;|&+\-\[\](){}]"
)


def cells(text: str) -> str:
    """The cells of a grid, without what it is drawn with: lines, bars, commas, brackets, a LaTeX array."""
    return _DRAWN.sub("", _ascii_digits(text[:1_000]))


_CALL = re.compile(r"([A-Za-z_]\w*|\))\s*\(")
_FUNCTIONS = {
    *("sin", "cos", "tan", "cot", "sec", "csc", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
    *("exp", "log", "ln", "sqrt", "Abs"),
}


def is_plain_expression(text: str) -> bool:
    """Whether a text is at most arithmetic: names, numbers, + - * / ^ ( ), and calls of elementary functions.

    Such a text does nothing but compute, even where a library hands it to ``eval``.
    """
    if len(text) > 1_000 or "__" in text or not re.fullmatch(r"[\w\s+\-*/^().]*", text, re.ASCII):
        return False
    if re.search(r"[^\W\d]\s*\.|\)\s*\.|\.\s*[^\W\d]", text):  # an attribute
        return False
    return all(found[1] in _FUNCTIONS for found in _CALL.finditer(text))
