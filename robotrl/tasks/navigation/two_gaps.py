"""A point passes a wall with two gaps: the smallest task whose demonstrations have two modes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import torch
from torch import Tensor

from robotrl.core.paths import ASSETS
from robotrl.core.types import ObsTerm
from robotrl.sim.sim import Sim
from robotrl.tasks.control_suite.randomizers import uniform
from robotrl.tasks.sparse import SparseTask

GAP_M = 0.5
"""Distance of the middle of either gap from x = 0, m."""
GOAL_LINE_M = 0.6
"""Forward position of the goal line, m."""
START_M = 0.001
"""The point starts at most this far from x = y = 0 along each axis, m: a hundredth of a step."""
EXPERT_GAIN_PER_S = 7.0
EXPERT_LATERAL_M_S, EXPERT_FORWARD_M_S = 1.0, 0.3


@dataclass
class TwoGaps(SparseTask):
    """Drive through either gap of a wall without touching it; the only reward is 1 at the goal line.

    The demonstrator draws a side at the start of each episode, whatever the start. So its first action has
    two modes at every start, and their mean is to go straight on. Between the gaps the wall comes forward
    like the bow of a ship, to just before the start, and the point cannot stop: a side must be chosen with
    the first action, and whoever takes the mean hits the bow, however well it was learned. Both modes lie
    inside the actuators' range, so that no squashed Gaussian has half of its mass on either edge; one whose
    mean leans to a side in training may still take that side always, and draws of a Gaussian as wide as both
    modes hit the bow only where they come near its mean.
    """

    control_dt_s: float = 0.1
    """Time between two actions, s."""
    episode_length_s: float = 6.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "navigation" / "two_gaps.xml"

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Where the point is; its velocity follows the commands within a control step."""
        return {"policy": (ObsTerm("position", 2, "m", elements=("x", "y")),)}

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Start in front of the middle of the wall; draw the demonstrator's side."""
        sim.data("qpos")[ids] = uniform((len(ids), 2), -START_M, START_M, rng)
        side = torch.randint(2, (len(ids),), generator=rng).double()
        sim.data("mocap_pos")[ids, 0, 0] = GAP_M * (2 * side - 1)

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        return {"policy": {"position": sim.data("qpos")}}

    def touches(self, sim: Sim) -> Tensor:
        """(N,) bool, whether the point touches the wall, the only thing that it collides with."""
        return sim.data("ncon") > 0

    def success(self, sim: Sim) -> Tensor:
        """(N,) bool, whether the point is past the goal line, where no way leads but through a gap."""
        return sim.data("qpos")[:, 1] >= GOAL_LINE_M

    def terminated(self, sim: Sim) -> Tensor:
        """The wall was touched or the goal line passed."""
        return self.touches(sim) | self.success(sim)

    def expert(self, sim: Sim) -> Tensor:
        """Go forward at a constant speed, and sideways in proportion to the way to the chosen gap."""
        to_gap = sim.data("mocap_pos")[:, 0, 0] - sim.data("qpos")[:, 0]
        lateral = (EXPERT_GAIN_PER_S * to_gap).clamp(-EXPERT_LATERAL_M_S, EXPERT_LATERAL_M_S)
        return torch.stack((lateral, torch.full_like(lateral, EXPERT_FORWARD_M_S)), dim=1)
