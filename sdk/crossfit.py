"""Every row scored by a model that has not seen it, and p-values from all rows at once.

Split-conformal p-values come from rows that the model may not learn from; of a small table those are few, and
no p-value is below 1 / (n + 1). Here each of several models leaves out a fold, and all rows calibrate.

References
----------
V. Vovk. Cross-conformal Predictors. Annals of Mathematics and Artificial Intelligence 74, 2015 (the pooled
p-value).
R. Barber, E. Candes, A. Ramdas, R. Tibshirani. Predictive Inference with the Jackknife+. Annals of Statistics
49(1), 2021 (CV+, and why twice the level is what can be proven).
V. Vovk, R. Wang. Combining p-values via Averaging. Biometrika 107(4), 2020 (twice a mean of p-values is one).
M. Gasparin, A. Ramdas. Improving the Statistical Efficiency of Cross-conformal Prediction. ICML 2025,
arXiv:2503.01495 (the bounds of both, as given below).
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from lookalike import noise
from lookalike.calibration import FALSE_ALARM_RATE, Calibration
from lookalike.errors import SchemaError
from lookalike.parameters import Range
from lookalike.streaming import indexable, n_rows, streamed, taken
from lookalike.thresholds import Thresholded, by_contamination


class CrossConformal(Thresholded, OutlierMixin, BaseEstimator):
    """Fit an estimator once without each fold; score new rows by all, and fitted rows as if unseen.

    For small tables, where few rows can be spared for calibration, and for tables whose own rows are to be
    judged. Fitting and scoring cost `n_folds` times as much.

    Parameters
    ----------
    estimator : object
        With `fit` and `score_samples` (higher is more normal), ours or scikit-learn's. It is cloned.
    n_folds : int
        At least 2, at most the number of rows.
    contamination : float in (0, 0.5] or "auto"
        Share of the fitted rows that `predict` calls anomalies, by their scores as unseen rows. "auto" sets
        the threshold for a false alarm rate of 5 %; `set_threshold` sets others.
    random_state : int, Generator, RandomState or None
        Deals the rows into folds. The estimator has its own.

    Attributes
    ----------
    estimators_ : list of estimators
        The k-th has not seen fold k.
    folds_ : ndarray of shape (n_rows,), int64
        The fold of each fitted row.
    out_of_fold_scores_ : ndarray of shape (n_rows,), float64
        Scores of the fitted rows, each by the model that has not seen it; on the scale of `score_samples`.
    calibration_ : Calibration
        Of those scores.
    offset_ : float
        Scores below are anomalies.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.neighbors import LocalOutlierFactor
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = CrossConformal(LocalOutlierFactor(novelty=True), random_state=0).fit(X)
    >>> model.p_values([[0.0, 0.0], [5.0, 5.0]]).round(3).tolist()
    [0.662, 0.005]
    """

    def __init__(
        self,
        estimator: Any,
        *,
        n_folds: int = 5,
        contamination: Any = "auto",
        random_state: noise.RandomState = None,
    ) -> None:
        self.estimator = estimator
        self.n_folds = n_folds
        self.contamination = contamination
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:
        """Fit one clone without each fold.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
        y : object
            Ignored, for scikit-learn's sake.

        Returns
        -------
        self
        """
        Range(2, np.inf, whole=True).check("n_folds", self.n_folds)
        rows = indexable(X)
        n = n_rows(rows)
        if n < self.n_folds:
            raise SchemaError(f"fit needs at least n_folds={self.n_folds} rows, got n_samples = {n}.")
        folds = noise.folds(noise.seed_from(self.random_state), n, self.n_folds)
        self.estimators_, self._raw, self._scales = [], [], []
        scores = np.empty(n)
        for k in range(self.n_folds):
            model = clone(self.estimator).fit(taken(rows, np.flatnonzero(folds != k)))
            left_out = np.flatnonzero(folds == k)
            raw = np.asarray(model.score_samples(taken(rows, left_out)), dtype=np.float64)
            self.estimators_.append(model)
            self._raw.append(Calibration(raw))
            self._scales.append(_scale(raw))
            scores[left_out] = self._standard(k, raw)
        self.folds_, self.out_of_fold_scores_ = folds, scores
        self.calibration_ = Calibration(scores)
        if isinstance(self.contamination, str) and self.contamination == "auto":
            self.offset_ = self.calibration_.threshold(FALSE_ALARM_RATE)
        else:
            self.offset_ = by_contamination(scores, self.contamination)
        for name in ("n_features_in_", "feature_names_in_"):
            self.__dict__.pop(name, None)
            if hasattr(self.estimators_[0], name):
                setattr(self, name, getattr(self.estimators_[0], name))
        return self

    def fit_predict(self, X: Any, y: object = None) -> NDArray[np.int64]:
        """Fit, and predict the rows fitted as if unseen; shape (n_rows,)."""
        self.fit(X)
        return np.where(self.out_of_fold_scores_ < self.offset_, -1, 1)

    @streamed
    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Score rows by the mean of the models' scores.

        Each model's scores are centred and divided by their spread (median and interquartile range) on the
        fold that it has not seen, so that none outweighs the others.

        Returns
        -------
        ndarray of shape (n_rows,), float64
            Higher is more normal; 0 is usual.
        """
        return np.mean([self._standard(k, raw) for k, raw in enumerate(self._scores(X))], axis=0)

    @streamed
    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return 1 for rows that look normal and -1 for anomalies, shape (n_rows,).

        The mean over models strays less than the score of one, of which the threshold is a quantile: of
        normal rows somewhat fewer than asked for are called anomalies.
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    @streamed
    def p_values(self, X: Any, guaranteed: bool = False) -> NDArray[np.float64]:
        """Return the share of fitted rows that are at least as odd as each row, shape (n_rows,).

        Cross-conformal: each model compares the row with the fold that it has not seen, and the counts are
        added up, (1 + their sum) / (n + 1).

        Parameters
        ----------
        X : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
        guaranteed : bool
            Return twice the mean of the models' own p-values instead, at most 1.

        Notes
        -----
        A normal row has a guaranteed p-value of at most a with probability at most a, always. Of the others
        that is measured and not proven: what is proven is 2 a + 2 (1 - a) (K - 1) / (n + K) for K folds of n
        rows (Gasparin and Ramdas 2025), and only fits that one row changes altogether come near it.
        """
        found = self._scores(X)
        p = np.array([normal.p_values(raw) for normal, raw in zip(self._raw, found, strict=True)])
        if guaranteed:
            return np.minimum(1.0, 2 * p.mean(0))
        sizes = np.array([[normal.scores.size] for normal in self._raw])
        return ((p * (sizes + 1) - 1).sum(0) + 1) / (sizes.sum() + 1)

    def _check(self, task: str) -> None:
        check_is_fitted(self)

    def _scores(self, X: Any) -> list[NDArray[np.float64]]:
        """What each model says."""
        check_is_fitted(self)
        return [np.asarray(model.score_samples(X), dtype=np.float64) for model in self.estimators_]

    def _standard(self, k: int, raw: NDArray[np.float64]) -> NDArray[np.float64]:
        middle, spread = self._scales[k]
        return (raw - middle) / spread

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        if hasattr(self.estimator, "__sklearn_tags__"):
            tags.input_tags = get_tags(self.estimator).input_tags
        return tags


def _scale(raw: NDArray[np.float64]) -> tuple[float, float]:
    """Median and interquartile range; 1 where there is no spread."""
    low, middle, high = np.percentile(raw, (25, 50, 75))
    return float(middle), float(high - low) or float(raw.std()) or 1.0
