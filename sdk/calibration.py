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
J. Storey. A Direct Approach to False Discovery Rates. Journal of the Royal Statistical Society B 64(3), 2002.
J. Storey, J. Taylor, D. Siegmund. Strong Control, Conservative Point Estimation and Simultaneous Conservative
Consistency of False Discovery Rates. Journal of the Royal Statistical Society B 66(1), 2004.
R. Tibshirani, R. Barber, E. Candes, A. Ramdas. Conformal Prediction under Covariate Shift. NeurIPS 2019,
arXiv:1904.06019 (weights).
Y. Jin, E. Candes. Model-free Selective Inference under Covariate Shift via Weighted Conformal p-values.
arXiv:2307.09291 (weighted p-values are not positively dependent as the others are).
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

FALSE_ALARM_RATE = 0.05  # of contamination="auto"
HELD_OUT_SHARE, MOST_HELD_OUT = 0.1, 4096  # rows of a fit that calibrate it
LAMBDA = 0.5  # p-values above it are taken for those of normal rows


@dataclass(frozen=True, eq=False)
class Calibration:
    """Scores of normal rows that the model was not fitted on; higher is more normal.

    Parameters
    ----------
    scores : array-like of shape (n,)
        Finite, in any order; kept sorted, as float64.
    weights : array-like of shape (n,), optional
        How much likelier each of these rows is among the rows to come than it was here: the density ratio of
        `la.density_ratio`, known up to a factor. None where rows to come are like these.

    Examples
    --------
    >>> import numpy as np
    >>> held_out = Calibration(np.arange(99))
    >>> held_out.p_values([-1, 0, 49.5, 200]).tolist()
    [0.01, 0.02, 0.51, 1.0]
    >>> held_out.threshold(0.05)
    4.0

    Large scores are three times as likely to come as they were here:

    >>> drifted = Calibration([1, 2, 3, 4], weights=[1, 1, 3, 3])
    >>> drifted.p_values([2.5, 3.5], weights=[1, 3]).round(3).tolist()
    [0.333, 0.727]
    """

    scores: NDArray[np.float64]
    weights: NDArray[np.float64] | None = None

    def __post_init__(self) -> None:
        scores = np.array(self.scores, dtype=np.float64).ravel()
        if not scores.size:
            raise ValueError("scores must hold at least one calibration row, got none.")
        if not np.isfinite(scores).all():
            raise ValueError(f"scores must be finite, got {scores[~np.isfinite(scores)][0]}.")
        order = np.argsort(scores, kind="stable")
        if self.weights is not None:
            weights = _weights(self.weights, scores.size, "calibration scores")[order]
            weights.setflags(write=False)
            object.__setattr__(self, "weights", weights)
        scores = scores[order]
        scores.setflags(write=False)
        object.__setattr__(self, "scores", scores)

    def p_values(self, scores: ArrayLike, weights: ArrayLike | None = None) -> NDArray[np.float64]:
        """Return the share of normal rows that are at least as odd as each row.

        Split conformal: (1 + number of calibration scores <= score) / (n + 1). A normal row has a p-value of
        at most a with probability at most a, for every a, over draws of the row and of the calibration rows.

        With weights w, (w(row) + sum of w over calibration scores <= score) / (w(row) + sum of w). The same
        then holds of normal rows from a distribution whose density is w times that of the calibration rows,
        exactly where w is known and about so where it is estimated.

        Parameters
        ----------
        scores : array-like of shape (n_rows,)
            Higher is more normal.
        weights : array-like of shape (n_rows,), optional
            Density ratio of these rows, on the scale of the calibration weights; needed where there are such.

        Returns
        -------
        ndarray of shape (n_rows,), float64
            In [1 / (n + 1), 1]; small means anomalous.
        """
        values = np.asarray(scores, dtype=np.float64)
        if np.isnan(values).any():  # NaN sorts last, and would pass for the most normal of all
            raise ValueError("scores must not hold NaN.")
        # side="right" counts ties as odder than the row: the p-value errs upwards.
        odder = np.searchsorted(self.scores, values, side="right")
        if (weights is None) != (self.weights is None):
            raise ValueError(
                "weights are needed of the calibration rows and of these rows, or of neither; those of "
                f"{'these' if weights is None else 'the calibration'} rows are missing."
            )
        if weights is None or self.weights is None:
            return (odder.astype(np.float64) + 1.0) / (self.scores.size + 1.0)
        own = _weights(weights, values.size, "rows").reshape(values.shape)
        below = np.append(0.0, np.cumsum(self.weights))
        with np.errstate(invalid="ignore"):
            p: NDArray[np.float64] = (below[odder] + own) / (below[-1] + own)
        p[np.isnan(p)] = 1.0  # nothing is known of a row where all weights are 0
        return p

    @property
    def n_effective(self) -> float:
        """How many unweighted rows say as much: (sum of w)**2 / sum of w**2, by Kish; n without weights."""
        if self.weights is None:
            return float(self.scores.size)
        total = np.square(self.weights).sum()
        return float(self.weights.sum() ** 2 / total) if total else 0.0

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
        if self.weights is not None:
            raise ValueError(
                "with weights there is no one threshold for all rows. Compare p_values with alpha."
            )
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
        return {"scores": self.scores} | ({} if self.weights is None else {"weights": self.weights})

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float64]]) -> Calibration:
        """Rebuild from `to_arrays`."""
        return cls(arrays["scores"], arrays.get("weights"))


def _weights(weights: ArrayLike, n: int, of: str) -> NDArray[np.float64]:
    """Check density ratios."""
    found = np.array(weights, dtype=np.float64).ravel()
    if found.size != n:
        raise ValueError(f"weights must be one a row, got {found.size} for {n} {of}.")
    wrong = ~(np.isfinite(found) & (found >= 0))
    if wrong.any():
        raise ValueError(f"weights must be finite and not negative, got {found[wrong][0]}.")
    return found


def checked_p_values(p_values: ArrayLike) -> NDArray[np.float64]:
    """Return p-values as float64, or say which is none."""
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise ValueError(f"p_values must have one dimension, got shape {p.shape}.")
    outside = ~((p >= 0) & (p <= 1))  # so written, NaN is outside too
    if outside.any():
        raise ValueError(f"p_values must lie in [0, 1], got {p[outside][0]}.")
    return p


def select(
    p_values: ArrayLike, fdr: float = 0.05, method: Literal["bh", "storey", "by"] = "bh"
) -> NDArray[np.bool_]:
    """Select the anomalies among many rows, so that few of those selected are false.

    Parameters
    ----------
    p_values : array-like of shape (n_rows,)
        Of all rows that were looked at, not of the odd ones only.
    fdr : float
        The false discovery rate: the expected share of normal rows among those selected is at most this.
    method : {"bh", "storey", "by"}
        "bh" (Benjamini-Hochberg) holds for p-values that are independent or share one calibration set, as
        those of one model do. "storey" divides its rate by the share of normal rows, estimated from the
        p-values above 1/2, and selects more where anomalies are many; it holds where "bh" does, if normal
        rows are like those of the calibration. Where they have drifted to be more normal than those, the
        estimate exceeds 1 and it selects less than "bh". "by" (Benjamini-Yekutieli) holds under any
        dependence, so for weighted p-values too, and selects least.

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
    p = checked_p_values(p_values)
    if not 0 < fdr < 1:
        raise ValueError(f"fdr must lie in (0, 1), got {fdr}.")
    if method not in ("bh", "storey", "by"):
        raise ValueError(f"method must be 'bh', 'storey' or 'by', got {method!r}.")
    m = p.size
    rank = np.arange(1, m + 1)
    level, most = fdr, 1.0
    if method == "by":
        level = fdr / np.sum(1.0 / rank)
    elif method == "storey":
        # Storey, Taylor and Siegmund 2004; the 1, and no rejection above lambda, are what few rows take.
        level, most = fdr * m / (np.sum(p > LAMBDA) + 1) * (1 - LAMBDA), LAMBDA
    ordered = np.sort(p)
    passing = np.flatnonzero((ordered <= level * rank / m) & (ordered <= most))
    if not passing.size:
        return np.zeros(m, dtype=np.bool_)
    mask: NDArray[np.bool_] = p <= ordered[passing[-1]]
    return mask
