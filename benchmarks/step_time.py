"""Where the time of a step goes: denoiser, prediction, policy, bookkeeping; LLaDA-8B's shape, random weights.

    python benchmarks/step_time.py                                   # on a GPU
    python benchmarks/step_time.py --layers 2 --width 64 …           # a small size, on a processor

The rollout engine plays prompts of one length. ``denoiser`` is the transformer up to its last hidden states,
``prediction`` the head and what is read from the logits, ``policy`` the decision; ``bookkeeping`` is all the rest.
On a GPU every part is waited for, so that the parts add up; the engine itself does not wait.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from dllm_env.denoisers.backbones import Decoder
from dllm_env.denoisers.base import Denoiser, Prediction
from dllm_env.dynamics import Observation
from dllm_env.policies.base import Decision, Policy
from dllm_env.policies.heads import load_head
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.policies.networks import ConfidenceTransformer, NetworkConfig
from dllm_env.policies.rollout import rollout, row_seeds
from dllm_env.random import RowRandom, torch_generator
from dllm_env.rules import Rules
from dllm_env.train.run import machine


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark; the defaults are LLaDA-8B's."""

    json: Path | None = None
    """Write the figures to this file."""
    vocabulary: int = 126_464
    """V."""
    width: int = 4096
    """d."""
    feed_forward: int = 12_288
    """Width of the feed-forward layers."""
    layers: int = 32
    """Blocks."""
    heads: int = 32
    """Attention heads."""
    batch: int = 16
    """Prompts, all played at once."""
    prompt: int = 128
    """Tokens of each prompt."""
    length: int = 256
    """L."""
    block_lengths: tuple[int, ...] = (32, 256)
    """BL."""
    max_steps: int = 64
    """Steps of each row that are timed."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where."""


class Clock:
    """Adds up the seconds of parts."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        """The time, once everything that was begun is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def add(self, part: str, began: float) -> None:
        """Adds the time since then to a part."""
        self.seconds[part] = self.seconds.get(part, 0.0) + self.now() - began


def llama_shape(vocabulary: int, width: int, feed_forward: int, layers: int, heads: int) -> dict[str, Any]:
    """Settings of transformers' LlamaConfig."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": feed_forward,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }


class RandomLlama(Denoiser):
    """A Llama of random weights with full attention.

    Args:
        shape: settings of transformers' LlamaConfig.
        device, dtype: of the weights.
    """

    def __init__(self, shape: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> None:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(**shape, max_position_embeddings=4096, attn_implementation="sdpa")
        torch.manual_seed(0)
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        with device:
            self.model = LlamaForCausalLM(config).eval().requires_grad_(False)
        torch.set_default_dtype(default)
        self.parts, self.device = Decoder(self.model), device
        self.vocabulary, self.hidden_size = shape["vocab_size"], shape["hidden_size"]
        self.name, self.mask_id, self.eot_id, self.pad_id, self.max_length = "random", 0, 1, -1, 4096
        self.pads = False

    @property
    def module(self) -> nn.Module:
        found: nn.Module = self.model
        return found

    def features(self, tokens: Tensor, last: int) -> Tensor:
        return self.parts.features(tokens, None)[:, -last:]

    def head(self, hidden: Tensor) -> Tensor:
        return self.parts.head(hidden)

    def encode(self, text: str) -> list[int]:
        raise NotImplementedError

    def decode(self, ids: Sequence[int]) -> str:
        raise NotImplementedError


class Timed(RandomLlama):
    """The same, timed."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        sizes = (settings.vocabulary, settings.width, settings.feed_forward, settings.layers, settings.heads)
        shape = llama_shape(*sizes) | {"num_key_value_heads": settings.heads}
        super().__init__(shape, clock.device, torch.bfloat16 if settings.device != "cpu" else torch.float32)
        self.clock = clock

    def features(self, tokens: Tensor, last: int) -> Tensor:
        began = self.clock.now()
        hidden = super().features(tokens, last)
        self.clock.add("denoiser", began)
        return hidden

    def predict(self, *given: Any, **named: Any) -> Prediction:
        before, began = self.clock.seconds.get("denoiser", 0.0), self.clock.now()
        found = super().predict(*given, **named)
        self.clock.add("prediction", began + self.clock.seconds["denoiser"] - before)
        return found


class TimedPolicy:
    """A policy, timed."""

    def __init__(self, policy: Policy, clock: Clock) -> None:
        self.policy, self.clock = policy, clock
        self.name, self.context, self.top, self.extras = policy.name, policy.context, policy.top, policy.extras

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """The policy's decision."""
        began = self.clock.now()
        decision = self.policy.act(observation, random)
        self.clock.add("policy", began)
        return decision


def policies(device: torch.device) -> list[Policy]:
    """The rule, and a network of the size that is trained (0.3M parameters) with random weights."""
    network = ConfidenceTransformer(NetworkConfig(width=128, heads=2, bias=-2.0), torch_generator(0)).to(device)
    learned = LearnedPolicy(network.eval(), load_head("dynamic_plackett_luce"), name="learned (random weights)")
    return [load_policy("threshold:0.9"), learned]


def main(settings: Settings) -> None:
    """Measures and prints."""
    clock = Clock(torch.device(settings.device))
    denoiser = Timed(settings, clock)
    table = Table(title=f"B = {settings.batch}, P = {settings.prompt}, L = {settings.length}, {settings.device}")
    for column in (
        "policy",
        "BL",
        "steps",
        "ms a step",
        "denoiser",
        "prediction",
        "policy's",
        "bookkeeping",
        "the last three",
    ):
        table.add_column(column, justify="left" if column == "policy" else "right")
    lines = []
    for block in settings.block_lengths:
        for policy in policies(clock.device):
            line = measure(denoiser, policy, block, settings)
            lines.append(line)
            shares = [f"{line[part] / line['total']:.1%}" for part in PARTS]
            overhead = 1 - line["denoiser"] / line["total"]
            milliseconds = f"{1000 * line['total'] / line['steps']:.1f}"
            table.add_row(policy.name, str(block), str(line["steps"]), milliseconds, *shares, f"{overhead:.1%}")
    Console(width=140).print(table)
    about = machine() | ({"gpu": torch.cuda.get_device_name()} if settings.device != "cpu" else {})
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    if settings.json:
        settings.json.parent.mkdir(parents=True, exist_ok=True)
        settings.json.write_text(json.dumps({"machine": about, "lines": lines}, indent=1), encoding="utf-8")


PARTS = ("denoiser", "prediction", "policy", "bookkeeping")


def measure(denoiser: Timed, policy: Policy, block: int, settings: Settings) -> dict[str, Any]:
    """Seconds of the parts of a rollout, after a short one to warm up."""
    generator = torch_generator("prompts")
    words = torch.randint(2, settings.vocabulary, (settings.batch, settings.prompt), generator=generator).tolist()
    clock, seeds = denoiser.clock, row_seeds(settings.batch, "step time")
    for steps in (3, settings.max_steps):
        clock.seconds.clear()
        rules = Rules(settings.length, block, max_steps=steps)
        began = clock.now()
        played = rollout(denoiser, TimedPolicy(policy, clock), rules, words, seeds, batch_size=settings.batch)
        total = clock.now() - began
    parts = {part: clock.seconds[part] for part in PARTS[:3]}
    rest = total - sum(parts.values())
    return {
        **{"policy": policy.name, "block_length": block, "steps": int(played.steps.max()), "total": total},
        **{"calls": played.denoiser_calls, **parts, "bookkeeping": rest},
    }


if __name__ == "__main__":
    main(tyro.cli(Settings))
