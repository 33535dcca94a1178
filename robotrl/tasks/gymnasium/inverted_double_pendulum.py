"""InvertedDoublePendulum-v5 of Gymnasium: two poles in a row, hinged on a cart on a rail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim, Stage
from robotrl.tasks.gymnasium.options import finite, normal_noise, not_negative, uniform_noise
from robotrl.tasks.task import Task

HEALTHY_TIP_HEIGHT_M = 1.0
"""The tip has to stay above this; 1.2 m is as high as it reaches."""
TARGET_TIP_HEIGHT_M = 2.0
LIMIT = 10.0
"""Observed velocities (m/s, rad/s) and the constraint force (N) are clipped to +- this."""


@dataclass
class InvertedDoublePendulum(Task):
    """Keep the tip of two poles up; a unit of command pushes the cart with 500 N."""

    healthy_reward: float = 10.0
    """Reward per step while the tip is above 1 m."""
    reset_noise_scale: float = 0.1
    """Half-width of the initial position noise, standard deviation of the initial velocity."""
    control_dt_s: float = 0.05
    """Time between two actions, s."""
    episode_length_s: float = 50.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "gymnasium" / "inverted_double_pendulum.xml"

    # Gymnasium reads the tip and the constraint force that lag behind the state
    stage = Stage.NONE

    def __post_init__(self) -> None:
        not_negative(reset_noise_scale=self.reset_noise_scale)
        finite(healthy_reward=self.healthy_reward)

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """The state, angles as sine and cosine, and the force with which the rail's end holds the cart."""
        poles = ("hinge", "hinge2")
        return {
            "policy": (
                ObsTerm("cart_position", 1, "m"),
                ObsTerm("pole_sine", 2, "1", elements=poles),
                ObsTerm("pole_cosine", 2, "1", elements=poles),
                ObsTerm("cart_velocity", 1, "m/s", Source.SENSOR, -LIMIT, LIMIT),
                ObsTerm("pole_velocity", 2, "rad/s", Source.SENSOR, -LIMIT, LIMIT, poles),
                ObsTerm("cart_constraint_force", 1, "N", Source.SIMULATION, -LIMIT, LIMIT),
            )
        }

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        qpos, qvel = sim.data("qpos"), sim.data("qvel").clamp(-LIMIT, LIMIT)
        angles = qpos[:, 1:]
        return {
            "policy": {
                "cart_position": qpos[:, 0],
                "pole_sine": angles.sin(),
                "pole_cosine": angles.cos(),
                "cart_velocity": qvel[:, 0],
                "pole_velocity": qvel[:, 1:],
                "cart_constraint_force": sim.data("qfrc_constraint")[:, 0].clamp(-LIMIT, LIMIT),
            }
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Add uniform noise to the default positions and draw normal velocities."""
        sim.data("qpos")[ids] += uniform_noise((len(ids), 3), self.reset_noise_scale, rng)
        sim.data("qvel")[ids] = normal_noise((len(ids), 3), self.reset_noise_scale, rng)

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Staying up, less the tip's distance from its target and the poles' squared velocities."""
        tip, qvel = sim.named("site", "tip").xpos, sim.data("qvel")
        x, height = tip[:, 0], tip[:, 2]
        return {
            "healthy": self.healthy_reward * (height > HEALTHY_TIP_HEIGHT_M).double(),
            "distance_penalty": -(0.01 * x.square() + (height - TARGET_TIP_HEIGHT_M).square()),
            "velocity_penalty": -(1e-3 * qvel[:, 1].square() + 5e-3 * qvel[:, 2].square()),
        }

    def terminated(self, sim: Sim) -> Tensor:
        """The tip is not above 1 m."""
        return sim.named("site", "tip").xpos[:, 2] <= HEALTHY_TIP_HEIGHT_M
