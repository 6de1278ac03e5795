"""Tasks: where prompts come from and when a response is right.

A task is text only. It does not know any denoiser: prompts and responses are strings, and the denoiser's own
tokenizer turns them into tokens. Each problem is a pure function of (split, seed, index), and the three splits
never share a prompt: a prompt belongs to the split that its hash names, and a draw that falls into another split
is drawn again.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from dllm_env.errors import UsageError

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Problem:
    """One prompt with what is needed to judge a response.

    Attributes:
        task: the task's full name, for example ``trace:chains=4``.
        split, seed, index: what the problem is a function of.
        prompt: the text shown to the denoiser.
        answer: what the task's ``score`` compares with; its form belongs to the task.
        template: what the response begins with, ``[[n]]`` for n masks (see ``Denoiser.encode_template``); it is
            part of the response that is scored. Without one, everything is written.
    """

    task: str
    split: Split
    seed: int
    index: int
    prompt: str
    answer: tuple[str, ...] = field(repr=False)
    template: str = ""


@runtime_checkable
class Task(Protocol):
    """What the environment, the trainers and the evaluation need to know of a task."""

    @property
    def name(self) -> str:
        """Full name with its settings, the one that ``load_task`` takes."""

    @property
    def prompt_length(self) -> int:
        """Tokens to which prompts are left-padded (with the bundled tokenizer)."""

    @property
    def response_length(self) -> int:
        """Default response length L in tokens."""

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        """The problem with this index: always the same one for the same arguments."""

    def score(self, problem: Problem, response: str) -> float:
        """1.0 when the response (text before end-of-text) is right, else 0.0."""


def split_of(prompt: str) -> Split:
    """The split that a prompt belongs to: 1/16 validation, 1/16 test, the rest training."""
    bucket = hashlib.blake2b(prompt.encode(), digest_size=1).digest()[0] % 16
    return "validation" if bucket == 0 else "test" if bucket == 1 else "train"


def draw(task: str, split: Split, seed: int, index: int, draw: Callable[[random.Random], tuple]) -> Problem:
    """The first draw of the problem's own random stream whose prompt belongs to ``split``."""
    if split not in SPLITS:
        raise UsageError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    rng = random.Random(f"{task}/{split}/{seed}/{index}")
    while True:
        prompt, answer = draw(rng)
        if split_of(prompt) == split:
            return Problem(task, split, seed, index, prompt, answer)


def count_problems(task: Task, split: Split) -> int | None:
    """How many different problems a task has, by its ``size``; None where it has no end.

    Raises:
        UsageError: the task has no such split.
    """
    size = getattr(task, "size", None)
    return None if size is None else size(split)
