"""The command `robotrl sysid`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from robotrl.cli.terminal import command_parser, print_table


def sysid(words: Sequence[str]) -> None:
    """Identify a robot's model from logs and print the estimates."""
    parser = command_parser(
        "sysid",
        """\
Fit numbers of a robot's model (friction, damping, armature, masses, gains, delays) to logs of the robot,
with mujoco.sysid, and say how sure they are. Into a new folder go identified.xml, estimates.json,
report.html, a picture of each log, and realism.yaml: train with what was found by realism=DIR/realism.yaml.

A log is a CSV file with time_s, ctrl/ACTUATOR for every actuator, and what was measured in any of
joint_position/JOINT, joint_velocity/JOINT, sensor/NAME, in MuJoCo's units. A row is an instant: readings are
those at time_s, a command is in force from time_s until the next row. An MCAP file that `robotrl deploy`
wrote is such a log too.

The parameters are named in a YAML file:
  parameters:
    knee_damping:  {field: dof_damping, names: knee, range: [0.05, 1.0]}
    command_delay: {field: actuator_delay, range: [0.0, 0.04]}   # s""",
        "sysid bench.csv --model robot.xml --params params.yaml\n"
        "sysid slow.csv fast.csv --model robot.xml --params params.yaml --out identified --interval-factor 3",
    )
    parser.add_argument("logs", metavar="LOG", nargs="+", type=Path, help="CSV or MCAP file, see above")
    parser.add_argument("--model", metavar="FILE", required=True, type=Path, help="MJCF of the robot")
    parser.add_argument("--params", metavar="FILE", required=True, type=Path, help="YAML file, see above")
    parser.add_argument("--out", metavar="DIR", type=Path, help="folder to create (default: MODEL_sysid)")
    parser.add_argument(
        "--interval-factor",
        metavar="K",
        type=float,
        default=2.0,
        help="realism.yaml draws from the estimate -+ K half-widths of its 95 %% interval (default 2)",
    )
    args = parser.parse_args(words)
    from robotrl.training.sysid.identify import identify

    out = args.out or Path(f"{args.model.stem}_sysid")
    found = identify(args.logs, args.model, args.params, out, args.interval_factor)
    rows = []
    for each in found.estimates:
        unknown = each.unknown
        interval = "unknown" if math.isinf(each.half_width) else _span(each.interval)
        values = (f"{unknown.nominal:.4g}", f"{each.value:.4g}", interval, unknown.unit, _span(each.drawn))
        rows.append((unknown.name, *values, "\n".join(each.notes)))
    print_table(["parameter", "nominal", "estimate", "95 % interval", "unit", "drawn from", "note"], rows)
    print_table(
        ["root mean square error", "nominal model", "identified model", "unit", "left of the motion"],
        [
            (
                each.signal,
                f"{each.before:.4g}",
                f"{each.after:.4g}",
                each.unit,
                _share(each.after, each.spread),
            )
            for each in found.residuals
        ],
    )
    print_table(
        ["written", str(out)],
        [
            ("the model", str(out / "identified.xml")),
            ("to train with", f"realism={out / 'realism.yaml'}"),
            ("report", str(out / "report.html")),
        ],
    )


def _span(ends: tuple[float, float]) -> str:
    return f"{ends[0]:.4g} to {ends[1]:.4g}"


def _share(error: float, spread: float) -> str:
    return f"{error / spread:.1%}" if spread > 0.0 else "-"
