"""Every data set of the PyPI package reasoning-gym as a task, with its own judge."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from dllm_env.errors import UsageError
from dllm_env.grading import answers
from dllm_env.grading.limited import Judge, ask
from dllm_env.tasks.base import SPLITS, Problem, Split, split_of
from dllm_env.tasks.benchmarks import BOXED

Settings = tuple[tuple[str, Any], ...]

NUMBERS = 2**31 - 1
DRAWS = 2_000
"""Draws after which a split is taken to have no problems."""

MADE_AT_ONCE = ("acre", "gsm_symbolic", "list_functions", "word_ladder")
"""Data sets that make all their entries, or something of each, when they are made: these are made small."""

EVALUATED = (
    *("countdown", "puzzle24", "simple_integration", "intermediate_integration", "polynomial_multiplication"),
    *("string_insertion", "spiral_matrix", "binary_matrix", "n_queens"),
)
"""Data sets whose judges hand a response to Python's ``eval`` or to SymPy's: they get plain expressions only."""


def _is_its_word(said: str, entry: Mapping[str, Any]) -> bool:
    return said.strip(" .\n").lower() == str(entry["answer"]).lower()


def _is_its_number(said: str, entry: Mapping[str, Any]) -> bool:
    found = answers.number(said)
    return found is not None and abs(found - Fraction(entry["answer"])) <= Fraction(1, 10_000)


def _uses_its_numbers(said: str, entry: Mapping[str, Any]) -> bool:
    return answers.expression_reaches(said, entry["metadata"]["numbers"], 24)


STRICTER: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "game_of_life_halting": _is_its_word,
    "coin_flip": _is_its_number,
    "puzzle24": _uses_its_numbers,
}
"""What has to hold besides, where a data set's judge gives full marks to answers that are right for any problem."""


@dataclass(frozen=True)
class ReasoningGym:
    """Problems of a data set of reasoning-gym, without end; right is what gets full marks.

    Attributes:
        dataset: its name.
        settings: of the data set, by name; without any, its own.
    """

    dataset: str
    settings: Settings = ()

    prompt_length: ClassVar[int] = 0
    response_length: ClassVar[int] = 256

    def __post_init__(self) -> None:
        _make(self.dataset, self.settings)
        try:
            _entry(self.dataset, self.settings, 0)
        except (AssertionError, TypeError, ValueError) as error:
            raise UsageError(f"reasoning-gym makes no problems of {self.name}: {error}") from None

    @property
    def name(self) -> str:
        """Full name with its settings."""
        return ",".join([f"reasoning-gym:{self.dataset}", *(f"{key}={value}" for key, value in self.settings)])

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        """The first of the problem's own random draws whose prompt belongs to the split.

        Raises:
            UsageError: no such split, or the data set is too small to have one.
        """
        if split not in SPLITS:
            raise UsageError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        numbers = random.Random(f"{self.name}/{split}/{seed}/{index}")
        for _ in range(DRAWS):
            number = numbers.randrange(NUMBERS)
            entry = _entry(self.dataset, self.settings, number)
            prompt = f"{entry['question'].strip()}\n{BOXED}"
            if split_of(prompt) == split:
                return Problem(self.name, split, seed, index, prompt, (str(entry["answer"]), str(number)))
        raise UsageError(f"{self.name} has too few different problems for a {split} split")

    def score(self, problem: Problem, response: str) -> float:
        """1.0 where the data set's judge gives full marks."""
        said = answers.final(response)
        said = response.strip()[-1_000:] if said is None else said
        if not said or (self.dataset in EVALUATED and not answers.is_plain_expression(said)):
            return 0.0
        entry = _entry(self.dataset, self.settings, int(problem.answer[1]))
        if self.dataset in STRICTER and not STRICTER[self.dataset](said, entry):
            return 0.0
        return float(ask(full_marks, (self.dataset, self.settings), said, entry))


def full_marks(dataset: str, settings: Settings) -> Judge:
    """The judge that ``score`` asks."""
    made, entry = _make(dataset, settings), _entry(dataset, settings, 0)
    with contextlib.suppress(Exception):  # what the first use prepares is there for every question then
        made.score_answer(entry["answer"], entry)
    return lambda said, entry: made.score_answer(said, entry) >= 1.0


@functools.lru_cache(maxsize=4096)
def _entry(dataset: str, settings: Settings, number: int) -> Mapping[str, Any]:
    if dataset in MADE_AT_ONCE:
        return _create(dataset, settings, 1, number)[0]
    return _make(dataset, settings)[number]


@functools.cache
def _make(dataset: str, settings: Settings) -> Any:
    return _create(dataset, settings, 1 if dataset in MADE_AT_ONCE else NUMBERS, 0)


def names() -> list[str]:
    """The data sets that there are; none where the package is not installed."""
    try:
        from reasoning_gym.factory import DATASETS
    except ImportError:
        return []
    return sorted(set(DATASETS) - {"composite"})  # of others, which no text can name


def _create(dataset: str, settings: Settings, size: int, seed: int) -> Any:
    try:
        import reasoning_gym
    except ImportError:
        raise UsageError("reasoning-gym tasks need reasoning-gym: pip install 'dllm-env[eval]'") from None
    if dataset not in names():
        raise UsageError(f"reasoning-gym has no data set {dataset!r}; it has {', '.join(names())}")
    try:
        return reasoning_gym.create_dataset(dataset, size=size, seed=seed, **dict(settings))
    except (AssertionError, TypeError, ValueError) as error:
        raise UsageError(f"reasoning-gym does not make {dataset} so: {str(error) or repr(error)}") from None
