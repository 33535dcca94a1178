"""The command `robotrl play`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robotrl.cli.terminal import command_parser
from robotrl.core.errors import UsageError


def play(words: Sequence[str]) -> None:
    """Show what is given, or record it."""
    parser = command_parser(
        "play",
        "Watch a policy, a recorded failure or the log of a deployment: in a window, or where there is no\n"
        "screen in a browser.",
        "play runs/NAME\nplay runs/NAME/bundle --video walk.mp4 --seed 3 --video-grid 3x4\n"
        "play runs/NAME/failures/step_000000081920_sim_00007.safetensors\n"
        "play run.mcap --bundle runs/NAME/bundle --video run.mp4",
    )
    what = "folder of a run or of a bundle, a file in a run's folder `failures`, or a deployment's log"
    parser.add_argument("path", metavar="RUN|BUNDLE|FAILURE|LOG", type=Path, help=what)
    parser.add_argument("--bundle", metavar="BUNDLE", type=Path, help="that was deployed, of a log")
    parser.add_argument("--video", metavar="FILE", type=Path, help="record one episode as MP4 instead")
    parser.add_argument("--video-grid", metavar="ROWSxCOLUMNS", help="record many simulations, side by side")
    parser.add_argument("--seed", type=int, default=0, help="seed of the episode (default 0)")
    parser.add_argument("--port", type=int, default=8000, help="port of the browser view (default 8000)")
    args = parser.parse_args(words)
    from robotrl.core.config import check_seed

    check_seed(args.seed, "--seed")
    if not 0 <= args.port < 65_536:
        raise UsageError(f"--port must be in 0 to 65535, got {args.port}")
    from robotrl.training.play import play as show

    show(args.path, args.video, args.seed, args.port, video_grid=args.video_grid, bundle=args.bundle)
