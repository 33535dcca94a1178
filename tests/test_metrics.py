"""The metrics of a run: one row per iteration, whatever happened in between."""

from __future__ import annotations

import pytest

from robotrl.core.errors import RobotrlError
from robotrl.training.metrics import MetricsLogger, read_metrics


def test_metrics_gain_columns_and_forget_rows_after_the_checkpoint(tmp_path):
    path = tmp_path / "metrics.csv"
    logger = MetricsLogger(path, tmp_path / "tb")
    logger.log(10, 1.0, {"a": 1.0})
    logger.log(20, 2.0, {"a": 2.0, "b": 5.0})
    logger.log(30, 3.0, {"b": 7.0})
    logger.close()
    logger = MetricsLogger(path, tmp_path / "tb", resume_from=20)
    logger.log(25, 2.5, {"c": 9.0})
    logger.close()
    rows = read_metrics(path)
    assert [row["env_steps"] for row in rows] == [10, 20, 25]
    assert rows[0] == {"env_steps": 10, "wall_s": 1, "a": 1} and rows[2]["c"] == 9


def test_half_a_last_row_of_metrics_is_forgotten(tmp_path):
    path = tmp_path / "metrics.csv"
    logger = MetricsLogger(path, tmp_path / "tb")
    logger.log(10, 1.0, {"a": 1.0})
    logger.log(1000, 2.0, {"a": 2.0})
    logger.close()
    whole = path.read_bytes()
    for cut in (len(whole) - 2, whole.index(b"1000") + 2, whole.index(b"1000")):
        path.write_bytes(whole[:cut])
        assert [row["env_steps"] for row in read_metrics(path)] == [10]


@pytest.mark.parametrize(
    "content", [b"a,b\n1,2\n", b"env_steps,wall_s\n\0\0,1\n", b"env_steps\n\xff\n", b"env_steps\nx\n"]
)
def test_damaged_metrics_are_one_line(content, tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    with pytest.raises(RobotrlError, match=r"metrics.csv is damaged: "):
        read_metrics(path)
