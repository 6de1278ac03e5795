"""Lists for the terminal: what can be named on the command line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from rich.console import Console
from rich.table import Table

from dllm_env.policies.references import REFERENCES
from dllm_env.policies.registry import HEURISTICS
from dllm_env.tasks.benchmarks import BENCHMARKS
from dllm_env.tasks.load import TASKS
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


def _settings(kind: Any) -> str:
    given = [field for field in fields(kind) if field.init and field.name not in FLAGS]
    return ", ".join(f"{field.name}={field.default}" for field in given)


def _first_line(kind: Any) -> str:
    return (kind.__doc__ or "").partition("\n")[0]


def _show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table, wide where the output is no terminal."""
    shown = Table(*columns, title=title)
    for row in rows:
        shown.add_row(*row)
    (Console() if sys.stdout.isatty() else Console(width=160)).print(shown)
