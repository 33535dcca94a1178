"""HalfCheetah-v5 of Gymnasium (Wawrzyński 2009): a planar quadruped's half runs and never falls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robotrl.core.paths import ASSETS
from robotrl.sim.sim import Sim
from robotrl.tasks.gymnasium.options import normal_noise, uniform_noise
from robotrl.tasks.gymnasium.planar import PlanarRunner


@dataclass
class HalfCheetah(PlanarRunner):
    """Run forward as fast as possible; 6 joint torques."""

    ctrl_cost_weight: float = 0.1
    """Cost per squared unit of actuator command."""
    reset_noise_scale: float = 0.1
    """Half-width of the initial position noise, standard deviation of the initial velocity."""
    control_dt_s: float = 0.05
    """Time between two actions, s."""
    episode_length_s: float = 50.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "gymnasium" / "half_cheetah.xml"

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Add uniform noise to the default positions and draw normal velocities."""
        qpos, qvel = sim.data("qpos"), sim.data("qvel")
        qpos[ids] += uniform_noise((len(ids), qpos.shape[1]), self.reset_noise_scale, rng)
        qvel[ids] = normal_noise((len(ids), qvel.shape[1]), self.reset_noise_scale, rng)
