"""How far long work has come: a bar in a terminal, and anywhere else a plain line now and then."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column

EVERY = 30.0
"""Seconds between plain lines at most."""
TICKS = 10
"""How often within that time it is looked whether a line is due."""
PERIOD = 1200.0
"""Seconds that the time left is estimated from; one step of long work may take minutes."""
NARROW, WIDE = 12, 40
"""Widths of a bar in terminals of under and from ``ROOMY`` columns."""
ROOMY = 120


def terminal(room: int) -> Console:
    """The standard output, as wide as its terminal or as ``COLUMNS`` says; where nobody says, so wide.

    Texts come out as they are: square brackets stand in names and commands, and are no markup.
    """
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(markup=False) if known else Console(width=room, markup=False)


class Bar(Progress):
    """A progress bar with the figures that matter, which are never cut off: in a narrow terminal they wrap.

    Where the output is no terminal, a log for example, there is a line every ``EVERY`` seconds, also while nothing
    is told of how far it has come, and one for the end of a task.

    Args:
        console: where to; by default the standard output.
        transient: the bar goes when the work is done, and no line says that it is.
        every: seconds between lines.
    """

    def __init__(self, console: Console | None = None, transient: bool = False, every: float = EVERY) -> None:
        console = console or Console(markup=False)
        super().__init__(
            TextColumn("{task.description}", style="bold", markup=False),
            BarColumn(WIDE if console.width >= ROOMY else NARROW, table_column=Column(no_wrap=True)),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            TextColumn("{task.fields[figures]}", markup=False, table_column=Column(overflow="fold")),
            console=console,
            transient=transient,
            disable=not console.is_terminal,
            speed_estimate_period=PERIOD,
        )
        self.every, self.keeps = every, not transient
        self._said: dict[TaskID, tuple[float, str]] = {}
        self._ended = threading.Event()
        self._saying = threading.Lock()

    def add_task(self, description: str, *given: Any, **fields: Any) -> TaskID:
        """As rich's, with the figures ``figures``, none at first."""
        made = super().add_task(description, *given, **{"figures": "", **fields})
        self._said[made] = (time.monotonic(), "")
        return made

    def start(self) -> None:
        """As rich's."""
        super().start()
        if self.disable and self.every > 0:
            threading.Thread(target=self._tick, name="progress", daemon=True).start()

    def _tick(self) -> None:
        """In a thread: says where a task is of which nothing has been heard for a while."""
        while not self._ended.wait(self.every / TICKS):
            for task_id in self.task_ids:
                task = self._tasks[task_id]
                if not task.finished and time.monotonic() - self._said[task_id][0] >= self.every:
                    self._say(task_id, f", {_clock(task.elapsed or 0.0)} so far")

    def update(self, task_id: TaskID, **given: Any) -> None:
        """As rich's."""
        super().update(task_id, **given)
        if self.disable and time.monotonic() - self._said[task_id][0] >= self.every:
            self._say(task_id)

    def stop(self) -> None:
        """As rich's."""
        self._ended.set()
        super().stop()
        if self.disable and self.keeps:
            for task_id in self.task_ids:
                self._say(task_id)

    def _say(self, task_id: TaskID, more: str = "") -> None:
        with self._saying:
            text = in_words(self._tasks[task_id])
            if text != self._said[task_id][1] or more:
                self.console.print(text + more, markup=False, highlight=False, soft_wrap=True)
            self._said[task_id] = (time.monotonic(), text)


def in_words(task: Task) -> str:
    """``grpo 20/120 accuracy 91% NFE 10.2, 4:10 left``: a task as a line."""
    total = "?" if task.total is None else f"{task.total:g}"
    figures = f" {task.fields['figures']}" if task.fields["figures"] else ""
    if task.finished:
        return f"{task.description} {task.completed:g}/{total}{figures}, took {_clock(task.finished_time or 0.0)}"
    left = "" if task.time_remaining is None else f", {_clock(task.time_remaining)} left"
    return f"{task.description} {task.completed:g}/{total}{figures}{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
