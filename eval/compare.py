"""Sets results side by side: entries, and paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from dllm_env.errors import UsageError
from dllm_env.eval.metrics import (
    best_at_most,
    difference_interval,
    mcnemar,
    mean,
    pass_at_k,
)
from dllm_env.eval.results import VERSIONS, Figures, Outcome, Result, Setting, by_problem, summarise
from dllm_env.pareto import Coordinates, Kind, Point
from dllm_env.random import derive_key
from dllm_env.rules import Rules
from dllm_env.specs import pieces, several, shown
from dllm_env.tasks.load import NAMES


@dataclass(frozen=True)
class Entry:
    """A policy in a condition, all evaluation seeds pooled.

    Attributes:
        setting: what was played, of the first seed.
        label: the policy's name; with its version where several are shown.
        seeds: how many.
        figures: of all outcomes together.
        outcomes: of all seeds.
    """

    setting: Setting
    label: str
    seeds: int
    figures: Figures
    outcomes: list[Outcome] = field(repr=False)

    @property
    def policy(self) -> str:
        """Text for ``load_policy``."""
        return self.setting.policy

    @property
    def learned(self) -> bool:
        """Whether it was trained."""
        return self.setting.learned

    @property
    def kind(self) -> Kind:
        """Rule, learned, or oracle."""
        return self.setting.kind

    @property
    def block_length(self) -> int:
        """BL."""
        return self.setting.block_length

    @property
    def accuracy(self) -> float:
        """Mean over problems."""
        return self.figures.accuracy

    @property
    def nfe(self) -> float:
        """Mean over entries."""
        return self.figures.nfe

    @property
    def coordinates(self) -> Coordinates:
        """(NFE, accuracy)."""
        return self.nfe, self.accuracy

    @property
    def point(self) -> Point:
        """In the picture."""
        f = self.figures
        return Point(self.label, self.kind, f.nfe, f.accuracy, f.accuracy_low, f.accuracy_high)


def pool(results: Sequence[Result]) -> list[Entry]:
    """One entry for each policy and condition, in order of appearance."""
    groups: dict[tuple[object, ...], list[Result]] = {}
    for result in results:
        groups.setdefault(result.setting.part("seed"), []).append(result)
    shown: dict[tuple[object, ...], int] = {}
    for group in groups.values():
        place = (group[0].setting.condition, group[0].setting.policy)
        shown[place] = shown.get(place, 0) + 1
    entries = []
    for group in groups.values():
        setting, outcomes = group[0].setting, [outcome for result in group for outcome in result.outcomes]
        several = shown[setting.condition, setting.policy] > 1
        label = f"{setting.policy} [{' '.join(filter(None, setting.versions))}]" if several else setting.policy
        entries.append(Entry(setting, label, len(group), summarise(outcomes), outcomes))
    return entries


def by_condition(entries: Sequence[Entry]) -> list[list[Entry]]:
    """The entries by what they have to share to be compared; longest blocks first."""
    groups: dict[tuple[object, ...], list[Entry]] = {}
    for entry in entries:
        groups.setdefault(entry.setting.condition, []).append(entry)
    return sorted(groups.values(), key=lambda group: -group[0].block_length)


def condition_titles(groups: Sequence[Sequence[Entry]], blocks: bool = True) -> list[str]:
    """What tells the conditions apart; their block length in any case, or without ``blocks`` in none."""
    firsts = [group[0].setting for group in groups]
    names = [column.name for column in fields(Setting) if column.name in _CONDITION]
    names = [name for name in names if blocks or name != "block_length"]
    varied = [name for name in names if len({getattr(first, name) for first in firsts}) > 1]
    titles = []
    for first in firsts:
        said = [f"{name.replace('_', ' ')} {getattr(first, name)}" for name in varied if name not in _PLAIN]
        plain = [short_name(getattr(first, name)) for name in _PLAIN if name in varied]
        if blocks and "block_length" not in varied:
            said.append(f"block length {first.block_length}")
        titles.append(", ".join(plain + said))
    return [
        title if titles.count(title) == 1 else f"{title} ({first.task})"
        for title, first in zip(titles, firsts, strict=True)
    ]


_PLAIN = ("denoiser", "task")
_CONDITION = ("task", "denoiser", "split", *(rule.name for rule in fields(Rules)))


def short_name(name: str) -> str:
    """A task or denoiser without the folders that lead to it, and without where its data are."""
    parts = (shown(part) for part in several(name, NAMES))
    return "+".join(":".join(filter(None, [part, _without_data(settings)])) for part, settings in parts)


def _without_data(settings: str) -> str:
    return ",".join(part for part in pieces(settings) if not part.strip().startswith("data="))


# ---------------------------------------------------------------------------------------- comparisons


def best_heuristic(entries: Sequence[Entry], learned: Entry) -> Entry | None:
    """The most accurate heuristic that needs at most as many NFE as this policy, in the same condition."""
    rivals = [
        entry
        for entry in entries
        if entry.kind == "heuristic" and entry.setting.condition == learned.setting.condition
    ]
    best = best_at_most([entry.coordinates for entry in rivals], learned.nfe)
    return None if best is None else rivals[best]


def fastest_heuristic(entries: Sequence[Entry], learned: Entry) -> Entry | None:
    """The heuristic of fewest NFE that is at least as accurate as this policy, in the same condition."""
    rivals = [
        entry
        for entry in entries
        if entry.kind == "heuristic"
        and entry.setting.condition == learned.setting.condition
        and entry.accuracy >= learned.accuracy
    ]
    return min(rivals, key=lambda entry: entry.nfe, default=None)


@dataclass(frozen=True)
class Comparison:
    """Two policies on the problems that both were given.

    Attributes:
        first, second: labels of the policies.
        title: of their condition.
        why: what the second was chosen for.
        problems: how many both have.
        difference, low, high: of accuracies, first minus second, with the 95% interval of ``difference_interval``.
        first_only, second_only: problems that only the one solved, where each was tried once.
        p: of McNemar's exact test, where each was tried once.
        nfe_ratio, nfe_low, nfe_high: NFE of the second over that of the first, with the 95% interval of a
            paired bootstrap; it has no width where both always need the same NFE.
    """

    first: str
    second: str
    title: str
    why: str
    problems: int
    difference: float
    low: float
    high: float
    first_only: int | None
    second_only: int | None
    p: float | None
    nfe_ratio: float
    nfe_low: float
    nfe_high: float


def compare(first: Entry, second: Entry, title: str = "", why: str = "") -> Comparison:
    """Two entries of a condition, problem by problem.

    Raises:
        UsageError: they have no problem in common.
    """
    mine, theirs = by_problem(first.outcomes), by_problem(second.outcomes)
    common = [problem for problem in mine if problem in theirs]
    if not common:
        raise UsageError(f"{first.label} and {second.label} have no problem in common")
    scores, others = ([found[problem] for problem in common] for found in (mine, theirs))
    difference = np.array([mean(one) - mean(other) for one, other in zip(scores, others, strict=True)])
    low, high = difference_interval(scores, others, _generator("paired", len(common)))
    once = all(len(mine[problem]) == len(theirs[problem]) == 1 for problem in common)
    first_only, second_only = int((difference > 0).sum()), int((difference < 0).sum())
    ratio, nfe_low, nfe_high = _nfe_ratio(first, second, common)
    return Comparison(
        first.label,
        second.label,
        title,
        why,
        len(common),
        float(difference.mean()),
        low,
        high,
        first_only if once else None,
        second_only if once else None,
        mcnemar(first_only, second_only) if once else None,
        ratio,
        nfe_low,
        nfe_high,
    )


def _generator(*key: object) -> np.random.Generator:
    return np.random.default_rng(derive_key(*key) % 2**63)


def nfe_by_problem(entry: Entry, problems: Sequence[tuple[int, int]]) -> np.ndarray:
    """(N,) mean NFE of each problem."""
    spent: dict[tuple[int, int], list[int]] = {}
    for outcome in entry.outcomes:
        spent.setdefault((outcome.seed, outcome.index), []).append(outcome.nfe)
    return np.array([mean(spent[problem]) for problem in problems])


def _nfe_ratio(first: Entry, second: Entry, problems: Sequence[tuple[int, int]]) -> tuple[float, float, float]:
    mine, theirs = nfe_by_problem(first, problems), nfe_by_problem(second, problems)
    generator = _generator("ratio", len(problems))
    drawn = [generator.integers(len(problems), size=len(problems)) for _ in range(1000)]
    low, high = np.quantile([theirs[entries].mean() / mine[entries].mean() for entries in drawn], [0.025, 0.975])
    return float(theirs.mean() / mine.mean()), float(low), float(high)


def comparisons(entries: Sequence[Entry], baseline: str = "") -> list[Comparison]:
    """The pairs that matter.

    Each learned policy against the best heuristic as fast, and against the fastest heuristic as accurate (or, where
    none is, the most accurate one). With a baseline, all others of its condition against it instead. Besides, what
    was played with the prefix cache against the same without.

    Raises:
        UsageError: no entry has the baseline's label.
    """
    if baseline and baseline not in [entry.label for entry in entries]:
        known = ", ".join(dict.fromkeys(entry.label for entry in entries))
        raise UsageError(f"no results of the baseline {baseline!r}; there are {known}")
    made: list[Comparison] = []
    groups = by_condition(entries)
    for group, title in zip(groups, condition_titles(groups), strict=True):
        if baseline:
            against = [entry for entry in group if entry.label == baseline]
            made += [compare(entry, a, title, "baseline") for a in against for entry in group if entry is not a]
            continue
        for entry in (entry for entry in group if entry.learned):
            as_fast, as_accurate = best_heuristic(group, entry), fastest_heuristic(group, entry)
            most_accurate = max((r for r in group if r.kind == "heuristic"), key=lambda r: r.accuracy, default=None)
            if as_fast is not None:
                made.append(compare(entry, as_fast, title, "best heuristic as fast"))
            if as_accurate is not None:
                made.append(compare(entry, as_accurate, title, "fastest heuristic as accurate"))
            elif most_accurate is not None and most_accurate is not as_fast:
                made.append(compare(entry, most_accurate, title, "most accurate heuristic"))
    return made + _cache_pairs(groups)


def _cache_pairs(groups: Sequence[Sequence[Entry]]) -> list[Comparison]:
    """What the prefix cache changes, which is approximate: each entry that used it against the same without."""
    titles = {
        id(entry): title for group, title in zip(groups, condition_titles(groups), strict=True) for entry in group
    }
    entries = [entry for group in groups for entry in group]

    def about(entry: Entry) -> tuple[object, ...]:
        return entry.label, *entry.setting.part("learned", "seed", "prefix_cache", *VERSIONS)

    plain = {about(entry): entry for entry in entries if not entry.setting.prefix_cache}
    cached = [entry for entry in entries if entry.setting.prefix_cache and about(entry) in plain]
    return [compare(entry, plain[about(entry)], titles[id(entry)], "without the prefix cache") for entry in cached]


def pass_at(entry: Entry, k: int) -> float:
    """Mean over problems of the chance that one of k samples is right; ``metrics.pass_at_k``."""
    scores = by_problem(entry.outcomes).values()
    return mean([pass_at_k(len(samples), round(sum(samples)), k) for samples in scores])


def samples_of(entry: Entry) -> int:
    """Samples that every problem of the entry has."""
    return min(len(samples) for samples in by_problem(entry.outcomes).values())
