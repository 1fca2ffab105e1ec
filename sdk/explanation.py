"""Why rows are odd: each column's share of the energy, what would have been normal, and the energy then."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.arrays import Frame, pictures_of
from lookalike.errors import SchemaError, did_you_mean
from lookalike.frames import open_frame
from lookalike.streaming import rows_of
from lookalike.values import to_objects

_SHOWN_ROWS = 10

Groups = Mapping[Any, Sequence[Any]]
"""Columns that are blamed and replaced together, by the name of the group."""


@dataclass(frozen=True, eq=False, repr=False)
class Explanation:
    """Why rows are as odd as they are.

    Attributes
    ----------
    columns : list
        Names of the columns that were modelled; a group stands in place of its columns.
    shares : ndarray of shape (n_rows, n_columns), float64
        Each column's part of the row's energy; the parts add up to `anomaly_score`, 1 for a usual row.
    falls : ndarray of shape (n_rows, n_columns), float64
        How far the energy would fall if the column held what is expected there; negative where it
        would rise. NaN where that was not tried.
    expected : DataFrame, Table or ndarray
        What would have been normal in place of each value: given the other values where a fall is told, else
        given the whole row.
    observed : DataFrame, Table or ndarray
        The rows.
    groups : dict
        The columns of each group.
    threshold : float
        Rows that score below, so with more energy than minus this, are anomalies.
    """

    columns: list[Any]
    shares: NDArray[np.float64]
    falls: NDArray[np.float64]
    expected: Any
    observed: Any
    groups: dict[Any, list[Any]] = field(default_factory=dict)
    threshold: float = math.nan
    names: tuple[Sequence[Any], Sequence[Any]] = field(default=((), ()))
    """What fit called the columns of `observed` and of `expected`, for tables without those names."""

    def top(self, k: int = 3) -> list[list[tuple[Any, float, Any, Any]]]:
        """For each row, the `k` columns to blame most: name, share, value, value expected.

        The first is the one that the energy would fall most without; columns that were not tried follow by
        their shares. Values of a group are dicts.
        """
        return self.top_of(slice(None), k)

    def order(self) -> NDArray[np.int64]:
        """Positions in `columns`, the most to blame first, shape (n_rows, n_columns)."""
        return ranked(self.falls, self.shares)

    def top_of(self, rows: slice, k: int = 3) -> list[list[tuple[Any, float, Any, Any]]]:
        """As `top`, for some of the rows."""
        start, stop, _ = rows.indices(len(self.shares))
        order = self.order()[start:stop, :k]
        names = [self.columns[j] for j in np.unique(order)]
        wanted = [member for name in names for member in self.groups.get(name, [name])]
        seen = cells_of(rows_of(self.observed, start, stop), wanted, self.names[0])
        usual = cells_of(rows_of(self.expected, start, stop), wanted, self.names[1])
        return [
            [
                (
                    self.columns[j],
                    float(self.shares[start + i, j]),
                    self._value(seen, self.columns[j], i),
                    self._value(usual, self.columns[j], i),
                )
                for j in row
            ]
            for i, row in enumerate(order)
        ]

    def _value(self, cells: Mapping[Any, Sequence[Any]], name: Any, i: int) -> Any:
        if name in self.groups:
            return {member: cells[member][i] for member in self.groups[name]}
        return cells[name][i]

    def __repr__(self) -> str:
        n, many = len(self.shares), len(self.columns)
        lines = [f"Explanation of {n} row{'s'[: n != 1]} by {many} column{'s'[: many != 1]}"]
        order = self.order()
        for i, row in enumerate(self.top_of(slice(_SHOWN_ROWS))):
            parts = (
                f"{name}={shown(seen)} (expected {shown(usual)}, {share:+.3g}{_fall(self.falls[i, j])})"
                for j, (name, share, seen, usual) in zip(order[i], row, strict=False)
            )
            lines.append(f"  row {i}, energy {self.shares[i].sum():.4g}: " + ", ".join(parts))
        if n > _SHOWN_ROWS:
            lines.append(f"  ... and {n - _SHOWN_ROWS} more")
        return "\n".join(lines)


def ranked(falls: NDArray[np.float64], shares: NDArray[np.float64]) -> NDArray[np.int64]:
    """Columns of each row by falls; those without one follow, by shares."""
    return np.lexsort((-shares, -np.where(np.isnan(falls), -np.inf, falls)), axis=1)


def cells_of(table: Any, wanted: Iterable[Any], order: Sequence[Any]) -> dict[Any, list[Any]]:
    """Columns as Python objects; those of a table without these names are told by their order."""
    frame = open_frame(table)
    position = {name: i for i, name in enumerate(frame.names)}
    if frame.container == "numpy" or position.keys().isdisjoint(order):
        position = {name: i for i, name in enumerate(order)}
    return {name: _objects(frame, position[name]) for name in wanted}


def _objects(frame: Frame, position: int) -> list[Any]:
    pictures = pictures_of(frame, position)
    return to_objects(frame.column(position)) if pictures is None else list(pictures)


def _fall(fall: float) -> str:
    if np.isnan(fall):
        return ""
    return f", would {'fall' if fall >= 0 else 'rise'} by {abs(fall):.3g}"


def shown(value: Any) -> str:
    """A value of a cell in a line of text."""
    if value is None:
        return "missing"
    if isinstance(value, np.ndarray):
        return f"{value.shape[0]} x {value.shape[1]} pixels, {value.mean():.3g} in the mean"
    if isinstance(value, dict):
        return "(" + ", ".join(f"{name}={shown(v)}" for name, v in value.items()) + ")"
    if isinstance(value, dt.datetime) and value.time() == dt.time():
        return str(value.date())
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def units(
    names: Sequence[Any], groups: Groups | None
) -> tuple[list[Any], dict[Any, list[Any]], NDArray[np.int64]]:
    """What is blamed as one: groups and columns in none, the columns of each group, the place of each column.

    A group stands where the first of its columns stood.

    Raises
    ------
    SchemaError
        If a group holds what is no modelled column or a column of another, or has another column's name.
    """
    home: dict[Any, Any] = {}
    known = set(names)
    for group, members in (groups or {}).items():
        if isinstance(members, str) or not isinstance(members, Sequence) or not members:
            raise SchemaError(
                f"group {group!r} must be a list of columns, such as "
                f"groups={{{group!r}: {list(names[:2])!r}}}, got {members!r}."
            )
        for name in members:
            if name not in known:
                advice = did_you_mean(name, names)
                raise SchemaError(f"group {group!r} holds {name!r}, which is not modelled.{advice}")
            if name in home:
                raise SchemaError(f"column {name!r} is in group {home[name]!r} and again in {group!r}.")
            home[name] = group
        if group in known and group not in members:
            raise SchemaError(
                f"group {group!r} has the name of a column that is not in it. Rename the group."
            )
    place: dict[Any, int] = {}
    unit_of = [place.setdefault(home.get(name, name), len(place)) for name in names]
    held = {group: list(members) for group, members in (groups or {}).items()}
    return list(place), held, np.array(unit_of, dtype=np.int64)
