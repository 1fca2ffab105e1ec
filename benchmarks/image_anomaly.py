"""Anomalies among images found by `Detector`, beside what takes pixels as they are, in the same run.

    python benchmarks/image_anomaly.py --write               # boards, then garments
    python benchmarks/image_anomaly.py --data boards --seed 1

boards: DeepPCB's patches of circuit boards, 64 x 64, black and white, each defect beside the same place of
its template. "alone": learned from the first half of the good patches, tested on the others and on half of
the defects. Good patches are cut from templates, which are cleaner than boards as scanned. So "repaired"
tests the same model on the defects and on these very patches with the defect covered by the template. "with
templates": learned from the repaired patches of the second third of the defects, tested on the last third.
The first third of the defects, and of the good patches not learned, was used to choose settings, and is in
no figure. Patches come board by board, so that parts hold other boards. "pixels" is the AUROC of `heatmap` by
the boxes drawn around defects, in the mean of images, "peak" how often its hottest pixel lies in the box, of
which the boxes' share of an image is chance.

garments: each class of Fashion-MNIST against the rest, 1,000 training images of the class, 1,000 test
images.

Beside: the error of reconstruction from as many principal components as hold 95 % of the variance, the mean
distance from 5 nearest neighbours, and with a template how many pixels differ by more than a shift of one.
One thread. Seconds are of the CPU.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from scipy import ndimage
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors

import lookalike as la

HERE = Path(__file__).resolve().parent
DATA = HERE.parent.parent / "shared" / "data" / "images"
Score = Callable[[Any], np.ndarray]


def auroc(good: np.ndarray, bad: np.ndarray) -> float:
    return float(roc_auc_score(np.arange(len(good) + len(bad)) >= len(good), np.r_[good, bad]))


def flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float64)


def components(images: np.ndarray) -> Score:
    fitted = PCA(0.95, svd_solver="full").fit(flat(images))

    def score(new: np.ndarray) -> np.ndarray:
        gap = flat(new) - fitted.inverse_transform(fitted.transform(flat(new)))
        return (gap**2).sum(1)

    return score


def neighbours(images: np.ndarray) -> Score:
    fitted = NearestNeighbors(n_neighbors=5).fit(flat(images))
    return lambda new: fitted.kneighbors(flat(new))[0].mean(1)


def differing(table: dict[str, np.ndarray]) -> Score:
    """Pixels that are brighter or darker than all of the template's around them."""

    def score(new: dict[str, np.ndarray]) -> np.ndarray:
        image, template = new["image"], new["template"]
        most, least = (f(template, (1, 3, 3)) for f in (ndimage.maximum_filter, ndimage.minimum_filter))
        return ((image > most) | (image < least)).sum((1, 2))

    return score


def ours(seed: int, **options: Any) -> Callable[[Any], la.Detector]:
    return lambda data: la.Detector(random_state=seed, **options).fit(data)


def timed(
    fit: Callable[[Any], Any], train: Any, tests: list[Any]
) -> tuple[Any, list[np.ndarray], float, float]:
    """What was fitted, its scores, higher for odd images, CPU seconds of the fit and ms an image scored."""
    start = time.process_time()
    model = fit(train)
    fitted = time.process_time()
    score = getattr(model, "anomaly_score", model)
    scores = [score(test) for test in tests]
    n = sum(map(len, scores))
    return model, scores, fitted - start, 1e3 * (time.process_time() - fitted) / n


def boards(say: Callable[[str], None], seed: int, tuning: bool) -> None:
    with np.load(DATA / "deeppcb_patches.npz") as file:
        good, defect, template, mask = (
            np.unpackbits(file[k], axis=-1).astype(bool) for k in ("good", "defect", "template", "mask")
        )
    repaired = np.where(mask, template, defect)
    half, part = len(good) // 2, len(defect) // 3
    learned, rest = slice(part, 2 * part), slice(half + (len(good) - half) // 3, None)
    # What is learned of "template" is not tested in it, and is in the others.
    bad, apart = slice(part, None, 2), slice(2 * part, None)
    if tuning:
        rest, bad, apart = slice(half, rest.start, 2), slice(0, part, 3), slice(0, part, 3)
    n_good, n_bad = len(good[rest]), len(defect[bad])
    say(f"boards, seed {seed}: {half} good patches learned, {n_good} good and {n_bad} bad tested")
    say(f"boxes are {mask[bad].mean():.3f} of an image")
    say(f"{'':12s} {'alone':>9s} {'repaired':>9s} {'pixels':>9s} {'peak':>9s}   fit s  ms/image")

    def told(name: str, columns: list[str], fit: float, each: float) -> None:
        figures = " ".join(f"{column:>9s}" for column in columns)
        say(f"{name:12s} {figures} {fit:7.1f} {each:9.2f}")

    for name, fit in {"Detector": ours(seed), "PCA": components, "neighbours": neighbours}.items():
        model, scores, seconds, each = timed(fit, good[:half], [good[rest], repaired[bad], defect[bad]])
        seen = [f"{auroc(scores[k], scores[2]):.3f}" for k in (0, 1)]
        where = located(model, defect[bad], mask[bad]) if name == "Detector" else ["-", "-"]
        told(name, [*seen, *where], seconds, each)
    table, fair, odd = (
        {"image": images[at], "template": template[at]}
        for images, at in ((repaired, learned), (repaired, apart), (defect, apart))
    )
    say(f"with templates: {part} pairs learned, {len(odd['image'])} good and as many bad tested")
    fits = {"Detector": ours(seed, schema={"template": la.Template(of="image")}), "differing": differing}
    for name, fit in fits.items():
        model, scores, seconds, each = timed(fit, table, [fair, odd])
        where = located(model, odd, mask[apart]) if name == "Detector" else ["-", "-"]
        told(name, ["", f"{auroc(*scores):.3f}", *where], seconds, each)


def located(model: la.Detector, images: Any, mask: np.ndarray) -> list[str]:
    """How well heat tells the pixels inside a box from those outside, and how often its peak is inside."""
    heat, inside = (part.reshape(len(mask), -1) for part in (model.heatmap(images), mask))
    part = ~inside.all(1)
    pixels = np.mean([roc_auc_score(box, hot) for box, hot in zip(inside[part], heat[part], strict=True)])
    peak = np.take_along_axis(inside, heat.argmax(1)[:, None], 1)
    return [f"{pixels:.3f}", f"{peak.mean():.3f}"]


def garments(say: Callable[[str], None], seed: int, tuning: bool) -> None:
    with np.load(DATA / "fashion_mnist.npz") as file:
        x, y = file["x_train"], file["y_train"]
        test, label = (x[50_000:50_600], y[50_000:50_600]) if tuning else (file["x_test"], file["y_test"])
    x, y, test, label = x[:50_000], y[:50_000], test[:1000], label[:1000]
    fits = {"Detector": ours(seed), "PCA": components, "neighbours": neighbours}
    say(f"garments, seed {seed}: each class against the rest, {len(test)} images tested")
    say(f"{'':12s} {' '.join(f'{k:5d}' for k in range(10))}    mean   fit s  ms/image")
    for name, fit in fits.items():
        found = []
        for k in range(10):
            _, scores, *cost = timed(fit, x[y == k][:1000], [test[label == k], test[label != k]])
            found.append((auroc(*scores), *cost))
        each, seconds, ms = np.transpose(found)
        figures = " ".join(f"{value:.3f}" for value in each)
        say(f"{name:12s} {figures}  {each.mean():.4f} {seconds.mean():7.1f} {ms.mean():9.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="boards,garments")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tuning", action="store_true", help="on the part that settings are chosen by")
    parser.add_argument("--write", action="store_true", help="keep what is printed in benchmarks/results")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", la.LookalikeWarning)
    lines = [f"$ python benchmarks/image_anomaly.py {shlex.join(sys.argv[1:])}".rstrip()]

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    for name in args.data.split(","):
        {"boards": boards, "garments": garments}[name](say, args.seed, args.tuning)
    if args.write:
        (HERE / "results" / "images_anomaly.txt").write_text("\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
