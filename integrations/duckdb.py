"""DuckDB: a model as a function of SQL.

Whole tables go faster through `lookalike.integrations.arrow.score`, which takes a relation of DuckDB and
gives what DuckDB reads: a function is called for 2,048 rows at a time.

Examples
--------
>>> register(connection, "orders.onnx", "oddness")  # doctest: +SKIP
>>> connection.sql("SELECT o.*, unnest(oddness(o)) FROM orders o")  # doctest: +SKIP
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import duckdb
import pyarrow as pa
from duckdb.func import FunctionNullHandling, PythonUDFType

from lookalike.integrations.scorer import arrow_type, scorer_of

TYPES = {"number": "DOUBLE", "truth": "BOOLEAN", "text": "VARCHAR"}


def register(
    connection: duckdb.DuckDBPyConnection, model: Any, name: str = "lookalike", **options: Any
) -> None:
    """Make a function of SQL that takes a row and gives a struct of what the model says of it.

    ``SELECT t.*, unnest(lookalike(t)) FROM orders t`` adds its columns, and ``lookalike(t).p_value`` is one
    of them. Columns of the row are found by name; it may have others.

    Parameters
    ----------
    connection : duckdb.DuckDBPyConnection
    model, **options
        As of `Scorer`, or a `Scorer`.
    name : str
        Of the function; letters, digits and ``_``. One of this name is replaced.

    Raises
    ------
    ValueError
        If the name is none.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"name must be of letters, digits and _, got {name!r}.")
    scorer = scorer_of(model, options)
    names, types = scorer.modelled, {name: arrow_type(kind) for name, kind in scorer.kinds.items()}
    positional = f"_{name}_of_columns"

    def struct(*columns: pa.ChunkedArray) -> pa.ChunkedArray:
        added = scorer.added(pa.table(list(columns), names=names))
        arrays = [pa.array(added[name], kind) for name, kind in types.items()]
        return pa.chunked_array([pa.StructArray.from_arrays(arrays, names=list(types))])

    kinds = {name: TYPES[kind] for name, kind in scorer.kinds.items()}
    connection.execute(f"DROP MACRO IF EXISTS {name}")
    with suppress(duckdb.InvalidInputException):  # there was none
        connection.remove_function(positional)
    connection.create_function(
        positional,
        struct,
        None,
        duckdb.struct_type(kinds),
        type=PythonUDFType.ARROW,
        null_handling=FunctionNullHandling.SPECIAL,
    )
    quoted = ", ".join('one_row."' + column.replace('"', '""') + '"' for column in names)
    connection.execute(f"CREATE MACRO {name}(one_row) AS {positional}({quoted})")
