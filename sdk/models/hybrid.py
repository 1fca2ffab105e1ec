"""A critic on top of a diffusion model: rows in a few large steps.

In a large step a denoiser's mean is no draw, and its categories, drawn each on their own, do not go together.
Here a student draws a whole clean row given a noisy one, starting from what the denoiser expects of it. It
learns by a critic that compares its rows with real ones, given the noisy one (Xiao, Kreis and Vahdat,
"Tackling the generative learning trilemma with denoising diffusion GANs", ICLR 2022, arXiv 2112.07804), with
R3GAN's relativistic loss (Huang et al., NeurIPS 2024, arXiv 2501.05441), and by an energy score, which is
least where its draws have the distribution of the clean rows (Gneiting and Raftery, JASA 102(477), 2007,
section 4.3; De Bortoli et al., "Distributional diffusion models with scoring rules", 2025, arXiv 2502.02483).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lookalike.layout import Layout, Noise, Rows
from lookalike.models.contest import BETAS, TEMPERATURE, bearing, lost, reaches, steepness
from lookalike.models.diffusion import Diffusion
from lookalike.models.family import Denoising
from lookalike.networks import Fourier, ResidualMLP, initialise, linear


class _Task(NamedTuple):
    """Real rows, what they look like where a step begins, and what of that is certain."""

    real: Tensor  # (n, width)
    x: Tensor  # (n, width)
    sigma: Tensor  # (n, 1)
    observed: Tensor  # (n, n_numbers), float
    certain: Tensor  # (n, n_cells), bool
    guess: Tensor  # (n, width), what the denoiser expects


class Hybrid(Denoising):
    """A denoiser, a student that draws clean rows from noisy ones, and the student's critic.

    Parameters
    ----------
    layout : Layout
    latent_dim, width, depth : int
    n_steps : int
        Of the sampler.
    gamma : float
        Weight of the gradient penalties.
    generator : torch.Generator
        Draws the first weights.
    """

    betas = BETAS
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
        self.teacher = Diffusion(layout, width=width, depth=depth, n_steps=n_steps, generator=generator)
        levels = self.levels(n_steps, layout.noise)
        steps = [(*now, *after) for now, after in zip(levels, [*levels[1:], (0.0, 0.0)], strict=True)]
        self.register_buffer("schedule", torch.tensor(steps), persistent=False)
        d, row = layout.n_numbers, layout.width
        self.embed = nn.Sequential(Fourier(32), linear(32, 64), nn.SiLU())
        self.student = ResidualMLP(latent_dim + 2 * row + d, row, width, depth, context=64)
        self.look = nn.Sequential(Fourier(32), linear(32, 64), nn.SiLU())
        self.critic = ResidualMLP(2 * row + layout.n_cells, 1, width, depth, context=64, norm=False)
        self.register_buffer("reach", reaches(layout), persistent=False)
        for module in (self.embed, self.student, self.look, self.critic):
            initialise(module, generator)

    @staticmethod
    def levels(n_steps: int, noise: Noise = Layout.noise) -> list[tuple[float, float]]:
        """Noise of the coordinates and share of categories hidden, at which the steps begin."""
        # Of the logarithm of sigma, as the denoiser's training has it.
        normal = NormalDist(noise.mean, noise.deviation)
        times = [1 - k / n_steps for k in range(1, n_steps)]
        return [(noise.most, 1.0), *((math.exp(normal.inv_cdf(t)), t) for t in times)]

    def denoise(self, x: Tensor, sigma: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate the clean row by the teacher."""
        return self.teacher.denoise(x, sigma, observed)

    def complete(self, x: Tensor, sigma: Tensor, observed: Tensor, z: Tensor) -> Tensor:
        """Draw clean rows, (n, width): coordinates and scores of levels; the parameters are `denoise`'s.

        `z` of shape (n, latent_dim) is what the draw is a function of.
        """
        return self._completed(x, sigma, observed, self._guess(x, sigma, observed), z)

    def _guess(self, x: Tensor, sigma: Tensor, observed: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat(self.teacher.denoise(x, sigma, observed), 1)

    def _completed(self, x: Tensor, sigma: Tensor, observed: Tensor, guess: Tensor, z: Tensor) -> Tensor:
        d = self.layout.n_numbers
        scale = 1 / (sigma**2 + 1).sqrt()
        visible = torch.cat([x[:, :d] * (1 + (1 - observed) * (scale - 1)), x[:, d:]], 1)
        out = self.student(z, visible, guess, observed, context=self.embed(sigma[:, 0].log() / 4))
        return guess + torch.cat([(1 - observed) * sigma * scale * out[:, :d], out[:, d:]], 1)

    def judge(self, task: _Task, rows: Tensor) -> Tensor:
        """Tell how real rows, (n, width), are, given the noisy ones that they were drawn from."""
        d = self.layout.n_numbers
        seen = torch.cat([task.x[:, :d] / (task.sigma**2 + 1).sqrt(), task.x[:, d:]], 1)
        context = self.look(task.sigma[:, 0].log() / 4)
        return self.critic(rows, seen, task.certain.float(), context=context)[:, 0]

    def objectives(
        self, rows: Rows, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        for loss, _ in self.teacher.objectives(rows, generator):
            yield loss, list(self.teacher.parameters())
        task = self._task(rows, generator)
        fake, other = self._draw(task, generator), self._draw(task, generator)

        few = bearing(task.real.shape[0])
        judge = partial(self.judge, _Task(*(tensor[few] for tensor in task)))
        penalty = sum(steepness(judge, rows[few], self.reach) for rows in (task.real, fake))
        contest = lost(self.judge(task, task.real), self.judge(task, fake.detach()))
        yield contest + self.gamma * penalty / 2, [*self.critic.parameters(), *self.look.parameters()]

        with torch.no_grad():
            on_real = self.judge(task, task.real)
        loss = lost(self.judge(task, fake), on_real) + self._energy_score(task, fake, other)
        yield loss, [*self.student.parameters(), *self.embed.parameters()]

    def fidelity(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """What the denoiser and the student's draws lose; the contest says nothing."""
        task = self._task(rows, generator)
        score = self._energy_score(task, self._draw(task, generator), self._draw(task, generator))
        return self.teacher.fidelity(rows, generator) + score

    def _task(self, rows: Rows, generator: torch.Generator) -> _Task:
        """Noise rows to where steps begin, a part of each observed."""
        layout, n, device = self.layout, rows.n, rows.numbers.device
        d = layout.n_numbers
        # Where a row has no number any will do, as long as training and sampling agree.
        fill = torch.randn(n, d, generator=generator, device=device)
        clean = torch.where(rows.present, rows.numbers, fill)
        observed = layout.random_observed(n, generator, device) & layout.known(rows)
        k = torch.randint(self.n_steps, (n,), generator=generator, device=device)
        sigma, time = self.schedule[k, :2].split(1, 1)
        noise = torch.randn(n, d, generator=generator, device=device)
        hidden = torch.rand(n, layout.n_categories, generator=generator, device=device) < time
        ids = rows.ids.masked_fill(hidden & ~observed[:, d:], -1)
        given = observed[:, :d].float()
        x = layout.join(clean + sigma * (1 - given) * noise, ids)
        certain = torch.cat([observed[:, :d], ids >= 0], 1)
        guess = self._guess(x, sigma, given)
        return _Task(layout.join(clean, rows.ids), x, sigma, given, certain, guess)

    def _draw(self, task: _Task, generator: torch.Generator) -> Tensor:
        """Draw clean rows, (n, width), differentiable."""
        layout, (n, width), device = self.layout, task.x.shape, task.x.device
        z = torch.randn(n, self.latent_dim, generator=generator, device=device)
        u = torch.rand(n, width - layout.n_numbers, generator=generator, device=device).clamp(1e-6, 1 - 1e-6)
        row = layout.activate(
            self._completed(task.x, task.sigma, task.observed, task.guess, z), u, TEMPERATURE
        )
        return torch.where(layout.spread(task.certain), task.real, row)

    def _energy_score(self, task: _Task, one: Tensor, other: Tensor) -> Tensor:
        """How far two draws are from the real row, less how far they are from each other."""
        d = self.layout.n_numbers
        # What is left to draw has this spread: on its scale all noise levels are one task.
        spread = task.sigma / (task.sigma**2 + 1).sqrt()

        def distance(a: Tensor, b: Tensor) -> Tensor:
            gap = a - b
            gap = torch.cat([gap[:, :d] / spread, gap[:, d:]], 1)
            return (gap.square().sum(1) + 1e-6).sqrt().mean()

        score = distance(one, task.real) + distance(other, task.real) - distance(one, other)
        return score / 2 / math.sqrt(self.layout.n_cells)

    @property
    def noise_size(self) -> tuple[int, int]:
        layout = self.layout
        per_step = layout.n_numbers + self.latent_dim
        return layout.n_numbers + self.n_steps * per_step, 2 * layout.n_categories

    def step(
        self, k: Tensor, rows: Rows, normals: Tensor, uniforms: Tensor, given: Rows, barred: Tensor
    ) -> Rows:
        """Draw a clean row, and noise it anew to the next level given both.

        A category stays once it is shown, when the share hidden falls below its first uniform; coordinates
        follow the bridge from the noisy row to the clean one (as Ho, Jain and Abbeel, NeurIPS 2020, equation
        7, where noise adds up).
        """
        layout, d = self.layout, self.layout.n_numbers
        when, what = uniforms.chunk(2, 1)
        sigma, _, after, time = self.schedule.index_select(0, k.reshape(1)).split(1, 1)
        own = normals[:, d:].unflatten(1, (self.n_steps, d + self.latent_dim))
        own = own.index_select(1, k.reshape(1))[:, 0]
        out = self.complete(layout.join(rows.numbers, rows.ids), sigma, given.present.float(), own[:, d:])
        ids = torch.where((rows.ids < 0) & (when >= time), layout.draw(out[:, d:] + barred, what), rows.ids)
        keeps = (after / sigma) ** 2
        numbers = out[:, :d] + keeps * (rows.numbers - out[:, :d])
        numbers = numbers + after * (1 - keeps).sqrt() * own[:, :d]
        return Rows(torch.where(given.present, given.clean, numbers), ids)

    def energies(self, rows: Rows) -> tuple[list[Tensor], Rows]:
        """Those of the denoiser."""
        return self.teacher.energies(rows)
