"""Record batches scored and generated as they pass: what speaks Arrow's streams speaks to lookalike.

Examples
--------
>>> from lookalike.integrations import arrow
>>> reader = arrow.score(pyarrow.dataset.dataset("orders/"), "orders.onnx")  # doctest: +SKIP
>>> pyarrow.dataset.write_dataset(reader, "scored/", format="parquet")  # doctest: +SKIP
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

from lookalike import noise
from lookalike.columns import Ignored
from lookalike.integrations.scorer import scorer_of
from lookalike.parquet import as_arrow

ROWS = 65_536  # of a batch


def score(source: Any, model: Any, **options: Any) -> pa.RecordBatchReader:
    """Add what a model says to batches as they are read, in constant memory.

    Parameters
    ----------
    source : Table, RecordBatchReader, Dataset, Scanner, or what has __arrow_c_stream__
        Such as a relation of DuckDB, or an iterator of record batches, of which at least one comes.
    model, **options
        As of `Scorer`, or a `Scorer`.

    Returns
    -------
    RecordBatchReader
        Batches as they came, and columns added. DuckDB, polars, pandas and pyarrow read it.

    Raises
    ------
    SchemaError
        At once, if a column is missing or of a name that is added; while it is read, if a column is of
        another type or a row cannot be scored: which.
    """
    scorer, reader = scorer_of(model, options), opened(source)
    schema = scorer.schema(reader.schema)
    scorer.added(reader.schema.empty_table())  # a missing column is refused before it is read
    return pa.RecordBatchReader.from_batches(schema, scorer.each(b for b in reader if b.num_rows))


def opened(source: Any) -> pa.RecordBatchReader:
    """The batches of what holds or gives some."""
    if isinstance(source, pa.RecordBatchReader):
        return source
    if hasattr(source, "scanner"):  # a dataset
        source = source.scanner(batch_size=ROWS)
    if hasattr(source, "to_reader"):
        return source.to_reader()
    if hasattr(source, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(source)
    if not isinstance(source, Iterable):
        raise TypeError(f"source must give record batches, got {type(source).__name__}.")
    batches = iter(source)
    first = next(batches, None)
    if first is None:
        raise ValueError("source gave no batch, so its columns are not known: give a RecordBatchReader.")
    return pa.RecordBatchReader.from_batches(first.schema, itertools.chain([first], batches))


def generate(
    model: Any,
    n: int,
    *,
    chunk: int = ROWS,
    given: Any = None,
    random_state: noise.RandomState = None,
    start: int = 0,
) -> pa.RecordBatchReader:
    """Draw new rows as they are asked for, in constant memory.

    Parameters
    ----------
    model : model
        Fitted, or opened by `runtime.load`.
    n, chunk, given, random_state, start
        As of its `generate_batches`.

    Returns
    -------
    RecordBatchReader
    """
    names = [str(column.name) for column in model.schema_.columns if not isinstance(column, Ignored)]
    schema = as_arrow(model.schema_.example(), names).schema

    def batches() -> Iterator[pa.RecordBatch]:
        tables = model.generate_batches(n, chunk, given, random_state, start=start)
        for table in tables:
            yield from as_arrow(table, names).cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())
