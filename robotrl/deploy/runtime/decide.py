"""From what makes decisions to what executes them, and the proof that it decides as it did in training."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.bundle import action_error
from robotrl.deploy.controller import BundleController, Decides
from robotrl.deploy.runtime.chunks import Execution, MostCoherent, RealTimeChunks, TemporalEnsemble
from robotrl.deploy.runtime.limits import Limits

EXECUTIONS = ("queue", "ensemble", "realtime")


def execution(kind: str, network: Decides, limits: Limits, seed: int = 0) -> Execution:
    """Return a way of executing decisions.

    Args:
        kind: one of `EXECUTIONS`.
        network: makes them.
        limits: say what real-time chunking may do.
        seed: of the noise that decisions are made from.

    Raises:
        UsageError: there is no such way, or it needs decisions of several actions.
    """
    contract = network.contract
    if kind not in EXECUTIONS:
        raise UsageError(f"--chunks {kind}: expected {', '.join(EXECUTIONS)}")
    if kind == "queue":
        return BundleController(network, seed)
    if contract.horizon == 1:
        raise UsageError(f"--chunks {kind}: this policy decides one action at a time, leave it out")
    rng = np.random.default_rng(seed)

    def decide(observation: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal(contract.noise_dim, dtype=np.float32) if contract.noise_dim else None
        return network(observation, noise).reshape(contract.horizon, -1)

    if kind == "ensemble":
        return TemporalEnsemble(decide)
    scale = np.array([term.scale for term in contract.outputs])
    go_on = MostCoherent(decide, limits.candidates if contract.noise_dim else 1, scale)
    return RealTimeChunks(go_on, contract.horizon, max(1, contract.horizon // 2), limits.hold_steps)


def check_recordings(network: Decides, golden: Mapping[str, np.ndarray]) -> None:
    """Refuse a network that does not return the recorded decisions on this machine.

    Raises:
        RobotrlError: says by how much.
    """
    contract, noise = network.contract, golden.get("noise")
    decisions = [
        network(observation, None if noise is None else noise[i])
        for i, observation in enumerate(golden["observation"])
    ]
    error = action_error(contract, np.array(decisions), golden["action"])
    if not error <= contract.atol:
        raise RobotrlError(
            f"the recorded actions do not come out again on this machine: error {error:.3g}, accepted "
            f"{contract.atol:.3g}"
        )
