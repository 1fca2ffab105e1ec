"""torch modules as pieces of an ONNX graph, and the loop of a sampler."""

from __future__ import annotations

import io
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lookalike.errors import require
from lookalike.exporters.columns import OPSETS, Part
from lookalike.feeding import INNER

UNROLLED = (
    50  # steps up to which a loop is written out: onnxruntime then folds what depends on the step alone
)


def trace(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], prefix: str) -> Part:
    """Trace a module over a batch of any size.

    Parameters
    ----------
    module : Module
        Its `forward` takes the inputs in their order, and returns one tensor an output.
    inputs : mapping of name to Tensor
        Examples, of two rows or more. A tensor without dimensions is the same for all rows.
    outputs : sequence of str
    prefix : str
        Tells the inner values of this piece from those of others.
    """
    optimizer: Any = require("onnxscript.optimizer", "onnx", "export")
    rows = torch.export.Dim("n", min=2, max=1 << 24)
    shapes = tuple({0: rows} if tensor.ndim else {} for tensor in inputs.values())
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module.eval(),
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSETS[""],
            dynamic_shapes=shapes,
            custom_translation_table={
                torch.ops.aten.searchsorted.Tensor: _searchsorted,
                torch.ops.aten.sum.dim_IntList: _sum,
                torch.ops.aten.mean.dim: _mean,
                torch.ops.aten.group_norm.default: _group_norm,
            },
            optimize=False,
            verbose=False,
        )
        assert program is not None
        optimizer.optimize_ir(program.model, num_iterations=1)  # torch passes twice, and finds no more
    graph = program.model_proto.graph
    names = {value.name: name for value, name in zip(graph.input, inputs, strict=True)}
    renamed = _Renaming(f"{INNER}{prefix}/", names)
    nodes = [renamed.node(node) for node in graph.node]
    # Copied, for one value may be two outputs, and an output an input.
    copied = zip(graph.output, outputs, strict=True)
    nodes += [_identity(renamed.name(value.name), name) for value, name in copied]
    part = Part(
        nodes, [renamed.value(tensor) for tensor in graph.initializer], [*graph.input], [*graph.output]
    )
    for values, given in ((part.inputs, inputs), (part.outputs, outputs)):
        for value, name in zip(values, given, strict=True):
            value.name = name
    return part


def repeat(step: Part, n_steps: int, state: Sequence[str], result: Sequence[str], prefix: str) -> Part:
    """Take `n_steps` steps of a loop.

    Parameters
    ----------
    step : Part
        Of which the first inputs are ``k``, the number of the step, and `state`; the others are values of the
        surrounding graph. Its outputs are the next state.
    n_steps : int
        Up to `UNROLLED` the steps stand one after the other; more of them are a Scan.
    state, result : sequence of str
        Values of the surrounding graph: the first state, and the names of the last.
    prefix : str
    """
    unroll = _unrolled if n_steps <= UNROLLED else _scanned
    return unroll(step, n_steps, state, result, prefix)


def _unrolled(step: Part, n_steps: int, state: Sequence[str], result: Sequence[str], prefix: str) -> Part:
    onnx: Any = require("onnx", "onnx", "export")
    part = Part(initializers=list(step.initializers))
    shared = {tensor.name: tensor.name for tensor in step.initializers}
    number, *held = (value.name for value in step.inputs[: 1 + len(state)])
    outer = {value.name: value.name for value in step.inputs[1 + len(state) :]}
    for k in range(n_steps):
        here = f"{INNER}{prefix}/{k}/"
        count = onnx.numpy_helper.from_array(torch.tensor(k).numpy(), f"{here}k")
        part.initializers.append(count)
        after = list(result) if k == n_steps - 1 else [f"{here}{name}" for name in result]
        names = {**shared, **outer, number: count.name, **dict(zip(held, state, strict=True))}
        names |= {value.name: name for value, name in zip(step.outputs, after, strict=True)}
        renamed = _Renaming(here, names)
        part.nodes += [renamed.node(node) for node in step.nodes]
        state = after
    return part


def _scanned(step: Part, n_steps: int, state: Sequence[str], result: Sequence[str], prefix: str) -> Part:
    onnx: Any = require("onnx", "onnx", "export")
    inside = step.inputs[: 1 + len(state)]
    body = onnx.helper.make_graph(step.nodes, prefix, [*inside[1:], inside[0]], step.outputs)
    counts = onnx.numpy_helper.from_array(torch.arange(n_steps).numpy(), f"{INNER}{prefix}/steps")
    scan = onnx.helper.make_node(
        "Scan",
        [*state, counts.name],
        list(result),
        name=f"{INNER}{prefix}/scan",
        body=body,
        num_scan_inputs=1,
    )
    return Part(nodes=[scan], initializers=[*step.initializers, counts])


def _identity(source: str, target: str) -> Any:
    onnx: Any = require("onnx", "onnx", "export")
    return onnx.helper.make_node("Identity", [source], [target], name=f"{INNER}{target}/copy")


def reading(names: Mapping[str, str], node: Any) -> Any:
    """The node, or a copy of it that reads values under other names, those of loops inside too."""
    bodies = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    if not bodies and not any(names.get(name, name) != name for name in node.input):
        return node
    copy = type(node)()
    copy.CopyFrom(node)
    copy.input[:] = [names.get(name, name) for name in node.input]
    for attribute in copy.attribute:
        if attribute.HasField("g"):
            inside = [reading(names, inner) for inner in attribute.g.node]
            del attribute.g.node[:]
            attribute.g.node.extend(inside)
    return copy


class _Renaming:
    """Copies of nodes and values whose inner names begin with a prefix, those in `names` have other ones."""

    def __init__(self, prefix: str, names: Mapping[str, str]) -> None:
        self.prefix, self.names = prefix, names

    def name(self, name: str) -> str:
        return self.names.get(name, self.prefix + name.removeprefix(INNER)) if name else ""

    def value(self, value: Any) -> Any:
        copy = type(value)()
        copy.CopyFrom(value)
        copy.name = self.name(value.name)
        return copy

    def node(self, node: Any) -> Any:
        copy = type(node)()
        copy.CopyFrom(node)
        copy.name = self.prefix + node.name.removeprefix(INNER)
        copy.input[:] = map(self.name, node.input)
        copy.output[:] = map(self.name, node.output)
        copy.ClearField("metadata_props")  # where in the source it comes from
        copy.ClearField("doc_string")
        return copy


def _searchsorted(
    sorted_sequence: Any,
    self: Any,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Any = None,
) -> Any:
    """`torch.searchsorted` by bisection, for ONNX has no such operator.

    The table is filled up with its last column to one less than a power of two; each round halves where the
    place may be. The first compares with one column, the others gather.
    """
    op: Any = require("onnxscript", "onnx", "export").opset20
    length, axis = sorted_sequence.shape[-1], len(sorted_sequence.shape) - 1
    rounds = int(length).bit_length()
    full = 2**rounds - 1
    if full > length:
        pads = op.Constant(value_ints=[0] * (2 * axis + 1) + [full - length])
        sorted_sequence = op.Pad(sorted_sequence, pads, mode="edge")
    before = op.LessOrEqual if right else op.Less
    step = 1 << (rounds - 1)
    bounds = (op.Constant(value_ints=[i]) for i in (step - 1, step, axis))
    place = _counted(op, before(op.Slice(sorted_sequence, *bounds), self), step)
    while step := step // 2:
        ahead = op.GatherElements(sorted_sequence, op.Add(place, op.Constant(value_int=step - 1)), axis=axis)
        place = op.Add(place, _counted(op, before(ahead, self), step))
    return op.Min(place, op.Constant(value_int=length))


def _counted(op: Any, found: Any, step: int) -> Any:
    """`step` where found, else 0; onnxruntime's Where takes several times as long."""
    return op.Mul(op.Cast(found, to=7), op.Constant(value_int=step))


def _sum(self: Any, dim: Any, keepdim: bool = False, dtype: int = -1) -> Any:
    """`torch.sum`; of floats along the rows of a matrix, and down each of many, as a product with ones.

    onnxruntime's ReduceSum adds in an order that depends on where in memory a row begins, so that the last
    bit would tell its place in the batch.
    """
    onnx: Any = require("onnx", "onnx", "export")
    from onnxscript import opset20 as op

    axes: Any = op.Constant(value_ints=list(dim))
    rank, along = len(self.shape), [at % len(self.shape) for at in dim] == [1]
    if self.dtype in _FLOATS and rank in (2, 3) and along and isinstance(size := self.shape[1], int):
        shape = (size, 1) if rank == 2 else (1, size)
        ones = op.Constant(value=onnx.numpy_helper.from_array(np.ones(shape, _FLOATS[self.dtype])))
        total = op.MatMul(self, ones) if rank == 2 else op.MatMul(ones, self)
        return total if keepdim else op.Squeeze(total, axes)
    if self.dtype == 9:  # truth values are counted
        self = op.Cast(self, to=7)
    return op.ReduceSum(self, axes, keepdims=int(keepdim))


def _mean(self: Any, dim: Any, keepdim: bool = False, dtype: int = -1) -> Any:
    """`torch.mean`; over all places of images, (n, channels, height, width), as a product, as of `_sum`."""
    op: Any = require("onnxscript", "onnx", "export").opset20

    if list(dim) not in ([2, 3], [-2, -1]) or len(self.shape) != 4:
        found = op.ReduceMean(self, op.Constant(value_ints=list(dim)), keepdims=int(keepdim))
        return found if dtype == -1 else op.Cast(found, to=dtype)
    channels, height, width = self.shape[1:]
    flat = op.Reshape(self, op.Constant(value_ints=[0, channels, height * width]))
    means = op.MatMul(flat, _shares(op, height * width))
    return (
        op.Unsqueeze(means, op.Constant(value_ints=[3]))
        if keepdim
        else op.Squeeze(means, op.Constant(value_ints=[2]))
    )


def _group_norm(
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """`torch.nn.functional.group_norm`, whose means are products, as of `_sum`."""
    op: Any = require("onnxscript", "onnx", "export").opset20

    shape = list(input.shape[1:])
    size = math.prod(shape) // num_groups
    groups = op.Reshape(input, op.Constant(value_ints=[0, num_groups, size]))
    centred = op.Sub(groups, op.MatMul(groups, _shares(op, size)))
    variance = op.MatMul(op.Mul(centred, centred), _shares(op, size))
    found = op.Div(centred, op.Sqrt(op.Add(variance, op.Constant(value_float=eps))))
    found = op.Reshape(found, op.Constant(value_ints=[0, *shape]))
    places = op.Constant(value_ints=list(range(1, len(shape))))
    found = found if weight is None else op.Mul(found, op.Unsqueeze(weight, places))
    return found if bias is None else op.Add(found, op.Unsqueeze(bias, places))


def _shares(op: Any, size: int) -> Any:
    """What makes means of products."""
    onnx: Any = require("onnx", "onnx", "export")
    return op.Constant(value=onnx.numpy_helper.from_array(np.full((size, 1), 1 / size, np.float32)))


_FLOATS = {1: np.float32, 11: np.float64}  # by ONNX's numbers of types


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what the exporter tells its own developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
