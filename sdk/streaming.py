"""Tables of any container, a part of their rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import wraps
from typing import Any, TypeVar, cast

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

from lookalike.values import has_rows

Method = TypeVar("Method", bound=Callable[..., Any])


def streamed(method: Method) -> Method:
    """Let a method of a table take an iterator of tables too, and then yield the result of each."""

    @wraps(method)
    def each(self: Any, X: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(X, Iterator):
            return (method(self, table, *args, **kwargs) for table in X)
        return method(self, X, *args, **kwargs)

    return cast(Method, each)  # typed for one table, which is what most callers have


def n_rows(data: Any) -> int:
    """Number of rows; 0 for what says no shape, such as a list of rows."""
    if isinstance(data, Mapping):
        return max((len(column) for column in data.values() if has_rows(column)), default=1)
    return int(data.shape[0]) if hasattr(data, "shape") and len(data.shape) else 0


def rows_of(data: Any, start: int, stop: int) -> Any:
    """Rows `start` to `stop`, in the container they came in."""
    if isinstance(data, (np.ndarray, list, tuple)):
        return data[start:stop]
    if isinstance(data, Mapping):
        return {name: column[start:stop] if has_rows(column) else column for name, column in data.items()}
    if hasattr(data, "slice") and hasattr(data, "to_pylist"):  # of Arrow, where narwhals knows no batches
        return data.slice(start, stop - start)
    return nw.from_native(data, eager_only=True, allow_series=True)[start:stop].to_native()


def parts(data: Any, size: int) -> Iterator[Any]:
    """The table in parts of at most `size` rows; what is small, or of an unknown kind, comes whole."""
    if n_rows(data) <= size:
        yield data
        return
    for start in range(0, n_rows(data), size):
        yield rows_of(data, start, start + size)


def indexable(data: Any) -> Any:
    """The table as `n_rows` and `taken` know it: lists of rows as an array, sparse matrices by rows."""
    if hasattr(data, "tocsr"):
        return data.tocsr()
    return data if hasattr(data, "shape") or isinstance(data, Mapping) else np.asarray(data)


def taken(data: Any, index: NDArray[np.int64]) -> Any:
    """Rows by their numbers, in the container they came in."""
    if isinstance(data, np.ndarray) or hasattr(data, "tocsr"):  # as scipy's sparse matrices have it
        return data[index]
    if isinstance(data, (list, tuple)):
        return [data[i] for i in index]
    if isinstance(data, Mapping):
        return {name: taken(column, index) if has_rows(column) else column for name, column in data.items()}
    if hasattr(data, "take") and hasattr(data, "to_pylist"):  # of Arrow, where narwhals knows no batches
        return data.take(index)
    return nw.from_native(data, eager_only=True, allow_series=True)[index].to_native()


def joined(tables: Sequence[Any]) -> Any:
    """Tables of one kind, arrays or frames, below each other."""
    if isinstance(tables[0], (np.ndarray, list, tuple)):
        return np.concatenate([np.asarray(table) for table in tables])
    frames = [nw.from_native(table, eager_only=True) for table in tables]
    return nw.concat(frames).to_native()
