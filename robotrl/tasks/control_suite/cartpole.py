"""Cart-pole of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690): balance and swing-up."""

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
from robotrl.tasks.control_suite.randomizers import uniform
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task

CART_RANGE_M = (-0.25, 0.25)
ANGLE_COSINE_RANGE = (0.995, 1.0)


@dataclass
class Cartpole(Task):
    """Keep the pole upright by pushing the cart, in the middle of the rail."""

    swing_up: bool = False
    """Start with the pole hanging down instead of nearly upright."""
    sparse: bool = False
    """Reward 1 only while the cart is near the middle and the pole within 5.7 degrees of upright."""
    control_dt_s: float = 0.01
    """Time between two actions, s."""
    episode_length_s: float = 10.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "cartpole.xml"

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """The whole state, the angle as cosine and sine."""
        return {
            "policy": (
                ObsTerm("cart_position", 1, "m"),
                ObsTerm("pole_orientation", 2, "1", low=-1.0, high=1.0, elements=("cos", "sin")),
                ObsTerm("cart_velocity", 1, "m/s"),
                ObsTerm("pole_velocity", 1, "rad/s"),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Start near the hanging or the upright rest position, with a small velocity."""
        shape = (len(ids), 2)
        if self.swing_up:
            position = 0.01 * torch.randn(shape, dtype=torch.float64, generator=rng)
            position[:, 1] += math.pi
        else:
            limits = torch.tensor([0.1, 0.034], dtype=torch.float64)
            position = uniform(shape, -limits, limits, rng)
        sim.data("qpos")[ids] = position
        sim.data("qvel")[ids] = 0.01 * torch.randn(shape, dtype=torch.float64, generator=rng)

    def pole_angle_cosine(self, sim: Sim) -> Tensor:
        """(N,) 1 is upright, -1 hangs down."""
        return sim.named("body", "pole_1").xmat[:, 8]

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        qvel = sim.data("qvel")
        return {
            "policy": {
                "cart_position": sim.data("qpos")[:, 0],
                # the entries zz and xz of the rotation matrix
                "pole_orientation": sim.named("body", "pole_1").xmat[:, [8, 2]],
                "cart_velocity": qvel[:, 0],
                "pole_velocity": qvel[:, 1],
            }
        }

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Upright, centred, slow and gentle: a product, each factor but the first at least 0.5."""
        cosine, position = self.pole_angle_cosine(sim), sim.data("qpos")[:, 0]
        if self.sparse:
            return {"upright": tolerance(position, CART_RANGE_M) * tolerance(cosine, ANGLE_COSINE_RANGE)}
        upright = (1 + cosine) / 2
        centred = (1 + tolerance(position, margin=2.0)) / 2
        gentle = (4 + tolerance(action[:, 0], margin=1.0, value_at_margin=0.0, sigmoid="quadratic")) / 5
        slow = (1 + tolerance(sim.data("qvel")[:, 1], margin=5.0)) / 2
        return {"upright": upright * gentle * slow * centred}
