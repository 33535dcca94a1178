"""Planar one-legged hopper of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm
from robotrl.sim.sim import Sim
from robotrl.tasks.control_suite.planar import planar_terms, planar_values
from robotrl.tasks.control_suite.randomizers import randomize_joints
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task

STAND_HEIGHT_M = (0.6, 2.0)


@dataclass
class Hopper(Task):
    """Keep the torso above the foot and, with a speed to reach, hop forward at it."""

    hop_speed_m_s: float = 0.0
    """Horizontal speed from which the hop reward is 1, m/s; 0 asks for standing only."""
    control_dt_s: float = 0.02
    """Time between two actions, s."""
    episode_length_s: float = 20.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "hopper.xml"

    def __post_init__(self) -> None:
        if not self.hop_speed_m_s >= 0:
            raise UsageError(f"hop_speed_m_s must be 0 or above, got {self.hop_speed_m_s}")

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """All of the state but the x position, and the foot's contact forces as log(1 + N)."""
        touch = ObsTerm("touch", 2, "log1p(N)", low=0.0, elements=("toe", "heel"))
        return {"policy": (*planar_terms(model), touch)}

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw every joint angle uniformly and let the hopper fall to the floor."""
        randomize_joints(sim, ids, rng)

    def height(self, sim: Sim) -> Tensor:
        """(N,) height of the torso above the foot, m."""
        return sim.named("body", "torso").xipos[:, 2] - sim.named("body", "foot").xipos[:, 2]

    def speed(self, sim: Sim) -> Tensor:
        """(N,) horizontal velocity of the centre of mass, m/s."""
        return sim.named("sensor", "torso_subtreelinvel").data[:, 0]

    def touch(self, sim: Sim) -> Tensor:
        """(N, 2) log(1 + contact force in N) of toe and heel."""
        forces = [sim.named("sensor", name).data for name in ("touch_toe", "touch_heel")]
        return torch.log1p(torch.cat(forces, dim=1))

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        return {"policy": {**planar_values(sim), "touch": self.touch(sim)}}

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Standing times speed, or standing times gentle control."""
        standing = tolerance(self.height(sim), STAND_HEIGHT_M)
        if self.hop_speed_m_s == 0:
            gentle = tolerance(action, margin=1.0, value_at_margin=0.0, sigmoid="quadratic").mean(1)
            return {"stand": standing * (gentle + 4) / 5}
        hopping = tolerance(
            self.speed(sim),
            (self.hop_speed_m_s, math.inf),
            margin=self.hop_speed_m_s / 2,
            value_at_margin=0.5,
            sigmoid="linear",
        )
        return {"hop": standing * hopping}
