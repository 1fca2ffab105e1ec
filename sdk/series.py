"""A series of any container that narwhals knows, as `Values`."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

from lookalike.values import (
    Name,
    Storage,
    UnreadableError,
    Values,
    code_text,
    decimal_scale,
    time_reader,
    wide,
)


def _nulls(series: nw.Series[Any]) -> NDArray[np.bool_]:
    return series.is_null().to_numpy().astype(bool)


def _float_series(name: Name, series: nw.Series[Any], native: str) -> Values:
    nulls = _nulls(series)
    data = np.asarray(series.to_numpy(), dtype=np.float64)
    missing = np.isnan(data) | nulls
    written_nan = bool(missing.any()) and not nulls.any()
    return Values(name, Storage("float", native, blank="nan" if written_nan else "null"), data, missing)


def _integer_series(name: Name, series: nw.Series[Any], native: str) -> Values:
    nulls = _nulls(series)
    data = np.asarray((series.fill_null(0) if nulls.any() else series).to_numpy())
    return Values(name, Storage("integer", native), wide(data), nulls)


def exact_series(name: Name, series: nw.Series[Any], native: str) -> Values:
    """Decimals and 128-bit integers: as int64 where they are whole and fit, else as float64."""
    if not decimal_scale(native):
        with suppress(Exception):  # each backend has its own overflow error
            return _integer_series(name, series.cast(nw.Int64), native)
    nulls = _nulls(series)
    data = np.fromiter((np.nan if v is None else float(v) for v in series.to_list()), np.float64, len(nulls))
    return Values(name, Storage("float", native), data, nulls)


def _boolean_series(name: Name, series: nw.Series[Any], native: str) -> Values:
    nulls = _nulls(series)
    data = (series.fill_null(False) if nulls.any() else series).to_numpy()
    return Values(name, Storage("boolean", native), np.asarray(data).astype(bool), nulls)


def text_series(name: Name, series: nw.Series[Any], native: str) -> Values:
    def chunk(start: int, stop: int) -> list[Any]:
        return series[start:stop].to_list()

    return code_text(name, Storage("text", native), _nulls(series), chunk)


def _category_series(name: Name, series: nw.Series[Any], native: str) -> Values:
    """A categorical dtype whose categories are not the column's own: what is there counts as declared."""
    text = text_series(name, series.cast(nw.String), native)
    assert text.labels is not None
    storage = replace(text.storage, categories=tuple(text.labels.tolist()), labels=Storage("text", "String"))
    return replace(text, storage=storage)


def _datetime_series(name: Name, series: nw.Series[Any], native: str) -> Values:
    # narwhals hands over instants in UTC without their zone, which is what is wanted here.
    values = time_reader("datetime")(name, np.asarray(series.to_numpy()))
    zone = getattr(series.dtype, "time_zone", None)
    return replace(values, storage=replace(values.storage, native=native, zone=zone))


def _duration_series(name: Name, series: nw.Series[Any], native: str) -> Values:
    values = time_reader("duration")(name, np.asarray(series.to_numpy()))
    return replace(values, storage=replace(values.storage, native=native))


def _time_series(name: Name, series: nw.Series[Any], native: str) -> Values:
    """Times of day: polars counts nanoseconds, Arrow says what it counts."""
    unit = re.search(r"\[(\w+)\]", native)
    values = _integer_series(name, series.cast(nw.Int32 if "time32" in native else nw.Int64), native)
    return replace(values, storage=Storage("time", native, unit=unit.group(1) if unit else "ns"))


def _unsupported(name: Name, series: nw.Series[Any], native: str) -> Values:
    raise UnreadableError(
        f"column {name!r} has dtype {native}, which no kind can hold (an argument must be a string, a "
        "number, a truth value or a time). Convert or drop it, or leave it out with "
        f"schema={{{name!r}: la.Ignored()}}."
    )


def _empty_or_unsupported(name: Name, series: nw.Series[Any], native: str) -> Values:
    nulls = _nulls(series)
    if not nulls.all():
        return _unsupported(name, series, native)
    return Values(name, Storage("nothing", native), np.zeros(len(nulls)), nulls)


_SeriesReader = Callable[[Name, "nw.Series[Any]", str], Values]
_SERIES_READERS: dict[str, _SeriesReader] = {
    **dict.fromkeys(
        ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64"), _integer_series
    ),
    **dict.fromkeys(("Float16", "Float32", "Float64"), _float_series),
    **dict.fromkeys(("Int128", "UInt128", "Decimal"), exact_series),
    "Boolean": _boolean_series,
    "String": text_series,
    "Categorical": _category_series,
    "Datetime": _datetime_series,
    "Date": _datetime_series,
    "Duration": _duration_series,
    "Time": _time_series,
    "Unknown": _empty_or_unsupported,
}


def read_series(name: Name, series: nw.Series[Any], native: str) -> Values:
    return _SERIES_READERS.get(type(series.dtype).__name__, _unsupported)(name, series, native)
