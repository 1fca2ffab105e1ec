"""From scores to statements: p-values, thresholds and selections whose false alarms are bounded.

All of it rests on one fact. If a new normal row and the n rows held out of the fit are exchangeable, the new
row's rank among them is uniform, whatever the model and its scores are.

References
----------
V. Vovk, A. Gammerman, G. Shafer. Algorithmic Learning in a Random World. Springer 2005 (conformal p-values).
S. Bates, E. Candes, L. Lei, Y. Romano, M. Sesia. Testing for Outliers with Conformal p-values. Annals of
Statistics 51(1), 2023, arXiv:2104.08279 (those of one calibration set are positively dependent, under which
Benjamini-Hochberg keeps its rate).
Y. Benjamini, Y. Hochberg. Controlling the False Discovery Rate: A Practical and Powerful Approach to Multiple
Testing. Journal of the Royal Statistical Society B 57(1), 1995.
Y. Benjamini, D. Yekutieli. The Control of the False Discovery Rate in Multiple Testing under Dependency.
Annals of Statistics 29(4), 2001.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lookalike.errors import LookalikeWarning


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of normal rows that the model was not fitted on; higher is more normal.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Finite, in any order; kept sorted, as float64.

    Examples
    --------
    >>> import numpy as np
    >>> held_out = Calibration(np.arange(99))
    >>> held_out.p_values([-1, 0, 49.5, 200]).tolist()
    [0.01, 0.02, 0.51, 1.0]
    >>> held_out.threshold(0.05)
    4.0
    """

    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        scores = np.sort(np.asarray(self.scores, dtype=np.float64).ravel())
        if not scores.size:
            raise ValueError("scores must hold at least one calibration row, got none.")
        if not np.isfinite(scores).all():
            raise ValueError(f"scores must be finite, got {scores[~np.isfinite(scores)][0]}.")
        scores.setflags(write=False)
        object.__setattr__(self, "scores", scores)

    def p_values(self, scores: ArrayLike) -> NDArray[np.float64]:
        """Return the share of normal rows that are at least as odd as each row.

        Split conformal: (1 + number of calibration scores <= score) / (n + 1). A normal row has a p-value of
        at most a with probability at most a, for every a, over draws of the row and of the calibration rows.

        Parameters
        ----------
        scores : array-like of shape (n_rows,)
            Higher is more normal.

        Returns
        -------
        ndarray of shape (n_rows,), float64
            In [1 / (n + 1), 1]; small means anomalous.
        """
        values = np.asarray(scores, dtype=np.float64)
        if np.isnan(values).any():  # NaN sorts last, and would pass for the most normal of all
            raise ValueError("scores must not hold NaN.")
        # side="right" counts ties as odder than the row: the p-value errs upwards.
        odder = np.searchsorted(self.scores, values, side="right").astype(np.float64)
        return (odder + 1.0) / (self.scores.size + 1.0)

    def threshold(self, alpha: float) -> float:
        """Return the score below which a row is called an anomaly, at a false alarm rate of at most alpha.

        `score < threshold(alpha)` holds exactly where `p_values(score) <= alpha`. The rate is that over draws
        of the calibration rows too; with one draw of n it strays by about sqrt(alpha * (1 - alpha) / n).

        Parameters
        ----------
        alpha : float
            In (0, 1).

        Warns
        -----
        LookalikeWarning
            With fewer than 1 / alpha - 1 calibration rows, where no threshold keeps the rate. It is then just
            below the lowest calibration score, at a rate of at most 1 / (n + 1).
        """
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie in (0, 1), got {alpha}.")
        n = self.scores.size
        # The largest k with k / (n + 1) <= alpha as float64 has it, so that p-values never disagree.
        k = math.floor(alpha * (n + 1)) + 1
        while k / (n + 1) > alpha:
            k -= 1
        if k:
            return float(self.scores[k - 1])
        warnings.warn(
            f"A false alarm rate of {alpha:g} takes {np.ceil(1 / alpha) - 1:,.0f} calibration rows, and "
            f"there are {n}: it will be about {1 / (n + 1):.2g}. Fit on more rows, or ask for a higher rate.",
            LookalikeWarning,
            stacklevel=2,
        )
        return float(np.nextafter(self.scores[0], -np.inf))

    def to_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Return what `from_arrays` rebuilds this from."""
        return {"scores": self.scores}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float64]]) -> Calibration:
        """Rebuild from `to_arrays`."""
        return cls(arrays["scores"])


def select(p_values: ArrayLike, fdr: float = 0.05, method: Literal["bh", "by"] = "bh") -> NDArray[np.bool_]:
    """Select the anomalies among many rows, so that few of those selected are false.

    Parameters
    ----------
    p_values : array-like of shape (n_rows,)
        Of all rows that were looked at, not of the odd ones only.
    fdr : float
        The false discovery rate: the expected share of normal rows among those selected is at most this.
    method : {"bh", "by"}
        "bh" (Benjamini-Hochberg) holds for p-values that are independent or share one calibration set, as
        those of one model do. "by" (Benjamini-Yekutieli) holds under any dependence, and selects less.

    Returns
    -------
    ndarray of shape (n_rows,), bool

    Notes
    -----
    No p-value is below 1 / (n + 1) for n calibration rows: to find k anomalies among n_rows rows, n must be
    at least about n_rows / (k * fdr).

    Examples
    --------
    >>> select([0.001, 0.8, 0.012, 0.3], fdr=0.05).tolist()
    [True, False, True, False]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise ValueError(f"p_values must have one dimension, got shape {p.shape}.")
    outside = ~((p >= 0) & (p <= 1))  # so written, NaN is outside too
    if outside.any():
        raise ValueError(f"p_values must lie in [0, 1], got {p[outside][0]}.")
    if not 0 < fdr < 1:
        raise ValueError(f"fdr must lie in (0, 1), got {fdr}.")
    if method not in ("bh", "by"):
        raise ValueError(f"method must be 'bh' or 'by', got {method!r}.")
    m = p.size
    rank = np.arange(1, m + 1)
    level = fdr if method == "bh" else fdr / np.sum(1.0 / rank)
    ordered = np.sort(p)
    passing = np.flatnonzero(ordered <= level * rank / m)
    if not passing.size:
        return np.zeros(m, dtype=np.bool_)
    mask: NDArray[np.bool_] = p <= ordered[passing[-1]]
    return mask
