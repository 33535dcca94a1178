"""Ant-v5 of Gymnasium (Schulman et al. 2015, arXiv:1506.02438): a quadruped on a free joint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import unknown_name
from robotrl.core.paths import ASSETS
from robotrl.sim.sim import Sim
from robotrl.tasks.gymnasium.free_body import FreeBody
from robotrl.tasks.gymnasium.options import interval, normal_noise, uniform_noise


@dataclass
class Ant(FreeBody):
    """Run forward without falling or hitting the floor hard; 8 joint torques."""

    forward_reward_weight: float = 1.0
    """Reward per m/s of forward velocity of `main_body`."""
    ctrl_cost_weight: float = 0.5
    """Cost per squared unit of actuator command."""
    contact_cost_weight: float = 5e-4
    """Cost per squared unit (N or N m) of clipped contact force."""
    healthy_reward: float = 1.0
    """Reward per step while healthy."""
    main_body: str = "torso"
    """Body whose forward velocity is rewarded."""
    terminate_when_unhealthy: bool = True
    """End the episode when unhealthy."""
    healthy_z_range: tuple[float, float] = (0.2, 1.0)
    """Closed interval of healthy torso heights, m."""
    contact_force_range: tuple[float, float] = (-1.0, 1.0)
    """Contact forces are clipped to this, N and N m."""
    reset_noise_scale: float = 0.1
    """Half-width of the initial position noise, standard deviation of the initial velocity."""
    control_dt_s: float = 0.05
    """Time between two actions, s."""
    episode_length_s: float = 50.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "gymnasium" / "ant.xml"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.healthy_z_range = interval("healthy_z_range", self.healthy_z_range)
        self.contact_force_range = interval("contact_force_range", self.contact_force_range)

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Add what makes the engine compute contact forces per body."""
        if spec.body(self.main_body) is None:
            raise unknown_name("body", self.main_body, (body.name for body in spec.bodies if body.name))
        super().edit_spec(spec)

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Add uniform noise to the default positions and draw normal velocities."""
        super().reset(sim, ids, rng)
        qpos, qvel = sim.data("qpos"), sim.data("qvel")
        qpos[ids] += uniform_noise((len(ids), qpos.shape[1]), self.reset_noise_scale, rng)
        qvel[ids] = normal_noise((len(ids), qvel.shape[1]), self.reset_noise_scale, rng)

    def before_step(self, sim: Sim) -> None:
        """Remember x of the main body, of which the forward velocity is the difference."""
        self._x_before = sim.named("body", self.main_body).xpos[:, 0].clone()

    def healthy(self, sim: Sim) -> Tensor:
        """(N,) bool: height inside its range."""
        z = sim.data("qpos")[:, 2]
        return (z >= self.healthy_z_range[0]) & (z <= self.healthy_z_range[1])

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Forward velocity, staying healthy, control cost and contact cost."""
        x_now = sim.named("body", self.main_body).xpos[:, 0]
        velocity = (x_now - self._x_before) / self.control_dt_s
        terms = {
            "forward": self.forward_reward_weight * velocity,
            "healthy": self.healthy_reward * self.healthy(sim).double(),
            "ctrl_cost": -self.ctrl_cost_weight * action.square().sum(1),
        }
        if self.contact_cost_weight:
            terms["contact_cost"] = -self.contact_cost_weight * self.contact_forces(sim).square().sum((1, 2))
        return terms

    def terminated(self, sim: Sim) -> Tensor | None:
        """Unhealthy, if that ends the episode."""
        return ~self.healthy(sim) if self.terminate_when_unhealthy else None
