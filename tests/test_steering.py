"""BC, DSRL and residual policies: frozen parts stay frozen, DSRL's update against autograd, learning."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from test_generative_rl import bandit_batch, diffusion, flow, gaussian, make
from test_off_policy import SPECS, random_batch, rng

from robotrl.algorithms.off_policy.bc import BC, BCConfig
from robotrl.algorithms.off_policy.config import Preset
from robotrl.algorithms.off_policy.dsrl import DSRL, DSRLConfig
from robotrl.algorithms.off_policy.dsrl_sac import DSRLSAC
from robotrl.algorithms.off_policy.expo import EXPO, EXPOConfig
from robotrl.algorithms.off_policy.residual import Residual, ResidualConfig
from robotrl.algorithms.off_policy.steering import SteeringConfig
from robotrl.compose import compose, compose_task
from robotrl.core.errors import UsageError
from robotrl.policies.diffusion import DiffusionConfig, DiffusionPolicy, Sampler
from robotrl.policies.flow import FlowConfig, FlowPolicy
from robotrl.training.collect import CollectOptions, collect
from robotrl.training.restore import load_policy_and_config
from robotrl.training.train import train

SMALL = {"hidden": [16], "learning_rate": 1e-2, "tau": 0.1}
CASES = {
    "dsrl": (DSRL, DSRLConfig(**SMALL, noise_hidden=[16])),
    "dsrl_sac": (DSRLSAC, SteeringConfig(**SMALL, noise_hidden=[16])),
    "residual": (Residual, ResidualConfig(**SMALL, residual_hidden=[16], num_critics=3, ramp_steps=40)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_base_and_its_statistics_never_move(name):
    algorithm = make(CASES[name][0], flow(), CASES[name][1])
    before = copy.deepcopy(algorithm.policy.base.state_dict())
    for i in range(3):
        batch = random_batch(i)
        algorithm.observe(batch.obs)
        algorithm.update(batch)
    for key, values in algorithm.policy.base.state_dict().items():
        assert torch.equal(values, before[key])


@pytest.mark.parametrize("name", CASES)
def test_state_round_trip_continues_bit_for_bit(name):
    a, b = (make(CASES[name][0], flow(), CASES[name][1]) for _ in range(2))
    obs = {"policy": torch.randn(5, 3, generator=rng(9))}
    for i in range(3):
        a.update(random_batch(i))
        a.act(obs)
    b.load_state_dict(copy.deepcopy(a.state_dict()))
    for i in range(3, 6):
        a.update(random_batch(i)), b.update(random_batch(i))
        assert torch.equal(a.act(obs), b.act(obs))
    for mine, theirs in zip(a.policy.parameters(), b.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def reference_noise(actor, obs, draws):
    """Tanh of a Gaussian in float64 and its log density, (16, 2) and (16,)."""
    mean, log_std = actor.net(obs.double()).chunk(2, -1)
    normal = torch.distributions.Normal(mean, log_std.clamp(-20, 2).exp())
    u = mean + normal.scale * torch.empty(16, 2).normal_(generator=draws).double()
    # tanh of a wide Gaussian comes too near 1 for log(1 - tanh^2)
    return u.tanh(), (normal.log_prob(u) + 2 * u.cosh().log()).sum(-1)


def value(net, obs, x):
    """What critics say of actions or noise, (E, 16)."""
    return net(torch.cat([obs.double(), x.double()], -1)).squeeze(-1)


@pytest.mark.parametrize(("preset", "reach", "cut"), [("corrected", 1.2, 1.2), ("released", 1.0, math.inf)])
def test_a_dsrl_update_equals_a_float64_reference(preset, reach, cut):
    """Released, the noise reaches 1 whatever noise_magnitude says, and its critic sees all of N(0, I)."""
    config = DSRLConfig(
        hidden=[8], learning_rate=1e-2, tau=0.1, noise_hidden=[8], noise_magnitude=1.2, initial_alpha=0.3,
        num_critics=3, preset=Preset(preset),
    )  # fmt: skip
    ours = make(DSRL, flow(), config)
    actor = copy.deepcopy(ours.policy.actor).double()
    base = ours.policy.base
    q = copy.deepcopy(ours.critic.online.net).requires_grad_(True).double()
    q_target = copy.deepcopy(q)
    w_net = copy.deepcopy(ours.noise_critic.online.net).requires_grad_(True).double()
    batch, draws = random_batch(), rng()
    draws.set_state(ours.rng.get_state())
    ours.update(batch)

    now, after = batch.obs["policy"], batch.next_obs["policy"]
    with torch.no_grad():
        w, log_prob = reference_noise(actor, after, draws)
        action = base.decode(after, reach * w.float())
        y = batch.reward + batch.discount * (value(q_target, after, action).amin(0) - 0.3 * log_prob)
    adam = torch.optim.Adam(q.parameters(), lr=1e-2)
    (value(q, now, batch.action) - y).square().mean(1).sum().backward()
    adam.step()
    with torch.no_grad():
        q_target.flat.lerp_(q.flat, 0.1)
        drawn = torch.empty(16, 2).normal_(generator=draws).clamp(-cut, cut)
        y = value(q_target, now, base.decode(now, drawn)).amin(0)
    adam = torch.optim.Adam(w_net.parameters(), lr=1e-2)
    (value(w_net, now, drawn / reach) - y).square().mean(1).sum().backward()
    adam.step()
    adam = torch.optim.Adam(actor.parameters(), lr=1e-2)
    w, log_prob = reference_noise(actor, now, draws)
    (0.3 * log_prob - value(w_net, now, w).amin(0)).mean().backward()
    adam.step()
    assert ours.policy(now).equal(base.decode(now, reach * ours.policy.actor.net(now)[:, :2].tanh()))
    ensembles = ours.critic.online, ours.noise_critic.online, ours.policy.actor
    for mine, theirs in zip((part.net for part in ensembles), (q, w_net, actor.net), strict=True):
        torch.testing.assert_close(mine.flat.double(), theirs.flat, rtol=0, atol=5e-5)


def test_a_diffusion_policy_is_steered_by_its_first_noise():
    ancestral = diffusion()
    options = {"hidden": [16, 16], "time_dim": 8, "steps": 4, "normalize_obs": False}
    ddim = DiffusionPolicy(SPECS, DiffusionConfig(**options, sampler=Sampler.DDIM), rng())
    ddim.load_state_dict(ancestral.state_dict())
    assert ancestral.noise_dim == 8
    policy = DSRL.make_policy(SPECS, ancestral, DSRLConfig(), rng())
    noise, features = torch.randn(5, 2, generator=rng(1)), torch.randn(5, 3, generator=rng(2))
    assert torch.equal(policy.decode(features, noise), ddim.decode(features, noise))


@pytest.mark.parametrize("algorithm", [EXPO, Residual])
def test_fewer_steps_of_an_ancestral_base_take_less_noise(algorithm):
    config = EXPOConfig(num_samples=3, num_edits=0) if algorithm is EXPO else ResidualConfig()
    policy = algorithm.make_policy(SPECS, diffusion(), config, rng())
    rows = 3 if algorithm is EXPO else 1
    flat = torch.randn(5, 3, generator=rng(2))
    for count, width in ((4, 8), (3, 2), (4, 2)):
        policy.set_sampling_steps(count)
        assert (policy.sampling_steps, policy.noise_dim) == (count, rows * width)
        assert policy(flat, policy.draw_noise((5,), rng(1))).shape == (5, 2)


@pytest.mark.parametrize("name", CASES)
def test_a_run_without_a_trained_policy_is_refused_before_it_starts(name, tmp_path):
    words = [f"algorithm={name}", "task=pendulum_swingup", "num_envs=2", f"runs_dir={tmp_path / 'runs'}"]
    with pytest.raises(UsageError, match="give its run folder"):
        train(compose(words), show_progress=False)
    assert not (tmp_path / "runs").exists()


def test_a_pretrained_policy_is_started_from_and_improved(tmp_path):
    tiny = ["task=pendulum_swingup", "num_envs=2", "export=false", "eval_episodes=2", f"runs_dir={tmp_path}"]
    data = ["task.episode_length_s=0.4", "policy.hidden=[8]", "policy.steps=2"]
    folder, _ = collect(
        CollectOptions("random", episodes=2, out=str(tmp_path / "random-v0")),
        compose_task("pendulum_swingup", {"episode_length_s": 0.4}),
        "pendulum_swingup",
        show_progress=False,
    )
    imitate = [
        "algorithm=bc",
        "policy=flow",
        f"data={folder}",
        "total_steps=0",
        "algorithm.offline_updates=3",
    ]
    with pytest.raises(UsageError, match="nothing would be learned: set total_steps above 0"):
        train(compose([*tiny, *data, *imitate, "algorithm.offline_updates=0"]), show_progress=False)
    with pytest.raises(UsageError, match="set total_steps=0, got 10"):
        train(compose([*tiny, *data, *imitate, "total_steps=10"]), show_progress=False)
    run = train(compose([*tiny, *data, *imitate]), show_progress=False)
    words = [f"algorithm.init_from={run}", "algorithm.learning_starts=20", "algorithm.batch_size=8"]
    steer = ["algorithm=dsrl", *words, "total_steps=40", "task.episode_length_s=0.4"]
    steered = train(compose([*tiny, *steer]), show_progress=False)
    theirs, mine = load_policy_and_config(run)[0], load_policy_and_config(steered)[0].base
    assert theirs.normalizer.count > 0
    for name, values in theirs.state_dict().items():
        assert torch.equal(mine.state_dict()[name], values)


def test_the_residual_comes_into_use_step_by_step():
    algorithm = make(Residual, gaussian(), CASES["residual"][1])  # over 40 steps
    obs = {"policy": torch.randn(200, 3, generator=rng(1))}
    base = algorithm.policy.base.act(obs, deterministic=True)
    config = ResidualConfig(**SMALL, residual_hidden=[16], num_critics=3, ramp_steps=400)
    algorithm = make(Residual, gaussian(), config)
    half, whole = ((algorithm.act(obs) != base).any(1).float().mean() for _ in range(2))
    assert 0.35 < half < 0.65 and whole > 0.99


@pytest.fixture(scope="module")
def pretrained() -> FlowPolicy:
    """A flow policy that imitates both modes of the bandit."""
    policy = FlowPolicy(SPECS, FlowConfig(hidden=[64, 64], steps=5, normalize_obs=False), rng(0))
    algorithm, g = BC(SPECS, policy, BCConfig(learning_rate=1e-3), rng(2)), rng(3)
    for _ in range(1000):
        algorithm.update(bandit_batch(g))
    return policy


def test_bc_keeps_both_modes_and_a_gaussian_their_mean(pretrained):
    obs = {"policy": torch.zeros(512, 3)}
    action = pretrained.act(obs, rng=rng(4))
    right = (action > 0.3).all(1).float().mean()
    left = (action < -0.3).all(1).float().mean()
    assert right > 0.3 and left > 0.3 and right + left > 0.65
    policy = gaussian()
    algorithm, g = BC(SPECS, policy, BCConfig(learning_rate=1e-3), rng(2)), rng(3)
    for _ in range(500):
        algorithm.update(bandit_batch(g))
    assert policy.act(obs, deterministic=True).abs().max() < 0.3


@pytest.mark.parametrize("name", CASES)
def test_a_frozen_base_is_improved(name, pretrained):
    """DSRL finds the noise of the paying mode; a residual of +-0.1 shifts actions towards the optimum."""
    wide = {"hidden": [64, 64], "learning_rate": 1e-3, "initial_alpha": 0.01}
    steering = {"noise_hidden": [64, 64], "target_entropy_per_action": -1.0}
    config = {
        "dsrl": DSRLConfig(**wide, **steering),
        "dsrl_sac": SteeringConfig(**wide, **steering),
        "residual": ResidualConfig(**wide, residual_hidden=[64, 64], num_critics=4, ramp_steps=0),
    }[name]
    algorithm, g = make(CASES[name][0], copy.deepcopy(pretrained), config), rng(3)
    for _ in range(600):
        batch = bandit_batch(g)
        if name == "dsrl_sac":  # it sees the noise that an action was made from, and tries its own only
            noise = algorithm.draw_noise(batch.obs["policy"])
            action = algorithm.decode(batch.obs["policy"], noise)
            reward = -1.0 - (action - 0.7).square().sum(-1)
            batch = dataclasses.replace(batch, action=noise, reward=reward)
        algorithm.update(batch)
    obs = {"policy": torch.zeros(256, 3)}
    base = algorithm.policy.base.act(obs, rng=rng(4))
    action = algorithm.policy.act(obs, deterministic=True, rng=rng(4))
    if name != "residual":
        assert ((action - 0.65).abs().amax(1) < 0.3).float().mean() > 0.95
        return
    assert (action - base).abs().max() <= 0.1 + 1e-6
    payoff = [-(a - 0.7).square().sum(-1).mean() for a in (base, action)]
    assert payoff[1] > payoff[0] + 0.05
