"""Parts of the user's own: the examples from the command line, in training and in evaluation, and as objects."""

from __future__ import annotations

import copy
import itertools
import json
import shutil
from pathlib import Path

import pytest
import torch
from own_denoiser import Sharpened
from own_head import Prefix
from own_network import WithEntropy
from own_reward import within_budget
from own_task import OneChain

from dllm_env import consent
from dllm_env.cli import main
from dllm_env.env import UnmaskEnv
from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.policies.networks import NetworkConfig
from dllm_env.random import RowRandom, torch_generator
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.ppo import PPO, train_ppo
from dllm_env.vector_env import UnmaskVectorEnv

EXAMPLES = Path(__file__).parents[1] / "examples"
SHORT = (
    *("--updates", "1", "--prompts", "2", "--num-generations", "2", "--validation-problems", "2"),
    *("--imitation-steps", "0", "--validation-rules", "--width", "8", "--response-length", "40"),
)


def own(name: str) -> str:
    return str(EXAMPLES / name)


@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("own_*.py")), ids=lambda path: path.stem)
def test_examples_are_short(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) < 40


def test_everything_of_the_user_s_own_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task, denoiser = own("own_task.py:OneChain"), own("own_denoiser.py:Sharpened(factor=2.0)")
    run = tmp_path / "run"
    command = ["train", "grpo", "--task", task, "--denoiser", denoiser, "--out", str(run), *SHORT]
    command += [
        "--head",
        own("own_head.py:Prefix(temperature=0.8)"),
        "--network",
        own("own_network.py:WithEntropy"),
    ]
    command += ["--reward", own("own_reward.py:within_budget(budget=5)"), "multiplicative"]
    assert main(command) == 0, capsys.readouterr().err
    saved = json.loads((run / "last" / "policy.json").read_text())
    assert saved["head"]["kind"].endswith("own_head.py:Prefix")
    assert saved["head"]["temperature"] in (0.8, 0.8 * 0.6)
    assert saved["network"]["kind"].endswith("own_network.py:WithEntropy")
    evaluated = [
        "eval",
        "--task",
        task,
        "--denoiser",
        denoiser,
        "--problems",
        "2",
        "--out",
        str(tmp_path / "results"),
    ]
    evaluated += ["--policies", str(run), f"{run}:temperature=0.5", "leftmost:4"]
    assert main(evaluated) == 2
    assert capsys.readouterr().err.count("--allow-code-from") == 2  # of head and network
    allowed = [word for file in ("own_head.py", "own_network.py") for word in ("--allow-code-from", own(file))]
    assert main([*evaluated, *allowed]) == 0
    rows = json.loads((tmp_path / "results" / "results.json").read_text())
    assert {row["task"] for row in rows} == {"one-chain:2"}
    assert {row["denoiser"] for row in rows} == {denoiser}


def test_ppo_with_parts_of_the_user_s_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["train", "ppo", "--task", own("own_task.py:OneChain"), "--head", own("own_head.py:Prefix")]
    command += ["--network", own("own_network.py:WithEntropy"), "--reward", own("own_reward.py:within_budget")]
    command += [
        "--updates",
        "1",
        "--num-envs",
        "2",
        "--n-steps",
        "4",
        "--batch-size",
        "4",
        "--validation-problems",
        "2",
    ]
    command += ["--imitation-steps", "0", "--validation-rules", "--width", "8", "--out", str(tmp_path / "run")]
    assert main(command) == 0, capsys.readouterr().err
    with consent.allow(files=[own("own_head.py"), own("own_network.py")]):
        policy = load_policy(str(tmp_path / "run"))
    assert isinstance(policy, LearnedPolicy)
    assert type(policy.network).__name__ == "WithEntropy"


def test_objects_instead_of_names() -> None:
    config = EvaluationConfig(task=OneChain(), denoiser=Sharpened(2.0), problems=2)
    (found,) = evaluate(config, ["leftmost:4"])
    assert found.setting.task == "one-chain:2"
    settings = {"task": OneChain(), "denoiser": Sharpened(), "reward": within_budget}
    env = UnmaskEnv(**settings)
    env.reset(seed=1)
    reward = 0.0
    while not reward:
        _, reward, ended, _, info = env.step(env.observation_space.sample()["masked"] * 0 + 1)
        assert ended
        assert reward == (info["correct"] * 1.0)
        break
    assert UnmaskVectorEnv(2, **settings).reset(seed=1)[0]["masked"].shape == (2, 40)


@pytest.mark.parametrize("trainer", ["grpo", "ppo"])
def test_training_takes_a_network_and_a_head_as_objects(tmp_path: Path, trainer: str) -> None:
    network = WithEntropy(NetworkConfig(width=8), torch_generator(3))
    before = copy.deepcopy(network.state_dict())
    start = {"network": network, "head": Prefix(0.5), "updates": 1, "batch_size": 4, "imitation_steps": 0}
    judged = {"validation_problems": 2, "validation_rules": ()}
    if trainer == "grpo":
        train_grpo(GRPO().changed(**start, **judged, prompts=2, num_generations=2), tmp_path)
    else:
        train_ppo(PPO().changed(**start, **judged, num_envs=2, n_steps=4), tmp_path)
    trained = load_policy(str(tmp_path))
    assert isinstance(trained, LearnedPolicy)
    assert type(trained.network) is WithEntropy
    assert isinstance(trained.head, Prefix)
    assert trained.network.config == network.config
    assert "own_network.py:WithEntropy" in (tmp_path / "settings.json").read_text()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    far = max((value - before[name]).abs().max() for name, value in trained.network.state_dict().items())
    assert far < 0.1  # one update from the object's own weights, not from others


def test_the_example_s_head_is_a_distribution() -> None:
    head, scores = Prefix(0.7), torch.tensor([[0.3, -1.0, 2.0, 0.5]])
    selectable = torch.tensor([[True, False, True, True]])
    draws = [torch.tensor([list(bits)]) for bits in itertools.product([False, True], repeat=4)]
    log_prob = torch.cat([head.log_prob(scores, selectable, draw) for draw in draws])
    possible = log_prob.isfinite()
    assert torch.isclose(log_prob.exp().sum(), torch.tensor(1.0))
    expected = -(log_prob[possible].exp() * log_prob[possible]).sum()
    assert torch.isclose(head.entropy(scores, selectable, draws[0])[0], expected)
    many = 4000
    drawn = head.sample(scores.expand(many, -1), selectable.expand(many, -1), RowRandom(torch.arange(many)))
    counted = torch.stack([(drawn == draw).all(-1).float().mean() for draw in draws])
    assert (counted - log_prob.exp()).abs().max() < 0.03


def test_a_policy_whose_file_is_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, network = tmp_path / "own_head.py", tmp_path / "own_network.py"
    shutil.copy(own("own_head.py"), head)
    shutil.copy(own("own_network.py"), network)
    run = tmp_path / "run"
    command = ["train", "grpo", "--out", str(run), *SHORT, "--head", f"{head}:Prefix", "--network"]
    assert main([*command, f"{network}:WithEntropy"]) == 0, capsys.readouterr().err
    moved = head.rename(tmp_path / "moved.py")
    capsys.readouterr()
    command = ["eval", "--policies", str(run), "--problems", "2", "--out", str(tmp_path / "a")]
    assert main([*command, "--allow-code-from", str(network)]) == 2
    told = capsys.readouterr().err
    assert "own_head.py" in told
    assert told.count("\n") == 1
    with consent.allow(files=[network]):
        loaded = load_policy(f"{run}:head={moved}:Prefix(temperature=0.4)")
        assert isinstance(loaded, LearnedPolicy)
        assert loaded.head.temperature == 0.4
        assert LearnedPolicy.from_pretrained(run, head=Prefix(0.3)).head == Prefix(0.3)
    network.unlink()
    with pytest.raises(UsageError, match=r"own_network\.py"):
        LearnedPolicy.from_pretrained(run, head=Prefix())


def test_a_network_made_in_python_is_saved_with_its_file(tmp_path: Path) -> None:
    policy = LearnedPolicy(WithEntropy(NetworkConfig(width=8), torch_generator(1)), Prefix())
    policy.save_pretrained(tmp_path)
    again = LearnedPolicy.from_pretrained(tmp_path)
    assert again.head == Prefix()
    for name, value in policy.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value)
