"""Which network suits which kind of data, by the rank of `Layout.shape`: 1 for rows, 3 for images."""

from __future__ import annotations

from collections.abc import Callable

from lookalike.convolutional import UNet
from lookalike.networks import ResidualMLP


def _rows(shape: tuple[int], n_scores: int, width: int, depth: int, context: int) -> ResidualMLP:
    n = shape[0] + n_scores
    return ResidualMLP(n + shape[0], n, width, depth, context)


DENOISERS: dict[int, Callable[..., ResidualMLP | UNet]] = {1: _rows, 3: UNet}
"""By rank: noisy coordinates, categories and which coordinates are observed to estimates of clean ones."""
