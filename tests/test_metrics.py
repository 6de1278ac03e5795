import itertools

import numpy as np
import pytest
import torch

from dllm_env.eval.metrics import best_at_most, bootstrap_interval, pareto_front, tokens_before_eot


def interval(values, seed=0, **settings):
    return bootstrap_interval(values, np.random.default_rng(seed), **settings)


def test_bootstrap_of_equal_values_has_no_width():
    assert interval([1.0, 1.0, 1.0]) == (1.0, 1.0)
    assert interval([0.0]) == (0.0, 0.0)


def test_bootstrap_of_two_values_by_hand():
    # The mean of two draws from {0, 1} is 0, 1/2, 1 with probability 1/4, 1/2, 1/4: the 10% and 90% quantiles are
    # 0 and 1, and the 30% and 70% quantiles are both 1/2.
    assert interval([0.0, 1.0], level=0.8) == (0.0, 1.0)
    assert interval([0.0, 1.0], level=0.4) == (0.5, 0.5)


def test_bootstrap_agrees_with_the_normal_approximation():
    values = [1.0] * 320 + [0.0] * 80
    low, high = interval(values)
    half = 1.96 * (0.8 * 0.2 / 400) ** 0.5
    assert low == pytest.approx(0.8 - half, abs=0.006)
    assert high == pytest.approx(0.8 + half, abs=0.006)


def test_bootstrap_follows_from_its_generator():
    values = np.arange(50) / 50
    assert interval(values, 3) == interval(values, 3)
    assert interval(values, 3) != interval(values, 4)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        low, high = bootstrap_interval(rng.random(100) < 0.6, rng, resamples=200)
        covered += low <= 0.6 <= high
    assert 0.89 <= covered / 200 <= 0.99  # 0.95 ± 4 standard deviations of 200 trials


@pytest.mark.parametrize("values", [[], [[1.0]]])
def test_bootstrap_refuses_what_is_no_vector(values):
    with pytest.raises(ValueError, match="vector"):
        interval(values)


def test_bootstrap_refuses_a_level_outside_0_and_1():
    with pytest.raises(ValueError, match="level"):
        interval([1.0], level=1.0)


def test_tokens_before_eot_by_hand():
    eot, mask = 2, 1
    responses = torch.tensor(
        [
            [5, 6, 7, 8],  # no end
            [5, 6, 2, 2],
            [2, 5, 6, 7],  # ends at once; what follows does not count
            [5, 1, 6, 1],  # cut off: masks are no tokens
            [5, 1, 2, 6],
        ]
    )
    assert tokens_before_eot(responses, eot, mask).tolist() == [4, 2, 0, 2, 1]
    with pytest.raises(ValueError, match=r"\(N, L\)"):
        tokens_before_eot(responses[0], eot, mask)


def test_pareto_front_by_hand():
    points = [(10, 0.5), (5, 0.5), (20, 0.9), (30, 0.8), (5, 0.2)]
    assert pareto_front(points) == [1, 2]
    assert pareto_front([]) == []


def beaten(point, points):
    """The definition, word for word."""
    return any(o[0] <= point[0] and o[1] >= point[1] and (o[0] < point[0] or o[1] > point[1]) for o in points)


def test_pareto_front_agrees_with_brute_force():
    rng = np.random.default_rng(1)
    for size in itertools.chain(range(1, 8), [30]):
        for _ in range(40):
            points = [(float(n), float(a)) for n, a in rng.integers(5, size=(size, 2))]
            front = pareto_front(points)
            assert sorted(front) == [i for i, point in enumerate(points) if not beaten(point, points)]
            assert [points[i] for i in front] == sorted(points[i] for i in front)


def test_best_at_most_by_hand():
    points = [(10, 0.5), (5, 0.3), (20, 0.9), (8, 0.5)]
    assert best_at_most(points, 4.9) is None
    assert best_at_most(points, 5) == 1
    assert best_at_most(points, 10) == 3  # as accurate as the first one, and faster
    assert best_at_most(points, 19.9) == 3
    assert best_at_most(points, 100) == 2
