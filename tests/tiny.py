"""Models too small to learn much, and rows for them."""

import torch

from lookalike.layout import Rows
from lookalike.models.diffusion import Diffusion
from lookalike.models.mixture import Mixture
from lookalike.models.vae import VAE


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def build(kind, layout, *, width=16, n_steps=3, fresh=False):
    generator = seeded()
    if kind is Mixture:
        model = Mixture(layout, n_components=5)
        for shares in (model.class_share, model.level_share, model.table_share):
            shares.uniform_(0.01, 1, generator=generator)
        model.settle()
        return model
    common = {"width": width, "depth": 1, "n_steps": n_steps, "generator": generator}
    if kind is Diffusion:
        model = Diffusion(layout, **common)
    else:
        own = {"beta": 1.0} if kind is VAE else {"gamma": 1.0}
        model = kind(layout, latent_dim=4, **own, **common)
    if not fresh:  # some layers begin at zero: any weights will do, as long as nothing is
        with torch.no_grad():
            for weights in model.parameters():
                weights.normal_(0, 0.4, generator=generator)
    return model


def numbers(values):
    """Rows without categories."""
    return Rows(values, torch.zeros(len(values), 0, dtype=torch.long))


def unknown(n, d=2):
    return numbers(torch.full((n, d), torch.nan))


def nothing_barred(layout):
    return torch.zeros(layout.width - layout.n_numbers)
