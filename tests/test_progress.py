"""Bars in terminals of several widths, and lines in logs."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest
from rich.console import Console
from rich.table import Table

import dllm_env.progress
from dllm_env.progress import Bar, in_words, terminal

FIGURES = "accuracy 91% NFE 10.2 | validation accuracy 93.5% NFE 9.87"


def shown(bar: Bar) -> str:
    return bar.console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [80, 100, 160])
def test_nothing_of_a_bar_is_cut_off(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with Bar(console) as bar:
        task = bar.add_task("correction", total=12_000)
        bar.update(task, completed=20, figures=FIGURES)
        bar.refresh()
        rendered = Console(file=io.StringIO(), width=width, color_system=None)
        rendered.print(bar.get_renderable())
    text = rendered.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert "20/12000" in text
    assert "0:00:0" in text
    assert "-:--:--" in text
    assert set(FIGURES.split()) <= set(text.split())
    assert all(len(line.rstrip()) <= width for line in text.splitlines())


def plain(every: float, transient: bool = False) -> Bar:
    return Bar(Console(file=io.StringIO(), width=80), transient, every)


def test_a_log_gets_lines() -> None:
    with plain(0.0) as bar:
        task = bar.add_task("grpo", total=120, completed=19)
        bar.update(task, completed=20, figures=FIGURES)
        bar.update(task, completed=20)
    assert shown(bar) == f"grpo 20/120 {FIGURES}\n"


def test_a_log_hears_of_what_says_nothing() -> None:
    with plain(0.05) as bar:
        bar.add_task("evaluation", total=512)
        for _ in range(200):
            time.sleep(0.02)
            if shown(bar).count("\n") > 1:
                break
    assert shown(bar).startswith("evaluation 0/512, 0:00 so far\nevaluation 0/512, 0:00 so far\n")


def test_no_more_than_one_in_so_many_seconds_and_one_at_the_end() -> None:
    with plain(1000.0) as bar:
        task = bar.add_task("grpo", total=2)
        bar.update(task, advance=1)
        assert shown(bar) == ""
        bar.update(task, advance=1, figures="[done]")
    assert shown(bar) == "grpo 2/2 [done], took 0:00\n"


def test_what_is_transient_says_nothing_at_the_end() -> None:
    with plain(1000.0, transient=True) as bar:
        bar.update(bar.add_task("evaluation", total=2), completed=2)
    assert shown(bar) == ""


def test_times_in_words() -> None:
    with plain(1000.0) as bar:
        task = bar.add_task("grpo", total=3)
        now = [0.0]
        bar.get_time = lambda: now[0]
        bar.tasks[0]._get_time = bar.get_time
        bar.reset(task)
        for now[0], done in ((0.0, 0), (100.0, 1), (200.0, 2)):
            bar.update(task, completed=done)
        assert in_words(bar.tasks[0]) == "grpo 2/3, 1:40 left"
        now[0] = 4000.0
        bar.update(task, completed=3)
        assert in_words(bar.tasks[0]) == "grpo 3/3, took 1:06:40"


def test_square_brackets_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """They stand in paths, commands and extras; rich would take them for markup."""
    table = Table("[policy]", title="of [runs]")
    table.add_row("runs/[b]:alpha=1")
    terminal(80).print(table, "pip install 'dllm-env[hf]'")
    said = capsys.readouterr().out
    for text in ("[policy]", "of [runs]", "runs/[b]:alpha=1", "dllm-env[hf]"):
        assert text in said


def test_no_console_reads_markup() -> None:
    """In the package; what it prints is names and texts of others."""
    package = Path(dllm_env.progress.__file__).parents[1]
    files = [file for room in ("dllm_env", "policies", "train", "eval") for file in (package / room).rglob("*.py")]
    made = [
        (file.name, call) for file in files for call in re.findall(r"Console\([^)]*\)", file.read_text("utf-8"))
    ]
    assert len(made) > 5
    assert [one for one in made if "markup=False" not in one[1]] == []
