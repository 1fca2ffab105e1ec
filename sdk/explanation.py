"""Why rows are odd: each column's share of the energy, and what was expected in its place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.frames import open_frame
from lookalike.streaming import rows_of
from lookalike.values import to_objects

_SHOWN_ROWS = 10


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Why rows are as odd as they are.

    Attributes
    ----------
    columns : list
        Names of the columns that were modelled.
    shares : ndarray of shape (n_rows, n_columns), float64
        Each column's part of the row's energy, in nats; the parts add up to `anomaly_score`.
    expected : DataFrame, Table or ndarray
        What the model would have expected in place of each value.
    observed : DataFrame, Table or ndarray
        The rows.
    """

    columns: list[Any]
    shares: NDArray[np.float64]
    expected: Any
    observed: Any
    names: tuple[Sequence[Any], Sequence[Any]] = field(default=((), ()))
    """What fit called the columns of `observed` and of `expected`, for tables without those names."""

    def top(self, k: int = 3) -> list[list[tuple[Any, float, Any, Any]]]:
        """For each row, the `k` columns of the largest share: name, share, value, value expected."""
        return self._top(k, len(self.shares))

    def _top(self, k: int, n: int) -> list[list[tuple[Any, float, Any, Any]]]:
        order = np.argsort(-self.shares[:n], axis=1, kind="stable")[:, :k]
        names = [self.columns[j] for j in np.unique(order)]
        seen = _cells(rows_of(self.observed, 0, n), names, self.names[0])
        usual = _cells(rows_of(self.expected, 0, n), names, self.names[1])
        return [
            [
                (name, float(self.shares[i, j]), seen[name][i], usual[name][i])
                for j, name in ((j, self.columns[j]) for j in row)
            ]
            for i, row in enumerate(order)
        ]

    def __repr__(self) -> str:
        n, many = len(self.shares), len(self.columns)
        lines = [f"Explanation of {n} row{'s'[: n != 1]} by {many} column{'s'[: many != 1]}"]
        for i, row in enumerate(self._top(3, min(n, _SHOWN_ROWS))):
            parts = (
                f"{name}={_short(seen)} (expected {_short(usual)}, {share:+.3g})"
                for name, share, seen, usual in row
            )
            lines.append(f"  row {i}, energy {self.shares[i].sum():.4g}: " + ", ".join(parts))
        if n > _SHOWN_ROWS:
            lines.append(f"  ... and {n - _SHOWN_ROWS} more")
        return "\n".join(lines)


def _cells(table: Any, wanted: Sequence[Any], order: Sequence[Any]) -> dict[Any, list[Any]]:
    """Columns as Python objects; those of a table without these names are told by their order."""
    frame = open_frame(table)
    position = {name: i for i, name in enumerate(frame.names)}
    if frame.container == "numpy" or position.keys().isdisjoint(order):
        position = {name: i for i, name in enumerate(order)}
    return {name: to_objects(frame.column(position[name])) for name in wanted}


def _short(value: Any) -> str:
    if value is None:
        return "missing"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
