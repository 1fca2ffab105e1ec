"""The matrix products of a score graph in 8-bit integers, judged by the float32 graph they came from.

    x --------------- QuantizeLinear -- DequantizeLinear --+
    weights, int8 -------------------- DequantizeLinear --+-- Gemm -- float32
    bias, int32 ---------------------- DequantizeLinear --+

The operators are standard ones; onnxruntime makes one integer product of each such group as it loads a file.

**Static.** The range of each x is that which calibration rows showed (Jacob et al., "Quantization and
training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018, arXiv 1712.05877). A
range taken from a batch would make a row's score depend on the rows beside it.

**Exact.** Weights have a scale a column and use seven of their eight bits. x86 processors without VNNI add
two products of an unsigned and a signed byte in 16 bits: 2 x 255 x 64 fits, 2 x 255 x 127 would saturate. So
sums are the same integers on every processor. x is int8, as ARM wants it; on x86 onnxruntime makes it uint8.

**Where it hurts.** If ranks are not kept, the products that harm them most stay in float32: often the first
of a network, which takes in a wider range than the others.

`onnxruntime.quantization` writes the same products, to the bit. But it moves the weights of the model it is
given to files, and sets up the root logger of the process; so its part is done here.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lookalike.errors import ExportError, require
from lookalike.estimator import Estimator
from lookalike.exporters.columns import Draft
from lookalike.exporters.verification import Arrays, Trial, opened, run
from lookalike.schema import Table

if TYPE_CHECKING:
    from onnx import ModelProto

ROWS = 1024, 8192  # fewest, filled up with blurred ones, and most; one half calibrates, the other judges
CHUNK = 512  # of rows, as what all products take in is large
FEWEST_INT8 = 0.5  # of all multiplications; below, the file would be float32 in all but name
STEPS = 255  # between the ends of a range
LARGEST = 64  # of weights
FINEST, OF_BIAS = (
    2**-11,
    2**-19,
)  # smallest steps of x, and of weights beside a bias: it has 2^30 steps at most


def refuse_without_networks(module: nn.Module) -> None:
    """Raise ExportError at once for what has no matrix products to compute in bytes, or little but others."""
    if any(isinstance(part, nn.Conv2d) for part in module.modules()):
        raise ExportError(
            "the model's work is in convolutions, which int8 leaves in float32: export it with "
            'precision="float32".'
        )
    if not any(isinstance(part, nn.Linear) for part in module.modules()):
        raise ExportError('the model has no network to compute in int8: export it with precision="float32".')


def halves(estimator: Estimator, real: Table | None) -> tuple[Table, Table]:
    """Rows to calibrate with, and other ones to judge by: real ones, and where those are few, blurred."""
    fewest, most = ROWS
    tables = [] if real is None else [real.rows(slice(None, None, math.ceil(len(real) / most) or 1))]
    lacking = fewest - sum(map(len, tables))
    if lacking > 0:
        drawn = estimator._blurred(lacking, 1)  # the trial's are those of seed 0
        tables.append(estimator.schema_.encode(drawn, allow_missing=True))
    table = Table.join(tables)
    return table.rows(slice(0, None, 2)), table.rows(slice(1, None, 2))


@dataclass(frozen=True)
class Product:
    """A matrix product with constant weights (n_in, n_out)."""

    name: str
    x: str
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    weights: tuple[str, ...]  # names of weight and bias, which other products may share


@dataclass(frozen=True)
class Plan:
    """Which products of a graph become int8: by name, the lowest and the highest input of each."""

    ranges: Mapping[str, tuple[float, float]]
    share: float  # of all multiplications

    @classmethod
    def learn(cls, data: bytes, feeds: Arrays, min_agreement: float) -> Plan:
        """Choose them so that the scores of these rows keep their ranks, half the allowed loss to spare."""
        model = _parsed(data)
        products = list(_products(model))
        low_high = _ranges(model, products, feeds)
        work = {product.name: product.weight.size for product in products}
        scores = run(opened(data), feeds)["score"]

        def plan(names: Collection[str]) -> Plan:
            chosen = {product.name: low_high[product.x] for product in products if product.name in names}
            return cls(chosen, sum(work[name] for name in chosen) / sum(work.values()))

        def agreement(plan: Plan) -> float:
            return spearman(scores, run(opened(plan.apply(data)), feeds)["score"])

        best, aim = plan(work), (1 + min_agreement) / 2
        harmful: list[str] = []  # the worst comes last
        while agreement(best) < aim:
            harmful = harmful or sorted(work, key=lambda name: agreement(plan([name])), reverse=True)
            fewer = plan(best.ranges.keys() - {harmful.pop()})
            if fewer.share < FEWEST_INT8:
                break
            best = fewer
        return best

    def apply(self, data: bytes) -> bytes:
        """Return the graph with these products in int8."""
        model = _parsed(data)
        products = {product.name: product for product in _products(model)}
        assert self.ranges.keys() <= products.keys()
        draft = Draft("int8")
        shared: dict[Hashable, list[str]] = {}
        for node in model.graph.node:
            if node.name in self.ranges:
                _draw(draft, shared, products[node.name], self.ranges[node.name], node.output[0])
            else:
                draft.part.nodes.append(node)
        used = {name for node in draft.part.nodes for name in node.input}
        tensors = [tensor for tensor in model.graph.initializer if tensor.name in used]
        tensors += draft.part.initializers
        del model.graph.node[:], model.graph.initializer[:]
        model.graph.node.extend(draft.part.nodes)
        model.graph.initializer.extend(tensors)
        quantized: bytes = model.SerializeToString()
        return quantized


def _draw(
    draft: Draft,
    shared: dict[Hashable, list[str]],
    product: Product,
    range_: tuple[float, float],
    output: str,
) -> None:
    """Add the nodes of a product; `shared` holds what several products have in common."""
    low, high = min(range_[0], 0.0), max(range_[1], 0.0)  # zero is exact: it is what is absent
    step = np.float32(max((high - low) / STEPS, FINEST))
    # A bias is counted in steps of x times those of its weights, in int32.
    steps = np.maximum(np.abs(product.weight).max(0) / LARGEST, np.abs(product.bias) * OF_BIAS)
    steps = np.maximum(steps, 1e-10).astype(np.float32)
    if product.x not in shared:
        zero = np.int8(round(-128 - low / float(step)))
        scale = [draft.constant(np.asarray(step)), draft.constant(np.asarray(zero))]
        shared[product.x] = [draft("QuantizeLinear", product.x, *scale), *scale]
    if product.weights not in shared:
        weight = np.rint(product.weight / steps).astype(np.int8)
        zeros = np.zeros(len(steps), np.int8)
        shared[product.weights] = [draft.constant(array) for array in (weight, steps, zeros)]
    both = step * steps
    bias = np.rint(product.bias / both.astype(np.float64)).astype(np.int32)
    factors = (
        draft("DequantizeLinear", *shared[product.x]),
        draft("DequantizeLinear", *shared[product.weights], axis=1),
        draft("DequantizeLinear", bias, both, axis=0),
    )
    draft("Gemm", *factors, output=output)


def _parsed(data: bytes) -> ModelProto:
    onnx: Any = require("onnx", "onnx", "export")
    return onnx.load_from_string(data)


def _products(model: ModelProto) -> Iterator[Product]:
    """The linear layers; what is but a sum written as a product, or has no constant weights, is none."""
    onnx: Any = require("onnx", "onnx", "export")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "Gemm" or not all(name in constants for name in node.input[1:]):
            continue
        weight, *bias = (onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:])
        if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
            weight = weight.T
        added = np.broadcast_to(bias[0].ravel() if bias else np.float32(0), weight.shape[1:])
        yield Product(node.name, node.input[0], weight, added, tuple(node.input[1:]))


def _ranges(model: ModelProto, products: Sequence[Product], feeds: Arrays) -> dict[str, tuple[float, float]]:
    """The lowest and the highest value that each product takes in."""
    onnx: Any = require("onnx", "onnx", "export")
    watched = type(model)()
    watched.CopyFrom(model)
    names = sorted({product.x for product in products})
    del watched.graph.output[:]
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    session = opened(watched.SerializeToString())
    parts = [run(session, part) for part in _chunks(feeds)]
    return {
        name: (float(min(part[name].min() for part in parts)), float(max(part[name].max() for part in parts)))
        for name in names
    }


def _chunks(feeds: Arrays) -> Iterator[Arrays]:
    n = len(next(iter(feeds.values())))
    for start in range(0, n, CHUNK):
        yield {name: array[start : start + CHUNK] for name, array in feeds.items()}


# ---- scores before and after -------------------------------------------------------------------------------


def judged(before: Trial, after: Trial, rows: Table, min_agreement: float) -> dict[str, Any]:
    """How well a graph in int8 agrees with the one in float32; raise ExportError where too little."""
    feeds = before.feeds(rows)
    old, new = before.run(feeds), after.run(feeds)
    agreement = spearman(old["score"], new["score"])
    if not agreement >= min_agreement:
        raise ExportError(
            f"int8 and float32 rank {len(rows)} rows with a Spearman correlation of {agreement:.6f}, below "
            f"min_agreement={min_agreement}, so the file is not written. Pass more training rows (rows=), a "
            "lower min_agreement, or precision='float32'."
        )
    alerts = old["label"] == -1, new["label"] == -1
    either, both = (alerts[0] | alerts[1]).sum(), (alerts[0] & alerts[1]).sum()
    return {
        "rows": len(rows),
        "spearman": agreement,
        "min_agreement": min_agreement,
        "alerts": [int(side.sum()) for side in alerts],
        "jaccard": float(both / either) if either else 1.0,
        "p_value_gap": float(np.abs(old["p_value"] - new["p_value"]).max()),
    }


def moved(
    scores: NDArray[np.float64], before: NDArray[np.float64], after: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where scores go, told by rows scored before and after: their quantiles matched, beyond them shifted."""
    before, after = np.sort(before), np.sort(after)
    beyond = np.minimum(scores - before[0], 0) + np.maximum(scores - before[-1], 0)
    found: NDArray[np.float64] = np.interp(scores, before, after) + beyond
    return found


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Correlation of the ranks, that of ties their mean."""
    if np.array_equal(x, y):
        return 1.0
    with np.errstate(invalid="ignore"):  # all x, or all y, may be equal: NaN, which no bound allows
        return float(np.corrcoef(_ranks(x), _ranks(y))[0, 1])


def _ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, count = np.unique(x, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(count) - (count - 1) / 2)[place]
    return ranks
