"""What the rollout engine costs and what it saves, measured side by side in one run.

``overhead``: time of the whole rollout over that of the bare denoiser on the same active rows, call by call.
``speedup``: time of a plain lock-step loop over that of the rollout, at equal outputs.

    python benchmarks/rollout.py --json FILE
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dllm_env.denoisers.base import Denoiser, Prediction
from dllm_env.denoisers.load import load_denoiser
from dllm_env.policies.heuristics import Threshold
from dllm_env.policies.rollout import Rollout, rollout, row_seeds
from dllm_env.rules import Rules
from dllm_env.tasks.load import load_task
from dllm_env.train.run import machine

BATCHES = 16
"""Most batches that are timed."""


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    json: Path | None = None
    """Write the figures to this file."""
    denoiser: str = "tiny"
    """Name or folder of the denoiser."""
    task: str = "trace"
    """Task whose test problems are generated."""
    prompts: int = 256
    """Number of prompts; of batches so small that these would be more than 16 of them, 16 batches."""
    block_lengths: tuple[int, ...] = (8, 40)
    """Block lengths to measure; each has to divide the task's response length."""
    threshold: float = 0.9
    """Confidence threshold of the rule that both loops follow."""
    batch_sizes: tuple[int, ...] = (256, 4, 1)
    """Rows at a time, for the engine and for the lock-step loop alike; 1 is somebody who waits for an answer."""
    repeats: int = 7
    """Rounds; in each round everything is timed once, in turn."""
    threads: int = 0
    """Processor threads; 0 takes torch's default."""


class Recorder(Denoiser):
    """Passes everything on to a denoiser and keeps the inputs of its calls."""

    def __init__(self, inner: Denoiser) -> None:
        self.inner = inner
        self.calls: list[tuple[Tensor, Tensor]] = []
        for name in ("name", "mask_id", "eot_id", "pad_id", "vocabulary", "hidden_size", "max_length", "device"):
            setattr(self, name, getattr(inner, name))

    def features(self, tokens: Tensor, last: int) -> Tensor:
        return self.inner.features(tokens, last)

    def head(self, hidden: Tensor) -> Tensor:
        return self.inner.head(hidden)

    def encode(self, text: str) -> list[int]:
        return self.inner.encode(text)

    def decode(self, ids: Any) -> str:
        return self.inner.decode(ids)

    def predict(self, tokens: Tensor, needed: Tensor, *given: Any, **named: Any) -> Prediction:
        self.calls.append((tokens.clone(), needed.clone()))
        return self.inner.predict(tokens, needed, *given, **named)


@torch.no_grad()
def bare_forwards(denoiser: Denoiser, calls: list[tuple[Tensor, Tensor]]) -> None:
    """The denoiser alone on the rows that a rollout asked about: features, and logits at the needed positions."""
    for tokens, needed in calls:
        denoiser.head(denoiser.features(tokens, needed.shape[1])[needed])


@torch.no_grad()
def lock_step(denoiser: Denoiser, prompts: Tensor, length: int, block: int, threshold: float, batch: int) -> Tensor:
    """The published loop with the fallback per row: every row is forwarded until the slowest of its batch ends.

    Args:
        denoiser: the model.
        prompts: (N, P), left-padded.
        length: L.
        block: BL.
        threshold: unmask where the top-1 probability is at least this, and always the row's best position.
        batch: rows at a time.

    Returns:
        (N, L) responses.
    """
    position = torch.arange(length)
    done = []
    for part in prompts.split(batch):
        tokens = torch.nn.functional.pad(part, (0, length), value=denoiser.mask_id)
        response = tokens[:, -length:]
        while (masked := response == denoiser.mask_id).any():
            logits = denoiser.head(denoiser.features(tokens, tokens.shape[1]))[:, -length:]
            logits[..., denoiser.mask_id] = -torch.inf
            confidence, token = logits.softmax(-1).max(-1)
            active = masked.int().argmax(-1, keepdim=True) // block
            selectable = masked & (position // block == active)
            best = confidence.masked_fill(~selectable, -1.0).argmax(-1, keepdim=True)
            chosen = (selectable & (confidence >= threshold)).scatter(1, best, True) & selectable
            response[chosen] = token[chosen]
        done.append(response.clone())
    return torch.cat(done)


def seconds(function: Callable[[], object]) -> tuple[float, float]:
    """Wall time of one call, and its processor time over all threads (which other programs disturb far less)."""
    began, worked = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - began, time.process_time() - worked


def measure(denoiser: Denoiser, block: int, batch: int, settings: Settings) -> dict[str, Any]:
    """Figures for one block length and batch size; the three loops are timed in turn, and the medians compared."""
    task = load_task(settings.task)
    rules = Rules(task.response_length, block)
    count = min(settings.prompts, BATCHES * batch)
    prompts = [denoiser.encode(task.problem(i, "test").prompt) for i in range(count)]
    padded = torch.tensor([[denoiser.pad_id] * (task.prompt_length - len(p)) + p for p in prompts])
    policy, seeds = Threshold(settings.threshold), row_seeds(count, "benchmark")

    def ours(model: Denoiser) -> Rollout:
        return rollout(model, policy, rules, prompts, seeds, batch_size=batch, prompt_length=task.prompt_length)

    def baseline() -> Tensor:
        return lock_step(denoiser, padded, task.response_length, block, settings.threshold, batch)

    recorder = Recorder(denoiser)
    result = ours(recorder)
    if not torch.equal(result.responses, baseline()):
        raise SystemExit(f"block length {block}: the rollout and the lock-step loop differ in their responses")
    runs: dict[str, Callable[[], object]] = {
        "rollout": lambda: ours(denoiser),
        "bare": lambda: bare_forwards(denoiser, recorder.calls),
        "lock_step": baseline,
    }
    bare_forwards(denoiser, recorder.calls)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    for _ in range(settings.repeats):
        for name, run in runs.items():
            times[name].append(seconds(run))
    middle = {name: median(wall for wall, _ in values) for name, values in times.items()}
    work = {name: median(processor for _, processor in values) for name, values in times.items()}
    return {
        "block_length": block,
        "batch_size": batch,
        "prompts": count,
        "overhead": middle["rollout"] / middle["bare"],
        "speedup": middle["lock_step"] / middle["rollout"],
        "overhead_processor_time": work["rollout"] / work["bare"],
        "speedup_processor_time": work["lock_step"] / work["rollout"],
        "rollout_seconds": middle["rollout"],
        "bare_seconds": middle["bare"],
        "lock_step_seconds": middle["lock_step"],
        "wall_and_processor_seconds": times,
        "denoiser_calls": result.denoiser_calls,
        "rows_forwarded": int(result.nfe.sum()),
        "mean_nfe": result.nfe.float().mean().item(),
        "max_nfe": int(result.nfe.max()),
        "equal_outputs": True,
    }


def show(rows: list[dict[str, Any]], console: Console) -> None:
    """Prints the figures as a table."""
    table = Table(title="rollout engine")
    for column in (
        "batch",
        "block length",
        "rollout s",
        "bare denoiser s",
        "lock-step s",
        "overhead",
        "speedup",
        "NFE",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            str(row["batch_size"]),
            str(row["block_length"]),
            *(f"{row[name]:.3f}" for name in ("rollout_seconds", "bare_seconds", "lock_step_seconds")),
            *(f"{row[name]:.2f}" for name in ("overhead", "speedup")),
            f"{row['mean_nfe']:.1f} (max {row['max_nfe']})",
        )
    console.print(table)


def main(settings: Settings) -> None:
    """Measures, prints, and writes the JSON."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    denoiser = load_denoiser(settings.denoiser)
    rows = [
        measure(denoiser, block, batch, settings)
        for batch in settings.batch_sizes
        for block in settings.block_lengths
    ]
    show(rows, Console())
    if settings.json is not None:
        report = {
            "overhead": max(row["overhead"] for row in rows),
            "speedup": rows[0]["speedup"],
            "prompts": settings.prompts,
            "threshold": settings.threshold,
            "task": settings.task,
            "denoiser": settings.denoiser,
            "repeats": settings.repeats,
            "measurements": rows,
            "machine": machine(),
        }
        settings.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Settings))
