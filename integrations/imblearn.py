"""imbalanced-learn: a sampler that adds generated rows of rare classes, as SMOTE does between neighbours.

`la.Augmenter` is a sampler too: it adds rows only where cross-validation finds that they help.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from imblearn.over_sampling.base import BaseOverSampler
from imblearn.utils import check_sampling_strategy, check_target_type
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets

from lookalike import noise
from lookalike.augmenting import generator_or_default, renumbered
from lookalike.candidates import Target, Training
from lookalike.errors import SchemaError
from lookalike.frames import name_columns
from lookalike.streaming import indexable, n_rows, taken


class Generated(BaseOverSampler):
    """Over-sample by rows that a generator draws, given their class.

    The generator is fitted to all rows with the class as one more column, so that what classes have in common
    is learned from all of them. Unlike SMOTE it takes text, dates and missing values as they are.

    Parameters
    ----------
    generator : estimator, optional
        What generates, not fitted; by default a `Synthesizer`.
    sampling_strategy : float, str, dict or callable
        How many rows of which classes there are to be, as of imbalanced-learn's over-samplers: "auto" makes
        all classes as large as the largest, a number the rarer of two classes so many times as large.
    random_state : int, Generator, RandomState or None
        Equal seeds give equal rows, unless the generator has a seed of its own.

    Attributes
    ----------
    sampling_strategy_ : dict
        Rows to add of each class.

    Examples
    --------
    >>> import numpy as np
    >>> import lookalike as la
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> new_X, new_y = Generated(la.Mixture(), random_state=0).fit_resample(X, X[:, 0] > 1)
    >>> np.bincount(new_y).tolist()
    [86, 86]
    """

    def __init__(
        self,
        generator: Any = None,
        *,
        sampling_strategy: Any = "auto",
        random_state: noise.RandomState = None,
    ) -> None:
        super().__init__(sampling_strategy=sampling_strategy)
        self.generator = generator
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> Self:
        """Check the rows and count those to add, as imbalanced-learn has it; `fit_resample` adds them."""
        self._checked(X, y)
        return self

    def fit_resample(self, X: Any, y: Any) -> tuple[Any, Any]:
        """Add generated rows.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table, ndarray or list of shape (n_rows, n_columns)
        y : array-like of shape (n_rows,)
            Classes; one column of 0 and 1 for each class will do too.

        Returns
        -------
        X : table like the one given
            The real rows first.
        y : like the one given

        Raises
        ------
        SchemaError
            If the rows cannot be learned from: which column, and why.
        ValueError
            If y is not of classes, or the strategy does not fit them.
        """
        classes = self._checked(X, y)
        rows, new_classes = self._fit_resample(indexable(X), classes)
        # A label is told by the first row that had it, in whatever form it came.
        labels, first = np.unique(classes, return_index=True)
        index = np.r_[np.arange(len(classes)), first[np.searchsorted(labels, new_classes[len(classes) :])]]
        return rows.tolist() if isinstance(X, list) else rows, renumbered(taken(y, index))

    def _fit_resample(self, X: Any, y: NDArray[Any]) -> tuple[Any, NDArray[Any]]:
        labels, codes = np.unique(y, return_inverse=True)
        target = Target(codes.astype(np.int64), labels)
        generator = generator_or_default(self.generator)
        training = Training(X, target, generator, None, noise.seed_from(self.random_state))
        counts = {int(np.searchsorted(labels, label)): n for label, n in self.sampling_strategy_.items()}
        made = training.with_more(counts)
        return renumbered(made.X), labels[made.y]

    def _checked(self, X: Any, y: Any) -> NDArray[Any]:
        """The class of each row, (n,), once rows and strategy are found to be fine."""
        given = np.asarray(y)
        check_classification_targets(given)
        classes: NDArray[Any] = check_target_type(given)
        X = indexable(X)
        if n_rows(X) != len(classes):
            raise SchemaError(f"y must have one value a row: X has {n_rows(X)} rows, y {len(classes)}.")
        name_columns(self, X)
        self.sampling_strategy_ = check_sampling_strategy(
            self.sampling_strategy, classes, self._sampling_type
        )
        return classes

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.input_tags.string = tags.input_tags.allow_nan = True
        return tags
