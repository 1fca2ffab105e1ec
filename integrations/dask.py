"""Dask: partitions scored where they are, by workers that need no torch."""

from __future__ import annotations

from typing import Any

import dask.dataframe as dd

from lookalike.integrations.scorer import scorer_of


def score(frame: dd.DataFrame, model: Any, **options: Any) -> dd.DataFrame:
    """Add to each partition what a model says of its rows.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    model, **options
        As of `Scorer`, or a `Scorer`. What reaches the workers is the exported file.

    Returns
    -------
    dask.dataframe.DataFrame
        Lazy, with partitions and index as they were.

    Raises
    ------
    SchemaError
        If a column is missing, or of the name of one that is added; when it is computed, if a value does not
        fit.
    """
    scorer = scorer_of(model, options)
    return frame.map_partitions(scorer, meta=scorer(frame._meta))
