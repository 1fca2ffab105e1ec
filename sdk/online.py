"""Selecting anomalies from a stream, a row at a time, so that few of the alerts are false.

References
----------
A. Javanmard, A. Montanari. Online Rules for Control of False Discovery Rate and False Discovery Exceedance.
Annals of Statistics 46(2), 2018 (LORD).
A. Ramdas, F. Yang, M. Wainwright, M. Jordan. Online Control of the False Discovery Rate with Decaying
Memory. NeurIPS 2017, arXiv:1710.00499 (LORD++: levels of which the sum is at most fdr times the alerts; and
that rules which remember everything fall silent on long streams).
E. Kronert, A. Celisse, D. Hattab. FDR Control for Online Anomaly Detection. 2023, arXiv:2312.01969 (windows,
and how many calibration rows they take).
A. Fisher. SAFFRON and LORD Ensure Online Control of the False Discovery Rate under Positive Dependence.
arXiv:2110.08161, 2021.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lookalike.calibration import checked_p_values
from lookalike.parameters import Range

_FORMAT = 1


class OnlineSelector:
    """Select anomalies from a stream of p-values; each decision is made at once and is final.

    A row is an alert if p <= fdr * max(k, 1) / window, where k is how many of the `window` rows before it
    were alerts: the threshold of Benjamini-Hochberg over a window, of which only the past is known. It is
    LORD++ with a spending sequence that is even over `window` rows, and begun anew after as many without an
    alert, for rules that remember everything fall silent on long streams.

    Parameters
    ----------
    fdr : float
        In (0, 1): the share of alerts that may be false.
    window : int
        How many rows are remembered. No p-value is below 1 / (n + 1) for n calibration rows, so a lonely
        anomaly can be an alert only if n + 1 >= window / fdr: 2,000 rows for the defaults. The longer it is,
        the fewer false alerts in quiet stretches.

    Attributes
    ----------
    n_rows, n_alerts : int
        So far.

    Notes
    -----
    What is proven. If a normal row's p-value is at most a with probability at most a given the rows before,
    for every a, then at any time

        E[false alerts] <= fdr * E[alerts + quiet rows / window],

    a quiet row being one with no alert among the `window` rows before it. For each level is known before its
    row, and the sum of the levels is at most what stands in brackets. So where alerts come steadily the share
    of false ones is at most `fdr` (in the ratio of means), and in silence there is one false alert in
    window / fdr rows. No rule of bounded memory can do without the second: where all is normal every alert is
    false.

    What is measured. P-values of one calibration set are not independent: all are a little low where its
    lowest rows happen to be not so low. Over many calibration sets the bound held in our simulations, for the
    default window with 2,000 to 5,000 calibration rows; with one set the share strays, as that of
    `Calibration.threshold` does.

    Examples
    --------
    >>> stream = OnlineSelector(fdr=0.1, window=100)
    >>> stream.select([0.5, 0.0005, 0.001, 0.0015]).tolist()
    [False, True, True, True]
    >>> again = OnlineSelector.from_dict(stream.to_dict())  # in another process
    >>> again.select([0.0025, 0.9]).tolist()
    [True, False]
    """

    def __init__(self, fdr: float = 0.05, window: int = 100) -> None:
        if not 0 < fdr < 1:
            raise ValueError(f"fdr must lie in (0, 1), got {fdr}.")
        Range(1, math.inf, whole=True).check("window", window)
        self.fdr, self.window = float(fdr), int(window)
        self.n_rows = self.n_alerts = 0
        self._recent: deque[int] = deque()  # the numbers of the alerts among the last `window` rows

    def __repr__(self) -> str:
        return (
            f"<OnlineSelector of fdr={self.fdr:g}, window={self.window}: {self.n_alerts:,} alerts among "
            f"{self.n_rows:,} rows>"
        )

    @property
    def level(self) -> float:
        """What the next p-value must not exceed to be an alert."""
        while self._recent and self._recent[0] < self.n_rows - self.window:
            self._recent.popleft()
        return self.fdr * max(len(self._recent), 1) / self.window

    def select(self, p_values: ArrayLike) -> NDArray[np.bool_]:
        """Decide on the next rows of the stream.

        Parameters
        ----------
        p_values : array-like of shape (n_rows,)
            In the order of the stream. How it is cut into calls makes no difference.

        Returns
        -------
        ndarray of shape (n_rows,), bool
        """
        p = checked_p_values(p_values)
        alerts = np.zeros(p.size, dtype=np.bool_)
        for i, value in enumerate(p.tolist()):
            if value <= self.level:
                alerts[i] = True
                self._recent.append(self.n_rows)
                self.n_alerts += 1
            self.n_rows += 1
        return alerts

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs to go on, as JSON values."""
        return {
            "format": _FORMAT,
            "fdr": self.fdr,
            "window": self.window,
            "n_rows": self.n_rows,
            "n_alerts": self.n_alerts,
            "recent": list(self._recent),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Go on where another left off.

        Raises
        ------
        ValueError
            If this is not what `to_dict` gives.
        """
        try:
            if state["format"] != _FORMAT:
                raise ValueError(f"format {state['format']!r} is not {_FORMAT}")
            self = cls(state["fdr"], state["window"])
            self.n_rows, self.n_alerts = int(state["n_rows"]), int(state["n_alerts"])
            recent = [int(row) for row in state["recent"]]
            if recent != sorted(set(recent)) or not all(0 <= row < self.n_rows for row in recent):
                raise ValueError("its alerts are no rows of the stream")
            self._recent = deque(recent)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not the state of an OnlineSelector: {error}.") from error
        return self
