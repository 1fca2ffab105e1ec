"""Put drawn values into the holes of a table, and leave everything else as it is.

Each column with holes is read, filled and written back in its own dtype; the others are not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

from lookalike.arrays import pictures_of
from lookalike.frames import WRITERS, open_frame
from lookalike.schema import Schema, Table
from lookalike.values import NANOSECONDS, Array, Name, Storage, Values, label_array, to_objects

Holes = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Where numbers and where categories are missing: shapes (n, n_numbers) and (n, n_categories)."""


def fill(data: Any, schema: Schema, drawn: Table, holes: Holes) -> Any:
    """Fill the holes of a table.

    Parameters
    ----------
    data : DataFrame, pyarrow.Table or array-like of shape (n_rows, n_columns)
        A table that `schema` has encoded.
    schema : Schema
    drawn : Table
        Values for every row; those of the holes are used.
    holes : Holes
        Where to use them.

    Returns
    -------
    table like `data`
        With its index, dtypes, order and every column that is not modelled.
    """
    frame = open_frame(data)
    writer = WRITERS[frame.container]()
    position = {name: i for i, name in enumerate(frame.names)}
    by_name = frame.container != "numpy" and not position.keys().isdisjoint(schema.names)
    columns: dict[int, Any] = {}
    for image, part in schema.images:
        i = position[image.name]
        columns[i] = image.filled(pictures_of(frame, i), drawn.numbers[:, part], holes[0][:, part])
    for column, cells, hole in _columns(schema, drawn, holes):
        fresh = column.decode(cells)
        wanted = hole & ~fresh.missing  # a column without any value has none to give
        if wanted.any():
            i = position[column.name] if by_name else schema.names.index(column.name)
            values = frame.column(i)
            columns[i] = (
                writer.column(_merged(values, fresh, wanted))
                if values.family != "nothing"
                else _series(fresh, frame.container, schema.container)
            )
    return _WITH[frame.container](frame, columns)


def _columns(schema: Schema, drawn: Table, holes: Holes) -> Iterator[tuple[Any, Array, NDArray[np.bool_]]]:
    if not schema.images:
        yield from zip(schema.number_columns, drawn.numbers.T, holes[0].T, strict=True)
    yield from zip(schema.category_columns, drawn.ids.T, holes[1].T, strict=True)


def _merged(values: Values, fresh: Values, hole: NDArray[np.bool_]) -> Values:
    """The column with its holes filled, held as it was."""
    old, new = values.plain(), _converted(fresh, values.storage)
    if old.dtype.kind in "iu" and new.dtype != old.dtype:  # numpy would join int64 and uint64 to float64
        new = new.astype(old.dtype) if (new <= np.iinfo(old.dtype).max).all() else new
        old = old.astype(new.dtype)
    data, missing = np.where(hole, new, old), values.missing & ~hole
    storage, categories = values.storage, values.storage.categories
    if categories is None:
        return Values(values.name, storage, data, missing)
    added = tuple(level for level in dict.fromkeys(new[hole].tolist()) if level not in set(categories))
    labels = label_array(storage.family, categories + added)
    code_of = {label: code for code, label in enumerate(labels.tolist())}
    codes = np.array([code_of.get(label, 0) for label in data.tolist()], dtype=np.int64)
    return Values(values.name, replace(storage, categories=categories + added), codes, missing, labels)


def _converted(fresh: Values, storage: Storage) -> Array:
    """Drawn values as a column of this storage holds them."""
    data = fresh.plain()
    if storage.unit:
        mine, theirs = NANOSECONDS[fresh.storage.unit], NANOSECONDS[storage.unit]
        if mine < theirs:
            return data // (theirs // mine)
        most = (2**63 - 1) // (mine // theirs)  # the column's unit may not reach as far
        return np.clip(data, -most, most) * (mine // theirs)
    if storage.family == fresh.family:
        return data
    return _CONVERT[storage.family](data)


_CONVERT: dict[str, Callable[[Array], Array]] = {
    "float": lambda data: data.astype(np.float64),
    "integer": lambda data: np.rint(data.astype(np.float64)).astype(np.int64),
    "boolean": lambda data: data.astype(bool),
}


def _series(fresh: Values, container: str, fitted: str) -> Any:
    """A whole column that held nothing: in the dtype of fit, or what the container makes of the values."""
    if container == fitted:
        return WRITERS[container]().column(fresh)
    if container in ("numpy", "dict"):
        numbers = fresh.family in ("float", "integer")  # times are held as whole numbers, and are none
        return fresh.plain() if numbers else label_array("text", to_objects(fresh))
    backend: Any = container
    return nw.new_series(str(fresh.name), to_objects(fresh), backend=backend).to_native()


def _with_arrays(frame: Any, columns: dict[int, Array]) -> Array:
    dtype = np.result_type(frame.array.dtype, *columns.values()) if columns else frame.array.dtype
    array = frame.array.astype(dtype)
    for i, column in columns.items():
        array[:, i] = column
    return array


def _with_columns(frame: Any, columns: dict[int, Array]) -> dict[Name, Any]:
    filled = {i: column[0] if frame.is_row else column for i, column in columns.items()}
    return {name: filled.get(i, frame.columns[i]) for i, name in enumerate(frame.names)}


def _with_pandas(frame: Any, columns: dict[int, Any]) -> Any:
    table = frame.native.copy()
    for i, column in columns.items():
        table.isetitem(i, column.array)  # by position, and past the index, which may repeat
    return table


def _with_polars(frame: Any, columns: dict[int, Any]) -> Any:
    return frame.native.with_columns(column.alias(frame.names[i]) for i, column in columns.items())


def _with_arrow(frame: Any, columns: dict[int, Any]) -> Any:
    table = frame.native
    for i, column in columns.items():
        table = table.set_column(i, frame.names[i], column)
    return table


_WITH: dict[str, Callable[[Any, dict[int, Any]], Any]] = {
    "numpy": _with_arrays,
    "dict": _with_columns,
    "images": lambda frame, columns: columns[0],
    "pandas": _with_pandas,
    "polars": _with_polars,
    "pyarrow": _with_arrow,
}
