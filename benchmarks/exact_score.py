"""How near the score that a diffusion model learns is to the exact one, which of Gaussian data is known.

    python benchmarks/exact_score.py                         # about five minutes of one core
    python benchmarks/exact_score.py --steps 1000 --seeds 1

The data are 200,000 images of 4 x 4 pixels, normal with unit spread and a correlation that falls with the
distance as exp(-d / 2). Noisy images of them are normal as well, and the gradient of the logarithm of their
density is -(C + sigma^2)^-1 x. `Diffusion` learns from the images, and `denoise` tells its score. The figure
is the root of the mean squared difference from the exact one over that of the exact one, on 20,000 fresh
noisy images for each sigma: 0 is perfect, 1 as good as none. "moments" is the exact score of a normal distribution
with the mean and covariance of the same images: what there is to learn from them. One thread.
"""

from __future__ import annotations

import argparse
import os
import time

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch
from numpy.typing import NDArray

import lookalike as la

SIDE, N, FRESH = 4, 200_000, 20_000
SIGMAS = (0.25, 0.5, 1.0, 2.0, 4.0)


def covariance() -> NDArray[np.float64]:
    """Of the pixels, (16, 16)."""
    at = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), -1).reshape(-1, 2)
    return np.exp(-np.linalg.norm(at[:, None] - at, axis=-1) / 2)


def drawn(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Normal images, (n, 4, 4)."""
    x: NDArray[np.float64] = rng.normal(size=(n, SIDE**2)) @ np.linalg.cholesky(covariance()).T
    return x.reshape(n, SIDE, SIDE)


def score(
    x: NDArray[np.float64], sigma: float, mean: NDArray[np.float64], c: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The exact score at noisy images x, flat, of normal data with this mean and covariance."""
    return -np.linalg.solve(c + sigma**2 * np.eye(len(c)), (x - mean).T).T


def errors(model: la.Diffusion | None, images: NDArray[np.float64], rng: np.random.Generator) -> list[float]:
    """The figure for each sigma; without a model, of the moments of the images."""
    found, flat = [], images.reshape(len(images), -1)
    for sigma in SIGMAS:
        x = drawn(FRESH, rng) + sigma * rng.normal(size=(FRESH, SIDE, SIDE))
        exact = score(x.reshape(FRESH, -1), sigma, np.zeros(SIDE**2), covariance())
        if model is None:
            told = score(x.reshape(FRESH, -1), sigma, flat.mean(0), np.cov(flat.T))
        else:
            told = ((model.denoise(x, sigma) - x) / sigma**2).reshape(FRESH, -1)
        found.append(float(np.sqrt(((told - exact) ** 2).mean() / (exact**2).mean())))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--seeds", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':22}" + "".join(f"{f'sigma {sigma:g}':>12}" for sigma in SIGMAS) + f"{'CPU s':>8}")
    for seed in range(arguments.seeds):
        images = drawn(N, np.random.default_rng(seed))
        fresh = np.random.default_rng(1000 + seed)
        for name in ("moments", "Diffusion"):
            started, model = time.process_time(), None
            if name == "Diffusion":
                model = la.Diffusion(width=arguments.width, max_steps=arguments.steps, random_state=seed)
                model.fit(images)
            seconds = time.process_time() - started
            figures = "".join(f"{error:12.4f}" for error in errors(model, images, fresh))
            print(f"seed {seed}  {name:14}{figures}{seconds:8.0f}", flush=True)


if __name__ == "__main__":
    main()
