"""Memory of a streaming learner over ten million updates: what a stream takes, and whether it grows.

    python scripts/bench_stream_memory.py [--updates 1e7] [--obs-dim 17] [--actions 6]

One stream of `StreamAC` with its defaults learns from random numbers, in episodes of 1,000 steps. Writes
stream_memory.json into benchmarks/results: bytes of the stream's arrays, and resident memory of the process
after every tenth of the updates.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
from bench_common import RESULTS, provenance, write_json

from robotrl.algorithms.streaming.actor_critic import StreamAC


def resident_mb() -> float:
    """Return this process's memory, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--updates", type=lambda text: int(float(text)), default=10_000_000)
    parser.add_argument("--obs-dim", type=int, default=17)
    parser.add_argument("--actions", type=int, default=6)
    args = parser.parse_args()
    made_by = provenance()
    learner = StreamAC(args.obs_dim, args.actions)
    rng = np.random.default_rng(0)
    observations, rewards = rng.normal(size=(997, 1, args.obs_dim)), rng.normal(size=997)
    learner.start(observations[0])
    stream_bytes = sum(array.nbytes for array in learner.streams)
    began_s, memory_mb = time.perf_counter(), [resident_mb()]
    for t in range(1, args.updates + 1):
        k = t % 997
        learner.update(rewards[k], False, t % 1000 == 0, observations[k], observations[k - 1])
        if t % (args.updates // 10) == 0:
            memory_mb.append(resident_mb())
            print(f"{t:,} updates, {memory_mb[-1]:.2f} MB", flush=True)
    result = {
        "updates": args.updates,
        "obs_dim": args.obs_dim,
        "actions": args.actions,
        "stream_bytes": stream_bytes,
        "resident_mb_by_tenth": memory_mb,
        "wall_s": time.perf_counter() - began_s,
    }
    write_json(RESULTS / "stream_memory.json", result | {"provenance": made_by})


if __name__ == "__main__":
    main()
