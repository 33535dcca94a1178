r"""Stream TD(lambda): predict a discounted sum from a stream (arXiv:2410.14606).

    delta = c + gamma V(s') - V(s),   g = grad V(s),   z <- gamma lambda z + g

and a step along z by one of `rules`. Any time series is such a stream: `predict_series` learns, while it
reads, the discounted sum of what is to come.

Differences from the released code: those of `normalization` and `config.Preset`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from robotrl.algorithms.streaming import value_kernel
from robotrl.algorithms.streaming.compiled import Doubles
from robotrl.algorithms.streaming.config import StreamConfig, StreamTDConfig
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.inputs import as_numbers, refuse_large
from robotrl.algorithms.streaming.learner import StreamLearner
from robotrl.algorithms.streaming.setup import Network, Sweep
from robotrl.core.errors import UsageError


class StreamTD(StreamLearner):
    """Stream TD(lambda) for N streams; it has no actions.

    Args:
        obs_dim: D.
        num_streams: N.
        config: hyperparameters.
        seed: of weights.
        sweep: hyperparameters that differ between streams.
        num_threads: CPU threads; all CPUs of the process by default.
        dtype: of networks and traces, float32 or float64.
    """

    config_class: ClassVar[type[StreamConfig]] = StreamTDConfig

    config: StreamTDConfig

    def __init__(
        self,
        obs_dim: int,
        num_streams: int = 1,
        config: StreamTDConfig | None = None,
        seed: int = 0,
        sweep: Sweep | None = None,
        num_threads: int | None = None,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        config = self.checked(config or StreamTDConfig())
        networks = [Network("critic", config.hidden, 1, config.rule)]
        super().__init__(
            networks, obs_dim, 1, Head.CATEGORICAL, num_streams, config, seed, sweep, num_threads, dtype
        )

    @property
    def _advance(self) -> Callable[..., None]:
        return value_kernel.advance

    def predictions(self) -> Doubles:
        """Return V of the current states in units of the raw cumulant, (N,)."""
        return self.current_outputs("critic")[:, 0] * self.reward_scale()

    def values(self, obs: npt.ArrayLike) -> Doubles:
        """Return V(s) in units of the raw cumulant, (N,), for raw observations (N, D)."""
        return self.outputs("critic", obs)[:, 0] * self.reward_scale()


def predict_series(
    x: npt.ArrayLike,
    cumulant: npt.ArrayLike,
    config: StreamTDConfig | None = None,
    gamma: npt.ArrayLike | None = None,
    seed: int = 0,
) -> Doubles:
    """Predict sum_k gamma^k cumulant[t + 1 + k] at every t from x[0 .. t], learning on the way.

    Args:
        x: (T, D) what is observed.
        cumulant: (T,) what is summed; cumulant[t] arrives together with x[t].
        config: hyperparameters.
        gamma: (N,) discounts, one prediction each; that of `config` by default.
        seed: of weights.

    Returns:
        (T, N), made before anything after t was read.

    Raises:
        UsageError: the series are of different lengths, or hold what is not finite or beyond 1e15.
    """
    series, sums = as_numbers("x", x).astype(np.float64), as_numbers("cumulant", cumulant).astype(np.float64)
    if series.ndim != 2 or sums.shape != series.shape[:1] or len(series) == 0:
        raise UsageError(
            f"x has shape {series.shape} and cumulant {sums.shape}, expected (T, D) and (T,), T >= 1"
        )
    refuse_large("x", series)
    refuse_large("cumulant", sums)
    config = config or StreamTDConfig()
    gammas = np.atleast_1d(config.gamma if gamma is None else gamma)
    if not gammas.size:
        raise UsageError("gamma is empty, expected a discount for each prediction")
    learner = StreamTD(series.shape[1], len(gammas), config, seed, sweep={"gamma": gammas})
    shape = (len(gammas), series.shape[1])
    learner.start(np.broadcast_to(series[0], shape))
    predictions = np.empty((len(series), len(gammas)))
    predictions[0] = learner.predictions()
    for t in range(1, len(series)):
        learner.update(sums[t], False, False, np.broadcast_to(series[t], shape))
        predictions[t] = learner.predictions()
    return predictions
