"""What Gymnasium's two humanoid tasks share: what they observe, where they start, what effort costs."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import torch
from torch import Tensor

from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim
from robotrl.tasks.gymnasium.free_body import FreeBody
from robotrl.tasks.gymnasium.options import finite, uniform_noise

ROOT_DOFS = 6


@dataclass
class HumanoidBody(FreeBody):
    """A humanoid with 17 hinges, one motor each; a unit of command is 25 to 300 N m.

    Its observation shows, beside the state, what the engine knows of every body.
    """

    ctrl_cost_weight: float = 0.1
    """Cost per squared unit of actuator command."""
    reset_noise_scale: float = 1e-2
    """Half-width of the noise on the initial state, m and rad, m/s and rad/s."""
    include_cinert_in_observation: bool = True
    """Observe inertia, mass times offset and mass of every body about the common centre of mass."""
    include_cvel_in_observation: bool = True
    """Observe the velocity of every body, of its point at the common centre of mass."""
    include_qfrc_actuator_in_observation: bool = True
    """Observe the torques that the motors exert."""
    control_dt_s: float = 0.015
    """Time between two actions, s."""
    episode_length_s: float = 15.0
    """Time limit, s."""

    def __post_init__(self) -> None:
        super().__post_init__()
        finite(ctrl_cost_weight=self.ctrl_cost_weight)

    def state_terms(self, model: mujoco.MjModel) -> tuple[ObsTerm, ...]:
        """Positions (without x and y), velocities; inertia and velocity of every body; motor torques."""
        terms = super().state_terms(model)
        if self.include_cinert_in_observation:
            terms += self.body_terms(model, "cinert").terms
        if self.include_cvel_in_observation:
            terms += self.body_terms(model, "cvel").terms
        if self.include_qfrc_actuator_in_observation:
            joints = tuple(model.joint(i).name for i in range(1, model.njnt))
            terms += (ObsTerm("motor_torque", len(joints), "N m", Source.SENSOR, elements=joints),)
        return terms

    def state_values(self, sim: Sim) -> dict[str, Tensor]:
        """See `state_terms`."""
        values = super().state_values(sim)
        if self.include_cinert_in_observation:
            values |= self.body_terms(sim.model, "cinert").values(sim.data("cinert"))
        if self.include_cvel_in_observation:
            values |= self.body_terms(sim.model, "cvel").values(sim.data("cvel"))
        values["motor_torque"] = sim.data("qfrc_actuator")[:, ROOT_DOFS:]
        return values

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Add uniform noise to the default positions and velocities."""
        super().reset(sim, ids, rng)
        qpos, qvel = sim.data("qpos"), sim.data("qvel")
        qpos[ids] += uniform_noise((len(ids), qpos.shape[1]), self.reset_noise_scale, rng)
        qvel[ids] = uniform_noise((len(ids), qvel.shape[1]), self.reset_noise_scale, rng)

    def ctrl_cost(self, action: Tensor) -> Tensor:
        """(N,) cost of actuator commands."""
        return self.ctrl_cost_weight * action.square().sum(1)

    def contact_cost(self, sim: Sim, weight: float, bounds: tuple[float, float]) -> Tensor:
        """(N,) weighted sum of the squares of all contact forces (N) and torques (N m), clipped."""
        if weight == 0.0:  # spares the evaluation of the forces
            return torch.zeros(sim.num_envs, dtype=torch.float64).clamp(*bounds)
        return (weight * self.contact_forces(sim).square().sum((1, 2))).clamp(*bounds)
