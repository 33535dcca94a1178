"""What a simulated robot says of a policy's attempts; a robot with a controller inside a control step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from arm_task import JOINTS, ArmTask
from bundles import make_policy

from robotrl.core.errors import UsageError
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.runtime.binding import bind
from robotrl.deploy.runtime.machine import State
from robotrl.deploy.runtime.robots.robot import FEEDFORWARD, KD, KP, POSITION, Command
from robotrl.envs.vec_env import VecEnv
from robotrl.export.bundle import export_policy
from robotrl.policies.gaussian import GaussianPolicy
from robotrl.sim.actuators import Actuator, Kind
from robotrl.sim.restitution import Restitution
from robotrl.tasks.aerial.quadrotor_juggle import QuadrotorJuggle
from robotrl.tasks.realism import Realism
from robotrl.tasks.task import Task
from robotrl.training.simulated_robot import SimulatedRobot, Troubles


def bundle_of(task: Task, folder: Path) -> Bundle:
    """A bundle of an untrained policy."""
    return Bundle.load(export_policy(make_policy(GaussianPolicy, task), task, folder, provenance={"seed": 0}))


@pytest.fixture(scope="module")
def juggle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    realism = Realism(restitution={"ball": Restitution((0.8, 0.8), "ball")})
    return bundle_of(QuadrotorJuggle(realism=realism), tmp_path_factory.mktemp("juggle") / "bundle")


def fly(robot: SimulatedRobot, command: list[float], steps: int) -> None:
    """Command a quadrotor for some control steps."""
    rows = np.zeros((4, 5))
    rows[:, FEEDFORWARD] = command
    for _ in range(steps):
        robot.obey(Command(rows, State.POLICY))
        robot.advance(round(robot.control_dt_s / robot.period_s))


def test_a_quadrotor_flies_as_in_training_and_is_scored_as_an_episode(juggle: Bundle) -> None:
    """Readings come every 4 ms, the flight controller runs every 2 ms, hits are looked for every 20 ms."""
    robot = SimulatedRobot(juggle, Troubles(seed=3))
    assert robot.period_s == pytest.approx(0.004)
    robot.advance(100)
    assert robot.time_s == 0.0  # nothing holds it up before the policy takes over
    env = VecEnv(
        QuadrotorJuggle(realism=Realism(restitution={"ball": Restitution((0.8, 0.8), "ball")})), 1, 3
    )
    env.reset()
    body = juggle.contract.robot
    assert body is not None
    binding = bind(juggle.contract, body, robot.layout)
    total = 0.0
    for _ in range(200):
        fly(robot, [0.0, 0.0, 0.0, 9.375], 1)
        step = env.step(torch.tensor([[0.0, 0.0, 0.0, 0.25]]))
        total += float(step.reward)
        seen = robot.measure()[binding.inputs].astype(np.float32)
        np.testing.assert_allclose(seen, step.final_obs["policy"][0].numpy(), atol=1e-5)
        if step.terminated:
            break
    (attempt,) = robot.attempts
    assert attempt.terminated and attempt.ended_by == "the task" and attempt.success is None
    assert attempt.steps == int(step.log["episode/length"][0]) > 30
    assert attempt.duration_s == pytest.approx(0.02 * attempt.steps)
    assert attempt.total_reward == pytest.approx(total, rel=1e-5)
    assert attempt.scores == {"hits": float(step.log["episode/hits"][0])} and attempt.scores["hits"] >= 1


def test_a_new_attempt_needs_a_robot_that_was_picked_up(juggle: Bundle) -> None:
    robot = SimulatedRobot(juggle, Troubles())
    fly(robot, [0.0, 0.0, 0.0, 0.0], 100)
    assert len(robot.attempts) == 1  # it fell; the policy goes on commanding what lies there
    robot.lie_down()
    robot.pick_up()
    fly(robot, [0.0, 0.0, 0.0, 9.8], 5)
    robot.obey(Command(np.zeros((4, 5)), State.DAMPING))
    assert [a.ended_by for a in robot.attempts] == ["the task", "a stop"]
    assert robot.attempts[1].steps == 5 and not robot.attempts[1].terminated
    assert str(robot.attempts[1]).startswith("0.10 s, return ")


def test_an_attempt_ends_where_the_simulation_diverges(juggle: Bundle) -> None:
    """MuJoCo starts such a simulation anew by itself, so that it would go on as if nothing had been."""
    robot = SimulatedRobot(juggle, Troubles())
    fly(robot, [0.0, 0.0, 0.0, 9.8], 5)
    robot._sim.data("qvel")[:, 8] = 1e12
    fly(robot, [0.0, 0.0, 0.0, 9.8], 5)
    (attempt,) = robot.attempts
    assert attempt.ended_by == "a diverged simulation" and 5 <= attempt.steps <= 6


def test_only_what_happens_under_the_policy_counts(tmp_path: Path) -> None:
    robot = SimulatedRobot(bundle_of(ArmTask(), tmp_path / "bundle"), Troubles())
    rows = np.zeros((len(JOINTS), 5))
    rows[:, KP], rows[:, KD], rows[:, POSITION] = 20.0, 1.0, 0.5
    for state, steps in ((State.MOVE_TO_DEFAULT, 7), (State.HOLD, 3), (State.POLICY, 11)):
        for _ in range(steps):
            robot.obey(Command(rows, state))
            robot.advance(round(robot.control_dt_s / robot.period_s))
    assert robot.attempts == []
    robot.lie_down()
    (attempt,) = robot.attempts
    assert (attempt.steps, attempt.ended_by) == (11, "silence")


def test_the_task_may_be_another_one(juggle: Bundle) -> None:
    changes = ["ball_mass_kg=0.005", "realism.restitution.ball.range=[0.64,0.64]"]
    task = SimulatedRobot(juggle, Troubles(), changes)._task
    assert task.ball_mass_kg == 0.005  # type: ignore[attr-defined]
    assert list(task.realism.restitution["ball"].range) == [0.64, 0.64]
    with pytest.raises(UsageError, match=r"ball_mas_kg=1: .*ball_mass_kg"):
        SimulatedRobot(juggle, Troubles(), ["ball_mas_kg=1"])


def test_learned_actuators_do_not_fit_a_controller_inside_a_control_step(tmp_path: Path) -> None:
    learned = Actuator(Kind.NETWORK, "thrust", network=tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=r"has a controller of 0\.002 s inside a control step"):
        VecEnv(QuadrotorJuggle(realism=Realism(actuators={"a": learned})), 1)
