"""Agent and environment steps per second while learning: the training loop, torch, and bare physics.

    python scripts/bench_streaming.py [--tasks ...] [--streams 1 2 16 64] [--repeats 5] [--sample-s 0.5]

For each task and number of streams, in one process and in turns, one sample each per repeat:

    ours, ours obgd    `StreamingLoop` over `VecEnv`, as `robotrl train recipe=stream_ac` runs it
    bare               `mujoco.batch.Batch.step` of the same model and substeps: the limit; the better of
                       plain and persistent

and with one stream

    torch reference    `algorithms.streaming.reference` (autograd, float64) over the same `VecEnv`
    torch straight     `streaming_peer.py` (modules, autograd, an optimiser per tensor; ObGD) over
                       `gymnasium.make`, for dm_control's tasks over our `VecEnv`
    gymnasium          `gymnasium.make` alone, with random actions

Ratios are medians over the repeats. "cpu" figures count the process's CPU seconds instead of the wall's,
times the number of threads: what other processes on the machine take does not enter them.

Writes benchmarks/results/bench_streaming.json after each task and number of streams; what is in it is
not measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from bench_common import RESULTS, provenance, write_json
from mujoco.batch import Batch
from streaming_peer import PeerAC, draw, make_reference

from robotrl.algorithms.streaming.config import StreamACConfig
from robotrl.algorithms.streaming.rules.codes import Rule
from robotrl.compose import compose, compose_task
from robotrl.envs.vec_env import VecEnv
from robotrl.training.train import make_loop

OUT = RESULTS / "bench_streaming.json"
TASKS = ["HalfCheetah-v5", "Hopper-v5", "cheetah_run", "dog_run"]
Advance = Callable[[], int]
"""Does a little work and returns how many environment steps it was."""


def ours(task: str, num_streams: int, rule: Rule) -> Advance:
    """Return an iteration of the training loop."""
    words = ["recipe=stream_ac", f"task={task}", f"num_envs={num_streams}", "total_steps=1000000000"]
    loop = make_loop(compose([*words, f"algorithm.rule={rule.value}"]))

    def advance() -> int:
        before = loop.env_steps
        loop.iterate()
        return loop.env_steps - before

    return advance


def bare(env: VecEnv, persistent: bool) -> Advance:
    """Return a physics step with random actions, from the states that `env` is in."""
    n = env.num_envs
    batch = Batch(env.sim.model, n, min(len(os.sched_getaffinity(0)), n), persistent)
    batch.state[...] = env.sim.batch.state
    batch.forward()
    rng = torch.Generator().manual_seed(0)
    actions = 2 * torch.rand(64, n, env.specs.action_dim, generator=rng) - 1
    controls = [env._to_ctrl(action).numpy() for action in actions]
    stage = env.task.stage.value if persistent else 0
    t = 0

    def advance() -> int:
        nonlocal t
        t += 1
        batch.ctrl = controls[t % len(controls)]
        batch.step(None, env.substeps, stage)
        return n

    return advance


def reference(task: str) -> Advance:
    """Return a step of the readable torch version."""
    env = VecEnv(compose_task(task, {}), 1)
    obs = env.reset()["policy"].double().numpy()
    learner = make_reference(StreamACConfig(), obs.shape[1], env.specs.action_dim)
    learner.start(obs[0])

    def advance() -> int:
        action = draw(learner)
        step = env.step(action.clamp(-1.0, 1.0).float()[None])
        successors = [part["policy"][0].double().numpy() for part in (step.obs, step.final_obs)]
        ends = bool(step.terminated), bool(step.truncated)
        learner.update(action, float(step.reward), *ends, *successors)
        return 1

    return advance


def straight(task: str) -> Advance:
    """Return a step of straight torch, which takes a time limit for an end as others do."""
    env = gymnasium.make(task) if task.endswith("-v5") else _OneEnv(task)
    obs, _ = env.reset(seed=0)
    learner = PeerAC(len(obs), env.action_space.shape[0])
    learner.start(obs)

    def advance() -> int:
        action = np.clip(learner.act(), env.action_space.low, env.action_space.high)
        obs, reward, terminated, truncated, _ = env.step(action)
        learner.update(float(reward), terminated or truncated, obs)
        if terminated or truncated:
            learner.start(env.reset()[0])
        return 1

    return advance


class _OneEnv:
    """A task's `VecEnv` of one, with the calls of a Gymnasium environment."""

    def __init__(self, task: str) -> None:
        self.env = VecEnv(compose_task(task, {}), 1)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (self.env.specs.action_dim,))

    def reset(self, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Return the first observation: after an episode's end, the one that the end's step brought."""
        if seed is not None:
            self.first = self.env.reset()["policy"][0].numpy()
        return self.first, {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take a control step."""
        step = self.env.step(torch.from_numpy(action[None]))
        self.first = step.obs["policy"][0].numpy()
        ends = bool(step.terminated), bool(step.truncated)
        return step.final_obs["policy"][0].numpy(), float(step.reward), *ends, {}


def gymnasium_alone(task: str) -> Advance:
    """Return a step of Gymnasium's environment with a random action."""
    env = gymnasium.make(task)
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    actions = rng.uniform(env.action_space.low, env.action_space.high, (64, *env.action_space.shape))
    t = 0

    def advance() -> int:
        nonlocal t
        t += 1
        _, _, terminated, truncated, _ = env.step(actions[t % len(actions)])
        if terminated or truncated:
            env.reset()
        return 1

    return advance


def contenders(task: str, num_streams: int) -> dict[str, Advance]:
    """Return what is measured, warm."""
    env = VecEnv(compose_task(task, {}), num_streams)
    env.reset()
    found = {
        "ours": ours(task, num_streams, Rule.INTENTIONAL),
        "ours obgd": ours(task, num_streams, Rule.OBGD),
        "bare plain": bare(env, persistent=False),
        "bare persistent": bare(env, persistent=True),
    }
    if num_streams == 1:
        found |= {"torch reference": reference(task), "torch straight": straight(task)}
        if task.endswith("-v5"):
            found["gymnasium"] = gymnasium_alone(task)
    for advance in found.values():
        advance()
    return found


def sample(advance: Advance, sample_s: float) -> tuple[float, float]:
    """Return steps per second of the wall and of the CPU."""
    steps, wall, cpu = 0, time.perf_counter(), time.process_time()
    while (wall_s := time.perf_counter() - wall) < sample_s:
        steps += advance()
    return steps / wall_s, steps / (time.process_time() - cpu)


def measure(task: str, num_streams: int, repeats: int, sample_s: float) -> dict[str, Any]:
    """Return rates of all contenders, and the ratios of ours to theirs."""
    found = contenders(task, num_streams)
    samples = {name: [] for name in found}
    for _ in range(repeats):
        for name, advance in found.items():
            samples[name].append(sample(advance, sample_s))
    rates = {name: np.array(values).T for name, values in samples.items()}
    threads = min(len(os.sched_getaffinity(0)), num_streams)
    median = {name: [float(np.median(rate)) for rate in values] for name, values in rates.items()}
    limits = [max(("bare plain", "bare persistent"), key=lambda name: median[name][k]) for k in (0, 1)]
    cell: dict[str, Any] = {
        "task": task,
        "streams": num_streams,
        "load_average_1min": os.getloadavg()[0],
        "steps_per_s": {name: values[0] for name, values in median.items()},
        "steps_per_cpu_s": {name: threads * values[1] for name, values in median.items()},
        "limit": limits[0],
        "ratios": {},
    }
    for mine in ("ours", "ours obgd"):
        for name in (*limits[:1], *(n for n in rates if not n.startswith(("ours", "bare")))):
            label = "bare" if name.startswith("bare") else name
            theirs = (rates[name][0], rates[limits[1] if label == "bare" else name][1])
            wall, cpu = (statistics.median((rates[mine][k] / theirs[k]).tolist()) for k in (0, 1))
            cell["ratios"][f"{mine} / {label}"] = {"wall": wall, "cpu": cpu}
    return cell


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 16, 64])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--sample-s", type=float, default=0.5, help="least length of a sample, s")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cells = json.loads(OUT.read_text())["cells"] if OUT.exists() else []
    known = {(cell["task"], cell["streams"]) for cell in cells}
    for task in args.tasks:
        for num_streams in args.streams:
            if (task, num_streams) in known:
                continue
            cell = measure(task, num_streams, args.repeats, args.sample_s)
            cells.append(cell | {"settings": vars(args), "provenance": provenance()})
            write_json(OUT, {"cells": cells})
            ratios = "  ".join(f"{k} {v['wall']:.2f} ({v['cpu']:.2f})" for k, v in cell["ratios"].items())
            print(f"{task} {num_streams}: {cell['steps_per_s']['ours']:,.0f}/s  {ratios}", flush=True)


if __name__ == "__main__":
    main()
