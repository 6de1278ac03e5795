"""Numbers, mathematics and expressions in many spellings, each with what a careful reader makes of it."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from dllm_env.errors import UsageError
from dllm_env.grading import expressions, latex, mathematics, numbers, plain
from dllm_env.tasks.base import Problem
from dllm_env.tasks.benchmarks import GSM8K

DATA = Path(__file__).parent / "data"


def lines(name: str) -> list[Any]:
    return [json.loads(line) for line in (DATA / name).read_text("utf-8").splitlines()]


@pytest.mark.parametrize(("text", "value"), lines("numbers.jsonl"))
def test_the_number_that_a_response_states(text: str, value: str | None) -> None:
    assert numbers.final_number(text) == (None if value is None else Fraction(value))


@pytest.mark.parametrize(("expected", "response", "same"), lines("mathematics.jsonl"))
def test_mathematics_that_is_the_same_and_that_is_not(expected: str, response: str, same: bool) -> None:
    pytest.importorskip("math_verify")
    assert mathematics.same_mathematics(expected, response) is same


@pytest.mark.parametrize(("text", "given", "target", "reached"), lines("expressions.jsonl"))
def test_expressions_in_latex_and_unicode(text: str, given: list[int], target: int, reached: bool) -> None:
    assert expressions.expression_reaches(text, given, target) is reached


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (r"\frac12", r"\frac{1}{2}"),
        (r"\dfrac{1}2", r"\frac{1}{2}"),
        (r"\tfrac1{2}x", r"\frac{1}{2}x"),
        (r"\cfrac 1 2", r"\frac{1}{2}"),
        (r"\frac\pi2", r"\frac{\pi}{2}"),
        (r"\sqrt\frac12", r"\sqrt{\frac{1}{2}}"),
        (r"\frac{\sqrt3}2", r"\frac{\sqrt{3}}{2}"),
        (r"\frac\sqrt3\sqrt2", r"\frac{\sqrt{3}}{\sqrt{2}}"),
        (r"\sqrt[3]7", r"\sqrt[3]{7}"),
        (r"\dbinom52", r"\binom{5}{2}"),
        (r"\left( \frac{1}{2}, 3 \right]", r"( \frac{1}{2}, 3 ]"),
        (r"\leftarrow", r"\leftarrow"),
        (r"1{,}000", "1,000"),
        (r"\frac{1}", r"\frac{1}"),
        (r"\frac", r"\frac"),
        (r"\sqrt", r"\sqrt"),
        (r"\fraction12", r"\fraction12"),
    ],
)
def test_one_spelling(text: str, written: str) -> None:
    assert latex.one_spelling(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        *(
            ("½", r"\frac{1}{2}"),
            ("2¾", r"2\frac{3}{4}"),
            ("x²", "x^{2}"),
            ("10⁻³", "10^{-3}"),
            ("52₁₆", "52_{16}"),
        ),
        *(("45°", r"45^{\circ}"), ("−5", "-5"), ("١٨", "18"), ("é", "é"), ("a", "a")),
    ],
)
def test_without_unicode(text: str, written: str) -> None:
    assert latex.without_unicode(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        *(
            ("a", "a"),
            ("12", "12"),
            (r"\frac{1}{2}", "1/2"),
            (r"\frac{x+1}{2}", "((x+1)/(2))"),
            (r"1{,}035", "1,035"),
        ),
        *(
            (r"230^\circ", "230"),
            (r"\text{a} \to \text{b}", "a → b"),
            (r"3 \times 127", "3 × 127"),
            ("x^{2}", "x^2"),
        ),
        *((r"\begin{pmatrix}1 & 2 \\ 3 & 4\end{pmatrix}", "1 2\n3 4"), (r"\{\"a\": 1\}", r"{\"a\": 1}")),
    ],
)
def test_as_text(text: str, written: str) -> None:
    assert latex.as_text(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("118800z^8 + 3300z^{7}", "118800*z**8+3300*z**(7)"),
        (r"\frac{5x^9}{3} + C", "((5*x**9)/(3))+C"),
        (r"(3x-1)e^{2x}", "(3*x-1)*exp(2*x)"),
        (r"x e^x", "x*exp(x)"),
        (r"\sin^2(x)\cos 3x", "(sin(x))**2*cos(3*x)"),
        (r"\ln x", "log(x)"),
        (r"2\sqrt{x+1}", "2*sqrt(x+1)"),
        ("xy^2", "x*y**2"),
        ("2(x)(y)", "2*(x)*(y)"),
        (r"\int x", ""),
        ("x = 2", ""),
        ("sin", ""),
        ("x" * 1_001, ""),
    ],
)
def test_algebra(text: str, written: str) -> None:
    assert expressions.algebra(text) == written
    assert expressions.is_plain_expression(written)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        *((r"\arcsin x", "asin(x)"), (r"\ln x", "log(x)"), (r"\tan 2x", "tan(2*x)"), ("f (x)", "f*(x)")),
        *((r"\pi r^2", "pi*r**2"), (r"2\pi", "2*pi"), ("pi pi", "pi*pi"), ("$ 3x $.", "3*x"), ("2 .5", "2*.5")),
        *((r"\sin^2 x", "(sin(x))**2"), (r"\cos^{3}(2x)", "(cos(2*x))**3"), ("ab^2 x", "a*b**2*x")),
        *((r"3{}x", "3*x"), (r"2\,x", "2*x"), (r"2\quad x", "2*x"), (r"x \div y", "x/y"), (r"2\times x", "2*x")),
        *(("e^x", "exp(x)"), ("E^x", "E**x"), ("e^(x+1)", "exp(x+1)"), ("ae^x", "a*e**x"), ("(x).5", "(x)*.5")),
        *(("x" * 1_000, "*".join("x" * 1_000)), ("x" * 1_001, ""), (r"\alphabet x", "")),
    ],
)
def test_functions_spaces_and_products_of_algebra(text: str, written: str) -> None:
    assert expressions.algebra(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        *((r"{}3+4", "3+4"), ("`3+4`", "3+4"), (r"$3 \div 4$.", "3 / 4"), (r"2\;(3)", "2*(3)")),
        *((r"6\,/\,2", "6 / 2"), (r"{3\over 4}+1", "(3)/( 4)+1"), (r"\left(1+2\right)3", "(1+2)*3")),
        *((r"2\times3", "2*3"), (r"2\cdot 3", "2* 3"), (r"\timesheet 3", r"\timesheet 3")),
    ],
)
def test_arithmetic_is_written_as_python_does(text: str, written: str) -> None:
    assert expressions.arithmetic(text) == written


@pytest.mark.parametrize(
    ("text", "written"),
    [
        *((r"0.\overline{3}", r"\frac{1}{3}"), (r"0.1\bar6", r"\frac{1}{6}"), (r"0.\dot1\dot8", r"\frac{2}{11}")),
        *(
            ("0.(9)", r"\frac{1}{1}"),
            (r"12.3(45)", r"\frac{679}{55}"),
            ("0.3\u0305", r"\frac{1}{3}"),
            ("0.3", "0.3"),
        ),
        *((r"\overline{AB}", r"\overline{AB}"), ("f(3)", "f(3)"), ("2.(x)", "2.(x)")),
    ],
)
def test_repeating_decimals(text: str, written: str) -> None:
    assert plain.repeating_decimals(text) == written


@pytest.mark.parametrize(
    ("response", "number"),
    [
        *((r"\boxed{3 or 4}. The answer is 7.", None), ("Well #### 3\n#### 8\nSo 9 apples", 8)),
        *(("#### 12\nand 40 more", 12), (r"#### \frac{1}{2} or so", "1/2"), ("#### none\nIt is 6", 6)),
        *(("#### 2. Then we add\nIt is 31", 31), (r"#### \sqrt{16}", None), ("no hashes 5", 5)),
        *(("The answer is:\n45\n\nbecause 3 left", 45), ("The answer is 45\n50 is more", 45), ("", None)),
        *(("The answer is 45. 60 came before.", 45), ("To find the answer is 3 steps. So 8", 8)),
        *((r"\boxed{5, 5}", 5), (r"\boxed{5 or 5}", 5), (r"\boxed{5 or 6} 7", None), (r"\boxed{(3,4)}", None)),
        *((r"\boxed{x=2, y=3} then 9", None), ("The answer is x = 5 = 5", 5), ("The answer is 2 + 3 = 5", 5)),
        *(("The answer is 2 + 3", None), ("The answer is 3, 4, 5", None), ("The answer is - 5", -5)),
        *(("I think 3 or 4, then 9", 9), ("it is 50, or 40 as a sentence", 40), ("we get 3 or 4", None)),
        *((r"It is \log 8 and 3", 3), (r"It is \sqrt{2}\sqrt{8} 4", None), (r"\boxed{4 \sqrt{2}}", None)),
        *((r"so \frac{3}{4}{5} 6", 6), (r"it is \sqrt{16}, that is 4", 4), (r"\sqrt[3]{27} is 3", 3)),
        *(("so it goes from 10 - 5", None), ("so 3 +4", 4), ("12-7", None), ("3x4", None), ("3 · 4", None)),
        *(("He is 6' 2", None), ("2 h 30", None), ("2 h 30 more", 30), ("2 hours and 30 dollars", 30)),
        *(("2 hours 30 minutes", None), ("2 minutes 2 minutes", 2), ("3 dozens and 4", 4), ("1,2,3", 3)),
        *(("between 3 and 4", 4), ("1 to 2", None), ("5:30", None), ("2^{10}", None), ("So {10} {20}", 20)),
        *(("7 " * 300 + "end", 7), ("word " * 200 + "12 " + "word " * 80, 12), ("a" * 600 + " 15 b", 15)),
        *(("9 " + "word " * 110 + "the 12", 12), ("about 5 " + "y" * 600, 5), ("12" + "3" * 600, None)),
        *(("The answer is 3 " + "w " * 600 + "= 4", 3), (r"\boxed{7 " + "x" * 1_000 + "}", None)),
    ],
)
def test_numbers_that_responses_state(response: str, number: int | str | None) -> None:
    assert numbers.final_number(response) == (None if number is None else Fraction(number))


@pytest.mark.parametrize(
    ("text", "number"),
    [("5 apples", 5), ("- 5", -5), ("4 = 4", 4), ("x + 3", None), ("5, 6", None), ("5 5", 5), ("2 dozen", 24)],
)
def test_what_a_text_states(text: str, number: int | None) -> None:
    assert numbers.stated(text) == number


def test_dozens_may_be_what_is_counted() -> None:
    def score(question: str, answer: str, response: str) -> float:
        task = GSM8K()
        row = {"question": question, "answer": f"So.\n#### {answer}"}
        return task.score(Problem("gsm8k", "test", 0, 0, task.prompt(row), task.answer(row)), response)

    assert score("How many dozen eggs does she need?", "3", "She needs \\boxed{3 dozen}.") == 1.0
    assert score("How many eggs does she need?", "36", "She needs \\boxed{3 dozen}.") == 1.0
    assert score("How many eggs does she need?", "3", "She needs \\boxed{3 dozen}.") == 0.0
    assert score("How much does it cost?", "$9", "\\boxed{9}") == score("How much?", "1,000", "\\$1000") == 1.0
    with pytest.raises(UsageError, match="ends in no number"):
        score("How much does it cost?", "nothing", "\\boxed{9}")
