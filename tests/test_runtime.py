"""Exported files without torch: the estimator's results, whatever the table, chunk, batch or thread."""

import copy
import json
import pickle  # noqa: TID251 - a model goes to workers by it, as bytes that are judged again
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from pandas.testing import assert_frame_equal

import lookalike as la
from lookalike import face, onnxfile, runtime
from lookalike import session as sessions
from lookalike.schema import Schema

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

import handmade  # noqa: E402
from handmade import made  # noqa: E402

RNG = np.random.default_rng(0)
N = 2100
FRAME = pd.DataFrame(
    {
        "amount": np.exp(RNG.normal(size=N) * 4),
        "age": RNG.integers(18, 90, N),
        "rate": np.where(RNG.random(N) < 0.1, np.nan, RNG.normal(size=N)),
        "kind": RNG.choice(["a", "b", "ß"], N),
        "code": RNG.choice([3, 5, 8], N),
        "member": RNG.random(N) < 0.5,
        "since": pd.to_datetime(RNG.integers(0, 10**9, N), unit="s"),
        "key": [f"k{i}" for i in range(N)],
    }
)
FRAME.loc[RNG.random(N) < 0.1, "kind"] = None
SCHEMA = Schema.fit(FRAME)
WANT = -handmade.energies(SCHEMA.encode(FRAME)).sum(1)
ENTRIES = ["columns", "core"]


def loaded(task="score", inputs="columns", schema=SCHEMA, threads=1, **options):
    return runtime.load(made(schema, task, inputs, **options), device="cpu", threads=threads)


SERVED = {inputs: loaded(inputs=inputs) for inputs in ENTRIES}


@pytest.fixture(scope="module", params=ENTRIES)
def model(request):
    return SERVED[request.param]


@pytest.fixture(scope="module")
def columns():
    return SERVED["columns"]


def refused(call, error, *words):
    with pytest.raises(error) as caught:
        call()
    assert all(word in str(caught.value) for word in words), str(caught.value)
    return str(caught.value)


# ---- scores ----


def test_scores_and_what_is_said_of_them(model):
    scores = model.score_samples(FRAME)
    assert_allclose(scores, WANT, rtol=1e-5)
    assert_array_equal(model.anomaly_score(FRAME), -scores)
    assert_array_equal(model.decision_function(FRAME), scores + 20)
    assert_array_equal(model.predict(FRAME), np.where(scores < -20, -1, 1))
    assert_array_equal(model.predict(FRAME, threshold=-25), np.where(scores < -25, -1, 1))
    assert_array_equal(model.p_values(FRAME), model.calibration_.p_values(scores))
    assert model.offset_ == -20
    assert model.schema_.to_dict() == SCHEMA.to_dict()


def test_explanations_add_up_to_the_score(model):
    explained = model.explain(FRAME.head(700))
    assert_allclose(explained.shares.sum(1), -model.score_samples(FRAME.head(700)), rtol=1e-12)
    assert explained.columns == [
        "amount", "age", "rate", "since", "kind", "code", "member",
    ]  # fmt: skip
    assert list(explained.expected) == list(FRAME)
    assert explained.observed.equals(FRAME.head(700))
    assert "Explanation of 700 rows" in repr(explained)


def test_bits_do_not_depend_on_the_batch_or_on_what_else_is_asked_for(model):
    scores, shares = model.score_samples(FRAME), model.explain(FRAME).shares
    for size in (1, 2, 3, 7, 64, 257, 511, 512, 513, 1000):
        cut = range(0, N if size > 3 else 60, size)
        parts = [model.score_samples(FRAME.iloc[i : i + size]) for i in cut]
        assert_array_equal(np.concatenate(parts), scores[: min(N, cut[-1] + size)])
    assert_array_equal(model.explain(FRAME.iloc[5:8]).shares, shares[5:8])
    order = RNG.permutation(N)
    assert_array_equal(model.score_samples(FRAME.iloc[order]), scores[order])


@pytest.mark.parametrize("rows", [4, 16, 256, 1024])
def test_bits_do_not_depend_on_the_chunk_or_on_threads(monkeypatch, model, rows):
    scores = model.score_samples(FRAME)
    monkeypatch.setitem(sessions.ROWS, sessions.CPU, rows)
    for threads in (1, 3):
        other = runtime.load(model._contents.data, device="cpu", threads=threads)
        assert_array_equal(other.score_samples(FRAME), scores)
    monkeypatch.setattr(face, "ENCODED", 100)
    assert_array_equal(other.score_samples(FRAME), scores)


@pytest.mark.parametrize(
    "op", ["Log", "Sin", "Cos", "Softplus", "Exp", "Tanh", "Softmax", "Sigmoid", "MatMul"]
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_kernel_gives_a_row_the_same_bits_in_any_batch(op, dtype):
    """What padding to four rows and one thread a run are for."""
    from lookalike.exporters.columns import Draft

    for width in (1, 3, 5, 8, 33):
        draft = Draft("one")
        draft.input("x", dtype, ("n", width))
        draft(op, "x", *([np.ones((width, 1), dtype)] if op == "MatMul" else []), output="y")
        draft.output("y", dtype, ("n", 1 if op == "MatMul" else width))
        try:
            session = sessions.Session(
                onnxfile.read(onnxfile.with_metadata(draft.part.model().SerializeToString(), {})),
                device="cpu",
            )
        except la.ArtifactError as error:
            pytest.skip(str(error))
        x = np.abs(RNG.normal(size=(600, width)) * 3).astype(dtype)

        whole = run_on(session, x)
        for size in (1, 2, 3, 5, 64, 257):
            parts = [run_on(session, x[i : i + size]) for i in range(0, min(60 * size, 600), size)]
            assert_array_equal(np.concatenate(parts), whole[: sum(map(len, parts))])


def run_on(session, x):
    (found,) = session.run(["y"], len(x), lambda start, stop: {"x": x[start:stop]})
    return found


def test_one_model_serves_many_threads(model):
    scores = model.score_samples(FRAME)
    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(model.score_samples, FRAME.iloc[i : i + 300]) for i in range(0, 1800, 40)]
        for i, job in zip(range(0, 1800, 40), jobs, strict=True):
            assert_array_equal(job.result(), scores[i : i + 300])


# ---- tables ----

AS = {
    "pandas": lambda f: f,
    "polars": pl.from_pandas,
    "pyarrow": pa.Table.from_pandas,
    "record batch": pa.RecordBatch.from_pandas,
    "dict of arrays": lambda f: {name: f[name].to_numpy() for name in f},
    "dict of lists": lambda f: {
        name: f[name].astype(object).where(f[name].notna(), None).tolist() for name in f
    },
    "dict of series": dict,
    "other order": lambda f: f[f.columns[::-1]],
    "without the key": lambda f: f.drop(columns="key"),
    "categories": lambda f: f.astype({"kind": "category"}),
}


@pytest.mark.parametrize("kind", AS)
def test_every_table_gives_the_same(model, kind):
    table = AS[kind](FRAME.head(600))
    assert_array_equal(model.score_samples(table), model.score_samples(FRAME.head(600)))
    assert_array_equal(model.explain(table).shares, model.explain(FRAME.head(600)).shares)


def test_a_dict_of_single_values_is_one_row(model):
    scores = model.score_samples(FRAME)
    for i, row in enumerate(FRAME.head(40).to_dict("records")):
        assert_array_equal(model.score_samples(row), scores[i : i + 1])
    row["kind"], row["rate"], row["age"] = "never seen", None, np.int64(30)
    frame = pd.DataFrame([row])
    assert_array_equal(model.score_samples(row), model.score_samples(frame))
    assert_array_equal(model.explain(row).shares, model.explain(frame).shares)
    assert "row 0" in repr(model.explain(row))


def test_a_matrix_is_taken_by_position():
    matrix = RNG.normal(size=(50, 4)) * 1e5
    schema = Schema.fit(matrix)
    for inputs in ENTRIES:
        model = loaded(inputs=inputs, schema=schema)
        scores = model.score_samples(matrix)
        assert_allclose(scores, -handmade.energies(schema.encode(matrix)).sum(1), rtol=1e-5)
        assert_array_equal(model.score_samples(matrix.tolist()), scores)
        assert_array_equal(
            model.score_samples({f"x{i}": column for i, column in enumerate(matrix.T)}), scores
        )
        assert isinstance(model.explain(matrix).expected, np.ndarray)
        # A core has no room for what float32 cannot hold: it is far, and finite.
        far = model.score_samples(np.full((1, 4), 1e300))
        assert np.isfinite(far).all()


@pytest.mark.parametrize("frame", [FRAME[["age", "amount"]], FRAME[["kind", "member"]]])
@pytest.mark.parametrize("inputs", ENTRIES)
def test_a_table_may_lack_numbers_or_categories(frame, inputs):
    schema = Schema.fit(frame)
    model = loaded(inputs=inputs, schema=schema)
    want = -handmade.energies(schema.encode(frame)).sum(1)
    assert_allclose(model.score_samples(frame), want, rtol=1e-5)
    assert list(model.explain(frame.head(3)).expected) == list(frame)
    new = loaded("generate", inputs, schema).generate(5, random_state=0)
    assert list(new) == list(frame)


NUMBERS = st.one_of(st.floats(allow_nan=False, allow_infinity=False, width=32), st.integers(-(2**60), 2**60))
TEXTS = st.one_of(st.sampled_from(["a", "b", "ß", "", "A", "a ", "nan", "<unseen>", "<missing>"]), st.text())
ROW = st.fixed_dictionaries(
    {
        "amount": NUMBERS,
        "age": st.integers(-(2**60), 2**60),
        "rate": NUMBERS | st.sampled_from([None, np.nan]),
        "kind": TEXTS | st.none(),
        "code": st.integers(-3, 10),
        "member": st.booleans(),
        "since": st.datetimes(pd.Timestamp(1700, 1, 1), pd.Timestamp(2200, 1, 1)),
    }
)


@given(st.lists(ROW, min_size=1, max_size=8), st.permutations(list(FRAME.columns[:-1])))
def test_both_entries_and_every_table_agree_on_any_rows(rows, order):
    frame = pd.DataFrame({name: pd.Series([row[name] for row in rows], dtype=object) for name in order})
    want = -handmade.energies(SCHEMA.encode(frame)).sum(1)
    tables = [frame, {name: [row[name] for row in rows] for name in order}]
    for inputs in ENTRIES:
        model = SERVED[inputs]
        scores = model.score_samples(frame)
        assert_allclose(scores, want, rtol=1e-5)
        for table in tables:
            assert_array_equal(model.score_samples(table), scores)
        assert_array_equal(np.concatenate(list(model.score_samples(iter(rows)))), scores)


def test_an_iterator_streams(model):
    scores = model.score_samples(FRAME)
    batches = (FRAME.iloc[i : i + 500] for i in range(0, N, 500))
    streamed = model.score_samples(batches)
    assert_array_equal(next(streamed), scores[:500])
    assert_array_equal(next(streamed), scores[500:1000])
    reader = pa.Table.from_pandas(FRAME).to_reader(max_chunksize=512)
    assert_array_equal(np.concatenate(list(model.score_samples(reader))), scores)
    for method in ("decision_function", "predict", "anomaly_score", "p_values"):
        parts = list(getattr(model, method)(FRAME.iloc[i : i + 900] for i in range(0, N, 900)))
        assert_array_equal(np.concatenate(parts), getattr(model, method)(FRAME))
    assert_array_equal(next(model.predict(iter([FRAME]), threshold=-5)), model.predict(FRAME, threshold=-5))
    explained = list(model.explain(iter([FRAME.head(3), FRAME.iloc[3:5]])))
    assert [len(e.shares) for e in explained] == [3, 2]
    assert_array_equal(list(model.score_samples(iter(FRAME.head(3).to_dict("records")))), scores[:3, None])


# ---- what is not taken ----


def with_value(column, value, row=3):
    frame = FRAME.head(10).astype({column: object})
    frame.loc[row, column] = value
    return frame


BAD = [
    FRAME.head(3).drop(columns="age"),
    FRAME.head(3).rename(columns={"amount": "amout"}),
    FRAME.head(3).assign(extra=1),
    FRAME.head(3).assign(amount="12,5"),
    FRAME.head(3).assign(kind=3),
    FRAME.head(3).assign(since=1.5),
    with_value("amount", np.nan),
    with_value("amount", np.inf).infer_objects(),
    with_value("age", "x"),
    FRAME.head(0),
    FRAME.head(3).to_numpy()[:, :2],
    FRAME["age"],
    pl.from_pandas(FRAME).lazy(),
    {"amount": 1.0},
    {"amount": [1.0], "age": [1, 2]},
    {**FRAME.iloc[0].to_dict(), "age": None},
    {**FRAME.iloc[0].to_dict(), "amount": np.inf},
    {**FRAME.iloc[0].to_dict(), "kind": 7},
    "rows.csv",
    None,
]


@pytest.mark.parametrize("table", BAD, ids=range(len(BAD)))
def test_a_table_that_does_not_fit_is_refused_in_the_estimators_words(model, table):
    with pytest.raises(la.SchemaError) as want:
        SCHEMA.encode(table, owner="VAE")
    for method in (model.score_samples, model.explain):
        refused(lambda method=method: method(table), la.SchemaError, str(want.value))


def test_the_row_of_an_error_is_counted_from_the_first(monkeypatch, model):
    monkeypatch.setattr(face, "ENCODED", 1000)
    frame = FRAME.copy()
    frame.loc[1700, "amount"] = np.nan
    refused(lambda: model.score_samples(frame), la.SchemaError, "'amount' is missing", "in row 1700")


@pytest.mark.parametrize("inputs", ENTRIES)
def test_a_score_that_is_no_number_is_refused(monkeypatch, inputs):
    monkeypatch.setattr(face, "ENCODED", 512)
    matrix = np.round(RNG.normal(size=(1500, 2)), 3)
    model = loaded(inputs=inputs, schema=Schema.fit(matrix), op="Exp")
    assert np.isfinite(model.score_samples(matrix)).all()
    matrix[1100, 1] = 1e6
    words = "row 1100 has no finite score: its value of column 'x1' is too far from those of fit. Correct it"
    refused(lambda: model.score_samples(matrix), la.SchemaError, words)
    refused(lambda: model.explain(matrix), la.SchemaError, words)
    refused(lambda: model.p_values(matrix), la.SchemaError, words)


def test_a_file_has_one_task(columns):
    words = ["exported to score rows, and cannot generate rows", "model.export(path, task='generate')"]
    refused(columns.generate, la.ArtifactError, *words)
    refused(lambda: columns.impute(FRAME), la.ArtifactError, "cannot impute", "task='impute'")
    for method in ("score_samples", "predict", "decision_function", "p_values", "anomaly_score", "explain"):
        call = getattr(loaded("generate"), method)
        refused(lambda call=call: call(FRAME), la.ArtifactError, "cannot score rows", "task='score'")


@pytest.mark.parametrize("threshold", [np.nan, np.inf, "0"])
def test_a_threshold_is_a_number(columns, threshold):
    refused(lambda: columns.predict(FRAME, threshold), ValueError, "threshold must be a finite number")


# ---- rows drawn ----


@pytest.mark.parametrize("inputs", ENTRIES)
def test_drawn_rows_depend_on_seed_and_number_alone(inputs):
    model = loaded("generate", inputs, threads=2)
    many = model.generate(1300, random_state=3)
    for n in (1, 2, 511, 513):
        assert_frame_equal(model.generate(n, random_state=3), many.head(n))
    assert not many.equals(model.generate(1300, random_state=4))
    assert_frame_equal(model.generate(0), many.head(0), check_dtype=False)
    assert many["key"].is_unique
    assert (many.dtypes == FRAME.dtypes).all()


@pytest.mark.parametrize("inputs", ENTRIES)
def test_what_is_given_comes_back_exactly(inputs):
    model = loaded("generate", inputs)
    row = FRAME.dropna().iloc[7]
    asked = {"amount": row["amount"], "kind": None, "code": 8, "since": row["since"], "rate": None}
    new = model.generate(20, given=asked, random_state=0)
    assert (new["amount"] == row["amount"]).all()
    assert (new["since"] == row["since"]).all()
    assert (new["code"] == 8).all()
    assert new[["kind", "rate"]].isna().all(axis=None)
    assert new["age"].nunique() > 5
    ages = list(range(30, 50))
    assert model.generate(20, given={"age": ages}, random_state=0)["age"].tolist() == ages
    refused(lambda: model.generate(2, given={"kind": "z"}), la.ConditionError, "'kind' cannot be 'z'")
    refused(lambda: model.generate(2, given={"kin": "a"}), la.ConditionError, "Did you mean 'kind'?")
    refused(lambda: model.generate(-1), ValueError, "n must be a whole number of at least 0")
    refused(lambda: model.generate(2, given=3), la.ConditionError, "given must map columns")


@pytest.mark.parametrize("inputs", ENTRIES)
def test_holes_are_filled_and_the_rest_is_left_alone(inputs):
    model = loaded("impute", inputs)
    holey = FRAME.head(600).copy()
    holey.loc[::3, ["age", "amount"]] = np.nan
    holey.loc[1::5, ["kind", "since"]] = None
    filled = model.impute(holey, random_state=2)
    assert not filled.isna().any(axis=None)
    assert_frame_equal(filled.where(holey.notna()), holey.where(holey.notna()), check_dtype=False)
    first, second = model.impute(holey, n_draws=2, random_state=2)
    assert_frame_equal(first, filled)
    assert_frame_equal(second, model.impute(holey, random_state=3))
    assert_frame_equal(model.impute(filled), filled)
    row = {**FRAME.iloc[0].to_dict(), "age": None, "kind": None}
    one = model.impute(row, random_state=0)
    assert one["amount"] == row["amount"]
    assert one["kind"] in ("a", "b", "ß")


def test_a_model_of_a_dict_gives_dicts():
    table = {"x": RNG.normal(size=60), "kind": np.array(["a", "b", "c"] * 20), "holes": [None, 1, 2] * 20}
    schema = Schema.fit(table)
    new = loaded("generate", schema=schema).generate(9, given={"kind": "b"}, random_state=1)
    assert list(new) == list(table)
    assert new["kind"].tolist() == ["b"] * 9
    assert new["x"].dtype == np.float64
    filled = loaded("impute", schema=schema).impute(table, random_state=0)
    assert set(filled["holes"].tolist()) == {1, 2}
    assert filled["x"] is table["x"]


# ---- files ----


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "model.onnx"
    path.write_bytes(made(SCHEMA))
    return path


def test_a_path_and_its_bytes_are_the_same_model(file):
    model = runtime.load(file)
    again = runtime.load(str(file), sha256=model.info()["sha256"])
    assert_array_equal(again.score_samples(FRAME), runtime.load(file.read_bytes()).score_samples(FRAME))
    refused(lambda: runtime.load(file, sha256="0" * 64), la.ArtifactError, "not the 000")
    refused(lambda: runtime.load(file, max_bytes=1000), la.ArtifactError, "more than the limit of 1,000")
    refused(lambda: runtime.load(b"PK"), la.ArtifactError, "not an ONNX file")
    flipped = bytearray(file.read_bytes())
    flipped[2000] ^= 1
    refused(lambda: runtime.load(bytes(flipped)), la.ArtifactError)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"device": "gpu"}, "device must be one of 'auto', 'cpu', 'cuda', got 'gpu'."),
        ({"threads": 0}, "threads must be a whole number of at least 1, got 0."),
        ({"threads": 1.5}, "threads must be a whole number"),
        ({"max_bytes": -1}, "max_bytes must be a whole number of at least 1, got -1."),
        ({"max_memory": 0}, "max_memory must be a whole number of at least 1, got 0."),
        ({"sha256": "abc"}, "sha256 must be 64 hexadecimal digits, got 'abc'."),
    ],
)  # fmt: skip
def test_options_are_checked(file, options, words):
    refused(lambda: runtime.load(file, **options), ValueError, words)


def test_a_model_survives_pickling(columns):
    for again in (pickle.loads(pickle.dumps(columns)), copy.deepcopy(columns)):  # noqa: S301 - our own
        assert_array_equal(again.score_samples(FRAME), columns.score_samples(FRAME))
        assert again._options == columns._options
        assert again.info()["sha256"] == columns.info()["sha256"]


def test_what_a_file_is_can_be_read(model):
    info = model.info()
    assert info["task"] == "score"
    assert info["estimator"] == "VAE"
    assert info["schema"] == SCHEMA
    assert info["provider"] == "CPUExecutionProvider"
    assert sum(info["nodes"]["CPUExecutionProvider"].values()) > 5
    assert info["versions"]["here"]["onnxruntime"] == ort.__version__
    assert len(info["sha256"]) == 64
    shown = repr(info)
    assert "threshold     -20.0\n" in shown
    assert "'amount'" in shown
    assert "golden" not in info
    assert repr(model) == "<VAE exported to score rows, on CPUExecutionProvider>"


SMALL = Schema.fit(FRAME[["amount", "kind"]].head(60))
ABOUT = handmade.about(SMALL)
NUMBER = next(column for column in ABOUT["schema"]["columns"] if column["kind"] == "number")
WRONG = [
    ({"format": 2}, "is of format 2, and this lookalike reads 1"),
    ({"format": None}, "is of format None"),
    ({"task": "classify"}, "its task is 'classify'"),
    ({"task": ["score"]}, "its task is"),
    ({"task": "generate", "calibration": []}, "takes other inputs than its columns"),
    ({"inputs": "core", "centre": [0]}, "takes other inputs than its columns"),
    ({"inputs": "rows"}, "its inputs are 'rows'"),
    ({"threshold": "0"}, "its threshold is '0'"),
    ({"calibration": []}, "its calibration is no list of scores"),
    ({"calibration": [1, "2"]}, "its calibration is no list of scores"),
    ({"centre": [1.0]}, "its centre is not that of its columns"),
    ({"noise": [1]}, "its noise is not two counts"),
    ({"noise": [-1, 0]}, "its noise is not two counts"),
    ({"n_train": -1}, "it learned from -1 rows"),
    ({"versions": []}, "its versions is no JSON object"),
    ({"estimator": 3}, "its estimator is no text"),
    ({"schema": {}}, "this is not the description of a schema"),
    ({"schema": {"container": "numpy", "columns": []}}, "its columns do not have distinct names"),
    ({"schema": {"container": "sql", "columns": [NUMBER]}}, "this is not the description of a schema"),
    ({"schema": {"container": "pandas", "columns": [NUMBER]}}, "takes other inputs than its columns"),
    ({"schema": {"container": "pandas", "columns": [{**NUMBER, "low": "x"}]}}, "low of column 'amount' is"),
    ({"schema": Schema.fit(FRAME[["amount", "code"]]).to_dict()}, "takes other inputs than its columns"),
]  # fmt: skip


@pytest.fixture(scope="module")
def small():
    return handmade.graph(SMALL)


@pytest.mark.parametrize("changes, words", WRONG, ids=[words[:40] for _, words in WRONG])
def test_metadata_that_no_export_wrote_are_refused(small, changes, words):
    data = handmade.sealed(small, {**ABOUT, **changes})
    refused(lambda: runtime.load(data), la.ArtifactError, words, "xport it again")


def test_each_entry_of_the_metadata_is_needed_and_checked(small):
    for key in set(ABOUT) - {"columns"}:
        less = {k: v for k, v in ABOUT.items() if k != key}
        refused(lambda less=less: runtime.load(handmade.sealed(small, less)), la.ArtifactError)
        for value in (None, [], {}, "x", [[]], 1e300):
            changed = handmade.sealed(small, {**ABOUT, key: value})
            try:
                runtime.load(changed)
            except la.ArtifactError:
                continue
            assert isinstance(value, type(ABOUT[key])) or (key, value) == ("n_train", 1e300)
    refused(lambda: runtime.load(onnxfile.with_metadata(small, {})), la.ArtifactError, "has no 'lookalike'")


@pytest.mark.parametrize("output", ["score", "expected_numbers"])
def test_a_graph_that_onnxruntime_does_not_take_is_refused(monkeypatch, output):
    score = handmade.score

    def wrong(draft, op, width):
        score(draft, op, width)
        next(node for node in draft.part.nodes if output in node.output).op_type = "Not"  # of numbers

    monkeypatch.setattr(handmade, "score", wrong)
    frame, opened = FRAME[["amount", "kind"]], made(SMALL)
    words = la.ArtifactError, "onnxruntime says", "Export it again"
    if output == "score":
        refused(lambda: runtime.load(opened, device="cpu"), *words)
    else:  # when it is first needed
        model = runtime.load(opened, device="cpu")
        model.score_samples(frame)
        refused(lambda: model.explain(frame), *words)


def test_what_a_graph_takes_beyond_its_memory_is_refused(monkeypatch):
    """Rows joined to themselves, again and again: in order to the judge, and to onnxruntime."""

    def doubling(draft, op, width):
        score(draft, op, width)
        name = "contributions"
        for _ in range(40):
            name = draft("Concat", name, name, axis=0)
        total = draft("ReduceSum", name, np.array([0, 1]), keepdims=0)
        node = next(n for n in draft.part.nodes if "score" in n.output)
        node.output[0] = "inner"
        draft("Add", "inner", draft("Mul", total, 0.0), output="score")
        made_last = [n for n in draft.part.nodes if set(n.input) & {"score"}]
        for n in made_last:
            draft.part.nodes.remove(n)
        draft.part.nodes.extend(made_last)
        order(draft)

    def order(draft):
        """Each node after those that make what it takes."""
        known = {v.name for v in draft.part.inputs} | {t.name for t in draft.part.initializers} | {""}
        left, done = list(draft.part.nodes), []
        while left:
            ready = [n for n in left if set(n.input) <= known]
            done += ready
            known |= {o for n in ready for o in n.output}
            left = [n for n in left if n not in ready]
        draft.part.nodes = done

    score = handmade.score
    monkeypatch.setattr(handmade, "score", doubling)
    model = runtime.load(made(SMALL), device="cpu", max_memory=50_000_000)
    words = "could not run", "pass a larger max_memory"
    refused(lambda: model.score_samples(FRAME[["amount", "kind"]]), la.DeviceError, *words)
    monkeypatch.undo()
    loaded(schema=SMALL).score_samples(FRAME[["amount", "kind"]])  # others are not held to it


# ---- golden rows ----


def golden(schema, frame, inputs="columns", task="score"):
    """Rows with what they give here."""
    model = loaded(task, inputs, schema)
    feeds = model._feeds(model._rows(frame))(0, len(frame))
    if task != "score":
        normals, uniforms = RNG.normal(size=(len(frame), 4)), RNG.random((len(frame), 3))
        feeds |= {"normals": normals.astype("f4"), "uniforms": uniforms.astype("f4")}
    names = [value.name for value in model._contents.outputs]
    found = sessions.Session(model._contents, device="cpu").run(names, len(frame), lambda start, stop: feeds)
    return {
        "inputs": {name: handmade.plain(array) for name, array in feeds.items()},
        "outputs": {name: handmade.plain(array) for name, array in zip(names, found, strict=True)},
    }


@pytest.mark.parametrize("inputs", ENTRIES)
@pytest.mark.parametrize("task", ["score", "impute"])
def test_golden_rows_are_run_again(inputs, task):
    rows = golden(SCHEMA, FRAME.head(16), inputs, task)
    assert loaded(task, inputs, golden=rows).verify() == 0
    name = "score" if task == "score" else "drawn_ids"
    changed = json.loads(json.dumps(rows))
    changed["outputs"][name][5] = -1.0 if task == "score" else [9, 9, 9]
    words = f"{name!r} of golden row 5", "instead of", "Export it again"
    refused(loaded(task, inputs, golden=changed).verify, la.ArtifactError, *words)


def test_golden_rows_may_differ_by_rounding():
    rows = golden(SCHEMA, FRAME.head(16))
    rows["outputs"]["score"][3] *= 1 + 1e-6
    model = loaded(golden=rows)
    assert 0 < model.verify() < 1e-5
    refused(lambda: model.verify(tolerance=1e-9), la.ArtifactError, "'score' of golden row 3")
    for name, value in (("label", 0), ("p_value", 0.5), ("expected_numbers", ["NaN"] * 4)):
        changed = json.loads(json.dumps(rows))
        changed["outputs"][name][0] = value
        refused(loaded(golden=changed).verify, la.ArtifactError, f"{name!r} of golden row 0")


@pytest.mark.parametrize(
    "change",
    [
        lambda g: g.clear(),
        lambda g: g["inputs"].pop("age"),
        lambda g: g["outputs"].pop("label"),
        lambda g: g["inputs"].update(age=[1.0]),
        lambda g: g["inputs"].update(age="many"),
        lambda g: g["inputs"].update(kind=[1] * 16),
        lambda g: g["inputs"].update(age=["nan"] * 16),
        lambda g: g["outputs"].update(contributions=[[1.0]] * 16),
        lambda g: g["outputs"].update(label=[10**30] * 16),
        lambda g: [side.update({name: [] for name in side}) for side in g.values()],
    ],
)
def test_golden_rows_that_are_none_are_refused(change):
    rows = golden(SCHEMA, FRAME.head(16))
    change(rows)
    refused(loaded(golden=rows).verify, la.ArtifactError, "golden rows cannot be read")


# ---- imports ----


def test_without_onnxruntime_the_extra_is_named(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    words = "running an exported file needs onnxruntime", 'pip install "lookalike[cpu]"'
    refused(lambda: runtime.load(file), la.MissingExtraError, *words)


def test_importing_the_runtime_takes_little():
    code = (
        "import sys, lookalike.runtime\n"
        "print({'torch', 'onnx', 'onnxruntime', 'pandas', 'polars', 'pyarrow', 'sklearn'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
