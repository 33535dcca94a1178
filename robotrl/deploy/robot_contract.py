"""What a policy's contract says about the robot: joints, what drives them, and the delays of training.

Everything is bound by name. A robot publishes signals, each a name with named elements; an observation term
takes the signal of its name, element by element. Two signals are needed of every robot with joints, because
guards read them: `joint_position` and `joint_velocity`, elements are joint names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MODES = ("position", "velocity", "effort", "other")
UNITS = ("rad", "m")


@dataclass(frozen=True)
class Joint:
    """One joint with one degree of freedom.

    Attributes:
        name: as in the model.
        unit: of its position, "rad" or "m".
        lower: of its range in `unit`, None where it has none.
        upper: of its range in `unit`, None where it has none.
        default: position in `unit` where a policy takes over.
    """

    name: str
    unit: str
    lower: float | None
    upper: float | None
    default: float


@dataclass(frozen=True)
class Drive:
    """What executes one action.

    With c = ratio * command, a position drive makes the force kp (c - q) - kd qd, a velocity drive
    kd (c - qd), an effort drive c itself, each cut to the effort limit.

    Attributes:
        action: name of the output term that commands it.
        mode: "position", "velocity", "effort", or "other" where it acts on no single joint.
        joint: it acts on; None where mode is "other".
        kp: proportional gain, N m/rad or N/m; 0 unless mode is "position".
        kd: damping gain, N m s/rad or N s/m; 0 for "effort" and "other".
        effort_limit: largest force on the joint, N m or N; None where there is none.
        safe: command in the output term's unit that lets the robot come to rest; None for a drive that is
            damped at its joint instead.
        ratio: joint position, joint velocity or force per unit of command; 1 unless there is a gear, and
            for "other".
    """

    action: str
    mode: str
    joint: str | None
    kp: float
    kd: float
    effort_limit: float | None
    safe: float | None
    ratio: float = 1.0


@dataclass(frozen=True)
class Robot:
    """The robot of a contract.

    Attributes:
        name: of the model.
        joints: with one degree of freedom each, in the model's order.
        drives: one per output term, in that order.
        action_delay_s: shortest and longest time in training from a command to its effect, s.
        observation_delay_s: shortest and longest time in training from a quantity to its reading, s.
    """

    name: str
    joints: tuple[Joint, ...]
    drives: tuple[Drive, ...]
    action_delay_s: tuple[float, float]
    observation_delay_s: tuple[float, float]


def check_robot(robot: Robot, commands: Mapping[str, tuple[float, float]]) -> None:
    """Raise ValueError where a robot contradicts itself or the outputs of its contract.

    Args:
        robot: every number of it finite.
        commands: output term -> lowest and highest command, in the order of an action.
    """
    refuse_repeated("robot: joint", [joint.name for joint in robot.joints])
    for joint in robot.joints:
        _check_joint(joint)
    named = [drive.action for drive in robot.drives]
    refuse_repeated("robot: drive of action", named)
    if named != list(commands):
        raise ValueError(f"robot: drives are of {', '.join(named)}, outputs are {', '.join(commands)}")
    joints = {joint.name for joint in robot.joints}
    for drive in robot.drives:
        _check_drive(drive, joints, *commands[drive.action])
    for name in ("action_delay_s", "observation_delay_s"):
        shortest, longest = getattr(robot, name)
        if not 0.0 <= shortest <= longest:
            raise ValueError(f"robot: {name} must be 0 <= shortest <= longest, got [{shortest}, {longest}]")


def _check_joint(joint: Joint) -> None:
    where = f"robot: joint {joint.name!r}"
    if joint.unit not in UNITS:
        raise ValueError(f"{where}: unit must be rad or m, got {joint.unit!r}")
    if (joint.lower is None) != (joint.upper is None):
        raise ValueError(f"{where}: has one end of a range, needs both or none")
    if joint.lower is not None and joint.upper is not None and not joint.lower < joint.upper:
        raise ValueError(f"{where}: range [{joint.lower}, {joint.upper}] is empty")


def _check_drive(drive: Drive, joints: set[str], low: float, high: float) -> None:
    where = f"robot: drive of {drive.action!r}"
    if drive.mode not in MODES:
        raise ValueError(f"{where}: mode must be one of {', '.join(MODES)}, got {drive.mode!r}")
    if (drive.joint is None) != (drive.mode == "other"):
        raise ValueError(f"{where}: mode {drive.mode} with joint {drive.joint!r}")
    if drive.joint is not None and drive.joint not in joints:
        raise ValueError(f"{where}: there is no joint {drive.joint!r}")
    gains = {"position": (True, drive.kd >= 0), "velocity": (False, drive.kd > 0)}
    has_kp, kd_fits = gains.get(drive.mode, (False, drive.kd == 0))
    if not (drive.kp > 0 if has_kp else drive.kp == 0) or not kd_fits:
        raise ValueError(f"{where}: gains kp {drive.kp} and kd {drive.kd} do not fit mode {drive.mode}")
    if drive.ratio == 0 or (drive.mode == "other" and drive.ratio != 1):
        raise ValueError(f"{where}: ratio {drive.ratio} does not fit mode {drive.mode}")
    if drive.effort_limit is not None and not drive.effort_limit > 0:
        raise ValueError(f"{where}: effort_limit must be above 0, got {drive.effort_limit}")
    if drive.safe is None and drive.mode == "other":
        raise ValueError(f"{where}: acts on no joint that could be damped, so it needs a safe command")
    if drive.safe is not None and not low <= drive.safe <= high:
        raise ValueError(f"{where}: safe command {drive.safe} is outside [{low}, {high}]")


def refuse_repeated(kind: str, names: list[str]) -> None:
    """Raise ValueError where a name appears twice.

    Args:
        kind: of the names, singular, for the message.
        names: that have to be unique.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{kind} {name!r} appears twice")
        seen.add(name)
