"""What imitation makes of demonstrations with two modes: which policies average them, and which do not.

    python scripts/bench_imitation.py [--methods ...] [--seeds 0 1 2 3 4] [--updates 20000]
        [--runs-dir runs/imitation]
    python scripts/bench_imitation.py --summary

The demonstrations are made once, by `robotrl collect task=two_gaps policy=expert` with noise on the actions.
A piece is one policy and one seed: one `robotrl train algorithm=bc` (the one-step policy is distilled by FQL
without a say of its critic), and the success rate of the deterministic policy on 200 fresh episodes; of a
Gaussian policy, whose mode that is, also that of its draws, as generative policies draw theirs. Pieces that
are there are not run again, and a run that was stopped goes on from its checkpoint. Networks, batches and
updates are alike. Writes imitation.json and imitation.png into benchmarks/results after every piece.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_common import RESULTS, collected, interval_of_mean, known_pieces, provenance, trained, write_json

from robotrl.training.controller import Controller
from robotrl.training.evaluation import evaluate_controller
from robotrl.training.metrics import read_metrics
from robotrl.training.restore import load_policy_and_config

OUT = RESULTS / "imitation.json"
TASK = "two_gaps"
EPISODES, NOISE_STD = 1_000, 0.2
PLAIN = ["policy.activation=relu", "policy.hidden=[256,256,256]"]
GENERATIVE = [*PLAIN, "policy.steps=10"]
METHODS = {
    "regression": ["algorithm=bc", "policy=deterministic", *PLAIN],
    "gaussian": ["algorithm=bc", "policy=gaussian", *PLAIN],
    "squashed_gaussian": ["algorithm=bc", "policy=squashed_gaussian", *PLAIN],
    "flow": ["algorithm=bc", "policy=flow", *GENERATIVE],
    "diffusion": [
        "algorithm=bc",
        "policy=diffusion",
        "policy.network=mlp",
        "policy.schedule=cosine",
        "policy.sampler=ddim",
        *GENERATIVE,
    ],
    # distillation a million times as heavy as the critic, which is a dummy
    "one_step": [
        "algorithm=fql",
        "algorithm.distill_weight=1e6",
        "algorithm.hidden=[8]",
        "algorithm.num_critics=1",
        "algorithm.one_step_hidden=[256,256,256]",
        *GENERATIVE,
    ],
}
TARGETS = dict.fromkeys(("regression", "gaussian", "squashed_gaussian"), "at most 0.6")


def run_piece(method: str, seed: int, data: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Train, or go on with a training that was stopped; return the piece's figures."""
    words = [
        f"task={TASK}",
        f"data={data}",
        *METHODS[method],
        f"algorithm.offline_updates={args.updates}",
        "algorithm.batch_size=256",
        "algorithm.learning_rate=1e-3",
        "total_steps=0",
        f"seed={seed}",
        f"eval_seed={1_000 + seed}",
        "eval_episodes=200",
        "num_envs=1",
        "export=false",
        "torch_threads=1",
        "sim_threads=1",
    ]
    run = trained(Path(args.runs_dir) / f"{method}-{args.updates}-s{seed}", "evaluation/summary.json", *words)
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    versions = json.loads((run / "versions.json").read_text())
    return {
        "method": method,
        "seed": seed,
        "updates": args.updates,
        "options": METHODS[method],
        "success": summary["mean"],
        "success_of_draws": success_of_draws(run, 1_000 + seed) if "gaussian" in method else None,
        "wall_s": read_metrics(run / "metrics.csv")[-1]["wall_s"],
        "git_commit": versions.get("git_commit"),
        "machine": versions.get("machine"),
    }


def success_of_draws(run: Path, seed: int) -> float:
    """Return the success rate on 200 episodes of a policy whose actions are drawn."""
    policy, config = load_policy_and_config(run)
    rng = torch.Generator().manual_seed(seed)
    controller = Controller(lambda obs: policy.act(obs, rng=rng), policy.horizon)
    return evaluate_controller(controller, config.task, 200, seed, 1).mean


def summarize(pieces: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and 95 % bootstrap interval over the seeds, per method and number of updates."""
    rows = []
    groups = {(piece["method"], piece["updates"]) for piece in pieces}
    for method, updates in sorted(groups, key=lambda group: (group[1], list(METHODS).index(group[0]))):
        mine = [piece for piece in pieces if (piece["method"], piece["updates"]) == (method, updates)]
        success = [piece["success"] for piece in mine]
        rows.append(
            {
                "method": method,
                "updates": updates,
                "seeds": [piece["seed"] for piece in mine],
                "success": float(np.mean(success)),
                "interval": interval_of_mean(success),
                "success_of_draws": mean_of_known([piece["success_of_draws"] for piece in mine]),
                "target": TARGETS.get(method, "at least 0.95"),
            }
        )
    return rows


def mean_of_known(values: list[float | None]) -> float | None:
    """Return the mean of what is known, None if nothing is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def draw(rows: list[dict[str, Any]], pieces: list[dict[str, Any]], path: Path) -> None:
    """Draw the success of every seed, and the mean, of each method's longest training."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    longest = {row["method"]: row for row in sorted(rows, key=lambda row: row["updates"])}
    figure, axis = plt.subplots(figsize=(5.6, 3.0))
    for place, (method, row) in enumerate(longest.items()):
        axis.bar(place, row["success"], color="#9db8d9")
        mine = [p["success"] for p in pieces if (p["method"], p["updates"]) == (method, row["updates"])]
        axis.plot([place] * len(mine), mine, "k.", markersize=4)
    labels = [f"{method}\n{row['updates'] // 1000}k" for method, row in longest.items()]
    axis.set_xticks(range(len(longest)), labels, fontsize=7)
    axis.set_xlabel("policy, updates")
    axis.set_ylabel(f"success on {TASK}")
    axis.set_ylim(0, 1.02)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--runs-dir", default="runs/imitation")
    parser.add_argument("--summary", action="store_true", help="only print what is there")
    args = parser.parse_args()
    for seed in () if args.summary else args.seeds:
        for method in args.methods:
            pieces = known_pieces(OUT)
            if any((p["method"], p["seed"], p["updates"]) == (method, seed, args.updates) for p in pieces):
                continue
            folder = Path(args.runs_dir) / f"{TASK}-expert-{EPISODES}-v0"
            data = collected(folder, TASK, EPISODES, NOISE_STD)
            pieces.append(run_piece(method, seed, folder, args))
            rows = summarize(pieces)
            write_json(OUT, {"provenance": provenance(), "data": data, "summary": rows, "pieces": pieces})
            draw(rows, pieces, OUT.with_suffix(".png"))
            print(f"{method:18s} seed {seed}: success {pieces[-1]['success']:.3f}", flush=True)
    for row in summarize(known_pieces(OUT)):
        low, high = row["interval"]
        print(
            f"{row['method']:18s} {row['updates']:,} updates, {len(row['seeds'])} seeds: "
            f"success {row['success']:.3f} ({low:.2f} to {high:.2f}), to be {row['target']}"
            + (f"; of draws {row['success_of_draws']:.3f}" if row["success_of_draws"] is not None else "")
        )


if __name__ == "__main__":
    main()
