"""Fields of MjModel and MjOption by name; those of MjOption are named "opt.gravity" and so on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mujoco
import numpy as np
import torch
from torch import Tensor

from robotrl.core.errors import UsageError

if TYPE_CHECKING:
    from robotrl.sim.sim import Sim


def model_values(model: mujoco.MjModel, field: str) -> np.ndarray:
    """Return the values of a field."""
    owner, name = _place(model, field)
    return np.asarray(getattr(owner, name))


def write_model_values(model: mujoco.MjModel, field: str, values: np.ndarray) -> None:
    """Set the values of a field, an array or a number."""
    owner, name = _place(model, field)
    held = getattr(owner, name)
    if isinstance(held, np.ndarray):
        held[...] = values
    else:
        setattr(owner, name, values.item())


def compiled_values(sim: Sim, field: str) -> Tensor:
    """(K, ...) values of a field in each of the simulator's models, as compiled.

    Raises:
        UsageError: their sizes differ.
    """
    values = [torch.as_tensor(model_values(model, field)) for model in sim.models]
    if len({each.shape for each in values}) > 1:
        raise UsageError(
            f"{field} cannot differ between simulations whose models hold "
            f"{', '.join(str(len(each)) for each in values)} rows of it"
        )
    return torch.stack(values)


def _place(model: mujoco.MjModel, field: str) -> tuple[Any, str]:
    return (model.opt, field[4:]) if field.startswith("opt.") else (model, field)
