"""What a bundle's contract says about the task: its terms, its model, how to build it again."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from omegaconf import OmegaConf

from robotrl.core.config import resolve_task
from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.schema import path_of, plain
from robotrl.core.types import Source, Specs
from robotrl.deploy.contract import InputTerm, OutputTerm, scale_offset, split_age
from robotrl.envs.env import AnyTask
from robotrl.envs.foreign.task import ForeignTask
from robotrl.tasks.task import Task

# of the terms that a message lists
_NAMED_TERMS = 3


def input_terms(specs: Specs, groups: tuple[str, ...]) -> tuple[InputTerm, ...]:
    """Describe the observation terms of `groups` in the order in which they are put side by side."""
    terms: list[InputTerm] = []
    start = 0
    for group in groups:
        for term in specs.observation[group]:
            low, high = (bound if math.isfinite(bound) else None for bound in (term.low, term.high))
            of, age_steps = split_age(term.name)
            terms.append(
                InputTerm(
                    group=group,
                    name=term.name,
                    unit=term.unit,
                    shape=(term.size,),
                    low=low,
                    high=high,
                    elements=term.elements,
                    source=term.source.value,
                    scale=1.0,
                    start=start,
                    of=of,
                    age_steps=age_steps,
                )
            )
            start += term.size
    return tuple(terms)


def output_terms(specs: Specs) -> tuple[OutputTerm, ...]:
    """Describe the action terms in the order of the action vector."""
    return tuple(
        OutputTerm(term.name, term.unit, term.low, term.high, *scale_offset(term.low, term.high))
        for term in specs.action
    )


def refuse_simulation_only(terms: tuple[InputTerm, ...]) -> None:
    """Raise UsageError if a term exists in simulation only, as no robot can feed it to the policy."""
    names = [f"{term.group}/{term.name}" for term in terms if term.source == Source.SIMULATION.value]
    if names:
        more = f" and {len(names) - _NAMED_TERMS} more" if len(names) > _NAMED_TERMS else ""
        raise UsageError(
            f"the policy acts on {', '.join(names[:_NAMED_TERMS])}{more}, which exist(s) in simulation only, "
            "so no robot can run it: train with export=false, or export it nevertheless with "
            "allow_simulation_only=true (`robotrl export`: --allow-simulation-only)"
        )


def model_sha256(model: mujoco.MjModel) -> str:
    """Hash the compiled model; it is the same on every machine with the same MuJoCo version."""
    buffer = np.empty(mujoco.mj_sizeModel(model), dtype=np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return hashlib.sha256(buffer.tobytes()).hexdigest()


def describe_physics(task: AnyTask, specs: Specs) -> dict[str, Any]:
    """Return the contract's fields on model and time, None for what another library keeps to itself."""
    dt_s = specs.control_dt_s
    known = dt_s > 0  # False for NaN
    rate = {"control_hz": 1.0 / dt_s if known else None, "control_dt_s": dt_s if known else None}
    if isinstance(task, ForeignTask):
        return rate | {"mujoco_version": None, "model_sha256": None, "physics_dt_s": None}
    model = task.build_model()
    return rate | {
        "mujoco_version": mujoco.__version__,
        "model_sha256": model_sha256(model),
        "physics_dt_s": float(model.opt.timestep),
    }


def describe_task(task: AnyTask, name: str) -> dict[str, Any]:
    """Return the task as plain data that `rebuild_task` turns back into an equal one.

    Raises:
        RobotrlError: the task cannot be rebuilt from its import path and options.
    """
    target = path_of(type(task))
    if not dataclasses.is_dataclass(task):
        raise RobotrlError(f"task {target} is not a dataclass: its options cannot be written down")
    section = {"name": name, "_target_": target, "options": _json_numbers(plain(task))}
    # as plain data: a pair may be a tuple here and a list there
    if plain(rebuild_task(section)) != plain(task):
        raise RobotrlError(f"task {target} does not come back equal from its options {section['options']}")
    return section


def rebuild_task(section: dict[str, Any], changes: Sequence[str] = ()) -> AnyTask:
    """Build the task that `describe_task` wrote down.

    Args:
        section: what it wrote.
        changes: options that shall be others, such as "realism.action_noise=0.1".

    Raises:
        UsageError: the changes do not fit the task.
        RobotrlError: its class is not installed here, its options do not fit, or its model file is missing.
    """
    if changes:
        rebuild_task(section)  # what is wrong without them is not their fault
    try:
        document = OmegaConf.create({"_target_": section["_target_"], **section["options"]})
        document.merge_with_dotlist(list(changes))
        task = resolve_task(OmegaConf.to_container(document, resolve=True))  # type: ignore[arg-type]
    except (KeyError, TypeError) as error:
        raise RobotrlError(f"contract: task has no {error}") from error
    except UsageError as error:
        if changes:
            raise UsageError(f"{' '.join(changes)}: {error}") from error
        raise RobotrlError(f"the bundle's task cannot be rebuilt here: {error}") from error
    if not isinstance(task, Task | ForeignTask):
        raise RobotrlError(f"the bundle's task {section['_target_']} is not a robotrl task")
    if (
        isinstance(task, Task)
        and section["options"].get("mjcf") is not None
        and not Path(task.mjcf).is_file()
    ):
        raise RobotrlError(
            f"the bundle's task {section['_target_']} needs its model file {task.mjcf}, which is not here: "
            "put it there, or into the package of the task, which finds it anywhere, and export again"
        )
    return task


def _json_numbers(value: Any) -> Any:
    """Spell infinite numbers, which JSON has not, as text; `rebuild_task` reads it back."""
    if isinstance(value, dict):
        return {key: _json_numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_json_numbers(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
