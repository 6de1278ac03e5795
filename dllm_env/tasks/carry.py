"""Sums of long numbers: mostly parallel, but a carry comes from the right."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from dllm_env.tasks.base import Problem, Split, draw

DIGITS = 16
PLUS, EQUALS = "+", "="
NINES = 0.7


@dataclass(frozen=True)
class Carry:
    """Add two numbers of 16 digits, most significant digit first: ``9 9 … + 0 1 … =``, 17 digits.

    A digit of the sum depends on its own column and on the carry into it. 70% of the columns add up to 9 and hand
    on whatever carry comes from their right, so that a carry may come from far; where it comes from near, all
    digits are clear at once.
    """

    name: str = field(default="carry", init=False)
    prompt_length: int = field(default=2 * DIGITS + 2, init=False)
    response_length: int = field(default=40, init=False)

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        return draw(self.name, split, seed, index, self._sum)

    def _sum(self, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        first = [rng.randrange(10) for _ in range(DIGITS)]
        second = [9 - digit if rng.random() < NINES else rng.randrange(10) for digit in first]
        total = int("".join(map(str, first))) + int("".join(map(str, second)))
        prompt = [*map(str, first), PLUS, *map(str, second), EQUALS]
        return " ".join(prompt), tuple(f"{total:0{DIGITS + 1}d}")

    def score(self, problem: Problem, response: str) -> float:
        """Whether all digits of the sum stand there, a leading 0 included."""
        return float(tuple(response.split()) == problem.answer)

    def reference(self, problem: Problem, rng: random.Random, shuffle: bool = True) -> str:
        """The sum (the response is unique, nothing is random)."""
        return " ".join(problem.answer)
