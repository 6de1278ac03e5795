r"""Whether two answers are the same mathematics: math-verify's verdict, between texts in one spelling.

math-verify rejects spellings that it does not read, so both texts are brought to one first. It also passes what
differs in a way that it does not look at: the base of a numeral, ``\neq`` before a number, the order of a word's
letters, the brackets around a list, numbers whose difference is tiny. These have to agree besides.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from typing import Any

from dllm_env.errors import UsageError
from dllm_env.grading.answers import boxes, tagged
from dllm_env.grading.latex import LONGEST, one_spelling, without_fonts, without_unicode
from dllm_env.grading.limited import Judge, ask
from dllm_env.grading.plain import repeating_decimals


def same_mathematics(expected: str, response: str) -> bool:
    """Whether a response's final answer equals the expected one as mathematics, by math-verify.

    It is what stands in the last box or <answer>, or in several boxes with "and" or a comma between them; without
    any, the LaTeX that the response ends with, or else whatever math-verify finds in the last 1,000 characters.
    What takes longer than ``limited.SECONDS`` to compare is wrong.

    Raises:
        UsageError: math-verify is not installed.
    """
    text, gold = response[-LONGEST:], usual(expected)
    said = _boxed_together(text) or tagged(text) or _bare(text[-1_000:])
    if said is None:
        text = usual(text[-1_000:]).replace("\\boxed{}", "")
        last = _IN_DOLLARS.findall(text)[-1:] or [gold]
        return _relations_agree(gold, last[0]) and ask(mathematics, (), _unbased(gold), text)
    said = said.strip().rstrip(".")
    if len(said) > 1_000:
        return False
    said = usual(said)
    if _letters(said) == _letters(gold):
        return True
    if not _alike(gold, said):
        return False
    return ask(mathematics, (), _unbased(gold), f"\\boxed{{{_unbased(said)}}}")


# ------------------------------------------------------------------------------------ where it stands

_IN_DOLLARS = re.compile(r"\$([^$]{1,200})\$")
_AND = re.compile(r"[\s$]*(?:,|,?\s?(?:and|or)\b|\\text\{ ?(?:and|or) ?\})[\s$]*")


def _boxed_together(text: str) -> str | None:
    """What stands in the last box, and in those before it that belong to it; None without one."""
    found = boxes(text)
    said = [text[start:end].strip() for _, start, end in found[-1:]]
    for (_, start, end), (begins, _, _) in zip(found[-2::-1], found[:0:-1], strict=True):
        if begins - end > 30 or not _AND.fullmatch(text[end + 1 : begins]):
            break
        said.insert(0, text[start:end].strip())
    return ", ".join(dict.fromkeys(said)) or None


_WORD = re.compile(r"(?<![\\A-Za-z{])[A-Za-z]{2,}(?![A-Za-z])[:,]?")


def _bare(text: str) -> str | None:
    """What a text without boxes and dollars ends with, behind its last word, if it is LaTeX or all there is."""
    line = text.strip().rpartition("\n")[2]
    words = list(_WORD.finditer(line))
    said = line[words[-1].end() if words else 0 :].strip(" .:")
    if "$" in text or re.search(r"\\[(\[]|\\(?:boxed|fbox)|\*\*|`", text) or not said or len(said) > 200:
        return None
    return said if ("\n" not in text.strip() and not words) or re.search(r"[\\^(\[]", said) else None


# ------------------------------------------------------------------------------------- one spelling

_DIGITS = {
    word: str(base)
    for base, word in enumerate(["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"], 2)
}
_DIGITS |= {"eleven": "11", "twelve": "12", "sixteen": "16", "twenty": "20"}
_BASES = "|".join(_DIGITS)
_USUAL: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<=\d)(?:\\[,: ]|[\u2009\u202f])(?=\d{3}(?!\d))"), ""),
    (re.compile(r"\\not ?=|\\ne(?![A-Za-z])"), r"\\neq"),
    (re.compile(r"\\(?:le|leqslant|leqq)(?![A-Za-z])"), r"\\leq"),
    (re.compile(r"\\(?:ge|geqslant|geqq)(?![A-Za-z])"), r"\\geq"),
    (re.compile(r"\\lt(?![A-Za-z])"), "<"),
    (re.compile(r"\\gt(?![A-Za-z])"), ">"),
    (re.compile(r"\\langle(?![A-Za-z])"), "("),
    (re.compile(r"\\rangle(?![A-Za-z])"), ")"),
    (re.compile(r"\\varnothing(?![A-Za-z])|\\\{ ?\\\}|\\text\{ ?(?:the )?empty set ?\}"), r"\\emptyset "),
    (re.compile(r"(?: |\\,)?(?:\{\})?\^? ?\{? ?(?:\\degree|\\deg(?!ree))(?![A-Za-z]) ?\}?"), r"^{\\circ}"),
    (
        re.compile(r"(?<=[\d}]) ?(?:\{\})?\^ ?(?:\{ ?(?:o|\\circ) ?\}|o(?![A-Za-z])|\\circ(?![A-Za-z]))"),
        r"^{\\circ}",
    ),
    (re.compile(r"\\(?:mathrm|text|mathbf|operatorname)\{i\}|\\imath(?![A-Za-z])"), "i"),
    (re.compile(r"(?:(?<=\d) ?(?:\\[,;: ]|\\cdot|\*)?|\\cdot|\*) ?i(?![A-Za-z])"), " i"),
    (re.compile(r"\\overline\{ ?i ?\}"), r"(-i)"),
    (re.compile(r"(?<![\d./^_{])(\d{1,9}) (\d{1,9})/(\d{1,9})(?![\d/])"), r"\1\\frac{\2}{\3}"),
    (re.compile(rf"_ ?\{{ ?(?:\\(?:text|mathrm)\{{ ?)?({_BASES}|\d{{1,2}}) ?\}}? ?\}}"), r"_{\1}"),
    (re.compile(r"(?<!\\log)_ ?(\d{1,2})(?!\d)"), r"_{\1}"),
    (re.compile(rf"(?:\\ )? ?\(?\\text\{{ ?\(?(?:in )?base[ -]?({_BASES}|\d{{1,2}})\)? ?\}}\)?"), r"_{\1}"),
    (re.compile(r"(?:\\ )? ?\(?\\text\{ ?\(?(?:in )?base[ -]?\} ?(\d{1,2})\)?"), r"_{\1}"),
)
_BASE_WORD = re.compile(rf"_\{{({_BASES})\}}")


def usual(text: str) -> str:
    """A text in one spelling, without what math-verify does not read."""
    text = re.sub(r"\s+", " ", repeating_decimals(one_spelling(without_unicode(text))))
    for spelling, written in _USUAL:
        text = spelling.sub(written, text)
    return _BASE_WORD.sub(lambda found: f"_{{{_DIGITS[found[1]]}}}", text).strip()


def _letters(text: str) -> str:
    """A text as it is compared letter by letter: without fonts, dollars and spaces."""
    return re.sub(r"\s|\\[,;: ]|\\?\$", "", without_fonts(text)).casefold()


# ---------------------------------------------------------------------------------- what has to agree


def _alike(gold: str, said: str) -> bool:
    """Whether nothing that math-verify does not look at makes two answers different."""
    word, other = _word(gold), _word(said)
    if word and other and word != other:
        return False
    return _bases_agree(gold, said) and _relations_agree(gold, said) and _brackets_agree(gold, said)


_FAMILIES = ("abcd", "ijk", "klmn", "pqrst", "uvwxyz")


def _word(text: str) -> str:
    """A text that is a word, or letters like one, in lower case; empty where it is not, or a product as xy is."""
    said = re.sub(r"[\s$()]|\\[,;: ]", "", without_fonts(text))
    if not re.fullmatch(r"[A-Za-z]{2,}", said) or any(set(said) <= set(family) for family in _FAMILIES):
        return ""
    return said.lower()


_BASED = re.compile(r"(?<![A-Za-z\d\\])\(?((?=[A-F]{0,9}\d|[A-F]{1,9}\)?_\{16\})[0-9A-F]{1,60})\)? ?_\{(\d{1,2})\}")


def _bases_agree(gold: str, said: str) -> bool:
    """Whether numerals have the same digits in the same bases; a response may leave out the base."""
    expected, found = ([match.groups() for match in _BASED.finditer(without_fonts(text))] for text in (gold, said))
    if not expected:
        return all(base == "10" for _, base in found)
    return not found or Counter(expected) == Counter(found)


def _unbased(text: str) -> str:
    """Numerals without their bases, which have been compared."""
    return _BASED.sub(lambda found: found[1], text)


_UNEQUAL = re.compile(r"\\neq|!=|\\not(?:in)?(?![A-Za-z])")
_ORDER = re.compile(r"<|>|\\leq|\\geq|\\(?:ll|gg|prec|succ|nless|ngtr)(?![A-Za-z])")


def _relations_agree(gold: str, said: str) -> bool:
    """Whether none is an inequality and the other just a number; sets may be written as inequalities."""
    for relation in (_UNEQUAL, _ORDER):
        asked, found = bool(relation.search(gold)), bool(relation.search(said))
        other = said if asked else gold
        if asked != found and not re.search(r"\\(?:in|cup|setminus|infty|mid)(?![A-Za-z])|[\[(][^()\[\]]*,", other):
            return False
    return True


def _brackets_agree(gold: str, said: str) -> bool:
    r"""Whether lists are in the same brackets: ``(1, 2)`` is no set. Braces around a whole list may be left out."""
    if bool(_ORDER.search(gold)) != bool(_ORDER.search(said)):  # an inequality and an interval
        return True
    expected, found = _brackets(gold), _brackets(said)
    return not found or (expected - found) + (found - expected) in (Counter(), Counter(["\\{\\}"]))


_BRACKET = re.compile(r"\\[{}]|\\.|[\[\](){},]")
_OPEN, _CLOSE = ("(", "[", "\\{", "{"), (")", "]", "\\}", "}")


def _brackets(text: str) -> Counter[str]:
    """The kinds of brackets that directly hold a comma, how often each; not those of a function."""
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", without_fonts(text)).rpartition("=")[2]
    opened: list[tuple[str, bool, bool]] = []
    kinds: Counter[str] = Counter()
    for found in _BRACKET.finditer(text):
        sign = found[0]
        if sign in _OPEN:
            opened.append((sign, text[found.start() - 1 : found.start()].isalpha(), False))
        elif sign == "," and opened:
            opened[-1] = (*opened[-1][:2], True)
        elif sign in _CLOSE and opened:
            start, called, listed = opened.pop()
            if listed and not called and start != "{":
                kinds[start + sign] += 1
    return kinds


# ----------------------------------------------------------------------------------------- the judge


def mathematics() -> Judge:
    """The judge that ``same_mathematics`` asks."""
    try:
        from math_verify import parse, verify
    except ImportError:
        raise UsageError("MATH needs math-verify: pip install 'dllm-env[eval]'") from None

    def judge(expected: str, response: str) -> bool:
        # Its own limits of time work in the main thread of a program only; the judge has others.
        gold = parse(f"\\boxed{{{expected}}}", parsing_timeout=None)
        said = parse(response, parsing_timeout=None)
        return bool(verify(gold, said, timeout_seconds=None)) and not (gold and said and _differ(gold[0], said[0]))

    for expected, response in _WARM:
        with contextlib.suppress(Exception):
            judge(expected, response)
    return judge


_WARM = (
    ("\\frac{3}{4}", "The answer is $\\frac{1}{4}$, so 3/8."),
    ("(3, \\frac{\\pi}{2})", "\\boxed{(\\pi, 2\\sqrt{3})}"),
    ("y = 2x + 3", "\\boxed{y = x^2 - 3}"),
    ("[-2, 7)", "\\boxed{x \\in (-\\infty, 7]}"),
    ("6 - 5i", "\\boxed{\\frac{6 + 5i}{2}}"),
)
"""Compared beforehand: parsers and SymPy remember much, which every later question's process inherits."""

ROUNDED = 2e-6
"""Relative error of a decimal that stands for a number that no decimal is."""


def _differ(gold: Any, said: Any) -> bool:
    """Whether two of SymPy's objects, which math-verify takes for equal, are numbers that are not, or hold such."""
    from sympy import Equality, Expr, Interval, MatrixBase, Tuple
    from sympy import FiniteSet as Set

    gold, said = (side.rhs if isinstance(side, Equality) else side for side in (gold, said))
    if isinstance(gold, Expr) and isinstance(said, Expr):
        return _numbers_differ(gold, said)
    if isinstance(gold, MatrixBase) and isinstance(said, MatrixBase):
        return any(map(_differ, gold.flat(), said.flat()))
    if isinstance(gold, Interval) and isinstance(said, Interval):
        return _differ(gold.start, said.start) or _differ(gold.end, said.end)
    if isinstance(gold, Tuple) and isinstance(said, Tuple):
        return any(map(_differ, gold.args, said.args))
    if isinstance(gold, Set | Tuple) and isinstance(said, Set | Tuple):
        return any(all(_differ(one, other) for other in said.args) for one in gold.args)
    return False


def _numbers_differ(gold: Any, said: Any) -> bool:
    """Whether two numbers, or expressions that differ by a number, are not the same; a decimal may be rounded."""
    from sympy import Float, nsimplify

    def exactly(side: Any) -> Any:
        return side.xreplace({part: nsimplify(str(part), rational=True) for part in side.atoms(Float)}).doit()

    rounded = bool(gold.atoms(Float)) != bool(said.atoms(Float))
    gold, said = exactly(gold), exactly(said)
    if gold.free_symbols or said.free_symbols or gold == said:
        difference = gold - said
        return bool(difference.is_number and difference.is_finite and _is_off(difference, 1, 0.0))
    if not (gold.is_finite and said.is_finite):
        return False
    terminates = all(side.is_Rational and _terminates(side.q) for side in (gold, said))
    if not _is_off(gold * 100 - said, said, 0.0) or not _is_off(gold - said * 100, gold, 0.0):
        return False  # a percentage, which may lack its sign
    return _is_off(gold - said, said, ROUNDED if rounded and not terminates else 0.0)


def _terminates(denominator: int) -> bool:
    """Whether a fraction is a decimal."""
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1


def _is_off(difference: Any, size: Any, allowed: float) -> bool:
    """Whether a difference is not 0, or more than a part of a size."""
    if difference.is_zero or difference == 0:
        return False
    found, size = abs(difference.evalf(60)), abs(size.evalf(60)) if hasattr(size, "evalf") else abs(size)
    return bool(found > max(allowed, 1e-40) * size)
