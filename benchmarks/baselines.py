"""Detectors that `detection.py` compares with and that no package has in the form needed.

Each has one setting for all tables. Scores are higher for more normal rows.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch
from sklearn.neighbors import NearestNeighbors
from torch import nn


class MeanKNN5:
    """Mean distance to the five nearest training rows."""

    def fit(self, X: Any) -> Self:
        self.neighbours = NearestNeighbors(n_neighbors=5).fit(X)
        return self

    def score_samples(self, X: Any) -> Any:
        return -self.neighbours.kneighbors(X)[0].mean(1)


class DeepSVDD:
    """PyOD's, which has to be told the number of columns before it sees them."""

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def fit(self, X: Any) -> Self:
        from pyod.models.deep_svdd import DeepSVDD

        self.model = DeepSVDD(X.shape[1], random_state=self.random_state, verbose=0).fit(X)
        return self

    def score_samples(self, X: Any) -> Any:
        return -self.model.decision_function(X)


class _Network:
    """A network trained with Adam on shuffled batches, for `epochs` or `max_steps`, whichever ends first."""

    epochs: int
    batch: int
    rate: float
    decay = 0.0
    max_steps = 12_000

    def __init__(self, random_state: int = 0) -> None:
        self.random_state = random_state

    def network(self, n_columns: int) -> nn.Module:
        raise NotImplementedError

    def loss(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        raise NotImplementedError

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def fit(self, X: Any) -> Self:
        # Weights and dropout are drawn from torch's global generator; a benchmark's process is its own.
        torch.manual_seed(self.random_state)  # noqa: TID251
        generator = torch.Generator().manual_seed(self.random_state)
        rows = torch.tensor(X, dtype=torch.float32)
        self.net = self.network(rows.shape[1]).train()
        adam = torch.optim.Adam(self.net.parameters(), lr=self.rate, weight_decay=self.decay)
        steps = 0
        for _ in range(self.epochs):
            for chosen in torch.randperm(len(rows), generator=generator).split(self.batch):
                if steps == self.max_steps:
                    return self
                adam.zero_grad()
                self.loss(rows[chosen], generator).backward()
                adam.step()
                steps += 1
        return self

    @torch.no_grad()
    def score_samples(self, X: Any) -> Any:
        self.net.eval()
        parts = torch.tensor(X, dtype=torch.float32).split(4096)
        return -np.concatenate([self.energy(x).numpy() for x in parts])


class DTEC(_Network):
    """Diffusion time estimation, the classifier: how noisy does a row look?

    The setting of the authors' code: T = 400 with betas from 1e-4 to 0.01, 7 bins, ReLU layers of 256, 512
    and 256, dropout 0.5, 400 epochs of batches of 64, Adam at 1e-4 with weight decay 5e-4. Departures: at
    most 12,000 steps, and one softmax, in the cross-entropy; the authors' network ends in another.

    References
    ----------
    V. Livernoche, V. Jain, Y. Hezaveh, S. Ravanbakhsh, "On Diffusion Modeling for Anomaly Detection",
    ICLR 2024, arXiv:2305.18593.
    """

    epochs, batch, rate, decay = 400, 64, 1e-4, 5e-4
    bins, levels = 7, 400

    def network(self, n_columns: int) -> nn.Module:
        alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.01, self.levels), 0)
        self.sigma = (1 - alpha_bar).sqrt()
        layers: list[nn.Module] = [nn.Linear(n_columns, 256), nn.ReLU()]
        for width, out in ((256, 512), (512, 256)):
            layers += [nn.Linear(width, out), nn.ReLU(), nn.Dropout(0.5)]
        return nn.Sequential(*layers, nn.Linear(256, self.bins))

    def loss(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        t = torch.randint(self.levels, (len(x),), generator=generator)
        # Variance only: the row keeps its size, or its size would tell the time.
        noisy = x + self.sigma[t, None] * torch.randn(x.shape, generator=generator)
        return nn.functional.cross_entropy(self.net(noisy), t * self.bins // self.levels)

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x).softmax(1) @ torch.arange(self.bins, dtype=torch.float32)


class TCCM(_Network):
    """Time-conditioned contraction matching: f(x, t) learns -x (equation 4), |f(x, 1) + x| is the energy (5).

    Sinusoidal time of 128, ReLU layers of 256 and 256, Adam at 0.005 and batches of 512, as in the authors'
    code. That picks 1 to 5,000 epochs by the name of the table; here it is 200 for each.

    References
    ----------
    Z. Li, Q. Huang, Y. Zhu, L. Yang, M. Mohammadi Amiri, N. van Stein, M. van Leeuwen, "Scalable, Explainable
    and Provably Robust Anomaly Detection with One-Step Flow Matching", NeurIPS 2025, arXiv:2510.18328.
    """

    epochs, batch, rate = 200, 512, 0.005

    def network(self, n_columns: int) -> nn.Module:
        self.frequencies = 10_000 ** (-torch.arange(64) / 64)
        sizes = (n_columns + 128, 256, 256)
        hidden = [layer for pair in pairwise(sizes) for layer in (nn.Linear(*pair), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(256, n_columns))

    def contraction(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        angles = t * self.frequencies
        return self.net(torch.cat([x, angles.sin(), angles.cos()], 1))

    def loss(self, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        t = torch.rand((len(x), 1), generator=generator)
        return (self.contraction(x, t) + x).square().mean()

    def energy(self, x: torch.Tensor) -> torch.Tensor:
        return (self.contraction(x, torch.ones(len(x), 1)) + x).norm(dim=1)
