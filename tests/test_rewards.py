"""Outcome rewards on numbers worked out by hand."""

from __future__ import annotations

import csv
import functools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import toy_denoiser
from pairs import AllA, enter

from dllm_env.env import UnmaskEnv
from dllm_env.errors import UsageError
from dllm_env.policies.heads import Bernoulli
from dllm_env.policies.learned import load_policy
from dllm_env.rewards import (
    Additive,
    Multiplicative,
    Outcomes,
    additive_reward,
    load_reward,
    load_rewards,
    multiplicative_reward,
)
from dllm_env.tasks.base import Problem
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.ppo import PPO, train_ppo

CORRECT = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
NFE = torch.tensor([1, 6, 10, 25, 1])


def test_multiplicative() -> None:
    """L = 10, α = 2: 1², (5/10)², (1/10)², nfe counted as 10, wrong."""
    reward = multiplicative_reward(CORRECT, NFE, 10, 2.0)
    assert reward.tolist() == pytest.approx([1.0, 0.25, 0.01, 0.01, 0.0])
    assert reward.dtype == torch.float32


def test_multiplicative_with_a_root() -> None:
    """L = 40, nfe 31, α = 0.5: √(10/40)."""
    assert multiplicative_reward(torch.ones(1), torch.tensor([31]), 40, 0.5).item() == pytest.approx(0.5)


def test_additive() -> None:
    """L = 10, α = 2: 1 − 0.2, 1 − 1.2, 1 − 2, 1 − 5, 0 − 0.2."""
    reward = additive_reward(CORRECT, NFE, 10, 2.0)
    assert reward.tolist() == pytest.approx([0.8, -0.2, -1.0, -4.0, -0.2])
    assert reward.dtype == torch.float32


@pytest.mark.parametrize("reward", [multiplicative_reward, additive_reward])
def test_alpha_of_zero_rewards_correctness_alone(reward) -> None:  # type: ignore[no-untyped-def]
    assert reward(CORRECT, NFE, 10, 0.0).tolist() == CORRECT.tolist()


@pytest.mark.parametrize("reward", [multiplicative_reward, additive_reward])
def test_shapes_have_to_agree(reward) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"\(5,\).*\(4,\).*differ in shape"):
        reward(CORRECT, NFE[:4], 10, 1.0)
    with pytest.raises(ValueError, match="differ in shape"):
        reward(CORRECT, NFE[:, None], 10, 1.0)


def test_lookup_gives_the_functions_with_their_alpha() -> None:
    assert load_reward("multiplicative", 2.0) == Multiplicative(2.0)
    assert load_reward("additive", 2.0) == Additive(2.0)
    assert load_reward("multiplicative", 2)(CORRECT, NFE, 10).tolist() == pytest.approx(
        [1.0, 0.25, 0.01, 0.01, 0.0]
    )
    assert load_reward("additive", 2)(CORRECT, NFE, 10).tolist() == pytest.approx([0.8, -0.2, -1.0, -4.0, -0.2])


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
@pytest.mark.parametrize("alpha", [-0.1, -math.inf, math.inf, math.nan])
def test_bad_alpha_is_refused(kind: str, alpha: float) -> None:
    with pytest.raises(UsageError, match="alpha must be a finite number of at least 0"):
        load_reward(kind, alpha)


@pytest.mark.parametrize("kind", ["multiplicative", "additive"])
def test_alpha_may_be_anything_from_zero_on(kind: str) -> None:
    for alpha in (0, 0.0, 1e-9, 0.5, 1e9):
        assert load_reward(kind, alpha).alpha == alpha  # type: ignore[attr-defined]


def test_unknown_reward_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match="unknown reward 'mean'; choose one of multiplicative, additive"):
        load_reward("mean", 1.0)


# ------------------------------------------------------------------------------------------- of the user's own


def known(**changes: object) -> Outcomes:
    problems = [Problem("t", "train", 0, index, f"prompt {index}", ("5",)) for index in range(3)]
    values = {
        "problem": problems,
        "text": ["five", "6", ""],
        "correct": torch.tensor([1.0, 0.0, 1.0]),
        "nfe": torch.tensor([2, 3, 4]),
        "steps": torch.tensor([5, 3, 8]),
        "length": 10,
    }
    return Outcomes(**{**values, **changes})  # type: ignore[arg-type]


def everything(*, problem, text, correct, nfe, steps, length, **_):  # type: ignore[no-untyped-def]
    return [len(t) + p.index + c.item() + length for p, t, c in zip(problem, text, correct, strict=True)]


def shorter(text, correct):  # type: ignore[no-untyped-def]
    return correct - torch.tensor([len(one) / 10 for one in text])


def test_cost_is_evaluations_or_steps() -> None:
    """L = 10, α = 1: (10 − cost + 1) / 10 where right; 1 − cost / 10."""
    by_nfe, by_steps = (load_rewards("multiplicative", alpha=1, cost=c)(known()).total for c in ("nfe", "steps"))
    assert by_nfe.tolist() == pytest.approx([0.9, 0.0, 0.7])
    assert by_steps.tolist() == pytest.approx([0.6, 0.0, 0.3])
    assert load_rewards("additive", alpha=1, cost="steps")(known()).total.tolist() == pytest.approx(
        [0.5, -0.3, 0.2]
    )
    with pytest.raises(UsageError, match="unknown cost 'time'; choose nfe or steps"):
        load_rewards("additive", cost="time")  # type: ignore[arg-type]


def test_a_function_gets_what_it_names() -> None:
    assert load_rewards(everything)(known()).total.tolist() == [15.0, 12.0, 13.0]
    assert load_rewards(shorter)(known()).total.tolist() == pytest.approx([0.6, -0.1, 1.0])
    assert load_rewards(lambda nfe, factor=2: nfe * factor)(known()).total.tolist() == [4, 6, 8]
    assert load_rewards(lambda **all_: list(range(len(all_["text"]))))(known()).total.tolist() == [0, 1, 2]
    assert load_rewards(lambda correct: np.ones(3))(known()).total.dtype == torch.float32


def test_several_are_added_with_their_weights() -> None:
    rewards = load_rewards([shorter, "multiplicative"], [2.0, -1.0], alpha=1.0)
    earned = rewards(known())
    assert list(earned.parts) == ["shorter", "multiplicative"]
    assert earned.parts["shorter"].tolist() == pytest.approx([0.6, -0.1, 1.0])
    assert earned.total.tolist() == pytest.approx([1.2 - 0.9, -0.2, 2.0 - 0.7])


def test_alpha_reaches_those_by_name_only() -> None:
    rewards = load_rewards(["additive", Multiplicative(1.0)], alpha=1.0).at(2.0)
    parts = rewards(known()).parts
    assert parts["additive"].tolist() == pytest.approx([0.6, -0.6, 0.2])
    assert parts["Multiplicative"].tolist() == pytest.approx([0.9, 0.0, 0.7])


def test_rows_may_have_alphas_of_their_own() -> None:
    """L = 10, two evaluations: (9 / 10)^α, or 1 − α·2 / 10; what has said its own α keeps it."""
    asked = known(nfe=torch.tensor([2, 2, 2]), correct=torch.ones(3), alpha=torch.tensor([0.0, 1.0, 2.0]))
    rewards = load_rewards(["multiplicative", "additive", Multiplicative(1.0), Additive(1.0)], alpha=5.0)
    parts = rewards(asked).parts
    assert parts["multiplicative"].tolist() == pytest.approx([1.0, 0.9, 0.81])
    assert parts["additive"].tolist() == pytest.approx([1.0, 0.8, 0.6])
    assert parts["Multiplicative"].tolist() == pytest.approx([0.9] * 3)
    assert parts["Additive"].tolist() == pytest.approx([0.8] * 3)
    assert Multiplicative(5.0)(torch.ones(1), torch.tensor([2]), 10, alpha=torch.tensor([1.0])).item() == (
        pytest.approx(0.9)
    )
    assert Additive(5.0)(torch.ones(1), torch.tensor([2]), 10, alpha=torch.tensor([1.0])).item() == pytest.approx(
        0.8
    )


def test_what_is_not_said_is_a_tenth_of_the_evaluations() -> None:
    assert [load_reward(name).alpha for name in ("multiplicative", "additive")] == [0.1, 0.1]  # type: ignore[attr-defined]
    assert load_rewards("additive")(known()).total.tolist() == pytest.approx([0.98, -0.03, 0.96])
    for kind in (Multiplicative, Additive):
        with pytest.raises(ValueError, match=r"^a reward of steps has to be given the steps$"):
            kind(cost="steps")(torch.ones(1), torch.ones(1), 10)
        with pytest.raises(UsageError, match=r"^alpha must be"):
            kind(alpha="1")  # type: ignore[arg-type]
    whole = load_rewards(lambda correct: correct.long())(known(correct=torch.tensor([1, 0, 1]))).total
    assert whole.dtype == torch.float32


def test_weights_and_names() -> None:
    with pytest.raises(UsageError, match="a reward's weight must be a finite number"):
        load_rewards("additive", [True])
    with pytest.raises(UsageError, match=r"give at least one reward: multiplicative, additive, or a function$"):
        load_rewards([])
    assert next(iter(load_rewards(functools.partial(shorter)).parts)).name == "shorter"


def fails(correct):  # type: ignore[no-untyped-def]
    return {}["key"]


def named(result: object):  # type: ignore[no-untyped-def]
    def mine(text):  # type: ignore[no-untyped-def]
        return result

    return mine


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (named([1.0, math.nan, 1.0]), "the reward mine must return finite numbers, got nan for problem 1"),
        (named(torch.tensor([1.0, 1.0, -math.inf])), "finite numbers, got -inf for problem 2"),
        (named([1.0, 2.0]), "the reward mine must return one number for each of 3 rows, got 2"),
        (named(torch.ones(3, 1)), r"one number for each of 3 rows, got shape \(3, 1\)"),
        (named(1.0), "one number for each of 3 rows, got a single number"),
        (named(None), "the reward mine must return numbers, got None"),
        (named([1.0, None, 1.0]), "the reward mine must return numbers"),
        (named(["a", "b", "c"]), "the reward mine must return numbers"),
        (fails, "the reward fails fails: KeyError: 'key'"),
    ],
)
def test_a_reward_that_does_not_work_is_named(reward: object, message: str) -> None:
    rewards = load_rewards(reward)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=message):
        rewards(known())


@pytest.mark.parametrize(
    ("rewards", "weights", "message"),
    [
        ([], [], "give at least one reward"),
        (["additive", "additive"], [], "the reward additive is given twice"),
        (["additive"], [1.0, 2.0], "1 rewards need as many weights, got 2"),
        (["additive"], [math.nan], "a reward's weight must be a finite number"),
        ([lambda gold: gold], [], "asks for 'gold'; it can have problem, text, correct, nfe, steps, length"),
        ([5], [], "a reward is a name or a function, got 5"),
        ([Multiplicative], [], "a reward is a name or a function"),
    ],
)
def test_rewards_that_cannot_work_are_refused_at_once(rewards: list, weights: list, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_rewards(rewards, weights)


def test_in_the_environment_as_in_training() -> None:
    settings = {"task": "trace:chains=1", "block_length": 5, "denoiser": toy_denoiser()}
    rewards = {"reward": [shorter, "additive"], "reward_weights": [0.5, 1.0], "alpha": 1.0, "cost": "steps"}
    env = UnmaskEnv(**settings, **rewards)  # type: ignore[arg-type]
    env.reset(seed=1)
    done = False
    while not done:
        _, reward, done, _, info = env.step(np.ones(20, dtype=np.int8))
    parts = info["rewards/shorter"], info["rewards/additive"]
    assert parts[0] == pytest.approx(info["correct"] - len(info["response"]) / 10)
    assert parts[1] == pytest.approx(info["correct"] - info["step"] / 20)
    assert reward == pytest.approx(0.5 * parts[0] + parts[1])
    with pytest.raises(UsageError, match="asks for 'gold'"):
        UnmaskEnv(**settings, reward=lambda gold: gold)  # type: ignore[arg-type]


def test_nothing_of_a_reward_reaches_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In GRPO and PPO: each is logged by name, and the policy is rewarded with their weighted sum."""
    enter(monkeypatch)
    short = {"task": "all-a", "denoiser": "pairs", "updates": 1, "width": 8, "imitation_steps": 0}
    short |= {"validation_problems": 4, "reward": (shorter, "multiplicative"), "reward_weights": (0.5, 2.0)}
    train_grpo(GRPO().changed(**short, prompts=4, alpha_warmup=0), tmp_path / "grpo")
    train_ppo(PPO().changed(**short, num_envs=8, n_steps=8), tmp_path / "ppo")
    for name in ("grpo", "ppo"):
        row = next(csv.DictReader((tmp_path / name / "logs/progress.csv").read_text().splitlines()))
        parts = float(row["rewards/shorter"]), float(row["rewards/multiplicative"])
        assert float(row["rollout/reward"]) == pytest.approx(0.5 * parts[0] + 2 * parts[1], abs=1e-5)
        settings = json.loads((tmp_path / name / "settings.json").read_text())
        assert [text.rpartition(":")[2] for text in settings["reward"]] == ["shorter", "multiplicative"]


MINE = """
def brief(text, correct):
    return [float(c) - len(t) / 100 for c, t in zip(correct, text)]

def scaled(nfe, factor=1.0):
    return nfe * factor

class Penalty:
    def __init__(self, rate: float = 0.5):
        self.rate = rate

    def __call__(self, *, steps, length, **_):
        return -self.rate * steps / length

class Nothing:
    pass
"""


@pytest.fixture
def mine(tmp_path: Path) -> str:
    (tmp_path / "mine.py").write_text(MINE)
    return str(tmp_path / "mine.py")


def test_rewards_from_a_file(mine: str) -> None:
    earned = load_rewards([f"{mine}:brief", f"{mine}:scaled(factor=2.0)", f"{mine}:Penalty(rate=1.0)"])(known())
    assert earned.parts["brief"].tolist() == pytest.approx([0.96, -0.01, 1.0])
    assert earned.parts["scaled"].tolist() == [4.0, 6.0, 8.0]
    assert earned.parts["Penalty"].tolist() == pytest.approx([-0.5, -0.3, -0.8])
    for text, message in (
        (f"{mine}:shorter", "has no class or function 'shorter'; it has brief, scaled, Penalty, Nothing"),
        (f"{mine}:Nothing", r"Nothing of .*mine\.py is no reward: what it makes cannot be called"),
        (f"{mine}:scaled(by=2)", "has no parameter 'by'"),
        ("nowhere.py:brief", "no file 'nowhere.py', which the reward"),
    ):
        with pytest.raises(UsageError, match=message):
            load_rewards(text)


def test_settings_of_rewards_by_name() -> None:
    own = load_rewards(["multiplicative:alpha=2,cost=steps", "additive"], alpha=1.0)
    assert [part.function for part in own.parts] == [Multiplicative(2.0, "steps"), Additive(1.0)]
    assert [part.function for part in own.at(0.5).parts] == [Multiplicative(2.0, "steps"), Additive(0.5)]
    with pytest.raises(UsageError, match="cost must be nfe or steps, got 'time'"):
        load_rewards("additive:cost=time")
    with pytest.raises(UsageError, match="additive has no setting 'beta'"):
        load_rewards("additive:beta=1")


def test_a_run_with_a_reward_from_a_file(mine: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch)
    short = {"denoiser": "pairs", "width": 8, "imitation_steps": 0, "validation_problems": 4, "prompts": 2}
    settings = GRPO().changed(**short, task=AllA(), head=Bernoulli(), updates=2, reward=(f"{mine}:brief",))
    train_grpo(settings, tmp_path / "run", stop_after=1)
    stored = json.loads((tmp_path / "run/settings.json").read_text())
    assert stored["reward"] == [f"{mine}:brief"]
    assert stored["task"].endswith("pairs.py:AllA")
    train_grpo(settings, tmp_path / "run", resume=True)
    Path(mine).unlink()
    with pytest.raises(UsageError, match=r"no file '.*mine\.py', which the reward"):
        train_grpo(settings, tmp_path / "run", resume=True)
    assert load_policy(str(tmp_path / "run")).head.temperature in (1.0, 0.6)  # type: ignore[attr-defined]
