"""What mkdocs does beside Markdown: pages that are made from code, notebooks, and files of the repository.

A line ``<!-- made: WHAT -->`` in a page becomes what ``MADE`` has under that name:

    commands           the help of every command
    settings MODULE.CLASS   a table of the settings of a dataclass
    rules, tasks       what can be named on the command line
    code PATH          a file of the repository

Links to files outside of docs/ lead to pages that show these files.
"""

from __future__ import annotations

import ast
import contextlib
import html
import importlib
import inspect
import io
import json
import os
import posixpath
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent
STAGE = ROOT / "build" / "docs-sources"
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
"""Files of the repository that are pages of their own; others are shown under source/."""
WIDTH = 84
"""Letters of a line of help."""
SHOWN: dict[str, str] = {}
"""Pages that show a file or folder of the repository, and which."""
LINK = re.compile(r"(!?\[[^\]]*\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
MARK = re.compile(r"^<!-- made: (\w+) ?(.*?) -->$", re.MULTILINE)
FENCE = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", ".sh": "sh"}


def on_startup(**_: Any) -> None:
    """Puts the sources together as they are installed, for mkdocstrings, which reads them and imports nothing.

    That has to be done before it looks for them, which it does before ``on_config`` is called here.
    """
    shutil.rmtree(STAGE, ignore_errors=True)
    only = shutil.ignore_patterns("assets", "__pycache__", "*.html", "*.css", "*.js")
    shutil.copytree(ROOT / "dllm_env", STAGE / "dllm_env", ignore=only)
    for part in ("policies", "train", "eval"):
        shutil.copytree(ROOT / part, STAGE / "dllm_env" / part, ignore=only)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Leaves the checkout: a folder dllm_env/ in the working folder comes before every search path."""
    os.chdir(STAGE)
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != ROOT]  # where -m has put it
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are in no file of docs/."""
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        files.remove(file)
        text = as_markdown((ROOT / "docs" / file.src_uri).read_text("utf-8"))
        files.append(File.generated(config, page_of(f"docs/{file.src_uri}"), content=text))
    texts = {f"docs/{file.src_uri}": file.content_string for file in files if file.src_uri.endswith(".md")}
    left = [*texts.items(), *((name, (ROOT / name).read_text("utf-8")) for name in PAGES)]
    while left:
        place, text = left.pop()
        if not place.startswith("docs/"):
            SHOWN[page_of(place)] = place
            shown = text if place.endswith(".md") else shown_as(place)
            files.append(File.generated(config, page_of(place), content=shown))
        for target in linked(place, text):
            if not target.startswith("docs/") and target not in {*SHOWN.values(), *(name for name, _ in left)}:
                path = ROOT / target
                left.append((target, path.read_text("utf-8") if path.suffix == ".md" else ""))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Puts in what is made from the code, and leads links to where things are on the site."""
    uri = page.file.src_uri
    folder = posixpath.dirname(SHOWN.get(uri, f"docs/{uri}"))

    def led(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, match[2]))
        if not (ROOT / target).exists():
            return match[0]
        return match[1] + posixpath.relpath(page_of(target), posixpath.dirname(uri) or ".") + match[3]

    made = MARK.sub(lambda match: MADE[match[1]](match[2]), markdown)
    return outside_fences(made, lambda text: LINK.sub(led, text))


def outside_fences(text: str, change: Any) -> str:
    """The text, changed everywhere but in blocks of code."""
    parts, end = [], 0
    for block in FENCE.finditer(text):
        parts += [change(text[end : block.start()]), block[0]]
        end = block.end()
    return "".join([*parts, change(text[end:])])


def linked(place: str, text: str) -> Iterator[str]:
    """Files and folders of the repository that a page links to."""
    for match in LINK.finditer(FENCE.sub("", text)):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(place), match[2]))
        if not target.startswith("..") and (ROOT / target).exists():
            yield target


def page_of(path: str) -> str:
    """Where the site shows a file or folder of the repository."""
    path = re.sub(r"\.ipynb$", ".md", path)
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PAGES.get(path, f"source/{path}" if path.endswith(".md") else f"source/{path}.md")


def shown_as(path: str) -> str:
    """A page that shows a file, or lists a folder."""
    there = ROOT / path
    if there.is_file():
        return f"# {path}\n\n{code(path)}"
    names = sorted(entry.name for entry in there.iterdir() if entry.suffix in LANGUAGES)
    return f"# {path}\n\n" + "\n".join(f"- `{path}/{name}`" for name in names)


def code(path: str) -> str:
    """A file of the repository as a block."""
    text = (ROOT / path).read_text("utf-8")
    return f"~~~{LANGUAGES.get(Path(path).suffix, 'text')}\n{text.rstrip()}\n~~~"


def as_markdown(notebook: str) -> str:
    """A notebook as a page: its texts, its code, and what came out."""
    parts = []
    for cell in json.loads(notebook)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
        elif cell["cell_type"] == "code":
            parts.append(f"```python\n{source}\n```")
            parts += [shown for output in cell["outputs"] if (shown := as_output(output))]
    return "\n\n".join(parts)


def as_output(output: dict[str, Any]) -> str:
    """What a cell has printed or drawn, but for warnings and progress."""
    if output.get("name") == "stderr":
        return ""
    data = output.get("data", {})
    if picture := data.get("image/png"):
        return f"![what the cell drew](data:image/png;base64,{''.join(picture).strip()})"
    text = "".join(output.get("text", data.get("text/plain", ""))).rstrip()
    return f"```text\n{text}\n```" if text else ""


def commands(_: str) -> str:
    """The help of every command."""
    from dllm_env.cli import COMMANDS, main
    from dllm_env.commands.arguments import SUMMARIES

    parts = []
    for name in COMMANDS:
        shown = io.StringIO()
        with wide(), contextlib.redirect_stdout(shown):
            status = main([*name.split(), "--help"])
        if status:
            raise RuntimeError(f"dllm-env {name} --help ended with status {status}")
        text = "\n".join(textwrap.fill(line, WIDTH, tabsize=2) for line in shown.getvalue().rstrip().split("\n"))
        parts.append(
            f"## `dllm-env {name}` {{ #{name.replace(' ', '-')} }}\n\n{SUMMARIES[name]}\n\n```text\n{text}\n```"
        )
    return "\n\n".join(parts)


@contextlib.contextmanager
def wide() -> Iterator[None]:
    """Help in short lines, without colours."""
    before = {name: os.environ.get(name) for name in ("COLUMNS", "NO_COLOR")}
    os.environ.update(COLUMNS=str(WIDTH), NO_COLOR="1")
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def settings(name: str) -> str:
    """The settings that a dataclass itself declares, with their defaults and what is said below each."""
    module, _, kind = name.rpartition(".")
    source = inspect.getsource(getattr(importlib.import_module(module), kind))
    body = ast.parse(inspect.cleandoc(source)).body[0].body  # type: ignore[attr-defined]
    rows = []
    for field, doc in zip(body, [*body[1:], None], strict=True):
        if not isinstance(field, ast.AnnAssign) or not (
            isinstance(doc, ast.Expr) and isinstance(doc.value, ast.Constant)
        ):
            continue
        default = "" if field.value is None else ast.unparse(field.value).replace("'", '"')
        if not default.startswith("field("):
            rows.append((f"`{field.target.id}`", f"`{default}`", cell(str(doc.value.value))))  # type: ignore[union-attr]
    return table(("setting", "default", "meaning"), rows)


def rules(_: str) -> str:
    """Rules and references by name."""
    from dllm_env.commands.list_names import _first_line, _settings
    from dllm_env.policies.references import REFERENCES
    from dllm_env.policies.registry import HEURISTICS

    kinds: dict[str, Any] = {**HEURISTICS, **REFERENCES}
    return table(
        ("name", "parameters and defaults", "what it unmasks"),
        [(f"`{name}`", cell(_settings(kind)), cell(_first_line(kind))) for name, kind in kinds.items()],
    )


def tasks(_: str) -> str:
    """Tasks and benchmarks by name."""
    from dllm_env.commands.list_names import _first_line, _settings
    from dllm_env.tasks.benchmarks import BENCHMARKS
    from dllm_env.tasks.load import TASKS

    kinds: dict[str, Any] = {**TASKS, **BENCHMARKS}
    return table(
        ("name", "settings and defaults", "what"),
        [(f"`{name}`", cell(_settings(kind)), cell(_first_line(kind))) for name, kind in kinds.items()],
    )


def cell(text: str) -> str:
    """A text as the cell of a table."""
    return re.sub(r"([|*])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Rows as a table of Markdown."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


MADE = {"commands": commands, "settings": settings, "rules": rules, "tasks": tasks, "code": code}
