"""PyOD both ways: its detectors with scikit-learn's interface, and outlier detectors of that with its own.

To scikit-learn higher scores are more normal and anomalies are -1; to PyOD higher scores are odder and
anomalies are 1. This module does not import PyOD until `as_pyod` is called: a detector is used through its
methods, and was imported to be made.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

from lookalike.errors import require


def from_pyod(detector: Any) -> PyOD:
    """A detector of PyOD as scikit-learn has outlier detectors.

    Parameters
    ----------
    detector : pyod.models.base.BaseDetector
        One that is fitted scores at once, as it was fitted; one that is not is fitted by `fit`, as a clone.

    Returns
    -------
    PyOD

    Raises
    ------
    TypeError
        If the detector is none of PyOD's.
    """
    _check_detector(detector)
    model = PyOD(detector)
    if hasattr(detector, "decision_scores_"):
        model._take(detector)
    return model


def as_pyod(estimator: Any, contamination: float = 0.1) -> Any:
    """An outlier detector of scikit-learn's kind, such as ours, as a detector of PyOD.

    Parameters
    ----------
    estimator : estimator with `fit` and `score_samples`
        It is cloned and fitted by `fit`.
    contamination : float
        As PyOD has it: the share of the rows fitted whose scores are above `threshold_`, in (0, 0.5].

    Returns
    -------
    pyod.models.base.BaseDetector
        With all that PyOD's detectors have: `decision_function`, `decision_scores_`, `labels_`, `threshold_`,
        `predict`, `predict_proba` and more.

    Raises
    ------
    TypeError
        If the estimator is not of this kind.
    MissingExtraError
        If PyOD is not installed.
    """
    if isinstance(estimator, type):
        raise TypeError(
            f"estimator is the class {estimator.__name__}. Give an instance: as_pyod({estimator.__name__}())."
        )
    if not hasattr(estimator, "fit") or not hasattr(estimator, "score_samples"):
        raise TypeError(
            f"estimator must have fit and score_samples, higher for more normal rows, got {estimator!r}."
        )
    require("pyod", "pyod", "as_pyod")
    from lookalike.integrations.pyod_detector import Lookalike

    return Lookalike(estimator, contamination)


class PyOD(OutlierMixin, BaseEstimator):
    """Turn a detector of PyOD around, so that it fits into ensembles, pipelines and searches.

    Parameters
    ----------
    detector : pyod.models.base.BaseDetector
        It is cloned. Its `contamination` is the share of the fitted rows that `predict` calls anomalies.

    Attributes
    ----------
    detector_ : pyod.models.base.BaseDetector
        The fitted one.
    offset_ : float
        Scores below are anomalies: minus PyOD's threshold.
    n_features_in_ : int
        Columns of the table fitted.

    References
    ----------
    Y. Zhao, Z. Nasrullah, Z. Li. PyOD: A Python Toolbox for Scalable Outlier Detection. Journal of Machine
    Learning Research 20(96), 2019.

    Examples
    --------
    ::

        from pyod.models.ecod import ECOD

        model = la.Ensemble([PyOD(ECOD()), la.Diffusion()], random_state=0).fit(X)
    """

    def __init__(self, detector: Any) -> None:
        self.detector = detector

    def fit(self, X: Any, y: object = None) -> Self:
        """Fit a clone of the detector.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n_rows, n_columns)
            Finite numbers.
        y : object
            Ignored, for scikit-learn's sake.

        Returns
        -------
        self

        Raises
        ------
        TypeError
            If the detector is none of PyOD's.
        """
        _check_detector(self.detector)
        rows = validate_data(self, X, dtype=np.float64)
        detector = clone(self.detector)
        detector.fit(rows)
        if not hasattr(detector, "decision_scores_"):
            raise TypeError(
                f"{type(detector).__name__} is no detector of PyOD: its fit leaves no decision_scores_, so "
                "the sign of its scores is not known."
            )
        self._take(detector)
        return self

    def _take(self, detector: Any) -> None:
        self.detector_, self.offset_ = detector, -float(detector.threshold_)

    def score_samples(self, X: Any) -> NDArray[np.float64]:
        """Return minus PyOD's `decision_function`: higher is more normal; shape (n_rows,)."""
        check_is_fitted(self)
        rows = validate_data(self, X, dtype=np.float64, reset=False)
        return -np.asarray(self.detector_.decision_function(rows), dtype=np.float64).reshape(-1)

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Return `score_samples(X) - offset_`, negative for anomalies; shape (n_rows,)."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return 1 for rows that look normal and -1 for anomalies, shape (n_rows,)."""
        return np.where(self.decision_function(X) < 0, -1, 1)


def _check_detector(detector: Any) -> None:
    kind = detector.__name__ if isinstance(detector, type) else type(detector).__name__
    if isinstance(detector, type):
        raise TypeError(f"detector is the class {kind}. Give an instance: PyOD({kind}()).")
    lacks = [verb for verb in ("fit", "decision_function", "get_params") if not hasattr(detector, verb)]
    if lacks:
        raise TypeError(f"{kind} is no detector of PyOD: it has no {' and no '.join(lacks)}.")
    if hasattr(detector, "score_samples"):
        raise TypeError(
            f"{kind} is no detector of PyOD: it has score_samples, higher for more normal rows. Use it "
            "as it is."
        )
