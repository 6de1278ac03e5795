"""What float32 noise does to sampling: the claim of arXiv 2409.02908, measured on a bundled denoiser.

    python benchmarks/gumbel.py --out runs/gumbel

Gumbel-max is a race: outcome k arrives after −log(U_k) / p_k, and the first one wins. In float32 U has 24 bits, so
that −log U is never below g = 2⁻²⁴, and an unlikely outcome cannot arrive early enough. Against an outcome of
probability near 1, one of probability q then wins with probability

    Σ_{j ≥ 1} g · exp(−j·g / q) = g / (exp(g / q) − 1)        instead of q.

The reverse process of masked diffusion in T steps is such a race: with R steps left, every masked position draws
"stay masked" with probability 1 − 1/R, or token k with p_k / R. With exact noise a position leaves in a step that
is uniform among those left. Noise of 24 bits lets it go with the chance above over p_k / R, or else it stays for a
later step. So the process is simulated event by event, exactly but for terms of order 1/R, for any T in the time of
L evaluations. Below, "ours" is what everything in this package does: positions are chosen first (here random:1),
and only a chosen position draws its token.

Prints the chance above against real draws, then per sampler and precision: the entropy of the words within a
response, the entropy of the token at a position over the samples of a prompt, the log-probability that drawn tokens
had, and accuracy; each with its standard error over prompts.
"""

from __future__ import annotations

import csv
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from dllm_env.denoisers.base import Denoiser, Extras, NoiseType
from dllm_env.denoisers.load import load_denoiser
from dllm_env.policies.registry import load_heuristic
from dllm_env.policies.rollout import rollout, row_seeds
from dllm_env.random import torch_generator
from dllm_env.rules import Rules
from dllm_env.tasks.base import Problem, Task
from dllm_env.tasks.load import load_task

GRAIN = 2.0**-24
"""The least −log U of 24 bits."""


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment."""

    out: Path = Path("runs/gumbel")
    """Folder of the tables."""
    denoiser: str = "tiny"
    """Bundled name or folder."""
    task: str = "trace"
    """Where prompts come from."""
    prompts: int = 60
    """Prompts."""
    samples: int = 16
    """Responses to each."""
    steps: tuple[int, ...] = (40, 10_000, 1_000_000, 100_000_000)
    """T of the reverse process."""
    draws: int = 2**30
    """Random numbers for each line of the comparison with real draws."""
    seed: int = 0
    """Everything random follows from it."""


def chance(probability: Tensor) -> Tensor:
    """Chance that an unlikely outcome of this probability wins with noise of 24 bits."""
    return GRAIN / torch.expm1(GRAIN / probability)


def real_draws(log2: int, numbers: int, generator: torch.Generator) -> int:
    """How often one of 255 tokens of probability 2^log2 each wins against "stay", by Gumbel-max in float32."""
    rows, width, won = 2**14, 256, 0
    scores = torch.full((width,), log2 * math.log(2))
    scores[0] = math.log1p(-(width - 1) * 2.0**log2)
    for _ in range(numbers // (rows * width)):
        uniform = torch.rand(rows, width, generator=generator)
        won += int(((scores - uniform.log().neg_().log_()).argmax(-1) > 0).sum())
    return won


def check_chance(settings: Settings) -> Table:
    """The formula against real draws, for probabilities around 2⁻²⁴."""
    table = Table(title="wins of unlikely tokens in float32")
    for column in ("probability", "expected if exact", "expected by the formula", "drawn"):
        table.add_column(column, justify="right")
    for log2 in (-20, -22, -24, -25):
        tokens = settings.draws // 256 * 255
        drawn = real_draws(log2, settings.draws, torch_generator("draws", settings.seed, log2))
        formula = chance(torch.tensor(2.0**log2, dtype=torch.float64)).item()
        table.add_row(f"2^{log2}", f"{tokens * 2.0**log2:.1f}", f"{tokens * formula:.1f}", str(drawn))
    return table


@dataclass
class Sampled:
    """Responses (N, L) with the log-probabilities (N, L) that their tokens had when they were drawn."""

    responses: Tensor
    log_probability: Tensor


@torch.no_grad()
def ancestral(
    denoiser: Denoiser, prompts: Sequence[Sequence[int]], length: int, steps: int, noise: NoiseType, seed: int
) -> Sampled:
    """The reverse process in ``steps`` steps, event by event."""
    generator = torch_generator("gumbel", seed, steps, noise)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    count, width = len(prompts), max(map(len, prompts))
    padded = [[denoiser.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    tokens = torch.cat([torch.tensor(padded), torch.full((count, length), denoiser.mask_id)], -1)
    masked = torch.ones(count, length, dtype=torch.bool)
    left = (uniform(count, length) * steps).long() + 1  # steps left when a position wants to draw its token
    predicted = torch.zeros(count, length, denoiser.vocabulary, dtype=torch.float64)
    drawn = torch.zeros(count, length, dtype=torch.float64)
    stale = torch.ones(count, dtype=torch.bool)
    while masked.any():
        stale &= masked.any(-1)
        if stale.any():
            found = denoiser.predict(tokens[stale], masked[stale], extras=Extras(log_probability=True))
            assert found.log_probability is not None
            predicted[stale] = found.log_probability.double()
        now = left.masked_fill(~masked, 0).amax(-1, keepdim=True)
        row, column = (masked & (left == now)).nonzero(as_tuple=True)
        here, remaining = predicted[row, column], now[row, 0]
        chosen = here.exp().multinomial(1, generator=generator)[:, 0]
        log_probability = here.gather(1, chosen[:, None])[:, 0]
        wins = torch.ones(len(row), dtype=torch.bool)
        if noise == "float32":
            rate = log_probability.exp() / remaining
            wins = (uniform(len(row)) * rate < chance(rate)) | (remaining == 1)
        lost = ~wins
        left[row[lost], column[lost]] = (uniform(int(lost.sum())) * (remaining[lost] - 1)).long() + 1
        row, column = row[wins], column[wins]
        tokens[row, width + column] = chosen[wins]
        drawn[row, column] = log_probability[wins]
        masked[row, column] = False
        stale = torch.zeros(count, dtype=torch.bool).index_fill(0, row, True)
    return Sampled(tokens[:, width:], drawn)


def ours(denoiser: Denoiser, prompts: Sequence[Sequence[int]], length: int, noise: NoiseType, seed: int) -> Sampled:
    """random:1 at temperature 1 in full diffusion."""
    rules = Rules(length, length, temperature=1.0, noise=noise)
    seeds = row_seeds(len(prompts), "gumbel", seed)
    played = rollout(denoiser, load_heuristic("random:1"), rules, prompts, seeds)
    return Sampled(played.responses, torch.full(played.responses.shape, math.nan))


ABOUT = {
    "within": "entropy of a response's words, nats",
    "across": "entropy of a position's token over samples, nats",
    "log_probability": "log-probability of the drawn tokens",
    "accuracy": "accuracy",
}
Figures = dict[str, tuple[float, float]]
"""Mean and standard error over prompts, by the names of ``ABOUT``."""


def measure(denoiser: Denoiser, task: Task, problems: Sequence[Problem], sampled: Sampled) -> Figures:
    """The figures; rows of ``sampled`` are the samples of the first problem, then those of the second, …"""
    samples = len(sampled.responses) // len(problems)
    per_prompt: dict[str, list[float]] = {name: [] for name in ABOUT}
    for i, problem in enumerate(problems):
        here = slice(i * samples, (i + 1) * samples)
        rows = sampled.responses[here].tolist()
        columns = list(zip(*rows, strict=True))
        texts = [denoiser.response_text(row) for row in rows]
        per_prompt["within"].append(sum(map(entropy, rows)) / samples)
        per_prompt["across"].append(sum(map(entropy, columns)) / len(columns))
        per_prompt["log_probability"].append(sampled.log_probability[here].mean().item())
        per_prompt["accuracy"].append(sum(task.score(problem, text) for text in texts) / samples)
    if sampled.log_probability.isnan().any():
        del per_prompt["log_probability"]
    return {name: mean_and_error(values) for name, values in per_prompt.items()}


def entropy(tokens: Sequence[int]) -> float:
    """Entropy of the distribution of these tokens, in nats."""
    return -sum(n / len(tokens) * math.log(n / len(tokens)) for n in Counter(tokens).values())


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    found = torch.tensor(values, dtype=torch.float64)
    return found.mean().item(), (found.std() / len(found) ** 0.5).item()


def main(settings: Settings) -> None:
    """Draws, measures, prints, and writes ``gumbel.csv``."""
    console = Console(width=150)
    console.print(check_chance(settings))
    denoiser, task = load_denoiser(settings.denoiser), load_task(settings.task)
    problems = [task.problem(i, "test", settings.seed) for i in range(settings.prompts)]
    prompts = [denoiser.encode(p.prompt) for p in problems for _ in range(settings.samples)]
    length, lines = task.response_length, []
    noises: tuple[NoiseType, ...] = ("float64", "float32")
    for steps in (*settings.steps, 0):
        for noise in noises:
            began = time.perf_counter()
            if steps:
                name, sampled = f"T = {steps:,}", ancestral(denoiser, prompts, length, steps, noise, settings.seed)
            else:
                name, sampled = "ours, random:1", ours(denoiser, prompts, length, noise, settings.seed)
            figures = measure(denoiser, task, problems, sampled)
            lines.append((name, noise, figures, time.perf_counter() - began))
    about = f"{settings.prompts} prompts × {settings.samples} samples, {settings.task}, {denoiser.name}"
    table = Table(title=about)
    for column in ("sampler", "noise", *ABOUT.values(), "seconds"):
        table.add_column(column, justify="left" if column in ("sampler", "noise") else "right")
    for name, noise, figures, seconds in lines:
        cells = [f"{figures[n][0]:.3f} ± {figures[n][1]:.3f}" if n in figures else "" for n in ABOUT]
        table.add_row(name, noise, *cells, f"{seconds:.0f}")
    console.print(table)
    settings.out.mkdir(parents=True, exist_ok=True)
    with (settings.out / "gumbel.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sampler", "noise", *(f"{n}{end}" for n in ABOUT for end in ("", "_error"))])
        for name, noise, figures, _ in lines:
            writer.writerow([name, noise, *(value for n in ABOUT for value in figures.get(n, ("", "")))])


if __name__ == "__main__":
    main(tyro.cli(Settings))
