"""Backbones, and how their weights begin.

Weights are drawn from the generator that is handed in: torch's global one is never touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

GROUPS = 8  # of channels, normalised together


Layer = nn.Linear | nn.Conv2d


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
        h = entered.flatten(0, -2)  # products of two matrices are the fast ones
        for block in self.blocks:
            h = block(h, context)
        out = self.leave(nn.functional.silu(self.norm(h)))
        return out if entered.ndim == 2 else out.unflatten(0, entered.shape[:-1])


class ConvResidual(nn.Module):
    """`Residual` for images, (n, channels, height, width), normalised by groups of channels."""

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, affine=False)
        self.film = linear(context, 2 * channels)
        self.first, self.second = convolution(channels, channels), convolution(channels, channels)

    def forward(self, h: Tensor, context: Tensor) -> Tensor:
        scale, shift = self.film(context)[..., None, None].chunk(2, 1)
        z = self.norm(h) * (1 + scale) + shift
        return h + self.second(nn.functional.silu(self.first(nn.functional.silu(z))))


class UNet(nn.Module):
    """The backbone for images and categories beside them.

    Two by two pixels become channels of one place (pixel unshuffle, Shi et al. 2016), where most of the work
    is done, and half of it at half the resolution once more (Ronneberger et al. 2015). Sizes that four does
    not divide are padded, and cut off again.

    Parameters
    ----------
    shape : tuple of int
        Height, width, channels.
    n_scores : int
        Features that stand beside the pixels, in and out.
    width : int
        A quarter of it are the channels at the outer level, half of it at the inner one.
    depth : int
        Residual blocks at the inner level; a third of that, one at least, on the outer one before and after.
    context : int
        Width of the context vector.
    """

    def __init__(
        self, shape: tuple[int, int, int], n_scores: int, width: int, depth: int, context: int
    ) -> None:
        super().__init__()
        self.shape, self.n_scores = shape, n_scores
        height, wide, channels = shape
        self.pad = (0, -wide % 4, 0, -height % 4)
        outer, inner = (max(size // GROUPS, 1) * GROUPS for size in (width // 4, width // 2))
        self.enter = convolution(8 * channels, outer)
        self.beside = linear(n_scores, context) if n_scores else None

        def blocks(size: int, n: int) -> nn.ModuleList:
            return nn.ModuleList(ConvResidual(size, context) for _ in range(n))

        few = max(depth // 3, 1)
        self.outer_in, self.inner = blocks(outer, few), blocks(inner, depth)
        self.outer_out = blocks(outer, few)
        self.down, self.up = convolution(outer, inner, stride=2), convolution(inner, outer)
        self.norm = nn.GroupNorm(GROUPS, outer, affine=False)
        self.leave = convolution(outer, 4 * channels)
        self.scores = linear(inner, n_scores) if n_scores else None

    def modulators(self) -> list[Layer]:
        """The layers that begin at zero: the network then starts as zero, whatever the context."""
        films: list[Layer] = [m.film for m in self.modules() if isinstance(m, ConvResidual)]
        return [self.leave, *films] if self.scores is None else [self.leave, self.scores, *films]

    def forward(self, seen: Tensor, observed: Tensor, *, context: Tensor) -> Tensor:
        """Map pixels with the features beside them, (n, d + n_scores), to as many.

        `observed` of shape (n, d) or (1, d) tells which pixels are given; `context` is (n, k) or (1, k).
        """
        height, wide, _ = self.shape
        d = observed.shape[1]
        pixels = torch.cat([self._image(seen[:, :d]), self._image(observed.expand(seen.shape[0], -1))], 1)
        if self.beside is not None:
            context = context + self.beside(seen[:, d:])
        context = nn.functional.silu(context)
        if any(self.pad):
            pixels = nn.functional.pad(pixels, self.pad, mode="replicate")
        # What pixel_unshuffle does, which leaves an empty batch as it is.
        folded = pixels.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        h = self.enter(folded.contiguous(memory_format=torch.channels_last))  # as a CPU is fastest
        for block in self.outer_in:
            h = block(h, context)
        deep = self.down(h)
        for block in self.inner:
            deep = block(deep, context)
        h = h + self.up(nn.functional.interpolate(deep, scale_factor=2.0, mode="nearest"))
        for block in self.outer_out:
            h = block(h, context)
        out = nn.functional.pixel_shuffle(self.leave(nn.functional.silu(self.norm(h))), 2)
        flat = out[:, :, :height, :wide].permute(0, 2, 3, 1).flatten(1)
        if self.scores is None:
            return flat
        return torch.cat([flat, self.scores(nn.functional.silu(deep).mean((2, 3)))], 1)

    def _image(self, flat: Tensor) -> Tensor:
        return flat.unflatten(1, self.shape).permute(0, 3, 1, 2)


def _rows(shape: tuple[int], n_scores: int, width: int, depth: int, context: int) -> ResidualMLP:
    n = shape[0] + n_scores
    return ResidualMLP(n + shape[0], n, width, depth, context)


DENOISERS: dict[int, Callable[..., ResidualMLP | UNet]] = {1: _rows, 3: UNet}
"""By rank: noisy coordinates, categories and which coordinates are observed to estimates of clean ones."""


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
