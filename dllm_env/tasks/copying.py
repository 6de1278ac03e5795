"""Copies: no position depends on another, and all may be written at once."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from dllm_env.tasks.base import Problem, Split, draw

COPY = "copy"
SYMBOLS = "0123456789abcdefghijklmnopqrstuvwx"
COUNT = 32


@dataclass(frozen=True)
class Copy:
    """Write 32 random symbols once more: ``copy 4 a x …``."""

    name: str = field(default="copy", init=False)
    prompt_length: int = field(default=1 + COUNT, init=False)
    response_length: int = field(default=40, init=False)

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        return draw(self.name, split, seed, index, self._symbols)

    def _symbols(self, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        symbols = tuple(rng.choice(SYMBOLS) for _ in range(COUNT))
        return " ".join([COPY, *symbols]), symbols

    def score(self, problem: Problem, response: str) -> float:
        return float(tuple(response.split()) == problem.answer)

    def reference(self, problem: Problem, rng: random.Random, shuffle: bool = True) -> str:
        """The symbols (the response is unique, nothing is random)."""
        return " ".join(problem.answer)
