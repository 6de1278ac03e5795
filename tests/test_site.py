"""The documentation: what it says of every name, how pages are made, and that tutorials and examples run."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

import dllm_env
from dllm_env.rules import Rules

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TUTORIALS = sorted(DOCS.glob("tutorials/*.ipynb"))
WITH_EXAMPLES = (
    *("dllm_env", "dllm_env.rules", "dllm_env.errors", "dllm_env.denoisers.base", "dllm_env.denoisers.load"),
    *("dllm_env.dynamics", "dllm_env.env", "dllm_env.vector_env", "dllm_env.rewards", "dllm_env.tasks.load"),
    *("dllm_env.policies.generate", "dllm_env.policies.learned", "dllm_env.policies.rollout"),
    *("dllm_env.eval.evaluate", "dllm_env.train.grpo"),
)


@pytest.fixture
def hooks(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("mkdocs", reason="needs mkdocs: pip install 'dllm-env[docs]'")
    monkeypatch.syspath_prepend(DOCS)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return importlib.import_module("hooks")


def test_every_public_name_is_in_the_reference() -> None:
    page = (DOCS / "api.md").read_text()
    assert [name for name in dllm_env.__all__ if f"::: dllm_env.{name}\n" not in page] == []


def test_every_logged_metric_is_explained() -> None:
    source = "\n".join(path.read_text() for path in (ROOT / "train").glob("*.py") if path.name != "curves.py")
    found = set(re.findall(r'record(?:_mean)?\(\s*f?"(\w+/[\w{}.]+)"', source))
    found |= set(re.findall(r'"(rollout/\w+)":', source))
    names = {re.sub(r"\{(?!name)[\w.]+\}", "PART", name) for name in found}
    names -= {"validation/{name}", "rewards/{name}", "value_accuracy/{name}"}
    names |= {"validation/reward", "validation/accuracy", "validation/nfe", "rewards/NAME", "value_accuracy/PART"}
    assert len(names) > 25
    page = (DOCS / "metrics.md").read_text()
    assert sorted(name for name in names if f"`{name}`" not in page) == []


def test_tables_of_settings_are_the_code(hooks: ModuleType) -> None:
    rows = hooks.settings("dllm_env.rules.Rules").splitlines()
    assert len(rows) == 2 + len(Rules.__dataclass_fields__)
    assert rows[2] == "| `response_length` | `0` | L, tokens to generate; 0 takes the task's. |"
    assert "BL &lt; L is semi-autoregressive" in rows[3]


@pytest.mark.parametrize("page", ["settings.md", "environment.md"])
def test_every_named_class_has_settings(hooks: ModuleType, page: str) -> None:
    named = [what for kind, what in hooks.MARK.findall((DOCS / page).read_text()) if kind == "settings"]
    assert named
    assert all(hooks.settings(name).count("\n") > 1 for name in named)


def test_notebooks_become_pages(hooks: ModuleType) -> None:
    streams = [{"name": "stdout", "text": ["5\n"]}, {"name": "stderr", "text": ["a warning"]}]
    cells = [
        {"cell_type": "markdown", "source": ["# A title\n", "and [a page](../x.md)"]},
        {"cell_type": "code", "source": ["print(5)"], "outputs": streams},
        {
            "cell_type": "code",
            "source": ["draw()"],
            "outputs": [{"data": {"image/png": "AAAA", "text/plain": "x"}}],
        },
    ]
    page = hooks.as_markdown(json.dumps({"cells": cells}))
    assert page.startswith("# A title\nand [a page](../x.md)\n\n```python\nprint(5)\n```\n\n```text\n5\n```\n\n")
    assert page.endswith("](data:image/png;base64,AAAA)")
    assert "warning" not in page


def test_links_out_of_the_docs_lead_to_pages(hooks: ModuleType) -> None:
    assert hooks.page_of("docs/training.md") == "training.md"
    assert hooks.page_of("docs/tutorials/x.ipynb") == "tutorials/x.md"
    assert hooks.page_of("README.md") == "index.md"
    assert hooks.page_of("examples/own_task.py") == "source/examples/own_task.py.md"
    text = "[a](../examples/own_task.py) ```` \n```sh\n[b](../examples/own_head.py)\n```\n[c](https://x.y/z)"
    assert list(hooks.linked("docs/x.md", text)) == ["examples/own_task.py"]


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_examples_in_docstrings_run(name: str) -> None:
    module = importlib.import_module(name)
    failed, tried = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert tried, f"{name} has no example"
    assert not failed


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorials_run(tutorial: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient", reason="needs nbclient: pip install 'dllm-env[docs]'")
    nbformat = pytest.importorskip("nbformat")
    pytest.importorskip("ipykernel")
    monkeypatch.setenv("DLLM_ENV_QUICK", "1")
    monkeypatch.setitem(os.environ, "PYDEVD_DISABLE_FILE_VALIDATION", "1")
    notebook = nbformat.read(tutorial, as_version=4)
    where = {"metadata": {"path": str(tutorial.parent)}}
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()


def test_there_are_two_tutorials() -> None:
    assert [path.stem for path in TUTORIALS] == ["first-policy", "policy-to-serving"]
