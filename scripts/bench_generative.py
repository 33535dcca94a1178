"""How fast methods with generative policies learn from sparse rewards and some data, task by task.

    python scripts/bench_generative.py [--tasks ...] [--methods ...] [--seeds 0 1 2]
        [--runs-dir runs/generative]
    python scripts/bench_generative.py --summary

Every method gets the same noisy demonstrations, which are too few to imitate (`bc`), and the same networks,
batches, updates before the first step and per step, and discount. All but RLPD, which has no such policy,
start from the same flow policy, cloned from these data without an environment step (QC from one that decides
five steps at once). A piece is one task, method and seed: one `robotrl train`. Pieces that are there are not
run again, and a run that was stopped goes on from its checkpoint; several of these processes may share the
work. Figures per piece: success of the deterministic policy at equal distances of environment steps, seconds
of training, and what a decision costs. How many environment steps a task gives was chosen by seed 0, as so
many that methods are apart. Writes generative.json and generative.png into benchmarks/results
after every piece.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bench_common import RESULTS, collected, known_pieces, provenance, trained, write_json
from bench_generative_figures import cost_of_decision, draw, show, summarize

from robotrl.training.metrics import read_metrics

OUT = RESULTS / "generative.json"
DATA: dict[str, dict[str, Any]] = {
    "maze_reach": {"options": {"control_dt_s": 0.3}, "episodes": 200, "noise_std": 0.4},
    "planar_push": {"options": {}, "episodes": 300, "noise_std": 0.3},
}
STEPS = {"maze_reach": 12_000, "planar_push": 30_000}
FLOW = ["policy=flow", "policy.hidden=[64,64]", "policy.activation=relu", "policy.steps=5"]
CRITICS = [
    "algorithm.hidden=[96,96]",
    "algorithm.activation=relu",
    "algorithm.critic_norm=pre",
    "algorithm.num_critics=4",
    "algorithm.target_members=2",
    "algorithm.policy_delay=2",
    "algorithm.tau=0.01",
]
LEARNING = [
    "algorithm.batch_size=64",
    "algorithm.replay_ratio=0.5",
    "algorithm.offline_updates=2000",
    "algorithm.learning_starts=500",
    "algorithm.offline_fraction=0.5",
    "algorithm.learning_rate=1e-3",
    "algorithm.gamma=0.97",
]
SCALE = 0.2
ALPHA = "algorithm.initial_alpha=0.01"
EXPO = [
    "algorithm=expo",
    "algorithm.num_samples=8",
    "algorithm.num_edits=8",
    "algorithm.edit_hidden=[64,64]",
    f"algorithm.edit_scale={SCALE}",
    ALPHA,
]
RESIDUAL = [
    "algorithm=residual",
    "algorithm.residual_hidden=[64,64]",
    f"algorithm.residual_scale={SCALE}",
    "algorithm.ramp_steps=2000",
    ALPHA,
]
METHODS = {
    "bc": [],
    "rlpd": ["algorithm=rlpd", "policy.hidden=[64,64]", ALPHA],
    "idql": ["algorithm=idql", "algorithm.num_samples=16"],
    # what its authors take on mazes and over flows
    "idql_09": ["algorithm=idql", "algorithm.num_samples=16", "algorithm.expectile=0.9"],
    "qc": ["algorithm=qc", "algorithm.num_samples=16"],
    "fql": ["algorithm=fql", "algorithm.one_step_hidden=[64,64]"],
    "expo": EXPO,
    "expo_released": [*EXPO, "algorithm.preset=released"],
    "expo_jitter": [*EXPO, "algorithm.edit=jitter"],
    # no method of its own: what of QC's result is due to chunks
    "expo_chunks": EXPO,
    "dsrl": ["algorithm=dsrl", "algorithm.noise_hidden=[64,64]", ALPHA],
    "residual": RESIDUAL,
}
CHUNKED = {"qc": 5, "expo_chunks": 5}
POINTS = 6


def run_piece(task: str, method: str, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Train, or go on with a training that was stopped; return the piece's figures."""
    words = task_words(task, args)
    if method == "bc":
        run = cloned(task, 1, seed, args)
    else:
        # its target is the mean of all
        critics = CRITICS if method != "qc" else [*CRITICS, "algorithm.target_members=null"]
        words += [*METHODS[method], *critics, *LEARNING, f"total_steps={STEPS[task]}", f"seed={seed}"]
        words += ["num_envs=10", f"eval_every={STEPS[task] // POINTS}", "eval_episodes=40"]
        if method != "rlpd":
            words.append(f"algorithm.init_from={cloned(task, CHUNKED.get(method, 1), seed, args)}")
        folder = Path(args.runs_dir) / task / f"{method}-{STEPS[task]}-s{seed}"
        run = trained(folder, "evaluation/summary.json", *words)
    rows = read_metrics(run / "metrics.csv")
    versions = json.loads((run / "versions.json").read_text())
    return {
        "task": task,
        "method": method,
        "seed": seed,
        "steps": STEPS[task],
        "options": METHODS[method],
        "curve": [[row["env_steps"], row["eval/return"]] for row in rows if "eval/return" in row],
        "wall_s": rows[-1]["wall_s"],
        **cost_of_decision(run),
        "git_commit": versions.get("git_commit"),
        "machine": versions.get("machine"),
    }


def cloned(task: str, horizon: int, seed: int, args: argparse.Namespace) -> Path:
    """Return a run of behaviour cloning, trained now unless it is there."""
    words = [
        *task_words(task, args),
        "algorithm=bc",
        *FLOW,
        f"policy.horizon={horizon}",
        f"algorithm.offline_updates={args.cloning_updates}",
        "algorithm.batch_size=128",
        "algorithm.learning_rate=1e-3",
        "total_steps=0",
        "eval_episodes=200",
        "num_envs=10",
        f"seed={seed}",
    ]
    return trained(
        Path(args.runs_dir) / task / f"bc{horizon}-{args.cloning_updates}-s{seed}",
        "evaluation/summary.json",
        *words,
    )


def task_words(task: str, args: argparse.Namespace) -> list[str]:
    """Return what all runs on a task have in common."""
    options = [f"task.{name}={value}" for name, value in DATA[task]["options"].items()]
    threads = ["torch_threads=1", "sim_threads=1", "export=false"]
    return [f"task={task}", *options, f"data={data_folder(task, args)}", *threads]


def data_folder(task: str, args: argparse.Namespace) -> Path:
    """Return where the task's data are or will be."""
    return Path(args.runs_dir) / task / f"noisy-{DATA[task]['episodes']}-v0"


def key_of(piece: dict[str, Any]) -> tuple[str, str, int, int]:
    """Return what tells pieces apart."""
    return piece["task"], piece["method"], piece["seed"], piece["steps"]


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(DATA), choices=list(DATA))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--cloning-updates", type=int, default=4_000, help="of behaviour cloning")
    parser.add_argument("--runs-dir", default="runs/generative")
    parser.add_argument("--summary", action="store_true", help="only print what is there")
    args = parser.parse_args()
    wanted = [(task, seed, method) for task in args.tasks for seed in args.seeds for method in args.methods]
    for task, seed, method in () if args.summary else wanted:
        key = task, method, seed, STEPS[task]
        if any(key_of(p) == key for p in known_pieces(OUT)):
            continue
        data = json.loads(OUT.read_text())["data"] if OUT.is_file() else {}
        data[task] = collected(data_folder(task, args), task, **DATA[task])
        piece = run_piece(task, method, seed, args)
        # another process may have done the same
        pieces = [*(p for p in known_pieces(OUT) if key_of(p) != key), piece]
        pieces.sort(key=lambda p: (list(DATA).index(p["task"]), list(METHODS).index(p["method"]), p["seed"]))
        common = {"flow": FLOW, "critics": CRITICS, "learning": LEARNING}
        document = {"provenance": provenance(), "data": data, "options_of_all": common}
        write_json(OUT, document | {"summary": summarize(pieces), "pieces": pieces})
        draw(pieces, OUT.with_suffix(".png"))
        print(
            f"{task} {method} seed {seed}: {piece['curve'][-1][1]:.2f}, {piece['wall_s']:.0f} s", flush=True
        )
    show(summarize(known_pieces(OUT)))


if __name__ == "__main__":
    main()
