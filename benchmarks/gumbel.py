"""What float32 noise does to sampling: the claim of arXiv 2409.02908, measured on a bundled denoiser.

    python benchmarks/gumbel.py --out runs/gumbel

Two samplers draw responses with Gumbel noise in float64 and in float32 (where a uniform number has 24 bits,
so that no noise is above 16.7):

* ancestral: the reverse process of masked diffusion in T steps. In each of them every masked position draws one of
  "stay masked" and the V tokens, a token having the probability p·(αs − αt)/(1 − αt), about p/T. The smaller these
  are, the more of them the cut-off noise can never draw.
* ours: positions are chosen first (random:1), and only a chosen position draws its token.

Prints per sampler and precision: the entropy of the words within a response, how many responses to the same prompt
differ, how improbable the drawn tokens were, and accuracy; each with its standard error over prompts.
"""

from __future__ import annotations

import csv
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dllm_env.denoisers import Denoiser, Extras, NoiseType, load_denoiser
from dllm_env.dynamics import Rules
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import rollout, row_seeds
from dllm_env.random import torch_generator
from dllm_env.tasks import Problem, Task, load_task


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    out: Path = Path("runs/gumbel")
    """Folder of the table."""
    denoiser: str = "tiny"
    """Bundled name or folder."""
    task: str = "trace"
    """Where prompts come from."""
    prompts: int = 40
    """Prompts."""
    samples: int = 16
    """Responses to each."""
    steps: tuple[int, ...] = (40, 400, 4000)
    """T of the ancestral sampler."""
    seed: int = 0
    """Everything random follows from it."""


@dataclass
class Sampled:
    """Responses (N, L) with the log-probabilities (N, L) that their tokens had when they were drawn."""

    responses: Tensor
    log_probability: Tensor


def uniform_to_gumbel(uniform: Tensor) -> Tensor:
    """−log(−log U); U = 0 gives −∞."""
    return -torch.log(-torch.log(uniform))


@torch.no_grad()
def ancestral(
    denoiser: Denoiser, prompts: Sequence[Sequence[int]], length: int, steps: int, noise: torch.dtype, seed: int
) -> Sampled:
    """T steps of the reverse process; the denoiser, which takes no time, is asked only about rows that changed."""
    generator = torch_generator("gumbel", seed, steps, noise)
    count, width = len(prompts), max(map(len, prompts))
    tokens = torch.full((count, width + length), denoiser.mask_id)
    for row, prompt in enumerate(prompts):
        tokens[row, :width] = torch.tensor([denoiser.pad_id] * (width - len(prompt)) + list(prompt))
    masked = torch.ones(count, length, dtype=torch.bool)
    predicted = torch.zeros(count, length, denoiser.vocabulary)
    drawn = torch.zeros(count, length)
    stale = masked.any(-1)
    for step in range(steps):
        if stale.any():
            found = denoiser.predict(tokens[stale], masked[stale], extras=Extras(log_probability=True))
            assert found.log_probability is not None
            predicted[stale] = found.log_probability
        row, column = masked.nonzero(as_tuple=True)
        if not len(row):
            break
        leave = 1 / (steps - step)  # (αs − αt)/(1 − αt) of the linear schedule
        log_rate = predicted[row, column] + math.log(leave)
        stay = log_rate.new_full((len(row), 1), math.log1p(-leave) if leave < 1 else -math.inf)
        scores = torch.cat([log_rate, stay], -1).to(noise)
        chosen = (scores + uniform_to_gumbel(torch.rand(scores.shape, generator=generator, dtype=noise))).argmax(-1)
        moved = chosen < denoiser.vocabulary
        row, column, chosen = row[moved], column[moved], chosen[moved]
        tokens[row, width + column] = chosen
        drawn[row, column] = predicted[row, column, chosen]
        masked[row, column] = False
        stale = torch.zeros(count, dtype=torch.bool).index_fill(0, row, True) & masked.any(-1)
    return Sampled(tokens[:, width:], drawn)


def ours(denoiser: Denoiser, prompts: Sequence[Sequence[int]], length: int, noise: NoiseType, seed: int) -> Sampled:
    """random:1 at temperature 1 in full diffusion."""
    rules = Rules(length, length, temperature=1.0, noise=noise)
    seeds = row_seeds(len(prompts), "gumbel", seed)
    played = rollout(denoiser, load_heuristic("random:1"), rules, prompts, seeds)
    return Sampled(played.responses, torch.full(played.responses.shape, math.nan))


@dataclass
class Line:
    """A line of the table: means and standard errors over prompts."""

    sampler: str
    noise: str
    figures: dict[str, tuple[float, float]] = field(default_factory=dict)
    seconds: float = 0.0


FIGURES = ("entropy", "distinct", "rare", "accuracy")
ABOUT = {
    "entropy": "entropy of the words of a response, nats",
    "distinct": "different responses per prompt",
    "rare": "tokens with p < 0.001 per response",
    "accuracy": "accuracy",
}


def measure(denoiser: Denoiser, task: Task, problems: Sequence[Problem], sampled: Sampled) -> dict[str, tuple]:
    """The figures; rows of ``sampled`` are the samples of the first problem, then those of the second, …"""
    samples = len(sampled.responses) // len(problems)
    per_prompt: dict[str, list[float]] = {name: [] for name in FIGURES}
    rare = (sampled.log_probability < math.log(1e-3)).float().sum(-1)
    for i, problem in enumerate(problems):
        rows = sampled.responses[i * samples : (i + 1) * samples].tolist()
        texts = [denoiser.response_text(row) for row in rows]
        per_prompt["entropy"].append(sum(map(word_entropy, rows)) / samples)
        per_prompt["distinct"].append(len({tuple(row) for row in rows}))
        per_prompt["rare"].append(rare[i * samples : (i + 1) * samples].mean().item())
        per_prompt["accuracy"].append(sum(task.score(problem, text) for text in texts) / samples)
    if sampled.log_probability.isnan().any():
        del per_prompt["rare"]
    return {name: mean_and_error(values) for name, values in per_prompt.items()}


def word_entropy(row: Sequence[int]) -> float:
    """Entropy of the distribution of a response's tokens, in nats."""
    return -sum(n / len(row) * math.log(n / len(row)) for n in Counter(row).values())


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    found = torch.tensor(values, dtype=torch.float64)
    return found.mean().item(), (found.std() / len(found) ** 0.5).item()


def main(settings: Settings) -> None:
    """Draws, measures, prints, and writes ``gumbel.csv``."""
    denoiser, task = load_denoiser(settings.denoiser), load_task(settings.task)
    problems = [task.problem(i, "test", settings.seed) for i in range(settings.prompts)]
    prompts = [denoiser.encode(p.prompt) for p in problems for _ in range(settings.samples)]
    length, lines = task.response_length, []
    for steps in settings.steps:
        for name, noise in (("float64", torch.float64), ("float32", torch.float32)):
            began = time.perf_counter()
            sampled = ancestral(denoiser, prompts, length, steps, noise, settings.seed)
            figures = measure(denoiser, task, problems, sampled)
            lines.append(Line(f"ancestral, T = {steps:,}", name, figures, time.perf_counter() - began))
    noises: tuple[NoiseType, NoiseType] = ("float64", "float32")
    for kind in noises:
        began = time.perf_counter()
        figures = measure(denoiser, task, problems, ours(denoiser, prompts, length, kind, settings.seed))
        lines.append(Line("ours, random:1", kind, figures, time.perf_counter() - began))
    table = Table(
        title=f"{settings.prompts} prompts × {settings.samples} samples, {settings.task}, {denoiser.name}"
    )
    for column in ("sampler", "noise", *ABOUT.values(), "seconds"):
        table.add_column(column, justify="left" if column in ("sampler", "noise") else "right")
    for line in lines:
        cells = [f"{line.figures[n][0]:.4f} ± {line.figures[n][1]:.4f}" if n in line.figures else "" for n in ABOUT]
        table.add_row(line.sampler, line.noise, *cells, f"{line.seconds:.0f}")
    Console(width=150).print(table)
    settings.out.mkdir(parents=True, exist_ok=True)
    with (settings.out / "gumbel.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["sampler", "noise", *(f"{n}{end}" for n in FIGURES for end in ("", "_error"))])
        for line in lines:
            values = [value for name in FIGURES for value in line.figures.get(name, ("", ""))]
            writer.writerow([line.sampler, line.noise, *values])


if __name__ == "__main__":
    main(tyro.cli(Settings))
