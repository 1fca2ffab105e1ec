"""Changes by chance of what a critic of images sees, so that it cannot learn a few of them by heart.

Karras, Aittala, Hellsten, Laine, Lehtinen and Aila, "Training generative adversarial networks with limited
data", NeurIPS 2020, arXiv 2006.06676. Of their changes these are the ones that leave alone what an image
means: it is moved, a square of it is cut out, and its light and contrast change. Nothing is mirrored or
turned, which would make other digits, letters and signs of these.
"""

from __future__ import annotations

import torch
from torch import Tensor

MOVED = 0.125  # of its height and width, at most
CUT = 0.5  # of its height and width
LIGHT, CONTRAST = 0.4, 0.5  # deviations: of what is added to pixels of unit spread, of log2 of the factor


def disturb(
    shape: tuple[int, int, int], images: Tensor, observed: Tensor, chance: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Change each of several rows of pixels in the same ways.

    Parameters
    ----------
    shape : tuple of int
        Height, width, channels.
    images : Tensor of shape (k, n, d)
        Differentiable in them.
    observed : Tensor of shape (n, d), bool
        Flags of pixels, which move with them.
    chance : Tensor of shape ()
        Of each change.
    generator : torch.Generator

    Returns
    -------
    tuple of Tensor
        Images and flags, of the shapes that came.
    """
    n, device = len(observed), images.device
    height, wide, _ = shape

    def normal() -> Tensor:
        return torch.randn(n, 1, generator=generator, device=device)

    def uniform() -> Tensor:
        return torch.rand(n, 1, generator=generator, device=device)

    def happens() -> Tensor:
        return uniform() < chance

    images = images * torch.where(happens(), torch.exp2(CONTRAST * normal()), 1.0)
    images = images + torch.where(happens(), LIGHT * normal(), 0.0)
    moved, cut = happens(), happens()
    at, inside = [], []
    for length in (height, wide):
        place = torch.arange(length, device=device)
        by = torch.round((2 * uniform() - 1) * MOVED * length) * moved
        at.append((place + by.long()).clamp(0, length - 1))  # edges are drawn out
        inside.append((place + 0.5 - uniform() * length).abs() < CUT / 2 * length)
    index = at[0][:, :, None] * wide + at[1][:, None, :]
    hole = inside[0][:, :, None] & inside[1][:, None, :] & cut[..., None]

    def move(x: Tensor) -> Tensor:
        pixels = x.unflatten(-1, (height * wide, -1))
        own = index.flatten(1)[..., None].expand(*pixels.shape)
        return pixels.gather(-2, own).flatten(-2)

    shown = ~hole.flatten(1)[..., None].expand(-1, -1, shape[2]).flatten(1)
    return move(images) * shown, move(observed)
