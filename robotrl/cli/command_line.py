"""The command line: `robotrl COMMAND`. Results go to stdout, one-line errors to stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Nothing heavy is imported before a
command needs it, so that `robotrl --help` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable, Sequence

import robotrl
from robotrl.cli.actuator_net import actuator_net
from robotrl.cli.collect import collect
from robotrl.cli.deploy import deploy, tell
from robotrl.cli.evaluate import evaluate
from robotrl.cli.export import export
from robotrl.cli.listing import list_names
from robotrl.cli.play import play
from robotrl.cli.report import report
from robotrl.cli.ros2 import ros2
from robotrl.cli.simulate_robot import simulate_robot
from robotrl.cli.sysid import sysid
from robotrl.cli.train import train
from robotrl.cli.verify import verify
from robotrl.core.errors import RobotrlError, unknown_name

_INTERRUPTED = 130
_HELP = """\
Train robot controllers in simulation, verify them, ship them as one file.

usage: robotrl COMMAND [ARGUMENTS] [--debug]

commands:
  list            tasks, realism, algorithms, policies or recipes that can be named
  train           train, evaluate, export and verify; continue with --resume
  evaluate        score a trained policy on fresh episodes
  export          write a run's policy as a bundle that needs neither torch nor MuJoCo
  verify          check that a bundle does what the trained policy did
  deploy          run a bundle on a robot, or on a simulated one
  tell            say arm, go, stop or reset to a deployment elsewhere
  play            watch a policy, or record it
  collect         record episodes of a policy as a dataset
  report          write a run's learning curves and facts as one HTML page
  simulate-robot  a simulated robot for `deploy`, in a process of its own
  ros2            write a bundle's ROS 2 package
  actuator-net    learn a joint's actuator from logs of the robot
  sysid           identify friction, masses, gains and delays of the model from logs of the robot

options:
  -h, --help    this text; `robotrl COMMAND --help` explains a command
  --version     version
  --debug       with any command: show the traceback of an error

examples:
  robotrl list tasks
  robotrl train recipe=quickstart
  robotrl train task=walker_walk algorithm=sac seed=3 algorithm.gamma=0.98
  robotrl play runs/NAME --video walk.mp4
"""


_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "list": list_names,
    "train": train,
    "evaluate": evaluate,
    "export": export,
    "verify": verify,
    "deploy": deploy,
    "tell": tell,
    "simulate-robot": simulate_robot,
    "collect": collect,
    "play": play,
    "report": report,
    "ros2": ros2,
    "actuator-net": actuator_net,
    "sysid": sysid,
}


def _run(words: list[str]) -> None:
    command = words[0] if words else "--help"
    if command in ("-h", "--help", "help"):
        print(_HELP, end="")
    elif command == "--version":
        print(f"robotrl {robotrl.__version__}")
    elif command not in _COMMANDS:
        raise unknown_name("command", command, _COMMANDS)
    else:
        # a task of one's own lies in the folder where the command is given
        sys.path.append(os.getcwd())
        _COMMANDS[command](words[1:])


def _explain(error: Exception) -> tuple[str, int]:
    """Return the one line and the exit code for an error."""
    if isinstance(error, RobotrlError):
        return " ".join(str(error).split()), error.exit_code
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"disk full while writing {error.filename or 'a file'}: free some space and try again", 1
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message} (run with --debug for the traceback)", 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    try:
        _run([word for word in words if word != "--debug"])
        sys.stdout.flush()  # here a full disk or a closed pipe can still be reported
    except KeyboardInterrupt:
        print("robotrl: interrupted", file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        # the reader of our output is gone: nothing is left to be said
        _drop_output()
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        message, code = _explain(error)
        print(f"robotrl: {message if code == _INTERRUPTED else f'error: {message}'}", file=sys.stderr)
        try:
            sys.stdout.flush()
        except OSError:
            _drop_output()
        return code
    return 0


def _drop_output() -> None:
    """Send what stdout still holds nowhere: Python would try again at exit and change the exit code."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
