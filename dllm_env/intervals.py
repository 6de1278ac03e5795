"""Confidence intervals of a share, as pure functions."""

from __future__ import annotations

import math
from statistics import NormalDist


def normal_quantile(level: float) -> float:
    """z such that a standard normal variable is within ±z with this probability; 1.96 for 0.95.

    Raises:
        ValueError: a level outside (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
    return NormalDist().inv_cdf((1 + level) / 2)


def wilson_interval(successes: float, trials: int, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a share p (E. B. Wilson, 1927): all p for which |p̂ − p| ≤ z · √(p (1 − p) / n).

    Its ends are (p̂ + z²/2n ± z · √(p̂ (1 − p̂) / n + z²/4n²)) / (1 + z²/n). Unlike p̂ ± z · √(p̂ (1 − p̂) / n) and
    the bootstrap it has a width where all trials ended alike, and covers p about as often as it says near 0 and 1.

    Args:
        successes: of the trials; need not be whole, where trials have a score between 0 and 1.
        trials: n, independent of each other.
        level: how often the interval is to cover the true share.

    Returns:
        Lower and upper end, in [0, 1], with p̂ between them.

    Raises:
        ValueError: no trials, not 0 ≤ successes ≤ trials, or a level outside (0, 1).
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"needs 0 ≤ successes ≤ trials and trials ≥ 1, got {successes} and {trials}")
    z2, share = normal_quantile(level) ** 2 / trials, successes / trials
    centre = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return min(max(centre - half, 0.0), share), max(min(centre + half, 1.0), share)
