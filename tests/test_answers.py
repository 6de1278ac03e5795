"""Answers and programs out of responses, and the judge that is asked about them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
from patience import least_seconds

from dllm_env.errors import UsageError
from dllm_env.grading import answers, expressions, latex, mathematics, numbers, plain, programs
from dllm_env.grading import limited as judge
from dllm_env.grading.limited import Judge, ask

# ------------------------------------------------------------------------------------ where it stands


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"\boxed{5}", "5"),
        (r"\boxed{ 5 }", "5"),
        (r"\boxed {5}", "5"),
        (r"\fbox{5}", "5"),
        (r"\boxed{1} \boxed{2}", "2"),
        (r"\boxed{1} \fbox{2}", "2"),
        (r"\fbox{1} \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\boxed{5}}", "5"),
        (r"\boxed{x = \boxed{5}}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1} \boxed{2", "1"),
        (r"\boxed{1} \boxed{}", "1"),
        (r"\boxed{1} \boxed{  }", "1"),
        (r"$\boxed 5$ and more", "5"),
        (r"$\boxed \frac12$", r"\frac12"),
        ("\\boxed{1\n2}", "1\n2"),
        (r"\boxed{1", None),
        (r"\boxed{\frac{1}{2}", None),
        (r"\boxed{}", None),
        (r"\boxed", None),
        (r"\boxed 5", None),
        (r"boxed{5}", None),
        (r"{ \boxed{5}", "5"),
        (r"} \boxed{5} }", "5"),
        ("", None),
        (r"\boxed{5}" + " " * answers.LONGEST, None),
    ],
)
def test_boxed(text: str, content: str | None) -> None:
    assert answers.boxed(text) == content


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("<answer>5</answer>", "5"),
        ("<answer>\n5 \n</answer>", "5"),
        ("<answer>1</answer><answer>2</answer>", "2"),
        ("<answer>1</answer><answer>2", "1"),
        ("<answer></answer>", ""),
        ("<answer>5", None),
        ("5</answer>", None),
        ("</answer>5<answer>", None),
        ("", None),
    ],
)
def test_tagged(text: str, content: str | None) -> None:
    assert answers.tagged(text) == content


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r"<answer>1</answer> \boxed{2}", "2"),
        (r"\boxed{1} <answer>2</answer>", "1"),
        (r"<answer>1</answer> \boxed{2", "1"),
        ("12", None),
        (r"\boxed{\text{yes}}", "yes"),
        (r"\boxed{\textbf{$\mathrm{yes}$}}", "yes"),
        (r"\boxed{\text{a} \text{b}}", r"\text{a} \text{b}"),
        (r"\boxed{\text{a} b}", r"\text{a} b"),
        (r"\boxed{\sqrt{2}}", r"\sqrt{2}"),
        (r"\boxed{$x$}", "x"),
        (r"\boxed{$x$ and $y$}", "$x$ and $y$"),
        (r"\boxed{\$5}", r"\$5"),
        (r"\boxed{$}", "$"),
        (r"\boxed{\(x\)}", "x"),
        ("<answer>`x`</answer>", "x"),
        (r"\boxed{−１２}", "-12"),
        (r"\boxed{x²}", "x²"),
    ],
)
def test_final(text: str, content: str | None) -> None:
    assert answers.final(text) == content


# -------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("18", 18), (" 18 ", 18), ("18.", 18), ("18,", 18), ("18.0", 18), ("018", 18), ("+18", 18), ("-18", -18)),
        *(("1,234", 1234), ("1,234.5", 1234.5), ("1,234,567", 1234567), ("12,34,567", 1234567), ("-1,234", -1234)),
        *(
            ("12,5", 12.5),
            ("12,50", 12.5),
            ("0,5", 0.5),
            (".5", 0.5),
            ("3/4", 0.75),
            ("-6/8", -0.75),
            ("7e4", 70000),
        ),
        *(("1,2,3", None), ("1,2345", None), ("12,", 12), ("1/0", None), ("", None), (" ", None), ("-", None)),
        *(
            ("x", None),
            ("1 2", None),
            ("1.2.3", None),
            ("1_000", None),
            ("1e999", None),
            ("inf", None),
            ("nan", None),
        ),
        *(("7" * 100, int("7" * 100)), ("7" * 101, None)),
    ],
)
def test_number(text: str, value: float | None) -> None:
    assert plain.number(text) == (None if value is None else Fraction(value))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("no number", None),
        ("5 and 7", 7),
        ("5, 7", 7),
        ("5,7,9", 9),
        (r"\boxed{5} and 7", 5),
        (r"<answer>5</answer> and 7", 5),
        ("#### 5\nand 7", 5),
        ("The answer is 5.\nand 7", 5),
        ("The answer is 5. And 7.", 5),
        ("The answer is 5.5. And 7.", 5.5),
        ("The answer, as we know by now, is 5, not 7", 5),
        ("the answer is 5; no, the answer is 6, not 7", 6),
        ("answers 5 is 7", 7),
        ("answer\nis 5, 7", 7),
        ("The answer is 5, or 7", None),
        ("The answer is 2 + 3, which makes 5. I took 1 step.", 5),
        (r"\boxed{none} The answer is 5 and has 1 digit", 5),
        (r"\boxed{5, or 7} The answer is 5", None),
        ("#### 5 or 7\nThe answer is 5", None),
        (r"\boxed{none} #### 5", 5),
        (r"\boxed{5 = x}", 5),
        (r"\boxed{x = 2 + 3 = 5}", 5),
        (r"\boxed{\approx 5}", 5),
        (r"\boxed{2 + 3}", None),
        (r"\boxed{2 \cdot 3}", None),
        (r"\boxed{5 \text{ or } 5}", 5),
        (r"\boxed{5 \text{ apples or } 6 \text{ pears}}", None),
        (r"\boxed{5 \text{ for } 6 \text{ pears}}", 5),
        (r"\boxed{2^3}", None),
        (r"\boxed{7:30}", None),
        (r"\boxed{-\frac{36}{2}}", -18),
        (r"\boxed{2\frac{1}{2}}", 2.5),
        (r"\boxed{2 1/2}", 2.5),
        (r"\boxed{\frac{1}{0}}", None),
        (r"\boxed{1.5 \times 10^{3}}", 1500),
        (r"\boxed{2 \times 10}", None),
        ("1 234 567", 1234567),
        ("in 2019 350 people", 350),
        ("12 34 567", 34567),
        ("2**3 is 8", 8),
        ("**8**", 8),
        ("x=-8", -8),
        ("(-8)", -8),
        ("10-8", None),
        ("10 -8", -8),
        ("room-8", 8),
        ("1/2", 0.5),
    ],
)
def test_final_number(text: str, value: float | None) -> None:
    assert numbers.final_number(text) == (None if value is None else Fraction(value))


# -------------------------------------------------------------------------- mathematics and expressions


@pytest.mark.parametrize(
    ("expected", "response", "same"),
    [
        (r"\frac{1}{2}", r"\boxed{0.5}", True),
        (r"\frac{1}{2}", r"\boxed{0.4}", False),
        ("x", r"\boxed{x}", True),
        ("1,2", r"$\boxed{1}$, $\boxed{2}$", True),
        ("1,2", r"\boxed{2} \text{ and } \boxed{1}", True),
        ("2", r"\boxed{2} and \boxed{2}", True),
        ("2", r"\boxed{1} and \boxed{2}", False),
        ("2", r"\boxed{1}. So \boxed{2}", True),
        ("2", r"$\boxed 2$ of 3", True),
        ("12345", r"\boxed{12\,345}", True),
        ("-3", r"\boxed{−3}", True),
        ("30^\\circ", r"\boxed{30°}", True),
        ("(1,2)", r"\boxed{\bigl(1,2\bigr)}", True),
        ("5", "It is 5.", True),
        ("5", "", False),
        ("5", r"\boxed{" + "5" * 1_001 + "}", False),
        ("5", "5" + " " * 1_001, False),
    ],
)
def test_same_mathematics(expected: str, response: str, same: bool) -> None:
    pytest.importorskip("math_verify")
    assert mathematics.same_mathematics(expected, response) is same


@pytest.mark.parametrize(
    ("text", "numbers", "target", "reached"),
    [
        ("1 + 2", [1, 2], 3, True),
        ("2 + 1", [1, 2], 3, True),
        ("1 + 1", [1, 1], 2, True),
        ("1 + 1", [1, 2], 2, False),
        ("2 - 1", [1, 2], 1, True),
        ("-1 + 2", [1, 2], 1, True),
        ("1 - 2", [1, 2], -1, True),
        ("4 / 2", [2, 4], 2, True),
        ("1 / 3 * 3", [1, 3, 3], 1, True),
        ("6 / \\frac{3}{4}", [6, 3, 4], 8, True),
        ("\\frac{1 + 2}{\\frac{3}{4}}", [1, 2, 3, 4], 4, True),
        ("\\frac12", [1, 2], 1, False),
        ("2\n * 3", [2, 3], 6, True),
        ("$2 * 3$.", [2, 3], 6, True),
        ("2(3)", [2, 3], 6, True),
        ("(2)(3)", [2, 3], 6, True),
        ("(2) 3", [2, 3], 6, True),
        ("2 3", [2, 3], 6, False),
        ("23", [2, 3], 23, False),
        ("6 = 2 * 3", [2, 3], 6, True),
        ("2 * 3 = 6", [2, 3], 6, True),
        ("7 = 2 * 3", [2, 3], 6, False),
        ("2 * 3 == 6", [2, 3], 6, True),
        ("= 6", [2, 3], 6, False),
        ("6 = 6", [6], 6, True),
        ("2 ** 3", [2, 3], 8, False),
        ("2 ^ 3", [2, 3], 8, False),
        ("7 // 3", [7, 3], 2, False),
        ("7 % 3", [7, 3], 1, False),
        ("1 / (2 - 2)", [1, 2, 2], 1, False),
        ("2.0 * 3", [2, 3], 6, False),
        ("02 * 3", [2, 3], 6, False),
        ("2j * 3", [2, 3], 6, False),
        ("True + 1", [1, 1], 2, False),
        ("2 * 3, 6", [2, 3], 6, False),
        ("2 * 3 # six", [2, 3], 6, False),
        ("(2 * 3", [2, 3], 6, False),
        ("", [], 0, False),
        ("()", [], 0, False),
        ("+2", [2], 2, False),
        ("1" + " + 1" * 100, [1] * 101, 101, False),
    ],
)
def test_expression_reaches(text: str, numbers: list[int], target: int, reached: bool) -> None:
    assert expressions.expression_reaches(text, numbers, target) is reached


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("1234 3412", "12343412"),
        ("[[1, 2], [3, 4]]", "1234"),
        ("1 2 | 3 4\n----+----\n", "1234"),
        ("\\begin{array}{cc|cc} 1 & 2 \\\\ \\hline 3 & 4 \\end{array}", "1234"),
        ("\\begin{pmatrix}1&2\\end{pmatrix}", "12"),
        ("1;2\t3\\,4\r\n", "1234"),
        ("１２", "12"),
        ("1a2.0", "1a2.0"),
        ("", ""),
    ],
)
def test_cells(text: str, left: str) -> None:
    assert expressions.cells(text) == left


PLAIN = [
    *(
        "1 + 2",
        "x",
        "3*x**2 - 1/2",
        "x^2",
        "(1 + 2)*3",
        "sin(x)",
        "sin (x) + C",
        "exp(-x)*cos(2*x)",
        "2.5*x",
        "-.5",
    ),
    *("ABCDE", "1 2\n3 4", "_ Q _\n_ _ Q", "log(x)", "sqrt(2)", "x*(y)", "1e5", "(x)"),
]
NOT_PLAIN = [
    *(
        "__import__('os')",
        "open('x')",
        "open(x)",
        "eval(x)",
        "x.y",
        "(1).real",
        "x . y",
        "().y",
        "x[0]",
        "{1}",
        "'x'",
    ),
    *(
        '"x"',
        "x = 1",
        "x := 1",
        "lambda: 1",
        "x; y",
        "f(x)",
        "f (x)",
        "(f)(x)",
        "sin(x)(y)",
        "_(x)",
        "1, 2",
        "x!",
        "#",
    ),
    *(
        "x\\",
        "`x`",
        "@x",
        "x if y else f'z'",
        "ｅｖａｌ(x)",
        "é",
        "x__y",
        "1.real",
        "1 .real",
        "1" * 1_001,
        "getattr(x, y)",
    ),
]


@pytest.mark.parametrize("text", PLAIN)
def test_plain_expressions(text: str) -> None:
    assert expressions.is_plain_expression(text)


@pytest.mark.parametrize("text", NOT_PLAIN)
def test_other_expressions(text: str) -> None:
    assert not expressions.is_plain_expression(text)


# ------------------------------------------------------------------------------------------- programs

F = "def f(x):\n    return x\n"
G = "def f(y):\n    return y + 1\n"


@pytest.mark.parametrize(
    ("response", "program"),
    [
        (F, F),
        (f"```python\n{F}```", F),
        (f"```\n{F}```", F),
        (f"Words:\n```python\n{F}```\nwords.", F),
        (f"Words: ```python\n{F}```", F),
        (f"```python\n{F}", F),
        (f"{F}```\nwords", F),
        (f"```python\n{F.rstrip()}``` words", F.rstrip()),
        (f"   ```python\n{textwrap.indent(F, '   ')}   ```", F + "   "),
        (f"```java\nclass F {{}}\n```\n```python\n{F}```", F),
        ("```java\nclass F {}\n```", ""),
        (f"```python\n{F}```\n```python\nprint(f(1), 'a long example that defines nothing')\n```", F),
        (f"```python\n{F}```\n```\n{'output ' * 30}\n```", F),
        (f"```python\n{F}```\n```python\n{G}```", G),
        (f"```python\n{F}```\n```python\n{G[:20]}", F),
        (f"```python\n{F}```\n```python\ndef f(x):\n```", F),
        (f"```python\ndef f(x):\n```\n```python\n{F}```", F),
        (f"```python\n{F}```\n```python\ndef g(x): pass\n```", F),
        ("```python\nprint(1)\n```", "print(1)\n"),
        (f"Words.\n{F}\nMore words.", F),
        (f"import math\n{F}", f"import math\n{F}"),
        (f"from math import *\n{F}", f"from math import *\n{F}"),
        (f"from the beginning\n{F}", F),
        (f"LIMIT = 3\n{F}", f"LIMIT = 3\n{F}"),
        (f"{F}\nf(1)\nx = f(2)\nfor i in x:\n    f(i)\nThat is it.", f"{F}\nf(1)\nx = f(2)\nfor i in x:\n    f(i)"),
        (f"Words:\n\n{textwrap.indent(F, '    ')}\nmore words", F),
        (f"{F}\nif __name__ == '__main__':\n    input()\n", f"{F}\n"),
        (f"```python\n{F}\nif __name__ == '__main__':\n    input()\n```", f"{F}\n"),
        ("f = lambda x: x", "f = lambda x: x"),
        ("", ""),
        ("```", ""),
        ("```python\n```", ""),
        ("`f`", "`f`"),
    ],
)
def test_find_program(response: str, program: str) -> None:
    assert programs.find_program(response).rstrip() == program.rstrip()


def test_the_program_with_a_name_is_the_last_that_defines_it() -> None:
    tests = "class Test:\n    def test(self):\n        assert f(1) == 1\n        assert f(2) == 2\n"
    response = f"```python\n{G}```\n```python\n{F}```\n```python\n{tests}```"
    assert programs.find_program(response, "f") == F
    assert programs.find_program(response, "nothing") == tests


GIVEN = 'import math\n\n\ndef helper():\n    return 1\n\n\ndef f(x):\n    """Adds one."""\n'


@pytest.mark.parametrize(
    "response",
    [
        "def f(x):\n    return x + helper()\n",
        "```python\ndef f(x):\n    return x + helper()\n```",
        "    def f(x):\n        return x + helper()\n",
        "async_ = 1\n\ndef f (x):\n    return x + helper()\n".replace("async_", "ONE"),
        "f = lambda x: x + helper()",
        "    return x + helper()\n",
        "return x + helper()",
        "```python\n    return x + helper()\n```",
        "```\nreturn x + helper()\n```",
        "    return x + helper()\n```\nwords",
        "Add one to it.\n\n    return x + helper()\n",
        "    return x + helper()\n\nThis adds one.",
        "y = 0\n    for _ in range(1):\n        y += helper()\n    return x + y",
        "for _ in range(1):\n        x += helper()\n    return x",
        "for _ in range(1):\n    x += helper()\nreturn x",
        "    def g(y):\n        return y + helper()\n    return g(x)\n",
        "    # Add one.\n    return x + math.ceil(0.5)\n",
        GIVEN + "    return x + 1\n",
        f"```python\n{GIVEN}    return x + 1\n```",
        "\r\ndef f(x):\r\n    return x + 1\r\n",
    ],
)
def test_complete(response: str) -> None:
    names: dict[str, Callable[[int], int]] = {}
    exec(programs.complete(GIVEN, response, "f"), names)
    assert names["f"](1) == 2


# --------------------------------------------------------------------------------------- linear in time

UNITS = [
    *(
        "7",
        " ",
        "\n",
        "a",
        "-",
        "$",
        "{",
        "}",
        "(",
        "[",
        "\\",
        "\\boxed{",
        "\\boxed{a}",
        "\\boxed ",
        "`",
        "```",
        "```\n",
    ),
    *(
        "```a",
        "``` ",
        "#### ",
        "1,",
        "1,111,",
        "11,",
        "1.",
        "1 ",
        "1 111 ",
        "111 ",
        "\\frac{",
        "\\frac{1}{2}",
        "1/",
        "=",
    ),
    *(
        "<answer>",
        "</answer>",
        "<answer></answer>",
        "answer ",
        "answer is ",
        "to find the answer: ",
        "\\text{",
        "\\",
    ),
    *(
        "\\left(",
        "def f(",
        "def f():\n",
        "def f\n",
        "class A\n",
        "\t",
        "@a\n",
        "a = lambda",
        "A =",
        "import ",
        "from .",
    ),
    *(
        "a.",
        "a[",
        "a[0]",
        "a(",
        "\r",
        "\u2009",
        "１",
        "−",
        "e9",
        "10^",
        "× 10^9",
        "\\times 10^{",
        "1 1/1 ",
        "~",
        ". ",
    ),
    *(
        "if __name__",
        "\\boxed{1} and ",
        "\\text{ and }",
        "\\begin{array}{c",
        "\\\\",
        "\\,",
        "1\\,111",
        "\udc80",
        "\0",
    ),
]
READERS: dict[str, Callable[[str], object]] = {
    "boxed": answers.boxed,
    "tagged": answers.tagged,
    "final": answers.final,
    "final_number": numbers.final_number,
    "number": plain.number,
    "expression_reaches": lambda text: expressions.expression_reaches(text, [1], 2),
    "cells": expressions.cells,
    "is_plain_expression": expressions.is_plain_expression,
    "find_program": programs.find_program,
    "find_program with a name": lambda text: programs.find_program(text, "f"),
    "complete": lambda text: programs.complete(GIVEN, text, "f"),
    "_boxed_together": lambda text: mathematics._boxed_together(text[-answers.LONGEST :]),
    "usual": lambda text: mathematics.usual(text[:1_000]),
    "_alike": lambda text: mathematics._alike(text[:1_000], text[:1_000]),
    "_bare": lambda text: mathematics._bare(text[-answers.LONGEST :]),
    "as_text": lambda text: latex.as_text(text[-answers.LONGEST :]),
    "arithmetic": lambda text: expressions.arithmetic(text[-answers.LONGEST :]),
    "algebra": expressions.algebra,
    "plain": lambda text: plain.plain(text[:1_000]),
    "stated": numbers.stated,
}


def around(unit: str) -> Iterator[str]:
    """Texts that repeat one thing, between others with which a search begins or fails."""
    body = unit * (answers.LONGEST // len(unit) - 20)
    for before, after in (("1", "x"), ("\\boxed{", "}"), ("```", "`")):
        yield before + body + after
    yield unit * (1_000_000 // len(unit))


@pytest.mark.parametrize("reader", READERS)
def test_reading_takes_no_time(reader: str) -> None:
    """What is quadratic takes seconds for the 20,000 characters that are looked at."""
    for unit in UNITS:
        for text in around(unit):
            taken = least_seconds(partial(READERS[reader], text), 0.25)
            assert taken < 0.5, (unit, len(text), text[:10], text[-10:])


# ------------------------------------------------------------------------------------------- the judge


def even() -> Judge:
    return lambda number: number % 2 == 0


def parity_of(offset: int, log: str) -> Judge:
    """Writes down that it was made."""
    with open(log, "a") as file:
        file.write(f"{offset}\n")
    return lambda number: (number + offset) % 2 == 0


def misbehaving(how: str) -> Judge:
    def recurse(depth: int) -> int:
        return recurse(depth + 1) + 1

    def judge_(*_: object) -> bool:
        hoard: list[object] = []
        while how == "computes for ever":
            pass
        while how == "allocates for ever":
            hoard.append(bytearray(2**26))
        if how == "computes within C":
            return bool(9**9**9)
        if how == "is killed":
            os.kill(os.getpid(), signal.SIGKILL)
        if how == "crashes":
            os.kill(os.getpid(), signal.SIGSEGV)
        if how == "exits":
            raise SystemExit(0)
        if how == "recurses":
            return bool(recurse(0))
        if how == "kills the helper":
            os.kill(os.getppid(), signal.SIGKILL)
        if how == "sleeps":
            time.sleep(3)
        raise ValueError(how)

    return judge_


def loud() -> Judge:
    print("made")

    def judge_(word: str) -> bool:
        print("yes" * 100_000)
        print("no", file=sys.stderr)
        return word == "yes"

    return judge_


def refused(reason: str) -> Judge:
    raise UsageError(reason)


def broken() -> Judge:
    raise ZeroDivisionError("broken")


MISBEHAVIOUR = [
    *("computes for ever", "computes within C", "allocates for ever", "is killed", "crashes"),
    *("exits", "recurses", "raises", "kills the helper"),
]


@pytest.mark.parametrize("how", MISBEHAVIOUR)
def test_a_judge_that_misbehaves_says_no_and_the_next_is_right(how: str) -> None:
    assert ask(even, (), 2)
    began = time.monotonic()
    assert not ask(misbehaving, (how,), "x")
    assert time.monotonic() - began < judge.WALL_SECONDS
    assert ask(even, (), 2)
    assert not ask(even, (), 3)


def test_a_judge_that_sleeps_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask(even, (), 2)
    monkeypatch.setattr(judge, "WALL_SECONDS", 0.3)
    assert not ask(misbehaving, ("sleeps",))
    monkeypatch.undo()
    assert ask(even, (), 2)
    assert not ask(even, (), 3)


def test_a_judge_that_prints_is_not_heard(capfd: pytest.CaptureFixture[str]) -> None:
    assert ask(loud, (), "yes")
    assert not ask(loud, (), "no")
    assert capfd.readouterr() == ("", "")


def test_what_a_maker_raises_arrives() -> None:
    with pytest.raises(UsageError, match="not installed"):
        ask(refused, ("not installed",), 2)
    with pytest.raises(ZeroDivisionError, match="broken"):
        ask(broken, (), 2)
    assert ask(even, (), 2)


def test_a_judge_is_made_once(tmp_path: Path) -> None:
    log = tmp_path / "made"
    for number in range(6):
        assert ask(parity_of, (1, str(log)), number) is (number % 2 == 1)
        assert ask(parity_of, (2, str(log)), number) is (number % 2 == 0)
    assert log.read_text().split() == ["1", "2"]


def test_answers_to_several_threads_do_not_mix() -> None:
    wrong: list[int] = []

    def play(start: int) -> None:
        wrong.extend(n for n in range(start, start + 40) if ask(even, (), n) is not (n % 2 == 0))

    threads = [threading.Thread(target=play, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


class Interrupted(Exception):
    """Stands for Ctrl-C."""


def test_an_interrupted_question_leaves_no_answer_behind() -> None:
    def interrupt(number: int, frame: FrameType | None) -> None:
        raise Interrupted

    assert ask(even, (), 2)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Interrupted):
            ask(misbehaving, ("computes for ever",))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert ask(even, (), 2)
    assert not ask(even, (), 3)


FORKED = """
import os, sys
from dllm_env.grading import limited as judge
from test_answers import even
assert judge.ask(even, (), 2)
child = os.fork()
if not child:
    os._exit(0 if judge.ask(even, (), 2) and not judge.ask(even, (), 3) else 1)
assert os.waitpid(child, 0)[1] == 0
assert judge.ask(even, (), 2) and not judge.ask(even, (), 3)
print(judge._helper.process.pid, flush=True)
os.kill(os.getpid(), {signal}) if {signal} else None
"""


@pytest.mark.parametrize("ended_by", [0, int(signal.SIGKILL)])
def test_a_fork_has_a_helper_of_its_own_and_all_end_with_their_owners(ended_by: int) -> None:
    run = subprocess.run(
        [sys.executable, "-c", FORKED.format(signal=ended_by)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert run.returncode == -ended_by, run.stderr
    over = time.monotonic() + 10
    while is_running(int(run.stdout)):
        assert time.monotonic() < over
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_helper_that_has_ended_is_replaced(tmp_path: Path) -> None:
    assert mathematics.same_mathematics(r"\frac12", r"\boxed{0.5}")
    assert judge._helper is not None
    judge._helper.process.kill()
    judge._helper.process.wait()
    assert mathematics.same_mathematics(r"\frac12", r"\boxed{0.5}")


def test_modules_of_the_working_folder_are_not_taken_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge._stop()
    (tmp_path / "random.py").write_text("raise SystemExit(3)")
    monkeypatch.chdir(tmp_path)
    assert mathematics.same_mathematics(r"\frac12", r"\boxed{0.5}")


def test_a_helper_that_cannot_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    judge._stop()
    monkeypatch.setattr(judge, "_START", "raise SystemExit(3)")
    with pytest.raises(UsageError, match="does not start; it ended with 3"):
        mathematics.same_mathematics(r"\frac12", r"\boxed{0.5}")


def test_an_open_numerator_is_no_error() -> None:
    assert not expressions.expression_reaches(r"{1}\frac{2", [1, 2], 3)
