"""What `lookalike.integrations.pyod.as_pyod` makes: a module of its own, as it has to import PyOD."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted

from lookalike.errors import require

BaseDetector: Any = require("pyod.models.base", "pyod", "a detector of PyOD").BaseDetector


class Lookalike(BaseDetector):
    """An outlier detector of scikit-learn's kind, turned around to be one of PyOD's.

    Parameters
    ----------
    estimator, contamination
        As of `as_pyod`.

    Attributes
    ----------
    estimator_ : estimator
        The fitted one.
    decision_scores_ : ndarray of shape (n_rows,), float64
        Of the rows fitted; higher is odder.
    threshold_ : float
        Scores above are outliers.
    labels_ : ndarray of shape (n_rows,)
        Of the rows fitted: 1 for outliers, and 0.
    """

    def __init__(self, estimator: Any, contamination: float = 0.1) -> None:
        super().__init__(contamination=contamination)
        self.estimator = estimator

    def fit(self, X: Any, y: object = None) -> Self:
        """Fit a clone of the estimator to a table of any kind that it takes; y is ignored, as PyOD has it."""
        self._set_n_classes(y)
        self.estimator_ = clone(self.estimator).fit(X)
        self.decision_scores_ = self._scores(X)
        self._process_decision_scores()
        return self

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return minus the estimator's `score_samples`: higher is odder; shape (n_rows,)."""
        check_is_fitted(self)
        return self._scores(X)

    def _scores(self, X: Any) -> NDArray[np.float64]:
        return -np.asarray(self.estimator_.score_samples(X), dtype=np.float64)
