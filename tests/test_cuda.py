"""On a GPU: the same responses as on a processor, trainings that go on bit for bit, and how often the host waits.

Skipped where torch finds no GPU. ``python -m pytest tests/test_cuda.py`` is the check of a machine that has one.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from dllm_env.denoisers.load import load_denoiser
from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.policies.generate import generate
from dllm_env.policies.learned import load_policy
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Rollout, rollout, row_seeds
from dllm_env.rules import Rules
from dllm_env.tasks.load import load_task
from dllm_env.train.dcolt import DCoLT, train_dcolt
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.ppo import PPO, train_ppo
from dllm_env.train.presets import PRESETS
from dllm_env.vector_env import UnmaskVectorEnv

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

RULES = (
    "threshold:0.7",
    "threshold:threshold=0.7,fallback=leftmost",
    "random:3",
    "entropy_bound:0.3",
    "first_hitting",
    "dapd",
)
"""None that takes the surest of many positions of end-of-text, which are all sure but for the last bit."""
WAITS = 22
"""Most times that the host waits for the GPU in a round of the generation loop."""


def play(device: str, policy: str, block: int = 40, batch: int = 64, temperature: float = 0.0) -> Rollout:
    denoiser, task = load_denoiser("tiny", device), load_task("trace")
    prompts = [denoiser.encode(task.problem(index, "test").prompt) for index in range(64)]
    rules = Rules(40, block, temperature=temperature)
    seeds = row_seeds(64, "gpu")
    with torch.no_grad():
        return rollout(denoiser, load_policy(policy), rules, prompts, seeds, batch_size=batch)


def alike(first: Rollout, second: Rollout) -> float:
    """The share of rows that are the same to the last token and step."""
    same = (first.responses.cpu() == second.responses.cpu()).all(1)
    return (same & (first.revealed_at.cpu() == second.revealed_at.cpu()).all(1)).float().mean().item()


@pytest.mark.parametrize("policy", RULES)
@pytest.mark.parametrize(("block", "temperature"), [(40, 0.0), (8, 0.0), (40, 1.0)])
def test_a_gpu_plays_what_a_processor_plays(policy: str, block: int, temperature: float) -> None:
    on_gpu = play("cuda", policy, block, temperature=temperature)
    assert on_gpu.responses.device.type == "cuda"
    assert alike(on_gpu, play("cpu", policy, block, temperature=temperature)) >= 0.98


@pytest.mark.parametrize("policy", RULES)
def test_rows_on_a_gpu_do_not_depend_on_their_batch(policy: str) -> None:
    assert alike(play("cuda", policy), play("cuda", policy, batch=7)) >= 0.98


SMALL = {"device": "cuda", "updates": 4, "validation_problems": 16, "evaluate_every": 2}
STARTED: dict[str, Any] = {"start": "threshold:0.7", "imitation_problems": 8, **SMALL}
TRAININGS: dict[str, tuple[Callable[..., Path], Any]] = {
    "grpo": (train_grpo, GRPO().changed(prompts=4, **STARTED)),
    "one front": (train_grpo, PRESETS["demo"].changed(prompts=4, **(STARTED | {"start": "portfolio"}))),
    "ppo": (train_ppo, PPO().changed(num_envs=16, n_steps=16, **STARTED)),
    "dcolt": (train_dcolt, DCoLT().changed(prompts=4, **SMALL)),
    "dcolt full": (train_dcolt, DCoLT().changed(prompts=4, train_denoiser="full", kl_weight=0.01, **SMALL)),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_that_was_stopped_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    train, settings = TRAININGS[name]
    train(settings, tmp_path / "whole")
    train(settings, tmp_path / "stopped", stop_after=2)
    train(settings, tmp_path / "stopped", resume=True)
    for file in sorted((tmp_path / "whole").rglob("*.safetensors")):
        other = load_file(tmp_path / "stopped" / file.relative_to(tmp_path / "whole"))
        for name_of_weight, weight in load_file(file).items():
            assert torch.equal(weight, other[name_of_weight]), (file, name_of_weight)


def test_what_was_trained_on_a_gpu_is_evaluated_there_and_on_a_processor(tmp_path: Path) -> None:
    train_grpo(TRAININGS["grpo"][1], tmp_path / "run")
    found = []
    for denoiser in ("tiny", "tiny:device=cuda"):
        config = EvaluationConfig(denoiser=denoiser, problems=64)
        (result,) = evaluate(config, [str(tmp_path / "run")])
        found.append([outcome.words for outcome in result.outcomes])
    assert sum(a == b for a, b in zip(*found, strict=True)) >= 62


def test_generating_and_environments_on_a_gpu() -> None:
    prompt = load_task("trace").problem(0, "test").prompt
    denoiser = load_denoiser("tiny", "cuda")
    made = generate(denoiser, None, [prompt], "threshold:0.7", gen_length=40, block_length=40)
    assert len(made.texts) == 1
    environment = UnmaskVectorEnv(num_envs=4, denoiser="tiny:device=cuda", task="trace")
    observation, _ = environment.reset(seed=1)
    for _ in range(3):
        assert environment.observation_space.contains(observation)
        observation, *_ = environment.step(np.ones(environment.action_space.shape, dtype=np.int8))


def waits(policy: str, record: bool) -> float:
    """How often the host waits for the GPU in a round, on average over the rounds after the first few."""
    denoiser, task = load_denoiser("tiny", "cuda"), load_task("trace")
    prompts = [denoiser.encode(task.problem(index, "test").prompt) for index in range(64)]
    counts = []
    for steps in (4, 12):
        rules = Rules(40, 40, max_steps=steps)
        with warnings.catch_warnings(record=True) as caught, torch.no_grad():
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                rollout(denoiser, load_heuristic(policy), rules, prompts, row_seeds(64, "waits"), record=record)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("called a synchronizing" in str(one.message) for one in caught))
    return (counts[1] - counts[0]) / 8


@pytest.mark.parametrize("record", [False, True])
def test_the_host_seldom_waits(record: bool) -> None:
    assert waits("top_k:1", record) <= WAITS
