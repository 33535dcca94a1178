"""The live line of a training run: steps, steps per second, return, time left."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.table import Column

from robotrl.core.config import TrainConfig
from robotrl.training.loop import Loop

_LINE_EVERY_S = 30.0
"""Between two lines in a log file."""


class Progress:
    """A progress bar on stderr; where that is not a terminal, such as a cluster's log, a line now and then.

    Args:
        config: of the run.
        enabled: whether anything is shown.
        loop: the loop, which may have come some way already.
        line_every_s: time between two lines where there is no terminal.
    """

    def __init__(
        self, config: TrainConfig, enabled: bool, loop: Loop, line_every_s: float = _LINE_EVERY_S
    ) -> None:
        console = Console(stderr=True)
        self._prints_lines = enabled and not console.is_terminal
        self._line_every_s, self._next_line_s = line_every_s, time.monotonic() + line_every_s
        self._bar = RichProgress(
            SpinnerColumn(),
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=12),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[steps]}"),
            # on a narrow terminal bar and figures give way, the times stay whole
            TextColumn("[green]{task.fields[figures]}", table_column=Column()),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            TextColumn("eta"),
            TimeRemainingColumn(elapsed_when_finished=False, table_column=Column(no_wrap=True)),
            console=console,
            disable=not enabled or self._prints_lines,
            refresh_per_second=4,
            speed_estimate_period=60.0,
        )
        self._title = f"{config.task_name} · {config.algorithm_name}"
        self._first, self._last = -loop.offline_updates, config.total_steps
        self._task = self._bar.add_task(
            escape(self._title),
            total=config.total_steps - self._first,
            completed=loop.log_step - self._first,
            steps="",
            figures="",
        )
        self._return: float | None = None
        self._success: float | None = None
        self._evaluation: float | None = None

    def __enter__(self) -> Progress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def update(self, log_step: int, metrics: dict[str, float]) -> None:
        """Show the figures of the last iteration.

        Args:
            log_step: environment steps; below 0, minus the offline updates that are left.
            metrics: of the iteration.
        """
        self._return = metrics.get("episode/return", self._return)
        offline = metrics.get("time/offline_updates_per_s")
        self._success = metrics.get("episode/success", self._success)
        figures = [
            f"{_short(metrics['time/env_steps_per_s'])} steps/s"
            if offline is None
            else f"{_short(offline)} updates/s"
        ]
        if self._return is not None:
            figures.append(f"return {self._return:.1f}")
        elif "reward/total" in metrics:
            # no whole episode has ended yet
            figures.append(f"reward {metrics['reward/total']:.3f} a step")
        if self._success is not None:
            figures.append(f"success {100 * self._success:.0f}%")
        if self._evaluation is not None:
            figures.append(f"eval {self._evaluation:.1f}")
        self._bar.update(
            self._task,
            completed=min(log_step, self._last) - self._first,
            steps=f"{_short(log_step)}/{_short(self._last)}"
            if log_step > 0 or not self._first
            else f"offline {_short(log_step - self._first)}/{_short(-self._first)}",
            figures=" · ".join(figures),
        )
        if self._prints_lines and (log_step >= self._last or time.monotonic() >= self._next_line_s):
            self._print_line()
            self._next_line_s = time.monotonic() + self._line_every_s

    def _print_line(self) -> None:
        (task,) = self._bar.tasks
        fields = task.fields
        times = [_clock(task.elapsed)]
        if not task.finished and task.time_remaining is not None:
            times.append(f"eta {_clock(task.time_remaining)}")
        parts = [f"{task.percentage:.0f}%", fields["steps"], fields["figures"], " ".join(times)]
        self._print(f"{self._title}: {' · '.join(filter(None, parts))}")

    def _print(self, line: str, style: str | None = None) -> None:
        # a path may look like rich's markup
        self._bar.console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)

    def evaluated(self, mean: float) -> None:
        """Remember the last evaluation's mean return."""
        self._evaluation = mean

    def warn(self, message: str) -> None:
        """Print a line that stays above the bar."""
        self._print(f"robotrl: warning: {message}", style="yellow")

    def stage(self, name: str) -> None:
        """Name what happens after training."""
        if self._prints_lines:
            self._print(f"{self._title}: {name}")
        else:
            self._bar.update(self._task, description=name)


def _clock(seconds: float | None) -> str:
    return str(timedelta(seconds=round(seconds or 0.0)))


def _short(count: float) -> str:
    for limit, suffix in ((1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g}{suffix}"
    return f"{count:.0f}"
