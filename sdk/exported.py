"""What an exported file says of itself, and whether its graph is one that says so.

The metadata of a file hold a JSON object under `KEY`:

==============  ====================================================================================
entry           is
==============  ====================================================================================
format          1
lookalike       version of the exporter
task            "score", "generate" or "impute"
inputs          "columns": a tensor a column, as `feeding.feed` makes them; "core": ``numbers``,
                float32, from which ``centre`` is subtracted, and ``ids``, int64
family          "vae", "gan" or "diffusion"; ``estimator``: the name of the class
schema          `Schema.to_dict()`; ``columns``: `feeding.describe(schema)`, for other readers
threshold       scores below it are anomalies
calibration     of task "score", the scores of the rows held out
centre          of "core", one number a column
noise           of the other tasks, the normals and uniforms that a row takes
precision       "float32", or "int8" where networks multiply bytes
n_train, fingerprint, versions, parity    what was exported, by what, and how near it is to torch; under
                parity ``int8``, how near that is to float32
golden          a few rows: inputs and outputs, what is no finite number as text
==============  ====================================================================================

Task "score" gives ``score``, ``p_value``, ``label`` and, unless exported without, ``contributions``
(n, d + c), ``expected_numbers`` (n, d) and ``expected_ids`` (n, c). The others take ``normals`` and
``uniforms``, "generate" (and "impute" of images) also ``known`` (n, d + c), and give ``drawn_numbers``
(n, d), ``drawn_ids`` (n, c). Of an image each channel of a pixel is a number, row by row from the top.
What would have no columns, such as the ``ids`` of a table of numbers, is no input; outputs are all there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lookalike import onnxfile
from lookalike.calibration import Calibration
from lookalike.errors import ArtifactError
from lookalike.feeding import input_names
from lookalike.onnxfile import Contents
from lookalike.onnxgraph import Value
from lookalike.schema import Schema
from lookalike.values import Array, Name
from lookalike.vetting import all_of, is_count, is_number, require, vetted_schema

KEY = "lookalike"
FORMAT = 1
DRAWN = ("drawn_numbers", "drawn_ids")
EXPLANATION = ("contributions", "expected_numbers", "expected_ids")
PRECISIONS = ("float32", "int8")
TASKS = {"score": "score rows", "generate": "generate rows", "impute": "impute"}

_WORDS = {"NaN": np.nan, "Infinity": np.inf, "-Infinity": -np.inf}
_MAX_GOLDEN = 1024


@dataclass(frozen=True, repr=False)
class Exported:
    """What a file says of itself; `read_exported` has held it against the graph."""

    task: str
    inputs: str
    family: str
    estimator: str
    schema: Schema
    threshold: float
    calibration: Calibration | None
    centre: NDArray[np.float64]
    noise: tuple[int, int]
    precision: str
    n_train: int
    explains: bool
    about: Mapping[str, Any] = field(repr=False)
    """The rest, of no consequence to how the file is run."""

    @property
    def asks_known(self) -> bool:
        """Whether the graph is told which cells are known: a pixel cannot say that it is missing."""
        return self.task == "generate" or (self.task == "impute" and self.schema.image is not None)

    @property
    def results(self) -> tuple[str, ...]:
        """What most calls ask for. Other outputs tell more of a score, or the same in columns."""
        return ("score",) if self.task == "score" else DRAWN

    @cached_property
    def names(self) -> dict[Name, str]:
        """The input of each modelled column."""
        return input_names(self.schema)


def read_exported(contents: Contents) -> Exported:
    """Read the metadata of a judged file.

    Raises
    ------
    ArtifactError
        If they are of another format, or not those of an export, or not of this graph.
    """
    data = contents.document(KEY)
    if data.get("format") != FORMAT:
        raise ArtifactError(
            f"{contents.name} is of format {str(data.get('format'))[:40]}, and this lookalike reads "
            f"{FORMAT}. Export it again, or upgrade lookalike."
        )
    try:
        exported = _unpacked(data, any(value.name == EXPLANATION[0] for value in contents.outputs))
        _check_graph(contents, exported)
    # A schema that no fit would have made may fail in any of its parts.
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{contents.name} cannot be loaded: {str(error)[:300] or type(error).__name__}. Export it again, "
            "or restore a copy."
        ) from error
    return exported


def _unpacked(data: Mapping[str, Any], explains: bool) -> Exported:
    for key in ("family", "estimator", "fingerprint", "lookalike"):
        require(isinstance(data[key], str) and len(data[key]) < 200, f"its {key} is no text")
    for key in ("versions", "parity", "golden"):
        require(isinstance(data[key], dict), f"its {key} is no JSON object")
    task, inputs, threshold, noise = data["task"], data["inputs"], data["threshold"], data["noise"]
    precision = data["precision"]
    require(isinstance(task, str) and task in TASKS, f"its task is {str(task)[:40]!r}")
    require(inputs in ("columns", "core"), f"its inputs are {str(inputs)[:40]!r}")
    require(precision in PRECISIONS, f"its precision is {str(precision)[:40]!r}")
    require(is_number(threshold), f"its threshold is {str(threshold)[:40]!r}")
    require(all_of(noise, is_count) and len(noise) == 2, "its noise is not two counts")
    require(is_count(data["n_train"]), f"it learned from {str(data['n_train'])[:40]} rows")
    schema = vetted_schema(data["schema"])
    require(task == "score" or schema.template is None, "it draws images that it knows by differences alone")
    scores, centre = data["calibration"], data["centre"]
    require(
        all_of(scores, is_number) and bool(scores) == (task == "score"),
        "its calibration is no list of scores",
    )
    wide = schema.widths[0] if inputs == "core" else 0
    require(all_of(centre, is_number) and len(centre) == wide, "its centre is not that of its columns")
    return Exported(
        task=task,
        inputs=inputs,
        family=data["family"],
        estimator=data["estimator"],
        schema=schema,
        threshold=float(threshold),
        calibration=Calibration(scores) if scores else None,
        centre=np.array(centre, dtype=np.float64),
        noise=(noise[0], noise[1]),
        precision=precision,
        n_train=data["n_train"],
        explains=explains,
        about={key: data[key] for key in ("lookalike", "fingerprint", "versions", "parity", "golden")},
    )


def _check_graph(contents: Contents, exported: Exported) -> None:
    """The graph must take what it will be given, and give what will be asked of it."""
    schema = exported.schema
    d, c = schema.widths
    takes: dict[str, tuple[str, tuple[int, ...]]] = {}
    gives: dict[str, tuple[str, tuple[int, ...]]] = {}
    if exported.inputs == "core":
        takes |= {"numbers": ("float32", (d,)), "ids": ("int64", (c,))}
    else:
        for column in schema.tensors:
            takes[exported.names[column.name]] = (column.port.type, column.port.shape)
    if exported.task == "score":
        gives |= {"score": ("float64", ()), "p_value": ("float64", ()), "label": ("int64", ())}
        if exported.explains:
            kinds = ("float64", (d + c,)), ("float64", (d,)), ("int64", (c,))
            gives |= dict(zip(EXPLANATION, kinds, strict=True))
    else:
        normals, uniforms = exported.noise
        takes |= {"normals": ("float32", (normals,)), "uniforms": ("float32", (uniforms,))}
        takes |= {"known": ("bool", (d + c,))} if exported.asks_known else {}
        gives |= {"drawn_numbers": ("float64", (d,)), "drawn_ids": ("int64", (c,))}
    takes = {name: kind for name, kind in takes.items() if kind[1] != (0,)}
    found = {value.name: _kind(value) for value in contents.inputs}
    require(found.keys() == takes.keys(), "its graph takes other inputs than its columns")
    found |= {value.name: _kind(value) for value in contents.outputs}
    for name, kind in {**takes, **gives}.items():
        shown = f"{kind[0]} of shape {('n', *kind[1])}"
        require(found.get(name) == kind, f"{name!r} of its graph is not {shown}")


def _kind(value: Value) -> tuple[str, tuple[int | str | None, ...]]:
    """Type and shape of a row. What has no rows has no kind."""
    rows = value.dims[:1] and not isinstance(value.dims[0], int)
    return (value.dtype, value.dims[1:]) if rows else (value.dtype, (-1,))


def with_threshold(contents: Contents, exported: Exported, threshold: float) -> bytes:
    """Change the threshold of a file of task "score": in its graph, its metadata and its golden rows.

    Returns
    -------
    bytes
        A sealed file, whose labels follow the new threshold whatever runs it.
    """
    require(
        [v for v in contents.optional if v.name == "threshold"] == [Value("threshold", "float64", ())],
        f"{contents.name} has no threshold in its graph",
    )
    about, (_, golden) = contents.document(KEY), golden_rows(contents, exported)
    # As the graph has it: a score that is no number is not normal.
    about["golden"]["outputs"]["label"] = np.where(golden["score"] - threshold >= 0, 1, -1).tolist()
    data = onnxfile.with_default(contents.data, "threshold", threshold)
    return onnxfile.with_metadata(data, {KEY: json.dumps({**about, "threshold": threshold})})


def golden_rows(contents: Contents, exported: Exported) -> tuple[dict[str, Array], dict[str, Array]]:
    """Read the golden rows of a file: what goes in, and what has to come out."""
    golden = exported.about["golden"]
    sides = (("inputs", contents.inputs), ("outputs", contents.outputs))
    try:
        given, wanted = (
            {v.name: _tensor(golden[side][v.name], v) for v in values if v.name in golden[side]}
            for side, values in sides
        )
        sizes = {len(array) for array in (*given.values(), *wanted.values())}
        require(given.keys() == {v.name for v in contents.inputs}, "an input is missing")
        require(wanted.keys() == {v.name for v in contents.outputs}, "an output is missing")
        require(len(sizes) == 1 and 0 < max(sizes) <= _MAX_GOLDEN, "they are not rows")
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{contents.name}: its golden rows cannot be read: {error}. Export it again, or restore a copy."
        ) from error
    return given, wanted


def _tensor(values: Any, value: Value) -> Array:
    """An array from JSON, where NaN and the infinities are words."""
    require(isinstance(values, list), f"{value.name!r} is no list")
    if value.dtype == "string":
        require(all(isinstance(text, str) for text in values), f"{value.name!r} is not text")
        return np.array(values, dtype=object)
    if value.dtype.startswith("float"):
        values = [_plain(row) for row in values]
    width = [size for size in value.dims[1:] if isinstance(size, int)]
    return np.array(values, dtype=value.dtype).reshape(len(values), *width)


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return _WORDS[value] if isinstance(value, str) else value
