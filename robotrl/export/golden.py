"""Recorded behaviour of the training policy in its task: what the exported network must reproduce.

Two recordings: many single observation/action pairs spread over episodes, and one closed-loop segment
with the environment state it starts from, so that it can be replayed step by step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from robotrl.core.config import evaluation_seed
from robotrl.core.errors import RobotrlError
from robotrl.envs.env import AnyTask, make_env
from robotrl.export.network import PhysicalPolicy
from robotrl.policies.policy import Policy
from robotrl.sim.threads import one_torch_thread

PAIR_ENVS = 8
PAIR_STEPS = 100
PAIR_EVERY = 3
LOOP_STEPS = 200
_STATE = "loop_state"


@one_torch_thread()
@torch.no_grad()
def record(policy: Policy, task: AnyTask, seed: int = 0) -> dict[str, np.ndarray]:
    """Run the deterministic policy and return the arrays of `golden.npz`.

    Returns:
        "observation" (n, D) and "action" (n, A) float32, n = 272, physical units; "loop_observation",
        "loop_action" (physical units), "loop_command" (the same in [-1, 1]) and "loop_reward", one row
        for each of 200 control steps; "loop_state::..." the environment's state before the first.

    Raises:
        RobotrlError: the policy returned a value that is not finite.
    """
    physical = PhysicalPolicy(policy).eval()
    env = make_env(task, PAIR_ENVS, evaluation_seed(seed))
    obs = env.reset()
    pairs: list[dict[str, np.ndarray]] = []
    for t in range(PAIR_STEPS):
        flat = policy.flatten(obs)
        if t % PAIR_EVERY == 0:
            pairs.append({"observation": flat.numpy(), "action": physical(flat).numpy()})
        obs = env.step(_finite(policy(flat))).obs

    env = make_env(task, 1, evaluation_seed(seed + 1), num_threads=1)
    obs = env.reset()
    state = flatten_state(env.state_dict(), _STATE)
    steps: list[dict[str, np.ndarray]] = []
    for _ in range(LOOP_STEPS):
        flat = policy.flatten(obs)
        command = _finite(policy(flat))
        step = env.step(command)
        steps.append(
            {
                "loop_observation": flat.numpy(),
                "loop_command": command.numpy(),
                "loop_action": physical(flat).numpy(),
                "loop_reward": step.reward.numpy(),
            }
        )
        obs = step.obs
    return {**_stack(pairs), **_stack(steps), **state}


def _stack(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _finite(action: torch.Tensor) -> torch.Tensor:
    if not bool(action.isfinite().all()):
        raise RobotrlError("the policy returns actions that are not finite: it cannot be exported")
    return action


def loop_state(golden: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Return the state for `VecEnv.load_state_dict` from which the recorded segment starts."""
    return unflatten_state(golden, _STATE)


def flatten_state(state: Mapping[str, Any], prefix: str) -> dict[str, np.ndarray]:
    """Turn nested mappings of tensors and numbers into arrays named by their path, "a::b::c"."""
    flat: dict[str, np.ndarray] = {}
    for key, value in state.items():
        name = f"{prefix}::{key}"
        if isinstance(value, Mapping):
            # a name that ends in :: stands for an empty mapping
            flat |= flatten_state(value, name) if value else {f"{name}::": np.zeros(0)}
        else:
            flat[name] = value.numpy() if isinstance(value, torch.Tensor) else np.array(value)
    return flat


def unflatten_state(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, Any]:
    """Undo `flatten_state`; a 0-d array comes back as a number."""
    state: dict[str, Any] = {}
    for name, array in arrays.items():
        first, *path = name.split("::")
        if first != prefix:
            continue
        inner = state
        for key in path[:-1]:
            inner = inner.setdefault(key, {})
        if path[-1]:
            inner[path[-1]] = array.item() if array.ndim == 0 else torch.from_numpy(array)
    return state
