"""A ROS 2 package (ament_python) around a bundle: node, parameters, launch file and instructions."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import jinja2

from robotrl import __version__
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.files import new_folder
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.ros2.conversion import TWIST, Interface, Readings, layout_of

PORT = 7447
_TEMPLATES = Path(__file__).parent / "templates"
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")
# template -> file of the package; NAME is the package's
_FILES = {
    "package.xml.j2": "package.xml",
    "setup.py.j2": "setup.py",
    "setup.cfg.j2": "setup.cfg",
    "params.yaml.j2": "config/params.yaml",
    "launch.py.j2": "launch/robot.launch.py",
    "README.md.j2": "README.md",
    "empty.j2": "resource/NAME",
}


def write_ros2_package(bundle: Path, out: Path) -> Path:
    """Write the package into folder `out`, whose name becomes the package's; whole or not at all.

    Args:
        bundle: folder of a bundle of a robot with drives.
        out: the folder to make.

    Raises:
        UsageError: `out` exists, or its name is no ROS 2 package name.
        RobotrlError: the bundle is damaged, or says nothing of a robot.
    """
    if out.exists():
        raise UsageError(f"{out} exists: nothing is overwritten, choose another folder")
    if not _NAME.fullmatch(out.name):
        raise UsageError(
            f"{out.name!r} is no ROS 2 package name: lower-case letters, digits and single underscores, "
            "a letter first, such as walker_policy"
        )
    contract = Bundle.load(bundle).contract
    if contract.robot is None:
        raise RobotrlError(f"{bundle} says nothing of its robot: only robots of our own tasks have drives")
    readings = Readings(layout_of(contract, contract.robot))
    modes = {drive.mode for drive in contract.robot.drives}
    values = {
        "name": out.name,
        "version": __version__,
        "contract": contract,
        "robot": contract.robot,
        "port": PORT,
        "topics": readings.topics,
        "takes_velocity": readings.has(TWIST),
        "interfaces": [one.value for one in Interface],
        "fitting": [one.value for one in Interface if one.value in modes and len(modes) == 1],
    }
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    try:
        with new_folder(out) as fresh:
            for template, file in _FILES.items():
                path = fresh / file.replace("NAME", out.name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(environment.get_template(template).render(values), encoding="utf-8")
            (fresh / out.name).mkdir()
            (fresh / out.name / "__init__.py").touch()
            shutil.copytree(bundle, fresh / "bundle")
    except OSError as error:
        raise RobotrlError(f"cannot write {out}: {error.strerror or error}") from error
    return out
