"""How far a policy carries: specialists, one for all domains, and those that never saw a domain, on every domain.

    python benchmarks/domains.py --seeds 101 102 103 --out runs/domains

Trains, with each seed, a policy on each domain, one on all of them, and for each domain one on all others; plays
all on all domains; and prints the matrix of normalised scores, means over the seeds with their range, beside rules
and the oracle. Updates and start have the preset's number of prompts a domain; those of a policy of one domain have
three times as many. What is there already is taken as it is, so that a stopped run goes on; what other kinds and
seeds have left in the folder is shown, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console

from dllm_env.eval.compare import pool
from dllm_env.eval.evaluate import EvaluationConfig, prepare
from dllm_env.eval.fronts import Value, fronts
from dllm_env.eval.matrix import Matrix, average, matrix_csv, matrix_table, plot_matrix, score_matrix
from dllm_env.eval.metrics import mean
from dllm_env.eval.results import read
from dllm_env.eval.runner import play
from dllm_env.eval.suite import load_suite
from dllm_env.files import write_atomically, write_figure
from dllm_env.train.grpo import GRPO
from dllm_env.train.presets import PRESETS
from dllm_env.train.several import train_several

SUITE = Path(__file__).parent.parent / "configs" / "suites" / "domains.yaml"
DOMAINS = tuple(str(PRESETS["domains"].task).split("+"))
"""What is trained on; the suite's last domain is longer than any of them."""


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    training: GRPO = PRESETS["domains"]
    """How the policy for all domains is trained, but for its seed; the others with fewer prompts."""
    updates: int = 100
    """Updates of the others."""
    seeds: tuple[int, ...] = (101, 102, 103)
    """Training seeds; nothing may have been chosen on them."""
    kinds: tuple[str, ...] = ("all", "only", "without")
    """all: one policy for all domains; only: one for each; without: for each, one on all others."""
    alphas: tuple[float, ...] = (0.003, 0.03, 0.3, 3.0, 100.0)
    """Settings of each policy that are played."""
    problems: int = 100
    """Test problems of each domain."""
    suite: Path = SUITE
    """Domains and rules."""
    workers: int = 2
    """Processes, of one thread each."""
    out: Path = Path("runs/domains")
    """Folder of the runs and the results."""


def trainings(settings: Settings) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """Name, domains and seed of every training."""
    for seed in settings.seeds:
        if "all" in settings.kinds:
            yield "all", DOMAINS, seed
        for i, domain in enumerate(DOMAINS):
            name = domain.replace("trace:order=", "")
            if "only" in settings.kinds:
                yield f"only {name}", (domain,), seed
            if "without" in settings.kinds:
                yield f"without {name}", DOMAINS[:i] + DOMAINS[i + 1 :], seed


def recipe(settings: Settings, domains: Sequence[str], seed: int) -> GRPO:
    """How a policy for these domains is trained."""
    training = settings.training.changed(task="+".join(domains), seed=seed)
    if len(domains) == len(DOMAINS):
        return training
    shares = 3 if len(domains) == 1 else len(domains)
    return training.changed(
        updates=settings.updates,
        prompts=max(1, shares * training.prompts // len(DOMAINS)),
        imitation_problems=max(1, shares * training.imitation.imitation_problems // len(DOMAINS)),
    )


def folder_of(settings: Settings, name: str, seed: int) -> Path:
    """Of a training's run."""
    return settings.out / f"{name.replace(' ', '-')}-{seed}"


def over_seeds(matrix: Matrix, settings: Settings) -> Matrix:
    """The matrix with one row for the seeds of each training: their mean, and the least and the largest of them."""
    groups: dict[str, list[int]] = {}
    for i, who in enumerate(matrix.rows):
        groups.setdefault(_training_of(who, settings), []).append(i)
    lines = []
    for name, members in groups.items():
        if name == "learned":
            continue
        columns = [[matrix.values[i][j] for i in members] for j in range(len(matrix.columns))]
        trained = matrix.learned[members[0]]
        values = tuple(_spread(column) if trained else column[0] for column in columns)
        middle = _spread([matrix.means[i] for i in members]) if trained else average(values)
        lines.append((name, values, middle, trained))
    lines.sort(key=lambda line: -1.0 if line[2] is None else line[2].value, reverse=True)
    return Matrix(matrix.columns, *(tuple(column) for column in zip(*lines, strict=True)))  # type: ignore[arg-type]


def _training_of(who: str, settings: Settings) -> str:
    """What a policy was trained on, in words; a rule's own name."""
    folder = Path(who)
    if folder.parent != settings.out:
        return who
    name = folder.name.rpartition("-")[0]
    return "all domains" if name == "all" else name.replace("-", " ")


def summary(matrix: Matrix) -> list[tuple[str, float]]:
    """Means over the domains that are trained on, best first.

    A policy of one domain counts on that domain, and so does one that has seen all but that.
    """
    places = [matrix.columns.index(domain) for domain in DOMAINS]
    names = [domain.replace("trace:order=", "") for domain in DOMAINS]
    rows = dict(zip(matrix.rows, matrix.values, strict=True))
    lines = []
    for who, values in rows.items():
        some = [values[place] for place in places]
        if all(value is not None for value in some):
            lines.append((who, mean([value.value for value in some if value is not None])))
    for kind in ("only", "without"):
        cells = [(rows.get(f"{kind} {name}"), place) for name, place in zip(names, places, strict=True)]
        own = [values[place] for values, place in cells if values is not None]
        there = [value.value for value in own if value is not None]
        if len(there) == len(DOMAINS):
            lines.append((f"{kind} a domain, on that domain", mean(there)))
    return sorted(lines, key=lambda line: -line[1])


def by_seed(matrix: Matrix, settings: Settings) -> list[tuple[str, int, float]]:
    """The same of each training seed: kind, seed and mean, of a policy for all domains over all of them."""
    rows = dict(zip(matrix.rows, matrix.values, strict=True))
    found: dict[tuple[str, int], list[float]] = {}
    for name, _, seed in trainings(settings):
        kind, _, domain = name.partition(" ")
        values = rows.get(str(folder_of(settings, name, seed)), ())
        for column, value in zip(matrix.columns, values, strict=False):
            there = column in DOMAINS if kind == "all" else column.replace("trace:order=", "") == domain
            if there and value is not None:
                found.setdefault((kind, seed), []).append(value.value)
    return [(kind, seed, mean(some)) for (kind, seed), some in found.items() if len(some) == len(DOMAINS)]


def _spread(values: list[Value | None]) -> Value | None:
    there = [value.value for value in values if value is not None]
    return Value(mean(there), min(there), max(there)) if there else None


def main(settings: Settings) -> None:
    """Trains, plays, prints, and writes ``domains.csv`` and ``domains.png``."""
    train_several(
        [
            (recipe(settings, domains, seed), folder_of(settings, name, seed))
            for name, domains, seed in trainings(settings)
        ],
        settings.workers,
    )
    policies = [
        f"{folder_of(settings, name, seed)}:alpha={alpha:g}"
        for name, _, seed in trainings(settings)
        for alpha in settings.alphas
    ]
    plans = load_suite(settings.suite, EvaluationConfig(), policies)
    results = settings.out / "results"
    results.mkdir(parents=True, exist_ok=True)
    play(
        prepare([(replace(config, problems=settings.problems), who) for config, who in plans]),
        results,
        settings.workers,
    )
    scores = score_matrix(fronts(pool(read([results]))))
    if scores is None:
        raise SystemExit("these are too few problems, or rules, to tell random from the oracle")
    matrix = over_seeds(scores, settings)
    Console(width=140).print(matrix_table(matrix, "least – largest"))
    for who, value in summary(matrix) if set(DOMAINS) <= set(matrix.columns) else []:
        print(f"{value:6.3f}  {who}, mean over the {len(DOMAINS)} domains trained on")
    for kind, seed, value in by_seed(scores, settings):
        print(f"{value:6.3f}  {kind}, seed {seed}")
    write_atomically(settings.out / "domains.csv", matrix_csv(matrix).encode())
    write_figure(
        settings.out / "domains.png", plot_matrix(matrix, "score on each domain: 0 is random, 1 the oracle")
    )
    print(f"scores: {settings.out / 'domains.csv'}, {settings.out / 'domains.png'}")


if __name__ == "__main__":
    main(tyro.cli(Settings))
