"""Rows chosen by their odds, so that columns, and columns together, keep the shares that they had.

Odds are raked: changed by a factor for each value of a column, one column after the other, until each has its
shares (Deming and Stephan). Then as many rows are chosen, each at most once.

References
----------
W. Deming, F. Stephan. On a least squares adjustment of a sampled frequency table when the expected marginal
totals are known. Annals of Mathematical Statistics 11(4), 1940.
W. Madow. On the theory of systematic sampling, II. Annals of Mathematical Statistics 20(3), 1949.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lookalike.schema import Table
from lookalike.vetting import require

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BINS = 30  # of a number, of which the shares are kept
WIDE = 3  # of these are one where columns go together
GRID = (
    32  # values of a column where columns go together: the last is for missing, the one before for the rest
)
FEWEST_TOGETHER = 10  # rows in which two values go together; rarer ones are counted as one
MOST_PAIRS, MOST_COMPARED = 200, 5000
ROUNDS, PAIRED = 10, 5  # of raking, and those of pairs too
STEP = 5.0  # by which one round may change a weight


class Pair(NamedTuple):
    """Which values two columns hold together, and how often.

    Parameters
    ----------
    columns : tuple of two int
    cells : ndarray of shape (n_cells,), int64
        The value of the first times GRID and that of the second, rising.
    shares : ndarray of shape (n_cells + 1,)
        Of all other cells, and of each of these.
    """

    columns: tuple[int, int]
    cells: Ints
    shares: Floats

    def values(self, coarse: Sequence[Ints]) -> Ints:
        """Which of the shares each row belongs to, (n,)."""
        a, b = self.columns
        place = np.zeros(GRID * GRID, np.int64)
        place[self.cells] = np.arange(1, len(self.cells) + 1)
        return place[coarse[a] * GRID + coarse[b]]


@dataclass(frozen=True)
class Margins:
    """How often each column holds what, and what columns that depend on each other hold together.

    Parameters
    ----------
    edges : ndarray of shape (n_numbers, BINS - 1)
        Between the bins of numbers.
    n_levels : sequence of int
        Of each category; its ids go up to n + 1: one never seen, and missing.
    shares : list of ndarray of shape (n_values,)
        Of the bins of each number and of missing ones, of the ids of each category.
    pairs : list of Pair
        Those columns that tell the most of each other, first.
    """

    edges: Floats
    n_levels: Sequence[int]
    shares: list[Floats]
    pairs: list[Pair]

    @classmethod
    def fit(cls, table: Table, n_levels: Sequence[int]) -> Self:
        """Count."""
        at = np.linspace(0, 1, BINS + 1)[1:-1]
        some = [column[~np.isnan(column)] for column in table.numbers.T]
        edges = [np.quantile(column, at) if len(column) else np.zeros(len(at)) for column in some]
        empty = cls(np.array(edges).reshape(len(edges), len(at)), n_levels, [], [])
        values = empty.values(table)
        shares = [
            np.bincount(value, minlength=size) / len(table)
            for value, size in zip(values, empty.sizes, strict=True)
        ]
        return cls(empty.edges, n_levels, shares, _pairs(empty.coarse(values)))

    @property
    def sizes(self) -> list[int]:
        """How many values each column has shares of."""
        return [BINS + 1] * len(self.edges) + [n + 2 for n in self.n_levels]

    def values(self, table: Table) -> list[Ints]:
        """Which of its values each column holds, (n,)."""
        numbers = [
            np.where(np.isnan(column), BINS, np.searchsorted(edges, column, side="right"))
            for edges, column in zip(self.edges, table.numbers.T, strict=True)
        ]
        return [*numbers, *table.ids.T]

    def coarse(self, values: Sequence[Ints]) -> list[Ints]:
        """The same, in at most GRID values."""
        numbers, ids = values[: len(self.edges)], values[len(self.edges) :]
        return [np.where(v == BINS, GRID - 1, v // WIDE) for v in numbers] + [
            np.where(v == n + 1, GRID - 1, v.clip(max=GRID - 2))
            for v, n in zip(ids, self.n_levels, strict=True)
        ]

    def rake(self, weight: Floats, table: Table, n: int) -> Floats:
        """Change the weights of rows, (m,), so that columns have their shares in n chosen by them."""
        values = self.values(table)
        coarse = self.coarse(values)
        together = [(pair.values(coarse), pair.shares) for pair in self.pairs]
        alone = list(zip(values, self.shares, strict=True))
        for k in range(ROUNDS):
            # Who would be chosen more than once counts for one, or shares would be those of other rows.
            weight = np.minimum(weight, weight.sum() / n)
            # Columns on their own last: their shares are known better than those of pairs.
            for value, share in [*together, *alone] if k < PAIRED else alone:
                now = np.bincount(value, weight, minlength=len(share)) / weight.sum()
                step = np.divide(share, now, out=np.ones_like(share), where=now > 0)
                weight = weight * step.clip(1 / STEP, STEP)[value]
        return weight

    # ---- files -------------------------------------------------------------------------------------------

    def to_arrays(self) -> dict[str, NDArray[Any]]:
        """What a file keeps."""
        pairs = self.pairs
        return {
            "edges": self.edges,
            "shares": np.concatenate(self.shares),
            "columns": np.array([pair.columns for pair in pairs], np.int64).reshape(len(pairs), 2),
            "counts": np.array([len(pair.cells) for pair in pairs], np.int64),
            "cells": np.concatenate([np.zeros(0, np.int64), *(pair.cells for pair in pairs)]),
            "together": np.concatenate([np.zeros(0), *(pair.shares for pair in pairs)]),
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]], n_numbers: int, n_levels: Sequence[int]) -> Self:
        """Rebuild, or raise ArtifactError for what cannot be."""
        floats, whole = {"edges": 2, "shares": 1, "together": 1}, {"columns": 2, "counts": 1, "cells": 1}
        require(arrays.keys() == floats.keys() | whole.keys(), "its margins have other parts")
        require(
            all(arrays[k].ndim == d and np.isfinite(arrays[k]).all() for k, d in floats.items())
            and all(arrays[k].ndim == d and arrays[k].dtype == np.int64 for k, d in whole.items()),
            "its margins' parts have other types",
        )
        edges, shares, together = (arrays[k].astype(np.float64) for k in floats)
        columns, counts, cells = (arrays[k] for k in whole)
        empty = cls(edges, n_levels, [], [])
        require(
            edges.shape == (n_numbers, BINS - 1)
            and len(shares) == sum(empty.sizes)
            and (shares >= 0).all()
            and columns.shape == (len(counts), 2)
            and ((columns >= 0) & (columns < len(empty.sizes))).all()
            and ((counts >= 0) & (counts <= GRID * GRID)).all()
            and counts.sum() == len(cells) == len(together) - len(counts)
            and ((cells >= 0) & (cells < GRID * GRID)).all()
            and (together >= 0).all(),
            "its margins are not those of its columns",
        )
        apart = np.split(cells, np.cumsum(counts)[:-1]) if len(counts) else []
        shares_apart = np.split(together, np.cumsum(counts + 1)[:-1]) if len(counts) else []
        pairs = [
            Pair((int(a), int(b)), own, share)
            for (a, b), own, share in zip(columns, apart, shares_apart, strict=True)
        ]
        return cls(edges, n_levels, np.split(shares, np.cumsum(empty.sizes)[:-1]), pairs)


def _pairs(coarse: Sequence[Ints]) -> list[Pair]:
    """Count what columns hold together, and keep those that tell the most of each other."""
    every = list(combinations(range(len(coarse)), 2))
    # Of very many, evenly spread ones: to count them all takes longer than all else.
    every = (
        [every[i] for i in np.unique(np.linspace(0, len(every) - 1, MOST_COMPARED).astype(int))]
        if every
        else []
    )
    found = []
    for a, b in every:
        count = np.bincount(coarse[a] * GRID + coarse[b], minlength=GRID * GRID)
        joint = count.reshape(GRID, GRID) / len(coarse[a])
        apart = joint.sum(1, keepdims=True) * joint.sum(0)
        known = joint > 0
        told = float((joint[known] * np.log(joint[known] / apart[known])).sum())
        cells = np.flatnonzero(count >= FEWEST_TOGETHER)
        shares = count[cells] / len(coarse[a])
        found.append((told, Pair((a, b), cells, np.r_[max(1 - shares.sum(), 0.0), shares])))
    return [pair for _, pair in sorted(found, key=lambda one: -one[0])[:MOST_PAIRS]]


def without_replacement(weight: Floats, n: int, u: Floats) -> Ints:
    """Choose n of the rows, each at most once, in proportion to their weights.

    Systematic sampling in random order (Madow): shares come out nearly without noise.

    Parameters
    ----------
    weight : ndarray of shape (m,)
    n : int
        At most m.
    u : ndarray of shape (m + 1,)
        Uniforms: of the order, and where to begin.
    """
    chance = weight * (n / weight.sum())
    while (over := chance > 1).any():  # who would be drawn more than once is drawn for certain
        chance[over] = 1
        rest = chance < 1
        left = n - np.count_nonzero(~rest)
        total = chance[rest].sum()
        if not total:
            break
        chance[rest] *= left / total
    order = np.argsort(u[:-1], kind="stable")
    reached = np.cumsum(chance[order])
    return order[
        np.searchsorted(reached, (np.arange(n) + u[-1]) * (reached[-1] / n)).clip(max=len(order) - 1)
    ]
