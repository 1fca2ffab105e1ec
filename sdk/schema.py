"""The string half of the table codec: a frame of any container to plain arrays, and back.

`Schema.fit` gives each column a kind (`lookalike.columns`). Unless `overrides` says otherwise, the first line
that holds decides:

=============  ============================================================================================
kind           a column that
=============  ============================================================================================
Constant       has one distinct value, or none at all (and is not categorical)
Identifier     is text, all distinct, 50 rows or more; or whole numbers, all distinct, 50 rows or more, and
               consecutive, strictly monotonic or named like a key (``id``, ``order_key``, ``userId``)
Categorical    is text, categorical, Enum or dictionary; or whole numbers with at most 10 distinct values and
               at least 5 rows a value
Boolean        holds truth values
Datetime       holds dates or instants
Duration       holds spans of time, or times of day
Number         holds any other whole numbers, decimals or floats
=============  ============================================================================================

In a numpy array of a numeric dtype every column that varies is a Number. ``None``, ``NaN``, ``NaT`` and
``pandas.NA`` are missing; empty text is a value. Infinity is refused. Nested and binary columns are refused
unless they are declared `Ignored`.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike.arrays import DictFrame, Frame, NumpyFrame, pictures_of
from lookalike.columns import Column, Encoded, Ignored
from lookalike.errors import ConditionError, LookalikeWarning, SchemaError, did_you_mean
from lookalike.frames import WRITERS, open_frame
from lookalike.identifiers import Identifier
from lookalike.images import Image, Template
from lookalike.levelled import Boolean, Categorical, Constant, Levelled
from lookalike.measured import Datetime, Duration, Measured, Number, decimals_of, precision_of
from lookalike.values import Array, Name, Storage, UnreadableError, Values, shorten, values_of

__all__ = [
    "Boolean",
    "Categorical",
    "Constant",
    "Datetime",
    "Duration",
    "Identifier",
    "Ignored",
    "Number",
    "Schema",
    "Table",
    "Template",
]

_SHOWN_COLUMNS = 40

_KINDS: dict[str, type[Column]] = {
    kind.kind: kind
    for kind in (
        Number,
        Datetime,
        Duration,
        Categorical,
        Boolean,
        Constant,
        Identifier,
        Image,
        Template,
        Ignored,
    )
}

# The first that suits is taken: what has one value is constant whatever its type, and a key is no number.
_INFERENCE: tuple[type[Column], ...] = (
    Constant,
    Identifier,
    Categorical,
    Boolean,
    Datetime,
    Duration,
    Number,
)


def infer(values: Values, plain_array: bool = False) -> Column:
    """Choose the kind of a column. `plain_array`: it is part of a numeric matrix."""
    return next(kind() for kind in _INFERENCE if kind.suits(values, plain_array))


def encode_cell(frame: Frame, position: int, column: Encoded) -> float | int | None:
    """Encode one value of a row that came as a dict; None where the column has to be read."""
    return column.cell(frame.columns[position]) if isinstance(frame, DictFrame) and frame.is_row else None


@dataclass(frozen=True, eq=False)
class Table:
    """Rows as a model takes them.

    Attributes
    ----------
    numbers : ndarray of shape (n, n_numbers), float64
        NaN where missing. May be a read-only view of the caller's array.
    ids : ndarray of shape (n, n_categories), int64
        A level's rank by falling frequency in fit; the number of levels for a value that fit did not see, and
        one more where missing.
    """

    numbers: NDArray[np.float64]
    ids: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, index: slice | NDArray[Any]) -> Table:
        """Select rows by a slice, positions or a mask."""
        return Table(self.numbers[index], self.ids[index])

    @classmethod
    def join(cls, tables: Sequence[Table]) -> Table:
        """Put tables one below the other."""
        return cls(np.concatenate([t.numbers for t in tables]), np.concatenate([t.ids for t in tables]))

    @classmethod
    def cut(cls, tables: Iterable[Table], size: int) -> Iterator[Table]:
        """Cut tables that lie one below the other into some of `size` rows; the last may have fewer."""
        held: list[Table] = []
        for table in tables:
            held.append(table)
            n = sum(map(len, held))
            if n >= size:
                whole, over = cls.join(held), n % size
                yield from (whole.rows(slice(i, i + size)) for i in range(0, n - over, size))
                held = [whole.rows(slice(n - over, n))]
        if held and (rest := cls.join(held)):
            yield rest


@dataclass(frozen=True, repr=False)
class Schema:
    """What the columns of a table are, and how to take them to arrays and back.

    Attributes
    ----------
    columns : tuple of Column
        Fitted kinds in the order of the table.
    container : {"numpy", "pandas", "polars", "pyarrow"}
        What `decode` returns.

    Examples
    --------
    >>> import numpy as np
    >>> schema = Schema.fit(np.array([[1.5, 2.0], [0.5, 4.0]]))
    >>> schema
    Schema of a numpy table, 2 columns
      'x0'  number  0.5 to 1.5
      'x1'  number  2 to 4
    >>> schema.decode(schema.encode([[1.5, 2.0]]))
    array([[1.5, 2. ]])
    """

    columns: tuple[Column, ...]
    container: str

    def __post_init__(self) -> None:
        _check_image(self.columns)

    @classmethod
    def fit(cls, data: object, overrides: Mapping[Any, Column] | None = None) -> Schema:
        """Learn the columns of a table.

        Parameters
        ----------
        data : DataFrame, pyarrow.Table or array-like of shape (n_rows, n_columns)
            pandas, polars, pyarrow or numpy.
        overrides : mapping of column name to kind, optional
            Such as ``{"zip": la.Categorical(), "id": la.Ignored()}``; columns of an array are named ``"x0"``,
            ``"x1"``, ... Other columns are inferred.

        Raises
        ------
        SchemaError
            If a column cannot be read, or cannot be of the kind asked for, or none is left to model.
        """
        frame = open_frame(data)
        if overrides is not None and not isinstance(overrides, Mapping):
            raise SchemaError(
                "schema must map column names to kinds, such as {'zip': la.Categorical()}, got "
                f"{overrides!r}."
            )
        wishes = dict(overrides or {})
        for name, wish in wishes.items():
            _check_wish(frame, name, wish)
        known = _fit_matrix(frame, wishes)
        columns = []
        for position, name in enumerate(frame.names):
            if position in known:
                columns.append(known[position])
            elif isinstance(wishes.get(name), Ignored):
                columns.append(wishes[name].learned(name=name))  # unread: it may be of any type
            elif (pictures := pictures_of(frame, position)) is not None:
                wish = wishes.get(name, Image())
                if not isinstance(wish, Image):
                    raise SchemaError(f"column {name!r} holds images, and cannot be {wish!r}.")
                columns.append(wish.learn(name, pictures))
            else:
                values = frame.column(position)
                kind = wishes.get(name) or infer(values, plain_array=_is_numeric_matrix(frame))
                columns.append(kind.fit(values))
        schema = cls(tuple(columns), frame.container)
        if not schema.number_columns and not schema.category_columns:
            raise SchemaError(
                "no column is left to model: "
                + ", ".join(f"{c.name!r} is of kind {c.kind}" for c in columns[:5])
                + f". Declare a kind for one, such as schema={{{columns[0].name!r}: la.Categorical()}}."
            )
        return schema

    @cached_property
    def names(self) -> list[Name]:
        """Names of all columns seen in fit, in order."""
        return [column.name for column in self.columns]

    @cached_property
    def number_columns(self) -> tuple[Measured, ...]:
        """The columns of `Table.numbers`, in order; of an image each channel of a pixel is one."""
        measured = tuple(column for column in self.columns if isinstance(column, Measured))
        return measured if self.raster is None else self.raster.cells()

    @cached_property
    def images(self) -> tuple[tuple[Image, slice], ...]:
        """The columns of images, and which of the numbers are theirs."""
        found, start = [], 0
        for column in self.columns:
            if isinstance(column, Template):
                continue
            size = column.size if isinstance(column, Image) else isinstance(column, Measured)
            if isinstance(column, Image):
                found.append((column, slice(start, start + size)))
            start += size
        return tuple(found)

    @property
    def image(self) -> Image | None:
        """The column of images, if there is one: beside it there are no other numbers."""
        return self.images[0][0] if self.images else None

    @property
    def template(self) -> Template | None:
        """The column that says what images should look like, if there is one."""
        return next((column for column in self.columns if isinstance(column, Template)), None)

    @property
    def pictures(self) -> tuple[Image, ...]:
        """The images, and after them their template."""
        template = () if self.template is None else (self.template,)
        return (*(image for image, _ in self.images), *template)

    @property
    def raster(self) -> Image | None:
        """The images as a model sees them: where there is a template, how they differ from it."""
        image = self.image
        if image is None or self.template is None:
            return image
        return image.learned(low=image.low - image.high, high=image.high - image.low)

    @cached_property
    def category_columns(self) -> tuple[Levelled, ...]:
        """The columns of `Table.ids`, in order."""
        return tuple(column for column in self.columns if isinstance(column, Levelled))

    @cached_property
    def _by_name(self) -> dict[Name, Column]:
        return {column.name: column for column in self.columns}

    @cached_property
    def widths(self) -> tuple[int, int]:
        """Numbers and ids of a row."""
        numbers = sum(isinstance(column, Measured) for column in self.columns)
        return numbers + sum(image.size for image, _ in self.images), len(self.category_columns)

    @cached_property
    def tensors(self) -> tuple[Encoded | Image, ...]:
        """The columns that are a tensor each to an exported graph; an image is one, whatever its pixels."""
        return (*(self.pictures or self.number_columns), *self.category_columns)

    def apart(self, numbers: Array, ids: Array) -> Iterator[tuple[Encoded | Image, Array]]:
        """Each of `tensors` with its part of the arrays of a `Table`: (n,), or (n, size) of an image.

        An image and its template are made up: some that differ as the numbers say.
        """
        parts = self._shown(numbers) or numbers.T
        return zip(self.tensors, [*parts, *ids.T], strict=True)

    def _shown(self, numbers: Array, like: object = None) -> list[Array]:
        """The numbers of each of `pictures`, (n, size); with a template those of rows alike, or made up."""
        template = self.template
        if template is None:
            return [numbers[:, part] for _, part in self.images]
        if like is None:
            return [*template.pairs(numbers, self.images[0][0].low)]
        frame, position = self.open(like)
        seen, wanted = (c.encode(pictures_of(frame, position[c.name])) for c in self.pictures)
        return [template.differing(numbers, seen, wanted), wanted]

    def encode(self, data: object, allow_missing: bool = False, *, owner: str = "the schema") -> Table:
        """Turn a table into arrays.

        Parameters
        ----------
        data : DataFrame, pyarrow.Table or array-like of shape (n_rows, n_columns)
            Columns are matched by name, in any order; identifiers and ignored columns may be absent. Arrays
            are matched by position.
        allow_missing : bool
            Take missing values also in columns that had none in fit.
        owner : str
            Who to name as the one that expects another number of columns.

        Raises
        ------
        SchemaError
            If a column is missing, unknown or of another type than in fit, or holds what no row may hold.
        """
        frame, position = self.open(data, owner=owner)
        table = self.encode_at_once(frame, position, allow_missing)
        if table is not None:
            return table
        numbers = np.empty((frame.n_rows, len(self.number_columns)))
        ids = np.empty((frame.n_rows, len(self.category_columns)), dtype=np.int64)
        cells: tuple[tuple[Array, Sequence[Encoded]], ...] = (
            (numbers, () if self.images else self.number_columns),
            (ids, self.category_columns),
        )
        for image, part in self.images:
            numbers[:, part] = image.encode(pictures_of(frame, position[image.name]), allow_missing)
        if self.template is not None:
            wanted = self.template.encode(pictures_of(frame, position[self.template.name]))
            numbers = self.template.compared(numbers, wanted)
        for array, columns in cells:
            for k, column in enumerate(columns):
                at = position[column.name]
                cell = encode_cell(frame, at, column)
                array[:, k] = column.encode(frame.column(at), allow_missing) if cell is None else cell
        return Table(numbers, ids)

    def encode_at_once(
        self, frame: Frame, position: Mapping[Name, int], allow_missing: bool = False
    ) -> Table | None:
        """As `encode`, for a matrix of plain numbers; None where columns have to be read one by one."""
        if self._plain is None:
            return None
        matrix = frame.matrix([position[name] for name in self.names])
        return None if matrix is None else self._plain.encode(matrix, allow_missing)

    def open(
        self, data: object, *, owner: str = "the schema", whole: bool = True
    ) -> tuple[Frame, dict[Name, int]]:
        """Open a table to be read by column, and find in it each column of fit; without `whole`, some.

        Raises
        ------
        SchemaError
            As `encode`, but for what the cells hold.
        """
        frame = open_frame(data)
        return frame, self._match(frame, owner, whole)

    def _match(self, frame: Frame, owner: str, whole: bool) -> dict[Name, int]:
        """Where in the frame each fitted column is."""
        if self.image is None and frame.container == "images":
            raise SchemaError(f"{owner} learned from a 2-D table, and got an array of images.")
        if self.image is not None and frame.container not in ("images", "dict"):
            raise SchemaError(
                f"{owner} learned from images of shape {self.image.shape}, and got a 2-D table of "
                f"{len(frame.names)} columns."
            )
        given = {name: i for i, name in enumerate(frame.names)}
        by_position = frame.container == "numpy" or (
            self.container == "numpy" and not given.keys() & self._by_name.keys()
        )
        if by_position:
            if len(frame.names) != len(self.columns):
                raise SchemaError(  # scikit-learn's words, which its checks look for
                    f"X has {len(frame.names)} features, but {owner} is expecting {len(self.columns)} "
                    "features as input."
                )
            if frame.container != self.container:
                had, has = ("names", "none") if frame.container == "numpy" else ("no names", "names")
                warnings.warn(
                    f"columns had {had} in fit and have {has} now: they are taken by position.",
                    LookalikeWarning,
                    stacklevel=4,
                )
            return {name: i for i, name in enumerate(self.names)}
        extra = [name for name in frame.names if name not in self._by_name]
        absent = [c.name for c in self.columns if isinstance(c, Encoded | Image) and c.name not in given]
        if extra:
            lost = f" Missing: {_listed(absent)}." if whole and absent else ""
            advice = did_you_mean(extra[0], absent) or " Drop it or fit again."
            raise SchemaError(f"column {extra[0]!r} was not seen in fit.{advice}{lost}")
        if whole and absent:
            others = f" So are {_listed(absent[1:])}." if absent[1:] else ""
            raise SchemaError(
                f"column {absent[0]!r} is missing, but fit saw it.{others} Pass every column of fit."
            )
        return given

    @cached_property
    def _plain(self) -> _PlainMatrix | None:
        return _PlainMatrix.of(self)

    def decode(self, table: Table, *, row_start: int = 0, seed: int = 0, like: object = None) -> Any:
        """Turn arrays into a table of the container and dtypes of fit.

        Numbers come back within the range of fit and on its grid (whole numbers, few decimals, ticks of a
        clock); what has no value, such as an unseen level, comes back missing. Ignored columns are left out.

        Parameters
        ----------
        table : Table
        row_start, seed : int
            Identifiers are a function of the seed and of the row's number, which starts here.
        like : DataFrame, pyarrow.Table, ndarray or dict, optional
            Rows of the same number, of use where images have templates: then numbers are differences. Images
            that differ so from these templates are returned, as like these images as may be; without `like`
            both are made up.

        Returns
        -------
        DataFrame, pyarrow.Table or ndarray
        """
        shape = (len(table), len(self.number_columns)), (len(table), len(self.category_columns))
        if (table.numbers.shape, table.ids.shape) != shape:
            raise SchemaError(
                f"expected arrays of shapes {shape[0]} and {shape[1]}, got {table.numbers.shape} and "
                f"{table.ids.shape}."
            )
        cells = {"numbers": iter(table.numbers.T), "ids": iter(table.ids.T)}
        shown = zip(self.pictures, self._shown(table.numbers, like), strict=True)
        pictures = {column.name: column.decode(numbers) for column, numbers in shown}
        rows = np.arange(row_start, row_start + len(table), dtype=np.int64)
        writer, names, columns = WRITERS[self.container](), [], []
        for column in self.columns:
            if column.name in pictures:
                names.append(column.name)
                columns.append(pictures[column.name])
                continue
            values = (
                column.decode(next(cells[column.part]))
                if isinstance(column, Encoded)
                else column.generate(seed, rows)
            )
            if values is not None:
                names.append(column.name)
                columns.append(writer.column(values))
        return writer.frame(names, columns, len(table))

    def example(self) -> Any:
        """Return a table that shows all a column may hold: every level, the least and the greatest number."""
        sizes = np.array([len(column.levels) for column in self.category_columns], dtype=np.int64)
        row = np.arange(max(2, sizes.max(initial=0)))[:, None]
        ends = np.where(row % 2, np.inf, -np.inf)
        numbers = np.broadcast_to(ends, (len(row), len(self.number_columns)))
        return self.decode(Table(numbers, np.minimum(row, np.maximum(sizes - 1, 0))))

    def condition(self, given: Mapping[Any, object], n: int) -> Table:
        """Encode what rows to be generated should hold.

        Parameters
        ----------
        given : mapping of column name to value
            A scalar, None for missing, or a sequence of one value a row. Times may be ISO 8601 text.
        n : int
            Number of rows.

        Returns
        -------
        Table
            NaN and -1 in the columns that are not in `given`. A NaN in a column of `given` asks for a missing
            value.

        Raises
        ------
        ConditionError
            If a column or level is unknown, a number lies outside the range of fit, or no row can meet it.
        """
        if n < 0:
            raise ValueError(f"the number of rows must be at least 0, got {n}.")
        numbers = np.full((n, len(self.number_columns)), np.nan)
        ids = np.full((n, len(self.category_columns)), -1, dtype=np.int64)
        for name, wanted in given.items():
            column, part, position = self.place(name)
            (numbers, ids)[part][:, position] = _encode_condition(column, wanted, n)
        return Table(numbers, ids)

    def place(self, name: Any) -> tuple[Encoded, int, int]:
        """Find the column that a condition names: it, 0 for numbers or 1 for ids, and its number in these.

        Raises
        ------
        ConditionError
            If there is none, or it is not modelled.
        """
        if name not in self._by_name:
            raise ConditionError(
                f"{name!r} is not a column.{did_you_mean(name, self.names)} "
                f"Columns are {_listed(self.names)}."
            )
        if any(name == image.name for image, _ in self.images):
            raise ConditionError(
                f"{name!r} holds images, of which no condition can be written. To complete images of which "
                "pixels are known, call impute, or give a table of them with the others masked."
            )
        if name not in self._places:
            kind = self._by_name[name].kind
            raise ConditionError(
                f"{name!r} is of kind {kind}: it is not modelled, so it cannot be given. Leave it out."
            )
        return self._places[name]

    @cached_property
    def _places(self) -> dict[Name, tuple[Encoded, int, int]]:
        parts: tuple[tuple[Encoded, ...], ...] = self.number_columns, self.category_columns
        return {c.name: (c, k, at) for k, columns in enumerate(parts) for at, c in enumerate(columns)}

    def to_dict(self) -> dict[str, Any]:
        """Return what JSON needs to rebuild the schema."""
        return {"container": self.container, "columns": [column.to_dict() for column in self.columns]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Schema:
        """Rebuild a schema from `to_dict`."""
        try:
            columns = tuple(_column_from_dict(column) for column in data["columns"])
            container = next(word for word in WRITERS if word == data["container"])
        except (TypeError, KeyError, ValueError, StopIteration) as error:
            raise SchemaError(f"this is not the description of a schema: {error!r}.") from error
        return cls(columns, container)

    def __repr__(self) -> str:
        shown = self.columns[:_SHOWN_COLUMNS]
        wide = max((len(repr(c.name)) for c in shown), default=0)
        tall = max((len(c.kind) for c in shown), default=0)
        lines = [f"Schema of a {self.container} table, {_count(len(self.columns), 'column')}"]
        for c in shown:
            share = f" ({c.missing:.1%} missing)" if c.missing else ""
            lines.append(f"  {c.name!r:{wide}}  {c.kind:{tall}}  {c.describe()}{share}".rstrip())
        if len(self.columns) > len(shown):
            lines.append(f"  ... and {len(self.columns) - len(shown)} more")
        return "\n".join(lines)


def _check_image(columns: Sequence[Column]) -> None:
    """An image may have labels and a template beside it, and no other numbers."""
    templates = [column for column in columns if isinstance(column, Template)]
    images = [column for column in columns if isinstance(column, Image) and column not in templates]
    numbers = [column for column in columns if isinstance(column, Measured)]
    if len(images) > 1:
        raise SchemaError(
            f"columns {images[0].name!r} and {images[1].name!r} both hold images: one can be learned. If one "
            f"shows what the other should look like, say schema={{{images[1].name!r}: "
            f"la.Template(of={images[0].name!r})}}."
        )
    if len(templates) > 1:
        raise SchemaError(f"columns {templates[0].name!r} and {templates[1].name!r} are both templates.")
    for template in templates:
        if [template.of] != [image.name for image in images]:
            raise SchemaError(
                f"column {template.name!r} is the template of {template.of!r}, which is no column of images."
            )
        template.check(images[0])
    if images and numbers:
        name = numbers[0].name
        raise SchemaError(
            f"column {name!r} holds numbers beside images, which cannot be learned together. Leave it out "
            f"with schema={{{name!r}: la.Ignored()}}, or make classes of it with la.Categorical()."
        )


def _column_from_dict(data: Mapping[str, Any]) -> Column:
    given = dict(data)
    made = _KINDS[given.pop("kind")]()
    if set(given) != {f.name for f in fields(made)}:
        raise ValueError(f"{given.get('name')!r} has other fields than a {made.kind}")
    state = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return made.learned(**{**state, "storage": Storage.from_dict(given["storage"])})


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)


def _listed(names: list[Name]) -> str:
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(map(repr, names[:10])) + more


def _check_wish(frame: Frame, name: object, wish: object) -> None:
    if name not in frame.names:
        raise SchemaError(
            f"schema names column {name!r}, which the data lack.{did_you_mean(name, frame.names)} "
            f"Columns are {_listed(frame.names)}."
        )
    if not isinstance(wish, Column):
        hint = (
            f"la.{wish.__name__}()"
            if isinstance(wish, type) and issubclass(wish, Column)
            else "la.Categorical()"
        )
        raise SchemaError(f"schema[{name!r}] must be a kind of column, such as {hint}, got {wish!r}.")


def _encode_condition(column: Encoded, wanted: Any, n: int) -> Array:
    shape = given_shape(wanted, column.name, n)
    one = wanted[()] if isinstance(wanted, np.ndarray) else wanted
    return column.condition(given_values(column.name, wanted if shape else [one]))


def given_values(name: Name, wanted: Any) -> Values:
    """Read the values that a condition names, (n,), or raise ConditionError."""
    try:
        return values_of(name, wanted)
    except UnreadableError as error:
        raise ConditionError(
            f"{name!r} is given {shorten(repr(wanted))}, which is no list of values. Give one value, or one "
            "a row, or a condition, such as la.OneOf([...]) or la.Between(low, high)."
        ) from error
    except SchemaError as error:
        raise ConditionError(f"in given, {error}") from error


def given_shape(wanted: Any, name: Name = "", n: int | None = None) -> tuple[int, ...]:
    """The shape of what a column is given: of one value, or of one a row; n rows, if n is not None."""
    if isinstance(wanted, (str, bytes, Mapping, set)):
        return ()
    shape = (len(wanted),) if isinstance(wanted, (list, tuple)) else np.shape(wanted)
    if n is not None and shape not in ((), (n,)):
        raise ConditionError(
            f"{name!r} is given values of shape {shape} for {n} rows. Give one value, or one a row."
        )
    return shape


# ---- numeric matrices, all columns at once -----------------------------------------------------------------


def _is_numeric_matrix(frame: Frame) -> bool:
    return isinstance(frame, NumpyFrame) and frame.array.dtype.kind in "fiub"


def _fit_matrix(frame: Frame, wishes: Mapping[Any, Column]) -> dict[int, Column]:
    """Fit the plain numbers of a numeric matrix, as `Number.fit` would one by one."""
    if (
        not isinstance(frame, NumpyFrame)
        or frame.array.dtype.kind not in "fiu"
        or frame.array.dtype.itemsize > 8
    ):
        return {}
    array = frame.array
    low, high = np.fmin.reduce(array, axis=0), np.fmax.reduce(array, axis=0)
    if array.dtype.kind == "f":
        state: dict[str, Any] = {"decimals": None}
        missing = np.isnan(array).mean(axis=0)
        # Columns that may have few decimals are looked at one by one: a sample rules the others out.
        few = array[:: max(len(array) // 64, 1)].astype(np.float64)
        varied = np.isfinite(low) & np.isfinite(high) & (low < high)
        done = varied & np.array([decimals is None for decimals in _sampled_decimals(few, array.dtype)])
    else:
        state = {"decimals": 0, "integral": True}
        missing = np.zeros(array.shape[1])
        done = (low < high) & (low >= -(2**53)) & (high <= 2**53)
    storage = Storage("float" if array.dtype.kind == "f" else "integer", array.dtype.str)
    columns = zip(np.flatnonzero(done).tolist(), low[done].tolist(), high[done].tolist(), strict=True)
    return {
        i: Number().learned(
            name=frame.names[i], storage=storage, missing=float(missing[i]), low=least, high=most, **state
        )
        for i, least, most in columns
        if frame.names[i] not in wishes
    }


def _sampled_decimals(few: NDArray[np.float64], dtype: np.dtype[Any]) -> list[int | None]:
    precision = precision_of(Storage("float", dtype.str))
    return [decimals_of(column[~np.isnan(column)], precision) for column in few.T]


@dataclass(frozen=True, eq=False)
class _PlainMatrix:
    """Encodes arrays of which every column is a plain number or a constant."""

    numbers: NDArray[np.int64] | slice
    constants: NDArray[np.int64]
    values: NDArray[np.float64]  # of the constants; NaN for one that is always missing
    n_levels: NDArray[np.int64]  # of the constants
    nullable: NDArray[np.bool_]

    @classmethod
    def of(cls, schema: Schema) -> _PlainMatrix | None:
        plain = [
            isinstance(c, Encoded)
            and c.storage.family in ("float", "integer")
            and (isinstance(c, Constant) or (isinstance(c, Number) and c.is_plain))
            for c in schema.columns
        ]
        if not all(plain):
            return None
        numbers = np.array([i for i, c in enumerate(schema.columns) if isinstance(c, Number)], dtype=np.int64)
        held = [(i, c) for i, c in enumerate(schema.columns) if isinstance(c, Constant)]
        return cls(
            slice(None) if not held else numbers,
            np.array([i for i, _ in held], dtype=np.int64),
            np.array([c.levels[0] if c.levels else np.nan for _, c in held], dtype=np.float64),
            np.array([len(c.levels) for _, c in held], dtype=np.int64),
            np.array([isinstance(c, Encoded) and c.may_be_missing for c in schema.columns], dtype=bool),
        )

    def encode(self, array: Array, allow_missing: bool) -> Table | None:
        """Encode, or return None where a column has to be looked at: something is wrong with it."""
        data = array.astype(np.float64, copy=False)
        with np.errstate(over="ignore", invalid="ignore"):
            total = data.sum()
        if not np.isfinite(total):
            if np.isinf(data).any():
                return None
            if not allow_missing and (np.isnan(data).any(axis=0) & ~self.nullable).any():
                return None
        numbers = data[:, self.numbers]
        if np.shares_memory(numbers, array):
            numbers.flags.writeable = False  # a view: what it shows is the caller's
        held = data[:, self.constants]
        ids = np.where(held == self.values, 0, self.n_levels)
        ids = np.where(np.isnan(held), self.n_levels + 1, ids)
        return Table(numbers, ids)
