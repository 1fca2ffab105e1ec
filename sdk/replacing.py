"""What if a column held something else: values that would have been normal there, and the energy with them.

Only scores are asked of a model, with shares and expected values, so an exported score file can do it too. A
column is hidden (a number made missing, a level one never seen): what the model then expects there does not
depend on the odd value. It is put in and expected once more, for hiding says little to a model that sees a
missing number as an average one; of the two values the one with the lower energy stays.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.columns import Encoded
from lookalike.schema import Schema, Table

Cells = tuple[NDArray[np.bool_], NDArray[np.bool_]]
"""Cells of numbers and of categories: shapes (n, n_numbers) and (n, n_categories)."""

ROUNDS = 2  # values tried for a column
ENERGIES = 1 + ROUNDS  # that one column costs
AT_ONCE = 1 << 21  # cells of the rows that are made at once


class Scoring(Protocol):
    """What is asked of a model."""

    schema_: Schema

    def _shares(self, rows: Any, first: int) -> tuple[NDArray[np.float64], Table]: ...

    def _replaced(self, rows: Any, new: Table, cells: Cells) -> Any: ...


def split(columns: NDArray[np.bool_], schema: Schema) -> Cells:
    """Columns of the model's layout, (n, n_columns) bool, as cells of numbers and of categories."""
    d = len(schema.number_columns)
    return columns[:, :d], columns[:, d:]


def put(new: Table, cells: Cells, old: Table) -> Table:
    """The old table with the new one's values in some cells."""
    return Table(np.where(cells[0], new.numbers, old.numbers), np.where(cells[1], new.ids, old.ids))


def hidden(schema: Schema, n: int) -> Table:
    """Rows of which a model knows nothing."""
    unseen = np.array([column.unseen for column in schema.category_columns], dtype=np.int64)
    numbers = np.full((n, len(schema.number_columns)), np.nan)
    return Table(numbers, np.broadcast_to(unseen, (n, len(unseen))))


def legal(table: Table, cells: Cells, schema: Schema) -> Table:
    """The table with numbers as their columns hold them: within the range of fit and on its grid."""
    numbers = table.numbers.copy()
    columns: tuple[Encoded, ...] = schema.number_columns
    for j, column in enumerate(columns):
        rows = cells[0][:, j]
        if rows.any():
            numbers[rows, j] = column.encode(column.decode(numbers[rows, j]), allow_missing=True)
    return Table(numbers, table.ids)


def by_unit(shares: NDArray[np.float64], unit_of: NDArray[np.int64]) -> NDArray[np.float64]:
    """Shares of columns added up by the unit that each belongs to, shape (n, n_units)."""
    out = np.zeros((len(shares), int(unit_of.max()) + 1))
    np.add.at(out.T, unit_of, shares.T)
    return out


def replace(
    model: Scoring,
    rows: Any,
    first: int,
    shares: NDArray[np.float64],
    expected: Table,
    unit_of: NDArray[np.int64],
    tested: int,
) -> tuple[NDArray[np.float64], Table]:
    """Find what would have been normal in the most blamed units of each row, one unit at a time.

    Parameters
    ----------
    model : Scoring
    rows : as `model._shares` takes them
    first : int
        Number of the first row to the user.
    shares : ndarray of shape (n, n_columns)
    expected : Table
        With `shares`, what the model says of the rows.
    unit_of : ndarray of shape (n_columns,), int64
        Unit of each column; those of one unit are replaced together.
    tested : int
        Units a row.

    Returns
    -------
    ndarray of shape (n, n_units)
        How far the energy falls; NaN where a unit was not tried.
    Table
        What was expected, by what was found where it was looked for.
    """
    n, blame = len(rows), by_unit(shares, unit_of)
    k = min(tested, blame.shape[1])
    order = np.argsort(-blame, axis=1, kind="stable")[:, :k]
    falls = np.full(blame.shape, np.nan)
    found = Table(expected.numbers.copy(), expected.ids.copy())
    block = max(AT_ONCE // max(k * shares.shape[1], 1), 1)
    for start in range(0, n if k else 0, block):
        part = np.arange(start, min(start + block, n))
        each, unit = np.repeat(part, k), order[part].ravel()
        cells = split(unit_of == unit[:, None], model.schema_)
        energy, values = _normal(model, rows.rows(each), first + start, cells)
        falls[each, unit] = shares[each].sum(1) - energy
        for there, new, kept in zip(
            cells, (values.numbers, values.ids), (found.numbers, found.ids), strict=True
        ):
            row, column = np.nonzero(there)
            kept[each[row], column] = new[row, column]
    return falls, found


def _normal(model: Scoring, rows: Any, first: int, cells: Cells) -> tuple[NDArray[np.float64], Table]:
    """Normal values of some cells given the others, and the energy with them."""
    _, guess = model._shares(model._replaced(rows, hidden(model.schema_, len(rows)), cells), first)
    best, values = np.full(len(rows), np.inf), guess
    for _ in range(ROUNDS):
        guess = legal(guess, cells, model.schema_)
        shares, after = model._shares(model._replaced(rows, guess, cells), first)
        energy = shares.sum(1)
        better = energy < best
        rowwise = better[:, None]
        values = put(guess, (rowwise, rowwise), values)
        best = np.where(better, energy, best)
        guess = after
    return best, values
