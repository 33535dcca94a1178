"""What a full environment step costs beside bare physics, over all shipped tasks.

    python scripts/bench_tasks.py [--envs 256 1024] [--tasks ...] [--realism typical] [--repeats 5]

For every task, in one process and in turns: `VecEnv.step` (physics, observation, reward, termination,
auto-reset check, float32 policy input) and `mujoco.batch.Batch.step` of the same model on the same
terrain, from the same states with the same random actions. The limit is the quicker of a plain and a
persistent batch. Prints the ratio of the rates, 1 meaning that everything but physics is free, as the
median of the repeats; writes benchmarks/results/bench_tasks.json (bench_tasks_<realism>.json). Samples
lie inside episodes.
"""

from __future__ import annotations

import argparse
import gc
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import yaml
from bench_common import RESULTS, provenance, summarize_ratios, write_json
from mujoco.batch import Batch

from robotrl.compose import compose_task
from robotrl.core.catalog import available
from robotrl.core.paths import CONFIGS
from robotrl.envs.vec_env import VecEnv

ACTIONS = 8


def measure(name: str, num_envs: int, realism: dict[str, Any], args: argparse.Namespace) -> dict[str, Any]:
    """Return rates (environment steps per second) and ratios of one task."""
    task = compose_task(name, {"realism": realism} if realism else {})
    task.episode_length_s = 1e6 * task.control_dt_s
    env = VecEnv(task, num_envs, seed=0)
    env.reset()
    rng = torch.Generator().manual_seed(0)
    shape = (ACTIONS, num_envs, env.specs.action_dim)
    actions = 2 * torch.rand(shape, generator=rng) - 1
    ctrl = [env._to_ctrl(action).numpy() for action in actions]
    cpus = min(len(os.sched_getaffinity(0)), num_envs)
    plain = Batch(env.sim.model, num_envs, cpus)
    persistent = Batch(env.sim.model, num_envs, cpus, persistent=True)
    if task.realism.terrain.shapes:
        # the ground of each simulation is part of its physics
        for batch in (plain, persistent):
            batch.expand("geom_dataid")[...] = env.sim.param("geom_dataid").numpy()

    def bare(batch: Batch, stage: int) -> Callable[[int], None]:
        def step(index: int) -> None:
            batch.ctrl = ctrl[index % ACTIONS]
            batch.step(None, env.substeps, stage)

        return step

    stage = task.stage.value
    contenders: dict[str, Callable[[int], Any]] = {
        "ours": lambda index: env.step(actions[index % ACTIONS]),
        "bare": bare(plain, 0),
        "bare_persistent": bare(persistent, stage),
    }
    rates: dict[str, list[float]] = {key: [] for key in contenders}
    for index in range(3):
        env.step(actions[index])
    start = time.perf_counter()
    env.step(actions[3])
    count = max(3, round(args.sample_s / (time.perf_counter() - start)))
    for _ in range(args.repeats):
        for batch in (plain, persistent):
            batch.state[...] = env.sim.batch.state
            batch.forward()
        for key, step in contenders.items():
            start = time.perf_counter()
            for index in range(count):
                step(index)
            rates[key].append(num_envs * count / (time.perf_counter() - start))
    limit = max(("bare", "bare_persistent"), key=lambda key: statistics.median(rates[key]))
    ratios = [ours / best for ours, best in zip(rates["ours"], rates[limit], strict=True)]
    return {
        "task": name,
        "num_envs": num_envs,
        "steps_per_s": statistics.median(rates["ours"]),
        "limit_steps_per_s": statistics.median(rates[limit]),
        "limit": limit,
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "diverged": env.num_diverged,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(available("task")))
    parser.add_argument("--envs", nargs="+", type=int, default=[256, 1024])
    parser.add_argument("--realism", choices=list(available("realism")))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sample-s", type=float, default=0.3, help="length of a sample, s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    realism = (
        yaml.safe_load((CONFIGS / "realism" / f"{args.realism}.yaml").read_text()) if args.realism else {}
    )
    out = RESULTS / ("bench_tasks.json" if not args.realism else f"bench_tasks_{args.realism}.json")
    document: dict[str, Any] = {"provenance": provenance(), "cells": []}
    for num_envs in args.envs:
        for name in args.tasks:
            cell = measure(name, num_envs, realism, args)
            gc.collect()
            document["cells"].append(cell)
            document["summary"] = summarize_ratios(document["cells"])
            write_json(out, document)
            print(f"{name:28s} {num_envs:5d} {cell['steps_per_s']:10,.0f}/s  {cell['ratio']:.2f}", flush=True)
    for num_envs, entry in document["summary"].items():
        print(
            f"{num_envs} environments: median {entry['median_ratio']:.2f}, worst {entry['worst_ratio']:.2f} "
            f"({', '.join(entry['worst_tasks'][:3])})"
        )


if __name__ == "__main__":
    main()
