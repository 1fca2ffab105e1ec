"""scikit-learn's boosted trees on tables as they come: text, categories, times and missing values."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

from lookalike.schema import Schema

MOST_LEVELS = 254  # of a category, to boosting: rarer ones are pooled


class _Boosting(BaseEstimator):
    """What both share: columns as numbers and ids of levels."""

    _kind: ClassVar[Any]

    def __init__(self, *, random_state: int = 0) -> None:
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: NDArray[np.float64] | None = None) -> Self:
        """Learn the columns, then the trees.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
        y : array-like of shape (n_rows,)
        sample_weight : ndarray of shape (n_rows,), optional
        """
        self.schema_ = Schema.fit(X)
        numbers, levels = len(self.schema_.number_columns), len(self.schema_.category_columns)
        trees = self._kind(
            categorical_features=[False] * numbers + [True] * levels, random_state=self.random_state
        )
        self.model_ = trees.fit(self._features(X), y, sample_weight=sample_weight)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return what the trees say of each row, shape (n_rows,)."""
        said: NDArray[Any] = self.model_.predict(self._features(X))
        return said

    def _features(self, X: Any) -> NDArray[np.float64]:
        """Numbers beside ids, (n, n_features); NaN where missing."""
        table = self.schema_.encode(X, allow_missing=True)
        blank = [column.blank for column in self.schema_.category_columns]
        ids = np.where(table.ids == blank, np.nan, np.minimum(table.ids, MOST_LEVELS))
        return np.column_stack([table.numbers, ids])


class BoostingClassifier(ClassifierMixin, _Boosting):
    """`HistGradientBoostingClassifier` on tables as they come."""

    _kind = HistGradientBoostingClassifier

    @property
    def classes_(self) -> NDArray[Any]:
        """Labels, in the order of `predict_proba`."""
        classes: NDArray[Any] = self.model_.classes_
        return classes

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the probability of each class, shape (n_rows, n_classes)."""
        p: NDArray[np.float64] = self.model_.predict_proba(self._features(X))
        return p


class BoostingRegressor(RegressorMixin, _Boosting):
    """`HistGradientBoostingRegressor` on tables as they come."""

    _kind = HistGradientBoostingRegressor
