"""Files that hold anything: what reads them ends soon, and says in one line which file and which field is wrong."""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dllm_env import reading
from dllm_env.commands import arguments as commands
from dllm_env.denoisers import templates
from dllm_env.denoisers.plain_text import PlainText
from dllm_env.denoisers.tiny import TinyConfig, TinyDenoiser
from dllm_env.errors import UsageError
from dllm_env.eval import evaluate, results
from dllm_env.eval.evaluate import Evaluation, EvaluationConfig
from dllm_env.eval.runner import check_baseline, finish
from dllm_env.eval.suite import load_suite
from dllm_env.policies import learned
from dllm_env.policies.heads import Bernoulli, restore_head
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import ConfidenceTransformer, NetworkConfig
from dllm_env.policies.registry import load_heuristic
from dllm_env.random import torch_generator
from dllm_env.rules import Rules
from dllm_env.train.denoiser import DenoiserTraining, Muon
from dllm_env.train.grpo import GRPO
from dllm_env.train.ppo import PPO
from dllm_env.train.run import CHECKPOINT, Run
from dllm_env.train.settings_file import changed, read_settings, write_settings
from dllm_env.weights import DIGESTS

sys.path.append(str(Path(__file__).parent / "campaigns"))
from damaged import LAUGHS, damage_file

LONG = "x" * 1_000_000


def refusal(work: Callable[[], object]) -> str:
    """The one line, of a length that can be read."""
    with pytest.raises(UsageError) as caught:
        work()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 2100
    return message


# ----------------------------------------------------------------------------------------- JSON and YAML


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is no JSON: it is empty"),
        (b"{", "is no JSON"),
        (b"\xff\xfe{\x00}\x00", "is not UTF-8 text"),
        (b'{"a": "\xff"}', "is not UTF-8 text (byte 7)"),
        (b"[" * 100_000, "is nested more than 64 deep"),
        (b"[" * 70 + b"]" * 70, "is nested more than 64 deep"),
        (b'{"a":' * 70 + b"1" + b"}" * 70, "is nested more than 64 deep"),
        (b'{"a": 1, "b": {"c": 1, "c": 1}}', "has 'c' twice"),
        (b'{"a": NaN}', "holds NaN, which is no number"),
        (b'{"a": -Infinity}', "holds -Infinity"),
        (b"9" * 5000, "is no JSON"),
    ],
)
def test_bad_json(data: bytes, message: str, tmp_path: Path) -> None:
    assert message in refusal(lambda: reading.parse_json(data, "it"))
    (tmp_path / "x.json").write_bytes(data)
    said = refusal(lambda: reading.read_json(tmp_path / "x.json"))
    assert message in said
    assert "x.json" in said


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1", "is no YAML"),
        (LAUGHS, "more than 100,000 values, with those that aliases stand for"),
        ("a: &a [*a]", "has an alias within what it stands for"),
        ("a: &a {<<: *a}", "has an alias within what it stands for"),
        ("[" * 100_000, "is nested more than 64 deep"),
        ("a: 1\nb: 2\na: 3", "has 'a' twice, in line 3"),
        ("a: " + "9" * 5000, "has a number of 5,000 digits"),
        ("a: " + "1:" * 50_000 + "1", "which is too long"),
        ("a: !!int ''", "is no YAML"),
        ("a: !!float x", "is no YAML"),
        ("a: 2001-02-30", "is no YAML"),
        ("a: !!bool x", "is no YAML"),
        ("a: !!timestamp x", "is no YAML"),
        ("? {a: b}\n: c", "is no YAML"),
        ("a: !!python/object/apply:os.getcwd []", "is no YAML"),
        ("a: \x07", "is no YAML"),
    ],
)
def test_bad_yaml(text: str, message: str) -> None:
    assert message in refusal(lambda: reading.parse_yaml(text.encode(), "it"))


def test_good_files_are_read(tmp_path: Path) -> None:
    mark = b"\xef\xbb\xbf"
    assert reading.parse_json(mark + b'{"a": [1, 2.5, "\xc3\xa9", null]}', "it") == {"a": [1, 2.5, "é", None]}
    assert reading.parse_json(b"[" * 60 + b"]" * 60, "it")
    assert reading.parse_json(b"[Infinity]", "it", infinities=True) == [math.inf]
    text = b"base: &base {x: 1, y: [a, b]}\nother: {<<: *base, x: 2}\n"
    assert reading.parse_yaml(mark + text, "it")["other"] == {"x": 2, "y": ["a", "b"]}
    (tmp_path / "lines").write_bytes(b"1\n\n22\ncut off")
    assert list(reading.json_lines(tmp_path / "lines")) == [(1, b"1"), (2, b""), (3, b"22")]


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    for name, message in (("pipe", "no regular file"), ("", "a folder"), ("none", "No such file"), ("circle", "")):
        assert message in refusal(lambda name=name: reading.read_bytes(tmp_path / name))  # type: ignore[misc]
    assert "too long" in refusal(lambda: reading.read_bytes(Path("x" * 5000)))
    assert "null byte" in refusal(lambda: reading.read_bytes(Path("a\0b")))
    assert "more than 1,048,576" in refusal(lambda: _write(tmp_path / "big", " " * 2**21, reading.read_yaml))


def _write(path: Path, text: str, read: Callable[[Path], object]) -> object:
    path.write_text(text)
    return read(path)


@pytest.mark.parametrize("value", [LONG, [LONG], {"a": LONG}, [[1]] * 10_000, 10**4000, 1e300, LONG.encode()])
def test_values_are_shown_in_short(value: Any) -> None:
    assert len(reading.shown(value)) < 200


@dataclass
class Fields:
    count: int
    share: float
    name: str = ""
    words: tuple[str, ...] = ()
    pair: tuple[float, float] = (0.0, 0.0)
    rest: dict[str, float] | None = None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"count": "1"}, "count must be a whole number, got '1'"),
        ({"count": True}, "count must be a whole number, got True"),
        ({"count": 1.0}, "count must be a whole number, got 1.0"),
        ({"count": 10**400}, "count must be a whole number within ±"),
        ({"share": math.nan}, "share must be a finite number, got nan"),
        ({"share": 1e30}, "share must be a number within ±1e+12, got 1e+30"),
        ({"share": None}, "share must be a number, got None"),
        ({"name": 1}, "name must be a text, got 1"),
        ({"words": "a"}, "words must be a list, each of it a text"),
        ({"words": ["a", 1]}, "words must be a list, each of it a text"),
        ({"pair": []}, "pair must be 2 values, each a number, got []"),
        ({"pair": [1, math.inf]}, "pair must be 2 values"),
        ({"rest": {"a": "b"}}, "rest must be a table of a number or nothing"),
        ({"more": 1}, "there is no field 'more'"),
    ],
)
def test_fields(change: dict[str, Any], message: str) -> None:
    good = {"count": 1, "share": 1, "words": ["a"], "pair": [0, 1.5], "rest": {"a": 1.0}}
    reading.check_fields(Fields, good)
    assert message in refusal(lambda: reading.check_fields(Fields, {**good, **change}, "x.json"))
    assert "the field 'share' is missing" in refusal(lambda: reading.check_fields(Fields, {"count": 1}))


def test_a_message_that_quotes_a_file_loses_its_middle() -> None:
    said = refusal(lambda: load_heuristic(LONG))
    assert "a name with 1,000,000 letters is too long" in said
    error = UsageError(f"file {LONG} is bad; do this")
    assert len(str(error)) < 2100
    assert str(error).startswith("file xxx")
    assert str(error).endswith("is bad; do this")


# --------------------------------------------------------------------------------- policies and denoisers


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = ConfidenceTransformer(NetworkConfig(width=8), torch_generator(0))
    return LearnedPolicy(network, Bernoulli(), training={}).save_pretrained(tmp_path_factory.mktemp("x") / "policy")


@pytest.fixture
def copies(
    policy: Path, toy_folder: Path, tmp_path: Path
) -> dict[str, tuple[Path, str, str, Callable[..., object]]]:
    """A policy and a denoiser to damage: folder, JSON, weights, loader."""
    shutil.copytree(policy, tmp_path / "policy")
    shutil.copytree(toy_folder, tmp_path / "denoiser")
    return {
        "policy": (tmp_path / "policy", learned.CONFIG, learned.WEIGHTS, LearnedPolicy.from_pretrained),
        "denoiser": (tmp_path / "denoiser", "config.json", "model.safetensors", TinyDenoiser.load),
    }


def without_digest(path: Path) -> None:
    about = json.loads(path.read_text())
    assert len(about.pop(DIGESTS)) == 1
    path.write_text(json.dumps(about))


@pytest.mark.parametrize("which", ["policy", "denoiser"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v * math.nan, "holds NaN or infinity"),
        (lambda v: v.index_fill(0, torch.tensor([0]), math.inf), "holds NaN or infinity"),
        (lambda v: v.double(), "is float64, not float32"),
        (lambda v: v.half(), "is float16, not float32"),
        (lambda v: v.long(), "is int64, not float32"),
        (lambda v: v[:1].clone(), "has the shape"),
        (lambda v: v[None].clone(), "has the shape"),
    ],
)
def test_bad_weights_are_refused_by_name(which: str, change: Any, message: str, copies: Any) -> None:
    folder, config, weights, load = copies[which]
    state = load_file(folder / weights)
    name = sorted(name for name, value in state.items() if value.ndim > 1 and len(value) > 1)[-1]
    state[name] = change(state[name])
    save_file(state, folder / weights)
    replaced = refusal(lambda: load(folder))
    assert f"is not the file that {config} was written with" in replaced
    assert f"remove '{DIGESTS}' from {config} if you replaced it on purpose" in replaced
    without_digest(folder / config)
    assert re.search(f"the weight {re.escape(name)} .*{message}", refusal(lambda: load(folder)))


@pytest.mark.parametrize("which", ["policy", "denoiser"])
def test_digests(which: str, copies: Any) -> None:
    folder, config, weights, load = copies[which]
    load(folder)
    data = bytearray((folder / weights).read_bytes())
    data[-3] ^= 1  # the lowest bit of a weight, which nothing else would notice
    (folder / weights).write_bytes(bytes(data))
    assert "is damaged, or was replaced" in refusal(lambda: load(folder))
    without_digest(folder / config)
    load(folder)  # as older versions wrote it
    about = json.loads((folder / config).read_text())
    for digests in ([], {weights: 5}, {"../" + weights: "00"}, {"other": "00"}):
        (folder / config).write_text(json.dumps({**about, DIGESTS: digests}))
        refusal(lambda: load(folder))


def test_a_kill_between_two_files_of_a_policy_loses_nothing(policy: Path, tmp_path: Path) -> None:
    network = ConfidenceTransformer(NetworkConfig(width=8), torch_generator(1))
    new = LearnedPolicy(network, Bernoulli(0.5)).save_pretrained(tmp_path / "new")
    shutil.copytree(policy, tmp_path / "old")
    shutil.copy(new / learned.WEIGHTS, tmp_path / "old")  # in its place already; the rest not yet
    shutil.copy(new / learned.CONFIG, tmp_path / "old" / (learned.CONFIG + learned.UNFINISHED))
    found = LearnedPolicy.from_pretrained(tmp_path / "old")
    assert found.head == Bernoulli(0.5)
    assert found.fingerprint() == LearnedPolicy.from_pretrained(new).fingerprint()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"network": None}, "network has to be a table"),
        ({"network": {"kind": "confidence", "width": "8"}}, "width must be a whole number"),
        ({"network": {"kind": "confidence", "width": 10**9}}, "at most 4,096"),
        ({"network": {"kind": "confidence", "bias": 1e30}}, "bias must be a number within"),
        ({"network": {"kind": "confidence", "depth": 1}}, "there is no field 'depth'"),
        ({"network": {"kind": 5}}, "network names no kind"),
        ({"network": {"kind": "hidden", "width": 8, "hidden_size": -1}}, ""),
        ({"head": {"kind": "bernoulli", "temperature": 1e30}}, "the head's temperature must be"),
        ({"head": {"kind": "bernoulli", "temperature": "1"}}, "the head's temperature must be a number"),
        ({"head": {"kind": "bernoulli", "k": 3}}, "does not take its settings"),
        ({"head": []}, "head has to be a table"),
        ({"context": ["full"]}, "context has to be a text"),
        ({"context": "half"}, "its context is 'half'"),
        ({"training": 5}, "training has to be a table"),
        ({"format": 2}, "its format is 2"),
    ],
)
def test_bad_policy_json(change: dict[str, Any], message: str, copies: Any) -> None:
    folder, config, _, load = copies["policy"]
    about = json.loads((folder / config).read_text())
    (folder / config).write_text(json.dumps({**about, **change}))
    assert message in refusal(lambda: load(folder))
    del about[next(iter(change))]
    (folder / config).write_text(json.dumps(about))
    if "format" not in change:
        assert "is missing" in refusal(lambda: load(folder))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": "abc"}, "words must be a list"),
        ({"words": ["a", "a"]}, "words have to be different"),
        ({"network": {"layers": 10**9}}, "at most 1,024 layers"),
        ({"network": {"width": 1.5}}, "width must be a whole number"),
        ({"network": {"convolution": 4}}, "has to be odd"),
        ({"network": {"width": 2**17, "heads": 2**16, "layers": 30}}, "is missing"),  # and no memory is taken
    ],
)
def test_bad_denoiser_json(change: dict[str, Any], message: str, copies: Any) -> None:
    folder, config, _, load = copies["denoiser"]
    about = json.loads((folder / config).read_text())
    (folder / config).write_text(json.dumps({**about, **change}))
    assert message in refusal(lambda: load(folder))


# -------------------------------------------------------------------------------------------- checkpoints


class Trained:
    """Two layers and the optimizers of a run after two updates."""

    def __init__(self, folder: Path) -> None:
        self.network = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2))
        first = [self.network[0].weight]
        self.parts = {
            "network": self.network,
            "adam": torch.optim.AdamW(list(self.network.parameters())[1:]),
            "muon": Muon(first, lr=0.1),
        }
        self.run = Run(folder, GRPO())

    def step(self) -> None:
        self.network(torch.ones(4, 3)).sum().backward()
        for name in ("adam", "muon"):
            self.parts[name].step()

    def tensors(self) -> dict[str, torch.Tensor]:
        return load_file(self.run.folder / CHECKPOINT)

    def rewrite(self, tensors: dict[str, torch.Tensor], update: Any = 2) -> None:
        """As an older version would have written it: without a digest."""
        info = {"info": json.dumps({"update": update})}
        save_file(tensors, self.run.folder / CHECKPOINT, metadata=info)


@pytest.fixture
def trained(tmp_path: Path) -> Trained:
    made = Trained(tmp_path / "run")
    made.step()
    made.step()
    made.run.save(made.parts, {"update": 2})
    return made


def test_a_checkpoint_reads_back(trained: Trained) -> None:
    before = trained.tensors()
    trained.step()
    assert trained.run.load(trained.parts, 1, 5) == {"update": 2}
    trained.run.save(trained.parts, {"update": 2})
    assert all(torch.equal(before[name], value) for name, value in trained.tensors().items())
    trained.rewrite(before)
    assert trained.run.load(trained.parts, 1, 5) == {"update": 2}


def test_any_flipped_bit_of_a_checkpoint_is_noticed(trained: Trained) -> None:
    path = trained.run.folder / CHECKPOINT
    data, before = path.read_bytes(), {k: v.clone() for k, v in trained.network.state_dict().items()}
    for place in range(0, len(data), 37):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(bytes(damaged))
        assert "cannot resume from" in refusal(lambda: trained.run.load(trained.parts, 1, 5))
    assert all(torch.equal(before[name], value) for name, value in trained.network.state_dict().items())


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("adam.0.exp_avg", lambda v: v.new_zeros(7), "adam: 0.exp_avg has the shape (7,), not (2,)"),
        ("adam.0.exp_avg", lambda v: v.double(), "is float64, not float32"),
        ("adam.0.exp_avg", lambda v: v * math.nan, "holds NaN or infinity"),
        ("muon.0.momentum", lambda v: v.new_zeros(1), "muon: 0.momentum has the shape"),
        ("adam.0.exp_avg", lambda v: None, "adam's state is not whole"),
        ("adam.9.exp_avg", lambda v: torch.zeros(2), "the adam has no parameter '9', only 3 of them"),
        ("adam.-1.exp_avg", lambda v: torch.zeros(2), "the adam has no parameter '-1'"),
        ("adam.0.other", lambda v: torch.zeros(2), "adam's state is not whole"),
        ("muon.0.other", lambda v: torch.zeros(2, 3), "muon's state is not whole"),
        ("adam.0.step", lambda v: torch.tensor(1.0), "different numbers of steps"),
        ("adam.0.step", lambda v: torch.tensor(1.5), "adam: 0.step has to be a whole number"),
        ("adam.0.step", lambda v: torch.tensor(math.nan), "adam: 0.step has to be a whole number"),
        ("adam.0.step", lambda v: torch.tensor(0.0), "a state comes with the first step"),
        ("adam.0.step", lambda v: torch.zeros(2), "adam: 0.step has to be a whole number"),
        ("other.x", lambda v: torch.zeros(2), "there is no place for its tensor 'other.x'"),
        ("network.0.bias", lambda v: None, "network: the weight '0.bias' is missing"),
        ("network.0.more", lambda v: torch.zeros(2), "network: there is no weight '0.more'"),
        ("network.0.bias", lambda v: v / 0, "network: the weight 0.bias holds NaN or infinity"),
        ("network.0.bias", lambda v: v.bfloat16(), "network: the weight 0.bias is bfloat16, not float32"),
    ],
)
def test_checkpoints_that_do_not_fit(name: str, change: Any, message: str, trained: Trained) -> None:
    tensors = trained.tensors()
    tensors[name] = change(tensors.get(name))
    trained.rewrite({key: value for key, value in tensors.items() if value is not None})
    assert message in refusal(lambda: trained.run.load(trained.parts, 1, 5))


def test_entries_steps_and_updates_of_a_checkpoint(trained: Trained) -> None:
    tensors = trained.tensors()
    few = {name: value for name, value in tensors.items() if not name.startswith("adam.1.")}
    trained.rewrite(few)
    assert "2 of 3 parameters have one" in refusal(lambda: trained.run.load(trained.parts, 1, 5))
    more = {name: value + 7 if name.endswith("step") else value for name, value in tensors.items()}
    trained.rewrite(more)
    assert "is 9, more than the 2 steps of so many updates" in refusal(
        lambda: trained.run.load(trained.parts, 1, 5)
    )
    for update in (-1, 6, 2.0, True, None, "2", 10**400):
        trained.rewrite(tensors, update)
        assert "its update has to be" in refusal(lambda: trained.run.load(trained.parts, 1, 5))
    save_file(tensors, trained.run.folder / CHECKPOINT)
    assert "it is no checkpoint" in refusal(lambda: trained.run.load(trained.parts, 1, 5))


# ----------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize("kind", [GRPO, PPO])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e30, -1.0])
@pytest.mark.parametrize(
    "name",
    [
        *("learning_rate", "max_grad_norm", "clip_range", "target_kl", "nfe_budget", "temperature", "alpha"),
        *("imitation_learning_rate", "imitation_target"),
    ],
)
def test_numbers_without_a_meaning(kind: Any, name: str, value: float) -> None:
    if name == "alpha" and value == -1.0:
        return  # what rewards refuse, with the setup
    assert name in refusal(lambda: changed(kind(), **{name: value}))


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        *((GRPO, name, True) for name in ("updates", "learning_rate", "prompts", "clip_range", "width", "top")),
        *((GRPO, name, 10**12) for name in ("updates", "prompts", "batch_size", "save_every", "num_generations")),
        *(
            (GRPO, name, 0)
            for name in ("updates", "prompts", "batch_size", "microbatch_size", "expert_block_length")
        ),
        *((GRPO, name, -1) for name in ("warmup", "evaluate_every", "expert_updates")),
        (GRPO, "seed", 10**30),
        (GRPO, "response_length", 10**12),
        (GRPO, "max_steps", 10**12),
        (GRPO, "betas", ()),
        (GRPO, "betas", (0.9,)),
        (GRPO, "betas", (0.9, math.nan)),
        (GRPO, "betas", (0.9, "x")),
        (GRPO, "weight_decay", 1e30),
        (GRPO, "deviation_floor", math.inf),
        (GRPO, "ema_decay", math.nan),
        (GRPO, "bias", math.nan),
        (GRPO, "test_temperatures", (1e30,)),
        (GRPO, "test_temperatures", (1.0, 1.0)),
        (GRPO, "test_temperatures", ()),
        (GRPO, "validation_rules", ("top_k:1", "top_k:1")),
        (GRPO, "reward_weights", (math.nan,)),
        (GRPO, "expert", 5),
        *((PPO, name, 0) for name in ("num_envs", "n_steps", "minibatch_size", "n_epochs")),
        *((PPO, name, math.nan) for name in ("gamma", "gae_lambda", "ent_coef", "vf_coef")),
        *((PPO, name, -0.1) for name in ("ent_coef", "vf_coef")),
        *((DenoiserTraining, name, -1) for name in ("first_updates", "warmup", "threads", "evaluate_every")),
        *((DenoiserTraining, name, 0) for name in ("warmup", "examples", "layers", "heads", "save_every")),
        *((DenoiserTraining, "max_grad_norm", value) for value in (0.0, math.nan, math.inf)),
        (DenoiserTraining, "width", 10**9),
        (DenoiserTraining, "seed", True),
    ],
)
def test_settings_are_refused_by_name(kind: Any, name: str, value: Any) -> None:
    said = refusal(lambda: changed(kind(), **{name: value}))
    assert name in said or (kind is DenoiserTraining and "denoiser" in said)


def test_settings_files(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    for text, message in (
        (f"task: [{LONG}]", "task must be a text"),
        (f"{LONG[:500]}: 1", "no setting"),
        ("betas: []", "betas must be 2 values, got []"),
        ("seed: 1\nseed: 2", "has 'seed' twice"),
        (LAUGHS, "aliases"),
        ("alpha: .nan", "alpha must be"),
        ("alpha: 1" + "0" * 350, "alpha must be"),
        ("width: 1" + "0" * 350, "width must be"),
    ):
        path.write_text(text)
        said = refusal(lambda: read_settings(path, GRPO()))
        assert message in said
        assert str(path) in said
    write_settings(tmp_path / "settings.json", GRPO(seed=5))
    good = (tmp_path / "settings.json").read_bytes()
    (tmp_path / "settings.json").write_bytes(b"\xef\xbb\xbf" + good)
    assert read_settings(tmp_path, GRPO()).seed == 5
    (tmp_path / "settings.json").write_text(good.decode().replace('"seed": 5', '"seed": NaN'))
    assert "holds NaN" in refusal(lambda: read_settings(tmp_path, GRPO()))


@pytest.mark.parametrize(
    "text",
    [
        *(
            "factor:f=inf",
            "factor:f=nan",
            "entropy_bound:gamma=1e30",
            "klass:kappa=inf",
            "top_k:99999999999999999999",
        ),
        *("threshold:nan", "threshold:2", "dilated:base=1", "local_leap:radius=-1", "top_k:k=0", "top_k:k=1.5"),
    ],
)
def test_parameters_of_rules(text: str) -> None:
    assert text.partition(":")[0] in refusal(lambda: load_heuristic(text))


def test_a_large_radius_is_all_of_the_block() -> None:
    from conftest import toy_denoiser

    from dllm_env.policies.rollout import rollout

    played = [
        rollout(toy_denoiser(), load_heuristic(f"local_leap:radius={radius}"), Rules(8), [[5, 6]], [0]).responses
        for radius in (8, 10**9)
    ]
    assert torch.equal(*played)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rules(temperature=1e30),
        lambda: Rules(temperature=1e-30),
        lambda: Rules(response_length=10**12, block_length=7),
        lambda: Rules(response_length=720720, block_length=17),
        lambda: Bernoulli(temperature=1e30),
        lambda: Bernoulli(temperature=1e-30),
        lambda: Bernoulli(temperature=True),
        lambda: restore_head({"kind": "plackett_luce", "k": 10**30}),
        lambda: NetworkConfig(width=True),
        lambda: TinyConfig(layers=10**9),
    ],
)
def test_other_numbers_without_a_meaning(make: Callable[[], object]) -> None:
    refusal(make)


# ----------------------------------------------------------------------------------- suites, evaluations


def test_suites_that_would_not_end(tmp_path: Path) -> None:
    many = ", ".join(map(str, range(1000)))
    for text, message in (
        (LAUGHS + "policies: [random]", "aliases"),
        (f"policies: [{{klass: {{tau: [{many}], kappa: [{many}]}}}}]", "more than 10,000 policies"),
        (
            f"policies: [random]\ntask: [{', '.join(['trace'] * 50)}]\ndenoiser: [{', '.join(['tiny'] * 50)}]",
            "1,000 eval",
        ),
        (f"policies: [random]\nproblems: {LONG}", "problems has to be of the kind int"),
        (f"policies: [[{LONG}]]", "cannot read the policy"),
        ("policies: [{random: {k: {a: 1}}}]", "random: cannot read"),
        ("policies: [{5: {k: 1}}]", ""),
        ("policies: [random]\nreward: [5]", ""),
        ("policies: [random]\nblock_length: [true]", "block_length"),
        ("policies: [random]\nalpha: .nan", "alpha"),
        ("policies: [random]\ntemperature: 1" + "0" * 350, "temperature"),
    ):
        (tmp_path / "suite.yaml").write_text(text)
        said = refusal(lambda: [Evaluation(*plan) for plan in load_suite(tmp_path / "suite.yaml")])
        assert message in said
    (tmp_path / "suite.yaml").write_text("policies: [random]\nproblems: 1000000000")
    ((config, policies),) = load_suite(tmp_path / "suite.yaml")
    assert "1,000,000,000 responses" in refusal(lambda: Evaluation(config, policies))
    for change in ({"seeds": 10**9}, {"samples": 10**9}, {"batch_size": 10**9}, {"seeds": 0}, {"problems": -1}):
        assert next(iter(change)).replace("_", "-") in refusal(
            lambda change=change: Evaluation(EvaluationConfig(**change), ["random"])  # type: ignore[misc]
        )


def test_problems_are_made_when_they_are_played(monkeypatch: pytest.MonkeyPatch, toy: TinyDenoiser) -> None:
    from dllm_env.tasks.trace import Trace

    made: list[int] = []
    original = Trace._program
    monkeypatch.setattr(Trace, "_program", lambda self, rng: made.append(1) or original(self, rng))
    monkeypatch.setattr(evaluate, "LOOKED_AT", 50)
    Evaluation(EvaluationConfig(problems=100_000), ["random"], toy)
    assert len(made) < 5000


def test_a_policy_is_named_once(policy: Path, toy: TinyDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(policy.parent)
    for names in (
        ["policy", "./policy"],
        ["policy", str(policy)],
        ["policy/", "policy"],
        ["threshold", "threshold:0.90"],
    ):
        assert "twice" in refusal(lambda names=names: Evaluation(EvaluationConfig(problems=1), names, toy))  # type: ignore[misc]
    Evaluation(EvaluationConfig(problems=1), ["policy", "./policy:temperature=0.5"], toy)


def played(folder: Path, denoiser: TinyDenoiser) -> Path:
    evaluation = Evaluation(EvaluationConfig(problems=2), ["top_k:8"], denoiser)
    (job,) = evaluation.jobs
    folder.mkdir()
    results.append(folder, job.setting, evaluation.play(job, evaluation.places))
    return folder


def test_a_baseline_is_looked_for_before_anything_is_played(tmp_path: Path, toy: TinyDenoiser) -> None:
    evaluation = Evaluation(EvaluationConfig(problems=2), ["random", "top_k:8"], toy)
    check_baseline([evaluation], tmp_path, "top_k:8")
    assert "no results of the baseline 'top_k:4'" in refusal(
        lambda: check_baseline([evaluation], tmp_path, "top_k:4")
    )
    folder = played(tmp_path / "there", toy)
    check_baseline([Evaluation(EvaluationConfig(problems=2), ["random"], toy)], folder, "top_k:8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"nfe": "3"}, "nfe must be a whole number, got '3'"),
        ({"nfe": 0}, "nfe must be at least 1"),
        ({"nfe": 10**400}, "nfe must be a whole number within"),
        ({"steps": -1}, "steps must be at least 0"),
        ({"correct": 2.0}, "correct must be from 0 to 1"),
        ({"correct": None}, "correct must be a number"),
        ({"finished": 1}, "finished must be true or false"),
        ({"words": [1]}, "words must be a list, each of it a text"),
        ({"confidence": [0.5]}, "must have 40 entries each"),
        ({"revealed_at": [1e30] * 40}, "revealed_at must be"),
        ({"rewards": {"a": 1.0}}, "rewards has no total"),
        ({"prompt": 5}, "prompt must be a text"),
        ({"nosuch": 5}, "there is no field 'nosuch'"),
        ({"setting": "x" * 100_000}, "its setting 'xxx"),
    ],
)
def test_lines_of_results(change: dict[str, Any], message: str, tmp_path: Path, toy: TinyDenoiser) -> None:
    folder = played(tmp_path / "x", toy)
    lines = (folder / results.PROBLEMS).read_text().splitlines()
    lines[1] = json.dumps({**json.loads(lines[1]), **change})
    (folder / results.PROBLEMS).write_text("\n".join(lines) + "\n")
    said = refusal(lambda: results.read([folder]))
    assert message in said
    assert "problems.jsonl, line 2" in said
    assert len(results.read([folder], skip_broken=True)[0].outcomes) == 1
    missing = json.loads(lines[1])
    del missing[next(iter(change))]
    if "rewards" not in change and "nosuch" not in change:
        (folder / results.PROBLEMS).write_text(json.dumps(missing) + "\n")
        assert f"the field '{next(iter(change))}' is missing" in refusal(lambda: results.read([folder]))


def test_entries_of_results_for_a_card(
    tmp_path: Path, toy: TinyDenoiser, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = played(tmp_path / "x", toy)
    finish(folder)
    (record,) = results.read_records(folder)
    for change in ({"accuracy": "high"}, {"nfe": math.nan}, {"policy": 5}, {"block_length": []}):
        (folder / results.RESULTS_JSON).write_text(json.dumps([{**record, **change}]))
        refusal(lambda: results.read_records(folder))
    for text in ("{}", "[5]", "[{}]", "", "[" * 5000):
        (folder / results.RESULTS_JSON).write_text(text)
        assert "results.json" in refusal(lambda: results.read_records(folder))


# -------------------------------------------------------------------------------------------- places


def test_folders_that_cannot_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "closed").mkdir(mode=0o500)
    for name in ("/proc/x", str(tmp_path / "file"), str(tmp_path / "file" / "x"), "x" * 5000, "a\0b", "a/" * 3000):
        refusal(lambda name=name: commands.check_folder(Path(name)))  # type: ignore[misc]
    if os.getuid():  # who may do everything may write there, too
        refusal(lambda: commands.check_folder(tmp_path / "closed" / "x"))
    commands.check_folder(tmp_path / "new" / "deeper")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["closed", "file"]


def test_places_without_a_name(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> None:
    from dllm_env.cli import main

    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["--out", ""],
        ["--out="],
        ["--suite", ""],
        ["--out", "a\0b"],
        ["--baseline", "x", "--out", ""],
    ):
        assert main(["eval", "--policies", "random", *arguments]) == 2
        assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------------------------------- templates


class Templated:
    """A tokenizer whose template is a Python function."""

    chat_template = "…"
    unk_token_id = None

    def __init__(self, template: Callable[[], str]) -> None:
        self.template = template

    def apply_chat_template(self, conversation: Any, tokenize: bool, **settings: Any) -> str:
        return self.template()

    def decode(self, ids: Any) -> str:
        return "?"


def forever() -> str:
    while True:
        pass


def raising() -> str:
    raise KeyError("some\nlines" + LONG)


def recursive() -> str:
    return recursive()


def test_templates_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.3)
    for template, message in (
        (forever, "more than 0.3 seconds"),
        (lambda: "x" * 10**11, "more than 1 GB of memory"),
        (raising, "some"),
        (recursive, "recursion"),
        (lambda: "x" * (templates.LONGEST + 1), "more than 16,777,216 letters"),
        (lambda: os._exit(3), "more than"),
    ):
        text = PlainText(Templated(template))  # type: ignore[arg-type]
        said = refusal(lambda text=text: text.render([{"role": "user", "content": "x"}]))  # type: ignore[misc]
        assert message in said
        assert said.startswith("the chat template refuses the conversation")


def test_a_template_that_waits_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "WALL_SECONDS", 0.3)
    assert "more than" in refusal(lambda: PlainText(Templated(lambda: str(time.sleep(600)))).render([]))  # type: ignore[arg-type]


def test_a_template_goes_on_after_one_that_did_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(templates, "SECONDS", 0.3)
    tokenizer = Templated(forever)
    text = PlainText(tokenizer)
    refusal(lambda: text.render([]))
    tokenizer.template = lambda: f"{os.getpid()}"
    first, second = text.render([]), text.render([])
    assert first == second != str(os.getpid())
    tokenizer.chat_template = "another"
    assert text.render([]) != first


# ------------------------------------------------------------------------------------------- the harness


def test_what_the_harness_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval")
    from dllm_env.eval import harness

    def theirs() -> None:
        raise ValueError("Tasks not found: nosuch.\nTry --tasks list")

    monkeypatch.setattr(harness, "cli_evaluate", theirs)
    assert "Tasks not found: nosuch" in refusal(lambda: harness.main(["--tasks", "nosuch"]))
    monkeypatch.setattr(harness, "cli_evaluate", lambda: harness._summary([]))
    with pytest.raises(ZeroDivisionError):  # a fault of this package stays one
        harness.main(["--tasks", "x"])


# ---------------------------------------------------------------------------------------- many, by a seed


def test_damaged_files_are_read_or_refused(
    policy: Path, toy: TinyDenoiser, toy_folder: Path, tmp_path: Path
) -> None:
    """A part of the campaign ``fuzz``, without the command line."""
    whole = tmp_path / "whole"
    whole.mkdir()
    shutil.copytree(policy, whole / "policy")
    shutil.copytree(toy_folder, whole / "denoiser")
    trained = Trained(whole / "run")
    trained.step()
    trained.run.save(trained.parts, {"update": 1})
    played(whole / "results", toy)
    (whole / "suite.yaml").write_text("policies: [random, {threshold: {threshold: [0.5, 0.9]}}]\nproblems: 2\n")
    readers: dict[str, Callable[[Path], object]] = {
        "policy/policy.json": lambda path: LearnedPolicy.from_pretrained(path.parent),
        "policy/policy.safetensors": lambda path: LearnedPolicy.from_pretrained(path.parent),
        "denoiser/config.json": lambda path: TinyDenoiser.load(path.parent),
        "denoiser/model.safetensors": lambda path: TinyDenoiser.load(path.parent),
        "run/settings.json": lambda path: read_settings(path.parent, GRPO()),
        f"run/{CHECKPOINT}": lambda path: replace_folder(trained.run, path.parent).load(trained.parts, 1, 9),
        "results/problems.jsonl": lambda path: results.read([path.parent]),
        "results/settings.jsonl": lambda path: results.read([path.parent]),
        "suite.yaml": load_suite,
    }
    rng, refused = random.Random(0), 0
    for number in range(120):
        name = rng.choice(sorted(readers))
        case = tmp_path / str(number)
        shutil.copytree(whole, case)
        way = damage_file(rng, case / name)
        said = ""
        try:
            readers[name](case / name)
        except UsageError as error:
            said = str(error)
        refused += bool(said)
        assert "\n" not in said, (name, way)
        assert len(said) < 2100, (name, way)
        shutil.rmtree(case)
    assert 60 < refused < 120


def replace_folder(run: Run, folder: Path) -> Run:
    other = Run.__new__(Run)
    other.folder, other.resume = folder, True
    return other


# ------------------------------------------------------------------------------------ rows and batches


def test_rows_alone_and_together(toy: TinyDenoiser) -> None:
    """A part of the campaign ``batches``."""
    import batches
    from common import Tally

    tally = Tally("batches", {}, [])
    batches.check(tally, 12, random.Random(0), {"toy": toy})
    assert tally.counts == {"combinations": 12, "rows alone": 24}
    assert not tally.failures


def test_the_campaign_notices_a_row_that_depends_on_others(
    toy: TinyDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    import batches
    from common import Tally

    class Leaking(TinyDenoiser):
        """Its features depend on how many rows there are."""

        def features(self, tokens: torch.Tensor, last: int) -> torch.Tensor:
            return super().features(tokens, last) * (1 + 0.1 * len(tokens))

    tally = Tally("batches", {}, [])
    batches.check(tally, 8, random.Random(0), {"toy": Leaking(toy.network)})
    assert tally.failures
