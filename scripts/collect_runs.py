"""Gather finished runs of one recipe into a result file: curves, final figures, command, commit, machine.

python scripts/collect_runs.py runs/walker_walk/sac/* --out benchmarks/results/quickstart.json
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
from pathlib import Path
from typing import Any

from robotrl.training.metrics import read_metrics
from robotrl.training.run_folder import RunFolder, write_json


def without_machine_paths(command: str, root: Path) -> str:
    """Shorten the absolute paths of a command line: below `root` to relative ones, others to their names."""

    def shorten(match: re.Match[str]) -> str:
        path = Path(match[0])
        return str(path.relative_to(root)) if path.is_relative_to(root) else path.name

    return re.sub(r"(?<![^\s=,\[])/[^\s,\]]+", shorten, command)


def summarize_run(path: Path) -> dict[str, Any]:
    """Return the figures of one run that has been evaluated, without paths of the machine.

    The evaluation's mean and interval are None where every episode diverged.
    """
    run = RunFolder(path)
    config = run.config()
    rows = read_metrics(run.metrics_file)
    evaluations = [row for row in rows if "eval/return" in row]
    checks = run.bundle / "verification.json"
    versions = json.loads((run.path / "versions.json").read_text())
    # a run is root/<runs_dir>/<task>/<algorithm>/<time>
    versions["command"] = without_machine_paths(versions["command"], run.path.resolve().parents[3])
    return {
        "seed": config.seed,
        "target_return": config.target_return,
        "evaluation": json.loads((run.evaluation / "summary.json").read_text()),
        "training_s": rows[-1]["wall_s"],
        "env_steps": int(rows[-1]["env_steps"]),
        "curve": [
            {
                "env_steps": int(row["env_steps"]),
                "wall_s": row["wall_s"],
                "return": row["eval/return"],
                "ci_low": row["eval/return_low"],
                "ci_high": row["eval/return_high"],
            }
            for row in evaluations
        ],
        "bundle_verified": checks.is_file() and all(c["passed"] for c in json.loads(checks.read_text())),
        "versions": versions,
    }


def describe(run: dict[str, Any]) -> str:
    """Return the line that is printed about a run."""
    evaluation = run["evaluation"]
    score = (
        "no return, every episode diverged,"
        if evaluation["mean"] is None
        else f"return {evaluation['mean']:.1f} [{evaluation['ci_low']:.1f}, {evaluation['ci_high']:.1f}]"
    )
    return f"seed {run['seed']}: {score} after {run['env_steps']:,} steps in {run['training_s']:.0f} s"


def main() -> None:
    """Write the result file and print one line per run.

    With a run that has no return there is no mean and no lowest return either: both are null.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    runs = sorted((summarize_run(path) for path in arguments.runs), key=lambda run: run["seed"])
    recipes = {RunFolder(path).config().recipe for path in arguments.runs}
    if len(recipes) != 1:
        parser.error(f"the runs are of different recipes: {sorted(map(str, recipes))}")
    means = [run["evaluation"]["mean"] for run in runs]
    content = {
        "recipe": recipes.pop(),
        "seeds": [run["seed"] for run in runs],
        "return_mean": None if None in means else statistics.mean(means),
        "return_min": None if None in means else min(means),
        "training_s_max": max(run["training_s"] for run in runs),
        "runs": runs,
    }
    write_json(arguments.out, content)
    for run in runs:
        print(describe(run))


if __name__ == "__main__":
    main()
