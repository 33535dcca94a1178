"""Our environments under Gymnasium's and Stable-Baselines3's own checks and wrappers."""

from __future__ import annotations

import importlib
import sys
import warnings

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from gymnasium.wrappers.vector import (
    ClipAction,
    DictInfoToList,
    NormalizeReward,
    RecordEpisodeStatistics,
)

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import ActionTerm, ObsTerm, Source
from robotrl.envs.gymnasium import GymnasiumEnv, GymnasiumVecEnv
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.gymnasium.hopper import Hopper


class HopperNewtons(Hopper):
    """Hopper with other actuator bounds and a second observation group."""

    def action_terms(self, model):
        return tuple(ActionTerm(f"joint_{i}", "N m", -0.5, 0.25 * (i + 1)) for i in range(3))

    def observation_terms(self, model):
        groups = super().observation_terms(model)
        return {**groups, "privileged": (ObsTerm("height", 1, "m", Source.SIMULATION, 0.0, 3.0),)}

    def observe(self, sim):
        return {**super().observe(sim), "privileged": {"height": sim.data("qpos")[:, 1]}}


def vector(num_envs: int = 4, task=None, seed: int = 0, groups=("policy",), **options) -> GymnasiumVecEnv:
    return GymnasiumVecEnv(VecEnv(task or Hopper(), num_envs, seed, num_threads=1, **options), groups)


def roll(envs, steps: int) -> list:
    """Seeded random actions; everything that comes back, copied at the end only."""
    envs.action_space.seed(3)
    return [envs.step(envs.action_space.sample()) for _ in range(steps)]


def test_spaces():
    envs = vector(task=HopperNewtons(), groups=("policy", "privileged"))
    assert envs.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert envs.single_action_space.low.tolist() == [-0.5] * 3
    assert envs.single_action_space.high.tolist() == [0.25, 0.5, 0.75]
    assert envs.action_space == batch_space(envs.single_action_space, 4)
    assert envs.single_observation_space["policy"].shape == (11,)
    assert envs.single_observation_space["policy"].low[:5].tolist() == [-np.inf] * 5
    assert envs.single_observation_space["policy"].high[5:].tolist() == [10.0] * 6
    assert envs.single_observation_space["privileged"].high.tolist() == [3.0]
    assert isinstance(vector().single_observation_space, gymnasium.spaces.Box)
    obs, _ = envs.reset(seed=1)
    assert obs in envs.observation_space
    for obs, rewards, terminated, truncated, _ in roll(envs, 60):
        assert obs in envs.observation_space
        assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float64, bool, bool)
        assert rewards.shape == terminated.shape == truncated.shape == (4,)


@pytest.mark.parametrize("groups", [("policy",), ("policy", "privileged")])
def test_seeded_runs_are_equal_and_returned_arrays_are_never_reused(groups):
    first, second = (vector(task=HopperNewtons(), seed=seed, groups=groups) for seed in (0, 1))
    assert data_equivalence(first.reset(seed=7), second.reset(seed=7), exact=True)
    stepped = roll(first, 80)
    assert any("final_obs" in infos for *_, infos in stepped)
    copies = []
    second.action_space.seed(3)
    for _ in range(80):
        obs, *rest = second.step(second.action_space.sample())
        copies.append(({k: v.copy() for k, v in obs.items()} if isinstance(obs, dict) else obs.copy(), *rest))
    for kept, copied in zip(stepped, copies, strict=True):
        assert data_equivalence(kept[:4], copied[:4], exact=True)
    assert not data_equivalence(first.reset(seed=8), second.reset(seed=7))
    assert not data_equivalence(first.reset(seed=7), first.reset())


def test_physical_actions_reach_the_actuators():
    envs = vector(2, HopperNewtons())
    envs.reset(seed=0)
    actions = np.array([[-0.5, 0.5, 0.3], [0.1, -0.2, 0.75]], dtype=np.float32)
    envs.step(actions)
    np.testing.assert_allclose(envs.env.sim.data("ctrl").numpy(), actions, rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (np.zeros((3, 3)), r"shape \(2, 3\), got \(3, 3\)"),
        (np.zeros(3), r"shape \(2, 3\), got \(3,\)"),
        (np.array([[0, 0, 0], [0, 0.6, 0]]), r"environment 1 got 0.6 for 'joint_1', which takes -0.5 to 0.5"),
        (np.array([[0, 0, np.nan], [0, 0, 0]]), "environment 0 got nan for 'joint_2'"),
    ],
)
def test_bad_actions(actions, message):
    envs = vector(2, HopperNewtons())
    envs.reset()
    with pytest.raises(UsageError, match=message):
        envs.step(actions)


def test_bad_requests():
    with pytest.raises(UsageError, match="did you mean 'policy'"):
        vector(groups=("polcy",))
    with pytest.raises(UsageError, match="at least one observation group"):
        vector(groups=())
    with pytest.raises(UsageError, match="reset takes no options"):
        vector().reset(options={"reset_mask": np.ones(4, dtype=bool)})
    with pytest.raises(UsageError, match="use GymnasiumVecEnv"):
        GymnasiumEnv(VecEnv(Hopper(), 2, num_threads=1))


def test_episode_ends_carry_the_last_observation():
    """Against the VecEnv itself, stepped with the same actions."""
    envs, plain = vector(6, seed=2, stagger=True), VecEnv(Hopper(), 6, 2, num_threads=1, stagger=True)
    envs.reset()
    plain.reset()
    envs.env.sim.data("qvel")[4] = plain.sim.data("qvel")[4] = float("nan")
    ends = 0
    for index, (obs, rewards, terminated, truncated, infos) in enumerate(roll(envs, 60)):
        if index == 0:
            envs.action_space.seed(3)
        step = plain.step(torch.from_numpy(envs.action_space.sample()))
        done = step.done.numpy()
        assert np.array_equal(obs, step.obs["policy"].numpy())
        assert np.array_equal(rewards, step.reward.numpy())
        assert np.array_equal(terminated, step.terminated.numpy())
        assert np.array_equal(truncated, step.truncated.numpy())
        assert np.array_equal(infos["valid"], step.valid.numpy())
        assert bool(infos["valid"][4]) == (index > 0)
        assert ("final_obs" in infos) == done.any()
        if done.any():
            assert np.array_equal(infos["_final_obs"], done)
            assert np.array_equal(infos["_final_info"], done)
            for i in range(6):
                if done[i]:
                    assert np.array_equal(infos["final_obs"][i], step.final_obs["policy"][i].numpy())
                    assert infos["final_info"]["valid"][i] == bool(step.valid[i])
                    ends += 1
                else:
                    assert infos["final_obs"][i] is None
    assert ends > 10


def test_gymnasium_reads_the_infos_as_its_own():
    """Keys, masks and nesting are those of a SyncVectorEnv in the same auto-reset mode."""
    singles = [lambda: GymnasiumEnv(VecEnv(Hopper(), 1, num_threads=1)) for _ in range(3)]
    theirs = gymnasium.vector.SyncVectorEnv(singles, autoreset_mode=AutoresetMode.SAME_STEP)
    ours = vector(3)
    theirs.reset(seed=0)
    ours.reset(seed=0)

    def first_end(envs):
        return next(infos for *_, infos in roll(envs, 60) if "final_obs" in infos)

    def shape(infos):
        return {
            key: shape(value) if isinstance(value, dict) else (value.dtype, value.shape)
            for key, value in infos.items()
        }

    expected = shape(first_end(theirs))
    given = shape(first_end(ours))
    del given["valid"], given["_valid"]  # theirs has none in the first step of an episode
    assert given.items() <= expected.items()
    assert expected.keys() - given.keys() <= {"valid", "_valid"}


def test_gymnasium_wrappers_work_on_it():
    recorded = RecordEpisodeStatistics(vector(5, seed=1))
    recorded.reset(seed=1)
    plain = VecEnv(Hopper(), 5, 1, num_threads=1)
    plain.rng.manual_seed(1)
    plain.reset()
    recorded.action_space.seed(0)
    returns, lengths = [], []
    for _ in range(120):
        actions = recorded.action_space.sample()
        recorded.step(actions)
        log = plain.step(torch.from_numpy(actions)).log
        returns += log.get("episode/return", torch.zeros(0)).tolist()
        lengths += log.get("episode/length", torch.zeros(0)).tolist()
    assert recorded.episode_count == len(returns) > 10
    assert list(recorded.return_queue) == pytest.approx(returns, rel=1e-5)
    assert list(recorded.length_queue) == lengths

    stacked = DictInfoToList(NormalizeReward(ClipAction(vector(3))))
    stacked.reset(seed=0)
    for _ in range(60):
        obs, reward, *_, infos = stacked.step(np.full((3, 3), 5.0))
        assert np.isfinite(obs).all() and np.isfinite(reward).all() and len(infos) == 3
    stacked.close()
    assert stacked.unwrapped.closed


@pytest.mark.parametrize("groups", [("policy",), ("policy", "privileged")])
def test_single_environment_passes_gymnasiums_checker(groups):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # it recommends bounded, [-1, 1] and registered environments; the physical ones are what they are
        warnings.filterwarnings("ignore", message=".*(infinity|symmetric|normalized|spec).*")
        check_env(GymnasiumEnv(VecEnv(HopperNewtons(), 1, num_threads=1), groups), skip_render_check=True)


def test_single_environment_ends_with_the_last_observation():
    env = GymnasiumEnv(VecEnv(Hopper(), 1, seed=5, num_threads=1))
    plain = VecEnv(Hopper(), 1, seed=5, num_threads=1)
    obs, _ = env.reset()
    assert np.array_equal(obs, plain.reset()["policy"][0].numpy())
    env.action_space.seed(0)
    for _ in range(300):
        action = env.action_space.sample()
        obs, reward, terminated, truncated, info = env.step(action)
        step = plain.step(torch.from_numpy(action)[None])
        assert np.array_equal(obs, step.final_obs["policy"][0].numpy())
        assert (reward, terminated, truncated) == (float(step.reward), bool(step.terminated), False)
        assert info["valid"]
        if terminated:
            return
    pytest.fail("no episode ended")


class TestStableBaselines3:
    """`Sb3VecEnv`."""

    def make(self, num_envs: int = 8, seed: int = 0, task=None, **options):
        from robotrl.envs.sb3 import Sb3VecEnv

        return Sb3VecEnv(VecEnv(task or Hopper(), num_envs, seed, num_threads=1), **options)

    def test_infos_follow_its_conventions(self):
        envs = self.make(5, task=Hopper(episode_length_s=0.16))  # 20 steps
        plain = VecEnv(Hopper(episode_length_s=0.16), 5, 0, num_threads=1)
        assert np.array_equal(envs.reset(), plain.reset()["policy"].numpy())
        rng = np.random.default_rng(0)
        seen = set()
        for index in range(100):
            if index == 30:
                envs.env.sim.data("qpos")[0] = plain.sim.data("qpos")[0] = float("nan")
            actions = rng.uniform(-1, 1, (5, 3)).astype(np.float32)
            obs, rewards, dones, infos = envs.step(actions)
            step = plain.step(torch.from_numpy(actions))
            assert np.array_equal(obs, step.obs["policy"].numpy())
            assert np.array_equal(rewards, step.reward.numpy())
            assert np.array_equal(dones, step.done.numpy())
            statistics = [info["episode"] for info in infos if "episode" in info]
            assert [s["l"] for s in statistics] == step.log.get("episode/length", torch.zeros(0)).tolist()
            expected = step.log.get("episode/return", torch.zeros(0)).tolist()
            assert [s["r"] for s in statistics] == pytest.approx(expected, rel=1e-5)
            for i, info in enumerate(infos):
                assert ("terminal_observation" in info) == bool(dones[i])
                assert ("valid" in info) == (not step.valid[i])
                if dones[i]:
                    assert np.array_equal(info["terminal_observation"], step.final_obs["policy"][i].numpy())
                    assert info["TimeLimit.truncated"] == bool(step.truncated[i])
                    seen.add((bool(step.terminated[i]), bool(step.valid[i])))
        assert seen == {(True, True), (False, True), (False, False)}

    def test_its_wrappers_evaluation_and_seeding(self):
        from stable_baselines3 import PPO
        from stable_baselines3.common.evaluation import evaluate_policy
        from stable_baselines3.common.vec_env import VecCheckNan, VecNormalize

        first, second = self.make(seed=0), self.make(seed=1)
        first.seed(4)
        second.seed(4)
        assert np.array_equal(first.reset(), second.reset())
        assert not np.array_equal(first.reset(), second.reset()[::-1])
        assert first.has_attr("num_envs") and not first.has_attr("nothing_of_that_name")
        with pytest.raises(UsageError, match="one batch"):
            first.set_attr("gravity", 0.0)

        envs = VecNormalize(VecCheckNan(self.make(8), raise_exception=True))
        model = PPO("MlpPolicy", envs, n_steps=32, batch_size=64, n_epochs=2, seed=0, device="cpu")
        before = [parameter.clone() for parameter in model.policy.parameters()]
        model.learn(512)
        assert model.num_timesteps == 512
        assert len(model.ep_info_buffer) > 5
        assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it warns where episode statistics may be distorted
            returns, lengths = evaluate_policy(model, envs, 6, return_episode_rewards=True)
        assert len(returns) == 6 and all(length > 1 for length in lengths)

    def test_dict_observations(self):
        from stable_baselines3 import SAC

        envs = self.make(2, task=HopperNewtons(), groups=("policy", "privileged"))
        assert envs.reset().keys() == {"policy", "privileged"}
        # [-1, 1] whatever the actuators take
        assert envs.action_space == gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32)
        model = SAC("MultiInputPolicy", envs, learning_starts=40, buffer_size=500, seed=0, device="cpu")
        model.learn(100)
        assert model.replay_buffer.size() == 50

    def test_single_environment_passes_its_checker(self):
        from stable_baselines3.common.env_checker import check_env as sb3_check_env

        sb3_check_env(GymnasiumEnv(VecEnv(Hopper(), 1, num_threads=1)), skip_render_check=True)

    def test_missing_package_names_the_remedy(self, monkeypatch):
        for name in ("", ".common.monitor", ".common.vec_env"):
            monkeypatch.setitem(sys.modules, f"stable_baselines3{name}", None)
        monkeypatch.delitem(sys.modules, "robotrl.envs.sb3", raising=False)
        with pytest.raises(RobotrlError, match=r'run pip install "robotrl\[sb3\]"$'):
            importlib.import_module("robotrl.envs.sb3")
