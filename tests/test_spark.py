"""Spark on this machine: rows scored and generated in its Python workers."""

import os
import sys

import numpy as np
import pyarrow as pa
import pytest
from conftest import TINY_MIXTURE
from pandas.testing import assert_frame_equal, assert_series_equal

import lookalike as la
from lookalike import runtime
from lookalike.face import BLOCK
from lookalike.integrations.scorer import Scorer

REASON = "of Spark; install it with: pip install lookalike[spark]"
sql = pytest.importorskip("pyspark.sql", reason=REASON)
errors = pytest.importorskip("pyspark.errors", reason=REASON)
la_spark = pytest.importorskip("lookalike.integrations.spark", reason=REASON)
pytestmark = pytest.mark.slow

NEW = ["anomaly_score", "p_value", "is_anomaly"]


@pytest.fixture(scope="module")
def spark():
    os.environ["PYSPARK_PYTHON"] = sys.executable
    settings = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.sql.session.timeZone": "America/New_York",
        "spark.sql.execution.arrow.maxRecordsPerBatch": "40",
    }
    session = sql.SparkSession.builder.master("local[2]").config(map=settings).getOrCreate()
    yield session
    session.stop()


@pytest.fixture(scope="module")
def frame(spark, rows):
    """The rows by Spark's own types: instants in microseconds, text where there were categories."""
    frame = rows.reset_index(drop=True).astype({"size": "str"})
    frame["nested"] = [{"k": i, "parts": [i, None]} for i in range(len(frame))]
    return spark.createDataFrame(pa.Table.from_pandas(frame, preserve_index=False)).repartition(1)


def test_rows_are_scored_as_by_the_runtime_and_nothing_is_lost(frame, people_file, rows):
    scored = la_spark.score(frame, people_file, reasons=1)
    assert scored.schema["reason_1"].dataType.simpleString() == "string"
    assert scored.schema.fields[: len(frame.columns)] == frame.schema.fields
    found = scored.toArrow().to_pandas()
    wanted = Scorer(people_file, reasons=1)(rows.reset_index(drop=True))
    assert_frame_equal(found[NEW], wanted[NEW])
    for name in ("reason_1", "reason_1_share", "reason_1_expected"):
        assert (
            found[name].astype(object).fillna("").tolist() == wanted[name].astype(object).fillna("").tolist()
        )
    assert (
        scored.select("nested", "note", "since").collect()
        == frame.select("nested", "note", "since").collect()
    )
    assert scored.where("p_value < 0.1").count() == int((wanted["p_value"] < 0.1).sum()) > 0


def test_workers_need_no_torch_and_open_a_file_once(frame, people_file):
    scorer = Scorer(people_file)

    def probe(batches):
        import sys

        from lookalike.integrations import scorer as module

        for batch in batches:
            scorer(batch)
            yield pa.record_batch({"torch": ["torch" in sys.modules], "opened": [len(module._opened)]})

    # In the workers that have scored before, of this and of other tests.
    la_spark.score(frame, people_file).count()
    seen = frame.repartition(4).mapInArrow(probe, "torch boolean, opened bigint").collect()
    assert len(seen) >= 4
    assert not any(row.torch for row in seen)
    assert {row.opened for row in seen} == {1}


@pytest.mark.filterwarnings("ignore:The copy keyword is deprecated")  # of pandas, to Spark
def test_a_model_of_times_without_a_zone_reads_timestamps_as_topandas_does(spark, tmp_path):
    """Over the change of clocks of March 10th, and with the other types that Spark has."""
    table = spark.sql(
        """
        SELECT timestamp'2024-03-09 12:00:00' + make_interval(0, 0, 0, 0, id) AS at,
          date'2024-03-01' + cast(id % 40 AS int) AS day, cast(id % 7 AS decimal(6, 2)) / 4 AS price,
          nullif(id % 5, 2) AS number, nullif(id % 3 = 0, id % 11 = 0) AS flag,
          elt(id % 3 + 1, 'a', 'b', null) AS word, interval '1' minute * (id % 50) AS wait, array(id) AS parts
        FROM range(0, 300, 1, 2)
        """
    )
    local = table.drop("parts").toPandas()
    la.Mixture(**TINY_MIXTURE).fit(local).export(tmp_path / "model.onnx")
    found = la_spark.score(table, tmp_path / "model.onnx").toArrow()
    wanted = runtime.load(tmp_path / "model.onnx").anomaly_score(local)
    np.testing.assert_array_equal(found["anomaly_score"].to_numpy(), wanted)


def test_what_does_not_fit_is_said_to_the_user(frame, people_file, rows):
    with pytest.raises(la.SchemaError, match=r"no column 'city'\."):
        la_spark.score(frame.drop("city"), people_file)
    with pytest.raises(la.SchemaError, match="has a column 'p_value' already"):
        la_spark.score(frame.withColumn("p_value", frame.income), people_file)
    bad = frame.selectExpr("if(note = 'note 93', double('inf'), income) AS income", *frame.columns[1:])
    with pytest.raises(
        errors.PythonException, match=r"SchemaError: partition 0, rows 80 to 119, .*'income'.*row 13"
    ):
        la_spark.score(bad, people_file).collect()


def test_generated_rows_are_those_of_one_process(spark, people_generator):
    n, given = 2 * BLOCK + 500, {"city": la.OneOf(["Oslo", "Bern"])}
    wanted = runtime.load(people_generator).generate(n, given, random_state=7)
    for partitions in (None, 3):
        drawn = la_spark.generate(
            spark, people_generator, n, given=given, random_state=7, partitions=partitions
        )
        assert drawn.rdd.getNumPartitions() == (partitions or 2)
        found = drawn.toArrow().to_pandas()
        assert list(found) == list(wanted)
        for name in wanted:
            plain = (
                wanted[name].astype("str") if name == "size" else wanted[name]
            )  # a category is text in Spark
            if name == "since":  # the same instants, in the zone of the session
                plain = plain.astype(found[name].dtype)
            assert_series_equal(found[name], plain, check_dtype=False)


def test_what_cannot_be_generated_is_refused_before_work_is_sent(
    spark, people_generator, people_file, people
):
    with pytest.raises(la.ConditionError, match="'Osl'"):
        la_spark.generate(spark, people_generator, 10, given={"city": "Osl"})
    with pytest.raises(la.ArtifactError, match="was exported to score rows, and cannot generate rows"):
        la_spark.generate(spark, people_file, 10)
    with pytest.raises(TypeError, match="what can be exported to one, got dict"):
        la_spark.generate(spark, {}, 10)
    assert la_spark.generate(spark, people_generator, 0).count() == 0
