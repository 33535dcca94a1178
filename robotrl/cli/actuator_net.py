"""The command `robotrl actuator-net`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robotrl.cli.terminal import command_parser, print_table
from robotrl.core.errors import UsageError


def actuator_net(words: Sequence[str]) -> None:
    """Train an actuator network and print how well it tells rows it was not trained with."""
    parser = command_parser(
        "actuator-net",
        """\
Learn how a joint's actuator turns commands into torque: a small network from recent position errors and
velocities to torque (Hwangbo et al. 2019). Name it in realism.actuators with kind: network.

A log is a CSV file of one joint at a uniform time step, with the columns time_s, command_rad,
position_rad, velocity_rad_s and torque_nm; further columns are not read. The logs of all joints with the
same actuator may be given together. The last 20 % of each are kept to measure the error.""",
        "actuator-net knee_left.csv knee_right.csv --out knee.safetensors\n"
        "actuator-net hip.csv --out hip.safetensors --lags-s 0,0.004,0.008,0.016",
    )
    parser.add_argument("logs", metavar="LOG", nargs="+", type=Path, help="CSV file, see above")
    parser.add_argument("--out", metavar="FILE", required=True, type=Path, help="file to write")
    parser.add_argument("--force", action="store_true", help="replace FILE if it is there")
    parser.add_argument(
        "--lags-s",
        metavar="A,B,...",
        default="0,0.01,0.02",
        help="ages of the errors and velocities that the network sees, s; whole multiples of the time steps "
        "of the logs and of the physics (default 0,0.01,0.02)",
    )
    parser.add_argument("--updates", type=int, default=5000, help="gradient steps (default 5000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training (default 0)")
    args = parser.parse_args(words)
    from robotrl.training.actuator_network import train_actuator_network

    fit = train_actuator_network(args.logs, args.out, args.force, _lags(args.lags_s), args.updates, args.seed)

    def error(rmse_nm: float) -> str:
        return f"{rmse_nm:.4g} N m ({rmse_nm / fit.torque_std_nm:.1%} of the torque's standard deviation)"

    rows = [
        ("rows", f"{fit.num_rows:,} for training, {fit.num_validation_rows:,} for validation"),
        ("error of the network", error(fit.rmse_nm)),
        ("error of the best PD law", error(fit.pd_rmse_nm)),
        ("that PD law", f"kp {fit.pd_kp:.4g} N m/rad, kd {fit.pd_kd:.4g} N m s/rad"),
    ]
    print_table(["actuator network", str(args.out)], rows)


def _lags(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--lags-s: expected numbers such as 0,0.01,0.02, got {text!r}") from error
