"""Whether an exported graph gives what the fitted estimator does.

The rows tried are remembered ones, blurred, real ones where there are any, and hostile ones:
all that may be missing is, levels that fit never saw, the ends of the range, and far beyond it.

A model of images with templates remembers how they differed, and neither of them. So pairs that differ so are
made up (`Template.pairs`) and enter the graph as those of a user do; torch is asked of their difference.
Templates made up are plain but where images differ from them, so every second image gets that of the one
before it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lookalike import feeding, noise
from lookalike.calibration import Calibration
from lookalike.errors import ExportError, require
from lookalike.estimator import Estimator
from lookalike.measured import Measured
from lookalike.schema import Schema, Table
from lookalike.verbs import Completer

Arrays = dict[str, NDArray[Any]]

TOLERANCE = 1e-5  # of the score's spread, or of the score where it is far out
ROUNDED = 1e-4  # of the same, what float32 may do to a row's numbers before a core takes them
LEAST_SPREAD = 0.1  # of the score: a millionth of it is a few of float32's last digits
CELLS_AGREE = 0.999  # of drawn cells: a number may land just beside the edge of an atom
TRIED, GOLDEN = 257, 16  # rows, at most
FEWEST = 16, 2  # of these, however wide a row is
WORK, KEPT = 1 << 20, 1 << 16  # features that are tried, as a layout weighs them, and cells of golden rows
BATCHES = (slice(0), slice(1), slice(1, 3), slice(3, 6), slice(5, 69))
FAR = 1e30


class Trial:
    """An exported graph beside the estimator it came from.

    Parameters
    ----------
    data : bytes
        The serialized model.
    estimator : Estimator
    centre : ndarray of shape (n_numbers,) or None
        What is subtracted from the numbers of a core entry; None where columns are the inputs.
    rows : DataFrame, pyarrow.Table or ndarray, optional
        Real rows.
    """

    def __init__(
        self, data: bytes, estimator: Estimator, centre: NDArray[np.float64] | None, rows: Any = None
    ) -> None:
        self.session = opened(data)
        self.estimator, self.centre = estimator, centre
        schema = estimator.schema_
        layout = estimator.codec_.layout
        self.n_drawn = min(TRIED, max(FEWEST[0], WORK // (layout.width * layout.weight)))
        self.frame = _exchanged(schema, estimator._blurred(self.n_drawn, 0))
        drawn = schema.encode(self.frame, allow_missing=True)
        tables = [drawn, *_hostile(estimator, drawn)]
        self.real = None if rows is None else schema.encode(rows)
        if self.real is not None:
            tables.append(self.real)
        self.table = Table(
            np.concatenate([t.numbers for t in tables]), np.concatenate([t.ids for t in tables])
        )

    def feeds(self, table: Table, **more: NDArray[Any]) -> Arrays:
        """What the graph takes of a table."""
        if self.centre is not None:
            return feeding.with_width({"numbers": _rounded(table, self.centre), "ids": table.ids, **more})
        schema = self.estimator.schema_
        names = feeding.input_names(schema)
        tensors = {
            # Whole numbers of a graph are those of the frame, from which the encoded ones are counted.
            names[c.name]: c.feed(c.decode(x), True)
            if isinstance(c, Measured) and c.port.type != "float64"
            else c.tensor(x)
            for c, x in schema.apart(table.numbers, table.ids)
        }
        return feeding.with_width({**tensors, **more})

    def run(self, feeds: Arrays) -> Arrays:
        return run(self.session, feeds)

    def of(self, data: bytes) -> Trial:
        """The same rows for another graph of the same inputs."""
        other = copy.copy(self)
        other.session = opened(data)
        return other

    # ---- scores ----

    def score(self) -> dict[str, Any]:
        """Compare scores, statements and explanations; raise ExportError where they differ."""
        estimator, table = self.estimator, self.table
        feeds = self.feeds(table)
        got = self.run(feeds)
        self.same_in_any_batch(feeds, got, BATCHES)
        exact, held = self._contributions(table), self._contributions(self._as_held(table))
        want = -held.sum(1)
        scores = estimator.calibration_.scores
        spread = float(scores.std()) or 1.0
        scale = np.maximum(spread, np.abs(want - np.median(scores)))
        scale = np.maximum(scale, LEAST_SPREAD * np.abs(want))
        if self.centre is None:
            framed = self.run(feeding.feed(estimator.schema_, self.frame, allow_missing=True))
            # Of floats another pair that differs so, such as one made up, is rounded otherwise.
            allowed = 0.0 if estimator.schema_.template is None else TOLERANCE * scale[: self.n_drawn]
            if not (np.abs(framed["score"] - got["score"][: self.n_drawn]) <= allowed).all():
                raise ExportError("the graph scores a table otherwise than its arrays. Please report this.")
        error = np.abs(got["score"] - want) / scale
        self._within(error, "score", TOLERANCE, "Please report this.")
        finer = "float32 does not hold your numbers finely enough: export with inputs='columns'."
        self._within(np.abs(got["score"] + exact.sum(1)) / scale, "score", ROUNDED, finer)
        if "contributions" in got:
            apart = np.abs(got["contributions"] - held).max(1, initial=0) / scale
            tied = (
                "Where many rows are equally far, as of truth values, any may explain: pass explain=False, "
                "or --no-explain on the command line."
            )
            self._within(apart, "contributions", TOLERANCE, tied)
        clear = np.abs(want - estimator.offset_) > TOLERANCE * scale
        labels = np.where(want < estimator.offset_, -1, 1)
        if (got["label"] != labels)[clear].any():
            raise ExportError("the graph gives other labels than the model. Please report this.")
        p_values = estimator.calibration_.p_values(got["score"])
        if not np.array_equal(got["p_value"], p_values):
            raise ExportError("the graph gives other p-values than the calibration. Please report this.")
        self._beyond_all_numbers()
        return {"rows": len(table), "of_spread": float(error.max()), "tolerance": TOLERANCE}

    def decisions(self, calibration: Calibration, threshold: float) -> None:
        """Check what holds whatever the scores are; raise ExportError where it does not."""
        feeds = self.feeds(self.table)
        got = self.run(feeds)
        self.same_in_any_batch(feeds, got, BATCHES)
        if not np.array_equal(got["p_value"], calibration.p_values(got["score"])):
            raise ExportError("the graph gives other p-values than the calibration. Please report this.")
        if not np.array_equal(got["label"], np.where(got["score"] < threshold, -1, 1)):
            raise ExportError("the graph gives other labels than its scores. Please report this.")
        self._beyond_all_numbers()

    def _as_held(self, table: Table) -> Table:
        """The table as the graph's inputs hold it."""
        schema = self.estimator.schema_
        if self.centre is not None:
            return Table(_rounded(table, self.centre) + self.centre, table.ids)
        if schema.template is None:
            return table
        tensors = (column.tensor(cells) for column, cells in schema.apart(table.numbers, table.ids))
        held = (array.reshape(table.numbers.shape).astype(np.float64) for array in islice(tensors, 2))
        return Table(schema.template.compared(*held), table.ids)

    def _contributions(self, table: Table) -> NDArray[np.float64]:
        """What each column adds to the estimator's energy, (n, n_columns)."""
        estimator = self.estimator
        parts = [estimator.codec_.layout.sum_by_column(cells) for cells, _ in estimator._energies(table)]
        return torch.cat(parts).numpy()

    @staticmethod
    def _within(error: NDArray[np.float64], what: str, allowed: float, advice: str) -> None:
        worst = int(np.argmax(np.where(np.isnan(error), np.inf, error)))
        if not error[worst] <= allowed:
            raise ExportError(
                f"onnxruntime's {what} differs from torch's by {error[worst]:.2g} of its spread (allowed: "
                f"{allowed:g}) in row {worst} of those tried, so the file is not written. {advice}"
            )

    def same_in_any_batch(self, feeds: Arrays, whole: Arrays, batches: Sequence[slice] = BATCHES[1:]) -> None:
        """Raise ExportError where what is made of a row depends on those beside it."""
        for rows in batches:
            part = self.run({name: array[rows] for name, array in feeds.items()})
            for name, array in part.items():
                if not np.array_equal(array, whole[name][rows], equal_nan=array.dtype.kind == "f"):
                    raise ExportError(
                        f"{name} of {len(array)} rows alone is not that in a batch. Please report this."
                    )

    def _beyond_all_numbers(self) -> None:
        """An infinite number is refused by the estimator; to the graph it is no normal row."""
        schema, feeds = self.estimator.schema_, self.feeds(self.table.rows(slice(1)))
        names = feeding.input_names(schema)
        measured = [names[column.name] for column in schema.pictures or schema.number_columns]
        for name in measured if self.centre is None else feeds.keys() & {"numbers"}:
            size = feeds[name].size
            # Of an image a few pixels stand for all; what is of whole numbers cannot be infinite.
            for j in range(0, size, 1 if schema.image is None else max(size // 3, 1)):
                if feeds[name].dtype.kind == "f":
                    array = feeds[name].copy()
                    array.flat[j] = np.inf
                    if self.run({**feeds, name: array})["label"][0] != -1:
                        raise ExportError(
                            "the graph takes an infinite number for normal. Please report this."
                        )

    # ---- drawn rows ----

    def draw(self, completer: Completer) -> dict[str, Any]:
        """Compare rows drawn from the same noise; raise ExportError where too many differ."""
        table = self.table
        n, d = table.numbers.shape
        normals, uniforms = noise.rows(0, 0, n, *completer.noise_size)
        rng = np.random.default_rng(0)
        worst, cells, wrong = 0.0, 0, 0
        low, high = (end.numpy() for end in self.estimator.codec_.numbers.bounds())
        spread = np.where(high > low, high - low, 1.0)
        for share in (0.0, 0.5):
            known = rng.random((n, d + table.ids.shape[1])) < share
            asked, known, feeds = self.asked(completer, table, known, normals, uniforms)
            got = self.run(feeds)
            if self.estimator.schema_.image is not None:  # kernels of images may see where in a batch one is
                self.same_in_any_batch(feeds, got)
            with torch.inference_mode():
                numbers, ids = completer(
                    *map(
                        torch.tensor,
                        (asked.numbers, asked.ids, known[:, :d], known[:, d:], normals, uniforms),
                    )
                )
            gap = np.abs(got["drawn_numbers"] - numbers.numpy())
            both_missing = np.isnan(got["drawn_numbers"]) & np.isnan(numbers.numpy())
            gap = np.where(both_missing, 0.0, gap) / spread
            off = np.concatenate([~(gap <= TOLERANCE), got["drawn_ids"] != ids.numpy()], 1) & ~known
            wrong, cells = wrong + int(off.sum()), cells + int((~known).sum())
            worst = max(worst, float(gap[~known[:, :d] & (gap <= TOLERANCE)].max(initial=0.0)))
        if wrong > (1 - CELLS_AGREE) * cells:
            raise ExportError(
                f"{wrong} of {cells} cells drawn by onnxruntime are not those that torch draws from the same "
                f"noise (allowed: {1 - CELLS_AGREE:.1%}), so the file is not written. Please report this."
            )
        return {"rows": n, "cells": cells, "cells_apart": wrong, "of_range": worst, "tolerance": TOLERANCE}

    @property
    def _asks_known(self) -> bool:
        return any(value.name == "known" for value in self.session.get_inputs())

    @property
    def _blank(self) -> NDArray[np.int64]:
        return np.array([c.blank for c in self.estimator.schema_.category_columns], np.int64)

    def asked(
        self,
        completer: Completer,
        table: Table,
        known: NDArray[np.bool_],
        normals: NDArray[np.float32],
        uniforms: NDArray[np.float32],
    ) -> tuple[Table, NDArray[np.bool_], Arrays]:
        """Rows of which a part is known, what of them is, and what the graph takes of them."""
        if completer.impute:
            table = self._with_holes(table, known)
            known = np.concatenate([~np.isnan(table.numbers), table.ids != self._blank], 1)
        more: Arrays = {"normals": normals, "uniforms": uniforms}
        if self._asks_known:
            more["known"] = known
        return table, known, self.feeds(table, **more)

    def _with_holes(self, table: Table, known: NDArray[np.bool_]) -> Table:
        d = table.numbers.shape[1]
        numbers = np.where(known[:, :d], table.numbers, np.nan)
        return Table(numbers, np.where(known[:, d:], table.ids, self._blank))

    # ---- what a file takes along ----

    def golden(self, draw: tuple[int, int] | None = None) -> dict[str, Any]:
        """A few rows with what the graph makes of them, for `runtime`'s `verify`."""
        n = len(self.table)
        kept = min(GOLDEN, max(FEWEST[1], KEPT // self.estimator.codec_.layout.n_cells))
        pick = np.unique(np.linspace(0, n - 1, kept).astype(int))
        table = self.table.rows(pick)
        more: Arrays = {}
        if draw is not None:
            more["normals"], more["uniforms"] = noise.rows(1, 0, len(pick), *draw)
        if self._asks_known:
            width = table.numbers.shape[1] + table.ids.shape[1]
            more["known"] = np.arange(width)[None] % 2 == np.arange(len(pick))[:, None] % 2
        feeds = self.feeds(table, **more)
        found = self.run(feeds)
        return {
            "inputs": {name: plain(array) for name, array in feeds.items()},
            "outputs": {name: plain(array) for name, array in found.items()},
        }


def _exchanged(schema: Schema, frame: Any) -> Any:
    """Rows of which every other one has the template of the one before, if there are templates."""
    if schema.template is None:
        return frame
    templates = frame[schema.template.name].copy()
    templates[1::2] = templates[: len(templates) // 2 * 2 : 2]
    return {**frame, schema.template.name: templates}


def _rounded(table: Table, centre: NDArray[np.float64]) -> NDArray[np.float32]:
    """Numbers as a core takes them."""
    with np.errstate(over="ignore"):
        return (table.numbers - centre).astype(np.float32)


def opened(data: bytes) -> Any:
    """A session with one thread on the CPU."""
    ort: Any = require("onnxruntime", "cpu", "export")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(session: Any, feeds: Arrays) -> Arrays:
    """All outputs, by name."""
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def plain(array: NDArray[Any]) -> Any:
    """An array as JSON can carry it: what is no finite number is a word."""
    if array.dtype.kind != "f":
        return array.tolist()
    return _words(array.astype(np.float64).tolist())


def _words(value: Any) -> Any:
    if isinstance(value, list):
        return [_words(item) for item in value]
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _hostile(estimator: Estimator, drawn: Table) -> Iterator[Table]:
    """Rows that a model seldom sees."""
    schema = estimator.schema_
    rows = drawn.rows(slice(4))
    holes = np.array([c.may_be_missing for c in schema.number_columns], dtype=bool)
    blanks = np.array([c.blank if c.may_be_missing else 0 for c in schema.category_columns], np.int64)
    unseen = np.array([c.unseen for c in schema.category_columns], np.int64)
    everywhere = np.broadcast_to
    yield Table(np.where(holes, np.nan, rows.numbers), everywhere(blanks, rows.ids.shape).copy())
    yield Table(rows.numbers, everywhere(unseen, rows.ids.shape).copy())
    low, high = (end.numpy() for end in estimator.codec_.numbers.bounds())
    # Far beyond them goes what is a float to the graph; whole numbers are those of a frame, and images beyond
    # their range are refused.
    floats = np.array([c.port.type == "float64" for c in schema.number_columns], dtype=bool)
    floats &= schema.image is None
    for values in (low, high, np.where(floats, -FAR, low), np.where(floats, FAR, high)):
        yield Table(everywhere(values, rows.numbers.shape).copy(), rows.ids)
