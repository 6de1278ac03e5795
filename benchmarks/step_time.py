"""Where the time of a step goes: denoiser, prediction, policy, bookkeeping; LLaDA-8B's shape, random weights.

    python benchmarks/step_time.py                                   # on a GPU
    python benchmarks/step_time.py --layers 2 --width 64 …           # a small size, on a processor
    python benchmarks/step_time.py --denoiser FOLDER                 # a checkpoint, with its cache where it has one

The rollout engine plays prompts of one length as it is; then nothing but the calls of the network and its head that
were made, on inputs of the same shapes; ``more`` is what the first took longer. At last it plays with every part
waited for: ``network`` up to its last hidden states, ``head`` the product with the vocabulary, ``reading`` what is
read from the logits, ``policy`` the decision, ``bookkeeping`` all the rest. What waits is slower, so that these are
no shares of the first time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from dllm_env.denoisers.backbones import Decoder
from dllm_env.denoisers.base import Denoiser
from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import Observation
from dllm_env.policies import learned
from dllm_env.policies.base import Decision, Policy
from dllm_env.policies.heads import load_head
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.policies.networks import ConfidenceTransformer, NetworkConfig
from dllm_env.policies.rollout import rollout, row_seeds
from dllm_env.random import RowRandom, torch_generator
from dllm_env.rules import Rules
from dllm_env.train.run import machine

GRAPHS, EAGER = "a network", "a network, without graphs"


@dataclass(frozen=True)
class Settings:
    """Settings of the benchmark; the defaults are LLaDA-8B's."""

    json: Path | None = None
    """Write the figures to this file."""
    denoiser: str = ""
    """A folder and its settings; without it one of random weights in the following shape."""
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
    batches: tuple[int, ...] = (1, 16, 64)
    """Prompts, all played at once."""
    prompt: int = 128
    """Tokens of each prompt."""
    length: int = 256
    """L."""
    block_lengths: tuple[int, ...] = (32, 256)
    """BL."""
    policies: tuple[str, ...] = ("threshold:0.9", GRAPHS, EAGER)
    """Rules, and a network of the size that is trained (0.3M parameters) with random weights."""
    steps: tuple[int, ...] = (64, 24, 8)
    """Steps that are timed, for each batch."""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    """Where."""


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
        self.parts, self.device, self.dtype = Decoder(self.model), device, dtype
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


class Clock:
    """Adds up the seconds of parts, one within the other.

    Args:
        device: whose work is waited for.
    """

    def __init__(self, device: torch.device) -> None:
        self.device, self.within = device, 0.0
        self.seconds: dict[str, float] = {}

    def now(self) -> float:
        """The time, once everything that was begun is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, whose time, without that of parts within it, is added to a part."""

        def run(*args: Any, **kwargs: Any) -> Any:
            outer, self.within, began = self.within, 0.0, self.now()
            try:
                return function(*args, **kwargs)
            finally:
                took = self.now() - began
                self.seconds[part] = self.seconds.get(part, 0.0) + took - self.within
                self.within = outer + took

        return run


PARTS = {"features": "network", "cached_features": "network", "head": "head", "predict": "reading"}
"""What of a denoiser is timed as which part."""


@contextmanager
def changed(denoiser: Denoiser, methods: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """While this lasts the denoiser has other methods."""
    try:
        for name, method in methods.items():
            setattr(denoiser, name, method)
        yield
    finally:
        for name in methods:
            delattr(denoiser, name)


class TimedPolicy:
    """A policy, timed."""

    def __init__(self, policy: Policy, clock: Clock) -> None:
        self.name, self.context, self.top, self.extras = policy.name, policy.context, policy.top, policy.extras
        self._act = clock.timed("policy", policy.act)

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        """The policy's decision."""
        decision: Decision = self._act(observation, random)
        return decision


def make(name: str, device: torch.device) -> Policy:
    """A rule, or the network."""
    if name not in (GRAPHS, EAGER):
        return load_policy(name, device)
    network = ConfidenceTransformer(NetworkConfig(width=128, heads=2, bias=-2.0), torch_generator(0)).to(device)
    return LearnedPolicy(network.eval(), load_head("dynamic_plackett_luce"), name=name)


@dataclass(frozen=True)
class Play:
    """What is played."""

    denoiser: Denoiser
    policy: Policy
    rules: Rules
    words: list[list[int]]

    def __call__(self, policy: Policy | None = None) -> tuple[int, int]:
        """Plays; steps and calls of the denoiser."""
        batch, seeds = len(self.words), row_seeds(len(self.words), "step time")
        chosen = policy or self.policy
        played = rollout(self.denoiser, chosen, self.rules, self.words, seeds, batch_size=batch)
        return int(played.steps.max()), played.denoiser_calls


def measure(play: Play, clock: Clock) -> dict[str, Any]:
    """Seconds: as it is, of the bare calls, and of the parts."""
    denoiser = play.denoiser
    calls: list[tuple[str, tuple[int, ...]]] = []

    def noted(name: str) -> Callable[..., Any]:
        function = getattr(denoiser, name)

        def run(given: Tensor, *more: Any) -> Any:
            calls.append((name, tuple(given.shape)))
            return function(given, *more)

        return run

    play()  # libraries, graphs
    with changed(denoiser, {name: noted(name) for name in ("features", "head")}):
        play()
    began = clock.now()
    steps, evaluations = play()
    total = clock.now() - began
    with changed(denoiser, {name: clock.timed(part, getattr(denoiser, name)) for name, part in PARTS.items()}):
        began = clock.now()
        play(TimedPolicy(play.policy, clock))
        waited = clock.now() - began
    parts = {part: clock.seconds.pop(part) for part in ("network", "head", "reading", "policy")}
    parts["bookkeeping"] = waited - sum(parts.values())
    cached = sum(name == "features" for name, _ in calls) < evaluations
    bare = None if cached else of_calls(denoiser, calls, play.rules.response_length, clock)
    return {"steps": steps, "calls": evaluations, "total": total, "bare": bare, **parts}


def of_calls(denoiser: Denoiser, calls: Sequence[tuple[str, tuple[int, ...]]], length: int, clock: Clock) -> float:
    """Seconds of nothing but these calls."""
    device, kind = denoiser.device, denoiser.dtype
    given = {
        (name, shape): torch.randint(2, 200, shape, device=device)
        if name == "features"
        else torch.randn(shape, device=device).to(kind)
        for name, shape in calls
    }
    took = 0.0
    with torch.no_grad():
        for some in (calls[:2], calls):  # the first few to warm up
            began = clock.now()
            for name, shape in some:
                if name == "features":
                    denoiser.features(given[name, shape], length)
                else:
                    denoiser.head(given[name, shape])
            took = clock.now() - began
    return took


def main(settings: Settings) -> None:
    """Measures and prints."""
    clock = Clock(torch.device(settings.device))
    if settings.denoiser:
        denoiser = load_denoiser(settings.denoiser, settings.device)
    else:
        sizes = (settings.vocabulary, settings.width, settings.feed_forward, settings.layers, settings.heads)
        shape = llama_shape(*sizes) | {"num_key_value_heads": settings.heads}
        denoiser = RandomLlama(shape, clock.device, torch.bfloat16 if settings.device != "cpu" else torch.float32)
    title = f"{settings.denoiser or 'random weights'}, P = {settings.prompt}, L = {settings.length}"
    table = Table(title=f"{title}, {settings.device}; milliseconds a step")
    columns = ("B", "BL", "policy", "steps", "as it is", "bare calls", "more", "waited:")
    for column in (*columns, "network", "head", "reading", "policy", "bookkeeping", "the last three"):
        table.add_column(column, justify="left" if column == "policy" else "right")
    lines = []
    for batch, steps in zip(settings.batches, settings.steps, strict=True):
        words = torch.randint(2, 200, (batch, settings.prompt), generator=torch_generator("prompts")).tolist()
        for block in settings.block_lengths:
            for name in settings.policies:
                rules = Rules(settings.length, block, max_steps=steps)
                play = Play(denoiser, make(name, clock.device), rules, words)
                eager = mock.patch.object(learned, "records", return_value=False)
                with eager if name == EAGER else nullcontext():
                    line = {"batch": batch, "block_length": block, "name": name, **measure(play, clock)}
                lines.append(line)
                table.add_row(*cells(line))
    Console(width=160).print(table)
    about = machine() | ({"gpu": torch.cuda.get_device_name()} if settings.device != "cpu" else {})
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    if settings.json:
        settings.json.parent.mkdir(parents=True, exist_ok=True)
        settings.json.write_text(json.dumps({"machine": about, "lines": lines}, indent=1), encoding="utf-8")


def cells(line: Mapping[str, Any]) -> list[str]:
    """A row of the table."""
    steps, parts = line["steps"], ("network", "head", "reading", "policy", "bookkeeping")
    each = [1000 * line[part] / steps for part in parts]
    ours, bare = sum(each[2:]), line["bare"]
    more = ["", ""] if bare is None else [f"{1000 * bare / steps:.2f}", f"{line['total'] / bare - 1:.1%}"]
    shown = [str(line["batch"]), str(line["block_length"]), line["name"], str(steps)]
    shown += [f"{1000 * line['total'] / steps:.2f}", *more, "", *(f"{value:.2f}" for value in each)]
    return [*shown, f"{ours:.2f} ({ours / sum(each):.1%})"]


if __name__ == "__main__":
    main(tyro.cli(Settings))
