"""How near generated images come to real ones, by what a judge's network makes of them.

Both kinds of figure compare features of two sets, (n, k), not images: the Fréchet distance of two normal
distributions (Heusel et al., "GANs trained by a two time-scale update rule", NeurIPS 2017, arXiv 1706.08500),
and whose neighbourhoods hold whom (Kynkäänniemi et al., "Improved precision and recall metric for assessing
generative models", NeurIPS 2019, arXiv 1904.06991; Naeem et al., "Reliable fidelity and diversity metrics for
generative models", ICML 2020, arXiv 2002.09797).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

PART = 1024  # rows whose distances to all others are held at once


class Likeness(NamedTuple):
    """Of generated rows to real ones.

    Attributes
    ----------
    precision : float
        Share of generated rows that lie in the neighbourhood of a real one.
    recall : float
        Share of real rows that lie in the neighbourhood of a generated one.
    density : float
        In how many real neighbourhoods a generated row lies, in units of what is expected of real ones, 1.
    coverage : float
        Share of real rows in whose neighbourhood a generated one lies.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def frechet_distance(real: Floats, made: Floats) -> float:
    """Squared Fréchet distance of the normal distributions with the mean and covariance of two sets.

    Parameters
    ----------
    real, made : ndarray of shape (n, k), (m, k)
        Features; of more rows than columns.

    Returns
    -------
    float
        |mu - nu|^2 + tr(S + T - 2 (S^1/2 T S^1/2)^1/2), 0 for equal sets.
    """
    real, made = np.asarray(real, np.float64), np.asarray(made, np.float64)
    gap = real.mean(0) - made.mean(0)
    one, other = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (real, made))
    values, vectors = np.linalg.eigh(one)
    root = (vectors * np.sqrt(values.clip(min=0))) @ vectors.T
    cross = np.sqrt(np.linalg.eigvalsh(root @ other @ root).clip(min=0)).sum()
    return float(gap @ gap + np.trace(one) + np.trace(other) - 2 * cross)


def likeness(real: Floats, made: Floats, k: int = 5) -> Likeness:
    """Precision, recall, density and coverage; a row's neighbourhood reaches to its k-th nearest of its set.

    Parameters
    ----------
    real, made : ndarray of shape (n, d), (m, d)
        Features, of more than `k` rows each. Figures of sets of other sizes cannot be compared.
    k : int
    """
    real, made = np.asarray(real, np.float64), np.asarray(made, np.float64)
    around_real, around_made = _reach(real, k), _reach(made, k)
    inside = np.zeros(len(made))
    reached, covered = np.zeros(len(real), bool), np.zeros(len(real), bool)
    for start in range(0, len(real), PART):
        part = slice(start, start + PART)
        distance = _squared(real[part], made)
        within = distance <= around_real[part, None]
        inside += within.sum(0)
        covered[part] = within.any(1)
        reached[part] = (distance <= around_made).any(1)
    return Likeness(
        float((inside > 0).mean()), float(reached.mean()), float(inside.mean() / k), float(covered.mean())
    )


def _squared(x: Floats, y: Floats) -> Floats:
    """Squared distances, (n, m)."""
    distance: Floats = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    return distance


def _reach(rows: Floats, k: int) -> Floats:
    """Squared distance of each row to its k-th nearest, itself not counted, (n,)."""
    parts = (_squared(rows[start : start + PART], rows) for start in range(0, len(rows), PART))
    return np.concatenate([np.partition(part, k, axis=1)[:, k] for part in parts])
