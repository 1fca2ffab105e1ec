"""Whether `explain` names the column that was spoilt, beside SHAP on an isolation forest and z-scores.

    python benchmarks/reasons.py                        # every table; about 15 CPU minutes
    python benchmarks/reasons.py --tables adult,housing --model VAE

In rows that were held out, and that every detector calls normal, one column is spoilt: another row's value,
another category, or a number times ten. Of the spoilt rows that a detector flags, in how many does it name
that column first? Then two columns that go together are dealt anew among the rows of a table, so that no
other column tells of them, and one of the two is dealt once more: either value is usual, the two together are
not, and both should be named before all others. Of these rows those count that are flagged, and whose energy
that raised by as much as a row of median energy is short of the threshold.

The forest sees text coded in numbers; a column of text has minus the logarithm of its value's frequency for a
z-score. Peers flag what lies beyond 5 % of their training rows. One thread; writes
benchmarks/results/reasons.txt. Without the package shap that peer is left out.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Any, Protocol

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.metrics import mutual_info_score
from sklearn.preprocessing import OrdinalEncoder

import lookalike as la

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data"
TABLES = ("adult", "churn", "credit", "housing", "insurance", "mammography", "shoppers")
ADBENCH = ("20_letter", "22_magic.gamma", "28_pendigits", "41_Waveform", "5_campaign")
MOST_TRAINED, HELD_OUT = 6000, 1500
COPIES = 2  # of each held-out row, spoilt each in its own way
ALARMS = 0.05
WAYS = ("another row's value", "another category", "a number times ten")


def table_named(name: str, data: Path) -> pd.DataFrame:
    """Normal rows of a table, without keys."""
    if name in ADBENCH:
        with np.load(data / "adbench" / f"{name}.npz") as held:
            X = held["X"][held["y"] == 0]
        frame = pd.DataFrame(X, columns=[f"x{j}" for j in range(X.shape[1])])
    else:
        frame = pd.read_csv(data / "tables" / f"{name}.csv", na_values=[" "], skipinitialspace=True)
        keys = [c for c in frame if frame[c].dtype.kind not in "if" and frame[c].is_unique]
        frame = frame.drop(columns=keys)
    return frame.loc[:, frame.nunique() > 1]


def is_number(column: pd.Series[Any]) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column))


class Detector(Protocol):
    """What is compared."""

    def flags(self, rows: pd.DataFrame) -> NDArray[np.bool_]: ...

    def blame(self, rows: pd.DataFrame) -> NDArray[np.int64]:
        """Columns of the table, the most to blame first, (n, n_columns)."""


class Ours:
    """`explain` of one of our models."""

    def __init__(self, model: str, rows: pd.DataFrame) -> None:
        many = {c: la.Number() for c in rows if is_number(rows[c]) and rows[c].nunique() > 50}
        self.model = getattr(la, model)(random_state=0, schema=many).fit(rows)
        self.columns = list(rows)

    def flags(self, rows: pd.DataFrame) -> NDArray[np.bool_]:
        return self.model.predict(rows) == -1

    @property
    def limit(self) -> float:
        return -float(self.model.offset_)

    def energy(self, rows: pd.DataFrame) -> NDArray[np.float64]:
        return np.asarray(self.model.anomaly_score(rows))

    def blame(self, rows: pd.DataFrame) -> NDArray[np.int64]:
        why = self.model.explain(rows)
        place = np.array([self.columns.index(name) for name in why.columns])
        return place[why.order()]


class Forest:
    """SHAP's TreeExplainer on an isolation forest."""

    def __init__(self, rows: pd.DataFrame) -> None:
        import shap

        self.text = [c for c in rows if not is_number(rows[c])]
        self.encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
        self.encoder.set_output(transform="pandas")
        if self.text:
            self.encoder.fit(rows[self.text].astype(str))
        self.middle = rows.median(numeric_only=True)
        coded = self.coded(rows)
        self.forest = IsolationForest(random_state=0).fit(coded)
        self.threshold = np.quantile(self.forest.score_samples(coded), ALARMS)
        self.explainer = shap.TreeExplainer(self.forest)

    def coded(self, rows: pd.DataFrame) -> NDArray[np.float64]:
        out = rows.copy()
        if self.text:
            out[self.text] = self.encoder.transform(rows[self.text].astype(str))
        return out.fillna(self.middle).to_numpy(np.float64)

    def flags(self, rows: pd.DataFrame) -> NDArray[np.bool_]:
        return self.forest.score_samples(self.coded(rows)) < self.threshold

    def blame(self, rows: pd.DataFrame) -> NDArray[np.int64]:
        return np.argsort(self.explainer.shap_values(self.coded(rows)), axis=1, kind="stable")


class ZScores:
    """The largest of a row's z-scores, in nats: half their squares beside -log frequency of a category."""

    def __init__(self, rows: pd.DataFrame) -> None:
        self.text = [c for c in rows if not is_number(rows[c])]
        self.frequency = {c: rows[c].astype(str).value_counts(normalize=True) for c in self.text}
        self.fewest = 1 / len(rows)
        self.mean, self.std = rows.mean(numeric_only=True), rows.std(numeric_only=True)
        self.threshold = np.quantile(self.scores(rows).max(1), 1 - ALARMS)

    def scores(self, rows: pd.DataFrame) -> NDArray[np.float64]:
        out = [
            -np.log(rows[c].astype(str).map(self.frequency[c]).fillna(self.fewest).to_numpy(np.float64))
            if c in self.text
            else ((rows[c] - self.mean[c]) / self.std[c]).fillna(0).to_numpy(np.float64) ** 2 / 2
            for c in rows
        ]
        return np.stack(out, 1)

    def flags(self, rows: pd.DataFrame) -> NDArray[np.bool_]:
        return self.scores(rows).max(1) > self.threshold

    def blame(self, rows: pd.DataFrame) -> NDArray[np.int64]:
        return np.argsort(-self.scores(rows), axis=1, kind="stable")


def other_value(value: Any, values: NDArray[Any], rng: np.random.Generator) -> Any:
    """A value that differs."""
    while (fresh := values[rng.integers(len(values))]) == value:
        continue
    return fresh


def spoilt(
    rows: pd.DataFrame, pool: pd.DataFrame, rng: np.random.Generator
) -> tuple[pd.DataFrame, NDArray[np.int64], NDArray[np.str_]]:
    """Spoil one column of each row; with the column's position, and how."""
    which = rng.integers(rows.shape[1], size=len(rows))
    how = np.full(len(rows), WAYS[0], dtype="U32")
    out = rows.astype(object)
    values = {name: pool[name].dropna().to_numpy() for name in rows}
    levels = {name: pool[name].dropna().unique() for name in rows}
    for i, j in enumerate(which):
        name, value, second = rows.columns[j], rows.iat[i, j], rng.random() < 0.5
        if second and not is_number(rows[name]):
            fresh, how[i] = other_value(value, levels[name], rng), WAYS[1]
        elif second and value == value and value != 0:
            fresh, how[i] = value * 10, WAYS[2]
        else:
            fresh = other_value(value, values[name], rng)
        out.iat[i, j] = fresh
    return out.astype(rows.dtypes), which, how


def codes(column: pd.Series[Any]) -> NDArray[np.int64]:
    """At most ten levels: tenths of a number, the most frequent levels of a category."""
    if is_number(column) and column.nunique() > 10:
        return np.asarray(pd.qcut(column, 10, labels=False, duplicates="drop").fillna(-1), np.int64)
    return np.asarray(
        column.astype(str).map(column.astype(str).value_counts().rank(ascending=False)).clip(upper=10),
        np.int64,
    )


def dependent_pair(frame: pd.DataFrame) -> list[str]:
    """The two columns that tell most of each other."""
    coded = {name: codes(frame[name].head(5000)) for name in frame}
    return max(
        (list(pair) for pair in combinations(frame, 2)),
        key=lambda pair: mutual_info_score(coded[pair[0]], coded[pair[1]]),
    )


def set_apart(frame: pd.DataFrame, pair: list[str], rng: np.random.Generator) -> pd.DataFrame:
    """The table with the two columns dealt anew among its rows: they tell of each other, and of no other."""
    out = frame.copy()
    out[pair] = frame[pair].iloc[rng.permutation(len(frame))].set_axis(frame.index)
    return out


def percent(hits: NDArray[np.bool_]) -> float:
    return 100 * float(hits.mean()) if len(hits) else float("nan")


def fitted(frame: pd.DataFrame, model: str) -> tuple[dict[str, Detector], pd.DataFrame, pd.DataFrame]:
    """Detectors fitted on some rows; those, and held-out rows that all of them call normal."""
    k = min(MOST_TRAINED, len(frame) // 2)
    train, held = frame.iloc[:k], frame.iloc[k : k + HELD_OUT]
    detectors: dict[str, Detector] = {"ours": Ours(model, train), "z": ZScores(train)}
    if find_spec("shap"):
        detectors["SHAP"] = Forest(train)
    normal = np.logical_and.reduce([~detector.flags(held) for detector in detectors.values()])
    return detectors, train, held[normal]


def judge(name: str, model: str, data: Path) -> dict[str, Any]:
    frame = table_named(name, data)
    rng = np.random.default_rng(0)
    frame = frame.iloc[rng.permutation(len(frame))].reset_index(drop=True)
    detectors, train, held = fitted(frame, model)
    rows, which, how = spoilt(pd.concat([held] * COPIES), train, np.random.default_rng(1))
    flags = {key: detector.flags(rows) for key, detector in detectors.items()}
    found: dict[str, Any] = {"table": name, "cols": frame.shape[1], "rows": len(rows)}
    hits = {}
    for key, detector in detectors.items():
        begun = time.process_time()
        hits[key] = detector.blame(rows)[:, 0] == which
        found[f"{key} ms"] = 1e3 * (time.process_time() - begun) / len(rows)
    for key in detectors:
        found[f"{key} flags"] = int(flags[key].sum())
        found[f"{key} found"] = percent(hits[key] & flags[key])
        for other in detectors:
            found[f"{key} on {other}"] = percent(hits[key][flags[other]])
    found |= {way: percent(hits["ours"][flags["ours"] & (how == way)]) for way in WAYS}

    pair = dependent_pair(frame)
    detectors, train, held = fitted(set_apart(frame, pair, rng), model)
    ours = detectors["ours"]
    assert isinstance(ours, Ours)
    rows, wanted = held.copy(), sorted(frame.columns.get_indexer(pair))
    rows[pair[1]] = held[pair[1]].to_numpy()[rng.permutation(len(held))]
    # Odd together indeed: by so much that a middling row would have been flagged for it.
    raised = ours.energy(rows) - ours.energy(held)
    enough = ours.limit - np.median(ours.energy(held))
    flagged = ours.flags(rows) & (raised >= enough)
    found |= {"pair": "   " + " and ".join(pair), "pairs": int(flagged.sum())}
    for key, detector in detectors.items():
        found[f"{key} pairs"] = percent((np.sort(detector.blame(rows)[flagged, :2], 1) == wanted).all(1))
    return found


def show(found: list[dict[str, Any]], model: str) -> str:
    table = pd.DataFrame(found)
    mean: dict[str, Any] = table.mean(numeric_only=True).to_dict()
    mean |= {c: int(table[c].sum()) for c in table if c in ("rows", "pairs") or c.endswith("flags")}
    rows = [*found, mean | {"table": "mean, sum", "cols": "", "pair": ""}]

    def lines(head: str, columns: dict[str, str], wide: int = 8) -> list[str]:
        columns = {c: word for c, word in columns.items() if c in table}
        out = [head, ""]
        for row in (columns, *rows):
            cells = (f"{row[c]:.1f}" if isinstance(row[c], float) else str(row[c]) for c in columns)
            cells = ("-" if cell == "nan" else cell for cell in cells)
            name, *others = cells
            out.append(name.ljust(15) + "".join(word.rjust(wide) for word in others))
        return [*out, ""]

    text = [
        f"la.{model}, defaults, seed 0. Rows with one column spoilt, some of which a detector flags.",
        "",
        *lines(
            "Rows that ours flags: % in which each names the spoilt column first.",
            {"table": "", "cols": "columns", "rows": "rows", "ours flags": "flagged"}
            | {"ours on ours": "ours", "SHAP on ours": "SHAP", "z on ours": "z"},
        ),
        *lines(
            "Rows that the peer flags: % in which it, and ours, names the column first. z flags a row by\n"
            "the column of its largest z-score, which is then the spoilt one, for before it was normal.",
            {"table": "", "SHAP flags": "flagged", "SHAP on SHAP": "SHAP", "ours on SHAP": "ours"}
            | {"z flags": "flagged", "z on z": "z", "ours on z": "ours"},
        ),
        *lines(
            "All rows: % that each both flags and explains by the right column.",
            {"table": "", "ours found": "ours", "SHAP found": "SHAP", "z found": "z"},
        ),
        *lines(
            "Two columns that are odd together alone: % of the rows in which they are the first two.",
            {"table": "", "pairs": "rows", "ours pairs": "ours", "SHAP pairs": "SHAP", "z pairs": "z"}
            | {"pair": "   columns"},
        ),
        "Ours by what was done: " + ", ".join(f"{way} {table[way].mean():.1f}" for way in WAYS) + ".",
        f"Cost: {most_energies()} energies a row at most, {mean['ours ms']:.2f} CPU ms a row"
        + (f"; SHAP {mean['SHAP ms']:.2f} ms." if "SHAP ms" in mean else "."),
    ]
    return "\n".join(line.rstrip() for line in text) + "\n"


def most_energies() -> int:
    """Energies a row that `explain` takes by default."""
    from lookalike.face import TESTED
    from lookalike.replacing import ENERGIES

    return 1 + TESTED * ENERGIES


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tables", default=",".join((*TABLES, *ADBENCH)))
    parser.add_argument("--model", default="Diffusion")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=HERE / "results" / "reasons.txt")
    args = parser.parse_args()
    if not args.data.exists():
        sys.exit(f"the tables are not at {args.data}: give their place with --data.")
    warnings.simplefilter("ignore")
    found = []
    for name in args.tables.split(","):
        found.append(judge(name, args.model, args.data))
        shown = ("ours flags", "ours on ours", "SHAP on ours", "z on ours", "pair", "pairs", "ours pairs")
        print(name, *(f"{c} {found[-1].get(c)}" for c in shown), sep="  ", flush=True)
        args.out.write_text(show(found, args.model), "utf-8")  # of the tables so far
    print("\n" + args.out.read_text("utf-8"))


if __name__ == "__main__":
    main()
