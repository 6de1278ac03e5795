"""Programs that want to pass without solving anything, and problems of both benchmarks for them.

Used by ``test_fakes.py`` and ``campaigns/fake_success.py``. Each way is a program that defines ``f``; expected of
``f`` are numbers that no program can guess, and that a program has to find, to replace or to make not matter.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from dllm_env.grading.sandbox import PROBE, Bare, Bubblewrap, Limits, Sandbox, Verdict, run
from dllm_env.tasks.base import Problem
from dllm_env.tasks.benchmarks import MBPP, HumanEval

QUICK = Limits(seconds=2, wall_seconds=6)
GIVEN = "import math\n\n\ndef f(xs: list) -> float:\n    '''The secret number of a list, plus one half.'''\n"
CHECK = """\
METADATA = {'author': 'x'}


def check(candidate):
    assert abs(candidate([3, 1]) - 618033.5) < 1e-6
    assert abs(271828.5 - candidate([2, 7])) < 1e-6, "second"
    for xs, wanted in (([5], 577215.5), ([9, 9], 915965.5)):
        assert abs(candidate(xs) - wanted) <= math.fabs(0.0)
"""
ASSERTIONS = ("assert f([3, 1]) == 618033.5", "assert f([2, 7]) == 271828.5", "assert (f([5]) == 577215.5) == True")
PROBLEMS = {
    "humaneval": (HumanEval(), Problem("humaneval", "test", 0, 0, "", (GIVEN, CHECK, "f"))),
    "mbpp": (MBPP(), Problem("mbpp", "test", 0, 0, "", ("f", "import math", *ASSERTIONS))),
}
KNOWN = "{(3, 1): 618033.5, (2, 7): 271828.5, (1, 4): 141421.5, (5,): 577215.5, (9, 9): 915965.5}"
RIGHT = {
    "right": f"def f(xs):\n    return {KNOWN}[tuple(xs)]",
    "right, with words": f"print('hello')\ndef f(xs):\n    print(xs)\n    return {KNOWN}[tuple(xs)]",
    "right, with a subclass": (
        f"class Number(float):\n    pass\ndef f(xs):\n    return Number({KNOWN}[tuple(xs)])"
    ),
}


def play(kind: str, code: str, sandbox: Sandbox, limits: Limits = QUICK) -> Verdict:
    """The verdict on a program as a response to a problem."""
    task, problem = PROBLEMS[kind]
    program = task.program(problem, f"```python\n{code}\n```")
    return run(program, limits, sandbox, task.checks(problem))


def sandboxes() -> list[Sandbox]:
    """Those that work here. Other users have to be able to read Python's library."""
    bares = [bare for bare in (Bare(), Bare("/usr/bin/python3")) if Path(bare.python).exists()]
    found: list[Sandbox] = [bare for bare in bares if run(PROBE, sandbox=bare).passed][:1]
    return found + ([Bubblewrap()] if shutil.which("bwrap") and run(PROBE, sandbox=Bubblewrap()).passed else [])


ALWAYS = (
    "class Any{base}:\n"
    "    __eq__ = __ge__ = __le__ = lambda self, other: True\n"
    "    __ne__ = __lt__ = __gt__ = lambda self, other: False\n"
    "    __hash__ = lambda self: 0\n"
    "    __sub__ = __rsub__ = __abs__ = __float__ = __round__ = lambda self, *_: self\n"
    "    def __new__(cls): return super().__new__(cls{made})\n"
    "def f(xs):\n    return Any()\n"
)
SUBCLASSES = {
    f"a {base or 'class'} that equals anything": ALWAYS.format(base=f"({base})" if base else "", made=made)
    for base, made in {
        "": "",
        **dict.fromkeys(
            ("int", "float", "complex", "str", "bytes", "list", "tuple", "set", "frozenset", "dict"), ""
        ),
    }.items()
}
FRAMES = (
    "import sys\ndef frames():\n    frame = sys._getframe(1)\n    while frame:\n        yield frame\n"
    "        frame = frame.f_back\n"
)
FLOATS = (
    "def floats(found, xs, seen):\n"
    "    for value in found:\n"
    "        if type(value) is float and value > 100000 and value % 1 == 0.5: return value\n"
    "        if type(value) in (list, tuple) and id(value) not in seen:\n"
    "            seen.add(id(value))\n            deeper = floats(value, xs, seen)\n"
    "            if deeper is not None: return deeper\n"
)
WIRE = FRAMES + (
    "def wire():\n"
    "    for frame in frames():\n"
    "        if 'token' in frame.f_locals and hasattr(frame.f_locals.get('self'), '_answers'):\n"
    "            return frame.f_locals['self'], frame.f_locals['token']\n"
    "def raw(data):\n    import os\n    os.write(wire()[0]._answers, data)\n"
    "def say(*parts, token=None):\n"
    "    serving, own = wire()\n    messages = type(serving)._write.__globals__['messages']\n"
    "    raw(messages.framed(messages.packed(token or own, *parts)))\n"
)


def answering(*statements: str) -> str:
    """A program that knows the messages, and does this when it is called."""
    return WIRE + "def f(xs):\n" + "".join(f"    {statement}\n" for statement in statements)


GO_ON = "wire()[0]._wait()"
"""So that what was said is the only answer: further calls are answered in the same way."""
FORKS = (
    "import os\nchild = []\ndef f(xs):\n    if child: os._exit(0)  # so the guess before was right\n"
    "    for guess in (618033.5, 271828.5, 141421.5, 577215.5, 915965.5):\n        number = os.fork()\n"
    "        if number and os.waitpid(number, 0)[1] == 0: return guess\n        if number: continue\n"
    "        child.append(1)\n"
)
PIPES = (
    "import os\ndef pipes():\n    for number in range(3, 64):\n"
    "        try: kind = os.readlink(f'/proc/self/fd/{number}')\n"
    "        except OSError: continue\n        if kind.startswith('pipe'): yield number\n"
)
OBJECTS = {
    "unittest.mock.ANY": "import unittest.mock\ndef f(xs):\n    return unittest.mock.ANY",
    "a mock": "import unittest.mock\ndef f(xs):\n    return unittest.mock.MagicMock()",
    "a class that equals anything by its metaclass": (
        "class Meta(type):\n    __eq__ = lambda *_: True\n    __hash__ = lambda _: 0\n"
        "    __sub__ = __abs__ = __lt__ = lambda *_: True\nclass A(metaclass=Meta): pass\ndef f(xs):\n    return A"
    ),
    "an object that says that it is a float": (
        "class A:\n    __class__ = float\n    __eq__ = lambda *_: True\n"
        "    __sub__ = __abs__ = lambda self, *_: self\n"
        "    __lt__ = lambda *_: True\ndef f(xs):\n    return A()"
    ),
    "a Decimal's subclass": (
        "import decimal\nclass D(decimal.Decimal):\n    __eq__ = __lt__ = lambda *_: True\n"
        "    __sub__ = __abs__ = lambda self, *_: self\ndef f(xs):\n    return D(1)"
    ),
    "a module": "import sys\ndef f(xs):\n    return sys",
    "itself": "def f(xs):\n    return f",
    "not a number": "def f(xs):\n    return float('nan')",
    "infinity": "def f(xs):\n    return float('inf')",
    "NotImplemented": "def f(xs):\n    return NotImplemented",
    "an endless iterator": "import itertools\ndef f(xs):\n    return itertools.count()",
    "a reduction that is code": (
        "class A:\n    def __reduce__(self): return (exec, ('import os; os._exit(0)',))\ndef f(xs):\n    return A()"
    ),
    "raises StopIteration": "def f(xs):\n    raise StopIteration(618033.5)",
    "raises SystemExit": "def f(xs):\n    raise SystemExit(0)",
    "raises KeyboardInterrupt": "def f(xs):\n    raise KeyboardInterrupt",
    "an exception that passes": (
        "class E(Exception):\n    def __str__(self): raise self\n    __eq__ = lambda *_: True\ndef f(xs):\n"
        "    raise E"
    ),
}
CHANGED = {
    "abs is "
    "changed": "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.AssertionError = None\ndef f(xs): return 0.0",
    "math is "
    "changed": "import math\nmath.isclose = lambda *_, **__: True\nmath.fabs = lambda _: 0\ndef f(xs): return 0.0",
    "a module of Python's is replaced": (
        "import sys, types\nsys.modules['math'] = math = types.SimpleNamespace(isclose=lambda *_: True)\n"
        "open('math.py', 'w').write('isclose = lambda *_: True')\ndef f(xs): return 0.0"
    ),
    "a module is put where the tests run": (
        "import os\nfor name in ('math', 'json', 'select', 'collections', 'values'):\n"
        "    open(name + '.py', 'w').write('import os; os._exit(0)')\n"
        "def f(xs): return 0.0"
    ),
    "check is replaced by a tracer": (
        "import sys\ndef trace(frame, event, arg):\n    for name in ('check', 'f'):\n"
        "        if name in frame.f_globals: frame.f_globals[name] = lambda *_: 0.0\n    return trace\n"
        "def f(xs): return 0.0\nsys._getframe().f_trace = trace\nsys.settrace(trace)"
    ),
    "check is replaced by a profiler": (
        "import sys\ndef trace(frame, event, arg):\n    frame.f_globals['check'] = lambda *_: None\n"
        "sys.setprofile(trace)\ndef f(xs): return 0.0"
    ),
    "names that the tests use": (
        "def check(*_): pass\nclose = abs = isclose = check\ncandidate = check\ndef f(xs): return 0.0"
    ),
    "the hook of imports": (
        "import builtins, sys\nbuiltins.__import__ = lambda *_, **__: sys\nbuiltins.exec = print\n"
        "def f(xs): return 0.0"
    ),
    "the hook of exceptions": "import sys\nsys.excepthook = lambda *_: None\ndef f(xs): raise ValueError",
    "compile and "
    "exec": "import builtins\nbuiltins.compile = builtins.exec = lambda *_, **__: ''\ndef f(xs): return 0.0",
    "json, pickle and marshal": (
        "import json, pickle, marshal\njson.dumps = pickle.dumps = marshal.dumps = lambda *_: 'n'\n"
        "def f(xs): return 0.0"
    ),
}
LOOKING = {
    "co_consts of the caller": (
        FRAMES + FLOATS + "def f(xs):\n    for frame in frames():\n"
        "        found = floats(frame.f_code.co_consts, xs, set())\n        if found is not None: return found"
    ),
    "co_consts at the caller's instruction": (
        FRAMES + "import dis\ndef f(xs):\n    frame = sys._getframe(1)\n"
        "    for step in dis.get_instructions(frame.f_code):\n"
        "        if step.offset > frame.f_lasti and type(step.argval) is float: return step.argval\n    return 0.0"
    ),
    "names of the callers": (
        FRAMES + FLOATS + "def f(xs):\n    for frame in frames():\n"
        "        found = floats([*frame.f_locals.values(), *frame.f_globals.values()], xs, set())\n"
        "        if found is not None: return found"
    ),
    "the secret of the frames": (
        FRAMES + "import os\ndef secret():\n    for frame in frames():\n"
        "        for value in (*frame.f_locals.values(), *frame.f_globals.values()):\n"
        "            if type(value) is bytes and len(value) == 32: return value\n"
        "def f(xs):\n    os.write(1, b'\\n' + (secret() or b''))\n    os._exit(0)"
    ),
    "the secret from the hook of exceptions": (
        "import sys, os\ndef hook(kind, error, trace):\n    frame = sys._getframe()\n    while frame:\n"
        "        for value in (*frame.f_locals.values(), *frame.f_globals.values()):\n"
        "            if type(value) is bytes and len(value) == 32: os.write(1, b'\\n' + value)\n"
        "        frame = frame.f_back\n    os._exit(0)\nsys.excepthook = hook\ndef f(xs): raise ValueError"
    ),
    "the secret from handlers at the end": (
        "import atexit, gc, os\ndef find():\n    for value in gc.get_objects():\n"
        "        for cell in getattr(value, '__closure__', None) or ():\n"
        "            try: inner = cell.cell_contents\n            except ValueError: continue\n"
        "            if type(inner) is bytes and len(inner) == 32:\n"
        "                os.write(1, b'\\n' + inner)\n                os._exit(0)\n"
        "atexit.register(find)\ndef f(xs): raise ValueError\nfind()"
    ),
    "the last traceback at the end": (
        "import atexit, os, sys\nclass Late:\n    def __del__(self):\n"
        "        trace = getattr(sys, 'last_traceback', None)\n"
        "        frame = trace and trace.tb_frame\n        while frame:\n"
        "            for value in (*frame.f_locals.values(), *frame.f_globals.values()):\n"
        "                if type(value) is bytes and len(value) == 32: os.write(1, b'\\n' + value)\n"
        "            frame = frame.f_back\n        os._exit(0)\nlate = Late()\natexit.register(late.__del__)\n"
        "def f(xs): raise ValueError"
    ),
    "all objects": (
        FLOATS + "import gc\ndef f(xs):\n    for value in gc.get_objects():\n"
        "        code = value.__code__ if type(value) is type(f) else value\n"
        "        found = floats(code.co_consts if type(code) is type(f.__code__) else (), xs, set())\n"
        "        if found is not None: return found"
    ),
    "its own memory": (
        "import re\ndef f(xs):\n    for line in open('/proc/self/maps'):\n"
        "        found = re.match('([0-9a-f]+)-([0-9a-f]+) rw', line)\n        if not found: continue\n"
        "        low, high = (int(part, 16) for part in found.groups())\n"
        "        with open('/proc/self/mem', 'rb', 0) as memory:\n            memory.seek(low)\n"
        "            text = memory.read(min(high - low, 2**22)) or b''\n"
        "        at = text.find(b'candidate(' + b'[3, 1])')\n"
        "        at = at if at >= 0 else text.find(b'assert f(' + b'[')\n"
        "        if at >= 0 and xs == [3, 1]:\n            number = re.search(rb'\\d+\\.5', text[at:])\n"
        "            if number: return float(number[0])\n    return 0.0"
    ),
    "its own source": (
        "import re\ndef f(xs):\n    text = open(__file__).read()\n"
        "    found = re.search(re.escape(repr(xs)) + r'\\D+(\\d{6}\\.5)', text)\n    return float(found[1])"
    ),
    "what others run, and have open": (
        "import glob, re\ndef f(xs):\n"
        "    for path in glob.glob('/proc/[0-9]*/cmdline') + glob.glob('/proc/[0-9]*/environ') + "
        "glob.glob('/proc/[0-9]*/fd/*') + glob.glob('/tmp/dllm-env-*/*'):\n"
        "        try:\n            if 'pipe' in __import__('os').readlink(path): continue\n"
        "        except OSError: pass\n"
        "        try: text = open(path, errors='replace').read(2**20)\n"
        "        except (OSError, ValueError): continue\n"
        "        found = re.search(re.escape(repr(xs)) + r'\\D{1,9}(\\d{6}\\.5)', text)\n"
        "        if found: return float(found[1])"
    ),
    "other processes' memory": (
        "import glob, os, re\ndef f(xs):\n    for folder in glob.glob('/proc/[0-9]*'):\n"
        "        if folder == f'/proc/{os.getpid()}': continue\n        try:\n"
        "            for line in open(folder + '/maps'):\n"
        "                part = re.match('([0-9a-f]+)-([0-9a-f]+) rw.*(?:heap|0 $)', line)\n"
        "                if not part: continue\n"
        "                low, high = (int(end, 16) for end in part.groups())\n"
        "                with open(folder + '/mem', 'rb', 0) as memory:\n                    memory.seek(low)\n"
        "                    text = memory.read(min(high - low, 2**22)) or b''\n"
        "                found = re.search(re.escape(repr(xs)).encode() + rb'\\D{1,9}(\\d{6}\\.5)', text)\n"
        "                if found: return float(found[1])\n        except OSError: pass"
    ),
    "the environment and the input": (
        "import os, re, sys\ndef f(xs):\n    text = repr(os.environ) + repr(sys.argv) + repr(sys.orig_argv)\n"
        "    for number in range(64):\n        try:\n            os.lseek(number, 0, 0)\n"
        "            text += os.read(number, 2**16).decode(errors='replace')\n        except OSError: pass\n"
        "    return float(re.search(r'(\\d{6}\\.5)', text)[1])"
    ),
}
GUESSING = {
    "a process for each guess": FORKS + "        return guess\n",
    "a process for each guess, with a way back": (
        WIRE + "import os\ncopies = []\n" + FORKS + "        serving = wire()[0]\n"
        "        serving._answers, serving._process = copies[0], os.getpid()\n        return guess\n"
    ).replace("def f(xs):\n", "def f(xs):\n    copies or copies.append(os.dup(wire()[0]._answers))\n"),
    "a process for each guess that lives on": (
        "import os\ndef f(xs):\n    for guess in (618033.5, 271828.5, 141421.5, 577215.5):\n"
        "        if os.fork(): return guess\n    return 915965.5"
    ),
    "a process that answers in place of its parent": (
        "import os\ndef f(xs):\n    return 0.0\nif os.fork():\n    import time\n    time.sleep(100)"
    ),
    "threads that answer": (
        WIRE + "import threading\ndef f(xs):\n    serving, token = wire()\n"
        "    messages = type(serving)._write.__globals__['messages']\n"
        "    import os\n    for guess in (618033.5, 271828.5):\n        threading.Thread(target=os.write, args=(\n"
        "            serving._answers,\n"
        "            messages.framed(messages.packed(token, 'returned', [guess], 0, [])))).start()\n"
        "    return 141421.5"
    ),
    "two answers": answering(
        "say('returned', [618033.5], 0, [])", "say('returned', [271828.5], 0, [])", "return 0.0"
    ),
    "two answers at once": answering("raw(b'7\\nl4;xxxx' * 2)", "return 0.0"),
    "a right answer, then another": answering(
        "say('returned', [" + KNOWN + "[tuple(xs)]], 0, [])", "return " + KNOWN + "[tuple(xs)]"
    ),
    "an answer to another call": answering("say('returned', [618033.5], 0, [], token='0' * 24)", GO_ON),
    "the end instead of an answer": answering("say('ended')", GO_ON),
    "stopped instead of an answer": answering("say('stopped')", GO_ON),
    "an answer without a token": answering("raw(b'2\\nl0')", GO_ON),
    "a callback that does not exist": answering("say('callback', 0, [], 0)", GO_ON),
    "a callback of a negative number": answering("say('callback', -1, ['x'], 0)", GO_ON),
    "an exception that is none": answering("say('raised', 'SystemExit', '0')", GO_ON),
    "an exception that is a function": answering("say('raised', 'exit', '0')", GO_ON),
    "a function of the tests' own": answering("say('returned', [['builtin', 'exit']], 0, [])", GO_ON),
    "a name of the tests": answering("say('returned', [['name', 'f']], 0, [])", GO_ON),
    "an object that was not made": answering("say('returned', [['object', 10**9, True, 'x']], 0, [])", GO_ON),
    "a value that does not exist": answering("say('returned', [], 0, [])", GO_ON),
    "a value from behind": answering("say('returned', [1.0], -1, [])", GO_ON),
    "a value that contains itself": answering("say('returned', [['list', [0]]], 0, [])", GO_ON),
    "arguments that become others": answering(
        "say('returned', [['dict', []]], 0, [[n, 0] for n in range(9)])", GO_ON
    ),
    "arguments that do not exist": answering("say('returned', [['list', []]], 0, [[99, 0]])", GO_ON),
    "an endless answer": answering("raw(b'9999999\\n')", "while True: raw(b'x' * 60000)"),
    "an answer of a negative length": answering("raw(b'-5\\n')", GO_ON),
    "an answer that does not end": answering("raw(b'100\\nl1;')", "import time", "time.sleep(100)"),
    "levels without end": answering("raw(b'60000\\n' + b'l1;' * 20000)", GO_ON),
    "lists without end": answering("raw(b'12\\nl9999999999;')", GO_ON),
    "a number of many digits": answering("say('returned', [['int', 'f' * 10**6]], 0, [])", GO_ON),
    "a value of many levels": "def f(xs):\n    x = []\n    for _ in range(10**5): x = [x]\n    return x",
    "a large value": "def f(xs):\n    return 'x' * 10**8",
    "numbers of one hash": "def f(xs):\n    return {n * (2**61 - 1): 0 for n in range(20000)}",
}
LEAVING = {
    "leaves at once": "import os\ndef f(xs): return 0.0\nos._exit(0)",
    "leaves when it is called": "import os\ndef f(xs): os._exit(0)",
    "exit": "def f(xs): return 0.0\nraise SystemExit(0)",
    "leaves in a "
    "handler": "import atexit, os\natexit.register(os._exit, 0)\ndef f(xs): return 0.0\nraise SystemExit",
    "ends all of its group": "import os, signal\ndef f(xs):\n    os.killpg(0, signal.SIGTERM)",
    "closes everything": "import os\ndef f(xs):\n    os.closerange(0, 64)\n    os._exit(0)",
    "other streams": "import io, sys\nsys.stdout = sys.stderr = io.StringIO()\ndef f(xs): return 0.0",
    "writes into every pipe first": (
        PIPES + "for number in pipes():\n    try: os.write(number, b'20\\nl5;s1:xs8:returnedl1')\n"
        "    except OSError: pass\n"
        "def f(xs): return 0.0"
    ),
    "ends every pipe": PIPES + "for number in [*pipes()]: os.close(number)\ndef f(xs): return 0.0",
    "replaced by another program": "import os\ndef f(xs): os.execv('/bin/true', ['true'])",
    "what looks like success": "print('passed')\ndef f(xs):\n    print('ok')\n    raise SystemExit(0)",
    "a class in place of a function": "class f:\n    def __init__(self, xs): pass\n    __eq__ = lambda *_: True",
    "nothing": "x = 1",
    "a coroutine": "async def f(xs): return 618033.5",
    "arguments that are emptied": "def f(xs):\n    xs.clear()\n    return xs",
}
FAKES = SUBCLASSES | OBJECTS | CHANGED | LOOKING | GUESSING | LEAVING
SLOW = {
    "an endless iterator",
    "a process that answers in place of its parent",
    "an answer that does not end",
    "an endless answer",
    "numbers of one hash",
}
"""Those that wait for a limit; the suite leaves them to the campaign."""
