"""The generation loop: rows independent of the batch, no wasted denoiser work, complete recordings."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import CountingDenoiser

from dllm_env.denoisers.base import Extras
from dllm_env.denoisers.tiny import TinyDenoiser
from dllm_env.dynamics import Observation
from dllm_env.env import EXTRAS, UnmaskEnv
from dllm_env.errors import UsageError
from dllm_env.policies.base import Decision, Policy
from dllm_env.policies.heads import Bernoulli
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import ConfidenceTransformer, NetworkConfig
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Rollout, attempt, rollout, row_seeds
from dllm_env.random import RowRandom, torch_generator
from dllm_env.rules import Context, Rules
from dllm_env.tasks.trace import Trace

TASK = Trace(chains=1)  # 12 prompt and 20 response tokens


def learned(context: Context = "full", width: int = 32, force: bool = False) -> LearnedPolicy:
    """A network of random weights, the gates open, so that every part of it has a say."""
    network = ConfidenceTransformer(NetworkConfig(width=width, bias=-1.5), torch_generator("policy"))
    with torch.no_grad():
        network.modulation.weight.normal_(0.0, 0.1, generator=torch_generator("gates"))
        network.score.weight.normal_(0.0, 0.2, generator=torch_generator("score"))
    return LearnedPolicy(network, Bernoulli(force_progress=force), context)


STATEFUL = (
    "klass:tau=0.2,kappa=0.3",
    "first_hitting",
    "dilated",
    "entropy:2",
    "margin:2",
    "top_k:steps=7",
    "entropy:steps=9",
)

POLICIES: dict[str, Policy] = {
    **{text: load_heuristic(text) for text in ("threshold:0.4", "top_k:2", "random:2", *STATEFUL)},
    "learned": learned(),
    "learned, block": learned("block"),
    "learned, forced": learned(force=True),
}


def prompts(denoiser: TinyDenoiser, count: int) -> list[list[int]]:
    return [denoiser.encode(TASK.problem(index).prompt) for index in range(count)]


def play(denoiser: TinyDenoiser, policy: Policy, count: int = 10, batch: int = 128, **rules: object) -> Rollout:
    settings = {"response_length": 20, "block_length": 20, **rules}
    return rollout(
        denoiser,
        policy,
        Rules(**settings),  # type: ignore[arg-type]
        prompts(denoiser, count),
        row_seeds(count, "test"),
        batch_size=batch,
        prompt_length=12,
        record=True,
    )


def steps_by_row(result: Rollout) -> list[dict[str, torch.Tensor]]:
    """The recording, sorted into rows; each row's steps stand in the order of time."""
    found = result.trajectories
    assert found is not None
    columns = {"draw": found.draw, "log_prob": found.log_prob, "entropy": found.entropy}
    for field in fields(Observation):
        value = getattr(found.observation, field.name)
        columns |= {} if value is None or field.name == "memory" else {field.name: value}
    return [{name: values[found.row == row] for name, values in columns.items()} for row in range(len(result.nfe))]


@pytest.mark.parametrize("rules", [{}, {"block_length": 5, "temperature": 0.7}], ids=["full", "blocks, sampled"])
@pytest.mark.parametrize("name", POLICIES)
def test_a_batch_of_one_is_a_batch_of_many(name: str, rules: dict[str, object], toy: TinyDenoiser) -> None:
    many = play(toy, POLICIES[name], batch=128, **rules)
    recorded = steps_by_row(many)
    assert many.nfe.unique().numel() > 1 or not name.startswith(("threshold", "learned")), (
        "rows of equal length would prove little"
    )
    for batch in (1, 3):
        few = play(toy, POLICIES[name], batch=batch, **rules)
        for field in ("responses", "revealed_at", "sureness", "nfe", "steps", "finished"):
            assert torch.equal(getattr(few, field), getattr(many, field)), (field, batch)
        for row, steps in enumerate(steps_by_row(few)):
            for column, values in steps.items():
                assert torch.equal(values, recorded[row][column]), (column, batch, row)


@pytest.mark.parametrize("width", [32, 64, 128])
def test_the_network_scores_a_row_alone_as_in_a_batch_bit_for_bit(width: int) -> None:
    network = learned(width=width).network
    generator = torch_generator("observations")
    for positions in (1, 4, 5, 8, 40):
        masked = torch.rand(50, positions, generator=generator) < 0.6
        confidence = torch.rand(50, positions, 1, generator=generator) * masked[..., None]
        progress = torch.randint(0, 40, (50,), generator=generator) / 40
        observation = Observation(confidence, masked, masked, progress, masked.sum(-1), progress.long())
        with torch.no_grad():
            together = network(observation)
            for first, last in [(row, row + 1) for row in range(12)] + [(0, n) for n in range(1, 20)]:
                assert torch.equal(network(observation[torch.arange(first, last)]), together[first:last])


def test_slots_are_refilled_at_once(counting: CountingDenoiser) -> None:
    result = play(counting, load_heuristic("threshold:0.4"), count=30, batch=4)
    calls = counting.rows_per_call
    assert sum(calls) == result.nfe.sum()
    assert len(calls) == result.denoiser_calls
    assert max(calls) == 4
    # The batch is full for as long as prompts wait: it only shrinks when every row has had its slot.
    shrinking = calls[next((i for i, rows in enumerate(calls) if rows < 4), len(calls)) :]
    assert shrinking == sorted(shrinking, reverse=True)
    assert len(shrinking) <= result.nfe.max()


def test_waiting_rows_cost_nothing(counting: CountingDenoiser) -> None:
    result = play(counting, learned(), count=12, batch=5)
    assert sum(counting.rows_per_call) == result.nfe.sum()
    assert (result.nfe < result.steps).any(), "some steps of this policy are empty"


@pytest.mark.parametrize("name", ["random:2", "learned", "learned, block"])
def test_the_recording_rebuilds_the_response(name: str, toy: TinyDenoiser) -> None:
    result = play(toy, POLICIES[name], block_length=5, batch=3)
    full = POLICIES[name].context == "full"
    for row, steps in enumerate(steps_by_row(result)):
        assert len(steps["draw"]) == result.steps[row]
        revealed = torch.full((20,), -1)
        for step, action in enumerate(steps["draw"] & steps["selectable"]):
            start = 0 if full else int((revealed < 0).int().argmax()) // 5 * 5
            revealed[start : start + len(action)][action] = step
        assert torch.equal(revealed, result.revealed_at[row])
        changed = 1 + (steps["draw"] & steps["selectable"])[:-1].any(-1).sum()
        assert result.nfe[row] == changed
    assert torch.equal(result.responses == toy.mask_id, result.revealed_at < 0)


def test_recorded_likelihoods_are_those_of_the_policy(toy: TinyDenoiser) -> None:
    policy = learned()
    found = play(toy, policy).trajectories
    assert found is not None
    log_prob, entropy = policy.evaluate(found.observation, found.draw)
    torch.testing.assert_close(log_prob.detach(), found.log_prob)
    torch.testing.assert_close(entropy.detach(), found.entropy)


def test_rows_that_are_cut_off_are_not_finished(toy: TinyDenoiser) -> None:
    result = play(toy, load_heuristic("leftmost:1"), max_steps=7)
    assert not result.finished.any()
    assert result.steps.tolist() == result.nfe.tolist() == [7] * 10
    assert ((result.responses == toy.mask_id).sum(-1) == 13).all()
    scored = attempt(
        toy, load_heuristic("leftmost:1"), Rules(20, 20, max_steps=7), TASK, [TASK.problem(0)], row_seeds(1)
    )
    assert scored.correct.tolist() == [0.0]


def test_a_cut_off_row_is_wrong_even_where_its_text_is_right(toy: TinyDenoiser) -> None:
    class Lenient(Trace):
        def score(self, problem: object, response: str) -> float:
            return 1.0

    def correct(max_steps: int) -> list[float]:
        rules = Rules(20, 20, max_steps=max_steps)
        task = Lenient(chains=1)
        return attempt(
            toy, load_heuristic("leftmost:1"), rules, task, [task.problem(0)], row_seeds(1)
        ).correct.tolist()

    assert (correct(19), correct(20)) == ([0.0], [1.0])


def test_seeds_decide_what_is_random(toy: TinyDenoiser) -> None:
    def run(seeds: list[int]) -> torch.Tensor:
        rules = Rules(20, 20)
        return rollout(toy, load_heuristic("random:2"), rules, prompts(toy, 4), seeds, batch_size=2).revealed_at

    first = run([1, 2, 3, 4])
    assert torch.equal(first, run([1, 2, 3, 4]))
    assert (first != run([5, 6, 7, 8])).any(-1).all()
    assert torch.equal(first[1:2], run([0, 2, 0, 0])[1:2]), "a row's numbers follow from its own seed"


@pytest.mark.parametrize("rules", [{}, {"temperature": 0.7, "block_length": 5}, {"stop_at_eot": True}], ids=str)
@pytest.mark.parametrize("name", POLICIES)
def test_equals_stepping_the_environment(name: str, rules: dict[str, object], toy: TinyDenoiser) -> None:
    policy = POLICIES[name]
    if policy.extras.log_probability or "steps" in policy.name:
        pytest.skip("the environment shows no distributions, and of masks those of the block")
    extras = [extra for extra in ("entropy", "margin") if getattr(policy.extras, extra)]
    env = UnmaskEnv(denoiser=toy, task=TASK, context=policy.context, extras=extras, **rules)
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        episode = env.game.draw(np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed))))
        random = RowRandom.from_seeds([episode.seed], "policy")
        settings = Rules(
            20, rules.get("block_length", 20), **{k: v for k, v in rules.items() if k != "block_length"}
        )  # type: ignore[arg-type]
        expected = attempt(toy, policy, settings, TASK, [episode.problem], [episode.seed], batch_size=1)
        ended, info = False, {}
        while not ended:
            decision = policy.act(from_gymnasium(observation), random)
            observation, _, terminated, truncated, info = env.step(decision.unmask[0].numpy())
            ended = terminated or truncated
        result = expected.rollout
        assert (info["nfe"], info["step"]) == (result.nfe.item(), result.steps.item())
        assert (info["response"], info["correct"]) == (expected.texts[0], expected.correct.item())
        assert terminated == result.finished.item()


def from_gymnasium(observation: dict[str, np.ndarray]) -> Observation:
    masked, selectable = (torch.from_numpy(observation[name]).bool()[None] for name in ("masked", "selectable"))
    confidence = torch.from_numpy(observation["confidence"]).view(1, masked.shape[1], -1)
    progress = torch.from_numpy(observation["progress"])
    step = (progress * 20).round().long()
    shown = {name: torch.from_numpy(values)[None] for name, values in observation.items() if name in EXTRAS}
    return Observation(confidence, masked, selectable, progress, masked.sum(-1), step, **shown)


class Waiting:
    """Never unmasks anything."""

    name, top, extras = "waiting", 1, Extras()
    context: Context = "block"

    def act(self, observation: Observation, random: RowRandom) -> Decision:
        return Decision(torch.zeros_like(observation.selectable))


def test_a_policy_that_does_nothing_costs_one_evaluation(counting: CountingDenoiser) -> None:
    result = play(counting, Waiting(), count=3)
    assert (result.nfe.tolist(), result.steps.tolist()) == ([1, 1, 1], [20, 20, 20])
    assert counting.rows_per_call == [3]
    assert not result.finished.any()


def test_progress_is_told(toy: TinyDenoiser) -> None:
    told: list[int] = []
    rollout(
        toy,
        load_heuristic("threshold:0.4"),
        Rules(20, 20),
        prompts(toy, 9),
        row_seeds(9),
        batch_size=2,
        on_progress=told.append,
    )
    assert told == sorted(set(told))
    assert told[-1] == 9


def test_bad_input_is_refused(toy: TinyDenoiser) -> None:
    rules, policy = Rules(20, 20), load_heuristic("leftmost:1")
    with pytest.raises(UsageError, match="as many seeds"):
        rollout(toy, policy, rules, prompts(toy, 2), [1])
    with pytest.raises(UsageError, match="needs prompts"):
        rollout(toy, policy, rules, [], [])
    with pytest.raises(UsageError, match="batch size"):
        rollout(toy, policy, rules, prompts(toy, 1), [1], batch_size=0)
    with pytest.raises(UsageError, match="exceed the context"):
        rollout(toy, policy, rules, prompts(toy, 1), [1], prompt_length=120)
