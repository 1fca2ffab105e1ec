"""Any table: the estimator and its exported files, of both entries, agree or refuse it in the same words."""

import datetime as dt

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import TINY
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal, assert_array_less

import lookalike as la
from lookalike import runtime
from lookalike.frames import open_frame

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = pytest.mark.slow

# One family a task, for what differs by family is in other tests; an export takes seconds.
TASKS = {"score": la.VAE, "generate": la.GAN, "impute": la.Diffusion}
ENTRIES = {"score": ("columns", "core"), "generate": ("columns",), "impute": ("core",)}


def table(n, seed):
    """Every kind of column that the codec has, and every way in which pandas holds one."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=n)
    day = dt.date(1970, 1, 1)
    since = pd.Timestamp("2020-03-01", tz="Europe/Berlin") + pd.to_timedelta(rng.integers(0, 40_000, n), "h")
    sizes = np.select([u > 0.5, u > -0.5], ["big", "mid"], "small")
    frame = pd.DataFrame(
        {
            "income": np.round(30_000 * np.exp(0.5 * u), 2),
            "rate": rng.normal(size=n).astype("f4"),
            "debt": np.where(rng.random(n) < 0.4, 0.0, np.exp(4 * u)),
            "age": (40 + 12 * u + 5 * rng.normal(size=n)).round().astype("i8"),
            "big": 2**60 + rng.integers(0, 10**6, n),
            "steps": pd.array(rng.integers(0, 20_000, n), dtype="Int64"),
            "children": pd.array(rng.poisson(1.5, n), dtype="Int64"),
            "city": rng.choice(["Bern", "Köln", "Oslo", "Rome"], n, p=[0.5, 0.3, 0.15, 0.05]),
            "note": rng.choice(["", "a", "A "], n),
            "colour": pd.Categorical(rng.choice(["red", "blue"], n), categories=["red", "green", "blue"]),
            "size": pd.Categorical(sizes, categories=["small", "mid", "big", "huge"], ordered=True),
            "member": u + rng.normal(size=n) > 0,
            "active": pd.array(rng.random(n) < 0.7, dtype="boolean"),
            "since": pd.Series(since).dt.as_unit("s"),
            "seen": np.datetime64("2024-01-01", "us") + rng.integers(0, 10**13, n).astype("m8[us]"),
            "born": [day + dt.timedelta(days=int(k)) for k in rng.integers(-5000, 12_000, n)],
            "wait": pd.to_timedelta(rng.integers(0, 3600, n), unit="s"),
            "country": "CH",
            "key": [f"k{i:05d}" for i in rng.permutation(n)],
            "memo": "not modelled",
        }
    )
    for name in HOLEY:
        frame.loc[rng.random(n) < 0.1, name] = None
    return frame


HOLEY = ("rate", "debt", "steps", "children", "city", "note", "colour", "active", "since", "born")
FIT = table(400, 0)
NAMES = list(FIT)


@pytest.fixture(scope="module")
def models():
    wishes = {"memo": la.Ignored()}
    return {task: family(**TINY, n_steps=3, schema=wishes).fit(FIT) for task, family in TASKS.items()}


@pytest.fixture(scope="module")
def served(models, tmp_path_factory):
    """The files of each task, by their entries."""
    path = tmp_path_factory.mktemp("files") / "model.onnx"

    def load(task, inputs):
        models[task].export(path, task=task, inputs=inputs)
        return runtime.load(path, device="cpu", threads=1)

    return {task: {inputs: load(task, inputs) for inputs in ENTRIES[task]} for task in TASKS}


# ---- frames of any content -----------------------------------------------------------------------------

TEXTS = st.sampled_from(["", "bern", "Bern ", "nan", "None", "<missing>", "<unseen>", "huge"]) | st.text()
WHOLE = st.integers(-(2**63), 2**63 - 1) | st.integers(-100, 100)
FLOATS = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, -0.0, 1e30, -1e30, 1e300])
STAMPS = st.datetimes(dt.datetime(1700, 1, 1), dt.datetime(2250, 1, 1))
BERLIN = STAMPS.map(lambda stamp: pd.Timestamp(stamp, tz="Europe/Berlin"))
SPANS = st.timedeltas(dt.timedelta(days=-40_000), dt.timedelta(days=40_000))
OTHERS = {
    "income": FLOATS,
    "rate": st.floats(allow_nan=False, allow_infinity=False, width=32),
    "debt": FLOATS,
    "age": WHOLE,
    "big": WHOLE,
    "steps": WHOLE,
    "children": st.integers(-3, 20),
    "city": TEXTS,
    "note": TEXTS,
    "colour": TEXTS,
    "size": TEXTS,
    "member": st.booleans(),
    "active": st.booleans(),
    "since": BERLIN,
    "seen": STAMPS,
    "born": st.dates(dt.date(1, 1, 1)),
    "wait": SPANS,
    "country": TEXTS,
    "key": TEXTS,
    "memo": TEXTS,
}
BLANKS = [None, float("nan"), pd.NaT, pd.NA]


def cell(name, holes):
    """A value of fit, another one of its type, or none."""
    seen = FIT[name].dropna()
    values = st.one_of(st.sampled_from(seen.iloc[:60].tolist()), OTHERS[name])
    return st.one_of(values, values, values, st.none()) if name in holes else values


def rows(holes):
    """Lists of dicts."""
    return st.lists(
        st.fixed_dictionaries({name: cell(name, holes) for name in NAMES}), min_size=1, max_size=6
    )


def as_pandas(cells):
    """As fit had it, where the values allow; with other categories too."""
    return pd.DataFrame({name: like(FIT[name].dtype, values) for name, values in cells.items()})


def like(dtype, values):
    if isinstance(dtype, pd.CategoricalDtype):
        more = [value for value in values if value is not None]
        levels = list(dict.fromkeys([*dtype.categories, *more]))
        return pd.Categorical(values, categories=levels, ordered=dtype.ordered)
    series = pd.Series(values, dtype=object)
    try:
        return series.astype(dtype)
    except (TypeError, ValueError, OverflowError):
        return series


def as_polars(cells):
    return pl.DataFrame(cells, strict=False, infer_schema_length=None)


def as_categories(cells):
    frame = as_objects(cells)
    return frame.astype(dict.fromkeys(["city", "note", "colour", "size", "children"], "category"))


def as_objects(cells):
    return pd.DataFrame({name: pd.Series(values, dtype=object) for name, values in cells.items()})


def as_arrays(cells):
    return {name: as_objects({name: values})[name].to_numpy() for name, values in cells.items()}


FORMS = {
    "pandas": as_pandas,
    "pandas objects": as_objects,
    "pandas categories": as_categories,
    "polars": as_polars,
    "pyarrow": pa.Table.from_pydict,
    "record batch": pa.RecordBatch.from_pydict,
    "dict of lists": dict,
    "dict of arrays": as_arrays,
}


@st.composite
def frames(draw, holes=HOLEY):
    """A table in any form, its columns in any order; those that need not be there may be missing."""
    form = draw(st.sampled_from(sorted(FORMS)))
    records = draw(rows(holes))
    names = draw(st.permutations(NAMES))
    if draw(st.booleans()):
        names = [name for name in names if name not in ("key", "memo")]
    blank = draw(st.sampled_from(BLANKS)) if "object" in form or "dict" in form else None
    cells = {name: [blank if record[name] is None else record[name] for record in records] for name in names}
    return FORMS[form](cells)


def outcome(call):
    """What a call returns, or the type and the words of what it raises."""
    try:
        return call()
    except Exception as error:
        return type(error), str(error)


def refused(found):
    return isinstance(found, tuple) and isinstance(found[0], type)


# ---- scores --------------------------------------------------------------------------------------------


class Tally:
    """Cells compared, and how many of them are apart."""

    def __init__(self):
        self.cells = self.apart = 0

    def add(self, apart):
        self.cells, self.apart = self.cells + apart.size, self.apart + int(apart.sum())


def cells_apart(schema, got, want):
    """Levels that differ, and numbers that do by more than rounding."""
    assert type(got) is type(want)
    a, b = open_frame(got), open_frame(want)
    assert a.names == b.names
    assert all(a.column(i).storage == b.column(i).storage for i in range(len(a.names)))
    a, b = (schema.encode(frame, allow_missing=True) for frame in (got, want))
    slack = np.array([1.01 + 1e-5 * (c.high - c.low) / c.step for c in schema.number_columns])
    far = np.abs(a.numbers - b.numbers) > slack
    return np.concatenate([far | (np.isnan(a.numbers) != np.isnan(b.numbers)), a.ids != b.ids], 1)


def held(schema, frame):
    """The rows that each entry can hold: a core has numbers of float32."""
    numbers = schema.encode(frame, allow_missing=True).numbers
    return {"columns": slice(None), "core": (np.abs(np.nan_to_num(numbers)) < 1e38).all(1)}


def assert_scored_alike(model, others, frame, tally):
    """Scores to 1e-5 of their spread, and what is said of them; or one refusal."""
    want = outcome(lambda: model.score_samples(frame))
    if refused(want):
        for other in others.values():
            assert outcome(lambda other=other: other.score_samples(frame)) == want
            assert outcome(lambda other=other: other.explain(frame)) == want
        return True
    meant = model.explain(frame, tested=0)  # what is tried after it may tie
    slack = 1e-5 * np.maximum(model.calibration_.scores.std(), np.abs(want))
    low, high = (model.calibration_.p_values(want + side) for side in (-slack, slack))
    clear = np.abs(want - model.offset_) > slack
    for inputs, rows in held(model.schema_, frame).items():
        other = others[inputs]
        got, p_values, explained = (
            other.score_samples(frame),
            other.p_values(frame),
            other.explain(frame, tested=0),
        )
        assert_array_less(np.abs(got - want)[rows], slack[rows])
        assert ((low <= p_values) & (p_values <= high))[rows].all()
        assert_array_equal(other.predict(frame)[clear], np.where(want < model.offset_, -1, 1)[clear])
        assert explained.columns == meant.columns
        assert_array_less(np.abs(explained.shares - meant.shares).max(1)[rows], slack[rows])
        tally.add(cells_apart(model.schema_, explained.expected, meant.expected)[rows])
    return False


def test_any_frame_is_scored_alike(models, served):
    tally, outcomes = Tally(), []

    @settings(max_examples=40)
    @given(frames())
    def law(frame):
        outcomes.append(assert_scored_alike(models["score"], served["score"], frame, tally))

    law()
    assert tally.apart <= 1e-3 * tally.cells


# ---- what is not taken ---------------------------------------------------------------------------------

STRANGE = [
    float("inf"), -float("inf"), "twelve", "", "1e5", b"raw", 3, 2.5, 10**30, True, 1 + 2j, [1], {"a": 1},
    np.float32(1.5), np.datetime64("2020-01-01"), np.timedelta64(3, "s"), dt.time(3), dt.date(2020, 1, 1),
    pd.Timestamp("2020-01-01", tz="UTC"), pd.Timedelta("3s"), pd.Interval(0, 1), None, pd.NaT,
]  # fmt: skip


@st.composite
def spoiled(draw):
    """A table with a value, or a column, that does not belong there."""
    records = draw(rows(HOLEY))
    name = draw(st.sampled_from(NAMES[:-2]))
    records[draw(st.integers(0, len(records) - 1))][name] = draw(st.sampled_from(STRANGE))
    whole = draw(st.booleans())
    cells = {
        key: [records[0 if whole and key == name else i][key] for i in range(len(records))] for key in NAMES
    }
    form = draw(st.sampled_from(["pandas", "pandas objects", "dict of lists", "dict of arrays"]))
    return FORMS[form](cells)


def test_what_does_not_belong_is_refused_in_the_same_words_or_scored_alike(models, served):
    tally, outcomes = Tally(), []

    @settings(max_examples=40)
    @given(spoiled())
    def law(frame):
        outcomes.append(assert_scored_alike(models["score"], served["score"], frame, tally))

    law()
    assert tally.apart <= 1e-3 * tally.cells
    assert sum(outcomes) > 10


WRONG = {
    "missing": (lambda f: f.drop(columns="age"), "column 'age' is missing, but fit saw it"),
    "extra": (lambda f: f.assign(more=1), "column 'more' was not seen in fit"),
    "renamed": (lambda f: f.rename(columns={"income": "incme"}), "Did you mean 'income'?"),
    "duplicate": (lambda f: pd.concat([f, f[["age"]]], axis=1), "'age' is used twice"),
    "text for a number": (lambda f: f.assign(income="much"), "'income'"),
    "number for text": (lambda f: f.assign(city=3), "'city'"),
    "time for a span": (lambda f: f.assign(wait=f["seen"]), "'wait'"),
    "no zone": (lambda f: f.assign(since=f["since"].dt.tz_localize(None)), "'since'"),
    "complex": (lambda f: f.assign(income=1j), "'income'"),
    "sparse": (lambda f: f.assign(age=pd.arrays.SparseArray(f["age"])), "column 'age' is sparse"),
    "no rows": (lambda f: f.head(0), "0 sample(s)"),
    "no columns": (lambda f: f[[]], "0 feature(s)"),
    "a narrow matrix": (lambda f: f.to_numpy()[:, :3], "X has 3 features, but {} is expecting 20"),
    "a series": (lambda f: f["age"], "one dimension"),
    "unequal lengths": (lambda f: {**dict(f), "age": [1, 2]}, "'age' has 2 values, but 'income' has 9"),
    "one value": (lambda f: {**dict(f), "age": 1}, "'age' is the single value 1"),
    "lazy": (lambda f: pl.from_pandas(f.drop(columns="born")).lazy(), "Collect it first"),
    "nothing": (lambda f: None, "is not a table"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_table_is_refused_in_the_same_words(models, served, wrong):
    make, words = WRONG[wrong]
    frame = make(FIT.head(9))
    for task, verb in [("score", v) for v in ("score_samples", "predict", "p_values", "explain")] + [
        ("impute",) * 2
    ]:
        want = outcome(lambda verb=verb, task=task: getattr(models[task], verb)(frame))
        assert want[0] is la.SchemaError
        assert words.format(type(models[task]).__name__) in want[1]
        for other in served[task].values():
            assert outcome(lambda verb=verb, other=other: getattr(other, verb)(frame)) == want


# ---- rows drawn ----------------------------------------------------------------------------------------


def assert_drawn_alike(draw, model, others, tally):
    """The same rows, but for some last digits; or one refusal."""
    want = outcome(lambda: draw(model))
    for inputs, other in others.items():
        got = outcome(lambda other=other: draw(other))
        if refused(want):
            assert got == want
        else:
            tally.add(cells_apart(model.schema_, got, want)[held(model.schema_, want)[inputs]])
    return want


def conditions():
    """What is given, for all rows or a value a row; None in the columns that may be missing."""
    names = [name for name in NAMES if name not in ("key", "memo")]
    cells = {name: cell(name, HOLEY) for name in names}
    some = st.fixed_dictionaries({}, optional=cells)
    spoilt = st.fixed_dictionaries({}, optional={**cells, "key": TEXTS, "age": st.sampled_from(STRANGE)})
    one_a_row = st.fixed_dictionaries({"city": st.lists(cells["city"], min_size=4, max_size=5)})
    seen = st.fixed_dictionaries({}, optional={n: st.sampled_from(FIT[n].dropna().tolist()) for n in names})
    return st.one_of(seen, seen, seen, one_a_row, some, spoilt)


def test_rows_are_drawn_alike_whatever_is_given(models, served):
    tally, outcomes = Tally(), []
    model = models["generate"]

    @settings(max_examples=100)
    @given(st.sampled_from([5, 1, 4]), conditions(), st.integers(0, 2**32 - 1))
    def law(n, asked, seed):
        want = assert_drawn_alike(lambda m: m.generate(n, asked, seed), model, served["generate"], tally)
        outcomes.append(refused(want))
        if not refused(want):
            got = served["generate"]["columns"].generate(n, asked, seed)
            exact = ["key", *asked]
            pd.testing.assert_frame_equal(got[exact], want[exact])

    law()
    assert tally.apart <= 1e-3 * tally.cells


def test_holes_are_filled_alike_in_any_frame(models, served):
    tally, model = Tally(), models["impute"]

    @settings(max_examples=40)
    @given(frames(holes=NAMES), st.integers(0, 2**32 - 1))
    def law(frame, seed):
        def draw(model):
            return model.impute(frame, random_state=seed)

        assert not refused(assert_drawn_alike(draw, model, served["impute"], tally))

    law()
    assert tally.apart <= 1e-3 * tally.cells
