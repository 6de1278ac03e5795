"""What the bundled denoisers learn from: examples of the tasks, and which of their tokens are hidden.

A recipe lists the tasks of a denoiser. ``tiny`` has three, ``trace`` one; ``many`` has all domains, with responses
of 40 tokens so that one batch of an evaluation holds them all.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from dllm_env.denoisers.tiny import END, MANY_WORDS, MASK, WORDS
from dllm_env.random import torch_generator
from dllm_env.tasks.base import Problem, Split, Task
from dllm_env.tasks.cascade import Cascade
from dllm_env.tasks.choice import Choice
from dllm_env.tasks.copying import Copy
from dllm_env.tasks.sudoku import Sudoku
from dllm_env.tasks.trace import Trace

Pattern = Literal["any", "left", "right"]
"""In which order a response is made: in any, from the left, or from the right."""


class Written(Task, Protocol):
    """A task that knows what a response may look like."""

    def reference(self, problem: Problem, rng: random.Random, shuffle: bool = True) -> str:
        """A right response; with ``shuffle`` also its free order is drawn."""


@dataclass(frozen=True)
class Part:
    """One task of a recipe.

    Attributes:
        name: in logs.
        task: where examples come from.
        pattern: which masks it is trained with besides uniform ones, see ``mask_weights``.
        batch: examples per update in each of the three stages.
        share: one in so many of the examples that are made beforehand.
        length: response length L.
    """

    name: str
    task: Written
    pattern: Pattern
    batch: tuple[int, int, int]
    share: int
    length: int


RECIPES: dict[str, tuple[tuple[str, ...], tuple[Part, ...]]] = {
    "tiny": (
        WORDS,
        (
            Part("trace", Trace(), "left", (56, 56, 24), 1, 40),
            Part("trace4", Trace(4), "left", (12, 12, 40), 5, 80),
            Part("sudoku", Sudoku(), "any", (24, 24, 16), 5, 16),
        ),
    ),
    "trace": (WORDS, (Part("trace", Trace(), "left", (64, 64, 64), 1, 40),)),
    "sudoku": (WORDS, (Part("sudoku", Sudoku(), "any", (64, 64, 64), 1, 16),)),
    "choice": (MANY_WORDS, (Part("choice", Choice(), "any", (64, 64, 64), 1, 20),)),
    "many": (
        MANY_WORDS,
        (
            Part("trace", Trace(), "left", (24, 24, 20), 1, 40),
            Part("trace4", Trace(4), "left", (10, 10, 40), 5, 80),
            Part("sudoku", Sudoku(), "any", (12, 12, 8), 5, 40),
            Part("backward", Trace(order="backward"), "right", (20, 20, 16), 1, 40),
            Part("cascade", Cascade(), "right", (20, 20, 12), 1, 40),
            Part("choice", Choice(), "any", (20, 20, 12), 1, 40),
            Part("copy", Copy(), "any", (6, 6, 4), 5, 40),
        ),
    ),
}
"""By name, the vocabulary and the tasks."""


@dataclass
class Examples:
    """Encoded examples of one task.

    Attributes:
        tokens: (N, P+L) uint8, prompt left-padded and response padded with end-of-text.
        length: response length L.
        pattern: which masks it is trained with.
    """

    tokens: Tensor
    length: int
    pattern: Pattern


def make_examples(
    part: Part, count: int, split: Split, seed: int, shuffle: bool, words: tuple[str, ...] = WORDS
) -> Examples:
    """Problems 0 … count−1 of the split, each with a response drawn from the problem's own stream."""
    ids = {word: i for i, word in enumerate(words)}
    task = part.task
    rows = torch.zeros(count, task.prompt_length + part.length, dtype=torch.uint8)
    rng = random.Random(f"responses/{task.name}/{split}/{seed}/{shuffle}")
    for i in range(count):
        problem = task.problem(i, split, seed)
        prompt = [ids[word] for word in problem.prompt.split()]
        response = [ids[word] for word in task.reference(problem, rng, shuffle).split()]
        response += [ids[END]] * (part.length - len(response))
        rows[i, task.prompt_length - len(prompt) :] = torch.tensor(prompt + response, dtype=torch.uint8)
    return Examples(rows, part.length, part.pattern)


DIGITS = torch.tensor([word.isdigit() for word in MANY_WORDS])
"""Which words are digits; ``tiny`` has the same ids."""
_MASK_ID = WORDS.index(MASK)


def mask_weights(response: Tensor, pattern: Pattern, generator: torch.Generator) -> Tensor:
    """Which positions are hidden, and how much each counts: (B, L) float32, 0 where the token is shown.

    45% of the rows whose pattern is ``left``: each position with probability t, t stratified over the batch, weight
    1/max(t, 0.1). 25%: everything from a random position on, the first hidden one weighs 4 and the rest 0.5 (what
    left-to-right decoding sees). 30%: values only, at a random rate. With ``right``, everything up to a random
    position is hidden instead; with ``any``, all rows have the first kind of mask.
    """
    batch, length = response.shape
    rate = (torch.rand(1, generator=generator) + torch.arange(batch) / batch) % 1.0
    rate = rate[torch.randperm(batch, generator=generator), None]
    hidden = torch.rand(batch, length, generator=generator) < rate
    uniform = hidden / rate.clamp(min=0.1)
    if pattern == "any":
        return uniform
    edge = torch.randint(length, (batch, 1), generator=generator)
    position = torch.arange(length)
    beyond = position >= edge if pattern == "left" else position <= edge
    ordered = 0.5 * beyond + 3.5 * (position == edge)
    kind = torch.rand(batch, 1, generator=generator)
    values = (hidden & DIGITS[response]).float()
    return torch.where(kind < 0.45, uniform, torch.where(kind < 0.7, ordered, values))


def batches(data: list[tuple[Examples, int]], key: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor, int]]:
    """One update's batches: tokens (B, P+L), weights (B, L), L. They follow from ``key`` = (seed, update) alone."""
    for part, (examples, size) in enumerate(data):
        generator = torch_generator("batch", *key, part)
        rows = torch.randint(len(examples.tokens), (size,), generator=generator)
        tokens = examples.tokens[rows].long()
        weights = mask_weights(tokens[:, -examples.length :], examples.pattern, generator)
        yield tokens, weights, examples.length
