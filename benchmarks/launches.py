"""What a round of the generation loop asks of a device besides the denoiser: operations, and waits of the host.

    python benchmarks/launches.py

Each operation on tensors is a kernel or more to launch on a GPU. Where the host has to know a number that a tensor
holds, or how many positions a mask has, it waits for all that was launched before. Both are counted, on any device,
by a dispatch mode that sees every operation but those within the denoiser's network and head; views, which launch
nothing, do not count. Counted are some rounds of the middle, in which few rows begin or end.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from dllm_env.denoisers.base import Denoiser
from dllm_env.denoisers.load import load_denoiser
from dllm_env.policies.base import Policy
from dllm_env.policies.learned import load_policy
from dllm_env.policies.rollout import rollout, row_seeds
from dllm_env.rules import Rules
from dllm_env.tasks.load import load_task

VIEWS = {
    *(
        "_unsafe_view",
        "alias",
        "as_strided",
        "detach",
        "expand",
        "lift_fresh",
        "permute",
        "select",
        "slice",
        "split",
    ),
    *("squeeze", "t", "transpose", "unbind", "unsqueeze", "view"),
}
WAITING = {"_local_scalar_dense", "equal", "masked_select", "nonzero"}
FIRST, LAST = 3, 9
"""Rounds between which is counted."""


@dataclass(frozen=True)
class Settings:
    """Settings of the count."""

    policies: tuple[str, ...] = ("leftmost:1", "top_k:1", "random:1", "threshold:0.999")
    """Policies that reveal no more than some rows have; of a learned one, its folder."""
    block_lengths: tuple[int, ...] = (40, 8)
    """Block lengths."""
    denoiser: str = "tiny"
    """Name or folder of the denoiser."""
    task: str = "trace"
    """Where prompts come from."""
    prompts: int = 16
    """Rows."""
    device: str = "cpu"
    """Where; what a GPU replays as one graph is not seen, and is one launch."""


class Launches(TorchDispatchMode):
    """Counts operations while it is on.

    Attributes:
        operations, waits: by name.
        paused: nothing counts while this is above 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations, self.waits, self.paused = Counter[str](), Counter[str](), 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.partition("::")[2]
        if not self.paused and name not in VIEWS:
            self.operations[name] += 1
            by_mask = name.startswith("index") and any(_is_mask(index) for index in _indices(args))
            if name in WAITING or by_mask:
                self.waits[f"{name} by a mask" if by_mask else name] += 1
        return function(*args, **(kwargs or {}))

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Nothing counts while this lasts."""
        self.paused += 1
        try:
            yield
        finally:
            self.paused -= 1


def _indices(args: Any) -> Any:
    return args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype == torch.bool


def uncounted(denoiser: Denoiser, launches: Launches) -> None:
    """Makes what the denoiser's network and head do not count."""
    for name in ("features", "head"):
        setattr(denoiser, name, _paused(getattr(denoiser, name), launches))


def _paused(function: Any, launches: Launches) -> Any:
    def run(*args: Any, **kwargs: Any) -> Any:
        with launches.pause():
            return function(*args, **kwargs)

    return run


def per_round(
    policy: Policy, rules: Rules, prompts: list[str], denoiser: str | Denoiser = "tiny", record: bool = False
) -> tuple[Counter[str], Counter[str]]:
    """Operations and waits of the rounds from ``FIRST`` to ``LAST``, in all; divide by their number.

    Args:
        policy: has to leave something to reveal in these rounds.
        rules: of the process, but for the number of steps.
        prompts: rows.
        denoiser: one, or its name or folder.
        record: whether trajectories are recorded.
    """
    found = []
    for steps in (FIRST, LAST):
        launches, loaded = Launches(), copy.copy(load_denoiser(denoiser))
        tokens = [loaded.encode(prompt) for prompt in prompts]
        limit = replace(rules, max_steps=steps)
        rollout(loaded, policy, limit, tokens, row_seeds(len(tokens), "warm-up"), record=record)  # finds tile sizes
        uncounted(loaded, launches)
        with launches, torch.no_grad():
            rollout(loaded, policy, limit, tokens, row_seeds(len(tokens), "launches"), record=record)
        found.append((launches.operations, launches.waits))
    (few, few_waits), (many, many_waits) = found
    return many - few, many_waits - few_waits


def main(settings: Settings) -> None:
    """Counts and prints."""
    torch.set_num_threads(1)  # what is asked for in other threads is not seen
    denoiser = load_denoiser(settings.denoiser, settings.device)
    task = load_task(settings.task)
    prompts = [task.problem(index, "test").prompt for index in range(settings.prompts)]
    names = ("policy", "BL", "recording", "operations", "waits")
    table = Table(*names, title="a round, outside the denoiser")
    for name in settings.policies:
        for block in settings.block_lengths:
            for record in (False, True):
                rules = Rules(task.response_length, block)
                operations, waits = per_round(load_policy(name, settings.device), rules, prompts, denoiser, record)
                rounds = LAST - FIRST
                cells = (f"{operations.total() / rounds:.1f}", f"{waits.total() / rounds:.1f}")
                table.add_row(name, str(block), "yes" if record else "", *cells)
    Console(width=100).print(table)


if __name__ == "__main__":
    main(tyro.cli(Settings))
