"""What led to a failure: the last states and commands of every simulation, kept for those that diverge."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.sim.batch_sim import BatchSim

# a state begins with the time: mjSTATE_TIME is the first of mjSTATE_INTEGRATION
_TIME = 0


@dataclass(frozen=True)
class Failure:
    """The last control steps of one simulation until it diverged, all of the same episode.

    Attributes:
        simulation: its number.
        control_step: which control step it failed in, counted from 1.
        causes: what was found, in words.
        states: (T, nstate) float64 physics states (MuJoCo's mjSTATE_INTEGRATION), each as a control step
            began; the simulation failed in the step from the last one.
        commands: (T, A) float64 actuator commands of these steps, physical units.
        params: MjModel field -> this simulation's values, for the fields that differ between simulations.
        variant: which of the simulator's models it ran on.
    """

    simulation: int
    control_step: int
    causes: tuple[str, ...]
    states: Tensor
    commands: Tensor
    params: dict[str, Tensor]
    variant: int


class FailureRecorder:
    """Remembers the last K control steps of N simulations in a ring; one copy of the state per step.

    The ring takes K * N * (nstate + A) * 8 bytes: for 1,024 simulations and K = 100, 79 MB for a
    half-cheetah (nstate 91) and 174 MB for Gymnasium's humanoid.

    Args:
        sim: the simulations.
        substeps: physics steps in a control step.
        action_dim: A, commands in a control step.
        steps: K, control steps to remember.
        limit: how many failures to keep at most; later ones are not copied.

    Attributes:
        control_steps: control steps so far; whoever continues a run sets it.
    """

    def __init__(self, sim: BatchSim, substeps: int, action_dim: int, steps: int, limit: int) -> None:
        if steps < 1:
            raise UsageError(f"a failure recorder needs at least 1 step, got {steps}")
        self.control_steps = 0
        self._sim = sim
        self._dt_s = substeps * sim.dt_s
        self._states = np.empty((steps, *sim.batch.state.shape))
        self._commands = torch.empty(steps, sim.num_envs, action_dim, dtype=torch.float64)
        self._filled = 0
        self._room = limit
        self._failures: list[Failure] = []

    def record(self, commands: Tensor) -> None:
        """Remember the present state and the (N, A) commands of the control step that begins now."""
        slot = self.control_steps % len(self._states)
        np.copyto(self._states[slot], self._sim.batch.state)
        self._commands[slot].copy_(commands)
        self.control_steps += 1
        self._filled = min(self._filled + 1, len(self._states))

    def keep(self, failed: Tensor) -> None:
        """Keep what led to the failures, (N,) bool, that `sim.failed()` has just returned."""
        for simulation in failed.nonzero().squeeze(1)[: self._room].tolist():
            self._failures.append(self._of(simulation))
            self._room -= 1

    def take(self) -> list[Failure]:
        """Return what was kept since the last call."""
        taken, self._failures = self._failures, []
        return taken

    def _of(self, simulation: int) -> Failure:
        slots = np.arange(self.control_steps - self._filled, self.control_steps) % len(self._states)
        # in one episode the clock moves on by a control step, a reset puts it back
        moved_s = np.diff(self._states[slots, simulation, _TIME])
        breaks = np.flatnonzero(~(np.abs(moved_s - self._dt_s) < 1e-3 * self._dt_s))
        slots = slots[breaks[-1] + 1 if len(breaks) else 0 :]
        return Failure(
            simulation,
            self.control_steps,
            self._sim.failure_causes(simulation),
            torch.from_numpy(self._states[slots, simulation]),
            self._commands[torch.from_numpy(slots), simulation],
            {name: values[simulation].clone() for name, values in self._sim.expanded().items()},
            int(self._sim.chosen[simulation]),
        )
