"""EnvPool, Gymnasium-Robotics and Meta-World, where they are installed."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from counter_env import by_hand

import robotrl
from robotrl.cli import main
from robotrl.compose import compose_task
from robotrl.core.errors import UsageError
from robotrl.envs.env import specs_of
from robotrl.envs.foreign.envpool_catalog import robot_tasks
from robotrl.envs.foreign.vec_env import ForeignVecEnv


@pytest.fixture(scope="module")
def envpool() -> ModuleType:
    return pytest.importorskip("envpool", reason='EnvPool is not installed: pip install "robotrl[envpool]"')


@pytest.fixture(scope="module")
def robotics() -> ModuleType:
    return pytest.importorskip(
        "gymnasium_robotics", reason='not installed: pip install "robotrl[gymnasium-robotics]"'
    )


@pytest.fixture(scope="module")
def metaworld() -> ModuleType:
    return pytest.importorskip("metaworld", reason='not installed: pip install "robotrl[metaworld]"')


def first_seed(seed: int) -> int:
    return int(torch.randint(2**30, (), generator=torch.Generator().manual_seed(seed)))


def draws(count: int, env: Any) -> torch.Tensor:
    """(T, N, A) in [-1, 1]."""
    shape = (count, env.num_envs, env.specs.action_dim)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def row(observation: Any) -> np.ndarray:
    """One environment's observation as a row of the group "policy"."""
    keys = sorted(observation) if isinstance(observation, dict) else []
    values = [observation[key] for key in keys] if keys else [observation]
    return np.concatenate([np.ravel(value) for value in values]).astype(np.float32)


def assert_step(step: Any, i: int, obs: Any, final_obs: Any, reward: float, ends: tuple[bool, bool]) -> None:
    np.testing.assert_allclose(step.obs["policy"][i].numpy(), row(obs), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(step.final_obs["policy"][i].numpy(), row(final_obs), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(float(step.reward[i]), reward, rtol=1e-5, atol=1e-7)
    assert (bool(step.terminated[i]), bool(step.truncated[i]), bool(step.valid[i])) == (*ends, True)


@pytest.mark.parametrize(
    ("task_id", "limit", "least"), [("Pendulum-v1", 7, 24), ("Hopper-v4", 60, 3), ("CheetahRun-v1", 9, 18)]
)
def test_envpool_hides_the_call_that_resets(
    envpool: ModuleType, task_id: str, limit: int, least: int
) -> None:
    """Every row is a pool of one environment, whose call after an episode's end is left out."""
    env = robotrl.make_env(f"envpool:{task_id}", 3, seed=2, max_episode_steps=limit)
    assert isinstance(env, ForeignVecEnv) and env.max_steps == limit
    first, action = env.reset()["policy"], draws(60, env)
    half = (env.specs.action_high - env.specs.action_low).numpy() / 2
    pools = [
        envpool.make_gymnasium(task_id, num_envs=1, seed=first_seed(2) + i, max_episode_steps=limit)
        for i in range(3)
    ]

    def bare(observation: Any) -> Any:
        return (
            {key: value[0] for key, value in observation.items()}
            if isinstance(observation, dict)
            else observation[0]
        )

    for i, pool in enumerate(pools):
        np.testing.assert_array_equal(first[i].numpy(), row(bare(pool.reset()[0])))
    ended = 0
    for t in range(len(action)):
        step = env.step(action[t])
        for i, pool in enumerate(pools):
            command = (half * action[t, i].double().numpy())[None]
            obs, reward, terminated, truncated, _ = pool.step(command)
            after = obs
            if terminated[0] or truncated[0]:
                ended += 1
                after = pool.step(command)[0]
            ends = (bool(terminated[0]), bool(truncated[0]))
            assert_step(step, i, bare(after), bare(obs), reward[0], ends)
    assert ended >= least


def test_envpool_seeds(envpool: ModuleType) -> None:
    def tags(seed: int) -> list[float]:
        env = robotrl.make_env("envpool:Pendulum-v1", 4, seed=seed, max_episode_steps=5)
        seen = env.reset()["policy"][:, 0].tolist()
        return seen + [x for action in draws(10, env) for x in env.step(action).obs["policy"][:, 0].tolist()]

    assert tags(1) == tags(1) and len(set(tags(1)[:4]) | set(tags(2)[:4])) == 8
    env = robotrl.make_env("envpool:Pendulum-v1", 4, seed=1)
    first = env.reset()["policy"]
    again = env.load_state_dict(env.state_dict())
    assert again is not None and not set(first[:, 0].tolist()) & set(again["policy"][:, 0].tolist())


def test_envpool_specs(envpool: ModuleType) -> None:
    go1 = specs_of(compose_task("envpool:Go1JoystickFlatTerrain-v1", {}))
    assert [term.name for term in go1.observation["policy"]] == ["state"]
    assert [term.name for term in go1.observation["privileged"]] == ["privileged_state"]
    assert go1.control_dt_s == 0.02 and go1.action_dim == 12
    cheetah = specs_of(compose_task("envpool:CheetahRun-v1", {"control_dt_s": 0.01}))
    assert [(term.name, term.low, term.high) for term in cheetah.observation["policy"]] == [
        ("position", -np.inf, np.inf),
        ("velocity", -np.inf, np.inf),
    ]
    assert cheetah.control_dt_s == 0.01


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("HalfCheeta-v4", {}, r"unknown EnvPool task 'HalfCheeta-v4' \(did you mean 'HalfCheetah-v4'\?\)"),
        ("HalfCheetah-v4", {"kwargs": {"speed": 1}}, r"does not take task.kwargs \{'speed': 1\}"),
        ("CartPole-v1", {}, "only continuous ones"),
        ("Pong-v5", {}, "only continuous ones"),
    ],
)
def test_envpool_refuses(envpool: ModuleType, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        robotrl.make_env(f"envpool:{name}", 2, **options)


def test_envpool_catalogue_is_listed(envpool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    families = robot_tasks()
    assert "Go1JoystickFlatTerrain-v1" in families["playground"] and "HalfCheetah-v4" in families["gym"]
    ids = [task_id for family in families.values() for task_id in family]
    assert len(ids) == len(set(ids)) > 500 and set(ids) <= set(envpool.list_all_envs())
    assert main(["list", "tasks"]) == 0
    assert all(task_id in capsys.readouterr().out for task_id in ("Go1JoystickFlatTerrain-v1",))
    assert main(["list", "tasks", "--json"]) == 0
    assert "Go1" not in capsys.readouterr().out


@pytest.mark.parametrize("task_id", ["FetchReach-v4", "AdroitHandDoor-v1"])
def test_gymnasium_robotics_is_itself(robotics: ModuleType, task_id: str) -> None:
    env = robotrl.make_env(
        f"gymnasium_robotics:{task_id}", 2, seed=1, max_episode_steps=6, vectorization="sync"
    )
    action, first = draws(14, env), env.reset()["policy"]
    for i in range(2):
        original = gymnasium.make(task_id, max_episode_steps=6)
        start, rows = by_hand(original, first_seed(1) + i, action[:, i].numpy())
        np.testing.assert_array_equal(first[i].numpy(), row(start))
        mine = robotrl.make_env(f"gymnasium_robotics:{task_id}", 1, max_episode_steps=6)
        assert mine.specs == env.specs
        original.close()
        if i == 0:
            expected = rows
    for t, made in enumerate(expected):
        assert_step(
            env.step(action[t]), 0, made.obs, made.final_obs, made.reward, (made.terminated, made.truncated)
        )


def test_gymnasium_robotics_sees_plain_integers(robotics: ModuleType) -> None:
    """Without the shim the environments above do not even start."""
    robotrl.make_env("gymnasium_robotics:FetchReach-v4", 1)
    from gymnasium_robotics.utils import mujoco_utils

    joint = mujoco_utils.mujoco.mjtJoint
    assert np.int32(3) in (joint.mjJNT_HINGE, joint.mjJNT_SLIDE)
    assert mujoco_utils.mujoco.mj_forward is mujoco.mj_forward
    assert mujoco.mjtJoint.mjJNT_HINGE is not joint.mjJNT_HINGE, "MuJoCo itself is left as it is"


def test_metaworld_is_itself(metaworld: ModuleType) -> None:
    env = robotrl.make_env("metaworld:reach-v3", 2, seed=1, max_episode_steps=7, vectorization="sync")
    action, first = draws(16, env), env.reset()["policy"]
    assert env.specs.control_dt_s == 0.0125
    goals = metaworld.MT1("reach-v3", seed=0).train_tasks
    originals = [metaworld.ALL_V3_ENVIRONMENTS["reach-v3"]() for _ in range(2)]
    draw = [np.random.Generator(np.random.PCG64(first_seed(1) + i)) for i in range(2)]

    def begin(i: int) -> Any:
        originals[i].set_task(goals[draw[i].integers(50)])
        return originals[i].reset()[0]

    for i in range(2):
        np.testing.assert_array_equal(first[i].numpy(), row(begin(i)))
    for t in range(len(action)):
        step = env.step(action[t])
        for i, one in enumerate(originals):
            obs, reward, *_ = one.step(action[t, i].numpy())
            over = t % 7 == 6
            assert_step(step, i, begin(i) if over else obs, obs, reward, (False, over))


def test_metaworlds_own_expert_succeeds(metaworld: ModuleType) -> None:
    """The mocap weld, which the shim sets, moves the arm: Meta-World's scripted policy reaches the goal."""
    from metaworld.policies import ENV_POLICY_MAP

    env = robotrl.make_env("metaworld:drawer-open-v3", 1, seed=1)
    expert, obs = ENV_POLICY_MAP["drawer-open-v3"](), env.reset()["policy"]
    rewards = []
    for _ in range(150):
        action = np.clip(expert.get_action(obs[0].double().numpy()), -1, 1)
        step = env.step(torch.tensor(action, dtype=torch.float32)[None])
        obs = step.obs["policy"]
        rewards.append(float(step.reward[0]))
    assert max(rewards) > 9.0, "10 is success"


def test_metaworld_refuses(metaworld: ModuleType) -> None:
    with pytest.raises(UsageError, match=r"unknown Meta-World task 'reach-v2' \(did you mean 'reach-v3'\?\)"):
        robotrl.make_env("metaworld:reach-v2")
