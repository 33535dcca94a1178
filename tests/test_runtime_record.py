"""What is left of a run: its log, the frames around an event, the summary and its verdict."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import numpy as np
import pytest
from mcap.reader import make_reader
from runtime_common import DT_S, Arm, Bench

from robotrl.core.errors import RobotrlError
from robotrl.deploy.runtime.log_reader import read_log
from robotrl.deploy.runtime.machine import State
from robotrl.deploy.runtime.operator import Automatic


def test_the_log_and_the_frames_around_an_event_come_back(tmp_path: Path) -> None:
    bench = Bench(tmp_path, arm=Arm((1, 0)), log=tmp_path / "run.mcap")
    bench.to_policy()
    bench.step(60)
    poses: list[np.ndarray] = []
    bench.arm.spoil = lambda values: (poses.append(values[:2].copy()), values.__setitem__(3, math.nan))  # type: ignore[assignment]
    bench.step(2)
    bench.runtime._log.close()
    log = read_log(tmp_path / "run.mcap")
    assert log.states[-1] == "DAMPING" and log.states[-3] == "POLICY"
    assert log.elements["joint_position"] == ["elbow", "shoulder"]
    np.testing.assert_array_equal(log.signals["joint_position"][-2:], poses)
    assert math.isnan(log.signals["joint_velocity"][-1, 1])
    np.testing.assert_allclose(np.diff(log.times_s), DT_S, atol=2e-6)
    sent = np.array([command.rows[1] for command in bench.arm.sent])
    np.testing.assert_array_equal(log.commands["shoulder_servo"][-len(sent) :], sent)
    assert np.isnan(log.commands["shoulder_servo"][0]).all()  # nothing is sent before arm
    (event,) = log.events
    assert event["guard"] == "not finite" and event["value"] is None and "shoulder" in event["what"]
    around = read_log(tmp_path / "dump-event1.mcap")
    assert len(around.times_s) == round(2.0 / DT_S)
    assert around.events[0]["guard"] == "not finite"


def test_a_log_that_was_cut_off_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    bench = Bench(tmp_path, log=tmp_path / "run.mcap")
    bench.step(1500)
    bench.runtime._log.close()
    whole = read_log(tmp_path / "run.mcap")
    assert len(whole.times_s) == 1500
    with open(tmp_path / "run.mcap", "rb") as file:  # as other tools read it, by its index
        summary = make_reader(file).get_summary()
    assert summary is not None and summary.statistics is not None
    assert summary.statistics.message_count == 4500
    raw = (tmp_path / "run.mcap").read_bytes()
    for share in (0.4, 0.6, 0.601, 0.602, 0.8):
        (tmp_path / "cut.mcap").write_bytes(raw[: round(share * len(raw))])
        cut = read_log(tmp_path / "cut.mcap")
        steps = len(cut.times_s)
        assert len(cut.states) == steps
        assert 0.2 * share < steps / 1500 <= share + 0.1
        np.testing.assert_array_equal(cut.signals["joint_position"], whole.signals["joint_position"][:steps])
    for content in (raw[:20], b"", b"not a log"):
        (tmp_path / "cut.mcap").write_bytes(content)
        with pytest.raises(RobotrlError, match="is not a log of `robotrl deploy`"):
            read_log(tmp_path / "cut.mcap")


def test_a_run_ends_damped_after_its_duration(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.runtime.run(Automatic(), 6.0) is False and bench.arm.left
    summary = bench.runtime.summary()
    assert 0 < summary.age["p50_s"] < 0.0015
    assert summary.policy_s == pytest.approx(6.0) and summary.events == [] and summary.doubts() == []
    assert summary.verdict().startswith("safe to try on hardware")
    assert [command.state for command in bench.arm.sent].count(State.DAMPING) == 26
    # -0.5 to 0.3 rad from 20 N m/rad; what it asked for is told as a share of 8 N m
    assert summary.effort_share is not None and 0.0 < summary.effort_share < 1.0


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        ({"policy_s": 1.0}, "the policy commanded for 1 s only"),
        ({"saturated_share": 0.2}, "in 20.00% of the control steps a limit changed"),
        ({"saturated_share": math.nan}, "of the control steps a limit changed"),
        ({"unfamiliar_share": 0.06}, "in 6.00% of the observation values were beyond"),
        ({"overruns": 3}, "of the periods were overruns"),
        ({"age": {"p50_s": 0.001, "p99_s": 0.03, "worst_s": 0.04}}, "readings were 30 ms old"),
        ({"watchdog_alive": False}, "the watchdog ended early"),
        ({"events": ["tilt: too far"]}, r"a guard had to act \(tilt: too far\)"),
    ],
)
def test_every_doubt_is_told(tmp_path: Path, change: dict[str, object], doubt: str) -> None:
    bench = Bench(tmp_path)
    bench.runtime.run(Automatic(), 6.0)
    summary = dataclasses.replace(bench.runtime.summary(), **change)  # type: ignore[arg-type]
    assert len(summary.doubts()) == 1 and re.search(doubt, summary.verdict())
    assert summary.verdict().startswith("NOT yet safe")


def test_what_the_disk_was_too_slow_for_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robotrl.deploy.runtime.frame_log._WAITING", 1)
    bench = Bench(tmp_path, log=tmp_path / "run.mcap")
    bench.step(1)
    assert "missing in the log" not in dict(bench.runtime.summary().rows())
    frame = bench.runtime._log._ring[-1]
    for _ in range(2000):
        bench.runtime._log.add(frame)
    bench.runtime._log.close()
    lost = 2001 - len(read_log(tmp_path / "run.mcap").times_s)
    assert lost > 0
    told = dict(bench.runtime.summary().rows())["missing in the log"]
    assert told == f"{lost} control steps and events: the disk was too slow, the log has gaps"


def test_values_beyond_the_recordings_are_counted(tmp_path: Path) -> None:
    bench = Bench(tmp_path)  # whose recordings reach from -2 to 2
    bench.to_policy()
    bench.step(9)
    bench.arm.spoil = lambda values: values.__setitem__(2, 2.5)
    bench.step(10)
    assert bench.runtime.summary().unfamiliar_share == pytest.approx(10 / (20 * 7))
