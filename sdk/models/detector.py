"""A denoiser at one level of noise, for scoring alone.

Denoising score matching (Vincent, "A connection between score matching and denoising autoencoders", Neural
Computation 23(7), 2011) at one noise a feature, with one network call a row: K-DSM (Livernoche, 2026,
arXiv 2605.06955) with EDM's preconditioning. It sees all features, categories too, as points in the space in
which the memory measures distances: the trained and the exact denoiser of the same data, one of which
generalises where the other remembers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lookalike.layout import Layout, Rows
from lookalike.memory import SIGMA, Memory
from lookalike.models.family import Model
from lookalike.networks import ResidualMLP, initialise

PER_KURTOSIS, SIGMAS = 0.33, (0.1, 3.0)  # of K-DSM


class Detector(Model):
    """A network that takes Gaussian noise of one size off rows.

    Parameters
    ----------
    layout : Layout
    width, depth : int
    generator : torch.Generator
        Draws the first weights.
    """

    measured = wary = True
    scale: Tensor
    sigma: Tensor

    def __init__(self, layout: Layout, *, width: int, depth: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("scale", torch.ones(layout.width))
        self.register_buffer("sigma", torch.full((layout.width,), SIGMA))
        self.network = ResidualMLP(layout.width, layout.width, width, depth)
        initialise(self, generator, zero=(self.network.leave,))

    def prepare(self, memory: Memory, n: int, unseen: Rows) -> None:
        """Take over the memory's scale, and give each feature noise that suits its tails (K-DSM)."""
        self.scale.copy_(memory.scale)
        x = memory.rows[memory.doubt == memory.doubt.min()]
        centred = x - x.mean(0)
        kurtosis = (centred**4).mean(0) / (centred**2).mean(0).clamp(min=1e-9) ** 2
        sigma = (SIGMA * (1 + PER_KURTOSIS * (kurtosis - 3))).clamp(*SIGMAS)
        low, high = x.min(0).values, x.max(0).values
        two_valued = ((x == low) | (x == high)).all(0)
        self.sigma.copy_(torch.where(two_valued, SIGMA, sigma))

    def denoise(self, x: Tensor) -> Tensor:
        """Estimate clean features, (n, width); preconditioned as in Table 1 of EDM with sigma_data = 1."""
        shrink = 1 / (self.sigma**2 + 1)
        return shrink * x + self.sigma * shrink**0.5 * self.network(x)

    def objectives(
        self, rows: Rows, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        """Squared error of denoising, in units of the noise, a feature."""
        x = self.layout.measure(rows) * self.scale
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        error = (self.denoise(x + self.sigma * noise) - x) / self.sigma
        yield error.square().mean(), list(self.parameters())

    def energies(self, rows: Rows) -> tuple[list[Tensor], Rows]:
        """How far denoising moves each cell of the row as it is, in units of its noise, squared."""
        layout, d = self.layout, self.layout.n_numbers
        x = layout.measure(rows) * self.scale
        clean = self.denoise(x)
        cells = layout.sum_by_cell(((clean - x) / self.sigma) ** 2)
        cells = torch.cat([cells[:, :d] * rows.present, cells[:, d:]], 1)
        return [cells], layout.unmeasure(clean / self.scale)
