"""GAE by hand, bootstrapping where the field gets it wrong, and PPO's update against a float64 reference."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from robotrl.algorithms.on_policy.ppo import PPO, PPOConfig, Schedule
from robotrl.core.errors import UsageError
from robotrl.core.types import ActionTerm, ObsTerm, Specs, Step
from robotrl.data.rollout import RolloutBuffer, generalized_advantage, successor_values
from robotrl.envs.vec_env import VecEnv
from robotrl.policies.deterministic import DeterministicConfig, DeterministicPolicy
from robotrl.policies.distributions import DiagonalGaussian
from robotrl.policies.gaussian import (
    BetaConfig,
    BetaPolicy,
    GaussianConfig,
    GaussianPolicy,
    SquashedGaussianConfig,
)
from robotrl.policies.policy import Policy
from robotrl.tasks.control_suite.pendulum import Pendulum
from robotrl.training.on_policy import OnPolicyLoop

SPECS = Specs(
    {"policy": (ObsTerm("x", 3, "m"),), "privileged": (ObsTerm("mass", 2, "kg"),)},
    (ActionTerm("push", "N", -5.0, 5.0), ActionTerm("pull", "N", 0.0, 2.0)),
    control_dt_s=0.02,
)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_rollout(reward, terminated, truncated, valid=None, seed=0, groups=("policy",)):
    """A rollout (T, N) with random observations; returns the buffer's rollout and the steps."""
    reward = torch.tensor(reward, dtype=torch.float32)
    num_steps, num_envs = reward.shape
    dims = {group: SPECS.obs_dim(group) for group in groups}
    buffer = RolloutBuffer(num_steps, num_envs, dims, SPECS.action_dim)
    generator = rng(seed)

    def draw():
        return {g: torch.randn(num_envs, d, generator=generator) for g, d in dims.items()}

    obs, final = draw(), []
    for t in range(num_steps):
        step = Step(
            obs=draw(),
            reward=reward[t],
            terminated=torch.tensor(terminated[t], dtype=torch.bool),
            truncated=torch.tensor(truncated[t], dtype=torch.bool),
            final_obs=draw(),
            valid=torch.tensor(valid[t] if valid else [True] * num_envs),
        )
        done = step.terminated | step.truncated
        for group in dims:
            step.final_obs[group][~done] = step.obs[group][~done]
        final.append(step.final_obs)
        action = torch.randn(num_envs, SPECS.action_dim, generator=generator)
        buffer.add(obs, action, torch.randn(num_envs, generator=generator) - 3, step)
        obs = step.obs
    return buffer.finish(obs), final


def test_gae_by_hand():
    # gamma 0.5, lambda 0.5; V = [1, 2, 3], V(s') = [2, 3, 4], r = [1, 1, 1]
    # deltas: 1 + 1 - 1 = 1;  1 + 1.5 - 2 = 0.5;  1 + 2 - 3 = 0
    # A2 = 0;  A1 = 0.5;  A0 = 1 + 0.25 * 0.5 = 1.125
    reward, values = torch.ones(3, 1), torch.tensor([[1.0], [2.0], [3.0]])
    done = torch.zeros(3, 1, dtype=torch.bool)
    advantage = generalized_advantage(
        reward, values, torch.tensor([[2.0], [3.0], [4.0]]), done, ~done, 0.5, 0.5
    )
    torch.testing.assert_close(advantage, torch.tensor([[1.125], [0.5], [0.0]]))


def test_gae_is_cut_at_an_episode_end_but_keeps_its_own_bootstrap():
    # as above, but the episode ends at t = 1: A1 keeps its delta, A0 adds 0.25 * A1, A1 adds nothing of A2
    done = torch.tensor([[False], [True], [False]])
    advantage = generalized_advantage(
        torch.ones(3, 1),
        torch.tensor([[1.0], [2.0], [3.0]]),
        torch.tensor([[2.0], [3.0], [40.0]]),
        done,
        torch.ones(3, 1, dtype=torch.bool),
        0.5,
        0.5,
    )
    torch.testing.assert_close(advantage, torch.tensor([[1.125], [0.5], [18.0]]))


def test_gae_takes_nothing_from_a_failed_step():
    # as above, but the simulation fails at t = 1: A0 is its own delta, 1, whatever the failure answered
    failed = torch.tensor([[False], [True], [False]])
    advantage = generalized_advantage(
        torch.tensor([[1.0], [-50.0], [1.0]]),
        torch.tensor([[1.0], [2.0], [3.0]]),
        torch.tensor([[2.0], [300.0], [40.0]]),
        failed,
        ~failed,
        0.5,
        0.5,
    )
    torch.testing.assert_close(advantage, torch.tensor([[1.0], [0.0], [18.0]]))


def test_successor_values_bootstrap_from_the_true_last_observation():
    rollout, final = make_rollout(
        [[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]],
        terminated=[[0, 0], [0, 1], [0, 0]],
        truncated=[[1, 0], [0, 0], [0, 1]],
    )

    def value(obs):
        return obs["policy"].sum(-1)

    got = successor_values(rollout, value(rollout.obs), value)
    expected = torch.stack([value(f) for f in final])
    expected[1, 1] = 0.0  # terminated
    torch.testing.assert_close(got, expected)
    # the mistakes of the field are different numbers: V(s_t) and V of the reset observation
    assert not torch.isclose(got[0, 0], value(rollout.obs)[0, 0])
    assert not torch.isclose(got[0, 0], value(rollout.obs)[1, 0])


def ppo(config=None, policy=None, seed=0) -> PPO:
    policy = policy or GaussianPolicy(SPECS, GaussianConfig(hidden=[8], normalize_obs=False), rng(seed))
    config = config or PPOConfig(hidden=[8])
    return PPO(SPECS, PPO.make_policy(SPECS, policy, config, rng(seed)), config, rng(seed + 1))


def test_one_update_equals_a_float64_reference():
    """One epoch, one minibatch: the gradient of the published loss, clipped and given to Adam."""
    config = PPOConfig(
        num_epochs=1,
        minibatch_size=100,
        schedule=Schedule.CONSTANT,
        learning_rate=1e-2,
        entropy_coef=0.01,
        value_coef=0.7,
        max_grad_norm=0.3,
        hidden=[8],
    )
    algorithm = ppo(config)
    rollout, _ = make_rollout(
        [[1.0, -0.5], [0.3, 2.0], [0.0, 1.0]],
        terminated=[[0, 0], [0, 1], [0, 0]],
        truncated=[[1, 0], [0, 0], [0, 1]],
    )
    reference = copy.deepcopy(algorithm)
    reference.policy.double(), reference.critic.double()
    algorithm.update(rollout)

    flat = {"policy": rollout.obs["policy"].double().flatten(0, 1)}
    values = reference.value(flat).detach().view(3, 2)
    after = torch.cat([values[1:], reference.value({"policy": rollout.last_obs["policy"].double()})[None]])
    after[rollout.truncated] = reference.value({"policy": rollout.final_obs["policy"].double()})
    after = after.detach() * (~rollout.terminated)
    advantage, running = torch.zeros(3, 2, dtype=torch.float64), 0.0
    for t in (2, 1, 0):
        delta = rollout.reward[t].double() + config.gamma * after[t] - values[t]
        alive = (~(rollout.terminated | rollout.truncated)[t]).double()
        running = delta + config.gamma * config.gae_lambda * alive * running
        advantage[t] = running
    returns = advantage + values
    a = (advantage - advantage.mean()) / (advantage.std() + 1e-8)
    distribution = torch.distributions.Normal(
        reference.policy.net(flat["policy"]).view(3, 2, 2), reference.policy.log_std.exp()
    )
    ratio = (distribution.log_prob(rollout.action.double()).sum(-1) - rollout.log_prob.double()).exp()
    objective = torch.min(ratio * a, ratio.clamp(0.8, 1.2) * a).mean()
    loss = (
        -objective
        + 0.7 * (reference.value(flat).view(3, 2) - returns).square().mean()
        - 0.01 * distribution.entropy().sum(-1).mean()
    )
    parameters = [*reference.policy.parameters(), *reference.critic.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=1e-2, eps=1e-5)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(parameters, 0.3)
    optimizer.step()
    for got, expected in zip(algorithm.parameters, parameters, strict=True):
        torch.testing.assert_close(got.double(), expected, rtol=0, atol=2e-5)


def test_failed_simulations_do_not_touch_the_update():
    """A diverged row with absurd numbers changes nothing but by its absence."""
    valid = [[True, True], [True, False], [True, True]]
    ends = {"terminated": [[0, 0]] * 3, "truncated": [[0, 0], [0, 1], [0, 0]]}
    results = []
    for poison in (0.0, 1e6):
        rollout, _ = make_rollout([[1.0, 0.5], [0.2, 0.0], [0.4, 0.1]], valid=valid, **ends)
        rollout.action[1, 1] = poison
        rollout.log_prob[1, 1] = -poison
        rollout.reward[1, 1] = poison
        assert rollout.final_obs["policy"].shape == (1, 3)  # of that step alone
        rollout.final_obs["policy"].fill_(poison)
        algorithm = ppo(PPOConfig(num_epochs=2, minibatch_size=2, hidden=[8]))
        algorithm.update(rollout)
        results.append([p.detach().clone() for p in algorithm.parameters])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_a_rollout_of_failed_simulations_teaches_nothing():
    algorithm = PPO(SPECS, GaussianPolicy(SPECS, GaussianConfig(), rng()), PPOConfig(), rng(1))
    before = copy.deepcopy(algorithm.state_dict())
    rollout, _ = make_rollout([[0.0, 0.0]], [[0, 0]], [[1, 1]], valid=[[False, False]])
    assert algorithm.update(rollout) == {}
    after = algorithm.state_dict()
    for part in ("policy", "critic", "critic_normalizer"):
        for name, values in before[part].items():
            assert torch.equal(values, after[part][name])
    assert after["optimizer"]["state"] == {}


def test_asymmetric_critic_reads_its_own_group_and_policy_does_not():
    config = PPOConfig(num_epochs=1, minibatch_size=4, hidden=[8], critic_groups=["policy", "privileged"])
    rollout, _ = make_rollout(
        [[1.0, 0.0], [0.0, 1.0]], [[0, 0]] * 2, [[0, 0]] * 2, groups=("policy", "privileged")
    )
    algorithm = ppo(config)
    before = algorithm.value({g: v.flatten(0, 1) for g, v in rollout.obs.items()})
    rollout.obs["privileged"] += 1.0
    after = algorithm.value({g: v.flatten(0, 1) for g, v in rollout.obs.items()})
    assert not torch.allclose(before, after)
    algorithm.update(rollout)
    assert algorithm.policy.obs_dim == 3


def test_adaptive_schedule_follows_the_kl():
    algorithm = ppo(PPOConfig(learning_rate=1e-3, desired_kl=0.01))
    algorithm._adapt_learning_rate(0.03)
    assert algorithm.learning_rate == pytest.approx(1e-3 / 1.5)
    algorithm._adapt_learning_rate(0.004)
    assert algorithm.learning_rate == pytest.approx(1e-3)
    algorithm._adapt_learning_rate(0.01)
    assert algorithm.optimizer.param_groups[0]["lr"] == pytest.approx(1e-3)


def test_linear_schedule_reaches_zero_at_the_end():
    algorithm = ppo(PPOConfig(schedule=Schedule.LINEAR, learning_rate=1e-3, num_epochs=1, hidden=[8]))
    rollout, _ = make_rollout([[1.0, 0.0]], [[0, 0]], [[0, 0]])
    assert float(algorithm.update(rollout, progress=0.75)["policy/learning_rate"]) == pytest.approx(2.5e-4)
    before = [p.detach().clone() for p in algorithm.parameters]
    algorithm.update(rollout, progress=1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, algorithm.parameters, strict=True))


def test_ppo_refuses_a_policy_without_density():
    policy = DeterministicPolicy(SPECS, DeterministicConfig(hidden=[8]), rng())
    with pytest.raises(UsageError, match=r"PPO needs a policy with .*density|log-probability"):
        ppo(policy=policy)


class HalfADensity(Policy):
    """What a user may write: a policy of their own, no subclass of ours with a density."""

    def __init__(self, specs: Specs) -> None:
        super().__init__(specs, ["policy"], normalize_obs=True)
        self.mean = torch.nn.Linear(self.obs_dim, self.action_dim)

    def forward(self, flat):
        return self.mean(self.normalize(flat)).clamp(-1, 1)

    def act(self, obs, deterministic=False, rng=None):
        return self(self.flatten(obs))

    def log_prob(self, obs, action):
        return self.distribution(obs).log_prob(action)

    def entropy(self, obs):
        return self.distribution(obs).entropy()


class WholeDensity(HalfADensity):
    def distribution(self, obs):
        return DiagonalGaussian(self.mean(self.normalize(self.flatten(obs))), torch.zeros(self.action_dim))

    def to_bounds(self, action, obs):
        return action.clamp(-1, 1)


def test_ppo_trains_any_policy_that_has_the_capability_and_refuses_half_of_it():
    env = VecEnv(Pendulum(), 2, seed=0, num_threads=1)
    config = PPOConfig(num_steps=4, num_epochs=1, hidden=[8])
    with pytest.raises(UsageError, match=r"PPO needs a policy with .*, which HalfADensity has not"):
        PPO.make_policy(env.specs, HalfADensity(env.specs), config, rng())
    algorithm = PPO(env.specs, WholeDensity(env.specs), config, rng())
    before = algorithm.policy.mean.weight.detach().clone()
    metrics = OnPolicyLoop(env, algorithm, total_steps=8, torch_threads=1).iterate()
    assert metrics["policy/entropy"] == pytest.approx(0.5 * math.log(2 * math.pi * math.e))
    assert not torch.equal(algorithm.policy.mean.weight, before)


def test_ppo_learns_a_bandit_with_a_beta_policy():
    """Reward -(a - 0.5)^2 on both actions: the mean must move from 0 towards 0.5."""
    policy = BetaPolicy(SPECS, BetaConfig(hidden=[8], normalize_obs=False), rng())
    algorithm = PPO(SPECS, policy, PPOConfig(num_epochs=4, minibatch_size=64, hidden=[8]), rng(1))
    obs = {"policy": torch.zeros(256, 3)}
    buffer = RolloutBuffer(1, 256, {"policy": 3}, 2)
    yes, no = torch.ones(256, dtype=torch.bool), torch.zeros(256, dtype=torch.bool)
    for _ in range(60):
        action, log_prob = algorithm.sample(obs)
        reward = -(action - 0.5).square().sum(-1)
        buffer.add(obs, action, log_prob, Step(obs, reward, yes, no, obs, yes))
        algorithm.update(buffer.finish(obs))
    mean = policy.act({"policy": torch.zeros(1, 3)}, deterministic=True)
    assert (mean - 0.5).abs().max() < 0.15


@pytest.mark.parametrize(
    "values",
    [
        {"gamma": 1.0},
        {"learning_rate": 0.0},
        {"learning_rate": float("inf")},
        {"desired_kl": float("nan")},
        {"num_steps": 0},
        {"gae_lambda": 1.5},
        {"clip_ratio": -0.1},
        {"value_coef": -1.0},
        {"value_coef": float("nan")},
        {"entropy_coef": -1e-3},
        {"entropy_coef": float("inf")},
        {"hidden": [0]},
        {"hidden": [8, -3]},
        {"learning_rate": 1e-7},
    ],
)
def test_impossible_hyperparameters_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        PPOConfig(**values)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["privilegd"], "did you mean 'privileged'"),
        ([], "at least one observation group of policy, privileged"),
    ],
)
def test_unknown_critic_groups_are_refused(groups, message):
    with pytest.raises(UsageError, match=message):
        ppo(PPOConfig(critic_groups=groups))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_impossible_noise_is_refused(value):
    with pytest.raises(ValueError, match="initial_std"):
        GaussianConfig(initial_std=value)
    with pytest.raises(ValueError, match="noise_std"):
        DeterministicConfig(noise_std=value)


def test_impossible_policies_are_refused():
    with pytest.raises(ValueError, match="mean_gain must be finite, got inf"):
        GaussianConfig(mean_gain=float("inf"))
    with pytest.raises(ValueError, match="log_std_min must be finite, got -inf"):
        SquashedGaussianConfig(log_std_min=float("-inf"))
    with pytest.raises(ValueError, match="hidden: layer widths must be at least 1"):
        BetaConfig(hidden=[8, 0])
