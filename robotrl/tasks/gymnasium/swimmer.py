"""Swimmer-v5 of Gymnasium (Coulom 2002): three links in a row swim through a viscous plane."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
from torch import Tensor

from robotrl.core.paths import ASSETS
from robotrl.core.types import ActionTerm, ObsTerm, Source
from robotrl.sim.sim import Sim
from robotrl.tasks.gymnasium.motors import describe_motors
from robotrl.tasks.gymnasium.planar import ROOT, PlanarRunner


@dataclass
class Swimmer(PlanarRunner):
    """Swim along x as fast as possible; a unit of command is a joint torque of 150 N m.

    Its plane is horizontal: the first three joints are the slides along x and y and the heading.
    """

    ctrl_cost_weight: float = 1e-4
    """Cost per squared unit of actuator command."""
    reset_noise_scale: float = 0.1
    """Half-width of the noise on the initial state, m and rad, m/s and rad/s."""
    exclude_current_positions_from_observation: bool = True
    """Leave the x and y position of the front tip out of the observation."""
    control_dt_s: float = 0.04
    """Time between two actions, s."""
    episode_length_s: float = 40.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "gymnasium" / "swimmer.xml"

    def action_terms(self, model: mujoco.MjModel) -> tuple[ActionTerm, ...]:
        """One motor per joint between two links."""
        return describe_motors(super().action_terms(model), model)

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Positions (without x and y) and velocities of the front link and the joints."""
        joints, axes = tuple(model.joint(i).name for i in range(ROOT, model.njnt)), ("x", "y")
        position = (ObsTerm("root_xy", 2, "m", Source.ESTIMATOR, elements=axes),)
        return {
            "policy": (
                *(() if self.exclude_current_positions_from_observation else position),
                ObsTerm("heading", 1, "rad", Source.ESTIMATOR),
                ObsTerm("joint_position", len(joints), "rad", elements=joints),
                ObsTerm("root_velocity", 2, "m/s", Source.ESTIMATOR, elements=axes),
                ObsTerm("heading_rate", 1, "rad/s"),
                ObsTerm("joint_velocity", len(joints), "rad/s", elements=joints),
            )
        }

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        qpos, qvel = sim.data("qpos"), sim.data("qvel")
        return {
            "policy": {
                "root_xy": qpos[:, :2],
                "heading": qpos[:, 2],
                "joint_position": qpos[:, ROOT:],
                "root_velocity": qvel[:, :2],
                "heading_rate": qvel[:, 2],
                "joint_velocity": qvel[:, ROOT:],
            }
        }
