"""Diffusion, flow and one-step policies against formulas written out, naive sampling and each other."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from generative_common import KINDS, diffusion, flow, of_every_kind, rng, specs
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.networks.denoiser import Network
from robotrl.networks.ema import Ema
from robotrl.networks.mlp import Activation, Norm
from robotrl.networks.resnet import ResNet
from robotrl.networks.time_embedding import TimeEmbedding, TimeFeatures
from robotrl.policies.deterministic import DeterministicConfig, DeterministicPolicy
from robotrl.policies.diffusion import DiffusionConfig, Sampler, Schedule
from robotrl.policies.flow import FlowConfig
from robotrl.policies.gaussian import (
    BetaConfig,
    BetaPolicy,
    GaussianConfig,
    GaussianPolicy,
    SquashedGaussianConfig,
    SquashedGaussianPolicy,
)
from robotrl.policies.generative import DenoisingPolicy
from robotrl.policies.one_step import OneStepConfig, OneStepPolicy
from robotrl.policies.policy import HasBcLoss, HasChain, HasDensity, HasLatent, require

VARIANTS = [
    {"network": Network.MLP, "norm": Norm.NONE, "time_features": TimeFeatures.SCALAR},
    {"network": Network.MLP, "norm": Norm.PRE, "time_features": TimeFeatures.FOURIER},
    {"network": Network.MLP, "norm": Norm.POST, "time_features": TimeFeatures.SINUSOIDAL},
    {"network": Network.RESNET, "activation": Activation.MISH, "time_features": TimeFeatures.FOURIER},
    {"network": Network.RESNET, "activation": Activation.RELU, "time_features": TimeFeatures.SCALAR},
]


def double(policy: DenoisingPolicy) -> DenoisingPolicy:
    """The policy in float64, its constants at full precision too."""
    policy.double()
    for values in policy.parameters():
        values.data += 0.1 * torch.randn(values.shape, dtype=values.dtype, generator=rng(9))
        values.data *= 0.5  # so that not all decisions end on the edge
    policy.set_sampling_steps(len(policy.times))
    return policy


def schedule(policy: DenoisingPolicy) -> np.ndarray:
    return policy.schedule.alphas(policy.steps).numpy()


def naive_decode(policy: DenoisingPolicy, features: Tensor, noise: Tensor) -> Tensor:
    """Sampling as the papers write it, everything put side by side at every step; noise (B, n, ...)."""
    width, count = policy.chunk_dim, len(policy.times)
    rows = features.unsqueeze(1).expand(-1, noise.shape[1], -1)

    def predict(x: Tensor, time: float) -> Tensor:
        times = torch.full(x.shape[:2], time, dtype=x.dtype).flatten()
        return policy.denoiser(rows.flatten(0, 1), x.flatten(0, 1), times).view_as(x)

    x = noise[..., :width]
    if not hasattr(policy, "schedule"):
        for i in range(count):
            x = x + predict(x, i / count * policy.steps) / count
        return x.clamp(-1, 1)
    alpha = schedule(policy)
    left = np.cumprod(alpha)
    for i, t in enumerate(reversed(range(policy.steps))):
        eps = predict(x, t)
        if policy.sampler is Sampler.ANCESTRAL:
            x = (x - (1 - alpha[t]) / math.sqrt(1 - left[t]) * eps) / math.sqrt(alpha[t])
            if t > 0:
                x = x + math.sqrt(1 - alpha[t]) * noise[..., width * (i + 1) : width * (i + 2)]
            x = x.clamp(-1, 1)
        else:
            clean = ((x - math.sqrt(1 - left[t]) * eps) / math.sqrt(left[t])).clamp(-1, 1)
            after = left[t - 1] if t > 0 else 1.0
            x = math.sqrt(after) * clean + math.sqrt(1 - after) * eps
    return x.clamp(-1, 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("horizon", [1, 3])
@torch.no_grad()
def test_projected_sampling_equals_naive_sampling(kind: str, variant: dict, horizon: int) -> None:
    policy = double(of_every_kind(horizon=horizon, steps=5, **variant)[kind])
    obs = {"policy": torch.randn(4, 3, dtype=torch.float64, generator=rng(1))}
    features = policy.normalize(policy.flatten(obs))
    noise = policy.draw_noise((4, 6), rng(2))
    assert noise.shape == (4, 6, policy.noise_dim)
    got = policy.decode(features, noise)
    assert got.shape == (4, 6, 2 * horizon)
    torch.testing.assert_close(got, naive_decode(policy, features, noise), rtol=0, atol=1e-12)
    assert got.abs().max() <= 1.0 and (got.abs() < 1.0).float().mean() > 0.1
    # one decision per state, the exported function and `sample` are the same function
    torch.testing.assert_close(policy.decode(features, noise[:, 2]), got[:, 2], rtol=0, atol=1e-12)
    torch.testing.assert_close(policy(obs["policy"], noise[:, 2]), got[:, 2], rtol=0, atol=1e-12)
    assert torch.equal(policy.sample(obs, 6, rng(2)), got)
    assert torch.equal(policy.decode(features, noise), got)


@pytest.mark.parametrize("kind", KINDS)
def test_acting_draws_from_the_generator(kind: str) -> None:
    policy = of_every_kind()[kind]
    obs = {"policy": torch.randn(5, 3, generator=rng(1))}
    first = policy.act(obs, rng=rng(3))
    assert first.shape == (5, 2) and first.dtype == torch.float32 and not first.requires_grad
    assert torch.equal(policy.act(obs, deterministic=True, rng=rng(3)), first)
    assert not torch.equal(policy.act(obs, rng=rng(4)), first)
    with pytest.raises(UsageError, match=rf"decides from noise: also give it \(B, {policy.noise_dim}\)"):
        policy(obs["policy"])


def test_noise_dims() -> None:
    assert diffusion(steps=7, horizon=3).noise_dim == 7 * 6
    assert diffusion(steps=7, horizon=3, sampler=Sampler.DDIM).noise_dim == 6
    assert flow(steps=7, horizon=3).noise_dim == 6


def test_schedules_against_the_formulas() -> None:
    t = np.arange(1, 11)
    np.testing.assert_allclose(
        Schedule.VP.alphas(10).numpy(), np.exp(-0.1 / 10 - 0.5 * (10 - 0.1) * (2 * t - 1) / 100), rtol=1e-14
    )
    # abar_T = exp(-b_min - (b_max - b_min) / 2)
    np.testing.assert_allclose(Schedule.VP.alphas(10).prod().item(), math.exp(-0.1 - 4.95), rtol=1e-12)
    np.testing.assert_allclose(1 - Schedule.LINEAR.alphas(3).numpy(), [1e-4, 0.01005, 2e-2], rtol=1e-12)
    left = np.cos((np.arange(11) / 10 + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - left[1:] / left[:-1], 0.95)
    np.testing.assert_allclose(1 - Schedule.COSINE.alphas(10).numpy(), betas, rtol=1e-12)
    assert betas[-1] == 0.95


@pytest.mark.parametrize("schedule", [Schedule.VP, Schedule.COSINE])
@pytest.mark.parametrize("steps", [5, 10, 20])
def test_no_ddim_step_multiplies_rounding_tenfold(schedule: Schedule, steps: int) -> None:
    signal, noise, next_signal, _ = diffusion(schedule=schedule, steps=steps, sampler=Sampler.DDIM).tables
    # d x' / d eps through a0, at the noisiest step; exported policies agree within 1e-5
    assert (next_signal * noise / signal)[0] < 10.0


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("horizon", [1, 3])
def test_bc_losses_by_hand(variant: dict, horizon: int) -> None:
    features = torch.randn(6, 3, dtype=torch.float64, generator=rng(1))
    action = torch.rand(6, 2 * horizon, dtype=torch.float64, generator=rng(2)) * 2 - 1
    weight = torch.rand(6, dtype=torch.float64, generator=rng(3))
    mask = (torch.arange(horizon) < torch.tensor([[1], [2], [3], [1], [2], [0]])).double()
    for kind, policy in of_every_kind(horizon=horizon, steps=4, **variant).items():
        double(policy)
        draws, shape = rng(5), action.shape
        if kind == "flow":
            t = torch.empty(6, 1, dtype=torch.float64).uniform_(generator=draws)
            noise = torch.empty(shape, dtype=torch.float64).normal_(generator=draws)
            x, time, target, scale = (1 - t) * noise + t * action, 4 * t[:, 0], action - noise, 2 * horizon
        else:
            t = torch.randint(4, (6,), generator=draws)
            noise = torch.empty(shape, dtype=torch.float64).normal_(generator=draws)
            left = torch.from_numpy(np.cumprod(schedule(policy)))[t].unsqueeze(1)
            x, time, target, scale = left.sqrt() * action + (1 - left).sqrt() * noise, t.double(), noise, 1
        error = (policy.denoiser(features, x, time) - target) ** 2
        loss = policy.bc_loss(features, action, rng(5))
        # the table of signal and noise is float32
        torch.testing.assert_close(loss, error.sum(1) / scale, rtol=1e-5, atol=1e-6)
        both = policy.bc_loss(features, action, rng(5), weight=weight, mask=mask)
        expected = weight * (error * mask.repeat_interleave(2, dim=1)).sum(1) / scale
        torch.testing.assert_close(both, expected, rtol=1e-5, atol=1e-6)
        assert both[5] == 0.0
        loss.mean().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())


def exact_noise(policy: DenoisingPolicy, target: Tensor) -> None:
    """Make the policy's network the exact noise predictor of data that is one point, (A,)."""

    def finish(projection: Tensor, x: Tensor) -> Tensor:
        t = policy.current.pop(0)
        left = policy.schedule.alphas(policy.steps).cumprod(0)[t].float()
        return (x - left.sqrt() * target) / (1 - left).sqrt()

    policy.current = [int(t) for t in policy.times]
    policy.denoiser.finish = finish


@pytest.mark.parametrize("kind", list(Schedule))
@pytest.mark.parametrize("count", [1, 3, 10])
def test_ddim_finds_a_point_in_any_number_of_steps(kind: Schedule, count: int) -> None:
    policy = diffusion(sampler=Sampler.DDIM, schedule=kind, steps=10, sampling_steps=count)
    assert policy.times[0] == 9 and len(policy.times) == count and (policy.times.diff() < 0).all()
    target = torch.tensor([0.3, -0.8])
    exact_noise(policy, target)
    got = policy.decode(torch.zeros(5, 3), policy.draw_noise((5,), rng()))
    torch.testing.assert_close(got, target.expand(5, 2), rtol=0, atol=1e-4)


def test_sampling_steps() -> None:
    assert diffusion(sampler=Sampler.DDIM, steps=10, sampling_steps=4).times.tolist() == [9, 7, 4, 1]
    with pytest.raises(ValueError, match=r"sampling_steps=4 of steps=10: only sampler=ddim can leave out"):
        diffusion(steps=10, sampling_steps=4)
    with pytest.raises(UsageError, match=r"sampling_steps must be in 1 to steps=10, got 11"):
        diffusion(sampler=Sampler.DDIM, steps=10, sampling_steps=11)
    policy, ddim = diffusion(steps=10), diffusion(sampler=Sampler.DDIM, steps=10, sampling_steps=4)
    policy.set_sampling_steps(10)
    assert policy.noise_dim == 20 and policy.clips_steps
    policy.set_sampling_steps(4)
    noise, features = ddim.draw_noise((5,), rng(1)), torch.randn(5, 3, generator=rng(2))
    assert policy.noise_dim == 2 and torch.equal(policy.decode(features, noise), ddim.decode(features, noise))
    policy = flow(steps=10)
    policy.set_sampling_steps(4)
    assert policy.times.tolist() == [0.0, 2.5, 5.0, 7.5]
    with pytest.raises(UsageError, match="sampling_steps must be in 1 to 1000, got 0"):
        policy.set_sampling_steps(0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("horizon", [1, 2])
def test_chain_log_prob_is_what_was_stored(kind: str, horizon: int) -> None:
    policy = double(of_every_kind(horizon=horizon, steps=5)[kind])
    features = torch.randn(7, 3, dtype=torch.float64, generator=rng(1))
    chain = policy.sample_chain(features, 0.1, rng(2))
    assert chain.states.shape == (7, 6, 2 * horizon) and chain.log_prob.shape == (7, 5)
    assert chain.action.shape == (7, 2 * horizon) and chain.action.abs().max() <= 1
    got = policy.chain_log_prob(features, chain)
    torch.testing.assert_close(got, chain.log_prob, rtol=0, atol=1e-10)
    got.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in policy.parameters())
    # the density of the draws: log N(z; 0, 1) - log std per number
    draws = rng(2)
    shape = chain.states[:, 0].shape
    z = [torch.empty(shape, dtype=torch.float64).normal_(generator=draws) for _ in range(6)]
    torch.testing.assert_close(chain.states[:, 0], z[0])
    std = [math.sqrt(1 - a) for a in schedule(policy)[:0:-1]] + [0.0] if kind == "ancestral" else [0.0] * 5
    for k in range(5):
        log_prob = (-0.5 * z[k + 1] ** 2 - 0.5 * math.log(2 * math.pi) - math.log(max(std[k], 0.1))).sum(1)
        torch.testing.assert_close(chain.log_prob[:, k], log_prob, rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_chain_with_no_noise_of_its_own_is_the_decision(kind: str) -> None:
    policy = double(of_every_kind(steps=5)[kind])
    features = torch.randn(7, 3, dtype=torch.float64, generator=rng(1))
    chain = policy.sample_chain(features, 1e-9, rng(2))
    draws = rng(2)
    z = [torch.empty(7, 2, dtype=torch.float64).normal_(generator=draws) for _ in range(6)]
    noise = torch.cat(z[: policy.noise_dim // 2], dim=1)
    torch.testing.assert_close(chain.action, policy.decode(features, noise), rtol=0, atol=1e-7)


@torch.no_grad()
def test_one_step_policy() -> None:
    policy = OneStepPolicy(specs(), OneStepConfig(hidden=[16], horizon=2), rng()).double()
    policy.net.flat *= 4
    features = torch.randn(5, 3, dtype=torch.float64, generator=rng(1))
    noise = policy.draw_noise((5, 6), rng(2))
    rows = torch.cat([features.unsqueeze(1).expand(5, 6, 3), noise], -1).flatten(0, 1)
    uncut = policy.net(rows).view(5, 6, 4)
    assert uncut.abs().max() > 1
    torch.testing.assert_close(policy.decode(features, noise), uncut.clamp(-1, 1), rtol=0, atol=1e-12)
    torch.testing.assert_close(policy.uncut(features, noise[:, 1]), uncut[:, 1], rtol=0, atol=1e-12)
    with torch.enable_grad():
        decided = policy.decode(features, noise)
        torch.testing.assert_close(decided, uncut.clamp(-1, 1), rtol=0, atol=1e-12)
        assert torch.autograd.grad(decided.sum(), policy.net.flat)[0].abs().sum() > 0


def gaussians() -> list:
    classes = [
        (GaussianPolicy, GaussianConfig),
        (SquashedGaussianPolicy, SquashedGaussianConfig),
        (BetaPolicy, BetaConfig),
    ]
    return [policy(specs(), config(hidden=[8]), rng()) for policy, config in classes]


def test_capabilities() -> None:
    generative = [diffusion(), flow()]
    one_step = OneStepPolicy(specs(), OneStepConfig(hidden=[8]), rng())
    deterministic = DeterministicPolicy(specs(), DeterministicConfig(hidden=[8]), rng())
    for policy in [*generative, one_step, *gaussians(), deterministic]:
        assert isinstance(policy, HasBcLoss) == (policy is not one_step)
        assert isinstance(policy, HasLatent) == (policy in generative or policy is one_step)
        assert isinstance(policy, HasChain) == (policy in generative)
        assert policy.chunk_dim == 2 and (policy.noise_dim > 0) == isinstance(policy, HasLatent)
    with pytest.raises(UsageError, match="X needs a policy with imitation of given actions"):
        require(one_step, (HasBcLoss,), "X")
    with pytest.raises(UsageError, match="X needs a policy with log-probability and entropy"):
        require(generative[0], (HasDensity,), "X")


def test_gaussian_policies_imitate_by_likelihood() -> None:
    features = torch.randn(4, 3, generator=rng(1))
    edge = torch.tensor([[1.0, -1.0], [0.2, -0.3], [-1.0, 0.0], [0.5, 1.0]])
    weight, mask = torch.tensor([1.0, 2.0, 0.5, 3.0]), torch.tensor([[1.0], [1.0], [0.0], [1.0]])
    for policy in gaussians():
        loss = policy.bc_loss(features, edge, rng())
        assert loss.shape == (4,) and loss.isfinite().all()
        torch.testing.assert_close(loss, -policy.log_prob({"policy": features}, edge))
        both = policy.bc_loss(features, edge, rng(), weight=weight, mask=mask)
        torch.testing.assert_close(both, loss * weight * mask[:, 0])
        (grad,) = torch.autograd.grad(both.sum(), policy.net.flat)
        assert grad.isfinite().all() and grad.abs().sum() > 0


def test_deterministic_policies_imitate_by_regression() -> None:
    policy = DeterministicPolicy(specs(), DeterministicConfig(hidden=[]), rng())
    with torch.no_grad():
        policy.net.flat.zero_()
        policy.net.split(policy.net.flat)[1].copy_(torch.tensor([0.5, -1.0]).atanh().clamp(-20, 20))
    features, action = torch.ones(3, 3), torch.tensor([[0.5, -1.0], [0.0, 0.0], [-0.5, -0.5]])
    loss = policy.bc_loss(features, action, rng())
    torch.testing.assert_close(loss, torch.tensor([0.0, (0.25 + 1.0) / 2, (1.0 + 0.25) / 2]))
    weight, mask = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([[1.0], [1.0], [0.0]])
    both = policy.bc_loss(features, action, rng(), weight=weight, mask=mask)
    torch.testing.assert_close(both, torch.tensor([0.0, 1.25, 0.0]))


@pytest.mark.parametrize(
    "config, options, message",
    [
        (FlowConfig, {"horizon": 0}, "horizon must be at least 1, got 0"),
        (FlowConfig, {"steps": 0}, "steps must be at least 1, got 0"),
        (FlowConfig, {"time_dim": 7}, "time_dim must be even, got 7"),
        (DiffusionConfig, {"hidden": [8, 16]}, r"blocks of a resnet have one width, got \[8, 16\]"),
        (DiffusionConfig, {"norm": Norm.PRE}, "a resnet has its own; leave it at none, not pre"),
    ],
)
def test_bad_configurations(config: type, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**options)


def test_ema_follows_and_copies_statistics() -> None:
    policy = flow()
    ema = Ema(policy, 0.1)
    start = policy.denoiser.net.flat.detach().clone()
    policy.denoiser.net.flat.data += 1.0
    policy.normalizer.update(torch.randn(50, 3))
    ema.update()
    ema.update()
    torch.testing.assert_close(ema.module.denoiser.net.flat, start + 0.19, rtol=0, atol=1e-6)
    assert torch.equal(ema.module.normalizer.mean, policy.normalizer.mean)
    assert not any(p.requires_grad for p in ema.module.parameters())
    other = Ema(flow(), 0.1)
    other.module.load_state_dict(copy.deepcopy(ema.module.state_dict()))
    noise = policy.draw_noise((4,), rng())
    assert torch.equal(other.module(torch.ones(4, 3), noise), ema.module(torch.ones(4, 3), noise))


def test_residual_network_by_hand() -> None:
    net = ResNet(3, [4, 4], 2, Activation.SILU, rng()).double()
    for values in net.parameters():
        values.data += 0.2 * torch.randn(values.shape, dtype=torch.float64, generator=rng(3))
    x = torch.randn(5, 3, dtype=torch.float64, generator=rng(1))
    silu = torch.nn.functional.silu
    h = x @ net.first.weight.T + net.first.bias
    for block in net.blocks:
        z = (h - h.mean(1, keepdim=True)) / torch.sqrt(h.var(1, correction=0, keepdim=True) + 1e-5)
        z = z * block.norm.weight + block.norm.bias
        assert block.first.weight.shape == (16, 4)
        h = h + silu(z @ block.first.weight.T + block.first.bias) @ block.second.weight.T + block.second.bias
    torch.testing.assert_close(net(x), silu(h) @ net.last.weight.T + net.last.bias, rtol=0, atol=1e-12)


def test_time_embeddings_by_hand() -> None:
    time = torch.tensor([0.0, 2.0, 7.5])
    scalar = TimeEmbedding(TimeFeatures.SCALAR, 8, 10, Activation.SILU, rng())
    torch.testing.assert_close(scalar(time), torch.tensor([[0.0], [0.2], [0.75]]))
    for kind in (TimeFeatures.FOURIER, TimeFeatures.SINUSOIDAL):
        embedding = TimeEmbedding(kind, 8, 10, Activation.SILU, rng())
        if kind is TimeFeatures.FOURIER:
            angle = 2 * math.pi * time[:, None] * embedding.frequency
        else:
            angle = time[:, None] / 10_000 ** (torch.arange(4) / 3)
        expected = embedding.net(torch.cat([angle.cos(), angle.sin()], 1))
        assert expected.shape == (3, embedding.width) == (3, 16)
        torch.testing.assert_close(embedding(time), expected, rtol=0, atol=1e-5)


def test_policies_restore_from_their_state() -> None:
    for kind in KINDS:
        policy, other = of_every_kind(steps=4)[kind], of_every_kind(steps=4)[kind]
        for values in policy.parameters():
            values.data += 0.1
        names = set(policy.state_dict())
        assert not any(name.split(".")[-1] in {"times", "std", "signal", "noise", "tables"} for name in names)
        other.load_state_dict(policy.state_dict())
        noise = policy.draw_noise((4,), rng())
        assert torch.equal(other(torch.ones(4, 3), noise), policy(torch.ones(4, 3), noise))
        assert dataclasses.is_dataclass(policy.config_class)
