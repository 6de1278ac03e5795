"""Values between a program and its tests: exactly what they are, of exactly Python's own types, or not at all."""

from __future__ import annotations

import datetime
import enum
import math
import unittest.mock
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dllm_env.grading import asked, messages, values


def sent(value: Any) -> Any:
    """A value as it comes out on the other side."""
    table = values.Table(values.refuse)
    number = table.add(value)
    nodes, at = messages.parsed(messages.text(table.nodes, number).encode("utf-8"))
    return values.read(nodes, {})[at]


COUNTER = Counter(a=2)
COUNTER["b"] -= 3
PLAIN = [
    *(None, True, False, 0, 1, -1, 2**63, -(2**63), 2**63 - 1, 10**5000, -(7**9999)),
    *(0.0, -0.0, 0.1, 1e308, 5e-324, math.inf, -math.inf, 1j, complex(-0.0, math.inf)),
    *("", "a:b;\n", "héllo 😀", "\x00", "\ud800", "\ud83d\ude00", "\ude00\ud83d", "l3;", b"", bytes(range(256))),
    *(
        bytearray(b"ab\xff"),
        [],
        (),
        {},
        set(),
        frozenset({1, (2, 3)}),
        [1, [2.5, ["x"]], (None,)],
        ...,
        range(3, 99, 7),
    ),
    *({1: "a", "1": True, (1, 2): [3], None: {}}, {3: 1, 1: 3}, [{"a": {1, 2}}, {frozenset({1})}]),
    *(COUNTER, OrderedDict([("b", 1), ("a", [2])]), deque([1, 2], maxlen=2), deque("ab")),
    *(Decimal("1.10"), Decimal("-Infinity"), Fraction(-1, 10**30), datetime.timedelta(-1, 5, 7)),
    *(datetime.date(2020, 2, 29), datetime.datetime(2020, 1, 2, 3, 4, 5, 6), datetime.time(1, 2)),
]


def same(a: Any, b: Any) -> bool:
    """Equal, of the same types all the way, in the same order, with signs of zeros."""
    return type(a) is type(b) and a == b and (isinstance(a, set | frozenset) or repr(a) == repr(b))


@pytest.mark.parametrize("value", [value for value in PLAIN if not (isinstance(value, int) and abs(value) > 2**64)])
def test_plain_values_arrive(value: Any) -> None:
    assert same(sent(value), value)
    assert same(sent([value, (value, value)]), [value, (value, value)])


def test_large_numbers_arrive() -> None:
    for value in (10**5000, -(7**9999)):
        assert sent(value) == value


def test_values_whose_equality_says_little() -> None:
    assert math.isnan(sent(math.nan))
    assert sent([math.nan]) != [math.nan]
    counts = sent(defaultdict(list, {1: [2]}))
    assert type(counts) is defaultdict
    counts[5].append(3)
    assert counts == {1: [2], 5: [3]}
    assert sent({"a": 1}.keys()) == {"a"}
    assert sent({"a": 1}.items()) == {("a", 1)}
    assert list(sent({"a": 1}.values())) == [1]


class Equal(int):
    __eq__ = lambda self, other: True  # type: ignore[assignment]  # noqa: E731
    __hash__ = int.__hash__
    __int__ = __index__ = __repr__ = __str__ = lambda self: 7 / 0  # type: ignore[assignment]


class Listed(list):  # type: ignore[type-arg]
    def __iter__(self) -> Any:
        return iter([99])

    def __len__(self) -> int:
        return 5


class Worded(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "other"


class Colour(enum.IntEnum):
    RED = 3


Pair = namedtuple("Pair", "a b")
SUBCLASSES: list[tuple[Any, Any]] = [
    (Equal(5), 5),
    (Listed([1, 2]), [1, 2]),
    (Worded("mine"), "mine"),
    (Colour.RED, 3),
    (Pair(1, [2]), (1, [2])),
    (type("D", (dict,), {"items": lambda self: [(9, 9)]})({1: 2}), {1: 2}),
    (type("F", (float,), {"__float__": lambda self: 9.0})(0.5), 0.5),
    (type("C", (complex,), {"real": 9.0})(1j), 1j),
    (type("S", (set,), {"__iter__": lambda self: iter([9])})({1}), {1}),
    (type("B", (bytes,), {"decode": lambda *_: "x"})(b"ab"), b"ab"),
    (type("O", (OrderedDict,), {})(a=1), OrderedDict(a=1)),
    (np.float64(0.5), 0.5),
    (np.int64(3), 3),
    (np.bool_(True), True),
]


@pytest.mark.parametrize(("value", "base"), SUBCLASSES, ids=[type(value).__name__ for value, _ in SUBCLASSES])
def test_subclasses_arrive_as_their_base_has_it(value: Any, base: Any) -> None:
    assert same(sent(value), base)


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


def endless() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "make",
    [
        lambda: unittest.mock.ANY,
        object,
        lambda: SimpleNamespace(a=1),
        lambda: [object()],
        lambda: {1: {2: lambda: 0}},
        lambda: iter([]),
        lambda: nested(10**5),
        lambda: nested(values.DEEPEST + 1),
        endless,
        lambda: "x" * messages.LONGEST,
        lambda: 1 << (4 * messages.LONGEST),
        lambda: type("A", (), {"__class__": float})(),
        lambda: np.zeros(3),
    ],
)
def test_what_is_not_plain_is_not_sent(make: Callable[[], Any]) -> None:
    value = make()
    with pytest.raises(values.NotPlain):
        sent(value)


def test_deep_values_within_the_limit_arrive() -> None:
    assert sent(nested(values.DEEPEST - 1)) == nested(values.DEEPEST - 1)


def test_what_is_shared_stays_shared() -> None:
    row = [0]
    rows = sent([row, row, [0]])
    rows[0].append(1)
    assert rows == [[0, 1], [0, 1], [0]]
    wide: list[Any] = [1]
    for _ in range(90):
        wide = [wide, wide]
    assert len(sent(wide)) == 2  # and not 2 ** 90 of them


MESSAGES = [
    *(
        b"",
        b"x",
        b"n",
        b"i1;",
        b"l1;",
        b"l2;n",
        b"l1;nn",
        b"l-1;",
        b"l1;s5:abc",
        b"l1;s-1:abc",
        b"l1;sx:a",
        b"l1;i;",
    ),
    *(b"l1;dx;", b"l1;\xff", b"l99999999999999999999;", b"l1;" * 20 + b"n", b"l1;i" + b"9" * 9999 + b";", b"l1;s1"),
]
NODES: list[Any] = [
    *(None, 1, "x", {}, [[]], [["list"]], [["list", 5]], [["list", [0]]], [["list", [1]], 1], [["list", [-1]]]),
    *(
        [["list", [True]], 1],
        [1, ["list", [0.0]]],
        [["nothing", []]],
        [[1, []]],
        [[["list"], []]],
        [["object", 0, True]],
    ),
    *(
        [["set", [0]]],
        [["list", []], ["set", [0]]],
        [1, ["dict", [0]]],
        [["int", 5]],
        [["int", "x"]],
        [["bytes", 5]],
    ),
    *([["bytes", "€"]], [["complex", 1, 2]], [["complex", "1", 2.0]], [["Decimal", ["x"]]], [["Decimal", [1]]]),
    *([["date", ["x"]]], [["date", [5]]], [["timedelta", ["a", 0, 0]]], [["timedelta", [10**18, 0, 0]]]),
    *([["Fraction", ["0x1", "0x0"]]], [["Fraction", [1, 2]]], [["builtin", "exit"]], [["deque", [], "x"]]),
    *([["deque", [], -5]], [["range", []]], ["x", ["range", [0]]], [["given", 0]], [["yours", 0]], [["name", "f"]]),
    *(
        [["text", "\xed"]],
        [["text", 5]],
        [["bytearray", None]],
        [1.5, ["range", [0]]],
        [["ellipsis", 1]],
        [object()],
    ),
]


@pytest.mark.parametrize("message", MESSAGES)
def test_messages_that_are_none(message: bytes) -> None:
    with pytest.raises(values.Malformed):
        values.read(messages.parsed(message)[0], {})


@pytest.mark.parametrize("nodes", NODES)
def test_tables_that_are_none(nodes: Any) -> None:
    with pytest.raises(values.Malformed):
        values.read(nodes, {})


def test_deep_tables_are_refused() -> None:
    nodes = [["list", []]] + [["list", [n]] for n in range(10**4)]
    with pytest.raises(values.Malformed):
        values.read(nodes, {})


def test_refilling() -> None:
    for old, new in (
        ([1, 2], [3]),
        ({1: 2}, {2: 3, 1: 0}),
        ({1}, {2, 3}),
        (bytearray(b"a"), bytearray(b"bc")),
        (Counter(a=1), Counter(a=5)),
        (deque([1], 2), deque([2, 3], 2)),
    ):
        kept: Any = old
        values.refill(kept, new)
        assert same(kept, new)
    for a, b in (([1], (1,)), ((1,), (2,)), ("a", "b"), ([1], {1: 2}), (None, None)):
        with pytest.raises(values.Malformed):
            values.refill(a, b)


def test_the_canary() -> None:
    """Nothing that arrives equals an object of which the sender knows nothing; what does is noticed."""
    assert not any(asked._equals_anything(sent(value)) for value in PLAIN)
    assert asked._equals_anything(unittest.mock.ANY)
    assert asked._equals_anything(Equal(5))
