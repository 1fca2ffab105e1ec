"""Pictures of scores, of reasons, of generated rows beside real ones, and of a fit (extra ``plot``).

They are drawn on matplotlib's figures and axes themselves, without pyplot: nothing is opened, no state
is left, and a server without a display will do. What is returned can be saved with ``figure.savefig``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

from lookalike.errors import SchemaError, did_you_mean, require
from lookalike.explanation import Explanation, shown

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

REAL, GENERATED, ALARM = "#31688e", "#e8833a", "#b5223c"
N_BINS = 60
N_MARKED = 10  # oddest rows that get a mark
N_LEVELS = 8  # of a category that get a bar
FAR = 25.0  # interquartile ranges below the median; lower scores share the first bar
FEW_VALUES = 12  # up to so many distinct whole numbers are drawn as bars
COLOURS = ("#31688e", "#e8833a", "#35b779", "#b5223c", "#7a4fa3", "#8a8a8a")
LONGEST_NAME, LONGEST_VALUE = 30, 34  # letters of a column's name, and of a value
TAIL = 0.005  # of real values at each end, beyond which values share the outermost bars


class Scorer(Protocol):
    """A fitted outlier detector, of lookalike or of scikit-learn."""

    offset_: float

    def score_samples(self, X: Any) -> Any: ...


class Fitted(Protocol):
    """A fitted estimator that remembers its losses."""

    loss_curve_: list[float]
    history_: Any


def plot_scores(estimator: Scorer, X: Any, ax: Axes | None = None) -> Axes:
    """Draw how the scores of rows are distributed, the threshold, and the ten oddest rows.

    Parameters
    ----------
    estimator : fitted estimator
        Its `offset_` is the threshold, told with the p-value that rows below it have at most.
    X : DataFrame, pyarrow.Table or ndarray
        Rows to score; or their scores, shape (n_rows,), as `score_samples` returned them.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a figure of its own.

    Returns
    -------
    matplotlib.axes.Axes
        Counts are on a logarithmic axis, since anomalies are few.
    """
    ax = _axes((7, 4)) if ax is None else ax
    given = isinstance(X, np.ndarray) and X.ndim == 1
    scores = np.asarray(X if given else estimator.score_samples(X), dtype=np.float64)
    threshold = estimator.offset_
    below = scores < threshold
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
    end = max(scores.min(), middle - FAR * max(high - low, 1e-12))
    drawn = scores.clip(min=end)
    bins = np.histogram_bin_edges(drawn, N_BINS).tolist()
    if bins[0] < threshold < bins[-1]:  # no bar has both colours
        bins[1 + int(np.argmin(np.abs(np.array(bins[1:-1]) - threshold)))] = threshold
    ax.hist(drawn[~below], bins, color=REAL, label=f"{(~below).sum():,} called normal")
    ax.hist(drawn[below], bins, color=ALARM, label=f"{below.sum():,} called anomalies ({below.mean():.1%})")
    calibration = getattr(estimator, "calibration_", None)
    rate = "" if calibration is None else float(calibration.p_values(np.nextafter(threshold, -np.inf)))
    share = f" (beyond it {rate:.1%} of normal rows)" if rate else ""
    ax.axvline(threshold, color="0.2", lw=1, ls="--", label=f"threshold {threshold:.4g}{share}")
    odd = np.sort(scores)[:N_MARKED]
    # Drawn in shares of the axis' height, just above its foot.
    ax.plot(
        odd.clip(min=end),
        np.full(len(odd), 0.03),
        "v",
        color="0.1",
        ms=5,
        transform=ax.get_xaxis_transform(),
        label=f"the {len(odd)} oddest",
    )
    ax.set_yscale("log")
    ax.set_xlabel("score (left is odder" + (", lower ones at the edge)" if end > scores.min() else ")"))
    ax.set_ylabel("rows")
    # Above the bars, for they may stand anywhere below.
    ax.legend(frameon=False, fontsize="small", loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def plot_explanation(explanation: Explanation, row: int = 0, k: int = 8, ax: Axes | None = None) -> Axes:
    """Draw why a row is as odd as it is: what each column holds, and what was expected there.

    Parameters
    ----------
    explanation : Explanation
        As `explain` returned it.
    row : int
        Position of the row, from 0; negative ones count from the last.
    k : int
        Columns to draw, the most to blame at the top; the others share one bar.
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a figure of its own.

    Returns
    -------
    matplotlib.axes.Axes
        For each column its share of the energy, and how far the energy would fall with the expected value.

    Raises
    ------
    IndexError
        If there is no such row.
    """
    n, many = explanation.shares.shape
    if not -n <= row < n:
        raise IndexError(f"row must be one of the {n} that were explained, from 0, got {row}.")
    row = row % n
    (parts,) = explanation.top_of(slice(row, row + 1), k)
    ax = _axes((7.5, 1.7 + 0.52 * (len(parts) + (many > k)))) if ax is None else ax
    order = explanation.order()[row]
    shares, falls = explanation.shares[row], explanation.falls[row]
    words = [_words(name, seen, usual) for name, _, seen, usual in parts]
    bars = [(float(shares[j]), float(falls[j])) for j in order[:k]]
    if many > k:
        words.append(f"{many - k} other column{'s'[: many - k != 1]}")
        bars.append((float(shares[order[k:]].sum()), np.nan))
    place = np.arange(len(bars))
    ax.barh(place - 0.19, [share for share, _ in bars], 0.36, color=REAL, label="share of the energy")
    untried = " (none: not tried)" if np.isnan(falls[order[:k]]).any() else ""
    ax.barh(
        place + 0.19,
        [fall for _, fall in bars],
        0.36,
        color=GENERATED,
        label=f"fall with the expected value{untried}",
    )
    ax.axvline(0, color="0.2", lw=0.8)
    ax.set_yticks(place, words, fontsize="small")
    ax.set_ylim(len(bars) + 0.5, -0.6)  # room for the legend
    energy, most = shares.sum(), -explanation.threshold
    verdict = (
        ""
        if np.isnan(most)
        else f", {'odd' if energy > most else 'normal'}: normal rows have up to {most:.3g}"
    )
    ax.set_title(f"row {row}: energy {energy:.3g}{verdict}", fontsize="medium", loc="left")
    ax.set_xlabel("energy, 1 for a usual row")
    ax.legend(frameon=False, fontsize="small", loc="lower right")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    return ax


def plot_curve(
    y_true: Any,
    scores: Any | Mapping[str, Any],
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draw how well scores tell anomalies from normal rows: ROC and precision-recall curves.

    Parameters
    ----------
    y_true : array-like of shape (n_rows,)
        Which rows are anomalies: -1 among 1, as `predict` says it, or 1 (True) among 0.
    scores : array-like of shape (n_rows,), or mapping of name to such
        As `score_samples` returned them: higher is more normal. Of one detector, or of several by name.
    figure : matplotlib Figure or SubFigure, optional
        Where to draw; by default one of its own.

    Returns
    -------
    matplotlib.figure.Figure
        Areas under the curves (AUROC; average precision, AP) in the legends, dashed what chance would do.

    Raises
    ------
    ValueError
        If y_true does not hold both kinds, or scores are not one finite number a row.
    """
    odd = _anomalies(y_true)
    named = scores if isinstance(scores, Mapping) else {"": scores}
    curves = {name: _curves(odd, values, name) for name, values in named.items()}
    if figure is None:
        figure = require("matplotlib.figure", "plot", "plotting").Figure((9, 4.2), layout="constrained")
    roc, pr = figure.subplots(1, 2)
    for i, (name, curve) in enumerate(curves.items()):
        colour, lead = COLOURS[i % len(COLOURS)], f"{name}: " if name else ""
        style = "-" if i < len(COLOURS) else "--"
        roc.plot(curve.alarms, curve.recall, style, color=colour, label=f"{lead}AUROC {curve.auroc:.3f}")
        # Each precision holds from the recall before up to its own.
        pr.step(
            np.r_[0.0, curve.recall[1:]],
            np.r_[curve.precision[:1], curve.precision],
            style,
            where="pre",
            color=colour,
            label=f"{lead}AP {curve.ap:.3f}",
        )
    roc.plot([0, 1], [0, 1], ls=":", color="0.4", lw=1, label="chance")
    pr.axhline(odd.mean(), ls=":", color="0.4", lw=1, label=f"chance: {odd.mean():.1%} are anomalies")
    roc.set(xlabel="share of normal rows called anomalies", ylabel="share of anomalies found")
    pr.set(xlabel="share of anomalies found (recall)", ylabel="of those called anomalies, right (precision)")
    for ax, title in ((roc, "ROC"), (pr, "Precision and recall")):
        ax.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
        ax.set_title(title, fontsize="medium", loc="left")
        ax.legend(frameon=False, fontsize="small", loc="best")
        ax.spines[["top", "right"]].set_visible(False)
    return figure


class _Curve(NamedTuple):
    """At each threshold from the oddest row on, beginning before it: shares, and the areas."""

    alarms: NDArray[np.float64]
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]  # without the first, where nothing is called an anomaly
    auroc: float
    ap: float


def _anomalies(y_true: Any) -> NDArray[np.bool_]:
    labels = np.asarray(y_true)
    kinds = {value.item() for value in np.unique(labels)}
    if labels.ndim != 1 or kinds not in ({-1, 1}, {0, 1}):
        raise ValueError(
            "y_true must say of each row whether it is an anomaly, with both kinds among them: -1 and 1 as "
            f"predict says it, or 1 and 0; got shape {labels.shape} with {sorted(kinds, key=str)[:5]}."
        )
    return labels == (-1 if -1 in kinds else 1)


def _curves(odd: NDArray[np.bool_], scores: Any, name: str) -> _Curve:
    values = np.asarray(scores, dtype=np.float64)
    whose = f"scores of {name!r}" if name else "scores"
    if values.shape != odd.shape or not np.isfinite(values).all():
        raise ValueError(
            f"{whose} must be one finite number for each of the {len(odd)} labels, got shape {values.shape}"
            + ("." if values.shape != odd.shape else f" with {values[~np.isfinite(values)][0]}.")
        )
    order = np.argsort(values, kind="stable")
    last = np.r_[np.flatnonzero(np.diff(values[order])), len(order) - 1]  # of the rows of one score
    found, called = np.cumsum(odd[order])[last], last + 1.0
    recall, alarms = np.r_[0.0, found / odd.sum()], np.r_[0.0, (called - found) / (~odd).sum()]
    precision = found / called
    return _Curve(
        alarms,
        recall,
        precision,
        float(np.trapezoid(recall, alarms)),
        float(np.sum(np.diff(recall) * precision)),
    )


def _words(name: Any, seen: Any, usual: Any) -> str:
    """A column, what it holds and what was expected; of a group, the columns that differ."""
    if isinstance(seen, dict):
        differ = [m for m in seen if not np.array_equal(seen[m], usual[m])] or list(seen)
        seen, usual = ({member: side[member] for member in differ} for side in (seen, usual))
    value, other = (_cut(shown(side), LONGEST_VALUE) for side in (seen, usual))
    return f"{_cut(str(name), LONGEST_NAME)} = {value}\nexpected {other}"


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def plot_marginals(
    real: Any,
    generated: Any,
    columns: Sequence[Hashable] | None = None,
    figure: Figure | SubFigure | None = None,
) -> Figure | SubFigure:
    """Draw each column of real and of generated rows over each other.

    Parameters
    ----------
    real, generated : DataFrame, pyarrow.Table or ndarray of shape (n_rows, n_columns)
        Of the same columns; the number of rows may differ.
    columns : sequence of column name, optional
        Which to draw; by default all that both have. Columns of arrays are named by position.
    figure : matplotlib Figure or SubFigure, optional
        Where to draw; by default one of its own.

    Returns
    -------
    matplotlib.figure.Figure
        Numbers and times as densities, the 0.5 % at each end in the outermost bars; categories as
        shares of their top levels; the share missing above each, where any is.

    Raises
    ------
    SchemaError
        If a column is not in both.
    """
    ours, theirs = _columns(real), _columns(generated)
    names = [name for name in ours if name in theirs] if columns is None else list(columns)
    for name in names:
        for table, which in ((ours, "real"), (theirs, "generated")):
            if name not in table:
                advice = did_you_mean(name, table)
                raise SchemaError(f"column {name!r} is not among the {which} rows'.{advice}")
    if not names:
        raise SchemaError("real and generated rows have no column in common, so there is nothing to draw.")
    wide = min(4, len(names))
    tall = -(-len(names) // wide)
    if figure is None:
        figure = require("matplotlib.figure", "plot", "plotting").Figure(
            (3.2 * wide, 2.4 * tall + 0.4), layout="constrained"
        )
    grid = figure.subplots(tall, wide, squeeze=False).ravel()
    for ax, name in zip(grid, names, strict=False):
        _draw_marginal(ax, str(name), ours[name], theirs[name])
    for ax in grid[len(names) :]:
        ax.set_axis_off()
    grid[0].legend(frameon=False, fontsize="small")
    return figure


def plot_loss(estimator: Fitted, ax: Axes | None = None) -> Axes:
    """Draw the loss of a fit against its steps, and what early stopping watched.

    Parameters
    ----------
    estimator : fitted estimator
    ax : matplotlib.axes.Axes, optional
        Where to draw; by default on a figure of its own.

    Returns
    -------
    matplotlib.axes.Axes
    """
    ax = _axes((6, 3.5)) if ax is None else ax
    history = estimator.history_
    ax.plot(history.step, estimator.loss_curve_, color=REAL, label="training")
    if history.held_out:
        ax.plot(history.step, history.held_out, color=GENERATED, label="held-out rows")
        best = int(np.argmin(history.held_out))
        ax.plot(history.step[best], history.held_out[best], "o", color=GENERATED, ms=5, label="weights kept")
    ax.set_xlabel("step")
    ax.set_ylabel("loss")
    ax.legend(frameon=False, fontsize="small")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


class _Marginal(NamedTuple):
    """One column as it is drawn: quantities as an array, or levels as text; without missing values."""

    values: NDArray[Any]
    missing: float
    unit: str

    @property
    def is_quantity(self) -> bool:
        return self.values.dtype.kind in "iufM"


def _axes(size: tuple[float, float]) -> Axes:
    figure = require("matplotlib.figure", "plot", "plotting").Figure(size, layout="constrained")
    ax: Axes = figure.subplots()
    return ax


def _columns(table: Any) -> dict[Hashable, _Marginal]:
    if isinstance(table, np.ndarray):
        return {j: _quantity(column) for j, column in enumerate(np.asarray(table, dtype=np.float64).T)}
    frame = nw.from_native(table, eager_only=True)
    return {name: _marginal(frame[name]) for name in frame.columns}


def _marginal(series: nw.Series[Any]) -> _Marginal:
    """Read a column: spans of time become hours, other than quantities becomes text."""
    dtype = series.dtype
    if isinstance(dtype, nw.Duration):
        hours = series.dt.total_microseconds().cast(nw.Float64).to_numpy() / 3.6e9
        return _quantity(hours)._replace(unit="hours")
    if isinstance(dtype, nw.Datetime | nw.Date):
        present = series.drop_nulls().cast(nw.Datetime("us")).to_numpy().astype("datetime64[us]")
        return _Marginal(present, 1 - len(present) / max(len(series), 1), "")
    if dtype.is_numeric():
        return _quantity(series.cast(nw.Float64).to_numpy())
    kept = [value for value in series.to_list() if value is not None and value == value]
    return _Marginal(np.array([str(v) for v in kept], dtype=object), 1 - len(kept) / max(len(series), 1), "")


def _quantity(column: Any) -> _Marginal:
    numbers = np.asarray(column, dtype=np.float64)
    present = numbers[~np.isnan(numbers)]
    return _Marginal(present, 1 - len(present) / max(len(numbers), 1), "")


def _draw_marginal(ax: Axes, name: str, real: _Marginal, generated: _Marginal) -> None:
    holes = f" (missing: {real.missing:.1%}, {generated.missing:.1%})"
    ax.set_title(name + (holes if real.missing or generated.missing else ""), fontsize="medium")
    if not len(real.values):
        real = generated
    whole = real.values.dtype.kind == "f" and not (real.values % 1).any()
    if real.is_quantity and not (whole and len(np.unique(real.values)) <= FEW_VALUES):
        _draw_densities(ax, real, generated)
    else:
        _draw_levels(ax, real, generated)
    ax.tick_params(labelsize="small")
    ax.set_yticks([])
    ax.spines[["top", "right", "left"]].set_visible(False)


def _draw_densities(ax: Axes, real: _Marginal, generated: _Marginal) -> None:
    values, others = real.values, generated.values
    low, high = np.quantile(values.astype(np.float64), [TAIL, 1 - TAIL])
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, 40)
    counts = [np.histogram(v.astype(np.float64).clip(low, high), edges)[0] for v in (values, others)]
    axis = edges.astype(values.dtype) if values.dtype.kind == "M" else edges
    for count, colour, label in zip(counts, (REAL, GENERATED), ("real", "generated"), strict=True):
        share = count / max(count.sum(), 1)
        filled = colour == REAL
        ax.stairs(
            share, axis, fill=filled, color=colour, alpha=0.45 if filled else 1, lw=1.4, label=label
        )  # fmt: skip
    if values.dtype.kind == "M":
        dates = require("matplotlib.dates", "plot", "plotting")
        locator = dates.AutoDateLocator(maxticks=4)
        ax.xaxis.set_major_locator(locator)
        ax.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator))
    if real.unit:
        ax.set_xlabel(real.unit, fontsize="small")


def _draw_levels(ax: Axes, real: _Marginal, generated: _Marginal) -> None:
    levels, counts = np.unique(real.values, return_counts=True)
    top = levels[np.argsort(-counts, kind="stable")][:N_LEVELS]
    if real.is_quantity:
        top = np.sort(top)
    place = np.arange(len(top))
    for side, column, colour, label in (
        (-0.2, real, REAL, "real"),
        (0.2, generated, GENERATED, "generated"),
    ):
        same = column.values[:, None] == top[None, :]
        share = same.mean(0) if len(column.values) else np.zeros(len(top))
        ax.bar(place + side, share, 0.4, color=colour, alpha=0.75, label=label)
    words = [f"{level:g}" if real.is_quantity else str(level) for level in top]
    words = [word if len(word) <= 9 else word[:8] + "…" for word in words]
    ax.set_xticks(place, words, rotation=45 if max(map(len, words)) > 3 else 0)
