"""Training end to end: kill -9 and resume, Ctrl-C, a full disk, run folders that are never shared."""

from __future__ import annotations

import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_runs import PENDULUM, overrides

from robotrl.compose import compose
from robotrl.core import checkpoint
from robotrl.core.catalog import available
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import Source
from robotrl.envs.env import specs_of
from robotrl.export.bundle import check_exportable
from robotrl.tasks.control_suite.cartpole import Cartpole
from robotrl.training import train as train_module
from robotrl.training.evaluation import evaluate
from robotrl.training.lock import LOCK_FILE
from robotrl.training.metrics import read_metrics
from robotrl.training.report import write_report
from robotrl.training.restore import load_policy_and_config, load_trained, make_policy
from robotrl.training.run_folder import RunFolder
from robotrl.training.train import LOOPS, InterruptedRunError, make_loop, resume, train

ONLY_SIMULATED = (
    r"policy/contact_force/torso.* in simulation only.* export=false, .*allow_simulation_only=true"
)


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


# kills itself at the n-th control step: in the middle of an iteration, wherever the machine is slow
DYING = """
import os, signal, sys
from robotrl.cli import main
from robotrl.envs.vec_env import VecEnv

step, steps_left = VecEnv.step, int(sys.argv[1])

def step_or_die(self, action):
    global steps_left
    steps_left -= 1
    if steps_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, action)

VecEnv.step = step_or_die
sys.exit(main(["train", *sys.argv[2:]]))
"""


# set in the process itself: to set it before would take a fork, which Linux refuses to a large test process
ON_A_SMALL_DISK = """
import resource, sys
from robotrl.cli import main

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), int(sys.argv[1])))
sys.exit(main(["train", *sys.argv[2:]]))
"""


def start(arguments: list[str], program: tuple[str, ...] = ("-m", "robotrl", "train"), **kwargs):
    return subprocess.Popen(
        [sys.executable, *program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        **kwargs,
    )


@pytest.mark.parametrize("algorithm", ["sac", "stream_ac"])
def test_a_short_training_takes_no_more_steps_than_it_was_asked_for(algorithm, tmp_path):
    run = RunFolder(train(compose(overrides(algorithm, tmp_path, "total_steps=2302")), show_progress=False))
    logged = {row["env_steps"] for row in read_metrics(run.metrics_file)}
    assert logged == {2000, 2304}  # whole steps of 4 environments
    assert load_trained(run.path).log_step == 2304


# of these, PPO also evaluates on the way
@pytest.mark.parametrize(
    ("algorithm", "total", "every", "dies_at", "checkpoint_at"),
    [
        ("ppo", 4096, 1000, 300, 1920),
        ("sac", 6000, 0, 750, 2000),
        ("stream_ac", 6000, 0, 763, 2000),
        ("stream_sac", 6000, 0, 763, 2000),
        ("stream_dac", 6000, 0, 763, 2000),
    ],
    ids=["ppo", "sac", "stream_ac", "stream_sac", "stream_dac"],
)
def test_kill_and_resume_equals_the_uninterrupted_run(
    algorithm, total, every, dies_at, checkpoint_at, tmp_path
):
    """Same bits in networks, optimisers, normalisers, replay, generators and simulator state."""
    # 37 control steps: the checkpoint falls into the middle of an episode
    options = [f"total_steps={total}", f"eval_every={every}", "task.episode_length_s=0.37"]
    whole = RunFolder(train(compose(overrides(algorithm, tmp_path / "whole", *options)), show_progress=False))

    words = overrides(algorithm, tmp_path / "killed", *options, "checkpoint_every_s=1e-6")
    process = start(words, ("-c", DYING, str(dies_at)))
    assert process.communicate(timeout=120)[0] == "" and process.returncode == -signal.SIGKILL
    run = RunFolder(next((tmp_path / "killed").rglob("config.yaml")).parent)
    assert load_trained(run.path).log_step == checkpoint_at
    assert (run.path / LOCK_FILE).is_file()

    stale = run.path / "checkpoints" / ".step_000000000999.safetensors.77.tmp"
    stale.write_bytes(b"half a checkpoint")
    resume(run.path, show_progress=False)
    assert not stale.exists() and not (run.path / LOCK_FILE).exists()
    expected, got = flat_tensors(whole.latest_checkpoint()), flat_tensors(run.latest_checkpoint())
    assert expected.keys() == got.keys() and len(expected) > 20
    different = [name for name in expected if not torch.equal(expected[name], got[name])]
    assert different == []
    steps_logged = [row["env_steps"] for row in read_metrics(run.metrics_file)]
    assert steps_logged == [row["env_steps"] for row in read_metrics(whole.metrics_file)]
    for a, b in zip(read_metrics(whole.metrics_file), read_metrics(run.metrics_file), strict=True):
        timeless = {name for name in a if not name.startswith("time/")} - {"wall_s"}
        assert {n: a[n] for n in timeless} == {n: b[n] for n in timeless}


def wait_for_checkpoint(runs: Path, process: subprocess.Popen) -> RunFolder:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        found = sorted(runs.glob("*/*/*/checkpoints/step_*.safetensors"))
        if found:
            return RunFolder(found[0].parent.parent)
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint appeared: {process.communicate()}")


def test_a_run_has_one_writer_and_ctrl_c_ends_it_cleanly_with_a_checkpoint(tmp_path):
    words = overrides("ppo", Path("runs"), "total_steps=100000000", "checkpoint_every_s=0.05")
    process = start(words, cwd=tmp_path)
    run = wait_for_checkpoint(tmp_path / "runs", process)
    with pytest.raises(UsageError, match=f"is being trained by process {process.pid} on "):
        resume(run.path, show_progress=False)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.strip().endswith(f"robotrl train --resume {run.path.relative_to(tmp_path)}")
    assert "Traceback" not in errors
    policy, _ = load_policy_and_config(run.path)
    assert all(torch.isfinite(p).all() for p in policy.parameters())
    assert read_metrics(run.metrics_file)[-1]["env_steps"] == load_trained(run.path).log_step


def interrupted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Do what `function` does, with Ctrl-C pressed meanwhile."""

    def pressed(*args: Any, **kwargs: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return function(*args, **kwargs)

    return pressed


def test_ctrl_c_after_the_training_interrupts_at_once_and_resume_evaluates(tmp_path, monkeypatch, request):
    # as in a terminal: a shell's background jobs, CI's perhaps, start with SIGINT ignored
    before_test = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before_test))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_module, "evaluate", interrupted(evaluate))
        train(compose(overrides("ppo", tmp_path, "total_steps=256")), show_progress=False)
    (config_file,) = tmp_path.rglob("config.yaml")
    run = RunFolder(config_file.parent)
    before = run.latest_checkpoint().read_bytes()
    assert not run.evaluation.exists()

    resume(run.path, show_progress=False)
    assert json.loads((run.evaluation / "summary.json").read_text())["env_steps"] == 256
    assert "eval/return" in read_metrics(run.metrics_file)[-1]
    assert (run.path / "report.html").is_file() and run.latest_checkpoint().read_bytes() == before
    files = {path: path.stat().st_mtime_ns for path in run.path.rglob("*")}
    with pytest.raises(UsageError, match=r"is complete \(256 of 256 steps\)"):
        resume(run.path, show_progress=False)
    assert {path: path.stat().st_mtime_ns for path in run.path.rglob("*")} == files


@pytest.mark.parametrize("function", ["export_policy", "verify_bundle", "write_report"])
def test_a_run_killed_after_its_evaluation_is_completed(function, tmp_path, monkeypatch):
    def killed(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    words = [*PENDULUM, f"runs_dir={tmp_path}"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(train_module, function, killed)
        train(compose(words), show_progress=False)
    run = RunFolder(next(tmp_path.rglob("config.yaml")).parent)
    assert run.evaluation.is_dir() and not run.report.exists()
    write_report(run.path)  # somebody looks at what is there
    before = len(read_metrics(run.metrics_file))
    if function != "write_report":
        assert not run.is_verified
        resume(run.path, show_progress=False)
    assert run.is_verified and run.report.is_file()
    rows = read_metrics(run.metrics_file)
    assert len(rows) == before and sum("eval/return" in row for row in rows) == 1
    with pytest.raises(UsageError, match="is complete"):
        resume(run.path, show_progress=False)


@pytest.mark.parametrize("algorithm", ["ppo", "sb3_ppo"])
def test_ctrl_c_recommends_only_what_can_be_done(algorithm, tmp_path, monkeypatch):
    if algorithm == "ppo":
        options = overrides("ppo", tmp_path)
    else:
        pytest.importorskip("stable_baselines3")
        options = [
            "task=cartpole_balance",
            "algorithm=sb3_ppo",
            "algorithm.n_steps=64",
            f"runs_dir={tmp_path}",
        ]
    config = compose([*options, "total_steps=100000"])
    loop = LOOPS[config.algorithm_class.loop]
    monkeypatch.setattr(loop, "iterate", interrupted(loop.iterate))
    with pytest.raises(InterruptedRunError) as caught:
        train(config, show_progress=False)
    run = next(tmp_path.rglob("config.yaml")).parent
    go_on = f"go on with: robotrl train --resume {run}"
    stop = f"Sb3PPO cannot be resumed; score what it has learned with: robotrl evaluate {run}"
    assert str(caught.value).endswith(go_on if algorithm == "ppo" else stop)
    assert RunFolder(run).latest_checkpoint().is_file()


@dataclass
class NanAtSpeed(Cartpole):
    """Rewards or observes NaN once the cart moves."""

    what: str = "reward"

    def observe(self, sim):
        values = super().observe(sim)
        if self.what == "observation":
            values["policy"]["cart_velocity"] = values["policy"]["cart_velocity"] + self.nan(sim)[:, 0]
        return values

    def reward_terms(self, sim, action):
        nan = self.nan(sim)[:, 0] if self.what == "reward" else 0.0
        return {name: values + nan for name, values in super().reward_terms(sim, action).items()}

    def nan(self, sim):
        return torch.where(sim.data("qvel")[:, :1].abs() > 0.5, math.nan, 0.0)


@pytest.mark.parametrize(
    ("algorithm", "what"),
    [*itertools.product(["ppo", "sac"], ["reward", "observation", "learning rate"]), ("stream_ac", "reward")],
)
def test_learning_that_diverges_says_so_and_keeps_its_last_good_checkpoint(algorithm, what, tmp_path):
    options = overrides(algorithm, tmp_path, "total_steps=20000", "checkpoint_every_s=1e-6")
    if what == "learning rate":
        options += ["algorithm.learning_rate=1e38"] + ["algorithm.schedule=constant"] * (algorithm == "ppo")
    else:
        options += [f"task._target_={__name__}.NanAtSpeed", f"task.what={what}"]
    with pytest.raises(RobotrlError, match=r"^learning diverged at \d+ steps: .*checkpoint") as caught:
        train(compose(options), show_progress=False)
    assert caught.value.exit_code == 1 and "\n" not in str(caught.value)
    run = RunFolder(next(tmp_path.rglob("config.yaml")).parent)
    for path in run.checkpoints():
        assert str(caught.value).endswith(f"last checkpoint {run.latest_checkpoint()}")
        assert all(values.isfinite().all() for values in flat_tensors(path).values())


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(tmp_path):
    """A real limit on the file size, met by the checkpoint's writer."""
    words = overrides("sac", tmp_path, "total_steps=12000", "checkpoint_every_s=1e-6")
    process = start(words, ("-c", ON_A_SMALL_DISK, "60000"))
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    message = [line for line in errors.splitlines() if line.startswith("robotrl: error:")]
    assert len(message) == 1 and "cannot write checkpoint" in message[0], errors
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".tmp")]


def test_runs_never_share_a_folder(tmp_path):
    config = compose(overrides("ppo", tmp_path))
    runs = [RunFolder.create(config).path for _ in range(3)]
    assert len(set(runs)) == 3


def test_a_folder_that_cannot_be_filled_is_removed(tmp_path):
    config = compose(overrides("ppo", tmp_path))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            RunFolder.create(config)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path for path in tmp_path.rglob("*") if path.name.endswith("_s3") or path.is_file()] == []


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
    (run.path / "checkpoints" / "step_000000000064.safetensors").write_bytes(b"an older one")
    with pytest.raises(
        RobotrlError, match=r"128.safetensors is damaged.*; move it away to go on from step_0+64"
    ):
        resume(run.path)
    checkpoint.save(run.path / "checkpoints" / "step_000000000128.safetensors", {"algorithm": {"policy": {}}})
    with pytest.raises(RobotrlError, match="does not fit"):
        load_policy_and_config(run.path)
    with pytest.raises(RobotrlError, match="does not fit"):
        resume(run.path)


def test_the_loop_does_not_depend_on_physics_threads():
    finals = []
    for threads in (1, 2):
        config = compose(overrides("sac", Path("unused"), f"sim_threads={threads}"))
        loop = make_loop(config)
        for _ in range(2):
            loop.iterate()
        finals.append(loop.algorithm.policy.net.flat.detach().clone())
    assert torch.equal(*finals)


def test_ant_is_refused_before_anything_is_made(tmp_path):
    options = ["task=Ant-v5", "algorithm=ppo", "num_envs=2", f"runs_dir={tmp_path}"]
    with pytest.raises(UsageError, match=ONLY_SIMULATED):
        train(compose(options), show_progress=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", available("task"))
def test_every_shipped_task_can_be_exported_or_is_refused_early(task):
    config = compose([f"task={task}", "algorithm=ppo"])
    policy = make_policy(config, specs_of(config.task), torch.Generator())
    hidden = [term.name for term in policy.specs.observation["policy"] if term.source is Source.SIMULATION]
    if hidden:
        with pytest.raises(UsageError, match=rf"policy/{hidden[0]}.* in simulation only.* export=false"):
            check_exportable(policy, config.task)
    check_exportable(policy, config.task, allow_simulation_only=bool(hidden))


@pytest.mark.parametrize(
    ("algorithm", "more", "message"),
    [
        ("ppo", ["total_steps=0"], "set total_steps above 0, got 0"),
        ("stream_ac", ["total_steps=0"], "set total_steps above 0, got 0"),
        ("sac", ["total_steps=500"], "nothing would be learned from total_steps=500 in"),
        ("sac", ["total_steps=516", "algorithm.learning_starts=513"], "nothing would be learned from"),
        ("sac", ["algorithm.replay_ratio=1e-9"], "nothing would be learned from"),
        ("sac", ["algorithm.policy_delay=1000000"], "updates are below algorithm.policy_delay=1000000"),
    ],
)
def test_a_training_that_would_learn_nothing_is_refused(algorithm, more, message, tmp_path):
    with pytest.raises(UsageError, match=message):
        train(compose(overrides(algorithm, tmp_path, *more)), show_progress=False)
