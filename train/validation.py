"""Validation while a policy is trained: which one is kept, and what TensorBoard shows of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import Figure, Logger
from torch import nn

from dllm_env.errors import UsageError
from dllm_env.intervals import wilson_interval
from dllm_env.pareto import Kind, Point, log_area, plot_pareto
from dllm_env.policies.base import Policy
from dllm_env.policies.heads import Bernoulli, Head
from dllm_env.policies.learned import CurvePoint, LearnedPolicy
from dllm_env.policies.networks import Scorer
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Attempt, row_seeds
from dllm_env.reading import as_table, check_fields, check_value
from dllm_env.train.config import PolicyTraining, ValidationConfig
from dllm_env.train.run import machine
from dllm_env.train.settings_file import flat
from dllm_env.train.setup import Setup

NOT_TENSORBOARD = ("stdout", "log", "json", "csv")
"""SB3's outputs that take numbers only."""


@dataclass(frozen=True)
class Score:
    """What a policy does on the validation problems.

    A policy for all α has the area under its curve (``pareto.log_area``) as its reward, and accuracy and NFE of the
    middle α.
    """

    reward: float
    accuracy: float
    nfe: float


CURVE = 5
"""α of a validation, equally far apart on a logarithmic scale."""
FINE = 9
"""α of the curve that is saved at the end."""


def validate(setup: Setup, policy: Policy, settings: PolicyTraining) -> tuple[Score, Attempt]:
    """Plays the fixed validation problems with fixed random streams; a rule sees what rules do."""
    seeds = row_seeds(len(setup.validation), "validation", settings.seed)
    tried = setup.attempt(policy, setup.validation, seeds)
    reward = setup.rewards(tried.outcomes(setup.validation)).total
    score = Score(reward.mean().item(), tried.correct.mean().item(), tried.rollout.nfe.float().mean().item())
    return score, tried


def alphas(low: float, high: float, count: int) -> list[float]:
    """From the smallest to the largest, each the same multiple of the one before."""
    return [low * (high / low) ** (i / (count - 1)) for i in range(count)]


def validate_curve(
    setup: Setup, policy: LearnedPolicy, settings: PolicyTraining, count: int
) -> tuple[Score, Attempt, tuple[CurvePoint, ...]]:
    """The same for a policy that reads α, at ``count`` of them."""
    low, high = settings.rewards.preferences
    chosen = alphas(low, high, count)
    played = [validate(setup, policy.at(alpha), settings) for alpha in chosen]
    curve = tuple(CurvePoint(a, score.accuracy, score.nfe) for a, (score, _) in zip(chosen, played, strict=True))
    area = log_area([(point.nfe, point.accuracy) for point in curve], setup.rules.response_length)
    middle, tried = played[count // 2]
    return replace(middle, reward=area), tried, curve


def heads_at_test(head: Head, settings: ValidationConfig) -> list[Head]:
    """The head as it may be used: at each of the temperatures to try, which multiply its own.

    Raises:
        UsageError: forced progress, and a head that has no such thing.
    """
    changes: dict[str, Any] = {}
    if settings.test_force_progress:
        if not isinstance(head, Bernoulli):
            raise UsageError("test_force_progress is for head bernoulli; the others always make progress")
        changes["force_progress"] = True
    return [
        replace(head, temperature=head.temperature * factor, **changes)  # type: ignore[type-var]
        for factor in settings.test_temperatures
    ]


def rank(score: Score, setup: Setup, settings: PolicyTraining) -> tuple[bool, float]:
    """What ``best`` has most of: within the NFE budget first, then reward."""
    return score.nfe <= settings.validation.nfe_budget * setup.rules.response_length, score.reward


class Validator:
    """Evaluates a policy while it is trained, and keeps it on the disk: as ``last``, and as ``best`` where it is.

    Args:
        setup, settings: of the run.
        folder: the run's.
    """

    def __init__(self, setup: Setup, settings: PolicyTraining, folder: Path) -> None:
        self.setup, self.settings, self.folder = setup, settings, folder
        self.heads = heads_at_test(setup.policy.head, settings.validation)
        self.best: tuple[bool, float] = (False, -math.inf)
        """Rank of the best evaluation so far."""
        self.update = -1
        """Of the last evaluation."""
        self.points: list[Point] = []
        """The heuristics, then the policy at each evaluation."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold of it."""
        return {"best": self.best, "points": [asdict(point) for point in self.points]}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what ``state`` gave."""
        best: Any = state.get("best")
        points: Any = state.get("points")
        if not (isinstance(best, list) and len(best) == 2 and best[1] == -math.inf):  # nothing is the best yet
            check_value(best, tuple[bool, float], "the checkpoint's best")
        check_value(points, list, "the checkpoint's points")
        for point in points:
            check_fields(Point, as_table(point, "the checkpoint's points"), "the checkpoint's points")
        self.best = (best[0], best[1])
        self.points = [Point(**point) for point in points]

    def __call__(self, network: Scorer, update: int, log: Logger, critic: nn.Linear | None = None) -> str:
        """Evaluates, logs and saves, with the critic if there is one; returns the figures for the progress bar."""
        setup, settings, self.update = self.setup, self.settings, update
        context = setup.policy.context
        policies = [LearnedPolicy(network.eval(), head, context, critic=critic) for head in self.heads]
        tried = [(*self._judge(policy, CURVE), policy) for policy in policies]
        score, played, curve, policy = max(tried, key=lambda one: rank(one[0], setup, settings))
        policy.curve = curve
        for name, value in asdict(score).items():
            log.record(f"validation/{name}", value)
        log.record("validation/temperature", policy.head.temperature)
        self.show(score, played, update, log)
        policy.training = {**flat(settings), "update": update, "validation": asdict(score), **machine()}
        self.keep(policy, "last")
        if (now := rank(score, setup, settings)) > self.best:
            self.best = now
            self.keep(policy, "best")
        return f"accuracy {score.accuracy:.0%} NFE {score.nfe:.1f}"

    def keep(self, policy: LearnedPolicy, name: str) -> None:
        """Writes what was evaluated into the run's folder of that name."""
        if self.setup.world.first:
            policy.save_pretrained(self.folder / name)

    def _judge(self, policy: LearnedPolicy, count: int) -> tuple[Score, Attempt, tuple[CurvePoint, ...]]:
        if self.settings.rewards.preferences:
            return validate_curve(self.setup, policy, self.settings, count)
        return (*validate(self.setup, policy, self.settings), ())

    def end(self) -> None:
        """Measures the curves of ``best`` and ``last`` more finely, and saves them with it."""
        if not self.settings.rewards.preferences:
            return
        measured: dict[str, tuple[CurvePoint, ...]] = {}
        self.setup.world.wait()  # for what the first process writes
        for name in ("best", "last"):
            policy = LearnedPolicy.from_pretrained(self.folder / name, self.setup.denoiser.device)
            if len(policy.curve) == FINE:
                continue  # a run that was done already
            same = policy.fingerprint()
            policy.curve = measured[same] = measured.get(same) or self._judge(policy, FINE)[2]
            self.setup.world.wait()  # until all have read it
            if self.setup.world.first:
                policy.save_pretrained(self.folder / name)

    def show(self, score: Score, played: Attempt, update: int, log: Logger) -> None:
        """For TensorBoard: the policy so far among the heuristics, and how it writes one response."""
        if not self.points:
            rules = [load_heuristic(rule) for rule in self.settings.validation.validation_rules]
            self.points = [self._point(rule.name, validate(self.setup, rule, self.settings)[0]) for rule in rules]
        self.points.append(self._point(str(update), score, "learned"))
        title = f"update {update}, block length {self.setup.rules.block_length}, validation problems"
        figure = plot_pareto({title: self.points}, dpi=90)
        log.record("validation/front", Figure(figure, close=False), exclude=NOT_TENSORBOARD)
        log.record("validation/sample", self._sample(played), exclude=NOT_TENSORBOARD)

    def _point(self, label: str, score: Score, kind: Kind = "heuristic") -> Point:
        """With Wilson's 95% interval of the accuracy."""
        count = len(self.setup.validation)
        low, high = wilson_interval(score.accuracy * count, count)
        return Point(label, kind, score.nfe, score.accuracy, low, high)

    def _sample(self, played: Attempt) -> str:
        """The first validation problem as a text, a line for each step that wrote something; code in Markdown."""
        denoiser, rollout = self.setup.denoiser, played.rollout
        words = [denoiser.decode([token]) for token in rollout.responses[0].tolist()]
        lines = unmasking_lines(words, rollout.revealed_at[0].tolist())
        verdict = f"{'right' if played.correct[0] == 1 else 'wrong'}, {int(rollout.nfe[0])} NFE"
        about = [f"prompt    {self.setup.validation[0].prompt}", *lines, f"answer    {played.texts[0]}", verdict]
        return "\n".join("    " + line for line in about)


def unmasking_lines(words: list[str], revealed_at: list[int], mask: str = "·") -> list[str]:
    """A line for each step that wrote something: what stands there after it.

    Args:
        words: L tokens as text.
        revealed_at: (L) step from 0, −1 where no step wrote the token.
        mask: what a mask is shown as.
    """
    lines = []
    for step in sorted({step for step in revealed_at if step >= 0}):
        shown = (word if 0 <= at <= step else mask for word, at in zip(words, revealed_at, strict=True))
        lines.append(f"step {step + 1:<5}{' '.join(shown)}")
    return lines
