"""Laws of the layout: blocks of any sizes say what each category by itself would, in the user's order."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy

from lookalike.layout import Layout, Rows

SIZES = st.lists(st.integers(1, 20), max_size=6)
MIXED = [3, 17, 1, 2, 16, 2]  # five widths of blocks, two categories in one of them, padding in two


def layout_of(d, sizes):
    """One column a cell."""
    return Layout(d, sizes, range(max(d + len(sizes), 1)))


def features(layout, category):
    """Where the levels of a category stand among the scores of all."""
    owned = layout.cell_of_feature[layout.n_numbers :] == layout.n_numbers + category
    return owned.nonzero()[: layout.sizes[category], 0]


def random_rows(layout, n, seed=0, unknown=0.0):
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, layout.n_numbers))
    ids = np.stack([rng.integers(size, size=n) for size in layout.sizes] or [np.zeros((0, n))], -1)
    numbers[rng.random(numbers.shape) < unknown] = np.nan
    if not layout.sizes:
        ids = np.zeros((n, 0))
    ids[rng.random(ids.shape) < unknown] = -1
    return Rows(torch.tensor(numbers, dtype=torch.float32), torch.tensor(ids, dtype=torch.long))


def random_scores(layout, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, layout.width - layout.n_numbers, generator=generator)


def assert_rows_equal(a, b):
    torch.testing.assert_close(a.numbers, b.numbers, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(a.ids, b.ids)


# ---- categories ----


@given(SIZES, st.integers(0, 3))
def test_the_likeliest_level_undoes_the_indicators(sizes, d):
    layout = layout_of(d, sizes)
    rows = random_rows(layout, 30)
    vector = layout.expand(rows)
    assert vector.shape == (30, layout.width)
    assert torch.equal(vector[:, :d], rows.numbers)
    assert torch.equal(vector[:, d:].sum(1), torch.full((30,), float(len(sizes))))
    for category, levels in enumerate(rows.ids.T):
        own = vector[:, d:][:, features(layout, category)]
        assert torch.equal(own.argmax(1), levels)
    assert torch.equal(layout.mode(vector[:, d:]), rows.ids)
    uniforms = torch.rand(30, len(sizes), generator=torch.Generator().manual_seed(0))
    assert torch.equal(layout.draw(100 * vector[:, d:], uniforms), rows.ids)


@given(SIZES)
def test_surprise_is_the_cross_entropy_of_each_category_in_the_users_order(sizes):
    layout = layout_of(2, sizes)
    rows, scores = random_rows(layout, 20, unknown=0.2), 3 * random_scores(layout, 20)
    surprise = layout.category_nll(scores, rows.ids)
    assert surprise.shape == (20, len(sizes))
    for category, levels in enumerate(rows.ids.T):
        own = scores[:, features(layout, category)]
        expected = cross_entropy(own, levels, ignore_index=-1, reduction="none")
        torch.testing.assert_close(surprise[:, category], expected)


def test_drawing_inverts_the_distribution_function():
    layout, n = layout_of(1, MIXED), 4000
    scores = 2 * random_scores(layout, 1)
    grid = (torch.arange(n) + 0.5) / n
    drawn = layout.draw(scores.expand(n, -1), grid[:, None].expand(-1, len(MIXED)))
    assert torch.equal(drawn, drawn.sort(0).values)
    for category, size in enumerate(MIXED):
        shares = torch.bincount(drawn[:, category], minlength=size) / n
        p = scores[0, features(layout, category)].softmax(0)
        assert len(shares) == size
        assert (shares - p).abs().max() <= 1.01 / n


@given(SIZES, st.sampled_from([2.0**-53, 2.0**-24, 0.5, 1 - 2.0**-24]), st.floats(0, 1e4))
def test_a_level_that_only_pads_is_never_drawn(sizes, uniform, scale):
    layout = layout_of(0, sizes)
    scores = random_scores(layout, 50) * scale
    for drawn in (layout.draw(scores, torch.full((50, len(sizes)), uniform)), layout.mode(scores)):
        assert ((drawn >= 0) & (drawn < torch.tensor(sizes, dtype=torch.long))).all()


def test_a_barred_level_is_not_drawn_and_the_others_share_its_probability():
    layout, n = layout_of(1, MIXED), 4000
    barred = [0, 16, -1, 1, 7, -1]
    scores = random_scores(layout, 1)
    grid = ((torch.arange(n) + 0.5) / n)[:, None].expand(-1, len(MIXED))
    drawn = layout.draw((scores + layout.bar(barred)).expand(n, -1), grid)
    for category, (size, level) in enumerate(zip(MIXED, barred, strict=True)):
        p = scores[0, features(layout, category)].softmax(0)
        if level >= 0:
            p[level] = 0
        shares = torch.bincount(drawn[:, category], minlength=size) / n
        assert (shares - p / p.sum()).abs().max() <= 1.01 / n
    assert not layout.bar([-1] * len(MIXED)).any()
    assert layout_of(2, []).bar([]).shape == (0,)


def test_activated_categories_are_drawn_one_hot_with_their_probabilities():
    layout, n = layout_of(2, MIXED), 20_000
    x = torch.cat([torch.randn(1, 2), random_scores(layout, 1)], 1).expand(n, -1)
    chance = torch.rand(n, layout.width - 2, generator=torch.Generator().manual_seed(0)).clamp(1e-6)
    row = layout.activate(x, chance.clamp(max=1 - 1e-6), 0.7)
    assert torch.equal(row[:, :2], x[:, :2])
    torch.testing.assert_close(row[:, 2:], row[:, 2:].round(), rtol=0, atol=1e-6)
    for category in range(len(MIXED)):
        own = row[:, 2:][:, features(layout, category)]
        torch.testing.assert_close(own.sum(1), torch.ones(n))
        p = x[0, 2:][features(layout, category)].softmax(0)
        assert (own.mean(0) - p).abs().max() < 4 * 0.5 / n**0.5


def test_gradients_pass_through_a_drawn_category_as_through_the_softmax():
    layout, temperature = layout_of(0, [4]), 0.7
    scores = random_scores(layout, 8).requires_grad_()
    chance = torch.rand(8, 4, generator=torch.Generator().manual_seed(1))
    weight = torch.arange(4.0)
    (slope,) = torch.autograd.grad((layout.activate(scores, chance, temperature) * weight).sum(), scores)
    soft = torch.softmax((scores.log_softmax(1) - (-chance.log()).log()) / temperature, 1)
    (expected,) = torch.autograd.grad((soft * weight).sum(), scores)
    torch.testing.assert_close(slope, expected)
    assert slope.abs().min() > 0


# ---- cells and columns ----

OWNERS = [0, 3, 1, 2, 4, 3]  # the second coordinate and the last category are of one column


@pytest.fixture
def layout():
    return Layout(2, [3, 17, 5, 2], OWNERS)


def test_hiding_cells_makes_them_and_no_others_unknown(layout):
    rows = random_rows(layout, 50, unknown=0.2)
    cells = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    hidden = layout.hide(rows, cells)
    assert torch.equal(layout.known(hidden), layout.known(rows) & ~cells)
    assert torch.equal(layout.expand(hidden), layout.expand(rows) * ~layout.spread(cells))
    assert_rows_equal(layout.hide(hidden, cells), hidden)


def test_revealing_takes_over_the_columns_asked_for_where_nothing_is_known(layout):
    rows, drawn = random_rows(layout, 200, unknown=0.5), random_rows(layout, 200, seed=1)
    columns = torch.rand(200, 5, generator=torch.Generator().manual_seed(0)) < 0.5
    after = layout.reveal(rows, drawn, columns)
    known = layout.known(rows)
    asked = torch.stack([columns[:, owner] for owner in OWNERS], 1)
    assert torch.equal(layout.known(after), known | asked)
    assert_rows_equal(layout.hide(after, ~known), rows)
    fresh = asked & ~known
    assert_rows_equal(layout.hide(after, ~fresh), layout.hide(drawn, ~fresh))


def test_what_was_hidden_can_be_revealed_again(layout):
    rows = random_rows(layout, 50)
    cells = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) < 0.5
    everything = torch.ones(50, 5, dtype=torch.bool)
    assert_rows_equal(layout.reveal(layout.hide(rows, cells), rows, everything), rows)


def test_cells_add_up_to_their_columns(layout):
    cells = torch.rand(7, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.zeros((7, 5))
    np.add.at(expected, (slice(None), OWNERS), cells.numpy())
    torch.testing.assert_close(layout.sum_by_column(cells), torch.from_numpy(expected))


def test_gaps_are_measured_in_units_which_a_row_may_bring(layout):
    a, b = random_rows(layout, 9), random_rows(layout, 9, seed=1)
    clipped = Layout(2, [3, 17, 5, 2], OWNERS, torch.nn.Hardtanh(-0.5, 0.5))
    expected = b.numbers.clamp(-0.5, 0.5) - a.numbers.clamp(-0.5, 0.5)
    torch.testing.assert_close(clipped.gap(a, b.numbers), expected)
    brought = clipped.gap(Rows(a.numbers, a.ids, torch.ones(9, 2)), b.numbers)
    torch.testing.assert_close(brought, b.numbers.clamp(-0.5, 0.5) - 1)


def test_half_the_rows_show_nothing_and_the_others_any_number_of_columns_alike(layout):
    n = 40_000
    observed = layout.random_observed(n, torch.Generator().manual_seed(0), "cpu")
    assert torch.equal(observed[:, 1], observed[:, 5])
    columns = observed[:, [0, 2, 3, 1, 4]]
    shares = torch.bincount(columns.sum(1), minlength=6) / n
    expected = torch.tensor([1 / 2 + 1 / 12, *[1 / 12] * 5])
    assert (shares - expected).abs().max() < 4 * 0.5 / n**0.5
    assert (columns.float().mean(0) - 1 / 4).abs().max() < 4 * 0.5 / n**0.5
