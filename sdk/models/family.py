"""What every model family offers to training, estimators and exporters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from lookalike.layout import Layout, Rows
from lookalike.memory import Memory
from lookalike.networks import WHOLE, Pace, Stage


class Model(nn.Module, ABC):
    """What learns how rows look and tells how odd they are.

    Attributes
    ----------
    layout : Layout
        What the model sees.
    betas : tuple of float
        Adam's decay rates that suit the loss.
    measured : bool
        Whether it learns from standard scores, beside normal ones.
    wary : bool
        Whether strays are kept from it: what only scores must not learn anomalies, what generates must learn
        rare rows.
    stages : tuple of Stage
        In which one thing is learned after the other; their shares are 1 in all.
    """

    layout: Layout
    betas: tuple[float, float] = (0.9, 0.99)
    measured: ClassVar[bool] = False
    wary: ClassVar[bool] = False
    stages: tuple[Stage, ...] = (WHOLE,)

    @property
    def learning_rate(self) -> float:
        """What suits the model where the user names none."""
        return self.layout.learning_rate

    def pace(self, k: int) -> Pace:
        """How objective number `k` is learned."""
        return Pace(self.betas)

    def prepare(self, memory: Memory, n: int, unseen: Rows) -> None:
        """Hear before training what is remembered, how many rows there are to learn from, and other rows."""

    def start_stage(self, stage: int) -> None:
        """Hear that a stage of training begins, whose losses and weights are its own; or that all are over.

        Then `stage` is their number.
        """

    def settle(self) -> None:
        """Work out what follows from the weights: they were changed from outside."""

    @abstractmethod
    def objectives(
        self, rows: Rows, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, list[nn.Parameter]]]:
        """Yield each loss with the parameters that it moves; those move before the next loss is asked for.

        A model that has moved itself yields none.
        """

    @abstractmethod
    def energies(self, rows: Rows) -> tuple[list[Tensor], Rows]:
        """Tell how odd each cell is, (n, n_cells), from 0 on, and what was expected in its place.

        In as many ways as the model has, each with a vote. Deterministic, and a function of each row alone. A
        row's energy is the sum over its cells.
        """

    def fidelity(self, rows: Rows, generator: torch.Generator) -> Tensor:
        """What early stopping watches on held-out rows, lower is better; the loss where that says enough."""
        return sum((loss for loss, _ in self.objectives(rows, generator)), torch.zeros(()))


class Family(Model):
    """A generative model of rows.

    Attributes
    ----------
    noise_size : tuple of int
        Normal and uniform numbers that `sample` takes a row.
    n_steps : int
        Of `sample`.
    """

    n_steps: int

    @property
    @abstractmethod
    def noise_size(self) -> tuple[int, int]: ...

    def sample(self, normals: Tensor, uniforms: Tensor, given: Rows, barred: Tensor) -> Rows:
        """Fill in what is unknown in `given`, as a deterministic function of the noise.

        Parameters
        ----------
        normals, uniforms : Tensor of shape (n, noise_size[0]), (n, noise_size[1]), float32
        given : Rows
            NaN and -1 where unknown.
        barred : Tensor of shape (layout.width - layout.n_numbers,), float32
            Added to the scores of levels: -1e9 for one that must not be drawn, else 0.
        """
        left = self.begin(normals, given)
        for rows in self.path(left, normals, uniforms, given, barred):
            left = rows
        return left

    def path(
        self, rows: Rows, normals: Tensor, uniforms: Tensor, given: Rows, barred: Tensor, first: int = 0
    ) -> Iterator[Rows]:
        """Take the steps from number `first` on, and yield what each leaves; the last leaves whole rows."""
        for k in torch.arange(first, self.n_steps, device=normals.device):
            rows = self.step(k, rows, normals, uniforms, given, barred)
            yield rows

    def begin(self, normals: Tensor, given: Rows) -> Rows:
        """Where sampling starts."""
        return given

    @abstractmethod
    def step(
        self, k: Tensor, rows: Rows, normals: Tensor, uniforms: Tensor, given: Rows, barred: Tensor
    ) -> Rows:
        """Take step `k`, an int64 scalar; the other parameters are those of `sample`.

        All steps are one computation, so that exporters need to trace but one.
        """


FAR = 4.0  # times the most noise: so much is seen on the way to it


class Denoising(Family):
    """A family that draws by taking Gaussian noise away.

    Attributes
    ----------
    schedule : Tensor of shape (n_steps, ...)
        Of each step, first the spread sigma of the noise where it begins.
    """

    schedule: Tensor

    def begin(self, normals: Tensor, given: Rows) -> Rows:
        """The most noise, and what of a row is left in it.

        Images whose pixels are light or dark together are not buried in it: what is drawn from noise alone
        would be too dark or too light.
        """
        z = normals[:, : self.layout.n_numbers] * self.schedule[0, 0]
        if not self.layout.buried:
            z = z + self._left(z, given)
        return Rows(torch.where(given.present, given.clean, z), given.ids)

    def _left(self, z: Tensor, given: Rows) -> Tensor:
        """What the probability-flow ODE adds to noise, on its way from endless noise to the most.

        As a function of 1 / sigma the row in units of the noise has a slope of what is expected of it
        (equation 3 of EDM), and begins as the noise at 0: one step there by the midpoint rule, the middle by
        another half as long.
        """
        left = torch.zeros_like(z)
        for times in (FAR, FAR / 2):
            noisy = torch.where(given.present, given.clean, times * z + left)
            x = self.layout.join(noisy, given.ids)
            left = self.denoise(x, times * self.schedule[:1, :1], given.present.float())[0]
        return left

    @abstractmethod
    def denoise(self, x: Tensor, sigma: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """Estimate the clean row.

        Parameters
        ----------
        x : Tensor of shape (n, width)
            Noisy coordinates (clean where observed) and indicators (zeros where hidden).
        sigma : Tensor of shape (n, 1) or (1, 1)
        observed : Tensor of shape (n, n_numbers) or (1, n_numbers), float
            1 where a coordinate is given without noise.

        Returns
        -------
        Tensor of shape (n, n_numbers)
            Expected coordinates, D(x; sigma).
        Tensor of shape (n, width - n_numbers)
            Scores of the categories' levels.
        """


@runtime_checkable
class Invertible(Protocol):
    """A family that finds the noise which leads to a row."""

    def noise_of(self, rows: Rows) -> Tensor:
        """The normals, (n, noise_size[0]), from which `sample` draws these rows again.

        That is, given the rows' categories, and with uniforms of 1/2. A function of each row alone.
        """
