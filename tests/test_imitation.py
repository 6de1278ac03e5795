"""Learning from an expert: a rule that is right block by block teaches a policy for full diffusion."""

from __future__ import annotations

import pytest
import torch
from pairs import LENGTH, Never, enter

from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.heads import Bernoulli, DynamicPlackettLuce, PlackettLuce
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.tasks.load import TASKS
from dllm_env.train import imitation
from dllm_env.train.grpo import GRPO
from dllm_env.train.imitation import expert_draws, expert_rule, expert_rules, imitate, own_accuracy
from dllm_env.train.setup import make_setup
from dllm_env.train.validation import heads_at_test, validate


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> GRPO:
    enter(monkeypatch)
    return GRPO().changed(
        task="all-a",
        denoiser="pairs",
        imitation_learning_rate=1e-2,
        width=16,
        bias=-1.0,
        validation_problems=64,
        expert="threshold:0.8",
        expert_block_length=2,
        imitation_steps=40,
        imitation_target=2.0,
        imitation_problems=64,
        imitation_batch_size=32,
    )


@pytest.mark.parametrize("network", ["confidence", "hidden"])
@pytest.mark.parametrize("head", ["bernoulli", "dynamic_plackett_luce"])
def test_imitation_is_as_good_as_the_expert(toy: GRPO, head: str, network: str) -> None:
    setup = make_setup(toy.changed(head=head, network=network))
    (head_at_test,) = heads_at_test(setup.policy.head, toy.changed(test_temperatures=(0.5,)).validation)
    sharp = LearnedPolicy(setup.policy.network, head_at_test)
    before = validate(setup, sharp, toy)[0]
    imitate(setup, toy)
    after = validate(setup, sharp, toy)[0]
    assert before.accuracy < 0.5
    assert after.accuracy > 0.9
    assert after.nfe < 3.0


def test_imitation_ends_at_its_target(toy: GRPO, monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []
    monkeypatch.setattr(imitation, "own_accuracy", lambda *a: looks.append(own_accuracy(*a)) or looks[-1])
    settings = toy.changed(imitation_steps=200, imitation_target=0.5)
    imitate(make_setup(settings), settings)
    assert len(looks) < 200 // imitation.CHECK_EVERY
    assert looks[-1] >= 0.5
    assert all(accuracy < 0.5 for accuracy in looks[:-1])


def test_an_expert_that_is_never_right_teaches_nothing(
    toy: GRPO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(TASKS, "never", lambda: Never())
    settings = toy.changed(task="never")
    setup = make_setup(settings)
    before = setup.policy.network.score.weight.clone()
    imitate(setup, settings)
    assert "the expert solves none of 64" in capsys.readouterr().out
    assert torch.equal(setup.policy.network.score.weight, before)


def test_a_head_of_k_positions_imitates_k_positions(toy: GRPO) -> None:
    settings = toy.changed(head="plackett_luce:k=2", expert="")
    setup = make_setup(settings)
    assert expert_rule(setup.policy.head, settings).name == "top_k:2"
    imitate(setup, settings)
    assert validate(setup, setup.policy, settings)[0].accuracy > 0.9


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
    setup = make_setup(toy)
    with pytest.raises(UsageError, match="the expert's block length 3 does not divide"):
        expert_rules(setup.rules, toy.changed(expert_block_length=3))
    with pytest.raises(UsageError, match="unknown heuristic 'clever'"):
        expert_rule(setup.policy.head, toy.changed(expert="clever"))
    assert setup.rules.response_length == LENGTH
