"""Acrobot of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690): two links, one motor."""

from __future__ import annotations

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

ARMS = ("upper_arm", "lower_arm")


@dataclass
class Acrobot(Task):
    """Swing a double pendulum up with a motor at its elbow only, and keep its tip at the highest point."""

    sparse: bool = False
    """Reward 1 only while the tip is inside the target, instead of a reward that grows on the way."""
    control_dt_s: float = 0.01
    """Time between two actions, s."""
    episode_length_s: float = 10.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "acrobot.xml"

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """The whole state, the angles as sines and cosines of the arms' tilt from the vertical."""
        angles = tuple(f"{arm}.{entry}" for entry in ("sin", "cos") for arm in ARMS)
        return {
            "policy": (
                ObsTerm("orientations", 4, "1", low=-1.0, high=1.0, elements=angles),
                ObsTerm("velocity", 2, "rad/s", elements=("shoulder", "elbow")),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Start at rest at any angles."""
        randomize_joints(sim, ids, rng)

    def tip_to_target(self, sim: Sim) -> Tensor:
        """(N,) distance, m."""
        return (sim.named("site", "target").xpos - sim.named("site", "tip").xpos).norm(dim=1)

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        return {
            "policy": {
                # the entries xz of both rotation matrices, then the entries zz
                "orientations": sim.data("xmat")[:, 1:, 2::6].mT.flatten(1),
                "velocity": sim.data("qvel"),
            }
        }

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 while the tip is inside the target, falling with the distance to it unless sparse."""
        radius_m = float(sim.model.site("target").size[0])
        margin_m = 0.0 if self.sparse else 1.0
        return {"upright": tolerance(self.tip_to_target(sim), (0.0, radius_m), margin_m)}
