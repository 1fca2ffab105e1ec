"""The columns in ONNX do what the schema does: front is encode, tail is decode, to the bit."""

import datetime as dt
import json
import time
from decimal import Decimal

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import people_table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_schema import BUILDERS, EVERY, cells, frames

from lookalike.errors import SchemaError
from lookalike.exporters.columns import Part, front, tail
from lookalike.feeding import FILLED, RESERVED, describe, feed, input_names
from lookalike.schema import Categorical, Datetime, Number, Schema, Table

LAW = settings(derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
QUIET = ort.SessionOptions()
QUIET.intra_op_num_threads = 1
QUIET.log_severity_level = 4  # what fails is raised


def session(part, check=False):
    model = part.model()
    if check:
        onnx.checker.check_model(model, full_check=True)
    return ort.InferenceSession(model.SerializeToString(), QUIET, providers=["CPUExecutionProvider"])


def run(part, feeds, check=False):
    made = session(part, check)
    return dict(zip([o.name for o in made.get_outputs()], made.run(None, feeds), strict=True))


def same(given, expected):
    """Equal in dtype, shape and value, NaN being equal to itself."""
    given, expected = np.asarray(given), np.asarray(expected)
    assert given.dtype.kind == expected.dtype.kind
    np.testing.assert_array_equal(given, expected)


def trimmed(texts):
    """What onnxruntime's Python binding gives back of texts: it cuts NULs off their ends."""
    return [text.rstrip("\0") for text in texts]


def assert_front_is_encode(schema, frame, check=False, allow_missing=True):
    made = run(front(schema), feed(schema, frame, allow_missing), check)
    table = schema.encode(frame, allow_missing)
    same(made["numbers"], table.numbers)
    same(made["ids"], table.ids)


def assert_tail_is_decode(schema, table, check=False):
    made = run(tail(schema), {"numbers": table.numbers, "ids": table.ids}, check)
    expected = feed(schema, schema.decode(table), allow_missing=True)
    assert made.keys() == expected.keys()
    for name, values in expected.items():
        if values.dtype == object:
            assert trimmed(made[name]) == trimmed(values), name
        else:
            same(made[name], values)


def wild(schema, seed, n=24):
    """Arrays that a model may come up with, and worse."""
    rng = np.random.default_rng(seed)
    numbers = np.empty((n, len(schema.number_columns)))
    for k, column in enumerate(schema.number_columns):
        low, high = ((end - column.origin) / column.step for end in (column.low, column.high))
        numbers[:, k] = low + (high / 4 - low / 4) * rng.normal(2, 2, n)
        numbers[:3, k] = rng.permutation([1e300, -np.inf, np.nan if column.may_be_missing else 0.5])
    ids = np.empty((n, len(schema.category_columns)), dtype=np.int64)
    for k, column in enumerate(schema.category_columns):
        # Whole numbers of numpy know no missing ones: they would come back as floats.
        beyond = 3 if column.may_be_missing or column.storage.family != "integer" else 0
        ids[:, k] = rng.integers(-beyond, len(column.levels) + beyond, n)
    return Table(numbers, ids)


# ---- laws --------------------------------------------------------------------------------------------------


@settings(LAW, max_examples=3)
@pytest.mark.parametrize("container,name", EVERY)
@given(data=st.data(), seed=st.integers(0, 99))
def test_every_dtype_goes_in_and_comes_out(container, name, data, seed):
    recipes, build = BUILDERS[container]
    values, nullable, hold = recipes[name]
    frame = build({name: hold(cells(data.draw, values, 7, nullable))})
    schema = Schema.fit(frame)
    assert_front_is_encode(schema, frame)
    assert_tail_is_decode(schema, schema.encode(frame))
    assert_tail_is_decode(schema, wild(schema, seed))


def within_reach(column, values):
    """Whether int64 has room for the distance of each value from fit."""
    return np.nan_to_num(np.abs(values)) * column.step < 2.0**62


@pytest.mark.parametrize("container", BUILDERS)
def test_other_rows_are_encoded_alike_or_refused_alike(container):
    recipes, build = BUILDERS[container]

    @settings(LAW, max_examples=50)
    @given(data=st.data())
    def law(data):
        frame = data.draw(frames(recipes, build))
        names = frame.column_names if container == "arrow" else list(frame.columns)
        drawn = {name: cells(data.draw, recipes[name][0], 5, recipes[name][1]) for name in names}
        other = build({name: recipes[name][2](values) for name, values in drawn.items()})
        schema = Schema.fit(frame)
        try:
            expected = schema.encode(other)
        except SchemaError as error:
            refused = error
        else:
            made = run(front(schema), feed(schema, other))
            same(made["ids"], expected.ids)
            for k, column in enumerate(schema.number_columns):
                near = column.is_plain | within_reach(column, expected.numbers[:, k])
                same(made["numbers"][near, k], expected.numbers[near, k])
            return
        with pytest.raises(SchemaError) as caught:
            feed(schema, other)
        assert str(caught.value) == str(refused)

    law()


@pytest.fixture(scope="module")
def people_schema():
    return Schema.fit(people_table(400, 0))


@pytest.mark.parametrize("n", [0, 1, 2, 257])
def test_every_size_of_batch(people_schema, n):
    frame = people_table(300, 1)
    feeds, table = feed(people_schema, frame), people_schema.encode(frame).rows(slice(0, n))
    made = run(front(people_schema), {name: values[:n] for name, values in feeds.items()}, check=True)
    same(made["numbers"], table.numbers)
    same(made["ids"], table.ids)
    back = run(tail(people_schema), {"numbers": table.numbers, "ids": table.ids}, check=True)
    assert [len(values) for values in back.values()] == [n] * len(feeds)
    if n:
        assert_tail_is_decode(people_schema, table)


@pytest.mark.parametrize("build", [pl.from_pandas, lambda frame: pl.from_pandas(frame).to_arrow()])
def test_a_table_of_another_container_makes_the_same_feeds(people_schema, build):
    frame = people_table(50, 1)
    other = feed(people_schema, build(frame.reset_index(drop=True)))
    for name, values in feed(people_schema, frame).items():
        same(other[name], values)


@pytest.mark.parametrize("dtype", ["f8", "f4", "f2", "i8", "u8", "i2"])
def test_a_matrix(dtype):
    matrix = np.random.default_rng(0).normal(50, 10, size=(30, 5)).astype(dtype)
    matrix[:, 2] = 7
    schema = Schema.fit(matrix)
    assert_front_is_encode(schema, matrix, check=True)
    assert_front_is_encode(schema, matrix[::-1, ::-1])
    assert_tail_is_decode(schema, schema.encode(matrix), check=True)


def test_the_front_feeds_the_tail_in_one_graph(people_schema):
    frame = people_table(400, 0)  # of fit, for the tail clips what lies outside
    before, after = front(people_schema), tail(people_schema, naming=FILLED)
    both = Part(
        before.nodes + after.nodes, before.initializers + after.initializers, before.inputs, after.outputs
    )
    feeds = feed(people_schema, frame)
    made = run(both, feeds, check=True)
    for name, values in feeds.items():
        same(made[FILLED + name], values)


# ---- text and levels ---------------------------------------------------------------------------------------

HOSTILE = [
    "a",
    "A",
    "a ",
    " a",
    "a\0",
    "\0",
    "é",
    "e\u0301",
    "😀",
    "x" * 10_000,
    "\n",
    "\ud800",
    "\\ud800",
    "NaN",
]


@pytest.mark.parametrize("levels", [HOSTILE, ["", *HOSTILE], ["", "<missing>", "<unseen>", "<unseen>'"]])
def test_hostile_texts_keep_their_places(levels):
    frame = pd.DataFrame({"s": pd.Series([*levels, *levels, None], dtype=object)})
    schema = Schema.fit(frame)
    assert len(schema.category_columns[0].levels) == len(levels)
    marks = {describe(schema)[0]["missing"], *schema.category_columns[0].vocabulary.tolist()}
    strange = ["b", "<missing>", "<unseen>", "", "\udfff", "a\0\0", None, *sorted(marks, key=repr)]
    other = pd.DataFrame({"s": pd.Series([*strange, *levels], dtype=object)})
    assert_front_is_encode(schema, frame)
    assert_front_is_encode(schema, other)
    assert_tail_is_decode(schema, schema.encode(frame.replace({"\ud800": "a"})))


def test_the_missing_text_is_no_level():
    def missing(*levels):
        return describe(Schema.fit(pd.DataFrame({"s": [*levels, *levels]})))[0]["missing"]

    assert missing("a", "b") == ""
    assert missing("a", "") == "<missing>"
    assert missing("", "<missing>", "<missing>'") == "<missing>''"


def test_a_text_like_the_missing_one_is_unseen():
    schema = Schema.fit(pd.DataFrame({"s": ["a", "b", "a", None]}))
    other = pd.DataFrame({"s": pd.Series(["", None, "a", np.nan, pd.NA, "<unseen>"], dtype=object)})
    made = run(front(schema), feed(schema, other))
    assert made["ids"][:, 0].tolist() == [2, 3, 0, 3, 3, 2]


def test_columns_without_levels_are_blank_or_unseen():
    frame = pd.DataFrame(
        {
            "none": None,
            "nan": np.nan,
            "text": pd.Series([None] * 3, dtype="str"),
            "int": pd.Series([None] * 3, dtype="Int64"),
            "time": pd.Series([None] * 3, dtype="datetime64[us]"),
            "c": ["a", "b", "a"],
        }
    )
    schema = Schema.fit(frame)
    assert_front_is_encode(schema, frame, check=True)
    assert_tail_is_decode(schema, wild(schema, 0), check=True)
    assert_front_is_encode(schema, frame.assign(none="x", nan=1.5, text="y", int=7))


@pytest.mark.parametrize(
    "levels",
    [
        [True, False],
        pd.array([-(2**63), 2**63 - 1, 0], dtype="Int64"),
        pd.array([0, 2**64 - 1, 2**63], dtype="UInt64"),
        [0.5, -0.0, 1e300, 5e-324],
        pd.to_datetime(["0001-01-01", "9999-12-31"], format="ISO8601").as_unit("s"),
        pd.to_timedelta([1, -1], unit="D"),
        [dt.time(1), dt.time(23, 59, 59, 999999)],
        [dt.date(1, 1, 1), dt.date(9999, 12, 31)],
    ],
)
def test_levels_of_every_type(levels):
    frame = pd.DataFrame({"x": pd.Series(levels)})
    schema = Schema.fit(frame, {"x": Categorical(nullable=True)})
    assert_front_is_encode(schema, frame, check=True)
    assert_front_is_encode(schema, frame.astype(object).map(lambda x: None))
    assert_tail_is_decode(schema, wild(schema, 0), check=True)


def test_numbers_that_are_no_level_are_unseen():
    schema = Schema.fit(pl.DataFrame({"n": [-(2**63), 5]}), {"n": Categorical(nullable=True)})
    column = schema.category_columns[0]
    for others in ([-(2**63) + 1, -(2**63) + 2, 5], [2**64 - 1, 5], [5.0, 5.5, -(2.0**63), None]):
        assert_front_is_encode(schema, pl.DataFrame({"n": others}))
    assert column.port.missing == -(2**63) + 1
    floats = Schema.fit(pd.DataFrame({"n": [0.0, 2.0**53]}), {"n": Categorical()})
    assert_front_is_encode(floats, pd.DataFrame({"n": [0, 1, 2**53, 2**53 + 1]}))
    truth = Schema.fit(pd.DataFrame({"n": [True, False, True]}))
    for others in ([0, 1, 2], [0.0, 1.0, 0.5], [True, False, True]):
        assert_front_is_encode(truth, pd.DataFrame({"n": others}))


def test_categories_of_another_frame():
    schema = Schema.fit(pd.DataFrame({"c": pd.Categorical(["x", "x", "y"], categories=["y", "x", "z"])}))
    other = pd.Categorical(["x", "q", None, "z"], categories=["q", "z", "x"])
    assert_front_is_encode(schema, pd.DataFrame({"c": other}))
    days = pd.to_datetime(["2024-01-01", "2024-01-02"])
    schema = Schema.fit(pd.DataFrame({"t": days.as_unit("s")}), {"t": Categorical()})
    for unit in ("s", "ms", "ns"):
        other = days.as_unit(unit) + pd.to_timedelta([0, 1], unit="ms")
        assert_front_is_encode(schema, pd.DataFrame({"t": other}))


def test_a_hundred_thousand_levels_are_quick():
    texts = pl.DataFrame({"s": [f"level {i}" for i in range(100_000)]}).sample(fraction=1, seed=0)
    schema = Schema.fit(pl.concat([texts, texts]))
    assert len(schema.category_columns[0].levels) == 100_000
    start = time.process_time()
    assert_front_is_encode(schema, texts)
    assert_tail_is_decode(schema, schema.encode(texts))
    assert time.process_time() - start < 10


# ---- numbers -----------------------------------------------------------------------------------------------

LARGEST = 2**63 - 1


@pytest.mark.parametrize(
    "values",
    [
        [-(2**63), LARGEST, 0, -1, 12345],
        [-(2**63), LARGEST],
        [0, 2**64 - 1, 2**63, 7],
        [0, 2**64 - 1],
        [2**63, 2**63 + 6, 2**64 - 2],
        [2**62 + 1, 2**62 + 2, LARGEST],
        [-(2**63) + 5, -(2**63) + 6],
        [2**62 + 7 * (i * i % 97) for i in range(60)],
        [2**40 * (i * i % 97 - 50) for i in range(60)],
        [2**56 * (i * i % 97 - 50) for i in range(60)],
        [2**57 * (i * i % 97) for i in range(60)],
    ],
)
def test_large_whole_numbers(values):
    unsigned = max(values) > LARGEST
    frame = pl.DataFrame({"n": pl.Series(values, dtype=pl.UInt64 if unsigned else pl.Int64)})
    schema = Schema.fit(frame, {"n": Number(nullable=True)})
    column = schema.number_columns[0]
    assert_front_is_encode(schema, frame, check=True)
    assert_tail_is_decode(schema, schema.encode(frame), check=True)
    least, most = -((column.origin - column.low) // column.step), (column.high - column.origin) // column.step
    cells = np.array([np.nan, -1e300, np.inf, 0.4, -0.6, *np.linspace(float(least), float(most), 200)])
    assert_tail_is_decode(schema, Table(cells[:, None], np.zeros((len(cells), 0), int)))
    ends = [0, 1, 2**64 - 1] if unsigned else [-(2**63), -(2**63) + 1, 0, LARGEST]
    other = pl.DataFrame({"n": pl.Series(ends, dtype=frame["n"].dtype)})
    made, expected = run(front(schema), feed(schema, other))["numbers"], schema.encode(other).numbers
    near = within_reach(column, expected) if column.step > 1 else expected == expected
    np.testing.assert_allclose(made[near], expected[near], rtol=4e-16)
    assert (np.sign(made) == np.sign(expected)).all()


def test_whole_numbers_beyond_the_tensor_end_at_its_limits():
    schema = Schema.fit(pl.DataFrame({"n": [2**60, 2**60 + 1, 2**60 + 30]}), {"n": Number(nullable=True)})
    name = "n"
    for numbers, held in (
        (pl.Series([2**64 - 1, 2**63]), [LARGEST, LARGEST]),
        (pl.Series([1e300, -1e300, None]), [LARGEST, -LARGEST, -(2**63)]),
        (pl.Series([-(2**63)]), [-LARGEST]),
        (pl.Series([2.0**60 + 256, None]), [2**60 + 256, -(2**63)]),
    ):
        assert feed(schema, pl.DataFrame({name: numbers}))[name].tolist() == held


def test_numbers_given_otherwise():
    schema = Schema.fit(pd.DataFrame({"n": [1, 2, 300], "x": [0.5, 1.25, 2.5]}))
    for n in ([2**64 - 1, 0], [2.5, 7.0], [Decimal("1.5"), Decimal(2)], [2**63, -5]):
        assert_front_is_encode(schema, pd.DataFrame({"n": n, "x": n}))
    text = pd.DataFrame({"x": ["1.5", "2", "30.25", None]})
    schema = Schema.fit(text, {"x": Number()})
    assert_front_is_encode(schema, text)
    assert_front_is_encode(schema, pd.DataFrame({"x": [1, 2]}))
    assert run(tail(schema), {"numbers": np.array([[2.254]]), "ids": np.zeros((1, 0), int)})["x"] == 2.25
    truth = Schema.fit(pd.DataFrame({"x": [True, False]}), {"x": Number()})
    assert_front_is_encode(truth, pd.DataFrame({"x": [True, True]}))


@pytest.mark.parametrize("native", ["float32", "Float32", "float64", "Float64"])
def test_decoded_floats_are_those_of_their_width(native):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"cents": rng.integers(0, 999, 40) / 100, "any": rng.normal(size=40)}).astype(native)
    schema = Schema.fit(frame)
    assert_tail_is_decode(schema, wild(schema, 0))


def test_decimals_come_in_digits_of_their_type():
    cells = [Decimal(i * i).scaleb(-8) for i in range(12_345, 12_400)]
    schema = Schema.fit(pa.table({"x": pa.array(cells, pa.decimal128(20, 8))}))
    assert schema.number_columns[0].decimals is None
    assert_tail_is_decode(schema, wild(schema, 0))


# ---- times -------------------------------------------------------------------------------------------------


def times(*texts, unit="us"):
    return pl.DataFrame({"t": texts}).select(pl.col("t").str.to_datetime(time_unit=unit))


@pytest.mark.parametrize("unit", ["ms", "us", "ns"])
@pytest.mark.parametrize("theirs", ["ms", "us", "ns"])
def test_times_in_another_unit(unit, theirs):
    days = [f"2024-{1 + i % 12:02}-{1 + i % 28:02} {i % 24:02}:00:00.000" for i in range(40)]
    frame = times(*days, unit=unit)
    other = ["1970-01-01 00:00:00.000001", "2024-01-05 17:43:21.987654", "2261-01-01 00:00:00.5", None]
    for rows in (frame, frame[:1], frame[2:4]):
        schema = Schema.fit(rows, {"t": Datetime(nullable=True)})
        for texts in (other, other[::-1]):
            assert_front_is_encode(schema, times(*texts, unit=theirs), check=True)
        assert_tail_is_decode(schema, wild(schema, 0), check=True)


def test_years_of_python_fit_into_the_tensor_and_longer_ones_end_at_its_limits():
    schema = Schema.fit(pl.DataFrame({"t": [dt.date(2024, 1, 1), dt.date(2024, 3, 1)]}))
    assert describe(schema)[0]["unit"] == "us"
    ends = [dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31, 23, 59, 59, 999999)]
    assert_front_is_encode(schema, pl.DataFrame({"t": ends}))
    assert_front_is_encode(schema, pd.DataFrame({"t": np.array(ends, dtype="M8[s]")}))
    far = pd.DataFrame({"t": np.array(["500000-01-01", "-500000-01-01"], dtype="M8[s]")})
    assert feed(schema, far)["t"].tolist() == pytest.approx([2**63, -(2**63)])
    made, expected = run(front(schema), feed(schema, far))["numbers"], schema.encode(far).numbers
    assert (np.sign(made) == np.sign(expected)).all()
    fine = Schema.fit(times("2024-01-01 00:00:00", "2024-01-02 00:00:00", unit="ns"))
    assert describe(fine)[0]["unit"] == "ns"
    mixed = times(
        "2024-01-01 00:00:00", "9999-12-31 00:00:00", "2024-01-02 00:00:00"
    )  # beyond what nanoseconds reach
    made, expected = run(front(fine), feed(fine, mixed))["numbers"], fine.encode(mixed).numbers
    same(made[[0, 2]], expected[[0, 2]])
    assert made[1] > 80_000


def test_a_range_that_microseconds_cannot_hold_takes_a_coarser_unit():
    frame = pd.DataFrame({"t": np.array(["500000-01-01", "-500000-01-01", "2024-01-01"], dtype="M8[s]")})
    schema = Schema.fit(frame)
    assert describe(schema)[0]["unit"] == "ms"
    assert_front_is_encode(schema, frame)
    assert_tail_is_decode(schema, schema.encode(frame))


def test_zones_and_times_of_day_and_spans():
    stamps = pd.date_range("2024-03-30", periods=40, freq="h", tz="Europe/Berlin")
    frame = pd.DataFrame({"t": stamps})
    schema = Schema.fit(frame)
    assert_front_is_encode(schema, pd.DataFrame({"t": stamps.tz_convert("Asia/Tokyo")}))
    with pytest.raises(SchemaError, match="time zone"):
        feed(schema, pd.DataFrame({"t": stamps.tz_localize(None)}))
    clock = pa.table({"t": pa.array([0, 86399, 7], pa.int32()).cast(pa.time32("s"))})
    schema = Schema.fit(clock)
    assert describe(schema)[0]["unit"] == "ns"
    assert_front_is_encode(schema, pa.table({"t": pa.array([1, 10**12 + 1]).cast(pa.time64("ns"))}))
    spans = pd.DataFrame({"t": pd.to_timedelta([0, 1, 2], unit="s")})
    schema = Schema.fit(spans)
    assert schema.number_columns[0].port.type == "int64"
    assert_front_is_encode(schema, pd.DataFrame({"t": [dt.timedelta(-3, 5, 7), dt.timedelta(days=10**8)]}))


# ---- names and description ---------------------------------------------------------------------------------


def test_names_of_the_graph_itself_are_left_to_it():
    names = [*sorted(RESERVED), 7, "7", "column:7", "column:score", ":front/0", "filled:x", "x", "é", "a/b c"]
    frame = pd.DataFrame({name: ["a", "b", "a"] for name in names})
    schema = Schema.fit(frame)
    named = input_names(schema)
    assert len(set(named.values())) == len(names)
    assert not set(named.values()) & RESERVED
    assert named["x"] == "x"
    assert named[7] == "7"
    assert named["7"] == "column:7"
    assert named["threshold"] == "column:threshold"
    assert_front_is_encode(schema, frame, check=True)
    assert_tail_is_decode(schema, schema.encode(frame), check=True)


def test_the_description_is_json(people_schema):
    told = json.loads(json.dumps(describe(people_schema), allow_nan=False))
    assert told == describe(people_schema)
    made = front(people_schema)
    assert {row["input"] for row in told} == {given.name for given in made.inputs}
    assert {row["column"]: (row["type"], row["missing"], row.get("unit")) for row in told} == {
        "income": ("float64", "NaN", None),
        "age": ("float64", "NaN", None),
        "debt": ("float64", "NaN", None),
        "steps": ("float64", "NaN", None),
        "since": ("int64", -(2**63), "us"),
        "wait": ("int64", -(2**63), "us"),
        "children": ("int64", -(2**63), None),
        "city": ("string", "", None),
        "size": ("string", "", None),
        "member": ("int64", -(2**63), None),
        "country": ("string", "", None),
    }


@pytest.mark.parametrize(
    "change",
    [
        lambda frame: frame.drop(columns="age"),
        lambda frame: frame.assign(other=1),
        lambda frame: frame.assign(age="old"),
        lambda frame: frame.assign(income=np.inf),
        lambda frame: frame.assign(age=np.nan),
        lambda frame: frame.assign(since=frame["since"].dt.tz_localize(None)),
        lambda frame: frame[:0],
        lambda frame: frame.to_numpy()[:, :3],
    ],
)
def test_feed_refuses_what_encode_refuses(people_schema, change):
    frame = change(people_table(20, 1))
    with pytest.raises(SchemaError) as expected:
        people_schema.encode(frame)
    with pytest.raises(SchemaError) as caught:
        feed(people_schema, frame)
    assert str(caught.value) == str(expected.value)


def test_holes_may_be_let_in(people_schema):
    frame = people_table(20, 1).astype(object).map(lambda x: None)
    assert_front_is_encode(people_schema, frame, allow_missing=True)
