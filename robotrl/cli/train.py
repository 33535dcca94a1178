"""The command `robotrl train`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from robotrl.cli.evaluate import score
from robotrl.cli.terminal import command_parser, print_table
from robotrl.core.errors import RobotrlError, UsageError

_SUMMARY = """\
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
  algorithm.gamma=0.98 task.move_speed_m_s=2   options of its parts"""
_EXAMPLES = """\
train recipe=quickstart
train task=walker_walk algorithm=ppo total_steps=5e6
train recipe=quickstart seed=0,1,2 --multirun
train task=planar_push algorithm=expo policy=flow data=datasets/planar_push/expert-v0
train task=walker_walk algorithm=sac --cfg
train --resume runs/NAME"""
_CHOICES = ("task", "algorithm", "seed")


def train(words: Sequence[str]) -> None:
    """Train what is said, or go on with a run, and print what was reached."""
    parser = command_parser("train", _SUMMARY, _EXAMPLES)
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

        _summarize([resume(args.resume)], [""])
        return
    from robotrl.compose import compose, split_sweep
    from robotrl.training.train import inherited
    from robotrl.training.train import train as run_training

    # every job is checked before the first one starts
    jobs = split_sweep(args.words) if args.multirun else [args.words]
    common = set(jobs[0]).intersection(*jobs)
    varied = [[word for word in job if word not in common] for job in jobs]
    configs, resolved = [], []
    for job, words in zip(jobs, varied, strict=True):
        with _named(words):
            configs.append(compose(job))
            resolved.append(inherited(configs[-1]))
    if args.cfg:
        from robotrl.core.config import to_yaml

        print("---\n".join(to_yaml(config) for config in resolved), end="")
        return
    runs: list[Path] = []
    try:
        for config, words in zip(configs, varied, strict=True):
            with _named(words):
                runs.append(run_training(config))
    finally:  # what was trained before another job failed is of use all the same
        if runs:
            columns = tuple(f"{name}=" for name in _CHOICES)
            _summarize(runs, [" ".join(w for w in words if not w.startswith(columns)) for words in varied])


@contextmanager
def _named(words: Sequence[str]) -> Iterator[None]:
    """Tell of an error which job of several it is of, by what tells that from the others."""
    try:
        yield
    except RobotrlError as error:
        if not words:
            raise
        raise type(error)(f"{' '.join(words)}: {error}") from error


def _summarize(runs: Sequence[Path], varied: Sequence[str]) -> None:
    """Print what runs reached, and what was varied between them and those that are not there."""
    from robotrl.training.run_folder import RunFolder

    rows = []
    for run, words in zip(map(RunFolder, runs), varied, strict=False):
        config = run.config()
        scores = json.loads((run.evaluation / "summary.json").read_text())
        target = "-"
        if config.target_return is not None:
            reached = scores["mean"] is not None and scores["mean"] >= config.target_return
            target = f"{config.target_return:g} {'reached' if reached else 'NOT reached'}"
        rows.append(
            (
                config.task_name,
                config.algorithm_name,
                str(config.seed),
                f"{scores['env_steps']:,}",
                *score(scores),
                target,
                "verified" if config.export else "-",
                *([words] if any(varied) else []),
            )
        )
    titles = [*_CHOICES, "steps", "return", "95 % interval", "target", "bundle"]
    print_table([*titles, "varied"] if any(varied) else titles, rows)
    for path in runs:
        print(f"run folder: {path}  (report: {RunFolder(path).report})")
        _tell_streams(path)


def _tell_streams(run: Path) -> None:
    """Say what a run's streams reached, of which the table shows one."""
    from robotrl.training.streams_report import STREAMS_FILE

    file = run / STREAMS_FILE
    if not file.is_file():
        return
    document = json.loads(file.read_text())
    returns = [stream["eval_return"] for stream in document["streams"]]
    known = [value for value in returns if value is not None]
    if len(returns) > 1 and known:
        each = ", ".join("-" if value is None else f"{value:.1f}" for value in returns)
        print(
            f"{len(returns)} streams: mean return {sum(known) / len(known):.1f} ({each}); the run's "
            f"policy is that of stream {document['shown']} (from 0), the best while it learned"
        )
