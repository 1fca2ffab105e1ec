"""The matrix products and convolutions of a graph in 8-bit integers, judged by the graph they came from.

    x ------------- QuantizeLinear -- DequantizeLinear --+
    weights, int8 ------------------- DequantizeLinear --+-- Gemm -- Add, of the bias -- float32

    x ------------- QuantizeLinear -- DequantizeLinear --+
    weights, int8 ------------------- DequantizeLinear --+
    bias, int32 --------------------- DequantizeLinear --+-- Conv -- QuantizeLinear -- DequantizeLinear --

The operators are standard ones; onnxruntime makes one integer product of each such group as it loads a file.

**Static.** The range of each x is that which calibration rows showed (Jacob et al., "Quantization and
training of neural networks for efficient integer-arithmetic-only inference", CVPR 2018, arXiv 1712.05877). A
range taken from a batch would make a row's score depend on the rows beside it.

**Exact.** Weights have a scale a column, or a channel that is made, and use seven of their eight bits. x86
processors without VNNI add two products of an unsigned and a signed byte in 16 bits: 2 x 255 x 64 fits, 2 x
255 x 127 would saturate. So sums are the same integers on every processor. x is int8, as ARM wants it; on x86
onnxruntime makes it uint8.

**Where it hurts.** If ranks, or what is drawn, are not kept, the products that harm them most stay in
float32: often the first of a network, which takes in a wider range than the others. Products of one weight,
as in the steps of a sampler, go together, and hold what they share once.

`onnxruntime.quantization` writes the same products, to the bit. But it moves the weights of the model it is
given to files, and sets up the root logger of the process; so its part is done here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from lookalike.errors import ExportError, require
from lookalike.estimator import Estimator
from lookalike.exporters.columns import Draft
from lookalike.exporters.tracing import UNROLLED
from lookalike.exporters.verification import Arrays, Trial, opened, run
from lookalike.schema import Table
from lookalike.values import Array

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

ROWS = 1024, 8192  # fewest, filled up with blurred ones, and most; one half calibrates, the other judges
HELD = 1 << 26  # numbers that all products of some rows take in, and are looked at together
WITHIN = 0.8  # of the rows, all places of which a range takes in
FEWEST_INT8 = 0.5  # of all multiplications; below, the file would be float32 in all but name
STEPS = 255  # between the ends of a range
LARGEST = 64  # of weights
FINEST = 2**-11  # step of x
OF_BIAS = 2**-19  # smallest step of weights beside a bias, which has 2^30 steps at most


def refuse_without_networks(module: nn.Module) -> None:
    """Raise ExportError at once for what has no products to compute in bytes."""
    if not any(isinstance(part, nn.Linear | nn.Conv2d) for part in module.modules()):
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
    """A matrix product with constant weights (n_in, n_out), or a convolution with (n_out, n_in, *sides)."""

    node: NodeProto
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    @property
    def name(self) -> str:
        return str(self.node.name)

    @property
    def x(self) -> str:
        return str(self.node.input[0])

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of weight and bias, which other products may share."""
        return tuple(self.node.input[1:])

    @property
    def watched(self) -> tuple[str, ...]:
        """Values whose ranges have to be known: onnxruntime makes integers of a convolution between two."""
        return (self.x, str(self.node.output[0])) if self.convolves else (self.x,)

    @property
    def convolves(self) -> bool:
        return bool(self.node.op_type == "Conv")

    @property
    def axis(self) -> int:
        """Of the weight, along which the outputs lie."""
        return 0 if self.convolves else 1


@dataclass(frozen=True)
class Plan:
    """Which products of a graph become int8: by name, the ends of what each takes, and of what it makes."""

    ranges: Mapping[str, Sequence[tuple[float, float]]]
    share: float  # of all multiplications

    @classmethod
    def learn(
        cls, data: bytes, feeds: Arrays, min_agreement: float, agreed: Callable[[Arrays, Arrays], float]
    ) -> Plan:
        """Choose them so that what the graph makes of these rows agrees, half the allowed loss to spare."""
        model = _parsed(data)
        if any(node.op_type == "Scan" for node in model.graph.node):
            raise ExportError(
                f"int8 is for up to {UNROLLED} steps, for more of them are a loop: take fewer, such as "
                '`with_sampler(n_steps=20)`, or precision="float32".'
            )
        products = list(_products(model))
        low_high, places = _ranges(model, products, feeds)
        alike: dict[tuple[str, ...], list[Product]] = {}
        for product in products:
            alike.setdefault(product.weights, []).append(product)
        work = {
            weights: sum(product.weight.size * places[product.watched[-1]] for product in some)
            for weights, some in alike.items()
        }
        wanted = run(opened(data), feeds)

        def plan(chosen: Collection[tuple[str, ...]]) -> Plan:
            ranges = {
                product.name: [low_high[name] for name in product.watched]
                for weights in chosen
                for product in alike[weights]
            }
            return cls(ranges, sum(work[weights] for weights in chosen) / sum(work.values()))

        def agreement(chosen: Collection[tuple[str, ...]]) -> float:
            return agreed(wanted, run(opened(plan(chosen).apply(data)), feeds))

        best, aim = list(work), (1 + min_agreement) / 2
        harmful: list[tuple[str, ...]] = []  # the worst comes last
        while agreement(best) < aim:
            harmful = harmful or sorted(work, key=lambda weights: agreement([weights]), reverse=True)
            worst = harmful.pop()
            fewer = [weights for weights in best if weights != worst]
            if plan(fewer).share < FEWEST_INT8:
                break
            best = fewer
        return plan(best)

    def apply(self, data: bytes) -> bytes:
        """Return the graph with these products in int8."""
        model = _parsed(data)
        products = {product.name: product for product in _products(model)}
        assert self.ranges.keys() <= products.keys()
        draft = _Sharing("int8")
        for node in model.graph.node:
            if node.name in self.ranges:
                _draw(draft, products[node.name], self.ranges[node.name])
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


class _Sharing(Draft):
    """A draft in which equal constants, and equal operations on the same values, are held once."""

    def __init__(self, prefix: str) -> None:
        super().__init__(prefix)
        self.held: dict[Hashable, str] = {}

    def constant(self, value: Array | float) -> str:
        array = np.asarray(value)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self.held:
            self.held[key] = super().constant(array)
        return self.held[key]

    def once(self, op: str, *inputs: str | Array | float, **attributes: Any) -> str:
        names = [given if isinstance(given, str) else self.constant(given) for given in inputs]
        key = op, *names, *attributes.items()
        if key not in self.held:
            self.held[key] = self(op, *names, **attributes)
        return self.held[key]


def _draw(draft: _Sharing, product: Product, ranges: Sequence[tuple[float, float]]) -> None:
    """Add the nodes of a product."""
    others = tuple(k for k in range(product.weight.ndim) if k != product.axis)
    # The bias of a convolution is counted in steps of x times those of its weights, in int32.
    steps = np.maximum(np.abs(product.weight).max(others) / LARGEST, np.abs(product.bias) * OF_BIAS)
    steps = np.maximum(steps, 1e-10).astype(np.float32)
    weight = np.rint(product.weight / np.expand_dims(steps, others)).astype(np.int8)
    step, zero = _scale(ranges[0])
    factors = (
        draft.once("DequantizeLinear", draft.once("QuantizeLinear", product.x, step, zero), step, zero),
        draft.once("DequantizeLinear", weight, steps, np.zeros(len(steps), np.int8), axis=product.axis),
    )
    output = product.node.output[0]
    if not product.convolves:  # the bias, which can be long, is then the same whatever the range of x
        draft("Add", draft("Gemm", *factors), product.bias, output=output)
        return
    both = step * steps
    bias = np.rint(product.bias / both.astype(np.float64)).astype(np.int32)
    made = draft("Conv", *factors, draft.once("DequantizeLinear", bias, both, axis=0))
    draft.part.nodes[-1].attribute.extend(product.node.attribute)
    scale = _scale(ranges[1])
    draft("DequantizeLinear", draft("QuantizeLinear", made, *scale), *scale, output=output)


def _scale(range_: tuple[float, float]) -> tuple[NDArray[np.float32], NDArray[np.int8]]:
    """The step between values of a range in int8, and where zero is, which is exact: it is what is absent."""
    low, high = min(range_[0], 0.0), max(range_[1], 0.0)
    step = np.array(max((high - low) / STEPS, FINEST), np.float32)
    return step, np.array(round(-128 - low / float(step)), np.int8)


def _parsed(data: bytes) -> ModelProto:
    onnx: Any = require("onnx", "onnx", "export")
    return onnx.load_from_string(data)


def _products(model: ModelProto) -> Iterator[Product]:
    """The layers; what is but a sum written as a product, or has no constant weights, is none."""
    onnx: Any = require("onnx", "onnx", "export")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("Gemm", "Conv") or not all(name in constants for name in node.input[1:]):
            continue
        weight, *bias = (onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:])
        if any(attribute.name == "transB" and attribute.i for attribute in node.attribute):
            weight = weight.T
        n_out = weight.shape[0 if node.op_type == "Conv" else 1]
        yield Product(node, weight, np.broadcast_to(bias[0].ravel() if bias else np.float32(0), (n_out,)))


def _ranges(
    model: ModelProto, products: Sequence[Product], feeds: Arrays
) -> tuple[dict[str, tuple[float, float]], dict[str, int]]:
    """The lowest and the highest of each value that is watched, and at how many places of a row it stands.

    Where it stands at many, a few rows go beyond: steps are finer without the rarest peaks.
    """
    onnx: Any = require("onnx", "onnx", "export")
    watched = type(model)()
    watched.CopyFrom(model)
    names = sorted({name for product in products for name in product.watched})
    del watched.graph.output[:]
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names
    )
    session = opened(watched.SerializeToString())
    one = run(session, next(_chunks(feeds, 1)))
    places = {name: math.prod(array.shape[2:]) for name, array in one.items()}
    ends: dict[str, list[NDArray[np.float32]]] = {name: [] for name in names}
    for part in _chunks(feeds, max(HELD // sum(array.size for array in one.values()), 1)):
        for name, array in run(session, part).items():
            row = array.reshape(len(array), -1)
            ends[name].append(np.stack([row.min(1), row.max(1)]))
    found = {}
    for name, parts in ends.items():
        lows, highs = np.concatenate(parts, 1)
        within = WITHIN if places[name] > 1 else 1.0
        found[name] = float(np.quantile(lows, 1 - within)), float(np.quantile(highs, within))
    return found, places


def _chunks(feeds: Arrays, size: int) -> Iterator[Arrays]:
    n = len(next(iter(feeds.values())))
    for start in range(0, n, size):
        yield {name: array[start : start + size] for name, array in feeds.items()}


# ---- what comes out, before and after ---------------------------------------------------------------------


def ranked_alike(old: Arrays, new: Arrays) -> float:
    """Spearman correlation of scores."""
    return spearman(old["score"], new["score"])


def drawn_alike(old: Arrays, new: Arrays, known: NDArray[np.bool_]) -> float:
    """Share of the variance of drawn numbers, or of drawn levels, that is the same; the less of both.

    A number that only one of both lacks, or that is another where all were equal, is wholly another.
    """
    (a, b), d = (side["drawn_numbers"] for side in (old, new)), old["drawn_numbers"].shape[1]
    drawn, (missing, lacking) = ~known[:, :d], map(np.isnan, (a, b))
    spread = np.ma.masked_array(a, ~drawn | missing).var(0).filled(0.0)
    gap = np.where(missing | lacking, 0.0, np.square(a - b))
    lost = np.where(spread > 0, gap / np.where(spread > 0, spread, 1.0), gap > 0)
    lost = np.where(missing != lacking, 1.0, lost)[drawn]
    levels = (old["drawn_ids"] != new["drawn_ids"])[~known[:, d:]]
    return 1 - max(float(side.mean()) for side in (lost, levels) if side.size)


def require_agreement(agreement: float, least: float, told: str) -> None:
    """Raise ExportError where int8 agrees too little with float32."""
    if not agreement >= least:
        raise ExportError(
            f"{told}, below min_agreement={least}, so the file is not written. Pass more training rows "
            "(rows=), a lower min_agreement, or precision='float32'."
        )


def judged(before: Trial, after: Trial, rows: Table, min_agreement: float) -> dict[str, Any]:
    """How well a graph in int8 agrees with the one in float32; raise ExportError where too little."""
    feeds = before.feeds(rows)
    old, new = before.run(feeds), after.run(feeds)
    agreement = ranked_alike(old, new)
    told = f"int8 and float32 rank {len(rows)} rows with a Spearman correlation of {agreement:.6f}"
    require_agreement(agreement, min_agreement, told)
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
