"""What a task returns has the shapes it promised: others would be repeated or spread out silently."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.core.types import ObsTerm
from robotrl.sim.sim import Sim
from robotrl.tasks.task import Task


def check_observation(
    task: Task,
    sim: Sim,
    terms: Mapping[str, tuple[ObsTerm, ...]],
    values: Mapping[str, Mapping[str, Tensor]],
) -> None:
    """Compare what `Task.observe` returned with the task's observation terms.

    Raises:
        UsageError: says which term differs, and which shape was expected.
    """
    for group, named in terms.items():
        for term in named:
            value = values.get(group, {}).get(term.name)
            shape = None if value is None else tuple(value.shape)
            if shape != (sim.num_envs, term.size) and (shape != (sim.num_envs,) or term.size > 1):
                raise UsageError(
                    f"{type(task).__name__}.observe must return {group}/{term.name} with shape "
                    f"({sim.num_envs}, {term.size}), got {shape or 'nothing'}"
                )


def check_rewards(task: Task, sim: Sim, action: Tensor) -> None:
    """Ask once, at a reset, for all that is read after every step.

    A simulator follows a field from when it is first read: after the first step it would be too late for
    one that lags.

    Args:
        task: what is asked.
        sim: simulations that were just reset.
        action: (N, A) any commands.

    Raises:
        UsageError: a reward term, the end states, the successes or a score are not (N,).
    """
    task.before_step(sim)
    rewards = task.reward_terms(sim, action)
    values: dict[str, Tensor | None] = {
        f"reward_terms must return {name}": term for name, term in rewards.items()
    }
    values |= {
        "terminated must return a value": task.terminated(sim),
        "success must return a value": task.success(sim),
    }
    values |= {f"scores must return {name}": score for name, score in task.scores(sim).items()}
    for what, value in values.items():
        if value is not None and value.shape != (sim.num_envs,):
            raise UsageError(
                f"{type(task).__name__}.{what} with shape ({sim.num_envs},), got {tuple(value.shape)}"
            )
