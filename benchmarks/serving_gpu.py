"""Exported models on a GPU: that all of the work is there, how near the scores are, how fast beside what.

    python benchmarks/serving_gpu.py                 # where there are a GPU and onnxruntime-gpu
    python benchmarks/serving_gpu.py --device cpu --rows 4096   # goes through the steps without one

Without a GPU it says so and ends; on a CPU the steps can be gone through, and the figures mean nothing.
Tables are those of serving.py: 64 normal columns, 8 of them text in its other form.

`placed`     each task of each family: what stays on the CPU is text and shapes, else this ends with an error
`gap`        of the scores from the CPU's, in spreads of the scores; at most 1e-5, with TF32 1e-3
`rows/s`     from arrays in memory to scores in memory; beside torch on the same card, and beside what the bus
             carries of the inputs alone, from pinned memory and from the pageable memory of numpy
`replay`     a CUDA graph for each batch size, inputs and outputs at fixed addresses
`crossover`  the first batch size that takes the GPU less time than the CPU; session.SMALL is an estimate
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pandas as pd
import torch
from serving import medians, tables

import lookalike as la
from lookalike import runtime
from lookalike import session as sessions
from lookalike.exported import read_exported
from lookalike.onnxfile import read
from lookalike.verbs import Scorer

# The reference is the CPU, where the model stays until torch's turn.
SMALL_FIT: dict[str, Any] = {"max_steps": 30, "width": 256, "random_state": 0, "device": "cpu"}
STAYS = {
    "Cast",
    "Concat",
    "Equal",
    "Gather",
    "LabelEncoder",
    "Shape",
    "Slice",
    "Squeeze",
    "Unsqueeze",
    "Where",
}
ENTRIES = [(task, inputs) for task in ("score", "generate", "impute") for inputs in ("columns", "core")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", default="VAE,GAN,Diffusion")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--rows", type=int, default=10_000_000, help="most rows to score")
    args = parser.parse_args()
    if args.device == "cuda" and not (
        sessions.CUDA in ort.get_available_providers() and torch.cuda.is_available()
    ):
        print("Nothing was measured: this needs a GPU, torch built for it, and onnxruntime-gpu.")
        return
    name = torch.cuda.get_device_name() if args.device == "cuda" else "no GPU: the figures mean nothing"
    print(f"{name}; onnxruntime {ort.__version__}, torch {torch.__version__}")
    numbers, texts = tables()
    with tempfile.TemporaryDirectory() as folder:
        for family in args.families.split(","):
            mixed = getattr(la, family)(**SMALL_FIT).fit(texts)
            check(mixed, Path(folder), texts, args.device)
            plain = getattr(la, family)(**SMALL_FIT).fit(numbers)
            path = Path(folder) / "fast.onnx"
            plain.export(path, inputs="core", explain=False)
            throughput(plain, path, args.device, args.rows)
            replay(path, args.device)


# ---- where the work is done, and what comes of it ----


def check(model: Any, folder: Path, rows: pd.DataFrame, device: str) -> None:
    family = type(model).__name__
    for task, inputs in ENTRIES:
        path = folder / f"{task}-{inputs}.onnx"
        model.export(path, task=task, inputs=inputs)
        here, there = (runtime.load(path, device=name) for name in ("cpu", device))
        placed = placement(there) if device == "cuda" else "placed nowhere"
        there.verify()
        if task == "score":
            fast = runtime.load(path, device=device, tf32=True)
            gaps = [gap(here, other, rows) for other in (there, fast)]
            said = f"gap {gaps[0]:.1e}, with TF32 {gaps[1]:.1e}"
            wrong = gaps[0] > 1e-5 or gaps[1] > 1e-3
        else:
            apart = cells_apart(*(drawn(other, task, rows) for other in (here, there)))
            said, wrong = f"{apart:.2%} of the cells differ", apart > 1e-3
        print(f"{family}, {task} from {inputs}: {placed}; {said}", flush=True)
        if wrong:
            sys.exit("That is too much.")


def placement(model: runtime.Model) -> str:
    """Say how many operators run where; end where one that works is on the CPU."""
    info = model.info()
    on = {provider: sum(operators.values()) for provider, operators in info["nodes"].items()}
    strays = set(info["nodes"].get(sessions.CPU, ())) - STAYS
    if info["provider"] != sessions.CUDA or strays:
        sys.exit(f"{model!r} runs on the CPU: {info['nodes'].get(sessions.CPU)}")
    return f"placed {on.get(sessions.CUDA, 0)} on CUDA, {on.get(sessions.CPU, 0)} on the CPU"


def gap(here: runtime.Model, there: runtime.Model, rows: pd.DataFrame) -> float:
    """Largest difference of scores, in spreads of the calibration's, or relative where a score is far out."""
    want, got = here.score_samples(rows), there.score_samples(rows)
    scores = here.calibration_.scores
    scale = np.maximum(scores.std(), np.abs(want - np.median(scores)))
    return float((np.abs(got - want) / scale).max())


def drawn(model: runtime.Model, task: str, rows: pd.DataFrame) -> pd.DataFrame:
    if task == "generate":
        return model.generate(len(rows), given={"n0": "level 3"}, random_state=0)
    return model.impute(rows.mask(np.arange(rows.size).reshape(rows.shape) % 3 == 0), random_state=0)


def cells_apart(here: pd.DataFrame, there: pd.DataFrame) -> float:
    """Share of cells that differ: text at all, numbers by more than 1e-4."""
    apart = [
        ~np.isclose(a, there[name], atol=1e-4)
        if a.dtype.kind == "f"
        else a.to_numpy() != there[name].to_numpy()
        for name, a in here.items()
    ]
    return float(np.mean(apart))


# ---- rows a second ----


def throughput(model: Any, path: Path, device: str, most: int) -> None:
    contents = read(path)
    centre = read_exported(contents).centre
    there, here = (sessions.Session(contents, ["score"], device=name) for name in (device, "cpu"))
    rng = np.random.default_rng(0)
    table = {
        "numbers": rng.standard_normal((most, len(centre)), np.float32) - centre.astype(np.float32),
        "ids": np.empty((most, 0), np.int64),
    }
    width = table["numbers"][:1].nbytes
    bus = {kind: bandwidth(device, pinned=kind == "pinned") / width for kind in ("pinned", "pageable")}
    torched = on_torch(model, centre, device)
    print(f"    the bus: {bus['pinned']:,.0f} rows/s of {width} bytes, pageable {bus['pageable']:,.0f}")
    for n in (n for n in (10**k for k in range(3, 8)) if n <= most):
        part = {name: array[:n] for name, array in table.items()}
        found = medians({"onnx": scored(there, part), "torch": lambda part=part: torched(part["numbers"])}, 5)
        rates = {name: n / seconds for name, seconds in found.items()}
        share = rates["onnx"] / bus["pinned"]
        print(
            f"    {n:10,} rows {rates['onnx']:14,.0f} rows/s, {rates['onnx'] / rates['torch']:.2f} x torch, "
            f"{share:.0%} of the bus",
            flush=True,
        )
    for n in (2**k for k in range(13)):
        part = {name: array[:n] for name, array in table.items()}
        found = medians({"gpu": scored(there, part), "cpu": scored(here, part)}, 5)
        if found["gpu"] < found["cpu"]:
            print(f"    crossover at {n} rows: {1e6 * found['gpu']:.0f} and {1e6 * found['cpu']:.0f} us")
            break
    else:
        print("    no crossover up to 4,096 rows")


def scored(session: sessions.Session, feeds: dict[str, Any]) -> Callable[[], Any]:
    def part(start: int, stop: int) -> dict[str, Any]:
        return {name: array[start:stop] for name, array in feeds.items()}

    n = len(feeds["numbers"])
    return lambda: session.run(["score"], n, part)


def on_torch(model: Any, centre: Any, device: str) -> Callable[[Any], Any]:
    """Scores by torch, codec and model both on the device."""
    scorer = Scorer(model.codec_, model.model_, model.n_train_).to(device)
    middle = torch.tensor(centre, device=device)
    nothing = torch.empty((1, 0), dtype=torch.long, device=device)

    def score(numbers: Any) -> Any:
        scores = []
        with torch.inference_mode():
            for part in torch.from_numpy(numbers).split(sessions.ROWS[sessions.CUDA]):
                raw = part.to(device).double() + middle
                rows = scorer.codec(raw, nothing.expand(len(raw), 0))
                energy, _ = scorer.model.energy(rows)
                cells = torch.where(scorer.codec.novel(rows), scorer.surprise_of_new, energy.double())
                scores.append(-cells.sum(1).cpu())
        return torch.cat(scores).numpy()

    return score


def bandwidth(device: str, *, pinned: bool, size: int = 1 << 28) -> float:
    """Bytes a second from memory to the device."""
    source = torch.ones(size, dtype=torch.uint8, pin_memory=pinned and device == "cuda")
    target = torch.empty_like(source, device=device)
    best = np.inf
    for _ in range(5):
        start = time.perf_counter()
        target.copy_(source)
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return size / best


# ---- CUDA graphs ----


def replay(path: Path, device: str) -> None:
    """Batches of 1 to 1,024 rows: recorded once a size, then launched whole."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    cuda = (sessions.CUDA, {"use_tf32": "0", "enable_cuda_graph": "1"})
    session = ort.InferenceSession(
        str(path), options, providers=[cuda, sessions.CPU] if device == "cuda" else [sessions.CPU]
    )
    plain = sessions.Session(read(path), device=device)
    width = next(value.shape[1] for value in session.get_inputs() if value.name == "numbers")
    rng = np.random.default_rng(0)
    for n in (2**k for k in range(11)):
        rows = {"numbers": rng.standard_normal((n, width), np.float32), "ids": np.empty((n, 0), np.int64)}
        call = recorded(session, rows, device, n)
        normal = scored(plain, rows)
        (want,) = normal()
        if np.abs(call() - want).max() > 1e-5 * max(np.abs(want).max(), 1.0):
            sys.exit(f"A graph replayed with {n} rows gives other scores.")
        found = medians({"replayed": call, "run": normal}, 5)
        print(f"    replay {n:5} rows " + ", ".join(f"{name} {1e6 * t:.0f} us" for name, t in found.items()))


def recorded(session: Any, rows: dict[str, Any], device: str, number: int) -> Callable[[], Any]:
    """Bind arrays on the device and run twice, by when onnxruntime has recorded."""
    inputs = {name: ort.OrtValue.ortvalue_from_numpy(array, device, 0) for name, array in rows.items()}
    scores = ort.OrtValue.ortvalue_from_numpy(np.zeros(len(rows["numbers"])), device, 0)
    binding = session.io_binding()
    for name, value in inputs.items():
        binding.bind_ortvalue_input(name, value)
    binding.bind_ortvalue_output("score", scores)
    options = ort.RunOptions()
    if device == "cuda":
        options.add_run_config_entry("gpu_graph_id", str(number))

    def call() -> Any:
        inputs["numbers"].update_inplace(rows["numbers"])
        session.run_with_iobinding(binding, options)
        return scores.numpy()

    call(), call()
    return call


if __name__ == "__main__":
    main()
