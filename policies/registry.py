"""Rules by name, and rules from a user's own file."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Context, Observation
from dllm_env.errors import UsageError
from dllm_env.policies import heuristics as rules
from dllm_env.policies.base import Decision, Policy
from dllm_env.policies.heuristics import Heuristic
from dllm_env.policies.remasking import ReMDM, Wino
from dllm_env.random import RowRandom
from dllm_env.specs import parse_number, parse_settings

HEURISTICS: dict[str, type[Heuristic]] = {
    rule.rule: rule
    for rule in (
        *(rules.Random, rules.TopK, rules.Margin, rules.Entropy, rules.Leftmost, rules.Dilated),
        *(rules.FirstHitting, rules.Threshold, rules.Factor, rules.EntropyBound, rules.Klass, rules.LocalLeap),
        *(rules.Hierarchy, Wino, ReMDM),
    )
}
"""The rules by name."""


def load_heuristic(text: str) -> Heuristic:
    """A rule by name with its parameters: ``threshold:0.9``, ``top_k:k=2``, ``random``.

    Raises:
        UsageError: no such rule or parameter, or a value out of range.
    """
    name, _, settings = text.partition(":")
    if name not in HEURISTICS:
        raise UsageError(f"unknown heuristic {name!r}; choose one of {', '.join(HEURISTICS)}")
    rule = HEURISTICS[name]
    kinds = {field.name: type(field.default) for field in fields(rule)}
    if settings and not kinds:
        raise UsageError(f"{name} has no parameters, got {settings!r}")
    values = parse_settings(settings) if "=" in settings else {}
    if settings and "=" not in settings:
        values = {next(iter(kinds)): parse_number(settings)}
    for key, value in values.items():
        if key not in kinds:
            raise UsageError(f"{name} has no parameter {key!r}; it has {', '.join(kinds) or 'none'}")
        if isinstance(value, str):
            raise UsageError(f"{name}: {key} must be a number, got {value!r}")
    return rule(**{key: float(value) if kinds[key] is float else value for key, value in values.items()})


# ------------------------------------------------------------------------------------------ user's rules


class FileRule:
    """A policy from a user's file, under the text that names it.

    Attributes:
        policy: the user's object.
        name: ``file.py:Class(parameter=value)``.
        file: where its code is.
    """

    def __init__(self, policy: Policy, name: str, file: Path) -> None:
        self.policy, self.name, self.file = policy, name, file
        self.context: Context = getattr(policy, "context", "block")
        self.top: int = getattr(policy, "top", 1)
        self.extras: Extras = getattr(policy, "extras", Extras())
        self.remasks: bool = getattr(policy, "remasks", False)

    def fingerprint(self) -> str:
        """A digest of its file."""
        return hashlib.blake2b(self.file.read_bytes(), digest_size=4).hexdigest()

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """The user's decision."""
        return self.policy.act(observation, random)


def is_file_rule(text: str) -> bool:
    """Whether this names a class in a file: ``my_rules.py:MyRule(k=2)``."""
    return ".py:" in text


def load_file_rule(text: str) -> FileRule:
    """A user's rule: a class with ``act``, in a Python file, with its parameters in parentheses.

    The file is executed. Values are literals.

    Raises:
        UsageError: no such file or class, a file that fails, or parameters that do not fit.
    """
    place, _, call = text.partition(".py:")
    file = Path(place + ".py")
    if not file.is_file():
        raise UsageError(f"no file {str(file)!r}, which {text!r} names")
    name, values = _parse_call(call, text)
    kind: Any = getattr(_import(file), name, None)
    if not inspect.isclass(kind) or not callable(getattr(kind, "act", None)):
        raise UsageError(f"{file} has no class {name!r} with a method act(observation, random)")
    known = _parameters(kind)
    for key in values:
        if key not in known:
            raise UsageError(f"{name} of {file} has no parameter {key!r}; it has {', '.join(known) or 'none'}")
    try:
        policy: Any = kind(**values)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"cannot make {text!r}: {type(error).__name__}: {error}") from None
    return FileRule(policy, text, file)


def _parse_call(call: str, text: str) -> tuple[str, dict[str, Any]]:
    try:
        node = ast.parse(call.strip(), mode="eval").body
        if isinstance(node, ast.Name):
            return node.id, {}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.args:
            return node.func.id, {str(word.arg): ast.literal_eval(word.value) for word in node.keywords if word.arg}
    except (SyntaxError, ValueError):
        pass
    raise UsageError(f"cannot read {text!r}; write file.py:Class or 'file.py:Class(parameter=value, …)'")


def _import(file: Path) -> Any:
    name = f"dllm_env_user_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    try:
        spec.loader.exec_module(module)
    except UsageError:
        raise
    except Exception as error:
        raise UsageError(f"{file} fails when it is loaded: {type(error).__name__}: {error}") from None
    return module


def _parameters(kind: type) -> list[str]:
    if is_dataclass(kind):
        return [field.name for field in fields(kind) if field.init]
    return [name for name in inspect.signature(kind).parameters if name not in ("args", "kwargs")]
