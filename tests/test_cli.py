"""The command line end to end, on a denoiser of random weights."""

import json
import math
import os
import pickle
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_compare import entries, result, scored

import dllm_env
from dllm_env import cli
from dllm_env.cli import main
from dllm_env.commands.ablate import summarise
from dllm_env.denoisers.tiny import WORDS, TinyConfig, TinyDenoiser, TinyTransformer
from dllm_env.random import torch_generator

SMALL = [
    *("--updates", "2", "--prompts", "2", "--num-generations", "2", "--width", "8", "--validation-problems", "2"),
    *("--imitation-steps", "1", "--imitation-problems", "2", "--imitation-batch-size", "8"),
]
SMALL_PPO = [
    *("--updates", "2", "--num-envs", "4", "--n-steps", "8", "--width", "8", "--validation-problems", "2"),
    *("--imitation-steps", "1", "--imitation-problems", "2", "--imitation-batch-size", "8"),
]
REQUIRED = {
    *("policy", "learned", "task", "denoiser", "block_length", "seed", "problems", "accuracy"),
    *("accuracy_low", "accuracy_high", "nfe"),
}


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A denoiser's folder: random weights, and a context of 64 + 12 tokens."""
    config = TinyConfig(width=16, layers=1, heads=2, feed_forward=32, max_length=76)
    network = TinyTransformer(config, len(WORDS))
    network.initialize(torch_generator(0))
    with torch.no_grad():
        network.head.weight.normal_(generator=torch_generator(1))
    path = tmp_path_factory.mktemp("toy")
    TinyDenoiser(network).save(path)
    return path


@pytest.fixture(scope="module")
def run(toy, tmp_path_factory):
    """A trained policy's folder."""
    folder = tmp_path_factory.mktemp("runs") / "x"
    arguments = ["train", "grpo", "--denoiser", str(toy), "--block-length", "8", "--out", str(folder)]
    assert main([*arguments, "--bias", "0", *SMALL]) == 0
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Every test has an empty working directory, so that a default folder, or a stray file, shows."""
    monkeypatch.chdir(tmp_path)


def files(folder):
    return sorted(path for path in folder.rglob("*"))


def test_eval_of_heuristics_and_a_trained_policy(toy, run, tmp_path, capsys):
    out = tmp_path / "out"
    policies = ["threshold:0.2", "top_k:8", "random:8", "leftmost:8", str(run), f"{run}:temperature=0.5"]
    arguments = ["eval", "--policies", *policies, "--task", "trace", "--problems", "4", "--seeds", "3"]
    status = main([*arguments, "--block-length", "40", "--denoiser", str(toy), "--out", str(out)])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    entries = json.loads((out / "results.json").read_text())
    assert [entry["policy"] for entry in entries] == [policy for policy in policies for _ in range(3)]
    assert [entry["seed"] for entry in entries] == [0, 1, 2] * 6
    assert all(entry.keys() >= REQUIRED for entry in entries)
    assert all(entry["learned"] == entry["policy"].startswith(str(run)) for entry in entries)
    assert len((out / "problems.jsonl").read_text().splitlines()) == 6 * 3 * 4
    assert (out / "front.png").read_bytes().startswith(b"\x89PNG")
    assert (out / "results.csv").read_text().count("\n") == 1 + 18
    assert "threshold:0.2" in printed.out
    assert str(out) in printed.out
    assert "\x1b" not in printed.out


def test_eval_names_a_folder_by_date_and_never_overwrites_results(toy, tmp_path, capsys):
    arguments = ["eval", "--policies", "leftmost:8", "--problems", "2", "--denoiser", str(toy)]
    assert main(arguments) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-eval")
    before = (folder / "results.json").read_bytes()
    assert main([*arguments, "--out", str(folder)]) == 2
    assert "holds results already" in capsys.readouterr().err
    assert (folder / "results.json").read_bytes() == before
    assert main([*arguments, "--resume"]) == 2
    assert "--resume needs --out" in capsys.readouterr().err


def test_interrupted_eval_goes_on_where_it_was(toy, tmp_path, capsys, monkeypatch):
    from dllm_env.policies.heuristics import Random

    played, act = [], Random.act

    def stop(rule, observation, random):
        played.append(len(observation))
        if len(played) == 1:
            raise KeyboardInterrupt
        return act(rule, observation, random)

    monkeypatch.setattr(Random, "act", stop)
    out = tmp_path / "out"
    arguments = ["eval", "--policies", "leftmost:8", "random:8", "--problems", "2", "--denoiser", str(toy)]
    assert main([*arguments, "--out", str(out)]) == 130
    command = capsys.readouterr().err.partition("continue with: ")[2].strip()
    assert command == shlex.join(["dllm-env", *arguments, "--out", str(out), "--resume"])
    assert len((out / "problems.jsonl").read_text().splitlines()) == 2
    assert main(shlex.split(command)[1:]) == 0
    entries = json.loads((out / "results.json").read_text())
    assert [entry["policy"] for entry in entries] == ["leftmost:8", "random:8"]
    assert len((out / "problems.jsonl").read_text().splitlines()) == 4
    before = (out / "problems.jsonl").read_bytes()
    assert main(shlex.split(command)[1:]) == 0  # nothing is missing
    assert (out / "problems.jsonl").read_bytes() == before
    more = [argument.replace("random:8", "random:4") for argument in shlex.split(command)[1:]]
    assert main([*more, "--baseline", "leftmost:8"]) == 0  # another policy joins
    assert len(json.loads((out / "results.json").read_text())) == 3
    assert "(baseline)" in capsys.readouterr().out
    (out / "settings.jsonl").write_text("")
    assert main(shlex.split(command)[1:]) == 2
    assert "problems.jsonl, line 1 cannot be read" in capsys.readouterr().err


SUITE = """
problems: 2
policies:
  - leftmost:8
  - threshold: {threshold: [0.5, 0.25]}
evaluations:
  - {task: trace, block_length: [full, 8]}
  - {task: sudoku, block_length: 4, samples: 2, temperature: 1}
"""


def test_a_suite_and_its_report(toy, tmp_path, capsys):
    suite, out = tmp_path / "suite.yaml", tmp_path / "out"
    suite.write_text(f"denoiser: {toy}\n" + SUITE)
    assert main(["eval", "--suite", str(suite), "--out", str(out)]) == 0
    entries = json.loads((out / "results.json").read_text())
    found = {(e["task"], e["block_length"], e["policy"]): e["samples"] for e in entries}
    policies = ("leftmost:8", "threshold:0.5", "threshold:0.25")
    conditions = (("trace", 40, 2), ("trace", 8, 2), ("sudoku", 4, 4))
    assert found == {(task, block, policy): n for task, block, n in conditions for policy in policies}
    assert main(["report", str(out)]) == 0
    assert (out / "report.html").is_file()
    assert main(["report", str(tmp_path)]) == 2
    assert "no results in" in capsys.readouterr().err
    # The suite once more, with a policy besides its own: only that is played.
    assert main(["eval", "--suite", str(suite), "--policies", "random", "--out", str(out), "--resume"]) == 0
    entries = json.loads((out / "results.json").read_text())
    found = [(e["task"], e["block_length"]) for e in entries if e["policy"] == "random:1"]
    assert sorted(found) == sorted((task, block) for task, block, _ in conditions)
    assert len(entries) == 4 * len(conditions)


def test_policies_are_listed(capsys):
    from dllm_env.policies.references import REFERENCES
    from dllm_env.policies.registry import HEURISTICS

    assert main(["policies"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in (*HEURISTICS, *REFERENCES))
    assert "kappa=0.015" in printed


def test_train_grpo_leaves_a_run(run):
    assert (run / "best" / "policy.safetensors").is_file()
    assert (run / "settings.json").is_file()
    assert list((run / "logs").glob("events.out.tfevents.*"))
    assert (run / "logs" / "progress.csv").is_file()


def test_train_grpo_preset_gives_defaults_that_flags_override(toy, tmp_path):
    out = tmp_path / "x"
    arguments = ["train", "grpo", "--preset", "paper", "--denoiser", str(toy), "--out", str(out), "--block-length"]
    here = ["40", "--task", "trace", "--response-length", "40", "--max-prompt-length", "0", "--bias", "0"]
    assert main([*arguments, *here, *SMALL, "--imitation-steps", "0"]) == 0
    settings = json.loads((out / "settings.json").read_text())
    assert settings["learning_rate"] == 3e-5  # the paper's
    assert settings["updates"] == 2  # the flag's


def started(module, name, monkeypatch):
    """Instead of training, writes down the settings that it was asked for."""
    from pathlib import Path

    seen = []
    monkeypatch.setattr(module, name, lambda settings, *_, **__: seen.append(settings) or Path("made"))
    return seen


def test_settings_from_a_file(tmp_path, capsys, monkeypatch):
    from dllm_env.train import denoiser, grpo, ppo
    from dllm_env.train.presets import PRESETS

    Path = type(tmp_path)
    Path("run.yaml").write_text("learning_rate: 3e-4\nwidth: 32\nreward: [additive]\nallow_code_execution: true\n")
    seen = started(grpo, "train_grpo", monkeypatch)
    assert main(["train", "grpo", "--preset", "demo", "--config", "run.yaml", "--width", "16", "--top", "2"]) == 0
    expected = {"learning_rate": 3e-4, "width": 16, "reward": ("additive",), "top": 2}
    assert seen == [PRESETS["demo"].changed(**expected)]  # consent to run programs does not come from a file
    Path("ppo.json").write_text('{"num_envs": 3, "optimizer": {"learning_rate": 0.5}}')
    seen = started(ppo, "train_ppo", monkeypatch)
    assert main(["train", "ppo", "--config=ppo.json", "--no-stop-at-eot"]) == 0
    assert seen == [ppo.PPO().changed(num_envs=3, learning_rate=0.5)]
    Path("denoiser.yml").write_text("layers: 1\n")
    seen = started(denoiser, "train_denoiser", monkeypatch)
    assert main(["train", "denoiser", "--config", "denoiser.yml"]) == 0
    assert seen == [denoiser.DenoiserTraining(layers=1)]
    Path("bad.yaml").write_text("width: broad\n")
    capsys.readouterr()
    refused(["train", "grpo", "--config", "bad.yaml"], capsys, tmp_path, "bad.yaml: width must be a whole number")
    Path("bad.yaml").write_text("wide: 3\n")
    refused(["train", "ppo", "--config", "bad.yaml"], capsys, tmp_path, "no setting 'wide' (did you mean width?)")
    refused(["train", "ppo", "--config", "none.yaml"], capsys, tmp_path, "no file none.yaml")


def test_a_runs_settings_are_such_a_file(run, tmp_path, monkeypatch):
    from dllm_env.train import grpo
    from dllm_env.train.run import settings_of_run

    seen = started(grpo, "train_grpo", monkeypatch)
    assert main(["train", "grpo", "--config", str(run / "settings.json"), "--seed", "5"]) == 0
    assert seen == [settings_of_run(run, grpo.GRPO()).changed(seed=5)]


def test_old_flags_work_with_a_note(tmp_path, capsys, monkeypatch):
    from dllm_env.train import grpo, ppo

    seen = started(grpo, "train_grpo", monkeypatch)
    old = ["--rate", "0.5", "--group=4", "--no-divide-by-deviation", "--gradient-norm", "2", "--imitation", "0"]
    assert main(["train", "grpo", *old]) == 0
    values = {"learning_rate": 0.5, "num_generations": 4, "scale_rewards": False, "max_grad_norm": 2.0}
    assert seen == [grpo.GRPO().changed(**values, imitation_steps=0)]
    notes = capsys.readouterr().err.splitlines()
    assert notes[0] == "dllm-env: --rate is called --learning-rate now"
    assert len(notes) == 5
    seen = started(ppo, "train_ppo", monkeypatch)
    assert main(["train", "ppo", "--rows", "3", "--steps", "5", "--discount", "0.9", "--trace=0.8"]) == 0
    assert seen == [ppo.PPO().changed(num_envs=3, n_steps=5, gamma=0.9, gae_lambda=0.8)]


def test_several_rewards(toy, tmp_path, capsys):
    out = tmp_path / "x"
    rewards = ["--reward", "multiplicative", "additive", "--reward-weights", "1", "0.5", "--cost", "steps"]
    arguments = ["train", "grpo", "--denoiser", str(toy), "--block-length", "8", "--out", str(out), *SMALL]
    assert main([*arguments, *rewards]) == 0
    header = (out / "logs" / "progress.csv").read_text().splitlines()[0].split(",")
    assert {"rewards/multiplicative", "rewards/additive", "rollout/reward"} <= set(header)
    arguments = ["eval", "--policies", str(out), "leftmost:8", "--denoiser", str(toy), "--problems", "2"]
    assert main([*arguments, *rewards, "--out", str(tmp_path / "results")]) == 0
    entries = json.loads((tmp_path / "results" / "results.json").read_text())
    assert all(isinstance(entry["reward"], float) for entry in entries)
    bad = ["train", "grpo", "--denoiser", str(toy), *SMALL, "--reward", "shaped"]
    capsys.readouterr()
    refused(bad, capsys, tmp_path, "unknown reward 'shaped'; choose one of multiplicative, additive")


def test_interrupted_training_says_how_to_resume_and_does(toy, tmp_path, capsys, monkeypatch):
    import dllm_env.train.grpo as grpo

    once = grpo.train_once

    def stop(setup, learner, settings, callbacks):
        if learner.update == 1:
            learner.logger.close()  # as the end of the process would
            raise KeyboardInterrupt
        return once(setup, learner, settings, callbacks)

    arguments = ["train", "grpo", "--denoiser", str(toy), "--bias", "0", *SMALL, "--save-every", "1"]
    with monkeypatch.context() as patched:
        patched.setattr(grpo, "train_once", stop)
        assert main(arguments) == 130
    (folder,) = (tmp_path / "runs").iterdir()
    said = capsys.readouterr().err.strip().splitlines()[-1]
    command = said.partition("continue with: dllm-env ")[2].split()
    assert command[-3:] == ["--out", f"runs/{folder.name}", "--resume"]
    assert main(command) == 0
    assert (folder / "best" / "policy.json").is_file()


def test_train_denoiser_hands_over_its_settings(tmp_path, capsys, monkeypatch):
    from pathlib import Path

    from dllm_env.train import denoiser

    seen = []
    monkeypatch.setattr(denoiser, "train_denoiser", lambda *given: seen.append(given) or Path("made"))
    assert main(["train", "denoiser", "--width", "96", "--seed", "2", "--out", "d"]) == 0
    assert seen == [(denoiser.DenoiserTraining(seed=2, width=96), Path("d"), False)]
    assert "denoiser: made" in capsys.readouterr().out


def test_generate_shows_every_step(toy, capsys):
    arguments = ["generate", "--denoiser", str(toy), "--policy", "leftmost:10", "--index", "3"]
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    steps = [line for line in printed.splitlines() if line.startswith("step")]
    assert [line.split()[1] for line in steps] == ["1", "2", "3", "4"]
    masks = [line.count("·") + line.split().count("_") for line in steps]
    assert masks == [30, 20, 10, 0]
    assert "4 NFE, 4 steps, wrong" in printed


def test_generate_of_an_own_prompt_judges_nothing(toy, capsys):
    assert main(["generate", "--denoiser", str(toy), "--prompt", "a 6 b +2 g 3 h -2"]) == 0
    printed = capsys.readouterr().out
    assert "a 6 b +2 g 3 h -2" in printed
    assert "wrong" not in printed
    assert "right" not in printed


def test_animation_ends_with_the_response(toy, monkeypatch):
    from io import StringIO

    from rich.console import Console

    from dllm_env.eval import show as module

    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    made = module.make_generation(module.GenerationConfig(policy="leftmost:20", denoiser=str(toy)))
    screen = Console(file=StringIO(), force_terminal=True, width=200, color_system="truecolor")
    module.show(made, screen)
    last = Console(file=StringIO(), width=200, soft_wrap=True)
    last.print(module.frame(made, None))
    assert "\x1b[" in screen.file.getvalue()
    assert last.file.getvalue().split() == [word for token in made.tokens for word in token.split()]
    assert module.step_colour(0, [0, 1]) != module.step_colour(1, [0, 1])


@pytest.mark.parametrize("preferences", [(), (0.01, 1.0)])
def test_demo_leaves_everything_and_says_where(toy, tmp_path, capsys, preferences):
    from dllm_env.commands.demo import ALPHAS, OTHERS, RIVALS, DemoConfig, run_demo
    from dllm_env.train.grpo import GRPO

    small = {
        "updates": 2,
        "prompts": 2,
        "num_generations": 2,
        "width": 8,
        "bias": 0.0,
        "validation_problems": 2,
        "imitation_steps": 0,
    }
    training = GRPO().changed(denoiser=str(toy), preferences=preferences, **small)
    points = len(ALPHAS) if preferences else 1
    out = tmp_path / "demo"
    run_demo(DemoConfig(training, problems=4, slow_problems=2), out)
    printed = capsys.readouterr().out
    for name in ("results.json", "results.csv", "problems.jsonl", "front.png", "best/policy.json"):
        assert (out / name).is_file()
    assert list((out / "logs").glob("events.out.tfevents.*"))
    entries = json.loads((out / "results.json").read_text())
    assert len(entries) == 2 * (points + len(RIVALS) + len(OTHERS))
    assert sum(entry["learned"] for entry in entries) == 2 * points
    assert {entry["problems"] for entry in entries if entry["policy"] in OTHERS} == {2}
    assert {entry["problems"] for entry in entries if entry["policy"] not in OTHERS} == {4}
    assert {entry["front"] for entry in entries if entry["learned"]} == {str(out)}
    assert f"tensorboard --logdir {out}" in printed
    assert printed.count("full diffusion, BL = 40: learned ") == points
    assert ("learned (alpha=0.1)" in printed) == bool(preferences)
    run_demo(DemoConfig(replace(training), problems=4, slow_problems=2), out, resume=True)
    again = json.loads((out / "results.json").read_text())
    for entry in (*entries, *again):
        del entry["seconds"]
    assert again == entries


@pytest.mark.parametrize(
    ("load", "given", "expected"),
    [
        (0.3, {}, "passive"),
        (0.2, {}, None),
        (0.9, {"OMP_WAIT_POLICY": "active"}, "active"),
        (0.9, {"GOMP_SPINCOUNT": "5"}, None),
        (0.9, {"OMP_NUM_THREADS": "1"}, None),
    ],
)
def test_threads_sleep_while_they_wait_where_the_machine_is_busy(monkeypatch, load, given, expected):
    from dllm_env import cli

    for name in cli.WAITING:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cli, "in_use", lambda: load)
    cli.share_processors()
    assert os.environ.get("OMP_WAIT_POLICY") == given.get("OMP_WAIT_POLICY")  # torch has been loaded already
    monkeypatch.delitem(sys.modules, "torch")
    cli.share_processors()
    assert os.environ.get("OMP_WAIT_POLICY") == expected
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)


@pytest.mark.parametrize(
    ("before", "after", "share"),
    [
        ("cpu 10 0 10 70 10 0 0 0 0 0", "cpu 20 0 15 130 15 0 0 0 0 0", 0.1875),  # 15 of 80 new ticks
        ("cpu 1 2 3 4 5 6 7 8 9 9", "cpu 1 2 3 4 5 6 7 8 9 9", 0.0),  # none yet
        ("cpu", "cpu", 0.0),
        ("", "", 0.0),
    ],
)
def test_how_much_of_the_processors_is_in_use(monkeypatch, tmp_path, before, after, share):
    from dllm_env import cli

    file = tmp_path / "stat"
    file.write_text(before + "\ncpu0 1 1\n")
    monkeypatch.setattr(cli.time, "sleep", lambda seconds: file.write_text(after + "\n"))
    assert cli.in_use(file) == pytest.approx(share)
    assert cli.in_use(tmp_path / "none") == 0.0


def test_train_ppo_leaves_a_run_that_eval_takes(toy, tmp_path, capsys):
    out = tmp_path / "x"
    arguments = ["train", "ppo", "--denoiser", str(toy), "--block-length", "8", "--out", str(out), *SMALL_PPO]
    assert main([*arguments, "--head", "dynamic_plackett_luce", "--network", "hidden"]) == 0
    assert f"dllm-env eval --policies threshold:0.9 top_k:1 {out}" in capsys.readouterr().out
    assert json.loads((out / "best" / "policy.json").read_text())["network"]["kind"] == "hidden"
    assert list((out / "logs").glob("events.out.tfevents.*"))
    assert main(["train", "ppo", "--out", str(out), "--resume"]) == 0
    arguments = ["eval", "--policies", str(out), f"{out}:temperature=2", f"{out}:greedy=1", "--problems", "2"]
    assert main([*arguments, "--denoiser", str(toy), "--out", str(tmp_path / "compared")]) == 0


def test_ablation_trains_all_and_compares_them(toy, tmp_path, capsys):
    out = tmp_path / "ablation"
    arguments = ["ablate", "heads", "--heads", "bernoulli", "--seeds", "2", "--problems", "3"]
    arguments += ["--denoiser", str(toy), *SMALL, "--out", str(out)]
    assert main(arguments) == 0
    lines = (out / "ablation.csv").read_text().splitlines()
    assert b"\r" not in (out / "ablation.csv").read_bytes()
    assert lines[0] == "network,head,seed,setting,accuracy,nfe,area"
    assert [line.rsplit(",", 3)[0] for line in lines[1:]] == [
        f"{network},{head},{seed},{setting}"
        for network in ("confidence", "hidden")
        for head in ("bernoulli",)
        for seed in (1, 2)
        for setting in (1, 2, 3, 4, 5)
    ]
    assert (out / "ablation.png").is_file()
    assert "ablation: " in capsys.readouterr().out
    assert main(arguments) == 2
    assert "holds an ablation already" in capsys.readouterr().err
    (out / "hidden-bernoulli-2" / "checkpoint.safetensors").unlink()
    shutil.rmtree(out / "hidden-bernoulli-2")
    assert main([*arguments, "--resume"]) == 0
    assert (out / "ablation.csv").read_text().splitlines() == lines
    one = [*arguments[:-1], str(tmp_path / "one"), "--preferences", "--alpha", "1", "--seeds", "1"]
    assert main([*one, "--heads", "plackett_luce:k=2"]) == 0  # of a training for one α there is one point
    assert len((tmp_path / "one" / "ablation.csv").read_text().splitlines()) == 1 + 2


def test_an_ablation_has_means_and_areas_by_hand():
    """Two seeds at two α: 90% at 10 evaluations and 50% at 4, 70% at 20 and 30% at 2, of 40."""
    paths = [Path("runs/confidence-bernoulli-1"), Path("runs/confidence-bernoulli-2")]
    right = [[(90, 10), (50, 4)], [(70, 20), (30, 2)]]
    rows = [
        result(f"{path}:alpha={alpha}", scored(share), nfe)
        for path, points in zip(paths, right, strict=True)
        for alpha, (share, nfe) in zip((0.1, 10), points, strict=True)
    ]
    trainings = [("bernoulli", "confidence", seed, path) for seed, path in enumerate(paths, 1)]
    (line,) = summarise(trainings, entries(*rows))
    assert [value for point in line.means for value in point] == pytest.approx([15, 0.8, 3, 0.4])
    log = math.log
    first = (0.5 * log(10 / 4) + 0.9 * log(40 / 10)) / log(40)
    second = (0.3 * log(20 / 2) + 0.7 * log(40 / 20)) / log(40)
    assert line.areas == pytest.approx((first, second))


def spoiled(toy, folder, data):
    shutil.copytree(toy, folder)
    (folder / "model.safetensors").write_bytes(data)
    return str(folder)


BAD = {
    "task": (["--task", "chess"], "choose one of trace, sudoku"),
    "task setting": (["--task", "trace:chains=9"], "1 to 4 chains"),
    "denoiser": (["--denoiser", "nothing-there"], "or give a folder"),
    "block length": (["--block-length", "7"], "use 1, 2, 4, 5, 8, 10, 20, 40"),
    "context": (["--task", "trace:chains=4"], "shorten the prompt or the response"),
}
EVAL = ["eval", "--policies", "leftmost:8", "--problems", "2"]
COMMANDS = {
    "eval": EVAL,
    "train grpo": ["train", "grpo", *SMALL],
    "train ppo": ["train", "ppo", *SMALL_PPO],
    "generate": ["generate", "--policy", "leftmost:8"],
}


def refused(arguments, capsys, tmp_path, says):
    before = files(tmp_path)
    status = main(arguments)
    err = capsys.readouterr().err
    assert status == 2, err
    assert err.startswith("dllm-env: ")
    assert err.count("\n") == 1
    assert says in err
    assert files(tmp_path) == before


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_with_one_line(command, what, toy, tmp_path, capsys):
    bad, says = BAD[what]
    denoiser = [] if "--denoiser" in bad else ["--denoiser", str(toy)]
    refused([*COMMANDS[command], *denoiser, *bad], capsys, tmp_path, says)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["corrupt", "pickled", "cut off"])
def test_spoiled_weights_are_refused_with_one_line(command, kind, toy, tmp_path, capsys):
    whole = (toy / "model.safetensors").read_bytes()
    data = {"corrupt": b"\x00" * 100, "pickled": pickle.dumps({"a": 1}), "cut off": whole[:-10]}[kind]
    folder = spoiled(toy, tmp_path / "bad", data)
    refused([*COMMANDS[command], "--denoiser", folder], capsys, tmp_path, "cannot load the denoiser")


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("best", "no policy 'best'"),
        ("/no/such/folder", "no policy"),
        ("top_k:0", "at least 1"),
        ("threshold:1.5", "between 0 and 1"),
        ("threshold:x", "must be a number"),
        ("threshold:k=2", "has no setting 'k'"),
    ],
)
def test_bad_policies_are_refused_with_one_line(policy, says, toy, tmp_path, capsys):
    refused(["eval", "--denoiser", str(toy), "--policies", "random:1", policy], capsys, tmp_path, says)
    refused(["generate", "--denoiser", str(toy), "--policy", policy], capsys, tmp_path, says)


@pytest.mark.parametrize("data", [b"\x00" * 50, pickle.dumps([1])])
def test_spoiled_policies_are_refused_with_one_line(data, toy, run, tmp_path, capsys):
    shutil.copytree(run / "best", tmp_path / "policy")
    (tmp_path / "policy" / "policy.safetensors").write_bytes(data)
    arguments = ["eval", "--denoiser", str(toy), "--policies", str(tmp_path / "policy")]
    refused(arguments, capsys, tmp_path, "cannot load the policy")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (["--alpha", "-0.1"], "alpha must be"),
        (["--alpha=nan"], "alpha must be"),
        (["--num-generations", "1"], "num_generations must be"),
        (["--preset", "mine"], "choose one of bundled, demo, domains, paper, paper-32, paper-steered"),
        (["--resume"], "--out"),
        (["--resume", "--out", "nowhere"], "nothing to resume"),
        (["--out", __file__], "is a file"),
    ],
)
def test_bad_training_is_refused_with_one_line(bad, says, toy, tmp_path, capsys):
    refused(["train", "grpo", "--denoiser", str(toy), *SMALL, *bad], capsys, tmp_path, says)


def test_a_prompt_too_long_or_unknown_is_refused_with_one_line(toy, tmp_path, capsys):
    start = ["generate", "--denoiser", str(toy), "--prompt"]
    refused([*start, "a 1 " * 30], capsys, tmp_path, "shorten the prompt")
    refused([*start, "once upon"], capsys, tmp_path, "'once'")
    refused([*start[:-1], "--index", "-1"], capsys, tmp_path, "--index")


def test_wrong_arguments_end_with_2_and_help_with_0(capsys):
    for wrong in (["bogus"], ["train", "bogus"], ["eval"], ["eval", "--bogus"], [*EVAL, "--problems", "many"]):
        assert main(wrong) == 2
        assert "Traceback" not in capsys.readouterr().err
    for right in ([], ["--help"], ["train"], ["train", "ppo", "--help"], ["eval", "-h"], ["demo", "--help-all"]):
        assert main(right) == 0
        out = capsys.readouterr().out
        assert "usage: dllm-env" in out
        assert "type: ignore" not in out


def test_help_imports_nothing_heavy():
    command = [sys.executable, "-X", "importtime", "-m", "dllm_env", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "dllm_env.commands.helping" in imported
    assert not {"torch", "numpy", "gymnasium", "tyro", "rich"} & imported


def test_a_denoiser_is_loaded_without_the_compiler():
    """Which takes longer than all the rest."""
    code = "import sys; import dllm_env; dllm_env.load_denoiser('tiny'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "dllm_env.denoisers.tiny" in done.stdout.split()
    assert not {"torch._dynamo", "sympy"} & {*done.stdout.split()}


def test_as_a_process(toy, tmp_path):
    """The real thing: exit status, streams, and an output that cannot show every character."""
    command = [sys.executable, "-m", "dllm_env", "generate", "--policy", "leftmost:20", "--denoiser"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    good = subprocess.run([*command, str(toy)], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert good.returncode == 0, good.stderr
    assert "\x1b" not in good.stdout
    assert "2 NFE, 2 steps" in good.stdout
    bad = subprocess.run([*command, "nowhere"], capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert bad.returncode == 2
    assert bad.stderr.startswith("dllm-env: unknown denoiser 'nowhere'")
    assert bad.stderr.count("\n") == 1


def test_a_reader_that_has_enough_is_no_bug():
    program = "import sys; from dllm_env.cli import main; sys.exit(main(['policies']))"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait(60) in (0, 1)  # rich ends with 1


@pytest.mark.parametrize("command", [["grpo", "--preset", "demo"], ["ppo", "--preferences", "0.1", "1"]])
def test_an_alpha_that_would_not_be_used_is_refused(command, tmp_path, capsys, monkeypatch):
    from dllm_env.train import grpo, ppo

    seen = [started(grpo, "train_grpo", monkeypatch), started(ppo, "train_ppo", monkeypatch)]
    assert main(["train", *command, "--alpha", "2", "--out", str(tmp_path / "run")]) == 2
    assert "--alpha 2 would not be used: with --preferences 0." in capsys.readouterr().err
    assert not any(seen)
    assert main(["train", *command, "--alpha", "2", "--preferences", "--out", str(tmp_path / "run")]) == 0
    assert [s.rewards.alpha for s in (*seen[0], *seen[1])] == [2.0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "unknown command 'trian' (did you mean train?); see dllm-env --help"),
        (["train", "grop"], "unknown command 'grop' (did you mean grpo?); see dllm-env train --help"),
        (["qqq"], "unknown command 'qqq'; see"),
        (["eval", "--policies", "treshold:0.9"], "(did you mean threshold?)"),
        (["eval", "--policies", "orcle"], "(did you mean oracle?)"),
        (["eval", "--policies", "threshold:treshold=0.5"], "no setting 'treshold' (did you mean threshold?)"),
        (["eval", "--policies", "top_k:1", "--task", "trce"], "unknown task 'trce' (did you mean trace?)"),
        (["eval", "--policies", "top_k:1", "--denoiser", "tinny"], "'tinny' (did you mean tiny?)"),
        (["train", "grpo", "--network", "confidnce"], "(did you mean confidence?)"),
        (["train", "grpo", "--head", "bernouli"], "(did you mean bernoulli?)"),
    ],
)
def test_near_misses_get_the_nearest_name(arguments, says, capsys, tmp_path):
    refused(arguments, capsys, tmp_path, says)


def test_near_misses_of_flags(capsys):
    assert main(["eval", "--policy", "top_k:1", "--qqqqqq", "1"]) == 2
    shown = capsys.readouterr().err
    assert "there is no --policy (did you mean --policies?)" in shown
    assert "no --qqqqqq" not in shown
    assert main(["train", "grpo", "--lerning_rate", "1"]) == 2
    assert "no --lerning-rate (did you mean --learning-rate?)" in capsys.readouterr().err


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"dllm-env {dllm_env.__version__}\n"


HELPED = [name for name in cli.COMMANDS if name != "lm-eval"]


@pytest.mark.parametrize("width", [80, 100, 160])
@pytest.mark.parametrize("name", HELPED)
def test_help_is_whole_and_plain(name, width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    assert main([*name.split(), "--help"]) == 0
    first = capsys.readouterr().out
    assert main([*name.split(), "--help-all"]) == 0
    everything = capsys.readouterr().out
    for text in (first, everything):
        assert max(map(len, text.splitlines())) <= width
        assert not any(sign in text for sign in ("``", "{None}", "[STR", "╭", "MISSING", "<class"))
        assert f"usage: dllm-env {name}" in text
        assert "\nexamples\n  dllm-env " in text
    shown = [set(re.findall(r"^  (--[\w\[\]-]+)", text, re.M)) for text in (first, everything)]
    assert shown[0] <= shown[1]
    assert len(shown[0]) <= 20
    more = f"{len(shown[1]) - len(shown[0])} more options: dllm-env {name} --help-all"
    assert (more in first) == (shown[0] < shown[1])


def test_help_says_every_flag_and_its_default(capsys):
    from dllm_env.commands.helping import flags_of
    from dllm_env.train.presets import PRESETS

    assert main(["train", "grpo", "--preset", "paper", "--help-all"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    names = [flag.name.replace("_", "-") for flag in flags_of(type(PRESETS["paper"]))]
    assert len(names) > 60
    assert len(set(names)) == len(names)
    assert all(f"--{name} " in said or f"--[no-]{name} " in said for name in names)
    assert "Peak learning rate; linear warm-up, then cosine to 0. [3e-05]" in said  # the preset's
    for title in ("task", "model", "generation", "policy", "reward", "optimisation", "start", "validation", "run"):
        assert f" {title} --" in said


def test_plain_words_are_policies():
    from dllm_env.commands.helping import Flag, plain_words

    kinds = {"policies": tuple[str, ...], "seeds": int, "block_length": tuple[int, ...], "resume": bool}
    flags = [Flag(name, kind, None, object) for name, kind in kinds.items()]

    def made(text):
        return " ".join(plain_words(text.split(), flags, "--policies"))

    assert made("top_k:1 runs/x --seeds 3") == "--seeds 3 --policies top_k:1 runs/x"
    assert made("--resume top_k:1 --block-length 8 full threshold") == (
        "--resume --block-length 8 full --policies top_k:1 threshold"
    )
    assert made("a --policies b --seeds=3 c") == "--seeds=3 --policies a b c"
    assert made("--no-resume a --block_length 4") == "--no-resume --block_length 4 --policies a"
    assert made("--nothing a") == "--nothing a"  # tyro says what is wrong
    assert made("--seeds 3") == "--seeds 3"


def test_eval_takes_policies_as_words_and_full_as_a_block_length(toy, tmp_path, capsys):
    arguments = ["eval", "leftmost:20", "--block-length", "full", "20", "top_k:20", "--problems", "2"]
    assert main([*arguments, "--denoiser", str(toy), "--device", "cpu", "--out", "x"]) == 0
    entries = json.loads((tmp_path / "x" / "results.json").read_text())
    found = [(entry["policy"], entry["block_length"]) for entry in entries]
    assert found == [(name, block) for block in (40, 20) for name in ("leftmost:20", "top_k:20")]
    capsys.readouterr()
    refused(["eval", "top_k:1", "--block-length", "full", "40"], capsys, tmp_path, "block length 40 is given twice")
    refused(["eval", "top_k:1", "--device", "nowhere"], capsys, tmp_path, "no device 'nowhere' here")
    refused(["generate", "--device", "nowhere"], capsys, tmp_path, "no device 'nowhere' here")


def test_full_is_a_block_length_of_trainings(tmp_path, monkeypatch):
    from dllm_env.train import grpo

    seen = started(grpo, "train_grpo", monkeypatch)
    (tmp_path / "x.yaml").write_text("block_length: full\n")
    assert main(["train", "grpo", "--preset", "paper-32", "--block-length", "full"]) == 0
    assert main(["train", "grpo", "--preset", "paper-32", "--config", "x.yaml"]) == 0
    assert [settings.block_length for settings in seen] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ["ablate", "heads", "--head", "bernoulli"],
            "ablate heads has several; give --heads",
        ),
        (["ablate", "heads", "--seed=3"], "give --seeds"),
        (["ablate", "heads", "--alpha", "1"], "--alpha 1 would not be used"),
        (["eval", "top_k:1", "--alpha", "1"], "--alpha would not be used: it belongs to a reward"),
        (["eval", "top_k:1", "--noise", "float32"], "--noise would not be used"),
        (["eval", "top_k:1", "--remask-budget", "3"], "--remask-budget would not be used without --allow-remask"),
        (["policies", "treshold"], "unknown rule 'treshold' (did you mean threshold?)"),
        (["tasks", "trce"], "unknown task 'trce' (did you mean trace?)"),
        (["--verson"], "there is no --verson (did you mean --version?)"),
    ],
)
def test_flags_that_would_change_nothing_and_names_that_are_none(arguments, says, capsys, tmp_path):
    refused(arguments, capsys, tmp_path, says)


def test_every_rule_and_task_is_explained(capsys, monkeypatch):
    from dllm_env.policies.references import REFERENCES
    from dllm_env.policies.registry import HEURISTICS
    from dllm_env.tasks.load import NAMES

    monkeypatch.setenv("COLUMNS", "80")
    for command, names in (("policies", (*HEURISTICS, *REFERENCES)), ("tasks", NAMES)):
        for name in names:
            assert main([command, name]) == 0
            said = capsys.readouterr().out
            lines = said.splitlines()
            assert lines[0] == name
            assert f"  dllm-env eval {name if command == 'policies' else 'threshold:0.9'}" in said
            text = lines[: lines.index("examples")]
            assert max(map(len, text)) <= 80
            assert "``" not in said
            assert "MISSING" not in said
    assert main(["policies", "klass"]) == 0
    said = capsys.readouterr().out
    assert "tau=0.6\n" in said
    assert "source: https://arxiv.org/abs/2511.05664" in said
    assert main(["tasks", "trace:chains=4"]) == 0
    assert "lengths: 48 prompt tokens, 80 response tokens" in capsys.readouterr().out
    for words, wrong in (
        (["tasks", "trace:chain=4"], "trace has no setting 'chain' (did you mean chains?)"),
        (["policies", "threshold:treshold=1"], "no setting 'treshold' (did you mean threshold?)"),
    ):
        assert main(words) == 2
        assert wrong in capsys.readouterr().err
    assert main(["tasks", "trace:chains=2"]) == 0
    said = capsys.readouterr().out
    assert "prompt: a 3 b -3 c +1 d +3 g 9 h +1 i *7 j +3\n  answer: d 4 j 3" in said
    assert "lengths: 24 prompt tokens, 40 response tokens" in said


def test_a_data_set_of_reasoning_gym_is_explained(capsys):
    pytest.importorskip("reasoning_gym")
    assert main(["tasks", "reasoning-gym:nosuch"]) == 2
    assert "reasoning-gym has no data set 'nosuch'" in capsys.readouterr().err
    assert main(["tasks", "reasoning-gym:leg_counting"]) == 0
    assert "a test problem:\n  prompt: Your task is to count" in capsys.readouterr().out


def test_a_dry_run_of_eval_says_what_is_to_come_and_writes_nothing(toy, tmp_path, capsys):
    """leftmost:8 of 40 tokens takes 5 evaluations, leftmost:20 takes 2: (5 + 2) · 2 seeds · 30 problems."""
    arguments = ["eval", "leftmost:8", "leftmost:20", "--problems", "30", "--seeds", "2", "--denoiser", str(toy)]
    assert main([*arguments, "--dry-run"]) == 0
    said = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines()[:-1])
    said = {name: text.strip() for name, text in said.items()}
    assert said["to play"] == "120 responses: 2 policies; block lengths 40"
    assert said["evaluations"] == "about 420 by the denoiser"
    assert said["told from"] == "32 first responses"
    assert files(tmp_path) == []
    out = ["--out", "x"]
    assert main(["eval", "leftmost:8", "--problems", "2", "--denoiser", str(toy), *out]) == 0
    before, arguments[4] = files(tmp_path), "3"
    arguments[6] = "1"
    capsys.readouterr()
    assert main([*arguments, *out, "--resume", "--dry-run"]) == 0  # of one policy two of three are there
    assert "4 responses" in capsys.readouterr().out
    assert files(tmp_path) == before
    refused([*arguments, "--task", "chess", "--dry-run"], capsys, tmp_path, "unknown task 'chess'")


def test_a_dry_run_of_a_denoisers_training(tmp_path, capsys):
    small = ["--width", "16", "--layers", "1", "--heads", "1", "--recipe", "trace", "--examples", "2000"]
    stages = ["--first-updates", "40", "--second-updates", "0", "--third-updates", "2"]
    assert main(["train", "denoiser", *small, *stages, "--evaluate-every", "10", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "to train   42 updates: 40, 2\n" in said
    assert ", and 5 validations\n" in said
    assert "told from  3 updates of each stage and 1,000 examples\n" in said
    assert files(tmp_path) == []


def test_a_dry_run_of_a_training(toy, tmp_path, capsys):
    arguments = ["train", "grpo", "--denoiser", str(toy), *SMALL, "--updates", "30", "--dry-run"]
    assert main([*arguments, "--bias", "9", "--validation-problems", "3"]) == 0
    said = capsys.readouterr().out
    assert "to train     30 updates of 2 prompts × 2 responses\n" in said
    assert "for 2 validations\n" in said  # after updates 20 and 30
    assert "start        the start (portfolio, 2 problems) comes before that\n" in said
    assert files(tmp_path) == []


def test_a_dry_run_of_an_ablation(toy, tmp_path, capsys):
    several = ["--heads", "bernoulli", "--networks", "confidence", "--seeds", "3"]
    arguments = ["ablate", "heads", "--denoiser", str(toy), *SMALL, *several, "--preferences", "0.1", "1"]
    assert main([*arguments, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "to train     3 trainings of 2 updates: 1 heads × 1 networks × 3 seeds\n" in said
    assert "time         about " in said
    assert files(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["eval", "top_k:1", "--split", "f----o"],
            "invalid choice 'f----o' for argument '--split'. Expected one of (",
        ),
        (["eval", "top_k:1", "--problems"], "missing value for argument '--problems'"),
        (
            ["eval", "top_k:1", "--problems", "x"],
            "--problems needs a whole number, got 'x'; see dllm-env eval --help",
        ),
        (["train", "grpo", "--learning-rate", "a"], "--learning-rate needs a number, got 'a'; see dllm-env train"),
        (["generate", "runs/x" * 50], f": {'runs/x' * 50}"),
        (
            ["train", "grpo", "--promts", "3"],
            "options: --promts, 3; there is no --promts (did you mean --prompts?); see",
        ),
        (["push"], "; see dllm-env push --help"),
    ],
)
def test_what_cannot_be_parsed_is_said_in_one_line(words, said, capsys, monkeypatch):
    """Whatever the terminal's width; tyro's own frames are broken in the middle of names."""
    monkeypatch.setenv("COLUMNS", "60")
    assert main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("dllm-env: ")
    assert said in line
    assert os.environ["COLUMNS"] == "60"
