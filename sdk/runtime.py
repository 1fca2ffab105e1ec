"""Exported models without torch: score, explain, generate and impute with numpy, narwhals and onnxruntime.

>>> from lookalike import runtime
>>> model = runtime.load("fraud.onnx")  # doctest: +SKIP
>>> model.predict(frame)  # doctest: +SKIP
array([ 1, -1])
"""

from __future__ import annotations

import math
import numbers
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike import noise, onnxfile
from lookalike.archive import atomic_write
from lookalike.calibration import Calibration
from lookalike.columns import Encoded
from lookalike.errors import ArtifactError, SchemaError
from lookalike.exported import (
    DRAWN,
    EXPLANATION,
    TASKS,
    Exported,
    golden_rows,
    read_exported,
    with_threshold,
)
from lookalike.face import Face, Known
from lookalike.feeding import FILLED, feed, with_width
from lookalike.images import Image
from lookalike.levelled import Levelled
from lookalike.onnxfile import Contents
from lookalike.parameters import Range
from lookalike.replacing import Cells
from lookalike.schema import Schema, Table
from lookalike.session import CPU, DEVICES, MAX_MEMORY, Feeds, Session
from lookalike.streaming import streamed
from lookalike.values import Array

__all__ = ["Info", "Model", "load"]

# Of golden rows: what processors, versions and devices may differ by. What is less than a rounding in float32
# may make one fall the other way in int8: by up to 6e-4 where nothing at all was done in integers.
TOLERANCE = {"float32": 1e-4, "int8": 2e-3}


def load(
    source: str | os.PathLike[str] | bytes,
    *,
    device: str = "auto",
    threads: int | None = None,
    sha256: str | None = None,
    max_bytes: int = 1 << 30,
    max_memory: int = MAX_MEMORY,
    tf32: bool = False,
) -> Model:
    """Open a file that `export` has written.

    Nothing in the file is executed but its graph, which is judged before: operators are on a list, all data
    are in the file, sizes are bounded. See SECURITY.md for what is promised.

    Parameters
    ----------
    source : str, PathLike or bytes
        A path, or the content of a file.
    device : {"auto", "cpu", "cuda"}
        "cuda" raises unless the work is done on a GPU indeed. "auto" takes one where there is one, but for
        calls of few rows, which the CPU does sooner; `info` says up to how many.
    threads : int, optional
        Chunks of 512 rows that run at once on a CPU; each takes one thread, and none waits for work. By
        default as many as this process may use processors. Fewer rows take one thread whatever this says.
    sha256 : str, optional
        Digest that the file must have, as `export` returned it.
    max_bytes : int
        Larger files are refused before they are read.
    max_memory : int
        Bytes that the tensors of the model may take, whatever the file asks for; those of explanations, which
        run a larger graph, are counted apart.
    tf32 : bool
        Let CUDA round the factors of products to 10 bits: faster, and scores move by about 1e-3.

    Returns
    -------
    Model

    Raises
    ------
    ArtifactError
        If the file is damaged, foreign, of another version, or not one that may be run.
    DeviceError
        If ``device="cuda"`` and there is none: what is missing.
    MissingExtraError
        Without onnxruntime.
    """
    if device not in DEVICES:
        raise ValueError(f"device must be one of {', '.join(map(repr, DEVICES))}, got {device!r}.")
    for name, value in (("max_bytes", max_bytes), ("max_memory", max_memory), ("threads", threads)):
        if name != "threads" or value is not None:
            Range(1, math.inf, whole=True).check(name, value)
    contents = onnxfile.read(source, sha256=sha256, max_bytes=max_bytes)
    exported = read_exported(contents)
    session = Session(
        contents,
        exported.results,
        device=device,
        threads=_usable_processors() if threads is None else threads,
        max_memory=max_memory,
        tf32=tf32,
    )
    return Model(
        contents,
        exported,
        session,
        {"device": device, "threads": threads, "max_memory": max_memory, "tf32": tf32},
    )


def _usable_processors() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _reload(data: bytes, options: dict[str, Any]) -> Model:
    return load(data, max_bytes=len(data), **options)


class Model(Face):
    """An exported model; `load` makes it.

    Methods are those of the estimator that was exported, with the same tables, results and errors. A file has
    one task: "score" (`score_samples`, `decision_function`, `predict`, `anomaly_score`, `p_values`,
    `explain`, `set_threshold`; `counterfactual` with a file that imputes), "generate" or "impute". One
    model may be used by several threads at a time.

    Attributes
    ----------
    task : {"score", "generate", "impute"}
    schema_ : Schema
    offset_ : float
        Scores below are anomalies.
    calibration_ : Calibration
        Of task "score".
    """

    def __init__(
        self, contents: Contents, exported: Exported, session: Session, options: dict[str, Any]
    ) -> None:
        self.task = exported.task
        self.schema_: Schema = exported.schema
        self.offset_ = exported.threshold
        if exported.calibration is not None:
            self.calibration_: Calibration = exported.calibration
        self._contents, self._exported, self._session, self._options = contents, exported, session, options
        self._whole: Session | None = None
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reload, (self._data(), self._options)

    def __repr__(self) -> str:
        return f"<{self._exported.estimator} exported to {TASKS[self.task]}, on {self._session.provider}>"

    @streamed
    def predict(self, X: Any, threshold: float | None = None) -> NDArray[np.int64]:
        """Return 1 for rows that look normal and -1 for anomalies, shape (n_rows,).

        Parameters
        ----------
        X : DataFrame, pyarrow.Table, ndarray of shape (n_rows, n_columns) or dict of columns
            As of `score_samples`.
        threshold : float, optional
            Anomalies score below it; `offset_` if not given.
        """
        if threshold is None:
            return super().predict(X)
        if not (isinstance(threshold, numbers.Real) and math.isfinite(threshold)):
            raise ValueError(f"threshold must be a finite number, got {threshold!r}.")
        return np.where(self.score_samples(X) < float(threshold), -1, 1)

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write the file anew, with the threshold that `set_threshold` has set, whole or not at all.

        The graph's own threshold, the metadata and the golden rows change together, so labels are the same
        in onnxruntime alone. All else stays as it was exported. The new file is opened and verified before
        it is written.

        Parameters
        ----------
        path : str or PathLike
            May be that of the file which was loaded.

        Returns
        -------
        str
            SHA-256 of the file; ``runtime.load(path, sha256=...)`` then accepts this file alone.

        Raises
        ------
        ArtifactError
            If the new file does not give what it should: nothing is then written.
        """
        data = self._data()
        new = load(data, max_bytes=len(data), device="cpu", max_memory=self._options["max_memory"])
        new.verify()
        with atomic_write(path) as file:
            file.write(data)
        return new._contents.sha256

    def _data(self) -> bytes:
        """The file with the threshold of now."""
        if self.offset_ == self._exported.threshold:
            return self._contents.data
        return with_threshold(self._contents, self._exported, float(self.offset_))

    def info(self) -> Info:
        """Tell what the file holds and where it runs.

        Returns
        -------
        Info
            A dict that prints itself in lines.
        """
        exported, contents = self._exported, self._contents
        about = {key: value for key, value in exported.about.items() if key not in ("versions", "golden")}
        small = self._session.small
        return Info(
            task=self.task,
            inputs=exported.inputs,
            estimator=exported.estimator,
            family=exported.family,
            schema=self.schema_,
            n_train=exported.n_train,
            threshold=self.offset_,
            precision=exported.precision,
            provider=self._session.provider,
            **({"small_batches": f"up to {small} rows on {CPU}"} if small else {}),
            threads=self._session.threads,
            nodes=self._session.placement(),
            n_nodes=contents.n_nodes,
            weight_bytes=contents.weight_bytes,
            sha256=contents.sha256,
            versions={"exported": exported.about["versions"], "here": self._session.versions()},
            **about,
        )

    def verify(self, tolerance: float | None = None) -> float:
        """Run the rows that the file holds, and compare with what they gave when it was exported.

        Parameters
        ----------
        tolerance : float, optional
            Largest difference allowed, relative to the largest value of a column; by default 1e-4, and 2e-3
            for a file in int8.

        Returns
        -------
        float
            The largest difference found.

        Raises
        ------
        ArtifactError
            If a result differs by more: which, in which row, by how much.
        """
        tolerance = TOLERANCE[self._exported.precision] if tolerance is None else tolerance
        given, wanted = golden_rows(self._contents, self._exported)
        results = self._exported.results
        # What stands in named columns is what the arrays hold.
        others = [name for name in wanted if name not in results and not name.startswith(FILLED)]
        found: dict[str, Array] = {}
        for names in filter(None, (results, others)):
            n = len(wanted[names[0]])
            outputs = self._run(names, n, lambda start, stop: _slices(given, slice(start, stop)))
            found |= dict(zip(names, outputs, strict=True))
        worst = 0.0
        for name, gap in _gaps(found, wanted, tolerance, self).items():
            row = int(np.argmax(gap))
            if not gap[row] <= tolerance:
                got, meant = (str(side[name][row].tolist())[:200] for side in (found, wanted))
                raise ArtifactError(
                    f"{self._contents.name} does not give here what it gave when it was exported: {name!r} "
                    f"of golden row {row} is {got} instead of {meant}, {gap[row]:.2g} apart relative to its "
                    f"column, and {tolerance:g} is allowed. Export it again."
                )
            worst = max(worst, float(gap[row]))
        return worst

    # ---- what `Face` asks for --------------------------------------------------------------------------

    def _check(self, task: str) -> None:
        if task != self.task:
            raise ArtifactError(
                f"{self._contents.name} was exported to {TASKS[self.task]}, and cannot {TASKS[task]}. Export "
                f"another from the fitted model: model.export(path, task={task!r})."
            )

    def _imputer(self, imputer: Face | None) -> Face:
        if imputer is None:
            raise ArtifactError(
                f"{self._contents.name} was exported to {TASKS[self.task]}, and a counterfactual has to be "
                "drawn. Export another from the fitted model, model.export(path, task='impute'), and pass it "
                "on: counterfactual(X, imputer=runtime.load(path))."
            )
        return super()._imputer(imputer)

    @property
    def _owner(self) -> str:
        return self._exported.estimator

    def _size(self) -> dict[str, Any]:
        return {"parameters": None, "weight_bytes": self._contents.weight_bytes, "macs": None}

    @property
    def _core(self) -> bool:
        return self._exported.inputs == "core"

    def _rows(self, X: Any, allow_missing: bool = False) -> Any:
        if self._core:
            return super()._rows(X, allow_missing)
        names = self._exported.names
        return _Tensors(feed(self.schema_, X, allow_missing, owner=self._owner, names=names))

    def _given(self, table: Table) -> Any:
        if self._core or not len(table):
            return table
        columns = self.schema_.apart(table.numbers, table.ids)
        return _Tensors(
            {self._exported.names[column.name]: _tensor(column, cells) for column, cells in columns}
        )

    def _replaced(self, rows: Any, new: Table, cells: Cells) -> Any:
        if self._core:
            return super()._replaced(rows, new, cells)
        if self.schema_.image is not None:  # no pixel of its tensor can be hidden
            raise SchemaError(
                f"{self._contents.name} takes whole images, and cannot tell what would have been normal in "
                "their place: explain(X, tested=0) gives shares, heatmap(X) says where. The fitted model can."
            )
        arrays = dict(rows.arrays)
        columns = zip(self._modelled(), [*new.numbers.T, *new.ids.T], [*cells[0].T, *cells[1].T], strict=True)
        for column, values, there in columns:
            if there.any():
                name = self._exported.names[column.name]
                arrays[name] = np.where(there, _tensor(column, values), arrays[name])
        return _Tensors(arrays)

    def _scores(self, rows: Any, first: int) -> NDArray[np.float64]:
        (scores,) = self._run(["score"], len(rows), self._feeds(rows))
        wrong = ~np.isfinite(scores)
        if wrong.any():
            if self._exported.explains:
                self._shares(rows, first)  # says which column
            raise SchemaError(
                f"row {first + int(wrong.argmax())} has no finite score: a value is too far from those of "
                "fit. Correct it, or make it missing."
            )
        return scores

    def _shares(self, rows: Any, first: int) -> tuple[NDArray[np.float64], Table]:
        if not self._exported.explains:
            raise ArtifactError(
                f"{self._contents.name} was exported with explain=False: it cannot say why a row is odd. "
                "Export another with explain=True."
            )
        shares, expected_numbers, expected_ids = self._run(EXPLANATION, len(rows), self._feeds(rows))
        if not np.isfinite(shares).all():
            self._refuse(shares, first)
        return shares, Table(expected_numbers, expected_ids)

    def _complete(self, rows: Any, known: Known, seed: int, impute: bool) -> Table:
        given = self._feeds(rows)

        def feeds(start: int, stop: int) -> dict[str, Array]:
            normals, uniforms = noise.rows(seed, start, stop - start, *self._exported.noise)
            more = {"normals": normals, "uniforms": uniforms}
            if self._exported.asks_known:
                more["known"] = np.concatenate([part[start:stop] for part in known], 1)
            return given(start, stop) | with_width(more)

        return Table(*self._run(DRAWN, len(rows), feeds))

    def _run(self, outputs: Sequence[str], n: int, feeds: Feeds) -> list[NDArray[Any]]:
        """Run the graph of the results alone or, opened when it is first needed, the whole one."""
        if set(outputs) <= set(self._exported.results):
            return self._session.run(outputs, n, feeds)
        with self._opening:
            if self._whole is None:
                device = "cpu" if self._session.provider == CPU else self._options["device"]
                same = {"device": device, "threads": self._session.threads}
                self._whole = Session(self._contents, **self._options | same)
        return self._whole.run(outputs, n, feeds)

    def _feeds(self, rows: Any) -> Callable[[int, int], dict[str, Array]]:
        if not self._core:
            return lambda start, stop: rows.part(start, stop)
        centre = self._exported.centre

        def feeds(start: int, stop: int) -> dict[str, Array]:
            part = rows.rows(slice(start, stop))
            numbers, ids = _as_float32(part.numbers - centre), np.ascontiguousarray(part.ids)
            return with_width({"numbers": numbers, "ids": ids})

        return feeds


@dataclass(frozen=True, eq=False)
class _Tensors:
    """Rows as a graph of columns takes them."""

    arrays: dict[str, Array]

    def __len__(self) -> int:
        return len(next(iter(self.arrays.values())))

    def rows(self, index: slice | NDArray[Any]) -> _Tensors:
        return _Tensors(_slices(self.arrays, index))

    def part(self, start: int, stop: int) -> dict[str, Array]:
        whole = stop - start == len(self)
        return self.arrays if whole else _slices(self.arrays, slice(start, stop))


def _tensor(column: Encoded | Image, cells: Array) -> Array:
    """Encoded cells as the input of a graph; what has no id goes as missing."""
    if isinstance(column, Levelled):
        return column.tensor(np.where(cells < 0, column.blank, cells))
    if isinstance(column, Image) or column.port.type == "float64":
        return column.tensor(cells)
    return column.feed(column.decode(cells), True)


def _slices(arrays: dict[str, Array], index: slice | NDArray[Any]) -> dict[str, Array]:
    return {name: array[index] for name, array in arrays.items()}


def _as_float32(numbers: NDArray[np.float64]) -> NDArray[np.float32]:
    """What is too large for float32 becomes its largest number: far, and finite."""
    try:
        with np.errstate(over="raise"):
            return numbers.astype(np.float32)
    except FloatingPointError:
        most = np.finfo(np.float32).max
        return np.clip(numbers, -most, most).astype(np.float32)


class Info(dict[str, Any]):
    """What a file holds and where it runs, a dict that prints itself in lines."""

    def __repr__(self) -> str:
        wide = max(map(len, self), default=0)
        lines = []
        for key, value in self.items():
            shown = (
                "; ".join(_line(k, v) for k, v in value.items()) if isinstance(value, dict) else str(value)
            )
            lines.append(f"{key:{wide}}  " + shown.replace("\n", "\n" + " " * (wide + 2)))
        return "\n".join(lines)


def _line(key: str, value: Any) -> str:
    return f"{key}: " + (
        ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
    )


def _gaps(
    found: dict[str, Array], wanted: dict[str, Array], tolerance: float, model: Model
) -> dict[str, NDArray[np.float64]]:
    """How far each row is from what it should be; infinity where it should be equal and is not."""
    gaps = {name: _gap(got, wanted[name]) for name, got in found.items()}
    if "score" in gaps:  # what follows from a score may jump where the score moves
        scores = np.where(np.isnan(wanted["score"]), -np.inf, wanted["score"])
        slack = tolerance * np.abs(scores[np.isfinite(scores)]).max(initial=1.0)
        low, high = (model.calibration_.p_values(scores + side) for side in (-slack, slack))
        if "p_value" in gaps:
            sides = (found["p_value"], wanted["p_value"])
            gaps["p_value"][np.logical_and(*((low <= p) & (p <= high) for p in sides))] = 0.0
        if "label" in gaps:
            # Those of the file: a threshold set since then is not in its graph.
            gaps["label"][np.abs(scores - model._exported.threshold) <= slack] = 0.0
    return gaps


def _gap(got: Array, wanted: Array) -> NDArray[np.float64]:
    if got.dtype.kind == "f":
        with np.errstate(invalid="ignore"):
            scale = np.abs(wanted).max(axis=0, initial=1.0, where=np.isfinite(wanted))
            gap = np.where(got == wanted, 0.0, np.abs(got - wanted) / scale)
        both = np.isnan(got) & np.isnan(wanted)
        gap = np.where(np.isnan(gap), np.where(both, 0.0, np.inf), gap)
    else:
        gap = np.where(got == wanted, 0.0, np.inf)
    return gap.reshape(len(gap), -1).max(axis=1, initial=0.0)
