"""Areas of several steps, and the quantiles that intervals end at."""

from __future__ import annotations

import numpy as np
import pytest

from dllm_env.eval.metrics import pareto_area, pareto_area_interval


def test_an_area_of_many_steps() -> None:
    """0.1 from 1 on, 0.2 from 3, 0.5 from 4, 0.9 from 7 to the end at 10; other points are worse or too slow."""
    points = [(7.0, 0.9), (3.0, 0.2), (1.0, 0.1), (4.0, 0.5), (5.0, 0.4), (3.0, 0.1), (10.0, 1.0), (12.0, 1.0)]
    expected = (2 * 0.1 + 1 * 0.2 + 3 * 0.5 + 3 * 0.9) / 10
    for turned in (points, points[::-1]):
        assert pareto_area(turned, 0, 10) == pytest.approx(expected)


def test_the_interval_of_an_area_ends_at_the_quantiles_of_its_level() -> None:
    """One problem, right at 1 of [1, 2] NFE, and the four that are added: areas are Binomial(5, 3/5) / 5.

    P(0 or 1) = 0.087 and P(0 to 2) = 0.317, so the 12% quantile is 2/5. Of a problem that was not solved it is the
    other way round: the 88% quantile is 3/5. The other ends are what was seen.
    """

    def interval(correct: float) -> tuple[float, float]:
        generator = np.random.default_rng(0)
        scores, nfe = np.array([[correct]]), np.ones((1, 1))
        return pareto_area_interval(scores, nfe, 1, 2, generator, level=0.76, resamples=4000)

    assert interval(1.0) == pytest.approx((2 / 5, 1))
    assert interval(0.0) == pytest.approx((0, 3 / 5))
