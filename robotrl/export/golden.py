"""Recorded behaviour of the training policy in its task: what the exported network must reproduce.

Two recordings: many single observation/action pairs spread over episodes, and one closed-loop segment
with the environment state it starts from, so that it can be replayed step by step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from robotrl.core.config import evaluation_seed, learner_seed
from robotrl.core.errors import RobotrlError
from robotrl.envs.action_queue import ActionQueue
from robotrl.envs.env import AnyTask, make_env
from robotrl.export.network import PhysicalPolicy
from robotrl.export.noise import SettledNoise
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

    Chunks are executed open loop; a decision is recorded at every step all the same, as if it were due.

    Returns:
        "observation" (n, D), "action" (n, h*A) in physical units and, where the policy decides from noise,
        "noise" (n, noise_dim), float32, n = 272; the same with "loop_" before the name, "loop_command" (A,)
        in [-1, 1], which was executed, and "loop_reward", one row for each of 200 control steps;
        "loop_state::..." the environment's state before the first.

    Raises:
        RobotrlError: the policy returned a value that is not finite.
    """
    physical = PhysicalPolicy(policy).eval()
    noise = SettledNoise(policy, torch.Generator().manual_seed(learner_seed(seed)))
    env = make_env(task, PAIR_ENVS, evaluation_seed(seed))
    queue = ActionQueue(PAIR_ENVS, policy.horizon, policy.action_dim)
    obs = env.reset()
    pairs: list[dict[str, np.ndarray]] = []
    for t in range(PAIR_STEPS):
        if t % PAIR_EVERY == 0:
            pairs.append(_decide(physical, policy.flatten(obs), noise)[1])
        step = env.step(queue.next(obs, lambda seen: _finite(policy.act(seen, True, noise.rng))))
        queue.after(step)
        obs = step.obs

    env = make_env(task, 1, evaluation_seed(seed + 1), num_threads=1)
    queue = ActionQueue(1, policy.horizon, policy.action_dim)
    obs = env.reset()
    state = flatten_state(env.state_dict(), _STATE)
    steps: list[dict[str, np.ndarray]] = []
    for _ in range(LOOP_STEPS):
        decision, pair = _decide(physical, policy.flatten(obs), noise)
        command = queue.next(obs, lambda _, due=decision: due)  # type: ignore[misc]
        step = env.step(command)
        queue.after(step)
        steps.append(
            {f"loop_{name}": values for name, values in pair.items()}
            | {"loop_command": command.numpy(), "loop_reward": step.reward.numpy()}
        )
        obs = step.obs
    return {**_stack(pairs), **_stack(steps), **state}


def _decide(
    physical: PhysicalPolicy, flat: Tensor, noise: SettledNoise
) -> tuple[Tensor, dict[str, np.ndarray]]:
    """Decide for raw observations (B, D); return the decisions in [-1, 1], and what is recorded."""
    drawn = noise.draw(flat)
    decision = _finite(physical.decide(flat, drawn))
    row = {"observation": flat.numpy(), "action": physical.commands(decision).numpy()}
    return decision, row | ({} if drawn is None else {"noise": drawn.numpy()})


def _stack(rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}


def _finite(action: Tensor) -> Tensor:
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
