"""Linear quadratic regulator of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690).

Masses slide on parallel rails, each on a spring of its own, carried by the one before; forces act on the
first few. State and cost are linear and quadratic, so the optimal controller is known.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.paths import ASSETS
from robotrl.core.types import ActionTerm, ObsTerm
from robotrl.sim.sim import Sim
from robotrl.tasks.task import Task

STIFFNESS_N_M, DAMPING_N_S_M = (15.0, 25.0), (0.0, 0.0)
INITIAL_NORM_M = math.sqrt(2)
END_STATE_NORM = 1e-6


@dataclass
class Lqr(Task):
    """Bring every mass to its rest position with little force.

    Differences to dm_control, which bounds neither time nor force: an episode is truncated after
    `episode_length_s`, and actions in [-1, 1] mean forces within `force_limit_n`. The optimal
    controllers of `lqr_2_1` and `lqr_6_2` stay below 6.2 N in 60 systems of each and need about
    three to nine minutes to the end state.
    """

    num_bodies: int = 2
    """Number of masses; 1 or more."""
    num_actuators: int = 1
    """Number of masses on which a force acts, the first ones; from 1 to `num_bodies`."""
    system_seed: int = 0
    """Seed of the springs' stiffness: the system that dm_control makes of `task_kwargs={"random": seed}`."""
    control_cost_weight: float = 0.1
    """Weight of half the squared force, N^2, against half the squared position, m^2; above 0."""
    force_limit_n: float = 10.0
    """Force of an action of 1, N."""
    control_dt_s: float = 0.03
    """Time between two actions, s."""
    episode_length_s: float = 30.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "lqr.xml"

    def __post_init__(self) -> None:
        if not self.num_bodies >= 1:
            raise UsageError(f"num_bodies must be 1 or more, got {self.num_bodies}")
        if not 1 <= self.num_actuators <= self.num_bodies:
            raise UsageError(
                f"num_actuators must be from 1 to num_bodies={self.num_bodies}, got {self.num_actuators}"
            )
        if not 0 <= self.system_seed < 2**32:
            raise UsageError(f"system_seed must be from 0 to 2**32 - 1, got {self.system_seed}")
        for name in ("control_cost_weight", "force_limit_n"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"{name} must be above 0 and finite, got {getattr(self, name)}")

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Build the chain of masses, draw its springs, put motors on the first masses."""
        # dm_control's generator and order of draws, so that a seed names the same system in both
        low, high = zip(STIFFNESS_N_M, DAMPING_N_S_M, strict=True)
        rng = np.random.RandomState(self.system_seed)
        springs = rng.uniform(low, high, size=(self.num_bodies, 2))
        parent = spec.worldbody
        for i, (stiffness, damping) in enumerate(springs):
            parent = parent.add_body(name=f"body_{i}", pos=[0.25, 0, 0 if i else 0.1])
            joint = parent.add_joint(spec.default, name=f"joint_{i}")
            joint.stiffness[0], joint.damping[0] = stiffness, damping
            parent.add_geom(spec.default, name=f"geom_{i}")
            parent.add_site(spec.default, name=f"site_{i}")
        for i in range(self.num_bodies - 1):  # only to be seen
            tendon = spec.add_tendon(spec.default, name=f"tendon_{i}")
            tendon.wrap_site(f"site_{i}")
            tendon.wrap_site(f"site_{i + 1}")
        for i in range(self.num_actuators):
            motor = spec.add_actuator(spec.default, name=f"motor_{i}", target=f"joint_{i}")
            motor.trntype = mujoco.mjtTrn.mjTRN_JOINT

    def action_terms(self, model: mujoco.MjModel) -> tuple[ActionTerm, ...]:
        """One force per motor; the motors have no limit of their own."""
        limit = self.force_limit_n
        return tuple(ActionTerm(model.actuator(i).name, "N", -limit, limit) for i in range(model.nu))

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """The whole state."""
        joints = tuple(f"joint_{i}" for i in range(self.num_bodies))
        return {
            "policy": (
                ObsTerm("position", len(joints), "m", elements=joints),
                ObsTerm("velocity", len(joints), "m/s", elements=joints),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Start at rest, with positions drawn on the sphere of norm `INITIAL_NORM_M`."""
        direction = torch.randn((len(ids), self.num_bodies), dtype=torch.float64, generator=rng)
        sim.data("qpos")[ids] = INITIAL_NORM_M * direction / direction.norm(dim=1, keepdim=True)

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        return {"policy": {"position": sim.data("qpos"), "velocity": sim.data("qvel")}}

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 less half the squared positions, less the weighted half of the squared forces."""
        return {
            "position": 1 - sim.data("qpos").square().sum(1) / 2,
            "control_cost": action.square().sum(1) * (-self.control_cost_weight / 2),
        }

    def terminated(self, sim: Sim) -> Tensor | None:
        """Everything at rest in its place, to `END_STATE_NORM`."""
        squared_norm = sim.data("qpos").square().sum(1) + sim.data("qvel").square().sum(1)
        return squared_norm < END_STATE_NORM**2
