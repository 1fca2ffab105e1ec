"""Files as `export` writes them, of models made by hand: nothing is fitted or traced, so they take a moment.

The energy of a number is log(1 + |x|), that of a level log(1 + id); what is missing has none.
"""

import json

import numpy as np

from lookalike import feeding, onnxfile
from lookalike.exporters.columns import Draft, front, without_empty_inputs
from lookalike.schema import Table

SCORES = np.linspace(-30, -1, 99)


def energies(table, op="Log"):
    with np.errstate(over="ignore"):
        x = np.abs(np.nan_to_num(table.numbers))
        x = np.exp(x) if op == "Exp" else np.log(1 + x)
    return np.concatenate([x, np.log(1 + table.ids.astype("f4")).astype("f8")], 1)


def drawn(table, known, normals, uniforms, schema):
    levels = np.array([column.unseen for column in schema.category_columns])
    d = table.numbers.shape[1]
    ids = np.minimum((uniforms * levels).astype("i8"), levels - 1)
    numbers = normals.astype("f8") * 100
    return Table(np.where(known[:, :d], table.numbers, numbers), np.where(known[:, d:], table.ids, ids))


def entry(schema, inputs):
    """The inputs, and the values `:numbers` and `:ids`."""
    if inputs == "columns":
        return front(schema, numbers=":numbers", ids=":ids")
    draft = Draft("entry")
    draft.input("numbers", "float32", ("n", len(schema.number_columns)))
    draft.input("ids", "int64", ("n", len(schema.category_columns)))
    draft("Add", draft.cast("numbers", "float64"), 1.0, output=":numbers")
    draft("Identity", "ids", output=":ids")
    return draft.part


def graph(schema, task="score", inputs="columns", op="Log"):
    """The bytes of a graph without metadata."""
    draft = Draft("made")
    draft.part = entry(schema, inputs)
    d, c = len(schema.number_columns), len(schema.category_columns)
    if task == "score":
        score(draft, op, d + c)
        draft.output("contributions", "float64", ("n", d + c))
        draft.output("expected_numbers", "float64", ("n", d))
        draft.output("expected_ids", "int64", ("n", c))
    else:
        draw(draft, schema, task)
        draft.output("drawn_numbers", "float64", ("n", d))
        draft.output("drawn_ids", "int64", ("n", c))
    return without_empty_inputs(draft.part).model().SerializeToString()


def score(draft, op, width):
    clean = draft("Where", draft("IsNaN", ":numbers"), 0.0, ":numbers")
    size = draft("Abs", clean)
    numbers = draft("Exp", size) if op == "Exp" else draft("Log", draft("Add", size, 1.0))
    ids = draft("Log", draft("Add", draft.cast(":ids", "float32"), np.float32(1)))
    draft("Concat", numbers, draft.cast(ids, "float64"), axis=1, output="contributions")
    # A product with ones, as `export` writes it: ReduceSum's last bit depends on where a row begins.
    ones = np.ones((width, 1))
    draft("Neg", draft("Squeeze", draft("MatMul", "contributions", ones), np.array([1])), output="score")
    odder = draft("LessOrEqual", SCORES[None], draft("Unsqueeze", "score", np.array([1])))
    count = draft("ReduceSum", draft.cast(odder, "float64"), np.array([1]), keepdims=0)
    draft("Div", draft("Add", count, 1.0), 100.0, output="p_value")
    draft.input("threshold", "float64", ())
    draft.part.initializers.append(draft.tensor("threshold", np.array(-20.0)))
    normal = draft("GreaterOrEqual", draft("Sub", "score", "threshold"), 0.0)
    draft("Where", normal, np.array(1), np.array(-1), output="label")
    draft("Identity", clean, output="expected_numbers")
    draft("Mul", ":ids", np.array(0), output="expected_ids")
    draft.output("score", "float64", ("n",))
    draft.output("p_value", "float64", ("n",))
    draft.output("label", "int64", ("n",))


def draw(draft, schema, task):
    d, c = len(schema.number_columns), len(schema.category_columns)
    draft.input("normals", "float32", ("n", d))
    draft.input("uniforms", "float32", ("n", c))
    blank = np.array([column.blank for column in schema.category_columns], dtype="i8")
    if task == "generate":
        draft.input("known", "bool", ("n", d + c))
        ends = np.arange(0, d), np.arange(d, d + c)
        known = [draft("Gather", "known", columns, axis=1) for columns in ends]
    else:
        known = [
            draft("Not", draft("IsNaN", ":numbers")),
            draft("Not", draft("Equal", ":ids", blank)),
        ]
    numbers = draft("Mul", draft.cast("normals", "float64"), 100.0)
    levels = np.array([column.unseen for column in schema.category_columns], dtype="i8")
    scaled = draft("Mul", "uniforms", levels.astype("f4"))
    ids = draft("Min", draft.cast(scaled, "int64"), (levels - 1).astype("i8"))
    draft("Where", known[0], ":numbers", numbers, output="drawn_numbers")
    draft("Where", known[1], ":ids", ids, output="drawn_ids")


def about(schema, task="score", inputs="columns", **changes):
    """What a file says of itself."""
    d, c = len(schema.number_columns), len(schema.category_columns)
    return {
        "format": 1,
        "lookalike": "0.1.0",
        "task": task,
        "inputs": inputs,
        "family": "vae",
        "estimator": "VAE",
        "schema": schema.to_dict(),
        "columns": feeding.describe(schema),
        "threshold": -20.0,
        "calibration": SCORES.tolist() if task == "score" else [],
        "centre": [1.0] * d if inputs == "core" else [],
        "noise": [0, 0] if task == "score" else [d, c],
        "precision": "float32",
        "n_train": 360,
        "fingerprint": "00",
        "versions": {"onnx": "1"},
        "parity": {},
        "golden": {"inputs": {}, "outputs": {}},
        **changes,
    }


def made(schema, task="score", inputs="columns", op="Log", **changes):
    """The bytes of a file."""
    document = about(schema, task, inputs, **changes)
    return sealed(graph(schema, task, inputs, op), document)


def sealed(data, document):
    return onnxfile.with_metadata(data, {"lookalike": json.dumps(document)})


def plain(array):
    """An array as golden rows hold it."""
    if array.dtype.kind != "f":
        return array.tolist()
    words = np.where(np.isnan(array), "NaN", np.where(array > 0, "Infinity", "-Infinity")).astype(object)
    return np.where(np.isfinite(array), array.astype(object), words).tolist()
