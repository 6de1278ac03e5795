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
from dllm_env.dynamics import Observation
from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.numerics import counted
from dllm_env.policies import graphs, learned
from dllm_env.policies.base import Policy
from dllm_env.policies.generate import generate
from dllm_env.policies.heads import load_head
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.policies.networks import ConfidenceTransformer, NetworkConfig, sinusoidal
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Rollout, rollout, row_seeds
from dllm_env.random import RowRandom, torch_generator
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
WAITS = 6
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


def learned_policy(head: str) -> LearnedPolicy:
    config = NetworkConfig(sight=("place", "left", "nines", "doubt"), bias=-1.0)
    network = ConfidenceTransformer(config, torch_generator(1))
    torch.nn.init.normal_(network.modulation.weight, 0, 0.2, generator=torch_generator(2))
    return LearnedPolicy(network.to("cuda").eval(), load_head(head))


@pytest.mark.parametrize("head", ["bernoulli:force_progress=true", "plackett_luce:k=3", "dynamic_plackett_luce"])
@pytest.mark.parametrize("greedy", [False, True])
def test_a_recorded_policy_plays_as_it_does_otherwise(
    head: str, greedy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, captured, played = learned_policy(head), list[int](), list[Rollout]()
    policy.greedy, real = greedy, graphs.record
    monkeypatch.setattr(graphs, "record", lambda *given: captured.append(given[2]) or real(*given))
    denoiser, task = load_denoiser("tiny", "cuda"), load_task("trace")
    prompts = [denoiser.encode(task.problem(index, "test").prompt) for index in range(64)]
    for by_graph in (True, False):
        monkeypatch.setattr(learned, "records", graphs.records if by_graph else lambda given: False)
        with torch.no_grad():
            seeds = row_seeds(64, "gpu")
            played.append(rollout(denoiser, policy, Rules(40, 8), prompts, seeds, batch_size=24, record=not greedy))
    assert 32 in captured
    assert len(captured) <= 6 * (2 - greedy)
    assert alike(*played) >= 0.98
    if not greedy:
        first, second = (one.trajectories for one in played)
        if torch.equal(first.draw, second.draw):
            torch.testing.assert_close(first.log_prob, second.log_prob, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(first.entropy, second.entropy, rtol=1e-4, atol=1e-4)


def test_a_graph_reads_the_weights_as_they_are() -> None:
    policy = learned_policy("dynamic_plackett_luce")
    seen = observed(9)
    with torch.no_grad():
        for _ in range(3):
            found, _ = policy._draw(seen, RowRandom.from_seeds(list(range(9)), "x", "cuda"))
            torch.testing.assert_close(found, policy.network(seen), rtol=1e-4, atol=1e-4)
            for weight in policy.network.parameters():
                weight.mul_(1.1)


def test_a_graph_outlives_the_constants_of_others() -> None:
    policy, seen = learned_policy("dynamic_plackett_luce"), observed(9)
    with torch.no_grad():
        streams = [RowRandom.from_seeds(list(range(9)), "x", "cuda") for _ in range(2)]
        first = policy._draw(seen, streams[0])
        for size in range(1, 600):  # more than are kept
            counted(size, torch.device("cuda"))
            sinusoidal(torch.zeros(1, device="cuda"), 2 * size)
        torch.cuda.empty_cache()
        noise = [torch.rand(997, device="cuda") for _ in range(200)]
        second = policy._draw(seen, streams[1])
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert len(noise) == 200


def observed(rows: int) -> Observation:
    generator = torch_generator("seen")
    masked = torch.rand(rows, 40, generator=generator) < 0.7
    confidence = torch.rand(rows, 40, 1, generator=generator) * masked[..., None]
    step = torch.arange(rows)
    given = Observation(confidence, masked, masked, step / 40, masked.sum(-1), step)
    return given.map(lambda value: value.cuda())


def test_the_first_of_equals() -> None:
    for width in (3, 100, 1025, 126_464):
        values = torch.zeros(5, width, device="cuda", dtype=torch.bfloat16)
        values[:, width // 2 :] = 1
        assert values.max(-1).indices.tolist() == [width // 2] * 5
        assert values.float().max(-1, keepdim=True).indices.flatten().tolist() == [width // 2] * 5


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


def waits(policy: Policy, record: bool) -> float:
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
                rollout(denoiser, policy, rules, prompts, row_seeds(64, "waits"), record=record)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        counts.append(sum("called a synchronizing" in str(one.message) for one in caught))
    return (counts[1] - counts[0]) / 8


@pytest.mark.parametrize("record", [False, True])
def test_the_host_seldom_waits(record: bool) -> None:
    assert waits(load_heuristic("top_k:1"), record) <= WAITS


def test_the_host_seldom_waits_for_a_learned_policy() -> None:
    assert waits(learned_policy("plackett_luce:k=1"), False) <= WAITS
