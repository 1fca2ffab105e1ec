"""Networks that see images.

Inside, images are (n, channels, height, width); outside, rows of pixels as `Layout` has them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from lookalike.networks import Layer, convolution, linear

GROUPS = 8  # of channels, normalised together
MOST_PLACES = 16  # of a side, that a context speaks of
SHARES = 8, 2  # of the width, that are channels of a pyramid at its outer level and at inner ones


def channels_of(width: int, *shares: int) -> list[int]:
    """These parts of the width, as channels: whole groups."""
    return [max(width // share // GROUPS, 1) * GROUPS for share in shares]


class Frame(nn.Module):
    """What a network of images does before and after its work: 2 x 2 pixels become channels of one place.

    Parameters
    ----------
    shape : tuple of int
        Height, width, channels.
    halvings : int
        How often sides are halved inside, once by folding. What that does not divide is padded, and cut off
        again.

    Attributes
    ----------
    size : tuple of int
        Height and width after them.
    """

    def __init__(self, shape: tuple[int, int, int], halvings: int = 2) -> None:
        super().__init__()
        self.shape, multiple = shape, 2**halvings
        height, wide, _ = shape
        self.pad = (0, -wide % multiple, 0, -height % multiple)
        self.size = (height + self.pad[3]) // multiple, (wide + self.pad[1]) // multiple

    def fold(self, *flat: Tensor) -> Tensor:
        """Rows of pixels, (n, d) each, as channels of places, (n, channels, height / 2, width / 2)."""
        pixels = torch.cat([part.unflatten(1, self.shape).permute(0, 3, 1, 2) for part in flat], 1)
        if any(self.pad):
            pixels = nn.functional.pad(pixels, self.pad, mode="replicate")
        folded = pixels.unflatten(2, (-1, 2)).unflatten(4, (-1, 2)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)
        return folded.contiguous(memory_format=torch.channels_last)

    def unfold(self, places: Tensor) -> Tensor:
        """The way back, to rows of pixels (n, d)."""
        height, wide, _ = self.shape
        pixels = nn.functional.pixel_shuffle(places, 2)
        return pixels[:, :, :height, :wide].permute(0, 2, 3, 1).flatten(1)


class ConvResidual(nn.Module):
    """`Residual` for images, (n, channels, height, width), normalised by groups of channels."""

    def __init__(self, channels: int, context: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels, affine=False)
        self.film = linear(context, 2 * channels) if context else None
        self.first, self.second = convolution(channels, channels), convolution(channels, channels)

    def forward(self, h: Tensor, context: Tensor | None = None) -> Tensor:
        z = self.norm(h)
        if self.film is not None and context is not None:
            scale, shift = self.film(context)[..., None, None].chunk(2, 1)
            z = z * (1 + scale) + shift
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
        Residual blocks at the inner level; a third of that, one at least, at the outer one after it.
    context : int
        Width of the context vector.
    """

    def __init__(
        self, shape: tuple[int, int, int], n_scores: int, width: int, depth: int, context: int
    ) -> None:
        super().__init__()
        self.frame = Frame(shape)
        channels, self.parts = shape[2], [math.prod(shape), n_scores]
        outer, inner = channels_of(width, 4, 2)
        self.enter = convolution(8 * channels, outer)
        self.beside = linear(n_scores, context) if n_scores else None

        def blocks(size: int, n: int) -> nn.ModuleList:
            return nn.ModuleList(ConvResidual(size, context) for _ in range(n))

        self.inner, self.outer = blocks(inner, depth), blocks(outer, max(depth // 3, 1))
        self.down, self.up = convolution(outer, inner, stride=2), convolution(inner, outer)
        self.places = [min(side, MOST_PLACES) for side in self.frame.size]
        self.place = linear(context, inner * math.prod(self.places))
        self.norm = nn.GroupNorm(GROUPS, outer, affine=False)
        self.leave = convolution(outer, 4 * channels)
        self.scores = linear(inner, n_scores) if n_scores else None

    def modulators(self) -> list[Layer]:
        """The layers that begin at zero: the network then starts as zero, whatever the context."""
        films: list[Layer] = [
            m.film for m in self.modules() if isinstance(m, ConvResidual) and m.film is not None
        ]
        first = [self.leave, self.place, *films]
        return first if self.scores is None else [*first, self.scores]

    def forward(self, seen: Tensor, observed: Tensor, *, context: Tensor) -> Tensor:
        """Map pixels with the features beside them, (n, d + n_scores), to as many.

        `observed`, of shape (n, d) or (1, d), says which pixels are given; `context` is (n, k) or (1, k).
        """
        pixels, beside = seen.split(self.parts, 1)
        if self.beside is not None:
            context = context + self.beside(beside)
        context = nn.functional.silu(context)
        h = self.enter(self.frame.fold(pixels, observed.expand(pixels.shape[0], -1)))
        # Convolutions hardly know where they are: they are told what the context means for each place.
        places = self.place(context).unflatten(1, (-1, *self.places))
        deep = self.down(h) + nn.functional.interpolate(places, self.frame.size, mode="nearest")
        for block in self.inner:
            deep = block(deep, context)
        h = h + self.up(nn.functional.interpolate(deep, scale_factor=2.0, mode="nearest"))
        for block in self.outer:
            h = block(h, context)
        flat = self.frame.unfold(self.leave(nn.functional.silu(self.norm(h))))
        if self.scores is None:
            return flat
        return torch.cat([flat, self.scores(nn.functional.silu(deep).mean((2, 3)))], 1)


def halvings(shape: tuple[int, int, int]) -> int:
    """How often sides are halved until at most eight places of each are left: twice at least."""
    return max(((max(shape[:2]) - 1) // 8).bit_length(), 2)


class Pyramid(nn.Module):
    """Images and categories beside them at lower and lower resolutions.

    Parameters
    ----------
    shape : tuple of int
        Height, width, channels.
    n_scores : int
        Features that stand beside the pixels.
    width : int
        As of the U-Net.
    blocks : sequence of int
        Residual blocks at each resolution; the first is that of 2 x 2 pixels.
    """

    def __init__(self, shape: tuple[int, int, int], n_scores: int, width: int, blocks: Sequence[int]) -> None:
        super().__init__()
        self.frame, self.n_pixels = Frame(shape, len(blocks)), math.prod(shape)
        outer, inner = channels_of(width, *SHARES)
        channels = [outer, *(inner for _ in blocks[1:])]
        self.enter = convolution(8 * shape[2], outer)
        self.beside = linear(n_scores, outer) if n_scores else None
        self.downs = nn.ModuleList(convolution(a, b, stride=2) for a, b in pairwise(channels))
        self.blocks = nn.ModuleList(
            nn.Sequential(*(ConvResidual(size, 0) for _ in range(n)))
            for size, n in zip(channels, blocks, strict=True)
        )

    def forward(self, seen: Tensor) -> list[Tensor]:
        """Read rows: pixels, scores beside them, and flags of the pixels that are known."""
        d = self.n_pixels
        h = self.enter(self.frame.fold(seen[:, :d], seen[:, -d:]))
        if self.beside is not None:
            h = h + self.beside(seen[:, d:-d])[..., None, None]
        out = [self.blocks[0](h)]
        for down, block in zip(self.downs, self.blocks[1:], strict=True):
            out.append(block(down(nn.functional.silu(out[-1]))))
        return out


class ConvEncoder(nn.Module):
    """Images to numbers.

    Parameters
    ----------
    shape, n_scores, width
        As of `Pyramid`.
    n_out : int
    depth : int
        Residual blocks at the lowest resolution.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        n_scores: int,
        n_out: int,
        width: int,
        depth: int,
    ) -> None:
        super().__init__()
        n = halvings(shape)
        self.pyramid = Pyramid(shape, n_scores, width, [0] * (n - 1) + [depth])
        inner = channels_of(width, SHARES[1])[0]
        self.norm = nn.GroupNorm(GROUPS, inner, affine=False)
        self.leave = linear(inner * math.prod(self.pyramid.frame.size), n_out)

    def forward(self, seen: Tensor) -> Tensor:
        return self.leave(nn.functional.silu(self.norm(self.pyramid(seen)[-1])).flatten(1))


class ConvDecoder(nn.Module):
    """A latent, and what is known of an image, to its pixels, their spread, and categories beside them.

    The raw spread of a channel is one number, whatever the image and the place: what a decoder cannot tell is
    then weighed by how much that is, and no pixel is given up (Rybkin, Daniilidis and Levine, "Simple and
    effective VAE training with calibrated decoders", ICML 2021, arXiv 2006.13202, section 4.1; there of all
    channels).

    Parameters
    ----------
    shape, n_scores, width
        As of `Pyramid`.
    latent_dim : int
    depth : int
        Residual blocks at each resolution.
    """

    def __init__(
        self, shape: tuple[int, int, int], n_scores: int, latent_dim: int, width: int, depth: int
    ) -> None:
        super().__init__()
        n, (outer, inner) = halvings(shape), channels_of(width, *SHARES)
        self.given = Pyramid(shape, n_scores, width, [0] * n)
        self.frame = self.given.frame
        self.enter = linear(latent_dim, inner * math.prod(self.frame.size))
        self.context = linear(latent_dim + n_scores, 64)
        channels = [*(inner for _ in range(n - 1)), outer]
        self.blocks = nn.ModuleList(
            nn.ModuleList(ConvResidual(size, 64) for _ in range(depth)) for size in channels
        )
        self.ups = nn.ModuleList(convolution(a, b) for a, b in pairwise(channels))
        self.norm = nn.GroupNorm(GROUPS, outer, affine=False)
        self.leave = convolution(outer, 4 * shape[2])
        self.scores = linear(inner, n_scores) if n_scores else None
        self.spread = nn.Parameter(torch.zeros(shape[2]))

    def forward(self, z: Tensor, seen: Tensor) -> Tensor:
        """Map latents (n, latent_dim) and rows as `Pyramid` reads them, n or one, to (n, 2 d + n_scores)."""
        d = math.prod(self.frame.shape)
        seen = seen.expand(z.shape[0], -1)
        *above, deep = self.given(seen)
        context = nn.functional.silu(self.context(torch.cat([z, seen[:, d:-d]], 1)))
        h = deep + self.enter(z).unflatten(1, (-1, *self.frame.size))
        first, *others = cast(Sequence[nn.ModuleList], self.blocks)
        for block in first:
            h = block(h, context)
        deep = h
        for up, blocks, skip in zip(self.ups, others, reversed(above), strict=True):
            h = skip + up(nn.functional.interpolate(h, scale_factor=2.0, mode="nearest"))
            for block in blocks:
                h = block(h, context)
        mean = self.frame.unfold(self.leave(nn.functional.silu(self.norm(h))))
        spread = self.spread.repeat(d // self.frame.shape[2]).expand(z.shape[0], -1)
        parts = [mean, spread]
        if self.scores is not None:
            parts.append(self.scores(nn.functional.silu(deep).mean((2, 3))))
        return torch.cat(parts, 1)
