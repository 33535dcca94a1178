"""The command `robotrl deploy`."""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from robotrl.cli.terminal import command_parser, print_table, read_key
from robotrl.core.errors import RobotrlError, UsageError

if TYPE_CHECKING:
    from robotrl.deploy.bundle import Bundle
    from robotrl.deploy.controller import Decides
    from robotrl.deploy.runtime.binding import Binding
    from robotrl.deploy.runtime.operator import Operator
    from robotrl.deploy.runtime.runtime import Status

_ASKS = {
    "DISARMED": "",
    "READY": "type arm",
    "MOVE_TO_DEFAULT": "moving, stop ends it",
    "HOLD": "type go",
    "POLICY": "stop ends it",
    "DAMPING": "type reset or quit",
}


def deploy(words: Sequence[str]) -> None:
    """Run a bundle on a robot and print what came of it."""
    args = _parse(words)
    if args.yes and args.robot != "sim":
        raise UsageError("--yes is for --robot sim: a real robot is armed by a person who types arm, then go")
    if args.yes and args.operator is not None:
        raise UsageError("--yes goes without a person, --operator waits for one: leave one of them out")
    if not 0.0 <= args.spin < math.inf:
        raise UsageError(f"--spin must be a time of at least 0 s, got {args.spin}")
    if args.duration is not None and not args.duration > 0:
        raise UsageError(f"--duration must be above 0 s, got {args.duration}")
    if args.log is not None and args.log.exists():
        raise UsageError(f"--log {args.log} exists: give it another name")
    key = read_key(args.key_file)

    from robotrl.deploy.bundle import Bundle
    from robotrl.deploy.runtime.decide import check_recordings, execution
    from robotrl.deploy.runtime.limits import Limits, read_limits
    from robotrl.deploy.runtime.link import WatchedRobot
    from robotrl.deploy.runtime.priority import RUNTIME, real_time
    from robotrl.deploy.runtime.rate import Rate
    from robotrl.deploy.runtime.runtime import Runtime
    from robotrl.deploy.runtime.statistics import DEPLOYMENTS

    limits = Limits() if args.limits is None else read_limits(args.limits)
    bundle = Bundle.load(args.bundle)
    contract, dt_s = bundle.contract, bundle.contract.control_dt_s
    if dt_s is None or contract.robot is None:
        raise RobotrlError(f"{args.bundle} does not say which robot it is for, or how fast: export it again")
    network = network_of(args.policy, bundle)
    acts = execution(args.chunks, network, limits)
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    with robot_address(args.robot, args.bundle) as address:
        robot = WatchedRobot(address, limits.silence_s(dt_s), key)
        try:
            granted = real_time(RUNTIME)  # the watchdog and a simulated robot are processes of their own
            runtime = Runtime(
                contract,
                bundle.golden,
                acts,
                lambda: check_recordings(network, bundle.golden),
                robot,
                limits,
                Rate(dt_s, args.spin),
                args.log,
                args.log or Path(f"deploy-{stamp}.mcap"),
            )
            _show_binding(runtime.binding)
            screen = Screen(sys.stderr)
            interrupted = runtime.run(_operator(args, key, screen), args.duration, _StatusLine(screen))
            screen.close()
        finally:
            robot.close()
    summary = runtime.summary()
    scheduling = ("scheduling", "real-time" if granted else "ordinary: grant CAP_SYS_NICE for real-time")
    record = args.bundle.resolve().parent / DEPLOYMENTS / f"{stamp}.json"
    kept = str(record)
    try:
        summary.save(record, policy_sha256=contract.policy_sha256, robot=args.robot, created=stamp)
    except OSError as error:  # a robot's disk may be read-only
        kept = f"not at {record}: {error.strerror or error}"
    told = [scheduling, ("kept for the report", kept), ("verdict", summary.verdict())]
    print_table(["deployment", str(args.bundle)], [*summary.rows(), *told])
    if summary.events:
        raise RobotrlError(f"a guard had to act: {summary.events[0]}")
    if interrupted:
        raise KeyboardInterrupt


def tell(words: Sequence[str]) -> None:
    """Say a word to a deployment that runs elsewhere and print its answer."""
    parser = command_parser(
        "tell",
        "Say arm, go, stop, reset or quit to a `robotrl deploy --operator HOST:PORT` and print its answer.",
        "tell 127.0.0.1:4001 stop --key-file robot.key",
    )
    parser.add_argument("address", metavar="HOST:PORT", help="where the deployment listens")
    parser.add_argument("word", metavar="WORD", help="arm, go, stop, reset or quit")
    parser.add_argument("--key-file", type=Path, required=True, metavar="FILE", help="the shared secret")
    args = parser.parse_args(words)
    from robotrl.deploy.runtime.operator import say

    host, port = _host_port(args.address)
    print_table(["operator", "answer"], [(args.word, say(host, port, read_key(args.key_file), args.word))])


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not int(port) < 65_536:
        raise UsageError(f"{text!r}: expected HOST:PORT, such as 127.0.0.1:4001")
    return host, int(port)


def _parse(words: Sequence[str]) -> argparse.Namespace:
    parser = command_parser(
        "deploy",
        """\
Run a bundle's policy on a robot: self-test, move to the default pose, hold, policy, damping. A person
types `arm`, then `go`; `stop` or Ctrl-C damps the robot at once; `reset` after that begins anew; `quit`
leaves. A watchdog process damps the robot when this one falls silent. Needs pip install "robotrl[deploy]";
on a robot, --no-deps and the few packages that docs/deploy.md names are enough. Exit code 0: no guard had to
act, 1: one had, 130: Ctrl-C.""",
        "deploy runs/NAME/bundle --robot sim --yes --duration 20\n"
        "deploy walker.bundle --robot udp://192.168.1.7:4000 --key-file robot.key --limits limits.yaml "
        "--log run.mcap\n"
        "deploy arm.bundle --robot serial:/dev/ttyACM0 --policy c",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="folder of a bundle")
    robots = "sim|udp://HOST:PORT|serial:/dev/tty...[@BAUD]"
    parser.add_argument("--robot", required=True, metavar=robots, help="what to run it on")
    parser.add_argument(
        "--policy",
        default="onnx",
        metavar="onnx|c|FILE.so",
        help="how the network is computed: onnxruntime (default), the bundle's C compiled now, or before",
    )
    parser.add_argument(
        "--chunks",
        default="queue",
        metavar="queue|ensemble|realtime",
        help="how decisions of several actions are executed: one after another, averaged (ACT), or with the "
        "next one made meanwhile",
    )
    parser.add_argument(
        "--duration", type=float, metavar="S", help="time under the policy, s (default: no end)"
    )
    parser.add_argument("--limits", type=Path, metavar="FILE", help="YAML of thresholds (docs/deploy.md)")
    parser.add_argument("--log", type=Path, metavar="FILE.mcap", help="record every control step")
    parser.add_argument(
        "--spin", type=float, default=0.0, metavar="S", help="poll the clock before a deadline, s"
    )
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="secret shared with robot and operator")
    parser.add_argument(
        "--operator", metavar="HOST:PORT", help="also listen for `robotrl tell` there; needs --key-file"
    )
    parser.add_argument("--yes", action="store_true", help="arm and go without a person: --robot sim only")
    return parser.parse_args(words)


def network_of(kind: str, bundle: Bundle) -> Decides:
    """Return what computes a bundle's decisions.

    Args:
        kind: "onnx", "c", or the path of the bundle's C, compiled.
        bundle: whose decisions.

    Raises:
        RobotrlError: it cannot be compiled or loaded.
    """
    if kind == "onnx":
        return bundle
    from robotrl.deploy.c_policy import CPolicy, compile_policy

    if kind != "c":
        return CPolicy(Path(kind), bundle.contract)
    with tempfile.TemporaryDirectory() as folder:  # once loaded, the file is not needed any more
        return CPolicy(compile_policy(bundle.path, Path(folder) / "policy.so"), bundle.contract)


def _show_binding(binding: Binding) -> None:
    """Print what has another order on the robot than in the policy, and which guard lacks its signal."""
    if binding.moved:
        print_table(["reordered by name", "the policy's order", "the robot's order"], binding.moved)
    if binding.gravity is None:
        print_table(["no guard of", "why"], [("tilt", "the robot publishes no projected_gravity")])


def _operator(args: argparse.Namespace, key: bytes, screen: Screen) -> Operator:
    from robotrl.deploy.runtime.operator import Automatic, Both, Console, RemoteOperator

    if args.yes:
        return Automatic()
    if args.operator is None:
        return Console(sys.stdin, screen)
    remote = RemoteOperator(*_host_port(args.operator), key)
    # without a terminal the end of the input is not a person who left
    return Both(remote, Console(sys.stdin, screen)) if sys.stdin.isatty() else remote


@contextlib.contextmanager
def robot_address(robot: str, bundle: Path) -> Iterator[str]:
    """Give a robot's address; a simulated one lives as long as it is used.

    Args:
        robot: "sim" or an address.
        bundle: whose task is simulated.

    Raises:
        RobotrlError: the simulated robot does not start.
    """
    if robot != "sim":
        yield robot
        return
    command = [sys.executable, "-m", "robotrl", "simulate-robot", str(bundle), "--parent", str(os.getpid())]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise RobotrlError("the simulated robot did not start: see its message above")
        yield address
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


class Screen:
    """Writes from another thread: a terminal that is held up (Ctrl-S) must not hold up the loop.

    What it cannot take in time is left out.

    Args:
        stream: to write to.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: queue.Queue[str | None] = queue.Queue(100)
        self._thread = threading.Thread(target=self._drain, daemon=True)
        self._thread.start()

    def write(self, text: str) -> None:
        """Write soon."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(text)

    def close(self) -> None:
        """Write what is left, for a second at most."""
        with contextlib.suppress(queue.Full):
            self._waiting.put_nowait(None)
        self._thread.join(1.0)

    def _drain(self) -> None:
        with contextlib.suppress(OSError):  # nobody looks any more
            while (text := self._waiting.get()) is not None:
                self._stream.write(text)
                self._stream.flush()


class _StatusLine:
    """Keeps one line of the terminal up to date; where there is none, writes a line for every new state."""

    def __init__(self, screen: Screen) -> None:
        self._last, self._screen = "", screen
        self._live = sys.stderr.isatty()

    def __call__(self, status: Status) -> None:
        """Show how it stands."""
        ask = status.note or _ASKS[status.state.name]
        head = f"{status.state.name:<15}"
        if not self._live:
            if head + ask != self._last:
                self._last = head + ask
                self._screen.write(f"{head.strip()}  {ask}\n")
            return
        numbers = (
            f"{status.policy_s:7.1f} s  readings {1e3 * status.age_s:5.1f} ms old  "
            f"late {1e3 * status.lateness_s:6.2f} ms  overruns {status.overruns}"
        )
        self._screen.write(f"\r\033[K{head} {numbers}  {ask}")
