"""A `task` section that names another library's environment in place of one of our tasks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gymnasium
from gymnasium.vector import VectorEnv

from robotrl.core import checks
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.types import Specs
from robotrl.envs.foreign.vec_env import ForeignVecEnv


@dataclass(frozen=True)
class Batch:
    """N environments as their library makes them, and what it tells about them.

    Attributes:
        vector: the environments.
        control_dt_s: time between two actions, s; None where it is not told.
        max_steps: the time limit of their episodes, control steps; None where it is not known.
    """

    vector: VectorEnv[Any, Any, Any]
    control_dt_s: float | None
    max_steps: int | None


@dataclass
class ForeignTask(ABC):
    """An environment of another library; on the command line `task=PREFIX:ID`."""

    prefix: ClassVar[str]
    """The library, as in `task=PREFIX:ID`."""

    id: str
    """Name of the environment in its library."""
    kwargs: dict[str, Any] = field(default_factory=dict)
    """Arguments of the environment's constructor."""
    max_episode_steps: int | None = None
    """Time limit, control steps, at least 1: reaching it truncates; null for the environment's own."""
    control_dt_s: float | None = None
    """Time between two actions, s, above 0; null for what the environment says, if it does."""
    privileged: list[str] = field(default_factory=lambda: ["privileged_state"])
    """Observation keys that only critics see (group `privileged`); by default MuJoCo Playground's."""

    def __post_init__(self) -> None:
        checks.at_least(self, 1, "max_episode_steps")
        checks.above(self, 0, "control_dt_s")

    @property
    def name(self) -> str:
        """PREFIX:ID."""
        return f"{self.prefix}:{self.id}"

    @abstractmethod
    def make_batch(self, num_envs: int, num_threads: int | None) -> Batch:
        """Make the environments.

        Args:
            num_envs: N.
            num_threads: CPUs to use, None for all.

        Raises:
            UsageError: there is no such environment, or it does not take these arguments.
            RobotrlError: its library is not installed or does not work here.
        """

    def make_env(
        self, num_envs: int, seed: int = 0, num_threads: int | None = None, stagger: bool = False
    ) -> ForeignVecEnv:
        """Make N environments; arguments as `VecEnv`'s.

        Raises:
            UsageError: see `make_batch`; or its spaces cannot be used.
            RobotrlError: see `make_batch`.
        """
        batch = self.make_batch(num_envs, num_threads)
        return ForeignVecEnv(
            batch.vector,
            self.name,
            seed,
            control_dt_s=self.control_dt_s or batch.control_dt_s,
            max_steps=batch.max_steps,
            privileged=self.privileged,
            stagger=stagger,
        )

    def specs(self) -> Specs:
        """Return what a policy has to know about the environment."""
        return self.make_env(1).specs


@contextmanager
def readable_errors(name: str, kwargs: Mapping[str, Any]) -> Iterator[None]:
    """Say in one line why an environment cannot be made.

    Args:
        name: of the environment.
        kwargs: what the user gave its constructor.
    """
    try:
        yield
    except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
        raise RobotrlError(f"{name} needs a package that cannot be imported: {error}") from error
    except gymnasium.error.Error as error:
        raise UsageError(f"{name}: {error}") from error
    except TypeError as error:
        if not kwargs:
            raise
        raise UsageError(f"{name} does not take task.kwargs {dict(kwargs)}: {error}") from error
