"""Pushing a puck: hand-made states, contact along the line of the centres, starts apart from each other."""

from __future__ import annotations

import math

import pytest
import torch
from demonstrations import env_at

from robotrl.core.errors import UsageError
from robotrl.envs.vec_env import VecEnv
from robotrl.tasks.manipulation.planar_push import PlanarPush


def test_it_pays_when_the_puck_is_on_the_goal() -> None:
    # puck, pusher
    places = [[0.1, 0.0, 0.3, 0.3], [0.131, 0.0, 0.3, 0.3], [0.3, 0.0, 0.1, 0.0]]
    env = env_at(PlanarPush(), places, [[0.1, 0.03 - 1e-9], [0.1, 0.0], [0.1, 0.0]])
    assert env.task.success(env.sim).tolist() == [True, False, False]
    assert env.task.terminated(env.sim).tolist() == [True, False, False]
    assert env.task.reward_terms(env.sim, env.sim.data("ctrl"))["success"].tolist() == [1, 0, 0]
    observed = env.task.observe(env.sim)["policy"]
    assert observed["puck_position"].tolist() == [place[:2] for place in places]
    assert observed["pusher_position"].tolist() == [place[2:] for place in places]


def test_the_puck_is_pushed_along_the_line_of_the_centres() -> None:
    """Without friction; by a pusher that comes along x and touches at an angle, or not at all."""
    angles = torch.tensor([0.0, 0.3, -0.6], dtype=torch.float64)
    contact = torch.stack((-angles.cos(), angles.sin()), dim=1) * 0.081
    places = torch.cat((torch.zeros(3, 2), contact), dim=1).tolist()
    env = env_at(PlanarPush(), [*places, [0.0, 0.0, -0.1, 0.085]], [[0.4, 0.4]] * 4)
    puck = env.step(torch.tensor([[0.4, 0.0]]).expand(4, 2)).obs["policy"][:, :2]
    assert puck[3].tolist() == [0, 0]
    moved = torch.atan2(puck[:3, 1], puck[:3, 0]).double()
    assert (puck[:3].norm(dim=1) > 0.01).all()
    # the line turns a little while they move
    torch.testing.assert_close(moved, -angles, rtol=0.25, atol=1e-6)


def test_a_pushed_puck_stops_by_itself_and_both_stay_on_the_table() -> None:
    env = env_at(PlanarPush(), [[0.0, 0.0, -0.2, 0.0]], [[0.0, 0.45]])
    for _ in range(20):
        obs = env.step(torch.tensor([[1.0, 0.0]])).obs["policy"][0]
    # the puck's range ends at 0.38 m and the pusher's at 0.5 m, with 0.08 m between the centres
    assert obs[0].item() == pytest.approx(0.38, abs=0.015) and obs[2].item() == pytest.approx(0.30, abs=0.025)
    env = env_at(PlanarPush(), [[0.0, 0.0, 0.3, 0.3]], [[0.0, 0.45]])
    env.sim.data("qvel")[0, 0] = 0.4
    for _ in range(3):
        obs = env.step(torch.zeros(1, 2)).obs["policy"][0]
    # 0.1 kg against 2 N s/m
    assert obs[0].item() == pytest.approx(0.4 * 0.1 / 2, rel=0.05) and abs(obs[4].item()) < 3e-3


def test_puck_goal_and_pusher_start_apart() -> None:
    env = VecEnv(PlanarPush(), 2048, num_threads=1)
    puck, pusher, puck_velocity, pusher_velocity, goal = env.reset()["policy"].split(2, dim=1)
    assert (env.sim.data("ncon") == 0).all()
    assert (puck - goal).norm(dim=1).min() >= 0.15 and (puck - pusher).norm(dim=1).min() >= 0.12
    for place, bound in ((puck, 0.25), (goal, 0.25), (pusher, 0.4)):
        assert bound * 0.98 < place.abs().max() <= bound
    assert not puck_velocity.any() and not pusher_velocity.any()


def test_the_demonstrator_goes_round_and_then_pushes() -> None:
    goal = [[0.3, 0.0]] * 4
    # behind the puck, in front of it, beside it, behind but askew
    places = [[0, 0, -0.1, 0.0], [0, 0, 0.11, 0.01], [0, 0, 0.0, 0.11], [0, 0, -0.1, 0.02]]
    env = env_at(PlanarPush(), places, goal)
    command = env.task.expert(env.sim)
    assert command[0].tolist() == pytest.approx([0.26, 0.0])
    assert command[1, 1] > 0.2 and abs(command[1, 0]) < 0.05  # the shorter way, around the left
    assert command[2, 0] < -0.2 and abs(command[2, 1]) < 0.05
    assert command[3].tolist() == pytest.approx([0.26, -8 * 0.02])
    assert command.norm(dim=1).max() <= math.hypot(0.26, 0.2)


@pytest.mark.parametrize("tolerance", [0.0, 0.15, math.nan])
def test_impossible_tolerances_are_refused(tolerance: float) -> None:
    with pytest.raises(UsageError, match=r"tolerance_m must be in \(0, 0.15\) m"):
        PlanarPush(tolerance_m=tolerance)
