"""The command `robotrl ros2`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from robotrl.cli.terminal import command_parser, print_table


def ros2(words: Sequence[str]) -> None:
    """Write a ROS 2 package and print what was bound."""
    parser = command_parser(
        "ros2",
        "Write a ROS 2 package (ament_python) that connects a robot's topics with `robotrl deploy`: node,\n"
        "parameters, launch file, the bundle and instructions. The folder's name becomes the package's.",
        "ros2 runs/NAME/bundle --out ws/src/walker_policy",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder of a bundle")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder to make")
    args = parser.parse_args(words)
    from robotrl.export.ros2.package import write_ros2_package

    folder = write_ros2_package(args.bundle, args.out)
    files = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    print_table(["ROS 2 package", str(folder)], [("file", str(file)) for file in files])
