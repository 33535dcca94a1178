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


def robotrl(site: Path, folder: Path, *lines: str) -> subprocess.CompletedProcess[str]:
    """Run commands in `folder` with the package importable; one process, as importing torch takes long."""
    code = "import sys; from robotrl.cli import main; sys.exit(max(main(line.split()) for line in sys.stdin))"
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"},
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_from_training_to_a_verified_bundle(site: Path, tmp_path: Path) -> None:
    train = ["train", "task._target_=my_robot.MyTask", "algorithm=ppo", "task.target_radius_m=0.04", *SMALL]
    program = Path(sys.executable).with_name("robotrl")
    subprocess.run([program, *train], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(site)}, check=True)
    (run,) = (tmp_path / "runs" / "my_task" / "ppo").iterdir()
    assert "target_radius_m: 0.04" in (run / "config.yaml").read_text()

    commands = [f"evaluate {run} --episodes 3", f"export {run} --out arm.bundle", "verify arm.bundle"]
    done = robotrl(site, tmp_path, *commands)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "evaluation" / "summary.json").read_text())["episodes"] == 3
    assert done.stdout.count("passed") == 6

    contract = json.loads((tmp_path / "arm.bundle" / "contract.json").read_text())
    assert contract["task"]["_target_"] == "my_robot.MyTask"
    assert [(term["name"], term["unit"], term["high"]) for term in contract["outputs"]] == [
        ("shoulder", "N m", 2.0),
        ("elbow", "N m", 2.0),
    ]
    assert str(site) not in json.dumps(contract), "a path of this machine got into the bundle"

    # without its package the bundle still acts, but its task cannot be built
    refused = robotrl(tmp_path, tmp_path, "verify arm.bundle")
    assert refused.returncode == 1
    assert "there is no module 'my_robot'" in refused.stderr


def test_its_options_are_checked(site: Path, tmp_path: Path) -> None:
    words = {
        "task.target_radius_m=-1": "target_radius_m must be above 0, got -1.0",
        "task.target_radius=1": "unknown key 'task.target_radius' (did you mean 'target_radius_m'?)",
        "task._target_=my_robot.MyTsk": "no 'MyTsk' in the module (did you mean 'MyTask'?)",
    }
    lines = [f"train task._target_=my_robot.MyTask {word} algorithm=ppo --cfg" for word in words]
    refused = robotrl(site, tmp_path, *lines)
    assert (refused.returncode, refused.stdout) == (2, "")
    for line, message in zip(refused.stderr.splitlines(), words.values(), strict=True):
        assert line.startswith("robotrl: error: ")
        assert message in line
