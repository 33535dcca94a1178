"""A task in a package of its own: installed with pip, trained, evaluated, exported and verified."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parent.parent / "examples" / "my_robot"
SMALL = ["num_envs=4", "total_steps=128", "eval_episodes=2", "task.episode_length_s=0.4"]
SMALL += ["algorithm.num_steps=16", "algorithm.hidden=[8]", "policy.hidden=[8]", "export=false"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed package."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder), str(EXAMPLE)]
    subprocess.run([*pip, *offline], check=True, capture_output=True)
    return folder


def robotrl(site: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in `folder` with the package importable."""
    return subprocess.run(
        [sys.executable, "-m", "robotrl", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_from_training_to_a_verified_bundle(site: Path, tmp_path: Path) -> None:
    target = "task._target_=my_robot.MyTask"
    trained = robotrl(site, tmp_path, "train", target, "algorithm=ppo", "task.target_radius_m=0.04", *SMALL)
    assert trained.returncode == 0, trained.stderr
    (run,) = (tmp_path / "runs" / "my_task" / "ppo").iterdir()
    assert "target_radius_m: 0.04" in (run / "config.yaml").read_text()

    evaluated = robotrl(site, tmp_path, "evaluate", str(run), "--episodes", "3")
    assert evaluated.returncode == 0, evaluated.stderr
    assert json.loads((run / "evaluation" / "summary.json").read_text())["episodes"] == 3

    exported = robotrl(site, tmp_path, "export", str(run), "--out", "arm.bundle")
    assert exported.returncode == 0, exported.stderr
    contract = json.loads((tmp_path / "arm.bundle" / "contract.json").read_text())
    assert contract["task"]["_target_"] == "my_robot.MyTask"
    assert [(term["name"], term["unit"], term["high"]) for term in contract["outputs"]] == [
        ("shoulder", "N m", 2.0),
        ("elbow", "N m", 2.0),
    ]
    assert str(site) not in json.dumps(contract), "a path of this machine got into the bundle"

    verified = robotrl(site, tmp_path, "verify", "arm.bundle")
    assert verified.returncode == 0, verified.stderr
    assert verified.stdout.count("passed") == 6

    # without its package the bundle still acts, but its task cannot be rebuilt
    refused = robotrl(tmp_path, tmp_path, "verify", "arm.bundle")
    assert refused.returncode == 1
    assert "there is no module 'my_robot'" in refused.stderr


def test_its_options_are_checked(site: Path, tmp_path: Path) -> None:
    for word, message in (
        ("task.target_radius_m=-1", "target_radius_m must be above 0, got -1.0"),
        ("task.target_radius=1", "unknown key 'task.target_radius' (did you mean 'target_radius_m'?)"),
        ("task._target_=my_robot.MyTsk", "no 'MyTsk' in the module (did you mean 'MyTask'?)"),
    ):
        words = ["task._target_=my_robot.MyTask", word, "algorithm=ppo"]
        refused = robotrl(site, tmp_path, "train", *words, "--cfg")
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
        assert message in refused.stderr
