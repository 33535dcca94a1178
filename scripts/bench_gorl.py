"""What GoRL reaches on hopper_stand, beside PPO and PPO with the same restarts, at equal environment steps.

    python scripts/bench_gorl.py [--methods ...] [--seeds 0 1 2] [--steps 2e7] [--threads 1]
        [--runs-dir runs/gorl]
    python scripts/bench_gorl.py --summary

A piece is one method and one seed: one `robotrl train`. Pieces that are there are not run again, and a run
that was stopped goes on from its checkpoint; several of these processes may share the work by method or seed.
The steps of a piece include the decoder's data. Figures per piece: the return of the deterministic policy at
the end (100 episodes), the online return (of the exploring policy) over the last twentieth of the steps, and
its curve, in which every restart is a dip. Writes gorl.json and gorl.png into benchmarks/results after every
piece.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import RESULTS, interval_of_mean, known_pieces, provenance, trained, write_json

from robotrl.training.metrics import read_metrics

OUT = RESULTS / "gorl.json"
METHODS = {
    "gorl_flow": ["algorithm=gorl"],
    "gorl_diffusion": ["algorithm=gorl", "algorithm.decoder.kind=diffusion"],
    "ppo_restarts": ["algorithm=gorl", "algorithm.decoder.kind=gaussian"],
    "ppo": ["algorithm=ppo"],
}
# half the width of the defaults: physics, not learning, is what a piece takes its half hour of one core for
NETWORKS = ["policy.hidden=[128,128]", "algorithm.hidden=[128,128]"]
TASK = "hopper_stand"
BINS = 100


def run_piece(method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train, or go on with a training that was stopped; return the piece's figures."""
    words = [
        f"task={TASK}",
        *METHODS[method],
        *NETWORKS,
        f"total_steps={args.steps}",
        f"seed={seed}",
        "eval_episodes=100",
        "export=false",
        f"torch_threads={args.threads}",
        f"sim_threads={args.threads}",
    ]
    folder = Path(args.runs_dir) / f"{method}-{args.steps}-s{seed}"
    return figures(trained(folder, "evaluation/summary.json", *words), method, seed, args.steps)


def figures(run: Path, method: str, seed: int, steps: int) -> dict[str, Any]:
    """Return what a finished run reached."""
    rows = read_metrics(run / "metrics.csv")
    online = [row for row in rows if "episode/return" in row]
    at = np.array([row["env_steps"] for row in online])
    returns = np.array([row["episode/return"] for row in online])
    bins = np.minimum((at / steps * BINS).astype(int), BINS - 1)
    curve = [float(returns[bins == i].mean()) if (bins == i).any() else None for i in range(BINS)]
    versions = json.loads((run / "versions.json").read_text())
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    return {
        "method": method,
        "seed": seed,
        "steps": steps,
        "task": TASK,
        "options": [*METHODS[method], *NETWORKS],
        "git_commit": versions.get("git_commit"),
        "machine": versions.get("machine"),
        "eval": summary["mean"],
        "online": float(returns[at > 0.95 * steps].mean()),
        "env_steps": summary["env_steps"],
        "decoder_data_steps": sum(row.get("policy/decoder_data", 0.0) for row in rows),
        "refreshed_at": [row["env_steps"] for row in rows if "loss/decoder" in row],
        "wall_s": rows[-1]["wall_s"],
        "curve": curve,
    }


def summarize(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and 95 % bootstrap interval over the seeds, per method and number of steps."""
    groups = dict.fromkeys((piece["method"], piece["steps"]) for piece in pieces)
    rows = []
    for method, steps in sorted(groups, key=lambda group: (group[1], list(METHODS).index(group[0]))):
        mine = [piece for piece in pieces if (piece["method"], piece["steps"]) == (method, steps)]
        row: dict[str, Any] = {"method": method, "steps": steps, "seeds": [p["seed"] for p in mine]}
        for name in ("eval", "online"):
            # null where a run was too short for an episode
            values = np.array([piece[name] for piece in mine], dtype=float)
            row[name] = {"mean": float(np.mean(values)), "interval": interval_of_mean(values)}
        rows.append(row)
    return rows


def draw(pieces: list[dict[str, Any]], path: Path) -> None:
    """Draw the online return of every seed over the steps of the longest pieces, one panel per method."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    steps = max(piece["steps"] for piece in pieces)
    figure, axes = plt.subplots(1, len(METHODS), figsize=(3.4 * len(METHODS), 3.0), sharey=True)
    for axis, method in zip(axes, METHODS, strict=True):
        for piece in pieces:
            if (piece["method"], piece["steps"]) != (method, steps):
                continue
            curve = np.array(piece["curve"], dtype=float)
            at = (np.arange(BINS) + 0.5) / BINS * steps / 1e6
            axis.plot(at[~np.isnan(curve)], curve[~np.isnan(curve)], label=f"seed {piece['seed']}")
            axis.legend(frameon=False, fontsize=7)
        axis.set_title(method)
        axis.set_xlabel("million environment steps")
    axes[0].set_ylabel("online return")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--steps", type=float, default=2e7, help="environment steps, the decoder's data included"
    )
    parser.add_argument("--threads", type=int, default=1, help="of physics and learner")
    parser.add_argument("--runs-dir", default="runs/gorl")
    parser.add_argument("--summary", action="store_true", help="only print what is there")
    args = parser.parse_args()
    args.steps = int(args.steps)
    for seed in () if args.summary else args.seeds:
        for method in args.methods:
            if any(
                (p["method"], p["seed"], p["steps"]) == (method, seed, args.steps) for p in known_pieces(OUT)
            ):
                continue
            piece = run_piece(method, seed, args)
            pieces = [*known_pieces(OUT), piece]
            write_json(OUT, {"provenance": provenance(), "pieces": pieces, "summary": summarize(pieces)})
            draw(pieces, OUT.with_suffix(".png"))
            print(f"{method:16s} seed {seed}: eval {piece['eval']:.1f}, {piece['wall_s']:.0f} s", flush=True)
    for row in summarize(known_pieces(OUT)):
        cells = []
        for name in ("eval", "online"):
            low, high = row[name]["interval"]
            cells.append(f"{name} {row[name]['mean']:7.1f} ({low:.0f} to {high:.0f})")
        print(f"{row['method']:16s} {row['steps']:>12,} steps, {len(row['seeds'])} seeds: {'  '.join(cells)}")


if __name__ == "__main__":
    main()
