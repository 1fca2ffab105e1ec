"""Milliseconds an image to generate and to score 28 x 28 pixels, in torch and in onnxruntime.

    python benchmarks/image_serving.py            # Diffusion for 20,000 images in 8 steps, one thread
    python benchmarks/image_serving.py --write

A model of Fashion-MNIST is trained for 1,000 steps and exported. CPU time for a batch of 64 images with
labels, the least of five rounds in which both take their turn; and the share of pixels drawn from the same
seed that differ, or of scores, with the largest difference. "in int8" is the file that generates with
products and convolutions of bytes. At the end stands the Fréchet distance, as `images.py` has it, of 2,000
images that each file draws from the same seed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from images import asked, fashion, judge

import lookalike as la
from lookalike import runtime
from lookalike.evaluation.manifolds import frechet_distance

HERE = Path(__file__).resolve().parent
TRAINED, BATCH, ROUNDS = 20_000, 64, 5
STEPS = 8  # of the sampler, in each two guided estimates: four calls of the network, two of the poorer one


def timed(calls: list[Callable[[], Any]]) -> tuple[list[float], list[Any]]:
    """The least milliseconds an image of each call, and what it gives."""
    least, found = [float("inf")] * len(calls), [None] * len(calls)
    for _ in range(ROUNDS):
        for i, call in enumerate(calls):
            start = time.process_time()
            found[i] = call()
            least[i] = min(least[i], 1e3 * (time.process_time() - start) / BATCH)
    return least, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="keep what is printed in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [f"$ python benchmarks/image_serving.py {shlex.join(sys.argv[1:])}".rstrip()]

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    data = fashion()
    images, labels = data["x_train"][:TRAINED], data["y_train"][:TRAINED].astype(str)
    model = la.Diffusion(width=128, max_steps=1000, batch_size=32, n_steps=STEPS, random_state=0)
    model.fit({"image": images, "label": labels})
    rows = {"image": images[:BATCH], "label": labels[:BATCH]}
    given = {"label": labels[:BATCH]}
    network = judge(data)
    features, _ = network.look(data["x_test"])
    many = {"label": asked().astype(str)}

    def drawn(m: Any) -> Any:
        return m.generate(given=given, random_state=0)["image"].astype(int)

    files: tuple[tuple[str, str, str, Callable[[Any], Any]], ...] = (
        ("score", "score", "float32", lambda m: m.score_samples(rows)),
        ("generate", "generate", "float32", drawn),
        ("in int8", "generate", "int8", drawn),
    )
    far = {}
    say(f"{'':8s}  torch ms  onnxruntime ms  file MB  differ  by at most")
    with tempfile.TemporaryDirectory() as folder:
        for name, task, precision, verb in files:
            path = Path(folder) / f"{name}.onnx"
            model.export(path, task=task, explain=False, precision=precision)
            served = runtime.load(path, device="cpu", threads=1)
            if task == "generate":
                made = served.generate(given=many, random_state=0)["image"]
                far[precision] = frechet_distance(features, network.look(made)[0])
            (ours, theirs), (one, other) = timed([lambda: verb(model), lambda: verb(served)])  # noqa: B023
            gap = np.abs(one - other)
            say(
                f"{name:8s}  {ours:8.2f}  {theirs:14.2f}  {path.stat().st_size / 1e6:7.2f}"
                f"  {(gap > 0).mean():6.4f}  {gap.max():10.2g}"
            )
    say(f"Frechet {far['float32']:.2f}, in int8 {far['int8']:.2f}")
    if args.write:
        (HERE / "results" / "image_serving.txt").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
