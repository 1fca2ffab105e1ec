"""Generative adversarial network over mixed rows, any part of which may be given.

The loss is R3GAN's: a relativistic critic with zero-centred gradient penalties on real and on
generated rows (Huang, Gokaslan, Kuleshov and Tompkin, "The GAN is dead; long live the GAN!", NeurIPS 2024,
arXiv 2501.05441). The generator completes a row of which any part is observed, as in GAIN (Yoon, Jordon and
van der Schaar, ICML 2018); the critic compares a real row with its completion. Of few images it sees changed
ones, the more often the better it tells images that it learned from images that it did not (Karras et al.,
NeurIPS 2020, arXiv 2006.06676).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from lookalike.adversaries import StyleGenerator
from lookalike.backbones import CRITICS, DISTURBANCES, GENERATORS, STYLED
from lookalike.layout import Layout, Rows
from lookalike.memory import Memory
from lookalike.models.contest import BETAS, TEMPERATURE, bearing, lost, reaches, steepness
from lookalike.models.family import Family
from lookalike.networks import initialise

PROBES = 4  # fixed noises from which hidden columns are completed when scoring
RATES = {1: 4e-3, 3: 3e-3}  # of learning, by rank
FEW = 2000  # images, below which the critic would learn them by heart
BY_HEART = 0.5  # share of what tells made rows from learned ones that also tells unseen ones from these
UNSEEN = 128  # rows at most, by which that is told
CHANCE_STEP, MOST_CHANCE = 1 / 256, 0.8  # of each change: above, changes would be learned as what images are


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
    style : bool
        Whether a style draws an image.
    truncation : float
        Share of its way from the mean that a style goes.
    augment : bool or None
        Whether the critic sees changed images; None: where there are few.
    generator : torch.Generator
        Draws the first weights.
    """

    betas = BETAS
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
        style: bool = False,
        truncation: float = 1.0,
        augment: bool | None = None,
    ) -> None:
        super().__init__()
        self.layout, self.latent_dim, self.n_steps, self.gamma = layout, latent_dim, n_steps, gamma
        rank, beside = len(layout.shape), layout.width - layout.n_numbers
        self.truncation, kinds = truncation, STYLED if style else GENERATORS
        self.generator = kinds[rank](layout.shape, beside, latent_dim, width, depth)
        self.critic = CRITICS[rank](layout.shape, beside, layout.n_categories, width, depth)
        initialise(self, generator)
        self.register_buffer("reach", reaches(layout), persistent=False)
        probes = torch.randn(PROBES // 2, latent_dim, generator=generator)
        self.register_buffer("probes", torch.cat([probes, -probes]))
        self.augment, self.unseen = augment, layout.nothing(0, "cpu")
        self.disturb = DISTURBANCES.get(rank)
        # Of each change. No gradient moves it, but it is part of a checkpoint, as parameters are.
        self.chance = nn.Parameter(torch.zeros(()), requires_grad=False) if self.disturb else None

    @property
    def learning_rate(self) -> float:
        return RATES[len(self.layout.shape)]

    def prepare(self, memory: Memory, n: int, unseen: Rows) -> None:
        """Change images where there are few."""
        if self.augment is None:
            self.augment = self.disturb is not None and n < FEW
        self.unseen = unseen.take(slice(UNSEEN))

    def complete(self, z: Tensor, given: Rows) -> Tensor:
        """Coordinates and scores of levels, shape (..., n, width), from noise and the observed part."""
        return self.generator(z, self._see(given))

    def _see(self, given: Rows) -> Tensor:
        return torch.cat([self.layout.expand(given), given.present.float()], 1)

    def judge(self, x: Tensor, observed: Tensor) -> Tensor:
        return self.critic(torch.cat([x, observed.float()], 1))[:, 0]

    def objectives(
        self, rows: Rows, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        layout, n, device = self.layout, rows.n, rows.numbers.device
        d = layout.n_numbers
        observed = layout.random_observed(n, generator, device)
        given = layout.hide(rows, ~observed)
        real = self._real(rows, generator)
        z = torch.randn(n, self.latent_dim, generator=generator, device=device)
        chance = torch.rand(n, layout.width - d, generator=generator, device=device).clamp(1e-6, 1 - 1e-6)
        fake = layout.activate(self.complete(z, given), chance, TEMPERATURE)
        fake = torch.where(layout.spread(observed), real, fake)

        if self.augment:
            (real, fake), observed = self._changed([real, fake], observed, generator)

        few = bearing(n)
        judge = partial(self.judge, observed=observed[few].repeat(2, 1))
        penalty = steepness(judge, torch.cat([real[few], fake[few]]), self.reach)
        on_real, on_fake = self.judge(torch.cat([real, fake.detach()]), observed.repeat(2, 1)).chunk(2)
        yield lost(on_real, on_fake) + self.gamma * penalty, list(self.critic.parameters())

        with torch.no_grad():
            on_real = self.judge(real, observed)
        on_fake = self.judge(fake, observed)
        yield lost(on_fake, on_real), list(self.generator.parameters())

        if self.augment:
            yield self._adapt(on_real.mean(), on_fake.mean(), generator), []

    def _real(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """Rows as the critic sees them; where one has no number any will do, as long as made ones agree."""
        fill = torch.randn(rows.numbers.shape, generator=generator, device=rows.numbers.device)
        return self.layout.expand(Rows(torch.where(rows.present, rows.numbers, fill), rows.ids))

    def _changed(
        self, rows: list[Tensor], observed: Tensor, generator: torch.Generator
    ) -> tuple[list[Tensor], Tensor]:
        """Rows as the critic sees them, and what of them is observed: real ones and completions alike."""
        d = self.layout.n_numbers
        assert self.disturb is not None
        pixels, flags = self.disturb(
            self.layout.shape, torch.stack([x[:, :d] for x in rows]), observed[:, :d], self.chance, generator
        )
        changed = [torch.cat([p, x[:, d:]], 1) for p, x in zip(pixels, rows, strict=True)]
        return changed, torch.cat([flags, observed[:, d:]], 1)

    @torch.no_grad()
    def _adapt(self, on_real: Tensor, on_fake: Tensor, generator: torch.Generator) -> Tensor:
        """Change more where the critic knows rows by heart, which it thinks more of than of unseen ones.

        How much more, as a share of what it thinks more of them than of made ones: the first of the two signs
        of Karras et al. (equation 1). The other, how many rows it tells rightly, is no sign here: a critic of
        pairs tells nearly all from the start. Where no row can be held back, unseen ones count as made ones.
        """
        assert self.chance is not None
        on_unseen = on_fake
        if self.unseen.n:
            observed = self.layout.random_observed(self.unseen.n, generator, on_real.device)
            (rows,), observed = self._changed([self._real(self.unseen, generator)], observed, generator)
            on_unseen = self.judge(rows, observed).mean()
        by_heart = on_real - on_unseen - BY_HEART * (on_real - on_fake)
        self.chance.add_(CHANCE_STEP * by_heart.sign()).clamp_(0, MOST_CHANCE)
        return self.chance.clone()

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
        z = self._noise(normals, k)
        if self.truncation == 1:
            out = self.complete(z, rows)
        else:
            out = self._styled(*self._styles(z, rows), rows)
        return self._reveal(k, rows, out, uniforms, barred)

    def _styles(self, z: Tensor, given: Rows) -> tuple[Tensor, Tensor]:
        return cast(StyleGenerator, self.generator).styles(z, self._see(given), self.truncation)

    def _styled(self, large: Tensor, small: Tensor, given: Rows) -> Tensor:
        return cast(StyleGenerator, self.generator).draw(large, small, self._see(given))

    def _noise(self, normals: Tensor, k: Tensor) -> Tensor:
        noise = normals.unflatten(1, (self.n_steps, self.latent_dim))
        return noise.index_select(1, k.reshape(1))[:, 0]

    def _reveal(self, k: Tensor, rows: Rows, out: Tensor, uniforms: Tensor, barred: Tensor) -> Rows:
        layout, d = self.layout, self.layout.n_numbers
        when, what = uniforms[:, : layout.n_columns], uniforms[:, layout.n_columns :]
        drawn = Rows(out[:, :d], layout.draw(out[:, d:] + barred, what))
        return layout.reveal(rows, drawn, when <= (k + 1) / self.n_steps)

    def mix(self, normals: Tensor, uniforms: Tensor, given: Rows, barred: Tensor, fine: Tensor) -> Rows:
        """Do as `sample`, with small shapes in the style of other noise, `fine`."""
        rows = given
        for k in torch.arange(self.n_steps, device=normals.device):
            large, _ = self._styles(self._noise(normals, k), rows)
            _, small = self._styles(self._noise(fine, k), rows)
            rows = self._reveal(k, rows, self._styled(large, small, rows), uniforms, barred)
        return rows

    def energies(self, rows: Rows) -> tuple[list[Tensor], Rows]:
        """How far each part of the row is from its completion given the rest, and the completions.

        The columns are hidden in turn, a group at a time, and completed from a few fixed noises.
        """
        layout, d = self.layout, self.layout.n_numbers
        turn = layout.turns()
        numbers, levels = torch.zeros_like(rows.numbers), rows.ids
        surprise = torch.zeros_like(rows.ids, dtype=rows.numbers.dtype)
        for group in range(layout.n_turns):
            hidden = (turn == group).expand(rows.n, -1)
            given = layout.hide(rows, hidden)
            outs = self.complete(self.probes[:, None], given).mean(0)
            numbers = torch.where(hidden[:, :d], outs[:, :d], numbers)
            levels = torch.where(hidden[:, d:], layout.mode(outs[:, d:]), levels)
            surprise = torch.where(hidden[:, d:], layout.category_nll(outs[:, d:], rows.ids), surprise)
        gap = (rows.clean - numbers) ** 2 + layout.gap(rows, numbers) ** 2
        return [torch.cat([gap / 2 * rows.present, surprise], 1)], Rows(numbers, levels)
