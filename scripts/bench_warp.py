"""Steps per second of mujoco-warp on a GPU, from 1,024 to 65,536 simulations.

    python scripts/bench_warp.py [--tasks ...] [--envs ...] [--repeats 5]
    python scripts/bench_warp.py --device cpu --envs 8 --sample-s 1     # smoke test only

For each task and number of simulations, in one process of its own: "physics" is physics steps per second
of bare `WarpSim.step`, "env" control steps per second of `VecEnv.step` (physics, observation, reward,
copy to the CPU; episodes are too long to end meanwhile) with pre-drawn random actions, each the median of
--repeats samples of about --sample-s seconds, the GPU idle before and after each. Kernels are compiled
before the first sample; `first_step_s` says how long that took. Simulations that failed are counted.

Writes benchmarks/results/bench_warp.json after every cell.
"""

from __future__ import annotations

import argparse
import functools
import importlib.metadata
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_common import RESULTS, provenance, write_json

TASKS = ("cartpole_balance", "cheetah_run", "walker_walk")
ENVS = (1_024, 4_096, 16_384, 65_536)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--envs", nargs="+", type=int, default=ENVS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sample-s", type=float, default=2.0)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ...; cpu for a smoke test")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_warp.json")
    parser.add_argument("--cell", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.cell:
        print(json.dumps(measure(options.tasks[0], options.envs[0], options)))
        return
    result: dict[str, Any] = {"provenance": provenance() | device_provenance(options.device), "cells": []}
    for task in options.tasks:
        for num_envs in options.envs:
            # a process of its own: memory of one cell must not limit the next
            command = [
                sys.executable, __file__, "--cell", "--tasks", task, "--envs", str(num_envs),
                "--repeats", str(options.repeats), "--sample-s", str(options.sample_s),
                "--device", options.device,
            ]  # fmt: skip
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                result["cells"].append({"task": task, "num_envs": num_envs, "error": done.returncode})
            else:
                result["cells"].append(json.loads(done.stdout.splitlines()[-1]))
            print(result["cells"][-1], flush=True)
            write_json(options.out, result)


def measure(name: str, num_envs: int, options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one task and number of simulations."""
    import torch

    from robotrl.compose import compose_task
    from robotrl.envs.vec_env import VecEnv
    from robotrl.sim.warp_sim import WarpSim

    task = compose_task(name, {"episode_length_s": 1_000 * 3600.0})
    env = VecEnv(task, num_envs, make_sim=functools.partial(WarpSim, device=options.device))
    start = time.perf_counter()
    env.reset()
    actions = 2.0 * torch.rand(16, num_envs, env.specs.action_dim) - 1.0
    valid = env.step(actions[0]).valid
    first_step_s = time.perf_counter() - start
    valid &= env.step(actions[1]).valid
    turn = iter(range(10**12))

    def env_step() -> None:
        nonlocal valid
        valid = valid & env.step(actions[next(turn) % len(actions)]).valid

    samples = functools.partial(sample, options.repeats, options.sample_s, options.device)
    physics = samples(lambda: env.sim.step(substeps=env.substeps))
    env.reset()
    control = samples(env_step)
    cell = {
        "task": name,
        "num_envs": num_envs,
        "substeps": env.substeps,
        "first_step_s": first_step_s,
        "physics_steps_per_s": statistics.median(physics) * num_envs * env.substeps,
        "env_steps_per_s": statistics.median(control) * num_envs,
        "physics_samples": [rate * num_envs * env.substeps for rate in physics],
        "env_samples": [rate * num_envs for rate in control],
        "failed_simulations": int((~valid).sum()),
    }
    if torch.device(options.device).type == "cuda":
        cell["device_memory_bytes"] = memory_in_use(options.device)
    return cell


def sample(repeats: int, sample_s: float, device: str, run: Callable[[], None]) -> list[float]:
    """Return calls per second, `repeats` times."""
    import torch

    def idle() -> None:
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize(device)

    def timed(calls: int) -> float:
        idle()
        start = time.perf_counter()
        for _ in range(calls):
            run()
        idle()
        return time.perf_counter() - start

    timed(2)  # records the graphs
    calls = max(1, round(sample_s / (timed(3) / 3)))
    return [calls / timed(calls) for _ in range(repeats)]


def memory_in_use(device: str) -> int:
    """Return bytes in use on a GPU, by Warp and torch together."""
    import torch

    free, total = torch.cuda.mem_get_info(device)
    return total - free


def device_provenance(device: str) -> dict[str, Any]:
    """Return what was measured on, and with which Warp."""
    import torch

    found: dict[str, Any] = {name: importlib.metadata.version(name) for name in ("mujoco-warp", "warp-lang")}
    found["device"] = device
    if torch.device(device).type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["cuda"] = torch.version.cuda
    return found


if __name__ == "__main__":
    main()
