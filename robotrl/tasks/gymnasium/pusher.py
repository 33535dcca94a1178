"""Pusher-v5 of Gymnasium: a seven-joint arm pushes a cylinder across a table onto a goal."""

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

ARM = 7
OBJECT_LOW_M, OBJECT_HIGH_M = (-0.3, -0.2), (0.0, 0.2)
"""Where the object starts: y and x, relative to the goal."""
OBJECT_DISTANCE_M = 0.17
"""It starts further than this from the goal."""


@dataclass
class Pusher(Task):
    """Push the object onto the goal; 7 joint torques in N m."""

    reward_near_weight: float = 0.5
    """Cost per metre between fingertips and object."""
    reward_dist_weight: float = 1.0
    """Cost per metre between object and goal."""
    reward_control_weight: float = 0.1
    """Cost per squared N m of torque."""
    control_dt_s: float = 0.05
    """Time between two actions, s."""
    episode_length_s: float = 5.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "gymnasium" / "pusher.xml"

    # Gymnasium reads body positions that lag behind the state
    stage = Stage.NONE

    def __post_init__(self) -> None:
        finite(
            reward_near_weight=self.reward_near_weight,
            reward_dist_weight=self.reward_dist_weight,
            reward_control_weight=self.reward_control_weight,
        )

    def action_terms(self, model: mujoco.MjModel) -> tuple[ActionTerm, ...]:
        """One motor per joint of the arm."""
        return describe_motors(super().action_terms(model), model)

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Joint state of the arm; where fingertips, object and goal are."""
        joints, axes = tuple(model.joint(i).name for i in range(ARM)), ("x", "y", "z")
        return {
            "policy": (
                ObsTerm("joint_position", ARM, "rad", elements=joints),
                ObsTerm("joint_velocity", ARM, "rad/s", elements=joints),
                ObsTerm("fingertip_position", 3, "m", Source.ESTIMATOR, elements=axes),
                ObsTerm("object_position", 3, "m", Source.ESTIMATOR, elements=axes),
                ObsTerm("goal_position", 3, "m", Source.ESTIMATOR, elements=axes),
            )
        }

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        return {
            "policy": {
                "joint_position": sim.data("qpos")[:, :ARM],
                "joint_velocity": sim.data("qvel")[:, :ARM],
                "fingertip_position": sim.named("body", "tips_arm").xpos,
                "object_position": sim.named("body", "object").xpos,
                "goal_position": sim.named("body", "goal").xpos,
            }
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the object's place away from the goal, and small velocities of the arm."""
        sim.data("qpos")[ids, ARM : ARM + 2] = rejection_sample(
            len(ids),
            OBJECT_LOW_M,
            OBJECT_HIGH_M,
            lambda point: point.norm(dim=1) > OBJECT_DISTANCE_M,
            rng,
        )
        sim.data("qvel")[ids, :ARM] = uniform_noise((len(ids), ARM), 0.005, rng)

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Costs of the ways from fingertips to object and from object to goal, and of control."""
        place = sim.named("body", "object").xpos
        to_fingertip = place - sim.named("body", "tips_arm").xpos
        to_goal = place - sim.named("body", "goal").xpos
        return {
            "distance": -self.reward_dist_weight * to_goal.norm(dim=1),
            "near": -self.reward_near_weight * to_fingertip.norm(dim=1),
            "ctrl_cost": -self.reward_control_weight * action.square().sum(1),
        }
