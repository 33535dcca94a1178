"""Between ROS 2 messages and the runtime's signals and commands: pure functions of what messages hold.

Messages are looked at by attribute only, so that nothing of ROS is imported: sensor_msgs/JointState,
sensor_msgs/Imu, geometry_msgs/Twist and std_msgs/Float64MultiArray. ROS writes quaternions (x, y, z, w).
"""

from __future__ import annotations

import enum
from typing import Any

import numpy as np

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.contract import Contract
from robotrl.deploy.robot_contract import Robot as Body
from robotrl.deploy.runtime.binding import GRAVITY
from robotrl.deploy.runtime.robots.robot import FEEDFORWARD, KD, KP, POSITION, VELOCITY, Layout, Signal

_XYZ = ("x", "y", "z")
_IMU = {
    "angular_velocity": _XYZ,
    "linear_acceleration": _XYZ,
    GRAVITY: _XYZ,
    "orientation": ("w", "x", "y", "z"),
}
JOINT_SIGNALS = ("joint_position", "joint_velocity", "joint_effort")
TWIST = "velocity_command"


def layout_of(contract: Contract, body: Body) -> Layout:
    """Return what a ROS 2 robot publishes for a policy: what the policy takes, and what guards need.

    A contract does not tell whether the base floats. Where the policy takes anything of an IMU the node hears
    one, and gravity's direction is published for the tilt guard too.
    """
    signals = {
        term.of: Signal(term.of, term.unit, term.elements or tuple(map(str, range(term.size))))
        for term in contract.inputs
    }
    joints = tuple(joint.name for joint in body.joints)
    if joints:
        unit = body.joints[0].unit
        for name, its_unit in (("joint_position", unit), ("joint_velocity", f"{unit}/s")):
            # a signal bears one unit: where some joints turn and others slide, that of the policy's term
            told = signals[name].unit if name in signals else its_unit
            signals[name] = Signal(name, told, joints)
    for name, elements in _IMU.items():
        if name in signals and set(signals[name].elements) - set(elements):
            raise RobotrlError(
                f"the policy takes {name!r} with elements {', '.join(signals[name].elements)}; "
                f"an IMU message has {', '.join(elements)}"
            )
    if any(name in signals for name in _IMU):
        signals[GRAVITY] = Signal(GRAVITY, "1", _XYZ)
    drives = tuple(drive.action for drive in body.drives)
    return Layout(body.name, tuple(signals.values()), drives, contract.control_dt_s)


class Readings:
    """The newest value of every signal, gathered from messages that come at their own times.

    Args:
        layout: of the robot, see `layout_of`.

    Attributes:
        values: (W,) numbers in the order of the layout; NaN until they were heard.
        times_s: (S,) when each signal was measured; minus infinity until it was heard.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self.values = np.full(layout.width, np.nan)
        self.times_s = np.full(len(layout.signals), -np.inf)
        self._places = {signal.name: (i, signal) for i, signal in enumerate(layout.signals)}

    @property
    def complete(self) -> bool:
        """Whether every signal was heard."""
        return bool(np.isfinite(self.times_s).all())

    def has(self, name: str) -> bool:
        """Whether the policy or a guard takes a signal."""
        return name in self._places

    @property
    def topics(self) -> tuple[str, ...]:
        """Signals that come as Float64MultiArray, each on a topic of its name."""
        others = {*JOINT_SIGNALS, *_IMU, TWIST}
        return tuple(signal.name for signal in self._layout.signals if signal.name not in others)

    def joint_state(self, message: Any, time_s: float) -> None:
        """Take a JointState: joints are found by name, others than the policy's are ignored.

        Raises:
            RobotrlError: a joint is missing or there twice, or a needed column is empty.
        """
        for name, column in zip(JOINT_SIGNALS, ("position", "velocity", "effort"), strict=True):
            if name in self._places:
                given = _column(message, column)
                self._put(name, given, time_s, f"JointState.{column}")

    def imu(self, message: Any, time_s: float) -> None:
        """Take an Imu: rates and accelerations in the body's frame, and gravity's direction there."""
        w, x, y, z = (float(getattr(message.orientation, axis)) for axis in "wxyz")
        norm = np.sqrt(w * w + x * x + y * y + z * z)
        if not 0.9 < norm < 1.1:
            raise RobotrlError(f"Imu.orientation is no unit quaternion: {(x, y, z, w)} (x, y, z, w)")
        w, x, y, z = w / norm, x / norm, y / norm, z / norm
        # the third row of the rotation matrix, negated: R^T (0, 0, -1)
        gravity = (2 * (w * y - x * z), -2 * (w * x + y * z), 2 * (x * x + y * y) - 1)
        vectors = {
            "orientation": dict(zip("wxyz", (w, x, y, z), strict=True)),
            GRAVITY: dict(zip(_XYZ, gravity, strict=True)),
            "angular_velocity": _vector(message.angular_velocity),
            "linear_acceleration": _vector(message.linear_acceleration),
        }
        for name, vector in vectors.items():
            if name in self._places:
                self._put(name, vector, time_s, f"Imu.{name}")

    def twist(self, message: Any, time_s: float) -> None:
        """Take a Twist: velocity along x and y, m/s, and about z, rad/s, in the signal's order."""
        signal = self._places[TWIST][1]
        numbers = (message.linear.x, message.linear.y, message.angular.z)
        if len(signal.elements) != len(numbers):
            raise RobotrlError(f"signal {TWIST!r} has {len(signal.elements)} elements, a Twist gives 3")
        self._put(TWIST, dict(zip(signal.elements, map(float, numbers), strict=True)), time_s, "Twist")

    def array(self, name: str, message: Any, time_s: float) -> None:
        """Take a Float64MultiArray with the numbers of signal `name`, in the order of its elements."""
        elements = self._places[name][1].elements
        if len(message.data) != len(elements):
            raise RobotrlError(f"topic {name!r} has {len(message.data)} numbers, needs {', '.join(elements)}")
        self._put(name, dict(zip(elements, map(float, message.data), strict=True)), time_s, name)

    def _put(self, name: str, given: dict[str, float], time_s: float, origin: str) -> None:
        place, signal = self._places[name]
        missing = [element for element in signal.elements if element not in given]
        if missing:
            raise RobotrlError(f"{origin} has no {missing[0]!r}; it has {', '.join(given)}")
        self.values[self._layout.columns[name]] = [given[element] for element in signal.elements]
        self.times_s[place] = time_s


def measured_s(message: Any, ros_now_s: float, now_s: float) -> float:
    """Return when a message was measured, on the monotonic clock; now where it bears no stamp.

    A stamp ahead of our clock gives a time ahead of now: a guard looks for that, as nobody knows how old such
    a message is.

    Args:
        message: with or without a header.
        ros_now_s: now on the clock of stamps, s.
        now_s: now on the monotonic clock, s.
    """
    stamp = getattr(getattr(message, "header", None), "stamp", None)
    if stamp is None or (stamp.sec == 0 and stamp.nanosec == 0):
        return now_s
    return now_s - (ros_now_s - (stamp.sec + stamp.nanosec * 1e-9))


def _column(message: Any, column: str) -> dict[str, float]:
    names, numbers = list(message.name), getattr(message, column)
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise RobotrlError(f"JointState names joint {twice!r} twice")
    if len(numbers) != len(names):
        raise RobotrlError(f"JointState.{column} has {len(numbers)} numbers for {len(names)} joints")
    return dict(zip(names, map(float, numbers), strict=True))


def _vector(vector: Any) -> dict[str, float]:
    return {axis: float(getattr(vector, axis)) for axis in _XYZ}


class Interface(enum.Enum):
    """What the robot's controllers take, as Float64MultiArray in the order of the drives."""

    POSITION = "position"
    """Joint positions, rad; when damped, the pose in which that began."""
    VELOCITY = "velocity"
    """Joint velocities, rad/s."""
    EFFORT = "effort"
    """Forces, N m; the node closes the loop of every drive at the rate of JointState."""
    IMPEDANCE = "impedance"
    """Rows of position, velocity, feed-forward effort, kp and kd, drive after drive."""


class Commands:
    """Turns commands of the runtime into what the robot's controllers take.

    Args:
        body: the contract's robot.
        interface: of the controllers.

    Raises:
        UsageError: a drive cannot be commanded through it.
    """

    def __init__(self, body: Body, interface: Interface) -> None:
        self._interface = interface
        self._held: np.ndarray | None = None
        names = [joint.name for joint in body.joints]
        for drive in body.drives:
            fits = drive.mode == interface.value or interface in (Interface.EFFORT, Interface.IMPEDANCE)
            if not fits or (drive.joint is None and interface is Interface.EFFORT):
                raise UsageError(
                    f"interface={interface.value} cannot command {drive.action!r}, whose mode is "
                    f"{drive.mode}: use interface=impedance"
                )
        self._joints = np.array([names.index(d.joint) if d.joint is not None else 0 for d in body.drives])

    def message(
        self, rows: np.ndarray, damped: bool, joint_position: np.ndarray, joint_velocity: np.ndarray
    ) -> list[float] | None:
        """Return the numbers to publish; None where there is no pose to hold.

        A drive whose joint reading is not finite gets no effort, as the last one would act on without it.

        Args:
            rows: (A, 5) of `COMMAND_FIELDS`, drives in the contract's order.
            damped: whether the robot is to come to rest.
            joint_position: (J,) measured, in the contract's order.
            joint_velocity: (J,) measured.
        """
        if self._interface is Interface.IMPEDANCE:
            return [float(x) for x in rows.reshape(-1)]
        q = joint_position[self._joints] if len(joint_position) else joint_position
        if self._interface is Interface.POSITION:
            if not damped:
                self._held = None
                return [float(x) for x in rows[:, POSITION]]
            if self._held is None and np.isfinite(q).all():
                self._held = q.copy()
            return None if self._held is None else [float(x) for x in self._held]
        if self._interface is Interface.VELOCITY:
            return [0.0 if damped else float(x) for x in rows[:, VELOCITY]]
        qd = joint_velocity[self._joints]
        force = rows[:, KP] * (rows[:, POSITION] - q) + rows[:, KD] * (rows[:, VELOCITY] - qd)
        force += rows[:, FEEDFORWARD]
        return [float(x) if np.isfinite(x) else 0.0 for x in force]
