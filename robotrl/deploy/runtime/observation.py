"""From readings to what the network is fed: by name, with their history."""

from __future__ import annotations

import numpy as np

from robotrl.deploy.runtime.binding import Binding


class Observations:
    """Remembers the readings of the last control steps and lays them out as the policy was trained on.

    The first reading after a reset stands for all earlier ones, as at the start of a training episode.

    Args:
        binding: which number is which.
    """

    def __init__(self, binding: Binding) -> None:
        self._binding = binding
        self._length = int(binding.ages.max()) + 1
        self._ring: np.ndarray | None = None
        self._newest = 0

    def reset(self) -> None:
        """Forget all readings."""
        self._ring = None

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Add the reading of this control step and return the observation.

        Args:
            values: (W,) numbers of a reading, in the robot's order.

        Returns:
            (D,) float32 in the order of the network's inputs; what is too large for float32 is infinite.
        """
        if self._ring is None:
            self._ring = np.tile(values, (self._length, 1))
        self._newest = (self._newest + 1) % self._length
        self._ring[self._newest] = values
        rows = (self._newest - self._binding.ages) % self._length
        with np.errstate(over="ignore"):
            return self._ring[rows, self._binding.inputs].astype(np.float32)
