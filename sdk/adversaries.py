"""Networks of images of which one judges what the other draws, without norms."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from lookalike.convolutional import Frame, channels_of
from lookalike.networks import convolution, linear

CENTRE = 64  # fixed noises whose styles have the mean to which styles are truncated


def leaky(h: Tensor) -> Tensor:
    return nn.functional.leaky_relu(h, 0.2)


class FreeResidual(nn.Module):
    """A residual block without a norm, which begins as the identity (as Fixup, Zhang et al. 2019)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = convolution(channels, channels), convolution(channels, channels)
        self.gain = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, h: Tensor) -> Tensor:
        return h + self.gain * self.second(leaky(self.first(leaky(h))))


class ConvCritic(nn.Module):
    """R3GAN's critic for images and categories beside them: no norm, residual blocks, leaky rectifiers.

    What stands beside the pixels is projected on what was made of them (Miyato and Koyama 2018).

    Parameters
    ----------
    shape : tuple of int
        Height, width, channels.
    n_scores, n_categories : int
        Features beside the pixels, and the categories that they are of.
    width, depth : int
        As of `UNet`.
    """

    def __init__(
        self, shape: tuple[int, int, int], n_scores: int, n_categories: int, width: int, depth: int
    ) -> None:
        super().__init__()
        self.frame = Frame(shape)
        self.parts = [math.prod(shape), n_scores, math.prod(shape), n_categories]
        outer, inner = channels_of(width, 4, 2)
        self.enter = convolution(8 * shape[2], outer)
        self.outer = nn.Sequential(*(FreeResidual(outer) for _ in range(max(depth // 3, 1))))
        self.down = convolution(outer, inner, stride=2)
        self.inner = nn.Sequential(*(FreeResidual(inner) for _ in range(depth)))
        self.gather = linear(inner * math.prod(self.frame.size), width)
        n_beside = n_scores + n_categories
        self.beside = linear(n_beside, width) if n_beside else None
        self.leave = linear(width, 1)

    def forward(self, row: Tensor) -> Tensor:
        """Judge rows of pixels with features, and of flags for what is observed; shape (n, 1)."""
        return self.with_features(row)[0]

    def with_features(self, row: Tensor) -> tuple[Tensor, Tensor]:
        """Judge rows, and tell what of their images was seen for it, (n, k)."""
        found = row.split(self.parts, 1)
        h = self.outer(self.enter(self.frame.fold(*found[::2])))
        features = leaky(self.inner(self.down(leaky(h)))).flatten(1)
        seen = leaky(self.gather(features))
        if self.beside is None:
            return self.leave(seen), features
        meant = self.beside(torch.cat(found[1::2], 1))
        return self.leave(seen) + (seen * meant).sum(1, keepdim=True) / math.sqrt(meant.shape[1]), features


class Generator(nn.Module):
    """What generators of images have in common: how they see what is observed, and what they leave.

    Parameters
    ----------
    shape : tuple of int
        Height, width, channels.
    n_scores : int
        Features that stand beside the pixels, in and out.
    width : int
        As of `UNet`.
    """

    def __init__(self, shape: tuple[int, int, int], n_scores: int, width: int) -> None:
        super().__init__()
        self.frame, self.parts = Frame(shape), [math.prod(shape), n_scores, math.prod(shape)]
        outer, inner = channels_of(width, 4, 2)
        self.enter, self.down = convolution(8 * shape[2], outer), convolution(outer, inner, stride=2)
        self.scores = linear(inner, n_scores) if n_scores else None

    def forward(self, z: Tensor, seen: Tensor) -> Tensor:
        """Complete rows, (..., n, d + n_scores), from noise and what is observed, with flags for pixels."""
        if z.ndim == 2:
            return self.complete(z, seen)
        many = seen.expand(z.shape[0], -1, -1).flatten(0, 1)  # several noises for each row
        out = self.complete(z.expand(-1, seen.shape[0], -1).flatten(0, 1), many)
        return out.unflatten(0, (z.shape[0], -1))

    def complete(self, z: Tensor, seen: Tensor) -> Tensor:
        """Do as `forward` for one noise a row."""
        raise NotImplementedError

    def look(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """What is observed of the pixels, at the outer level, and of the labels."""
        pixels, labels, observed = seen.split(self.parts, 1)
        return self.enter(self.frame.fold(pixels, observed)), labels

    def row(self, folded: Tensor, deep: Tensor) -> Tensor:
        """Folded pixels as rows, and beside them the scores that the inner level tells."""
        flat = self.frame.unfold(folded)
        return flat if self.scores is None else torch.cat([flat, self.scores(deep.mean((2, 3)))], 1)


class ConvGenerator(Generator):
    """R3GAN's generator for images and categories beside them, given any part of both.

    Parameters
    ----------
    shape, n_scores
        As of `Generator`.
    latent_dim : int
    width, depth : int
        As of `UNet`.
    """

    def __init__(
        self, shape: tuple[int, int, int], n_scores: int, latent_dim: int, width: int, depth: int
    ) -> None:
        super().__init__(shape, n_scores, width)
        outer, inner = channels_of(width, 4, 2)
        self.mapping = linear(latent_dim + n_scores, width)
        self.basis = linear(width, inner * math.prod(self.frame.size))
        self.inner = nn.Sequential(*(FreeResidual(inner) for _ in range(depth)))
        self.up = convolution(inner, outer)
        self.outer = nn.Sequential(*(FreeResidual(outer) for _ in range(max(depth // 3, 1))))
        self.leave = convolution(outer, 4 * shape[2])

    def complete(self, z: Tensor, seen: Tensor) -> Tensor:
        h, labels = self.look(seen)
        start = self.basis(leaky(self.mapping(torch.cat([z, labels], 1))))
        deep = leaky(self.inner(start.unflatten(1, (-1, *self.frame.size)) + self.down(leaky(h))))
        h = self.outer(h + self.up(nn.functional.interpolate(deep, scale_factor=2.0, mode="nearest")))
        return self.row(self.leave(leaky(h)), deep)


class Modulated(nn.Module):
    """A convolution of 3 x 3 whose inputs a style scales; outputs keep their spread (StyleGAN2, 2.2)."""

    def __init__(self, n_in: int, n_out: int, style: int, demodulate: bool = True) -> None:
        super().__init__()
        self.style, self.convolution = linear(style, n_in), convolution(n_in, n_out)
        self.demodulate = demodulate

    def forward(self, h: Tensor, w: Tensor) -> Tensor:
        # Scaling what goes in and comes out is scaling the weights, which would be others for each image.
        scale = 1 + self.style(w)
        out = nn.functional.conv2d(h * scale[..., None, None], self.convolution.weight, padding=1)
        if self.demodulate:
            size = scale.square() @ self.convolution.weight.square().sum((2, 3)).T
            out = out * (size + 1e-8).rsqrt()[..., None, None]
        return out + self.convolution.bias[:, None, None]  # type: ignore[index]  # there is one


class StyleGenerator(Generator):
    """StyleGAN2's generator, given any part of an image and of the categories beside it.

    Mapping networks turn noise into styles, which scale the channels of each layer: half of it, with the
    labels, those of the inner level and its large shapes, the rest those of the outer one and its small. So
    any two styles go together, where StyleGAN has to see mixed ones in training, and small shapes leave the
    label alone. Without noise inputs: all that is drawn is in the styles.

    Parameters
    ----------
    shape, n_scores, latent_dim, width, depth
        As of `ConvGenerator`.

    References
    ----------
    T. Karras, S. Laine, M. Aittala, J. Hellsten, J. Lehtinen, T. Aila. Analyzing and improving the image
    quality of StyleGAN. CVPR 2020, arXiv:1912.04958.
    """

    centre: Tensor

    def __init__(
        self, shape: tuple[int, int, int], n_scores: int, latent_dim: int, width: int, depth: int
    ) -> None:
        super().__init__(shape, n_scores, width)
        outer, inner = channels_of(width, 4, 2)
        self.own = max(latent_dim // 2, 1)  # of the noise, for small shapes
        self.large = nn.Sequential(
            *(linear(latent_dim - latent_dim // 2 + n_scores, width), nn.LeakyReLU(0.2)),
            *(linear(width, width), nn.LeakyReLU(0.2)),
        )
        self.small = nn.Sequential(
            *(linear(self.own, width), nn.LeakyReLU(0.2), linear(width, width), nn.LeakyReLU(0.2))
        )
        self.constant = linear(1, inner * math.prod(self.frame.size))
        self.coarse = nn.ModuleList(Modulated(inner, inner, width) for _ in range(2 * depth))
        self.up = Modulated(inner, outer, width)
        self.fine = nn.ModuleList(Modulated(outer, outer, width) for _ in range(2 * max(depth // 3, 1)))
        self.leave = Modulated(outer, 4 * shape[2], width, demodulate=False)
        fixed = torch.Generator().manual_seed(0)
        self.register_buffer("centre", torch.randn(CENTRE, latent_dim, generator=fixed), persistent=False)

    def styles(self, z: Tensor, seen: Tensor, truncation: float = 1.0) -> tuple[Tensor, Tensor]:
        """Styles of large and of small shapes, (n, width) each, of noise and the categories observed.

        They go a share of their way from the mean style of these categories, `truncation` (Karras et al.,
        CVPR 2019, arXiv 1812.04948, appendix B).
        """
        labels = seen.split(self.parts, 1)[1]
        large, small = self._map(z, labels)
        if truncation == 1:
            return large, small
        means = self._map(self.centre.repeat(z.shape[0], 1), labels.repeat_interleave(CENTRE, 0))
        coarse, fine = (mean.unflatten(0, (-1, CENTRE)).mean(1) for mean in means)
        return torch.lerp(coarse, large, truncation), torch.lerp(fine, small, truncation)

    def _map(self, z: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        first = z[:, : z.shape[1] - z.shape[1] // 2]
        labels = labels * math.sqrt(first.shape[1])  # as long as the noise is
        return self.large(torch.cat([first, labels], 1)), self.small(z[:, -self.own :])

    def complete(self, z: Tensor, seen: Tensor) -> Tensor:
        return self.draw(*self.styles(z, seen), seen)

    def draw(self, coarse: Tensor, fine: Tensor, seen: Tensor) -> Tensor:
        """Complete rows by a style for the inner level, and one for the outer."""
        h, _ = self.look(seen)
        start = self.constant(coarse.new_ones(1, 1)).unflatten(1, (-1, *self.frame.size))
        deep = start + self.down(leaky(h))
        for layer in self.coarse:
            deep = leaky(layer(deep, coarse)) * math.sqrt(2)
        h = h + self.up(nn.functional.interpolate(deep, scale_factor=2.0, mode="nearest"), coarse)
        for layer in self.fine:
            h = leaky(layer(h, fine)) * math.sqrt(2)
        return self.row(self.leave(h, fine), deep)
