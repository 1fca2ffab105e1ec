"""A student that draws in a few steps what a diffusion model draws in many.

Its network begins as its teacher's. It first learns in one call what the teacher is guided to estimate in
three (Meng et al., "On distillation of guided diffusion models", CVPR 2023, arXiv 2210.03142, section 3.1),
and then, through all of its steps, to draw the rows that the teacher draws from the same noise (Luhman and
Luhman, "Knowledge distillation in iterative generative models for improved sampling speed", 2021, arXiv
2101.02388).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lookalike.layout import Layout, Rows
from lookalike.models.diffusion import Diffusion
from lookalike.models.family import Denoising
from lookalike.networks import Pace

STAGES = 0.65, 0.1, 0.25  # of the teacher, of its estimates, and of what it draws
TIMES = 1.0, 1 / 8, 1 / 16  # how much of the learning rate each takes
TEACHER_STEPS = 6  # more draw little better
DRAWN = 6  # one row of so many of a batch does the teacher complete anew; the others were drawn before
KEPT = 2048  # rows drawn
ESTIMATED = 4  # one row of so many also goes on learning estimates, while it learns to draw
INNER = 3
BARRED = -1e9


class _Drawn(nn.Module):
    """Rows that the teacher completed, with what they were drawn from; the oldest give way to new ones."""

    normals: Tensor
    uniforms: Tensor
    given: Tensor
    given_ids: Tensor
    numbers: Tensor
    ids: Tensor
    count: Tensor

    def __init__(self, d: int, n_categories: int, device: torch.device) -> None:
        super().__init__()
        sizes = {"normals": d, "uniforms": 2 * n_categories, "given": d, "numbers": d}
        for name, size in sizes.items():
            self.register_buffer(name, torch.empty(KEPT, size, device=device), persistent=False)
        for name in ("given_ids", "ids"):
            empty = torch.empty(KEPT, n_categories, dtype=torch.long, device=device)
            self.register_buffer(name, empty, persistent=False)
        self.register_buffer("count", torch.zeros((), dtype=torch.long, device=device), persistent=False)

    def put(self, normals: Tensor, uniforms: Tensor, given: Rows, drawn: Rows) -> None:
        n = len(normals)
        at = (self.count + torch.arange(n, device=normals.device)) % KEPT
        held = self.normals, self.uniforms, self.given, self.given_ids, self.numbers, self.ids
        for kept, new in zip(held, (normals, uniforms, *given[:2], *drawn[:2]), strict=True):
            kept[at] = new
        self.count += n

    def take(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Rows, Rows]:
        filled = int(self.count.clamp(max=KEPT))
        at = torch.randint(filled, (n,), generator=generator, device=self.count.device)
        given, drawn = Rows(self.given[at], self.given_ids[at]), Rows(self.numbers[at], self.ids[at])
        return self.normals[at], self.uniforms[at], given, drawn


class Distilled(Denoising):
    """A diffusion model, and a student that draws what it draws.

    Parameters
    ----------
    layout : Layout
    width, depth : int
        `depth` counts residual blocks at the outer level of a U-Net; at the inner one are `INNER` times as
        many.
    n_steps : int
        Of the student.
    generator : torch.Generator
        Draws the first weights.
    """

    stages = STAGES

    def __init__(
        self, layout: Layout, *, width: int, depth: int, n_steps: int, generator: torch.Generator
    ) -> None:
        super().__init__()
        about: dict[str, Any] = {"width": width, "depth": INNER * depth, "generator": generator}
        self.layout, self.stage = layout, len(STAGES)
        self.teacher = Diffusion(layout, n_steps=TEACHER_STEPS, **about)
        alone: dict[str, Any] = {"guidance": 1.0, "autoguidance": 1.0, "alone": True}
        self.student = Diffusion(layout, n_steps=n_steps, **alone, **about)
        self.drawn: _Drawn | None = None

    @property
    def _drawing(self) -> Diffusion:
        """Until there is a student, the teacher draws."""
        return self.student if self.stage else self.teacher

    @property
    def n_steps(self) -> int:  # type: ignore[override]
        return self._drawing.n_steps

    @property
    def schedule(self) -> Tensor:  # type: ignore[override]
        return self._drawing.schedule

    def denoise(self, x: Tensor, sigma: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate the clean row by the teacher."""
        return self.teacher.denoise(x, sigma, observed)

    def pace(self, k: int) -> Pace:
        return super().pace(k)._replace(times=TIMES[self.stage])

    def start_stage(self, stage: int) -> None:
        self.stage, self.drawn = stage, None
        if stage == 1:
            with torch.no_grad():
                for own, other in zip(self._learning(), self._taught(), strict=True):
                    own.copy_(other)
        if stage == 2:
            device = self.teacher.schedule.device
            self.drawn = _Drawn(self.layout.n_numbers, self.layout.n_categories, device)

    def _learning(self) -> list[nn.Parameter]:
        return [*self.student.embed.parameters(), *self.student.network.parameters()]

    def _taught(self) -> list[nn.Parameter]:
        return [*self.teacher.embed.parameters(), *self.teacher.network.parameters()]

    def objectives(
        self, rows: Rows, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        if self.stage == 0:
            yield from self.teacher.objectives(rows, generator)
        elif self.drawn is None:
            yield self._missed(rows, generator), self._learning()
        else:
            self.drawn.put(*self._completed(rows.take(slice(max(rows.n // DRAWN, 1))), generator))
            loss = self._apart(*self.drawn.take(rows.n, generator))
            few = rows.take(slice(max(rows.n // ESTIMATED, 1)))
            yield loss + self._missed(few, generator) / ESTIMATED, self._learning()

    def fidelity(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """How far the student is from its teacher, and before that what the teacher loses."""
        if self.stage == 0:
            return self.teacher.fidelity(rows, generator)
        if self.drawn is None:
            return self._missed(rows, generator)
        return self._apart(*self._completed(rows, generator))

    def _missed(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """How far the student's estimates are from those that the teacher is guided to."""
        task = self.teacher.noised(rows, generator)
        with torch.no_grad():
            aim, _ = self.teacher.guided(task.numbers, task.ids, task.sigma, task.given)
        return self.student.lost(task, self.student.network, aim)

    @torch.no_grad()
    def _completed(self, rows: Rows, generator: torch.Generator) -> tuple[Tensor, Tensor, Rows, Rows]:
        """Noise, what of these rows is given, and what the teacher draws."""
        layout, device = self.layout, rows.numbers.device
        given = layout.hide(rows, ~layout.random_observed(rows.n, generator, device))
        normals, uniforms = (
            torch.randn(rows.n, layout.n_numbers, generator=generator, device=device),
            torch.rand(rows.n, 2 * layout.n_categories, generator=generator, device=device),
        )
        nothing = normals.new_zeros(layout.width - layout.n_numbers)
        return normals, uniforms, given, self.teacher.sample(normals, uniforms, given, nothing)

    def _apart(self, normals: Tensor, uniforms: Tensor, given: Rows, wanted: Rows) -> Tensor:
        """How far what the student draws is from these rows: by the spread of their coordinates."""
        # Categories come when they come to the student, but are to be the same.
        barred = BARRED * (1 - self.layout.join(wanted.numbers, wanted.ids)[:, self.layout.n_numbers :])
        drawn = self.student.sample(normals, uniforms, given, barred)
        return ((drawn.numbers - wanted.numbers).square().mean(1) + 1e-6).sqrt().mean()

    @property
    def noise_size(self) -> tuple[int, int]:
        return self.student.noise_size

    def begin(self, normals: Tensor, given: Rows) -> Rows:
        return self._drawing.begin(normals, given)

    def step(
        self, k: Tensor, rows: Rows, normals: Tensor, uniforms: Tensor, given: Rows, barred: Tensor
    ) -> Rows:
        """Take one of the student's few steps."""
        return self._drawing.step(k, rows, normals, uniforms, given, barred)

    def noise_of(self, rows: Rows) -> Tensor:
        """Undo the student's steps."""
        return self._drawing.noise_of(rows)

    def energies(self, rows: Rows) -> tuple[list[Tensor], Rows]:
        """Those of the teacher."""
        return self.teacher.energies(rows)
