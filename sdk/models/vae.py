"""Variational autoencoder over mixed rows, any part of which may be given.

Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014 (arXiv 1312.6114); the prior is conditioned
on the observed part of the row as in Ivanov, Figurnov and Vetrov, "Variational autoencoder with arbitrary
conditioning", ICLR 2019 (arXiv 1806.02382). With nothing observed the bound is Kingma and Welling's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lookalike.layout import Layout, Rows
from lookalike.models.family import Family
from lookalike.networks import ResidualMLP, initialise

LOG_VARIANCE = (-9.0, 2.0)  # of coordinates of unit spread: e^-4.5 is about the finest rank


def gaussian_kl(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
    """Divergence of two diagonal Gaussians in nats, summed over the latent."""
    ratio = (logvar - prior_logvar).exp() + (mu - prior_mu) ** 2 / prior_logvar.exp()
    return 0.5 * (ratio - 1 + prior_logvar - logvar).sum(1)


class VAE(Family):
    """An encoder, a prior given the observed part, and a decoder.

    Parameters
    ----------
    layout : Layout
    latent_dim, width, depth : int
    n_steps : int
        In which `sample` reveals a row.
    beta : float
        Weight of the divergence.
    generator : torch.Generator
        Draws the first weights.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        latent_dim: int,
        width: int,
        depth: int,
        n_steps: int,
        beta: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.layout, self.latent_dim, self.n_steps, self.beta = layout, latent_dim, n_steps, beta
        d = layout.n_numbers
        seen = layout.width + d
        self.encoder = ResidualMLP(seen, 2 * latent_dim, width, depth)
        self.prior = ResidualMLP(seen, 2 * latent_dim, width, depth)
        self.decoder = ResidualMLP(latent_dim + seen, layout.width + d, width, depth)
        initialise(self, generator, zero=(self.prior.leave, self.encoder.leave))

    def _see(self, rows: Rows) -> Tensor:
        """A row as the networks read it: hidden cells are zeros, flags tell hidden coordinates."""
        return torch.cat([self.layout.expand(rows), rows.present.float()], 1)

    def _gaussian(self, network: ResidualMLP, rows: Rows) -> tuple[Tensor, Tensor]:
        mu, logvar = network(self._see(rows)).chunk(2, 1)
        return mu, 5 * torch.tanh(logvar / 5)

    def decode(self, z: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log-variance of the coordinates, and scores of the categories' levels."""
        d = self.layout.n_numbers
        out = self.decoder(z, seen)
        low, high = LOG_VARIANCE
        logvar = low + (high - low) * torch.sigmoid(out[:, d : 2 * d])
        return out[:, :d], logvar, out[:, 2 * d :]

    def _nll(self, rows: Rows, mean: Tensor, logvar: Tensor, scores: Tensor) -> Tensor:
        """Surprise of each cell in nats, shape (n, n_cells); 0 where there is none."""
        gaussian = 0.5 * ((rows.clean - mean) ** 2 / logvar.exp() + logvar + math.log(2 * math.pi))
        return torch.cat([gaussian * rows.present, self.layout.category_nll(scores, rows.ids)], 1)

    def objectives(
        self, rows: Rows, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        """The negative evidence bound of what is not observed given what is (equation 6 of Ivanov et al.)."""
        layout = self.layout
        observed = layout.random_observed(rows.n, generator, rows.numbers.device)
        given = layout.hide(rows, ~observed)
        mu, logvar = self._gaussian(self.encoder, rows)
        noise = torch.randn(mu.shape, generator=generator, device=mu.device)
        z = mu + noise * (logvar / 2).exp()
        surprise = (self._nll(rows, *self.decode(z, self._see(given))) * ~observed).sum(1)
        divergence = gaussian_kl(mu, logvar, *self._gaussian(self.prior, given))
        yield (surprise + self.beta * divergence).mean() / layout.n_cells, list(self.parameters())

    @property
    def noise_size(self) -> tuple[int, int]:
        d, c = self.layout.n_numbers, self.layout.n_categories
        return self.n_steps * self.latent_dim + d, self.layout.n_columns + c

    def step(
        self, k: Tensor, rows: Rows, normals: Tensor, uniforms: Tensor, given: Rows, barred: Tensor
    ) -> Rows:
        """Reveal a part of the row: an ancestral draw given what the earlier steps revealed."""
        layout = self.layout
        when, what = uniforms[:, : layout.n_columns], uniforms[:, layout.n_columns :]
        noise = normals[:, layout.n_numbers :].unflatten(1, (self.n_steps, self.latent_dim))
        mu, logvar = self._gaussian(self.prior, rows)
        z = mu + noise.index_select(1, k.reshape(1))[:, 0] * (logvar / 2).exp()
        mean, spread, scores = self.decode(z, self._see(rows))
        numbers = mean + (spread / 2).exp() * normals[:, : layout.n_numbers]
        drawn = Rows(numbers, layout.draw(scores + barred, what))
        return layout.reveal(rows, drawn, when <= (k + 1) / self.n_steps)

    def energies(self, rows: Rows) -> tuple[list[Tensor], Rows]:
        """The negative bound at the posterior mean plus the squared distance to the row decoded from there.

        The bound, counted from the least that a coordinate's surprise can be, sees ranks; the distance, half
        the square in standard scores, sees how far out a value is.
        """
        layout = self.layout
        nothing = layout.nothing(1, rows.numbers.device)
        mu, logvar = self._gaussian(self.encoder, rows)
        divergence = gaussian_kl(mu, logvar, *self._gaussian(self.prior, nothing))
        mean, spread, scores = self.decode(mu, self._see(nothing))
        cells = self._nll(rows, mean, spread, scores) + divergence[:, None] / layout.n_cells
        least = (LOG_VARIANCE[0] + math.log(2 * math.pi)) / 2
        distance = (layout.gap(rows, mean) ** 2 / 2 - least) * rows.present
        distance = nn.functional.pad(distance, (0, layout.n_categories))
        return [cells + distance], Rows(mean, layout.mode(scores))
