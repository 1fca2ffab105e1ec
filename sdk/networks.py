"""Backbones, and how their weights begin and move.

Weights are drawn from the generator that is handed in: torch's global one is never touched.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

Layer = nn.Linear | nn.Conv2d


class Pace(NamedTuple):
    """How an objective is learned.

    Attributes
    ----------
    betas : tuple of float
        Adam's decay rates.
    times : float
        How much of the learning rate.
    orthogonal : bool
        Whether matrices take `Muon`'s steps.
    """

    betas: tuple[float, float]
    times: float = 1.0
    orthogonal: bool = False


class Stage(NamedTuple):
    """A part of training, in which one thing is learned: its share of the steps, and of the seconds."""

    steps: float
    seconds: float


WHOLE = Stage(1.0, 1.0)


def linear(n_in: int, n_out: int) -> nn.Linear:
    """A linear layer whose weights `initialise` will draw; building it draws nothing."""
    # skip_init alone would allocate on the CPU where the caller asked for another device.
    return nn.utils.skip_init(nn.Linear, n_in, n_out, device=torch.get_default_device())


def convolution(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    """A convolution of 3 x 3 whose weights `initialise` will draw."""
    return nn.utils.skip_init(
        nn.Conv2d, n_in, n_out, 3, stride=stride, padding=1, device=torch.get_default_device()
    )


def initialise(module: nn.Module, generator: torch.Generator, *, zero: Sequence[Layer] = ()) -> None:
    """Draw the weights of every layer (He et al. 2015, uniform); those in `zero` begin at zero."""
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, Layer):
                bound = math.sqrt(3 / layer.weight[0].numel())
                layer.weight.uniform_(-bound, bound, generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()
        for layer in zero:
            layer.weight.zero_()


class Residual(nn.Module):
    """A pre-normalised residual block; a context vector shifts and scales it (FiLM, Perez et al. 2018)."""

    def __init__(self, width: int, context: int, norm: bool = True) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False) if norm else nn.Identity()
        self.film = linear(context, 2 * width) if context else None
        self.first, self.second = linear(width, width), linear(width, width)

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        if self.film is None or context is None:
            z = self.norm(h)
        else:
            scale, shift = self.film(context).chunk(2, -1)
            if context.shape[0] == 1:  # for all rows: the norm applies it in passing
                z = nn.functional.layer_norm(h, h.shape[-1:], 1 + scale[0], shift[0])
            else:
                z = self.norm(h) * (1 + scale) + shift
        return h + self.second(nn.functional.silu(self.first(nn.functional.silu(z))))


class ResidualMLP(nn.Module):
    """The backbone for rows: linear in, residual blocks, linear out.

    Parameters
    ----------
    n_in, n_out, width, depth : int
    context : int
        Width of the context vector that modulates every block; 0 for none.
    """

    def __init__(
        self, n_in: int, n_out: int, width: int, depth: int, context: int = 0, norm: bool = True
    ) -> None:
        super().__init__()
        self.enter = linear(n_in, width)
        self.blocks = nn.ModuleList(Residual(width, context, norm) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False) if norm else nn.Identity()
        self.leave = linear(width, n_out)

    def modulators(self) -> list[nn.Linear]:
        """The layers that begin at zero: the network then starts as zero, whatever the context."""
        films = [layer for name, layer in self.named_modules() if name.endswith("film")]
        return [self.leave, *(layer for layer in films if isinstance(layer, nn.Linear))]

    def _enter(self, parts: Sequence[Tensor]) -> Tensor:
        weights = self.enter.weight.split([part.shape[-1] for part in parts], 1)
        biases = [*(None for _ in parts[1:]), self.enter.bias]
        first, *others = map(nn.functional.linear, parts, weights, biases)
        return sum(others, first)

    def forward(self, *parts: Tensor, context: Tensor | None = None) -> Tensor:
        """Map rows of shape (..., n_in) to (..., n_out).

        The parts of a row stand side by side and broadcast against each other: what many rows share is
        multiplied once.
        """
        entered = self._enter(parts)
        out = self.leave(self._through(entered.flatten(0, -2), context))  # of two matrices are fast products
        return out if entered.ndim == 2 else out.unflatten(0, entered.shape[:-1])

    def with_features(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Do as `forward` for rows, and tell what it leaves from, (n, width)."""
        features = self._through(self._enter([row]), None)
        return self.leave(features), features

    def _through(self, h: Tensor, context: Tensor | None) -> Tensor:
        for block in self.blocks:
            h = block(h, context)
        return nn.functional.silu(self.norm(h))


class Fourier(nn.Module):
    """Features of one scalar a row: sines and cosines at geometric frequencies (Vaswani et al. 2017)."""

    frequencies: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer(
            "frequencies", math.pi * 2.0 ** torch.linspace(-2, 4, width // 2), persistent=False
        )

    def forward(self, value: Tensor) -> Tensor:
        angle = value[:, None] * self.frequencies
        return torch.cat([angle.cos(), angle.sin()], 1)
