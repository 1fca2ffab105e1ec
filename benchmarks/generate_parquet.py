"""What ten million rows cost: rows a second and peak memory of `to_parquet`. One thread.

    python benchmarks/generate_parquet.py --write           # and keep it, in benchmarks/results
    python benchmarks/generate_parquet.py --rows 100000,1000000

Each file has a process of its own, which loads a fitted `la.Mixture` and writes what `generate` draws.
Memory is what writing adds to the peak of that process, once a first block has been drawn. The table has 20
columns: numbers (heavy-tailed, rounded, whole, with missing values), text, categories, booleans, dates with a
time zone, durations and an identifier. A tenth as many rows stand beside: memory does not grow with them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd

FITTED = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="1000000,10000000")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/generate_parquet.txt")
    args = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        fit(Path(folder))
        for n in map(int, args.rows.split(",")):
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                lines.append(pool.submit(write, Path(folder), n).result())
            print(lines[-1], flush=True)
    if args.write:
        head = f"$ python benchmarks/generate_parquet.py {' '.join(sys.argv[1:])}"
        path = Path(__file__).parent / "results" / "generate_parquet.txt"
        path.write_text("\n".join([head, *lines]) + "\n")


def table(n: int) -> pd.DataFrame:
    """Twenty columns that depend on each other."""
    rng = np.random.default_rng(0)
    kind = rng.integers(5, size=n)
    numbers = rng.normal(size=(n, 10)) + 0.5 * kind[:, None]
    columns: dict[str, object] = {f"number{j}": numbers[:, j] for j in range(4)}
    columns |= {f"amount{j}": np.exp(numbers[:, 4 + j]).round(2) for j in range(2)}
    columns |= {f"count{j}": rng.poisson(np.exp(numbers[:, 6 + j].clip(max=4))) for j in range(2)}
    columns |= {f"gap{j}": np.where(rng.random(n) < 0.2, np.nan, numbers[:, 8 + j]) for j in range(2)}
    columns |= {
        f"text{j}": np.array(list("abcdefgh"))[(kind + rng.integers(4, size=n)) % 8] for j in range(3)
    }
    columns |= {f"level{j}": pd.Categorical(np.array(["low", "mid", "high"])[kind % 3]) for j in range(2)}
    columns |= {f"flag{j}": rng.random(n) < 0.2 + 0.1 * kind for j in range(2)}
    start = pd.Timestamp("2024-01-01", tz="Europe/Berlin").as_unit("ms")
    columns["since"] = start + pd.to_timedelta(rng.integers(0, 8760, n) * 3_600_000, unit="ms")
    columns["wait"] = pd.to_timedelta(rng.integers(0, 3600, n), unit="s")
    columns["key"] = [f"k{i:06d}" for i in rng.permutation(n)]
    return pd.DataFrame(columns)


def fit(folder: Path) -> None:
    import lookalike as la

    la.Mixture(random_state=0).fit(table(FITTED)).save(folder / "model.lookalike")


def write(folder: Path, n: int) -> str:
    """Write rows, and say what they cost."""
    import lookalike as la

    model = la.load(folder / "model.lookalike")
    path = folder / "rows.parquet"
    model.to_parquet(path, 50_000, progress=False)
    before, cpu, wall = peak(), time.process_time(), time.perf_counter()
    model.to_parquet(path, n, random_state=0, progress=False)
    cpu, wall, memory = time.process_time() - cpu, time.perf_counter() - wall, peak() - before
    return (
        f"{n:10,d} rows: {cpu:7.1f} CPU s, {wall:7.1f} s, {n / cpu:8,.0f} rows a CPU s; "
        f"{memory:5.0f} MB beyond {before:.0f}; file {path.stat().st_size / 1e6:,.0f} MB"
    )


def peak() -> float:
    """Most megabytes that the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
