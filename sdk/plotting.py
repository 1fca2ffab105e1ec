"""Pictures of scores, of generated rows beside real ones, and of a fit (extra ``plot``).

They are drawn on matplotlib's figures and axes themselves, without pyplot: nothing is opened, no state
is left, and a server without a display will do. What is returned can be saved with ``figure.savefig``.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

from lookalike.errors import SchemaError, did_you_mean, require

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

REAL, GENERATED, ALARM = "#31688e", "#e8833a", "#b5223c"
N_BINS = 60
N_MARKED = 10  # oddest rows that get a mark
N_LEVELS = 8  # of a category that get a bar
FAR = 25.0  # interquartile ranges below the median; lower scores share the first bar
FEW_VALUES = 12  # up to so many distinct whole numbers are drawn as bars
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
        Its `offset_` is the threshold.
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
    below = scores < estimator.offset_
    low, middle, high = np.quantile(scores, [0.25, 0.5, 0.75])
    end = max(scores.min(), middle - FAR * max(high - low, 1e-12))
    shown = scores.clip(min=end)
    bins = np.histogram_bin_edges(shown, N_BINS).tolist()
    ax.hist(shown[~below], bins, color=REAL, label=f"{(~below).sum():,} called normal")
    ax.hist(shown[below], bins, color=ALARM, label=f"{below.sum():,} called anomalies ({below.mean():.1%})")
    ax.axvline(estimator.offset_, color="0.2", lw=1, ls="--", label=f"threshold {estimator.offset_:.4g}")
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
    ax.legend(frameon=False, fontsize="small", loc="upper left")
    ax.spines[["top", "right"]].set_visible(False)
    return ax


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
