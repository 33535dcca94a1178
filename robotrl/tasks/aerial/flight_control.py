"""The flight controller of a quadrotor: collective thrust and body rates to rotor thrusts, at 500 Hz.

Body axes: x forward, y left, z up. Rates are smoothed, a PID loop makes torques of their errors, a mixer
makes rotor thrusts of torques and collective thrust, rotors follow with a lag:

    w <- (1 - c) gyro + c w,   e = w_cmd - w,   i <- clamp(i + dt e max(0, 1 - (e / 2.5 pi)^2), +-1),
    q = P e + I i - D (w - w_old) / dt,         t_j = clamp(m f_cmd / (4 F) + mix_j . q, 0, 1),
    u_j <- u_j + (1 - exp(-dt / tau)) (sqrt(t_j) - u_j),       thrust of rotor j: F u_j^2.

Numbers: the training code of JuggleRL (2025, arXiv:2509.24892). Torques q are in shares of full rotor thrust,
as in open flight stacks: our reading, as is taking the rotors' and the inertial unit's 0.147 kg as part of
the vehicle's mass, so that a commanded 9.8 m/s^2 hovers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PERIOD_S = 0.002
"""Between two updates."""
ARM_M = 0.125
"""From the centre to a rotor's axis; the rotors are at 45 degrees to the body's axes."""
THRUST_COEFFICIENT = 5.39899e-6
"""N s^2."""
TORQUE_COEFFICIENT = 1.52164e-7
"""N m s^2: drag of a rotor about its axis."""
MAX_ROTOR_SPEED_RAD_S = 1356.6
MAX_ROTOR_THRUST_N = THRUST_COEFFICIENT * MAX_ROTOR_SPEED_RAD_S**2
"""F."""
ROTOR_TIME_CONSTANT_S = 0.02716
"""tau."""
SMOOTHING = 0.1967
"""c, weight of the old value."""
P_GAIN = (0.11, 0.11, 0.20)
I_GAIN = (0.008, 0.008, 0.010)
D_GAIN = (0.00075, 0.00075, 0.0)
INTEGRAL_LIMIT = 1.0
INTEGRAL_RATE_RAD_S = 2.5 * math.pi
"""Rate error at which the integral stops growing."""

_SIDE = math.sqrt(0.5)
# front left, front right, back left, back right: sign of y and of x, and of the torque that their drag makes
_LEFT, _FRONT, _SPIN = (1.0, -1.0, 1.0, -1.0), (1.0, 1.0, -1.0, -1.0), (1.0, -1.0, -1.0, 1.0)
_MIX = torch.tensor([_LEFT, _FRONT, _SPIN], dtype=torch.float64) * torch.tensor(
    [[_SIDE], [-_SIDE], [1.0]], dtype=torch.float64
)
"""(3, 4) from roll, pitch and yaw to rotor thrusts."""
_WRENCH = (
    MAX_ROTOR_THRUST_N
    * torch.stack(
        (
            torch.ones(4, dtype=torch.float64),
            ARM_M * _MIX[0],
            ARM_M * _MIX[1],
            TORQUE_COEFFICIENT / THRUST_COEFFICIENT * _MIX[2],
        )
    ).T
)
"""(4, 4) from squared throttles to collective thrust, N, and torques about x, y and z, N m."""


def hover_throttle(mass_kg: float, gravity_m_s2: float) -> float:
    """Return the throttle u of each rotor that carries a mass."""
    return math.sqrt(mass_kg * gravity_m_s2 / (4.0 * MAX_ROTOR_THRUST_N))


class FlightController:
    """The constants of a vehicle as tensors; what it remembers is handed in and changed in place.

    Args:
        mass_kg: that collective thrust is divided by, m.
        like: whose type and device the tensors have.
    """

    def __init__(self, mass_kg: float, like: Tensor) -> None:
        self._p, self._i = like.new_tensor(P_GAIN), like.new_tensor(I_GAIN)
        self._d = like.new_tensor(D_GAIN) / PERIOD_S
        self._thrust_share = mass_kg / (4.0 * MAX_ROTOR_THRUST_N)
        self._follow = 1.0 - math.exp(-PERIOD_S / ROTOR_TIME_CONSTANT_S)
        self._mix, self._wrench = _MIX.to(like), _WRENCH.to(like)

    def update(
        self, command: Tensor, gyro: Tensor, smoothed: Tensor, integral: Tensor, throttle: Tensor
    ) -> Tensor:
        """Let one period pass.

        Args:
            command: (N, 4) roll, pitch and yaw rate, rad/s, and thrust by mass, m/s^2.
            gyro: (N, 3) measured rates, rad/s.
            smoothed: (N, 3) w, changed in place.
            integral: (N, 3) i, changed in place.
            throttle: (N, 4) u in [0, 1], changed in place.

        Returns:
            (N, 4) collective thrust, N, and torques, N m, in body axes.
        """
        change = (1.0 - SMOOTHING) * (gyro - smoothed)
        smoothed += change
        error = command[:, :3] - smoothed
        growth = (1.0 - (error / INTEGRAL_RATE_RAD_S).square()).clamp(min=0.0)
        integral.add_(PERIOD_S * growth * error).clamp_(-INTEGRAL_LIMIT, INTEGRAL_LIMIT)
        torque = self._p * error + self._i * integral - self._d * change
        thrust = torque @ self._mix + self._thrust_share * command[:, 3:]
        throttle.lerp_(thrust.clamp_(0.0, 1.0).sqrt_(), self._follow)
        return throttle.square() @ self._wrench
