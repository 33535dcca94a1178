"""What a task remembers per simulation from one control step to the next."""

from __future__ import annotations

import mujoco
from torch import Tensor

from robotrl.sim.sim import Sim


class Memory:
    """Named numbers in MuJoCo's `userdata`: part of the physics state, so checkpoints hold them.

    A reset of a simulation zeroes its numbers before the task's own `reset`.

    Args:
        sizes: name -> how many numbers.
    """

    def __init__(self, **sizes: int) -> None:
        self._columns: dict[str, slice] = {}
        self.size = 0
        for name, size in sizes.items():
            self._columns[name] = slice(self.size, self.size + size)
            self.size += size

    def reserve(self, spec: mujoco.MjSpec) -> None:
        """Make room in a model before it is compiled."""
        spec.nuserdata = self.size

    def of(self, sim: Sim, name: str) -> Tensor:
        """(N, size) float64, live: writes last."""
        return sim.data("userdata")[:, self._columns[name]]
