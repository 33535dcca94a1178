"""InvertedPendulum-v5 of Gymnasium (Barto, Sutton & Anderson 1983): a pole hinged on a cart on a rail."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm
from robotrl.sim.sim import Sim, Stage
from robotrl.tasks.gymnasium.options import not_negative, uniform_noise
from robotrl.tasks.task import Task

HEALTHY_ANGLE_RAD = 0.2


@dataclass
class InvertedPendulum(Task):
    """Keep the pole within 0.2 rad of upright; a unit of command pushes the cart with 100 N."""

    reset_noise_scale: float = 0.01
    """Half-width of the noise on the initial state, m and rad, m/s and rad/s."""
    control_dt_s: float = 0.04
    """Time between two actions, s."""
    episode_length_s: float = 40.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "gymnasium" / "inverted_pendulum.xml"

    # Gymnasium reads qpos and qvel only: no derived field has to be current
    stage = Stage.NONE

    def __post_init__(self) -> None:
        not_negative(reset_noise_scale=self.reset_noise_scale)

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Positions and velocities of cart and pole."""
        return {
            "policy": (
                ObsTerm("cart_position", 1, "m"),
                ObsTerm("pole_angle", 1, "rad"),
                ObsTerm("cart_velocity", 1, "m/s"),
                ObsTerm("pole_velocity", 1, "rad/s"),
            )
        }

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        (cart, pole), (cart_velocity, pole_velocity) = sim.data("qpos").unbind(1), sim.data("qvel").unbind(1)
        return {
            "policy": {
                "cart_position": cart,
                "pole_angle": pole,
                "cart_velocity": cart_velocity,
                "pole_velocity": pole_velocity,
            }
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Add uniform noise to the default positions and velocities."""
        sim.data("qpos")[ids] += uniform_noise((len(ids), 2), self.reset_noise_scale, rng)
        sim.data("qvel")[ids] = uniform_noise((len(ids), 2), self.reset_noise_scale, rng)

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 while the pole is up."""
        return {"healthy": (~self.terminated(sim)).double()}

    def terminated(self, sim: Sim) -> Tensor:
        """The pole leans further than 0.2 rad."""
        return sim.data("qpos")[:, 1].abs() > HEALTHY_ANGLE_RAD
