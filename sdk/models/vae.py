"""Variational autoencoder over mixed rows or images, any part of which may be given.

Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014 (arXiv 1312.6114); the prior is conditioned
on the observed part of the row as in Ivanov, Figurnov and Vetrov, "Variational autoencoder with arbitrary
conditioning", ICLR 2019 (arXiv 1806.02382). With nothing observed the bound is Kingma and Welling's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lookalike.adversaries import ConvCritic
from lookalike.backbones import CRITICS, DECODERS, ENCODERS
from lookalike.layout import Layout, Rows
from lookalike.models.contest import BETAS, bearing, lost, steepness
from lookalike.models.diffusion import Diffusion
from lookalike.models.family import Family
from lookalike.networks import ResidualMLP, Stage, initialise

LOG_VARIANCE = (-9.0, 2.0)  # of coordinates of unit spread: e^-4.5 is about the finest rank
FITTED_DEPTH = 2  # residual blocks
RATES = {1: 2e-3, 3: 4e-3}  # of learning, by rank
LEVELS = 8  # of noise, at which each latent fits the prior in a step: posteriors move, and it has to keep up
STAGES = (
    Stage(0.8, 0.9),
    Stage(0.2, 0.1),
)  # in the second the fitted prior learns alone: latents that move it cannot catch up with
RECONSTRUCTED, COMPLETED = slice(None, None, 2), slice(1, None, 2)  # rows, as a critic sees them

_Critic = ResidualMLP | ConvCritic


def gaussian_kl(mu: Tensor, logvar: Tensor, prior_mu: Tensor, prior_logvar: Tensor) -> Tensor:
    """Divergence of two diagonal Gaussians in nats, summed over the latent."""
    ratio = (logvar - prior_logvar).exp() + (mu - prior_mu) ** 2 / prior_logvar.exp()
    return 0.5 * (ratio - 1 + prior_logvar - logvar).sum(1)


class Latents(Layout):
    """Latents in standard scores of a Gaussian prior, beside its mean and log-variance, which are given.

    The mean is told in spreads: a wide prior lies far out, and a network reads all of it beside the scores.
    """

    def __init__(self, latent_dim: int) -> None:
        super().__init__(3 * latent_dim, [], [0] * latent_dim + [1] * (2 * latent_dim))

    def random_observed(self, n: int, generator: torch.Generator, device: torch.device | str) -> Tensor:
        return (self.column_of_cell == 1).expand(n, -1)

    @staticmethod
    def rows(scores: Tensor, mu: Tensor, logvar: Tensor) -> Rows:
        told = [scores, mu * (-logvar / 2).exp(), logvar]
        return Rows(torch.cat(told, 1), torch.empty_like(mu[:, :0], dtype=torch.long))


class _Posterior(NamedTuple):
    """What of rows is given, and a draw of their latents, each (n, latent_dim)."""

    given: Rows
    mu: Tensor
    logvar: Tensor
    z: Tensor
    prior_mu: Tensor
    prior_logvar: Tensor


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
    sharpness : float
        Weight of what a critic says of reconstructions and of draws; 0 for no critic.
    generator : torch.Generator
        Draws the first weights.

    Attributes
    ----------
    fitted : Diffusion or None
        Makes the Gaussian prior the distribution that latents have, where the layout asks for that.
    critic : Module or None
    """

    reach: Tensor

    def __init__(
        self,
        layout: Layout,
        *,
        latent_dim: int,
        width: int,
        depth: int,
        n_steps: int,
        beta: float,
        sharpness: float = 0.0,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.layout, self.latent_dim, self.n_steps = layout, latent_dim, n_steps
        self.beta, self.sharpness, self.stage = beta, sharpness, 0
        rank, about = len(layout.shape), (layout.shape, layout.width - layout.n_numbers)
        self.encoder = ENCODERS[rank](*about, 2 * latent_dim, width, depth)
        self.prior = ENCODERS[rank](*about, 2 * latent_dim, width, depth)
        self.decoder = DECODERS[rank](*about, latent_dim, width, depth)
        initialise(self, generator, zero=(self.prior.leave, self.encoder.leave))
        self.fitted: Diffusion | None = None
        self.critic: _Critic | None = None
        if layout.prior_steps:
            self.stages = STAGES
            self.fitted = Diffusion(
                Latents(latent_dim),
                width=width,
                depth=FITTED_DEPTH,
                n_steps=layout.prior_steps,
                generator=generator,
            )
        if sharpness:
            self.critic = CRITICS[rank](*about, 0, width, depth)  # to it nothing is hidden
            initialise(self.critic, generator)
            self.betas = BETAS
            pixels = torch.arange(layout.width + layout.n_numbers) < layout.n_numbers
            self.register_buffer("reach", pixels.float(), persistent=False)

    @property
    def learning_rate(self) -> float:
        return RATES[len(self.layout.shape)]

    def _see(self, rows: Rows) -> Tensor:
        """A row as the networks read it: hidden cells are zeros, flags tell hidden coordinates."""
        return torch.cat([self.layout.expand(rows), rows.present.float()], 1)

    def _gaussian(self, network: nn.Module, rows: Rows) -> tuple[Tensor, Tensor]:
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

    def _posterior(self, rows: Rows, generator: torch.Generator) -> _Posterior:
        observed = self.layout.random_observed(rows.n, generator, rows.numbers.device)
        given = self.layout.hide(rows, ~observed)
        mu, logvar = self._gaussian(self.encoder, rows)
        noise = torch.randn(mu.shape, generator=generator, device=mu.device)
        return _Posterior(
            given, mu, logvar, mu + noise * (logvar / 2).exp(), *self._gaussian(self.prior, given)
        )

    def _bound(self, rows: Rows, found: _Posterior) -> tuple[Tensor, Tensor]:
        """The negative evidence bound of what is not observed given what is (equation 6 of Ivanov et al.).

        And the coordinates that it was measured at, (n, n_numbers).
        """
        layout, given = self.layout, found.given
        mean, spread, scores = self.decode(found.z, self._see(given))
        surprise = (self._nll(rows, mean, spread, scores) * ~layout.known(given)).sum(1)
        divergence = gaussian_kl(found.mu, found.logvar, found.prior_mu, found.prior_logvar)
        return (surprise + self.beta * divergence).mean() / layout.n_cells, mean

    def start_stage(self, stage: int) -> None:
        self.stage = stage

    def objectives(
        self, rows: Rows, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        """The bound, beside it the verdict of a critic that learns before, and what fits the prior after.

        In the end the latents stay where they are, and the prior comes to fit them.
        """
        found = self._posterior(rows, generator)
        if not self.stage:
            loss, mean = self._bound(rows, found)
            if self.critic is not None:
                real, made = self._see(rows), self._shown(rows, mean, found, generator)
                yield self._contest(self.critic, real, made.detach()), list(self.critic.parameters())
                loss = loss + self.sharpness * self._verdict(self.critic, real, made)
            yield loss, [p for m in (self.encoder, self.prior, self.decoder) for p in m.parameters()]
        if self.fitted is not None:
            yield from self.fitted.objectives(self._latents(found), generator)

    def fidelity(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """The bound, and in the end how the prior fits: a contest says nothing."""
        found = self._posterior(rows, generator)
        if self.stage and self.fitted is not None:
            return self.fitted.fidelity(self._latents(found), generator)
        return self._bound(rows, found)[0]

    @staticmethod
    def _latents(found: _Posterior) -> Rows:
        """Draws of latents as the fitted prior learns from them."""
        z, mu, logvar = (part.detach().repeat(LEVELS, 1) for part in found[3:])
        return Latents.rows((z - mu) * (-logvar / 2).exp(), mu, logvar)

    def _shown(
        self, rows: Rows, reconstructed: Tensor, found: _Posterior, generator: torch.Generator
    ) -> Tensor:
        """Rows as the critic sees them made: reconstructed, or what is given of them completed by a draw."""
        d, given = self.layout.n_numbers, found.given.take(COMPLETED)
        mu, logvar = found.prior_mu[COMPLETED], found.prior_logvar[COMPLETED]
        with torch.no_grad():
            noise = torch.randn(mu.shape, generator=generator, device=mu.device)
            z = mu + self._fit(noise, mu, logvar) * (logvar / 2).exp()
        mean = reconstructed.clone()
        mean[COMPLETED] = self.decode(z, self._see(given))[0]
        real, unknown = self._see(rows), rows.present & ~found.given.present
        return torch.cat([torch.where(unknown, mean, real[:, :d]), real[:, d:]], 1)

    def _contest(self, critic: _Critic, real: Tensor, made: Tensor) -> Tensor:
        """What the critic loses: R3GAN's loss and penalties, real rows beside those made of them."""
        few = bearing(len(real))
        penalty = steepness(critic, torch.cat([real[few], made[few]]), self.reach)
        on_real, on_made = critic(torch.cat([real, made]))[:, 0].chunk(2)
        return lost(on_real, on_made) + penalty

    def _verdict(self, critic: _Critic, real: Tensor, made: Tensor) -> Tensor:
        """What rows made lose: the contest, and by how much reconstructions' features miss those of the rows.

        The features are the critic's own, as a share of their mean square (Larsen et al., "Autoencoding
        beyond pixels using a learned similarity metric", ICML 2016, arXiv 1512.09300, equation 7); it sees
        reconstructions and draws, as there in algorithm 1.
        """
        with torch.no_grad():
            on_real, wanted = critic.with_features(real)
        on_made, found = critic.with_features(made)
        contest, aim = lost(on_made, on_real), wanted[RECONSTRUCTED]
        return contest + (found[RECONSTRUCTED] - aim).square().mean() / aim.square().mean()

    @property
    def noise_size(self) -> tuple[int, int]:
        layout = self.layout
        return self._own + self.n_steps * self.latent_dim, layout.n_columns + layout.n_categories

    @property
    def _own(self) -> int:
        """Normal numbers of the coordinates themselves: none where draws show what is expected."""
        return self.layout.n_numbers if self.layout.grain else 0

    def step(
        self, k: Tensor, rows: Rows, normals: Tensor, uniforms: Tensor, given: Rows, barred: Tensor
    ) -> Rows:
        """Reveal a part of the row: an ancestral draw given what the earlier steps revealed."""
        layout = self.layout
        when, what = uniforms[:, : layout.n_columns], uniforms[:, layout.n_columns :]
        noise = normals[:, self._own :].unflatten(1, (self.n_steps, self.latent_dim))
        mu, logvar = self._gaussian(self.prior, rows)
        at = self._fit(noise.index_select(1, k.reshape(1))[:, 0], mu, logvar)
        z = mu + at * (logvar / 2).exp()
        numbers, spread, scores = self.decode(z, self._see(rows))
        if self._own:
            numbers = numbers + (spread / 2).exp() * normals[:, : self._own]
        drawn = Rows(numbers, layout.draw(scores + barred, what))
        return layout.reveal(rows, drawn, when <= (k + 1) / self.n_steps)

    def _fit(self, noise: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        """Scores of a latent on its Gaussian prior, (n, latent_dim), as a function of the noise."""
        if self.fitted is None:
            return noise
        told = Latents.rows(torch.full_like(mu, torch.nan), mu, logvar)
        normals = nn.functional.pad(noise, (0, 2 * self.latent_dim))
        none = noise[:, :0]
        return self.fitted.sample(normals, none, told, noise.new_zeros(0)).numbers[:, : self.latent_dim]

    def noise_of(self, rows: Rows) -> Tensor:
        """The normals, (n, noise_size[0]), from which `sample` draws these rows again, as far as it can.

        That is, given the rows' categories, and with uniforms of 1/2: all else is then revealed at once.
        The latent is where the encoder puts the row; what the decoder misses is noise of the coordinates, and
        lost where they have none.
        """
        given = Rows(torch.full_like(rows.numbers, torch.nan), rows.ids)
        z, _ = self._gaussian(self.encoder, rows)
        mu, logvar = self._gaussian(self.prior, given)
        noise = self._unfit((z - mu) * (-logvar / 2).exp(), mu, logvar)
        mean, spread, _ = self.decode(z, self._see(given))
        own = (rows.clean - mean) * (-spread / 2).exp()
        return torch.cat([own[:, : self._own], noise.repeat(1, self.n_steps)], 1)

    def _unfit(self, scores: Tensor, mu: Tensor, logvar: Tensor) -> Tensor:
        """The noise of which `_fit` makes these scores."""
        if self.fitted is None:
            return scores
        given = Latents.rows(torch.full_like(mu, torch.nan), mu, logvar)
        return self.fitted.noise_of(Latents.rows(scores, mu, logvar), given)[:, : self.latent_dim]

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
