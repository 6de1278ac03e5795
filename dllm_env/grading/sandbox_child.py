"""What runs inside a sandbox: limits itself, gives up its rights, then runs the program.

``sandbox`` hands this file's text to a Python of its own, so it uses nothing but the standard library. On standard
input it gets a line of limits, a line with a secret, and the program. The program has passed when it has come to
its end, which is when the secret is the last thing that was said: one that leaves early, with whatever exit status,
has not.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import struct
import sys

# System calls by processor: its name for the kernel, those that are needed by name, those refused. What is refused
# gives memory that no limit counts, namespaces with rights of their own, keys of the session, other processes'
# insides, or parts of the kernel that no program here needs.
CALLS = {
    "x86_64": (
        *(0xC000003E, {"socket": 41, "clone": 56, "keyctl": 250}),
        # shmget semget msgget ptrace mq_open add_key request_key unshare perf_event_open setns process_vm_writev
        # memfd_create bpf userfaultfd
        (29, 64, 68, 101, 240, 248, 249, 272, 298, 308, 311, 319, 321, 323),
    ),
    "aarch64": (
        *(0xC00000B7, {"socket": 198, "clone": 220, "keyctl": 219}),
        # unshare ptrace mq_open msgget semget shmget add_key request_key perf_event_open setns process_vm_writev
        # memfd_create bpf userfaultfd
        (97, 117, 180, 186, 190, 194, 217, 218, 241, 268, 271, 279, 280, 282),
    ),
}
EVERYWHERE = (425, 447)  # io_uring_setup memfd_secret
CLONE3, X32 = 435, 0x40000000
NEW_USER, UNIX = 0x10000000, 1  # a flag of clone, a domain of socket

LOAD, EQUAL, AT_LEAST, ANY_BIT, RETURN = 0x20, 0x15, 0x35, 0x45, 0x06  # instructions of the filter
ALLOW, KILL, NOT_PERMITTED, NOT_THERE = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
NUMBER, PROCESSOR, FIRST_ARGUMENT = 0, 4, 16  # where the filter finds them


def main() -> None:
    """Runs the program of standard input; see the module."""
    limits, secret, program = sys.stdin.read().split("\n", 2)
    limit(json.loads(limits))
    if os.getuid() == 0:
        become(int(sys.argv[1]))
    refuse_calls()
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    sys.argv = ["program.py"]
    exec(compile(program, "program.py", "exec"), {"__name__": "__main__"})
    sys.stdout.flush()
    sys.stdout.write("\n" + secret)
    sys.stdout.flush()
    os._exit(0)


def limit(limits: list[tuple[str, int]]) -> None:
    """Sets the kernel's limits."""
    for name, value in limits:
        kind = getattr(resource, "RLIMIT_" + name)
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def become(user: int) -> None:
    """Gives up root, and the keys of root's session."""
    machine, join_a_new_session = os.uname().machine, 1
    if machine in CALLS:
        ctypes.CDLL(None).syscall(CALLS[machine][1]["keyctl"], join_a_new_session, None)
    os.setgroups([])
    os.setresgid(user, user, user)
    os.setresuid(user, user, user)


def refuse_calls() -> None:
    """Makes the kernel refuse system calls from now on (seccomp); does nothing on a processor that is not known."""
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
    main()
