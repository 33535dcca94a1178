"""What Gymnasium's ant and humanoids share: a free body with hinges, and the contact forces on it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import mujoco
import torch
from torch import Tensor

from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim, Stage
from robotrl.tasks.gymnasium.body_terms import BodyTerms
from robotrl.tasks.gymnasium.contact_forces import ContactForces, add_force_sensor
from robotrl.tasks.gymnasium.options import not_negative
from robotrl.tasks.task import Task


@dataclass
class FreeBody(Task):
    """Observe positions, velocities, and contact torque and force on every body."""

    reset_noise_scale: float = 0.1
    """Size of the noise on the initial state, m and rad, m/s and rad/s."""
    exclude_current_positions_from_observation: bool = True
    """Leave x and y out of the observation."""
    include_cfrc_ext_in_observation: bool = True
    """Observe the contact torque and force on every body."""

    # Gymnasium reads the positions and contact forces that lag behind the state
    stage = Stage.NONE
    contact_force_range = (-math.inf, math.inf)
    """Contact forces are clipped to this, N and N m."""

    def __post_init__(self) -> None:
        not_negative(reset_noise_scale=self.reset_noise_scale)
        self._forces: ContactForces | None = None
        self._body_terms: dict[str, BodyTerms] = {}

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Add what makes the engine compute contact forces per body."""
        add_force_sensor(spec)

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Positions (without x and y), velocities, and contact torque and force on every body."""
        terms = self.state_terms(model)
        if self.include_cfrc_ext_in_observation:
            terms += self.contact_terms(model).terms
        return {"policy": terms}

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        values = self.state_values(sim)
        if self.include_cfrc_ext_in_observation:
            values |= self.contact_terms(sim.model).values(self.contact_forces(sim))
        return {"policy": values}

    def state_terms(self, model: mujoco.MjModel) -> tuple[ObsTerm, ...]:
        """Positions (without x and y) and velocities of the root and the hinges."""
        joints, axes = tuple(model.joint(i).name for i in range(1, model.njnt)), ("x", "y", "z")
        position = (ObsTerm("root_xy", 2, "m", Source.ESTIMATOR, elements=axes[:2]),)
        return (
            *(() if self.exclude_current_positions_from_observation else position),
            ObsTerm("root_z", 1, "m", Source.ESTIMATOR),
            ObsTerm("orientation", 4, "1", Source.ESTIMATOR, elements=("w", "x", "y", "z")),
            ObsTerm("joint_position", len(joints), "rad", elements=joints),
            ObsTerm("root_velocity", 3, "m/s", Source.ESTIMATOR, elements=axes),
            ObsTerm("angular_velocity", 3, "rad/s", elements=axes),
            ObsTerm("joint_velocity", len(joints), "rad/s", elements=joints),
        )

    def state_values(self, sim: Sim) -> dict[str, Tensor]:
        """See `state_terms`."""
        qpos, qvel = sim.data("qpos"), sim.data("qvel")
        return {
            "root_xy": qpos[:, :2],
            "root_z": qpos[:, 2],
            "orientation": qpos[:, 3:7],
            "joint_position": qpos[:, 7:],
            "root_velocity": qvel[:, :3],
            "angular_velocity": qvel[:, 3:6],
            "joint_velocity": qvel[:, 6:],
        }

    def contact_terms(self, model: mujoco.MjModel) -> BodyTerms:
        """Describe `contact_forces`."""
        return self.body_terms(model, "cfrc_ext", *self.contact_force_range)

    def body_terms(
        self, model: mujoco.MjModel, field: str, low: float = -math.inf, high: float = math.inf
    ) -> BodyTerms:
        """Describe one field that has a row per body, once for all copies of this task."""
        if field not in self._body_terms:
            self._body_terms[field] = BodyTerms(model, field, low, high)
        return self._body_terms[field]

    def contact_forces(self, sim: Sim) -> Tensor:
        """(N, nbody, 6) clipped contact torque (N m) and force (N) on every body, world axes."""
        return self._forces_in(sim).read()

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Forget contact forces: Gymnasium's first observation shows none, whatever touches."""
        self._forces_in(sim).reset(ids)

    def advance(self, sim: Sim, ctrl: Tensor, substeps: int) -> None:
        """Advance the physics such that the contact forces can be read."""
        self._forces_in(sim).advance(ctrl, substeps)

    def _forces_in(self, sim: Sim) -> ContactForces:
        if self._forces is None or self._forces.sim is not sim:
            self._forces = ContactForces(sim, *self.contact_force_range)
        return self._forces
