"""Planar arm that stacks boxes, of the DeepMind Control Suite (Tassa et al. 2018, arXiv:1801.00690)."""

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

MAX_BOXES = 4
BOX_RANGES = ((0.1, 0.3), (0.0, 0.7), (0.0, 2 * math.pi))
"""Of x, m, z, m, and angle, rad, at the start."""
TARGET_X_M = (-0.37, 0.37)
HAND_AWAY_M, HAND_AWAY_MARGIN_M = 0.1, 0.01


@dataclass
class Stack(Task):
    """Bring one box to a target and let go; where the target is above the floor, the others carry it."""

    num_boxes: int = 2
    """Number of boxes, 1 to 4; the target is drawn at the height of any of them in a stack."""
    control_dt_s: float = 0.01
    """Time between two actions, s."""
    episode_length_s: float = 10.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "control_suite" / "stacker.xml"

    def __post_init__(self) -> None:
        if not 1 <= self.num_boxes <= MAX_BOXES:
            raise UsageError(f"num_boxes must be 1 to {MAX_BOXES}, got {self.num_boxes}")

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Take out the boxes that are not used."""
        unused = {f"box{box}" for box in range(self.num_boxes, MAX_BOXES)}
        for body in [body for body in spec.bodies if body.name in unused]:
            spec.delete(body)

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """State of arm and boxes, contact forces as log(1 + N), and the target's place."""
        boxes = self._box_names()
        velocities = (
            (
                ObsTerm(f"{box}_x_velocity", 1, "m/s", Source.ESTIMATOR),
                ObsTerm(f"{box}_angular_velocity", 1, "rad/s", Source.ESTIMATOR),
                ObsTerm(f"{box}_z_velocity", 1, "m/s", Source.ESTIMATOR),
            )
            for box in boxes
        )
        return {
            "policy": (
                *arm_terms(model),
                *(term for box in boxes for term in pose_terms(box)),
                *(term for terms in velocities for term in terms),
                ObsTerm("target_position", 2, "m", Source.ESTIMATOR, elements=("x_w", "z_w")),
            )
        }

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        values = arm_values(sim)
        for box in self._box_names():
            values |= planar_pose(sim, box)
        velocities = iter(sim.data("qvel")[:, ARM:].unbind(1))
        # the order of the joints is x, z, angle, that of dm_control's observation x, angle, z
        for box, x, z, angle in zip(self._box_names(), velocities, velocities, velocities, strict=True):
            values |= {f"{box}_x_velocity": x, f"{box}_angular_velocity": angle, f"{box}_z_velocity": z}
        values["target_position"] = sim.named("body", "target").xpos[:, ::2]
        return {"policy": values}

    def _box_names(self) -> list[str]:
        return [f"box{box}" for box in range(self.num_boxes)]

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw arm, target and boxes until nothing touches."""
        redraw_until_free(sim, ids, lambda ids: self._draw(sim, ids, rng))

    def _draw(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        randomize_arm(sim, ids, rng)
        boxes = draw_poses((len(ids), self.num_boxes), *BOX_RANGES, rng)
        sim.data("qpos")[ids, ARM:] = boxes.flatten(1)
        # the target is fixed to the world: no constant of the dynamics depends on its place
        target, half_size = sim.named("body", "target").id, sim.named("geom", "target").size[ids, 0].cpu()
        level = torch.randint(self.num_boxes, (len(ids),), generator=rng)
        sim.param("body_pos")[ids, target, 0] = uniform((len(ids),), *TARGET_X_M, rng)
        sim.param("body_pos")[ids, target, 2] = half_size * (2 * level + 1)

    def box_to_target_distance(self, sim: Sim) -> Tensor:
        """(N,) distance between the target and the box that is nearest to it, m."""
        first = sim.named("body", "box0").id
        boxes = sim.data("xpos")[:, first : first + self.num_boxes]
        target = sim.named("body", "target").xpos.unsqueeze(1)
        return (boxes - target).norm(dim=2).amin(1)

    def hand_to_target_distance(self, sim: Sim) -> Tensor:
        """(N,) distance between the middle of the hand and the target, m."""
        return (sim.named("site", "grasp").xpos - sim.named("body", "target").xpos).norm(dim=1)

    def reward_terms(self, sim: Sim, action: Tensor) -> dict[str, Tensor]:
        """1 where a box is at the target and the hand is 10 cm away from it."""
        box_size = 2 * sim.named("geom", "target").size[:, 0]
        box_is_close = tolerance(self.box_to_target_distance(sim), margin=box_size)
        hand_is_far = tolerance(
            self.hand_to_target_distance(sim), (HAND_AWAY_M, math.inf), margin=HAND_AWAY_MARGIN_M
        )
        return {"stack": box_is_close * hand_is_far}
