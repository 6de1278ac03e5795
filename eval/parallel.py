"""Plays evaluations in pieces, in one process or several, so that little is lost when they are stopped."""

from __future__ import annotations

import os
import time
from collections.abc import Container, Generator, Sequence
from dataclasses import dataclass, replace

import torch

from dllm_env import consent
from dllm_env.denoisers.tiny import TinyDenoiser
from dllm_env.eval.evaluate import Evaluation, EvaluationConfig, OnProgress, Place, earned, label, prepare
from dllm_env.eval.results import Outcome, Setting
from dllm_env.processes import spread
from dllm_env.world import ALONE, Counter, World

PIECE = 4
"""Batches that are played one after the other at most, with rows that take each other's places."""
SECONDS = 30.0
"""For which they are played, as near as the last ones tell: what an interruption loses, or one batch."""


@dataclass(frozen=True)
class Piece:
    """Some problems of a job; ``evaluation`` and ``job`` are positions in their lists."""

    evaluation: int
    job: int
    places: tuple[Place, ...]


def pieces(evaluations: Sequence[Evaluation], done: Container[tuple[str, Place]]) -> list[Piece]:
    """The problems that have not been played yet, in pieces of one batch."""
    left = []
    for e, evaluation in enumerate(evaluations):
        size = evaluation.config.batch_size
        for j, job in enumerate(evaluation.jobs):
            places = evaluation.missing(job, done)
            left += [Piece(e, j, tuple(places[i : i + size])) for i in range(0, len(places), size)]
    return left


def joined(some: Sequence[Piece]) -> tuple[Piece, int]:
    """As many of them, from the first, as are of the same job, as one piece; and how many these are."""
    first = some[0]
    same = [piece for piece in some if (piece.evaluation, piece.job) == (first.evaluation, first.job)]
    return replace(first, places=tuple(place for piece in same for place in piece.places)), len(same)


def batches_in_time(batches: int, seconds: float) -> int:
    """How many batches to play next, after these took so long: what fits into ``SECONDS``, 1 to ``PIECE``."""
    return max(1, min(PIECE, int(SECONDS * batches / max(seconds, 1e-9))))


def default_workers(evaluations: Sequence[Evaluation]) -> int:
    """Processes that keep all cores busy: small models gain nothing from more than two threads each.

    One where a denoiser is not a bundled one, of which every process would have its own.
    """
    small = all(isinstance(evaluation.denoiser, TinyDenoiser) for evaluation in evaluations)
    return max(1, (os.cpu_count() or 1) // 2) if small else 1


def play_pieces(
    evaluations: Sequence[Evaluation],
    todo: Sequence[Piece],
    workers: int = 1,
    on_progress: OnProgress | None = None,
    world: World = ALONE,
) -> Generator[tuple[Setting, list[Outcome]], None, None]:
    """Plays pieces, in this process or in several; each comes as soon as it is there.

    Processes that were started together share them: each yields those that it has played itself.

    Args:
        evaluations: to which the pieces belong.
        todo: the pieces.
        workers: processes; each has two threads where there are several.
        on_progress: told after every round, or with several processes after every piece.
        world: processes that were started together, which have no workers of their own.

    Raises:
        UsageError: one of the processes was ended from outside.
    """
    if world.size > 1 or min(workers, len(todo)) <= 1:
        yield from _play_here(evaluations, todo, on_progress, world)
        return
    # Rewards are computed here: functions of a user's own cannot be sent.
    plans = [
        (replace(evaluation.config, reward=(), reward_weights=()), [job.policy.name for job in evaluation.jobs])
        for evaluation in evaluations
    ]
    plans = [(config, list(dict.fromkeys(names))) for config, names in plans]
    played = spread(_play_there, todo, min(workers, len(todo)), _make, (plans, consent.current()))
    for piece, (setting, outcomes) in played:
        if on_progress is not None:
            on_progress(label(setting), len(outcomes))
        yield setting, earned(evaluations[piece.evaluation], outcomes, setting.response_length)


def _play_here(
    evaluations: Sequence[Evaluation], todo: Sequence[Piece], on_progress: OnProgress | None, world: World
) -> Generator[tuple[Setting, list[Outcome]], None, None]:
    """Plays pieces in this process: of each job one batch, then several together if it was quick."""
    taken, count, mine, last = Counter(world), 1, list[Piece](), (-1, -1)
    while True:
        if (more := count - len(mine)) > 0:
            first = taken.add(more) - more
            mine += todo[first : first + more]
        if not mine:
            return
        new = (mine[0].evaluation, mine[0].job) != last
        piece, batches = joined(mine[: 1 if new else count])
        mine, last = mine[batches:], (piece.evaluation, piece.job)
        evaluation = evaluations[piece.evaluation]
        job, began = evaluation.jobs[piece.job], time.monotonic()
        outcomes = evaluation.play(job, piece.places, on_progress)
        count = batches_in_time(batches, time.monotonic() - began)
        yield job.setting, earned(evaluation, outcomes, job.rules.response_length)


Plan = tuple[EvaluationConfig, list[str]]
Played = tuple[Setting, list[Outcome]]


_prepared: list[Evaluation] = []


def _make(plans: list[Plan], said: consent.Consent) -> None:
    """In a worker: makes the evaluations anew, from their texts, with the consent of who began it."""
    consent.install(said)
    torch.set_num_threads(2)
    _prepared[:] = prepare(plans)


def _play_there(piece: Piece) -> Played:
    evaluation = _prepared[piece.evaluation]
    job = evaluation.jobs[piece.job]
    return job.setting, evaluation.play(job, piece.places)
