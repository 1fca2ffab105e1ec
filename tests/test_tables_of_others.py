"""Arrow, polars, DuckDB, Dask and pandera: the same scores by each, with the libraries themselves."""

import dask.dataframe as dd
import duckdb
import numpy as np
import pandera.pandas
import pandera.polars
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from conftest import TINY_MIXTURE
from pandas.testing import assert_frame_equal

import lookalike as la
import lookalike.integrations.polars as la_polars
from lookalike.integrations import arrow, dask
from lookalike.integrations import duckdb as la_duckdb
from lookalike.integrations import pandera as la_pandera
from lookalike.integrations.scorer import Scorer

NEW = ["anomaly_score", "p_value", "is_anomaly"]


@pytest.fixture(scope="module")
def table(rows):
    return pa.Table.from_pandas(rows.reset_index(drop=True), preserve_index=False)


@pytest.fixture(scope="module")
def wanted(people_file, table):
    return Scorer(people_file)(table)


@pytest.fixture(scope="module")
def folder(table, tmp_path_factory):
    """Three files with the rows in order."""
    folder = tmp_path_factory.mktemp("rows")
    for k, start in enumerate((0, 40, 110)):
        pq.write_table(table.slice(start, (40, 70, 40)[k]), folder / f"{k}.parquet")
    return folder


# ---- Arrow ----


def test_batches_are_scored_from_all_that_gives_them(people_file, table, wanted, folder):
    for source in (
        table,
        table.to_reader(max_chunksize=33),
        ds.dataset(folder),
        ds.dataset(folder).scanner(batch_size=10),
        iter(table.to_batches(max_chunksize=50)),
        pl.from_arrow(table),
        duckdb.from_arrow(table),
    ):
        reader = arrow.score(source, people_file)
        assert isinstance(reader, pa.RecordBatchReader)
        scored = reader.read_all()
        assert scored.select(NEW).combine_chunks().equals(wanted.select(NEW).combine_chunks())
        assert scored["note"].to_pylist() == table["note"].to_pylist()


def test_what_does_not_fit_is_refused_before_it_is_read(people_file, table):
    def batches():
        yield table.drop_columns("city").to_batches()[0]
        raise AssertionError("read on")

    with pytest.raises(la.SchemaError, match="no column 'city'"):
        arrow.score(batches(), people_file)
    with pytest.raises(la.SchemaError, match="has a column 'p_value' already"):
        arrow.score(table.append_column("p_value", table["income"]), people_file)
    bad = table.set_column(1, "age", pa.array(["x"] * len(table)))
    with pytest.raises(la.SchemaError, match="rows 0 to 149, counted from there: column 'age' held"):
        arrow.score(bad, people_file).read_all()
    income = table["income"].to_numpy().copy()
    income[120] = np.inf
    reader = arrow.score(
        table.set_column(0, "income", pa.array(income)).to_reader(max_chunksize=100), people_file
    )
    assert reader.read_next_batch().num_rows == 100
    with pytest.raises(la.SchemaError, match=r"rows 100 to 149, counted from there: .*'income'.*row 20"):
        reader.read_next_batch()


def test_rows_are_generated_as_batches(people):
    model = la.Mixture(**TINY_MIXTURE).fit(people)
    drawn = arrow.generate(model, 500, chunk=200, given={"city": "Oslo"}, random_state=3)
    batches = list(drawn)
    assert [len(batch) for batch in batches] == [200, 200, 100]
    whole = model.generate(500, given={"city": "Oslo"}, random_state=3)
    assert_frame_equal(pa.Table.from_batches(batches).to_pandas(), whole, check_dtype=False)


# ---- polars ----


@pytest.mark.parametrize("engine", ["in-memory", "streaming"])
def test_a_lazy_scan_is_scored_as_it_streams(people_file, wanted, folder, engine, tmp_path):
    lazy = pl.scan_parquet(folder / "*.parquet").lookalike.score(people_file, reasons=1)
    assert lazy.collect_schema()["reason_1"] == pl.String
    frame = lazy.collect(engine=engine)
    assert_frame_equal(frame.select(NEW).to_pandas(), wanted.select(NEW).to_pandas())
    # Filters on scores and a choice of columns stand behind what scores.
    few = lazy.filter(pl.col("p_value") < 0.2, pl.col("age") > 30).select("note", "is_anomaly")
    some = frame.filter(pl.col("p_value") < 0.2, pl.col("age") > 30).select("note", "is_anomaly")
    assert 0 < len(some) < len(frame)
    assert few.collect(engine=engine).equals(some)
    assert lazy.head(5).collect(engine=engine).equals(frame.head(5))
    lazy.sink_parquet(tmp_path / "scored.parquet")
    assert pl.read_parquet(tmp_path / "scored.parquet").equals(frame)


def test_an_expression_and_an_eager_frame_give_the_same(people_file, table, wanted):
    frame = pl.from_arrow(table)
    said = frame.select("note", la_polars.expression(people_file).struct.unnest())
    assert said["note"].equals(frame["note"])
    assert_frame_equal(said.select(NEW).to_pandas(), wanted.select(NEW).to_pandas())
    assert frame.lookalike.score(people_file).select(NEW).equals(said.select(NEW))
    odd = frame.filter(la_polars.expression(people_file).struct.field("p_value") < 0.1)
    assert len(odd) == np.sum(wanted["p_value"].to_numpy() < 0.1)
    by_city = frame.group_by("city").agg(la_polars.expression(people_file).struct.field("p_value").min())
    assert by_city["p_value"].min() == min(wanted["p_value"].to_pylist())


def test_a_lazy_frame_that_does_not_fit_is_refused_at_once(people_file, folder):
    lazy = pl.scan_parquet(folder / "*.parquet")
    with pytest.raises(la.SchemaError, match="no column 'city'"):
        la_polars.score(lazy.drop("city"), people_file)
    with pytest.raises(la.SchemaError, match="column 'age' held whole numbers in fit"):
        la_polars.score(lazy.with_columns(pl.lit("x").alias("age")), people_file).collect()
    with pytest.raises(la.SchemaError, match="has a column 'p_value' already"):
        la_polars.score(lazy.with_columns(p_value=1.0), people_file)


# ---- DuckDB ----


def test_sql_scores_rows(people_file, table, wanted):
    with duckdb.connect() as connection:
        connection.from_arrow(table).create_view("people")
        la_duckdb.register(connection, people_file, "oddness", reasons=1)
        found = connection.sql("SELECT p.note, unnest(oddness(p)) FROM people p").fetchdf()
        assert_frame_equal(
            found.set_index("note")[NEW].loc[table["note"].to_pylist()].reset_index(drop=True),
            wanted.select(NEW).to_pandas(),
        )
        worst = connection.sql(
            "SELECT note FROM people p ORDER BY oddness(p).anomaly_score DESC LIMIT 1"
        ).fetchall()
        scores = wanted["anomaly_score"].to_numpy()
        assert worst[0] == (wanted["note"][int(scores.argmax())].as_py(),)
        assert connection.sql("SELECT count(*) FROM people p WHERE oddness(p).p_value < 0.1").fetchall() == [
            (int(np.sum(wanted["p_value"].to_numpy() < 0.1)),)
        ]
        la_duckdb.register(connection, people_file, "oddness", columns="p_value")  # in its place
        assert connection.sql("SELECT unnest(oddness(p)) FROM people p").columns == ["p_value"]
        with pytest.raises(duckdb.Error, match="city"):
            connection.sql("SELECT oddness(p) FROM (SELECT * EXCLUDE city FROM people) p").fetchall()
        with pytest.raises(ValueError, match="name must be of letters"):
            la_duckdb.register(connection, people_file, "odd; DROP TABLE people")


def test_a_relation_streams_through_arrow_and_back(people_file, table, wanted):
    with duckdb.connect() as connection, duckdb.connect() as other:
        relation = connection.from_arrow(table)
        scored = other.from_arrow(arrow.score(relation, people_file))
        ((n,),) = scored.aggregate("count(*) FILTER (p_value < 0.1)").fetchall()
    assert n == np.sum(wanted["p_value"].to_numpy() < 0.1)


# ---- Dask ----


@pytest.mark.parametrize("scheduler", ["threads", pytest.param("processes", marks=pytest.mark.slow)])
def test_partitions_are_scored_by_threads_and_processes(people_file, rows, scheduler):
    rows = rows.reset_index(drop=True)
    frame = dd.from_pandas(rows, npartitions=3)
    scored = dask.score(frame, people_file, reasons=1)
    assert scored.npartitions == 3
    with_scores = Scorer(people_file, reasons=1)(rows)
    meta = scored._meta.dtypes
    assert [str(meta[name]) for name in NEW] == ["float64", "float64", "bool"]
    found = scored.compute(scheduler=scheduler)
    assert_frame_equal(found[NEW], with_scores[NEW])
    assert found["reason_1"].fillna("").tolist() == with_scores["reason_1"].fillna("").tolist()
    assert found.index.equals(rows.index)
    with pytest.raises(la.SchemaError, match="no column 'city'"):
        dask.score(frame.drop(columns="city"), people_file)


# ---- pandera ----


def test_a_table_with_too_many_odd_rows_does_not_validate(people_file, rows):
    p_values = Scorer(people_file)(rows)["p_value"].to_numpy()
    share = float(np.mean(p_values <= 0.1))
    frame = rows.reset_index(drop=True)
    for module, given in ((pandera.pandas, frame), (pandera.polars, pl.from_pandas(frame))):
        fine = module.DataFrameSchema(checks=la_pandera.few_odd(people_file, at_most=share, alpha=0.1))
        assert fine.validate(given) is not None
        strict = module.DataFrameSchema(checks=la_pandera.few_odd(people_file, share - 0.01, alpha=0.1))
        with pytest.raises(
            pandera.errors.SchemaErrors, match=r"more than .* have a p-value of 0\.1 or less"
        ) as e:
            strict.validate(given, lazy=True)
        cases = e.value.failure_cases
        odd = set(cases["index"].to_list() if hasattr(cases["index"], "to_list") else cases["index"])
        assert odd == set(np.flatnonzero(p_values <= 0.1).tolist())
    with pytest.raises(ValueError, match="at_most must be a number from 0 to 1, got 2"):
        la_pandera.few_odd(people_file, 2)
    with pytest.raises(ValueError, match=r"alpha is 0.0001, and no p-value of this model is below 0\.0"):
        la_pandera.few_odd(people_file, 0.1, alpha=1e-4)
    anything = pandera.pandas.DataFrameSchema(checks=la_pandera.few_odd(people_file, 0, alpha=0.1))
    assert len(anything.validate(frame.head(0))) == 0
