"""Cart-pole of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690): balance and swing-up."""

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
from robotrl.tasks.control_suite.randomizers import uniform
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task

CART_RANGE_M = (-0.25, 0.25)
ANGLE_COSINE_RANGE = (0.995, 1.0)
# bodies: world, cart, poles
FIRST_POLE = 2


@dataclass
class Cartpole(Task):
    """Keep a chain of poles upright by pushing the cart, in the middle of the rail."""

    num_poles: int = 1
    """Number of poles, each hinged to the end of the one before; 1 or more."""
    swing_up: bool = False
    """Start with the poles hanging down instead of nearly upright."""
    sparse: bool = False
    """Reward 1 only while the cart is near the middle and every pole within 5.7 degrees of upright."""
    control_dt_s: float = 0.01
    """Time between two actions, s."""
    episode_length_s: float = 10.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "cartpole.xml"

    def __post_init__(self) -> None:
        if not self.num_poles >= 1:
            raise UsageError(f"num_poles must be 1 or more, got {self.num_poles}")

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Hang further poles onto the first, and move floor and cameras out of their way."""
        if self.num_poles == 1:
            return
        pole_class = spec.find_default("pole")
        parent = spec.body("pole_1")
        for i in range(2, self.num_poles + 1):
            parent = parent.add_body(name=f"pole_{i}", pos=[0, 0, 1])
            parent.add_joint(pole_class, name=f"hinge_{i}")
            parent.add_geom(pole_class, name=f"pole_{i}")
        spec.geom("floor").pos = [0, 0, 1 - self.num_poles - 0.05]
        spec.camera("fixed").pos = [0, -1 - 2 * self.num_poles, 1]
        spec.camera("lookatcart").pos = [0, -2 * self.num_poles, 2]

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """The whole state; an angle is the cosine and sine of a pole's tilt from the vertical."""
        poles = [f"pole_{i}" for i in range(1, self.num_poles + 1)]
        angles = tuple(f"{pole}.{entry}" for pole in poles for entry in ("cos", "sin"))
        return {
            "policy": (
                ObsTerm("cart_position", 1, "m"),
                ObsTerm("pole_orientation", 2 * len(poles), "1", low=-1.0, high=1.0, elements=angles),
                ObsTerm("cart_velocity", 1, "m/s"),
                ObsTerm("pole_velocity", len(poles), "rad/s", elements=tuple(poles)),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Start near the hanging or the upright rest position, with a small velocity."""
        shape = (len(ids), 1 + self.num_poles)
        if self.swing_up:
            deviation = torch.tensor([0.01, 0.01] + [0.1] * (self.num_poles - 1), dtype=torch.float64)
            position = deviation * torch.randn(shape, dtype=torch.float64, generator=rng)
            position[:, 1] += math.pi
        else:
            limits = torch.tensor([0.1] + [0.034] * self.num_poles, dtype=torch.float64)
            position = uniform(shape, -limits, limits, rng)
        sim.data("qpos")[ids] = position
        sim.data("qvel")[ids] = 0.01 * torch.randn(shape, dtype=torch.float64, generator=rng)

    def pole_angle_cosine(self, sim: Sim) -> Tensor:
        """(N, num_poles) 1 is upright, -1 hangs down."""
        return sim.data("xmat")[:, FIRST_POLE:, 8]

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        qvel, rotation = sim.data("qvel"), sim.data("xmat")[:, FIRST_POLE:]
        return {
            "policy": {
                "cart_position": sim.data("qpos")[:, 0],
                # the entries zz and xz of the rotation matrices
                "pole_orientation": torch.stack((rotation[..., 8], rotation[..., 2]), 2).flatten(1),
                "cart_velocity": qvel[:, 0],
                "pole_velocity": qvel[:, 1:],
            }
        }

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Upright, centred, slow and gentle: a product, each factor but the first at least 0.5."""
        cosine, position = self.pole_angle_cosine(sim), sim.data("qpos")[:, 0]
        if self.sparse:
            upright = tolerance(cosine, ANGLE_COSINE_RANGE).prod(1)
            return {"upright": tolerance(position, CART_RANGE_M) * upright}
        upright = (1 + cosine.mean(1)) / 2
        centred = (1 + tolerance(position, margin=2.0)) / 2
        gentle = (4 + tolerance(action[:, 0], margin=1.0, value_at_margin=0.0, sigmoid="quadratic")) / 5
        slow = (1 + tolerance(sim.data("qvel")[:, 1:], margin=5.0).amin(1)) / 2
        return {"upright": upright * gentle * slow * centred}
