"""What a table or a condition must not hold is refused by name, with a value, and with what to do."""

import datetime as dt
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse

from lookalike.errors import ConditionError, LookalikeWarning, SchemaError
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

FRAME = pd.DataFrame(
    {
        "amount": [1.5, 2.25, 3.125, 4.0],
        "age": [20, 30, 40, 51],
        "job": ["cook", "nurse", "cook", "smith"],
        "when": pd.to_datetime(["2020-01-01", "2020-01-03", "2020-01-04", "2020-02-01"]),
        "ok": [True, False, True, True],
        "span": pd.to_timedelta([1, 2, 3, 4], unit="h"),
        "zoned": pd.date_range("2020-01-01", periods=4, tz="UTC"),
        "one": 5,
    }
)
SCHEMA = Schema.fit(FRAME)
MATRIX = Schema.fit(np.random.default_rng(0).normal(size=(5, 3)))


def says(error, *parts):
    """Match the parts of a message in their order."""
    return pytest.raises(error, match=".*".join(map(re.escape, parts)))


def changed(**columns):
    return FRAME.assign(**columns)


@pytest.mark.parametrize(
    "data,parts",
    [
        (
            FRAME.rename(columns={"amount": "amout"}),
            ["column 'amout' was not seen in fit. Did you mean 'amount'?"],
        ),
        (
            FRAME.drop(columns=["age", "job"]),
            ["column 'age' is missing", "So are 'job'", "Pass every column"],
        ),
        (changed(new=1), ["column 'new' was not seen in fit. Drop it"]),
        (pd.concat([FRAME, FRAME[["job"]]], axis=1), ["'job' is used twice", "rename or drop"]),
        (FRAME[:0], ["Found array with 0 sample(s) (shape=(0, 8)) while a minimum of 1 is required."]),
        (changed(amount=[1, np.inf, 2, 3]), ["column 'amount' holds inf in row 1", "replace it"]),
        (changed(one=[5, 5, -np.inf, 5]), ["column 'one' holds -inf in row 2"]),
        (
            changed(amount=list("abcd")),
            ["'amount' held numbers in fit, but now holds text, such as 'a' in row 0", "astype(float)"],
        ),
        (
            changed(age=[1, 2, "x", 4]),
            ["column 'age' mixes types: 1 (int, row 0) and 'x' (str, row 2)", "astype(str)"],
        ),
        (
            changed(age=FRAME["when"]),
            ["'age' held whole numbers", "now holds dates or times, such as 2020-01-01 00:00:00 in row 0"],
        ),
        (
            changed(age=FRAME["ok"]),
            ["'age' held whole numbers in fit, but now holds truth values, such as True"],
        ),
        (
            changed(job=[7, 8, 9, 9]),
            ["'job' held text in fit, but now holds whole numbers, such as 7 in row 0"],
        ),
        (changed(ok=list("yyny")), ["'ok' held truth values in fit, but now holds text, such as 'y'"]),
        (
            changed(when=["2020-01-01"] * 4),
            ["'when' held dates or times in fit, but now holds text", "to_datetime"],
        ),
        (changed(span=[1, 2, 3, 4]), ["'span' held durations in fit", "to_timedelta"]),
        (
            changed(when=FRAME["zoned"]),
            [
                "'when' had no time zone in fit, but now has UTC",
                "2020-01-01 00:00:00+00:00 in row 0",
                "Remove",
            ],
        ),
        (changed(zoned=FRAME["when"]), ["'zoned' had the time zone UTC in fit, but now has none", "Attach"]),
        (
            changed(age=[1, 2, None, 4]),
            ["'age' is missing (NaN or null) in row 2", "schema={'age': la.Number(nullable=True)}"],
        ),
        (
            changed(job=["cook", None, None, "cook"]),
            ["'job' is missing (NaN or null) in row 1", "la.Categorical(nullable=True)"],
        ),
        (
            changed(ok=pd.array([True, None, True, True], dtype="boolean")),
            ["'ok' is missing", "row 1", "la.Boolean"],
        ),
        (changed(when=pd.NaT), ["'when' is missing (NaN or null) in row 0"]),
        (changed(one=None), ["'one' is missing", "la.Constant(nullable=True)"]),
    ],
)
def test_rows_unlike_those_of_fit_are_refused(data, parts):
    with says(SchemaError, *parts):
        SCHEMA.encode(data)


@pytest.mark.parametrize(
    "data,parts",
    [
        (np.ones(3), ["got 1 dimension(s) of shape (3,)", "Reshape your data", "reshape(-1, 1)"]),
        (np.ones((3, 2, 2, 1, 1)), ["got 5 dimension(s) of shape (3, 2, 2, 1, 1)", "Reshape", "images are"]),
        (np.ones((3, 0)), ["0 feature(s) (shape=(3, 0)) while a minimum of 1 is required."]),
        (np.ones((0, 3)), ["0 sample(s) (shape=(0, 3)) while a minimum of 1 is required."]),
        (np.ones((2, 2), dtype=complex), ["Complex data not supported", "complex128"]),
        (pd.DataFrame({"c": [1j, 2]}), ["Complex data not supported: column 'c' holds 1j"]),
        (scipy.sparse.csr_matrix(np.eye(3)), ["sparse input", "data.toarray()"]),
        (scipy.sparse.csr_array(np.eye(3)), ["sparse input", "data.toarray()"]),
        (pd.DataFrame({"s": pd.arrays.SparseArray([0, 0, 1])}), ["column 's' is sparse", "to_dense()"]),
        (pl.LazyFrame({"a": [1]}), ["LazyFrame", "data.collect()"]),
        (FRAME["age"], ["a pandas.Series has one dimension. Reshape", "to_frame()"]),
        (None, ["a builtins.NoneType is not a table", "Pass a pandas or polars DataFrame"]),
        ({}, ["0 feature(s) (shape=(1, 0)) while a minimum of 1 is required."]),
        ({"a": [], "b": ()}, ["0 sample(s) (shape=(0, 2)) while a minimum of 1 is required."]),
        (
            {"a": [1, 2], "b": ["x"]},
            ["column 'b' has 1 values, but 'a' has 2. Give each column one value a row"],
        ),
        ({"a": [1], "b": "x"}, ["column 'b' is the single value 'x', and others have many"]),
        ({"a": np.eye(2)}, ["column 'a' has 2 dimensions, but one value a row is expected"]),
        ({("a", "b"): [1]}, ["column name ('a', 'b') is a tuple"]),
        ([[1, 2], [3]], ["cannot be read as rows of one length"]),
        (np.zeros(3, dtype=[("a", "f8")]), ["structured array", "pandas.DataFrame(data)"]),
        (np.array([[1.0], [np.inf]]), ["column 'x0' holds inf in row 1"]),
        (np.array([[np.longdouble("1e400")], [1]]), ["column 'x0' holds 1e+400 in row 0, beyond the range"]),
        (
            pd.DataFrame({"n": [1, 10**400]}),
            ["column 'n' holds 1000", "in row 1, beyond the range of a 64-bit float"],
        ),
        (
            pd.DataFrame({"n": ["a", 1.5, None]}),
            ["column 'n' mixes types: 'a' (str, row 0) and 1.5 (float, row 1)"],
        ),
        (
            pd.DataFrame({"n": [True, 1]}, dtype=object),
            ["column 'n' mixes types: True (bool, row 0) and 1 (int, row 1)"],
        ),
        (pd.DataFrame({"n": [None, [1]]}), ["column 'n' holds a list in row 1 ([1])", "la.Ignored()"]),
        (
            np.array([[{"foo": "bar"}], [2.0]], dtype=object),
            ["'x0' holds a dict in row 0 ({'foo': 'bar'})", "must be a string, a number"],
        ),
        (pl.DataFrame({"n": [[1], [2]]}), ["column 'n' has dtype List(Int64)", "schema={'n': la.Ignored()}"]),
        (pl.DataFrame({"n": [{"a": 1}]}), ["column 'n' has dtype Struct", "la.Ignored()"]),
        (pa.table({"n": [b"a"]}), ["column 'n' has dtype binary", "la.Ignored()"]),
        (np.array([[b"a"]]), ["column 'x0' holds bytes", "Decode it to text"]),
        (pd.DataFrame({"n": pd.cut([1, 2, 3], 2)}), ["'n' has intervals as categories", "astype(str)"]),
        (
            pd.DataFrame(
                {"n": [dt.datetime(2020, 1, 1, tzinfo=dt.UTC), dt.datetime(2020, 1, 1)]}, dtype=object
            ),
            ["'n' mixes time zones (None, UTC)"],
        ),
        (
            pd.DataFrame({"n": [np.datetime64("400000-01-01"), dt.datetime(2020, 1, 1)]}, dtype=object),
            ["column 'n' holds 400000-01-01", "cannot count"],
        ),
        (pd.DataFrame({"n": [Decimal("inf"), Decimal(1)]}), ["column 'n' holds inf in row 0"]),
        (pd.DataFrame({("a", "b"): [1, 2]}), ["column name ('a', 'b') is a tuple", "Rename"]),
        (pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), ["column name 'a' is used twice"]),
    ],
)
def test_what_is_no_table_or_no_column_is_refused(data, parts):
    with says(SchemaError, *parts):
        Schema.fit(data)


def test_an_object_that_no_column_can_hold_is_a_type_error_too():
    with says(TypeError, "argument must be a string, a number"):
        Schema.fit(np.array([[{"foo": "bar"}, 1], [2, 3]], dtype=object))


@pytest.mark.parametrize(
    "wishes,parts",
    [
        ({"job": Number()}, ["'job' holds 'cook' in row 0, which is not a number", "la.Categorical()"]),
        (
            {"when": Number()},
            ["'when' holds dates or times", "which cannot be Number. Declare la.Datetime()"],
        ),
        (
            {"job": Datetime()},
            ["'job' holds text (such as 'cook' in row 0), which cannot be Datetime. Parse it first"],
        ),
        ({"age": Duration()}, ["'age' holds whole numbers (such as 20 in row 0), which cannot be Duration"]),
        ({"job": Boolean()}, ["'job' holds text", "which cannot be Boolean"]),
        ({"age": Boolean()}, ["'age' holds 20 in row 0, which is neither True nor False"]),
        ({"age": Constant()}, ["'age' is not constant: it holds 20 and 30"]),
        ({"amount": Identifier()}, ["'amount' holds numbers, which cannot be an Identifier"]),
        ({"age": Number(lower=25)}, ["'age' holds 20 in row 0, beyond lower=25"]),
        ({"age": Number(upper=50)}, ["'age' holds 51 in row 3, beyond upper=50"]),
        ({"age": Number(lower=5, upper=1)}, ["'age': lower=5 must be less than upper=1"]),
        ({"age": Number(lower=-np.inf)}, ["'age': lower must be a finite number, got -inf"]),
        ({"job": Categorical(levels=[1])}, ["'job' holds text, but levels names [1]"]),
        ({"amount": Categorical(levels=[np.nan])}, ["levels names [nan]", "none missing"]),
        ({"agee": Number()}, ["schema names column 'agee', which the data lack. Did you mean 'age'?"]),
        ({"age": Number}, ["schema['age'] must be a kind of column, such as la.Number(), got <class"]),
        ({"age": "number"}, ["schema['age'] must be a kind of column", "got 'number'"]),
        (["age"], ["schema must map column names to kinds", "got ['age']"]),
        (dict.fromkeys(FRAME, Ignored()), ["no column is left to model: 'amount' is of kind ignored"]),
    ],
)
def test_a_kind_that_cannot_be_is_refused(wishes, parts):
    with says(SchemaError, *parts):
        Schema.fit(FRAME, wishes)


def test_a_column_without_a_value_has_nothing_to_learn():
    with says(SchemaError, "column 'age' has no value at all"):
        Schema.fit(changed(age=np.nan), {"age": Number()})


@pytest.mark.parametrize(
    "data,parts",
    [
        (np.ones((2, 2)), ["X has 2 features, but VAE is expecting 3 features as input."]),
        ([[1, 2, 3], [1, np.inf, 3]], ["column 'x1' holds inf in row 1"]),
        ([[1, 2, 3], [1, np.nan, 3]], ["column 'x1' is missing (NaN or null) in row 1"]),
        ([[1, 2, "a"]], ["column 'x2' held numbers in fit, but now holds text, such as 'a' in row 0"]),
        (np.array([[True, False, True]]), ["column 'x0' held numbers in fit, but now holds truth values"]),
    ],
)
def test_arrays_unlike_that_of_fit_are_refused(data, parts):
    with says(SchemaError, *parts):
        MATRIX.encode(data, owner="VAE")


def test_a_change_between_names_and_none_is_told():
    with pytest.warns(LookalikeWarning, match="names in fit and have none now: they are taken by position"):
        assert Schema.fit(FRAME[["amount", "age"]]).encode(np.array([[1.0, 2]])).numbers.tolist() == [[1, 2]]
    with pytest.warns(LookalikeWarning, match="no names in fit and have names now"):
        MATRIX.encode(pd.DataFrame({"a": [1.0], "b": [2.0], "c": [3.0]}))


@pytest.mark.parametrize(
    "given,parts",
    [
        ({"agee": 3}, ["'agee' is not a column. Did you mean 'age'? Columns are 'amount', 'age'"]),
        ({"job": "cok"}, ["'job' cannot be 'cok': fit saw 'cook', 'nurse', 'smith'. Did you mean 'cook'?"]),
        ({"job": 3}, ["'job' held text in fit, but now holds whole numbers, such as 3"]),
        ({"one": 6}, ["'one' cannot be 6: fit saw 5."]),
        ({"age": 10}, ["'age' cannot be 10: fit saw 20 to 51, and the nearest that can be generated is 20"]),
        (
            {"age": 20.5},
            ["'age' cannot be 20.5: fit saw 20 to 51, and the nearest that can be generated is 20"],
        ),
        ({"amount": 3.12345}, ["'amount' cannot be 3.12345", "the nearest that can be generated is 3.123"]),
        ({"age": None}, ["'age' cannot be missing: it never was in fit", "la.Number(nullable=True)"]),
        ({"job": pd.NA}, ["'job' cannot be missing"]),
        ({"age": "20"}, ["'age' held whole numbers in fit, but now holds text, such as '20'"]),
        ({"amount": np.inf}, ["'amount' holds inf"]),
        (
            {"when": "2021-01-03"},
            ["'when' cannot be 2021-01-03 00:00:00: fit saw 2020-01-01 00:00:00 to 2020-02-01"],
        ),
        ({"when": "soon"}, ["'when' holds dates or times", "'soon'", "Write it as 2024-12-31"]),
        ({"zoned": "2020-01-02"}, ["'zoned' had the time zone UTC in fit, but now has none"]),
        ({"age": [20, 30, 40]}, ["'age' is given values of shape (3,) for 2 rows"]),
        ({"age": [20, 99]}, ["'age' cannot be 99"]),
        ({"age": {"a": 1}}, ["'age' is given [{'a': 1}], which is no list of values"]),
        ({"ok": 2}, ["'ok' cannot be 2: fit saw True, False"]),
    ],
)
def test_conditions_that_no_row_can_meet_are_refused(given, parts):
    with says(ConditionError, *parts):
        SCHEMA.condition(given, 2)


def test_a_condition_names_at_most_ten_levels_and_no_identifier():
    schema = Schema.fit(pd.DataFrame({"s": [f"level {i % 40}" for i in range(200)], "id": np.arange(200)}))
    with says(ConditionError, "'level 10', ", "'level 17' and 30 more."):
        schema.condition({"s": "q"}, 1)
    with says(ConditionError, "'id' is of kind identifier: it is not modelled"):
        schema.condition({"id": 3}, 1)


@pytest.mark.parametrize("build", [pd.DataFrame, pl.from_pandas, lambda f: pl.from_pandas(f).to_arrow()])
def test_every_value_of_fit_can_be_a_condition_and_comes_back(build):
    frame = build(
        FRAME.assign(
            hole=["a", None, "b", "a"], gap=[1.0, np.nan, 2.5, 4.0], small=np.float32(FRAME["amount"] / 3)
        )
    )
    schema = Schema.fit(frame)
    rows = frame.to_pylist() if isinstance(frame, pa.Table) else list(rows_of(frame))
    whole = schema.encode(frame)
    for i, row in enumerate(rows):
        table = schema.condition(row, 1)
        np.testing.assert_array_equal(table.numbers, whole.numbers[i : i + 1])
        np.testing.assert_array_equal(table.ids, whole.ids[i : i + 1])
    some = schema.condition({"age": [20, 51], "job": "nurse"}, 2)
    known = (
        [c.name == "age" for c in schema.number_columns],
        [c.name == "job" for c in schema.category_columns],
    )
    assert np.isnan(some.numbers[:, ~np.array(known[0])]).all()
    assert (some.ids[:, ~np.array(known[1])] == -1).all()
    assert some.numbers[:, known[0]].ravel().tolist() == [20, 51]


def rows_of(frame):
    return frame.iter_rows(named=True) if isinstance(frame, pl.DataFrame) else frame.to_dict("records")


def test_conditions_may_be_written_in_several_ways():
    for when in (
        "2020-01-03",
        dt.date(2020, 1, 3),
        dt.datetime(2020, 1, 3),
        np.datetime64("2020-01-03"),
        pd.Timestamp("2020-01-03"),
        pd.Series(pd.to_datetime(["2020-01-03"])),
    ):
        assert SCHEMA.condition({"when": when}, 1).numbers[0, 2] == 2
    assert SCHEMA.condition({"zoned": "2020-01-02T01:00+01:00"}, 1).numbers[0, 4] == 1
    assert SCHEMA.condition({"span": dt.timedelta(hours=2)}, 3).numbers[:, 3].tolist() == [1, 1, 1]
    assert SCHEMA.condition({"ok": np.bool_(False)}, 1).ids[0, 1] == 1
    assert SCHEMA.condition({"age": np.array(30)}, 1).numbers[0, 1] == 30
    tenths = Schema.fit(pd.DataFrame({"x": np.array([0.1, 0.3, 0.7], dtype="f4"), "y": [0.1, 0.3, 0.7]}))
    table = tenths.condition({"x": 0.3, "y": 0.1 + 0.2}, 1)
    assert table.numbers.tolist() == [[float(np.float32(0.3)), 0.3]]
    with pytest.raises(ValueError, match="must be at least 0, got -3"):
        SCHEMA.condition({}, -3)


@pytest.mark.parametrize(
    "state",
    [
        [],
        {},
        {"container": "numpy", "columns": 3},
        {"container": "numpy", "columns": [{"kind": "evil"}]},
        {"container": "numpy", "columns": [{"kind": "number"}]},
        {"container": [], "columns": []},
    ],
)
def test_what_is_no_schema_is_not_rebuilt(state):
    with says(SchemaError, "this is not the description of a schema"):
        Schema.from_dict(state)


def test_arrays_of_another_shape_are_not_decoded():
    with says(SchemaError, "expected arrays of shapes (2, 5) and (2, 3), got (2, 1) and (2, 3)"):
        SCHEMA.decode(Table(np.zeros((2, 1)), np.zeros((2, 3), int)))


def test_levels_are_a_list():
    with pytest.raises(TypeError, match="levels must be a list of levels, got the text 'abc'"):
        Categorical(levels="abc")
