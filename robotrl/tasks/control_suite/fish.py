"""Fish of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690): stay upright, swim."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim
from robotrl.tasks.control_suite.randomizers import uniform
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task

JOINT_RANGE_RAD = (-0.2, 0.2)
TARGET_LOW_M, TARGET_HIGH_M = (-0.4, -0.4, 0.1), (0.4, 0.4, 0.3)


@dataclass
class Fish(Task):
    """What both tasks share: a fish without weight in a heavy fluid, with servos at tail and fins."""

    control_dt_s: float = 0.04
    """Time between two actions, s."""
    episode_length_s: float = 40.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "fish.xml"

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Joint angles, how upright the torso is, and all velocities."""
        joints = tuple(model.joint(i).name for i in range(1, model.njnt))
        axes = ("x", "y", "z")
        return {
            "policy": (
                ObsTerm("joint_position", len(joints), "rad", elements=joints),
                ObsTerm("upright", 1, "1", Source.ESTIMATOR, low=-1.0, high=1.0),
                ObsTerm("root_velocity_w", 3, "m/s", Source.ESTIMATOR, elements=axes),
                ObsTerm("root_angular_velocity_b", 3, "rad/s", elements=axes),
                ObsTerm("joint_velocity", len(joints), "rad/s", elements=joints),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw any orientation, and tail and fins near their rest."""
        qpos = sim.data("qpos")
        quaternion = torch.randn((len(ids), 4), dtype=torch.float64, generator=rng)
        qpos[ids, 3:7] = quaternion / quaternion.norm(dim=1, keepdim=True)
        qpos[ids, 7:] = uniform((len(ids), qpos.shape[1] - 7), *JOINT_RANGE_RAD, rng)

    def upright(self, sim: Sim) -> Tensor:
        """(N,) projection of the torso's z axis on the world's."""
        return sim.named("body", "torso").xmat[:, 8]

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        qvel = sim.data("qvel")
        return {
            "policy": {
                "joint_position": sim.data("qpos")[:, 7:],
                "upright": self.upright(sim),
                "root_velocity_w": qvel[:, :3],
                "root_angular_velocity_b": qvel[:, 3:6],
                "joint_velocity": qvel[:, 6:],
            }
        }


@dataclass
class FishUpright(Fish):
    """Turn the fish until its back points upwards."""

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Hide the target of the swimming task."""
        spec.geom("target").rgba[3] = 0.0

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 when upright, falling with the tilt."""
        return {"upright": tolerance(self.upright(sim), (1.0, 1.0), margin=1.0)}


@dataclass
class FishSwim(Fish):
    """Bring the mouth of the fish to a target that lies at a random place in each episode."""

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Those of `Fish`, and the way from the mouth to the target."""
        joint_position, upright, *velocities = super().observation_terms(model)["policy"]
        target = ObsTerm("mouth_to_target_b", 3, "m", Source.ESTIMATOR, elements=("x", "y", "z"))
        return {"policy": (joint_position, upright, target, *velocities)}

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the pose and a target in a box around the start."""
        super().reset(sim, ids, rng)
        low, high = torch.tensor((TARGET_LOW_M, TARGET_HIGH_M), dtype=torch.float64)
        # nothing collides with the target and it weighs nothing: no model constant depends on its place
        sim.param("geom_pos")[ids, sim.named("geom", "target").id] = uniform((len(ids), 3), low, high, rng)

    def mouth_to_target(self, sim: Sim) -> Tensor:
        """(N, 3) vector in the frame of the mouth, m."""
        target, mouth = sim.named("geom", "target"), sim.named("geom", "mouth")
        way = (target.xpos - mouth.xpos).unsqueeze(1)
        return (way @ mouth.xmat.unflatten(1, (3, 3))).squeeze(1)

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        joint_position, upright, *velocities = super().observe(sim)["policy"].items()
        target = ("mouth_to_target_b", self.mouth_to_target(sim))
        return {"policy": dict((joint_position, upright, target, *velocities))}

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Seven parts for the mouth at the target, one for staying upright."""
        reach_m = float(sim.model.geom("target").size[0] + sim.model.geom("mouth").size[0])
        distance = self.mouth_to_target(sim).norm(dim=1)
        near = tolerance(distance, (0.0, reach_m), margin=2 * reach_m)
        return {"near_target": near * (7 / 8), "upright": (self.upright(sim) + 1) / 16}
