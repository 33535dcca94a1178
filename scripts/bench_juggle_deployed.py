"""Consecutive hits of a juggling policy on a simulated robot: its compiled C, in processes of their own.

    python scripts/bench_juggle_deployed.py BUNDLE [--conditions identified randomised light] [--trials 10]
        [--cap-s 900] [--beside 4] [--out FILE]

BUNDLE is an export of a run of the recipe juggle_ppo with `--format onnx,c`. Trials are those of
`deployed_trials`; one ends when the task does (a miss, a hit too soon) or at the cap. Measurements carry
noise of 1 % of their spread. Conditions, each in every trial drawn anew where it is a range:

identified  restitution 0.82 (the paper's racket), command delay 8 ms on top of what processes and packets
            cost, the masses of training
randomised  as trained: restitution 0.7 to 1, ball +-20 %, drone +-2 %, delay 0 to 20 ms on top
light       identified, with a ball of 5 g

Writes after every trial; trials that FILE has of the same bundle and settings are not run again.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from bench_common import RESULTS, interval_of_mean, provenance, write_json
from collect_runs import without_machine_paths
from deployed_trials import trial

from robotrl.deploy.bundle import Bundle
from robotrl.deploy.c_policy import compile_policy

OUT = RESULTS / "juggle_deployed.json"
IDENTIFIED = [
    "task.realism.restitution.ball.range=[0.82,0.82]",
    "task.realism.actuator_delays.link.range_s=[0.008,0.008]",
]
CONDITIONS = {
    "identified": IDENTIFIED,
    "randomised": [],
    "light": [*IDENTIFIED, "task.ball_mass_kg=0.005"],
}
NOISE = "0.01"
# a drone takes off at once: there is no pose to move to, and half of its thrust would not carry it
LIMITS = "blend_s: 0\nmove_s: 0.1\n"


def juggle(bundle: Path, library: Path, changes: list[str], seed: int, cap_s: float) -> dict[str, Any]:
    """Return what a trial with a robot of one's own came to."""
    return {"seed": seed} | trial(
        bundle, library, [*changes, "--seed", str(seed), "--noise", NOISE], LIMITS, cap_s
    )


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--cap-s", type=float, default=900.0)
    parser.add_argument("--beside", type=int, default=4, help="trials at the same time")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=list(CONDITIONS))
    args = parser.parse_args()
    contract = Bundle.load(args.bundle).contract
    origin = provenance()
    origin["command"] = without_machine_paths(origin["command"], Path.cwd())
    settings: dict[str, Any] = {"policy_sha256": contract.policy_sha256, "cap_s": args.cap_s}
    content = json.loads(args.out.read_text()) if args.out.is_file() else {}
    if any(content.get(key) != value for key, value in settings.items()):
        content = settings | {"conditions": {}}
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(args.beside) as pool:
        library = compile_policy(args.bundle, Path(folder) / "policy.so")
        for name in args.conditions:
            changes = CONDITIONS[name]
            found = content["conditions"].setdefault(name, {"options": changes, "trials": []})
            left = sorted(set(range(args.trials)) - {done["seed"] for done in found["trials"]})
            jobs = [pool.submit(juggle, args.bundle, library, changes, seed, args.cap_s) for seed in left]
            for job in as_completed(jobs):
                found["trials"].append(job.result() | {"provenance": origin})
                hits = [done["hits"] for done in found["trials"]]
                found["mean_hits"], found["interval"] = sum(hits) / len(hits), interval_of_mean(hits)
                write_json(args.out, content)
                print(name, found["trials"][-1], found["mean_hits"], flush=True)


if __name__ == "__main__":
    main()
