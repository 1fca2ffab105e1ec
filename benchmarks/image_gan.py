"""What the GAN makes of images, one row of figures a question.

    python benchmarks/image_gan.py likeness --seconds 60 --peers python3.11   # beside a DCGAN
    python benchmarks/image_gan.py styles --seconds 60                        # truncation and mixing
    python benchmarks/image_gan.py few --seconds 60                           # 500 images, changed or not
    python benchmarks/image_gan.py speed
    python benchmarks/image_gan.py stability --seconds 20                     # 30 runs
    python benchmarks/image_gan.py stacked --seconds 600                      # of 1,000 modes
    python benchmarks/image_gan.py gaussians                                  # of 25

Fashion-MNIST, its judge and the Fréchet distance are those of `images.py`, the DCGAN that of
`image_peers.py`. Seconds are CPU seconds of training on one thread: the pace of 40 steps says how many
steps they are, so that a busy machine is no handicap. `--tune` judges by the last 10,000 training images,
which are then not learned from. `--write` adds what is printed to benchmarks/results/images_gan.txt.

- `stability`: 10 seeds, each at 0.3, 1 and 3 times the default learning rate; how many runs end below twice
  the median of those at the default.
- `styles`: precision and recall of 10,000 images of the same noise at psi 1, 0.75 and 0.5, beside as many
  test images (figures of smaller sets are others); then the large shapes of the classes in turn with the
  small ones of others, and how often the judge names the class that it names of the image which the large
  shapes are from.
- `few`: Fréchet distances after learning from the same 500 images with `augment` on and off.
- `stacked`: three images, each of a random class, are the channels of one; without labels. Which of the
  1,000 triples of classes 25,600 generated images have, by the judge on each channel (Metz et al.,
  "Unrolled generative adversarial networks", ICLR 2017), and the divergence of their shares from equal ones
  in nats.
- `gaussians`: 25 normal distributions on a grid, of spread 0.05 at distances of 1; a row is of one if it is
  within three spreads, and a mode counts with 20 of 2,500 rows.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from images import HERE, Judge, asked, fashion, judge, peer  # sets the threads, before numpy

# isort: split
import numpy as np
import torch

import lookalike as la
from lookalike.evaluation.manifolds import frechet_distance, likeness
from lookalike.models.gan import RATES

MANY = 5  # sets of images, where precision differs by less than one tells
OPTIONS: dict[str, Any] = {"width": 128, "batch_size": 32}
Say = Callable[[str], None]


def clocked(data: Any, seconds: float, seed: int, **options: Any) -> tuple[la.GAN, float]:
    """Fit for so many CPU seconds of training; with those that it took."""
    options = OPTIONS | options

    def fitted(steps: int, rows: Any) -> tuple[la.GAN, float]:
        times: dict[int, float] = {}
        clock = {"callbacks": [lambda progress: times.setdefault(progress.step, time.process_time()) < 0]}
        model = la.GAN(max_steps=steps, random_state=seed, **options, **clock).fit(rows)
        (first, start), *_, (last, stop) = times.items()
        return model, (stop - start) / (last - first)

    _, pace = fitted(40, part(data, slice(500)))
    steps = max(round(seconds / pace), 40)
    model, pace = fitted(steps, data)
    return model, pace * steps


def part(data: Any, rows: slice) -> Any:
    return {name: column[rows] for name, column in data.items()} if isinstance(data, dict) else data[rows]


class Fashion:
    """Garments to learn from, and features of others to judge by."""

    def __init__(self, args: argparse.Namespace) -> None:
        data = fashion()
        self.judge: Judge = judge(data)
        learned = slice(min(args.images, 50_000) if args.tune else args.images)
        self.images, self.labels = data["x_train"][learned], data["y_train"][learned].astype(str)
        self.features, _ = self.judge.look(data["x_train"][50_000:] if args.tune else data["x_test"])
        self.data = {**data, "x_train": self.images, "y_train": data["y_train"][learned]}

    @property
    def table(self) -> dict[str, np.ndarray]:
        return {"image": self.images, "label": self.labels}

    def told(self, made: np.ndarray, wanted: np.ndarray | None = None) -> str:
        seen, classes = self.judge.look(made)
        near = likeness(self.features[: len(made)], seen)
        right = "    -" if wanted is None else f"{(classes == wanted).mean():.3f}"
        return (
            f"Frechet {frechet_distance(self.features, seen):7.2f}  label {right}  precision "
            f"{near.precision:.3f}  recall {near.recall:.3f}  coverage {near.coverage:.3f}"
        )

    def frechet(self, made: np.ndarray) -> float:
        return frechet_distance(self.features, self.judge.look(made)[0])


def drawn(model: la.GAN, seed: int) -> np.ndarray:
    return model.generate(given={"label": asked().astype(str)}, random_state=seed)["image"]


def beside(args: argparse.Namespace, say: Say) -> None:
    fashion = Fashion(args)
    for seed in range(args.seeds):
        model, seconds = clocked(fashion.table, args.seconds, seed)
        say(f"GAN    seed {seed}  {seconds:4.0f} s  {fashion.told(drawn(model, seed), asked())}")
        if args.peers:
            made, seconds, *_ = peer("DCGAN", args.peers)(fashion.data, args.seconds, seed)
            say(f"DCGAN  seed {seed}  {seconds:4.0f} s  {fashion.told(made)}")


def styles(args: argparse.Namespace, say: Say) -> None:
    fashion = Fashion(args)
    for seed in range(args.seeds):
        model, seconds = clocked(fashion.table, args.seconds, seed, style=True)
        for psi in (1.0, 0.75, 0.5):
            other = model.with_truncation(psi)
            made = np.concatenate([drawn(other, MANY * seed + k) for k in range(MANY)])
            told = fashion.told(made, np.tile(asked(), MANY))
            say(f"seed {seed}  {seconds:4.0f} s  psi {psi:.2f}  {told}")
        own = fashion.judge.look(drawn(model, seed))[1]
        mixed = model.mix(seed, seed + 1000, given={"label": asked().astype(str)})["image"]
        kept = (fashion.judge.look(mixed)[1] == own).mean()
        say(f"seed {seed}  mixed images keep the class of their large shapes: {kept:.3f}")


def few(args: argparse.Namespace, say: Say) -> None:
    fashion = Fashion(args)
    for seed in range(args.seeds):
        for augment in (False, True):
            table = part(fashion.table, slice(500))
            model, seconds = clocked(table, args.seconds, seed, augment=augment)
            told = fashion.told(drawn(model, seed), asked())
            say(f"augment={augment!s:5s}  seed {seed}  {seconds:4.0f} s  {told}")
            say(f"  changes by chance {float(model.model_.chance):.2f} at the end")


def speed(args: argparse.Namespace, say: Say) -> None:
    fashion = Fashion(args)
    for style in (False, True):
        options = {**OPTIONS, "max_steps": 2, "random_state": 0, "style": style}
        model = la.GAN(**options).fit(part(fashion.table, slice(500)))
        given = {"label": np.tile(asked(), 1)[:64].astype(str)}
        network, times = model.model_, []
        noise, uniforms = (torch.rand(64, size) for size in network.noise_size)
        unknown = model.codec_.layout.nothing(64, "cpu")
        barred = torch.zeros(network.layout.width - network.layout.n_numbers)
        for _ in range(20):
            start = time.process_time()
            with torch.inference_mode():
                network.sample(noise, uniforms, unknown, barred)
            times.append(time.process_time() - start)
        start = time.process_time()
        for k in range(5):
            model.generate(given=given, random_state=k)
        whole = (time.process_time() - start) / 5
        say(
            f"style={style!s:5s}  batch 64: the network {1e3 * np.median(times) / 64:.2f} ms an image, "
            f"generate {1e3 * whole / 64:.2f} ms"
        )


def stability(args: argparse.Namespace, say: Say) -> None:
    fashion = Fashion(args)
    found: dict[float, list[float]] = {}
    for factor in (1.0, 0.3, 3.0):
        for seed in range(10):
            try:
                model, _ = clocked(fashion.table, args.seconds, seed, learning_rate=factor * RATES[3])
                distance = fashion.frechet(drawn(model, seed))
            except la.TrainingError:
                distance = np.inf
            found.setdefault(factor, []).append(distance)
            say(f"rate x {factor:3.1f}  seed {seed}  Frechet {distance:7.2f}")
    limit = 2 * np.median(found[1.0])
    say(f"below twice the median, {limit:.1f}: {(np.concatenate(list(found.values())) < limit).sum()} of 30")


def stacked(args: argparse.Namespace, say: Say) -> None:
    fashion = Fashion(args)
    for seed in range(args.seeds):
        index = np.random.default_rng(seed).integers(len(fashion.images), size=(60_000, 3))
        images = np.moveaxis(fashion.images[index], 1, 3)
        model, seconds = clocked(images, args.seconds, seed)
        counts = np.zeros(1000)
        for made in parts(model, 25_600, seed):
            classes = [fashion.judge.look(made[..., c])[1] for c in range(3)]
            counts += np.bincount(classes[0] * 100 + classes[1] * 10 + classes[2], minlength=1000)
        shares = counts[counts > 0] / counts.sum()
        say(
            f"seed {seed}  {seconds:4.0f} s  {np.count_nonzero(counts)} of 1,000 modes, divergence "
            f"{(shares * np.log(1000 * shares)).sum():.3f} nats"
        )


def parts(model: la.GAN, n: int, seed: int) -> Iterator[np.ndarray]:
    yield from model.generate_batches(n, 2560, random_state=seed)


def gaussians(args: argparse.Namespace, say: Say) -> None:
    grid = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2)
    for seed in range(args.seeds):
        rng = np.random.default_rng(seed)
        rows = grid[rng.integers(25, size=10_000)] + 0.05 * rng.normal(size=(10_000, 2))
        start = time.process_time()
        model = la.GAN(random_state=seed).fit(rows)
        seconds = time.process_time() - start
        made = model.generate(2500, random_state=seed)
        distance = np.linalg.norm(made[:, None] - grid, axis=2)
        counts = np.bincount(distance.argmin(1)[distance.min(1) < 0.15], minlength=25)
        say(
            f"seed {seed}  {seconds:4.0f} s  {(counts >= 20).sum()} of 25, {counts.sum() / 2500:.3f} near one"
        )


ROWS = {
    "likeness": beside,
    "styles": styles,
    "few": few,
    "speed": speed,
    "stability": stability,
    "stacked": stacked,
    "gaussians": gaussians,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--peers", default="", help="a Python of which the peers' environment is made")
    parser.add_argument("--images", type=int, default=60_000, help="learned from, at most")
    parser.add_argument("--tune", action="store_true")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    lines = [f"$ python benchmarks/image_gan.py {shlex.join(sys.argv[1:])}"]

    def say(line: str) -> None:
        print(line, flush=True)
        lines.append(line)

    ROWS[args.row](args, say)
    if args.write:
        with (HERE / "results" / "images_gan.txt").open("a", encoding="utf-8") as file:
            file.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
