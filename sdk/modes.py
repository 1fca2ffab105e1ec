"""Which kinds of rows a generator draws too rarely, or not at all: modes that it has dropped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHARE_MISSING, SHARE_RARE = 0.05, 0.5  # of what is expected, below which a mode is missing or rare
LEAST_EXPECTED = 8.0  # rows of a mode: of as many, chance draws none once in 3,000 times
DEVIATIONS = 3.0  # below what is expected, from which it is no chance


class Mode(NamedTuple):
    """A kind of rows.

    Attributes
    ----------
    name : str
        ``label = '3'``, or ``cluster 5`` with the labels that are most of it.
    real, made : float
        Its shares of the real and of the generated rows.
    verdict : {"", "rare", "missing"}
    """

    name: str
    real: float
    made: float
    verdict: Literal["", "rare", "missing"]


@dataclass(frozen=True, repr=False)
class Modes:
    """What `diagnose_modes` found.

    Attributes
    ----------
    labels, clusters : tuple of Mode
        Levels of categories, and clusters of rows; those that are most short of rows first.
    n_real, n_made : int
        Rows that were compared.
    """

    labels: tuple[Mode, ...]
    clusters: tuple[Mode, ...]
    n_real: int
    n_made: int

    @property
    def missing(self) -> list[str]:
        """Names of modes of which there are next to none."""
        return self._named("missing")

    @property
    def rare(self) -> list[str]:
        """Names of modes of which there are less than half as many as expected."""
        return self._named("rare")

    @property
    def covered(self) -> float:
        """Share of the real rows whose clusters are neither rare nor missing."""
        return sum(mode.real for mode in self.clusters if not mode.verdict)

    def _named(self, verdict: str) -> list[str]:
        return [mode.name for mode in (*self.labels, *self.clusters) if mode.verdict == verdict]

    def __repr__(self) -> str:
        of = len(self.labels) + len(self.clusters)
        lines = [
            f"Modes of {self.n_made:,} generated rows beside {self.n_real:,} real ones: of {of}, "
            f"{len(self.missing)} missing, {len(self.rare)} rare; {self.covered:.0%} of real rows covered"
        ]
        found = [mode for mode in (*self.labels, *self.clusters) if mode.verdict]
        width = max((len(mode.name) for mode in found), default=0)
        lines += [f"  {m.name:{width}s}  {m.verdict:7s}  {m.real:6.1%} real  {m.made:6.1%}" for m in found]
        return "\n".join(lines)


def compared(names: Sequence[str], real: Floats, made: Floats) -> tuple[Mode, ...]:
    """Judge modes by how many real and generated rows, (n_modes,), are of each.

    Both counts are drawn: the difference of two shares is measured in its own standard errors.
    """
    n, m = real.sum(), made.sum()
    shares = real / n, made / m
    expected = shares[0] * m
    pooled = (real + made) / (n + m)
    error = np.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    short = shares[0] - shares[1] > DEVIATIONS * error
    modes = []
    for k, name in enumerate(names):
        verdict: Literal["", "rare", "missing"] = ""
        if short[k] and made[k] < SHARE_RARE * expected[k]:
            gone = made[k] <= SHARE_MISSING * expected[k] and expected[k] >= LEAST_EXPECTED
            verdict = "missing" if gone else "rare"
        modes.append(Mode(name, float(shares[0][k]), float(shares[1][k]), verdict))
    return tuple(sorted(modes, key=lambda mode: mode.made / max(mode.real, 1e-9)))
