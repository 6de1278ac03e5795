"""Policies for all speeds on fresh seeds: how right each is within so many evaluations, beside rules and oracle.

    python benchmarks/one_front.py --seeds 101 102 103 104 105 --out runs/one-front

Trains the preset ``demo`` with each seed, plays every policy at 12 α and the leftmost fallback at 12 λ on the same
test problems, and prints, of each, the best accuracy within some mean NFE and the score; ``front.png`` shows the
first policy. What is there already is taken as it is, so that a stopped run goes on.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from dllm_env.eval.compare import pool
from dllm_env.eval.evaluate import EvaluationConfig, prepare
from dllm_env.eval.fronts import Front, fronts
from dllm_env.eval.metrics import best_at_most, mean
from dllm_env.eval.results import read
from dllm_env.eval.runner import finish, play, save_pareto_plot, title
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.presets import PRESETS
from dllm_env.train.run import CHECKPOINT
from dllm_env.train.validation import alphas

LAMBDAS = (0.45, 0.5, 0.525, 0.55, 0.575, 0.6, 0.625, 0.65, 0.7, 0.75, 0.8, 0.9)
RIVALS = tuple(f"threshold:threshold={t:g},fallback=leftmost" for t in LAMBDAS)
"""As many settings as the policies have: an area grows with the number of points, as does the best of them."""
REFERENCES = ("random:1", "random:2", "random:4", "random:10", "oracle")
OTHERS = ("threshold:0.5", "threshold:0.7", "threshold:0.9", "entropy:4", "leftmost:4", "eoser:4", "ass", "lsp:0.9")
"""Other published rules, for the picture."""


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    training: GRPO = PRESETS["demo"]
    """How every policy is trained."""
    seeds: tuple[int, ...] = (101, 102, 103, 104, 105)
    """Training seeds; nothing may have been chosen on them."""
    out: Path = Path("runs/one-front")
    """Folder of the runs and the results."""
    problems: int = 1000
    """Test problems."""
    block_length: tuple[int, ...] = (40,)
    """Block lengths to play at."""
    within: tuple[float, ...] = (8.0, 5.6, 5.0)
    """Mean NFE that a point may have."""
    compared: tuple[str, ...] = (*RIVALS, *REFERENCES, *OTHERS)
    """What the policies are compared with; scores need the references."""
    workers: int = 1
    """Processes that play, of two threads each where there are several."""


def line(front: Front, within: Sequence[float]) -> list[str | float]:
    """A front's best accuracy within each NFE, 0 where it has no such point, its area, and its score or 0."""
    best = [best_at_most([entry.coordinates for entry in front.members], nfe) for nfe in within]
    right = (0.0 if i is None else front.members[i].accuracy for i in best)
    return [front.who, *right, front.area.value, 0.0 if front.score is None else front.score.value]


def main(settings: Settings) -> None:
    """Trains, plays, prints, and writes ``one_front.csv``."""
    policies: list[str] = []
    for seed in settings.seeds:
        folder = settings.out / f"seed-{seed}"
        train_grpo(settings.training.changed(seed=seed), folder, resume=(folder / CHECKPOINT).exists())
        low, high = settings.training.rewards.preferences
        policies += [f"{folder}:alpha={alpha:.4g}" for alpha in alphas(low, high, len(LAMBDAS))]
    config = EvaluationConfig(problems=settings.problems, block_length=settings.block_length)
    results = settings.out / "results"
    results.mkdir(parents=True, exist_ok=True)
    play(prepare([(config, [*policies, *settings.compared])]), results, settings.workers)
    others = tuple(str(settings.out / f"seed-{seed}") for seed in settings.seeds[1:])
    shown = [entry for entry in finish(results) if not entry.policy.startswith(others)]
    save_pareto_plot(shown, settings.out / "front.png", title(shown))  # one line is enough to look at
    lines: list[list[str | float]] = []
    for block in settings.block_length:
        entries = [entry for entry in pool(read([results])) if entry.block_length == block]
        of = {front.who: front for front in fronts(entries)}
        named = [str(settings.out / f"seed-{seed}") for seed in settings.seeds]
        made = []
        for who in (*named, *(rival for rival in ("threshold:fallback=leftmost", "oracle") if rival in of)):
            made.append(line(of[who], settings.within))
        learned = [row[1:] for row in made[: len(named)]]
        columns = list(zip(*learned, strict=True))
        made.append(["mean of the seeds", *(mean([float(x) for x in column]) for column in columns)])
        made.append(["worst of the seeds", *(min(float(x) for x in column) for column in columns)])
        heads = ["policy", *(f"within {nfe:g} NFE" for nfe in settings.within), "area", "score"]
        table = Table(*heads, title=f"best accuracy on {settings.problems:,} test problems, block length {block}")
        for row in made:
            table.add_row(str(row[0]), *(f"{x:.1%}" for x in row[1:-2]), *(f"{x:.3f}" for x in row[-2:]))
        Console(width=120).print(table)
        lines += [[block, *row] for row in made]
    with (settings.out / "one_front.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["block_length", *heads], *lines])


if __name__ == "__main__":
    main(tyro.cli(Settings))
