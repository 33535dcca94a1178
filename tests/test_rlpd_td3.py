"""One update of RLPD and TD3 against float64 references written with autograd."""

from __future__ import annotations

import copy

import pytest
import torch
from test_off_policy import SPECS, random_batch, rng

from robotrl.algorithms.off_policy.rlpd import RLPD, RLPDConfig
from robotrl.algorithms.off_policy.td3 import TD3, TD3Config
from robotrl.core.errors import UsageError
from robotrl.policies.deterministic import DeterministicConfig, DeterministicPolicy
from robotrl.policies.gaussian import SquashedGaussianConfig, SquashedGaussianPolicy


def close(ours, theirs):
    torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=2e-5)


@pytest.mark.parametrize("backup_entropy", [False, True])
def test_an_rlpd_update_equals_a_float64_reference(backup_entropy):
    policy = SquashedGaussianPolicy(SPECS, SquashedGaussianConfig(hidden=[8], normalize_obs=False), rng(0))
    config = RLPDConfig(
        hidden=[8, 8], num_critics=5, learning_rate=1e-2, tau=0.1, policy_delay=1, initial_alpha=0.3,
        backup_entropy=backup_entropy,
    )  # fmt: skip
    ours = RLPD(SPECS, policy, config, rng(1))
    reference = copy.deepcopy(ours)
    pi, critics, targets = reference.policy, reference.critic.online.net, reference.critic.target.net
    for module in (pi, critics.requires_grad_(True), targets):
        module.double()
    batch, draws = random_batch(), rng()
    draws.set_state(ours.rng.get_state())
    ours.update(batch)

    def act(obs):
        mean, log_std = pi.net(obs.double()).chunk(2, -1)
        noise = torch.empty(mean.shape).normal_(generator=draws).double()
        u = mean + log_std.clamp(-5, 2).exp() * noise
        normal = torch.distributions.Normal(mean, log_std.clamp(-5, 2).exp())
        return u.tanh(), (normal.log_prob(u) - torch.log(1 - u.tanh() ** 2)).sum(-1)

    def q(net, obs, action):
        return net(torch.cat([obs.double(), action.double()], -1)).squeeze(-1)

    with torch.no_grad():
        action, log_prob = act(batch.next_obs["policy"])
        drawn = torch.randperm(5, generator=draws)[:2]
        value = q(targets, batch.next_obs["policy"], action)[drawn].min(0).values
        value = value - 0.3 * log_prob * backup_entropy
        y = batch.reward + batch.discount * value
    critic_adam = torch.optim.Adam(critics.parameters(), lr=1e-2)
    (q(critics, batch.obs["policy"], batch.action) - y).square().mean(1).sum().backward()
    critic_adam.step()
    policy_adam = torch.optim.Adam(pi.parameters(), lr=1e-2)
    action, log_prob = act(batch.obs["policy"])
    (0.3 * log_prob - q(critics, batch.obs["policy"], action).mean(0)).mean().backward()
    policy_adam.step()

    close(ours.critic.online.net.flat, critics.flat)
    close(ours.critic.target.net.flat, 0.9 * targets.flat + 0.1 * critics.flat)
    close(ours.policy.net.flat, pi.net.flat)
    # the target entropy is -A / 2
    rises = float(log_prob.detach().mean()) - 1.0 > 0
    assert ours.temperature.alpha == pytest.approx(0.3 * torch.tensor(0.01 if rises else -0.01).exp().item())


def test_td3_updates_equal_a_float64_reference():
    policy = DeterministicPolicy(SPECS, DeterministicConfig(hidden=[8], normalize_obs=False), rng(0))
    config = TD3Config(hidden=[8], learning_rate=1e-2, tau=0.1, policy_delay=2)
    ours = TD3(SPECS, policy, config, rng(1))
    reference = copy.deepcopy(ours)
    pi, pi_target = reference.policy.net, reference.target_net
    critics, targets = reference.critic.online.net, reference.critic.target.net
    for module in (pi, pi_target, critics.requires_grad_(True), targets):
        module.double()
    draws = rng()
    draws.set_state(ours.rng.get_state())
    critic_adam = torch.optim.Adam(critics.parameters(), lr=1e-2)
    policy_adam = torch.optim.Adam(pi.parameters(), lr=1e-2)

    def q(net, obs, action):
        return net(torch.cat([obs.double(), action.double()], -1)).squeeze(-1)

    for i in range(2):
        batch = random_batch(i)
        ours.update(batch)
        with torch.no_grad():
            noise = torch.empty(16, 2).normal_(generator=draws).double()
            action = pi_target(batch.next_obs["policy"].double()).tanh() + (0.2 * noise).clamp(-0.5, 0.5)
            value = q(targets, batch.next_obs["policy"], action.clamp(-1, 1)).min(0).values
            y = batch.reward + batch.discount * value
        critic_adam.zero_grad()
        (q(critics, batch.obs["policy"], batch.action) - y).square().mean(1).sum().backward()
        critic_adam.step()
        with torch.no_grad():
            targets.flat.lerp_(critics.flat, 0.1)
        if i == 1:
            q(critics, batch.obs["policy"], pi(batch.obs["policy"].double()).tanh())[
                0
            ].mean().neg().backward()
            policy_adam.step()
            with torch.no_grad():
                pi_target.flat.lerp_(pi.flat, 0.1)
    for mine, theirs in (
        (ours.critic.online.net, critics), (ours.critic.target.net, targets),
        (ours.policy.net, pi), (ours.target_net, pi_target),
    ):  # fmt: skip
        close(mine.flat, theirs.flat)


def test_td3_starts_its_target_from_the_trained_policy_too():
    def policy(seed: int) -> DeterministicPolicy:
        return DeterministicPolicy(SPECS, DeterministicConfig(hidden=[8]), rng(seed))

    trained, ours = policy(5), TD3(SPECS, policy(0), TD3Config(hidden=[8]), rng(1))
    ours.start_from(trained)
    assert torch.equal(ours.policy.net.flat, trained.net.flat)
    assert torch.equal(ours.target_net.flat, trained.net.flat)


def test_critics_normalise_as_the_policy_they_start_from():
    config = TD3Config(hidden=[8])
    trained, ours = (
        TD3(SPECS, DeterministicPolicy(SPECS, DeterministicConfig(hidden=[8]), rng(i)), config, rng(1))
        for i in range(2)
    )
    for i, algorithm in ((0, trained), (1, trained), (2, ours)):
        if i == 2:
            ours.start_from(trained.policy)
        obs = {"policy": 0.5 * i + torch.randn(50, SPECS.obs_dim("policy"), generator=rng(i))}
        algorithm.observe(obs)
    assert torch.equal(ours.critic_features(obs), ours.policy_features(obs))
    assert ours.critic_normalizer.count == 150


def test_td3_refuses_a_policy_with_a_density():
    policy = SquashedGaussianPolicy(SPECS, SquashedGaussianConfig(hidden=[8]), rng())
    with pytest.raises(UsageError, match="policy=deterministic"):
        TD3(SPECS, policy, TD3Config(), rng())


def test_more_target_members_than_critics_are_refused():
    with pytest.raises(ValueError, match="target_members 3 is above num_critics 2"):
        RLPDConfig(num_critics=2, target_members=3)
