"""Logs of actuators that cannot be learned from are refused in one line, and nothing is written."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from robotrl.cli import main
from robotrl.training.actuator_log import COLUMNS

GOOD = [[f"{0.002 * i:.3f}", "0.1", f"{math.sin(i)}", f"{math.cos(i)}", f"{i % 7}"] for i in range(200)]


def damaged(row: int, column: int, value: str) -> list[list[str]]:
    rows = [list(cells) for cells in GOOD]
    rows[row][column] = value
    return rows


@pytest.mark.parametrize(
    ("header", "rows", "options", "message"),
    [
        (
            "time_s,command_rad,position_rad,velocity_rad_s,torqe_nm",
            GOOD,
            "",
            "no column 'torque_nm' (is it 'to",
        ),
        ("", [], "", "no column 'time_s'"),
        ("time_s,time_s", GOOD, "", "two columns 'time_s'"),
        (None, damaged(40, 3, "nan"), "", "row 42: velocity_rad_s must be a finite number, got 'nan'"),
        (None, damaged(5, 4, "1,5"), "", "row 7: 6 cells, the header has 5"),
        (None, damaged(5, 4, "high"), "", "row 7: torque_nm must be a finite number, got 'high'"),
        (None, GOOD[:80] + GOOD[81:], "", "row 82: 0.004 s after the row before it"),
        (None, GOOD[::-1], "", "time_s must rise"),
        (None, GOOD[:1], "", "1 rows of numbers, it needs at least 2"),
        (None, GOOD[:109], "", "has 109 rows, it needs at least 110"),
        (None, [[*cells[:4], "0.3"] for cells in GOOD], "", "the torque never changes"),
        (
            None,
            [[*cells[:2], "0.3", *cells[3:]] for cells in GOOD],
            "",
            "the position error or velocity never",
        ),
        (None, GOOD, "--lags-s 0,0.003", "lag 0.003 s is no whole multiple of the time step of log"),
        (None, GOOD, "--lags-s 0.01,0.02", "lags must begin with 0 and rise"),
        (None, GOOD, "--lags-s 0,ten", "--lags-s: expected numbers such as 0,0.01,0.02, got '0,ten'"),
        (None, GOOD, "--updates 0", "the number of updates must be at least 1"),
        (None, GOOD, "--out nowhere/x", "folder nowhere of x does not exist"),
    ],
)
def test_bad_logs_get_one_clear_line(
    header: str | None,
    rows: list[list[str]],
    options: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [",".join(COLUMNS) if header is None else header, *(",".join(cells) for cells in rows)]
    Path("log.csv").write_text("\n".join(lines) + "\n")
    assert main(["actuator-net", "log.csv", "--out", "net.safetensors", *options.split()]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert message in line
    assert [file.name for file in tmp_path.iterdir()] == ["log.csv"]
