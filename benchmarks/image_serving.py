"""Milliseconds an image to generate and to score 28 x 28 pixels, in torch and in onnxruntime.

    python benchmarks/image_serving.py            # Diffusion for 3,000 images in 8 steps, one thread
    python benchmarks/image_serving.py --write

A model of Fashion-MNIST is trained for a few steps, for time does not depend on what it has learned, and
exported. CPU time for a batch of 64 images with labels, the least of five rounds in which both take their
turn; and the share of pixels drawn from the same seed that differ, or of scores, with the largest difference.
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

import lookalike as la
from lookalike import runtime

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data" / "images" / "fashion_mnist.npz"
TRAINED, BATCH, ROUNDS = 3000, 64, 5
STEPS = 8  # of the sampler: 32 evaluations of the network, half of them for guidance


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

    with np.load(DATA) as file:
        images, labels = file["x_train"][:TRAINED], file["y_train"][:TRAINED].astype(str)
    model = la.Diffusion(max_steps=20, n_steps=STEPS, random_state=0).fit({"image": images, "label": labels})
    rows = {"image": images[:BATCH], "label": labels[:BATCH]}
    given = {"label": labels[:BATCH]}
    verbs: dict[str, Callable[[Any], Any]] = {
        "generate": lambda m: m.generate(given=given, random_state=0)["image"].astype(int),
        "score": lambda m: m.score_samples(rows),
    }
    say(f"{'':8s}  torch ms  onnxruntime ms  file MB  differ  by at most")
    with tempfile.TemporaryDirectory() as folder:
        for task, verb in verbs.items():
            path = Path(folder) / f"{task}.onnx"
            model.export(path, task=task, explain=False)
            served = runtime.load(path, device="cpu", threads=1)
            (ours, theirs), (one, other) = timed([lambda: verb(model), lambda: verb(served)])  # noqa: B023
            gap = np.abs(one - other)
            say(
                f"{task:8s}  {ours:8.2f}  {theirs:14.2f}  {path.stat().st_size / 1e6:7.2f}"
                f"  {(gap > 0).mean():6.4f}  {gap.max():10.2g}"
            )
    if args.write:
        (HERE / "results" / "image_serving.txt").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
