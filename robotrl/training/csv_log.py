"""Reading CSV logs of a robot cell by cell, so that an error names the row of the file."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator
from pathlib import Path

from robotrl.core.errors import RobotrlError, UsageError


def read_rows(path: Path) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Read a CSV file with a header.

    Returns:
        Names of the columns, and the rows with their numbers in the file; empty ones are left out, and one
        with too many or too few cells raises a `UsageError` when its turn comes.

    Raises:
        UsageError: the file is missing or no CSV file.
        RobotrlError: it cannot be read.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            header = [name.strip() for name in next(lines, [])]
            rows = list(enumerate(lines, 2))
    except FileNotFoundError as error:
        raise UsageError(f"log {path} does not exist") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"log {path} is not a CSV file in UTF-8: {error}") from error
    except OSError as error:
        raise RobotrlError(f"cannot read log {path}: {error}") from error
    return header, _whole(path, len(header), rows)


def _whole(path: Path, width: int, rows: list[tuple[int, list[str]]]) -> Iterator[tuple[int, list[str]]]:
    for number, row in rows:
        if row and len(row) != width:
            raise UsageError(f"log {path}, row {number}: {len(row)} cells, the header has {width}")
        if row:
            yield number, row


def read_number(path: Path, row: int, column: str, cell: str) -> float:
    """Return a cell's number.

    Raises:
        UsageError: it is not a finite number.
    """
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"log {path}, row {row}: {column} must be a finite number, got {cell!r}")
    return value
