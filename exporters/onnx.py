"""Fitted estimators as ONNX files, proven against torch before they are written.

    columns --front--> numbers, ids --traced--> decisions               task "score"
    columns --front--> numbers, ids --traced, a loop of steps--> --tail--> columns     "generate", "impute"

With ``inputs="core"`` a float32 matrix and int64 ids stand in place of the columns. What is traced are the
modules that the estimator itself runs (`lookalike.verbs`); the two ends are drawn from the same schema
(`lookalike.exporters.columns`).
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib import metadata
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lookalike import archive, feeding, noise, onnxfile
from lookalike._version import __version__
from lookalike.calibration import Calibration
from lookalike.errors import require
from lookalike.estimator import Estimator
from lookalike.exported import PRECISIONS
from lookalike.exporters.columns import Draft, Part, front, tail, without_empty_inputs
from lookalike.exporters.quantization import (
    Plan,
    drawn_alike,
    halves,
    judged,
    moved,
    ranked_alike,
    refuse_without_networks,
    require_agreement,
)
from lookalike.exporters.tracing import reading, repeat, trace
from lookalike.exporters.verification import Trial
from lookalike.layout import Rows
from lookalike.models.family import Family
from lookalike.parameters import Range
from lookalike.schema import Table
from lookalike.verbs import Completer, Scorer

KEY = "lookalike"  # of the metadata
FORMAT = 1
AGREEMENT = 0.9, 0.999  # of draws and of scores in int8 with those in float32, at least
JUDGED = 256  # draws, at least, where there are as many rows: of few, chance would decide


def export(
    model: Estimator,
    path: str | os.PathLike[str],
    *,
    task: str = "score",
    inputs: str = "columns",
    explain: bool = True,
    rows: Any = None,
    precision: str = "float32",
    min_agreement: float | None = None,
) -> str:
    """Write a fitted estimator as one verified ONNX file, whole or not at all.

    Parameters
    ----------
    model : Estimator
        Fitted.
    path : str or PathLike
    task : {"score", "generate", "impute"}
        What the file is to do.
    inputs : {"columns", "core"}
        One named input a column, text included, and images as they are; or a float32 matrix ``numbers``, from
        which the ``centre`` of the metadata has been subtracted, and int64 ``ids``. What would have no
        columns is no input.
    explain : bool
        Whether scores come with each column's contribution and with what was expected. Where onnxruntime runs
        the file alone it computes every output at every call, and is faster without them.
        `lookalike.runtime` leaves out what is not asked for; to it the file is smaller.
    rows : DataFrame, pyarrow.Table or ndarray, optional
        Real rows to verify with, beside remembered ones that are blurred; for int8, training rows.
    precision : {"float32", "int8"}
        Of the networks. "int8" multiplies bytes: on a CPU those of tables are then up to twice as fast and a
        quarter as large, small convolutions no faster, and scores and draws less exact. Ranges are those of
        half of `rows`, filled up to 1,024 with remembered rows, blurred, fewer where rows are wide;
        calibration and threshold move with the scores. How far int8 and float32 agree on the other half,
        scores in ranks and in alerts, draws from the same noise, is printed and kept in the file.
    min_agreement : float, optional
        Least Spearman correlation of scores in int8 with those in float32, 0.999 if not said; of draws the
        least share of the variance of numbers, and of levels, that is the same, 0.9 if not said.

    Returns
    -------
    str
        SHA-256 of the file; ``runtime.load(path, sha256=...)`` then accepts this file alone.

    Raises
    ------
    ConditionError
        If the model cannot do it: a detector draws nothing, nor does a model of images with templates.
    ExportError
        If onnxruntime's results differ from torch's by more than 1e-5 of the score's spread; nothing is then
        written. Or if those in int8 agree with float32 less than `min_agreement`.
    """
    words = (("task", task, TASKS), ("inputs", inputs, ENTRIES), ("precision", precision, PRECISIONS))
    for word, given, known in words:
        if given not in known:
            raise ValueError(f"{word} must be one of {', '.join(map(repr, known))}, got {given!r}.")
    least = AGREEMENT[task == "score"] if min_agreement is None else min_agreement
    Range(0, 1).check("min_agreement", least)
    model._check(task)
    onnx: Any = require("onnx", "onnx", "export")
    fitted = _Fitted.of(model, explain)
    if precision == "int8":
        refuse_without_networks(fitted.scorer)
    name = f"{type(model).__name__}-{task}"
    graph = TASKS[task](fitted, ENTRIES[inputs](fitted))
    data = _folded(graph.part, name)
    trial = Trial(data, model, fitted.centre if inputs == "core" else None, rows)
    parity, golden = graph.verify(trial)
    about = {
        "format": FORMAT,
        "lookalike": __version__,
        "task": task,
        "inputs": inputs,
        "family": model._key,
        "estimator": type(model).__name__,
        "schema": model.schema_.to_dict(),
        "columns": feeding.describe(model.schema_),
        "threshold": model.offset_,
        "calibration": model.calibration_.scores.tolist() if task == "score" else [],
        "centre": fitted.centre.tolist() if inputs == "core" else [],
        "noise": list(graph.noise),
        "precision": "float32",
        "n_train": model.n_train_,
        "fingerprint": fitted.fingerprint,
        "versions": {name: metadata.version(name) for name in ("torch", "onnx", "onnxruntime")},
        "parity": parity,
        "golden": golden,
    }
    if precision == "int8":
        data, changes = graph.quantized(data, trial, name, least)
        about |= changes | {"precision": precision, "parity": parity | changes["parity"]}
    sealed = onnxfile.with_metadata(data, {KEY: json.dumps(about)})
    onnx.checker.check_model(sealed, full_check=True)
    contents = onnxfile.read(sealed)  # what the runtime would refuse is not written
    with archive.atomic_write(path) as file:
        file.write(sealed)
    return contents.sha256


def _scored_in_int8(
    decided: Decided, data: bytes, trial: Trial, name: str, min_agreement: float
) -> tuple[bytes, dict[str, Any]]:
    """The score graph in int8, recalibrated, and what its metadata say otherwise than those of `data`."""
    estimator = trial.estimator
    calibrating, judging = halves(estimator, trial.real)
    feeds = trial.feeds(calibrating)
    plan = Plan.learn(data, feeds, min_agreement, ranked_alike)
    before, after = (side.run(feeds)["score"] for side in (trial, trial.of(plan.apply(data))))
    known = np.append(estimator.calibration_.scores, estimator.offset_)
    *scores, threshold = moved(known, before, after).tolist()
    calibration = Calibration(scores)
    data = plan.apply(_folded(decided(calibration.scores, threshold), name))
    quantized = trial.of(data)
    quantized.decisions(calibration, threshold)
    agreement = judged(trial, quantized, judging, min_agreement) | {"share": plan.share}
    # Unasked, for whoever takes int8 has to know what it costs.
    print(  # noqa: T201
        f"int8 and float32 on {agreement['rows']} rows: Spearman correlation {agreement['spearman']:.5f}, "
        f"Jaccard index of the alerts {agreement['jaccard']:.3f}"
    )
    return data, {
        "threshold": threshold,
        "calibration": scores,
        "parity": {"int8": agreement},
        "golden": quantized.golden(),
    }


def _drawn_in_int8(
    completer: Completer, data: bytes, trial: Trial, name: str, min_agreement: float
) -> tuple[bytes, dict[str, Any]]:
    """A graph that draws in int8, and what its metadata say otherwise than those of `data`."""
    rng, trials = np.random.default_rng(0), []
    for seed, half in enumerate(halves(trial.estimator, trial.real)):
        rows = half.rows(slice(max(trial.n_drawn, seed * JUDGED)))  # the second half is judged by
        n, width = len(rows), rows.numbers.shape[1] + rows.ids.shape[1]
        known = rng.random((n, width)) < rng.integers(2, size=(n, 1)) / 2  # of about every other row a half
        drawn_from = noise.rows(2 + seed, 0, n, *completer.noise_size)
        trials.append(trial.asked(completer, rows, known, *drawn_from)[1:])
    (known, feeds), (others, judging) = trials
    plan = Plan.learn(data, feeds, min_agreement, partial(drawn_alike, known=known))
    quantized = trial.of(data := plan.apply(data))
    found = quantized.run(judging)
    agreement, n = drawn_alike(trial.run(judging), found, others), len(others)
    told = f"of what int8 draws from the same noise {agreement:.6f} is what float32 draws"
    require_agreement(agreement, min_agreement, told)
    quantized.same_in_any_batch(judging, found)
    print(f"int8 and float32 on {n} rows: {agreement:.5f} of what is drawn is the same")  # noqa: T201
    about = {"rows": n, "alike": agreement, "min_agreement": min_agreement, "share": plan.share}
    return data, {"parity": {"int8": about}, "golden": quantized.golden(completer.noise_size)}


def _folded(part: Part, name: str) -> bytes:
    """Compute now what depends on no input, such as what a sampler's step makes of its noise level.

    onnxruntime's basic optimisations do it and write standard operators; the runtime need not do it again.
    """
    onnx: Any = require("onnx", "onnx", "export")
    ort: Any = require("onnxruntime", "cpu", "export")
    model = without_empty_inputs(part).model(name)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = os.path.join(folder, "folded.onnx")
        ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        folded = onnx.load(options.optimized_model_filepath)
    del folded.opset_import[:]  # onnxruntime names every domain it knows
    folded.opset_import.extend(model.opset_import)
    folded.ir_version = model.ir_version
    data: bytes = folded.SerializeToString()
    return data


# ---- the graphs --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Fitted:
    """What graphs are made of, on the CPU."""

    estimator: Estimator
    scorer: Scorer
    centre: NDArray[np.float64]  # of each number that float32 does not hold; what is left is small
    explain: bool

    @classmethod
    def of(cls, estimator: Estimator, explain: bool) -> _Fitted:
        model = copy.deepcopy(estimator.model_).to("cpu")
        centre = estimator.codec_.numbers.centre().numpy()
        memory = copy.deepcopy(estimator.memory_).to("cpu")
        scorer = Scorer(estimator.codec_, model, memory, estimator.n_train_, estimator.blend_)
        return cls(estimator, scorer, centre, explain)

    @property
    def widths(self) -> tuple[int, int]:
        return self.estimator.schema_.widths

    def example(self, n: int = 3) -> Table:
        """Rows for tracing: any will do."""
        d, c = self.widths
        return Table(np.zeros((n, d)), np.zeros((n, c), np.int64))

    def completer(self, impute: bool) -> Completer:
        return Completer(self.scorer.codec, cast(Family, self.scorer.model), impute)

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the weights and of the schema."""
        digest = hashlib.sha256(json.dumps(self.estimator.schema_.to_dict(), sort_keys=True).encode())
        for name, tensor in sorted(self.scorer.state_dict().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(tensor.numpy()).tobytes())
        return digest.hexdigest()

    def trace(
        self, module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], prefix: str, flag: bool
    ) -> Part:
        """Trace a module that is set by a flag, unless it was when this model was last exported.

        Nearly all time of an export goes there, and each entry and precision needs the same. As weights may
        be changed in place, it is told by them; what is written is verified each time.
        """
        made_of = self.fingerprint, self.estimator.n_train_, flag
        last = _TRACED.setdefault(self.estimator.model_, {})
        if prefix not in last or last[prefix][0] != made_of:
            last[prefix] = made_of, trace(module, inputs, outputs, prefix)
        return last[prefix][1]


_TRACED: WeakKeyDictionary[nn.Module, dict[str, tuple[tuple[Any, ...], Part]]] = WeakKeyDictionary()
"""By model and prefix, what a piece was last made of, and the piece."""

Decided = Callable[[NDArray[np.float64], float], Part]
"""Draws the graph of a score with these scores of rows held out, and with this threshold."""


@dataclass(frozen=True)
class _Graph:
    part: Part
    noise: tuple[int, int]
    verify: Callable[[Trial], tuple[dict[str, Any], dict[str, Any]]]
    """Raises ExportError, or tells how near the graph is, and gives golden rows."""
    quantized: Callable[[bytes, Trial, str, float], tuple[bytes, dict[str, Any]]]
    """The graph in int8, and what its metadata say otherwise; or raises ExportError."""


def _columns(fitted: _Fitted) -> Part:
    return front(fitted.estimator.schema_, numbers=":numbers", ids=":ids")


def _core(fitted: _Fitted) -> Part:
    draft, (d, c) = Draft("entry"), fitted.widths
    draft.input("numbers", "float32", ("n", d))
    draft.input("ids", "int64", ("n", c))
    draft("Add", draft.cast("numbers", "float64"), fitted.centre[None], output=":numbers")
    draft("Identity", "ids", output=":ids")
    return draft.part


ENTRIES: dict[str, Callable[[_Fitted], Part]] = {"columns": _columns, "core": _core}


def _joined(parts: Sequence[Part], inputs: Sequence[Any], outputs: Sequence[Any]) -> Part:
    """One piece of several; weights that more than one of them has are held once."""
    held: dict[bytes, str] = {}
    names: dict[str, str] = {}
    tensors = []
    for tensor in (tensor for part in parts for tensor in part.initializers):
        bare = type(tensor)()
        bare.CopyFrom(tensor)
        bare.ClearField("name")
        names[tensor.name] = held.setdefault(bare.SerializeToString(deterministic=True), tensor.name)
        if names[tensor.name] == tensor.name:
            tensors.append(tensor)
    nodes = [reading(names, node) for part in parts for node in part.nodes]
    return Part(nodes, tensors, [*inputs], [*outputs])


class _Scored(nn.Module):
    """A score, and where it is asked for its explanation."""

    def __init__(self, scorer: Scorer, explain: bool) -> None:
        super().__init__()
        self.scorer, self.explain = scorer, explain

    def forward(self, numbers: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        score, *explanation = self.scorer(numbers, ids)
        return score, *(explanation if self.explain else ())


def _decisions(scores: NDArray[np.float64]) -> Part:
    """What is said of a score, given those of rows held out.

    They stand in about as many blocks as there are in each: a score's rank is counted among the first of the
    blocks, then in one of them, in fewer operations than bisection takes.
    """
    size = math.isqrt(len(scores) - 1) + 1
    padded = np.pad(scores, (0, size**2 - len(scores)), constant_values=np.finfo(float).max)
    blocks = padded.reshape(size, size)
    zero, one, many = np.array([0, 1, size], np.float32)[:, None]
    draft, ones, axis = Draft("decisions"), np.ones((size, 1), np.float32), np.array([1])
    column = draft("Unsqueeze", "score", axis)

    def reached(others: str | NDArray[np.float64]) -> str:
        found = draft.cast(draft("LessOrEqual", others, column), "float32")
        return draft("Squeeze", draft("MatMul", found, ones), axis)

    block = draft("Max", draft("Sub", reached(blocks[None, :, 0]), one), zero)
    inside = reached(draft("Gather", blocks, draft.cast(block, "int64"), axis=0))
    rank = draft("Add", draft("Mul", block, many), draft("Add", inside, one))
    draft("Div", draft.cast(rank, "float64"), np.array([len(scores) + 1.0]), output="p_value")
    # A score that is no number is not normal.
    normal = draft("GreaterOrEqual", draft("Sub", "score", "threshold"), 0.0)
    draft("Where", normal, np.array(1), np.array(-1), output="label")
    return draft.part


def _score(fitted: _Fitted, entry: Part) -> _Graph:
    table, (d, c) = fitted.example(), fitted.widths
    ends = Draft("ends")
    ends.input("threshold", "float64", ())
    for name in ("score", "p_value"):
        ends.output(name, "float64", ("n",))
    ends.output("label", "int64", ("n",))
    explanation = []
    if fitted.explain:
        ends.output("contributions", "float64", ("n", fitted.scorer.codec.layout.n_columns))
        ends.output("expected_numbers", "float64", ("n", d))
        ends.output("expected_ids", "int64", ("n", c))
        explanation = [value.name for value in ends.part.outputs[3:]]
    given = {":numbers": torch.tensor(table.numbers), ":ids": torch.tensor(table.ids)}
    scorer, outputs = _Scored(fitted.scorer, fitted.explain), ["score", *explanation]
    scored = fitted.trace(scorer, given, outputs, "score", fitted.explain)

    def decided(scores: NDArray[np.float64], threshold: float) -> Part:
        joined = _joined(
            [entry, scored, _decisions(scores)], [*entry.inputs, *ends.part.inputs], ends.part.outputs
        )
        joined.initializers.append(ends.tensor("threshold", np.array(threshold)))
        return joined

    estimator = fitted.estimator
    part = decided(estimator.calibration_.scores, estimator.offset_)
    in_int8 = partial(_scored_in_int8, decided)
    return _Graph(part, (0, 0), lambda trial: (trial.score(), trial.golden()), in_int8)


class _Given(nn.Module):
    """The state from which sampling starts, and what is given."""

    def __init__(self, completer: Completer) -> None:
        super().__init__()
        self.completer = completer

    def forward(self, numbers: Tensor, ids: Tensor, known: Tensor, normals: Tensor) -> tuple[Tensor, ...]:
        d = numbers.shape[1]
        given = self.completer.given(numbers, ids, known[:, :d], known[:, d:])
        begun = self.completer.model.begin(normals, given)
        return given.numbers, given.ids, begun.numbers, begun.ids


class _Step(nn.Module):
    """One step of the sampler."""

    def __init__(self, completer: Completer) -> None:
        super().__init__()
        self.completer = completer

    def forward(
        self,
        k: Tensor,
        numbers: Tensor,
        ids: Tensor,
        given_numbers: Tensor,
        given_ids: Tensor,
        normals: Tensor,
        uniforms: Tensor,
    ) -> tuple[Tensor, Tensor]:
        model = self.completer.model
        own = uniforms[:, : model.noise_size[1]]
        given = Rows(given_numbers, given_ids)
        after = model.step(k, Rows(numbers, ids), normals, own, given, self.completer.bar)
        return after.numbers, after.ids


class _Drawn(nn.Module):
    """Numbers and levels of what was sampled; what is known stays as it is."""

    def __init__(self, completer: Completer) -> None:
        super().__init__()
        self.completer = completer

    def forward(
        self, z: Tensor, levels: Tensor, numbers: Tensor, ids: Tensor, known: Tensor, uniforms: Tensor
    ) -> tuple[Tensor, Tensor]:
        d = numbers.shape[1]
        drawn, drawn_ids = self.completer.decode(Rows(z, levels), uniforms)
        return torch.where(known[:, :d], numbers, drawn), torch.where(known[:, d:], ids, drawn_ids)


def _generate(fitted: _Fitted, entry: Part) -> _Graph:
    return _complete(fitted, fitted.completer(impute=False), entry, _asked(fitted))


def _asked(fitted: _Fitted) -> Part:
    """Which cells are known is an input."""
    draft = Draft("known")
    draft.input("known", "bool", ("n", sum(fitted.widths)))
    draft("Identity", "known", output=":known")
    return draft.part


def _impute(fitted: _Fitted, entry: Part) -> _Graph:
    known = _asked if fitted.estimator.schema_.image is not None else _seen
    return _complete(fitted, fitted.completer(impute=True), entry, known(fitted))


def _seen(fitted: _Fitted) -> Part:
    """Which cells of a row are not missing can be seen, unless they are pixels."""
    blank = np.array([column.blank for column in fitted.estimator.schema_.category_columns], np.int64)
    draft = Draft("known")
    present = draft("Not", draft("IsNaN", ":numbers")), draft("Not", draft("Equal", ":ids", blank[None]))
    draft("Concat", *present, axis=1, output=":known")
    return draft.part


def _complete(fitted: _Fitted, completer: Completer, entry: Part, known: Part) -> _Graph:
    table, (d, c), (a, b) = fitted.example(), fitted.widths, completer.noise_size
    n = len(table)
    values = {
        ":numbers": torch.tensor(table.numbers),
        ":ids": torch.tensor(table.ids),
        ":known": torch.zeros(n, d + c, dtype=torch.bool),
        "normals": torch.zeros(n, a),
        "uniforms": torch.full((n, b), 0.5),
    }
    given = fitted.trace(
        _Given(completer),
        {name: values[name] for name in (":numbers", ":ids", ":known", "normals")},
        [":given_numbers", ":given_ids", ":start_numbers", ":start_ids"],
        "given",
        completer.impute,
    )
    layout = completer.codec.layout

    def state() -> tuple[Tensor, Tensor]:
        """New tensors each time: two inputs that are one tensor are traced as one."""
        return torch.zeros(n, layout.n_numbers), torch.zeros(n, layout.n_categories, dtype=torch.long)

    held = dict(zip((":z", ":levels"), state(), strict=True))
    others = dict(zip((":given_numbers", ":given_ids"), state(), strict=True))
    noise_ = {name: values[name] for name in ("normals", "uniforms")}
    step = fitted.trace(
        _Step(completer),
        {":k": torch.tensor(1), **held, **others, **noise_},
        [":z_next", ":levels_next"],
        "step",
        completer.impute,
    )
    loop = repeat(step, completer.model.n_steps, [":start_numbers", ":start_ids"], [":z", ":levels"], "loop")
    ends = {**held, **{name: values[name] for name in (":numbers", ":ids", ":known", "uniforms")}}
    results = ["drawn_numbers", "drawn_ids"]
    drawn = fitted.trace(_Drawn(completer), ends, results, "drawn", completer.impute)
    draft = Draft("ends")
    draft.input("normals", "float32", ("n", a))
    draft.input("uniforms", "float32", ("n", b))
    draft.output("drawn_numbers", "float64", ("n", d))
    draft.output("drawn_ids", "int64", ("n", c))
    parts, outputs = [entry, known, given, loop, drawn], draft.part.outputs
    if not any(value.name == "numbers" for value in entry.inputs):
        columns = tail(
            fitted.estimator.schema_, numbers="drawn_numbers", ids="drawn_ids", naming=feeding.FILLED
        )
        parts, outputs = [*parts, columns], [*columns.outputs, *outputs]
    inputs = [*entry.inputs, *known.inputs, *draft.part.inputs]
    return _Graph(
        _joined(parts, inputs, outputs),
        (a, b),
        lambda trial: (trial.draw(completer), trial.golden((a, b))),
        partial(_drawn_in_int8, completer),
    )


TASKS: dict[str, Callable[[_Fitted, Part], _Graph]] = {
    "score": _score,
    "generate": _generate,
    "impute": _impute,
}
