"""Humanoid of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690): stand, walk, run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim
from robotrl.tasks.control_suite.randomizers import randomize_joints, redraw_until_free
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task

STAND_HEIGHT_M = 1.4
XYZ = ("x", "y", "z")


@dataclass
class Humanoid(Task):
    """Get up, stand upright and, with a speed to reach, move at it in any direction."""

    move_speed_m_s: float = 1.0
    """Horizontal speed from which the move reward is 1, m/s; 0 asks for standing still."""
    pure_state: bool = False
    """Observe positions and velocities as they are, instead of quantities seen from the body."""
    control_dt_s: float = 0.025
    """Time between two actions, s."""
    episode_length_s: float = 25.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "humanoid.xml"

    trunk: ClassVar[str] = "torso"
    limbs: ClassVar[tuple[str, ...]] = ("left_hand", "left_foot", "right_hand", "right_foot")
    # of the trunk's rotation matrix: how much its axis from feet to head points up
    upright_entry: ClassVar[int] = 8

    def __post_init__(self) -> None:
        if not self.move_speed_m_s >= 0:
            raise UsageError(f"move_speed_m_s must be 0 or above, got {self.move_speed_m_s}")

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """What the body feels of itself, or the whole state; x, y, z of the root are in the world."""
        joints = tuple(model.joint(i).name for i in range(1, model.njnt))
        velocity = (
            ObsTerm("root_velocity", 3, "m/s", Source.ESTIMATOR, elements=XYZ),
            ObsTerm("angular_velocity", 3, "rad/s", elements=XYZ),
            ObsTerm("joint_velocity", len(joints), "rad/s", elements=joints),
        )
        if self.pure_state:
            position = (
                ObsTerm("root_position", 3, "m", Source.ESTIMATOR, elements=XYZ),
                ObsTerm("orientation", 4, "1", Source.ESTIMATOR, elements=("w", "x", "y", "z")),
                ObsTerm("joint_position", len(joints), "rad", elements=joints),
            )
            return {"policy": position + velocity}
        ends = tuple(f"{limb}.{axis}" for limb in self.limbs for axis in XYZ)
        up = tuple(f"{axis}_up" for axis in XYZ)
        features = (
            ObsTerm("joint_position", len(joints), "rad", elements=joints),
            ObsTerm("head_height", 1, "m", Source.ESTIMATOR),
            ObsTerm("extremities", 12, "m", Source.ESTIMATOR, elements=ends),
            ObsTerm("trunk_vertical", 3, "1", Source.ESTIMATOR, -1.0, 1.0, up),
            ObsTerm("com_velocity", 3, "m/s", Source.ESTIMATOR, elements=XYZ),
        )
        return {"policy": features + velocity}

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the orientation and all joint angles in mid-air until nothing touches."""
        redraw_until_free(sim, ids, lambda left: randomize_joints(sim, left, rng))

    def head_height(self, sim: Sim) -> Tensor:
        """(N,) m."""
        return sim.named("body", "head").xpos[:, 2]

    def upright(self, sim: Sim) -> Tensor:
        """(N,) projection of the trunk's axis on the vertical."""
        return sim.named("body", self.trunk).xmat[:, self.upright_entry]

    def extremities(self, sim: Sim) -> Tensor:
        """(N, 12) positions of hands and feet from the trunk, in its axes, m."""
        trunk = sim.named("body", self.trunk)
        ends = torch.stack([sim.named("body", limb).xpos for limb in self.limbs], dim=1)
        return ((ends - trunk.xpos.unsqueeze(1)) @ trunk.xmat.unflatten(1, (3, 3))).flatten(1)

    def com_velocity(self, sim: Sim) -> Tensor:
        """(N, 3) velocity of the centre of mass in the world, m/s."""
        return sim.named("sensor", f"{self.trunk}_subtreelinvel").data

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        qpos, qvel = sim.data("qpos"), sim.data("qvel")
        velocity = {
            "root_velocity": qvel[:, :3],
            "angular_velocity": qvel[:, 3:6],
            "joint_velocity": qvel[:, 6:],
        }
        if self.pure_state:
            position = {
                "root_position": qpos[:, :3],
                "orientation": qpos[:, 3:7],
                "joint_position": qpos[:, 7:],
            }
            return {"policy": position | velocity}
        features = {
            "joint_position": qpos[:, 7:],
            "head_height": self.head_height(sim),
            "extremities": self.extremities(sim),
            "trunk_vertical": sim.named("body", self.trunk).xmat[:, 6:],
            "com_velocity": self.com_velocity(sim),
        }
        return {"policy": features | velocity}

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Standing gently, times stillness or (1 + 5 move) / 6, as the sum of its two parts."""
        height = tolerance(self.head_height(sim), (STAND_HEIGHT_M, math.inf), margin=STAND_HEIGHT_M / 4)
        upright = tolerance(
            self.upright(sim), (0.9, math.inf), margin=1.9, value_at_margin=0.0, sigmoid="linear"
        )
        gentle = tolerance(action, margin=1.0, value_at_margin=0.0, sigmoid="quadratic").mean(1)
        stand = height * upright * (4 + gentle) / 5
        velocity = self.com_velocity(sim)[:, :2]
        if self.move_speed_m_s == 0:
            return {"stand": stand * tolerance(velocity, margin=2.0).mean(1)}
        move = tolerance(
            velocity.norm(dim=1),
            (self.move_speed_m_s, math.inf),
            margin=self.move_speed_m_s,
            value_at_margin=0.0,
            sigmoid="linear",
        )
        return {"stand": stand / 6, "move": stand * move * (5 / 6)}
