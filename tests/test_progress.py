"""What is shown of a training: a bar, or lines where there is no terminal."""

from __future__ import annotations

from pathlib import Path

from tiny_runs import overrides

from robotrl.compose import compose
from robotrl.training.progress import Progress
from robotrl.training.train import make_loop


def test_progress_of_a_resumed_run_starts_where_it_was():
    config = compose(overrides("ppo", Path("unused"), "total_steps=1000"))
    loop = make_loop(config)
    loop.env_steps = 640
    (task,) = Progress(config, enabled=False, loop=loop)._bar.tasks
    assert (task.completed, task.total) == (640, 1000)


def test_progress_without_a_terminal_is_a_line_now_and_then(capsys):
    loop = make_loop(compose(overrides("ppo", Path("unused"), "total_steps=1000")))
    config = compose(overrides("ppo", Path("unused"), "total_steps=1000"))
    with Progress(config, enabled=True, loop=loop, line_every_s=0.0) as progress:
        metrics = {"time/env_steps_per_s": 2340.0, "episode/return": 1.25, "episode/success": 0.5}
        progress.update(250, metrics)
        progress.stage("evaluating")
    first, second = capsys.readouterr().err.splitlines()
    figures = "25% · 250/1k · 2.34k steps/s · return 1.2 · success 50% · 0:00:00"
    assert first.startswith(f"cartpole_balance · ppo: {figures}")
    assert second == "cartpole_balance · ppo: evaluating"

    with Progress(config, enabled=True, loop=loop) as progress:
        progress.warn("no video: [/a] [libx264] " + "x" * 100)
        assert capsys.readouterr().err == "robotrl: warning: no video: [/a] [libx264] " + "x" * 100 + "\n"
        progress.update(250, metrics)
        assert capsys.readouterr().err == ""  # not every iteration
        progress.update(1000, metrics)
    assert "100% · 1k/1k" in capsys.readouterr().err
