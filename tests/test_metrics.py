import itertools
import math

import numpy as np
import pytest
import torch

from dllm_env.eval.metrics import (
    accuracy_interval,
    accuracy_under_parallelism,
    best_at_most,
    bootstrap_interval,
    difference_interval,
    front_areas,
    mcnemar,
    mean,
    paired_score_interval,
    pass_at_k,
    quantile,
    tokens_before_eot,
)
from dllm_env.intervals import wilson_interval
from dllm_env.pareto import pareto_front


def interval(values, seed=0, **settings):
    return bootstrap_interval(values, np.random.default_rng(seed), **settings)


def test_wilson_by_hand():
    """z = 2 (level 0.9545): for 8 of 12, (2/3 + 1/6 ± 2·√(1/54 + 1/144)) / (4/3)."""
    level = math.erf(2 / math.sqrt(2))
    half = 2 * math.sqrt(1 / 54 + 1 / 144)
    assert wilson_interval(8, 12, level) == pytest.approx(((5 / 6 - half) * 3 / 4, (5 / 6 + half) * 3 / 4))
    # z² = n: of no success the end is z² / (n + z²) = 1/2.
    assert wilson_interval(0, 4, level) == pytest.approx((0, 0.5))
    assert wilson_interval(4, 4, level) == pytest.approx((0.5, 1))
    assert wilson_interval(200, 200) == pytest.approx((0.9811547, 1), abs=1e-7)
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)  # R. Newcombe, 1998, table I


def test_wilson_holds_the_shares_that_are_not_rejected():
    """The definition: |p̂ − p| ≤ z √(p (1 − p) / n), tried on a grid."""
    grid = np.arange(1, 10**5) / 10**5
    for right, n in ((0, 1), (1, 1), (3, 7), (199, 200), (1, 1000), (2.5, 9)):
        kept = grid[abs(right / n - grid) <= 1.959964 * np.sqrt(grid * (1 - grid) / n)]
        assert wilson_interval(right, n) == pytest.approx((kept.min(), kept.max()), abs=2e-5)


def test_wilson_always_holds_its_estimate():
    for n in range(1, 120):
        for right in range(n + 1):
            low, high = wilson_interval(right, n)
            assert 0 <= low <= right / n <= high <= 1
            assert low < high


@pytest.mark.parametrize(("right", "n", "level"), [(0, 0, 0.9), (-1, 3, 0.9), (4, 3, 0.9), (1, 3, 1), (1, 3, 0)])
def test_wilson_refuses_what_is_no_count(right, n, level):
    with pytest.raises(ValueError, match=r"successes|level"):
        wilson_interval(right, n, level)


def binomial(n, p):
    return np.array([math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)])


@pytest.mark.parametrize(("n", "p"), [(200, 0.995), (200, 0.98), (200, 0.5), (50, 0.9), (1000, 0.999), (20, 0.6)])
def test_accuracy_of_one_sample_a_problem_is_covered(n, p):
    """Exactly, over all outcomes. At 0.995 of 200 the bootstrap, which this is not, covers 65%."""
    intervals = [wilson_interval(k, n) for k in range(n + 1)]
    some = [[1.0]] * (n - 1) + [[0.0]]
    assert accuracy_interval(some, np.random.default_rng(0)) == intervals[n - 1]
    covered = [low <= p <= high for low, high in intervals]
    assert binomial(n, p) @ covered > 0.915
    assert all(low < high for low, high in intervals)


@pytest.mark.parametrize("p", [0.995, 0.9, 0.5])
def test_accuracy_of_several_samples_a_problem_is_covered(p):
    """Problems differ; at p = 0.995 nearly all samples of nearly all are right, and the bootstrap covers 70%."""
    rng, covered = np.random.default_rng(1), 0
    for _ in range(200):
        right = rng.binomial(3, rng.beta(4 * p, 4 * (1 - p), 100))
        scores = [[1.0] * k + [0.0] * (3 - k) for k in right.tolist()]
        low, high = accuracy_interval(scores, rng, resamples=200)
        covered += low <= p <= high
    assert covered / 200 >= 0.89  # 0.95 less 4 standard deviations of 200 trials


def test_samples_are_no_problems():
    """Samples that agree count once; where they do not, the interval is at least Wilson's of all of them."""
    generator = np.random.default_rng(0)
    assert accuracy_interval([[1.0] * 4] * 9 + [[0.0] * 4], generator) == wilson_interval(9, 10)
    low, high = accuracy_interval([[1.0] * 4] * 9 + [[1.0, 1.0, 1.0, 0.0]], generator)
    least, most = wilson_interval(39, 40)
    assert low <= least < most <= high <= 1
    spread = [[1.0, 1.0, 1.0, 0.0]] * 2 + [[0.0, 0.0, 0.0, 1.0]] * 2 + [[1.0] * 4] * 8 + [[0.0] * 4] * 8
    assert accuracy_interval(spread, np.random.default_rng(0)) == interval([mean(samples) for samples in spread])


@pytest.mark.parametrize("samples", [[1.0], [0.0], [0.5], [1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])
@pytest.mark.parametrize("count", [1, 3, 200])
def test_no_interval_of_equal_scores_is_without_width(samples, count):
    same, value = [samples] * count, mean(samples)
    low, high = accuracy_interval(same, np.random.default_rng(0))
    assert 0 <= low <= value <= high <= 1
    assert low < high
    for other in ([1.0], [0.0], [1.0, 0.0], samples):
        low, high = difference_interval(same, [other] * count, np.random.default_rng(0))
        assert -1 <= low <= value - mean(other) <= high <= 1
        assert low < high


def test_scores_beyond_0_and_1_have_the_bootstrap():
    scores = [3.0, 5.0, 4.0, 2.0]
    assert accuracy_interval([[score] for score in scores], np.random.default_rng(0)) == interval(scores)
    found = difference_interval([[3.0], [5.0]], [[0.0], [1.0]], np.random.default_rng(0))
    assert found == interval([3.0, 4.0])


def test_differences_of_several_samples():
    """Where they vary it is the bootstrap over problems; never is it narrower than Tango's of all samples."""
    first = [[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, 1.0]] * 3
    second = [[0.0, 0.0], [0.0, 1.0], [1.0, 1.0], [0.0, 0.0]] * 3
    apart = [mean(a) - mean(b) for a, b in zip(first, second, strict=True)]
    found = difference_interval(first, second, np.random.default_rng(0))
    low, high = interval(apart)
    least, most = paired_score_interval(3 * 2 * (0.5 + 0.5 + 1), 3 * 2 * 1, 24)
    assert found == (min(low, least), max(high, most))
    assert found[0] < mean(apart) < found[1]


def test_paired_interval_of_published_counts():
    """Airway reactivity before and after (M. Fagerland, S. Lydersen, P. Laake, 2014): −0.517 to −0.026."""
    assert paired_score_interval(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


def test_paired_interval_by_hand():
    """Where both always agree T(d)² = n d² / (|d| (1 − |d|)) … = z²: d = z² / (n + z²); z = 2, n = 12: 1/4."""
    level = math.erf(2 / math.sqrt(2))
    assert paired_score_interval(0, 0, 12, level) == pytest.approx((-0.25, 0.25))
    low, high = paired_score_interval(40, 20, 160)
    back = paired_score_interval(20, 40, 160)
    assert (-back[1], -back[0]) == pytest.approx((low, high))
    assert paired_score_interval(9, 0, 9)[1] == 1.0
    assert paired_score_interval(0, 9, 9)[0] == -1.0


def test_paired_interval_holds_the_differences_that_are_not_rejected():
    """The definition, with the likeliest probabilities at each difference searched for on a grid."""
    share = np.arange(0, 20001) / 20000
    for b, c, n in ((5, 1, 10), (0, 3, 8), (0, 0, 6), (7, 7, 30)):
        ends = paired_score_interval(b, c, n)
        for end, inside in ((ends[0], 1), (ends[1], -1)):
            for d, expected in ((end + 0.004 * inside, True), (end - 0.004 * inside, False)):
                first, second = share + d, share  # probabilities that only the one, only the other is right
                agree = 1 - first - second
                with np.errstate(divide="ignore", invalid="ignore"):
                    likely = sum(
                        np.where(count == 0, 0.0, count * np.log(chance))
                        for count, chance in ((b, first), (c, second), (n - b - c, agree))
                    )
                likely = np.where((first >= 0) & (agree >= 0), likely, -np.inf)
                q = share[np.nanargmax(likely)]
                distance = (b - c - n * d) / math.sqrt(n * (2 * q + d * (1 - d)))
                assert (abs(distance) <= 1.959964) == expected, (b, c, n, d)


@pytest.mark.parametrize(("only_first", "only_second"), [(0.01, 0.005), (0.1, 0.1), (0.2, 0.02)])
def test_paired_differences_are_covered(only_first, only_second):
    rng, covered = np.random.default_rng(2), 0
    for _ in range(400):
        b, c, _ = rng.multinomial(200, [only_first, only_second, 1 - only_first - only_second])
        low, high = paired_score_interval(int(b), int(c), 200)
        covered += low <= only_first - only_second <= high
    assert covered / 400 >= 0.95 - 4 * math.sqrt(0.95 * 0.05 / 400)


@pytest.mark.parametrize("wrong", [(-1, 0, 3), (2, 2, 3), (0, 0, 0)])
def test_paired_interval_refuses_what_are_no_counts(wrong):
    with pytest.raises(ValueError, match="counts"):
        paired_score_interval(*wrong)
    with pytest.raises(ValueError, match="at least one sample"):
        accuracy_interval([[1.0], []], np.random.default_rng(0))
    with pytest.raises(ValueError, match="same problems"):
        difference_interval([[1.0]], [[1.0], [0.0]], np.random.default_rng(0))


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


def test_aup_by_hand():
    """Source's formula: 2·90 + (3 − 2)·(90·W(90) + 80·W(80)) / 2, with W(y) = exp(−3·(1 − y/90))."""
    w = math.exp(-3 * (1 - 88 / 90))
    assert accuracy_under_parallelism([(3.0, 0.88), (2.0, 0.90)], 0.9) == pytest.approx(180 + (90 + 88 * w) / 2)
    assert accuracy_under_parallelism([(2.0, 0.5)], 0.9) == pytest.approx(100)
    # A point more than 5 points below the slowest does not count, one exactly so does, and so does what is better.
    assert accuracy_under_parallelism([(2.0, 0.5), (3.0, 0.44)], 0.5) == pytest.approx(100)
    w = math.exp(-3 * (1 - 0.45 / 0.5))
    assert accuracy_under_parallelism([(2.0, 0.5), (4.0, 0.45)], 0.5) == pytest.approx(100 + 50 + 45 * w)
    assert accuracy_under_parallelism([(2.0, 0.5), (4.0, 0.6)], 0.5) == pytest.approx(100 + 50 + 60)
    assert accuracy_under_parallelism([(1.0, 0.0), (2.0, 0.0)], 0.5) == 0.0
    half = math.exp(-6 * 0.5)
    assert accuracy_under_parallelism([(1.0, 0.5), (2.0, 0.5)], 1.0, alpha=6) == pytest.approx(50 + 50 * half)
    with pytest.raises(ValueError, match="at least one point"):
        accuracy_under_parallelism([], 1.0)


def test_areas_of_fronts_by_hand():
    """Over [1, 9]: all right from 3 on is half of log 9; half right from 3 on is a quarter."""
    correct, nfe = np.array([[1.0] * 4, [1.0, 0.0] * 2, [0.0] * 4]), np.array([[3.0] * 4, [3.0] * 4, [1.0] * 4])
    seen, drawn = front_areas(correct, nfe, [[0], [1], [2], [1, 2], [0, 1]], 9, np.random.default_rng(0))
    assert seen == pytest.approx([0.5, 0.25, 0, 0.25, 0.5])
    assert drawn.shape == (1000, 5)
    assert (drawn[:, 0] == drawn[:, 4]).all()
    assert (drawn[:, 1] <= drawn[:, 0]).all()  # the same problems are drawn for all


def test_interval_of_an_area():
    correct, nfe = np.ones((2, 50)), np.array([[3.0] * 50, [9.0] * 50])

    def interval(front: list[int]) -> tuple[float, float]:
        _, drawn = front_areas(correct, nfe, [front], 9, np.random.default_rng(0))
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(low), float(high)

    low, high = interval([0, 1])
    # All right at 3 NFE: Wilson's interval of 50 of 50, half of which is the area.
    assert low == pytest.approx(wilson_interval(50, 50)[0] / 2, abs=0.02)
    assert high == pytest.approx(0.5)
    correct[0, ::2] = 0
    below, above = wilson_interval(25, 50)
    assert interval([0]) == pytest.approx((below / 2, above / 2), abs=0.03)
    for shape in (np.ones(3), np.ones((0, 4))):
        with pytest.raises(ValueError, match="policies, problems"):
            front_areas(shape, shape, [[0]], 9, np.random.default_rng(0))
