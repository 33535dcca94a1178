"""Ant-v5 of Gymnasium (Schulman et al. 2015, arXiv:1506.02438): a quadruped on a free joint."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import unknown_name
from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim, Stage
from robotrl.tasks.gymnasium.contact_forces import add_force_sensor, stage_contact_forces
from robotrl.tasks.gymnasium.options import interval, normal_noise, not_negative, uniform_noise
from robotrl.tasks.task import Task


@dataclass
class Ant(Task):
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
    exclude_current_positions_from_observation: bool = True
    """Leave x and y out of the observation."""
    include_cfrc_ext_in_observation: bool = True
    """Observe the contact force and torque on every body."""
    control_dt_s: float = 0.05
    """Time between two actions, s."""
    episode_length_s: float = 50.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "gymnasium" / "ant.xml"

    # Gymnasium reads the positions and contact forces that lag behind the state
    stage = Stage.NONE

    def __post_init__(self) -> None:
        not_negative(reset_noise_scale=self.reset_noise_scale)
        self.healthy_z_range = interval("healthy_z_range", self.healthy_z_range)
        self.contact_force_range = interval("contact_force_range", self.contact_force_range)
        self._contact: tuple[Sim, Tensor] | None = None

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Add what makes the engine compute contact forces per body."""
        if spec.body(self.main_body) is None:
            raise unknown_name("body", self.main_body, (body.name for body in spec.bodies if body.name))
        add_force_sensor(spec)

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Positions (without x and y), velocities, and contact torque and force on every body."""
        joints = tuple(model.joint(i).name for i in range(1, model.njnt))
        low, high = self.contact_force_range
        terms = [
            ObsTerm("root_z", 1, "m", Source.ESTIMATOR),
            ObsTerm("orientation", 4, "1", Source.ESTIMATOR, elements=("w", "x", "y", "z")),
            ObsTerm("joint_position", len(joints), "rad", elements=joints),
            ObsTerm("root_velocity", 3, "m/s", Source.ESTIMATOR, elements=("x", "y", "z")),
            ObsTerm("angular_velocity", 3, "rad/s", elements=("x", "y", "z")),
            ObsTerm("joint_velocity", len(joints), "rad/s", elements=joints),
        ]
        if not self.exclude_current_positions_from_observation:
            terms.insert(0, ObsTerm("root_xy", 2, "m", Source.ESTIMATOR, elements=("x", "y")))
        if self.include_cfrc_ext_in_observation:
            for body in range(1, model.nbody):
                for kind, unit in (("torque", "N m"), ("force", "N")):
                    name = f"contact_{kind}/{_body_name(model, body)}"
                    terms.append(ObsTerm(name, 3, unit, Source.SIMULATION, low, high, ("x", "y", "z")))
        return {"policy": tuple(terms)}

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        qpos, qvel = sim.data("qpos"), sim.data("qvel")
        values = {
            "root_xy": qpos[:, :2],
            "root_z": qpos[:, 2],
            "orientation": qpos[:, 3:7],
            "joint_position": qpos[:, 7:],
            "root_velocity": qvel[:, :3],
            "angular_velocity": qvel[:, 3:6],
            "joint_velocity": qvel[:, 6:],
        }
        if self.include_cfrc_ext_in_observation:
            forces = self.contact_forces(sim)
            for body in range(1, sim.model.nbody):
                name = _body_name(sim.model, body)
                values[f"contact_torque/{name}"] = forces[:, body, :3]
                values[f"contact_force/{name}"] = forces[:, body, 3:]
        return {"policy": values}

    def contact_forces(self, sim: Sim) -> Tensor:
        """(N, nbody, 6) clipped contact torque (N m) and force (N) on every body, world axes."""
        if self._contact is None or self._contact[0] is not sim:
            self._contact = (sim, stage_contact_forces(sim).clamp(*self.contact_force_range))
        return self._contact[1]

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Add uniform noise to the default positions and draw normal velocities."""
        qpos, qvel = sim.data("qpos"), sim.data("qvel")
        qpos[ids] += uniform_noise((len(ids), qpos.shape[1]), self.reset_noise_scale, rng)
        qvel[ids] = normal_noise((len(ids), qvel.shape[1]), self.reset_noise_scale, rng)
        # Gymnasium's first observation shows no contact forces, whatever touches
        if self._contact is not None and self._contact[0] is sim:
            self._contact[1][ids] = 0.0
        else:
            self._contact = (sim, torch.zeros(sim.num_envs, sim.model.nbody, 6, dtype=torch.float64))

    def before_step(self, sim: Sim) -> None:
        """Remember x of the main body, of which the forward velocity is the difference."""
        self._x_before = sim.named("body", self.main_body).xpos[:, 0].clone()
        self._contact = None

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


def _body_name(model: mujoco.MjModel, body: int) -> str:
    """The body's name or, where it has none, its joint's."""
    return model.body(body).name or model.joint(int(model.body_jntadr[body])).name
