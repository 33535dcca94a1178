"""Specs as JSON and back; what JSON has no number for (no bound, no known time step) is null."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from robotrl.core.types import ActionTerm, ObsTerm, Source, Specs


def specs_to_json(specs: Specs) -> dict[str, Any]:
    """Return specs as dicts, lists, strings and finite numbers."""
    return {
        "observation": {
            group: [
                dataclasses.asdict(term)
                | {"source": term.source.value, "low": _finite(term.low), "high": _finite(term.high)}
                for term in terms
            ]
            for group, terms in specs.observation.items()
        },
        "action": [dataclasses.asdict(term) for term in specs.action],
        "control_dt_s": _finite(specs.control_dt_s),
    }


def specs_from_json(content: Mapping[str, Any]) -> Specs:
    """Return what `specs_to_json` wrote.

    Raises:
        KeyError, TypeError, ValueError: it is something else.
    """
    dt_s = content["control_dt_s"]
    return Specs(
        {group: tuple(map(_obs_term, terms)) for group, terms in content["observation"].items()},
        tuple(ActionTerm(**term) for term in content["action"]),
        math.nan if dt_s is None else float(dt_s),
    )


def _obs_term(content: Mapping[str, Any]) -> ObsTerm:
    values = dict(content)
    values["low"] = -math.inf if content["low"] is None else float(content["low"])
    values["high"] = math.inf if content["high"] is None else float(content["high"])
    values["source"] = Source(content["source"])
    values["elements"] = tuple(content["elements"])
    return ObsTerm(**values)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
