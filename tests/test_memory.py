"""The memory: exact denoising, what it does not trust, and how energies become one."""

import numpy as np
import pytest
import torch

from lookalike.layout import Layout, Rows
from lookalike.memory import DOUBT, SIGMA, Blend, Memory, strays, trusted


def remembered(x: torch.Tensor, anomalies: torch.Tensor | None = None) -> Memory:
    layout = Layout(x.shape[1], [], range(x.shape[1]))
    known = x[:0] if anomalies is None else anomalies
    return Memory(layout, torch.ones(x.shape[1]), x, torch.ones(len(x)), torch.ones(len(x)), known)


def rows(x: torch.Tensor) -> Rows:
    return Rows(x, torch.empty(len(x), 0, dtype=torch.long))


def test_denoising_is_the_weighted_mean_of_what_is_remembered() -> None:
    generator = torch.Generator().manual_seed(0)
    x, new = torch.randn(12, 3, generator=generator), torch.randn(50, 3, generator=generator) * 2
    moved, _ = remembered(x).energies(rows(new))
    distance = torch.cdist(new.double(), x.double()) ** 2
    weights = torch.softmax(-distance / (2 * SIGMA**2), 1)
    assert torch.allclose(moved.double(), (new - weights @ x.double()) ** 2, rtol=1e-3, atol=1e-4)


def test_a_row_is_scored_as_if_it_had_not_been_fitted() -> None:
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    whole = remembered(x).energies(rows(x[:1]))
    without = remembered(x[1:]).energies(rows(x[:1]))
    for a, b in zip(whole, without, strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-6)


def test_a_row_seen_twice_is_known() -> None:
    x = torch.randn(15, 4, generator=torch.Generator().manual_seed(1))
    memory = remembered(x)
    count = torch.where(torch.arange(15) == 0, 2.0, 1.0)
    twice = Memory(memory.layout, memory.scale, x, count, memory.doubt, x[:0])
    assert twice.energies(rows(x[:1]))[0].sum() < 0.1 * memory.energies(rows(x[:1]))[0].sum()


def test_anomalies_that_vouch_for_each_other_are_not_trusted() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(950, 5, generator=generator)
    clique = 6 + 0.1 * torch.randn(50, 5, generator=generator)
    sound = trusted(torch.cat([normal, clique]), generator)
    assert not sound[950:].any()
    assert sound[:950].float().mean() > 0.8


def test_a_row_that_is_not_trusted_vouches_from_twice_its_distance() -> None:
    x, new = torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 0.0]])
    memory = remembered(x)
    doubted = Memory(memory.layout, memory.scale, x, memory.count, torch.full((1,), DOUBT), x[:0])
    for sure, doubtful in zip(memory.energies(rows(new)), doubted.energies(rows(new)), strict=True):
        assert torch.allclose(doubtful, 4 * sure)
    generator = torch.Generator().manual_seed(0)
    clique = 6 + 0.1 * torch.randn(50, 5, generator=generator)
    table = torch.cat([torch.randn(950, 5, generator=generator), clique])
    learned = Memory.learn(Layout(5, [], range(5)), rows(table), rows(table[:0]), 1000, generator)
    assert (learned.rows[:, 0] > 4).sum() > 5
    assert (learned.doubt[learned.rows.mean(1) > 4] == DOUBT).all()


def test_distances_are_to_the_five_nearest() -> None:
    generator = torch.Generator().manual_seed(0)
    x, new = torch.randn(100, 5, generator=generator), torch.randn(200, 5, generator=generator)
    _, distance = remembered(x).energies(rows(new))
    nearest = (torch.cdist(new.double(), x.double()) ** 2).sort(1)[0][:, :5]
    assert torch.allclose(distance.sum(1).double(), nearest.mean(1), rtol=1e-4)


def test_in_what_order_rows_are_remembered_does_not_matter_where_many_are_equally_far() -> None:
    side = torch.arange(7.0) * 0.4
    x = torch.cartesian_prod(side, side, side)
    other = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))]
    asked = rows(torch.cat([x, x + torch.tensor([0.2, 0.0, 0.0])]))
    for a, b in zip(remembered(x).energies(asked), remembered(other).energies(asked), strict=True):
        assert torch.allclose(a.sum(1), b.sum(1), atol=2e-3)


def test_a_clique_of_anomalies_is_afar_though_its_members_are_near_each_other() -> None:
    generator = torch.Generator().manual_seed(0)
    clique, usual = 6 + 0.1 * torch.randn(5, 5, generator=generator), torch.randn(95, 5, generator=generator)
    x = torch.cat([clique, usual])
    afar = remembered(x).afar(rows(x))
    others = torch.cdist(x.double(), x.double()) ** 2 + torch.diag(torch.full((100,), torch.inf))
    assert torch.allclose(afar.double(), others.sort(1)[0][:, :10].mean(1), rtol=1e-3)
    assert strays(afar)[:5].all()
    assert strays(afar)[5:].float().mean() < 0.02


def test_where_most_rows_are_alike_none_is_a_stray() -> None:
    energy = torch.cat([torch.ones(60), torch.linspace(1.1, 9, 40)])
    assert not strays(energy).any()
    assert strays(torch.cat([torch.linspace(1, 2, 60), torch.full((3,), 99.0)])).nonzero()[:, 0].tolist() == [
        60,
        61,
        62,
    ]


def test_energies_of_one_spread_have_equal_votes_and_what_was_learned_by_heart_has_little() -> None:
    rng = np.random.default_rng(0)
    a, b, unseen = (torch.from_numpy(rng.chisquare(8, 500)) for _ in range(3))
    none = torch.empty(0, dtype=torch.float64)
    blend = Blend.learn([a, 100 * b], [unseen, 100 * unseen], [none, none], [none, none])
    assert blend.weight.tolist() == pytest.approx([0.5, 0.5], abs=0.05)
    blend = Blend.learn([a, b / 1000], [unseen, unseen], [none, none], [none, none])
    assert blend.weight[1] < 0.05
    cells = torch.from_numpy(rng.chisquare(1, (20, 4)))
    both = Blend.learn([a, b], [unseen, unseen], [none, none], [none, none])(cells, 3 * cells)
    assert both.shape == cells.shape
    assert (both >= 0).all()
    order = both.sum(1).argsort()
    assert order.tolist() == cells.sum(1).argsort().tolist()


def test_an_energy_that_forged_anomalies_do_not_move_has_no_say() -> None:
    generator = torch.Generator().manual_seed(0)
    usual, odd = (
        torch.rand(400, generator=generator).double() + 1,
        torch.rand(400, generator=generator).double(),
    )
    blind, sharp = usual.flip(0), usual
    none = torch.empty(0, dtype=torch.float64)
    told = [[blind, sharp], [blind, sharp], [none, none]]
    assert Blend.learn(*told, [none, none]).weight.tolist() == pytest.approx([0.5, 0.5])
    assert Blend.learn(*told, [odd + 1, odd + 3]).weight[0] < 0.05
