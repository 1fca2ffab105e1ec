"""What a few labelled anomalies are worth to `Detector`, on ADBench's tables.

    python benchmarks/labels.py            # about five CPU minutes

Fits half of the normal rows of each table and m of its anomalies, at most half of them: as rows like others,
not at all, and labelled -1. The other rows are scored; benchmarks/results/labels.txt gets AUROC and average
precision. Tables of more than 10,000 rows are left out.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

import lookalike as la

HERE = Path(__file__).resolve().parent
KNOWN = (1, 3, 10)
MOST_ROWS = 10_000
HEADS = ("unlabelled", "left out", "labelled")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data" / "adbench")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [f"{'table':14s} {'known':>5s}  " + "  ".join(f"{head:>15s}" for head in HEADS) + "   AUROC / AP"]
    found: dict[int, list[list[float]]] = {m: [] for m in KNOWN}
    for path in sorted(args.data.glob("*.npz"), key=lambda p: p.stat().st_size):
        with np.load(path) as data:
            X, y = data["X"].astype(float), data["y"].astype(int).ravel()
        if len(X) > MOST_ROWS:
            continue
        rng = np.random.default_rng(0)
        usual, odd = (rng.permutation(np.flatnonzero(y == label)) for label in (0, 1))
        fitted, new = np.array_split(usual, 2)
        for m in (m for m in KNOWN if m <= len(odd) // 2):
            known, rest = np.append(fitted, odd[:m]), np.append(new, odd[m:])
            labels = np.repeat([1, -1], [len(fitted), m])
            models = [
                la.Detector(random_state=0).fit(X[known]),
                la.Detector(random_state=0).fit(X[fitted]),
                la.Detector(random_state=0).fit(X[known], labels),
            ]
            row = [
                100 * measure(y[rest], model.anomaly_score(X[rest]))
                for model in models
                for measure in (roc_auc_score, average_precision_score)
            ]
            found[m].append(row)
            lines.append(told(path.stem.split("_", 1)[1], m, row))
            print(lines[-1], flush=True)
    lines += [told(f"mean of {len(rows)}", m, np.mean(rows, 0).tolist()) for m, rows in found.items()]
    text = "python benchmarks/labels.py\n\n" + "\n".join(lines) + "\n"
    (HERE / "results" / "labels.txt").write_text(text)
    print(text)


def told(name: str, m: int, row: list[float]) -> str:
    pairs = zip(row[::2], row[1::2], strict=True)
    return f"{name:14s} {m:5d}  " + "  ".join(f"{a:7.2f} /{p:6.2f}" for a, p in pairs)


if __name__ == "__main__":
    main()
