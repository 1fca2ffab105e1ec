"""What is left of a graph gives what the whole gives, and the runtime opens no more than it is asked for."""

import itertools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from lookalike import onnxfile, runtime
from lookalike import session as sessions
from lookalike.pruning import pruned
from lookalike.schema import Schema

ort = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

import handmade  # noqa: E402
from onnx import TensorProto as T  # noqa: E402
from onnx import helper as h  # noqa: E402
from onnx import numpy_helper as nh  # noqa: E402

RNG = np.random.default_rng(0)
FRAME = pd.DataFrame({"amount": RNG.normal(size=700), "kind": RNG.choice(["a", "b"], 700)})
SCHEMA = Schema.fit(FRAME)


def info(name, dtype=T.FLOAT, dims=("rows", 4)):
    return h.make_tensor_value_info(name, dtype, dims)


# What each output needs, beside itself: values, weights and inputs.
NEEDS = {
    "sums": {"total", "x", "axis", "weights"},
    "doubled": {"x"},
    "above": {"x", "threshold"},
    "order": {"kinds", "low", "y", "doubled", "x"},
    "late": {"y"},
}


def whole():
    """A Scan that takes values from outside, names that are left out, a default, an output others need."""
    body = h.make_graph(
        [h.make_node("Add", ["row", "total"], ["moved"]), h.make_node("Mul", ["moved", "weights"], ["made"])],
        "body", [info("row", dims=(4,))], [info("made", dims=(4,))],
    )  # fmt: skip
    nodes = [
        h.make_node("ReduceSum", ["x", "axis"], ["total"], keepdims=0),
        h.make_node("Scan", ["x"], ["sums"], body=body, num_scan_inputs=1),
        h.make_node("Add", ["x", "x"], ["doubled"]),
        h.make_node("Clip", ["doubled", "", "y"], ["low"]),
        h.make_node("Unique", ["low"], ["kinds", "", "order"]),
        h.make_node("Greater", ["x", "threshold"], ["above"]),
        h.make_node("Neg", ["y"], ["late"]),
        h.make_node("Neg", ["late"], ["for nothing"]),
    ]
    weights = {"axis": np.array([0]), "threshold": np.array(0.5, "f4"),
               "weights": np.arange(4, dtype="f4"), "spare": np.zeros(3)}  # fmt: skip
    inputs = [info("x"), info("y", dims=()), info("threshold", dims=())]
    outputs = [
        info("sums"), info("doubled"), info("above", T.BOOL), info("order", T.INT64, ("cells",)),
        info("late", dims=()),
    ]  # fmt: skip
    tensors = [nh.from_array(array, name) for name, array in weights.items()]
    hints = [info("low"), info("total", dims=(4,))]
    graph = h.make_graph(nodes, "g", inputs, outputs, tensors, value_info=hints)
    made = h.make_model(graph, opset_imports=[h.make_opsetid("", 20)], ir_version=10)
    return onnxfile.with_metadata(made.SerializeToString(), {"lookalike": "{}"})


def run(data, outputs, feeds):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    opened = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    taken = {value.name for value in opened.get_inputs()}
    assert [value.name for value in opened.get_outputs()] == list(outputs)
    return opened.run(list(outputs), {name: array for name, array in feeds.items() if name in taken})


def test_any_outputs_alone_are_those_of_the_whole_graph():
    data = whole()
    onnxfile.read(data)
    feeds = {"x": RNG.normal(size=(6, 4)).astype("f4"), "y": np.array(0.3, "f4")}
    everything = dict(zip(NEEDS, run(data, NEEDS, feeds), strict=True))
    for size in range(1, len(NEEDS) + 1):
        for outputs in itertools.combinations(NEEDS, size):
            left = pruned(data, outputs)
            for name, found in zip(outputs, run(left, outputs, feeds), strict=True):
                assert_array_equal(found, everything[name])
            model = onnx.load_model_from_string(left)
            onnx.checker.check_model(model, full_check=True)
            graph, needed = model.graph, set(outputs).union(*(NEEDS[name] for name in outputs))
            made = [name for node in graph.node for name in node.output if name]
            named = [part.name for part in (*graph.input, *graph.initializer)]
            assert {*made, *named} == needed
            assert not model.metadata_props


@pytest.mark.parametrize("task", ["score", "generate", "impute"])
@pytest.mark.parametrize("inputs", ["columns", "core"])
def test_what_is_left_of_a_judged_file_is_judged_alike(task, inputs):
    contents = onnxfile.read(handmade.made(SCHEMA, task, inputs))
    for output in contents.outputs:
        left = onnxfile.read(onnxfile.with_metadata(pruned(contents.data, [output.name]), {}))
        assert left.outputs == (output,)
        assert set(left.inputs) <= set(contents.inputs)
        assert left.operators <= contents.operators
        assert left.n_nodes <= contents.n_nodes
        assert left.weight_bytes <= contents.weight_bytes


def load(task="score", **options):
    return runtime.load(handmade.made(SCHEMA, task, **options), device="cpu", threads=1)


@pytest.fixture
def opened(monkeypatch):
    """The outputs of each session that is opened."""
    opening, found = sessions.Session._open, []

    def noted(self, *arguments):
        session = opening(self, *arguments)
        found.append([value.name for value in session.get_outputs()])
        return session

    monkeypatch.setattr(sessions.Session, "_open", noted)
    return found


def test_scores_run_without_what_explanations_need(opened):
    model = load()
    for call in (model.score_samples, model.predict, model.p_values):
        call(FRAME)
    assert opened == [["score"]]
    before = model.info()
    assert sum(before["nodes"]["CPUExecutionProvider"].values()) < before["n_nodes"]
    model.explain(FRAME)
    assert len(opened) == 2
    assert opened[1] == [value.name for value in model._contents.outputs]
    assert dict(model.info(), schema=0) == dict(before, schema=0)  # a score still runs as it did
    load("generate").generate(3)
    assert opened[2:] == [["drawn_numbers", "drawn_ids"]]


def test_threads_open_what_explains_once(opened):
    model = load()
    want = load().explain(FRAME.head(40)).shares
    del opened[:]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: model.explain(FRAME.head(40)).shares, range(16)))
    assert len(opened) == 1
    for shares in found:
        assert_array_equal(shares, want)


def test_inputs_that_an_output_is_no_function_of_are_not_fed():
    session = sessions.Session(onnxfile.read(whole()), ["doubled"], device="cpu")
    x = RNG.normal(size=(6, 4)).astype("f4")
    (doubled,) = session.run(["doubled"], 6, lambda start, stop: {"x": x[start:stop], "y": np.zeros(())})
    assert_array_equal(doubled, x + x)
