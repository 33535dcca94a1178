r"""Stream AC(lambda): an actor and a critic that learn from every transition once (arXiv:2410.14606).

    delta = r + gamma V(s') - V(s),              V(s') = 0 where the episode terminated
    critic:  g = grad V(s)
    actor:   g = grad [log pi(a|s) + tau sign(delta) H(pi(.|s))]

Both gradients enter eligibility traces z <- gamma lambda z + g, along which a step-size rule (see
`rules`) moves the parameters by a multiple of delta. V(s) and V(s') are those of the parameters before
the step; s keeps the normalisation it had when it was first seen. Traces are cleared after the step
that ends an episode.

Differences from the released code (`preset=reference` is as released): an episode that the time limit
cuts bootstraps from its true last observation, instead of an end that the time input announces; the
policy's standard deviation has a floor; see `network`, `normalization` and `config.Preset` for the rest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from robotrl.algorithms.streaming import actor_critic_kernel
from robotrl.algorithms.streaming.compiled import Doubles, Reals
from robotrl.algorithms.streaming.config import StreamACConfig
from robotrl.algorithms.streaming.learner import StreamLearner
from robotrl.algorithms.streaming.rules.codes import Rule
from robotrl.algorithms.streaming.setup import Sweep
from robotrl.algorithms.streaming.state import STD_FLOOR


class StreamAC(StreamLearner):
    """Stream AC(lambda) for N streams, with Gaussian or categorical actions.

    Args:
        obs_dim: D.
        action_dim: A, numbers of a continuous action or choices of a discrete one.
        num_streams: N.
        config: hyperparameters.
        seed: of weights and draws.
        discrete: whether actions are indices in 0 .. A - 1; `act` then returns (N, 1).
        sweep: hyperparameters that differ between streams.
        num_threads: CPU threads; all CPUs of the process by default.
        dtype: of networks and traces, float32 or float64.
    """

    config: StreamACConfig

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        num_streams: int = 1,
        config: StreamACConfig | None = None,
        seed: int = 0,
        discrete: bool = False,
        sweep: Sweep | None = None,
        num_threads: int | None = None,
        dtype: npt.DTypeLike = np.float32,
    ) -> None:
        config = config or StreamACConfig()
        critic_rule = Rule.INTENTIONAL if config.rule.is_intentional else config.rule
        heads = (
            ("actor", action_dim if discrete else 2 * action_dim, config.rule),
            ("critic", 1, critic_rule),
        )
        width = 1 if discrete else action_dim
        super().__init__(
            heads, obs_dim, width, not discrete, num_streams, config, seed, sweep, num_threads, dtype
        )
        self.action_dim, self.discrete = action_dim, discrete

    @property
    def _advance(self) -> Callable[..., None]:
        return actor_critic_kernel.advance

    @property
    def std_floor(self) -> Doubles:
        """What is added to each stream's standard deviations, (N,)."""
        return self._hyper[:, STD_FLOOR]

    def deterministic_action(self, obs: npt.ArrayLike) -> Reals:
        """Return the mean (N, A), or the likeliest index (N, 1), for raw observations (N, D).

        Nothing is learned; means are not cut at the actuators' limits.
        """
        outputs = self.outputs("actor", obs)
        return outputs.argmax(1)[:, None] if self.discrete else outputs[:, : self.action_dim]

    def values(self, obs: npt.ArrayLike) -> Doubles:
        """Return V(s) in units of the raw reward, (N,), for raw observations (N, D)."""
        return self.outputs("critic", obs)[:, 0] * self.reward_scale()
