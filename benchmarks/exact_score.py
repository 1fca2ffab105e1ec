"""How near the score that a diffusion model learns is to the exact one, which of Gaussian data is known.

    python benchmarks/exact_score.py                         # both kinds, a few minutes of one core
    python benchmarks/exact_score.py --kinds table --steps 16000 --width 256

The data are 200,000 rows, normal with unit spread: tables of 4 columns, and images of 4 x 4 pixels whose
correlation falls with the distance as exp(-d / 2), that of columns likewise. Noisy rows are normal as well,
and the gradient of the logarithm of their density is -(C + sigma^2)^-1 x. `Diffusion` learns from the rows;
of images `denoise` tells its score, of tables its network, in the coordinates that it sees. The figure is the
root of the mean squared difference from the exact score over that of the exact score, on 20,000 fresh
noisy rows for each sigma: 0 is perfect, 1 as good as none. "moments" is the exact score of a normal
distribution with the mean and covariance of the same rows: what there is to learn from them. One thread.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from numpy.typing import NDArray

import lookalike as la

Floats = NDArray[np.float64]
Told = Callable[[Floats, float], Floats]
"""What is expected under noise, (n, d), of noisy rows of that shape."""

N, FRESH = 200_000, 20_000
SIGMAS = (0.25, 0.5, 1.0, 2.0, 4.0)
SHAPES = {"table": (4,), "images": (4, 4)}


def covariance(shape: tuple[int, ...]) -> Floats:
    at = np.array(list(np.ndindex(*shape)))
    return np.asarray(np.exp(-np.linalg.norm(at[:, None] - at, axis=-1) / 2))


def drawn(n: int, shape: tuple[int, ...], rng: np.random.Generator) -> Floats:
    """Normal rows, flat."""
    c = covariance(shape)
    return np.asarray(rng.normal(size=(n, len(c))) @ np.linalg.cholesky(c).T)


def exact(mean: Floats, c: Floats) -> Told:
    """The denoiser of normal rows."""
    return lambda x, sigma: x - sigma**2 * np.linalg.solve(c + sigma**2 * np.eye(len(c)), (x - mean).T).T


def fitted(model: la.Diffusion, shape: tuple[int, ...]) -> Told:
    """The denoiser that a model has learned."""

    def of_images(x: Floats, sigma: float) -> Floats:
        return np.asarray(model.denoise(x.reshape(-1, *shape), sigma).reshape(x.shape))

    def of_table(x: Floats, sigma: float) -> Floats:
        with torch.inference_mode():
            noisy, level = torch.from_numpy(x).float(), torch.full((1, 1), sigma)
            return np.asarray(model.model_.denoise(noisy, level, torch.zeros(1, x.shape[1]))[0].double())

    return of_images if len(shape) > 1 else of_table


def errors(told: Told, shape: tuple[int, ...], rng: np.random.Generator) -> list[float]:
    """The figure for each sigma."""
    truth, found = exact(np.zeros(int(np.prod(shape))), covariance(shape)), []
    for sigma in SIGMAS:
        x = drawn(FRESH, shape, rng)
        x = x + sigma * rng.normal(size=x.shape)
        want, gap = truth(x, sigma) - x, told(x, sigma) - truth(x, sigma)
        found.append(float(np.sqrt((gap**2).mean() / (want**2).mean())))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kinds", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':25}" + "".join(f"{f'sigma {sigma:g}':>12}" for sigma in SIGMAS) + f"{'CPU s':>8}")
    for kind in arguments.kinds:
        shape = SHAPES[kind]
        for seed in range(arguments.seeds):
            rows = drawn(N, shape, np.random.default_rng(seed))
            started = time.process_time()
            model = la.Diffusion(
                width=arguments.width,
                max_steps=arguments.steps,
                batch_size=arguments.batch_size,
                early_stopping=False,
                random_state=seed,
            ).fit(rows.reshape(-1, *shape) if kind == "images" else rows)
            seconds = time.process_time() - started
            learned = exact(rows.mean(0), np.cov(rows.T))
            for name, told, cost in (("moments", learned, 0.0), ("Diffusion", fitted(model, shape), seconds)):
                figures = errors(told, shape, np.random.default_rng(1000 + seed))
                line = "".join(f"{figure:12.4f}" for figure in figures)
                print(f"{kind:7} seed {seed}  {name:10}{line}{cost:8.0f}", flush=True)


if __name__ == "__main__":
    main()
