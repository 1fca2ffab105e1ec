"""The VAE of images: what it draws, how sharp, and the noise of which it draws what."""

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from sklearn.datasets import load_digits
from sklearn.svm import SVC
from tiny import nothing_barred, seeded

import lookalike as la
from lookalike.layout import ImageLayout, Layout, Rows
from lookalike.models.vae import VAE

DIGITS = load_digits()
PIXELS, LABELS = (DIGITS.images * (255 / 16)).round().astype(np.uint8), DIGITS.target.astype(str)
TRAIN, TEST = slice(1200), slice(1200, None)
pytestmark = pytest.mark.filterwarnings("ignore:A false alarm rate:lookalike.LookalikeWarning")


# So few steps are too short a way for the spread of the pixels, one number, at the default rate.
FEW = {"width": 64, "batch_size": 64, "n_steps": 2, "learning_rate": 8e-3, "random_state": 0}


@pytest.fixture(scope="module")
def digits():
    model = la.VAE(max_steps=300, **FEW)
    return model.fit({"image": PIXELS[TRAIN], "label": LABELS[TRAIN]})


def encoded(model, part):
    table = model.schema_.encode({"image": PIXELS[part], "label": LABELS[part]})
    return model.codec_(torch.tensor(table.numbers), torch.tensor(table.ids))


def build(shape=(7, 10, 1), sizes=(3,), sharpness=0.0):
    layout = ImageLayout(shape, list(sizes), [0] * int(np.prod(shape)) + list(range(1, len(sizes) + 1)))
    size = {"latent_dim": 4, "width": 32, "depth": 1, "n_steps": 2}
    model = VAE(layout, **size, beta=1.0, sharpness=sharpness, generator=seeded())
    with torch.no_grad():  # some layers begin at zero
        for weights in model.parameters():
            weights += 0.1 * torch.randn(weights.shape, generator=seeded(1))
    return model


def random_rows(layout, n=6):
    numbers = torch.randn(n, layout.n_numbers, generator=seeded(2))
    ids = torch.zeros(n, layout.n_categories, dtype=torch.long)
    return Rows(numbers, ids)


def noise(model, n=6):
    normals, uniforms = model.noise_size
    return torch.randn(n, normals, generator=seeded(3)), torch.rand(n, uniforms, generator=seeded(4))


@pytest.mark.slow
def test_digits_that_are_asked_for_are_drawn_and_holes_filled_with_what_belongs_there(digits):
    judge = SVC().fit(PIXELS[TRAIN].reshape(-1, 64) / 255, LABELS[TRAIN])
    asked = np.tile(DIGITS.target_names, 40).astype(str)
    made = digits.generate(given={"label": asked}, random_state=0)
    assert (judge.predict(made["image"].reshape(-1, 64) / 255) == asked).mean() > 0.8  # chance is 0.1
    assert_array_equal(
        digits.generate(5, given={"label": asked[:5]}, random_state=0)["image"], made["image"][:5]
    )

    mask = np.zeros(PIXELS[TEST].shape, dtype=bool)
    mask[:, 2:6, 2:6] = True
    holey = {"image": np.ma.masked_array(PIXELS[TEST], mask), "label": LABELS[TEST]}
    filled = digits.impute(holey, random_state=0)["image"]
    assert_array_equal(filled[~mask], PIXELS[TEST][~mask])
    assert (judge.predict(filled.reshape(-1, 64) / 255) == LABELS[TEST]).mean() > 0.8


@pytest.mark.slow
def test_a_digit_is_drawn_again_from_its_noise_and_its_spread_is_what_the_decoder_misses(digits):
    model, rows = digits.model_, encoded(digits, TRAIN)
    layout = model.layout
    given = Rows(torch.full_like(rows.numbers, torch.nan), rows.ids)
    uniforms = torch.full((rows.n, model.noise_size[1]), 0.5)
    drawn = model.sample(model.noise_of(rows), uniforms, given, nothing_barred(layout))
    z = model.encoder(model._see(rows))[:, : model.latent_dim]
    mean, logvar, _ = model.decode(z, model._see(given))
    torch.testing.assert_close(drawn.numbers, mean, rtol=0, atol=0.02)
    error = (drawn.numbers - rows.numbers).square().mean()
    assert error < 0.4 * rows.numbers.var(0).mean()
    assert logvar.unique().numel() == 1
    assert 0.6 < error / logvar[0, 0].exp() < 1.6


@pytest.mark.slow
def test_digits_are_saved_with_their_fitted_prior(digits, tmp_path):
    digits.save(tmp_path / "m.lookalike")
    loaded = la.load(tmp_path / "m.lookalike")
    rows = {"image": PIXELS[TEST][:9], "label": LABELS[TEST][:9]}
    assert_array_equal(loaded.score_samples(rows), digits.score_samples(rows))
    made = (model.generate(3, random_state=1)["image"] for model in (loaded, digits))
    assert_array_equal(*made)


@pytest.mark.parametrize("sharpness", [0.0, 0.3])
@pytest.mark.parametrize(("shape", "sizes"), [((7, 10, 1), (3,)), ((5, 6, 3), ()), ((18, 17, 1), (2, 3))])
def test_every_weight_is_moved_by_one_objective_whatever_the_size(shape, sizes, sharpness):
    model = build(shape, sizes, sharpness)
    rows, moved = random_rows(model.layout, 16), []
    for loss, parameters in model.objectives(rows, seeded(5)):
        for weights, slope in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            assert torch.isfinite(slope).all()
            # The contest compares: what is added to both sides is nothing.
            assert slope.any() or (model.critic is not None and weights is model.critic.leave.bias)
        moved += parameters
    assert len(moved) == len({id(weights) for weights in moved}) == len(list(model.parameters()))


def test_in_the_end_the_fitted_prior_learns_alone():
    model = build(sharpness=0.3)
    assert sum(stage.steps for stage in model.stages) == sum(stage.seconds for stage in model.stages) == 1
    model.start_stage(1)
    ((loss, moved),) = model.objectives(random_rows(model.layout, 8), seeded(5))
    assert {id(weights) for weights in moved} == {id(weights) for weights in model.fitted.parameters()}
    assert torch.isfinite(loss)


def test_a_critic_sees_reconstructions_and_draws():
    model = build(sharpness=0.3)
    layout, rows = model.layout, random_rows(model.layout, 8)
    found = model._posterior(rows, seeded(5))
    _, mean = model._bound(rows, found)
    one, other = (model._shown(rows, mean, found, seeded(k)) for k in (6, 7))
    d, unknown = layout.n_numbers, ~found.given.present
    made, real = one[:, :d], rows.numbers
    assert torch.equal(made[~unknown], real[~unknown])
    assert torch.equal(made[::2][unknown[::2]], mean[::2][unknown[::2]])
    assert (one != other).any(1).tolist() == [k % 2 == 1 and bool(unknown[k].any()) for k in range(8)]
    for loss, _ in model.objectives(random_rows(layout, 1), seeded(5)):
        assert torch.isfinite(loss)


@pytest.mark.slow
def test_a_critic_makes_what_is_drawn_sharper(digits):
    def bent(images):
        x = images.astype(float)
        return (np.diff(x, 2, 1)[:, :, 1:-1] + np.diff(x, 2, 2)[:, 1:-1]).var()

    sharp = la.VAE(sharpness=3, max_steps=120, **FEW)
    sharp.fit({"image": PIXELS[TRAIN], "label": LABELS[TRAIN]})
    blurred, sharper = (
        bent(model.generate(400, random_state=0)["image"]) / bent(PIXELS[TEST]) for model in (digits, sharp)
    )
    assert blurred < 0.95 * sharper < 1.2, (blurred, sharper)


def test_score_and_step_are_traced_and_what_is_given_stays(monkeypatch):
    monkeypatch.setattr(ImageLayout, "prior_steps", 2)
    model = build()
    layout, rows = model.layout, random_rows(model.layout)
    hidden = torch.rand(rows.n, layout.n_cells, generator=seeded(6)) < 0.5
    given = layout.hide(rows, hidden)

    class Score(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, numbers, ids):
            (cells,), expected = self.model.energies(Rows(numbers, ids))
            return cells, expected.numbers

    class Step(Score):
        def forward(self, k, numbers, ids, normals, uniforms):
            given = Rows(numbers, ids)
            drawn = self.model.step(k, given, normals, uniforms, given, nothing_barred(layout))
            return drawn.numbers, drawn.ids

    free = {0: torch.export.Dim("n", min=2, max=64)}
    for module, inputs in (
        (Score(), tuple(rows[:2])),
        (Step(), (torch.tensor(1), *given[:2], *noise(model))),
    ):
        dynamic = tuple(free if part.ndim else None for part in inputs)
        traced = torch.export.export(module, inputs, dynamic_shapes=dynamic).module()
        for found, wanted in zip(traced(*inputs), module(*inputs), strict=True):
            torch.testing.assert_close(found, wanted, equal_nan=True)
        some = [part[:3] if part.ndim else part for part in inputs]
        for found, wanted in zip(module(*some), module(*inputs), strict=True):
            torch.testing.assert_close(found, wanted[:3], rtol=1e-4, atol=1e-4, equal_nan=True)
    drawn = model.sample(*noise(model), given, nothing_barred(layout))
    assert layout.known(drawn).all()
    assert torch.equal(drawn.numbers[given.present], given.numbers[given.present])


def test_an_untrained_prior_is_the_gaussian_one_and_is_undone():
    """A denoiser that begins at zero expects standard normal scores, so that noise stays what it is."""
    layout = ImageLayout((8, 8, 1), [], [0] * 64)
    size = {"latent_dim": 4, "width": 32, "depth": 1, "n_steps": 1}
    model = VAE(layout, **size, beta=1.0, generator=seeded())
    z, mu = torch.randn(500, 4, generator=seeded(1)), torch.zeros(500, 4)
    found = model._fit(z, mu, mu)
    torch.testing.assert_close(found, z, rtol=0.1, atol=0.02)
    torch.testing.assert_close(model._unfit(found, mu, mu), z, rtol=1e-3, atol=1e-3)


def test_the_fitted_prior_learns_latents_that_are_not_gaussian():
    model = build((8, 8, 1), ())
    optimizer = torch.optim.Adam(model.fitted.parameters(), 5e-3)
    mu = torch.zeros(256, 4)
    for k in range(150):
        sign = torch.randn(256, 1, generator=seeded(k)).sign()
        scores = 0.9 * sign + 0.3 * torch.randn(
            256, 4, generator=seeded(k + 1000)
        )  # along a line, at its ends
        ((loss, _),) = model.fitted.objectives(model.fitted.layout.rows(scores, mu, mu), seeded(k))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        drawn = model._fit(torch.randn(256, 4, generator=seeded(9)), mu, mu)
    ends = drawn.mean(1).abs()
    assert ((ends > 0.5) & (ends < 1.3)).float().mean() > 0.85  # of the Gaussian about a quarter
    assert 0.3 < (drawn.mean(1) > 0).float().mean() < 0.7


def test_a_tables_noise_brings_its_rows_back():
    layout = Layout(3, [2], [0, 1, 2, 3])
    model = VAE(layout, latent_dim=4, width=16, depth=1, n_steps=3, beta=1.0, generator=seeded())
    rows = random_rows(layout)
    given = Rows(torch.full_like(rows.numbers, torch.nan), rows.ids)
    uniforms = torch.full((rows.n, model.noise_size[1]), 0.5)
    drawn = model.sample(model.noise_of(rows), uniforms, given, nothing_barred(layout))
    torch.testing.assert_close(drawn.numbers, rows.numbers, rtol=1e-4, atol=1e-4)


def test_a_critic_is_kept_with_the_model(tmp_path):
    few = {"max_steps": 3, "width": 32, "random_state": 0, "sharpness": 0.3}
    for data in (PIXELS[:60], np.random.default_rng(0).normal(size=(60, 3))):
        model = la.VAE(**few).fit(data)
        assert len(model.history_.loss[-1]) == 2 + (data.ndim > 2)
        model.save(tmp_path / "m.lookalike")
        assert_array_equal(la.load(tmp_path / "m.lookalike").score_samples(data), model.score_samples(data))
    with pytest.raises(ValueError, match="sharpness must be a number of at least 0, got -1"):
        la.VAE(sharpness=-1).fit(PIXELS[:60])
