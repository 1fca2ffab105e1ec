"""Which network suits which kind of data, by the rank of `Layout.shape`: 1 for rows, 3 for images."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from lookalike.adversaries import ConvCritic, ConvGenerator, StyleGenerator
from lookalike.convolutional import ConvDecoder, ConvEncoder, UNet
from lookalike.disturbing import disturb
from lookalike.networks import ResidualMLP


def _rows(shape: tuple[int], n_scores: int, width: int, depth: int, context: int) -> ResidualMLP:
    n = shape[0] + n_scores
    return ResidualMLP(n + shape[0], n, width, depth, context)


DENOISERS: dict[int, Callable[..., ResidualMLP | UNet]] = {1: _rows, 3: UNet}
"""By rank: noisy coordinates, categories and which coordinates are observed to estimates of clean ones."""


def _encoder(shape: tuple[int], n_scores: int, n_out: int, width: int, depth: int) -> ResidualMLP:
    return ResidualMLP(2 * shape[0] + n_scores, n_out, width, depth)


def _decoder(shape: tuple[int], n_scores: int, latent_dim: int, width: int, depth: int) -> ResidualMLP:
    n = 2 * shape[0] + n_scores
    return ResidualMLP(latent_dim + n, n, width, depth)


ENCODERS: dict[int, Callable[..., ResidualMLP | ConvEncoder]] = {1: _encoder, 3: ConvEncoder}
"""By rank: coordinates, categories and which coordinates are known to numbers."""

DECODERS: dict[int, Callable[..., ResidualMLP | ConvDecoder]] = {1: _decoder, 3: ConvDecoder}
"""By rank: a latent, and what an encoder sees, to coordinates, their spread, and categories."""


def _completes_rows(shape: tuple[int], n_scores: int, latent_dim: int, width: int, depth: int) -> ResidualMLP:
    n = shape[0] + n_scores
    return ResidualMLP(latent_dim + n + shape[0], n, width, depth)


def _judges_rows(shape: tuple[int], n_scores: int, n_categories: int, width: int, depth: int) -> ResidualMLP:
    return ResidualMLP(2 * shape[0] + n_scores + n_categories, 1, width, depth, norm=False)


GENERATORS: dict[int, Callable[..., ResidualMLP | ConvGenerator]] = {1: _completes_rows, 3: ConvGenerator}
"""By rank: noise, and a row with flags for the coordinates observed, to a whole row."""

STYLED: dict[int, Callable[..., StyleGenerator]] = {3: StyleGenerator}
"""By rank: generators whose styles can be mixed and truncated."""

CRITICS: dict[int, Callable[..., ResidualMLP | ConvCritic]] = {1: _judges_rows, 3: ConvCritic}
"""By rank: a row, with flags for the cells observed, to how real it looks."""


DISTURBANCES: dict[int, Callable[..., tuple[Tensor, Tensor]]] = {3: disturb}
"""By rank: changes of what a critic sees, where there are some that leave its meaning alone."""
