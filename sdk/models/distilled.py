"""A student that draws in a few steps what a diffusion model draws in many.

Its network begins as its teacher's. It first learns in one call what the teacher is guided to estimate in
three (Meng et al., "On distillation of guided diffusion models", CVPR 2023, arXiv 2210.03142, section 3.1);
then, through all of its steps, to draw the rows that the teacher draws from the same noise (Luhman and
Luhman, "Knowledge distillation in iterative generative models for improved sampling speed", 2021, arXiv
2101.02388). Those are of the right kind, but too much alike: what cannot be told from the noise is drawn as
its mean. So in the end what it draws is led to where the teacher finds more rows than a shadow does, a
denoiser that learns beside it from what it draws (Yin et al., "One-step diffusion with distribution matching
distillation", CVPR 2024, arXiv 2311.18828; in several steps, "Improved distribution matching distillation for
fast image synthesis", NeurIPS 2024, arXiv 2405.14867).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lookalike.layout import Layout, Rows
from lookalike.models.diffusion import Diffusion, Noised
from lookalike.models.family import Denoising
from lookalike.networks import Pace, Stage

# Of the teacher, its estimates, what it draws, and how likely: the last two take several times as long.
STAGES = Stage(0.900, 0.71), Stage(0.060, 0.08), Stage(0.027, 0.14), Stage(0.013, 0.07)
TIMES = 1.0, 1 / 8, 1 / 16, 1 / 128  # how much of the learning rate each takes
OF_SHADOW = 1 / 8
TEACHER_STEPS = 6  # more draw little better
AUTOGUIDANCE = 2.0  # of the teacher, more than it would need itself: a student draws fewer kinds
DRAWN = 6  # one row of so many of a batch does the teacher complete anew; the others were drawn before
KEPT, HELD = 2048, 1 << 24  # rows drawn, at most, and coordinates of all of them
ESTIMATED = 4  # one row of so many also goes on learning estimates, while it learns to draw
THROUGH = 2  # steps that a batch is learned through; through more of them fewer rows, in the same time
INNER = 3
ANCHOR, ANCHORED = 0.3, 2  # weight, and one row of so many, by which what is drawn stays where it was
BARRED = -1e9


class _Completed(NamedTuple):
    """Rows that the teacher completed, and what they were drawn from."""

    normals: Tensor  # (n, n_numbers)
    uniforms: Tensor  # (n, 2 n_categories)
    known: Tensor  # (n, n_cells), bool
    numbers: Tensor  # (n, n_numbers)
    ids: Tensor  # (n, n_categories)


class _Memory(nn.Module):
    """Of completed rows; the oldest give way to new ones. In buffers, which are part of a checkpoint."""

    count: Tensor

    def __init__(self, layout: Layout, device: torch.device) -> None:
        super().__init__()
        d, n = layout.n_numbers, layout.n_categories
        self.kept = min(KEPT, max(HELD // d, 1))
        sizes, dtypes = (d, 2 * n, d + n, d, n), (None, None, torch.bool, None, torch.long)
        for name, size, dtype in zip(_Completed._fields, sizes, dtypes, strict=True):
            empty = torch.zeros(self.kept, size, dtype=dtype, device=device)
            self.register_buffer(name, empty, persistent=False)
        count = torch.zeros((), dtype=torch.long, device=device)
        self.register_buffer("count", count, persistent=False)

    def put(self, rows: _Completed) -> None:
        at = (self.count + torch.arange(len(rows.ids), device=self.count.device)) % self.kept
        for name, new in rows._asdict().items():
            self.get_buffer(name)[at] = new
        self.count += len(rows.ids)

    def take(self, n: int, generator: torch.Generator) -> _Completed:
        filled = min(int(self.count), self.kept)
        at = torch.randint(filled, (n,), generator=generator, device=self.count.device)
        return _Completed(*(self.get_buffer(name)[at] for name in _Completed._fields))


@torch.no_grad()
def _copy(of: Diffusion, to: Diffusion) -> None:
    for own, other in zip(to.weights(), of.weights(), strict=True):
        own.copy_(other)


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
        alone: dict[str, Any] = {"guidance": 1.0, "autoguidance": 1.0, "alone": True}
        self.layout, self.stage = layout, len(STAGES)
        self.teacher = Diffusion(layout, n_steps=TEACHER_STEPS, autoguidance=AUTOGUIDANCE, **about)
        self.student = Diffusion(layout, n_steps=n_steps, **alone, **about)
        self.shadow = Diffusion(layout, n_steps=n_steps, **alone, **about)
        self.remembered: _Memory | None = None

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
        times = OF_SHADOW if self.stage == 3 and k else TIMES[self.stage]
        return self.teacher.pace(k)._replace(times=times)

    def start_stage(self, stage: int) -> None:
        self.stage = stage
        if stage == 1:
            _copy(self.teacher, self.student)
            _copy(self.teacher, self.shadow)
        if stage not in (2, 3):
            self.remembered = None
        elif self.remembered is None:  # in the last stage that is so where a checkpoint is gone on from
            self.remembered = _Memory(self.layout, self.teacher.schedule.device)

    def objectives(
        self, rows: Rows, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        if self.stage == 0:
            yield from self.teacher.objectives(rows, generator)
        elif self.remembered is None:
            yield self._missed(rows, generator), self.student.weights()
        elif self.stage == 2:
            new, few = (rows.take(slice(max(rows.n // part, 1))) for part in (DRAWN, ESTIMATED))
            self.remembered.put(self._completed(new, generator))
            n = rows.n * min(THROUGH, self.student.n_steps) // self.student.n_steps
            loss = self._apart(self.remembered.take(max(n, 1), generator), whole=True)
            yield loss + self._missed(few, generator) / ESTIMATED, self.student.weights()
        else:
            drawn = self._drawn(rows.ids, generator)
            noised = self.teacher.noised(Rows(drawn.detach(), rows.ids), generator)
            anchor = self._apart(self.remembered.take(max(rows.n // ANCHORED, 1), generator))
            yield self._unlikely(drawn, noised) + ANCHOR * anchor, self.student.weights()
            yield self.shadow.lost(noised, self.shadow.network, noised.clean), self.shadow.weights()

    def fidelity(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """How far the student is from its teacher, and before that what the teacher loses."""
        if self.stage == 0:
            return self.teacher.fidelity(rows, generator)
        if self.remembered is None:
            return self._missed(rows, generator)
        return self._apart(self._completed(rows, generator))

    def _missed(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """How far the student's estimates are from those that the teacher is guided to."""
        noised = self.teacher.noised(rows, generator)
        with torch.no_grad():
            aim, _ = self.teacher.guided(noised.numbers, noised.ids, noised.sigma, noised.given)
        return self.student.lost(noised, self.student.network, aim)

    @torch.no_grad()
    def _completed(self, rows: Rows, generator: torch.Generator) -> _Completed:
        """Let the teacher draw what is unknown, of rows of which parts are known."""
        layout, device = self.layout, rows.numbers.device
        given = layout.hide(rows, ~layout.random_observed(rows.n, generator, device))
        normals = torch.randn(rows.n, layout.n_numbers, generator=generator, device=device)
        uniforms = torch.rand(rows.n, 2 * layout.n_categories, generator=generator, device=device)
        nothing = normals.new_zeros(layout.width - layout.n_numbers)
        drawn = self.teacher.sample(normals, uniforms, given, nothing)
        return _Completed(normals, uniforms, layout.known(given), drawn.numbers, drawn.ids)

    def _apart(self, rows: _Completed, *, whole: bool = False) -> Tensor:
        """How far what the student draws is from what the teacher drew: by the spread of coordinates."""
        drawn = Rows(rows.numbers, rows.ids)
        # Categories come when they come to the student, but are to be the same.
        barred = BARRED * (1 - self.layout.expand(drawn)[:, self.layout.n_numbers :])
        given = self.layout.hide(drawn, ~rows.known)
        found = self._stepped(rows.normals, rows.uniforms, given, barred, whole)
        return ((found - rows.numbers).square().mean(1) + 1e-6).sqrt().mean()

    def _drawn(self, ids: Tensor, generator: torch.Generator) -> Tensor:
        """Coordinates that the student draws for these categories."""
        layout, (n, m) = self.layout, ids.shape
        normals = torch.randn(n, layout.n_numbers, generator=generator, device=ids.device)
        given = Rows(torch.full_like(normals, torch.nan), ids)
        nothing = normals.new_zeros(layout.width - layout.n_numbers)
        return self._stepped(normals, normals.new_zeros(n, 2 * m), given, nothing, whole=False)

    def _stepped(self, normals: Tensor, uniforms: Tensor, given: Rows, barred: Tensor, whole: bool) -> Tensor:
        """The student's `sample`; gradients come to its last step, or to the whole of it."""
        *before, last = torch.arange(self.student.n_steps, device=normals.device)
        with torch.set_grad_enabled(whole and torch.is_grad_enabled()):
            rows = self.student.begin(normals, given)
            for k in before:
                rows = self.student.step(k, rows, normals, uniforms, given, barred)
        return self.student.step(last, rows, normals, uniforms, given, barred).numbers

    def _unlikely(self, drawn: Tensor, noised: Noised) -> Tensor:
        """What leads draws to where the teacher, guided, finds more rows than the shadow."""
        with torch.no_grad():
            wanted, _ = self.teacher.guided(noised.numbers, noised.ids, noised.sigma, noised.given)
            x = self.layout.join(noised.numbers, noised.ids)
            found, _ = self.shadow.denoise(x, noised.sigma, noised.given)
            size = (drawn - wanted).abs().mean(1, keepdim=True).clamp(min=1e-3)
            slope = (found - wanted) / size * noised.asked
        return (drawn * slope).sum(1).mean() / self.layout.n_numbers

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
