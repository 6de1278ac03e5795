"""How long a response takes on this machine, at batch size 1, beside the denoiser's default decoding.

Times depend on the machine and on what else it does. They have a file of their own, ``latency.json``, with the
machine beside them, and are part of no comparison, no test and no digest of results.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import Evaluation, row_seed
from dllm_env.eval.metrics import mean, tokens_before_eot
from dllm_env.files import write_atomically
from dllm_env.policies.base import Policy, Reference
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import attempt
from dllm_env.reading import as_table, check_fields, check_value, exists, read_json
from dllm_env.rules import Rules

LATENCY = "latency.json"
DEFAULT = "top_k:1"
"""The default decoding of masked diffusion models: the most confident position, one token a step."""
MOST = 10_000
"""Problems that are timed at most."""


@dataclass(frozen=True)
class Timing:
    """A policy's times.

    Attributes:
        policy, task, denoiser, block_length: what was played.
        default: whether it is the default decoding.
        problems: how many, one after the other.
        seconds: of a response, on average.
        tokens_per_second: tokens before end-of-text, of all responses, over the seconds of all.
        nfe: on average.
        speedup: seconds of the default decoding over these.
    """

    policy: str
    task: str
    denoiser: str
    block_length: int
    default: bool
    problems: int
    seconds: float
    tokens_per_second: float
    nfe: float
    speedup: float


@dataclass(frozen=True)
class Played:
    """One response: wall time, tokens before end-of-text, NFE."""

    seconds: float
    tokens: int
    nfe: int


def check_latency(problems: int) -> None:
    """Checks the number of problems.

    Raises:
        UsageError: it cannot be.
    """
    if not 0 <= problems <= MOST:
        raise UsageError(f"--latency must be from 1 to {MOST:,} problems, or 0 for none, got {problems:,}")


def measure(evaluations: Sequence[Evaluation], problems: int) -> list[Timing]:
    """Times every policy of the evaluations, and the default decoding, at each block length.

    References are left out: what they evaluate beforehand would not count. Policies take turns at each problem,
    after one that does not count, so that all meet the same load.

    Args:
        evaluations: whose policies, tasks and denoisers are played.
        problems: the first so many of seed 0.
    """
    made: list[Timing] = []
    for evaluation in evaluations:
        for rules in evaluation.config.rules:
            some = rules.resolve(evaluation.task.response_length, evaluation.denoiser.attention_block)
            made += _of_rules(evaluation, some, min(problems, evaluation.count))
    return made


def _of_rules(evaluation: Evaluation, rules: Rules, problems: int) -> list[Timing]:
    players: dict[str, Policy] = {
        job.setting.policy: job.policy
        for job in evaluation.jobs
        if job.rules == rules and not isinstance(job.policy, Reference)
    }
    default = next((name for name in players if name in (DEFAULT, "top_k:k=1", "top_k")), DEFAULT)
    players.setdefault(default, load_heuristic(DEFAULT))
    played: dict[str, list[Played]] = {name: [] for name in players}
    for index in (0, *range(problems)):
        for name, policy in players.items():
            played[name].append(_play(evaluation, policy, rules, index))
    base = mean([one.seconds for one in played[default][1:]])
    about = (evaluation.task.name, evaluation.denoiser.name, rules.block_length)
    return [timing(name, about, name == default, some[1:], base) for name, some in played.items()]


def _play(evaluation: Evaluation, policy: Policy, rules: Rules, index: int) -> Played:
    """One response at batch size 1."""
    denoiser, seeds = evaluation.denoiser, [row_seed(0, (index, 0))]
    played = attempt(denoiser, policy, rules, evaluation.task, [evaluation.problem(0, index)], seeds, batch_size=1)
    tokens = tokens_before_eot(played.rollout.responses, denoiser.end_ids, denoiser.mask_id)
    return Played(played.rollout.seconds, int(tokens.sum()), int(played.rollout.nfe.sum()))


def timing(
    policy: str, about: tuple[str, str, int], default: bool, played: Sequence[Played], base: float
) -> Timing:
    """The times of a policy.

    Args:
        policy: its name.
        about: task, denoiser and block length.
        default: whether it is the default decoding.
        played: the responses that count.
        base: mean seconds of the default decoding.
    """
    total = sum(one.seconds for one in played)
    return Timing(
        policy,
        *about,
        default,
        len(played),
        total / len(played),
        sum(one.tokens for one in played) / total,
        mean([one.nfe for one in played]),
        base / (total / len(played)),
    )


def machine(device: torch.device) -> dict[str, Any]:
    """What times need beside them."""
    return {
        "machine": platform.machine(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "processor",
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def write_latency(folder: Path, evaluations: Sequence[Evaluation], timings: Sequence[Timing]) -> None:
    """Writes ``latency.json``."""
    said = {"machine": machine(evaluations[0].denoiser.device), "timings": [asdict(one) for one in timings]}
    write_atomically(folder / LATENCY, (json.dumps(said, indent=1) + "\n").encode())


def read_latency(folder: Path) -> tuple[dict[str, Any], list[Timing]] | None:
    """The machine and the times of a folder; None where none were measured.

    Raises:
        UsageError: the file is damaged.
    """
    if not exists(folder / LATENCY):
        return None
    said = as_table(read_json(folder / LATENCY), LATENCY)
    check_value(said.get("timings"), list, f"{LATENCY}: timings")
    found = [as_table(one, LATENCY) for one in said["timings"]]
    for one in found:
        check_fields(Timing, one, LATENCY)
    return as_table(said.get("machine"), LATENCY), [Timing(**one) for one in found]


def machine_said(about: dict[str, Any]) -> str:
    """The machine in words."""
    return ", ".join(f"{name} {value}" for name, value in about.items())


HEADS = ("policy", "task", "BL", "seconds a response", "tokens a second", "NFE", "speed-up")


def latency_cells(one: Timing) -> list[str]:
    """A line of the tables."""
    made = [f"{one.policy} (default decoding)" if one.default else one.policy, one.task, str(one.block_length)]
    return [*made, f"{one.seconds:.4g}", f"{one.tokens_per_second:.4g}", f"{one.nfe:.1f}", f"{one.speedup:.2f}×"]


def latency_table(timings: Sequence[Timing]) -> Table:
    """For the terminal."""
    shown = Table(title="measured on this machine, one response at a time; part of no comparison")
    for i, head in enumerate(HEADS):
        shown.add_column(head, justify="left" if i < 2 else "right", overflow="fold")
    for one in timings:
        shown.add_row(*latency_cells(one))
    return shown
