"""Kinds of column: what each learns from its values, and how it goes to plain numbers and back.

    Column
    +-- Encoded         what a model sees
    |   +-- Measured      one float64 a row, NaN where missing (lookalike.measured)
    |   |   +-- Number
    |   |   +-- Datetime
    |   |   +-- Duration
    |   +-- Levelled      one int64 a row: a level, the unseen or the missing (lookalike.levelled)
    |       +-- Categorical
    |       +-- Boolean
    |       +-- Constant
    +-- Identifier      not modelled; fresh values when generating (lookalike.identifiers)
    +-- Ignored         not modelled, not generated

An instance made by a user is a wish, such as ``Number(lower=0)``; `fit` returns a copy that has learned.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.allowed import Allowed, Options
from lookalike.errors import ConditionError, SchemaError
from lookalike.values import Array, Name, Storage, Values

# What may come at predict time where a family was fitted. A column without any value may come anywhere.
_COMPATIBLE: dict[str, frozenset[str]] = {
    "float": frozenset({"float", "integer"}),
    "integer": frozenset({"float", "integer"}),
    "boolean": frozenset({"boolean", "integer", "float"}),
    "text": frozenset({"text"}),
    "datetime": frozenset({"datetime"}),
    "duration": frozenset({"duration"}),
    "time": frozenset({"time"}),
    "nothing": frozenset({"float", "integer", "boolean", "text", "datetime", "duration", "time"}),
}
FAMILY_WORDS = {
    "float": "numbers",
    "integer": "whole numbers",
    "boolean": "truth values",
    "text": "text",
    "datetime": "dates or times",
    "duration": "durations",
    "time": "times of day",
    "nothing": "no values at all",
}
_CONVERT = {
    "float": "Convert it with astype(float)",
    "integer": "Convert it with astype(int)",
    "boolean": "Convert it with astype(bool)",
    "text": "Convert it with astype(str)",
    "datetime": "Parse it with to_datetime",
    "duration": "Convert it to a duration, such as with to_timedelta",
    "time": "Convert it to times of day",
    "nothing": "Drop its values",
}


@dataclass(frozen=True)
class Port:
    """How a column enters a graph of tensors and leaves it: as one tensor with one value, or image, a row."""

    type: str  # float64, int64, string; uint64 where int64 has no room; of images any numpy has
    missing: float | int | str  # the value that says so; of pixels what stands where none is known
    unit: str = ""  # of times
    shape: tuple[int, ...] = ()  # of an image


@dataclass(frozen=True, repr=False)
class Column:
    """What all kinds share. `name`, `storage` and `missing` (a share) are learned."""

    kind: ClassVar[str] = ""
    part: ClassVar[str] = ""  # the array of `Table` that the column goes to, if any

    name: Name = field(default="", init=False)
    storage: Storage = field(default=Storage("nothing"), init=False)
    missing: float = field(default=0.0, init=False)

    @classmethod
    def suits(cls, values: Values, plain_array: bool) -> bool:
        """Whether a column that nobody spoke for should be of this kind."""
        return False

    def fit(self, values: Values) -> Self:
        """Learn from the values of a column, or refuse it."""
        return self.learned(name=values.name, storage=values.storage, missing=float(values.missing.mean()))

    def joined(self, other: Self) -> Self:
        """What this column learned of some rows and another of others.

        But for the share that is missing: it takes the numbers of rows to tell.
        """
        # How a missing value is written is known where one was seen.
        seen = self if self.missing or not other.missing else other
        return self.learned(storage=seen.storage, missing=max(self.missing, other.missing))

    def learned(self, **what: Any) -> Self:
        """Copy with learned attributes set."""
        fitted = copy.copy(self)
        for key, value in what.items():
            object.__setattr__(fitted, key, value)
        return fitted

    def describe(self) -> str:
        """Say in a few words what was learned, for the repr of a schema."""
        return ""

    def generate(self, seed: int, rows: NDArray[np.int64]) -> Values | None:
        """Make values that come from no table, as a function of seed and row. None leaves the column out."""
        return None

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON needs to rebuild the column."""
        state = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "storage"}
        state = {key: list(value) if isinstance(value, tuple) else value for key, value in state.items()}
        return {"kind": self.kind, **state, "storage": self.storage.to_dict()}

    def __repr__(self) -> str:
        if self.storage.native:
            return f"<{self.kind} {self.name!r}: {self.describe()}>"
        chosen = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        said = [
            f"{f.name}={chosen[f.name]!r}" for f in fields(self) if chosen.get(f.name, f.default) != f.default
        ]
        return f"{type(self).__name__}({', '.join(said)})"


@dataclass(frozen=True, repr=False)
class Encoded(Column):
    """A column that a model sees."""

    nullable: bool = field(default=False, kw_only=True)

    families: ClassVar[frozenset[str]] = frozenset(_COMPATIBLE)

    @property
    def may_be_missing(self) -> bool:
        """Whether a missing value was seen in fit or declared legal."""
        return self.nullable or self.missing > 0

    def fit(self, values: Values) -> Self:
        if values.family not in self.families:
            advice = _ADVICE.get((self.kind, values.family), _ADVICE_ELSE)
            raise SchemaError(
                f"column {values.name!r} holds {FAMILY_WORDS[values.family]} (such as {_example(values)}), "
                f"which cannot be {type(self).__name__}. {advice}"
            )
        return super().fit(values)

    def encode(self, values: Values, allow_missing: bool = False) -> Array:
        """Turn values into the numbers of `part`."""
        raise NotImplementedError

    def cell(self, value: Any) -> float | int | None:
        """Encode one Python value of the usual type; None for all others, which `encode` looks at."""
        return None

    def decode(self, encoded: Array) -> Values:
        """Turn numbers of `part` back into values."""
        raise NotImplementedError

    @property
    def port(self) -> Port:
        """What the column is to a graph of tensors."""
        raise NotImplementedError

    def feed(self, values: Values, allow_missing: bool = False) -> Array:
        """Turn values into the tensor of `port`, or refuse them as `encode` does."""
        return self.tensor(self.encode(values, allow_missing))

    def tensor(self, encoded: Array) -> Array:
        """Turn numbers of `part` into the tensor of `port`, where they say all that it does."""
        raise NotImplementedError

    def condition(self, values: Values) -> Array:
        """Encode what rows to be generated should hold, or raise ConditionError."""
        raise NotImplementedError

    def among(self, values: Values) -> Options:
        """The cells that hold one of some values, or raise ConditionError."""
        cells = np.unique(self.condition(values))
        return Options(cells, self.expected(cells))

    def between(self, low: Values | None, high: Values | None) -> Allowed:
        """The cells that lie between two values, None for an open end, or raise ConditionError."""
        raise NotImplementedError

    def common(self) -> Array:
        """The cells of the levels that fit saw, or raise ConditionError where there is none."""
        raise NotImplementedError

    def expected(self, cells: Array) -> NDArray[np.float64]:
        """How often each of some cells, (k,), comes as far as fit can tell; they add up to 1."""
        return np.full(len(cells), 1 / len(cells))

    def held(self, cells: Array) -> Array:
        """Cells as they are once decoded."""
        return cells

    def conform(self, values: Values, allow_missing: bool) -> None:
        """Refuse values of a type other than the one fitted, or missing ones where none may be."""
        if len(values.present):  # a column without a value may be of any type: it is what reading leaves
            self._same_type(values)
        if values.any_missing and not (allow_missing or self.may_be_missing):
            row = int(values.missing.argmax())
            raise SchemaError(
                f"column {self.name!r} is missing (NaN or null) in row {row}, but had no missing value in "
                "fit. Fill it, fit with rows that have holes, or declare it with "
                f"schema={{{self.name!r}: la.{type(self).__name__}(nullable=True)}}."
            )

    def _same_type(self, values: Values) -> None:
        fitted = self.storage.family
        if values.family not in _COMPATIBLE[fitted]:
            raise SchemaError(
                f"column {self.name!r} held {FAMILY_WORDS[fitted]} in fit, but now holds "
                f"{FAMILY_WORDS[values.family]}, such as {_example(values)}. {_CONVERT[fitted]}."
            )
        if fitted == "datetime" and (values.storage.zone is None) != (self.storage.zone is None):
            had = "no time zone" if self.storage.zone is None else f"the time zone {self.storage.zone}"
            has = "none" if values.storage.zone is None else values.storage.zone
            raise SchemaError(
                f"column {self.name!r} had {had} in fit, but now has {has} (such as {_example(values)}). "
                + ("Remove" if self.storage.zone is None else "Attach")
                + " the zone, such as with dt.tz_localize or dt.replace_time_zone."
            )


def _example(values: Values) -> str:
    row = int(np.argmin(values.missing))
    return f"{values.show(row)} in row {row}"


def span(low: Values | None, high: Values | None) -> str:
    """A range in words."""
    start = "" if low is None else f"from {low.show(0)}"
    stop = "" if high is None else f"to {high.show(0)}" if start else f"up to {high.show(0)}"
    return f"{start} {stop or 'on'}".strip()


_ADVICE_ELSE = "Leave the kind to be inferred, or convert the column first."
_ADVICE = {
    ("datetime", "text"): "Parse it first, such as with pandas.to_datetime or polars' str.to_datetime.",
    ("boolean", "text"): "Map it to True and False first, or declare la.Categorical().",
    ("number", "datetime"): "Declare la.Datetime(), or subtract a date to get a duration.",
    ("duration", "float"): "Convert it to a duration first, such as with pandas.to_timedelta.",
}


def as_condition(column: Encoded, values: Values) -> Array:
    """Encode a condition; what a row must not hold, a condition must not ask for."""
    if values.any_missing and not column.may_be_missing:
        raise ConditionError(
            f"{column.name!r} cannot be missing: it never was in fit. Give a value, or declare it with "
            f"schema={{{column.name!r}: la.{type(column).__name__}(nullable=True)}}."
        )
    try:
        return column.encode(values)
    except SchemaError as error:
        raise ConditionError(f"in given, {error}") from error


@dataclass(frozen=True, repr=False)
class Ignored(Column):
    """A column that is neither scored nor generated."""

    kind: ClassVar[str] = "ignored"
