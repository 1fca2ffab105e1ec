"""Generated rows judged on a real table beside independent columns and real rows held out, in one run.

    python benchmarks/generation.py                     # adult; about 10 CPU minutes
    python benchmarks/generation.py --tables churn,shoppers --models Diffusion

Runs the judge in ../shared/judge, one thread, and writes benchmarks/results/generation.csv, where tables and
models that are not measured anew keep their lines: shape and trend
(errors in %, 0 is best), c2st (1: a booster cannot tell generated rows from real), utility, dcr_share (.5 is
ideal), CPU seconds of fitting and generated rows a CPU second.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

import numpy as np

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"


class Independent:
    """Each column drawn from its training values on its own: what any model has to beat."""

    def fit(self, frame: Any) -> Self:
        self.frame = frame
        return self

    def generate(self, n: int) -> Any:
        rng = np.random.default_rng(0)
        columns = {c: self.frame[c].to_numpy()[rng.integers(len(self.frame), size=n)] for c in self.frame}
        return type(self.frame)(columns)


MODELS = {
    "Synthesizer": ("lookalike:Synthesizer", {"random_state": 0}),
    "Mixture": ("lookalike:Mixture", {"random_state": 0}),
    "Diffusion": ("lookalike:Diffusion", {"random_state": 0}),
    "VAE": ("lookalike:VAE", {"random_state": 0}),
    "Hybrid": ("lookalike:Hybrid", {"random_state": 0}),
    "GAN": ("lookalike:GAN", {"random_state": 0}),
    "Independent": ("generation:Independent", {}),
    "holdout": ("holdout", {}),
}
SHOWN = ("shape", "trend", "c2st", "utility", "dcr_share", "fit_cpu_s", "rows_per_cpu_s")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--tables", default="adult")
    parser.add_argument("--judge", type=Path, default=SHARED / "judge" / "generation.py")
    args = parser.parse_args()
    if not args.judge.exists():
        sys.exit(f"the judge is not at {args.judge}: give its place with --judge.")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    if (results / "generation.csv").exists():
        with open(results / "generation.csv", newline="") as handle:
            rows = {(row["table"], row["model"]): row for row in csv.DictReader(handle)}
    for table in args.tables.split(","):
        for name in args.models.split(","):
            model, kwargs = MODELS[name]
            out = results / "part.csv"
            out.unlink(missing_ok=True)
            command = [
                sys.executable,
                "-W",
                "ignore",
                args.judge,
                "--model",
                model,
                "--kwargs",
                json.dumps(kwargs),
            ]
            command += ["--table", table, "--out", out]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            subprocess.run(
                list(map(str, command)), cwd=HERE, env=environment, check=True, stdout=subprocess.DEVNULL
            )
            with open(out, newline="") as handle:
                measured = next(csv.DictReader(handle))
            out.unlink()
            row = {"table": table, "model": name} | {c: measured.get(c, "") for c in SHOWN}
            rows[table, name] = row
            shown = (f"{c} {float(row[c]):.4g}" for c in SHOWN if row[c])
            print(f"{table:12s} {name:12s} " + "  ".join(shown), flush=True)
    with open(results / "generation.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, ["table", "model", *SHOWN])
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows))


if __name__ == "__main__":
    main()
