"""What runs inside a sandbox: limits itself, gives up its rights, then runs the program as ``python`` would.

``sandbox`` hands this file's text to a Python of its own, so it uses nothing but the standard library. On standard
input it gets a line of limits, a line with a secret, a line with the length of the modules that are needed, these,
and the program. The program has passed when it has come to its end, which is when the secret is the last thing that
was said: one that leaves early, with whatever exit status, has not.

Its arguments are a user, and a role: nothing where a program is just run, else the name of a module, followed by
two open files, for requests and for answers. ``served`` answers the calls of tests after the program has run;
``asked`` runs tests in place of a program.

The program is the module ``__main__``, in a file of its own, with nothing of this one in it: names, compiler flags
and imported modules stay here. What this file needs beyond what Python loads anyway is imported where it is used.
"""

import builtins
import os
import site
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# System calls by processor: its name for the kernel, those that are needed by name, those refused. What is refused
# gives memory that no limit counts, namespaces with rights of their own, keys of the session, other processes'
# insides, or parts of the kernel that no program here needs.
CALLS = {
    "x86_64": (
        *(0xC000003E, {"socket": 41, "clone": 56, "keyctl": 250}),
        # shmget semget msgget ptrace mq_open add_key request_key unshare perf_event_open setns process_vm_readv
        # process_vm_writev memfd_create bpf userfaultfd
        (29, 64, 68, 101, 240, 248, 249, 272, 298, 308, 310, 311, 319, 321, 323),
    ),
    "aarch64": (
        *(0xC00000B7, {"socket": 198, "clone": 220, "keyctl": 219}),
        # unshare ptrace mq_open msgget semget shmget add_key request_key perf_event_open setns process_vm_readv
        # process_vm_writev memfd_create bpf userfaultfd
        (97, 117, 180, 186, 190, 194, 217, 218, 241, 268, 270, 271, 279, 280, 282),
    ),
}
EVERYWHERE = (425, 447)  # io_uring_setup memfd_secret
CLONE3, X32 = 435, 0x40000000
NEW_USER, UNIX = 0x10000000, 1  # a flag of clone, a domain of socket

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions of the filter
ALLOW, KILL, NOT_PERMITTED, NOT_THERE = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
NUMBER, PROCESSOR, FIRST_ARGUMENT = 0, 4, 16  # where the filter finds them


PROGRAM = "program.py"


def prepare() -> "tuple[bytes, dict[str, object], Any]":
    """Takes the limits, the secret, the modules and the program of standard input; see the module.

    Returns:
        The program's source, the names of the module ``__main__``, where it is to be run, and what comes then.
    """
    loaded = set(sys.modules)
    user, role, *pipes = sys.argv[1:]
    with open(0, "rb", closefd=False) as given:
        limits, secret, length, rest = given.read().split(b"\n", 3)
    modules, source = rest[: int(length)], rest[int(length) :]
    limit(limits.decode())
    if os.getuid() == 0:
        become(int(user))
    end_with_parent()
    if role == "asked":
        hide()
    part()
    refuse_calls()
    nothing = os.open("/dev/null", os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    if role != "served":
        say_at_the_end(secret)
    for name in set(sys.modules) - loaded:
        del sys.modules[name]
    if role == "asked":  # without a file that the program could read, or a folder that it could write
        os.chdir("/")
        tests = load(modules)
        return b"", {}, lambda names: tests.main(int(pipes[0]), int(pipes[1]), source)
    with open(PROGRAM, "wb") as file:
        file.write(source)
    then = load(modules).Serving(int(pipes[0]), int(pipes[1])).serve if role else None
    return source, vars(main_module()), then


def load(modules: bytes) -> "Any":
    """The last of some modules, which find those before it and are not found afterwards."""
    import marshal

    package = sys.modules["dllm_env.grading"] = type(sys)("dllm_env.grading")
    for name, code in marshal.loads(modules):
        module = type(sys)(f"dllm_env.grading.{name}")
        setattr(package, name, module)
        exec(code, vars(module))
    del sys.modules["dllm_env.grading"]
    return module


def main_module() -> object:
    """A new module ``__main__``, and the rest of what Python sets up for a file that it runs."""
    path = os.path.abspath(PROGRAM)
    sys.argv, sys.orig_argv = [PROGRAM], [sys.executable, PROGRAM]
    sys.path.insert(0, os.path.dirname(path))
    for add in (site.setquit, site.setcopyright, site.sethelper):  # exit, quit, help, … are builtins of no -S
        add()
    module = type(sys)("__main__")
    if "__annotations__" in vars(sys.modules["__main__"]):  # not in every version of Python
        vars(module)["__annotations__"] = {}
    loader = sys.modules["_frozen_importlib_external"].SourceFileLoader("__main__", path)
    vars(module).update(__file__=path, __cached__=None, __loader__=loader, __builtins__=builtins)
    sys.modules["__main__"] = module
    return module


def say_at_the_end(secret: bytes) -> None:
    """Makes the secret the last word of a program that has come to its end, after its threads and exit handlers."""
    import atexit

    process = os.getpid()

    def say() -> None:
        if ENDED and os.getpid() == process:  # not in a fork, which would speak for a program that has failed
            flush()
            os.write(1, b"\n" + secret)
            os._exit(0)

    atexit.register(say)  # the first to be registered is the last to be called


def flush() -> None:
    """Writes what waits to be written, also where the program has put other streams in place of its own."""
    for stream in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        if stream is not None and not getattr(stream, "closed", False):
            stream.flush()


def limit(limits: str) -> None:
    """Sets the kernel's limits: names and values, like ``CPU=10 CORE=0``."""
    import resource

    for name, _, said in (word.partition("=") for word in limits.split()):
        kind, value = getattr(resource, "RLIMIT_" + name), int(said)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def become(user: int) -> None:
    """Gives up root, and the keys of root's session."""
    import ctypes

    machine, join_a_new_session = os.uname().machine, 1
    if machine in CALLS:
        ctypes.CDLL(None).syscall(CALLS[machine][1]["keyctl"], join_a_new_session, None)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def end_with_parent() -> None:
    """Makes the kernel end this process when the one that started it ends; a change of user would undo it."""
    import ctypes

    pdeathsig, kill = 1, 9
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(pdeathsig, kill, 0, 0, 0)


def hide() -> None:
    """Keeps other processes of this user out of this one: of its memory, and of what it has open."""
    import ctypes

    set_dumpable = 4
    ctypes.CDLL(None).prctl(set_dumpable, 0, 0, 0, 0)


def part() -> None:
    """Keeps this process and its children out of all others of its user, where the kernel can (Landlock).

    What a process with rules may not do to files is beside the point, and is nothing: that it has rules is what
    keeps it from the insides of processes that have none.
    """
    import ctypes
    import struct

    libc = ctypes.CDLL(None, use_errno=True)
    create, add, restrict, no_new_privileges = 444, 445, 446, 38
    if libc.syscall(create, None, 0, 1) < 2:  # the first version refuses to move files between folders
        return
    move = 1 << 13
    rules = libc.syscall(create, struct.pack("Q", move), ctypes.c_size_t(8), 0)
    top = os.open("/", os.O_PATH)
    libc.syscall(add, rules, 1, struct.pack("=Qi", move, top), 0)
    libc.prctl(no_new_privileges, 1, 0, 0, 0)
    libc.syscall(restrict, rules, 0)
    os.close(top)
    os.close(rules)


def refuse_calls() -> None:
    """Makes the kernel refuse system calls from now on (seccomp); does nothing on a processor that is not known."""
    import ctypes
    import struct

    machine = os.uname().machine
    if machine not in CALLS:
        return
    code = b"".join(struct.pack("HBBI", *step) for step in steps(machine))
    instructions = ctypes.create_string_buffer(code)
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(instructions)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    no_new_privileges, seccomp, filter_mode = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(
        seccomp, filter_mode, ctypes.addressof(program), 0, 0
    ):
        raise OSError(ctypes.get_errno(), "seccomp")


def steps(machine: str) -> list[tuple[int, int, int, int]]:
    """The filter: instructions with how many to skip where they hold, and where they do not, and their operand."""
    processor, named, refused = CALLS[machine]
    made = [(LOAD, 0, 0, PROCESSOR), (EQUAL, 1, 0, processor), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    # Numbers from X32 on are the same calls in another way.
    made += [(AT_LEAST, 0, 1, X32), (RETURN, 0, 0, NOT_PERMITTED)]
    for number in (*refused, named["keyctl"], *EVERYWHERE):
        made += [(EQUAL, 0, 1, number), (RETURN, 0, 0, NOT_PERMITTED)]
    made += [(EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, NOT_THERE)]  # the C library then takes clone
    for name, test in (("clone", (ANY_BIT, 0, 1, NEW_USER)), ("socket", (EQUAL, 1, 0, UNIX))):
        made += [(EQUAL, 0, 4, named[name]), (LOAD, 0, 0, FIRST_ARGUMENT), test]
        made += [(RETURN, 0, 0, NOT_PERMITTED), (RETURN, 0, 0, ALLOW)]
    return [*made, (RETURN, 0, 0, ALLOW)]


if __name__ == "__main__":
    ENDED = False
    SOURCE, NAMES, THEN = prepare()
    try:  # here and not in a function, so that hardly a frame lies under the program's
        exec(compile(SOURCE, str(NAMES.get("__file__")), "exec", dont_inherit=True), NAMES)
        if THEN is not None:
            THEN(NAMES)
        ENDED = True
    except Exception as error:
        flush()
        error.__traceback__ = error.__traceback__ and error.__traceback__.tb_next  # without this very frame
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(1)
