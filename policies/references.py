"""References by name, and how players play: the oracle, and searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from dllm_env.denoisers.base import Denoiser
from dllm_env.policies.base import Player, Policy, Reference, reference_kind
from dllm_env.policies.oracle import load_oracle
from dllm_env.policies.search import load_search
from dllm_env.rules import Rules
from dllm_env.tasks.base import Problem, Task


def load_reference(text: str) -> Reference:
    """``oracle``, ``oracle:RULE+RULE``, or a search, such as ``mcts:budget=200``.

    Raises:
        UsageError: no such reference, or settings that do not fit.
    """
    return load_search(text) if reference_kind(text) == "search" else load_oracle(text)


def prepared(
    player: Player,
    denoiser: Denoiser,
    rules: Rules,
    task: Task,
    problems: Sequence[Problem],
    seeds: Sequence[int],
    batch_size: int = 128,
) -> tuple[Policy, Mapping[str, Tensor]]:
    """The policy that plays these problems, and what it remembers of each beforehand, for ``rollout.attempt``."""
    if isinstance(player, Reference):
        return player.prepare(denoiser, rules, task, problems, seeds, batch_size)
    return player, {}
