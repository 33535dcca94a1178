"""Stable-Baselines3 beside stream AC: return by steps and by seconds of processor time.

    python scripts/bench_stream_peers.py [--tasks HalfCheetah-v5 Hopper-v5] [--ppo-steps 1e6] [--ppo-seeds 3]
        [--sac-steps 1e5] [--stream-steps 1e6]

A piece is one task, one learner and one seed, in one thread: PPO and SAC with Stable-Baselines3's defaults
and one Gymnasium environment (SAC with a gradient step per environment step), and one stream of ours with its
defaults. Each tells its curve, the mean raw return of the training episodes in each hundredth of the steps,
the seconds that took, and the return over the last tenth. Pieces that are there are not run again. Writes
stream_peers.json into benchmarks/results after every piece. `cpu_s` is processor time of the whole piece,
ours with its evaluation, and says what an idle core would take; `wall_s` compares only at the same load
(`load_average_1min`).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import RESULTS, known_pieces, provenance, trained, write_json

OUT = RESULTS / "stream_peers.json"
BINS = 100


def peer(name: str, task: str, steps: int, seed: int) -> dict[str, Any]:
    """Train a learner of Stable-Baselines3; return its curve."""
    import gymnasium
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.monitor import Monitor

    env = Monitor(gymnasium.make(task))
    ends: list[tuple[int, float]] = []

    class Episodes(BaseCallback):
        """Notes when episodes end, and with which return."""

        def _on_step(self) -> bool:
            ends.extend(
                (self.num_timesteps, info["episode"]["r"])
                for info in self.locals["infos"]
                if "episode" in info
            )
            return True

    learner = getattr(stable_baselines3, name.upper())("MlpPolicy", env, seed=seed, device="cpu")
    began_s = time.perf_counter()
    learner.learn(steps, callback=Episodes())
    return curve(ends, steps) | {"wall_s": time.perf_counter() - began_s}


def curve(ends: list[tuple[int, float]], steps: int) -> dict[str, Any]:
    """Return mean returns of the episodes that end in each hundredth of the steps, and in the last tenth."""
    at, returns = np.array([t for t, _ in ends]), np.array([r for _, r in ends])
    bins = np.minimum((at - 1) * BINS // steps, BINS - 1)
    means = [float(returns[bins == b].mean()) if (bins == b).any() else float("nan") for b in range(BINS)]
    return {"curve": means, "online": float(returns[at > 0.9 * steps].mean())}


def ours(task: str, steps: int, seed: int, folder: Path) -> dict[str, Any]:
    """Train one stream; return its curve."""
    words = ["recipe=stream_ac", f"task={task}", "num_envs=1", f"total_steps={steps}", f"seed={seed}"]
    run = trained(folder, "streams.json", *words, "eval_episodes=10", "export=false", "sim_threads=1")
    (stream,) = json.loads((run / "streams.json").read_text())["streams"]
    rows = (run / "metrics.csv").read_text().splitlines()
    seconds = rows[0].split(",").index("wall_s")
    wall_s = float(rows[-1].split(",")[seconds])
    return {"curve": stream["curve"], "online": stream["online_return"], "wall_s": wall_s}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["HalfCheetah-v5", "Hopper-v5"])
    parser.add_argument("--ppo-steps", type=lambda text: int(float(text)), default=1_000_000)
    parser.add_argument("--ppo-seeds", type=int, default=3)
    parser.add_argument("--sac-steps", type=lambda text: int(float(text)), default=100_000)
    parser.add_argument("--stream-steps", type=lambda text: int(float(text)), default=1_000_000)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs/stream_peers"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    made_by = provenance()
    wanted = [
        (task, learner, steps, seed)
        for task in args.tasks
        for learner, steps, seeds in (
            ("stream_ac", args.stream_steps, 1),
            ("ppo", args.ppo_steps, args.ppo_seeds),
            ("sac", args.sac_steps, 1),
        )
        for seed in range(seeds)
    ]
    pieces = known_pieces(OUT)
    for task, learner, steps, seed in wanted:
        key = {"task": task, "learner": learner, "steps": steps, "seed": seed}
        if any(piece | key == piece for piece in pieces):
            continue
        began_s = time.process_time()
        if learner == "stream_ac":
            found = ours(task, steps, seed, args.runs_dir / f"{task}-{steps}-s{seed}")
        else:
            found = peer(learner, task, steps, seed)
        found |= {"cpu_s": time.process_time() - began_s, "load_average_1min": os.getloadavg()[0]}
        pieces.append(key | found | {"provenance": made_by})
        write_json(OUT, {"pieces": pieces})
        print(key, f"online {found['online']:.0f}, {found['cpu_s']:.0f} s", flush=True)


if __name__ == "__main__":
    main()
