"""Planar cheetah of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690): run."""

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
from robotrl.tasks.control_suite.randomizers import uniform
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task

SETTLING_STEPS = 200


@dataclass
class Cheetah(Task):
    """Run forward; the reward grows linearly with speed."""

    run_speed_m_s: float = 10.0
    """Horizontal speed from which the reward is 1, m/s."""
    control_dt_s: float = 0.01
    """Time between two actions, s."""
    episode_length_s: float = 10.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "cheetah.xml"

    def __post_init__(self) -> None:
        if not self.run_speed_m_s > 0:
            raise UsageError(f"run_speed_m_s must be above 0 m/s, got {self.run_speed_m_s}")

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """All of the state but the x position."""
        return {"policy": planar_terms(model)}

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the limited joints in their ranges and let the cheetah come to rest on the floor."""
        limited = torch.as_tensor(sim.model.jnt_limited, dtype=torch.bool).nonzero().squeeze(1)
        low, high = torch.as_tensor(sim.model.jnt_range)[limited].T
        sim.data("qpos")[ids.unsqueeze(1), limited] = uniform((len(ids), len(limited)), low, high, rng)
        sim.step(substeps=SETTLING_STEPS, ids=ids)
        sim.data("time")[ids] = 0.0

    def speed(self, sim: Sim) -> Tensor:
        """(N,) horizontal velocity of the centre of mass, m/s."""
        return sim.named("sensor", "torso_subtreelinvel").data[:, 0]

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        return {"policy": planar_values(sim)}

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Speed as a fraction of `run_speed_m_s`, in [0, 1]."""
        run = tolerance(
            self.speed(sim),
            (self.run_speed_m_s, math.inf),
            margin=self.run_speed_m_s,
            value_at_margin=0.0,
            sigmoid="linear",
        )
        return {"run": run}
