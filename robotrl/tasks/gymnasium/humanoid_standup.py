"""HumanoidStandup-v5 of Gymnasium (Tassa, Erez & Todorov 2012): a humanoid on its back gets up."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from robotrl.core.paths import ASSETS
from robotrl.sim.sim import Sim
from robotrl.tasks.gymnasium.humanoid_body import HumanoidBody
from robotrl.tasks.gymnasium.options import finite, interval


@dataclass
class HumanoidStandup(HumanoidBody):
    """Raise the torso as high as possible; 17 joint torques."""

    uph_cost_weight: float = 1.0
    """Reward per m/s of torso height over physics timestep; Gymnasium 1.4 ignores its own and uses 1."""
    impact_cost_weight: float = 0.5e-6
    """Cost per squared unit (N or N m) of contact force."""
    impact_cost_range: tuple[float, float] = (-math.inf, 10.0)
    """The impact cost is clipped to this."""
    mjcf: Path = ASSETS / "gymnasium" / "humanoid_standup.xml"

    def __post_init__(self) -> None:
        super().__post_init__()
        finite(uph_cost_weight=self.uph_cost_weight, impact_cost_weight=self.impact_cost_weight)
        self.impact_cost_range = interval("impact_cost_range", self.impact_cost_range)

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Height over physics timestep, costs of control and impacts, and a constant 1."""
        height = sim.data("qpos")[:, 2]
        return {
            "height": self.uph_cost_weight / sim.dt_s * height,
            "ctrl_cost": -self.ctrl_cost(action),
            "impact_cost": -self.contact_cost(sim, self.impact_cost_weight, self.impact_cost_range),
            "constant": torch.ones(sim.num_envs, dtype=torch.float64),
        }
