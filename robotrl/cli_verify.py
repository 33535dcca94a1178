"""The command `robotrl verify`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robotrl.core.errors import RobotrlError
from robotrl.terminal import command_parser, print_table


def verify(words: Sequence[str]) -> None:
    """Check a bundle and print what was found."""
    parser = command_parser(
        "verify",
        "Check a bundle: its parts fit each other, the recorded actions are reproduced, and it controls a\n"
        "simulated episode. In the folder of its run every action there is compared with the trained\n"
        "policy's. Exit code 1 if a check fails.",
        "verify runs/NAME/bundle",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder of a bundle")
    args = parser.parse_args(words)
    from robotrl.export.verify import verify_bundle
    from robotrl.training.exporting import training_policy

    policy, damage = None, None
    try:
        policy = training_policy(args.bundle)
    except RobotrlError as error:
        damage = error  # told after what is wrong with the bundle itself
    checks = verify_bundle(args.bundle, policy)
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
