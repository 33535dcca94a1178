"""A point finds its way through a maze; the only reward is at the goal."""

from __future__ import annotations

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
from robotrl.tasks.navigation.grid import Grid
from robotrl.tasks.sparse import SparseTask

MAZE = Grid(
    (
        "########",
        "#..#...#",
        "#.##.#.#",
        "#....#.#",
        "##.###.#",
        "#..#...#",
        "#.##.#.#",
        "#....#.#",
        "########",
    ),
    cell_m=0.5,
)
WALL_HEIGHT_M = 0.2
START_M = 0.1
"""Start and goal lie at most this far from the centres of their cells along each axis, m."""
EXPERT_SPEED_M_S = 0.3
EXPERT_GAIN_PER_S = 4.0
"""Of velocity errors to acceleration, and of ways to the next waypoint to velocity."""
ALIGNED_M = 0.05
"""So near to the line between two cells' centres the demonstrator heads for the next cell, m."""


@dataclass
class MazeReach(SparseTask):
    """Reach a goal in another part of the maze; the only reward is 1 there.

    The demonstrator follows a shortest way over the centres of the cells, at little more than half of the
    greatest speed along an axis: cutting corners and speed are left to be learned.
    """

    goal_radius_m: float = 0.15
    """The goal is reached within this distance, m."""
    min_cells: int = 5
    """Start and goal are at least this many cells apart on the way."""
    control_dt_s: float = 0.1
    """Time between two actions, s."""
    episode_length_s: float = 30.0
    """Time limit, s."""
    mjcf: Path = ASSETS / "navigation" / "maze.xml"

    def __post_init__(self) -> None:
        if not self.goal_radius_m > 0:
            raise UsageError(f"goal_radius_m must be above 0 m, got {self.goal_radius_m}")
        longest = int(MAZE.steps.max())
        if not 1 <= self.min_cells <= longest:
            raise UsageError(f"min_cells must be in 1 to {longest}, got {self.min_cells}")

    def edit_spec(self, spec: mujoco.MjSpec) -> None:
        """Build the walls and give the goal its size."""
        for center, half in MAZE.walls_m():
            spec.worldbody.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX,
                pos=[*center.tolist(), WALL_HEIGHT_M / 2],
                size=[*half.tolist(), WALL_HEIGHT_M / 2],
                rgba=[0.35, 0.4, 0.5, 1.0],
            )
        spec.site("goal").size[0] = self.goal_radius_m

    def observation_terms(self, model: mujoco.MjModel) -> dict[str, tuple[ObsTerm, ...]]:
        """Position and velocity of the point, and where the goal is; the walls are not observed."""
        axes = ("x", "y")
        return {
            "policy": (
                ObsTerm("position", 2, "m", elements=axes),
                ObsTerm("velocity", 2, "m/s", elements=axes),
                ObsTerm("goal_position", 2, "m", elements=axes),
            )
        }

    def reset(self, sim: Sim, ids: Tensor, rng: torch.Generator) -> None:
        """Draw start and goal among the pairs of cells that are far enough apart; start at rest."""
        start, goal = (MAZE.steps >= self.min_cells).nonzero(as_tuple=True)
        pair = torch.randint(len(start), (len(ids),), generator=rng)
        offsets = uniform((2, len(ids), 2), -START_M, START_M, rng)
        sim.data("qpos")[ids] = MAZE.centers_m[start[pair]] + offsets[0]
        sim.data("mocap_pos")[ids, 0, :2] = MAZE.centers_m[goal[pair]] + offsets[1]

    def observe(self, sim: Sim) -> dict[str, dict[str, Tensor]]:
        """See `observation_terms`."""
        return {
            "policy": {
                "position": sim.data("qpos"),
                "velocity": sim.data("qvel"),
                "goal_position": sim.data("mocap_pos")[:, 0, :2],
            }
        }

    def success(self, sim: Sim) -> Tensor:
        """(N,) bool, whether the middle of the point is within `goal_radius_m` of the goal."""
        to_goal = sim.data("mocap_pos")[:, 0, :2] - sim.data("qpos")
        return to_goal.norm(dim=1) <= self.goal_radius_m

    def expert(self, sim: Sim) -> Tensor:
        """Head for the next cell once on the line to it, for the middle of this cell before."""
        position, velocity = sim.data("qpos"), sim.data("qvel")
        to_waypoint = self.waypoint(position, sim.data("mocap_pos")[:, 0, :2]) - position
        distance = to_waypoint.norm(dim=1, keepdim=True).clamp(min=1e-6)
        speed = (EXPERT_GAIN_PER_S * distance).clamp(max=EXPERT_SPEED_M_S)
        wanted = to_waypoint / distance * speed
        mass_kg = float(sim.model.body("point").mass[0])
        damping_n_s_m = float(sim.model.joint("x").damping[0])
        return damping_n_s_m * wanted + EXPERT_GAIN_PER_S * mass_kg * (wanted - velocity)

    def waypoint(self, position: Tensor, goal: Tensor) -> Tensor:
        """(N, 2) where the demonstrator heads from (N, 2) positions to (N, 2) goals, m."""
        cell, goal_cell = MAZE.cell_of(position), MAZE.cell_of(goal)
        centers, towards = MAZE.centers_m.to(position), MAZE.towards.to(position.device)
        here, there = centers[cell], centers[towards[cell, goal_cell]]
        across = ((position - here) * (here == there)).abs().amax(1)
        waypoint = torch.where((across <= ALIGNED_M).unsqueeze(1), there, here)
        return torch.where((cell == goal_cell).unsqueeze(1), goal, waypoint)
