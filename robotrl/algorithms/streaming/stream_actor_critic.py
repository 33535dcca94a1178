"""Stream AC(lambda) as an algorithm of the training command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robotrl.algorithms.streaming.config import StreamACConfig
from robotrl.algorithms.streaming.streaming_algorithm import StreamingAlgorithm, StreamingOptions
from robotrl.policies.policy import Policy
from robotrl.policies.softplus_gaussian import SoftplusGaussianPolicy


@dataclass
class StreamActorCriticConfig(StreamACConfig, StreamingOptions):
    """Hyperparameters of stream AC(lambda)."""


class StreamActorCritic(StreamingAlgorithm):
    """Trains a Gaussian by stream AC(lambda), see `actor_critic`."""

    name: ClassVar[str] = "stream_ac"
    config_class: ClassVar[type] = StreamActorCriticConfig
    learner_config_class: ClassVar[type[StreamACConfig]] = StreamACConfig
    default_policy: ClassVar[type[Policy]] = SoftplusGaussianPolicy
