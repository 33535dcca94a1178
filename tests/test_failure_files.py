"""What a run writes about simulations that failed: what it says, whether it plays and computes again."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

import imageio.v3 as iio
import mujoco
import numpy as np
import pytest
import torch
from explosive import DRIVING, Explosive, random_actions

from robotrl.cli import main
from robotrl.compose import compose
from robotrl.core import checkpoint
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.disturbances import Push
from robotrl.training.failures import MAX_FILES, FailureFiles, FailureRecording, failure_files
from robotrl.training.metrics import read_metrics
from robotrl.training.play import play
from robotrl.training.replay import Replay, resimulate
from robotrl.training.run_folder import RunFolder
from robotrl.training.train import make_loop, resume, train
from robotrl.training.web_viewer import WebViewer

# --- files of a run


def config_of(folder: Path, *more: str, steps: int = 2400):
    return compose(
        [
            f"task._target_={Explosive.__module__}.{Explosive.__qualname__}",
            "task_name=explosive",
            *["algorithm=ppo", "num_envs=8", "algorithm.num_steps=50", "algorithm.minibatch_size=200"],
            *["policy=gaussian", "policy.hidden=[8]", "algorithm.hidden=[8]", "algorithm.num_epochs=1"],
            *["eval_episodes=1", "export=false", "torch_threads=1", "sim_threads=1", "seed=3"],
            *[f"total_steps={steps}", "checkpoint_every_s=1e-3", "keep_checkpoints=100"],
            f"runs_dir={folder}",
            *more,
        ]
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished run with more failures than are written; read only."""
    return RunFolder(train(config_of(tmp_path_factory.mktemp("runs")), show_progress=False))


def test_a_run_writes_its_first_failures_and_counts_all(run: RunFolder) -> None:
    files = failure_files(run.failures)
    assert len(files) == MAX_FILES == len(list(run.failures.iterdir()))
    last = read_metrics(run.metrics_file)[-2]  # the last row is the evaluation's
    assert last["sim/diverged"] > MAX_FILES
    rate = last["sim/diverged_per_million_steps"]
    assert rate == pytest.approx(1e6 * last["sim/diverged"] / 2400, rel=1e-5)
    steps = [FailureRecording.load(file).env_steps for file in files]
    assert steps == sorted(steps) and all(step % 8 == 0 for step in steps)
    page = (run.path / "report.html").read_text()
    assert f"the first {MAX_FILES} of {last['sim/diverged']:.0f}" in page and "per million steps" in page
    assert all(file.name in page for file in files)


def test_what_a_file_says(run: RunFolder) -> None:
    file = failure_files(run.failures)[0]
    recording = FailureRecording.load(file)
    assert file.name == f"step_{recording.env_steps:012d}_sim_{recording.simulation:05d}.safetensors"
    assert recording.task["name"] == "explosive"
    assert recording.control_dt_s == 0.01
    assert 20 < len(recording.states) <= 100 and recording.commands.shape == (len(recording.states), 1)
    time_s = recording.states[:, 0].numpy()
    np.testing.assert_allclose(np.diff(time_s), 0.01)
    assert recording.causes and recording.mujoco_version == mujoco.__version__
    assert float(recording.params["dof_damping"][1]) == DRIVING
    facts = FailureRecording.load(file, facts_only=True)
    assert facts.states is None and facts.causes == recording.causes


def test_computed_again_the_states_are_the_same_bits(run: RunFolder) -> None:
    for file in failure_files(run.failures)[:4]:
        recording = FailureRecording.load(file)
        assert torch.equal(resimulate(recording), recording.states)
        env = Replay(recording).env
        env.sim.batch.state[0] = recording.states[-1].numpy()
        env.task.advance(env.sim, recording.commands[-1:], env.substeps)
        assert env.sim.failed().tolist() == [True], "the last command makes it fail again"


@pytest.mark.parametrize("task", ["walker_walk", "Ant-v5"])
def test_computed_again_under_randomisation_delays_and_pushes(task: str, tmp_path: Path) -> None:
    overrides = ["algorithm=ppo", f"task={task}", "num_envs=3", f"runs_dir={tmp_path}", "sim_threads=1"]
    config = compose([*overrides, "realism=typical"])
    config.task.realism.kicks.clear()
    config.task.realism.pushes = {"hit": Push("torso", (0.05, 0.1), (50.0, 90.0), duration_s=0.05)}
    loop, folder = make_loop(config), RunFolder.create(config)
    files = FailureFiles(folder, config, loop)
    for index, action in zip(range(25), random_actions(loop.env), strict=False):
        if index == 24:
            loop.env.sim.data("qvel")[1] = 1e9
        assert loop.env.step(action).valid.tolist() == [True, index < 24, True]
    files.save()
    (file,) = failure_files(folder.failures)
    recording = FailureRecording.load(file)
    pushed = recording.states[:, slice(*_columns(loop.env.sim, "xfrc_applied"))]
    assert len(pushed.abs().sum(1).unique()) > 1, "pushes came and went"
    again = resimulate(recording)
    assert torch.equal(again[:-1], recording.states[:-1])
    assert not torch.equal(again[-1], recording.states[-1]), "what was injected is not computed"


def _columns(sim: BatchSim, field: str) -> tuple[int, int]:
    """Where a field lies in a row of the state."""
    view = sim.data(field)
    start = (view.data_ptr() - torch.from_numpy(sim.batch.state).data_ptr()) // 8
    return start, start + view[0].numel()


def test_a_run_may_go_without(tmp_path: Path) -> None:
    config = config_of(tmp_path, "failure_recording_steps=0")
    loop, folder = make_loop(config), RunFolder.create(config)
    files = FailureFiles(folder, config, loop)
    assert loop.env.recorder is None
    for _, action in zip(range(100), random_actions(loop.env), strict=False):
        loop.env.step(action)
    files.save()
    assert loop.env.num_diverged > 0 and not folder.failures.exists()


def tensors(node, name: str = "") -> dict[str, torch.Tensor]:
    if isinstance(node, torch.Tensor):
        return {name: node}
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    return {k: v for key, value in items for k, v in tensors(value, f"{name}/{key}").items()}


def test_resumed_it_ends_with_the_same_bits_and_the_same_files(run: RunFolder, tmp_path: Path) -> None:
    copy = RunFolder(shutil.copytree(run.path, tmp_path / "copy"))
    files = failure_files(run.failures)
    middle = FailureRecording.load(files[4]).env_steps
    for saved in copy.checkpoints():
        if int(saved.stem.removeprefix("step_")) >= middle:
            saved.unlink()
    shutil.rmtree(copy.evaluation)
    assert copy.checkpoints(), "a checkpoint before some of the failures"
    # a process that was killed while it wrote
    (copy.failures / f".{files[9].name}.123.tmp").write_bytes(files[9].read_bytes()[:1000])
    files_there = failure_files(copy.failures)
    files_there[9].unlink()
    resume(copy.path, show_progress=False)
    first, second = (tensors(checkpoint.load(r.latest_checkpoint())) for r in (run, copy))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert [file.name for file in failure_files(copy.failures)] == [file.name for file in files]
    assert len(list(copy.failures.iterdir())) == len(files)
    for file in files:
        whole, again = FailureRecording.load(file), FailureRecording.load(copy.failures / file.name)
        assert torch.equal(whole.states[-len(again.states) :], again.states)
        assert whole.causes == again.causes


def test_without_the_recorder_training_is_the_same(run: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(train(config_of(tmp_path, "failure_recording_steps=0"), show_progress=False))
    first, second = (tensors(checkpoint.load(r.latest_checkpoint())) for r in (run, other))
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    assert not other.failures.exists()


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    config = config_of(tmp_path, steps=400)
    loop, folder = make_loop(config), RunFolder.create(config)
    folder.failures.write_text("not a folder")
    files = FailureFiles(folder, config, loop)
    for _, action in zip(range(100), random_actions(loop.env), strict=False):
        loop.env.step(action)
    with pytest.raises(RobotrlError, match=r"cannot make the folder .*failures: File exists") as error:
        files.save()
    assert "\n" not in str(error.value)


# --- play


def test_the_viewer_shows_the_recorded_states_and_commands(run: RunFolder) -> None:
    recording = FailureRecording.load(failure_files(run.failures)[0])
    replay = Replay(recording)
    assert replay.task_name.startswith(f"explosive, simulation {recording.simulation}: ")
    for i, (state, command) in enumerate(zip(recording.states, recording.commands, strict=True)):
        np.testing.assert_array_equal(replay.env.sim.batch.state[0], state.numpy())
        assert list(replay.reward_terms.values()) == command.tolist()
        assert replay.time_s == pytest.approx(0.01 * i)
        assert replay.advance() == (i == len(recording.states) - 1)
    assert (replay.time_s, replay.episode) == (0.0, 2)
    with WebViewer(replay, port=0, width=32, height=32) as viewer:
        shown = viewer._snapshot()
    assert shown["return"] is None and shown["terms_label"] == "Commands in this step"


def test_a_video_has_a_picture_of_every_state(run: RunFolder, tmp_path: Path, capsys) -> None:
    file, video = failure_files(run.failures)[0], tmp_path / "failure.mp4"
    recording = FailureRecording.load(file)
    assert main(["play", str(file), "--video", str(video)]) == 0
    assert f"wrote {video}" in capsys.readouterr().out
    pictures = iio.imread(video).astype(int)
    assert pictures.shape == (len(recording.states), 480, 640, 3)
    # the bar of the only command, 30 px long for 1, rises and falls with it
    bar = pictures[:, 416:, 4:12]
    blue = (bar[..., 2] - bar[..., 0] > 100).sum(1).mean(1)
    assert np.corrcoef(blue, recording.commands.abs().squeeze(1))[0, 1] > 0.95
    with pytest.raises(UsageError, match="exists"):
        play(file, video)
    with pytest.raises(UsageError, match="a recording of one simulation: leave out --video-grid"):
        play(file, tmp_path / "other.mp4", video_grid="2x2")


def test_a_state_that_is_not_finite_is_left_out(run: RunFolder, tmp_path: Path) -> None:
    tree = checkpoint.load(failure_files(run.failures)[0], kind="failure recording")
    count = len(tree["states"])
    tree["states"][-1, 3] = math.nan
    checkpoint.save(tmp_path / "one.safetensors", tree, kind="failure recording")
    replay = Replay(FailureRecording.load(tmp_path / "one.safetensors"))
    assert [replay.advance() for _ in range(count - 1)] == [False] * (count - 2) + [True]
    tree["states"][:] = math.nan
    checkpoint.save(tmp_path / "all.safetensors", tree, kind="failure recording")
    with pytest.raises(RobotrlError, match="no state is finite"):
        Replay(FailureRecording.load(tmp_path / "all.safetensors"))


def cut(path: Path, tree: dict) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])


def saved(**changes):
    def damage(path: Path, tree: dict) -> None:
        left = {name: value for name, value in (tree | changes).items() if value is not None}
        checkpoint.save(path, left, kind="failure recording")

    return damage


DAMAGE = {
    "cut": (cut, "is damaged"),
    "text": (lambda path, tree: path.write_text("hello"), "is damaged"),
    "empty": (lambda path, tree: path.write_bytes(b""), "is damaged"),
    "checkpoint": (lambda path, tree: checkpoint.save(path, tree), "is not a robotrl failure recording"),
    "no causes": (saved(causes=None), "is damaged: .*causes"),
    "no states": (saved(states=torch.zeros(0, 5)), "is damaged: 0 states"),
    "other model": (saved(states=torch.zeros(1, 5), commands=torch.zeros(1, 1)), "its task now has"),
    "other fields": (saved(params={"body_mass": torch.zeros(77)}), "failure recording .*77"),
    "no such task": (saved(task={"name": "x", "_target_": "no.Task", "options": {}}), "no module 'no'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_files_are_refused_in_one_line(
    damage: str, run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    spoil, message = DAMAGE[damage]
    path = tmp_path / "failure.safetensors"
    shutil.copy(failure_files(run.failures)[0], path)
    spoil(path, checkpoint.load(path, kind="failure recording"))
    assert main(["play", str(path), "--video", str(tmp_path / "v.mp4")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    with pytest.raises(RobotrlError, match=message):
        play(path, tmp_path / "v.mp4", announce=lambda text: None)
    assert not (tmp_path / "v.mp4").exists()
