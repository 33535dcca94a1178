"""A simulated robot in real time, behind the packets of a real one."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

import numpy as np

from robotrl.core.errors import RobotrlError
from robotrl.deploy.runtime.rate import Rate
from robotrl.deploy.runtime.robots.robot import Command
from robotrl.deploy.runtime.robots.server import RobotServer
from robotrl.sim.threads import one_torch_thread
from robotrl.training.simulated_robot import SimulatedRobot, Troubles

TIMEOUT_S = 0.25
"""Without a command for so long the robot damps itself, s."""
_LONGEST_CATCH_UP_S = 0.1
_MOST_LATE = 200


@one_torch_thread()
def serve(robot: SimulatedRobot, server: RobotServer, troubles: Troubles, over: Callable[[], bool]) -> None:
    """Run a simulated robot in real time.

    Args:
        robot: to run.
        server: publishes its readings and takes its commands.
        troubles: delays and losses.
        over: whether to end.

    Raises:
        RobotrlError: this machine is too slow for real time.
    """
    rate = Rate(robot.period_s)
    rng = np.random.default_rng(troubles.seed)
    commands: deque[tuple[float, Command]] = deque()
    readings: deque[tuple[float, np.ndarray]] = deque()
    num_signals = len(robot.layout.signals)
    heard_s = time.monotonic()
    while not over():
        tick = rate.wait()
        if rate.consecutive >= _MOST_LATE:
            raise RobotrlError(
                "this machine is too slow to simulate the robot in real time: "
                f"{rate.consecutive} periods of {1e3 * robot.period_s:g} ms in a row began late"
            )
        command = server.poll()
        if command is not None:
            heard_s = tick.time_s
            commands.append((tick.time_s + troubles.command_delay_s, command))
        while commands and commands[0][0] <= tick.time_s:
            robot.obey(commands.popleft()[1])
        if tick.time_s - heard_s > TIMEOUT_S:
            robot.lie_down()
        if tick.time_s - heard_s > TIMEOUT_S + 1.0:
            robot.pick_up()
        robot.advance(min(tick.missed + 1, round(_LONGEST_CATCH_UP_S / robot.period_s) + 1))
        measured_s = time.monotonic()
        if rng.random() >= troubles.loss:
            readings.append((measured_s, robot.measure()))
        while readings and readings[0][0] <= measured_s - troubles.reading_delay_s:
            then_s, values = readings.popleft()
            server.publish(values, np.full(num_signals, then_s))
