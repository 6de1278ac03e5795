"""What a denoiser that learns, too, adds to a policy: frozen, adapters, all weights, from one weak denoiser.

    python benchmarks/dcolt.py --seeds 101 102 103 --workers 2 --out runs/dcolt

Trains a denoiser for a fraction of the updates of ``tiny``, so that on ``choice`` its samples are right about half
of the time even one token at a time, and from it, with each seed and each ``--train-denoiser``, DCoLT for the same
time, from a policy that imitates ``top_k:4``. Then all play the same test problems: with the most probable tokens,
and several samples at temperature 1, whose entropy and pass@k say how diverse they are. A head of k positions a
step makes all equally fast. What is there already is taken as it is; with ``--workers 2`` two train at a time.

A SEDD learns by the probabilities of its own reverse process:

    python benchmarks/dcolt.py --weak.family sedd --weak.recipe sudoku --weak.first-updates 400
        --training.task sudoku --training.response-length 0 --training.policy.network reverse
        --training.policy.head bernoulli --training.imitation.start none
        --rules ancestral:4 ancestral:16 top_k:4 --kinds full --out runs/dcolt-sedd
"""

from __future__ import annotations

import csv
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import tyro
from rich.console import Console
from rich.table import Table

from dllm_env.eval.evaluate import EvaluationConfig, evaluate
from dllm_env.eval.metrics import mean, pass_at_k
from dllm_env.eval.results import Outcome, summarise
from dllm_env.processes import spread
from dllm_env.train.dcolt import DCoLT, train_dcolt
from dllm_env.train.denoiser import DenoiserTraining, train_denoiser
from dllm_env.train.run import CHECKPOINT

KINDS = ("none", "lora", "full")


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    training: DCoLT = field(
        default_factory=lambda: DCoLT(task="choice", updates=10_000, microbatch_size=64).changed(
            response_length=20,
            prompts=8,
            evaluate_every=0,
            start="top_k:4",
            learning_rate=3e-4,
            warmup=5,
        )
    )
    """Every training, but for its denoiser, kind and seed; it ends by time."""
    rates: dict[str, float] = field(default_factory=lambda: {"none": 3e-4, "lora": 1e-3, "full": 3e-4})
    """The denoiser's learning rate of each kind."""
    weak: DenoiserTraining = field(
        default_factory=lambda: DenoiserTraining(
            recipe="choice", seed=5, examples=60_000, first_updates=255, second_updates=0, third_updates=0
        )
    )
    """The denoiser that all begin with."""
    rules: tuple[str, ...] = ("top_k:1", "top_k:4", "random:4")
    """What plays it, for comparison."""
    kinds: tuple[str, ...] = KINDS
    """What of it learns."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Training seeds."""
    minutes: float = 6.0
    """Of each training, of one thread's processor time, so that no neighbour counts."""
    workers: int = 1
    """Trainings at a time, each with one thread."""
    problems: int = 500
    """Test problems."""
    samples: int = 8
    """Samples of each of them, for diversity."""
    sampled_problems: int = 100
    """Test problems that are sampled."""
    out: Path = Path("runs/dcolt")
    """Folder of the runs and the results."""


def until(minutes: float, spent: Path) -> Callable[..., bool]:
    """A callback that ends a training after so many minutes of its processor, counted on in the file ``spent``."""
    before = float(spent.read_text(encoding="utf-8")) if spent.exists() else 0.0
    begin = time.process_time()

    def go_on(*_: object) -> bool:
        seconds = before + time.process_time() - begin
        spent.write_text(f"{seconds:.3f}", encoding="utf-8")
        return seconds < 60 * minutes

    return go_on


def folder_of(settings: Settings, kind: str, seed: int) -> Path:
    """Of a training's run."""
    return settings.out / f"{kind}-{seed}"


def train(wanted: tuple[Settings, str, int]) -> None:
    """One training, where it is not done."""
    settings, kind, seed = wanted
    folder = folder_of(settings, kind, seed)
    if (folder / "best").exists():
        return
    training = settings.training.changed(
        denoiser=str(settings.out / "weak" / "denoiser"),
        train_denoiser=kind,
        denoiser_learning_rate=settings.rates[kind],
        seed=seed,
    )
    spent = settings.out / f"{folder.name}.spent"
    train_dcolt(training, folder, (folder / CHECKPOINT).exists(), callback=until(settings.minutes, spent))


def entropy(outcomes: list[Outcome]) -> float:
    """Mean over problems of the entropy, in nats, of what a position says over the samples, and over positions."""
    problems: dict[int, list[list[str]]] = {}
    for outcome in outcomes:
        problems.setdefault(outcome.index, []).append(list(outcome.words))
    values = []
    for words in problems.values():
        for place in zip(*words, strict=True):
            shares = np.unique(np.array(place), return_counts=True)[1] / len(place)
            values.append(float(-(shares * np.log(shares)).sum()))
    return mean(values)


def measure(settings: Settings, policy: str, denoiser: str) -> list[float]:
    """Accuracy and NFE of the most probable tokens, then mean accuracy, pass@samples and entropy of the samples."""
    training = settings.training
    plain = EvaluationConfig(
        task=training.task,
        response_length=training.response_length,
        denoiser=denoiser,
        problems=settings.problems,
    )
    found = summarise(evaluate(plain, [policy])[0].outcomes)
    several = replace(plain, problems=settings.sampled_problems, samples=settings.samples, temperature=1.0)
    outcomes = evaluate(several, [policy])[0].outcomes
    right: dict[int, list[float]] = {}
    for outcome in outcomes:
        right.setdefault(outcome.index, []).append(outcome.correct)
    counts = [(len(scores), int(sum(scores))) for scores in right.values()]
    at_once = mean([pass_at_k(n, c, settings.samples) for n, c in counts])
    return [found.accuracy, found.nfe, mean([c / n for n, c in counts]), at_once, entropy(outcomes)]


def main(settings: Settings) -> None:
    """Trains what is missing, measures, prints, and writes ``dcolt.csv``."""
    weak = settings.out / "weak"
    train_denoiser(settings.weak, weak, (weak / CHECKPOINT).exists())
    base = str(weak / "denoiser")
    wanted = [(settings, kind, seed) for seed in settings.seeds for kind in settings.kinds]
    list(spread(train, wanted, settings.workers, torch.set_num_threads, (1,)))
    rows: list[tuple[str, object, list[float]]] = [
        (f"the denoiser, {rule}", "", measure(settings, rule, base)) for rule in settings.rules
    ]
    for _, kind, seed in sorted(wanted, key=lambda one: settings.kinds.index(one[1])):
        folder = str(folder_of(settings, kind, seed))
        played = measure(settings, folder, base if kind == "none" else folder)
        rows.append((f"train_denoiser {kind}", seed, played))
    names = ("accuracy", "NFE", "of samples", f"pass@{settings.samples}", "entropy, nats")
    title = f"{settings.problems} test problems, {settings.minutes:g} minutes of a thread each"
    table = Table("", "seed", *names, title=title)
    for who, seed, values in rows:
        accuracy, nfe, sampled, at_once, nats = values
        table.add_row(
            who, str(seed), f"{accuracy:.1%}", f"{nfe:.1f}", f"{sampled:.1%}", f"{at_once:.1%}", f"{nats:.3f}"
        )
    Console(width=120).print(table)
    with (settings.out / "dcolt.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("who", "seed", *names), *((who, seed, *values) for who, seed, values in rows)])


if __name__ == "__main__":
    main(tyro.cli(Settings))
