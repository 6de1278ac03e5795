"""Validation while a policy is trained: which one is kept, and what TensorBoard shows of it."""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import Figure, Logger

from dllm_env.intervals import wilson_interval
from dllm_env.pareto import Point, plot_pareto
from dllm_env.policies.networks import PolicyNetwork
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import Attempt
from dllm_env.train.run import machine
from dllm_env.train.setting import PolicyTraining, Score, Setting, validate

NOT_TENSORBOARD = ("stdout", "log", "json", "csv")
"""SB3's outputs that take numbers only."""


class Keeper:
    """Evaluates a policy while it is trained, and keeps it on the disk: as ``last``, and as ``best`` where it is.

    Args:
        setting, settings: of the run.
        folder: the run's.
    """

    def __init__(self, setting: Setting, settings: PolicyTraining, folder: Path) -> None:
        self.setting, self.settings, self.folder = setting, settings, folder
        self.best: tuple[bool, float] = (False, -math.inf)
        """Rank of the best evaluation so far."""
        self.points: list[Point] = []
        """The heuristics, then the policy at each evaluation."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint has to hold of it."""
        return {"best": self.best, "points": [asdict(point) for point in self.points]}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over what ``state`` gave."""
        self.best = tuple(state["best"])
        self.points = [Point(**point) for point in state["points"]]

    def __call__(self, network: PolicyNetwork, update: int, log: Logger) -> str:
        """Evaluates, logs and saves; returns the figures for the progress bar."""
        setting, settings = self.setting, self.settings
        tried = [(*validate(setting, p, settings), p) for p in setting.test_policies(network, settings)]
        score, played, policy = max(tried, key=lambda one: setting.rank(one[0], settings))
        for name, value in asdict(score).items():
            log.record(f"validation/{name}", value)
        log.record("validation/temperature", policy.head.temperature)
        self.show(score, played, update, log)
        policy.training = {**asdict(settings), "update": update, "validation": asdict(score), **machine()}
        policy.save_pretrained(self.folder / "last")
        if (rank := setting.rank(score, settings)) > self.best:
            self.best = rank
            policy.save_pretrained(self.folder / "best")
        return f"accuracy {score.accuracy:.0%} NFE {score.nfe:.1f}"

    def show(self, score: Score, played: Attempt, update: int, log: Logger) -> None:
        """For TensorBoard: the policy so far among the heuristics, and how it writes one response."""
        if not self.points:
            rules = [load_heuristic(rule) for rule in self.settings.validation_rules]
            self.points = [self._point(rule.name, validate(self.setting, rule, self.settings)[0]) for rule in rules]
        self.points.append(self._point(str(update), score, learned=True))
        title = f"update {update}, block length {self.setting.rules.block_length}, validation problems"
        figure = plot_pareto({title: self.points}, dpi=90)
        log.record("validation/front", Figure(figure, close=False), exclude=NOT_TENSORBOARD)
        log.record("validation/sample", self._sample(played), exclude=NOT_TENSORBOARD)

    def _point(self, label: str, score: Score, learned: bool = False) -> Point:
        """With Wilson's 95% interval of the accuracy."""
        count = len(self.setting.validation)
        low, high = wilson_interval(score.accuracy * count, count)
        return Point(label, learned, score.nfe, score.accuracy, low, high)

    def _sample(self, played: Attempt) -> str:
        """The first validation problem as a text, a line for each step that wrote something; code in Markdown."""
        denoiser, rollout = self.setting.denoiser, played.rollout
        words = [denoiser.decode([token]) for token in rollout.responses[0].tolist()]
        lines = unmasking_lines(words, rollout.revealed_at[0].tolist())
        verdict = f"{'right' if played.correct[0] == 1 else 'wrong'}, {int(rollout.nfe[0])} NFE"
        about = [f"prompt    {self.setting.validation[0].prompt}", *lines, f"answer    {played.texts[0]}", verdict]
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
