"""Exported models beside torch and beside peers: latency of one row, rows per second, generation. One thread.

    python benchmarks/serving.py                       # our files, torch, scikit-learn
    python benchmarks/serving.py --compile             # and torch.compile, which takes minutes
    python benchmarks/serving.py --peers python3.11    # and PyOD and skl2onnx, in a venv made for them
    python benchmarks/serving.py --write               # and keep what is printed, in benchmarks/results

Figures are medians of several rounds in which all subjects take turns, so that a busy moment meets all of
them; peers of the other venv are timed right before and right after ours. Exported files read chunks of 512
rows, peers all at once. Models have a width of 256 and were hardly trained, which changes no time.

Three tables: 64 normal columns; the same with 8 of them as text of 12 levels; and a small one of 8 numbers
and 3 texts, with models of the default width. `GEMM` is what onnxruntime multiplies per second in a product
of 512 x 256 x 256; a share of it is what a graph's products take at that speed, divided by all its time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import onnx
import onnxruntime as ort
import pandas as pd
import torch
from peers import interpreter

import lookalike as la
from lookalike import feeding, noise, runtime
from lookalike.verbs import Completer, Scorer

HERE = Path(__file__).resolve().parent
COLUMNS, TEXTS, LEVELS, TRAIN = 64, 8, 12, 2000
SIZES = (1, 256, 1024, 16384)
ROUNDS = 9

PEERS = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np
import torch
torch.set_num_threads(1)
from sklearn.ensemble import IsolationForest
rng = np.random.default_rng(0)
X = rng.normal(size=(5000, 64)).astype(np.float32)
big = rng.normal(size=(16384, 64)).astype(np.float32)
def timed(call, seconds=1.0):
    call()
    taken = []
    while sum(taken) < seconds or len(taken) < 5:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2]
found = {}
def measure(name, score):
    found[name] = {str(n): timed(lambda: score(big[:n])) for n in (1, 256, 1024, 16384)}
from pyod.models.auto_encoder import AutoEncoder
from pyod.models.vae import VAE
measure("PyOD AutoEncoder", AutoEncoder(epoch_num=2, verbose=0).fit(X).decision_function)
measure("PyOD VAE", VAE(epoch_num=2, verbose=0).fit(X).decision_function)
import onnxruntime as ort
from skl2onnx import to_onnx
forest = IsolationForest(random_state=0).fit(X)
data = to_onnx(forest, X[:1], target_opset={"": 20, "ai.onnx.ml": 3}).SerializeToString()
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(data, options)
measure("skl2onnx IsolationForest", lambda x: session.run(None, {"X": x}))
print(json.dumps(found))
"""


class Report:
    """Prints lines, and keeps them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, line: str = "") -> None:
        self.lines.append(line)
        print(line, flush=True)

    def table(self, found: dict[str, float], n: int, base: str) -> None:
        for name, seconds in found.items():
            times = f"{1e6 * seconds:12,.1f} us {n / seconds:12,.0f} rows/s"
            self(f"    {name:24s} {times} {seconds / found[base]:8.2f} x {base}")


def session(data: bytes | str) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def gemm(rows: int = 512, width: int = 256) -> tuple[Callable[[], Any], float]:
    """A matrix product in onnxruntime, and its floating-point operations."""
    weight = onnx.numpy_helper.from_array(np.ones((width, width), np.float32), "w")
    values = [onnx.helper.make_tensor_value_info(name, 1, ["n", width]) for name in "xy"]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "gemm", values[:1], values[1:], [weight])
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    opened, x = session(model.SerializeToString()), np.ones((rows, width), np.float32)
    return lambda: opened.run(None, {"x": x}), 2.0 * rows * width * width


def operations(path: Path) -> float:
    """Floating-point operations a row in the matrix products of a graph."""
    graph = onnx.load(path).graph
    sizes = {tensor.name: int(np.prod(tensor.dims)) for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type in ("Gemm", "MatMul")]
    return float(sum(2 * sizes.get(node.input[1], 0) for node in products))


def medians(subjects: dict[str, Callable[[], Any]], rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds a call, all subjects taking turns."""
    repeats, taken = {}, {name: [] for name in subjects}
    for name, call in subjects.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(int(0.05 / max(time.perf_counter() - start, 1e-7)), 1)
    for _ in range(rounds):
        for name, call in subjects.items():
            start = time.perf_counter()
            for _ in range(repeats[name]):
                call()
            taken[name].append((time.perf_counter() - start) / repeats[name])
    return {name: statistics.median(times) for name, times in taken.items()}


def tables() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Numbers alone, and some of them replaced by text."""
    rng = np.random.default_rng(0)
    numbers = pd.DataFrame(rng.normal(size=(TRAIN, COLUMNS)), columns=[f"n{i}" for i in range(COLUMNS)])
    texts = numbers.copy()
    levels = np.array([f"level {i}" for i in range(LEVELS)])
    for i in range(TEXTS):
        texts[f"n{i}"] = levels[rng.integers(LEVELS, size=TRAIN)]
    return numbers, texts


def first(frame: pd.DataFrame, n: int) -> pd.DataFrame:
    return frame.iloc[np.arange(n) % TRAIN]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", default="VAE,GAN,Diffusion")
    parser.add_argument("--compile", action="store_true", help="also time torch.compile")
    parser.add_argument("--peers", default="", help="an interpreter to make the peers' venv from")
    parser.add_argument("--write", action="store_true", help="write benchmarks/results/serving.txt")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = Report()
    report(f"$ python benchmarks/serving.py {' '.join(sys.argv[1:])}")
    versions = (f"{name} {metadata.version(name)}" for name in ("torch", "onnxruntime", "scikit-learn"))
    report(f"{', '.join(versions)}; one thread")
    before = peers(args.peers) if args.peers else {}
    with tempfile.TemporaryDirectory() as folder:
        for family in args.families.split(","):
            scoring(family, Path(folder), report, compiled=args.compile)
            generation(family, Path(folder), report)
    for name, times in (peers(args.peers) if args.peers else {}).items():
        report(name)
        for n, seconds in times.items():
            report(
                f"    {n:>6s} rows {1e6 * before[name][n]:12,.1f} us before, {1e6 * seconds:12,.1f} us after"
            )
    if args.write:
        (HERE / "results" / "serving.txt").write_text("\n".join(report.lines) + "\n")


def scoring(family: str, folder: Path, report: Report, *, compiled: bool) -> None:
    from sklearn.ensemble import IsolationForest

    product, work = gemm()
    numbers, texts = tables()
    forest = IsolationForest(random_state=0).fit(numbers.to_numpy())
    model = getattr(la, family)(max_steps=30, width=256, random_state=0).fit(numbers)
    mixed = getattr(la, family)(max_steps=30, width=256, random_state=0).fit(texts)
    paths = {name: folder / f"{name}.onnx" for name in ("core", "int8", "columns", "text", "ids")}
    model.export(paths["core"], inputs="core", explain=False)
    model.export(paths["int8"], inputs="core", explain=False, precision="int8", rows=numbers)
    model.export(paths["columns"], explain=False)
    mixed.export(paths["text"], explain=False)
    mixed.export(paths["ids"], inputs="core", explain=False)
    opened = {name: session(str(path)) for name, path in paths.items()}
    scorer = Scorer(model.codec_, model.model_, model.n_train_)
    loaded, flops = runtime.load(paths["columns"]), operations(paths["core"])

    def score(*given: torch.Tensor) -> torch.Tensor:
        return scorer.energies(*given)[0].sum(1)

    fast = torch.compile(score, dynamic=True) if compiled else None

    def subjects(n: int) -> dict[str, Callable[[], Any]]:
        frame, words = first(numbers, n), first(texts, n)
        table, coded = model.schema_.encode(frame), mixed.schema_.encode(words)
        tensors, rows = (torch.tensor(table.numbers), torch.tensor(table.ids)), frame.to_numpy()
        core = {"numbers": table.numbers.astype(np.float32)}
        calls = {
            "core": scored(opened["core"], core),
            "int8": scored(opened["int8"], core),
            "columns": scored(opened["columns"], feeding.feed(model.schema_, frame)),
            "text": scored(opened["text"], feeding.feed(mixed.schema_, words)),
            "ids": scored(opened["ids"], {"numbers": coded.numbers.astype(np.float32), "ids": coded.ids}),
            "torch eager": quietly(score, tensors),
        }
        if fast is not None:
            calls["torch.compile"] = quietly(fast, tensors)
        if n == 1:
            row = frame.iloc[0].to_dict()
            calls["runtime, one dict"] = lambda: loaded.score_samples(row)
        return {**calls, "IsolationForest": lambda: forest.score_samples(rows), "GEMM": product}

    for n in SIZES:
        found = medians(subjects(n), 5 if n > 1024 else ROUNDS)
        speed = work / found.pop("GEMM")
        share = flops * n / speed / found["core"]
        report(
            f"{family}, {n} rows: GEMM {speed / 1e9:.0f} GFLOP/s, {flops / 1e6:.2f} MFLOP a row: {share:.0%}"
        )
        report.table(found, n, "core")
    small(family, folder, texts, report)


def small(family: str, folder: Path, texts: pd.DataFrame, report: Report) -> None:
    """One row of 8 numbers and 3 texts, by a model of the default width."""
    frame = texts.iloc[:, TEXTS - 3 : TEXTS + 8]
    model = getattr(la, family)(max_steps=30, random_state=0).fit(frame)
    for inputs in ("core", "columns"):
        model.export(folder / f"small-{inputs}.onnx", inputs=inputs, explain=False)
    core, columns = (session(str(folder / f"small-{inputs}.onnx")) for inputs in ("core", "columns"))
    loaded, row = runtime.load(folder / "small-columns.onnx"), frame.iloc[0].to_dict()
    table = model.schema_.encode(frame.head(1))
    scorer = Scorer(model.codec_, model.model_, model.n_train_)
    found = medians(
        {
            "core": scored(core, {"numbers": table.numbers.astype(np.float32), "ids": table.ids}),
            "columns": scored(columns, feeding.feed(model.schema_, frame.head(1))),
            "runtime, one dict": lambda: loaded.score_samples(row),
            "torch eager": quietly(scorer.energies, (torch.tensor(table.numbers), torch.tensor(table.ids))),
        }
    )
    report(f"{family}, 1 row of 8 numbers and 3 texts, default width")
    report.table(found, 1, "core")


def scored(opened: Any, feeds: dict[str, Any]) -> Callable[[], Any]:
    """Scores alone, in chunks of 512 rows."""
    n = len(next(iter(feeds.values())))
    parts = [{name: array[i : i + 512] for name, array in feeds.items()} for i in range(0, n, 512)]
    return lambda: [opened.run(["score"], part) for part in parts]


def quietly(call: Callable[..., Any], tensors: Sequence[torch.Tensor]) -> Callable[[], Any]:
    """Without gradients."""

    def run() -> Any:
        with torch.inference_mode():
            return call(*tensors)

    return run


def generation(family: str, folder: Path, report: Report) -> None:
    """Arrays in and out, columns with text in and out, torch, and both as a user calls them."""
    _, texts = tables()
    model = getattr(la, family)(max_steps=30, width=256, random_state=0).fit(texts)
    for inputs in ("core", "columns"):
        model.export(folder / f"generate-{inputs}.onnx", task="generate", inputs=inputs)
    core, columns = (session(str(folder / f"generate-{inputs}.onnx")) for inputs in ("core", "columns"))
    completer = Completer(model.codec_, model.model_, False)
    loaded = runtime.load(folder / "generate-columns.onnx")
    names = [value.name for value in columns.get_outputs() if value.name.startswith(feeding.FILLED)]

    def subjects(n: int) -> dict[str, Callable[[], Any]]:
        words = first(texts, n)
        table = model.schema_.encode(words)
        normals, uniforms = noise.rows(0, 0, n, *completer.noise_size)
        known = np.zeros((n, table.numbers.shape[1] + table.ids.shape[1]), bool)
        drawing = {"known": known, "normals": normals, "uniforms": uniforms}
        arrays = {"numbers": table.numbers.astype(np.float32), "ids": table.ids, **drawing}
        named = feeding.feed(model.schema_, words) | drawing
        parts = np.split(known, [table.numbers.shape[1]], axis=1)
        tensors = [torch.tensor(array) for array in (table.numbers, table.ids, *parts, normals, uniforms)]
        return {
            "arrays": lambda: core.run(["drawn_numbers", "drawn_ids"], arrays),
            "columns": lambda: columns.run(names, named),
            "torch eager": quietly(completer, tensors),
            "runtime.generate": lambda: loaded.generate(n, random_state=0),
            "estimator.generate": lambda: model.generate(n, random_state=0),
        }

    for n in (1, 1024):
        report(f"{family}, generate {n} rows")
        report.table(medians(subjects(n), 5), n, "arrays")


def peers(python: str) -> dict[str, dict[str, float]]:
    """Time the peers in a venv of their own, made the first time."""
    done = subprocess.run([interpreter(python), "-c", PEERS], check=True, capture_output=True, text=True)
    found: dict[str, dict[str, float]] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    sys.exit(main())
