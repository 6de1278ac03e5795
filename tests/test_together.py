"""Several processes that work together: simulated by threads, and as ``torchrun`` starts them."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Scripted, toy_denoiser
from worlds import together

from dllm_env.cli import main
from dllm_env.denoisers.load import load_denoiser
from dllm_env.dynamics import Dynamics, Observation, Wishes
from dllm_env.errors import LogitsError, UsageError
from dllm_env.policies.base import Policy
from dllm_env.policies.heads import Bernoulli
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.networks import NetworkConfig, make_network
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Attempt, attempt, row_seeds
from dllm_env.random import torch_generator
from dllm_env.rewards import load_rewards
from dllm_env.rules import Rules
from dllm_env.tasks.load import load_task
from dllm_env.train import grpo, setup
from dllm_env.train.grpo import GRPO
from dllm_env.train.setup import Setup
from dllm_env.world import ALONE, World, rank_of_process, size_of_world

pytest.importorskip("accelerate")


# ----------------------------------------------------------------------------------------------- shares


def test_shares_are_all_rows_once_and_neighbours_stay_together() -> None:
    for size in (1, 2, 3, 5):
        for count in (0, 1, 7, 12):
            for group in (1, 4):
                shares = [World(rank, size).share(count, group) for rank in range(size)]
                assert sorted(row for share in shares for row in share) == list(range(count))
                for share in shares:
                    whole = {row // group for row in share}
                    assert all(row in share for row in range(count) if row // group in whole)


def test_what_processes_are_told_of() -> None:
    assert together(3, lambda world: world.gather(world.rank)) == [[0, 1, 2]] * 3
    assert together(3, lambda world: world.told(world.rank + 7)) == [7] * 3
    joined = together(2, lambda world: world.joined([torch.full((2 - world.rank,), world.rank + 1.0)]).tolist())
    assert joined == [[1.0, 1.0, 2.0]] * 2
    assert ALONE.joined([]).tolist() == []


@pytest.mark.parametrize(("known", "size", "rank"), [({}, 1, 0), ({"WORLD_SIZE": "3"}, 1, 0)])
def test_who_is_alone(monkeypatch, known, size, rank) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in known.items():
        monkeypatch.setenv(name, value)
    assert (size_of_world(), rank_of_process()) == (size, rank)
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("RANK", "2")
    assert (size_of_world(), rank_of_process()) == (3, 2)


# --------------------------------------------------------------------------------------------- rollouts


def policy_of(kind: str) -> Policy:
    if kind == "rule":
        return load_heuristic("random:3")
    network = make_network("confidence", NetworkConfig(width=16, heads=2), torch_generator("test"), 0)
    return LearnedPolicy(
        network.eval(), Bernoulli(bias=-1.0) if "bias" in Bernoulli.__annotations__ else Bernoulli()
    )


@pytest.mark.parametrize("kind", ["rule", "learned"])
@pytest.mark.parametrize("size", [2, 4, 7])
def test_rows_that_are_shared_are_as_those_of_one(kind: str, size: int) -> None:
    """Also with more processes than groups; each has the whole outcome, and all steps once they are gathered."""
    denoiser, task, policy = load_denoiser("tiny"), load_task("trace"), policy_of(kind)
    problems = [task.problem(i // 2, "train", 0) for i in range(10)]
    seeds = row_seeds(10, "together")
    wishes = Wishes(torch.linspace(0.1, 1, 10), torch.arange(10) % 3 + 4)
    known = (denoiser, policy, Rules(task.response_length), task, problems, seeds)
    memory, rewards = {"mine": torch.arange(10)}, load_rewards("multiplicative")

    def play(world: World) -> tuple[Attempt, Any]:
        setup = Setup(task, denoiser, rewards, known[2], policy, [], batch_size=3, world=world)  # type: ignore[arg-type]
        more = {"wishes": wishes, "memory": memory, "record": True, "together": 2}
        found = setup.attempt(policy, problems, seeds, own_steps=True, **more)
        whole = setup.attempt(policy, problems, seeds, **more)
        return found, whole.rollout.trajectories

    alone = attempt(*known, wishes=wishes, memory=memory, batch_size=4, record=True)
    for found, steps in together(size, play):
        assert found.texts == alone.texts
        assert torch.equal(found.correct, alone.correct)
        for column in fields(alone.rollout):
            value = getattr(alone.rollout, column.name)
            if isinstance(value, torch.Tensor):
                assert torch.equal(getattr(found.rollout, column.name), value), column.name
        wanted = alone.rollout.trajectories
        for name in ("row", "draw", "log_prob", "entropy"):
            assert torch.equal(getattr(steps, name), getattr(wanted, name)), name
        for column in fields(Observation):
            one, other = getattr(steps.observation, column.name), getattr(wanted.observation, column.name)
            assert (one is None and other is None) or column.name == "memory" or torch.equal(one, other), (
                column.name
            )


# --------------------------------------------------------------------------------------------- commands


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def words(processes: int, *arguments: str) -> list[str]:
    """A command under ``torchrun``."""
    begin = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    return [*begin, "-m", "dllm_env", "--", *arguments]


def start(processes: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The same, run; each process has one thread."""
    command = words(processes, *arguments)
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)


def alone(*arguments: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(list(arguments)) == 0
    finally:
        torch.set_num_threads(before)


SMALL = [
    *("--prompts", "3", "--num-generations", "4", "--width", "8", "--batch-size", "16", "--updates", "3"),
    *("--validation-problems", "4", "--validation-rules", "leftmost:4", "--evaluate-every", "2"),
    *("--imitation-problems", "6", "--imitation-steps", "5", "--imitation-batch-size", "8", "--bias", "0"),
]


def bits(run: Path) -> bytes:
    return (run / "checkpoint.safetensors").read_bytes()


@pytest.mark.parametrize("processes", [2, 4])
def test_weights_are_those_of_one_process_bit_for_bit(processes: int, tmp_path: Path) -> None:
    """From the start to the curve at the end; there have to be as many prompts as processes."""
    arguments = ["train", "grpo", "--preset", "demo", *SMALL[2:], "--prompts", str(processes + 1)]
    arguments += ["--reward", "additive"]  # of which there is some also where nothing is right yet
    if processes > 2:
        arguments += ["--start", "none", "--updates", "2"]
    alone(*arguments, "--out", str(tmp_path / "one"))
    done = start(processes, *arguments, "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("policy:") == 1  # one of them prints
    assert bits(tmp_path / "two") == bits(tmp_path / "one")
    for name in ("best", "last"):
        for file in sorted((tmp_path / "one" / name).iterdir()):
            if file.suffix == ".safetensors":
                assert (tmp_path / "two" / name / file.name).read_bytes() == file.read_bytes()
    curves = [json.loads((tmp_path / run / "best" / "policy.json").read_text())["curve"] for run in ("one", "two")]
    assert curves[0] == curves[1]
    assert not list(tmp_path.glob("two/process-*"))


@pytest.mark.parametrize("backend", ["static", "c10d"])
def test_two_nodes_have_the_weights_of_one_process_bit_for_bit(backend: str, tmp_path: Path) -> None:
    """Two of ``torchrun``, each told that it is a node of two, find each other by an address of this machine."""
    few = ["--start", "none", "--reward", "additive", "--updates", "2"]
    arguments = ["train", "grpo", "--preset", "demo", *SMALL[2:], "--prompts", "3", *few]
    alone(*arguments, "--out", str(tmp_path / "one"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    begin = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    meet = ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{port}", "--local-addr", "127.0.0.1"]
    nodes = []
    for rank in ("0", "1"):
        if backend == "static":
            meet = ["--node-rank", rank, "--master-addr", "127.0.0.1", "--master-port", port]
        words = [*begin, *meet, "-m", "dllm_env", "--", *arguments, "--out", str(tmp_path / "two")]
        log = (tmp_path / rank).open("w", encoding="utf-8")
        nodes.append(subprocess.Popen(words, stdout=log, stderr=log, env=ENVIRONMENT))
        log.close()
    try:
        ended = [node.wait(300) for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    said = [(tmp_path / rank).read_text(encoding="utf-8") for rank in ("0", "1")]
    assert ended == [0, 0], said
    assert sum(one.count("policy:") for one in said) == 1
    assert bits(tmp_path / "two") == bits(tmp_path / "one")
    assert steps_of(tmp_path / "two") == steps_of(tmp_path / "one")


def test_weights_of_2_and_4_processes_are_those_of_one(toy_folder: Path, monkeypatch, tmp_path: Path) -> None:
    """By threads, after each of two updates that both learn something; of 4 three have but one prompt."""
    here = threading.local()
    for module in (grpo, setup):
        monkeypatch.setattr(module, "this_world", lambda: getattr(here, "world", ALONE))
    short = {"imitation_steps": 0, "validation_problems": 1, "validation_rules": (), "start": "none", "bias": 0.0}
    settings = GRPO().changed(
        **{"task": "trace:chains=1", "denoiser": str(toy_folder), "prompts": 5, "num_generations": 2, "width": 8},
        **{"reward": ("additive",), "updates": 2, **short},
    )

    def train(world: World) -> None:
        here.world = world
        grpo.train_grpo(settings, tmp_path / str(world.size))

    train(ALONE)
    wanted = steps_of(tmp_path / "1")
    assert len(wanted) == len(set(wanted)) == 2
    assert all(float(norm) > 0 for norm, _ in wanted)
    for size in (2, 4):
        together(size, train)
        assert bits(tmp_path / str(size)) == bits(tmp_path / "1")
        assert steps_of(tmp_path / str(size)) == wanted


def steps_of(run: Path) -> list[tuple[str, str]]:
    """Norm of the gradient and divergence of each update, to the last digit."""
    rows = csv.DictReader((run / "logs" / "progress.csv").read_text().splitlines())
    return [(row["train/gradient_norm"], row["train/approximate_kl"]) for row in rows]


@pytest.mark.parametrize("command", ["train", "eval"])
def test_accelerate_starts_processes_as_torchrun_does(command: str, tmp_path: Path) -> None:
    few = ["--prompts", "2", "--num-generations", "2", "--updates", "1", "--start", "none", "--reward", "additive"]
    arguments = ["train", "grpo", *few, "--validation-problems", "1", "--validation-rules", "leftmost:4"]
    if command == "eval":
        arguments = ["eval", "--policies", "leftmost:4", "--problems", "6", "--batch-size", "1", "--workers", "1"]
    alone(*arguments, "--out", str(tmp_path / "one"))
    begin = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    words = [*begin, "-m", "dllm_env", *arguments, "--out", str(tmp_path / "two")]
    done = subprocess.run(words, capture_output=True, text=True, env=ENVIRONMENT, timeout=300)
    assert done.returncode == 0, done.stderr
    compared = bits if command == "train" else outcomes
    assert compared(tmp_path / "two") == compared(tmp_path / "one")


@pytest.mark.parametrize("more", [[], ["--allow-edit", "--sight", "place", "rewrite"]], ids=["usual", "edits"])
def test_ppo_has_the_weights_of_one_process_bit_for_bit(more: list[str], tmp_path: Path) -> None:
    """Processes predict a share of the rows each; tokens are drawn, so the random streams have to agree, too."""
    few = [*SMALL[4:6], *SMALL[10:], "--num-envs", "5", "--n-steps", "8", "--minibatch-size", "20"]
    arguments = ["train", "ppo", *few, "--temperature", "0.7", "--updates", "3", "--save-every", "2", *more]
    alone(*arguments, "--out", str(tmp_path / "one"))
    done = start(2, *arguments, "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("policy:") == 1
    assert bits(tmp_path / "two") == bits(tmp_path / "one")
    logs = [(tmp_path / run / "logs" / "progress.csv").read_text().splitlines() for run in ("one", "two")]
    assert len(logs[0]) == len(logs[1]) == 4


def test_rows_that_are_predicted_together_are_those_of_one() -> None:
    """Also with more processes than rows that are out of date, deadlines, and logits that are none."""
    prompts, rules = [[3, 4]] * 3, Rules(8, temperature=1.0, deadline=2)

    def play(world: World) -> list[Any]:
        dynamics, seen = Dynamics(toy_denoiser(), rules, 2), []
        dynamics.share_predictions(world)
        state = dynamics.reset(prompts, [1, 2, 3])
        for step in range(3):
            dynamics.predict(state)
            seen.append(dynamics.observe(state).confidence.clone())
            unmask = torch.zeros(3, 8, dtype=torch.bool)
            unmask[: step + 1, step] = True
            dynamics.apply(state, unmask)
        return [*seen, state.tokens, state.nfe, state.random.counters]

    wanted = play(ALONE)
    for found in together(4, play):
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))

    def fail(world: World) -> str:
        table = torch.zeros(4, 6)
        table[1] = torch.nan
        dynamics = Dynamics(Scripted(table), Rules(4), 0)
        dynamics.share_predictions(world)
        with pytest.raises(LogitsError) as error:
            dynamics.predict(dynamics.reset([[], []], [0, 1]))
        return str(error.value)

    assert all("logits are NaN in step 0 of row" in said for said in together(2, fail))

    def cached(world: World) -> str:
        dynamics = Dynamics(load_denoiser("tiny"), Rules(8, 4, prefix_cache=True), 0)
        with pytest.raises(UsageError) as error:
            dynamics.share_predictions(world)
        return str(error.value)

    if load_denoiser("tiny").caches_prefix:
        assert all("leave prefix_cache away" in said for said in together(2, cached))


def test_a_denoiser_is_trained_by_several_processes(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    few = ["--width", "8", "--heads", "2", "--layers", "1", "--examples", "60", "--first-updates", "3"]
    arguments = ["train", "denoiser", "--recipe", "sudoku", *few, "--second-updates", "0", "--third-updates", "0"]
    alone(*arguments, "--evaluate-every", "2", "--out", str(tmp_path / "one"))
    done = start(3, *arguments, "--evaluate-every", "2", "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("denoiser:") == 1
    one, two = (load_file(tmp_path / run / "denoiser" / "model.safetensors") for run in ("one", "two"))
    for name, value in one.items():
        assert torch.allclose(two[name], value, atol=1e-4, rtol=1e-3), name


@pytest.mark.parametrize("kind", ["hidden", "lora"])
def test_where_gradients_are_added_up_weights_are_equal_up_to_rounding(kind: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    pytest.importorskip("peft")
    paid = ["--reward", "additive", "--alpha", "1"]  # of which there is some also where nothing is right yet
    arguments = ["train", "grpo", "--network", "hidden", *SMALL, "--start", "none", *paid]
    if kind == "lora":
        arguments = ["train", "dcolt", *SMALL, "--head", "bernoulli", "--lora-rank", "2", *paid]
    alone(*arguments, "--out", str(tmp_path / "one"))
    done = start(2, *arguments, "--out", str(tmp_path / "two"))
    assert done.returncode == 0, done.stderr
    assert all(float(norm) > 0 for norm, _ in steps_of(tmp_path / "two"))
    one, two = (load_file(tmp_path / run / "checkpoint.safetensors") for run in ("one", "two"))
    assert one.keys() == two.keys()
    for name, value in one.items():
        assert torch.allclose(two[name].float(), value.float(), atol=1e-4, rtol=1e-3), name


def outcomes(folder: Path) -> list[Any]:
    lines = [json.loads(line) for line in (folder / "problems.jsonl").read_text(encoding="utf-8").splitlines()]
    return sorted(
        (line["index"], line["setting"], line["response"], line["nfe"], line["correct"]) for line in lines
    )


def test_an_evaluation_is_shared_and_what_was_left_by_a_kill_is_put_together(tmp_path: Path) -> None:
    arguments = ["eval", "--policies", "leftmost:4", "threshold:0.7", "--problems", "12", "--batch-size", "1"]
    alone(*arguments, "--out", str(tmp_path / "one"), "--workers", "1")

    two = tmp_path / "two"
    done = start(3, *arguments, "--out", str(two))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("results:") == 1
    assert outcomes(two) == outcomes(tmp_path / "one")
    assert not list(two.glob("process-*"))
    # As if the second process had been killed before its folder was put together.
    lines = (two / "problems.jsonl").read_text().splitlines(keepends=True)
    part = two / "process-1"
    part.mkdir()
    (part / "problems.jsonl").write_text("".join(lines[5:15]))
    (part / "settings.jsonl").write_text((two / "settings.jsonl").read_text())
    (two / "problems.jsonl").write_text("".join(lines[:9]))
    assert main([*arguments, "--out", str(two), "--resume", "--workers", "1"]) == 0
    assert outcomes(two) == outcomes(tmp_path / "one")
    assert not part.exists()


KILLS = int(os.environ.get("DLLM_ENV_KILLS", "2"))
"""How often each command is killed."""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds processes in /proc")
@pytest.mark.parametrize("command", ["train", "eval"])
def test_what_is_killed_again_and_again_loses_nothing(command: str, tmp_path: Path) -> None:
    """All processes at once and without warning, at moments from their start to their end."""
    coin, out = random.Random(command), tmp_path / "two"
    arguments = ["train", "grpo", "--preset", "demo", *SMALL, "--start", "none", "--save-every", "1"]
    if command == "eval":
        few = ["--problems", "40", "--batch-size", "1", "--block-length", "40", "8"]
        arguments = ["eval", "--policies", "leftmost:1", "threshold:0.7", *few]
    alone(*arguments, "--out", str(tmp_path / "one"))
    log = tmp_path / "log"
    for _ in range(KILLS):
        with log.open("w", encoding="utf-8") as said:
            running = subprocess.Popen(
                words(2, *arguments, "--out", str(out), *going_on(command, out)),
                env=ENVIRONMENT,
                stdout=said,
                stderr=said,
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            running.wait(coin.uniform(4, 14))
        for process in [running.pid, *descendants(running.pid)]:  # which torchrun puts into sessions of their own
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        running.wait()
    done = start(2, *arguments, "--out", str(out), *going_on(command, out))
    assert done.returncode == 0, log.read_text(encoding="utf-8") + done.stderr
    if command == "train":
        assert bits(out) == bits(tmp_path / "one")
    else:
        assert outcomes(out) == outcomes(tmp_path / "one")
        assert not list(out.glob("process-*"))


def descendants(process: int) -> list[int]:
    """The processes that a process has started, and those that these have."""
    parents = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(place.parent.name)] = int(place.read_text().rpartition(")")[2].split()[1])
    found = [process]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]


def going_on(command: str, out: Path) -> list[str]:
    """``--resume`` where there is something."""
    there = (out / "checkpoint.safetensors").exists() if command == "train" else any(out.glob("**/*.jsonl"))
    return ["--resume"] if there else []


def test_what_cannot_be_shared_is_refused(monkeypatch, capsys, tmp_path: Path) -> None:
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost")):
        monkeypatch.setenv(name, value)
    assert main(["ablate", "heads", "--out", str(tmp_path / "x")]) == 2
    assert "ablate heads runs in one process, but 2 were started" in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    assert main(["demo"]) == 2
    shown = capsys.readouterr()
    assert not shown.out
    assert shown.err.startswith("[process 1] ")
