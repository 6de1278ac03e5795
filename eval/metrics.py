"""Figures of an evaluation, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

Point = tuple[float, float]
"""(NFE, accuracy)."""


def bootstrap_interval(
    values: ArrayLike, generator: np.random.Generator, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (B. Efron, 1979): problems are drawn again with replacement.

    Args:
        values: (N,) one figure per problem.
        generator: the only source of random numbers.
        level: share of the resampled means inside the interval.
        resamples: how often to draw; takes about 10 µs each for 1,000 problems.

    Returns:
        Lower and upper end. They coincide when all values are equal.

    Raises:
        ValueError: values that are not a non-empty vector, or a level outside (0, 1).
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not len(data):
        raise ValueError(f"values must be a vector with at least one entry, got shape {data.shape}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    # One resample at a time: a (resamples, N) table would take gigabytes for large N.
    means = [data[generator.integers(len(data), size=len(data))].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def tokens_before_eot(responses: Tensor, eot_id: int, mask_id: int) -> Tensor:
    """Tokens that a response really says: those before its first end-of-text, masks not counted.

    Args:
        responses: (N, L) int64.
        eot_id: end-of-text.
        mask_id: left where a row was cut off.

    Returns:
        (N,) int64; L where there is neither end-of-text nor mask.
    """
    if responses.ndim != 2:
        raise ValueError(f"responses must be (N, L), got {tuple(responses.shape)}")
    before = (responses == eot_id).cumsum(-1) == 0
    return (before & (responses != mask_id)).sum(-1)


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Which points no other one beats, by rising NFE.

    A point is beaten by one that needs no more NFE and is at least as accurate, and better in one of the two.

    Args:
        points: (NFE, accuracy) pairs.

    Returns:
        Their indices; of equal points all or none.
    """
    order = sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1]))
    front: list[int] = []
    for i in order:
        if not front or points[i][1] > points[front[-1]][1] or points[i] == points[front[-1]]:
            front.append(i)
    return front


def best_at_most(points: Sequence[Point], nfe: float) -> int | None:
    """The best that can be had at this speed: the most accurate point with at most ``nfe`` evaluations.

    Args:
        points: (NFE, accuracy) pairs.
        nfe: denoiser evaluations allowed.

    Returns:
        Its index (of equally accurate ones the fastest, then the first), or None where every point needs more.
    """
    allowed = [i for i, point in enumerate(points) if point[0] <= nfe]
    return max(allowed, key=lambda i: (points[i][1], -points[i][0]), default=None)


def mean(values: ArrayLike) -> float:
    """Arithmetic mean as a Python float."""
    array: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    return float(array.mean())
