"""The walking robot: standing, servos, what it sees, commands, rewards by hand, end states."""

from __future__ import annotations

import math

import pytest
import torch

from robotrl.compose import compose
from robotrl.core.errors import UsageError
from robotrl.envs.vec_env import VecEnv
from robotrl.export.robot import describe_robot
from robotrl.tasks.locomotion.quadruped_velocity import MEMORY, QuadrupedVelocity

STAND = torch.tensor([0.0, 0.8, -1.6] * 4, dtype=torch.float64)


def standing(num_envs: int = 1, **options: tuple[float, float]) -> VecEnv:
    """Robots in the default pose at rest, with their feet on the ground."""
    env = VecEnv(QuadrupedVelocity(**options), num_envs, num_threads=1)
    env.reset()
    env.sim.data("qpos")[:, 7:] = STAND
    env.sim.forward()
    return env


def command(env: VecEnv, forward: float, left: float, turn: float) -> None:
    MEMORY.of(env.sim, "commands")[:] = torch.tensor([forward, left, turn] * 4, dtype=torch.float64)


def observed(env: VecEnv, group: str = "policy") -> dict[str, torch.Tensor]:
    """Term -> values of the first robot, as the observation shows them."""
    sizes = {term.name: term.size for term in env.specs.observation[group]}
    return dict(zip(sizes, env._observer()[group][0].split(list(sizes.values())), strict=True))


def test_the_default_pose_stands() -> None:
    env = standing(2)
    for _ in range(150):
        step = env.step(torch.zeros(2, 12))
        assert not step.done.any()
    assert env.sim.data("qpos")[:, 2].min() > 0.25 and env.sim.data("qvel").abs().max() < 0.05
    assert (env.task.foot_force(env.sim) > 10).all()
    weight_n = 9.81 * float(env.sim.model.body_mass.sum())
    assert env.task.foot_force(env.sim).sum(1).tolist() == pytest.approx([weight_n] * 2, rel=0.02)


def test_commands_are_joint_positions_for_servos() -> None:
    env = standing()
    low, high = env.specs.action_low.double(), env.specs.action_high.double()
    torch.testing.assert_close(low, STAND - 0.5, rtol=0, atol=1e-6)
    torch.testing.assert_close(high, STAND + 0.5, rtol=0, atol=1e-6)
    names = [term.name for term in env.specs.action]
    assert names[:4] == ["front_left_hip", "front_left_thigh", "front_left_knee", "front_right_hip"]
    wanted = STAND + torch.tensor([0.1, -0.2, 0.5] + [0.0] * 9, dtype=torch.float64)
    env.sim.data("qvel")[0, 6:9] = torch.tensor([0.5, -1.0, 0.0])
    env.sim.data("ctrl")[0] = wanted
    env.sim.forward()
    # 40 N m/rad, 1 N m s/rad, at most 24 N m
    assert env.sim.data("actuator_force")[0, :4].tolist() == pytest.approx([3.5, -7.0, 20.0, 0.0], abs=1e-9)
    env.sim.data("ctrl")[0, 2] += 0.4
    env.sim.forward()
    assert env.sim.data("actuator_force")[0, 2].item() == 24.0


def test_imu_and_encoders_show_the_robot() -> None:
    env = standing()
    half = 0.15  # pitched nose down by 0.3 rad
    env.sim.data("qpos")[0, 3:7] = torch.tensor([math.cos(half), 0.0, math.sin(half), 0.0])
    env.sim.data("qpos")[0, 7:] += torch.arange(12) / 100
    env.sim.data("qvel")[0] = torch.arange(18) / 10
    command(env, 0.4, -0.2, 0.7)
    env.sim.forward()
    seen = observed(env)
    gravity = torch.tensor([math.sin(0.3), 0.0, -math.cos(0.3)])
    torch.testing.assert_close(seen["projected_gravity"], gravity, rtol=0, atol=1e-6)
    torch.testing.assert_close(seen["angular_velocity"], torch.tensor([0.3, 0.4, 0.5]))
    torch.testing.assert_close(
        seen["joint_position"].double(), STAND + torch.arange(12) / 100, rtol=0, atol=1e-6
    )
    torch.testing.assert_close(seen["joint_velocity"], torch.arange(6, 18) / 10)
    assert seen["velocity_command"].tolist() == pytest.approx([0.4, -0.2])
    assert seen["turn_command"].item() == pytest.approx(0.7)
    # (0, 0.1, 0.2) m/s of the world in the axes of the trunk
    expected = [-0.2 * math.sin(0.3), 0.1, 0.2 * math.cos(0.3)]
    assert observed(env, "privileged")["linear_velocity"].tolist() == pytest.approx(expected, abs=1e-6)
    action = torch.linspace(-1, 1, 12).unsqueeze(0)
    env.step(action)
    torch.testing.assert_close(
        observed(env)["last_action"].double(), STAND + 0.5 * action[0].double(), rtol=0, atol=1e-6
    )


def test_commands_change_every_five_seconds_and_begin_again() -> None:
    env = VecEnv(QuadrupedVelocity(), 1000, num_threads=1)
    env.reset()
    drawn = MEMORY.of(env.sim, "commands").unflatten(1, (4, 3))
    still = (drawn == 0).all(2).double().mean()
    assert still.item() == pytest.approx(0.1, abs=0.02)
    for column, (low, high) in enumerate(((-0.5, 1.0), (-0.3, 0.3), (-1.0, 1.0))):
        assert low <= drawn[..., column].min() < low + 0.02 and high - 0.02 < drawn[..., column].max() <= high
    for time_s, which in ((0.0, 0), (4.98, 0), (5.0, 1), (19.98, 3), (20.0, 0)):
        env.sim.data("time")[:] = time_s
        assert torch.equal(env.task.command(env.sim), drawn[:, which])


def test_reward_terms_by_hand() -> None:
    env = standing()
    sim = env.sim
    command(env, 0.5, 0.1, 0.3)
    sim.data("qvel")[0, :6] = torch.tensor([0.2, 0.1, 0.3, 0.4, -0.5, 0.6])
    sim.data("qpos")[0, 7:] += torch.tensor([0.1, 0.0, 0.0] * 4)
    MEMORY.of(sim, "long_steps")[0] = 0.12
    sim.forward()
    env.task.before_step(sim)
    moved = sim.data("ctrl") + torch.tensor([0.5, -0.25] + [0.0] * 10, dtype=torch.float64)
    terms = env.task.reward_terms(sim, moved)
    force = sim.data("actuator_force")[0]
    assert {name: float(term[0]) / 0.02 for name, term in terms.items()} == pytest.approx(
        {
            "track_velocity": 1.5 * math.exp(-0.09 / 0.25),
            "track_turn": 0.75 * math.exp(-0.09 / 0.25),
            "long_steps": 0.12 / 0.02,
            "bouncing": -2.0 * 0.09,
            "rocking": -0.05 * (0.16 + 0.25),
            "tilt": 0.0,
            "torque": -2e-4 * float(force @ force),
            "jerk": -0.02 * 1.25,
            "hips": -0.5 * 4 * 0.01,
            "alive": 0.25,
        },
        abs=1e-6,
    )


def test_steps_pay_by_their_time_in_the_air() -> None:
    env = standing()
    command(env, 0.5, 0.0, 0.0)
    env.step(torch.zeros(1, 12))
    for air_s, pays_s in ((0.05, 0.0), (0.2, 0.1), (0.6, 0.2)):
        MEMORY.of(env.sim, "air_time")[0] = torch.tensor([air_s, 0.0, 0.0, 0.0])
        env.step(torch.zeros(1, 12))
        assert MEMORY.of(env.sim, "long_steps").item() == pytest.approx(pays_s)
        assert not MEMORY.of(env.sim, "air_time").any()
    command(env, 0.0, 0.0, 0.0)
    MEMORY.of(env.sim, "air_time")[0, 0] = 0.2
    env.step(torch.zeros(1, 12))
    assert MEMORY.of(env.sim, "long_steps").item() == 0.0
    env.sim.data("qpos")[0, 2] += 0.2
    for _ in range(3):
        env.step(torch.zeros(1, 12))
    assert MEMORY.of(env.sim, "air_time")[0].tolist() == pytest.approx([0.06] * 4)


def test_fallen_is_low_or_tilted_and_the_score_is_the_mean_error() -> None:
    env = standing(4)
    env.sim.data("qpos")[1, 2] = 0.15
    for row, tilt in ((2, 0.85), (3, 0.9)):
        env.sim.data("qpos")[row, 3:5] = torch.tensor([math.cos(tilt / 2), math.sin(tilt / 2)])
    env.sim.forward()
    assert env.task.terminated(env.sim).tolist() == [False, True, False, True]
    MEMORY.of(env.sim, "error")[:] = 3.0
    env.sim.data("time")[:] = 0.2
    assert env.task.scores(env.sim)["velocity_error_m_s"].tolist() == pytest.approx([0.3] * 4)


def test_the_recipe_shows_three_readings_without_what_no_robot_measures() -> None:
    config = compose(["recipe=quadruped_velocity_ppo"])
    model = config.task.build_model()
    terms = config.task.specs(model).observation["policy"]
    assert sum(term.size for term in terms) == 3 * 45
    assert {term.source.value for term in terms} == {"sensor", "estimator"}
    with pytest.raises(UsageError, match="forward_m_s is upside down"):
        QuadrupedVelocity(forward_m_s=(1.0, 0.0))


def test_a_policy_takes_over_where_episodes_begin() -> None:
    """The contract's default pose is the one of standing, not that of stretched legs."""
    task = QuadrupedVelocity()
    model = task.build_model()
    robot = describe_robot(task, task.specs(model))
    assert [joint.default for joint in robot.joints] == pytest.approx(task.default_pose(model).tolist())
