"""The flight controller: hover, signs, lag, a rate step against a loop of its own, delays of commands."""

from __future__ import annotations

import math

import mujoco
import numpy as np
import pytest
import torch

from robotrl.envs.vec_env import VecEnv
from robotrl.sim.latency import Delay
from robotrl.sim.sim import Sim
from robotrl.tasks.aerial import flight_control
from robotrl.tasks.aerial.flight_control import FlightController
from robotrl.tasks.aerial.quadrotor_juggle import QuadrotorJuggle
from robotrl.tasks.realism import Realism
from robotrl.tasks.rotations import rotation_matrix, up_axis

MASS_KG, GRAVITY, ROLL_INERTIA = 1.0975, 9.8, 0.00529
HOVER = [0.0, 0.0, 0.0, GRAVITY]


def flying(commands: list[list[float]], steps: int, realism: Realism | None = None) -> Sim:
    """Drones that hovered at (0, 0, 1) and then took a command each; their balls are far away."""
    env = VecEnv(QuadrotorJuggle(realism=realism or Realism()), len(commands), num_threads=1)
    env.reset()
    sim = env.sim
    sim.data("qpos")[:, :3] = torch.tensor([0.0, 0.0, 1.0])
    sim.data("qpos")[:, 7:10] = torch.tensor([50.0, 0.0, 50.0])
    sim.forward()
    for _ in range(steps):
        env.task.advance(sim, torch.tensor(commands, dtype=torch.float64), 20)
    return sim


def test_the_command_of_gravity_hovers() -> None:
    sim = flying([HOVER], 100)
    torch.testing.assert_close(
        sim.data("qpos")[0, :7], torch.tensor([0, 0, 1, 1, 0, 0, 0]).double(), rtol=0, atol=1e-9
    )
    assert sim.data("qvel")[0, :6].abs().max() < 1e-9


def test_signs_of_the_commands() -> None:
    rate = 0.5
    commands = [[rate, 0, 0, GRAVITY], [0, rate, 0, GRAVITY], [0, 0, rate, GRAVITY], [0, 0, 0, GRAVITY + 1]]
    sim = flying(commands, 25)
    rates, velocity = sim.data("qvel")[:, 3:6], sim.data("qvel")[:, :3]
    torch.testing.assert_close(rates[:3], rate * torch.eye(3).double(), rtol=0, atol=0.02)
    assert velocity[0, 1] < -0.2 and velocity[1, 0] > 0.2  # roll moves to the right, pitch forward
    assert abs(velocity[2]).max() < 0.01
    # 1 m/s^2 for half a second, after the rotors' lag
    assert velocity[3, 2].item() == pytest.approx(1.0 * (0.5 - 0.027), abs=0.01)


def reference_roll(command: float, periods: int) -> list[float]:
    """Roll rate after every 2 ms, rad/s: one axis, scalars, two physics steps of 1 ms in a period."""
    arm, full = 0.125 * math.sqrt(0.5), 5.39899e-6 * 1356.6**2
    rate = smoothed = integral = 0.0
    hover = MASS_KG * GRAVITY / (4 * full)
    left = right = math.sqrt(hover)
    rates = []
    for period in range(periods):
        wanted = command if period > 0 else 0.0  # the command takes a period to arrive
        old, smoothed = smoothed, 0.8033 * rate + 0.1967 * smoothed
        error = wanted - smoothed
        integral += 0.002 * error * max(0.0, 1 - (error / (2.5 * math.pi)) ** 2)
        integral = min(1.0, max(-1.0, integral))
        torque = 0.11 * error + 0.008 * integral - 0.00075 * (smoothed - old) / 0.002
        lag = 1 - math.exp(-0.002 / 0.02716)
        left += lag * (math.sqrt(min(1.0, max(0.0, hover + math.sqrt(0.5) * torque))) - left)
        right += lag * (math.sqrt(min(1.0, max(0.0, hover - math.sqrt(0.5) * torque))) - right)
        rate += 0.002 * 2 * arm * full * (left**2 - right**2) / ROLL_INERTIA
        rates.append(rate)
    return rates


def test_a_rate_step_is_that_of_the_equations() -> None:
    expected = reference_roll(2.0, 100)
    for steps in range(1, 11):
        sim = flying([[2.0, 0.0, 0.0, GRAVITY]], steps)
        assert sim.data("qvel")[0, 3].item() == pytest.approx(expected[10 * steps - 1], rel=1e-9)
    # a well tuned loop: there after 0.1 s, without swinging far beyond
    assert max(expected) < 2.0 * 1.35 and min(expected[50:]) > 2.0 * 0.85


def test_rotors_follow_with_their_time_constant_and_never_pull() -> None:
    controller = FlightController(MASS_KG, torch.zeros(1, dtype=torch.float64))
    state = [torch.zeros(1, size, dtype=torch.float64) for size in (3, 3, 4)]
    state[2].fill_(1.0)
    still = torch.zeros(1, 3, dtype=torch.float64)
    for n in range(1, 20):
        wrench = controller.update(torch.zeros(1, 4, dtype=torch.float64), still, *state)
        thrust = 4 * flight_control.MAX_ROTOR_THRUST_N * math.exp(-2 * n * 0.002 / 0.02716)
        assert wrench[0].tolist() == pytest.approx([thrust, 0, 0, 0], abs=1e-12)
    for _ in range(200):
        extreme = torch.tensor([[math.pi, -math.pi, math.pi, 15.0]], dtype=torch.float64)
        controller.update(extreme, -5 * extreme[:, :3], *state)
        assert state[2].min() >= 0.0 and state[2].max() <= 1.0


def test_a_delayed_command_acts_later() -> None:
    delayed = Realism(actuator_delays={"link": Delay((0.01, 0.01))})
    late = flying([[2.0, 0.0, 0.0, GRAVITY]], 3, delayed)
    assert late.data("qvel")[0, 3].item() == pytest.approx(reference_roll(2.0, 25)[-1], rel=1e-9)
    assert late.data("qpos")[0, 2].item() == pytest.approx(1.0, abs=1e-3)


def test_rotations_are_mujocos() -> None:
    quaternions = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    quaternions /= quaternions.norm(dim=1, keepdim=True)
    for quaternion, matrix in zip(quaternions, rotation_matrix(quaternions), strict=True):
        expected = np.zeros(9)
        mujoco.mju_quat2Mat(expected, quaternion.numpy())
        np.testing.assert_allclose(matrix.flatten().numpy(), expected, atol=1e-14)
    torch.testing.assert_close(up_axis(quaternions), rotation_matrix(quaternions)[:, :, 2])
