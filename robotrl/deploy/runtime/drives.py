"""From actions to commands of drives within their limits, and the commands of every other state.

Shapes: A drives in the contract's order, J joints, P position drives. Commands are (A, 5) rows of
`COMMAND_FIELDS` in that order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from robotrl.deploy.contract import Contract
from robotrl.deploy.robot_contract import Robot as Body
from robotrl.deploy.runtime.limits import Limits
from robotrl.deploy.runtime.robots.robot import COMMAND_FIELDS, FEEDFORWARD, KD, KP, POSITION, VELOCITY


@dataclass(frozen=True)
class Shaped:
    """A command of the policy.

    Attributes:
        rows: (A, 5).
        saturated: (A,) bool, where a limit changed it.
        effort_share: (A,) force it asks for as a share of the drive's limit, NaN where there is none.
        rate_share: (A,) its speed as a share of the rate limit, NaN where there is none.
    """

    rows: np.ndarray
    saturated: np.ndarray
    effort_share: np.ndarray
    rate_share: np.ndarray


def minimum_jerk(share: float) -> float:
    """Return 10 s^3 - 15 s^4 + 6 s^5 for a share s of the time, in [0, 1] (Flash and Hogan 1985)."""
    return share**3 * (10.0 + share * (6.0 * share - 15.0))


_MINIMUM_JERK_PEAK = 15 / 8
"""Largest speed of that path as a multiple of its mean speed, at s = 1/2."""


class Drives:
    """The robot's drives.

    Args:
        contract: bounds of the actions.
        body: joints, modes, gains and effort limits.
        limits: of the user.
        dt_s: between two commands, s.

    Attributes:
        damping: (A, 5) command that damps.
        move_s: duration of the move to the default pose, long enough for the rate limit, s.
    """

    def __init__(self, contract: Contract, body: Body, limits: Limits, dt_s: float) -> None:
        names = [joint.name for joint in body.joints]
        drives = body.drives
        modes = np.array([drive.mode for drive in drives])
        self._low = np.array([out.low for out in contract.outputs])
        self._high = np.array([out.high for out in contract.outputs])
        self._position, self._velocity = modes == "position", modes == "velocity"
        self._effort, self._other = modes == "effort", modes == "other"
        # rows of joints; those of "other" drives are never looked at
        self._joint = np.array(
            [names.index(d.joint) if d.joint is not None else 0 for d in drives], dtype=np.intp
        )
        self._ratio = np.array([drive.ratio for drive in drives])
        self._kp, self._kd = np.array([d.kp for d in drives]), np.array([d.kd for d in drives])
        limit = [np.inf if d.effort_limit is None else d.effort_limit for d in drives]
        self._effort_limit = np.array(limit) * limits.effort_share
        self._safe = np.array([0.0 if drive.safe is None else drive.safe for drive in drives])
        lower, upper = joint_ranges(body, limits.soft_limit_share)
        self._lower, self._upper = self._of_joints(lower), self._of_joints(upper)
        # a model's own pose may lie outside of its ranges
        default = self._of_joints([joint.default for joint in body.joints])
        self._default = np.clip(default, self._lower, self._upper)
        self._move_s, self._command_rate = limits.move_s, limits.command_rate
        self._step = np.inf if limits.command_rate is None else limits.command_rate * dt_s
        self.start(np.empty(0))
        self.damping = self._damping(limits.damping_kd)

    def _of_joints(self, values: list[float]) -> np.ndarray:
        """Return (A,) values of the joints the drives act on."""
        return np.array(values, dtype=np.float64)[self._joint] if values else np.zeros(len(self._joint))

    def _damping(self, default_kd: float) -> np.ndarray:
        rows = np.zeros((len(self._joint), len(COMMAND_FIELDS)))
        joints = ~self._other
        rows[joints, KD] = np.where(self._kd[joints] > 0, self._kd[joints], default_kd)
        rows[self._other, FEEDFORWARD] = self._safe[self._other]
        return rows

    def start(self, joint_position: np.ndarray) -> None:
        """Take the measured pose (J,) as where the next motion begins."""
        pose = joint_position[self._joint] if len(joint_position) else self._default
        self._start = self._reference = pose.astype(np.float64)
        self.move_s = self._move_s
        if self._command_rate is not None and self._position.any():
            farthest = np.max(np.abs(self._default - self._start)[self._position])
            self.move_s = max(self.move_s, float(_MINIMUM_JERK_PEAK * farthest / self._command_rate))

    def move(self, share: float, joint_position: np.ndarray, joint_velocity: np.ndarray) -> np.ndarray:
        """Return the command at a share of the move to the default pose, stiffening as it goes.

        Only position drives move; the others rest. Rate and effort limits hold as they do for a policy, save
        that damping alone may exceed an effort limit: it is never undone.

        Args:
            share: of `move_s`, in [0, 1].
            joint_position: (J,) measured.
            joint_velocity: (J,) measured.
        """
        rows, moved = self.damping.copy(), self._position
        if not moved.any():
            return rows
        share = min(1.0, max(0.0, share))
        rows[moved, KP] = share * self._kp[moved]
        rows[moved, KD] = share * self._kd[moved] + (1.0 - share) * rows[moved, KD]
        q, qd = joint_position[self._joint], joint_velocity[self._joint]
        target = self._start + minimum_jerk(share) * (self._default - self._start)
        target = self._reference + np.clip(target - self._reference, -self._step, self._step)
        # softer gains allow a target farther off, even beyond the joint: go no farther than towards it
        cut = self._within_effort(target, q, qd, rows[:, KP], rows[:, KD])
        self._reference = np.clip(cut, np.minimum(target, q), np.maximum(target, q))
        rows[moved, POSITION] = self._reference[moved]
        return rows

    def pose_error(self, joint_position: np.ndarray) -> float:
        """Return the largest distance of a joint of a position drive from its default, 0 of none."""
        if not self._position.any():
            return 0.0
        return float(np.max(np.abs(joint_position[self._joint] - self._default)[self._position]))

    def follow(
        self, action: np.ndarray, blend: float, joint_position: np.ndarray, joint_velocity: np.ndarray
    ) -> Shaped:
        """Return the command for an action, within all limits.

        Args:
            action: (A,) finite, in the units of the contract's outputs.
            blend: share of the policy, in [0, 1]; the rest is the default pose, or rest.
            joint_position: (J,) measured.
            joint_velocity: (J,) measured.
        """
        bounded = np.clip(action, self._low, self._high)
        q = joint_position[self._joint] if len(joint_position) else np.zeros(len(action))
        qd = joint_velocity[self._joint] if len(joint_velocity) else np.zeros(len(action))
        rest = np.where(self._position, self._default, np.where(self._other, self._safe, 0.0))
        wanted = rest + blend * (self._ratio * bounded - rest)
        command = np.where(self._position, np.clip(wanted, self._lower, self._upper), wanted)
        step = np.where(self._position, command - self._reference, 0.0)
        command = np.where(self._position, self._reference + np.clip(step, -self._step, self._step), command)
        command = self._within_effort(command, q, qd, self._kp, self._kd)
        self._reference = np.where(self._position, command, self._reference)
        rows = np.zeros((len(action), len(COMMAND_FIELDS)))
        rows[self._position, POSITION] = command[self._position]
        rows[self._velocity, VELOCITY] = command[self._velocity]
        plain = self._effort | self._other
        rows[plain, FEEDFORWARD] = command[plain]
        rows[:, KP], rows[:, KD] = self._kp, self._kd
        span = np.abs(self._ratio) * (self._high - self._low)
        changed = np.abs(command - wanted) > 1e-6 * span
        outside = np.abs(action - bounded) > 1e-6 * (self._high - self._low)
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.abs(self._force(command, q, qd)) / self._effort_limit
        return Shaped(
            rows,
            changed | outside,
            np.where(np.isfinite(self._effort_limit) & ~self._other, share, np.nan),
            np.where(self._position & np.isfinite(self._step), np.abs(step) / self._step, np.nan),
        )

    def _force(self, command: np.ndarray, q: np.ndarray, qd: np.ndarray) -> np.ndarray:
        """Return the force on each joint, (A,)."""
        of_position = self._kp * (command - q) - self._kd * qd
        of_velocity = self._kd * (command - qd)
        return np.where(self._position, of_position, np.where(self._velocity, of_velocity, command))

    def _within_effort(
        self, command: np.ndarray, q: np.ndarray, qd: np.ndarray, kp: np.ndarray, kd: np.ndarray
    ) -> np.ndarray:
        """Move commands so that no force of gains `kp`, `kd` (A,) exceeds its limit.

        A position drive's lies in [q + (-limit + kd qd) / kp, q + (limit + kd qd) / kp]; with kp 0 it makes
        no force.
        """
        ends = []
        for limit in (-self._effort_limit, self._effort_limit):
            with np.errstate(divide="ignore", invalid="ignore"):
                of_position = np.where(kp > 0, q + (limit + kd * qd) / kp, np.copysign(np.inf, limit))
                of_velocity = qd + limit / kd
            end = np.where(self._position, of_position, np.where(self._velocity, of_velocity, limit))
            ends.append(np.where(self._other, np.copysign(np.inf, limit), end))
        return np.clip(command, *ends)


def joint_ranges(body: Body, share: float) -> tuple[list[float], list[float]]:
    """Return the lower and the upper ends of a share of the joints' ranges, each about its middle."""
    lower, upper = [], []
    for joint in body.joints:
        low = -np.inf if joint.lower is None else joint.lower
        high = np.inf if joint.upper is None else joint.upper
        if np.isfinite(low) and np.isfinite(high):
            middle, half = (low + high) / 2, share * (high - low) / 2
            low, high = middle - half, middle + half
        lower.append(float(low))
        upper.append(float(high))
    return lower, upper
