"""What `gymnasium.make` and `gymnasium.make_vec` build for the names of `robotrl.registration`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from robotrl.compose import compose_task
from robotrl.envs.gymnasium import GymnasiumEnv, GymnasiumVecEnv
from robotrl.envs.vec_env import VecEnv


class TaskEnv(GymnasiumEnv):
    """One environment of a shipped task.

    Until `reset` is given a seed, its episodes are other ones in every process and environment.

    Args:
        task: name of the task.
        groups: observation groups; one group gives a Box, several a Dict of Boxes.
        render_mode: "rgb_array" for `render`, or None.
        width: of a picture, px.
        height: of a picture, px.
        camera: name or number of a camera of the model; None for one that shows the robot.
        **options: fields of the task to change.

    Raises:
        UsageError: there is no such task, option, group or render mode.
    """

    def __init__(
        self,
        task: str,
        groups: Sequence[str] = ("policy",),
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera: str | int | None = None,
        **options: Any,
    ) -> None:
        env = VecEnv(compose_task(task, options), 1)
        env.rng.seed()
        super().__init__(env, groups, render_mode, width=width, height=height, camera=camera)


class TaskVecEnv(GymnasiumVecEnv):
    """Environments of a shipped task, stepped together.

    Until `reset` is given a seed, their episodes are other ones in every process.

    Args:
        task: name of the task.
        num_envs: number of environments.
        max_episode_steps: truncate episodes after so many steps, if the task does not before.
        groups: as for `TaskEnv`, as is all that follows.
        render_mode: "rgb_array" for `render`, or None.
        width: of a picture, px.
        height: of a picture, px.
        camera: name or number of a camera of the model; None for one that shows the robot.
        **options: fields of the task to change.

    Raises:
        UsageError: there is no such task, option, group or render mode.
    """

    def __init__(
        self,
        task: str,
        num_envs: int = 1,
        max_episode_steps: int | None = None,
        groups: Sequence[str] = ("policy",),
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
        camera: str | int | None = None,
        **options: Any,
    ) -> None:
        instance = compose_task(task, options)
        if max_episode_steps is not None:
            limit_s = max_episode_steps * instance.control_dt_s
            instance.episode_length_s = min(instance.episode_length_s, limit_s)
        env = VecEnv(instance, num_envs)
        env.rng.seed()
        super().__init__(env, groups, render_mode, width=width, height=height, camera=camera)
