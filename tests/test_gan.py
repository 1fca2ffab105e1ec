"""The GAN against what can be computed exactly: simple critics, and what each part may and may not see."""

import math

import pytest
import torch
from tiny import build, numbers, seeded

from lookalike.layout import Layout, Rows
from lookalike.models.contest import steepness
from lookalike.models.gan import GAN

MIXED = Layout(2, [3, 5, 2], [0, 1, 2, 3, 1])


def mixed_rows(n, seed=0):
    ids = [torch.randint(size, (n,), generator=seeded(seed + size)) for size in MIXED.sizes]
    return Rows(torch.randn(n, 2, generator=seeded(seed)), torch.stack(ids, 1))


def test_the_penalty_is_the_squared_gradient_of_the_critic_by_the_row():
    model, rows = build(GAN, MIXED), MIXED.expand(mixed_rows(50))
    observed = torch.rand(50, MIXED.n_cells, generator=seeded()) < 0.5
    model.critic = torch.nn.Linear(MIXED.width + MIXED.n_cells, 1)
    slope = model.critic.weight[0, : MIXED.width]  # what is observed is told, and bears no gradient
    found = steepness(lambda x: model.judge(x, observed), rows, model.reach)
    torch.testing.assert_close(found, slope.square().sum())
    found = steepness(lambda x: x[:, :2].square().sum(1), rows, model.reach)
    torch.testing.assert_close(found, 4 * rows[:, :2].square().sum(1).mean())


def test_the_critics_contest_and_the_generators_are_one_reversed():
    model, rows, seen = build(GAN, MIXED), mixed_rows(64), []
    model.gamma = 0.0

    def judge(x, observed):
        seen.append(x[:, 0])
        return x[:, 0]

    model.judge = judge
    critic, generator = (loss.item() for loss, _ in model.objectives(rows, seeded()))
    real, fake = seen[1].chunk(2)
    assert critic == pytest.approx(torch.log1p((fake - real).exp()).mean().item(), rel=1e-5)
    assert generator == pytest.approx(torch.log1p((real - fake).exp()).mean().item(), rel=1e-5)
    model.judge = lambda x, observed: 0 * x[:, 0]
    for loss, _ in model.objectives(rows, seeded()):
        assert loss.item() == pytest.approx(math.log(2))


def test_real_and_completed_rows_agree_where_they_are_observed_and_the_critic_is_told_where():
    model, rows, seen = build(GAN, MIXED), mixed_rows(64), []
    judge = model.judge
    model.judge = lambda x, observed: seen.append((x.detach(), observed)) or judge(x, observed)
    list(model.objectives(rows, seeded()))
    pairs, observed = seen[1]
    real, fake = pairs.chunk(2)
    told, told_again = observed.chunk(2)
    assert torch.equal(told, told_again)
    assert 0 < told.float().mean() < 0.5
    assert torch.equal(real, MIXED.expand(rows))
    features = MIXED.spread(told)
    assert torch.equal(real[features], fake[features])
    assert (real[:, :2] != fake[:, :2])[~features[:, :2]].all()


def test_what_is_expected_of_a_column_does_not_see_the_column():
    model, rows, others = build(GAN, MIXED), mixed_rows(40), mixed_rows(40, seed=100)
    everything = torch.ones(40, MIXED.n_columns, dtype=torch.bool)
    _, before = model.energies(rows)
    for column in range(MIXED.n_columns):
        own = MIXED.column_of_cell == column
        changed = MIXED.reveal(MIXED.hide(rows, own.expand(40, -1)), others, everything)
        _, after = model.energies(changed)
        same = torch.cat([before.numbers == after.numbers, before.ids == after.ids], 1)
        assert same[:, own].all()
        assert not same[:, ~own].all()


def test_fidelity_is_the_energy_distance():
    model, n = build(GAN, Layout(2, [], [0, 1])), 2000
    x, fresh = (torch.randn(n, 2, generator=seeded(seed)) * torch.tensor([1.0, 0.0]) for seed in (0, 1))
    for shift in (0.0, 0.5, 2.0):
        model.sample = lambda *noise, shift=shift: numbers(fresh + torch.tensor([shift, 0.0]))
        # E|X - Y| of two normal numbers that far apart
        far = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)
        expected = 2 * (far - 2 / math.sqrt(math.pi))
        assert model.fidelity(numbers(x), seeded()).item() == pytest.approx(expected, abs=0.03 * (1 + shift))
