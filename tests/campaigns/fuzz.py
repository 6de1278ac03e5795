"""Fuzzed command lines and files: the end is success, or status 2 with one line; never a traceback, never a hang.

A case is a valid command on valid files, of which one file, or the arguments, or both are damaged as the seed says.
It runs in a fork of this process with a limit of time and memory, in a folder of its own.
"""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import stat
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

import yaml
from common import Tally, campaign, run, start, toy
from damaged import damage_arguments, damage_file

SECONDS = 60.0
"""After which a case hangs; on a machine that does nothing else the slowest takes five."""
MEMORY = 3 * 2**30
"""Bytes, besides what this process has."""
LETTERS = 4000
"""That a case may say when it refuses something; tyro's boxes are the longest."""

POLICY = (
    *("--updates", "1", "--validation-problems", "2", "--width", "8", "--imitation-steps", "0"),
    *("--validation-rules", "top_k:8", "--block-length", "8"),
)
GRPO = ("--prompts", "2", "--num-generations", "2", "--gradient-steps", "1", "--test-temperatures", "1", *POLICY)
PPO = ("--num-envs", "2", "--n-steps", "4", "--n-epochs", "1", "--test-temperatures", "1", *POLICY)
DENOISER = (
    *("--width", "16", "--heads", "2", "--layers", "1", "--examples", "20", "--first-updates", "1"),
    *("--second-updates", "0", "--third-updates", "0"),
)
EVAL = ("--problems", "2", "--batch-size", "2", "--workers", "1")


@dataclass(frozen=True)
class Kind:
    """A command to damage.

    Attributes:
        arguments: valid ones; files are relative to the case's folder.
        parts: what of the fixtures is copied into that folder.
        files: those of them that may be damaged, as patterns.
        limits: arguments that stand at the end, undamaged, so that whatever is left is soon done.
        weight: how often it is drawn.
    """

    arguments: tuple[str, ...]
    parts: tuple[str, ...]
    files: tuple[str, ...]
    limits: tuple[str, ...] = ()
    weight: int = 1


KINDS = (
    Kind(("report", "results"), ("results",), ("results/problems.jsonl", "results/settings.jsonl"), (), 6),
    Kind(
        ("eval", "--policies", "top_k:8", "--denoiser", "toy", "--out", "results", "--resume"),
        ("toy", "results"),
        ("results/problems.jsonl", "results/settings.jsonl", "toy/config.json", "toy/model.safetensors"),
        EVAL,
        4,
    ),
    Kind(
        ("eval", "--suite", "suite.yaml", "--denoiser", "toy", "--out", "out"),
        ("toy", "suite.yaml"),
        ("suite.yaml",),
        EVAL,
        6,
    ),
    Kind(
        ("eval", "--policies", "run:temperature=0.5", "top_k:8", "--denoiser", "toy", "--out", "out"),
        ("toy", "run"),
        ("run/best/policy.json", "run/best/policy.safetensors"),
        EVAL,
        6,
    ),
    Kind(
        ("eval", "--policies", "threshold:0.5", "--task", "gsm8k", "--data", "gsm8k.jsonl", "--denoiser", "llada"),
        ("llada", "gsm8k.jsonl"),
        ("gsm8k.jsonl",),
        (*EVAL, "--response-length", "8", "--block-length", "8", "--out", "out"),
        2,
    ),
    Kind(
        ("generate", "--policy", "top_k:4", "--denoiser", "llada", "--prompt", "a 6", "--no-animate"),
        ("llada",),
        (
            *("llada/config.json", "llada/tokenizer.json", "llada/tokenizer_config.json"),
            *("llada/model.safetensors.index.json", "llada/model-00001-of-00003.safetensors"),
        ),
        ("--response-length", "8", "--block-length", "8"),
        4,
    ),
    Kind(
        ("generate", "--policy", "klass:tau=0.6,kappa=0.01", "--task", "trace:chains=1", "--seed", "3"),
        (),
        (),
        ("--no-animate",),
        2,
    ),
    Kind(
        ("train", "grpo", "--config", "run.yaml", "--denoiser", "toy", "--out", "out"),
        ("toy", "run.yaml"),
        ("run.yaml",),
        GRPO,
        6,
    ),
    Kind(
        ("train", "grpo", "--denoiser", "toy", "--out", "run", "--resume"),
        ("toy", "run"),
        ("run/settings.json", "run/checkpoint.safetensors", "run/logs/progress.csv", "run/logs/events.out.*"),
        (*GRPO, "--save-every", "1"),
        5,
    ),
    Kind(
        ("train", "ppo", "--config", "ppo.json", "--denoiser", "toy", "--out", "out"),
        ("toy", "ppo.json"),
        ("ppo.json",),
        PPO,
        2,
    ),
    Kind(
        ("train", "denoiser", "--config", "denoiser.yaml", "--out", "out"),
        ("denoiser.yaml",),
        ("denoiser.yaml",),
        DENOISER,
        1,
    ),
    Kind(
        ("push", "run", "someone/policy", "--results", "results", "--dry-run", "pushed"),
        ("run", "results"),
        ("run/best/policy.json", "results/results.json"),
        (),
        3,
    ),
    Kind(("tasks",), (), ()),
    Kind(("policies",), (), ()),
    Kind(("demo", "--seed", "1", "--out", "toy/config.json"), ("toy",), (), ("--out", "toy/config.json")),
    Kind(("ablate", "heads", "--heads", "bernoulli", "--out", "/proc/x"), (), (), ("--out", "/proc/x")),
    Kind(
        ("lm-eval", "--tasks", "nosuch", "--model_args", "denoiser=toy,policy=top_k:8", "--config", "harness.yaml"),
        ("toy", "harness.yaml"),
        ("harness.yaml",),
        ("--tasks", "nosuch"),
    ),
)


def make_fixtures(root: Path) -> None:
    """Valid files of every kind, made by the commands themselves."""
    sys.path.append(str(Path(__file__).parents[2] / "examples"))
    from make_checkpoint import make_llada

    toy(root / "toy")
    make_llada(root / "llada")
    commands = (
        ["train", "grpo", "--denoiser", "toy", *GRPO, "--out", "run", "--save-every", "1"],
        ["eval", "--policies", "top_k:8", "random:8", "--denoiser", "toy", *EVAL, "--out", "results"],
    )
    for command in commands:
        done = run(command, root, 300)
        if done.status:
            raise RuntimeError(f"{' '.join(command)} ends with {done.status}: {done.said[-2000:]}")
    (root / "said").unlink()
    suite = {
        "problems": 2,
        "policies": ["top_k:8", {"threshold": {"threshold": [0.5, 0.9]}}],
        "evaluations": [{"task": "trace", "block_length": ["full", 8]}, {"task": "sudoku", "seeds": 1}],
    }
    (root / "suite.yaml").write_text(yaml.safe_dump(suite))
    settings = {
        "learning_rate": 0.001,
        "betas": [0.9, 0.99],
        "reward": ["multiplicative"],
        "policy": {"head": "bernoulli"},
    }
    (root / "run.yaml").write_text(yaml.safe_dump(settings))
    (root / "ppo.json").write_text(json.dumps({"gamma": 1.0, "n_epochs": 1, "optimizer": {"max_grad_norm": 0.5}}))
    (root / "denoiser.yaml").write_text(yaml.safe_dump({"seed": 2, "max_grad_norm": 1.0, "warmup": 1}))
    (root / "harness.yaml").write_text(yaml.safe_dump({"limit": 2, "seed": [0, 1, 2, 3], "batch_size": 2}))
    rows = [{"question": f"What is {n} and {n}?", "answer": f"So.\n#### {2 * n}"} for n in range(40)]
    (root / "gsm8k.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def limit_memory() -> None:
    """In a case's process."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY,) * 2)


def prepare(rng: random.Random, fixtures: Path, folder: Path) -> tuple[list[str], str]:
    """Copies and damages files; returns the arguments, and what was done in words."""
    kind = rng.choices(KINDS, [kind.weight for kind in KINDS])[0]
    folder.mkdir()
    for part in kind.parts:
        whole = fixtures / part
        (shutil.copytree if whole.is_dir() else shutil.copy)(whole, folder / part)
    arguments, done = list(kind.arguments), ""
    if kind.files and rng.random() < 0.75:
        file = rng.choice(sorted(folder.glob(rng.choice(kind.files))))
        done = f"{file.relative_to(folder)}: {damage_file(rng, file)}"
    if not done or rng.random() < 0.15:
        count = 2 if arguments[0] in ("train", "ablate") else 1
        arguments = arguments[:count] + damage_arguments(rng, arguments[count:])
    return [*arguments, *kind.limits], done


def wrong(status: int, said: str) -> str:
    """What is wrong with an end; nothing where nothing is."""
    if "Traceback (most recent call last)" in said:
        return "a traceback"
    if status not in (0, 2):
        return f"exit status {status}"
    if status == 2:
        told = [line for line in said.splitlines() if line.startswith("dllm-env: ")]
        boxed = "For full helptext" in said or "usage: lm-eval" in said  # tyro's, and argparse's of the harness
        if not boxed and not (told and said.rstrip().endswith(told[-1].rstrip())):
            return "no line that says why"
        if any(len(line) > LETTERS for line in told):
            return "too long a line"
    return ""


def state_of(root: Path) -> dict[str, tuple[int, int]]:
    """Sizes and times of all files, to see whether one was touched."""
    found = {}
    for path in root.rglob("*"):
        about = path.lstat()
        if stat.S_ISREG(about.st_mode):
            found[str(path)] = (about.st_size, about.st_mtime_ns)
    return found


def play(tally: Tally, rounds: int, rng: random.Random, root: Path) -> None:
    """So many cases."""
    fixtures = root / "fixtures"
    make_fixtures(fixtures)
    before = state_of(fixtures)
    for number in range(rounds):
        folder = root / str(number)
        case = random.Random(f"{rng.random()}/{number}")
        try:
            arguments, done = prepare(case, fixtures, folder)
        except Exception:
            tally.check(False, f"case {number} cannot be made: {traceback.format_exc()}")
            continue
        about = f"case {number}: {' '.join(arguments)[:300]!r} ({done})"
        command = start(arguments, folder, limit_memory)
        try:
            status = command.wait(SECONDS)
            problem = wrong(status, command.said)
        except TimeoutError as error:
            status, problem = -1, str(error)[:200]
        tally.check(not problem, f"{about}: {problem}; it says {command.said[-600:]!r}")
        tally.add("refused" if status == 2 else "done" if status == 0 else "others")
        for path in folder.rglob("*"):
            if path.is_dir() and not path.is_symlink():
                os.chmod(path, 0o700)
        shutil.rmtree(folder, ignore_errors=True)
    tally.check(state_of(fixtures) == before, "files outside of the cases' folders were changed")
    others = {path.name for path in root.iterdir()} - {"fixtures"}
    tally.check(not others, f"written outside of the cases' folders: {others}")


if __name__ == "__main__":
    campaign("fuzz", play, 2000)
