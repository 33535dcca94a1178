"""The command `robotrl export`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from robotrl.cli.terminal import command_parser


def export(words: Sequence[str]) -> None:
    """Write a run's policy as a bundle and print where it is."""
    parser = command_parser(
        "export",
        "Write a run's policy as a bundle: policy.onnx, contract.json (what every input and output means)\n"
        "and golden.npz (recorded inputs and outputs).",
        "export runs/NAME\nexport runs/NAME --format onnx,c,pt2\nexport runs/NAME --out walker.bundle\n"
        "export runs/NAME --out fast.bundle --steps 4",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument(
        "--out",
        metavar="DIR",
        type=Path,
        help="folder to create (default: bundle or bundle-Ksteps in the run; an older one is replaced)",
    )
    parser.add_argument(
        "--format",
        metavar="F,F",
        default="onnx",
        help="onnx, which is always written; c (policy.c and policy.h, for robots without libraries); "
        "pt2 (torch.export)",
    )
    parser.add_argument(
        "--allow-simulation-only",
        action="store_true",
        help="export a policy although it acts on what no robot can measure",
    )
    parser.add_argument(
        "--steps", metavar="K", type=int, help="denoising steps of one decision (default: as in training)"
    )
    args = parser.parse_args(words)
    from robotrl.training.exporting import export_run

    formats = [name.strip() for name in args.format.split(",")]
    made = export_run(args.run, args.out, args.allow_simulation_only, args.steps, formats)
    sys.stdout.write(f"{made}\n")
