"""Planar walker of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690): stand, walk, run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim
from robotrl.tasks.control_suite.randomizers import randomize_joints
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task

STAND_HEIGHT_M = 1.2


@dataclass
class Walker(Task):
    """Keep the torso high and upright and, with a speed to reach, move forward at it."""

    move_speed_m_s: float = 1.0
    """Horizontal speed from which the move reward is 1, m/s; 0 asks for standing only."""
    control_dt_s: float = 0.025
    """Time between two actions, s."""
    episode_length_s: float = 25.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "walker.xml"

    def __post_init__(self) -> None:
        if not self.move_speed_m_s >= 0:
            raise UsageError(f"move_speed_m_s must be 0 or above, got {self.move_speed_m_s}")

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Body orientations, torso height, velocities: all of the state but the x position."""
        bodies = [model.body(i).name for i in range(1, model.nbody)]
        joints = tuple(model.joint(i).name for i in range(3, model.njnt))
        return {
            "policy": (
                ObsTerm(
                    "orientations",
                    2 * len(bodies),
                    "1",
                    low=-1.0,
                    high=1.0,
                    elements=tuple(f"{body}.{entry}" for body in bodies for entry in ("xx", "xz")),
                ),
                ObsTerm("height", 1, "m", Source.ESTIMATOR),
                ObsTerm("root_velocity", 2, "m/s", Source.ESTIMATOR, elements=("z", "x")),
                ObsTerm("pitch_velocity", 1, "rad/s"),
                ObsTerm("joint_velocity", len(joints), "rad/s", elements=joints),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw every joint angle uniformly and let the walker fall to the floor."""
        randomize_joints(sim, ids, rng)

    def torso_height(self, sim: Sim) -> Tensor:
        """(N,) m."""
        return sim.named("body", "torso").xpos[:, 2]

    def torso_upright(self, sim: Sim) -> Tensor:
        """(N,) projection of the torso's z axis on the world's."""
        return sim.named("body", "torso").xmat[:, 8]

    def horizontal_velocity(self, sim: Sim) -> Tensor:
        """(N,) m/s, of the centre of mass."""
        return sim.named("sensor", "torso_subtreelinvel").data[:, 0]

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        qvel = sim.data("qvel")
        return {
            "policy": {
                "orientations": sim.data("xmat")[:, 1:, 0:3:2].flatten(1),
                "height": self.torso_height(sim),
                "root_velocity": qvel[:, :2],
                "pitch_velocity": qvel[:, 2],
                "joint_velocity": qvel[:, 3:],
            }
        }

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Stand (1 + 5 move) / 6, as the sum of its standing and moving parts."""
        standing = tolerance(self.torso_height(sim), (STAND_HEIGHT_M, math.inf), margin=STAND_HEIGHT_M / 2)
        stand = (3 * standing + (1 + self.torso_upright(sim)) / 2) / 4
        if self.move_speed_m_s == 0:
            return {"stand": stand}
        move = tolerance(
            self.horizontal_velocity(sim),
            (self.move_speed_m_s, math.inf),
            margin=self.move_speed_m_s / 2,
            value_at_margin=0.5,
            sigmoid="linear",
        )
        return {"stand": stand / 6, "move": stand * move * (5 / 6)}
