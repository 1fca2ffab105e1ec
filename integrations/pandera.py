"""pandera: a check that not too many rows of a table are odd."""

from __future__ import annotations

from typing import Any

from pandera.api.checks import Check

from lookalike.integrations.scorer import P, Scorer
from lookalike.parameters import Range


def few_odd(model: Any, at_most: float, alpha: float = 0.01, **options: Any) -> Check:
    """A check of whole tables: at most a share of the rows have a p-value of `alpha` or less.

    Parameters
    ----------
    model, **options
        As of `Scorer`.
    at_most : float
        The share, in [0, 1]. Of normal rows about `alpha` have such a p-value, so it should be above that.
    alpha : float
        From 0 to 1.

    Returns
    -------
    pandera.Check
        For ``checks=`` of a schema of pandas or polars. The rows that are odd are its failure cases.

    Examples
    --------
    ::

        import pandera.pandas as pa

        schema = pa.DataFrameSchema(checks=few_odd("orders.onnx", at_most=0.03))
        schema.validate(frame)  # raises SchemaError, of pandera, where more rows are odd
    """
    Range(0, 1).check("at_most", at_most)
    Range(0, 1).check("alpha", alpha)
    scorer = Scorer(model, columns=[P], **options)

    def check(data: Any) -> Any:
        if not hasattr(data, "lazyframe"):
            odd = scorer.added(data)[scorer.prefix + P] <= alpha
            return type(data.iloc[:, 0])(~odd | (odd.mean() <= at_most), index=data.index)
        import polars as pl

        frame = data.lazyframe.collect()
        odd = scorer.added(frame)[scorer.prefix + P] <= alpha
        return pl.LazyFrame({"few_odd": ~odd | (odd.mean() <= at_most)})

    return Check(
        check,
        name="few_odd",
        error=f"more than {at_most:.2%} of the rows have a p-value of {alpha:g} or less",
    )
