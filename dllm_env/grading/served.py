"""In the process of a program: answers the calls of the tests, which run elsewhere, with plain values.

What is here is in the hands of the program, which may change all of it: nobody relies on it. See ``asked`` for the
other side, and for the messages.

The file runs in a Python of its own in the sandbox, where nothing but the standard library is.
"""

from __future__ import annotations

import builtins
import os
import sys

from dllm_env.grading import messages, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class Serving:
    """A program that answers.

    It is made before the program runs, and keeps what it needs for itself.
    """

    def __init__(self, requests: int, answers: int) -> None:
        self._requests, self._answers = os.fdopen(requests, "rb"), answers
        self._objects: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._names: dict[str, Any] = {}
        self._process = os.getpid()
        for number in (requests, answers):
            os.set_inheritable(number, False)
        os.register_at_fork(after_in_child=self._leave)
        if self._requests.readline() != b"\n":  # the tests are not where the program could look at them
            os._exit(1)

    def _leave(self) -> None:
        """Closes the way to the tests: a fork does not answer for its parent, nor keep them waiting for the end."""
        if self._answers >= 0:
            os.close(self._answers)
            self._answers = -1

    def serve(self, names: dict[str, Any]) -> None:
        """Answers until the end of the tests.

        Args:
            names: of the program's module.
        """
        self._names = names
        self._wait()

    def _wait(self) -> list[Any]:
        """What the tests say next that is no request; requests before are answered."""
        while True:
            head = self._requests.readline()
            if not head or os.getpid() != self._process:
                os._exit(1)
            token, kind, *about = messages.parsed(self._requests.read(int(head)))
            if kind in ("returned", "raised"):
                return [kind, *about]
            if kind == "end":
                self._write(messages.text(token, "ended"))
                self._leave()
                return []
            self._write(self._answer(token, kind, about))

    def _answer(self, token: str, kind: str, about: list[Any]) -> str:
        try:
            return self._performed(token, kind, *about)
        except Exception as error:
            return messages.text(token, "raised", *_described(error))

    def _performed(self, token: str, kind: str, nodes: Any, *rest: Any) -> str:
        made = self._read(token, nodes)
        given = {id(value): number for number, value in enumerate(made) if type(value) not in values.ATOMS}
        table = values.Table(self._foreign, given=given)
        if kind == "next":
            try:
                result = next(made[rest[0]])
            except StopIteration:
                return messages.text(token, "stopped")
        elif kind == "set":
            setattr(made[rest[0]], rest[1], made[rest[2]])
            result = None
        else:
            about, arguments, named = (made[number] for number in rest)
            result = about(*arguments, **named)
        number = table.add(result)
        changed = [[at, table.contents(value)] for at, value in enumerate(made) if type(value) in values.MUTABLE]
        return messages.text(token, "returned", table.nodes, number, changed)

    def _read(self, token: str, nodes: Any) -> list[Any]:
        kinds: dict[str, Callable[..., Any]] = {
            "name": lambda made, name: self._named(name),
            "object": lambda made, number: self._objects[number],
            "yours": lambda made, number: self._callback(token, number),
            "shared": lambda made, name, fields: self._named(name)(*made[fields]),
            "builtin": values.builtin_of,
        }
        return values.read(nodes, kinds)

    def _named(self, name: str) -> Any:
        if name in self._names:
            return self._names[name]
        if hasattr(builtins, name):
            return getattr(builtins, name)
        raise NameError(f"name {name!r} is not defined")

    def _callback(self, token: str, number: int) -> Any:
        """A function of the tests, which is called there."""

        def call(*arguments: Any, **named: Any) -> Any:
            table = values.Table(self._foreign)
            about = table.add((arguments, named))
            self._write(messages.text(token, "callback", number, table.nodes, about))
            kind, *said = self._wait()
            if kind == "raised":
                raise RuntimeError(f"{said[0]}: {said[1]}")
            nodes, result = said
            return self._read(token, nodes)[result]

        return call

    def _foreign(self, table: values.Table, value: Any) -> list[Any]:
        """An object stays here, and the tests get a number with which they can name it again."""
        if isinstance(value, type) and (node := values.builtin(value)):
            return node
        if hasattr(type(value), "__next__") and hasattr(type(value), "__iter__"):
            return ["iterator", self._number(value)]
        try:
            truth = bool(value)
        except Exception:
            truth = True
        return ["object", self._number(value), truth, f"{type(value).__module__}.{type(value).__qualname__}"[:200]]

    def _number(self, value: Any) -> int:
        if id(value) not in self._numbers:
            self._objects.append(value)
            self._numbers[id(value)] = len(self._objects) - 1
        return self._numbers[id(value)]

    def _write(self, message: str) -> None:
        for stream in (sys.stdout, sys.stderr):  # the tests may be over with the next answer
            try:
                stream.flush()
            except Exception:
                continue
        data = memoryview(messages.framed(message))
        while data:
            data = data[os.write(self._answers, data) :]


def _described(error: Exception) -> tuple[str, str]:
    """The built-in exception that an exception is, and what it says."""
    kind = next(base.__name__ for base in type(error).__mro__ if base.__module__ == "builtins")
    try:
        return kind, str(error)[:1000]
    except Exception:
        return kind, ""
