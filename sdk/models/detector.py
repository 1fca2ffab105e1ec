"""A denoiser at one level of noise, for scoring alone.

Denoising score matching (Vincent, "A connection between score matching and denoising autoencoders", Neural
Computation 23(7), 2011) at one fixed noise, with one network call a row: K-DSM's idea (Livernoche, 2026,
arXiv 2605.06955) with EDM's preconditioning. It sees all features, categories too, as points in the space in
which the memory measures distances, at the memory's noise: the trained and the exact denoiser of the same
data, one of which generalises where the other remembers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lookalike.layout import Layout, Rows
from lookalike.memory import SIGMA, scale_of
from lookalike.models.family import Model
from lookalike.networks import ResidualMLP, initialise


class Detector(Model):
    """A network that takes Gaussian noise of one size off rows.

    Parameters
    ----------
    layout : Layout
    width, depth : int
    generator : torch.Generator
        Draws the first weights.
    """

    measured = True
    scale: Tensor

    def __init__(self, layout: Layout, *, width: int, depth: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("scale", torch.ones(layout.width))
        self.network = ResidualMLP(layout.width, layout.width, width, depth)
        initialise(self, generator, zero=(self.network.leave,))

    def prepare(self, rows: Rows) -> None:
        self.scale.copy_(scale_of(self.layout, rows))

    def denoise(self, x: Tensor) -> Tensor:
        """Estimate clean features, (n, width); preconditioned as in Table 1 of EDM with sigma_data = 1."""
        shrink = 1 / (SIGMA**2 + 1)
        return shrink * x + SIGMA * shrink**0.5 * self.network(x)

    def objectives(
        self, rows: Rows, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        """Squared error of denoising, in units of the noise, a feature."""
        x = self.layout.measure(rows) * self.scale
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        error = (self.denoise(x + SIGMA * noise) - x) ** 2 / SIGMA**2
        yield error.mean(), list(self.parameters())

    def energy(self, rows: Rows) -> tuple[Tensor, Rows]:
        """How far denoising moves each cell of the row as it is, squared; and the row denoised."""
        layout, d = self.layout, self.layout.n_numbers
        x = layout.measure(rows) * self.scale
        clean = self.denoise(x)
        cells = layout.sum_by_cell((clean - x) ** 2)
        cells = torch.cat([cells[:, :d] * rows.present, cells[:, d:]], 1)
        return cells, layout.unmeasure(clean / self.scale)
