"""DCoLT: the joint probability by enumeration, its gradients, what is learned, and runs that go on bit for bit."""

from __future__ import annotations

import csv
import itertools
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import peft
import pytest
import torch
from conftest import toy_denoiser
from make_checkpoint import make_bert, make_dream, make_llada, make_llada2, make_llada_moe
from pairs import LENGTH, AllA, assert_same_run, weights
from safetensors.torch import save_file
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from dllm_env.cli import main
from dllm_env.denoisers.adapters import add_adapter, save_adapter
from dllm_env.denoisers.base import Denoiser, Extras
from dllm_env.denoisers.load import load_denoiser
from dllm_env.denoisers.tiny import TinyDenoiser
from dllm_env.dynamics import Observation
from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.policies.heads import DynamicPlackettLuce, Head, PlackettLuce
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.policies.networks import NetworkConfig, make_network
from dllm_env.policies.rollout import Recording, attempt, rollout
from dllm_env.random import torch_generator
from dllm_env.rules import Rules
from dllm_env.tasks.load import TASKS
from dllm_env.train import joint
from dllm_env.train.batches import Batch
from dllm_env.train.dcolt import DCoLT, collect, learn, loss_of, make_batch, make_learner, train_dcolt
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.joint import States
from dllm_env.train.joint_learner import JointLearner, checkpointed
from dllm_env.train.setup import Setup, make_setup

WORDS = "pmeAB"


class Letters(nn.Module):
    """Every position sees its own token, its place, and the mean of all tokens."""

    def __init__(self, length: int = LENGTH) -> None:
        super().__init__()
        generator = torch_generator("letters", length)
        self.embedding, self.place, self.head = nn.Embedding(5, 4), nn.Embedding(length, 4), nn.Linear(4, 5)
        with torch.no_grad():
            for weight in self.parameters():
                weight.normal_(0.0, 0.5, generator=generator)
            self.head.weight.mul_(0.3)
            self.head.bias.copy_(torch.tensor([-9.0, 0.0, -9.0, 0.0, 0.0]))


class LetterDenoiser(Denoiser):
    """Writes A and B, at first equally often; it has nothing but weights to know better by."""

    name, pad_id, mask_id, eot_id, vocabulary, hidden_size, max_length = "letters", 0, 1, 2, 5, 4, 16
    device = torch.device("cpu")

    def __init__(self, length: int = LENGTH) -> None:
        self.letters = Letters(length).requires_grad_(False)

    @property
    def module(self) -> Letters:
        return self.letters

    def features(self, tokens: Tensor, last: int) -> Tensor:
        seen = self.letters.embedding(tokens)
        return (seen + seen.mean(1, keepdim=True))[:, -last:] + self.letters.place.weight

    def head(self, hidden: Tensor) -> Tensor:
        return self.letters.head(hidden)

    def encode(self, text: str) -> list[int]:
        return [3]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(WORDS[i] for i in ids)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.letters.state_dict(), folder / "letters.safetensors")


@pytest.fixture
def letters(monkeypatch: pytest.MonkeyPatch) -> DCoLT:
    monkeypatch.setitem(TASKS, "all-a", AllA)
    monkeypatch.setattr("dllm_env.train.setup.load_denoiser", lambda name, device: LetterDenoiser())
    return small(DCoLT()).changed(task="all-a", head="plackett_luce:k=2", train_denoiser="full")


@pytest.fixture
def trace(toy_folder: Path) -> DCoLT:
    """On a denoiser in a folder; wrong answers earn something, so that updates have something to learn."""
    return small(DCoLT()).changed(denoiser=str(toy_folder), reward=(letters_of,), alpha=0.0)


def letters_of(text: Sequence[str], **_: object) -> list[float]:
    """Some responses are better than others, whatever they say."""
    return [one.count("a") / 40 + len(one) / 400 for one in text]


def small(settings: DCoLT) -> DCoLT:
    return settings.changed(
        updates=3,
        prompts=3,
        num_generations=4,
        warmup=1,
        learning_rate=3e-3,
        width=8,
        validation_problems=4,
        validation_rules=(),
        evaluate_every=0,
        save_every=1,
        lora_rank=2,
    )


def policy_for(denoiser: Denoiser, head: Head, network: str = "hidden") -> LearnedPolicy:
    made = make_network(network, NetworkConfig(width=8), torch_generator("p"), denoiser.hidden_size)
    with torch.no_grad():
        made.modulation.weight.normal_(0.0, 0.3, generator=torch_generator("m"))
        made.score.weight.mul_(20)
    return LearnedPolicy(made, head)


def batch_of(states: States, row: Tensor, step: Tensor, masked: Tensor, draw: Tensor) -> Batch:
    zeros = torch.zeros(len(row))
    seen = Observation(torch.zeros(*masked.shape, 1), masked, masked, step / masked.shape[1], masked.sum(-1), step)
    return Batch(row, seen, draw, zeros, zeros, zeros, zeros.bool())


# ------------------------------------------------------------------------------------- the probability


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("network", ["hidden", "confidence"])
@pytest.mark.parametrize("head", [PlackettLuce(1), PlackettLuce(2), DynamicPlackettLuce()])
def test_all_actions_and_tokens_of_a_step_add_up_to_one(head: Head, network: str, temperature: float) -> None:
    """Two positions, four tokens besides the mask: every ordered set with every way to write it."""
    denoiser = LetterDenoiser(2)
    policy = policy_for(denoiser, head, network)
    tokens = [i for i in range(5) if i != denoiser.mask_id]
    draws = [[1, 0], [0, 1]] if head == PlackettLuce(1) else [[1, 2], [2, 1]]
    draws += [[1, 0], [0, 1]] if isinstance(head, DynamicPlackettLuce) else []
    total = 0.0
    for draw in draws:
        places = [place for place in range(2) if draw[place]]
        for written in itertools.product(tokens, repeat=len(places)):
            response, revealed = torch.full((1, 2), denoiser.mask_id), torch.full((1, 2), -1)
            for place, token in zip(places, written, strict=True):
                response[0, place], revealed[0, place] = token, 0
            states = States([[3]], response, torch.full_like(response, denoiser.mask_id), revealed, denoiser.pad_id)
            one = torch.zeros(1, dtype=torch.int64)
            batch = batch_of(states, one, one, torch.ones(1, 2, dtype=torch.bool), torch.tensor([draw]))
            total += joint.evaluate(denoiser, policy, states, batch, temperature).total.exp().item()
    assert total == pytest.approx(1.0, abs=1e-5)


def assert_gradients(value: Callable[[], Tensor], modules: dict[str, nn.Module]) -> None:
    """Of each weight that has a gradient, the largest one is the slope of the value."""
    value().backward()
    for name, weight in (
        (f"{part}.{n}", w) for part, module in modules.items() for n, w in module.named_parameters()
    ):
        if weight.grad is None:
            continue
        place = int(weight.grad.abs().flatten().argmax())
        slopes = []
        for sign in (1, -1):
            with torch.no_grad():
                before = weight.flatten()[place].item()
                weight.view(-1)[place] = before + sign * 1e-2
                slopes.append(value().item())
                weight.view(-1)[place] = before
        found = (slopes[0] - slopes[1]) / 2e-2
        assert weight.grad.flatten()[place].item() == pytest.approx(found, rel=0.03, abs=2e-3), name


@pytest.mark.parametrize("network", ["hidden", "confidence"])
def test_gradients_of_both_are_those_of_finite_differences(network: str) -> None:
    denoiser = LetterDenoiser()
    denoiser.module.requires_grad_(True)
    policy = policy_for(denoiser, PlackettLuce(2), network)
    response, revealed = torch.tensor([[3, 4, 3, 4]]), torch.tensor([[0, 1, 0, 1]])
    states = States([[3]], response, torch.full_like(response, denoiser.mask_id), revealed, denoiser.pad_id)
    row, step = torch.zeros(2, dtype=torch.int64), torch.tensor([0, 1])
    masked = torch.tensor([[True] * 4, [False, True, False, True]])
    batch = batch_of(states, row, step, masked, torch.tensor([[2, 0, 1, 0], [0, 1, 0, 2]]))

    def value() -> Tensor:
        return (joint.evaluate(denoiser, policy, states, batch, 0.7).total * torch.tensor([1.0, -0.4])).sum()

    assert_gradients(value, {"denoiser": denoiser.module, "policy": policy.network})
    assert denoiser.module.head.weight.grad is not None
    assert policy.network.score.weight.grad is not None


# -------------------------------------------------------------------------------- what the rollout records


class Watching(TinyDenoiser):
    """Keeps the tokens that it was shown."""

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.shown: list[Tensor] = []

    def predict(self, tokens: Tensor, *given: object, **named: object) -> object:  # type: ignore[override]
        self.shown.append(tokens.clone())
        return super().predict(tokens, *given, **named)  # type: ignore[arg-type]


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_states_and_probabilities_are_those_of_the_rollout(temperature: float) -> None:
    denoiser = toy_denoiser(Watching)
    policy = policy_for(denoiser, PlackettLuce(4))
    rules = Rules(response_length=16, temperature=temperature)
    prompts = [[3, 4, 5, 6], [7, 8, 9, 10], [4, 4, 4, 4]]
    played = rollout(denoiser, policy, rules, prompts, [5, 6, 7], record=Recording(1, Extras(token_log_prob=True)))
    steps = played.trajectories
    assert steps is not None
    assert steps.observation.hidden is None
    states = States.of(denoiser, prompts, played)
    for step in range(4):
        shown = states.tokens(torch.arange(3), torch.full((3,), step))
        assert torch.equal(shown, denoiser.shown[step][:, -shown.shape[1] :])
    zeros = torch.zeros(len(steps.row))
    batch = Batch(steps.row, steps.observation, steps.draw, steps.log_prob, zeros, zeros, zeros.bool())
    with torch.no_grad():
        again = joint.evaluate(denoiser, policy, states, batch, temperature)
    assert torch.allclose(again.of_set, steps.log_prob, atol=1e-4)
    assert torch.allclose(again.of_tokens, joint.as_drawn(batch), atol=1e-4)
    assert (again.of_tokens < -1).all()


def test_prompts_that_cannot_be_padded_go_by_their_length() -> None:
    denoiser = toy_denoiser()
    response = torch.full((3, 8), 5)
    states = States([[3], [4, 5], [6]], response, response, torch.zeros_like(response), denoiser.pad_id)
    row, step = torch.tensor([2, 1, 0, 1]), torch.tensor([0, 1, 0, 0])
    padded = joint.hidden_states(denoiser, states, row, step)
    denoiser.pads = False
    assert torch.allclose(joint.hidden_states(denoiser, states, row, step), padded, atol=1e-5)


def test_a_token_taken_for_sure_has_probability_one() -> None:
    denoiser = toy_denoiser()
    needed = torch.ones(2, 6, dtype=torch.bool)
    tokens = torch.full((2, 8), denoiser.mask_id)
    found = denoiser.predict(tokens, needed, extras=Extras(token_log_prob=True))
    assert found.token_log_prob is not None
    assert (found.token_log_prob == 0).all()


# ------------------------------------------------------------------------------------------ learning


def logged(folder: Path) -> list[dict[str, str]]:
    with next((folder / "logs").glob("progress*.csv")).open() as file:
        return list(csv.DictReader(file))


def test_the_denoiser_learns_the_right_token_through_the_outcome(letters: DCoLT, tmp_path: Path) -> None:
    settings = letters.changed(updates=40, prompts=8, num_generations=8, denoiser_learning_rate=0.05)
    train_dcolt(settings, tmp_path / "run")
    rows = [float(row["rollout/accuracy"]) for row in logged(tmp_path / "run")]
    assert sum(rows[:3]) / 3 < 0.25
    assert sum(rows[-3:]) / 3 > 0.9
    train_dcolt(settings.changed(train_denoiser="none", updates=20), tmp_path / "frozen")
    frozen = [float(row["rollout/accuracy"]) for row in logged(tmp_path / "frozen")]
    assert max(frozen) < 0.4


def one_update(settings: DCoLT) -> tuple[Setup, JointLearner, States, Batch, Logger]:
    setup, log = make_setup(settings), Logger(None, [])
    learner = make_learner(setup, settings)
    assert isinstance(learner, JointLearner)
    drawn = collect(setup, settings, 0, log)
    return setup, learner, *make_batch(setup, learner, settings, drawn), log


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_ratios_are_one_at_first_and_then_are_not(trace: DCoLT, kind: str) -> None:
    for steps in (1, 2):
        settings = trace.changed(train_denoiser=kind, gradient_steps=steps, denoiser_learning_rate=1e-2)
        _, learner, states, batch, log = one_update(settings)
        assert len(batch)
        learn(learner, states, batch, settings, log)  # type: ignore[arg-type]
        away = abs(log.name_to_value["train/ratio_max"] - 1)
        assert away < 1e-3 if steps == 1 else away > 1e-2


def test_the_divergence_is_from_the_start(trace: DCoLT) -> None:
    settings = trace.changed(train_denoiser="full", kl_weight=0.5)
    setup, learner, states, batch, _ = one_update(settings)
    plain = settings.changed(kl_weight=0.0)

    def both() -> list[float]:
        return [loss_of(learner, states, batch, s).loss.item() for s in (settings, plain)]  # type: ignore[arg-type]

    with_it, without = both()
    assert with_it == pytest.approx(without, abs=1e-5)
    with torch.no_grad():
        setup.denoiser.module.head.weight.mul_(1.5)
        now = joint.evaluate(setup.denoiser, setup.policy, states, batch, 1.0).of_tokens
    with_it, without = both()
    away = batch.reference - now  # type: ignore[attr-defined]
    expected = 0.5 * sum(
        w * (math.exp(a) - 1 - a) for w, a in zip(batch.weight.tolist(), away.tolist(), strict=True)
    )
    assert expected > 1e-3
    assert with_it - without == pytest.approx(expected, rel=1e-3)


def test_checkpointing_of_activations_changes_no_gradient(trace: DCoLT) -> None:
    found = []
    for wanted in (False, True):
        settings = trace.changed(train_denoiser="full", activation_checkpointing=wanted, gradient_steps=1)
        setup, learner, states, batch, log = one_update(settings)
        learn(learner, states, batch, settings, log)  # type: ignore[arg-type]
        found.append([weight.grad for weight in setup.denoiser.module.parameters()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_with_a_frozen_denoiser_it_is_grpo(letters: DCoLT, tmp_path: Path) -> None:
    frozen = letters.changed(train_denoiser="none")
    train_dcolt(frozen, tmp_path / "dcolt")
    same = {name: getattr(frozen, name) for name in GRPO.__dataclass_fields__}
    train_grpo(GRPO(**same), tmp_path / "grpo")
    one, two = weights(tmp_path / "dcolt"), weights(tmp_path / "grpo")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


# ------------------------------------------------------------------------------ files, and going on


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_a_stopped_run_goes_on_bit_for_bit(trace: DCoLT, tmp_path: Path, kind: str) -> None:
    settings = trace.changed(train_denoiser=kind)
    train_dcolt(settings, tmp_path / "whole")
    for stop in (1, 2):
        train_dcolt(settings, tmp_path / "stopped", resume=stop > 1, stop_after=stop)
    train_dcolt(settings, tmp_path / "stopped", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
    one, two = (load_denoiser(tmp_path / name) for name in ("whole", "stopped"))
    assert one.fingerprint() == two.fingerprint() != load_denoiser(str(trace.denoiser)).fingerprint()


def test_policy_and_denoiser_of_a_run_work_together(trace: DCoLT, tmp_path: Path) -> None:
    run = tmp_path / "run"
    train_dcolt(trace.changed(train_denoiser="lora", denoiser_learning_rate=0.01), run)
    base, tuned = load_denoiser(str(trace.denoiser)), load_denoiser(run)
    assert tuned.name == str(run)
    (result,) = evaluate(EvaluationConfig(denoiser=str(run), problems=2), [str(run)])
    assert {outcome.nfe for outcome in result.outcomes} == {10}
    tokens = torch.full((2, 50), base.mask_id)
    other = load_denoiser(str(trace.denoiser))
    assert isinstance(other, TinyDenoiser)
    peft.PeftModel.from_pretrained(other.network, str(run / "best" / "denoiser"))
    with torch.no_grad():
        features = [one.features(tokens, 40) for one in (base, tuned, other)]
    assert not torch.allclose(features[0], features[1], atol=1e-3)
    assert torch.allclose(features[1], features[2], atol=1e-4)
    assert load_policy(str(run)).name == str(run)


def test_what_is_pushed_is_both_and_names_no_place(
    trace: DCoLT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, dry = tmp_path / "run", tmp_path / "dry"
    train_dcolt(trace.changed(train_denoiser="lora"), run)
    assert main(["push", str(run), "someone/fast", "--dry-run", str(dry)]) == 0
    assert "denoiser/adapter_model.safetensors (" in capsys.readouterr().out
    about = json.loads((dry / "denoiser" / "adapter_config.json").read_text())
    assert about["base_model_name_or_path"] == Path(str(trace.denoiser)).name
    assert str(tmp_path) not in "".join(file.read_text() for file in dry.rglob("*.json"))
    weights_of = [folder / "denoiser" / "adapter_model.safetensors" for folder in (run / "best", dry)]
    assert weights_of[0].read_bytes() == weights_of[1].read_bytes()
    about["base_model_name_or_path"] = str(trace.denoiser)
    (dry / "denoiser" / "adapter_config.json").write_text(json.dumps(about))
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, allow_patterns: str(dry))
    assert load_denoiser("someone/fast").fingerprint() == load_denoiser(run).fingerprint()


def test_an_adapter_changes_nothing_at_its_start() -> None:
    denoiser, base = toy_denoiser(), toy_denoiser()
    add_adapter(denoiser, 3, 8.0, (), torch_generator("a"))
    tokens = torch.randint(5, 30, (3, 50), generator=torch_generator("t"))
    with torch.no_grad():
        assert torch.allclose(denoiser.features(tokens, 40), base.features(tokens, 40), atol=1e-6)
        one, two = denoiser.shadow_features(tokens, 40), base.shadow_features(tokens, 40)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(one, two, strict=True))
    learning = {name.split(".lora_")[0] for name, w in denoiser.module.named_parameters() if w.requires_grad}
    layers = ("attention_out", "feed_forward_in", "feed_forward_out", "query_key_value")
    assert learning == {f"blocks.0.{layer}" for layer in layers}
    other, state = toy_denoiser(), torch.random.get_rng_state()
    add_adapter(other, 3, 8.0, ("attention_out",), torch_generator("a"))
    assert torch.equal(state, torch.random.get_rng_state())


# ------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ema_decay": 0.9}, "ema_decay does not work"),
        ({"experts": 1}, "experts does not work"),
        ({"target_kl": 0.1}, "target_kl does not work"),
        ({"temperature": 0.0}, "set temperature above 0"),
        ({"deadlines": (2, 3)}, "deadlines write tokens"),
        ({"preferences": (0.1, 1.0)}, "for one alpha"),
        ({"context": "block"}, "whole responses"),
        ({"train_denoiser": "half"}, "train_denoiser"),
        ({"lora_rank": 0}, "lora_rank must be at least 1"),
    ],
)
def test_settings_that_do_not_go_together(change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DCoLT().changed(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "plackett_luce:k=3"}, "k=3 does not divide blocks of 40"),
        ({"sight": ("ends",)}, "reads the tokens drawn"),
        ({"lora_targets": ("q_proj",)}, "no linear layers named 'q_proj'"),
    ],
)
def test_what_cannot_be_trained_is_said_before_any_work(
    trace: DCoLT, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        train_dcolt(trace.changed(**change), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists()


def test_the_command_trains_and_says_how_to_compare(
    toy_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(tmp_path / "run")
    small = ["--updates", "1", "--prompts", "1", "--num-generations", "2", "--width", "8"]
    small += ["--validation-problems", "2", "--validation-rules"]
    assert main(["train", "dcolt", "--denoiser", str(toy_folder), *small, "--out", run]) == 0
    assert f"dllm-env eval --policies threshold:0.9 top_k:1 {run} --task trace --denoiser {run}" in (
        capsys.readouterr().out
    )
    assert main(["train", "dcolt", "--resume", "--out", run]) == 0
    assert main(["train", "dcolt", "--lora-rank", "0", "--out", str(tmp_path / "x")]) == 2
    assert "lora_rank must be at least 1" in capsys.readouterr().err


def test_a_denoiser_without_weights_is_refused(
    letters: DCoLT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LetterDenoiser, "module", Denoiser.module)
    with pytest.raises(UsageError, match="cannot be trained; train the policy alone"):
        train_dcolt(letters, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "only adapters of the type LORA"),
        ({"r": "two"}, "r is missing or of another kind"),
        ({"r": 10**9}, "r has to be from 1 to 4,096"),
        ({"lora_alpha": 0}, "lora_alpha above 0"),
        ({"base_model_name_or_path": None}, "base_model_name_or_path is missing"),
        ({"target_modules": None}, "target_modules"),
        ({"target_modules": ["q_proj"]}, "no linear layers named 'q_proj'"),
        ({"r": 3}, "the weight"),
    ],
)
def test_adapters_that_are_damaged(
    toy_folder: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    denoiser = toy_denoiser()
    add_adapter(denoiser, 2, 4.0, (), torch_generator("a"))
    save_adapter(denoiser, str(toy_folder), 2, 4.0, tmp_path / "a")
    assert load_denoiser(tmp_path / "a").fingerprint() == load_denoiser(toy_folder).fingerprint()
    file = tmp_path / "a" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UsageError, match=message):
        load_denoiser(tmp_path / "a")


def test_adapters_of_adapters_add_up_and_none_is_of_itself(toy_folder: Path, tmp_path: Path) -> None:
    places = [str(toy_folder), str(tmp_path / "one"), str(tmp_path / "two")]
    for base, place in itertools.pairwise(places):
        denoiser = load_denoiser(base)
        add_adapter(denoiser, 2, 4.0, (), torch_generator("a"))
        with torch.no_grad():
            for name, weight in denoiser.module.named_parameters():
                if "lora_B" in name:
                    weight.normal_(0.0, 0.1, generator=torch_generator(name))
        save_adapter(denoiser, base, 2, 4.0, Path(place))
    weights = [load_denoiser(place).module.state_dict()["blocks.0.attention_out.weight"] for place in places]
    assert torch.allclose(weights[2] - weights[1], weights[1] - weights[0], atol=1e-5)
    assert (weights[1] - weights[0]).abs().max() > 1e-3
    file = tmp_path / "one" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": places[2]}))
    for place in places[1:]:
        with pytest.raises(UsageError, match="an adapter of itself"):
            load_denoiser(place)


def test_attempts_without_recording_have_no_probabilities() -> None:
    denoiser = toy_denoiser()
    problems = [AllA().problem(0)]
    played = attempt(
        denoiser,
        policy_for(denoiser, PlackettLuce(4)),
        Rules(response_length=8),
        replace(AllA(), response_length=8),
        [replace(problems[0], prompt="a 3")],
        [1],
    )
    assert played.rollout.trajectories is None


# --------------------------------------------------------------------------------- real models, made tiny


@pytest.mark.parametrize("make", [make_llada, make_dream])
def test_adapters_of_published_architectures_get_exact_gradients(
    make: Callable[[Path], Path], tmp_path: Path
) -> None:
    """Blocks that are computed again, later, look everywhere then, too."""
    found = []
    for wanted in (False, True):
        denoiser = load_denoiser(str(make(tmp_path / f"model-{wanted}")))
        add_adapter(denoiser, 2, 4.0, ("q_proj", "v_proj"), torch_generator("a"))
        learning = {n: w for n, w in denoiser.module.named_parameters() if w.requires_grad}
        with torch.no_grad():
            for name, weight in learning.items():
                weight.normal_(0.0, 0.1, generator=torch_generator(name))
        tokens = torch.full((2, 12), denoiser.mask_id)
        tokens[:, :4] = torch.tensor([[3, 4, 5, 6], [7, 8, 9, 10]])
        with denoiser.learning(), checkpointed(denoiser.module, wanted):
            hidden = denoiser.features(tokens, 8)
            denoiser.head(hidden[:, 0]).square().mean().backward()
        found.append({name: weight.grad for name, weight in learning.items()})
    assert any(grad is not None and grad.abs().max() > 0 for grad in found[0].values())
    for name, grad in found[0].items():
        assert grad is not None
        assert torch.allclose(grad, found[1][name], rtol=1e-4, atol=1e-7), name  # type: ignore[arg-type]


def test_a_tiny_llada_is_trained_and_read_again(trace: DCoLT, tmp_path: Path) -> None:
    base = str(make_llada(tmp_path / "llada"))
    settings = trace.changed(denoiser=f"{base}:chat=0", response_length=8, train_denoiser="lora", updates=1)
    train_dcolt(settings.changed(lora_targets=("q_proj",), denoiser_learning_rate=0.1), tmp_path / "run")
    plain, tuned = load_denoiser(f"{base}:chat=0"), load_denoiser(tmp_path / "run")
    tokens = torch.arange(3, 15)[None]  # of masks alone attention would mix the same values, however it looks
    with torch.no_grad():
        one, two = plain.features(tokens, 8), tuned.features(tokens, 8)
    assert not torch.allclose(one, two, atol=1e-5)


@pytest.mark.parametrize("make", [make_llada, make_dream, make_llada_moe, make_bert])
def test_checkpoints_that_are_trained_as_a_whole_are_read_as_they_were_used(
    make: Callable[[Path], Path], trace: DCoLT, tmp_path: Path
) -> None:
    base = f"{make(tmp_path / 'model')}:chat=0,mask=7"
    settings = trace.changed(denoiser=base, response_length=8, train_denoiser="full", updates=1)
    train_dcolt(settings.changed(denoiser_learning_rate=0.01), tmp_path / "run")
    plain, tuned = load_denoiser(base), load_denoiser(tmp_path / "run")
    assert tuned.mask_id == 7
    assert tuned.encode("a 6 b") == plain.encode("a 6 b")
    tokens = torch.arange(3, 15)[None]
    with torch.no_grad():
        assert not torch.allclose(plain.features(tokens, 8), tuned.features(tokens, 8), atol=1e-5)
    tuned.save(tmp_path / "again")
    assert load_denoiser(tmp_path / "again").fingerprint() == tuned.fingerprint()
    about = json.loads((tmp_path / "again" / "config.json").read_text())
    (tmp_path / "again" / "config.json").write_text(json.dumps({**about, "dllm_env": {"mask": "x"}}))
    with pytest.raises(UsageError, match="dllm_env: mask must be"):
        load_denoiser(tmp_path / "again")


def test_what_cannot_be_saved_is_said_before_it_is_trained(trace: DCoLT, tmp_path: Path) -> None:
    base = make_llada2(tmp_path / "model")
    settings = trace.changed(denoiser=f"{base}:chat=0", response_length=8, train_denoiser="full", updates=1)
    with pytest.raises(UsageError, match="cannot be saved as a whole: its weights are put together anew"):
        train_dcolt(settings, tmp_path / "run")
