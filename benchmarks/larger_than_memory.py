"""What a fit of a Parquet folder costs, however many rows it holds: memory, disk, seconds. One thread.

    python benchmarks/larger_than_memory.py --write         # and keep it, in benchmarks/results
    python benchmarks/larger_than_memory.py --rows 1000000 --families Mixture

Each fit has a process of its own. Memory is what the process holds for itself (RssAnon), at its most above
what it held before, looked at 50 times a second. Pages of the temporary file are counted apart: the system
takes them back whenever it needs room. The table has 12 columns: numbers (heavy-tailed, rounded, whole, with
missing values), text, a category, a boolean, a date and an identifier. `At hand` is it as an Arrow table.

Training takes 300 steps, a few of the thousands by default: what they cost does not depend on the rows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

FILE = 500_000  # rows of one
STEPS = 300


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="1000000,10000000")
    parser.add_argument("--families", default="Mixture,Detector,VAE")
    parser.add_argument(
        "--write", action="store_true", help="write benchmarks/results/larger_than_memory.txt"
    )
    args = parser.parse_args()
    lines = []
    for n in map(int, args.rows.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            size = sum(write(Path(folder), start, min(FILE, n - start)) for start in range(0, n, FILE))
            lines.append(f"{n:,} rows x 12, at hand {size / 1e6:,.0f} MB")
            print(lines[-1], flush=True)
            for family in args.families.split(","):
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    lines.append(pool.submit(fit, folder, family).result())
                print(lines[-1], flush=True)
    if args.write:
        head = f"$ python benchmarks/larger_than_memory.py {' '.join(sys.argv[1:])}"
        path = Path(__file__).parent / "results" / "larger_than_memory.txt"
        path.write_text("\n".join([head, *lines]) + "\n")


def write(folder: Path, start: int, n: int) -> int:
    """Write one file of twelve columns that depend on each other, and return its size in memory."""
    rng = np.random.default_rng(start)
    kind = rng.integers(5, size=n)
    numbers = rng.normal(size=(n, 6)) + 0.5 * kind[:, None]
    day = np.datetime64("2024-01-01T00:00:00", "ms") + rng.integers(0, 8760, n) * np.timedelta64(3600, "s")
    columns: dict[str, Any] = {
        "number0": numbers[:, 0],
        "number1": numbers[:, 1],
        "amount0": np.exp(numbers[:, 2]).round(2),
        "amount1": np.exp(numbers[:, 3]).round(2),
        "count": rng.poisson(np.exp(numbers[:, 4].clip(max=4))),
        "gap": pa.array(numbers[:, 5], mask=rng.random(n) < 0.2),
        "text0": np.array(list("abcdefgh"))[(kind + rng.integers(4, size=n)) % 8],
        "text1": np.array([f"town {i}" for i in range(300)])[rng.zipf(1.6, n) % 300],
        "level": pa.DictionaryArray.from_arrays(pa.array(kind % 3), ["low", "mid", "high"]),
        "flag": rng.random(n) < 0.2 + 0.1 * kind,
        "since": day,
        "key": np.char.add("k", (start + rng.permutation(n)).astype(str)),
    }
    table = pa.table({name: pa.array(column) for name, column in columns.items()})
    pq.write_table(table, folder / f"{start:010d}.parquet", row_group_size=100_000)
    return int(table.nbytes)


def fit(folder: str, family: str) -> str:
    """Fit a folder, and say what that cost."""
    import lookalike as la

    class Told(threading.Thread):
        """Looks at the process until it is stopped."""

        def __init__(self) -> None:
            super().__init__(daemon=True)
            self.most, self.pages, self.stop = 0.0, 0.0, threading.Event()

        def run(self) -> None:
            while not self.stop.wait(0.02):
                own, file = resident()
                self.most, self.pages = max(self.most, own), max(self.pages, file)

    dataset = ds.dataset(folder)
    getattr(la, family)(max_steps=30, random_state=0).fit(dataset.head(1000))  # what is loaded once
    before, cpu, wall = resident(), time.process_time(), time.perf_counter()
    told = Told()
    told.start()
    model = getattr(la, family)(max_steps=STEPS, random_state=0).fit(dataset)
    told.stop.set()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    n = dataset.count_rows()
    return (
        f"  {family:8} {cpu:6.0f} CPU s, {wall:6.0f} s, {model.history_.seconds:4.0f} of these training: "
        f"{n / (wall - model.history_.seconds):7,.0f} rows a second read; "
        f"{told.most - before[0]:5.0f} MB beyond {before[0]:.0f}, "
        f"and {told.pages - before[1]:5.0f} MB of pages of files"
    )


def resident() -> tuple[float, float]:
    """Megabytes that the process holds for itself, and of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    held = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith("Rss")}
    return int(held["RssAnon"]) / 1024, (int(held["RssFile"]) + int(held["RssShmem"])) / 1024


if __name__ == "__main__":
    main()
