"""Two-link planar arm of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim
from robotrl.tasks.control_suite.randomizers import randomize_joints, uniform
from robotrl.tasks.task import Task

TARGET_DISTANCE_M = (0.05, 0.2)


@dataclass
class Reacher(Task):
    """Hold the finger inside a target that lies at a random place in each episode."""

    target_radius_m: float = 0.05
    """Radius of the target, m."""
    control_dt_s: float = 0.02
    """Time between two actions, s."""
    episode_length_s: float = 20.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "reacher.xml"

    def __post_init__(self) -> None:
        if not self.target_radius_m > 0:
            raise UsageError(f"target_radius_m must be above 0 m, got {self.target_radius_m}")

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Give the target its size."""
        spec.geom("target").size[0] = self.target_radius_m

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Joint state and the way from the finger to the target."""
        joints = ("shoulder", "wrist")
        return {
            "policy": (
                ObsTerm("joint_position", 2, "rad", elements=joints),
                ObsTerm("to_target", 2, "m", Source.ESTIMATOR, elements=("x_w", "y_w")),
                ObsTerm("joint_velocity", 2, "rad/s", elements=joints),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the joint angles, and the target in polar coordinates."""
        randomize_joints(sim, ids, rng)
        angle = uniform((len(ids),), 0.0, 2 * math.pi, rng)
        distance = uniform((len(ids),), *TARGET_DISTANCE_M, rng)
        position = distance.unsqueeze(1) * torch.stack((angle.sin(), angle.cos()), dim=1)
        # nothing collides with the target and it weighs nothing: no model constant depends on its place
        sim.param("geom_pos")[ids, sim.named("geom", "target").id, :2] = position

    def finger_to_target(self, sim: Sim) -> Tensor:
        """(N, 2) vector in the plane, m."""
        target, finger = sim.named("geom", "target"), sim.named("geom", "finger")
        return target.xpos[:, :2] - finger.xpos[:, :2]

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        return {
            "policy": {
                "joint_position": sim.data("qpos"),
                "to_target": self.finger_to_target(sim),
                "joint_velocity": sim.data("qvel"),
            }
        }

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 while the finger touches the target."""
        target, finger = sim.named("geom", "target"), sim.named("geom", "finger")
        reach = target.size[:, 0] + finger.size[:, 0]
        return {"reached": (self.finger_to_target(sim).norm(dim=1) <= reach).double()}
