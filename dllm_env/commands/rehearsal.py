"""``--dry-run``: what an evaluation or a training would take, on this machine, before it is begun."""

from __future__ import annotations

import contextlib
import csv
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dllm_env.errors import UsageError
from dllm_env.world import size_of_world

if TYPE_CHECKING:
    from dllm_env.commands.ablate import Ablation
    from dllm_env.eval.evaluate import Evaluation
    from dllm_env.train.config import PolicyTraining
    from dllm_env.train.denoiser import DenoiserTraining, Stage
    from dllm_env.train.grpo import GRPO

Training = TypeVar("Training", bound="PolicyTraining")

FEW = 8
"""Problems that a rehearsal validates on."""
UPDATES, EXAMPLES = 3, 1000
"""Of each stage of a denoiser's training that are tried."""


def say_evaluation(evaluations: Sequence[Evaluation], folder: Path | None, workers: int) -> None:
    """Prints what an evaluation would take.

    Args:
        evaluations: to be played.
        folder: with what there is already, if the evaluation goes on.
        workers: processes, of which each is taken to be as fast as this one.

    Raises:
        UsageError: nothing is missing, or several processes.
    """
    from dllm_env.eval.forecast import forecast
    from dllm_env.eval.results import has_outcomes, read

    _alone()
    results = read([folder]) if folder and has_outcomes(folder) else []
    found = forecast(evaluations, {(r.setting.key, (o.index, o.sample)) for r in results for o in r.outcomes})
    jobs = [job for evaluation in evaluations for job in evaluation.jobs]
    policies, blocks = {job.policy.name for job in jobs}, {job.rules.block_length for job in jobs}
    tasks, denoisers = {e.task.name for e in evaluations}, {e.denoiser.name for e in evaluations}
    many = [
        f"{len(policies)} {'policies' if len(policies) > 1 else 'policy'}",
        f"block lengths {', '.join(map(str, sorted(blocks)))}",
    ]
    untried = f" ({found.untried} not tried, taken for the mean)" if found.untried else ""
    _say(
        {
            "to play": f"{found.responses:,} responses: {'; '.join(many)}",
            "task": ", ".join(sorted(tasks)),
            "denoiser": ", ".join(sorted(denoisers)),
            "evaluations": f"about {_round(found.evaluations)} by the denoiser",
            "time": f"about {_clock(found.seconds / max(workers, 1))} on {_processes(workers)}",
            "disk": f"about {_bytes(found.bytes)}, and a picture",
            "told from": f"{found.tried} first responses{untried}",
        }
    )


def say_training(settings: Training, train: Callable[[Training, Path, bool], Path]) -> None:
    """Makes one update, without a start and in a folder that goes, and prints what all would take.

    Args:
        settings: of the training.
        train: the trainer.

    Raises:
        UsageError: several processes, or settings that do not work.
    """
    _alone()
    tried = _rehearse(settings, train)
    _, told = _of_update(settings, tried.nfe)
    start = settings.imitation.start if settings.imitation.imitation_steps else "none"
    besides = f"the start ({start}, {settings.imitation.imitation_problems} problems) comes before that"
    _say(
        {
            "to train": f"{settings.updates:,} updates of {told}",
            "task": str(settings.task),
            "denoiser": str(settings.denoiser),
            "evaluations": f"about {_round(tried.played + tried.judged)} by the denoiser, "
            f"{_round(tried.judged)} of them for {_validations(settings)} validations",
            "time": f"about {_clock(tried.seconds)}",
            "start": "none" if start == "none" else besides,
            "disk": f"about {_bytes(tried.bytes)}, and what is logged",
            "told from": f"one update of the policy as it begins, {tried.nfe:.1f} evaluations a response",
        }
    )


def say_ablation(config: Ablation, train: Callable[[GRPO, Path, bool], Path]) -> None:
    """Makes one update of each head on each network, as ``say_training`` does, and prints what all would take.

    Args:
        config: what is trained and compared.
        train: the trainer.

    Raises:
        UsageError: several processes, or settings that do not work.
    """
    _alone()
    settings = [
        config.training.changed(head=head, network=network) for network in config.networks for head in config.heads
    ]
    tried = [_rehearse(one, train) for one in settings]
    count = len(tried) * config.seeds
    evaluations = config.seeds * sum(one.played + one.judged for one in tried)
    heads, networks = len(config.heads), len(config.networks)
    _say(
        {
            "to train": f"{count} trainings of {config.training.updates:,} updates: {heads} heads × {networks} "
            f"networks × {config.seeds} seeds",
            "task": str(config.training.task),
            "denoiser": str(config.training.denoiser),
            "evaluations": f"about {_round(evaluations)} by the denoiser",
            "time": f"about {_clock(config.seeds * sum(one.seconds for one in tried))}",
            "besides": f"the start of each, and the comparison on {config.problems:,} test problems",
            "disk": f"about {_bytes(config.seeds * sum(one.bytes for one in tried))}, and what is logged",
            "told from": "one update of each head on each network as it begins",
        }
    )


@dataclass(frozen=True)
class Rehearsed:
    """What a training would take, but for its start.

    Attributes:
        nfe: evaluations of a response.
        played, judged: evaluations of all updates, and of all validations.
        seconds: of both.
        bytes: of a run.
    """

    nfe: float
    played: float
    judged: float
    seconds: float
    bytes: int


def _rehearse(settings: Training, train: Callable[[Training, Path, bool], Path]) -> Rehearsed:
    """Makes one update without a start, in a folder that goes."""
    validation = settings.validation
    few = min(FEW, validation.validation_problems)
    short = {"updates": 1, "start": "none", "validation_problems": few, "validation_rules": (), "save_every": 1}
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        run = train(settings.changed(**short), Path(place) / "run", False)
        size = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
        with next((run / "logs").glob("*.csv")).open(encoding="utf-8", newline="") as file:
            seen = next(row for row in csv.DictReader(file) if row.get("time/update_seconds"))
    nfe, seconds = float(seen["rollout/nfe"]), float(seen["time/update_seconds"])
    each, _ = _of_update(settings, nfe)
    judged = _validations(settings) * len(validation.test_temperatures) * validation.validation_problems * nfe
    return Rehearsed(nfe, settings.updates * each, judged, seconds * (settings.updates + judged / each), size)


def _validations(settings: PolicyTraining) -> int:
    return -(-settings.updates // (settings.validation.evaluate_every or settings.updates))


def say_denoiser_training(settings: DenoiserTraining) -> None:
    """Makes a few updates of each stage with few examples, in a folder that goes, and prints what all would take.

    Raises:
        UsageError: several processes, or settings that do not work.
    """
    from dllm_env.train.denoiser import training_data

    _alone()
    stages = [stage for stage in settings.stages() if stage.updates]
    few = min(settings.examples, EXAMPLES)
    began = time.perf_counter()
    for stage in stages:
        training_data(replace(settings, examples=few), stage)
    made = time.perf_counter() - began
    each, sizes = zip(*(_try_stage(replace(settings, examples=few), stage) for stage in stages), strict=True)
    total = sum(stage.updates for stage in stages)
    times = -(-total // settings.evaluate_every) if settings.evaluate_every else 1
    seconds = sum(stage.updates * one for stage, one in zip(stages, each, strict=True))
    examples = made * settings.examples / few
    _say(
        {
            "to train": f"{total:,} updates: {', '.join(f'{stage.updates:,}' for stage in stages)}",
            "recipe": settings.recipe,
            "updates": ", ".join(f"about {1000 * one:.0f} ms" for one in each) + " each",
            "examples": f"{settings.examples:,} a stage and task, about {_clock(examples)} in all",
            "time": f"about {_clock(seconds + examples)}, and {times} validations",
            "disk": f"about {_bytes(max(sizes))}, and what is logged",
            "told from": f"{UPDATES} updates of each stage and {few:,} examples",
        }
    )


def _try_stage(settings: DenoiserTraining, stage: Stage) -> tuple[float, int]:
    """Seconds of an update of this stage, and bytes of a run."""
    from dllm_env.train.denoiser import train_denoiser

    names = ("first_updates", "second_updates", "third_updates")
    updates: dict[str, Any] = {**dict.fromkeys(names, 0), names[stage.number]: min(UPDATES, stage.updates)}
    short = replace(settings, **updates, evaluate_every=UPDATES, save_every=UPDATES)
    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stdout(io.StringIO()):
        run = train_denoiser(short, Path(place) / "run").parent
        size = sum(file.stat().st_size for file in run.rglob("*") if file.is_file())
        with next((run / "logs").glob("*.csv")).open(encoding="utf-8", newline="") as file:
            return float(next(csv.DictReader(file))["time/seconds_per_update"]), size


def _of_update(settings: PolicyTraining, nfe: float) -> tuple[float, str]:
    """Denoiser evaluations of an update, and what it plays."""
    if (envs := getattr(settings, "num_envs", 0)) and (steps := getattr(settings, "n_steps", 0)):
        return float(envs * steps), f"{envs} environments × {steps} steps"
    prompts, group = getattr(settings, "prompts", 1), getattr(settings, "num_generations", 1)
    group += getattr(settings, "experts", 0)
    return prompts * group * nfe, f"{prompts} prompts × {group} responses"


def _alone() -> None:
    if size_of_world() > 1:
        raise UsageError("--dry-run measures one process; leave torchrun away")


def _say(lines: dict[str, str]) -> None:
    width = max(map(len, lines)) + 2
    for name, text in lines.items():
        print(f"{name.ljust(width)}{text}")
    print("dry run: nothing is left on the disk")


def _processes(workers: int) -> str:
    return "one process" if workers < 2 else f"{workers} processes, if they are as fast as one"


def _round(value: float) -> str:
    """With three figures: 1,230,000."""
    return f"{round(float(f'{value:.3g}')):,}"


def _bytes(value: float) -> str:
    for unit in ("bytes", "KB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    long = f"{days} days {hours} h" if days else f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
    return long if seconds >= 60 else f"{max(rest, 1)} s"
