"""Our Gymnasium tasks beside Gymnasium's own, from the same states and actions."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp

from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.task import Task

STEPS = 250
NUM_ENVS = 3


def original(name: str, **options: Any) -> Any:
    """Gymnasium's own environment without wrappers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return gymnasium.make(name, **options).unwrapped


def copy_state(env: VecEnv, row: int, gym_env: Any) -> None:
    """Put Gymnasium into the state of one of our simulations, as after a reset."""
    mujoco.mj_resetData(gym_env.model, gym_env.data)
    gym_env.set_state(env.sim.data("qpos")[row].numpy(), env.sim.data("qvel")[row].numpy())


def copy_integration_state(env: VecEnv, row: int, gym_env: Any) -> None:
    spec = int(mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_setState(gym_env.model, gym_env.data, env.sim.batch.state[row], spec)


def observed(task: Task, env: VecEnv) -> np.ndarray:
    """The policy group in float64, terms in the order of the specs."""
    values = task.observe(env.sim)["policy"]
    columns = [values[term.name].reshape(NUM_ENVS, -1) for term in env.specs.observation["policy"]]
    return torch.cat(columns, 1).numpy()


@dataclass
class Comparison:
    """Largest absolute differences, and what the comparison has met."""

    obs: float = 0.0
    reward: float = 0.0
    term: float = 0.0
    ends: int = 0
    contact_force: float = 0.0

    def worst(self) -> float:
        return max(self.obs, self.reward, self.term)


def compare_steps(
    name: str, task: Task, options: dict[str, Any], info_names: dict[str, str], resync: bool = False
) -> Comparison:
    """Step both from the same first states without resets, and compare in float64.

    Args:
        name: Gymnasium's id.
        task: ours, with the same options.
        options: of Gymnasium's constructor.
        info_names: our reward term -> its name in Gymnasium's info.
        resync: copy our state into Gymnasium's before every step.
    """
    env = VecEnv(task, NUM_ENVS, seed=1, num_threads=1)
    env.reset()
    originals = [original(name, **options) for _ in range(NUM_ENVS)]
    for row, gym_env in enumerate(originals):
        copy_state(env, row, gym_env)
    rng = np.random.default_rng(0)
    low, high = env.specs.action_low.double().numpy(), env.specs.action_high.double().numpy()
    found = Comparison()
    for _ in range(STEPS):
        actions = rng.uniform(low, high, (NUM_ENVS, env.specs.action_dim))
        if resync:
            for row, gym_env in enumerate(originals):
                copy_integration_state(env, row, gym_env)
        task.before_step(env.sim)
        ctrl = torch.from_numpy(actions)
        task.advance(env.sim, ctrl, env.substeps)
        # the order of VecEnv
        obs = observed(task, env)
        rewards = task.reward_terms(env.sim, ctrl)
        terminated = task.terminated(env.sim)
        for row, gym_env in enumerate(originals):
            true_obs, true_reward, true_end, _, info = gym_env.step(actions[row])
            assert true_obs.shape == obs[row].shape
            found.obs = max(found.obs, float(np.abs(true_obs - obs[row]).max()))
            ours = {term: float(values[row]) for term, values in rewards.items()}
            found.reward = max(found.reward, abs(true_reward - sum(ours.values())))
            for term in info_names.keys() & ours.keys():
                found.term = max(found.term, abs(info[info_names[term]] - ours[term]))
            assert (False if terminated is None else bool(terminated[row])) == true_end
            found.ends += true_end
            found.contact_force = max(found.contact_force, float(np.abs(gym_env.data.cfrc_ext[1:]).max()))
    print(f"{name} {options}: {found}")
    return found


def compare_vec_env(
    name: str, task: Task, ages: list[int], steps: int = 200, resync: bool = False
) -> tuple[int, int]:
    """Compare the float32 `Step` across ends of episodes and the first steps after them.

    Args:
        name: Gymnasium's id.
        task: ours.
        ages: of the first episodes, in control steps, to meet the time limit, too.
        steps: control steps.
        resync: copy our state into Gymnasium's before every step.

    Returns:
        How often an episode terminated, and how often it was truncated.
    """
    env = VecEnv(task, NUM_ENVS, seed=2, num_threads=1)
    obs = env.reset()["policy"]
    originals = [original(name) for _ in range(NUM_ENVS)]
    for row, gym_env in enumerate(originals):
        copy_state(env, row, gym_env)
        np.testing.assert_allclose(obs[row], gym_env._get_obs(), rtol=1e-6, atol=1e-9)
    env.age[:] = torch.tensor(ages)
    rng = np.random.default_rng(3)
    low, high = env.specs.action_low.double().numpy(), env.specs.action_high.double().numpy()
    ends, limits = 0, 0
    for _ in range(steps):
        actions = torch.from_numpy(rng.uniform(-1, 1, (NUM_ENVS, env.specs.action_dim)))
        commands = (low + high) / 2 + actions.numpy() * (high - low) / 2
        if resync:
            for row, gym_env in enumerate(originals):
                copy_integration_state(env, row, gym_env)
        step = env.step(actions)
        assert bool(step.valid.all())
        for row, gym_env in enumerate(originals):
            true_obs, true_reward, true_end, _, _ = gym_env.step(commands[row])
            np.testing.assert_allclose(step.final_obs["policy"][row], true_obs, rtol=1e-6, atol=1e-6)
            assert float(step.reward[row]) == pytest.approx(true_reward, rel=1e-6, abs=1e-6)
            assert bool(step.terminated[row]) == true_end
            ends += true_end
            limits += int(step.truncated[row])
            if step.done[row]:
                copy_state(env, row, gym_env)
                first = gym_env._get_obs()
                np.testing.assert_allclose(step.obs["policy"][row], first, rtol=1e-6, atol=1e-9)
            else:
                assert torch.equal(step.obs["policy"][row], step.final_obs["policy"][row])
    assert env.max_steps == gymnasium.spec(name).max_episode_steps
    return ends, limits


def compare_resets(name: str, task: Task) -> None:
    """Every position and velocity has Gymnasium's distribution (two-sample Kolmogorov-Smirnov)."""
    env = VecEnv(task, 1000, seed=4, num_threads=1)
    env.reset()
    ours = torch.cat([env.sim.data("qpos"), env.sim.data("qvel")], 1).numpy()
    gym_env = original(name)
    gym_env.reset(seed=5)
    theirs = np.array([(gym_env.reset(), gym_env.state_vector())[1] for _ in range(1000)])
    p_values = [ks_2samp(ours[:, i], theirs[:, i]).pvalue for i in range(ours.shape[1])]
    assert min(p_values) > 1e-3
    # the draws of different quantities and simulations are independent
    drawn = ours[:, ours.std(0) > 0]
    correlation = np.corrcoef(drawn.T) - np.eye(drawn.shape[1])
    assert np.abs(correlation).max() < 0.15
