"""Every data set of the PyPI package reasoning-gym as a task, with its own judge."""

from __future__ import annotations

import contextlib
import functools
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, ClassVar

from dllm_env.errors import UsageError
from dllm_env.grading import answers, expressions, numbers
from dllm_env.grading.latex import LONGEST, as_text
from dllm_env.grading.limited import Judge, ask
from dllm_env.grading.plain import number, plain
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
    found = number(said)
    return found is not None and abs(found - Fraction(entry["answer"])) <= Fraction(1, 10_000)


def _states_its_number(said: str, entry: Mapping[str, Any]) -> bool:
    found = numbers.stated(said)
    return found is not None and found == Fraction(entry["answer"])


def _uses_its_numbers(said: str, entry: Mapping[str, Any]) -> bool:
    return expressions.expression_reaches(said, entry["metadata"]["numbers"], 24)


STRICTER: dict[str, Callable[[str, Mapping[str, Any]], bool]] = {
    "game_of_life_halting": _is_its_word,
    "coin_flip": _is_its_number,
    "gsm_symbolic": _states_its_number,
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
    slow_to_score: ClassVar[bool] = True

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
            if split_of(prompt) == split and _can_be_said(entry["answer"]):
                return Problem(self.name, split, seed, index, prompt, (str(entry["answer"]), str(number)))
        raise UsageError(f"{self.name} has too few different problems for a {split} split")

    def score(self, problem: Problem, response: str) -> float:
        """1.0 where the data set's judge gives full marks."""
        said = answers.final(response)
        said = response.strip()[-LONGEST:] if said is None else said
        entry = _entry(self.dataset, self.settings, int(problem.answer[1]))
        found = [reading for reading in readings(self.dataset, said, entry) if self._is_admitted(reading, entry)]
        return float(bool(found) and ask(full_marks, (self.dataset, self.settings), found, entry))

    def _is_admitted(self, said: str, entry: Mapping[str, Any]) -> bool:
        """Whether the data set's judge may see a reading: one with ``eval`` no program, a lenient one no error."""
        if not said or (self.dataset in EVALUATED and not expressions.is_plain_expression(said)):
            return False
        return self.dataset not in STRICTER or STRICTER[self.dataset](said, entry)


def full_marks(dataset: str, settings: Settings) -> Judge:
    """The judge that ``score`` asks: whether one of the readings gets full marks."""
    made, entry = _make(dataset, settings), _entry(dataset, settings, 0)
    with contextlib.suppress(Exception):  # what the first use prepares is there for every question then
        made.score_answer(entry["answer"], entry)

    def judge(readings: Sequence[str], entry: Mapping[str, Any]) -> bool:
        for said in readings:
            with contextlib.suppress(Exception):  # which need not concern another reading
                if made.score_answer(said, entry) >= 1.0:
                    return True
        return False

    return judge


def _can_be_said(answer: object) -> bool:
    """Whether an answer can be given in a box: one that is empty, or closes a brace that is not open, cannot."""
    if not isinstance(answer, str):  # of several right ones, the data set names none
        return True
    return bool(answer.strip()) and answers.boxed(f"\\boxed{{{answer}}}") == answer.strip()


# ---------------------------------------------------------------------------------- what LaTeX stands for

_NAME = re.compile(r"(^|,)\s*(?:[A-Za-z]\s*)?=\s*")
_BASED = re.compile(r"(\w+)_\{?(\d{1,2})\}?")


def readings(dataset: str, said: str, entry: Mapping[str, Any]) -> list[str]:
    """An answer as it stands, and as plain text where it is LaTeX: what a data set's judge can read, each once."""
    text = as_text(said)
    found = [said, text, _NAME.sub(r"\1", text), _without_base(text, entry["metadata"])]
    if dataset in EVALUATED:
        sides = _sides(said, entry["metadata"])
        found += [expressions.arithmetic(sides), expressions.algebra(said)]
    elif len(said) <= 100:
        value = numbers.stated(said) if said.startswith(("=", "\\frac", "\\dfrac")) else number(plain(said).strip())
        found += [] if value is None else [*_decimal(value), str(value)]
    if dataset == "prime_factorization":
        found.append(re.sub(r"[*·⋅]", "×", text))
    return [*dict.fromkeys(reading.strip() for reading in found)]


def _without_base(text: str, metadata: Mapping[str, Any]) -> str:
    """``365_{16}`` without its base, where it is the one that was asked for; hexadecimal as ``0x…``."""
    based = _BASED.fullmatch(text.strip())
    if not based or int(based[2]) != metadata.get("target_base", 16 if "problem" in metadata else 10):
        return text
    return based[1] if "target_base" in metadata or based[1].startswith("0x") else f"0x{based[1]}"


def _sides(said: str, metadata: Mapping[str, Any]) -> str:
    """An expression without ``= target`` behind it."""
    expression, _, value = said.rpartition("=")
    target = metadata.get("target", 24)
    return expression if expression and value.strip(" $.") == str(target) else said


def _decimal(value: Fraction) -> list[str]:
    """A fraction as a decimal, where it is one."""
    for digits in range(40):
        if (value * 10**digits).denominator == 1:
            scaled = abs(value.numerator) * 10**digits // value.denominator
            whole = str(scaled).zfill(digits + 1)
            sign = "-" if value < 0 else ""
            return [sign + (f"{whole[:-digits]}.{whole[-digits:]}" if digits else whole)]
    return []


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
