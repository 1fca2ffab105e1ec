"""Tables in files as streams of Arrow tables: CSV, Parquet and Arrow, folders, globs, stdin and stdout.

What flows through is not touched: the cells of a CSV stay the text they are, and a model is given typed
copies of the columns that it knows.
"""

from __future__ import annotations

import csv
import glob
import io
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from lookalike.archive import atomic_write
from lookalike.errors import SchemaError, did_you_mean, require

_EXTRA, _PURPOSE = "cli", "reading and writing files of tables"
STREAM = "-"  # stdin or stdout
ROWS = 65_536  # of a part
BLOCK = 4 << 20  # bytes of a CSV that are parsed together
FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
}
NULLS = ("", "NA", "N/A", "n/a", "<NA>", "#N/A", "NaN", "nan", "-NaN", "-nan", "null", "NULL", "None")
"""Text that says that a value is missing, as pandas has it."""


@dataclass(frozen=True)
class Part:
    """Some rows of a file, as they stand there.

    Attributes
    ----------
    table : pyarrow.Table
        Of a CSV all columns are text.
    place : str
        The file.
    first : int
        The number of its first row in the file, from 0.
    text : bool
        Whether the values are text that may mean numbers, times or nothing.
    """

    table: Any
    place: str
    first: int
    text: bool


@contextmanager
def at(part: Part) -> Iterator[None]:
    """Say where rows stand that are refused."""
    try:
        yield
    except SchemaError as error:
        last = part.first + part.table.num_rows - 1
        raise SchemaError(
            f"{part.place}, rows {part.first} to {last}, counted from there: {error}"
        ) from error


def found(places: Sequence[str]) -> list[str]:
    """Files that paths, folders and globs name, in order; "-" is stdin.

    Raises
    ------
    FileNotFoundError
        If one names nothing.
    """
    files: list[str] = []
    for place in places:
        path = Path(place)
        if place == STREAM or path.is_file():
            files.append(place)
            continue
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in FORMATS and _visible(p, path))
            own = [str(p) for p in inside if p.is_file()]
        else:
            own = sorted(p for p in glob.glob(place, recursive=True) if Path(p).is_file())
        if not own:
            what = f"holds no file of {', '.join(FORMATS)}" if path.is_dir() else "is no file"
            raise FileNotFoundError(f"{place} {what}.")
        files += own
    return files


def _visible(path: Path, under: Path) -> bool:
    """Engines put what is no data into names with a dot or a line before them."""
    return not any(name.startswith((".", "_")) for name in path.relative_to(under).parts)


def format_of(place: str, asked: str | None, default: str | None = None) -> str:
    """What a file holds, by what was asked for or its name."""
    if asked is not None:
        if asked not in FORMATS.values():
            raise ValueError(
                f"format must be one of {', '.join(dict.fromkeys(FORMATS.values()))}, got {asked!r}."
            )
        return asked
    kind = FORMATS.get(Path(place).suffix.lower(), default)
    if kind is None:
        raise ValueError(f"what {place} holds is not told by its name: say it with --format.")
    return kind


# ---- reading -----------------------------------------------------------------------------------------------


class Reader:
    """Rows of files one after the other, some at a time.

    Parameters
    ----------
    places : sequence of str
        Paths, folders, globs, or "-" for stdin.
    format : {"csv", "tsv", "parquet", "arrow"}, optional
        By default told by the name; CSV of stdin.

    Attributes
    ----------
    n_rows : int or None
        Rows in all, where files say so before they are read.
    is_stored : bool
        Whether the files are typed ones that can be read again.
    """

    def __init__(self, places: Sequence[str], format: str | None = None) -> None:
        require("pyarrow", _EXTRA, _PURPOSE)
        self.files = found(places)
        self._formats = [format_of(f, format, "csv" if f == STREAM else None) for f in self.files]
        self.n_rows = self._counted()
        self.is_stored = STREAM not in self.files and set(self._formats) <= {"parquet", "arrow"}

    def _counted(self) -> int | None:
        if set(self._formats) != {"parquet"} or STREAM in self.files:
            return None
        pq = require("pyarrow.parquet", _EXTRA, _PURPOSE)
        return sum(_said(file, lambda f: pq.read_metadata(f).num_rows) for file in self.files)

    def __iter__(self) -> Iterator[Part]:
        names: list[str] | None = None
        for file, kind in zip(self.files, self._formats, strict=True):
            first = 0
            with ExitStack() as stack:
                source = sys.stdin.buffer if file == STREAM else stack.enter_context(open(file, "rb"))
                tables = _READ[kind](source)
                while (table := _said(file, lambda _: next(tables, None))) is not None:  # noqa: B023
                    names = names or _distinct(table.column_names, file)
                    if sorted(table.column_names) != sorted(names):
                        raise SchemaError(_other_columns(file, table.column_names, self.files[0], names))
                    yield Part(table.select(names), file, first, kind in ("csv", "tsv"))
                    first += table.num_rows

    def schemas(self) -> Iterator[Any]:
        """What each file says of its columns."""
        for file, kind in zip(self.files, self._formats, strict=True):
            with open(file, "rb") as source:
                tables = _READ[kind](source)
                yield _said(file, lambda _: next(tables).schema)  # noqa: B023

    def whole(self) -> tuple[Any, bool]:
        """All rows as one table, and whether its values are text."""
        pa = require("pyarrow", _EXTRA, _PURPOSE)
        parts = list(self)
        if not parts:
            raise SchemaError(f"{', '.join(self.files)} holds no rows.")
        text = parts[0].text
        if any(part.text != text for part in parts):
            raise SchemaError("CSV and typed files cannot be read as one table: convert one of them.")
        return pa.concat_tables([part.table for part in parts], promote_options="permissive"), text


class Stored:
    """Typed files as one dataset, with what `fit` asks of a `pyarrow.dataset.Dataset`.

    Parameters
    ----------
    reader : Reader
        Of Parquet and Arrow files; they are read as often as asked.

    Attributes
    ----------
    schema : pyarrow.Schema
        With types that hold the values of all files.
    """

    def __init__(self, reader: Reader) -> None:
        pa = require("pyarrow", _EXTRA, _PURPOSE)
        self._reader = reader
        self.schema = pa.unify_schemas(list(reader.schemas()), promote_options="permissive")

    def count_rows(self) -> int:
        """Rows of all files."""
        told = self._reader.n_rows
        return sum(part.table.num_rows for part in self._reader) if told is None else told

    def to_batches(self, batch_size: int, **_: object) -> Iterator[Any]:
        """The rows in record batches of at most `batch_size`."""
        for part in self._reader:
            yield from part.table.cast(self.schema).to_batches(max_chunksize=batch_size)


def _said(file: str, call: Callable[[str], Any]) -> Any:
    """Call, and name the file in what Arrow has to complain of."""
    pa = require("pyarrow", _EXTRA, _PURPOSE)
    try:
        return call(file)
    except pa.ArrowException as error:
        line = str(error).splitlines()[0]
        raise SchemaError(f"{_name(file)} cannot be read: {line}") from error


def _name(file: str) -> str:
    return "stdin" if file == STREAM else file


def _distinct(names: Sequence[str], file: str) -> list[str]:
    twice = {name for name in names if list(names).count(name) > 1}
    if twice:
        raise SchemaError(f"{_name(file)} has more than one column {min(twice)!r}. Rename one.")
    return list(names)


def _other_columns(file: str, names: Sequence[str], other: str, wanted: Sequence[str]) -> str:
    lacks, more = set(wanted) - set(names), set(names) - set(wanted)
    what = f"lacks column {min(lacks)!r}" if lacks else f"has a column {min(more)!r}"
    return f"{_name(file)} {what}, unlike {_name(other)}: files that are read together have equal columns."


def _read_csv(source: IO[bytes], delimiter: str = ",") -> Iterator[Any]:
    pa, arrow = require("pyarrow", _EXTRA, _PURPOSE), require("pyarrow.csv", _EXTRA, _PURPOSE)
    reader = arrow.open_csv(
        pa.PythonFile(source, mode="r"),
        read_options=arrow.ReadOptions(block_size=BLOCK, use_threads=False),
        parse_options=arrow.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        # Text as it stands, to be written as it was read. An empty cell is nothing, "" is text.
        convert_options=arrow.ConvertOptions(
            default_column_type=pa.string(),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    yield reader.schema.empty_table()
    for batch in reader:
        yield pa.Table.from_batches([batch])


def _read_parquet(source: IO[bytes]) -> Iterator[Any]:
    pa, pq = require("pyarrow", _EXTRA, _PURPOSE), require("pyarrow.parquet", _EXTRA, _PURPOSE)
    if not source.seekable():
        source = io.BytesIO(source.read())  # its end says what it holds
    file = pq.ParquetFile(source)
    yield file.schema_arrow.empty_table()
    for batch in file.iter_batches(batch_size=ROWS):
        yield pa.Table.from_batches([batch])


def _read_arrow(source: IO[bytes]) -> Iterator[Any]:
    pa, ipc = require("pyarrow", _EXTRA, _PURPOSE), require("pyarrow.ipc", _EXTRA, _PURPOSE)
    if source.seekable() and source.read(6) == b"ARROW1":
        source.seek(0)
        file = ipc.open_file(source)
        batches: Iterator[Any] = (file.get_batch(i) for i in range(file.num_record_batches))
        yield file.schema.empty_table()
    else:
        if source.seekable():
            source.seek(0)
        stream = ipc.open_stream(source)
        batches = iter(stream)
        yield stream.schema.empty_table()
    for batch in batches:
        for start in range(0, batch.num_rows, ROWS):
            yield pa.Table.from_batches([batch.slice(start, ROWS)])


_READ: dict[str, Callable[[IO[bytes]], Iterator[Any]]] = {
    "csv": _read_csv,
    "tsv": lambda source: _read_csv(source, "\t"),
    "parquet": _read_parquet,
    "arrow": _read_arrow,
}


# ---- text to types -----------------------------------------------------------------------------------------


def typed(part: Part, families: Mapping[str, str], zones: Mapping[str, str | None]) -> Any:
    """The table with text parsed as what a model holds its columns for.

    Parameters
    ----------
    part : Part
    families : mapping of column name to family
        float, integer, boolean, text, datetime, duration or time, as of a schema's storage.
    zones : mapping of column name to time zone, where there is one

    Raises
    ------
    SchemaError
        If a value is none of its family: which, in which column and row.
    """
    if not part.text:
        return part.table
    table = part.table
    for i, name in enumerate(table.column_names):
        if name in families:
            column = _parsed(table.column(i), families[name], zones.get(name), part, name)
            table = table.set_column(i, name, column)
    return table


def inferred(table: Any) -> Any:
    """The table with each column of text parsed as the first of these that all its values are: whole numbers,
    numbers, truth values, times; text otherwise. Digits behind a leading zero are text: a code, no number.
    """
    pa, pc = require("pyarrow", _EXTRA, _PURPOSE), require("pyarrow.compute", _EXTRA, _PURPOSE)
    for i, name in enumerate(table.column_names):
        text = _without_nulls(table.column(i))
        coded = pc.any(pc.match_substring_regex(text, r"^[+-]?0\d")).as_py()
        for family in () if text.null_count == len(text) else ("integer", "float", "boolean", "datetime"):
            if coded and family in ("integer", "float"):
                continue
            try:
                parsed = _cast(text, family, None)
            except pa.ArrowInvalid:
                continue
            table = table.set_column(i, name, parsed)
            break
        else:
            table = table.set_column(i, name, text)
    return table


def _without_nulls(column: Any) -> Any:
    pa, pc = require("pyarrow", _EXTRA, _PURPOSE), require("pyarrow.compute", _EXTRA, _PURPOSE)
    column = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.is_in(column, value_set=pa.array(NULLS)), pa.scalar(None, pa.string()), column)


def _parsed(column: Any, family: str, zone: str | None, part: Part, name: str) -> Any:
    pa = require("pyarrow", _EXTRA, _PURPOSE)
    text = _without_nulls(column)
    tried = ("integer", "float") if family == "integer" else (family,)  # 3.0 is whole too
    for one in tried:
        try:
            return _cast(text, one, zone)
        except pa.ArrowInvalid:
            pass
    for row, value in enumerate(text.to_pylist()):
        try:
            _cast(pa.chunked_array([pa.array([value], pa.string())]), tried[-1], zone)
        except pa.ArrowInvalid as error:
            raise SchemaError(
                f"column {name!r} holds {value!r} in row {part.first + row} of {_name(part.place)}, where "
                f"{_WORDS[family]} was expected. Correct it, or leave it empty."
            ) from error
    raise AssertionError(f"column {name!r} cannot be parsed, but each of its values can")


_WORDS = {
    "integer": "a whole number",
    "float": "a number",
    "boolean": "true or false",
    "datetime": "a time such as 2026-01-31 12:00:00",
    "duration": "a duration such as 1 days 02:30:00",
    "time": "a time of day such as 12:30:00",
}
_DURATION = re.compile(
    r"(?P<sign>-)?(?:(?P<days>\d+) days?,? ?)?(?:\+?(?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d(?:\.\d+)?))?"
)


def _cast(text: Any, family: str, zone: str | None) -> Any:
    """Text as values of a family, or ArrowInvalid."""
    pa, pc = require("pyarrow", _EXTRA, _PURPOSE), require("pyarrow.compute", _EXTRA, _PURPOSE)
    if family in ("text", "nothing"):
        return text
    if family == "duration":
        return pa.chunked_array([pa.array(map(_duration, text.to_pylist()), pa.duration("us"))])
    if family == "boolean":
        words = pc.utf8_lower(text)
        known = pc.is_in(words, value_set=pa.array(["true", "false", None]))
        if not pc.all(known, min_count=0).as_py():
            raise pa.ArrowInvalid("neither true nor false")
        return pc.equal(words, "true")
    if family == "datetime":
        try:
            naive = text.cast(pa.timestamp("us"))
        except pa.ArrowInvalid:  # with an offset
            return text.cast(pa.timestamp("us", zone or "UTC"))
        return naive if zone is None else pc.assume_timezone(naive, zone)
    kinds = {"integer": pa.int64(), "float": pa.float64(), "time": pa.time64("us")}
    return text.cast(kinds[family])


def _duration(text: str | None) -> int | None:
    """Microseconds of a duration as pandas and Arrow write it."""
    if text is None:
        return None
    match = _DURATION.fullmatch(text)
    if not match or not (match["days"] or match["h"]):
        raise require("pyarrow", _EXTRA, _PURPOSE).ArrowInvalid(f"no duration: {text}")
    days, hours, minutes = (int(match[part] or 0) for part in ("days", "h", "m"))
    total = ((days * 24 + hours) * 60 + minutes) * 60_000_000 + round(float(match["s"] or 0) * 1_000_000)
    return -total if match["sign"] else total


def known(name: str, names: Sequence[str], place: str) -> str:
    """The name, if there is such a column."""
    if name not in names:
        raise SchemaError(f"{place} has no column {name!r}.{did_you_mean(name, names)}")
    return name


# ---- writing -----------------------------------------------------------------------------------------------


class Writer:
    """Tables of one schema, written one below the other; `open_writer` makes it."""

    def __init__(self, sink: IO[bytes], kind: str) -> None:
        self._sink, self._kind = sink, kind
        self._writer: Any = None
        self._schema: Any = None

    def write(self, table: Any) -> None:
        """Write rows. The first table says what columns hold."""
        if self._writer is None:
            self._schema, self._writer = table.schema, self._opened(table.schema)
        if table.num_rows:
            self._writer.write_table(table.cast(self._schema))

    def close(self) -> None:
        """Write what ends a file."""
        if self._writer is not None:
            self._writer.close()

    def _opened(self, schema: Any) -> Any:
        if self._kind == "parquet":
            return require("pyarrow.parquet", _EXTRA, _PURPOSE).ParquetWriter(self._sink, schema)
        if self._kind == "arrow":
            return require("pyarrow.ipc", _EXTRA, _PURPOSE).new_stream(self._sink, schema)
        return _Csv(self._sink, schema.names, "\t" if self._kind == "tsv" else ",")


class _Csv:
    """Rows as CSV, with quotes only where some text of the table needs them."""

    def __init__(self, sink: IO[bytes], names: Sequence[str], delimiter: str) -> None:
        self._sink, self._delimiter = sink, delimiter
        header = io.StringIO()
        csv.writer(header, delimiter=delimiter, lineterminator="\n").writerow(names)
        sink.write(header.getvalue().encode())

    def write_table(self, table: Any) -> None:
        arrow = require("pyarrow.csv", _EXTRA, _PURPOSE)
        quotes = "needed" if any(map(self._needs_quotes, table.columns)) else "none"
        options = arrow.WriteOptions(include_header=False, delimiter=self._delimiter, quoting_style=quotes)
        arrow.write_csv(table, self._sink, write_options=options)
        self._sink.flush()  # who reads a pipe need not wait

    def _needs_quotes(self, column: Any) -> bool:
        pa, pc = require("pyarrow", _EXTRA, _PURPOSE), require("pyarrow.compute", _EXTRA, _PURPOSE)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            return False
        # Without quotes the empty text would be nothing.
        special = pc.match_substring_regex(column, f'^$|[{self._delimiter}"\\r\\n]')
        return bool(pc.any(special).as_py())

    def close(self) -> None:
        self._sink.flush()


@contextmanager
def open_writer(place: str, format: str | None = None) -> Iterator[Writer]:
    """Open a file for tables, which takes its place whole or not at all; "-" is stdout, CSV by default.

    Parameters
    ----------
    place : str
    format : {"csv", "tsv", "parquet", "arrow"}, optional
        By default told by the name. Arrow is a stream of record batches.
    """
    kind = format_of(place, format, "csv" if place == STREAM else None)
    with ExitStack() as stack:
        sink: IO[bytes]
        if place == STREAM:
            sink = sys.stdout.buffer
            if kind == "parquet":  # it asks where it stands, which a pipe cannot tell
                sink = stack.enter_context(_spooled(sink))
        else:
            folder = Path(place).parent
            if not folder.is_dir():
                raise FileNotFoundError(f"there is no folder {os.fspath(folder)} for {place}.")
            sink = stack.enter_context(atomic_write(place))
        writer = Writer(sink, kind)
        yield writer
        writer.close()


@contextmanager
def _spooled(sink: IO[bytes]) -> Iterator[IO[bytes]]:
    whole = io.BytesIO()
    yield whole
    sink.write(whole.getvalue())
