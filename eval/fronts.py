"""How far fronts are from what is possible: areas, scores between random and the oracle, and AUP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dllm_env.eval.compare import Entry, by_condition, condition_titles, nfe_by_problem
from dllm_env.eval.metrics import accuracy_under_parallelism, front_areas, mean
from dllm_env.eval.results import by_problem
from dllm_env.pareto import REFERENCES, Kind, pareto_front
from dllm_env.random import derive_key

SIDES: Mapping[str, tuple[Kind, ...]] = {
    "heuristics": ("heuristic",),
    "learned": ("learned",),
    "all": ("heuristic", "learned"),
    "oracle": ("oracle",),
    "search": ("search",),
}
"""The fronts of several policies, by their names, and of which kinds of policies they are made."""
RANDOM = "random"
"""The rule that has the score 0."""


@dataclass(frozen=True)
class Value:
    """A figure with its 95% interval (bootstrap over problems)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Front:
    """What the policies of a front give together, on the problems that all policies of their condition have.

    Attributes:
        title: of the condition.
        who: heuristics, learned, all, oracle, search, or a family: a rule or learned policy with all values of its
            knob.
        policies, problems: how many.
        area: under the best accuracy within n evaluations over log n, from 1 to L; between 0 and 1.
        score: (area − random's) / (the oracle's − random's); None where these were not played.
        aup: accuracy under parallelism of the policies that no other one here beats; see
            ``metrics.accuracy_under_parallelism``.
        members: the entries.
    """

    title: str
    who: str
    policies: int
    problems: int
    area: Value
    score: Value | None
    aup: float
    members: tuple[Entry, ...] = ()

    @property
    def learned(self) -> bool:
        """Whether all of its policies were trained."""
        return all(entry.learned for entry in self.members)


def fronts(entries: Sequence[Entry]) -> list[Front]:
    """Of each condition, the fronts of the kinds of policies, then those of the families, best first."""
    made: list[Front] = []
    groups = by_condition(entries)
    for group, title in zip(groups, condition_titles(groups), strict=True):
        common = set.intersection(*(set(by_problem(entry.outcomes)) for entry in group))
        if common and group[0].setting.response_length > 1:
            made += _of_condition(group, title, sorted(common))
    return made


def _of_condition(group: Sequence[Entry], title: str, problems: Sequence[tuple[int, int]]) -> list[Front]:
    members = _members(group)
    scores = [by_problem(entry.outcomes) for entry in group]
    correct = np.array([[mean(found[problem]) for problem in problems] for found in scores])
    nfe = np.array([nfe_by_problem(entry, problems) for entry in group])
    generator = np.random.default_rng(derive_key("front", len(problems)) % 2**63)
    length = group[0].setting.response_length
    seen, drawn = front_areas(correct, nfe, list(members.values()), length, generator)
    places = {who: place for place, who in enumerate(members)}
    scored = _scores(np.concatenate([seen[None], drawn]), places)
    best = max((entry.accuracy for entry in group if entry.kind not in REFERENCES), default=group[0].accuracy)
    made = [
        Front(
            title,
            who,
            len(members[who]),
            len(problems),
            _value(seen[place], drawn[:, place]),
            None if scored is None else _value(scored[0, place], scored[1:, place]),
            _aup([group[i] for i in members[who]], best),
            tuple(group[i] for i in members[who]),
        )
        for who, place in places.items()
    ]
    return sorted(made, key=lambda front: (front.who not in SIDES, front.who not in SIDES and -front.area.value))


def _members(group: Sequence[Entry]) -> dict[str, list[int]]:
    """The policies of each front; of one that would repeat another, only the first."""
    found = {who: [i for i, e in enumerate(group) if e.kind in kinds] for who, kinds in SIDES.items()}
    if not (found["heuristics"] and found["learned"]):
        del found["all"]
    for i, entry in enumerate(group):
        if entry.kind not in REFERENCES:
            found.setdefault(entry.point.family, []).append(i)
    return {who: members for who, members in found.items() if members}


def _scores(areas: NDArray[np.float64], places: Mapping[str, int]) -> NDArray[np.float64] | None:
    """(…, fronts) scores of (…, fronts) areas, if both of their ends were played."""
    if RANDOM not in places or "oracle" not in places:
        return None
    bottom, top = areas[:, [places[RANDOM]]], areas[:, [places["oracle"]]]
    return (areas - bottom) / (top - bottom) if (top > bottom).all() else None


def _value(seen: float, drawn: NDArray[np.float64]) -> Value:
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Value(float(seen), min(float(low), float(seen)), max(float(high), float(seen)))


def _aup(members: Sequence[Entry], best: float) -> float:
    kept = [members[i] for i in pareto_front([entry.coordinates for entry in members])]
    points = [(entry.figures.tokens_per_nfe, entry.accuracy) for entry in kept]
    return accuracy_under_parallelism(points, best)


def front_columns(found: Sequence[Front]) -> dict[tuple[Any, ...], dict[str, Any]]:
    """What ``results.json`` says of the front that a policy belongs to, by ``Setting.part("seed")``."""
    columns: dict[tuple[Any, ...], dict[str, Any]] = {}
    for front in found:
        if front.who in SIDES and front.who != "oracle":
            continue
        score = None if front.score is None else front.score.value
        said = {"front": front.who, "area": front.area.value, "score": score, "aup": front.aup}
        columns |= {entry.setting.part("seed"): said for entry in front.members}
    return columns
