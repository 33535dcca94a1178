from __future__ import annotations
from collections.abc import Callable
import math
import numpy as np
import numpy.typing as npt

from robotrl.algorithms.streaming import action_value_kernel
from robotrl.algorithms.streaming.actor_critic import Actor
from robotrl.algorithms.streaming.compiled import Doubles, Reals
from robotrl.algorithms.streaming.config import StreamDACConfig, StreamSACConfig
from robotrl.algorithms.streaming.heads import Head
from robotrl.algorithms.streaming.learner import StreamLearner
from robotrl.algorithms.streaming.setup import Network, Sweep
from robotrl.algorithms.streaming.state import LOG_STD_HIGH, LOG_STD_LOW, OBS_CLIP, STD_FLOOR


class StreamQAC(StreamLearner):
    def __init__(self, obs_dim, action_dim, num_streams=1, config=None, seed=0, sweep=None, num_threads=None, dtype=np.float32, actor=None):
        config = config or StreamSACConfig()
        if actor is None:
            head = Head.SQUASHED_SOFTPLUS if isinstance(config, StreamSACConfig) else Head.DETERMINISTIC
            actor = Actor(config.hidden, head)
        outputs = action_dim if actor.head is Head.DETERMINISTIC else 2 * action_dim
        networks = [
            Network("actor", actor.hidden, outputs, config.actor_rule, actor.unit),
            Network("critic", config.hidden, 1, config.rule, config.critic_unit, action_inputs=action_dim),
        ]
        super().__init__(networks, obs_dim, action_dim, actor.head, num_streams, config, seed, sweep, num_threads, dtype)
        self.action_dim, self.actor = action_dim, actor
        self._hyper[:, [LOG_STD_LOW, LOG_STD_HIGH]] = actor.log_std_bounds
        self._hyper[:, OBS_CLIP] = actor.obs_clip
        if actor.head is Head.SQUASHED:
            self._hyper[:, STD_FLOOR] = 0.0

    @property
    def _advance(self):
        return action_value_kernel.advance

    def command(self):
        return self.streams.action.copy() if self.actor.head is Head.DETERMINISTIC else np.tanh(self.streams.action)

    def deterministic_action(self, obs):
        return np.tanh(self.outputs("actor", obs)[:, : self.action_dim])
