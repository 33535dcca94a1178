"""The written-out backward passes against plain autograd in float64, and the normaliser against numpy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from robotrl.networks.flat_adam import FlatAdam
from robotrl.networks.mlp import MLP, Activation, Init
from robotrl.networks.normalizer import RunningNormalizer
from robotrl.policies.distributions import DiagonalGaussian, ScaledBeta, SquashedDraw, SquashedGaussian


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plain_mlp(net: MLP, flat: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """The same network as a chain of ordinary torch operations."""
    activation = {"relu": torch.relu, "tanh": torch.tanh, "elu": torch.nn.functional.elu}[
        net.activation.value
    ]
    params = net.split(flat)
    for i in range(0, len(params), 2):
        x = x @ params[i] + params[i + 1]
        if i + 2 < len(params):
            x = activation(x)
    return x


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("members", [None, 1, 3])
@pytest.mark.parametrize("hidden", [[], [5], [7, 6, 4]])
def test_mlp_forward_and_gradients_equal_autograd(activation, members, hidden):
    net = MLP(3, hidden, 2, activation, Init.UNIFORM, rng(), num_members=members).double()
    x = torch.randn(11, 3, dtype=torch.float64, generator=rng(1), requires_grad=True)
    weights = torch.randn(net(x).shape, dtype=torch.float64, generator=rng(2))

    ours = torch.autograd.grad((net(x) * weights).sum(), [x, net.flat])
    reference = torch.autograd.grad((plain_mlp(net, net.flat, x) * weights).sum(), [x, net.flat])

    with torch.no_grad():
        torch.testing.assert_close(net(x), plain_mlp(net, net.flat, x), rtol=0, atol=1e-12)
    for got, expected in zip(ours, reference, strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_mlp_skips_gradients_nobody_asked_for():
    net = MLP(3, [4], 2, Activation.RELU, Init.UNIFORM, rng(), num_members=2)
    net.requires_grad_(False)
    x = torch.randn(5, 3, requires_grad=True)
    net(x).sum().backward()
    assert net.flat.grad is None
    assert x.grad is not None and x.grad.abs().sum() > 0


def test_ensemble_members_are_independent_and_orthogonal_init_is_orthogonal():
    net = MLP(8, [8], 1, Activation.TANH, Init.ORTHOGONAL, rng(), num_members=2, last_gain=0.01)
    first, bias, last, _ = net.split(net.flat)
    assert not torch.equal(first[0], first[1])
    torch.testing.assert_close(first[0] @ first[0].T, 2.0 * torch.eye(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(last[1].norm(), torch.tensor(0.01), atol=1e-7, rtol=0)
    assert not bias.any()


def test_normalizer_merges_batches_like_one_big_batch():
    data = np.random.default_rng(0).normal(3.0, 2.0, size=(1000, 4)) * [1, 10, 0.1, 1e3]
    normalizer = RunningNormalizer(4, clip=5.0)
    for part in np.split(data, [1, 10, 400]):
        normalizer.update(torch.from_numpy(part))
    np.testing.assert_allclose(normalizer.mean.numpy(), data.mean(0), rtol=1e-12)
    np.testing.assert_allclose(normalizer.var.numpy(), data.var(0), rtol=1e-10)
    expected = np.clip((data - data.mean(0)) / np.sqrt(data.var(0) + 1e-8), -5, 5)
    got = normalizer(torch.from_numpy(data).float()).numpy()
    np.testing.assert_allclose(got, expected, atol=2e-3)
    assert np.abs(got).max() <= 5.0


def test_normalizer_is_the_identity_before_data():
    x = torch.tensor([[0.5, -3.0]])
    assert torch.equal(RunningNormalizer(2)(x), x)


def test_diagonal_gaussian_against_torch():
    mean, log_std = torch.randn(6, 3, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    action = torch.randn(6, 3, dtype=torch.float64)
    reference = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
    ours = DiagonalGaussian(mean, log_std)
    torch.testing.assert_close(ours.log_prob(action), reference.log_prob(action), rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.entropy(), reference.entropy(), rtol=0, atol=1e-12)


def test_squashed_draw_and_its_gradients_equal_autograd():
    mean = torch.randn(9, 4, dtype=torch.float64, generator=rng(4)).requires_grad_()
    log_std = (0.5 * torch.randn(9, 4, dtype=torch.float64, generator=rng(6))).requires_grad_()
    draw = SquashedDraw.draw(mean.detach(), log_std.detach(), rng(5))

    noise = torch.empty(9, 4, dtype=torch.float64).normal_(generator=rng(5))
    u = mean + log_std.exp() * noise
    normal = torch.distributions.Normal(mean, log_std.exp())
    action = torch.tanh(u)
    log_prob = (normal.log_prob(u) - torch.log(1 - action**2)).sum(-1)
    torch.testing.assert_close(draw.action, action, rtol=0, atol=1e-12)
    torch.testing.assert_close(draw.log_prob, log_prob, rtol=0, atol=1e-9)
    by_action = SquashedGaussian(mean, log_std).log_prob(action)
    torch.testing.assert_close(by_action, log_prob, rtol=0, atol=1e-6)

    grad_action = torch.randn(9, 4, dtype=torch.float64)
    expected = torch.autograd.grad((action * grad_action).sum() + 0.7 * log_prob.sum(), [mean, log_std])
    for got, reference in zip(draw.backprop(grad_action, 0.7), expected, strict=True):
        torch.testing.assert_close(got, reference, rtol=0, atol=1e-9)


def test_squashed_draw_is_finite_far_out():
    draw = SquashedDraw.draw(torch.full((1, 2), 40.0), torch.zeros(1, 2), rng())
    assert torch.isfinite(draw.log_prob).all()


def test_flat_adam_equals_torch():
    ours = torch.randn(20, dtype=torch.float64)
    theirs = torch.nn.Parameter(ours.clone())
    flat, reference = FlatAdam(ours, 1e-2), torch.optim.Adam([theirs], lr=1e-2)
    for i in range(50):
        grad = torch.randn(20, dtype=torch.float64, generator=rng(i)) * 10.0 ** (i % 5 - 3)
        flat.step(grad)
        theirs.grad = grad
        reference.step()
    torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-12)


def test_scaled_beta_density_integrates_to_one_and_matches_torch():
    alpha, beta = torch.tensor([[2.5]], dtype=torch.float64), torch.tensor([[1.5]], dtype=torch.float64)
    ours = ScaledBeta(alpha, beta)
    grid = torch.linspace(-1 + 1e-6, 1 - 1e-6, 20001, dtype=torch.float64).unsqueeze(1)
    density = ours.log_prob(grid).exp()
    assert abs(torch.trapezoid(density, grid[:, 0]).item() - 1.0) < 1e-4
    assert abs(torch.trapezoid(-density * density.log(), grid[:, 0]).item() - ours.entropy().item()) < 1e-3
    reference = torch.distributions.Beta(alpha, beta)
    torch.testing.assert_close(ours.entropy(), (reference.entropy() + math.log(2)).squeeze(-1))
    draws = ScaledBeta(alpha.expand(50_000, 1), beta.expand(50_000, 1)).sample(rng())
    assert abs(draws.mean().item() - ours.mode().item()) < 0.01


@pytest.mark.parametrize("a, b", itertools.pairwise([0, 0, 1]))
def test_samples_come_from_the_generator(a, b):
    distribution = DiagonalGaussian(torch.zeros(4, 2), torch.zeros(2))
    assert torch.equal(distribution.sample(rng(a)), distribution.sample(rng(b))) == (a == b)
