"""How steadily the runtime keeps its rate over hours: `robotrl deploy`'s parts against the simulated robot.

One process runs the simulated robot, one the watchdog, this one the policy. Every minute a line tells how it
stands; at the end the figures go to a JSON file: overruns, lateness, age of readings, inference time, and the
growth of this process's memory after the first minute.

    python scripts/soak_runtime.py BUNDLE --hours 1 --out benchmarks/results/soak_50hz.json
    python scripts/soak_runtime.py BUNDLE --hours 1 --policy c --out benchmarks/results/soak_500hz.json
"""

from __future__ import annotations

import argparse
import dataclasses
import resource
import sys
import time
from pathlib import Path

from bench_common import provenance, write_json

from robotrl.cli.deploy import network_of, robot_address
from robotrl.core.errors import UsageError
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.runtime.decide import check_recordings, execution
from robotrl.deploy.runtime.limits import Limits
from robotrl.deploy.runtime.link import WatchedRobot
from robotrl.deploy.runtime.operator import Automatic
from robotrl.deploy.runtime.priority import RUNTIME, real_time
from robotrl.deploy.runtime.rate import Rate
from robotrl.deploy.runtime.runtime import Runtime, Status

# what is measured is the loop: a policy that falls, or a crowded machine, must not end it
LIMITS = Limits(
    tilt_rad=10.0,
    joint_velocity=1e6,
    mean_joint_velocity=1e6,
    obs_abs_max=1e6,
    max_obs_age_s=1.0,
    watchdog_s=1.0,
    consecutive_overruns=1_000_000,
    overrun_share=1.0,
)


def resident_mb() -> float:
    """Return this process's memory, MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


class Minutes:
    """Prints a line a minute and remembers the memory."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime, self._next_s = runtime, 0.0
        self.memory_mb: list[float] = []

    def __call__(self, status: Status) -> None:
        """Take note of how it stands."""
        if status.policy_s < self._next_s:
            return
        self._next_s += 60.0
        self.memory_mb.append(resident_mb())
        summary = self._runtime.summary()
        sys.stdout.write(
            f"{status.state.name} {status.policy_s:.0f} s: overruns {summary.overruns}, worst lateness "
            f"{1e3 * summary.lateness['worst_s']:.2f} ms, memory {self.memory_mb[-1]:.1f} MB {status.note}\n"
        )
        sys.stdout.flush()


def main() -> None:
    """Run the soak and write its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--policy", default="onnx", help="onnx, c or FILE.so")
    parser.add_argument("--hours", type=float, default=1.0)
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args()
    made_by = provenance()
    bundle = Bundle.load(args.bundle)
    contract = bundle.contract
    if contract.control_dt_s is None:
        raise UsageError(f"{args.bundle} does not tell its control rate")
    network = network_of(args.policy, bundle)
    acts = execution("queue", network, LIMITS)
    with robot_address("sim", args.bundle) as address:
        robot = WatchedRobot(address, LIMITS.silence_s(contract.control_dt_s))
        try:
            granted = real_time(RUNTIME)
            runtime = Runtime(
                contract,
                bundle.golden,
                acts,
                lambda: check_recordings(network, bundle.golden),
                robot,
                LIMITS,
                Rate(contract.control_dt_s),
                None,
                args.out.with_suffix(".mcap"),
            )
            minutes = Minutes(runtime)
            began_s = time.monotonic()
            runtime.run(Automatic(), 3600.0 * args.hours, minutes)
        finally:
            robot.close()
    summary = runtime.summary()
    memory_mb = {"after_a_minute": minutes.memory_mb[:2][-1], "end": resident_mb()}
    result = {
        "policy": args.policy,
        "policy_sha256": contract.policy_sha256,
        "real_time_scheduling": granted,
        "wall_s": time.monotonic() - began_s,
        "memory_mb": memory_mb,
        **dataclasses.asdict(summary),
    }
    write_json(args.out, result | {"provenance": made_by})
    sys.stdout.write(f"{args.out}\n")


if __name__ == "__main__":
    main()
