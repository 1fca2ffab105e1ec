"""Laws of the codec: normal scores of any shape, exact atoms, order kept out to the largest floats."""

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import kstest

from lookalike.layout import Rows
from lookalike.piecewise import STEEPEST, Searched, interpolate
from lookalike.preprocessing import LINEAR_TO, MAX_KNOTS, MAX_VALUES, Numbers, TableCodec, squash

RNG = np.random.default_rng(0)
BELL = RNG.normal(size=5000)
SHAPES = {
    "normal": BELL,
    "far from zero": 1e6 + 1e-3 * BELL,
    "lognormal": np.exp(2 * BELL),
    "two lumps": np.where(RNG.random(5000) < 0.3, BELL - 20, BELL + 20),
    "heavy tails": RNG.standard_t(1.5, size=5000),
    "few rows": BELL[:60],
}
LARGEST, SMALLEST = float(np.finfo(float).max), 5e-324
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def column(values):
    return torch.tensor(np.asarray(values, dtype=float))[:, None]


def fit(*columns):
    return Numbers.fit(np.stack([np.asarray(c, dtype=float) for c in columns], 1))


def lumps(n=3000, seed=0):
    """Zeros, a cap, and what lies between; the true share of each."""
    rng = np.random.default_rng(seed)
    return np.where(rng.random(n) < 0.4, 0.0, np.minimum(rng.gamma(2.0, size=n), 4.0))


# ---- numbers ----


@pytest.mark.parametrize("shape", SHAPES)
def test_scores_are_standard_normal_whatever_the_shape(shape):
    values = SHAPES[shape]
    scores = fit(values).encode(column(values))[:, 0].numpy()
    assert abs(scores.mean()) < 0.01
    assert scores.std() == pytest.approx(1, abs=2 / len(values) + 0.01)
    assert kstest(scores, "norm").statistic < 2 / min(len(values), MAX_KNOTS)
    assert_array_equal(np.argsort(scores, kind="stable"), np.argsort(values, kind="stable"))


@pytest.mark.parametrize("shape", SHAPES)
def test_decoding_undoes_encoding_to_within_the_neighbouring_knots(shape):
    values = np.sort(SHAPES[shape])
    maps = fit(values)
    back = maps.decode(maps.encode(column(values)).double())[:, 0].numpy()
    place = np.searchsorted(values, back) - np.arange(len(values))
    assert np.abs(place).max() <= len(values) / (MAX_KNOTS - 1) + 1
    knots = maps.value[0].numpy()
    back = maps.decode(maps.encode(column(knots)).double())[:, 0]
    assert_allclose(back, knots, rtol=1e-9, atol=1e-5 * values.std())  # float32


@pytest.mark.parametrize(
    "values",
    [
        [3.0],
        [1.0, 1.0, 1.0],
        RNG.integers(-3, 4, 500),
        0.1 * RNG.poisson(3, 2000),
        RNG.choice([-LARGEST, -1e300, 0.0, SMALLEST, 1e-300, 1e300, LARGEST], 300),
        RNG.choice([SMALLEST, 2 * SMALLEST, 5 * SMALLEST], 300),
    ],
    ids=["one", "constant", "whole", "tenths", "extremes", "subnormal"],
)
def test_the_values_of_a_discrete_column_come_back_exactly(values):
    values = np.asarray(values, dtype=float)
    maps = fit(values)
    x = column(values)
    assert_array_equal(maps.decode(maps.encode(x).double()), x)
    low, high = maps.interval(x)
    for share in (0.001, 0.3, 0.999):
        assert_array_equal(maps.decode(torch.special.ndtri(low + share * (high - low))), x)


def test_a_column_of_thousands_of_values_that_repeat_is_drawn_from_them_alone():
    values = np.round(RNG.gamma(2.0, size=20_000), 3) / 7  # a lattice that no rule of rounding knows
    seen, count = np.unique(values, return_counts=True)
    assert MAX_KNOTS < len(seen) < MAX_VALUES
    maps = Numbers.fit(column(values).numpy(), MAX_VALUES)
    made = maps.decode(column(RNG.normal(size=20_000))).numpy()[:, 0]
    assert np.isin(made, seen).all()
    often = seen[count >= 15]
    assert np.isin(made, often).mean() == pytest.approx(np.isin(values, often).mean(), abs=0.02)
    several = Numbers.fit(np.tile(column(values).numpy(), 200), MAX_VALUES)
    assert several.value.numel() < 2**18


def test_lumps_own_intervals_as_wide_as_their_shares_and_come_back_exactly():
    values = lumps()
    maps = fit(values)
    for atom in (0.0, 4.0):
        low, high = maps.interval(column([atom]))
        assert high - low == pytest.approx((values == atom).mean(), abs=0.6 / len(values))
        inside = low + (high - low) * torch.linspace(0, 1, 99, dtype=torch.float64)[1:-1, None]
        assert (maps.decode(torch.special.ndtri(inside)) == atom).all()
    rest = column(values[(values > 0) & (values < 4)])
    low, high = maps.interval(rest)
    assert torch.equal(low, high)
    scores = torch.special.ndtri((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000)[:, None]
    made = maps.decode(scores)
    for atom in (0.0, 4.0):
        assert (made == atom).double().mean() == pytest.approx((values == atom).mean(), abs=2e-3)


@given(st.lists(FLOATS, min_size=1, max_size=60), st.lists(FLOATS, min_size=2, max_size=30))
@example([-LARGEST, LARGEST, 0.9 * LARGEST], [-0.5 * LARGEST, 0.0, 0.5 * LARGEST])
@example([0.0, SMALLEST], [-SMALLEST, 1.0])
def test_order_is_kept_and_nothing_becomes_infinite(seen, asked):
    maps = fit(seen)
    x = column(sorted([*asked, *seen]))
    scores = maps.encode(x)
    units = maps.units()(scores)
    back = maps.decode(scores.double())
    assert ((back >= min(seen)) & (back <= max(seen))).all()
    for z in (scores, maps.standard(x), units, back):
        assert torch.isfinite(z).all()
        rounding = 8 * torch.finfo(z.dtype).eps * (z.abs() if z is back else z.abs().clamp(min=1))
        assert (z[1:] >= z[:-1] - rounding[1:]).all()


@pytest.mark.parametrize("shape", [*SHAPES, "lumps"])
def test_beyond_the_values_seen_scores_go_on_as_standard_scores_do(shape):
    values = SHAPES.get(shape, lumps())
    maps = fit(values)
    spread = values.std()
    beyond = [-1e30, -1e20, -1e9, *(values.min() - spread * np.array([9, 1, 0.1, 0]))]
    beyond += [*(values.max() + spread * np.array([0, 0.1, 1, 9])), 1e9, 1e20, 1e30]
    x = column(beyond)
    scores, standard = maps.encode(x), maps.standard(x)
    half = len(beyond) // 2
    for side, end in ((slice(half), half - 1), (slice(half, None), half)):
        assert_allclose((scores - scores[end])[side], (standard - standard[end])[side], atol=1e-5)
    assert (scores[:-1] < scores[1:])[[*range(half - 1), *range(half, len(beyond) - 1)]].all()
    assert_allclose(maps.units()(scores), standard, rtol=1e-5, atol=1e-5)
    assert_array_equal(maps.decode(scores.double())[:half], values.min())
    assert_array_equal(maps.decode(scores.double())[half:], values.max())


def test_units_are_standard_scores_without_the_outermost_thousandth():
    maps = fit(BELL, BELL * 1000 + 7, np.where(np.arange(5000) == 9, 1e12, BELL))
    x = torch.tensor([[1.0, 1007.0, 1.0]], dtype=torch.float64)
    standard = (1 - BELL.mean()) / BELL.std()
    assert_allclose(maps.standard(x)[0], standard, atol=0.02)
    assert_allclose(maps.units()(maps.encode(x))[0], standard, atol=0.03)


def test_a_missing_number_stays_missing_and_touches_no_other():
    maps = fit(BELL, lumps(5000))
    x = torch.tensor(np.stack([BELL, lumps(5000)], 1))
    holed = x.clone()
    holed[::3, 0] = torch.nan
    holed[::5, 1] = torch.nan
    for transform in (maps.encode, maps.decode, lambda x: maps.interval(x)[0]):
        after = transform(holed)
        assert_array_equal(after, transform(x).masked_fill(holed.isnan(), torch.nan))
    constant = fit([3.0, 3.0])
    nothing = torch.full((4, 1), torch.nan, dtype=torch.float64)
    for found in (constant.encode(nothing), *constant.interval(nothing)):
        assert found.isnan().all()
    alone, among = fit(BELL[::2]), fit(np.where(np.arange(5000) % 2, np.nan, BELL))
    for name, buffer in alone.named_buffers():
        assert_array_equal(buffer, among.get_buffer(name))


@given(
    st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=20, unique=True),
    st.lists(st.floats(-2e6, 2e6), min_size=1, max_size=20),
    st.randoms(use_true_random=False),
)
def test_interpolation_is_numpys(knots, asked, random):
    knots = np.sort(knots)
    assume(np.diff(knots).min() > 1e-6)
    values = np.cumsum([random.random() for _ in knots])
    table = torch.tensor(np.stack([knots, -knots[::-1]])), torch.tensor(np.stack([values, values]))
    x = torch.tensor(asked, dtype=torch.float64)[:, None].repeat(1, 2)
    ours = interpolate(x, *table).numpy()
    for i in range(2):
        assert_allclose(ours[:, i], np.interp(asked, table[0][i], table[1][i]), rtol=1e-9, atol=1e-9)


def test_equal_knots_make_a_step():
    knots, values = torch.tensor([[0.0, 1.0, 1.0, 2.0]]), torch.tensor([[0.0, 0.0, 5.0, 5.0]])
    x = torch.tensor([[0.5], [0.999], [1.0], [1.001], [3.0]])
    assert interpolate(x, knots, values).flatten().tolist() == [0, 0, 5, 5, 5]


CLUSTERS = st.lists(
    st.tuples(st.floats(-1e3, 1e3), st.sampled_from([1e-9, 1e-3, 1.0, 30.0]), st.integers(1, 40)),
    min_size=1,
    max_size=4,
)


@given(CLUSTERS, CLUSTERS, st.floats(-5e-6, 5e-6), st.integers(0, 99))
def test_a_guided_search_finds_the_piece_of_every_value_although_its_guide_is_rough(one, other, off, seed):
    rng = np.random.default_rng(seed)
    columns = [
        np.unique(np.concatenate([middle + spread * rng.normal(size=n) for middle, spread, n in clusters]))
        for clusters in (one, other)
    ]
    k = max(map(len, columns)) + 1
    knots = torch.tensor(np.array([np.pad(c, (0, k - len(c)), mode="edge") for c in columns]))
    values = torch.tensor(np.cumsum(rng.random((2, k)), 1))
    for row, c in zip(values, columns, strict=True):
        row[len(c) - 1 :] = row[len(c) - 1]
    guide = squash(knots.T.float()).T
    search = Searched(knots, guide, knots, values)
    x = torch.cat(
        [knots.T, (knots[:, 1:] / 2 + knots[:, :-1] / 2).T, torch.tensor([[-1e9, -1e9], [1e9, 1e9]])]
    )
    mine = squash(x.float())
    found = search(x, mine * (1 + off) + off, x)
    steep = (values.diff(dim=1) / knots.diff(dim=1)).nan_to_num(0.0, torch.inf) > STEEPEST / 10
    for i, c in enumerate(columns):
        if not steep[i].any():
            expected = np.interp(x[:, i], c, values[i, : len(c)])
            assert_allclose(found[:, i], expected, rtol=1e-9, atol=1e-4 * values.max())
        ordered = found[x[:, i].argsort(), i]
        assert (ordered.diff() >= -1e-6 * values.max()).all()


def test_squashing_is_smooth_odd_and_the_identity_where_rows_are():
    z = torch.linspace(-50, 50, 100_001, dtype=torch.float64)
    out = squash(z)
    near = z.abs() <= LINEAR_TO
    assert torch.equal(out[near], z[near])
    assert_allclose(out, -squash(-z))
    assert_allclose(out[-1], LINEAR_TO + np.log1p(50 - LINEAR_TO))
    slope = np.diff(out) / np.diff(z)
    assert slope.min() > 0
    assert np.abs(np.diff(slope)).max() < 2e-3


# ---- batches ----


def test_atoms_are_drawn_anew_in_every_batch_and_all_else_is_fixed():
    values = lumps()
    codec = TableCodec(fit(values), [], [], [], [0], 128)
    rows = codec.training_rows(column(values), torch.zeros(len(values), 0, dtype=torch.long))
    assert len(rows) == len(values)
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(len(values))
    first, second = (rows.batch(index, generator).numbers for _ in range(2))
    atom = torch.tensor(np.isin(values, [0.0, 4.0]))
    assert torch.equal(first[~atom], second[~atom])
    assert (first[atom] != second[atom]).double().mean() > 0.99
    assert_array_equal(codec.numbers.decode(first.double())[atom][:, 0], values[atom])
    assert kstest(first[:, 0].numpy(), "norm").statistic < 0.01
    assert_array_equal(rows.batch(torch.tensor([5, 5, 2]), generator).ids.shape, (3, 0))


# ---- tables ----

COUNTS = [[500, 300, 100, 60, 30, 10, 0], [9, 1], [400, 300, 200]]
MISSING = [50, 0, 0]
FREQUENT = 4  # of the first category three levels are kept, and three are pooled


@pytest.fixture
def codec():
    return TableCodec(fit(BELL, lumps(5000)), [1], COUNTS, MISSING, [2, 0, 1, 3, 4], FREQUENT)


def levels(*categories):
    return torch.tensor(np.stack(np.broadcast_arrays(*categories), 1))


def test_each_level_has_its_place_in_the_model(codec):
    numbers = torch.zeros(9, 2, dtype=torch.float64)
    rows = codec(numbers, levels(range(9), 0, 2))
    assert rows.ids[:, 0].tolist() == [0, 1, 2, 3, 3, 3, -1, -1, 4]  # pooled, unseen twice, missing
    assert rows.ids[0].tolist() == [0, 0, 2, 0]
    assert codec.layout.sizes == [5, 2, 3, 2]
    assert codec.layout.columns == [2, 0, 1, 3, 4, 0]
    assert codec.novel(rows).int().sum(0).tolist() == [0, 0, 2, 0, 0, 0]


def test_kept_levels_and_missing_ones_come_back(codec):
    ids = levels([0, 1, 2, 8], [0, 1, 1, 0], [2, 1, 0, 2])
    numbers = torch.tensor([[0.1, 0.0], [0.2, 4.0], [0.3, np.nan], [0.4, np.nan]], dtype=torch.float64)
    decoded, back = codec.decode(codec(numbers, ids), torch.full((4, 3), 0.5))
    assert_array_equal(back, ids)
    assert_array_equal(decoded[:, 1], numbers[:, 1])
    assert_allclose(decoded[:, 0], numbers[:, 0], atol=0.01)


def test_the_pooled_level_decodes_to_its_levels_by_their_own_frequencies(codec):
    n = 1000
    rows = Rows(torch.zeros(n, 2), levels(np.full(n, 3), 0, 0, 0))
    uniforms = torch.full((n, 3), 0.5)
    uniforms[:, 0] = (torch.arange(n) + 0.5) / n
    _, back = codec.decode(rows, uniforms)
    assert np.bincount(back[:, 0], minlength=7).tolist() == [0, 0, 0, 600, 300, 100, 0]


def test_numbers_that_are_not_known_are_asked_for_with_or_without_missing_ones(codec):
    numbers = torch.tensor([[0.0, np.nan], [np.nan, 4.0]], dtype=torch.float64)
    ids = levels([0, 7], [1, 2], [0, 0])
    known = torch.tensor([[True, True], [False, False]])
    for complete in (False, True):
        given_rows = codec.given(numbers, ids, known, complete)
        assert_array_equal(given_rows.numbers.isnan(), [[False, True], [True, True]])
        assert given_rows.ids.tolist() == [[0, 1, 0, 1], [-1, -1, 0, 0 if complete else -1]]


def test_no_category_is_drawn_as_missing_when_that_is_barred(codec):
    barred = codec.bar_missing()
    uniforms = torch.rand(500, 4, generator=torch.Generator().manual_seed(0))
    assert (codec.layout.draw(torch.zeros(500, len(barred)), uniforms)[:, 0] == 4).any()
    drawn = codec.layout.draw(barred.expand(500, -1), uniforms)
    assert sorted(set(drawn[:, 0].tolist())) == [0, 1, 2, 3]
    assert sorted(set(drawn[:, 2].tolist())) == [0, 1, 2]
