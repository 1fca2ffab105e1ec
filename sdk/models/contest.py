"""R3GAN's contest: a critic that tells real rows from made ones, and what makes them.

The loss is relativistic, with zero-centred gradient penalties on real and on made rows (Huang, Gokaslan,
Kuleshov and Tompkin, "The GAN is dead; long live the GAN!", NeurIPS 2024, arXiv 2501.05441).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import softplus

from lookalike.layout import Layout

BETAS = (0.0, 0.99)  # momentum makes the contest oscillate
TEMPERATURE = 0.7  # of the relaxed categories
PENALTY_SHARE = 4  # one row in four bears the gradient penalties: unbiased, and half the cost of a step


def lost(by: Tensor, to: Tensor) -> Tensor:
    """What is lost by those of these scores to those with which they are compared."""
    return softplus(to - by).mean()


def bearing(n: int) -> slice:
    """Which of n rows bear the penalties."""
    return slice(max(n // PENALTY_SHARE, 1))


def reaches(layout: Layout) -> Tensor:
    """How far each feature goes from row to row, (width,): a level of an image's label as far as an image."""
    beside = layout.width - layout.n_numbers
    return torch.cat([torch.ones(layout.n_numbers), torch.full((beside,), layout.reach)])


def steepness(judge: Callable[[Tensor], Tensor], rows: Tensor, reach: Tensor) -> Tensor:
    """Mean squared length of a critic's gradient; of real and made rows together half of R1 + R2."""
    rows = rows.detach().requires_grad_()
    (slope,) = torch.autograd.grad(judge(rows).sum(), rows, create_graph=True)
    return (slope * reach).square().sum(1).mean()
