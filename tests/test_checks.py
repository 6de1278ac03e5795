"""Tests of programs from a process of their own: what honest programs need of that, and what does not travel."""

from __future__ import annotations

import json
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes import QUICK, sandboxes

from dllm_env.grading import messages
from dllm_env.grading import sandbox as sandboxes_
from dllm_env.grading.checks import Checks, undefined
from dllm_env.grading.sandbox import Limits, Sandbox, run
from dllm_env.tasks.base import Problem
from dllm_env.tasks.load import load_task

SANDBOXES = sandboxes()


@pytest.fixture(params=SANDBOXES, ids=lambda sandbox: sandbox.name)
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return request.param  # type: ignore[no-any-return]


HONEST = {
    "values of every kind": (
        "import math\ndef f(x): return x",
        "import math\n"
        "for x in (1, 10**5000, 0.1, -1.5, 1j, 'é\\ud800', b'\\xff', None, True, [1, (2, {3})], {'a': [1]}):\n"
        "    y = f(x)\n    assert y == x and type(y) is type(x)\n"
        "assert math.isnan(f(math.nan)) and f(math.inf) == math.inf and str(f(-0.0)) == '-0.0'\n"
        "assert f(x=3) == 3 and f(...) is ... and f(range(3)) == range(3)",
    ),
    "results of the library": (
        "from collections import *\nfrom decimal import Decimal\nfrom fractions import Fraction\nimport datetime\n"
        "P = namedtuple('P', 'a b')\ndef f(x):\n"
        "    return [Counter(x), defaultdict(list, {1: [2]}), OrderedDict(a=1), "
        "deque([1], 3), Decimal('1.5'), Fraction(1, 3), datetime.date(2020, 1, 2), P(1, 2), {1: 2}.keys()]",
        "from fractions import Fraction\nfrom datetime import date\n"
        "a, b, c, d, e, g, h, i, j = f('aab')\nassert a == Counter('aab') == {'a': 2, 'b': 1} and b == {1: [2]}\n"
        "assert c == OrderedDict(a=1) and d == deque([1]) and e == 1.5 and g == Fraction(1, 3)\n"
        "assert h == date(2020, 1, 2) and i == (1, 2) and j == {1}",
    ),
    "arguments that are changed": (
        "def f(xs, d=None):\n    xs.sort()\n    xs[0].append(9)\n"
        "    if d is not None: d['new'] = {1}; d.pop('old')\n    return xs",
        "inner = [1]\nxs = [[2], inner]\nd = {'old': 1}\nassert f(xs, d) is xs\n"
        "assert xs == [[1, 9], [2]] and xs[0] is inner and inner == [1, 9] and d == {'new': {1}}\n"
        "same = [[0]]\nassert f(same * 2)[1] == [0, 9] and same[0] == [0, 9]",
    ),
    "functions as arguments": (
        "def f(g, *xs, **named): return [g(x, **named) for x in xs]",
        "k = 3\nassert f(lambda x: x * k, 1, 2) == [3, 6]\nassert f(len, 'a', 'bc') == [1, 2]\n"
        "assert f(int, '5') == [5]\n"
        "assert f(lambda x: f(lambda y: y + 1, x)[0], 1) == [2]\nassert f(lambda x, b: x + b, 1, b=5) == [6]\n"
        "def fails(x): raise ValueError('no')\ntry: f(fails, 1)\n"
        "except RuntimeError as error: assert 'no' in str(error)\n"
        "else: assert 0",
    ),
    "functions as results": (
        "def f(n): return lambda x: x + n",
        "assert f(2)(3) == 5\ng = f(1)\nassert g(1) + g(2) == 5",
    ),
    "iterators": (
        "def f(n):\n    i = 0\n    while n < 0 or i < n:\n        yield i\n        i += 1\n"
        "def g(x): return map(str, x)",
        "from itertools import islice\nassert list(f(3)) == [0, 1, 2] and list(islice(f(-1), 4)) == [0, 1, 2, 3]\n"
        "assert next(f(1)) == 0 and sorted(g([2, 1])) == ['1', '2'] and g([]) != [] and f(2)",
    ),
    "exceptions": (
        "class Mine(KeyError): pass\ndef f(x):\n    if x: raise Mine('k')\n    raise ValueError('none')",
        "for x, kind in ((1, KeyError), (0, ValueError)):\n    try: f(x)\n"
        "    except kind as error: words = str(error)\n"
        "    else: assert 0\nassert words == 'none'",
    ),
    "several functions and names": (
        "LIMIT = 3\ndef f(x): return g(x)\ndef g(x): return x + 1\n",
        "assert f(1) == g(1) == 2\nimport math as m\nassert m.isclose(f(1), sys.maxsize * 0 + 2)",
    ),
    "a name of Python's": ("def sum(a, b): return a * b\nf = 1", "assert sum(3, 5) == 15", "sum"),
    "objects of the program's": (
        "class Node:\n    def __init__(self, x): self.x, self.left = x, None\n"
        "def f(n): return 0 if n is None else n.x + f(n.left)",
        "root = Node(1)\nroot.left = Node(2)\nroot.left.left = Node(3)\n"
        "assert f(root) == 6 and f(root.left) == 5 and f(None) == 0\n"
        "assert f([]) == 0 if False else True",
    ),
    "an object is true or false": (
        "import re\nclass E:\n    def __bool__(self): return False\n"
        "def f(x): return re.match('a', x) if x else E()",
        "assert f('a') and not f('b') and f('b') is None and f('a') is not None and not f('')",
    ),
    "recursion": ("def f(n): return n and 1 + f(n - 1)", "assert f(900) == 900"),
    "words in between": (
        "import sys\nprint('x' * 100)\ndef f(x):\n    print(x)\n    sys.stderr.write('y')\n    return x",
        "assert f(1) == 1",
    ),
    "processes and threads": (
        "import multiprocessing, os, threading\ndef work(q, x): q.put(x + 1)\ndef f(x):\n    found = []\n"
        "    t = threading.Thread(target=lambda: found.append(x))\n    t.start()\n    t.join()\n"
        "    if not os.fork(): os._exit(0)\n"
        "    os.wait()\n    r, w = multiprocessing.Pipe()\n"
        "    p = multiprocessing.Process(target=w.send, args=(found[0],))\n"
        "    p.start()\n    x = r.recv()\n    p.join()\n    return x",
        "assert f(1) == 1 and f(2) == 2",
    ),
    "a function that is handed back": (
        "def f(g): return g\ndef g(x): return x + 1",
        "assert f(g)(1) == 2 and f(f)(5) == 5 and f(lambda x: x * 2)(3) == 6",
    ),
    "a name that a module has": ("def copy(x): return [x]\ndef f(x): return x", "assert copy(f(1)) == [1]"),
    "programs that it starts and leaves": (
        "import os\ndef f(x):\n    os.system('sleep 60 &')\n    return x",
        "assert f(1) == 1",
    ),
    "forks of forks": (
        "import os\ndef f(x):\n    if not os.fork():\n        file = os.open('/dev/null', os.O_RDONLY)\n"
        "        if not os.fork(): os._exit(len(os.read(file, 1)))\n        os._exit(os.wait()[1])\n"
        "    return os.wait()[1]",
        "assert f(1) == 0 and f(1) == 0",
    ),
    "no call at all": ("def f(x): return x", "assert True"),
    "a daemon that lives on": (
        "import os, time\nif not os.fork():\n    time.sleep(60)\n    os._exit(0)\ndef f(x): return x",
        "assert f(1) == 1",
    ),
}


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(name: str, sandbox: Sandbox) -> None:
    program, code, *about = HONEST[name]
    verdict = run(program, QUICK, sandbox, Checks(about[0] if about else "f", code))
    assert verdict.passed, verdict.output


DISHONEST = {
    "wrong": ("def f(x): return x", "assert f(1) == 2"),
    "no call, and a program that fails": ("1 / 0", "assert True"),
    "no call, and a program that leaves": ("raise SystemExit(0)", "assert True"),
    "one object compared with another": (
        "class A:\n    __eq__ = lambda *_: True\ndef f(x): return A()",
        "assert f(1) == A()",
    ),
    "an object's order": (
        "class A:\n    __lt__ = __gt__ = lambda *_: True\ndef f(x): return A()",
        "assert f(1) < 5",
    ),
    "an object that is not equal": ("class A: pass\ndef f(x): return A()", "assert f(1) != 5"),
    "an object in a list": ("class A:\n    __eq__ = lambda *_: True\ndef f(x): return [A()]", "assert f(1) == [1]"),
    "an object that contains": (
        "class A:\n    __contains__ = lambda *_: True\ndef f(x): return A()",
        "assert 5 in f(1)",
    ),
    "an object's length": ("class A:\n    __len__ = lambda _: 5\ndef f(x): return A()", "assert len(f(1)) == 5"),
    "an object's method": (
        "class A:\n    startswith = lambda *_: True\ndef f(x): return A()",
        "assert f(1).startswith('a')",
    ),
    "a failure that the tests would catch": (
        "import unittest.mock\ndef f(x): return unittest.mock.ANY",
        "try: assert f(1) == 5\nexcept BaseException: pass",
    ),
    "StopIteration ends no loop": ("def f(x): raise StopIteration", "assert all(map(f, [1, 2]))"),
    "StopIteration by another name": (
        "class S(StopIteration): pass\ndef f(x): raise S",
        "assert all(map(f, [1, 2]))",
    ),
    "results of a loop that ends early": ("def f(x):\n    yield 1", "assert list(f(1)) == [1, 2]"),
    "tests that loop on what they get": ("def f(x): return 10**12", "assert sum(range(f(1)))"),
    "tests that fill the memory with what they get": ("def f(x): return 10**10", "assert [0] * f(1)"),
    "an argument that contains itself": (
        "def f(x):\n    x.append(x)\n    return x",
        "x = []\nassert f(x) == [[1]]",
    ),
    "an argument that cannot be sent": ("def f(x): return 1", "assert f(object()) == 1"),
    "what the tests do not define": ("def f(x): return 1\ndef expected(): return 1", "assert f(1) == expected"),
    "tests that cannot be read": ("def f(x): return 1", "assert f(1) == "),
    "a program that sleeps": ("import time\ndef f(x): time.sleep(100)", "assert f(1)"),
}


@pytest.mark.parametrize("name", DISHONEST)
def test_what_is_not_right_fails(name: str) -> None:
    program, code = DISHONEST[name]
    verdict = run(program, Limits(seconds=1, wall_seconds=3), SANDBOXES[-1], Checks("f", code))
    assert not verdict.passed, verdict.output
    assert verdict.reason == "timed out" or "sleeps" not in name


def test_too_much_output(sandbox: Sandbox) -> None:
    verdict = run("def f(x):\n    while True: print('x' * 1000)", QUICK, sandbox, Checks("f", "assert f(1)"))
    assert (verdict.passed, verdict.reason) == (False, "too much output")


def test_what_runs_first_runs_on_both_sides(sandbox: Sandbox) -> None:
    """Named tuples are the same for both; other classes are the program's."""
    setup = (
        "import math\nfrom collections import namedtuple\nPair = namedtuple('Pair', 'a b')\nclass Box:\n"
        "    def __init__(self, x):\n"
        "        self.x = x\ndef helper(x):\n    return x + 1"
    )
    program = setup + "\ndef f(p): return Pair(p.b, p.a)\ndef g(box): return box.x\ndef helper(x): return -1"
    code = (
        "assert f(Pair(1, 2)) == Pair(2, 1)\nassert g(Box(5)) == 5\n"
        "assert helper(1) == 2 and math.isclose(g(Box(0.5)), 0.5)"
    )
    verdict = run(program, QUICK, sandbox, Checks("f", code, setup))
    assert verdict.passed, verdict.output


def test_names_that_are_defined_nowhere() -> None:
    code = (
        "import a.b as c, d.e\nfrom f import g\nfor h in i: pass\ndef j(k, *l, m=n): return k\nclass o(p): pass\n"
        "q = [r for r in s]\ntry: pass\nexcept t as u: u\nx = lambda v: v + w\nlen(abs(y.z))"
    )
    assert undefined(code) == set("inpstwy")
    assert undefined("def") == undefined("(" * 9999) == undefined("\0") == set()
    assert undefined("root = Node(1)") == {"Node"}


def test_the_processes_are_two(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    """One more than for a program without tests, and what the tests know is in one of them only."""
    started: list[bytes] = []
    start = sandboxes_.start

    def watched(command: list[str], given: bytes, *others: object) -> object:
        started.append(given + "\n".join(command).encode())
        return start(command, given, *others)  # type: ignore[arg-type]

    monkeypatch.setattr(sandboxes_, "start", watched)
    assert run("def f(x): return x", QUICK, sandbox, Checks("f", "assert f(271828) == 271828")).passed
    assert [b"271828" in given for given in started] == [True, False]


# ------------------------------------------------------------------------------------------ whole data sets


def mbpp(row: dict[str, object]) -> bool:
    """Whether the solution that a row of MBPP has passes."""
    task = load_task("mbpp", os.environ["DLLM_ENV_MBPP"], allow_code_execution=True)
    problem = Problem("mbpp", "test", 0, int(str(row["task_id"])), "", task.answer(row))  # type: ignore[attr-defined]
    return task.score(problem, f"```python\n{row['code']}\n```") == 1.0


def taken(row: dict[str, object]) -> list[str]:
    """What tests need of a solution besides the function that they are about."""
    task = load_task("mbpp", os.environ["DLLM_ENV_MBPP"], allow_code_execution=True)
    problem = Problem("mbpp", "test", 0, 0, "", task.answer(row))  # type: ignore[attr-defined]
    names = messages.parsed(task.checks(problem).text().encode())[0]  # type: ignore[attr-defined]
    return names[1:]  # type: ignore[no-any-return]


@pytest.mark.skipif("DLLM_ENV_MBPP" not in os.environ, reason="DLLM_ENV_MBPP names no mbpp.jsonl")
def test_all_solutions_of_mbpp_pass() -> None:
    rows = [json.loads(line) for line in Path(os.environ["DLLM_ENV_MBPP"]).read_text("utf-8").splitlines()]
    needed = {row["task_id"]: names for row in rows if (names := taken(row))}
    assert needed == {367: ["Node"], 601: ["Pair"], 927: ["Node"]}  # as docs/benchmarks.md says
    with warnings.catch_warnings(), ThreadPoolExecutor(2) as pool:
        warnings.simplefilter("ignore")
        passed = dict(zip((row["task_id"] for row in rows), pool.map(mbpp, rows), strict=True))
    assert not [name for name, right in passed.items() if not right]
    print(f"MBPP: {sum(passed.values())} of {len(rows)}")


def test_solutions_like_the_difficult_ones_of_mbpp(tmp_path: Path) -> None:
    """They build objects before the tests, use a module of the solution's, or redefine a function of Python's."""
    rows = [
        {
            "code": "class Node:\r\n    def __init__(self, x):\r\n        self.x, self.left = x, None\r\n"
            "def height(n):\r\n    return 0 if n is None else 1 + height(n.left)",
            "test_setup_code": "root = Node(1) \r\nroot.left = Node(2) \r\nroot.left.left = Node(3) \r\n"
            "other = Node(4);  \r\n",
            "test_list": [
                "assert (height(root)) == 3",
                "assert height(other) == 1",
                "assert height(root.left) == 2",
            ],
        },
        {
            "code": "class Pair(object):\r\n    def __init__(self, a, b):\r\n        self.a, self.b = a, b\r\n"
            "def longest(pairs, n):\r\n    return max(p.b - p.a for p in pairs[:n])",
            "test_list": ["assert longest([Pair(5, 24), Pair(15, 25)], 2) == 19"],
        },
        {
            "code": "import sys\r\ndef size(t):\r\n    return str(sys.getsizeof(t)) and sys.getsizeof(t)",
            "test_list": ["assert size(('A', 1)) == sys.getsizeof(('A', 1))"],
        },
        {
            "code": "def last(n):\r\n    return n[-1]\r\ndef sort_last(t):\r\n    return sorted(t, key=last)",
            "test_list": ["assert sort_last([(1, 3), (2, 1)]) == [(2, 1), (1, 3)]"],
        },
        {"code": "def sum(a, b):\r\n    return a - b", "test_list": ["assert sum(10, 4) == 6"]},
        {
            "code": "def sort(t):\r\n    t.sort()\r\n    return t",
            "test_list": ["assert sort([(2, 1), (1, 2)]) == [(1, 2), (2, 1)]"],
        },
        {
            "code": "def keep(t, kind):\r\n    return [x for x in t if not isinstance(x, kind)]",
            "test_list": ["assert keep((1, 'a'), str) == [1]"],
        },
    ]
    path = tmp_path / "mbpp_test.jsonl"
    path.write_text("".join(json.dumps({"text": str(n), **row}) + "\n" for n, row in enumerate(rows)))
    task = load_task("mbpp", str(path), allow_code_execution=True)
    for number in range(len(rows)):
        problem = task.problem(number, "test")
        row = rows[int(problem.prompt.split(" task: ")[1][0])]
        assert task.score(problem, f"```python\n{row['code']}\n```") == 1.0, row
        others = f"{row['code']}\nheight = longest = size = sum = sort = keep = sort_last = print"
        assert task.score(problem, f"```python\n{others}\n```") == 0.0
