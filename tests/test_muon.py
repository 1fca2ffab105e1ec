"""Muon: steps of matrices go as far in every direction, and of everything else they are Adam's."""

import numpy as np
import pytest
import torch
from torch import nn

from lookalike.muon import LENGTH, Muon, orthogonal
from lookalike.networks import WHOLE, Pace
from lookalike.training import Schedule, train


class Skewed(nn.Module):
    """Learns a matrix from products with vectors most of which go nearly one way; and as many numbers."""

    stages = (WHOLE,)

    def __init__(self, optimizer=Muon):
        super().__init__()
        seeded = torch.Generator().manual_seed(0)
        self.wanted = torch.randn(24, 32, generator=seeded)
        turned, _ = torch.linalg.qr(torch.randn(32, 32, generator=seeded))
        self.mixing = torch.logspace(0, -2, 32)[:, None] * turned
        self.w, self.b = nn.Parameter(torch.zeros(24, 32)), nn.Parameter(torch.zeros(24))
        self.orthogonal = optimizer is Muon

    def __len__(self):
        return 1000

    def batch(self, index, generator):
        return torch.randn(len(index), 32, generator=generator) @ self.mixing

    def start_stage(self, stage):
        pass

    def settle(self):
        pass

    def pace(self, k):
        return Pace((0.9, 0.99), orthogonal=self.orthogonal)

    def objectives(self, rows, generator):
        yield (rows @ (self.w - self.wanted).T + self.b - 1).square().mean(), [self.w, self.b]

    def far(self):
        return ((self.w - self.wanted).square().mean() / self.wanted.square().mean()).item()


def learn(model, n_steps=400, **options):
    train(model, model, None, Schedule(n_steps, 64, 0.1), 0, **options)
    return model


@pytest.mark.parametrize("shape", [(3, 20, 90), (2, 90, 20), (1, 30, 30)])
def test_directions_become_as_long_as_each_other_and_stay_what_they_were(shape):
    rng = np.random.default_rng(0)
    left, _, right = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    lengths = np.geomspace(1, 0.02, min(shape[1:]))  # of the longest
    given = torch.from_numpy((left * lengths) @ right)
    made = orthogonal(given).numpy()
    along = np.einsum("nik,nij,nkj->nk", left, made, right)
    assert along.min() > 0.2  # of the shortest, a fiftieth of the longest
    assert along.max() < 1.3
    assert np.linalg.svd(made, compute_uv=False).max() < 1.3


def test_what_few_gradients_say_is_learned_as_well():
    assert learn(Skewed()).far() < 0.2 * learn(Skewed(torch.optim.Adam)).far()


def test_steps_are_as_long_as_the_rate_says_whatever_the_gradients():
    w = nn.Parameter(torch.zeros(64, 16, 3, 3))
    optimizer = Muon([w], (0.9, 0.99))
    optimizer.param_groups[0]["lr"] = 0.5
    for size in (1e-6, 1e3):
        before = w.detach().clone()
        w.grad = size * torch.randn(w.shape, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        length = (w - before).square().mean().sqrt().item()
        assert length == pytest.approx(0.5 * LENGTH, rel=0.3)


def test_vectors_and_narrow_layers_are_adams():
    def moved(make):
        seeded = torch.Generator().manual_seed(0)
        held = [
            nn.Parameter(torch.randn(size, generator=seeded)) for size in [(40,), (40, 15), (8, 40, 3, 3)]
        ]
        optimizer = make(held)
        for _ in range(3):
            for p in held:
                p.grad = torch.randn(p.shape, generator=seeded)
            optimizer.step()
        return [p.detach() for p in held]

    ours = moved(lambda held: Muon(held, (0.9, 0.99)))
    adams = moved(lambda held: torch.optim.Adam(held, betas=(0.9, 0.99), fused=True))
    assert all(torch.equal(a, b) for a, b in zip(ours, adams, strict=True))


def test_a_run_that_was_killed_goes_on_to_the_same_bits(tmp_path):
    def killed(progress):
        if progress.step == 12:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        learn(Skewed(), 20, callbacks=[killed], checkpoint=tmp_path / "c")
    resumed, unbroken = learn(Skewed(), 20, checkpoint=tmp_path / "c"), learn(Skewed(), 20)
    assert torch.equal(resumed.w, unbroken.w)
    assert torch.equal(resumed.b, unbroken.b)
