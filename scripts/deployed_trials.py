"""Trials of an exported policy on a simulated robot, with the commands that a person would type.

A trial is `robotrl deploy` of the bundle's compiled C, armed over `robotrl tell`, against
`robotrl simulate-robot`: three processes with the watchdog's, in real time over loopback.
"""

from __future__ import annotations

import re
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROBOTRL = [sys.executable, "-m", "robotrl"]
_ATTEMPT = re.compile(r"attempt 1: ([\d.]+) s, (.*); ended by (.*)")
_GUARD = re.compile(r"guard events *│ *(.*?) *│")


@dataclass
class Running:
    """A trial under way, for who wants to disturb it.

    Attributes:
        robot: its process.
        deployment: its process.
        began_s: when the policy took over, by the monotonic clock.
    """

    robot: subprocess.Popen[str]
    deployment: subprocess.Popen[bytes]
    began_s: float


def undisturbed(running: Running) -> None:
    """Do nothing."""


def trial(
    bundle: Path,
    library: Path,
    robot_words: list[str],
    limits: str,
    duration_s: float,
    disturb: Callable[[Running], None] = undisturbed,
) -> dict[str, Any]:
    """Run one trial.

    Args:
        bundle: folder of the policy.
        library: its C, compiled.
        robot_words: of `robotrl simulate-robot`, after the bundle.
        limits: YAML of `robotrl deploy --limits`.
        duration_s: after which the policy is stopped, s.
        disturb: is called over and over while the policy commands.

    Returns:
        What the robot says of the attempt: "duration_s", "ended_by", the task's scores; "ended_s", when the
        robot's attempt ended after the policy took over, by the clock on the wall; and "guard", the event
        that ended the deployment, "" for none.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "key").write_text(secrets.token_hex(32))
        (folder / "limits.yaml").write_text(limits)
        words = ["simulate-robot", str(bundle), *robot_words, "--attempts", "1"]
        words += ["--key-file", str(folder / "key")]
        with subprocess.Popen([*ROBOTRL, *words], stdout=subprocess.PIPE, text=True) as robot:
            assert robot.stdout is not None
            try:
                address = robot.stdout.readline().strip()
                words = ["deploy", str(bundle), "--robot", address, "--policy", str(library)]
                ended_s = _deploy(words, robot, folder, duration_s, disturb)
                line = robot.stdout.readline()
            finally:
                robot.kill()
        said = (folder / "deployment.txt").read_text()
    found = _ATTEMPT.match(line)
    if found is None:
        raise RuntimeError(f"the robot said {line!r}, the deployment\n{said}")
    lasted, scores, by = found.groups()
    guard = _GUARD.search(said)
    return {
        "duration_s": float(lasted),
        **{name: float(value) for name, value in (score.rsplit(" ", 1) for score in scores.split(", "))},
        "ended_by": by,
        "ended_s": ended_s,
        "guard": "" if guard is None or guard[1] == "none" else guard[1],
    }


def _deploy(
    words: list[str],
    robot: subprocess.Popen[str],
    folder: Path,
    duration_s: float,
    disturb: Callable[[Running], None],
) -> float:
    """Deploy until robot or deployment end; return how long after `go` that was, s."""
    key, log, operator = ["--key-file", str(folder / "key")], folder / "deployment.txt", _free_address()
    words = [*words, *key, "--limits", str(folder / "limits.yaml"), "--operator", operator]
    words += ["--duration", str(duration_s)]
    with log.open("w") as out:
        deployment = subprocess.Popen([*ROBOTRL, *words], cwd=folder, stdout=out, stderr=out)
        try:
            for word, state in (("arm", "READY"), ("go", "HOLD")):
                while state not in log.read_text():
                    if deployment.poll() is not None or "DAMPING" in log.read_text():
                        raise RuntimeError(log.read_text())
                    time.sleep(0.02)
                subprocess.run([*ROBOTRL, "tell", operator, word, *key], check=True, capture_output=True)
            while "POLICY" not in log.read_text():
                time.sleep(0.002)
            running = Running(robot, deployment, time.monotonic())
            assert robot.stdout is not None
            while not select.select([robot.stdout], [], [], 0.0)[0]:  # the attempt's line, or the end
                disturb(running)
                time.sleep(0.005)
            return time.monotonic() - running.began_s
        finally:
            deployment.send_signal(signal.SIGCONT)
            deployment.terminate()
            deployment.wait()


def _free_address() -> str:
    """Return a UDP address of loopback that nobody has now."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
