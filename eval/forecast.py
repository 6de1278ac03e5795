"""What an evaluation would take, told from a few responses of each policy; nothing is written."""

from __future__ import annotations

import json
import time
from collections.abc import Container, Sequence
from dataclasses import asdict, dataclass

from dllm_env.errors import UsageError
from dllm_env.eval.evaluate import Evaluation, Job, Place
from dllm_env.eval.metrics import mean

TRIED = 16
"""Responses of a policy at a block length that are tried, as one batch; fewer where batches are smaller."""
PATIENCE = 60.0
"""Seconds after which policies that have not been tried are taken for the mean of the others."""


@dataclass(frozen=True)
class Sample:
    """Means of a few responses.

    Attributes:
        nfe: denoiser evaluations of one, with those of what references plan beforehand.
        seconds: of one, within its batch.
        bytes: of its line in the results.
    """

    nfe: float
    seconds: float
    bytes: float


@dataclass(frozen=True)
class Forecast:
    """What is to come.

    Attributes:
        responses, evaluations, seconds, bytes: of everything that is missing, in this process alone.
        tried: responses that this was told from.
        untried: policies, at a block length, that were not tried.
    """

    responses: int
    evaluations: float
    seconds: float
    bytes: float
    tried: int
    untried: int


def forecast(evaluations: Sequence[Evaluation], done: Container[tuple[str, Place]]) -> Forecast:
    """Plays the first responses of each policy at each block length, and multiplies.

    Args:
        evaluations: to be played.
        done: what of them there is already.

    Raises:
        UsageError: nothing is missing.
    """
    missing: dict[tuple[int, str, int], int] = {}
    samples: dict[tuple[int, str, int], Sample] = {}
    tried, began = 0, time.monotonic()
    for number, evaluation in enumerate(evaluations):
        for job in evaluation.jobs:
            places = evaluation.missing(job, done)
            key = (number, job.policy.name, job.rules.block_length)
            missing[key] = missing.get(key, 0) + len(places)
            if places and key not in samples and (not samples or time.monotonic() - began < PATIENCE):
                some = places[: min(TRIED, evaluation.config.batch_size)]
                samples[key] = _sample(evaluation, job, some)
                tried += len(some)
    if not samples:
        raise UsageError("nothing is missing: all of it is in --out already")
    known = [(sample.nfe, sample.seconds, sample.bytes) for sample in samples.values()]
    usual = Sample(*map(mean, zip(*known, strict=True)))
    each = [(count, samples.get(key, usual)) for key, count in missing.items()]
    return Forecast(
        responses=sum(missing.values()),
        evaluations=sum(count * sample.nfe for count, sample in each),
        seconds=sum(count * sample.seconds for count, sample in each),
        bytes=sum(count * sample.bytes for count, sample in each),
        tried=tried,
        untried=sum(bool(count) for key, count in missing.items() if key not in samples),
    )


def _sample(evaluation: Evaluation, job: Job, places: Sequence[Place]) -> Sample:
    began = time.monotonic()
    outcomes = evaluation.play(job, places)
    seconds = time.monotonic() - began
    nfe = mean([outcome.nfe + (outcome.planning_nfe or 0) for outcome in outcomes])
    size = mean([len(json.dumps(asdict(outcome))) + 1 for outcome in outcomes])
    return Sample(nfe, seconds / len(places), size)
