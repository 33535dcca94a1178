"""Our environments in other projects' hands: by name in Gymnasium, as a dm_env.Environment, under SB3.

The adapters themselves are compared with the `VecEnv` here and in test_gymnasium_adapter.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import dm_env
import gymnasium
import numpy as np
import pytest
import torch
from absl.testing import absltest
from dm_env import test_utils
from gymnasium.utils.env_checker import check_env

import robotrl
from robotrl.core.catalog import available
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.envs.dm_control_compat import load_suite
from robotrl.envs.dm_env import DmEnv
from robotrl.envs.gymnasium import GymnasiumEnv, GymnasiumVecEnv
from robotrl.envs.vec_env import VecEnv
from robotrl.registration import gymnasium_id
from robotrl.tasks.gymnasium.hopper import Hopper

SHORT_S = 0.16  # 20 steps of Hopper: some episodes end in a fall, some by the time limit


def short_hopper(num_envs: int = 1, seed: int = 0) -> VecEnv:
    return VecEnv(Hopper(episode_length_s=SHORT_S), num_envs, seed, num_threads=1)


def actions(steps: int, size: int = 3, seed: int = 3) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    return (rng.uniform(-1, 1, size).astype(np.float32) for _ in range(steps))


def fresh_python(code: str) -> str:
    """What a new interpreter prints; warnings are errors."""
    words = [sys.executable, "-W", "error::UserWarning", "-c", code]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


# Gymnasium's registry


@pytest.mark.parametrize(
    "code",
    [
        "import robotrl; import gymnasium",
        "import gymnasium; import robotrl",
        "import robotrl, importlib; importlib.reload(robotrl); import gymnasium; importlib.reload(robotrl)",
        "import robotrl, importlib.util as u; u.find_spec('gymnasium.envs.registration'); import gymnasium",
        "import robotrl.cli; from gymnasium.envs.registration import register; import gymnasium",
    ],
)
def test_every_shipped_task_is_registered_in_whatever_order(code: str) -> None:
    show = "import sys; print(*[name for name in gymnasium.registry if name.startswith('robotrl/')])"
    clean = "assert not [f for f in sys.meta_path if type(f).__module__.startswith('robotrl')]"
    names = fresh_python(f"{code}\n{show}\n{clean}").split()
    assert sorted(names) == sorted(gymnasium_id(task) for task in available("task"))
    assert {"robotrl/cheetah_run-v0", "robotrl/HalfCheetah-v5"} <= set(names)


def test_a_name_may_say_which_package_to_import() -> None:
    code = "import gymnasium; print(gymnasium.make('robotrl:robotrl/pendulum_swingup-v0'))"
    assert "TaskEnv<robotrl/pendulum_swingup-v0>" in fresh_python(code)


@pytest.mark.parametrize("task", ["cartpole_balance", "cheetah_run", "Hopper-v5"])
def test_named_environments_pass_gymnasiums_checker(task: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message=".*infinity.*")  # Gymnasium's own have no bounds, either
        env = gymnasium.make(gymnasium_id(task), render_mode="rgb_array", width=64, height=48)
        check_env(env.unwrapped)
    env.close()
    env.close()


def test_named_environments_pass_sb3s_checker() -> None:
    from stable_baselines3.common.env_checker import check_env as sb3_check_env

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(gymnasium.make("robotrl/cheetah_run-v0"), skip_render_check=False)


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "Ant-v5"])
def test_spaces_are_the_originals(name: str) -> None:
    ours, theirs = gymnasium.make(f"robotrl/{name}"), gymnasium.make(name)
    assert ours.action_space == theirs.action_space
    assert ours.observation_space.shape == theirs.observation_space.shape
    assert ours.metadata["render_fps"] == theirs.metadata["render_fps"]


def test_unseeded_episodes_differ_and_seeded_ones_are_those_of_the_vec_env() -> None:
    first, second = (gymnasium.make("robotrl/cheetah_run-v0") for _ in range(2))
    assert not np.array_equal(first.reset()[0], second.reset()[0])
    assert np.array_equal(first.reset(seed=7)[0], second.reset(seed=7)[0])
    assert not np.array_equal(first.reset(seed=8)[0], second.reset(seed=7)[0])
    vector, again = (gymnasium.make_vec("robotrl/cheetah_run-v0", num_envs=3) for _ in range(2))
    assert not np.array_equal(vector.reset()[0], again.reset()[0])
    plain = robotrl.make_env("cheetah_run", num_envs=3, seed=5).reset()["policy"]
    assert np.array_equal(vector.reset(seed=5)[0], plain)


def test_make_vec_is_one_batch() -> None:
    options = {"reset_noise_scale": 0.0, "max_episode_steps": 9}
    vector = gymnasium.make_vec("robotrl/HalfCheetah-v5", num_envs=16, **options)
    assert isinstance(vector, GymnasiumVecEnv) and vector.num_envs == 16
    obs, _ = vector.reset(seed=0)
    assert obs.shape == (16, 17) and (obs == obs[0]).all()  # no noise
    truncated = [vector.step(np.zeros((16, 6)))[3].all() for _ in range(18)]
    assert [i for i, end in enumerate(truncated) if end] == [8, 17]
    sync = gymnasium.make_vec("robotrl/HalfCheetah-v5", num_envs=2, vectorization_mode="sync")
    assert sync.reset(seed=0)[0].shape == (2, 17)
    longer = gymnasium.make_vec("robotrl/HalfCheetah-v5", num_envs=1, max_episode_steps=5_000)
    assert longer.env.max_steps == 1_000


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("robotrl/cheeta_run-v0", {}, "Did you mean: `cheetah_run`"),
        ("robotrl/cheetah_run-v9", {}, r"provides versioned environments: \[ `v0` \]"),
        ("robotrl/HalfCheetah-v4", {}, "use `robotrl/HalfCheetah-v5` instead"),
        ("robotrl/cheetah_run-v0", {"run_speed": 3}, r"did you mean 'run_speed_m_s'"),
        ("robotrl/cheetah_run-v0", {"groups": ["polcy"]}, "did you mean 'policy'"),
        ("robotrl/cheetah_run-v0", {"render_mode": "depth"}, "unknown render_mode 'depth'; known: rgb_array"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_wrong_requests(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises((gymnasium.error.Error, UsageError), match=message):
        gymnasium.make(name, **options)


# pictures


def test_pictures_show_the_state() -> None:
    env = gymnasium.make("robotrl/Hopper-v5", render_mode="rgb_array", width=60, height=40, camera="track")
    env.reset(seed=0)
    first = env.render()
    assert first.shape == (40, 60, 3) and first.dtype == np.uint8 and first.std() > 5
    assert np.array_equal(env.render(), first)
    env.unwrapped.env.sim.data("qpos")[0, 1] += 0.5
    assert not np.array_equal(env.render(), first)
    assert gymnasium.make("robotrl/Hopper-v5").unwrapped.render() is None
    with pytest.raises(UsageError, match="did you mean 'track'"):
        bad = gymnasium.make("robotrl/Hopper-v5", render_mode="rgb_array", camera="trak")
        bad.reset()
        bad.render()


def test_the_picture_after_an_episode_is_not_of_the_next() -> None:
    env = GymnasiumEnv(short_hopper(), render_mode="rgb_array", width=60, height=40)

    def play(draw: bool) -> np.ndarray | None:
        env.reset()
        picture = None
        for action in actions(20):
            *_, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                break
            picture = env.render() if draw else None
        return picture

    last = play(draw=True)
    assert np.array_equal(env.render(), last)
    env.reset()
    assert not np.array_equal(env.render(), last)
    play(draw=False)
    with pytest.raises(RobotrlError, match="the episode has ended and its state is gone"):
        env.render()


def test_batches_are_drawn_one_picture_each() -> None:
    from robotrl.envs.sb3 import Sb3VecEnv

    vector = gymnasium.make_vec("robotrl/Hopper-v5", num_envs=3, render_mode="rgb_array", width=32, height=24)
    vector.reset(seed=0)
    vector.env.sim.data("qpos")[1, 1] += 1.0
    frames = vector.render()
    assert len(frames) == 3 and frames[0].shape == (24, 32, 3)
    assert not np.array_equal(frames[0], frames[1])
    sb3 = Sb3VecEnv(vector.env, render_mode="rgb_array", width=32, height=24)
    assert np.array_equal(np.stack(sb3.get_images()), np.stack(frames))
    assert sb3.render_mode == "rgb_array" and sb3.render().shape == (48, 64, 3)  # two by two
    for envs in (vector, sb3):
        envs.close()
        envs.close()


# dm_env


class DmEnvConforms(test_utils.EnvironmentTestMixin, absltest.TestCase):
    """dm_env's own tests, over episodes that end in a fall and by the time limit."""

    def make_object_under_test(self) -> DmEnv:
        return DmEnv(short_hopper())

    def make_action_sequence(self) -> Iterator[np.ndarray]:
        return actions(100)


def test_dm_env_steps_are_the_vec_envs() -> None:
    ours, plain = DmEnv(short_hopper(seed=4)), short_hopper(seed=4)
    names = [term.name for term in plain.specs.observation["policy"]]

    def same(time_step: dm_env.TimeStep, obs: dict[str, torch.Tensor]) -> bool:
        return np.array_equal(
            np.concatenate([time_step.observation[name] for name in names]), obs["policy"][0]
        )

    assert same(ours.reset(), plain.reset())
    discounts = set()
    for action in actions(300):
        time_step, step = ours.step(action), plain.step(torch.from_numpy(action)[None])
        assert same(time_step, step.final_obs)
        assert time_step.last() == bool(step.done) and time_step.reward == step.reward.item()
        assert time_step.discount == (0.0 if step.terminated else 1.0)
        if time_step.last():
            discounts.add(time_step.discount)
            first = ours.step(action)  # begins the next episode, and takes no action
            assert first.first() and first.reward is None and same(first, step.obs)
    assert discounts == {0.0, 1.0}


def test_dm_env_specs() -> None:
    ours, theirs = DmEnv(robotrl.make_env("cheetah_run")), load_suite().load("cheetah", "run")
    assert ours.action_spec() == theirs.action_spec()
    assert sum(spec.shape[0] for spec in ours.observation_spec().values()) == 17
    hopper = DmEnv(short_hopper()).observation_spec()
    assert hopper["root_velocity"] == dm_env.specs.BoundedArray((2,), np.float32, -10.0, 10.0)
    assert hopper["joint_position"].maximum == np.inf
    with pytest.raises(UsageError, match="did you mean 'policy'"):
        DmEnv(short_hopper(), "polcy")
    with pytest.raises(UsageError, match="needs num_envs=1"):
        DmEnv(short_hopper(2))


def test_dm_env_says_when_a_simulation_diverges() -> None:
    env = short_hopper()
    ours = DmEnv(env)
    ours.reset()
    env.sim.data("qvel")[:] = float("nan")
    with pytest.raises(RobotrlError, match="the simulation diverged"):
        ours.step(np.zeros(3))
    assert ours.step(np.zeros(3)).first()
    assert ours.step(np.zeros(3)).mid()


# episodes of a single environment, and SB3 on them


def test_the_episodes_of_a_single_environment_are_those_of_the_vec_env() -> None:
    """`reset` goes on with what the VecEnv has begun, so no initial state is drawn in vain."""
    env, plain = GymnasiumEnv(short_hopper(seed=6)), short_hopper(seed=6)
    first, _ = env.reset()
    assert np.array_equal(first, plain.reset()["policy"][0])
    ends = set()
    for action in actions(300):
        obs, _, terminated, truncated, _ = env.step(action)
        step = plain.step(torch.from_numpy(action)[None])
        assert np.array_equal(obs, step.final_obs["policy"][0])
        if terminated or truncated:
            ends.add((terminated, truncated))
            assert np.array_equal(env.reset()[0], step.obs["policy"][0])
    assert ends == {(True, False), (False, True)}
    seeded, _ = env.reset(seed=1)
    assert np.array_equal(seeded, env.reset(seed=1)[0])


def test_an_unmodified_sb3_script_trains() -> None:
    from stable_baselines3 import PPO

    env = gymnasium.make("robotrl/cartpole_balance-v0", episode_length_s=0.5)
    model = PPO("MlpPolicy", env, n_steps=128, batch_size=64, n_epochs=2, seed=0, device="cpu")
    before = [parameter.clone() for parameter in model.policy.parameters()]
    rewards, dones = [], []

    def record(names: dict[str, Any], _: Any) -> bool:
        rewards.append(float(names["rewards"][0]))
        dones.append(bool(names["dones"][0]))
        return True

    model.learn(512, callback=record)
    ends = [i + 1 for i, done in enumerate(dones) if done]
    assert ends == list(range(50, 513, 50))
    by_hand = [sum(rewards[end - 50 : end]) for end in ends]
    assert [episode["r"] for episode in model.ep_info_buffer] == pytest.approx(by_hand, abs=1e-4)
    assert any(not torch.equal(a, b) for a, b in zip(before, model.policy.parameters(), strict=True))


def test_sb3_learns_on_a_batch() -> None:
    from stable_baselines3 import PPO

    from robotrl.envs.sb3 import Sb3VecEnv

    env = Sb3VecEnv(robotrl.make_env("cartpole_balance", num_envs=32, episode_length_s=1.0))
    model = PPO("MlpPolicy", env, n_steps=50, batch_size=200, learning_rate=2e-3, seed=0, device="cpu")
    model.learn(3_200)
    early = np.mean([episode["r"] for episode in model.ep_info_buffer])
    model.learn(12_800, reset_num_timesteps=False)
    late = np.mean([episode["r"] for episode in list(model.ep_info_buffer)[-32:]])
    assert late > early + 5
