"""Tables written to one Parquet file as they come, a row group each; the file appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from lookalike.archive import atomic_write
from lookalike.errors import require
from lookalike.values import Name

_EXTRA, _PURPOSE = "parquet", "writing Parquet files"


def write(
    path: str | os.PathLike[str],
    tables: Iterable[Any],
    names: Sequence[Name],
    like: Any,
    n: int,
    progress: bool,
) -> Path:
    """Write tables of one kind below each other.

    Parameters
    ----------
    path : str or PathLike
    tables : iterable of DataFrame, pyarrow.Table, ndarray or dict
    names : sequence
        Of the columns; an array has none.
    like : table of the same kind
        One that shows what each column may hold: it decides the types, which a table of few rows or without a
        value might not tell.
    n : int
        Rows in all, for the bar.
    progress : bool
        Whether to show it.

    Returns
    -------
    Path

    Raises
    ------
    MissingExtraError
        Without pyarrow or tqdm.
    """
    pq, bars = require("pyarrow.parquet", _EXTRA, _PURPOSE), require("tqdm", _EXTRA, _PURPOSE)
    schema = as_arrow(like, names).schema
    with (
        atomic_write(path) as file,
        pq.ParquetWriter(file, schema) as writer,
        bars.tqdm(total=n, disable=not progress, unit="row", unit_scale=True) as bar,
    ):
        for table in tables:
            rows = as_arrow(table, names).cast(schema)
            writer.write_table(rows, row_group_size=rows.num_rows)
            bar.update(rows.num_rows)
    return Path(path)


def as_arrow(table: Any, names: Sequence[Name]) -> Any:
    """A table as Arrow's."""
    if isinstance(table, np.ndarray | dict):
        columns = table.values() if isinstance(table, dict) else table.T
        return require("pyarrow", _EXTRA, _PURPOSE).table(list(columns), names=list(map(str, names)))
    return nw.from_native(table, eager_only=True).to_arrow()
