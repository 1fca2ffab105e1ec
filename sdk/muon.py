"""Adam, but matrices take steps that go as far in every direction.

Muon (Jordan, Jin, Boza, You, Cesista, Newhouse and Bernstein, "Muon: an optimizer for hidden layers in neural
networks", 2024): the running mean of a matrix's gradients is made orthogonal, so that what few gradients say
is learned as fast as what all of them say. Its steps are as long as Adam's are (Liu et al., "Muon is scalable
for LLM training", 2025, arXiv 2502.16982, section 2.2), so that one learning rate does for both.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

SMALLEST = 16  # sides of what counts as a matrix; layers that come from or lead to less are Adam's
LENGTH = 0.2  # of a step, as a root of mean squares, at a learning rate of 1
ROUNDS = 3
FIRST, THIRD, FIFTH = 3.4445, -4.7750, 2.0315


def orthogonal(matrices: Tensor) -> Tensor:
    """Give matrices, (n, rows, columns), singular values of about 1: .7 to 1.2, where they are not tiny.

    By the quintic iteration of Jordan et al. (Newton and Schulz's, made steep at 0).
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ROUNDS):
        square = x @ x.mT
        x = FIRST * x + (THIRD * square + FIFTH * square @ square) @ x
    return x.mT if tall else x


class Muon(torch.optim.Adam):
    """Of parameters of any shape; the kernels of a convolution are the rows of a matrix.

    Parameters
    ----------
    parameters : list of Parameter
    betas : tuple of float
        Adam's; the first is that of matrices too.
    """

    def __init__(self, parameters: list[nn.Parameter], betas: tuple[float, float]) -> None:
        super().__init__(parameters, betas=betas, fused=True)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Move the parameters by their gradients."""
        (group,) = self.param_groups
        momentum = group["betas"][0]
        alike: dict[tuple[int, int], list[nn.Parameter]] = {}
        for p in group["params"]:
            if p.grad is not None and p.ndim > 1 and min(sides := (len(p), p[0].numel())) >= SMALLEST:
                alike.setdefault(sides, []).append(p)
        for sides, matrices in alike.items():
            gradients = [p.grad for p in matrices if p.grad is not None]
            for p in matrices:
                if not self.state[p]:
                    self.state[p]["mean"] = torch.zeros_like(p)
            means = [self.state[p]["mean"] for p in matrices]
            torch._foreach_lerp_(means, gradients, 1 - momentum)
            ahead = torch._foreach_lerp(gradients, means, momentum)
            steps = orthogonal(torch.stack([each.flatten(1) for each in ahead]))
            steps = steps * (group["lr"] * LENGTH * math.sqrt(max(sides)))
            for p, step in zip(matrices, steps, strict=True):
                p.sub_(step.view(p.shape))
                p.grad = None  # nothing is left to Adam
        return super().step(closure)
