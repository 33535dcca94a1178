"""Nonlinear least squares of a model's unknown numbers to recordings, with `mujoco.sysid`.

Found together with the state in which each recording starts, which was measured with noise. Residuals are
weighted by the noise that the fit itself leaves on each signal (feasible generalised least squares; Judge et
al. 1985, chapter 5). Intervals are those of the linearised model at the optimum; where neighbouring residuals
are alike, as they are where the model lacks something, they count as (1 - r) / (1 + r) independent ones, r
their correlation (Bayley and Hammersley 1946).
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from robotrl.core.errors import UsageError
from robotrl.training.sysid.prediction import Predictor

# pieces of the logs that a first fit starts from measured states: over a whole log, predictions of a wrong
# model are so far from what was measured that no direction leads there
_PIECE_S = 0.5
# fits with weights from the residuals of the one before, the first with those of the signals' spread
_ROUNDS = 2
# relative change of the numbers that ends a fit, and the factor between two dampings of its steps
_TOLERANCE = 1e-7
_DAMPING_FACTOR = 3.0
# of a range: finite differences, and how far from its ends the search starts
_STEP = 1e-5
_INSIDE = 0.05
# singular values below this share of the largest are what rounding leaves of none
_RANK = 1e-9
# a number is unknown if it makes up at least this share of a direction that the logs say nothing about
_SHARE = 1e-3
# of a signal's spread
_LEAST_NOISE = 1e-6


@dataclass(frozen=True)
class Fit:
    """What came out.

    Args:
        values: (P,) estimates.
        half_widths: (P,) of the 95 % intervals; infinite where the logs say nothing.
        covariance: (P, P) of the estimates.
        before: per recording, (T, C) predictions of the nominal model.
        after: per recording, (T, C) predictions of the fitted model.
        nominal: `mujoco.sysid` parameters before the fit.
        fitted: and after it.
    """

    values: np.ndarray
    half_widths: np.ndarray
    covariance: np.ndarray
    before: list[np.ndarray]
    after: list[np.ndarray]
    nominal: Any
    fitted: Any

    @property
    def correlation(self) -> np.ndarray:
        """(P, P) correlation of the estimates' errors."""
        spread = np.sqrt(np.diag(self.covariance))
        correlation: np.ndarray = self.covariance / np.outer(spread, spread)
        return correlation


def toolbox() -> Any:
    """Return `mujoco.sysid`.

    Raises:
        UsageError: the packages it needs are missing; without them it imports as an empty module.
    """
    from mujoco import sysid

    if not hasattr(sysid, "optimize"):
        raise UsageError("robotrl sysid needs further packages: pip install 'robotrl[sysid]'")
    return sysid


def fit(predictor: Predictor) -> Fit:
    """Find the numbers that predict the recordings best.

    Raises:
        UsageError: the packages of `mujoco.sysid` are missing, or there is less measured than unknown.
    """
    sysid = toolbox()
    pieces = _Problem(predictor.in_pieces(_PIECE_S), fit_starts=False)
    rough = _optimize(sysid, pieces, pieces.parameters(sysid))
    problem = _Problem(predictor)
    nominal = problem.parameters(sysid)
    before = problem.predictions(nominal.as_vector())
    fitted = nominal.copy()
    for name in rough.keys():  # noqa: SIM118  it is no dictionary
        fitted[name].update_from_vector(rough[name].as_vector())
    for _ in range(_ROUNDS):
        fitted = _optimize(sysid, problem, fitted)
        factors = problem.reweigh(fitted.as_vector())
    x = fitted.as_vector()
    covariance, half_widths = _intervals(problem, x, factors)
    count = len(predictor.unknowns)
    return Fit(
        x[:count],
        half_widths[:count],
        covariance[:count, :count],
        before,
        problem.predictions(x),
        nominal,
        fitted,
    )


def _optimize(sysid: Any, problem: _Problem, start: Any) -> Any:
    """Return the `ParameterDict` of the least weighted residuals that is reached from `start`."""
    fitted, _ = sysid.optimize(
        start.copy().move_off_bounds(fraction=_INSIDE),
        lambda x, _: ([problem.residual(x)], [], []),
        verbose=False,
        output=io.StringIO(),  # or it would print every step
        jacobian=problem.jacobian,
        x_scale=problem.upper - problem.lower,
        xtol=_TOLERANCE,
        mu_factor=_DAMPING_FACTOR,
    )
    return fitted


class _Problem:
    """Residuals of all recordings, one below the other, and their derivatives.

    Args:
        predictor: of the recordings.
        fit_starts: whether the states in which recordings start are unknown too, or are as measured.
    """

    def __init__(self, predictor: Predictor, fit_starts: bool = True) -> None:
        self._predictor, self._fit_starts = predictor, fit_starts
        self._count = len(predictor.unknowns)
        recordings = predictor.recordings
        names = [[signal.name for signal in recording.signals] for recording in recordings]
        self._names = sorted({name for each in names for name in each})
        self._columns = [np.array([self._names.index(name) for name in each]) for each in names]
        self._all = range(len(self._names))
        self._known = [np.isfinite(recording.measured) for recording in recordings]
        self.starts = [recording.start for recording in recordings]
        self._spread = np.array(
            [_deviation(self._of([r.measured for r in recordings], i)) for i in self._all]
        )
        self._weights = 1.0 / self._spread
        room = [np.maximum(np.ptp(start), 1.0) for start in self.starts]
        low = [start - wide for start, wide in zip(self.starts, room, strict=True)]
        high = [start + wide for start, wide in zip(self.starts, room, strict=True)]
        ranges = np.array([unknown.entry.range for unknown in predictor.unknowns])
        self.lower = np.concatenate([ranges[:, 0], *(low if fit_starts else [])])
        self.upper = np.concatenate([ranges[:, 1], *(high if fit_starts else [])])
        rows = sum(int(known.sum()) for known in self._known)
        if rows <= len(self.lower):
            raise UsageError(
                f"the logs hold {rows} readings for {len(self.lower)} unknown numbers: log longer"
            )

    def parameters(self, sysid: Any) -> Any:
        """Return the `ParameterDict` of unknowns and starts, at their nominal values."""
        parameters = sysid.ParameterDict()
        for unknown in self._predictor.unknowns:
            parameters.add(sysid.Parameter(unknown.name, unknown.nominal, *unknown.entry.range))
        for i, start in enumerate(self.starts if self._fit_starts else []):
            at = self._start(i)
            name = f"start of recording {i + 1}"
            parameters.add(sysid.Parameter(name, start, self.lower[at], self.upper[at]))
        return parameters

    def _start(self, index: int) -> slice:
        """Where the start of a recording lies in x."""
        begin = self._count + sum(len(start) for start in self.starts[:index])
        return slice(begin, begin + len(self.starts[index]))

    def _places(self, index: int) -> np.ndarray:
        """Where in x lies what a recording depends on."""
        if not self._fit_starts:
            return np.arange(self._count)
        return np.append(np.arange(self._count), np.arange(*self._start(index).indices(len(self.lower))))

    def _inputs(self, index: int, x: np.ndarray) -> np.ndarray:
        """(P + 2 nq,) what a recording depends on, of (size,) values."""
        found = x[self._places(index)]
        return found if self._fit_starts else np.concatenate([found, self.starts[index]])

    def predictions(self, x: np.ndarray) -> list[np.ndarray]:
        """Return each recording's (T, C) predictions."""
        return [
            self._predictor(i, self._inputs(i, x)[None])[0] for i in range(len(self._predictor.recordings))
        ]

    def residual(self, x: np.ndarray) -> np.ndarray:
        """(rows, 1) weighted differences from what was measured."""
        flat = x.reshape(-1)
        parts = [
            ((prediction - recording.measured) * self._weights[columns])[known]
            for prediction, recording, columns, known in zip(
                self.predictions(flat), self._predictor.recordings, self._columns, self._known, strict=True
            )
        ]
        return np.concatenate(parts)[:, None]

    def jacobian(self, x: np.ndarray, residual: np.ndarray, whole_steps: bool = False) -> np.ndarray:
        """(rows, size) derivatives of the residual, by differences that stay inside the bounds.

        Args:
            x: (size, 1) or (size,) where.
            residual: (rows, 1) there.
            whole_steps: differ delays by a physics step: between whole steps the residual has ripples, which
                say nothing about the robot.
        """
        flat = x.reshape(-1)
        steps = _STEP * (self.upper - self.lower)
        if whole_steps:
            delays = np.flatnonzero([unknown.is_delay for unknown in self._predictor.unknowns])
            steps[delays] = np.minimum(
                self._predictor.model.opt.timestep, (self.upper - self.lower)[delays] / 2
            )
        steps *= np.where(flat > (self.lower + self.upper) / 2, -1.0, 1.0)
        jacobian = np.zeros((len(residual), len(flat)))
        row = 0
        for i, (known, columns) in enumerate(zip(self._known, self._columns, strict=True)):
            places = self._places(i)
            moved = np.repeat(self._inputs(i, flat)[None], 1 + len(places), axis=0)
            moved[1:, : len(places)] += np.diag(steps[places])
            predictions = self._predictor(i, moved)
            slopes = (predictions[1:] - predictions[0]) / steps[places, None, None] * self._weights[columns]
            block = slice(row, row + int(known.sum()))
            jacobian[block, places] = slopes[:, known].T
            row = block.stop
        return jacobian

    def reweigh(self, x: np.ndarray) -> np.ndarray:
        """Weigh each signal by the residual that is left of it.

        Returns:
            (rows,) how much noisier a residual counts because its neighbours are like it.
        """
        left = [
            prediction - recording.measured
            for prediction, recording in zip(self.predictions(x), self._predictor.recordings, strict=True)
        ]
        columns = [self._of(left, i) for i in self._all]
        noise = np.array([_root_mean_square(each) for each in columns])
        # a log without noise must not leave the fit to a single signal
        self._weights = 1.0 / np.maximum(noise, _LEAST_NOISE * self._spread)
        alike = np.array([_autocorrelation(each) for each in columns])
        factors = np.sqrt((1.0 + alike) / (1.0 - alike))
        return np.concatenate(
            [
                np.broadcast_to(factors[names], known.shape)[known]
                for names, known in zip(self._columns, self._known, strict=True)
            ]
        )

    def _of(self, tables: list[np.ndarray], index: int) -> list[np.ndarray]:
        """Return a signal's column of each recording that has it."""
        return [
            table[:, list(columns).index(index)]
            for table, columns in zip(tables, self._columns, strict=True)
            if index in columns
        ]


def _intervals(problem: _Problem, x: np.ndarray, factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the (size, size) covariance of the estimates and the (size,) half-widths of 95 % intervals."""
    from scipy.special import stdtrit

    residual = problem.residual(x)
    ranges = problem.upper - problem.lower
    jacobian = problem.jacobian(x, residual, whole_steps=True) * ranges / factors[:, None]
    freedom = len(residual) - len(x)
    variance = float((residual**2).sum()) / freedom
    # from the singular values: squaring the Jacobian would lose half the digits
    _, singular, axes = np.linalg.svd(jacobian, full_matrices=False)
    known = singular > _RANK * singular[0]
    inverse = 1.0 / np.where(known, singular, _RANK * singular[0])
    covariance = variance * (axes.T * inverse**2) @ axes * np.outer(ranges, ranges)
    half_widths = stdtrit(freedom, 0.975) * np.sqrt(np.diag(covariance))
    unknown = (np.abs(axes[~known]) > _SHARE).any(axis=0)
    return covariance, np.where(unknown, np.inf, half_widths)


def _deviation(columns: list[np.ndarray]) -> float:
    """Standard deviation of a signal's readings, 1 where they are all the same or none."""
    readings = np.concatenate(columns)
    readings = readings[np.isfinite(readings)]
    return float(readings.std()) or 1.0 if len(readings) else 1.0


def _root_mean_square(columns: list[np.ndarray]) -> float:
    values = np.concatenate(columns)
    values = values[np.isfinite(values)]
    return float(np.sqrt((values**2).mean())) if len(values) else 0.0


def _autocorrelation(columns: list[np.ndarray]) -> float:
    """Correlation, at least 0, of neighbouring values in rows that have both."""
    pairs = np.concatenate([np.stack([column[:-1], column[1:]]) for column in columns], axis=1)
    pairs = pairs[:, np.isfinite(pairs).all(axis=0)]
    power = float((pairs**2).mean()) if pairs.size else 0.0
    return min(max(float((pairs[0] * pairs[1]).mean()) / power, 0.0), 0.999) if power > 0.0 else 0.0
