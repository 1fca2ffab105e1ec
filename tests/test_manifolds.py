"""Figures of generated sets are what they are known to be for normal distributions."""

import numpy as np
import pytest

from lookalike.evaluation.manifolds import frechet_distance, likeness


def normal(n, d, seed, mean=0.0, scale=1.0):
    return mean + scale * np.random.default_rng(seed).normal(size=(n, d))


def test_the_frechet_distance_of_normal_distributions_is_known():
    real = normal(50_000, 3, 0)
    assert frechet_distance(real, real) == pytest.approx(0, abs=1e-9)
    # Apart by 2 in each of three columns: 3 * 4. Of spreads 1 and 3: 3 * (3 - 1)^2.
    assert frechet_distance(real, real + 2) == pytest.approx(12, rel=1e-6)
    assert frechet_distance(real, 3 * real) == pytest.approx(12, rel=0.02)
    mix = np.array([[1.0, 0.8, 0.0], [0.0, 0.6, 0.0], [0.0, 0.0, 1.0]])
    # Tr(S + T - 2 (S^1/2 T S^1/2)^1/2) for S = 1 is the sum of (1 - s)^2 over singular values of the mixing.
    want = ((1 - np.linalg.svd(mix)[1]) ** 2).sum()
    assert frechet_distance(normal(200_000, 3, 1), normal(200_000, 3, 2) @ mix) == pytest.approx(
        want, abs=0.02
    )


def test_a_set_like_the_other_has_all_figures_near_those_of_real_rows():
    found = likeness(normal(2000, 8, 0), normal(2000, 8, 1))
    assert min(found.precision, found.recall) > 0.85
    assert found.density == pytest.approx(1, abs=0.1)
    assert found.coverage > 0.9


@pytest.mark.parametrize(
    ("made", "low", "high"),
    [
        (lambda: normal(1500, 4, 1, scale=0.2), "recall", "precision"),  # true, and all the same
        (lambda: normal(1500, 4, 1, scale=4), "precision", "recall"),  # of everything, and much that is not
        (
            lambda: np.repeat(normal(3, 4, 1), 500, 0) + normal(1500, 4, 2, scale=1e-3),
            "coverage",
            "precision",
        ),
    ],
    ids=["too narrow", "too wide", "three rows again and again"],
)
def test_what_is_wrong_with_a_set_shows_in_the_figure_for_it(made, low, high):
    found = likeness(normal(1500, 4, 0), made())
    assert getattr(found, low) < 0.5 < getattr(found, high)


def test_what_is_far_away_is_like_nothing():
    found = likeness(normal(500, 4, 0), normal(400, 4, 1, mean=50))
    assert found == (0, 0, 0, 0)
