"""References by name, and how players play: the oracle, and searches."""

from __future__ import annotations

from typing import Literal

from dllm_env.policies.base import Assignment, Plan, Player, Reference
from dllm_env.policies.oracle import ORACLE, Oracle, load_oracle
from dllm_env.policies.search import SEARCHES, load_search

REFERENCES: dict[str, type[Reference]] = {ORACLE: Oracle, **SEARCHES}
"""The references by name."""


def reference_kind(text: str) -> Literal["oracle", "search"] | None:
    """The kind of reference that a text names, or None for a policy."""
    found = REFERENCES.get(text.partition(":")[0])
    return found.kind if found else None


def load_reference(text: str) -> Reference:
    """``oracle``, ``oracle:RULE+RULE``, or a search, such as ``mcts:budget=200``.

    Raises:
        UsageError: no such reference, or settings that do not fit.
    """
    return load_search(text) if reference_kind(text) == "search" else load_oracle(text)


def prepared(player: Player, given: Assignment) -> Plan:
    """What plays these problems."""
    return player.prepare(given) if isinstance(player, Reference) else Plan(player)
