"""`Generator`: rows of one seed drawn in several places; the bridges to clusters are made of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from lookalike import noise
from lookalike.face import BLOCK
from lookalike.integrations import arrow
from lookalike.integrations.scorer import file_of, opened


class Generator:
    """Draws the rows that one call of `generate` gives, a few blocks of them wherever it is sent.

    It pickles as the exported file: where it arrives there need be no torch, and a process opens a file once.

    Parameters
    ----------
    model : str, PathLike, bytes or model
        A file exported with ``task="generate"``, its content, or what `runtime.load` or a fit gave.
    n : int
        Rows in all.
    given, random_state
        As of `generate`. What is drawn where there is no seed is drawn once and for all here.
    device : {"auto", "cpu", "cuda"}
        As of `runtime.load`, of those that draw.

    Attributes
    ----------
    n_blocks : int
        The rows come in blocks, of 32,768 rows each but the last.

    Raises
    ------
    TypeError
        If the model can neither be a file nor be exported to one.
    ArtifactError
        If the file is not one that generates.
    ConditionError
        As of `generate`.
    """

    def __init__(
        self,
        model: Any,
        n: int,
        *,
        given: Any = None,
        random_state: noise.RandomState = None,
        device: str = "cpu",
    ) -> None:
        self.n, self.given, self.device = n, given, device
        self.seed = noise.seed_from(random_state)
        self._file = file_of(model, "generate")
        here = opened(self._file)
        here.generate_batches(n, given=given, random_state=self.seed)  # refuses what no row can hold
        self.n_blocks = -(-n // BLOCK)
        self.schema: pa.Schema = arrow.generate(here, 0).schema

    def blocks(self, first: int, count: int) -> Iterator[pa.RecordBatch]:
        """Draw so many blocks from one on, in batches that do not reach beyond a block."""
        model = opened(self._file, device=self.device)
        start, stop = first * BLOCK, min((first + count) * BLOCK, self.n)
        reader = arrow.generate(
            model, self.n, chunk=BLOCK, given=self.given, random_state=self.seed, start=start
        )
        while start < stop:
            batch = reader.read_next_batch()
            start += batch.num_rows
            yield batch
