"""Looking ahead with a learned value: which step is taken, what it costs, and where it cannot be done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CountingDenoiser, Scripted, favouring
from pairs import PairDenoiser, enter
from torch import Tensor

import dllm_env.eval.evaluate as evaluation_module
from dllm_env.denoisers.base import Extras
from dllm_env.denoisers.tiny import TinyDenoiser
from dllm_env.dynamics import Dynamics, Observation, Wishes
from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.policies.ahead import Ahead
from dllm_env.policies.base import Decision
from dllm_env.policies.block_decoder import BlockDecoder
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.policies.rollout import Rollout, rollout
from dllm_env.random import RowRandom
from dllm_env.rules import Rules, View
from dllm_env.train.ppo import PPO, train_ppo

RULES = Rules(response_length=6).resolve()
PROMPTS, SEEDS = [[3, 4], [5, 3, 4], [4]], [11, 12, 13]


@dataclass
class Sets:
    """Proposes each position with probability a half, at least the leftmost; values masks of high confidence."""

    ahead: Ahead | None
    name: str = "sets"
    context = "full"
    top = 1
    extras = Extras()
    same: bool = False

    def propose(self, observation: Observation, random: RowRandom) -> Decision:
        if self.same:
            return Decision(observation.selectable & (observation.selectable.cumsum(-1) <= 2))
        drawn = observation.selectable & (random.rand(observation.selectable.shape[1]) < 0.5)
        leftmost = observation.selectable & (observation.selectable.cumsum(-1) == 1)
        return Decision(torch.where(drawn.any(-1, keepdim=True), drawn, leftmost))

    act = propose

    def values(self, observation: Observation) -> Tensor:
        return (observation.confidence[..., 0] * observation.masked).sum(-1) / observation.masked_total.clamp(min=1)


def play(denoiser: TinyDenoiser, policy: Any, rules: Rules = RULES, **more: Any) -> Rollout:
    prompts = [[token + 10 for token in prompt] for prompt in PROMPTS]
    return rollout(denoiser, policy, rules, prompts, SEEDS, **more)


def by_hand(denoiser: TinyDenoiser, policy: Sets, prompt: list[int], seed: int) -> tuple[list[int], int]:
    """The response and evaluations of one row, each step of which goes to the candidate of the highest value."""
    assert policy.ahead is not None
    dynamics = Dynamics(denoiser, RULES, 32, View("full", 1, Extras()))
    state, random = dynamics.reset([prompt], [seed]), RowRandom.from_seeds([seed], "policy", denoiser.device)
    dynamics.predict(state)
    used = 1
    while not bool(dynamics.ended(state)):
        seen, found = dynamics.observe(state), {}
        for _ in range(policy.ahead.candidates):
            unmask = policy.propose(seen, random).unmask
            key = tuple(unmask[0].tolist())
            if key in found:
                continue
            after = state[torch.tensor([0])]
            dynamics.apply(after, unmask)
            value = policy.values(seen).item()
            if not bool(dynamics.ended(after)):
                dynamics.predict(after)
                value, used = policy.values(dynamics.observe(after)).item(), used + 1
            found[key] = (value, after)
        random.rand(1)  # of the choice
        state = max(found.values(), key=lambda one: one[0])[1]
    return dynamics.responses(state)[0].tolist(), used


def test_a_large_h_takes_the_best_candidate(toy: TinyDenoiser) -> None:
    policy = Sets(Ahead(3, 1e6))
    played = play(toy, policy)
    for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        response, used = by_hand(toy, policy, [token + 10 for token in prompt], seed)
        assert played.responses[row].tolist() == response
        assert played.nfe[row] == used


def test_a_step_is_taken_in_proportion() -> None:
    """Four positions of confidences 0.2 … 0.8, of which one is left out of the last step but one."""
    table = favouring([3, 4, 5, 3])
    table[:, :] = 0
    for position, confidence in enumerate((0.3, 0.5, 0.7, 0.9)):
        table[position, 3] = torch.tensor(confidence / (1 - confidence) * 5).log()

    class One(Sets):
        """One position at a time, at random: after the third step the last one tells the value."""

        def propose(self, observation: Observation, random: RowRandom) -> Decision:
            score = random.rand(4).masked_fill(~observation.selectable, -1)
            return Decision(torch.nn.functional.one_hot(score.argmax(-1), 4).bool())

    denoiser, count = Scripted(table, 8), 4000
    rules = Rules(response_length=4).resolve()
    played = rollout(denoiser, One(Ahead(16, 3.0)), rules, [[3]] * count, range(count), batch_size=count)
    # With 16 candidates all positions are tried nearly always. What is left after the first step, on average:
    left = torch.tensor([(0.5 + 0.7 + 0.9), (0.3 + 0.7 + 0.9), (0.3 + 0.5 + 0.9), (0.3 + 0.5 + 0.7)]) / 3
    first = (played.revealed_at == 0).float().mean(0)
    assert torch.allclose(first, (3 * left).softmax(0), atol=0.035)
    flat = rollout(denoiser, One(Ahead(16, 0.0)), rules, [[3]] * count, range(count), batch_size=count)
    assert torch.allclose((flat.revealed_at == 0).float().mean(0), torch.full((4,), 0.25), atol=0.03)


def test_candidates_that_are_equal_are_tried_once(counting: CountingDenoiser) -> None:
    plain, looking = play(counting, Sets(None, same=True)), play(counting, Sets(Ahead(5), same=True))
    assert plain.nfe.tolist() == looking.nfe.tolist() == [3, 3, 3]
    assert torch.equal(plain.responses, looking.responses)
    assert torch.equal(plain.revealed_at, looking.revealed_at)
    assert looking.denoiser_calls == plain.denoiser_calls


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_alone_and_together(toy: TinyDenoiser, temperature: float) -> None:
    rules = Rules(response_length=6, temperature=temperature).resolve()
    together = play(toy, Sets(Ahead(4)), rules)
    narrow = play(toy, Sets(Ahead(4)), rules, batch_size=1)
    assert torch.equal(together.responses, narrow.responses)
    assert torch.equal(together.nfe, narrow.nfe)
    assert together.finished.all()


def test_where_it_cannot_be(toy: TinyDenoiser) -> None:
    policy = Sets(Ahead(4))
    with pytest.raises(UsageError, match="looks ahead, and cannot keep a deadline"):
        play(toy, policy, Rules(response_length=6, deadline=3).resolve())
    with pytest.raises(UsageError, match="looks ahead, and cannot keep a deadline"):
        play(toy, policy, wishes=Wishes(deadline=torch.full((3,), 3)))
    with pytest.raises(UsageError, match="looks ahead, and cannot be recorded"):
        play(toy, policy, record=True)
    for candidates, h in ((0, 1.0), (65, 1.0), (4, -1.0), (4, float("nan"))):
        with pytest.raises(UsageError, match="must be"):
            Ahead(candidates, h)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of PPO on pairs."""
    with pytest.MonkeyPatch.context() as patch:
        enter(patch)
        settings = PPO().changed(task="all-a", denoiser="pairs", updates=4, num_envs=16, n_steps=8, save_every=2)
        settings = settings.changed(minibatch_size=64, imitation_steps=0, evaluate_every=2, validation_problems=8)
        return train_ppo(settings, tmp_path_factory.mktemp("ppo") / "run")


def test_ppo_keeps_its_critic(run: Path, tmp_path: Path) -> None:
    policy = load_policy(f"{run}/last:candidates=3,h=5")
    assert isinstance(policy, LearnedPolicy)
    assert policy.critic is not None
    assert policy.ahead == Ahead(3, 5.0)
    assert policy.critic.weight.abs().sum() > 0
    plain = load_policy(f"{run}/last")
    assert isinstance(plain, LearnedPolicy)
    assert plain.ahead is None
    assert plain.fingerprint() != policy.fingerprint()
    policy.save_pretrained(tmp_path / "copy")
    again = LearnedPolicy.from_pretrained(tmp_path / "copy")
    assert again.critic is not None
    assert torch.equal(again.critic.weight, policy.critic.weight)
    plain.critic = None
    plain.save_pretrained(tmp_path / "copy")
    assert LearnedPolicy.from_pretrained(tmp_path / "copy").critic is None
    with pytest.raises(UsageError, match=r"copy:candidates=3 has no critic.*PPO trains one"):
        load_policy(f"{tmp_path}/copy:candidates=3")


def test_it_plays_and_says_where_it_does_not(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch)
    monkeypatch.setattr(evaluation_module, "load_denoiser", lambda *_: PairDenoiser())
    config = EvaluationConfig(task="all-a", denoiser="pairs", problems=20)
    plain, looking = evaluate(config, [str(run), f"{run}:candidates=4"])
    assert looking.setting.learned
    assert looking.record()["nfe"] > plain.record()["nfe"]
    policy = load_policy(f"{run}:candidates=4")
    with pytest.raises(UsageError, match="plays in dllm-env only"):
        policy.act(None, None)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="plays in dllm-env only"):
        BlockDecoder(policy, 1, 4)
