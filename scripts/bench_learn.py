"""Learning against Stable-Baselines3: return at equal steps, and wall clock to SB3's final return.

    python scripts/bench_learn.py --mode identical --seeds 5 --steps 1000000 --jobs 2
    python scripts/bench_learn.py --mode best --seeds 3 --steps 1000000 --jobs 1
    python scripts/bench_learn.py --summary

identical: the same networks and hyperparameters (SB3's defaults) on both sides, return at equal
environment steps. best: each side's best setting for this machine, wall clock until the mean curve
reaches SB3's mean final return. SB3 trains on its users' environments: Gymnasium's HalfCheetah-v5, and
dm_control's cheetah_run behind a small Gymnasium wrapper. Evaluation is the same function for both,
deterministic; neither it nor construction counts in the wall clock, on either side.

--jobs 1 gives each training the whole machine: use it for every wall-clock claim. --jobs 2 runs two at a
time with one torch and one physics thread each. Each training is a process of its own; its result is a
line of benchmarks/results/bench_learn.jsonl, and trainings found there are not repeated, so the script
can be stopped and started again at any time. --summary writes bench_learn.json and bench_learn.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from bench_common import RESULTS, provenance
from bench_learn_summary import summarize

# "steps" multiplies --steps: only wall clock counts in mode best
IDENTICAL: dict[str, dict[str, Any]] = {
    "ppo": {
        "ours": {
            "kind": "ours",
            "overrides": [
                "num_envs=8",
                "algorithm.num_steps=256",
                "algorithm.num_epochs=10",
                "algorithm.minibatch_size=64",
                "algorithm.learning_rate=3e-4",
                "algorithm.schedule=constant",
                "algorithm.gamma=0.99",
                "algorithm.gae_lambda=0.95",
                "algorithm.clip_ratio=0.2",
                "algorithm.value_coef=0.5",
                "algorithm.entropy_coef=0",
                "algorithm.max_grad_norm=0.5",
                "algorithm.hidden=[64,64]",
                "algorithm.activation=tanh",
                "policy.hidden=[64,64]",
                "policy.activation=tanh",
                "policy.normalize_obs=false",
                "policy.initial_std=1",
                "policy.mean_gain=0.01",
            ],
        },
        # the rest are SB3's defaults
        "sb3": {"kind": "sb3", "num_envs": 8, "arguments": {"n_steps": 256}},
    },
    "sac": {
        "ours": {
            "kind": "ours",
            "overrides": [
                "num_envs=1",
                "algorithm.replay_ratio=1",
                "algorithm.replay_size=1000000",
                "algorithm.batch_size=256",
                "algorithm.learning_starts=100",
                "algorithm.learning_rate=3e-4",
                "algorithm.gamma=0.99",
                "algorithm.tau=0.005",
                "algorithm.policy_delay=1",
                "algorithm.initial_alpha=1",
                "algorithm.target_entropy_per_action=-1",
                "algorithm.num_critics=2",
                "algorithm.hidden=[256,256]",
                "algorithm.activation=relu",
                "policy.hidden=[256,256]",
                "policy.activation=relu",
                "policy.normalize_obs=false",
                "policy.log_std_min=-20",
                "policy.log_std_max=2",
            ],
        },
        "sb3": {"kind": "sb3", "num_envs": 1, "arguments": {}},
    },
}
BEST: dict[str, dict[str, Any]] = {
    "ppo": {
        "ours": {
            "kind": "ours",
            "steps": 10,
            "overrides": [
                "num_envs=256",
                "algorithm.num_steps=16",
                "algorithm.minibatch_size=512",
                "algorithm.hidden=[64,64]",
                "policy.hidden=[64,64]",
            ],
        },
        # rl-zoo's tuned HalfCheetah, its 512 steps per update spread over 8 environments
        "sb3": {
            "kind": "sb3",
            "num_envs": 8,
            "normalize": True,
            "arguments": {
                "n_steps": 64,
                "batch_size": 64,
                "n_epochs": 20,
                "learning_rate": 2.0633e-05,
                "gamma": 0.98,
                "gae_lambda": 0.92,
                "clip_range": 0.1,
                "ent_coef": 0.000401762,
                "vf_coef": 0.58096,
                "max_grad_norm": 0.8,
                "policy_kwargs": {
                    "log_std_init": -2,
                    "ortho_init": False,
                    "activation_fn": "relu",
                    "net_arch": {"pi": [256, 256], "vf": [256, 256]},
                },
            },
        },
        # cheap updates and processes for the physics: the quickest through its steps
        "sb3_wide": {
            "kind": "sb3",
            "num_envs": 16,
            "subprocesses": True,
            "normalize": True,
            "arguments": {"n_steps": 128, "batch_size": 256, "n_epochs": 10},
        },
    },
    "sac": {
        # the defaults, with the quickstart's networks: physics is cheap beside an update
        "ours": {
            "kind": "ours",
            "steps": 20,
            "overrides": ["algorithm.hidden=[128,128]", "policy.hidden=[128,128]"],
        },
        # SB3's defaults after a longer warm-up; rl-zoo's 10,000 steps are for runs of a million
        "sb3": {"kind": "sb3", "num_envs": 1, "arguments": {"learning_starts": 1_000}},
        # half the updates per step, collected from 8 environments at once
        "sb3_wide": {
            "kind": "sb3",
            "num_envs": 8,
            "arguments": {"learning_starts": 1_000, "gradient_steps": 4},
        },
    },
}
SETTINGS = {"identical": IDENTICAL, "best": BEST}
TASKS = ["HalfCheetah-v5", "cheetah_run"]
JOB_SCRIPT = Path(__file__).with_name("bench_learn_job.py")


def planned_jobs(args: argparse.Namespace) -> list[dict[str, Any]]:
    """List the trainings asked for, contenders of one seed next to each other."""
    jobs = []
    for mode in args.mode:
        for algorithm in args.algorithms:
            for task in args.tasks:
                for seed in range(args.first_seed, args.first_seed + args.seeds):
                    for contender, settings in SETTINGS[mode][algorithm].items():
                        if args.contenders and contender not in args.contenders:
                            continue
                        jobs.append(
                            {
                                "mode": mode,
                                "algorithm": algorithm,
                                "task": task,
                                "seed": seed,
                                "contender": contender,
                                "settings": settings,
                                "steps": round(args.steps * settings.get("steps", 1)),
                                "base_steps": args.steps,
                                "evaluations": args.evaluations,
                                "episodes": args.episodes,
                                "all_cpus": args.jobs == 1,
                            }
                        )
    return jobs


def read_results(path: Path) -> list[dict[str, Any]]:
    """Read finished trainings; a line that a crash left half-written is skipped."""
    if not path.is_file():
        return []
    results = []
    for line in path.read_text().splitlines():
        try:
            results.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return results


class Runner:
    """Runs jobs in processes and appends their results."""

    def __init__(self, out: Path, made_by: dict[str, Any], timeout_s: float, total: int) -> None:
        self.out, self.made_by, self.timeout_s, self.total = out, made_by, timeout_s, total
        self.lock, self.finished, self.stopping = threading.Lock(), 0, False

    def run(self, job: dict[str, Any]) -> None:
        """Run one job; its failure is recorded and does not stop the others."""
        if self.stopping:
            return
        threads = str(len(os.sched_getaffinity(0)) if job["all_cpus"] else 1)
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        record: dict[str, Any] = {"job": job, "provenance": self.made_by}
        start = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, str(JOB_SCRIPT), json.dumps(job)],
                capture_output=True,
                text=True,
                env=environment,
                timeout=self.timeout_s,
            )
            if done.returncode == 0:
                record |= json.loads(done.stdout)
            else:
                lines = done.stderr.strip().splitlines()
                record["error"] = lines[-1] if lines else f"exit code {done.returncode}"
        except (subprocess.TimeoutExpired, json.JSONDecodeError) as error:
            record["error"] = f"{type(error).__name__}: {error}"[:300]
        if self.stopping:
            return
        record["total_s"] = time.monotonic() - start
        with self.lock:
            self._append(record)
            self.finished += 1
            self._tell(record)

    def _append(self, record: dict[str, Any]) -> None:
        self.out.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(record) + "\n"
        if self.out.is_file() and not self.out.read_bytes().endswith(b"\n"):
            text = "\n" + text
        with open(self.out, "a") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())

    def _tell(self, record: dict[str, Any]) -> None:
        job = record["job"]
        name = " ".join(str(job[key]) for key in ("mode", "algorithm", "task", "contender"))
        if "error" in record:
            outcome = f"FAILED: {record['error']}"
        else:
            steps, train_s, mean, low, high = record["curve"][-1]
            outcome = f"{mean:.0f} ({low:.0f} to {high:.0f}) after {steps:,} steps in {train_s:.0f} s"
        now = f"{datetime.now():%H:%M:%S}"
        print(f"{now} [{self.finished}/{self.total}] {name} seed {job['seed']}: {outcome}", flush=True)


def main() -> None:
    """Train what is asked for and is not there yet; or summarise."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mode", nargs="+", default=["identical"], choices=list(SETTINGS))
    parser.add_argument("--algorithms", nargs="+", default=["ppo", "sac"], choices=["ppo", "sac"])
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS)
    parser.add_argument("--contenders", nargs="+", help="ours, sb3, sb3_wide; default: all of the mode")
    parser.add_argument("--steps", type=lambda text: int(float(text)), default=1_000_000)
    parser.add_argument("--seeds", type=int, default=5, help="how many")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--evaluations", type=int, default=20, help="points of a curve")
    parser.add_argument("--episodes", type=int, default=10, help="per evaluation")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    parser.add_argument("--timeout-s", type=float, default=6 * 3600.0, help="of one training, s")
    parser.add_argument("--summary", action="store_true", help="only write bench_learn.json and .png")
    parser.add_argument("--dry-run", action="store_true", help="only list the trainings that are missing")
    parser.add_argument("--out", type=Path, default=RESULTS / "bench_learn.jsonl")
    args = parser.parse_args()
    made_by = provenance()
    if not args.summary:
        finished = [result["job"] for result in read_results(args.out) if "curve" in result]
        jobs = [job for job in planned_jobs(args) if job not in finished]
        print(f"{len(jobs)} trainings to do", flush=True)
        if args.dry_run:
            for job in jobs:
                print(*(job[key] for key in ("mode", "algorithm", "task", "contender", "seed", "steps")))
            return
        runner = Runner(args.out, made_by, args.timeout_s, len(jobs))
        with ThreadPoolExecutor(args.jobs) as pool:
            try:
                list(pool.map(runner.run, jobs))
            except KeyboardInterrupt:
                runner.stopping = True
                print("stopped; finished trainings are kept", flush=True)
    summarize(read_results(args.out), args.out.with_suffix(""), made_by)


if __name__ == "__main__":
    main()
