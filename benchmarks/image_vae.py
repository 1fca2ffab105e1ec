"""Images of Fashion-MNIST drawn by the VAE, beside those of pythae's VAE that had the same CPU seconds.

    python benchmarks/image_vae.py --seconds 240 --peers python3.11 --write

The judge is that of `images.py`: of its features the Fréchet distance of 2,000 images to the 10,000 test
images, precision and recall, and how often it names the class asked for (pythae's VAE cannot be asked).
Sharpness is the mean variance of an image's Laplacian, beside that of test images. "plain" and "sharp" differ
in `sharpness`. "fit s" are the seconds of training, as `images.py` counts them.

Paths of 9 images lead from one test image to another of its class: the longest step, of pixels and in the
judge's features, is told beside the mean one, over 32 paths, and whether the ends are the images to the bit.

The peer (`image_peers.py`) lives in build/pythae_peers, which `--peers` makes from the interpreter it names:
pythae's networks, by the settings of its README, drawn by its NormalSampler. One thread. `--tune` learns from
the first 50,000 training images, and judges by the others in place of the test images.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from images import DATA, HERE, Judge, N, asked, fashion, judge, trained
from peers import interpreter

from lookalike.evaluation.manifolds import frechet_distance, likeness

SHARP = 10.0
OPTIONS = {"width": 128, "batch_size": 64, "n_steps": 1}
PATHS, STEPS = 32, 9


def sharpness(images: np.ndarray) -> float:
    """Mean variance of the Laplacian, where it has all its neighbours."""
    x = images.astype(float)
    bent = np.diff(x, 2, 1)[:, :, 1:-1] + np.diff(x, 2, 2)[:, 1:-1]
    return float(bent.var((1, 2)).mean())


def pythae(python: str, seconds: float, seed: int) -> tuple[np.ndarray, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "made.npz"
        command = [interpreter(python, "pythae_peers"), HERE / "image_peers.py", "PythaeVAE", DATA]
        subprocess.run([*map(str, command), str(seconds), str(seed), str(N), str(out)], check=True)
        found = np.load(out)
        return found["images"], float(found["fit"]), float(found["generate"])


def paths(model: Any, network: Judge, x: np.ndarray, y: np.ndarray) -> str:
    """How far images of a path are apart."""
    first = np.arange(PATHS)
    last = np.array([np.flatnonzero((y == y[i]) & (np.arange(len(y)) >= PATHS))[i] for i in first])
    ends = ({"image": x[i], "label": y[i].astype(str)} for i in (first, last))
    made = model.interpolate(*ends, steps=STEPS)["image"].reshape(PATHS, STEPS, 28, 28)
    exact = np.array_equal(made[:, 0], x[first]) and np.array_equal(made[:, -1], x[last])
    features, _ = network.look(made.reshape(-1, 28, 28))

    def longest(places: np.ndarray) -> str:
        steps = np.linalg.norm(np.diff(places.reshape(PATHS, STEPS, -1).astype(float), axis=1), axis=2)
        over = steps.max(1) / steps.mean(1)
        return f"median {np.median(over):.2f}, most {over.max():.2f}, within 2 on {(over <= 2).mean():.0%}"

    return (
        f"ends to the bit: {exact}; longest step of each path over its mean one, of pixels: {longest(made)}; "
        f"in the judge's eyes: {longest(features)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="sharp,pythae,plain")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--peers", default="", help="a Python of which the peer's environment is made")
    parser.add_argument("--tune", action="store_true", help="leave the test images alone")
    parser.add_argument("--write", action="store_true", help="add what is printed to benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)

    def say(line: str) -> None:
        print(line, flush=True)
        if args.write:  # line by line: a run takes long
            with (HERE / "results" / "images_vae.txt").open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    say(f"$ python benchmarks/image_vae.py {shlex.join(sys.argv[1:])}")
    data = fashion()
    network = judge(data)
    learned = slice(50_000 if args.tune else None)
    x, y = data["x_train"][learned], data["y_train"][learned]
    test, named = (
        (data["x_train"][50_000:], data["y_train"][50_000:])
        if args.tune
        else (
            data["x_test"],
            data["y_test"],
        )
    )
    features, _ = network.look(test)
    say(f"{'':8s} fit s  ms/image  Frechet  label  precision recall  sharpness")

    def told(name: str, made: np.ndarray, fit: float, generate: float, label: bool) -> None:
        seen, classes = network.look(made)
        near = likeness(features[:N], seen)
        right = f"{(classes == asked()).mean():.3f}" if label else "    -"
        say(
            f"{name:8s} {fit:5.0f} {1e3 * generate / N:9.2f} {frechet_distance(features, seen):8.2f}  {right}"
            f"  {near.precision:9.2f} {near.recall:6.2f} {sharpness(made) / sharpness(test):10.2f}"
        )

    for name in args.models.split(","):
        if name == "pythae":
            told(name, *pythae(args.peers, args.seconds, args.seed), False)
            continue
        options = OPTIONS | {"sharpness": SHARP if name == "sharp" else 0.0}
        table = {"image": x, "label": y.astype(str)}
        model, fit, _ = trained("VAE", table, args.seconds, args.seed, options)
        start = time.process_time()
        made = model.generate(given={"label": asked().astype(str)}, random_state=args.seed)["image"]
        told(name, made, fit, time.process_time() - start, True)
        say(f"         between images: {paths(model, network, test, named)}")


if __name__ == "__main__":
    main()
