"""Free choices that scattered positions share: one by one they are easy, together they depend on each other."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from dllm_env.tasks.base import Problem, Split, draw

SHIFT = "shift"
KINDS = ("0123456789", "abcdefgh", "ijklmnop", "qrstuvwx")
"""Symbols of the four kinds; the last of a kind is followed by its first."""
TURNS = 5


def _moved(symbol: str, by: int) -> str:
    kind = next(kind for kind in KINDS if symbol in kind)
    return kind[(kind.index(symbol) + by) % len(kind)]


@dataclass(frozen=True)
class Choice:
    """Replace each of 20 symbols by its successor or its predecessor, all of a kind in the same way.

    A prompt is ``shift`` and five turns of a digit, a letter of a–h, one of i–p and one of q–x. The response may go
    forward or back, for each kind as it likes: either is as likely as the other, so every position alone is a
    toss between two symbols, and positions that are written together without looking at each other do not agree.
    When one symbol of each kind is written, all others are certain.
    """

    name: str = field(default="choice", init=False)
    prompt_length: int = field(default=1 + TURNS * len(KINDS), init=False)
    response_length: int = field(default=40, init=False)

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        return draw(self.name, split, seed, index, self._symbols)

    def _symbols(self, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        symbols = [rng.choice(kind) for _ in range(TURNS) for kind in KINDS]
        return " ".join([SHIFT, *symbols]), tuple(symbols)

    def score(self, problem: Problem, response: str) -> float:
        written = response.split()
        if len(written) != len(problem.answer):
            return 0.0
        for kind in range(len(KINDS)):
            given, got = problem.answer[kind :: len(KINDS)], written[kind :: len(KINDS)]
            if not any(got == [_moved(symbol, by) for symbol in given] for by in (1, -1)):
                return 0.0
        return 1.0

    def reference(self, problem: Problem, rng: random.Random, shuffle: bool = True) -> str:
        """One of the 16 right responses."""
        moves: Sequence[int] = [rng.choice((1, -1)) for _ in KINDS]
        return " ".join(_moved(symbol, moves[i % len(KINDS)]) for i, symbol in enumerate(problem.answer))
