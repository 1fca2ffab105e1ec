"""Why rows are odd: each column's share of the energy, and what was expected in its place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Explanation:
    """Why rows are as odd as they are.

    Attributes
    ----------
    columns : list of str
        Columns that were modelled.
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

    def top(self, k: int = 3) -> list[list[tuple[Any, float, Any, Any]]]:
        """For each row, the `k` columns of the largest share: name, share, value, value expected."""
        order = np.argsort(-self.shares, axis=1, kind="stable")[:, :k]
        seen = {name: _values(self.observed, name, i) for i, name in enumerate(self.columns)}
        usual = {name: _values(self.expected, name, i) for i, name in enumerate(self.columns)}
        return [
            [
                (
                    self.columns[j],
                    float(self.shares[i, j]),
                    seen[self.columns[j]][i],
                    usual[self.columns[j]][i],
                )
                for j in row
            ]
            for i, row in enumerate(order)
        ]

    def __repr__(self) -> str:
        lines = [f"Explanation of {len(self.shares)} rows by {len(self.columns)} columns"]
        for i, row in enumerate(self.top()[:10]):
            parts = (f"{name}={seen} (expected {usual}, +{share:.3g})" for name, share, seen, usual in row)
            lines.append(f"  row {i}, energy {self.shares[i].sum():.4g}: " + ", ".join(parts))
        if len(self.shares) > 10:
            lines.append(f"  ... and {len(self.shares) - 10} more")
        return "\n".join(lines)


def _values(table: Any, name: Any, position: int) -> Any:
    """One column as something to index by row."""
    if isinstance(table, (np.ndarray, list, tuple)):
        return np.asarray(table)[:, position]
    return nw.from_native(table, eager_only=True)[name].to_list()
