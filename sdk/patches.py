"""What patches of remembered images say of those of a new one: an image is as odd as its oddest place.

A patch is as odd as it is far from the nearest one remembered (Roth, Pemula, Zepeda, Schölkopf, Brox and
Gehler, "Towards total recall in industrial anomaly detection", CVPR 2022, arXiv 2106.08265). In place of the
features of a network that has seen other images a patch is told by the principal components of its pixels,
and by its place, as far as places matter.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from lookalike.layout import Layout, Rows, add_up

SCALES = {1: (), 3: (1, 2)}
"""By the rank of `Layout.shape`: by how much data are shrunk before patches are cut out of them."""

SIDE = 8  # of a patch; at most half of that of the image
STEP = 2  # pixels from one patch to the next
COMPONENTS = 32
CANDIDATES = 8  # patches of which one is remembered
REACH = 2.0  # by which places are stretched where they explain half of what patches are
AT_ONCE = 32  # images of which candidates are taken
PART = 256  # remembered patches that are compared at once
LEAST_WITHIN = 0.05  # of the spread of patches, that is not the place's
WHITENED = {1: -0.125, 2: 0.0}
"""By scale: the power of its variance by which a component is stretched. At -1/2 fine detail, which varies
least, counts as much as the rest (Mahalanobis's distance), at 0 pixels do."""

LEAST = 1e-4  # of the largest variance, below which none is told apart
ALIKE = 1e-4  # of the mean square of patches: squared distances below are rounding's
TINY = 1e-12


def scales(layout: Layout) -> tuple[int, ...]:
    """By how much images of this layout are shrunk; none for what is no image."""
    found: tuple[int, ...] = SCALES[len(layout.shape)]
    return tuple(scale for scale in found if scale == 1 or min(layout.shape[:2]) >= scale * SIDE)


class Patches(nn.Module):
    """Remembered patches of one scale.

    Parameters
    ----------
    shape : tuple of int
        Height, width and channels of an image.
    scale : int
        By how much an image is shrunk.
    weight : Tensor of shape (components, channels, side, side)
        Principal components of patches.
    bias : Tensor of shape (components,)
        Moves the mean patch to 0.
    reach : Tensor without dimensions
        By how much places, of unit spread, are stretched.
    patches : Tensor of shape (m, components + 2)
        Those remembered: their components and places.
    """

    weight: Tensor
    bias: Tensor
    reach: Tensor
    patches: Tensor
    places: Tensor
    from_each: Tensor
    length: Tensor
    alike: Tensor

    def __init__(
        self,
        shape: tuple[int, ...],
        scale: int,
        weight: Tensor,
        bias: Tensor,
        reach: Tensor,
        patches: Tensor,
    ) -> None:
        super().__init__()
        self.shape, self.scale = shape, scale
        tensors = {"weight": weight, "bias": bias, "reach": reach, "patches": patches}
        for name, tensor in tensors.items():
            self.register_buffer(name, tensor)
        self.register_buffer("places", places(shape).to(reach) * reach, persistent=False)
        self.register_buffer("from_each", -2 * patches.T, persistent=False)
        self.register_buffer("length", (patches * patches).sum(1), persistent=False)
        self.register_buffer("alike", ALIKE * self.length.mean() + TINY, persistent=False)

    @classmethod
    def learn(
        cls, shape: tuple[int, ...], scale: int, images: Tensor, size: int, generator: torch.Generator
    ) -> Self:
        """Remember up to `size` patches of images, (n, pixels), far from each other."""
        side = side_of(shape)
        grid = math.prod(places(shape).shape[:2])
        few = min(math.ceil(CANDIDATES * size / len(images)), grid)
        windows, at = [], []
        for part in images.split(AT_ONCE):
            order = torch.rand(len(part), grid, generator=generator, device=images.device)
            chosen = order.argsort(1)[:, :few]
            cut = functional.unfold(_padded(part, shape, scale, side), side, stride=STEP // scale)
            windows.append(cut.transpose(1, 2).take_along_dim(chosen[..., None], 1).flatten(0, 1))
            at.append(chosen.flatten())
        window, place = torch.cat(windows), torch.cat(at)
        mean = window.mean(0)
        variance, components = torch.linalg.eigh(torch.cov((window - mean).T.double(), correction=0))
        variance = variance[-COMPONENTS:].clamp(min=TINY)
        stretch = (variance / variance[-1]).clamp(min=LEAST) ** WHITENED[scale]
        components = (components[:, -COMPONENTS:] * stretch).float()
        weight = components.T.unflatten(1, (shape[2], side, side)).contiguous()
        bias = -mean @ components
        # How much of what patches are is their place's: the mean image has nothing else.
        usual = _components(images.mean(0, keepdim=True), shape, scale, weight, bias)[0]
        spread = (variance * stretch**2).sum()
        between = (usual.double().flatten(1).var(1, correction=0).sum() / spread).clamp(max=1 - LEAST_WITHIN)
        known = (between - (1 - between) / len(images)).clamp(min=0) / (1 - between)
        reach = (REACH * (known * spread / 2).sqrt()).float()
        found = torch.cat(
            [window @ components + bias, places(shape).to(reach).flatten(0, 1)[place] * reach], 1
        )
        kept = spread_out(found, min(size, max(len(found) // CANDIDATES, 1)))
        return cls(shape, scale, weight, bias, reach, found[kept])

    @staticmethod
    def sizes(shape: tuple[int, ...], m: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the tensors that remember m patches of images of a shape."""
        side = side_of(shape)
        k = min(COMPONENTS, side * side * shape[2])
        return {"weight": (k, shape[2], side, side), "bias": (k,), "reach": (), "patches": (m, k + 2)}

    def energies(self, rows: Rows) -> Tensor:
        """Squared distance of the patch around each pixel from the nearest remembered, (n, pixels).

        Gathered to their fourth power mean, a soft maximum: the pixels' shares of it add up to it.
        """
        images = rows.clean
        here = _components(images, self.shape, self.scale, self.weight, self.bias).permute(0, 2, 3, 1)
        seen = torch.cat([here, self.places.expand(here.shape[0], -1, -1, -1)], 3).flatten(0, 2)
        parts = zip(self.from_each.split(PART, 1), self.length.split(PART), strict=True)
        nearest = torch.stack([(seen @ each + length).amin(1) for each, length in parts]).amin(0)
        distance = (nearest + add_up(seen * seen)).clamp(min=0) + self.alike
        height, width, channels = self.shape
        grid = distance.unflatten(0, (-1, *self.places.shape[:2]))
        pixels = functional.interpolate(grid[:, None], scale_factor=float(STEP), mode="nearest")
        cells = gathered(pixels[:, 0, :height, :width].flatten(1))
        return (cells[..., None] / channels).expand(-1, -1, channels).flatten(1) * rows.present


def gathered(squares: Tensor) -> Tensor:
    """Shares, (n, k), of the fourth root of the sum of fourth powers of squared distances (n, k)."""
    most = squares.amax(1, keepdim=True).clamp(min=TINY)
    power = ((squares / most) ** 2) ** 2
    total = add_up(power)[:, None].clamp(min=TINY)
    return most * power * (total.sqrt().sqrt() / total)


def spread_out(x: Tensor, n: int) -> Tensor:
    """Which n of the rows, (m, k), are far from each other, (n,): each is the farthest from those before.

    Gonzalez, "Clustering to minimize the maximum intercluster distance", Theoretical Computer Science 38,
    1985; the coreset of PatchCore.
    """
    kept = torch.zeros(n, dtype=torch.long, device=x.device)
    length = (x * x).sum(1)
    distance = torch.full((len(x),), torch.inf, device=x.device)
    for i in range(1, n):
        last = x[kept[i - 1]]
        distance = torch.minimum(distance, length - 2 * (x @ last) + last @ last)
        kept[i] = distance.argmax()
    return kept


def places(shape: tuple[int, ...]) -> Tensor:
    """Where patches of an image stand, (rows, columns, 2), of unit spread."""
    sides = [torch.arange(math.ceil(length / STEP)) for length in shape[:2]]
    middle = [(at + 0.5) / len(at) - 0.5 for at in sides]
    return torch.stack(torch.meshgrid(*middle, indexing="ij"), -1) * math.sqrt(12)


def side_of(shape: tuple[int, ...]) -> int:
    """How many pixels a patch is high and wide."""
    return max(min(SIDE, *(length // 2 for length in shape[:2])), 1)


def _components(images: Tensor, shape: tuple[int, ...], scale: int, weight: Tensor, bias: Tensor) -> Tensor:
    """Principal components of each patch, (n, components, rows, columns)."""
    ready = _padded(images, shape, scale, weight.shape[-1])
    return functional.conv2d(ready, weight, bias, stride=STEP // scale)


def _padded(images: Tensor, shape: tuple[int, ...], scale: int, side: int) -> Tensor:
    """Images, (n, pixels), shrunk, with borders so that each two by two pixels have a patch around them."""
    height, width = shape[:2]
    pictures = images.unflatten(1, shape).permute(0, 3, 1, 2)
    pictures = functional.pad(pictures, (0, width % STEP, 0, height % STEP), mode="replicate")
    before = (side - 1) // 2
    after = max(side - STEP // scale - before, 0)
    pictures = functional.avg_pool2d(pictures, scale) if scale > 1 else pictures
    return functional.pad(pictures, (before, after) * 2, mode="replicate")
