"""The demo: a policy is trained, then compared with the heuristics at two block lengths."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dllm_env.errors import UsageError
from dllm_env.eval.compare import Entry, best_heuristic
from dllm_env.eval.evaluate import Evaluation, EvaluationConfig
from dllm_env.eval.results import PROBLEMS
from dllm_env.eval.runner import finish, play
from dllm_env.locks import locked
from dllm_env.policies.heads import Bernoulli, load_head
from dllm_env.reading import exists
from dllm_env.specs import split
from dllm_env.tasks.load import load_task
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.presets import PRESETS
from dllm_env.train.run import CHECKPOINT, default_folder

RIVALS = tuple(f"threshold:threshold={t:g},fallback=leftmost" for t in (0.5, 0.6, 0.7, 0.8))
"""The best rule of all, which gets as many problems as the learned policy."""
OTHERS = (
    *("threshold:0.5", "threshold:0.7", "threshold:0.9", "top_k:1", "top_k:4"),
    *("random:1", "random:4", "leftmost:1", "leftmost:4", "oracle"),
)
"""Other rules and the oracle, which would take most of the demo's time: they get fewer problems."""
ALPHAS = (0.01, 0.1, 1.0, 10.0)
"""Where the policy is measured, if it reads α."""


@dataclass(frozen=True)
class DemoConfig:
    """What the demo does; the defaults are those of ``dllm-env demo``."""

    training: GRPO = PRESETS["demo"]
    """How the policy is trained; in full diffusion, whatever its block length."""
    problems: int = 200
    """Test problems of the learned policy and of its best rivals."""
    slow_problems: int = 40
    """The first so many of them, for other heuristics and the oracle."""
    block_length: int = 8
    """The semi-autoregressive comparison, to which the policy is transferred as it is."""


def default_demo_folder() -> Path:
    """``runs/DATE-demo``."""
    return default_folder("demo")


def run_demo(config: DemoConfig, folder: Path, resume: bool = False) -> Path:
    """Trains, evaluates, and prints what came out.

    Args:
        config: how much of everything.
        folder: gets the training run, the results and the picture.
        resume: continue the demo that is there.

    Returns:
        The folder.

    Raises:
        UsageError: the folder holds a run or results already, or somebody else is writing into it.
    """
    with locked(folder):
        return _run(config, folder, resume)


def _run(config: DemoConfig, folder: Path, resume: bool) -> Path:
    if exists(folder / PROBLEMS) and not resume:
        raise UsageError(f"{folder} holds results already; give --resume to add what is missing, or another --out")
    training = replace(config.training, block_length=0)
    print(f"1/2  training a policy on {training.task} in full diffusion, into {folder}")
    trained = train_grpo(training, folder, resume and exists(folder / CHECKPOINT))
    evaluations = demo_evaluations(config, training, str(trained))
    print("2/2  comparing it with the heuristics")
    play(evaluations, folder)
    print(summary(finish(folder), folder, training))
    return folder


def demo_evaluations(config: DemoConfig, training: GRPO, policy: str) -> list[Evaluation]:
    """The learned policy and its best rivals on all problems, the others on the first of them.

    In blocks a Bernoulli policy waits for positions that it may not choose yet, so there it is made to go on.
    """
    asked = [f"alpha={alpha:g}" for alpha in ALPHAS] if training.rewards.preferences else [""]
    waits = isinstance(load_head(training.policy.head), Bernoulli)

    def policies(*more: str) -> list[str]:
        settings = (",".join(filter(None, [alpha, *more])) for alpha in asked)
        return [":".join(filter(None, [policy, text])) for text in settings]

    settings = EvaluationConfig(
        task=training.task,
        denoiser=training.denoiser,
        response_length=training.response_length,
        problems=config.problems,
        batch_size=training.batch_size,
    )
    length = training.response_length or load_task(training.task).response_length
    both, in_blocks = (length, config.block_length), policies(*(["force_progress=1"] if waits else []))
    return [
        Evaluation(replace(settings, block_length=(length,)), [*policies(), *RIVALS]),
        Evaluation(replace(settings, block_length=(config.block_length,)), [*in_blocks, *RIVALS]),
        Evaluation(replace(settings, block_length=both, problems=config.slow_problems), OTHERS),
    ]


def summary(entries: Sequence[Entry], folder: Path, training: GRPO) -> str:
    """The comparison at equal speed in words, where everything is, and what to try next."""
    lines = [""]
    longest = max(entry.block_length for entry in entries)
    for entry in entries:
        if entry.learned:
            where = "full diffusion" if entry.block_length == longest else "semi-autoregressive (not trained there)"
            lines.append(f"{where}, BL = {entry.block_length}: {compared(entry, best_heuristic(entries, entry))}")
    name = shlex.quote(str(folder))
    task = f"--task {training.task} --denoiser {training.denoiser}"
    lines += [
        "",
        f"picture      {folder / 'front.png'}",
        f"figures      {folder / 'results.json'}, {folder / 'results.csv'}, {folder / PROBLEMS}",
        f"policy       {folder / 'best'}",
        f"training     tensorboard --logdir {name}",
        "",
        "What to try next:",
        f"  dllm-env generate {task} --policy {name}{_a_point(training)} --index 3   # watch it write",
        f"  dllm-env generate {task} --policy threshold:0.9 --index 3   # and watch a heuristic",
        f"  dllm-env train grpo {task} --alpha 1                        # a policy for one weight of speed",
        f"  dllm-env train grpo {task} --block-length 8                 # one for semi-autoregressive use",
        f"  dllm-env eval {task} --policies {name}{_a_point(training)} threshold:0.9 --seeds 3   # more problems",
    ]
    return "\n".join(lines)


def _a_point(training: GRPO) -> str:
    """Behind the name of a policy for all α, one of them."""
    return ":alpha=0.1" if training.rewards.preferences else ""


def compared(learned: Entry, rival: Entry | None) -> str:
    """One line: the learned policy against the best heuristic that needs no more NFE."""
    settings = split(learned.policy)[1]
    mine = f"learned{f' ({settings})' if settings else ''} {learned.accuracy:.1%} at {learned.nfe:.1f} NFE"
    if rival is None:
        return f"{mine}; no heuristic here is as fast"
    return f"{mine}; best heuristic as fast: {rival.policy} with {rival.accuracy:.1%} at {rival.nfe:.1f} NFE"
