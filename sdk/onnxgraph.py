"""The graph of an ONNX file, judged before onnxruntime sees it.

onnxruntime runs what a graph says. An endless Loop, an operator that asks for 40 GB, NaN among the weights or
a path to another file are all in order to it, or were in some version. Here a graph is accepted if

- its operators are on a list of pure functions: no Loop and no If, nothing random (noise is an input), no
  functions of its own, no other domains. A Scan runs once for each row of its input and holds no other Scan;
- all its data are in the file and as large as stated: no external tensors, no sparse ones;
- its weights are finite. Masks and fill values, tensors of up to 16 numbers, may be NaN or infinite, scales
  of integers may not: they are positive;
- every name is made once, before it is used;
- **what constants alone decide is small.** Where a constant states a size (ConstantOfShape, Expand, OneHot,
  Pad, Range, Reshape, Resize, Tile, the windows of a convolution), it is bounded. And what is computed from
  constants, which onnxruntime does while it loads, has at most 2^26 elements together, and one more for each
  byte of the file. A result is taken to be as large as the product of its inputs, with dimensions of zero
  counted as one. No operator of the list exceeds that, but for those whose size is stated, and Concat, which
  gives the sum.

Not covered is what grows with the rows given: a graph may join its input to itself forty times, or take
sizes from its shape. To follow shapes through every operator would be a second onnxruntime; the memory of the
first can be limited instead. Whoever runs the graph registers an arena with `max_mem`
(`onnxruntime.create_and_register_allocator`), and opens the session with `session.use_env_allocators` and
`disabled_optimizers=["ConstantFolding"]`: what is folded while loading is outside the arena. So is text, of
which no single one may exceed 1 MiB. Time is bounded by the nodes and the memory each can fill, no better.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lookalike.protobuf import EMPTY, Layout, Reader, WireError, text

_ELEMENTWISE = """
    Abs Acos Acosh Add And Asin Asinh Atan Atanh BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast
    CastLike Ceil Celu Clip Cos Cosh Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid
    HardSwish Identity IsInf IsNaN LeakyRelu Less LessOrEqual Log Max Mean Min Mish Mod Mul Neg Not Or
    PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Sinh Softplus Softsign Sqrt Sub Sum Tan
    Tanh ThresholdedRelu Where Xor
"""
_ARRANGING = """
    Compress Concat Constant ConstantOfShape DepthToSpace Expand Flatten Gather GatherElements GatherND
    NonZero OneHot Pad Range Reshape Resize ReverseSequence ScatterElements ScatterND Shape Size Slice
    SpaceToDepth Split Squeeze Tile TopK Transpose Trilu Unique Unsqueeze
"""
_REDUCING = """
    ArgMax ArgMin BatchNormalization CumSum GroupNormalization Hardmax InstanceNormalization
    LayerNormalization LogSoftmax LpNormalization MeanVarianceNormalization ReduceL1 ReduceL2 ReduceLogSum
    ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Softmax
"""
_MULTIPLYING = """
    DequantizeLinear DynamicQuantizeLinear Einsum Gemm MatMul MatMulInteger QLinearMatMul QuantizeLinear
"""
_WINDOWED = """
    AveragePool Conv ConvInteger ConvTranspose GlobalAveragePool GlobalMaxPool MaxPool QLinearConv
"""
OPERATORS = {
    "": frozenset(f"{_ELEMENTWISE} {_ARRANGING} {_REDUCING} {_MULTIPLYING} {_WINDOWED} Scan".split()),
    "ai.onnx.ml": frozenset({"LabelEncoder"}),
}
"""The operators allowed, by domain: inference on tables, series and images."""

# Inputs that state sizes: of the result (ConstantOfShape), or by how much it may exceed the other inputs.
_SIZED = {
    "ConstantOfShape": (0,), "Expand": (1,), "OneHot": (1,), "Pad": (1,), "Range": (0, 1, 2),
    "Reshape": (1,), "Resize": (2, 3), "Tile": (1,),
}  # fmt: skip
_FIRST = {"DequantizeLinear", "QuantizeLinear"}  # as large as the first input, whatever the others are
# Of these, results have no simple bound: nobody computes them from constants alone.
_NOT_OF_CONSTANTS = {"LabelEncoder", "NonZero", "Resize", "Scan", *_WINDOWED.split()}

_MAX_STATED = 1 << 24  # what one constant may ask for; a table of 100,000 categories needs 2^17
_MAX_MADE = 1 << 26
_MAX_WINDOW = 1 << 12
_MAX_NODES = 100_000
_MAX_TEXT = 1 << 20
_FEW = 16  # values of a tensor that may be NaN or infinite
_MAX_SHAPE = 64  # numbers of a constant that states a size, and dimensions of a tensor

# -- the messages of onnx.proto ----------------------------------------------------------------------------

_GRAPH = Layout("a graph", {
    1: ("node", "many"), 2: ("name", "skip"), 5: ("initializer", "many"), 10: ("doc_string", "skip"),
    11: ("input", "many"), 12: ("output", "many"), 13: ("value_info", "skip"),
    14: ("quantization_annotation", "skip"), 15: ("sparse_initializer", "refuse"),
    16: ("metadata_props", "skip"),
})  # fmt: skip
_NODE = Layout("a node", {
    1: ("input", "many"), 2: ("output", "many"), 3: ("name", "bytes"), 4: ("op_type", "bytes"),
    5: ("attribute", "many"), 6: ("doc_string", "skip"), 7: ("domain", "bytes"),
    8: ("overload", "refuse"), 9: ("metadata_props", "skip"), 10: ("device_configurations", "refuse"),
})  # fmt: skip
_ATTRIBUTE = Layout("an attribute", {
    1: ("name", "bytes"), 2: ("f", "float"), 3: ("i", "int"), 4: ("s", "bytes"), 5: ("t", "bytes"),
    6: ("g", "bytes"), 7: ("floats", "floats"), 8: ("ints", "ints"), 9: ("strings", "sizes"),
    10: ("tensors", "refuse"), 11: ("graphs", "refuse"), 13: ("doc_string", "skip"),
    14: ("tp", "refuse"), 15: ("type_protos", "refuse"), 20: ("type", "int"),
    21: ("ref_attr_name", "refuse"), 22: ("sparse_tensor", "refuse"), 23: ("sparse_tensors", "refuse"),
})  # fmt: skip
_TENSOR = Layout("a tensor", {
    1: ("dims", "ints"), 2: ("data_type", "int"), 3: ("segment", "refuse"), 4: ("float_data", "floats"),
    5: ("int32_data", "ints"), 6: ("string_data", "sizes"), 7: ("int64_data", "ints"),
    8: ("name", "bytes"), 9: ("raw_data", "bytes"), 10: ("double_data", "doubles"),
    11: ("uint64_data", "ints"), 12: ("doc_string", "skip"), 13: ("external_data", "refuse"),
    14: ("data_location", "int"), 16: ("metadata_props", "skip"),
})  # fmt: skip
_VALUE = Layout("an input or output", {
    1: ("name", "bytes"), 2: ("type", "bytes"), 3: ("doc_string", "skip"), 4: ("metadata_props", "skip"),
})  # fmt: skip
_TYPE = Layout("a type", {
    1: ("tensor_type", "bytes"), 4: ("sequence_type", "refuse"), 5: ("map_type", "refuse"),
    6: ("denotation", "skip"), 7: ("opaque_type", "refuse"), 8: ("sparse_tensor_type", "refuse"),
    9: ("optional_type", "refuse"),
})  # fmt: skip
_TENSOR_TYPE = Layout("a type", {1: ("elem_type", "int"), 2: ("shape", "bytes")})
_SHAPE = Layout("a shape", {1: ("dim", "many")})
_DIM = Layout("a dimension", {1: ("dim_value", "int"), 2: ("dim_param", "bytes"), 3: ("denotation", "skip")})

# The code of a type: its name, the numpy type of its raw data, and the field of data that are not raw.
_TYPES = {
    1: ("float32", "<f4", "float_data"), 2: ("uint8", "<u1", "int32_data"),
    3: ("int8", "<i1", "int32_data"), 4: ("uint16", "<u2", "int32_data"),
    5: ("int16", "<i2", "int32_data"), 6: ("int32", "<i4", "int32_data"),
    7: ("int64", "<i8", "int64_data"), 8: ("string", "", "string_data"), 9: ("bool", "?", "int32_data"),
    10: ("float16", "<f2", "int32_data"), 11: ("float64", "<f8", "double_data"),
    12: ("uint32", "<u4", "uint64_data"), 13: ("uint64", "<u8", "uint64_data"),
    16: ("bfloat16", "<u2", "int32_data"),
}  # fmt: skip
_PAYLOADS = {"f": 1, "i": 2, "s": 3, "t": 4, "g": 5, "floats": 6, "ints": 7, "strings": 8}  # of an attribute


@dataclass(frozen=True)
class Value:
    """An input or output: its name, element type and dimensions, each a number, a name or None."""

    name: str
    dtype: str
    dims: tuple[int | str | None, ...]


class _Constant(NamedTuple):
    size: float  # elements, with dimensions of zero counted as one; of text, bytes if they are more
    values: tuple[float, ...] | None = None  # where there are few
    positive: bool = False  # and finite, all of them


class Judge:
    """Walks the graph of one file, once, in the order in which it is written."""

    def __init__(self, reader: Reader, n_bytes: int) -> None:
        self.reader = reader
        self.constants: dict[str, _Constant] = {}  # what does not depend on an input
        self.operators: set[str] = set()
        self.n_nodes = self.n_initializers = self.weight_bytes = 0
        self._made, self._max_made = 0.0, _MAX_MADE + n_bytes  # elements computed from constants
        self._known: set[str] = set()
        self._body: list[str] | None = None  # within a Scan, the names that end with it

    def graph(self, data: memoryview) -> tuple[list[Value], list[Value]]:
        """Judge a graph or the body of a Scan, and return its inputs and outputs."""
        graph = self.reader.message(data, _GRAPH)
        for view in graph.get("initializer", ()):
            name, constant = self._tensor(view)
            self._define(name, constant)
            self.n_initializers += 1
        inputs = [self._value(view) for view in graph.get("input", ())]
        for value in inputs:
            if self._body is not None or value.name not in self.constants:
                self._define(value.name)
        for view in graph.get("node", ()):
            self._node(view)
        outputs = [self._value(view) for view in graph.get("output", ())]
        for value in outputs:
            if value.name not in self._known:
                raise WireError(f"nothing makes the output {value.name[:60]!r}")
        return inputs, outputs

    def _define(self, name: str, constant: _Constant | None = None) -> None:
        if name in self._known:
            raise WireError(f"{name[:60]!r} is made twice")
        self._known.add(name)
        if constant is not None:
            self.constants[name] = constant
        if self._body is not None:
            self._body.append(name)

    def _value(self, data: memoryview) -> Value:
        value = self.reader.message(data, _VALUE)
        name = text(value.get("name"))
        stated = self.reader.message(value.get("type", EMPTY), _TYPE).get("tensor_type", EMPTY)
        tensor = self.reader.message(stated, _TENSOR_TYPE)
        code = tensor.get("elem_type", 0)
        if self._body is not None:
            return Value(name, "", ())  # what a body takes follows from what the Scan is given
        if code not in _TYPES or "shape" not in tensor:
            raise WireError(f"{name[:60]!r} states no shape, or the type {code}, which is not known")
        dims = tuple(map(self._dim, self.reader.message(tensor["shape"], _SHAPE).get("dim", ())))
        numbers = [d for d in dims if isinstance(d, int)]
        if min(numbers, default=0) < 0 or _product(numbers) > _MAX_STATED:
            raise WireError(f"{name[:60]!r} has the shape {_shown(dims)}")
        return Value(name, _TYPES[code][0], dims)

    def _dim(self, data: memoryview) -> int | str | None:
        dim = self.reader.message(data, _DIM)
        if "dim_value" in dim and "dim_param" in dim:
            raise WireError("a dimension has a number and a name")
        number: int | None = dim.get("dim_value")
        return number if number is not None else text(dim.get("dim_param")) or None

    def _tensor(self, data: memoryview) -> tuple[str, _Constant]:
        tensor = self.reader.message(data, _TENSOR)
        name = text(tensor.get("name"))
        dims, code = tensor.get("dims", []), tensor.get("data_type", 0)
        where = f"tensor {name[:60]!r}"
        if tensor.get("data_location"):
            raise WireError(f"{where} keeps its data outside the file")
        if code not in _TYPES:
            raise WireError(f"{where} has the type {code}, which is not known")
        dtype, raw, own = _TYPES[code]
        if len(dims) > _MAX_SHAPE or min(dims, default=0) < 0:
            raise WireError(f"{where} has the shape {_shown(dims)}")
        n = math.prod(dims)
        size = _product(dims)
        if not n and size > _MAX_STATED:
            raise WireError(f"{where} has the shape {_shown(dims)}, and no data")
        (kind, stored), *more = [(k, tensor[k]) for k in tensor if k.endswith("_data")] or [(own, b"")]
        if more or kind not in (own, "raw_data" if raw else own):
            raise WireError(f"{where} keeps its data where its type {dtype} does not")
        unit = 1 if isinstance(stored, list) or not raw else np.dtype(raw).itemsize
        if len(stored) != n * unit:
            raise WireError(
                f"{where} has the shape {_shown(dims)} of {dtype} and {len(stored):,} "
                f"{'values' if unit == 1 else 'bytes'} of data"
            )
        if not raw:
            self.weight_bytes += sum(stored)
            return name, _texts(where, stored, size)
        self.weight_bytes += n * np.dtype(raw).itemsize
        if not isinstance(stored, list):
            array = np.frombuffer(stored, raw)
        elif code in (10, 16):  # the bits of half a float
            array = np.array([value & 0xFFFF for value in stored], "<u2").view(raw)
        else:
            array = np.array(stored[: _MAX_SHAPE + 1], np.int64)
        return name, _numbers(where, array, size, bfloat16=code == 16)

    def _node(self, data: memoryview) -> None:
        self.n_nodes += 1
        if self.n_nodes > _MAX_NODES:
            raise WireError(f"it has more than {_MAX_NODES:,} nodes")
        node = self.reader.message(data, _NODE)
        op, domain, name = (text(node.get(k)) for k in ("op_type", "domain", "name"))
        inputs, outputs = ([text(v) for v in node.get(k, ())] for k in ("input", "output"))
        where = f"the {op[:40]!r} node {(name or (outputs or [''])[0])[:60]!r}"
        if op not in OPERATORS.get(domain, ()):
            known = " of another domain" if domain not in OPERATORS else ""
            raise WireError(f"{where} has an operator{known} that is not among those run")
        self.operators.add(op)
        for given in inputs:
            if given and given not in self._known:
                raise WireError(f"{where} takes {given[:60]!r}, which nothing before it makes")
        try:
            constants = self._attributes(op, node.get("attribute", ()))
            if op == "Constant":
                if len(constants) != 1 or inputs:
                    raise WireError("it has not one value")
                made: _Constant | None = constants[0]
            else:
                made = self._made_of(op, inputs, len(outputs))
        except WireError as error:
            raise WireError(f"{where}: {error}") from None
        for output in filter(None, outputs):
            self._define(output, made)

    def _attributes(self, op: str, views: Sequence[memoryview]) -> list[_Constant]:
        """Judge the attributes of a node, and return their values as those of constants."""
        seen, constants = set(), []
        for view in views:
            attribute = self.reader.message(view, _ATTRIBUTE)
            name = text(attribute.get("name"))
            kinds = [kind for kind in attribute if kind in _PAYLOADS]
            if name in seen or [_PAYLOADS[kind] for kind in kinds] not in ([], [attribute.get("type")]):
                raise WireError(f"its attribute {name[:60]!r} comes twice, or is not of its type")
            seen.add(name)
            for kind in kinds:
                value, where = attribute[kind], f"its attribute {name[:60]!r}"
                if kind == "g":
                    self._scan(op, name, value)
                elif kind == "t":
                    constants.append(self._tensor(value)[1])
                elif kind in ("s", "strings"):
                    sizes = [len(value)] if kind == "s" else value
                    constants.append(_texts(where, sizes, len(sizes)))
                else:
                    array = (
                        np.frombuffer(value, "<f4") if kind[0] == "f" else np.array(value, np.int64, ndmin=1)
                    )
                    constants.append(_numbers(where, array, array.size))
                    if op in _WINDOWED.split() and any(abs(n) > _MAX_WINDOW for n in array.tolist()):
                        raise WireError(f"{where} exceeds {_MAX_WINDOW:,}")
        return constants

    def _scan(self, op: str, name: str, body: memoryview) -> None:
        if op != "Scan" or name != "body" or self._body is not None:
            raise WireError("it holds a graph, and only a Scan outside of others may")
        self._body = []
        self.graph(body)
        for local in self._body:
            self._known.discard(local)
            self.constants.pop(local, None)
        self._body = None

    def _made_of(self, op: str, inputs: Sequence[str], n_outputs: int) -> _Constant | None:
        """Bound what a node makes, where constants decide it."""
        given = [(i in _SIZED.get(op, ()), name) for i, name in enumerate(inputs) if name]
        stated = self._stated(op, [name for states, name in given if states])
        scale = self.constants.get(inputs[1]) if op in _FIRST and len(inputs) > 1 else None
        if scale is not None and not scale.positive:
            raise WireError("its scale is not positive and finite")
        if not all(name in self.constants for _, name in given):
            return None
        if op in _NOT_OF_CONSTANTS:
            raise WireError("it is computed from constants alone: compute it before the export")
        sizes = [self.constants[name].size for states, name in given if not states]
        if op == "Concat":
            size = sum(sizes)
        elif op == "Reshape":
            size = max([stated, *sizes])
        elif op in _FIRST:
            size = _product(sizes[:1])
        else:
            size = _product([stated, *sizes])
        self._made += size * n_outputs
        if self._made > self._max_made:
            raise WireError(
                f"what is computed from constants has more than {self._max_made:,} elements: "
                "compute it before the export"
            )
        return _Constant(size)

    def _stated(self, op: str, sized: Sequence[str]) -> float:
        """Return the elements that constants ask for by stating a size; 1 where none does."""
        constants = [self.constants[name] for name in sized if name in self.constants]
        stated: list[float] = []
        for constant in constants:
            if constant.values is None:
                raise WireError("its size is computed from constants: compute it before the export")
            stated += constant.values
        if op == "Range":
            if len(stated) < 3:
                return 1
            start, limit, delta = stated[:3]
            stated = [(limit - start) / delta if delta else math.inf]
        # One is added as Pad adds its numbers, and as a dimension of zero does not bound the others.
        size = _product([1 + abs(value) for value in stated])
        if not size <= _MAX_STATED:
            raise WireError(f"it asks for more than {_MAX_STATED:,} elements")
        return size


def _product(factors: Sequence[float]) -> float:
    """Multiply what exceeds 1, until the product exceeds every limit: of many, it takes long to compute."""
    product: float = 1
    for factor in factors:
        product *= 1 if factor <= 1 else factor
        if not product < 1 << 62:  # NaN among them
            return math.inf
    return product


def _numbers(where: str, array: NDArray[Any], size: float, *, bfloat16: bool = False) -> _Constant:
    """Judge numbers to be finite, unless they are few, and keep them if they might state a size."""
    low, finite = 0.0, True
    if bfloat16:  # numpy has none: these are its bits
        finite = bool(((array & 0x7FFF) < 0x7F80).all())
    elif array.dtype.kind == "f" and array.size:
        with np.errstate(invalid="ignore"):
            # NaN passes through both; isfinite of all would make a mask of the size of the weights
            low, high = float(array.min()), float(array.max())
        finite = math.isfinite(low) and math.isfinite(high)
    if not finite and array.size > _FEW:
        raise WireError(f"{where} holds NaN or infinity, which at most {_FEW} numbers may")
    few = array.size <= _MAX_SHAPE and not bfloat16
    return _Constant(size, tuple(array.tolist()) if few else None, finite and low > 0)


def _texts(where: str, sizes: Sequence[int], size: float) -> _Constant:
    if max(sizes, default=0) > _MAX_TEXT:
        raise WireError(f"{where} holds a text of more than {_MAX_TEXT:,} bytes")
    return _Constant(max(size, sum(sizes)))


def _shown(dims: Sequence[object]) -> str:
    return str(list(dims[:8]))[:80]
