"""Training end to end: kill -9 and resume, Ctrl-C, a full disk, run folders that are never shared."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from robotrl.compose import compose
from robotrl.core import checkpoint
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.training.evaluation import Evaluation, evaluate, evaluate_run
from robotrl.training.metrics import MetricsLogger, read_metrics
from robotrl.training.restore import load_policy_and_config
from robotrl.training.run_folder import RunFolder
from robotrl.training.train import make_loop, resume, train

TINY = {
    "ppo": ["algorithm=ppo", "num_envs=8", "algorithm.num_steps=16", "algorithm.minibatch_size=64"],
    "sac": ["algorithm=sac", "num_envs=4", "algorithm.learning_starts=500", "algorithm.batch_size=32"],
}
COMMON = [
    "task=cartpole_balance",
    "task.episode_length_s=0.5",
    "policy.hidden=[16]",
    "algorithm.hidden=[16]",
    "eval_episodes=2",
    "export=false",
    "torch_threads=1",
    "seed=3",
]


def overrides(algorithm: str, runs: Path, *more: str) -> list[str]:
    policy = {"ppo": "policy=gaussian", "sac": "policy=squashed_gaussian"}[algorithm]
    return [policy, *TINY[algorithm], *COMMON, f"runs_dir={runs}", *more]


def flat_tensors(path: Path) -> dict[str, torch.Tensor]:
    tensors = {}

    def walk(node, name):
        if isinstance(node, torch.Tensor):
            tensors[name] = node
        elif isinstance(node, (dict, list)):
            items = node.items() if isinstance(node, dict) else enumerate(node)
            for key, value in items:
                walk(value, f"{name}/{key}")

    walk(checkpoint.load(path), "")
    return tensors


def start(arguments: list[str], **kwargs) -> subprocess.Popen:
    command = [sys.executable, "-m", "robotrl", "train", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, **kwargs
    )


def wait_for_checkpoint(runs: Path, process: subprocess.Popen) -> RunFolder:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = sorted(runs.glob("*/*/*/checkpoints/step_*.safetensors"))
        if found:
            return RunFolder(found[0].parent.parent)
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint appeared: {process.communicate()}")


@pytest.mark.parametrize("algorithm", ["ppo", "sac"])
def test_kill_and_resume_equals_the_uninterrupted_run(algorithm, tmp_path):
    """Same bits in networks, optimisers, normalisers, replay, generators and simulator state."""
    steps = "total_steps=40000" if algorithm == "ppo" else "total_steps=12000"
    whole = RunFolder(train(compose(overrides(algorithm, tmp_path / "whole", steps)), show_progress=False))

    killed_runs = tmp_path / "killed"
    process = start(overrides(algorithm, killed_runs, steps, "checkpoint_every_s=0.05"))
    run = wait_for_checkpoint(killed_runs, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    killed_at = int(run.latest_checkpoint().stem.removeprefix("step_"))
    total = int(steps.split("=")[1])
    assert killed_at < total, "the run ended before it was killed: make it longer"

    resume(run.path, show_progress=False)
    expected, got = flat_tensors(whole.latest_checkpoint()), flat_tensors(run.latest_checkpoint())
    assert expected.keys() == got.keys() and len(expected) > 20
    different = [name for name in expected if not torch.equal(expected[name], got[name])]
    assert different == []
    steps_logged = [row["env_steps"] for row in read_metrics(run.metrics_file)]
    assert steps_logged == [row["env_steps"] for row in read_metrics(whole.metrics_file)]
    for a, b in zip(read_metrics(whole.metrics_file), read_metrics(run.metrics_file), strict=True):
        timeless = {name for name in a if not name.startswith("time/")} - {"wall_s"}
        assert {n: a[n] for n in timeless} == {n: b[n] for n in timeless}


def test_ctrl_c_ends_cleanly_with_a_checkpoint(tmp_path):
    process = start(overrides("ppo", tmp_path, "total_steps=100000000", "checkpoint_every_s=0.05"))
    run = wait_for_checkpoint(tmp_path, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"robotrl train --resume {run.path}" in " ".join(errors.split())
    assert "Traceback" not in errors
    policy, _ = load_policy_and_config(run.path)
    assert all(torch.isfinite(p).all() for p in policy.parameters())
    steps = int(run.latest_checkpoint().stem.removeprefix("step_"))
    assert read_metrics(run.metrics_file)[-1]["env_steps"] == steps


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path):
    """A real limit on the file size, met by the checkpoint's writer."""
    process = start(
        overrides("sac", tmp_path, "total_steps=12000", "checkpoint_every_s=0.3"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000)),
    )
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    message = [line for line in errors.splitlines() if line.startswith("robotrl: error:")]
    assert len(message) == 1 and "cannot write checkpoint" in message[0], errors
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def test_runs_never_share_a_folder(tmp_path):
    config = compose(overrides("ppo", tmp_path))
    runs = [RunFolder.create(config).path for _ in range(3)]
    assert len(set(runs)) == 3


def test_resume_refuses_what_is_not_a_run(tmp_path):
    with pytest.raises(UsageError, match="does not exist"):
        resume(tmp_path / "nothing")
    with pytest.raises(UsageError, match="not a run folder"):
        resume(tmp_path)
    run = RunFolder.create(compose(overrides("ppo", tmp_path)))
    with pytest.raises(RobotrlError, match="no checkpoint yet"):
        resume(run.path)
    (run.path / "checkpoints" / "step_000000000128.safetensors").write_bytes(b"not a checkpoint at all")
    with pytest.raises(RobotrlError, match="is damaged"):
        resume(run.path)
    checkpoint.save(run.path / "checkpoints" / "step_000000000128.safetensors", {"algorithm": {"policy": {}}})
    with pytest.raises(RobotrlError, match="does not fit"):
        load_policy_and_config(run.path)
    with pytest.raises(RobotrlError, match="does not fit"):
        resume(run.path)


def test_evaluation_counts_one_episode_per_environment_and_repeats_exactly(tmp_path):
    path = train(compose(overrides("ppo", tmp_path, "total_steps=256")), show_progress=False)
    first = evaluate_run(path, episodes=7, seed=5)
    rows = (path / "evaluation" / "episodes.csv").read_text().splitlines()
    assert len(rows) == 8 and rows[0] == "episode,return,length,terminated,valid"
    returns = [float(row.split(",")[1]) for row in rows[1:]]
    assert first["mean"] == pytest.approx(np.mean(returns))
    assert first["ci_low"] <= first["mean"] <= first["ci_high"]
    again = evaluate_run(path, episodes=7, seed=5)
    assert again == first
    assert evaluate_run(path, episodes=7, seed=6)["mean"] != first["mean"]
    assert json.loads((path / "evaluation" / "summary.json").read_text())["seed"] == 6


def test_the_loop_does_not_depend_on_physics_threads():
    finals = []
    for threads in (1, 2):
        config = compose([*TINY["sac"], *COMMON, f"sim_threads={threads}", "policy=squashed_gaussian"])
        loop = make_loop(config)
        for _ in range(2):
            loop.iterate()
        finals.append(loop.algorithm.policy.net.flat.detach().clone())
    assert torch.equal(*finals)


def test_bootstrap_interval_of_a_constant_is_the_constant_and_failures_are_left_out():
    valid = np.array([True, True, False])
    result = Evaluation(np.array([5.0, 5.0, 1e9]), np.ones(3), np.zeros(3, bool), valid)
    assert result.mean == 5.0 and result.interval() == (5.0, 5.0)


def test_bootstrap_interval_covers_the_mean_of_a_normal_sample():
    draws = np.random.default_rng(1).normal(10.0, 2.0, size=400)
    result = Evaluation(draws, np.ones(400), np.zeros(400, bool), np.ones(400, bool))
    low, high = result.interval()
    half = 1.96 * draws.std() / 20
    assert low == pytest.approx(draws.mean() - half, abs=0.05)
    assert high == pytest.approx(draws.mean() + half, abs=0.05)


def test_evaluate_stops_counting_after_the_first_episode():
    """A policy evaluated on episodes of 25 steps: every length is 25, whatever the order of the resets."""
    config = compose(overrides("ppo", Path("unused")))
    loop = make_loop(config)
    result = evaluate(loop.algorithm.policy, config.task, 5, seed=0)
    assert (result.lengths == 50).all() and result.valid.all() and not result.terminated.any()
    assert ((result.returns > 0) & (result.returns <= 50)).all()


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
