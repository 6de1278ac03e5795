"""In the process of the tests: what they call is answered by the program's process, with plain values.

The program may be anybody's, so nothing that comes from it is believed but what it is: one answer to each call, of
values that are rebuilt here from exact types of Python's own. Each call has a random token, and an answer without
it is none. Expected values, and what else the tests know, never leave this process.

Messages are a line with their length in bytes, and text; see ``messages``, and for nodes ``values``. All begin
with a token. From here:

* ``call``, nodes, what, arguments, named arguments;
* ``next``, nodes, iterator; ``set``, nodes, object, name, value; ``end``.

From the program:

* ``returned``, nodes, value, changed: pairs of a node of the request and the one with its contents now;
* ``stopped``; ``raised``, kind, words;
* ``callback``, number, nodes, arguments: answered by ``returned``, nodes, value, or ``raised``, kind, words;
* ``ended``, after which the program closes its end.

The file runs in a Python of its own in the sandbox, where nothing but the standard library is.
"""

from __future__ import annotations

import builtins
import os
import select
import sys

from dllm_env.grading import messages, values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NoReturn


class Refused(BaseException):
    """The program has failed, whatever the tests do with that: no ``except Exception`` of theirs catches it."""


class Program:
    """The program, as the tests see it.

    Attributes:
        failed: why it can pass no more; empty while it can.
    """

    def __init__(self, requests: int, answers: int) -> None:
        self.failed = ""
        self.shared: set[type] = set()
        self._requests, self._answers = requests, answers
        self._objects: dict[int, Opaque] = {}
        self._functions: list[Any] = []

    def fail(self, reason: str) -> NoReturn:
        """Ends the tests."""
        self.failed = self.failed or reason
        raise Refused(self.failed)

    def call(self, about: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """What a call returns; what it does to its arguments is done to them here."""
        table = self._table()
        numbers = [table.add(part) for part in (about, arguments, named)]
        kind, *said = self._ask("call", table.nodes, *numbers)
        if kind != "returned" or len(said) != 3 or type(said[2]) is not list:
            self.fail("it answers a call with something else")
        made, result = self._value(said[0], said[1], table.values)
        try:
            for at, contents in said[2]:
                old = table.values[values.number(at, len(table.values))]
                values.refill(old, made[values.number(contents, len(made))])
        except (messages.Malformed, TypeError, ValueError) as error:
            self.fail(f"what it does to its arguments cannot be read: {error}")
        if _equals_anything(result):
            self.fail("it answers with what equals anything")
        return result

    def next(self, iterator: Any) -> Any:
        """The next value of an iterator.

        Raises:
            StopIteration: there is none.
        """
        table = self._table()
        kind, *said = self._ask("next", table.nodes, table.add(iterator))
        if kind == "stopped":
            raise StopIteration
        if kind != "returned" or len(said) != 3:
            self.fail("it answers with something else")
        return self._value(said[0], said[1], table.values)[1]

    def set(self, about: Any, name: str, value: Any) -> None:
        """Sets an attribute of an object of the program's."""
        table = self._table()
        numbers = table.add(about), name, table.add(value)
        self._ask("set", table.nodes, *numbers)

    def end(self) -> None:
        """The tests are over: the program has come so far, and says nothing more."""
        if self.failed:
            raise Refused(self.failed)
        if self._ask("end") != ["ended"]:
            self.fail("it answers the end with something else")
        if os.read(self._answers, 1):
            self.fail("it says more than it was asked")

    # ------------------------------------------------------------------------------------------- messages

    def _ask(self, kind: str, *about: Any) -> list[Any]:
        """The answer to a request, without its token."""
        if self.failed:
            raise Refused(self.failed)
        if select.select([self._answers], [], [], 0)[0]:
            self.fail("it ended, or answered before it was asked")
        token = os.urandom(12).hex()
        self._write([token, kind, *about])
        while True:
            said = self._read()
            if len(said) < 2 or type(said[0]) is not str or said[0] != token:
                self.fail("it answers another call")
            if said[1] == "raised" and len(said) == 4:
                raise _raised(said[2], said[3])
            if said[1] != "callback" or len(said) != 5:
                return said[1:]
            self._write([token, *self._called_back(*said[2:])])

    def _called_back(self, number: Any, nodes: Any, about: Any) -> list[Any]:
        """What a function of the tests says to the program, which was given it to call."""
        _, parts = self._value(nodes, about, [])
        if type(number) is not int or not 0 <= number < len(self._functions) or type(parts) is not tuple:
            self.fail("it calls what it was not given")
        try:
            arguments, named = parts
            table = self._table()
            return ["returned", table.nodes, table.add(self._functions[number](*arguments, **named))]
        except Exception as error:
            return ["raised", type(error).__name__, str(error)[:1000]]

    def _write(self, message: list[Any]) -> None:
        data = memoryview(messages.framed(messages.packed(*message)))
        try:
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            self.fail("it has ended")

    def _read(self) -> list[Any]:
        """A whole message, and no more than that."""
        head, line, text = self._more().partition(b"\n")
        while not line and len(head) <= 8:
            head, line, text = (head + self._more()).partition(b"\n")
        if len(head) > 8 or not head.isdigit() or int(head) > 4 * messages.LONGEST:
            self.fail("it answers too much, or what is no answer")
        parts, missing = [text], int(head) - len(text)
        while missing > 0:
            parts.append(self._more())
            missing -= len(parts[-1])
        if missing < 0:
            self.fail("it answers more than it was asked")
        try:
            return messages.parsed(b"".join(parts))
        except messages.Malformed as error:
            self.fail(f"its answer cannot be read: {error}")

    def _more(self) -> bytes:
        more = os.read(self._answers, 2**16)
        if not more:
            self.fail("it has ended")
        return more

    def _table(self) -> values.Table:
        return values.Table(self._foreign, self.shared)

    def _foreign(self, table: values.Table, value: Any) -> list[Any]:
        if isinstance(value, Named):
            return ["name", vars(value)["_name"]]
        if isinstance(value, (Opaque, Items)):
            return ["object", vars(value)["_number"]]
        if node := values.builtin(value):
            return node
        if not callable(value) or isinstance(value, type):
            raise TypeError(f"the tests give the program a {type(value).__name__}, which cannot be sent")
        self._functions.append(value)
        return ["yours", len(self._functions) - 1]

    def _value(self, nodes: Any, number: Any, given: list[Any]) -> tuple[list[Any], Any]:
        """The values of a table that the program has sent, and one of them.

        Args:
            nodes: the table.
            number: of the one.
            given: what the program was given before, by number.
        """
        kinds: dict[str, Callable[..., Any]] = {
            "object": self._object,
            "iterator": self._items,
            "builtin": values.type_of,
            "given": lambda made, at: given[values.number(at, len(given))],
        }
        try:
            made = values.read(nodes, kinds)
            return made, made[values.number(number, len(made))]
        except (messages.Malformed, RecursionError) as error:
            self.fail(f"its answer cannot be read: {error}")

    def _object(self, made: list[Any], number: Any, truth: Any, kind: Any) -> Opaque:
        if type(number) is not int or type(truth) is not bool or type(kind) is not str:
            raise messages.Malformed("no object")
        if number not in self._objects:
            self._objects[number] = Opaque(self, number, truth, kind)
        vars(self._objects[number])["_truth"] = truth
        return self._objects[number]

    def _items(self, made: list[Any], number: Any) -> Items:
        if type(number) is not int:
            raise messages.Malformed("no iterator")
        return Items(self, number)


def _raised(kind: Any, words: Any) -> Exception:
    """The exception of a call. One that ends an iteration would end those of the tests in silence."""
    found = getattr(builtins, kind, None) if type(kind) is str else None
    ends = StopIteration, StopAsyncIteration
    if not (isinstance(found, type) and issubclass(found, Exception)) or issubclass(found, ends):
        return RuntimeError(f"{kind}: {words}"[:1000])
    try:
        return found(str(words))
    except TypeError:  # some need more than words
        return next(base for base in found.__mro__ if base in (ValueError, Exception))(str(words))


def _equals_anything(value: Any) -> bool:
    """Whether a value equals what nothing of the program's can equal; none that was rebuilt does."""
    return not isinstance(value, (Opaque, Named)) and bool(value == object())


def _program(proxy: object) -> Program:
    program: Program = vars(proxy)["_program"]
    return program


class Named:
    """A function or class of the program's, by name."""

    def __init__(self, program: Program, name: str) -> None:
        vars(self).update(_program=program, _name=name)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _program(self).call(self, arguments, named)

    def __eq__(self, other: object) -> NoReturn:
        _program(self).fail(f"the tests compare {vars(self)['_name']}, which has no value")

    __ne__ = __eq__
    __hash__ = None  # type: ignore[assignment]


class Opaque:
    """An object of the program's that has no plain value.

    It can be given back to the program, be called, have its attributes set, and those be read that were set here.
    The program said at once whether it is true. Whatever asks for more, such as a comparison, fails the program.
    """

    def __init__(self, program: Program, number: int, truth: bool, kind: str) -> None:
        vars(self).update(_program=program, _number=number, _truth=truth, _kind=kind)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return _program(self).call(self, arguments, named)

    def __bool__(self) -> bool:
        return bool(vars(self)["_truth"])

    def __setattr__(self, name: str, value: Any) -> None:
        _program(self).set(self, name, value)
        vars(self)[name] = value

    def __getattr__(self, name: str) -> NoReturn:
        self._fail(f"ask for the attribute {name}")

    def _fail(self, what: str) -> NoReturn:
        _program(self).fail(f"the tests {what} of an object of {vars(self)['_kind']}, which has no plain value")

    def __eq__(self, other: object) -> NoReturn:
        self._fail("ask for the value")

    __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __eq__

    def __hash__(self) -> int:
        self._fail("ask for the hash")


class Items:
    """An iterator of the program's, whose values come one by one."""

    def __init__(self, program: Program, number: int) -> None:
        vars(self).update(_program=program, _number=number)

    def __iter__(self) -> Items:
        return self

    def __next__(self) -> Any:
        return _program(self).next(self)


def main(requests: int, answers: int, source: bytes) -> None:
    """Runs the tests; comes back where the program passes.

    Args:
        requests: where the program reads.
        answers: where it writes.
        source: the arguments of ``_run``, packed.
    """
    program = Program(requests, answers)
    os.write(requests, b"\n")  # from here on nobody can look into this process, so the program may begin
    try:
        _run(program, *messages.parsed(source))
        program.end()
    except Refused as refused:
        sys.exit(f"The program fails: {refused}.")


def _run(program: Program, names: list[str], library: list[str], setup: str, tests: str) -> None:
    """Runs tests after their setup.

    Args:
        program: what they are about.
        names: that it has to have.
        library: names of Python's that are not imported.
        setup: what both sides run first.
        tests: the rest.
    """
    own: dict[str, Any] = {"__name__": "tests", "__builtins__": builtins}
    named = {name: Named(program, name) for name in names}
    own.update({name: _from_library(name) for name in library})
    own.update(named)
    exec(compile(setup, "<setup>", "exec", dont_inherit=True), own)
    for name, found in own.items():
        if isinstance(found, type) and found.__module__ == "tests":
            if issubclass(found, tuple):
                program.shared.add(found)
            else:
                named[name] = Named(program, name)
    own.update(named)
    exec(compile(tests, "<tests>", "exec", dont_inherit=True), own)


def _from_library(name: str) -> Any:
    """A module of Python's, or a type that is plain."""
    if name in values.COLLECTIONS:
        return values.COLLECTIONS[name]
    if name in values.ELSEWHERE:
        return getattr(__import__(values.ELSEWHERE[name]), name)
    return __import__(name)
