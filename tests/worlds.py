"""Threads that stand for processes which were started together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from dllm_env.world import World


@dataclass
class Meeting:
    """Where threads that stand for processes tell each other values."""

    size: int
    values: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.values = [None] * self.size
        self.barrier = threading.Barrier(self.size, timeout=60)


@dataclass(frozen=True)
class Thread(World):
    """A thread that stands for a process."""

    meeting: Meeting | None = None

    def gather(self, value: Any) -> list[Any]:
        assert self.meeting is not None
        self.meeting.values[self.rank] = value
        self.meeting.barrier.wait()
        told = list(self.meeting.values)
        self.meeting.barrier.wait()
        return told


def together(size: int, work: Callable[[World], Any]) -> list[Any]:
    """What each of so many processes returns."""
    meeting, found = Meeting(size), [None] * size

    def run(rank: int) -> None:
        found[rank] = work(Thread(rank, size, meeting))

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
