"""A task in a package of its own: installed with pip, trained, evaluated, exported and verified."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from robotrl.cli import main

EXAMPLE = Path(__file__).parent.parent / "examples" / "my_robot"
SMALL = "num_envs=4 total_steps=128 eval_episodes=2 task.episode_length_s=0.4"
SMALL += " algorithm.num_steps=16 algorithm.hidden=[8] policy.hidden=[8] export=false"

# runs lines of words with RUN as the folder of the run; one process, as importing torch takes long
PROGRAM = """
import contextlib, glob, io, json, sys
from robotrl.cli import main

for line in sys.stdin:
    run = "".join(glob.glob("runs/*/*/*"))
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = main(line.replace("RUN", run).split())
    print(json.dumps([code, out.getvalue(), err.getvalue()]))
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed package."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(folder), str(EXAMPLE)]
    subprocess.run([*pip, *offline], check=True, capture_output=True)
    return folder


def run_commands(site: Path, folder: Path, *lines: str) -> Iterator[tuple[int, str, str]]:
    """Run commands in `folder` with the package importable; return exit code, stdout and stderr of each."""
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return (tuple(json.loads(line)) for line in done.stdout.splitlines())


def test_from_training_to_a_verified_bundle(
    site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = "task._target_=my_robot.MyTask"
    refused = {
        "task.target_radius_m=-1": "target_radius_m must be above 0, got -1.0",
        "task.target_radius=1": "unknown key 'task.target_radius' (did you mean 'target_radius_m'?)",
        "task._target_=my_robot.MyTsk": "no 'MyTsk' in the module (did you mean 'MyTask'?)",
    }
    trained, evaluated, exported, verified, *replies = run_commands(
        site,
        tmp_path,
        f"train {task} algorithm=ppo task.target_radius_m=0.04 {SMALL}",
        "evaluate RUN --episodes 3",
        "export RUN --out arm.bundle",
        "verify arm.bundle",
        *(f"train {task} {word} algorithm=ppo --cfg" for word in refused),
    )
    assert trained[0] == 0, trained
    (run,) = (tmp_path / "runs" / "my_task" / "ppo").iterdir()
    assert "target_radius_m: 0.04" in (run / "config.yaml").read_text()
    assert evaluated[0] == 0, evaluated
    assert json.loads((run / "evaluation" / "summary.json").read_text())["episodes"] == 3
    assert exported[0] == 0, exported
    contract = json.loads((tmp_path / "arm.bundle" / "contract.json").read_text())
    assert contract["task"]["_target_"] == "my_robot.MyTask"
    assert [(term["name"], term["unit"], term["high"]) for term in contract["outputs"]] == [
        ("shoulder", "N m", 2.0),
        ("elbow", "N m", 2.0),
    ]
    assert str(site) not in json.dumps(contract), "a path of this machine got into the bundle"
    assert verified[0] == 0 and verified[1].count("passed") == 6, verified

    for (code, out, err), message in zip(replies, refused.values(), strict=True):
        assert (code, out) == (2, "")
        assert err.startswith("robotrl: error: ") and message in err

    # without its package the bundle still acts, but its task cannot be built
    monkeypatch.delitem(sys.modules, "my_robot", raising=False)
    assert main(["verify", str(tmp_path / "arm.bundle")]) == 1
    assert "there is no module 'my_robot'" in capsys.readouterr().err


def test_the_installed_program_starts() -> None:
    program = Path(sys.executable).with_name("robotrl")
    done = subprocess.run([program, "list", "recipes"], check=True, capture_output=True, text=True)
    assert "quickstart" in done.stdout
