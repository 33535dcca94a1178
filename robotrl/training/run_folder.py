"""The folder of one run: what lies where, made once and never over another run's."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from robotrl import __version__
from robotrl.core import checkpoint, config
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.files import write_text_aside
from robotrl.core.git import git_state

_REPORTED_PACKAGES = (
    "torch", "mujoco", "numpy", "gymnasium", "stable_baselines3",
    "dm_control", "envpool", "gymnasium_robotics", "metaworld",
)  # fmt: skip


VERIFICATION_FILE = "verification.json"
"""In a run's bundle: the checks it was put to."""


class RunFolder:
    """Paths and files of one run.

    Args:
        path: an existing run.

    Raises:
        UsageError: there is no run at `path`.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise UsageError(f"run folder {self.path} does not exist")
        if not self.config_file.is_file():
            raise UsageError(f"{self.path} is not a run folder: it has no config.yaml")

    @classmethod
    def create(cls, cfg: config.TrainConfig) -> RunFolder:
        """Make `<runs_dir>/<task>/<algorithm>/<time>_s<seed>`, numbered where that name is taken.

        A folder that cannot be filled, as on a full disk, is removed again.
        """
        parent = Path(cfg.runs_dir) / cfg.task_name / cfg.algorithm_name
        stem = f"{datetime.now():%Y-%m-%d_%H-%M-%S}_s{cfg.seed}"
        try:
            parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"runs_dir={cfg.runs_dir}: cannot make {parent}: {error.strerror}") from error
        number = 1
        while True:
            path = parent / (stem if number == 1 else f"{stem}_{number}")
            try:
                path.mkdir()
                break
            except FileExistsError:
                number += 1
            except OSError as error:
                raise UsageError(f"runs_dir={cfg.runs_dir}: cannot make {path}: {error.strerror}") from error
        if cfg.data is not None:  # to be found from any folder
            cfg = dataclasses.replace(cfg, data=[str(Path(name).absolute()) for name in cfg.data])
        try:
            (path / "checkpoints").mkdir()
            write_json(path / "versions.json", versions())
            write_text_aside(path / "config.yaml", config.to_yaml(cfg))
        except BaseException:
            shutil.rmtree(path, ignore_errors=True)
            raise
        return cls(path)

    @property
    def config_file(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics_file(self) -> Path:
        """One row per logged iteration."""
        return self.path / "metrics.csv"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's event files."""
        return self.path / "tensorboard"

    @property
    def evaluation(self) -> Path:
        """Folder of the last evaluation."""
        return self.path / "evaluation"

    @property
    def bundle(self) -> Path:
        """The exported policy."""
        return self.path / "bundle"

    @property
    def is_verified(self) -> bool:
        """Whether the bundle passed every check of its verification."""
        try:
            checks = json.loads((self.bundle / VERIFICATION_FILE).read_text(encoding="utf-8"))
            return all(check["passed"] for check in checks)
        except (OSError, ValueError, KeyError, TypeError):
            return False

    @property
    def report(self) -> Path:
        """The page that shows the run."""
        return self.path / "report.html"

    @property
    def failures(self) -> Path:
        """Recordings of simulations that diverged in training; absent while there are none."""
        return self.path / "failures"

    def config(self) -> config.TrainConfig:
        """Read the resolved configuration."""
        return config.from_yaml(self.config_file)

    def checkpoints(self) -> list[Path]:
        """Checkpoints, oldest first."""
        return sorted((self.path / "checkpoints").glob("step_*.safetensors"))

    def latest_checkpoint(self) -> Path:
        """Return the newest checkpoint.

        Raises:
            RobotrlError: the run stopped before its first one.
        """
        found = self.checkpoints()
        if not found:
            raise RobotrlError(f"run {self.path} has no checkpoint yet: start the training again")
        return found[-1]

    def remove_stale_files(self) -> None:
        """Remove what a killed process left of a checkpoint it was writing."""
        for stale in (self.path / "checkpoints").glob(".step_*.tmp"):
            stale.unlink()

    def save_checkpoint(self, env_steps: int, tree: dict[str, Any], keep: int) -> Path:
        """Write a checkpoint and remove all but the newest `keep`."""
        path = self.path / "checkpoints" / f"step_{env_steps:012d}.safetensors"
        checkpoint.save(path, tree)
        for old in self.checkpoints()[:-keep]:
            old.unlink()
        return path


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all.

    Raises:
        ValueError: `content` holds NaN or infinity, which JSON has not.
    """
    write_text_aside(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def versions() -> dict[str, Any]:
    """Return what the run depends on besides its configuration."""
    packages = {}
    for name in _REPORTED_PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "robotrl": __version__,
        "python": platform.python_version(),
        **packages,
        **git_state(),
        "machine": f"{platform.system()} {platform.machine()} {_cpu_model()}".strip(),
        "cpus": len(os.sched_getaffinity(0)),
        "started_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
