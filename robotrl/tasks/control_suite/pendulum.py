"""Pendulum of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690): swing up with weak torque."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm
from robotrl.sim.sim import Sim
from robotrl.tasks.control_suite.randomizers import randomize_joints
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task

UPRIGHT_COSINE = (math.cos(math.radians(8)), 1.0)


@dataclass
class Pendulum(Task):
    """Swing the pole up and keep it there; the motor is too weak to lift it in one go."""

    control_dt_s: float = 0.02
    """Time between two actions, s."""
    episode_length_s: float = 20.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "pendulum.xml"

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """The whole state, the angle as cosine and sine."""
        return {
            "policy": (
                ObsTerm("orientation", 2, "1", low=-1.0, high=1.0, elements=("cos", "sin")),
                ObsTerm("velocity", 1, "rad/s"),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Start at rest at any angle."""
        randomize_joints(sim, ids, rng)

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        return {
            "policy": {
                # the entries zz and xz of the rotation matrix
                "orientation": sim.named("body", "pole").xmat[:, [8, 2]],
                "velocity": sim.data("qvel")[:, 0],
            }
        }

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 while the pole is within 8 degrees of upright."""
        return {"upright": tolerance(sim.named("body", "pole").xmat[:, 8], UPRIGHT_COSINE)}
