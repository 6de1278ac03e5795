"""Traces of small programs: the task that the bundled denoiser was made for."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from dllm_env.errors import UsageError
from dllm_env.tasks.base import Problem, Split, draw

OPERATIONS = ("+1", "+2", "+3", "-1", "-2", "-3", "*3", "*7")
FILLERS = ("so", "then", "now")
BACKWARD = "backward"
"""Stands before a program whose trace is to be written from its end."""
Order = Literal["forward", "backward"]
_NAMES = "abcdefghijklmnopqrstuvwx"
_NAMES_PER_CHAIN = 6


def applied(value: int, operation: str) -> int:
    """The digit after an operation modulo 10."""
    operand = int(operation[1:])
    if operation[0] == "*":
        return value * operand % 10
    return (value + operand if operation[0] == "+" else value - operand) % 10


@dataclass(frozen=True)
class Trace:
    """Evaluate a small program and write its execution trace.

    A program has ``chains`` chains with names of their own (a–f, g–l, …). A chain starts with a digit and has 3
    to 5 steps, each an operation modulo 10: ``a 6 b +2 c -2``. The trace names each value in order,
    ``now b 8 so c 6``, the chains in any order, joined by ``;``. It is right when it has one part for each chain
    and each part ends in its chain's last name and value.

    With ``order="backward"`` the prompt begins with ``backward``, and each chain is written in a mirror, from its
    last value to its first, ``6 c 8 b``; each part has to begin with its chain's last value and name. What stands
    to the right has to be known first.

    Attributes:
        chains: number of chains, 1 to 4; a program takes 12 prompt and 20 response tokens for each.
        order: from the first value of a chain, or from the last.
    """

    chains: int = 2
    order: Order = "forward"

    def __post_init__(self) -> None:
        if self.order not in get_args(Order):
            raise UsageError(f"trace has the order forward or backward, got {self.order!r}")
        if (
            isinstance(self.chains, bool)
            or not isinstance(self.chains, int)
            or not 1 <= self.chains <= len(_NAMES) // _NAMES_PER_CHAIN
        ):
            raise UsageError(f"trace needs 1 to 4 chains, got {self.chains}")

    @property
    def name(self) -> str:
        chains = [] if self.chains == 2 else [f"chains={self.chains}"]
        order = [] if self.order == "forward" else [f"order={self.order}"]
        return ":".join(["trace", *filter(None, [",".join(chains + order)])])

    @property
    def prompt_length(self) -> int:
        return 12 * self.chains + (self.order == "backward")

    @property
    def response_length(self) -> int:
        return 20 * self.chains

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        return draw(self.name, split, seed, index, self._program)

    def _program(self, rng: random.Random) -> tuple[str, tuple[str, ...]]:
        words: list[str] = []
        for chain in range(self.chains):
            words += [_NAMES[_NAMES_PER_CHAIN * chain], str(rng.randrange(10))]
            for step in range(1, rng.randint(3, 5) + 1):
                words += [_NAMES[_NAMES_PER_CHAIN * chain + step], rng.choice(OPERATIONS)]
        values = _values(words)
        marker = [BACKWARD] if self.order == "backward" else []
        return " ".join(marker + words), tuple(" ".join(chain[-1]) for chain in values)

    def score(self, problem: Problem, response: str) -> float:
        written = [part.split() for part in response.split(";")]
        parts = [words[-2:] if self.order == "forward" else words[1::-1] for words in written]
        return float(sorted(" ".join(part) for part in parts) == sorted(problem.answer))

    def reference(self, problem: Problem, rng: random.Random, shuffle: bool = True) -> str:
        """A response as the denoiser's training data has it: order, fillers and verbosity are random.

        A filler rate f ~ U(0, 0.8): each step written is preceded by a filler with probability f. 75% of the
        responses write every step, 10% only the last of each chain, 15% each step with probability v ~ U(0, 1)
        and always the last. ``shuffle=False`` keeps the chains in the order of the prompt. Backward, every step is
        written, without fillers.
        """
        if self.order == "backward":
            chains = _values(problem.prompt.split()[1:])
            written = [" ".join(f"{value} {name}" for name, value in reversed(chain)) for chain in chains]
            if shuffle:
                rng.shuffle(written)
            return " ; ".join(written)
        filler_rate = 0.8 * rng.random()
        style = rng.random()
        keep = 1.0 if style < 0.75 else 0.0 if style < 0.85 else rng.random()
        parts = []
        for chain in _values(problem.prompt.split()):
            words: list[str] = []
            for step, (name, value) in enumerate(chain):
                if step < len(chain) - 1 and rng.random() >= keep:
                    continue
                if rng.random() < filler_rate:
                    words.append(rng.choice(FILLERS))
                words += [name, value]
            parts.append(" ".join(words))
        if shuffle:
            rng.shuffle(parts)
        return " ; ".join(parts)


def _values(program: Sequence[str]) -> list[list[tuple[str, str]]]:
    """Per chain, the (name, value) of every step after the start."""
    chains: list[list[tuple[str, str]]] = []
    value = 0
    for name, word in zip(program[::2], program[1::2], strict=True):
        if word.isdigit():
            chains.append([])
            value = int(word)
        else:
            value = applied(value, word)
            chains[-1].append((name, str(value)))
    return chains
