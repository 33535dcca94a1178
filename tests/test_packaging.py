"""The wheel carries everything a user needs away from the repository."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import robotrl

ROOT = Path(__file__).parent.parent
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [*PIP, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (file,) = folder.glob("*.whl")
    return file


def test_wheel_holds_every_config_and_asset(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    shipped = [
        path for folder in ("configs", "assets") for path in (ROOT / folder).rglob("*") if path.is_file()
    ]
    assert len(shipped) > 20
    assert {f"robotrl/{path.relative_to(ROOT).as_posix()}" for path in shipped} <= inside
    assert "robotrl/py.typed" in inside
    assert not [name for name in inside if name.startswith(("configs/", "assets/", "tests/"))]


def test_wheel_works_away_from_the_repository(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run(
        [*PIP, "install", "--no-deps", "--no-index", "--target", str(site), str(wheel)],
        check=True,
        capture_output=True,
    )
    code = """
import robotrl, robotrl.cli, torch
print(robotrl.__file__)
assert robotrl.cli.main(["list", "tasks", "--json"]) == 0
env = robotrl.make_env("walker_walk", num_envs=3, move_speed_m_s=2.0)
env.reset()
step = env.step(torch.zeros(3, env.specs.action_dim))
print(env.task.mjcf, tuple(step.reward.shape))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == str(site / "robotrl" / "__init__.py")
    assert '    "name": "walker_walk",' in lines
    assert lines[-1] == f"{site / 'robotrl' / 'assets' / 'control_suite' / 'walker.xml'} (3,)"


def test_version_is_said_once() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == robotrl.__version__ == importlib.metadata.version("robotrl")


def test_every_direct_dependency_has_an_exact_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[\w.-]+==[\w.]+", pin)] == []
    pinned = {_canonical(pin.split("==")[0]) for pin in pins}
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {_canonical(re.split(r"[\[<>=]", requirement)[0]) for requirement in wanted} - {"robotrl"}
    assert names <= pinned
    torch_pin = next(pin for pin in pins if pin.startswith("torch=="))
    assert torch_pin in (ROOT / "Makefile").read_text(), "the Makefile installs the pinned torch first"


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_license_is_apache_2() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text and "Version 2.0, January 2004" in text
    assert "END OF TERMS AND CONDITIONS" in text
