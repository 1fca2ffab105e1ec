"""Laws that every family keeps, whatever its weights; and what is recovered of known distributions."""

import numpy as np
import pandas as pd
import pytest
import torch
from tiny import build, nothing_barred, seeded

import lookalike as la
from lookalike.layout import Layout, Rows
from lookalike.models.diffusion import Diffusion
from lookalike.models.gan import GAN
from lookalike.models.hybrid import Hybrid
from lookalike.models.mixture import Mixture
from lookalike.models.vae import VAE

N = 60
LAYOUTS = {
    # The second coordinate and the last category are of one column.
    "mixed": (3, [3, 17, 5, 2], [0, 1, 2, 3, 4, 5, 1]),
    "numbers": (2, [], [1, 0]),
    "categories": (0, [4, 2, 1], [0, 1, 2]),
}


@pytest.fixture(params=LAYOUTS)
def layout(request):
    return Layout(*LAYOUTS[request.param])


@pytest.fixture(params=[VAE, GAN, Diffusion, Hybrid, Mixture], ids=lambda kind: kind.__name__)
def kind(request):
    return request.param


@pytest.fixture
def model(kind, layout):
    return build(kind, layout)


def random_rows(layout, n=N, seed=0, unknown=0.2):
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, layout.n_numbers))
    ids = rng.integers(np.array(layout.sizes, dtype=int), size=(n, layout.n_categories))
    numbers[rng.random(numbers.shape) < unknown] = np.nan
    ids[rng.random(ids.shape) < unknown] = -1
    return Rows(torch.tensor(numbers, dtype=torch.float32), torch.tensor(ids))


def noise(model, n=N, seed=0):
    generator = seeded(seed)
    normals, uniforms = model.noise_size
    return torch.randn(n, normals, generator=generator), torch.rand(n, uniforms, generator=generator)


def assert_close(a, b):
    torch.testing.assert_close(a.numbers, b.numbers, rtol=1e-4, atol=1e-4, equal_nan=True)
    assert torch.equal(a.ids, b.ids)


# ---- scoring ----


def test_a_rows_energy_is_its_own_wherever_it_stands(model, layout):
    rows = random_rows(layout)
    found, expected = model.energies(rows)
    assert all(cells.shape == (N, layout.n_cells) for cells in found)
    assert all(torch.isfinite(cells).all() and (cells >= 0).all() for cells in found)
    assert not expected.numbers.isnan().any()
    assert ((expected.ids >= 0) & (expected.ids < torch.tensor(layout.sizes))).all()
    order = torch.randperm(N, generator=seeded(0))
    for index in (order, *(slice(i, i + 1) for i in range(9))):
        some, rest = model.energies(rows.take(index))
        torch.testing.assert_close(some, [cells[index] for cells in found], rtol=1e-4, atol=1e-4)
        assert_close(rest, expected.take(index))


def test_energy_has_no_chance_in_it(model, layout):
    rows = random_rows(layout)
    for first, second in zip(model.energies(rows)[0], model.energies(rows)[0], strict=True):
        assert torch.equal(first, second)


def test_a_missing_cell_has_no_surprise_of_its_own(model, layout):
    rows = random_rows(layout)
    (cells, *_), _ = model.energies(rows)
    missing = cells[~layout.known(rows)]
    if isinstance(model, VAE | Mixture):  # its divergence belongs to the row, and is shared among all cells
        unknown = (~layout.known(rows)).nonzero()[:, 0]
        share = cells.masked_fill(layout.known(rows), torch.inf).min(1).values
        torch.testing.assert_close(missing, share[unknown])
    else:
        assert not missing.any()


# ---- sampling ----


def test_what_is_given_comes_back_as_it_is_and_the_rest_is_filled(model, layout):
    given = random_rows(layout, unknown=0.5)
    drawn = model.sample(*noise(model), given, nothing_barred(layout))
    known = layout.known(given)
    assert layout.known(drawn).all()
    kept = layout.hide(drawn, ~known)
    torch.testing.assert_close(kept.numbers, given.numbers, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(kept.ids, given.ids)
    assert (drawn.ids < torch.tensor(layout.sizes)).all()


def test_a_row_drawn_depends_on_its_own_noise_alone(model, layout):
    given = random_rows(layout, unknown=0.5)
    drawn = model.sample(*noise(model), given, nothing_barred(layout))
    order = torch.randperm(N, generator=seeded(0))
    for index in (order, slice(7, 8)):
        some = (part[index] for part in noise(model))
        assert_close(model.sample(*some, given.take(index), nothing_barred(layout)), drawn.take(index))


def test_a_barred_level_is_never_drawn(kind):
    layout = Layout(*LAYOUTS["mixed"])
    model = build(kind, layout)
    nothing = layout.hide(random_rows(layout, 500), torch.ones(500, layout.n_cells, dtype=torch.bool))
    free = model.sample(*noise(model, 500), nothing, nothing_barred(layout)).ids
    favourites = free.mode(0).values
    barred = model.sample(*noise(model, 500), nothing, layout.bar([*favourites[:3].tolist(), -1])).ids
    assert ((free == favourites).any(0)).all()
    assert not (barred[:, :3] == favourites[:3]).any()
    assert (barred < torch.tensor(layout.sizes)).all()


# ---- training ----


def test_every_weight_is_moved_by_one_objective_and_missing_cells_are_no_harm(model, layout):
    rows = random_rows(layout)
    if isinstance(model, Mixture):
        pytest.skip("it moves itself: tests/test_mixture.py")
    moved = []
    for loss, parameters in model.objectives(rows, seeded(1)):
        assert loss.shape == ()
        for weights, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            assert torch.isfinite(slope).all()
            relative = isinstance(model, GAN | Hybrid) and weights is model.critic.leave.bias
            assert slope.any() or relative  # the contest compares: what is added to both sides is nothing
        moved += parameters
    assert len(moved) == len({id(weights) for weights in moved}) == len(list(model.parameters()))


def test_objectives_are_drawn_from_the_generator_alone(model, layout):
    rows = random_rows(layout)
    if isinstance(model, Mixture):
        pytest.skip("its steps have no chance in them")
    torch_state = torch.get_rng_state()
    first, again, other = (
        [loss.item() for loss, _ in model.objectives(rows, seeded(seed))] for seed in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), torch_state)


# ---- what is recovered of a known distribution ----


def signs(n, seed):
    """Two Gaussians of correlation 0.8, and a sign of the first that is wrong once in ten rows."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=n)
    y = 0.8 * x + 0.6 * rng.normal(size=n)
    sign = np.where((x > 0) ^ (rng.random(n) < 0.1), "plus", "minus")
    return pd.DataFrame({"x": 10 + 3 * x, "y": 1e-3 * y, "sign": sign})


@pytest.mark.parametrize("family", [la.VAE, la.Diffusion], ids=lambda family: family.__name__)
def test_correlation_and_conditional_frequencies_are_recovered(family):
    model = family(max_steps=600, width=64, early_stopping=False, random_state=0).fit(signs(2000, 0))
    made = model.generate(4000, random_state=0)
    assert made["x"].mean() == pytest.approx(10, abs=0.3)
    assert made["x"].std() == pytest.approx(3, abs=0.2)
    assert made["y"].std() == pytest.approx(1e-3, abs=7e-5)
    assert np.corrcoef(made["x"], made["y"])[0, 1] == pytest.approx(0.8, abs=0.05)
    plus = made["sign"] == "plus"
    # Half a deviation off the step, which a smooth network must blur.
    assert plus[made["x"] > 11.5].mean() == pytest.approx(0.9, abs=0.06)
    assert plus[made["x"] < 8.5].mean() == pytest.approx(0.1, abs=0.06)
    low, high = (model.generate(2000, given={"x": x}, random_state=0) for x in (7.0, 13.0))
    assert (high["y"].mean() - low["y"].mean()) / 2 == pytest.approx(0.8e-3, abs=1.5e-4)
    for given, share in ((low, 0.1), (high, 0.9)):
        assert given["y"].std() == pytest.approx(0.6e-3, abs=1.5e-4)
        assert (given["sign"] == "plus").mean() == pytest.approx(share, abs=0.06)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_gan_finds_every_one_of_25_modes(seed):
    centres = 2.0 * np.array([(i, j) for i in range(-2, 3) for j in range(-2, 3)])
    rng = np.random.default_rng(0)
    X = centres[rng.integers(25, size=2500)] + rng.normal(scale=0.05, size=(2500, 2))
    made = la.GAN(random_state=seed).fit(X).generate(2500, random_state=0)
    distance = np.linalg.norm(made[:, None] - centres, axis=2)
    found = np.bincount(distance.argmin(1)[distance.min(1) < 0.2], minlength=25)
    assert (found >= 10).sum() == 25
