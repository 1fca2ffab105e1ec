"""Two networks for scoring alone: one takes noise off whole rows, one tells columns from the others.

**Denoising.** Denoising score matching (Vincent, "A connection between score matching and denoising
autoencoders", Neural Computation 23(7), 2011) at one noise a feature, with one network call a row: K-DSM
(Livernoche, 2026, arXiv 2605.06955) with EDM's preconditioning. It sees all features, categories too, as
points in the space in which the memory measures distances: the trained and the exact denoiser of the same
data, one of which generalises where the other remembers.

**Surprise.** How unlikely each column is given others, trained on random subsets of observed columns as in
VAEAC (Ivanov et al., ICLR 2019); added up over columns it is a pseudo-likelihood (Besag, "Statistical
analysis of non-lattice data", The Statistician 24(3), 1975). Masked columns tell anomalies in MCM (Yin et
al., ICLR 2024) and NPT-AD (Thimonier et al., ICML 2024) too, by squared errors; here each has a variance of
its own.
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
BLUR = 0.25  # of the numbers among which columns are told from others
LOG_VARIANCE = -2.7726, 4.0  # of a number given others: from that of the blur on
LEAST_SHOWN = 0.3  # of the columns, in training
TURNS = 5  # parts of the columns, each hidden once
WIDEST = 128  # the network that runs so many times a row


class Detector(Model):
    """A network that takes Gaussian noise of one size off rows, and one that tells columns from others.

    Parameters
    ----------
    layout : Layout
    width, depth : int
        Of the denoiser; the other, which runs five times a row, is not wider than 128.
    generator : torch.Generator
        Draws the first weights, and which columns are hidden together.
    """

    measured = True
    scale: Tensor
    sigma: Tensor
    hidden: Tensor

    def __init__(self, layout: Layout, *, width: int, depth: int, generator: torch.Generator) -> None:
        super().__init__()
        self.layout = layout
        self.register_buffer("scale", torch.ones(layout.width))
        self.register_buffer("sigma", torch.full((layout.width,), SIGMA))
        self.denoiser = ResidualMLP(layout.width, layout.width, width, depth)
        told = layout.width + layout.n_numbers
        self.teller = ResidualMLP(layout.width + layout.n_cells, told, min(width, WIDEST), depth)
        initialise(self, generator, zero=(self.denoiser.leave, self.teller.leave))
        # Which cells each turn hides, (n_turns, n_cells).
        n_turns = min(TURNS, layout.n_columns)
        turn = torch.randperm(layout.n_columns, generator=generator) % n_turns
        self.register_buffer("hidden", turn[layout.column_of_cell] == torch.arange(n_turns)[:, None])

    def prepare(self, memory: Memory) -> None:
        """Take over the memory's scale, and give each feature noise that suits its tails (K-DSM)."""
        self.scale.copy_(memory.scale)
        x = memory.rows
        centred = x - x.mean(0)
        kurtosis = (centred**4).mean(0) / (centred**2).mean(0).clamp(min=1e-9) ** 2
        sigma = (SIGMA * (1 + PER_KURTOSIS * (kurtosis - 3))).clamp(*SIGMAS)
        low, high = x.min(0).values, x.max(0).values
        two_valued = ((x == low) | (x == high)).all(0)
        self.sigma.copy_(torch.where(two_valued, SIGMA, sigma))

    def denoise(self, x: Tensor) -> Tensor:
        """Estimate clean features, (n, width); preconditioned as in Table 1 of EDM with sigma_data = 1."""
        shrink = 1 / (self.sigma**2 + 1)
        return shrink * x + self.sigma * shrink**0.5 * self.denoiser(x)

    def tell(self, x: Tensor, shown: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log-variance of each number, (n, n_numbers), and scores of levels, given what is shown.

        Parameters
        ----------
        x : Tensor of shape (..., width)
            Features.
        shown : Tensor of shape (..., n_cells), float32
            1 for what may be seen, else 0. The results are as many as there are rows of both together.
        """
        seen = x * shown.index_select(-1, self.layout.cell_of_feature)
        out = self.teller(seen, shown).flatten(0, -2)
        d = self.layout.n_numbers
        low, high = LOG_VARIANCE
        return out[:, :d], low + (high - low) * torch.sigmoid(out[:, d : 2 * d]), out[:, 2 * d :]

    def surprise(self, rows: Rows, numbers: Tensor, told: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Of each cell in nats, (n, n_cells), from the least there can be; 0 where there is none."""
        mean, logvar, scores = told
        gaussian = 0.5 * ((numbers - mean) ** 2 * torch.exp(-logvar) + logvar - LOG_VARIANCE[0])
        return torch.cat([gaussian * rows.present, self.layout.category_nll(scores, rows.ids)], 1)

    def objectives(
        self, rows: Rows, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        """Squared error of denoising, in units of the noise, a feature; and surprise a hidden cell."""
        layout, d = self.layout, self.layout.n_numbers
        features = layout.measure(rows)
        x = features * self.scale
        noise = torch.randn(x.shape, generator=generator, device=x.device)
        error = (self.denoise(x + self.sigma * noise) - x) / self.sigma
        yield error.square().mean(), list(self.denoiser.parameters())
        half = rows.take(slice((rows.n + 1) // 2))  # is enough for it
        features = features[: half.n]
        blur = BLUR * torch.randn(half.numbers.shape, generator=generator, device=x.device)
        numbers = features[:, :d] + blur * half.present
        shown = layout.random_observed(half.n, generator, x.device, LEAST_SHOWN)
        told = self.tell(torch.cat([numbers, features[:, d:]], 1), shown.float())
        surprise = self.surprise(half, numbers, told) * ~shown
        yield surprise.sum() / (~shown).sum().clamp(min=1), list(self.teller.parameters())

    def energies(self, rows: Rows) -> tuple[list[Tensor], Rows]:
        """How far denoising moves each cell of the row, in units of its noise, squared; and its surprise.

        Columns are hidden in turn, a fifth at a time, and told from the others, as is what is expected.
        """
        layout, d, n_turns = self.layout, self.layout.n_numbers, len(self.hidden)
        features = layout.measure(rows)
        x = features * self.scale
        moved = layout.sum_by_cell(((self.denoise(x) - x) / self.sigma) ** 2)
        moved = torch.cat([moved[:, :d] * rows.present, moved[:, d:]], 1)
        mean, _, scores = told = self.tell(features[:, None], 1 - self.hidden.float())
        turn = torch.arange(rows.n, device=x.device)[:, None].expand(-1, n_turns).flatten()
        surprise = self.surprise(rows.take(turn), features[:, :d][turn], told)
        surprise, expected = (
            # Each cell is hidden once: sums of one number and zeros are exact.
            (cells.unflatten(0, (-1, n_turns)) * self.hidden).sum(1)
            for cells in (surprise, torch.cat([mean, layout.mode(scores).float()], 1))
        )
        return [moved, surprise], Rows(layout.scores(expected[:, :d]), expected[:, d:].long())
