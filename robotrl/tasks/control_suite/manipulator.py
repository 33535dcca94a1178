"""Planar manipulator of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690): bring, insert."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim
from robotrl.tasks.control_suite.planar_arm import (
    ARM,
    arm_terms,
    arm_values,
    draw_poses,
    planar_pose,
    pose_terms,
    randomize_arm,
)
from robotrl.tasks.control_suite.randomizers import redraw_until_free, uniform
from robotrl.tasks.rewards import tolerance
from robotrl.tasks.task import Task

CLOSE_M = 0.01
IN_HAND_PROBABILITY, IN_TARGET_PROBABILITY = 0.1, 0.1
THROW_SPEED_M_S = 5.0
OBJECT_RANGES = ((-0.5, 0.5), (0.0, 0.7), (0.0, 2 * math.pi))
"""Of x, m, z, m, and angle, rad, where the object starts neither in the hand nor in the target."""
TARGET_X_M, TARGET_Z_M = (-0.4, 0.4), (0.1, 0.4)

_ALL_PROPS = {"ball", "target_ball", "cup", "peg", "target_peg", "slot"}


@dataclass
class Bring(Task):
    """Bring an object to a target pose that is drawn in each episode; subclasses name the object."""

    insert: bool = False
    """Whether the target lies in a receptacle: a cup for the ball, a slot for the peg."""
    control_dt_s: float = 0.01
    """Time between two actions, s."""
    episode_length_s: float = 10.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "manipulator.xml"

    object_name = ""
    target_name = ""
    receptacle_name = ""

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Take out the props of the other tasks."""
        unused = _ALL_PROPS - {self.object_name, *self._placed_bodies()}
        for body in [body for body in spec.bodies if body.name in unused]:
            spec.delete(body)

    def _placed_bodies(self) -> tuple[str, ...]:
        """Name the fixed bodies that stand where the episode's target is."""
        return (self.target_name, self.receptacle_name) if self.insert else (self.target_name,)

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """State of arm and object, contact forces as log(1 + N), and the target's pose."""
        return {
            "policy": (
                *arm_terms(model),
                *pose_terms(self.object_name),
                ObsTerm(f"{self.object_name}_velocity", 2, "m/s", Source.ESTIMATOR, elements=("x", "z")),
                ObsTerm(f"{self.object_name}_angular_velocity", 1, "rad/s", Source.ESTIMATOR),
                *pose_terms(self.target_name),
            )
        }

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        qvel = sim.data("qvel")
        return {
            "policy": {
                **arm_values(sim),
                **planar_pose(sim, self.object_name),
                f"{self.object_name}_velocity": qvel[:, ARM : ARM + 2],
                f"{self.object_name}_angular_velocity": qvel[:, ARM + 2],
                **planar_pose(sim, self.target_name),
            }
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw arm, target and object until nothing touches.

        The object starts in the hand, in the target, or somewhere with a horizontal velocity.
        """
        redraw_until_free(sim, ids, lambda ids: self._draw(sim, ids, rng))

    def _draw(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        randomize_arm(sim, ids, rng)
        target_angle = math.pi / 3 if self.insert else math.pi
        target = draw_poses((len(ids),), TARGET_X_M, TARGET_Z_M, (-target_angle, target_angle), rng)
        self._place_target(sim, ids, target)

        pose = draw_poses((len(ids),), *OBJECT_RANGES, rng)
        kind = torch.rand(len(ids), dtype=torch.float64, generator=rng)
        in_hand = kind < IN_HAND_PROBABILITY
        in_target = ~in_hand & (kind < IN_HAND_PROBABILITY + IN_TARGET_PROBABILITY)
        pose[in_target] = target[in_target]
        if in_hand.any():
            held = ids[in_hand]
            sim.forward(held)
            pose[in_hand] = self.grasp_pose(sim)[held].to(pose)
        sim.data("qpos")[ids, ARM : ARM + 3] = pose
        # as in dm_control, the velocity of an earlier draw stays where a later one gives none
        thrown = ids[~in_hand & ~in_target]
        sim.data("qvel")[thrown, ARM] = uniform((len(thrown),), -THROW_SPEED_M_S, THROW_SPEED_M_S, rng)

    def _place_target(self, sim: Sim, ids: Tensor, pose: Tensor) -> None:
        """Move the target and its receptacle to (n, 3) x, z, angle."""
        # they are fixed to the world: no constant of the dynamics depends on their place
        half_angle = pose[:, 2] / 2
        for name in self._placed_bodies():
            body = sim.named("body", name).id
            sim.param("body_pos")[ids, body, ::2] = pose[:, :2]
            sim.param("body_quat")[ids, body, ::2] = torch.stack((half_angle.cos(), half_angle.sin()), dim=1)

    def grasp_pose(self, sim: Sim) -> Tensor:
        """(N, 3) x, z, m, and angle, rad, of an object in the middle of the hand."""
        grasp = sim.named("site", "grasp")
        angle = math.pi - torch.atan2(grasp.xmat[:, 6], grasp.xmat[:, 0])
        return torch.stack((grasp.xpos[:, 0], grasp.xpos[:, 2], angle), dim=1)

    def closeness(self, sim: Sim, *pairs: tuple[str, str]) -> Tensor:
        """(N, len(pairs)) 1 where the two sites of a pair are at most 1 cm apart, falling to 0.1 at 3 cm."""
        sites = torch.tensor([[sim.named("site", name).id for name in pair] for pair in pairs])
        ends = sim.data("site_xpos")[:, sites]
        distance = (ends[:, :, 0] - ends[:, :, 1]).norm(dim=2)
        return tolerance(distance, (0.0, CLOSE_M), margin=2 * CLOSE_M)


@dataclass
class BringBall(Bring):
    """Bring a ball to a place, with `insert` into a cup."""

    object_name = "ball"
    target_name = "target_ball"
    receptacle_name = "cup"

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 where the ball is at the target."""
        return {"bring": self.closeness(sim, ("ball", "target_ball")).squeeze(1)}


@dataclass
class BringPeg(Bring):
    """Bring a peg to a place and an orientation, with `insert` into a slot."""

    object_name = "peg"
    target_name = "target_peg"
    receptacle_name = "slot"

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 where the peg's middle and tip are at the target's; up to 1/3 for holding the peg."""
        close = self.closeness(
            sim,
            ("peg_grasp", "grasp"),
            ("peg_pinch", "pinch"),
            ("peg", "target_peg"),
            ("peg_tip", "target_peg_tip"),
        )
        grasping, bringing = close[:, :2].mean(1), close[:, 2:].mean(1)
        return {"bring": torch.maximum(bringing, grasping / 3)}
