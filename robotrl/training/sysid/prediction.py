"""What a model would have measured in a recording, for many values of its unknown numbers at once.

Delays stay outside the physics, so that they are exact and the predictions smooth in them. With MuJoCo's own
buffers an unknown delay could not be found where they are read by zero-order hold (predictions would be
constant between whole steps), and none would be shorter than a step. A command that changes within a physics
step counts by its share of the step, which is what `interpolation: linear` makes of a delay.

Time stamps: the state at a time is what the physics reached there; the engine's sensors after a step are
those of the time before it, and are taken as such. Measured values a step early would shorten delays by it.
"""

from __future__ import annotations

import copy
import itertools
import math
import os
from collections.abc import Mapping

import mujoco
import mujoco.rollout
import numpy as np

from robotrl.core.errors import UsageError
from robotrl.training.sysid.log import Log
from robotrl.training.sysid.parameters import Unknown, with_values
from robotrl.training.sysid.signals import Signal, signals_of, start_of

# numbers of a rollout that are held in memory at a time
_MOST_NUMBERS = 20_000_000
_MOST_MODELS = 64


class Predictor:
    """Simulates recordings with a model whose unknown numbers and start states are given.

    A simulation starts at the first row whose commands have all been logged for the longest delay; rows
    before it only tell which commands were still on their way.

    Args:
        spec: of the model; the delays in it are where the unknown ones start and stay for the others.
        logs: recordings.
        unknowns: P numbers to be found.

    Raises:
        UsageError: model and logs do not fit, or a log is too short.
    """

    def __init__(self, spec: mujoco.MjSpec, logs: list[Log], unknowns: list[Unknown]) -> None:
        self.unknowns = unknowns
        delayed = spec.compile()
        self.delays_s = {
            "actuator_delay": np.array(delayed.actuator_delay),
            "sensor_delay": np.array(delayed.sensor_delay),
        }
        self.model = _without_delays(spec)
        longest = {field: values.copy() for field, values in self.delays_s.items()}
        for unknown in unknowns:
            if unknown.is_delay:
                longest[unknown.entry.field][list(unknown.rows)] = unknown.entry.range[1]
        self._longest_s = longest
        self.recordings = [Recording(self.model, log, longest) for log in logs]
        self.num_threads = len(os.sched_getaffinity(0))
        self._models: dict[bytes, mujoco.MjModel] = {}
        self._datas = [mujoco.MjData(self.model) for _ in range(self.num_threads)]

    def in_pieces(self, length_s: float) -> Predictor:
        """Return a predictor of the same logs cut into pieces, each with a start of its own.

        Args:
            length_s: of a piece, s; pieces are not shorter than the longest delay of a sensor.
        """
        shortest_s = float(np.max(self._longest_s["sensor_delay"], initial=0.0))
        cut = copy.copy(self)
        cut.recordings = []
        for whole in self.recordings:
            count = max(1, int(whole.duration_s / (length_s + shortest_s)))
            edges = np.linspace(whole.first, len(whole.log.time_s), count + 1).astype(int)
            cut.recordings += [
                Recording(self.model, whole.log, self._longest_s, slice(*ends))
                for ends in itertools.pairwise(edges.tolist())
                if ends[1] - ends[0] > 1
            ]
        return cut

    def __call__(self, index: int, x: np.ndarray) -> np.ndarray:
        """Predict what was measured in a recording.

        Args:
            index: of the recording.
            x: (n, P + 2 nq) values of the unknowns, then positions and velocities at the start.

        Returns:
            (n, T, C) predictions of the recording's `measured`.
        """
        recording = self.recordings[index]
        size = recording.num_steps * (2 + self.model.nq + self.model.nv + self.model.nsensordata)
        most = max(1, _MOST_NUMBERS // size)
        return np.concatenate([self._predict(recording, x[i : i + most]) for i in range(0, len(x), most)])

    def _predict(self, recording: Recording, x: np.ndarray) -> np.ndarray:
        model, count = self.model, len(self.unknowns)
        delays = [self._delays(row[:count]) for row in x]
        control = np.stack([recording.commands(delay["actuator_delay"]) for delay in delays])
        start = np.zeros((len(x), 1 + model.nq + model.nv + model.na))
        start[:, 1 : 1 + model.nq + model.nv] = x[:, count:]
        for i in np.flatnonzero(model.actuator_actnum):
            start[:, 1 + model.nq + model.nv + model.actuator_actadr[i]] = control[:, 0, i]
        models = [self._model(row[:count]) for row in x]
        states, sensors = mujoco.rollout.rollout(models, self._datas, start, control)
        # states are those after each step, sensors those before it
        states = np.concatenate([start[:, None], states[:, :-1]], axis=1)
        shown = np.concatenate([states[:, :, 1 : 1 + model.nq + model.nv], sensors], axis=2)
        sensor_delays_s = np.stack([delay["sensor_delay"] for delay in delays])
        return recording.read(shown, sensor_delays_s)

    def _model(self, values: np.ndarray) -> mujoco.MjModel:
        """Return the model of values, which several recordings in a row ask for."""
        if len(self._models) > _MOST_MODELS:
            self._models.clear()
        key = values.tobytes()
        if key not in self._models:
            self._models[key] = with_values(self.model, self.unknowns, values)
        return self._models[key]

    def _delays(self, values: np.ndarray) -> dict[str, np.ndarray]:
        delays_s = {field: held.copy() for field, held in self.delays_s.items()}
        for unknown, value in zip(self.unknowns, values, strict=True):
            if unknown.is_delay:
                delays_s[unknown.entry.field][list(unknown.rows)] = value
        return delays_s


class Recording:
    """A log on the physics' grid of time.

    Args:
        model: without delays.
        log: what was recorded.
        longest_s: "actuator_delay" and "sensor_delay" -> longest delay of each, s.
        rows: of the log that are simulated; None for all whose delayed commands are in the log.

    Attributes:
        first: row where the simulation starts.
        measured: (T, C) readings at `time_s`, NaN where there is none.
        signals: what the C columns are.
        start: (2 nq,) guess of the positions and velocities where the simulation starts.
        num_steps: physics steps that are simulated.
    """

    def __init__(
        self,
        model: mujoco.MjModel,
        log: Log,
        longest_s: Mapping[str, np.ndarray],
        rows: slice | None = None,
    ) -> None:
        self.log, self._dt_s = log, float(model.opt.timestep)
        self.signals: list[Signal] = signals_of(model, log)
        rows = self._all_rows(longest_s["actuator_delay"]) if rows is None else rows
        self.first = int(rows.start)
        self.time_s = log.time_s[rows]
        self._start_s = float(self.time_s[0])
        self.duration_s = float(self.time_s[-1]) - self._start_s
        self.num_steps = math.ceil(self.duration_s / self._dt_s + 1e-6) + 1
        self.start = start_of(model, log, self.signals, self.first)
        self.measured = np.stack([log.signals[signal.name][rows] for signal in self.signals], axis=1)
        for column, signal in enumerate(self.signals):
            # a reading older than the start of the simulation has nothing to be compared with
            oldest_s = longest_s["sensor_delay"][signal.sensor] if signal.sensor >= 0 else 0.0
            self.measured[self.time_s - oldest_s < self._start_s - 1e-9, column] = np.nan
        # integral of the held commands, for their mean over each physics step
        values = np.stack([log.commands[model.actuator(i).name] for i in range(model.nu)], axis=1)
        held_s = np.diff(log.time_s, append=log.time_s[-1] + 1.0)
        self._edges_s = np.append(log.time_s, log.time_s[-1] + 1.0)
        self._integral = np.concatenate(
            [np.zeros((1, model.nu)), np.cumsum(values * held_s[:, None], axis=0)]
        )

    def _all_rows(self, longest_s: np.ndarray) -> slice:
        """Return the rows at which all commands that may still be on their way are in the log."""
        time_s, wait_s = self.log.time_s, float(np.max(longest_s, initial=0.0))
        first = int(np.searchsorted(time_s, time_s[0] + wait_s - 1e-9))
        if first > len(time_s) - 2:
            raise UsageError(
                f"log {self.log.path} lasts {time_s[-1] - time_s[0]:g} s, no longer than the longest delay "
                f"of {wait_s:g} s"
            )
        return slice(first, len(time_s))

    def commands(self, delays_s: np.ndarray) -> np.ndarray:
        """(num_steps, nu) commands in force in each physics step; (nu,) `delays_s` after they were given."""
        grid_s = self._start_s + self._dt_s * np.arange(self.num_steps + 1)
        columns = [
            np.diff(np.interp(grid_s - delay_s, self._edges_s, integral)) / self._dt_s
            for delay_s, integral in zip(delays_s, self._integral.T, strict=True)
        ]
        return np.stack(columns, axis=1)

    def read(self, shown: np.ndarray, delays_s: np.ndarray) -> np.ndarray:
        """Read what was shown at the times of the log.

        Args:
            shown: (n, num_steps, nq + nv + nsensordata) at the start of each physics step.
            delays_s: (n, nsensor) age of the sensors' readings.

        Returns:
            (n, T, C).
        """
        readings = np.empty((len(shown), *self.measured.shape))
        for i, signal in enumerate(self.signals):
            for k, values in enumerate(shown):
                delay_s = delays_s[k, signal.sensor] if signal.sensor >= 0 else 0.0
                place = (self.time_s - delay_s - self._start_s) / self._dt_s
                readings[k, :, i] = np.interp(place, np.arange(self.num_steps), values[:, signal.column])
        return readings


def _without_delays(spec: mujoco.MjSpec) -> mujoco.MjModel:
    """Compile a model whose delays are simulated outside it and whose bodies may take any inertia."""
    plain = spec.copy()
    for element in (*plain.actuators, *plain.sensors):
        element.nsample, element.delay = 0, 0.0
    for sensor in plain.sensors:
        sensor.interval[:] = 0.0
    for body in plain.bodies:
        body.simple = False
    return plain.compile()
