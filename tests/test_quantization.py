"""Products in int8: exact integers, ranks that are kept, scores that are moved."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import stats

from lookalike.exporters.quantization import (
    FEWEST_INT8,
    LARGEST,
    Plan,
    drawn_alike,
    moved,
    ranked_alike,
    spearman,
)
from lookalike.exporters.verification import opened, run

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from onnx import helper as h  # noqa: E402
from onnx import numpy_helper as nh  # noqa: E402

RNG = np.random.default_rng(0)
WIDTHS = (8, 32, 32, 1)


def network(widths=WIDTHS, last_bias=0.0):
    """Linear layers with Tanh between, and the last column as the score; the bytes of its graph."""
    nodes, tensors, x = [], [], "x"
    for i, (n_in, n_out) in enumerate(pairwise(widths)):
        weight = RNG.normal(size=(n_out, n_in)) / np.sqrt(n_in)
        bias = RNG.normal(size=n_out) if i < len(widths) - 2 else np.full(n_out, last_bias)
        tensors += [nh.from_array(weight.astype("f4"), f"w{i}"), nh.from_array(bias.astype("f4"), f"b{i}")]
        nodes += [h.make_node("Gemm", [x, f"w{i}", f"b{i}"], [f"h{i}"], name=f"layer {i}", transB=1)]
        nodes += [h.make_node("Tanh", [f"h{i}"], [f"t{i}"])]
        x = f"t{i}"
    nodes[-1] = h.make_node("Squeeze", [f"h{i}", "last"], ["score"])
    tensors.append(nh.from_array(np.array([1]), "last"))
    ends = [h.make_tensor_value_info("x", 1, ["n", widths[0]])], [h.make_tensor_value_info("score", 1, ["n"])]
    graph = h.make_graph(nodes, "network", *ends, tensors)
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 20)], ir_version=10).SerializeToString()


def scores(data, x):
    return run(opened(data), {"x": x})["score"].astype("f8")


X = RNG.normal(size=(600, WIDTHS[0])).astype("f4")


def test_products_in_int8_keep_the_ranks():
    data = network()
    plan = Plan.learn(data, {"x": X[::2]}, 0.99, ranked_alike)
    assert plan.share == 1
    quantized = plan.apply(data)
    onnx.checker.check_model(quantized, full_check=True)
    assert spearman(scores(data, X[1::2]), scores(quantized, X[1::2])) > 0.99
    whole = scores(quantized, X)
    for n in (1, 2, 3, 64, 257):
        assert_array_equal(scores(quantized, X[:n]), whole[:n])


def test_weights_leave_room_for_sums_of_two_products_in_16_bits():
    data = network()
    model = onnx.load_from_string(Plan.learn(data, {"x": X}, 0.9, ranked_alike).apply(data))
    weights = [a for a in map(nh.to_array, model.graph.initializer) if a.dtype == np.int8 and a.ndim == 2]
    assert len(weights) == 3
    assert max(np.abs(w.astype(int)).max() for w in weights) == LARGEST
    assert 2 * 255 * LARGEST < 2**15


@pytest.mark.parametrize("bias", [0.0, 1e-30, 1e6])
def test_layers_without_weights_give_their_bias(bias):
    model = onnx.load_from_string(network(last_bias=bias))
    (last,) = [tensor for tensor in model.graph.initializer if tensor.name == "w2"]
    last.CopyFrom(nh.from_array(np.zeros((1, 32), "f4"), "w2"))
    data = model.SerializeToString()
    plan = Plan.learn(data, {"x": X}, 0.9, ranked_alike)
    assert_allclose(scores(plan.apply(data), X), np.full(len(X), bias), rtol=1e-6, atol=1e-20)


def test_what_harms_the_ranks_stays_in_float32():
    data, rows = network(), X[:300].copy()
    rows[0, 0] = 3e3  # one value far out leaves the others few steps
    plan = Plan.learn(data, {"x": rows}, 0.99, ranked_alike)
    assert set(plan.ranges) == {"layer 1", "layer 2"}
    assert FEWEST_INT8 <= plan.share < 1
    assert spearman(scores(data, X[300:]), scores(plan.apply(data), X[300:])) > 0.99


def test_scores_move_with_their_quantiles():
    before = RNG.normal(size=400)
    after = 2 * before - 1
    held_out = RNG.normal(size=50) * 2
    inside = (held_out > before.min()) & (held_out < before.max())
    found = moved(held_out, before, after)
    assert_allclose(found[inside], 2 * held_out[inside] - 1)
    assert_allclose(
        moved(np.array([-50.0, 50.0]), before, after) - [-50, 50], np.sort(after - before)[[0, -1]]
    )
    assert_array_equal(np.argsort(found), np.argsort(held_out))
    assert_array_equal(moved(np.array([3.0]), np.full(4, 3.0), np.full(4, 5.0)), [5.0])


def test_ranks_of_ties_are_their_mean():
    x, y = RNG.integers(0, 9, (2, 200)) * 1.0
    assert_allclose(spearman(x, y), stats.spearmanr(x, y).statistic)
    assert spearman(np.ones(5), np.ones(5)) == 1
    assert np.isnan(spearman(np.ones(5), np.arange(5.0)))


def test_draws_are_compared_where_they_are_drawn():
    numbers = RNG.normal(size=(400, 3))
    numbers[:, 2] = 5
    ids, known = RNG.integers(3, size=(400, 1)), np.zeros((400, 4), bool)

    def alike(change, given=known):
        new = {"drawn_numbers": numbers.copy(), "drawn_ids": ids.copy()}
        change(new["drawn_numbers"], new["drawn_ids"])
        return drawn_alike({"drawn_numbers": numbers, "drawn_ids": ids}, new, given)

    def noisy(n, i):
        n[:, 0] += 0.3 * numbers[:, 0].std() * np.tile([1, -1], 200)

    def half_known(n, i):
        n[200:, :] += 1

    assert alike(lambda n, i: None) == 1
    assert_allclose(alike(noisy), 1 - 0.09 / 3)
    assert_allclose(alike(lambda n, i: n.__setitem__((slice(40), 2), 6)), 1 - 0.1 / 3)  # were all equal
    assert_allclose(alike(lambda n, i: n.__setitem__((slice(40), 0), np.nan)), 1 - 0.1 / 3)
    assert_allclose(alike(lambda n, i: np.add(i[:100], 1, out=i[:100])), 0.75)
    known[:200] = True  # what is given is the same on both sides, and tells nothing
    assert alike(half_known) < 0.1
