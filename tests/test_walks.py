"""Walks through the terminal, of 80 columns: commands of ``tests/walks``, and what has to be seen.

A line that begins with ``$`` is a command, one with ``!`` a part of the one line with which it is refused, and any
other a part of what it prints. What a command prints is no wider than the terminal, but for commands and paths.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from dllm_env.cli import main

WALKS = sorted(Path(__file__).with_name("walks").glob("*.txt"))
TABLES = ("│", "┃", "━", "─")


def steps(walk: Path) -> list[tuple[str, list[str]]]:
    """Commands, each with the lines after it."""
    found: list[tuple[str, list[str]]] = []
    for line in walk.read_text(encoding="utf-8").splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        elif not line.startswith("#"):
            found[-1][1].append(line)
    return found


@pytest.mark.parametrize("walk", WALKS, ids=[walk.stem for walk in WALKS])
def test_a_walk(
    walk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for command, seen in steps(walk):
        refused = any(line.startswith("!") for line in seen)
        status = main(shlex.split(command)[1:])
        said = capsys.readouterr()
        assert status == (2 if refused else 0), f"{command}: {said.err}"
        text = said.err if refused else said.out
        for line in seen:
            assert line.removeprefix("! ") in text, f"{command}: {line!r} is not in\n{text}"
        if refused:
            assert text.startswith("dllm-env: ")
            assert text.count("\n") == 1
        rows = [line for line in said.out.splitlines() if line.startswith(TABLES)]
        assert all(len(row) <= 80 for row in rows), command
