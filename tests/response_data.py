"""Problems of the benchmarks in their true fields, and responses to them with the scores that they deserve.

``data/responses.jsonl`` has a line for each response: its task, the answer or the name of its problem, what is
remarkable about it, the text and the score that a fair reader of the prompt gives. A text that repeats something is
a list: what is before, what is repeated, how often, and what is behind.
"""

from __future__ import annotations

import csv
import functools
import json
from pathlib import Path
from typing import Any

import pytest

from dllm_env.errors import UsageError
from dllm_env.grading import sandbox

FOLDER = Path(__file__).parent / "data"
PROBLEMS: dict[str, list[dict[str, Any]]] = json.loads((FOLDER / "response_problems.json").read_text("utf-8"))
QUICK = sandbox.Limits(seconds=1, wall_seconds=5)


def write_problems(folder: Path) -> None:
    """A folder with a small test split of each benchmark."""
    for kind, rows in PROBLEMS.items():
        (folder / kind).mkdir()
        if kind == "sudoku4":
            with open(folder / kind / "test.csv", "w", newline="") as file:
                csv.writer(file).writerows([list(rows[0]), *(list(row.values()) for row in rows)])
        else:
            (folder / kind / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def responses(task: str) -> list[Any]:
    """The responses to a task as parameters: about, response, score."""
    found = []
    for line in (FOLDER / "responses.jsonl").read_text("utf-8").splitlines():
        case = json.loads(line)
        if case["task"] == task:
            said = case["response"]
            text = said if isinstance(said, str) else said[0] + said[1] * said[2] + said[3]
            found.append(pytest.param(case["about"], text, case["score"], id=case["name"]))
    return found


def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs that never end are ended sooner; where none can be run, the test is skipped."""
    try:
        sandbox.find_sandbox()
    except UsageError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(sandbox, "run", functools.partial(sandbox.run, limits=QUICK))
