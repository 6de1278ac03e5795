"""Arithmetic expressions and grids as responses write them; nothing of them is handed to an evaluator.

The time is linear in the length of the text.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Sequence
from fractions import Fraction

from dllm_env.grading.latex import ascii_digits, divided, one_spelling, without_unicode

_OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}
_SIGNS = str.maketrans("∙•●⨯✕✖✱﹡＊╳／➗—﹣－➖（）＋➕［］｛｝[]{}", "**********//----()++()()()()")
_COMMAND = re.compile(
    r"\\(?:(?:(times|cdotp?|ast|bullet|star|centerdot)|(div)|(over)|(q?quad))(?![A-Za-z])|[,;:! ]|(?=[()\[\]]))"
)
_BETWEEN_NUMBERS = (
    (re.compile(r"(?<=[\d)])\s?[xX]\s?(?=[\d(])"), "*"),
    (re.compile(r"(?<=[\d)])\s?:\s?(?=[\d(])"), "/"),
)


def expression_reaches(text: str, numbers: Sequence[int], target: int) -> bool:
    """Whether an arithmetic expression uses each of the numbers once and has the target as its exact value.

    ``= target`` behind it and ``target =`` before it do not count; ``2(3 + 4)`` is a product.
    """
    sides = text[:1_000].split("=")
    if len(sides) > 1 and sides[0].strip("$ \n") == str(target):
        del sides[0]
    text = arithmetic(sides[0])
    if len(text) > 200 or not re.fullmatch(r"[\d\s+\-*/()]+", text, re.ASCII):
        return False
    used: list[int] = []
    try:
        value = _evaluate(ast.parse(text, mode="eval").body, used)
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return False
    return sorted(used) == sorted(numbers) and value == target


def arithmetic(text: str) -> str:
    """LaTeX's and Unicode's arithmetic as Python writes it."""
    text = divided(one_spelling(without_unicode(text))).replace("{}", "")
    text = _COMMAND.sub(_written, text).replace("\\{", "(").replace("\\}", ")")
    text = " ".join(text.translate(_SIGNS).strip("$` \n.").split())
    for sign, usual in _BETWEEN_NUMBERS:
        text = sign.sub(usual, text)
    return re.sub(r"(?<=[\d)])\s?(?=\()|(?<=\))\s?(?=\d)", "*", text)


def _written(found: re.Match[str]) -> str:
    product, division, over, _ = found.groups()
    return "*" if product else "/" if division else ")/(" if over else " " if len(found[0]) > 1 else ""


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
    return _DRAWN.sub("", ascii_digits(text[:1_000]))


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


# ---------------------------------------------------------------------------------------- algebra

_NAMED = re.compile(
    r"\\(?:operatorname\s?\{\s?)?(?:mathrm\s?\{\s?)?(a(?:rc)?)?(sinh?|cosh?|tanh?|cot|sec|csc|exp|log|ln)(?![A-Za-z])"
)
_ARGUMENT = r"(\([^()]*(?:\([^()]*\)[^()]*)*\)|\d*\s?[A-Za-z](?![A-Za-z]))"
_POWER_OF = re.compile(rf"([a-z]+)\s?\^\s?\(?([2-9])\)?\s?{_ARGUMENT}")
_OF = re.compile(rf"(?<![A-Za-z])([a-z]{{2,5}}) {_ARGUMENT}")
_TOKEN = re.compile(r"\s*([A-Za-z]+|\d+(?:\.\d+)?|\.\d+|\*\*|[-+*/()^])")
_LONG = 1_000


def algebra(text: str) -> str:
    r"""LaTeX's algebra as Python writes it: ``3x^2\sin(x)`` as ``3*x**2*sin(x)``; empty where it is none."""
    if len(text) > _LONG:
        return ""
    text = divided(one_spelling(without_unicode(text)))
    text = _NAMED.sub(lambda found: f" {'a' if found[1] else ''}{found[2].replace('ln', 'log')} ", text)
    text = text.replace("\\sqrt", " sqrt ").replace("{}", "").replace("\\pi", " pi ")
    text = _COMMAND.sub(_written, text).translate(_SIGNS).strip("$` \n.")
    text = re.sub(r"(?<![A-Za-z])e\s?\^\s?([A-Za-z\d])", r"e^(\1)", text)
    text = re.sub(r"(?<![A-Za-z])e\s?\^\s?\(", " exp (", text)
    text = " ".join(text.split())
    text = _POWER_OF.sub(lambda f: f"({f[1]}({f[3].strip('() ')}))**{f[2]}" if f[1] in _FUNCTIONS else f[0], text)
    text = _OF.sub(lambda f: f"{f[1]}({_within(f[2])})" if f[1] in _FUNCTIONS else f[0], text)
    return _multiplied(text)


def _within(argument: str) -> str:
    return argument[1:-1] if argument.startswith("(") else argument


def _multiplied(text: str) -> str:
    """An expression with all its products written out; empty where it is none."""
    written: list[str] = []
    at, ended = 0, False
    while at < len(text):
        token = _TOKEN.match(text, at)
        if not token:
            return ""
        at, word = token.end(), token[1]
        called = word in _FUNCTIONS and text[at : at + 1] == "("
        if word in _FUNCTIONS and not called:
            return ""
        names = [word] if called or word == "pi" or not word[0].isalpha() else list(word)
        for name in names:
            if ended and (name[0].isalnum() or name[0] in ".("):
                written.append("*")
            written.append("**" if name == "^" else name)
            ended = not called and (name[0].isalnum() or name[0] in ".)")
    return "".join(written)
