"""Options of off-policy learners in numbers, those that no other test sets to anything but their default."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from test_generative_rl import SMALL, flow, make, unsquashed
from test_off_policy import SPECS, random_batch, rng

from robotrl.algorithms.off_policy.config import Preset
from robotrl.algorithms.off_policy.dsrl import DSRL, DSRLConfig
from robotrl.algorithms.off_policy.expo import EXPO, EXPOConfig
from robotrl.algorithms.off_policy.fql import FQL, FQLConfig
from robotrl.algorithms.off_policy.idql import IDQL, IDQLConfig
from robotrl.algorithms.off_policy.qc import QC, QCConfig
from robotrl.algorithms.off_policy.residual import Residual, ResidualConfig
from robotrl.algorithms.off_policy.sac import SAC, SACConfig
from robotrl.algorithms.off_policy.td3 import TD3, TD3Config
from robotrl.core.types import ObsTerm
from robotrl.data.replay import Transitions
from robotrl.policies.deterministic import DeterministicConfig, DeterministicPolicy
from robotrl.policies.flow import FlowConfig, FlowPolicy
from robotrl.policies.gaussian import SquashedGaussianConfig, SquashedGaussianPolicy

PER_ACTION = {"target_entropy_per_action": -0.7}
# three steps of two actuators each
TARGETS = {
    "sac": (SAC, SACConfig(), -1.0 * 6),
    "expo": (EXPO, EXPOConfig(), -0.5 * 6),
    "expo_released": (EXPO, EXPOConfig(preset=Preset.RELEASED, edit_scale=0.1), (-0.5 + math.log(10)) * 6),
    "residual": (Residual, ResidualConfig(), -0.5 * 6),
    "dsrl": (DSRL, DSRLConfig(), 0.0),
    "dsrl_told": (DSRL, DSRLConfig(**PER_ACTION), -0.7 * 6),
    "residual_told": (Residual, ResidualConfig(**PER_ACTION), -0.7 * 6),
}


@pytest.mark.parametrize("name", TARGETS)
def test_the_target_entropy_is_per_actuator_and_step_of_a_chunk(name: str) -> None:
    """Released, EXPO's is of the edit scaled by beta: log pi(beta e) = log pi(e) - 6 log beta."""
    algorithm, config, expected = TARGETS[name]
    base = flow(horizon=3)
    if algorithm is SAC:
        base = SquashedGaussianPolicy(SPECS, SquashedGaussianConfig(hidden=[8], horizon=3), rng(0))
    learner = make(algorithm, base, dataclasses.replace(config, hidden=[8]))
    temperature = learner.edits.temperature if hasattr(learner, "edits") else learner.temperature
    assert temperature.target_entropy == pytest.approx(expected)
    before = float(temperature.alpha)
    temperature.update(torch.tensor(-expected - 0.1))  # an entropy a little above the target
    assert float(temperature.alpha) < before


def td3(**options) -> TD3:
    policy = DeterministicPolicy(SPECS, DeterministicConfig(hidden=[8]), rng(0))
    return TD3(SPECS, policy, TD3Config(hidden=[8], learning_rate=1e-2, tau=0.1, **options), rng(1))


def test_td3_state_round_trip_continues_bit_for_bit() -> None:
    a, b = td3(), td3()
    for i in range(3):
        batch = random_batch(i)
        a.observe(batch.obs), a.update(batch)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for i in range(3, 6):
        a.update(random_batch(i)), b.update(random_batch(i))
    for ours, theirs in (
        (a.policy.net, b.policy.net), (a.target_net, b.target_net),
        (a.critic.online.net, b.critic.online.net), (a.critic.target.net, b.critic.target.net),
    ):  # fmt: skip
        assert torch.equal(ours.flat, theirs.flat)
    obs = {"policy": torch.randn(5, 3, generator=rng(9))}
    assert torch.equal(a.act(obs), b.act(obs))


def test_a_deterministic_policy_explores_by_noise_of_its_deviation_cut_at_the_limits() -> None:
    policy = DeterministicPolicy(SPECS, DeterministicConfig(hidden=[8], noise_std=0.3), rng(0))
    obs = {"policy": 0.5 * torch.randn(4000, 3, generator=rng(1))}
    mode = policy.act(obs, deterministic=True)
    noise = torch.empty(4000, 2).normal_(generator=rng(2))
    expected = (mode + 0.3 * noise).clamp(-1, 1)
    torch.testing.assert_close(policy.act(obs, rng=rng(2)), expected, rtol=0, atol=1e-6)
    assert expected.abs().max() == 1.0 and (mode + 0.3 * noise).abs().max() > 1.0


def test_qc_acts_by_its_online_critics() -> None:
    learner = make(QC, flow(), QCConfig(**SMALL | {"tau": 1e-6}, num_samples=8))
    for i in range(20):
        learner.update(random_batch(i))
    flat = torch.randn(200, 3, generator=rng(1))
    noise = learner.policy.draw_noise((200,), rng(2)).view(200, 8, 2)
    candidates = torch.stack([learner.policy.base.decode(flat, noise[:, k]) for k in range(8)], 1)
    best = {}
    for name, critics in (("online", learner.critic.online), ("target", learner.critic.target)):
        said = torch.stack([critics(flat, candidates[:, k]).mean(0) for k in range(8)], 1)
        best[name] = candidates[torch.arange(200), said.argmax(1)]
    acted = learner.policy.act({"policy": flat}, deterministic=True, rng=rng(2))
    assert (best["online"] != best["target"]).any(1).float().mean() > 0.3
    # two candidates may be worth the same but for rounding
    assert ((acted - best["online"]).abs().amax(1) < 1e-5).float().mean() > 0.98


@pytest.mark.parametrize("kind", [IDQL, QC])
def test_a_learners_temperature_is_that_of_its_policy(kind) -> None:
    """At a large one, every candidate is as likely as any other."""
    config = IDQLConfig if kind is IDQL else QCConfig
    learner = make(kind, unsquashed(), config(**SMALL, num_samples=4, temperature=1e6))
    obs = {"policy": torch.zeros(4000, 3)}
    drawn = learner.policy.act(obs, rng=rng(1))
    best = learner.policy.act(obs, deterministic=True, rng=rng(1))
    share = (drawn == best).all(1).float().mean()
    assert abs(float(share) - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 4000)


def test_the_noises_critic_is_fitted_as_often_as_is_asked() -> None:
    """Each time to other noise and by what the critics say then; the actor climbs it after the last time."""
    config = DSRLConfig(**SMALL | {"hidden": [8]}, noise_hidden=[8], noise_magnitude=1.2, noise_updates=2)
    ours = make(DSRL, flow(), config)
    theirs = copy.deepcopy(ours)
    batch = random_batch()
    ours.update(batch)
    theirs.num_updates = 1
    with torch.no_grad():
        theirs.fit_critics(batch)
        now = batch.obs["policy"]
        for _ in range(2):
            noise = torch.empty(16, 2).normal_(generator=theirs.rng).clamp(-1.2, 1.2)
            said = theirs.critic.target(now, theirs.policy.base.decode(now, noise)).amin(0)
            theirs.noise_critic.fit(now, noise / 1.2, said)
        theirs.climb(theirs.noise_critic, now, now)
    for part in ("critic", "noise_critic"):
        mine, reference = getattr(ours, part).online.net.flat, getattr(theirs, part).online.net.flat
        torch.testing.assert_close(mine, reference, rtol=0, atol=1e-6)
    torch.testing.assert_close(ours.actor.net.flat, theirs.actor.net.flat, rtol=0, atol=1e-6)


PRIVILEGED = dataclasses.replace(
    SPECS, observation=SPECS.observation | {"privileged": (ObsTerm("mass", 2, "kg"),)}
)
ASYMMETRIC = {
    "td3": (TD3, TD3Config(hidden=[8], critic_groups=["policy", "privileged"], policy_delay=1)),
    "sac": (SAC, SACConfig(hidden=[8], critic_groups=["policy", "privileged"], policy_delay=1)),
    "fql": (FQL, FQLConfig(hidden=[8], critic_groups=["policy", "privileged"])),
    "dsrl": (DSRL, DSRLConfig(hidden=[8], critic_groups=["policy", "privileged"])),
    "residual": (Residual, ResidualConfig(hidden=[8], critic_groups=["policy", "privileged"])),
}


def asymmetric(name: str):
    algorithm, config = ASYMMETRIC[name]
    if algorithm is TD3:
        base = DeterministicPolicy(PRIVILEGED, DeterministicConfig(hidden=[8]), rng(0))
    elif algorithm is SAC:
        base = SquashedGaussianPolicy(PRIVILEGED, SquashedGaussianConfig(hidden=[8]), rng(0))
    else:
        base = FlowPolicy(PRIVILEGED, FlowConfig(hidden=[8], steps=2), rng(0))
    policy = algorithm.make_policy(PRIVILEGED, base, config, rng(1))
    return algorithm(PRIVILEGED, policy, config, rng(2))


def privileged_batch(seed: int) -> Transitions:
    batch, g = random_batch(seed), rng(seed + 100)
    more = [{**obs, "privileged": torch.randn(16, 2, generator=g)} for obs in (batch.obs, batch.next_obs)]
    return dataclasses.replace(batch, obs=more[0], next_obs=more[1])


@pytest.mark.parametrize("name", ASYMMETRIC)
def test_what_is_privileged_changes_values_and_no_action(name: str) -> None:
    learner = asymmetric(name)
    assert learner.obs_groups == ["policy", "privileged"]
    assert learner.replay_dims == {"policy": 3, "privileged": 2}
    for i in range(3):
        batch = privileged_batch(i)
        learner.observe(batch.obs), learner.update(batch)
    assert learner.critic_normalizer.mean.shape == (5,) and learner.policy.obs_dim == 3
    changed = {**batch.next_obs, "privileged": batch.next_obs["privileged"] + 1.0}
    state = learner.rng.get_state()
    found = []
    for next_obs in (batch.next_obs, changed):
        learner.rng.set_state(state)
        with torch.no_grad():
            target = learner.target(dataclasses.replace(batch, next_obs=next_obs))
        action = learner.policy.act(next_obs, deterministic=True, rng=rng(5))
        found.append((target, action))
    bootstraps = batch.discount > 0
    (target, action), (other, same) = found
    assert torch.equal(action, same)
    assert (target != other)[bootstraps].all() and torch.equal(target[~bootstraps], other[~bootstraps])
