"""Denoisers for tests: one of random weights, and one whose predictions are written down."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # before torch reads it: workers share the processors, as do their programs
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from torch import Tensor

from dllm_env.denoisers.base import Denoiser
from dllm_env.denoisers.tiny import MASK as MASK_WORD
from dllm_env.denoisers.tiny import WORDS, TinyConfig, TinyDenoiser, TinyTransformer
from dllm_env.random import torch_generator

PAD, MASK, END = 0, 1, 2

QUICK: dict[str, tuple[str, ...]] = {
    "test_answers": ("same_mathematics",),
    "test_benchmark_tasks": ("formats", "save_to_disk", "reasoning_gym", "made_in_other_ways"),
    "test_cli": ("help", "listed", "bad_training"),
    "test_dynamics": ("",),
    "test_env": ("",),
    "test_harness": ("",),
    "test_heads": ("",),
    "test_huggingface": ("families", "cache", "alone"),
    "test_learned": ("",),
    "test_losses": ("",),
    "test_metrics": ("",),
    "test_packaging": ("installed", "checkout", "lowest"),
    "test_random": ("",),
    "test_results": ("",),
    "test_rewards": ("",),
    "test_sb3": ("agree", "name", "pictures", "single", "texts", "without"),
    "test_settings_file": ("",),
    "test_specs": ("",),
    "test_tasks": ("",),
}
"""Files and parts of names of the tests that meet every package that we need, for `make oldest` and `python310`."""


THOROUGH: dict[str, tuple[str, ...]] = {
    "test_answers": ("takes_no_time",),
    "test_bad_files": ("rows_alone_and_together", "the_campaign_notices"),
    "test_benchmark_tasks": ("canonical", "several_processes"),
    "test_benchmarks": ("",),
    "test_campaigns": ("",),
    "test_cli": ("ablation_trains_all", "demo_leaves"),
    "test_evaluate": ("several_processes",),
    "test_grpo": ("steering_learns",),
    "test_harness": ("the_command_line_agrees", "random_numbers_agree"),
    "test_harness_together": ("the_command_in_two",),
    "test_huggingface": ("from_the_command_line",),
    "test_invariance": ("[avx2]",),
    "test_ppo": ("learns",),
    "test_processes": ("workers_end",),
    "test_ranked_heads": ("200000",),
    "test_sb3": ("the_example_runs",),
    "test_search": ("training_can_begin",),
    "test_several": ("each_is_what_it_is_alone",),
    "test_sharded": ("published", "goes_on"),
    "test_site": ("tutorials_run",),
    "test_together": (
        "again_and_again",
        "bit_for_bit[4]",
        "accelerate",
        "ppo_has",
        "denoiser_is_trained",
        "[lora]",
        "two_nodes",
    ),
}
"""The same of tests that take long and that `make test`, `make check` and CI leave to `make thorough`."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not any(part in item.name for part in QUICK.get(item.path.stem, ())):
            item.add_marker(pytest.mark.slow)
        if any(part in item.name for part in THOROUGH.get(item.path.stem, ())):
            item.add_marker(pytest.mark.thorough)


class Scripted(Denoiser):
    """Position i of the response has the logits ``table[i]``, whatever the tokens are; counts what it is asked."""

    def __init__(self, table: Tensor, prompt_length: int = 0) -> None:
        self.table = table
        self.prompt_length = prompt_length
        self.name = "scripted"
        self.pad_id, self.mask_id, self.eot_id = PAD, MASK, END
        self.hidden_size, self.vocabulary = table.shape
        self.max_length = prompt_length + len(table)
        self.device = torch.device("cpu")
        self.rows_per_call: list[int] = []

    def features(self, tokens: Tensor, last: int) -> Tensor:
        self.rows_per_call.append(len(tokens))
        return torch.eye(len(self.table))[-last:].expand(len(tokens), -1, -1)

    def head(self, hidden: Tensor) -> Tensor:
        return hidden @ self.table

    def encode(self, text: str) -> list[int]:
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(map(str, ids))


def favouring(tokens: Sequence[int], vocabulary: int = 6, strength: float = 5.0) -> Tensor:
    """(L, V) logits under which position i predicts ``tokens[i]``."""
    table = torch.zeros(len(tokens), vocabulary)
    table[torch.arange(len(tokens)), torch.tensor(tokens)] = strength
    return table


class CountingDenoiser(TinyDenoiser):
    """Writes down the rows of each call."""

    def features(self, tokens: Tensor, last: int) -> Tensor:
        self.__dict__.setdefault("rows_per_call", []).append(len(tokens))
        return super().features(tokens, last)


def toy_denoiser(kind: type[TinyDenoiser] = TinyDenoiser, seed: int = 0) -> TinyDenoiser:
    """A small transformer of random weights; its predictions depend on every token and are of mixed confidence."""
    network = TinyTransformer(TinyConfig(width=16, layers=1, heads=2, feed_forward=32), len(WORDS))
    generator = torch_generator("toy", seed)
    network.initialize(generator)
    block = network.blocks[0]
    with torch.no_grad():
        for layer, size in ((block.attention_out, 1.0), (block.feed_forward_out, 1.0), (network.head, 0.7)):
            layer.weight.normal_(0.0, size, generator=generator)
        # Otherwise all masks look alike: they have to attend to different places and not to themselves.
        block.query_norm.weight.fill_(4.0)
        block.convolution.weight.mul_(3.0)
        network.embedding.weight[WORDS.index(MASK_WORD)] *= 0.1
    return kind(network)


@pytest.fixture(scope="session")
def toy() -> TinyDenoiser:
    return toy_denoiser()


@pytest.fixture(scope="session")
def toy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("denoiser")
    toy_denoiser().save(folder)
    return folder


@pytest.fixture
def counting() -> CountingDenoiser:
    denoiser = toy_denoiser(CountingDenoiser)
    assert isinstance(denoiser, CountingDenoiser)
    return denoiser
