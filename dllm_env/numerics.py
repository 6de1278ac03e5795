"""Numbers that come out the same, whatever shares a batch: tiles of a fixed size, digests.

How a row of a product is added up, and by which instructions the end of a tensor is computed, follows from the
tensor's shape: a library picks its kernel by the number of rows, and splits them among threads by it. So one row
alone and in a batch can differ in the last bit, and a sampled or thresholded decision can turn on that bit. On the
processor all that depends on shapes is therefore computed in tiles of one fixed number of rows, the last of them
filled up (``in_tiles``), each by one thread, several side by side: so small a product gains nothing by being split.
docs/reproducibility.md says what holds where.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import hashlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

NUMBERS_AT_ONCE = 2**16
"""Numbers between two layers for all rows of a tile: few enough that a lone row wastes little and that they stay in
the processor's cache, enough that the calls themselves cost little."""

Given = ParamSpec("Given")
Item = TypeVar("Item")
Result = TypeVar("Result")

_SETTLED: WeakKeyDictionary[object, dict[Hashable, int]] = WeakKeyDictionary()
"""Rows of a tile, by whose they are and what they are of."""


def rows_at_once(positions: int, width: int) -> int:
    """Rows of a tile, where each is so many positions with so many numbers each."""
    return max(NUMBERS_AT_ONCE // max(positions * width, 1), 1)


def in_tiles(
    function: Callable[[Tensor], Sequence[Tensor]],
    count: int,
    rows: int,
    owner: object,
    key: Hashable,
    device: torch.device | str = "cpu",
) -> list[Tensor]:
    """``function`` of n rows in tiles of one size: what a row gets depends neither on n nor on other rows.

    A tile has always the same shape and one thread, so its row i always goes the same way through the library.
    Whether all of its rows go equal ways is found out before the first tile of a kind: a tile that is one row again
    and again has to answer the same everywhere. Where it does not, rows go one at a time. Tiles that are one row
    from the start have all threads, as they may be large.

    Args:
        function: from (m,) int64, which rows, to tensors with m rows; up to rounding, each depends on itself alone.
        count: n.
        rows: of a tile.
        owner: whose function it is; what was found out is kept as long as this object lives.
        key: what the shapes of the tile follow from, and which of the owner's functions it is.
        device: of the rows' numbers.

    Returns:
        The function's answers for all n rows, in order.
    """
    if not count:
        return list(function(torch.arange(0, device=device)))
    size = _settled(function, rows, owner, key, device)
    places = torch.arange(-(-count // size) * size, device=device).clamp(max=count - 1)
    tiles = places.split(size)
    done = list(map(function, tiles)) if rows == 1 else side_by_side(function, tiles)
    if len(done) == 1:
        return [column[:count] for column in done[0]]
    return [torch.cat(column)[:count] for column in zip(*done, strict=True)]


def of_distinct(function: Callable[[Tensor], Sequence[Tensor]], rows: Tensor) -> list[Tensor]:
    """A function of rows (B, S) whose answers have B rows, with equal rows looked at once.

    Trajectories of one group begin with the same masks, and often go on alike.
    """
    first, place = distinct_rows(rows)
    if len(first) == len(rows):
        return list(function(rows))
    return [values[place] for values in function(rows[first])]


def distinct_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Of rows (B, S) the first of each kind, (n,) in order, and (B,) which of these each row equals."""
    count = len(rows)
    number = torch.arange(count, device=rows.device)
    if count < 2 or not rows.shape[1]:
        return number, number
    _, kind = rows.unique(dim=0, return_inverse=True)
    kinds = int(kind.max()) + 1
    first = number.new_full((kinds,), count).scatter_reduce(0, kind, number, "amin")
    order = first.argsort()
    return first[order], order.argsort()[kind]


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """The function of each item, in order, in as many threads as torch has, each with one of its own.

    Gradients are on in them where they are on here.
    """
    threads = torch.get_num_threads()
    if threads == 1:
        return [function(item) for item in items]
    grad = torch.is_grad_enabled()

    def call(context: contextvars.Context, item: Item) -> Result:
        with torch.set_grad_enabled(grad):
            return context.run(function, item)

    asked = list(items)
    return list(_pool(threads).map(call, [contextvars.copy_context() for _ in asked], asked))


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, "tile", initializer=torch.set_num_threads, initargs=(1,))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # threads stay with the parent


def _settled(
    function: Callable[[Tensor], Sequence[Tensor]],
    rows: int,
    owner: object,
    key: Hashable,
    device: torch.device | str,
) -> int:
    """Rows of a tile: as asked for, or 1 where a row's place in it makes a difference."""
    if rows == 1:
        return 1
    known = _SETTLED.setdefault(owner, {})
    kind = (key, rows)
    if kind not in known:
        (found,) = side_by_side(function, [torch.zeros(rows, dtype=torch.int64, device=device)])
        known[kind] = rows if all(_all_rows_equal(values) for values in found) else 1
    return known[kind]


def _all_rows_equal(values: Tensor) -> bool:
    """Whether all rows are the first one; what is not a number equals itself here."""
    first = values[:1]
    return bool(((values == first) | ((values != values) & (first != first))).all())


def log_sum_exp(values: Tensor, largest: Tensor) -> Tensor:
    """log Σ exp along the last dimension, with that dimension kept; what ``logsumexp`` says, to the bit.

    Args:
        values: (…, V), also of less precision than what is to be found.
        largest: (…, 1), the largest of them, which need not be looked for again.
    """
    shift = largest.clamp(-LARGEST, LARGEST)  # which keeps what is infinite from becoming no number
    return (values - shift).exp_().sum(-1, keepdim=True).log_().add_(shift)


LARGEST = torch.finfo(torch.float32).max


_ANEW = contextvars.ContextVar("constants are made anew", default=False)


def constant(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """A function of numbers and devices whose tensors are made once and kept; nobody may write to them."""

    def made(*given: Given.args, **named: Given.kwargs) -> Result:
        with torch.inference_mode(False), torch.no_grad():  # a later gradient may need them
            return function(*given, **named)

    kept = cast("Callable[Given, Result]", functools.lru_cache(maxsize=256)(made))

    @functools.wraps(function)
    def found(*given: Given.args, **named: Given.kwargs) -> Result:
        return function(*given, **named) if _ANEW.get() else kept(*given, **named)

    return found


@contextlib.contextmanager
def constants_anew() -> Iterator[None]:
    """While this lasts constants are made anew and not kept: by a graph that owns the memory it works in."""
    before = _ANEW.set(True)
    try:
        yield
    finally:
        _ANEW.reset(before)


@constant
def counted(size: int, device: torch.device) -> Tensor:
    """(size,) int32: 0, 1, 2, …"""
    return torch.arange(size, dtype=torch.int32, device=device)


def digest(weights: Mapping[str, Tensor], about: str = "") -> str:
    """Eight letters that stand for these weights and what is said about them."""
    total = hashlib.blake2b(about.encode(), digest_size=4)
    for name, value in sorted(weights.items()):
        total.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


@constant
def rotation_angles(
    length: int, dimension: int, device: torch.device, base: float = 10_000.0
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of RoPE, (length, dimension/2) each (arXiv 2104.09864)."""
    frequency = base ** (-torch.arange(0, dimension, 2, device=device) / dimension)
    angle = torch.arange(length, device=device)[:, None] * frequency
    return angle.cos(), angle.sin()


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates (…, n, dimension), the last n positions, by position, halves paired."""
    cosine, sine = (angles[-x.shape[-2] :] for angles in rotation)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cosine - second * sine, first * sine + second * cosine), -1)
