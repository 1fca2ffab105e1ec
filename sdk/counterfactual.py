"""The nearest normal row: as few columns as it takes are hidden and drawn anew, given the others.

The aims are those of Wachter, Mittelstadt and Russell, "Counterfactual explanations without opening the black
box", Harvard Journal of Law & Technology 31(2), 2018, arXiv 1711.00399: near, and sparse. The way is greedy:
the column to blame most is hidden, then the most blamed of what was drawn, until a draw is normal. At the end
each column goes back to what it was if the row stays normal.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lookalike.explanation import cells_of, shown
from lookalike.replacing import AT_ONCE, Scoring, legal, put, split
from lookalike.schema import Table
from lookalike.streaming import rows_of

_SHOWN_ROWS = 10


@dataclass(frozen=True, eq=False, repr=False)
class Counterfactual:
    """The nearest normal rows that were found.

    Attributes
    ----------
    rows : DataFrame, Table or ndarray
        The rows with some values replaced; in all else as they were given.
    columns : list
        Names of the columns that were modelled.
    changed : ndarray of shape (n_rows, n_columns), bool
        Which values were replaced.
    scores : ndarray of shape (n_rows,), float64
        Of `rows`, as `score_samples` has them.
    before : ndarray of shape (n_rows,), float64
        Scores of the rows as they were given.
    threshold : float
        Rows that score below are anomalies.
    observed : DataFrame, Table or ndarray
        The rows as they were given.
    """

    rows: Any
    columns: list[Any]
    changed: NDArray[np.bool_]
    scores: NDArray[np.float64]
    before: NDArray[np.float64]
    threshold: float
    observed: Any
    names: list[Any] = field(default_factory=list)
    """What fit called the columns, for tables without those names."""

    @property
    def normal(self) -> NDArray[np.bool_]:
        """Which of `rows` are normal, shape (n_rows,); the others could not be made so."""
        return self.scores >= self.threshold

    def changes(self) -> list[dict[Any, tuple[Any, Any]]]:
        """For each row, the columns that changed, with the value before and after."""
        return self._changes(len(self.scores))

    def _changes(self, n: int) -> list[dict[Any, tuple[Any, Any]]]:
        wanted = [self.columns[j] for j in np.flatnonzero(self.changed[:n].any(0))]
        was = cells_of(rows_of(self.observed, 0, n), wanted, self.names)
        now = cells_of(rows_of(self.rows, 0, n), wanted, self.names)
        return [
            {name: (was[name][i], now[name][i]) for name, new in zip(self.columns, row, strict=True) if new}
            for i, row in enumerate(self.changed[:n])
        ]

    def __repr__(self) -> str:
        n, odd = len(self.scores), int((self.before < self.threshold).sum())
        still = int((~self.normal).sum())
        head = f"Counterfactual of {n} row{'s'[: n != 1]}: {odd} odd, of which {odd - still} made normal"
        lines = [f"{head} (energy up to {-self.threshold:.4g})"]
        for i, change in enumerate(self._changes(min(n, _SHOWN_ROWS))):
            what = ", ".join(f"{name} {shown(a)} -> {shown(b)}" for name, (a, b) in change.items())
            energy = f"energy {-self.before[i]:.4g}"
            if self.before[i] >= self.threshold:
                lines.append(f"  row {i}, {energy}: normal as it is")
            elif self.normal[i]:
                lines.append(f"  row {i}, {energy} -> {-self.scores[i]:.4g}: {what}")
            else:
                lines.append(
                    f"  row {i}, {energy}: not made normal; {-self.scores[i]:.4g} with "
                    + (what or "no change")
                )
        if n > _SHOWN_ROWS:
            lines.append(f"  ... and {n - _SHOWN_ROWS} more")
        return "\n".join(lines)


class Drawing(Protocol):
    """What completes rows."""

    def _given(self, table: Table) -> Any: ...

    def _complete(
        self, rows: Any, known: tuple[NDArray[np.bool_], NDArray[np.bool_]], seed: int, impute: bool
    ) -> Table: ...


@dataclass
class Search:
    """Rows on their way to normal.

    Attributes
    ----------
    model : Scoring
    drawing : Drawing
    rows : the rows, as `model` scores them
    table : Table
        The same, as arrays.
    threshold : float
        Score to reach.
    most : int
        Columns that may change.
    free : ndarray of shape (n_columns,), bool
        Which these may be.
    n_draws, seed : int
    """

    model: Scoring
    drawing: Drawing
    rows: Any
    table: Table
    threshold: float
    most: int
    free: NDArray[np.bool_]
    n_draws: int
    seed: int

    def run(self, blame: NDArray[np.float64]) -> tuple[Table, NDArray[np.bool_]]:
        """Search, given what is to blame, (n, n_columns): the rows found, and which columns changed.

        A row that does not become normal comes back with the best score that was found.
        """
        n, d = len(self.table), len(self.free)
        hidden = np.zeros((n, d), dtype=bool)
        best, scores = Table(self.table.numbers.copy(), self.table.ids.copy()), np.full(n, -np.inf)
        active = np.arange(n)
        block = max(AT_ONCE // (self.n_draws * d), 1)
        for turn in range(min(self.most, int(self.free.sum()))):
            allowed = np.where(hidden[active] | ~self.free, -np.inf, blame[active])
            hidden[active, allowed.argmax(1)] = True
            for start in range(0, len(active), block):
                at = active[start : start + block]
                found, score, shares = self._redrawn(at, hidden[at], (self.seed + turn) % 2**64)
                better = score > scores[at]
                at = at[better]
                best.numbers[at], best.ids[at] = found.numbers[better], found.ids[better]
                scores[at], blame[at] = score[better], shares[better]
            active = active[scores[active] < self.threshold]
            if not len(active):
                break
        return best, self._needed(best, scores)

    def _redrawn(
        self, index: NDArray[np.int64], hidden: NDArray[np.bool_], seed: int
    ) -> tuple[Table, NDArray[np.float64], NDArray[np.float64]]:
        """Of several draws of what is hidden the nearest normal one, or the best if none is."""
        each, schema = np.repeat(index, self.n_draws), self.model.schema_
        table, cells = self.table.rows(each), split(np.repeat(hidden, self.n_draws, axis=0), schema)
        blank = np.array([column.blank for column in schema.category_columns], dtype=np.int64)
        known = ~(np.isnan(table.numbers) | cells[0]), ~((table.ids == blank) | cells[1])
        given = Table(np.where(known[0], table.numbers, np.nan), np.where(known[1], table.ids, blank))
        drawn = self.drawing._complete(self.drawing._given(given), known, seed, impute=True)
        drawn = put(legal(drawn, cells, schema), cells, table)
        shares, _ = self.model._shares(self.model._replaced(self.rows.rows(each), drawn, cells), 0)
        score = -shares.sum(1)
        normal = score >= self.threshold
        merit = np.where(normal, -self._distance(drawn, table), score)
        order = np.lexsort((-merit, ~normal, each))  # by row, then normal ones first
        first = order.reshape(-1, self.n_draws)[:, 0]
        return drawn.rows(first), score[first], shares[first]

    def _distance(self, a: Table, b: Table) -> NDArray[np.float64]:
        """Categories that differ, and differences of numbers in ranges of fit."""
        span = np.array([c.high - c.low for c in self.model.schema_.number_columns])
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            apart = np.abs(a.numbers - b.numbers) / span
        apart = np.where(self._numbers_differ(a, b), np.nan_to_num(apart, nan=1.0), 0.0)
        return apart.sum(1) + (a.ids != b.ids).sum(1)

    @staticmethod
    def _numbers_differ(a: Table, b: Table) -> NDArray[np.bool_]:
        return (a.numbers != b.numbers) & ~(np.isnan(a.numbers) & np.isnan(b.numbers))

    def _needed(self, found: Table, scores: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Columns that differ, (n, n_columns), without those that can go back to what they were."""
        mine = self.table
        changed = np.concatenate([self._numbers_differ(found, mine), found.ids != mine.ids], 1)
        for j in np.flatnonzero(changed.any(0)):
            index = np.flatnonzero((scores >= self.threshold) & changed[:, j] & (changed.sum(1) > 1))
            if not len(index):
                continue
            fewer = changed[index].copy()
            fewer[:, j] = False
            cells = split(fewer, self.model.schema_)
            rows = self.model._replaced(self.rows.rows(index), found.rows(index), cells)
            still = -self.model._shares(rows, 0)[0].sum(1) >= self.threshold
            changed[index[still], j] = False
        return changed
