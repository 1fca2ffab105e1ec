"""What detection costs: seconds of fitting, microseconds a row of scoring, memory. One thread.

    python benchmarks/detection_cost.py --peers python3.11              # ours beside PyOD's KNN
    python benchmarks/detection_cost.py --models VAE --shapes 1000x20   # some of it
    python benchmarks/detection_cost.py --peers python3.11 --write      # and keep it, in benchmarks/results

Each fit has a process of its own, as has each exported file, which is scored without torch: 20,000 other
rows, five times, the median. Memory is what a fit, or scoring, adds to the peak of a process that has loaded
its packages and the table. The size of the file bounds what a model remembers of its rows. A rank correlation
compares the file's scores with the estimator's.

Tables are drawn: eight clusters, each on five dimensions of its own with noise around them; a fifth of the
columns are rounded to whole numbers and a fifth are heavy-tailed. KNN is fitted on up to 100,000 rows, since
it scores each of them in its fit, and scores 2,000 others.
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
from peers import interpreter

HERE = Path(__file__).resolve().parent
PEER, PEER_ROWS, PEER_SCORED = "pyod.KNN", 100_000, 2_000
SCORED, ROUNDS = 20_000, 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    some = "Detector,Diffusion,VAE,GAN"
    parser.add_argument("--models", default=some, help=f"estimators of lookalike, or {PEER}")
    parser.add_argument("--shapes", default="1000x20,25000x60,1000000x30")
    parser.add_argument("--peers", default="", help="an interpreter to make PyOD's environment from")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/detection_cost.txt")
    args = parser.parse_args()
    lines: list[str] = []
    for shape in args.shapes.split(","):
        n, columns = map(int, shape.split("x"))
        with tempfile.TemporaryDirectory() as folder:
            fresh(draw, Path(folder), n, columns)
            for model in args.models.split(","):
                if model != PEER:
                    lines.append(f"{shape:12s} {model:10s} {ours(model, Path(folder))}")
                elif n <= PEER_ROWS:
                    lines.append(f"{shape:12s} {model:10s} {fresh(neighbours, Path(folder))}")
                print(lines[-1], flush=True)
        if args.peers and n <= PEER_ROWS:
            command = [interpreter(args.peers), __file__, "--models", PEER, "--shapes", shape]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            lines.append(done.stdout.strip())
            print(lines[-1], flush=True)
    if args.write:
        head = f"$ python benchmarks/detection_cost.py {' '.join(sys.argv[1:])}"
        (HERE / "results" / "detection_cost.txt").write_text("\n".join([head, *lines]) + "\n")


def fresh(call: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a call in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(call, *arguments).result()


def draw(folder: Path, n: int, columns: int) -> None:
    """Write the rows to fit and others to score."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(8, columns))
    axes = rng.normal(size=(8, 5, columns)) / 2
    for name, size in (("fit", n), ("score", SCORED)):
        cluster = rng.integers(8, size=size)
        rows = 0.2 * rng.normal(size=(size, columns)) + centres[cluster]
        for k in range(8):
            rows[cluster == k] += rng.normal(size=(int(np.sum(cluster == k)), 5)) @ axes[k]
        rows[:, ::5] = np.round(2 * rows[:, ::5])
        rows[:, 1::5] = np.exp(rows[:, 1::5])
        np.save(folder / f"{name}.npy", rows)


def ours(model: str, folder: Path) -> str:
    cpu, wall, memory = fresh(fit, model, folder)
    text = f"fit {cpu:7.1f} CPU s, {wall:7.1f} s, {memory:6.0f} MB"
    for inputs in ("core", "columns"):
        path = folder / f"{inputs}.onnx"
        microseconds, memory, agreement = fresh(score, path)
        text += (
            f"; {inputs}: {microseconds:6.2f} us a row, {memory:4.0f} MB, rank correlation {agreement:.6f}"
        )
        text += f", file {path.stat().st_size / 1e6:.2f} MB"
    return text


def fit(model: str, folder: Path) -> tuple[float, float, float]:
    """CPU seconds, seconds and megabytes; leaves the model exported, and its scores."""
    warnings.simplefilter("ignore")
    estimator = getattr(importlib.import_module("lookalike"), model)(random_state=0)
    rows = np.load(folder / "fit.npy")
    estimator.fit(rows[:200])  # the first fit of a process pays for imports
    spent = timed(lambda: estimator.fit(rows))
    others = np.load(folder / "score.npy")
    np.save(folder / "scores.npy", estimator.score_samples(others))
    for inputs in ("core", "columns"):
        estimator.export(folder / f"{inputs}.onnx", inputs=inputs, explain=False)
    return spent


def score(path: Path) -> tuple[float, float, float]:
    """CPU microseconds a row, megabytes, and Spearman's correlation with the estimator's scores."""
    from lookalike import runtime

    rows = np.load(path.parent / "score.npy")
    model = runtime.load(path, threads=1)
    model.score_samples(rows[:1024])
    before = peak()
    seconds = statistics.median(timed(lambda: model.score_samples(rows))[0] for _ in range(ROUNDS))
    memory = peak() - before
    assert "torch" not in sys.modules
    found = model.score_samples(rows)
    ranks = [np.argsort(np.argsort(values)) for values in (found, np.load(path.parent / "scores.npy"))]
    return 1e6 * seconds / len(rows), memory, float(np.corrcoef(ranks)[0, 1])


def neighbours(folder: Path) -> str:
    """PyOD's KNN from its defaults."""
    from pyod.models.knn import KNN

    rows, others = np.load(folder / "fit.npy"), np.load(folder / "score.npy")[:PEER_SCORED]
    KNN().fit(rows[:200])
    model = KNN()
    cpu, wall, memory = timed(lambda: model.fit(rows))
    seconds = statistics.median(timed(lambda: model.decision_function(others))[0] for _ in range(ROUNDS))
    text = f"fit {cpu:7.1f} CPU s, {wall:7.1f} s, {memory:6.0f} MB"
    return (
        text + f"; {1e6 * seconds / len(others):6.2f} us a row; keeps its {rows.nbytes / 1e6:.2f} MB of rows"
    )


def timed(call: Callable[[], Any]) -> tuple[float, float, float]:
    """CPU seconds, seconds, and megabytes beyond the process's peak before."""
    before, cpu, wall = peak(), time.process_time(), time.perf_counter()
    call()
    return time.process_time() - cpu, time.perf_counter() - wall, peak() - before


def peak() -> float:
    """Most megabytes that the process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
