"""Encoded training rows in a file, of which memory holds what is in use."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO

import numpy as np
import torch
from torch import Tensor

from lookalike.errors import TrainingError
from lookalike.preprocessing import TrainingRows


@contextmanager
def stored(parts: Iterable[TrainingRows], quantile: Callable[[Tensor], Tensor]) -> Iterator[TrainingRows]:
    """Put rows of one quantile function below each other into a temporary file, and hand them out from there.

    The file has no name: it is gone when the block ends, or the process, however they end. It stands in the
    folder that the environment variable TMPDIR names.

    Raises
    ------
    TrainingError
        If the disk is full.
    """
    with tempfile.TemporaryFile() as file:
        yield TrainingRows(quantile, *_opened(file, *_written(file, parts)))


def _written(file: IO[bytes], parts: Iterable[TrainingRows]) -> tuple[int, list[int]]:
    """Write rows, each in one piece of 32-bit numbers, and return how many and how wide their parts are."""
    n, widths = 0, [0]
    for rows in parts:
        tables = [table.numpy().view(np.float32) for table in rows.buffers()]
        n, widths = n + len(rows), [table.shape[1] for table in tables]
        try:
            file.write(np.concatenate(tables, 1).tobytes())
        except OSError as error:
            raise TrainingError(
                f"the encoded rows did not fit into {tempfile.gettempdir()}: {error}. A row takes "
                f"{4 * sum(widths)} bytes. Set TMPDIR to a folder on a disk with room for all of them."
            ) from error
    file.flush()
    return n, widths


def _opened(file: IO[bytes], n: int, widths: list[int]) -> Iterator[Tensor]:
    # Written to by nobody: torch knows no read-only tensors.
    rows = np.memmap(file, np.float32, "r+", shape=(n, sum(widths)))
    ends = np.cumsum(widths)[:-1]
    low, high, ids, *units = np.split(np.asarray(rows), ends, axis=1)
    return map(torch.from_numpy, (low, high, ids.view(np.int32), *units))
