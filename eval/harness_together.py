"""The lm-evaluation-harness in several processes: it runs in the first one, and all share what its model has to do.

The harness has a way of its own to divide documents among processes. With it, examples in prompts are drawn anew in
each of them, requests are repeated where shares differ in size, and samples change their order. Here it sees one
process, and so its prompts, files and figures are those of one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from dllm_env.world import ALONE, Orders, World

Made = TypeVar("Made")


class Together:
    """The processes that share a model's work. The first one has the model that the harness asks.

    Args:
        world: the processes.
        store: of ``Orders``.
    """

    def __init__(self, world: World = ALONE, store: Any = None) -> None:
        self.world = world
        self.orders = Orders(world, store) if world.size > 1 else None

    def ask(self, name: str, *arguments: object) -> None:
        """By the first process: all others call this method of what they have made; alone it does nothing."""
        if self.orders is not None and self.world.first:
            self.orders.give((name, arguments))

    def divided(self, owners: Sequence[int], make: Callable[[list[int]], Sequence[Made]]) -> list[Made]:
        """What is made of each row, by the process that it falls to; all get everything, and have to call this.

        Args:
            owners: one number for each row; rows of one number stay together.
            make: makes something of each of these rows.
        """
        mine = [row for row, owner in enumerate(owners) if owner % self.world.size == self.world.rank]
        made = make(mine) if mine else []
        found = {
            row: one
            for rows, values in self.world.gather((mine, made))
            for row, one in zip(rows, values, strict=True)
        }
        return [found[row] for row in range(len(owners))]

    def any(self, said: bool) -> bool:
        """Whether a process says so."""
        return any(self.world.gather(said))

    def help(self, load: Callable[..., Any]) -> None:
        """By others than the first: does what that asks, until its end.

        Args:
            load: makes what has the methods that are asked for, of what the first order says.
        """
        assert self.orders is not None
        made = None
        with shared_by(self):
            for name, arguments in self.orders.take():
                if name == LOAD:
                    made = load(*arguments)
                else:
                    getattr(made, name)(*arguments)

    def end(self, failed: bool) -> None:
        """By the first process: the others may go."""
        if self.orders is not None:
            self.orders.end(failed)


LOAD = "load"
"""The first order."""

_ALONE = Together()
_now: ContextVar[Together] = ContextVar("together")


def with_whom() -> Together:
    """The processes that share the work of what is made now."""
    return _now.get(_ALONE)


@contextmanager
def shared_by(together: Together) -> Iterator[None]:
    """What is made meanwhile has its work shared by these processes."""
    before = _now.set(together)
    try:
        yield
    finally:
        _now.reset(before)


@contextmanager
def asking(together: Together) -> Iterator[None]:
    """``shared_by``, by the first process, after which the others may go."""
    failed = True
    try:
        with shared_by(together):
            yield
        failed = False
    finally:
        together.end(failed)
