"""Gymnasium-Robotics: `task=gymnasium_robotics:FetchReach-v4`."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import gymnasium
import mujoco

from robotrl.core.errors import RobotrlError
from robotrl.envs.foreign.gymnasium import make_registered
from robotrl.envs.foreign.single import SingleEnv, SingleEnvTask


@dataclass
class GymnasiumRoboticsTask(SingleEnvTask):
    """An environment of Gymnasium-Robotics; the goal is part of the observation."""

    prefix: ClassVar[str] = "gymnasium_robotics"

    def make_single(self) -> SingleEnv:
        """Make one environment."""
        _prepare()
        return make_registered(self.id, self.kwargs, self.max_episode_steps)


def _prepare() -> None:
    """Register the package's environments and make it work with the installed MuJoCo.

    Since MuJoCo 3.12 its enumerations equal Python's integers but not numpy's: version 1.4.2 asks
    whether the type of a joint, a numpy integer, is in a tuple of them.
    """
    try:
        import gymnasium_robotics
        from gymnasium_robotics.utils import mujoco_utils
    except ImportError as error:
        raise RobotrlError(
            f'Gymnasium-Robotics cannot be imported ({error}): run pip install "robotrl[gymnasium-robotics]"'
        ) from error
    gymnasium.register_envs(gymnasium_robotics)
    mujoco_utils.mujoco = _MujocoWithPlainJoints()


class _MujocoWithPlainJoints:
    """The module `mujoco`, with the types of joints as plain integers."""

    mjtJoint = SimpleNamespace(  # noqa: N815
        **{name: int(value) for name, value in mujoco.mjtJoint.__members__.items()}
    )

    def __getattr__(self, name: str) -> Any:
        return getattr(mujoco, name)
