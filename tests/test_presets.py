"""The presets; those of the paper value by value."""

from __future__ import annotations

from typing import Any

import pytest

from dllm_env.policies.heads import Bernoulli, load_head
from dllm_env.train.config import learning_rate
from dllm_env.train.presets import PRESETS
from dllm_env.train.settings_file import flat
from dllm_env.train.validation import heads_at_test

PAPER: dict[str, Any] = {
    # arXiv 2512.09106: optimisation (AdamW, cosine, 100 warm-up steps)
    "learning_rate": 3e-5,
    "warmup": 100,
    "betas": [0.9, 0.99],
    "weight_decay": 0.1,
    "max_grad_norm": 0.2,
    # GRPO: clip, gradient steps per batch of rollouts, 16 prompts × 8 = 128 trajectories
    "clip_range": 0.5,
    "gradient_steps": 2,
    "num_generations": 8,
    "prompts": 16,
    # 14,973 prompts of at most 200 tokens, one epoch
    "task": "gsm8k+math",
    "max_prompt_length": 200,
    "updates": 938,
    # advantage r − mean(r), no KL, no tricks of this package
    "scale_rewards": False,
    "target_kl": 0.0,
    "ema_decay": 0.0,
    "imitation_steps": 0,
    "alpha_warmup": 0,
    "nfe_budget": 1.0,
    # reward: multiplicative in active steps, empty ones included
    "reward": ["multiplicative"],
    "cost": "steps",
    # process: L = 256, greedy tokens, a block ends after BL steps and the text is judged as it is
    "response_length": 256,
    "temperature": 0.0,
    "limit_block_steps": True,
    "context": "full",
    "stop_at_eot": False,
    # policy: d = 128, 2 heads, start bias −2, top-1 confidence, Bernoulli, not forced in training
    "network": "confidence",
    "head": "bernoulli",
    "width": 128,
    "attention_heads": 2,
    "bias": -2.0,
    "top": 1,
    # at test: bernoulli-argmax
    "test_force_progress": True,
    # the expert, where it steers: threshold 0.9 at BL 32, in all updates
    "expert": "threshold:0.9",
    "expert_block_length": 32,
    "expert_updates": 0,
}
OF_EACH: dict[str, dict[str, Any]] = {
    "paper": {"block_length": 0, "test_temperatures": [1.0], "experts": 0},
    "paper-32": {"block_length": 32, "test_temperatures": [0.5], "experts": 0},
    "paper-steered": {"block_length": 0, "test_temperatures": [1.0], "experts": 1},
}


@pytest.mark.parametrize("name", OF_EACH)
def test_the_papers_presets_have_the_papers_values(name: str) -> None:
    values = flat(PRESETS[name])
    expected = PAPER | OF_EACH[name]
    assert {key: values[key] for key in expected} == expected
    assert values["alpha"] in (10, 3, 1, 0.3, 0)
    assert values["updates"] * values["prompts"] == pytest.approx(14_973, abs=values["prompts"] * 3)


def test_the_papers_schedule() -> None:
    paper = PRESETS["paper"]
    assert learning_rate(paper, 0) == pytest.approx(3e-5 / 100, rel=1e-3)
    assert learning_rate(paper, 469) == pytest.approx(1.5e-5)
    assert learning_rate(paper, 937) < 1e-9


def test_the_papers_policy_at_test() -> None:
    (head,) = heads_at_test(load_head("bernoulli"), PRESETS["paper-32"].validation)
    assert head == Bernoulli(temperature=0.5, force_progress=True)
    (head,) = heads_at_test(load_head("bernoulli"), PRESETS["paper"].validation)
    assert head == Bernoulli(temperature=1.0, force_progress=True)
