"""Areas under fronts whose problems are drawn again: where the distribution is known."""

from __future__ import annotations

import numpy as np
import pytest

from dllm_env.eval.metrics import front_areas


@pytest.mark.parametrize(("correct", "right"), [(1.0, 3), (0.0, 2)])
def test_problems_are_drawn_again_as_often_as_there_are(correct: float, right: int) -> None:
    """One problem at 1 of [1, 2] NFE and the four that are added: areas are Binomial(5, right / 5) / 5."""
    generator = np.random.default_rng(0)
    seen, drawn = front_areas(np.array([[correct]]), np.ones((1, 1)), [[0]], 2, generator, resamples=4000)
    assert seen.tolist() == [correct]
    assert sorted(set((5 * drawn[:, 0]).round(9).tolist())) == [0, 1, 2, 3, 4, 5]
    assert drawn.mean() == pytest.approx(right / 5, abs=0.015)
    assert drawn.var() == pytest.approx(0.6 * 0.4 / 5, abs=0.003)


def test_what_is_added_has_each_policy_s_mean_nfe() -> None:
    """The front's step is at the mean NFE of what was drawn; all but one problem have 4, and the added ones 3."""
    correct, nfe = np.ones((1, 2)), np.array([[2.0, 4.0]])
    _, drawn = front_areas(correct, nfe, [[0]], 16, np.random.default_rng(0), resamples=500)
    # Six problems, 2, 4, and four times 3: the largest possible area is all right at 2, the smallest above 0 at 4.
    assert drawn.max() <= 1 - np.log(2) / np.log(16) + 1e-9
    assert len(set(drawn[:, 0].round(9).tolist())) > 20
