"""The environment and the policy for Stable-Baselines3, with what its users expect to work."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import CountingDenoiser, toy_denoiser
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, SubprocVecEnv, VecMonitor, VecNormalize

import dllm_env
from dllm_env.env import UnmaskEnv
from dllm_env.errors import UsageError
from dllm_env.policies.learned import load_policy
from dllm_env.policies.networks import READ_TOKENS, USUAL_SIGHT
from dllm_env.policies.rollout import rollout
from dllm_env.train.sb3 import UnmaskPolicy, UnmaskVecEnv
from dllm_env.vector_env import UnmaskVectorEnv

HEADS = ["bernoulli", "plackett_luce:k=2", "dynamic_plackett_luce"]
SMALL = {"width": 16, "bias": 0.0}
BATCH: dict[type, dict[str, int]] = {PPO: {"batch_size": 8, "n_epochs": 1}, A2C: {}}


def rows(count: int = 4, **settings: object) -> UnmaskVecEnv:
    given = {"denoiser": toy_denoiser(), "task": "trace:chains=1", "block_length": 5, "reward": "additive"}
    given |= settings
    return UnmaskVecEnv(UnmaskVectorEnv(count, **given))  # type: ignore[arg-type]


def test_rows_are_those_of_the_vector_environment() -> None:
    """Same observations, rewards and ends; the last observation of an ended row is in its info."""
    adapted, plain = rows(), rows().envs
    adapted.seed(7)
    observation = adapted.reset()
    expected, _ = plain.reset(seed=[7, 8, 9, 10])
    generator = np.random.default_rng(0)
    ends = 0
    for _ in range(60):
        for name, values in expected.items():
            assert np.array_equal(observation[name], values)
        action = generator.integers(0, 3, size=(4, 20))
        observation, reward, done, infos = adapted.step(action)
        expected, rewards, terminated, truncated, columns = plain.step(action > 0)
        assert np.array_equal(done, terminated | truncated)
        assert np.allclose(reward, rewards)
        for row in done.nonzero()[0]:
            ends += 1
            assert not infos[row]["TimeLimit.truncated"]
            for name, values in columns["final_obs"][row].items():
                assert np.array_equal(infos[row]["terminal_observation"][name], values)
            for name in ("nfe", "step", "correct", "response"):
                assert infos[row][name] == columns["final_info"][name][row]
        for row in (~done).nonzero()[0]:
            assert infos[row]["nfe"] == columns["nfe"][row]
            assert "terminal_observation" not in infos[row]
    assert ends > 4


def test_a_step_is_one_denoiser_call() -> None:
    denoiser = toy_denoiser(CountingDenoiser)
    environment = rows(8, denoiser=denoiser)
    environment.reset()
    before = len(denoiser.rows_per_call)  # type: ignore[attr-defined]
    for _ in range(5):
        environment.step(np.ones((8, 20), dtype=np.int64))
    assert len(denoiser.rows_per_call) - before == 5  # type: ignore[attr-defined]


@pytest.mark.parametrize("network", ["confidence", "hidden"])
@pytest.mark.parametrize("head", HEADS)
def test_acting_and_scoring_agree(head: str, network: str) -> None:
    environment = rows(6, extras=("hidden",) if network == "hidden" else ("token", "ends"))
    model = PPO("UnmaskPolicy", environment, policy_kwargs={**SMALL, "head": head, "network": network}, seed=0)
    seen, _ = model.policy.obs_to_tensor(environment.reset())
    draw, values, log_prob = model.policy(seen)
    again, scored, entropy = model.policy.evaluate_actions(seen, draw.float())
    assert torch.allclose(scored, log_prob)
    assert torch.allclose(values, again)
    assert entropy.shape == (6,)
    assert torch.isfinite(entropy).all()
    action, _ = model.predict(environment.reset(), deterministic=True)
    assert action.shape == (6, 20)


def test_by_default_a_policy_sees_what_the_observation_has() -> None:
    reads = [name for name in USUAL_SIGHT if name not in READ_TOKENS]
    for extras, expected in (((), reads), (("token",), reads), (("token", "ends"), list(USUAL_SIGHT))):
        environment = rows(2, extras=extras)
        policy = PPO("UnmaskPolicy", environment, policy_kwargs=SMALL).policy
        assert list(policy.shape.sight) == expected
        if "ends" in extras:
            seen = policy.observation(policy.obs_to_tensor(environment.reset())[0])
            ends = torch.tensor(environment.envs.game.denoiser.end_ids)
            assert seen.token is not None
            assert seen.ends is not None
            assert seen.token.shape == seen.ends.shape == seen.masked.shape
            assert seen.token.dtype == torch.int64
            assert torch.equal(seen.ends, torch.isin(seen.token, ends))


@pytest.mark.filterwarnings("ignore:rich is experimental")  # tqdm's, on progress_bar=True
@pytest.mark.parametrize("head", HEADS)
def test_what_users_of_stable_baselines_expect(head: str, tmp_path: Path) -> None:
    train, test = VecMonitor(rows()), VecMonitor(rows(split="validation"))
    model = PPO(
        *("UnmaskPolicy", train),
        n_steps=8,
        batch_size=16,
        n_epochs=1,
        seed=1,
        policy_kwargs={**SMALL, "head": head},
        tensorboard_log=str(tmp_path / "board"),
    )
    callbacks = [
        EvalCallback(test, n_eval_episodes=4, eval_freq=16, log_path=str(tmp_path), verbose=0),
        CheckpointCallback(16, str(tmp_path / "checkpoints")),
    ]
    before = [parameter.clone() for parameter in model.policy.parameters()]
    model.learn(200, callback=callbacks, progress_bar=True)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.policy.parameters(), strict=True))
    assert len(model.ep_info_buffer) > 0  # type: ignore[arg-type]
    assert list((tmp_path / "board").rglob("events.out.tfevents.*"))
    assert (tmp_path / "evaluations.npz").is_file()
    reward, _ = evaluate_policy(model, test, n_eval_episodes=4, deterministic=False)
    assert -1 <= reward <= 1  # type: ignore[operator]

    saved = sorted((tmp_path / "checkpoints").glob("*.zip"))
    loaded = PPO.load(saved[-1], env=train)
    assert isinstance(loaded.policy, UnmaskPolicy)
    assert loaded.policy.settings["head"] == head
    loaded.learn(40, reset_num_timesteps=False)


def test_on_single_environments(tmp_path: Path) -> None:
    environment = make_vec_env(
        UnmaskEnv, n_envs=2, seed=0, env_kwargs={"denoiser": toy_denoiser(), "task": "trace:chains=1"}
    )
    kwargs = {**SMALL, "head": "dynamic_plackett_luce"}
    model = PPO("UnmaskPolicy", environment, n_steps=8, batch_size=8, n_epochs=1, policy_kwargs=kwargs)
    model.learn(32)


@pytest.mark.parametrize("wrong", [float("nan"), -1, 0.5, 21])
def test_other_than_ranks_are_refused(wrong: float) -> None:
    adapted = rows()
    adapted.reset()
    action = np.zeros((4, 20))
    action[2, 3] = wrong
    with pytest.raises(UsageError, match=r"whole numbers from 0 to 20, got .* in row 2 at 3"):
        adapted.step(action)


@pytest.mark.parametrize("algorithm", [PPO, A2C])
@pytest.mark.parametrize("policy", ["UnmaskPolicy", "MultiInputPolicy"])
def test_by_name_alone(algorithm: type[PPO | A2C], policy: str) -> None:
    model = algorithm(policy, dllm_env.ENVIRONMENT, n_steps=8, device="cpu", **BATCH[algorithm])
    model.learn(8)
    picture = model.get_env().render()
    assert isinstance(picture, np.ndarray)


@pytest.mark.parametrize("processes", [False, True])
def test_environments_made_by_name(processes: bool, toy_folder: Path) -> None:
    given = {"denoiser": str(toy_folder), "task": "trace:chains=1"}
    # Processes that start afresh know the environment only if its name says where it is from.
    name = f"dllm_env:{dllm_env.ENVIRONMENT}" if processes else dllm_env.ENVIRONMENT
    kind = SubprocVecEnv if processes else DummyVecEnv
    environment = make_vec_env(name, n_envs=2, seed=0, env_kwargs=given, vec_env_cls=kind)
    environment = VecNormalize(environment, norm_obs=False)
    environment.reset()
    assert [picture.shape for picture in environment.get_images()] == [(176, 640, 3)] * 2  # type: ignore[union-attr]
    PPO("UnmaskPolicy", environment, n_steps=8, batch_size=8, n_epochs=1, policy_kwargs=SMALL).learn(16)
    environment.close()


def test_pictures_of_all_rows() -> None:
    environment = VecMonitor(rows(4, render_mode="rgb_array"))
    environment.reset()
    images = environment.get_images()
    assert [image.shape for image in images] == [(176, 640, 3)] * 4  # type: ignore[union-attr]
    tiled = environment.render("rgb_array")
    assert tiled is not None
    assert tiled.shape == (2 * 176, 2 * 640, 3)
    assert environment.unwrapped.metadata["render_fps"] == 4
    assert len(rows(4, render_mode="ansi").envs.metadata["render_modes"]) == 3


def test_texts_of_all_rows() -> None:
    environment = rows(3, render_mode="ansi")
    environment.reset()
    assert [text.count("▁") for text in environment.render()] == [20, 20, 20]


def test_a_trained_policy_works_without_stable_baselines(tmp_path: Path) -> None:
    environment = rows()
    model = PPO("UnmaskPolicy", environment, policy_kwargs={**SMALL, "head": "dynamic_plackett_luce"})
    assert isinstance(model.policy, UnmaskPolicy)
    model.policy.learned().save_pretrained(tmp_path / "policy")
    game = environment.envs.game
    prompts = [game.denoiser.encode(game.task.problem(i).prompt) for i in range(3)]
    result = rollout(game.denoiser, load_policy(str(tmp_path / "policy")), game.rules, prompts, [1, 2, 3])
    assert result.finished.all()


def test_a_network_that_reads_hidden_states_needs_them() -> None:
    with pytest.raises(UsageError, match=r"make the environment with extras="):
        PPO("UnmaskPolicy", rows(), policy_kwargs={"network": "hidden"})


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"head": "plackett_luce:k=0"}, "k must be"),
        ({"head": "softmax"}, "unknown head"),
        ({"network": "mamba"}, "unknown network"),
        ({"width": 15}, "even multiple"),
    ],
)
def test_what_cannot_work_is_refused(kwargs: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        PPO("UnmaskPolicy", rows(), policy_kwargs=kwargs)


def test_another_environment_is_refused() -> None:
    with pytest.raises(UsageError, match="'confidence' is missing"):
        PPO("UnmaskPolicy", "CartPole-v1")


def test_one_environment_for_all_rows() -> None:
    environment = rows()
    assert environment.get_attr("num_envs") == [4] * 4
    assert environment.env_is_wrapped(VecMonitor, [0, 1]) == [False, False]
    with pytest.raises(UsageError, match="share one environment"):
        environment.set_attr("render_mode", "ansi", 0)
    with pytest.raises(UsageError, match="share one environment"):
        environment.env_method("reset")


def test_the_example_runs(tmp_path: Path) -> None:
    path = Path(__file__).parent.parent / "examples" / "sb3_ppo.py"
    assert len(path.read_text().splitlines()) < 40
    runpy.run_path(str(path))["main"](1024, str(tmp_path / "out"))
    assert (tmp_path / "out" / "policy" / "policy.json").is_file()


@pytest.mark.parametrize("order", [("dllm_env", "stable_baselines3"), ("stable_baselines3", "dllm_env")])
def test_importing_the_package_is_enough(order: tuple[str, str]) -> None:
    """As the README says; and it loads neither torch nor Stable-Baselines3 before the user does."""
    script = f"""if True:
        import sys, gymnasium
        import {order[0]}
        assert {order[0]!r} != "dllm_env" or not {{"torch", "stable_baselines3"}} & set(sys.modules)
        import {order[1]}
        from stable_baselines3 import PPO
        env = gymnasium.make("dllm_env/Unmask-v0", denoiser="tiny", task="trace", block_length=8)
        print(type(PPO("UnmaskPolicy", env, n_steps=2, batch_size=2).policy).__name__)"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True)
    assert done.stdout == "UnmaskPolicy\n", done.stderr
