"""Ball on a string of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690): catch it in a cup."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim
from robotrl.tasks.control_suite.randomizers import redraw_until_free, uniform
from robotrl.tasks.task import Task

BALL_X_M, BALL_Z_M = (-0.2, 0.2), (0.2, 0.5)


@dataclass
class BallInCup(Task):
    """Swing a ball that hangs from a cup into that cup, in a plane."""

    control_dt_s: float = 0.02
    """Time between two actions, s."""
    episode_length_s: float = 20.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "ball_in_cup.xml"

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """The whole state, as displacements from the poses of the model file."""
        axes = ("x", "z")
        return {
            "policy": (
                ObsTerm("cup_position", 2, "m", elements=axes),
                ObsTerm("ball_position", 2, "m", Source.ESTIMATOR, elements=axes),
                ObsTerm("cup_velocity", 2, "m/s", elements=axes),
                ObsTerm("ball_velocity", 2, "m/s", Source.ESTIMATOR, elements=axes),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the ball's position until it touches nothing."""
        ball_x, ball_z = sim.named("joint", "ball_x").qpos, sim.named("joint", "ball_z").qpos

        def draw(left: Tensor) -> None:
            ball_x[left, 0] = uniform((len(left),), *BALL_X_M, rng)
            ball_z[left, 0] = uniform((len(left),), *BALL_Z_M, rng)

        redraw_until_free(sim, ids, draw)

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        qpos, qvel = sim.data("qpos"), sim.data("qvel")
        return {
            "policy": {
                "cup_position": qpos[:, :2],
                "ball_position": qpos[:, 2:],
                "cup_velocity": qvel[:, :2],
                "ball_velocity": qvel[:, 2:],
            }
        }

    def ball_to_target(self, sim: Sim) -> Tensor:
        """(N, 2) vector from the ball to the middle of the cup in the plane, m."""
        return (sim.named("site", "target").xpos - sim.named("body", "ball").xpos)[:, ::2]

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 while the whole ball is inside the cup."""
        room = sim.named("site", "target").size[:, ::2] - sim.named("geom", "ball").size[:, :1]
        return {"caught": (self.ball_to_target(sim).abs() < room).all(1).double()}
