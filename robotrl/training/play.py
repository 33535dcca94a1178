"""Watch a trained controller or a recorded failure: in a window, in the browser, or as a video."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robotrl.core.config import learner_seed
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import Obs
from robotrl.deploy.bundle import Bundle
from robotrl.deploy.contract import CONTRACT_FILE
from robotrl.export.description import input_terms, output_terms, rebuild_task
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.rendering import has_screen
from robotrl.tasks.task import Task
from robotrl.training.controller import Controller, deterministic
from robotrl.training.failures import FailureRecording
from robotrl.training.log_playback import LogPlayback
from robotrl.training.playback import Playback, own_task
from robotrl.training.replay import Recorded, Replay, record_replay
from robotrl.training.restore import load_policy_and_config
from robotrl.training.video import check_video_path, chosen_grid, record_video
from robotrl.training.web_viewer import WebViewer

_SLOW_FPS = 20.0
LOG_SUFFIX = ".mcap"
"""Of a deployment's log."""


def play(
    path: Path,
    video: Path | None = None,
    seed: int = 0,
    port: int = 8000,
    announce: Callable[[str], None] = print,
    video_grid: str | None = None,
    bundle: Path | None = None,
) -> None:
    """Show the controller of a run or a bundle, or what was recorded, until the user stops it.

    In a window where there is a screen, else in the browser on 127.0.0.1.

    Args:
        path: a run folder, a bundle, a failure recording of a run, or the log of a deployment.
        video: write the first episode, or the recorded states, to this new MP4 file instead.
        seed: of the initial states, and of the noise that a policy may decide from.
        port: of the browser's viewer.
        announce: told what to open, or what was written.
        video_grid: "ROWSxCOLUMNS", how many simulations the video shows; None for one.
        bundle: that was deployed, of a log.

    Raises:
        UsageError: `path` is none of these, a log comes without its bundle, `video` exists, or the port is
            taken.
        RobotrlError: the run, bundle or recording is damaged, or nothing can be drawn.
    """
    grid = chosen_grid(video_grid, video is not None)
    if video is not None:
        check_video_path(video)
        if video.exists():
            raise UsageError(f"{video} exists: give another name or remove it")
    path = Path(path)
    if path.is_file() or path.suffix == LOG_SUFFIX:
        if video_grid is not None:
            raise UsageError(f"{path} is a recording of one simulation: leave out --video-grid")
        _play_recording(_recorded(path, bundle, announce), video, port, announce)
        return
    if bundle is not None:
        raise UsageError("--bundle goes with the log of a deployment (FILE.mcap) only")
    controller, task, task_name = load_controller(path, seed)
    if video is not None:
        record_video(controller, task, video, seed=seed, grid=grid, task_name=task_name)
        announce(f"wrote {video}")
        return
    _show(Playback(controller, task, task_name, seed), port, announce)


def _recorded(path: Path, bundle: Path | None, announce: Callable[[str], None]) -> Recorded:
    """Read what was recorded, and tell what it is."""
    if path.suffix == LOG_SUFFIX:
        if bundle is None:
            raise UsageError(f"{path} is the log of a deployment: also give its bundle (--bundle BUNDLE)")
        return LogPlayback(path, bundle)
    recording = FailureRecording.load(path)
    name, causes = recording.task["name"], ", ".join(recording.causes)
    announce(
        f"simulation {recording.simulation} of {name} failed at {recording.env_steps:,} steps: {causes}; "
        f"its last {len(recording.states)} control steps"
    )
    return Replay(recording)


def _play_recording(replay: Recorded, video: Path | None, port: int, announce: Callable[[str], None]) -> None:
    if video is None:
        _show(replay, port, announce)
        return
    # a failure is looked at in slow motion, a log as it was
    record_replay(replay, video, fps=_SLOW_FPS if isinstance(replay, Replay) else 1.0 / replay.dt_s)
    announce(f"wrote {video}")


def _show(playback: Playback | Recorded, port: int, announce: Callable[[str], None]) -> None:
    try:
        # MuJoCo's own viewer shows one model
        if _can_open_window() and len(playback.env.sim.models) == 1:
            announce("close the window to end")
            show_in_window(playback)
        else:
            show_in_browser(playback, port, announce)
    except KeyboardInterrupt:
        announce("stopped")


def load_controller(path: Path, seed: int = 0) -> tuple[Controller, Task, str]:
    """Return the controller of a run or a bundle, its task and the task's name.

    Args:
        path: the folder.
        seed: of the noise that it may decide from.

    Raises:
        UsageError: `path` is neither a run folder nor a bundle, or its environment is another library's.
        RobotrlError: it is damaged.
    """
    if (path / "config.yaml").is_file():
        policy, config = load_policy_and_config(path)
        return deterministic(policy, seed), own_task(config.task), config.task_name
    if (path / CONTRACT_FILE).is_file():
        bundle = Bundle.load(path)
        task = own_task(rebuild_task(bundle.contract.task))
        return bundle_controller(bundle, task, seed), task, str(bundle.contract.task["name"])
    what = "has neither config.yaml nor contract.json" if path.exists() else "does not exist"
    raise UsageError(f"{path} {what}: give the folder of a run or of a bundle, or a failure recording")


def bundle_controller(bundle: Bundle, task: Task, seed: int = 0) -> Controller:
    """Feed a bundle with raw observations and map its commands back to [-1, 1].

    Args:
        bundle: decides.
        task: what it was made for.
        seed: of the noise that it may decide from.

    Raises:
        RobotrlError: the task's terms are not those of the bundle.
    """
    contract = bundle.contract
    specs = task.specs(task.build_model())
    groups = contract.groups
    known = all(group in specs.observation for group in groups)
    if not known or input_terms(specs, groups) != contract.inputs or output_terms(specs) != contract.outputs:
        raise RobotrlError(f"{bundle.path}: its task now has other terms than the bundle; export it again")
    scale = np.tile([term.scale for term in contract.outputs], contract.horizon)
    offset = np.tile([term.offset for term in contract.outputs], contract.horizon)
    rng = np.random.default_rng(learner_seed(seed))

    def decide(obs: Obs) -> Tensor:
        flat = torch.cat([obs[group] for group in groups], dim=-1).numpy()
        noise = rng.standard_normal((len(flat), contract.noise_dim), np.float32)
        commands = bundle(flat, noise if contract.noise_dim else None)
        decision = (commands.astype(np.float64) - offset) / scale
        # what is cut is rounding only: the bundle commands nothing outside its limits
        return torch.from_numpy(decision.clip(-1.0, 1.0).astype(np.float32))

    return Controller(decide, contract.horizon)


def show_in_browser(playback: Playback | Recorded, port: int, announce: Callable[[str], None]) -> None:
    """Serve the viewer until Ctrl-C."""
    with WebViewer(playback, port) as viewer:
        announce(f"open {viewer.address} in a browser; Ctrl-C ends")
        viewer.run()


def show_in_window(playback: Playback | Recorded) -> None:
    """Play in MuJoCo's own viewer, in real time, until its window is closed."""
    import mujoco.viewer

    assert isinstance(playback.env.sim, BatchSim)
    batch = playback.env.sim.batch
    model = batch.get_model(0)
    data = batch.get_data(0)
    with mujoco.viewer.launch_passive(model, data, show_left_ui=False, show_right_ui=False) as viewer:
        due = time.monotonic()
        while viewer.is_running():
            playback.advance()
            with viewer.lock():
                batch.get_model(0, model)
                batch.get_data(0, data)
                mujoco.mj_forward(model, data)
            viewer.sync()
            # a machine too slow for real time shows slow motion instead of falling behind
            due = max(due + playback.dt_s, time.monotonic() - 0.25)
            time.sleep(max(due - time.monotonic(), 0.0))


def _can_open_window() -> bool:
    # on macOS only MuJoCo's `mjpython` may open windows, and says so in this variable
    return has_screen() and (sys.platform != "darwin" or "MJPYTHON_BIN" in os.environ)
