"""Plays policies over the same problems and counts what they got right and what it cost.

Evaluation seed s stands for the problems (split, seed s, index 0 … N−1) and for the random streams of their rows.
All policies get the same problems and the same streams; another seed gives other problems, so that the spread
between seeds is that of a fresh evaluation.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from dllm_env.denoisers import load_denoiser
from dllm_env.dynamics import Dynamics, Rules
from dllm_env.errors import UsageError
from dllm_env.eval.metrics import bootstrap_interval, mean, tokens_before_eot
from dllm_env.policies.base import Policy
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.policies.rollout import Attempt, attempt, row_seeds
from dllm_env.random import derive_key
from dllm_env.tasks import Problem, Split, load_task

PROBLEMS, RESULTS_JSON, RESULTS_CSV = "problems.jsonl", "results.json", "results.csv"

OnProgress = Callable[[str, int], None]
"""Told what is being played and how many problems are done, of all policies together."""


@dataclass(frozen=True)
class EvaluationConfig:
    """What policies are compared on."""

    task: str = "trace"
    """Task, with settings after a colon: trace, trace:chains=4, sudoku."""
    denoiser: str = "tiny"
    """Bundled denoiser or folder of one."""
    block_length: tuple[int, ...] = ()
    """Block lengths to compare at, one or more; without any, the response length (full diffusion)."""
    problems: int = 500
    """Problems per seed."""
    seeds: int = 1
    """Evaluation seeds 0, 1, …: each has problems and random numbers of its own."""
    split: Split = "test"
    """Which problems: train, validation, test."""
    response_length: int = 0
    """Tokens to generate; 0 takes the task's."""
    temperature: float = 0.0
    """Of the denoiser's tokens; 0 takes the most probable."""
    max_steps: int = 0
    """Steps after which a row is cut off; 0 takes the response length."""
    stop_at_eot: bool = False
    """End a row as soon as an end-of-text is written and everything before it is."""
    batch_size: int = 128
    """Problems played at a time; changes the speed, not the results."""


@dataclass(frozen=True)
class Outcome:
    """How one problem went: a line of ``problems.jsonl``."""

    policy: str
    block_length: int
    seed: int
    index: int
    prompt: str
    response: str
    correct: float
    finished: bool
    nfe: int
    steps: int
    tokens: int


@dataclass(frozen=True)
class Result:
    """One policy at one block length under one evaluation seed: an entry of ``results.json``.

    Attributes:
        accuracy_low, accuracy_high: 95% bootstrap interval over the problems.
        nfe: mean denoiser evaluations per problem.
        tokens_per_nfe: response tokens before end-of-text over NFE, both summed over the problems.
        finished: share of the rows that were not cut off.
        seconds: wall time of all problems together.
        outcomes: every problem; not in the entry.
    """

    policy: str
    learned: bool
    task: str
    denoiser: str
    split: str
    response_length: int
    block_length: int
    temperature: float
    stop_at_eot: bool
    seed: int
    problems: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    nfe: float
    tokens_per_nfe: float
    finished: float
    seconds: float
    outcomes: list[Outcome] = field(repr=False)

    def entry(self) -> dict[str, Any]:
        """The figures, as ``results.json`` and ``results.csv`` have them."""
        return {name: getattr(self, name) for name in _COLUMNS}


_COLUMNS = [column.name for column in fields(Result) if column.name != "outcomes"]


class Evaluation:
    """An evaluation whose every input has been checked; nothing has been played yet.

    Args:
        config: task, denoiser, settings.
        policies: texts for ``load_policy``, or policies.

    Raises:
        UsageError: anything that cannot be evaluated as asked.
    """

    def __init__(self, config: EvaluationConfig, policies: Sequence[str | Policy]) -> None:
        _check(config, policies)
        self.config = config
        self.task = load_task(config.task)
        length = config.response_length or self.task.response_length
        self.rules = [
            Rules(
                length,
                block,
                temperature=config.temperature,
                max_steps=config.max_steps,
                stop_at_eot=config.stop_at_eot,
            )
            for block in config.block_length or (length,)
        ]
        self.denoiser = load_denoiser(config.denoiser)
        self.policies = [load_policy(policy, self.denoiser.device) for policy in policies]
        _refuse_repeated([policy.name for policy in self.policies], "policy")
        self.problems = [
            [self.task.problem(index, config.split, seed) for index in range(config.problems)]
            for seed in range(config.seeds)
        ]
        longest = max(len(self.denoiser.encode(p.prompt)) for problems in self.problems for p in problems)
        Dynamics(self.denoiser, self.rules[0], max(longest, self.task.prompt_length))

    @property
    def total(self) -> int:
        """Problems to play, of all policies, block lengths and seeds together."""
        return len(self.policies) * len(self.rules) * self.config.seeds * self.config.problems

    def run(self, on_progress: OnProgress | None = None) -> Iterator[Result]:
        """Plays everything; each result comes as soon as it is there."""
        before = 0
        for rules in self.rules:
            for policy in self.policies:
                for seed, problems in enumerate(self.problems):
                    label = f"{policy.name}, BL {rules.block_length}, seed {seed}"

                    def report(done: int, label: str = label, before: int = before) -> None:
                        if on_progress is not None:
                            on_progress(label, before + done)

                    report(0)
                    seeds = row_seeds(len(problems), "evaluation", seed)
                    played = attempt(
                        self.denoiser,
                        policy,
                        rules,
                        self.task,
                        problems,
                        seeds,
                        batch_size=self.config.batch_size,
                        on_progress=report,
                    )
                    yield self._result(policy, rules, seed, problems, played)
                    before += len(problems)

    def _result(self, policy: Policy, rules: Rules, seed: int, problems: list[Problem], played: Attempt) -> Result:
        rollout = played.rollout
        tokens = tokens_before_eot(rollout.responses, self.denoiser.eot_id, self.denoiser.mask_id)
        columns = (played.correct, rollout.finished, rollout.nfe, rollout.steps, tokens)
        outcomes = [
            Outcome(policy.name, rules.block_length, seed, problem.index, problem.prompt, text, *figures)
            for problem, text, *figures in zip(
                problems, played.texts, *(column.tolist() for column in columns), strict=True
            )
        ]
        low, high = accuracy_interval(outcomes)
        return Result(
            policy=policy.name,
            learned=isinstance(policy, LearnedPolicy),
            task=self.task.name,
            denoiser=self.denoiser.name,
            split=self.config.split,
            response_length=rules.response_length,
            block_length=rules.block_length,
            temperature=rules.temperature,
            stop_at_eot=rules.stop_at_eot,
            seed=seed,
            problems=len(outcomes),
            accuracy=mean([outcome.correct for outcome in outcomes]),
            accuracy_low=low,
            accuracy_high=high,
            nfe=mean([outcome.nfe for outcome in outcomes]),
            tokens_per_nfe=tokens_per_nfe(outcomes),
            finished=mean([outcome.finished for outcome in outcomes]),
            seconds=rollout.seconds,
            outcomes=outcomes,
        )


def accuracy_interval(outcomes: Sequence[Outcome]) -> tuple[float, float]:
    """95% bootstrap interval of the accuracy; the same outcomes give the same interval."""
    correct = [outcome.correct for outcome in outcomes]
    generator = np.random.default_rng(derive_key("bootstrap", len(correct)) % 2**63)
    return bootstrap_interval(correct, generator)


def tokens_per_nfe(outcomes: Sequence[Outcome]) -> float:
    """Response tokens before end-of-text per denoiser evaluation, over all problems together."""
    return sum(outcome.tokens for outcome in outcomes) / sum(outcome.nfe for outcome in outcomes)


def _check(config: EvaluationConfig, policies: Sequence[str | Policy]) -> None:
    if not policies:
        raise UsageError("no policies to evaluate; give some, for example --policies threshold:0.9 top_k:1")
    for name in ("problems", "seeds", "batch_size"):
        if getattr(config, name) < 1:
            flag = name.replace("_", "-")
            raise UsageError(f"--{flag} must be at least 1, got {getattr(config, name)}")
    _refuse_repeated(list(config.block_length), "block length")


def _refuse_repeated(values: Sequence[str | int], what: str) -> None:
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f"the {what} {value} is given twice; name each once")


def evaluate(
    config: EvaluationConfig, policies: Sequence[str | Policy], on_progress: OnProgress | None = None
) -> list[Result]:
    """Evaluates policies: one result for each block length, policy and seed, in that order.

    Raises:
        UsageError: anything that cannot be evaluated as asked, before the denoiser is called.
    """
    return list(Evaluation(config, policies).run(on_progress))


def append_problems(folder: Path, result: Result) -> None:
    """Adds a result's problems to ``problems.jsonl``, so that an interruption loses nothing that was finished."""
    with (folder / PROBLEMS).open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(asdict(outcome)) + "\n" for outcome in result.outcomes)


def write_results(folder: Path, results: Sequence[Result]) -> None:
    """Writes ``results.json`` (a list with one object per result) and ``results.csv``."""
    entries = [result.entry() for result in results]
    (folder / RESULTS_JSON).write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
    with (folder / RESULTS_CSV).open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS)
        writer.writeheader()
        writer.writerows(entries)
