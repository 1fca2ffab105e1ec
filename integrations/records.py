"""Records, such as JSON gives them, as Arrow tables of the columns that a model looks at."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pyarrow as pa

from lookalike.columns import Encoded
from lookalike.errors import SchemaError, did_you_mean
from lookalike.files import Part, typed

Record = Mapping[str, Any]
_TYPES = {
    "float": (pa.float64(), (int, float), "a number"),
    "integer": (pa.int64(), (int, float), "a whole number"),
    "boolean": (pa.bool_(), (bool,), "true or false"),
    "text": (pa.string(), (str,), "text"),
}


class Records:
    """Reads records by the schema of a model.

    Parameters
    ----------
    model : model
        Fitted, or opened by `runtime.load`. Its columns of times and durations are read from text, as the
        command line reads it; a value that a record lacks, or that is null or NaN, is missing.
    place : str
        What records are called in errors.

    Raises
    ------
    TypeError
        If the model has no schema, as those around other estimators.
    """

    def __init__(self, model: Any, place: str = "the request") -> None:
        if not hasattr(model, "schema_"):
            raise TypeError(
                f"records are read by the schema of a model, and {type(model).__name__} has none. "
                "Take one of lookalike's families, or a file that one was exported to."
            )
        if model.schema_.image is not None:
            raise SchemaError(
                "records hold values, and the model learned from images: give arrays to runtime.load(path)."
            )
        self.columns = {str(c.name): c.storage for c in model.schema_.columns if isinstance(c, Encoded)}
        self.place = place

    def table(self, records: Sequence[Record]) -> pa.Table:
        """The records as a table.

        Raises
        ------
        SchemaError
            If a column is in no record, or a value is of another type: which, in which row.
        """
        for row, record in enumerate(records):
            if not isinstance(record, Mapping):
                raise SchemaError(
                    f"row {row} of {self.place} is no object with columns, but {_short(record)}."
                )
        if records:
            self._check_names({name for record in records for name in record})
        return self.of_columns({name: [record.get(name) for record in records] for name in self.columns})

    def sifted(self, records: Sequence[Record]) -> tuple[pa.Table, dict[int, str]]:
        """The records that can be read as a table, and of the others why not.

        Each is judged by itself, so that none depends on the records that it came with: it must have all
        columns, and what is missing is null.

        Returns
        -------
        Table
            Without the records that were refused.
        dict
            The error of each refused record, by its number.
        """
        refused: dict[int, str] = {}
        whole = []
        for row, record in enumerate(records):
            try:
                self._check_names(record)
                whole.append(row)
            except SchemaError as error:
                refused[row] = str(error)

        def tables(rows: Sequence[int]) -> list[pa.Table]:
            """Halved until each record that is refused stands alone."""
            try:
                return [self.table([records[row] for row in rows])]
            except SchemaError as error:
                if len(rows) == 1:
                    refused[rows[0]] = str(error)
                    return []
                half = len(rows) // 2
                return tables(rows[:half]) + tables(rows[half:])

        return pa.concat_tables(tables(whole) or [self.table([])]), refused

    def _check_names(self, names: Collection[str]) -> None:
        for name in self.columns:
            if name not in names:
                raise SchemaError(f"{self.place} has no column {name!r}.{did_you_mean(name, names)}")

    def of_columns(self, columns: Mapping[str, Sequence[Any]]) -> pa.Table:
        """Lists of values by column as a table; columns that the model does not know are left out."""
        self._check_names(columns)
        return pa.table(
            {name: self._array(name, storage, columns[name]) for name, storage in self.columns.items()}
        )

    def _array(self, name: str, storage: Any, values: Sequence[Any]) -> Any:
        family = storage.family
        as_text = family not in _TYPES
        kind, fine, words = _TYPES["text" if as_text else family]
        plain = []
        for row, value in enumerate(values):
            missing = value is None or (isinstance(value, float) and math.isnan(value))
            wrong = not isinstance(value, fine) or (isinstance(value, bool) and bool not in fine)
            if not missing and (wrong or (family == "integer" and value % 1 != 0)):
                words = "text, of a time" if as_text else words
                raise SchemaError(
                    f"column {name!r} holds {_short(value)} in row {row} of {self.place}, where {words} was "
                    "expected. Correct it, or leave it out."
                )
            plain.append(None if missing else value)
        try:
            array = pa.chunked_array([pa.array(plain, kind)])
        except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
            raise SchemaError(f"column {name!r} of {self.place} cannot be read: {error}") from error
        if not as_text:
            return array
        part = Part(pa.table({name: array}), self.place, 0, True)
        return typed(part, {name: family}, {name: storage.zone})[name]


def rows_of_table(table: Any) -> list[dict[str, Any]]:
    """A table as records that JSON can hold: what is no finite number is null."""
    return [
        {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
        for row in table.to_pylist()
    ]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) < 60 else text[:57] + "..."
