"""A recorded failure, shown state by state, or computed again from its first state."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from mujoco.batch import Batch
from torch import Tensor

from robotrl.core.errors import RobotrlError
from robotrl.envs.vec_env import VecEnv
from robotrl.export.description import rebuild_task
from robotrl.sim.batch_sim import BatchSim
from robotrl.sim.rendering import Quality, Renderer
from robotrl.sim.variant_sim import VariantSim
from robotrl.training.failures import FailureRecording
from robotrl.training.log_playback import LogPlayback
from robotrl.training.playback import own_task
from robotrl.training.video import caption, write_mp4

# what acts on the simulation from outside besides its commands
_FROM_OUTSIDE = ("qfrc_applied", "xfrc_applied", "eq_active", "mocap_pos", "mocap_quat", "userdata")
_BAR_COLOR = (90, 162, 255)


class Replay:
    """The recorded states of one simulation, again and again: what viewers show in place of a `Playback`.

    Nothing is computed anew; states that are not finite, or whose commands are not, are left out.

    Attributes:
        env: one simulation with the recorded model fields and the present state.
        task_name: name of the task, number of the simulation and why it failed.
        episode: how often it was begun.
        terms_label: what `reward_terms` are here.
        reward_terms: actuator -> command of the control step that begins with the present state.
        episode_return: None: no rewards are recorded.
        last_return: None.

    Raises:
        RobotrlError: the recording's task is not that of today, or no state of it can be drawn.
    """

    terms_label = "Commands in this step"

    def __init__(self, recording: FailureRecording) -> None:
        self.env = simulation_of(recording)
        causes = ", ".join(recording.causes)
        self.task_name = f"{recording.task['name']}, simulation {recording.simulation}: {causes}"
        self.dt_s = recording.control_dt_s
        finite = recording.states.isfinite().all(1) & recording.commands.isfinite().all(1)
        self._batch = _batch(self.env)
        self._states, self._commands = recording.states[finite], recording.commands[finite].tolist()
        if not len(self._states):
            raise RobotrlError(f"{recording.path}: no state is finite, so nothing can be drawn")
        self._actuators = [term.name for term in self.env.specs.action]
        self.episode = 0
        self.episode_return: float | None = None
        self.last_return: float | None = None
        self.restart()

    @property
    def time_s(self) -> float:
        """Since the first recorded state, s."""
        return self._shown * self.dt_s

    @property
    def before_failure_s(self) -> float:
        """From the present state to the last one, s."""
        return (len(self._states) - 1 - self._shown) * self.dt_s

    @property
    def label(self) -> str:
        """What stands on a picture."""
        return f"{self.task_name}   {-self.before_failure_s:.2f} s"

    def restart(self) -> None:
        """Show the first state."""
        self.episode += 1
        self._show(0)

    def advance(self) -> bool:
        """Show the next state; True if that was the last one and the first is shown again."""
        if self._shown + 1 < len(self._states):
            self._show(self._shown + 1)
            return False
        self.restart()
        return True

    def _show(self, index: int) -> None:
        self._shown = index
        self._batch.state[0] = self._states[index].numpy()
        self.reward_terms = dict(zip(self._actuators, self._commands[index], strict=True))


Recorded = Replay | LogPlayback
"""What was recorded and is shown again."""


def _batch(env: VecEnv) -> Batch:
    assert isinstance(env.sim, BatchSim), "recordings are of simulations on the CPU"
    return env.sim.batch


def simulation_of(recording: FailureRecording) -> VecEnv:
    """Build the task with one simulation that has the recorded model fields.

    Raises:
        RobotrlError: the task cannot be built here, or has another model now.
    """
    try:
        env = VecEnv(own_task(rebuild_task(recording.task)), 1, num_threads=1)
        if isinstance(env.sim, VariantSim):
            env.sim.choose(torch.zeros(1, dtype=torch.int64), torch.tensor([recording.variant]))
        for name, values in recording.params.items():
            env.sim.param(name)[0] = values
    except (RobotrlError, RuntimeError) as error:
        raise RobotrlError(f"failure recording {recording.path}: {' '.join(str(error).split())}") from error
    expected = (_batch(env).state.shape[1], env.specs.action_dim)
    if (recording.states.shape[1], recording.commands.shape[1]) != expected:
        raise RobotrlError(
            f"failure recording {recording.path} has states and commands of {recording.states.shape[1]} and "
            f"{recording.commands.shape[1]} numbers, its task now has {expected[0]} and {expected[1]}"
        )
    return env


def resimulate(recording: FailureRecording) -> Tensor:
    """Compute the recorded states anew: (T, nstate) from the first of them and the recorded commands.

    Forces from outside (pushes) are set as recorded. The result equals the recording bit for bit, on the
    same MuJoCo and kind of CPU, unless something else wrote to the simulation: a kick, model fields that
    were drawn anew in between, an injected fault.

    Raises:
        RobotrlError: the task cannot be built here, has another model now, or has learned actuators.
    """
    env = simulation_of(recording)
    sim, task = env.sim, env.task
    if task.realism.learned_actuators:
        raise RobotrlError(
            f"{recording.path} cannot be computed anew: what its learned actuators remembered is not recorded"
        )
    outside = [sim.data(field) for field in _FROM_OUTSIDE]
    state = torch.from_numpy(_batch(env).state)
    computed = torch.empty_like(recording.states)
    now = recording.states[:1]
    for i, recorded in enumerate(recording.states.unsqueeze(1)):
        state.copy_(recorded)
        acting = [field.clone() for field in outside]
        state.copy_(now)
        for field, values in zip(outside, acting, strict=True):
            field.copy_(values)
        computed[i] = state[0]
        if i + 1 < len(computed):
            task.before_step(sim)
            commands = recording.commands[i : i + 1]
            task.advance(sim, commands, env.substeps)
            task.after_step(sim, commands)
            now = state.clone()
    return computed


def record_replay(
    replay: Recorded, path: Path, fps: float = 20.0, width: int = 640, height: int = 480
) -> None:
    """Write a recording as an MP4 file, one picture per control step.

    Bars along the lower edge show the commands of the control step, as shares of their ranges.

    Args:
        replay: at its beginning.
        path: of the video, ending in .mp4.
        fps: pictures per second.
        width: px, even.
        height: px, even.

    Raises:
        RobotrlError: drawing or writing failed; nothing is left behind.
    """
    with Renderer(replay.env.sim, width, height, quality=Quality.VIDEO) as renderer:
        write_mp4(path, _pictures(replay, renderer), width, height, fps)


def _pictures(replay: Recorded, renderer: Renderer) -> Iterator[np.ndarray]:
    """Yield a picture of each state, with a bar for each command."""
    specs = replay.env.specs
    low, high = specs.action_low.numpy(), specs.action_high.numpy()
    ended = False
    while not ended:
        picture = renderer.render()[0]
        commands = np.array(list(replay.reward_terms.values()))
        _draw_bars(picture, ((2 * commands - high - low) / (high - low)).clip(-1.0, 1.0))
        yield caption(picture, replay.label)
        ended = replay.advance()


def _draw_bars(picture: np.ndarray, shares: np.ndarray) -> None:
    """Draw shares of the command ranges, in [-1, 1], along the lower edge of an (H, W, 3) picture."""
    height, width, _ = picture.shape
    pitch, longest = min(16, width // len(shares)), height // 16
    zero = height - longest - 4
    picture[zero, : pitch * len(shares)] = _BAR_COLOR
    for i, share in enumerate(shares):
        end = zero - round(longest * float(share))
        left = i * pitch + pitch // 8
        picture[min(zero, end) : max(zero, end) + 1, left : left + max(pitch * 3 // 4, 1)] = _BAR_COLOR
