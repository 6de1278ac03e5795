"""The files of an evaluation, and how they are read, merged and told apart.

A folder of results has ``settings.jsonl``, a line for everything that was played, and ``problems.jsonl``, a line
for every problem that was. Both are appended to as work is done, so that a stopped evaluation goes on where it was;
everything else (``results.json``, ``results.csv``, pictures, reports) is made from them.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import dllm_env
import dllm_env.policies
from dllm_env.errors import UsageError
from dllm_env.eval.metrics import accuracy_interval, mean, quantile
from dllm_env.files import named, write_atomically
from dllm_env.pareto import Kind
from dllm_env.policies.references import reference_kind
from dllm_env.random import derive_key
from dllm_env.reading import (
    as_table,
    check_fields,
    check_value,
    exists,
    json_lines,
    parse_json,
    read_json,
    reason,
    shown,
    type_hints,
)
from dllm_env.rules import Rules

SETTINGS, PROBLEMS, RESULTS_JSON, RESULTS_CSV = "settings.jsonl", "problems.jsonl", "results.json", "results.csv"

VERSIONS = ("policy_version", "denoiser_version", "code_version")
NOT_PLAYED = (
    *("train", "eval", "policies"),  # in an installed package they are folders of it; policies count by themselves
    *(
        "commands",
        "cli.py",
        "__main__.py",
        "pareto.py",
        "drawing.py",
        "intervals.py",
        "files.py",
        "hub.py",
        "locks.py",
        "processes.py",
        "progress.py",
    ),
)
"""What of the core cannot change an outcome: commands and pictures. All other modules count, new ones as well."""

LATER = ("limit_block_steps", "deadline", "allow_edit", "edit_steps")
"""Rules that the first results did not have; where they are off, such results are the same setting as new ones."""


@dataclass(frozen=True, kw_only=True)
class Setting(Rules):
    """Everything that decides an outcome, but for the problem: a line of ``settings.jsonl``.

    Attributes:
        policy: text for ``load_policy``.
        learned: whether it was trained.
        seed: evaluation seed; it has problems and random streams of its own.
        policy_version: digest of the weights or of the user's file; empty for the rules of this package.
        denoiser_version: digest of the weights.
        code_version: version and digest of this package's code.
    """

    policy: str
    learned: bool
    task: str
    denoiser: str
    split: str
    seed: int
    policy_version: str = ""
    denoiser_version: str = ""
    code_version: str = ""

    @functools.cached_property
    def key(self) -> str:
        """Twelve letters that stand for it in ``problems.jsonl``."""
        values = asdict(self)
        for name in LATER:
            if not values[name]:
                del values[name]
        text = json.dumps(values, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=6).hexdigest()

    def part(self, *without: str) -> tuple[Any, ...]:
        """Its values but for these."""
        return tuple(getattr(self, column.name) for column in fields(self) if column.name not in without)

    @property
    def kind(self) -> Kind:
        """Rule, learned, or a kind of reference."""
        return "learned" if self.learned else reference_kind(self.policy) or "heuristic"

    @property
    def condition(self) -> tuple[Any, ...]:
        """What policies have to share to be compared."""
        return self.part("policy", "learned", "seed", *VERSIONS)

    @property
    def versions(self) -> tuple[str, ...]:
        """Of policy, denoiser and code."""
        return tuple(getattr(self, name) for name in VERSIONS)


@dataclass(frozen=True)
class Outcome:
    """How one problem went: a line of ``problems.jsonl``.

    Attributes:
        setting: key of the setting.
        policy, block_length, seed: of the setting, for readers.
        index, sample: which problem of the seed, and which of its samples.
        finished: the row was not cut off.
        nfe, steps, remasks: denoiser evaluations, steps, and positions put back to mask.
        tokens: that the response has before its end-of-text.
        seconds: this row's share of the wall time.
        words: L tokens as text, empty where a mask was left.
        revealed_at: step from 0 in which each was written, −1 where none was.
        confidence: with which it was written.
        rewards: what it has earned by each reward, where an evaluation asks for some, and as ``total`` in all.
        planning_nfe: denoiser evaluations that a reference made beforehand: all branches of a search, or the slow
            rules whose responses the oracle follows.
    """

    setting: str
    policy: str
    block_length: int
    seed: int
    index: int
    sample: int
    prompt: str
    response: str
    correct: float
    finished: bool
    nfe: int
    steps: int
    remasks: int
    tokens: int
    seconds: float
    words: list[str] = field(repr=False)
    revealed_at: list[int] = field(repr=False)
    confidence: list[float] = field(repr=False)
    rewards: dict[str, float] = field(default_factory=dict)
    planning_nfe: int = 0


@dataclass(frozen=True)
class Result:
    """A setting with its outcomes, in the order of (index, sample)."""

    setting: Setting
    outcomes: list[Outcome]

    def record(self) -> dict[str, Any]:
        """The setting and its figures, as ``results.json`` and ``results.csv`` have them."""
        figures = summarise(self.outcomes)
        return {**asdict(self.setting), **asdict(figures)}


@dataclass(frozen=True)
class Figures:
    """The figures of a policy: means over its outcomes.

    Attributes:
        problems, samples: how many, samples of all problems together.
        accuracy: mean over problems of the share of right samples, with the 95% interval of ``accuracy_interval``.
        nfe, nfe_90: mean and 90th percentile of the denoiser evaluations of a row.
        tokens_per_nfe: response tokens before end-of-text over NFE, both summed.
        finished: share of the rows that were not cut off.
        remasks: mean number of positions put back to mask.
        seconds: wall time.
        reward: mean over samples, where all of them have one.
        planning_nfe: mean, of references that evaluate beforehand; not part of ``nfe``.
    """

    problems: int
    samples: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    nfe: float
    nfe_90: float
    tokens_per_nfe: float
    finished: float
    remasks: float
    seconds: float
    reward: float | None = None
    planning_nfe: float = 0.0


def summarise(outcomes: Sequence[Outcome]) -> Figures:
    """The figures of outcomes of one policy; the same outcomes give the same ones."""
    correct = list(by_problem(outcomes).values())
    accuracy = [mean(samples) for samples in correct]
    generator = np.random.default_rng(derive_key("bootstrap", len(accuracy)) % 2**63)
    low, high = accuracy_interval(correct, generator)
    nfe = [outcome.nfe for outcome in outcomes]
    return Figures(
        problems=len(accuracy),
        samples=len(outcomes),
        accuracy=mean(accuracy),
        accuracy_low=low,
        accuracy_high=high,
        nfe=mean(nfe),
        nfe_90=quantile(nfe, 0.9),
        tokens_per_nfe=sum(outcome.tokens for outcome in outcomes) / sum(nfe),
        finished=mean([outcome.finished for outcome in outcomes]),
        remasks=mean([outcome.remasks for outcome in outcomes]),
        seconds=sum(outcome.seconds for outcome in outcomes),
        reward=mean([one.rewards["total"] for one in outcomes]) if all(one.rewards for one in outcomes) else None,
        planning_nfe=mean([outcome.planning_nfe for outcome in outcomes]),
    )


def by_problem(outcomes: Iterable[Outcome]) -> dict[tuple[int, int], list[float]]:
    """Scores of the samples of each problem (seed, index)."""
    problems: dict[tuple[int, int], list[float]] = {}
    for outcome in outcomes:
        problems.setdefault((outcome.seed, outcome.index), []).append(outcome.correct)
    return problems


# ------------------------------------------------------------------------------------------- versions


@functools.cache
def code_version() -> str:
    """The package's version with a digest of the code that plays."""
    core, policies = (Path(module.__path__[0]) for module in (dllm_env, dllm_env.policies))
    digest = hashlib.blake2b(digest_size=4)
    for name, file in played_code(core, policies).items():
        digest.update(f"{name}\0{file.stat().st_size}\0".encode() + file.read_bytes())
    return f"{dllm_env.__version__}+{digest.hexdigest()}"


def played_code(core: Path, policies: Path) -> dict[str, Path]:
    """The modules that decide what an evaluation gives: the policies, and the core but for ``NOT_PLAYED``.

    Args:
        core, policies: the folders of the two packages, whose rooms are searched, too.

    Returns:
        Files by their names within the package, sorted.
    """
    files = {f"policies/{file.relative_to(policies).as_posix()}": file for file in policies.rglob("*.py")}
    for file in core.rglob("*.py"):
        place = file.relative_to(core)
        if place.parts[0] not in NOT_PLAYED:
            files[place.as_posix()] = file
    return dict(sorted(files.items()))


def check_versions(settings: Iterable[Setting]) -> None:
    """Refuses settings that differ in nothing but the versions of policy, denoiser or code.

    Raises:
        UsageError: two of them do.
    """
    known: dict[tuple[Any, ...], Setting] = {}
    for setting in settings:
        other = known.setdefault(setting.part("seed", *VERSIONS), setting)
        for name, mine, theirs in zip(VERSIONS, setting.versions, other.versions, strict=True):
            if mine != theirs:
                what = name.removesuffix("_version")
                raise UsageError(
                    f"results of {setting.policy} come from two versions of the {what} ({theirs} and {mine}); keep "
                    f"them in folders of their own, or show them side by side with --mix-versions"
                )


# ---------------------------------------------------------------------------------------------- files


def append(folder: Path, setting: Setting, outcomes: Sequence[Outcome]) -> None:
    """Adds outcomes of a setting to the folder's files; the caller holds the folder's lock.

    The setting comes first, so that whoever reads outcomes and then settings knows them all.
    """
    file = folder / SETTINGS
    line = json.dumps({"key": setting.key, **asdict(setting)}) + "\n"
    if not file.exists() or line not in file.read_text(encoding="utf-8"):
        _append(file, line)
    _append(folder / PROBLEMS, "".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes))


def _append(file: Path, text: str) -> None:
    """Appends after the last whole line: what a kill cut off is written over."""
    with file.open("ab+") as stream:
        size = stream.seek(0, 2)
        tail = b""
        while size and b"\n" not in tail:
            step = min(1 << 16, size)
            size = stream.seek(size - step)
            tail = stream.read(step) + tail
        stream.truncate(size + tail.rfind(b"\n") + 1)
        try:
            stream.write(text.encode())
            stream.flush()
        except OSError as error:
            raise named(error, file) from None


def has_outcomes(folder: Path) -> bool:
    """Whether a folder has any line of outcomes; a kill, or a full disk, may have left a file without one."""
    try:
        with (folder / PROBLEMS).open("rb") as stream:
            return any(line.endswith(b"\n") for line in stream)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UsageError(f"cannot read {folder / PROBLEMS}: {reason(error)}") from None


Line = TypeVar("Line")


def read(folders: Sequence[Path], skip_broken: bool = False, mix_versions: bool = False) -> list[Result]:
    """The results of one or more folders, merged: outcomes of the same setting come together.

    A last line without its end, which a kill leaves, does not count. An outcome that is there twice counts once.

    Args:
        folders: with results.
        skip_broken: go on without lines that cannot be read.
        mix_versions: take results that differ only in versions, as results of their own.

    Raises:
        UsageError: no results, a line that cannot be read, or versions that differ.
    """
    settings: dict[str, Setting] = {}
    outcomes: dict[str, dict[tuple[int, int], Outcome]] = {}
    for folder in folders:
        if not all(exists(folder / name) and (folder / name).is_file() for name in (PROBLEMS, SETTINGS)):
            raise UsageError(f"no results in {folder}: {SETTINGS} or {PROBLEMS} is missing")
        played = list(json_lines(folder / PROBLEMS))  # before the settings, which are written first
        for setting in _lines(folder / SETTINGS, json_lines(folder / SETTINGS), _setting, skip_broken):
            settings[setting.key] = setting

        def outcome(line: Mapping[str, Any]) -> Outcome:
            return _outcome(line, settings)

        for found in _lines(folder / PROBLEMS, played, outcome, skip_broken):
            outcomes.setdefault(found.setting, {})[found.index, found.sample] = found
    with_outcomes = [setting for setting in settings.values() if setting.key in outcomes]
    if not with_outcomes:
        raise UsageError(f"no results in {', '.join(map(str, folders))}")
    if not mix_versions:
        check_versions(with_outcomes)
    return [Result(s, [outcomes[s.key][place] for place in sorted(outcomes[s.key])]) for s in with_outcomes]


def _setting(line: Mapping[str, Any]) -> Setting:
    values = {name: value for name, value in line.items() if name != "key"}
    check_fields(Setting, values)
    setting = Setting(**values)
    if line.get("key") != setting.key:
        raise UsageError("its key is not that of its values")
    return setting


_COUNTS = ("index", "sample", "steps", "remasks", "tokens", "seconds", "planning_nfe")
_PLACES = ("words", "revealed_at", "confidence")


def _outcome(line: Mapping[str, Any], settings: Mapping[str, Setting]) -> Outcome:
    """A line of ``problems.jsonl`` whose values can be those of an outcome.

    Raises:
        UsageError: they cannot.
    """
    check_fields(Outcome, line)
    outcome = Outcome(**line)
    if outcome.setting not in settings:
        raise UsageError(f"its setting {shown(outcome.setting)} is not in {SETTINGS}")
    for name in _COUNTS:
        if getattr(outcome, name) < 0:
            raise UsageError(f"{name} must be at least 0, got {getattr(outcome, name)}")
    if outcome.nfe < 1:
        raise UsageError(f"nfe must be at least 1, got {outcome.nfe}")
    if not 0 <= outcome.correct <= 1:
        raise UsageError(f"correct must be from 0 to 1, got {outcome.correct:g}")
    lengths = {len(getattr(outcome, name)) for name in _PLACES}
    length = settings[outcome.setting].response_length
    if lengths != {length}:
        raise UsageError(f"{', '.join(_PLACES)} must have {length} entries each, as the response has tokens")
    if outcome.rewards and "total" not in outcome.rewards:
        raise UsageError("rewards has no total")
    return outcome


def _lines(file: Path, lines: Iterable[tuple[int, bytes]], make: Any, skip_broken: bool) -> list[Any]:
    made = []
    for number, line in lines:
        try:
            made.append(make(as_table(parse_json(line, "it"), "it")))
        except UsageError as error:
            if not skip_broken:
                raise UsageError(
                    f"{file}, line {number} cannot be read ({error}); remove it, or go on without such lines with "
                    "--skip-broken"
                ) from None
    return made


SHOWN = (
    *("policy", "task", "denoiser", "block_length", "problems"),
    *("accuracy", "accuracy_low", "accuracy_high", "nfe"),
)
"""What a model card shows of an entry of ``results.json``."""


def read_records(folder: Path, file: str = RESULTS_JSON) -> list[dict[str, Any]]:
    """What ``results.json`` of a folder says, or another file of that kind: settings with their figures.

    Raises:
        UsageError: it is missing or damaged.
    """
    records = read_json(folder / file)
    check_value(records, list, file)
    kinds = {**type_hints(Setting), **type_hints(Figures)}
    for number, record in enumerate(records):
        about = f"{file}, entry {number}"
        values = as_table(record, about)
        for name in SHOWN:
            if name not in values:
                raise UsageError(f"{about}: the field {name!r} is missing")
        for name, value in values.items():
            if name in kinds:
                check_value(value, kinds[name], f"{about}: {name}")
    return records


def write_tables(
    folder: Path, results: Sequence[Result], more: Mapping[tuple[Any, ...], Mapping[str, Any]] | None = None
) -> None:
    """Writes ``results.json`` (a list with one object per setting) and ``results.csv``.

    Args:
        folder: where to.
        results: what was played.
        more: what else to say, by ``setting.part("seed")``; all say the same things.
    """
    empty = dict.fromkeys(next(iter((more or {}).values()), {}))
    records = [{**result.record(), **(more or {}).get(result.setting.part("seed"), empty)} for result in results]
    write_atomically(folder / RESULTS_JSON, (json.dumps(records, indent=1) + "\n").encode())
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    write_atomically(folder / RESULTS_CSV, table.getvalue().encode(errors="backslashreplace"))
