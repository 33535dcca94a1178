"""A disc pushes a puck onto a goal; the only reward is there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm, Source
from robotrl.sim.sim import Sim
from robotrl.tasks.gymnasium.options import rejection_sample
from robotrl.tasks.sparse import SparseTask

START_M = 0.25
"""Puck and goal start at most this far from the middle of the table along each axis, m."""
PUSHER_START_M = 0.4
"""The same for the pusher, m."""
PUCK_TO_GOAL_M, PUCK_TO_PUSHER_M = 0.15, 0.12
"""The puck starts further than this from the goal and from the pusher, m."""
EXPERT_SPEED_M_S = 0.26
EXPERT_GAIN_PER_S = 8.0
"""Of the way to where the pusher should be, to its velocity."""
EXPERT_CIRCLE_M = 0.11
"""On this circle around the puck's centre the demonstrator goes round it, m; they touch at 0.08 m."""
ALIGNED_M = 0.025
"""So near to the line through goal and puck, and behind the puck, the demonstrator pushes, m."""


@dataclass
class PlanarPush(SparseTask):
    """Push the puck onto the goal; the only reward is 1 there.

    Puck and pusher slide without friction between them, so the puck gives way to the side under every push
    that does not go through its centre. The demonstrator goes round behind the puck, pushes along the line
    to the goal, and goes back to the circle around the puck when it has slipped off.
    """

    tolerance_m: float = 0.03
    """The puck is on the goal within this distance of the centres, m."""
    control_dt_s: float = 0.1
    """Time between two actions, s."""
    episode_length_s: float = 5.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "manipulation" / "planar_push.xml"

    def __post_init__(self) -> None:
        if not 0 < self.tolerance_m < PUCK_TO_GOAL_M:
            raise UsageError(f"tolerance_m must be in (0, {PUCK_TO_GOAL_M}) m, got {self.tolerance_m}")

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Give the goal its size."""
        spec.site("goal").size[0] = self.tolerance_m

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Where pusher, puck and goal are, and how the first two move."""
        axes = ("x", "y")
        return {
            "policy": (
                ObsTerm("puck_position", 2, "m", Source.ESTIMATOR, elements=axes),
                ObsTerm("pusher_position", 2, "m", elements=axes),
                ObsTerm("puck_velocity", 2, "m/s", Source.ESTIMATOR, elements=axes),
                ObsTerm("pusher_velocity", 2, "m/s", elements=axes),
                ObsTerm("goal_position", 2, "m", elements=axes),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw puck, goal and pusher apart from each other and at rest."""
        high = (START_M,) * 4 + (PUSHER_START_M,) * 2
        places = rejection_sample(len(ids), tuple(-bound for bound in high), high, _apart, rng)
        puck, goal, pusher = places.split(2, dim=1)
        sim.data("qpos")[ids] = torch.cat((puck, pusher), dim=1)
        sim.data("mocap_pos")[ids, 0, :2] = goal

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        qpos, qvel = sim.data("qpos"), sim.data("qvel")
        return {
            "policy": {
                "puck_position": qpos[:, :2],
                "pusher_position": qpos[:, 2:],
                "puck_velocity": qvel[:, :2],
                "pusher_velocity": qvel[:, 2:],
                "goal_position": sim.data("mocap_pos")[:, 0, :2],
            }
        }

    def puck_to_goal(self, sim: Sim) -> Tensor:
        """(N, 2) m."""
        return sim.data("mocap_pos")[:, 0, :2] - sim.data("qpos")[:, :2]

    def success(self, sim: Sim) -> Tensor:
        """(N,) bool, whether the puck is on the goal."""
        return self.puck_to_goal(sim).norm(dim=1) <= self.tolerance_m

    def expert(self, sim: Sim) -> Tensor:
        """Go round behind the puck, then push it along the line to the goal."""
        forward = torch.nn.functional.normalize(self.puck_to_goal(sim))
        left = torch.stack((-forward[:, 1], forward[:, 0]), dim=1)
        offset = sim.data("qpos")[:, 2:] - sim.data("qpos")[:, :2]
        along, across = (offset * forward).sum(1, keepdim=True), (offset * left).sum(1, keepdim=True)
        push = EXPERT_SPEED_M_S * forward - EXPERT_GAIN_PER_S * across * left

        distance = offset.norm(dim=1, keepdim=True).clamp(min=1e-6)
        outward = offset / distance
        # counterclockwise; the angle of the way round is positive where that is the shorter one
        around = torch.stack((-outward[:, 1], outward[:, 0]), dim=1)
        angle = torch.atan2(across, -along)
        turn = EXPERT_GAIN_PER_S * EXPERT_CIRCLE_M * angle * around
        go_round = turn + EXPERT_GAIN_PER_S * (EXPERT_CIRCLE_M - distance) * outward
        speed = go_round.norm(dim=1, keepdim=True).clamp(min=EXPERT_SPEED_M_S)
        aligned = (along < 0) & (across.abs() <= ALIGNED_M)
        return torch.where(aligned, push, go_round * EXPERT_SPEED_M_S / speed)


def _apart(places: Tensor) -> Tensor:
    """(m,) bool, which of (m, 6) places of puck, goal and pusher are far enough apart."""
    puck, goal, pusher = places.split(2, dim=1)
    to_goal, to_pusher = (goal - puck).norm(dim=1), (pusher - puck).norm(dim=1)
    return (to_goal > PUCK_TO_GOAL_M) & (to_pusher > PUCK_TO_PUSHER_M)
