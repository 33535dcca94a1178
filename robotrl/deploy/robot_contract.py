"""What a policy's contract says about the robot: joints, what drives them, and the delays of training.

Everything is bound by name. A robot publishes signals, each a name with named elements; an observation term
takes the signal of its name, element by element. Two signals are needed of every robot with joints, because
guards read them: `joint_position` and `joint_velocity`, elements are joint names.
"""

from __future__ import annotations

from dataclasses import dataclass


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

    A position drive makes the force kp (command - q) - kd qd, a velocity drive kd (command - qd), an effort
    drive the command itself.

    Attributes:
        action: name of the output term that commands it.
        mode: "position", "velocity", "effort", or "other" where it acts on no single joint.
        joint: it acts on; None where mode is "other".
        kp: proportional gain, N m/rad or N/m; 0 unless mode is "position".
        kd: damping gain, N m s/rad or N s/m; 0 for "effort" and "other".
        effort_limit: largest force on the joint, N m or N; None where there is none.
        safe: command in the output term's unit that lets the robot come to rest; None for a drive that is
            damped at its joint instead.
    """

    action: str
    mode: str
    joint: str | None
    kp: float
    kd: float
    effort_limit: float | None
    safe: float | None


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
