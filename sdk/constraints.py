"""What every row must meet: `Unique`, `Inequality`, `Formula`, `FixedCombinations`.

An instance made by a user is a declaration; `fit` returns a copy that has learned, and refuses a table with a
row that breaks it. `lookalike.rewriting` makes generated rows meet it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.columns import FAMILY_WORDS, Encoded, Ignored
from lookalike.errors import SchemaError, did_you_mean
from lookalike.formulas import Expression
from lookalike.levelled import Levelled
from lookalike.measured import Measured, Number, precision_of
from lookalike.sheet import Floats, Mask, Ruler, Sheet, codes
from lookalike.values import Array, Name
from lookalike.vetting import all_of, is_count, is_number, require


@dataclass(frozen=True, init=False, repr=False)
class Constraint:
    """What all constraints share; not to be used itself."""

    arguments: tuple[Any, ...]

    kind: ClassVar[str] = ""

    def __init__(self, *arguments: Any) -> None:
        object.__setattr__(self, "arguments", arguments)
        for name in self.columns:
            if not isinstance(name, str | int) or isinstance(name, bool):
                raise SchemaError(f"{self} must name columns, got {name!r}.{self._advice}")
        if len(set(self.columns)) < len(self.columns):
            raise SchemaError(f"{self} names a column twice.")

    _advice: ClassVar[str] = ""

    @property
    def columns(self) -> tuple[Name, ...]:
        """The columns that it speaks of."""
        return self.arguments

    def fit(self, sheet: Sheet) -> Self:
        """Learn from a table, or raise SchemaError for the first row that breaks it."""
        self.suits(sheet)
        fitted = self._learned(sheet)
        broken = ~fitted.holds(sheet)
        if broken.any():
            row = int(broken.argmax())
            raise SchemaError(
                f"{self} does not hold in {broken.sum():,} of {len(broken):,} rows, first in row {row}: "
                f"{sheet.show(self.columns, row)}{fitted.why(sheet, row)}. Correct or drop these rows, or "
                "leave the constraint out."
            )
        return fitted

    def suits(self, sheet: Sheet) -> None:
        """Raise SchemaError unless the table has the columns, of kinds that the constraint can speak of."""
        for name in self.columns:
            column = next((c for c in sheet.schema.columns if c.name == name), None)
            if column is None:
                near = did_you_mean(name, sheet.schema.names)
                raise SchemaError(f"{self} names column {name!r}, which the data lack.{near}")
            self._suits(column)

    def _suits(self, column: Any) -> None:
        """Refuse a column of a kind that the constraint cannot speak of."""
        if not isinstance(column, Encoded):
            raise SchemaError(f"{self} names column {column.name!r}, which is of kind {column.kind}.")

    def _learned(self, sheet: Sheet) -> Self:
        return self

    def _with(self, **what: Any) -> Self:
        """Copy with learned attributes set."""
        fitted = copy.copy(self)
        for key, value in what.items():
            object.__setattr__(fitted, key, value)
        return fitted

    def holds(self, sheet: Sheet) -> Mask:
        """In which rows it holds, shape (n,); where a value is missing it says nothing."""
        raise NotImplementedError

    def why(self, sheet: Sheet, row: int) -> str:
        """What a message should add about a row that breaks it."""
        return ""

    def allows(self, sheet: Sheet, given: Set[Name]) -> Mask:
        """In which rows what is given may be part of one in which it holds; the rest is missing."""
        return self.holds(sheet)

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON needs to rebuild it."""
        return {"kind": self.kind, "arguments": list(self.arguments)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], sheet: Sheet) -> Self:
        """Rebuild it from `to_dict`, for the columns of a sheet; raise for what no fit would have written."""
        constraint = cls(*data["arguments"])
        constraint.suits(sheet)
        return constraint

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.arguments))})"


class Unique(Constraint):
    """No two rows hold the same values in some columns.

    As in SQL, a missing value equals no other. Generated rows that repeat one of the same call are drawn
    again, so that `generate_batches` takes memory for all its rows. `impute` does not look at it,
    for rows without holes are not known to it.

    Parameters
    ----------
    *columns : column names
        ``Unique("flight", "seat")``: a seat is sold once a flight.

    Examples
    --------
    >>> import lookalike as la
    >>> la.Unique("flight", "seat")
    Unique('flight', 'seat')
    """

    kind: ClassVar[str] = "unique"

    def __init__(self, *columns: Name) -> None:
        super().__init__(*columns)
        if not columns:
            raise SchemaError("Unique needs at least one column, such as Unique('flight', 'seat').")

    def _suits(self, column: Any) -> None:
        if isinstance(column, Ignored):
            super()._suits(column)

    def holds(self, sheet: Sheet) -> Mask:
        if not all(name in sheet.columns for name in self.columns):
            return np.ones(sheet.n_rows, bool)  # an identifier is always a new one
        first = np.zeros(sheet.n_rows, bool)
        first[np.unique(codes([sheet[name] for name in self.columns]), return_index=True)[1]] = True
        return first | np.any([sheet.missing(name) for name in self.columns], axis=0)

    def why(self, sheet: Sheet, row: int) -> str:
        code = codes([sheet[name] for name in self.columns])
        return f", as in row {int((code == code[row]).argmax())}"


class Inequality(Constraint):
    """Columns are in order: numbers, dates or times, durations.

    A column is learned and generated as its distance to those that bound it, which is never negative. Where
    a value is missing it is not compared.

    Parameters
    ----------
    *terms : column names, with "<=", "<", ">=" or ">" between them
        ``Inequality("start", "<=", "end")``, or a chain: ``Inequality("low", "<=", "mode", "<", "high")``.
        For a bound that is a number, declare it for its column: ``schema={"age": la.Number(lower=0)}``.

    Examples
    --------
    >>> import lookalike as la
    >>> la.Inequality("start", "<=", "end")
    Inequality('start', '<=', 'end')
    """

    kind: ClassVar[str] = "inequality"
    _advice = " For a bound that is a number, declare it for its column: schema={'age': la.Number(lower=0)}."

    def __init__(self, *terms: Name) -> None:
        super().__init__(*terms)
        signs = terms[1::2]
        directions = {str(sign)[:1] for sign in signs}
        if len(terms) < 3 or not len(terms) % 2 or not {*signs} <= {"<", "<=", ">", ">="}:
            raise SchemaError(
                f"{self} must be columns with '<=', '<', '>=' or '>' between them, such as "
                "Inequality('start', '<=', 'end')."
            )
        if len(directions) > 1:
            raise SchemaError(f"{self} points both ways. Declare two constraints.")

    @property
    def columns(self) -> tuple[Name, ...]:
        return self.arguments[::2]

    @property
    def pairs(self) -> list[tuple[Name, Name, bool]]:
        """Each lower column with each higher one, and whether they must differ."""
        columns, signs = self.columns, self.arguments[1::2]
        if signs[0][0] == ">":
            columns, signs = columns[::-1], signs[::-1]
        return [
            (columns[i], columns[j], any(len(sign) == 1 for sign in signs[i:j]))
            for i, j in combinations(range(len(columns)), 2)
        ]

    def _suits(self, column: Any) -> None:
        super()._suits(column)
        if not isinstance(column, Measured):
            raise SchemaError(
                f"{self} names column {column.name!r}, which is of kind {column.kind}. Only numbers, dates, "
                "times and durations can be compared."
            )

    def suits(self, sheet: Sheet) -> None:
        super().suits(sheet)
        first, *others = (sheet.columns[name] for name in self.columns)
        for other in others:
            if _scale_of(first) != _scale_of(other):
                raise SchemaError(
                    f"{self} compares {first.name!r}, which holds {_words(first)}, with {other.name!r}, "
                    f"which holds {_words(other)}. Convert one of them."
                )

    def holds(self, sheet: Sheet) -> Mask:
        measured = [c for name in self.columns if isinstance(c := sheet.columns[name], Measured)]
        rulers = dict(zip(self.columns, Ruler.of(measured), strict=True))
        place = {name: ruler.place(sheet[name]) for name, ruler in rulers.items()}
        broken = np.zeros(sheet.n_rows, bool)
        for low, high, strict in self.pairs:
            broken |= place[low] >= place[high] if strict else place[low] > place[high]
        return ~broken


def _scale_of(column: Encoded) -> tuple[str, bool]:
    family = column.storage.family
    return ("number" if isinstance(column, Number) else family), column.storage.zone is not None


def _words(column: Encoded) -> str:
    zone = " with a time zone" if column.storage.zone is not None else ""
    return FAMILY_WORDS[column.storage.family] + zone


class Formula(Constraint):
    """A column is computed from others.

    It is neither learned nor drawn but computed, as exactly as its column can hold it.

    Parameters
    ----------
    column : column name
        What is computed: numbers or truth values.
    expression : str
        ``"price * quantity"``: columns, numbers, ``+ - * / // % **``, comparisons, and ``abs``, ``ceil``,
        ``exp``, ``floor``, ``log``, ``round``, ``sqrt``, ``min(a, b)``, ``max(a, b)``, ``where(test, a, b)``.
        Columns whose names are no words stand in quotes: ``"'unit price' * quantity"``. It is read by a list
        of what it may hold and not executed as Python, so that files can hold it.

    Examples
    --------
    >>> import lookalike as la
    >>> la.Formula("total", "price * quantity")
    Formula('total', 'price * quantity')
    """

    kind: ClassVar[str] = "formula"
    expression: Expression
    may_be_missing: bool  # learned: whether a value may be missing where it could be computed

    def __init__(self, column: Name, expression: str) -> None:
        object.__setattr__(self, "expression", Expression(expression))
        super().__init__(column, expression)

    @property
    def columns(self) -> tuple[Name, ...]:
        return (self.arguments[0], *self.expression.names)

    def _suits(self, column: Any) -> None:
        super()._suits(column)
        if column.storage.family not in ("float", "integer", "boolean"):
            raise SchemaError(
                f"{self} names column {column.name!r}, which holds {FAMILY_WORDS[column.storage.family]}. A "
                "formula computes numbers and truth values from such."
            )

    def _learned(self, sheet: Sheet) -> Self:
        holes = sheet.missing(self.columns[0]) & ~np.isnan(self.compute(sheet))
        return self._with(may_be_missing=bool(holes.any()))

    def compute(self, sheet: Sheet) -> Floats:
        """What the column should hold, (n,) float64; NaN where there is no result."""
        return self.expression({name: sheet.number(name) for name in self.expression.names})

    def holds(self, sheet: Sheet) -> Mask:
        target = self.columns[0]
        column, held, computed = sheet.columns[target], sheet.number(target), self.compute(sheet)
        slack = 8 * float(np.finfo(precision_of(column.storage)).eps) * np.fmax(abs(computed), abs(held))
        if isinstance(column, Number) and column.decimals is not None:
            slack += 0.5 / 10**column.decimals  # whichever way halves were rounded
        silent = np.any([sheet.missing(name) for name in self.columns], axis=0)
        return silent | (np.abs(held - computed) <= slack)

    def why(self, sheet: Sheet, row: int) -> str:
        return f"; computed it is {self.compute(sheet)[row]:.10g}"

    def to_dict(self) -> dict[str, Any]:
        return {**super().to_dict(), "may_be_missing": self.may_be_missing}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], sheet: Sheet) -> Self:
        holes = data["may_be_missing"]
        require(isinstance(holes, bool), f"may_be_missing of a formula is {holes!r}")
        return super().from_dict(data, sheet)._with(may_be_missing=holes)


class FixedCombinations(Constraint):
    """Some columns hold together only what they held together in fit.

    They are learned as one column whose levels are the combinations; a missing value is part of one.

    Parameters
    ----------
    *columns : column names
        ``FixedCombinations("country", "city")``: no city moves.

    Examples
    --------
    >>> import lookalike as la
    >>> la.FixedCombinations("country", "city")
    FixedCombinations('country', 'city')
    """

    kind: ClassVar[str] = "combinations"
    seen: Mapping[Name, Array]  # learned: each column's cells in the combinations, most frequent first

    def __init__(self, *columns: Name) -> None:
        super().__init__(*columns)
        if len(columns) < 2:
            raise SchemaError(
                f"{self} needs two columns or more, such as FixedCombinations('country', 'city')."
            )

    def _learned(self, sheet: Sheet) -> Self:
        code = codes([sheet[name] for name in self.columns])
        _, first, count = np.unique(code, return_index=True, return_counts=True)
        first = first[np.argsort(-count, kind="stable")]
        return self._with(seen={name: sheet[name][first].copy() for name in self.columns})

    def number_of(self, sheet: Sheet, names: Sequence[Name] = ()) -> NDArray[np.int64]:
        """Which combination each row holds, in some columns or in all, shape (n,); -1 for none seen."""
        n = len(self.seen[self.columns[0]])
        code = codes([np.concatenate([self.seen[name], sheet[name]]) for name in names or self.columns])
        position = np.full(code.max(initial=0) + 1, -1)
        position[code[:n]] = np.arange(n)
        return position[code[n:]]

    def holds(self, sheet: Sheet) -> Mask:
        return self.number_of(sheet) >= 0

    def allows(self, sheet: Sheet, given: Set[Name]) -> Mask:
        names = [name for name in self.columns if name in given]
        return self.number_of(sheet, names) >= 0 if names else np.ones(sheet.n_rows, bool)

    def to_dict(self) -> dict[str, Any]:
        seen = [[None if x != x else x for x in self.seen[name].tolist()] for name in self.columns]
        return {**super().to_dict(), "seen": seen}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], sheet: Sheet) -> Self:
        constraint, seen = super().from_dict(data, sheet), {}
        for name, cells in zip(constraint.columns, data["seen"], strict=True):
            column = sheet.columns[name]
            rule = is_count if isinstance(column, Levelled) else _is_number_or_none
            require(
                all_of(cells, rule)
                and len(cells) == len(data["seen"][0]) > 0
                and not (isinstance(column, Levelled) and max(cells) > column.blank),
                f"{constraint} has combinations that cannot be",
            )
            seen[name] = np.array(cells, sheet[name].dtype)
        return constraint._with(seen=seen)


def _is_number_or_none(value: object) -> bool:
    return value is None or is_number(value)


KINDS: dict[str, type[Constraint]] = {
    kind.kind: kind for kind in (Unique, Inequality, Formula, FixedCombinations)
}


def of_type(constraints: Iterable[Constraint], kind: type[Any]) -> Iterator[Any]:
    """Those of one kind."""
    return (constraint for constraint in constraints if isinstance(constraint, kind))
