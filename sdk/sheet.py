"""Columns of a `Table` by name, their values as numbers, and where they stand on one scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.columns import Encoded
from lookalike.levelled import Levelled
from lookalike.measured import Measured, Number, precision_of
from lookalike.schema import Schema, Table
from lookalike.values import NANOSECONDS, Array, Name

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Sheet:
    """The cells of two arrays like a `Table`'s, by column: what is written here is written there."""

    def __init__(self, schema: Schema, numbers: Array, ids: Array) -> None:
        self.schema, self.n_rows = schema, len(numbers)
        self.columns: dict[Name, Encoded] = {}
        self._cells: dict[Name, Array] = {}
        for cells, columns in ((numbers, schema.number_columns), (ids, schema.category_columns)):
            for j, column in enumerate(columns):
                self.columns[column.name], self._cells[column.name] = column, cells[:, j]

    @classmethod
    def of(cls, schema: Schema, table: Table) -> Self:
        """The cells of a table."""
        return cls(schema, table.numbers, table.ids)

    def __getitem__(self, name: Name) -> Array:
        return self._cells[name]

    def __setitem__(self, name: Name, cells: Array) -> None:
        self._cells[name][:] = cells

    def missing(self, name: Name) -> Mask:
        """Where a column has no value, shape (n,)."""
        column, cells = self.columns[name], self[name]
        gone: Mask = (
            (cells < 0) | (cells >= column.unseen) if isinstance(column, Levelled) else np.isnan(cells)
        )
        return gone

    def number(self, name: Name) -> Floats:
        """A column's values as numbers to compute with, (n,) float64; NaN where missing."""
        column, cells = self.columns[name], self[name]
        if isinstance(column, Levelled):
            levels = np.array([*map(float, column.levels), np.nan], np.float64)
            return levels[np.where(self.missing(name), -1, cells)]
        assert isinstance(column, Number)
        return cells if column.is_plain else column.origin + column.step * cells

    def from_number(self, name: Name, numbers: Floats) -> Array:
        """Numbers as the cells of a column: the nearest that it can hold."""
        column = self.columns[name]
        if isinstance(column, Levelled):
            position = {float(level): i for i, level in enumerate(column.levels)}
            return np.array(
                [column.blank if x != x else position.get(x, column.unseen) for x in numbers.tolist()],
                np.int64,
            )
        assert isinstance(column, Measured)
        return snapped(column, (numbers - float(column.origin)) / float(column.step))

    def show(self, names: Iterable[Name], row: int) -> str:
        """The values of a row as an error should print them."""
        one = ((name, self.columns[name].decode(self[name][row : row + 1])) for name in names)
        return ", ".join(f"{name!r} is {value.show(0)}" for name, value in one)


def snapped(column: Measured, cells: Floats) -> Floats:
    """Cells as the column holds them when it is written and read again: within the range and on the grid."""
    legal = column.encode(column.decode(cells), allow_missing=True)
    narrow = isinstance(column, Number) and not column.integral
    return legal.astype(precision_of(column.storage)).astype(np.float64) if narrow else legal


def codes(columns: Sequence[Array]) -> NDArray[np.int64]:
    """Number the distinct rows of some columns, shape (n,); NaN equals NaN."""
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        _, inverse = np.unique(column, return_inverse=True)
        code = np.unique(code * (inverse.max(initial=0) + 1) + inverse, return_inverse=True)[1]
    return code


def alike(table: Table, known: tuple[Mask, Mask]) -> bool:
    """Whether all rows are the same, and the same is known of them."""
    return all(
        len(np.unique(codes([*part.T]))) < 2 for part in (table.numbers, table.ids, *known) if part.size
    )


# ---- columns on one scale ----


class Ruler(NamedTuple):
    """Where the values of a column stand on a scale that it shares with others.

    Where all have a grid (whole numbers, few decimals, ticks of a clock), the scale counts whole ticks of a
    common one, so that 0.1 + 0.2 is 0.3 and a date can be compared with an instant.
    """

    column: Measured
    fineness: int  # values of the column's grid in one of its cells' units; 0 where it has no grid
    shift: float
    scale: float  # of a value of the grid; of a cell where the scale has no ticks
    ticks: bool

    @classmethod
    def of(cls, columns: Sequence[Measured]) -> list[Self]:
        """Rulers of columns with one scale."""
        units = [Fraction(NANOSECONDS.get(c.storage.unit, 1) * c.step) for c in columns]
        zeros = [Fraction(NANOSECONDS.get(c.storage.unit, 1) * c.origin) for c in columns]
        fine = [_fineness(column) for column in columns]
        ticks = all(fine)
        steps = [unit / n if ticks else unit for unit, n in zip(units, fine, strict=True)]
        tick = _divisor([*steps, *(zero - zeros[0] for zero in zeros)]) if ticks else Fraction(1)
        start = zeros[0] if ticks else Fraction(0)
        return [
            cls(column, n, float((zero - start) / tick), float(step / tick), ticks)
            for column, n, zero, step in zip(columns, fine, zeros, steps, strict=True)
        ]

    def place(self, cells: Floats) -> Floats:
        """Where cells stand; NaN where missing."""
        return self.shift + self.scale * (np.rint(cells * self.fineness) if self.ticks else cells)

    def at(self, place: Floats) -> Floats:
        """The cells of the column that are nearest to places."""
        return snapped(self.column, (place - self.shift) / self.scale / (self.fineness if self.ticks else 1))

    def beside(self, cells: Floats, direction: int) -> Floats:
        """The next value up (1) or down (-1)."""
        if self.fineness:
            moved = (np.rint(cells * self.fineness) + direction) / self.fineness
        else:
            narrow = cells.astype(precision_of(self.column.storage))
            moved = np.nextafter(narrow, narrow.dtype.type(direction * np.inf)).astype(np.float64)
        return snapped(self.column, moved)

    def above(self, place: Floats, strict: bool) -> Floats:
        """The least place that is not below another, or is above it."""
        return place if not strict else place + 1 if self.ticks else np.nextafter(place, np.inf)

    def below(self, place: Floats, strict: bool) -> Floats:
        """The greatest place that is not above another, or is below it."""
        return place if not strict else place - 1 if self.ticks else np.nextafter(place, -np.inf)


def _fineness(column: Measured) -> int:
    if isinstance(column, Number) and not column.integral:
        return 0 if column.decimals is None else int(10**column.decimals)
    return 1


def _divisor(fractions: Sequence[Fraction]) -> Fraction:
    """The largest number of which all are whole multiples."""
    bottom = math.lcm(*(f.denominator for f in fractions))
    return Fraction(math.gcd(*(int(f * bottom) for f in fractions)), bottom)
