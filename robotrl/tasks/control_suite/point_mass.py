"""Planar point mass of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690)."""

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
from robotrl.tasks.control_suite.randomizers import randomize_joints, uniform
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task

# the directions of the two actuators are never more parallel than this
MAX_DIRECTION_COSINE = 0.9


@dataclass
class PointMass(Task):
    """Bring a mass to the middle of the plane with two forces."""

    random_directions: bool = False
    """Let the two forces act along directions that are drawn in each episode and not observed."""
    control_dt_s: float = 0.02
    """Time between two actions, s."""
    episode_length_s: float = 20.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "point_mass.xml"

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Position and velocity in the plane."""
        axes = ("x", "y")
        return {
            "policy": (
                ObsTerm("position", 2, "m", elements=axes),
                ObsTerm("velocity", 2, "m/s", elements=axes),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Start at rest anywhere in the plane."""
        randomize_joints(sim, ids, rng)
        if self.random_directions:
            # the coefficients of both tendons over x and y; the model constants that they feed serve tendons
            # with limits or springs and muscles only, and the model has none
            sim.param("wrap_prm")[ids] = random_directions(len(ids), rng).flatten(1)

    def distance_to_target(self, sim: Sim) -> Tensor:
        """(N,) m."""
        target, mass = sim.named("geom", "target"), sim.named("geom", "pointmass")
        return torch.linalg.vector_norm(target.xpos - mass.xpos, dim=1)

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        return {"policy": {"position": sim.data("qpos"), "velocity": sim.data("qvel")}}

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """Near the target, times gentle control."""
        radius_m = float(sim.model.geom("target").size[0])
        near = tolerance(self.distance_to_target(sim), (0.0, radius_m), margin=radius_m)
        gentle = tolerance(action, margin=1.0, value_at_margin=0.0, sigmoid="quadratic").mean(1)
        return {"near_target": near * (gentle + 4) / 5}

    def expert(self, sim: Sim) -> Tensor:
        """Pull towards the middle like a spring, whatever the directions of the forces."""
        # with the joints' own damping, 1 N s/m, critically damped for the mass of 0.3 kg
        pull = -8.0 * sim.data("qpos")
        if not self.random_directions:
            return pull
        directions = sim.param("wrap_prm").view(-1, 2, 2)  # (N, force, axis)
        return torch.linalg.solve(directions.mT, pull)


def random_directions(number: int, rng: torch.Generator) -> Tensor:
    """(number, 2, 2) pairs of unit vectors in the plane, uniform among those not too parallel.

    The second makes an angle with the first whose cosine is at most `MAX_DIRECTION_COSINE` in size.
    """
    smallest = math.acos(MAX_DIRECTION_COSINE)
    first = uniform((number,), 0.0, 2 * math.pi, rng)
    between = uniform((number,), smallest, math.pi - smallest, rng)
    side = math.pi * torch.randint(2, (number,), generator=rng)
    angles = torch.stack((first, first + between + side), dim=1)
    return torch.stack((angles.cos(), angles.sin()), dim=2)
