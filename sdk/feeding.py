"""Tables as the inputs of an exported graph: one named tensor a column, with one value or image a row.

Each modelled column has an input and, where rows are generated, an output of one type:

=========  =========================================================================================
tensor     column
=========  =========================================================================================
float64    a number; levels that are floats. NaN is missing
int64      whole numbers too large for a float; times, as counts of a unit; levels that are whole
           numbers, truth values or times. One number, as a rule the least, is missing
uint64     as int64, where the column is of that type or goes beyond int64
string     levels that are text. One text that is no level, the empty one where it can be, is missing
any        images, (n, height, width) or (n, height, width, channels), of the type of fit, and their
           templates. Which pixels are known ``known`` says, where images are completed
=========  =========================================================================================

A value that is no level is unseen; `feed` puts another in its place that is none either. What int64 has no
room for ends at its limits, and what lies between two ticks of a unit at the one before.

A level that UTF-8 cannot hold, such as half of a surrogate pair, goes by an escaped name. onnxruntime's
Python binding cuts NULs off the end of a text that it gives back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from lookalike.arrays import Frame, pictures_of
from lookalike.columns import Encoded
from lookalike.schema import Schema, encode_cell
from lookalike.values import Array, Name

__all__ = ["describe", "feed", "input_names", "with_width"]

RESERVED = frozenset(
    {
        "",
        "threshold",
        "normals",
        "uniforms",
        "known",
        "numbers",
        "ids",
        "score",
        "p_value",
        "label",
        "contributions",
        "expected_numbers",
        "expected_ids",
        "drawn_numbers",
        "drawn_ids",
    }
)
"""Names of a graph's other inputs and outputs."""

FILLED = "filled:"
"""Begins the name of an output where the input of the column has its plain name."""

INNER = ":"
"""Begins the names of values inside a graph."""


def input_names(schema: Schema) -> dict[Name, str]:
    """Name the input of each modelled column: as the column, or with ``column:`` before it.

    That is where the name is one of a graph's own, or another column has it.
    """
    names: dict[Name, str] = {}
    taken = set(RESERVED)
    for column in schema.tensors:
        name = str(column.name).encode("utf-8", "backslashreplace").decode()
        while name in taken or name.startswith((FILLED, INNER)):
            name = f"column:{name}"
        taken.add(name)
        names[column.name] = name
    return names


def describe(schema: Schema) -> list[dict[str, Any]]:
    """Say what each input is, in words that JSON can carry.

    Returns
    -------
    list of dict
        ``column``, ``input`` (its name), ``type``, ``missing`` (the value that says so; "NaN" of a float64)
        and, of times, ``unit``. Instants count from 1970, in UTC where they have a zone. Of images ``shape``.
    """
    names = input_names(schema)
    rows = []
    for column in schema.tensors:
        port = column.port
        row: dict[str, Any] = {"column": column.name, "input": names[column.name], "type": port.type}
        if port.shape:
            rows.append({**row, "shape": list(port.shape)})
            continue
        row["missing"] = "NaN" if port.type == "float64" else port.missing
        rows.append({**row, "unit": port.unit} if port.unit else row)
    return rows


def feed(
    schema: Schema,
    data: object,
    allow_missing: bool = False,
    *,
    owner: str = "the schema",
    names: Mapping[Name, str] | None = None,
) -> dict[str, Array]:
    """Turn a table into the inputs of an exported graph.

    Parameters
    ----------
    data, allow_missing, owner
        As of `Schema.encode`.
    names : mapping of column name to input name, optional
        As `input_names` gives them, for who calls often.

    Returns
    -------
    dict of input name to ndarray of shape (n,)
        float64, int64, uint64, or objects that are text; images as they are.

    Raises
    ------
    SchemaError
        As `Schema.encode`.
    """
    frame, position = schema.open(data, owner=owner)
    names = names or input_names(schema)
    table = schema.encode_at_once(frame, position, allow_missing)
    if table is not None:
        columns = schema.apart(np.asfortranarray(table.numbers), table.ids)
        return {names[column.name]: column.tensor(cells) for column, cells in columns}
    tensors = {
        names[image.name]: image.feed(pictures_of(frame, position[image.name]), allow_missing)
        for image in schema.pictures
    }
    return tensors | {
        names[column.name]: _tensor(column, frame, position[column.name], allow_missing)
        for column in schema.tensors
        if isinstance(column, Encoded)
    }


def with_width(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Leave out matrices without columns, for which a graph has no input."""
    return {name: array for name, array in arrays.items() if 0 not in array.shape[1:]}


def _tensor(column: Encoded, frame: Frame, position: int, allow_missing: bool) -> Array:
    cell = encode_cell(frame, position, column)
    return (
        column.feed(frame.column(position), allow_missing)
        if cell is None
        else column.tensor(np.array([cell]))
    )
