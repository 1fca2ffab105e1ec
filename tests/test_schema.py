"""Laws of the table codec: decode undoes encode in every container, and kinds are as documented."""

import datetime as dt
import json
import random
import subprocess
import sys
import time
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lookalike.schema import (
    Boolean,
    Categorical,
    Constant,
    Datetime,
    Duration,
    Identifier,
    Ignored,
    Number,
    Schema,
    Table,
)

LAW = settings(derandomize=True, deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
ZONES = ["UTC", "Europe/Berlin", "Asia/Kolkata", "America/New_York"]
DAY = 86400

# ---- columns as lists of Python values, None where missing -------------------------------------------------


def near(base: st.SearchStrategy[int], width: int = 2**50) -> st.SearchStrategy[st.SearchStrategy[int]]:
    """Whole numbers anywhere, but close enough to each other for float64 to tell them apart."""
    return base.map(lambda b: st.integers(0, width).map(lambda i: b + i))


INTEGERS = near(st.sampled_from([0, -5, -(2**63), 2**62, 2**53, -(2**53) - 7, 2**63 - 1 - 2**50]))
UNSIGNED = near(st.sampled_from([0, 2**63 - 10, 2**64 - 1 - 2**50]))
SMALL = st.just(st.integers(-128, 127))
FLOATS = st.just(st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=True))
FLOATS32 = st.just(st.floats(allow_nan=False, allow_infinity=False, width=32))
CENTS = st.just(st.integers(-(10**9), 10**9).map(lambda i: i / 100))
TEXT = st.sampled_from(
    [st.text(max_size=8), st.sampled_from(["a", "", "ß", "日本", "n/a", "NaN", "None", "0"])]
)
BOOLEANS = st.just(st.booleans())
SECONDS = near(st.integers(-(10**9), 4 * 10**9), 10**8)
SPANS = near(st.integers(-(10**6), 10**6), 10**6)
DAYS = near(st.integers(-20000, 40000), 1000)
DECIMALS = st.just(st.integers(-(10**7), 10**7).map(lambda i: Decimal(i).scaleb(-2)))
TIMES = st.just(st.times())
CLOCK = st.just(st.integers(0, DAY - 1))
FINE_CLOCK = st.just(st.integers(0, DAY * 10**9 - 1))


def cells(draw, values, n, missing):
    of_column = draw(values)
    cell = st.one_of(st.none(), of_column, of_column) if missing else of_column
    return draw(st.lists(cell, min_size=n, max_size=n))


def with_blanks(values, dtype, blank):
    return np.array([blank if v is None else v for v in values], dtype=dtype)


def stamps(values, kind, unit):
    array = np.array([0 if v is None else v for v in values], dtype="int64").astype(f"{kind}8[{unit}]")
    array[[v is None for v in values]] = "NaT"
    return array


def of_pandas_times(unit, zone=None):
    def make(values):
        series = pd.Series(stamps(values, "M", "s").astype(f"M8[{unit}]"))
        return series if zone is None else series.dt.tz_localize("UTC").dt.tz_convert(zone)

    return make


def pandas_category(ordered):
    def make(values):
        seen = sorted({v for v in values if v is not None} | {"unused", "z"})
        return pd.Series(pd.Categorical(values, categories=seen[::-1], ordered=ordered))

    return make


def polars_enum(values):
    seen = dict.fromkeys(v for v in values if v is not None)
    return pl.Series(values, dtype=pl.Enum(["never seen", *seen]))


def as_dates(values):
    return [None if v is None else dt.date(1970, 1, 1) + dt.timedelta(days=v) for v in values]


def as_objects(values):
    series = pd.Series([None] * len(values), dtype=object)
    series[:] = values
    return series


# What to draw, whether it may be missing, and how to hold it.
PANDAS = {
    "int64": (INTEGERS, False, lambda v: pd.Series(v, dtype="int64")),
    "uint64": (UNSIGNED, False, lambda v: pd.Series(v, dtype="uint64")),
    "int8": (SMALL, False, lambda v: pd.Series(v, dtype="int8")),
    "Int64": (INTEGERS, True, lambda v: pd.Series(v, dtype="Int64")),
    "UInt64": (UNSIGNED, True, lambda v: pd.Series(v, dtype="UInt64")),
    "float64": (FLOATS, True, lambda v: pd.Series(with_blanks(v, "f8", np.nan))),
    "float32": (FLOATS32, True, lambda v: pd.Series(with_blanks(v, "f4", np.nan))),
    "cents": (CENTS, True, lambda v: pd.Series(with_blanks(v, "f8", np.nan))),
    "Float64": (FLOATS, True, lambda v: pd.Series(v, dtype="Float64")),
    "str": (TEXT, True, lambda v: pd.Series(v, dtype="str")),
    "string": (TEXT, True, lambda v: pd.Series(v, dtype="string")),
    "string python": (TEXT, True, lambda v: pd.Series(v, dtype="string[python]")),
    "object text": (TEXT, True, as_objects),
    "object dates": (DAYS, True, lambda v: as_objects(as_dates(v))),
    "object decimals": (DECIMALS, True, as_objects),
    "object bool": (BOOLEANS, True, as_objects),
    "object integers": (INTEGERS, True, as_objects),
    "category": (TEXT, True, pandas_category(False)),
    "ordered": (TEXT, True, pandas_category(True)),
    "integer codes": (SMALL, True, lambda v: pd.Series(pd.Categorical(v, categories=range(-128, 128)))),
    "bool": (BOOLEANS, False, lambda v: pd.Series(v, dtype="bool")),
    "boolean": (BOOLEANS, True, lambda v: pd.Series(v, dtype="boolean")),
    "seconds": (SECONDS, True, of_pandas_times("s")),
    "nanoseconds": (SECONDS, True, of_pandas_times("ns")),
    "Berlin": (SECONDS, True, of_pandas_times("us", "Europe/Berlin")),
    "offset": (SECONDS, True, of_pandas_times("ms", dt.timezone(dt.timedelta(hours=1)))),
    "spans": (SPANS, True, lambda v: pd.Series(stamps(v, "m", "ms"))),
    "arrow text": (TEXT, True, lambda v: pd.Series(v, dtype=pd.ArrowDtype(pa.string()))),
    "arrow dates": (DAYS, True, lambda v: pd.Series(as_dates(v), dtype=pd.ArrowDtype(pa.date32()))),
    "arrow times": (SECONDS, True, lambda v: pd.Series(pd.arrays.ArrowExtensionArray(
        pa.chunked_array([pa.array(v, pa.int64()).cast(pa.timestamp("us", "Asia/Tokyo"))])
    ))),
    "nothing": (st.just(st.none()), False, as_objects),
    "NaN": (st.just(st.just(np.nan)), False, lambda v: pd.Series(v, dtype="float64")),
}  # fmt: skip

POLARS = {
    "Int64": (INTEGERS, True, lambda v: pl.Series(v, dtype=pl.Int64)),
    "UInt64": (UNSIGNED, True, lambda v: pl.Series(v, dtype=pl.UInt64)),
    "Int8": (SMALL, True, lambda v: pl.Series(v, dtype=pl.Int8)),
    "Int128": (INTEGERS, True, lambda v: pl.Series(v, dtype=pl.Int128)),
    "Float64": (FLOATS, True, lambda v: pl.Series(v, dtype=pl.Float64)),
    "Float32": (FLOATS32, True, lambda v: pl.Series(v, dtype=pl.Float32)),
    "NaN": (FLOATS, True, lambda v: pl.Series(with_blanks(v, "f8", np.nan))),
    "Decimal": (DECIMALS, True, lambda v: pl.Series(v, dtype=pl.Decimal(20, 2))),
    "whole Decimal": (SMALL, True, lambda v: pl.Series(v, dtype=pl.Int64).cast(pl.Decimal(10, 0))),
    "String": (TEXT, True, lambda v: pl.Series(v, dtype=pl.String)),
    "Categorical": (TEXT, True, lambda v: pl.Series(v, dtype=pl.Categorical)),
    "Enum": (TEXT, True, polars_enum),
    "Boolean": (BOOLEANS, True, lambda v: pl.Series(v, dtype=pl.Boolean)),
    "Date": (DAYS, True, lambda v: pl.Series(as_dates(v), dtype=pl.Date)),
    "Datetime": (SECONDS, True, lambda v: pl.Series(stamps(v, "M", "s").astype("M8[us]"))),
    "zoned": (SECONDS, True, lambda v: pl.Series(v, dtype=pl.Int64).cast(pl.Datetime("ms", "Asia/Kolkata"))),
    "Duration": (SPANS, True, lambda v: pl.Series(v, dtype=pl.Int64).cast(pl.Duration("ns"))),
    "Time": (TIMES, True, lambda v: pl.Series(v, dtype=pl.Time)),
    "Null": (st.just(st.none()), False, lambda v: pl.Series(v, dtype=pl.Null)),
}  # fmt: skip

ARROW = {
    "int64": (INTEGERS, True, lambda v: pa.array(v, pa.int64())),
    "uint64": (UNSIGNED, True, lambda v: pa.array(v, pa.uint64())),
    "int8": (SMALL, True, lambda v: pa.array(v, pa.int8())),
    "double": (FLOATS, True, lambda v: pa.array(v, pa.float64())),
    "float": (FLOATS32, True, lambda v: pa.array(v, pa.float32())),
    "string": (TEXT, True, lambda v: pa.array(v, pa.string())),
    "large_string": (TEXT, True, lambda v: pa.array(v, pa.large_string())),
    "string_view": (TEXT, True, lambda v: pa.array(v, pa.string_view())),
    "dictionary": (TEXT, True, lambda v: pa.array(v, pa.string()).dictionary_encode()),
    "dictionary of integers": (SMALL, True, lambda v: pa.array(v, pa.int16()).dictionary_encode()),
    "bool": (BOOLEANS, True, lambda v: pa.array(v, pa.bool_())),
    "date32": (DAYS, True, lambda v: pa.array(v, pa.int32()).cast(pa.date32())),
    "date64": (DAYS, True, lambda v: pa.array(v, pa.int32()).cast(pa.date32()).cast(pa.date64())),
    "timestamp": (SECONDS, True, lambda v: pa.array(v, pa.int64()).cast(pa.timestamp("s"))),
    "zoned": (SECONDS, True, lambda v: pa.array(v, pa.int64()).cast(pa.timestamp("ns", ZONES[3]))),
    "duration": (SPANS, True, lambda v: pa.array(v, pa.int64()).cast(pa.duration("us"))),
    "time32": (CLOCK, True, lambda v: pa.array(v, pa.int32()).cast(pa.time32("s"))),
    "time64": (FINE_CLOCK, True, lambda v: pa.array(v, pa.int64()).cast(pa.time64("ns"))),
    "decimal": (DECIMALS, True, lambda v: pa.array(v, pa.decimal128(20, 2))),
    "null": (st.just(st.none()), False, lambda v: pa.array(v, pa.null())),
}  # fmt: skip


@st.composite
def frames(draw, recipes, build):
    names = draw(st.lists(st.sampled_from(sorted(recipes)), min_size=1, max_size=6, unique=True))
    n = draw(st.integers(1, 12))
    columns = {}
    for name in names:
        values, nullable, hold = recipes[name]
        columns[name] = hold(cells(draw, values, n, nullable and draw(st.booleans())))
    return build(columns)


def round_trip(frame):
    """Encode and decode, with the schema itself through JSON."""
    schema = Schema.fit(frame)
    again = Schema.from_dict(json.loads(json.dumps(schema.to_dict(), allow_nan=False)))
    assert again == schema
    table, same = schema.encode(frame), again.encode(frame)
    np.testing.assert_array_equal(table.numbers, same.numbers)
    np.testing.assert_array_equal(table.ids, same.ids)
    assert len(repr(schema).splitlines()) == 1 + len(schema.columns)
    n_levels = np.array([len(c.levels) for c in schema.category_columns])
    assert (table.ids >= 0).all()
    assert (table.ids != n_levels).all()  # nothing of fit is unseen
    return again.decode(table)


@LAW
@given(frame=frames(PANDAS, pd.DataFrame))
def test_decode_undoes_encode_for_pandas(frame):
    pd.testing.assert_frame_equal(round_trip(frame), frame, check_exact=True)


@LAW
@given(frame=frames(POLARS, pl.DataFrame))
def test_decode_undoes_encode_for_polars(frame):
    back = round_trip(frame)
    assert back.schema == frame.schema
    assert back.equals(frame)


@LAW
@given(frame=frames(ARROW, pa.table))
def test_decode_undoes_encode_for_arrow(frame):
    back = round_trip(frame)
    assert back.schema == frame.schema
    assert back.to_pylist() == frame.to_pylist()


BUILDERS = {"pandas": (PANDAS, pd.DataFrame), "polars": (POLARS, pl.DataFrame), "arrow": (ARROW, pa.table)}
EVERY = [(container, name) for container, (recipes, _) in BUILDERS.items() for name in recipes]


@settings(LAW, max_examples=5)
@pytest.mark.parametrize("container,name", EVERY)
@given(data=st.data())
def test_every_dtype_comes_back(container, name, data):
    """The laws draw a few columns at a time; here each is drawn."""
    recipes, build = BUILDERS[container]
    values, nullable, hold = recipes[name]
    frame = build({name: hold(cells(data.draw, values, 7, nullable))})
    back = round_trip(frame)
    if build is pd.DataFrame:
        pd.testing.assert_frame_equal(back, frame, check_exact=True)
    else:
        assert back.equals(frame)


@LAW
@given(
    data=st.data(),
    kind=st.sampled_from(["f8", "f4", "f2", "i8", "u8", "i4", "?", "U3", "M8[s]", "m8[us]", "O"]),
)
def test_decode_undoes_encode_for_numpy(data, kind):
    draws = {
        "f": FLOATS,
        "i": SMALL,
        "u": UNSIGNED,
        "?": BOOLEANS,
        "U": TEXT,
        "M": SECONDS,
        "m": SPANS,
        "O": TEXT,
    }
    values = cells(data.draw, FLOATS32 if kind in ("f4", "f2") else draws[kind[0]], 8, False)
    with np.errstate(over="ignore"):
        matrix = np.array(values, dtype=object).reshape(4, 2).astype(kind)
    matrix = np.where(np.isinf(matrix), 0, matrix).astype(kind) if kind[0] == "f" else matrix
    back = round_trip(matrix)
    assert back.dtype == matrix.dtype
    np.testing.assert_array_equal(back, matrix)


# ---- kinds -------------------------------------------------------------------------------------------------


def kinds(schema):
    return {c.name: c.kind for c in schema.columns}


def people(n=200):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "person_id": rng.permutation(10 * n)[:n],
            "row": np.arange(n),
            "key": [f"A-{i:04d}" for i in range(n)],
            "age": rng.integers(18, 90, n),
            "children": rng.integers(0, 4, n),
            "income": np.where(rng.random(n) < 0.2, np.nan, rng.normal(size=n)),
            "price": rng.integers(0, 10**6, n) / 100,
            "job": rng.choice(["nurse", "cook", ""], n),
            "size": pd.Categorical(rng.choice(["S", "L"], n), categories=["S", "M", "L"], ordered=True),
            "member": rng.random(n) < 0.5,
            "since": pd.date_range("2020-01-01", periods=n, freq="D"),
            "stay": pd.to_timedelta(rng.integers(1, 9, n), unit="h"),
            "country": "DE",
            "never": None,
        }
    )


def test_kinds_are_inferred_as_documented():
    schema = Schema.fit(people())
    assert kinds(schema) == {
        "person_id": "identifier",
        "row": "identifier",
        "key": "identifier",
        "age": "number",
        "children": "category",
        "income": "number",
        "price": "number",
        "job": "category",
        "size": "category",
        "member": "boolean",
        "since": "datetime",
        "stay": "duration",
        "country": "constant",
        "never": "constant",
    }
    by_name = {c.name: c for c in schema.columns}
    assert (by_name["age"].low, by_name["age"].high, by_name["age"].integral) == (18, 89, True)
    assert by_name["price"].decimals == 2
    assert by_name["income"].decimals is None
    assert by_name["income"].missing == people()["income"].isna().mean()
    assert by_name["since"].step == np.timedelta64(1, "D") / np.timedelta64(1, people()["since"].dt.unit)
    assert by_name["size"].levels[-1] == "M"
    assert by_name["size"].counts[-1] == 0
    assert sum(by_name["job"].counts) == 200
    assert list(by_name["job"].counts) == sorted(by_name["job"].counts, reverse=True)


def test_text_repr_is_one_line_a_column():
    assert repr(Schema.fit(people()[["age", "job", "since"]])).splitlines()[1:] == [
        "  'age'    number    18 to 89",
        "  'job'    category  3 levels: 'cook', 'nurse', ''",
        "  'since'  datetime  2020-01-01 00:00:00 to 2020-07-18 00:00:00",
    ]
    assert repr(Number(lower=0)) == "Number(lower=0)"


def test_a_float_column_is_never_an_identifier_and_a_plain_matrix_holds_numbers():
    frame = pd.DataFrame({"id": np.arange(100.0), "paid": np.random.default_rng(0).permutation(1000)[:100]})
    assert set(kinds(Schema.fit(frame)).values()) == {"number"}
    for name in ("ID", "order_key", "userId", "row-id"):
        assert Schema.fit(frame[["paid", "id"]].set_axis([name, "x"], axis=1)).columns[0].kind == "identifier"
    matrix = np.arange(200).reshape(100, 2) % np.array([200, 3])
    assert set(kinds(Schema.fit(matrix)).values()) == {"number"}


@pytest.mark.parametrize("dtype", ["f8", "f4", "i8", "i2"])
def test_a_matrix_is_fitted_at_once_as_it_would_be_by_column(dtype):
    rng = np.random.default_rng(0)
    matrix = rng.normal(scale=100, size=(300, 6))
    matrix[:, 1] = matrix[:, 1].round(2)
    matrix[:, 2] = 7
    matrix = matrix.astype(dtype)
    if dtype[0] == "f":
        matrix[::7, 3] = np.nan
        matrix[:, 4] = np.nan
    wished = {f"x{i}": Number() for i in (0, 1, 3, 5)}  # a wish takes the way of single columns
    at_once, by_column = Schema.fit(matrix), Schema.fit(matrix, wished)
    assert at_once == by_column
    table = at_once.encode(matrix)
    by_name = pl.DataFrame(matrix, schema=at_once.names)
    np.testing.assert_array_equal(table.numbers, by_column.encode(by_name).numbers)
    np.testing.assert_array_equal(at_once.decode(table), matrix)
    matrix[0, 2] = 8
    assert at_once.encode(matrix).ids[:2, 0].tolist() == [1, 0]  # another value in a constant is unseen


def test_what_a_user_asks_for_is_done():
    frame = people()
    schema = Schema.fit(
        frame,
        {
            "person_id": Number(),
            "row": Ignored(),
            "age": Categorical(levels=[17]),
            "member": Number(),
            "children": Number(lower=0, upper=10, nullable=True),
            "job": Identifier(),
            "size": Categorical(levels=["XXL"]),
            "country": Categorical(levels=["FR"]),
            "income": Categorical(nullable=True),
            "since": Categorical(),
        },
    )
    back = schema.decode(schema.encode(frame))
    assert "row" not in back
    pd.testing.assert_frame_equal(
        back.drop(columns=["job", "key", "size"]), frame.drop(columns=["row", "job", "key", "size"])
    )
    assert list(back["size"].dtype.categories) == ["S", "M", "L", "XXL"]
    by_name = {c.name: c for c in schema.columns}
    assert 17 in by_name["age"].levels
    assert by_name["country"].levels == ("DE", "FR")
    assert (
        schema.decode(Table(np.full((1, len(schema.number_columns)), 1e300), np.zeros((1, 6), int)))[
            "children"
        ][0]
        == 10
    )
    text = pd.DataFrame({"x": ["1.5", "2", "30.25"]})
    numbers = Schema.fit(text, {"x": Number()})
    assert numbers.encode(text).numbers[:, 0].tolist() == [1.5, 2.0, 30.25]
    assert numbers.decode(numbers.encode(text))["x"].tolist() == ["1.50", "2.00", "30.25"]
    zero_one = Schema.fit(pd.DataFrame({"x": [0, 1, 1]}), {"x": Boolean()})
    assert zero_one.decode(zero_one.encode(pd.DataFrame({"x": [1, 0]})))["x"].tolist() == [1, 0]


# ---- numbers -----------------------------------------------------------------------------------------------


def test_decoded_numbers_keep_range_and_grid():
    schema = Schema.fit(people()[["age", "price", "since"]])
    wild = Table(
        np.array([[17.2, 1e300, 1e300], [20.4, 31.4159, -7.0], [5e300, -1.0, 0.4]]), np.zeros((3, 0), int)
    )
    back = schema.decode(wild)
    assert back["age"].tolist() == [18, 20, 89]
    assert back["price"].tolist() == [people()["price"].max(), 31.42, people()["price"].min()]
    assert back["since"].tolist() == [
        pd.Timestamp("2020-07-18"),
        pd.Timestamp("2020-01-01"),
        pd.Timestamp("2020-01-01"),
    ]


def test_large_numbers_are_centred_before_they_become_floats():
    low = 2**62
    few = pl.DataFrame({"n": [low + 1000 * i for i in (1, 0, 5, 4)]})
    assert Schema.fit(few).encode(few).numbers[:, 0].tolist() == [1000, 0, 5000, 4000]
    many = pl.DataFrame({"n": [low + 1000 * (i * i % 97) for i in range(60)]})  # which share a step by habit
    assert Schema.fit(many).encode(many).numbers[:, 0].tolist() == [i * i % 97 for i in range(60)]
    stamp = np.array(["2024-01-01T00:00:00.000000001", "2024-01-01T00:00:00.000000003"], dtype="M8[ns]")
    schema = Schema.fit(pd.DataFrame({"t": stamp}))
    assert schema.encode(pd.DataFrame({"t": stamp})).numbers[:, 0].tolist() == [0, 2]
    # Another unit, between two ticks and before the first.
    days = pd.DataFrame({"t": np.array(["2024-01-02", "2023-12-31"], dtype="M8[s]")})
    assert schema.encode(days).numbers[:, 0].tolist() == [86400 * 10**9 - 1, -(86400 * 10**9 + 1)]
    fine = pd.DataFrame({"t": np.array(["2024-01-01T06", "2023-12-31T12"], dtype="M8[ms]")})
    daily = Schema.fit(pd.DataFrame({"t": np.array(["2024-01-01", "2024-03-01"], dtype="M8[s]")}))
    assert daily.encode(fine).numbers[:, 0].tolist() == [0.25, -0.5]


def test_a_time_that_nanoseconds_cannot_count_changes_no_other_row():
    stamps = np.array(["2024-01-01T00:00:00.000000001", "2024-01-01T00:00:00.000000002"], dtype="M8[ns]")
    schema = Schema.fit(pd.DataFrame({"t": stamps}))
    times = np.array(["2024-01-01", "9999-12-31", "2024-01-02"], dtype="M8[s]")
    together = schema.encode(pd.DataFrame({"t": times})).numbers[:, 0]
    assert (
        together[[0, 2]].tolist() == schema.encode(pd.DataFrame({"t": times[[0, 2]]})).numbers[:, 0].tolist()
    )
    assert together[1] == pytest.approx((times[1] - times[0]) / np.timedelta64(1, "s") * 1e9)


@pytest.mark.parametrize("unsigned", [False, True])
def test_any_64_bit_integers_come_back_where_float64_has_room(unsigned):
    rng = random.Random(0)
    least, most = (0, 2**64 - 1) if unsigned else (-(2**63), 2**63 - 1)
    for _ in range(300):
        base, width = rng.choice([least, most, 0, rng.randint(least, most)]), rng.choice([10, 2**30, 2**51])
        values = [min(max(base + rng.randint(-width, width), least), most) for _ in range(6)]
        frame = pl.DataFrame({"n": pl.Series(values, dtype=pl.UInt64 if unsigned else pl.Int64)})
        schema = Schema.fit(
            frame, {"n": Number(lower=rng.choice([None, least]), upper=rng.choice([None, most]))}
        )
        assert schema.decode(schema.encode(frame)).equals(frame)
        wild = np.array([[np.inf], [-np.inf], [1e19], [-1e19], [0.0]])
        column = schema.number_columns[0]
        back = schema.decode(Table(wild, np.zeros((5, 0), int)))["n"].to_list()
        assert back[:2] == [column.high, column.low]
        assert all(column.low <= value <= column.high for value in back)


def test_the_whole_of_int64_and_uint64_is_kept_to_within_a_float_of_the_range():
    for values in ([-(2**63), 2**63 - 1, 0, -1, 12345], [0, 2**64 - 1, 2**63, 7]):
        frame = pl.DataFrame({"n": pl.Series(values, dtype=pl.UInt64 if max(values) >= 2**63 else pl.Int64)})
        schema = Schema.fit(frame)
        back = schema.decode(schema.encode(frame))["n"].to_list()
        assert all(abs(a - b) <= 2**11 for a, b in zip(back, values, strict=True))
        assert back[:2] == values[:2]


def test_huge_and_tiny_floats_pass():
    matrix = np.array([[1e300, 5e-324], [-1e300, 1e-310], [0.1, 0.0]])
    schema = Schema.fit(matrix)
    np.testing.assert_array_equal(schema.encode(matrix).numbers, matrix)
    np.testing.assert_array_equal(schema.decode(schema.encode(matrix)), matrix)


def test_values_wider_than_the_dtype_widen_it_instead_of_wrapping():
    for frame in (
        pd.DataFrame({"n": np.array([1, 2, 3], "i1")}),
        pl.DataFrame({"n": pl.Series([1, 2, 3], dtype=pl.Int8)}),
    ):
        schema = Schema.fit(frame, {"n": Number(upper=1000)})
        back = schema.decode(Table(np.array([[500.0]]), np.zeros((1, 0), int)))
        assert back["n"].to_list() == [500]


# ---- identifiers -------------------------------------------------------------------------------------------


def test_fresh_identifiers_are_new_unique_and_a_function_of_seed_and_row():
    n = 60
    columns = {
        "counted": np.arange(n) * 3 + 7,
        "top": np.arange(n) + (2**63 - n),
        "padded": [f"INV-{i:03d}/x" for i in range(n)],
        "bare": [f"user{i}@mail.org" for i in range(n)],
        "uuid": [f"{i:08x}-0000-4000-8000-0123456789ab" for i in range(n)],
        "UUID": [f"{i:08X}0000400080000123456789AB" for i in range(n)],
        "words": [chr(97 + i % 26) * (i + 1) for i in range(n)],
        "x": np.linspace(0, 1, n),
    }
    frame = pd.DataFrame(columns)
    schema = Schema.fit(frame)
    assert [c.kind for c in schema.columns] == ["identifier"] * 7 + ["number"]
    many = Table(np.zeros((500, 1)), np.zeros((500, 0), int))
    back = schema.decode(many, seed=3)
    for name in list(columns)[:-1]:
        assert back[name].nunique() == 500
        assert not set(back[name]) & set(frame[name])
        assert back[name].dtype == frame[name].dtype
    part = schema.decode(many.rows(slice(200, 300)), row_start=200, seed=3)
    pd.testing.assert_frame_equal(part, back[200:300].reset_index(drop=True))
    assert back["counted"][0] == frame["counted"].max() + 1
    assert back["padded"][[0, 499]].tolist() == ["INV-060/x", "INV-559/x"]
    assert back["bare"][0] == "user60@mail.org"
    assert (
        back["uuid"]
        .str.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
        .all()
    )
    assert back["UUID"].str.fullmatch(r"[0-9A-F]{32}").all()
    assert not set(back["uuid"]) & set(schema.decode(many, seed=4)["uuid"])
    assert frame["uuid"][0] not in json.dumps(schema.to_dict())
    assert "counted" not in schema.encode(frame.drop(columns=["counted", "uuid"])).__dict__  # absent is fine


def test_missing_identifiers_come_at_their_rate():
    keys = [f"k{i}" if i % 4 else None for i in range(400)]
    schema = Schema.fit(pd.DataFrame({"key": keys, "x": np.linspace(0, 1, 400)}))
    fresh = schema.decode(Table(np.zeros((4000, 1)), np.zeros((4000, 0), int)), seed=1)["key"]
    assert 0.22 < fresh.isna().mean() < 0.28
    assert fresh.dropna().is_unique


# ---- containers and shapes ---------------------------------------------------------------------------------


def test_columns_are_matched_by_name_whatever_container_or_order():
    frame = pd.DataFrame({"a": [1.5, 2.25, 3.0], "b": ["x", "y", "x"], 7: [1, 2, 3]}, index=[1, 1, 1])
    schema = Schema.fit(frame)
    table = schema.encode(frame[[7, "b", "a"]])
    np.testing.assert_array_equal(table.numbers, [[1.5, 1], [2.25, 2], [3, 3]])
    assert schema.decode(table).columns.tolist() == ["a", "b", 7]
    named = pl.DataFrame({"b": ["x"], "a": [2.0]})
    schema = Schema.fit(frame[["a", "b"]])
    for other in (named, named.to_arrow(), named.to_pandas()):
        assert schema.encode(other).numbers.tolist() == [[2.0]]


def test_categories_of_another_frame_are_matched_by_label():
    schema = Schema.fit(pd.DataFrame({"c": pd.Categorical(["x", "x", "y"], categories=["y", "x"])}))
    other = pd.DataFrame({"c": pd.Categorical(["x", "z", "y"], categories=["z", "x", "y"])})
    assert schema.encode(other).ids[:, 0].tolist() == [0, 2, 1]
    assert schema.encode(pl.DataFrame({"c": ["y", "q"]})).ids[:, 0].tolist() == [1, 2]


def test_integers_may_come_as_floats_and_the_reverse():
    schema = Schema.fit(
        pd.DataFrame({"n": [1, 2, 3], "code": [1, 2, 1], "x": [0.5, 1.25, 2.5]}), {"code": Categorical()}
    )
    table = schema.encode(pd.DataFrame({"n": [2.0, 2.5], "code": [2.0, 1.5], "x": [1, 2]}))
    assert table.numbers.tolist() == [[2.0, 1.0], [2.5, 2.0]]
    assert table.ids[:, 0].tolist() == [1, 2]


def test_lists_and_one_row_and_no_rows_to_decode():
    schema = Schema.fit([[1, "a"], [2, "b"], [3, "a"]])
    assert kinds(schema) == {"x0": "number", "x1": "category"}
    assert schema.decode(schema.encode([[2, "b"]])).tolist() == [[2, "b"]]
    assert kinds(Schema.fit(np.array([[1.0, 2.0]]))) == {"x0": "constant", "x1": "constant"}
    for frame in (people(), pl.from_pandas(people()), pl.from_pandas(people()).to_arrow(), np.ones((3, 2))):
        schema = Schema.fit(frame)
        empty = schema.decode(schema.encode(frame).rows(slice(0, 0)))
        assert empty.shape[0] == 0
        if isinstance(frame, pd.DataFrame):
            pd.testing.assert_series_equal(empty.dtypes, frame.dtypes)


def test_holes_may_be_let_in_and_come_back_as_holes():
    frame = pd.DataFrame(
        {
            "n": [1, 2, 30],
            "s": ["a", "b", "a"],
            "b": [True, False, True],
            "t": pd.to_datetime(["2020-01-01"] * 2 + ["2021-01-01"]),
        }
    )
    schema = Schema.fit(frame)
    holes = frame.astype({"n": "Int64", "b": "boolean"})
    holes.loc[1] = [None, None, None, None]
    table = schema.encode(holes, allow_missing=True)
    assert np.isnan(table.numbers[1]).all()
    assert (table.ids[1] == [3, 3]).all()
    assert schema.decode(table).isna().loc[1].all()


def test_a_million_rows_of_100_000_texts_take_seconds():
    codes = np.random.default_rng(0).integers(0, 100_000, 1_000_000)
    frame = pl.DataFrame({"s": np.char.add("level ", codes.astype(str))})
    start = time.process_time()
    schema = Schema.fit(frame)
    ids = schema.encode(frame).ids
    assert time.process_time() - start < 20
    assert len(schema.category_columns[0].levels) == len(np.unique(codes))
    assert (np.diff(schema.category_columns[0].counts) <= 0).all()
    back = schema.decode(Table(np.zeros((1000, 0)), ids[:1000]))
    assert back.equals(frame[:1000])


def test_ten_thousand_columns_are_quick():
    matrix = np.random.default_rng(0).normal(size=(50, 10_000))
    start = time.process_time()
    schema = Schema.fit(matrix)
    schema.encode(matrix[:1])
    frame = pd.DataFrame(matrix)
    named = Schema.fit(frame)
    pd.testing.assert_frame_equal(named.decode(named.encode(frame)), frame)
    assert time.process_time() - start < 30


@pytest.mark.parametrize(
    "kind", [Number, Categorical, Boolean, Datetime, Duration, Identifier, Ignored, Constant]
)
def test_kinds_are_made_by_keyword(kind):
    assert repr(kind()) == f"{kind.__name__}()"
    with pytest.raises(TypeError):
        kind(True)


def test_an_import_of_the_schema_brings_no_frame_library():
    libraries = {"torch", "pandas", "polars", "pyarrow", "sklearn"}
    code = f"import sys, lookalike.schema; print({libraries} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
