"""The command `robotrl verify`."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robotrl.cli.terminal import command_parser, print_table
from robotrl.core.errors import RobotrlError, UsageError

if TYPE_CHECKING:
    from robotrl.export.verify import Check

_EPISODES, _POINTS = 20, 5


def verify(words: Sequence[str]) -> None:
    """Check a bundle and print what was found."""
    args = _parser().parse_args(words)
    measures = args.sim is not None or args.sweep is not None or args.episodes is not None
    for name, value in (("--out", args.out), ("--seed", args.seed)):
        if value is not None and not measures:
            raise UsageError(f"{name} is for what --sim, --episodes and --sweep measure: give one of them")
    for name, value in (("--sim", args.sim), ("--sweep", args.sweep)):
        if value == "":
            raise UsageError(f"{name} is empty: see `robotrl verify --help`")
    if args.points is not None and args.sweep is None:
        raise UsageError("--points is how many values --sweep tries: give it")
    if args.out is not None:
        from robotrl.training.robustness import refuse_existing

        refuse_existing(args.out)  # before anything is measured
    if args.require_delay_margin is not None:
        if "delay" not in (args.sweep or ""):
            raise UsageError("--require-delay-margin needs --sweep delay=LOW..HIGH")
        if not 0.0 < args.require_delay_margin < math.inf:
            raise UsageError(f"--require-delay-margin must be above 0 s, got {args.require_delay_margin}")
    from robotrl.export.verify import verify_bundle
    from robotrl.training.exporting import training_policy

    policy, damage = None, None
    try:
        policy = training_policy(args.bundle)
    except RobotrlError as error:
        damage = error  # told after what is wrong with the bundle itself
    checks = verify_bundle(args.bundle, policy)
    if measures and all(check.passed for check in checks):
        checks += _measure(args)
    print_table(
        ["check", "result", "detail"],
        [(check.name, "passed" if check.passed else "FAILED", check.detail) for check in checks],
    )
    failed = [check.name for check in checks if not check.passed]
    if failed:
        raise RobotrlError(
            f"{args.bundle}: {len(failed)} of {len(checks)} checks failed: {', '.join(failed)}"
        )
    if damage is not None:
        raise RobotrlError(
            f"{args.bundle} is sound, but could not be compared with the trained policy: {damage}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "verify",
        """\
Check a bundle: its parts fit each other, the recorded actions are reproduced in every format, and it
controls a simulated episode. In the folder of its run every action there is compared with the trained
policy's. With --sim, --episodes or --sweep a sound bundle also controls fresh episodes: its return in
each simulator, and as delay, friction, mass or noise are changed, goes to robustness.json and
robustness.png. Exit code 1 if a check fails.""",
        "verify runs/NAME/bundle\nverify runs/NAME/bundle --episodes 100\n"
        "verify runs/NAME/bundle --sweep delay=0..40ms,friction=0.5..1.5 --require-delay-margin 0.02\n"
        "verify runs/NAME/bundle --sim cpu,warp,dm_control",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder of a bundle")
    parser.add_argument(
        "--sim",
        metavar="S,S",
        help="simulators of fresh episodes: cpu, warp (a GPU), warp_cpu, dm_control (default cpu)",
    )
    parser.add_argument(
        "--episodes", metavar="N", type=int, help=f"fresh episodes behind every mean (default {_EPISODES})"
    )
    parser.add_argument(
        "--sweep",
        metavar="Q=LOW..HIGH",
        help="comma-separated: delay (added to that of every actuator, s or ms), friction, mass, noise "
        "(factors; noise is that of the task's observations)",
    )
    parser.add_argument("--points", metavar="N", type=int, help=f"values of a sweep (default {_POINTS})")
    parser.add_argument("--seed", type=int, help="seed of fresh episodes (default 0)")
    parser.add_argument("--out", metavar="DIR", type=Path, help="where results go (default: into the bundle)")
    parser.add_argument(
        "--require-delay-margin",
        metavar="S",
        type=float,
        help="fail if the return drops by a fifth at a shorter added delay, s",
    )
    return parser


def _measure(args: argparse.Namespace) -> list[Check]:
    """Let the bundle control fresh episodes, write what came out and return what has to hold."""
    from robotrl.training.robustness import checks, measure, save
    from robotrl.training.sweeps import parse_sweeps

    sweeps = parse_sweeps(args.sweep, _POINTS if args.points is None else args.points) if args.sweep else []
    sims = [name.strip() for name in (args.sim or "cpu").split(",")]
    episodes = _EPISODES if args.episodes is None else args.episodes
    seed = 0 if args.seed is None else args.seed
    result = measure(args.bundle, sims, sweeps, episodes, seed, _tell)
    for path in save(result, args.bundle, args.out):
        _tell(f"wrote {path}")
    return checks(result, args.require_delay_margin)


def _tell(line: str) -> None:
    sys.stderr.write(line + "\n")
