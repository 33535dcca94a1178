"""Consecutive hits of a trained juggling policy: 10 trials each under dynamics seen in training and not.

    python scripts/bench_juggle.py RUN [--conditions training unseen light] [--trials 10] [--cap-s 3600]
        [--seed 0] [--out FILE]

RUN is a run of the recipe juggle_ppo. Trials end with the first miss or at the cap; the policy acts
deterministically, physics steps are 1 ms. Conditions:

training   as trained: restitution 0.7 to 1, ball mass +-20 %, drone mass +-2 %, command delay 0 to 20 ms,
           noise of 3 mm and 0.03 m/s, 1 % noise on commands
unseen     restitution 0.64 (the outer zone of the paper's racket) to 0.9, drone mass +-3 %, delay 20 to
           30 ms, noise of 4 mm on the ball's place and 0.05 m/s on both velocities, 2 % noise on commands
light      unseen, with a ball of 5 g

Writes after every condition; one that FILE has of the same run and settings is not measured again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from bench_common import RESULTS, provenance, write_json
from collect_runs import summarize_run, without_machine_paths

from robotrl.compose import compose
from robotrl.training.evaluation import Evaluation, evaluate
from robotrl.training.metrics import read_metrics
from robotrl.training.restore import load_policy_and_config
from robotrl.training.run_folder import RunFolder

OUT = RESULTS / "juggle_ppo.json"
FINE = ["recipe=juggle_ppo", "task.physics_dt_s=0.001"]
UNSEEN = [
    "task.realism.restitution.ball.range=[0.64,0.9]",
    "task.realism.actuator_delays.link.range_s=[0.02,0.03]",
    "task.realism.observation_noise.ball.std=0.004",
    "task.realism.observation_noise.speeds.std=0.05",
    "task.realism.action_noise=0.02",
    "task.realism.randomize.drone_mass.range=[0.97,1.03]",
]
CONDITIONS = {"training": [], "unseen": UNSEEN, "light": [*UNSEEN, "task.ball_mass_kg=0.005"]}


def curve(run: RunFolder, points: int = 25) -> list[dict[str, float]]:
    """Return hits per training episode, of at most 10 s and with exploration, over the training."""
    rows = [row for row in read_metrics(run.metrics_file) if "episode/hits" in row]
    chosen = [rows[i] for i in np.linspace(0, len(rows) - 1, points).round().astype(int)]
    return [
        {"env_steps": row["env_steps"], "wall_s": row["wall_s"], "hits": row["episode/hits"]}
        for row in chosen
    ]


def figures(result: Evaluation, cap_steps: int) -> dict[str, Any]:
    """Return the hits of every trial, their mean with its interval, and how many trials the cap ended."""
    hits = result.scores["hits"]
    return {
        "hits": hits.tolist(),
        **result.summary(hits),
        "minutes": (result.lengths * 0.02 / 60).tolist(),
        "ended_by_the_cap": int((result.lengths == cap_steps).sum()),
        "diverged": int((~result.valid).sum()),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--cap-s", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    args = parser.parse_args()
    policy, _ = load_policy_and_config(args.run)
    origin = provenance()
    origin["command"] = without_machine_paths(origin["command"], Path.cwd())
    settings: dict[str, Any] = {
        "trials": args.trials,
        "cap_s": args.cap_s,
        "seed": args.seed,
        "training": summarize_run(args.run) | {"curve": curve(RunFolder(args.run))},
    }
    found_before = json.loads(args.out.read_text()) if args.out.is_file() else {}
    same = all(found_before.get(key) == value for key, value in settings.items())
    content = settings | {"conditions": found_before["conditions"] if same else {}, "versions": origin}
    for name in args.conditions:
        if name in content["conditions"]:
            continue
        words = CONDITIONS[name]
        task = compose([*FINE, *words, f"task.episode_length_s={args.cap_s}"]).task
        result = evaluate(policy, task, args.trials, args.seed)
        found = figures(result, round(args.cap_s / task.control_dt_s))
        content["conditions"][name] = {"options": words, **found}
        write_json(args.out, content)
        print(
            f"{name}: {found['mean']:.1f} [{found['ci_low']:.1f}, {found['ci_high']:.1f}] hits, "
            f"{found['ended_by_the_cap']} of {args.trials} trials ended by the cap",
            flush=True,
        )


if __name__ == "__main__":
    main()
