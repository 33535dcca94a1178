"""The command line: what it prints, what it refuses, and how it says so."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import save_file
from tiny_runs import PENDULUM

from robotrl.cli import main
from robotrl.compose import compose
from robotrl.core import checkpoint
from robotrl.core.catalog import available
from robotrl.core.config import from_yaml
from robotrl.core.paths import ASSETS

ROBOTRL = [sys.executable, "-m", "robotrl"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty folder, so that no run lands in the repository."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be damaged."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("robotrl: error: ")
    return lines[0].removeprefix("robotrl: error: ")


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("trian", "unknown command 'trian' (did you mean 'train'?)"),
        ("list task", "unknown list 'task' (did you mean 'tasks'?)"),
        ("list", "the following arguments are required"),
        ("list tasks --jsn", "unrecognized arguments: --jsn (see `robotrl list --help`)"),
        ("train", "no task given: add task=NAME"),
        ("train task=walker_walk", "no algorithm given: add algorithm=NAME"),
        (
            "train quickstart",
            "cannot read 'quickstart': expected key=value (did you mean recipe=quickstart?)",
        ),
        ("train walker_run algorithm=ppo", "(did you mean task=walker_run?)"),
        ("train task=walker_wlk algorithm=ppo", "unknown task 'walker_wlk' (did you mean 'walker_walk'?)"),
        ("train task=walker_walk algorithm=pppo", "unknown algorithm 'pppo' (did you mean 'ppo'?)"),
        ("train recipe=quickstrat", "unknown recipe 'quickstrat' (did you mean 'quickstart'?)"),
        ("train recipe=quickstart policy=gausian", "unknown policy 'gausian' (did you mean 'gaussian'?)"),
        ("train recipe=quickstart algorithm.lerning_rate=1", "(did you mean 'learning_rate'?)"),
        ("train recipe=quickstart total_steps=abc", "total_steps: expected int or null, got 'abc'"),
        ("train recipe=quickstart algorithm.gamma=1.5", "algorithm: gamma must be in [0, 1), got 1.5"),
        ("train recipe=quickstart seed=1,2", "seed=1,2 gives several values: add --multirun"),
        ("train recipe=quickstart seed=1,-2 --multirun", "seed must be at least 0, got -2"),
        ("train recipe=quickstart seed=[", "cannot read 'seed=['"),
        ("train recipe=quickstart --resume x", "--resume continues a run with its own configuration"),
        ("train --resume x", "run folder x does not exist"),
        ("train task._target_=mine.Task algorithm=ppo", "task target 'mine.Task': there is no module 'mine'"),
        ("evaluate", "the following arguments are required: RUN"),
        ("evaluate x", "run folder x does not exist"),
        ("evaluate x --episodes 0", "episodes must be at least 1, got 0"),
        ("evaluate x --episodes two", "argument --episodes: invalid int value: 'two'"),
        ("export x", "run folder x does not exist"),
        ("play x", "x does not exist"),
        ("play x --port 70000", "--port must be in 0 to 65535, got 70000"),
        ("report x", "run folder x does not exist"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    command: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(command.split()) == 2
    assert message in error_line(capsys)
    assert list(tmp_path.iterdir()) == [], "something was written"


def test_debug_shows_the_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--debug", "recipe=nope"]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("robotrl: error: unknown recipe 'nope'")


def test_unexpected_errors_are_one_line_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken_task.py").write_text("raise ArithmeticError('two\\nlines')\n")
    assert main(["train", "task._target_=broken_task.Task", "algorithm=ppo"]) == 1
    assert error_line(capsys) == "ArithmeticError: two lines (run with --debug for the traceback)"


@pytest.mark.parametrize("kind", ["tasks", "algorithms", "policies", "recipes"])
def test_list(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    entries = available({"policies": "policy"}.get(kind, kind[:-1]))
    assert main(["list", kind, "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert {entry["name"]: entry["description"] for entry in listed} == entries
    assert main(["list", kind]) == 0
    table = capsys.readouterr().out
    assert all(name in table and text in table for name, text in entries.items())


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("robotrl ")
    assert main([]) == main(["--help"]) == 0
    overview = capsys.readouterr().out
    for command in ("list", "train", "evaluate", "export", "verify", "play", "report"):
        assert f"\n  {command} " in overview
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
        assert f"examples:\n  robotrl {command} " in capsys.readouterr().out


def test_cfg_prints_what_a_run_would_save(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["train", "task=walker_walk", "--cfg", "algorithm=ppo", "seed=5", "algorithm.hidden=[3]"]
    assert main(words) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    config = from_yaml(tmp_path / "printed.yaml")
    assert (config.task_name, config.seed, config.algorithm.hidden) == ("walker_walk", 5, [3])
    assert not (tmp_path / "runs").exists()


def test_cfg_shows_the_policy_that_a_run_starts_from(
    trained: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["train", "task=pendulum_swingup", "algorithm=stream_ac", "--cfg"]
    assert main([*words, f"algorithm.init_from={trained}"]) == 0
    (tmp_path / "printed.yaml").write_text(capsys.readouterr().out)
    assert from_yaml(tmp_path / "printed.yaml").policy == from_yaml(trained / "config.yaml").policy
    assert main([*words, "algorithm.init_from=nowhere"]) == 2
    assert error_line(capsys) == "run folder nowhere does not exist"


def test_train_summarises_and_keeps_what_it_made(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = from_yaml(trained / "config.yaml")
    assert (config.task_name, config.total_steps, config.policy.hidden) == ("pendulum_swingup", 128, [8])
    assert (trained / "report.html").is_file()
    assert main(["verify", str(trained / "bundle")]) == 0
    assert "FAILED" not in capsys.readouterr().out


def test_evaluate(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--episodes", "3", "--seed", "9"]) == 0
    out = capsys.readouterr().out
    assert "95 % interval" in out and "episodes.csv" in out
    rows = (run / "evaluation" / "episodes.csv").read_text().splitlines()
    assert len(rows) == 1 + 3


def test_export_elsewhere_and_report(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(run), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    assert (tmp_path / "out" / "policy.onnx").is_file()
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out.strip() == str(run / "report.html")


def test_export_replaces_only_the_runs_own_bundle(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = Path(shutil.copytree(run / "bundle", tmp_path / "other"))
    before = {file.name: file.read_bytes() for file in other.iterdir()}
    assert main(["export", str(run), "--out", str(other)]) == 2
    assert error_line(capsys) == f"{other} exists: give --out a folder that does not, or an empty one"
    assert {file.name: file.read_bytes() for file in other.iterdir()} == before
    created = (run / "bundle" / "contract.json").stat().st_mtime_ns
    assert main(["export", str(run), "--out", str(run / "bundle")]) == 0
    assert (run / "bundle" / "contract.json").stat().st_mtime_ns > created


def closed_loop(bundle: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code of `robotrl verify` and what its table says about the closed loop."""
    capsys.readouterr()
    code = main(["verify", str(bundle)])
    table = capsys.readouterr().out
    return code, table[table.index("closed loop") :]


def test_verify_compares_with_the_training_policy_where_it_is(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, row = closed_loop(run / "bundle", capsys)
    assert code == 0 and "against the training policy" in row
    shutil.copytree(run / "bundle", tmp_path / "away")
    code, row = closed_loop(tmp_path / "away", capsys)
    assert code == 0 and "training policy not at hand" in row
    # other weights after as many steps
    (file,) = (run / "checkpoints").iterdir()
    tree = checkpoint.load(file)
    tree["algorithm"]["policy"]["net.flat"] += 0.1
    checkpoint.save(file, tree)
    code, row = closed_loop(run / "bundle", capsys)
    assert code == 1 and row.split("│")[1].strip() == "FAILED"
    # the run was trained further
    checkpoint.save(file, tree | {"env_steps": 999})
    file.rename(file.with_name("step_000000000999.safetensors"))
    code, row = closed_loop(run / "bundle", capsys)
    assert code == 0 and "training policy not at hand" in row


def test_verify_looks_at_the_bundle_before_its_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = checkpoint_of(run)
    file.write_bytes(file.read_bytes()[:100])
    assert main(["verify", str(run / "bundle")]) == 1
    out, err = capsys.readouterr()
    assert out.count("passed") == 6 and "training policy not at hand" in out
    told = f"{run / 'bundle'} is sound, but could not be compared with the trained policy: checkpoint {file}"
    assert err.startswith(f"robotrl: error: {told} is damaged: ") and err.count("\n") == 1
    (run / "config.yaml").write_text("task: {}")
    assert main(["verify", str(run / "bundle")]) == 1
    assert f"trained policy: {run / 'config.yaml'}: no task given" in error_line(capsys)
    # what is wrong with the bundle goes first
    (run / "bundle" / "policy.onnx").unlink()
    assert main(["verify", str(run / "bundle")]) == 1
    assert error_line(capsys) == f"{run / 'bundle'} is not a complete bundle: policy.onnx is missing"


def test_a_narrow_terminal_cuts_nothing_off(tmp_path: Path) -> None:
    path = tmp_path / "evaluation" / "episodes.csv"
    rows = f"['evaluation', 'run'], [('per episode', '{path}')]"
    table = f"from robotrl.cli.terminal import print_table; print_table({rows})"
    command = f'COLUMNS=60 {sys.executable} -c "{table}"'
    done = subprocess.run(["script", "-qec", command, "/dev/null"], capture_output=True, text=True)
    cells = [line.split("│")[2].strip() for line in done.stdout.splitlines() if line.count("│") == 3]
    assert done.stdout.index("\n") == 60
    assert len(cells) > 1 and "".join(cells) == str(path)


def test_a_run_is_found_again_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ASSETS / "control_suite" / "pendulum.xml"
    shutil.copytree(model.parent, tmp_path / "my models")
    words = ["task.mjcf=my models/pendulum.xml", "export=false", "runs_dir=own"]
    assert main(["train", *PENDULUM, *words]) == 0
    (run,) = (file.parent for file in (tmp_path / "own").rglob("config.yaml"))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert main(["evaluate", str(run), "--episodes", "1"]) == 0
    shutil.rmtree(run / "evaluation")
    (run / "evaluation").write_text("")  # what cannot be written is said before the episodes are run
    capsys.readouterr()
    assert main(["evaluate", str(run), "--episodes", "1"]) == 2
    assert "evaluation/summary.json cannot be made: " in error_line(capsys)


def test_a_class_of_ones_own_does_not_take_a_recipes_name_and_target() -> None:
    config = compose(["recipe=quickstart", "task._target_=robotrl.tasks.control_suite.pendulum.Pendulum"])
    assert (config.task_name, config.target_return) == ("pendulum", None)


def test_model_that_does_not_compile(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.xml"
    bad.write_text("<mujoco><worldbody><geom type='sphere'/></worldbody></mujoco>")
    assert main(["train", *PENDULUM, f"task.mjcf={bad}"]) == 1
    line = error_line(capsys)
    assert f"model file {bad} does not compile: " in line and "size" in line
    assert main(["train", *PENDULUM, "task.mjcf=none.xml"]) == 1
    assert "model file none.xml does not exist" in error_line(capsys)
    assert list(tmp_path.iterdir()) == [bad], "a run folder was made"


def checkpoint_of(run: Path) -> Path:
    (file,) = (run / "checkpoints").iterdir()
    return file


@pytest.mark.parametrize("command", ["evaluate", "export", "play", "train --resume"])
def test_damaged_and_foreign_checkpoints(run: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*command.split(), str(run)] + (["--out", "new"] if command == "export" else [])
    file = checkpoint_of(run)
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"PK\x03\x04 a pickle of torch"):
        file.write_bytes(content)
        assert main(words) == 1
        assert f"checkpoint {file} is damaged" in error_line(capsys)
    save_file({}, file)
    assert main(words) == 1
    assert f"{file} is not a robotrl checkpoint" in error_line(capsys)
    file.unlink()
    assert main(words) == 1
    assert "has no checkpoint yet" in error_line(capsys)


def test_damaged_run_configuration(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "config.yaml").write_text((run / "config.yaml").read_text().replace("gamma", "gama"))
    assert main(["evaluate", str(run)]) == 1
    assert "unknown key 'algorithm.gama' (did you mean 'gamma'?)" in error_line(capsys)
    (run / "config.yaml").unlink()
    assert main(["evaluate", str(run)]) == 2
    assert "is not a run folder: it has no config.yaml" in error_line(capsys)


@pytest.mark.parametrize("part", ["policy.onnx", "contract.json", "golden.npz"])
def test_damaged_bundle(run: Path, part: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = run / "bundle" / part
    file.write_bytes(file.read_bytes()[:-20])
    assert main(["verify", str(run / "bundle")]) == 1
    assert "bundle" in error_line(capsys)
    file.unlink()
    assert main(["verify", str(run / "bundle")]) == 1
    assert part in error_line(capsys)


def test_nothing_is_overwritten(trained: Path) -> None:
    before = {file: file.read_bytes() for file in trained.rglob("*") if file.is_file()}
    assert main(["train", *PENDULUM, "export=false", f"runs_dir={trained.parents[2]}"]) == 0
    assert {file: file.read_bytes() for file in before} == before


def test_full_disk_on_output() -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run([*ROBOTRL, "list", "tasks"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("robotrl: error: disk full while writing")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["train", "collect"])
def test_full_disk(command: str, tmp_path: Path) -> None:
    """On a real file system of 64 kB, where that can be mounted."""
    if command == "collect":
        pytest.importorskip("h5py")
    inside = f'mount -t tmpfs -o size=64k tmpfs {tmp_path}/runs 2>/dev/null || exit 77; exec "$@"'
    (tmp_path / "runs").mkdir()
    words = {
        "train": [*PENDULUM, "policy.hidden=[256,256]"],
        "collect": ["task=pendulum_swingup", "policy=random", "episodes=6", "out=runs/pendulum/random-v0"],
    }
    full = ["unshare", "--mount", "sh", "-c", inside, "sh", *ROBOTRL, command, *words[command]]
    done = subprocess.run(full, capture_output=True, text=True, cwd=tmp_path)
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this machine does not let us mount a small file system")
    assert done.returncode == 1
    assert "robotrl: error: " in done.stderr.splitlines()[-1]
    assert "No space left" in done.stderr or "disk full" in done.stderr
    assert "Traceback" not in done.stderr


def test_closed_pipe_is_silent() -> None:
    command = f"{' '.join(ROBOTRL)} list tasks | true"
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert done.stderr == ""
