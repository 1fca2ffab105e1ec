"""Networks that see images.

Inside, images are (n, channels, height, width); outside, rows of pixels as `Layout` has them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lookalike.networks import Layer, convolution, linear

GROUPS = 8  # of channels, normalised together


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
        Residual blocks at the inner level; a third of that, one at least, at the outer one after it. None
        stands before it: in equal time a network of fewer layers learns more.
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

        self.inner, self.outer = blocks(inner, depth), blocks(outer, max(depth // 3, 1))
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
        deep = self.down(h)
        for block in self.inner:
            deep = block(deep, context)
        h = h + self.up(nn.functional.interpolate(deep, scale_factor=2.0, mode="nearest"))
        for block in self.outer:
            h = block(h, context)
        out = nn.functional.pixel_shuffle(self.leave(nn.functional.silu(self.norm(h))), 2)
        flat = out[:, :, :height, :wide].permute(0, 2, 3, 1).flatten(1)
        if self.scores is None:
            return flat
        return torch.cat([flat, self.scores(nn.functional.silu(deep).mean((2, 3)))], 1)

    def _image(self, flat: Tensor) -> Tensor:
        return flat.unflatten(1, self.shape).permute(0, 3, 1, 2)
