"""Learning from an expert: a rule that is right block by block teaches a policy for full diffusion."""

from __future__ import annotations

import pytest
import torch
from conftest import toy_denoiser
from pairs import LENGTH, Never, PairDenoiser, enter
from stable_baselines3.common.logger import Logger

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.policies.heads import Bernoulli, DynamicPlackettLuce, PlackettLuce
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.registry import HEURISTICS, load_heuristic
from dllm_env.policies.rollout import Recording, rollout
from dllm_env.rules import Rules
from dllm_env.tasks.load import TASKS
from dllm_env.tasks.trace import Trace
from dllm_env.train import start
from dllm_env.train.grpo import GRPO, collect, make_batch
from dllm_env.train.imitation import Recorded, expert_draws, expert_rule, expert_rules
from dllm_env.train.setup import make_setup
from dllm_env.train.start import imitate, own_accuracy
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
        start="expert",
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
    monkeypatch.setattr(start, "own_accuracy", lambda *a: looks.append(own_accuracy(*a)) or looks[-1])
    settings = toy.changed(imitation_steps=200, imitation_target=0.5)
    imitate(make_setup(settings), settings)
    assert len(looks) < 200 // start.CHECK_EVERY
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
    assert "nothing to imitate: expert solves none of 64" in capsys.readouterr().out
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


PLAIN = [name for name, rule in HEURISTICS.items() if not (rule.remasks or rule.edits)]


@pytest.mark.parametrize("name", PLAIN)
def test_a_rule_does_as_an_expert_what_it_does_alone(name: str) -> None:
    """Its block, its memory, its random streams are its own; what is recorded is the policy's."""
    denoiser, rule = toy_denoiser(), load_heuristic(name)
    rules = Rules(response_length=20, block_length=5)
    prompts = [denoiser.encode(Trace(chains=1).problem(index).prompt) for index in range(6)]
    seeds = list(range(6))
    alone = rollout(denoiser, rule, rules, prompts, seeds, batch_size=4)
    expert = Recorded(rule, "full", 2, Extras(hidden=True), rules.block_length)
    recording = Recording(2, Extras(hidden=True))
    shown = rollout(denoiser, expert, rules, prompts, seeds, batch_size=4, record=recording)
    assert torch.equal(alone.responses, shown.responses)
    assert torch.equal(alone.steps, shown.steps)
    assert shown.trajectories is not None
    seen = shown.trajectories.observation
    assert seen.confidence.shape[1:] == (20, 2)
    assert seen.hidden is not None
    assert (seen.entropy, seen.margin, seen.log_probability, seen.support) == (None, None, None, None)


def test_a_policy_learns_from_a_rule_with_memory(toy: GRPO) -> None:
    settings = toy.changed(expert="klass:tau=0.8", imitation_steps=2, experts=1)
    setup, log = make_setup(settings), Logger(None, [])
    imitate(setup, settings)
    batch = make_batch(setup, settings, collect(setup, settings, 0, log))
    assert batch.expert.any()


def test_expert_steps_are_scored_piece_by_piece(toy: GRPO, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = toy.changed(experts=2, microbatch_size=3)
    setup, log = make_setup(settings), Logger(None, [])
    drawn = collect(setup, settings, 0, log)
    whole = make_batch(setup, settings.changed(microbatch_size=10_000), drawn)
    evaluate, sizes = setup.policy.evaluate, []
    spy = lambda seen, draw: sizes.append(len(draw)) or evaluate(seen, draw)  # noqa: E731
    monkeypatch.setattr(setup.policy, "evaluate", spy)
    batch = make_batch(setup, settings, drawn)
    assert sum(sizes) == int(batch.expert.sum()) > 3
    assert max(sizes) == 3
    assert torch.equal(batch.old_log_prob, whole.old_log_prob)


class HalfPrecision(PairDenoiser):
    """Its hidden states are bfloat16."""

    dtype = torch.bfloat16

    def features(self, tokens: torch.Tensor, last: int) -> torch.Tensor:
        return super().features(tokens, last).to(torch.bfloat16)


def test_hidden_states_are_recorded_in_the_denoisers_precision(toy: GRPO) -> None:
    settings = toy.changed(network="hidden", head="bernoulli")
    drawn = {}
    for kind in (PairDenoiser, HalfPrecision):
        setup = make_setup(settings)
        setup.denoiser = kind()
        drawn[kind] = collect(setup, settings, 0, Logger(None, [])).attempt.rollout.trajectories
    whole, half = drawn[PairDenoiser].observation, drawn[HalfPrecision].observation
    assert (whole.hidden.dtype, half.hidden.dtype) == (torch.float32, torch.bfloat16)
    assert torch.equal(whole.hidden, half.hidden.float())  # 0 and 1 are exact in both
    scores = [setup.policy.network(seen) for seen in (whole, half)]
    assert torch.equal(*scores)
