"""Metrics of a run, as CSV and for TensorBoard. Environment steps are the x axis, always.

The vocabulary: `episode/return`, `episode/length`, `reward/total`, `reward/<term>` (means over control
steps), `eval/return`, `episode/<score>` and `eval/<score>` of the task's own scores, `loss/<name>`,
`value/<name>`, `policy/<name>`, `time/env_steps_per_s`, `time/<phase>_s` (cumulative), `sim/diverged`
(cumulative count), `sim/diverged_per_million_steps` (over the run so far).
"""

from __future__ import annotations

import csv
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from robotrl.core.errors import RobotrlError
from robotrl.core.files import write_aside

_KEYS = ("env_steps", "wall_s")


class MetricsLogger:
    """Appends one row per call to a CSV file and to TensorBoard.

    Args:
        csv_path: created if missing; rows after `resume_from` are dropped, they will be made again.
        tensorboard: folder of the event files.
        resume_from: environment steps of the checkpoint that training continues from.
    """

    def __init__(self, csv_path: Path, tensorboard: Path, resume_from: int | None = None) -> None:
        self._path = csv_path
        self._columns: list[str] = list(_KEYS)
        if csv_path.is_file():
            self._rewrite([row for row in read_metrics(csv_path) if _stays(row, resume_from or 0)])
        else:
            self._rewrite([])
        self._writer = SummaryWriter(
            str(tensorboard), purge_step=None if resume_from is None else resume_from + 1
        )

    def log(self, env_steps: int, wall_s: float, metrics: dict[str, float]) -> None:
        """Append one row; metrics that are not given stay empty."""
        row = {"env_steps": float(env_steps), "wall_s": wall_s, **metrics}
        new = [name for name in row if name not in self._columns]
        if new:
            rows = read_metrics(self._path)
            self._columns += new
            self._rewrite(rows)
        with open(self._path, "a", newline="") as file:
            csv.writer(file).writerow(_cells(row, self._columns))
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, env_steps)

    def close(self) -> None:
        """Flush TensorBoard's file."""
        self._writer.close()

    def _rewrite(self, rows: list[dict[str, float]]) -> None:
        for row in rows:
            self._columns += [name for name in row if name not in self._columns]

        def write(path: Path) -> None:
            with open(path, "w", newline="") as file:
                writer = csv.writer(file)
                writer.writerow(self._columns)
                writer.writerows(_cells(row, self._columns) for row in rows)

        write_aside(self._path, write)


def _stays(row: dict[str, float], resume_from: int) -> bool:
    """Return whether a row was logged up to a checkpoint; a final evaluation comes after the last one."""
    is_evaluation = all(name in _KEYS or name.startswith("eval/") for name in row)
    return row["env_steps"] < resume_from or (row["env_steps"] == resume_from and not is_evaluation)


def _cells(row: dict[str, float], columns: list[str]) -> list[str]:
    return [_cell(name, row[name]) if name in row else "" for name in columns]


def _cell(name: str, value: float) -> str:
    return str(int(value)) if name == "env_steps" else f"{value:.6g}"


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read the rows of a metrics file; an empty cell is left out of its row.

    So is a last line without its end: a run that was killed or met a full disk wrote half of it.

    Raises:
        RobotrlError: it is damaged in another way.
    """
    try:
        with open(path, newline="", encoding="utf-8") as file:
            whole = [line for line in file if line.endswith("\n")]
        return [
            {name: float(cell) for name, cell in row.items() if name and cell}
            for row in csv.DictReader(whole)
            if row["env_steps"]
        ]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise RobotrlError(f"{path} is damaged: {error}") from error
