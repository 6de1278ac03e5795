"""Programs that try to do harm, run for real. A program passes only where its harm was done."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dllm_env.grading import processes
from dllm_env.grading import sandbox_child as sandboxed
from dllm_env.grading.processes import SandboxWarning
from dllm_env.grading.sandbox import PROBE, Bare, Bubblewrap, Limits, Sandbox, _read, run

QUICK = Limits(seconds=1, wall_seconds=2.5)
# Other users have to be able to read Python's library, which they cannot where it is in root's home.
BARES = [
    bare
    for bare in (Bare(), Bare("/usr/bin/python3"))
    if Path(bare.python).exists() and run(PROBE, sandbox=bare).passed
]
LIMITED = pytest.mark.skipif(not BARES, reason="no Python that other users can read")
APART = pytest.mark.skipif(
    not (shutil.which("bwrap") and run(PROBE, sandbox=Bubblewrap()).passed), reason="bubblewrap does not work here"
)
ANY = [pytest.param(next(iter(BARES), Bare()), marks=LIMITED), pytest.param(Bubblewrap(), marks=APART)]


@pytest.fixture(params=ANY, ids=["limits", "bubblewrap"])
def sandbox(request: pytest.FixtureRequest) -> Sandbox:
    return request.param  # type: ignore[no-any-return]


EXHAUSTION = {
    "endless loop": "while True: pass",
    "endless loop that ignores signals": (
        "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except OSError: pass\nwhile True: pass"
    ),
    "sleep": "import time; time.sleep(100)",
    "ten gigabytes at once": "x = bytearray(10 * 2**30)",
    "ten gigabytes bit by bit": "x = []\nfor _ in range(10 * 1024): x.append(bytearray(2**20))",
    "fork bomb": "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass",
    "more processes than allowed": (
        "import os, time\nfor _ in range(40):\n    if os.fork() == 0:\n        time.sleep(2)\n        os._exit(0)"
    ),
    "more threads than allowed": (
        "import threading, time\n"
        "for _ in range(40): threading.Thread(target=time.sleep, args=(2,), daemon=True).start()"
    ),
    "endless output": "while True: print('x' * 1000)",
    "a large file": "open('large', 'wb').write(b'0' * 2**28)",
    "recursion": "f = lambda n: f(n + 1) + 1\nf(0)",
    "a power tower": "9 ** 9 ** 9 ** 9",
    "raised limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "a child that outlives it": (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    while True: time.sleep(1)\nassert 0"
    ),
}
LEAVING = {
    "exit": "raise SystemExit(0)",
    "exit at once": "import os; os._exit(0)",
    "killed by itself": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "crash": "import ctypes; ctypes.string_at(0)",
    "closed output": "import os; os.close(1); os.close(2)",
    "replaced by another program": "import os; os.execv('/bin/true', ['true'])",
    "wrong": "assert 1 == 2",
    "no Python": "def",
    "null bytes": "x = '\0'",
    "reads what the sandbox was given": "import os\nos.lseek(0, 0, 0)\nassert os.read(0, 100)",
    "exit with a status of success": "import sys; sys.exit(0)",
    "the builtin exit": "try:\n    exit()\nexcept Exception:\n    pass",
    "leaves in an exit handler": "import atexit, os; atexit.register(os._exit, 0)",
    "a fork that speaks for it": "import os\nif os.fork():\n    os.wait()\n    os._exit(1)",
    "an exception of no ordinary kind": "raise GeneratorExit",
    "an own hook for exceptions": "import sys; sys.excepthook = lambda *_: None; 1 / 0",
}


AS_A_FILE = {
    "annotations are evaluated": (
        "import dataclasses\n@dataclasses.dataclass\nclass A:\n    x: int\n"
        "assert dataclasses.fields(A)[0].type is int"
    ),
    "a future import of its own": (
        "'words'\nfrom __future__ import annotations\ndef f(x: Undefined): pass\n"
        "assert __doc__ == 'words' and f.__annotations__ == {'x': 'Undefined'}"
    ),
    "what it compiles has no flags either": (
        "try:\n    exec('def f(x: Undefined): pass')\nexcept NameError:\n    fine = True\nassert fine"
    ),
    "it is the main module": (
        "import sys\nassert vars(sys.modules['__main__']) is globals()\n"
        "if __name__ == '__main__':\n    ran = True\nassert ran"
    ),
    "its classes can be pickled": "import pickle\nclass A: pass\nassert type(pickle.loads(pickle.dumps(A()))) is A",
    "type hints by name": (
        "import typing\nclass A:\n    x: 'B'\nclass B: pass\nassert typing.get_type_hints(A) == {'x': B}"
    ),
    "its source can be read": (
        "import inspect\ndef f():\n    return 1\nassert inspect.getsource(f) == 'def f():\\n    return 1\\n'"
    ),
    "files beside it are modules": "open('other.py', 'w').write('x = 3')\nimport other\nassert other.x == 3",
    "its own name is a module": "import program\nassert program.__name__ == 'program'",
    "Windows line ends": "x = '''a\r\nb'''\r\nassert x == 'a\\nb'\r\n",
    "output goes elsewhere": "import io, sys\nsys.stdout = io.StringIO()\nprint('x')",
    "recursion": "def f(n): return n and 1 + f(n - 1)\nassert f(990) == 990",
    "nothing below": "import inspect\nassert len(inspect.stack()) <= 2",
    "only what Python loads is loaded": (
        "import sys\nassert not {'atexit', 'ctypes', 'json', 'resource', 'struct', 'types'} & {*sys.modules}"
    ),
    "what the sandbox needs can be imported": (
        "import ctypes, resource, struct\nassert ctypes.CDLL(None).getpid() > 0\n"
        "assert ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)(lambda x: x + 1)(3) == 4"
    ),
    "processes of both kinds": (
        "import multiprocessing\ndef f(): print('here')\nif __name__ == '__main__':\n"
        "    for way in ('fork', 'spawn'):\n        p = multiprocessing.get_context(way).Process(target=f)\n"
        "        p.start()\n        p.join()\n        assert p.exitcode == 0"
    ),
    "no input": "import sys\nassert sys.stdin.read() == ''",
}
NOT_IN_A_FILE = {
    "an annotation that is not defined": "def f(x: Undefined): pass",
    "a future import too late": "x = 1\nfrom __future__ import annotations",
    "an encoding that does not exist": "# -*- coding: nonsense -*-",
    **{f"the name {name}": name for name in ("os", "sys", "json", "ctypes", "annotations", "limit", "SOURCE")},
}


@pytest.mark.parametrize("name", AS_A_FILE)
def test_a_program_runs_as_python_runs_a_file(name: str, sandbox: Sandbox) -> None:
    verdict = run(AS_A_FILE[name], sandbox=sandbox)
    assert verdict.passed, verdict.output


@pytest.mark.parametrize("name", NOT_IN_A_FILE)
def test_what_python_refuses_in_a_file_fails(name: str, sandbox: Sandbox) -> None:
    assert not run(NOT_IN_A_FILE[name], sandbox=sandbox).passed


FACTS = """\
import sys
import os
assert sys.path[0] == os.path.dirname(__file__) == os.getcwd()
print(sys.argv, sys.orig_argv[-1:], os.path.basename(__file__), sorted(globals()), sys.getrecursionlimit())
print(__name__, __doc__, __package__, __spec__, type(__builtins__), type(__loader__), os.open("/dev/null", 0))
print(*(hasattr(__builtins__, name) for name in ("exit", "quit", "help", "copyright", "credits", "license")))
def fails():
    assert 1 == 2, "wrong"
fails()
"""


def test_what_a_program_finds_is_what_python_gives_a_file(tmp_path: Path, sandbox: Sandbox) -> None:
    """Also what is said of a failure."""
    (tmp_path / "program.py").write_text(FACTS)
    command = [sandbox.python, "-E", "-s", "-B", "program.py"]
    real = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
    found = run(FACTS, sandbox=sandbox).output
    assert real.count("\n") > 6
    folder = re.compile(r'"/\S*/program')
    assert folder.sub('"program', found) == folder.sub('"program', real.strip())


def test_exit_handlers_and_threads_come_before_the_end(sandbox: Sandbox) -> None:
    program = (
        "import atexit, threading, time\natexit.register(print, 'handler')\n"
        "threading.Thread(target=lambda: (time.sleep(0.2), print('thread'))).start()\nprint('program')"
    )
    verdict = run(program, sandbox=sandbox)
    assert verdict.passed
    assert verdict.output.split() == ["program", "thread", "handler"]


@pytest.mark.parametrize("name", EXHAUSTION | LEAVING)
def test_what_uses_up_or_leaves_early_fails(name: str, sandbox: Sandbox) -> None:
    began = time.monotonic()
    verdict = run((EXHAUSTION | LEAVING)[name], QUICK, sandbox)
    assert not verdict.passed, verdict
    assert len(verdict.output) <= QUICK.output
    assert time.monotonic() - began < 60
    assert run(PROBE, sandbox=sandbox).passed


@APART
def test_cannot_write_outside(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    victim.chmod(0o666)
    tmp_path.chmod(0o777)
    for target in (str(victim), "/usr/new", "/etc/passwd", "/new", "/dev/shm/new", "/proc/sys/kernel/hostname"):
        assert not run(f"open({target!r}, 'w').write('x')", QUICK, Bubblewrap()).passed, target
    assert not run(f"import os; os.remove({str(victim)!r})", QUICK, Bubblewrap()).passed
    assert victim.read_text() == "mine"
    many = "for i in range(100): open(f'f{i}', 'wb').write(b'0' * 2**20)"
    assert not run(many, QUICK, Bubblewrap()).passed
    assert run("open('small', 'w').write('x'); assert open('small').read() == 'x'", QUICK, Bubblewrap()).passed


@APART
def test_cannot_read_what_is_not_its_own(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key")
    secret.chmod(0o666)
    for target in (str(secret), "/etc/passwd", str(Path(__file__).resolve()), f"/proc/{os.getpid()}/environ"):
        assert not run(f"assert open({target!r}, 'rb').read()", QUICK, Bubblewrap()).passed, target
    assert not run("import os; assert os.listdir('/home') or os.listdir('/var')", QUICK, Bubblewrap()).passed


@APART
def test_cannot_read_installed_packages() -> None:
    """They may be data sets; HumanEval is one."""
    look = (
        "import glob, os, sys\nfound = []\nfor root in ('/usr', '/usr/local', sys.base_prefix):\n"
        "    for path in glob.glob(root + '/lib*/python3*/*-packages'): found += os.listdir(path)\n"
    )
    assert not run(look + "assert found", QUICK, Bubblewrap()).passed
    assert run(look + "assert not found", QUICK, Bubblewrap()).passed
    namespace: dict[str, list[str]] = {}
    exec(look, namespace)
    assert namespace["found"], "nothing is installed beside Python here, so this test says nothing"


def test_does_not_see_the_environment(monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox) -> None:
    monkeypatch.setenv("DLLM_ENV_SECRET", "key")
    program = "import os; assert 'DLLM_ENV_SECRET' in os.environ or 'HOME' in os.environ"
    assert not run(program, QUICK, sandbox).passed


@APART
def test_does_not_see_the_environment_of_others() -> None:
    program = (
        "import glob\nfound = []\nfor path in glob.glob('/proc/[0-9]*/environ'):\n"
        "    try: found.append(open(path).read())\n    except OSError: pass\n"
        "assert any('PYTEST' in text or 'HOME=' in text for text in found)"
    )
    assert not run(program, QUICK, Bubblewrap()).passed


@APART
def test_cannot_reach_the_network() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert not run(
            f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)", QUICK, Bubblewrap()
        ).passed
        server.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody came
            server.accept()
    assert run("import socket; socket.socketpair()", QUICK, Bubblewrap()).passed
    names = "import socket; assert [name for _, name in socket.if_nameindex() if name != 'lo']"
    assert not run(names, QUICK, Bubblewrap()).passed


@APART
def test_cannot_reach_other_processes() -> None:
    kills = [
        f"import os, signal; os.kill({os.getpid()}, signal.SIGTERM)",
        "import os, signal\nfor p in range(2, 70000):\n    try: os.kill(p, 9)\n    except OSError: pass\nassert 0",
        "import os; os.kill(-1, 9)",
        "import os; os.killpg(os.getppid(), 9)",
        "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
    ]
    for program in kills:
        assert not run(program, QUICK, Bubblewrap()).passed, program
    assert run(
        "import os; assert len([p for p in os.listdir('/proc') if p.isdigit()]) <= 3", QUICK, Bubblewrap()
    ).passed


@APART
def test_has_no_rights() -> None:
    for program in (
        "import os; assert os.getuid() == 0",
        "import os; os.setuid(0)",
        "import os; os.chroot('/tmp')",
        "import os; os.mknod('/tmp/device', 0o60666, os.makedev(8, 0))",
        "import subprocess; subprocess.run(['mount', '-t', 'tmpfs', 'none', '/tmp'], check=True)",
        "import ctypes; assert ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0\nopen('/usr/x', 'w')",
    ):
        assert not run(program, QUICK, Bubblewrap()).passed, program


FILTERED = {
    "a namespace with all rights": (
        "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.prctl(4, 1, 0, 0, 0)\nassert libc.unshare(0x10020000) == 0"
    ),
    "the same by clone": (
        "import ctypes, os\nchild = ctypes.CDLL(None).syscall(56, 0x10000011, 0, 0, 0, 0)\n"
        "if child == 0: os._exit(0)\nassert child > 0"
    ),
    "memory that no limit counts": (
        "import os\nfor _ in range(4): os.posix_fallocate(os.memfd_create('x'), 0, 2**20)"
    ),
    "memory that outlives it": "import ctypes; assert ctypes.CDLL(None).shmget(0, 4096, 0o1600) >= 0",
    "a socket": "import socket; socket.socket()",
    "a key of the session": "import ctypes; assert ctypes.CDLL(None).syscall(250, 0, -3, 1) > 0",
    "another's insides": "import ctypes; assert ctypes.CDLL(None).ptrace(0, 0, 0, 0) == 0",
}


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers of these calls are x86_64's")
@pytest.mark.parametrize("name", FILTERED)
def test_system_calls_that_are_refused(
    name: str, sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each does its harm as soon as the filter is away, where nothing else refuses it."""
    assert not run(FILTERED[name], QUICK, sandbox).passed
    assert run(PROBE, QUICK, sandbox).passed
    open_ = tmp_path / "sandboxed.py"
    open_.write_text(Path(sandboxed.__file__).read_text().replace("    refuse_calls()\n", ""))
    monkeypatch.setattr(sandboxed, "__file__", str(open_))
    if not run(FILTERED[name], QUICK, sandbox).passed:
        pytest.skip("this machine refuses it anyway")


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the programs of this test alone have their folders; all users can enter it."""
    folder = Path(tempfile.mkdtemp(prefix="of-a-test-"))
    folder.chmod(0o755)
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    subprocess.run(["rm", "-rf", "--", str(folder)], check=True)


@pytest.mark.filterwarnings("ignore:a program has left so much:UserWarning")
def test_folders_of_any_depth_are_removed(sandbox: Sandbox, place: Path) -> None:
    """Where the disk is slow, some time after."""
    assert run("import os\nfor _ in range(3000): os.mkdir('d'); os.chdir('d')", QUICK, sandbox).passed
    wait_until(lambda: not [*place.iterdir()])


def wait_until(holds: Callable[[], bool]) -> None:
    over = time.monotonic() + 60
    while not holds() and time.monotonic() < over:
        time.sleep(0.05)
    assert holds()


@LIMITED
def test_removing_has_a_limit_goes_on_behind_and_is_told_once(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setattr(processes, "REMOVING_SECONDS", 0.0)
    monkeypatch.setattr(processes, "_told", threading.Event())
    program = "import os\nfor n in range(300): os.makedirs(f'{n}/x')\nos.chmod('0', 0)"
    with pytest.warns(SandboxWarning, match="has left so much in its folder") as said:
        assert all(run(program, QUICK, BARES[0]).passed for _ in range(3))
    assert len(said) == 1
    wait_until(lambda: not [*place.iterdir()])


@LIMITED
def test_ending_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where something starts processes faster than they are found."""
    monkeypatch.setattr(processes, "ENDING_SECONDS", 0.0)
    monkeypatch.setattr(processes, "_told", threading.Event())
    monkeypatch.setattr(processes, "_left", lambda *_: [2**22 + 5])
    with pytest.warns(SandboxWarning, match="faster than they can be ended"):
        assert run(PROBE, sandbox=BARES[0]).passed


def alone(code: str) -> str:
    """What a Python that has the sandbox's functions says."""
    text = Path(sandboxed.__file__).read_text(encoding="utf-8").partition("if __name__")[0]
    ran = subprocess.run([sys.executable, "-c", text + code], stdout=subprocess.PIPE, text=True, check=True)
    return ran.stdout.strip()


LOOKS = (
    "import ctypes\nif os.fork():\n    os.wait()\nelse:\n    {}\n    try:\n"
    "        open(f'/proc/{{os.getppid()}}/mem', 'rb')\n        print('open', flush=True)\n"
    "    except PermissionError: print('shut', flush=True)\n    os._exit(0)"
)


def test_no_process_of_the_same_user_can_be_looked_into() -> None:
    """Where root starts programs each has a user of its own; elsewhere this is what keeps them apart."""
    if alone("import ctypes; print(ctypes.CDLL(None).syscall(444, None, 0, 1) < 2)") == "True":
        pytest.skip("this kernel has no Landlock, or its first version")
    assert alone(LOOKS.format("pass")) == "open"
    assert alone(LOOKS.format("part()")) == "shut"
    moving = "part()\nimport tempfile\nwith tempfile.TemporaryDirectory() as t:\n"
    moving += "    os.mkdir(t + '/a')\n    open(t + '/b', 'w').close()\n    os.rename(t + '/b', t + '/a/b')\n"
    moving += "print('moved')"
    assert alone(moving) == "moved"


def test_the_tests_process_hides() -> None:
    dumpable = "import ctypes\nprint(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    assert alone(dumpable) != "0"
    assert alone("hide()\n" + dumpable) == "0"


def test_nothing_is_left_behind(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even a process that has left its session and closed its output."""
    program = (
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    print(os.getpid(), flush=True)\n"
        "    os.close(1)\n    os.close(2)\n    time.sleep(1000)\ntime.sleep(0.5)\nos._exit(0)"
    )
    marked = tmp_path / "sandboxed.py"  # its text is in the command line of what it runs
    marked.write_text(Path(sandboxed.__file__).read_text() + f"# {tmp_path}")
    monkeypatch.setattr(sandboxed, "__file__", str(marked))
    assert not run(program, QUICK, sandbox).passed
    other = (
        "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', 'import time; time.sleep(77.5)'],"
        "env={}, start_new_session=True, stdin=-3, stdout=-3, stderr=-3)\ntime.sleep(0.5)"
    )
    run(other, QUICK, sandbox)
    traces = (str(tmp_path).encode(), b"time.sleep(77.5)")
    running = [_bytes(path) for path in Path("/proc").glob("[0-9]*/cmdline")]
    found = [command for command in running if any(trace in command for trace in traces[: 1 + (os.getuid() == 0)])]
    assert not found


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_program_gets_what_it_needs(sandbox: Sandbox) -> None:
    program = (
        "import collections, heapq, itertools, json, math, random, re, string, threading\n"
        "worker = threading.Thread(target=print, args=('héllo',))\nworker.start()\nworker.join()\n"
        "assert __name__ == '__main__' and math.comb(5, 2) == 10"
    )
    verdict = run(program, sandbox=sandbox)
    assert verdict.passed
    assert verdict.output == "héllo"


def test_last_words_are_read_however_late_they_come() -> None:
    """A process says something and ends, just after one has waited for its words in vain."""
    reading, writing = os.pipe()

    class Late:
        stdout = os.fdopen(reading, "rb")
        ended = False

        def poll(self) -> int:
            if not self.ended:
                os.write(writing, b"word")
            self.ended = True
            return 0

    late = Late()
    try:
        assert _read(late, QUICK) == (b"word", "")  # type: ignore[arg-type]
    finally:
        late.stdout.close()
        os.close(writing)


def test_programs_beside_one_another_do_not_meet(sandbox: Sandbox) -> None:
    """A fork bomb takes no process from its neighbour: limits are of each program."""
    verdicts: dict[str, bool] = {}

    def play(name: str, program: str) -> None:
        verdicts[name] = run(program, QUICK, sandbox).passed

    gentle = (
        "import os, time\nfor _ in range(3):\n    if os.fork() == 0: os._exit(0)\n"
        "    time.sleep(0.2)\n    os.wait()"
    )
    players = [("bomb", EXHAUSTION["fork bomb"]), ("gentle", gentle)]
    threads = [threading.Thread(target=play, args=player) for player in players]
    for thread in threads:
        thread.start()
        time.sleep(0.3)
    for thread in threads:
        thread.join()
    assert verdicts["bomb"] is False
    if isinstance(sandbox, Bubblewrap) or os.getuid() == 0:
        assert verdicts["gentle"] is True


def test_the_warning_says_what_is_not_covered() -> None:
    assert "network" in Bare.warning
    assert "bubblewrap" in Bare.warning
    assert not Bubblewrap.warning
