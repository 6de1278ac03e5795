"""What published benchmarks have in common: rows with their prompts and judges, divided into splits.

Splits are those that were published. What the authors left undivided is divided by a hash of the prompt, so that no
two splits share a problem.
"""

from __future__ import annotations

import functools
import random
import re
from abc import ABC, abstractmethod
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from dllm_env.errors import UsageError
from dllm_env.specs import write_value
from dllm_env.tasks.base import SPLITS, Problem, Split, split_of
from dllm_env.tasks.data_files import Columns, Row, Source, all_files, kinds_in, own_place, read_rows


@dataclass(frozen=True)
class Benchmark(ABC):
    """A data set with its prompt and its judge.

    Problem ``index`` of seed 0 is row ``index``; other seeds have the rows in other orders, and an index past the
    end begins again in yet another order.

    Attributes:
        data: file or folder with the data set's fields; without it, the Hub.
        shots: worked examples before the problem, from the first training problems.
    """

    data: str = ""
    shots: int = 0

    kind: ClassVar[str]
    sources: ClassVar[Mapping[Split, Source]]
    columns: ClassVar[Columns]
    """Fields that a row has to have."""
    lists: ClassVar[tuple[str, ...]] = ()
    """Those that may be lists."""
    response_length: ClassVar[int] = 256
    prompt_length: ClassVar[int] = 0
    runs_code: ClassVar[bool] = False
    slow_to_score: ClassVar[bool] = False
    """Whether its judge takes long, so that threads score responses while others are generated."""
    built_in: ClassVar[bool] = False
    """Whether there are problems without the Hub and without data."""

    kinds: ClassVar[set[str]] = set()
    """Names of all benchmarks: those that a folder of several may have an entry for."""

    def __init_subclass__(cls, **settings: object) -> None:
        super().__init_subclass__(**settings)
        if "kind" in vars(cls):
            Benchmark.kinds.add(cls.kind)

    def __post_init__(self) -> None:
        if not isinstance(self.shots, int) or self.shots < 0:
            raise UsageError(f"{self.kind}: shots has to be a whole number from 0, got {self.shots!r}")
        data = str(self.data or "")
        if self.shots and not data and not self.sources["train" if "train" in self.sources else "test"][0]:
            raise UsageError(f"{self.kind}: without data there are no worked examples, so leave shots away")
        object.__setattr__(self, "data", data)

    @property
    def name(self) -> str:
        """Full name with its settings."""
        given = {"shots": self.shots, "data": self.data}
        said = ",".join(f"{key}={write_value(value)}" for key, value in given.items() if value)
        return f"{self.kind}:{said}" if said else self.kind

    def size(self, split: Split) -> int:
        """How many problems there are."""
        return len(self.rows(split))

    def problem(self, index: int, split: Split = "train", seed: int = 0) -> Problem:
        """The problem with this index: always the same one for the same arguments."""
        rows = self.rows(split)
        place = _order(len(rows), seed, index // len(rows))[index % len(rows)]
        prompt = "\n\n".join([*_examples(self), self.prompt(rows[place])])
        return Problem(self.name, split, seed, index, prompt, self.answer(rows[place]))

    def rows(self, split: Split) -> Sequence[Row]:
        """The rows of a split.

        Raises:
            UsageError: no such split, or data that cannot be read or lack a field.
        """
        if split not in SPLITS:
            raise UsageError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
        return _rows(self, split)

    @abstractmethod
    def prompt(self, row: Row) -> str:
        """What the language model is asked."""

    @abstractmethod
    def answer(self, row: Row) -> tuple[str, ...]:
        """What ``score`` needs to judge a response."""

    @abstractmethod
    def worked(self, row: Row) -> str:
        """The answer as it would be written, for examples."""

    @abstractmethod
    def score(self, problem: Problem, response: str) -> float:
        """1.0 when the response is right."""


def plays_its_own(kind: type[Benchmark], data: str) -> bool:
    """Whether a benchmark has problems of its own, and a folder of several benchmarks none for it."""
    return kind.built_in and bool(kinds_in(data, Benchmark.kinds)) and own_place(kind.kind, data) is None


@functools.lru_cache(maxsize=16)
def _order(count: int, seed: int, round_: int) -> Sequence[int]:
    order = list(range(count))
    if seed or round_:
        random.Random(f"benchmark/{seed}/{round_}").shuffle(order)
    return order


@functools.cache
def _rows(benchmark: Benchmark, split: Split) -> Sequence[Row]:
    """A split as it was published; or the part of the training problems that the hash gives it."""
    published = _published(benchmark)
    whole = split if split in published else "train"
    rows = _whole(benchmark, whole)
    if whole == "train":
        rows = [row for row in rows[benchmark.shots :] if _part(benchmark.prompt(row), published) == split]
    if not rows:
        raise UsageError(f"{benchmark.name} has too few problems for a {split} split")
    return rows


@functools.cache
def _examples(benchmark: Benchmark) -> Sequence[str]:
    """The training problems that every prompt begins with, and that nobody trains on."""
    if not benchmark.shots:
        return []
    rows = _whole(benchmark, "train")
    if benchmark.shots > len(rows):
        raise UsageError(f"{benchmark.name}: there are {len(rows)} training problems to take examples from")
    return [f"{benchmark.prompt(row)}\n{benchmark.worked(row)}" for row in rows[: benchmark.shots]]


def _whole(benchmark: Benchmark, split: Split) -> Sequence[Row]:
    """A published split."""
    published = _published(benchmark)
    if split not in published:
        has = ", ".join(published) or "no file with the name of a split"
        raise UsageError(f"{benchmark.name} has no {split} problems; it has {has}")
    source = benchmark.sources.get(split, ("", "", split))
    return read_rows(benchmark.kind, published[split], source, benchmark.columns, benchmark.lists)


@functools.cache
def _published(benchmark: Benchmark) -> dict[Split, tuple[Path, ...]]:
    """The splits that there are as such, and their files; a single file that names none is training problems.

    So are the parts of one, as in ``data-00000-of-00003.arrow``.
    """
    if not benchmark.data:
        return dict.fromkeys(benchmark.sources, ())
    configuration = next(iter(benchmark.sources.values()))[1]
    files = all_files(benchmark.kind, benchmark.data, configuration, Benchmark.kinds)
    if not any(files.values()) and (len(files) == 1 or all(map(_is_part, files))):
        return {"train" if "train" in benchmark.sources else next(iter(benchmark.sources)): tuple(files)}
    found = {split: tuple(path for path, names in files.items() if split in names) for split in SPLITS}
    return {split: paths for split, paths in found.items() if paths}


def _is_part(path: Path) -> bool:
    return re.search(r"\d-of-\d+\.", path.name) is not None


def _part(prompt: str, published: Container[Split]) -> Split:
    """Where a training problem belongs, if the others were not divided."""
    part = split_of(prompt)
    return "train" if part in published else part
