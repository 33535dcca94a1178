"""What the planar runners (cheetah, hopper) share: they observe all but the distance travelled."""

from __future__ import annotations

import mujoco
from torch import Tensor

from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim


def planar_terms(model: mujoco.MjModel) -> tuple[ObsTerm, ...]:
    """Describe `planar_values` for a model whose first joints are root x, root z and root pitch."""
    joints = tuple(model.joint(i).name for i in range(3, model.njnt))
    return (
        ObsTerm("root_height", 1, "m", Source.ESTIMATOR),
        ObsTerm("pitch", 1, "rad", Source.ESTIMATOR),
        ObsTerm("joint_position", len(joints), "rad", elements=joints),
        ObsTerm("root_velocity", 2, "m/s", Source.ESTIMATOR, elements=("x", "z")),
        ObsTerm("pitch_velocity", 1, "rad/s"),
        ObsTerm("joint_velocity", len(joints), "rad/s", elements=joints),
    )


def planar_values(sim: Sim) -> dict[str, Tensor]:
    """Return the values of `planar_terms`; `root_height` is relative to the pose of the model file."""
    qpos, qvel = sim.data("qpos"), sim.data("qvel")
    return {
        "root_height": qpos[:, 1],
        "pitch": qpos[:, 2],
        "joint_position": qpos[:, 3:],
        "root_velocity": qvel[:, :2],
        "pitch_velocity": qvel[:, 2],
        "joint_velocity": qvel[:, 3:],
    }
