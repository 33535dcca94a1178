"""Pictures per second of environments that observe pixels: robotrl against dm_control and Gymnasium.

    python scripts/bench_pixels.py [--quick] [--tasks ...] [--envs ...] [--repeats 5]

A call is one control step of all environments with the same pre-drawn random actions and one 84 x 84 RGB
picture of each, by the same camera. Every contender lives in a process of its own and they run in turns,
one sample each per repeat, so that a machine that drifts drifts for all of them. No episode ends.

"dm_control" and "gymnasium" are the projects' own pixel wrappers as they come, in a Python loop over
environments: both draw shadows, reflections and 4 samples per pixel. "gymnasium_async" has a process per
environment. The contenders with "plain" draw what ours draws: without those and without the sky. Peers
make a model and a context per environment, so they are measured with --max-envs at most.

Pictures per second depend on what else the machine does; CPU time per picture hardly does, and is given
for contenders of one process.

Writes benchmarks/results/bench_pixels.json.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import RESULTS, provenance, write_json
from rich.console import Console
from rich.table import Table

SIZE = 84
FOREVER_S = 1e7
PEERS = {"dm_control": ("dm_control", "dm_control_plain"), "gymnasium": (
    "gymnasium", "gymnasium_async", "gymnasium_plain",
)}  # fmt: skip
# task -> (whose it is, camera)
TASKS = {
    "cheetah_run": ("dm_control", "side"),
    "walker_walk": ("dm_control", "side"),
    "HalfCheetah-v5": ("gymnasium", "track"),
    "Ant-v5": ("gymnasium", "track"),
    "Humanoid-v5": ("gymnasium", "track"),
}
PLAIN = ("shadow", "reflection", "skybox")

Step = Callable[[int], Any]


def actions(n: int, size: int) -> np.ndarray:
    """(64, n, size) float32 in [-0.4, 0.4]: within every task's limits."""
    return np.random.default_rng(0).uniform(-0.4, 0.4, (64, n, size)).astype(np.float32)


def ours(task: str, camera: str, n: int) -> Step:
    """A VecEnv whose task has an image."""
    import torch

    from robotrl.compose import compose_task
    from robotrl.envs.vec_env import VecEnv
    from robotrl.sim.cameras import ImageTerm

    torch.set_num_threads(1)
    instance = compose_task(task, {})
    instance.episode_length_s = FOREVER_S * instance.control_dt_s
    if hasattr(instance, "terminate_when_unhealthy"):
        instance.terminate_when_unhealthy = False
    instance.images = {"pixels": ImageTerm(camera, SIZE, SIZE)}
    env = VecEnv(instance, n)
    env.reset()
    drawn = torch.from_numpy(actions(n, env.specs.action_dim))
    return lambda i: env.step(drawn[i]).obs["pixels"].numpy()


def dm_control(task: str, camera: str, n: int, plain: bool = False) -> Step:
    """dm_control's pixel wrapper around its own environments."""
    from robotrl.envs.dm_control_compat import load_suite

    suite = load_suite()
    from dm_control.suite.wrappers import pixels

    domain, name = task.split("_", 1)
    arguments: dict[str, Any] = {"height": SIZE, "width": SIZE, "camera_id": camera}
    if plain:
        arguments["render_flag_overrides"] = dict.fromkeys(PLAIN, False)
    envs = []
    for i in range(n):
        env = suite.load(domain, name, {"random": i, "time_limit": FOREVER_S})
        env.physics.model.vis.quality.offsamples = 0 if plain else 4
        envs.append(pixels.Wrapper(env, render_kwargs=arguments))
        envs[-1].reset()
    drawn = actions(n, envs[0].action_spec().shape[0]).astype(np.float64)

    def step(i: int) -> Any:
        return np.stack(
            [env.step(row).observation["pixels"] for env, row in zip(envs, drawn[i], strict=True)]
        )

    return step


def make_gymnasium(task: str, camera: str, plain: bool) -> Any:
    """One of Gymnasium's environments in its pixel wrapper."""
    import gymnasium
    import mujoco

    options = {} if task == "HalfCheetah-v5" else {"terminate_when_unhealthy": False}
    env = gymnasium.make(
        task,
        render_mode="rgb_array",
        width=SIZE,
        height=SIZE,
        camera_name=camera,
        max_episode_steps=int(FOREVER_S),
        **options,
    )
    if plain:
        env.unwrapped.model.vis.quality.offsamples = 0
        env.reset()
        env.render()
        flags = env.unwrapped.mujoco_renderer._get_viewer("rgb_array").scn.flags
        for name in PLAIN:
            flags[getattr(mujoco.mjtRndFlag, f"mjRND_{name.upper()}")] = 0
    return gymnasium.wrappers.AddRenderObservation(env, render_only=True)


def gymnasium(task: str, camera: str, n: int, plain: bool = False, processes: bool = False) -> Step:
    """Gymnasium's vector environment of its pixel wrapper."""
    from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv

    makers = [partial(make_gymnasium, task, camera, plain)] * n
    env = AsyncVectorEnv(makers, context="spawn") if processes else SyncVectorEnv(makers)
    env.reset(seed=0)
    drawn = actions(n, env.single_action_space.shape[0])
    return lambda i: env.step(drawn[i])[0]


CONTENDERS: dict[str, Callable[[str, str, int], Step]] = {
    "ours": ours,
    "dm_control": dm_control,
    "dm_control_plain": partial(dm_control, plain=True),
    "gymnasium": gymnasium,
    "gymnasium_async": partial(gymnasium, processes=True),
    "gymnasium_plain": partial(gymnasium, plain=True),
}


def serve(pipe: Connection, name: str, task: str, n: int) -> None:
    """Time calls of one contender: receive their number, answer seconds and CPU seconds; end at 0."""
    os.environ.setdefault("MUJOCO_GL", "egl")
    step = CONTENDERS[name](task, TASKS[task][1], n)
    picture = step(0)
    assert picture.shape == (n, SIZE, SIZE, 3) and picture.dtype == np.uint8 and picture.std() > 5
    pipe.send((0.0, 0.0))
    count = 0
    while calls := pipe.recv():
        start, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            step(count % 64)
            count += 1
        pipe.send((time.perf_counter() - start, time.process_time() - cpu))


class Worker:
    """A contender's process."""

    def __init__(self, name: str, task: str, n: int, timeout_s: float) -> None:
        self.n, self.timeout_s = n, timeout_s
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, name, task, n))
        self.process.start()
        theirs.close()
        self._answer()

    def time(self, calls: int) -> tuple[float, float]:
        """Seconds and CPU seconds that so many calls take."""
        self.pipe.send(calls)
        return self._answer()

    def _answer(self) -> tuple[float, float]:
        if not self.pipe.poll(self.timeout_s):
            raise RuntimeError(f"no answer within {self.timeout_s:g} s")
        return self.pipe.recv()

    def close(self) -> None:
        """End the process."""
        if self.process.is_alive():
            self.pipe.send(0)
            self.process.join(20)
        if self.process.is_alive():
            self.process.kill()


def measure_cell(task: str, num_envs: int, args: argparse.Namespace) -> dict[str, Any]:
    """Measure all contenders of a task in turns at one number of environments."""
    names = ("ours", *PEERS[TASKS[task][0]])
    workers: dict[str, Worker] = {}
    rates: dict[str, list[float]] = {name: [] for name in names}
    cpu_ms: dict[str, list[float]] = {name: [] for name in names}
    try:
        for name in names:
            n = num_envs if name == "ours" else min(num_envs, args.max_envs)
            workers[name] = Worker(name, task, n, args.timeout_s)
        calls = {}
        for name, worker in workers.items():
            worker.time(1)
            calls[name] = max(1, round(args.sample_s * 2 / worker.time(2)[0]))
            calls[name] = max(1, round(args.sample_s * calls[name] / worker.time(calls[name])[0]))
        for _ in range(args.repeats):
            for name, worker in workers.items():
                seconds, cpu_s = worker.time(calls[name])
                pictures = worker.n * calls[name]
                rates[name].append(pictures / seconds)
                cpu_ms[name].append(1000 * cpu_s / pictures)
    finally:
        for worker in workers.values():
            worker.close()
    rows = []
    for name in names:
        ratios = [mine / theirs for mine, theirs in zip(rates["ours"], rates[name], strict=True)]
        rows.append(
            {
                "contender": name,
                "num_envs": workers[name].n,
                "pictures_per_s": rates[name],
                "median_pictures_per_s": statistics.median(rates[name]),
                "ours_over_theirs": statistics.median(ratios),
                "ratio_range": [min(ratios), max(ratios)],
                "cpu_ms_per_picture": None if "async" in name else statistics.median(cpu_ms[name]),
            }
        )
    return {"task": task, "num_envs": num_envs, "camera": TASKS[task][1], "contenders": rows}


def show(console: Console, cell: dict[str, Any]) -> None:
    """Print a cell as a table."""
    table = Table(title=f"{cell['task']}, {cell['num_envs']} environments", title_justify="left")
    for column in ("contender", "envs", "pictures/s", "ours / theirs", "range", "CPU ms/picture"):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for row in cell["contenders"]:
        low, high = row["ratio_range"]
        table.add_row(
            row["contender"],
            str(row["num_envs"]),
            f"{row['median_pictures_per_s']:,.0f}",
            f"{row['ours_over_theirs']:.1f}",
            f"{low:.1f} to {high:.1f}",
            "" if row["cpu_ms_per_picture"] is None else f"{row['cpu_ms_per_picture']:.2f}",
        )
    console.print(table)


def main() -> None:
    """Measure every cell and write the results after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--envs", nargs="+", type=int, default=[1, 16, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sample-s", type=float, default=1.0, help="length of a sample, s")
    parser.add_argument("--max-envs", type=int, default=4, help="environments of the peers")
    parser.add_argument("--timeout-s", type=float, default=300.0, help="wait for a contender's answer, s")
    parser.add_argument("--quick", action="store_true", help="short samples, 3 repeats: only a smoke test")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/bench_pixels.json")
    args = parser.parse_args()
    if args.quick:
        args.sample_s, args.repeats = 0.1, 3
    # a smoke test must not replace measurements
    folder = Path(tempfile.gettempdir()) if args.quick else RESULTS
    args.out = args.out or folder / "bench_pixels.json"
    console = Console(width=120)
    settings = {key: getattr(args, key) for key in ("repeats", "sample_s", "max_envs")} | {"size": SIZE}
    document: dict[str, Any] = {"provenance": provenance(), "settings": settings, "cells": []}
    for task in args.tasks:
        for num_envs in args.envs:
            cell = measure_cell(task, num_envs, args)
            document["cells"].append(cell)
            write_json(args.out, document)
            show(console, cell)
    console.print(f"written to {args.out}")


if __name__ == "__main__":
    main()
