"""Lists for the terminal: what can be named on the command line, and one of them explained."""

from __future__ import annotations

import inspect
import re
import shutil
import textwrap
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any

from rich.table import Table

from dllm_env.errors import UsageError
from dllm_env.policies.references import REFERENCES
from dllm_env.policies.registry import HEURISTICS, load_heuristic
from dllm_env.progress import terminal
from dllm_env.reading import meant
from dllm_env.specs import write_value
from dllm_env.tasks.base import SPLITS, Task
from dllm_env.tasks.benchmarks import BENCHMARKS
from dllm_env.tasks.load import TASKS, load_task
from dllm_env.tasks.reasoning_gym import ReasoningGym, names

FLAGS = ("data", "allow_code_execution")
"""Settings of tasks that have flags of their own."""


def show_tasks() -> None:
    """Tasks and benchmarks with their settings."""
    kinds: dict[str, Any] = {**TASKS, **BENCHMARKS}
    rows = [(name, _settings(kind), _first_line(kind)) for name, kind in kinds.items()]
    rows.append(("reasoning-gym:NAME", "those of the data set", _first_line(ReasoningGym)))
    _show("tasks: --task NAME, NAME:SETTING=VALUE,… or NAME+NAME", ("name", "settings and defaults", "what"), rows)
    print(f"Data sets of reasoning-gym: {', '.join(names()) or 'it is not installed'}.")


def show_policies() -> None:
    """The unmasking rules with their parameters."""
    rows = [(name, _settings(rule), _first_line(rule)) for name, rule in HEURISTICS.items()]
    title = "unmasking rules: --policies NAME, NAME:VALUE or NAME:PARAMETER=VALUE,…"
    _show(title, ("name", "parameters and defaults", "what it unmasks"), rows)
    rows = [(name, _settings(kind), _first_line(kind)) for name, kind in REFERENCES.items()]
    _show("references, for comparison: they see how a problem is scored", ("name", "settings", "what"), rows)
    print(
        "A rule of your own is a class in a file: --policies 'my_rules.py:MyRule(k=2)'. A learned policy is its "
        "run's folder: --policies runs/x, or with settings runs/x:temperature=0.5."
    )


# ------------------------------------------------------------------------------------------------ one of them

PAPER = re.compile(r"arXiv[ :](\d{4}\.\d{4,5})")
WIDEST = 100
"""Columns of text."""


def explain_policy(text: str) -> None:
    """A rule or reference: what it does, its settings, its paper, a command.

    Args:
        text: its name, with settings or without.

    Raises:
        UsageError: there is no such one, or it has no such settings.
    """
    name = text.partition(":")[0]
    known: dict[str, Any] = {**HEURISTICS, **REFERENCES}
    kind = _known(name, known, "rule", "policies")
    if name in HEURISTICS:
        load_heuristic(text)
    remasks = " --allow-remask" if getattr(kind, "remasks", False) else ""
    numbers = [field for field in _fields(kind) if type(field.default) in (int, float)]
    setting = next((f"{name}:{field.name}={_shown(field.default)}" for field in numbers), name)
    commands = [f"dllm-env eval {setting} --problems 100{remasks}"]
    if name in HEURISTICS:
        commands.append(f"dllm-env generate --policy {setting}{remasks}")
    _explain(name, kind, _papers(kind), commands)


def explain_task(text: str) -> None:
    """A task: what is asked, its settings, size and splits, and, where nothing has to be fetched, a problem.

    Args:
        text: its name, with settings or without.

    Raises:
        UsageError: there is no such one, or it has no such settings.
    """
    name, _, settings = text.partition(":")
    known: dict[str, Any] = {**TASKS, **BENCHMARKS, "reasoning-gym": ReasoningGym}
    kind = _known(name, known, "task", "tasks")
    allow = " --allow-code-execution" if getattr(kind, "runs_code", False) else ""
    facts = _papers(kind)
    if name in TASKS:
        facts += _problem(load_task(text))
        commands = [
            f"dllm-env eval threshold:0.9 --task {text} --problems 100",
            f"dllm-env train grpo --task {text}",
        ]
    elif name == "reasoning-gym":
        facts.append(f"data sets: {', '.join(names()) or 'reasoning-gym is not installed'}")
        if settings:
            problem = load_task(text).problem(0, "test")
            facts += ["a test problem:", f"  prompt: {problem.prompt}", f"  answer: {problem.answer[0]}"]
        shown = text if settings else "reasoning-gym:leg_counting"
        commands = [f"dllm-env eval threshold:0.9 --task {shown} --denoiser FOLDER --problems 100"]
    else:
        facts.append("problems: from the Hugging Face Hub, or from --data FILE (docs/benchmarks.md)")
        commands = [f"dllm-env eval threshold:0.9 --task {name} --denoiser FOLDER{allow}"]
    _explain(name, kind, facts, commands)


def _known(name: str, known: dict[str, Any], what: str, command: str) -> Any:
    if name not in known:
        raise UsageError(f"unknown {what} {name!r}{meant(name, known)}; see dllm-env {command}")
    return known[name]


def _papers(kind: Any) -> list[str]:
    found = list(dict.fromkeys(PAPER.findall(inspect.getdoc(kind) or "")))
    return [f"source: {', '.join(f'https://arxiv.org/abs/{number}' for number in found)}"] if found else []


def _problem(task: Task) -> list[str]:
    """Size, lengths, and the first test problem with its answer."""
    size: Any = getattr(task, "size", None)
    counts = ", ".join(f"{split} {size(split):,}" if size else split for split in SPLITS)
    problem = task.problem(0, "test")
    template = [f"  response begins with: {problem.template}"] if problem.template else []
    return [
        f"problems: {counts}{'' if size else '; without end, each from its seed and index'}",
        f"lengths: {task.prompt_length} prompt tokens, {task.response_length} response tokens",
        "the first test problem:",
        f"  prompt: {problem.prompt}",
        *template,
        f"  answer: {' '.join(problem.answer)}",
    ]


def _explain(name: str, kind: Any, facts: Sequence[str], commands: Sequence[str]) -> None:
    width = min(shutil.get_terminal_size().columns, WIDEST)
    doc = (inspect.getdoc(kind) or "").partition("\nAttributes:")[0].replace("``", "").strip()
    parts = [" ".join(part.split()) for part in doc.split("\n\n")]
    print(name + "\n\n" + "\n\n".join(textwrap.fill(part, width, break_on_hyphens=False) for part in parts))
    if settings := _fields(kind):
        print("\nsettings and defaults")
        about = _attributes(kind)
        for field in settings:
            given = field.name if field.default is MISSING else f"{field.name}={_shown(field.default)}"
            line = given + (f": {about[field.name]}" if field.name in about else "")
            print(textwrap.fill(line, width, initial_indent="  ", subsequent_indent="      "))
    print(*(["", *(_wrapped(fact, width) for fact in facts)] if facts else []), sep="\n", end="\n" if facts else "")
    print("\nexamples", *(f"  {command}" for command in commands), sep="\n")


def _wrapped(text: str, width: int) -> str:
    indent = " " * (len(text) - len(text.lstrip()))
    return textwrap.fill(text.strip(), width, initial_indent=indent, subsequent_indent=indent + "    ")


def _attributes(kind: Any) -> dict[str, str]:
    """What a docstring says of each setting."""
    _, _, said = (inspect.getdoc(kind) or "").partition("\nAttributes:\n")
    found = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", said, re.MULTILINE)
    return {name: " ".join(text.replace("``", "").split()) for name, text in found}


def _shown(value: Any) -> str:
    return (
        "+".join(map(str, value))
        if isinstance(value, tuple) and value
        else write_value(value)
        if value not in ("", ())
        else "(none)"
    )


# ------------------------------------------------------------------------------------------------- the lists


def _fields(kind: Any) -> list[Any]:
    """The settings that stand behind a name."""
    return [field for field in fields(kind) if field.init and field.name not in FLAGS]


def _settings(kind: Any) -> str:
    return ", ".join(f"{field.name}={_shown(field.default)}" for field in _fields(kind))


def _first_line(kind: Any) -> str:
    return (kind.__doc__ or "").partition("\n")[0].replace("``", "")


def _show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; in a narrow terminal texts wrap, and names never do."""
    shown = Table(title=title)
    for number, column in enumerate(columns):
        shown.add_column(column, no_wrap=number == 0, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    terminal(160).print(shown)
