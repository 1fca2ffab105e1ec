"""Rows that equal one of a fit: how they are known, and drawn again."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import ConditionError
from lookalike.replacing import Cells, legal, put
from lookalike.schema import Schema, Table

TRIES = 20  # times that rows are drawn before it is given up
FEWEST_DRAWN = 256  # rows at a time, from the second on
_SEEDS = 56  # bits of a seed below those that number the tries


def digests(table: Table) -> NDArray[np.int64]:
    """A digest of each row, (n,), equal for rows that are equal in every column: NaN is NaN, and 0 is -0."""
    cells = np.column_stack([table.numbers, table.ids.astype(np.float64)]) + 0.0
    cells[np.isnan(cells)] = np.nan
    return np.array(
        [int.from_bytes(blake2b(row, digest_size=8).digest(), "little", signed=True) for row in cells],
        dtype=np.int64,
    )


def without_copies(
    draw: Callable[[Table, Cells, int], Table],
    rows: Table,
    known: Cells,
    seed: int,
    fitted: NDArray[np.int64],
    schema: Schema,
) -> Table:
    """Complete rows so that none equals a row of the fit: those that do are drawn again.

    Parameters
    ----------
    draw : callable
        Completes rows, given which of their cells are known and a seed.
    rows : Table
    known : pair of ndarray
        Which cells of the rows are given.
    seed : int
    fitted : ndarray of shape (n_fitted,), int64
        Digests of the rows of the fit.
    schema : Schema

    Raises
    ------
    ConditionError
        If a row is a copy every time, as where all that can be drawn was fitted.
    """
    free = ~known[0], ~known[1]
    again = np.arange(len(rows))
    numbers, ids = rows.numbers.copy(), rows.ids.copy()
    for k in range(TRIES):
        # The fewer are left, the more is drawn for each: what is drawn at once stays as large.
        times = max(len(rows), FEWEST_DRAWN) // len(again) if k else 1
        every = np.tile(again, times)
        part = known[0][every], known[1][every]
        drawn = draw(rows.rows(every), part, (seed + (k << _SEEDS)) % 2**64)
        drawn = legal(drawn, (free[0][every], free[1][every]), schema)
        made = put(rows.rows(every), part, drawn)
        copy = np.isin(digests(made), fitted).reshape(times, len(again))
        made = made.rows(copy.argmin(0) * len(again) + np.arange(len(again)))
        numbers[again], ids[again] = made.numbers, made.ids
        again = again[copy.all(0)]
        if not len(again):
            return Table(numbers, ids)
    raise ConditionError(
        f'copies="forbid", but row {again[0]} came out as a copy of a row of fit each of {TRIES} times: '
        'too few other rows are possible. Give less, or leave copies="allow".'
    )
