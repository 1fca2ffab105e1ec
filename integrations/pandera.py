"""pandera: a check that not too many rows of a table are odd."""

from __future__ import annotations

from typing import Any

from pandera.api.checks import Check

from lookalike.integrations.odd_rows import ALPHA, FewOdd


def few_odd(model: Any, at_most: float, alpha: float = ALPHA, **options: Any) -> Check:
    """A check of whole tables: at most a share of the rows have a p-value of `alpha` or less.

    Parameters
    ----------
    model, at_most, alpha, **options
        As of `FewOdd`.

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
    few = FewOdd(model, at_most, alpha, **options)

    def check(data: Any) -> Any:
        if not hasattr(data, "lazyframe"):
            odd = few.odd(data)
            return type(data.iloc[:, 0])(~odd | few.holds(odd), index=data.index)
        import polars as pl

        odd = few.odd(data.lazyframe.collect())
        return pl.LazyFrame({"few_odd": ~odd | few.holds(odd)})

    return Check(
        check,
        name="few_odd",
        error=f"more than {at_most:.2%} of the rows have a p-value of {alpha:g} or less",
    )
