"""The command `robotrl report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robotrl.cli.terminal import command_parser


def report(words: Sequence[str]) -> None:
    """Write the page and print where it lies."""
    parser = command_parser(
        "report",
        "Write one self-contained HTML page about a run: learning curves, reward terms, timing, video,\n"
        "configuration and versions.",
        "report runs/NAME",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    args = parser.parse_args(words)
    from robotrl.training.report import write_report

    print(write_report(args.run))
