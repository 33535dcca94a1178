"""Memory of a simulation, and whether it grows while running.

    python scripts/bench_memory.py [--tasks cheetah_run ...] [--minutes 60] [--load 1.0]

For every task: resident memory of processes with 256 and with 1,280 environments after 20 steps, whose
difference is the memory of 1,024 simulations. Then one process runs the first task with
`realism=typical` for --minutes, with short episodes so that resets happen all the time; its resident
memory is sampled, and the growth between the means of the second and the last tenth of the run reported.
--load below 1 sleeps between steps, to leave the machine to others. Writes
benchmarks/results/bench_memory.json.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from typing import Any

from bench_common import RESULTS, provenance, write_json

FEW, MANY = 256, 1280
SAMPLES = 200


def resident_mb() -> float:
    """Return the memory of this process that is in RAM, MB."""
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def make(name: str, num_envs: int, realism: str | None) -> Any:
    """Return a VecEnv and random actions for it."""
    import torch
    import yaml

    from robotrl.compose import compose_task
    from robotrl.core.paths import CONFIGS
    from robotrl.envs.vec_env import VecEnv

    torch.set_num_threads(1)
    options: dict[str, Any] = {}
    if realism:
        options["realism"] = yaml.safe_load((CONFIGS / "realism" / f"{realism}.yaml").read_text())
    env = VecEnv(compose_task(name, options), num_envs, seed=0, stagger=True)
    env.reset()
    return env, 2 * torch.rand(num_envs, env.specs.action_dim) - 1


def size(name: str, num_envs: int) -> float:
    """Return the resident memory of a fresh process with that many environments, MB."""
    command = [sys.executable, __file__, "--child", name, str(num_envs)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def watch(name: str, minutes: float, load: float) -> dict[str, Any]:
    """Run a task and sample the resident memory."""
    env, actions = make(name, FEW, "typical")
    start, samples, steps = time.monotonic(), [], 0
    while (elapsed_s := time.monotonic() - start) < 60 * minutes:
        began = time.perf_counter()
        env.step(actions)
        time.sleep((1 / load - 1) * (time.perf_counter() - began))
        steps += 1
        if len(samples) <= elapsed_s / (60 * minutes) * SAMPLES:
            samples.append(resident_mb())
    tenth = len(samples) // 10
    early, late = statistics.mean(samples[tenth : 2 * tenth]), statistics.mean(samples[-tenth:])
    return {
        "task": name,
        "realism": "typical",
        "num_envs": FEW,
        "minutes": minutes,
        "environment_steps": steps * FEW,
        "resident_mb": [round(sample, 2) for sample in samples],
        "growth_mb": late - early,
        "growth_percent": 100 * (late / early - 1),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=["cheetah_run", "HalfCheetah-v5", "humanoid_run"])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--load", type=float, default=1.0, help="share of the time spent stepping, in (0, 1]")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        env, actions = make(args.child[0], int(args.child[1]), None)
        for _ in range(20):
            env.step(actions)
        print(json.dumps(resident_mb()))
        return
    document: dict[str, Any] = {"provenance": provenance(), "mb_per_simulation": {}}
    for name in args.tasks:
        each_mb = (size(name, MANY) - size(name, FEW)) / (MANY - FEW)
        document["mb_per_simulation"][name] = each_mb
        print(f"{name}: {each_mb:.3f} MB per simulation", flush=True)
    document["run"] = watch(args.tasks[0], args.minutes, args.load)
    write_json(RESULTS / "bench_memory.json", document)
    run = document["run"]
    print(
        f"{run['task']}, {FEW} environments: {run['growth_mb']:+.2f} MB ({run['growth_percent']:+.2f} %) "
        f"in {args.minutes:g} minutes, {run['environment_steps']:,} steps"
    )


if __name__ == "__main__":
    main()
