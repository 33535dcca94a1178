"""The command `robotrl evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robotrl.cli.terminal import command_parser, print_table


def evaluate(words: Sequence[str]) -> None:
    """Score a policy on fresh episodes and print it."""
    parser = command_parser(
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
    mean, interval = score(result)
    rows = [
        ("return", mean),
        ("95 % interval", interval),
        *((name, _task_score(score)) for name, score in result["scores"].items()),
        ("episodes", str(result["episodes"])),
        ("per episode", str(result["csv"])),
    ]
    if result["video"]:
        rows.append(("video", str(result["video"])))
    print_table(["evaluation", str(args.run)], rows)


def score(summary: Mapping[str, Any]) -> tuple[str, str]:
    """Return mean and interval as text."""
    if summary["mean"] is None:
        return "none: every episode diverged", "-"
    return f"{summary['mean']:.1f}", f"{summary['ci_low']:.1f} to {summary['ci_high']:.1f}"


def _task_score(summary: Mapping[str, Any]) -> str:
    """Return a task's own score with its interval as text."""
    if summary["mean"] is None:
        return "-"
    return f"{summary['mean']:.4g} ({summary['ci_low']:.4g} to {summary['ci_high']:.4g})"
