"""The processes of one command under ``torchrun`` or ``accelerate launch``: who does what, and what all are told.

Every process reads the same settings and draws the same random numbers. Work is divided by rows, and what came out
is told to all, so that each goes on as a lone process would; only the first one writes files and prints.
"""

from __future__ import annotations

import functools
import itertools
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from dllm_env.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

Value = TypeVar("Value")

LOOK = 0.02
"""Seconds between looks for an order of the first process."""


def size_of_world() -> int:
    """How many processes were started together, as ``torchrun`` tells each of them."""
    known = all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"))
    return int(os.environ["WORLD_SIZE"]) if known else 1


def rank_of_process() -> int:
    """The number of this process among them; 0 of one that is alone."""
    return int(os.environ["RANK"]) if size_of_world() > 1 else 0


@dataclass(frozen=True)
class World:
    """The processes of a command.

    Attributes:
        rank: number of this one.
        size: how many there are.
    """

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes and prints."""
        return self.rank == 0

    def share(self, count: int, together: int = 1) -> list[int]:
        """Which of so many rows are this process's; so many neighbours stay together."""
        return [row for row in range(count) if row // together % self.size == self.rank]

    def gather(self, value: Value) -> list[Value]:
        """The value of each process, by rank; tensors in it are better on the processor."""
        if self.size == 1:
            return [value]
        from accelerate.utils import gather_object

        return list(gather_object([value]))

    def told(self, value: Value) -> Value:
        """The first process's value."""
        return self.gather(value if self.first else None)[0]  # type: ignore[return-value]

    def joined(self, own: Sequence[Tensor]) -> Tensor:
        """The numbers of all processes, on the processor where there are several; none where nobody has any."""
        import torch

        if self.size == 1:
            return torch.cat(list(own)) if own else torch.zeros(0)
        told = self.gather([part.cpu() for part in own])
        return torch.cat([torch.zeros(0), *(part for parts in told for part in parts)])

    def wait(self) -> None:
        """Until all are here."""
        self.gather(None)

    def sum_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Adds the gradients of all processes, the same in each of them to the last bit."""
        import torch

        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.requires_grad:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                torch.distributed.all_reduce(parameter.grad)


ALONE = World()


@functools.cache
def this_world() -> World:
    """The processes that were started with this one, which can talk to each other from now on.

    Raises:
        UsageError: there are several, and accelerate is missing.
    """
    if size_of_world() == 1:
        return World()
    try:
        import torch
        from accelerate import PartialState
    except ImportError:
        raise UsageError("several processes need accelerate: pip install 'dllm-env[hf]'") from None
    state: Any = PartialState(cpu=not torch.cuda.is_available())
    return World(state.process_index, state.num_processes)


def store_of(world: World) -> Any:
    """Where the processes leave each other short notes; None of one that is alone."""
    if world.size == 1:
        return None
    from torch.distributed.distributed_c10d import _get_default_store

    return _get_default_store()


class Orders:
    """What the first process asks of the others, which wait for it however long it takes.

    A wait for what all are told would end with an error after some minutes, and could not be interrupted.

    Args:
        world: the processes.
        store: where they leave notes; by default ``store_of``.
    """

    def __init__(self, world: World, store: Any = None) -> None:
        self.world, self.number = world, 0
        self.store = store_of(world) if store is None else store

    def give(self, order: object) -> None:
        """By the first process: tells all others."""
        self.store.set(self._name(), "more")
        self.number += 1
        self.world.told(order)

    def end(self, failed: bool = False) -> None:
        """By the first process: no more; all meet once again, but after an error it waits for nobody."""
        self.store.set(self._name(), "failed" if failed else "end")
        if not failed:
            self.world.wait()  # so that nobody looks for an order when this process is gone

    def take(self) -> Iterator[Any]:
        """By the others: one order after the other, until the end."""
        while (said := self._hear()) == b"more":
            self.number += 1
            yield self.world.told(None)
        if said == b"end":
            self.world.wait()

    def _hear(self) -> bytes:
        while not self.store.check([self._name()]):
            time.sleep(LOOK)
        return bytes(self.store.get(self._name()))

    def _name(self) -> str:
        return f"dllm_env/order/{self.number}"


class Counter:
    """A number that all processes count up together; they make their counters in the same order.

    Args:
        world: the processes.
    """

    _made = itertools.count()

    def __init__(self, world: World) -> None:
        self.own, self._store = 0, store_of(world)
        if world.size > 1:
            self.name = f"dllm_env/{next(self._made)}"

    def add(self, more: int) -> int:
        """Counts so many, and returns how many there are then."""
        self.own += more
        return self.own if self._store is None else int(self._store.add(self.name, more))
