"""Generated rows judged on a real table beside independent columns and real rows held out, in one run.

    python benchmarks/generation.py                     # adult; about 10 CPU minutes
    python benchmarks/generation.py --tables churn,shoppers --models Diffusion
    python benchmarks/generation.py --tables churn --models TVAE,CTGAN --peers python3.11

Runs the judge in ../shared/judge, one thread, and writes generation.csv and generation.md into
benchmarks/results, where tables and models that are not measured anew keep their lines: shape and trend
(errors in %, 0 is best), c2st (1: a booster cannot tell generated rows from real), utility, dcr_share (.5 is
ideal), CPU seconds of fitting and generated rows a CPU second. Generators of other projects (`generators.py`)
live in build/generators, which `--peers` makes from the interpreter it names.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Self

import numpy as np
from peers import PACKAGES, interpreter

HERE = Path(__file__).resolve().parent
SHARED = HERE.parent.parent / "shared"
REFINED = ("Hybrid", "Diffusion", "VAE", "GAN", "Mixture")


class Independent:
    """Each column drawn from its training values on its own: what any model has to beat."""

    def fit(self, frame: Any) -> Self:
        self.frame = frame
        return self

    def generate(self, n: int) -> Any:
        rng = np.random.default_rng(0)
        columns = {c: self.frame[c].to_numpy()[rng.integers(len(self.frame), size=n)] for c in self.frame}
        return type(self.frame)(columns)


class Refined:
    """A family on its own, its rows chosen by critics."""

    def __init__(self, family: str) -> None:
        import lookalike as la

        self.model: Any = la.Synthesizer(getattr(la, family)(), random_state=0)

    def fit(self, frame: Any) -> Self:
        self.model.fit(frame)
        return self

    def generate(self, n: int) -> Any:
        return self.model.generate(n)


MODELS = {
    "Synthesizer": ("lookalike:Synthesizer", {"random_state": 0}),
    "Mixture": ("lookalike:Mixture", {"random_state": 0}),
    "Diffusion": ("lookalike:Diffusion", {"random_state": 0}),
    "VAE": ("lookalike:VAE", {"random_state": 0}),
    "Hybrid": ("lookalike:Hybrid", {"random_state": 0}),
    "GAN": ("lookalike:GAN", {"random_state": 0}),
    **{f"refined {name}": ("generation:Refined", {"family": name}) for name in REFINED},
    "Independent": ("generation:Independent", {}),
    "holdout": ("holdout", {}),
}
PEERS = ("GaussianCopula", "TVAE", "CTGAN", "SMOTENC", "ForestDiffusion")
SHOWN = ("shape", "trend", "c2st", "utility", "dcr_share", "fit_cpu_s", "rows_per_cpu_s")
Results = dict[tuple[str, str], dict[str, Any]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--tables", default="adult")
    parser.add_argument("--judge", type=Path, default=SHARED / "judge" / "generation.py")
    parser.add_argument("--peers", default="", help="an interpreter to make the peers' environment from")
    args = parser.parse_args()
    if not args.judge.exists():
        sys.exit(f"the judge is not at {args.judge}: give its place with --judge.")
    models = args.models.split(",")
    if strange := set(models) - {*MODELS, *PEERS}:
        sys.exit(f"no model is called {min(strange)}. Models are {', '.join((*MODELS, *PEERS))}.")
    if not args.peers and (foreign := [name for name in models if name in PEERS]):
        sys.exit(f"{foreign[0]} is not here: --peers python3.11 makes an environment for it.")
    data = args.judge.parent.parent / "data" / "tables"
    about = json.loads((data / "datasets.json").read_text())
    results = HERE / "results"
    rows: Results = {}
    if (results / "generation.csv").exists():
        with open(results / "generation.csv", newline="") as handle:
            rows = {(row["table"], row["model"]): row for row in csv.DictReader(handle)}
    for table in args.tables.split(","):
        for name in models:
            if name == "SMOTENC" and about[table]["task"] == "regression":
                print(f"{table:12s} {name:12s} has no classes to go by", flush=True)
                continue
            measured = judge(args, name, table, about[table])
            row = {"table": table, "model": name} | {c: measured.get(c, "") for c in SHOWN}
            rows[table, name] = row
            write(results, rows)  # now: the next model may take an hour, or be stopped
            shown = (f"{c} {float(row[c]):.4g}" for c in SHOWN if row[c])
            print(f"{table:12s} {name:12s} " + "  ".join(shown), flush=True)


def judge(args: argparse.Namespace, name: str, table: str, about: dict[str, Any]) -> dict[str, str]:
    """Fit, generate and judge in a process of its own, and read what the judge says."""
    if name in PEERS:
        python: object = interpreter(args.peers, "generators")
        model = f"generators:{name}"
        kwargs = {"categorical": about["categorical"], "target": about["target"]}
    else:
        python = sys.executable
        model, kwargs = MODELS[name]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "line.csv"
        command = [python, "-W", "ignore", args.judge, "--model", model, "--kwargs", json.dumps(kwargs)]
        command += ["--table", table, "--out", out]
        subprocess.run(
            list(map(str, command)),
            cwd=HERE,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with open(out, newline="") as handle:
            return next(csv.DictReader(handle))


def write(results: Path, rows: Results) -> None:
    """Write all that was measured, now and before: as CSV, and as tables to read."""
    results.mkdir(exist_ok=True)
    with open(results / "generation.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, ["table", "model", *SHOWN])
        writer.writeheader()
        writer.writerows(rows[key] for key in sorted(rows))
    lines = [ABOUT.format(packages="; ".join(PACKAGES["generators"][:5]))]
    for table in sorted({table for table, _ in rows}):
        lines += [f"## {table}", "", HEAD, "|---" * (1 + len(SHOWN)) + "|"]
        here = [row for (of, _), row in rows.items() if of == table]
        for row in sorted(here, key=lambda row: (row["model"] != "holdout", -float(row["c2st"]))):
            name = "*real rows held out*" if row["model"] == "holdout" else row["model"]
            cells = (format(float(row[c]), FORMATS[c]) if row[c] else "" for c in SHOWN)
            lines.append("| " + " | ".join([name + "\\*" * (row["model"] in PEERS), *cells]) + " |")
        lines.append("")
    (results / "generation.md").write_text("\n".join(lines))


HEAD = "| | shape, % | trend, % | c2st | utility | dcr share | fit, CPU s | rows a CPU s |"
FORMATS = {
    "shape": ".2f",
    "trend": ".2f",
    "c2st": ".3f",
    "utility": ".3f",
    "dcr_share": ".3f",
    "fit_cpu_s": ",.1f",
    "rows_per_cpu_s": ",.0f",
}
ABOUT = """# Generated tables

Written by `python benchmarks/generation.py`. One thread, one split (four fifths of the rows train, at most
30,000), one seed; as many rows are generated as trained. Models with a star are other projects'
({packages}), in an environment of their own,
with their authors' settings where `benchmarks/generators.py` says nothing else.

- **shape, trend**: errors of columns and of pairs of columns against the training rows, in %; 0 is best.
- **c2st**: 1 if gradient boosting cannot tell generated rows from training rows, 0 if it always can.
- **utility**: of a model trained on generated rows, as a share of that of one trained on real rows.
- **dcr share**: generated rows nearer to a training row than to an equally large sample of other real rows;
  .5 is ideal, more is copying. SMOTENC puts its rows between training rows: a high c2st and a high share.
"""


if __name__ == "__main__":
    main()
