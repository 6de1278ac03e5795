"""What each input of the confidence network is worth: policies that see more and more, after the same start.

    python benchmarks/inputs.py --seeds 1 2 3 --out runs/inputs

For each set of inputs and each seed the policy of the preset ``demo`` gets its start and with
``--updates`` as much reinforcement learning. Then it plays test problems at some α. The table has the best accuracy
within some mean NFE and the area under it over log NFE, means over the seeds and their spread. What is in the CSV
file already is not measured again.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from pathlib import Path

import tyro
from rich.console import Console
from rich.table import Table

from dllm_env.eval.metrics import best_at_most, mean
from dllm_env.pareto import log_area
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.rollout import attempt, row_seeds
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.presets import PRESETS
from dllm_env.train.run import CHECKPOINT
from dllm_env.train.setup import Setup, make_setup
from dllm_env.train.start import imitate
from dllm_env.train.validation import alphas

PAIRS = (("place", "left"), ("nines", "doubt"), ("ends", "repeats"))
"""Each set has one pair more: where a position stands, how sure the denoiser is, which tokens it would write."""
ALPHAS = 12


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    training: GRPO = PRESETS["demo"]
    """The recipe, but for seed and inputs."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Training seeds."""
    updates: int = 0
    """Updates of GRPO after the start."""
    pairs: tuple[int, ...] = tuple(range(len(PAIRS) + 1))
    """How many of the pairs of inputs each of the sets has: none, then one more and more."""
    problems: int = 500
    """Test problems."""
    within: tuple[float, ...] = (8.0, 5.6, 5.0)
    """Mean NFE that a point may have."""
    out: Path = Path("runs/inputs")
    """Folder of the results."""


def sets(settings: Settings) -> list[tuple[str, ...]]:
    """Of the pairs so many each."""
    return [sum(PAIRS[:count], ()) for count in settings.pairs]


def trained(settings: Settings, sight: tuple[str, ...], seed: int) -> tuple[Setup, LearnedPolicy, GRPO]:
    """The policy after its start, or after so many updates."""
    recipe = settings.training.changed(seed=seed, sight=sight)
    setup = make_setup(recipe)
    factor = recipe.validation.test_temperatures[0]
    if not settings.updates:
        imitate(setup, recipe)
        policy = setup.policy
        policy.network.eval()
        head = replace(policy.head, temperature=policy.head.temperature * factor)  # type: ignore[type-var]
        return setup, LearnedPolicy(policy.network, head, policy.context), recipe
    recipe = recipe.changed(updates=settings.updates)
    folder = settings.out / f"{'-'.join(sight) or 'none'}-{seed}"
    train_grpo(recipe, folder, resume=(folder / CHECKPOINT).exists())
    return setup, LearnedPolicy.from_pretrained(folder), recipe


def measure(settings: Settings, sight: tuple[str, ...], seed: int) -> list[float]:
    """Accuracy within each NFE, and the area."""
    setup, policy, recipe = trained(settings, sight, seed)
    problems = [setup.task.problem(i, "test") for i in range(settings.problems)]
    points = []
    low, high = recipe.rewards.preferences
    for alpha in alphas(low, high, ALPHAS):
        known = (setup.rules, setup.task, problems, row_seeds(len(problems), "inputs", seed))
        played = attempt(setup.denoiser, policy.at(alpha), *known)
        points.append((played.rollout.nfe.float().mean().item(), played.correct.mean().item()))
    best = [best_at_most(points, nfe) for nfe in settings.within]
    return [*(0.0 if i is None else points[i][1] for i in best), log_area(points, setup.rules.response_length)]


def main(settings: Settings) -> None:
    """Measures what is missing, and prints the table."""
    settings.out.mkdir(parents=True, exist_ok=True)
    file = settings.out / f"inputs-{settings.updates}.csv"
    done = list(csv.reader(file.open(encoding="utf-8"))) if file.exists() else []
    known = {(row[0], row[1]): [float(x) for x in row[2:]] for row in done}
    for seed in settings.seeds:
        for sight in sets(settings):
            key = (" ".join(sight), str(seed))
            if key not in known:
                known[key] = measure(settings, sight, seed)
                with file.open("a", newline="", encoding="utf-8") as out:
                    csv.writer(out).writerow([*key, *known[key]])
    heads = ("inputs", *(f"within {nfe:g} NFE" for nfe in settings.within), "area", "lowest", "highest")
    table = Table(*heads, title=f"{settings.updates} updates, {len(settings.seeds)} seeds")
    for sight in sets(settings):
        rows = [known[" ".join(sight), str(seed)] for seed in settings.seeds]
        means = [mean(list(column)) for column in zip(*rows, strict=True)]
        areas = [row[-1] for row in rows]
        shown = f"+ {' '.join(sight[-2:])}" if sight else "none"
        figures = [*(f"{x:.1%}" for x in means[:-1]), *(f"{x:.3f}" for x in (means[-1], min(areas), max(areas)))]
        table.add_row(shown, *figures)
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Settings))
