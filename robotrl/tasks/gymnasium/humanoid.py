"""Humanoid-v5 of Gymnasium (Tassa, Erez & Todorov 2012): a humanoid runs forward without falling."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from robotrl.core.paths import ASSETS
from robotrl.sim.sim import Sim
from robotrl.tasks.gymnasium.humanoid_body import HumanoidBody
from robotrl.tasks.gymnasium.options import finite, interval


@dataclass
class Humanoid(HumanoidBody):
    """Run forward without falling; 17 joint torques."""

    forward_reward_weight: float = 1.25
    """Reward per m/s of forward velocity of the centre of mass."""
    contact_cost_weight: float = 5e-7
    """Cost per squared unit (N or N m) of contact force."""
    contact_cost_range: tuple[float, float] = (-math.inf, 10.0)
    """The contact cost is clipped to this."""
    healthy_reward: float = 5.0
    """Reward per step while healthy."""
    terminate_when_unhealthy: bool = True
    """End the episode when unhealthy."""
    healthy_z_range: tuple[float, float] = (1.0, 2.0)
    """Open interval of healthy torso heights, m."""
    mjcf: Path = ASSETS / "gymnasium" / "humanoid.xml"

    def __post_init__(self) -> None:
        super().__post_init__()
        finite(
            forward_reward_weight=self.forward_reward_weight,
            contact_cost_weight=self.contact_cost_weight,
            healthy_reward=self.healthy_reward,
        )
        self.contact_cost_range = interval("contact_cost_range", self.contact_cost_range)
        self.healthy_z_range = interval("healthy_z_range", self.healthy_z_range)

    def before_step(self, sim: Sim) -> None:
        """Remember x of the centre of mass, of which the forward velocity is the difference."""
        self._x_before = self.centre_of_mass_x(sim).clone()

    def centre_of_mass_x(self, sim: Sim) -> Tensor:
        """(N,) x of the centre of all mass, m."""
        return sim.data("subtree_com")[:, 0, 0]

    def healthy(self, sim: Sim) -> Tensor:
        """(N,) bool: height inside its range."""
        z = sim.data("qpos")[:, 2]
        return (z > self.healthy_z_range[0]) & (z < self.healthy_z_range[1])

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Forward velocity, staying healthy, control cost and contact cost."""
        velocity = (self.centre_of_mass_x(sim) - self._x_before) / self.control_dt_s
        return {
            "forward": self.forward_reward_weight * velocity,
            "healthy": self.healthy_reward * self.healthy(sim).double(),
            "ctrl_cost": -self.ctrl_cost(action),
            "contact_cost": -self.contact_cost(sim, self.contact_cost_weight, self.contact_cost_range),
        }

    def terminated(self, sim: Sim) -> Tensor | None:
        """Unhealthy, if that ends the episode."""
        return ~self.healthy(sim) if self.terminate_when_unhealthy else None
