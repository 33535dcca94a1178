"""What manipulator and stacker share: a planar arm with a hand, and props.

In both models the eight arm joints come first, then the slides x and z and the hinge y of each prop.
"""

from __future__ import annotations

import mujoco
import torch
from torch import Tensor

from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim
from robotrl.tasks.control_suite.randomizers import randomize_joints, uniform

ARM = 8
"""Number of arm joints: the props' coordinates in qpos and qvel start here."""

_THUMB, _FINGER = 4, 6
# dm_control observes the finger before the thumb, the model has the thumb first
_OBSERVED_ORDER = torch.tensor([0, 1, 2, 3, 6, 7, 4, 5])


def pose_terms(name: str) -> tuple[ObsTerm, ObsTerm]:
    """Describe the two tensors of `planar_pose`."""
    return (
        ObsTerm(f"{name}_position", 2, "m", Source.ESTIMATOR, elements=("x_w", "z_w")),
        ObsTerm(f"{name}_orientation", 2, "1", Source.ESTIMATOR, -1.0, 1.0, ("qw", "qy")),
    )


def planar_pose(sim: Sim, name: str) -> dict[str, Tensor]:
    """Return (N, 2) position x, z in m and (N, 2) quaternion entries w, y of body `name`."""
    body = sim.named("body", name)
    return {f"{name}_position": body.xpos[:, ::2], f"{name}_orientation": body.xquat[:, ::2]}


def arm_terms(model: mujoco.MjModel) -> tuple[ObsTerm, ...]:
    """Describe `arm_values`."""
    joints = tuple(model.joint(int(i)).name for i in _OBSERVED_ORDER)
    angles = tuple(f"{entry}({joint})" for joint in joints for entry in ("sin", "cos"))
    touch = tuple(model.sensor(i).name for i in range(model.nsensor))
    return (
        ObsTerm("arm_position", len(angles), "1", low=-1.0, high=1.0, elements=angles),
        ObsTerm("arm_velocity", len(joints), "rad/s", elements=joints),
        ObsTerm("touch", len(touch), "log1p(N)", low=0.0, elements=touch),
        *pose_terms("hand"),
    )


def arm_values(sim: Sim) -> dict[str, Tensor]:
    """Return the arm's joint angles as sines and cosines, its velocities, touch and the hand's pose."""
    angle = sim.data("qpos")[:, _OBSERVED_ORDER]
    return {
        "arm_position": torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1),
        "arm_velocity": sim.data("qvel")[:, _OBSERVED_ORDER],
        "touch": sim.data("sensordata").log1p(),
        **planar_pose(sim, "hand"),
    }


def randomize_arm(sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
    """Draw the arm's joints in their ranges, the hand open symmetrically; the props' are drawn along."""
    randomize_joints(sim, ids, rng)
    qpos = sim.data("qpos")
    qpos[ids, _FINGER] = qpos[ids, _THUMB]


def draw_poses(
    shape: tuple[int, ...],
    x_m: tuple[float, float],
    z_m: tuple[float, float],
    angle_rad: tuple[float, float],
    rng: torch.Generator,
) -> Tensor:
    """(*shape, 3) uniform draws of x, z and the angle about y, each in its range."""
    low, high = torch.tensor((x_m, z_m, angle_rad), dtype=torch.float64).T
    return uniform((*shape, 3), low, high, rng)
