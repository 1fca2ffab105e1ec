"""Holes filled in real tables: by the mean and the mode of draws, and by intervals of them. One thread.

    python benchmarks/imputation.py             # an hour; writes benchmarks/results/imputation.csv and .md
    python benchmarks/imputation.py --models Mixture --tables housing,penguins

Of each table at most 5,000 rows are fitted as they are and at most 1,000 others lose a fifth of their cells,
completely at random. Ours draw these twenty times; their guess is the mean of the draws of a number and the
level that most of them hold, as of `impute(..., combine=True)`, which also rounds where a column is whole;
nobody's guess is rounded here. Peers: scikit-learn's IterativeImputer on
standardised numbers and the numbers of levels, rounded, and KNNImputer on standardised numbers and one column
a level, of which the largest is taken.

nrmse: the root of the mean squared error of numbers, in standard deviations of the rows fitted, over all lost
numbers of the table; 1 is the error of the mean. accuracy: the share of lost levels that the guess hits.
coverage: the share of lost numbers inside the central 80 % of their draws. If a draw is as good as the truth,
the truth's rank among the twenty draws and itself is uniform, ties split evenly; a number counts by the share
of its rank that lies between 10 and 90 %. (Plain quantiles of twenty draws would hold 72 % of such truths,
and of atoms, such as zeros, all.)
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

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import pandas as pd

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data" / "tables"
OURS = ("Mixture", "Synthesizer", "Diffusion", "VAE", "GAN")
PEERS = ("IterativeImputer", "KNNImputer")
FITTED, TESTED, LOST, DRAWS = 5_000, 1_000, 0.2, 20
FIELDS = ("table", "model", "nrmse", "accuracy", "coverage", "seconds")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join((*OURS, *PEERS)))
    parser.add_argument("--tables", default="", help="all of datasets.json if not given")
    parser.add_argument("--data", type=Path, default=DATA, help="a folder with datasets.json")
    args = parser.parse_args()
    about = json.loads((args.data / "datasets.json").read_text())
    path = HERE / "results" / "imputation.csv"
    kept = list(csv.DictReader(path.open())) if path.exists() else []
    found: dict[tuple[str, str], dict[str, Any]] = {(line["table"], line["model"]): line for line in kept}
    for table in args.tables.split(",") if args.tables else about:
        task = read(args.data, about[table])
        for model in args.models.split(","):
            cpu = time.process_time()
            guess, draws = ours(model, *task[:2]) if model in OURS else peer(model, *task[:2])
            line = judge(guess, draws, *task)
            line |= {"table": table, "model": model, "seconds": f"{time.process_time() - cpu:.1f}"}
            found[table, model] = line
            print(*(line[field] for field in FIELDS), flush=True)
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
                writer.writeheader()
                writer.writerows(found[key] for key in sorted(found))
    (path.with_suffix(".md")).write_text(summary(list(found.values())))


def read(folder: Path, about: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Rows to fit, rows with holes, and these whole."""
    frame = pd.read_csv(folder / about["file"])
    for name in about["categorical"]:
        frame[name] = frame[name].astype(object).where(frame[name].notna(), None).map(str, na_action="ignore")
    for name in frame.columns.difference(about["categorical"]):
        frame[name] = pd.to_numeric(frame[name], errors="coerce").astype(float)
    frame = frame.dropna(axis=1, how="all")  # keys
    order = np.random.default_rng(0).permutation(len(frame))
    n_tested = min(TESTED, len(frame) // 4)
    fitted, whole = frame.iloc[order[n_tested:]][:FITTED], frame.iloc[order[:n_tested]]
    lost = np.random.default_rng(1).random(whole.shape) < LOST
    return tuple(part.reset_index(drop=True) for part in (fitted, whole.mask(lost), whole))  # type: ignore[return-value]


def ours(name: str, fitted: pd.DataFrame, holey: pd.DataFrame) -> tuple[pd.DataFrame, list[pd.DataFrame]]:
    import lookalike as la

    wishes = {c: la.Categorical() if fitted[c].dtype != float else la.Number() for c in fitted}
    model: Any = getattr(la, name)
    model = model(schema=wishes, random_state=0).fit(fitted)
    draws = model.impute(holey, n_draws=DRAWS, random_state=0)
    guess = holey.copy()
    for column in guess:
        drawn = pd.concat([draw[column] for draw in draws], axis=1)
        guess[column] = drawn.mean(axis=1) if fitted[column].dtype == float else drawn.mode(axis=1)[0]
    return guess, draws


def peer(name: str, fitted: pd.DataFrame, holey: pd.DataFrame) -> tuple[pd.DataFrame, None]:
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer

    numbers = [c for c in fitted if fitted[c].dtype == float]
    levels = {c: sorted(fitted[c].dropna().unique()) for c in fitted if c not in numbers}
    mean, spread = fitted[numbers].mean(), fitted[numbers].std().replace(0, 1)

    def encoded(frame: pd.DataFrame) -> np.ndarray:
        parts = [((frame[numbers] - mean) / spread).to_numpy()]
        for column, names in levels.items():
            codes = pd.Categorical(frame[column], categories=names).codes
            if name == "KNNImputer":  # two levels apart are as far as a standard deviation
                block = np.eye(len(names))[codes] / np.sqrt(2)
            else:
                block = codes[:, None].astype(float)
            parts.append(np.where(codes[:, None] < 0, np.nan, block))
        return np.hstack(parts)

    imputer = KNNImputer() if name == "KNNImputer" else IterativeImputer(random_state=0)
    filled = imputer.fit(encoded(fitted)).transform(encoded(holey))
    guess = holey.copy()
    guess[numbers] = filled[:, : len(numbers)] * spread.to_numpy() + mean.to_numpy()
    at = len(numbers)
    for column, names in levels.items():
        width = len(names) if name == "KNNImputer" else 1
        block = filled[:, at : at + width]
        codes = block.argmax(1) if width > 1 else np.rint(block[:, 0]).clip(0, len(names) - 1).astype(int)
        guess[column] = np.array(names, dtype=object)[codes]
        at += width
    return guess, None


def judge(
    guess: pd.DataFrame,
    draws: list[pd.DataFrame] | None,
    fitted: pd.DataFrame,
    holey: pd.DataFrame,
    whole: pd.DataFrame,
) -> dict[str, str]:
    """Errors at the cells that were lost."""
    errors, hits, covered = [], [], []
    for column in whole:
        lost = (holey[column].isna() & whole[column].notna()).to_numpy()
        truth = whole[column].to_numpy()[lost]
        if whole[column].dtype != float:
            hits.append(guess[column].astype(object).to_numpy()[lost] == truth)
            continue
        spread = fitted[column].std() or 1.0
        errors.append((guess[column].to_numpy()[lost] - truth) / spread)
        if draws is not None:
            drawn = np.array([draw[column].to_numpy()[lost] for draw in draws])
            same = np.isclose(drawn, truth, rtol=1e-9, atol=0)
            below = ((drawn < truth) & ~same).sum(0)
            ends = below / (DRAWS + 1), (below + same.sum(0) + 1) / (DRAWS + 1)
            inside = np.minimum(ends[1], 0.9) - np.maximum(ends[0], 0.1)
            covered.append(inside.clip(0) / (ends[1] - ends[0]))
    return {
        "nrmse": f"{np.sqrt(np.mean(np.concatenate(errors) ** 2)):.4f}",
        "accuracy": f"{np.mean(np.concatenate(hits)):.4f}" if hits else "",
        "coverage": f"{np.mean(np.concatenate(covered)):.4f}" if covered else "",
    }


def summary(lines: list[dict[str, Any]]) -> str:
    """A table of means, and one a measure."""
    models = [m for m in (*OURS, *PEERS) if any(line["model"] == m for line in lines)]
    tables = sorted({line["table"] for line in lines})
    value = {(line["table"], line["model"]): line for line in lines}
    text = [
        "# Filling holes",
        "",
        "Written by `python benchmarks/imputation.py`, whose head says what is measured.",
    ]
    for field, better in (
        ("nrmse", "lower"),
        ("accuracy", "higher"),
        ("coverage", "0.80"),
        ("seconds", "CPU"),
    ):
        text += ["", f"## {field} ({better})", "", "| | " + " | ".join(tables) + " | mean |"]
        text.append("|---" * (len(tables) + 2) + "|")
        for model in models:
            cells = [value.get((table, model), {}).get(field, "") for table in tables]
            there = [float(cell) for cell in cells if cell]
            mean = f"{np.mean(there):.3f}" if len(there) == len(tables) else ""
            text.append(f"| {model} | " + " | ".join(cells) + f" | {mean} |")
    return "\n".join(text) + "\n"


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
