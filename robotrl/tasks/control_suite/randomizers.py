"""Random initial joint angles, as in dm_control's `randomize_limited_and_rotational_joints`."""

from __future__ import annotations

import math

import mujoco
import torch
from torch import Tensor

from robotrl.sim.sim import Sim

_HINGE, _SLIDE = int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)


def uniform(
    shape: tuple[int, ...], low: float | Tensor, high: float | Tensor, rng: torch.Generator
) -> Tensor:
    """(shape) float64 draws from [low, high)."""
    return low + (high - low) * torch.rand(shape, dtype=torch.float64, generator=rng)


def randomize_joints(sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
    """Draw the hinge and slide joints of simulations `ids`.

    Limited joints are uniform in their range, unlimited hinges in [-pi, pi]; unlimited slides keep
    their default.
    """
    qpos = sim.data("qpos")
    for joint in range(sim.model.njnt):
        kind, address = int(sim.model.jnt_type[joint]), int(sim.model.jnt_qposadr[joint])
        if kind not in (_HINGE, _SLIDE):
            raise NotImplementedError(f"joint type {kind} of joint {joint}: only hinge and slide are drawn")
        if sim.model.jnt_limited[joint]:
            low, high = (float(x) for x in sim.model.jnt_range[joint])
        elif kind == _HINGE:
            low, high = -math.pi, math.pi
        else:
            continue
        qpos[ids, address] = uniform((len(ids),), low, high, rng)
