"""Time of one streaming update and action, no simulator: compiled, reference and straight torch.

    python scripts/bench_streaming_agent.py [--batches 300] [--batch-steps 40] [--streams 1 2 16 64]

Random observations and rewards of the size of a task; 2 x 128 networks, one torch thread. The machine
may be shared, so each figure is over many short batches: the least is what the code takes, the median
what it took here. "torch reference" is `robotrl.algorithms.streaming.reference` (autograd, float64),
"torch straight" is `streaming_peer.py` (modules, autograd, an optimiser per tensor, float32).

Writes benchmarks/results/bench_streaming_agent.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from bench_common import RESULTS, provenance, write_json
from rich.console import Console
from rich.table import Table
from streaming_peer import PeerAC, draw, make_reference

from robotrl.algorithms.streaming.actor_critic import StreamAC
from robotrl.algorithms.streaming.config import StreamACConfig
from robotrl.algorithms.streaming.rules.codes import Rule

SIZES = {"HalfCheetah-v5": (17, 6), "Ant-v5": (105, 8), "Humanoid-v5": (348, 17)}
RULES = (Rule.OBGD, Rule.ADAPTIVE_OBGD, Rule.INTENTIONAL)
EPISODE_STEPS = 1000


class Noise:
    """Observations and rewards drawn beforehand."""

    def __init__(self, num_streams: int, obs_dim: int) -> None:
        rng = np.random.default_rng(0)
        self.obs = rng.normal(size=(512, num_streams, obs_dim))
        self.reward = rng.normal(size=(512, num_streams))
        self.t = 0

    def next(self) -> tuple[np.ndarray, bool, np.ndarray]:
        """Return reward (N,), whether the time is up, and observations (N, D)."""
        self.t += 1
        row = self.t % 512
        return self.reward[row], self.t % EPISODE_STEPS == 0, self.obs[row]


def compiled(rule: Rule, num_streams: int, obs_dim: int, action_dim: int) -> Callable[[], None]:
    """Return one step of N compiled streams."""
    learner = StreamAC(obs_dim, action_dim, num_streams, StreamACConfig(rule=rule))
    noise = Noise(num_streams, obs_dim)
    learner.start(noise.obs[0])

    def step() -> None:
        learner.act()
        reward, ended, obs = noise.next()
        learner.update(reward, False, ended, obs, obs)

    return step


def reference(rule: Rule, obs_dim: int, action_dim: int) -> Callable[[], None]:
    """Return one step of the readable torch version."""
    learner, noise = make_reference(StreamACConfig(rule=rule), obs_dim, action_dim), Noise(1, obs_dim)
    learner.start(noise.obs[0, 0])

    def step() -> None:
        action = draw(learner)
        reward, ended, obs = noise.next()
        learner.update(action, float(reward[0]), False, ended, obs[0], obs[0])

    return step


def straight(obs_dim: int, action_dim: int) -> Callable[[], None]:
    """Return one step of straight torch."""
    learner, noise = PeerAC(obs_dim, action_dim), Noise(1, obs_dim)
    learner.start(noise.obs[0, 0])

    def step() -> None:
        learner.act()
        reward, ended, obs = noise.next()
        learner.update(float(reward[0]), ended, obs[0])

    return step


def measure(step: Callable[[], None], batches: int, batch_steps: int) -> dict[str, float]:
    """Return the least and the median time of a step over batches, us."""
    for _ in range(batch_steps):
        step()
    times = []
    for _ in range(batches):
        start = time.perf_counter()
        for _ in range(batch_steps):
            step()
        times.append((time.perf_counter() - start) / batch_steps * 1e6)
    return {"least_us": min(times), "median_us": float(np.median(times))}


def main() -> None:
    """Measure everything and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batches", type=int, default=300)
    parser.add_argument("--batch-steps", type=int, default=40)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 16, 64])
    args = parser.parse_args()
    made_by = provenance()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []

    def add(task: str, what: str, rule: Rule, streams: int, step: Callable[[], None], share: int) -> None:
        steps = max(2, args.batch_steps // share)
        time_us = measure(step, max(5, args.batches // share), steps)
        rows.append({"task": task, "contender": what, "rule": rule.value, "streams": streams} | time_us)

    for task, sizes in SIZES.items():
        for rule in RULES:
            for n in args.streams:
                add(task, "compiled", rule, n, compiled(rule, n, *sizes), n)
            add(task, "torch reference", rule, 1, reference(rule, *sizes), 20)
        add(task, "torch straight", Rule.OBGD, 1, straight(*sizes), 20)
    content = {"provenance": made_by, "settings": vars(args), "rows": rows}
    write_json(RESULTS / "bench_streaming_agent.json", content)
    table = Table("task", "contender", "rule", "streams", "least us", "median us", "least us per stream")
    for row in rows:
        least, median = row["least_us"], row["median_us"]
        numbers = (f"{least:.1f}", f"{median:.1f}", f"{least / row['streams']:.1f}")
        table.add_row(row["task"], row["contender"], row["rule"], str(row["streams"]), *numbers)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
