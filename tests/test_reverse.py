"""The reverse process of a score model: the rule, the network, and the probability of a step to learn from."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from checkpoints import sedd_log_scores
from make_checkpoint import make_sedd
from safetensors.torch import load_file, save_file
from test_dcolt import LetterDenoiser, assert_gradients, batch_of, small
from torch import Tensor

from dllm_env.denoisers.base import Denoiser, Extras
from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import Dynamics, Observation
from dllm_env.env import UnmaskEnv
from dllm_env.errors import UsageError
from dllm_env.policies.heads import Bernoulli
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import NetworkConfig, ReverseProcess, make_network
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Recording, rollout
from dllm_env.random import RowRandom, torch_generator
from dllm_env.rules import Rules, View
from dllm_env.train import joint
from dllm_env.train.batches import Batch
from dllm_env.train.dcolt import DCoLT, train_dcolt
from dllm_env.train.joint import States

MANY = 20_000
SCORES = Extras(log_mass=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of random weights whose scores are nearly normalised."""
    made = make_sedd(tmp_path_factory.mktemp("sedd") / "small")
    weights = load_file(made / "model.safetensors")
    for name in ("output_layer.linear.weight", "output_layer.linear.bias"):
        weights[name] *= 0.3
    save_file(weights, made / "model.safetensors", metadata={"format": "pt"})
    return made


def seen_by_policy(denoiser: Denoiser, masked: list[bool]) -> tuple[Observation, Tensor]:
    """Of one row in which these positions are masked, and its tokens."""
    rules, view = Rules(len(masked)).resolve(), View("full", 1, SCORES)
    dynamics = Dynamics(denoiser, rules, 3, view)
    state = dynamics.reset([denoiser.encode("a 6")], [1])
    state.masked[:] = torch.tensor(masked)
    shown = torch.full((len(masked),), 5)
    state.tokens[0, -len(masked) :] = torch.where(torch.tensor(masked), denoiser.mask_id, shown)
    dynamics.predict(state)
    return dynamics.observe(state), state.tokens[0]


def transitions(folder: Path, tokens: Tensor, masked: list[bool], k: float) -> tuple[Tensor, Tensor]:
    """(L,) probability to leave the mask in SEDD's analytic step and in its Euler step, from share to share − k/L.

    The analytic one as published: the staggered score e^(ΔσQ)ᵀ s times the transition e^(ΔσQ).
    """
    share, noise = sum(masked) / len(masked), 1 - 1e-3
    later = share - k / len(masked)
    sigma, before = (-math.log(1 - noise * time) for time in (share, later))
    real = tokens[tokens != -1]
    scores = sedd_log_scores(folder, real, sigma).exp()[-len(masked) :].clone()
    scores[:, -1] = 1  # of a mask to itself
    step = sigma - before
    staggered = scores * math.exp(step)
    staggered[:, -1] += (1 - math.exp(step)) * scores.sum(-1)
    transition = torch.full_like(scores, 1 - math.exp(-step))
    transition[:, -1] = 1
    moved = staggered * transition
    assert torch.allclose(moved[masked].sum(-1), torch.ones(sum(masked)), atol=1e-4)
    rate = noise / (1 - noise * share)
    euler = rate * (share - later) * scores[:, :-1].sum(-1)
    return moved[:, :-1].sum(-1), euler


@pytest.mark.parametrize(
    ("masked", "steps", "step"),
    [([True] * 8, 4, 0), ([True] * 8, 16, 0), ([True, False, True, True, False, False, True, True], 8, 3)],
)
def test_a_step_is_sedd_s_analytic_and_its_euler_step(
    folder: Path, masked: list[bool], steps: int, step: int
) -> None:
    """So much is masked as the time says, as the network reads it."""
    denoiser = load_denoiser(folder)
    observation, tokens = seen_by_policy(denoiser, masked)
    observation.step[:] = step
    analytic, euler = transitions(folder, tokens, masked, 8 / steps)
    assert torch.allclose(analytic[masked], euler[masked], atol=1e-5)
    assert observation.log_mass is not None
    expected = (observation.log_mass[0].exp() / (steps - step)).clamp(max=1)
    assert torch.allclose(expected[masked], analytic[masked].clamp(max=1), atol=1e-4)
    assert expected[masked].std() > 1e-3  # random weights are not normalised
    rows = observation[torch.zeros(MANY, dtype=torch.int64)]
    drawn = load_heuristic(f"ancestral:{steps}").act(rows, RowRandom.from_seeds(list(range(MANY)), "policy")).unmask
    assert not drawn[:, ~torch.tensor(masked)].any()
    assert torch.allclose(drawn.float().mean(0)[masked], expected[masked], atol=0.02)
    # A network of the reverse process begins as the rule, its time the share of masks.
    bias = -math.log(steps - 1)
    network = make_network("reverse", NetworkConfig(bias=bias), torch_generator("r"))
    with torch.no_grad():
        found = network(observation)[0]
    assert torch.allclose(found.sigmoid()[masked], expected[masked], atol=1e-4)


@pytest.mark.parametrize("block", [8, 4])
def test_of_a_normalised_denoiser_as_many_are_revealed_as_time_passes(block: int) -> None:
    """And nothing is left after T steps, of which each block has its share."""
    denoiser, seeds = LetterDenoiser(8), list(range(2000))
    rules = Rules(response_length=8, block_length=block)
    played = rollout(denoiser, load_heuristic("ancestral:4"), rules, [[3]] * len(seeds), seeds)
    assert played.finished.all()
    assert played.steps.max() == 4
    when = torch.stack([(played.revealed_at == step).float().mean(0) for step in range(4)])
    if block == 8:
        assert torch.allclose(when, torch.full_like(when, 1 / 4), atol=0.04)
    else:
        assert torch.allclose(when[:2, :4], torch.full((2, 4), 1 / 2), atol=0.05)
        assert (when[2:, :4] == 0).all()
    assert (played.nfe <= played.steps).all()


class Scores(LetterDenoiser):
    """The same, whose logits are log-scores."""

    tells_scores = True


def reverse(bias: float = -0.5) -> LearnedPolicy:
    return LearnedPolicy(make_network("reverse", NetworkConfig(bias=bias), torch_generator("r")), Bernoulli())


def test_all_moves_of_all_positions_add_up_to_one() -> None:
    """Two positions, each stays masked or becomes one of four tokens: 25 ways."""
    denoiser, policy, total = Scores(2), reverse(), 0.0
    tokens = [i for i in range(5) if i != denoiser.mask_id]
    for ways in itertools.product([None, *tokens], repeat=2):
        response, revealed = torch.full((1, 2), denoiser.mask_id), torch.full((1, 2), -1)
        for place, token in enumerate(ways):
            if token is not None:
                response[0, place], revealed[0, place] = token, 0
        states = States([[3]], response, torch.full_like(response, denoiser.mask_id), revealed, denoiser.pad_id)
        one = torch.zeros(1, dtype=torch.int64)
        batch = batch_of(states, one, one, torch.ones(1, 2, dtype=torch.bool), revealed == 0)
        found = joint.evaluate(denoiser, policy, states, batch, 1.0)
        total += found.total.exp().item()
    assert total == pytest.approx(1.0, abs=1e-5)


def test_gradients_of_a_move_are_those_of_finite_differences() -> None:
    denoiser, policy = Scores(4), reverse()
    denoiser.module.requires_grad_(True)
    response, revealed = torch.tensor([[3, 4, 3, 4]]), torch.tensor([[0, 1, 0, 1]])
    states = States([[3]], response, torch.full_like(response, denoiser.mask_id), revealed, denoiser.pad_id)
    row, step = torch.zeros(2, dtype=torch.int64), torch.tensor([0, 1])
    masked = torch.tensor([[True] * 4, [False, True, False, True]])
    batch = batch_of(states, row, step, masked, torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]]) > 0)

    def value() -> Tensor:
        return (joint.evaluate(denoiser, policy, states, batch, 1.0).total * torch.tensor([1.0, -0.4])).sum()

    assert_gradients(value, {"denoiser": denoiser.module, "policy": policy.network})
    learned = [*denoiser.module.parameters(), *policy.network.parameters()]
    assert all(weight.grad is not None for weight in learned)


def test_probabilities_are_those_of_the_rollout(folder: Path) -> None:
    denoiser, policy = load_denoiser(folder), reverse(-1.0)
    prompts = [denoiser.encode("a 6 b"), denoiser.encode("abc")]
    recording = Recording(1, Extras(token_log_prob=True))
    rules = Rules(response_length=8, temperature=1.0)
    played = rollout(denoiser, policy, rules, prompts, [5, 6], record=recording)
    steps = played.trajectories
    assert steps is not None
    assert steps.observation.log_mass is None  # it follows from the states
    zeros = torch.zeros(len(steps.row))
    batch = Batch(steps.row, steps.observation, steps.draw, steps.log_prob, zeros, zeros, zeros.bool())
    with torch.no_grad():
        again = joint.evaluate(denoiser, policy, States.of(denoiser, prompts, played), batch, 1.0)
    assert torch.allclose(again.of_set, steps.log_prob, atol=1e-3)
    assert torch.allclose(again.of_tokens, joint.as_drawn(batch), atol=1e-3)


def lengths(text: list[str], **_: object) -> list[float]:
    """Longer is better."""
    return [len(one) / 40 for one in text]


@pytest.mark.parametrize("kind", ["none", "full"])
def test_dcolt_on_sedd_end_to_end(folder: Path, tmp_path: Path, kind: str) -> None:
    settings = small(DCoLT()).changed(
        **{"denoiser": str(folder), "response_length": 8, "reward": (lengths,), "alpha": 0.0},
        **{"network": "reverse", "head": "bernoulli", "train_denoiser": kind},
    )
    train_dcolt(settings, tmp_path / "run")
    policy = LearnedPolicy.from_pretrained(tmp_path / "run")
    assert isinstance(policy.network, ReverseProcess)
    assert policy.network.log_rate.item() != pytest.approx(math.log(1 / (1 + math.exp(1.5))), abs=1e-6)
    denoiser = load_denoiser(folder if kind == "none" else tmp_path / "run")
    assert rollout(denoiser, policy, Rules(response_length=8), [denoiser.encode("a 6")], [1]).finished.all()


def test_what_the_reverse_process_cannot_read_is_said() -> None:
    with pytest.raises(UsageError, match="reads none of place"):
        make_network("reverse", NetworkConfig(sight=("place",)), torch_generator("r"))
    with pytest.raises(UsageError, match="steps must be at least 1"):
        load_heuristic("ancestral:0")
    observation, _ = seen_by_policy(LetterDenoiser(4), [True] * 4)
    observation.log_mass = None
    with pytest.raises(UsageError, match="scores"):
        reverse().network(observation)
    assert "log_mass" not in UnmaskEnv(denoiser="tiny", task="trace").observation_space.spaces  # type: ignore[attr-defined]
