"""Many short runs, each from its right end: mostly parallel, sequential within a run."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from dllm_env.tasks.base import Problem, Split, draw
from dllm_env.tasks.trace import OPERATIONS, applied

CASCADE = "cascade"
COLUMNS = 20
STARTS = 0.35


@dataclass(frozen=True)
class Cascade:
    """Write the value of each of 20 columns: ``cascade +1 4 *3 -2 7 …`` gives ``5 4 5 5 7 …``.

    A column is a digit, which is its value, or an operation modulo 10 on the value of the column to its right. 35%
    of the columns are digits, and the last one is: all runs can be written at once, each from its right end.
    """

    name: str = field(default="cascade", init=False)
    prompt_length: int = field(default=COLUMNS + 1, init=False)
    response_length: int = field(default=40, init=False)

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        return draw(self.name, split, seed, index, self._columns)

    def _columns(self, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        columns, values = [], [0]
        for place in range(COLUMNS):  # from the right
            starts = place == 0 or rng.random() < STARTS
            column = str(rng.randrange(10)) if starts else rng.choice(OPERATIONS)
            columns.append(column)
            values.append(int(column) if starts else applied(values[-1], column))
        return " ".join([CASCADE, *reversed(columns)]), tuple(map(str, reversed(values[1:])))

    def score(self, problem: Problem, response: str) -> float:
        """Whether all values stand there."""
        return float(tuple(response.split()) == problem.answer)

    def reference(self, problem: Problem, rng: random.Random, shuffle: bool = True) -> str:
        """The values (the response is unique, nothing is random)."""
        return " ".join(problem.answer)
