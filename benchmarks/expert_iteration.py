"""Expert iteration and GRPO at equal denoiser evaluations: search improves the policy, the policy imitates search.

    python benchmarks/expert_iteration.py --seeds 1 2 3 --out runs/expert-iteration

Of each task and seed a policy searches and imitates what was found, three times, from the second time on as one of
the search's proposals. GRPO goes on from the first of these rounds, until it has used as many evaluations as the
other two. Counted are those of searches, rollouts and looks at the policy while it imitates, not of validation.
What is in the CSV file already is not measured again.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dllm_env.eval.metrics import mean
from dllm_env.policies.learned import LearnedPolicy
from dllm_env.policies.rollout import attempt, row_seeds
from dllm_env.train.grpo import GRPO, train_grpo
from dllm_env.train.run import CHECKPOINT
from dllm_env.train.setup import Setup, make_setup
from dllm_env.train.start import imitate_round

FIGURES = ("evaluations", "accuracy", "NFE", "reward")


@dataclass(frozen=True)
class Settings:
    """Settings of the measurement."""

    training: GRPO = field(
        default_factory=lambda: GRPO().changed(
            alpha=1.0,
            alpha_warmup=0,
            start="mcts:budget=100,hindsight=false",
            imitation_problems=256,
            evaluate_every=0,
        )
    )
    """The recipe, but for task, denoiser, seed, rounds and updates."""
    tasks: tuple[str, ...] = ("trace", "trace:order=backward")
    """Tasks, written by the denoiser many."""
    seeds: tuple[int, ...] = (1, 2, 3)
    """Training seeds."""
    rounds: int = 3
    """Rounds of expert iteration."""
    problems: int = 500
    """Test problems."""
    out: Path = Path("runs/expert-iteration")
    """Folder of the runs and the results."""


class Counter:
    """Counts the rows that a denoiser is asked about from now on."""

    def __init__(self, setup: Setup) -> None:
        self.rows, self._predict = 0, setup.denoiser.predict
        setup.denoiser.predict = self._counted  # type: ignore[method-assign]

    def _counted(self, tokens: Tensor, *given: Any, **named: Any) -> Any:
        self.rows += len(tokens)
        return self._predict(tokens, *given, **named)


def measure(setup: Setup, policy: LearnedPolicy, settings: Settings, seed: int) -> list[float]:
    """Accuracy, NFE and reward on the test problems."""
    problems = [setup.task.problem(index, "test") for index in range(settings.problems)]
    seeds = row_seeds(len(problems), "expert iteration", seed)
    played = attempt(setup.denoiser, policy, setup.rules, setup.task, problems, seeds)
    reward = setup.rewards(played.outcomes(problems)).total.mean().item()
    return [played.correct.mean().item(), played.rollout.nfe.float().mean().item(), reward]


def sharper(policy: LearnedPolicy, factor: float) -> LearnedPolicy:
    """At the temperature of tests."""
    head = replace(policy.head, temperature=policy.head.temperature * factor)  # type: ignore[type-var]
    return LearnedPolicy(policy.network.eval(), head, policy.context)


def compare(settings: Settings, task: str, seed: int) -> list[tuple[str, list[float]]]:
    """A line for each round, and one for GRPO."""
    recipe = settings.training.changed(task=task, denoiser="many", seed=seed, imitation_rounds=settings.rounds)
    factor = recipe.validation.test_temperatures[-1]
    setup = make_setup(recipe)
    counter, lines, spent = Counter(setup), [], []
    for number in range(settings.rounds):
        imitate_round(setup, recipe, number)
        spent.append(counter.rows)
        found = measure(setup, sharper(setup.policy, factor), settings, seed)
        lines.append((f"expert iteration, round {number + 1}", [float(spent[-1]), *found]))
        counter.rows = spent[-1]  # the measurement does not count
    budget = spent[-1] - spent[0]
    rows = recipe.prompts * recipe.num_generations
    updates = max(1, round(budget / (rows * lines[0][1][2])))
    used = 0

    def go_on(known: dict[str, Any], _: dict[str, Any]) -> bool:
        nonlocal used
        used += int(known["attempt"].rollout.nfe.sum())
        return used < budget

    name = task.partition(":")[2] or task
    folder = settings.out / f"{name.replace('=', '-')}-{seed}"
    plain = recipe.changed(imitation_rounds=1, updates=updates)
    train_grpo(plain, folder, (folder / CHECKPOINT).exists(), callback=go_on)
    policy = LearnedPolicy.from_pretrained(folder / "last")
    lines.append(("GRPO after round 1", [float(spent[0] + used), *measure(setup, policy, settings, seed)]))
    return lines


def main(settings: Settings) -> None:
    """Measures what is missing, and prints the table."""
    settings.out.mkdir(parents=True, exist_ok=True)
    file = settings.out / "expert_iteration.csv"
    done = list(csv.reader(file.open(encoding="utf-8"))) if file.exists() else []
    for task in settings.tasks:
        for seed in settings.seeds:
            if not any(row[:2] == [task, str(seed)] for row in done):
                rows = [[task, str(seed), who, *map(str, found)] for who, found in compare(settings, task, seed)]
                with file.open("a", newline="", encoding="utf-8") as out:
                    csv.writer(out).writerows(rows)
                done += rows
    table = Table("task", "", *FIGURES, title=f"{len(settings.seeds)} seeds, {settings.problems} test problems")
    for task in settings.tasks:
        for who in dict.fromkeys(row[2] for row in done):
            some = [row[3:] for row in done if (row[0], row[2]) == (task, who)]
            evaluations, accuracy, nfe, reward = (
                mean([float(x) for x in column]) for column in zip(*some, strict=True)
            )
            table.add_row(task, who, f"{evaluations:,.0f}", f"{accuracy:.1%}", f"{nfe:.1f}", f"{reward:.3f}")
    Console(width=120).print(table)


if __name__ == "__main__":
    main(tyro.cli(Settings))
