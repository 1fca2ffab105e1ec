"""The mixture says exactly what its statistics say, and learns a table that is one."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import build, seeded

import lookalike as la
from lookalike.layout import Layout, Rows
from lookalike.models.mixture import Mixture, bins

LAYOUT = Layout(0, [3, 5, 2], [0, 1, 2])
EVERY_ROW = torch.cartesian_prod(*(torch.arange(size) for size in LAYOUT.sizes))


def categories(ids: torch.Tensor) -> Rows:
    return Rows(torch.empty(len(ids), 0), ids)


def energy(model: Mixture, ids: torch.Tensor) -> torch.Tensor:
    (cells,), _ = model.energies(categories(ids))
    return cells.double().sum(1)


def test_the_energy_is_minus_a_log_probability() -> None:
    model = build(Mixture, LAYOUT)
    probability = (-energy(model, EVERY_ROW)).exp()
    assert probability.sum().item() == pytest.approx(1, abs=1e-5)
    some = EVERY_ROW[:1].clone()
    some[0, 1] = -1  # summed out, not guessed
    alike = (EVERY_ROW[:, [0, 2]] == some[:, [0, 2]]).all(1)
    assert (-energy(model, some)).exp().item() == pytest.approx(probability[alike].sum().item(), rel=1e-4)


def test_draws_given_a_part_of_a_row_have_the_exact_conditional_distribution() -> None:
    model, n = build(Mixture, LAYOUT), 40_000
    ids = torch.tensor([[-1, 3, -1]]).repeat(n, 1)
    uniforms = torch.rand(n, model.noise_size[1], generator=seeded(1))
    barred = LAYOUT.bar([2, -1, -1])  # no row may hold the last level of the first category
    drawn = model.sample(torch.empty(n, 0), uniforms, categories(ids), barred).ids
    assert (drawn[:, 1] == 3).all()
    allowed = EVERY_ROW[(EVERY_ROW[:, 1] == 3) & (EVERY_ROW[:, 0] != 2)]
    want = (-energy(model, allowed)).exp()
    got = (drawn[:, None] == allowed).all(2).double().mean(0)
    assert got.sum() == 1
    assert torch.allclose(got, want / want.sum(), atol=0.01)


def test_every_step_on_all_rows_makes_them_likelier() -> None:
    model = build(Mixture, LAYOUT)
    ids = torch.randint(2, (400, 3), generator=seeded(2))
    ids[:200] = ids[:200].where(ids[:200] == 0, 1) * torch.tensor([2, 4, 1])
    losses = [
        loss.item()
        for _ in range(30)
        for loss, moved in model.objectives(categories(ids), seeded())
        if not moved
    ]
    assert len(losses) == 30
    # The first steps forget what the statistics were, which were none of these rows'.
    assert all(after < before + 1e-6 for before, after in pairwise(losses[3:]))


def test_a_table_of_three_classes_is_recovered() -> None:
    rng = np.random.default_rng(0)
    share = rng.dirichlet([0.4] * 6, size=(3, 4))  # of 6 levels in each class and column

    def rows(n: int) -> tuple[pd.DataFrame, np.ndarray]:
        kind = rng.integers(3, size=n)
        levels = np.array([[rng.choice(6, p=share[k, j]) for j in range(4)] for k in kind])
        frame = pd.DataFrame({f"c{j}": np.array(list("abcdef"))[levels[:, j]] for j in range(4)})
        each = np.prod([share[:, j, levels[:, j]] for j in range(4)], axis=0)
        return frame, np.log(each.mean(0))

    fitted, _ = rows(4000)
    model = la.Mixture(n_components=3, max_steps=300, random_state=0).fit(fitted)
    new, truth = rows(1000)
    own, *_ = model._scorer.totals(
        *(torch.as_tensor(part) for part in vars(model.schema_.encode(new)).values())
    )
    assert -own.mean().item() == pytest.approx(truth.mean(), abs=0.02)
    assert np.corrcoef(own.numpy(), -truth)[0, 1] > 0.99


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.integers(-5, 30), min_size=1, max_size=400),
    jitter=st.sampled_from([0.0, 0.3]),
    n=st.integers(2, 80),
)
def test_no_bin_ends_inside_a_value(values: list[int], jitter: float, n: int) -> None:
    from lookalike.preprocessing import Numbers

    column = np.array(values, float) + jitter * np.random.default_rng(0).normal(size=len(values))
    borders = Numbers.fit(column[:, None]).edges
    edges, n_bins = bins(borders, n)
    below = torch.special.ndtr(borders[0])
    low, high = below[::2], below[1::2]
    assert (edges[0].diff() >= 0).all()
    assert 1 <= n_bins[0] < len(edges[0])
    assert n_bins[0] <= 3 * n
    for end in edges[0, 1 : n_bins[0]]:
        assert not ((low + 1e-9 < end) & (end < high - 1e-9)).any()


def test_numbers_come_back_as_they_were_and_in_their_shares() -> None:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"zero": np.where(rng.random(3000) < 0.7, 0.0, rng.lognormal(size=3000))})
    frame["twice"] = 2 * frame["zero"] + 0.01 * rng.normal(size=3000)
    frame["kind"] = np.where(frame["zero"] == 0, "none", "some")
    made = la.Mixture(random_state=0).fit(frame).generate(3000, random_state=0)
    assert (made["zero"] == 0).mean() == pytest.approx(0.7, abs=0.03)
    assert ((made["zero"] == 0) == (made["kind"] == "none")).mean() > 0.98
    both = made[made["zero"] > 0.1].corr(method="spearman", numeric_only=True)
    assert both.loc["zero", "twice"] > 0.95
