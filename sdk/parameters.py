"""The parameters of the estimators, and the values they may take."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Range(NamedTuple):
    """An interval of whole or real numbers, both ends in it."""

    low: float
    high: float
    whole: bool = False

    def holds(self, value: object) -> bool:
        """Whether the value is a number of this range; truth values are none."""
        kind = numbers.Integral if self.whole else numbers.Real
        return (
            isinstance(value, kind)
            and not isinstance(value, bool)
            and bool(self.low <= value <= self.high)  # type: ignore[operator]  # the tower has no types
            and bool(value != math.inf)
        )

    def check(self, name: str, value: object) -> None:
        """Raise ValueError unless the value is in the range."""
        if not self.holds(value):
            raise ValueError(f"{name} must be {self}, got {value!r}.")

    def __str__(self) -> str:
        what = "a whole number" if self.whole else "a number"
        if math.isinf(self.high):
            return f"{what} of at least {_written(self.low)}"
        return f"{what} from {_written(self.low)} to {_written(self.high)}"


def _written(end: float) -> str:
    return f"{int(end):,}" if end == int(end) else f"{end:g}"


RANGES = {
    "width": Range(1, 65_536, whole=True),
    "depth": Range(1, 1000, whole=True),
    "latent_dim": Range(1, 65_536, whole=True),
    "n_steps": Range(1, 10_000, whole=True),
    "n_components": Range(1, 65_536, whole=True),
    "max_steps": Range(1, math.inf, whole=True),
    "max_seconds": Range(0.001, math.inf),
    "batch_size": Range(1, 1 << 20, whole=True),
    "learning_rate": Range(1e-12, 10),
    "memory": Range(1, 65_536, whole=True),
    "beta": Range(0, math.inf),
    "gamma": Range(0, math.inf),
    "guidance": Range(0, 100),
    "autoguidance": Range(0, 100),
    "sharpness": Range(0, math.inf),
    "truncation": Range(0, 1),
    "max_levels": Range(2, 1_000_000, whole=True),
}
CHOSEN_FROM_DATA = {
    "width",
    "n_components",
    "max_steps",
    "batch_size",
    "max_seconds",
    "learning_rate",
    "guidance",
    "autoguidance",
}
"""Parameters that may be None."""


class _Rule(NamedTuple):
    allows: Callable[[Any], bool]
    words: str


_RULES = {
    "contamination": _Rule(
        lambda v: (
            v == "auto"
            if isinstance(v, str)
            else isinstance(v, numbers.Real) and not isinstance(v, bool) and 0 < float(v) <= 0.5
        ),
        'lie in (0, 0.5] or be "auto"',
    ),
    "schema": _Rule(
        lambda v: v is None or isinstance(v, Mapping),
        'map names of columns to their kinds, such as {"zip": la.Categorical()}, or be None',
    ),
    "callbacks": _Rule(
        lambda v: v is None or (isinstance(v, Sequence) and all(map(callable, v))),
        "be a sequence of callables, or None",
    ),
    "style": _Rule(lambda v: isinstance(v, bool), "be True or False"),
    "augment": _Rule(lambda v: v is None or isinstance(v, bool), "be True, False or None"),
    "early_stopping": _Rule(lambda v: isinstance(v, bool), "be True or False"),
    "verbose": _Rule(lambda v: isinstance(v, bool | numbers.Integral), "be True or False"),
    "device": _Rule(lambda v: isinstance(v, str), 'be "auto", "cpu", "cuda" or another that torch knows'),
}


def check_parameters(parameters: Mapping[str, Any]) -> None:
    """Raise ValueError for the first parameter whose value is not allowed."""
    for name, value in parameters.items():
        if name in RANGES and not (value is None and name in CHOSEN_FROM_DATA):
            RANGES[name].check(name, value)
        elif name in _RULES and not _RULES[name].allows(value):
            raise ValueError(f"{name} must {_RULES[name].words}, got {value!r}.")
