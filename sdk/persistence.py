"""A fitted estimator as a manifest and tensors, and back.

`lookalike.archive` vouches that a file is whole, not that its author is honest. So nothing here is taken at
its word: parameters are checked like a user's, what the manifest says must fit together and fit the tensors,
and no network is allocated before the tensors are known to fill it.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lookalike._version import __version__
from lookalike.calibration import Calibration
from lookalike.images import Image
from lookalike.layout import Layout
from lookalike.memory import Blend, Memory
from lookalike.models.family import Model
from lookalike.parameters import RANGES, check_parameters
from lookalike.patches import Patches, scales
from lookalike.preprocessing import OF_PIXELS, TABLES, Numbers, Pixels, TableCodec
from lookalike.schema import Schema
from lookalike.training import History
from lookalike.vetting import all_of, is_count, is_number, require, vetted_schema

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
    model: Model
    memory: Memory
    blend: Blend
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
    for part, module in (("numbers", state.codec.numbers), ("memory", state.memory), ("blend", state.blend)):
        tensors |= {f"{part}.{name}": t for name, t in module.state_dict().items()}
    arrays = {name: t.detach().cpu().numpy() for name, t in tensors.items()}
    arrays |= {f"calibration.{name}": a for name, a in state.calibration.to_arrays().items()}
    return manifest, arrays


def card(family: str, state: State) -> str:
    """Make a page for people who open the file."""
    return (
        f"# {family} of a table\n\nMade by lookalike {__version__}. Learned from {state.n_train} rows; "
        f"training ended {state.history.ended}, in {state.history.seconds:.1f} s.\n\n"
        f"```\n{state.schema!r}\n```\n\n"
        f"It holds {len(state.memory.rows):,} of these rows, by which it scores, and generated rows resemble "
        "them: no guarantee of privacy comes with either.\n"
    )


def unpack_parameters(manifest: Mapping[str, Any], known: Sequence[str]) -> dict[str, Any]:
    """Return the constructor's arguments, checked like a user's."""
    parameters = dict(manifest["parameters"])
    require(parameters.keys() == set(known) - _NOT_SAVED, "its parameters are not those of this family")
    check_parameters(parameters)
    seed = manifest["random_state"]
    require(seed is None or (is_count(seed) and seed < 1 << 64), "its random_state is not a seed")
    return {**parameters, "random_state": seed}


def unpack(
    manifest: Mapping[str, Any], arrays: Arrays, build: Callable[[Layout, torch.Generator, int], Model]
) -> State:
    """Rebuild what `fit` learned, or raise ArtifactError for what does not fit together."""
    require(
        {name.partition(".")[0] for name in arrays} <= {"model", "numbers", "memory", "blend", "calibration"},
        "it has foreign tensors",
    )
    schema = vetted_schema(manifest["schema"])
    codec = _codec(schema, manifest["codec"], _part(arrays, "numbers"))
    width = manifest["width"]
    require(RANGES["width"].holds(width), f"its width is {width!r}")
    model = _model(codec.layout, width, _part(arrays, "model"), build)
    memory = _memory(codec.layout, _part(arrays, "memory"))
    blend = _blend(_part(arrays, "blend"))
    scores = _part(arrays, "calibration")
    require(
        scores.keys() == {"scores"} and scores["scores"].ndim == 1, "its calibration is not a list of scores"
    )
    n_train, offset = manifest["n_train"], manifest["offset"]
    require(is_count(n_train) and 0 < n_train < 1 << 63, f"it learned from {n_train!r} rows")
    require(is_number(offset), f"its offset is {offset!r}")
    return State(
        schema,
        codec,
        model,
        memory,
        blend,
        Calibration.from_arrays(scores),
        unpack_history(manifest["history"]),
        width,
        n_train,
        offset,
    )


def unpack_history(data: Mapping[str, Any]) -> History:
    """Rebuild how a run went."""
    history = History(**data)
    require(
        len(data) == len(asdict(history))
        and all_of(history.step, is_count)
        and all_of(history.loss, lambda losses: all_of(losses, is_number))
        and all_of(history.held_out, is_number)
        and len(history.step) == len(history.loss)
        and is_number(history.seconds)
        and isinstance(history.ended, str),
        "its history is not that of a fit",
    )
    return history


def _model(
    layout: Layout, width: int, arrays: Arrays, build: Callable[[Layout, torch.Generator, int], Model]
) -> Model:
    """Build the network and put the weights in, after a look at a copy that has shapes but no memory."""
    generator = torch.Generator().manual_seed(0)
    with torch.device("meta"):
        shapes = build(layout, generator, width).state_dict()
    _check_tensors(arrays, shapes, "network")
    model = build(layout, generator, width)
    model.load_state_dict({name: torch.from_numpy(a.copy()) for name, a in arrays.items()})
    model.settle()
    return model.requires_grad_(False)


def _memory(layout: Layout, arrays: Arrays) -> Memory:
    shape = arrays["rows"].shape
    require(
        len(shape) == 2 and shape[0] > 0 and shape[1] == layout.width,
        f"its remembered rows have shape {shape}",
    )
    known = arrays["anomalies"].shape
    require(known[1:] == shape[1:], f"its known anomalies have shape {known}")
    wanted = {"scale": shape[1:], "rows": shape, "count": shape[:1], "doubt": shape[:1], "anomalies": known}
    remembered = [(scale, f"patches.{i}") for i, scale in enumerate(scales(layout))]
    shapes = dict(wanted)
    for _, part in remembered:
        m = len(arrays[f"{part}.patches"])
        require(m, "it remembers no patches of its images")
        shapes |= {f"{part}.{name}": size for name, size in Patches.sizes(layout.shape, m).items()}
    _check_tensors(arrays, {k: torch.empty(v, device="meta") for k, v in shapes.items()}, "memory")
    require(
        all(np.isfinite(a).all() for a in arrays.values())
        and (arrays["count"] >= 1).all()
        and (arrays["doubt"] >= 1).all()
        and (arrays["scale"] > 0).all(),
        "its memory is not one of rows",
    )

    def tensors(names: Iterable[str], part: dict[str, NDArray[Any]]) -> list[torch.Tensor]:
        return [torch.from_numpy(part[name].copy()) for name in names]

    patches = [
        Patches(layout.shape, shrunk, *tensors(Patches.sizes(layout.shape, 1), _part(arrays, part)))
        for shrunk, part in remembered
    ]
    scale, rows, count, doubt, anomalies = tensors(wanted, dict(arrays))
    return Memory(layout, scale, rows, count, doubt, anomalies, patches)


def _blend(arrays: Arrays) -> Blend:
    wanted = torch.empty(arrays["weight"].shape, dtype=torch.float64, device="meta")
    _check_tensors(arrays, {"usual": wanted, "weight": wanted}, "blend")
    usual, weight = arrays["usual"], arrays["weight"]
    finite = np.isfinite(usual * weight).all()
    sound = finite and (usual > 0).all() and (weight >= 0).all() and weight.sum() > 0
    require(bool(sound), "its blend is not one of energies")
    return Blend(torch.from_numpy(usual.copy()), torch.from_numpy(weight.copy()))


def _codec(schema: Schema, data: Mapping[str, Any], arrays: Arrays) -> TableCodec:
    levels = [len(column.levels) for column in schema.category_columns]
    d, c = len(schema.number_columns), len(levels)
    counts, nullable, missing = data["counts"], data["nullable"], data["missing"]
    require(
        all_of(counts, lambda column: all_of(column, is_count))
        and [len(column) for column in counts] == levels
        and all_of(nullable, is_count)
        and nullable == sorted({i for i in nullable if i < d})
        and all_of(missing, is_count)
        and len(missing) == c
        and data["columns"] == list(range(d + c))
        and RANGES["max_levels"].holds(data["max_levels"]),
        "its codec is not that of its schema",
    )
    if schema.raster is not None:
        return TableCodec.from_dict(_pixels(schema.raster, arrays), data)
    shape = arrays["value"].shape
    require(len(shape) == 2 and shape[0] == d and shape[1] >= 2, f"its tables of numbers have shape {shape}")
    shapes = dict(zip(TABLES, (shape, shape, shape, shape[:1], shape[:1]), strict=True))
    wanted = {name: torch.empty(size, dtype=torch.float64, device="meta") for name, size in shapes.items()}
    _check_tensors(arrays, wanted, "table of numbers")
    low, high = arrays["low"], arrays["high"]
    ascending = all((np.diff(arrays[name], axis=1) >= 0).all() for name in ("value", "low", "high"))
    within = (low > 0).all() and (low <= high).all() and (high < 1).all() and (arrays["scale"] > 0).all()
    require(ascending and within, "its tables of numbers are no distribution functions")
    numbers_ = Numbers(*(torch.from_numpy(arrays[name].copy()) for name in TABLES))
    return TableCodec.from_dict(numbers_, data)


def _pixels(image: Image, arrays: Arrays) -> Pixels:
    one = torch.empty((), dtype=torch.float64, device="meta")
    _check_tensors(arrays, dict.fromkeys(OF_PIXELS, one), "map of pixels")
    found = {name: float(arrays[name]) for name in OF_PIXELS}
    sound = all(map(math.isfinite, found.values())) and found["scale"] > 0 and found["step"] >= 0
    same = (found["least"], found["most"]) == (image.low, image.high)
    require(sound and same, "its map of pixels is not that of its images")
    return Pixels(image.grid, *(torch.tensor(found[name], dtype=torch.float64) for name in OF_PIXELS))


def _check_tensors(arrays: Arrays, wanted: Mapping[str, torch.Tensor], what: str) -> None:
    require(arrays.keys() == wanted.keys(), f"its {what} has other tensors than expected")
    for name, tensor in wanted.items():
        found, expected = arrays[name].shape, tuple(tensor.shape)
        require(found == expected, f"tensor {name!r} of its {what} has shape {found}, not {expected}")
        dtype = str(tensor.dtype).removeprefix("torch.")
        require(arrays[name].dtype.name == dtype, f"tensor {name!r} of its {what} is not {dtype}")


def _part(arrays: Arrays, name: str) -> dict[str, NDArray[Any]]:
    return {key.removeprefix(name + "."): a for key, a in arrays.items() if key.startswith(name + ".")}
