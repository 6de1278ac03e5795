"""Figures of an evaluation, as pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dllm_env.pareto import Coordinates


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


def tokens_before_eot(responses: Tensor, end_ids: Sequence[int], mask_id: int) -> Tensor:
    """Tokens that a response really says: those before its first end-of-text, masks not counted.

    Args:
        responses: (N, L) int64.
        end_ids: the tokens that end a text.
        mask_id: left where a row was cut off.

    Returns:
        (N,) int64; L where there is neither end-of-text nor mask.
    """
    if responses.ndim != 2:
        raise ValueError(f"responses must be (N, L), got {tuple(responses.shape)}")
    before = torch.isin(responses, torch.tensor(end_ids, device=responses.device)).cumsum(-1) == 0
    return (before & (responses != mask_id)).sum(-1)


def best_at_most(points: Sequence[Coordinates], nfe: float) -> int | None:
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


def quantile(values: ArrayLike, share: float) -> float:
    """The value below which this share of the values lies, linear between neighbours."""
    return float(np.quantile(np.asarray(values, dtype=np.float64), share))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Chance that of k samples drawn without replacement at least one is right: 1 − C(n−c, k)/C(n, k).

    The unbiased estimate of M. Chen et al., 2021 (arXiv 2107.03374).

    Args:
        samples: n, drawn for one problem.
        right: c of them.
        k: how many one would draw.

    Raises:
        ValueError: not 1 ≤ k ≤ n, or not 0 ≤ c ≤ n.
    """
    if not (1 <= k <= samples and 0 <= right <= samples):
        raise ValueError(f"needs 1 ≤ k ≤ n and 0 ≤ c ≤ n, got n = {samples}, c = {right}, k = {k}")
    return 1 - math.comb(samples - right, k) / math.comb(samples, k)


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided exact p-value for two policies being right equally often (Q. McNemar, 1947).

    Of the n problems that exactly one of them solved, each had them by a fair coin: p = min(1, 2·P(X ≤ min)) with
    X ~ Binomial(n, 1/2).

    Args:
        first_only, second_only: problems that only the one, only the other solved.

    Raises:
        ValueError: a negative count.
    """
    if min(first_only, second_only) < 0:
        raise ValueError(f"counts may not be negative, got {first_only} and {second_only}")
    n, fewer = first_only + second_only, min(first_only, second_only)
    tail = sum(math.comb(n, i) for i in range(fewer + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**n)))


def pareto_area(points: Sequence[Coordinates], low: float, high: float) -> float:
    """Mean over n in [low, high] of the best accuracy that at most n evaluations give; 0 where none is that fast.

    Args:
        points: (NFE, accuracy) pairs.
        low, high: where to look; a front over the whole of [0, 1] × [low, high] has area 1.

    Raises:
        ValueError: not low < high.
    """
    if not low < high:
        raise ValueError(f"needs low < high, got {low} and {high}")
    area, reached, best = 0.0, low, 0.0
    for nfe, accuracy in sorted(points):
        if nfe >= high:
            break
        if accuracy > best:
            at = max(nfe, low)
            area += best * (at - reached)
            reached, best = at, accuracy
    return (area + best * (high - reached)) / (high - low)


def pareto_area_interval(
    correct: NDArray[np.float64],
    nfe: NDArray[np.float64],
    low: float,
    high: float,
    generator: np.random.Generator,
    level: float = 0.95,
    resamples: int = 1000,
) -> tuple[float, float]:
    """Bootstrap interval of the area under a front, problems drawn again for all policies together.

    Args:
        correct, nfe: (policies, problems), of the same problems.
        low, high: as in ``pareto_area``.
        generator: the only source of random numbers.
        level: share of the resampled areas inside the interval.
        resamples: how often to draw.

    Raises:
        ValueError: shapes that differ or hold nothing.
    """
    if correct.shape != nfe.shape or correct.ndim != 2 or not correct.size:
        raise ValueError(f"correct and nfe must both be (policies, problems), got {correct.shape}, {nfe.shape}")
    areas = []
    for _ in range(resamples):
        drawn = generator.integers(correct.shape[1], size=correct.shape[1])
        points = zip(nfe[:, drawn].mean(1).tolist(), correct[:, drawn].mean(1).tolist(), strict=True)
        areas.append(pareto_area(list(points), low, high))
    below, above = np.quantile(areas, [(1 - level) / 2, (1 + level) / 2])
    return float(below), float(above)
