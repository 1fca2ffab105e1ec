"""Do alerts keep their promises on real tables? False discoveries and power, with planted anomalies.

    python benchmarks/decisions.py                    # two CPU minutes
    python benchmarks/decisions.py --models VAE --seeds 2

Of each ADBench table in ../shared/data/adbench, normal rows are dealt into training, calibration and test, at
most 4,000 of each (n in the table); among the test rows, anomalies are planted at a given share. Alerts are
raised at a false discovery rate of 10 % by Benjamini-Hochberg, Storey, and online in random order (and online
with revive=True, which promises something else); and for the lowest tenth of the scores, as contamination=0.1
does. Writes benchmarks/results/decisions.txt:

FDR     mean over seeds of the share of normal rows among the alerts, in %
power   share of the anomalies that are alerts, in %
excess  by how much P(p <= a) exceeds a at most, over a from 0.01 to 0.5, among normal test rows, in %; over
        few seeds and rows chance alone makes it a little positive
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from detection import MeanKNN5
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.preprocessing import StandardScaler

import lookalike as la

HERE = Path(__file__).resolve().parent
TABLES = HERE.parent.parent / "shared" / "data" / "adbench"
MOST, FDR = 4000, 0.1
SHARES = (0.01, 0.05, 0.2)
ALPHAS = np.linspace(0.01, 0.5, 50)
RULES = ("bh", "storey", "online", "revived", "contamination")

MODELS = {
    "MeanKNN5": lambda seed: MeanKNN5(),
    "IForest": lambda seed: IsolationForest(random_state=seed),
    "VAE": lambda seed: la.VAE(random_state=seed),
}


def alerts_of(p: NDArray[np.float64], scores: NDArray[np.float64], n: int) -> dict[str, NDArray[np.bool_]]:
    window = max(int(FDR * (n + 1) / 2), 1)
    return {
        "bh": la.select(p, FDR),
        "storey": la.select(p, FDR, "storey"),
        "online": la.OnlineSelector(FDR, window).select(p),
        "revived": la.OnlineSelector(FDR, window, revive=True).select(p),
        "contamination": scores < np.percentile(scores, 10),
    }


def trial(model: Any, X: Any, y: Any, rng: np.random.Generator) -> dict[str, Any]:
    """One deal of a table: what each rule raises at each share, and the p-values of normal rows."""
    normal, odd = rng.permutation(np.flatnonzero(y == 0)), rng.permutation(np.flatnonzero(y == 1))
    size = min(len(normal) // 3, MOST)
    train, calibration, test = normal[:size], normal[size : 2 * size], normal[2 * size : 3 * size]
    scale = StandardScaler().fit(X[train])
    model.fit(scale.transform(X[train]))
    score = {
        name: model.score_samples(scale.transform(X[rows]))
        for name, rows in (("held", calibration), ("test", test), ("odd", odd))
    }
    calibrated = la.Calibration(score["held"])
    found: dict[str, Any] = {"n": size, "p": calibrated.p_values(score["test"])}
    for share in SHARES:
        n_odd = min(max(round(size * share / (1 - share)), 1), len(odd))
        scores = np.concatenate([score["test"], score["odd"][:n_odd]])
        order = rng.permutation(len(scores))
        is_odd, scores = order >= size, scores[order]
        for rule, alerts in alerts_of(calibrated.p_values(scores), scores, size).items():
            false = (alerts & ~is_odd).sum() / max(alerts.sum(), 1)
            found[share, rule] = (false, alerts[is_odd].mean())
    return found


def excess(trials: list[dict[str, Any]]) -> float:
    p = np.concatenate([found["p"] for found in trials])
    return float(np.max(np.mean(p[:, None] <= ALPHAS, axis=0) - ALPHAS))


def line(name: str, n: str, rows: list[dict[Any, Any]], share: float, deviation: str) -> str:
    cells = []
    for rule in RULES:
        false, power = 100 * np.mean([row[share, rule] for row in rows], axis=0)
        cells.append(f"{false:6.1f}{power:7.1f}")
    return (f"{name:16s}{n:>6s}  " + "  ".join(cells) + f"{deviation:>9s}").rstrip()


def report(name: str, tables: dict[str, list[dict[str, Any]]], seeds: int) -> list[str]:
    head = " " * 24 + "  ".join(f"{rule:>13s}" for rule in RULES)
    units = f"{'table':16s}{'n':>6s}  " + "  ".join(f"{'FDR':>6s}{'power':>7s}" for _ in RULES) + "   excess"
    lines = [f"{name}, {seeds} seeds, fdr = {FDR:.0%}, anomalies planted: 5 %", "", head, units]
    for table, trials in tables.items():
        lines.append(line(table, str(trials[0]["n"]), trials, 0.05, f"{100 * excess(trials):.1f}"))
    every = [found for trials in tables.values() for found in trials]
    large = [found for found in every if found["n"] >= 1000]
    lines.append("")
    for share in SHARES:
        lines.append(line(f"mean, {share:.0%}", "all", every, share, ""))
    for share in SHARES:
        lines.append(line(f"mean, {share:.0%}", ">=1000", large, share, ""))
    errors = [
        np.std([found[share, rule][0] for found in group]) / np.sqrt(len(group))
        for group in (every, large)
        for share in SHARES
        for rule in ("bh", "storey", "online")
    ]
    return [*lines, f"standard errors of these means of the FDR are at most {100 * max(errors):.1f}", "", ""]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="MeanKNN5,IForest")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--data", type=Path, default=TABLES)
    args = parser.parse_args()
    files = sorted(args.data.glob("*.npz"), key=lambda path: int(path.name.split("_")[0]))
    if not files:
        sys.exit(f"no tables are in {args.data}: give their folder with --data.")
    warnings.simplefilter("ignore", la.LookalikeWarning)
    written = []
    for name in args.models.split(","):
        begun, tables = time.process_time(), {}
        for path in files:
            data = np.load(path)
            tables[path.stem.split("_")[1]] = [
                trial(MODELS[name](seed), data["X"], data["y"], np.random.default_rng(seed))
                for seed in range(args.seeds)
            ]
        lines = report(name, tables, args.seeds)
        print("\n".join([*lines, f"{time.process_time() - begun:.0f} CPU seconds"]), flush=True)
        written += lines
    results = HERE / "results"
    results.mkdir(exist_ok=True)
    (results / "decisions.txt").write_text("\n".join(written))


if __name__ == "__main__":
    main()
