"""The command line: `robotrl COMMAND`. Results go to stdout, one-line errors to stderr.

Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted. Nothing heavy is imported before a
command needs it, so that `robotrl --help` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import robotrl
from robotrl.cli_actuator_net import actuator_net
from robotrl.cli_collect import collect
from robotrl.cli_deploy import deploy, tell
from robotrl.cli_export import export
from robotrl.cli_ros2 import ros2
from robotrl.cli_simulate_robot import simulate_robot
from robotrl.cli_sysid import sysid
from robotrl.cli_verify import verify
from robotrl.core.errors import RobotrlError, UsageError, unknown_name
from robotrl.terminal import command_parser as _parser
from robotrl.terminal import print_table as _table

_INTERRUPTED = 130
_KINDS = {
    "tasks": "task",
    "realism": "realism",
    "algorithms": "algorithm",
    "policies": "policy",
    "recipes": "recipe",
}

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


# of the columns of a task's sizes
_UNITS = ("", "", " Hz", " s")


def _list(words: Sequence[str]) -> None:
    parser = _parser(
        "list", "Print the names that can be given to `robotrl train`.", "list tasks\nlist recipes --json"
    )
    parser.add_argument("kind", metavar="|".join(_KINDS), help="what to list")
    parser.add_argument(
        "--json", action="store_true", help='print [{"name": ..., "description": ...}, ...], tasks with sizes'
    )
    args = parser.parse_args(words)
    if args.kind not in _KINDS:
        raise unknown_name("list", args.kind, _KINDS)
    from robotrl.core.catalog import available, task_sizes

    entries = available(_KINDS[args.kind])
    sizes = task_sizes() if args.kind == "tasks" else {}
    if args.json:
        rows = [{"name": name, "description": text, **sizes.get(name, {})} for name, text in entries.items()]
        print(json.dumps(rows, indent=2))
    elif sizes:
        _table(
            ["tasks", "observation", "action", "control", "episode", "description"],
            [
                (name, *(f"{value:g}{unit}" for value, unit in zip(size.values(), _UNITS, strict=True)), text)
                for name, text in entries.items()
                for size in [sizes[name]]
            ],
        )
        _list_foreign()
    else:
        _table([args.kind, "description"], entries.items())


def _list_foreign() -> None:
    """Print how environments of other libraries are named, and EnvPool's catalogue where it is installed."""
    from robotrl.core.catalog import available
    from robotrl.envs.foreign.envpool_catalog import robot_tasks

    libraries = available("task/foreign").items()
    _table(["task of another library", "description"], [(f"{name}:ID", text) for name, text in libraries])
    families = robot_tasks()
    if families:
        _table(
            ["envpool:ID", "robots; more is in envpool.list_all_envs()"],
            [(family, " ".join(ids)) for family, ids in families.items()],
        )


def _train(words: Sequence[str]) -> None:
    parser = _parser(
        "train",
        """\
Train a policy, evaluate it on fresh episodes, export it and verify the export. Everything is written
into a new folder below runs/; nothing that exists is overwritten. Ctrl-C stops with a checkpoint.

What to train is said by key=value words; later ones win:
  recipe=NAME                  a proven combination (robotrl list recipes)
  task=NAME algorithm=NAME     or your own (robotrl list tasks, robotrl list algorithms)
  task=gymnasium:Pendulum-v1   an environment of another library (robotrl list tasks)
  policy=NAME                  in place of the algorithm's default policy
  data=PATH                    to learn from before or besides experience: a folder of `robotrl collect` or
                               Minari, a D4RL or OGBench file; data=[A,B] takes several
  algorithm.init_from=RUN      go on from the policy of a run
  task._target_=package.module.Class   a task of yours, importable from the current folder
  seed=3 total_steps=2e6 num_envs=256  options of the run (all of them: --cfg)
  algorithm.gamma=0.98 task.move_speed_m_s=2   options of its parts""",
        "train recipe=quickstart\n"
        "train task=walker_walk algorithm=ppo total_steps=5e6\n"
        "train recipe=quickstart seed=0,1,2 --multirun\n"
        "train task=planar_push algorithm=expo policy=flow data=datasets/planar_push/expert-v0\n"
        "train task=walker_walk algorithm=sac --cfg\n"
        "train --resume runs/NAME",
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="what to train, see above")
    parser.add_argument(
        "-m", "--multirun", action="store_true", help="train every combination of key=a,b,c values"
    )
    parser.add_argument(
        "--cfg", action="store_true", help="print the resolved configuration as YAML and exit"
    )
    parser.add_argument(
        "--resume", metavar="RUN", type=Path, help="continue an interrupted run from its checkpoint"
    )
    args = parser.parse_intermixed_args(words)
    if args.resume is not None:
        if args.words or args.multirun or args.cfg:
            raise UsageError("--resume continues a run with its own configuration: give nothing else")
        from robotrl.training.train import resume

        _summarize([resume(args.resume)])
        return
    from robotrl.compose import compose, split_sweep

    # every job is checked before the first one starts
    configs = [compose(job) for job in (split_sweep(args.words) if args.multirun else [args.words])]
    if args.cfg:
        from robotrl.core.config import to_yaml

        print("---\n".join(to_yaml(config) for config in configs), end="")
        return
    from robotrl.training.train import inherited, train

    for config in configs:
        inherited(config)
    runs: list[Path] = []
    try:
        for config in configs:
            runs.append(train(config))
    finally:  # what was trained before another job failed is of use all the same
        if runs:
            _summarize(runs)


def _summarize(runs: Sequence[Path]) -> None:
    from robotrl.training.run_folder import RunFolder

    rows = []
    for run in map(RunFolder, runs):
        config = run.config()
        scores = json.loads((run.evaluation / "summary.json").read_text())
        target = "-"
        if config.target_return is not None:
            reached = scores["mean"] is not None and scores["mean"] >= config.target_return
            target = f"{config.target_return:g} {'reached' if reached else 'NOT reached'}"
        rows.append(
            (
                config.task_name,
                config.algorithm_class.__name__,
                str(config.seed),
                f"{scores['env_steps']:,}",
                *_score(scores),
                target,
                "verified" if config.export else "-",
            )
        )
    _table(["task", "algorithm", "seed", "steps", "return", "95 % interval", "target", "bundle"], rows)
    for path in runs:
        print(f"run folder: {path}  (report: {path / 'report.html'})")


def _score(summary: Mapping[str, Any]) -> tuple[str, str]:
    """Return mean and interval as text."""
    if summary["mean"] is None:
        return "none: every episode diverged", "-"
    return f"{summary['mean']:.1f}", f"{summary['ci_low']:.1f} to {summary['ci_high']:.1f}"


def _task_score(summary: Mapping[str, Any]) -> str:
    """Return a task's own score with its interval as text."""
    if summary["mean"] is None:
        return "-"
    return f"{summary['mean']:.4g} ({summary['ci_low']:.4g} to {summary['ci_high']:.4g})"


def _evaluate(words: Sequence[str]) -> None:
    parser = _parser(
        "evaluate",
        "Score a run's policy, acting deterministically, on fresh episodes: mean return, its 95 % bootstrap\n"
        "interval, and one CSV row per episode.",
        "evaluate runs/NAME\nevaluate runs/NAME --episodes 100 --seed 7 --video",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    parser.add_argument("--episodes", type=int, default=32, help="number of episodes (default 32)")
    parser.add_argument("--seed", type=int, default=1_000, help="seed of the environments (default 1000)")
    parser.add_argument(
        "--video",
        action="store_true",
        help="record an episode as video.mp4 in the run folder; one that is there is replaced",
    )
    parser.add_argument("--video-grid", metavar="ROWSxCOLUMNS", help="record many simulations, side by side")
    args = parser.parse_args(words)
    from robotrl.training.evaluation import evaluate_run

    result = evaluate_run(args.run, args.episodes, args.seed, args.video, args.video_grid)
    mean, interval = _score(result)
    rows = [
        ("return", mean),
        ("95 % interval", interval),
        *((name, _task_score(score)) for name, score in result["scores"].items()),
        ("episodes", str(result["episodes"])),
        ("per episode", str(result["csv"])),
    ]
    if result["video"]:
        rows.append(("video", str(result["video"])))
    _table(["evaluation", str(args.run)], rows)


def _play(words: Sequence[str]) -> None:
    parser = _parser(
        "play",
        "Watch a policy, a recorded failure or the log of a deployment: in a window, or where there is no\n"
        "screen in a browser.",
        "play runs/NAME\nplay runs/NAME/bundle --video walk.mp4 --seed 3 --video-grid 3x4\n"
        "play runs/NAME/failures/step_000000081920_sim_00007.safetensors\n"
        "play run.mcap --bundle runs/NAME/bundle --video run.mp4",
    )
    what = "folder of a run or of a bundle, a file in a run's folder `failures`, or a deployment's log"
    parser.add_argument("path", metavar="RUN|BUNDLE|FAILURE|LOG", type=Path, help=what)
    parser.add_argument("--bundle", metavar="BUNDLE", type=Path, help="that was deployed, of a log")
    parser.add_argument("--video", metavar="FILE", type=Path, help="record one episode as MP4 instead")
    parser.add_argument("--video-grid", metavar="ROWSxCOLUMNS", help="record many simulations, side by side")
    parser.add_argument("--seed", type=int, default=0, help="seed of the episode (default 0)")
    parser.add_argument("--port", type=int, default=8000, help="port of the browser view (default 8000)")
    args = parser.parse_args(words)
    from robotrl.core.config import check_seed

    check_seed(args.seed, "--seed")
    if not 0 <= args.port < 65_536:
        raise UsageError(f"--port must be in 0 to 65535, got {args.port}")
    from robotrl.training.play import play

    play(args.path, args.video, args.seed, args.port, video_grid=args.video_grid, bundle=args.bundle)


def _report(words: Sequence[str]) -> None:
    parser = _parser(
        "report",
        "Write one self-contained HTML page about a run: learning curves, reward terms, timing, video,\n"
        "configuration and versions.",
        "report runs/NAME",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="folder of a run")
    args = parser.parse_args(words)
    from robotrl.training.report import write_report

    print(write_report(args.run))


_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "list": _list,
    "train": _train,
    "evaluate": _evaluate,
    "export": export,
    "verify": verify,
    "deploy": deploy,
    "tell": tell,
    "simulate-robot": simulate_robot,
    "collect": collect,
    "play": _play,
    "report": _report,
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
