"""The VAE against what can be computed exactly: a linear decoder, its likelihood and its posteriors."""

import math

import pytest
import torch
from tiny import build, numbers, seeded, unknown
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from lookalike.layout import Layout
from lookalike.models.vae import VAE, gaussian_kl


def test_the_divergence_is_torchs_and_nothing_between_equals():
    mu, logvar, prior_mu, prior_logvar = torch.randn(4, 30, 5, generator=seeded(), dtype=torch.float64)
    ours = gaussian_kl(mu, logvar, prior_mu, prior_logvar)
    a, b = Normal(mu, (logvar / 2).exp()), Normal(prior_mu, (prior_logvar / 2).exp())
    torch.testing.assert_close(ours, kl_divergence(a, b).sum(1))
    assert not gaussian_kl(mu, logvar, mu, logvar).any()
    assert (ours > 0).all()


class LinearGaussian:
    """x = W z + m + noise with one latent z: likelihood, prior and posterior of any part of x are known."""

    W, m, s = torch.tensor([0.9, -0.6, 0.4]), torch.tensor([0.1, 0.0, -0.2]), 0.5
    marginal = MultivariateNormal(m, W[:, None] * W + s**2 * torch.eye(3))

    def __init__(self, n_steps=1, shift=0.0, widen=0.0):
        """The encoder is off the posterior by a shift, and wider."""
        self.model = build(VAE, Layout(3, [], range(3)), n_steps=n_steps)
        self.model.latent_dim = 1
        self.shift, self.widen = shift, widen
        self.model.decode = self.decode
        self.model._gaussian = self.gaussian

    def decode(self, z, given):
        mean = self.m + z * self.W
        return mean, torch.full_like(mean, 2 * math.log(self.s)), z[:, :0]

    def posterior(self, rows):
        known = (~rows.numbers.isnan()).float()
        precision = 1 + (known * self.W**2).sum(1, keepdim=True) / self.s**2
        pull = (torch.nan_to_num(rows.numbers - self.m) * self.W).sum(1, keepdim=True) / self.s**2
        return pull / precision, -precision.log()

    def gaussian(self, network, rows):
        mu, logvar = self.posterior(rows)
        return (mu + self.shift, logvar + self.widen) if network is self.model.encoder else (mu, logvar)

    def loss(self, rows, observed):
        """A row's mean loss in nats where these coordinates are observed."""
        layout = self.model.layout
        layout.random_observed = lambda n, generator, device: torch.tensor(observed).expand(n, -1)
        ((loss, _),) = self.model.objectives(rows, seeded(1))
        return loss.item() * layout.n_cells

    def nll(self, x, observed):
        """Of what is not observed given what is."""
        seen = [i for i, known in enumerate(observed) if known]
        part = MultivariateNormal(self.m[seen], self.marginal.covariance_matrix[seen][:, seen])
        return -(self.marginal.log_prob(x) - (part.log_prob(x[:, seen]) if seen else 0)).mean().item()


PATTERNS = [(False, False, False), (True, False, False), (False, True, True)]


@pytest.mark.parametrize("observed", PATTERNS)
def test_the_loss_is_the_exact_likelihood_where_the_encoder_is_the_posterior(observed):
    exact, x = LinearGaussian(), torch.randn(40_000, 3, generator=seeded())
    assert exact.loss(numbers(x), observed) == pytest.approx(exact.nll(x, observed), abs=0.02)


@pytest.mark.parametrize("observed", PATTERNS)
@pytest.mark.parametrize("shift, widen", [(0.3, 0.0), (0.0, 1.0), (-0.2, -1.0), (1.0, 0.5)])
def test_the_loss_is_above_it_by_the_divergence_from_the_posterior(observed, shift, widen):
    wrong, x = LinearGaussian(shift=shift, widen=widen), torch.randn(40_000, 3, generator=seeded())
    mu, logvar = wrong.posterior(numbers(x))
    gap = gaussian_kl(mu + shift, logvar + widen, mu, logvar).mean().item()
    loss, nll = wrong.loss(numbers(x), observed), wrong.nll(x, observed)
    assert loss > nll
    assert loss - nll == pytest.approx(gap, abs=0.02 + 0.02 * gap)


def test_beta_weighs_the_divergence():
    wrong, x = LinearGaussian(shift=0.5), torch.randn(500, 3, generator=seeded())
    losses = []
    for beta in (0.0, 1.0, 3.0):
        wrong.model.beta = beta
        losses.append(wrong.loss(numbers(x), PATTERNS[0]))
    mu, logvar = wrong.posterior(numbers(x))
    divergence = gaussian_kl(mu + 0.5, logvar, torch.zeros_like(mu), torch.zeros_like(mu)).mean().item()
    assert losses[1] - losses[0] == pytest.approx(divergence, rel=1e-4)
    assert losses[2] - losses[0] == pytest.approx(3 * divergence, rel=1e-4)


@pytest.mark.parametrize("n_steps", [1, 4])
def test_however_many_steps_reveal_a_row_it_has_the_marginal_and_the_conditional_moments(n_steps):
    exact, n = LinearGaussian(n_steps), 40_000
    normals = torch.randn(n, exact.model.noise_size[0], generator=seeded())
    uniforms = torch.rand(n, exact.model.noise_size[1], generator=seeded(1))
    drawn = exact.model.sample(normals, uniforms, unknown(n, 3), torch.zeros(0)).numbers
    S3, m = exact.marginal.covariance_matrix, exact.m
    assert (drawn.mean(0) - m).abs().max() < 0.02
    assert (torch.cov(drawn.T) - S3).abs().max() < 0.03
    given = torch.tensor([1.2, torch.nan, torch.nan]).repeat(n, 1)
    drawn = exact.model.sample(normals, uniforms, numbers(given), torch.zeros(0)).numbers
    assert (drawn[:, 0] == given[0, 0]).all()
    pull = S3[1:, 0] / S3[0, 0]
    assert (drawn[:, 1:].mean(0) - (m[1:] + pull * (1.2 - m[0]))).abs().max() < 0.02
    assert (torch.cov(drawn[:, 1:].T) - (S3[1:, 1:] - pull[:, None] * S3[0, 1:])).abs().max() < 0.03
