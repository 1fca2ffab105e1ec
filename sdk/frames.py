"""Tables of pandas, polars and Arrow: read a column as `Values`, write it back by its dtype; open a table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import narwhals.stable.v2 as nw
import numpy as np
from narwhals import dependencies
from numpy.typing import NDArray

from lookalike.arrays import (
    BLANKS,
    IMAGE_DIMENSIONS,
    DictFrame,
    DictWriter,
    Frame,
    ImagesFrame,
    ImagesWriter,
    NumpyFrame,
    NumpyWriter,
    Writer,
    as_matrix,
    numpy_column,
    plain_name,
)
from lookalike.errors import SchemaError
from lookalike.series import exact_series, read_series, text_series
from lookalike.values import (
    Array,
    Name,
    Storage,
    UnreadableError,
    Values,
    label_array,
    read_array,
    to_objects,
)


class PandasFrame:
    """A pandas DataFrame."""

    container: ClassVar[str] = "pandas"

    def __init__(self, native: Any) -> None:
        self.native = native
        self.names: list[Name] = [plain_name(name) for name in native.columns.tolist()]
        self.n_rows = len(native)

    def column(self, position: int) -> Values:
        name, native = self.names[position], self.native.iloc[:, position]
        dtype = native.dtype
        if isinstance(dtype, np.dtype):
            if dtype.kind in "OcSV":
                return read_array(name, native.to_numpy())
            return _rename(read_array(name, native.to_numpy()), str(dtype))
        return _PANDAS_READERS.get(type(dtype).__name__, _pandas_extension)(name, native)

    def matrix(self, positions: list[int]) -> Array | None:
        for dtype in self.native.dtypes.tolist():
            if not isinstance(dtype, np.dtype) or dtype.kind not in "fiu" or dtype.itemsize > 8:
                return None
        array: Array = self.native.iloc[:, positions].to_numpy()
        return array


def _rename(values: Values, native: str) -> Values:
    return replace(values, storage=replace(values.storage, native=native))


def _pandas_extension(name: Name, native: Any) -> Values:
    return read_series(name, nw.from_native(native, series_only=True), str(native.dtype))


def _pandas_text(name: Name, native: Any) -> Values:
    dtype = native.dtype
    word = "str" if isinstance(dtype.na_value, float) else "string"
    return text_series(name, nw.from_native(native, series_only=True), f"{word}:{dtype.storage}")


def _pandas_category(name: Name, native: Any) -> Values:
    categories = native.cat.categories
    if type(categories.dtype).__name__ in ("IntervalDtype", "PeriodDtype"):
        raise UnreadableError(
            f"column {name!r} has {type(categories.dtype).__name__[:-5].lower()}s as categories, such as "
            f"{categories[0]}. Turn them into text: df[{name!r}] = df[{name!r}].astype(str)."
        )
    inner = PandasFrame(categories.to_frame(name=str(name))).column(0)
    codes = native.cat.codes.to_numpy().astype(np.int64)
    storage = Storage(
        inner.family,
        "category",
        unit=inner.storage.unit,
        zone=inner.storage.zone,
        categories=tuple(inner.plain().tolist()),
        ordered=bool(native.cat.ordered),
        labels=inner.storage,
    )
    labels = inner.plain() if len(inner) else np.zeros(0, dtype=object)
    return Values(name, storage, np.maximum(codes, 0), codes < 0, labels)


def _pandas_arrow(name: Name, native: Any) -> Values:
    pa: Any = nw.Implementation.PYARROW.to_native_namespace()
    array = nw.from_native(native, series_only=True).to_arrow()
    values = _arrow_column(name, array if isinstance(array, pa.ChunkedArray) else pa.chunked_array([array]))
    return _rename(values, f"arrow:{values.storage.native}")


def _pandas_sparse(name: Name, native: Any) -> Values:
    raise SchemaError(
        f"column {name!r} is sparse ({native.dtype}). Make it dense: "
        f"df[{name!r}] = df[{name!r}].sparse.to_dense()."
    )


_PANDAS_READERS: dict[str, Callable[[Name, Any], Values]] = {
    "StringDtype": _pandas_text,
    "CategoricalDtype": _pandas_category,
    "ArrowDtype": _pandas_arrow,
    "SparseDtype": _pandas_sparse,
}


class PandasWriter:
    """Writes a pandas DataFrame."""

    def __init__(self) -> None:
        self.pandas: Any = nw.Implementation.PANDAS.to_native_namespace()

    def column(self, values: Values) -> Any:
        array = self._array(values)
        # Named, for pandas turns objects that are all text into its text dtype.
        objects = isinstance(array, np.ndarray) and array.dtype.kind == "O"
        return self.pandas.Series(array, dtype=object if objects else None)

    def _array(self, values: Values) -> Any:
        pd, native = self.pandas, values.storage.native
        if native == "category":
            dtype = pd.CategoricalDtype(
                pd.Index(self._array(_categories_of(values))), ordered=values.storage.ordered
            )
            return pd.Categorical.from_codes(_codes_of(values), dtype=dtype)
        if native.startswith("arrow:"):
            column = ArrowWriter().column(_rename(values, native[6:]))
            return pd.arrays.ArrowExtensionArray(column)
        if native.startswith("str"):
            word, storage = native.split(":")
            options = {"na_value": np.nan} if word == "str" else {}
            return pd.array(to_objects(values), dtype=pd.StringDtype(storage, **options))
        if values.storage.zone is not None and not native.startswith("object"):
            stamps = numpy_column(_rename(values, f"datetime64[{values.storage.unit}]"))
            return pd.DatetimeIndex(stamps).tz_localize("UTC").tz_convert(values.storage.zone)
        if native[0].isupper() or native == "boolean":
            return self._masked(values)
        if values.family == "nothing" and native != "object":
            return np.full(len(values), np.nan).astype(native)
        return numpy_column(values, {**BLANKS, "NaT": pd.NaT, "NA": pd.NA})

    def _masked(self, values: Values) -> Any:
        """Nullable integers, floats and booleans."""
        native = values.storage.native
        holder = getattr(self.pandas.arrays, _MASKED[native[0]])
        nothing = np.zeros(len(values), dtype=bool)
        whole = replace(
            values, data=np.where(values.missing, 0, values.plain()), missing=nothing, labels=None
        )
        data = numpy_column(_rename(whole, {"boolean": "bool"}.get(native, native.lower())))
        if values.storage.blank == "nan":
            return holder(np.where(values.missing, np.nan, data), nothing)
        return holder(data, values.missing.copy())

    def frame(self, names: Sequence[Name], columns: Sequence[Any], n_rows: int) -> Any:
        # Arrays, where pandas takes them for what they are: it would compare the index of every series.
        arrays = [series if series.dtype == object else series.array for series in columns]
        return self.pandas.DataFrame(dict(zip(names, arrays, strict=True)), index=range(n_rows))


_MASKED = {"I": "IntegerArray", "U": "IntegerArray", "F": "FloatingArray", "b": "BooleanArray"}


def _categories_of(values: Values) -> Values:
    """The categories of a categorical column, as a column."""
    storage = values.storage
    assert storage.labels is not None
    assert storage.categories is not None
    data = label_array(storage.family, storage.categories)
    return Values(values.name, storage.labels, data, np.zeros(len(data), dtype=bool))


def _codes_of(values: Values) -> NDArray[np.int64]:
    """Positions in the categories of the storage; -1 where missing."""
    position = {label: i for i, label in enumerate(values.storage.categories or ())}
    codes, labels = values.coded()
    of_label = np.array([position.get(label, -1) for label in labels], dtype=np.int64)
    found = of_label[codes] if len(of_label) else np.full(len(values), -1, dtype=np.int64)
    return np.where(values.missing, -1, found)


class PolarsFrame:
    """A polars DataFrame."""

    container: ClassVar[str] = "polars"

    def __init__(self, native: Any) -> None:
        self.native = native
        self.names: list[Name] = list(native.columns)
        self.n_rows = native.height

    def column(self, position: int) -> Values:
        name, native = self.names[position], self.native.to_series(position)
        series = nw.from_native(native, series_only=True)
        if isinstance(series.dtype, nw.Enum):
            return _polars_enum(name, native)
        return read_series(name, series, str(native.dtype))

    def matrix(self, positions: list[int]) -> Array | None:
        return None


def _polars_enum(name: Name, native: Any) -> Values:
    categories = tuple(native.dtype.categories.to_list())
    missing = native.is_null().to_numpy()
    codes = native.to_physical().fill_null(0).to_numpy().astype(np.int64)
    labels = np.empty(len(categories), dtype=object)
    labels[:] = categories
    storage = Storage("text", "Enum", categories=categories, ordered=True, labels=Storage("text", "String"))
    return Values(name, storage, codes, missing, labels)


class PolarsWriter:
    """Writes a polars DataFrame."""

    def __init__(self) -> None:
        self.polars: Any = nw.Implementation.POLARS.to_native_namespace()

    def column(self, values: Values) -> Any:
        pl, dtype = self.polars, self._dtype(values.storage)
        series = _POLARS_WRITERS.get(values.family, _polars_objects)(pl, values, dtype)
        try:
            return series.cast(dtype)
        except pl.exceptions.InvalidOperationError:
            return series  # too large for the dtype seen in fit: wider rather than wrong

    def _dtype(self, storage: Storage) -> Any:
        pl, word = self.polars, storage.native.split("(")[0]
        if word == "Enum":
            return pl.Enum(storage.categories)
        if word == "Datetime":
            return pl.Datetime(storage.unit, storage.zone)
        if word == "Duration":
            return pl.Duration(storage.unit)
        if word == "Decimal":
            precision, scale = map(int, re.findall(r"\d+", storage.native))
            return pl.Decimal(precision, scale)
        return getattr(pl, word)

    def frame(self, names: Sequence[Name], columns: Sequence[Any], n_rows: int) -> Any:
        return self.polars.DataFrame(dict(zip(names, columns, strict=True)))


def _polars_objects(pl: Any, values: Values, dtype: Any) -> Any:
    return pl.Series(to_objects(values), dtype=pl.String if values.family == "text" else dtype)


def _polars_numbers(pl: Any, values: Values, dtype: Any) -> Any:
    if values.storage.native.startswith("Decimal"):
        return pl.Series(to_objects(values), dtype=dtype)
    data = values.plain()
    if values.storage.blank == "nan" and values.any_missing:
        return pl.Series(np.where(values.missing, np.nan, data))
    series = pl.Series(data)
    return series.set(pl.Series(values.missing), None) if values.any_missing else series


def _polars_days(pl: Any, values: Values, dtype: Any) -> Any:
    # Date is held in 32 bits; the physical cast takes that and nothing wider.
    series = _polars_numbers(pl, values, dtype)
    return series.cast(pl.Int32) if values.storage.native == "Date" else series


_POLARS_WRITERS: dict[str, Callable[[Any, Values, Any], Any]] = {
    "float": _polars_numbers,
    "integer": _polars_numbers,
    "boolean": _polars_numbers,
    "datetime": _polars_days,
    "duration": _polars_numbers,
    "time": _polars_numbers,
}


class ArrowFrame:
    """A pyarrow Table."""

    container: ClassVar[str] = "pyarrow"

    def __init__(self, native: Any) -> None:
        self.native = native
        self.names: list[Name] = list(native.column_names)
        self.n_rows = native.num_rows

    def column(self, position: int) -> Values:
        return _arrow_column(self.names[position], self.native.column(position))

    def matrix(self, positions: list[int]) -> Array | None:
        return None


def _arrow_column(name: Name, native: Any) -> Values:
    text = str(native.type)
    if text.startswith("dictionary"):
        return _arrow_dictionary(name, native)
    if text.startswith("decimal"):  # narwhals knows one width of four
        return exact_series(name, nw.from_native(native, series_only=True), text)
    if text == "date64[ms]":  # which narwhals does not know
        pa: Any = nw.Implementation.PYARROW.to_native_namespace()
        native = native.cast(pa.timestamp("ms"))
    if text == "month_day_nano_interval":  # as DuckDB holds durations
        native = _durations(name, native)
        text = str(native.type)
    return read_series(name, nw.from_native(native, series_only=True), text)


def _durations(name: Name, native: Any) -> Any:
    """Intervals of calendars as durations."""
    pa: Any = nw.Implementation.PYARROW.to_native_namespace()
    parts = native.to_pylist()
    row = next((row for row, part in enumerate(parts) if part is not None and part.months), None)
    if row is not None:
        raise SchemaError(
            f"column {name!r} holds an interval of {parts[row].months} months in row {row}, and months "
            "differ in length. Convert it to days."
        )
    microseconds = [p if p is None else p.days * 86_400_000_000 + p.nanoseconds // 1000 for p in parts]
    return pa.chunked_array([pa.array(microseconds, pa.duration("us"))])


def _arrow_dictionary(name: Name, native: Any) -> Values:
    chunks = native.unify_dictionaries().chunks
    no_rows = np.zeros(0, dtype=np.int64)
    missing = np.concatenate([c.is_null().to_numpy(zero_copy_only=False) for c in chunks] or [no_rows > 0])
    codes = [c.indices.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64) for c in chunks]
    pa: Any = nw.Implementation.PYARROW.to_native_namespace()
    dictionary = chunks[0].dictionary if chunks else pa.array([], type=native.type.value_type)
    if dictionary.null_count:  # a null that hides behind a code
        return _arrow_column(name, native.cast(native.type.value_type))
    inner = _arrow_column(name, pa.chunked_array([dictionary]))
    storage = Storage(
        inner.family,
        f"dictionary:{native.type.index_type}",
        unit=inner.storage.unit,
        zone=inner.storage.zone,
        categories=tuple(inner.plain().tolist()),
        ordered=bool(native.type.ordered),
        labels=inner.storage,
    )
    labels = inner.plain() if len(inner) else np.zeros(0, dtype=object)
    return Values(name, storage, np.concatenate(codes or [no_rows]), missing, labels)


class ArrowWriter:
    """Writes a pyarrow Table."""

    def __init__(self) -> None:
        self.pyarrow: Any = nw.Implementation.PYARROW.to_native_namespace()

    def column(self, values: Values) -> Any:
        return self.pyarrow.chunked_array([self._array(values)])

    def _array(self, values: Values) -> Any:
        pa, storage = self.pyarrow, values.storage
        if storage.native.startswith("dictionary:"):
            codes = pa.array(_codes_of(values), mask=values.missing)
            index = pa.type_for_alias(storage.native.partition(":")[2])
            return pa.DictionaryArray.from_arrays(
                codes.cast(index), self._array(_categories_of(values)), ordered=storage.ordered
            )
        dtype = self._dtype(storage)
        if values.family in ("text", "nothing") or "decimal" in storage.native:
            return pa.array(to_objects(values), type=dtype)
        if values.storage.blank == "nan" and values.any_missing:
            return pa.array(np.where(values.missing, np.nan, values.plain())).cast(dtype)
        data = values.plain()
        # Dates and some times are held in 32 bits, and cast from nothing wider.
        data = data.astype(np.int32) if storage.native.startswith(("date32", "time32")) else data
        array = pa.array(data, mask=values.missing)
        try:
            return array.cast(dtype)
        except pa.ArrowInvalid:
            return array  # too large for the dtype seen in fit: wider rather than wrong

    def _dtype(self, storage: Storage) -> Any:
        pa, native = self.pyarrow, storage.native
        if native.startswith("timestamp"):
            return pa.timestamp(storage.unit, storage.zone)
        if native.startswith("decimal"):
            word, precision, scale = re.match(r"(\w+)\((\d+), (-?\d+)\)", native).groups()  # type: ignore[union-attr]
            return getattr(pa, word)(int(precision), int(scale))
        return pa.type_for_alias(native)

    def frame(self, names: Sequence[Name], columns: Sequence[Any], n_rows: int) -> Any:
        return self.pyarrow.table(list(columns), names=list(names))


WRITERS: dict[str, Callable[[], Writer]] = {
    "numpy": NumpyWriter,
    "dict": DictWriter,
    "images": ImagesWriter,
    "pandas": PandasWriter,
    "polars": PolarsWriter,
    "pyarrow": ArrowWriter,
}


# ---- opening -----------------------------------------------------------------------------------------------


def open_frame(data: object) -> Frame:
    """Wrap a table of a supported container, or refuse it with what to do.

    Raises
    ------
    SchemaError
        If `data` is lazy, sparse, not of two dimensions, of an unknown type, or has no rows or columns, or if
        two columns share a name.
    """
    frame = _wrap(data)
    seen: set[Name] = set()
    for name in frame.names:
        if name in seen:
            raise SchemaError(
                f"column name {name!r} is used twice. Names must be unique: rename or drop one."
            )
        seen.add(name)
    shape = f"(shape=({frame.n_rows}, {len(frame.names)}))"
    if not frame.names:
        raise SchemaError(f"Found array with 0 feature(s) {shape} while a minimum of 1 is required.")
    if not frame.n_rows:
        raise SchemaError(f"Found array with 0 sample(s) {shape} while a minimum of 1 is required.")
    return frame


def name_columns(estimator: Any, data: object) -> None:
    """Note the columns of a table on an estimator, as scikit-learn has it."""
    frame = open_frame(data)
    estimator.n_features_in_ = len(frame.names)
    estimator.__dict__.pop("feature_names_in_", None)
    if frame.container != "numpy" and all(isinstance(name, str) for name in frame.names):
        estimator.feature_names_in_ = np.asarray(frame.names, dtype=object)


def _wrap(data: object) -> Frame:
    # Those of few rows first: to ask whether it is another kind takes longer than to read one.
    if isinstance(data, np.ndarray):
        return ImagesFrame(data) if data.ndim in IMAGE_DIMENSIONS else NumpyFrame(as_matrix(data))
    if isinstance(data, Mapping):
        return DictFrame(data)
    for is_type, wrapper in (
        (dependencies.is_pandas_dataframe, PandasFrame),
        (dependencies.is_polars_dataframe, PolarsFrame),
        (dependencies.is_pyarrow_table, ArrowFrame),
    ):
        if is_type(data):
            return wrapper(data)
    pa: Any = dependencies.get_pyarrow()
    if pa is not None and isinstance(data, pa.RecordBatch):
        return ArrowFrame(pa.Table.from_batches([data]))
    kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__qualname__}"
    if dependencies.is_polars_lazyframe(data):
        raise SchemaError("a polars LazyFrame has no rows yet. Collect it first: data.collect().")
    if hasattr(data, "toarray") and hasattr(data, "nnz"):
        raise SchemaError(f"sparse input ({kind}) is not supported. Make it dense: data.toarray().")
    if dependencies.is_into_series(data):
        raise SchemaError(f"a {kind} has one dimension. Reshape your data to a table: data.to_frame().")
    # A batch or a frame of another library could be read as an array, but would lose its names.
    foreign = any(
        hasattr(data, word) for word in ("__arrow_c_array__", "__arrow_c_stream__", "__dataframe__")
    )
    if foreign or not (isinstance(data, (list, tuple)) or hasattr(data, "__array__")):
        raise SchemaError(
            f"a {kind} is not a table that can be read. Pass a pandas or polars DataFrame, a pyarrow Table, "
            "a 2-D numpy array or a dict of columns."
        )
    return NumpyFrame(as_matrix(data))
