"""Detection on ADBench's tables beside nearest neighbours and isolation forests, in one run.

    python benchmarks/detection.py                 # every model, one seed; about 15 CPU minutes
    python benchmarks/detection.py --models VAE --seeds 0,1,2 --raw

Runs the judge in ../shared/judge, one thread, and writes benchmarks/results/detection*.csv: AUROC and average
precision a table, CPU seconds of fitting and microseconds a row of scoring. The last lines are means over the
tables and the ratio of each cost to that of mean-5-NN.
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


class MeanKNN5:
    """Mean distance to the five nearest training rows."""

    def fit(self, X: Any) -> Self:
        from sklearn.neighbors import NearestNeighbors

        self.neighbours = NearestNeighbors(n_neighbors=5).fit(X)
        return self

    def score_samples(self, X: Any) -> Any:
        return -self.neighbours.kneighbors(X)[0].mean(1)


MODELS = {
    "Diffusion": ("lookalike:Diffusion", {"random_state": 0}),
    "VAE": ("lookalike:VAE", {"random_state": 0}),
    "GAN": ("lookalike:GAN", {"random_state": 0}),
    "MeanKNN5": ("detection:MeanKNN5", {}),
    "IForest": ("sklearn.ensemble:IsolationForest", {"random_state": 0}),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--setting", default="clean", choices=["clean", "published", "contaminated"])
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--tables", default="")
    parser.add_argument("--raw", action="store_true")
    parser.add_argument("--judge", type=Path, default=SHARED / "judge" / "detection.py")
    args = parser.parse_args()
    if not args.judge.exists():
        sys.exit(f"the judge is not at {args.judge}: give its place with --judge.")
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    found = {}
    for name in args.models.split(","):
        model, kwargs = MODELS[name]
        out = results / f"detection-{args.setting}{'-raw' if args.raw else ''}-{name}.csv"
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
        command += ["--setting", args.setting, "--seeds", args.seeds, "--tables", args.tables, "--out", out]
        if args.raw:
            command.append("--raw")
        print(f"== {name}", flush=True)
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        subprocess.run(list(map(str, command)), cwd=HERE, env=environment, check=True)
        with open(out, newline="") as handle:
            found[name] = list(csv.DictReader(handle))
    columns = ("auroc", "ap", "fit_cpu_s", "score_cpu_us_per_row")
    means = {
        name: [float(np.mean([float(row[c]) for row in rows])) for c in columns]
        for name, rows in found.items()
    }
    print(f"\n{'mean of the tables':20s} {'AUROC':>7s} {'AP':>7s} {'fit s':>9s} {'us/row':>9s}")
    for name, (auroc, ap, fit, score) in means.items():
        line = f"{name:20s} {auroc:7.2f} {ap:7.2f} {fit:9.2f} {score:9.2f}"
        if "MeanKNN5" in means:
            line += f"   scoring costs {score / means['MeanKNN5'][3]:.2f} of mean-5-NN's"
        print(line)


if __name__ == "__main__":
    main()
