"""The watchdog as what it is: a process of its own, beside a runtime that is killed, stopped or leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
from runtime_common import layout, serve_until, udp_server

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.runtime.link import Link, WatchedRobot, Word
from robotrl.deploy.runtime.machine import State
from robotrl.deploy.runtime.robots.robot import KD, KP, Command
from robotrl.deploy.runtime.robots.server import RobotServer
from robotrl.deploy.runtime.watchdog import LINGER_S, REACTION_S, DeadMan, Watchdog

SILENCE_S = 0.1
# what a crowded machine adds to what is measured here, on top of the stated time
CROWDED_S = 0.15

# a runtime that commands every 10 ms, for half a minute at most; it prints what it is told by the watchdog
RUNTIME = """
import sys, time
import numpy as np
from robotrl.deploy.runtime.link import WatchedRobot
from robotrl.deploy.runtime.robots.robot import Command
robot = WatchedRobot(sys.argv[1], float(sys.argv[2]))
rows = np.zeros((2, 5)); rows[:, 3] = 20.0
damping = np.zeros((2, 5)); damping[:, 4] = 3.0
robot.set_damping(damping)
until, tripped = time.monotonic() + 30.0, False
while time.monotonic() < until and robot.alive:
    robot.send(Command(rows, 4))
    reading = robot.read()
    if reading is not None and reading.tripped and not tripped:
        tripped = True
        print("tripped", flush=True)
        if "resets" in sys.argv:
            robot.reset()
    time.sleep(0.01)
    if {"leaves", "fails"} & set(sys.argv) and time.monotonic() > until - 29.0:
        break
if "leaves" in sys.argv:
    robot.leave()
robot.close()
"""


@contextlib.contextmanager
def runtime(address: str, *more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", RUNTIME, address, str(SILENCE_S), *more]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def serve_for(server: RobotServer, duration_s: float) -> list[tuple[float, Command]]:
    end_s = time.monotonic() + duration_s
    return serve_until(server, lambda: time.monotonic() > end_s, duration_s + 5.0)


def until_commanded(server: RobotServer) -> None:
    serve_until(server, lambda: server.commanded_s is not None, 60.0)
    serve_for(server, 0.3)


def watchdog_of(process: subprocess.Popen[str]) -> int:
    """Process id of a runtime's watchdog."""
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    (child,) = children.stdout.split()
    return int(child)


def damped(commands: list[tuple[float, Command]]) -> list[float]:
    """Times of the damping commands."""
    return [t for t, c in commands if np.all(c.rows[:, KP] == 0) and np.all(c.rows[:, KD] == 3.0)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_runtime_that_is_killed_or_stopped_is_replaced_by_damping(how: signal.Signals) -> None:
    server, address = udp_server()
    with runtime(address) as process:
        until_commanded(server)
        process.send_signal(how)
        struck_s = time.monotonic()
        got = serve_for(server, 0.6)
        times_s = damped(got)
        stated_s = REACTION_S + (SILENCE_S if how is signal.SIGSTOP else 0.0)
        assert times_s and times_s[0] - struck_s <= stated_s + CROWDED_S
        # from then on nothing else, again and again
        after = [c for t, c in got if t >= times_s[0]]
        assert len(damped([(0.0, c) for c in after])) == len(after) > 5
        assert all(command.state == State.DAMPING for command in after)
    server.close()


@pytest.mark.parametrize("resets", [False, True])
def test_a_runtime_that_wakes_up_is_told_and_refused_until_a_reset(resets: bool) -> None:
    server, address = udp_server()
    with runtime(address, *(["resets"] if resets else [])) as process:
        until_commanded(server)
        process.send_signal(signal.SIGSTOP)
        stopped = serve_for(server, 0.5)
        assert stopped[-1][1].state == State.DAMPING
        process.send_signal(signal.SIGCONT)
        states = [command.state for _, command in serve_for(server, 1.0)]
        assert process.stdout is not None and process.stdout.readline() == "tripped\n"
        if resets:
            assert states[-1] == State.POLICY and states == sorted(states, reverse=True)
        else:
            assert set(states) == {State.DAMPING}
    server.close()


@pytest.mark.parametrize("leaves", [True, False])
def test_only_who_left_in_good_order_is_not_replaced_by_damping(leaves: bool) -> None:
    """A runtime that fails closes its robot too: that alone does not say that it damped it."""
    server, address = udp_server()
    with runtime(address, "leaves" if leaves else "fails") as process:
        serve_until(server, lambda: process.poll() is not None, 60.0)
        times_s = damped(serve_for(server, 0.6))
        assert len(times_s) > 10 if not leaves else not times_s
    server.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_signals_to_every_process_leave_the_watchdog_at_work(number: signal.Signals) -> None:
    """What `systemctl stop` sends: the robot is damped although the runtime dies of it."""
    server, address = udp_server()
    with runtime(address) as process:
        until_commanded(server)
        os.kill(watchdog_of(process), number)
        process.kill()
        assert len(damped(serve_for(server, 0.6))) > 10
    server.close()


def test_a_line_that_hung_up_keeps_nothing_busy_and_commands_pass() -> None:
    """The read end of a pipe that nobody writes to any more: always readable, never anything there."""

    class HungUp:
        layout = layout()
        reads = 0

        def __init__(self) -> None:
            self.sent_s: list[float] = []
            self.line, end = os.pipe()
            os.close(end)

        def fileno(self) -> int:
            return self.line

        def read(self) -> None:
            self.reads += 1

        def send(self, command: Command) -> None:
            self.sent_s.append(time.monotonic())

        def close(self) -> None:
            os.close(self.line)

    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    robot, link = HungUp(), Link(ours)
    thread = threading.Thread(target=Watchdog(robot, Link(theirs), 1.0).run)
    thread.start()
    time.sleep(0.3)
    before_s = time.monotonic()
    link.send_rows(Word.COMMAND, np.zeros((2, 5)), 4)
    time.sleep(0.3)
    link.send_word(Word.LEAVE)
    thread.join(5.0)
    assert not thread.is_alive() and robot.reads < 2000
    assert len(robot.sent_s) == 1 and robot.sent_s[0] - before_s < REACTION_S + CROWDED_S
    for end in (robot, link, theirs):
        end.close()


def test_a_stalled_runtime_is_damped_but_short_pauses_are_not() -> None:
    dead_man = DeadMan(0.1)
    assert not dead_man.due(1e9) and dead_man.left_s(0.0) == float("inf")  # not before the first command
    for i in range(50):
        assert dead_man.heard(0.09 * i)
    assert dead_man.left_s(0.09 * 49 + 0.03) == pytest.approx(0.07)
    assert not dead_man.due(0.09 * 49 + 0.0999)
    assert dead_man.due(0.09 * 49 + 0.1001)
    assert not dead_man.heard(5.0) and dead_man.tripped  # latched
    dead_man.reset()
    assert dead_man.heard(6.0)
    assert dead_man.due(float("nan"))  # a broken clock damps


def test_the_watchdog_ends_by_itself() -> None:
    server, address = udp_server()
    with runtime(address) as process:
        until_commanded(server)
        watchdog = watchdog_of(process)
        process.kill()
        died_s = time.monotonic()
        serve_until(server, lambda: not os.path.exists(f"/proc/{watchdog}"), LINGER_S + 10.0)
        assert time.monotonic() - died_s >= LINGER_S - 0.5
    server.close()


def test_a_robot_that_cannot_be_reached_is_told_by_the_watchdog() -> None:
    with pytest.raises(RobotrlError, match=r"udp://127.0.0.1:9 does not answer within 0.2 s") as caught:
        WatchedRobot("udp://127.0.0.1:9", 0.1, timeout_s=0.2)
    assert caught.value.exit_code == 1
    with pytest.raises(UsageError, match="give a shared key"):
        WatchedRobot("udp://192.0.2.1:9", 0.1)
