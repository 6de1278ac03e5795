"""Memory of DCoLT's gradient against the microbatch, with and without checkpointing of activations.

    python benchmarks/joint_memory.py --json FILE

A Llama of 135 million random weights with full attention gets adapters. For each microbatch the gradient of so many
steps is computed as ``train dcolt`` computes it, and the peak memory on top of what was there is taken: of the
process on a processor (Linux), of torch's allocator on a GPU. The first pass, which allocates what stays, does not
count.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch
import tyro
from prediction_memory import peak
from rich.console import Console
from rich.table import Table
from step_time import RandomLlama, llama_shape
from torch import Tensor

from dllm_env.denoisers.adapters import add_adapter
from dllm_env.dynamics import Observation
from dllm_env.policies.heads import PlackettLuce
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import NetworkConfig, make_network
from dllm_env.random import torch_generator
from dllm_env.train.batches import Batch
from dllm_env.train.dcolt import checkpointed
from dllm_env.train.joint import States, evaluate
from dllm_env.train.run import machine


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark; the defaults are the shape of SmolLM-135M."""

    json: Path | None = None
    """Write the figures to this file."""
    vocabulary: int = 49_152
    """V."""
    width: int = 576
    """d."""
    feed_forward: int = 1536
    """Width of the feed-forward layers."""
    layers: int = 30
    """Blocks."""
    heads: int = 9
    """Attention heads."""
    prompt: int = 64
    """Tokens of each prompt."""
    length: int = 64
    """L."""
    drawn: int = 4
    """Positions of a step."""
    microbatches: tuple[int, ...] = (1, 2, 4, 8)
    """Steps of a backward pass."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where."""


def llama(settings: Settings) -> RandomLlama:
    """Random weights; every position looks everywhere."""
    sizes = (settings.vocabulary, settings.width, settings.feed_forward, settings.layers, settings.heads)
    more = {"num_key_value_heads": settings.heads // 3 or 1, "tie_word_embeddings": True}
    return RandomLlama(llama_shape(*sizes) | more, torch.device(settings.device), torch.float32)


def measure(settings: Settings, count: int, again: bool) -> tuple[float, float]:
    """GiB and seconds of the gradient of so many steps, in a process of its own: memory that was freed may stay."""
    denoiser = llama(settings)
    add_adapter(denoiser, 16, 32.0, (), torch_generator("adapter"))
    shape = NetworkConfig(width=settings.width, heads=settings.heads)
    network = make_network("hidden", shape, torch_generator("policy"), settings.width).to(denoiser.device)
    policy, length = LearnedPolicy(network, PlackettLuce(settings.drawn)), settings.length

    def whole(*values: int) -> Tensor:
        return torch.full((count, *values[:-1]), values[-1], device=denoiser.device)

    masked = torch.ones(count, length, dtype=torch.bool, device=denoiser.device)
    draw = whole(length, 0)
    draw[:, : settings.drawn] = torch.arange(1, settings.drawn + 1, device=denoiser.device)
    response = torch.randint(2, settings.vocabulary, (count, length), generator=torch_generator("text"))
    prompts = [list(range(2, 2 + settings.prompt))] * count
    begin = torch.full_like(response, denoiser.mask_id).to(denoiser.device)
    states = States(prompts, response.to(denoiser.device), begin, whole(length, 0), denoiser.pad_id)
    numbers = torch.zeros(count, device=denoiser.device)
    seen = Observation(numbers[:, None, None].expand(-1, length, 1), masked, masked, numbers, whole(0), whole(0))
    row = torch.arange(count, device=denoiser.device)
    batch = Batch(row, seen, draw, numbers, numbers, numbers, numbers.bool())

    def gradient(size: int, again: bool) -> None:
        with denoiser.parts.full_attention(), checkpointed(denoiser.module, again):
            piece = next(iter(batch.pieces(size)))
            evaluate(denoiser, policy, states, piece, 1.0).total.sum().backward()

    gradient(1, True)
    return peak(lambda: gradient(count, again), denoiser.device)


def main(settings: Settings) -> None:
    """Measures and prints."""
    weights = sum(weight.numel() for weight in llama(settings).module.parameters())
    table = Table("microbatch", "peak memory, GiB", "with checkpointing", "seconds", "with checkpointing")
    lines = {}
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        for count in settings.microbatches:
            plain, again = (pool.apply(measure, (settings, count, wanted)) for wanted in (False, True))
            lines[count] = [*plain, *again]
            table.add_row(str(count), f"{plain[0]:.2f}", f"{again[0]:.2f}", f"{plain[1]:.1f}", f"{again[1]:.1f}")
    table.title = f"{weights:,} weights, prompt {settings.prompt}, L = {settings.length}"
    Console(width=120).print(table)
    about = machine()
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    if settings.json:
        settings.json.parent.mkdir(parents=True, exist_ok=True)
        settings.json.write_text(json.dumps({"machine": about, "figures": lines}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Settings))
