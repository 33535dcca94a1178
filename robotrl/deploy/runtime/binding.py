"""Which number of a robot's reading is which input of the policy, and which row of a command is which drive.

Everything is bound by name, once, when the connection is made; what does not fit is one line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from robotrl.core.errors import RobotrlError, nearest
from robotrl.deploy.contract import Contract, InputTerm
from robotrl.deploy.robot_contract import Robot as Body
from robotrl.deploy.runtime.robots.robot import Layout, Signal

JOINT_POSITION, JOINT_VELOCITY, GRAVITY = "joint_position", "joint_velocity", "projected_gravity"
_DT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Binding:
    """Where everything is. D inputs of the network, J joints, A drives.

    Attributes:
        inputs: (D,) column of the robot's reading that each input takes.
        ages: (D,) control steps ago that it was taken.
        input_names: D names, "term (element)".
        joint_position: (J,) columns, in the contract's order of joints.
        joint_velocity: (J,) columns.
        gravity: (3,) columns of the projected gravity (x, y, z in the body's frame), or None.
        drives: (A,) row of a command of each drive in the contract's order.
        used_signals: indices of the signals whose age matters.
        moved: what has another place on the robot than in the policy: (name, policy's order, robot's order).
    """

    inputs: np.ndarray
    ages: np.ndarray
    input_names: tuple[str, ...]
    joint_position: np.ndarray
    joint_velocity: np.ndarray
    gravity: np.ndarray | None
    drives: np.ndarray
    used_signals: np.ndarray
    moved: tuple[tuple[str, str, str], ...]


def bind(contract: Contract, body: Body, layout: Layout) -> Binding:
    """Match a policy with a robot.

    Args:
        contract: of the policy.
        body: the robot that the contract speaks of.
        layout: what the connected robot says about itself.

    Raises:
        RobotrlError: a name is missing, there twice or unknown, or a unit or the control rate differs.
    """
    signals = _by_name(layout)
    _check_rate(contract, layout)
    columns, where = layout.columns, f"robot {layout.robot!r}"
    moved: list[tuple[str, str, str]] = []

    def find(name: str, unit: str | None, elements: Sequence[str], purpose: str) -> np.ndarray:
        signal = signals.get(name)
        if signal is None:
            raise RobotrlError(
                f"{where} publishes no signal {name!r}, {purpose}{nearest(name, signals)}; "
                f"it publishes {', '.join(signals) or 'none'}"
            )
        if unit is not None and signal.unit != unit:
            raise RobotrlError(f"{where}: signal {name!r} is in {signal.unit!r}, {purpose} in {unit!r}")
        for element in elements:
            if element not in signal.elements:
                raise RobotrlError(
                    f"{where}: signal {name!r} has no element {element!r}, {purpose}"
                    f"{nearest(element, signal.elements)}; it has {', '.join(signal.elements)}"
                )
        found = [signal.elements.index(element) for element in elements]
        if found != list(range(len(found))) and not any(name == row[0] for row in moved):
            moved.append((name, " ".join(elements), " ".join(signal.elements)))
        return columns[name].start + np.array(found, dtype=np.intp)

    joints = [joint.name for joint in body.joints]
    position = velocity = np.empty(0, dtype=np.intp)
    if joints:
        position = find(JOINT_POSITION, None, joints, "which guards need")
        velocity = find(JOINT_VELOCITY, None, joints, "which guards need")
        for name, per in ((JOINT_POSITION, ""), (JOINT_VELOCITY, "/s")):
            _check_unit(where, signals[name], [f"{joint.unit}{per}" for joint in body.joints])
            _refuse_unknown(where, f"joint in {name}", signals[name].elements, joints)
    gravity = None
    if GRAVITY in signals:
        gravity = find(GRAVITY, None, ("x", "y", "z"), "which the tilt guard needs")
    actions = [drive.action for drive in body.drives]
    _refuse_unknown(where, "drive", layout.drives, actions)
    for action in actions:
        if action not in layout.drives:
            raise RobotrlError(f"{where} has no drive {action!r}, which the policy commands")
    drives = np.array([layout.drives.index(action) for action in actions], dtype=np.intp)
    if list(drives) != list(range(len(drives))):
        moved.append(("drives", " ".join(actions), " ".join(layout.drives)))
    inputs = [
        find(term.of, term.unit, element_names(term), "which the policy takes") for term in contract.inputs
    ]
    used = {term.of for term in contract.inputs} | ({JOINT_POSITION, JOINT_VELOCITY} if joints else set())
    if gravity is not None:
        used.add(GRAVITY)
    return Binding(
        inputs=np.concatenate(inputs),
        ages=np.repeat([term.age_steps for term in contract.inputs], [term.size for term in contract.inputs]),
        input_names=tuple(f"{term.name} ({e})" for term in contract.inputs for e in element_names(term)),
        joint_position=position,
        joint_velocity=velocity,
        gravity=gravity,
        drives=drives,
        used_signals=np.array([i for i, signal in enumerate(layout.signals) if signal.name in used]),
        moved=tuple(moved),
    )


def element_names(term: InputTerm) -> tuple[str, ...]:
    """Return the names of a term's numbers: "0", "1", ... where they have none."""
    return term.elements or tuple(map(str, range(term.size)))


def _by_name(layout: Layout) -> dict[str, Signal]:
    where = f"robot {layout.robot!r}"
    _refuse_twice(f"{where}: signal", [signal.name for signal in layout.signals])
    _refuse_twice(f"{where}: drive", layout.drives)
    for signal in layout.signals:
        _refuse_twice(f"{where}: signal {signal.name!r}: element", signal.elements)
    return {signal.name: signal for signal in layout.signals}


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    for i, name in enumerate(names):
        if name in names[:i]:
            raise RobotrlError(f"{what} {name!r} is there twice")


def _refuse_unknown(where: str, kind: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise RobotrlError(
                f"{where}: {kind} {name!r} is unknown to the policy{nearest(name, known)}; "
                f"it knows {', '.join(known)}"
            )


def _check_unit(where: str, signal: Signal, units: Sequence[str]) -> None:
    """Refuse a signal of joints in none of their units.

    One unit is told for all: where some joints turn and others slide it is that of some, and every number is
    in the unit of its joint.
    """
    if signal.unit not in units:
        expected = " or ".join(repr(unit) for unit in sorted(set(units)))
        raise RobotrlError(f"{where}: signal {signal.name!r} is in {signal.unit!r}, its joints in {expected}")


def _check_rate(contract: Contract, layout: Layout) -> None:
    dt_s = contract.control_dt_s
    if dt_s is None:
        raise RobotrlError("the bundle does not tell its control rate: it cannot drive a robot")
    theirs_s = layout.control_dt_s
    if theirs_s is not None and not abs(theirs_s - dt_s) <= _DT_TOLERANCE * dt_s:
        raise RobotrlError(
            f"robot {layout.robot!r} takes a command every {theirs_s:g} s, the policy gives one every "
            f"{dt_s:g} s"
        )
