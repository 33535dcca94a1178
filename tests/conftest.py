"""One CPU per test worker, and the fixtures that several files share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# learners and simulators of two workers would otherwise fight for the cores
_worker = os.environ.get("PYTEST_XDIST_WORKER", "")
if _worker.startswith("gw"):
    _cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {_cpus[int(_worker[2:]) % len(_cpus)]})


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with its bundle, which no test changes."""
    from tiny_runs import PENDULUM

    from robotrl.cli import main

    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", *PENDULUM, f"runs_dir={folder}"]) == 0
    (config,) = folder.rglob("config.yaml")
    return config.parent


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Path]]:
    """Kind of policy -> policy and its bundle, which no test changes."""
    from bundles import exporter

    return exporter(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="session")
def generative(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, int], tuple[Any, Path]]:
    """Kind of policy that decides from noise, horizon -> policy and its bundle, which no test changes."""
    from generative_bundles import exporter

    return exporter(tmp_path_factory.mktemp("generative"))


@pytest.fixture
def bundle(exported: Callable[[str], tuple[Any, Path]], tmp_path: Path) -> Path:
    """A copy of a bundle that a test may damage."""
    return Path(shutil.copytree(exported("gaussian")[1], tmp_path / "bundle"))
