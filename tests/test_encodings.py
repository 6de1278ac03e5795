"""Terminals and pipes that are not UTF-8, and files that are, whatever the machine prefers."""

from __future__ import annotations

import ast
import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import dllm_env
from dllm_env import eval as evaluation
from dllm_env import policies, train

ROOT = Path(__file__).parents[1]
RULE = """
from dllm_env.denoisers.base import Extras
from dllm_env.policies.base import Decision

class Rule:
    context, top, extras = "full", 1, Extras()

    def act(self, observation, random):
        return Decision(observation.selectable)
"""
NAME = "r\udce9gle.py"  # what Python makes of a file's name that is not UTF-8
PROGRAM = """
import sys
from dllm_env.cli import main
for arguments in {commands}:
    print("#", arguments[0], main(arguments))
"""


@pytest.mark.parametrize(
    ("encoding", "environment"),
    [
        ("cp1252", {"PYTHONIOENCODING": "cp1252"}),
        # As where Python's own files are ASCII by default, too.
        ("ascii", {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}),
    ],
)
def test_no_command_fails_for_a_character(encoding: str, environment: dict[str, str], tmp_path: Path) -> None:
    """Among them half of a surrogate pair, and characters of no Western encoding."""
    try:
        (tmp_path / NAME).write_text(RULE, encoding="utf-8")
    except (OSError, ValueError):
        pytest.skip("names of files have to be UTF-8 here")
    out = tmp_path / ("results" if "LC_ALL" in environment else "r\u00e9sultats \u4e2d")
    commands = [
        ["eval", "--policies", f"{NAME}:Rule()", "leftmost:20", "threshold:0.5", "--problems", "2"],
        ["report", str(out)],
        ["generate", "--policy", "leftmost:20"],
        ["policies"],
        ["tasks"],
        ["--help"],
        ["eval", "--policies", "\u4e2d:1"],
    ]
    commands[0] += ["--workers", "1", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(commands=ascii(commands))],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")} | environment,
        capture_output=True,
        check=False,
    )
    said, complained = done.stdout.decode(encoding), done.stderr.decode(encoding)
    assert done.returncode == 0, complained
    codes = [line.rpartition(" ")[2] for line in said.splitlines() if line.startswith("# ")]
    assert codes == ["0"] * 6 + ["2"], complained
    assert "r\\udce9gle.py:Rule()" in said
    assert "Traceback" not in complained
    found = json.loads((out / "results.json").read_text(encoding="utf-8"))
    assert found[0]["policy"] == f"{NAME}:Rule()"
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.DictReader(file))) == 3
    assert "gle.py:Rule()" in (out / "report.html").read_text(encoding="utf-8")


def source_files() -> list[Path]:
    folders = [Path(module.__path__[0]) for module in (dllm_env, policies, train, evaluation)]
    return [file for folder in (*folders, ROOT / "examples", ROOT / "benchmarks") for file in folder.rglob("*.py")]


def test_every_text_file_is_opened_with_its_encoding() -> None:
    left = []
    for file in source_files():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and opens_text(node):
                left += [f"{file}:{node.lineno}"] * all(keyword.arg != "encoding" for keyword in node.keywords)
    assert left == []


def opens_text(call: ast.Call) -> bool:
    """Whether a call is of ``read_text``, ``write_text`` or ``open`` in a text mode."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name in ("read_text", "write_text"):
        return True
    if name != "open":
        return False
    given = [argument.value if isinstance(argument, ast.Constant) else None for argument in call.args]
    is_method = isinstance(call.func, ast.Attribute)
    if is_method and not all(isinstance(value, str) for value in given):
        return False  # os.open, or no file at all
    mode = (given if is_method else given[1:])[:1]
    return "b" not in str(mode)
