"""What was fitted leaves as one ONNX file that gives the same results, or not at all."""

import json

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import lookalike as la
from lookalike import feeding, noise, onnxfile, runtime
from lookalike.exporters import tracing, verification
from lookalike.exporters.quantization import spearman
from lookalike.schema import Table
from lookalike.session import Session

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")


def session(path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(opened, feeds):
    names = [value.name for value in opened.get_outputs()]
    return dict(zip(names, opened.run(names, feeds), strict=True))


def about(path):
    return onnxfile.read(path).document("lookalike")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export once what several tests look at."""
    files = {}

    def export(model, **options):
        key = (id(model), *sorted(options.items()))
        if key not in files:
            path = tmp_path_factory.mktemp("exported") / "model.onnx"
            model.export(path, **options)
            files[key] = model, path, session(path)  # the model is kept, so that its id stays its own
        return files[key][1:]

    return export


@pytest.fixture
def file(model, file_of_people):
    """The file of the model of people, and a session of it."""

    def opened(task):
        path = file_of_people(type(model).__name__, task)
        return path, session(path)

    return opened


def close(model, wanted):
    """Within 1e-5 of the spread of scores."""
    return {"rtol": 1e-5, "atol": 1e-5 * model.calibration_.scores.std()}


@pytest.mark.slow
def test_a_file_scores_the_columns_of_a_frame_as_the_model_does(model, people, others, file):
    path, opened = file("score")
    odd = others.copy()
    odd["city"] = odd["city"].fillna("Paris")  # never seen
    odd.loc[odd.index[0], "income"] = 1e12
    for frame in (people, others, odd, others.head(1)):
        got = run(opened, feeding.feed(model.schema_, frame))
        want = model.score_samples(frame)
        assert_allclose(got["score"], want, **close(model, want))
        assert_array_equal(got["p_value"], model.calibration_.p_values(got["score"]))
        assert_array_equal(got["label"], np.where(got["score"] < model.offset_, -1, 1))
        if len(frame):
            explained = model.explain(frame, tested=0)  # as the graph has it
            assert_allclose(got["contributions"], explained.shares, **close(model, want))
            assert_allclose(got["contributions"].sum(1), -got["score"], rtol=1e-12)
            table = Table(got["expected_numbers"], got["expected_ids"])
            for name, column in model.schema_.decode(table).items():
                if column.dtype == float:
                    assert_allclose(column, explained.expected[name], rtol=1e-4)
                else:  # what lies beside an edge may be rounded otherwise
                    other = explained.expected[name]
                    assert ((column != other) & ~(column.isna() & other.isna())).mean() < 0.01
    document = about(path)
    assert document["task"] == "score"
    assert document["parity"]["of_spread"] <= 1e-5
    assert document["threshold"] == model.offset_
    assert len(document["golden"]["outputs"]["score"]) == verification.GOLDEN


@pytest.mark.slow
def test_rows_drawn_by_a_file_are_those_that_the_model_generates(model, file):
    path, opened = file("generate")
    given = {"city": "Oslo", "income": 30_000.0, "children": None}
    schema, n = model.schema_, 40
    for asked in ({}, given):
        table = schema.condition(asked, n)
        columns = [*schema.number_columns, *schema.category_columns]
        known = np.tile([column.name in asked for column in columns], (n, 1))
        normals, uniforms = noise.rows(7, 0, n, *about(path)["noise"])
        blank = np.array([column.blank for column in schema.category_columns])
        frame = schema.decode(Table(table.numbers, np.where(table.ids < 0, blank, table.ids)))
        feeds = feeding.feed(schema, frame, allow_missing=True)
        feeds |= {"normals": normals} if normals.size else {}  # inputs without columns are no inputs
        got = run(opened, {**feeds, "known": known, "uniforms": uniforms})
        drawn = schema.decode(Table(got["drawn_numbers"], got["drawn_ids"]), seed=7)
        want = model.generate(n, given=asked, random_state=7)
        like = drawn.copy()
        for name, step in {"since": "1h", "wait": "1s"}.items():  # between two, rounding may go either way
            beside = (drawn[name] - want[name]).abs() == pd.Timedelta(step)
            assert beside.mean() <= 0.05
            like[name] = want[name].where(beside, drawn[name])
        pd.testing.assert_frame_equal(like, want, rtol=1e-3)  # and so may a number's last digit
        # And in columns, for those who have onnxruntime alone.
        again = feeding.feed(schema, drawn, allow_missing=True)
        for name, column in again.items():
            assert_array_equal(got[feeding.FILLED + name], column)


@pytest.mark.slow
def test_what_the_runtime_leaves_out_of_a_graph_changes_no_bit(others, file):
    def both(task):
        path, _ = file(task)
        served, whole = (runtime.load(path, device="cpu", threads=1) for _ in range(2))
        whole._session = Session(whole._contents, device="cpu")
        placed = [sum(m.info()["nodes"]["CPUExecutionProvider"].values()) for m in (served, whole)]
        assert placed[0] < placed[1] - 20
        return served, whole

    served, whole = both("score")
    for n in (1, 3, len(others)):
        assert_array_equal(*(m.score_samples(others.head(n)) for m in (served, whole)))
    served, whole = both("generate")
    pd.testing.assert_frame_equal(
        *(m.generate(40, random_state=7) for m in (served, whole)), check_exact=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("family", ["GAN"], indirect=True)
def test_holes_are_filled_by_a_file_as_the_model_fills_them(people, model, exported):
    path, opened = exported(model, task="impute", inputs="core")
    holey = people.head(60).copy()
    holey.loc[holey.index[::2], ["income", "city", "children"]] = None
    table = model.schema_.encode(holey, allow_missing=True)
    document = about(path)
    normals, uniforms = noise.rows(3, 0, 60, *document["noise"])
    numbers = (table.numbers - document["centre"]).astype(np.float32)
    got = run(opened, {"numbers": numbers, "ids": table.ids, "normals": normals, "uniforms": uniforms})
    assert np.isfinite(got["drawn_numbers"]).all()
    rows = np.flatnonzero(holey.isna().to_numpy().any(1))
    assert len(rows) > 10
    filled = model.impute(holey.iloc[rows], random_state=3)
    # Row i of the noise goes to the i-th row with a hole.
    part = {"numbers": numbers[rows], "ids": table.ids[rows]}
    again = run(opened, {**part, "normals": normals[: len(rows)], "uniforms": uniforms[: len(rows)]})
    ids, want = again["drawn_ids"], model.schema_.encode(filled)
    assert_array_equal(ids, want.ids)
    hole = np.isnan(table.numbers[rows])
    drawn = model.schema_.decode(Table(again["drawn_numbers"], ids))
    assert_allclose(model.schema_.encode(drawn).numbers[hole], want.numbers[hole], rtol=1e-5)


@pytest.mark.slow
def test_many_steps_are_a_scan_and_draw_the_same_rows(tmp_path):
    X = np.random.default_rng(0).normal(size=(300, 2))
    model = la.VAE(max_steps=20, width=16, n_steps=tracing.UNROLLED + 1, random_state=0).fit(X)
    model.export(tmp_path / "m.onnx", task="generate", inputs="core")
    assert "Scan" in onnxfile.read(tmp_path / "m.onnx").operators
    assert about(tmp_path / "m.onnx")["parity"]["cells_apart"] == 0


def fitted_to_two_columns():
    X = np.random.default_rng(0).normal(size=(300, 2))
    return la.Diffusion(max_steps=20, width=16, depth=1, random_state=0).fit(X)


@pytest.fixture(scope="module")
def small():
    return fitted_to_two_columns()


def test_a_matrix_of_float32_is_scored_and_the_threshold_can_be_set(small, exported):
    path, opened = exported(small, inputs="core")
    X = np.random.default_rng(1).normal(size=(257, 2)).astype(np.float32)
    document = about(path)
    feeds = {"numbers": (X - np.array(document["centre"])).astype(np.float32)}
    got = run(opened, feeds)
    assert_allclose(got["score"], small.score_samples(X), **close(small, X))
    strict = run(opened, {**feeds, "threshold": np.array(np.median(got["score"]))})
    assert (strict["label"] == -1).sum() == 128
    assert_array_equal(strict["score"], got["score"])
    for n in (0, 1, 2, 3, 64):
        part = run(opened, {name: array[:n] for name, array in feeds.items()})
        assert_array_equal(part["score"], got["score"][:n])
    feeds["numbers"][0, 0] = np.inf
    assert run(opened, feeds)["label"][0] == -1


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["numbers", "text"])
def test_what_would_have_no_columns_is_no_input(kind, tmp_path):
    """Neither cells nor noise for them: servers cannot send empty tensors."""
    X = np.random.default_rng(0).integers(0, 200, (300, 2)).astype(float)
    inputs = ["numbers", "known", "normals"]
    if kind == "text":
        X, inputs = np.where(X % 3 > 0, "odd", "even").astype(object), ["ids", "known", "uniforms"]
    model = la.Diffusion(max_steps=20, width=16, depth=1, n_steps=2, random_state=0).fit(X)
    path = tmp_path / "m.onnx"
    model.export(path, task="generate", inputs="core")
    assert [value.name for value in onnxfile.read(path).inputs] == inputs
    served = runtime.load(path, device="cpu")
    assert served.verify() == 0
    assert_array_equal(served.generate(50, random_state=1), model.generate(50, random_state=1))


@pytest.mark.slow
def test_scores_that_hardly_differ_are_held_to_what_float32_can_tell(tmp_path):
    """Four kinds of rows: their scores lie nearer to each other than 1e-5 of them can be told apart."""
    X = np.where(np.random.default_rng(0).integers(0, 2, (300, 2)), "odd", "even").astype(object)
    model = la.Diffusion(max_steps=20, width=16, depth=1, random_state=0).fit(X)
    assert model.calibration_.scores.std() < 0.05 * np.abs(model.calibration_.scores).mean()
    path = tmp_path / "m.onnx"
    model.export(path, inputs="core")
    assert [value.name for value in onnxfile.read(path).inputs] == ["ids"]
    assert_allclose(runtime.load(path, device="cpu").score_samples(X), model.score_samples(X), rtol=1e-6)


def test_rows_on_a_lattice_have_the_scores_of_torch_though_many_are_equally_far(tmp_path):
    i = np.arange(300)
    frame = pd.DataFrame({"at": pd.Timestamp("2024-03-09") + pd.to_timedelta(i, unit="h"), "amount": i % 97})
    frame["day"] = pd.Timestamp("2024-01-01") + pd.to_timedelta(i % 30, unit="D")
    model = la.Mixture(max_steps=40, n_components=12, random_state=1).fit(frame)
    model.export(tmp_path / "lattice.onnx")
    scores, served = (m.score_samples(frame) for m in (model, runtime.load(tmp_path / "lattice.onnx")))
    assert np.abs(served - scores).max() < 1e-4 * np.ptp(scores)


def test_a_file_may_leave_explanations_out(small, tmp_path):
    small.export(tmp_path / "m.onnx", inputs="core", explain=False)
    outputs = [value.name for value in onnxfile.read(tmp_path / "m.onnx").outputs]
    assert outputs == ["score", "p_value", "label"]


def test_equal_models_give_equal_files_and_what_was_traced_serves_until_weights_change(
    small, exported, tmp_path, monkeypatch
):
    path, _ = exported(small, inputs="core")
    again = fitted_to_two_columns()
    again.export(tmp_path / "again.onnx", inputs="core")
    assert (tmp_path / "again.onnx").read_bytes() == path.read_bytes()

    def refused(*_):
        raise RuntimeError("traced anew")

    monkeypatch.setattr("lookalike.exporters.onnx.trace", refused)
    again.export(tmp_path / "columns.onnx")
    X = np.random.default_rng(1).normal(size=(50, 2))
    scores = runtime.load(tmp_path / "columns.onnx", device="cpu").score_samples(X)
    assert_allclose(scores, again.score_samples(X), **close(again, X))
    with pytest.raises(RuntimeError, match="traced anew"):
        again.export(tmp_path / "columns.onnx", explain=False)
    next(again.model_.parameters()).mul_(1.01)
    with pytest.raises(RuntimeError, match="traced anew"):
        again.export(tmp_path / "columns.onnx")


def test_what_float32_cannot_hold_is_not_written_with_a_core(tmp_path):
    rng = np.random.default_rng(0)
    near = rng.random(400) < 0.6
    x = np.where(near, rng.normal(0, 1, 400), 1e7 + rng.normal(0, 1e-3, 400))
    model = la.VAE(max_steps=20, width=16, random_state=0).fit(np.c_[x, rng.normal(size=400)])
    with pytest.raises(la.ExportError, match=r"differs from torch's by .* export with inputs='columns'"):
        model.export(tmp_path / "m.onnx", inputs="core", rows=np.c_[x, x])
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_differs_is_not_written_and_the_old_file_stays(small, tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    path.write_text("old")
    monkeypatch.setattr(verification, "TOLERANCE", 0.0)
    words = r"onnxruntime's score differs from torch's by .* \(allowed: 0\) .* so the file is not written"
    with pytest.raises(la.ExportError, match=words):
        small.export(path, inputs="core")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_exported_is_said_at_once(small, tmp_path):
    with pytest.raises(ValueError, match="task must be one of 'score', 'generate', 'impute', got 'predict'"):
        small.export(tmp_path / "m", task="predict")
    with pytest.raises(ValueError, match="inputs must be one of 'columns', 'core', got 'rows'"):
        small.export(tmp_path / "m", inputs="rows")
    with pytest.raises(Exception, match="not fitted"):
        la.VAE().export(tmp_path / "m")


def test_metadata_say_what_a_file_is(small, exported):
    path, opened = exported(small, inputs="core")
    document = about(path)
    assert {"format", "schema", "columns", "calibration", "versions", "fingerprint", "golden"} <= set(
        document
    )
    assert document["estimator"] == "Diffusion"
    json.dumps(document, allow_nan=False)
    assert [*document["golden"]["inputs"]] == ["numbers"]  # a table without categories has no ids
    feeds = {"numbers": np.array(document["golden"]["inputs"]["numbers"], np.float32)}
    assert_array_equal(run(opened, feeds)["score"], document["golden"]["outputs"]["score"])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["Diffusion", "Mixture"], indirect=True)
def test_int8_ranks_and_calls_rows_as_float32_does(model, people, others, tmp_path, capsys):
    if isinstance(model, la.Mixture):
        with pytest.raises(
            la.ExportError, match='no network to compute in int8: export it with precision="float'
        ):
            model.export(tmp_path / "m.onnx", precision="int8", rows=people)
        assert not (tmp_path / "m.onnx").exists()
        return
    model.export(tmp_path / "m.onnx", precision="int8", rows=people)
    agreement = about(tmp_path / "m.onnx")["parity"]["int8"]
    assert agreement["rows"] == 512
    assert agreement["spearman"] >= 0.999
    assert (
        f"Spearman correlation {agreement['spearman']:.5f}, Jaccard index of the alerts "
        f"{agreement['jaccard']:.3f}"
    ) in capsys.readouterr().out
    served = runtime.load(tmp_path / "m.onnx", device="cpu", threads=1)
    assert served.verify() == 0
    assert served.info()["precision"] == "int8"
    scores = served.score_samples(others)
    assert spearman(scores, model.score_samples(others)) >= 0.998
    # The threshold and the calibration moved together: the rate of false alarms is what it was.
    before, after = model.calibration_.scores, served.calibration_.scores
    assert not np.isin(after, before).any()
    assert (after < served.offset_).sum() == (before < model.offset_).sum()
    gap = np.abs(served.p_values(others) - model.p_values(others))
    assert gap.max() <= 4 / (len(before) + 1)
    assert_array_equal(served.predict(others), np.where(scores < served.offset_, -1, 1))
    explained = served.explain(others)
    assert_allclose(explained.shares.sum(1), -scores, rtol=1e-12)
    for rows in (1, 3, 64):
        parts = [served.score_samples(others.iloc[i : i + rows]) for i in range(0, 60, rows)]
        assert_array_equal(np.concatenate(parts), scores[: len(parts) * rows])


def test_int8_runs_in_integers_on_any_machine(small, tmp_path):
    X = np.random.default_rng(0).normal(size=(300, 2))
    small.export(tmp_path / "m.onnx", inputs="core", precision="int8", rows=X, min_agreement=0.99)
    assert {"QuantizeLinear", "DequantizeLinear"} <= onnxfile.read(tmp_path / "m.onnx").operators
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    ort.InferenceSession(str(tmp_path / "m.onnx"), options, providers=["CPUExecutionProvider"])
    operators = [node.op_type for node in onnx.load(tmp_path / "fused.onnx").graph.node]
    share = about(tmp_path / "m.onnx")["parity"]["int8"]["share"]
    assert 0.5 <= share <= 1
    assert operators.count("QGemm") >= 0.5 * (operators.count("QGemm") + operators.count("Gemm"))
    assert "DequantizeLinear" not in operators


def test_int8_that_agrees_too_little_is_not_written(small, tmp_path):
    model = la.VAE(max_steps=60, width=16, depth=1, random_state=0).fit(
        np.random.default_rng(0).normal(size=(300, 4))
    )
    words = r"rank 512 rows with a Spearman correlation of 0\.9\d+, below min_agreement=1, so .* \(rows=\)"
    with pytest.raises(la.ExportError, match=words):
        model.export(tmp_path / "m.onnx", inputs="core", precision="int8", min_agreement=1)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="min_agreement must be a number from 0 to 1, got 2"):
        small.export(tmp_path / "m.onnx", precision="int8", min_agreement=2)
    with pytest.raises(ValueError, match="precision must be one of 'float32', 'int8', got 'int4'"):
        small.export(tmp_path / "m.onnx", precision="int4")


@pytest.mark.slow
def test_holes_filled_in_bytes_are_nearly_the_same(people, tmp_path):
    model = la.VAE(max_steps=200, random_state=0).fit(people)
    model.export(tmp_path / "m.onnx", task="impute", precision="int8", rows=people)
    served = runtime.load(tmp_path / "m.onnx", device="cpu", threads=1)
    assert served.verify() == 0
    assert 0.9 <= served.info()["parity"]["int8"]["alike"] < 1
    holes = people.iloc[:300].assign(age=np.nan)
    found, wanted = (m.impute(holes, random_state=3) for m in (served, model))
    assert 0 < np.abs(found["age"] - wanted["age"]).mean() < 0.2 * wanted["age"].std()


def test_loops_are_not_for_bytes(tmp_path):
    model = la.Diffusion(max_steps=2, n_steps=51, width=16, depth=1, random_state=0)
    model.fit(np.random.default_rng(0).normal(size=(300, 2)))
    with pytest.raises(la.ExportError, match="int8 is for up to 50 steps"):
        model.export(tmp_path / "m.onnx", task="generate", precision="int8")
