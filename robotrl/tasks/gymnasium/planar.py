"""What Gymnasium's planar runners share: state observations, forward reward, control cost.

Their first three joints are the slides `rootx`, `rootz` and the hinge `rooty` of the torso.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import torch
from torch import Tensor

from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim, Stage
from robotrl.tasks.gymnasium.options import interval, not_negative, uniform_noise
from robotrl.tasks.task import Task

ROOT = 3


@dataclass
class PlanarRunner(Task):
    """Run forward along x with small actuator commands."""

    forward_reward_weight: float = 1.0
    """Reward per m/s of forward velocity."""
    ctrl_cost_weight: float = 1e-3
    """Cost per squared unit of actuator command."""
    reset_noise_scale: float = 5e-3
    """Size of the noise on the initial state, m and rad, m/s and rad/s."""
    exclude_current_positions_from_observation: bool = True
    """Leave the x position out of the observation."""

    # Gymnasium reads qpos and qvel only: no derived field has to be current
    stage = Stage.NONE
    velocity_limit = math.inf
    """Observed velocities are clipped to +- this, m/s and rad/s."""

    def __post_init__(self) -> None:
        not_negative(reset_noise_scale=self.reset_noise_scale)

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Positions (without x) and velocities of the root and the joints."""
        joints = tuple(model.joint(i).name for i in range(ROOT, model.njnt))
        high = self.velocity_limit
        position = (ObsTerm("root_x", 1, "m", Source.ESTIMATOR),)
        return {
            "policy": (
                *(() if self.exclude_current_positions_from_observation else position),
                ObsTerm("root_z", 1, "m", Source.ESTIMATOR),
                ObsTerm("pitch", 1, "rad", Source.ESTIMATOR),
                ObsTerm("joint_position", len(joints), "rad", elements=joints),
                ObsTerm("root_velocity", 2, "m/s", Source.ESTIMATOR, -high, high, ("x", "z")),
                ObsTerm("pitch_rate", 1, "rad/s", Source.SENSOR, -high, high),
                ObsTerm("joint_velocity", len(joints), "rad/s", Source.SENSOR, -high, high, joints),
            )
        }

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        qpos, qvel = sim.data("qpos"), sim.data("qvel")
        if math.isfinite(self.velocity_limit):
            qvel = qvel.clamp(-self.velocity_limit, self.velocity_limit)
        return {
            "policy": {
                "root_x": qpos[:, 0],
                "root_z": qpos[:, 1],
                "pitch": qpos[:, 2],
                "joint_position": qpos[:, ROOT:],
                "root_velocity": qvel[:, :2],
                "pitch_rate": qvel[:, 2],
                "joint_velocity": qvel[:, ROOT:],
            }
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Add uniform noise to the default positions and velocities."""
        qpos, qvel = sim.data("qpos"), sim.data("qvel")
        qpos[ids] += uniform_noise((len(ids), qpos.shape[1]), self.reset_noise_scale, rng)
        qvel[ids] = uniform_noise((len(ids), qvel.shape[1]), self.reset_noise_scale, rng)

    def before_step(self, sim: Sim) -> None:
        """Remember x, of which the forward velocity is the difference."""
        self._x_before = sim.data("qpos")[:, 0].clone()

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Forward velocity and control cost."""
        distance = sim.data("qpos")[:, 0] - self._x_before
        return {
            "forward": self.forward_reward_weight / self.control_dt_s * distance,
            "ctrl_cost": -self.ctrl_cost_weight * torch.linalg.vecdot(action, action),
        }


@dataclass
class FallingRunner(PlanarRunner):
    """A runner that is rewarded for staying up and, by default, ends its episode when it falls."""

    healthy_reward: float = 1.0
    """Reward per step while healthy."""
    terminate_when_unhealthy: bool = True
    """End the episode when unhealthy."""
    healthy_z_range: tuple[float, float] = (0.8, 2.0)
    """Open interval of healthy torso heights, m."""
    healthy_angle_range: tuple[float, float] = (-1.0, 1.0)
    """Open interval of healthy torso pitch, rad."""

    velocity_limit = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.healthy_z_range = interval("healthy_z_range", self.healthy_z_range)
        self.healthy_angle_range = interval("healthy_angle_range", self.healthy_angle_range)

    def healthy(self, sim: Sim) -> Tensor:
        """(N,) bool: height and pitch inside their ranges."""
        z, pitch = sim.data("qpos")[:, 1], sim.data("qpos")[:, 2]
        (min_z, max_z), (min_pitch, max_pitch) = self.healthy_z_range, self.healthy_angle_range
        return (z > min_z) & (z < max_z) & (pitch > min_pitch) & (pitch < max_pitch)

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Forward velocity, control cost and staying healthy."""
        healthy = self.healthy_reward * self.healthy(sim).double()
        return {**super().reward_terms(sim, action), "healthy": healthy}

    def terminated(self, sim: Sim) -> Tensor | None:
        """Unhealthy, if that ends the episode."""
        return ~self.healthy(sim) if self.terminate_when_unhealthy else None
