"""From a bundle to decisions: through onnxruntime, or through its compiled C."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.deploy.bundle import action_error
from robotrl.deploy.contract import Contract
from robotrl.deploy.runtime.chunks import Decide, Execution, Queue, RealTimeChunks, TemporalEnsemble

Network = Callable[[np.ndarray, np.ndarray | None], np.ndarray]
"""Maps an observation (D,) and noise (k,) or None to a decision (h*A,) in physical units."""
EXECUTIONS = ("queue", "ensemble", "realtime")


def decider(network: Network, contract: Contract, seed: int = 0) -> Decide:
    """Return what maps an observation (D,) to the h actions (h, A) of a decision.

    Args:
        network: of the policy.
        contract: of the policy.
        seed: of the noise that decisions are made from.
    """
    rng = np.random.default_rng(seed)

    def decide(observation: np.ndarray) -> np.ndarray:
        noise = rng.standard_normal(contract.noise_dim, dtype=np.float32) if contract.noise_dim else None
        return network(observation, noise).reshape(contract.horizon, -1)

    return decide


def execution(kind: str, decide: Decide, contract: Contract, hold_steps: int) -> Execution:
    """Return a way of executing decisions.

    Args:
        kind: one of `EXECUTIONS`.
        decide: maps an observation to a decision.
        contract: of the policy.
        hold_steps: control steps for which an action is held when a decision is late.

    Raises:
        UsageError: there is no such way, or it needs decisions of several actions.
    """
    if kind not in EXECUTIONS:
        raise UsageError(f"--chunks {kind}: expected {', '.join(EXECUTIONS)}")
    if kind == "queue":
        return Queue(decide)
    if contract.horizon == 1:
        raise UsageError(f"--chunks {kind}: this policy decides one action at a time, leave it out")
    if kind == "ensemble":
        return TemporalEnsemble(decide)
    return RealTimeChunks(decide, contract.horizon, max(1, contract.horizon // 2), hold_steps)


def check_recordings(network: Network, contract: Contract, golden: Mapping[str, np.ndarray]) -> None:
    """Refuse a network that does not return the recorded decisions on this machine.

    Raises:
        RobotrlError: says by how much.
    """
    noise = golden.get("noise")
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
