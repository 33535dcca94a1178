"""Damage thousands of bundles: none may crash the reader, none may command anything outside its limits.

    python scripts/fuzz_bundles.py --count 10000

Three bundles are exported (a Gaussian, a Beta and a flow policy with chunks and a history, this one with its
C source) and damaged as `bundle_mutations` says. Every batch runs in a process of its own, so that a crash
below Python (a segmentation fault of onnxruntime) is counted and does not end the run; the bundle that led to
it is then found alone. Writes benchmarks/results/fuzz_bundles.json.
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from bench_common import RESULTS, provenance, write_json
from bundle_mutations import run

BATCH = 250


def sources(folder: Path) -> list[Path]:
    """Export the bundles that are damaged."""
    from robotrl.export.bundle import export_policy
    from robotrl.networks.denoiser import Network
    from robotrl.policies.flow import FlowConfig, FlowPolicy
    from robotrl.policies.gaussian import BetaConfig, BetaPolicy, GaussianConfig, GaussianPolicy
    from robotrl.policies.policy import Policy
    from robotrl.tasks.control_suite.pendulum import Pendulum
    from robotrl.tasks.control_suite.walker import Walker
    from robotrl.tasks.realism import Realism
    from robotrl.tasks.task import Task

    rng = torch.Generator().manual_seed(0)
    pendulum, walker = Pendulum(episode_length_s=1.0), Walker(realism=Realism(history={"policy": 2}))
    small, flow = [16], FlowConfig(hidden=[16], steps=2, horizon=2, network=Network.MLP)

    def of(task: Task) -> Any:
        return task.specs(task.build_model())

    made: list[tuple[str, Task, Policy, tuple[str, ...]]] = [
        ("gaussian", pendulum, GaussianPolicy(of(pendulum), GaussianConfig(hidden=small), rng), ()),
        ("beta", walker, BetaPolicy(of(walker), BetaConfig(hidden=small), rng), ()),
        ("flow", walker, FlowPolicy(of(walker), flow, rng), ("c",)),
    ]
    return [
        export_policy(
            policy, task, folder / name, provenance={"seed": 0}, allow_simulation_only=True, formats=formats
        )
        for name, task, policy, formats in made
    ]


def batch(folder: Path, first: int, count: int) -> dict[str, Any]:
    """Damage `count` bundles in this process."""
    bundles = sorted(path for path in folder.iterdir() if path.is_dir())
    found: collections.Counter[str] = collections.Counter()
    crashes = []
    with tempfile.TemporaryDirectory() as work:
        for seed in range(first, first + count):
            try:
                found[": ".join(run(bundles, Path(work), seed))] += 1
            except Exception:  # a crash is what is looked for
                crashes.append({"seed": seed, "traceback": traceback.format_exc()[-2000:]})
    return {"found": dict(found), "crashes": crashes}


def in_a_process(folder: Path, first: int, count: int) -> dict[str, Any]:
    """Damage `count` bundles in a process of their own; where it dies, each of them in one."""
    command = [sys.executable, __file__, "--batch", str(folder), str(first), str(count)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])  # libraries print, too
    if count == 1:
        died = f"exit code {done.returncode}: {done.stderr[-1000:]}"
        return {"found": {}, "crashes": [{"seed": first, "traceback": died}]}
    half = count // 2
    parts = [in_a_process(folder, first, half), in_a_process(folder, first + half, count - half)]
    found: collections.Counter[str] = collections.Counter()
    for part in parts:
        found.update(part["found"])
    return {"found": dict(found), "crashes": [crash for part in parts for crash in part["crashes"]]}


def main() -> None:
    """Damage bundles and write what became of them; exit code 1 if one crashed the reader."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS / "fuzz_bundles.json")
    parser.add_argument("--batch", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.batch:
        print(json.dumps(batch(Path(args.batch[0]), int(args.batch[1]), int(args.batch[2]))))
        return
    start = time.monotonic()
    found: collections.Counter[str] = collections.Counter()
    crashes: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        sources(folder)
        firsts = range(args.first_seed, args.first_seed + args.count, BATCH)
        ends = args.first_seed + args.count
        with concurrent.futures.ThreadPoolExecutor(args.processes) as pool:
            jobs = [pool.submit(in_a_process, folder, first, min(BATCH, ends - first)) for first in firsts]
            for job in concurrent.futures.as_completed(jobs):
                found.update(job.result()["found"])
                crashes += job.result()["crashes"]
                print(f"{sum(found.values())} damaged, {len(crashes)} crashes", flush=True)
    outcomes: collections.Counter[str] = collections.Counter()
    for name, count in found.items():
        outcomes[name.partition(": ")[2]] += count
    result = {
        "provenance": provenance(),
        "damaged": sum(found.values()) + len(crashes),
        "crashes": crashes,
        "outcomes": dict(outcomes),
        "by_damage": dict(sorted(found.items())),
        "wall_s": time.monotonic() - start,
    }
    write_json(args.out, result)
    print(json.dumps({key: result[key] for key in ("damaged", "outcomes", "by_damage", "wall_s")}, indent=1))
    if crashes:
        sys.exit(f"{len(crashes)} bundles crashed the reader")


if __name__ == "__main__":
    main()
