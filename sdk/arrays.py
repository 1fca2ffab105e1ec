"""Matrices and dicts of columns as tables, and what all tables have in common."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Protocol

import numpy as np

from lookalike.errors import SchemaError
from lookalike.values import Array, Name, Values, has_rows, read_array, shorten, to_objects, values_of

# ---- writing: numpy ----

IMAGE_DIMENSIONS = (3, 4)
BLANKS: dict[str, Any] = {"nan": np.nan, "NaT": np.datetime64("NaT")}


def _object_column(values: Values, blanks: Mapping[str, Any] = BLANKS) -> Array:
    array = np.empty(len(values), dtype=object)
    array[:] = to_objects(values)
    array[values.missing] = blanks.get(values.storage.blank)
    return array


def numpy_column(values: Values, blanks: Mapping[str, Any] = BLANKS) -> Array:
    """An array of the dtype named in the storage; wider where a value would not survive in it."""
    if values.storage.native.startswith("object"):
        return _object_column(values, blanks)
    dtype = np.dtypes.StringDType() if values.storage.native == "T" else np.dtype(values.storage.native)
    data = values.plain()
    if dtype.kind in "Mm":
        stamps = data.astype(f"{dtype.kind}8[{values.storage.unit}]")
        stamps[values.missing] = "NaT"
        return stamps.astype(dtype, copy=False)
    if dtype.kind in "UT":
        text = np.array(to_objects(replace(values, missing=np.zeros(len(values), bool))), dtype=object)
        text[values.missing] = ""
        return text.astype(dtype) if dtype.kind == "T" else _wide_enough(text, dtype)
    if values.any_missing and dtype.kind != "f":
        if dtype.kind == "b":
            return _object_column(values, blanks)
        dtype, data = np.dtype(np.float64), data.astype(np.float64)
    if values.any_missing:
        data = np.where(values.missing, np.nan, data)
    with np.errstate(over="ignore"):
        cast = data.astype(dtype)
    return cast if dtype.kind not in "iu" or np.array_equal(cast, data) else data


def _wide_enough(text: Array, dtype: np.dtype[Any]) -> Array:
    array = text.astype(np.str_)
    return array.astype(dtype) if array.dtype.itemsize <= dtype.itemsize else array


# ---- the containers ----------------------------------------------------------------------------------------


class Frame(Protocol):
    """A table of one container, ready to be read column by column."""

    @property
    def container(self) -> str:
        """Which kind of table it is."""

    names: list[Name]
    n_rows: int

    def column(self, position: int) -> Values:
        """Read one column."""

    def matrix(self, positions: list[int]) -> Array | None:
        """Read columns of plain numpy numbers at once, or None where one is anything else."""


class Writer(Protocol):
    """Writes columns back into the container that `Frame` reads."""

    def column(self, values: Values) -> Any:
        """Hold values as their storage says."""

    def frame(self, names: Sequence[Name], columns: Sequence[Any], n_rows: int) -> Any:
        """Join columns into a table."""


class NumpyFrame:
    """A matrix; its columns are x0, x1, ..."""

    container: ClassVar[str] = "numpy"

    def __init__(self, array: Array) -> None:
        self.array = array
        self.names: list[Name] = [f"x{i}" for i in range(array.shape[1])]
        self.n_rows = array.shape[0]

    def column(self, position: int) -> Values:
        return read_array(self.names[position], self.array[:, position])

    def matrix(self, positions: list[int]) -> Array | None:
        plain = self.array.dtype.kind in "fiu" and self.array.dtype.itemsize <= 8
        return self.array if plain else None


class NumpyWriter:
    """Writes a matrix, as wide in dtype as its columns need."""

    def column(self, values: Values) -> Array:
        if values.family == "nothing" and values.storage.native != "object":
            return np.full(len(values), np.nan, dtype=values.storage.native)
        return numpy_column(values)

    def frame(self, names: Sequence[Name], columns: Sequence[Array], n_rows: int) -> Array:
        matrix = np.empty((n_rows, len(columns)), dtype=np.result_type(*{c.dtype for c in columns}))
        for i, column in enumerate(columns):
            matrix[:, i] = column
        return matrix


class ImagesFrame:
    """Images alone: a table of one column."""

    container: ClassVar[str] = "images"

    def __init__(self, array: Array) -> None:
        self.columns = [array]
        self.names: list[Name] = ["image"]
        self.n_rows = array.shape[0]

    def column(self, position: int) -> Values:
        raise SchemaError(
            f"got images, an array of shape {self.columns[0].shape}, where fit had a table of another kind."
        )

    def matrix(self, positions: list[int]) -> Array | None:
        return None


class ImagesWriter(NumpyWriter):
    """Writes an array of images."""

    def frame(self, names: Sequence[Name], columns: Sequence[Array], n_rows: int) -> Array:
        return columns[0]


def pictures_of(frame: Frame, position: int) -> Array | None:
    """A column that holds images: an array of three dimensions, or of four with one for channels."""
    held = frame.columns[position] if isinstance(frame, (DictFrame, ImagesFrame)) else None
    return held if isinstance(held, np.ndarray) and held.ndim in IMAGE_DIMENSIONS else None


class DictFrame:
    """A mapping of names to columns: lists, arrays or series. One value each, not in lists, is one row."""

    container: ClassVar[str] = "dict"

    def __init__(self, native: Mapping[Any, Any]) -> None:
        self.names: list[Name] = [plain_name(name) for name in native]
        self.columns = list(native.values())
        single = [not has_rows(column) for column in self.columns]
        self.is_row = all(single)
        self.n_rows = 1 if self.is_row else self._length(single)

    def _length(self, single: list[bool]) -> int:
        if any(single):
            i = single.index(True)
            raise SchemaError(
                f"column {self.names[i]!r} is the single value {shorten(repr(self.columns[i]))}, and others "
                "have many. Give a value to each column, for one row, or a list or array."
            )
        lengths = [len(column) for column in self.columns]
        for name, length in zip(self.names, lengths, strict=True):
            if length != lengths[0]:
                raise SchemaError(
                    f"column {name!r} has {length} values, but {self.names[0]!r} has {lengths[0]}. Give each "
                    "column one value a row."
                )
        return lengths[0]

    def column(self, position: int) -> Values:
        name, column = self.names[position], self.columns[position]
        values = [column] if self.is_row else column
        if not isinstance(values, (list, tuple)) and np.ndim(values) != 1:
            raise SchemaError(
                f"column {name!r} has {np.ndim(values)} dimensions, but one value a row is expected."
            )
        return values_of(name, values)

    def matrix(self, positions: list[int]) -> Array | None:
        return None


class DictWriter(NumpyWriter):
    """Writes a dict of arrays."""

    def frame(self, names: Sequence[Name], columns: Sequence[Array], n_rows: int) -> Any:
        return dict(zip(names, columns, strict=True))


def plain_name(name: object) -> Name:
    if type(name) is str:
        return name
    if isinstance(name, (int, np.integer)) and not isinstance(name, bool):
        return int(name)
    if isinstance(name, str):
        return str(name)
    raise SchemaError(
        f"column name {name!r} is a {type(name).__name__}; names must be text or integers. "
        "Rename it, such as with df.columns = ['_'.join(map(str, c)) for c in df.columns] for several levels."
    )


def as_matrix(data: Any) -> Array:
    if isinstance(data, np.ma.MaskedArray):  # asarray would show what is under the mask
        hidden = np.ma.getmaskarray(data)
        data = data.data.astype(np.float64 if data.dtype.kind in "fiu" else object)
        data[hidden] = np.nan if data.dtype.kind == "f" else None
    try:
        array = np.asarray(data)
        if array.dtype.kind in "US" and isinstance(data, (list, tuple)):
            array = np.asarray(data, dtype=object)  # numpy turns [[1, "a"]] into text; keep the number
    except (ValueError, TypeError, RuntimeError) as error:
        raise SchemaError(f"the data cannot be read as rows of one length: {error}") from error
    if array.dtype.kind == "c":
        raise SchemaError(
            f"Complex data not supported: dtype {array.dtype}. Pass real and imaginary columns."
        )
    if array.dtype.names is not None:
        raise SchemaError("a structured array is not supported. Pass pandas.DataFrame(data).")
    if array.ndim != 2:
        advice = (
            "Reshape your data: data.reshape(-1, 1) for one column, data.reshape(1, -1) for one row."
            if array.ndim < 2
            else "Reshape it to (rows, columns); images are (n, height, width) or (n, height, width, 1 to 4)."
        )
        raise SchemaError(
            f"expected a 2-D table, got {array.ndim} dimension(s) of shape {array.shape}. {advice}"
        )
    return array
