"""What is expected of a program: assertions, and what of it they call."""

from __future__ import annotations

import ast
import builtins
import re
import sys
from dataclasses import dataclass

from dllm_env.grading import messages, values


@dataclass(frozen=True)
class Checks:
    """Assertions about what a program defines; see ``asked`` for how they are run.

    Attributes:
        name: of what they are about; the program's, whatever else has this name.
        code: the assertions.
        setup: what runs before them, on their side: imports and helpers.
    """

    name: str
    code: str
    setup: str = ""

    def text(self) -> str:
        """All of it as ``asked`` reads it, with what they take from the program, and from Python without an import.

        From the program they take ``name``, and what they use and is defined nowhere else.
        """
        whole = f"{self.setup}\n{self.code}"
        used = undefined(whole) - {self.name}
        # A module is not called, a function of the program's with the name of one is.
        called = {name for name in used if re.search(rf"(?<![.\w]){name}[ \t]*\(", whole)}
        known = {*(sys.stdlib_module_names - called), *values.ELSEWHERE, *values.COLLECTIONS}
        names = [name for name in (self.name, *sorted(used - known)) if name]
        return messages.packed(names, sorted(used & known), self.setup, self.code)


def undefined(code: str) -> set[str]:
    """Names that code uses and defines nowhere, which are none of Python's own; none where it cannot be read."""
    try:
        nodes = list(ast.walk(ast.parse(code)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()
    names = {(node.id, type(node.ctx) is ast.Load) for node in nodes if isinstance(node, ast.Name)}
    used = {name for name, loaded in names if loaded}
    defined = {name for name, loaded in names if not loaded}
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            defined.add(node.name)
    return {name for name in used - defined if not hasattr(builtins, name)}
