"""`robotrl deploy` on simulated robots: real processes, real time, real signals."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from arm_task import JOINTS, ArmTask
from bundles import make_policy
from runtime_common import free_port, udp_server

from robotrl.cli import main
from robotrl.cli.deploy import Screen
from robotrl.core.errors import RobotrlError
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.runtime.binding import bind
from robotrl.deploy.runtime.log_reader import read_log
from robotrl.deploy.runtime.robots.robot import KD, KP, POSITION, Command
from robotrl.deploy.runtime.robots.server import LIVE_S
from robotrl.export.bundle import export_policy
from robotrl.policies.gaussian import GaussianPolicy
from robotrl.training.serve_robot import serve
from robotrl.training.simulated_robot import SimulatedRobot, Troubles

TESTS = Path(__file__).parent


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of an untrained policy that moves the arm a little."""
    task = ArmTask()
    policy = make_policy(GaussianPolicy, task)
    for parameter in policy.parameters():
        parameter.data.mul_(0.5)
    folder = tmp_path_factory.mktemp("arm") / "bundle"
    return export_policy(policy, task, folder, provenance={"seed": 0}, formats=("onnx", "c"))


@pytest.fixture(scope="module")
def limits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file that shortens the way to the default pose."""
    file = tmp_path_factory.mktemp("limits") / "limits.yaml"
    file.write_text("move_s: 0.4\nblend_s: 0.1\n")
    return str(file)


@pytest.fixture(scope="module")
def robot(arm: Path) -> Iterator[str]:
    """The address of a simulated robot with an order of its own, noise and delays."""
    troubles = ["--shuffle", "1", "--noise", "0.01", "--command-delay", "0.004", "--loss", "0.02"]
    with running("simulate-robot", str(arm), *troubles, cwd=TESTS) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@contextlib.contextmanager
def running(*words: str, cwd: Path) -> Iterator[subprocess.Popen[str]]:
    """A command of the program in a process of its own."""
    paths = os.pathsep.join([str(TESTS), *sys.path])
    process = subprocess.Popen(
        [sys.executable, "-m", "robotrl", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    late = threading.Timer(100.0, process.kill)  # whoever waits for its output is not left waiting
    late.start()
    try:
        yield process
    finally:
        late.cancel()
        process.kill()
        process.communicate()


def expect(process: subprocess.Popen[str], text: str) -> None:
    """Read what it says up to a line with `text`."""
    assert process.stderr is not None
    while text not in (line := process.stderr.readline()):
        assert line, f"no {text!r}"


def type_line(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdin is not None
    process.stdin.write(f"{text}\n")
    process.stdin.flush()


def run(*words: str, cwd: Path) -> tuple[int, str, str]:
    with running(*words, cwd=cwd) as process:
        out, err = process.communicate(timeout=100)
        return process.returncode, out, err


def test_a_policy_on_the_simulated_robot_from_arm_to_verdict(arm: Path, limits: str, tmp_path: Path) -> None:
    words = ("--robot", "sim", "--yes", "--duration", "2", "--log", "run.mcap", "--limits", limits)
    code, out, err = run("deploy", str(arm), *words, cwd=tmp_path)
    assert code == 0, out + err
    assert "tilt" in out and "the robot publishes no projected_gravity" in out
    assert "2.0 s at 50 Hz" in out and "the policy commanded for 2 s only, 5 s tell something" in out
    (record,) = (arm.parent / "deployments").iterdir()
    kept = json.loads(record.read_text())
    assert kept["policy_sha256"] == Bundle.load(arm).contract.policy_sha256
    assert ["under the policy", "2.0 s at 50 Hz"] in kept["rows"]
    # a crowded machine gives more reasons to doubt
    assert any("2 s only" in doubt for doubt in kept["doubts"])
    assert [line.split()[0] for line in err.splitlines()][-2:] == ["POLICY", "DAMPING"]
    log = read_log(tmp_path / "run.mcap")
    held = np.array([state == "HOLD" for state in log.states])
    np.testing.assert_allclose(log.signals["joint_position"][held][-1], [0.3, -0.4], atol=0.1)
    under = np.array([state == "POLICY" for state in log.states])
    assert under.sum() == 100 and not (tmp_path / "run-event1.mcap").exists()
    # what was sent is what the bundle decides for what was read
    bundle = Bundle.load(arm)
    rows = np.concatenate([log.signals["joint_position"], log.signals["joint_velocity"]], axis=1)[under][10:]
    sent = np.stack([log.commands[f"{joint}_servo"][under][10:, POSITION] for joint in JOINTS], axis=1)
    np.testing.assert_allclose(sent, np.clip(bundle(rows), -1.425, 1.425), atol=1e-6)


def test_a_person_at_the_terminal(arm: Path, robot: str, limits: str, tmp_path: Path) -> None:
    with running("deploy", str(arm), "--robot", robot, "--limits", limits, cwd=tmp_path) as process:
        expect(process, "type arm")
        type_line(process, "go")
        expect(process, "'go' means nothing in READY: say arm or stop")
        type_line(process, "arm")
        expect(process, "type go")
        type_line(process, "go")
        expect(process, "POLICY")
        type_line(process, "stop")
        expect(process, "type reset or quit")
        type_line(process, "reset")
        expect(process, "type arm")
        type_line(process, "quit")
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 0 and "elbow shoulder" in out and "guard events        │ none" in out


def test_who_hangs_up_is_gone(arm: Path, robot: str, limits: str, tmp_path: Path) -> None:
    time.sleep(LIVE_S)  # the robot lets nobody else in meanwhile
    code, out, _ = run("deploy", str(arm), "--robot", robot, "--limits", limits, cwd=tmp_path)
    assert code == 0 and "0.0 s at 50 Hz" in out and "NOT yet safe" in out


def test_an_operator_with_the_key_elsewhere(
    arm: Path, robot: str, limits: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    time.sleep(LIVE_S)
    key, address = tmp_path / "key", f"127.0.0.1:{free_port()}"
    key.write_text("a secret of the workshop")
    words = ("deploy", str(arm), "--robot", robot, "--limits", limits, "--operator", address)
    with running(*words, cwd=tmp_path) as process:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 2 and "needs a shared key" in err
    with running("simulate-robot", str(arm), "--key-file", str(key), cwd=tmp_path) as keyed:
        assert keyed.stdout is not None
        mine = keyed.stdout.readline().strip()
        words = ("deploy", str(arm), "--robot", mine, "--limits", limits, "--operator", address)
        with running(*words, "--key-file", str(key), cwd=tmp_path) as process:
            for asked, word, answer in (("arm", "arm", "MOVE_TO_DEFAULT"), ("go", "stop", "DAMPING")):
                expect(process, f"type {asked}")
                assert main(["tell", address, word, "--key-file", str(key)]) == 0
                assert answer in capsys.readouterr().out
            expect(process, "type reset or quit")
            assert main(["tell", address, "quit", "--key-file", str(key)]) == 0
            process.communicate(timeout=30)
            assert process.returncode == 0


def test_ctrl_c_damps_and_leaves(arm: Path, robot: str, limits: str, tmp_path: Path) -> None:
    time.sleep(LIVE_S)
    words = ("deploy", str(arm), "--robot", robot, "--limits", limits, "--log", "run.mcap")
    with running(*words, cwd=tmp_path) as process:
        expect(process, "type arm")
        type_line(process, "arm")
        expect(process, "HOLD")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert process.returncode == 130 and "interrupted" in err and "under the policy" in out
    log = read_log(tmp_path / "run.mcap")
    assert log.states[-1] == "DAMPING" and log.states.count("DAMPING") == 25  # for half a second
    np.testing.assert_array_equal(log.commands["elbow_servo"][-1, [KP, KD]], [0.0, 1.0])


def test_what_is_wrong_is_one_line(arm: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "limits.yaml"
    bad.write_text("tilt_rad: 0.5\nspeed: 3\n")
    key = tmp_path / "key"
    key.write_text("short")
    there = tmp_path / "there.mcap"
    there.write_text("")
    bundle = str(arm)
    for words, code, message in (
        (["--robot", "udp://127.0.0.1:9", "--yes"], 2, "a real robot is armed by a person"),
        (["--robot", "simulator"], 2, "no robot at 'simulator'"),
        (["--robot", "sim", "--limits", str(bad)], 2, "unknown limit in"),
        (["--robot", "sim", "--key-file", str(key)], 2, "at least 16"),
        (["--robot", "sim", "--chunks", "ensemble"], 2, "one action at a time"),
        (["--robot", "sim", "--chunks", "fast"], 2, "expected queue, ensemble, realtime"),
        (["--robot", "sim", "--log", str(there)], 2, "exists: give it another name"),
        (["--robot", "sim", "--duration", "nan"], 2, "--duration must be above 0"),
        (["--robot", "sim", "--spin", "nan"], 2, "--spin must be a time of at least 0 s, got nan"),
        (["--robot", "sim", "--spin", "-0.001"], 2, "--spin must be"),
        (["--robot", "sim", "--yes", "--operator", "127.0.0.1:4001"], 2, "leave one of them out"),
        (["--robot", "udp://192.0.2.1:4000"], 2, "give a shared key"),
    ):
        assert main(["deploy", bundle, *words]) == code, words
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def simulated(arm: Path, **troubles: float) -> SimulatedRobot:
    return SimulatedRobot(Bundle.load(arm), Troubles(**troubles))  # type: ignore[arg-type]


def rows_of(robot: SimulatedRobot, kp: float, kd: float, position: list[float]) -> np.ndarray:
    """Commands in the robot's own order."""
    rows = np.zeros((2, 5))
    rows[:, KP], rows[:, KD] = kp, kd
    rows[[robot.layout.drives.index(f"{joint}_servo") for joint in JOINTS], POSITION] = position
    return rows


def test_the_simulated_robot_moves_as_the_training_environment(arm: Path) -> None:
    """With the bundle's gains it is the task, step by step; in its own order of joints too."""
    from robotrl.envs.vec_env import VecEnv

    env = VecEnv(ArmTask(episode_length_s=10.0), 1, 5, num_threads=1)
    first = env.reset()["policy"][0].numpy()
    for shuffle in ({}, {"shuffle": 3}):
        robot = simulated(arm, seed=5, **shuffle)
        binding = bind(Bundle.load(arm).contract, robot._body, robot.layout)
        np.testing.assert_array_equal(robot.measure()[binding.inputs].astype(np.float32), first)
        env = VecEnv(ArmTask(episode_length_s=10.0), 1, 5, num_threads=1)
        env.reset()
        rng = np.random.default_rng(0)
        for _ in range(100):
            action = rng.uniform(-1, 1, 2)
            expected = env.step(torch.from_numpy(action).unsqueeze(0)).obs["policy"][0].numpy()
            robot.obey(Command(rows_of(robot, 20.0, 1.0, [1.4 * a for a in action]), 4))
            robot.advance(round(robot.control_dt_s / robot.period_s))
            seen = robot.measure()[binding.inputs].astype(np.float32)
            np.testing.assert_allclose(seen, expected, atol=1e-5)


def test_the_simulated_robot_damps_and_stays_where_it_is_without_gains(arm: Path) -> None:
    robot = simulated(arm)
    robot.advance(20)
    assert robot.time_s == 0.0  # held until it is armed
    robot.obey(Command(rows_of(robot, 20.0, 1.0, [1.0, 1.0]), 2))
    robot.advance(15)
    robot.lie_down()
    fast = np.abs(robot.measure()[2:]).max()
    robot.advance(300)
    assert fast > 1.0 and np.abs(robot.measure()[2:]).max() < 0.5
    robot.pick_up()
    before = robot.measure()
    robot.advance(20)
    np.testing.assert_array_equal(robot.measure(), before)


def test_a_simulated_robot_ends_with_who_started_it(arm: Path, tmp_path: Path) -> None:
    with running("simulate-robot", str(arm), "--parent", "1", cwd=tmp_path) as robot:
        assert robot.wait(timeout=60) == 0  # its parent is this process, not 1
    with pytest.raises(ValueError, match="noise must be at least 0"):
        Troubles(noise=-1.0)


def test_a_terminal_that_is_held_up_holds_up_nobody() -> None:
    ours, theirs = os.pipe()
    full = os.fdopen(theirs, "w")
    screen = Screen(full)
    began_s = time.monotonic()
    for _ in range(300):
        screen.write("x" * 1000)  # nobody reads: after 64 kB a write waits for ever
    assert time.monotonic() - began_s < 1.0
    assert os.read(ours, 10) == b"x" * 10
    os.close(ours)  # whoever still writes is told
    screen.close()
    assert not screen._thread.is_alive()
    with contextlib.suppress(OSError):
        full.close()


def test_a_machine_that_is_too_slow_says_so(arm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = simulated(arm)
    monkeypatch.setattr(slow, "advance", lambda periods: time.sleep(2.5 * slow.period_s))
    server, _ = udp_server(made=slow.layout)
    with pytest.raises(RobotrlError, match="too slow to simulate the robot in real time"):
        serve(slow, server, Troubles(), lambda: False)
    server.close()


def test_a_stopped_deployment_is_damped_in_its_stated_time(arm: Path, limits: str, tmp_path: Path) -> None:
    """SIGSTOP of the whole program in POLICY, of the C: the watchdog damps, and what wakes up is told."""
    words = ("deploy", str(arm), "--robot", "sim", "--yes", "--log", "run.mcap", "--limits", limits)
    words = (*words, "--policy", "c")
    with running(*words, cwd=tmp_path) as process:
        expect(process, "POLICY")
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=30)
        assert process.returncode == 1
        assert "watchdog: silence of this program" in out or "overruns" in out
    log = read_log(tmp_path / "run.mcap")
    assert log.states[-1] == "DAMPING"
