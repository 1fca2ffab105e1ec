"""Score the flights of 2013 with Arrow, Polars, DuckDB and Dask, each in its own way and all to the same end.

    pip install ".[demo,polars,duckdb,dask]"
    python samples/frames.py

A mixture learns from January to June what a flight looks like and is exported. Each of the four then reads
the folder of Parquet files that holds all flights of the year, a part at a time, and needs no torch for it.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import dask.dataframe as dd
import duckdb
import pandas as pd
import polars as pl
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from nycflights import read_flights

import lookalike as la
import lookalike.integrations.polars  # registers the namespace
from lookalike.integrations import arrow, dask
from lookalike.integrations import duckdb as la_duckdb

COLUMNS = ["date", "weekday", "carrier", "origin", "dest", "distance", "dep_delay", "arr_delay", "air_time"]
ALPHA = 0.01


def by_arrow(folder: Path, model: Path) -> int:
    """Record batches from a data set to a file, in constant memory."""
    reader = arrow.score(ds.dataset(folder), model)
    scored = folder.with_name("scored.parquet")
    with pq.ParquetWriter(scored, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
    return ds.dataset(scored).count_rows(filter=ds.field("p_value") <= ALPHA)


def by_polars(folder: Path, model: Path) -> int:
    """A lazy scan, of which odd flights alone are collected."""
    scan = pl.scan_parquet(folder / "*.parquet").lookalike.score(model, reasons=1)
    odd = scan.filter(pl.col("p_value") <= ALPHA).collect(engine="streaming")
    why = odd["reason_1"].value_counts(sort=True).head(3)
    print(f"  odd above all in {', '.join(f'{name} ({n:,})' for name, n in why.rows())}")
    return len(odd)


def by_duckdb(folder: Path, model: Path) -> int:
    """A function of SQL."""
    with duckdb.connect() as connection:
        la_duckdb.register(connection, model, "oddness", columns=["anomaly_score", "p_value"])
        connection.read_parquet(str(folder / "*.parquet")).create_view("flights")
        connection.execute("CREATE TABLE scored AS SELECT f.*, unnest(oddness(f)) FROM flights f")
        for carrier, dest, late in connection.sql(
            "SELECT carrier, dest, dep_delay FROM scored ORDER BY anomaly_score DESC LIMIT 3"
        ).fetchall():
            left = "never left" if late is None else f"left {late:,.0f} minutes late"
            print(f"  {carrier} to {dest}, {left}")
        ((n,),) = connection.table("scored").filter(f"p_value <= {ALPHA}").aggregate("count(*)").fetchall()
    return int(n)


def by_dask(folder: Path, model: Path) -> int:
    """A partition a file, scored side by side."""
    scored = dask.score(dd.read_parquet(folder), model, columns="p_value")
    odd = scored[scored["p_value"] <= ALPHA]
    return int(odd["p_value"].count().compute(scheduler="threads"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, help="score so many flights, not all")
    parser.add_argument("--learn", type=int, default=20_000, help="learn from so many flights")
    parser.add_argument("--out", type=Path, default=Path("output/frames"))
    asked = parser.parse_args()
    flights = read_flights()[COLUMNS]
    learned = flights[flights["date"] < pd.Timestamp("2013-07-01")].sample(asked.learn, random_state=0)
    flights = flights if asked.rows is None else flights.sample(asked.rows, random_state=1).sort_index()

    folder, file = asked.out / "flights", asked.out / "flights.onnx"
    folder.mkdir(parents=True, exist_ok=True)
    for month, part in flights.groupby(flights["date"].dt.month):
        part.to_parquet(folder / f"{month:02d}.parquet", index=False)
    model = la.Mixture(schema={"date": la.Ignored()}, random_state=0).fit(learned)
    model.export(file)
    print(f"Learned from {len(learned):,} flights; {len(flights):,} in {folder} to score.")

    found: dict[str, int] = {}
    systems: dict[str, Callable[[Path, Path], int]] = {
        "Arrow": by_arrow,
        "Polars": by_polars,
        "DuckDB": by_duckdb,
        "Dask": by_dask,
    }
    for name, count in systems.items():
        start = time.perf_counter()
        found[name] = count(folder, file)
        seconds = time.perf_counter() - start
        print(f"{name}: {found[name]:,} odd, {len(flights) / seconds:,.0f} flights a second.")
    if len(set(found.values())) > 1:
        raise SystemExit(f"They do not agree: {found}")
    print("All four agree.")


if __name__ == "__main__":
    main()
