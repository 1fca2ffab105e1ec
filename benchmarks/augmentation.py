"""What `la.augment` is worth: average precision on rows held out, at full size and with few rows.

    python benchmarks/augmentation.py                     # hours; every line is kept as it comes
    python benchmarks/augmentation.py --sizes 200 --tables churn,adult --seeds 0

A fifth of each table, at most 10,000 rows, is held out, and of the others so many are kept. Every candidate
is made from all that are kept, and boosted trees fitted to it are scored on the rows held out; `augment` is
the one that `la.augment` chose by cross-validation on the rows kept. SMOTENC needs imbalanced-learn. One
thread. Writes benchmarks/results/augmentation.csv, where what is not measured anew stays, and
augmentation.md.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import average_precision_score
from sklearn.model_selection import train_test_split

import lookalike as la
from lookalike.augmenting import _Task
from lookalike.boosting import BoostingClassifier

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
FULL = 30_000
MOST_TESTED = 10_000
TABLES = ("credit", "churn", "shoppers", "mammography", "adult")
HEAD = """`python benchmarks/augmentation.py`: average precision of real rows alone in %, others less it.
`augment` is what `la.augment` chose by cross-validation, without the rows held out; the other columns are
its candidates. Sizes, tables and seeds that are absent have not been run.

"""
FIELDS = ("table", "rows", "seed", "method", "ap", "gain", "low", "high", "helps", "chosen", "cpu_s")
STOPPED = 10_000  # rows from which boosting stops early, on rows drawn by its seed: three are averaged


def load(folder: Path, table: str, seed: int, rows: int) -> tuple[Any, Any, str, Any]:
    info = json.loads((folder / "datasets.json").read_text())[table]
    target = info["target"]
    frame = pd.read_csv(folder / info["file"]).drop(columns="customerID", errors="ignore")
    frame[target] = frame[target].astype(str)
    train, test = train_test_split(frame, test_size=0.2, random_state=seed, stratify=frame[target])
    if rows < len(train):
        train, _ = train_test_split(train, train_size=rows, random_state=seed, stratify=train[target])
    rare = frame[target].value_counts().index[-1]
    return train.reset_index(drop=True), test.head(MOST_TESTED), target, rare


def measured(folder: Path, table: str, rows: int, seed: int) -> list[dict[str, Any]]:
    train, test, target, rare = load(folder, table, seed, rows)
    X, y = test.drop(columns=target), (test[target] == rare).to_numpy()

    def precision(made: Any, labels: Any, weight: Any) -> float:
        found = []
        for k in range(3 if len(train) >= STOPPED else 1):
            model = BoostingClassifier(random_state=k).fit(made, labels, sample_weight=weight)
            p = model.predict_proba(X)[:, list(model.classes_).index(rare)]
            found.append(average_precision_score(y, p))
        return float(np.mean(found))

    start = time.process_time()
    done = la.augment(train, target, random_state=seed)
    cpu = time.process_time() - start
    task = _Task.of(la.Augmenter(random_state=seed), train, target)
    training = task.training(None, 0)
    lines = []
    for found in done.report.findings:
        made = found.candidate.make(training)
        chosen = found.candidate == done.report.chosen
        line = {
            "method": repr(found.candidate),
            "gain": found.gain,
            "low": found.low,
            "high": found.high,
            "helps": found.probability,
        }
        ap = precision(made.X, task.target.told(made.y), made.weight)
        lines.append(line | {"ap": ap, "chosen": int(chosen)})
    line = {"method": "augment", "ap": precision(done.X, done.y, done.sample_weight), "cpu_s": cpu}
    size = "full" if rows >= FULL else rows
    return [{"table": table, "rows": size, "seed": seed} | line for line in [line, *lines]]


def shown(lines: list[dict[str, str]]) -> str:
    """Means over seeds: real rows alone, and what the others differ by."""
    frame = pd.DataFrame(lines)
    frame["ap"] = frame["ap"].astype(float)
    wide = frame.pivot_table(index=["rows", "table", "seed"], columns="method", values="ap")
    alone = wide["Nothing()"]
    others = [m for m in ("augment", "ClassWeights()", "Smote()", "Rare(ratio=1)") if m in wide]
    others += sorted(set(wide) - {*others, "Nothing()"})
    differences = wide[others].sub(alone, axis=0).assign(**{"real alone": alone})
    head = ["rows", "table", "seeds", "real alone", *others]
    text = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]

    def line(size: Any, table: str, seeds: int, mean: Any) -> str:
        cells = (f"{100 * mean[m]:+.1f}" if mean[m] == mean[m] else "-" for m in others)
        return f"| {size} | {table} | {seeds} | {100 * mean['real alone']:.1f} | {' | '.join(cells)} |"

    sizes = sorted(differences.index.unique("rows"), key=lambda size: FULL if size == "full" else int(size))
    for size in sizes:
        part = differences.loc[size]
        for table, own in part.groupby("table"):
            text.append(line(size, str(table), len(own), own.mean()))
        text.append(line(size, "**mean**", len(part), part.groupby("table").mean().mean()))
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", default=",".join(TABLES))
    parser.add_argument("--sizes", default=f"200,500,1000,{FULL}")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data" / "tables")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    path = RESULTS / "augmentation.csv"
    lines: list[dict[str, Any]] = []
    if path.exists():
        with open(path, newline="") as handle:
            lines = list(csv.DictReader(handle))
    for seed in map(int, args.seeds.split(",")):
        for rows in map(int, args.sizes.split(",")):
            for table in args.tables.split(","):
                new = [
                    {k: _written(v) for k, v in line.items()}
                    for line in measured(args.data, table, rows, seed)
                ]
                key = tuple(new[0][k] for k in ("table", "rows", "seed"))
                lines = [line for line in lines if tuple(line[k] for k in ("table", "rows", "seed")) != key]
                lines += new
                with open(path, "w", newline="") as handle:
                    writer = csv.DictWriter(handle, FIELDS)
                    writer.writeheader()
                    writer.writerows(lines)
                (RESULTS / "augmentation.md").write_text(HEAD + shown(lines) + "\n")
                ap = {line["method"]: float(line["ap"]) for line in new}
                chosen = next(line["method"] for line in new if line.get("chosen") == "1")
                print(
                    f"{table:12s} {rows:6d} {seed}  real {ap['Nothing()']:.3f}  augment {ap['augment']:.3f}  "
                    f"{chosen}  {new[0]['cpu_s']} s",
                    flush=True,
                )


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
