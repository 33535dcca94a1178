"""`task=LIBRARY:ID`: what it stands for, what is refused, and parity with the original environments."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from counter_env import Counter, NativeCounters, by_hand
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from my_dm_env import make_suite

import robotrl
from robotrl.compose import compose, compose_task, split_sweep
from robotrl.core.config import from_yaml, to_yaml
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import ObsTerm
from robotrl.envs.env import make_env, specs_of
from robotrl.envs.foreign import single
from robotrl.envs.foreign.dm_env import DmEnvTask
from robotrl.envs.foreign.gymnasium import GymnasiumTask
from robotrl.envs.foreign.vec_env import ForeignVecEnv
from robotrl.envs.vec_env import VecEnv

PENDULUM = "gymnasium:Pendulum-v1"


@pytest.fixture
def registered() -> Iterator[None]:
    """Counters among Gymnasium's environments."""
    gymnasium.register("RobotrlCounter-v0", Counter, max_episode_steps=4)
    gymnasium.register("RobotrlCounter-v1", Counter, vector_entry_point=NativeCounters)
    yield
    for version in (0, 1):
        del gymnasium.registry[f"RobotrlCounter-v{version}"]


def draws(count: int, env: Any, seed: int = 0) -> torch.Tensor:
    """(T, N, A) in [-1, 1]."""
    shape = (count, env.num_envs, env.specs.action_dim)
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def first_seed(seed: int) -> int:
    return int(torch.randint(2**30, (), generator=torch.Generator().manual_seed(seed)))


def assert_by_hand(env: Any, originals: list[Any], seed: int, steps: int) -> int:
    """Compare with single environments stepped by hand; return how many episodes ended."""
    action = draws(steps, env)
    middle, half = (
        (env.specs.action_high + env.specs.action_low) / 2,
        (env.specs.action_high - env.specs.action_low) / 2,
    )
    runs = [
        by_hand(one, first_seed(seed) + i, (middle + half * action[:, i]).numpy())
        for i, one in enumerate(originals)
    ]
    obs = env.reset()["policy"]
    ended = 0
    for i, (first, _) in enumerate(runs):
        np.testing.assert_array_equal(obs[i].numpy(), first.astype(np.float32))
    for t in range(steps):
        step = env.step(action[t])
        for i, (_, rows) in enumerate(runs):
            row = rows[t]
            np.testing.assert_allclose(
                step.obs["policy"][i].numpy(), row.obs.astype(np.float32), rtol=1e-6, atol=1e-7
            )
            np.testing.assert_allclose(
                step.final_obs["policy"][i].numpy(), row.final_obs.astype(np.float32), rtol=1e-6, atol=1e-7
            )
            np.testing.assert_allclose(float(step.reward[i]), row.reward, rtol=1e-5)
            assert (bool(step.terminated[i]), bool(step.truncated[i])) == (row.terminated, row.truncated)
        ended += int(step.done.sum())
    return ended


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_pendulum_is_gymnasiums(vectorization: str) -> None:
    env = robotrl.make_env(PENDULUM, 3, seed=4, vectorization=vectorization, max_episode_steps=30)
    assert isinstance(env, ForeignVecEnv) and env.max_steps == 30
    assert env.specs.control_dt_s == 0.05 and env.specs.action[0].high == 2.0
    originals = [gymnasium.make("Pendulum-v1", max_episode_steps=30) for _ in range(3)]
    assert assert_by_hand(env, originals, 4, 70) == 6


def test_a_task_with_ends_is_gymnasiums() -> None:
    pytest.importorskip("imageio")
    env = robotrl.make_env(
        "gymnasium:Hopper-v5", 2, seed=1, vectorization="sync", kwargs={"reset_noise_scale": 0.01}
    )
    assert env.specs.control_dt_s == pytest.approx(0.008)
    originals = [gymnasium.make("Hopper-v5", reset_noise_scale=0.01) for _ in range(2)]
    assert assert_by_hand(env, originals, 1, 120) >= 4


def test_what_stands_behind_a_name() -> None:
    config = compose([f"task={PENDULUM}", "algorithm=ppo", "task.kwargs.g=9", "task.max_episode_steps=50"])
    assert config.task == GymnasiumTask("Pendulum-v1", kwargs={"g": 9}, max_episode_steps=50)
    assert config.task.name == PENDULUM and config.task_name == "gymnasium_Pendulum-v1"
    assert compose([f"task={PENDULUM}", "algorithm=ppo", "task_name=mine"]).task_name == "mine"
    assert compose_task("dm_env:my_dm_env:make_env", {}) == DmEnvTask("my_dm_env:make_env")
    assert [
        compose([f"task={task}", f"algorithm={algorithm}"]).num_envs
        for task, algorithm in ((PENDULUM, "ppo"), (PENDULUM, "sb3_ppo"), ("envpool:Ant-v4", "ppo"))
    ] == [16, 1, 1024], "copies of a Python environment are costly"
    name = compose(["task=envpool:MyoSuite/MyoHandAirplaneFixed-v0", "algorithm=ppo"]).task_name
    assert name == "envpool_MyoSuite_MyoHandAirplaneFixed-v0", "the name of a folder"


def test_the_last_task_named_wins() -> None:
    words = ["recipe=quickstart", f"task={PENDULUM}"]
    assert compose(words).task == GymnasiumTask("Pendulum-v1")
    own = compose([*words, "task=cheetah_run"])
    assert own.task_name == "cheetah_run" and type(own.task).__name__ == "Cheetah"


def test_sweeps_and_quotes() -> None:
    words = ["task=gymnasium:Pendulum-v1,dm_env:a.b:make,cheetah_run", "algorithm=ppo"]
    names = [compose(job).task_name for job in split_sweep(words)]
    assert names == ["gymnasium_Pendulum-v1", "dm_env_a.b_make", "cheetah_run"]
    with pytest.raises(UsageError, match="gives several values: add --multirun"):
        compose(words)
    assert compose(["task='gymnasium:Pendulum-v1'", "algorithm=ppo"]).task.id == "Pendulum-v1"


def test_the_configuration_comes_back_from_its_file(tmp_path: Any) -> None:
    config = compose(
        [
            f"task={PENDULUM}",
            "algorithm=ppo",
            "task.kwargs={g: 9.5, render_mode: null}",
            "task.vectorization=async",
        ]
    )
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert from_yaml(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("task=gymnasum:Pendulum-v1", r"unknown library 'gymnasum' \(did you mean 'gymnasium'\?\)"),
        ("task=gymnasium", "task=gymnasium needs the environment's id: task=gymnasium:ID"),
        ("task=gymnasium:", "needs the environment's id"),
        (f"task={PENDULUM} task.max_episode_steps=0", "max_episode_steps must be at least 1, got 0"),
        (f"task={PENDULUM} task.control_dt_s=0", "control_dt_s must be above 0"),
        (f"task={PENDULUM} task.vectorization=threads", "expected one of auto, sync, async, got 'threads'"),
        (f"task={PENDULUM} task.gravity=3", "unknown key 'task.gravity'"),
        ("task=metaworld:reach-v3 task.max_episode_steps=501", r"must be in \[1, 500\], got 501"),
        (
            "task=envpool:Ant-v4 task.kwargs.num_envs=3",
            "kwargs.num_envs cannot be given here: use num_envs=N",
        ),
    ],
)
def test_wrong_words_are_refused(words: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compose([*words.split(), "algorithm=ppo"])


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "gymnasium:Pendulm-v1",
            {},
            r"unknown gymnasium environment 'Pendulm-v1' \(did you mean 'Pendulum-v1'\?\)",
        ),
        ("gymnasium:Pendulum-v0", {}, "`Pendulum` is deprecated. Please use `Pendulum-v1`"),
        ("gymnasium:nowhere:Any-v0", {}, "there is no module 'nowhere'"),
        ("gymnasium:CartPole-v1", {}, r"gymnasium:CartPole-v1 takes actions in Discrete\(2\)"),
        ("gymnasium:FrozenLake-v1", {}, r"gymnasium:FrozenLake-v1 observes Discrete\(16\)"),
        (PENDULUM, {"kwargs": {"gravity": 3}}, r"does not take task.kwargs \{'gravity': 3\}: .*gravity"),
        ("dm_env:nowhere:make", {}, "there is no module 'nowhere'"),
        ("dm_env:my_dm_env:mak_env", {}, r"no 'mak_env' in the module \(did you mean 'make_env'\?\)"),
        ("dm_env:my_dm_env", {}, "expected an import path"),
        ("dm_env:my_dm_env:make_without_seed", {}, r"must be a function make_env\(seed, ...\)"),
        ("dm_env:my_dm_env:make_env", {"kwargs": {"size": 3}}, "does not take task.kwargs {'size': 3}"),
        ("dm_env:my_dm_env:make_unbounded", {}, r"action 0 ranges over \[-inf, inf\]"),
        ("dm_env:my_dm_env:make_discrete", {}, r"takes actions in Discrete\(3\)"),
        ("dm_env:my_dm_env:make_text", {}, "cannot use the dm_env spec StringArray"),
    ],
)
def test_environments_that_cannot_be_used(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        robotrl.make_env(name, 2, **options)


@pytest.mark.parametrize(
    ("library", "package", "message"),
    [
        ("envpool:Ant-v4", "envpool", r"EnvPool cannot be imported .*pip install \"robotrl\[envpool\]\""),
        (
            "gymnasium_robotics:FetchReach-v4",
            "gymnasium_robotics",
            r"pip install \"robotrl\[gymnasium-robotics\]\"",
        ),
        ("metaworld:reach-v3", "metaworld", r"pip install \"robotrl\[metaworld\]\""),
    ],
)
def test_a_library_that_is_missing_is_named_with_its_remedy(
    library: str, package: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, package, None)
    with pytest.raises(RobotrlError, match=message):
        robotrl.make_env(library)


def test_the_environments_own_time_limit_is_known(registered: None) -> None:
    env = robotrl.make_env("gymnasium:counter_env:RobotrlCounter-v0", 2)
    assert isinstance(env, ForeignVecEnv)
    assert env.max_steps == 4 and env.specs.control_dt_s == pytest.approx(1 / 20)
    env.reset()
    lengths: list[float] = []
    for action in draws(60, env):
        lengths += env.step(action).log.get("episode/length", torch.zeros(0)).tolist()
    assert set(lengths) == {2.0, 3.0, 4.0}, "episodes of 5 steps are truncated after 4"


def test_a_packages_own_vector_environment_is_preferred(registered: None) -> None:
    task = GymnasiumTask("RobotrlCounter-v1")
    assert isinstance(task.make_batch(2, None).vector, NativeCounters)
    env = task.make_env(2)
    env.reset()
    assert not all(env.step(action).valid.all() for action in draws(30, env)), (
        "it resets in calls of their own"
    )
    task.vectorization = single.Vectorization.SYNC
    assert isinstance(task.make_batch(2, None).vector, SyncVectorEnv)


@pytest.mark.parametrize(
    ("step_s", "num_envs", "cpus", "kind"),
    [
        (2e-3, 8, 2, AsyncVectorEnv),
        (2e-5, 8, 2, SyncVectorEnv),
        (2e-3, 1, 2, SyncVectorEnv),
        (2e-3, 8, 1, SyncVectorEnv),
        (2e-3, 9, 2, SyncVectorEnv),
    ],
)
def test_processes_where_they_pay(
    step_s: float, num_envs: int, cpus: int, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(single, "_step_s", lambda probe: step_s)
    monkeypatch.setattr(single, "_MAX_PROCESSES_PER_CPU", 4)
    assert isinstance(GymnasiumTask("Pendulum-v1").make_batch(num_envs, cpus).vector, kind)


def test_a_step_is_timed() -> None:
    assert 1e-6 < single._step_s(GymnasiumTask("Pendulum-v1").make_single()) < 0.1


def test_own_tasks_are_made_in_the_same_place() -> None:
    task = compose_task("pendulum_swingup", {})
    env = make_env(task, 2, seed=1, num_threads=1, stagger=True)
    assert isinstance(env, VecEnv) and env.stagger and env.specs == specs_of(task)


def test_dm_env_counts() -> None:
    env = robotrl.make_env("dm_env:my_dm_env:make_env", 2, seed=7, kwargs={"length": 4}, vectorization="sync")
    assert [term.name for term in env.specs.observation["policy"]] == ["tag", "counts.values"]
    assert env.specs.observation["policy"][0] == ObsTerm("tag", 1, "1", low=0, high=1)
    assert np.isnan(env.specs.control_dt_s), "it does not tell"
    first = env.reset()["policy"]
    tags = [np.random.default_rng(first_seed(7) + i).random(3).astype(np.float32) for i in range(2)]
    assert first.tolist() == [[tag[0], 0, 0] for tag in tags]
    for t, action in enumerate(draws(10, env)):
        step = env.step(action)
        episode, count = divmod(t, 4)
        assert step.final_obs["policy"].tolist() == [[tag[episode], episode, count + 1] for tag in tags]
        assert torch.allclose(step.reward, 2 + 2 * action[:, 1] + count + 1)
        ended = count == 3
        assert step.terminated.tolist() == [ended and episode == 0] * 2
        assert step.truncated.tolist() == [ended and episode == 1] * 2
        after = (
            [[tag[episode + 1], episode + 1, 0] for tag in tags]
            if ended
            else step.final_obs["policy"].tolist()
        )
        assert step.obs["policy"].tolist() == after


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_dm_control_is_itself(vectorization: str) -> None:
    env = robotrl.make_env("dm_env:my_dm_env:make_suite", 2, seed=3, vectorization=vectorization)
    assert env.specs.control_dt_s == 0.01
    obs, originals = env.reset()["policy"], [make_suite(first_seed(3) + i) for i in range(2)]

    def row(step: Any) -> np.ndarray:
        return np.concatenate([np.ravel(value) for value in step.observation.values()]).astype(np.float32)

    for i, one in enumerate(originals):
        np.testing.assert_array_equal(obs[i].numpy(), row(one.reset()))
    for t, action in enumerate(draws(25, env)):
        step = env.step(action)
        for i, one in enumerate(originals):
            theirs = one.step(action[i].double().numpy())
            np.testing.assert_array_equal(step.final_obs["policy"][i].numpy(), row(theirs))
            assert float(step.reward[i]) == np.float32(theirs.reward)
            after = row(one.reset()) if theirs.last() else row(theirs)
            np.testing.assert_array_equal(step.obs["policy"][i].numpy(), after)
        assert step.truncated.tolist() == [t % 10 == 9] * 2 and not step.terminated.any()


def test_workers_leave_ctrl_c_to_the_run_and_end_with_it() -> None:
    handler = signal.getsignal(signal.SIGINT)
    env = robotrl.make_env(PENDULUM, 3, vectorization="async")
    assert isinstance(env, ForeignVecEnv)
    env.reset()
    workers = multiprocessing.active_children()
    assert len(workers) == 3
    for worker in workers:
        os.kill(worker.pid, signal.SIGINT)
    for action in draws(3, env):
        env.step(action)
    del env
    assert not any(worker.is_alive() for worker in workers)
    assert signal.getsignal(signal.SIGINT) is handler, "only workers leave it"
