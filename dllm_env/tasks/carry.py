"""Carries in long numbers: mostly parallel, but a carry comes from the right."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from dllm_env.tasks.base import Problem, Split, draw

DIGITS = 16
CARRY = "carry"
SUMS = tuple(map(str, range(10, 19)))
"""What two digits may add up to, besides the digits."""
NINES = 0.7


@dataclass(frozen=True)
class Carry:
    """Add two numbers whose columns are added up already: ``carry 9 9 14 …``, 16 of them, to 17 digits.

    A column is the sum of two digits, 0 to 18, the most significant first. A digit of the result is its column and
    the carry into it, without the tens. 70% of the columns are 9, which hands on whatever carry comes from its
    right, so that a carry may come from far; where it comes from near, all digits are clear at once.
    """

    name: str = field(default="carry", init=False)
    prompt_length: int = field(default=DIGITS + 1, init=False)
    response_length: int = field(default=40, init=False)

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        return draw(self.name, split, seed, index, self._columns)

    def _columns(self, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        columns = [9 if rng.random() < NINES else rng.randrange(10) + rng.randrange(10) for _ in range(DIGITS)]
        total = 0
        for column in columns:
            total = 10 * total + column
        return " ".join([CARRY, *map(str, columns)]), tuple(f"{total:0{DIGITS + 1}d}")

    def score(self, problem: Problem, response: str) -> float:
        """Whether all digits of the sum stand there, a leading 0 included."""
        return float(tuple(response.split()) == problem.answer)

    def reference(self, problem: Problem, rng: random.Random, shuffle: bool = True) -> str:
        """The sum (the response is unique, nothing is random)."""
        return " ".join(problem.answer)
