"""Rows a few at a time: the same as all at once, and in one Parquet file, whole or not at all."""

import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import TINY_MIXTURE
from handmade import made
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from pandas.testing import assert_frame_equal

import lookalike as la
from lookalike import face, runtime


@pytest.fixture(scope="module", autouse=True)
def blocks():
    """Blocks so small that a few rows are several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(face, "BLOCK", 96)
        yield


@pytest.fixture(scope="module")
def mixture(people):
    return la.Mixture(**TINY_MIXTURE).fit(people)


@pytest.fixture(scope="module")
def drawing(mixture, people):
    """An estimator, an exported file and a synthesizer."""
    return [
        mixture,
        runtime.load(made(la.Schema.fit(people), task="generate")),
        la.Synthesizer(la.Mixture(**TINY_MIXTURE), random_state=0).fit(people),
    ]


# ---- batches ----


@settings(max_examples=8)
@given(
    n=st.integers(0, 220),
    chunk=st.integers(1, 230),
    start=st.integers(0, 240),
    asked=st.sampled_from(["nothing", "values", "one a row", "balanced", "ranges", "table"]),
)
def test_batches_are_what_generate_draws_whatever_their_size(drawing, people, n, chunk, start, asked):
    cities = [("Oslo", "Rome")[i % 2] for i in range(n)]
    wishes = {
        "nothing": None,
        "values": {"city": "Rome", "debt": None},
        "one a row": {"age": pd.Series(np.arange(n) % 40 + 30), "city": cities},
        "balanced": {"city": la.Balanced(["Rome", "Oslo", "Bern"])},
        "ranges": {"age": la.Between(20, 35), "city": la.OneOf(["Rome", "Oslo"])},
        "table": people[["income", "city"]].head(n) if n else None,
    }
    for model in drawing:
        whole = model.generate(n, given=wishes[asked], random_state=5)
        batches = list(model.generate_batches(n, chunk, given=wishes[asked], random_state=5))
        assert [len(batch) for batch in batches] == [chunk] * (n // chunk) + [n % chunk] * bool(n % chunk)
        if n:
            assert_frame_equal(pd.concat(batches, ignore_index=True), whole)
        rest = list(model.generate_batches(n, chunk, given=wishes[asked], random_state=5, start=start))
        if start < n:
            assert_frame_equal(
                pd.concat(rest, ignore_index=True),
                whole.iloc[start:].reset_index(drop=True),
                check_dtype=False,
            )
        else:
            assert not rest


def test_rows_that_know_of_those_before_are_not_begun_in_the_middle(people):
    model = la.Synthesizer(la.Mixture(**TINY_MIXTURE), constraints=[la.Unique("income")], random_state=0)
    model.fit(people)
    assert sum(map(len, model.generate_batches(90, 40, random_state=0, start=20))) == 70
    with pytest.raises(la.ConditionError, match=r"Unique\('income'\) compares each row with those before"):
        model.generate_batches(400, 40, start=200)


def test_the_first_of_a_trillion_rows_come_at_once(mixture):
    levels = {"city": la.Balanced(["Rome", "Oslo", "Bern"]), "member": True}
    batches = mixture.generate_batches(10**12, 300, given=levels, random_state=0)
    for batch in (next(batches), next(batches)):
        assert batch["city"].value_counts().tolist() == [100, 100, 100]


def test_what_cannot_be_is_refused_before_anything_is_drawn(mixture):
    with pytest.raises(la.ConditionError, match="Atlantis"):
        mixture.generate_batches(1000, given={"city": "Atlantis"})
    with pytest.raises(la.ConditionError, match="shape \\(96,\\) for 1000 rows"):
        mixture.generate_batches(1000, given={"city": ["Rome"] * 96})
    with pytest.raises(ValueError, match="chunk must be"):
        mixture.generate_batches(1000, 0)


# ---- Parquet ----


def read_back(path, container):
    if container is pd.DataFrame:
        return pd.read_parquet(path)
    return pl.read_parquet(path) if container is pl.DataFrame else pq.read_table(path)


@pytest.mark.parametrize("turned", [lambda frame: frame, pl.from_pandas, pa.Table.from_pandas])
def test_a_file_gives_back_what_generate_draws(people, turned, tmp_path, capsys):
    frame = people.reset_index(drop=True).assign(
        since=people["since"].dt.as_unit("ms").array,  # Parquet has no seconds
        rare=pd.Series([None] * 399 + ["seldom"], dtype=object),
        flag=pd.Series([None, True, False, True] * 100, dtype=object),
        day=pd.to_datetime(np.arange(400), unit="D", origin="2020-01-01").astype("datetime64[us]"),
    )
    table = turned(frame)
    model = la.Mixture(**TINY_MIXTURE).fit(table)
    path = model.to_parquet(tmp_path / "made.parquet", 250, chunk=100, random_state=1)
    assert pq.ParquetFile(path).num_row_groups == 3
    back, whole = read_back(path, type(table)), model.generate(250, random_state=1)
    if isinstance(table, pd.DataFrame):
        assert back["rare"].isna().sum() > 200
        assert_frame_equal(back.drop(columns="rare"), whole.drop(columns="rare"))  # pandas reads text as text
    else:
        large = whole.schema if isinstance(table, pa.Table) else None
        back = back if large is None else back.cast(large)  # Arrow reads large text in categories as text
        assert back.equals(whole)
        assert [str(kind) for kind in back.schema] == [str(kind) for kind in whole.schema]
    assert "250/250" in capsys.readouterr().err


def test_arrays_are_written_by_their_names(tmp_path, capsys):
    X = np.random.default_rng(0).normal(size=(200, 3))
    by_name = {"a": X[:, 0], 1: X[:, 1], "b": X[:, 2]}
    for data, left_out, names in ((X, "x1", ["x0", "x2"]), (by_name, 1, ["a", "b"])):
        model = la.Mixture(schema={left_out: la.Ignored()}, **TINY_MIXTURE)
        path = model.fit(data).to_parquet(tmp_path / "made.parquet", 50, random_state=0, progress=False)
        back, whole = pq.read_table(path), model.generate(50, random_state=0)
        assert back.column_names == names
        columns = whole.T if data is X else list(whole.values())
        for name, column in zip(names, columns, strict=True):
            assert_array_equal(back[name].to_numpy(), column)
    assert capsys.readouterr().err == ""


def test_no_rows_make_a_file_with_the_columns(mixture, people, tmp_path):
    none = pd.read_parquet(mixture.to_parquet(tmp_path / "none.parquet", 0, progress=False))
    assert len(none) == 0
    assert none.columns.tolist() == people.columns.tolist()


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_failure_leaves_an_older_file_and_nothing_beside_it(mixture, tmp_path, monkeypatch, error):
    path = tmp_path / "made.parquet"
    mixture.to_parquet(path, 100, progress=False)
    before, complete, calls = path.read_bytes(), type(mixture)._complete, []

    def failing(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise error
        return complete(self, *arguments, **options)

    monkeypatch.setattr(type(mixture), "_complete", failing)
    with pytest.raises(error):
        mixture.to_parquet(path, 1000, chunk=96, progress=False)
    assert [entry.name for entry in tmp_path.iterdir()] == ["made.parquet"]
    assert path.read_bytes() == before


def test_without_pyarrow_the_extra_is_named(mixture, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(la.MissingExtraError, match=r"lookalike\[parquet\]"):
        mixture.to_parquet(tmp_path / "made.parquet", 10)
    assert not list(tmp_path.iterdir())
