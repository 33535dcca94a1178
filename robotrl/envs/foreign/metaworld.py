"""Meta-World's manipulation tasks: `task=metaworld:reach-v3`."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, cast

import gymnasium
import mujoco

from robotrl.core.errors import RobotrlError, unknown_name
from robotrl.envs.foreign.single import MakeEnv, SingleEnv, SingleEnvTask
from robotrl.envs.foreign.task import readable_errors

# Meta-World's own: relative position, part of the relative pose, and torque over force
_WELD_DATA = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 5.0)
# its environments refuse a further step
_MAX_STEPS = 500


@dataclass
class MetaWorldTask(SingleEnvTask):
    """A task of Meta-World's MT1 benchmark: 50 goals, of which every episode draws one."""

    prefix: ClassVar[str] = "metaworld"

    max_episode_steps: int | None = _MAX_STEPS
    """Time limit, control steps, 1 to 500: reaching it truncates."""
    goal_seed: int = 0
    """Of the 50 goals, which are the same in every copy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_episode_steps is None or self.max_episode_steps > _MAX_STEPS:
            raise ValueError(f"max_episode_steps must be in [1, {_MAX_STEPS}], got {self.max_episode_steps}")

    def make_single(self) -> SingleEnv:
        """Make one environment.

        Raises:
            UsageError: there is no such task, or it does not take these arguments.
            RobotrlError: Meta-World is not installed.
        """
        metaworld = _import_metaworld()
        if self.id not in metaworld.ALL_V3_ENVIRONMENTS:
            raise unknown_name("Meta-World task", self.id, metaworld.ALL_V3_ENVIRONMENTS)
        goals = metaworld.MT1(self.id, seed=self.goal_seed).train_tasks
        with readable_errors(self.name, self.kwargs):
            return self._with_goals(goals)

    def maker(self, probe: SingleEnv) -> MakeEnv:
        """Return what makes one copy; drawing the 50 goals takes seconds and is done once."""
        assert isinstance(probe, RandomGoal)
        return functools.partial(self._with_goals, probe.goals)

    def _with_goals(self, goals: Sequence[Any]) -> SingleEnv:
        env = _import_metaworld().ALL_V3_ENVIRONMENTS[self.id](**self.kwargs)
        return RandomGoal(env, goals)


class RandomGoal(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Draws the goal of every episode, from the seed given to `reset`, which Meta-World ignores.

    Args:
        env: one of Meta-World's.
        goals: its tasks, of which one is drawn.
    """

    def __init__(self, env: SingleEnv, goals: Sequence[Any]) -> None:
        super().__init__(env)
        self.goals = goals
        # the bounds of the observation depend on a goal being there
        self.base = cast(Any, env.unwrapped)
        self.base.set_task(goals[0])

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Start a new episode with a goal of its own."""
        if seed is not None:
            self.base.seed(seed)
        self.base.set_task(self.goals[self.base.np_random.integers(len(self.goals))])
        return self.env.reset(options=options)


def _import_metaworld() -> ModuleType:
    """Return Meta-World, made to work with the installed MuJoCo.

    Since MuJoCo 3.17 a row of `eq_data` has 12 numbers, of which Meta-World gives the first 11.
    """
    try:
        import metaworld
        from metaworld.sawyer_xyz_env import SawyerMocapBase
    except ImportError as error:
        raise RobotrlError(
            f'Meta-World cannot be imported ({error}): run pip install "robotrl[metaworld]"'
        ) from error

    def reset_mocap_welds(self: Any) -> None:
        welds = self.model.eq_type == int(mujoco.mjtEq.mjEQ_WELD)
        self.model.eq_data[welds, : len(_WELD_DATA)] = _WELD_DATA

    cast(Any, SawyerMocapBase).reset_mocap_welds = reset_mocap_welds
    return metaworld
