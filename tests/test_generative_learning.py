"""Generative policies draw and learn a distribution with several modes; a Gaussian averages them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from generative_common import diffusion, flow, rng, specs
from torch import Tensor

from robotrl.networks.denoiser import Network
from robotrl.networks.mlp import Activation, Norm
from robotrl.networks.time_embedding import TimeFeatures
from robotrl.policies.diffusion import Sampler, Schedule
from robotrl.policies.gaussian import GaussianConfig, GaussianPolicy
from robotrl.policies.policy import HasBcLoss, Policy

MODES = torch.tensor([[0.6, 0.5], [-0.6, 0.5], [0.0, -0.6]])
SHARES = torch.tensor([0.5, 0.2, 0.3])
STD = 0.1
NEAR = 0.35  # 99.8 % of the data are nearer to a mode than this; the modes are 1.2 apart


def data(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Observations -1 or 1, actions around the modes times the observation, and the modes."""
    draws = rng(seed)
    obs = torch.randint(2, (count, 1), generator=draws) * 2.0 - 1.0
    mode = torch.multinomial(SHARES, count, replacement=True, generator=draws)
    action = MODES[mode] + STD * torch.randn(count, 2, generator=draws)
    return obs, obs * action, mode


def imitate(policy: Policy, steps: int = 600, learning_rate: float = 1e-2) -> None:
    """Adam on `bc_loss`, with a cosine schedule."""
    assert isinstance(policy, HasBcLoss)
    optimizer = torch.optim.Adam(policy.parameters(), learning_rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    draws = rng(1)
    for i in range(steps):
        obs, action, _ = data(256, seed=i)
        loss = policy.bc_loss(policy.normalize(obs), action, draws).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()


@torch.no_grad()
def near_modes(policy: Policy, count: int = 4000) -> tuple[Tensor, Tensor]:
    """Shares of the modes among the decisions near one, (2, 3) per observation, and the share of those."""
    obs = {"policy": torch.tensor([[-1.0], [1.0]])}
    action = policy.sample(obs, count, rng(2)) * obs["policy"].unsqueeze(1)
    near = torch.cdist(action, MODES.expand(2, 3, 2)) < NEAR
    return near.float().sum(1) / near.sum((1, 2)).unsqueeze(-1), near.any(-1).float().mean()


DDIM = {"schedule": Schedule.COSINE, "sampler": Sampler.DDIM}
MLP = {"obs_dim": 1, "hidden": [64, 64], "norm": Norm.PRE, "time_dim": 32, "steps": 20}
RESNET = MLP | {"network": Network.RESNET, "hidden": [32, 32], "norm": Norm.NONE}
CASES: dict[str, Callable[[], Policy]] = {
    "flow_mlp": lambda: flow(**MLP | {"steps": 10}),
    "flow_resnet": lambda: flow(**RESNET | {"steps": 10, "time_features": TimeFeatures.FOURIER}),
    "vp_ancestral_resnet": lambda: diffusion(**RESNET),
    "cosine_ddim_mlp": lambda: diffusion(**MLP | DDIM | {"network": Network.MLP}),
    "cosine_ddim_resnet_half_the_steps": lambda: diffusion(**RESNET | DDIM | {"sampling_steps": 10}),
}


def clean_action(x: Tensor, signal: float, noise: float) -> Tensor:
    """E[a | x] for x = signal a + noise z with a from the mixture, in closed form; (..., 2)."""
    var = (signal * STD) ** 2 + noise**2
    offset = x.unsqueeze(-2) - signal * MODES
    share = (SHARES.log() - offset.square().sum(-1) / (2 * var)).softmax(-1)
    return (share.unsqueeze(-1) * (MODES + signal * STD**2 / var * offset)).sum(-2)


@pytest.mark.parametrize("kind", ["flow", "ancestral", "ddim"])
@pytest.mark.parametrize("schedule", [Schedule.VP, Schedule.COSINE])
def test_samplers_draw_the_mixture_when_the_prediction_is_exact(kind: str, schedule: Schedule) -> None:
    if kind == "flow":
        policy = flow(1, steps=50)
        signals = [k / 50 for k in range(50)]
        noises = [1.0 - signal for signal in signals]
    else:
        policy = diffusion(1, steps=50, schedule=schedule, sampler=Sampler(kind))
        left = schedule.alphas(50).cumprod(0).flip(0)
        signals, noises = left.sqrt().tolist(), (1.0 - left).sqrt().tolist()
    levels = iter(zip(signals, noises, strict=True))

    def predict(projection: Tensor, x: Tensor) -> Tensor:
        signal, noise = next(levels)
        clean = clean_action(x, signal, noise)
        return (clean - x) / noise if kind == "flow" else (x - signal * clean) / noise

    policy.denoiser.finish = predict
    action = policy.decode(torch.zeros(1, 1), policy.draw_noise((1, 20_000), rng()))[0]
    distance, mode = torch.cdist(action, MODES).min(-1)
    assert (distance < NEAR).float().mean() > 0.99
    torch.testing.assert_close(mode.bincount() / 20_000, SHARES, rtol=0, atol=0.02)
    # a finite number of steps narrows the modes a little without added noise
    assert 0.08 < distance.square().mean().div(2).sqrt() < 0.11


@pytest.mark.parametrize("case", CASES)
def test_all_modes_in_their_proportions(case: str) -> None:
    policy = CASES[case]()
    before = near_modes(policy)[1]
    imitate(policy)
    shares, near = near_modes(policy)
    assert before < 0.3
    assert near > 0.8
    torch.testing.assert_close(shares, SHARES.expand(2, 3), rtol=0, atol=0.08)


def test_gaussian_averages_the_modes() -> None:
    policy = GaussianPolicy(specs(1), GaussianConfig(hidden=[64, 64], activation=Activation.RELU), rng())
    imitate(policy)
    obs = {"policy": torch.tensor([[-1.0], [1.0]])}
    mean = policy.act(obs, deterministic=True) * obs["policy"]
    torch.testing.assert_close(mean, (SHARES @ MODES).expand(2, 2), rtol=0, atol=0.1)
    assert torch.cdist(mean, MODES).min() > 0.4  # between the modes, where no action is
    assert near_modes(policy)[1] < 0.3
