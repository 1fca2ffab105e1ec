"""Polars: frames and lazy scans with scores added, an expression, and the namespace ``lookalike``.

Importing this module registers the namespace.

Examples
--------
>>> import lookalike.integrations.polars  # doctest: +SKIP
>>> pl.scan_parquet("orders/*.parquet").lookalike.score("orders.onnx").sink_parquet("scored.parquet")
... # doctest: +SKIP
"""

from __future__ import annotations

from typing import Any

import polars as pl

from lookalike.integrations.scorer import Scorer, scorer_of

TYPES: dict[str, Any] = {"number": pl.Float64, "truth": pl.Boolean, "text": pl.String}


def score(frame: pl.DataFrame | pl.LazyFrame, model: Any, **options: Any) -> Any:
    """Add to a frame what a model says of its rows.

    Parameters
    ----------
    frame : polars.DataFrame or LazyFrame
        A lazy one stays so: rows are scored as they stream by, in constant memory.
    model, **options
        As of `Scorer`, or a `Scorer`.

    Returns
    -------
    polars.DataFrame or LazyFrame

    Raises
    ------
    SchemaError
        If a column is missing, or of the name of one that is added; where a lazy frame is collected, if a
        value does not fit.
    """
    scorer = scorer_of(model, options)
    if isinstance(frame, pl.DataFrame):
        return scorer(frame)
    schema = frame.collect_schema()
    scorer.check_names(schema.names())
    scorer.added(schema.to_frame())  # a missing column is refused before it is read
    # Scores need the columns they are made of, and exist only behind this node: slices alone may pass it.
    return frame.map_batches(
        scorer,
        projection_pushdown=False,
        predicate_pushdown=False,
        slice_pushdown=True,
        schema=dict(schema) | _types(scorer),
        streamable=True,
    )


def expression(model: Any, **options: Any) -> pl.Expr:
    """What a model says of each row, as an expression.

    Parameters
    ----------
    model, **options
        As of `Scorer`, or a `Scorer`.

    Returns
    -------
    polars.Expr
        A struct of what is added; take ``.struct.field("p_value")`` of it, or ``.struct.unnest()``.
    """
    scorer = scorer_of(model, options)
    types = _types(scorer)

    def added(rows: pl.Series) -> pl.Series:
        return pl.DataFrame(scorer.added(rows.struct.unnest()), schema=types).to_struct("lookalike")

    columns = pl.struct(scorer.modelled)
    return columns.map_batches(added, return_dtype=pl.Struct(types), is_elementwise=True).alias("lookalike")


def _types(scorer: Scorer) -> dict[str, Any]:
    return {name: TYPES[kind] for name, kind in scorer.kinds.items()}


@pl.api.register_lazyframe_namespace("lookalike")
@pl.api.register_dataframe_namespace("lookalike")
class Namespace:
    """``frame.lookalike``: the functions of this module as methods of frames."""

    def __init__(self, frame: Any) -> None:
        self._frame = frame

    def score(self, model: Any, **options: Any) -> Any:
        """As `score` of this module."""
        return score(self._frame, model, **options)
