"""Selecting anomalies from a stream, a row at a time, so that few of the alerts are false.

References
----------
A. Javanmard, A. Montanari. Online Rules for Control of False Discovery Rate and False Discovery Exceedance.
Annals of Statistics 46(2), 2018 (LORD).
A. Ramdas, F. Yang, M. Wainwright, M. Jordan. Online Control of the False Discovery Rate with Decaying
Memory. NeurIPS 2017, arXiv:1710.00499 (LORD++: levels of which the sum is at most fdr times the alerts; and
that rules fall silent on long streams).
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

    LORD++ with even spending: there is `fdr` to spend on the first `window` rows, and each alert but the
    first pays for as much on the `window` rows after it. So a row is an alert if p <= fdr * k / window, where
    k is about the number of alerts among the `window` rows before it: the threshold of Benjamini-Hochberg, of
    which only the past is known.

    Parameters
    ----------
    fdr : float
        In (0, 1): the false discovery rate, the expected share of normal rows among the alerts.
    window : int
        How long an alert pays. No p-value is below 1 / (n + 1) for n calibration rows, so nothing is found if
        it is above fdr * (n + 1); half of that is a good choice, 100 for 4,000 rows at the default rate.
        Where anomalies are found less often than once in `window` rows all is spent in the end, and the
        selector falls silent.
    revive : bool
        Begin anew when silent, with `fdr` to spend. Rare anomalies are then found too, at the price of a
        false alert in every window / fdr quiet rows. False keeps the rate over the whole stream; begin anew
        yourself, with a new selector every day, and it is kept in each day.

    Attributes
    ----------
    n_rows, n_alerts : int
        So far.
    silent : bool
        Whether all is spent, so that no row to come can be an alert.

    Notes
    -----
    What is proven. If a normal row's p-value is at most a with probability at most a given the rows before,
    for every a, then E[false alerts] <= fdr * E[max(alerts, 1)] at any time, for the levels are known before
    their rows and sum to at most that; if the p-values are independent too, the false discovery rate is at
    most `fdr` after any number of rows (Ramdas et al. 2017). With ``revive=True`` the first holds from one
    beginning to the next: all in all E[false alerts] <= fdr * E[alerts + beginnings without an alert].

    What is measured. P-values of one calibration set are not independent: all are a little low where its
    lowest rows happen to be not so low. Over many calibration sets of 2,000 rows the bounds held in our
    simulations, and on real tables (benchmarks/decisions.py); with one set the share strays.

    No rule can do without one or the other: where all rows are normal every alert is false, so a rule with
    bounded memory must either raise some of these or fall silent.

    Examples
    --------
    >>> stream = OnlineSelector(fdr=0.1, window=100)
    >>> stream.select([0.5, 0.0005, 0.001, 0.0015]).tolist()
    [False, True, True, True]
    >>> again = OnlineSelector.from_dict(stream.to_dict())  # in another process
    >>> again.select([0.0025, 0.9]).tolist()
    [True, False]
    """

    def __init__(self, fdr: float = 0.05, window: int = 100, revive: bool = False) -> None:
        if not 0 < fdr < 1:
            raise ValueError(f"fdr must lie in (0, 1), got {fdr}.")
        Range(1, math.inf, whole=True).check("window", window)
        self.fdr, self.window, self.revive = float(fdr), int(window), bool(revive)
        self.n_rows = self.n_alerts = 0
        self._began, self._alerted = 0, False  # where spending began, and whether there was an alert since
        self._paying: deque[int] = deque()  # the rows of alerts that pay: those of the last `window`

    def __repr__(self) -> str:
        return (
            f"<OnlineSelector of fdr={self.fdr:g}, window={self.window}: {self.n_alerts:,} alerts among "
            f"{self.n_rows:,} rows{', silent' if self.silent else ''}>"
        )

    @property
    def level(self) -> float:
        """What the next p-value must not exceed to be an alert."""
        while self._paying and self._paying[0] < self.n_rows - self.window:
            self._paying.popleft()
        payers = len(self._paying) + (self.n_rows < self._began + self.window)
        if not payers and self.revive:
            self._began, self._alerted, payers = self.n_rows, False, 1
        return self.fdr * payers / self.window

    @property
    def silent(self) -> bool:
        """Whether all is spent, so that no row to come can be an alert."""
        return self.level == 0

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
            level = self.level
            if level and value <= level:  # a p-value of 0 is no alert where all is spent
                alerts[i] = True
                self.n_alerts += 1
                if self._alerted:  # the first is paid by what there was to begin with
                    self._paying.append(self.n_rows)
                self._alerted = True
            self.n_rows += 1
        return alerts

    def to_dict(self) -> dict[str, Any]:
        """Return all that `from_dict` needs to go on, as JSON values."""
        return {
            "format": _FORMAT,
            "fdr": self.fdr,
            "window": self.window,
            "revive": self.revive,
            "n_rows": self.n_rows,
            "n_alerts": self.n_alerts,
            "began": self._began,
            "alerted": self._alerted,
            "paying": list(self._paying),
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
            self = cls(state["fdr"], state["window"], state["revive"])
            self.n_rows, self.n_alerts = int(state["n_rows"]), int(state["n_alerts"])
            self._began, self._alerted = int(state["began"]), bool(state["alerted"])
            paying = [int(row) for row in state["paying"]]
            if paying != sorted(set(paying)) or not all(0 <= row < self.n_rows for row in paying):
                raise ValueError("its alerts are no rows of the stream")
            self._paying = deque(paying)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"this is not the state of an OnlineSelector: {error}.") from error
        return self
