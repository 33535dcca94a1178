"""Reacher-v5 of Gymnasium: a two-link planar arm reaches for a random target."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.paths import ASSETS
from robotrl.core.types import ActionTerm, ObsTerm, Source
from robotrl.sim.sim import Sim, Stage
from robotrl.tasks.gymnasium.motors import describe_motors
from robotrl.tasks.gymnasium.options import finite, rejection_sample, uniform_noise
from robotrl.tasks.task import Task

TARGET_DISTANCE_M = 0.2
"""Targets are drawn from the disc of this radius."""
ARM = 2


@dataclass
class Reacher(Task):
    """Bring the fingertip to the target; a unit of command is a joint torque of 200 N m."""

    reward_dist_weight: float = 1.0
    """Cost per metre between fingertip and target."""
    reward_control_weight: float = 1.0
    """Cost per squared unit of actuator command."""
    control_dt_s: float = 0.02
    """Time between two actions, s."""
    episode_length_s: float = 1.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "gymnasium" / "reacher.xml"

    # Gymnasium reads body positions that lag behind the state
    stage = Stage.NONE

    def __post_init__(self) -> None:
        finite(reward_dist_weight=self.reward_dist_weight, reward_control_weight=self.reward_control_weight)

    def action_terms(self, model: mujoco.MjModel) -> tuple[ActionTerm, ...]:
        """One motor per joint."""
        return describe_motors(super().action_terms(model), model)

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Joint state, the target and the way from it to the fingertip."""
        joints, axes = ("joint0", "joint1"), ("x", "y")
        return {
            "policy": (
                ObsTerm("joint_cosine", ARM, "1", elements=joints),
                ObsTerm("joint_sine", ARM, "1", elements=joints),
                ObsTerm("target_position", 2, "m", Source.ESTIMATOR, elements=axes),
                ObsTerm("joint_velocity", ARM, "rad/s", elements=joints),
                ObsTerm("target_to_fingertip", 2, "m", Source.ESTIMATOR, elements=axes),
            )
        }

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        angles, target = sim.data("qpos").split(ARM, dim=1)
        return {
            "policy": {
                "joint_cosine": angles.cos(),
                "joint_sine": angles.sin(),
                "target_position": target,
                "joint_velocity": sim.data("qvel")[:, :ARM],
                "target_to_fingertip": self.target_to_fingertip(sim)[:, :2],
            }
        }

    def target_to_fingertip(self, sim: Sim) -> Tensor:
        """(N, 3) way from the target to the fingertip, m."""
        return sim.named("body", "fingertip").xpos - sim.named("body", "target").xpos

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the joint state close to a straight arm at rest, and the target in a disc."""
        qpos, qvel, n = sim.data("qpos"), sim.data("qvel"), len(ids)
        target = rejection_sample(
            n,
            (-TARGET_DISTANCE_M, -TARGET_DISTANCE_M),
            (TARGET_DISTANCE_M, TARGET_DISTANCE_M),
            lambda point: point.norm(dim=1) < TARGET_DISTANCE_M,
            rng,
        )
        qpos[ids] = torch.cat([uniform_noise((n, ARM), 0.1, rng), target], 1)
        qvel[ids, :ARM] = uniform_noise((n, ARM), 0.005, rng)

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Costs of distance and of control."""
        return {
            "distance": -self.reward_dist_weight * self.target_to_fingertip(sim).norm(dim=1),
            "ctrl_cost": -self.reward_control_weight * action.square().sum(1),
        }
