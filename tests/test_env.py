"""The Gymnasium faces of the process: contract, seeding, vector ≡ single, rendering, refusals."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import warnings
from functools import partial
from itertools import pairwise
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
import pytest
import stable_baselines3.common.env_checker as sb3_checker
import torch
from conftest import CountingDenoiser, Scripted, favouring
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import dllm_env
from dllm_env.denoisers.tiny import TinyDenoiser
from dllm_env.env import EnvConfig, Game, UnmaskEnv
from dllm_env.errors import UsageError
from dllm_env.rendering import ACTIVE, BACKGROUND, WAITING, WRITTEN, Drawing, as_picture, as_text
from dllm_env.tasks.base import Problem
from dllm_env.tasks.trace import Trace
from dllm_env.vector_env import UnmaskVectorEnv

EVERYTHING = {"extras": ("entropy", "margin", "hidden", "token", "ends"), "top": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "sampled": {"temperature": 0.7},
    "blocks": {"block_length": 4},
    "block context": {"block_length": 4, "context": "block", "temperature": 0.7},
    "stop at eot": {"stop_at_eot": True, "temperature": 1.5},
    "truncated": {"max_steps": 3},
    "truncated block context": {"max_steps": 3, "context": "block", "block_length": 4, "temperature": 0.7},
    "extras": EVERYTHING,
    "additive": {"reward": "additive", "alpha": 0.5},
}


def same(first: Any, second: Any) -> bool:
    return data_equivalence(first, second, exact=True)


@pytest.mark.parametrize("settings", [{}, {"block_length": 8, "context": "block"}, EVERYTHING], ids=str)
def test_both_checkers_are_silent(toy: TinyDenoiser, settings: dict[str, Any]) -> None:
    env = gymnasium.make(dllm_env.ENVIRONMENT, denoiser=toy, render_mode="ansi", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
        sb3_checker.check_env(env, skip_render_check=False)


@pytest.mark.parametrize("name", ["dllm_env/Unmask-v0", "dllm_env:dllm_env/Unmask-v0"])
def test_make_in_a_fresh_interpreter(name: str, toy_folder: Any) -> None:
    first = "" if ":" in name else "import dllm_env; "
    code = f"{first}import gymnasium; gymnasium.make({name!r}, denoiser={str(toy_folder)!r}).reset(seed=0)"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=300)


def test_import_is_light_and_lists_its_names() -> None:
    code = "import sys, dllm_env; assert 'torch' not in sys.modules; dllm_env.Rules; dllm_env.UnmaskVectorEnv"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=300)
    assert all(hasattr(dllm_env, name) for name in dllm_env.__all__)
    assert not hasattr(dllm_env, "nonsense")


def test_registering_twice_is_silent() -> None:
    dllm_env.register_environments()
    assert gymnasium.spec(dllm_env.ENVIRONMENT).vector_entry_point is not None


def test_make_vec_declares_autoreset_and_spaces(toy: TinyDenoiser) -> None:
    envs = gymnasium.make_vec(dllm_env.ENVIRONMENT, num_envs=3, denoiser=toy, block_length=8, **EVERYTHING)
    assert isinstance(envs, UnmaskVectorEnv)
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    observation, _ = envs.reset(seed=0)
    assert observation in envs.observation_space
    assert envs.step(envs.action_space.sample())[0] in envs.observation_space


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=list(VARIANTS))
def test_vector_is_single_rows_bit_for_bit(toy: TinyDenoiser, settings: dict[str, Any]) -> None:
    arguments = {"denoiser": toy, "response_length": 8, **settings}
    seeds = [11, 5, 7, 5, 123]
    single = SyncVectorEnv([partial(UnmaskEnv, **arguments) for _ in seeds], autoreset_mode=AutoresetMode.SAME_STEP)
    vector = UnmaskVectorEnv(len(seeds), **arguments)
    single_start, vector_start = single.reset(seed=seeds), vector.reset(seed=seeds)
    assert same(single_start, vector_start)
    random = np.random.default_rng(0)
    ended = np.zeros(len(seeds))
    kinds = set()
    for _ in range(30):
        actions = (random.random(vector.action_space.shape) < 0.4).astype(np.int8)
        expected, got = single.step(actions), vector.step(actions)
        assert same(expected, got)
        ended += got[2] | got[3]
        kinds |= {"terminated"} if got[2].any() else set()
        kinds |= {"truncated"} if got[3].any() else set()
    assert ended.min() >= 2
    assert ("truncated" if "max_steps" in settings else "terminated") in kinds
    # Without a seed every row's own generator goes on.
    assert same(single.reset(), vector.reset())


def test_full_length_rows_equal_single_environments(toy: TinyDenoiser) -> None:
    vector = UnmaskVectorEnv(3, denoiser=toy, block_length=8)
    single = [UnmaskEnv(denoiser=toy, block_length=8) for _ in range(3)]
    observation, _ = vector.reset(seed=40)
    for row, env in enumerate(single):
        alone, _ = env.reset(seed=40 + row)
        assert all(np.array_equal(alone[name], observation[name][row]) for name in alone)
    for _ in range(10):
        actions = vector.action_space.sample()
        observation, rewards, *_ = vector.step(actions)
        for row, env in enumerate(single):
            alone, reward, *_ = env.step(actions[row])
            assert reward == rewards[row]
            assert all(np.array_equal(alone[name], observation[name][row]) for name in alone)


@pytest.mark.parametrize("make", [partial(UnmaskEnv), partial(UnmaskVectorEnv, 3)], ids=["single", "vector"])
def test_twins_and_pickled_copies_agree(make: Any, toy: TinyDenoiser) -> None:
    env, twin = (make(denoiser=toy, response_length=8, temperature=0.7) for _ in range(2))
    assert same(env.reset(seed=3), twin.reset(seed=3))
    env.action_space.seed(0)
    copy = None
    for step in range(6):
        action = env.action_space.sample() & env.action_space.sample() & env.action_space.sample()
        result = env.step(action)
        assert same(result, twin.step(action))
        if copy is not None:
            assert same(result, copy.step(action))
        elif step == 1:
            copy = pickle.loads(pickle.dumps(env))  # made just above
        if make.func is UnmaskEnv and (result[2] or result[3]):
            break
    assert copy is not None
    assert same(env.reset(), copy.reset())


def test_another_seed_is_another_episode(toy: TinyDenoiser) -> None:
    env = UnmaskEnv(denoiser=toy)
    problems = {env.reset(seed=seed)[1]["problem"] for seed in range(20)}
    assert len(problems) == 20


def test_options_choose_the_problem(toy: TinyDenoiser) -> None:
    env = UnmaskEnv(denoiser=toy, split="test", seed=4, render_mode="ansi")
    _, info = env.reset(seed=0, options={"problem": 17})
    assert info["problem"] == 17
    assert Trace().problem(17, "test", 4).prompt in str(env.render())
    after = env.reset()
    env.reset(seed=0)
    assert same(after, env.reset())
    envs = UnmaskVectorEnv(2, denoiser=toy)
    assert envs.reset(options={"problem": [3, 4]})[1]["problem"].tolist() == [3, 4]
    assert envs.reset(options={"problem": 9})[1]["problem"].tolist() == [9, 9]


class Growing:
    """Prompts of 1, 2, 3, 1, 2, 3, … words."""

    name, prompt_length, response_length = "growing", 3, 4

    def problem(self, index: int, split: str = "train", seed: int = 0) -> Problem:
        return Problem(self.name, "train", seed, index, " ".join(["3"] * (1 + index % 3)), ())

    def score(self, problem: Problem, response: str) -> float:
        return 0.0


def test_long_prompts_are_left_out() -> None:
    """Others are as probable as each other, and all of them the same alone as together."""
    arguments = {"denoiser": Scripted(favouring([3] * 4), 3), "task": Growing(), "max_prompt_length": 2}
    env, envs, found = UnmaskEnv(**arguments), UnmaskVectorEnv(2, **arguments), []
    for seed in range(300):
        infos = env.reset(seed=seed)[1], env.reset()[1]
        found += infos
        together = envs.reset(seed=seed)[1]
        assert (together["problem"][0], together["left_out"][0]) == (infos[0]["problem"], infos[0]["left_out"])
    kinds = [info["problem"] % 3 for info in found]
    assert kinds.count(2) == 0
    assert abs(kinds.count(0) - 300) < 75  # five standard deviations
    # A third is passed over: on average half a problem before each.
    assert sum(info["left_out"] for info in found) / len(found) == pytest.approx(0.5, abs=0.2)
    assert env.reset(options={"problem": 2})[1]["problem"] == 2
    envs.reset(seed=0)
    *_, infos = envs.step(np.ones((2, 4)))
    assert infos["final_info"]["left_out"].tolist() == [
        UnmaskEnv(**arguments).reset(seed=i)[1]["left_out"] for i in (0, 1)
    ]


def test_a_limit_that_leaves_out_none_or_all(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {"denoiser": Scripted(favouring([3] * 4), 3), "task": Growing()}
    plain, loose = UnmaskEnv(**arguments), UnmaskEnv(**arguments, max_prompt_length=3)
    for seed in range(5):
        first, second = plain.reset(seed=seed)[1], loose.reset(seed=seed)[1]
        assert second == {**first, "left_out": 0}

    class Longer(Growing):
        """The first prompt is short, and no other one."""

        def problem(self, index: int, split: str = "train", seed: int = 0) -> Problem:
            return super().problem(min(index, 1))

    monkeypatch.setattr("dllm_env.env.DRAWS", 100)
    with pytest.raises(
        UsageError, match="among 100 train problems that were drawn of growing none has a prompt of at"
    ):
        UnmaskEnv(**{**arguments, "task": Longer()}, max_prompt_length=1).reset(seed=0)

    class Long(Growing):
        def problem(self, index: int, split: str = "train", seed: int = 0) -> Problem:
            return super().problem(2)

    with pytest.raises(
        UsageError, match="among 1,000 train problems of growing none has a prompt of at most 2 tokens"
    ):
        UnmaskEnv(**{**arguments, "task": Long()}, max_prompt_length=2)
    with pytest.raises(UsageError, match="max_prompt_length must be at least 1, or 0 for all, got -1"):
        EnvConfig(max_prompt_length=-1)


class Copying:
    """The response has to be 3 4 5 3."""

    name, prompt_length, response_length = "copying", 2, 4

    def problem(self, index: int, split: str = "train", seed: int = 0) -> Problem:
        return Problem(self.name, "train", seed, index, "3 4", ("3 4 5 3",))

    def score(self, problem: Problem, response: str) -> float:
        return float(response == problem.answer[0])


def test_an_episode_by_hand() -> None:
    denoiser = Scripted(favouring([3, 4, 5, 3]), prompt_length=2)
    env = UnmaskEnv(denoiser=denoiser, task=Copying(), block_length=2, alpha=1.0)
    observation, info = env.reset(seed=0)
    assert info == {"nfe": 1, "step": 0, "ignored": 0, "problem": info["problem"]}
    assert observation["selectable"].tolist() == [1, 1, 0, 0]
    top = float(np.exp(5) / (np.exp(5) + 4))  # V = 6, the mask excluded
    np.testing.assert_allclose(observation["confidence"], [top] * 4, rtol=1e-6)

    observation, reward, terminated, truncated, info = env.step(np.array([1, 0, 1, 0]))
    assert (reward, terminated, truncated) == (0.0, False, False)
    assert (info["nfe"], info["step"], info["ignored"]) == (2, 1, 1)
    assert observation["masked"].tolist() == [0, 1, 1, 1]
    np.testing.assert_allclose(observation["confidence"], [0, top, top, top], rtol=1e-6)
    assert observation["progress"].tolist() == [0.25]

    assert env.step(np.zeros(4))[4]["nfe"] == 2
    assert env.step(np.array([0, 1, 0, 0]))[4]["nfe"] == 3
    observation, reward, terminated, truncated, info = env.step(np.array([0, 0, 1, 1]))
    assert (terminated, truncated) == (True, False)
    assert reward == (4 - 3 + 1) / 4
    assert (info["nfe"], info["correct"], info["is_success"], info["response"]) == (3, 1.0, True, "3 4 5 3")
    assert not observation["confidence"].any()
    assert denoiser.rows_per_call == [1, 1, 1]
    with pytest.raises(gymnasium.error.ResetNeeded):
        env.step(np.ones(4))


def test_the_final_observation_of_a_truncated_row_costs_nothing() -> None:
    denoiser = Scripted(favouring([3, 4, 5, 3]), prompt_length=2)
    env = UnmaskEnv(denoiser=denoiser, task=Copying(), max_steps=1, render_mode="ansi")
    env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(np.array([1, 1, 1, 0]))
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert (info["nfe"], info["correct"], info["is_success"]) == (1, 0.0, False)
    assert observation["confidence"][3] > 0.9
    assert "1 denoiser evaluations" in str(env.render())


def test_one_denoiser_call_per_step_for_the_rows_that_need_one(counting: CountingDenoiser) -> None:
    envs = UnmaskVectorEnv(4, denoiser=counting, response_length=8, max_steps=3)
    counting.rows_per_call = []
    envs.reset(seed=0)
    nothing, everything = np.zeros(8, np.int8), np.ones(8, np.int8)
    first = np.eye(8, dtype=np.int8)[0]
    envs.step(np.stack([nothing, first, nothing, everything]))
    assert counting.rows_per_call == [4, 2]  # row 1 moved on, row 3 ended and began anew
    _, _, _, _, infos = envs.step(np.stack([nothing] * 4))
    assert counting.rows_per_call == [4, 2]
    assert envs.denoiser_calls == 2
    assert infos["nfe"].tolist() == [1, 2, 1, 1]
    _, _, terminated, truncated, infos = envs.step(np.stack([nothing, np.eye(8, dtype=np.int8)[1], first, nothing]))
    assert (terminated.any(), truncated.tolist()) == (False, [True, True, True, False])
    # Three new rows, and the final observations of rows 1 and 2, whose predictions are out of date.
    assert counting.rows_per_call == [4, 2, 5]
    assert envs.denoiser_calls == 3
    assert infos["final_info"]["nfe"].tolist() == [1, 2, 1, 0]
    assert infos["_final_info"].tolist() == infos["_final_obs"].tolist() == [True, True, True, False]
    assert infos["nfe"].tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize("vector", [False, True])
def test_results_are_copies(vector: bool, toy: TinyDenoiser) -> None:
    make = partial(UnmaskVectorEnv, 2) if vector else UnmaskEnv
    env, twin = (make(denoiser=toy, response_length=8) for _ in range(2))
    action = env.action_space.sample() * 0
    for result in (env.reset(seed=1), env.step(action), env.step(action)):
        for values in result[0].values():
            values[:] = 1
        if vector:
            result[-1]["nfe"][:] = 99
    twin.reset(seed=1)
    twin.step(action)
    twin.step(action)
    action[..., 0] = 1
    assert same(env.step(action), twin.step(action))


def test_rendering(toy: TinyDenoiser) -> None:
    denoiser = Scripted(favouring([3, 4, 5, 3]), prompt_length=2)
    env = UnmaskEnv(denoiser=denoiser, task=Copying(), block_length=2, render_mode="ansi")
    env.reset(seed=0)
    env.step(np.array([0, 1, 0, 0]))
    assert env.render() == "3 4\n[▁ 4] ▁ ▁\nstep 1, 2 denoiser evaluations\n"
    envs = gymnasium.make_vec(dllm_env.ENVIRONMENT, num_envs=2, denoiser=toy, render_mode="ansi")
    envs.reset(seed=0)
    texts = envs.render()
    assert isinstance(texts, tuple)
    assert [text.count("▁") for text in texts] == [40, 40]


def frames(env: UnmaskEnv, episodes: int) -> list[np.ndarray]:
    """Pictures of whole episodes in which one position after the other is unmasked."""
    out, width = [], env.action_space.sample().size
    for seed in range(episodes):
        env.reset(seed=seed)
        out.append(env.render())
        for position in range(width):
            env.step(np.eye(width, dtype=np.int8)[position])
            out.append(env.render())
    assert all(isinstance(frame, np.ndarray) for frame in out)
    return out  # type: ignore[return-value]


def test_pictures_are_of_one_size_and_show_each_step() -> None:
    class ManyWords(Copying):
        """Prompts of one word, two words, …: a denoiser's prompts have a length, a picture has to fit them all."""

        prompt_length = 400

        def problem(self, index: int, split: str = "train", seed: int = 0) -> Problem:
            return Problem(self.name, "train", seed, index, " ".join(["3"] * (1 + index % 400)), ("3 4 5 3",))

    denoiser = Scripted(favouring([3, 4, 5, 3]), prompt_length=400)
    env = UnmaskEnv(denoiser=denoiser, task=ManyWords(), block_length=2, render_mode="rgb_array")
    shown = frames(env, 6)
    assert len({frame.shape for frame in shown}) == 1
    height, width, channels = shown[0].shape
    assert (height % 16, width % 16, channels) == (0, 0, 3)
    assert {frame.dtype for frame in shown} == {np.dtype(np.uint8)}
    assert all(not np.array_equal(a, b) for a, b in pairwise(shown))


def test_a_picture_by_hand() -> None:
    """Cells are 80 by 16 pixels below six lines of prompt; their top edge shows their colour."""
    drawing = Drawing("p", ["a", "", "", ""], [False, True, True, True], range(0, 2), "step 1")
    picture = as_picture(drawing)
    assert picture.shape == (6 * 16 + 16 + 32, 640, 3)
    assert [tuple(picture[96, 80 * cell + 40].tolist()) for cell in range(5)] == [
        WRITTEN,
        ACTIVE,
        WAITING,
        WAITING,
        BACKGROUND,
    ]
    assert as_text(drawing) == "p\n[a ▁] ▁ ▁\nstep 1\n"


@pytest.mark.parametrize("text", ["\n", "\t\x00\x1b[31m", "x" * 10_000, "漢字", "🙂", "\u202e", ""])
def test_any_text_can_be_drawn(text: str) -> None:
    plain = as_picture(Drawing("p", ["a"] * 9, [False] * 9, range(0), "step"))
    drawn = as_picture(Drawing(text, [text] * 9, [False] * 9, range(0), text[:200]))
    assert drawn.shape == plain.shape
    # Nothing leaves its cell: the gaps between cells, one pixel wide, stay white.
    assert (drawn[96:112, 79] == 255).all()


def test_rows_are_drawn_as_alone(toy: TinyDenoiser) -> None:
    arguments = {"denoiser": toy, "response_length": 8, "render_mode": "rgb_array"}
    envs = UnmaskVectorEnv(2, **arguments)
    envs.reset(seed=5)
    drawn = envs.render()
    assert isinstance(drawn, tuple)
    for row, picture in enumerate(drawn):
        env = UnmaskEnv(**arguments)
        env.reset(seed=5 + row)
        assert np.array_equal(picture, env.render())


@pytest.mark.parametrize("vector", [False, True])
def test_human_rendering_prints_every_step(vector: bool, toy: TinyDenoiser, capsys: Any) -> None:
    make = partial(UnmaskVectorEnv, 2) if vector else UnmaskEnv
    env = make(denoiser=toy, response_length=8, render_mode="human")
    rows = 2 if vector else 1
    env.reset(seed=0)
    assert capsys.readouterr().out.count("step 0") == rows
    env.step(np.eye(rows, 8, dtype=np.int8))
    assert capsys.readouterr().out.count("step 1") == rows
    assert env.render() is None
    assert capsys.readouterr().out.count("step 1") == rows


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_gymnasium_vectorizes_it_with_pictures(mode: str, toy_folder: Any) -> None:
    given = {"denoiser": str(toy_folder), "response_length": 8, "render_mode": "rgb_array"}
    envs = gymnasium.make_vec(dllm_env.ENVIRONMENT, 2, vectorization_mode=mode, **given)
    envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    assert [picture.shape for picture in envs.render()] == [(144, 640, 3)] * 2  # type: ignore[union-attr]
    envs.close()


def test_forked_environments_do_not_wait_for_their_parents_threads(toy_folder: Any) -> None:
    code = f"""if True:
        import dllm_env, gymnasium, torch
        torch.set_num_threads(4)
        torch.rand(2000, 200) @ torch.rand(200, 2000)
        torch.rand(1000, 1000).softmax(-1)
        envs = gymnasium.make_vec({dllm_env.ENVIRONMENT!r}, 2, vectorization_mode="async",
                                  vector_kwargs={{"context": "fork"}}, denoiser={str(toy_folder)!r})
        envs.reset(seed=0)
        envs.step(envs.action_space.sample())
        envs.close()"""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, env=environment)


@pytest.mark.parametrize("mode", [None, "ansi", "rgb_array", "rgb_array_list"])
def test_made_environments_are_made_again_from_their_spec(mode: str | None, toy: TinyDenoiser) -> None:
    env = gymnasium.make(dllm_env.ENVIRONMENT, denoiser=toy, response_length=8, render_mode=mode)
    assert env.spec is not None
    again = gymnasium.make(env.spec)
    copy = cloudpickle.loads(cloudpickle.dumps(env))
    assert same(env.reset(seed=1), again.reset(seed=1))
    assert same(again.reset(), (copy.reset(seed=1), copy.reset())[1])
    if mode is not None:
        assert same(again.render(), copy.render()) or mode == "rgb_array_list"
        assert again.render_mode == copy.render_mode == mode


@pytest.mark.parametrize(
    "settings",
    [
        {"denoiser": "no-such-denoiser"},
        {"task": "no-such-task"},
        {"task": 3},
        {"task": "trace:chains=9"},
        {"split": "training"},
        {"block_length": 7},
        {"block_length": 8.0},
        {"response_length": 1000},
        {"alpha": -1},
        {"alpha": "high"},
        {"reward": "shaped"},
        {"context": "window"},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"max_steps": -1},
        {"top": 0},
        {"top": 10_000},
        {"extras": ("colour",)},
        {"extras": "entropy"},
        {"seed": None},
        {"render_mode": "depth_array"},
        {"blok_length": 8},
    ],
    ids=str,
)
@pytest.mark.parametrize("vector", [False, True])
def test_bad_settings_are_refused_in_one_line(vector: bool, settings: dict[str, Any], toy: TinyDenoiser) -> None:
    make = partial(UnmaskVectorEnv, 2) if vector else UnmaskEnv
    with pytest.raises(UsageError) as caught:
        make(**{"denoiser": toy, **settings})
    assert "\n" not in str(caught.value)


def test_other_bad_input_is_refused(toy: TinyDenoiser) -> None:
    for count in (0, True, 1.5):
        with pytest.raises(UsageError, match="num_envs"):
            UnmaskVectorEnv(count, denoiser=toy)  # type: ignore[arg-type]
    env, envs = UnmaskEnv(denoiser=toy), UnmaskVectorEnv(2, denoiser=toy)
    for one in (env, envs):
        with pytest.raises(gymnasium.error.ResetNeeded):
            one.step(one.action_space.sample())
        with pytest.raises(UsageError, match="no option"):
            one.reset(options={"problm": 1})
        with pytest.raises(UsageError, match="problem must be"):
            one.reset(options={"problem": -1})
    with pytest.raises(UsageError, match="seed must be one"):
        envs.reset(seed=[1, 2, 3])
    env.reset(seed=0)
    with pytest.raises(UsageError, match="40 entries"):
        env.step(np.ones(8))


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint8, np.int64, np.uint64, np.float16, np.float32, np.float64])
def test_zeros_and_ones_of_any_kind_are_actions(kind: type, toy: TinyDenoiser) -> None:
    env, envs = UnmaskEnv(denoiser=toy), UnmaskVectorEnv(2, denoiser=toy)
    env.reset(seed=0)
    envs.reset(seed=0)
    action = np.arange(40) < 3
    assert env.step(action.astype(kind))[4]["step"] == 1
    assert env.game.actions(action.astype(kind).tolist(), 1).tolist() == [action.tolist()]
    assert env.game.actions(torch.tensor(action.astype(np.float32)).bfloat16(), 1).tolist() == [action.tolist()]
    assert envs.step(np.stack([action] * 2).astype(kind))[4]["step"].tolist() == [1, 1]


@pytest.mark.parametrize("wrong", [float("nan"), -1, 2, 0.5, float("inf"), -float("inf"), 1e30, 255], ids=str)
def test_other_entries_are_refused(wrong: float, toy: TinyDenoiser) -> None:
    env, envs = UnmaskEnv(denoiser=toy), UnmaskVectorEnv(2, denoiser=toy)
    env.reset(seed=0)
    envs.reset(seed=0)
    action = np.zeros((2, 40), dtype=np.int64 if isinstance(wrong, int) else np.float64)
    action[1, 7] = wrong
    with pytest.raises(UsageError, match="in row 0 at 7"):
        env.step(action[1])
    with pytest.raises(UsageError, match="in row 1 at 7"):
        envs.step(action)
    with pytest.raises(UsageError, match="in row 1 at 7"):
        envs.step(torch.tensor(action))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("action", "message"),
    [
        (np.zeros((40, 2)), "got shape"),
        (np.zeros(80), "got shape"),
        (np.zeros((2, 40, 1)), "got shape"),
        (1, "got shape"),
        (None, "got shape"),
        (np.full((2, 40), "1"), "got the type"),
        (np.full((2, 40), None), "got the type"),
        (np.zeros((2, 40), dtype=complex), "got the type"),
        ([[0] * 40, [0] * 39], "got list"),
    ],
    ids=str,
)
def test_what_is_no_action_is_refused(action: Any, message: str, toy: TinyDenoiser) -> None:
    envs = UnmaskVectorEnv(2, denoiser=toy)
    envs.reset(seed=0)
    with pytest.raises(UsageError, match=message):
        envs.step(action)


def test_an_unknown_word_is_refused_at_construction() -> None:
    class Foreign(Copying):
        def problem(self, index: int, split: str = "train", seed: int = 0) -> Problem:
            return Problem("foreign", "train", seed, index, "bonjour", ())

    from conftest import toy_denoiser

    with pytest.raises(UsageError, match="bonjour"):
        UnmaskEnv(denoiser=toy_denoiser(), task=Foreign())


def test_a_config_object_and_settings_are_the_same(toy: TinyDenoiser) -> None:
    config = EnvConfig(denoiser=toy, block_length=8)
    assert same(UnmaskEnv(config).reset(seed=2), UnmaskEnv(denoiser=toy, block_length=8).reset(seed=2))
    assert Game(EnvConfig.build(config, {"top": 2})).view.top == 2


def test_stable_baselines_trains_on_it(toy: TinyDenoiser) -> None:
    from stable_baselines3 import PPO

    env = gymnasium.make(dllm_env.ENVIRONMENT, denoiser=toy, response_length=8)
    model = PPO("MultiInputPolicy", env, n_steps=16, batch_size=16, n_epochs=1, device="cpu", seed=0)
    before = torch.cat([p.detach().flatten().clone() for p in model.policy.parameters()])
    model.learn(16)
    assert not torch.equal(before, torch.cat([p.detach().flatten() for p in model.policy.parameters()]))


@pytest.mark.parametrize("first", ["dllm_env", "gymnasium", "gymnasium.envs.registration"])
def test_gymnasium_knows_the_environment_whichever_is_imported_first(first: str) -> None:
    then = "gymnasium" if first == "dllm_env" else "dllm_env"
    code = f"import {first}, sys; early = 'gymnasium' in sys.modules; import {then}\n"
    code += f"import gymnasium, dllm_env; assert early == ({first!r} != 'dllm_env'), early\n"
    code += "assert 'torch' not in sys.modules; print(gymnasium.spec(dllm_env.ENVIRONMENT).entry_point)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.stdout.strip() == "dllm_env.env:UnmaskEnv", found.stderr
