"""Environment steps per second against EnvPool, over every task that both have: all 62.

    python scripts/bench_envpool.py [--envs 16 256 1024] [--tasks ...] [--repeats 5] [--fresh]

As bench_sim.py, whose head says how EnvPool is installed: ours and EnvPool in a process each, in turns,
with the same number of environments, threads for all CPUs and random actions; samples include the resets
after terminations. Prints the median over the repeats of ours / EnvPool; writes
benchmarks/results/bench_envpool.json after every cell and goes on where it was stopped, unless --fresh.
"""

from __future__ import annotations

import argparse
import json
import statistics
from typing import Any

import yaml
from bench_common import RESULTS, provenance, summarize_ratios, write_json
from bench_sim import measure_cell

from robotrl.core.catalog import available
from robotrl.core.paths import CONFIGS

OUT = RESULTS / "bench_envpool.json"
SUITES = ("robotrl.tasks.control_suite.", "robotrl.tasks.gymnasium.")


def tasks_of_both() -> list[str]:
    """Return the names of the tasks that come from dm_control and Gymnasium, as EnvPool's do."""
    files = {name: CONFIGS / "task" / f"{name}.yaml" for name in available("task")}
    return [
        name
        for name, file in files.items()
        if yaml.safe_load(file.read_text())["_target_"].startswith(SUITES)
    ]


def compare(task: str, num_envs: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure a task at one number of environments."""
    entries = measure_cell(task, num_envs, ["ours", "envpool"], args)["contenders"]
    errors = {name: entry["error"] for name, entry in entries.items() if "error" in entry}
    if errors:
        return {"task": task, "num_envs": num_envs, "errors": errors}
    ours, theirs = entries["ours"]["steps_per_s"], entries["envpool"]["steps_per_s"]
    ratios = [mine / other for mine, other in zip(ours, theirs, strict=True)]
    return {
        "task": task,
        "num_envs": num_envs,
        "steps_per_s": statistics.median(ours),
        "envpool_steps_per_s": statistics.median(theirs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "note": entries["envpool"]["note"],
    }


def main() -> None:
    """Measure what is asked for and is not there yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=tasks_of_both())
    parser.add_argument("--envs", nargs="+", type=int, default=[16, 256, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sample-s", type=float, default=0.3, help="length of a sample, s")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="wait for an answer, s")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    args = parser.parse_args()
    args.boundaries, args.max_processes = False, 0
    document: dict[str, Any] = {"provenance": provenance(), "cells": []}
    if OUT.is_file() and not args.fresh:
        document["cells"] = json.loads(OUT.read_text())["cells"]
    for num_envs in args.envs:
        for task in args.tasks:
            if any((c["task"], c["num_envs"]) == (task, num_envs) for c in document["cells"]):
                continue
            cell = compare(task, num_envs, args)
            document["cells"].append(cell)
            document["summary"] = summarize_ratios(document["cells"])
            write_json(OUT, document)
            shown = f"{cell['ratio']:.2f}" if "ratio" in cell else f"failed: {cell['errors']}"
            print(f"{task:28s} {num_envs:5d}  {shown}", flush=True)
    for num_envs, entry in document.get("summary", {}).items():
        print(
            f"{num_envs} environments: median {entry['median_ratio']:.2f}, worst {entry['worst_ratio']:.2f} "
            f"({', '.join(entry['worst_tasks'][:3])})"
        )


if __name__ == "__main__":
    main()
