"""Learning from an expert: a rule that is right block by block teaches a policy for full diffusion."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pairs import LENGTH, Never, enter

from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.heads import Bernoulli, DynamicPlackettLuce, PlackettLuce
from dllm_env.tasks.load import TASKS
from dllm_env.train import expert
from dllm_env.train.expert import expert_draws, expert_rule, expert_rules, imitate, own_accuracy
from dllm_env.train.grpo import GRPO
from dllm_env.train.setting import Setting, validate


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> GRPO:
    enter(monkeypatch)
    return GRPO(
        task="all-a",
        denoiser="pairs",
        imitation_rate=1e-2,
        width=16,
        bias=-1.0,
        validation_problems=64,
        expert="threshold:0.8",
        expert_block_length=2,
        imitation=40,
        imitation_target=2.0,
        imitation_problems=64,
        imitation_batch=32,
    )


@pytest.mark.parametrize("network", ["confidence", "hidden"])
@pytest.mark.parametrize("head", ["bernoulli", "dynamic_plackett_luce"])
def test_imitation_is_as_good_as_the_expert(toy: GRPO, head: str, network: str) -> None:
    setting = Setting(replace(toy, head=head, network=network))
    (sharp,) = setting.test_policies(setting.policy.network, replace(toy, test_temperatures=(0.5,)))
    before = validate(setting, sharp, toy)[0]
    imitate(setting, toy)
    after = validate(setting, sharp, toy)[0]
    assert before.accuracy < 0.5
    assert after.accuracy > 0.9
    assert after.nfe < 3.0


def test_imitation_ends_at_its_target(toy: GRPO, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(expert, "own_accuracy", lambda *a: looks.append(own_accuracy(*a)) or looks[-1])
    settings = replace(toy, imitation=200, imitation_target=0.5)
    imitate(Setting(settings), settings)
    assert len(looks) < 200 // expert.CHECK_EVERY
    assert looks[-1] >= 0.5
    assert all(accuracy < 0.5 for accuracy in looks[:-1])


def test_an_expert_that_is_never_right_teaches_nothing(
    toy: GRPO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TASKS, "never", lambda: Never())
    settings = replace(toy, task="never")
    setting = Setting(settings)
    before = setting.policy.network.score.weight.clone()
    imitate(setting, settings)
    assert "the expert solves none of 64" in capsys.readouterr().out
    assert torch.equal(setting.policy.network.score.weight, before)


def test_a_head_of_k_positions_imitates_k_positions(toy: GRPO) -> None:
    settings = replace(toy, head="plackett_luce:k=2", expert="")
    setting = Setting(settings)
    assert expert_rule(setting.policy.head, settings).name == "top_k:2"
    imitate(setting, settings)
    assert validate(setting, setting.policy, settings)[0].accuracy > 0.9


def test_draws_by_hand() -> None:
    masked = torch.tensor([[False, True, True, True]])
    seen = Observation(
        confidence=torch.tensor([[0.0, 0.7, 0.9, 0.8]])[..., None],
        masked=masked,
        selectable=torch.tensor([[False, True, True, False]]),
        progress=torch.zeros(1),
        masked_total=torch.tensor([3]),
        step=torch.tensor([0]),
    )
    chosen = torch.tensor([[False, True, True, True]])  # the last is not selectable
    assert expert_draws(seen, chosen, DynamicPlackettLuce()).tolist() == [[0, 2, 1, 0]]
    assert seen.selectable.tolist() == masked.tolist()
    seen.selectable = torch.tensor([[False, True, True, False]])
    assert expert_draws(seen, chosen, Bernoulli()).tolist() == [[False, True, True, False]]
    assert PlackettLuce(2).as_draw(chosen, seen.confidence[..., 0]).tolist() == [[0, 3, 1, 2]]


def test_an_expert_that_cannot_work_is_refused(toy: GRPO) -> None:
    setting = Setting(toy)
    with pytest.raises(UsageError, match="the expert's block length 3 does not divide"):
        expert_rules(setting.rules, replace(toy, expert_block_length=3))
    with pytest.raises(UsageError, match="unknown heuristic 'clever'"):
        expert_rule(setting.policy.head, replace(toy, expert="clever"))
    assert setting.rules.response_length == LENGTH
