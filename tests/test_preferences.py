"""One policy for all α: what it reads, how α is drawn and chosen, and that older policies are as before."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import toy_denoiser
from gymnasium.utils.env_checker import check_env

from dllm_env.denoisers.base import Extras
from dllm_env.dynamics import Observation, Wishes
from dllm_env.env import UnmaskEnv
from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import Evaluation, EvaluationConfig
from dllm_env.pareto import log_area
from dllm_env.policies.heads import DynamicPlackettLuce
from dllm_env.policies.learned import CurvePoint, LearnedPolicy, alpha_for, load_policy
from dllm_env.policies.networks import READ_TOKENS, SIGHT, ConfidenceTransformer, NetworkConfig
from dllm_env.policies.rollout import rollout
from dllm_env.random import RowRandom, torch_generator
from dllm_env.rewards import Additive, Multiplicative, Outcomes, load_rewards
from dllm_env.rules import Rules
from dllm_env.train import validation
from dllm_env.train.grpo import GRPO, train_grpo, wishes_of
from dllm_env.train.ppo import PPO, train_ppo
from dllm_env.train.validation import alphas
from dllm_env.vector_env import UnmaskVectorEnv

CURVE = (CurvePoint(0.01, 0.99, 8.0), CurvePoint(0.1, 0.98, 6.0), CurvePoint(1.0, 0.9, 4.0))


def policy(*, conditions: tuple[str, ...] = ("preference",), **more: object) -> LearnedPolicy:
    config = NetworkConfig(width=16, sight=tuple(SIGHT), conditions=conditions)
    network = ConfidenceTransformer(config, torch_generator(1))
    with torch.no_grad():  # so that conditions matter
        network.modulation.weight.normal_(0.0, 0.3, generator=torch_generator(2))
    return LearnedPolicy(network.eval(), DynamicPlackettLuce(), **more)  # type: ignore[arg-type]


def seen(rows: int = 3, width: int = 6) -> Observation:
    generator = torch_generator("seen")
    masked = torch.rand(rows, width, generator=generator) < 0.7
    confidence = torch.rand(rows, width, 1, generator=generator) * masked[..., None]
    step, token = torch.arange(rows), torch.randint(4, (rows, width), generator=generator)
    ends, rewrite = (token == 3) & masked, torch.zeros(rows, width)
    return Observation(
        confidence, masked, masked, step / 40, masked.sum(-1), step, token=token, ends=ends, rewrite=rewrite
    )


def test_sight_by_hand() -> None:
    masked = torch.tensor([[True, False, True, True], [False, False, True, False]])
    confidence = torch.tensor([[0.5, 0, 0.8, 1.0], [0, 0, 1e-9, 0]])[..., None]
    token = torch.tensor([[7, 7, 5, 5], [5, 5, 9, 9]])
    ends = token == 5
    rewrite = torch.tensor([[0, 0.75, 0, 0], [0.5, 0, 0, 0]])
    observation = Observation(
        *(confidence, masked, masked, torch.zeros(2), masked.sum(-1), torch.zeros(2)),
        **{"token": token, "ends": ends, "rewrite": rewrite},
    )
    found = {name: sight(observation).tolist() for name, sight in SIGHT.items()}
    assert found["place"] == [[0, 0.25, 0.5, 0.75]] * 2
    e = math.exp
    assert found["left"][0] == pytest.approx([1, e(-1), e(-1), e(-2)])
    assert found["left"][1] == pytest.approx([1, 1, 1, e(-1)])
    assert found["right"][0] == pytest.approx([e(-2), e(-2), e(-1), 1])
    assert found["nines"][0] == pytest.approx([math.log10(2) / 2, 0, math.log10(5) / 2, 2], abs=1e-6)
    assert found["nines"][1] == pytest.approx([0, 0, 0, 0], abs=1e-6)
    assert found["doubt"][0] == pytest.approx([0, math.log(2) / 5, math.log(2) / 5, math.log(2.5) / 5], abs=1e-6)
    assert found["doubt"][1] == pytest.approx([0, 0, 0, -math.log(1e-4) / 5], abs=1e-6)
    assert found["ends"] == [[0, 0, 1, 1], [0, 0, 0, 0]]
    assert found["rewrite"] == rewrite.tolist()
    assert found["repeats"] == [[0, 0, 1, 1], [0, 0, 0, 0]]  # of written neighbours nothing is predicted


def test_a_network_that_reads_tokens_asks_for_them() -> None:
    observation = seen()
    for name, sight in SIGHT.items():
        network = ConfidenceTransformer(NetworkConfig(width=16, sight=(name,)), torch_generator(1))
        assert LearnedPolicy(network, DynamicPlackettLuce()).extras == Extras(
            token=name in READ_TOKENS, rewrite=name == "rewrite"
        )
        if name in READ_TOKENS:
            with pytest.raises(UsageError, match=r"reads predicted tokens.*extras=\['token', 'ends'\]"):
                sight(replace(observation, token=None, ends=None))


def test_scores_depend_on_what_is_asked_for() -> None:
    network, observation = policy().network, seen()
    with torch.no_grad(), pytest.raises(UsageError, match="alpha=0"):
        network(observation)
    with torch.no_grad():
        few, much = (network(replace(observation, preference=torch.full((3,), a))) for a in (0.01, 3.0))
        assert not torch.equal(few, much)
        limited = policy(conditions=("remaining",)).network
        free = limited(observation)
        assert torch.equal(free, limited(replace(observation, remaining=torch.full((3,), -1))))
        assert not torch.equal(free, limited(replace(observation, remaining=torch.full((3,), 2))))
        network = policy(conditions=()).network
        assert torch.equal(network(observation), network(replace(observation, preference=torch.full((3,), 2.0))))


def test_a_policy_s_own_alpha_comes_first() -> None:
    observation = replace(seen(), preference=torch.full((3,), 5.0))
    streams = RowRandom(torch.arange(3))
    own = policy(alpha=0.01).act(observation, streams)
    asked = policy().act(replace(observation, preference=torch.full((3,), 0.01)), RowRandom(torch.arange(3)))
    assert torch.equal(own.log_prob, asked.log_prob)  # type: ignore[arg-type]


def test_where_nobody_says_alpha_it_is_the_middle_of_the_curve() -> None:
    streams = RowRandom(torch.arange(3))
    left, said = policy(curve=CURVE).act(seen(), streams), policy(alpha=0.1).act(seen(), RowRandom(torch.arange(3)))
    assert torch.equal(left.log_prob, said.log_prob)  # type: ignore[arg-type]
    asked = replace(seen(), preference=torch.full((3,), 5.0))
    both = [one.act(asked, RowRandom(torch.arange(3))).log_prob for one in (policy(curve=CURVE), policy())]
    assert torch.equal(*both)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="alpha=0"):
        policy().act(seen(), RowRandom(torch.arange(3)))


def test_an_open_policy_is_compared_as_a_line(tmp_path: Path) -> None:
    fine = tuple(CurvePoint(alpha, 0.9, 9.0 - i) for i, alpha in enumerate(alphas(0.003, 100.0, 9)))
    policy(curve=fine).save_pretrained(tmp_path)
    settings = EvaluationConfig(task="trace", denoiser=toy_denoiser(), problems=1, max_steps=2)
    played = Evaluation(settings, [str(tmp_path), f"{tmp_path}:greedy=true", f"{tmp_path}:alpha=2", "top_k:1"])
    asked = [f"alpha={a}" for a in ("0.003", "0.0405", "0.548", "7.4", "100")]
    names = [job.setting.policy.removeprefix(f"{tmp_path}:") for job in played.jobs]
    assert names == [*asked, *(f"greedy=true,{a}" for a in asked), "alpha=2", "top_k:1"]
    assert [job.policy.alpha for job in played.jobs[:5]] == [0.003, 0.0405, 0.548, 7.4, 100.0]  # type: ignore[union-attr]
    same = load_policy(f"{tmp_path}:alpha=0.548")
    assert played.jobs[2].setting.policy_version == same.fingerprint()  # type: ignore[union-attr]
    policy().save_pretrained(tmp_path / "bare")
    with pytest.raises(UsageError, match="was trained for a range of alpha; give one"):
        Evaluation(settings, [str(tmp_path / "bare")])


@pytest.mark.parametrize(("nfe", "alpha"), [(8.0, 0.01), (7.0, 10**-1.5), (6.0, 0.1), (5.0, 10**-0.5), (4.0, 1.0)])
def test_alpha_for_a_speed_by_hand(nfe: float, alpha: float) -> None:
    assert alpha_for(CURVE, nfe) == pytest.approx(alpha)
    assert alpha_for(CURVE[::-1], nfe) == pytest.approx(alpha)


def test_alpha_where_the_curve_is_not_monotone_or_too_short() -> None:
    bumpy = (CurvePoint(0.01, 0.9, 6.0), CurvePoint(0.1, 0.9, 6.2), CurvePoint(1.0, 0.8, 5.0))
    assert 0.1 < alpha_for(bumpy, 5.5) < 1.0
    for nfe in (8.1, 3.9):
        with pytest.raises(UsageError, match=r"takes 4.00 to 8.00 evaluations"):
            alpha_for(CURVE, nfe)
    with pytest.raises(UsageError, match="no measured curve"):
        alpha_for((), 5.0)


def test_saved_and_chosen_by_text(tmp_path: Path) -> None:
    policy(curve=CURVE, deadline=9).save_pretrained(tmp_path)
    again = load_policy(str(tmp_path))
    assert isinstance(again, LearnedPolicy)
    assert (again.curve, again.deadline, again.alpha) == (CURVE, 9, None)
    public = again.at(0.2).published()  # what is uploaded has them, too
    assert (public.curve, public.deadline, public.alpha) == (CURVE, 9, 0.2)
    assert again.network.config == policy().network.config
    for text, alpha, deadline in (("alpha=0.3", 0.3, 9), ("nfe=6", 0.1, 9), ("alpha=1,deadline=5", 1.0, 5)):
        chosen = load_policy(f"{tmp_path}:{text}")
        assert isinstance(chosen, LearnedPolicy)
        assert (chosen.alpha, chosen.deadline) == (pytest.approx(alpha), deadline)
        assert chosen.fingerprint() != again.fingerprint()
    for text, message in (
        ("alpha=1,nfe=6", "alpha or nfe, not both"),
        ("alpha=-1", "alpha must be"),
        ("deadline=-1", "deadline must be"),
        ("nfe=99", "not 99"),
    ):
        with pytest.raises(UsageError, match=message):
            load_policy(f"{tmp_path}:{text}")


def test_older_policies_read_what_they_did(tmp_path: Path) -> None:
    network = ConfidenceTransformer(NetworkConfig(width=16), torch_generator(1))
    LearnedPolicy(network, DynamicPlackettLuce()).save_pretrained(tmp_path)
    file = tmp_path / "policy.json"
    about = json.loads(file.read_text())
    for name in ("alpha", "deadline", "curve"):
        del about[name]
    for name in ("sight", "conditions"):
        del about["network"][name]
    file.write_text(json.dumps(about))
    again = load_policy(str(tmp_path))
    assert isinstance(again, LearnedPolicy)
    with torch.no_grad():
        assert torch.equal(again.network(seen()), network(seen()))
    with pytest.raises(UsageError, match="trained for one alpha"):
        load_policy(f"{tmp_path}:alpha=0.3")


def test_rewards_of_rows_with_their_own_alpha() -> None:
    correct, nfe, alpha = torch.tensor([1.0, 1.0, 0.0]), torch.tensor([6, 6, 2]), torch.tensor([0.0, 2.0, 1.0])
    outcomes = Outcomes([None] * 3, [""] * 3, correct, nfe, nfe, 10, alpha)  # type: ignore[list-item]
    for kind, expected in (
        ("multiplicative", [1.0, 0.25, 0.0]),
        ("additive", [1.0, 1 - 2 * 0.6, -0.2]),
        ("multiplicative:alpha=1", [0.5, 0.5, 0.0]),  # has said its own
    ):
        assert load_rewards(kind)(outcomes).total.tolist() == pytest.approx(expected)
    assert Multiplicative(1.0)(correct, nfe, 10).tolist() == [0.5, 0.5, 0.0]
    assert Additive(1.0)(correct, nfe, 10).tolist() == pytest.approx([0.4, 0.4, -0.2])


def test_every_update_asks_for_all_of_the_range() -> None:
    settings = GRPO().changed(preferences=(0.01, 100.0), deadlines=(3, 5), prompts=8, num_generations=3)
    drawn = [wishes_of(settings, update) for update in range(20)]
    for wishes in drawn:
        assert wishes.preference is not None
        assert wishes.deadline is not None
        groups = wishes.preference.view(8, 3)
        assert (groups == groups[:, :1]).all()
        parts = ((groups[:, 0].log10() + 2) / 4 * 8).floor().int()
        assert sorted(parts.tolist()) == list(range(8))
        limits = wishes.deadline.view(8, 3)
        assert (limits == limits[:, :1]).all()
        assert sorted((limits[:, 0] > 0).tolist()) == [False] * 4 + [True] * 4
    deadlines = torch.cat([wishes.deadline for wishes in drawn if wishes.deadline is not None])
    assert set(deadlines.tolist()) == {0, 3, 4, 5}
    assert torch.equal(drawn[3].preference, wishes_of(settings, 3).preference)  # type: ignore[arg-type]
    assert wishes_of(GRPO(), 0) == Wishes()
    for bad in ((1.0,), (0.0, 1.0), (2.0, 1.0), (1.0, 2.0, 3.0)):
        with pytest.raises(UsageError, match="preferences takes"):
            GRPO().changed(preferences=bad)
    assert alphas(0.01, 1.0, 3) == pytest.approx([0.01, 0.1, 1.0])


def test_a_policy_s_deadline_holds_in_a_rollout() -> None:
    denoiser = toy_denoiser()
    prompts = [denoiser.encode("a 6 b +2")] * 4
    slow = policy(conditions=(), deadline=2)
    for rules in (Rules(response_length=12), Rules(response_length=12, block_length=4, deadline=5)):
        played = rollout(denoiser, slow, rules, prompts, [1, 2, 3, 4])
        assert played.finished.all()
        assert played.nfe.max() <= 2


@pytest.mark.parametrize(
    ("points", "area"),
    [
        ([(2, 0.5), (4, 1.0)], 0.5),  # of the three octaves 0, 0.5 and 1
        ([(4, 1.0), (2, 0.5), (5, 0.9)], 0.5),
        ([(0.5, 0.7)], 0.7),
        ([(8, 1.0), (9, 1.0)], 0.0),
        ([], 0.0),
    ],
)
def test_area_over_the_logarithm_by_hand(points: list[tuple[float, float]], area: float) -> None:
    assert log_area(points, 8) == pytest.approx(area)
    with pytest.raises(ValueError, match="length of at least 2"):
        log_area(points, 1)


def test_grpo_trains_one_policy_and_measures_its_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = GRPO().changed(
        task="sudoku",
        preferences=(0.1, 10.0),
        deadlines=(2, 4),
        sight=("place", "left"),
        updates=2,
        prompts=2,
        num_generations=2,
        width=8,
        imitation_steps=1,
        imitation_problems=4,
        imitation_batch_size=8,
        validation_problems=4,
        validation_rules=(),
        test_temperatures=(1.0,),
        evaluate_every=1,
        save_every=1,
    )
    train_grpo(settings, tmp_path / "whole")
    train_grpo(settings, tmp_path / "halves", stop_after=1)
    train_grpo(settings, tmp_path / "halves", resume=True)
    trained = load_policy(str(tmp_path / "whole"))
    assert isinstance(trained, LearnedPolicy)
    assert [point.alpha for point in trained.curve] == pytest.approx(alphas(0.1, 10.0, 9))
    assert trained.network.config.conditions == ("preference", "remaining")
    for name in ("best", "last"):
        texts = [(tmp_path / run / name / "policy.json").read_text() for run in ("whole", "halves")]
        assert json.loads(texts[0])["curve"] == json.loads(texts[1])["curve"]
    weights = [(tmp_path / run / "checkpoint.safetensors").read_bytes() for run in ("whole", "halves")]
    assert weights[0] == weights[1]
    # A run that is done plays nothing when it is resumed.
    monkeypatch.setattr(validation, "validate", None)
    train_grpo(settings, tmp_path / "whole", resume=True)
    assert load_policy(str(tmp_path / "whole")).curve == trained.curve  # type: ignore[union-attr]


# ---------------------------------------------------------------------------------- environments and PPO

RANGE = (0.01, 10.0)


def environments(toy_folder: Path, **more: object) -> dict[str, object]:
    common = {"task": "trace:chains=1", "response_length": 8, "preferences": RANGE}
    return {"denoiser": str(toy_folder), **common, **more}


def test_an_environment_draws_shows_and_rewards_an_alpha(toy_folder: Path) -> None:
    env = UnmaskEnv(**environments(toy_folder))
    check_env(env, skip_render_check=True)
    plain = UnmaskEnv(**environments(toy_folder, preferences=(), alpha=0.5))
    drawn = []
    for seed in range(40):
        seen, info = env.reset(seed=seed)
        assert seen["preference"].tolist() == [pytest.approx(info["alpha"])]
        assert info["problem"] == plain.reset(seed=seed)[1]["problem"]  # the other numbers are what they were
        drawn.append(info["alpha"])
    assert all(RANGE[0] <= alpha <= RANGE[1] for alpha in drawn)
    assert sum(alpha < 0.316 for alpha in drawn) == pytest.approx(20, abs=9)  # half of the range's logarithm
    seen, info = env.reset(seed=1, options={"alpha": 0.5})
    assert (info["alpha"], seen["preference"].tolist()) == (0.5, [0.5])
    everything = np.ones(8, dtype=np.int8)
    reward = env.step(everything)[1]
    plain.reset(seed=1)
    assert reward == plain.step(everything)[1]
    assert "preference" not in plain.observation_space.spaces


def test_rows_of_the_vector_environment_are_single_ones(toy_folder: Path) -> None:
    many, one = UnmaskVectorEnv(3, **environments(toy_folder)), UnmaskEnv(**environments(toy_folder))
    seen, infos = many.reset(seed=5, options={"alpha": [0.1, None, 2.0]})
    for row, alpha in enumerate([0.1, None, 2.0]):
        alone, info = one.reset(seed=5 + row, options={"alpha": alpha})
        assert seen["preference"][row].tolist() == alone["preference"].tolist()
        assert infos["alpha"][row] == info["alpha"]
    actions = np.ones((3, 8), dtype=np.int8)
    for _ in range(3):  # rows begin anew, with α of their own
        seen = many.step(actions)[0]
        assert len(set(seen["preference"][:, 0].tolist())) == 3


@pytest.mark.parametrize(
    ("settings", "alpha", "message"),
    [
        ({"preferences": (1.0, 0.1)}, None, "a smallest and a largest α above 0"),
        ({"preferences": (1.0,)}, None, "a smallest and a largest α above 0"),
        ({"preferences": "ab"}, None, "a smallest and a largest α above 0"),
        ({"preferences": (0.0, 1.0)}, None, "a smallest and a largest α above 0"),
        ({"preferences": (0.1, math.inf)}, None, "a smallest and a largest α above 0"),
        ({"preferences": ()}, 0.1, "this environment has one alpha"),
        ({}, -1.0, "alpha must be a finite number of at least 0"),
        ({}, "much", "alpha must be a finite number"),
        ({}, math.nan, "alpha must be a finite number"),
    ],
)
def test_bad_preferences_of_an_environment(
    toy_folder: Path, settings: dict[str, object], alpha: object, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        UnmaskEnv(**environments(toy_folder, **settings)).reset(options={"alpha": alpha})


def test_ppo_trains_for_all_alphas(toy_folder: Path, tmp_path: Path) -> None:
    settings = PPO().changed(
        **environments(toy_folder),
        width=16,
        num_envs=3,
        n_steps=4,
        minibatch_size=6,
        updates=2,
        save_every=1,
        validation_problems=4,
        validation_rules=(),
        imitation_steps=1,
        imitation_problems=4,
        test_temperatures=(1.0,),
    )
    train_ppo(settings, tmp_path / "whole")
    train_ppo(settings, tmp_path / "halves", stop_after=1)
    train_ppo(settings, tmp_path / "halves", resume=True)
    trained = load_policy(str(tmp_path / "whole"))
    assert isinstance(trained, LearnedPolicy)
    assert trained.network.config.conditions == ("preference",)
    assert [point.alpha for point in trained.curve] == pytest.approx(alphas(*RANGE, 9))
    weights = [(tmp_path / run / "checkpoint.safetensors").read_bytes() for run in ("whole", "halves")]
    assert weights[0] == weights[1]
    with pytest.raises(UsageError, match="no deadlines of their own"):
        PPO().changed(deadlines=(3, 5))
