"""Plain values as text, for two processes of which one does not trust the other.

A message has a table of nodes: None, truth values, numbers and strings stand for themselves, all else is a list of
its kind and what it is made of, where parts are numbers of earlier nodes. So nothing is read recursively, what two
values share is shared afterwards, and a value that is rebuilt consists of exact types of Python's own: whatever a
class of the sender's would answer when it is compared, nothing of it arrives.

A subclass of a plain type (a named tuple, an IntEnum, an int with an ``__eq__`` of its own) is sent as the plain
value that it has by the methods of its base. What is no plain value is left to ``foreign``; see ``Table``.

The file runs in a Python of its own in the sandbox, where nothing but the standard library is.
"""

from __future__ import annotations

import builtins
from collections import Counter, OrderedDict, defaultdict, deque

from dllm_env.grading import messages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any

DEEPEST = 100
"""Levels of containers within one another."""

ELSEWHERE = {
    "Decimal": "decimal",
    "Fraction": "fractions",
    **dict.fromkeys(("date", "datetime", "time", "timedelta"), "datetime"),
}
"""Further types that are plain, and their modules, which are imported when one is met."""
COLLECTIONS = {kind.__name__: kind for kind in (Counter, OrderedDict, defaultdict, deque)}
MUTABLE = (list, dict, set, bytearray, *COLLECTIONS.values())
_BASES = (
    *(bool, int, float, complex, str, bytes, bytearray),
    *(Counter, OrderedDict, defaultdict, deque, list, tuple, set, frozenset, dict),
)
_FACTORIES = {made.__name__: made for made in (int, float, str, list, dict, set, tuple)}
_VIEWS: dict[type, str] = {type({}.keys()): "keys", type({}.items()): "items", type({}.values()): "values"}
_BUILTINS = {
    name: found
    for name, found in vars(builtins).items()
    if isinstance(found, type) or (type(found) is type(len) and not name.startswith("_"))
}
_NAMES = {id(found): name for name, found in _BUILTINS.items()}


NotPlain, Malformed = messages.NotPlain, messages.Malformed


class Table:
    """A message that is being made.

    Args:
        foreign: makes the node of a value that is not plain, or raises ``NotPlain``.
        shared: named tuples that both sides have by the same name.
        given: objects, by ``id``, that the other side knows by a number.

    Attributes:
        nodes: so far.
        values: that they stand for.
    """

    def __init__(
        self,
        foreign: Callable[[Table, Any], list[Any]],
        shared: Collection[type] = (),
        given: Mapping[int, int] | None = None,
    ) -> None:
        self.nodes: list[Any] = []
        self.values: list[Any] = []
        self._given = given or {}
        self._foreign, self._shared = foreign, shared
        self._known: dict[int, int] = {}  # by ``id``, which ``values`` keeps from being another's
        self._above: set[int] = set()

    def add(self, value: Any) -> int:
        """The number of the node of a value.

        Raises:
            NotPlain: it contains itself, is too deep, or has no value.
        """
        if id(value) in self._known:
            return self._known[id(value)]
        if id(value) in self._above or len(self._above) >= DEEPEST:
            raise NotPlain("a value that contains itself, or has too many levels")
        self._above.add(id(value))
        try:
            node = ["given", self._given[id(value)]] if id(value) in self._given else self._node(value)
        finally:
            self._above.discard(id(value))
        self._known[id(value)] = len(self.nodes)
        return self._append(node, value)

    def contents(self, value: Any) -> int:
        """The number of a node with what is in a container that is given."""
        return self._append(self._node(value), value)

    def _append(self, node: Any, value: Any) -> int:
        self.nodes.append(node)
        self.values.append(value)
        return len(self.nodes) - 1

    def all(self, values: Any) -> list[int]:
        """The numbers of several."""
        return [self.add(value) for value in values]

    def _node(self, value: Any) -> Any:
        if value is None or value is ...:
            return None if value is None else ["ellipsis"]
        kind = type(value)
        if kind in self._shared:
            return ["shared", kind.__name__, self.add(tuple(value))]
        base = next((base for base in _BASES if issubclass(kind, base)), None)
        if base is not None:
            return self._atom(base, value) if base in ATOMS else self._container(base, value)
        if kind in _VIEWS:
            return [_VIEWS[kind], self.all(value)]
        if kind is range:
            return ["range", self.all((value.start, value.stop, value.step))]
        if ELSEWHERE.get(kind.__name__) == kind.__module__:
            return self._elsewhere(kind.__name__, value)
        if kind.__module__.partition(".")[0] == "numpy" and getattr(value, "shape", None) == ():
            return self._node(value.item())  # a number of NumPy's
        return self._foreign(self, value)

    def _atom(self, base: type, value: Any) -> Any:
        return ATOMS[base](value)

    def _container(self, base: type, value: Any) -> Any:
        if base is bytearray:
            return ["bytearray", bytearray.decode(value, "latin-1")]
        if issubclass(base, dict):
            parts = [number for pair in dict.items(value) for number in self.all(pair)]
            if base is not defaultdict:
                return [base.__name__, parts]
            factory = value.default_factory
            return ["defaultdict", parts, factory.__name__ if factory in _FACTORIES.values() else None]
        if base is deque:
            return ["deque", self.all(deque.__iter__(value)), deque.maxlen.__get__(value)]
        return [base.__name__, self.all(base.__iter__(value))]  # type: ignore[attr-defined]

    def _elsewhere(self, name: str, value: Any) -> list[Any]:
        if name == "timedelta":
            return [name, [value.days, value.seconds, value.microseconds]]
        if name == "Fraction":
            return [name, [hex(value.numerator), hex(value.denominator)]]
        return [name, [value.isoformat() if hasattr(value, "isoformat") else str(value)]]


def _whole(value: Any) -> Any:
    exact = int.__add__(value, 0)
    return exact if -(2**63) < exact < 2**63 else ["int", hex(exact)]


def _characters(exact: str) -> Any:
    """Two halves of a surrogate pair would come out of JSON as one character."""
    try:
        exact.encode("utf-8")
    except UnicodeEncodeError:
        return ["text", exact.encode("utf-8", "surrogatepass").decode("latin-1")]
    return exact


ATOMS: dict[type, Callable[[Any], Any]] = {
    bool: bool,
    int: _whole,
    float: float.__float__,
    complex: lambda value: ["complex", complex.real.__get__(value), complex.imag.__get__(value)],
    str: lambda value: _characters(str.__str__(value)),
    bytes: lambda value: ["bytes", bytes.decode(value, "latin-1")],
}


def refuse(table: Table, value: Any) -> list[Any]:
    """Values that are not plain are not sent."""
    raise NotPlain(f"an object of {type(value).__module__}.{type(value).__qualname__}")


def builtin(value: Any) -> list[Any] | None:
    """The node of a type or a function that every Python has by a name of its own."""
    return ["builtin", _NAMES[id(value)]] if id(value) in _NAMES else None


def type_of(made: Sequence[Any], name: Any) -> type:
    """The built-in type of a name, and no function."""
    found = _BUILTINS.get(name)
    if not isinstance(found, type):
        raise Malformed("no type")
    return found


def builtin_of(made: Sequence[Any], name: Any) -> Any:
    """The built-in type or function of a name."""
    return _BUILTINS[name]


def read(nodes: Any, kinds: Mapping[str, Callable[..., Any]]) -> list[Any]:
    """The values of a table, by number.

    Args:
        nodes: whatever has come.
        kinds: of nodes that are not plain: makes the object of what the node has behind its kind, with the values
            so far as the first argument.

    Raises:
        Malformed: it is no table.
    """
    made: list[Any] = []
    depths: list[int] = []
    try:
        for node in _listed(nodes):
            value, depth = _value(node, made, depths, kinds)
            if depth > DEEPEST + 2:
                raise Malformed("too many levels")
            made.append(value)
            depths.append(depth)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise Malformed(f"{type(error).__name__}: {error}"[:200]) from None
    return made


def _value(
    node: Any, made: Sequence[Any], depths: Sequence[int], kinds: Mapping[str, Callable[..., Any]]
) -> tuple[Any, int]:
    if type(node) is not list:
        if node is None or type(node) in (bool, int, float, str):
            return node, 0
        raise Malformed(f"a node of {type(node).__name__}")
    kind, *about = node
    if kind in kinds:
        return kinds[kind](made, *about), 0
    if kind in _READERS:
        return _READERS[kind](*about), 0
    if kind in ELSEWHERE:
        return _from_elsewhere(kind, *about), 0
    maker = _MAKERS[kind]
    numbers = [number(part, len(made)) for part in _listed(about[0])]
    depth = 1 + max((depths[number] for number in numbers), default=0)
    return maker([made[number] for number in numbers], *about[1:]), depth


def _listed(value: Any) -> list[Any]:
    if type(value) is not list:
        raise Malformed(f"{type(value).__name__} in place of a list")
    return value


def number(value: Any, end: int) -> int:
    """The number of a node, which has to exist."""
    if type(value) is not int or not 0 <= value < end:
        raise Malformed("a part that does not exist")
    return value


def _pairs(parts: list[Any]) -> list[tuple[Any, Any]]:
    if len(parts) % 2:
        raise Malformed("a key without its value")
    return list(zip(parts[::2], parts[1::2], strict=True))


def _counter(parts: list[Any]) -> Counter[Any]:
    made: Counter[Any] = Counter()
    dict.update(made, _pairs(parts))  # its own way would add
    return made


def _deque(parts: list[Any], longest: Any) -> deque[Any]:
    if longest is not None and type(longest) is not int:
        raise Malformed("no length")
    return deque(parts, longest)


def _hexadecimal(written: Any) -> int:
    if type(written) is not str:
        raise Malformed("no number")
    return int(written, 16)


def _complex(real: Any, imaginary: Any) -> complex:
    if type(real) is not float or type(imaginary) is not float:
        raise Malformed("no number")
    return complex(real, imaginary)


def _from_elsewhere(kind: str, parts: Any) -> Any:
    made = getattr(__import__(ELSEWHERE[kind]), kind)
    if kind == "timedelta":
        return made(*(part if type(part) is int else 1 / 0 for part in parts))
    if kind == "Fraction":
        return made(*map(_hexadecimal, parts))
    (written,) = parts
    if type(written) is not str:
        raise Malformed("no text")
    return made(written) if kind == "Decimal" else made.fromisoformat(written)


_READERS: dict[Any, Callable[..., Any]] = {
    "ellipsis": lambda: ...,
    "int": _hexadecimal,
    "complex": _complex,
    "bytes": lambda written: str.encode(written, "latin-1"),
    "bytearray": lambda written: bytearray(str.encode(written, "latin-1")),
    "text": lambda written: str.encode(written, "latin-1").decode("utf-8", "surrogatepass"),
}
_MAKERS: dict[Any, Callable[..., Any]] = {
    "list": list,
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "dict": lambda parts: dict(_pairs(parts)),
    "OrderedDict": lambda parts: OrderedDict(_pairs(parts)),
    "defaultdict": lambda parts, factory: defaultdict(_FACTORIES.get(factory), _pairs(parts)),
    "Counter": _counter,
    "deque": _deque,
    "range": lambda parts: range(*parts),
    "keys": lambda parts: dict.fromkeys(parts).keys(),
    "items": lambda parts: dict(parts).items(),
    "values": lambda parts: dict(enumerate(parts)).values(),
}


def refill(old: Any, new: Any) -> None:
    """Gives a container that can be changed the contents of another of its kind.

    Raises:
        Malformed: they are no such containers.
    """
    kind = type(old)
    if kind is not type(new) or kind not in MUTABLE:
        raise Malformed("an argument that becomes another")
    if kind is list or kind is bytearray:
        old[:] = new
        return
    contents = list(new.items()) if issubclass(kind, dict) else list(new)
    old.clear()
    if issubclass(kind, dict):
        dict.update(old, contents)  # a Counter's own way would add
    else:
        (old.update if kind is set else old.extend)(contents)
