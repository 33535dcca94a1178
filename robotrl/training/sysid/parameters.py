"""What is to be identified: entries of a YAML file, and the numbers of the model that they stand for."""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass, field
from pathlib import Path

import mujoco
import numpy as np
from omegaconf import OmegaConf

from robotrl.core.errors import UsageError, unknown_name
from robotrl.core.schema import fill, read_yaml
from robotrl.sim.draws import check_range
from robotrl.sim.model_fields import (
    NOT_NEGATIVE,
    Part,
    model_values,
    names_of,
    parts_of,
    rows_of,
    write_model_values,
)
from robotrl.sim.randomization import Op

DELAYS = ("actuator_delay", "sensor_delay")

_POSITIVE = ("body_mass", "body_inertia")
# for hinges; a slide's are the same with N for N m and m for rad
_UNITS = {
    "dof_damping": "N m s/rad",
    "dof_armature": "kg m^2",
    "dof_frictionloss": "N m",
    "jnt_stiffness": "N m/rad",
    "body_mass": "kg",
    "body_inertia": "kg m^2",
    "body_ipos": "m",
    "body_pos": "m",
    "actuator_kp": "N m/rad",
    "actuator_kd": "N m s/rad",
    "actuator_delay": "s",
    "sensor_delay": "s",
}
_LINEAR_UNITS = {"N m s/rad": "N s/m", "N m": "N", "N m/rad": "N/m", "kg m^2": "kg"}


@dataclass
class ModelParameter:
    """A quantity of the model that the logs shall tell."""

    field: str
    """As in `FieldRandomization`: an MjModel field, "actuator_kp" or "actuator_kd"; or a delay, s:
    "actuator_delay" or "sensor_delay"."""
    range: tuple[float, float]
    """Lowest and highest value that is possible at all; estimate and draws stay inside."""
    nominal: float | None = None
    """Where the search starts; null for the model's value (1 for scale, 0 for add)."""
    op: Op = Op.SET
    """set is the value itself; scale multiplies the model's value by it, add adds it."""
    names: str = ".*"
    """Regular expression that the whole name of an object matches (of the joint for dof_ and qpos fields)."""
    columns: list[int] | None = None
    """Columns of each object's row, such as 0 for sliding friction; null for all."""
    shared: bool = True
    """Whether all objects and columns have one value; otherwise each is found on its own."""

    def __post_init__(self) -> None:
        lower, upper = self.range = check_range(f"{self.field}: range", self.range)
        if not lower < upper:
            raise UsageError(f"{self.field}: range must be wider than {list(self.range)}")
        if self.nominal is not None and not lower <= self.nominal <= upper:
            raise UsageError(
                f"{self.field}: nominal must lie in range {list(self.range)}, got {self.nominal}"
            )
        if self.field in DELAYS and self.op is not Op.SET:
            raise UsageError(f"{self.field}: op must be set, got {self.op.value}")
        possible = self.field in DELAYS or (self.field in NOT_NEGATIVE and self.op is not Op.ADD)
        if possible and lower < 0.0:
            raise UsageError(f"{self.field}: range must not reach below 0, got {list(self.range)}")
        if self.field in _POSITIVE and self.op is not Op.ADD and not lower > 0.0:
            raise UsageError(f"{self.field}: range must lie above 0, got {list(self.range)}")


@dataclass
class Parameters:
    """The YAML file."""

    parameters: dict[str, ModelParameter] = field(default_factory=dict)
    """Name of your choice -> what it is."""


@dataclass(frozen=True)
class Unknown:
    """One number to be found.

    Args:
        name: the entry's, with those of object and column where each has its own.
        entry: what it is, with `names` and `columns` narrowed down to what this number sets.
        rows: of the field.
        parts: where MuJoCo keeps it; for delays the field itself, which is not written to the model.
        nominal: where the search starts.
        unit: "" where it is not known.
    """

    name: str
    entry: ModelParameter
    rows: tuple[int, ...]
    parts: tuple[Part, ...]
    nominal: float
    unit: str

    @property
    def is_delay(self) -> bool:
        """Whether it is a delay, which lies outside the physics."""
        return self.entry.field in DELAYS


def read_parameters(path: Path) -> dict[str, ModelParameter]:
    """Read the YAML file of `Parameters`.

    Raises:
        UsageError: the file is missing or an entry is wrong; the message names the key.
    """
    given = OmegaConf.to_container(read_yaml(path, "parameters file"))
    try:
        entries: dict[str, ModelParameter] = fill(Parameters, given, "").parameters  # type: ignore[arg-type]
    except UsageError as error:
        raise UsageError(f"{path}: {error}") from error
    if not entries:
        raise UsageError(f"{path}: there is nothing to identify: name an entry below `parameters`")
    return entries


def unknowns_of(model: mujoco.MjModel, entries: dict[str, ModelParameter]) -> list[Unknown]:
    """Return the numbers that the entries stand for in a model.

    Raises:
        UsageError: an entry names what the model has not, has several values or none in its range, or two
            entries the same number.
    """
    unknowns = [unknown for name, entry in entries.items() for unknown in _unknowns(model, name, entry)]
    taken: dict[tuple[str, int, int], str] = {}
    for unknown in unknowns:
        for place in _places(unknown):
            if place in taken:
                raise UsageError(
                    f"parameters.{unknown.name}: {place[0]} is identified by {taken[place]} already"
                )
            taken[place] = unknown.name
    return unknowns


def with_values(model: mujoco.MjModel, unknowns: list[Unknown], values: np.ndarray) -> mujoco.MjModel:
    """Return a copy of a model with the values of unknowns, derived constants included; delays are left out.

    Args:
        model: whose values `scale` and `add` refer to.
        unknowns: P of them.
        values: (P,).
    """
    changed = copy.copy(model)
    constants = False
    for unknown, value in zip(unknowns, values, strict=True):
        if unknown.is_delay:
            continue
        for part in unknown.parts:
            held = model_values(changed, part.field).copy()
            rows = held.reshape(1 if part.field.startswith("opt.") else len(held), -1)
            chosen = np.ix_(unknown.rows, part.columns or range(rows.shape[1]))
            rows[chosen] = part.sign * combined(unknown.entry.op, part.sign * rows[chosen], value)
            write_model_values(changed, part.field, held)
            constants |= part.field in mujoco.MjModel._setconst_inputs or part.field.startswith("opt.")
    if constants:
        mujoco.mj_setConst(changed, mujoco.MjData(changed))
    return changed


def combined(op: Op, held: np.ndarray, value: float) -> np.ndarray:
    """Return what an operation makes of the model's values."""
    if op is Op.SCALE:
        return held * value
    return held + value if op is Op.ADD else np.full_like(held, value)


def _places(unknown: Unknown) -> list[tuple[str, int, int]]:
    return [
        (part.field, row, column)
        for part in unknown.parts
        for row in unknown.rows
        for column in part.columns or (0,)
    ]


def _unknowns(model: mujoco.MjModel, name: str, entry: ModelParameter) -> list[Unknown]:
    where = f"parameters.{name}"
    parts = parts_of(entry.field, entry.columns, where)
    held = _held(model, parts[0].field, where)
    rows = rows_of(model, entry.field, entry.names, where)
    columns = parts[0].columns or tuple(range(held.shape[1]))
    if not all(0 <= column < held.shape[1] for column in columns):
        raise UsageError(f"{where}: {entry.field} has columns 0 to {held.shape[1] - 1}, got {entry.columns}")
    parts = tuple(part._replace(columns=part.columns or columns) for part in parts)
    unit = _unit(model, entry, rows)
    if entry.shared:
        nominal = _nominal(entry, parts[0].sign * held[np.ix_(rows, columns)], where)
        return [Unknown(name, entry, tuple(rows), parts, nominal, unit)]
    found = []
    for row in rows:
        owner = _owner(model, entry.field, row, where)
        for place, column in enumerate(columns):
            single = copy.copy(entry)
            single.names = re.escape(owner)
            single.columns = None if entry.columns is None and len(columns) == 1 else [column]
            if parts[0].field != entry.field:
                single.columns = None
            label = re.sub(r"\W", "_", f"{name}_{owner}" + (f"_{column}" if len(columns) > 1 else ""))
            kept = tuple(part._replace(columns=(part.columns[place],)) for part in parts)  # type: ignore[index]
            nominal = _nominal(entry, parts[0].sign * held[[row], column], f"{where} of {owner!r}")
            found.append(Unknown(label, single, (row,), kept, nominal, unit))
    return found


def _held(model: mujoco.MjModel, name: str, where: str) -> np.ndarray:
    """(rows, columns) values of a field."""
    try:
        values = model_values(model, name)
    except AttributeError as error:
        known = [known for known in dir(model) if isinstance(getattr(model, known), np.ndarray)]
        raise UsageError(f"{where}: {unknown_name('model field', name, known)}") from error
    if values.dtype.kind != "f":
        raise UsageError(f"{where}: {name} cannot be identified: it does not hold real numbers")
    return values.reshape(1 if name.startswith("opt.") else len(values), -1)


def _nominal(entry: ModelParameter, held: np.ndarray, where: str) -> float:
    lower, upper = entry.range
    if entry.nominal is not None:
        return entry.nominal
    if entry.op is not Op.SET:
        nominal = 1.0 if entry.op is Op.SCALE else 0.0
    else:
        if held.size > 1 and not np.allclose(held, held.flat[0], rtol=1e-6):
            raise UsageError(
                f"{where}: the model's values of {entry.field} differ ({held.min():g} to {held.max():g}): "
                "give nominal, columns or shared: false, or op: scale"
            )
        nominal = float(held.flat[0])
    if not lower <= nominal <= upper:
        raise UsageError(
            f"{where}: the model's {entry.field} is {nominal:g}, outside range {list(entry.range)}: widen "
            "it or give nominal"
        )
    return nominal


def _owner(model: mujoco.MjModel, name: str, row: int, where: str) -> str:
    """Return the name of the object that a row belongs to."""
    if name.startswith("opt."):
        return name
    prefix, at = name.partition("_")[0], row
    if name.startswith(("dof_", "qpos")):
        prefix = "jnt"
        at = int(model.dof_jntid[row]) if name.startswith("dof_") else _joint_at(model, row)
    owner = names_of(model, prefix)[at]
    if not owner:
        raise UsageError(f"{where}: {prefix} {at} has no name, so it cannot have a value of its own: name it")
    return owner


def _joint_at(model: mujoco.MjModel, row: int) -> int:
    return int(np.searchsorted(model.jnt_qposadr, row, side="right")) - 1


def _unit(model: mujoco.MjModel, entry: ModelParameter, rows: list[int]) -> str:
    if entry.op is Op.SCALE:
        return "x"
    unit = _UNITS.get(entry.field, "")
    if entry.field.startswith("dof_"):
        joints = [int(model.dof_jntid[row]) for row in rows]
    elif entry.field.startswith("actuator_k"):
        joints = [int(model.actuator_trnid[row, 0]) for row in rows]
    else:
        joints = rows if entry.field.startswith("jnt_") else []
    slides = [int(model.jnt_type[joint]) == int(mujoco.mjtJoint.mjJNT_SLIDE) for joint in joints]
    if not any(slides):
        return unit
    return _LINEAR_UNITS.get(unit, unit) if all(slides) else ""
