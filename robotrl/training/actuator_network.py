"""Training of an actuator network on logs of real joints (Hwangbo et al. 2019, arXiv:1901.08652)."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from robotrl.core.errors import RobotrlError, UsageError
from robotrl.sim.actuator_network import ActuatorNetwork, check_lags, lag_steps
from robotrl.training.actuator_log import ActuatorLog, read_log

_HIDDEN = (32, 32, 32)
_VALIDATION_SHARE = 0.2
_MIN_ROWS = 100
_BATCH_SIZE = 512
_LEARNING_RATE = 5e-3


@dataclass(frozen=True)
class ActuatorFit:
    """How well a network and the best PD law, torque = kp error - kd velocity, tell the validation rows.

    Args:
        num_rows: training rows.
        num_validation_rows: validation rows.
        torque_std_nm: standard deviation of the validation torque, N m.
        rmse_nm: root-mean-square error of the network, N m.
        pd_rmse_nm: that of the PD law, N m.
        pd_kp: its position gain, N m/rad.
        pd_kd: its velocity gain, N m s/rad.
    """

    num_rows: int
    num_validation_rows: int
    torque_std_nm: float
    rmse_nm: float
    pd_rmse_nm: float
    pd_kp: float
    pd_kd: float


def train_actuator_network(
    paths: Sequence[Path],
    out: Path,
    replace: bool = False,
    lags_s: tuple[float, ...] = (0.0, 0.01, 0.02),
    num_updates: int = 5000,
    seed: int = 0,
) -> ActuatorFit:
    """Train a network on the pooled logs in `paths` and write it to `out`.

    Args:
        paths: CSV files, see `read_log`.
        out: file to write.
        replace: whether a file that is there may be replaced.
        lags_s: see `ActuatorNetwork`.
        num_updates: gradient steps, each on 512 rows.
        seed: of the weights and of the order of rows.

    Raises:
        UsageError: a log or an option is wrong, or `out` exists.
    """
    if out.exists() and not replace:
        raise UsageError(f"{out} exists: give another name, or --force to replace it")
    if not out.parent.is_dir():
        raise UsageError(f"folder {out.parent} of {out.name} does not exist: create it")
    if num_updates < 1:
        raise UsageError(f"the number of updates must be at least 1, got {num_updates}")
    network, fit = fit_actuator_network([read_log(path) for path in paths], lags_s, num_updates, seed)
    network.save(out)
    return fit


def fit_actuator_network(
    logs: Sequence[ActuatorLog], lags_s: tuple[float, ...], num_updates: int, seed: int
) -> tuple[ActuatorNetwork, ActuatorFit]:
    """Train on the first 80 % of each log and measure the error on the rest.

    Adam (Kingma & Ba 2015, arXiv:1412.6980) on the squared error, the step size falling to zero along a
    cosine. Nothing is chosen by the validation rows.

    Raises:
        UsageError: a log does not fit the lags, is too short, or holds no motion.
    """
    try:
        check_lags(lags_s)
    except ValueError as error:
        raise UsageError(str(error)) from error
    splits = [_split(log, lags_s) for log in logs]
    inputs, torque, held_inputs, held_torque = (np.concatenate(part) for part in zip(*splits, strict=True))
    for still, values in (("position error or velocity", inputs), ("torque", torque)):
        if np.any(values.max(0) == values.min(0)):
            raise UsageError(f"the {still} never changes in the logs: log a joint that moves under load")
    mean, std, scale_nm = inputs.mean(0), inputs.std(0), float(torque.std())
    rows = torch.from_numpy(((inputs - mean) / std).astype(np.float32))
    model = _train(rows, torch.from_numpy((torque / scale_nm).astype(np.float32)), num_updates, seed)
    network = ActuatorNetwork(
        layers=tuple(
            (layer.weight.detach().t().contiguous(), layer.bias.detach())
            for layer in model
            if isinstance(layer, nn.Linear)
        ),
        input_mean=torch.from_numpy(mean.astype(np.float32)),
        input_std=torch.from_numpy(std.astype(np.float32)),
        lags_s=lags_s,
        torque_scale_nm=scale_nm,
        torque_limit_nm=float(max(np.abs(torque).max(), np.abs(held_torque).max())),
        validation_rmse_nm=math.nan,
    )
    told = network.torque(torch.from_numpy(held_inputs)).clamp(
        -network.torque_limit_nm, network.torque_limit_nm
    )
    rmse_nm = _rms(told.numpy() - held_torque)
    if not math.isfinite(rmse_nm):
        raise RobotrlError("training diverged: are the columns of the logs in rad, rad/s and N m?")
    law = [0, len(lags_s)]  # the present error and velocity
    (kp, minus_kd), *_ = np.linalg.lstsq(inputs[:, law], torque, rcond=None)
    fit = ActuatorFit(
        num_rows=len(torque),
        num_validation_rows=len(held_torque),
        torque_std_nm=float(held_torque.std()),
        rmse_nm=rmse_nm,
        pd_rmse_nm=_rms(held_inputs[:, law] @ (kp, minus_kd) - held_torque),
        pd_kp=float(kp),
        pd_kd=-float(minus_kd),
    )
    return dataclasses.replace(network, validation_rmse_nm=rmse_nm), fit


def _split(log: ActuatorLog, lags_s: tuple[float, ...]) -> tuple[np.ndarray, ...]:
    """Return training inputs and torques, validation inputs and torques; the last block of time validates."""
    steps = lag_steps(lags_s, log.dt_s, f"the time step of log {log.path},")
    first, end = steps[-1], len(log.torque)
    if end - first < _MIN_ROWS:
        raise UsageError(
            f"log {log.path} has {end} rows, it needs at least {first + _MIN_ROWS} for lags up to "
            f"{lags_s[-1]:g} s"
        )
    signals = (log.error, log.velocity)
    inputs = np.stack([values[first - lag : end - lag] for values in signals for lag in steps], axis=1)
    torque = log.torque[first:]
    border = round((1.0 - _VALIDATION_SHARE) * len(torque))
    return inputs[:border], torque[:border], inputs[border:], torque[border:]


def _train(inputs: Tensor, targets: Tensor, num_updates: int, seed: int) -> nn.Sequential:
    """Return the network that maps (M, 2 L) normalised inputs to (M, 1) normalised torques."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = (inputs.shape[1], *_HIDDEN)
        layers: list[nn.Module] = []
        for fan_in, fan_out in itertools.pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.Softsign()]
        model = nn.Sequential(*layers, nn.Linear(sizes[-1], 1))
        adam = torch.optim.Adam(model.parameters(), lr=_LEARNING_RATE, fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, num_updates)
        for _ in track(range(num_updates), "actuator network", console=Console(stderr=True)):
            chosen = torch.randint(len(inputs), (_BATCH_SIZE,))
            loss = (model(inputs[chosen]).squeeze(1) - targets[chosen]).square().mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
            schedule.step()
    return model


def _rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error))))
