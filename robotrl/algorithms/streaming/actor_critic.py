r"""Stream AC(lambda): an actor and a critic that learn from every transition once (arXiv:2410.14606).

    delta = r + gamma V(s') - V(s),              V(s') = 0 where the episode terminated
    critic:  g = grad V(s)
    actor:   g = grad [log pi(a|s) + tau sign(delta) H(pi(.|s))]

Both gradients enter eligibility traces z <- gamma lambda z + g, along which a step-size rule (see
`rules`) moves the parameters by a multiple of delta. V(s) and V(s') are those of the parameters before
the step; s keeps the normalisation it had when it was first seen. Traces are cleared after the step
that ends an episode.

Differences from the released code: an episode that the time limit cuts bootstraps from its true last
observation, instead of an end that the time input announces; the policy's standard deviation has a floor;
the Intentional rule moves a categorical policy's logits by eta delta instead of log pi, see
`rules.intentional`: as released, every seed of CartPole-v1 ended with one action for all states; see
`network`, `normalization` and `config.Preset` for the rest. `preset=reference` is as released, but for the
unit of actions: ours is the actuators' half range, which for Humanoid-v5 is 0.4 of the released code's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
import numpy.typing as npt

from robotrl.algorithms.streaming import actor_critic_kernel
from robotrl.algorithms.streaming.compiled import Doubles, Reals
from robotrl.algorithms.streaming.config import Preset, StreamACConfig, StreamConfig
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.inputs import require_whole
from robotrl.algorithms.streaming.learner import StreamLearner
from robotrl.algorithms.streaming.rules.codes import INTENTIONAL_LOGITS, Rule
from robotrl.algorithms.streaming.setup import Network, Sweep
from robotrl.algorithms.streaming.state import LOG_STD_HIGH, LOG_STD_LOW, OBS_CLIP, STD_FLOOR
from robotrl.algorithms.streaming.units import Unit
from robotrl.core.errors import UsageError

GAUSSIAN = [Head.SOFTPLUS, Head.CONSTANT, Head.SQUASHED, Head.SQUASHED_SOFTPLUS]


class Actor(NamedTuple):
    """What a policy is made of.

    Attributes:
        hidden: widths of the hidden layers.
        head: what the outputs mean.
        unit: of the hidden layers.
        log_std_bounds: between which log sigma is cut where it is exponential.
        obs_clip: at which normalised observations are cut.
    """

    hidden: Sequence[int]
    head: Head
    unit: Unit = Unit.LAYER_NORM
    log_std_bounds: tuple[float, float] = (-math.inf, math.inf)
    obs_clip: float = math.inf


def set_actor(hyper: Doubles, actor: Actor) -> None:
    """Write what an actor fixes into the hyperparameters of N streams, (N, H + K)."""
    hyper[:, [LOG_STD_LOW, LOG_STD_HIGH]] = actor.log_std_bounds
    hyper[:, OBS_CLIP] = actor.obs_clip
    if actor.head is Head.SQUASHED:  # its lower bound is floor enough
        hyper[:, STD_FLOOR] = 0.0


def check_head(learner: str, actor: Actor, heads: Sequence[Head]) -> None:
    """Refuse an actor whose outputs mean something else than a learner reads.

    Raises:
        UsageError: its head is none of `heads`.
    """
    if actor.head not in heads:
        names = " or ".join(head.value for head in heads)
        raise UsageError(f"{learner} needs an actor that is {names}, got {actor.head.value}")


class StreamAC(StreamLearner):
    """Stream AC(lambda) for N streams, with Gaussian or categorical actions.

    Args:
        obs_dim: D.
        action_dim: A, numbers of a continuous action or choices of a discrete one.
        num_streams: N.
        config: hyperparameters.
        seed: of weights and draws.
        discrete: whether actions are indices in 0 .. A - 1; `act` then returns (N, 1), and the Intentional
            rule is that of logits.
        sweep: hyperparameters that differ between streams.
        num_threads: CPU threads; all CPUs of the process by default.
        dtype: of networks and traces, float32 or float64.
        actor: what the policy is made of, instead of `config.hidden` with a softplus deviation.

    Raises:
        UsageError: `config.rule` or `actor` is for Gaussian policies, and the actions are discrete, or the
            other way round.
    """

    config_class: ClassVar[type[StreamConfig]] = StreamACConfig

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
        actor: Actor | None = None,
    ) -> None:
        require_whole("action_dim", action_dim, 1)
        config = self.checked(config or StreamACConfig())
        actor = actor or Actor(list(config.hidden), Head.CATEGORICAL if discrete else Head.SOFTPLUS)
        check_head(f"StreamAC with discrete={discrete}", actor, [Head.CATEGORICAL] if discrete else GAUSSIAN)
        outputs = action_dim if discrete else 2 * action_dim
        constants = action_dim if actor.head is Head.CONSTANT else 0
        networks = [
            Network("actor", actor.hidden, outputs, config.rule, actor.unit, constants),
            Network("critic", config.hidden, 1, config.rule, config.critic_unit),
        ]
        width = 1 if discrete else action_dim
        super().__init__(
            networks, obs_dim, width, actor.head, num_streams, config, seed, sweep, num_threads, dtype
        )
        if discrete and config.rule is Rule.INTENTIONAL and config.preset is Preset.DEFAULT:
            self._layout.rules[0] = INTENTIONAL_LOGITS
        self.action_dim, self.discrete, self.actor = action_dim, discrete, actor
        set_actor(self._hyper, actor)

    @property
    def _advance(self) -> Callable[..., None]:
        return actor_critic_kernel.advance

    def command(self) -> Doubles:
        """Return what the actuators receive of the continuous actions, (N, A) in [-1, 1].

        Raises:
            UsageError: actions are discrete, not finite as the networks diverged, or there are none before
                `start`.
        """
        if self.discrete:
            raise UsageError(
                "actions are indices, of which `act` returns one per stream: there is no command"
            )
        return self._within_limits(self._finite_action())

    def deterministic_action(self, obs: npt.ArrayLike) -> Reals:
        """Return the actions without noise for raw observations (N, D); nothing is learned.

        Returns:
            What the actuators receive of the mean, (N, A) in [-1, 1], or the likeliest index, (N, 1).
        """
        outputs = self.outputs("actor", obs)
        if self.discrete:
            return outputs.argmax(1)[:, None]
        return self._within_limits(outputs[:, : self.action_dim])

    def _within_limits(self, action: Reals) -> Reals:
        if self.actor.head.is_squashed:
            return np.tanh(action)
        # np.clip costs several times as much on so few numbers
        return np.minimum(np.maximum(action, -1.0), 1.0)

    def values(self, obs: npt.ArrayLike) -> Doubles:
        """Return V(s) in units of the raw reward, (N,), for raw observations (N, D)."""
        return self.outputs("critic", obs)[:, 0] * self.reward_scale()
