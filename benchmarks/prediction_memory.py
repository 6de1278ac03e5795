"""Memory and time of the prediction step with a large vocabulary, against full logits plus softmax, in one run.

    python benchmarks/prediction_memory.py --json FILE

Both read the same hidden states (B, L, d), with a head of random weights. "full" is what samplers commonly do:
logits of all response positions, their softmax in float32, its largest value. "here" is ``Denoiser.predict``: the
logits of the positions that a policy reads, in pieces. Peak memory is what the step needs on top of what was there:
of the process on a processor (Linux), of torch's allocator on a GPU.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from dllm_env.denoisers.base import Denoiser
from dllm_env.errors import UsageError
from dllm_env.random import torch_generator
from dllm_env.train.run import machine


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark."""

    json: Path | None = None
    """Write the figures to this file."""
    vocabulary: int = 126_464
    """V; LLaDA's."""
    width: int = 0
    """d; 0 takes 4,096 on a GPU and 512 on a processor, where the products would take most of the time."""
    batch: int = 16
    """B."""
    length: int = 256
    """L."""
    block_lengths: tuple[int, ...] = (32, 256)
    """BL: so many positions of each row are predicted."""
    repeats: int = 3
    """Rounds; the time is their median, the memory their largest."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where."""


class Head(Denoiser):
    """Hidden states that are there already, and a head of random weights."""

    def __init__(self, settings: Settings) -> None:
        gpu = settings.device != "cpu"
        self.device, self.vocabulary = torch.device(settings.device), settings.vocabulary
        self.hidden_size = settings.width or (4096 if gpu else 512)
        self.mask_id, self.eot_id, self.pad_id, self.max_length = 0, 1, -1, 1 << 20
        kind = torch.bfloat16 if gpu else torch.float32
        generator = torch_generator("prediction memory")
        self.layer = nn.Linear(self.hidden_size, self.vocabulary, bias=False)
        shape = (settings.batch, settings.length, self.hidden_size)
        self.hidden = torch.randn(shape, generator=generator).to(self.device, kind)
        self.layer.to(self.device, kind).requires_grad_(False)

    def features(self, tokens: Tensor, last: int) -> Tensor:
        return self.hidden

    def head(self, hidden: Tensor) -> Tensor:
        return self.layer(hidden)

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError


@torch.no_grad()
def full(head: Head) -> tuple[Tensor, Tensor]:
    """Token and confidence (B, L) of all positions."""
    logits = head.layer(head.hidden)
    logits[..., head.mask_id] = -torch.inf
    confidence, token = logits.float().softmax(-1).max(-1)
    return token, confidence


def peak(step: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """GiB that a step needs on top of what was there, and its seconds."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        try:
            # Sets the peak of this process back; see proc(5).
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        except OSError:
            raise UsageError("peak memory of a processor can only be measured on Linux") from None
        before = _status("VmRSS")
    began = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    after = torch.cuda.max_memory_allocated() if device.type == "cuda" else _status("VmHWM")
    return (after - before) / 2**30, seconds


def _status(name: str) -> int:
    """A figure of this process in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))


def main(settings: Settings) -> None:
    """Measures and prints."""
    head = Head(settings)
    tokens = torch.zeros(settings.batch, settings.length, dtype=torch.int64, device=head.device)
    steps: dict[str, Callable[[], object]] = {"full logits and softmax": lambda: full(head)}
    for block in settings.block_lengths:
        needed = torch.zeros_like(tokens, dtype=torch.bool)
        needed[:, :block] = True
        steps[f"here, BL = {block}"] = lambda needed=needed: head.predict(tokens, needed)  # type: ignore[misc]
    found = head.predict(tokens, torch.ones_like(tokens, dtype=torch.bool))
    token, confidence = full(head)
    assert (found.token == token).float().mean() > 0.999
    torch.testing.assert_close(found.confidence[..., 0], confidence, rtol=0.02, atol=1e-6)
    del found, token, confidence
    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in steps}
    for _ in range(settings.repeats):
        for name, step in steps.items():
            figures[name].append(peak(step, head.device))
    table = Table(
        title=f"V = {settings.vocabulary:,}, B = {settings.batch}, L = {settings.length}, d = {head.hidden_size}"
    )
    for column in ("prediction step", "peak memory, GiB", "below full by", "seconds", "faster by"):
        table.add_column(column, justify="left" if column == "prediction step" else "right")
    lines = {}
    for name, rounds in figures.items():
        memory, seconds = max(m for m, _ in rounds), median(s for _, s in rounds)
        first = next(iter(lines.values()), (memory, seconds))
        lines[name] = (memory, seconds)
        below = f"{first[0] / memory:.1f}×" if memory else "cannot be measured"
        table.add_row(name, f"{memory:.3f}", below, f"{seconds:.3f}", f"{first[1] / seconds:.1f}×")
    Console(width=120).print(table)
    about = machine()
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    if settings.json:
        settings.json.parent.mkdir(parents=True, exist_ok=True)
        settings.json.write_text(
            json.dumps({"machine": about, "gib_and_seconds": lines}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main(tyro.cli(Settings))
