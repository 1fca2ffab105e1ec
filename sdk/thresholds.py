"""Where to draw the line between normal and odd: by a rate, a share, a budget or a cost.

Each rule gives a score, below which a row is called an anomaly; a model keeps it in `offset_`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lookalike.calibration import LAMBDA, Calibration
from lookalike.parameters import Range
from lookalike.streaming import streamed


class Thresholded:
    """What has `score_samples`, `calibration_` and `offset_`: so labels, p-values, a threshold to set."""

    calibration_: Calibration
    offset_: float

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Score rows; higher is more normal."""
        raise NotImplementedError

    def _check(self, task: str) -> None:
        """Refuse to "score" where that cannot be done."""
        raise NotImplementedError

    @streamed
    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return `score_samples(X) - offset_`, negative for anomalies; shape (n_rows,)."""
        return self.score_samples(X) - self.offset_

    @streamed
    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return 1 for rows that look normal and -1 for anomalies, shape (n_rows,).

        With ``contamination="auto"`` at most 5 % of normal rows are called anomalies, by conformal
        calibration on rows held out of the fit; with a share, that share of the rows of `fit` is.
        `set_threshold` sets another rule.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    @streamed
    def anomaly_score(self, X: Any) -> NDArray[np.float64]:
        """Return minus `score_samples`: higher is more anomalous, as in PyOD.

        Returns
        -------
        ndarray of shape (n_rows,), float64
        """
        return -self.score_samples(X)

    @streamed
    def p_values(self, X: Any) -> NDArray[np.float64]:
        """Return the share of normal rows that are at least as odd as each row, shape (n_rows,).

        Split conformal on rows held out of the fit: among normal rows, p is at most a with probability at
        most a. `la.select(p, fdr=0.05)` turns them into alarms of which a bounded share is false.
        """
        scores = self.score_samples(X)  # first, for it refuses before fit
        return self.calibration_.p_values(scores)

    def set_threshold(
        self,
        *,
        false_alarm_rate: float | None = None,
        contamination: float | None = None,
        budget: int | None = None,
        cost: tuple[float, float] | None = None,
        X: Any = None,
        y: ArrayLike | None = None,
        per: int | None = None,
        prior: float | None = None,
    ) -> Self:
        """Set which scores are called anomalies, by one rule of four.

        `predict` and `decision_function` change at once; `save` and `export` keep it. What is said of normal
        rows rests on those held out of the fit, as `p_values` do.

        Parameters
        ----------
        false_alarm_rate : float, optional
            In (0, 1): at most this share of normal rows is called anomalies.
        contamination : float, optional
            In (0, 0.5]: this share of the rows X is, the percentile that ``contamination`` means in `fit`.
        budget : int, optional
            At most so many alerts among the rows X; or, with `per`, so many in every `per` rows, where they
            are like the rows X. With `per` and no X, so many false alerts in every `per` normal rows, on
            average.
        cost : (float, float), optional
            What a missed anomaly costs, and what a false alarm. The threshold has the least expected cost on
            the rows X, with their labels y or without; see Notes.
        X : DataFrame, pyarrow.Table, ndarray, dict of columns, or an iterator of these, optional
            Rows as they come, anomalies among them.
        y : array-like of shape (n_rows,), optional
            For `cost`: -1 where a row of X is an anomaly, 1 where it is normal.
        per : int, optional
            For `budget`: a number of rows.
        prior : float, optional
            For `cost`, in (0, 1): the share of anomalies among rows to come. By default that among y; without
            y, what Storey's estimate finds in X, which is rather too low than too high.

        Returns
        -------
        self

        Raises
        ------
        ValueError
            Unless one rule is given, with what it needs and nothing else.

        Notes
        -----
        Without labels, no model of the anomalies' scores is needed. With F and F0 the shares of rows X and of
        normal rows below a threshold, and a prior q, anomalies caught are F - (1 - q) F0 of all rows. So the
        expected cost of a row is q miss - miss F + (miss + false_alarm) (1 - q) F0, in which F is counted
        among X and F0 among the n rows held out of the fit. Normal rows of X have to be like those, and costs
        are known to about (miss + false_alarm) sqrt(F0 / n) only: where one mistake costs many times the
        other, give labels.
        """
        self._check("score")
        asked = {
            "false_alarm_rate": false_alarm_rate,
            "contamination": contamination,
            "budget": budget,
            "cost": cost,
        }
        given = [name for name, value in asked.items() if value is not None]
        if len(given) != 1:
            what = "none" if not given else " and ".join(given)
            raise ValueError(f"set_threshold takes one of {', '.join(asked)}, got {what}.")
        (rule,) = given
        extras = {"X": X, "y": y, "per": per, "prior": prior}
        for name, value in extras.items():
            if value is not None and name not in _TAKES[rule]:
                raise ValueError(f"{name} is of no use to {rule}: leave it out.")
        scores = None if X is None else self._scores_of(X)
        if false_alarm_rate is not None:
            offset = self.calibration_.threshold(false_alarm_rate)
        elif budget is not None:
            offset = self._by_budget(budget, per, scores)
        elif scores is None:
            raise ValueError(f"{rule} is about rows: give them as X.")
        elif contamination is not None:
            offset = by_contamination(scores, contamination)
        else:
            offset = self._by_cost(cost, prior, scores, y)
        self.offset_ = offset
        return self

    def _scores_of(self, X: Any) -> NDArray[np.float64]:
        if isinstance(X, Iterator):
            return np.concatenate([*self.score_samples(X)])
        return self.score_samples(X)

    def _by_budget(self, budget: int, per: int | None, scores: NDArray[np.float64] | None) -> float:
        Range(0, math.inf, whole=True).check("budget", budget)
        if per is not None:
            Range(1, math.inf, whole=True).check("per", per)
            if budget >= per:
                raise ValueError(f"budget must be less than per, got {budget} of {per}.")
        if scores is not None:
            return by_budget(scores, budget if per is None else budget * len(scores) // per)
        if per is None:
            raise ValueError("budget is about rows: give them as X, or say in how many rows (per=).")
        if not budget:
            raise ValueError("budget must be at least 1 without X, got 0: no threshold is never crossed.")
        return self.calibration_.threshold(budget / per)

    def _by_cost(self, cost: Any, prior: float | None, scores: NDArray[np.float64], y: Any) -> float:
        if not (isinstance(cost, tuple | list) and len(cost) == 2):
            raise ValueError(f"cost must be two numbers, of a miss and of a false alarm, got {cost!r}.")
        for name, value in zip(("cost of a miss", "cost of a false alarm"), cost, strict=True):
            if not Range(0, math.inf).holds(value) or not value:
                raise ValueError(f"the {name} must be a number above 0, got {value!r}.")
        if prior is not None and not (Range(0, 1).holds(prior) and 0 < prior < 1):
            raise ValueError(f"prior must lie in (0, 1), got {prior!r}.")
        miss, false_alarm = map(float, cost)
        if y is not None:
            return by_labels(scores, y, miss, false_alarm, prior)
        return by_mixture(scores, self.calibration_, miss, false_alarm, prior)


_TAKES = {
    "false_alarm_rate": (),
    "contamination": ("X",),
    "budget": ("X", "per"),
    "cost": ("X", "y", "prior"),
}


def by_contamination(scores: NDArray[np.float64], share: float) -> float:
    """The percentile below which a share of the scores lies."""
    if not (Range(0, 0.5).holds(share) and share > 0):
        raise ValueError(f"contamination must lie in (0, 0.5], got {share!r}.")
    return float(np.percentile(scores, 100.0 * float(share)))


def by_budget(scores: NDArray[np.float64], most: int) -> float:
    """The highest threshold below which at most so many of the scores lie."""
    if most >= scores.size:
        return float(np.nextafter(scores.max(), np.inf))
    return float(np.partition(scores, most)[most])


def by_labels(
    scores: NDArray[np.float64], y: ArrayLike, miss: float, false_alarm: float, prior: float | None
) -> float:
    """The threshold of least cost on labelled rows."""
    labels = np.asarray(y).ravel()
    if labels.size != scores.size or not np.isin(labels, (-1, 1)).all():
        raise ValueError("y must hold 1 (normal) or -1 (anomaly) for each row of X.")
    odd, normal = np.sort(scores[labels == -1]), np.sort(scores[labels == 1])
    if not (odd.size and normal.size):
        raise ValueError("y must hold both normal rows (1) and anomalies (-1), got one kind.")
    share = odd.size / labels.size if prior is None else prior
    places = candidates(scores)
    missed = 1 - np.searchsorted(odd, places) / odd.size
    alarmed = np.searchsorted(normal, places) / normal.size
    return _cheapest(places, share * miss * missed + (1 - share) * false_alarm * alarmed)


def by_mixture(
    scores: NDArray[np.float64], normal: Calibration, miss: float, false_alarm: float, prior: float | None
) -> float:
    """The threshold of least cost on rows without labels, beside normal ones."""
    p = normal.p_values(scores)
    if prior is None:
        prior = float(np.clip(1 - (np.sum(p > LAMBDA) + 1) / ((1 - LAMBDA) * p.size), 0.0, 1.0))
    places = candidates(scores)
    below = np.searchsorted(np.sort(scores), places) / scores.size
    # The p-value of the score just below a place: the share of normal rows there, rather too high.
    alarmed = np.append(0.0, np.sort(p))[np.searchsorted(np.sort(scores), places)]
    return _cheapest(places, (miss + false_alarm) * (1 - prior) * alarmed - miss * below)


def candidates(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Thresholds that part the scores in all ways, halfway between neighbours."""
    values = np.unique(scores)
    middles = values[:-1] + np.diff(values) / 2
    ends = np.nextafter(values[0], -np.inf), np.nextafter(values[-1], np.inf)
    # Between two neighbouring floats the middle may be the lower one, below which that one would not lie.
    return np.concatenate([ends[:1], np.maximum(middles, np.nextafter(values[:-1], np.inf)), ends[1:]])


def _cheapest(places: NDArray[np.float64], costs: NDArray[np.float64]) -> float:
    """Of equal costs, that with the fewest alerts."""
    return float(places[np.argmin(costs)])
