"""Diffusion against what can be computed exactly: the denoisers of a Gaussian and of two categories."""

import itertools
import math

import numpy as np
import pytest
import torch
from tiny import build, nothing_barred, numbers, seeded, unknown
from torch.distributions import MultivariateNormal

from lookalike.layout import Layout, Rows
from lookalike.models.diffusion import SCORE_LEVELS, Diffusion

SIGMA_MIN, SIGMA_MAX = Layout.noise.least, Layout.noise.most
MU = torch.tensor([0.3, -0.2], dtype=torch.float64)
S = torch.tensor([[1.0, 0.7], [0.7, 0.8]], dtype=torch.float64)


@pytest.fixture
def double():
    """Errors of discretisation show below the rounding of float32."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def white(n, d=2):
    """Normal noise whose own mean is 0 and covariance 1, so that moments hold without chance."""
    noise = torch.randn(n, d, generator=seeded(), dtype=torch.float64)
    noise = noise - noise.mean(0)
    return noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T @ noise / n)).T


class Exact:
    """D(x; sigma) of a Gaussian, some coordinates of which may be observed; counts how often it is asked."""

    def __init__(self, mu, covariance):
        self.mu, self.covariance, self.calls = mu, covariance, 0

    def __call__(self, x, sigma, observed):
        self.calls += 1
        noise = torch.diag_embed((sigma**2).expand_as(observed) * (1 - observed) + 1e-12 * observed)
        mu, covariance = self.mu.to(x), self.covariance.to(x)
        pull = torch.linalg.solve(covariance + noise, (x - mu)[..., None])
        return mu + (covariance @ pull)[..., 0], x[:, :0]


def gaussian_diffusion(mu=MU, covariance=S, n_steps=20):
    model = build(Diffusion, Layout(len(mu), [], range(len(mu))), n_steps=n_steps)
    model.denoise = Exact(mu, covariance)
    return model


def flow(start, mu, v, sigma, then):
    """The exact solution of the probability-flow ODE of a Gaussian of variance v."""
    return mu + (start - mu) * ((v + then**2) / (v + sigma**2)) ** 0.5


def test_sampling_solves_the_ode_and_has_the_mean_and_covariance(double):
    model, z = gaussian_diffusion(), white(4000)
    drawn = model.sample(z, z[:, :0], unknown(4000), torch.zeros(0)).numbers
    v, axes = torch.linalg.eigh(S)
    exact = flow(SIGMA_MAX * z @ axes, MU @ axes, v, SIGMA_MAX, 0) @ axes.T
    assert ((drawn - exact).norm(dim=1) < 0.02 * (exact - MU).norm(dim=1) + 0.005).all()
    # Noise of spread 10 does not quite bury the data: a tenth of the mean is lost.
    assert (drawn.mean(0) - MU).abs().max() < 0.035
    assert (torch.cov(drawn.T) - S).abs().max() < 0.02


@pytest.mark.parametrize("n_steps", [4, 20])
def test_the_noise_of_rows_is_found_however_few_the_steps(double, n_steps):
    model, z = gaussian_diffusion(n_steps=n_steps), white(100)
    drawn = model.sample(z, z[:, :0], unknown(100), torch.zeros(0))
    torch.testing.assert_close(model.noise_of(drawn), z, atol=1e-3, rtol=0)


def test_given_coordinates_stay_and_the_others_follow_their_conditional_distribution(double):
    model, z, seen = gaussian_diffusion(), white(4000), 0.9
    given = torch.tensor([torch.nan, seen]).repeat(4000, 1)
    drawn = model.sample(z, z[:, :0], numbers(given), torch.zeros(0)).numbers
    assert (drawn[:, 1] == seen).all()
    assert drawn[:, 0].mean() == pytest.approx((MU[0] + S[0, 1] / S[1, 1] * (seen - MU[1])).item(), abs=0.08)
    assert drawn[:, 0].var() == pytest.approx((S[0, 0] - S[0, 1] ** 2 / S[1, 1]).item(), rel=0.05)


@pytest.mark.parametrize("v", [0.3, 1.0, 2.0])
def test_the_error_of_the_sampler_falls_with_the_square_of_the_steps(double, v):
    z, mu = torch.tensor([[-1.3], [0.4], [2.0]]), torch.tensor([0.3])
    low = flow(SIGMA_MAX * z, mu, v, SIGMA_MAX, SIGMA_MIN)
    exact = mu + v / (v + SIGMA_MIN**2) * (low - mu)  # the last step, from sigma_min to 0, denoises
    errors = []
    for n_steps in (20, 40, 80, 160):
        model = gaussian_diffusion(mu, torch.tensor([[v]]), n_steps)
        drawn = model.sample(z, z[:, :0], unknown(3, 1), torch.zeros(0)).numbers
        errors.append((drawn - exact).abs().max().item())
        assert model.denoise.calls == 2 * n_steps
    ratios = [a / b for a, b in itertools.pairwise(errors)]
    assert ratios == pytest.approx([4, 4, 4], rel=0.15)
    assert ratios[-1] == pytest.approx(4, rel=0.05)


def test_what_the_network_sees_goes_from_the_most_noise_to_the_least_by_the_levels_of_edm():
    for n in (1, 2, 20):
        low, high = SIGMA_MIN ** (1 / 7), SIGMA_MAX ** (1 / 7)
        ramp = [(high + i / (2 * n - 1) * (low - high)) ** 7 for i in range(2 * n)]
        np.testing.assert_allclose(Diffusion.sigmas(n), [*ramp[::2], 0], rtol=1e-5)
        begins, *_, middle, _, _ = build(Diffusion, Layout(1, [], [0]), n_steps=n).schedule[-1].tolist()
        assert begins * middle == pytest.approx(SIGMA_MIN, rel=1e-5)


def test_time_is_the_distribution_function_of_the_training_noise():
    t = torch.linspace(0.001, 0.999, 99, dtype=torch.float64)
    noise = torch.distributions.LogNormal(torch.tensor(-1.2, dtype=torch.float64), 1.2)
    assert [Layout.noise.time_of(sigma) for sigma in noise.icdf(t).tolist()] == pytest.approx(
        t.tolist(), rel=1e-6
    )
    assert Layout.noise.time_of(0.0) == 0


def test_energy_is_sigma_squared_times_the_squared_score_of_the_blurred_data(double):
    model, x = gaussian_diffusion(), 3 * white(50)
    found, expected = model.energies(numbers(x))
    denoised = torch.zeros(50, 2)
    for sigma, cells in zip(SCORE_LEVELS, found, strict=True):
        blurred = MultivariateNormal(MU, S + sigma**2 * torch.eye(2))
        point = x.clone().requires_grad_()
        (score,) = torch.autograd.grad(blurred.log_prob(point).sum(), point)
        torch.testing.assert_close(cells, sigma**2 * score**2)  # the units are the coordinates here
        denoised += (x + sigma**2 * score) / len(SCORE_LEVELS)
    torch.testing.assert_close(expected.numbers, denoised)


AGREE = 0.9  # of two categories of two levels


def agreement(x, sigma, observed):
    """Exact scores of each given the other, if it is shown; what is itself shown is certain."""
    tables = torch.tensor([[AGREE, 1 - AGREE], [1 - AGREE, AGREE]])
    first, second = x[:, :2], x[:, 2:]
    scores = [
        torch.where(other.any(1, keepdim=True), other @ tables, 0.5).log() + 50 * own
        for own, other in ((first, second), (second, first))
    ]
    return x[:, :0], torch.cat(scores, 1)


def test_hidden_categories_appear_one_after_the_other_with_their_joint_probabilities():
    n, layout = 40_000, Layout(0, [2, 2], [0, 1])
    for n_steps in (2, 5, 40):
        model = build(Diffusion, layout, n_steps=n_steps)
        model.denoise = agreement
        uniforms = torch.rand(n, 4, generator=seeded())
        nothing = Rows(torch.zeros(n, 0), torch.full((n, 2), -1))
        ids = model.sample(uniforms[:, :0], uniforms, nothing, nothing_barred(layout)).ids
        times = [time for step in model.schedule.tolist() for time in step[1:3]][:-1]
        # The chance that both appear in one half of a step, and so know not of each other.
        together = (np.diff([0, *times[::-1], 1]) ** 2).sum()
        share = (ids[:, 0] == ids[:, 1]).double().mean().item()
        assert share == pytest.approx(together / 2 + (1 - together) * AGREE, abs=0.01)
        assert (ids.double().mean(0) - 0.5).abs().max() < 0.01


def test_as_in_training_a_category_is_hidden_at_a_noise_level_if_its_uniform_is_below_that_time():
    layout, seen = Layout(1, [2, 2], range(3)), []
    model, n = build(Diffusion, layout, n_steps=9), 500
    denoise = model.denoise
    model.denoise = lambda x, sigma, observed: seen.append((x, sigma)) or denoise(x, sigma, observed)
    uniforms = 0.99 * torch.rand(n, 4, generator=seeded())
    given = Rows(torch.full((n, 1), torch.nan), torch.full((n, 2), -1))
    model.sample(torch.randn(n, 1, generator=seeded()), uniforms, given, nothing_barred(layout))
    assert len(seen) == 2 * 9
    for x, sigma in seen[:-1]:  # the last is half way to 0
        shown = x[:, 1:].unflatten(1, (2, 2)).any(-1)
        assert torch.equal(shown, uniforms[:, :2] >= Layout.noise.time_of(sigma.item()))


def test_the_energy_of_a_category_is_its_surprise_given_the_other():
    model = build(Diffusion, Layout(0, [2, 2], [0, 1]))
    model.denoise = agreement
    ids = torch.tensor([[0, 0], [0, 1], [1, 1], [-1, 0]])
    (cells, _), expected = model.energies(Rows(torch.zeros(4, 0), ids))
    yes, no, alone = -math.log(AGREE), -math.log(1 - AGREE), -math.log(0.5)
    torch.testing.assert_close(cells, torch.tensor([[yes, yes], [no, no], [yes, yes], [0, alone]]))
    assert expected.ids[:3].tolist() == [[0, 0], [1, 0], [1, 1]]


def test_preconditioning_hands_through_what_has_no_noise_and_shrinks_what_is_all_noise():
    layout = Layout(2, [3], [0, 1, 2])
    x = torch.randn(9, layout.width, generator=seeded())
    nothing, everything = torch.zeros(9, 2), torch.ones(9, 2)
    trained, fresh = build(Diffusion, layout), build(Diffusion, layout, fresh=True)
    for sigma in (1e-4, 0.3, 5.0):
        level = torch.full((9, 1), sigma)
        torch.testing.assert_close(fresh.denoise(x, level, nothing)[0], x[:, :2] / (sigma**2 + 1))
        assert torch.equal(trained.denoise(x, level, everything)[0], x[:, :2])
        gap = (trained.denoise(x, level, nothing)[0] - x[:, :2]).abs().max()
        assert gap < 20 * sigma if sigma < 1 else gap > 1


def test_an_untrained_denoiser_loses_one_a_hidden_number_and_the_entropy_of_a_hidden_category():
    sizes, n = [3, 17, 2], 20_000
    layout = Layout(2, sizes, range(5))
    ids = torch.stack([torch.randint(size, (n,), generator=seeded(size)) for size in sizes], 1)
    rows = Rows(torch.randn(n, 2, generator=seeded()), ids)
    ((loss, _),) = build(Diffusion, layout, fresh=True).objectives(rows, seeded(1))
    hidden = 0.75  # of the cells: all in half of the rows, half in the others
    expected = hidden * (2 + sum(0.5 * math.log(size) for size in sizes)) / 5
    assert loss.item() == pytest.approx(expected, rel=0.02)
