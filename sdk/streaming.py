"""Tables of any container, a part of their rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np


def n_rows(data: Any) -> int:
    """Number of rows; 0 for what says no shape, such as a list of rows."""
    return int(data.shape[0]) if hasattr(data, "shape") and len(data.shape) else 0


def rows_of(data: Any, start: int, stop: int) -> Any:
    """Rows `start` to `stop`, in the container they came in."""
    if isinstance(data, (np.ndarray, list, tuple)):
        return data[start:stop]
    return nw.from_native(data, eager_only=True)[start:stop].to_native()


def parts(data: Any, size: int) -> Iterator[Any]:
    """The table in parts of at most `size` rows; what is small, or of an unknown kind, comes whole."""
    if n_rows(data) <= size:
        yield data
        return
    for start in range(0, n_rows(data), size):
        yield rows_of(data, start, start + size)
