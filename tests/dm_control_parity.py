"""Our control-suite tasks beside dm_control's own, from the same states and actions."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import mujoco
import numpy as np
import torch
import yaml

from robotrl.core.paths import CONFIGS
from robotrl.envs.dm_control_compat import load_suite
from robotrl.envs.vec_env import VecEnv
from robotrl.sim.batch_sim import BatchSim
from robotrl.tasks.task import Task

STEPS = 200
TOLERANCE = 1e-6
INTEGRATION = int(mujoco.mjtState.mjSTATE_INTEGRATION)


def make_task(name: str) -> Task:
    """Build the task that configs/task/<name>.yaml describes."""
    config: dict[str, Any] = yaml.safe_load((CONFIGS / "task" / f"{name}.yaml").read_text())
    module, cls = config.pop("_target_").rsplit(".", 1)
    return getattr(importlib.import_module(module), cls)(**config)


@functools.cache
def load_original(domain: str, task: str, copy: int = 0) -> Any:
    """Load dm_control's task; tests share it, so each resets it first."""
    suite = load_suite()
    suite.quadruped.Physics.contexts = None  # else escape opens a window to show its terrain
    return suite.load(domain, task, task_kwargs={"random": copy})


def flat(observation: dict[str, Any]) -> np.ndarray:
    return np.concatenate([np.ravel(value) for value in observation.values()])


def observed(task: Task, sim: BatchSim) -> np.ndarray:
    """The policy group in float64, terms in the order of the specs."""
    values = task.observe(sim)["policy"]
    terms = task.observation_terms(sim.model)["policy"]
    assert [term.name for term in terms] == list(values)
    columns = [values[term.name].reshape(sim.num_envs, term.size) for term in terms]
    return torch.cat(columns, dim=1).numpy()


def total(terms: dict[str, torch.Tensor]) -> np.ndarray:
    return torch.stack(list(terms.values())).sum(0).numpy()


def copy_state(sim: BatchSim, row: int, physics: Any) -> None:
    """Put the state and the per-simulation model fields of one of ours into dm_control's physics."""
    for field, values in sim.expanded().items():
        getattr(physics.model, field)[...] = values[row].numpy()
    if sim.model.nhfield > 1:
        # our simulations choose one of several height fields, dm_control's model has one
        geom = sim.named("geom", "terrain").id
        chosen = sim.model.hfield_data.reshape(sim.model.nhfield, -1)[physics.model.geom_dataid[geom]]
        physics.model.hfield_data[...] = chosen
        physics.model.geom_dataid[geom] = 0
    mujoco.mj_setState(physics.model.ptr, physics.data.ptr, sim.batch.state[row], INTEGRATION)
    physics.forward()


def check_steps(name: str, domain: str, task: str, num_envs: int = 1, tolerance: float = TOLERANCE) -> None:
    """Compare observations and rewards over `STEPS` random steps from the same initial states."""
    env = VecEnv(make_task(name), num_envs, seed=3, num_threads=2)
    originals = [load_original(domain, task, copy) for copy in range(num_envs)]
    obs = env.reset()["policy"]
    for row, original in enumerate(originals):
        original.reset()
        copy_state(env.sim, row, original.physics)
        first = flat(original.task.get_observation(original.physics))
        np.testing.assert_allclose(observed(env.task, env.sim)[row], first, rtol=0, atol=1e-12)
        np.testing.assert_allclose(obs[row].numpy(), first, rtol=1e-6, atol=1e-6)

    rng = torch.Generator().manual_seed(7)
    for _ in range(STEPS):
        action = torch.rand(num_envs, env.specs.action_dim, generator=rng) * 2 - 1
        ctrl = env._to_ctrl(action)
        step = env.step(action)
        rewards = total(env.task.reward_terms(env.sim, ctrl))
        values = observed(env.task, env.sim)
        assert step.valid.all() and not step.done.any()
        for row, original in enumerate(originals):
            theirs = original.step(ctrl[row].numpy())
            assert not theirs.last()
            np.testing.assert_allclose(values[row], flat(theirs.observation), rtol=0, atol=tolerance)
            np.testing.assert_allclose(rewards[row], theirs.reward, rtol=0, atol=tolerance)
            np.testing.assert_allclose(step.reward[row], theirs.reward, rtol=0, atol=TOLERANCE)
