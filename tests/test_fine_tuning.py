"""A stream goes on from a trained policy: the same actions at first, then it learns, on time."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
import torch
from streaming_common import ACTIONS, OBS, SPECS, Walk

from robotrl.algorithms.streaming.actor_critic import StreamAC
from robotrl.algorithms.streaming.compiled import fill_normal
from robotrl.algorithms.streaming.config import Preset, StreamACConfig, StreamQConfig, StreamTDConfig
from robotrl.algorithms.streaming.fine_tuning import TrainedCritic, stream_from_policy
from robotrl.algorithms.streaming.policy import StreamPolicy, mlp_tensors, write_policy
from robotrl.algorithms.streaming.rules.codes import Rule
from robotrl.algorithms.streaming.units import Unit
from robotrl.core.errors import UsageError
from robotrl.networks.mlp import MLP, Activation, Init
from robotrl.policies.gaussian import (
    BetaConfig,
    BetaPolicy,
    GaussianConfig,
    GaussianPolicy,
    SquashedGaussianConfig,
    SquashedGaussianPolicy,
)
from robotrl.policies.softplus_gaussian import SoftplusGaussianConfig, SoftplusGaussianPolicy


def make(kind: str, double: bool = True, normalize: bool = True) -> StreamPolicy:
    rng = torch.Generator().manual_seed(1)
    made: StreamPolicy
    if kind == "sac":
        config = SquashedGaussianConfig([16, 12], Activation.RELU, normalize_obs=normalize, log_std_min=-0.2)
        made = SquashedGaussianPolicy(SPECS, config, rng)
    elif kind == "stream":
        made = SoftplusGaussianPolicy(SPECS, SoftplusGaussianConfig([16, 12], normalize_obs=normalize), rng)
    else:
        activation = Activation(kind.removeprefix("ppo_"))
        config = GaussianConfig([16, 12], activation, normalize_obs=normalize, initial_std=0.4, mean_gain=1.0)
        made = GaussianPolicy(SPECS, config, rng)
    made = made.requires_grad_(False)
    if double:
        made = made.double()
    for tensor in made.parameters():
        tensor += 0.1 * torch.randn(tensor.shape, generator=rng)
    if made.normalizer is not None:
        # spread enough for the clip at 10 to act
        mean = torch.linspace(-1, 1, OBS, dtype=torch.float64)
        var = torch.linspace(0.001, 2, OBS, dtype=torch.float64)
        made.normalizer.load_statistics(mean, var, torch.tensor(10_000.0))
    return made


KINDS = ["ppo_elu", "ppo_tanh", "ppo_relu", "sac", "stream"]


def fine_tune(policy: StreamPolicy, **arguments: object) -> StreamAC:
    """Two streams in the policy's own precision."""
    (dtype,) = {tensor.dtype for tensor in policy.parameters()}
    numbers = np.float64 if dtype is torch.float64 else np.float32
    config = arguments.pop("config", None) or StreamACConfig(hidden=[16, 12])
    return stream_from_policy(policy, 2, config, dtype=numbers, **arguments)


@pytest.mark.parametrize("normalize", [True, False], ids=["normalised", "raw"])
@pytest.mark.parametrize(("double", "tolerance"), [(True, 1e-9), (False, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_first_distribution_is_the_policys(
    kind: str, double: bool, tolerance: float, normalize: bool
) -> None:
    policy = make(kind, double, normalize)
    learner = fine_tune(policy)
    obs = np.random.default_rng(0).normal(size=(20, OBS)).astype(learner.streams.memory.dtype)
    outputs = np.array([learner.outputs("actor", np.tile(x, (2, 1)))[1] for x in obs])
    head = policy.distribution({"policy": torch.from_numpy(obs)})
    np.testing.assert_allclose(outputs[:, :ACTIONS], head.mean, rtol=tolerance, atol=tolerance)
    pre = outputs[:, ACTIONS:]
    std = {"stream": np.logaddexp(0, pre) + 1e-3, "sac": np.exp(np.clip(pre, -0.2, 2.0))}
    expected = head.log_std.exp().expand_as(head.mean)
    np.testing.assert_allclose(std.get(kind, np.exp(pre) + 1e-3), expected, rtol=tolerance, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_and_commands_are_the_policys(kind: str) -> None:
    policy = make(kind)
    learner = fine_tune(policy)
    random = learner.streams.random.copy()
    obs = np.random.default_rng(0).normal(size=(2, OBS))
    learner.start(obs)
    written = copy.deepcopy(policy)
    for i in range(2):
        write_policy(learner, i, written)  # with the first observation in its normaliser
        tensors = zip(policy.parameters(), written.parameters(), strict=True)
        assert all(torch.allclose(a, b, rtol=1e-12) for a, b in tensors)
        head = written.distribution({"policy": torch.from_numpy(obs[i : i + 1])})
        noise = np.zeros(ACTIONS)
        fill_normal(random[i], noise)
        draw = head.mean + head.log_std.exp() * torch.from_numpy(noise)
        np.testing.assert_allclose(learner.act()[i], draw[0], rtol=1e-9)
        bounded = torch.tanh(draw) if kind == "sac" else draw.clamp(-1, 1)
        np.testing.assert_allclose(learner.command()[i], bounded[0], rtol=1e-9)


def test_normaliser_goes_on_from_its_statistics() -> None:
    policy = make("ppo_elu")
    learner, walk = fine_tune(policy), Walk(2, OBS)
    learner.start(walk.obs)
    n, mean, var = 10_000, np.linspace(-1, 1, OBS), np.linspace(0.001, 2, OBS)
    now, square = learner.obs_mean_var(0)
    np.testing.assert_allclose(now, mean + (walk.obs[0] - mean) / (n + 1), rtol=1e-12)
    expected = (var * (n - 1) + (walk.obs[0] - mean) ** 2 * n / (n + 1)) / n
    np.testing.assert_allclose(square, expected, rtol=1e-9)


@pytest.mark.parametrize("kind", ["ppo_elu", "sac", "stream"])
def test_deviation_is_scaled(kind: str) -> None:
    policy = make(kind)
    obs = torch.zeros(1, OBS, dtype=torch.float64)
    if kind == "sac":  # away from the cut, where it would stay
        policy.log_std_min = -5.0
    before = copy.deepcopy(policy).distribution({"policy": obs})
    learner = fine_tune(policy, std_scale=0.1)
    write_policy(learner, 0, policy)
    after = policy.distribution({"policy": obs})
    ratio = (after.log_std - before.log_std).exp()
    if kind == "stream":
        assert ((ratio > 0.1) & (ratio < 0.2)).all()
    else:
        torch.testing.assert_close(ratio, torch.full_like(ratio, 0.1), rtol=1e-9, atol=0)
    torch.testing.assert_close(after.mean, before.mean, rtol=1e-9, atol=1e-12)


def test_trained_critic_says_what_it_said() -> None:
    net = MLP(OBS, [7, 9], 1, Activation.TANH, Init.ORTHOGONAL, torch.Generator().manual_seed(0))
    net = net.double().requires_grad_(False)
    policy = make("ppo_elu")
    critic = TrainedCritic(mlp_tensors(net), Unit.TANH, mean=30.0, std=4.0, samples=1000)
    learner = fine_tune(policy, critic=critic)
    assert learner.config.critic_unit is Unit.TANH
    np.testing.assert_allclose(learner.reward_scale(), 4.0, rtol=1e-9)
    obs = np.random.default_rng(0).normal(size=(2, OBS))
    expected = net(policy.normalize(torch.from_numpy(obs)))[:, 0]
    np.testing.assert_allclose(learner.values(obs), expected, rtol=1e-9)
    learner.start(obs)
    learner.update(np.array([0.5, 0.5]), False, False, obs)
    # the sum of rewards, 0.5, is far below the mean of V: it counts as one of 1001
    np.testing.assert_allclose(learner.reward_scale() ** 2, (999 * 16 + 29.5**2 * 1000 / 1001) / 1000)


def test_a_critic_without_a_scale_is_refused_where_rewards_are_scaled() -> None:
    config = StreamACConfig(hidden=[8, 8], scale_reward=False)
    unscaled = StreamAC(OBS, ACTIONS, 1, config)
    unscaled.start(np.zeros((1, OBS)))
    critic = TrainedCritic.of_stream(unscaled, 0)
    with pytest.raises(UsageError, match=r"critic's rewards is 0: .* set scale_reward=False"):
        fine_tune(make("stream"), critic=critic)
    learner = fine_tune(make("stream"), config=config, critic=critic)
    obs = np.ones((2, OBS))
    learner.streams.obs_statistics[:] = unscaled.streams.obs_statistics
    np.testing.assert_allclose(learner.values(obs), unscaled.values(obs[:1]).repeat(2), rtol=1e-5)


@pytest.mark.parametrize("rule", [Rule.OBGD, Rule.ADAPTIVE_OBGD, Rule.INTENTIONAL], ids=lambda r: r.value)
@pytest.mark.parametrize("kind", ["ppo_elu", "sac"])
def test_it_goes_on_learning(kind: str, rule: Rule) -> None:
    """The reward falls with the distance of the command from a target: the mean moves there."""
    config = StreamACConfig(hidden=[16, 12], rule=rule, gamma=0.0, trace_lambda=0.0, entropy_coef=0.0)
    policy = make(kind, double=False)
    learner = fine_tune(policy, config=config)
    obs = np.ones((2, OBS))
    learner.start(obs)

    def distance() -> float:
        return float(abs(learner.deterministic_action(obs) - 0.5).mean())

    before = distance()
    for _ in range(3000):
        learner.update(-((learner.command() - 0.5) ** 2).sum(1), False, False, obs)
    assert distance() < 0.6 * before


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"policy": "beta"}, "goes on from one of .*GaussianPolicy.*, got BetaPolicy"),
        ({"config": StreamQConfig()}, "take one of StreamACConfig, .*, got a StreamQConfig"),
        ({"config": StreamTDConfig()}, "take one of StreamACConfig, .*, got a StreamTDConfig"),
        ({"std_scale": 0.0}, "std_scale must be above 0, got 0.0"),
        ({"config": StreamACConfig(preset=Preset.REFERENCE, rule=Rule.OBGD)}, "choose preset=default"),
        ({"std_scale": 1e-3}, "times std_scale is .*, not above std_floor 0.001"),
        (
            {"config": StreamACConfig(hidden=[16])},
            "as many hidden layers .* actor has 2 .* critic has 1",
        ),
    ],
)
def test_what_cannot_go_on_is_refused(change: dict, words: str) -> None:
    policy = make("ppo_elu")
    if change.pop("policy", None):
        policy = BetaPolicy(SPECS, BetaConfig(), torch.Generator())
    with pytest.raises(UsageError, match=words):
        fine_tune(policy, **change)


@pytest.mark.parametrize(("kind", "floor"), [("sac", "0"), ("stream", "0.001")])
def test_the_floor_of_a_policys_deviations_is_its_own(kind: str, floor: str) -> None:
    policy = make(kind)
    for asked in (
        {"config": StreamACConfig(hidden=[16, 12], std_floor=0.1)},
        {"sweep": {"std_floor": [0.1, 0.2]}},
    ):
        with pytest.raises(UsageError, match=f"std_floor is that of .*, {floor}: leave it out"):
            fine_tune(policy, **asked)
    assert (fine_tune(policy).std_floor == float(floor)).all()


def test_a_chunk_is_no_action_of_a_stream() -> None:
    policy = GaussianPolicy(SPECS, GaussianConfig([16, 12], horizon=3), torch.Generator())
    with pytest.raises(UsageError, match="decides 3 at once: go on from one with horizon 1"):
        stream_from_policy(policy)


@pytest.mark.parametrize("name", ["log_std", "normalizer.mean"])
def test_a_policy_that_is_not_finite_is_refused(name: str) -> None:
    policy = make("ppo_elu")
    policy.state_dict()[name][1] = np.nan
    with pytest.raises(UsageError, match=f"{name} of the policy is not finite"):
        fine_tune(policy)


def test_policy_of_another_kind_cannot_take_the_actor() -> None:
    with pytest.raises(UsageError, match="cannot take an actor made of"):
        write_policy(fine_tune(make("ppo_elu")), 0, make("ppo_tanh"))


def test_updates_over_the_budget_are_done_and_counted() -> None:
    policy, walk = make("ppo_elu", double=False), Walk(2, OBS)
    steps = [walk.step() for _ in range(50)]
    ends = []
    for budget_s in (None, 1e-9, 60.0):
        learner = fine_tune(policy, config=StreamACConfig(hidden=[16, 12], update_budget_s=budget_s))
        learner.start(walk.obs)
        assert learner.durations.updates == 0  # compiling is no update
        times = []
        for step in steps:
            learner.update(*step)
            times.append(learner.durations.last_s)
        assert learner.durations.max_s == max(times) and learner.durations.updates == 50
        assert learner.durations.over_budget == (50 if budget_s == 1e-9 else 0)
        ends.append(learner.parameters("actor").tobytes())
    assert len(set(ends)) == 1


def test_a_loop_at_500_hz_is_on_time() -> None:
    """A control period of 2 ms, on a shared machine: most updates take a small part of it."""
    policy, walk = make("ppo_elu", double=False), Walk(1, OBS)
    learner = stream_from_policy(policy, 1, StreamACConfig(hidden=[128, 128], update_budget_s=1e-3))
    learner.start(walk.obs)
    durations, late = [], 0
    deadline = time.perf_counter()
    for _ in range(300):
        deadline += 2e-3
        learner.update(*walk.step())
        durations.append(learner.durations.last_s)
        left = deadline - time.perf_counter()
        late += left < 0
        time.sleep(max(0.0, left))
    assert float(np.median(durations)) < 1e-3
    assert learner.durations.over_budget == sum(duration > 1e-3 for duration in durations)
    assert late < 150
