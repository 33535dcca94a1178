"""Policies built on others: what is exported (`forward`) is what acts, and each decides by its formula."""

from __future__ import annotations

import pytest
import torch
from generative_bundles import COMPOSITES, make

from robotrl.policies.edit import Jitter
from robotrl.policies.gaussian import GaussianConfig, GaussianPolicy
from robotrl.policies.latent import LatentPolicy
from robotrl.policies.policy import Policy

# the helper makes Gaussians over single steps only
CASES = [("sampled_gaussian", 1)]
CASES += [(kind, horizon) for kind in ("flow", "ancestral", "ddim", *COMPOSITES) for horizon in (1, 4)]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def observations(policy: Policy, count: int = 40) -> torch.Tensor:
    return 1.0 + 2.0 * torch.randn(count, policy.obs_dim, generator=rng(1))


def latent() -> LatentPolicy:
    """An encoder whose statistics of observations are others than its decoder's."""
    decoder = make("flow", 1)
    encoder = GaussianPolicy(decoder.specs, GaussianConfig(hidden=[8], mean_gain=1.0), rng(2))
    encoder.normalizer.update(-4.0 + 3.0 * torch.randn(50, encoder.obs_dim, generator=rng(3)))
    policy = LatentPolicy(encoder.requires_grad_(False), make("flow", 1, seed=4))
    policy.adopt(decoder)
    return policy


def check_that_forward_acts(policy: Policy) -> None:
    flat = observations(policy)
    noise = policy.draw_noise((len(flat),), rng(5)) if policy.noise_dim else None
    acted = policy.act({"policy": flat}, deterministic=True, rng=rng(5))
    assert acted.std(0).min() > 1e-3
    torch.testing.assert_close(policy(flat, noise), acted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("kind", "horizon"), CASES)
def test_the_exported_function_is_what_acts(kind: str, horizon: int) -> None:
    check_that_forward_acts(make(kind, horizon))


def test_the_exported_function_of_a_latent_policy_is_what_acts() -> None:
    check_that_forward_acts(latent())


def test_a_latent_is_decoded_behind_the_decoders_own_statistics_once() -> None:
    policy = latent()
    flat = observations(policy)
    z = torch.randn(len(flat), policy.action_dim, generator=rng(6))
    statistics = policy.decoder.normalizer
    features = (flat.double() - statistics.mean) / (statistics.var + 1e-8).sqrt()
    expected = policy.decoder.decode(features.clamp(-10, 10).float(), z)
    torch.testing.assert_close(policy.to_bounds(z, {"policy": flat}), expected, rtol=0, atol=1e-5)
    statistics = policy.encoder.normalizer
    features = (flat.double() - statistics.mean) / (statistics.var + 1e-8).sqrt()
    mode = policy.encoder.head(features.clamp(-10, 10).float()).mode()
    expected = policy.to_bounds(mode, {"policy": flat})
    torch.testing.assert_close(policy(flat), expected, rtol=0, atol=1e-5)


def test_a_residual_adds_a_bounded_correction_to_its_base() -> None:
    policy = make("residual", 1)
    flat = observations(policy)
    noise = policy.draw_noise((len(flat),), rng(5))
    base = policy.base.decode(policy.base.normalize(flat), noise)
    mean = policy.edit.net(torch.cat([policy.base.normalize(flat), base], 1)).chunk(2, 1)[0]
    expected = (base + 0.1 * mean.tanh()).clamp(-1, 1)
    torch.testing.assert_close(policy(flat, noise), expected, rtol=0, atol=1e-6)
    assert (expected - base).abs().amax(0).min() > 1e-3


def test_a_steered_policy_explores_by_noise_of_its_magnitude() -> None:
    """w = 1.5 tanh(mean + std eps); without exploring, eps is 0."""
    policy = make("dsrl", 1)
    flat = observations(policy)
    features = policy.base.normalize(flat)
    mean, log_std = policy.actor.net(features).chunk(2, 1)
    eps = torch.empty_like(mean).normal_(generator=rng(5))
    for deterministic, u in ((True, mean), (False, mean + log_std.exp() * eps)):
        expected = policy.base.decode(features, 1.5 * u.tanh())
        acted = policy.act({"policy": flat}, deterministic=deterministic, rng=rng(5))
        torch.testing.assert_close(acted, expected, rtol=0, atol=1e-5)


def test_jitter_is_uniform_within_its_scale_and_cut_at_the_actuators_limits() -> None:
    noise = torch.randn(1, 20_000, 1, generator=rng(1))
    edited = Jitter(0.2).candidates(torch.zeros(1, 3), torch.full_like(noise, 0.5), noise).flatten()
    quantiles = (edited.sort().values - 0.5) / 0.4 + 0.5
    assert quantiles[0] >= 0.0 and quantiles[-1] <= 1.0
    # Kolmogorov and Smirnov: a distance that one sample of ten thousand exceeds
    assert (quantiles - torch.linspace(0, 1, 20_000)).abs().max() < 2.23 / 20_000**0.5
    near_the_limit = Jitter(0.2).candidates(torch.zeros(1, 3), torch.full_like(noise, 0.9), noise)
    assert near_the_limit.max() == 1.0 and near_the_limit.min() >= 0.7 - 1e-6
