"""From `robotrl train task=LIBRARY:ID` to a verified bundle, and what is not offered there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from counter_env import NativeCounters

import robotrl
from robotrl.cli import main
from robotrl.compose import compose
from robotrl.core import checkpoint
from robotrl.deploy.bundle import Bundle
from robotrl.training.off_policy import OffPolicyLoop
from robotrl.training.streaming import StreamingLoop
from robotrl.training.train import make_loop

# a second thread would only wait for the first
TINY = ["torch_threads=1", "sim_threads=1"]
TINY += ["num_envs=4", "total_steps=256", "eval_episodes=2", "algorithm.hidden=[8]", "policy.hidden=[8]"]
PPO = ["algorithm=ppo", "algorithm.num_steps=16", "algorithm.minibatch_size=32", *TINY]
SAC = ["algorithm=sac", "algorithm.learning_starts=64", "algorithm.batch_size=16", *TINY]
PENDULUM = ["task=gymnasium:Pendulum-v1", "task.max_episode_steps=20", "task.vectorization=sync"]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test runs in an empty folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def native() -> Iterator[str]:
    """An environment that resets in calls of their own, with the id it is registered under."""
    gymnasium.register("RobotrlNative-v0", vector_entry_point=NativeCounters)
    yield "RobotrlNative-v0"
    del gymnasium.registry["RobotrlNative-v0"]


def train(*words: str) -> Path:
    """Train through the command line; return the run folder."""
    assert main(["train", *words]) == 0
    newest = max(Path("runs").rglob("config.yaml"), key=lambda path: path.stat().st_mtime_ns)
    return newest.parent


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.fixture(scope="module")
def pendulum(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run."""
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", *PENDULUM, *PPO, f"runs_dir={folder}"]) == 0
    (config,) = folder.rglob("config.yaml")
    return config.parent


def test_a_run_of_another_library_is_whole(pendulum: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pendulum.parent.parent.name == "gymnasium_Pendulum-v1"
    assert (pendulum / "report.html").is_file()
    rows = (pendulum / "metrics.csv").read_text().splitlines()
    assert "episode/return" in rows[0] and "episode/length" in rows[0]
    assert main(["evaluate", str(pendulum), "--episodes", "3"]) == 0
    episodes = (pendulum / "evaluation" / "episodes.csv").read_text().splitlines()[1:]
    assert [line.split(",")[2:] for line in episodes] == [["20", "False", "True"]] * 3
    assert main(["report", str(pendulum)]) == 0
    assert main(["export", str(pendulum), "--out", "out"]) == 0
    assert Bundle.load(Path("out"))([0.1, 0.2, 0.3]).shape == (1,)
    policy = robotrl.load_policy(pendulum)
    env = robotrl.make_env("gymnasium:Pendulum-v1", 5)
    assert policy.act(env.reset(), deterministic=True).shape == (5, 1)


def test_its_bundle_says_what_is_not_known(pendulum: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contract = json.loads((pendulum / "bundle" / "contract.json").read_text())
    assert [contract[key] for key in ("mujoco_version", "model_sha256", "physics_dt_s")] == [None] * 3
    assert contract["control_hz"] == 20.0
    assert contract["task"]["options"]["id"] == "Pendulum-v1"
    assert [(one["low"], one["high"]) for one in contract["outputs"]] == [(-2.0, 2.0)]
    capsys.readouterr()
    assert main(["verify", str(pendulum / "bundle")]) == 0
    table = capsys.readouterr().out
    assert "gymnasium_Pendulum-v1: 20 Hz, all terms as in the contract" in table
    assert "replay" not in table
    closed = re.search(r"closed loop .*", table)
    assert closed and "20 control steps" in closed[0] and "against the training policy" in closed[0]
    assert "in a fresh episode, as it cannot be put into a recorded state" in closed[0]


def test_a_damaged_network_does_not_pass(pendulum: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The closed loop compares with the training policy, here one that was trained further."""
    state = checkpoint.load(max((pendulum / "checkpoints").iterdir()))
    from robotrl.export.verify import verify_bundle

    policy = robotrl.load_policy(pendulum)
    for name, value in state["algorithm"]["policy"].items():
        if "normalizer" not in name:
            policy.state_dict()[name].copy_(value + 0.5)
    failed = [check.name for check in verify_bundle(pendulum / "bundle", policy) if not check.passed]
    assert failed == ["closed loop"]


@pytest.mark.parametrize(
    "command", ["play {0}", "play {0}/bundle", "play {0} --video a.mp4", "evaluate {0} --video"]
)
def test_it_is_not_shown(pendulum: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command.format(pendulum).split()) == 2
    assert error_line(capsys) == (
        "robotrl: error: only robotrl's own tasks can be shown or recorded, not gymnasium:Pendulum-v1"
    )


def test_a_video_is_refused_before_the_training(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *PENDULUM, *PPO, "video=true"]) == 2
    assert "only robotrl's own tasks can be shown" in error_line(capsys)
    assert not Path("runs").exists()


def test_resuming_says_that_episodes_start_anew(capsys: pytest.CaptureFixture[str]) -> None:
    run = train(*PENDULUM, *SAC, "export=false")
    assert "start anew" not in capsys.readouterr().err
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text.replace("total_steps: 256", "total_steps: 4000"))
    before = checkpoint.load(max((run / "checkpoints").iterdir()))
    assert main(["train", "--resume", str(run)]) == 0
    # rich folds the line at the width of the terminal
    warning = " ".join(capsys.readouterr().err.split())
    assert (
        "robotrl: warning: gymnasium:Pendulum-v1 cannot be saved: learning goes on, its episodes start anew"
    ) in warning
    after = checkpoint.load(max((run / "checkpoints").iterdir()))
    assert after["env_steps"] >= 4000 > before["env_steps"]
    assert after["buffer"]["num_added"] == after["env_steps"], "replay went on"


def test_no_window_of_replay_goes_on_into_the_episodes_that_start_anew() -> None:
    def loop() -> OffPolicyLoop:
        made = make_loop(compose([*PENDULUM, *SAC]))
        assert isinstance(made, OffPolicyLoop)
        return made

    def step(loop: OffPolicyLoop) -> None:
        action = torch.zeros(4, 1)
        loop.buffer.add(loop.obs, action, loop.env.step(action))

    stopped, resumed = loop(), loop()
    step(stopped)
    step(stopped)
    resumed.load_state_dict(stopped.state_dict())
    step(resumed)
    batch = resumed.buffer.sample(200, torch.Generator().manual_seed(0), horizon=3)
    assert set(batch.mask.sum(1).tolist()) == {1.0, 2.0}


def test_a_stream_learns_no_step_into_the_episodes_that_start_anew() -> None:
    def loop() -> StreamingLoop:
        made = make_loop(compose([*PENDULUM, "algorithm=stream_ac", "num_envs=4"]))
        assert isinstance(made, StreamingLoop)
        return made

    stopped, resumed = loop(), loop()
    stopped.iterate()
    stopped.returns._running += 1.0
    resumed.load_state_dict(stopped.state_dict())
    assert torch.equal(resumed.returns._running, torch.zeros(4, dtype=torch.float64))
    begun = stopped.algorithm.learner
    assert begun is not None and resumed.algorithm.learner is not None
    begun.start(resumed.obs["policy"].numpy())
    for name, array in resumed.algorithm.learner.state_dict().items():
        np.testing.assert_array_equal(array, begun.state_dict()[name], err_msg=name)


def test_the_same_seed_gives_the_same_policy() -> None:
    runs = [train(*PENDULUM, *PPO, "export=false", f"seed={seed}") for seed in (1, 1, 2)]
    one, same, other = (
        torch.cat([value.flatten().double() for value in robotrl.load_policy(run).state_dict().values()])
        for run in runs
    )
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("algorithm", [PPO, [*SAC, "export=false"]], ids=["ppo", "sac"])
def test_environments_that_reset_in_calls_of_their_own(native: str, algorithm: list[str]) -> None:
    run = train(f"task=gymnasium:{native}", *algorithm)
    rows = (run / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("episode/length")
    lengths = [float(row.split(",")[column]) for row in rows[1:] if row.split(",")[column]]
    assert lengths and all(2 <= length <= 5 for length in lengths)
    if algorithm is not PPO:
        size = checkpoint.load(max((run / "checkpoints").iterdir()))["buffer"]["num_added"]
        steps = checkpoint.load(max((run / "checkpoints").iterdir()))["env_steps"]
        assert 0.5 * steps < size < 0.9 * steps, "calls that only reset are not in replay"


def test_stable_baselines3_learns_from_no_such_call(native: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("stable_baselines3")
    run = train(*PENDULUM, "algorithm=sb3_ppo", "algorithm.n_steps=32", *TINY[:4], "export=false")
    rows = (run / "evaluation" / "episodes.csv").read_text().splitlines()
    assert len(rows) == 1 + 32
    capsys.readouterr()
    assert main(["train", f"task=gymnasium:{native}", "algorithm=sb3_ppo"]) == 2
    assert "which Stable-Baselines3 would learn from: train with ppo or sac" in error_line(capsys)


def test_a_factory_in_the_current_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = (Path(__file__).parent / "my_dm_env.py").read_text()
    (tmp_path / "counting_here.py").write_text(source)
    run = train("task=dm_env:counting_here:make_env", "task.kwargs.length=4", *PPO)
    contract = json.loads((run / "bundle" / "contract.json").read_text())
    assert contract["control_hz"] is None and contract["control_dt_s"] is None
    capsys.readouterr()
    assert main(["verify", str(run / "bundle")]) == 0
    assert "an unknown control rate" in capsys.readouterr().out
    assert "control rate unknown" in (run / "report.html").read_text()


def test_list_tells_how_they_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "tasks"]) == 0
    table = capsys.readouterr().out
    for library in ("gymnasium", "dm_env", "envpool", "gymnasium_robotics", "metaworld"):
        assert f"{library}:ID" in table
    assert main(["list", "algorithms"]) == 0
    assert ":ID" not in capsys.readouterr().out
