"""`robotrl play LOG.mcap`: the pose on the screen is the one that was measured."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
import pytest
from arm_task import ArmTask
from bundles import KINDS, TASK, make_policy
from runtime_common import Arm, Bench

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.log_reader import read_log
from robotrl.export.bundle import export_policy
from robotrl.training.log_playback import LogPlayback, tilt
from robotrl.training.play import play


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    task = ArmTask()
    out = tmp_path_factory.mktemp("arm") / "bundle"
    return export_policy(make_policy(KINDS["deterministic"], task), task, out, provenance={})


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an arm whose joints have another order than the model's."""
    folder = tmp_path_factory.mktemp("log")
    bench = Bench(folder, arm=Arm((1, 0)), log=folder / "run.mcap")
    bench.to_policy()
    bench.step(30)
    bench.runtime._log.close()
    return folder / "run.mcap"


def test_every_pose_and_command_is_the_logged_one(arm: Path, log: Path) -> None:
    playback, recorded = LogPlayback(log, arm), read_log(log)
    order = [recorded.elements["joint_position"].index(name) for name in ("shoulder", "elbow")]
    assert order == [1, 0]
    for step, measured in enumerate(recorded.signals["joint_position"]):
        assert playback.env.sim.data("qpos")[0].tolist() == measured[order].tolist()
        assert playback.time_s == recorded.times_s[step]
        assert recorded.states[step] in playback.label
        for drive, value in playback.reward_terms.items():
            sent = recorded.commands[drive][step, 0]
            assert value == (0.0 if np.isnan(sent) else sent)
        ended = playback.advance()
    assert ended and playback.episode == 2 and playback.time_s == 0.0
    np.testing.assert_array_equal(recorded.signals["joint_position"].std(0) > 0, True)  # it moved


def test_tilt_is_the_smallest_rotation_that_shows_gravity_there() -> None:
    rng = np.random.default_rng(0)
    cases = [*rng.normal(size=(50, 3)), np.array([0.0, 0.0, -9.8]), np.array([0.0, 0.0, 1.0])]
    for gravity in cases:
        quat, rotation = tilt(gravity), np.zeros(9)
        mujoco.mju_quat2Mat(rotation, quat)
        unit = gravity / np.linalg.norm(gravity)
        np.testing.assert_allclose(rotation.reshape(3, 3).T @ [0.0, 0.0, -1.0], unit, atol=1e-12)
        angle = 2 * np.arccos(np.clip(abs(quat[0]), 0, 1))
        assert angle == pytest.approx(np.arccos(np.clip(-unit[2], -1, 1)), abs=1e-6)


def test_what_does_not_fit_is_one_line(arm: Path, log: Path, tmp_path: Path) -> None:
    walker = make_policy(KINDS["deterministic"], TASK)
    other = export_policy(walker, TASK, tmp_path / "walker", provenance={}, allow_simulation_only=True)
    with pytest.raises(RobotrlError, match="is of another robot than"):
        LogPlayback(log, other)
    with pytest.raises(UsageError, match="also give its bundle"):
        play(log)
    with pytest.raises(UsageError, match="goes with the log"):
        play(arm, bundle=arm)
    with pytest.raises(UsageError, match="does not exist"):
        play(tmp_path / "none.mcap", bundle=arm)
