"""A fitted estimator as a manifest and tensors, and back.

`lookalike.archive` vouches that a file is whole, not that its author is honest. So nothing here is taken at
its word: parameters are checked like a user's, what the manifest says must fit together and fit the tensors,
and no network is allocated before the tensors are known to fill it.
"""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lookalike._version import __version__
from lookalike.calibration import Calibration
from lookalike.columns import Encoded
from lookalike.errors import ArtifactError
from lookalike.layout import Layout
from lookalike.levelled import Levelled
from lookalike.measured import Measured
from lookalike.models.family import Family
from lookalike.parameters import RANGES, check_parameters
from lookalike.preprocessing import TABLES, Numbers, TableCodec
from lookalike.schema import Schema
from lookalike.training import History
from lookalike.values import NANOSECONDS

Arrays = Mapping[str, NDArray[Any]]

_NOT_SAVED = {
    "callbacks",
    "schema",
    "checkpoint",
    "random_state",
}  # objects, paths, and what has its own entry


class State(NamedTuple):
    """All that `fit` learns."""

    schema: Schema
    codec: TableCodec
    model: Family
    calibration: Calibration
    history: History
    width: int
    n_train: int
    offset: float


def pack(family: str, parameters: Mapping[str, Any], state: State) -> tuple[dict[str, Any], dict[str, Any]]:
    """Write an estimator down as JSON values and tensors."""
    seed = parameters["random_state"]
    plain = {k: v.item() if isinstance(v, np.generic) else v for k, v in parameters.items()}
    manifest = {
        "family": family,
        "parameters": {k: v for k, v in plain.items() if k not in _NOT_SAVED},
        "random_state": int(seed) if isinstance(seed, numbers.Integral) else None,
        "schema": state.schema.to_dict(),
        "codec": state.codec.to_dict(),
        "width": state.width,
        "n_train": state.n_train,
        "offset": float(state.offset),
        "history": asdict(state.history),
    }
    tensors = {f"model.{name}": t for name, t in state.model.state_dict().items()}
    tensors |= {f"numbers.{name}": t for name, t in state.codec.numbers.state_dict().items()}
    arrays = {name: t.detach().cpu().numpy() for name, t in tensors.items()}
    arrays |= {f"calibration.{name}": a for name, a in state.calibration.to_arrays().items()}
    return manifest, arrays


def card(family: str, state: State) -> str:
    """Make a page for people who open the file."""
    return (
        f"# {family} of a table\n\nMade by lookalike {__version__}. Learned from {state.n_train} rows; "
        f"training ended {state.history.ended}, in {state.history.seconds:.1f} s.\n\n"
        f"```\n{state.schema!r}\n```\n\n"
        "Generated rows resemble the rows it was fitted on; no guarantee of privacy comes with them.\n"
    )


def unpack_parameters(manifest: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return the constructor's arguments, checked like a user's."""
    parameters = dict(manifest["parameters"])
    _require(parameters.keys() == set(known) - _NOT_SAVED, "its parameters are not those of this family")
    check_parameters(parameters)
    seed = manifest["random_state"]
    _require(seed is None or (_is_count(seed) and seed < 1 << 64), "its random_state is not a seed")
    return {**parameters, "random_state": seed}


def unpack(
    manifest: Mapping[str, Any], arrays: Arrays, build: Callable[[Layout, torch.Generator, int], Family]
) -> State:
    """Rebuild what `fit` learned, or raise ArtifactError for what does not fit together."""
    _require(
        {name.partition(".")[0] for name in arrays} <= {"model", "numbers", "calibration"},
        "it has foreign tensors",
    )
    schema = Schema.from_dict(manifest["schema"])
    _check_columns(schema)
    codec = _codec(schema, manifest["codec"], _part(arrays, "numbers"))
    width = manifest["width"]
    _require(RANGES["width"].holds(width), f"its width is {width!r}")
    model = _model(codec.layout, width, _part(arrays, "model"), build)
    scores = _part(arrays, "calibration")
    _require(
        scores.keys() == {"scores"} and scores["scores"].ndim == 1, "its calibration is not a list of scores"
    )
    n_train, offset = manifest["n_train"], manifest["offset"]
    _require(_is_count(n_train) and 0 < n_train < 1 << 63, f"it learned from {n_train!r} rows")
    _require(_is_number(offset), f"its offset is {offset!r}")
    return State(
        schema,
        codec,
        model,
        Calibration.from_arrays(scores),
        unpack_history(manifest["history"]),
        width,
        n_train,
        offset,
    )


def unpack_history(data: Mapping[str, Any]) -> History:
    """Rebuild how a run went."""
    history = History(**data)
    _require(
        len(data) == len(asdict(history))
        and _all(history.step, _is_count)
        and _all(history.loss, lambda losses: _all(losses, _is_number))
        and _all(history.held_out, _is_number)
        and len(history.step) == len(history.loss)
        and _is_number(history.seconds)
        and isinstance(history.ended, str),
        "its history is not that of a fit",
    )
    return history


def _model(
    layout: Layout, width: int, arrays: Arrays, build: Callable[[Layout, torch.Generator, int], Family]
) -> Family:
    """Build the network and put the weights in, after a look at a copy that has shapes but no memory."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = build(layout, generator, width).state_dict()
    _check_tensors(arrays, shapes, "network")
    model = build(layout, generator, width)
    model.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in arrays.items()})
    return model.requires_grad_(False)


def _codec(schema: Schema, data: Mapping[str, Any], arrays: Arrays) -> TableCodec:
    levels = [len(column.levels) for column in schema.category_columns]
    d, c = len(schema.number_columns), len(levels)
    counts, nullable, missing = data["counts"], data["nullable"], data["missing"]
    _require(
        _all(counts, lambda column: _all(column, _is_count))
        and [len(column) for column in counts] == levels
        and _all(nullable, _is_count)
        and nullable == sorted({i for i in nullable if i < d})
        and _all(missing, _is_count)
        and len(missing) == c
        and data["columns"] == list(range(d + c))
        and RANGES["max_levels"].holds(data["max_levels"]),
        "its codec is not that of its schema",
    )
    shape = arrays["value"].shape
    _require(len(shape) == 2 and shape[0] == d and shape[1] >= 2, f"its tables of numbers have shape {shape}")
    shapes = dict(zip(TABLES, (shape, shape, shape, shape[:1], shape[:1]), strict=True))
    wanted = {name: torch.empty(size, dtype=torch.float64, device="meta") for name, size in shapes.items()}
    _check_tensors(arrays, wanted, "table of numbers")
    low, high = arrays["low"], arrays["high"]
    ascending = all((np.diff(arrays[name], axis=1) >= 0).all() for name in ("value", "low", "high"))
    within = (low > 0).all() and (low <= high).all() and (high < 1).all() and (arrays["scale"] > 0).all()
    _require(ascending and within, "its tables of numbers are no distribution functions")
    numbers_ = Numbers(*(torch.from_numpy(arrays[name].copy()) for name in TABLES))
    return TableCodec.from_dict(numbers_, data)


def _check_tensors(arrays: Arrays, wanted: Mapping[str, torch.Tensor], what: str) -> None:
    _require(arrays.keys() == wanted.keys(), f"its {what} has other tensors than expected")
    for name, tensor in wanted.items():
        found, expected = arrays[name].shape, tuple(tensor.shape)
        _require(found == expected, f"tensor {name!r} of its {what} has shape {found}, not {expected}")
        dtype = str(tensor.dtype).removeprefix("torch.")
        _require(arrays[name].dtype.name == dtype, f"tensor {name!r} of its {what} is not {dtype}")


# ---- columns -----------------------------------------------------------------------------------------------


def _check_columns(schema: Schema) -> None:
    """Types and bounds of what `Schema.from_dict` took as it came."""
    names = schema.names
    _require(_all(names, lambda n: isinstance(n, str) or _is_whole(n)), "a column's name is no name")
    _require(0 < len(set(names)) == len(names), "its columns do not have distinct names")
    for column in schema.columns:
        fields = column.to_dict()
        for key, value in fields.items():
            rule = _FIELDS.get(key)
            _require(rule is None or rule(value), f"{key} of column {column.name!r} is {str(value)[:40]!r}")
        _check_storage(column.name, fields["storage"])
        if isinstance(column, Measured):
            _require(column.low <= column.high, f"column {column.name!r} has an empty range")
        if isinstance(column, Levelled):
            _require(
                len(column.levels) == len(column.counts), f"column {column.name!r} has counts of other levels"
            )
    _require(any(isinstance(c, Encoded) for c in schema.columns), "no column is modelled")


def _check_storage(name: object, storage: Mapping[str, Any]) -> None:
    rules: dict[str, Callable[[Any], bool]] = {
        "family": lambda v: v in _FAMILIES,
        "unit": lambda v: v in NANOSECONDS or v == "",
        # A dtype of a name with a large number in it, such as <U999999999, would take that much memory.
        "native": lambda v: isinstance(v, str) and len(v) < 200 and not re.search(r"\d{6}", v),
        "zone": lambda v: v is None or (isinstance(v, str) and len(v) < 100),
        "blank": lambda v: isinstance(v, str),
        "ordered": lambda v: isinstance(v, bool),
        "categories": lambda v: v is None or _all(v, _is_scalar),
    }
    for key, value in storage.items():
        _require(
            key == "labels" or bool(rules[key](value)),
            f"storage of column {name!r} has {key} {str(value)[:40]!r}",
        )
    if storage.get("labels") is not None:
        _check_storage(name, storage["labels"])


_FAMILIES = {"float", "integer", "boolean", "text", "datetime", "duration", "time", "nothing"}


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return _is_whole(value) and value >= 0  # type: ignore[operator]


def _is_number(value: object) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float)


def _all(values: object, rule: Callable[[Any], bool]) -> bool:
    return isinstance(values, list | tuple) and all(map(rule, values))


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "missing": lambda v: _is_number(v) and 0 <= v <= 1,
    "nullable": lambda v: isinstance(v, bool),
    "integral": lambda v: isinstance(v, bool),
    "low": _is_number,
    "high": _is_number,
    "lower": lambda v: v is None or _is_number(v),
    "upper": lambda v: v is None or _is_number(v),
    "origin": lambda v: _is_whole(v) and abs(v) < 1 << 64,
    "step": lambda v: _is_whole(v) and 0 < v < 1 << 64,
    "decimals": lambda v: v is None or (_is_whole(v) and 0 <= v <= 20),
    "levels": lambda v: _all(v, _is_scalar) and len(set(v)) == len(v),
    "counts": lambda v: _all(v, _is_count),
    "style": lambda v: isinstance(v, str),
    "prefix": lambda v: isinstance(v, str),
    "suffix": lambda v: isinstance(v, str),
    "width": lambda v: _is_count(v) and v < 1000,
}


def _part(arrays: Arrays, name: str) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(name + "."): a for key, a in arrays.items() if key.startswith(name + ".")}


def _require(holds: object, otherwise: str) -> None:
    if not holds:
        raise ArtifactError(otherwise)
