"""Free choices that scattered positions share: one by one they are easy, together they depend on each other."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from dllm_env.tasks.base import Problem, Split, draw

CHOICE = "choice"
KINDS = (("0123", "4567"), ("abcd", "efgh"), ("ijkl", "mnop"), ("qrst", "uvwx"))
"""The two halves of each of the four kinds of symbols; a symbol and its partner have the same place in theirs."""
TURNS = 5


def _in_half(symbol: str, half: int) -> str:
    """The symbol, or its partner, whichever is of this half of its kind."""
    kind = next(kind for kind in KINDS if symbol in kind[0] + kind[1])
    return kind[half][(kind[0] + kind[1]).index(symbol) % len(kind[0])]


@dataclass(frozen=True)
class Choice:
    """Write each of 20 symbols or its partner, for all of a kind out of the same half.

    A prompt is ``choice`` and five turns of a symbol of each of the four kinds. The response may take either half
    of a kind, whatever it takes of the others: both are as likely, so every position alone is a toss between two
    symbols, and positions that are written together without looking at each other do not agree. When one symbol
    of each kind is written, all others are certain.
    """

    name: str = field(default="choice", init=False)
    prompt_length: int = field(default=1 + TURNS * len(KINDS), init=False)
    response_length: int = field(default=40, init=False)

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        return draw(self.name, split, seed, index, self._symbols)

    def _symbols(self, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        symbols = [rng.choice(first + second) for _ in range(TURNS) for first, second in KINDS]
        return " ".join([CHOICE, *symbols]), tuple(symbols)

    def score(self, problem: Problem, response: str) -> float:
        written = response.split()
        if len(written) != len(problem.answer):
            return 0.0
        for kind in range(len(KINDS)):
            given, got = problem.answer[kind :: len(KINDS)], written[kind :: len(KINDS)]
            if not any(got == [_in_half(symbol, half) for symbol in given] for half in (0, 1)):
                return 0.0
        return 1.0

    def reference(self, problem: Problem, rng: random.Random, shuffle: bool = True) -> str:
        """One of the 16 right responses."""
        halves = [rng.randrange(2) for _ in KINDS]
        return " ".join(_in_half(symbol, halves[i % len(KINDS)]) for i, symbol in enumerate(problem.answer))
