"""What the off-policy loop hands to its learner, counted: batches, updates, observations, first actions."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from test_off_policy import rng
from torch import Tensor

from robotrl.algorithms.off_policy.td3 import TD3, TD3Config
from robotrl.compose import compose
from robotrl.data.replay import Replay, Transitions
from robotrl.envs.vec_env import VecEnv
from robotrl.policies.deterministic import DeterministicConfig, DeterministicPolicy
from robotrl.tasks.control_suite.pendulum import Pendulum
from robotrl.training.off_policy import OffPolicyLoop, _Means, few_updates

CONFIG = TD3Config(hidden=[8], batch_size=40, learning_starts=20, gamma=0.5)


class Recorder(TD3):
    """Learns nothing; remembers what it was given."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)
        self.batches: list[Transitions] = []

    def update(self, batch: Transitions) -> dict[str, Tensor]:
        self.batches.append(batch)
        return {}

    def shares(self) -> list[float]:
        """Which share of each batch is of `data_of`, by its rewards."""
        return [float((batch.reward >= 100.0).float().mean()) for batch in self.batches]


def loop_of(
    config: TD3Config, steps: int, num_envs: int = 4, data: Replay | None = None, horizon: int = 1
) -> OffPolicyLoop:
    """A loop of so many control steps of each pendulum, whose rewards are at most 1 a step."""
    env = VecEnv(Pendulum(), num_envs, seed=0, num_threads=1)
    policy = DeterministicPolicy(env.specs, DeterministicConfig(hidden=[8], horizon=horizon), rng(0))
    learner = Recorder(env.specs, policy, config, rng(1))
    return OffPolicyLoop(env, learner, steps * num_envs, torch_threads=1, data=data)


def data_of(count: int) -> Replay:
    """Steps of one long episode with rewards from 100 on."""
    obs, more = ({"policy": torch.randn(count, 3, generator=rng(i))} for i in range(2))
    done = torch.arange(count) == count - 1
    reward = 100.0 + torch.arange(count)
    return Replay.of_history(obs, torch.zeros(count, 1), reward, torch.zeros_like(done), done, more)


@pytest.mark.parametrize("horizon", [1, 3])
@pytest.mark.parametrize("source", ["experience", "data", "both"])
def test_every_batch_is_discounted_by_the_learners_gamma(source: str, horizon: int) -> None:
    data = None if source == "experience" else data_of(30)
    config = dataclasses.replace(CONFIG, offline_updates=5 if source == "data" else 0)
    loop = loop_of(config, steps=0 if source == "data" else 8, data=data, horizon=horizon)
    loop.iterate()
    assert len(loop.algorithm.batches) >= 4
    for batch in loop.algorithm.batches:
        happened = batch.mask.sum(1)
        torch.testing.assert_close(batch.discount, 0.5**happened, rtol=0, atol=0)
        if source == "data" and horizon == 3:
            first = batch.reward[happened == 3] / 1.75
            assert ((first >= 100.0) & (first < 130.0)).all()


def test_normalisers_see_every_observation_once() -> None:
    loop = loop_of(CONFIG, steps=30)
    seen = []
    for _ in range(2):
        loop.iterate()
        seen.append(int(loop.algorithm.policy.normalizer.count))
    assert seen == [4 * 30, 4 * 31]
    acted_on = loop.buffer.state_dict()["fields"]["obs.policy"].double()
    for statistics in (loop.algorithm.policy.normalizer, loop.algorithm.critic_normalizer):
        assert statistics.count == 4 * 31
        torch.testing.assert_close(statistics.mean, acted_on.mean(0))


@pytest.mark.parametrize("replay_ratio", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("learning_starts", [20, 21])
def test_updates_follow_the_steps_after_the_first_ones(replay_ratio: float, learning_starts: int) -> None:
    config = dataclasses.replace(CONFIG, replay_ratio=replay_ratio, learning_starts=learning_starts)
    loop = loop_of(config, steps=14)
    loop.iterate()
    assert loop.env_steps == 56
    learning = 14 - math.ceil(learning_starts / 4)
    assert len(loop.algorithm.batches) == math.floor(replay_ratio * 4 * learning)


def test_the_first_actions_are_uniform_and_the_later_ones_the_policys() -> None:
    loop = loop_of(CONFIG, steps=6)
    draws = rng()
    draws.set_state(loop.algorithm.rng.get_state())
    loop.iterate()
    actions = loop.buffer.state_dict()["fields"]["action"].view(6, 4, 1)
    for control_step in range(5):  # of 4 environments, until there are 20 transitions
        assert torch.equal(actions[control_step], torch.rand(4, 1, generator=draws) * 2 - 1)
    fifth = loop.buffer.state_dict()["fields"]["obs.policy"].view(6, 4, -1)[5]
    mode = loop.algorithm.policy.act({"policy": fifth}, deterministic=True)
    assert (actions[5] - mode).abs().max() < 0.6  # with noise of 0.1, and statistics a step newer


def test_each_batch_takes_its_share_of_the_data_and_all_while_there_is_no_experience() -> None:
    config = dataclasses.replace(CONFIG, offline_fraction=0.25, offline_updates=3)
    loop = loop_of(config, steps=8, data=data_of(30))
    loop.iterate()
    assert loop.algorithm.shares() == [1.0] * 3
    loop.algorithm.batches.clear()
    loop.iterate()
    assert loop.algorithm.shares() == [10 / 40] * 12


def test_many_updates_a_step_make_an_iteration_short() -> None:
    """After it a run can be stopped and saved: it is not to take half an hour."""
    config = dataclasses.replace(CONFIG, replay_ratio=20.0, offline_updates=500)
    loop = loop_of(config, steps=40, data=data_of(30))
    done = []
    while loop.env_steps < 160:
        loop.algorithm.batches.clear()
        loop.iterate()
        done.append((loop.log_step, len(loop.algorithm.batches)))
    assert done[:4] == [(-300, 200), (-100, 200), (0, 100), (8, 0)]
    assert done[-1] == (160, 160) and max(updates for _, updates in done) == 200


def test_what_updates_log_is_averaged_over_those_that_log_it() -> None:
    logged = _Means()
    for i in range(4):
        logged.add({"loss": torch.tensor(float(i)), **({"rare": torch.tensor(10.0 * i)} if i % 2 else {})})
    assert logged.means() == {"loss": 1.5, "rare": 20.0}
    assert _Means().means() == {}


def test_one_buffer_of_all_makes_every_transition_as_likely_as_any_other() -> None:
    config = dataclasses.replace(CONFIG, offline_fraction=None, learning_starts=70, replay_ratio=80.0)
    # 36 steps of 2 environments, the last of which learns from the 70 transitions before it
    loop = loop_of(config, steps=36, num_envs=2, data=data_of(30))
    while loop.env_steps < 72:
        loop.iterate()
    shares = torch.tensor(loop.algorithm.shares())
    assert len(shares) == 160
    sigma = math.sqrt(0.3 * 0.7 / (160 * 40))
    assert abs(float(shares.mean()) - 0.3) < 4 * sigma
    # drawn anew for each batch: it varies as a binomial does
    assert float(shares.std()) == pytest.approx(math.sqrt(0.3 * 0.7 / 40), rel=0.3)


@pytest.mark.parametrize(
    ("words", "warned"),
    [
        ("algorithm=sac", False),  # 1,024 simulations
        ("algorithm=sac num_envs=25", False),
        ("algorithm=sac num_envs=24", True),
        ("algorithm=sac num_envs=1 algorithm.replay_ratio=1", False),
        ("algorithm=td3", False),
        ("algorithm=bc", False),
        ("algorithm=ppo num_envs=1", False),
    ],
)
def test_updates_that_are_rare_with_few_simulations_are_told(words: str, warned: bool) -> None:
    warning = few_updates(compose(["task=pendulum_swingup", *words.split()]))
    assert (warning is not None) is warned
    if warning is not None:
        assert "24 make an update every 1.04 control steps" in warning
