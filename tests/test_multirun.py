"""`robotrl train --multirun`: every combination, checked first, told apart afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_runs import PENDULUM

from robotrl.cli import main
from robotrl.core.config import from_yaml


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty folder, so that no run lands in the repository."""
    monkeypatch.chdir(tmp_path)


def test_multirun_checks_origins_first_and_shows_what_was_trained(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [
        "train",
        "task=cartpole_balance",
        "task.episode_length_s=0.2",
        "algorithm=stream_ac",
        "--multirun",
    ]
    words += ["eval_episodes=1", "export=false"]
    assert main([*words, "total_steps=20", "algorithm.init_from=null,nowhere"]) == 2
    captured = capsys.readouterr()
    assert "error: algorithm.init_from=nowhere: run folder nowhere does not exist" in captured.err
    assert "run folder:" not in captured.out
    assert main([*words, "total_steps=20,0"]) == 2
    captured = capsys.readouterr()
    assert (
        "error: total_steps=0: nothing would be learned: set" in captured.err
        and captured.out.count("run folder:") == 1
    )


def test_multirun_trains_every_combination(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *PENDULUM, "export=false", "seed=3,4", "--multirun"]) == 0
    out = capsys.readouterr().out
    assert "varied" not in out  # the seeds have a column of their own
    lines = [line for line in out.splitlines() if line.startswith("run folder: ")]
    folders = [line.split()[2] for line in lines]
    configs = [from_yaml(Path(folder) / "config.yaml") for folder in folders]
    assert [config.seed for config in configs] == [3, 4]


def test_multirun_tells_what_was_varied(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["task=cartpole_balance", "task.episode_length_s=0.2", "algorithm=stream_ac,stream_sac"]
    words += ["total_steps=20", "eval_episodes=1", "export=false", "algorithm.gamma=0.9,0.95", "-m"]
    assert main(["train", *words]) == 0
    rows = [line for line in capsys.readouterr().out.splitlines() if "cartpole_balance │" in line]
    cells = [[cell.strip() for cell in row.split("│")] for row in rows]
    assert [(row[2], row[-2]) for row in cells] == [
        ("stream_ac", "algorithm.gamma=0.9"),
        ("stream_ac", "algorithm.gamma=0.95"),
        ("stream_sac", "algorithm.gamma=0.9"),
        ("stream_sac", "algorithm.gamma=0.95"),
    ]
