"""scikit-learn: what is missing filled in as a step of a pipeline.

The estimators are scikit-learn's outlier detectors as they are, and need no module.
"""

from __future__ import annotations

from typing import Any, Self

from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from lookalike import noise
from lookalike.candidates import learned
from lookalike.families import Diffusion
from lookalike.frames import name_columns
from lookalike.parameters import Range


class Imputer(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Fill in missing values of any column by what a generator expects given the rest of the row.

    Parameters
    ----------
    generator : estimator, optional
        What imputes, not fitted; by default a `Diffusion`, which fills holes best; a `Mixture` is
        sooner done.
    n_draws : int
        Draws of which one table is made: means of numbers, and the levels that most draws hold. With 1 a
        value is one draw: as varied as what was lost, and further from it.
    random_state : int, Generator, RandomState or None
        Equal seeds give equal models and values. What fills a hole depends on the seed, its row and the
        number of that row in its table.

    Attributes
    ----------
    generator_ : estimator
        The fitted one.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the columns, where they have names.

    Examples
    --------
    >>> import numpy as np
    >>> import lookalike as la
    >>> X = np.random.default_rng(0).normal(size=(100, 2))
    >>> X[::3, 1] = np.nan
    >>> filled = Imputer(la.Mixture(), random_state=0).fit_transform(X)
    >>> int(np.isnan(filled).sum()), bool((filled[1::3] == X[1::3]).all())
    (0, True)
    """

    def __init__(
        self, generator: Any = None, *, n_draws: int = 20, random_state: noise.RandomState = None
    ) -> None:
        self.generator = generator
        self.n_draws = n_draws
        self.random_state = random_state

    def fit(self, X: Any, y: object = None) -> Self:
        """Fit the generator.

        Parameters
        ----------
        X : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
            As of the generator; rows with missing values are learned from too.
        y : object
            Ignored, for scikit-learn's sake.

        Returns
        -------
        self

        Raises
        ------
        SchemaError
            If the rows cannot be learned from: which column, and why.
        ValueError
            If the generator does not impute, or `n_draws` is no number of draws.
        """
        Range(1, 1000, whole=True).check("n_draws", self.n_draws)
        generator = Diffusion() if self.generator is None else self.generator
        if not hasattr(generator, "impute"):
            raise ValueError(
                f"generator must be an estimator that imputes, such as la.Diffusion(), got {generator!r}."
            )
        seed = noise.seed_from(self.random_state)
        self.generator_, self.seed_ = learned(generator, X, seed), seed
        name_columns(self, X)
        return self

    def transform(self, X: Any) -> Any:
        """Return the table with its missing values filled in, and else as it is.

        Raises
        ------
        SchemaError
            If the columns are not those of `fit`.
        """
        check_is_fitted(self)
        return self.generator_.impute(X, self.n_draws, self.seed_, combine=self.n_draws > 1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = tags.input_tags.string = tags.input_tags.categorical = True
        return tags
