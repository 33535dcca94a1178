"""Joints of N simulations driven by learned actuators, evaluated at every physics step."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robotrl.core.errors import UsageError
from robotrl.sim.actuator_network import ActuatorNetwork, lag_steps
from robotrl.sim.actuators import Actuator, Kind
from robotrl.sim.draws import matching
from robotrl.sim.sim import Sim


class NetworkActuators:
    """The actuators of kind network in a `Sim` whose model `replace_actuators` has prepared.

    Their torque enters MuJoCo as the bias force of an actuator without gain, so that force limits,
    `actuator_force` and `qfrc_actuator` are those of any other actuator.

    Args:
        sim: the simulations.
        actuators: name -> actuator; those of other kinds are left alone.

    Raises:
        UsageError: a lag of a network is no whole number of physics steps, or a command is delayed.
    """

    def __init__(self, sim: Sim, actuators: Mapping[str, Actuator]) -> None:
        names = [sim.model.actuator(i).name for i in range(sim.model.nu)]
        rows: dict[Path, list[int]] = {}
        for name, actuator in actuators.items():
            if actuator.kind is Kind.NETWORK and actuator.network is not None:
                found = matching(actuator.names, names, "actuator", f"actuators.{name}")
                _refuse_delay(sim, found, name)
                rows.setdefault(actuator.network, []).extend(found)
        self._drives = [_Drive(sim, ActuatorNetwork.load(path), found) for path, found in rows.items()]

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._drives)

    def reset(self, ids: Tensor) -> None:
        """Forget the past of simulations `ids`: their first command and state count as having always been."""
        for drive in self._drives:
            drive.reset(ids)

    def apply(self, ctrl: Tensor) -> None:
        """Set the torques of the coming physics step for (N, nu) commands, rad (m for slides)."""
        for drive in self._drives:
            drive.apply(ctrl)

    def state_dict(self) -> dict[str, Any]:
        """Return the remembered errors and velocities."""
        return {"drives": [drive.state_dict() for drive in self._drives]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict`."""
        for drive, held in zip(self._drives, state["drives"], strict=True):
            drive.load_state_dict(held)


class _Drive:
    """One network and the J actuators it drives.

    The memory is a ring of the last H physics steps, (H, 2, N, J): errors, then velocities.
    """

    def __init__(self, sim: Sim, network: ActuatorNetwork, rows: list[int]) -> None:
        self._network = network
        joints = sim.model.actuator_trnid[rows, 0]
        self._rows = torch.tensor(rows)
        self._qpos, self._qvel = sim.data("qpos"), sim.data("qvel")
        self._positions = torch.from_numpy(sim.model.jnt_qposadr[joints]).long()
        self._velocities = torch.from_numpy(sim.model.jnt_dofadr[joints]).long()
        self._low, self._high = torch.from_numpy(sim.model.actuator_ctrlrange[rows]).unbind(1)
        self._bias = sim.param("actuator_biasprm")
        steps = torch.tensor(lag_steps(network.lags_s, sim.dt_s, "the physics step"))
        length = int(steps[-1]) + 1
        # row c: where the inputs lie while place c holds the present
        self._places = (torch.arange(length).unsqueeze(1) - steps) % length
        self._memory = torch.zeros(length, 2, sim.num_envs, len(rows), dtype=torch.float64)
        self._cursor = 0
        self._new = torch.ones(sim.num_envs, dtype=torch.bool)

    def reset(self, ids: Tensor) -> None:
        self._new[ids] = True
        self._bias[ids.unsqueeze(1), self._rows, 0] = 0.0

    def apply(self, ctrl: Tensor) -> None:
        self._cursor = (self._cursor + 1) % len(self._memory)
        present = self._memory[self._cursor]
        command = ctrl[:, self._rows].clamp(self._low, self._high)  # as MuJoCo does
        torch.sub(command, self._qpos[:, self._positions].cpu(), out=present[0])
        present[1] = self._qvel[:, self._velocities]
        if self._new.any():
            self._memory[:, :, self._new] = present[:, self._new]
            self._new.fill_(False)
        # (L, 2, N, J) -> (N J, 2 L)
        inputs = self._memory[self._places[self._cursor]].permute(2, 3, 1, 0).flatten(2).flatten(0, 1)
        torque = self._network.torque(inputs)
        self._bias[:, self._rows, 0] = torque.view(len(ctrl), -1).double()

    def state_dict(self) -> dict[str, Any]:
        return {"memory": self._memory.clone(), "cursor": self._cursor, "new": self._new.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._memory.copy_(state["memory"])
        self._cursor = state["cursor"]
        self._new.copy_(state["new"])


def _refuse_delay(sim: Sim, rows: list[int], name: str) -> None:
    for row in rows:
        if sim.model.actuator_history[row, 0] > 0:
            raise UsageError(
                f"actuators.{name}: a network actuator takes no delay, it has learned the real one: leave "
                f"{sim.model.actuator(row).name!r} out of actuator_delays"
            )
