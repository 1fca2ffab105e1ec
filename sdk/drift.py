"""Rows to come that are not as those of the fit: an alarm that says so, and weights that allow for it.

References
----------
V. Vovk, I. Nouretdinov, A. Gammerman. Testing Exchangeability On-Line. ICML 2003 (conformal test
martingales).
V. Vovk, I. Petej, I. Nouretdinov, E. Ahlberg, L. Carlsson, A. Gammerman. Retrain or Not Retrain: Conformal
Test Martingales for Change-Point Detection. COPA 2021, arXiv:2102.10439 (the Simple Jumper).
J. Ville. Etude critique de la notion de collectif. Gauthier-Villars 1939 (the bound on the alarm).
S. Bickel, M. Bruckner, T. Scheffer. Discriminative Learning for Differing Training and Test Distributions.
ICML 2007 (density ratios from a classifier).
"""

from __future__ import annotations

import copy
import math
from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lookalike import noise
from lookalike.calibration import Calibration
from lookalike.parameters import Range
from lookalike.streaming import joined, n_rows, taken

_FORMAT = 1
_JUMP = 0.01  # of the capital changes its bet at each row: the Simple Jumper's rate in the paper
_LARGE = 1e100  # capital is counted in units, so that no drift is too long for a float


def _bets(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each bet pays for a p-value, (n, 7): on average 1 where p is uniform.

    Nothing; more odd rows, or fewer; more of both extremes, or fewer; and twice more very odd ones, which
    are few: the linear bets of the paper would lose more on the rest than they gain there.
    """
    spread = np.abs(2 * p - 1)
    root = np.sqrt(p)  # roots, whose last bit is the same everywhere, and not powers
    return np.column_stack(
        [np.ones_like(p), 1.5 - p, 0.5 + p, 0.5 + spread, 1.5 - spread, 0.5 / root, 0.75 / np.sqrt(root)]
    )


class DriftMonitor:
    """Raise an alarm when the scores of a stream are no longer like those of the calibration.

    A gambler bets on each row's rank among the calibration rows and the rows before. While all of them are
    exchangeable no way of betting can win: the capital, 1 at first, ever reaches 1 / alpha with probability
    at most alpha, however long the stream is (Ville). Where it does, the scores have drifted.

    Parameters
    ----------
    calibration : Calibration or array-like of shape (n,)
        What the stream should look like, such as `model.calibration_`, or the scores of the first weeks where
        anomalies at their usual rate are no drift.
    alpha : float
        In (0, 1): probability of a false alarm, over the whole life of the monitor.
    memory : int
        Scores that are kept. Once they are that many a random one is forgotten for each that comes, so memory
        is bounded and the last `memory` rows or so are what is compared with. Changes that take much longer
        than that are not seen.
    random_state : int, Generator, RandomState or None
        Breaks ties and chooses what is forgotten. With a number, the same scores give the same capital,
        however they are cut into batches.

    Attributes
    ----------
    alarm : bool
        Whether the capital has ever reached 1 / alpha.
    alarm_row : int or None
        The row of the stream, from 0, where it first did.
    capital : float
        Of the gambler: evidence for drift.
    n_rows : int
        Of the stream, so far.

    Notes
    -----
    P-values against a fixed calibration set are not independent, and no martingale could be made of them.
    So a row is ranked among all scores that are kept, and then kept itself; its rank says nothing of those
    to come. This is exact with bounded memory too, because what is forgotten is drawn evenly from the kept
    scores and the new one: whatever the rank was, what remains is a random sample.

    Bets are those of the Simple Jumper and some on few very odd rows; a part 1 / (t (t + 1)) of the capital
    starts to play at row t, so that a drift after many quiet rows is found nearly as soon as one at once.

    An alarm stays. Find out what has changed; then fit or calibrate anew, and begin a new monitor.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> monitor = DriftMonitor(rng.normal(size=500), random_state=0)
    >>> monitor.update(rng.normal(size=1000))
    False
    >>> again = DriftMonitor.from_dict(monitor.to_dict())  # in another process
    >>> again.update(rng.normal(size=100) - 1)
    True
    """

    def __init__(
        self,
        calibration: Calibration | ArrayLike,
        alpha: float = 0.01,
        memory: int = 4096,
        random_state: noise.RandomState = None,
    ) -> None:
        if not isinstance(calibration, Calibration):
            calibration = Calibration(np.asarray(calibration))
        if calibration.weights is not None:
            raise ValueError("a calibration with weights expects drift: give the monitor one without.")
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie in (0, 1), got {alpha}.")
        Range(1, math.inf, whole=True).check("memory", memory)
        self.alpha, self.memory = float(alpha), int(memory)
        self.n_rows = 0
        self.alarm_row: int | None = None
        self._seed = noise.seed_from(random_state)
        n = calibration.scores.size
        kept = np.argsort(noise.normals(self._seed, 0, n, 1)[:, 0])[: self.memory]
        self._scores: list[float] = np.sort(calibration.scores[kept]).tolist()
        self._stakes, self._log_unit = [0.0] * _bets(np.ones(1)).shape[1], 0.0

    def __repr__(self) -> str:
        rows = f"{self.n_rows:,} rows"
        if self.alarm_row is not None:
            return f"<DriftMonitor: ALARM at row {self.alarm_row:,} of {rows}, capital {self.capital:.3g}>"
        return f"<DriftMonitor: no alarm in {rows}, capital {self.capital:.3g} of {1 / self.alpha:.4g}>"

    @property
    def alarm(self) -> bool:
        """Whether the capital has ever reached 1 / alpha."""
        return self.alarm_row is not None

    @property
    def log_capital(self) -> float:
        """Natural logarithm of the capital, which itself may be too large for a float."""
        saved = math.exp(-self._log_unit) / (self.n_rows + 1)
        return self._log_unit + math.log(sum(self._stakes) + saved)

    @property
    def capital(self) -> float:
        """Of the gambler, who began with 1."""
        return math.exp(self.log_capital) if self.log_capital < 700 else math.inf

    def update(self, scores: ArrayLike) -> bool:
        """Look at the next rows of the stream.

        Parameters
        ----------
        scores : array-like of shape (n_rows,)
            From `score_samples`, in the order of the stream.

        Returns
        -------
        bool
            Whether there is an alarm, by these rows or by earlier ones.
        """
        values = np.asarray(scores, dtype=np.float64)
        if values.ndim != 1:
            raise ValueError(f"scores must have one dimension, got shape {values.shape}.")
        if np.isnan(values).any():
            raise ValueError("scores must not hold NaN.")
        limit = -math.log(self.alpha)
        for pays in _bets(self._ranks(values)).tolist():
            self._play(pays)
            if self.alarm_row is None and self.log_capital >= limit:
                self.alarm_row = self.n_rows - 1
        return self.alarm

    def _ranks(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rank each row among those kept, ties at random, and keep it: uniform and independent."""
        kept, ranks = self._scores, []
        chance = noise.uniforms(self._seed, self.n_rows, values.size, 2).tolist()
        for value, (tie, lot) in zip(values.tolist(), chance, strict=True):
            below, upto = bisect_left(kept, value), bisect_right(kept, value)
            ranks.append((below + tie * (upto - below + 1)) / (len(kept) + 1))
            insort(kept, value)
            if len(kept) > self.memory:  # the new one may be the one that goes: see Notes
                del kept[min(int(lot * len(kept)), self.memory)]
        return np.array(ranks)

    def _play(self, pays: list[float]) -> None:
        t, n = self.n_rows + 1, len(pays)
        fresh = math.exp(-self._log_unit) / (t * (t + 1))
        share = (_JUMP * sum(self._stakes) + fresh) / n
        stakes = [((1 - _JUMP) * stake + share) * pay for stake, pay in zip(self._stakes, pays, strict=True)]
        total = sum(stakes)
        if total > _LARGE:
            stakes = [stake / total for stake in stakes]
            self._log_unit += math.log(total)
        self._stakes, self.n_rows = stakes, t

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs to go on to the same values, as JSON values."""
        return {
            "format": _FORMAT,
            "alpha": self.alpha,
            "memory": self.memory,
            "seed": self._seed,
            "n_rows": self.n_rows,
            "alarm_row": self.alarm_row,
            "scores": list(self._scores),
            "stakes": list(self._stakes),
            "log_unit": self._log_unit,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Go on where another left off.

        Raises
        ------
        ValueError
            If this is not what `to_dict` gives.
        """
        try:
            if state["format"] != _FORMAT:
                raise ValueError(f"format {state['format']!r} is not {_FORMAT}")
            scores, stakes = list(map(float, state["scores"])), list(map(float, state["stakes"]))
            self = cls([0.0], state["alpha"], state["memory"], state["seed"])
            row = state["alarm_row"]
            self.n_rows, self.alarm_row = int(state["n_rows"]), None if row is None else int(row)
            ascending = all(a <= b for a, b in pairwise([*scores, math.inf]))
            if not (ascending and 0 < len(scores) <= self.memory):
                raise ValueError("its scores are not sorted, or more than its memory holds")
            if len(stakes) != len(self._stakes) or not all(0 <= stake < math.inf for stake in stakes):
                raise ValueError("its stakes are not those of its bets")
            unit = float(state["log_unit"])
            if self.n_rows < 0 or not math.isfinite(unit):
                raise ValueError("it holds what is no count, or no number")
            self._scores, self._stakes, self._log_unit = scores, stakes, unit
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not the state of a DriftMonitor: {error}.") from error
        return self


def density_ratio(
    reference: Any, new: Any, classifier: Any, *, n_folds: int = 5, random_state: noise.RandomState = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Estimate how much likelier each row is among new rows than among reference rows.

    A classifier learns to tell the two apart; its odds are the ratio. Each row is judged by a classifier that
    has not seen it.

    Parameters
    ----------
    reference, new : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
        The same columns of the rows of a calibration and of the rows to come. Give only columns whose change
        is known to be harmless, such as region, season or customer segment. With all columns, anomalies look
        like drift, and what looks like drift is forgiven.
    classifier : object
        With `fit(X, y)` and `predict_proba(X)`, such as scikit-learn's LogisticRegression. It is copied.
    n_folds : int
        At least 2.
    random_state : int, Generator, RandomState or None
        Shuffles the rows into folds.

    Returns
    -------
    reference_weights, new_weights : ndarray of shape (n_rows,), float64
        For ``Calibration(scores, weights).p_values(new_scores, new_weights)``.

    Raises
    ------
    ValueError
        If there are fewer rows than folds.

    Notes
    -----
    P-values are as valid as this estimate is true. Look at `Calibration.n_effective`: where it is small, few
    reference rows are like the new ones, and no p-value can be.
    """
    Range(2, math.inf, whole=True).check("n_folds", n_folds)
    sides = reference, new
    sizes = [n_rows(side) for side in sides]
    if min(sizes) < n_folds:
        raise ValueError(
            f"density_ratio needs at least {n_folds} reference rows and as many new ones, got {sizes[0]} and "
            f"{sizes[1]}."
        )
    seed = noise.seed_from(random_state)
    folds = [noise.folds(seed, size, n_folds) for size in sizes]  # of each side, so that both are in each
    weights = [np.empty(size) for size in sizes]
    for k in range(n_folds):
        rest = [np.flatnonzero(fold != k) for fold in folds]
        train = joined([taken(side, index) for side, index in zip(sides, rest, strict=True)])
        labels = np.repeat([0, 1], [len(index) for index in rest])
        fitted = copy.deepcopy(classifier).fit(train, labels)
        for side, fold, weight in zip(sides, folds, weights, strict=True):
            index = np.flatnonzero(fold == k)
            odds = np.asarray(fitted.predict_proba(taken(side, index)), dtype=np.float64)[:, 1]
            # A classifier that is sure would give a ratio of 0 or infinity, which no number of rows shows.
            odds = np.clip(odds, 1 / (labels.size + 2), 1 - 1 / (labels.size + 2))
            weight[index] = odds / (1 - odds) * len(rest[0]) / len(rest[1])
    return weights[0], weights[1]
