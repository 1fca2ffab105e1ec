"""`report_scores`: a page that says what a detector found, how surely, and why."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.calibration import Calibration, select
from lookalike.evaluation import page, svg
from lookalike.evaluation.page import Finding, Report
from lookalike.evaluation.svg import percent
from lookalike.explanation import Explanation, shown
from lookalike.parameters import Range
from lookalike.streaming import indexable, taken

Floats = NDArray[np.float64]

BINS = 48
FAR = 25.0  # interquartile ranges below the median; lower scores share the first bar
RATES = (0.01, 0.05, 0.1, 0.25, 0.5)  # of p-values that are counted
DISCOVERIES = 0.05  # share of false alarms among the rows selected
REASONS = 3  # columns of a row
ALARM_Z = 2.58  # standard errors beyond what chance does, 99.5 % of the time


class Scorer(Protocol):
    """A fitted outlier detector, of lookalike or of scikit-learn."""

    offset_: float

    def score_samples(self, X: Any) -> Any: ...


def report_scores(
    estimator: Scorer,
    X: Any,
    *,
    rows: int = 20,
    explain: Callable[[Any], Explanation] | None = None,
    path: str | os.PathLike[str] | None = None,
) -> Report:
    """Say what a fitted detector makes of rows: scores, how well they are calibrated, the oddest and why.

    Parameters
    ----------
    estimator : fitted estimator
        Ours, an `Ensemble`, a loaded or exported model, or scikit-learn's, which has no p-values and gives no
        reasons.
    X : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
        Rows to score, best such as were not fitted.
    rows : int
        How many of the oddest are listed.
    explain : callable, optional
        What gives reasons for rows, such as ``ensemble.named_estimators_["diffusion"].explain``; by default
        the estimator's own method where it has one.
    path : str or PathLike, optional
        Where to write the page, as `Report.save` does.

    Returns
    -------
    Report
        `numbers`, `verdict` in words and the page as `html`. The page shows values of the oddest rows.

    Raises
    ------
    SchemaError
        If the rows are not as in fit.
    TypeError
        If X is an iterator of tables: a report is about one.
    """
    Range(1, 1000, whole=True).check("rows", rows)
    if isinstance(X, Iterator):
        raise TypeError("X must be one table, got an iterator of tables. Join them, or report on each.")
    scores = np.asarray(estimator.score_samples(X), dtype=np.float64)
    if not scores.size:
        raise ValueError("X must hold at least one row, got none.")
    calibration = getattr(estimator, "calibration_", None)
    p = None if calibration is None else calibration.p_values(scores)
    odd = np.argsort(scores, kind="stable")[:rows]
    found, why_not = _reasons(explain or getattr(estimator, "explain", None), X, odd)
    numbers = _numbers(estimator, scores, p, calibration, odd, found)
    title = f"Scores of {type(estimator).__name__}"
    verdict = _verdict(numbers)
    sections = [
        _scores(scores, estimator.offset_, numbers),
        _calibrated(p, numbers),
        _oddest(numbers, why_not),
    ]
    html = page.page(title, f"{len(scores):,} rows.", verdict, sections)
    made = Report(title, verdict, {**numbers, "verdict": [list(one) for one in verdict]}, html)
    if path is not None:
        made.save(path)
    return made


def _reasons(
    explain: Callable[[Any], Explanation] | None, X: Any, odd: NDArray[np.int64]
) -> tuple[list[list[Any]], str]:
    """The columns to blame for each row, or why there are none."""
    nothing: list[list[Any]] = [[] for _ in odd]
    if explain is None:
        return nothing, "This estimator gives no reasons; lookalike's own do."
    try:
        return explain(taken(indexable(X), odd)).top(REASONS), ""
    except ValueError as error:  # an ensemble of others, a file exported without: the page says so
        return nothing, f"No reasons: {error}"


def _numbers(
    estimator: Scorer,
    scores: Floats,
    p: Floats | None,
    calibration: Calibration | None,
    odd: NDArray[np.int64],
    reasons: list[list[Any]],
) -> dict[str, Any]:
    """All figures, as JSON has them."""
    threshold = float(estimator.offset_)
    below = scores < threshold
    calibrated = None
    if p is not None and calibration is not None:
        n, m = len(p), calibration.n_effective
        calibrated = {
            "rows": m,
            "beyond_threshold": float(calibration.p_values(np.nextafter(threshold, -np.inf))),
            "at_most": [
                {
                    "p": rate,
                    "share": float((p <= rate).mean()),
                    "error": float(np.sqrt(rate * (1 - rate) * (1 / n + 1 / max(m, 1.0)))),
                }
                for rate in RATES
            ],
            "selected": int(np.count_nonzero(select(p, fdr=DISCOVERIES))),
        }
    return {
        "rows": len(scores),
        "threshold": threshold,
        "anomalies": int(below.sum()),
        "share": float(below.mean()),
        "quantiles": {f"{q:g}": float(np.quantile(scores, q)) for q in (0, 0.01, 0.05, 0.25, 0.5, 0.75, 1)},
        "calibration": calibrated,
        "oddest": [
            {
                "row": int(i),
                "score": float(scores[i]),
                "p": None if p is None else float(p[i]),
                "anomaly": bool(below[i]),
                "reasons": [
                    {"column": name, "share": float(share), "value": shown(seen), "expected": shown(usual)}
                    for name, share, seen, usual in why
                ],
            }
            for i, why in zip(odd.tolist(), reasons, strict=True)
        ],
    }


def _verdict(numbers: dict[str, Any]) -> list[Finding]:
    n, odd, told = numbers["rows"], numbers["anomalies"], numbers["calibration"]
    called = f"{odd:,} of {n:,} rows ({percent(numbers['share'])}) score below the threshold"
    if told is None:
        unknown = "The estimator has no p-values, so nothing is known of its false alarms."
        return [Finding("note", f"{called}."), Finding("note", unknown)]
    low, five = told["beyond_threshold"], told["at_most"][1]
    verdict = [
        Finding("note", f"{called}, where {percent(low)} of normal rows would."),
        Finding(
            "note",
            f"{told['selected']:,} rows are so odd that of all such rows at most {percent(DISCOVERIES, 0)} "
            f"are false alarms: la.select(p, fdr={DISCOVERIES:g}).",
        ),
    ]
    gap = five["share"] - five["p"]
    figures = f"{percent(five['share'])} of rows have p of at most {five['p']:g}"
    if gap > ALARM_Z * five["error"]:
        verdict.append(Finding("look", f"{figures}: there are anomalies, or normal rows have changed."))
    elif gap < -ALARM_Z * five["error"]:
        verdict.append(
            Finding(
                "look", f"{figures}: these rows are more usual than those that calibrate, as rows fitted are."
            )
        )
    else:
        verdict.append(Finding("good", f"{figures}, as among normal rows that the model has not seen."))
    return verdict


def _scores(scores: Floats, threshold: float, numbers: dict[str, Any]) -> str:
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
    end = max(float(scores.min()), middle - FAR * max(high - low, 1e-12))
    first, last = min(end, threshold), max(float(scores.max()), threshold)
    edges = np.linspace(first, last if last > first else first + 1, BINS + 1)
    if edges[0] < threshold < edges[-1]:  # no bar has both colours
        edges[1 + int(np.argmin(np.abs(edges[1:-1] - threshold)))] = threshold
    drawn = scores.clip(min=end)
    counts = [np.histogram(drawn[side], edges)[0] for side in (scores < threshold, scores >= threshold)]
    words = "Counts are on a logarithmic axis, since anomalies are few. Left is odder"
    words += ", the lowest share the first bar." if end > scores.min() else "."
    label = f"Scores of {len(scores):,} rows; {numbers['anomalies']:,} below the threshold {threshold:.4g}"
    return page.section(
        "Scores",
        f"The threshold is {threshold:.4g}.",
        page.key(alarm="called anomalies", real="called normal"),
        page.beside(
            page.figure("Rows by score", words, svg.counts(label, counts, edges, threshold), kind="one"),
            page.table(
                "Scores below which a share of the rows lies.",
                ("Share", "Score"),
                [(percent(float(q), 0), f"{value:.4g}") for q, value in numbers["quantiles"].items()],
                right=(1,),
            ),
        ),
    )


def _calibrated(p: Floats | None, numbers: dict[str, Any]) -> str:
    if p is None:
        return page.section(
            "Calibration", "This estimator has no p-values; lookalike's own do, and la.Ensemble."
        )
    told = numbers["calibration"]
    share = np.histogram(p, np.linspace(0, 1, 21))[0] / len(p)
    level = np.full(20, 0.05)
    picture = svg.steps(
        "p-values of the rows, and what they would be among normal rows", [share, level], ("p = 0", "1")
    )
    return page.section(
        "Calibration",
        f"A p-value is the share of normal rows that are at least as odd, counted on {told['rows']:,.0f} "
        "rows held out of the fit. Among normal rows it is uniform: a heap at 0 are anomalies, or normal "
        "rows that have changed.",
        page.beside(
            page.figure("Rows by p-value", "Filled: these rows. Line: normal rows.", picture, kind="one"),
            page.table(
                "Rows with a p-value of at most so much.",
                ("p at most", "These rows", "Normal rows"),
                [(f"{one['p']:g}", percent(one["share"]), percent(one["p"], 0)) for one in told["at_most"]],
                right=(1, 2),
            ),
        ),
    )


def _oddest(numbers: dict[str, Any], why_not: str) -> str:
    rows = []
    for one in numbers["oddest"]:
        why = "; ".join(
            f"{r['column']} = {svg.cut(r['value'], 40)} (expected {svg.cut(r['expected'], 40)})"
            for r in one["reasons"]
        )
        call = page.marked("alarm", "anomaly") if one["anomaly"] else "normal"
        p = "–" if one["p"] is None else f"{one['p']:.2g}"
        rows.append((f"{one['row']:,}", f"{one['score']:.4g}", p, call, why))
    return page.section(
        "The oddest rows",
        why_not or "With the columns to blame most, what they hold and what was expected there.",
        page.table(
            "Rows are counted from 0.", ("Row", "Score", "p", "Called", "Why"), rows, right=(1, 2), below=4
        ),
    )
