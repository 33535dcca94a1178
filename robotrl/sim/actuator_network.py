"""An actuator learned from logs of the real joint: its torque from recent position errors and velocities.

Reference: Hwangbo et al. 2019, arXiv:1901.08652. `robotrl actuator-net` trains one,
`robotrl.sim.network_actuators` drives the joints of a simulation with it.
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import softsign

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.core.files import write_aside

FORMAT = "robotrl.actuator_network/1"
_NUMBERS = ("torque_scale_nm", "torque_limit_nm", "validation_rmse_nm")


@dataclass(frozen=True)
class ActuatorNetwork:
    """A multi-layer perceptron with softsign units: (position errors, velocities) -> torque.

    The position error is command minus position. A row of inputs holds the errors at all lags, then the
    velocities at all lags. For slides read m, m/s and N for rad, rad/s and N m.

    Args:
        layers: (weight (in, out), bias (out,)) of each layer, float32.
        input_mean: (2 L,) float32, subtracted from the inputs, rad and rad/s.
        input_std: (2 L,) float32, by which they are divided.
        lags_s: L ages of the inputs, s; increasing, the first is 0.
        torque_scale_nm: torque for an output of 1, N m.
        torque_limit_nm: largest torque in the logs, N m; the network knows of no larger one.
        validation_rmse_nm: root-mean-square error on rows it was not trained with, N m.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    input_mean: Tensor
    input_std: Tensor
    lags_s: tuple[float, ...]
    torque_scale_nm: float
    torque_limit_nm: float
    validation_rmse_nm: float

    def torque(self, inputs: Tensor) -> Tensor:
        """Return the (M,) float32 torques, N m, for (M, 2 L) inputs in rad and rad/s, without the limit."""
        x = inputs.float()
        *hidden, (weight, bias) = self._folded
        for into, offset in hidden:
            x = softsign(torch.addmm(offset, x, into))
        return torch.addmm(bias, x, weight).squeeze(1)

    @cached_property
    def _folded(self) -> list[tuple[Tensor, Tensor]]:
        """The layers with normalisation and scale inside: fewer calls in every physics step."""
        layers = list(self.layers)
        weight, bias = layers[0]
        weight = weight / self.input_std.unsqueeze(1)
        layers[0] = weight, bias - self.input_mean @ weight
        weight, bias = layers[-1]
        layers[-1] = weight * self.torque_scale_nm, bias * self.torque_scale_nm
        return layers

    def save(self, path: Path) -> None:
        """Write a safetensors file with the numbers as JSON in its header, aside first.

        Raises:
            RobotrlError: the disk is full or the folder cannot be written; nothing is left behind.
        """
        tensors = {"input_mean": self.input_mean, "input_std": self.input_std}
        for i, (weight, bias) in enumerate(self.layers):
            tensors |= {f"weight_{i}": weight.contiguous(), f"bias_{i}": bias.contiguous()}
        numbers = {"lags_s": self.lags_s} | {name: getattr(self, name) for name in _NUMBERS}
        metadata = {"format": FORMAT, "network": json.dumps(numbers)}
        try:
            write_aside(path, lambda aside: save_file(tensors, aside, metadata=metadata))
        except (OSError, SafetensorError) as error:
            raise RobotrlError(f"cannot write actuator network {path}: {error}") from error

    @classmethod
    def load(cls, path: Path) -> ActuatorNetwork:
        """Read what `save` wrote.

        Raises:
            UsageError: there is no such file.
            RobotrlError: it is damaged or holds something else.
        """
        if not path.is_file():
            raise UsageError(
                f"actuator network {path} does not exist: `robotrl actuator-net` trains one from logs"
            )
        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise RobotrlError(
                        f"{path} is not an actuator network: format is {metadata.get('format')!r}, "
                        f"expected {FORMAT!r}"
                    )
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            numbers = json.loads(metadata["network"])
            network = cls(
                tuple((tensors[f"weight_{i}"], tensors[f"bias_{i}"]) for i in range(len(tensors) // 2 - 1)),
                tensors["input_mean"],
                tensors["input_std"],
                tuple(float(lag) for lag in numbers["lags_s"]),
                *(float(numbers[name]) for name in _NUMBERS),
            )
            network._check(tensors)
        except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
            raise RobotrlError(f"actuator network {path} is damaged: {error}") from error
        return network

    def _check(self, tensors: dict[str, Tensor]) -> None:
        for name, values in tensors.items():
            if values.dtype != torch.float32 or not values.isfinite().all():
                raise ValueError(f"{name} does not hold finite float32 numbers")
        numbers = (self.torque_scale_nm, self.torque_limit_nm, self.validation_rmse_nm)
        if not all(math.isfinite(number) for number in numbers) or self.torque_limit_nm <= 0.0:
            raise ValueError(f"torque scale, limit and error are {numbers}")
        check_lags(self.lags_s)
        width = 2 * len(self.lags_s)
        if self.input_mean.shape != (width,) or self.input_std.shape != (width,) or not self.layers:
            raise ValueError(f"{len(self.lags_s)} lags do not fit its {len(self.layers)} layers")
        for weight, bias in self.layers:
            if weight.ndim != 2 or weight.shape[0] != width or bias.shape != weight.shape[1:]:
                raise ValueError("its layers do not fit each other")
            width = len(bias)
        if width != 1 or not (self.input_std > 0.0).all():
            raise ValueError("it does not map normalised inputs to one torque")


def check_lags(lags_s: tuple[float, ...]) -> None:
    """Refuse ages of inputs that do not begin with 0 and rise.

    Raises:
        ValueError: says what was given.
    """
    rising = all(a < b < math.inf for a, b in itertools.pairwise(lags_s))
    if not lags_s or lags_s[0] != 0.0 or not rising:
        raise ValueError(f"lags must begin with 0 and rise, such as 0, 0.01, 0.02 s, got {list(lags_s)}")


def lag_steps(lags_s: tuple[float, ...], dt_s: float, unit: str) -> list[int]:
    """Return how many time steps old each input is.

    Args:
        lags_s: ages of the inputs, s.
        dt_s: time step, s.
        unit: what has this time step, for the message.

    Raises:
        UsageError: a lag is no whole number of time steps.
    """
    for lag_s in lags_s:
        # measured clocks are not exact
        if abs(lag_s / dt_s - round(lag_s / dt_s)) > 0.02:
            raise UsageError(f"lag {lag_s:g} s is no whole multiple of {unit} of {dt_s:g} s")
    return [round(lag_s / dt_s) for lag_s in lags_s]
