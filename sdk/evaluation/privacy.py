"""What synthetic rows give away of the rows that were learned: copies, closeness, and an attack.

All three compare rows that were fitted with rows held out, which have the same distribution: where synthetic
rows are nearer to the former, the model has learned rows by heart. None of them proves the contrary, and
distances are known to miss what attacks find (Yao, Krčo, Ganev and de Montjoye, "The DCR delusion: measuring
the privacy risk of synthetic data", ESORICS 2025, arXiv 2505.01524).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

from lookalike import noise
from lookalike.copies import digests
from lookalike.evaluation.page import Level
from lookalike.schema import Table

Floats = NDArray[np.float64]

MOST_LEVELS = 64  # of a category that have a direction of their own
NEAR = 1e-6  # distances below this are none
Z = 1.96  # standard errors on each side of an interval of 95 %
ALARM_Z = 2.58  # standard errors beyond what chance does, 99.5 % of the time
LARGE = 0.05  # more than chance, of shares and of an AUC; any more of copies, and see FOUND
FALSE_ALARMS, FOUND = 0.01, 0.02  # of the attack, and what it finds beyond these


def copied(real: Table, rows: Table) -> NDArray[np.bool_]:
    """Which rows equal a real one in every column, (n,)."""
    return np.isin(digests(rows), digests(real))


class Space:
    """A place for each row, so that rows can be near: numbers by rank, levels apart from each other.

    Parameters
    ----------
    real : Table
        Ranks are those among these rows.
    sizes : sequence of int
        How many ids each category has.
    """

    def __init__(self, real: Table, sizes: Sequence[int]) -> None:
        self.sorted = [np.sort(column[~np.isnan(column)]) for column in real.numbers.T]
        self.sizes = [min(size, MOST_LEVELS) for size in sizes]

    def __call__(self, table: Table) -> Floats:
        """Coordinates, (n, n_coordinates): columns differ by 1 at most, levels always."""
        parts = []
        for known, column in zip(self.sorted, table.numbers.T, strict=True):
            gone = np.isnan(column)
            ends = [np.searchsorted(known, column, side=side) for side in ("left", "right")]
            rank = (ends[0] + ends[1]) / max(2 * len(known), 1)
            parts.append(np.column_stack([np.where(gone, 0.5, rank), gone]))
        for size, ids in zip(self.sizes, table.ids.T, strict=True):
            parts.append(np.eye(size)[ids.clip(max=size - 1)] * 0.5**0.5)
        return np.concatenate(parts, axis=1)


def nearest(
    known: Floats, rows: Floats, barred: NDArray[np.int64] | None = None
) -> tuple[Floats, NDArray[np.int64]]:
    """Distance of each row, (n,), to the nearest of the known ones, and which that is.

    `barred` names one of the known for each row that does not count.
    """
    search = NearestNeighbors(n_neighbors=min(2, len(known)), algorithm="brute").fit(known)
    found = search.kneighbors(rows, return_distance=False)
    place = found[:, 0] if barred is None else np.where(found[:, 0] == barred, found[:, -1], found[:, 0])
    # Worked out again: the fast way to find them leaves no distance at 0.
    return np.sqrt(((rows - known[place]) ** 2).sum(1)), place


class Share(NamedTuple):
    """A share with an interval of 95 %, and how to take it."""

    value: float
    low: float
    high: float
    level: Level


def level(excess: float, error: float, large: float) -> Level:
    """Look at what is more than chance does, of this standard error; an alarm if it is large as well."""
    if excess <= ALARM_Z * error:
        return "good"
    return "alarm" if excess > large else "look"


def copies(real: Table, synthetic: Table, held_out: Table) -> tuple[float, float, Level]:
    """Share of synthetic rows, and of those held out, that equal a real one; more of the former alarms."""
    shares = [float(copied(real, rows).mean()) for rows in (synthetic, held_out)]
    n, m = len(synthetic), len(held_out)
    both = (n * shares[0] + m * shares[1]) / (n + m)
    error = np.sqrt(both * (1 - both) * (1 / n + 1 / m))
    return shares[0], shares[1], level(shares[0] - shares[1], float(error), 0.0)


def closeness(real: Floats, held_out: Floats, synthetic: Floats) -> Share:
    """Share of synthetic rows that are nearer to a real row than to one held out, of equally many.

    0.5 where rows were not learned by heart: real rows and those held out could then be exchanged, so that
    each synthetic row's nearest is one or the other by lot. The interval is that of these lots; it is wide
    where few rows are nearest to many.
    """
    sides = [nearest(known, synthetic) for known in (real, held_out)]
    wins = np.sign(sides[1][0] - sides[0][0])  # ties count for neither
    value = 0.5 + 0.5 * float(wins.mean())
    weight = [
        np.bincount(place[wins == sign], minlength=len(real)) / len(synthetic)
        for (_, place), sign in zip(sides, (1, -1), strict=True)
    ]
    error = 0.5 * float(np.sqrt((np.concatenate(weight) ** 2).sum()))
    low, high = max(value - Z * error, 0.0), min(value + Z * error, 1.0)
    return Share(value, low, high, level(value - 0.5, error, LARGE))


class Attack(NamedTuple):
    """How well an attacker tells rows that were fitted from others.

    Attributes
    ----------
    auc : Share
        0.5 is chance.
    found : Share
        Of the rows fitted, at 1 % false alarms; 0.01 is chance.
    curve : ndarray of shape (2, n)
        False alarms and rows found, at rising numbers of alarms.
    """

    auc: Share
    found: Share
    curve: Floats


def attack(real: Floats, held_out: Floats, synthetic: Floats, seed: int) -> Attack:
    """Tell real rows, which were fitted, from equally many held out, by the synthetic rows.

    A row counts as fitted the more, the denser synthetic rows are there than rows are by right: the ratio of
    both densities (van Breugel, Sun, Qian and van der Schaar, "Membership inference attacks against synthetic
    data through overfitting detection", AISTATS 2023, arXiv 2302.12580). Densities are told by the nearest
    synthetic row and the nearest row held out. So that both kinds fare alike, each row has one of those held
    out that does not count: itself, or one by lot.
    """
    n = len(held_out)
    lots = (noise.uniforms(seed, 0, len(real), 1)[:, 0] * n).astype(np.int64)
    scores = []
    for rows, barred in ((real, lots), (held_out, np.arange(n))):
        usual, near = nearest(held_out, rows, barred)[0], nearest(synthetic, rows)[0]
        scores.append(np.log((usual + NEAR) / (near + NEAR)))
    fitted, others = scores
    auc = float(roc_auc_score(np.repeat([1, 0], [len(real), n]), np.concatenate(scores)))
    error = float(np.sqrt((len(real) + n + 1) / (12 * len(real) * n)))
    limit = np.sort(others)[::-1][min(int(FALSE_ALARMS * n), n - 1)]
    found = float((fitted > limit).mean())
    chance = float(np.sqrt(FALSE_ALARMS * (1 - FALSE_ALARMS) * (1 / len(real) + 1 / n)))
    own = float(np.sqrt(found * (1 - found) / len(real)))
    places = np.sort(np.concatenate(scores))[::-1]
    curve = np.array([[(side > place).mean() for place in _few(places)] for side in (others, fitted)])
    return Attack(
        Share(auc, auc - Z * error, auc + Z * error, level(auc - 0.5, error, LARGE)),
        Share(
            found,
            max(found - Z * own, 0.0),
            min(found + Z * own, 1.0),
            level(found - FALSE_ALARMS, chance, FOUND),
        ),
        np.column_stack([curve, np.ones(2)]),
    )


def _few(values: Floats, most: int = 100) -> Floats:
    """At most so many of sorted values, the first and the last among them."""
    return values[np.linspace(0, len(values) - 1, min(len(values), most)).astype(np.int64)]
