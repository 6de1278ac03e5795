"""Tasks by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NewType

from dllm_env.errors import UsageError
from dllm_env.grading.sandbox import find_sandbox
from dllm_env.reading import meant
from dllm_env.specs import literal, load, read_settings, several, split, typed
from dllm_env.tasks.base import Task
from dllm_env.tasks.benchmarks import BENCHMARKS, NOT_ALLOWED
from dllm_env.tasks.cascade import Cascade
from dllm_env.tasks.choice import Choice
from dllm_env.tasks.copying import Copy
from dllm_env.tasks.mixture import Mixture
from dllm_env.tasks.reasoning_gym import ReasoningGym
from dllm_env.tasks.sudoku import Sudoku
from dllm_env.tasks.trace import Trace
from dllm_env.user_code import file_part, load_from_file, parameters

TASKS: dict[str, Callable[..., Task]] = {
    "trace": Trace,
    "sudoku": Sudoku,
    "cascade": Cascade,
    "choice": Choice,
    "copy": Copy,
}
"""Tasks by name; ``load_task`` gives the settings after the colon as keyword arguments."""


NAMES = (*TASKS, *BENCHMARKS, "reasoning-gym")
"""What a task's name may be."""


if TYPE_CHECKING:
    TaskLike = str | Task
else:
    TaskLike = NewType("TaskLike", str)  # what a command line can say; an object is for Python
"""A task, or the text that names one."""


def load_task(task: str | Task, data: str = "", allow_code_execution: bool = False) -> Task:
    """A task by name, or a mixture of several with ``+`` between them: ``gsm8k+math``.

    Names are by the grammar of ``specs``: ``trace``, ``trace:chains=4``, ``gsm8k:shots=4``, ``my.py:MyTask``. Data
    sets of reasoning-gym are ``reasoning-gym:NAME`` or ``reasoning-gym:NAME,setting=value``.

    Data that are given are played, or there is an error; a mixture's are for all parts that take data and have none
    of their own (``gsm8k:data=PATH+humaneval``).

    Args:
        task: the name, or a task, which is returned as it is.
        data: file or folder with the benchmark's problems; without it, they come from the Hub.
        allow_code_execution: let tasks that are judged by running programs do so.

    Raises:
        UsageError: no such task or setting, data that it does not take, or one that runs programs and may not, or
            cannot.

    Examples:
        >>> task = load_task("sudoku")
        >>> problem = task.problem(0, "test")
        >>> problem.prompt.count("."), task.score(problem, "1 2 3 4")
        (11, 0.0)
    """
    if not isinstance(task, str):
        if data:
            raise UsageError("data are for a task by name; a task that is made already has its own")
        return task
    names = several(task, NAMES)
    if len(names) == 1:
        return _one(names[0], data, allow_code_execution)
    if data and not takes_data(task):
        raise UsageError(f"no part of {task!r} takes the data {data!r}")
    parts = ((part, data if takes_data(part) else "") for part in names)
    return Mixture(tuple(_one(part, given, allow_code_execution) for part, given in parts))


def _one(task: str, data: str, allow_code_execution: bool) -> Task:
    """A task that is no mixture."""
    name, written = split(task, NAMES)
    if data and not takes_data(task) and (name in NAMES or file_part(task)):
        raise UsageError(f"task {task!r} makes its own problems, or has its data in its name, so it takes no data")
    if (place := file_part(task)) is not None:
        made = load_from_file(place, "task", ("problem", "score", "name", "prompt_length", "response_length")).value
        if getattr(made, "runs_code", False) and allow_code_execution is not True:
            raise UsageError(NOT_ALLOWED.format(task))
        return made
    if name not in BENCHMARKS and name != "reasoning-gym":
        if name not in TASKS:
            known = ", ".join([*TASKS, *BENCHMARKS, "reasoning-gym:NAME"])
            near = meant(name, (*TASKS, *BENCHMARKS))
            raise UsageError(
                f"unknown task {name!r}{near}; choose one of {known}, or a class in a file: my.py:MyTask"
            )
        return load(task, TASKS, "task")
    settings = read_settings(written)
    if name == "reasoning-gym":
        dataset = settings.pop("", "") or settings.pop("dataset", "")
        return ReasoningGym(dataset, tuple((key, literal(value)) for key, value in settings.items()))
    if BENCHMARKS[name].runs_code and allow_code_execution is not True:
        raise UsageError(NOT_ALLOWED.format(name))
    kinds = {key: kind for key, kind in parameters(BENCHMARKS[name]).items() if key != "allow_code_execution"}
    values = typed(settings, kinds, f"task {name!r}") | ({"data": data} if data else {})
    if BENCHMARKS[name].runs_code:
        find_sandbox()
        values["allow_code_execution"] = True
    return BENCHMARKS[name](**values)


def takes_data(task: str) -> bool:
    """Whether data can be given for a task, or for a part of it: for benchmarks whose names do not have some."""
    return any(
        name in BENCHMARKS and not {"", "data"} & read_settings(written).keys()
        for name, written in (split(part, NAMES) for part in several(task, NAMES))
    )
