"""The command `robotrl collect`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robotrl.cli.terminal import command_parser, print_table
from robotrl.core.errors import UsageError


def collect(words: Sequence[str]) -> None:
    """Record a dataset and print what is in it."""
    parser = command_parser(
        "collect",
        """\
Record whole episodes as a dataset, in Minari's layout: for offline learning, as demonstrations, or to
learn from besides one's own experience. Needs pip install "robotrl[data]". Nothing is overwritten.

What to record is said by key=value words:
  policy=RUN                 a trained policy: the folder of its run
  policy=expert              the task's scripted demonstrator, where it has one
  policy=random              uniform actions
  task=NAME                  and its options (task.X=, realism=NAME), as for `robotrl train`; a run's own
                             task if it is left away
  episodes=100               whole episodes
  noise_std=0                standard deviation of Gaussian noise on the actions in [-1, 1]
  deterministic=true         false draws from the distribution of a run's policy
  seed=0
  out=FOLDER/NAME-v0         folder to make (default: datasets/TASK/POLICY-v0, or the next free number)""",
        "collect policy=runs/NAME episodes=200\n"
        "collect task=point_mass_easy policy=expert episodes=50 noise_std=0.3\n"
        "collect task=walker_walk policy=random out=data/walker/random-v0",
    )
    parser.add_argument("words", nargs="*", metavar="key=value", help="what to record, see above")
    words = parser.parse_intermixed_args(words).words
    given = dict(_split(word) for word in words)
    for_task = [word for word in words if _is_of_task(_split(word)[0])]

    from robotrl.compose import compose_task_words
    from robotrl.core.schema import fill
    from robotrl.training.collect import CollectOptions
    from robotrl.training.collect import collect as record

    options = fill(CollectOptions, {key: value for key, value in given.items() if not _is_of_task(key)}, "")
    if for_task and not {"task", "task._target_"} & given.keys():
        raise UsageError(f"{for_task[0]} is an option of the task: name it, too (task=NAME)")
    task, name = compose_task_words(for_task) if for_task else (None, "")
    folder, dataset = record(options, task, name)
    _print(folder, dataset.summary(), dataset.provenance["diverged_episodes"])


def _split(word: str) -> tuple[str, str]:
    key, equals, value = word.partition("=")
    if not equals:
        raise UsageError(f"cannot read {word!r}: expected key=value (see `robotrl collect --help`)")
    return key, value


def _is_of_task(key: str) -> bool:
    return key in ("task", "realism") or key.startswith("task.")


def _print(folder: Path, summary: Mapping[str, Any], diverged: int) -> None:
    def spread(name: str) -> str:
        values = summary[name]
        return f"{values['mean']:.4g} ± {values['std']:.3g} ({values['min']:.4g} to {values['max']:.4g})"

    success = summary["success"]
    rows = [
        (
            "episodes",
            f"{summary['episodes']:,}" + (f", {diverged:,} diverged and left out" if diverged else ""),
        ),
        ("control steps", f"{summary['steps']:,}"),
        ("return", spread("return")),
        ("success", "the task has no such notion" if success is None else f"{success:.1%}"),
        ("length", spread("length")),
        ("ended in a true end state", f"{summary['terminated']:.1%}"),
        ("reward of a step", spread("reward")),
        ("actions at a bound", f"{summary['action_at_limit']:.1%}"),
        ("observation", ", ".join(f"{group} {size}" for group, size in summary["observation"].items())),
        ("action", str(summary["action"])),
    ]
    print_table(["dataset", str(folder)], rows)
