"""Tables of more rows than memory holds: read in passes, a part at a time.

A dataset is what has `schema`, `count_rows` and `to_batches`, as `pyarrow.dataset.Dataset` has them. One pass
draws a uniform sample of its rows, which tells of which kind each column is; the next learns from all rows
what can be added up: ranges and grids of numbers, levels and how often each comes, how much is missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

from lookalike.columns import Column, Ignored
from lookalike.errors import SchemaError
from lookalike.frames import open_frame
from lookalike.levelled import Constant, Levelled
from lookalike.schema import Schema, Table, infer
from lookalike.values import Values, label_array

PART = 65_536  # rows at hand at once
SAMPLE = 262_144  # rows drawn, fewer where they are wide
SAMPLE_CELLS, FEWEST = 1 << 25, 16_384
_ROWS_PER_LEVEL = 5  # from which whole numbers may be levels


def is_dataset(data: object) -> bool:
    """Whether this is a table to be read in passes."""
    return all(hasattr(data, word) for word in ("schema", "count_rows", "to_batches"))


class Dataset:
    """A table that is read in passes.

    Parameters
    ----------
    source : pyarrow.dataset.Dataset, or what has its `schema`, `count_rows` and `to_batches`

    Attributes
    ----------
    n_rows : int
    """

    def __init__(self, source: Any) -> None:
        self._source, self.n_rows = source, int(source.count_rows())
        self._fragments: list[Any] = []
        if hasattr(source, "get_fragments"):
            with suppress(ValueError):  # which Arrow raises where there is a filter
                self._fragments = list(source.get_fragments())

    @property
    def is_small(self) -> bool:
        """Whether a sample of it would be all of it."""
        return self.n_rows <= self._sampled

    @property
    def _sampled(self) -> int:
        few = min(SAMPLE_CELLS // max(len(self._source.schema), 1), SAMPLE)
        return max(few, min(FEWEST, SAMPLE))

    def parts(self) -> Iterator[tuple[int, Any]]:
        """The rows in tables of `PART` or somewhat more, each with the number of its first row."""
        pa, first = _arrow(), 0
        held = self._source.schema.empty_table()
        for batch in self._batches():
            held = pa.concat_tables([held, pa.Table.from_batches([batch])])
            while held.num_rows >= 2 * PART:  # no part is of a few rows: they would not tell a pattern
                yield first, held.slice(0, PART)
                first, held = first + PART, held.slice(PART)
        if first + held.num_rows != self.n_rows:
            raise SchemaError(
                f"the dataset had {self.n_rows:,} rows and now has {first + held.num_rows:,}: it was written "
                "to while it was read. Fit again when nobody does."
            )
        if held.num_rows:
            yield first, held

    def _batches(self) -> Iterator[Any]:
        """Record batches, file by file where that can be: of a dataset Arrow reads far ahead."""
        options = {"batch_size": PART, "batch_readahead": 0}
        if not self._fragments:
            yield from self._source.to_batches(**options, fragment_readahead=0)
        for fragment in self._fragments:
            yield from fragment.to_batches(schema=self._source.schema, **options)

    def whole(self) -> Any:
        """All rows as one table."""
        return _arrow().concat_tables(
            [self._source.schema.empty_table(), *(part for _, part in self.parts())]
        )

    def sample(self, seed: int) -> tuple[NDArray[np.int64], Any]:
        """Draw rows, each as likely as any other: their numbers, rising, and a table of them."""
        drawn, taken = _drawn(self.n_rows, self._sampled, seed), []
        for first, part in self.parts():
            start, stop = np.searchsorted(drawn, [first, first + part.num_rows])
            taken.append(part.take(_arrow().array(drawn[start:stop] - first)))
        return drawn, _arrow().concat_tables(taken)

    def schema(self, sample: Any, overrides: Mapping[Any, Column] | None) -> Schema:
        """Learn the columns: of which kind they are from a sample, and the rest from all rows.

        Raises
        ------
        SchemaError
            As `Schema.fit`.
        """
        with _at(f"of {sample.num_rows:,} rows drawn"):
            schema = Schema.fit(sample, overrides)
        kinds: dict[Any, Column] = {**{c.name: type(c)() for c in schema.columns}, **(overrides or {})}
        while True:
            sums = [_Sum(kinds[column.name], column) for column in schema.columns]
            for first, part in self.parts():
                frame = open_frame(part)
                with _at(_rows(first, part)):
                    for position, one in enumerate(sums):
                        if not isinstance(one.kind, Ignored):
                            one.add(frame.column(position))
            columns = tuple(one.total() for one in sums)
            # What was constant in the sample and is not: one value among very many was overlooked.
            varied = [c for c in columns if isinstance(c, Constant) and len(c.levels) > 1]
            if not varied:
                return Schema(columns, schema.container)
            for column in varied:
                levels = label_array(column.storage.family, column.levels).repeat(_ROWS_PER_LEVEL)
                values = Values(column.name, column.storage, levels, np.zeros(len(levels), dtype=bool))
                if column.name in (overrides or {}):
                    column.fit(values)  # which refuses them
                kinds[column.name] = infer(values)

    def encoded(self, schema: Schema, left_out: NDArray[np.int64]) -> Iterator[Table]:
        """All rows but those of some numbers, as arrays, a part at a time."""
        for first, part in self.parts():
            rest = np.ones(part.num_rows, dtype=bool)
            start, stop = np.searchsorted(left_out, [first, first + part.num_rows])
            rest[left_out[start:stop] - first] = False
            with _at(_rows(first, part)):
                table = schema.encode(part)
            yield table.rows(rest)


@dataclass(frozen=True)
class Tally:
    """How often rows hold what.

    Attributes
    ----------
    levels : list of ndarray of shape (n_levels + 2,), int64
        Of each category: its levels, one never seen, and missing.
    blank : ndarray of shape (n_numbers,), int64
        Missing values of each number.
    """

    levels: list[NDArray[np.int64]]
    blank: NDArray[np.int64]

    @classmethod
    def of(cls, schema: Schema, table: Table) -> Tally:
        """Count what is in a table."""
        sizes = [len(column.levels) + 2 for column in schema.category_columns]
        levels = [np.bincount(ids, minlength=size) for ids, size in zip(table.ids.T, sizes, strict=True)]
        return cls(levels, np.isnan(table.numbers).sum(0))

    @classmethod
    def told(cls, schema: Schema, n: int) -> Tally:
        """Take the counts from a schema of n rows."""
        levels = [np.array([*c.counts, 0, round(c.missing * n)]) for c in schema.category_columns]
        return cls(levels, np.array([round(c.missing * n) for c in schema.number_columns], np.int64))

    def __sub__(self, other: Tally) -> Tally:
        levels = [mine - theirs for mine, theirs in zip(self.levels, other.levels, strict=True)]
        return Tally(levels, self.blank - other.blank)


class _Sum:
    """What a column has learned of the rows seen so far."""

    def __init__(self, kind: Column, sampled: Column) -> None:
        self.kind, self._sampled = kind, sampled
        self._column: Column | None = None
        self._rows = self._blank = 0

    def add(self, values: Values) -> None:
        """Learn from more values."""
        self._rows += len(values)
        self._blank += int(values.missing.sum())
        if not len(values.present):  # from which no kind but a constant could learn
            return
        # A constant's own `fit` refuses a second value.
        part = Levelled.fit(self.kind, values) if isinstance(self.kind, Constant) else self.kind.fit(values)
        self._column = part if self._column is None else self._column.joined(part)

    def total(self) -> Column:
        """The column as it has learned from all rows."""
        if self._column is None:  # it holds no value, or is ignored
            return self._sampled
        return self._column.learned(missing=self._blank / self._rows)


def _drawn(n: int, size: int, seed: int) -> NDArray[np.int64]:
    """Numbers below n, rising, without a permutation of all of them where n is large."""
    rng = np.random.default_rng(seed)
    if n <= 4 * size:
        return np.sort(rng.permutation(n)[:size])
    some = np.unique(rng.integers(n, size=2 * size))
    return np.sort(rng.choice(some, size, replace=False))


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Say where rows stand that are refused."""
    try:
        yield
    except SchemaError as error:
        raise SchemaError(f"{place}: {error}") from error


def _rows(first: int, part: Any) -> str:
    return f"rows {first:,} to {first + part.num_rows - 1:,}, counted from there"


def _arrow() -> Any:
    return nw.Implementation.PYARROW.to_native_namespace()
