"""Fine-tuning in the stream: a trained policy meets a changed simulator and learns online for 50,000 steps.

    python scripts/bench_stream_adaptation.py [--changes ...] [--methods ...] [--seeds 5] [--steps 50000]
        [--origin-steps 1.5e6] [--runs-dir runs/stream_adaptation]

The policy is PPO's on cheetah_run (2 x 128 units), trained once. A piece is one change of the simulator and
one method; pieces that are there are not run again. Streams differ in the step-size rule; "none" is one
whose actor rests all the time: its normaliser goes on, which alone changes what the policy does. PPO goes
on from its own checkpoint, optimiser included, with one simulation and rollouts of 2,000 steps. All
methods see as many control steps (if `--steps` is a multiple of 2,000).

Figures: deterministic return before the change, right after it, and per seed after the steps (10 episodes
each); and the online return, exploration included, over the first and the last tenth of the steps. Writes
stream_adaptation.json into benchmarks/results after every piece.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import RESULTS, interval_of_mean, provenance, write_json

import robotrl
from robotrl.compose import compose
from robotrl.core import checkpoint
from robotrl.training.evaluation import evaluate
from robotrl.training.restore import load_policy_and_config
from robotrl.training.run_folder import RunFolder
from robotrl.training.train import make_loop

OUT = RESULTS / "stream_adaptation.json"
EPISODE_STEPS, EVAL_EPISODES, EVAL_SEED = 1000, 10, 1000
TASK = ["task=cheetah_run"]
ORIGIN = ["policy.hidden=[128,128]", "policy.initial_std=0.5", "algorithm.hidden=[128,128]"]
CHANGES = {
    # kg and m on the torso; without units: share of the motor, friction coefficient
    "broken_joint": ["{field: actuator_gainprm, columns: [0], names: bfoot, op: set, range: [0, 0]}"],
    "payload": [
        "{field: body_mass, names: torso, op: add, range: [10, 10]}",
        "{field: body_ipos, columns: [0], names: torso, op: add, range: [-0.5, -0.5]}",
    ],
    "friction": ["{field: geom_friction, columns: [0], range: [0.3, 0.3]}"],
}
ADAPT = ["algorithm=stream_ac", "algorithm.std_scale=0.3", "algorithm.actor_rest_steps=5000"]
STREAMS = {
    "none": ["algorithm.rule=obgd", "algorithm.actor_kappa=1e30"],
    "obgd": ["algorithm.rule=obgd"],
    "adaptive_obgd": ["algorithm.rule=adaptive_obgd"],
    "intentional": ["algorithm.rule=intentional"],
}
ROLLOUT_STEPS = 2000
PPO = ["num_envs=1", f"algorithm.num_steps={ROLLOUT_STEPS}", "algorithm.minibatch_size=250"]


def changed(change: str) -> list[str]:
    """Return the words that change the simulator."""
    entries = enumerate(CHANGES[change])
    return [*TASK, *(f"++task.realism.randomize.change_{i}={entry}" for i, entry in entries)]


def train_origin(args: argparse.Namespace) -> Path:
    """Return the run of the policy that all go on from."""
    folder = Path(args.runs_dir) / f"origin-{args.origin_steps}"
    done = sorted(folder.rglob("evaluation/summary.json"))
    if done:
        return done[-1].parent.parent
    words = [*TASK, "algorithm=ppo", *ORIGIN, "algorithm.num_steps=64", "algorithm.minibatch_size=1024"]
    words += ["num_envs=256", f"total_steps={args.origin_steps}", f"runs_dir={folder}"]
    words += ["torch_threads=1", "sim_threads=1", "export=false"]
    return robotrl.train(None, *words, show_progress=False)


def score(policy: Any, task: Any) -> float:
    """Return the deterministic policy's mean return."""
    return evaluate(policy, task, EVAL_EPISODES, EVAL_SEED, 1).mean


def adapt_streams(origin: Path, change: str, method: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """Let one stream per seed go on from the policy."""
    words = [
        *changed(change),
        *ADAPT,
        f"algorithm.init_from={origin}",
        f"num_envs={args.seeds}",
        f"total_steps={args.seeds * args.steps}",
        *("export=false", "sim_threads=1", f"eval_episodes={EVAL_EPISODES}", f"eval_seed={EVAL_SEED}"),
        f"runs_dir={args.runs_dir}",
        *STREAMS[method],
    ]
    run = robotrl.train(None, *words, show_progress=False)
    streams = json.loads((run / "streams.json").read_text())["streams"]
    curves = np.array([stream["curve"] for stream in streams], float)
    return {
        "after": [stream["eval_return"] for stream in streams],
        "online_first": np.nanmean(curves[:, :10], axis=1).tolist(),
        "online_last": [stream["online_return"] for stream in streams],
    }


def adapt_ppo(origin: Path, change: str, args: argparse.Namespace) -> dict[str, list[float]]:
    """Let PPO go on with its rollouts, seed by seed."""
    found: dict[str, list[float]] = {"after": [], "online_first": [], "online_last": []}
    state = checkpoint.load(RunFolder(origin).latest_checkpoint())["algorithm"]
    for seed in range(args.seeds):
        words = [*changed(change), "algorithm=ppo", *ORIGIN, *PPO, f"seed={seed}", "torch_threads=1"]
        config = compose([*words, f"total_steps={args.steps}", "sim_threads=1"])
        loop = make_loop(config)
        rng = loop.algorithm.rng.get_state()
        loop.algorithm.load_state_dict(state | {"rng": rng})
        returns: list[tuple[int, float]] = []
        while loop.env_steps < args.steps:
            metrics = loop.iterate()
            if "episode/return" in metrics:
                returns.append((loop.env_steps, metrics["episode/return"]))
        tenth = max(args.steps // 10, 2 * ROLLOUT_STEPS)
        found["online_first"].append(float(np.mean([r for t, r in returns if t <= tenth])))
        found["online_last"].append(float(np.mean([r for t, r in returns if t > args.steps - tenth])))
        found["after"].append(score(loop.algorithm.policy, config.task))
    return found


def run_piece(origin: Path, change: str, method: str, args: argparse.Namespace) -> dict[str, Any]:
    """Measure one method under one change."""
    policy, config = load_policy_and_config(origin)
    start, cpu = time.perf_counter(), time.process_time()
    if method == "ppo":
        found = adapt_ppo(origin, change, args)
    else:
        found = adapt_streams(origin, change, method, args)
    return {
        "change": change,
        "method": method,
        "options": PPO if method == "ppo" else [*ADAPT, *STREAMS[method]],
        "randomize": CHANGES[change],
        "seeds": args.seeds,
        "steps": args.steps,
        "before": score(policy, config.task),
        "right_after": score(policy, compose([*changed(change), "algorithm=ppo"]).task),
        **{
            name: {"mean": float(np.mean(values)), "interval": interval_of_mean(values), "seeds": values}
            for name, values in found.items()
        },
        "wall_s": time.perf_counter() - start,
        "cpu_s": time.process_time() - cpu,
    }


def show(piece: dict[str, Any]) -> None:
    """Print a piece on one line."""
    cells = [f"before {piece['before']:.0f}  right after {piece['right_after']:.0f}"]
    for name in ("after", "online_first", "online_last"):
        low, high = piece[name]["interval"]
        cells.append(f"{name} {piece[name]['mean']:.0f} ({low:.0f} to {high:.0f})")
    cells.append(f"{piece['cpu_s']:.0f} s CPU")
    print(f"{piece['change']:13s} {piece['method']:14s} {'  '.join(cells)}", flush=True)


def main() -> None:
    """Run what is missing."""
    methods = [*STREAMS, "ppo"]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--changes", nargs="+", default=list(CHANGES), choices=list(CHANGES))
    parser.add_argument("--methods", nargs="+", default=methods, choices=methods)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--origin-steps", type=float, default=1.5e6)
    parser.add_argument("--runs-dir", default="runs/stream_adaptation")
    args = parser.parse_args()
    args.origin_steps = int(args.origin_steps)
    document: dict[str, Any] = {"pieces": []}
    if OUT.is_file():
        document = json.loads(OUT.read_text())
    made_by = provenance()
    origin = train_origin(args)
    names = ("change", "method", "seeds", "steps")
    for change in args.changes:
        for method in args.methods:
            key = (change, method, args.seeds, args.steps)
            if any(tuple(piece[name] for name in names) == key for piece in document["pieces"]):
                continue
            piece = run_piece(origin, change, method, args)
            document["pieces"].append(piece | {"provenance": made_by})
            write_json(OUT, document)
            show(document["pieces"][-1])


if __name__ == "__main__":
    main()
