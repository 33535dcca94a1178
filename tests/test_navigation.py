"""Two gaps and the maze: hand-made states, ways computed by hand, and what the mean of two ways leads to."""

from __future__ import annotations

import pytest
import torch
from demonstrations import commanded, demonstrator, env_at, first_episodes
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.navigation.grid import Grid
from robotrl.tasks.navigation.maze_reach import MAZE, MazeReach
from robotrl.tasks.navigation.two_gaps import START_M, TwoGaps

# ends of the wall's parts, m
WALL = [
    ((-2.6, 0.5), (-0.65, 0.5)),
    ((-0.35, 0.5), (0, 0.05)),
    ((0, 0.05), (0.35, 0.5)),
    ((0.65, 0.5), (2.6, 0.5)),
]
CONTACT_M = 0.03  # radii of point and wall


def distance_to_wall(places: Tensor) -> Tensor:
    distances = []
    for start, end in torch.tensor(WALL, dtype=torch.float64):
        along = end - start
        share = ((places - start) @ along / (along @ along)).clamp(0, 1).unsqueeze(1)
        distances.append((places - start - share * along).norm(dim=1))
    return torch.stack(distances).amin(0)


def test_two_gaps_pays_past_the_goal_line_and_ends_there_or_at_the_wall() -> None:
    #         start, on the bow, in a gap, beside it, short of the line, on it
    places = [[0, 0], [0, 0.04], [0.5, 0.5], [-0.64, 0.5], [0.5, 0.599], [-0.5, 0.6]]
    env = env_at(TwoGaps(), places)
    task, sim = env.task, env.sim
    assert task.terminated(sim).tolist() == [False, True, False, True, False, True]
    assert task.success(sim).tolist() == [False] * 5 + [True]
    assert task.reward_terms(sim, sim.data("ctrl"))["success"].tolist() == [0, 0, 0, 0, 0, 1]


def test_the_point_touches_the_wall_just_where_it_is() -> None:
    places = torch.rand(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    places = places * torch.tensor([6.0, 0.69]) - torch.tensor([3.0, 0.1])
    env = env_at(TwoGaps(), places.tolist())
    expected = distance_to_wall(places) < CONTACT_M
    assert 100 < expected.sum() < 3000
    assert torch.equal(env.task.terminated(env.sim), expected)


@pytest.mark.parametrize("lateral", [-1.0, 1.0])
def test_no_way_leads_around_the_wall(lateral: float) -> None:
    slowest = torch.tensor([lateral, -1.0])
    episodes = first_episodes(TwoGaps(), lambda env, obs: slowest.expand(env.num_envs, 2), 8)
    assert episodes.rate == 0 and (episodes.length < 20).all()


def test_two_gaps_commands_are_metres_per_second() -> None:
    env = VecEnv(TwoGaps(), 1)
    lateral, forward = env.specs.action
    assert (lateral.unit, lateral.low, lateral.high) == ("m/s", -1.2, 1.2)
    assert (forward.unit, forward.low, forward.high) == ("m/s", 0.25, pytest.approx(0.35))
    start = env.reset()["policy"]
    moved = env.step(torch.tensor([[0.5, 0.0]])).final_obs["policy"] - start
    torch.testing.assert_close(moved, torch.tensor([[0.06, 0.03]]), rtol=0.05, atol=0)


def test_the_side_of_a_demonstration_is_a_fair_coin_that_the_start_does_not_tell() -> None:
    env = VecEnv(TwoGaps(), 4096, num_threads=1)
    start = env.reset()["policy"]
    side = env.sim.data("mocap_pos")[:, 0, 0].float()
    assert start.abs().max() <= START_M and set(side.tolist()) == {-0.5, 0.5}
    # means of 4096 draws: within 4 standard deviations
    assert abs(side.mean()) < 4 * 0.5 / 64
    assert abs((side * start[:, 0]).mean()) < 4 * 0.5 * START_M / 64


def test_the_mean_of_the_demonstrators_two_ways_hits_the_bow() -> None:
    def mean_of_both(env: VecEnv, obs: Tensor) -> Tensor:
        target = env.sim.data("mocap_pos")[:, 0, 0]
        here = commanded(env)
        target.neg_()
        other = commanded(env)
        target.neg_()
        return (here + other) / 2

    episodes = first_episodes(TwoGaps(), mean_of_both, 256)
    assert episodes.rate == 0 and (episodes.length <= 2).all()


def test_drawing_among_the_actions_of_near_demonstrations_passes() -> None:
    """An ideal generative policy: one of the actions that were done here."""
    demos = first_episodes(TwoGaps(), demonstrator(0.3, seed=1), 96, seed=1)
    scale = demos.obs.std(0)
    rng = torch.Generator().manual_seed(2)

    def act(env: VecEnv, obs: Tensor) -> Tensor:
        nearest = torch.cdist(obs / scale, demos.obs / scale).topk(10, largest=False).indices
        chosen = torch.randint(10, (len(obs), 1), generator=rng)
        return demos.actions[nearest.gather(1, chosen).squeeze(1)]

    episodes = first_episodes(TwoGaps(), act, 256, seed=3)
    assert episodes.rate >= 0.97


def test_ways_through_a_small_maze() -> None:
    grid = Grid(("...", ".#.", "..#"), cell_m=2.0)
    # cells in reading order: 0 1 2 / 3 4 / 5 6
    assert grid.centers_m.tolist() == [[-2, 2], [0, 2], [2, 2], [-2, 0], [2, 0], [-2, -2], [0, -2]]
    assert grid.steps[4].tolist() == [3, 2, 1, 4, 0, 5, 6]
    assert grid.towards[:, 4].tolist() == [1, 2, 4, 0, 4, 3, 5]
    assert grid.cell_of(torch.tensor([[0.9, 1.1], [1.2, -0.1]])).tolist() == [1, 4]
    boxes = [(center.tolist(), half.tolist()) for center, half in grid.walls_m()]
    assert boxes == [([0, 0], [1, 1]), ([2, -2], [1, 1])]
    assert [half.tolist() for _, half in Grid(("##.##",), 1.0).walls_m()] == [[1, 0.5], [1, 0.5]]
    assert Grid((".#.",), 1.0).steps.tolist() == [[0, -1], [-1, 0]]


def test_every_step_towards_a_cell_of_the_maze_is_one_to_a_neighbour_and_one_less() -> None:
    assert (MAZE.steps >= 0).all() and torch.equal(MAZE.steps, MAZE.steps.T)
    cell, goal = (MAZE.steps > 0).nonzero(as_tuple=True)
    following = MAZE.towards[cell, goal]
    assert torch.equal(MAZE.steps[following, goal], MAZE.steps[cell, goal] - 1)
    away = (MAZE.centers_m[following] - MAZE.centers_m[cell]).norm(dim=1)
    torch.testing.assert_close(away, torch.full_like(away, MAZE.cell_m))


def test_the_maze_pays_within_the_goals_radius() -> None:
    goals = [[0.25, 0.5]] * 3
    env = env_at(MazeReach(), [[0.1, 0.5], [0.099, 0.5], [0.25, 0.651]], goals)
    assert env.task.success(env.sim).tolist() == [True, False, False]
    assert env.task.terminated(env.sim).tolist() == [True, False, False]
    assert env.task.reward_terms(env.sim, env.sim.data("ctrl"))["success"].tolist() == [1, 0, 0]
    observed = env.task.observe(env.sim)["policy"]
    assert observed["goal_position"].tolist() == goals


def test_the_maze_starts_in_free_cells_far_from_the_goal() -> None:
    env = VecEnv(MazeReach(), 2048, num_threads=1)
    obs = env.reset()["policy"].double()
    assert (env.sim.data("ncon") == 0).all() and (obs[:, 2:4] == 0).all()
    start, goal = MAZE.cell_of(obs[:, :2]), MAZE.cell_of(obs[:, 4:])
    for cell, place in ((start, obs[:, :2]), (goal, obs[:, 4:])):
        assert (place - MAZE.centers_m[cell]).abs().max() <= 0.1 + 1e-6
        assert len(cell.unique()) == len(MAZE.centers_m)
    assert int(MAZE.steps[start, goal].min()) == 5


def test_walls_stop_the_point_and_end_nothing() -> None:
    env = VecEnv(MazeReach(), 64, num_threads=1)
    env.reset()
    walls = torch.stack([torch.cat(box) for box in MAZE.walls_m()])
    rng = torch.Generator().manual_seed(0)
    pushes = torch.rand(64, 2, generator=rng).round() * 2 - 1
    touched = torch.zeros(64, dtype=torch.bool)
    for _ in range(60):
        step = env.step(pushes)
        touched |= env.sim.data("ncon") > 0
        places = env.sim.data("qpos")[~step.done].unsqueeze(1)
        outside = ((places - walls[:, :2]).abs() - walls[:, 2:]).clamp(min=0).norm(dim=2)
        assert outside.min() > 0.09  # of a radius of 0.1
        assert not (step.terminated & (step.reward == 0)).any() and not step.truncated.any()
    assert touched.all()


def test_the_maze_is_driven_by_newtons_up_to_half_a_metre_per_second() -> None:
    env = env_at(MazeReach(), [[-1.25, 0.5]], [[1.25, 1.25]])
    assert [(term.unit, term.low, term.high) for term in env.specs.action] == [("N", -2.0, 2.0)] * 2
    speeds = [env.step(torch.tensor([[1.0, 0.0]])).obs["policy"][0, 2].item() for _ in range(12)]
    # 1 kg against 4 N s/m
    assert speeds[0] == pytest.approx(0.5 * (1 - 2.718281828**-0.4), rel=0.05)
    assert speeds[-1] == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"goal_radius_m": 0.0}, "goal_radius_m must be above 0 m, got 0.0"),
        ({"min_cells": 0}, r"min_cells must be in 1 to \d+, got 0"),
        ({"min_cells": 99}, r"min_cells must be in 1 to \d+, got 99"),
    ],
)
def test_impossible_mazes_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        MazeReach(**options)
