"""How near synthetic rows come to real ones: column by column, pair by pair, to a judge, and in use.

Shape and trend are the errors of SDMetrics' column shapes and column pair trends (Patki, Wedge and
Veeramachaneni, "The Synthetic Data Vault", DSAA 2016): its scores, subtracted from one. The judge is a
classifier two-sample test (Lopez-Paz and Oquab, "Revisiting classifier two-sample tests", ICLR 2017, arXiv
1610.06545). Every figure can be had of real rows too, as if they were synthetic; that is its floor.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score

from lookalike import noise
from lookalike.critic import features
from lookalike.schema import Table

Floats = NDArray[np.float64]

BINS = 10  # of a number, in its pairs with categories
MOST_PAIRS = 5000
MOST_CELLS = 1 << 20  # of a joint table that is counted as an array
FOLDS = 3
TREES, WIDE = 200, 40  # with more columns than that the judge stops early, for speed
MOST_SHUFFLED = 200_000  # cells in which columns are shuffled, to find what the judge went by
MOST_LEVELS = 255  # that boosted trees take as categories; more of them are ordered by frequency
MOST_CLASSES = 20  # of a target; rarer ones are taken as one


def missing(table: Table, sizes: Sequence[int]) -> Floats:
    """Share of each column that is missing, (n_columns,): numbers first, as everywhere here.

    `sizes` holds how many ids each category has, the last of which means missing.
    """
    blank = np.array(sizes, dtype=np.int64) - 1
    return np.concatenate([np.isnan(table.numbers).mean(0), (table.ids == blank).mean(0)])


def shape(real: Table, other: Table, sizes: Sequence[int]) -> Floats:
    """Error of each column, (n_columns,), from 0 to 1.

    Of numbers the Kolmogorov-Smirnov distance of those present, of categories the total variation, with
    missing as a level.
    """
    numbers = [_ks(a, b) for a, b in zip(real.numbers.T, other.numbers.T, strict=True)]
    levels = [_variation(a, b, k) for a, b, k in zip(real.ids.T, other.ids.T, sizes, strict=True)]
    return np.array([*numbers, *levels])


def trend(real: Table, other: Table, sizes: Sequence[int], pairs: Sequence[tuple[int, int]]) -> Floats:
    """Error of each pair of columns, (n_pairs,), from 0 to 1.

    Of two numbers half the difference of their correlations, NaN where the real one is not defined; of other
    pairs the total variation of the joint table, numbers in `BINS` bins of the range of the real ones.
    """
    d = real.numbers.shape[1]
    ours, theirs = correlation(real.numbers), np.nan_to_num(correlation(other.numbers))
    codes, others = (binned(real, table) for table in (real, other))
    counts = [BINS + 3] * d + list(sizes)
    errors = []
    for a, b in pairs:
        if b < d:
            errors.append(abs(ours[a, b] - theirs[a, b]) / 2)
        else:
            real_at, other_at = (side[a] * counts[b] + side[b] for side in (codes, others))
            errors.append(_variation(real_at, other_at, counts[a] * counts[b]))
    return np.array(errors)


def pairs_of(n_columns: int, seed: int) -> list[tuple[int, int]]:
    """All pairs of columns, the lower number first; of too many, some at random."""
    every = list(combinations(range(n_columns), 2))
    if len(every) <= MOST_PAIRS:
        return every
    some = np.sort(np.argsort(noise.uniforms(seed, 0, len(every), 1)[:, 0])[:MOST_PAIRS])
    return [every[i] for i in some.tolist()]


def binned(real: Table, table: Table) -> list[NDArray[np.int64]]:
    """Each column in few values: numbers by equal parts of the range of the real ones, NaN the last."""
    found = []
    for column, values in zip(real.numbers.T, table.numbers.T, strict=True):
        present = column[~np.isnan(column)]
        edges = np.histogram_bin_edges(present if len(present) else np.zeros(1), BINS)
        found.append(np.where(np.isnan(values), BINS + 2, np.searchsorted(edges, values, side="right")))
    return [*found, *table.ids.T]


def correlation(numbers: Floats) -> Floats:
    """Correlations, (d, d), of each two columns over the rows that have both; NaN where one is constant."""
    here = ~np.isnan(numbers)
    n = here.sum(0).clip(min=1)
    centred = np.where(here, numbers - np.where(here, numbers, 0).sum(0) / n, 0.0)
    spread = np.sqrt((centred**2).sum(0) / n)
    x, m = centred / np.where(spread > 0, spread, 1.0), here.astype(np.float64)
    both = (m.T @ m).clip(min=1)
    mean, square = x.T @ m / both, (x**2).T @ m / both
    variance = square - mean**2
    scale = np.sqrt(np.where(variance > 1e-12, variance, np.nan))
    found: Floats = (x.T @ x / both - mean * mean.T) / (scale * scale.T)
    return found


def _ks(real: Floats, other: Floats) -> float:
    a, b = (np.sort(side[~np.isnan(side)]) for side in (real, other))
    if not (len(a) and len(b)):
        return float(len(a) != len(b))
    grid = np.concatenate([a, b])
    below = [np.searchsorted(side, grid, side="right") / len(side) for side in (a, b)]
    return float(np.abs(below[0] - below[1]).max())


def _variation(real: NDArray[np.int64], other: NDArray[np.int64], size: int) -> float:
    """Total variation distance of two columns of whole numbers below `size`."""
    if size > MOST_CELLS:  # most of so many cells are empty
        _, both = np.unique(np.concatenate([real, other]), return_inverse=True)
        real, other, size = both[: len(real)], both[len(real) :], int(both.max()) + 1
    shares = [np.bincount(side, minlength=size) / len(side) for side in (real, other)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


# ---- the judge ---------------------------------------------------------------------------------------------


class Judged(NamedTuple):
    """How well boosted trees tell rows from real ones, and by what.

    Attributes
    ----------
    auc : float
        Of rows held out; 0.5 is chance.
    falls : ndarray of shape (n_columns,)
        How far it falls when a column is shuffled among these rows.
    """

    auc: float
    falls: Floats

    @property
    def c2st(self) -> float:
        """1 where rows cannot be told from real ones, 0 where they always can."""
        return 1 - 2 * max(self.auc - 0.5, 0.0)


def judge(real: Table, other: Table, sizes: Sequence[int], seed: int) -> Judged:
    """Let boosted trees learn to tell two tables apart, by cross-fitting in `FOLDS` folds."""
    x = np.concatenate([features(real), features(other)])
    y = np.repeat([0, 1], [len(real), len(other)])
    fold = np.concatenate([noise.folds(seed, len(side), FOLDS) for side in (real, other)])
    many = x.shape[1]
    aucs, falls = [], []
    for k in range(FOLDS):
        rest, held = fold != k, np.flatnonzero(fold == k)
        trees = HistGradientBoostingClassifier(
            categorical_features=_categorical(many, sizes),
            early_stopping=True if many > WIDE else "auto",
            **_settings(seed),
        ).fit(x[rest], y[rest])
        aucs.append(roc_auc_score(y[held], trees.decision_function(x[held])))
        chance = noise.uniforms(seed, k * len(x), len(held), 2)
        some = held[np.argsort(chance[:, 0])[: max(MOST_SHUFFLED // many, 500)]]
        order = np.argsort(chance[: len(some), 1])
        whole, fall = roc_auc_score(y[some], trees.decision_function(x[some])), np.empty(many)
        for j in range(many):
            shuffled = x[some]
            shuffled[:, j] = shuffled[order, j]
            fall[j] = whole - roc_auc_score(y[some], trees.decision_function(shuffled))
        falls.append(fall)
    return Judged(float(np.mean(aucs)), np.mean(falls, axis=0))


def _settings(seed: int) -> dict[str, Any]:
    return {"max_iter": TREES, "random_state": seed % 2**32}


def _categorical(n_columns: int, sizes: Sequence[int]) -> NDArray[np.bool_]:
    return np.array([False] * (n_columns - len(sizes)) + [size <= MOST_LEVELS for size in sizes])


# ---- use ---------------------------------------------------------------------------------------------------


def predicts(train: Table, test: Table, sizes: Sequence[int], target: int, seed: int) -> float | None:
    """How well boosted trees fitted to one table predict a column of another.

    Of a category the mean area under the ROC curves of its levels, rare ones taken as one; of a number the
    root of the mean squared error, in standard deviations of the test rows. None where the test rows, less
    those without a value, hold one value alone.
    """
    d = train.numbers.shape[1]
    x, x_test = (np.delete(features(table), target, axis=1) for table in (train, test))
    told = np.delete(_categorical(d + len(sizes), sizes), target)
    if target < d:
        y, y_test = (table.numbers[:, target] for table in (train, test))
        known, known_test = ~np.isnan(y), ~np.isnan(y_test)
        spread = float(y_test[known_test].std()) if known_test.any() else 0.0
        if not spread:
            return None
        if known.sum() < 2:
            return 1.0
        trees = HistGradientBoostingRegressor(
            categorical_features=told, early_stopping=True, **_settings(seed)
        ).fit(x[known], y[known])
        error = trees.predict(x_test[known_test]) - y_test[known_test]
        return float(np.sqrt(np.mean(error**2))) / spread
    blank = sizes[target - d] - 1
    ids, ids_test = (table.ids[:, target - d] for table in (train, test))
    x, x_test = x[ids != blank], x_test[ids_test != blank]
    y, y_test = (side[side != blank].clip(max=MOST_CLASSES) for side in (ids, ids_test))
    levels = np.unique(y_test)
    if len(levels) < 2:
        return None
    if len(np.unique(y)) < 2:
        return 0.5
    # A level of one row cannot be held out for early stopping.
    frequent = np.isin(y, np.flatnonzero(np.bincount(y) > 1))
    trees = HistGradientBoostingClassifier(
        categorical_features=told, early_stopping=True, **_settings(seed)
    ).fit(x[frequent], y[frequent])
    chances = dict(zip(trees.classes_.tolist(), trees.predict_proba(x_test).T, strict=True))
    unknown = np.zeros(len(x_test))
    levels = levels[:1] if len(levels) == 2 else levels
    return float(np.mean([roc_auc_score(y_test == k, chances.get(k, unknown)) for k in levels.tolist()]))
