"""Replacing written tokens in the environments and in PPO."""

from __future__ import annotations

import random
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import stable_baselines3.common.env_checker as sb3_checker
import torch
from conftest import MASK, toy_denoiser
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from logs import assert_logged_once, csv_rows
from pairs import AllA, PairDenoiser, assert_same_run, enter
from stable_baselines3 import PPO as StablePPO
from test_editing import LENGTH, REWRITE, Neighbours, Row

import dllm_env
from dllm_env.denoisers.tiny import TinyDenoiser
from dllm_env.dynamics import NOT_HELD, Dynamics
from dllm_env.env import EnvConfig, UnmaskEnv
from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.policies.networks import READ_TOKENS, USUAL_SIGHT
from dllm_env.policies.rollout import rollout
from dllm_env.random import RowRandom
from dllm_env.rules import View
from dllm_env.tasks.base import Problem, Split
from dllm_env.train.ppo import PPO, train_ppo
from dllm_env.train.sb3 import UnmaskPolicy, UnmaskVecEnv
from dllm_env.vector_env import UnmaskVectorEnv

EDITS = {"allow_edit": True, "edit_steps": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "blocks": {"block_length": 4, "temperature": 0.7},
    "block context": {"block_length": 4, "context": "block", "temperature": 0.7},
    "cut": {"max_steps": 4, "block_length": 4},
    "end of text": {"stop_at_eot": True, "temperature": 1.5},
    "extras": {"extras": ("token", "ends", "rewrite"), "top": 2},
    "deadline": {"deadline": 5},
}


class Any3:
    """Prompts of a word; a response that begins with 3 is right."""

    name, prompt_length, response_length = "any-3", 2, LENGTH

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        return Problem(self.name, split, seed, index, str(3 + index % 3), ())

    def score(self, problem: Problem, response: str) -> float:
        return float(response.startswith("3"))


@pytest.mark.parametrize("block_length", [2, 3, 6])
@pytest.mark.parametrize("context", ["full", "block"])
@pytest.mark.parametrize("more", [{}, {"max_steps": 5}], ids=["", "cut"])
def test_an_episode_goes_as_it_would_by_the_definition(
    block_length: int, context: Any, more: dict[str, int]
) -> None:
    settings = {"block_length": block_length, "context": context, "allow_edit": True, "edit_steps": 2, **more}
    env = UnmaskEnv(denoiser=Neighbours(), task=Any3(), **settings)
    coin, held, edits = random.Random(f"{block_length} {context} {more}"), 0, 0
    for episode in range(12):
        observation, info = env.reset(seed=episode)
        row = Row(env.game.rules, context, 3 + info["problem"] % 3, [MASK] * LENGTH)
        row.look()
        density, terminated, truncated, ignored = coin.choice((0.4, 0.9)), False, False, 0
        while not (terminated or truncated):
            allowed = [row.editable()[i] or (row.response[i] == MASK and i in row.block) for i in row.window]
            shown = [row.seen[i][1] if row.editable()[i] else 0.0 for i in row.window]
            assert (observation["selectable"] | observation["editable"]).tolist() == allowed
            assert observation["editable"].tolist() == [row.editable()[i] for i in row.window]
            assert (observation["rewrite"] * observation["editable"]).tolist() == pytest.approx(shown)
            assert not (observation["rewrite"] * observation["masked"]).any()
            chosen = [coin.random() < density for _ in allowed]
            ignored += sum(one and not possible for one, possible in zip(chosen, allowed, strict=True))
            observation, _, terminated, truncated, info = env.step(np.array(chosen))
            row.play(chosen)
            held += row.held > NOT_HELD
            assert (terminated or truncated) == row.ended()
            assert terminated == (row.ended() and MASK not in row.response)
            if not row.ended():
                row.look()
            assert [info[name] for name in ("nfe", "step", "edits")] == [row.nfe, row.step, row.edits]
            assert info["ignored"] == ignored
        assert info["response"] == env.game.denoiser.response_text(row.response)
        if terminated:
            assert not any(observation[name].any() for name in ("confidence", "rewrite", "editable", "selectable"))
        edits += row.edits
    assert edits
    assert held


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=list(VARIANTS))
def test_an_episode_is_the_dynamics(settings: dict[str, Any], toy: TinyDenoiser) -> None:
    env = UnmaskEnv(denoiser=toy, response_length=8, **EDITS, **settings)
    game = env.game
    view = View(game.view.context, game.view.top, REWRITE)
    dynamics, edits = Dynamics(toy, game.rules, game.dynamics.prompt_length, view), 0
    generator = np.random.default_rng(0)
    for seed in range(6):
        observation, info = env.reset(seed=seed)
        assert env._episode is not None
        state = dynamics.reset([env._episode.prompt], [env._episode.seed])
        dynamics.predict(state)
        ended = False
        while not ended:
            seen = dynamics.observe(state)
            for name in ("masked", "selectable", "editable", "rewrite"):
                assert observation[name].tolist() == getattr(seen, name)[0].tolist(), name
            assert seen.editable is not None
            action = torch.from_numpy(generator.random(dynamics.width) < 0.4)[None]
            observation, _, terminated, truncated, info = env.step(action.numpy()[0])
            dynamics.apply(state, action & seen.selectable, edit=action & seen.editable)
            ended = bool(dynamics.ended(state)[0])
            assert (terminated, truncated) == (dynamics.terminated(state)[0], dynamics.truncated(state)[0])
            assert (terminated or truncated) == ended
            if not ended:
                dynamics.predict(state)
            assert (info["nfe"], info["edits"]) == (state.nfe[0], state.edits[0])
        assert info["response"] == toy.response_text(dynamics.responses(state)[0].tolist())
        edits += info["edits"]
    assert edits


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=list(VARIANTS))
def test_vector_is_single_rows_bit_for_bit(settings: dict[str, Any], toy: TinyDenoiser) -> None:
    arguments = {"denoiser": toy, "response_length": 8, **EDITS, **settings}
    seeds = [11, 5, 7, 5, 123]
    single = SyncVectorEnv([partial(UnmaskEnv, **arguments) for _ in seeds], autoreset_mode=AutoresetMode.SAME_STEP)
    vector = UnmaskVectorEnv(len(seeds), **arguments)
    assert data_equivalence(single.reset(seed=seeds), vector.reset(seed=seeds), exact=True)
    generator, edits, ended = np.random.default_rng(0), 0, np.zeros(len(seeds))
    for _ in range(60):
        actions = (generator.random(vector.action_space.shape) < 0.5).astype(np.int8)
        expected, got = single.step(actions), vector.step(actions)
        assert data_equivalence(expected, got, exact=True)
        assert got[0] in vector.observation_space
        edits, ended = edits + got[4]["edits"].max(), ended + (got[2] | got[3])
    assert edits
    assert ended.min() >= 2


@pytest.mark.parametrize("settings", [{}, VARIANTS["block context"], VARIANTS["extras"]], ids=str)
def test_both_checkers_are_silent(toy: TinyDenoiser, settings: dict[str, Any]) -> None:
    env = gymnasium.make(dllm_env.ENVIRONMENT, denoiser=toy, render_mode="ansi", **EDITS, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        sb3_checker.check_env(env, skip_render_check=False)


def test_what_is_shown_without_it(toy: TinyDenoiser) -> None:
    """Nothing new; and on request what would be replaced, where nothing can be."""
    plain, shown = (UnmaskEnv(denoiser=toy, response_length=8, extras=extras) for extras in ((), ("rewrite",)))
    assert set(shown.observation_space) - set(plain.observation_space) == {"rewrite"}  # type: ignore[call-overload]
    assert not {"rewrite", "editable"} & set(plain.observation_space)  # type: ignore[call-overload]
    assert "edits" not in plain.reset(seed=0)[1]
    shown.reset(seed=0)
    observation, *_, info = shown.step(np.arange(8) < 6)
    assert observation["rewrite"].any()
    before, *_, info = shown.step(np.arange(8) < 6)  # written already
    assert info["ignored"] == 6
    assert np.array_equal(before["rewrite"], observation["rewrite"])


def test_a_block_that_is_open_for_editing_is_drawn_as_open(toy: TinyDenoiser) -> None:
    env = UnmaskEnv(denoiser=toy, response_length=8, render_mode="ansi", **EDITS)
    env.reset(seed=0)
    _, _, terminated, *_ = env.step(np.ones(8))
    assert not terminated
    assert "[" in str(env.render())
    for _ in range(3):
        _, _, terminated, *_ = env.step(np.zeros(8))
        if terminated:
            break
    assert "[" not in str(env.render())


# ------------------------------------------------------------------------------- Stable-Baselines3's policy


def rows(count: int = 4, **settings: Any) -> UnmaskVecEnv:
    given = {"denoiser": toy_denoiser(), "task": "trace:chains=1", "block_length": 5, **EDITS}
    return UnmaskVecEnv(UnmaskVectorEnv(count, **(given | settings)))


@pytest.mark.parametrize("head", ["bernoulli", "plackett_luce:k=2", "dynamic_plackett_luce"])
@pytest.mark.parametrize("context", ["full", "block"])
def test_what_the_policy_does_here_is_what_it_does_in_a_rollout(head: str, context: Any) -> None:
    environment = rows(6, context=context)
    kwargs = {"width": 16, "bias": 0.5, "head": head}
    model = StablePPO("UnmaskPolicy", environment, policy_kwargs=kwargs, seed=0)
    policy, game, replaced = model.policy, environment.envs.game, 0
    assert isinstance(policy, UnmaskPolicy)
    assert policy.shape.sight == (*(name for name in USUAL_SIGHT if name not in READ_TOKENS), "rewrite")
    learned, greedy = policy.learned(context=context), policy.learned(context=context)
    greedy.greedy = True
    environment.seed(1)
    arrays = environment.reset()
    for _ in range(12):
        assert environment.envs._state is not None
        seen, nothing = game.dynamics.observe(environment.envs._state), RowRandom(torch.arange(6))
        tensors, _ = policy.obs_to_tensor(arrays)
        rebuilt = policy.observation(tensors)  # type: ignore[arg-type]
        for name in ("masked", "selectable", "editable", "rewrite", "confidence", "actionable"):
            assert torch.equal(getattr(rebuilt, name), getattr(seen, name)), name
        decision = greedy.act(seen, nothing)
        assert decision.edit is not None
        mode, _ = model.predict(arrays, deterministic=True)
        assert np.array_equal(mode > 0, (decision.unmask | decision.edit).numpy())
        with torch.no_grad():
            draw, values, log_prob = policy(tensors)
            again, scored, entropy = policy.evaluate_actions(tensors, draw.float())  # type: ignore[arg-type]
        draw = draw.as_subclass(torch.Tensor)
        expected = learned.evaluate(seen, draw.float())
        torch.testing.assert_close((log_prob, entropy), tuple(part.detach() for part in expected))
        torch.testing.assert_close((values, log_prob), (again, scored))
        assert not ((draw > 0) & ~seen.actionable).any()
        edits = int(((draw > 0) & seen.editable).sum())  # type: ignore[operator]
        before = environment.envs._state.edits.clone()
        arrays, _, done, _ = environment.step(draw.numpy())
        if not done.any():
            assert int((environment.envs._state.edits - before).sum()) == edits
        replaced += edits
    assert replaced


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(UsageError, match=r"replace written tokens here \(allow_edit\): add rewrite to sight"):
        StablePPO("UnmaskPolicy", rows(), policy_kwargs={"sight": ("place",)})
    plain = rows(allow_edit=False, edit_steps=0)
    with pytest.raises(UsageError, match="make the environment with allow_edit=True or extras="):
        StablePPO("UnmaskPolicy", plain, policy_kwargs={"sight": ("place", "rewrite")})
    with pytest.raises(UsageError, match="edit_steps are those of allow_edit; give both"):
        EnvConfig(edit_steps=3)
    with pytest.raises(UsageError, match="leave one of them away"):
        EnvConfig(allow_edit=True, limit_block_steps=True)
    with pytest.raises(UsageError, match="add rewrite to sight"):
        PPO().changed(allow_edit=True)


# -------------------------------------------------------------------------------------------------- trainings


def toy_settings(**values: Any) -> PPO:
    settings = PPO().changed(task="all-a", denoiser="pairs", updates=4, num_envs=8, n_steps=8, minibatch_size=32)
    settings = settings.changed(width=16, bias=0.0, imitation_steps=0, validation_problems=8, evaluate_every=2)
    return settings.changed(
        **{"allow_edit": True, "sight": ("place", "nines", "rewrite"), "save_every": 2, **values}
    )


@pytest.mark.parametrize("head", ["bernoulli", "dynamic_plackett_luce"])
def test_a_training_goes_on_and_what_it_trains_plays(
    head: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(monkeypatch)
    settings = toy_settings(head=head, temperature=1.0)  # tokens that are drawn wrong can be put right
    train_ppo(settings, tmp_path / "whole")
    train_ppo(settings, tmp_path / "halves", stop_after=3)
    train_ppo(settings, tmp_path / "halves", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "halves")
    assert_logged_once(tmp_path / "whole", tmp_path / "halves")
    assert sum(float(row["rollout/edits"]) for row in csv_rows(tmp_path / "whole").values()) > 0
    policy = load_policy(str(tmp_path / "whole"))
    assert isinstance(policy, LearnedPolicy)
    assert policy.extras.rewrite
    rules = settings.of(settings, response_length=4)
    played = rollout(PairDenoiser(), policy, rules, [[3]] * 32, list(range(32)))
    assert played.edits.sum() > 0


def test_it_begins_with_correction_and_plays_in_evaluations(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter(monkeypatch)
    settings = toy_settings(imitation_steps=5, imitation_problems=8, context="block", block_length=2, updates=1)
    folder = train_ppo(settings, tmp_path / "run")
    config = EvaluationConfig(task=AllA(), denoiser=PairDenoiser(), problems=8, block_length=(2,), allow_edit=True)
    (result,) = evaluate(replace(config, temperature=1.0), [str(folder)])
    assert all(outcome.finished for outcome in result.outcomes)
    # Without edits four positions need four evaluations at most.
    assert max(outcome.nfe for outcome in result.outcomes) > 4


def test_a_policy_that_is_told_but_may_not_replace_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enter(monkeypatch)
    train_ppo(toy_settings(allow_edit=False, updates=1), tmp_path / "run")
    assert all("rollout/edits" not in row for row in csv_rows(tmp_path / "run").values())
    assert load_policy(str(tmp_path / "run")).extras.rewrite
