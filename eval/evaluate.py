"""Plays policies over the same problems, and goes on where it was stopped.

Evaluation seed s stands for the problems (split, seed s, index 0 … N−1) and for the random streams of their rows.
All policies get the same problems and the same streams; another seed gives other problems, so that the spread
between seeds is that of a fresh evaluation. Samples of a problem differ in their streams only.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch

from dllm_env.denoisers.base import Denoiser
from dllm_env.denoisers.load import DenoiserLike, load_denoiser
from dllm_env.dynamics import Dynamics, given_by
from dllm_env.errors import UsageError
from dllm_env.eval.metrics import tokens_before_eot
from dllm_env.eval.results import Outcome, Result, Setting, code_version
from dllm_env.policies.base import Assignment, Player, Reference, not_allowed, undoes
from dllm_env.policies.learned import LearnedPolicy, load_policy
from dllm_env.policies.references import REFERENCES, load_reference, prepared, reference_kind
from dllm_env.policies.registry import HEURISTICS
from dllm_env.policies.rollout import Attempt, attempt
from dllm_env.random import derive_key
from dllm_env.reading import exists
from dllm_env.rewards import Cost, Outcomes, RewardLike, load_rewards
from dllm_env.rules import Rules
from dllm_env.specs import check_types, split
from dllm_env.tasks.base import Problem, Split, Task, count_problems
from dllm_env.tasks.load import TaskLike, load_task
from dllm_env.user_code import file_part

ENDLESS = 500
"""Problems of a task without end, unless told otherwise."""

ROWS = 2_000_000
"""Responses of an evaluation at most."""
LOOKED_AT = 5000
"""Problems of each seed whose prompts are looked at before anything is played; most benchmarks have fewer."""

Place = tuple[int, int]
"""A problem's index and which of its samples."""
OnProgress = Callable[[str, int], None]
"""Told what is being played, and how many more rows are done."""


@dataclass(frozen=True)
class EvaluationConfig(Rules):
    """What policies are compared on.

    Raises:
        UsageError: a value of another kind or out of range.
    """

    task: TaskLike = "trace"
    """Task, with settings after a colon: trace, trace:chains=4, sudoku, gsm8k, math500, humaneval, mbpp, countdown,
    sudoku4, reasoning-gym:NAME."""
    denoiser: DenoiserLike = "tiny"
    """Bundled denoiser or folder of one."""
    device: str = ""
    """Where denoiser and policies run, for example cuda; by default a GPU for checkpoints in Hugging Face's format,
    if there is one, and the processor for the bundled ones."""
    block_length: tuple[int, ...] = ()  # type: ignore[assignment]
    """Block lengths to compare at, one or more; full, or without any, the response length (full diffusion)."""
    problems: int = 0
    """Problems per seed; 0 takes all of a benchmark, and 500 of a task without end."""
    seeds: int = 1
    """Evaluation seeds 0, 1, …: each has problems and random numbers of its own, so a benchmark has one."""
    samples: int = 1
    """Responses to each problem; more than one makes sense where something is random."""
    split: Split = "test"
    """Which problems: train, validation, test."""
    batch_size: int = 128
    """Problems played at a time; changes the speed, not the results (docs/reproducibility.md: where)."""
    data: str = ""
    """File or folder with a benchmark's problems; without it, they come from the Hugging Face Hub."""
    allow_code_execution: bool = False
    """Let tasks that are judged by running programs run what the denoiser writes, in a sandbox."""
    reward: tuple[RewardLike, ...] = ()
    """Rewards to compute besides: multiplicative, additive, or functions of your own; several are added."""
    reward_weights: tuple[float, ...] = ()
    """A weight for each reward; without any, all count 1."""
    alpha: float = 0.1
    """Weight of speed in multiplicative and additive."""
    cost: Cost = "nfe"
    """What they count: denoiser evaluations (nfe), or steps."""

    def __post_init__(self) -> None:
        check_types(self, "reward")
        _ = self.rules

    @property
    def rules(self) -> list[Rules]:
        """One for each block length."""
        return [Rules.of(self, block_length=block) for block in self.block_length or (0,)]


@dataclass(frozen=True)
class Job:
    """A policy at a block length under a seed, not yet played."""

    setting: Setting
    policy: Player
    rules: Rules
    seed: int


class Evaluation:
    """An evaluation whose every input has been checked; nothing has been played yet.

    Args:
        config: task, denoiser, settings.
        policies: texts for ``load_policy`` or ``load_reference``, or policies. One for a range of α without an α is
            played at some from all of it.
        denoiser: the config's, where it is loaded already.

    Raises:
        UsageError: anything that cannot be evaluated as asked.
    """

    def __init__(
        self, config: EvaluationConfig, policies: Sequence[str | Player], denoiser: Denoiser | None = None
    ) -> None:
        _check(config, policies)
        self.config = config
        self.task = load_task(config.task, config.data, config.allow_code_execution)
        weights, alpha, cost = config.reward_weights, config.alpha, config.cost
        self.rewards = load_rewards(config.reward, weights, alpha, cost) if config.reward or weights else None
        count = _count(config, self.task)
        _check_rows(config, count, len(policies))
        length = self.task.response_length
        for each in config.rules:  # what does not fit is refused before anything large is read
            each.resolve(length)
        self.denoiser = denoiser or load_denoiser(config.denoiser, config.device or None)
        rules = [each.resolve(length, self.denoiser.attention_block) for each in config.rules]
        _refuse_repeated([each.block_length for each in rules], "block length")
        loaded = [each for policy in policies for each in _load(policy, self.denoiser.device)]
        _check_rows(config, count, len(loaded))
        _refuse_repeated([_one_name(policy.name) for policy in loaded], "policy")
        for policy in loaded:
            if missing := not_allowed(policy, config):
                raise UsageError(f"{policy.name} {undoes(policy)}; allow it with --{missing.replace('_', '-')}")
        self.jobs = [
            Job(self._setting(policy, some, seed), policy, some, seed)
            for some in rules
            for policy in loaded
            for seed in range(config.seeds)
        ]
        self.count = count
        self.places = [(index, sample) for index in range(count) for sample in range(config.samples)]
        looked_at = ((seed, index) for seed in range(config.seeds) for index in range(min(count, LOOKED_AT)))
        problems = [self.problem(*place) for place in looked_at]
        longest = max(len(self.denoiser.encode(problem.prompt)) for problem in problems)
        for some in rules:
            given_by(self.denoiser, [problem.template for problem in problems], some.response_length)
            Dynamics(self.denoiser, some, max(longest, self.task.prompt_length))

    def problem(self, seed: int, index: int) -> Problem:
        """One that is played."""
        return self.task.problem(index, self.config.split, seed)

    def _setting(self, policy: Player, rules: Rules, seed: int) -> Setting:
        fingerprint: Callable[[], str] = getattr(policy, "fingerprint", str)
        return Setting(
            policy=policy.name,
            learned=isinstance(policy, LearnedPolicy),
            task=self.task.name,
            denoiser=self.denoiser.name,
            split=self.config.split,
            **asdict(rules),
            seed=seed,
            policy_version=fingerprint(),
            denoiser_version=self.denoiser.fingerprint(),
            code_version=code_version(),
        )

    def check_same_problems(self, result: Result) -> None:
        """Compares problems that were played before with those that there are now.

        Raises:
            UsageError: the task's data have changed since.
        """
        if result.setting.key not in {job.setting.key for job in self.jobs}:
            return
        for outcome in result.outcomes:
            here = outcome.seed < self.config.seeds and outcome.index < self.count
            if here and self.problem(outcome.seed, outcome.index).prompt != outcome.prompt:
                raise UsageError(
                    f"problem {outcome.index} of {self.task.name} was another one when these results were made: "
                    "its data have changed, so give another --out"
                )

    def missing(self, job: Job, done: Container[tuple[str, Place]]) -> list[Place]:
        """What of a job is not done yet."""
        return [place for place in self.places if (job.setting.key, place) not in done]

    def play(self, job: Job, places: Sequence[Place], on_progress: OnProgress | None = None) -> list[Outcome]:
        """Plays some of a job's problems.

        A row depends on its seed, index and sample alone, so that pieces of any size give the same.
        """
        config, before = self.config, 0
        problems = [self.problem(job.seed, index) for index, _ in places]

        def report(done: int) -> None:
            nonlocal before
            if on_progress is not None:
                on_progress(label(job.setting), done - before)
            before = done

        seeds = [row_seed(job.seed, place) for place in places]
        plan = prepared(
            job.policy, Assignment(self.denoiser, job.rules, self.task, problems, seeds, config.batch_size)
        )
        played = attempt(
            self.denoiser,
            plan.policy,
            job.rules,
            self.task,
            problems,
            seeds,
            batch_size=config.batch_size,
            memory=plan.memory,
            on_progress=report,
        )
        outcomes = self._outcomes(job.setting, places, [problem.prompt for problem in problems], played)
        if plan.evaluations is None:
            return outcomes
        planned = plan.evaluations.tolist()
        return [replace(one, planning_nfe=nfe) for one, nfe in zip(outcomes, planned, strict=True)]

    def _outcomes(
        self, setting: Setting, places: Sequence[Place], prompts: Sequence[str], played: Attempt
    ) -> list[Outcome]:
        rollout, denoiser = played.rollout, self.denoiser
        tokens = tokens_before_eot(rollout.responses, denoiser.end_ids, denoiser.mask_id).tolist()
        correct, finished, confidence = (
            played.correct.tolist(),
            rollout.finished.tolist(),
            rollout.sureness.tolist(),
        )
        return [
            Outcome(
                setting=setting.key,
                policy=setting.policy,
                block_length=setting.block_length,
                seed=setting.seed,
                index=index,
                sample=sample,
                prompt=prompts[row],
                response=played.texts[row],
                correct=correct[row],
                finished=finished[row],
                nfe=int(rollout.nfe[row]),
                steps=int(rollout.steps[row]),
                remasks=int(rollout.remasks[row]),
                tokens=tokens[row],
                seconds=rollout.seconds / len(places),
                words=[
                    "" if t == denoiser.mask_id else denoiser.decode([t]) for t in rollout.responses[row].tolist()
                ],
                revealed_at=rollout.revealed_at[row].tolist(),
                confidence=[round(value, 4) for value in confidence[row]],
            )
            for row, (index, sample) in enumerate(places)
        ]


def earned(evaluation: Evaluation, outcomes: Sequence[Outcome], length: int) -> list[Outcome]:
    """The outcomes with what they have earned, where the evaluation has rewards.

    Args:
        evaluation: of which these are.
        outcomes: of rows that were played.
        length: L.

    Raises:
        UsageError: a reward that fails.
    """
    if evaluation.rewards is None or not outcomes:
        return list(outcomes)
    split = evaluation.config.split
    found = evaluation.rewards(
        Outcomes(
            problem=[evaluation.task.problem(outcome.index, split, outcome.seed) for outcome in outcomes],
            text=[outcome.response for outcome in outcomes],
            correct=torch.tensor([outcome.correct for outcome in outcomes]),
            nfe=torch.tensor([outcome.nfe for outcome in outcomes]),
            steps=torch.tensor([outcome.steps for outcome in outcomes]),
            length=length,
        )
    )
    parts = {name: values.tolist() for name, values in found.parts.items()} | {"total": found.total.tolist()}
    return [
        replace(outcome, rewards={name: values[row] for name, values in parts.items()})
        for row, outcome in enumerate(outcomes)
    ]


def row_seed(seed: int, place: Place) -> int:
    """A row's random streams under an evaluation seed. The first sample's are those of an evaluation of one."""
    index, sample = place
    return derive_key("evaluation", seed, *([f"sample {sample}"] if sample else []), index)


def label(setting: Setting) -> str:
    """Policy, block length and seed of a setting, for progress bars."""
    return f"{setting.policy}, BL {setting.block_length}, seed {setting.seed}"


def _load(policy: str | Player, device: torch.device) -> Sequence[Player]:
    if isinstance(policy, Reference):
        return [policy]
    if isinstance(policy, str) and reference_kind(policy):
        return [load_reference(policy)]
    loaded = load_policy(policy, device)
    return loaded.line() if isinstance(loaded, LearnedPolicy) else [loaded]


def _check(config: EvaluationConfig, policies: Sequence[str | Player]) -> None:
    if not policies:
        raise UsageError("no policies to evaluate; give some, for example --policies threshold:0.9 top_k:1")
    for name in ("seeds", "samples", "batch_size"):
        flag, value = name.replace("_", "-"), getattr(config, name)
        if value < 1:
            raise UsageError(f"--{flag} must be at least 1, got {value}")
        if value > ROWS:
            raise UsageError(f"--{flag} must be at most {ROWS:,}, got {value:,}")
    if config.problems < 0:
        raise UsageError(f"--problems must be at least 1, or 0 for all, got {config.problems}")
    _refuse_repeated(list(config.block_length), "block length")


def _check_rows(config: EvaluationConfig, problems: int, policies: int) -> None:
    """Before anything is made for each of them.

    Raises:
        UsageError: more rows than an evaluation can hold.
    """
    rows = problems * config.seeds * config.samples * policies * max(len(config.block_length), 1)
    if rows > ROWS:
        raise UsageError(
            f"{rows:,} responses (problems times seeds, samples, policies and block lengths) are more than "
            f"{ROWS:,}, the most of an evaluation; ask for fewer, or for several evaluations"
        )


def _count(config: EvaluationConfig, task: Task) -> int:
    """Problems per seed.

    Raises:
        UsageError: more than there are, or several seeds, which would have the same problems.
    """
    size = count_problems(task, config.split)
    if size is None:
        return config.problems or ENDLESS
    if config.problems > size:
        raise UsageError(f"{task.name} has {size:,} {config.split} problems, --problems {config.problems} is more")
    if config.seeds > 1:
        raise UsageError(
            f"{task.name} has one set of {config.split} problems, which more seeds would only repeat; for several "
            "responses to each, give --samples"
        )
    return config.problems or size


def _one_name(policy: str) -> str:
    """The same for ``runs/x``, ``./runs/x`` and ``runs/x/``."""
    known = (*HEURISTICS, *REFERENCES)
    name, settings = split(policy, known)
    is_place = name not in known and file_part(policy) is None and exists(Path(name))
    return ":".join(filter(None, [os.path.relpath(name), settings])) if is_place else policy


def _refuse_repeated(values: Sequence[str | int], what: str) -> None:
    for value in values:
        if values.count(value) > 1:
            raise UsageError(f"the {what} {value} is given twice; name each once")


def evaluate(
    config: EvaluationConfig, policies: Sequence[str | Player], on_progress: OnProgress | None = None
) -> list[Result]:
    """Evaluates policies: one result for each block length, policy and seed, in that order.

    Raises:
        UsageError: anything that cannot be evaluated as asked, before the denoiser is called.

    Examples:
        >>> config = EvaluationConfig(task="trace", problems=4, block_length=(40, 8))
        >>> [result.record()["accuracy"] for result in evaluate(config, ["leftmost:1"])]
        [1.0, 1.0]
    """
    evaluation = Evaluation(config, policies)
    results = []
    for job in evaluation.jobs:
        outcomes = evaluation.play(job, evaluation.places, on_progress)
        results.append(Result(job.setting, earned(evaluation, outcomes, job.rules.response_length)))
    return results


def prepare(plans: Sequence[tuple[EvaluationConfig, Sequence[str | Player]]]) -> list[Evaluation]:
    """Evaluations that share their denoisers, so that each is loaded once.

    Raises:
        UsageError: one of them cannot be done as asked.
    """
    denoisers: dict[tuple[DenoiserLike, str], Denoiser] = {}
    evaluations = []
    for config, policies in plans:
        place = (config.denoiser, config.device)
        evaluations.append(Evaluation(config, policies, denoisers.get(place)))
        denoisers[place] = evaluations[-1].denoiser
    return evaluations
