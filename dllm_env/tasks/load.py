"""Tasks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dllm_env.errors import UsageError
from dllm_env.grading.sandbox import find_sandbox
from dllm_env.specs import parse_settings
from dllm_env.tasks.base import Task
from dllm_env.tasks.benchmarks import BENCHMARKS, NOT_ALLOWED
from dllm_env.tasks.mixture import Mixture
from dllm_env.tasks.reasoning_gym import ReasoningGym
from dllm_env.tasks.sudoku import Sudoku
from dllm_env.tasks.trace import Trace

TASKS: dict[str, Callable[..., Task]] = {"trace": Trace, "sudoku": Sudoku}
"""Tasks by name; ``load_task`` gives the settings after the colon as keyword arguments."""


def load_task(task: str | Task, data: str = "", allow_code_execution: bool = False) -> Task:
    """A task by name.

    Bundled ones and benchmarks take settings after a colon: ``trace``, ``trace:chains=4``, ``gsm8k:shots=4``. Data
    sets of reasoning-gym are ``reasoning-gym:NAME`` or ``reasoning-gym:NAME,setting=value``. Names with ``+``
    between them are a mixture: ``gsm8k+math``.

    Args:
        task: the name, or a task, which is returned as it is.
        data: file or folder with the benchmark's problems; without it, they come from the Hub.
        allow_code_execution: let tasks that are judged by running programs do so.

    Raises:
        UsageError: no such task or setting, or one that runs programs and may not, or cannot.
    """
    if not isinstance(task, str):
        return task
    if "+" in task:
        names = task.split("+")
        taking = [part for part in names if _takes_data(part)] or names
        parts = (load_task(part, data if part in taking else "", allow_code_execution) for part in names)
        return Mixture(tuple(parts))
    name, _, text = task.partition(":")
    if data and not _takes_data(task):
        raise UsageError(f"task {name!r} makes its own problems, so that it takes no data")
    if name in TASKS:
        return _with_settings(task, TASKS[name], parse_settings(text))
    if name == "reasoning-gym":
        dataset, _, rest = text.partition(",")
        return ReasoningGym(dataset, tuple(parse_settings(rest).items()))
    if name not in BENCHMARKS:
        known = ", ".join([*TASKS, *BENCHMARKS, "reasoning-gym:NAME"])
        raise UsageError(f"unknown task {name!r}; choose one of {known}")
    settings = parse_settings(text) | ({"data": data} if data else {})
    if BENCHMARKS[name].runs_code:
        if allow_code_execution is not True:
            raise UsageError(NOT_ALLOWED.format(name))
        find_sandbox()
        settings["allow_code_execution"] = True
    return _with_settings(task, BENCHMARKS[name], settings)


def _takes_data(task: str) -> bool:
    name = task.partition(":")[0]
    return name not in TASKS and name != "reasoning-gym"


def _with_settings(task: str, make: Callable[..., Task], settings: dict[str, Any]) -> Task:
    try:
        return make(**settings)
    except TypeError:
        name, _, text = task.partition(":")
        raise UsageError(f"task {name!r} does not take the settings {text!r}") from None
