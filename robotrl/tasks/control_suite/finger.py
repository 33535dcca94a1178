"""Planar finger of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690): spin or turn a body."""

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
from robotrl.tasks.control_suite.randomizers import randomize_joints, redraw_until_free, uniform
from robotrl.tasks.task import Task

SPIN_VELOCITY_RAD_S = 15.0
SPIN_DAMPING_N_M_S = 0.03


@dataclass
class Finger(Task):
    """What both tasks share: a finger of two links in reach of a body on an unactuated hinge."""

    control_dt_s: float = 0.02
    """Time between two actions, s."""
    episode_length_s: float = 20.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "finger.xml"

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Joint state, the hinge's angle as place of the spinner's tip, contact forces as log(1 + N)."""
        joints = ("proximal", "distal")
        return {
            "policy": (
                ObsTerm("joint_position", 2, "rad", elements=joints),
                ObsTerm("tip_position", 2, "m", Source.ESTIMATOR, elements=("x", "z")),
                ObsTerm("joint_velocity", 2, "rad/s", elements=joints),
                ObsTerm("hinge_velocity", 1, "rad/s", Source.ESTIMATOR),
                ObsTerm("touch", 2, "log1p(N)", low=0.0, elements=("top", "bottom")),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw all joint angles until nothing touches."""
        redraw_until_free(sim, ids, lambda left: randomize_joints(sim, left, rng))

    def hinge_velocity(self, sim: Sim) -> Tensor:
        """(N,) rad/s."""
        return sim.data("qvel")[:, 2]

    def tip_position(self, sim: Sim) -> Tensor:
        """(N, 2) place of the spinner's tip relative to the hinge in the plane, m."""
        return (sim.named("site", "tip").xpos - sim.named("body", "spinner").xpos)[:, ::2]

    def touch(self, sim: Sim) -> Tensor:
        """(N, 2) log(1 + contact force in N) of both sides of the fingertip."""
        forces = [sim.named("sensor", name).data for name in ("touchtop", "touchbottom")]
        return torch.log1p(torch.cat(forces, dim=1))

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        return {
            "policy": {
                "joint_position": sim.data("qpos")[:, :2],
                "tip_position": self.tip_position(sim),
                "joint_velocity": sim.data("qvel")[:, :2],
                "hinge_velocity": self.hinge_velocity(sim),
                "touch": self.touch(sim),
            }
        }


@dataclass
class FingerSpin(Finger):
    """Keep the body spinning by flicking it."""

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Let the body spin more freely, and hide the marks of the turn tasks."""
        spec.joint("hinge").damping[0] = SPIN_DAMPING_N_M_S
        for name in ("target", "tip"):
            spec.site(name).rgba[3] = 0.0

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 while the body spins fast enough, in the one direction that counts."""
        return {"spin": (self.hinge_velocity(sim) <= -SPIN_VELOCITY_RAD_S).double()}


@dataclass
class FingerTurn(Finger):
    """Turn the body until its tip is inside a target that lies at a random angle in each episode."""

    target_radius_m: float = 0.07
    """Radius of the target, m."""

    def __post_init__(self) -> None:
        if not self.target_radius_m > 0:
            raise UsageError(f"target_radius_m must be above 0 m, got {self.target_radius_m}")

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Give the target its size."""
        spec.site("target").size[0] = self.target_radius_m

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Those of `Finger`, and where the target is."""
        target = (
            ObsTerm("target_position", 2, "m", Source.ESTIMATOR, elements=("x", "z")),
            ObsTerm("distance_to_target", 1, "m", Source.ESTIMATOR, low=-self.target_radius_m),
        )
        return {"policy": (*super().observation_terms(model)["policy"], *target)}

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw the target's angle on the circle that the end of the body describes, then the joints."""
        hinge, end = sim.model.body("spinner").pos, sim.model.geom("cap1").size
        angle = uniform((len(ids),), -math.pi, math.pi, rng)
        # radius and half length of a capsule
        direction = float(end[0] + end[1]) * torch.stack((angle.sin(), angle.cos()), dim=1)
        position = torch.as_tensor(hinge[::2]) + direction
        # a mark for the eye: no model constant depends on its place
        sim.param("site_pos")[ids, sim.named("site", "target").id, ::2] = position
        super().reset(sim, ids, rng)

    def target_position(self, sim: Sim) -> Tensor:
        """(N, 2) place of the target relative to the hinge in the plane, m."""
        return (sim.named("site", "target").xpos - sim.named("body", "spinner").xpos)[:, ::2]

    def distance_to_target(self, sim: Sim) -> Tensor:
        """(N,) distance of the tip to the target's surface, negative inside, m."""
        way = (sim.named("site", "target").xpos - sim.named("site", "tip").xpos)[:, ::2]
        return way.norm(dim=1) - self.target_radius_m

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        observed = super().observe(sim)
        observed["policy"]["target_position"] = self.target_position(sim)
        observed["policy"]["distance_to_target"] = self.distance_to_target(sim)
        return observed

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 while the tip is inside the target."""
        return {"turned": (self.distance_to_target(sim) <= 0).double()}
