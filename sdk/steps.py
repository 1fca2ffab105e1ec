"""What stands for the columns of a table under constraints where a model learns it: one step for each.

A step tells the model what is known of its columns, as one column of the model's table or none, and makes
them of what the model drew. Steps have an order: each is made after those that it looks at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from lookalike.columns import Encoded
from lookalike.constraints import FixedCombinations, Formula
from lookalike.levelled import Categorical, Levelled
from lookalike.measured import Measured, Number
from lookalike.sheet import Floats, Mask, Ruler, Sheet, snapped
from lookalike.values import Array, Name


class Told(NamedTuple):
    """What a model is told of some columns."""

    cells: Array
    known: Mask  # of these cells
    lost: Mask  # rows of which more is known than these cells can say


class Step:
    """What all steps share; not to be used itself.

    Attributes
    ----------
    names : tuple of column names
        What it makes.
    kind : Number, Categorical or None
        The column of the model's table, if there is one; its name is the first of `names`.
    """

    names: tuple[Name, ...]
    kind: Number | Categorical | None

    def tell(self, sheet: Sheet, known: Sheet) -> Told:
        """Rewrite the columns of the user's table; `known` says which of its cells are."""
        raise NotImplementedError

    def make(self, cells: Array, sheet: Sheet) -> None:
        """Write the columns that a model's cells stand for."""
        raise NotImplementedError

    def away(self, sheet: Sheet, wanted: Sheet, known: Sheet) -> Floats:
        """How far the columns are from what is known of them, in what the model could not be told; (n,)."""
        return np.zeros(sheet.n_rows)


class Kept(Step):
    """A column as it is."""

    def __init__(self, column: Encoded) -> None:
        self.names, self.column = (column.name,), column
        self.kind = (
            _category(len(column.levels), column.nullable)
            if isinstance(column, Levelled)
            else Number(nullable=column.nullable, **_declared(column))
        )

    def tell(self, sheet: Sheet, known: Sheet) -> Told:
        (name,) = self.names
        return Told(sheet[name], known[name], np.zeros(sheet.n_rows, bool))

    def make(self, cells: Array, sheet: Sheet) -> None:
        column = self.column
        sheet[column.name] = snapped(column, cells) if isinstance(column, Measured) else cells


class Combined(Step):
    """Columns of which only the combinations of fit are made: the number of one."""

    def __init__(self, constraint: FixedCombinations) -> None:
        self.names, self.constraint = constraint.columns, constraint
        self.n = len(constraint.seen[self.names[0]])
        self.kind = _category(self.n, nullable=False)

    def tell(self, sheet: Sheet, known: Sheet) -> Told:
        number = self.constraint.number_of(sheet)
        each = np.array([known[name] for name in self.names])
        told = each.all(0) & (number >= 0)
        return Told(number, told, each.any(0) & ~told)

    def make(self, cells: Array, sheet: Sheet) -> None:
        for name in self.names:
            sheet[name] = self.constraint.seen[name][cells.clip(0, self.n - 1)]

    def away(self, sheet: Sheet, wanted: Sheet, known: Sheet) -> Floats:
        other = [known[name] & ~_same(sheet[name], wanted[name]) for name in self.names]
        return np.where(np.any(other, axis=0), np.inf, 0.0)


class Computed(Step):
    """A column computed from others; the model learns where it is missing, if it ever was in fit."""

    def __init__(self, formula: Formula) -> None:
        self.names, self.formula = formula.columns[:1], formula
        self.kind = _category(1, nullable=True) if formula.may_be_missing else None

    def tell(self, sheet: Sheet, known: Sheet) -> Told:
        name, *inputs = self.formula.columns
        told = known[name].copy()
        if self.kind is None:  # what follows from what is known is known too
            ready = np.all([known[other] for other in inputs], axis=0) & ~told
            computed = sheet.from_number(name, self.formula.compute(sheet))
            sheet[name] = np.where(ready, computed, sheet[name])
            known[name] |= ready
        # One level, there; or missing, which is two after the last.
        return Told(2 * sheet.missing(name), told, np.zeros(sheet.n_rows, bool))

    def make(self, cells: Array, sheet: Sheet) -> None:
        (name,) = self.names
        computed = self.formula.compute(sheet)
        sheet[name] = sheet.from_number(
            name, computed if self.kind is None else np.where(cells, np.nan, computed)
        )


class Bounded(Step):
    """A column as its distance to those that bound it, or as that distance's share of the room it has.

    Parameters
    ----------
    column : Measured
    lower, upper : mapping of columns to bool
        What bounds it from below and from above, and whether it must differ. Where there is something below,
        distances are to the highest of that, else to the lowest above; where that is missing, to the end of
        the column's range.
    share : bool
    """

    def __init__(
        self,
        column: Measured,
        lower: Mapping[Measured, bool],
        upper: Mapping[Measured, bool],
        share: bool = False,
    ) -> None:
        self.names, self.kind = (column.name,), Number(nullable=column.nullable)
        self.ruler, *rulers = Ruler.of([column, *lower, *upper])
        bounds = list(zip(rulers, [*lower.values(), *upper.values()], strict=True))
        self.lower, self.upper, self.share = bounds[: len(lower)], bounds[len(lower) :], share
        ends = [float(end - column.origin) / column.step for end in (column.low, column.high)]
        self.least, self.most = self.ruler.place(np.array(ends)).tolist()

    def _limits(self, sheet: Sheet) -> tuple[Floats, Floats]:
        """The least and the greatest place of the column in each row; infinite where nothing bounds it."""
        low, high = np.full(sheet.n_rows, -np.inf), np.full(sheet.n_rows, np.inf)
        for ruler, strict in self.lower:
            low = np.fmax(low, ruler.above(ruler.place(sheet[ruler.column.name]), strict))
        for ruler, strict in self.upper:
            high = np.fmin(high, ruler.below(ruler.place(sheet[ruler.column.name]), strict))
        return low, high

    def _scale(self, low: Floats, high: Floats) -> tuple[Floats, Floats]:
        """Where the model's cells begin, and the length of their unit, negative for downwards."""
        low, high = np.where(np.isinf(low), self.least, low), np.where(np.isinf(high), self.most, high)
        room = np.where(high > low, high - low, 1.0) if self.share else np.ones(len(low))
        return (low, room) if self.lower else (high, -room)

    def tell(self, sheet: Sheet, known: Sheet) -> Told:
        (name,) = self.names
        start, unit = self._scale(*self._limits(sheet))
        others = [known[ruler.column.name] for ruler, _ in (*self.lower, *self.upper)]
        near = np.all(others, axis=0) | sheet.missing(name)
        return Told((self.ruler.place(sheet[name]) - start) / unit, known[name] & near, known[name] & ~near)

    def make(self, cells: Array, sheet: Sheet) -> None:
        low, high = self._limits(sheet)
        start, unit = self._scale(low, high)
        held = self.ruler.at(np.minimum(np.maximum(start + cells * unit, low), np.maximum(low, high)))
        # The nearest on the column's grid may be one too low or too high.
        held = np.where(self.ruler.place(held) < low, self.ruler.beside(held, 1), held)
        sheet[self.names[0]] = np.where(self.ruler.place(held) > high, self.ruler.beside(held, -1), held)

    def away(self, sheet: Sheet, wanted: Sheet, known: Sheet) -> Floats:
        (name,) = self.names
        apart = np.abs(self.ruler.place(sheet[name]) - self.ruler.place(wanted[name]))
        ranges = np.where(np.isnan(apart), np.inf, apart / max(self.most - self.least, 1.0))
        return np.where(known[name] & ~_same(sheet[name], wanted[name]), ranges, 0.0)

    def is_share(self, sheet: Sheet) -> bool:
        """Whether shares say less of the room than distances do: so they are easier to learn."""
        low, high = self._limits(sheet)
        low, high = np.where(np.isinf(low), self.least, low), np.where(np.isinf(high), self.most, high)
        start = low if self.lower else high
        room, distance = high - low, np.abs(self.ruler.place(sheet[self.names[0]]) - start)
        some = (room > 0) & ~np.isnan(distance)
        return _trend(distance[some] / room[some], room[some]) < _trend(distance[some], room[some])


def _trend(x: Floats, y: Floats) -> float:
    """How far one rises or falls with the other: the correlation of their ranks, without its sign."""
    ranks = [np.unique(values, return_inverse=True)[1].astype(np.float64) for values in (x, y)]
    centred = [rank - rank.mean() if len(rank) else rank for rank in ranks]
    spread = np.sqrt(np.prod([(rank**2).sum() for rank in centred]))
    return float(abs((centred[0] * centred[1]).sum()) / spread) if spread else 0.0


def _category(n_levels: int, nullable: bool) -> Categorical:
    return Categorical(levels=tuple(range(n_levels)), nullable=nullable)


def _declared(column: Encoded) -> dict[str, float]:
    """The range that was declared for a number; ticks and large whole numbers learn their own."""
    if not isinstance(column, Number) or not column.is_plain:
        return {}
    ends = {"lower": column.lower, "upper": column.upper}
    return {word: end for word, end in ends.items() if end is not None}


def _same(a: Array, b: Array) -> Mask:
    same: Mask = (a == b) | ((a != a) & (b != b))
    return same
