"""What a fit says about each number, in words and as the range that training draws it from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from robotrl.core.schema import plain
from robotrl.training.sysid.fit import Fit
from robotrl.training.sysid.parameters import Unknown

# share of a range within which an estimate lies at its end
_AT_END = 1e-3
_CORRELATED = 0.95
_GROUPS = {"actuator_delay": "actuator_delays", "sensor_delay": "sensor_delays"}


@dataclass(frozen=True)
class Estimate:
    """One number that was identified.

    Args:
        unknown: what it is.
        value: estimate, in `unknown.unit`.
        half_width: of the 95 % interval; infinite where the logs say nothing.
        drawn: (lower, upper) for training.
        notes: what to know about it; empty for a good estimate.
    """

    unknown: Unknown
    value: float
    half_width: float
    drawn: tuple[float, float]
    notes: tuple[str, ...]

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval, which may reach beyond what is possible."""
        return self.value - self.half_width, self.value + self.half_width

    def as_json(self) -> dict[str, Any]:
        """Return what `estimates.json` holds of it; null in place of what is infinite."""
        known = math.isfinite(self.half_width)
        return {
            "name": self.unknown.name,
            "field": self.unknown.entry.field,
            "names": self.unknown.entry.names,
            "columns": self.unknown.entry.columns,
            "op": self.unknown.entry.op.value,
            "unit": self.unknown.unit,
            "nominal": self.unknown.nominal,
            "estimate": self.value,
            "interval_95": list(self.interval) if known else None,
            "range": list(self.unknown.entry.range),
            "drawn": list(self.drawn),
            "notes": list(self.notes),
        }


def estimates_of(unknowns: list[Unknown], fit: Fit, factor: float, dt_s: float) -> list[Estimate]:
    """Judge each number of a fit.

    Args:
        unknowns: P of them.
        fit: of these.
        factor: half-width of what training draws from, in half-widths of the 95 % interval.
        dt_s: the physics step, s.
    """
    correlation = fit.correlation
    return [
        _estimate(i, unknowns, float(fit.values[i]), float(fit.half_widths[i]), correlation[i], factor, dt_s)
        for i in range(len(unknowns))
    ]


def _estimate(
    index: int,
    unknowns: list[Unknown],
    value: float,
    half_width: float,
    correlation: np.ndarray,
    factor: float,
    dt_s: float,
) -> Estimate:
    unknown = unknowns[index]
    lower, upper = unknown.entry.range
    notes = []
    if half_width >= (upper - lower) / 2:
        drawn = (lower, upper)
        notes.append("the logs say nothing about it: the whole range is drawn")
    else:
        wanted = value - factor * half_width, value + factor * half_width
        drawn = max(lower, wanted[0]), min(upper, wanted[1])
        for end, cut, place in zip(wanted, drawn, ("lower", "upper"), strict=True):
            if end != cut:
                notes.append(f"drawn from cut at the range's {place} end, not from {end:.4g}")
    for end, place in ((lower, "lower"), (upper, "upper")):
        if abs(value - end) <= _AT_END * (upper - lower):
            notes.append(
                f"at the range's {place} end {end:g}: is it wider, or does the model lack something?"
            )
    for other in np.flatnonzero(np.abs(correlation) > _CORRELATED):
        if other != index:
            notes.append(f"correlation {correlation[other]:.2f} with {unknowns[other].name}")
    if unknown.is_delay and drawn[0] < dt_s:
        notes.append(f"MuJoCo makes delays between 0 and {dt_s:g} s (a physics step) that long")
    return Estimate(unknown, value, half_width, drawn, tuple(notes))


def realism_yaml(estimates: list[Estimate], factor: float) -> str:
    """Return a realism section that draws each number around its estimate, for `realism=FILE`."""
    lines = [f"# What robotrl sysid identified: estimate -+ {factor:g} half-widths of the 95 % interval"]
    for group in ("randomize", *_GROUPS.values()):
        chosen = [each for each in estimates if _GROUPS.get(each.unknown.entry.field, "randomize") == group]
        if chosen:
            lines.append(f"{group}:")
        for each in chosen:
            spread = f"{each.half_width:.2g}" if math.isfinite(each.half_width) else "unknown"
            lines.append(f"  # {each.value:.6g} +- {spread} {each.unknown.unit}".rstrip())
            lines += [f"  # {note}" for note in each.notes]
            entry = yaml.safe_dump(_entry(each), default_flow_style=True, sort_keys=False, width=math.inf)
            lines.append(f"  {each.unknown.name}: {entry.strip()}")
    return "\n".join(lines) + "\n"


def _entry(estimate: Estimate) -> dict[str, Any]:
    """Return the keys of a `FieldRandomization` or a `Delay`."""
    entry = plain(estimate.unknown.entry)
    drawn = [float(f"{end:.9g}") for end in estimate.drawn]
    if estimate.unknown.is_delay:
        return {"names": entry["names"], "range_s": drawn, "interpolation": "linear"}
    kept = {key: entry[key] for key in ("field", "op", "names", "columns") if entry[key] is not None}
    return kept | {"range": drawn, "shared": True}
