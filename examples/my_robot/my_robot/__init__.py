"""A task of one's own for robotrl: a two-joint arm lifts its fingertip to a target and holds it there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.types import ActionTerm, ObsTerm, Source
from robotrl.sim.sim import Sim
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task


@dataclass
class MyTask(Task):
    """Hold the fingertip at the target with little torque."""

    target_radius_m: float = 0.03
    """Distance from the target within which the reward is full, m; above 0."""
    control_dt_s: float = 0.02
    """Time between two actions, s."""
    episode_length_s: float = 4.0
    """Time limit, s."""

    # without an annotation it is no option, and follows the package to other machines
    mjcf = Path(__file__).with_name("arm.xml")

    def __post_init__(self) -> None:
        if not self.target_radius_m > 0:
            raise UsageError(f"target_radius_m must be above 0, got {self.target_radius_m}")

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Encoders, and where a camera sees the target relative to the fingertip."""
        joints = ("shoulder", "elbow")
        return {
            "policy": (
                ObsTerm("joint_cos", 2, "1", low=-1.0, high=1.0, elements=joints),
                ObsTerm("joint_sin", 2, "1", low=-1.0, high=1.0, elements=joints),
                ObsTerm("joint_velocity", 2, "rad/s", elements=joints),
                ObsTerm("to_target", 2, "m", Source.ESTIMATOR, elements=("x_w", "z_w")),
            )
        }

    def action_terms(self, model: mujoco.MjModel) -> tuple[ActionTerm, ...]:
        """One torque per joint, over the range that the model allows."""
        ranges = model.actuator_ctrlrange.tolist()
        return tuple(ActionTerm(model.actuator(i).name, "N m", *ranges[i]) for i in range(model.nu))

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the pose anywhere and the target within reach, at rest."""
        draw = torch.rand(len(ids), 4, dtype=torch.float64, generator=rng)
        sim.data("qpos")[ids] = (2 * draw[:, :2] - 1) * torch.tensor([math.pi, 2.5], dtype=torch.float64)
        distance, angle = 0.15 + 0.2 * draw[:, 2], 2 * math.pi * draw[:, 3]
        target = torch.stack((distance * angle.cos(), torch.zeros_like(angle), distance * angle.sin()), 1)
        sim.data("mocap_pos")[ids, 0] = target

    def to_target(self, sim: Sim) -> Tensor:
        """(N, 2) m, from fingertip to target, x and z in the world frame."""
        return (sim.named("site", "target").xpos - sim.named("site", "fingertip").xpos)[:, [0, 2]]

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        angle = sim.data("qpos")
        return {
            "policy": {
                "joint_cos": angle.cos(),
                "joint_sin": angle.sin(),
                "joint_velocity": sim.data("qvel"),
                "to_target": self.to_target(sim),
            }
        }

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """0.9 for being at the target, 0.1 for little torque: at most 1 a step."""
        distance = self.to_target(sim).norm(dim=1)
        return {
            "reach": 0.9 * tolerance(distance, (0.0, self.target_radius_m), 0.1, "long_tail"),
            "calm": 0.1 * tolerance(action, margin=2.0, sigmoid="quadratic", value_at_margin=0.0).mean(1),
        }
