"""The Python interface does what the command line does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import robotrl
from robotrl.compose import compose
from robotrl.core.config import from_yaml
from robotrl.core.errors import UsageError
from robotrl.tasks.control_suite.walker import Walker

SMALL = ["task.episode_length_s=0.4", "algorithm.num_steps=16", "algorithm.minibatch_size=32"]


def test_make_env_by_name_and_by_instance_are_the_same() -> None:
    named = robotrl.make_env("walker_run", num_envs=2, seed=3, move_speed_m_s=2.0)
    given = robotrl.make_env(Walker(move_speed_m_s=2.0), num_envs=2, seed=3)
    assert named.task == given.task
    assert torch.equal(named.reset()["policy"], given.reset()["policy"])


def test_make_env_refuses_what_it_does_not_know() -> None:
    with pytest.raises(UsageError, match=r"unknown task 'walker_rum' \(did you mean 'walker_run'\?\)"):
        robotrl.make_env("walker_rum")
    with pytest.raises(
        UsageError, match=r"unknown key 'task.move_speed' \(did you mean 'move_speed_m_s'\?\)"
    ):
        robotrl.make_env("walker_run", move_speed=1.0)
    with pytest.raises(UsageError, match="belong into the task instance"):
        robotrl.make_env(Walker(), move_speed_m_s=1.0)


def test_bad_arguments_are_one_line() -> None:
    for seed in (-1, 2**40):
        with pytest.raises(UsageError, match=r"seed must be at least 0 and below 2\^30"):
            robotrl.make_env("walker_run", seed=seed)
        with pytest.raises(UsageError, match=r"seed must be at least 0 and below 2\^30"):
            robotrl.evaluate(Path(), 1, seed)
    with pytest.raises(UsageError, match="task must be a name, got Walker"):
        robotrl.train(task=Walker())
    with pytest.raises(UsageError, match="names a recipe, got 'task=walker_run'"):
        robotrl.train("task=walker_run")


def test_numbers_of_numpy_are_numbers() -> None:
    values = {"seed": np.int64(3), "total_steps": np.float64(2e4)}
    config = compose(["task=walker_run", "algorithm=ppo"], values)
    assert (config.seed, config.total_steps) == (3, 20_000)


def test_train_evaluate_and_load(tmp_path: Path) -> None:
    run = robotrl.train(
        None,
        *SMALL,
        task="pendulum_swingup",
        algorithm="ppo",
        seed=3,
        num_envs=4,
        total_steps=64,
        eval_episodes=2,
        export=False,
        runs_dir=str(tmp_path),
        show_progress=False,
    )
    config = from_yaml(run / "config.yaml")
    assert (config.seed, config.total_steps, config.task.episode_length_s) == (3, 64, 0.4)
    result = robotrl.evaluate(run, episodes=3)
    assert result["episodes"] == 3
    assert result["ci_low"] <= result["mean"] <= result["ci_high"]
    policy = robotrl.load_policy(run)
    env = robotrl.make_env("pendulum_swingup", num_envs=2)
    action = policy.act(env.reset(), deterministic=True)
    assert action.shape == (2, 1)
    assert bool((action.abs() <= 1).all())


def test_unknown_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        robotrl.trian  # noqa: B018


def test_attributes_are_listed_without_being_imported() -> None:
    code = "import robotrl, sys; print(*sorted(robotrl.__all__)); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["__version__", "evaluate", "load_policy", "make_env", "train"]
