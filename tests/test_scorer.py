"""Columns added to tables of any kind: as the model says, and nothing else changed."""

import pickle  # noqa: TID251 - what Spark, Ray and Dask send to their workers is one
import subprocess
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from conftest import TINY_MIXTURE
from pandas.testing import assert_frame_equal

import lookalike as la
from lookalike import runtime
from lookalike.integrations.scorer import Scorer

NEW = ["anomaly_score", "p_value", "is_anomaly"]


@pytest.fixture(scope="module")
def fitted(model_of_people):
    return model_of_people("Mixture")


@pytest.fixture(scope="module")
def file(people_file):
    return people_file


@pytest.mark.parametrize("of", ["path", "bytes", "runtime", "fitted"])
def test_what_is_added_is_what_the_model_says(fitted, file, rows, of):
    model = runtime.load(file)
    given = {"path": file, "bytes": file.read_bytes(), "runtime": model, "fitted": fitted}[of]
    scored = Scorer(given)(rows)
    assert_frame_equal(scored[list(rows)], rows)
    assert list(scored) == [*rows, *NEW]
    own = given if of == "fitted" else model
    np.testing.assert_array_equal(scored["anomaly_score"], own.anomaly_score(rows.drop(columns="note")))
    np.testing.assert_array_equal(scored["p_value"], own.p_values(rows.drop(columns="note")))
    np.testing.assert_array_equal(scored["is_anomaly"], own.predict(rows.drop(columns="note")) == -1)


def test_every_kind_of_table_comes_back_as_it_came(file, rows):
    scorer = Scorer(file, reasons=1)
    wanted = scorer(rows)
    table = pa.Table.from_pandas(rows, preserve_index=False)
    arrow, (batch,) = scorer(table), table.to_batches()
    assert arrow.select(table.column_names).equals(table)
    assert isinstance(scorer(batch), pa.RecordBatch)
    assert pa.Table.from_batches([scorer(batch)]).equals(arrow)
    assert arrow.schema.equals(scorer.schema(table.schema))
    frame = pl.from_arrow(table)
    new = [*scorer.kinds]
    assert scorer(frame).select(frame.columns).equals(frame)
    assert scorer(frame).select(new).to_arrow().cast(arrow.select(new).schema).equals(arrow.select(new))
    assert_frame_equal(arrow.select(new).to_pandas(), wanted[new].reset_index(drop=True), check_dtype=False)
    assert scorer(table.slice(0, 0)).schema.equals(arrow.schema)
    assert scorer(rows.head(0)).shape == (0, wanted.shape[1])


def test_anomalies_come_with_reasons_and_other_rows_without(file, rows):
    model = runtime.load(file)
    model.set_threshold(false_alarm_rate=0.2)
    scored = Scorer(file, columns="is_anomaly", reasons=2, prefix="la_", false_alarm_rate=0.2)(rows)
    odd = scored["la_is_anomaly"].to_numpy()
    assert 3 < odd.sum() < len(rows)
    assert scored.loc[~odd, "la_reason_1"].isna().all()
    reasons = model.explain(rows[odd].drop(columns="note")).top(2)
    assert scored.loc[odd, "la_reason_2"].tolist() == [top[1][0] for top in reasons]
    np.testing.assert_allclose(scored.loc[odd, "la_reason_1_share"], [top[0][1] for top in reasons])
    assert scored.loc[odd, "la_reason_1_expected"].map(type).eq(str).all()
    assert [c for c in scored if c not in rows] == [
        "la_is_anomaly", "la_reason_1", "la_reason_1_share", "la_reason_1_expected",
        "la_reason_2", "la_reason_2_share", "la_reason_2_expected",
    ]  # fmt: skip


def test_rows_that_cannot_be_scored_are_told_apart(file, rows):
    scorer = Scorer(file)
    bad = rows.copy()
    bad.iloc[[3, 77], bad.columns.get_loc("income")] = np.inf
    scored, refused = scorer.sifted(bad)
    assert [*refused] == [3, 77]
    assert "'income'" in refused[77]
    assert_frame_equal(scored, scorer(bad.drop(bad.index[:0]).iloc[np.setdiff1d(np.arange(150), [3, 77])]))
    assert scorer.sifted(rows)[1] == {}
    with pytest.raises(la.SchemaError, match="no column 'income'"):
        scorer.sifted(bad.rename(columns={"income": "incme"}))
    parts = [rows.iloc[:100], bad.iloc[70:90]]
    with pytest.raises(la.SchemaError, match=r"rows 100 to 119, counted from there: .*'income'"):
        list(scorer.each(parts))


def test_what_does_not_fit_is_said(file, rows, people):
    scorer = Scorer(file)
    with pytest.raises(la.SchemaError, match=r"no column 'city'\. Did you mean 'citty'"):
        scorer(rows.rename(columns={"city": "citty"}))
    with pytest.raises(la.SchemaError, match=r"already\. Rename it, or give a prefix"):
        scorer(scorer(rows))
    with pytest.raises(ValueError, match="'scores', which is none of anomaly_score, p_value, is_anomaly"):
        Scorer(file, columns=["scores"])
    generator = la.Mixture(**TINY_MIXTURE).fit(people)
    with pytest.raises(ValueError, match="reasons must be a whole number"):
        Scorer(generator, reasons=-1)


def test_it_travels_as_the_exported_file_to_where_there_is_no_torch(fitted, file, rows):
    wanted = Scorer(file, reasons=1)(rows)
    code = """
import pickle, sys
scorer, rows = pickle.load(sys.stdin.buffer)
again = pickle.loads(pickle.dumps(scorer))
assert again.model is scorer.model, "a process opens a file once"
scored = scorer(rows)
assert "torch" not in sys.modules
sys.stdout.buffer.write(pickle.dumps(scored))
"""
    for model in (file, fitted, runtime.load(file)):
        sent = pickle.dumps((Scorer(model, reasons=1), rows))
        done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        assert_frame_equal(pickle.loads(done.stdout), wanted)  # noqa: S301


def test_detectors_that_are_no_files_are_scored_by_as_well(people):
    frame = people[["income", "age"]].reset_index(drop=True)
    model = la.Ensemble([la.Mixture(**TINY_MIXTURE)], random_state=0).fit(frame)
    scorer = Scorer(model)
    np.testing.assert_array_equal(scorer(frame)["anomaly_score"], -model.score_samples(frame))
    assert pd.isna(scorer(frame)["p_value"]).sum() == 0
