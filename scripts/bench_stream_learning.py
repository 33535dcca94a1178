"""What streaming learners reach: online return and deterministic evaluation, method by method.

    python scripts/bench_stream_learning.py [--tasks ...] [--methods default reference] [--streams 10]
        [--steps 1e6] [--runs-dir runs]
    python scripts/bench_stream_learning.py --summary

A piece is one task and one method: one `robotrl train recipe=stream_ac`, whose streams are the seeds. Pieces
that are there are not run again, and a run that was stopped goes on from its checkpoint. Figures per piece,
means over the streams with 95 % bootstrap intervals: the online return (raw, of the stochastic policy while
it learns) over the last tenth of the steps, its mean over the whole training (AUC), and the return of the
deterministic policy at the end (10 episodes a stream). Writes bench_stream_learning.json and .png into
benchmarks/results after every piece.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import RESULTS, interval_of_mean, provenance, trained, write_json

from robotrl.training.run_folder import RunFolder

OUT = RESULTS / "bench_stream_learning.json"
REFERENCE = ["algorithm.preset=reference"]
METHODS = {
    "default": [],
    # as released with the paper (arXiv:2410.14606): ObGD, time as an input, time limits end the return
    "reference": ["algorithm.rule=obgd", *REFERENCE],
    "obgd": ["algorithm.rule=obgd"],
    "adaptive_obgd": ["algorithm.rule=adaptive_obgd"],
    # as released by its authors (arXiv:2604.19033): a time limit is not noticed
    "intentional_reference": REFERENCE,
    "adam": ["algorithm.rule=adam"],
    "sgd": ["algorithm.rule=sgd"],
    "stream_sac": ["algorithm=stream_sac"],
    "stream_dac": ["algorithm=stream_dac"],
}  # fmt: skip
TASKS = ["HalfCheetah-v5", "Hopper-v5", "Walker2d-v5", "cheetah_run", "walker_run"]


def run_piece(task: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train, or go on with a training that was stopped; return the piece's figures."""
    folder = Path(args.runs_dir) / f"{task}-{method}-{args.streams}x{args.steps}-s{args.seed}"
    words = [
        "recipe=stream_ac",
        f"task={task}",
        f"num_envs={args.streams}",
        f"total_steps={args.streams * args.steps}",
        f"seed={args.seed}",
        "eval_episodes=10",
        "export=false",
        *METHODS[method],
    ]
    run = trained(folder, "streams.json", *words)
    return figures(RunFolder(run), task, method, args)


def figures(run: RunFolder, task: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Return what a finished run reached."""
    streams = json.loads((run.path / "streams.json").read_text())["streams"]
    curves = np.array([stream["curve"] for stream in streams], dtype=float)
    values = {
        "online": [stream["online_return"] for stream in streams],
        "auc": np.nanmean(curves, axis=1).tolist(),
        "eval": [stream["eval_return"] for stream in streams],
    }
    known = ~np.isnan(curves).all(0)
    mean_curve = np.full(curves.shape[1], np.nan)
    mean_curve[known] = np.nanmean(curves[:, known], axis=0)
    versions = json.loads((run.path / "versions.json").read_text())
    return {
        "task": task,
        "method": method,
        "options": METHODS[method],
        "seed": args.seed,
        "steps_per_stream": args.steps,
        "git_commit": versions.get("git_commit"),
        "machine": versions.get("machine"),
        "num_streams": len(streams),
        **{
            name: {"mean": float(np.mean(found)), "interval": interval_of_mean(found), "streams": found}
            for name, found in values.items()
        },
        "curve": mean_curve.tolist(),
    }


def compare(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Difference of the online returns of every method to the reference preset, where both ran as long."""
    rows = []
    lengths = dict.fromkeys((piece["task"], piece["steps_per_stream"]) for piece in pieces)
    for task, steps in lengths:
        chosen = [p for p in pieces if (p["task"], p["steps_per_stream"]) == (task, steps)]
        mine = {piece["method"]: piece for piece in chosen}
        if "reference" not in mine:
            continue
        base = np.array(mine["reference"]["online"]["streams"])
        for method, piece in mine.items():
            if method == "reference":
                continue
            values = np.array(piece["online"]["streams"])
            rng = np.random.default_rng(0)
            draws = [
                rng.choice(values, len(values)).mean() - rng.choice(base, len(base)).mean()
                for _ in range(10_000)
            ]
            low, high = np.percentile(draws, [2.5, 97.5])
            rows.append(
                {
                    "task": task,
                    "method": method,
                    "steps_per_stream": steps,
                    "difference": float(values.mean() - base.mean()),
                    "interval": [float(low), float(high)],
                }
            )
    return rows


def draw(pieces: list[dict[str, Any]], path: Path) -> None:
    """Draw the mean online return over the training, one panel per task, of the longest comparison."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = list(dict.fromkeys(piece["task"] for piece in pieces))
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(4.2 * columns, 3.2 * rows), squeeze=False)
    methods = dict.fromkeys(piece["method"] for piece in pieces)
    colors = dict(zip(methods, plt.cm.tab10.colors, strict=False))
    for axis, task in zip(axes.flat, tasks, strict=False):
        lengths = [piece["steps_per_stream"] for piece in pieces if piece["task"] == task]
        longest = max(lengths, key=lambda steps: (lengths.count(steps) > 1, steps))
        for piece in pieces:
            if (piece["task"], piece["steps_per_stream"]) != (task, longest):
                continue
            curve = np.array(piece["curve"], dtype=float)
            steps = (np.arange(len(curve)) + 0.5) / len(curve) * piece["steps_per_stream"]
            label = f"{piece['method']} ({piece['num_streams']})"
            axis.plot(
                steps[~np.isnan(curve)], curve[~np.isnan(curve)], color=colors[piece["method"]], label=label
            )
        axis.set_title(task)
        axis.set_xlabel("environment steps of a stream")
        axis.set_ylabel("online return")
        axis.legend(frameon=False, fontsize=7)
    for axis in list(axes.flat)[len(tasks) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--methods", nargs="+", default=["default", "reference"], choices=list(METHODS))
    parser.add_argument("--streams", type=int, default=10, help="seeds of a piece, learned side by side")
    parser.add_argument("--steps", type=float, default=1e6, help="environment steps of each stream")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--runs-dir", default="runs/stream_learning")
    parser.add_argument("--summary", action="store_true", help="only print what is there")
    args = parser.parse_args()
    args.steps = int(args.steps)
    document: dict[str, Any] = {"provenance": provenance(), "pieces": []}
    if OUT.is_file():
        document["pieces"] = json.loads(OUT.read_text())["pieces"]
    names = ("task", "method", "seed", "steps_per_stream", "num_streams")
    for task in () if args.summary else args.tasks:
        for method in args.methods:
            key = (task, method, args.seed, args.steps, args.streams)
            if any(tuple(piece[name] for name in names) == key for piece in document["pieces"]):
                continue
            document["pieces"].append(run_piece(task, method, args))
            document["against_reference"] = compare(document["pieces"])
            write_json(OUT, document)
            draw(document["pieces"], OUT.with_suffix(".png"))
            show(document["pieces"][-1])
    if args.summary:
        for piece in document["pieces"]:
            show(piece)
    for row in compare(document["pieces"]):
        low, high = row["interval"]
        print(
            f"{row['task']:18s} {row['method']:22s} - reference at {row['steps_per_stream']:,}: "
            f"{row['difference']:+8.1f} "
            f"({low:+.1f} to {high:+.1f})"
        )


def show(piece: dict[str, Any]) -> None:
    """Print a piece on one line."""
    cells = []
    for name in ("online", "auc", "eval"):
        low, high = piece[name]["interval"]
        of_seeds = f" ({low:.0f} to {high:.0f})" if piece["num_streams"] > 1 else ""
        cells.append(f"{name} {piece[name]['mean']:8.1f}{of_seeds}")
    steps = f"{piece['num_streams']}x{piece['steps_per_stream']:,}"
    print(f"{piece['task']:18s} {piece['method']:22s} {steps:14s} {'  '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
