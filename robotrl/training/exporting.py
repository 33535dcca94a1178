"""From a run folder to a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robotrl.core import checkpoint
from robotrl.export.bundle import export_policy
from robotrl.training.restore import load_policy_and_config
from robotrl.training.run_folder import RunFolder


def export_run(run: Path, out: Path | None = None) -> Path:
    """Export the policy of a run's newest checkpoint.

    Args:
        run: the run folder.
        out: the bundle to make, `bundle` inside the run by default; an older bundle there is replaced.

    Returns:
        The bundle's folder.

    Raises:
        UsageError: `run` is not a run, or something that is not a bundle lies at `out`.
        RobotrlError: see `export_policy`.
    """
    folder = RunFolder(run)
    policy, config = load_policy_and_config(run)
    # the tensors were read with the policy; no path starts with "-"
    env_steps = checkpoint.load(folder.latest_checkpoint(), prefix="-")["env_steps"]
    provenance = {
        "algorithm": config.algorithm_class.__name__,
        "seed": config.seed,
        "env_steps": env_steps,
        "return_mean": _return_mean(folder, env_steps),
        "task_name": config.task_name,
    }
    return export_policy(policy, config.task, out or folder.bundle, provenance=provenance)


def _return_mean(folder: RunFolder, env_steps: int) -> float | None:
    """Return the mean return of the run's last evaluation if it was of this checkpoint."""
    try:
        summary: dict[str, Any] = json.loads((folder.evaluation / "summary.json").read_text())
    except FileNotFoundError:
        return None
    return summary["mean"] if summary["env_steps"] == env_steps else None
