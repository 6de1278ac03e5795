import itertools

import numpy as np
import pytest
import torch

from dllm_env.eval.metrics import (
    best_at_most,
    bootstrap_interval,
    mcnemar,
    pareto_area,
    pareto_area_interval,
    pass_at_k,
    quantile,
    tokens_before_eot,
)
from dllm_env.pareto import pareto_front


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
    assert tokens_before_eot(responses, (eot,), mask).tolist() == [4, 2, 0, 2, 1]
    with pytest.raises(ValueError, match=r"\(N, L\)"):
        tokens_before_eot(responses[0], (eot,), mask)


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


def test_quantile_by_hand():
    assert quantile([4, 1, 2, 3], 0.5) == 2.5
    assert quantile(range(11), 0.9) == 9.0


@pytest.mark.parametrize(("n", "c", "k"), [(5, 2, 1), (5, 2, 3), (5, 0, 2), (5, 5, 1), (5, 3, 3), (6, 1, 6)])
def test_pass_at_k_is_the_share_of_draws_with_a_right_one(n, c, k):
    draws = list(itertools.combinations([1] * c + [0] * (n - c), k))
    assert pass_at_k(n, c, k) == pytest.approx(sum(map(max, draws)) / len(draws))


@pytest.mark.parametrize("wrong", [(0, 0, 1), (3, 1, 0), (3, 1, 4), (3, 4, 1), (3, -1, 1)])
def test_pass_at_k_refuses_what_cannot_be_drawn(wrong):
    with pytest.raises(ValueError, match="1 ≤ k ≤ n"):
        pass_at_k(*wrong)


def test_mcnemar_by_hand_and_by_enumeration():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(1, 0) == 1.0
    assert mcnemar(5, 0) == mcnemar(0, 5) == 2 / 32
    assert mcnemar(3, 3) == 1.0
    for a, b in itertools.product(range(5), repeat=2):
        tosses = list(itertools.product((0, 1), repeat=a + b))
        extreme = sum(min(sum(t), a + b - sum(t)) <= min(a, b) for t in tosses)
        assert mcnemar(a, b) == pytest.approx(extreme / len(tosses) if a != b else 1.0)
    assert 0 < mcnemar(600, 400) < 1e-9
    with pytest.raises(ValueError, match="negative"):
        mcnemar(-1, 2)


def test_area_under_front_by_hand():
    points = [(4.0, 0.5), (2.0, 0.2), (3.0, 0.1), (12.0, 1.0)]
    assert pareto_area(points, 0, 10) == pytest.approx((2 * 0.2 + 6 * 0.5) / 10)
    assert pareto_area(points, 3, 10) == pytest.approx((1 * 0.2 + 6 * 0.5) / 7)
    assert pareto_area(points, 0, 1) == 0.0
    assert pareto_area([(1.0, 1.0)], 1, 40) == 1.0
    assert pareto_area([], 1, 40) == 0.0
    with pytest.raises(ValueError, match="low < high"):
        pareto_area(points, 3, 3)


def test_area_under_front_agrees_with_adding_up():
    generator = np.random.default_rng(3)
    points = [(float(n), float(a)) for n, a in zip(generator.integers(1, 40, 9), generator.random(9), strict=True)]
    steps = [max((a for n, a in points if n <= at), default=0.0) for at in range(1, 40)]
    assert pareto_area(points, 1, 40) == pytest.approx(sum(steps) / 39)


def test_interval_of_a_front():
    correct, nfe = np.ones((2, 50)), np.array([[5.0] * 50, [9.0] * 50])
    assert pareto_area_interval(correct, nfe, 1, 9, np.random.default_rng(0)) == (0.5, 0.5)
    correct[0, ::2] = 0
    low, high = pareto_area_interval(correct, nfe, 1, 9, np.random.default_rng(0))
    assert low < 0.25 < high
    # One policy at one NFE: the interval of the accuracy, scaled.
    below, above = interval(correct[0])
    assert (low, high) == pytest.approx((below / 2, above / 2), abs=0.03)
    for shape in (np.ones(3), np.ones((0, 4))):
        with pytest.raises(ValueError, match="policies, problems"):
            pareto_area_interval(shape, shape, 1, 9, np.random.default_rng(0))
