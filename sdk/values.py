"""One column as plain numpy values, whatever container it came from.

`Values` is an array, a mask of what is missing, and a `Storage` that says how the container held it. The
kinds of column see nothing else. Times are whole numbers of their unit since 1970 and never floats; text is
held as codes into its distinct labels.
"""

from __future__ import annotations

import datetime as dt
import re
import zoneinfo
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import SchemaError

Array = NDArray[Any]
Name = str | int
Scalar = str | int | float | bool

# Units of time in nanoseconds: whole multiples of each other, so that converting is integer arithmetic.
NANOSECONDS = {
    "ns": 1,
    "us": 10**3,
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "D": 86400 * 10**9,
}
_CHUNK = 1 << 16  # rows of text that exist as Python objects at once
_NO_MASK = np.zeros(0, dtype=bool)


class UnreadableError(SchemaError, TypeError):
    """A column of a type that no kind can take. Also a TypeError, which scikit-learn asks for."""


@dataclass(frozen=True)
class Storage:
    """How a container held a column, in words that JSON can carry."""

    family: str  # float, integer, boolean, text, datetime, duration, time, nothing
    native: str = ""  # the container's own name of the dtype
    unit: str = ""  # of datetime, duration and time
    zone: str | None = None
    blank: str = "null"  # how a missing value is written where there is a choice
    categories: tuple[Scalar, ...] | None = None  # of a categorical dtype, in its order
    ordered: bool = False
    labels: Storage | None = None  # how the categories themselves are held

    def to_dict(self) -> dict[str, Any]:
        """Return what differs from the defaults."""
        mine = {k: v for k, v in asdict(self).items() if v != getattr(_PLAIN, k) or k == "family"}
        if self.categories is not None:
            mine["categories"] = list(self.categories)
        if self.labels is not None:
            mine["labels"] = self.labels.to_dict()
        return mine

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Storage:
        """Rebuild from `to_dict`."""
        given = dict(data)
        if given.get("categories") is not None:
            given["categories"] = tuple(given["categories"])
        if given.get("labels") is not None:
            given["labels"] = cls.from_dict(given["labels"])
        return cls(**given)


_PLAIN = Storage("nothing")


@dataclass(frozen=True)
class Values:
    """One column in numpy, whatever it came in. `data` are codes into `labels` where there are labels."""

    name: Name
    storage: Storage
    data: Array
    missing: NDArray[np.bool_]
    labels: Array | None = None

    def __len__(self) -> int:
        return len(self.data)

    @property
    def family(self) -> str:
        return self.storage.family

    @cached_property
    def any_missing(self) -> bool:
        return bool(self.missing.any())

    @cached_property
    def present(self) -> Array:
        """The values, or codes, of the rows that have one."""
        return self.data[~self.missing] if self.any_missing else self.data

    def plain(self) -> Array:
        """The values themselves, one a row; anything where missing."""
        if self.labels is None:
            return self.data
        return self.labels[self.data] if len(self.labels) else np.zeros(len(self), dtype=self.labels.dtype)

    def coded(self) -> tuple[NDArray[np.int64], list[Scalar]]:
        """Codes, one a row, into a list of distinct labels; any code where missing."""
        if self.labels is not None:
            return self.data, self.labels.tolist()
        labels, inverse = np.unique(self.present, return_inverse=True)
        codes = np.zeros(len(self), dtype=np.int64)
        codes[~self.missing] = inverse
        return codes, labels.tolist()

    def show(self, row: int) -> str:
        """The value of a row as an error should print it."""
        one = replace(
            self, data=self.plain()[row : row + 1], missing=self.missing[row : row + 1], labels=None
        )
        value = to_objects(one)[0]
        return shorten(str(value) if isinstance(value, _TIMES) else repr(value))


_TIMES = (dt.date, dt.timedelta, dt.time, np.datetime64, np.timedelta64)


def label_array(family: str, labels: Sequence[Scalar]) -> Array:
    """Labels as an array of the dtype that `Values` has for their family."""
    if family in ("text", "nothing"):
        array = np.empty(len(labels), dtype=object)
        array[:] = labels
        return array
    dtype = {"float": np.float64, "boolean": np.bool_}.get(family, np.int64)
    unsigned = dtype is np.int64 and max((int(label) for label in labels), default=0) > np.iinfo(np.int64).max
    return np.array(labels, dtype=np.uint64 if unsigned else dtype)


def shorten(text: str, width: int = 60) -> str:
    """Cut a value so that a message stays readable."""
    return text if len(text) <= width else text[: width - 3] + "..."


def has_rows(given: Any) -> bool:
    """Whether this is a sequence, series or array; text is one value, and so is an array of no dimension."""
    if isinstance(given, (float, int, str)):
        return False
    if isinstance(given, (list, tuple)):
        return True
    return hasattr(given, "__len__") and np.shape(given) != ()


def values_of(name: Name, given: object) -> Values:
    """Read a sequence, series or array of one dimension."""
    if isinstance(given, (list, tuple)):
        array = np.empty(len(given), dtype=object)
        array[:] = given
        return read_array(name, array)
    return read_array(name, np.asarray(given))


# ---- reading: numpy ----------------------------------------------------------------------------------------


def read_array(name: Name, array: Array) -> Values:
    reader = _ARRAY_READERS.get(array.dtype.kind)
    if reader is None:
        raise UnreadableError(
            f"column {name!r} has dtype {array.dtype}, which is not supported. Convert it to numbers or text."
        )
    return reader(name, array)


def _float_array(name: Name, array: Array) -> Values:
    native = array.dtype.str
    with np.errstate(over="ignore"):
        data = array.astype(np.float64, copy=False)
    _no_overflow(name, data, array)
    return Values(name, Storage("float", native), data, np.isnan(data))


def _no_overflow(name: Name, data: Array, source: Array) -> None:
    """A long double beyond the range of float64 must not turn into an infinity."""
    if source.dtype.itemsize > 8:
        lost = np.isinf(data) & ~np.isinf(source)
        if lost.any():
            row = int(lost.argmax())
            raise SchemaError(
                f"column {name!r} holds {source[row]!s} in row {row}, beyond the range of a 64-bit float. "
                "Scale the column down."
            )


def _integer_array(name: Name, array: Array) -> Values:
    return Values(name, Storage("integer", array.dtype.str), wide(array), np.zeros(len(array), dtype=bool))


def wide(array: Array) -> Array:
    """Integers as int64, or as uint64 where they do not fit."""
    if array.dtype == np.uint64 and len(array) and array.max() > np.iinfo(np.int64).max:
        return array
    return array.astype(np.int64, copy=False)


def _boolean_array(name: Name, array: Array) -> Values:
    return Values(name, Storage("boolean", array.dtype.str), array, np.zeros(len(array), dtype=bool))


def _text_array(name: Name, array: Array) -> Values:
    return code_text(
        name,
        Storage("text", array.dtype.str if array.dtype.kind == "U" else "T"),
        np.zeros(len(array), dtype=bool),
        lambda start, stop: array[start:stop].tolist(),
    )


# Units outside the table above, and the one they are counted in.
_OTHER_UNITS = {"Y": "D", "M": "D", "W": "D", "generic": "D"}


def time_reader(family: str) -> Callable[[Name, Array], Values]:
    def read(name: Name, array: Array) -> Values:
        missing = np.isnat(array)
        unit, count = np.datetime_data(array.dtype)
        native = array.dtype.str
        if unit in ("ps", "fs", "as"):
            raise UnreadableError(
                f"column {name!r} counts {unit}. Round it to nanoseconds: astype('M8[ns]')."
            )
        if unit not in NANOSECONDS or count != 1:
            unit = _OTHER_UNITS.get(unit, unit)
            array = array.astype(f"{array.dtype.kind}8[{unit}]")
        storage = Storage(family, native, unit=unit)
        return Values(name, storage, array.astype(np.int64), missing)

    return read


def code_text(
    name: Name, storage: Storage, missing: NDArray[np.bool_], chunk: Callable[[int, int], list[Any]]
) -> Values:
    """Number the distinct texts by first appearance, a chunk of rows at a time."""
    seen: dict[str, int] = {}
    codes = np.zeros(len(missing), dtype=np.int64)
    for start in range(0, len(missing), _CHUNK):
        stop = min(start + _CHUNK, len(missing))
        present = np.flatnonzero(~missing[start:stop])
        texts = chunk(start, stop)
        if len(present) < stop - start:
            texts = [texts[i] for i in present]
        for text in dict.fromkeys(texts):
            if text not in seen:
                seen[text] = len(seen)
        codes[start + present] = np.fromiter(map(seen.__getitem__, texts), np.int64, len(texts))
    labels = np.empty(len(seen), dtype=object)
    labels[:] = [str(text) for text in seen]
    return Values(name, storage, codes, missing, labels)


# ---- reading: Python objects -------------------------------------------------------------------------------


def _blank(value: object) -> str | None:
    """How an object says that a value is missing, or None where it does not."""
    if value is None:
        return "None"
    name = type(value).__name__  # by name, for pandas may not be installed
    if name in ("NaTType", "NAType"):
        return {"NaTType": "NaT", "NAType": "NA"}[name]
    if isinstance(value, (float, Decimal, np.floating, np.datetime64, np.timedelta64)) and value != value:
        return "nan" if isinstance(value, (float, Decimal, np.floating)) else "NaT"
    return None


# In the order of asking: timedelta64 is an integer to numpy, bool an int and datetime a date to Python.
_PYTHON_TYPES: tuple[tuple[tuple[type, ...], str], ...] = (
    ((dt.timedelta, np.timedelta64), "timedelta"),
    ((bool, np.bool_), "bool"),
    ((int, np.integer), "int"),
    ((float, np.floating), "float"),
    ((Decimal,), "Decimal"),
    ((str,), "str"),
    ((dt.datetime, np.datetime64), "datetime"),
    ((dt.date,), "date"),
    ((dt.time,), "time"),
)


def _python_type(name: Name, row: int, value: object) -> str:
    for types, word in _PYTHON_TYPES:
        if isinstance(value, types):
            return word
    raise UnreadableError(
        f"column {name!r} holds a {type(value).__name__} in row {row} ({shorten(repr(value))}). Each cell of "
        "the argument must be a string, a number, a truth value or a time. "
        f"Drop the column, or leave it out with schema={{{name!r}: la.Ignored()}}."
    )


def read_objects(name: Name, array: Array) -> Values:
    blanks = [_blank(value) for value in array]
    missing = np.fromiter((blank is not None for blank in blanks), bool, len(array))
    blank = next(filter(None, blanks), "None")
    rows = np.flatnonzero(~missing)
    present = array[rows]
    first: dict[type, int] = {}
    for row, value in zip(rows.tolist(), present, strict=True):
        first.setdefault(type(value), row)
    words = {_python_type(name, row, array[row]): row for row in first.values()}
    reader = _OBJECT_READERS.get(frozenset(words))
    if reader is None:
        examples = " and ".join(
            f"{shorten(repr(array[row]), 30)} ({word}, row {row})" for word, row in list(words.items())[:2]
        )
        raise SchemaError(
            f"column {name!r} mixes types: {examples}. Convert it to one, such as text with astype(str), "
            f"or leave it out with schema={{{name!r}: la.Ignored()}}."
        )
    return reader(name, array, present, missing, blank)


def _spread(present: Array, missing: NDArray[np.bool_]) -> Array:
    """Put the values of the rows that have one back in their rows, zero elsewhere."""
    if len(present) == len(missing):
        return present
    data = np.zeros(len(missing), dtype=present.dtype)
    data[~missing] = present
    return data


def _nothing(name: Name, array: Array, present: Array, missing: NDArray[np.bool_], blank: str) -> Values:
    return Values(name, Storage("nothing", "object", blank=blank), np.zeros(len(array)), missing)


def _object_bool(name: Name, array: Array, present: Array, missing: NDArray[np.bool_], blank: str) -> Values:
    return Values(
        name, Storage("boolean", "object:bool", blank=blank), _spread(present.astype(bool), missing), missing
    )


def _object_int(name: Name, array: Array, present: Array, missing: NDArray[np.bool_], blank: str) -> Values:
    low, high = min(present), max(present)
    if low < -(2**63) or high >= 2**64 or (low < 0 and high >= 2**63):
        return _object_number("object:float")(name, array, present, missing, blank)
    data = wide(np.array(present.tolist(), dtype=np.uint64 if high >= 2**63 else np.int64))
    return Values(name, Storage("integer", "object:int", blank=blank), _spread(data, missing), missing)


def _object_number(native: str) -> Callable[[Name, Array, Array, NDArray[np.bool_], str], Values]:
    def read(name: Name, array: Array, present: Array, missing: NDArray[np.bool_], blank: str) -> Values:
        data = np.empty(len(present))
        rows = np.flatnonzero(~missing)
        for i, value in enumerate(present):
            try:
                data[i] = float(value)
                lost = np.isinf(data[i]) and value != data[i]
            except OverflowError:
                lost = True
            if lost:
                raise SchemaError(
                    f"column {name!r} holds {shorten(str(value))} in row {rows[i]}, beyond the range of a "
                    "64-bit float. Scale the column down."
                )
        return Values(name, Storage("float", native, blank=blank), _spread(data, missing), missing)

    return read


def _object_text(name: Name, array: Array, present: Array, missing: NDArray[np.bool_], blank: str) -> Values:
    return code_text(
        name, Storage("text", "object:str", blank=blank), missing, lambda start, stop: list(array[start:stop])
    )


def _object_datetime(
    name: Name, array: Array, present: Array, missing: NDArray[np.bool_], blank: str
) -> Values:
    zones = {str(getattr(value, "tzinfo", None)) for value in present}
    if len(zones) > 1:
        raise SchemaError(
            f"column {name!r} mixes time zones ({', '.join(sorted(zones)[:3])}). "
            "Convert it to one, such as UTC."
        )
    zone = zones.pop()
    unit, data = _ticks(name, "M", [_instant(value) for value in present])
    storage = Storage(
        "datetime", "object:datetime", unit=unit, zone=None if zone == "None" else zone, blank=blank
    )
    return Values(name, storage, _spread(data, missing), missing)


def _instant(value: Any) -> np.datetime64:
    if isinstance(value, np.datetime64):
        return value
    # Differences of aware times do not overflow where converting them to UTC would.
    since = value - (_EPOCH if value.tzinfo is None else _EPOCH.replace(tzinfo=dt.UTC))
    fine = getattr(value, "nanosecond", 0)  # pandas' Timestamp has what datetime has not
    micros = np.datetime64((since.days * 86400 + since.seconds) * 10**6 + since.microseconds, "us")
    return micros if not fine else micros.astype("M8[ns]") + np.timedelta64(fine, "ns")


_EPOCH = dt.datetime(1970, 1, 1)


def _ticks(name: Name, kind: str, values: list[Any]) -> tuple[str, NDArray[np.int64]]:
    """Times as whole microseconds, or as nanoseconds where these are needed and have room."""
    micros = [value.astype(f"{kind}8[us]") for value in values]
    # Converted there and back: numpy's conversions overflow in silence.
    if all(whole.astype(value.dtype) == value for whole, value in zip(micros, values, strict=True)):
        return "us", np.array(micros, dtype=f"{kind}8[us]").astype(np.int64)
    nanos = [value.astype(f"{kind}8[ns]") for value in values]
    if any(fine.astype(value.dtype) != value for fine, value in zip(nanos, values, strict=True)):
        raise SchemaError(
            f"column {name!r} holds {values[0]} and others that 64 bits of microseconds, or of nanoseconds "
            "where it has those, cannot count together. Round or clip it."
        )
    return "ns", np.array(nanos, dtype=f"{kind}8[ns]").astype(np.int64)


def _object_date(name: Name, array: Array, present: Array, missing: NDArray[np.bool_], blank: str) -> Values:
    data = np.array(present.tolist(), dtype="datetime64[D]").astype(np.int64)
    return Values(
        name,
        Storage("datetime", "object:date", unit="D", blank=blank),
        _spread(data, missing),
        missing,
    )


def _object_timedelta(
    name: Name, array: Array, present: Array, missing: NDArray[np.bool_], blank: str
) -> Values:
    try:
        unit, data = _ticks(name, "m", [_span(value) for value in present])
    except OverflowError as error:
        raise SchemaError(f"column {name!r} holds more than 292,000 years. Clip it.") from error
    storage = Storage("duration", "object:timedelta", unit=unit, blank=blank)
    return Values(name, storage, _spread(data, missing), missing)


def _span(value: Any) -> np.timedelta64:
    if isinstance(value, np.timedelta64):
        return value
    fine = getattr(value, "nanoseconds", 0)
    micros = np.timedelta64((value.days * 86400 + value.seconds) * 10**6 + value.microseconds, "us")
    return micros if not fine else micros.astype("m8[ns]") + np.timedelta64(fine, "ns")


def _object_time(name: Name, array: Array, present: Array, missing: NDArray[np.bool_], blank: str) -> Values:
    if any(value.tzinfo is not None for value in present):
        raise SchemaError(
            f"column {name!r} has times of day with a zone. Convert it to one, and drop the zone."
        )
    data = np.array(
        [((t.hour * 60 + t.minute) * 60 + t.second) * 10**6 + t.microsecond for t in present], dtype=np.int64
    )
    return Values(
        name, Storage("time", "object:time", unit="us", blank=blank), _spread(data, missing), missing
    )


_ObjectReader = Callable[[Name, Array, Array, NDArray[np.bool_], str], Values]
_OBJECT_READERS: dict[frozenset[str], _ObjectReader] = {
    frozenset(): _nothing,
    frozenset({"bool"}): _object_bool,
    frozenset({"int"}): _object_int,
    frozenset({"float"}): _object_number("object:float"),
    frozenset({"int", "float"}): _object_number("object:float"),
    frozenset({"Decimal"}): _object_number("object:Decimal"),
    frozenset({"int", "Decimal"}): _object_number("object:Decimal"),
    frozenset({"float", "Decimal"}): _object_number("object:float"),
    frozenset({"int", "float", "Decimal"}): _object_number("object:float"),
    frozenset({"str"}): _object_text,
    frozenset({"datetime"}): _object_datetime,
    frozenset({"date"}): _object_date,
    frozenset({"timedelta"}): _object_timedelta,
    frozenset({"time"}): _object_time,
}


def _complex_array(name: Name, array: Array) -> Values:
    raise SchemaError(
        f"Complex data not supported: column {name!r} holds {array[0] if len(array) else 'complex numbers'}. "
        "Pass its real and imaginary parts as two columns."
    )


def _bytes_array(name: Name, array: Array) -> Values:
    raise UnreadableError(
        f"column {name!r} holds bytes ({shorten(repr(array[0]) if len(array) else '')}). Decode it to "
        f"text, or leave it out with schema={{{name!r}: la.Ignored()}}."
    )


_ARRAY_READERS: dict[str, Callable[[Name, Array], Values]] = {
    "f": _float_array,
    "i": _integer_array,
    "u": _integer_array,
    "b": _boolean_array,
    "U": _text_array,
    "T": _text_array,
    "M": time_reader("datetime"),
    "m": time_reader("duration"),
    "O": read_objects,
    "c": _complex_array,
    "S": _bytes_array,
}


# ---- writing: what several containers share ----------------------------------------------------------------


def to_objects(values: Values) -> list[Any]:
    """Python objects, one a row; None where missing."""
    objects = _TO_OBJECTS[values.family](values)
    if values.any_missing:
        objects = [
            None if gone else value for value, gone in zip(objects, values.missing.tolist(), strict=True)
        ]
    return objects


def _as_list(values: Values) -> list[Any]:
    return values.plain().tolist()


def _floats_or_decimals(values: Values) -> list[Any]:
    if "ecimal" not in values.storage.native:
        return values.plain().tolist()
    scale = decimal_scale(values.storage.native)
    form = "r" if scale is None else f".{max(scale, 0)}f"
    return [
        None if x != x else Decimal(repr(x) if form == "r" else format(x, form))
        for x in values.plain().tolist()
    ]


def decimal_scale(native: str) -> int | None:
    """Digits behind the point of a decimal dtype, or None where it does not say."""
    match = re.search(r"(?i)decimal\d*\(\D*\d+\D+?(-?\d+)\)", native)
    return int(match.group(1)) if match else None


def _datetimes(values: Values) -> list[Any]:
    stamps = _coarser(values.plain().astype(f"M8[{values.storage.unit}]"))
    times = stamps.tolist()
    if values.storage.zone is None or not all(isinstance(time, dt.datetime) for time in times):
        return [
            time if isinstance(time, dt.date) else stamp for time, stamp in zip(times, stamps, strict=True)
        ]
    zone = _zone(values.storage.zone)
    return [_in_zone(time.replace(tzinfo=dt.UTC), zone) for time in times]


def _coarser(times: Array) -> Array:
    """Nanoseconds as microseconds, which Python has, where that loses nothing."""
    if np.datetime_data(times.dtype)[0] != "ns":
        return times
    coarse = times.astype(f"{times.dtype.kind}8[us]")
    return coarse if np.array_equal(coarse.astype(times.dtype), times) else times


def _in_zone(time: dt.datetime, zone: dt.tzinfo) -> dt.datetime:
    try:
        return time.astimezone(zone)
    except OverflowError:  # the first or the last day that datetime knows
        return time


def _zone(name: str) -> dt.tzinfo:
    offset = re.fullmatch(r"(?:UTC)?([+-])(\d\d):?(\d\d)", name)
    if offset:
        sign = -1 if offset.group(1) == "-" else 1
        return dt.timezone(sign * dt.timedelta(hours=int(offset.group(2)), minutes=int(offset.group(3))))
    try:
        return zoneinfo.ZoneInfo(name)
    except zoneinfo.ZoneInfoNotFoundError:
        return dt.UTC  # the same instant, where the system knows no zones


def _timedeltas(values: Values) -> list[Any]:
    spans = _coarser(values.plain().astype(f"m8[{values.storage.unit}]"))
    return [t if isinstance(t, dt.timedelta) else s for t, s in zip(spans.tolist(), spans, strict=True)]


def _times(values: Values) -> list[Any]:
    count = values.plain() * NANOSECONDS[values.storage.unit] // 1000
    return [
        dt.time(int(c // 3_600_000_000 % 24), int(c // 60_000_000 % 60), int(c // 10**6 % 60), int(c % 10**6))
        for c in count.tolist()
    ]


_TO_OBJECTS: dict[str, Callable[[Values], list[Any]]] = {
    "float": _floats_or_decimals,
    "integer": _as_list,
    "boolean": _as_list,
    "text": _as_list,
    "datetime": _datetimes,
    "duration": _timedeltas,
    "time": _times,
    "nothing": lambda values: [None] * len(values),
}
