"""Generative adversarial network over mixed rows, any part of which may be given.

The loss is R3GAN's: a relativistic critic with zero-centred gradient penalties on real and on
generated rows (Huang, Gokaslan, Kuleshov and Tompkin, "The GAN is dead; long live the GAN!", NeurIPS 2024,
arXiv 2501.05441). The generator completes a row of which any part is observed, as in GAIN (Yoon, Jordon and
van der Schaar, ICML 2018); the critic compares a real row with its completion.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lookalike.backbones import CRITICS, GENERATORS
from lookalike.layout import Layout, Rows
from lookalike.models.family import Family
from lookalike.networks import initialise

TEMPERATURE = 0.7  # of the relaxed categories
PENALTY_SHARE = 4  # one row in four bears the gradient penalties: unbiased, and half the cost of a step
GROUPS = 4  # of columns, hidden in turn when scoring
PROBES = 4  # fixed noises from which each is completed


class GAN(Family):
    """A generator that completes rows, and the critic that it is trained against.

    Parameters
    ----------
    layout : Layout
    latent_dim, width, depth : int
    n_steps : int
        In which `sample` reveals a row.
    gamma : float
        Weight of the gradient penalties.
    generator : torch.Generator
        Draws the first weights.
    """

    betas = (0.0, 0.99)  # R3GAN: momentum makes the contest oscillate
    probes: Tensor
    reach: Tensor

    def __init__(
        self,
        layout: Layout,
        *,
        latent_dim: int,
        width: int,
        depth: int,
        n_steps: int,
        gamma: float,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.layout, self.latent_dim, self.n_steps, self.gamma = layout, latent_dim, n_steps, gamma
        rank, beside = len(layout.shape), layout.width - layout.n_numbers
        self.generator = GENERATORS[rank](layout.shape, beside, latent_dim, width, depth)
        self.critic = CRITICS[rank](layout.shape, beside, layout.n_categories, width, depth)
        initialise(self, generator)
        # Penalised is the slope from a row to another, and levels of an image's label are as far apart as images.
        reach = torch.cat([torch.ones(layout.n_numbers), torch.full((beside,), layout.reach)])
        self.register_buffer("reach", reach, persistent=False)
        probes = torch.randn(PROBES // 2, latent_dim, generator=generator)
        self.register_buffer("probes", torch.cat([probes, -probes]))

    def complete(self, z: Tensor, given: Rows) -> Tensor:
        """Coordinates and scores of levels, shape (..., n, width), from noise and the observed part."""
        seen = torch.cat([self.layout.expand(given), given.present.float()], 1)
        return self.generator(z, seen)

    def judge(self, x: Tensor, observed: Tensor) -> Tensor:
        return self.critic(torch.cat([x, observed.float()], 1))[:, 0]

    def _penalty(self, x: Tensor, observed: Tensor) -> Tensor:
        """Mean squared length of the critic's gradient, half of R1 + R2 with real and generated rows in x."""
        x = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(self.judge(x, observed).sum(), x, create_graph=True)
        return (slope * self.reach).square().sum(1).mean()

    def objectives(
        self, rows: Rows, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        layout, n, device = self.layout, rows.n, rows.numbers.device
        d = layout.n_numbers
        observed = layout.random_observed(n, generator, device)
        given = layout.hide(rows, ~observed)
        # Where a row has no number any will do, as long as real and generated rows agree.
        fill = torch.randn(n, d, generator=generator, device=device)
        real = layout.expand(Rows(torch.where(rows.present, rows.numbers, fill), rows.ids))
        z = torch.randn(n, self.latent_dim, generator=generator, device=device)
        chance = torch.rand(n, layout.width - d, generator=generator, device=device).clamp(1e-6, 1 - 1e-6)
        fake = layout.activate(self.complete(z, given), chance, TEMPERATURE)
        fake = torch.where(layout.spread(observed), real, fake)

        few = max(n // PENALTY_SHARE, 1)
        penalty = self._penalty(torch.cat([real[:few], fake[:few]]), observed[:few].repeat(2, 1))
        on_real, on_fake = self.judge(torch.cat([real, fake.detach()]), observed.repeat(2, 1)).chunk(2)
        contest = softplus(on_fake - on_real).mean()
        yield contest + self.gamma * penalty, list(self.critic.parameters())

        with torch.no_grad():
            on_real = self.judge(real, observed)
        loss = softplus(on_real - self.judge(fake, observed)).mean()
        yield loss, list(self.generator.parameters())

    def fidelity(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """Energy distance of generated to held-out rows (Szekely and Rizzo 2013); the loss says nothing."""
        layout, n, device = self.layout, min(rows.n, 2048), rows.numbers.device
        normals, uniforms = self.noise_size
        few = rows.take(slice(n))
        nothing = layout.nothing(n, device)
        drawn = self.sample(
            torch.randn(n, normals, generator=generator, device=device),
            torch.rand(n, uniforms, generator=generator, device=device),
            nothing,
            torch.zeros(layout.width - layout.n_numbers, device=device),
        )
        x, y = layout.expand(few), layout.expand(drawn)
        pairs = n * (n - 1)
        return (
            2 * torch.cdist(x, y).mean() - torch.cdist(x, x).sum() / pairs - torch.cdist(y, y).sum() / pairs
        )

    @property
    def noise_size(self) -> tuple[int, int]:
        return self.n_steps * self.latent_dim, self.layout.n_columns + self.layout.n_categories

    def step(
        self, k: Tensor, rows: Rows, normals: Tensor, uniforms: Tensor, given: Rows, barred: Tensor
    ) -> Rows:
        """Reveal a part of the row: a completion of what the earlier steps revealed."""
        layout, d = self.layout, self.layout.n_numbers
        when, what = uniforms[:, : layout.n_columns], uniforms[:, layout.n_columns :]
        noise = normals.unflatten(1, (self.n_steps, self.latent_dim))
        out = self.complete(noise.index_select(1, k.reshape(1))[:, 0], rows)
        drawn = Rows(out[:, :d], layout.draw(out[:, d:] + barred, what))
        return layout.reveal(rows, drawn, when <= (k + 1) / self.n_steps)

    def energies(self, rows: Rows) -> tuple[list[Tensor], Rows]:
        """How far each part of the row is from its completion given the rest, and the completions.

        The columns are hidden in turn, a group at a time, and completed from a few fixed noises.
        """
        layout, d = self.layout, self.layout.n_numbers
        turn = layout.column_of_cell % GROUPS
        numbers, levels = torch.zeros_like(rows.numbers), rows.ids
        surprise = torch.zeros_like(rows.ids, dtype=rows.numbers.dtype)
        for group in range(GROUPS):
            hidden = (turn == group).expand(rows.n, -1)
            given = layout.hide(rows, hidden)
            outs = self.complete(self.probes[:, None], given).mean(0)
            numbers = torch.where(hidden[:, :d], outs[:, :d], numbers)
            levels = torch.where(hidden[:, d:], layout.mode(outs[:, d:]), levels)
            surprise = torch.where(hidden[:, d:], layout.category_nll(outs[:, d:], rows.ids), surprise)
        gap = (rows.clean - numbers) ** 2 + layout.gap(rows, numbers) ** 2
        return [torch.cat([gap / 2 * rows.present, surprise], 1)], Rows(numbers, levels)
