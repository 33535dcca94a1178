"""The contract of a bundle: what the policy is fed, what it commands, and what it was made for.

Plain JSON, every number at full float64 precision. A bundle is a folder of three files: the contract,
the network (which carries the same contract in its metadata) and recorded input/output pairs; and of the
same network in other formats where they were asked for.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from robotrl.core.errors import RobotrlError
from robotrl.deploy.plain_data import from_plain
from robotrl.deploy.robot_contract import Robot, check_robot, refuse_repeated

SCHEMA = "robotrl.bundle/3"
POLICY_FILE = "policy.onnx"
CONTRACT_FILE = "contract.json"
GOLDEN_FILE = "golden.npz"
FILES = (CONTRACT_FILE, POLICY_FILE, GOLDEN_FILE)
C_FILE, C_HEADER_FILE, PT2_FILE = "policy.c", "policy.h", "policy.pt2"
FURTHER_FILES = (C_FILE, C_HEADER_FILE, PT2_FILE)
METADATA_KEY = "robotrl.contract"
# what earlier schemas left unsaid: the first had one action per decision and no noise
_SINCE: dict[str, dict[str, Any]] = {
    "robotrl.bundle/1": {"horizon": 1, "noise_dim": 0, "sampling_steps": None, "robot": None, "files": {}},
    "robotrl.bundle/2": {"robot": None, "files": {}},
}


@dataclass(frozen=True)
class InputTerm:
    """One observation term: columns `start` to `start + size` of the network's input.

    Attributes:
        group: observation group.
        name: unique within its group.
        unit: SI unit of every scalar.
        shape: of one observation of this term.
        low: lower bound in `unit`, None where there is none.
        high: upper bound in `unit`, None where there is none.
        elements: names of the scalars, empty where there is one only.
        source: "sensor", "estimator" or "simulation".
        scale: factor from `unit` to what the network is fed; 1, as normalisation is inside.
        start: first column.
        of: the quantity that is read, the name without its age.
        age_steps: control steps since the reading; 0 is the present one. A group that shows a history
            shows all its terms of the oldest reading, then all of the next one: time-major, oldest first.
            An episode starts with copies of its first reading.
    """

    group: str
    name: str
    unit: str
    shape: tuple[int, ...]
    low: float | None
    high: float | None
    elements: tuple[str, ...]
    source: str
    scale: float
    start: int
    of: str
    age_steps: int

    @property
    def size(self) -> int:
        """Number of scalars."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class OutputTerm:
    """One actuator command in `unit`: offset + scale * a, where a in [-1, 1] is what was learned."""

    name: str
    unit: str
    low: float
    high: float
    scale: float
    offset: float


@dataclass(frozen=True)
class Contract:
    """Everything a robot has to know about a policy.

    Attributes:
        schema: format of the bundle.
        created: UTC, ISO 8601.
        robotrl_version: that wrote it.
        git_commit: of robotrl, None outside a checkout.
        mujoco_version: that compiled the model; None where another library simulates the task.
        task: name, `_target_` (import path) and options.
        model_sha256: of the compiled model (MJB bytes); None where another library simulates the task.
        control_hz: actions per second; None where another library does not tell.
        control_dt_s: time between two actions, s; None where another library does not tell.
        physics_dt_s: physics time step in training, s; None where another library simulates the task.
        inputs: observation terms in the order in which they are put side by side.
        outputs: action terms in the order of one action.
        horizon: h, actions of one decision (an action chunk), which are executed one after another.
        noise_dim: standard normal numbers that one decision is made from; 0 where there is no such input.
        sampling_steps: denoising steps inside the network, None where it has none.
        atol: largest accepted error of an action, see `action_error`.
        golden_sha256: of the recorded pairs.
        policy_sha256: of the network; None in the copies inside the network and the further files.
        files: further file of the bundle -> its sha256; none in those copies.
        robot: what moves; None where another library simulates the task, and in earlier schemas.
        training: where the policy comes from.
    """

    schema: str
    created: str
    robotrl_version: str
    git_commit: str | None
    mujoco_version: str | None
    task: dict[str, Any]
    model_sha256: str | None
    control_hz: float | None
    control_dt_s: float | None
    physics_dt_s: float | None
    inputs: tuple[InputTerm, ...]
    outputs: tuple[OutputTerm, ...]
    horizon: int
    noise_dim: int
    sampling_steps: int | None
    atol: float
    golden_sha256: str
    policy_sha256: str | None
    files: dict[str, str]
    robot: Robot | None
    training: dict[str, Any]

    @property
    def input_size(self) -> int:
        """Width of the network's observations."""
        return sum(term.size for term in self.inputs)

    @property
    def decision_size(self) -> int:
        """Width of the network's output, h*A: [a_0, a_1, ...]."""
        return self.horizon * len(self.outputs)

    @property
    def groups(self) -> tuple[str, ...]:
        """Observation groups in the order in which the network takes them."""
        return tuple(dict.fromkeys(term.group for term in self.inputs))

    @property
    def keys(self) -> dict[str, InputTerm]:
        """Input terms by name; a name that several groups share is written "group/name"."""
        names = [term.name for term in self.inputs]
        return {
            term.name if names.count(term.name) == 1 else f"{term.group}/{term.name}": term
            for term in self.inputs
        }

    def label(self, column: int) -> str:
        """Return what column `column` of the observations is, for messages."""
        for name, term in self.keys.items():
            if term.start <= column < term.start + term.size:
                i = column - term.start
                return f"{name!r} ({term.elements[i] if term.elements else i})"
        raise IndexError(column)

    def command_range(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest decision, (h*A,) float32 each, `atol` for rounding included."""
        slack = [self.atol * max(1.0, term.scale) for term in self.outputs]
        low = [term.low - more for term, more in zip(self.outputs, slack, strict=True)] * self.horizon
        high = [term.high + more for term, more in zip(self.outputs, slack, strict=True)] * self.horizon
        return np.array(low, np.float32), np.array(high, np.float32)

    def refusal(self, column: int, value: float) -> str:
        """Return why a value in column `column` of a decision is no command."""
        term = self.outputs[column % len(self.outputs)]
        if not math.isfinite(value):
            return f"the network's action {term.name!r} is not finite"
        limits = f"[{term.low:g}, {term.high:g}]"
        return f"the network's action {term.name!r} is {value:g}, outside its limits {limits}"

    def to_json(self) -> str:
        """Write as JSON that `from_json` reads back to an equal contract.

        Raises:
            RobotrlError: the task's options or the training's provenance are not plain data.
        """
        try:
            return json.dumps(dataclasses.asdict(self), indent=2, allow_nan=False, ensure_ascii=False) + "\n"
        except (TypeError, ValueError) as error:
            raise RobotrlError(f"contract: {error}; give text, finite numbers, lists and mappings") from error

    def inside(self) -> Contract:
        """Return the copy that the bundle's files carry, which cannot hold their own hashes."""
        return dataclasses.replace(self, policy_sha256=None, files={})

    @classmethod
    def from_json(cls, text: str, origin: str) -> Contract:
        """Read and check a contract.

        Args:
            text: the JSON.
            origin: named in errors.

        Raises:
            RobotrlError: not JSON, another schema, a missing or unknown key, a wrong type, or
                numbers that contradict each other.
        """
        try:
            data = json.loads(text, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise RobotrlError(f"{origin} is not valid JSON: {error}") from error
        schema = data.get("schema") if isinstance(data, dict) else None
        if isinstance(schema, str) and schema in _SINCE:
            data, schema = _upgraded(data, _SINCE[schema]), SCHEMA
        if schema != SCHEMA:
            raise RobotrlError(f"{origin} has schema {schema!r}, this robotrl reads {SCHEMA!r}")
        contract: Contract = from_plain(data, cls, origin)
        try:
            _check(contract)
        except ValueError as error:
            raise RobotrlError(f"{origin}: {error}") from error
        return contract


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")


def split_age(name: str) -> tuple[str, int]:
    """Split the name of an observation term: "rate@-2" is "rate" of 2 control steps ago."""
    found = re.fullmatch(r"(.+)@-([1-9][0-9]{0,8})", name, re.DOTALL)
    return (found[1], int(found[2])) if found else (name, 0)


def _upgraded(data: dict[str, Any], unsaid: dict[str, Any]) -> dict[str, Any]:
    """Say what an earlier schema left unsaid; what is malformed stays so."""
    inputs = data.get("inputs")
    if isinstance(inputs, list):
        inputs = [
            term | dict(zip(("of", "age_steps"), split_age(term["name"]), strict=True))
            if isinstance(term, dict) and isinstance(term.get("name"), str)
            else term
            for term in inputs
        ]
        data = data | {"inputs": inputs}
    return data | unsaid | {"schema": SCHEMA}


def _check(contract: Contract) -> None:
    """Raise ValueError where numbers contradict each other."""
    if not contract.inputs or not contract.outputs:
        raise ValueError("needs at least one input term and one output term")
    refuse_repeated("input term", [f"{term.group}/{term.name}" for term in contract.inputs])
    refuse_repeated("output term", [term.name for term in contract.outputs])
    _check_inputs(contract)
    for out in contract.outputs:
        if not out.low < out.high or (out.scale, out.offset) != scale_offset(out.low, out.high):
            raise ValueError(
                f"output {out.name!r}: scale {out.scale} and offset {out.offset} do not map [-1, 1] "
                f"onto [{out.low}, {out.high}]"
            )
    for name, least in (("horizon", 1), ("noise_dim", 0), ("sampling_steps", 1)):
        value = getattr(contract, name)
        if value is not None and value < least:
            raise ValueError(f"{name} must be at least {least}, got {value}")
    for name in ("control_dt_s", "physics_dt_s", "atol"):
        value = getattr(contract, name)
        if not (value is None or value > 0):
            raise ValueError(f"{name} must be above 0, got {value}")
    dt_s = contract.control_dt_s
    if contract.control_hz != (None if dt_s is None else 1.0 / dt_s):
        raise ValueError(
            f"control_hz {contract.control_hz} is not 1 / control_dt_s ({contract.control_dt_s} s)"
        )
    for name in contract.files:
        if name not in FURTHER_FILES:
            raise ValueError(f"files: {name!r} is none of {', '.join(FURTHER_FILES)}")
    if contract.robot is not None:
        check_robot(contract.robot, {out.name: (out.low, out.high) for out in contract.outputs})


def _check_inputs(contract: Contract) -> None:
    start = 0
    for term in contract.inputs:
        if term.size < 1 or any(n < 1 for n in term.shape):
            raise ValueError(f"input {term.name!r} has impossible shape {list(term.shape)}")
        if term.start != start:
            raise ValueError(
                f"input {term.name!r} starts at {term.start}, the terms before it end at {start}"
            )
        if term.elements and len(term.elements) != term.size:
            raise ValueError(f"input {term.name!r} has {len(term.elements)} element names for {term.size}")
        if term.scale != 1.0:
            raise ValueError(f"input {term.name!r} has scale {term.scale}, {SCHEMA} knows 1 only")
        start += term.size
    for group in contract.groups:
        _check_history(group, [term for term in contract.inputs if term.group == group])


def _check_history(group: str, terms: list[InputTerm]) -> None:
    """Raise ValueError unless a group shows the same terms for every age, oldest first."""
    for term in terms:
        if split_age(term.name) != (term.of, term.age_steps):
            raise ValueError(
                f"input {term.name!r} says to be {term.of!r} of {term.age_steps} control steps ago"
            )
    ages = [term.age_steps for term in terms]
    readings: dict[int, list[InputTerm]] = {}
    for term in terms:
        same = dataclasses.replace(term, name=term.of, age_steps=0, start=0)
        readings.setdefault(term.age_steps, []).append(same)
    newest = readings[min(ages)]
    if (
        ages != sorted(ages, reverse=True)
        or set(ages) != set(range(len(readings)))
        or any(reading != newest for reading in readings.values())
    ):
        raise ValueError(
            f"group {group!r} is no history: it has to show the same terms for every age, oldest first, "
            f"it shows {', '.join(term.name for term in terms[:8])}"
        )


def scale_offset(low: float, high: float) -> tuple[float, float]:
    """Return the (scale, offset) that map [-1, 1] onto [low, high]."""
    return (high - low) / 2, (high + low) / 2
