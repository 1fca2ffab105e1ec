"""Which cells of a column a condition allows, and how one of them is drawn.

Cells are encoded, as a `Table` has them: numbers with NaN where missing, or the ids of levels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from lookalike.values import Array

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Options:
    """Some cells.

    Parameters
    ----------
    cells : ndarray of shape (k,)
        Distinct and ascending; NaN comes last.
    shares : ndarray of shape (k,), float64
        How often each is expected; they add up to 1.
    """

    cells: Array
    shares: Floats

    def hold(self, cells: Array) -> NDArray[np.bool_]:
        """Whether each cell, (n,), is one of these."""
        return np.isin(cells, self.cells) | (np.isnan(cells) & np.isnan(self.cells[-1]))

    def draw(self, seen: Array, u: Floats) -> Array:
        """Draw one for each uniform, (n,), as often as it is among those seen, which these hold.

        What is expected counts as much as one that was seen.
        """
        counts = np.bincount(np.searchsorted(self.cells, seen), minlength=len(self.cells))
        reached = np.cumsum(counts + self.shares)
        at = np.searchsorted(reached, u * reached[-1], side="right")
        return self.cells[at.clip(max=len(self.cells) - 1)]


@dataclass(frozen=True)
class Interval:
    """Numbers from `low` to `high`, both of which the column can hold."""

    low: float
    high: float

    def hold(self, cells: Array) -> NDArray[np.bool_]:
        """Whether each cell, (n,), lies between the ends; what is missing does not."""
        return np.asarray((cells >= self.low) & (cells <= self.high))

    def draw(self, seen: Array, u: Floats) -> Array:
        """Draw one for each uniform, (n,): the quantiles of those seen, which these hold, and of the ends.

        Where none was seen that is evenly between the ends; where many are one value, it is mostly that.
        """
        knots = np.concatenate([[self.low], np.sort(seen), [self.high]])
        middles = (np.arange(len(seen)) + 0.5) / max(len(seen), 1)
        # Halved, for the difference of two numbers near the largest float would overflow.
        drawn = 2 * np.interp(u, np.concatenate([[0], middles, [1]]), knots / 2)
        return drawn.clip(self.low, self.high)  # rounding may lead beyond an end


Allowed: TypeAlias = Options | Interval
