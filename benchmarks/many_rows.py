"""Millions of flights through tables' systems beside the runtime alone; parts of `pipelines.py`.

Each figure comes from a process of its own with one thread, which is warmed up by a small file first.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from peers import interpreter

HERE = Path(__file__).resolve().parent
BATCH = 65_536
SMALL = 100_000  # rows of the file to warm up by

# A process of its own, for Linux counts what the parent held when it forked as held by the child.
USED = """
import os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:])
_, status, used = os.wait4(process.pid, 0)
print(time.perf_counter() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
sys.exit(os.waitstatus_to_exitcode(status))
"""

Say = Callable[[str], None]


# ---- systems: each reads a file of rows, and returns how many it has scored --------------------------------


def bare(model: Path, rows: Path) -> int:
    """The runtime alone: batches read, scores computed, nothing written."""
    from lookalike import runtime

    opened = runtime.load(model, threads=1, device="cpu")
    return sum(len(opened.score_samples(batch)) for batch in _batches(rows))


def arrow(model: Path, rows: Path) -> int:
    """`integrations.arrow.score`."""
    from lookalike.integrations import arrow

    return sum(batch.num_rows for batch in arrow.score(_batches(rows), model))


def polars(model: Path, rows: Path) -> int:
    """A lazy scan scored and counted by the streaming engine."""
    os.environ["POLARS_MAX_THREADS"] = "1"
    import polars as pl

    import lookalike.integrations.polars  # noqa: F401 - the namespace

    scored = pl.scan_parquet(rows).lookalike.score(model)
    return int(scored.select(pl.col("p_value").count()).collect(engine="streaming").item())


def spark(model: Path, rows: Path) -> int:
    """`integrations.spark.score` on one core, into nothing."""
    from pyspark.sql import SparkSession

    from lookalike.integrations import spark

    os.environ["PYSPARK_PYTHON"] = sys.executable
    settings = {
        "spark.ui.enabled": "false",
        "spark.driver.memory": "2g",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH),
    }
    session = SparkSession.builder.master("local[1]").config(map=settings).getOrCreate()
    frame = session.read.parquet(str(rows))
    spark.score(frame, model).write.format("noop").mode("overwrite").save()
    return int(frame.count())


def ray(model: Path, rows: Path) -> int:
    """`integrations.ray.score` with one actor, each block counted."""
    import ray

    from lookalike.integrations import ray as la_ray

    if not ray.is_initialized():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        ray.data.DataContext.get_current().enable_progress_bars = False
    # Of two CPUs, for reading takes one: a pool that holds all of them waits for ever.
    scored = la_ray.score(ray.data.read_parquet(str(rows)), model, concurrency=1)
    return sum(block.num_rows for block in scored.iter_batches(batch_size=None, batch_format="pyarrow"))


def _batches(rows: Path) -> Iterator[Any]:
    import pyarrow.parquet as pq

    return pq.ParquetFile(rows).iter_batches(BATCH)


SYSTEMS = {system.__name__: system for system in (bare, arrow, polars, spark, ray)}


# ---- parts -------------------------------------------------------------------------------------------------


def measure_frames(say: Say, args: argparse.Namespace) -> None:
    """Arrow and polars, in CPU seconds."""
    _ratios(say, ("arrow", "polars"), args.rows // 10, repeats=3, cpu=True)


def measure_clusters(say: Say, args: argparse.Namespace) -> None:
    """Spark and Ray, by the clock: their workers are other processes.

    Parquet has no spans of time, and Spark reads what Arrow writes for them as whole numbers.
    """
    _ratios(say, ("spark", "ray"), args.rows // 2, repeats=1, cpu=False, spans=False)


def _ratios(say: Say, systems: tuple[str, ...], n: int, repeats: int, cpu: bool, spans: bool = True) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = exported(Path(folder), spans)
        small, rows = flights(folder, SMALL, spans), flights(folder, n, spans)
        seconds: dict[str, list[float]] = {system: [] for system in ("bare", *systems)}
        for _ in range(repeats):
            for system in seconds:
                command = [sys.executable, __file__, system, *map(str, (model, small, rows))]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                seen, *clocks = map(float, done.stdout.splitlines()[-1].split())
                if seen != n:
                    raise SystemExit(f"{system} scored {seen:,.0f} of {n:,} rows")
                seconds[system].append(clocks[cpu])
    alone = statistics.median(seconds["bare"])
    for system, found in seconds.items():
        one = statistics.median(found)
        kind = "CPU second" if cpu else "second"
        beside = f"{one / alone:.2f} of the runtime's time"
        say(f"{system:8s} {n:10,d} rows: {n / one:8,.0f} rows a {kind}, {beside}")


def measure_files(say: Say, args: argparse.Namespace) -> None:
    """`lookalike score` from Parquet to Parquet, and PyOD's IForest over the same file."""
    score = [sys.executable, "-m", "lookalike.cli", "-q", "score"]
    with tempfile.TemporaryDirectory() as folder:
        model, out = exported(Path(folder)), Path(folder) / "scored.parquet"
        peaks = []
        for n in (args.rows // 100, args.rows):
            rows = flights(folder, n)
            wall, cpu, peak = _child([*score, model, rows, "-o", out, "--threads", "1"])
            peaks.append(peak)
            written = out.stat().st_size / 1e6
            say(
                f"lookalike score {n:10,d} rows: {wall:6.1f} s, {cpu:6.1f} CPU s, {n / cpu:7,.0f} rows a CPU "
                f"second; {peak:,.0f} MB at the peak; wrote {written:,.0f} MB"
            )
        say(f"a hundred times the rows: {peaks[1] - peaks[0]:+,.0f} MB")
        if args.peers:
            python = interpreter(args.peers)
            wall, cpu, peak = _child([python, HERE / "iforest_rows.py", rows, out])
            say(
                f"PyOD's IForest  {n:10,d} rows: {wall:6.1f} s, {cpu:6.1f} CPU s, {n / cpu:7,.0f} rows a CPU "
                f"second, of the numbers alone; {peak:,.0f} MB at the peak"
            )


def _child(command: list[Any]) -> tuple[float, float, float]:
    """Run to the end; seconds, CPU seconds, and most megabytes held."""
    done = subprocess.run([sys.executable, "-c", USED, *map(str, command)], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.returncode}")
    wall, cpu, peak = map(float, done.stdout.splitlines()[-1].split())
    return wall, cpu, peak


def _flights(spans: bool) -> Any:
    """Numbers, text, times of day, missing values; without `spans` times of day are minutes."""
    sys.path.insert(0, str(HERE.parent / "samples"))
    from nycflights import read_flights

    frame = read_flights().drop(columns=["date", "flight", "tailnum"]).sample(frac=1, random_state=0)
    if not spans:
        for name in frame.select_dtypes("timedelta"):
            frame[name] = frame[name].dt.total_seconds() / 60
    return frame


def exported(folder: Path, spans: bool = True) -> Path:
    """A detector of flights."""
    import torch

    import lookalike as la

    torch.set_num_threads(1)
    path = folder / "flights.onnx"
    la.Detector(random_state=0).fit(_flights(spans).head(40_000)).export(path)
    return path


def flights(folder: str | Path, n: int, spans: bool = True) -> Path:
    """The flights of 2013 again and again in one file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = Path(folder) / f"{n}.parquet"
    table = pa.Table.from_pandas(_flights(spans), preserve_index=False)
    with pq.ParquetWriter(path, table.schema) as writer:
        for start in range(0, n, len(table)):
            writer.write_table(table.slice(0, n - start), row_group_size=BATCH)
    return path


PARTS = {"frames": measure_frames, "clusters": measure_clusters, "files": measure_files}

if __name__ == "__main__":
    system = SYSTEMS[sys.argv[1]]
    model, small, rows = map(Path, sys.argv[2:])
    system(model, small)
    wall, cpu = time.perf_counter(), time.process_time()
    seen = system(model, rows)
    print(seen, time.perf_counter() - wall, time.process_time() - cpu)
