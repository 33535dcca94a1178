"""The command `robotrl simulate-robot`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from robotrl.cli.terminal import command_parser, read_key
from robotrl.core.errors import UsageError


def simulate_robot(words: Sequence[str]) -> None:
    """Run the simulated robot of a bundle until Ctrl-C."""
    parser = command_parser(
        "simulate-robot",
        "Run a simulated robot for `robotrl deploy`: the bundle's task in real time, in this process,\n"
        "behind the same packets as a real robot. The first line it prints is its address; a line follows\n"
        "after every attempt of a policy: how long it lasted and how the task scores it.",
        "simulate-robot runs/NAME/bundle\n"
        "simulate-robot runs/NAME/bundle --port 4000 --command-delay 0.01 --noise 0.05 --shuffle 1\n"
        "simulate-robot juggle.bundle task.ball_mass_kg=0.005 --attempts 1",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder of a bundle")
    parser.add_argument(
        "changes", nargs="*", metavar="task.KEY=VALUE", help="options of the task that are others here"
    )
    parser.add_argument("--attempts", type=int, metavar="N", help="end after N attempts (default: Ctrl-C)")
    parser.add_argument("--port", type=int, default=0, help="UDP port on loopback (default: any free one)")
    parser.add_argument("--command-delay", type=float, default=0.0, metavar="S", help="delay of commands, s")
    parser.add_argument("--reading-delay", type=float, default=0.0, metavar="S", help="delay of readings, s")
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="SHARE", help="of the readings' spread in the recordings"
    )
    parser.add_argument("--loss", type=float, default=0.0, metavar="SHARE", help="of readings that are lost")
    parser.add_argument("--shuffle", type=int, metavar="SEED", help="order of its own of joints and drives")
    parser.add_argument("--seed", type=int, default=0, help="of initial pose, noise and losses (default 0)")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="secret shared with who may command it")
    parser.add_argument(
        "--parent", type=int, metavar="PID", help="end when the process that started this one, PID, has ended"
    )
    args = parser.parse_args(words)
    if not 0 <= args.port < 65_536:
        raise UsageError(f"--port must be in 0 to 65535, got {args.port}")
    if args.attempts is not None and args.attempts < 1:
        raise UsageError(f"--attempts must be at least 1, got {args.attempts}")
    for change in args.changes:
        if not change.startswith("task.") or "=" not in change:
            raise UsageError(f"{change!r}: expected task.KEY=VALUE, such as task.episode_length_s=60")
    changes = [change.removeprefix("task.") for change in args.changes]
    key = read_key(args.key_file)
    from robotrl.deploy.bundle import Bundle
    from robotrl.deploy.runtime.priority import SIMULATED_ROBOT, real_time
    from robotrl.deploy.runtime.robots.server import RobotServer
    from robotrl.deploy.runtime.robots.udp import UdpChannel
    from robotrl.training.serve_robot import serve
    from robotrl.training.simulated_robot import SimulatedRobot, Troubles

    try:
        troubles = Troubles(
            args.command_delay, args.reading_delay, args.noise, args.loss, args.shuffle, args.seed
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    robot = SimulatedRobot(Bundle.load(args.bundle, check_golden=False), troubles, changes)
    channel = UdpChannel("127.0.0.1", args.port, listen=True, key=key)
    server = RobotServer(channel, robot.layout, key)
    sys.stdout.write(f"udp://127.0.0.1:{channel.port}\n")
    sys.stdout.flush()
    real_time(SIMULATED_ROBOT)
    shown = 0

    def over() -> bool:
        nonlocal shown
        for attempt in robot.attempts[shown:]:
            shown += 1
            sys.stdout.write(f"attempt {shown}: {attempt}\n")
            sys.stdout.flush()
        orphan = args.parent is not None and os.getppid() != args.parent
        return orphan or shown == args.attempts

    serve(robot, server, troubles, over)
