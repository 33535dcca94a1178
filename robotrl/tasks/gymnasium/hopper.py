"""Hopper-v5 of Gymnasium (Erez, Tassa & Todorov 2011): a planar one-legged robot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from robotrl.core.paths import ASSETS
from robotrl.sim.sim import Sim
from robotrl.tasks.gymnasium.options import interval
from robotrl.tasks.gymnasium.planar import FallingRunner


@dataclass
class Hopper(FallingRunner):
    """Hop forward without falling; 3 joint torques."""

    healthy_z_range: tuple[float, float] = (0.7, math.inf)
    """Open interval of healthy torso heights, m."""
    healthy_angle_range: tuple[float, float] = (-0.2, 0.2)
    """Open interval of healthy torso pitch, rad."""
    healthy_state_range: tuple[float, float] = (-100.0, 100.0)
    """Open interval of healthy angles (rad) and velocities (m/s, rad/s)."""
    control_dt_s: float = 0.008
    """Time between two actions, s."""
    episode_length_s: float = 8.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "gymnasium" / "hopper.xml"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.healthy_state_range = interval("healthy_state_range", self.healthy_state_range)

    def healthy(self, sim: Sim) -> Tensor:
        """(N,) bool: height, pitch, angles and velocities inside their ranges."""
        low, high = self.healthy_state_range
        angles, qvel = sim.data("qpos")[:, 2:], sim.data("qvel")
        sane = ((angles > low) & (angles < high)).all(1) & ((qvel > low) & (qvel < high)).all(1)
        return super().healthy(sim) & sane
