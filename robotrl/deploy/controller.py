"""Execute a bundle's decisions, one action per control step: numpy and onnxruntime only."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from robotrl.deploy.contract import Contract


class Decides(Protocol):
    """What makes decisions: a `Bundle` or a `CPolicy`."""

    contract: Contract

    def __call__(self, observation: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """Return the decision (h*A,) for an observation (D,)."""


class BundleController:
    """One robot's controller: decides, executes what was decided open loop, then decides anew.

    Args:
        bundle: decides, through onnxruntime or compiled.
        seed: of the noise that decisions are made from.
    """

    def __init__(self, bundle: Decides, seed: int = 0) -> None:
        self.bundle = bundle
        self._rng = np.random.default_rng(seed)
        self._left = np.empty((0, len(bundle.contract.outputs)), dtype=np.float32)

    @property
    def due(self) -> bool:
        """Whether the next control step begins with a decision."""
        return len(self._left) == 0

    def reset(self) -> None:
        """Forget what is left of a decision: call it when an episode begins."""
        self._left = self._left[:0]

    def __call__(self, observation: np.ndarray, noise: np.ndarray | None = None) -> np.ndarray:
        """Return the action of the coming control step; call it `contract.control_hz` times a second.

        Args:
            observation: (D,), in the units and order of `contract.inputs`; looked at where a decision is due.
            noise: (k,), what a decision is made from; drawn where it is None.

        Returns:
            (A,) float32, in the units and order of `contract.outputs`.

        Raises:
            UsageError: see `Bundle.__call__`.
            RobotrlError: see `Bundle.__call__`.
        """
        if self.due:
            contract = self.bundle.contract
            if noise is None and contract.noise_dim:
                noise = self._rng.standard_normal(contract.noise_dim, dtype=np.float32)
            self._left = self.bundle(observation, noise).reshape(contract.horizon, -1)
        action, self._left = self._left[0], self._left[1:]
        return action
