"""`Scorer`: what a model says of rows, added to whatever table they come in; the bridges are made of it."""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np
from numpy.typing import NDArray

from lookalike import runtime
from lookalike.columns import Encoded
from lookalike.errors import SchemaError, did_you_mean
from lookalike.explanation import shown
from lookalike.images import Image
from lookalike.parameters import Range
from lookalike.session import DEVICES
from lookalike.streaming import n_rows, rows_of, taken

SCORE, P, ODD = "anomaly_score", "p_value", "is_anomaly"
COLUMNS = (SCORE, P, ODD)
KINDS = {SCORE: "number", P: "number", ODD: "truth"}
"""What the columns hold, for those who have to declare it; of reasons, see `Scorer.kinds`."""

_opened: dict[tuple[str, int, str], runtime.Model] = {}
_opening = threading.Lock()


class Scorer:
    """Adds to tables what a model says of their rows. All columns of theirs stay as they are.

    It pickles as the exported file: where it arrives there need be no torch, and a process opens a file once,
    however many tasks it is given.

    Parameters
    ----------
    model : str, PathLike, bytes or model
        An exported file, its content, or what `runtime.load` or a fit gave.
    columns : sequence of {"anomaly_score", "p_value", "is_anomaly"}
        What is added; scores are higher for odder rows.
    reasons : int
        Columns to blame that are named for each anomaly, as ``reason_1``, ``reason_1_share`` (of the score)
        and ``reason_1_expected`` (the value, as text).
    prefix : str
        Stands before the names of what is added.
    false_alarm_rate : float, optional
        At most this share of normal rows are called anomalies; by default the model's own threshold.
    threads : int
        Of an exported file, in each process.
    device : {"auto", "cpu", "cuda"}
        As of `runtime.load`.

    Raises
    ------
    ValueError
        If a parameter is none of these.
    ArtifactError
        If the file is not one that scores.

    Examples
    --------
    ::

        scorer = Scorer("orders.onnx", reasons=2)
        scored = scorer(frame)  # pandas, polars or Arrow in, the same out
    """

    def __init__(
        self,
        model: Any,
        *,
        columns: Sequence[str] = COLUMNS,
        reasons: int = 0,
        prefix: str = "",
        false_alarm_rate: float | None = None,
        threads: int = 1,
        device: str = "cpu",
    ) -> None:
        self.columns = [columns] if isinstance(columns, str) else list(columns)
        for name in self.columns:
            if name not in COLUMNS:
                raise ValueError(f"columns holds {name!r}, which is none of {', '.join(COLUMNS)}.")
        Range(0, np.inf, whole=True).check("reasons", reasons)
        Range(1, np.inf, whole=True).check("threads", threads)
        if device not in DEVICES:
            raise ValueError(f"device must be one of {', '.join(map(repr, DEVICES))}, got {device!r}.")
        self.reasons, self.prefix, self.false_alarm_rate = reasons, prefix, false_alarm_rate
        self.threads, self.device = threads, device
        self._file: bytes | None = None
        if isinstance(model, bytes):
            self._file = model
        elif isinstance(model, str | os.PathLike):
            self._file = Path(model).read_bytes()
        else:
            self._model = model
        self.threshold  # noqa: B018 - what cannot score is refused here, and not in some worker

    @property
    def model(self) -> Any:
        """What scores; a file is opened when it is first asked for."""
        if not hasattr(self, "_model"):
            assert self._file is not None
            self._model = opened(self._file, self.threads, self.device)
        return self._model

    @property
    def threshold(self) -> float:
        """Rows that score below it, on the scale of `score_samples`, are anomalies."""
        model = self.model
        if hasattr(model, "_check"):
            model._check("score")
        if self.false_alarm_rate is None:
            return float(model.offset_)
        return float(model.calibration_.threshold(self.false_alarm_rate))

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        if self._file is None and hasattr(self._model, "export"):
            state["_file"] = exported(self._model)
        elif self._file is None and isinstance(self._model, runtime.Model):
            state["_file"] = self._model._data()
        if state["_file"] is not None:
            state.pop("_model", None)
        return state

    def __repr__(self) -> str:
        return f"<Scorer of {self.model!r}>"

    # ---- what is added ---------------------------------------------------------------------------------

    @property
    def modelled(self) -> list[str]:
        """The columns that the model looks at."""
        model = self.model
        if not hasattr(model, "schema_"):  # Ensemble and CrossConformal, of anyone's estimators
            return [str(name) for name in model.feature_names_in_]
        return [str(column.name) for column in model.schema_.columns if isinstance(column, Encoded | Image)]

    @property
    def kinds(self) -> dict[str, str]:
        """Name and kind, "number", "truth" or "text", of each column that is added."""
        kinds = {self.prefix + name: KINDS[name] for name in self.columns}
        for name in self._reasons():
            kinds |= {name: "text", f"{name}_share": "number", f"{name}_expected": "text"}
        return kinds

    def _reasons(self) -> list[str]:
        return [f"{self.prefix}reason_{k + 1}" for k in range(min(self.reasons, len(self.modelled)))]

    def added(self, rows: Any) -> dict[str, Any]:
        """What is to be added to a table: a list or array for each of `kinds`.

        Parameters
        ----------
        rows : DataFrame, pyarrow.Table, RecordBatch or dict of columns
            With at least the columns of `modelled`; of any others nothing is asked.

        Raises
        ------
        SchemaError
            If a column is missing, of another type, or holds what cannot be scored: which row.
        """
        rows = self._looked_at(rows)
        n = n_rows(rows)
        scores = self.model.score_samples(rows) if n else np.zeros(0)
        odd = scores < self.threshold
        found: dict[str, Any] = {SCORE: -scores, ODD: odd}
        if P in self.columns:
            found[P] = self.model.calibration_.p_values(scores)
        new = {self.prefix + name: found[name] for name in self.columns}
        return new | self._blame(rows, np.flatnonzero(odd), n)

    def _blame(self, rows: Any, odd: NDArray[np.int64], n: int) -> dict[str, list[Any]]:
        new: dict[str, list[Any]] = {name: [None] * n for name in self.kinds if "reason_" in name}
        names = self._reasons()
        if not names or not len(odd):
            return new
        top = self.model.explain(taken(rows, odd)).top(self.reasons)
        for i, reasons in zip(odd.tolist(), top, strict=True):
            for name, (column, share, _, expected) in zip(names, reasons, strict=False):
                new[name][i], new[f"{name}_share"][i] = str(column), float(share)
                new[f"{name}_expected"][i] = shown(expected)
        return new

    def _looked_at(self, rows: Any) -> Any:
        names = list(names_of(rows))
        for name in self.modelled:
            if name not in names:
                raise SchemaError(f"the table has no column {name!r}.{did_you_mean(name, names)}")
        if isinstance(rows, Mapping):
            return {name: rows[name] for name in self.modelled}
        if hasattr(rows, "select") and hasattr(rows, "to_pylist"):  # of Arrow, batches too
            return rows.select(self.modelled)
        return nw.from_native(rows, eager_only=True).select(self.modelled).to_native()

    # ---- tables ----------------------------------------------------------------------------------------

    def __call__(self, table: Any) -> Any:
        """Return the table with columns added: pandas, polars, Arrow's Table or RecordBatch, each as it came.

        Raises
        ------
        SchemaError
            As `added`, or if the table has a column already of the name of one that is added.
        """
        self.check_names(names_of(table))
        new = self.added(table)
        if hasattr(table, "to_pylist"):
            import pyarrow as pa

            for name, values in new.items():
                table = table.append_column(name, pa.array(values, arrow_type(self.kinds[name])))
            return table
        frame = nw.from_native(table, eager_only=True)
        dtypes = {"number": nw.Float64(), "truth": nw.Boolean(), "text": nw.String()}
        series = [
            nw.new_series(name, values, dtypes[self.kinds[name]], backend=frame.implementation)
            for name, values in new.items()
        ]
        return frame.with_columns(*series).to_native()

    def each(self, tables: Iterable[Any]) -> Iterator[Any]:
        """Add to tables as they come; an error says in which row of all."""
        first = 0
        for table in tables:
            try:
                yield self(table)
            except SchemaError as error:
                last = first + n_rows(table) - 1
                raise SchemaError(f"rows {first} to {last}, counted from there: {error}") from error
            first += n_rows(table)

    def sifted(self, table: Any) -> tuple[Any, dict[int, str]]:
        """Add to the rows that can be scored, and tell of the others why not.

        Returns
        -------
        table
            Without the rows that were refused.
        dict
            The error of each refused row, by its number in the table.

        Raises
        ------
        SchemaError
            If it is not some rows but the table that does not fit: a column is missing.
        """
        try:
            return self(table), {}
        except SchemaError:
            self(rows_of(table, 0, 0))  # what is wrong without rows is wrong with the table
        refused: dict[int, str] = {}
        self._sift(table, 0, refused)
        kept = np.setdiff1d(np.arange(n_rows(table)), list(refused))
        return self(taken(table, kept)), refused

    def _sift(self, table: Any, first: int, refused: dict[int, str]) -> None:
        """Halve until each row that is refused stands alone."""
        n = n_rows(table)
        try:
            self.added(table)
        except SchemaError as error:
            if n == 1:
                refused[first] = str(error)
                return
            for start, stop in ((0, n // 2), (n // 2, n)):
                self._sift(rows_of(table, start, stop), first + start, refused)

    def check_names(self, names: Iterable[str]) -> None:
        """Refuse tables that have a column already of the name of one that is added."""
        there = set(names) & self.kinds.keys()
        if there:
            raise SchemaError(
                f"the table has a column {min(there)!r} already. Rename it, or give a prefix for what is new."
            )

    def schema(self, schema: Any) -> Any:
        """The schema of Arrow that tables of a schema have once columns are added."""
        import pyarrow as pa

        self.check_names(schema.names)
        for name, kind in self.kinds.items():
            schema = schema.append(pa.field(name, arrow_type(kind)))
        return schema


def arrow_type(kind: str) -> Any:
    """Arrow's type of a kind of column that is added."""
    import pyarrow as pa

    return {"number": pa.float64(), "truth": pa.bool_(), "text": pa.string()}[kind]


def names_of(table: Any) -> Iterable[str]:
    """Names of the columns of a table of any kind."""
    if isinstance(table, Mapping):
        return map(str, table)
    if hasattr(table, "to_pylist"):
        return list(table.schema.names)
    return list(nw.from_native(table).columns)


def opened(file: bytes, threads: int = 1, device: str = "cpu") -> runtime.Model:
    """The model of a file's content, which a process opens once."""
    key = hashlib.sha256(file).hexdigest(), threads, device
    with _opening:
        if key not in _opened:
            _opened[key] = runtime.load(file, threads=threads, device=device, max_bytes=len(file))
        return _opened[key]


def exported(model: Any, task: str = "score") -> bytes:
    """The content of the file that a fitted estimator is exported to."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model.export(path, task=task)
        return path.read_bytes()


def file_of(model: Any, task: str) -> bytes:
    """The content of a file, whatever holds it: a path, it itself, an open model, a fitted one."""
    if isinstance(model, bytes):
        return model
    if isinstance(model, str | os.PathLike):
        return Path(model).read_bytes()
    if isinstance(model, runtime.Model):
        return model._data()
    if not hasattr(model, "export"):
        raise TypeError(
            f"model must be a file exported with task={task!r}, or what can be exported to one, got "
            f"{type(model).__name__}. Families such as la.Mixture and la.Diffusion can."
        )
    return exported(model, task)


def scorer_of(model: Any, options: Mapping[str, Any]) -> Scorer:
    """The scorer of a model; a scorer stays what it is."""
    if not isinstance(model, Scorer):
        return Scorer(model, **options)
    if options:
        raise TypeError(f"{', '.join(options)} cannot be given beside a Scorer: give them to it.")
    return model
