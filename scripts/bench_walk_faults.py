"""A walking policy on a simulated robot through faults: does it go on, and if it cannot, is it damped?

    python scripts/bench_walk_faults.py BUNDLE [--faults ...] [--trials 3] [--seconds 30] [--out FILE]

BUNDLE is an export of a run of the recipe quadruped_velocity_ppo with `--format onnx,c`. Trials are those of
`deployed_trials`. Of each: how long it walked, its mean distance from the commanded velocity, what ended it.
Faults that a robot shall walk through, from the first step on or again and again:

none         only what processes, packets and the training's randomisation do
order        joints, drives and signals in an order of the robot's own
late         commands 10 ms and readings 5 ms late, on top
lossy        one reading in five is lost
noisy        noise of 5 % of each measurement's spread
slippery     friction of the feet 0.25, less than in training
pushed       velocity jumps of up to 0.8 m/s every second or two, in training 0.5 m/s every one to three
stalled      the runtime is stopped for 40 ms of every 4 s

and those after which it shall be damped, 5 s on; "damped_s" is how long after the fault that was:

hung         the runtime is stopped for good
killed       the runtime is killed

Writes after every trial; trials that FILE has of the same bundle and settings are not run again.
"""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_common import RESULTS, provenance, write_json
from collect_runs import without_machine_paths
from deployed_trials import Running, trial, undisturbed

from robotrl.deploy.bundle import Bundle
from robotrl.deploy.c_policy import compile_policy

OUT = RESULTS / "walk_faults.json"
LIMITS = "move_s: 1.0\n"
FAULT_S, STALL_S, STALL_EVERY_S = 5.0, 0.04, 4.0
ROBOTS = {
    "order": ["--shuffle", "1"],
    "late": ["--command-delay", "0.01", "--reading-delay", "0.005"],
    "lossy": ["--loss", "0.2"],
    "noisy": ["--noise", "0.05"],
    "slippery": ["task.realism.randomize.friction.range=[0.25,0.25]"],
    "pushed": [
        "task.realism.kicks.shove.interval_s=[1.0,2.0]",
        "task.realism.kicks.shove.range=[-0.8,0.8]",
    ],
}


def stall(running: Running) -> None:
    """Stop the runtime for a moment, again and again."""
    under_s = time.monotonic() - running.began_s
    if under_s > STALL_EVERY_S and under_s % STALL_EVERY_S < 0.01:
        running.deployment.send_signal(signal.SIGSTOP)
        time.sleep(STALL_S)
        running.deployment.send_signal(signal.SIGCONT)


def ends(number: signal.Signals) -> Callable[[Running], None]:
    """Return what sends a signal to the runtime when the time has come."""

    def disturb(running: Running) -> None:
        if time.monotonic() - running.began_s >= FAULT_S:
            running.deployment.send_signal(number)

    return disturb


DISTURBANCES = {"stalled": stall, "hung": ends(signal.SIGSTOP), "killed": ends(signal.SIGKILL)}
FAULTS = ["none", *ROBOTS, *DISTURBANCES]


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    parser.add_argument("--trials", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    origin = provenance()
    origin["command"] = without_machine_paths(origin["command"], Path.cwd())
    policy_sha256 = Bundle.load(args.bundle).contract.policy_sha256
    settings: dict[str, Any] = {"policy_sha256": policy_sha256, "seconds": args.seconds}
    content = json.loads(args.out.read_text()) if args.out.is_file() else {}
    if any(content.get(key) != value for key, value in settings.items()):
        content = settings | {"faults": {}}
    with tempfile.TemporaryDirectory() as folder:
        library = compile_policy(args.bundle, Path(folder) / "policy.so")
        for fault in args.faults:
            found = content["faults"].setdefault(fault, [])
            for seed in range(len(found), args.trials):
                words = [*ROBOTS.get(fault, []), "--seed", str(seed)]
                disturb = DISTURBANCES.get(fault, undisturbed)
                result = trial(args.bundle, library, words, LIMITS, args.seconds, disturb)
                if fault in ("hung", "killed") and result["ended_s"] >= FAULT_S:
                    result["damped_s"] = result["ended_s"] - FAULT_S
                found.append({"seed": seed, "provenance": origin} | result)
                write_json(args.out, content)
                print(fault, found[-1], flush=True)


if __name__ == "__main__":
    main()
