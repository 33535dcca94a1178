"""SAC's update against a float64 reference built on torch.distributions."""

from __future__ import annotations

import copy

import pytest
import torch

from robotrl.algorithms.off_policy.sac import SAC, SACConfig
from robotrl.compose import compose
from robotrl.core.errors import UsageError
from robotrl.core.types import ActionTerm, ObsTerm, Specs
from robotrl.data.replay import Transitions
from robotrl.policies.gaussian import (
    GaussianConfig,
    GaussianPolicy,
    SquashedGaussianConfig,
    SquashedGaussianPolicy,
)
from robotrl.training.train import train

SPECS = Specs(
    {"policy": (ObsTerm("x", 3, "m"),)},
    (ActionTerm("a", "N", -1.0, 1.0), ActionTerm("b", "N", -2.0, 2.0)),
    control_dt_s=0.02,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sac(**config) -> SAC:
    policy = SquashedGaussianPolicy(SPECS, SquashedGaussianConfig(hidden=[8], normalize_obs=False), rng(0))
    return SAC(SPECS, policy, SACConfig(hidden=[8], **config), rng(1))


def random_batch(seed: int = 0, n: int = 16) -> Transitions:
    g = rng(seed)
    return Transitions(
        {"policy": torch.randn(n, 3, generator=g)},
        torch.rand(n, 2, generator=g) * 2 - 1,
        torch.randn(n, generator=g),
        0.99 * (torch.rand(n, generator=g) < 0.7),
        {"policy": torch.randn(n, 3, generator=g)},
        torch.ones(n, 1),
    )


def test_one_update_equals_a_float64_reference():
    algorithm = sac(learning_rate=1e-2, initial_alpha=0.3, tau=0.1, policy_delay=1)
    reference = copy.deepcopy(algorithm)
    critics, targets = reference.critic.online.net, reference.critic.target.net
    for module in (reference.policy, critics.requires_grad_(True), targets):
        module.double()
    batch = random_batch()
    noise = rng()
    noise.set_state(algorithm.rng.get_state())
    algorithm.update(batch)

    def pi(obs):
        mean, log_std = reference.policy.net(obs.double()).chunk(2, -1)
        normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
        u = mean + normal.scale * torch.empty(mean.shape).normal_(generator=noise).double()
        action = torch.tanh(u)
        return action, (normal.log_prob(u) - torch.log(1 - action**2)).sum(-1)

    def q(net, obs, action):
        return net(torch.cat([obs.double(), action.double()], -1)).squeeze(-1)

    alpha = 0.3
    with torch.no_grad():
        action, log_prob = pi(batch.next_obs["policy"])
        value = q(targets, batch.next_obs["policy"], action).min(0).values
        target = batch.reward + batch.discount * (value - alpha * log_prob)
    critic_adam = torch.optim.Adam(critics.parameters(), lr=1e-2)
    values = q(critics, batch.obs["policy"], batch.action)
    ((values[0] - target) ** 2).mean().add(((values[1] - target) ** 2).mean()).backward()
    critic_adam.step()
    policy_adam = torch.optim.Adam(reference.policy.parameters(), lr=1e-2)
    action, log_prob = pi(batch.obs["policy"])
    smallest = q(critics, batch.obs["policy"], action).min(0).values
    (alpha * log_prob - smallest).mean().backward()
    policy_adam.step()
    gradient = -(log_prob.mean().item() - 2.0)  # target entropy is -2

    torch.testing.assert_close(algorithm.critic.online.net.flat.double(), critics.flat, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        algorithm.policy.net.flat.double(), reference.policy.net.flat, rtol=0, atol=1e-5
    )
    moved = 0.9 * targets.flat + 0.1 * critics.flat
    torch.testing.assert_close(algorithm.critic.target.net.flat.double(), moved, rtol=0, atol=1e-5)
    # Adam's first step is lr times the gradient's sign
    expected = torch.log(torch.tensor(alpha)) - 1e-2 * (1 if gradient > 0 else -1)
    torch.testing.assert_close(algorithm.temperature.log_alpha, expected, rtol=0, atol=1e-5)


def test_policy_delay_leaves_policy_and_temperature_alone():
    algorithm = sac(policy_delay=2)
    before = algorithm.policy.net.flat.detach().clone()
    algorithm.update(random_batch(0))
    assert torch.equal(algorithm.policy.net.flat, before)
    algorithm.update(random_batch(1))
    assert not torch.equal(algorithm.policy.net.flat, before)


def test_sac_state_round_trip_continues_bit_for_bit():
    a, b = sac(), sac()
    for i in range(3):
        a.update(random_batch(i))
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for i in range(3, 6):
        a.update(random_batch(i)), b.update(random_batch(i))
    assert torch.equal(a.policy.net.flat, b.policy.net.flat)
    assert torch.equal(a.critic.target.net.flat, b.critic.target.net.flat)
    assert torch.equal(a.temperature.log_alpha, b.temperature.log_alpha)


def test_sac_learns_a_bandit():
    """Q(s, a) = -(a - 0.5)^2 from replayed rewards: the deterministic action must come near 0.5."""
    algorithm = sac(learning_rate=3e-3, initial_alpha=0.1, target_entropy_per_action=-3.0)
    g = rng(7)
    for _ in range(1000):
        action = torch.rand(64, 2, generator=g) * 2 - 1
        obs = {"policy": torch.zeros(64, 3)}
        reward = -(action - 0.5).square().sum(-1)
        algorithm.update(Transitions(obs, action, reward, torch.zeros(64), obs, torch.ones(64, 1)))
    mean = algorithm.policy.act({"policy": torch.zeros(1, 3)}, deterministic=True)
    assert (mean - 0.5).abs().max() < 0.2


def test_sac_refuses_a_policy_it_cannot_differentiate():
    policy = GaussianPolicy(SPECS, GaussianConfig(hidden=[8]), rng())
    with pytest.raises(UsageError, match="SAC needs a policy"):
        SAC.make_policy(SPECS, policy, SACConfig(), rng())


@pytest.mark.parametrize(
    "values",
    [
        {"tau": 0.0},
        {"tau": 1.5},
        {"replay_ratio": -1.0},
        {"replay_ratio": float("inf")},
        {"learning_rate": float("inf")},
        {"initial_alpha": float("nan")},
        {"target_entropy_per_action": float("nan")},
        {"batch_size": 0},
        {"gamma": 1.0},
        {"gamma": float("nan")},
        {"hidden": [0]},
        {"hidden": [-3]},
        {"replay_size": 10},
    ],
)
def test_impossible_hyperparameters_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        SACConfig(**values)


def test_replay_too_small_ever_to_learn_is_refused():
    with pytest.raises(ValueError, match="replay_size 1000 is below learning_starts 5000"):
        SACConfig(replay_size=1000)
    assert SACConfig(replay_size=5000, tau=1.0, gamma=0.0).learning_starts == 5000


def test_replay_smaller_than_a_control_step_is_refused_before_the_run_folder_is_made(tmp_path):
    overrides = ["algorithm.replay_size=7", "algorithm.learning_starts=5", "algorithm.batch_size=2"]
    words = ["algorithm=sac", "task=pendulum_swingup", "num_envs=8", f"runs_dir={tmp_path / 'runs'}"]
    with pytest.raises(UsageError, match="replay_size 7 cannot take the 8 transitions"):
        train(compose([*words, *overrides]), show_progress=False)
    assert not (tmp_path / "runs").exists()
