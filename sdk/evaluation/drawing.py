"""Columns and pairs of columns, real and synthetic ones beside each other."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lookalike.evaluation import page, svg
from lookalike.evaluation.comparison import Comparison
from lookalike.evaluation.svg import percent
from lookalike.explanation import shown
from lookalike.levelled import Levelled
from lookalike.measured import Measured
from lookalike.values import to_objects

Floats = NDArray[np.float64]

HISTOGRAM, MAP, LEVELS = 40, 20, 8  # bins of a number, of a number in a map, levels
FEW_VALUES = 12  # up to so many distinct whole numbers are drawn as levels
TAIL = 0.005  # of real values at each end, beyond which values share the outermost bins


def column(found: Comparison, i: int) -> str:
    """A figure of one column."""
    kind, told = found.columns[i], found.numbers["shape"]["columns"][i]
    words = f"error {percent(told['synthetic'])}, floor {percent(told['floor'])}"
    gaps = told["missing"]
    if gaps["real"] or gaps["synthetic"]:
        words += f"; missing {percent(gaps['real'])}, synthetic {percent(gaps['synthetic'])}"
    label, sides = f"{kind.name}: {words}", (found.real, found.synthetic)
    if isinstance(kind, Measured):
        picture = _histogram(kind, [side.numbers[:, i] for side in sides], label)
    else:
        assert isinstance(kind, Levelled)
        ids = [side.ids[:, i - len(found.schema.number_columns)] for side in sides]
        picture = svg.levels(label, *_levels(kind, ids))
    return page.figure(str(kind.name), words, picture)


def _histogram(column: Measured, values: list[Floats], label: str) -> str:
    present = [side[~np.isnan(side)] for side in values]
    few = np.unique(present[0])
    if not len(few):
        return svg.picture(label, svg.text(svg.LEFT, 20, "no real value among these rows"), 40)
    if len(few) <= FEW_VALUES and not (few % 1).any():
        shares = [
            np.array([(side == value).mean() if len(side) else 0.0 for value in few]) for side in present
        ]
        return svg.levels(label, [_written(column, value) for value in few.tolist()], shares)
    edges = _edges(present[0], HISTOGRAM)
    counts = [np.histogram(side.clip(edges[0], edges[-1]), edges)[0] / max(len(side), 1) for side in present]
    return svg.steps(label, counts, (_written(column, edges[0]), _written(column, edges[-1])))


def _edges(present: Floats, n: int) -> Floats:
    low, high = np.quantile(present, [TAIL, 1 - TAIL])
    return np.linspace(low, high, n + 1) if low < high else np.linspace(low - 0.5, low + 0.5, n + 1)


def _written(column: Measured, value: float) -> str:
    return shown(to_objects(column.decode(np.array([value])))[0])


def _levels(column: Levelled, ids: list[NDArray[np.int64]]) -> tuple[list[str], list[Floats]]:
    """Shares of the most frequent levels; of the others as one, of those never seen, and of the missing."""
    shares = [np.bincount(side, minlength=len(column.levels) + 2) / len(side) for side in ids]
    top = min(len(column.levels), LEVELS if len(column.levels) <= LEVELS else LEVELS - 1)
    names = [_level(column, level) for level in range(top)]
    parts = [[*share[:top], *_rest(column, share, top)] for share in shares]
    names += [f"{len(column.levels) - top} others", "never seen", "missing"]
    kept = [i for i in range(len(names)) if i < top or any(part[i] > 0 for part in parts)]
    return [names[i] for i in kept], [np.array(part)[kept] for part in parts]


def _rest(column: Levelled, share: Floats, top: int) -> tuple[float, float, float]:
    return float(share[top : column.unseen].sum()), float(share[column.unseen]), float(share[column.blank])


def _level(column: Levelled, level: int) -> str:
    if level == column.unseen:
        return "never seen"
    return shown(to_objects(column.decode(np.array([level])))[0])


def maps(found: Comparison, a: int, b: int) -> list[str]:
    """Where rows lie by two columns: of real rows, and of synthetic ones."""
    (x, across), (y, up) = (_places(found, j) for j in (a, b))
    size = [max(int(side.max()) for side in places) + 1 for places in (x, y)]
    shares = []
    for i, j in zip(x, y, strict=True):
        here = (i >= 0) & (j >= 0)
        counts = np.bincount(i[here] * size[1] + j[here], minlength=size[0] * size[1])
        shares.append((counts / max(here.sum(), 1)).reshape(size))
    top = float(np.quantile(shares[0][shares[0] > 0], 0.98)) if shares[0].any() else 1.0
    names = [found.columns[j].name for j in (a, b)]
    return [
        svg.shades(f"{names[0]} and {names[1]}, {who} rows", share, across, up, who, top)
        for who, share in zip(("real", "synthetic"), shares, strict=True)
    ]


def _places(found: Comparison, j: int) -> tuple[list[NDArray[np.int64]], list[str]]:
    """Bin of each real and of each synthetic row, -1 where it has none; words for the bins or their ends."""
    column, d, sides = found.columns[j], len(found.schema.number_columns), (found.real, found.synthetic)
    if isinstance(column, Measured):
        values = [side.numbers[:, j] for side in sides]
        present = values[0][~np.isnan(values[0])]
        edges = _edges(present if len(present) else np.zeros(1), MAP)
        bins = [np.searchsorted(edges[1:-1], np.nan_to_num(side), side="right") for side in values]
        ends = [_written(column, edge) for edge in edges[[0, -1]].tolist()]
        return [np.where(np.isnan(side), -1, at) for side, at in zip(values, bins, strict=True)], ends
    assert isinstance(column, Levelled)
    ids = [side.ids[:, j - d] for side in sides]
    there = np.unique(np.concatenate(ids))
    words = [_level(column, level) for level in there[:LEVELS].tolist()]
    if len(there) > LEVELS:
        words[-1] = "others"
    return [np.searchsorted(there, side).clip(max=LEVELS - 1) for side in ids], words
