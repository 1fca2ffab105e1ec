"""PyOD's IForest over the numbers of a Parquet file, some rows at a time: what `many_rows.py` stands beside.

python benchmarks/iforest_rows.py rows.parquet scored.parquet
"""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyod.models.iforest import IForest

BATCH, FITTED = 65_536, 40_000


def numbers(batch: pa.RecordBatch) -> np.ndarray:
    """Numbers and times of day as columns of floats; missing ones are zeros, for IForest takes none."""
    columns = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if pa.types.is_duration(field.type):
            column = column.cast(pa.int64())
        if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
            columns.append(column.cast(pa.float64()).fill_null(0).to_numpy(zero_copy_only=False))
    return np.nan_to_num(np.column_stack(columns))


def main() -> None:
    source, target = sys.argv[1:]
    file = pq.ParquetFile(source)
    first = next(file.iter_batches(FITTED))
    model = IForest(random_state=0).fit(numbers(first))
    schema = file.schema_arrow.append(pa.field("anomaly_score", pa.float64()))
    with pq.ParquetWriter(target, schema) as writer:
        for batch in file.iter_batches(BATCH):
            scores = model.decision_function(numbers(batch))
            writer.write_batch(batch.append_column("anomaly_score", pa.array(scores)))


if __name__ == "__main__":
    main()
