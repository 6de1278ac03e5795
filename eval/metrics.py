"""Figures of an evaluation, as pure functions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from dllm_env.intervals import normal_quantile, wilson_interval
from dllm_env.pareto import Coordinates, log_area


def bootstrap_interval(
    values: ArrayLike, generator: np.random.Generator, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (B. Efron, 1979): problems are drawn again with replacement.

    It has no width where all values are equal, and is too narrow where nearly all are; for shares and their
    differences take ``accuracy_interval`` and ``difference_interval``.

    Args:
        values: (N,) one figure per problem.
        generator: the only source of random numbers.
        level: share of the resampled means inside the interval.
        resamples: how often to draw; takes about 10 µs each for 1,000 problems.

    Returns:
        Lower and upper end.

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


Samples = Sequence[Sequence[float]]
"""Scores of the samples of each problem."""


def accuracy_interval(
    scores: Samples, generator: np.random.Generator, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Interval of an accuracy: the mean over problems of the mean score of a problem's samples.

    Where each problem is either right or wrong (one sample each, or samples that agree) it is Wilson's. Otherwise
    it is the bootstrap over problems, but reaches at least as far as Wilson's for all samples together: samples of
    one problem are alike, and cannot tell more than as many problems would. For scores outside [0, 1] it is the
    bootstrap alone.

    Args:
        scores: of N problems, one or more samples each.
        generator: random numbers of the bootstrap.
        level: how often the interval is to cover the true mean.
        resamples: of the bootstrap.

    Returns:
        Lower and upper end, with the mean between them.

    Raises:
        ValueError: no problems, or a level outside (0, 1).
    """
    means = _means(scores)
    if _are_binary(means):
        return wilson_interval(float(means.sum()), len(means), level)
    low, high = bootstrap_interval(means, generator, level, resamples)
    if not _are_shares(scores):
        return low, high
    trials = sum(map(len, scores))
    least, most = wilson_interval(means.mean() * trials, trials, level)
    return min(low, least), max(high, most)


def difference_interval(
    first: Samples, second: Samples, generator: np.random.Generator, level: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Interval of the difference of two accuracies, first minus second, on the same problems.

    Where each problem is either right or wrong it is Tango's (``paired_score_interval``). Otherwise it is the
    bootstrap over problems, but reaches at least as far as Tango's for all samples together. For scores outside
    [0, 1] it is the bootstrap alone.

    Args:
        first, second: scores of N problems, one or more samples each.
        generator, level, resamples: as in ``accuracy_interval``.

    Returns:
        Lower and upper end, with the mean difference between them.

    Raises:
        ValueError: as ``accuracy_interval``, or not as many problems of the one as of the other.
    """
    mine, theirs = _means(first), _means(second)
    if len(mine) != len(theirs):
        raise ValueError(f"needs scores of the same problems, got {len(mine)} and {len(theirs)}")
    apart = mine - theirs
    samples = min(map(len, (*first, *second)))
    binary = _are_binary(mine) and _are_binary(theirs)
    pairs = len(apart) * (1 if binary else samples)
    better, worse = (float(np.clip(side, 0, None).mean()) * pairs for side in (apart, -apart))
    if binary:
        return paired_score_interval(better, worse, pairs, level)
    low, high = bootstrap_interval(apart, generator, level, resamples)
    if not (_are_shares(first) and _are_shares(second)):
        return low, high
    least, most = paired_score_interval(better, worse, pairs, level)
    return min(low, least), max(high, most)


def _means(scores: Samples) -> NDArray[np.float64]:
    if not scores or not all(scores):
        raise ValueError("needs at least one problem, and of each at least one sample")
    return np.array([mean(samples) for samples in scores])


def _are_binary(values: NDArray[np.float64]) -> bool:
    return bool(np.isin(values, (0, 1)).all())


def _are_shares(scores: Samples) -> bool:
    return all(0 <= score <= 1 for samples in scores for score in samples)


def paired_score_interval(
    first_only: float, second_only: float, problems: int, level: float = 0.95
) -> tuple[float, float]:
    """Score interval of the difference of two paired shares (T. Tango, Statistics in Medicine 17, 1998).

    With b problems that only the first solved, c that only the second did, and n in all, it holds all d for which
    |b − c − n·d| ≤ z · √(n · (2q + d (1 − d))). There q is the likeliest probability that only the second solves a
    problem if the difference is d: the larger root of 2n·q² + ((2n − b + c)·d − b − c)·q − c·d·(1 − d) = 0. At
    d = 0 this is McNemar's test without correction. The ends are found by bisection.

    Args:
        first_only, second_only: b and c; need not be whole, where problems have scores between 0 and 1.
        problems: n.
        level: how often the interval is to cover the true difference.

    Returns:
        Lower and upper end, in [−1, 1]; ±z² / (n + z²) where the two always agree.

    Raises:
        ValueError: counts that are negative or more than the problems, or a level outside (0, 1).
    """
    if min(first_only, second_only) < 0 or problems < max(1, first_only + second_only - 1e-9):
        raise ValueError(f"{first_only} and {second_only} cannot be counts of {problems} problems")
    z, estimate = normal_quantile(level), (first_only - second_only) / problems

    def end(edge: float) -> float:
        """Between the estimate, which is inside, and the edge: where the interval ends."""
        inside, outside = estimate, edge
        for _ in range(60):
            middle = (inside + outside) / 2
            if abs(_paired_score(first_only, second_only, problems, middle)) <= z:
                inside = middle
            else:
                outside = middle
        return inside

    return end(-1.0), end(1.0)


def _paired_score(first_only: float, second_only: float, n: int, d: float) -> float:
    """Standardised distance of the difference that was seen from d."""
    linear = (2 * n - first_only + second_only) * d - first_only - second_only
    root = math.sqrt(max(linear**2 + 8 * n * second_only * d * (1 - d), 0.0))
    variance = n * ((root - linear) / (2 * n) + d * (1 - d))
    distance = first_only - second_only - n * d
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


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


def accuracy_under_parallelism(points: Sequence[tuple[float, float]], best: float, alpha: float = 3.0) -> float:
    """AUP: area under the accuracy over tokens per evaluation, losses of accuracy weighed down (arXiv 2601.07568).

    With ρ₁ < ρ₂ < … and accuracies y in percent, ρ₁·y₁ + Σ (ρᵢ − ρᵢ₋₁)·(yᵢ·W(yᵢ) + yᵢ₋₁·W(yᵢ₋₁)) / 2, where
    W(y) = min(exp(−α·(1 − y / best)), 1). Points more than 5 percentage points below the slowest do not count.

    Args:
        points: (tokens per evaluation, accuracy from 0 to 1) pairs, at least one.
        best: the highest accuracy that anything has on these problems, from 0 to 1.
        alpha: how much a loss of accuracy costs.

    Raises:
        ValueError: no points.
    """
    if not points:
        raise ValueError("needs at least one point")
    first, *others = sorted(points)
    kept = [first, *(point for point in others if point[1] >= first[1] - 0.05)]

    def weighed(accuracy: float) -> float:
        return 100 * accuracy * min(math.exp(-alpha * (1 - accuracy / best)), 1.0) if accuracy else 0.0

    steps = itertools.pairwise(kept)
    return 100 * first[0] * first[1] + sum((b[0] - a[0]) * (weighed(a[1]) + weighed(b[1])) / 2 for a, b in steps)


def front_areas(
    correct: NDArray[np.float64],
    nfe: NDArray[np.float64],
    fronts: Sequence[Sequence[int]],
    length: int,
    generator: np.random.Generator,
    resamples: int = 1000,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Areas under fronts by ``pareto.log_area``, and what they are when problems are drawn again for all together.

    Two problems that all policies solved and two that none did are added to those that are drawn from, with each
    policy's mean NFE (after A. Agresti and B. Coull, 1998, who do so for the normal approximation): otherwise
    nothing would vary where all problems were solved, and too little where nearly all were.

    Args:
        correct, nfe: (policies, problems), of the same problems.
        fronts: the policies that each front is made of.
        length: L.
        generator: the only source of random numbers.
        resamples: how often to draw.

    Returns:
        (fronts,) areas, and (resamples, fronts) of them.

    Raises:
        ValueError: shapes that differ or hold nothing.
    """
    if correct.shape != nfe.shape or correct.ndim != 2 or not correct.size:
        raise ValueError(f"correct and nfe must both be (policies, problems), got {correct.shape}, {nfe.shape}")
    scores = np.concatenate([correct, np.tile([1.0, 1.0, 0.0, 0.0], (len(correct), 1))], 1)
    spent = np.concatenate([nfe, np.tile(nfe.mean(1, keepdims=True), (1, 4))], 1)

    def areas(score: NDArray[np.float64], cost: NDArray[np.float64]) -> list[float]:
        points = list(zip(cost.tolist(), score.tolist(), strict=True))
        return [log_area([points[policy] for policy in front], length) for front in fronts]

    count = scores.shape[1]
    drawn = np.zeros((resamples, count))
    for row in drawn:
        row += np.bincount(generator.integers(count, size=count), minlength=count)
    resampled = zip(drawn @ scores.T / count, drawn @ spent.T / count, strict=True)
    seen = np.array(areas(correct.mean(1), nfe.mean(1)))
    return seen, np.array([areas(*means) for means in resampled])
