"""Score the flights that left New York in 2013 in Spark, and draw new ones there.

    python samples/spark_scores.py

A mixture learns from 5,000 flights and is exported; the workers of Spark have the files alone, and no torch.
Needs Java 17 or later, and pip install "lookalike[spark,demo]".
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

from nycflights import read_flights
from pyspark.sql import SparkSession

import lookalike as la
from lookalike.integrations import spark as la_spark

COLUMNS = ["carrier", "origin", "dest", "distance", "dep_delay", "arr_delay", "air_time"]


def main(rows: int) -> None:
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    spark = SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false").getOrCreate()
    spark.sparkContext.setLogLevel("ERROR")
    flights = read_flights()[COLUMNS].sample(rows, random_state=0)
    with tempfile.TemporaryDirectory() as folder:
        scoring, drawing = Path(folder) / "flights.onnx", Path(folder) / "flights-generate.onnx"
        model = la.Mixture(random_state=0).fit(flights.head(5000))
        model.export(scoring)
        model.export(drawing, task="generate")
        flights.to_parquet(Path(folder) / "flights.parquet")

        frame = spark.read.parquet(str(Path(folder) / "flights.parquet")).select(COLUMNS)
        scored = la_spark.score(frame, scoring, reasons=1).cache()
        n_odd = scored.where("is_anomaly").count()
        print(f"{scored.count():,} flights scored, {n_odd:,} of them odd. The oddest:")
        scored.orderBy("p_value", scored.anomaly_score.desc()).select(
            "carrier", "dest", "dep_delay", "arr_delay", "air_time", "anomaly_score", "reason_1",
            "reason_1_expected",
        ).show(5)  # fmt: skip
        print("The carriers with the most of them:")
        scored.where("is_anomaly").groupBy("carrier").count().orderBy("count", ascending=False).show(3)

        drawn = la_spark.generate(spark, drawing, 100_000, given={"origin": "JFK"}, random_state=1)
        partitions = drawn.rdd.getNumPartitions()
        print(f"{drawn.count():,} flights drawn in {partitions} partitions. Of their carriers:")
        drawn.groupBy("carrier").count().orderBy("count", ascending=False).show(5)
    spark.stop()
    print("Done.")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=50_000, help="flights to score")
    main(parser.parse_args().rows)
