"""What the benchmark scripts share: provenance, JSON files, intervals."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import shlex
import statistics
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
    """Write JSON aside, then rename it into place; what is not a finite number becomes null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    aside.write_text(json.dumps(_finite(content), indent=1, allow_nan=False) + "\n")
    os.replace(aside, path)


def _finite(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _finite(value) for key, value in node.items()}
    if isinstance(node, list | tuple):
        return [_finite(value) for value in node]
    return None if isinstance(node, float) and not math.isfinite(node) else node


def trained(folder: Path, last_file: str, *words: str) -> Path:
    """Return the run in `folder`, trained to its end: a run that was stopped there goes on.

    Args:
        folder: of this run alone.
        last_file: what a complete run has.
        *words: as of `robotrl train`.

    Raises:
        UsageError: the run in `folder` was begun with other words.
    """
    import robotrl
    from robotrl.core.errors import UsageError
    from robotrl.training.run_folder import RunFolder
    from robotrl.training.train import resume

    runs = [file.parent for file in sorted(folder.rglob("config.yaml"))]
    # one that was stopped before its first checkpoint has nothing to go on from
    started = [run for run in runs if RunFolder(run).checkpoints()]
    begun_with = folder / "words.json"
    if not started:
        write_json(begun_with, words)
        return robotrl.train(None, *words, f"runs_dir={folder}", show_progress=False)
    if not begun_with.is_file() or json.loads(begun_with.read_text()) != list(words):
        raise UsageError(f"{folder} holds a run of other options: move it away, or give another --runs-dir")
    run = started[-1]
    return run if (run / last_file).is_file() else resume(run, show_progress=False)


def collected(
    folder: Path, task: str, episodes: int, noise_std: float, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return what there is to say of a task's noisy demonstrations, recorded now unless `folder` has them."""
    from robotrl.compose import compose_task
    from robotrl.data.loading import load_dataset
    from robotrl.training.collect import CollectOptions, collect

    if not folder.exists():
        wanted = CollectOptions("expert", episodes, noise_std=noise_std, out=str(folder))
        collect(wanted, compose_task(task, options or {}), task, show_progress=False)
    dataset = load_dataset(folder)
    return {
        "task": task,
        "options": options or {},
        "episodes": episodes,
        "noise_std": noise_std,
        "success": float(dataset.terminated.sum()) / episodes,
        "transitions": int(dataset.lengths.sum()),
    }


def known_pieces(path: Path) -> list[dict[str, Any]]:
    """Return the pieces of a results file, by whichever process."""
    return json.loads(path.read_text())["pieces"] if path.is_file() else []


def interval_of_mean(values: Any) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the mean; NaN for fewer than two values."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return float("nan"), float("nan")
    picks = np.random.default_rng(0).integers(len(values), size=(10_000, len(values)))
    low, high = np.percentile(values[picks].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def summarize_ratios(cells: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and worst `ratio` over the tasks per number of environments; cells without one failed."""
    summary = {}
    for num_envs in sorted({cell["num_envs"] for cell in cells if "ratio" in cell}):
        mine = [cell for cell in cells if cell["num_envs"] == num_envs and "ratio" in cell]
        mine.sort(key=lambda cell: cell["ratio"])
        summary[str(num_envs)] = {
            "tasks": len(mine),
            "median_ratio": statistics.median(cell["ratio"] for cell in mine),
            "worst_ratio": mine[0]["ratio"],
            "worst_tasks": [cell["task"] for cell in mine[:5]],
            "share_at_least_0.9": sum(cell["ratio"] >= 0.9 for cell in mine) / len(mine),
            "share_at_least_1": sum(cell["ratio"] >= 1.0 for cell in mine) / len(mine),
        }
    return summary
