"""Diffusion over mixed rows.

Coordinates diffuse as in EDM (Karras, Aittala, Aila and Laine, "Elucidating the design space of
diffusion-based generative models", NeurIPS 2022, arXiv 2206.00364); categories are absorbed into
a mask (Austin et al., D3PM, NeurIPS 2021; Sahoo et al., MDLM, NeurIPS 2024) in the same process:
one time t sets the noise of the coordinates, sigma(t), and the share of categories hidden, t.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial, reduce
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lookalike.backbones import DENOISERS
from lookalike.convolutional import UNet
from lookalike.layout import Layout, Noise, Rows
from lookalike.models.family import FAR, Denoising
from lookalike.networks import Fourier, Pace, ResidualMLP, initialise, linear

RHO = 7.0  # how steps crowd towards little noise
SCORE_LEVELS = (0.5, 1.0)  # one noise level sees local structure, the other the whole
ROUNDS = 12  # in which a step is undone
POOR_WIDTH, POOR_DEPTH, POOR_ROWS = 2, 1, 4  # half as wide, of one block, and from a quarter of the rows

_Denoiser = ResidualMLP | UNet


class Noised(NamedTuple):
    """Rows hidden in noise, and what is to be found out."""

    numbers: Tensor  # (n, n_numbers)
    ids: Tensor  # (n, n_categories)
    sigma: Tensor  # (n, 1)
    given: Tensor  # (n, n_numbers), float: 1 where there is no noise
    clean: Tensor  # (n, n_numbers)
    asked: Tensor  # (n, n_numbers), bool
    hidden: Tensor  # (n, n_categories), -1 where nothing is asked


def undone(step: Callable[[Tensor], Tensor], after: Tensor) -> Tensor:
    """Find where a step began, (n, d), each row on its own.

    By fixed-point iteration, with Anderson's acceleration of depth one ("Iterative procedures for nonlinear
    integral equations", Journal of the ACM 12, 1965), which saves half of the rounds.
    """
    gap = after - step(after)
    start = found = after + gap
    for _ in range(ROUNDS - 1):
        last, last_gap = found, gap
        gap = after - step(start)
        found, turn = start + gap, gap - last_gap
        share = (gap * turn).sum(1, keepdim=True) / turn.square().sum(1, keepdim=True).clamp(min=1e-20)
        start = found - share * (found - last)
    return start


class Diffusion(Denoising):
    """A denoiser of coordinates that also names hidden categories.

    Parameters
    ----------
    layout : Layout
    width, depth : int
    n_steps : int
        Of the sampler.
    guidance, autoguidance : float, optional
        By how much categories, and being better than a poor network, move what is drawn; 1 is not at all.
    alone : bool
        Whether there is no poor network, even where the layout asks for one.
    generator : torch.Generator
        Draws the first weights.

    Attributes
    ----------
    poor : Module or None
        Learns the same, smaller and from fewer rows: draws are led away from its mistakes.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        width: int,
        depth: int,
        n_steps: int,
        guidance: float | None = None,
        autoguidance: float | None = None,
        alone: bool = False,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.layout, self.n_steps = layout, n_steps
        self.guidance = layout.guidance if guidance is None else guidance
        self.autoguidance = layout.autoguidance if autoguidance is None else autoguidance
        steps = [self.stride(*ends, layout.noise) for ends in pairwise(self.sigmas(n_steps, layout.noise))]
        self.register_buffer("schedule", torch.tensor(steps), persistent=False)
        self.embed = nn.Sequential(Fourier(32), linear(32, 64), nn.SiLU())
        network, about = DENOISERS[len(layout.shape)], (layout.shape, layout.width - layout.n_numbers)
        self.network = network(*about, width, depth, context=64)
        initialise(self, generator, zero=self.network.modulators())
        self.poor: _Denoiser | None = None
        if layout.autoguidance != 1 and not alone:
            self.poor = network(*about, max(width // POOR_WIDTH, 1), POOR_DEPTH, context=64)
            initialise(self.poor, generator, zero=self.poor.modulators())

    def pace(self, k: int) -> Pace:
        return Pace(self.betas, orthogonal=self.layout.orthogonal)

    def denoise(self, x: Tensor, sigma: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate the clean row by the preconditioned network."""
        return self._estimate(self.network, x, sigma, observed)

    def _estimate(
        self, network: _Denoiser, x: Tensor, sigma: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor]:
        d = self.layout.n_numbers
        noisy, shown = x[:, :d], x[:, d:]
        # Preconditioning, Table 1 of EDM with sigma_data = 1; what is observed has no noise.
        hidden, c_in = 1 - observed, 1 / (sigma**2 + 1).sqrt()
        c_skip, c_out, c_in = 1 + hidden * (c_in**2 - 1), hidden * (sigma * c_in), 1 + hidden * (c_in - 1)
        seen = torch.cat([c_in * noisy, shown], 1)
        out = network(seen, observed, context=self.embed(sigma[:, 0].log() / 4))
        return c_skip * noisy + c_out * out[:, :d], out[:, d:]

    def guided(self, z: Tensor, ids: Tensor, sigma: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """What `denoise` estimates, moved away from what it would without categories, and poorly.

        Classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598) and autoguidance (Karras, Aittala,
        Kynkäänniemi, Lehtinen, Aila and Laine, "Guiding a diffusion model with a bad version of itself",
        NeurIPS 2024, arXiv 2406.02507, equation 3): where either goes wrong, the better estimate still errs
        the same way, but less. 1 is none; without categories, 0 leaves them out. What is completed is not
        guided: how draws differ tells how sure they are. Nor is what only begins in more than the most noise:
        that far out guidance costs variety (Kynkäänniemi et al., NeurIPS 2024, arXiv 2404.07724).
        """
        x = self.layout.join(z, ids)
        expected, scores = self.denoise(x, sigma, observed)
        away: list[Tensor] = []
        if self.guidance != 1 and self.layout.sizes and self.layout.n_numbers:
            hidden = self.layout.join(z, torch.full_like(ids, -1))
            away.append((self.guidance - 1) * (expected - self.denoise(hidden, sigma, observed)[0]))
        if self.autoguidance != 1 and self.poor is not None:
            poorly, _ = self._estimate(self.poor, x, sigma, observed)
            away.append((self.autoguidance - 1) * (expected - poorly))
        if away:
            # Half way to the least that is seen on the way to the most: whoever learns this is in no doubt.
            led = (1 - observed.amax(1, keepdim=True)) * (sigma < (FAR / 2) ** 0.5 * self.layout.noise.most)
            expected = expected + led * reduce(torch.add, away)
        return expected, scores

    def objectives(
        self, rows: Rows, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        """What the network loses, and what the poor one does."""
        yield self._loss(self.network, rows, generator), self.weights()
        if self.poor is not None:
            few = rows.take(slice(max(rows.n // POOR_ROWS, 1)))
            yield self._loss(self.poor, few, generator), list(self.poor.parameters())

    def weights(self) -> list[nn.Parameter]:
        """Those of the network that estimates, without the poor one's."""
        return [*self.embed.parameters(), *self.network.parameters()]

    def fidelity(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """What the network loses: the poor one is to stay poor."""
        return self._loss(self.network, rows, generator)

    def _loss(self, network: _Denoiser, rows: Rows, generator: torch.Generator) -> Tensor:
        noised = self.noised(rows, generator)
        return self.lost(noised, network, noised.clean)

    def noised(self, rows: Rows, generator: torch.Generator) -> Noised:
        """Hide rows in noise of all levels, a part of each observed."""
        layout, n, device = self.layout, rows.n, rows.numbers.device
        d = layout.n_numbers
        known = layout.known(rows)
        # Stratified times: every batch covers the noise levels evenly.
        t = torch.arange(n, device=device) + torch.rand(n, generator=generator, device=device)
        t = (t / n).clamp(1e-4, 1 - 1e-4)[:, None]
        farthest = layout.noise.most * (1 if layout.buried else FAR)
        sigma = layout.noise.at(t).clamp(layout.noise.least, farthest)
        observed = layout.random_observed(n, generator, device) & known
        given = observed[:, :d].float()
        # Where a row has no number any will do, as long as training and sampling agree.
        fill = torch.randn(n, d, generator=generator, device=device)
        clean = torch.where(known[:, :d], rows.numbers, fill)
        noise = torch.randn(n, d, generator=generator, device=device)
        hidden = torch.rand(n, layout.n_categories, generator=generator, device=device) < t
        hidden = hidden & ~observed[:, d:]
        return Noised(
            clean + sigma * (1 - given) * noise,
            rows.ids.masked_fill(hidden, -1),
            sigma,
            given,
            clean,
            known[:, :d] & ~observed[:, :d],
            rows.ids.masked_fill(~hidden, -1),
        )

    def lost(self, noised: Noised, network: _Denoiser, aim: Tensor) -> Tensor:
        """EDM's weighted error of coordinates plus the cross-entropy of hidden categories, each a cell."""
        x, sigma = self.layout.join(noised.numbers, noised.ids), noised.sigma
        expected, scores = self._estimate(network, x, sigma, noised.given)
        error = (sigma**2 + 1) / sigma**2 * (expected - aim) ** 2 * noised.asked
        surprise = self.layout.category_nll(scores, noised.hidden)
        return (error.sum(1) + surprise.sum(1)).mean() / self.layout.n_cells

    @property
    def noise_size(self) -> tuple[int, int]:
        return self.layout.n_numbers, 2 * self.layout.n_categories

    def step(
        self, k: Tensor, rows: Rows, normals: Tensor, uniforms: Tensor, given: Rows, barred: Tensor
    ) -> Rows:
        """Solve the probability-flow ODE while the categories appear.

        In the logarithm of sigma it is linear in the row but for what is expected, and is solved by the
        exponential midpoint rule (Hochbruck and Ostermann, Acta Numerica 2010, section 2.3, with c2 = 1/2; on
        diffusion Zhang et al. 2023, arXiv 2308.02157): few large steps do. A category appears when t falls
        below its first uniform, be it half way, and is drawn with its second.
        """
        observed = given.present.float()
        sigma, *times, half, whole, turn = self.schedule.index_select(0, k.reshape(1)).split(1, 1)
        z, ids = rows.numbers, rows.ids
        expected, scores = self.guided(z, ids, sigma, observed)
        ids = self._appear(ids, scores + barred, uniforms, times[0])
        ahead, scores = self.guided(expected + half * (z - expected), ids, half * sigma, observed)
        ids = self._appear(ids, scores + barred, uniforms, times[1])
        z = expected + whole * (z - expected) + turn * (ahead - expected)
        return Rows(torch.where(given.present, given.clean, z), ids)

    def _appear(self, ids: Tensor, scores: Tensor, uniforms: Tensor, time: Tensor) -> Tensor:
        """Draw what is hidden until now and shown at this time."""
        when, what = uniforms.chunk(2, 1)
        return torch.where((ids < 0) & (when >= time), self.layout.draw(scores, what), ids)

    def noise_of(self, rows: Rows, given: Rows | None = None) -> Tensor:
        """Undo the steps of the sampler, from the last to the first; categories are given if nothing is said.

        The steps themselves, however large: the ODE integrated backwards would lead to the noise of another
        sampler.
        """
        layout = self.layout
        if given is None:
            given = Rows(torch.full_like(rows.numbers, torch.nan), rows.ids)
        uniforms = rows.numbers.new_full((rows.n, self.noise_size[1]), 0.5)
        barred = rows.numbers.new_zeros(layout.width - layout.n_numbers)

        def step(k: Tensor, z: Tensor) -> Tensor:
            return self.step(k, Rows(z, rows.ids), z, uniforms, given, barred).numbers

        z = rows.clean
        for k in torch.arange(self.n_steps, device=z.device).flip(0):
            z = undone(partial(step, k), z)
        if not layout.buried:
            z = undone(lambda noise: noise + self._left(noise, given), z)
        return z / self.schedule[0, 0]

    def energies(self, rows: Rows) -> tuple[list[Tensor], Rows]:
        """Denoising errors at two noise levels, half the categories hidden at each; and the row expected.

        The row is denoised as it is, without noise: for the exact denoiser of the blurred data the error is
        sigma squared times the length of the score (equation 3 of EDM), a function of the row alone. It is
        measured in normal and in standard scores, in units of the noise; a category's is its surprise in nats
        given the rest.
        """
        layout, clean = self.layout, rows.clean
        noisy = torch.zeros_like(clean[:1])  # all coordinates
        turn = torch.arange(layout.n_categories, device=clean.device) % len(SCORE_LEVELS)
        errors, surprise, expected, levels = [], [], [], rows.ids
        for i, level in enumerate(SCORE_LEVELS):
            shown = layout.join(clean, rows.ids.masked_fill(turn == i, -1))
            estimate, scores = self.denoise(shown, clean.new_full((1, 1), level), noisy)
            gap = (estimate - clean) ** 2 + layout.gap(rows, estimate) ** 2
            errors.append(gap / (2 * level**2) * rows.present)
            expected.append(estimate / len(SCORE_LEVELS))
            surprise.append(layout.category_nll(scores, rows.ids.masked_fill(turn != i, -1)))
            levels = torch.where(turn == i, layout.mode(scores), levels)
        surprises, mean = (reduce(torch.add, parts) for parts in (surprise, expected))
        return [torch.cat([error, surprises], 1) for error in errors], Rows(mean, levels)

    @staticmethod
    def sigmas(n_steps: int, noise: Noise = Layout.noise) -> list[float]:
        """Noise levels at which steps begin, and 0.

        Every other of twice as many by equation 5 of EDM, from the most to the least: that is seen half way
        of the last step, so that no call of the network is spent on nearly nothing.
        """
        low, high = noise.least ** (1 / RHO), noise.most ** (1 / RHO)
        return [(high + 2 * i / (2 * n_steps - 1) * (low - high)) ** RHO for i in range(n_steps)] + [0.0]

    @staticmethod
    def stride(now: float, after: float, noise: Noise) -> tuple[float, ...]:
        """What a step goes by.

        Its noise; the times half way and at its end; what is left of the noise there; how far the middle
        turns it.
        """
        if not after:  # the last step is to what is expected half way
            return now, noise.time_of(noise.least), 0.0, noise.least / now, 0.0, 1.0
        half, length = math.sqrt(after / now), math.log(now / after)
        times = noise.time_of(half * now), noise.time_of(after)
        return now, *times, half, half**2, 2 * (1 + math.expm1(-length) / length)
