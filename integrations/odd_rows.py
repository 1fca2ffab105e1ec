"""`FewOdd`: what checks of data quality ask of a table, whichever system asks it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.integrations.scorer import P, Scorer
from lookalike.parameters import Range

ALPHA = 0.01


class FewOdd:
    """Whether at most a share of the rows of a table have a p-value of `alpha` or less.

    Parameters
    ----------
    model, **options
        As of `Scorer`.
    at_most : float
        The share, in [0, 1]. Of normal rows about `alpha` have such a p-value, so it should be above that.
    alpha : float
        From 0 to 1.

    Raises
    ------
    ValueError
        If one is out of its range, or `alpha` is below every p-value that the model can give: no row would
        ever be odd.
    """

    def __init__(self, model: Any, at_most: float, alpha: float = ALPHA, **options: Any) -> None:
        Range(0, 1).check("at_most", at_most)
        Range(0, 1).check("alpha", alpha)
        self.at_most, self.alpha = at_most, alpha
        self.scorer = Scorer(model, columns=[P], **options)
        n = self.scorer.model.calibration_.scores.size
        if 1 / (n + 1) > alpha:
            raise ValueError(
                f"alpha is {alpha:g}, and no p-value of this model is below {1 / (n + 1):.2g}, as it was "
                f"calibrated on {n} rows. Take a larger alpha, or fit on more rows."
            )

    def odd(self, rows: Any) -> NDArray[np.bool_]:
        """Which rows are odd, (n_rows,), of a table as `Scorer.added` takes them."""
        p_values = self.scorer.added(rows)[self.scorer.prefix + P]
        return np.asarray(p_values) <= self.alpha

    def holds(self, odd: NDArray[np.bool_]) -> bool:
        """Whether few enough of them are; of a table without rows it is so."""
        return not len(odd) or bool(odd.mean() <= self.at_most)
