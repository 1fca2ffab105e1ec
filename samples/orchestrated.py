"""The steps of a daily pipeline as plain functions of files: what Airflow, Dagster and Prefect run.

    pip install ".[demo,parquet]"
    python samples/orchestrated.py

Each step reads what it is given, writes one file and returns its path; run again it writes the same.
docs/systems/orchestrators.md wraps them, a line each. Here they run one after the other: flights of January
to June are learned from, those of a day in July are scored, and too many odd ones stop the run.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from nycflights import read_flights
from sklearn.tree import DecisionTreeClassifier

import lookalike as la
from lookalike.archive import atomic_write
from lookalike.candidates import Rare, Taught
from lookalike.integrations import arrow

SEED = 2013
ORDINARY = "2013-07-09"
NUMBERS = ["distance", "dep_delay"]


class TooManyOdd(ValueError):
    """More rows are odd than the gate lets pass."""


def fit(table: Path, model: Path) -> Path:
    """Learn a table and export what scores rows like it."""
    la.Mixture(random_state=SEED).fit(pd.read_parquet(table)).export(model)
    return model


def score(model: Path, table: Path, scored: Path) -> Path:
    """Add scores, p-values and labels to a file, in constant memory and without torch."""
    reader = arrow.score(ds.dataset(table), model)
    with atomic_write(scored) as file, pq.ParquetWriter(file, reader.schema) as writer:
        for batch in reader:
            writer.write_batch(batch)
    return scored


def gate(scored: Path, at_most: float, alpha: float = 0.05) -> float:
    """Return the share of odd rows, or raise where it is above `at_most`."""
    p_values = pd.read_parquet(scored, columns=["p_value"])["p_value"]
    share = float((p_values <= alpha).mean())
    if share > at_most:
        raise TooManyOdd(f"{share:.2%} of the rows of {scored} are odd, and at most {at_most:.2%} may be.")
    return share


def augment(table: Path, more: Path, target: str) -> Path:
    """Write the rows to train a tree on: with generated ones where cross-validation finds that they help."""
    rows = pd.read_parquet(table)
    found = la.augment(
        rows.drop(columns=target),
        rows[target],
        la.Mixture(),
        DecisionTreeClassifier(min_samples_leaf=10),
        candidates=[Rare(1), Taught(1)],
        cv=3,
        random_state=SEED,
    )
    print(found.report.verdict)
    with atomic_write(more) as file:
        found.X.assign(**{target: found.y}).to_parquet(file, index=False)
    return more


# ---- what an orchestrator does -----------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000, help="learn from so many flights")
    parser.add_argument("--out", type=Path, default=Path("output/orchestrated"))
    asked = parser.parse_args()
    out = asked.out
    out.mkdir(parents=True, exist_ok=True)
    flights = read_flights().drop(columns=["flight", "tailnum"])
    known = flights[flights["date"] < pd.Timestamp("2013-07-01")].sample(asked.rows, random_state=SEED)
    known.drop(columns="date").to_parquet(out / "known.parquet", index=False)
    model = fit(out / "known.parquet", out / "flights.onnx")

    today = flights[flights["date"] == pd.Timestamp(ORDINARY)].drop(columns="date")
    spoiled = today.assign(carrier=today["carrier"].str.lower())  # codes that were changed upstream
    for name, table in (("today", today), ("spoiled", spoiled)):
        table.to_parquet(out / f"{name}.parquet", index=False)
        scored = score(model, out / f"{name}.parquet", out / f"{name}-scored.parquet")
        try:
            print(f"{name}: {gate(scored, at_most=0.25):.2%} of {len(table)} flights are odd. Go on.")
        except TooManyOdd as stop:
            print(f"{name}: stopped. {stop}")

    late = known[[*NUMBERS, "arr_delay"]].dropna().head(1000)
    late = late[NUMBERS].assign(late=late["arr_delay"] > 30)
    late.to_parquet(out / "late.parquet", index=False)
    more = augment(out / "late.parquet", out / "late-more.parquet", target="late")
    print(f"{len(late):,} rows to train on became {pq.read_metadata(more).num_rows:,}.")


if __name__ == "__main__":
    main()
