"""The columns of a table in ONNX: named tensors to the arrays of `Table`, and back.

`front` computes what `Schema.encode` does from what `feeding.feed` makes of a frame, `tail` what
`Schema.decode` holds. Between them stands a core that takes and gives ``numbers`` and ``ids``.

Numbers are treated all columns at once: what differs by column (origin, step, bounds) is a constant with one
value a column. Text alone takes a node a column. All operators are of the ONNX standard.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lookalike.errors import require
from lookalike.feeding import INNER, input_names
from lookalike.images import Image, Template
from lookalike.levelled import Levelled
from lookalike.measured import Measured, Number, precision_of
from lookalike.schema import Schema
from lookalike.values import Array, decimal_scale

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

__all__ = ["IR_VERSION", "OPSETS", "Part", "front", "tail", "without_empty_inputs"]

OPSETS = {"": 20, "ai.onnx.ml": 4}
IR_VERSION = 10

_EXACT = 2**53  # integers up to here are exact in float64
_HALF = 2**32
_TOP = -(2**63)  # the bit that tells uint64 from int64


@dataclass
class Part:
    """A piece of a graph. Pieces that name each other's values are joined by joining their lists."""

    nodes: list[NodeProto] = field(default_factory=list)
    initializers: list[TensorProto] = field(default_factory=list)
    inputs: list[ValueInfoProto] = field(default_factory=list)
    outputs: list[ValueInfoProto] = field(default_factory=list)

    def model(self, name: str = "columns") -> ModelProto:
        """Return the piece as a model of its own."""
        onnx: Any = require("onnx", "onnx", "export")
        graph = onnx.helper.make_graph(self.nodes, name, self.inputs, self.outputs, self.initializers)
        opsets = [onnx.helper.make_opsetid(domain, version) for domain, version in OPSETS.items()]
        made: ModelProto = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
        return made


def front(schema: Schema, *, numbers: str = "numbers", ids: str = "ids", prefix: str = "front") -> Part:
    """Build the way from columns to the arrays of a `Table`.

    Parameters
    ----------
    schema : Schema
        Fitted.
    numbers, ids : str
        Names of the outputs, (n, d) float64 and (n, c) int64.
    prefix : str
        Tells the inner values of this piece from those of others.

    Returns
    -------
    Part
        One input of shape (n,), or of images (n, height, width) or (n, height, width, channels), for each
        modelled column, named by `feeding.input_names`.
    """
    draft = Draft(prefix)
    names = input_names(schema)
    for column in schema.tensors:
        draft.input(names[column.name], column.port.type, ("n", *column.port.shape))
    some_input = names[schema.tensors[0].name]
    pictures = [draft.cast(names[image.name], "float64") for image in schema.pictures]
    if schema.template is not None:
        _compare(draft, schema.template, *pictures, output=numbers)
    elif pictures:
        draft("Flatten", *pictures, axis=1, output=numbers)
    elif schema.number_columns:
        groups = _groups(schema.number_columns, _encoder)
        made = [encode(draft, [names[c.name] for c in group], group) for encode, group in groups]
        joined = made[0] if len(made) == 1 else draft("Concat", *made, axis=1)
        order = {column.name: k for k, column in enumerate(c for _, group in groups for c in group)}
        draft.pick(joined, [order[column.name] for column in schema.number_columns], output=numbers)
    else:
        draft.no_columns(some_input, np.float64, output=numbers)
    if schema.category_columns:
        found = [_look_up(draft, names[column.name], column) for column in schema.category_columns]
        draft.join(found, output=ids)
    else:
        draft.no_columns(some_input, np.int64, output=ids)
    d, c = schema.widths
    draft.output(numbers, "float64", ("n", d))
    draft.output(ids, "int64", ("n", c))
    return draft.part


def tail(
    schema: Schema, *, numbers: str = "numbers", ids: str = "ids", naming: str = "", prefix: str = "tail"
) -> Part:
    """Build the way from the arrays of a `Table` back to columns.

    Parameters
    ----------
    schema : Schema
        Fitted.
    numbers, ids : str
        Names of the inputs, (n, d) float64 and (n, c) int64.
    naming : str
        Comes before the name of each output; `feeding.FILLED` where the graph also has a front.
    prefix : str
        Tells the inner values of this piece from those of others.

    Returns
    -------
    Part
        One output for each modelled column, of the shape and type that its input has in `front`.
    """
    draft = Draft(prefix)
    names = {name: naming + given for name, given in input_names(schema).items()}
    d, c = schema.widths
    draft.input(numbers, "float64", ("n", d))
    draft.input(ids, "int64", ("n", c))
    if schema.image is not None:
        _pictures(draft, numbers, schema.image, names[schema.image.name])
    else:
        places = {column.name: k for k, column in enumerate(schema.number_columns)}
        for decode, group in _groups(schema.number_columns, _decoder):
            cells = draft.pick(numbers, [places[column.name] for column in group], of=len(places))
            decode(draft, cells, group, [names[column.name] for column in group])
    if schema.category_columns:
        _name_levels(draft, ids, schema.category_columns, [names[c.name] for c in schema.category_columns])
    for column in schema.tensors:
        draft.output(names[column.name], column.port.type, ("n", *column.port.shape))
    return draft.part


class Draft:
    """A `Part` being drawn. Called with an operator and its inputs, it adds a node and returns its output."""

    def __init__(self, prefix: str) -> None:
        self.onnx: Any = require("onnx", "onnx", "export")
        self.prefix = f"{INNER}{prefix}/"
        self.part = Part()

    def __call__(
        self, op: str, *inputs: str | Array | float, output: str = "", domain: str = "", **attributes: Any
    ) -> str:
        output = output or f"{self.prefix}{len(self.part.nodes)}"
        names = [given if isinstance(given, str) else self.constant(given) for given in inputs]
        node = self.onnx.helper.make_node(
            op, names, [output], name=f"{self.prefix}{op}_{len(self.part.nodes)}", domain=domain
        )
        node.attribute.extend(self.attribute(key, value) for key, value in attributes.items())
        self.part.nodes.append(node)
        return output

    def attribute(self, key: str, value: Any) -> Any:
        if isinstance(value, np.ndarray):
            value = self.tensor("", value)
        return self.onnx.helper.make_attribute(key, value)

    def constant(self, value: Array | float) -> str:
        name = f"{self.prefix}c{len(self.part.initializers)}"
        self.part.initializers.append(self.tensor(name, np.asarray(value)))
        return name

    def tensor(self, name: str, array: Array) -> TensorProto:
        if array.dtype.kind == "O":
            texts = [text.encode() for text in array.tolist()]
            made = self.onnx.helper.make_tensor(name, self.onnx.TensorProto.STRING, array.shape, texts)
        else:
            made = self.onnx.numpy_helper.from_array(array, name)
        return made

    def type_of(self, word: str) -> int:
        if word == "string":
            return int(self.onnx.TensorProto.STRING)
        return int(self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(word)))

    def input(self, name: str, type_: str, shape: Sequence[str | int]) -> None:
        made = self.onnx.helper.make_tensor_value_info(name, self.type_of(type_), shape)
        self.part.inputs.append(made)

    def output(self, name: str, type_: str, shape: Sequence[str | int]) -> None:
        made = self.onnx.helper.make_tensor_value_info(name, self.type_of(type_), shape)
        self.part.outputs.append(made)

    def cast(self, value: str, type_: str, output: str = "") -> str:
        return self("Cast", value, to=self.type_of(type_), output=output)

    def join(self, columns: Iterable[str], output: str = "") -> str:
        """Put columns of shape (n,) side by side."""
        every = list(columns)
        shape = np.array([len(every), -1])
        below = self("Reshape", self("Concat", *every, axis=0), shape)
        return self("Transpose", below, perm=[1, 0], output=output)

    def pick(self, matrix: str, places: Sequence[int], of: int | None = None, output: str = "") -> str:
        """Columns of a matrix in another order, or some of them."""
        if list(places) != list(range(of or len(places))):
            return self("Gather", matrix, np.array(places), axis=1, output=output)
        return self("Identity", matrix, output=output) if output else matrix

    def column(self, matrix: str, place: int, output: str = "") -> str:
        """One column of a matrix, of shape (n,)."""
        return self("Gather", matrix, np.array(place), axis=1, output=output)

    def no_columns(self, column: str, dtype: type[np.generic], output: str) -> None:
        """A matrix as long as a column or another matrix, and of no width."""
        shape = self("Concat", self("Shape", column, end=1), np.array([0]), axis=0)
        self("ConstantOfShape", shape, value=np.zeros(1, dtype), output=output)


def without_empty_inputs(part: Part) -> Part:
    """Make inside the graph what would be an input of no width, such as the ids of a table of numbers.

    Servers cannot send such a tensor. The first of the other inputs tells how many rows there are.
    """
    onnx: Any = require("onnx", "onnx", "export")

    def is_empty(value: ValueInfoProto) -> bool:
        dims = value.type.tensor_type.shape.dim
        return any(dim.HasField("dim_value") and not dim.dim_value for dim in dims)

    draft, kept = Draft("empty"), [value for value in part.inputs if not is_empty(value)]
    for value in filter(is_empty, part.inputs):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).type
        draft.no_columns(kept[0].name, dtype, output=value.name)
    nodes, initializers = draft.part.nodes + part.nodes, draft.part.initializers + part.initializers
    return Part(nodes, initializers, kept, part.outputs)


def _groups(columns: Sequence[Measured], way: Any) -> list[tuple[Any, list[Measured]]]:
    """Columns by the function that treats them, in the order of their first ones."""
    groups: dict[Any, list[Measured]] = {}
    for column in columns:
        groups.setdefault(way(column), []).append(column)
    return list(groups.items())


# ---- whole numbers as int64 --------------------------------------------------------------------------------
#
# A column of uint64 is int64 with its first bit flipped, which keeps the order: 2**63 less, in short.


def _shift(column: Measured) -> int:
    return 2**63 if column.port.type == "uint64" else 0


def _signed(draft: Draft, name: str, type_: str) -> str:
    if type_ != "uint64":
        return name
    return draft("BitwiseXor", draft.cast(name, "int64"), np.array(_TOP))


def _grids(columns: Sequence[Measured]) -> tuple[list[int], list[int], list[int], list[int]]:
    """Origin, step, minimum and maximum of each column, as int64."""
    grids = []
    for column in columns:
        origin, step, low, high = column.grid
        shift = _shift(column)
        # A declared bound may lie beyond the type.
        low, high = max(low - shift, -(2**63)), min(high - shift, 2**63 - 1)
        grids.append((origin - shift, step, low, high))
    origins, steps, lows, highs = (list(of_all) for of_all in zip(*grids, strict=True))
    return origins, steps, lows, highs


def _missing(columns: Sequence[Measured]) -> NDArray[np.int64]:
    return np.array([int(column.port.missing) - _shift(column) for column in columns])


# ---- front: numbers ----------------------------------------------------------------------------------------


def _encoder(column: Measured) -> Any:
    if column.port.type == "float64":
        return _as_they_are
    _, step, low, high = column.grid
    return _in_halves if step == 1 or high - low >= 2**63 or step >= 2**63 else _in_steps


def _as_they_are(draft: Draft, names: Sequence[str], columns: Sequence[Measured]) -> str:
    return draft.join(names)


def _ticks(draft: Draft, names: Sequence[str], columns: Sequence[Measured]) -> tuple[str, str]:
    """Whole numbers side by side, and where they are missing."""
    signed = [_signed(draft, name, c.port.type) for name, c in zip(names, columns, strict=True)]
    ticks = draft.join(signed)
    return ticks, draft("Equal", ticks, _missing(columns))


def _in_steps(draft: Draft, names: Sequence[str], columns: Sequence[Measured]) -> str:
    """(ticks - origin) / step, with all but the last division in integers."""
    ticks, gone = _ticks(draft, names, columns)
    origins, steps, _, _ = _grids(columns)
    # Differences beyond int64 end at its limits.
    if max(origins) > 0:
        ticks = draft("Max", ticks, np.array([max(o - (2**63 - 1), -(2**63)) for o in origins]))
    if min(origins) < 0:
        ticks = draft("Min", ticks, np.array([min(o + (2**63 - 1), 2**63 - 1) for o in origins]))
    distance = draft("Sub", ticks, np.array(origins))
    step = np.array(steps)
    whole = draft("Div", distance, step)
    rest = draft("Sub", distance, draft("Mul", whole, step))
    part = draft("Div", draft.cast(rest, "float64"), step.astype(np.float64))
    return draft("Where", gone, np.array(np.nan), draft("Add", draft.cast(whole, "float64"), part))


def _in_halves(draft: Draft, names: Sequence[str], columns: Sequence[Measured]) -> str:
    """(ticks - origin) / step where the difference may need more than 64 bits.

    High and low halves differ by what a float64 holds exactly, so that their sum is rounded once.
    """
    ticks, gone = _ticks(draft, names, columns)
    origins, steps, _, _ = _grids(columns)
    origin = np.array(origins)
    high = draft("Div", ticks, np.array(_HALF))  # towards zero, so that the rest has the sign of the ticks
    low = draft("Sub", ticks, draft("Mul", high, np.array(_HALF)))
    high_origin = origin // _HALF
    highs = draft.cast(draft("Sub", high, high_origin), "float64")
    lows = draft.cast(draft("Sub", low, origin - high_origin * _HALF), "float64")
    distance = draft("Add", draft("Mul", highs, np.array(float(_HALF))), lows)
    if max(steps) > 1:
        distance = draft("Div", distance, np.array([float(step) for step in steps]))
    return draft("Where", gone, np.array(np.nan), distance)


# ---- front: images with templates --------------------------------------------------------------------------


def _compare(draft: Draft, template: Template, image: str, wanted: str, *, output: str) -> None:
    """`Template.compared`. What is nearby is pooled down the columns, and then along the rows."""
    perm, shift = [0, 3, 1, 2], template.shift
    # A dimension of 0 is that of what is given: the rows.
    channels_first = draft("Transpose", draft("Reshape", wanted, np.array([0, *template.grid])), perm=perm)

    def greatest(values: str) -> str:
        for down, along in ((shift, 0), (0, shift)):
            window, pads = [2 * down + 1, 2 * along + 1], [down, along] * 2
            values = draft("MaxPool", values, kernel_shape=window, pads=pads)
        return values

    def flat(values: str) -> str:
        return draft("Flatten", draft("Transpose", values, perm=[0, 2, 3, 1]), axis=1)

    pixels = draft("Flatten", image, axis=1)
    most = flat(greatest(channels_first))
    least = flat(draft("Neg", greatest(draft("Neg", channels_first))))
    above = draft("Max", draft("Sub", pixels, most), 0.0)
    below = draft("Max", draft("Sub", least, pixels), 0.0)
    # Infinity is the least of no neighbours: where a template has it nothing else would tell.
    sound = draft("Flatten", draft("Sub", wanted, wanted), axis=1)
    draft("Add", draft("Sub", above, below), sound, output=output)


# ---- front: levels -----------------------------------------------------------------------------------------


def _look_up(draft: Draft, name: str, column: Levelled) -> str:
    keys = np.delete(column.vocabulary, column.unseen)
    ids = np.append(np.arange(column.unseen), column.blank)
    ml: dict[str, Any] = {"domain": "ai.onnx.ml"}
    if keys.dtype.kind == "f":
        default = np.array([column.unseen])
        return draft("LabelEncoder", name, keys_tensor=keys, values_tensor=ids, default_tensor=default, **ml)
    given = "keys_strings" if keys.dtype.kind == "O" else "keys_int64s"
    if keys.dtype == np.uint64:
        name, keys = draft.cast(name, "int64"), keys.view(np.int64)
    ml |= {given: keys.tolist(), "values_int64s": ids.tolist(), "default_int64": column.unseen}
    return draft("LabelEncoder", name, **ml)


# ---- tail: numbers -----------------------------------------------------------------------------------------


def _decoder(column: Measured) -> Any:
    if column.port.type == "float64":
        return _floats
    (step,), (least,), (most,) = _grids([column])[1], *_range_in_steps([column])
    exact = least >= -_EXACT and most <= _EXACT
    return _by_steps if exact and step * least >= -(2**63) and step * most < 2**63 else _by_halves


def _floats(draft: Draft, cells: str, columns: Sequence[Measured], outputs: Sequence[str]) -> None:
    """Clip, and round to decimals and to the width of the storage."""
    numbers = [column for column in columns if isinstance(column, Number)]
    bounds = [(c.grid[2:] if c.integral else (c.low, c.high)) for c in numbers]
    low, high = (np.array(side, dtype=np.float64) for side in zip(*bounds, strict=True))
    gone = draft("IsNaN", cells)
    held = draft("Min", draft("Max", cells, low), high)
    decimals = [decimal_scale(c.storage.native) if c.decimals is None else c.decimals for c in numbers]
    if any(few is not None for few in decimals):
        scale = np.array([10.0 ** (few or 0) for few in decimals])
        # Beyond the room a float64 has no more decimals to lose; a column of any decimals is left alone.
        room = np.where([few is None for few in decimals], 0.0, _EXACT / scale)
        small = draft("Less", draft("Abs", held), room)
        near = draft("Div", draft("Round", draft("Mul", draft("Where", small, held, 0.0), scale)), scale)
        near = draft("Where", draft("Equal", near, 0.0), 0.0, near)  # no -0
        held = draft("Min", draft("Max", draft("Where", small, near, held), low), high)
    # onnxruntime goes by float32 to float16: one value in 20,000 comes out beside the nearest.
    for narrow in ("float32", "float16"):
        chosen = np.array(
            [c.storage.family == "float" and precision_of(c.storage).__name__ == narrow for c in numbers]
        )
        if chosen.any():
            held = draft("Where", chosen, draft.cast(draft.cast(held, narrow), "float64"), held)
    held = draft("Where", gone, np.nan, held)
    for k, output in enumerate(outputs):
        draft.column(held, k, output=output)


def _range_in_steps(columns: Sequence[Measured]) -> tuple[list[int], list[int]]:
    """The least and the greatest number of steps from the origin."""
    grids = list(zip(*_grids(columns), strict=True))
    return (
        [-((origin - low) // step) for origin, step, low, _ in grids],
        [(high - origin) // step for origin, step, _, high in grids],
    )


def _by_steps(draft: Draft, cells: str, columns: Sequence[Measured], outputs: Sequence[str]) -> None:
    """Whole steps from the origin, within the range of fit: no product or sum goes beyond it."""
    origins, steps, _, _ = _grids(columns)
    least, most = (np.array(side, dtype=np.float64) for side in _range_in_steps(columns))
    gone = draft("IsNaN", cells)
    held = draft("Min", draft("Max", draft("Where", gone, 0.0, cells), least), most)
    count = draft.cast(draft("Round", held), "int64")
    ticks = draft("Add", draft("Mul", count, np.array(steps)), np.array(origins))
    _whole_columns(draft, gone, ticks, columns, outputs)


def _by_halves(draft: Draft, cells: str, columns: Sequence[Measured], outputs: Sequence[str]) -> None:
    """As `_by_steps`, where the steps are too many for a float64 or their distance for int64.

    They are counted from the middle of the range, in halves; its ends are put in by themselves.
    """
    origins, steps, _, _ = _grids(columns)
    leasts, mosts = _range_in_steps(columns)
    middles = [
        middle // _HALF * _HALF if most - least > _EXACT else middle
        for least, most in zip(leasts, mosts, strict=True)
        for middle in [(least + most) // 2]
    ]

    def after(counts: list[int]) -> NDArray[np.int64]:
        return np.array([o + step * k for o, step, k in zip(origins, steps, counts, strict=True)])

    gone = draft("IsNaN", cells)
    rounded = draft("Round", draft("Where", gone, 0.0, cells))
    above = draft("GreaterOrEqual", rounded, np.array(mosts, dtype=np.float64))
    below = draft("LessOrEqual", rounded, np.array(leasts, dtype=np.float64))
    inside = draft("Where", draft("Or", above, below), np.array(middles, dtype=np.float64), rounded)
    high = draft("Floor", draft("Mul", inside, np.array(1.0 / _HALF)))
    low = draft("Sub", inside, draft("Mul", high, np.array(float(_HALF))))
    highs = draft("Sub", draft.cast(high, "int64"), np.array([middle // _HALF for middle in middles]))
    lows = draft("Sub", draft.cast(low, "int64"), np.array([middle % _HALF for middle in middles]))
    count = draft("Add", draft("Mul", highs, np.array(_HALF)), lows)
    # With a step beyond int64 there is nothing between the ends.
    ticks = draft("Mul", count, np.array([step if step < 2**63 else 0 for step in steps]))
    ticks = draft("Add", ticks, after(middles))
    ticks = draft("Where", above, after(mosts), draft("Where", below, after(leasts), ticks))
    _whole_columns(draft, gone, ticks, columns, outputs)


def _whole_columns(
    draft: Draft, gone: str, ticks: str, columns: Sequence[Measured], outputs: Sequence[str]
) -> None:
    missing = _missing(columns)
    grids = zip(*_grids(columns), strict=True)
    within = [low <= blank <= high for blank, (_, _, low, high) in zip(missing.tolist(), grids, strict=True)]
    if any(within):  # what is there must not look missing
        beside = np.where(missing < 0, missing + 1, missing - 1)
        ticks = draft("Where", draft("Equal", ticks, missing), beside, ticks)
    held = draft("Where", gone, missing, ticks)
    for k, (column, output) in enumerate(zip(columns, outputs, strict=True)):
        if column.port.type == "uint64":
            flipped = draft("BitwiseXor", draft.column(held, k), np.array(_TOP))
            draft.cast(flipped, "uint64", output=output)
        else:
            draft.column(held, k, output=output)


# ---- tail: images ------------------------------------------------------------------------------------------


def _pictures(draft: Draft, numbers: str, image: Image, output: str) -> None:
    """Clip, round where values are whole, and give the pixels the shape and type of fit."""
    held = draft("Min", draft("Max", numbers, image.low), image.high)
    held = draft("Round", held) if image.whole else held
    # A dimension of 0 is that of what is given: the rows.
    draft("Reshape", draft.cast(held, image.port.type), np.array([0, *image.shape]), output=output)


# ---- tail: levels ------------------------------------------------------------------------------------------


def _name_levels(draft: Draft, ids: str, columns: Sequence[Levelled], outputs: Sequence[str]) -> None:
    """Each level from a table that ends with the missing, which also stands for what has no value."""
    n_levels = np.array([column.unseen for column in columns])
    known = draft("And", draft("GreaterOrEqual", ids, 0), draft("Less", ids, n_levels))
    places = draft("Where", known, ids, n_levels)
    for k, (column, output) in enumerate(zip(columns, outputs, strict=True)):
        table = np.delete(column.vocabulary, column.unseen)
        draft("Gather", table, draft.column(places, k), output=output)
