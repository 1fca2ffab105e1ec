"""Columns of quantities: numbers, instants and spans of time as float64."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.allowed import Interval
from lookalike.columns import Encoded, Port, as_condition, span
from lookalike.errors import ConditionError, SchemaError
from lookalike.values import NANOSECONDS, Array, Storage, Values, values_of

_EXACT = 2**53  # integers up to here are exact in float64
_BELOW = float(np.nextafter(2.0**64, 0))  # the largest float64 that is a uint64
_MOST_DECIMALS = 6
_HABIT = 20  # that so many values share a step by chance has a probability of 2**-19


@dataclass(frozen=True, repr=False)
class Measured(Encoded):
    """A quantity: one float64 a row, in steps from an origin, both of which are whole numbers.

    Values beyond 2**53 of them are centred and divided in integers, so that the float64 is exact as long as
    the range holds no more than 2**53 steps; a wider range is kept to within float64's share of it.
    """

    part: ClassVar[str] = "numbers"

    low: float | int = field(default=0, init=False)  # decode never goes below or above
    high: float | int = field(default=0, init=False)
    origin: int = field(default=0, init=False)
    step: int = field(default=1, init=False)

    def fit(self, values: Values) -> Self:
        fitted = super().fit(values)
        if not len(values.present):
            raise SchemaError(
                f"column {values.name!r} has no value at all, so there is no {self.kind} to learn. Drop it, "
                "or leave its kind to be inferred."
            )
        if values.storage.categories is not None:
            raise SchemaError(
                f"column {values.name!r} has a categorical dtype, which cannot be generated as {self.kind}. "
                "Convert it to numbers, times or text first."
            )
        return fitted

    def joined(self, other: Self) -> Self:
        both = super().joined(other)
        low, high = min(self.low, other.low), max(self.high, other.high)
        step = math.gcd(self.step, other.step, self.origin - other.origin)
        return both.learned(low=low, high=high, origin=min(self.origin, other.origin), step=step)

    def encode(self, values: Values, allow_missing: bool = False) -> NDArray[np.float64]:
        """Turn values into float64; NaN where missing."""
        self.conform(values, allow_missing)
        encoded = self._measure(values)
        if values.any_missing:
            encoded = np.where(values.missing, np.nan, encoded)
        return encoded

    def _measure(self, values: Values) -> NDArray[np.float64]:
        data = values.plain()
        if data.dtype.kind == "f":
            return data if self.is_plain else (data - float(self.origin)) / float(self.step)
        if self.is_plain:
            return data.astype(np.float64)
        return _steps(data, self.origin, self.step)

    @property
    def is_plain(self) -> bool:
        """Whether the encoded number is the value itself."""
        return self.origin == 0 and self.step == 1

    @property
    def least(self) -> float:
        """The least number, encoded."""
        return (self.low - self.origin) / self.step

    def decode(self, encoded: NDArray[np.float64]) -> Values:
        """Turn float64 back into values: within the range of fit and on its grid."""
        encoded = np.asarray(encoded, dtype=np.float64)
        missing = np.isnan(encoded)
        data = self._on_grid(np.where(missing, self.least, encoded))
        return Values(self.name, self.storage, data, missing)

    def _on_grid(self, encoded: NDArray[np.float64]) -> Array:
        return _whole(encoded, self.origin, self.step, math.ceil(self.low), math.floor(self.high))

    @property
    def grid(self) -> tuple[int, int, int, int]:
        """Origin, step, minimum and maximum in the whole numbers of `port`."""
        return self.origin, self.step, math.ceil(self.low), math.floor(self.high)

    def feed(self, values: Values, allow_missing: bool = False) -> Array:
        port = self.port
        if port.type == "float64":
            return super().feed(values, allow_missing)
        encoded, dtype = self.encode(values, allow_missing), np.dtype(port.type)
        missing = np.array(port.missing, dtype)
        if not len(values.present):
            return np.full(len(values), missing)
        whole = self._ticks(values, encoded).astype(dtype, copy=False)
        # What is there must not look missing.
        beside = missing + dtype.type(1) if port.missing == np.iinfo(dtype).min else missing - dtype.type(1)
        return np.where(values.missing, missing, np.where(whole == missing, beside, whole))

    def tensor(self, encoded: NDArray[np.float64]) -> Array:
        return np.ascontiguousarray(encoded)

    def _ticks(self, values: Values, encoded: NDArray[np.float64]) -> Array:
        """Values as the whole numbers of `port`, the nearest it has room for."""
        raise NotImplementedError

    def condition(self, values: Values) -> NDArray[np.float64]:
        """Encode a condition, which must lie in the range of fit and on its grid."""
        values = self.asked(values)
        encoded = as_condition(self, values)
        held = self.held(encoded)
        # What differs by rounding is the same number: 0.1 + 0.2 is 0.3, and 0.1 is float32's 0.1.
        slack = 4 * float(np.finfo(precision_of(self.storage)).eps) * np.abs(encoded)
        astray = (np.abs(encoded - held) > slack) & ~values.missing
        if astray.any():
            row = int(astray.argmax())
            raise ConditionError(
                f"{self.name!r} cannot be {values.show(row)}: fit saw {self.describe()}, and the nearest "
                f"that can be generated is {self.decode(encoded).show(row)}."
            )
        return held

    def asked(self, values: Values) -> Values:
        """Values of a condition as the column has them."""
        return values

    def held(self, cells: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.where(np.isnan(cells), np.nan, self._measure(self.decode(cells)))

    @property
    def grain(self) -> float:
        """What lies between two encoded numbers that follow each other; 0 where any may be held."""
        return 1.0

    def between(self, low: Values | None, high: Values | None) -> Interval:
        """The interval that two values leave of the range of fit, both ends on its grid."""
        low, high = (None if end is None else self.asked(end) for end in (low, high))
        least, most = self._inside(low, -np.inf, 1), self._inside(high, np.inf, -1)
        if least is None or most is None or least > most:
            end = high if low is None else low
            assert end is not None  # a range without ends is that of fit
            near = self.decode(self._bound(end)).show(0)
            raise ConditionError(
                f"{self.name!r} cannot lie {span(low, high)}: fit saw {self.describe()}, and the nearest to "
                f"{end.show(0)} that can be generated is {near}."
            )
        return Interval(least, most)

    def _inside(self, end: Values | None, farthest: float, step: int) -> float | None:
        """The first number that can be held from an end on, upwards or downwards."""
        start = farthest if end is None else float(self._bound(end)[0])
        for cell in (start, start + step * self.grain):
            held = float(self.held(np.array([cell]))[0])
            if (held - start) * step >= 0:
                return held
        return None

    def _bound(self, end: Values) -> NDArray[np.float64]:
        return as_condition(self, end)

    def common(self) -> Array:
        raise ConditionError(
            f"{self.name!r} is of kind {self.kind}, which has no levels to balance. Name some values: "
            "la.Balanced([...])."
        )

    def show(self, value: float | int) -> str:
        """A value of the column as people write it."""
        one = Values(self.name, self.storage, np.array([value]), np.zeros(1, dtype=bool))
        return one.show(0)

    def describe(self) -> str:
        return f"{self.show(self.low)} to {self.show(self.high)}"


def _steps(data: Array, origin: int, step: int) -> NDArray[np.float64]:
    """Return (data - origin) / step with the difference taken in integers."""
    if not len(data):
        return np.zeros(0)
    low, high = int(data.min()), int(data.max())
    if max(abs(low - origin), abs(high - origin), step) >= 2**64:
        return (data.astype(np.float64) - float(origin)) / step
    # Differences modulo 2**64 are exact, also where int64 would overflow.
    above = data >= origin
    zero = np.uint64(origin % 2**64)
    distance = data.astype(np.uint64)
    distance = np.where(above, distance - zero, zero - distance)
    whole, rest = np.divmod(distance, np.uint64(step))
    steps = whole.astype(np.float64)
    if rest.any():
        steps += rest.astype(np.float64) / step
    return np.where(above, steps, -steps)


def _whole(encoded: NDArray[np.float64], origin: int, step: int, low: int, high: int) -> Array:
    """Return origin + step * round(encoded), clipped, in integers."""
    least, most = -((origin - low) // step), (high - origin) // step
    if least >= -_EXACT and most <= _EXACT:
        steps = np.rint(np.clip(encoded, least, most)).astype(np.int64)
        if step * least >= -(2**63) and step * most < 2**63 and high < 2**63:
            # The multiple and the sum stay within int64, for both lie between low and high.
            wide = steps * np.int64(step)
            return wide + np.int64(origin)
    # Beyond that, products and sums modulo 2**64 are exact: what they stand for lies between low and high.
    down, up = np.uint64(max(-least, 0)), np.uint64(max(most, 0))
    steps = np.rint(np.clip(encoded, -_BELOW, _BELOW))
    within = np.minimum(np.abs(steps).astype(np.uint64), np.where(steps < 0, down, up))
    size = np.where(encoded >= float(most), up, np.where(encoded <= float(least), down, within))
    total = np.uint64(origin % 2**64) + np.where(steps < 0, np.uint64(0) - size, size) * np.uint64(step)
    return total if high >= 2**63 else total.view(np.int64)


def _grid(data: Array, natural: Sequence[int] = (1,)) -> tuple[int, int, int]:
    """Minimum, maximum and step of whole numbers.

    The step is the greatest that all of them keep. Of few values that is chance more than habit: then it is
    the largest of the `natural` ones, unless the range needs more.
    """
    low, high = int(data.min()), int(data.max())
    step = int(np.gcd.reduce(data.astype(np.uint64) - np.uint64(low % 2**64)))
    if (high - low) <= _EXACT and len(np.unique(data[:1000])) < _HABIT:
        step = math.gcd(step, max((unit for unit in natural if step % unit == 0), default=1))
    return low, high, max(step, 1)


@dataclass(frozen=True, repr=False)
class Number(Measured):
    """A quantity.

    Parameters
    ----------
    nullable : bool
        Whether a value may be missing although none was in fit.
    lower, upper : float, optional
        Bounds of what is generated, in place of the minimum and maximum in fit. A value beyond them is
        refused in fit.
    """

    kind: ClassVar[str] = "number"
    families: ClassVar[frozenset[str]] = frozenset({"float", "integer", "boolean", "text"})

    lower: float | None = field(default=None, kw_only=True)
    upper: float | None = field(default=None, kw_only=True)
    integral: bool = field(default=False, init=False)
    decimals: int | None = field(default=None, init=False)  # digits behind the point, where few are enough

    def __post_init__(self) -> None:
        for word in ("lower", "upper"):
            bound = getattr(self, word)
            object.__setattr__(self, word, bound.item() if isinstance(bound, np.generic) else bound)

    @classmethod
    def suits(cls, values: Values, plain_array: bool) -> bool:
        return values.family in ("float", "integer")

    def fit(self, values: Values) -> Self:
        fitted = super().fit(values)
        values = self._as_numbers(values)
        data = values.present
        if data.dtype.kind == "f":
            refuse_infinity(values)
            low, high = float(data.min()), float(data.max())
            state: dict[str, Any] = {"decimals": decimals_of(data, precision_of(values.storage))}
        else:
            low, high = int(data.min()), int(data.max())
            state = {"integral": True, "decimals": 0}
        self._within_bounds(values, low, high)
        return fitted.learned(**state, **self._range(data, low, high))

    def joined(self, other: Self) -> Self:
        few = (self.decimals, other.decimals)
        decimals = None if None in few else max(filter(None, few), default=0)
        return super().joined(other).learned(decimals=decimals, integral=self.integral and other.integral)

    def _range(self, data: Array, low: float, high: float) -> dict[str, float]:
        """What is generated lies between these; whole numbers too large for float64 also need an origin."""
        if data.dtype.kind == "f":
            return {
                "low": low if self.lower is None else float(self.lower),
                "high": high if self.upper is None else float(self.upper),
            }
        least, most = int(low), int(high)
        if self.lower is not None:
            least = max(math.ceil(self.lower), -(2**63))
        if self.upper is not None:
            most = min(math.floor(self.upper), 2**64 - 1 if least >= 0 else 2**63 - 1)
        if max(abs(least), abs(most)) <= _EXACT:
            return {"low": least, "high": most}
        origin, _, step = _grid(data)
        return {"low": least, "high": most, "origin": origin, "step": step}

    def _within_bounds(self, values: Values, low: float, high: float) -> None:
        for word, bound in (("lower", self.lower), ("upper", self.upper)):
            if bound is not None and not (isinstance(bound, (int, float)) and math.isfinite(bound)):
                raise SchemaError(f"column {values.name!r}: {word} must be a finite number, got {bound!r}.")
        if self.lower is not None and self.upper is not None and not self.lower < self.upper:
            raise SchemaError(
                f"column {values.name!r}: lower={self.lower} must be less than upper={self.upper}."
            )
        for word, bound, broken in (("lower", self.lower, low), ("upper", self.upper, high)):
            if bound is not None and (broken < bound if word == "lower" else broken > bound):
                row = int(np.flatnonzero((values.data == broken) & ~values.missing)[0])
                raise SchemaError(
                    f"column {values.name!r} holds {values.show(row)} in row {row}, beyond {word}={bound}. "
                    "Widen the bound or correct the value."
                )

    def _as_numbers(self, values: Values) -> Values:
        """Truth values and text as numbers, for a user who asked for that."""
        if values.family == "boolean":
            return replace(values, data=values.plain().astype(np.int64), labels=None)
        if values.family != "text":
            return values
        codes, labels = values.coded()
        parsed = np.empty(max(len(labels), 1))
        for i, label in enumerate(labels):
            try:
                parsed[i] = float(label)
            except ValueError:
                parsed[i] = np.nan
        numbers = np.where(values.missing, 0.0, parsed[codes])
        bad = np.isnan(numbers)
        if bad.any():
            row = int(bad.argmax())
            raise SchemaError(
                f"column {values.name!r} holds {values.show(row)} in row {row}, which is not a number. "
                "Correct it, make it missing, or leave the column a la.Categorical()."
            )
        return replace(values, data=numbers, labels=None)

    def _same_type(self, values: Values) -> None:
        if self.storage.family == "text" and values.family in ("float", "integer"):
            return
        super()._same_type(values)

    def cell(self, value: Any) -> float | None:
        if not (self.is_plain and self.storage.family in ("float", "integer")):
            return None
        if isinstance(value, (float, np.floating)):
            return float(value) if math.isfinite(value) else None
        whole = type(value) is int or isinstance(value, np.integer)
        return float(value) if whole and -_EXACT <= value <= _EXACT else None

    def _measure(self, values: Values) -> NDArray[np.float64]:
        values = self._as_numbers(values)
        refuse_infinity(values)
        return super()._measure(values)

    def _on_grid(self, encoded: NDArray[np.float64]) -> Array:
        if self.integral:
            data = super()._on_grid(encoded)
        else:
            data = np.clip(encoded, self.low, self.high)
            if self.decimals is not None:
                data = np.clip(_rounded(data, self.decimals), self.low, self.high)
        return _FROM_NUMBERS.get(self.storage.family, _unchanged)(data, self.decimals)

    @cached_property
    def port(self) -> Port:
        if self.is_plain:
            return Port("float64", math.nan)
        unsigned = self.low >= 0 and self.storage.native.lower().endswith(("uint64", "u8"))
        ends = np.iinfo(np.uint64 if unsigned or self.high >= 2**63 else np.int64)
        # The end that is far from fit, where one more or less is lost in a float64.
        return Port(ends.dtype.name, ends.min if self.origin - ends.min > 2**62 else ends.max)

    def _ticks(self, values: Values, encoded: NDArray[np.float64]) -> Array:
        data, ends = values.plain(), np.iinfo(self.port.type)
        if data.dtype.kind == "f":
            steps = np.where(values.missing, 0.0, encoded) * self.step
            return _whole(steps, self.origin, 1, ends.min, ends.max)
        if data.dtype == ends.dtype:
            return data
        return np.maximum(data, 0) if data.dtype == np.int64 else np.minimum(data, 2**63 - 1)

    def held(self, cells: NDArray[np.float64]) -> NDArray[np.float64]:
        return self._precise(super().held(cells))

    @property
    def grain(self) -> float:
        return 0.0 if self.decimals is None else 10.0**-self.decimals

    def _bound(self, end: Values) -> NDArray[np.float64]:
        return self._precise(super()._bound(end))

    def _precise(self, cells: NDArray[np.float64]) -> NDArray[np.float64]:
        """Numbers as the container holds them, in float32 or less."""
        return cells if self.integral else cells.astype(precision_of(self.storage)).astype(np.float64)

    def show(self, value: float | int) -> str:
        return f"{value:.10g}" if isinstance(value, float) else str(value)


def _unchanged(data: Array, decimals: int | None) -> Array:
    return data


def _written(data: Array, decimals: int | None) -> Array:
    """Numbers as text, for a column of text that was declared a number."""
    text = np.empty(len(data), dtype=object)
    text[:] = [repr(x) if decimals is None else f"{x:.{decimals}f}" for x in data.tolist()]
    return text


_FROM_NUMBERS: dict[str, Callable[[Array, int | None], Array]] = {
    "boolean": lambda data, decimals: data.astype(bool),
    "text": _written,
}


def refuse_infinity(values: Values) -> None:
    """Raise SchemaError where a column of floats holds an infinity."""
    data = values.plain() if values.family == "float" else values.data
    # A sum is finite unless a value is not, or the sum overflows: one pass without a mask as a rule.
    with np.errstate(over="ignore", invalid="ignore"):
        if data.dtype.kind != "f" or np.isfinite(data.sum()):
            return
    infinite = np.isinf(data) & ~values.missing
    if infinite.any():
        row = int(infinite.argmax())
        raise SchemaError(
            f"column {values.name!r} holds {data[row]} in row {row}. Infinity has no place on a scale: "
            "replace it with a large number or with a missing value (NaN)."
        )


def precision_of(storage: Storage) -> type[np.floating[Any]]:
    """The width in which a float column is held, for 0.1 has other digits in float32 than in float64."""
    word = storage.native.lower()
    if "float32" in word or word in ("<f4", ">f4", "float", "arrow:float"):
        return np.float32
    return np.float16 if "float16" in word or "halffloat" in word or word in ("<f2", ">f2") else np.float64


def _rounded(data: NDArray[np.float64], decimals: int) -> NDArray[np.float64]:
    """Nearest numbers with so many decimals. Dividing whole numbers by a power of ten rounds correctly."""
    scale = 10.0**decimals
    small = np.abs(data) < _EXACT / scale  # beyond that, a float64 has no more decimals to lose
    return np.where(small, np.rint(np.where(small, data, 0.0) * scale) / scale, data)


def decimals_of(data: NDArray[np.float64], precision: type[np.floating[Any]]) -> int | None:
    """Fewest decimals that write every value exactly, or None where six are not enough."""
    exact = data.astype(precision)
    few = data[:: max(len(data) // 64, 1)]
    for decimals in range(_MOST_DECIMALS + 1):
        if np.array_equal(
            _rounded(few, decimals).astype(precision), few.astype(precision)
        ) and np.array_equal(_rounded(data, decimals).astype(precision), exact):
            return decimals
    return None


@dataclass(frozen=True, repr=False)
class _Clocked(Measured):
    """A count of time units: centred at the minimum, in steps of the granularity that fit saw."""

    def fit(self, values: Values) -> Self:
        fitted = super().fit(values)
        tick = NANOSECONDS[values.storage.unit]
        low, high, step = _grid(values.present, [n // tick for n in NANOSECONDS.values() if n >= tick])
        return fitted.learned(low=low, high=high, origin=low, step=step)

    def _measure(self, values: Values) -> NDArray[np.float64]:
        if not len(values.present):
            return np.zeros(len(values))
        theirs, mine = NANOSECONDS[values.storage.unit], NANOSECONDS[self.storage.unit]
        data = values.plain()
        data = np.where(values.missing, data[values.missing.argmin()], data) if values.any_missing else data
        if theirs < mine:
            factor = mine // theirs
            return _steps(data, self.origin * factor, self.step * factor)
        factor = theirs // mine
        near = _within(data, factor)
        steps = _steps(near * factor, self.origin, self.step)
        far = near != data
        if far.any():  # times the factor, these would overflow int64
            steps = np.where(far, (data.astype(np.float64) * factor - self.origin) / self.step, steps)
        return steps

    @cached_property
    def port(self) -> Port:
        """In microseconds, for finer ones do not reach the year 9999; in the unit of fit where that is finer.

        A range of more than 292,000 years takes a coarser unit, and times of day are in nanoseconds.
        """
        mine, most = NANOSECONDS[self.storage.unit], max(abs(int(self.low)), abs(int(self.high)))
        finest = min(mine, NANOSECONDS["ns" if self.storage.family == "time" else "us"])
        units = (unit for unit, n in NANOSECONDS.items() if n >= finest and most * (mine // n) < 2**63)
        return Port("int64", np.iinfo(np.int64).min, next(units))

    @property
    def grid(self) -> tuple[int, int, int, int]:
        factor = NANOSECONDS[self.storage.unit] // NANOSECONDS[self.port.unit]
        return self.origin * factor, self.step * factor, int(self.low) * factor, int(self.high) * factor

    def _ticks(self, values: Values, encoded: NDArray[np.float64]) -> Array:
        theirs, ports = NANOSECONDS[values.storage.unit], NANOSECONDS[self.port.unit]
        if theirs < ports:
            return values.plain() // (ports // theirs)
        factor = theirs // ports
        return _within(values.plain(), factor) * factor


def _within(data: NDArray[np.int64], factor: int) -> NDArray[np.int64]:
    """The nearest numbers that times the factor are within int64."""
    room = (2**63 - 1) // factor
    return np.clip(data, -room, room)


@dataclass(frozen=True, repr=False)
class Datetime(_Clocked):
    """A date or an instant, with its unit and time zone.

    Parameters
    ----------
    nullable : bool
        Whether a value may be missing although none was in fit.
    """

    kind: ClassVar[str] = "datetime"
    families: ClassVar[frozenset[str]] = frozenset({"datetime"})

    @classmethod
    def suits(cls, values: Values, plain_array: bool) -> bool:
        return values.family == "datetime"

    def asked(self, values: Values) -> Values:
        """ISO 8601 text as times, which is how people write a condition."""
        if values.family != "text":
            return values
        texts = values.plain().tolist()
        try:
            times = [
                None if gone else dt.datetime.fromisoformat(text)
                for text, gone in zip(texts, values.missing.tolist(), strict=True)
            ]
        except ValueError as error:
            raise ConditionError(
                f"{self.name!r} holds dates or times: {error}. Write it as 2024-12-31 or "
                "2024-12-31T23:59:00+01:00."
            ) from error
        return values_of(self.name, times)


@dataclass(frozen=True, repr=False)
class Duration(_Clocked):
    """A span of time, or a time of day.

    Parameters
    ----------
    nullable : bool
        Whether a value may be missing although none was in fit.
    """

    kind: ClassVar[str] = "duration"
    families: ClassVar[frozenset[str]] = frozenset({"duration", "time"})

    @classmethod
    def suits(cls, values: Values, plain_array: bool) -> bool:
        return values.family in ("duration", "time")
