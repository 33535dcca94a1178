"""What the benchmark scripts share: provenance, JSON files, intervals."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def provenance() -> dict[str, Any]:
    """Return command, commit, machine and versions: what a figure needs to be measured again."""
    from robotrl.training.run_folder import versions

    found = versions() | {"command": shlex.join(["python", *sys.argv])}
    for name in ("mujoco", "stable_baselines3", "gymnasium", "dm_control"):
        found[name] = importlib.metadata.version(name)
    found["load_average_1min"] = os.getloadavg()[0]
    return found


def write_json(path: Path, content: Any) -> None:
    """Write JSON aside, then rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(aside, path)


def interval_of_mean(values: Any) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean; NaN for fewer than two values."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float("nan"), float("nan")
    picks = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)
