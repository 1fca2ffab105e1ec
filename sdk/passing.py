"""Rows of files on their way through a model: typed for it, and passed on as they are with what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol

from lookalike.columns import Encoded, Ignored
from lookalike.errors import SchemaError, require
from lookalike.files import Part, Reader, Stored, inferred, known, open_writer, typed
from lookalike.folders import Pictures, folder_named, holds_pictures, write_generated
from lookalike.images import Image
from lookalike.parquet import as_arrow


class Source(Protocol):
    """Rows that a model is given, a part of them at a time."""

    n_rows: int | None

    def to_learn(self, in_memory: bool) -> Any:
        """All of them, as `fit` takes them. `in_memory`: not as a dataset."""

    def passing(self, model: Any) -> Iterator[tuple[Part, Any]]:
        """Parts as they stand in their files, each with what the model takes of it."""


def source(
    places: Sequence[str],
    format: str | None,
    size: tuple[int, int] | None,
    mode: str | None,
    templates: str | None = None,
) -> Source:
    """Tables of files, or the pictures of a folder."""
    if holds_pictures(places):
        return Pictures(places[0], size, mode, templates)
    for option, value in (("--size", size), ("--mode", mode), ("--templates", templates)):
        if value is not None:
            raise ValueError(f"{option} is for one folder of pictures, and {', '.join(places)} is none.")
    return TableFiles(Reader(places, format))


class TableFiles:
    """Tables of files."""

    def __init__(self, reader: Reader) -> None:
        self._reader, self.n_rows = reader, reader.n_rows

    def to_learn(self, in_memory: bool) -> Any:
        return table_of(self._reader) if in_memory or not self._reader.is_stored else Stored(self._reader)

    def passing(self, model: Any) -> Iterator[tuple[Part, Any]]:
        return ((part, typed_for(model, part)) for part in self._reader)


def names_of(table: Any) -> list[str]:
    """Names of the columns of what `to_learn` gives."""
    return (
        list(table)
        if isinstance(table, Mapping)
        else getattr(getattr(table, "schema", None), "names", ["image"])
    )


def modelled(model: Any) -> list[Any]:
    """The columns that a model looks at."""
    return [column for column in model.schema_.columns if isinstance(column, Encoded | Image)]


def typed_for(model: Any, part: Part) -> Any:
    """The columns that the model knows; all others flow past it."""
    storages = {str(column.name): column.storage for column in modelled(model)}
    names = part.table.column_names
    for name in storages:
        known(name, names, part.place)
    wanted = {str(name) for name in model.schema_.names}
    part = replace(part, table=part.table.select([name for name in names if name in wanted]))
    families = {name: storage.family for name, storage in storages.items()}
    return typed(part, families, {name: storage.zone for name, storage in storages.items()})


def joined(reader: Reader) -> Part:
    """All rows of files as one part."""
    table, text = reader.whole()
    return Part(table, ", ".join(reader.files), 0, text)


def table_of(reader: Reader) -> Any:
    """All rows of files as one table, text parsed as what all of it may be."""
    table, text = reader.whole()
    return inferred(table) if text else table


def alike(place: str, format: str | None, table: Any) -> Any:
    """Rows of the types of others: of few rows a column of numbers may look whole."""
    other = table_of(Reader([place], format))
    wanted = [known(name, other.column_names, place) for name in table.column_names]
    return other.select(wanted).cast(table.schema)


def beside(part: Part, kept: list[str] | None, new: Mapping[str, Any]) -> Any:
    """The rows, or the columns of them that are kept, with columns added."""
    table = part.table
    if kept is not None:
        table = table.select([known(name, table.column_names, part.place) for name in kept])
    for name, values in new.items():
        if name in table.column_names:
            raise SchemaError(
                f"{part.place} has a column {name!r} already. Rename it, or take others by --columns."
            )
        table = table.append_column(name, arrow_of(values))
    return table


def arrow_of(values: Any) -> Any:
    """A column as Arrow's."""
    pa = require("pyarrow", "cli", "the command line")
    return values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)


@contextmanager
def writer_of(model: Any, out: str, format: str | None, n: int) -> Iterator[Callable[[Any], int]]:
    """What writes generated rows, `n` in all, and says how many: to a file, or images to a folder."""
    if model.schema_.image is not None:
        written, folder = 0, folder_named(out)

        def images(batch: Any) -> int:
            nonlocal written
            now = write_generated(batch, model.schema_.image, folder, written, n)
            written += now
            return now

        yield images
        return
    names = [column.name for column in model.schema_.columns if not isinstance(column, Ignored)]
    with open_writer(out, format) as writer:

        def rows(batch: Any) -> int:
            table = as_arrow(batch, names)
            writer.write(table)
            return int(table.num_rows)

        yield rows
