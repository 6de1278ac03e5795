"""Trains the bundled denoisers: a masked diffusion transformer, or a SEDD, for several of the bundled tasks.

Three stages: first with the chains of ``trace`` in the prompt's order, then in any order, then mostly long traces.
It may begin with another denoiser's weights. Matrices are trained by Muon, everything else by AdamW. The random
numbers of an update follow from (seed, update), so that a run continues from a checkpoint bit for bit without
saving any generator.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from dllm_env.denoisers.load import load_denoiser
from dllm_env.denoisers.tiny import MASK, WORDS, TinyConfig, TinyDenoiser, TinyTransformer
from dllm_env.errors import UsageError
from dllm_env.locks import locked_for_all
from dllm_env.progress import Bar
from dllm_env.random import torch_generator
from dllm_env.reading import check_value
from dllm_env.specs import check_types
from dllm_env.train.config import ROWS, above_zero, at_least
from dllm_env.train.examples import DIGITS, RECIPES, Examples, batches, make_examples
from dllm_env.train.families import Family, TinyFamily, make_family
from dllm_env.train.run import Run, is_due
from dllm_env.world import World, this_world


@dataclass(frozen=True)
class Stage:
    """One stage of the schedule: warm-up, constant rate, then linear to 2% over the second half."""

    updates: int
    """Number of updates."""
    muon_rate: float
    """Peak learning rate of Muon (block matrices)."""
    adam_rate: float
    """Peak learning rate of AdamW (all other parameters)."""
    shuffle: bool
    """Whether the chains of ``trace`` stand in random order."""
    number: int
    """Which of the three it is, from 0; a recipe's tasks have a batch size for each."""

    def factor(self, update: int, warmup: int) -> float:
        """Share of the peak learning rate at this update of the stage, in (0, 1]."""
        half = self.updates / 2
        decay = 1.0 if update < half else 1.0 - 0.98 * (update - half) / half
        return min(1.0, (update + 1) / warmup) * decay


@dataclass(frozen=True)
class DenoiserTraining:
    """Settings of ``dllm-env train denoiser``; the defaults make ``tiny``."""

    family: Literal["tiny", "sedd"] = "tiny"
    """What it is: the bundled denoisers' network, or a score model (SEDD), which reads a time."""
    timed: bool = True
    """Whether a SEDD is told the time; without, it is always told 0."""
    recipe: Literal["tiny", "many", "trace", "sudoku", "choice"] = "tiny"
    """Which tasks it learns: tiny has trace and sudoku, many all domains, the others one."""
    start: str = ""
    """A bundled kind of denoiser whose weights it begins with; of the same width, layers and heads."""
    seed: int = 1
    """Everything random follows from it."""
    width: int = 128
    """Model width d; the feed-forward layer has twice as much."""
    layers: int = 3
    """Number of blocks."""
    heads: int = 4
    """Attention heads."""
    first_updates: int = 4600
    """Updates with the chains of trace in the prompt's order."""
    second_updates: int = 2600
    """Updates with the chains in random order."""
    third_updates: int = 600
    """Updates in which half of the batch are four-chain traces."""
    warmup: int = 200
    """Warm-up updates of each stage."""
    examples: int = 300_000
    """Examples made beforehand for each stage and task; long traces, sudoku and copy get a fifth of it."""
    max_grad_norm: float = 1.0
    """Gradients are clipped to this norm."""
    evaluate_every: int = 200
    """Updates between evaluations on validation problems."""
    save_every: int = 200
    """Updates between checkpoints."""
    threads: int = 0
    """Processor threads; 0 takes torch's default. The result is the same bit for bit only for the same number."""

    def __post_init__(self) -> None:
        check_types(self)
        TinyConfig(self.width, self.layers, self.heads, feed_forward=2 * self.width)
        at_least(0, self, "first_updates", "second_updates", "third_updates", "evaluate_every")
        at_least(1, self, "warmup", "save_every")
        at_least(5, self, "examples", most=100 * ROWS)
        at_least(0, self, "threads", most=1024)
        above_zero(self, "max_grad_norm")
        if not self.first_updates + self.second_updates + self.third_updates:
            raise UsageError("nothing to do: first_updates, second_updates and third_updates are all 0")
        if self.start and self.family != "tiny":
            raise UsageError(f"a denoiser of family {self.family} begins with fresh weights; leave start away")
        if not self.timed and self.family != "sedd":
            raise UsageError(f"a denoiser of family {self.family} is told no time anyway; timed is for sedd")

    def stages(self) -> list[Stage]:
        """The stages of the schedule."""
        return [
            Stage(self.first_updates, 0.02, 3e-3, shuffle=False, number=0),
            Stage(self.second_updates, 0.015, 2e-3, shuffle=True, number=1),
            Stage(self.third_updates, 0.008, 1e-3, shuffle=True, number=2),
        ]


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised by Newton–Schulz in float32 (K. Jordan, "Muon", 2024).

    ``torch.optim.Muon`` does the same in bfloat16, which is very slow on processors without matrix units for it.
    """

    state_keys = ("momentum",)
    """What a parameter's state has; see ``train.checkpoint``."""

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[nn.Parameter, Tensor]]] = {}
            for parameter in group["params"]:
                assert parameter.grad is not None
                buffer = self.state[parameter].setdefault("momentum", torch.zeros_like(parameter))
                buffer.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(buffer, group["momentum"])
                by_shape.setdefault(parameter.shape, []).append((parameter, update))
            for shape, pairs in by_shape.items():
                scale = max(1.0, shape[0] / shape[1]) ** 0.5
                updates = orthogonalize(torch.stack([update for _, update in pairs]))
                for (parameter, _), update in zip(pairs, updates, strict=True):
                    parameter.sub_(update, alpha=group["lr"] * scale)


def orthogonalize(matrices: Tensor, steps: int = 5) -> Tensor:
    """Moves all singular values near 1 by the quintic Newton–Schulz iteration: (n, rows, columns), same shape."""
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x if matrices.shape[1] <= matrices.shape[2] else x.mT


# ----------------------------------------------------------------------------------------------- loss


def masked_loss(family: Family, tokens: Tensor, weights: Tensor, length: int) -> Tensor:
    """Σ weight · loss over the hidden positions, per response token of the batch.

    Args:
        family: whose loss it is.
        tokens: (B, P+L) the whole sequences.
        weights: (B, L), 0 where the response token is shown.
        length: L.
    """
    shown = tokens.clone()
    response, hidden = tokens[:, -length:], weights > 0
    shown[:, -length:][hidden] = WORDS.index(MASK)
    losses = family.losses(family.features(shown, length)[hidden], response[hidden])
    return (losses * weights[hidden]).sum() / weights.numel()


# --------------------------------------------------------------------------------------------- metrics


@torch.no_grad()
def value_accuracy(family: Family, examples: Examples, generator: torch.Generator) -> float:
    """Share of right guesses of one value with everything from it on hidden, or up to it where that is the order.

    On traces chance is 10% and the ceiling about 88%, because some examples leave out steps. On Sudoku all
    digits are values, and what is left out is the prompt's right to decide alone.
    """
    tokens = examples.tokens.long()
    response = tokens[:, -examples.length :]
    chosen = torch.where(DIGITS[response], torch.rand(response.shape, generator=generator), -1.0).argmax(-1)
    position = torch.arange(examples.length)
    hidden = position <= chosen[:, None] if examples.pattern == "right" else position >= chosen[:, None]
    shown = tokens.clone()
    shown[:, -examples.length :][hidden] = WORDS.index(MASK)
    rows = torch.arange(len(tokens))
    guess = family.logits(family.features(shown, examples.length)[rows, chosen]).argmax(-1)
    return (guess == response[rows, chosen]).float().mean().item()


# ------------------------------------------------------------------------------------------------ train


def train_denoiser(
    settings: DenoiserTraining, folder: Path, resume: bool = False, stop_after: int | None = None
) -> Path:
    """Trains the network and writes it to ``folder/denoiser``.

    Args:
        settings: what to train.
        folder: the run's folder.
        resume: continue the run that is there.
        stop_after: stop after this update as a kill would (for tests).

    Returns:
        The folder of the finished denoiser, for ``load_denoiser``.

    Raises:
        UsageError: settings that do not work, nothing to resume, or somebody else is writing into the folder.
    """
    with locked_for_all(folder, this_world()):
        return _train(settings, folder, resume, stop_after)


def _train(settings: DenoiserTraining, folder: Path, resume: bool, stop_after: int | None) -> Path:
    config = TinyConfig(settings.width, settings.layers, settings.heads, feed_forward=2 * settings.width)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    words, _ = RECIPES[settings.recipe]
    family = make_family(settings.family, words, config, settings.timed)
    family.initialize(torch_generator("network", settings.seed))
    if settings.start:
        assert isinstance(family, TinyFamily)
        begin_with(family.network, words, settings.start)
    world = this_world()
    run = Run(folder, settings, resume, writes=world.first)
    world.wait()
    muon, adam = _optimizers(family)
    parts: dict[str, nn.Module | torch.optim.Optimizer] = {"network": family.network, "muon": muon, "adam": adam}
    update = 0
    means: tuple[dict[str, float], dict[str, int]] = ({}, {})  # of what was logged since the last evaluation
    if resume:
        info = run.load(parts, 1, sum(stage.updates for stage in settings.stages()))
        update = info["update"]
        check_value(info.get("means", []), list[dict[str, float]], "the checkpoint's means")
        means = info.get("means") or means
    else:
        run.save(parts, {"update": update})
    total = sum(stage.updates for stage in settings.stages())
    checks = _validation(settings)
    data: list[tuple[Examples, int]] = []
    made_for: Stage | None = None
    logger = run.logger(update)
    logger.name_to_value.update(means[0])
    logger.name_to_count.update(means[1])
    try:
        with Bar() as bar:
            shown = bar.add_task("denoiser", total=total, completed=update)
            while update < total and update != stop_after:
                stage, place = stage_at(settings, update)
                if stage != made_for:
                    bar.update(shown, figures="making examples")
                    data, made_for = training_data(settings, stage), stage
                _set_rates(muon, adam, stage, stage.factor(place, settings.warmup))
                _train_once(family, (muon, adam), data, settings, update, logger, world)
                update += 1
                if is_due(update, settings.evaluate_every, total):
                    bar.update(shown, figures=_evaluate(family, checks, settings.seed, update, logger))
                if is_due(update, settings.save_every, total):
                    run.save(parts, {"update": update, "means": (logger.name_to_value, logger.name_to_count)})
                bar.update(shown, completed=update)
    finally:
        logger.close()
    if update == total and world.first:
        family.save(folder / "denoiser")
    world.wait()
    return folder / "denoiser"


@torch.no_grad()
def begin_with(network: TinyTransformer, words: Sequence[str], start: str) -> None:
    """Gives a network another denoiser's weights; words that the other does not know keep theirs.

    Raises:
        UsageError: the other is of another kind or shape.
    """
    other = load_denoiser(start)
    if not isinstance(other, TinyDenoiser):
        raise UsageError(f"a training starts with a bundled kind of denoiser, and {start!r} is none")
    if other.network.config != network.config:
        raise UsageError(
            f"cannot start with {start!r}: it is of shape {other.network.config}, and this one of {network.config}"
        )
    mine = [i for i, word in enumerate(words) if word in other.words]
    theirs = [other.words.index(words[i]) for i in mine]
    given = other.network.state_dict()
    for name, weight in network.state_dict().items():
        if name in ("embedding.weight", "head.weight"):
            weight[mine] = given[name][theirs]
        else:
            weight.copy_(given[name])


def stage_at(settings: DenoiserTraining, update: int) -> tuple[Stage, int]:
    """The stage that an update belongs to, and its place within it."""
    for stage in settings.stages():
        if update < stage.updates:
            return stage, update
        update -= stage.updates
    raise ValueError("the schedule is over")


def _optimizers(family: Family) -> tuple[Muon, torch.optim.AdamW]:
    matrices = family.matrices()
    chosen = {id(p) for p in matrices}
    others = [p for p in family.network.parameters() if id(p) not in chosen]
    return Muon(matrices, lr=0.0), torch.optim.AdamW(others, lr=0.0, betas=(0.9, 0.98), weight_decay=0.0)


def _set_rates(muon: Muon, adam: torch.optim.AdamW, stage: Stage, factor: float) -> None:
    for optimizer, peak in ((muon, stage.muon_rate), (adam, stage.adam_rate)):
        for group in optimizer.param_groups:
            group["lr"] = peak * factor


def training_data(settings: DenoiserTraining, stage: Stage) -> list[tuple[Examples, int]]:
    """The examples of a stage, of each task, and how many of them are in a batch."""
    words, parts = RECIPES[settings.recipe]
    return [
        (
            make_examples(part, settings.examples // part.share, "train", settings.seed, stage.shuffle, words),
            part.batch[stage.number],
        )
        for part in parts
    ]


def _validation(settings: DenoiserTraining) -> dict[str, Examples]:
    words, parts = RECIPES[settings.recipe]
    return {part.name: make_examples(part, 512, "validation", settings.seed, True, words) for part in parts}


def _evaluate(family: Family, checks: dict[str, Examples], seed: int, update: int, logger: Logger) -> str:
    """Logs the metrics; returns them for the progress bar."""
    figures = {
        name: value_accuracy(family, examples, torch_generator("validation", seed, name))
        for name, examples in checks.items()
    }
    for name, value in figures.items():
        logger.record(f"value_accuracy/{name}", value)
    logger.record("time/update", update)
    logger.dump(update)
    return "value accuracy: " + " ".join(f"{name} {value:.0%}" for name, value in figures.items())


def _train_once(
    family: Family,
    optimizers: tuple[torch.optim.Optimizer, ...],
    data: list[tuple[Examples, int]],
    settings: DenoiserTraining,
    update: int,
    logger: Logger,
    world: World,
) -> None:
    """One optimizer step over one batch of each task; the tasks' losses weigh as much as they have rows.

    Processes divide the rows, and add up their gradients.
    """
    began = time.perf_counter()
    rows = sum(size for _, size in data)
    _, parts = RECIPES[settings.recipe]
    drawn = batches(data, (settings.seed, update))
    for part, (tokens, weights, length), (_, size) in zip(parts, drawn, data, strict=True):
        mine, own = world.share(size), 0.0
        if mine:
            loss = masked_loss(family, tokens[mine], weights[mine], length) * len(mine) / size
            (loss * size / rows).backward()
            own = loss.item()
        logger.record_mean(f"loss/{part.name}", sum(world.gather(own)))
    world.sum_gradients(family.network.parameters())
    nn.utils.clip_grad_norm_(family.network.parameters(), settings.max_grad_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    logger.record_mean("time/seconds_per_update", time.perf_counter() - began)
